"""What a report is made of: a run being read, and the tables, pictures and remarks that are read off it.

    reading = Reading.of(runs.load(RUN))
    reading.board("bench").frame                    # each leaderboard is computed once
    Table.of(frame, "Wins", text("contestant"), rate("won", "win_rate"), whole("n", "debates"))

A `Table` holds what is shown, as text: a column says how it is headed, and how a row of a frame becomes its cell. So
the page and the Markdown show the same cells. Names are strangers' text: they are on one line and bounded here, and
escaped by whoever writes them out. A rate never stands without its interval, or the reason why it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import floor, log10
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from runs.bias import bias
from runs.markup import count, number, percent
from runs.panels import TRAJECTORY, is_trajectory
from runs.ratings import Leaderboard, leaderboard
from runs.report import charts
from runs.schema import TABLES
from runs.show import home
from runs.spec import Spec
from runs.statistics import Estimate
from runs.tables import Tables
from topics.errors import InputError, near, one_line

Row = dict[str, Any]
NAME = 60
"""Characters of a name that are shown."""
DASH = "–"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A run that is being read, and whose verdicts come first."""

    stored: Tables
    """As it is stored, with what was said."""
    run: Tables
    """What figures are read from: a run that is going as it stood when it was first looked at, without the texts."""
    spec: Spec
    judges: tuple[str, ...]
    """Everybody who gave verdicts on whole debates, and the one to go by, first."""

    @classmethod
    def of(cls, run: Tables, judge: str | None = None) -> Reading:
        """A run, by `judge`, or else by its first panel, or its first judge.

        Raises `InputError` where that judge has given no verdict.
        """
        spec = Spec.read(run.folder)
        given = run.verdicts.select(pl.col("judge").unique().sort()).collect()["judge"].to_list()
        if judge is not None and judge not in given:
            known = f"there are those of {', '.join(map(repr, given))}" if given else "nobody has given one"
            raise InputError(f"no verdict of judge {judge!r}; {known}{near(judge, given)}")
        whole = [name for name in given if not is_trajectory(name)]
        seated = [str(entry["name"]) for entry in (*spec.panels, *spec.judges)]
        order = dict.fromkeys([*([judge] if judge else []), *(name for name in seated if name in whole), *whole])
        return cls(stored=run, run=run if run.sealed else _at_once(run), spec=spec, judges=tuple(order))

    @property
    def judge(self) -> str | None:
        """The one to go by; null where nobody has given a verdict."""
        return self.judges[0] if self.judges else None

    @property
    def panels(self) -> frozenset[str]:
        """Judges that say what others said."""
        return frozenset(str(panel["name"]) for panel in self.spec.panels)

    @property
    def out(self) -> Path:
        """Where runs are made, and report cards lie."""
        return home(self.run.folder)

    @property
    def contestants(self) -> list[str]:
        """As seated."""
        return [str(contestant["name"]) for contestant in self.spec.contestants]

    @cached_property
    def debates(self) -> pl.DataFrame:
        """Of every state."""
        return self.run.debates.collect()

    @cached_property
    def verdicts(self) -> pl.DataFrame:
        """Of every judge, trajectories too."""
        return self.run.verdicts.collect()

    @cached_property
    def bias(self) -> dict[str, pl.DataFrame]:
        """What judges lean to, as `runs.bias` has it."""
        return bias(self.run, self.spec)

    def by_judge(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows in the order of `judges`; rows of others last."""
        place = {judge: number for number, judge in enumerate(self.judges)}
        rank = pl.col("judge").replace_strict(place, default=None, return_dtype=pl.Int64)
        return frame.sort(rank, nulls_last=True, maintain_order=True)

    @cached_property
    def _boards(self) -> dict[str | None, Leaderboard]:
        return {}

    def board(self, judge: str | None) -> Leaderboard:
        """The leaderboard by a judge, or of nobody; raises what `leaderboard` raises."""
        if judge not in self._boards:
            said = self.verdicts if judge else self.verdicts.filter(~pl.col("judge").str.contains(TRAJECTORY))
            made = leaderboard(self.debates, said, judge=judge, contestants=self.contestants)
            self._boards[judge] = made
        return self._boards[judge]


TEXTS = {"turns": ["text", "reasoning"], "votes": ["rationale", "quotes", "scores"]}
"""Columns that no figure is made of."""


def _at_once(run: Tables) -> Tables:
    """A run that is going, in memory: every figure is then of the same debates, and the journal is read once."""
    kept = {name: getattr(run, name).drop(TEXTS.get(name, [])).collect().lazy() for name in TABLES}
    return replace(run, **kept)


# What is shown


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    head: str
    show: Callable[[Row], str]
    text: bool = False
    """It holds words, not numbers."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a caption."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """What a reader must know before believing it."""
    folded: bool = False
    """It is wide or long, and waits to be opened."""

    @classmethod
    def of(
        cls, frame: pl.DataFrame, caption: str, *columns: Column, notes: Iterable[str] = (), folded: bool = False
    ) -> Table:
        """A frame's rows as `columns` show them."""
        rows = tuple(tuple(column.show(row) for column in columns) for row in frame.iter_rows(named=True))
        said = tuple(dict.fromkeys(one_line(note, 1000) for note in notes))
        return cls(caption=caption, columns=columns, rows=rows, notes=said, folded=folded)

    @property
    def header(self) -> int:
        """The column that heads a row: the first of words."""
        return next((i for i, column in enumerate(self.columns) if column.text), 0)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart as SVG, and what it says in words."""

    svg: Markup
    says: str
    dense: bool = False
    """Its writing is small already, so that it is never drawn smaller."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A remark: what a reader must know, or why something is not shown."""

    text: str


Part = Table | Picture | Note
Parts = Iterator[Part]


# Columns


def name(value: object) -> str:
    """A stranger's name, on one line."""
    return one_line(str(value), NAME) or DASH if value is not None else DASH


def text(head: str, column: str | None = None, *, none: str = DASH) -> Column:
    """Words of a frame's column, the one of that name by default."""
    of = column or head
    return Column(head=head, show=lambda row: none if row[of] is None else name(row[of]), text=True)


def whole(head: str, column: str | None = None) -> Column:
    """A count."""
    of = column or head
    return Column(head=head, show=lambda row: count(row[of]))


def plain(head: str, column: str, digits: int = 0, *, signed: bool = False) -> Column:
    """A number that has no interval because it is no estimate."""
    return Column(head=head, show=lambda row: number(row[column], digits, signed=signed))


def rate(head: str, column: str, bounds: str | None = None) -> Column:
    """A share in per cent with its interval, `<bounds>_low` and `<bounds>_high`."""
    return _estimate(head, column, bounds, lambda value: number(100 * value, 1), lambda value: percent(value))


def estimate(head: str, column: str, bounds: str | None = None, *, digits: int = 0, signed: bool = False) -> Column:
    """A number with its interval."""
    return _estimate(
        head, column, bounds, lambda value: number(value, digits), lambda value: number(value, digits, signed=signed)
    )


def dollars(head: str, column: str, *, bounded: bool = False) -> Column:
    """US dollars, with their interval if they are an estimate."""
    return _estimate(head, column, None, usd, usd) if bounded else Column(head=head, show=lambda row: usd(row[column]))


def usd(value: float | None) -> str:
    """Dollars to the cent, or, below one, to three digits that tell something."""
    if not value or abs(value) >= 1:
        return "0" if value == 0 else number(value, 2)
    return number(value, 2 - floor(log10(abs(value))))


def _estimate(
    head: str, column: str, bounds: str | None, bound: Callable[[float], str], shown: Callable[[float], str]
) -> Column:
    low, high = (f"{column if bounds is None else bounds}_{end}".lstrip("_") for end in ("low", "high"))

    def show(row: Row) -> str:
        if row[column] is None:
            return "too few topics" if row.get("few_topics") else DASH
        if row.get(low) is None:
            return f"{shown(row[column])} [{'too few topics' if row.get('few_topics') else 'no interval'}]"
        return f"{shown(row[column])} [{bound(row[low])}, {bound(row[high])}]"

    return Column(head=head, show=show)


def with_n(row: Row | None) -> str:
    """A win rate with its interval and its debates, in a cell of its own."""
    return DASH if row is None else f"{_WIN_RATE.show(row)}, n {row['debates']:,}"


_WIN_RATE = rate("won", "win_rate")


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence, the first of them."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(name, names[:most])) + more


def points(value: Estimate) -> str:
    """An estimate in rating points."""
    if value.value is None:
        return "unknown"
    interval = "no interval" if value.low is None else f"{number(value.low)}, {number(value.high)}"
    return f"{number(value.value, signed=True)} points [{interval}]"


def picture(drawn: charts.Drawing | None, anchor: str, says: str, *, dense: bool = False) -> Parts:
    """A chart, where there is one."""
    if drawn is not None:
        yield Picture(svg=charts.svg(drawn, anchor, says), says=says, dense=dense)
