"""Lines: how a question reaches a model, and how often it is asked before it counts as unanswered.

    line = lines.to("big", "some-model")
    answer = await line.ask(body_of, session=debate.id, level=slot.turn, accept=...)

A line is one model at one endpoint, shared by all contestants and judges that ask there. A question passes the gate
(`arena/gate.py`), is sent by the client (`arena/client.py`), and what comes of it decides what is done:

    answered            given back, unless `accept` finds nothing usable in it: that is a failed attempt, drawn anew
    again               asked again after a moment; two failed attempts in the same words will never be a third
    slower              the same, and the gate lets fewer through; on a 429 it lets nobody through for a while
    repair              nobody is there: the gate waits for somebody, and what waits does not use up its attempts
    never               unanswered at once
    park                the endpoint answers nobody any more: everything that wants it stays owed (`Parked`)

Whatever was billed on the way is part of what is given back, or of what is raised. An attempt that was sent, and of
which nobody says what it took, may have been billed as well (a time-out, a connection that broke): it counts, against
what may be spent, as the most that it can have cost, and is told apart from one that cost nothing.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import fsum, isnan, nan
from random import Random
from time import perf_counter
from typing import Any

from arena.client import NOTHING, Client, Fault, Reply, Usage
from arena.endpoints import Endpoint
from arena.gate import Gate, Limits, Parked, Pass
from runs.records import Call, FailureKind, Role

Body = dict[str, Any]
"""What is sent: the JSON of a chat completion's request."""

PUSHED_BACK = 50
"""How often one question may be turned away by a limit; each time the gate has waited as long as it was told to."""
PATIENCE = 900.0
"""Seconds for which an endpoint may be gone before it is parked."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, doubled for each further one, and their bound; up to half is taken off by lot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a question took, all attempts together."""

    attempts: int
    usage: Usage | None
    """Of the attempts of which it is known; None where it is of none."""
    usd: float
    """For that; NaN where nothing is known."""
    unknown_usd: float | None
    """What the other attempts may have cost at most; None where there are none."""
    started_at: datetime
    latency_s: float
    """From the question to its end, waiting included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer and what it took."""

    reply: Reply
    cost: Cost


@dataclass(kw_only=True, slots=True)
class Bill:
    """What the attempts of one question took, as far as anybody says."""

    known: Usage = NOTHING
    unknown_usd: float | None = None
    """As in `Cost`."""

    def add(self, usage: Usage | None, most: float) -> None:
        """One more attempt; where nobody says what it took, it cost `most` USD at most."""
        if usage is None:
            self.unknown_usd = most + (self.unknown_usd or 0.0)
        else:
            self.known += usage

    @property
    def usage(self) -> Usage | None:
        """As in `Cost`."""
        return None if self.unknown_usd is not None and self.known == NOTHING else self.known


def total(calls: Iterable[Call]) -> tuple[float, int]:
    """What calls cost together in USD, as far as that is known, and of how many of them it is not, or not in all."""
    calls = list(calls)
    known = fsum(call.cost_usd for call in calls if not isnan(call.cost_usd))
    return known, sum(bool(call.unknown_usd) for call in calls)


def call_row(
    cost: Cost,
    *,
    call_id: str,
    debate_id: str,
    role: Role,
    turn: int | None,
    endpoint: str,
    model: str,
    adapter: str | None = None,
    finish: str | None,
) -> Call:
    """The row of a call: what it was about, and what it took."""
    used = cost.usage
    return Call(
        call_id=call_id,
        debate_id=debate_id,
        role=role,
        turn=turn,
        endpoint=endpoint,
        model=model,
        adapter=adapter,
        prompt_tokens=used.prompt if used else None,
        cached_tokens=used.cached if used else None,
        completion_tokens=used.completion if used else None,
        reasoning_tokens=used.reasoning if used else None,
        latency_s=cost.latency_s,
        attempts=cost.attempts,
        finish_reason=finish,
        cost_usd=cost.usd,
        started_at=cost.started_at,
        unknown_usd=cost.unknown_usd,
    )


class NoAnswer(Exception):
    """A question that has no answer, and what it took all the same."""

    def __init__(self, message: str, cost: Cost) -> None:
        super().__init__(message)
        self.cost = cost


class Unanswered(NoAnswer):
    """It will have none."""

    def __init__(self, kind: FailureKind, message: str, cost: Cost) -> None:
        super().__init__(message, cost)
        self.kind: FailureKind = kind


class Unavailable(NoAnswer):
    """It may have one another time: the endpoint is parked."""


class OutOfBudget(NoAnswer):
    """It may have one another time: there is no money left."""


class Empty(Exception):
    """A budget has no room for a question."""


@dataclass(kw_only=True)
class Budget:
    """Money: what a run may spend, what it has spent, and what is held back for questions that are in flight."""

    most: float | None = None
    spent: float = 0.0
    """As far as that is known."""
    unknown: float = 0.0
    """What was spent besides, at most: nobody says what these requests took."""
    held: float = 0.0
    holders: int = 0
    """Questions that money is held back for."""
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    async def room(self, cost: float) -> None:
        """Wait while there is no room, and something is in flight that may give some back."""
        while self._lacks(cost) and self.holders:
            await self._settled.wait()

    def hold(self, cost: float) -> None:
        """Set money aside; `Empty` where that would pass the limit."""
        if self._lacks(cost):
            spent = f"{self.spent + self.unknown:.2f} of {self.most:.2f} USD are spent"
            if self.unknown:
                spent += f" at most, as nobody says what requests took that may have cost {self.unknown:.2f}"
            raise Empty(f"{spent}; the next question may cost {cost:.2f}")
        self.held += cost
        self.holders += cost > 0

    def _lacks(self, cost: float) -> bool:
        return self.most is not None and self.spent + self.unknown + self.held + cost > self.most

    def settle(self, held: float, spent: float, most: float) -> None:
        """What was set aside, and what it came to: where that is NaN, nobody knows, and it was `most` at most."""
        self.held -= held
        self.holders -= held > 0
        if isnan(spent):
            self.unknown += most
        else:
            self.spent += spent
        self._settled.set()
        self._settled = asyncio.Event()


class Line:
    """One model at one endpoint."""

    def __init__(self, endpoint: Endpoint, model: str, client: Client, gate: Gate, budget: Budget) -> None:
        self.endpoint = endpoint
        self.model = model
        self.client = client
        self.gate = gate
        self.budget = budget
        self._dice = Random(model)
        self._gone_since: float | None = None
        self.answered_at: datetime | None = None
        """When it last answered anybody."""

    async def ask(
        self,
        body_of: Callable[[int], Body],
        *,
        session: str,
        level: int,
        accept: Callable[[Reply], Fault | None] = lambda reply: None,
        draw: int = 0,
    ) -> Answer:
        """The answer to a question. `body_of(n)` is what is sent when n answers before were not usable; `draw`, which
        tells questions in the same words apart, matters to batches alone.

        Raises `Unanswered`, `Unavailable` or `OutOfBudget`.
        """
        asked = _Asked(started_at=datetime.now(UTC), clock=perf_counter())
        try:
            while True:
                found = await self._once(body_of(asked.unusable), session, level, asked)
                fault = accept(found) if isinstance(found, Reply) else found
                if fault is None:
                    assert isinstance(found, Reply)
                    return Answer(reply=found, cost=self._cost(asked))
                asked.unusable += isinstance(found, Reply)
                if not asked.may_go_on(fault, self.endpoint.attempts, is_down=self.gate.is_down):
                    raise Unanswered(fault.kind, str(fault), self._cost(asked))
                if not (fault.remedy == "park" or fault.pause is not None or fault.kind == "rate" or self.gate.is_down):
                    await self._rest(asked.counted)  # in the other cases the gate makes it wait
        except Parked as error:
            raise Unavailable(str(error), self._cost(asked)) from None
        except Empty as error:
            raise OutOfBudget(str(error), self._cost(asked)) from None

    def usd(self, usage: Usage | None) -> float:
        """What tokens cost here; NaN where nobody knows how many they were."""
        return nan if usage is None else self.endpoint.cost(usage.prompt, usage.cached, usage.completion)

    def _cost(self, asked: "_Asked") -> Cost:
        return Cost(
            attempts=asked.attempts,
            usage=asked.bill.usage,
            usd=self.usd(asked.bill.usage),
            unknown_usd=asked.bill.unknown_usd,
            started_at=asked.started_at,
            latency_s=perf_counter() - asked.clock,
        )

    async def _once(self, body: Body, session: str, level: int, asked: "_Asked") -> Reply | Fault:
        """One attempt: through the gate, and what came of it told to the gate and the budget."""
        prompt, completion = estimate(body)
        held = self.usd(Usage(prompt=prompt, completion=completion))
        await self.budget.room(held)
        self.budget.hold(held)
        used: Usage | None = NOTHING
        try:
            with await self.gate.enter(prompt + completion, level) as passed:
                asked.attempts += 1
                used = None  # until somebody says what it took
                try:
                    reply = await self.client.send(body, session=session, attempt=asked.attempts)
                except Fault as fault:
                    used = fault.usage
                    self._tell(passed, fault)
                    return fault
                used = reply.usage
                self._gone_since, self.answered_at = None, datetime.now(UTC)
                passed.done((used or NOTHING).tokens)
                return reply
        finally:
            asked.bill.add(used, held)
            self.budget.settle(held, self.usd(used), held)

    def _tell(self, passed: Pass, fault: Fault) -> None:
        """Tell the gate what a fault means for everybody else."""
        if fault.remedy != "repair":
            self._gone_since = None
        if fault.remedy == "slower":
            passed.pushed_back(fault.pause, shared=fault.kind == "rate" or fault.pause is not None)
        elif fault.remedy == "repair":
            passed.unreachable()
            now = self.gate.clock.now()
            self._gone_since = now if self._gone_since is None else self._gone_since
            if now - self._gone_since > PATIENCE:
                self.gate.park(f"nothing has answered for {PATIENCE / 60:.0f} minutes: {fault}")
        else:
            passed.failed((fault.usage or NOTHING).tokens)
            if fault.remedy == "park":
                self.gate.park(str(fault))

    async def _rest(self, attempts: int) -> None:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** max(0, attempts - 1))
        await self.gate.clock.sleep(longest * self._dice.uniform(0.5, 1.0))


@dataclass(kw_only=True, slots=True)
class _Asked:
    """How far one question is."""

    started_at: datetime
    clock: float
    attempts: int = 0
    """How often it was sent."""
    counted: int = 0
    """Of those, how many failed for a reason of the question's own."""
    turned_away: int = 0
    unusable: int = 0
    """Answers that `accept` did not take."""
    last: str = ""
    bill: Bill = field(default_factory=Bill)

    def may_go_on(self, fault: Fault, most: int, *, is_down: bool) -> bool:
        """Whether it should be asked again after a fault."""
        if fault.remedy in ("never", "park"):
            return fault.remedy == "park"  # at the gate it hears that the endpoint is parked
        if fault.kind == "rate":
            self.turned_away += 1
            return self.turned_away < PUSHED_BACK
        if fault.remedy == "repair" and is_down:
            return True
        self.counted += 1
        said = f"{fault.kind}: {fault}"
        same, self.last = said == self.last and fault.kind == "server", said
        return self.counted < most and not same


class Lines:
    """All lines of a run, made as they are asked for."""

    def __init__(self, endpoints: Iterable[Endpoint], clients: dict[str, Client]) -> None:
        self.endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self.clients = clients
        self.budget = Budget()
        self.tail: Callable[[], bool] = lambda: False
        """Whether no debate is left to begin."""
        self._lines: dict[tuple[str, str], Line] = {}

    def to(self, endpoint: str, model: str) -> Line:
        """The line to a model."""
        key = endpoint, model
        if key not in self._lines:
            found = self.endpoints[endpoint]
            limits = Limits(
                in_flight=found.in_flight,
                adaptive=found.kind == "api",
                requests_per_minute=found.requests_per_minute,
                tokens_per_minute=found.tokens_per_minute,
            )
            gate = Gate(f"{endpoint}/{model}", limits, tail=lambda: self.tail())
            self._lines[key] = Line(found, model, self.clients[endpoint], gate, self.budget)
        return self._lines[key]

    def share(self, budget: Budget) -> None:
        """Take what is spent from a budget that others spend from as well."""
        self.budget = budget
        for line in self._lines.values():
            line.budget = budget

    def stop(self) -> None:
        """Send nothing more; what is in flight is still answered."""
        for line in self._lines.values():
            line.gate.park("the run is stopping")

    async def close(self) -> None:
        """Let go of every connection."""
        await asyncio.gather(*(client.close() for client in self.clients.values()))


def estimate(body: Body) -> tuple[int, int]:
    """Most tokens of a prompt, about, and of its answer: an upper bound, since limits and budgets rest on it.

    Three bytes of UTF-8 a token: English has some four, a Chinese character is three, and a token or less.
    """
    written = sum(len(message["content"].encode()) // 3 + 9 for message in body["messages"])
    return written + 9, int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)
