"""A person as a judge: who they are, which debates they are given, and how a vote of theirs is stored.

    judge = name_of("ann")                                    # "human:ann"
    first = draw(run.journal.complete(), seed)[0]             # the same debates for everybody
    vote = vote_of(run.debate(first), judge, "for", confidence=0.8, reason="clearer")
    store(run, judge, [(first, vote)])                        # votes, verdicts, panels; a sealed run is sealed again

A person reads what every judge reads (`runs/transcript.py`: neutral names) and votes once on a debate: one vote, whose
verdict comes from the same function as any other. Votes come through a file (`judges/human.py`) or the viewer
(`runs/view.py`). A vote that is stored is not changed any more.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl

from runs import tables
from runs.panels import HUMAN, Kin, Panel, Tally
from runs.records import Debate, Match, Record, Vote, Winner, content_id
from runs.run import Run
from runs.schema import TABLES
from runs.verdicts import from_votes
from topics.errors import InputError, one_line

MOST_REASON = 5_000
"""Characters of a reason."""


def name_of(person: str) -> str:
    """The judge that a person is."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,50}", person):
        raise InputError(f"--name {person!r} is no person's name; expected up to 50 letters, digits, - and _")
    return f"{HUMAN}{person}"


def draw(matches: Iterable[Match], seed: int) -> list[Match]:
    """Matches by lot, so that every topic comes once before any comes twice."""
    by_lot = sorted(matches, key=lambda match: content_id("ballot", seed, match.debate_id))
    before: Counter[str] = Counter()
    rounds: list[tuple[int, Match]] = []
    for match in by_lot:
        rounds.append((before[match.topic_id], match))
        before[match.topic_id] += 1
    return [match for _, match in sorted(rounds, key=lambda place: place[0])]


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


def store(run: Run, judge: str, cast: Sequence[tuple[Match, Vote]]) -> None:
    """Record a person's votes, their verdicts, and those of panels that the person sits on; seal a sealed run again."""
    panels = [Panel.model_validate(panel) for panel in run.spec.panels]
    tally = Tally(panels, Kin(run.spec.judges, run.spec.contestants), run.journal.verdicts())
    records: list[Record] = []
    for match, vote in cast:
        verdict = from_votes(match.debate_id, judge, [vote])
        records += [vote, verdict, *tally.add(match, verdict)]
    if records:
        asyncio.run(run.journal.write(*records))
    if tables.is_sealed(run.folder):
        sealed = tables.load(run.folder).votes.filter(judge=judge).select(pl.len()).collect().item()
        if sealed < len(votes_of(run, judge)):  # whether they came just now, or before a sitting that ended here
            run.seal()
