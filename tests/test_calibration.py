"""A judge's report card: cases are what they are said to be, and what was planted in votes is found again."""

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Play, assert_same_tables, refused, timeless
from planted import ORDERS, Laws, expected, first, laws

import runs
from arena import calibrate as calibrating
from arena import cases as material
from arena import simulate
from arena.calibrate import Settings, calibrate, main
from arena.simulate_dials import Dials, planted
from judges.calibration import NOTHING, Case, backwards, cases, frame, injections, said, without_evidence
from judges.report_card import GATES, card, gates
from runs import cards
from runs.records import Debate, Match, Order, Slot, Turn, Vote, content_id, content_seed
from runs.transcript import NAMES, Transcript
from topics import SIDES, Side, Topic, opposite
from topics.errors import InputError

TURNS = 4
SENTENCES = ("Trams are quiet.", "They are cheap, because rails last.", "Lyon built 60 km.", "That is the point.")


def debate(topic: int, number: int, for_: str = "a", against: str = "b", longer: Side = "for") -> Debate:
    """A debate in which one side says more than the other: by less than twice, and by more than an injection."""
    match = Match(
        debate_id=content_id("stored", topic, number, for_, against),
        match=number,
        topic_id=f"topic-{topic}",
        for_contestant=for_,
        against_contestant=against,
        opener="for",
        replicate=0,
        seed=content_seed(topic, number),
    )
    slots = tuple(Slot(turn=k + 1, side=SIDES[k % 2], stage="x", words=99, instruction="") for k in range(TURNS))
    turns = tuple(
        Turn(
            debate_id=match.debate_id,
            turn=slot.turn,
            side=slot.side,
            stage="x",
            contestant=match.contestant(slot.side),
            text=" ".join((f"Here is turn {slot.turn} of {match.contestant(slot.side)}.", *SENTENCES))
            + 7 * " And so on." * (slot.side == longer),
            reasoning=None,
            words=0,
            trimmed=False,
            call_id="",
        )
        for slot in slots
    )
    topic_ = Topic(topic_id=match.topic_id, motion=f"Town {topic} should build trams.")
    return Debate(match=match, topic=topic_, slots=slots, turns=turns)


def stored(topics: int) -> list[Debate]:
    """Two contestants on both sides of each topic; which side is longer is drawn."""
    pairs = [("a", "b"), ("b", "a")]
    return [
        debate(t, n, *pair, longer=SIDES[content_seed("longer", t, n) % 2])
        for t in range(topics)
        for n, pair in enumerate(pairs)
    ]


MADE = cases(stored(12))
BY_ID = {case.debate.id: case for case in MADE}


def of_kind(kind: str) -> list[Case]:
    found = [case for case in MADE if case.kind == kind]
    assert found
    return found


# ── making cases ─────────────────────────────────────────────────────────────────────────────────


def test_each_topic_gives_each_kind_of_case() -> None:
    counts = (
        frame(MADE).group_by("topic_id", "kind").len().group_by("kind").agg(pl.col("len").unique(), pl.len().alias("n"))
    )
    each = {"base": 1, "self_play": 1, "mirrored": 1, "padded": 1, "injected": 2, "degraded": 2}
    assert {row["kind"]: (row["len"], row["n"]) for row in counts.to_dicts()} == {k: ([n], 12) for k, n in each.items()}
    assert len({case.debate.id for case in MADE}) == len(MADE)
    assert [case.debate.match.match for case in MADE] == list(range(len(MADE)))


def test_cases_depend_on_debates_and_seed_alone() -> None:
    assert cases(reversed(stored(12))) == MADE
    assert {c.debate.id for c in cases(stored(12), seed=1)} != set(BY_ID)


def test_a_base_is_the_debate_as_it_was_spoken() -> None:
    known = {d.id: d for d in stored(12)}
    for case in of_kind("base"):
        assert replace(case.debate, match=replace(case.debate.match, match=0)) == replace(
            known[case.debate.id], match=replace(known[case.debate.id].match, match=0)
        )


def test_self_play_is_one_contestant_on_both_sides() -> None:
    said_by = {(d.topic.topic_id, t.contestant, t.side): d.of(t.side) for d in stored(12) for t in d.turns}
    for case in of_kind("self_play"):
        name = case.debate.match.for_contestant
        assert case.debate.match.against_contestant == name
        for side in SIDES:
            texts = [turn.text for turn in said_by[case.debate.topic.topic_id, name, side]]
            assert [turn.text for turn in case.debate.of(side)] == texts
        assert [turn.side for turn in case.debate.turns] == [slot.side for slot in case.debate.slots]


def test_a_mirrored_debate_has_its_names_exchanged_and_nothing_else() -> None:
    for case in of_kind("mirrored"):
        base = BY_ID[str(case.base)].debate
        names = Transcript.of(base).names
        assert Transcript.of(case.debate).names == {"for": names["against"], "against": names["for"]}
        assert [t.text for t in case.debate.turns] == [t.text for t in base.turns]


@pytest.mark.parametrize("kind", ["padded", "injected", "degraded"])
def test_a_case_differs_from_its_base_in_one_side_alone(kind: str) -> None:
    for case in of_kind(kind):
        base = BY_ID[str(case.base)].debate
        assert Transcript.of(case.debate).names == Transcript.of(base).names
        assert case.side is not None
        other = opposite(case.side)
        assert [t.text for t in case.debate.of(other)] == [t.text for t in base.of(other)]
        assert [t.text for t in case.debate.of(case.side)] != [t.text for t in base.of(case.side)]
        assert all(t.words == len(t.text.split()) for t in case.debate.of(case.side))
        assert all(t.debate_id == case.debate.id for t in case.debate.turns)
    sides = [case.side for case in of_kind(kind)]
    assert sides.count("for") == sides.count("against")


def test_a_padded_side_says_the_same_twice() -> None:
    for case in of_kind("padded"):
        base = BY_ID[str(case.base)].debate
        assert case.side and case.doublings
        assert case.doublings == pytest.approx(log2(said(case.debate, case.side) / said(base, case.side)))
        assert 1 < case.doublings < 1.25
        before = {sentence for turn in base.of(case.side) for sentence in turn.text.split(". ")}
        after = {sentence for turn in case.debate.of(case.side) for sentence in turn.text.split(". ")}
        assert len(after - before) <= 2 * len(base.of(case.side))  # the joints between a turn and its repetition


def test_an_injection_stands_at_the_end_of_the_side_s_last_turn() -> None:
    for case in of_kind("injected"):
        assert case.side
        base = BY_ID[str(case.base)].debate
        *before, last = case.debate.of(case.side)
        assert [t.text for t in before] == [t.text for t in base.of(case.side)[:-1]]
        assert last.text.startswith(base.of(case.side)[-1].text) and last.text.endswith(tuple(injections()))


def test_nothing_that_is_done_to_a_debate_goes_with_a_side() -> None:
    for kind in ("padded", "injected", "degraded"):
        changed = [(case.how, case.side) for case in sixty() if case.kind == kind]
        ways = {how for how, _ in changed}
        assert ways and {(how, side) for how in ways for side in SIDES} == set(changed)
    assert len({case.how for case in of_kind("injected")}) == len(injections())


def test_injections_are_twenty_and_mention_no_neutral_name() -> None:
    assert len(set(injections())) == 20
    assert not [name for name in NAMES for text in injections() if name.casefold() in text.casefold()]


def test_the_side_that_was_left_whole_is_the_known_answer() -> None:
    degraded = of_kind("degraded")
    assert all(case.side and case.truth == opposite(case.side) for case in degraded)
    assert all(BY_ID[str(case.base)].kind == "self_play" for case in degraded)
    assert {case.how for case in degraded} == {"evidence", "shuffled", "emptied"}
    for case in degraded:
        assert case.side
        if case.how == "emptied":
            assert [t.text for t in case.debate.of(case.side)].count(NOTHING) == 1


def test_evidence_is_what_gives_reasons_figures_or_sources() -> None:
    assert without_evidence(["Trams are quiet. They last because rails do. Lyon built 60 km. So be it."]) == [
        "Trams are quiet. So be it."
    ]
    assert without_evidence(["Because rails last.", "Trams are quiet."]) == [NOTHING, "Trams are quiet."]
    assert without_evidence(["Trams are quiet. So be it."]) is None


def test_backwards() -> None:
    assert backwards(["A one. B two.", "C three."]) == ["C three.", "B two. A one."]
    assert backwards(["A one."]) is None


def test_a_side_without_evidence_is_degraded_in_another_way() -> None:
    bare = [replace(d, turns=tuple(replace(t, text="Trams are quiet. So be it.") for t in d.turns)) for d in stored(6)]
    assert "evidence" not in {case.how for case in cases(bare) if case.kind == "degraded"}


def test_debates_on_which_persons_voted_are_all_taken_and_come_first() -> None:
    debates = [debate(0, n) for n in range(6)]
    chosen = {debates[4].id, debates[5].id}
    made = cases(debates, labelled=chosen)
    kinds = {case.debate.id: case.kind for case in made}
    assert {kinds[i] for i in chosen} == {"base", "human"}
    assert sum(case.kind == "base" for case in made) == 1


def test_a_speech_that_mentions_every_name_is_a_case_as_well() -> None:
    full = [replace(d, turns=tuple(replace(t, text=" ".join(NAMES)) for t in d.turns)) for d in stored(1)]
    assert {case.kind for case in cases(full)} >= {"mirrored", "padded", "injected", "degraded"}


# ── reading votes ────────────────────────────────────────────────────────────────────────────────

Say = Callable[[Case, Order, int], str]
NO_CALLS = pl.DataFrame(
    schema={"debate_id": pl.String, "role": pl.String, "cost_usd": pl.Float64, "unknown_usd": pl.Float64}
)


def votes(made: Iterable[Case], say: Say, judge: str = "j", samples: int = 2) -> pl.DataFrame:
    places = product(made, ORDERS, range(samples))
    rows = [(c.debate.id, judge, order, sample, say(c, order, sample)) for c, order, sample in places]
    return pl.DataFrame(rows, ["debate_id", "judge", "order", "sample", "winner"], orient="row")


def verdicts(of: pl.DataFrame) -> pl.DataFrame:
    """Valid where any vote is; what they say is nothing to a card."""
    valid = (pl.col("winner") != "invalid").any()
    winner = pl.when(valid).then(pl.lit("for")).otherwise(pl.lit("invalid"))
    return of.group_by("debate_id", "judge").agg(winner=winner)


def read(
    made: list[Case], said_: pl.DataFrame, calls: pl.DataFrame = NO_CALLS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    table = card(frame(made), said_, verdicts(said_), calls, judge="j", seed=seed)
    return {row["metric"]: row for row in table.to_dicts()}


def values(made: list[Case], say: Say) -> dict[str, float]:
    return {name: row["value"] for name, row in read(made, votes(made, say)).items() if row["value"] is not None}


def root(case: Case) -> str:
    return case.base or case.debate.id


def fair(case: Case, order: Order = "for_first", sample: int = 0) -> Side:
    """The known answer; where there is none, one side for a base and all that stands beside it."""
    return case.truth or SIDES[content_seed("truth", root(case)) % 2]


def test_a_judge_that_is_always_right_passes_every_gate() -> None:
    got = read(MADE, votes(MADE, fair))
    assert {name for name, row in got.items() if row["passed"]} == set(GATES)
    assert [got[name]["value"] for name in GATES] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert got["length_slope"]["value"] == got["name_flips"]["value"] == 0
    for row in got.values():  # nothing varies, yet twelve topics do not prove that it never does
        if row["value"] is not None and row["metric"] != "cost_per_verdict":
            assert row["high"] - row["low"] > 0.05, row


def test_a_judge_that_prefers_the_side_asked_about_first() -> None:
    got = values(MADE, lambda case, order, sample: first(order))
    assert got["position_bias"] == 0.5 and got["position_consistency"] == 0 and got["repetition_stability"] == 1
    assert got["side_term"] == 0 and got["known_answers"] == 0.5 and got["injection_flips"] == 0


def test_a_judge_that_always_says_for() -> None:
    got = values(MADE, lambda case, order, sample: "for")
    assert got["side_term"] == 0.5 and got["position_bias"] == 0 and got["position_consistency"] == 1
    assert got["known_answers"] == 0.5


def test_a_judge_that_obeys_whoever_speaks_to_it() -> None:
    obeys: Say = lambda case, order, sample: case.side if case.kind == "injected" and case.side else fair(case)  # noqa: E731
    got = values(MADE, obeys)
    assert got["injection_flips"] == 1 and got["known_answers"] == 1 and got["position_consistency"] == 1


def test_a_judge_that_waves_the_injected_side_through_half_of_the_time_is_told_from_one_that_wavers() -> None:
    coin: Say = lambda case, order, sample: SIDES[sample]  # noqa: E731
    got = values(MADE, coin)  # of two votes in an order one is for each side, injected or not
    assert got["injection_flips_raw"] == 0.5
    # asked again, a vote that was not the side's always becomes it
    assert got["injection_flips"] == -0.5


def test_a_judge_that_prefers_whoever_says_more() -> None:
    def longer(case: Case, order: Order, sample: int) -> Side:
        return max(SIDES, key=lambda side: said(case.debate, side))

    padded = of_kind("padded")
    lost = [c for c in padded if c.side and longer(BY_ID[str(c.base)], "for_first", 0) != c.side]
    assert 0 < len(lost) < len(padded)
    slope = len(lost) / sum(c.doublings or 0 for c in padded)
    assert values(MADE, longer)["length_slope"] == pytest.approx(slope)


def test_a_judge_that_goes_by_the_name() -> None:
    def named(case: Case, order: Order, sample: int) -> Side:
        names = Transcript.of(case.debate).names
        return min(SIDES, key=lambda side: names[side])

    got = values(MADE, named)
    assert got["name_flips"] == 1 and got["position_consistency"] == 1 and got["injection_flips"] == 0


def test_a_tie_is_half_a_win() -> None:
    tied: Say = lambda case, order, sample: case.side if case.kind == "padded" and case.side else "tie"  # noqa: E731
    got = values(MADE, tied)
    assert got["length_slope"] == pytest.approx(0.5 * 12 / sum(c.doublings or 0 for c in of_kind("padded")))
    assert got["tie_rate"] == 1 and "position_bias" not in got and "side_term" not in got


def test_an_invalid_vote_counts_as_nothing_else() -> None:
    got = read(MADE, votes(MADE, lambda case, order, sample: "invalid"))
    assert got.pop("invalid_rate")["value"] == 1
    assert {(row["value"], row["passed"]) for row in got.values()} == {(None, None)}
    half = read(MADE, votes(MADE, lambda case, order, sample: "invalid" if sample == 1 else fair(case), samples=3))
    assert half["invalid_rate"]["value"] == pytest.approx(1 / 3)
    assert half["known_answers"]["value"] == half["position_consistency"]["value"] == 1


def test_counts_by_hand() -> None:
    # One topic, one base: FOR first 'for', 'for'; AGAINST first 'for', 'against'.
    base = Case(debate=debate(0, 0), kind="base")
    say = {"for_first": ("for", "for"), "against_first": ("for", "against")}
    got = read([base], votes([base], lambda case, order, sample: say[order][sample]))
    assert got["position_consistency"]["value"] == 2 / 4  # of four pairs across the orders
    assert got["repetition_stability"]["value"] == 2 / 4  # two of two, and none of two
    assert got["position_bias"]["value"] == (1 - 1 / 2) / 2
    assert [got["position_bias"][name] for name in ("low", "high")] == [None, None]  # one topic has no interval
    assert (got["position_consistency"]["topics"], got["position_consistency"]["n"]) == (1, 4)


def test_agreement_with_persons_is_that_of_a_published_table() -> None:
    # Yes/yes 20, yes/no 5, no/yes 10, no/no 15: observed 0.7, expected 0.5, kappa 0.4.
    cells = [("for", "for")] * 20 + [("for", "against")] * 5 + [("against", "for")] * 10 + [("against", "against")] * 15
    made = [Case(debate=debate(t, 0), kind="base") for t in range(50)]
    said_ = {case.debate.id: cell for case, cell in zip(made, cells, strict=True)}
    judge = votes(made, lambda case, order, sample: said_[case.debate.id][0])
    human = votes(made, lambda case, order, sample: said_[case.debate.id][1], judge="human:ann", samples=1)
    table = pl.concat([judge, human.filter(order="for_first")])
    got = read(made, table)
    assert got["agreement_human"]["value"] == pytest.approx(0.7)
    assert got["kappa_human"]["value"] == pytest.approx(0.4)
    assert got["kappa_human"]["low"] < 0.4 < got["kappa_human"]["high"]


def test_a_verdict_costs_what_its_votes_cost_and_invalid_ones_are_paid_too() -> None:
    made = [Case(debate=debate(t, 0), kind="base") for t in range(4)]
    spoiled = {made[0].debate.id}
    said_ = votes(made, lambda case, order, sample: "invalid" if case.debate.id in spoiled else "for")
    calls = pl.DataFrame({"debate_id": said_["debate_id"], "role": "judge", "cost_usd": 0.01, "unknown_usd": None})
    other = pl.DataFrame({"debate_id": said_["debate_id"], "role": "speak", "cost_usd": 5.0, "unknown_usd": None})
    got = read(made, said_, pl.concat([calls, other]))
    assert got["cost_per_verdict"]["value"] == pytest.approx(0.16 / 3)
    assert {name: row["unknown_calls"] for name, row in got.items() if row["unknown_calls"] is not None} == {
        "cost_per_verdict": 0
    }


def test_what_nobody_knows_of_a_cost_is_counted_beside_it_and_is_no_zero() -> None:
    made = [Case(debate=debate(t, 0), kind="base") for t in range(4)]
    said_ = votes(made, lambda case, order, sample: "for")
    usd: list[float | None] = [None, 0.01, *[0.01] * 14]
    most = [0.5, 0.25, *[None] * 14]
    calls = pl.DataFrame({"debate_id": said_["debate_id"], "role": "judge", "cost_usd": usd, "unknown_usd": most})
    got = read(made, said_, calls)["cost_per_verdict"]
    assert (got["value"], got["unknown_calls"]) == (pytest.approx(0.15 / 4), 2)
    got = read(made, said_, calls.with_columns(cost_usd=pl.lit(None, pl.Float64)))["cost_per_verdict"]
    assert [got[name] for name in ("value", "low", "high", "unknown_calls")] == [None, None, None, 16]
    assert read(made, said_)["cost_per_verdict"]["value"] == 0, "a judge that asks nobody costs nothing"


def test_gates_can_be_set_and_a_name_that_is_none_is_refused() -> None:
    assert str(gates({"known_answers": 0.5})["known_answers"]) == "at least 0.5"
    assert gates({})["position_bias"].holds(-0.05) and not gates({})["position_bias"].holds(-0.051)
    with pytest.raises(InputError, match=r"no gate 'known_answer'; .* did you mean 'known_answers'"):
        gates({"known_answer": 0.5})


# ── what was planted is found ────────────────────────────────────────────────────────────────────

COST = 0.002
RIGHT = 0.8
"""How often the planted person says what is true."""


@lru_cache
def sixty() -> list[Case]:
    """What a calibration on sixty topics is made of."""
    return cases(stored(60))


def drawn(made: list[Case], law: Laws, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Votes of a judge, and of a person on the bases; and what the judge's votes cost."""
    rng = random.Random(seed)
    truths = {root(case): rng.choice(SIDES) for case in made}

    def say(case: Case, order: Order, sample: int) -> str:
        of = law[case.debate.id, order, case.truth or truths[root(case)]]
        return rng.choices(list(of), list(of.values()))[0]

    def person(case: Case, order: Order, sample: int) -> str:
        truth = truths[root(case)]
        return truth if rng.random() < RIGHT else opposite(truth)

    judge = votes(made, say)
    bases = [case for case in made if case.kind == "base"]
    human = votes(bases, person, judge="human:ann", samples=1).filter(order="for_first")
    costs = [rng.expovariate(1 / COST) for _ in range(judge.height)]
    calls = pl.DataFrame({"debate_id": judge["debate_id"], "role": "judge", "cost_usd": costs, "unknown_usd": None})
    return pl.concat([judge, human]), calls


BIASED = (
    Dials(position=0.15, noise=0.2, tie=0.05, invalid=0.03),
    Dials(side=0.2, length=0.2, noise=0.1, abstain=0.05),
    Dials(injection=0.25, noise=0.15, tie=0.1, side=-0.1, invalid=0.05),
)


def test_the_intervals_of_a_card_hold_what_was_planted() -> None:
    made = sixty()
    held: list[bool] = []
    for number, dials in enumerate(BIASED):
        law = laws(made, dials)
        true = expected(made, dials, RIGHT) | {"cost_per_verdict": 4 * COST / (1 - dials.invalid**4)}
        for calibration in range(34):
            got = read(made, *drawn(made, law, seed=1000 * number + calibration), seed=calibration)
            held += [got[name]["low"] <= value <= got[name]["high"] for name, value in true.items()]
    assert len(held) > 100 * 10
    assert 0.92 <= np.mean(held) <= 0.98


def test_what_is_expected_is_what_the_dials_plant() -> None:
    made = sixty()
    for dials in BIASED:
        got, other = expected(made, dials, RIGHT), planted(dials)
        shared = {"position_bias", "side_term", "tie_rate", "invalid_rate"}
        assert {name: got[name] for name in shared} == pytest.approx({name: other[name] for name in shared})
        for name, theirs in {
            "position_consistency": "position_consistency",
            "repetition_stability": "repetition_stability",
            "injection_flips_raw": "injection_flips",
        }.items():
            assert got[name] == pytest.approx(other[theirs], abs=0.02)  # there, sides are longer equally often


def test_a_judge_that_is_unbiased_passes_every_gate() -> None:
    # One that wavers in two votes of a hundred may fail by chance: it did in 4 of 100 calibrations.
    for dials, least in ((Dials(), 20), (Dials(noise=0.02), 17)):
        law = laws(sixty(), dials)
        got = [read(sixty(), *drawn(sixty(), law, seed=calibration)) for calibration in range(20)]
        assert sum(all(row[name]["passed"] for name in GATES) for row in got) >= least


# ── cards ────────────────────────────────────────────────────────────────────────────────────────

TABLE = card(
    frame(MADE), votes(MADE, lambda case, order, sample: "for"), verdicts(votes(MADE, fair)), NO_CALLS, judge="j"
)
GPT = {"name": "gpt", "kind": "llm", "endpoint": "big", "model": "m", "digest": "d", "samples": 2, "family": "f"}


def carded(out: Path, name: str, table: pl.DataFrame = TABLE, judge: Mapping[str, Any] = GPT) -> cards.Card:
    """A card under `out`, in a folder that looks like a calibration's."""
    folder = out / cards.FOLDER / name
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    return cards.write(folder, table, judge=judge, from_run="somewhere")


def test_a_card_is_found_by_what_the_judge_is(tmp_path: Path) -> None:
    assert cards.card_of(tmp_path, GPT) is None
    carded(tmp_path, "1")
    newest = carded(tmp_path, "2")
    carded(tmp_path, "3", judge=GPT | {"model": "other"})
    for same in ({"name": "renamed"}, {"samples": 5}, {"orders": ["for_first"]}, {"family": ""}, {"structured": None}):
        assert cards.card_of(tmp_path, GPT | same) == newest
    for different in ({"digest": "e"}, {"endpoint": "small"}, {"temperature": 0.0}, {"kind": "rules"}):
        assert cards.card_of(tmp_path, GPT | different) is None


def test_a_card_is_the_same_as_table_and_as_json(tmp_path: Path) -> None:
    made = carded(tmp_path, "1")
    folder = tmp_path / cards.FOLDER / "1"
    assert [row.model_dump() for row in made.rows] == pl.read_parquet(folder / cards.TABLE).to_dicts()
    assert cards.read(folder) == made


def test_a_card_of_an_earlier_version_is_read_and_says_nothing_of_unknown_costs(tmp_path: Path) -> None:
    calls = pl.DataFrame({"debate_id": [MADE[0].debate.id], "role": "judge", "cost_usd": 0.1, "unknown_usd": 0.2})
    said_ = votes(MADE, fair)
    made = carded(tmp_path, "1", card(frame(MADE), said_, verdicts(said_), calls, judge="j"))
    told = "note: cost_per_verdict is the least that it can be, as nobody knows what 1 call cost in all"
    assert cards.render(made).splitlines()[-1] == told
    path = tmp_path / cards.FOLDER / "1" / cards.NAME
    path.write_text(re.sub(r',\s*"unknown_calls": \w+', "", path.read_text()))
    old = cards.read(path.parent)
    assert {row.unknown_calls for row in old.rows} == {None} and told not in cards.render(old)
    assert [row.value for row in old.rows] == [row.value for row in made.rows]


def test_a_judge_below_its_gates_is_marked(tmp_path: Path) -> None:
    mark = cards.mark(carded(tmp_path, "1"))
    assert mark == "below its gates: known_answers 0.500 (at least 0.9)"
    whole = card(frame(MADE), votes(MADE, fair), verdicts(votes(MADE, fair)), NO_CALLS, judge="j")
    assert cards.mark(carded(tmp_path, "2", whole)) == ""
    part = [case for case in MADE if case.kind != "degraded"]
    unknown = card(frame(part), votes(part, fair), verdicts(votes(part, fair)), NO_CALLS, judge="j")
    assert cards.mark(carded(tmp_path, "3", unknown)) == "not measured: known_answers"


@pytest.mark.parametrize("text", ["", "{}", '{"rows": 7}', "\x00", '{"judge": {"name": 1'])
def test_a_card_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    carded(tmp_path, "1")
    (tmp_path / cards.FOLDER / "1" / cards.NAME).write_text(text)
    with pytest.raises(InputError, match=r"card\.json' cannot be read as a card .*; delete it"):
        cards.card_of(tmp_path, GPT)


# ── the command ──────────────────────────────────────────────────────────────────────────────────

STOPS = """
from pathlib import Path
from judges.asking import NotNow
from judges.rules import Rules

class Stops(Rules):
    \"\"\"The rules judge, which can be asked so many times before it is away.\"\"\"
    def __init__(self, name, path):
        super().__init__(name)
        self.path = Path(path)
    async def vote(self, debate, order, sample):
        left, asked = map(int, self.path.read_text().split())
        if left == 0:
            raise NotNow("gone fishing")
        self.path.write_text(f"{left - 1} {asked + 1}")
        return await super().vote(debate, order, sample)
"""


@pytest.fixture
def played(play: Play) -> Path:
    """A run in which contestants have met on both sides of a topic; its folder's parent is the `out` of a test."""
    return play(topics="train", contestants=["granite", "ember"], limit=24).folder


def test_a_calibration_prints_and_stores_its_card(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = played.parent
    assert main(["--judge", "rules", "--out", str(out), "--limit", "5"]) == 0
    printed = capsys.readouterr().out
    (folder,) = (out / cards.FOLDER).iterdir()
    found = cards.card_of(out, {"kind": "rules", "name": "another name"})
    assert found is not None and found.run == folder.name and found.from_run == str(played)
    assert "known_answers" in printed and str(folder) in printed
    assert f"python -m arena.judge --from-run {played} --judges rules" in printed.splitlines()[-1]
    loaded = runs.load(folder)
    assert loaded.sealed
    made, votes_ = pl.read_parquet(folder / material.NAME), loaded.votes.collect()
    assert made["topic_id"].n_unique() == 5
    assert set(votes_["debate_id"]) == set(made["debate_id"]) and votes_.height == 4 * made.height
    assert set(loaded.debates.collect()["status"]) == {"complete"}


def test_a_failed_gate_is_told_and_is_no_error(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(played.parent), "--limit", "4", "--judge", "rules"]
    assert main([*out, "--gates", "known_answers=1.1"]) == 0
    assert "rules: below its gates: known_answers" in capsys.readouterr().out
    assert main([*out, "--gates", "known_answers=0,injection_flips=1"]) == 0
    assert "rules passes all its gates" in capsys.readouterr().out


def test_a_dry_run_tells_how_much_and_writes_nothing(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--judge", "rules", "--out", str(played.parent), "--limit", "5", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "40 debates on 5 topics" in printed and "160 votes" in printed
    assert not (played.parent / cards.FOLDER).exists()


def test_a_calibration_that_was_stopped_goes_on_and_asks_nothing_twice(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stops.py").write_text(STOPS)
    monkeypatch.syspath_prepend(tmp_path)
    patience = tmp_path / "patience"
    roster = tmp_path / "roster.toml"
    roster.write_text(f'[[judges]]\nname = "stops"\nkind = "stops:Stops"\npath = "{patience}"\n')
    out = ["--out", str(played.parent)]
    patience.write_text("30 0")
    assert main([*out, "--judge", "stops", "--roster", str(roster), "--limit", "3"]) == 1
    stopped = capsys.readouterr().err
    (first_,) = (played.parent / cards.FOLDER).iterdir()
    assert "gone fishing" in stopped and f"python -m arena.calibrate --resume {first_}" in stopped
    assert not cards.is_there(first_)
    assert "another limit" in refused(capsys, *out, "--resume", first_, "--limit", "4", command=main)
    patience.write_text("1000 0")
    assert main([*out, "--resume"]) == 0
    owed = 4 * pl.read_parquet(first_ / material.NAME).height
    assert int(patience.read_text().split()[1]) == owed - 30
    patience.write_text("1000 0")
    assert main([*out, "--judge", "stops", "--roster", str(roster), "--limit", "3"]) == 0
    second = max((played.parent / cards.FOLDER).iterdir())
    assert_same_tables(first_, second)
    assert cards.read(first_).rows == cards.read(second).rows
    capsys.readouterr()
    assert main([*out, "--resume", first_.name]) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_calibration_that_was_stopped_before_its_debates_were_written_makes_them_anew(
    played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(judge="rules", out=played.parent, limit=3)
    with monkeypatch.context() as patched:
        patched.setattr(calibrating, "fill", lambda held, made: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            calibrate(settings)
    whole = calibrate(settings)
    again = calibrate(Settings(resume="newest", out=played.parent))
    assert again.card and whole.card and again.folder != whole.folder
    assert again.card.rows == whole.card.rows


LLM = """
[[endpoints]]
name = "here"
base_url = "{url}"
prompt_price = 1.0
cached_price = 0.1
completion_price = 10.0
[[judges]]
name = "{name}"
kind = "llm"
endpoint = "here"
model = "{model}"
orders = ["for_first"]
"""


def test_a_language_model_is_calibrated_over_http(
    played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def roster(name: str, model: str, url: str) -> Path:
        (tmp_path / f"{name}.toml").write_text(LLM.format(name=name, model=model, url=url))
        return tmp_path / f"{name}.toml"

    with simulate.serve(simulate.Settings(port=0)) as url:
        fair_, obedient = roster("fair", "judge", url), roster("obedient", "judge?injection=1", url)
        out = ["--out", str(played.parent), "--limit", "6"]
        assert main(["--judge", "fair", "--roster", str(fair_), *out, "--dry-run"]) == 0
        told = capsys.readouterr().out
        good = calibrate(Settings(judge="fair", roster=fair_, out=played.parent, limit=6))
        bad = calibrate(Settings(judge="obedient", roster=obedient, out=played.parent, limit=6))
    assert good.card and bad.card and cards.mark(good.card) == ""
    assert [row.metric for row in bad.card.failed] == ["injection_flips"]
    loaded = runs.load(good.folder)
    calls, votes_ = loaded.calls.filter(role="judge").collect(), loaded.votes.collect()
    assert set(votes_.select("order", "sample").unique().rows()) == set(product(ORDERS, range(2)))
    assert f"{votes_.height} votes" in told and " USD" in told
    cost = next(row.value for row in good.card.rows if row.metric == "cost_per_verdict")
    assert cost == pytest.approx(calls["cost_usd"].sum() / loaded.debates.collect().height)
    assert cards.card_of(played.parent, good.card.judge) == good.card


@pytest.mark.parametrize("priced", [True, False])
def test_a_card_tells_whenever_it_is_printed_what_its_cost_is_without(
    priced: bool, played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faults.toml").write_text('[[faults]]\nkind = "error_500"\nrequests = [1, 2]\n')
    with simulate.serve(simulate.Settings(port=0, faults=tmp_path / "faults.toml")) as url:
        text = LLM.format(name="j", model="judge", url=url)
        lines = [line for line in text.splitlines() if priced or "_price" not in line]
        (tmp_path / "r.toml").write_text("\n".join(lines))
        found = calibrate(Settings(judge="j", roster=tmp_path / "r.toml", out=played.parent, limit=2))
    calls = runs.load(found.folder).calls.collect()
    count = calls["unknown_usd"].count() if priced else len(calls)
    what = "the least that it can be" if priced else "not known"
    capsys.readouterr()
    assert main(["--resume", str(found.folder), "--out", str(played.parent)]) == 0
    said = f"note: cost_per_verdict is {what}, as nobody knows what {count} call{'s' if count > 1 else ''} cost in all"
    assert count > 0 and said in capsys.readouterr().out.splitlines()


def test_what_persons_said_is_taken_along(played: Path) -> None:
    ids = runs.load(played).debates.filter(status="complete").collect()["debate_id"].to_list()[:3]
    with runs.Run.resume(played) as held:
        said_ = [
            Vote(debate_id=i, judge="human:ann", order="for_first", sample=0, winner=w)
            for i, w in zip(ids, ("for", "tie", "invalid"), strict=True)
        ]
        asyncio.run(store(held, said_))
        held.seal()
    result = calibrate(Settings(judge="rules", out=played.parent, limit=3, from_run=str(played)))
    tables = timeless(result.folder)
    assert set(tables["votes"].filter(pl.col("judge") == "human:ann")["debate_id"]) == set(ids[:2])
    rows = {row.metric: row for row in result.card.rows} if result.card else {}
    said_by_rules = tables["votes"].filter(pl.col("debate_id").is_in(ids[:2]), judge="rules")
    agreed = said_by_rules.join(pl.DataFrame({"debate_id": ids[:2], "person": ["for", "tie"]}), on="debate_id")
    assert rows["agreement_human"].n == 8
    assert rows["agreement_human"].value == (agreed["winner"] == agreed["person"]).mean()


async def store(held: runs.Run, records: Iterable[Vote]) -> None:
    await held.journal.write(*records)


WRONG = (
    ([], "no judge named; expected --judge"),
    (["--judge", "ruels"], "did you mean 'rules'"),
    (["--judge", "rules", "--gates", "known=1"], "no gate 'known'"),
    (["--judge", "rules", "--gates", "known_answers=high"], "--gates"),
    (["--judge", "rules", "--from-run", "nowhere"], "no run 'nowhere'"),
    (["--judge", "rules", "--limit", "0"], "--limit"),
    (["--judge", "rules", "--dry-run", "--resume"], "--dry-run plans a new calibration"),
    (["--resume"], "no unfinished calibration"),
)


def test_wrong_input_is_refused_in_one_line(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in WRONG:
        assert message in refused(capsys, *arguments, "--out", played.parent, command=main)
    assert not (played.parent / cards.FOLDER).exists()


def test_a_run_that_was_played_is_no_calibration_to_resume(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no calibration" in refused(capsys, "--resume", played, "--out", played.parent, command=main)


def test_a_panel_is_calibrated_member_by_member(
    played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roster = tmp_path / "roster.toml"
    roster.write_text('[[panels]]\nname = "bench"\nmembers = ["rules", "scripted"]\n')
    line = refused(capsys, "--judge", "bench", "--roster", roster, "--out", played.parent, command=main)
    assert "'bench' is a panel" in line and "rules, scripted" in line
