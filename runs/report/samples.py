"""Debates to read out of a run: few, chosen by rule and lot, so that nobody picks those that please.

    chosen = choose(reading, 5)          # which ones, and why
    samples = read(reading, chosen)      # with turns, verdicts, votes and failures

The rules take turns: the closest verdict, the clearest, one that judges see in opposite ways, one that came to nothing,
and then any. Where several fit a rule alike, the lot decides: a digest of the debate's id, the same for everybody and
for every report of the run. Private reasoning is not read at all.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from runs.markup import MOST, number
from runs.panels import TRAJECTORY, is_trajectory
from runs.records import content_id
from runs.report.reading import Reading, name

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A debate to read, and why this one."""

    why: str
    debate: Row
    topic: Row
    turns: list[Row]
    verdicts: list[Row]
    votes: list[Row]
    failures: list[Row]

    def quotes(self, turn: int) -> list[str]:
        """What judges quoted of a turn, but for what is longer than anything that is shown."""
        said = (quote for vote in self.votes for quote in vote["quotes"] or () if quote["turn"] == turn)
        return [quote["text"] for quote in said if len(quote["text"]) <= MOST]

    def of(self, judge: str) -> list[Row]:
        """The votes of a judge."""
        return [vote for vote in self.votes if vote["judge"] == judge]


def choose(reading: Reading, wanted: int) -> dict[str, str]:
    """Why each was chosen, by debate_id; fewer than `wanted` where the run has fewer."""
    chosen: dict[str, str] = {}
    rows = _facts(reading)
    for rule in (_closest, _clearest, _apart, _void, *[_any] * wanted):
        if len(chosen) < wanted and (found := rule(rows.filter(~pl.col("debate_id").is_in([*chosen])), reading.judge)):
            chosen[found[0]] = found[1]
    return chosen


def _facts(reading: Reading) -> pl.DataFrame:
    """Debates that ended, by lot: `status`, `margin` (of the judge to go by), `spread` (between single judges)."""
    single = [judge for judge in reading.judges if judge not in reading.panels and not is_trajectory(judge)]
    said = reading.verdicts.filter(pl.col("winner").is_in(["for", "against", "tie"]))
    judged = said.filter(pl.col("judge").eq_missing(pl.lit(reading.judge))).select("debate_id", "winner", "margin")
    margin = pl.col("margin")
    apart = said.filter(pl.col("judge").is_in(single)).group_by("debate_id").agg(spread=margin.max() - margin.min())
    ended = reading.debates.filter(pl.col("status") != "open").select("debate_id", "status")
    lot = pl.Series("lot", [content_id("sample", debate_id) for debate_id in ended["debate_id"]], dtype=pl.String)
    return ended.with_columns(lot).join(judged, "debate_id", "left").join(apart, "debate_id", "left").sort("lot")


Choice = tuple[str, str] | None


def _closest(rows: pl.DataFrame, judge: str | None) -> Choice:
    decided = rows.filter(status="complete").drop_nulls("margin").with_columns(pl.col("margin").abs())
    return _extreme(decided, "margin", f"the closest verdict of {name(judge)}", descending=False)


def _clearest(rows: pl.DataFrame, judge: str | None) -> Choice:
    decided = rows.filter(status="complete").drop_nulls("margin").with_columns(pl.col("margin").abs())
    return _extreme(decided, "margin", f"the clearest verdict of {name(judge)}", descending=True)


def _apart(rows: pl.DataFrame, judge: str | None) -> Choice:
    opposed = rows.filter(pl.col("spread") > 1, status="complete")
    return _extreme(opposed, "spread", "the one that judges are furthest apart on", descending=True)


def _void(rows: pl.DataFrame, judge: str | None) -> Choice:
    return _extreme(rows.filter(status="void").with_columns(of=pl.lit(0)), "of", "one that came to nothing")


def _any(rows: pl.DataFrame, judge: str | None) -> Choice:
    return _extreme(rows.with_columns(of=pl.lit(0)), "of", "any debate")


def _extreme(rows: pl.DataFrame, by: str, what: str, *, descending: bool = False) -> Choice:
    """The first by lot among those with the extreme value, and how many these are."""
    if not len(rows):
        return None
    best = rows[by].max() if descending else rows[by].min()
    equals = rows.filter(pl.col(by) == best)
    value = "" if by == "of" else f" ({by} {number(equals[by][0], 2)})"
    drawn = f", drawn by lot among {len(equals):,}" if len(equals) > 1 else ""
    return str(equals["debate_id"][0]), f"{what}{value}{drawn}"


def read(reading: Reading, chosen: dict[str, str]) -> list[Sample]:
    """The chosen debates, in that order."""
    run, ids = reading.stored, [*chosen]
    of_these, whole = pl.col("debate_id").is_in(ids), ~pl.col("judge").str.contains(TRAJECTORY)
    turns = _grouped(
        run.turns.filter(of_these).select(
            "debate_id", "turn", "side", "stage", "contestant", "text", "words", "trimmed"
        )
    )
    votes = _grouped(run.votes.filter(of_these & whole).drop("call_id", "identity"))
    failures = _grouped(run.failures.filter(of_these))
    verdicts = _grouped(reading.verdicts.lazy().filter(of_these & pl.col("judge").is_in(reading.judges)))
    topics = {row["topic_id"]: row for row in run.topics.drop("points").collect().iter_rows(named=True)}
    debates = {row["debate_id"]: row for row in reading.debates.filter(of_these).iter_rows(named=True)}
    rank = {judge: place for place, judge in enumerate(reading.judges)}
    return [
        Sample(
            why=why,
            debate=debates[debate_id],
            topic=topics[debates[debate_id]["topic_id"]],
            turns=sorted(turns.get(debate_id, []), key=lambda turn: turn["turn"]),
            verdicts=sorted(verdicts.get(debate_id, []), key=lambda verdict: rank[verdict["judge"]]),
            votes=votes.get(debate_id, []),
            failures=failures.get(debate_id, []),
        )
        for debate_id, why in chosen.items()
    ]


def _grouped(rows: pl.LazyFrame) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows.collect().iter_rows(named=True):
        found.setdefault(row["debate_id"], []).append(row)
    return found
