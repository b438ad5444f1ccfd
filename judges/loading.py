"""Finding a judge by its name and making it, so that built-in ones and strangers enter by the same door."""

import importlib
import inspect
from importlib.metadata import entry_points
from typing import Any

from judges.judge import Judge
from topics.errors import InputError, near, one_line

GROUP = "debate_arena.judges"
BUILT_IN = {"rules": "judges.rules:Rules", "scripted": "judges.scripted:Scripted"}


def load(kind: str, *, name: str | None = None, **settings: Any) -> Judge:
    """A judge of `kind` (a known name, or `module:Class`) under `name`, with its settings.

    Raises `InputError` where the kind is unknown, cannot be imported, or does not take the settings.
    """
    registered = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    known = {**registered, **BUILT_IN}
    target = known.get(kind, kind)
    if ":" not in target:
        raise InputError(
            f"unknown judges {kind!r}; expected {', '.join(sorted(known))} or module:Class{near(kind, known)}"
        )
    made = _make(kind, _import(kind, target), {"name": name or kind, **settings})
    if missing := [part for part in ("name", "orders", "samples", "vote") if not hasattr(made, part)]:
        raise InputError(f"judge {kind!r} is no judge: it lacks {', '.join(missing)} (see docs/write-a-judge.md)")
    if not inspect.iscoroutinefunction(made.vote):
        raise InputError(f"judge {kind!r} is no judge: its vote() must be `async def` (see docs/write-a-judge.md)")
    judge: Judge = made
    return judge


def _import(kind: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a stranger's module may raise anything while it is imported
        reason = one_line(f"{type(error).__name__}: {error}")
        raise InputError(
            f"judge {kind!r} could not be loaded from {target!r} ({reason}); expected module:Class"
        ) from None


def _make(kind: str, make: Any, settings: dict[str, Any]) -> Any:
    try:
        return make(**settings)
    except InputError:
        raise
    except Exception as error:  # and so may its constructor
        raise InputError(f"judge {kind!r} could not be made: {one_line(f'{type(error).__name__}: {error}')}") from None
