"""The bench: the judges of a run, and its panels, from names on the command line to judges that can be asked.

    [[judges]]                     [[judges]]                    [[panels]]
    name = "gpt"                   name = "mine"                 name = "bench"
    kind = "llm"                   kind = "my_judges:Longest"    members = ["gpt", "qwen", "llama"]
    endpoint = "big"               at_least = 25
    model = "gpt-5-mini"

An entry's fields are of three sorts: `name`, `kind`, `family`, `lineage` and `trajectory` are the bench's; where an
`endpoint` is named, those of `Asking` say how its model is asked; whatever is left goes to the class of the judge. A
run stores the entry of each judge that it ever seated, with a digest of the judge's prompts: whoever comes back under
the same name must be the same judge.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import judges as judging
from arena.asking import Asker, Asking, Asks, Unasked
from arena.contestants import Name
from arena.endpoints import Endpoint
from arena.line import Line, Lines
from judges import Judge
from judges.asking import Ask
from judges.trajectory import After
from runs.panels import HUMAN, Kin, Panel, of_its_own
from runs.records import Call, content_id
from runs.spec import Spec
from topics.errors import InputError, near


class JudgeEntry(BaseModel):
    """One `[[judges]]`: the fields below, and whatever settings its kind takes."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: Annotated[Name, AfterValidator(of_its_own)]
    kind: Annotated[str, Field(min_length=1)]
    family: str = ""
    lineage: str = ""
    trajectory: bool = False
    """Also votes on the debate as it stands after each pair of turns."""
    structured: bool | None = None
    """Whether its endpoint can hold an answer to a schema (default: to be found out)."""
    digest: str | None = None
    """Of its prompts: filled in when it is seated, compared from then on."""

    @property
    def asking(self) -> Asking | None:
        """How its model is asked; None for a judge without one."""
        extra = self.model_extra or {}
        if "endpoint" not in extra:
            return None
        try:
            return Asking.model_validate({name: extra[name] for name in Asking.model_fields if name in extra})
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"judge {self.name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def make(self, ask: Ask | None) -> Judge:
        """The judge."""
        asked = set(Asking.model_fields) if ask is not None else set()
        extra = {name: value for name, value in (self.model_extra or {}).items() if name not in asked}
        return judging.load(self.kind, name=self.name, ask=ask, **extra)

    def resolved(self, endpoints: Mapping[str, Endpoint]) -> dict[str, Any]:
        """This entry as a run stores it: its model looked up, and made once, which proves that it can be."""
        found = dict(self.model_dump(exclude_defaults=True))
        if asking := self.asking:
            if asking.endpoint not in endpoints:
                has = ", ".join(endpoints) or "none: add [[endpoints]]"
                raise InputError(
                    f"judge {self.name!r}: unknown endpoint {asking.endpoint!r}; the roster has {has}"
                    f"{near(asking.endpoint, endpoints)}"
                )
            found["model"] = asking.model_at(endpoints[asking.endpoint], f"judge {self.name!r}")
        made = self.make(Unasked() if asking else None)
        if digest := getattr(made, "digest", ""):
            found["digest"] = digest
        return found


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The judges of a sitting."""

    judges: Sequence[Judge]
    identities: Mapping[str, str]
    """What a judge is, as a digest, by name."""
    panels: Sequence[Panel] = ()
    kin: Kin

    def identity(self, judge: Judge, debate: str, order: str, sample: int) -> str:
        """Digest of all that a vote depends on; `debate` is that of the transcript."""
        return content_id(self.identities[judge.name], order, sample, debate)


def named(
    names: Sequence[str], entries: Iterable[JudgeEntry], panels: Iterable[Panel]
) -> tuple[list[JudgeEntry], list[Panel]]:
    """The judges that `names` come to, a panel's members among them, and the panels. Raises `InputError`."""
    if not any(names):
        raise InputError("no judges named; expected --judges rules, names from the roster, or module:Class")
    if len(set(names)) < len(names):
        raise InputError(f"a judge is named twice in {','.join(names)!r}; name each once")
    known, groups = {entry.name: entry for entry in entries}, {panel.name: panel for panel in panels}
    chosen = [groups[name] for name in names if name in groups]
    if person := next((name for name in names if name.startswith(HUMAN)), None):
        how = f"python -m judges.human --name {person.removeprefix(HUMAN)}"
        raise InputError(f"{person!r} is a person, who is not asked but votes by {how}")
    members = [member for panel in chosen for member in panel.members if not member.startswith(HUMAN)]
    single = dict.fromkeys([*(name for name in names if name not in groups), *members])
    if nested := groups.keys() & set(members):
        raise InputError(f"panel {min(nested)!r} is a member of a panel; expected judges as members")
    for name in single:
        if name not in known and ":" not in name and name not in (kinds := judging.kinds()):
            choices = sorted({*known, *groups, *kinds})
            raise InputError(
                f"unknown judges {name!r}; expected {', '.join(choices)} or module:Class{near(name, choices)}"
            )
    return [known.get(name) or JudgeEntry(name=name, kind=name) for name in single], chosen


def merged(what: str, stored: Sequence[Mapping[str, Any]], seated: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """Stored entries and new ones, of which none may differ from a stored one of its name."""
    before = {entry["name"]: dict(entry) for entry in stored}
    for entry in seated:
        known = before.setdefault(entry["name"], entry)
        if differ := sorted(key for key in known.keys() | entry.keys() if known.get(key) != entry.get(key)):
            raise InputError(
                f"the run has another {what} {entry['name']!r}, with another {', '.join(differ)}; "
                f"give this one a new name"
            )
    return tuple(before.values())


def bench(
    spec: Spec,
    lines: Lines | None,
    book: Callable[[Call], object] = lambda call: None,
    over: Callable[[str, Line], Asks] | None = None,
) -> Bench:
    """The judges that a spec's settings name. Without `lines` they can be looked at, not asked.

    `over` gives the line by which a judge asks in place of its own, as `Batches.over` does.
    """
    entries, panels = seated(spec)
    made: list[Judge] = []
    for entry in entries:
        asking = entry.asking
        ask: Ask | None = None
        if asking is not None:
            line = lines.to(asking.endpoint, str(asking.model)) if lines else None
            through = over(entry.name, line) if line and over else line
            ask = Asker(entry.name, asking, through, book, structured=entry.structured) if through else Unasked()
        judge = entry.make(ask)
        made.append(judge)
        if entry.trajectory:
            made += [After(judge, slot.turn) for slot in spec.format[1:-2:2]]
    if len({judge.name for judge in made}) < len(made):
        raise InputError("two judges are called alike; give one of them another name")
    digests = {entry.name: content_id(json.dumps(entry.model_dump(), sort_keys=True, default=str)) for entry in entries}
    identities = {judge.name: digests.get(judge.name) or digests[judge.name.rpartition("@")[0]] for judge in made}
    return Bench(judges=made, identities=identities, panels=panels, kin=Kin(spec.judges, spec.contestants))


def seated(spec: Spec) -> tuple[list[JudgeEntry], list[Panel]]:
    """The entries and panels that a spec's settings name."""
    names = spec.settings.get("judges") or ["rules"]
    entries = [JudgeEntry.model_validate(entry) for entry in spec.judges]
    return named(names, entries, [Panel.model_validate(panel) for panel in spec.panels])


def spare(names: Sequence[str], panels: Iterable[Panel]) -> set[str]:
    """Judges that a run may begin without: those that are only asked as members of a panel."""
    return {member for panel in panels for member in panel.members} - set(names)
