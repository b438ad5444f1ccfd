"""The data contract in one place: which tables a run holds, and how a record becomes a journal row and a column.

Columns come from the records' annotations, so the SQLite journal and the Parquet files cannot drift apart. In
SQLite times are microseconds since 1970 (UTC) and lists are JSON; in Polars they are what they are.
"""

import json
import types
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal

import polars as pl

from runs.records import Call, DebateRow, Failure, Record, TopicRow, Turn, Verdict, Vote

VERSION = 3
"""Of the journal and the tables. A newer one than this code knows is refused."""

TIME = pl.Datetime("us", "UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: its name, the record that is its row, its key, and the order its rows are stored in."""

    name: str
    record: type[Record]
    key: tuple[str, ...]
    unique: bool = True

    @cached_property
    def columns(self) -> dict[str, pl.DataType]:
        """Column names and Polars types, in the record's order."""
        return _columns(self.record)

    @cached_property
    def encode(self) -> Callable[[Any], tuple[Any, ...]]:
        """A function from a record to its SQLite row."""
        plain = attrgetter(*self.columns)
        special = [(i, _ENCODERS[type(t)]) for i, t in enumerate(self.columns.values()) if type(t) in _ENCODERS]
        if not special:
            return plain

        def encode(record: Any) -> tuple[Any, ...]:
            row = list(plain(record))
            for i, encoder in special:
                row[i] = encoder(row[i])
            return tuple(row)

        return encode

    def frame(self, rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
        """SQLite rows as a typed frame."""
        values = zip(*rows, strict=True) if rows else ([] for _ in self.columns)
        return pl.DataFrame(
            [_series(name, list(column), t) for (name, t), column in zip(self.columns.items(), values, strict=True)]
        )

    def ddl(self) -> list[str]:
        """The statements that make the table and its index."""
        columns = ", ".join(f'"{name}" {_SQL.get(type(t), "TEXT")}' for name, t in self.columns.items())
        key = ", ".join(f'"{name}"' for name in self.key)
        kind = "UNIQUE INDEX" if self.unique else "INDEX"
        return [f"CREATE TABLE {self.name} ({columns})", f"CREATE {kind} {self.name}_key ON {self.name} ({key})"]

    def additions(self, known: Collection[str]) -> list[str]:
        """The statements that add the columns which an older journal lacks; columns are only ever added, at the end."""
        new = ((name, t) for name, t in self.columns.items() if name not in known)
        return [f'ALTER TABLE {self.name} ADD COLUMN "{name}" {_SQL.get(type(t), "TEXT")}' for name, t in new]


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(name="debates", record=DebateRow, key=("debate_id",)),
        Table(name="turns", record=Turn, key=("debate_id", "turn")),
        Table(name="votes", record=Vote, key=("debate_id", "judge", "order", "sample")),
        Table(name="verdicts", record=Verdict, key=("debate_id", "judge")),
        Table(name="calls", record=Call, key=("debate_id", "call_id")),
        Table(name="failures", record=Failure, key=("debate_id", "step", "turn", "judge", "at"), unique=False),
        Table(name="topics", record=TopicRow, key=("topic_id",)),
    )
}
BY_RECORD: dict[type, Table] = {table.record: table for table in TABLES.values()}

CLOCK = frozenset({"started_at", "ended_at", "at", "latency_s"})
"""Columns that depend on when a run was made; every other one depends on the spec alone for contestants that do."""


def _columns(record: type) -> dict[str, pl.DataType]:
    hints = typing.get_type_hints(record, include_extras=True)
    return {field.name.rstrip("_"): _polars(hints[field.name]) for field in fields(record)}


def _polars(hint: Any) -> pl.DataType:
    """The Polars type of an annotation; an unknown one is an error."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # X | None
        (hint,) = (arg for arg in args if arg is not type(None))
        return _polars(hint)
    if origin is typing.Annotated:
        return pl.Int64()
    if origin is Literal or hint is str:
        return pl.String()
    if origin is tuple:
        return pl.List(_polars(args[0]))
    if is_dataclass(hint) and isinstance(hint, type):
        return pl.Struct(_columns(hint))
    return {int: pl.Int32(), float: pl.Float64(), bool: pl.Boolean(), datetime: TIME}[hint]


def from_micros(micros: int) -> datetime:
    """A time from its form in the journal."""
    return _EPOCH + micros * _MICROSECOND


def _micros(time: datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // _MICROSECOND


def _json(items: tuple[Any, ...]) -> str:
    if not items:
        return "[]"
    names = {field.name: field.name.rstrip("_") for field in fields(items[0])}  # its items hold plain values only
    rows = [{told: getattr(item, name) for name, told in names.items()} for item in items]
    return json.dumps(rows, ensure_ascii=False)


_ENCODERS: dict[type, Callable[[Any], Any]] = {pl.Datetime: _micros, pl.List: _json}
_SQL = {pl.Int32: "INTEGER", pl.Int64: "INTEGER", pl.Boolean: "INTEGER", pl.Datetime: "INTEGER", pl.Float64: "REAL"}


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, pl.Int64).cast(dtype)
    if isinstance(dtype, pl.Boolean):
        return pl.Series(name, values, pl.Int8).cast(dtype)
    if isinstance(dtype, pl.List):
        return pl.Series(name, values, pl.String).str.json_decode(dtype)
    return pl.Series(name, values, dtype)
