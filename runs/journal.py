"""The journal: the truth about a run while it is going.

SQLite in WAL mode, one writer. `await journal.write(turn, call)` returns once both rows are on disk, in one
transaction; nothing may depend on a row before that. Rows that are written during one pass of the event loop
share a transaction, so that 64 debates at once cost one commit, not 64. The commit runs in the loop itself: it
takes about a tenth of a millisecond, and a thread would have to fight the loop for the interpreter.

Reading goes through a connection of its own, which is how a live viewer can look on.
"""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from runs.records import Match, Record, Status, TopicRow, Turn, Verdict, Vote
from runs.schema import BY_RECORD, TABLES, VERSION, from_micros
from topics import Topic
from topics.errors import InputError

NAME = "journal.db"

REPLACED = ("debates", "verdicts", "calls")
"""Tables whose rows may come again: a debate ends, a panel decides anew, a batch is fetched twice."""

INSERT = {
    table.record: (
        f"INSERT {'OR REPLACE' if table.name in REPLACED else ''} INTO {table.name} "
        f"VALUES ({', '.join('?' * len(table.columns))})"
    )
    for table in TABLES.values()
}
"""The statement that adds a record's row."""


class StorageError(RuntimeError):
    """A run could not be written. It must stop, because nothing may happen that is not recorded."""


class Journal:
    """A run's journal, made by `create` and opened for writing; close it when done."""

    def __init__(self, folder: Path) -> None:
        self._connection = _connect(folder / NAME)
        self._waiting: defaultdict[type[Record], list[tuple[Any, ...]]] = defaultdict(list)
        self._committed: asyncio.Future[None] | None = None

    @staticmethod
    def create(folder: Path, topics: Sequence[Topic]) -> None:
        """Make a journal in `folder` that knows the run's topics and nothing else."""
        with closing(_connect(folder / NAME)) as connection:
            connection.execute("BEGIN")
            for table in TABLES.values():
                for statement in table.ddl():
                    connection.execute(statement)
            connection.execute("CREATE INDEX debates_match ON debates (match)")
            rows = [BY_RECORD[TopicRow].encode(TopicRow.of(topic)) for topic in topics]
            connection.executemany(INSERT[TopicRow], rows)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")

    def queue(self, *records: Record) -> asyncio.Future[None]:
        """Put `records` into the next commit, without waiting for it."""
        if self._committed is None:
            loop = asyncio.get_running_loop()
            self._committed = loop.create_future()
            loop.call_soon(self._commit)
        for record in records:
            self._waiting[type(record)].append(BY_RECORD[type(record)].encode(record))
        return self._committed

    async def write(self, *records: Record) -> None:
        """Put `records` into the next commit and return once they are on disk.

        Raises `StorageError` if the commit failed; then nothing of the group is stored.
        """
        await asyncio.shield(self.queue(*records))  # one writer's cancellation is not the others'

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, defaultdict(list)
        committed, self._committed = self._committed, None
        assert committed is not None
        try:
            self._connection.execute("BEGIN")
            for record, rows in waiting.items():
                self._connection.executemany(INSERT[record], rows)
            self._connection.execute("COMMIT")
        except Exception as error:  # what a row holds may be refused before SQLite sees it
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            committed.set_exception(StorageError(f"the journal could not be written: {error}"))
            committed.exception()  # whoever waits hears of it; nobody need
        else:
            committed.set_result(None)

    def statuses(self) -> dict[str, Status]:
        """Status by debate id, for every debate that was begun."""
        return dict(self._connection.execute("SELECT debate_id, status FROM debates"))

    def complete(self) -> Iterator[Match]:
        """The matches whose debates are complete, in the order of the schedule."""
        names = tuple(field.name for field in fields(Match))
        query = f"SELECT {', '.join(names)} FROM debates WHERE status = 'complete' ORDER BY match"
        for row in self._connection.execute(query).fetchall():
            yield Match(**dict(zip(names, row, strict=True)))

    def started_at(self, debate_id: str) -> datetime:
        """When a debate was begun."""
        rows = self._connection.execute("SELECT started_at FROM debates WHERE debate_id = ?", (debate_id,))
        return from_micros(rows.fetchone()[0])

    def turns(self, debate_id: str) -> tuple[Turn, ...]:
        """The turns of a debate that have reached the journal, without what is private."""
        names = tuple(TABLES["turns"].columns)
        rows = self._connection.execute("SELECT * FROM turns WHERE debate_id = ? ORDER BY turn", (debate_id,))
        public = (dict(zip(names, row, strict=True)) | {"reasoning": None} for row in rows)
        return tuple(Turn(**row | {"trimmed": bool(row["trimmed"])}) for row in public)

    def votes(self, debate_id: str, judge: str) -> list[Vote]:
        """The votes of one judge on one debate, with what a verdict needs of them."""
        rows = self._connection.execute(
            'SELECT "order", sample, winner FROM votes WHERE debate_id = ? AND judge = ?', (debate_id, judge)
        )
        return [Vote(debate_id=debate_id, judge=judge, order=o, sample=s, winner=w) for o, s, w in rows]

    def judged(self) -> set[tuple[str, str]]:
        """(debate id, judge) of every verdict."""
        return set(self._connection.execute("SELECT debate_id, judge FROM verdicts"))

    def verdicts(self) -> Iterator[Verdict]:
        """Every verdict."""
        names = tuple(TABLES["verdicts"].columns)
        for row in self._connection.execute(f"SELECT {', '.join(names)} FROM verdicts"):
            values = dict(zip(names, row, strict=True))
            flags = {name: bool(values[name]) for name in ("consistent", "related")}
            yield Verdict(**values | flags)

    def costs(self) -> tuple[float, int, float]:
        """What all calls of the run have cost, as far as that is known; of how many of them it is not, or not wholly;
        and what these may have cost besides, at most. USD."""
        sums = "SELECT total(cost_usd), count(nullif(unknown_usd, 0)), total(unknown_usd) FROM calls"
        known, calls, unknown = self._connection.execute(sums).fetchone()
        return float(known), int(calls), float(unknown)

    def close(self) -> None:
        """Commit what waits, fold the write-ahead log into the file, and let go of it."""
        if self._committed is not None:
            self._commit()
        with suppress(sqlite3.Error):  # on a full disk the log stays beside the file, and nothing is lost
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()


def renew(folder: Path) -> None:
    """Bring the journal that an earlier version of this code wrote up to date; whoever calls holds the folder."""
    try:
        with closing(_connect(folder / NAME)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if not 0 < version < VERSION:
                return
            connection.execute("BEGIN")
            for table in TABLES.values():
                known = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
                for statement in table.additions(known) if known else ():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise InputError(f"{str(folder / NAME)!r} cannot be read as a journal: {error}") from None


def is_current(folder: Path) -> bool:
    """Whether a journal that `check` lets pass can be written to as it is, or has to be renewed first."""
    try:
        with closing(reader(folder)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise InputError(f"{str(folder / NAME)!r} cannot be read as a journal: {error}") from None
    return bool(version == VERSION)


def check(folder: Path) -> None:
    """Refuse a folder without a journal, or with one that a newer version of this code wrote."""
    path = folder / NAME
    if not path.is_file():
        raise InputError(f"{str(folder)!r} holds no {NAME}; expected the folder of a run")
    try:
        with closing(reader(folder)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise InputError(f"{str(path)!r} cannot be read as a journal: {error}") from None
    if version > VERSION:
        newer = f"newer than the {VERSION} known here; update debate-arena"
        raise InputError(f"{str(path)!r} has schema {version}, {newer}")
    if missing := [name for name in TABLES if name not in known]:
        raise InputError(f"{str(path)!r} cannot be read as a journal: it has no table {', '.join(missing)}")


def reader(folder: Path) -> sqlite3.Connection:
    """A read-only connection, which may be used while another process writes, by one thread at a time.

    A journal that an earlier version of this code wrote looks as if it had all columns of today, null in every row.
    """
    uri = f"{(folder / NAME).resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for table in TABLES.values() if version < VERSION else ():
            known = {row[1] for row in connection.execute(f"PRAGMA main.table_info({table.name})")}
            if known and not known.issuperset(table.columns):
                seen = [f'"{name}"' if name in known else f'NULL AS "{name}"' for name in table.columns]
                view = f"SELECT rowid, {', '.join(seen)} FROM main.{table.name}"  # `*` would change when it is renewed
                connection.execute(f"CREATE TEMP VIEW {table.name} AS {view}")  # of this connection alone
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a turn that was paid for survives a power cut as well
    return connection
