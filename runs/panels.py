"""Panels: several judges whose verdicts count as one, and who is related to whom.

    [[panels]]
    name = "bench"
    members = ["gpt", "qwen", "llama"]
    quorum = 2                     # valid verdicts that it takes (default: more than half of the members)
    related = "leave_out"          # or "flag": members of a contestant's family count, and the verdict says so

A panel's verdict is what more than half of the members say that count in that debate; where no outcome has more than
half, a tie. Too few valid verdicts for the quorum, and it is `invalid`. Its margin is the mean of theirs, and
`consistent` says whether they agreed. It is a pure function of its members' verdicts, whoever they are: a person may be
a member ("human:ann"), and a verdict that comes later is taken in.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runs.records import Match, Verdict
from runs.verdicts import majority

HUMAN = "human:"
"""How the names of judges begin who are persons: nobody waits for them, their verdicts are taken in when they come."""
KINSHIP = ("family", "lineage", "model")
"""What makes two entries of a roster related, where both have it and it is the same."""


TRAJECTORY = r"@\d+$"
"""What the names of judges end in that read the first turns of a debate (`gpt@4`), and nobody else's."""


def is_trajectory(judge: str) -> bool:
    """Whether a judge is one that reads the first turns of a debate."""
    return re.search(TRAJECTORY, judge) is not None


def of_its_own(name: str) -> str:
    """The name of a judge in a roster, or of a panel: none that stands for a person, or a judge that stops reading."""
    if name.startswith(HUMAN):
        raise ValueError(f"{name!r} is the name of a person, who votes by python -m judges.human or runs.view")
    if is_trajectory(name):
        raise ValueError(f"{name!r} is what a judge is called on the first turns of a debate; name it otherwise")
    return name


class Panel(BaseModel):
    """A panel, as it stands in a roster."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(of_its_own)]
    members: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of judges."""
    quorum: Annotated[int, Field(ge=1)] | None = None
    """Valid verdicts that it takes (default: more than half of the members)."""
    related: Literal["leave_out", "flag"] = "leave_out"
    """What becomes of a member that is related to a contestant."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if len(set(self.members)) < len(self.members):
            raise ValueError("names a member twice")
        if self.quorum is not None and self.quorum > len(self.members):
            raise ValueError(f"has a quorum of {self.quorum}, but {len(self.members)} members")
        if self.name in self.members:
            raise ValueError("is a member of itself")
        return self

    @property
    def least(self) -> int:
        """The quorum."""
        return self.quorum or len(self.members) // 2 + 1

    def decide(self, debate_id: str, verdicts: Iterable[Verdict]) -> Verdict:
        """The panel's verdict on a debate, from those of the members that count in it."""
        valid = [verdict for verdict in verdicts if verdict.winner != "invalid"]
        margins = [verdict.margin for verdict in valid if verdict.margin is not None]
        enough = len(valid) >= self.least
        return Verdict(
            debate_id=debate_id,
            judge=self.name,
            winner=majority([verdict.winner for verdict in valid]) if enough else "invalid",
            margin=sum(margins) / len(margins) if margins and enough else None,
            consistent=len({verdict.winner for verdict in valid}) <= 1,
            votes=len(valid),
            related=any(verdict.related for verdict in valid),
        )


class Kin:
    """Which judges are related to which contestants of a run, from their entries in its spec."""

    def __init__(self, judges: Iterable[Mapping[str, Any]], contestants: Sequence[Mapping[str, Any]]) -> None:
        self._of = {
            judge["name"]: {entry["name"] for entry in contestants if are_related(judge, entry)} for judge in judges
        }

    def related(self, judge: str, match: Match) -> bool:
        """Whether a judge is related to one who speaks in a match; a trajectory's (`name@4`) is who its judge is."""
        kin = self._of.get(re.sub(TRAJECTORY, "", judge), set())
        return match.for_contestant in kin or match.against_contestant in kin


def are_related(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries share a family, a lineage or a model."""
    return any(one.get(name) and one.get(name) == other.get(name) for name in KINSHIP)


class Tally:
    """What the members of panels have said so far, and what their panels come to."""

    def __init__(self, panels: Sequence[Panel], kin: Kin, stored: Iterable[Verdict]) -> None:
        self.panels = panels
        self.kin = kin
        named = {name for panel in panels for name in (panel.name, *panel.members)}
        self._said: defaultdict[str, dict[str, Verdict]] = defaultdict(dict)
        for verdict in stored if panels else ():
            if verdict.judge in named:
                self._said[verdict.debate_id][verdict.judge] = verdict

    def add(self, match: Match, verdict: Verdict) -> Iterator[Verdict]:
        """Verdicts of the panels for which that of a member was the last one missing."""
        if any(verdict.judge in panel.members for panel in self.panels):
            self._said[match.debate_id][verdict.judge] = verdict
            yield from self.due(match, absent=())

    def due(self, match: Match, absent: Collection[str]) -> Iterator[Verdict]:
        """Verdicts of panels on a debate that are not as stored; members that are `absent` are not waited for."""
        said = self._said[match.debate_id]
        for panel in self.panels:
            counting = [name for name in panel.members if self._counts(panel, name, match)]
            if counting and all(name.startswith(HUMAN) and name not in said for name in counting):
                continue
            waits = panel.name not in said  # one that has decided takes in whatever comes
            if waits and not all(name in said or name in absent or name.startswith(HUMAN) for name in counting):
                continue
            verdict = panel.decide(match.debate_id, [said[name] for name in counting if name in said])
            if said.get(panel.name) != verdict:
                said[panel.name] = verdict
                yield verdict

    def _counts(self, panel: Panel, member: str, match: Match) -> bool:
        return panel.related == "flag" or not self.kin.related(member, match)
