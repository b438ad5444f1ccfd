"""The roster: who can be seated and who can judge, from a TOML file.

`[[contestants]]` of kind `simulated` and `[[judges]]` are known; a judge's settings beyond `name` and `kind` are
handed to its class. Without a roster file, `arena/rosters/default.toml` seats six simulated contestants.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from arena.contestants import Name
from arena.simulated import Simulated
from runs.settings import read_toml
from topics.errors import InputError, near

DEFAULT = Path(__file__).parent / "rosters" / "default.toml"
KINDS = ("simulated",)


def _known_kind(value: Any) -> Any:
    kind = value.get("kind", "endpoint") if isinstance(value, dict) else None
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r} cannot be seated; expected kind = {' or '.join(map(repr, KINDS))}")
    return value


class JudgeEntry(BaseModel):
    """One `[[judges]]`: a name, a kind, and whatever settings that kind takes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    kind: str = Field(min_length=1)


class Roster(BaseModel):
    """A roster file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contestants: tuple[Annotated[Simulated, BeforeValidator(_known_kind)], ...] = ()
    judges: tuple[JudgeEntry, ...] = ()


def load(path: Path | None = None) -> Roster:
    """A roster file, or the default one."""
    path = path or DEFAULT
    try:
        roster = Roster.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{str(path)!r}, {_explain(error)}") from None
    for entries in (roster.contestants, roster.judges):
        names = [entry.name for entry in entries]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{str(path)!r} uses the name {twice!r} twice; names must be unique")
    return roster


def seated(roster: Roster, names: Sequence[str] | None) -> tuple[Simulated, ...]:
    """The contestants of a run: all of the roster, or those named; at least two."""
    known = {contestant.name: contestant for contestant in roster.contestants}
    if names is not None:
        for name in names:
            if name not in known:
                raise InputError(f"unknown contestants {name!r}; the roster has {', '.join(known)}{near(name, known)}")
        if len(set(names)) < len(names):
            raise InputError(f"a contestant is named twice in {','.join(names)!r}; name each once")
        known = {name: known[name] for name in names}
    if len(known) < 2:
        raise InputError(f"{len(known)} contestants are seated; a debate needs at least two: add [[contestants]]")
    return tuple(known.values())


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = " ".join(f"number {part + 1}" if isinstance(part, int) else str(part) for part in first["loc"])
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
