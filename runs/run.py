"""A run's folder: making one, finding one, and holding it while it is going.

    run = Run.create(spec, topics, out)        # before any debate
    run = Run.resume(find("newest", out=out, sealed=False))
    ...
    run.seal()                                 # tables, then the manifest, last

A folder is held by one process at a time; the lock is the operating system's and goes with the process, however
it ends.
"""

import fcntl
import shutil
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import polars as pl
from pydantic import ValidationError

from runs import journal, spec, tables
from runs.journal import Journal
from runs.records import Debate, Match, slots_for
from runs.schema import TABLES
from runs.spec import Spec
from topics import Topic
from topics.errors import InputError, is_file, near

OUT = Path("runs/out")
LOCK = ".lock"
"""In a run's folder: whoever holds a run has it locked."""
NEWEST = "newest"
"""What `--from-run` and `--resume` mean without a value."""


class Run:
    """A run that this process holds. Use it as a context manager, or call `close`."""

    def __init__(self, folder: Path, spec: Spec, topics: Sequence[Topic], journal: Journal, lock: IO[str]) -> None:
        self.folder = folder
        self.spec = spec
        self.topics = {topic.topic_id: topic for topic in topics}
        self.journal = journal
        self._lock = lock

    @property
    def id(self) -> str:
        return self.folder.name

    @classmethod
    def create(cls, spec: Spec, topics: Sequence[Topic], out: Path) -> "Run":
        """A new run under `out`; its id begins with the time, so that names sort by age.

        It is made under a hidden name and then renamed: there is never half a run.
        """
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        making = out / f".{name}"
        try:
            making.mkdir(parents=True)
            Journal.create(making, topics)
            spec.save(making)
            folder = making.rename(out / name)
        except (OSError, ValueError, sqlite3.Error) as error:
            shutil.rmtree(making, ignore_errors=True)
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot write to {str(out)!r} ({reason}); name another folder with --out") from None
        return cls(folder, spec, topics, Journal(folder), _hold(folder))

    @classmethod
    def resume(cls, folder: Path) -> "Run":
        """A run that was begun, as it was left; its topics come from its journal."""
        lock = _hold(folder)
        try:
            stored = Spec.read(folder)
            if is_file(folder / journal.NAME):
                journal.renew(folder)
            journal.check(folder)
            topics = stored_topics(tables.scan_journal(folder, TABLES["topics"]))
            return cls(folder, stored, topics, Journal(folder), lock)
        except BaseException:
            lock.close()
            raise

    def keep(self, spec: Spec) -> None:
        """Store what may change between sittings: judges and settings. The digest stays."""
        if spec != self.spec:
            assert spec.digest == self.spec.digest
            spec.save(self.folder)
            self.spec = spec

    def debate(self, match: Match, *, begun: bool = True) -> Debate:
        """A debate with what its journal holds of it, without what is private."""
        turns = self.journal.turns(match.debate_id) if begun else ()
        slots = slots_for(self.spec.format, match.opener)
        return Debate(match=match, topic=self.topics[match.topic_id], slots=slots, turns=turns)

    def seal(self) -> dict[str, Any]:
        """Write the tables and, last, the manifest; returns what the manifest holds."""
        return tables.seal(self.folder)

    def close(self) -> None:
        """Let go of the journal and the folder."""
        try:
            self.journal.close()
        finally:
            self._lock.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find(which: str | Path, *, out: Path = OUT, sealed: bool | None = None) -> Path:
    """The folder of a run: a path, an id under `out`, or the newest one.

    `sealed` restricts what "newest" may mean: True, finished runs; False, unfinished ones; None, any.
    """
    if str(which) != NEWEST:
        for folder in (Path(which), out / which):
            if is_file(folder / spec.NAME):
                return folder
        hint = near(str(which), [folder.name for folder in folders(out)])
        raise InputError(f"no run {str(which)!r}; expected a run's folder or an id under {str(out)!r}{hint}")
    for folder in folders(out):
        if sealed is None or tables.is_sealed(folder) == sealed:
            return folder
    kind = {None: "run", True: "finished run", False: "unfinished run"}[sealed]
    raise InputError(f"no {kind} under {str(out)!r}; start one: python -m arena.run --topics train")


def folders(out: Path = OUT) -> list[Path]:
    """The runs under `out`, newest first."""
    if not out.is_dir():
        return []
    made = (folder for folder in out.iterdir() if not folder.name.startswith(".") and is_file(folder / spec.NAME))
    return sorted(made, key=lambda folder: folder.name, reverse=True)


def stored_topics(rows: pl.LazyFrame) -> list[Topic]:
    """The topics of a run's table `topics`; their digests are checked."""
    found = []
    for row in rows.collect().to_dicts():
        digest, points = row.pop("digest"), row.pop("points")
        sides = dict.fromkeys(point["side"] for point in points)
        row["points"] = {side: [p for p in points if p["side"] == side] for side in sides}
        for point in points:
            del point["side"]
        try:
            topic = Topic.model_validate(row)
        except ValidationError:
            topic = None
        if topic is None or topic.digest != digest:
            raise InputError(f"topic {row['topic_id']!r} of the run was changed; start a new run")
        found.append(topic)
    return found


def _hold(folder: Path) -> IO[str]:
    try:
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r} ({error.strerror or error})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InputError(f"{str(folder)!r} is in use by another process; wait for it, or stop it first") from None
    return lock
