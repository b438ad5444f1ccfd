"""A training under way: its folder, from the first step until its policy stands in the registry.

    runs/out/training/<time>-<method>/
        training.json       method, settings and digests; written first
        checkpoint-<step>/  the trainer's own; `complete` is written into it last, and one without it does not count
        metrics.parquet     one row a log line

A training that was stopped, however, goes on with `--resume` at its last complete checkpoint, and comes to the same
weights as one that was not. When the policy is registered the folder has done its work and is removed.
"""

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from runs import NEWEST
from runs.adapters import Adapter
from runs.journal import StorageError
from runs.settings import explain
from topics.errors import InputError
from training import checkpoints, folders, ranks
from training.recipe import NOT_STORED, PLACES, Training, parse_training

NAME = "training.json"

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
        folder = settings.out / "training" / f"{folders.named()}-{method}"
        stored = settings.model_dump(mode="json", exclude=NOT_STORED)
        state = cls(folder=folder, method=method, settings=stored, digests=dict(digests))
        folders.begin(folder / NAME, {"method": method, "settings": stored, "digests": state.digests}, settings.out)
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
        whole = checkpoints.complete(self.folder)
        for path in set(self.folder.glob("checkpoint-*")) - set(whole):
            shutil.rmtree(path, ignore_errors=True)
        return whole[-1] if whole else None

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
        kept = {name: getattr(settings, name) for name in NOT_STORED - {"config"} if hasattr(settings, name)}
        kept |= {"out": state.folder.parent.parent}
        stored = type(settings).model_validate(state.settings | kept)
    except ValidationError as error:
        raise InputError(f"{str(state.folder)!r} cannot be resumed: {explain(error)}") from None
    folders.same(
        state.folder, settings.typed - NOT_STORED - PLACES, settings, stored
    )  # of places, digests are compared
    return stored, state


def find(which: str, method: str, out: Path) -> Path:
    """The folder of a training: a path, its name under `out`, or the newest of a method."""
    known = folders.begun(f"*-{method}/{NAME}", out / "training")
    if which != NEWEST:
        return folders.find(which, "training", NAME, out / "training", known)
    if not known:
        raise InputError(f"no unfinished {method} training under {str(out)!r}; start one without --resume")
    return known[0]


def find_same(settings: Training, method: str) -> State | None:
    """The newest unfinished training with the very same settings, if there is one."""
    stored = settings.model_dump(mode="json", exclude=NOT_STORED)
    for folder in folders.begun(f"*-{method}/{NAME}", settings.out / "training"):
        if (state := State.read(folder)).settings == stored:
            return state
    return None


def trained(
    kind: type[T],
    method: str,
    run: Callable[[T, State | None], Adapter | None],
    argv: list[str] | None,
    *,
    section: str | None = None,
) -> int:
    """A training command: parse, train or go on, say what was written; `section` is its table in a recipe, where that
    is not called as the method."""
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)  # of transformers
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a hub kernel at every import
    settings = parse_training(kind, argv, section or method)
    state = None
    if settings.resume is not None:
        settings, state = resumed(settings, method)
    try:
        adapter = run(settings, state)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if adapter is None:
        return 0 if settings.dry_run else 1
    first = ranks.is_first()
    ranks.leave()
    if not first:
        return 0
    print(f"wrote {adapter.folder}: {adapter.figures}")
    if method == "sft":
        print(f"next:  python -m training.dpo --from-run {settings.from_run} --base {adapter.id}")
    else:
        seat = f'adapter = "{adapter.id}"'
        print(f"next:  python -m training.adapters show {adapter.id}; to seat it, in a roster: {seat}")
    return 0
