"""The company of a policy that is trained: opponents and a judge of debates, seated for as long as it is.

    with company(roster, ["granite"], "rules", slots, out, budget=Budget(most=5.0)) as seated:
        seated.contestants["granite"]                   # speaks, as in the arena
        await seated.margin(debate)                     # what the judge makes of a debate: (-0.4, "against")
        seated.turns(answers, {"margin"})               # what stored turns are worth, spoken anew

They are the arena's own: contestants and judges of a roster, asked through its gates. A trainer is no coroutine, so
the company has an event loop of its own. A judge that gives no vote gives no margin, None; where nobody can be asked
any more, `Unscored` is raised when what is in flight has come to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from arena import bench as benches
from arena import roster as rosters
from arena.boundary import ours
from arena.contestants import Contestant, SpeakFailed
from arena.line import Budget
from arena.speech import hear
from arena.vote import cast
from judges import Judge
from judges.asking import NotNow
from judges.trajectory import After
from runs.records import Call, Debate, Order, Slot, Speech, Turn, Vote, Winner, content_id
from runs.spec import Spec
from runs.verdicts import VALUE, from_votes
from topics import Side
from topics.errors import InputError
from training.debate_rewards import budget, gain, margin
from training.rewards import Component, Items, worst
from training.scoring import Unscored
from training.turns import TurnContext

if TYPE_CHECKING:
    from training.practice import Answer

SEATED = "policy"
"""What the policy is called in its debates."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Company:
    """Opponents and a judge that can be asked, and the loop in which they are."""

    contestants: Mapping[str, Contestant]
    judge: Judge
    slots: tuple[Slot, ...]
    runner: asyncio.Runner
    calls: list[Call] = field(default_factory=list)
    """All that were made."""
    known: dict[str, float] = field(default_factory=dict)
    """Margins of stored debates as they stood, which are asked for once."""

    async def margin(self, debate: Debate, turns: int | None = None) -> tuple[float | None, Winner]:
        """What the judge makes of a debate, or of its first `turns`: its margin, and the winner.

        The margin is -1 (against) to +1 (for), the mean of its votes, each as far as the judge was sure; None where
        none counts. Raises `Unscored`.
        """
        judge = self.judge if turns is None else After(self.judge, turns)

        async def vote(order: Order, sample: int) -> Vote | None:
            try:
                return cast(await judge.vote(debate, order, sample), debate, judge.name, order, sample)
            except NotNow as error:
                raise Unscored(f"judge {self.judge.name!r} cannot be asked: {error}") from None
            except BaseException as error:  # whatever a judge raises is a vote that is missing
                if ours(error):
                    raise
                return None

        found = await together(vote(order, sample) for order, sample in product(judge.orders, range(judge.samples)))
        votes = [one for one in found if one is not None and one.winner in VALUE]
        sure = [VALUE[vote.winner] * (1.0 if vote.confidence is None else vote.confidence) for vote in votes]
        return sum(sure) / len(sure) if sure else None, from_votes(debate.id, judge.name, votes).winner

    def turns(self, answers: Sequence[Answer], wanted: Collection[Component]) -> dict[Component, list[Items | None]]:
        """What the debates of stored turns, spoken anew, are worth with these answers in them, up to there."""
        return self.runner.run(self._turns(answers, wanted))

    async def _turns(
        self, answers: Sequence[Answer], wanted: Collection[Component]
    ) -> dict[Component, list[Items | None]]:
        before: dict[str, float | None] = {}
        if "gain" in wanted:
            contexts = {one.task.name: one.task for one in answers}
            found = await together(self._stood(name, context.debate) for name, context in contexts.items())
            before = dict(zip(contexts, found, strict=True))

        async def after(one: Answer) -> tuple[float | None, bool]:
            context: TurnContext = one.task
            try:
                turn = turn_of(one.text, context.debate, context.slot, cut=one.cut)
            except SpeakFailed:
                return None, True
            return (await self.margin(context.debate.with_turn(turn)))[0], False

        margins = await together(map(after, answers))
        return {
            name: [
                nothing_said(name) if silent else worth(name, before.get(one.task.name), value, one.task.slot.side)
                for one, (value, silent) in zip(answers, margins, strict=True)
            ]
            for name in wanted
        }

    async def _stood(self, name: str, debate: Debate) -> float | None:
        """The margin of a debate before a turn; nobody is ahead before the first."""
        if not debate.turns:
            return 0.0
        if name not in self.known:
            value, _ = await self.margin(debate)
            if value is None:
                return None
            self.known[name] = value
        return self.known[name]


@contextmanager
def company(
    roster: rosters.Roster,
    opponents: Sequence[str],
    judge: str,
    slots: tuple[Slot, ...],
    out: Path,
    *,
    budget: Budget | None = None,
) -> Iterator[Company]:
    """Seats for `opponents` of a roster and for a judge; what they cost is taken from `budget`. Raises `InputError`."""
    known = {entry.name: entry for entry in roster.contestants}
    for name in opponents:
        if name not in known:
            raise InputError(f"unknown opponent {name!r}; expected {', '.join(known)}: see --opponents, --roster")
    if SEATED in opponents:
        raise InputError(f"{SEATED!r} is what the policy itself is called; give that opponent another name")
    entries = [known[name] for name in opponents]
    spec = Spec(
        seed=0,
        topics={},
        format=slots,
        opener=slots[0].side,
        matches=None,
        replicates=1,
        contestants=tuple(rosters.resolved(entry, roster.endpoints, out) for entry in entries),
        settings={"judges": [judge]},
        **rosters.judging(roster, [judge], seated=entries),
    )
    calls: list[Call] = []

    with asyncio.Runner() as runner, rosters.seats(spec, out) as seats:
        if budget is not None:
            seats.lines.share(budget)
        bench = benches.bench(spec, seats.lines, calls.append)
        if bench.panels:
            raise InputError(f"{judge!r} is a panel; a reward is one judge's: name a member")
        try:
            yield Company(contestants=seats.contestants, judge=bench.judges[0], slots=slots, runner=runner, calls=calls)
        finally:
            runner.run(seats.lines.close())


def worth(name: Component, before: float | None, after: float | None, side: Side) -> Items | None:
    """What margins come to for a side: that after, or how far it lies above that before."""
    return gain(before, after, side) if name == "gain" else margin(after, side)


def nothing_said(name: Component) -> Items:
    """What whoever says nothing earns: the worst."""
    return worst(scored.item for scored in (budget("", 1) if name == "budget" else worth(name, 0.0, 0.0, "for")) or ())


def turn_of(text: str, debate: Debate, slot: Slot, *, cut: bool) -> Turn:
    """A turn of the policy's own, as others hear it; raises `SpeakFailed`. It cost nothing."""
    call = Call(
        call_id=content_id(debate.id, "speak", slot.turn),
        debate_id=debate.id,
        role="speak",
        turn=slot.turn,
        endpoint="local",
        model=SEATED,
        latency_s=0.0,
        finish_reason=None,
        started_at=datetime.now(UTC),
    )
    return public(hear(Speech(answer=text, cut=cut, call=call), debate, slot))


def public(turn: Turn) -> Turn:
    """A turn without what is private."""
    return replace(turn, reasoning=None)


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them give; where one fails, the others have come to their end before it is raised."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found  # type: ignore[return-value]
