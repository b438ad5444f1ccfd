"""What is stored of a run, read piece by piece: one debate by its key, a table as a whole, turns as they come.

    store = Store(folder)
    store.debate(debate_id).turns        # rows as dicts, without what is private
    store.frame("verdicts")              # lazily

The journal is the truth, and is read wherever it is there, of a sealed run as well: a vote that came after the sealing
stands in it first, and it finds a debate by its index. A sealed run that has lost its journal, before or while it is
looked at, is read from Parquet. Private reasoning is never read at all.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from runs import journal, tables
from runs.journal import StorageError
from runs.schema import TABLES
from topics.errors import InputError

Row = dict[str, Any]
UNREADABLE = (StorageError, sqlite3.Error, OSError, pl.exceptions.PolarsError)
"""What is raised while a run is being written, moved away or deleted."""
BLOCK = 2_000
"""Turns that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """All that is stored of one debate, without what is private; rows in the order of the tables."""

    turns: list[Row]
    votes: list[Row]
    verdicts: list[Row]
    failures: list[Row]
    calls: list[Row]


class Store:
    """A run's folder, read: from its journal, or from Parquet where a sealed run has none."""

    def __init__(self, folder: Path) -> None:
        """Raises `InputError` for a folder that can be read in neither way."""
        self.folder = folder
        self._sound = True
        try:
            journal.check(folder)
        except InputError:
            if not tables.is_sealed(folder):
                raise
            tables.load(folder)
            self._sound = False

    @property
    def journaled(self) -> bool:
        """Whether the journal is what is read now; that of a run that is not sealed is missed where it is gone."""
        return self._sound and (self.file() is not None or not tables.is_sealed(self.folder))

    def file(self) -> int | None:
        """Which file the journal is; None where it is gone, or was never sound."""
        with suppress(OSError):
            return (self.folder / journal.NAME).stat().st_ino if self._sound else None
        return None

    def frame(self, name: str) -> pl.LazyFrame:
        """A whole table, lazily."""
        if self.journaled:
            return tables.scan_journal(self.folder, TABLES[name])
        found: pl.LazyFrame = getattr(tables.load(self.folder), name)
        return found

    def debate(self, debate_id: str) -> Stored:
        """Everything that is stored of a debate."""
        names = ("turns", "votes", "verdicts", "failures", "calls")
        return Stored(**dict(zip(names, self._rows(debate_id, names), strict=True)))

    def turns(self, debate_id: str) -> list[Row]:
        """The turns of a debate."""
        return next(self._rows(debate_id, ("turns",)))

    def _rows(self, debate_id: str, names: tuple[str, ...]) -> Iterator[list[Row]]:
        if not self.journaled:
            for name in names:
                rows = self.frame(name).filter(debate_id=debate_id)
                yield (rows.with_columns(reasoning=None) if name == "turns" else rows).collect().to_dicts()
            return
        with closing(journal.reader(self.folder)) as connection:
            for name in names:
                columns = ("NULL" if column == "reasoning" else f'"{column}"' for column in TABLES[name].columns)
                query = f"SELECT {', '.join(columns)} FROM {name} WHERE debate_id = ? ORDER BY {_ORDER[name]}"
                yield TABLES[name].frame(connection.execute(query, (debate_id,)).fetchall()).to_dicts()

    def blocks(self, columns: str, after: int) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
        """Turns beyond the `after`th that was written, in blocks: how many that makes, and their `columns`."""
        if self.journaled:
            query = f"SELECT rowid, {columns} FROM turns WHERE rowid > ? ORDER BY rowid"
            with closing(journal.reader(self.folder)) as connection:
                cursor = connection.execute(query, (after,))  # turns are never replaced, so that row ids only grow
                while rows := cursor.fetchmany(BLOCK):
                    yield rows[-1][0], [row[1:] for row in rows]
            return
        turns = self.frame("turns").select(columns.split(", "))
        while rows := turns.slice(after, BLOCK * 8).collect().rows():
            after += len(rows)
            yield after, rows

    def mark(self, connection: sqlite3.Connection | None) -> object:
        """Changes when the run has changed; the journal's by `connection`, which must always be the same."""
        version = connection.execute("PRAGMA data_version").fetchone() if connection else None
        with suppress(OSError):
            stat = (self.folder / tables.MANIFEST).stat()
            return version, stat.st_mtime_ns, stat.st_size
        return version


_ORDER = {
    "turns": "turn",
    "votes": 'judge, "order" DESC, sample',
    "verdicts": "judge",
    "failures": "step DESC, turn, judge, at",
    "calls": "role DESC, turn, call_id",
}
