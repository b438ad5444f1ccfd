"""The roster: who can be seated and who can judge, from a TOML file.

`[[contestants]]` are of kind `endpoint` (`arena/remote.py`), `simulated` (`arena/simulated.py`) or `local`
(`arena/local.py`); a kind need not be named where an `endpoint` is, or an `adapter` alone. `[[endpoints]]` are those of
`arena/endpoints.py`; a judge's settings beyond `name` and `kind` are handed to its class. Without a roster file,
`arena/rosters/default.toml` seats six simulated contestants.

An entry is what a file says. `resolved` is the same with everything looked up, as a run stores it, and `seats` are
those who speak. A further kind is a model here, and a branch in each of the two.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from arena import bench, local, remote
from arena.bench import JudgeEntry
from arena.contestants import Contestant
from arena.endpoints import Endpoint
from arena.line import Lines
from arena.local import Local
from arena.remote import Remote
from arena.simulated import Simulated
from judges import kinds
from runs.panels import Panel
from runs.settings import explain, read_toml
from runs.spec import Spec
from topics.errors import InputError, near

DEFAULT = Path(__file__).parent / "rosters" / "default.toml"
KINDS = ("simulated", "local", "endpoint")


def _known_kind(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.get("kind", "local" if "adapter" in value and "endpoint" not in value else "endpoint")
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} cannot be seated; expected kind = {' or '.join(map(repr, KINDS))}")
    return value | {"kind": kind}


Contestants = Simulated | Local | Remote
Entry = Annotated[Contestants, Field(discriminator="kind")]
"""One `[[contestants]]`."""


class Roster(BaseModel):
    """A roster file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: tuple[Endpoint, ...] = ()
    contestants: tuple[Annotated[Entry, BeforeValidator(_known_kind)], ...] = ()
    judges: tuple[JudgeEntry, ...] = ()
    panels: tuple[Panel, ...] = ()


def load(path: Path | None = None) -> Roster:
    """A roster file, or the default one."""
    path = path or DEFAULT
    try:
        roster = Roster.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{str(path)!r}, {_explain(error)}") from None
    named: Iterable[Sequence[Any]] = (roster.endpoints, roster.contestants, (*roster.judges, *roster.panels))
    for entries in named:
        names = [entry.name for entry in entries]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{str(path)!r} uses the name {twice!r} twice; names must be unique")
    known = [endpoint.name for endpoint in roster.endpoints]
    for entry in roster.contestants:
        if isinstance(entry, Remote) and entry.endpoint not in known:
            has = ", ".join(known) or "none: add [[endpoints]]"
            raise InputError(
                f"{str(path)!r}, contestant {entry.name!r}: unknown endpoint {entry.endpoint!r}; the roster has "
                f"{has}{near(entry.endpoint, known)}"
            )
    return roster


def seated(roster: Roster, names: Sequence[str] | None) -> tuple[Contestants, ...]:
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


def judging(
    roster: Roster, names: Sequence[str], *, seated: Iterable[Contestants] = (), stored: Spec | None = None
) -> dict[str, Any]:
    """What a spec holds of those who judge and of where anybody is asked: `names` come to judges and panels of the
    roster, and all that a `stored` run has ever seated stay in it.

    Refuses another judge, or panel, under a name that may have verdicts.
    """
    held = stored_roster(stored) if stored else Roster()
    entries, panels = bench.named(names, (*held.judges, *roster.judges), (*held.panels, *roster.panels))
    endpoints = {endpoint.name: endpoint for endpoint in (*held.endpoints, *roster.endpoints)}
    judges = [entry.resolved(endpoints) for entry in entries]
    found = {
        "judges": bench.merged("judge", stored.judges if stored else (), judges),
        "panels": bench.merged("panel", stored.panels if stored else (), [p.model_dump(mode="json") for p in panels]),
    }
    taken = {entry["name"] for entry in found["judges"]} | kinds().keys()
    if both := taken & {panel["name"] for panel in found["panels"]}:
        raise InputError(f"{min(both)!r} is the name of a panel and of a judge; give one of them another name")
    asked = {entry.endpoint for entry in seated if isinstance(entry, Remote)}
    asked |= {judge["endpoint"] for judge in judges if "endpoint" in judge}
    needed = {name: endpoints[name].model_dump(mode="json") for name in endpoints if name in asked}
    known = {entry["name"]: entry for entry in (stored.endpoints if stored else ())}
    return found | {"endpoints": tuple((known | needed).values())}


def stored_roster(stored: Spec) -> Roster:
    """Whom a run knows, as a roster, checked again: its spec.json may have been changed by hand."""
    names = ("contestants", "endpoints", "judges", "panels")
    try:
        return Roster.model_validate({name: getattr(stored, name) for name in names})
    except ValidationError as error:
        raise InputError(f"the run's spec.json cannot be used: {explain(error)}") from None


def resolved(entry: Contestants, endpoints: Sequence[Endpoint], out: Path) -> dict[str, Any]:
    """An entry as a run under `out` stores it: whatever it names has been looked up and checked, nothing is loaded."""
    if isinstance(entry, Remote):
        return entry.resolved({endpoint.name: endpoint for endpoint in endpoints}, out).model_dump()
    return (entry.resolved(out) if isinstance(entry, Local) else entry).model_dump()


@dataclass(frozen=True, kw_only=True)
class Seats:
    """Who speaks, by name, and the lines by which endpoints are asked."""

    contestants: Mapping[str, Contestant]
    lines: Lines


@contextmanager
def seats(spec: Spec, out: Path, *, plays: bool = True) -> Iterator[Seats]:
    """Seats for a spec's contestants, unless nobody plays, and lines for them and its judges; what they hold (models,
    threads, servers) goes with the block."""
    stored = spec.contestants if plays else ()
    entries = Roster.model_validate({"contestants": stored}).contestants
    simulated: dict[str, Contestant] = {entry.name: entry for entry in entries if isinstance(entry, Simulated)}
    remotes = [entry for entry in entries if isinstance(entry, Remote)]
    judges, panels = bench.seated(spec)
    asking = {judge.name: judge.asking for judge in judges if judge.asking is not None}
    wanted = {entry.endpoint for entry in (*remotes, *asking.values())}
    known = [Endpoint.model_validate(endpoint) for endpoint in spec.endpoints if endpoint["name"] in wanted]
    spare = bench.spare(spec.settings.get("judges") or (), panels)
    with (
        local.seated([entry for entry in entries if isinstance(entry, Local)], out) as locals_,
        remote.seated(remotes, {e.name: e for e in known}, out, judges=asking, spare=spare) as (seats_, lines),
    ):
        yield Seats(contestants=simulated | locals_ | seats_, lines=lines)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    parts = [part for at, part in enumerate(first["loc"]) if at != 2 or part not in KINDS]
    where = " ".join(f"number {part + 1}" if isinstance(part, int) else str(part) for part in parts)
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
