"""`python -m runs.list`: the runs there are, newest first, and how far each one is.

    entries = [look(folder) for folder in found(OUT)]
    print(render(entries))

A run is sealed, or going (a process holds it), or stopped (nobody does, and debates or verdicts may be owed). Whoever
holds a run has an exclusive lock on its file `.lock`, so asking for a shared one says at once whether somebody does.
It is asked for without waiting, on a descriptor that can only read, and let go in the same breath: two lists do not
see each other, a holder notices nothing, and only a process that would take the run in that very moment could be
turned away, with a line that tells it to try again.

Nothing that was said is read. A sealed run is counted from two columns or three of its tables, one that is not from
its journal by SQLite itself, so that hundreds of runs take about a second. What cannot be read is listed with the
reason, and hides nothing else.
"""

import fcntl
import os
import shlex
import shutil
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field

from runs import cards, journal, spec, tables
from runs.adapters import aligned
from runs.costs import paid, unknown
from runs.run import LOCK, OUT
from runs.settings import Command, parse
from runs.spec import Spec
from topics.errors import InputError, command, is_file, one_line

State = Literal["sealed", "going", "stopped"]
ASIDE = (cards.FOLDER, "screens")
"""Folders beside runs that hold runs of their own: debates that were made, or motions alone."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run, in numbers."""

    folder: Path
    state: State
    debates: int
    """All: those of the schedule, or of the table where nobody scheduled them."""
    complete: int
    void: int
    splits: dict[str, int]
    """Topics that were debated, by split."""
    contestants: tuple[str, ...]
    judges: tuple[str, ...]
    """Every judge that was ever seated; panels first."""
    cost_usd: float | None
    """Null where somebody answered at an endpoint that has no price, or no call's is known."""
    unknown: int
    """Calls that the cost is without, or without a part of: nobody knows what they took."""
    size: int
    """Bytes on disk."""
    changed_at: datetime
    """When it was sealed, or else when its journal was last written."""

    @property
    def owed(self) -> int:
        """Debates that have not come to an end."""
        return self.debates - self.complete - self.void


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A run that cannot be read, and why."""

    folder: Path
    why: str


def found(out: Path = OUT, *, aside: bool = False) -> list[Path]:
    """The folders under `out` that hold a run, or whose insides nobody shows; newest first. `aside`: of `ASIDE` too."""
    places = [out, *(out / name for name in ASIDE if aside)]
    folders = (folder for place in places for folder in _inside(place) if not folder.name.startswith("."))
    return sorted(filter(_is_run, folders), key=lambda folder: folder.name, reverse=True)


def _inside(place: Path) -> list[Path]:
    try:
        return list(place.iterdir()) if place.is_dir() else []
    except OSError as error:
        raise InputError(f"{str(place)!r} cannot be read ({error.strerror}); name another folder with --out") from None


def _is_run(folder: Path) -> bool:
    """Whether there is a spec, or no telling."""
    try:
        return (folder / spec.NAME).is_file()
    except OSError:
        return True


def look(folder: Path) -> Entry | Unread:
    """What there is to say of a run."""
    try:
        return _look(folder)
    except (OSError, ValueError, sqlite3.Error, pl.exceptions.PolarsError) as error:  # an InputError is a ValueError
        return Unread(folder=folder, why=getattr(error, "strerror", None) or str(error))


def _look(folder: Path) -> Entry:
    stored = Spec.read(folder)
    sealed = tables.is_sealed(folder)
    debates, cost, lost = _sealed(folder, stored) if sealed else _going(folder, stored)
    ended: Counter[str] = Counter()
    topics: defaultdict[str, set[str]] = defaultdict(set)
    for status, split, topic_id, count in debates:
        ended[status] += count
        topics[split].add(topic_id)
    return Entry(
        folder=folder,
        state="going" if held(folder) else "sealed" if sealed else "stopped",
        debates=max(scheduled(stored) if folder.parent.name not in ASIDE else 0, ended.total()),
        complete=ended["complete"],
        void=ended["void"],
        splits={split: len(topics[split]) for split in sorted(topics)},
        contestants=_names(stored.contestants),
        judges=_names([*stored.panels, *stored.judges]),
        cost_usd=cost,
        unknown=lost,
        size=sum(found.st_size for found in _stats(folder.iterdir())),
        changed_at=_changed_at(folder, sealed),
    )


def scheduled(stored: Spec) -> int:
    """How many debates a spec schedules: `matches` a topic, or every ordered pair; up to `--limit`."""
    each = stored.matches or len(stored.contestants) * (len(stored.contestants) - 1)
    limit = stored.settings.get("limit")
    every = len(stored.topics) * each * stored.replicates
    return min(every, limit) if isinstance(limit, int) else every


Counts = list[tuple[str, str, str, int]]
"""Debates by status, split and topic."""


def _sealed(folder: Path, stored: Spec) -> tuple[Counts, float | None, int]:
    """What debates there are, what their calls cost, as far as `runs.costs.paid` knows, and of how many it does not."""
    loaded = tables.load(folder)
    debates = loaded.debates.group_by("status", "split", "topic_id").agg(pl.len())
    told, lost = pl.col("cost_usd").is_not_null(), pl.col("unknown")
    known = (told | lost).all() & (told.any() | ~lost.any())
    cost = pl.when(known).then(pl.col("cost_usd").sum())
    calls = loaded.calls.select(unknown(stored), paid(stored)).select(cost, lost.sum())
    counted, sums = pl.collect_all([debates, calls])
    return counted.rows(), *sums.row(0)


def _going(folder: Path, stored: Spec) -> tuple[Counts, float | None, int]:
    """The same from the journal."""
    journal.check(folder)
    with closing(journal.reader(folder)) as connection:
        query = "SELECT status, split, topic_id, count(*) FROM debates GROUP BY 1, 2, 3"
        counted = connection.execute(query).fetchall()
        unpriced = stored.unpriced
        at_them = f"endpoint IN ({', '.join('?' * len(unpriced))})"
        asked = (
            f"SELECT total(cost_usd), count(cost_usd), total(ifnull(cost_usd, 0) = 0 AND {at_them}), "
            f"total(unknown_usd IS NOT NULL AND NOT {at_them}) FROM calls"
        )
        cost, told, missing, lost = connection.execute(asked, unpriced * 2).fetchone()
    return counted, None if missing or (lost and not told) else cost, int(lost)


def held(folder: Path) -> bool:
    """Whether a process holds a run. It may let go, or another may take the run, the moment after."""
    path = folder / LOCK
    if not is_file(path):
        return False
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _names(entries: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(str(entry.get("name")) for entry in entries)


def _changed_at(folder: Path, sealed: bool) -> datetime:
    # The manifest is replaced, never touched; the journal's own file rests while its log grows beside it.
    names = [tables.MANIFEST] if sealed else [journal.NAME, f"{journal.NAME}-wal"]
    return datetime.fromtimestamp(max(found.st_mtime for found in _stats(folder / name for name in names)), UTC)


def _stats(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """What the file system says of files; one that a run which is going has taken away meanwhile is left out."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path.lstat()


TEXTS = ("run", "state", "changed", "split", "contestants", "judges")
NUMBERS = ("debates", "complete", "void", "owed", "cost", "size")
WANTED_LEAST = ("size", "judges", "contestants", "changed", "cost", "split", "debates", "void")
"""Columns that a narrow terminal goes without, in this order."""


def render(entries: Sequence[Entry], out: Path = OUT, width: int | None = None) -> str:
    """Runs as a text table, no wider than `width` characters where that can be."""
    rows = [_cells(entry, out) for entry in entries]
    shown = [*TEXTS, *NUMBERS]
    for name in WANTED_LEAST:
        table = _table(rows, shown)
        if width is None or max(map(len, table.splitlines())) <= width:
            return table
        shown.remove(name)
    return _table(rows, shown)


def _table(rows: Iterable[dict[str, str]], shown: Sequence[str]) -> str:
    return aligned([shown, *([row[name] for name in shown] for row in rows)], right=len({*shown} & {*NUMBERS}))


def _cells(entry: Entry, out: Path) -> dict[str, str]:
    return {
        "run": _id(entry.folder, out),
        "state": entry.state,
        "changed": f"{entry.changed_at:%Y-%m-%d %H:%M}",
        "split": ", ".join(f"{one_line(split, 10)} {topics}" for split, topics in entry.splits.items()) or "-",
        "contestants": _some(entry.contestants),
        "judges": _some(entry.judges),
        **{name: f"{getattr(entry, name):,}" for name in ("debates", "complete", "void", "owed")},
        "cost": _cost(entry),
        "size": _bytes(entry.size),
    }


def _cost(entry: Entry) -> str:
    known = "-" if entry.cost_usd is None else f"{entry.cost_usd:,.2f}"
    return f"{known} +{entry.unknown:,}?" if entry.unknown else known


def _id(folder: Path, out: Path) -> str:
    """What `runs.show` takes: an id, with the folder before it where the run lies aside."""
    return one_line(str(folder.relative_to(out)), 80)


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" +{len(names) - most}" if len(names) > most else ""
    return (", ".join(one_line(name, 14) or "-" for name in names[:most]) or "-") + more


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


class Settings(Command, cli_prog_name="python -m runs.list"):
    """List the runs, newest first, and how far each one is."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """so many at most, the newest (default: all)"""
    all: bool = False
    """calibrations of judges and screens of motions as well"""
    out: Path = OUT
    """where runs are made"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    print(report(settings, shutil.get_terminal_size().columns if terminal else None))
    return 0


def report(settings: Settings, width: int | None = None) -> str:
    """What the command prints."""
    out = settings.out
    folders = found(out, aside=settings.all)
    if not folders:
        return f"no runs under {str(out)!r} yet; play one: python -m arena.run --topics train"
    seen = [look(folder) for folder in folders[: settings.limit]]
    entries = [one for one in seen if isinstance(one, Entry)]
    unread = [one for one in seen if isinstance(one, Unread)]
    lines = [render(entries, out, width)] if entries else []
    lines += [f"cannot be read: {_id(one.folder, out)}: {one_line(one.why, 500)}" for one in unread]
    lines += _notes(entries, len(folders) - len(seen))
    if entries:
        newest = entries[0].folder
        run = str(newest.relative_to(out)) if out == OUT else str(newest)
        lines.append(f"next:  python -m runs.show {shlex.quote(one_line(run, 1000))}")
    return "\n".join(lines)


def _notes(entries: Sequence[Entry], more: int) -> Iterator[str]:
    looks = sum("test" in entry.splits for entry in entries)
    if looks:
        yield f"note: {looks} of these runs had test topics, which are held out: each is a look at them"
    if any(entry.unknown for entry in entries):
        yield "note: +3? behind a cost says that nobody knows what 3 calls took: they were sent, and no answer told"
    if more:
        yield f"note: {more:,} older {'run' if more == 1 else 'runs'} not shown; leave out --limit to see all"


if __name__ == "__main__":
    sys.exit(main())
