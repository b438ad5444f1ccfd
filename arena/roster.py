"""The roster: who can be seated and who can judge, from a TOML file.

`[[contestants]]` of kind `simulated` (`arena/simulated.py`) and `local` (`arena/local.py`) are known, the latter
without its `kind` where it names an adapter; a judge's settings beyond `name` and `kind` are handed to its class.
Without a roster file, `arena/rosters/default.toml` seats six simulated contestants.

An entry is what a file says. `resolved` is the same with everything looked up, as a run stores it, and `seats` are
those who speak. A further kind is a model here, and a branch in each of the two.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from arena import local
from arena.contestants import Contestant, Name
from arena.local import Local
from arena.simulated import Simulated
from runs.settings import read_toml
from topics.errors import InputError, near

DEFAULT = Path(__file__).parent / "rosters" / "default.toml"
KINDS = ("simulated", "local")


def _known_kind(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.get("kind", "local" if "adapter" in value else "endpoint")
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} cannot be seated; expected kind = {' or '.join(map(repr, KINDS))}")
    return value | {"kind": kind}


Entry = Annotated[Simulated | Local, Field(discriminator="kind")]
"""One `[[contestants]]`."""


class JudgeEntry(BaseModel):
    """One `[[judges]]`: a name, a kind, and whatever settings that kind takes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    kind: str = Field(min_length=1)


class Roster(BaseModel):
    """A roster file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contestants: tuple[Annotated[Entry, BeforeValidator(_known_kind)], ...] = ()
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


def seated(roster: Roster, names: Sequence[str] | None) -> tuple[Simulated | Local, ...]:
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


def resolved(entry: Simulated | Local, out: Path) -> dict[str, Any]:
    """An entry as a run under `out` stores it: whatever it names has been looked up and checked, nothing is loaded."""
    return (entry.resolved(out) if isinstance(entry, Local) else entry).model_dump()


@contextmanager
def seats(stored: Iterable[dict[str, Any]], out: Path) -> Iterator[dict[str, Contestant]]:
    """Who speaks, by name, from resolved entries; what they hold (models, threads) goes with the block."""
    entries = Roster.model_validate({"contestants": tuple(stored)}).contestants
    seats: dict[str, Contestant] = {entry.name: entry for entry in entries if isinstance(entry, Simulated)}
    with local.seated([entry for entry in entries if isinstance(entry, Local)], out) as locals_:
        yield seats | locals_


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    parts = [part for part in first["loc"] if part not in KINDS]
    where = " ".join(f"number {part + 1}" if isinstance(part, int) else str(part) for part in parts)
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
