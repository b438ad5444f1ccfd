"""`python -m runs.show [RUN] [DEBATE]`: a run's leaderboard, or one debate as it was spoken.

Works on a run that is still going as well. What contestants said is printed as text: control characters that
could move a cursor or recolour a terminal are left out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from pydantic_settings import CliPositionalArg

from runs import cards, tables
from runs.ratings import Leaderboard, RatingsError
from runs.ratings import leaderboard as rate
from runs.run import NEWEST, OUT, find
from runs.settings import Command, parse
from runs.spec import Spec
from runs.statistics import Estimate
from runs.tables import Tables
from topics.errors import InputError, command, near, one_line


class Settings(Command, cli_prog_name="python -m runs.show"):
    """Print the leaderboard of a run, or one of its debates."""

    run: CliPositionalArg[str] = NEWEST
    """a run's folder or id"""
    debate: CliPositionalArg[str] = ""
    """a debate_id, or the beginning of one"""
    judge: str | None = None
    """whose verdicts to rate by (default: each judge's in turn)"""
    out: Path = OUT
    """where runs are made"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    folder = find(settings.run, out=settings.out)
    loaded = tables.load(folder)
    if loaded.sealed:
        tables.verify(folder)
    print(transcript(loaded, settings.debate) if settings.debate else leaderboards(loaded, settings.judge))
    return 0


def leaderboards(loaded: Tables, judge: str | None = None) -> str:
    """The leaderboard by one judge's verdicts, or one for each judge of the run but those of a trajectory."""
    debates, verdicts = loaded.debates.collect(), loaded.verdicts.collect()
    known = verdicts.filter(~pl.col("judge").str.contains("@"))["judge"].unique(maintain_order=True).to_list()
    judges = [judge] if judge else known or [None]
    spec = Spec.read(loaded.folder)
    names = [str(contestant["name"]) for contestant in spec.contestants]
    boards = []
    for name in judges:
        try:
            board = render(rate(debates, verdicts, judge=name, contestants=names))
            boards.append("\n".join([board, *(f"note: {note}" for note in trust(loaded.folder.parent, spec, name))]))
        except RatingsError as error:
            boards.append(f"no leaderboard by {name}: {error}")
    return "\n\n".join(boards)


def trust(out: Path, spec: Spec, judge: str | None) -> Iterator[str]:
    """What a reader must know of a judge, or of a panel's members, from their report cards under `out`."""
    members = {panel["name"]: panel["members"] for panel in spec.panels}.get(judge, [judge])
    for entry in (entry for entry in spec.judges if entry["name"] in members):
        card = cards.card_of(out, entry)
        if card is None and "endpoint" in entry:
            how = f"python -m arena.calibrate --judge {entry['name']}"
            yield f"judge {entry['name']!r} was never calibrated; nobody knows how far to trust it: {how}"
        elif card is not None and (mark := cards.mark(card)):
            yield f"judge {entry['name']!r}: {mark}"


def render(board: Leaderboard) -> str:
    """A leaderboard as a text table; every rate with its 95 % interval."""
    head = ("", "contestant", "rating", "95 % interval", "won", "lost", "tied", "as FOR", "as AGAINST", "void")
    rows = [head, *(_row(row) for row in board.frame.iter_rows(named=True))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    about = f"{board.verdicts:,} verdicts of {board.judge or 'no judge'} on {board.topics} topics; "
    about += f"side term for FOR {_points(board.side)}"
    return "\n".join([*lines, about, *(f"note: {note}" for note in board.notes)])


def _row(row: dict[str, object]) -> tuple[str, ...]:
    def share(rate: str, of: str) -> str:
        if row[rate] is None:
            return "-"
        return f"{_percent(row[rate])} % [{_percent(row[f'{of}_low'])}, {_percent(row[f'{of}_high'])}]"

    rated = row["rating"] is not None
    return (
        str(row["rank"] or "-"),
        one_line(str(row["contestant"]), 40),
        f"{row['rating']:.0f}" if rated else "-",
        f"{_number(row['low'])} to {_number(row['high'])}" if rated else "-",
        *(f"{row[name]:,}" for name in ("wins", "losses", "ties")),
        share("for_win_rate", "for"),
        share("against_win_rate", "against"),
        share("void_rate", "void"),
    )


def transcript(loaded: Tables, debate: str) -> str:
    """One debate: the motion, what was said in turn, and the verdicts."""
    rows = loaded.debates.filter(pl.col("debate_id").str.starts_with(debate)).collect()
    if rows.height != 1:
        found = f"{rows.height} debates of {str(loaded.folder)!r} begin with {debate!r}"
        hint = "" if rows.height else near(debate, loaded.debates.select("debate_id").collect()["debate_id"].head(5000))
        raise InputError(f"{found}; expected the debate_id of one{hint}")
    row = rows.row(0, named=True)
    topic = loaded.topics.filter(pl.col("topic_id") == row["topic_id"]).collect().row(0, named=True)
    of_debate = pl.col("debate_id") == row["debate_id"]
    seats = f"FOR {row['for_contestant']}, AGAINST {row['against_contestant']}; {row['status']}"
    lines = [one_line(topic["motion"], 1000), one_line(seats)]
    for turn in loaded.turns.filter(of_debate).sort("turn").collect().iter_rows(named=True):
        words = f"{turn['words']} words{', trimmed' if turn['trimmed'] else ''}"
        title = f"{turn['turn']}. {turn['side'].upper()} {turn['contestant']}: {turn['stage']} ({words})"
        lines += ["", one_line(title), _safe(turn["text"])]
    for failure in loaded.failures.filter(of_debate).collect().iter_rows(named=True):
        where = f"{failure['step']} {failure['turn'] or ''}".strip()
        lines += ["", f"failed at {where}: {failure['kind']}, {one_line(failure['message'])}"]
    for verdict in loaded.verdicts.filter(of_debate).collect().iter_rows(named=True):
        detail = f"margin {verdict['margin']}, votes {verdict['votes']}"
        lines += ["", one_line(f"verdict of {verdict['judge']}: {verdict['winner']} ({detail})")]
    for vote in loaded.votes.filter(of_debate).collect().iter_rows(named=True):
        lines += [f"  {one_line(vote['rationale'] or vote['error'] or '', 600)}"]
    return "\n".join(lines)


def _safe(text: str) -> str:
    return "".join(c for c in text if c.isprintable() or c == "\n")


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.0f}"


def _percent(value: object) -> str:
    return "-" if value is None else f"{100 * float(str(value)):.1f}"


def _points(estimate: Estimate) -> str:
    if estimate.value is None:
        return "unknown"
    return f"{estimate.value:+.0f} points [{_number(estimate.low)}, {_number(estimate.high)}]"


if __name__ == "__main__":
    sys.exit(main())
