"""Chapters of a report on who argues better: leaderboards, length control, win matrix, strata, length.

Each function takes a `Reading` and yields tables, pictures and remarks; the figures come from `runs/ratings.py`,
`runs/terms.py`, `runs/pairings.py` and `runs/bias.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, Literal

import polars as pl

from runs.bias import FEW
from runs.markup import number
from runs.pairings import lengths, strata, win_matrix
from runs.panels import HUMAN, is_trajectory
from runs.ratings import Leaderboard, RatingsError
from runs.report import charts
from runs.report.reading import (
    DASH,
    Column,
    Note,
    Parts,
    Reading,
    Row,
    Table,
    estimate,
    listed,
    name,
    picture,
    plain,
    points,
    rate,
    text,
    whole,
    with_n,
)
from runs.show import aside, trust
from runs.terms import controlled
from topics.errors import InputError, one_line


def leaderboards(reading: Reading) -> Parts:
    """By the judge to go by as a picture and a table, by the others folded."""
    yield from (Note(text=note) for note in aside(reading.run.folder))
    for judge in reading.judges or (None,):
        first = judge == reading.judge
        try:
            board = reading.board(judge)
        except (RatingsError, InputError) as error:
            yield Note(text=f"no leaderboard by {name(judge)}: {one_line(str(error), 1000)}")
            continue
        if first:
            yield from picture(charts.leaderboard(board.frame), "leaderboard", f"Ratings by {name(judge)}")
            yield from _undrawn(board.frame["contestant"], charts.LONGEST)
        yield board_table(board, trust(reading.out, reading.spec, judge), folded=not first)


def _undrawn(contestants: Sized, most: int) -> Parts:
    if len(contestants) > most:
        yield Note(
            text=f"not drawn: {len(contestants):,} contestants, and a picture is of up to {most}; the table has all"
        )


def board_table(board: Leaderboard, warnings: Iterable[str] = (), *, folded: bool = False) -> Table:
    """A leaderboard as `runs.show` prints it."""
    about = f"{board.verdicts:,} verdicts on {board.topics} topics; side term for FOR {points(board.side)}"
    return Table.of(
        board.frame.with_columns(few_topics=_few(board.topics == 1)),  # more have an interval, and a note of its worth
        f"Leaderboard by {name(board.judge) if board.judge else 'no judge'}: {about}",
        whole("rank"),
        text("contestant"),
        estimate("rating", "rating", ""),
        whole("won", "wins"),
        whole("lost", "losses"),
        whole("tied", "ties"),
        rate("as FOR", "for_win_rate", "for"),
        rate("as AGAINST", "against_win_rate", "against"),
        rate("void", "void_rate", "void"),
        notes=(*board.notes, *warnings),
        folded=folded,
    )


def _few(topics: bool) -> pl.Expr:
    """Whether it is for want of topics that a rating has no interval; why there is no rating, notes say."""
    return pl.lit(topics) & pl.col("rating").is_not_null()


def controlled_for_length(reading: Reading) -> Parts:
    """Ratings with and without a term for length, by the judge to go by and by all single judges together."""
    single = [name for name in reading.judges if name not in reading.panels and not name.startswith(HUMAN)]
    whole = tuple(name for name in single if not is_trajectory(name))
    for judges in dict.fromkeys((reading.judges[:1], whole)):
        if judges:
            yield from with_and_without(
                reading.debates, reading.verdicts, reading.run.turns, judges, reading.spec.panels
            )


def with_and_without(
    debates: pl.DataFrame,
    verdicts: pl.DataFrame,
    turns: pl.DataFrame | pl.LazyFrame,
    judges: Sequence[str],
    panels: Iterable[Mapping[str, Any]],
) -> Parts:
    """Ratings by some judges' verdicts with and without a term for length, and what else decides."""
    try:
        found = controlled(debates, verdicts, turns, judges=judges, panels=panels)
    except (RatingsError, InputError) as error:
        yield Note(text=f"no length control by {listed(judges)}: {one_line(str(error), 1000)}")
        return
    whose, few = listed(judges), found.topics < FEW
    yield Table.of(
        found.frame.with_columns(few_topics=_few(few)),
        f"Ratings by {whose}: {found.verdicts:,} verdicts on {found.topics:,} topics",
        whole("rank"),
        text("contestant"),
        estimate("length controlled", "rating", ""),
        estimate("without control", "plain", "plain"),
        Column(head="difference", show=_moved),
    )
    yield Table.of(
        found.terms.drop_nulls("value").with_columns(few_topics=pl.lit(few)),  # the notes say which cannot be told
        f"What else decides, by {whose}, in rating points",
        text("term"),
        text("judge", none=""),
        estimate("points", "value", "", signed=True),
        plain("logits", "logit", 3, signed=True),
        text("of", "unit"),
        notes=found.notes,
    )


def _moved(row: Row) -> str:
    known = row["rating"] is not None and row["plain"] is not None
    return number(row["rating"] - row["plain"], signed=True) if known else DASH


def matrix(reading: Reading) -> Parts:
    """How often each beat each other."""
    found = win_matrix(reading.debates, reading.verdicts, reading.judge)
    if not len(found):
        yield Note(text="not shown: no verdict on a debate of two contestants")
        return
    order = reading.board(reading.judge).frame["contestant"].to_list()
    says = f"How often the contestant of a row beat that of a column, by {name(reading.judge)}"
    yield from picture(charts.win_matrix(found, order), "win-matrix", says, dense=True)
    yield from _undrawn(order, charts.WIDEST)
    cells = {(row["contestant"], row["other"]): row for row in found.iter_rows(named=True)}
    columns = (Column(head="beat", show=name, text=True), *(Column(head=name(other), show=name) for other in order))
    rows = tuple((name(one), *(with_n(cells.get((one, other))) for other in order)) for one in order)
    yield Table(caption=f"{says}, with intervals and debates", columns=columns, rows=rows, folded=True)


def strata_by(by: Literal["theme", "question_type"]) -> Callable[[Reading], Parts]:
    """Win rates within themes or question types."""

    def made(reading: Reading) -> Parts:
        found = strata(reading.run, reading.judge, by=by) if reading.judge else pl.DataFrame()
        if not len(found):
            yield Note(text=f"not shown by {by.replace('_', ' ')}: no verdict")
            return
        order = [None, *reading.board(reading.judge).frame["contestant"]]
        rows: dict[str | None, dict[str | None, Row]] = {}
        for row in found.iter_rows(named=True):
            rows.setdefault(row[by], {})[row["contestant"]] = row
        heads = ["FOR", *(name(one) for one in order[1:])]
        columns = (
            Column(head=by.replace("_", " "), show=name, text=True),
            *(Column(head=head, show=name) for head in ("topics", *heads)),
        )
        cells = tuple(
            (
                name(kind) if kind else "none given",
                f"{of[None]['topics']:,}",
                *(with_n(of.get(one)) for one in order),
            )
            for kind, of in rows.items()
        )
        yield Table(
            caption=f"Win rates by {by.replace('_', ' ')}, of {name(reading.judge)}", columns=columns, rows=cells
        )

    return made


def length(reading: Reading) -> Parts:
    """How often the side wins that says more, and what that is worth beside strength."""
    found = lengths(reading.run, reading.judge) if reading.judge else pl.DataFrame()
    if len(found):
        drawn = found.select("words", value="win_rate", low="win_rate_low", high="win_rate_high")
        says = f"How often the side won that said more, by {name(reading.judge)}"
        yield from picture(charts.lengths(drawn), "length", says)
        yield Table.of(
            found,
            says,
            Column(head="words more", show=_span, text=True),
            rate("won", "win_rate"),
            whole("debates"),
            whole("topics"),
            folded=True,
        )
    else:
        yield Note(text="not shown: no verdict on a debate in which one side said more")
    slopes = reading.bias["length"]
    if len(slopes):
        yield Table.of(
            reading.by_judge(slopes),
            "What saying so many words more is worth beside strength, in logits of FOR's odds",
            text("judge"),
            estimate("slope", "slope", digits=3, signed=True),
            plain("words more", "words"),
            whole("debates"),
            whole("topics"),
        )


def _span(row: Row) -> str:
    return f"{number(row['words_from'])} to {number(row['words_to'])}"
