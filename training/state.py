"""A training under way: its folder, from the first step until its policy stands in the registry.

    runs/out/training/<time>-<method>/
        training.json       method, settings and digests; written first
        checkpoint-<step>/  the trainer's own; `complete` is written into it last, and one without it does not count
        metrics.parquet     one row a log line

A training that was stopped, however, goes on with `--resume` at its last complete checkpoint, and comes to the same
weights as one that was not. When the policy is registered the folder has done its work and is removed.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from runs import NEWEST
from runs.files import replace_text
from runs.settings import explain
from topics.errors import InputError, is_file, near
from training.recipe import NOT_STORED, PLACES, Training

NAME = "training.json"
COMPLETE = "complete"

T = TypeVar("T", bound=Training)


@dataclass(frozen=True, kw_only=True)
class State:
    """The folder of a training, and what it was begun with."""

    folder: Path
    method: str
    settings: dict[str, Any]
    digests: dict[str, str]
    """Of what it is trained from: base, data."""

    @classmethod
    def begin(cls, settings: Training, method: str, digests: Mapping[str, str]) -> "State":
        """A new training under `settings.out`."""
        folder = settings.out / "training" / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{method}"
        stored = settings.model_dump(mode="json", exclude=NOT_STORED)
        state = cls(folder=folder, method=method, settings=stored, digests=dict(digests))
        body = {"method": method, "settings": stored, "digests": state.digests}
        try:
            folder.mkdir(parents=True)
            replace_text(folder / NAME, json.dumps(body, indent=1) + "\n")
        except OSError as error:
            what = f"cannot write to {str(settings.out)!r} ({error.strerror})"
            raise InputError(f"{what}; name another folder with --out") from None
        return state

    @classmethod
    def read(cls, folder: Path) -> "State":
        """A training that was begun."""
        try:
            body = json.loads((folder / NAME).read_text(encoding="utf-8"))
            return cls(folder=folder, method=body["method"], settings=body["settings"], digests=body["digests"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(folder)!r} cannot be read as a training ({type(error).__name__})") from None

    def last_checkpoint(self) -> Path | None:
        """The last complete checkpoint; what was not finished is removed."""
        found = []
        for path in self.folder.glob("checkpoint-*"):
            if is_file(path / COMPLETE):
                found.append(path)
            else:
                shutil.rmtree(path, ignore_errors=True)
        return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def same(self, digests: Mapping[str, str]) -> None:
        """Refuse to go on with something else than what the training was begun with."""
        for what, digest in digests.items():
            if self.digests.get(what) != digest:
                raise InputError(
                    f"{str(self.folder)!r} was begun with another {what}, which has changed since; start anew"
                )

    def remove(self) -> None:
        """Its policy is registered: what remains is of no use."""
        shutil.rmtree(self.folder, ignore_errors=True)


def resumed(settings: T, method: str) -> tuple[T, State]:
    """The training that `--resume` names, and its settings; given ones must be the same."""
    state = State.read(find(str(settings.resume), method, settings.out))
    try:
        kept = {"out": state.folder.parent.parent, "resume": settings.resume, "dry_run": settings.dry_run}
        stored = type(settings).model_validate(state.settings | kept)
    except ValidationError as error:
        raise InputError(f"{str(state.folder)!r} cannot be resumed: {explain(error)}") from None
    mine = stored.model_dump(mode="json")
    given = settings.model_dump(mode="json")
    for name in settings.typed - NOT_STORED - PLACES:  # of what those name, the digests are compared
        if given[name] != mine[name]:
            raise InputError(
                f"{str(state.folder)!r} was begun with {name} {mine[name]!r}, not {given[name]!r}; "
                f"resume it without --{name.replace('_', '-')}, or start a new one without --resume"
            )
    return stored, state


def find(which: str, method: str, out: Path) -> Path:
    """The folder of a training: a path, its name under `out`, or the newest of a method."""
    begun = sorted((path.parent for path in (out / "training").glob(f"*-{method}/{NAME}")), reverse=True)
    if which == NEWEST:
        if begun:
            return begun[0]
        raise InputError(f"no unfinished {method} training under {str(out)!r}; start one without --resume")
    for folder in (Path(which), out / "training" / which):
        if is_file(folder / NAME):
            return folder
    hint = near(which, [folder.name for folder in begun])
    raise InputError(f"no training {which!r}; expected a folder under {str(out / 'training')!r}{hint}")


def find_same(settings: Training, method: str) -> State | None:
    """The newest unfinished training with the very same settings, if there is one."""
    stored = settings.model_dump(mode="json", exclude=NOT_STORED)
    for folder in sorted((settings.out / "training").glob(f"*-{method}"), reverse=True):
        if is_file(folder / NAME) and (state := State.read(folder)).settings == stored:
            return state
    return None
