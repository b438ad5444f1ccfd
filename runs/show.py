"""`python -m runs.show [RUN] [DEBATE]`: a run's leaderboard, or one debate as it was spoken and judged.

    print(leaderboards(runs.load(folder)))
    print(leaderboards(runs.load(folder), "gpt", length=True))

Works on a run that is still going as well. A debate's text is made in `runs/spoken.py`: it is wrapped to a terminal's
width and coloured there alone, and not where NO_COLOR is set; elsewhere a paragraph is a line, for whoever searches or
compares. Every leaderboard names the judge that it goes by, and says of a judge that asks a model how far it can be
trusted (`runs/cards.py`).
"""

import os
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from pydantic_settings import CliPositionalArg

from runs import cards, tables
from runs.adapters import aligned
from runs.ballots import behind
from runs.bias import FEW
from runs.list import ASIDE, Entry, look
from runs.panels import TRAJECTORY
from runs.ratings import Leaderboard, RatingsError
from runs.ratings import leaderboard as rate
from runs.run import NEWEST, OUT, find
from runs.settings import Command, parse
from runs.spec import Spec
from runs.spoken import transcript
from runs.statistics import Estimate
from runs.tables import Tables
from topics.errors import InputError, command, one_line

WIDEST = 110
"""Characters of a line on a terminal: longer ones are hard to read."""


class Settings(Command, cli_prog_name="python -m runs.show"):
    """Print the leaderboard of a run, or one of its debates."""

    run: CliPositionalArg[str] = NEWEST
    """a run's folder or id"""
    debate: CliPositionalArg[str] = ""
    """a debate_id, or the beginning of one"""
    judge: str | None = None
    """whose verdicts to rate by or to print (default: each judge's in turn)"""
    length: bool = False
    """ratings with the worth of saying more taken out, beside those with it"""
    out: Path = OUT
    """where runs are made"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    if settings.length and settings.debate:
        raise InputError(f"--length is about leaderboards, and {settings.debate!r} names a debate; leave out one")
    folder = find(settings.run, out=settings.out)
    loaded = tables.verified(folder)
    if settings.debate:
        print(transcript(loaded, settings.debate, settings.judge, width=_width(), colour=_colour()))
    else:
        print(leaderboards(loaded, settings.judge, length=settings.length))
    for line in _after(loaded, settings.debate):
        print(line)
    return 0


def _width() -> int | None:
    """Characters a line may have: on a terminal, or where COLUMNS says so."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return min(shutil.get_terminal_size().columns, WIDEST) if known else None


def _colour() -> bool:
    """Whether colour is wanted; see no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _after(loaded: Tables, debate: str) -> Iterator[str]:
    """How far a run is that is not finished, and what to type next."""
    run = shlex.quote(one_line(str(loaded.folder), 1000))
    if not loaded.sealed and isinstance(entry := look(loaded.folder), Entry):
        ended = f"{entry.debates - entry.owed:,} of {entry.debates:,} debates have ended"
        on = "" if entry.state == "going" else f"; to go on: python -m arena.run --resume {run}"
        yield f"note: the run is {'still going' if entry.state == 'going' else 'not finished'}: {ended}{on}"
    yield from (f"note: {one_line(note, 1000)}" for note in newer(loaded))
    if debate:
        yield f"next:  python -m runs.view {run}"
        return
    complete = loaded.debates.filter(status="complete").select("debate_id").head(1).collect()["debate_id"]
    one = f"python -m runs.show {run} {shlex.quote(one_line(complete[0]))}; " if len(complete) else ""
    yield f"next:  {one}python -m runs.report {run}"


def newer(loaded: Tables) -> Iterator[str]:
    """What must be known of a sealed run that people have voted in since."""
    try:
        if behind(loaded.folder):
            run = shlex.quote(one_line(str(loaded.folder), 1000))
            yield f"people have voted since the run was sealed; no figure knows of it before: python -m runs.view {run}"
    except (sqlite3.Error, RuntimeError, OSError) as error:
        yield f"nobody knows whether people have voted since the run was sealed: {error}"


# Leaderboards


def leaderboards(loaded: Tables, judge: str | None = None, *, length: bool = False) -> str:
    """The leaderboard by one judge's verdicts, or one for each judge of the run but those of a trajectory."""
    debates, verdicts = loaded.debates.collect(), loaded.verdicts.collect()
    whole = verdicts.filter(~pl.col("judge").str.contains(TRAJECTORY))
    judges = [judge] if judge else whole["judge"].unique(maintain_order=True).to_list() or [None]
    spec = Spec.read(loaded.folder)
    names = [str(contestant["name"]) for contestant in spec.contestants]
    words = loaded.turns.select("debate_id", "side", "words").collect() if length else None
    boards = [f"note: {note}" for note in aside(loaded.folder)]
    for name in judges:
        try:
            if words is None:
                board = render(rate(debates, verdicts if name else whole, judge=name, contestants=names))
            else:
                board = controlled(debates, verdicts, words, name)
            notes = (f"note: {one_line(note, 1000)}" for note in trust(home(loaded.folder), spec, name))
            boards.append("\n".join([board, *notes]))
        except RatingsError as error:
            boards.append(one_line(f"no leaderboard by {name}: {error}"))
    return "\n\n".join(boards)


_CALIBRATES = "this run calibrates a judge: debates were made to try it (degraded, padded, of a contestant with itself)"
_SCREENS = "this run screens motions: judges were asked before anybody had spoken"
_NO_LEAGUE = dict(zip(ASIDE, (_CALIBRATES, _SCREENS), strict=True))


def aside(folder: Path) -> Iterator[str]:
    """What a run is that is no league, by the folder that it lies in."""
    if what := _NO_LEAGUE.get(folder.absolute().parent.name):
        yield f"{what}; nothing here says who argues better"


def home(folder: Path) -> Path:
    """The folder in which runs are made, of a run's that lies in it, or aside (`runs.list.ASIDE`)."""
    parent = folder.absolute().parent
    return parent.parent if parent.name in ASIDE else parent


def trust(out: Path, spec: Spec, judge: str | None) -> Iterator[str]:
    """What a reader must know of a judge, or of a panel's members, from their report cards under `out`."""
    members = {panel["name"]: panel["members"] for panel in spec.panels}.get(judge, [judge])
    entries = [entry for entry in spec.judges if entry["name"] in members]
    found, unread = cards.look(out) if entries else ([], [])
    yield from (f"of a report card nobody knows whose it is: {why}" for why in unread)
    for entry in entries:
        card = cards.newest(found, entry)
        if card is None and "endpoint" in entry:
            how = f"python -m arena.calibrate --judge {entry['name']}"
            yield f"judge {entry['name']!r} was never calibrated; nobody knows how far to trust it: {how}"
        elif card is not None and (mark := cards.mark(card)):
            yield f"judge {entry['name']!r}: {mark}"


def render(board: Leaderboard) -> str:
    """A leaderboard as a text table; every rate with its 95 % interval."""
    head = ("", "contestant", "rating", "95 % interval", "won", "lost", "tied", "as FOR", "as AGAINST", "void")
    few = board.topics == 1  # more have an interval, and a note of what it is worth
    rows = [head, *(_row(row, few) for row in board.frame.iter_rows(named=True))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    about = f"{board.verdicts:,} verdicts of {one_line(board.judge or 'no judge')} on {board.topics} topics; "
    about += f"side term for FOR {_points(board.side, few)}"
    return "\n".join([*lines, about, *(f"note: {note}" for note in board.notes)])


def _row(row: dict[str, object], few: bool) -> tuple[str, ...]:
    def share(rate: str, of: str) -> str:
        if row[rate] is None:
            return "-"
        low, high = (_percent(row[f"{of}_{end}"]) for end in ("low", "high"))
        return f"{_percent(row[rate])} % [{_none(few) if low == '-' else f'{low}, {high}'}]"

    rated = row["rating"] is not None
    return (
        str(row["rank"] or "-"),
        one_line(str(row["contestant"]), 40),
        f"{row['rating']:.0f}" if rated else "-",
        _interval(row["low"], row["high"], few) if rated else "-",
        *(f"{row[name]:,}" for name in ("wins", "losses", "ties")),
        share("for_win_rate", "for"),
        share("against_win_rate", "against"),
        share("void_rate", "void"),
    )


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.0f}"


def _percent(value: object) -> str:
    return "-" if value is None else f"{100 * float(str(value)):.1f}"


def _interval(low: object, high: object, few: bool, between: str = " to ") -> str:
    return _none(few) if low is None else f"{_number(low)}{between}{_number(high)}"


def _none(few: bool) -> str:
    """Why there is no interval."""
    return "too few topics" if few else "no interval"


def _points(estimate: Estimate, few: bool) -> str:
    if estimate.value is None:
        return "unknown"
    return f"{estimate.value:+.0f} points [{_interval(estimate.low, estimate.high, few, ', ')}]"


def controlled(debates: pl.DataFrame, verdicts: pl.DataFrame, turns: pl.DataFrame, judge: str | None) -> str:
    """Ratings as if both sides had said as much, beside those on what was said, and the terms that are held apart."""
    from runs import terms

    found = terms.controlled(debates, verdicts, turns, judges=() if judge is None else (judge,))
    head = ("", "contestant", "at equal length", "95 % interval", "as spoken", "95 % interval")
    few = found.topics < FEW
    rows = [head, *(tuple(_both(row, few)) for row in found.frame.iter_rows(named=True))]
    lines = [aligned(rows, right=4)]
    for term in found.terms.filter(pl.col("term") != "judge").iter_rows(named=True):  # one judge has no mean to be off
        value = Estimate(value=term["value"], low=term["low"], high=term["high"])
        lines.append(f"{term['term']} term: {_points(value, few)} ({term['unit']})")
    lines.append(f"{found.verdicts:,} verdicts of {one_line(judge or 'no judge')} on {found.topics} topics")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def _both(row: dict[str, Any], few: bool) -> Iterator[str]:
    yield str(row["rank"] or "-")
    yield one_line(row["contestant"], 40)
    for value, low, high in (("rating", "low", "high"), ("plain", "plain_low", "plain_high")):
        yield _number(row[value])
        yield "-" if row[value] is None else _interval(row[low], row[high], few)


if __name__ == "__main__":
    sys.exit(main())
