"""The chapters of a report: what each shows of a run, and how to read it.

    for chapter in CHAPTERS:
        for part in chapter.parts(reading): ...     # tables, pictures, remarks

A chapter is a title, some sentences on how to read it, and functions that yield its parts. One that cannot be computed
says why, in its place; the others stand. Where that is a defect of ours it is warned of as well, which is an error to
a test. The functions are in `standings.py` (who argues better), `scrutiny.py` (how far to trust that) and `ledger.py`
(what it took). Nothing is computed in them that others could ask for too: figures come from the modules that know them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from runs.pairings import decided
from runs.ratings import RatingsError
from runs.report import ledger, scrutiny, standings
from runs.report.reading import Column, Note, Part, Parts, Reading, Table, listed, name
from runs.show import newer
from topics.errors import InputError, one_line


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A part of a report with a heading."""

    anchor: str
    title: str
    how: str
    """How to read it."""
    made: tuple[Callable[[Reading], Parts], ...]

    def parts(self, reading: Reading) -> list[Part]:
        """What the chapter shows of a run, and why something is not shown."""
        found: list[Part] = []
        for make in self.made:
            try:
                found += make(reading)
            except (RatingsError, InputError) as error:  # what exists and was not found
                found.append(Note(text=f"not shown: {one_line(str(error), 1000)}"))
            except Exception as error:
                what = one_line(f"{type(error).__name__}: {error}", 500)
                warnings.warn(f"a part of {self.title!r} is not shown: {what}", RuntimeWarning, stacklevel=2)
                found.append(Note(text=f"not shown, by a defect: {what}"))
        return found or [Note(text="nothing to show")]


def overview(reading: Reading) -> Parts:
    """What was played."""
    run, debates, spec = reading.run, reading.debates, reading.spec
    states = {state: int((debates["status"] == state).sum()) for state in ("complete", "void", "open")}
    splits = debates["split"].unique().sort().to_list()
    given = decided(debates, reading.verdicts).filter(~pl.col("judge").is_in(reading.panels))  # what others said
    facts = {
        "run": name(run.folder.name),
        "state": "sealed" if run.sealed else "still going: everything here is of what is there so far",
        "debates": ", ".join(f"{n:,} {state}" for state, n in states.items() if n) or "none",
        "topics": f"{debates['topic_id'].n_unique():,} of {len(spec.topics):,}, {listed(splits)}",
        "contestants": f"{len(spec.contestants):,}: {listed(reading.contestants)}",
        "judges": f"{len(reading.judges):,}: {listed(reading.judges)}"
        if reading.judges
        else "none has given a verdict on a whole debate",
        "verdicts that decide": f"{given.select(pl.len()).collect().item():,}",
        "opener": spec.opener,
        "seed": str(spec.seed),
        "digest": spec.digest[:16],
    }
    columns = (Column(head="", show=name, text=True), Column(head="of this run", show=name, text=True))
    yield Table(caption="What was played", columns=columns, rows=tuple(facts.items()))
    held_out = int((debates["split"] == "test").sum())
    if held_out:
        yield Note(text=f"{held_out:,} debates on held-out topics: each reading of them counts as a look")
    yield from (Note(text=note) for note in newer(run))


def _chapter(anchor: str, title: str, how: str, *made: Callable[[Reading], Parts]) -> Chapter:
    return Chapter(anchor=anchor, title=title, how=" ".join(how.split()).replace(" %", "\u00a0%"), made=made)


CHAPTERS = (
    _chapter("run", "The run", "What all figures below rest on.", overview),
    _chapter(
        "leaderboard",
        "Leaderboard",
        """A dot is a rating, the bar its 95 % interval over topics. 400 points are odds of ten to one, the mean is
        1500. Where bars overlap widely, the order is not settled. A tie is half a win to each.""",
        standings.leaderboards,
    ),
    _chapter(
        "length-control",
        "With and without length",
        """The same verdicts, rated once as they are and once with a term for saying more. Who falls with length
        control owes something to words; a term whose interval holds 0 may be nothing.""",
        standings.controlled_for_length,
    ),
    _chapter(
        "matrix",
        "Who beats whom",
        """A cell says how often the contestant of its row beat that of its column, and in how many debates (n): blue
        and over 50 % where the row is ahead, orange and under 50 % where it is behind.""",
        standings.matrix,
    ),
    _chapter(
        "sides",
        "FOR and AGAINST",
        """A judge without a leaning has FOR win half of the debates between equals. The share is plain; the side term
        has the contestants' strengths taken out. Of swapped pairs between equals, chance alone lets the side decide
        half; a public benchmark of this kind found 26.8 %.""",
        scrutiny.sides,
        scrutiny.swapped,
    ),
    _chapter(
        "strata",
        "Themes and question types",
        """How often each won within a stratum of topics, a tie as half. Under 10 topics there is no interval, because
        nobody could say how often it would hold.""",
        standings.strata_by("theme"),
        standings.strata_by("question_type"),
    ),
    _chapter(
        "judges",
        "Judges",
        """How far to trust the verdicts: report cards come from debates whose answer is known, agreement from debates
        that two judges have decided. An alpha or kappa of 0 is chance, 1 is perfect agreement.""",
        scrutiny.verdicts,
        scrutiny.report_cards,
        scrutiny.agreement,
        scrutiny.family,
    ),
    _chapter(
        "people",
        "Beside people",
        """Where people voted on some debates, what a judge gets wrong there can be taken out of its win rates
        everywhere. The interval has the doubt of both.""",
        scrutiny.corrected,
    ),
    _chapter(
        "length",
        "Length",
        """If saying more won debates, the curve would rise. Who argues better may also say more; the slope stands
        beside contestants' strengths, and is what is left to length.""",
        standings.length,
    ),
    _chapter(
        "stages",
        "Stages",
        "How much was said in each stage. A speech over its budget ends at a sentence end and is marked as trimmed.",
        ledger.spoken,
    ),
    _chapter(
        "failures",
        "Failures and completion",
        "What went wrong is data: it never became a speech, a tie or a zero. Void debates are counted and left out.",
        ledger.completed,
        ledger.failed,
    ),
    _chapter(
        "costs",
        "Costs",
        """What was asked, of whom, and what it cost. A dash is a number that nobody counted, never a zero. Intervals
        are over topics: what it would cost with others.""",
        ledger.spent,
        ledger.wins,
    ),
)
