"""Finding a judge by its name and making it, so that built-in ones and strangers enter by the same door."""

import importlib
import inspect
from importlib.metadata import entry_points
from typing import Any, get_args

from judges.asking import Ask
from judges.judge import Judge
from runs.records import Order
from topics.errors import InputError, near, one_line

GROUP = "debate_arena.judges"
BUILT_IN = {
    "rules": "judges.rules:Rules",
    "scripted": "judges.scripted:Scripted",
    "llm": "judges.llm:LLM",
    "pairrm": "judges.pairrm:PairRMJudge",
}


def load(kind: str, *, name: str | None = None, ask: Ask | None = None, **settings: Any) -> Judge:
    """A judge of `kind` (a known name, or `module:Class`) under `name`, with its settings.

    One that asks a language model is handed `ask`.

    Raises `InputError` where the kind is unknown, cannot be imported, or does not take the settings.
    """
    known = kinds()
    target = known.get(kind, kind)
    if ":" not in target:
        raise InputError(
            f"unknown judges {kind!r}; expected {', '.join(sorted(known))} or module:Class{near(kind, known)}"
        )
    make = _import(kind, target)
    if ask is not None:
        settings["ask"] = ask
    elif _asks(make):
        raise InputError(f"judge {name or kind!r} of kind {kind!r} asks a model; add endpoint = ... to its [[judges]]")
    made = _make(kind, make, {"name": name or kind, **settings})
    if missing := [part for part in ("name", "orders", "samples", "vote") if not hasattr(made, part)]:
        raise InputError(f"judge {kind!r} is no judge: it lacks {', '.join(missing)} (see docs/write-a-judge.md)")
    if wrong := _wrong(made, name or kind):
        raise InputError(f"judge {kind!r} is no judge: {wrong} (see docs/write-a-judge.md)")
    judge: Judge = made
    return judge


def kinds() -> dict[str, str]:
    """Where the class of each kind is that has a name: built-in ones, and those that packages register."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)} | BUILT_IN


def _wrong(made: Any, name: str) -> str:
    """What keeps an object with all the parts of a judge from being one, or nothing."""
    if not inspect.iscoroutinefunction(made.vote):
        return "its vote() must be `async def`"
    if made.name != name:
        return f"it calls itself {made.name!r} where it was named {name!r}"
    if not isinstance(made.samples, int) or made.samples < 1:
        return f"its samples must be a whole number of at least 1, not {made.samples!r}"
    orders = made.orders if isinstance(made.orders, list | tuple) else ()
    if not orders or set(map(str, orders)) - set(get_args(Order)) or len(set(orders)) < len(orders):
        return f"its orders must be some of {get_args(Order)}, each once, not {made.orders!r}"
    return ""


def _asks(make: Any) -> bool:
    """Whether a judge cannot be made without `ask`."""
    try:
        asks = inspect.signature(make).parameters.get("ask")
    except (TypeError, ValueError):
        return False
    return asks is not None and asks.default is inspect.Parameter.empty


def _import(kind: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything while it is imported
        reason = one_line(f"{type(error).__name__}: {error}")
        raise InputError(
            f"judge {kind!r} could not be loaded from {target!r} ({reason}); expected module:Class"
        ) from None


def _make(kind: str, make: Any, settings: dict[str, Any]) -> Any:
    try:
        return make(**settings)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # and so may its constructor
        raise InputError(f"judge {kind!r} could not be made: {one_line(f'{type(error).__name__}: {error}')}") from None
