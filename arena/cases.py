"""From a stored run to a run of cases: what a calibration takes from the one and writes into the other.

    made = material(folder, seed=0, limit=60, each=1)      # debates of a run, and the cases made of them
    fill(held, made)                                       # a run that was just created: its debates, complete

The cases themselves are made in `judges/calibration.py`, and judged by `arena/calibrate.py`.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

import runs
from judges.calibration import Case, cases, frame
from runs import Run
from runs.panels import HUMAN
from runs.records import Debate, DebateRow, Match, Record, Turn, Vote, content_seed, slots_for
from runs.run import stored_topics
from runs.spec import Spec
from runs.tables import Tables
from runs.verdicts import from_votes
from topics import Topic
from topics.errors import InputError

NAME = "cases.parquet"


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is made of a run, before anybody is asked."""

    source: Spec
    cases: list[Case]
    human: list[Vote]
    """What persons have said of the debates."""

    @property
    def topics(self) -> list[Topic]:
        """What the cases are about."""
        return list({case.debate.topic.topic_id: case.debate.topic for case in self.cases}.values())


def material(folder: Path, *, seed: int, limit: int, each: int) -> Material:
    """The cases that a run gives on at most `limit` topics; those on which persons have voted come first."""
    loaded, source = runs.load(folder), Spec.read(folder)
    complete = loaded.debates.filter(status="complete").collect()
    voted = loaded.votes.filter(pl.col("judge").str.starts_with(HUMAN), pl.col("winner") != "invalid")
    human = [_vote(row) for row in voted.collect().to_dicts()]
    labelled = {vote.debate_id for vote in human}
    first = set(complete.filter(pl.col("debate_id").is_in(list(labelled)))["topic_id"])
    known = {topic.topic_id: topic for topic in stored_topics(loaded.topics)}
    ids = sorted(set(complete["topic_id"]), key=lambda i: (i not in first, content_seed(seed, "topic", i)))[:limit]
    debates = _debates(loaded, complete.filter(pl.col("topic_id").is_in(ids)), source, known)
    made = cases(debates, seed=seed, each=each, labelled=labelled)
    if not made:
        raise InputError(f"{str(folder)!r} has no complete debates; calibrate from another run: --from-run RUN")
    taken = {case.debate.id for case in made}
    return Material(source=source, cases=made, human=[vote for vote in human if vote.debate_id in taken])


def _debates(loaded: Tables, rows: pl.DataFrame, source: Spec, known: Mapping[str, Topic]) -> list[Debate]:
    """Stored debates with what was said, without what is private."""
    turns = loaded.turns.filter(pl.col("debate_id").is_in(rows["debate_id"].to_list())).drop("reasoning")
    spoken = turns.sort("debate_id", "turn").collect().partition_by("debate_id", as_dict=True)
    names = [field.name for field in fields(Match)]
    return [
        Debate(
            match=Match(**row),
            topic=known[row["topic_id"]],
            slots=slots_for(source.format, row["opener"]),
            turns=tuple(Turn(**turn, reasoning=None) for turn in spoken[row["debate_id"],].to_dicts()),
        )
        for row in rows.select(names).to_dicts()
    ]


def _vote(row: Mapping[str, Any]) -> Vote:
    """A person's vote, with what counts of it."""
    return Vote(**{name: row[name] for name in ("debate_id", "judge", "order", "sample", "winner", "confidence")})


def fill(held: Run, made: Material) -> None:
    """Write the cases, and their debates in one transaction: all of them are there, or none."""
    fresh = held.folder / f".{NAME}.new"
    frame(made.cases).write_parquet(fresh)
    fresh.replace(held.folder / NAME)
    asyncio.run(held.journal.write(*_records(made)))


def _records(made: Material) -> Iterator[Record]:
    """The made debates as complete ones, and what persons have said of them."""
    now = datetime.now(UTC)
    for debate in (case.debate for case in made.cases):
        about = {field.name: getattr(debate.match, field.name) for field in fields(Match)}
        yield DebateRow(**about, split=debate.topic.split, status="complete", started_at=now, ended_at=now)
        yield from debate.turns
    yield from made.human
    for debate_id, judge in sorted({(vote.debate_id, vote.judge) for vote in made.human}):
        yield from_votes(debate_id, judge, [v for v in made.human if (v.debate_id, v.judge) == (debate_id, judge)])
