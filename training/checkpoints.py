"""The checkpoints of a training: how many stay, how much they take, and whether the disk takes another.

A checkpoint counts once `complete` stands in it, which is written when all its bytes have reached the disk; only then
may an older one go. So whenever a training dies, of a kill or of a full disk, the newest complete checkpoint is there.

    seal(folder / "checkpoint-50")              # it is whole
    thin(folder, keep=2, most=5e9)              # the newest two, or as many of them as 5 GB hold, and never none
    lacking(folder, wanted(folder, guess))      # None, or why there is no room for the next

What the next one takes is what the last one took; before the first it is a guess.
"""

from __future__ import annotations

import os
import shutil
from math import ceil
from pathlib import Path

from runs.files import replace_text
from topics.errors import is_file

COMPLETE = "complete"
"""Written into a checkpoint last; one without it does not count."""
MARGIN = 1.1
"""The next checkpoint may be larger than the last, whose log is shorter."""


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints of a training, oldest first."""
    found = (path for path in folder.glob("checkpoint-*") if is_file(path / COMPLETE))
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def seal(checkpoint: Path) -> None:
    """Say in a checkpoint that it is whole, once it is: a disk may refuse only when it comes to write."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    replace_text(checkpoint / COMPLETE, "")


def thin(folder: Path, *, keep: int, most: float | None) -> None:
    """Let older checkpoints go, the oldest first, until as many are left as may be and they take what they may."""
    *older, newest = complete(folder)
    sizes = {path: size(path) for path in (*older, newest)}
    while older and (len(sizes) > keep or (most is not None and sum(sizes.values()) > most)):
        oldest = older.pop(0)
        del sizes[oldest]
        shutil.rmtree(oldest, ignore_errors=True)


def size(folder: Path) -> int:
    """Bytes that a folder's files take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def wanted(folder: Path, guess: int) -> int:
    """Bytes that the next checkpoint takes, about."""
    whole = complete(folder)
    return int(MARGIN * (size(whole[-1]) if whole else guess))


def lacking(folder: Path, needed: int) -> str | None:
    """Why the disk cannot take so many bytes more, or None."""
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    where = repr(str(disk(folder)))
    return f"the disk is full: {megabytes(free)} are free under {where}, a checkpoint takes {megabytes(needed)}"


def to_free(folder: Path, needed: int) -> str:
    """What to do so that so many bytes can be written under a folder."""
    short, where = needed - shutil.disk_usage(folder).free, repr(str(disk(folder)))
    if short > 0:
        return f"free {megabytes(short)} under {where}"
    return f"see that {megabytes(needed)} can be written under {where}, which a quota or a limit may forbid"


def disk(folder: Path) -> Path:
    """Where the file system that holds a folder begins."""
    place = folder.resolve()
    return next(path for path in (place, *place.parents) if os.path.ismount(path))


def megabytes(count: float) -> str:
    return f"{ceil(count / 1e5) / 10:,.1f} MB"
