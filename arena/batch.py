"""Questions by batch: half the price at the big providers, and up to a day until the answers are there.

    batches = Batches(run.folder)
    line = batches.over("gpt", lines.to("big", "gpt-5-mini"))      # asked like any other line
    answer = await line.ask(body_of, session=debate.id, level=0)
    ...
    batches.forget()                                               # once every vote is stored

Whoever asks waits, as on any line. Questions that have come in are gathered until none comes for a moment, and go as
one batch of OpenAI's batch API (`arena/batch_api.py`). Each judge has batches of its own; the repair of an answer, or a
fresh one, is a question of the next batch.

What was paid for is not lost. A question's id is the digest of what is sent, so that it is the same on another day, and
`batches.json` in the run's folder says which ids went in which batch (`arena/batch_sent.py`). A process that comes
later finds its questions there, and waits for the batch that they are in. Notes go when all votes are stored, and no
sooner.

That a batch failed, expired or was cancelled is no failure of its questions: they go into another one, and after some
of those they stay owed. Only answers of its own make a question `Unanswered`. A batch that is refused for its size goes
in halves; one after the other, where it is said that too many tokens wait at the endpoint. Stopping waits for no batch:
it goes on at the endpoint, and the same command fetches it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from arena.batch_api import URL, BatchApi, Pace
from arena.batch_sent import Notes, Outcome, Sent, Who
from arena.client import Fault, Reply, Usage
from arena.line import Answer, Bill, Body, Cost, Empty, Line, OutOfBudget, Unanswered, Unavailable, estimate
from runs.records import content_id
from topics.errors import InputError

MOST_LINES, MOST_BYTES = 50_000, 100_000_000
"""Of one batch; the big providers take as many lines, and twice the bytes."""
ATTEMPTS = 3
"""Batches that a question may go through."""
DEBATES = 4_096
"""Whose votes wait at once: a batch takes its hours, however few are in it."""


class Batches:
    """The batches of a run."""

    def __init__(self, folder: Path, pace: Pace | None = None) -> None:
        """Raises `InputError` where the notes in the folder cannot be read."""
        self.notes = Notes(folder)
        self.pace = pace or Pace()
        self.holding: set[_Request] = set()
        """Questions for which money is set aside."""
        self._freed = asyncio.Event()
        self._judges: set[str] = set()

    def over(self, judge: str, line: Line) -> "Batched":
        """The line by which a judge's questions go in batches. Raises `InputError` where that cannot be."""
        if line.endpoint.kind == "vllm":
            raise InputError(
                f"judge {judge!r}: endpoint {line.endpoint.name!r} is a vLLM server, which has no batch API; "
                f"ask this judge by a command of its own, without --batch"
            )
        self._judges.add(judge)
        return Batched(judge, line, self)

    def forget(self) -> None:
        """Drop the notes of the judges that were seated: all of their votes are stored."""
        self.notes.drop(self._judges)

    async def freed(self) -> None:
        """Return when money that was set aside may have come back."""
        await self._freed.wait()

    def free(self) -> None:
        """Let everybody look again who waits for money."""
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()


def refuse_sent(folder: Path, judges: Iterable[str]) -> None:
    """Raise `InputError` where judges are to be asked directly whose batches are on their way."""
    notes = Notes(folder)
    if sent := notes.judges.intersection(judges):
        raise InputError(
            f"a batch of judge {min(sent)!r} is on its way; add --batch to fetch it, "
            f"or delete {str(notes.path)!r} to ask and pay again"
        )


@dataclass(kw_only=True, slots=True, eq=False)
class _Request:
    """A question in one batch."""

    id: str
    line: bytes
    estimate: float
    """USD, at most."""
    held: float = 0.0
    outcome: asyncio.Future[Outcome] = field(init=False)


@dataclass(kw_only=True, slots=True)
class _Asked:
    """How far one question is."""

    clock: float = field(default_factory=perf_counter)
    first: datetime | None = None
    """The moment of its first answer."""
    attempts: int = 0
    """Answers that it had, or may have had."""
    failed: int = 0
    """Batches that it went through in vain."""
    unusable: int = 0
    """Answers that `accept` did not take."""
    bill: Bill = field(default_factory=Bill)

    def count(self, outcome: Outcome, most: float) -> None:
        """Count what it had; it cost `most` USD at most."""
        if outcome.sent_at is not None or outcome.usage is None:
            self.attempts += 1
            self.first = self.first or outcome.sent_at
            self.bill.add(outcome.usage, most)


class Batched:
    """The line of one judge to its model, by batch."""

    def __init__(self, judge: str, line: Line, batches: Batches) -> None:
        self.endpoint = line.endpoint
        self.model = line.model
        self._line = line
        self._batches = batches
        self._who = Who(judge=judge, endpoint=line.endpoint.name, model=line.model)
        self._api = BatchApi(line, batches.pace)
        sent = [Sent(self._api, batches.notes, self._who, note=note) for note in batches.notes.of(self._who)]
        self._sent = {id_: batch for batch in sent for id_ in batch.ids}
        """By question, the batches of earlier sittings."""
        self._waiting: dict[Sent, list[_Request]] = {}
        """The batches that are followed, and who waits for them."""
        self._following: set[asyncio.Task[None]] = set()
        self._times: Counter[str] = Counter()
        self._queue: list[_Request] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._most_lines = MOST_LINES
        self._one_by_one = False

    @property
    def answered_at(self) -> datetime:
        """When the endpoint last answered anybody: where a batch came back, at that moment."""
        return datetime.now(UTC)

    async def ask(
        self,
        body_of: Callable[[int], Body],
        *,
        session: str,
        level: int = 0,
        accept: Callable[[Reply], Fault | None] = lambda reply: None,
        draw: int = 0,
    ) -> Answer:
        """The answer to a question, as `Line.ask` gives it; `draw` tells questions in the same words apart.

        Raises `Unanswered`, `Unavailable` or `OutOfBudget`.
        """
        asked = _Asked()
        request = self._request(body_of(0), session, draw)
        while True:
            if self._line.gate.parked is not None:
                raise Unavailable(self._line.gate.parked, self._cost(asked))
            try:
                outcome = await self._outcome(request)
            except Empty as error:
                raise OutOfBudget(str(error), self._cost(asked)) from None
            asked.count(outcome, request.estimate)
            found = outcome.found
            fault = accept(found) if isinstance(found, Reply) else found
            if fault is None:
                assert isinstance(found, Reply)
                return Answer(reply=found, cost=self._cost(asked))
            self._give_up(fault, outcome, asked)
            if outcome.stays:
                asked.unusable += isinstance(found, Reply)
                request = self._request(body_of(asked.unusable), session, draw)

    def usd(self, usage: Usage | None) -> float:
        """What tokens cost here, as `Line.usd` has it."""
        return self._line.usd(usage) * (1 - self.endpoint.batch_discount)

    def _give_up(self, fault: Fault, outcome: Outcome, asked: _Asked) -> None:
        """Raise where a question is not to be asked again."""
        if fault.remedy == "never":
            raise Unanswered(fault.kind, str(fault), self._cost(asked))
        asked.failed += outcome.in_vain
        if fault.remedy == "park" or (asked.failed >= ATTEMPTS and fault.remedy != "again"):
            raise Unavailable(str(fault), self._cost(asked))
        if asked.failed >= ATTEMPTS:
            raise Unanswered(fault.kind, str(fault), self._cost(asked))

    def _cost(self, asked: _Asked) -> Cost:
        return Cost(
            attempts=asked.attempts,
            usage=asked.bill.usage,
            usd=self.usd(asked.bill.usage),
            unknown_usd=asked.bill.unknown_usd,
            started_at=asked.first or datetime.now(UTC),
            latency_s=perf_counter() - asked.clock,
        )

    def _request(self, body: Body, session: str, draw: int) -> _Request:
        """A question, told apart from every other and from itself asked before, but not by the day."""
        written = json.dumps(body)  # as it is ordered: a schema says what comes first in an answer
        same = content_id(session, draw, written)
        id_ = content_id(same, self._times[same])
        self._times[same] += 1
        prompt, completion = estimate(body)
        return _Request(
            id=id_,
            line=f'{{"custom_id": "{id_}", "method": "POST", "url": "{URL}", "body": {written}}}\n'.encode(),
            estimate=self.usd(Usage(prompt=prompt, completion=completion)),
        )

    async def _outcome(self, request: _Request) -> Outcome:
        """What comes of a question, in the batch in which it was sent, or else in the next one."""
        request.outcome = asyncio.get_running_loop().create_future()
        batch = self._sent.get(request.id)
        if batch is None:
            await self._hold(request)
            self._enqueue(request)
        elif batch.outcomes is not None:
            self._give(request, batch.outcomes[request.id])
        else:
            self._wait(batch, [request])
        return await request.outcome

    async def _hold(self, request: _Request) -> None:
        """Set money aside; `Empty` where there is none, and none can come back.

        What a question costs is estimated from above, and what its batch did not need is there for the next one.
        """
        while self._line.gate.parked is None:
            try:
                self._line.budget.hold(request.estimate)
            except Empty:
                if not self._batches.holding:
                    raise
                await self._batches.freed()
            else:
                request.held = request.estimate
                self._batches.holding.add(request)
                return

    def _give(self, request: _Request, outcome: Outcome) -> None:
        """Tell whoever asked, and settle what was set aside."""
        self._line.budget.settle(request.held, self.usd(outcome.usage), request.estimate)
        self._batches.holding.discard(request)
        request.held = 0.0
        if not request.outcome.done():
            request.outcome.set_result(outcome)

    # ── gathering, and following ─────────────────────────────────────────────────────────────────

    def _enqueue(self, request: _Request) -> None:
        if self._queue and self._size + len(request.line) > MOST_BYTES:
            self._send()
        self._queue.append(request)
        self._size += len(request.line)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._batches.pace.quiet, self._send)
        if len(self._queue) >= self._most_lines or self._line.gate.parked is not None:
            self._send()

    def _send(self) -> None:
        """Send what was gathered, in as many batches as that takes."""
        if self._line.gate.parked is not None:
            kept = Outcome(found=Fault("transport", f"{self._line.gate.parked}; this was not sent", "park"))
            for request in self._queue:
                self._give(request, kept)
            self._queue, self._size = [], 0
            self._batches.free()
        while self._queue and not (self._one_by_one and self._following):
            requests = self._next()
            questions = {request.id: request.line for request in requests}
            self._wait(Sent(self._api, self._batches.notes, self._who, questions), requests)

    def _next(self) -> list[_Request]:
        """Take the next batch out of the queue."""
        size = count = 0
        for request in self._queue[: self._most_lines]:
            size += len(request.line)
            if count and size > MOST_BYTES:
                break
            count += 1
        taken, self._queue = self._queue[:count], self._queue[count:]
        self._size -= sum(len(request.line) for request in taken)
        return taken

    def _wait(self, batch: Sent, requests: list[_Request]) -> None:
        """Have questions wait for a batch, which somebody then follows."""
        if batch in self._waiting:
            self._waiting[batch] += requests
            return
        self._waiting[batch] = requests
        task = asyncio.get_running_loop().create_task(self._follow(batch))
        self._following.add(task)
        task.add_done_callback(self._followed)

    async def _follow(self, batch: Sent) -> None:
        """Give out what a batch comes to."""
        ids = batch.ids
        left = await batch.follow()
        if batch.too_large:
            self._most_lines = max(1, min(self._most_lines, len(ids) // 2))
            self._one_by_one |= batch.too_large == "tokens"
        for id_ in ids - batch.ids:
            if self._sent.get(id_) is batch:
                del self._sent[id_]
        for request in self._waiting.pop(batch):
            self._give(request, batch.outcome(request.id, left))
        self._batches.free()

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        if self._one_by_one and not task.cancelled():
            self._send()
