"""Folders of work under way, a training or a loop: made whole, found by `--resume`, never mixed with other settings.

    <out>/training/<time>-<method>/training.json        <out>/loops/<time>/loop.json

A folder is one of these if it holds its file. Names begin with the time, so that they sort by age.
"""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runs.files import replace_text
from topics.errors import InputError, is_file, near


def named() -> str:
    """A name for a new folder."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"


def save(path: Path, body: dict[str, Any]) -> None:
    """Write a folder's file, whole or not at all."""
    replace_text(path, json.dumps(body, indent=1) + "\n")


def begin(path: Path, body: dict[str, Any], out: Path) -> None:
    """Make a folder by writing its file, which is `path`, somewhere under `out`."""
    try:
        path.parent.mkdir(parents=True)
        save(path, body)
    except OSError as error:
        what = f"cannot write to {str(out)!r} ({error.strerror})"
        raise InputError(f"{what}; name another folder with --out") from None


def begun(pattern: str, root: Path) -> list[Path]:
    """The folders under `root` that hold a file of this pattern, newest first."""
    return sorted((path.parent for path in root.glob(pattern)), reverse=True)


def find(which: str, what: str, name: str, root: Path, known: list[Path]) -> Path:
    """The folder that is meant by a path, or by its name under `root`; `known` are the ones to suggest."""
    for folder in (Path(which), root / which):
        if is_file(folder / name):
            return folder
    hint = near(which, [folder.name for folder in known])
    raise InputError(f"no {what} {which!r}; expected a folder under {str(root)!r}{hint}")


def same(folder: Path, typed: Collection[str], given: Any, stored: Any) -> None:
    """Refuse settings that were typed and are not those that the work in `folder` was begun with."""
    mine, theirs = given.model_dump(mode="json"), stored.model_dump(mode="json")
    for name in sorted(typed):
        if mine[name] != theirs[name]:
            raise InputError(
                f"{str(folder)!r} was begun with {name} {theirs[name]!r}, not {mine[name]!r}; "
                f"resume it without --{name.replace('_', '-')}, or start a new one without --resume"
            )
