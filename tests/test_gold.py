"""Gold correction: the formula by hand, planted noise taken out, and no number where there is none."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from runs.bias import FEW
from runs.gold import correct, judges, people, win_rates
from runs.panels import Panel
from runs.records import Verdict, Winner
from runs.spec import Spec
from runs.tables import Tables

NAMES = ("a", "b", "c", "d")
STRENGTH = {"a": 1.2, "b": 0.4, "c": -0.4, "d": -1.2}


def run_of(rows: Sequence[tuple[str, str, str]], verdicts: dict[str, Sequence[str | None]]) -> Tables:
    """A run of debates (topic, FOR, AGAINST), with what each judge said of each (None: nothing)."""
    debates = pl.DataFrame(
        rows, schema=["topic_id", "for_contestant", "against_contestant"], orient="row"
    ).with_columns(
        debate_id=pl.format("d{}", pl.int_range(pl.len())),
        status=pl.lit("complete"),
        replicate=pl.lit(0),
    )
    said = pl.concat(
        debates.select("debate_id", judge=pl.lit(judge), winner=pl.Series(winners, dtype=pl.String))
        for judge, winners in verdicts.items()
    )
    other = dict.fromkeys(("turns", "votes", "calls", "failures", "topics"), pl.LazyFrame())
    return Tables(
        folder=Path(), sealed=True, debates=debates.lazy(), verdicts=said.drop_nulls("winner").lazy(), **other
    )


def planted(
    rng: np.random.Generator, q0: float, q1: float, *, topics: int = 60, voted: float = 0.5
) -> tuple[Tables, dict[str, float]]:
    """A run that people would decide by strength, and a judge of this specificity and sensitivity; what people would
    say of everything, by contestant."""
    rows = [(f"t{t}", one, two) for t in range(topics) for one in NAMES for two in NAMES if one != two]
    chance = [1 / (1 + np.exp(-(STRENGTH[one] - STRENGTH[two]))) for _, one, two in rows]
    truth = rng.random(len(rows)) < chance
    says = np.where(truth, rng.random(len(rows)) < q1, rng.random(len(rows)) > q0)
    asked = rng.random(len(rows)) < voted
    winner = {True: "for", False: "against"}
    run = run_of(
        rows,
        {
            "gpt": [winner[bool(x)] for x in says],
            "human:ann": [winner[bool(x)] if seen else None for x, seen in zip(truth, asked, strict=True)],
        },
    )
    true = dict.fromkeys(NAMES, 0.0)
    for (_, one, two), won in zip(rows, truth, strict=True):
        true[one if won else two] += 1 / (topics * 2 * (len(NAMES) - 1))
    return run, true


def one(frame: pl.DataFrame, **of: str) -> dict[str, object]:
    chosen = frame.filter(**of)
    assert len(chosen) == 1
    return chosen.row(0, named=True)


def test_the_formula_by_hand() -> None:
    assert correct(0.6, 1, 0.8, 0.9) == pytest.approx(0.4 / 0.7)
    assert correct(6.0, 10, 0.8, 0.9) == pytest.approx(4 / 0.7), "counts as well as rates"
    assert correct(0.6, 1, 1, 1) == 0.6, "who never errs needs no correction"
    assert correct(0.9 * 0.3 + 0.2 * 0.7, 1, 0.8, 0.9) == pytest.approx(0.3), "it undoes what errors do"


def rows_of(*winners: str, per_topic: int = 1) -> list[tuple[str, str, str]]:
    return [(f"t{i // per_topic:03}", "a", "b") for i in range(len(winners))]


def test_people_decide_by_majority_and_otherwise_not() -> None:
    said = {
        "human:ann": ["for", "for", "for", "tie", "against", "for"],
        "human:bob": ["for", "against", "for", "tie", None, "invalid"],
        "human:eve": ["against", None, "abstain", "for", None, None],
        "gpt": ["against"] * 6,
    }
    found = people(run_of(rows_of(*["x"] * 6), said).verdicts)
    assert dict(found.sort("debate_id").rows()) == {
        **{"d0": "for", "d1": "tie", "d2": "for", "d3": "tie", "d4": "against", "d5": "for"}
    }


def test_sensitivity_and_specificity_by_hand() -> None:
    """On 20 topics people say for, and the judge 18 times; on 10 against, the judge 7 times and once a tie; on 5 a tie,
    which says nothing."""
    human = ["for"] * 20 + ["against"] * 10 + ["tie"] * 5
    gpt = ["for"] * 18 + ["against"] * 2 + ["against"] * 7 + ["tie"] + ["for"] * 2 + ["for"] * 5
    found = one(judges(run_of(rows_of(*human), {"human:ann": human, "gpt": gpt})), judge="gpt")
    assert (found["sensitivity"], found["specificity"]) == (0.9, 0.75)
    assert [found[name] for name in ("debates", "topics", "for_topics", "against_topics")] == [35, 35, 20, 10]
    assert found["agreement"] == pytest.approx(25 / 35)
    both = np.array([[18, 0, 2], [2, 1, 7], [5, 0, 0]]) / 35  # people's for, against, tie by gpt's for, tie, against
    chance = both[0].sum() * both[:, 0].sum() + both[1].sum() * both[:, 2].sum() + both[2].sum() * both[:, 1].sum()
    assert found["kappa"] == pytest.approx((25 / 35 - chance) / (1 - chance))


def test_the_corrected_rate_by_hand() -> None:
    """a is always on FOR. The judge gives it 60 %; beside people it has q1 = 0.9 and q0 = 0.8."""
    human: list[str | None] = [*["for"] * 10, *["against"] * 10, *[None] * 80]
    gpt = ["for"] * 9 + ["against"] + ["against"] * 8 + ["for"] * 2 + ["for"] * 49 + ["against"] * 31
    found = win_rates(run_of(rows_of(*gpt), {"human:ann": human, "gpt": gpt}))
    assert one(found, contestant="a")["win_rate"] == 0.6
    assert one(found, contestant="a")["corrected"] == pytest.approx(0.4 / 0.7)
    assert one(found, contestant="b")["corrected"] == pytest.approx(0.3 / 0.7), "what one wins the other loses"
    assert one(found, contestant="a")["people_rate"] == 0.5 and one(found, contestant="a")["people_debates"] == 20
    assert set(found["judge"]) == {"gpt"}, "people are not corrected by themselves"


def test_a_judge_that_says_what_people_say_needs_no_correction() -> None:
    rng = np.random.default_rng(4)
    run, true = planted(rng, 1.0, 1.0)
    for row in win_rates(run).to_dicts():
        assert row["corrected"] == pytest.approx(row["win_rate"]) == pytest.approx(true[row["contestant"]])
        assert row["corrected_low"] < row["corrected"] < row["corrected_high"]


def test_planted_noise_is_taken_out() -> None:
    """A judge errs and leans to FOR: its rates miss what people would say of everything, corrected ones hold it."""
    held, missed, runs_ = 0, 0, 40
    expected = {
        name: np.mean([1 / (1 + np.exp(STRENGTH[other] - STRENGTH[name])) for other in NAMES if other != name])
        for name in NAMES
    }
    for seed in range(runs_):
        run, _ = planted(np.random.default_rng(seed), 0.7, 0.9, topics=40, voted=0.25)
        for row in win_rates(run, resamples=300).filter(pl.col("contestant").is_in(["a", "d"])).to_dicts():
            held += row["corrected_low"] <= expected[row["contestant"]] <= row["corrected_high"]
            missed += not row["win_rate_low"] <= expected[row["contestant"]] <= row["win_rate_high"]
    assert held >= 0.9 * 2 * runs_, "the two of a run are not independent; nominal is 95 %"
    assert missed >= 0.8 * 2 * runs_, "there is something to correct"


def test_there_is_no_number_where_there_are_too_few_human_verdicts() -> None:
    run, _ = planted(np.random.default_rng(0), 0.8, 0.9, topics=FEW - 1, voted=1.0)
    found = win_rates(run)
    assert found["corrected"].null_count() == len(found) == 4
    assert found["why"].str.starts_with("too few human verdicts: for on 9 topics, against on 9").all()
    assert found["win_rate"].null_count() == 0
    nobody, _ = planted(np.random.default_rng(0), 0.8, 0.9, voted=0.0)
    assert win_rates(nobody)["corrected"].null_count() == 4 and judges(nobody).is_empty()
    assert win_rates(nobody)["people_rate"].null_count() == 4 and win_rates(nobody)["people_debates"].sum() == 0


def test_there_is_no_number_where_the_judge_tells_nothing() -> None:
    run, _ = planted(np.random.default_rng(1), 0.5, 0.5)
    found = win_rates(run)
    assert found["corrected"].null_count() == 4 and found["why"].str.starts_with("the judge tells too little").all()


def test_a_corrected_rate_is_one() -> None:
    """The judge never errs beside people against a, and q1 is 0.8, but it gives a more than that elsewhere: p is above
    what errors could make of it, and the rate stays at 1."""
    human: list[str | None] = [*["for"] * 20, *["against"] * 20, *[None] * 200]
    gpt = ["for"] * 16 + ["against"] * 4 + ["against"] * 20 + ["for"] * 200
    found = win_rates(run_of(rows_of(*gpt), {"human:ann": human, "gpt": gpt}))
    assert one(found, contestant="a")["corrected"] == one(found, contestant="a")["corrected_high"] == 1
    assert one(found, contestant="b")["corrected"] == one(found, contestant="b")["corrected_low"] == 0


def test_a_panel_is_not_held_beside_its_own_member(tmp_path: Path) -> None:
    """`bench` is of two judges that are right in 70 % and of ann, who is right: where she voted it looks better than it
    is anywhere else. `twain`, without her, is held beside her like any judge."""
    run, true = planted(np.random.default_rng(8), 0.7, 0.7, topics=200, voted=0.25)
    said = run.verdicts.collect().pivot("judge", index="debate_id", values="winner")
    rng = np.random.default_rng(9)
    twist = {"for": "against", "against": "for"}
    other = [w if rng.random() < 0.7 else twist[w] for w in said["gpt"]]
    panel = Panel(name="bench", members=("gpt", "qwen", "human:ann"))

    def bench(*winners: Winner | None) -> Winner:
        heard = [
            Verdict(debate_id="", judge=str(i), winner=w, margin=0.0, consistent=True, votes=1)
            for i, w in enumerate(winners)
            if w is not None
        ]
        return panel.decide("", heard).winner

    decided = [bench(*row) for row in zip(said["gpt"], other, said["human:ann"], strict=True)]
    more = [said.select("debate_id", judge=pl.lit("bench"), winner=pl.Series(decided))]
    more += [said.select("debate_id", judge=pl.lit("twain"), winner=pl.Series(said["gpt"]))]
    mixed = Tables(**{**vars(run), "verdicts": pl.concat([run.verdicts, *(part.lazy() for part in more)])})
    panels = [panel.model_dump(), Panel(name="twain", members=("gpt", "qwen")).model_dump()]
    assert set(judges(mixed, panels=panels)["judge"]) == {"gpt", "twain"}
    found = win_rates(mixed, panels=panels)
    barred = found.filter(judge="bench")
    assert barred["corrected"].null_count() == barred["corrected_low"].null_count() == len(barred) == 4
    assert barred["win_rate"].null_count() == 0 and set(barred["why"]) == {
        "persons are on the panel itself: 'human:ann'"
    }
    assert found.filter(judge="twain").drop("judge").equals(found.filter(judge="gpt").drop("judge"), null_equal=True)
    unbarred = one(win_rates(mixed, "bench"), contestant="a")
    assert abs(float(str(unbarred["corrected"])) - true["a"]) > 0.05, "tables alone do not say who is a member"
    spec = Spec(seed=0, topics={}, format=(), opener="for", matches=None, replicates=1, contestants=(), panels=panels)
    spec.save(tmp_path)
    there = Tables(**{**vars(mixed), "folder": tmp_path})
    assert win_rates(there).equals(found, null_equal=True), "the spec of the run does"
    assert set(judges(there)["judge"]) == {"gpt", "twain"}


def test_a_trajectory_is_no_judge_of_whole_debates() -> None:
    run, _ = planted(np.random.default_rng(10), 0.8, 0.9)
    part = run.verdicts.filter(judge="gpt").with_columns(judge=pl.lit("gpt@4"), winner=pl.lit("for"))
    home = run.verdicts.filter(judge="gpt").with_columns(judge=pl.lit("gpt@home"))
    more = Tables(**{**vars(run), "verdicts": pl.concat([run.verdicts, part, home])})
    assert set(judges(more)["judge"]) == {"gpt", "gpt@home"} == set(win_rates(more)["judge"])
    assert win_rates(more).filter(judge="gpt").equals(win_rates(run), null_equal=True)
