"""From the journal to Polars tables, and back to whoever reads a run.

`seal(folder)` writes one Parquet file a table, each whole or not at all, and `manifest.json` last: its presence
means sealed. `load(folder)` gives the same lazy frames for a sealed run (from Parquet) and for one that is
still going (from the journal). Rows stream in both directions: a run of any size seals in bounded memory.

Rows stand in the order of the schedule, so a spec gives the same tables whatever order the answers came in.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from runs import journal
from runs.files import replace_text, sha256_of
from runs.journal import StorageError
from runs.schema import TABLES, VERSION, Table
from runs.spec import Spec
from topics.errors import InputError, one_line

MANIFEST = "manifest.json"
ROWS = 4096
"""Rows that are read from a journal at once."""
SEALING_S = 1.0
"""Seconds in which tables that were written are in their places, and the manifest with them."""
GROUP, PAGE = 16_384, 16 * 2**20
"""Rows of a row group and bytes of a page: large pages let zstd see repeats, which saves a tenth."""

_ORDER = {
    "debates": "r.match",
    "turns": "d.match, r.turn",
    "calls": "d.match, r.role DESC, r.turn, r.call_id",
    "votes": 'd.match, r.judge, r."order" DESC, r.sample',
    "verdicts": "d.match, r.judge",
    "failures": "d.match, r.step DESC, r.turn, r.judge, r.at",
    "topics": "r.rowid",
}


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A run's tables as lazy frames; columns as in docs/tables.md."""

    folder: Path
    sealed: bool
    debates: pl.LazyFrame
    turns: pl.LazyFrame
    votes: pl.LazyFrame
    verdicts: pl.LazyFrame
    calls: pl.LazyFrame
    failures: pl.LazyFrame
    topics: pl.LazyFrame


def load(folder: Path) -> Tables:
    """The tables of a run folder, sealed or still going.

    Raises `InputError` where a sealed run's files are not there, or not of the size that was sealed; `verify`
    compares their digests.
    """
    sealed = is_sealed(folder)
    if sealed:
        _check_patiently(folder)
    else:
        journal.check(folder)
    frames = {name: _scan(folder, table) if sealed else scan_journal(folder, table) for name, table in TABLES.items()}
    return Tables(folder=folder, sealed=sealed, **frames)


def _scan(folder: Path, table: Table) -> pl.LazyFrame:
    """A sealed table; columns that an earlier version did not have are null."""
    return pl.scan_parquet(folder / f"{table.name}.parquet", schema=table.columns, missing_columns="insert", glob=False)


def is_sealed(folder: Path) -> bool:
    """Whether a run is finished and its tables written."""
    return (folder / MANIFEST).is_file()


def seal(folder: Path) -> dict[str, Any]:
    """Write every table, then the manifest; returns what the manifest holds.

    Raises `StorageError` where that fails; the journal still holds everything, and sealing can be tried again.
    """
    try:
        return _seal(folder)
    except (OSError, sqlite3.Error, pl.exceptions.PolarsError) as error:
        raise StorageError(f"the tables could not be written: {one_line(str(error))}") from None


def _seal(folder: Path) -> dict[str, Any]:
    try:
        with closing(journal.reader(folder)) as snapshot:  # all tables of one moment: persons may vote meanwhile
            snapshot.execute("BEGIN")
            written = {name: _write(folder, table, snapshot) for name, table in TABLES.items()}
        for name in TABLES:
            _fresh(folder, name).replace(folder / f"{name}.parquet")
    finally:
        for name in TABLES:
            _fresh(folder, name).unlink(missing_ok=True)
    manifest = {
        "version": VERSION,
        "run": folder.name,
        "generation": _generation(folder) + 1,
        "spec": Spec.read(folder).digest,
        "sealed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tables": written,
    }
    replace_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _fresh(folder: Path, name: str) -> Path:
    return folder / f".{name}.parquet.new"


def verified(folder: Path) -> Tables:
    """The tables of a run; those of a sealed one are compared with their digests. Raises as `load` and `verify` do."""
    loaded = load(folder)
    if loaded.sealed:
        verify(folder)
    return loaded


def verify(folder: Path) -> None:
    """Raise `InputError` that names the tables whose files are not the ones that were sealed."""
    _check(folder, lambda path, stated: bool(sha256_of(path) == stated["sha256"]))


def _check_patiently(folder: Path) -> None:
    """Refuse files that are not of the size that was sealed: not at once, since a run may just be sealed again."""
    end = monotonic() + SEALING_S
    while True:
        try:
            return _check(folder, lambda path, stated: path.stat().st_size == stated["bytes"])
        except InputError:
            if monotonic() > end:
                raise
        sleep(SEALING_S / 20)


def _check(folder: Path, same: Callable[[Path, dict[str, Any]], bool]) -> None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, stated = int(manifest["version"]), manifest["tables"]
        wrong = [name for name in TABLES if version <= VERSION and not same(folder / f"{name}.parquet", stated[name])]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = one_line(f"{type(error).__name__}: {error}")
        raise InputError(f"the sealed run {str(folder)!r} cannot be read ({what}); {_AGAIN}") from None
    if version > VERSION:
        raise InputError(f"{str(folder)!r} has schema {version}, newer than the {VERSION} known; update debate-arena")
    if wrong:
        raise InputError(f"{str(folder)!r}: {', '.join(wrong)} differ from what was sealed; {_AGAIN}")


_AGAIN = f"to seal it again from its journal, delete {MANIFEST} and resume it"


def scan_journal(folder: Path, table: Table, snapshot: sqlite3.Connection | None = None) -> pl.LazyFrame:
    """One table of a journal, lazily: read in blocks when it is collected, through `snapshot` if there is one."""

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        with nullcontext(snapshot) if snapshot else closing(journal.reader(folder)) as connection:
            yield from _narrowed(_blocks(connection, table), with_columns, predicate, n_rows)

    return register_io_source(source, schema=pl.Schema(table.columns))


def _narrowed(
    blocks: Iterator[pl.DataFrame], columns: list[str] | None, predicate: pl.Expr | None, rows: int | None
) -> Iterator[pl.DataFrame]:
    """What is asked for of a table's blocks: the first so many rows, those that a predicate holds for, some columns."""
    for frame in blocks:
        if rows is not None:
            frame = frame.head(rows)
            rows -= frame.height
        if predicate is not None:
            frame = frame.filter(predicate)
        yield frame.select(columns) if columns is not None else frame
        if rows == 0:
            return


def _blocks(connection: sqlite3.Connection, table: Table) -> Iterator[pl.DataFrame]:
    cursor = connection.execute(_select(table))
    while rows := cursor.fetchmany(ROWS):
        yield table.frame(rows)


def _select(table: Table) -> str:
    name, columns = table.name, ", ".join(f'r."{column}"' for column in table.columns)
    if name in ("debates", "topics"):
        return f"SELECT {columns} FROM {name} r ORDER BY {_ORDER[name]}"
    # CROSS JOIN keeps SQLite from reordering: debates by their index on match, so that only a debate's rows are sorted
    return f"SELECT {columns} FROM debates d CROSS JOIN {name} r USING (debate_id) ORDER BY {_ORDER[name]}"


def _write(folder: Path, table: Table, snapshot: sqlite3.Connection) -> dict[str, Any]:
    """Write one table beside its place, on disk for good; returns what the manifest says of it."""
    fresh = _fresh(folder, table.name)
    scan_journal(folder, table, snapshot).sink_parquet(
        fresh,
        compression="zstd",
        compression_level=9,
        row_group_size=GROUP,
        data_page_size=PAGE,
        maintain_order=True,
    )
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    rows = pl.scan_parquet(fresh, glob=False).select(pl.len()).collect().item()
    return {"rows": rows, "bytes": fresh.stat().st_size, "sha256": sha256_of(fresh)}


def _generation(folder: Path) -> int:
    try:
        return int(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["generation"])
    except (OSError, ValueError, KeyError):
        return 0
