"""A person as a judge: who they are, which debates they are given, and how a vote of theirs is stored.

    judge = name_of("ann")                                    # "human:ann"
    first = draw(run.journal.complete(), seed)[0]             # the same debates for everybody
    vote = vote_of(run.debate(first), judge, "for", confidence=0.8, reason="clearer")
    store(run, judge, [(first, vote)])                        # a run that is held: all that follows; sealed again
    cast(folder, first, vote)                                 # one that another process may be playing
    reseal(folder)                                            # then, or when that process has ended

A person reads what every judge reads (`runs/transcript.py`: neutral names) and votes once on a debate: one vote, whose
verdict comes from the same function as any other. Votes come through a file (`judges/human.py`) or the viewer
(`runs/view`). A vote that is stored is not changed any more.

The journal takes a second writer, in turn with the one that plays. Whoever plays knows the panels' verdicts by heart,
though, and would not hear of a member's vote: so a person who sits on a panel votes while nobody plays. What was voted
after a run was sealed, or while it was, stands in the journal alone until `reseal`. Threads of one process wait for
each other: no member is refused because the same process seals, or stores another vote.
"""

import asyncio
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import polars as pl

from runs import journal, tables
from runs.journal import StorageError
from runs.panels import HUMAN, Kin, Panel, Tally
from runs.records import Debate, Match, Record, Verdict, Vote, Winner, content_id
from runs.run import Run
from runs.schema import BY_RECORD, TABLES
from runs.spec import Spec
from runs.verdicts import from_votes
from topics.errors import InputError, one_line

MOST_REASON = 5_000
"""Characters of a reason."""
PATIENCE_S = 10.0
"""How long a vote waits for the journal's other writer."""

_HOLDING = threading.Lock()
"""Had by the thread that holds a run, or is about to."""


def name_of(person: str) -> str:
    """The judge that a person is."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,50}", person):
        raise InputError(f"--name {person!r} is no person's name; expected up to 50 letters, digits, - and _")
    return f"{HUMAN}{person}"


def draw(matches: Iterable[Match], seed: int) -> list[Match]:
    """Matches by lot, so that every topic comes once before any comes twice."""
    by_id = {match.debate_id: match for match in matches}
    return [by_id[debate_id] for debate_id in lots(((m.debate_id, m.topic_id) for m in by_id.values()), seed)]


def lots(debates: Iterable[tuple[str, str]], seed: int) -> list[str]:
    """Ids of debates, given with those of their topics, in the order of `draw`."""
    before: Counter[str] = Counter()
    rounds: list[tuple[int, str]] = []
    for debate_id, topic_id in sorted(debates, key=lambda debate: _lot(seed, debate[0])):
        rounds.append((before[topic_id], debate_id))
        before[topic_id] += 1
    return [debate_id for _, debate_id in sorted(rounds, key=lambda place: place[0])]


@lru_cache(maxsize=2**17)  # while a run goes on it is drawn again and again
def _lot(seed: int, debate_id: str) -> str:
    return content_id("ballot", seed, debate_id)


def vote_of(debate: Debate, judge: str, winner: Winner, *, confidence: float | None = None, reason: str = "") -> Vote:
    """A person's vote on a debate; `confidence` is 0 to 1."""
    return Vote(
        debate_id=debate.id,
        judge=judge,
        order="for_first",
        sample=0,
        winner=winner,
        confidence=confidence,
        rationale=one_line(reason, MOST_REASON),
        identity=content_id(judge, "for_first", 0, content_id(*(turn.text for turn in debate.turns))),
    )


def votes_of(run: Run, judge: str) -> dict[str, tuple[str, float | None, str]]:
    """What a judge has voted, by debate."""
    votes = tables.scan_journal(run.folder, TABLES["votes"]).filter(judge=judge)
    rows = votes.select("debate_id", "winner", "confidence", "rationale").collect().rows()
    return {debate_id: (winner, confidence, rationale) for debate_id, winner, confidence, rationale in rows}


# A run that is held


def store(run: Run, judge: str, cast: Sequence[tuple[Match, Vote]]) -> None:
    """Record a person's votes, their verdicts, and those of panels that the person sits on; seal a sealed run again."""
    tally = _tally(run, run.journal.verdicts())
    records: list[Record] = []
    for match, vote in cast:
        verdict = from_votes(match.debate_id, judge, [vote])
        records += [vote, verdict, *tally.add(match, verdict)]
    if records:
        asyncio.run(run.journal.write(*records))
    if behind(run.folder):  # by votes that came just now, or before a sitting that ended here
        run.seal()


def _tally(run: Run, stored: Iterable[Verdict]) -> Tally:
    panels = [Panel.model_validate(panel) for panel in run.spec.panels]
    return Tally(panels, Kin(run.spec.judges, run.spec.contestants), stored)


# A run that another process may be playing


def cast(folder: Path, match: Match, vote: Vote) -> None:
    """Record a vote of a person, its verdict, and those of panels that the person sits on, in one transaction.

    The same vote once more changes nothing. A journal of an earlier version is renewed first. Raises `InputError` where
    the person voted otherwise before, or where another process holds the run, and the person sits on a panel of it or
    its journal is to be renewed; `StorageError` where the journal cannot be written.
    """
    journal.check(folder)
    verdict = from_votes(match.debate_id, vote.judge, [vote])
    panels = [str(panel["name"]) for panel in Spec.read(folder).panels if vote.judge in panel["members"]]
    if not panels and journal.is_current(folder):
        _add(folder, vote, verdict)
        return
    with _HOLDING:
        try:
            held = Run.resume(folder)
        except InputError as error:
            person, on = vote.judge.removeprefix(HUMAN), ", ".join(map(repr, panels))
            why = (
                f"{person} sits on the panel {on}, which is decided" if panels else "its journal is old, and is renewed"
            )
            raise InputError(f"{why} while nobody plays: {error}") from None
        except (sqlite3.Error, OSError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"the vote could not be written: {one_line(str(error))}") from None
        with held:
            tally = _tally(held, _verdicts(folder, match.debate_id))
            _add(folder, vote, verdict, *tally.add(match, verdict))


def _verdicts(folder: Path, debate_id: str) -> list[Verdict]:
    """Every verdict on one debate."""
    table = TABLES["verdicts"]
    query = f"SELECT {', '.join(table.columns)} FROM verdicts WHERE debate_id = ?"
    try:
        with closing(journal.reader(folder)) as connection:
            rows = connection.execute(query, (debate_id,)).fetchall()
    except sqlite3.Error as error:
        raise StorageError(f"the vote could not be written: {error}") from None
    return [Verdict(**row) for row in table.frame(rows).to_dicts()]


def _add(folder: Path, vote: Vote, *verdicts: Verdict) -> None:
    """Write a vote and what follows from it through a connection of its own, beside any other writer."""
    path = folder / journal.NAME
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            query = "SELECT winner, confidence, rationale FROM votes WHERE debate_id = ? AND judge = ?"
            stored = connection.execute(query, (vote.debate_id, vote.judge)).fetchall()
            if not stored:
                records: tuple[Record, ...] = (vote, *verdicts)
                for record in records:
                    connection.execute(journal.INSERT[type(record)], BY_RECORD[type(record)].encode(record))
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StorageError(f"the vote could not be written: {error}") from None
    if stored and stored != [(vote.winner, vote.confidence, vote.rationale)]:
        person = vote.judge.removeprefix(HUMAN)
        raise InputError(f"{person} has voted on this debate before, and a stored vote is not changed")


def behind(folder: Path) -> bool:
    """Whether a sealed run's journal holds votes of persons that its tables lack."""
    if not tables.is_sealed(folder) or not (folder / journal.NAME).is_file():
        return False
    with closing(journal.reader(folder)) as connection:
        query = "SELECT count(*) FROM votes WHERE substr(judge, 1, ?) = ?"
        (cast,) = connection.execute(query, (len(HUMAN), HUMAN)).fetchone()
    if not cast:
        return False
    by_persons = tables.load(folder).votes.filter(pl.col("judge").str.starts_with(HUMAN))
    return bool(by_persons.select(pl.len()).collect().item() < cast)


def reseal(folder: Path) -> str:
    """Seal a sealed run again where its tables lack votes of persons; why that could not be done yet, or nothing."""
    try:
        with _HOLDING:
            if behind(folder):
                with Run.resume(folder) as held:
                    held.seal()
    except (InputError, StorageError, sqlite3.Error, OSError, pl.exceptions.PolarsError) as error:
        return one_line(str(error))  # held by another process; no space; damaged
    return ""
