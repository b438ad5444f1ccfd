"""What a run took: a table by hand, money that adds up on played runs, and what is not known staying unknown."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Play, roster

import runs
from arena import simulate
from runs.costs import completion, failures, owned, per_verdict, per_win, spent, stages
from runs.records import Slot
from runs.schema import TABLES
from runs.spec import Spec
from runs.tables import Tables
from topics import Side

PRICES = "prompt_price = 1.0\ncached_price = 0.1\ncompletion_price = 10.0"


API = {"name": "api", "prompt_price": 0.0, "cached_price": None, "completion_price": 0.0}
"""An endpoint of which nobody said what it costs."""


def spec(
    judges: tuple[dict[str, Any], ...] = (),
    panels: tuple[dict[str, Any], ...] = (),
    endpoints: tuple[dict[str, Any], ...] = (),
) -> Spec:
    sides: tuple[Side, ...] = ("for", "against")
    return Spec(
        seed=0,
        topics={},
        format=tuple(
            Slot(turn=turn, side=sides[(turn - 1) % 2], stage="opening", words=9, instruction="") for turn in (1, 2)
        ),
        opener="for",
        matches=None,
        replicates=1,
        contestants=(),
        judges=judges,
        panels=panels,
        endpoints=endpoints,
    )


def call(debate: str, usd: float, *, turn: int | None = None, role: str = "speak", **also: Any) -> dict[str, Any]:
    """A row of calls; those of a judge are told by `call_id` and `model`."""
    row = {"call_id": f"{debate}{role}{turn}{usd}", "debate_id": debate, "role": role, "turn": turn, "endpoint": "api"}
    row |= {"model": "m", "cost_usd": usd, "latency_s": 2.0, "started_at": datetime(2026, 1, 1, tzinfo=UTC)}
    row |= {"unknown_usd": None}
    counted = {"prompt_tokens": 100, "cached_tokens": 50, "completion_tokens": 10, "reasoning_tokens": 0}
    return row | counted | also


def tables(calls: list[dict[str, Any]], votes: list[tuple[str, str, str, str | None]], **of: pl.LazyFrame) -> Tables:
    """Three debates: `d1` (a for, b against; FOR opens), `d2` (b for, a against; AGAINST opens), and `d3`, void."""
    debates = pl.DataFrame(
        [
            ("d1", "t1", "a", "b", "for", "complete"),
            ("d2", "t2", "b", "a", "against", "complete"),
            ("d3", "t3", "a", "b", "for", "void"),
        ],
        schema=["debate_id", "topic_id", "for_contestant", "against_contestant", "opener", "status"],
        orient="row",
    ).with_columns(replicate=pl.lit(0))
    cast = pl.DataFrame(
        votes, schema=dict.fromkeys(("debate_id", "judge", "winner", "call_id"), pl.String), orient="row"
    )
    kinds = TABLES["calls"].columns
    paid = pl.DataFrame(calls, schema={name: kind for name, kind in kinds.items() if name in calls[0]}, strict=False)
    empty = dict.fromkeys(("turns", "failures", "topics"), pl.LazyFrame())
    verdicts = cast.select("debate_id", "judge", "winner").unique(["debate_id", "judge"])
    given = {"votes": cast.lazy(), "verdicts": verdicts.lazy(), "calls": paid.lazy(), "debates": debates.lazy()}
    return Tables(folder=Path(), sealed=True, **(empty | given | of))


def one(frame: pl.DataFrame, **of: str | None) -> dict[str, Any]:
    chosen = frame.filter(*(pl.col(name).eq_missing(pl.lit(value)) for name, value in of.items()))
    assert len(chosen) == 1, chosen
    return chosen.row(0, named=True)


def total(run: Tables) -> float:
    return float(run.calls.select(pl.col("cost_usd").sum()).collect().item())


# By hand


def test_the_ledger_by_hand() -> None:
    calls = [
        *[call("d1", 1, turn=1), call("d1", 2, turn=2), call("d1", 4, turn=1, role="shorten")],  # a, b, a
        *[call("d2", 8, turn=1), call("d2", 16, turn=2)],  # AGAINST opens: a, b
        call("d3", 32, turn=2, prompt_tokens=None, cached_tokens=None, completion_tokens=None),  # b, and it failed
        *[call("d1", 64, role="judge", call_id="known", model="gpt"), call("d1", 128, role="judge", model="gpt")],
        *[call("d2", 256, role="judge", model="other"), call("d2", 512, role="audit", model="watcher")],
    ]
    judges = ({"name": "gpt", "endpoint": "api", "model": "gpt"},)
    found = spent(run := tables(calls, [("d1", "gpt", "for", "known")]), spec(judges))
    a, b = (one(found, kind="contestant", name=name) for name in "ab")
    assert (a["cost_usd"], b["cost_usd"]) == (1 + 4 + 8, 2 + 16 + 32)
    assert (a["debates"], b["debates"], a["calls"], b["calls"], b["counted"]) == (2, 3, 3, 3, 2)
    assert (a["prompt_tokens"], a["cached_share"], a["seconds"]) == (300, 0.5, 6.0)
    assert a["cost_per_debate"] == 6.5 and a["cost_per_debate_low"] is None and a["few_topics"]
    assert one(found, kind="judge", name="gpt")["cost_usd"] == 64 + 128, (
        "the second names no vote, but one judge asks so"
    )
    assert one(found, kind="judge", name=None)["cost_usd"] == 256, "a call that nobody owns has a row"
    assert one(found, kind="audit", name=None)["cost_usd"] == 512
    assert found["cost_usd"].sum() == total(run) == 1023 and found["calls"].sum() == len(calls)


def test_two_judges_that_ask_one_model_own_what_their_votes_name_alone() -> None:
    calls = [
        call("d1", usd, role="judge", call_id=name, model="gpt")
        for usd, name in ((1, "first"), (2, "second"), (4, "lost"))
    ]
    judges = tuple({"name": name, "endpoint": "api", "model": "gpt"} for name in ("mild", "strict"))
    run = tables(calls, [("d1", "mild", "for", "first"), ("d1", "strict", "tie", "second")])
    found = spent(run, spec(judges))
    assert [one(found, name=name)["cost_usd"] for name in ("mild", "strict", None)] == [1, 2, 4]


def test_what_a_win_costs_by_hand() -> None:
    calls = [call("d1", 1, turn=1), call("d1", 3, turn=2), call("d2", 2, turn=1), call("d2", 5, turn=2)]
    calls += [call("d3", 10, turn=1)]
    said = [("d1", "gpt", "for", None), ("d2", "gpt", "tie", None), ("d1", "new", "against", None)]
    found = per_win(tables(calls, said), spec())
    a, b = (one(found, judge="gpt", contestant=name) for name in "ab")
    assert (a["wins"], b["wins"]) == (1.5, 0.5)
    assert a["cost_per_win"] == (1 + 2 + 10) / 1.5, "a void debate is paid for and not won"
    assert b["cost_per_win"] == (3 + 5) / 0.5 and a["tokens_per_win"] == 330 / 1.5
    late = one(found, judge="new", contestant="a")
    assert late["wins"] == 0 and late["cost_per_win"] is None, "no win, no price of one"
    assert late["cost_usd"] == 1 + 10, "what a judge has not decided is not on its bill"
    assert (a["topics"], late["topics"]) == (3, 2), "topics on which nothing was won are paid for too"


def test_what_nobody_counted_is_not_nought() -> None:
    nothing = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"))
    calls = [call("d1", 0, turn=1, **nothing), call("d1", 1, turn=2)]
    run = tables(calls, [("d1", "gpt", "tie", None)])
    a = one(spent(run, spec()), name="a")
    assert a["prompt_tokens"] is None and a["cached_share"] is None and a["counted"] == 0 and a["calls"] == 1
    assert one(per_win(run, spec()), contestant="a")["tokens_per_win"] is None
    assert one(per_win(run, spec()), contestant="b")["tokens_per_win"] == 220


def test_tokens_of_a_win_are_all_of_them_or_none() -> None:
    """Two wins at 110 tokens each: 110 a win, and not 55 where those of one are not known."""
    said = [("d1", "gpt", "for", None), ("d2", "gpt", "against", None)]
    whole = [call("d1", 1, turn=1), call("d2", 1, turn=1), call("d2", 1, turn=2)]
    assert one(per_win(tables(whole, said), spec()), contestant="a")["tokens_per_win"] == 110
    for name in ("prompt_tokens", "completion_tokens"):
        half = [call("d1", 1, turn=1), call("d2", 1, turn=1, **{name: None}), call("d2", 1, turn=2)]
        found = one(per_win(tables(half, said), spec()), contestant="a")
        assert found["tokens_per_win"] is None and found["cost_per_win"] == 1


def test_a_cost_that_nobody_knows_is_not_nought() -> None:
    """At an endpoint without a price what nobody paid for is unknown, and whatever it is a part of; what is simulated
    or local costs nothing, and what was paid before the price was taken away was paid."""
    calls = [call("d1", 0, turn=1), call("d1", 0, turn=2, endpoint="simulated"), call("d2", 0, turn=1)]
    calls += [call("d2", 0, turn=2, endpoint="local"), call("d2", 0, role="audit", endpoint="priced", model="w")]
    calls += [
        call("d1", 2, role="judge", call_id="gd1", model="g"),
        call("d2", 0, role="judge", call_id="gd2", model="g"),
    ]
    calls += [
        call("d1", 3, role="judge", call_id="hd1", model="h"),
        call("d2", 4, role="judge", call_id="hd2", model="h"),
    ]
    said = [(d, j, "for", f"{j}{d}") for j in "gh" for d in ("d1", "d2")] + [("d1", "bench", "for", None)]
    run, panels = tables(calls, said), ({"name": "bench", "members": ["g", "h"]},)
    priced = {"name": "priced", "prompt_price": 0, "cached_price": None, "completion_price": 1.0}
    stored = spec(panels=panels, endpoints=(API, priced))
    assert stored.unpriced == ["api"]
    found = spent(run, stored)
    a, b, g, h = (one(found, name=name) for name in ("a", "b", "g", "h"))
    for row, cost in ((a, None), (b, 0), (g, None), (h, 7), (one(found, kind="audit"), 0)):
        assert row["cost_usd"] == cost and row["cost_per_debate"] == (None if cost is None else cost / row["debates"])
    assert a["topics"] == 2 and a["prompt_tokens"] == 200, "what is known stays"
    won = per_win(run, stored, "h")
    assert won["cost_usd"].to_list() == won["cost_per_win"].to_list() == [None, 0]
    assert won["tokens_per_win"].to_list() == [220, 220]
    given = per_verdict(run, stored)
    assert [one(given, judge=name)["cost_usd"] for name in ("g", "h", "bench")] == [None, 7, None]
    assert [one(given, judge=name)["cost_per_verdict"] for name in ("g", "h", "bench")] == [None, 3.5, None]
    known = spent(run, spec(panels=panels, endpoints=(priced,)))
    assert one(known, name="a")["cost_usd"] == one(known, name="a")["cost_per_debate"] == 0
    alone = tables([call("d1", 0, turn=1, endpoint="simulated"), call("d2", 0, turn=1, endpoint="simulated")], said)
    free = per_win(alone, stored, "h")
    assert one(free, contestant="a")["cost_per_win"] == one(free, contestant="a")["cost_usd"] == 0
    assert one(free, contestant="b")["cost_per_win"] is one(free, contestant="b")["cost_usd"] is None, "asked nobody"


def test_calls_of_unknown_cost_are_counted_and_in_no_sum() -> None:
    """One call of a's has no answer, one of b's came late; h's have none, and one of g's was where no price is."""
    none = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"))
    lost = {"unknown_usd": 0.5, **none}
    calls: list[dict[str, Any]] = [call("d1", 1, turn=1), call("d1", 2, turn=2, unknown_usd=0.25)]
    calls += [call("d2", 4, turn=1), call("d3", 0, turn=1, **lost) | {"cost_usd": None}]
    for judge, debate in (("h", "d1"), ("h", "d2"), ("g", "d2")):
        calls += [call(debate, 0, role="judge", call_id=judge + debate, model=judge, **lost) | {"cost_usd": None}]
    calls += [call("d1", 0, role="judge", call_id="gd1", model="g", endpoint="free")]
    said = [(d, j, "for", f"{j}{d}") for j in "gh" for d in ("d1", "d2")]
    run, stored = tables(calls, said), spec(endpoints=(API | {"name": "free"},))
    found = spent(run, stored)
    for name, cost, unknown in (("a", 5, 1), ("b", 2, 1), ("g", None, 1), ("h", None, 2)):
        row = one(found, name=name)
        assert (row["cost_usd"], row["unknown"]) == (cost, unknown), name
    assert one(found, name="a")["counted"] == 2 and one(found, name="h")["prompt_tokens"] is None
    won = per_win(run, stored, "h")
    assert [one(won, contestant=name)["unknown"] for name in "ab"] == [1, 1]
    assert one(won, contestant="a")["cost_usd"] == 5 and one(won, contestant="a")["tokens_per_win"] == 220
    given = per_verdict(run, stored)
    assert [one(given, judge=name)["unknown"] for name in "gh"] == [1, 2]
    assert given.filter(pl.col("judge").is_in(["g", "h"]))["cost_usd"].null_count() == 2, "no cost is known, not none"


@pytest.mark.parametrize("priced", [True, False])
def test_an_answer_that_is_lost_takes_no_tokens_from_a_win(priced: bool) -> None:
    none = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"))
    calls = [call("d1", 0, turn=1, unknown_usd=None), call("d2", 0, turn=1, **none) | {"cost_usd": None}]
    stored = spec(endpoints=() if priced else (API,))
    said = [("d1", "h", "for", None), ("d2", "h", "for", None)]
    for unknown_usd, tokens in ((0.0, 110), (None, None)):
        calls[1]["unknown_usd"] = unknown_usd
        assert one(per_win(tables(calls, said), stored, "h"), contestant="a")["tokens_per_win"] == tokens


def test_a_trajectory_is_paid_for_apart_and_wins_nothing() -> None:
    calls = [call("d1", usd, role="judge", call_id=name, model="g") for name, usd in (("g", 1), ("g2", 2), ("at", 4))]
    calls += [call("d1", 8, turn=1)]
    said = [("d1", "g", "for", "g"), ("d1", "g@2", "against", "g2"), ("d1", "g@home", "for", "at")]
    run = tables(calls, said)
    assert [one(spent(run, spec()), name=name)["cost_usd"] for name in ("g", "g@2", "g@home")] == [1, 2, 4]
    given = per_verdict(run, spec(panels=({"name": "bench", "members": ["g", "g@home"]},)))
    assert [one(given, judge=name)["cost_usd"] for name in ("g", "g@2", "g@home", "bench")] == [1, 2, 4, 5]
    assert set(per_win(run, spec())["judge"]) == {"g", "g@home"}


def test_what_a_verdict_costs_by_hand() -> None:
    calls = [
        call(debate, usd, role="judge", call_id=f"{judge}{debate}", model=judge)
        for judge, debate, usd in (("x", "d1", 1), ("x", "d2", 2), ("y", "d1", 8), ("y", "d2", 16))
    ]
    calls += [call("d1", 32, role="judge", model="who")]
    said = [
        ("d1", "x", "for", "xd1"),
        ("d2", "x", "tie", "xd2"),
        ("d1", "y", "for", "yd1"),
        ("d2", "y", "invalid", "yd2"),
    ]
    said += [("d1", "rules", "for", None), ("d1", "bench", "for", None), ("d2", "bench", "tie", None)]
    run = tables(calls, said)
    found = per_verdict(run, spec(panels=({"name": "bench", "members": ["x", "y"]},)))
    x, y, rules, bench = (one(found, judge=name) for name in ("x", "y", "rules", "bench"))
    assert (x["cost_per_verdict"], x["verdicts"], x["votes"], x["invalid_votes"]) == (1.5, 2, 2, 0)
    assert (y["cost_per_verdict"], y["verdicts"], y["invalid_votes"]) == (24, 1, 1), "an invalid vote was paid for"
    assert bench["cost_usd"] == x["cost_usd"] + y["cost_usd"] and bench["cost_per_verdict"] == 27 / 2
    assert bench["members"] == ["x", "y"] and rules["cost_per_verdict"] is None and rules["calls"] == 0
    assert one(found, judge=None)["cost_usd"] == 32
    assert found.filter(pl.col("members").is_null())["cost_usd"].sum() == total(run)


def test_stages_failures_and_completion_by_hand() -> None:
    turns = pl.LazyFrame(
        [
            ("d1", 1, "opening", "a", 100, True),
            ("d1", 2, "opening", "b", 50, False),
            ("d2", 1, "opening", "a", 200, False),
            ("d2", 2, "closing", "a", 10, False),
        ],
        schema=["debate_id", "turn", "stage", "contestant", "words", "trimmed"],
        orient="row",
    )
    wrong = pl.LazyFrame(
        [("d3", "speak", "timeout", "b", None, 3), ("d1", "judge", "unparseable", None, "gpt", 1)] * 1
        + [("d2", "judge", "unparseable", None, "gpt", 2)],
        schema=["debate_id", "step", "kind", "contestant", "judge", "attempts"],
        orient="row",
    )
    run = tables([call("d1", 1, turn=1)], [("d1", "gpt", "for", None)], turns=turns, failures=wrong)
    said = stages(run)
    opening = one(said, contestant="a", stage="opening")
    assert (opening["words"], opening["trimmed"], opening["turns"], opening["topics"]) == (150, 0.5, 2, 2)
    assert said.filter(contestant="a")["stage"].to_list() == ["opening", "closing"], "in the order of speaking"
    assert failures(run).rows() == [
        ("judge", "unparseable", None, "gpt", 2, 2, 3),
        ("speak", "timeout", "b", None, 1, 1, 3),
    ]
    everybody = one(completion(run), contestant=None)
    assert everybody["completion_rate"] == pytest.approx(2 / 3) and (everybody["debates"], everybody["void"]) == (3, 1)
    still = run.debates.with_columns(status=pl.when(debate_id="d3").then(pl.lit("open")).otherwise("status"))
    going = completion(Tables(**{**vars(run), "debates": still}))
    assert one(going, contestant=None)["completion_rate"] == 1, "what is still open has not ended"


# Played


def test_it_adds_up_on_a_run_whose_judges_are_asked_again(play: Play, tmp_path: Path) -> None:
    """Contestants and judges at an endpoint: one judge is never understood and is asked three times a vote, two share a
    model, and what their first answers cost has no owner."""
    judges = ["odd, judge?invalid=1", "mild, judge?invalid=0.5", "strict, judge?invalid=0.5", "fair, judge"]
    with simulate.serve(simulate.Settings(port=0)) as url:
        entries = roster(tmp_path / "r.toml", "oak, strength = 0.4")
        text = f'[[endpoints]]\nname = "api"\nbase_url = "{url}"\n{PRICES}\n'
        text += "".join(f'[[contestants]]\nname = "{n}"\nendpoint = "api"\nmodel = "sim-0.{n}"\n' for n in (5, 8))
        for entry in judges:
            name, model = entry.split(", ")
            text += f'[[judges]]\nname = "{name}"\nkind = "llm"\nendpoint = "api"\nmodel = "{model}"\n'
        text += '[[panels]]\nname = "bench"\nmembers = ["fair", "mild", "strict"]\n'
        entries.write_text(entries.read_text() + text)
        folder = play(roster=entries, judges=["odd", "bench", "rules"], limit=8, opener="alternate").folder
    run, stored = runs.load(folder), Spec.read(folder)
    found, verdicts = spent(run, stored), per_verdict(run, stored)
    assert found["cost_usd"].sum() == pytest.approx(total(run)) and total(run) > 0
    assert found["calls"].sum() == run.calls.select(pl.len()).collect().item()
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert found[name].sum() == run.calls.select(pl.col(name).sum()).collect().item()
    judged = found.filter(kind="judge")
    assert one(judged, name="odd")["calls"] == 8 * 2 * 3, "asked, repaired, asked afresh"
    assert one(judged, name=None)["calls"] > 0 and set(judged["name"]) == {"odd", "mild", "strict", "fair", None}
    own = verdicts.filter(pl.col("members").is_null())
    assert own["cost_usd"].sum() == pytest.approx(judged["cost_usd"].sum())
    members = own.filter(pl.col("judge").is_in(["fair", "mild", "strict"]))
    assert one(verdicts, judge="bench")["cost_usd"] == pytest.approx(members["cost_usd"].sum())
    assert one(verdicts, judge="odd")["verdicts"] == 0 and one(verdicts, judge="odd")["cost_per_verdict"] is None
    spoken = run.turns.select("call_id", "contestant").join(owned(run, stored), on="call_id").collect()
    assert spoken.height == 80 and (spoken["name"] == spoken["contestant"]).all()
    by_win = per_win(run, stored, "rules")
    for row in by_win.drop_nulls("cost_per_win").to_dicts():
        assert row["cost_per_win"] * row["wins"] == pytest.approx(row["cost_usd"])


def test_what_failed_is_paid_for_by_who_failed(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "oak, strength = 0.4", "weak, strength = 0.5, fails = 0.05")
    folder = play(roster=entries, limit=30).folder
    run = runs.load(folder)
    found = completion(run)
    void = run.debates.filter(status="void").select(pl.len()).collect().item()
    assert void > 2 and one(found, contestant=None)["void"] == one(found, contestant="weak")["void"] == void
    ended = run.debates.filter(pl.col("status") != "open").select(pl.len()).collect().item()
    assert one(found, contestant="oak")["debates"] == one(found, contestant="weak")["debates"] == ended
    rate = one(found, contestant=None)
    assert rate["completion_rate_low"] < rate["completion_rate"] < rate["completion_rate_high"]
    assert failures(run)["failures"].sum() == void and set(failures(run)["contestant"]) == {"weak"}
    assert spent(run, Spec.read(folder))["calls"].sum() == run.calls.select(pl.len()).collect().item()
