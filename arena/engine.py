"""The engine: plays what is owed and has it judged, many debates at once.

Playing and judging are separate stages with separate queues, so that a slow or broken judge holds nobody up and
loses nothing. Each answer is journalled before anything depends on it. What went wrong is written down once, at
the boundary where it happened:

* a contestant that fails makes its debate void; the turns it has stay;
* one that cannot be asked for the time being, or that fails too often, is parked: its debates stay owed, the others
  are played;
* a judge that raises gives an invalid vote; one that cannot be asked for the time being is parked as well: its votes
  stay owed, and the panels it sits on decide without it where their quorum holds;
* a journal that cannot be written stops the run.

`stop()` lets every answer that is in flight arrive and be recorded, and begins nothing new.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product

from arena.bench import Bench
from arena.contestants import Contestant, SpeakFailed, Unavailable
from arena.speech import hear, presentable
from arena.vote import cast
from judges import Judge
from judges.asking import NoReply, NotNow
from runs import Run
from runs.journal import StorageError
from runs.panels import Tally
from runs.records import (
    Call,
    Debate,
    DebateRow,
    Failure,
    Match,
    Order,
    Slot,
    Speech,
    Status,
    Turn,
    Vote,
    content_id,
    slots_for,
)
from runs.verdicts import from_votes
from topics.errors import one_line

HELD = 256
"""Debates that wait for a judge in memory; further ones are read again from the journal when their turn comes."""
LEAST = 10
"""Debates that a contestant must have begun before its share of failures is looked at: of those, since debates that
fail are the first to end."""


@dataclass
class Progress:
    """Where a run stands; plain counts that a display may read at any time."""

    debates: int
    """Scheduled, those of earlier sittings included."""
    turns_each: int
    done: int = 0
    void: int = 0
    turns: int = 0
    """Of this sitting."""
    wanted: int = 0
    """Verdicts that debates wait for, or waited for in this sitting."""
    verdicts: int = 0
    """Of this sitting."""
    failures: int = 0
    cost_usd: float = 0.0
    """Of the run, earlier sittings included."""
    parked: dict[str, str] = field(default_factory=dict)
    """Contestants that are not asked any more in this sitting, and why."""
    absent: dict[str, str] = field(default_factory=dict)
    """Judges that are not asked any more in this sitting, and why."""
    unjudged: int = 0
    """Debates that a judge was not asked about in this sitting, each judge counted."""
    stopped: str = ""
    """Why nothing new is begun, where it was not by a signal."""


class Engine:
    """Plays the matches of one run."""

    def __init__(
        self,
        run: Run,
        matches: Iterable[Match],
        contestants: Mapping[str, Contestant],
        bench: Bench,
        *,
        concurrency: int,
        max_failed: float = 1.0,
        all_at_once: bool = False,
        again: str = "",
    ) -> None:
        """`max_failed` is the share of its debates that a contestant may make void before it is parked.

        A judge's first vote on a debate is sent alone, so that the rest find its prompt cached; unless `all_at_once`.
        `again` is what to type to go on.
        """
        self.run = run
        self.matches = list(matches)
        self.contestants = contestants
        self.bench = bench
        self.judges = bench.judges
        self.tally = Tally(bench.panels, bench.kin, run.journal.verdicts())
        self.all_at_once = all_at_once
        self.again = again
        self.concurrency = concurrency
        self.max_failed = max_failed
        self.progress = Progress(
            debates=len(self.matches), turns_each=len(run.spec.format), cost_usd=run.journal.cost_usd()
        )
        self.stopping = False
        self.on_stop: Callable[[], None] = lambda: None
        """Called once when nothing new is to be begun: what waits to be asked need not wait any more."""
        self._begun: set[str] = set()
        self._waiting = 0
        """Matches that no worker has taken yet."""
        self._played: Counter[str] = Counter()
        """Debates of this sitting, by contestant."""
        self._failed: Counter[str] = Counter()
        self._queues: dict[str, asyncio.Queue[tuple[Match, Debate | None]]] = {}
        self.ended: list[Match] = []
        """Matches whose debates are complete."""

    def stop(self, why: str = "") -> None:
        """Begin nothing new; what is in flight is still recorded."""
        self.progress.stopped = self.progress.stopped or why
        if not self.stopping:
            self.stopping = True
            self.on_stop()

    @property
    def tail(self) -> bool:
        """Whether no debate is left to begin."""
        return not self._waiting

    async def play_all(self) -> bool:
        """Play and judge everything that is owed; True when nothing is left."""
        self._queues = {judge.name: asyncio.Queue() for judge in self.judges}
        owed = self._owed()
        try:
            await self._work(owed)
        except BaseExceptionGroup as group:
            broken: BaseException | None = group.subgroup(StorageError)
            while isinstance(broken, BaseExceptionGroup):
                broken = broken.exceptions[0]  # every worker heard of the same failed commit
            if broken is None:
                raise
            raise broken from None
        await self._settle()
        left = self.progress.debates - self.progress.done or self.progress.unjudged
        return not self.stopping and not left

    async def _work(self, owed: list[Match]) -> None:
        async with asyncio.TaskGroup() as tasks:
            workers = range(min(self.concurrency, len(self.matches)))
            judging = [tasks.create_task(self._judge_all(judge)) for judge in self.judges for _ in workers]
            matches, self._waiting = iter(owed), len(owed)  # shared: each worker takes the next one
            async with asyncio.TaskGroup() as playing:
                for _ in workers:
                    playing.create_task(self._play_each(matches))
            for queue in self._queues.values():
                await queue.join()
            for worker in judging:
                worker.cancel()

    def _owed(self) -> list[Match]:
        """Matches without an outcome, begun ones first; finished ones that lack a verdict go to their judges."""
        statuses = self.run.journal.statuses()
        judged = self.run.journal.judged()
        self._begun = set(statuses)
        owed = []
        for match in self.matches:
            status = statuses.get(match.debate_id, "open")
            if status == "open":
                owed.append(match)
                continue
            self._count(status)
            for name, queue in self._queues.items():
                if status == "complete" and (match.debate_id, name) not in judged:
                    self._submit(queue, match, None)
            if status == "complete":
                self.ended.append(match)
        return sorted(owed, key=lambda match: match.debate_id not in self._begun)

    # ── playing ──────────────────────────────────────────────────────────────────────────────────

    async def _play_each(self, matches: Iterable[Match]) -> None:
        for match in matches:
            self._waiting -= 1
            if self.stopping:
                return
            if self._is_parked(match):
                continue
            debate = await self.play(match)
            if debate is not None:
                self.ended.append(match)
                for queue in self._queues.values():
                    self._submit(queue, match, debate if queue.qsize() < HELD else None)

    def _submit(self, queue: asyncio.Queue[tuple[Match, Debate | None]], match: Match, debate: Debate | None) -> None:
        self.progress.wanted += 1
        queue.put_nowait((match, debate))

    def _is_parked(self, match: Match) -> bool:
        return not self.progress.parked.keys().isdisjoint((match.for_contestant, match.against_contestant))

    async def play(self, match: Match) -> Debate | None:
        """One debate from where its journal left it; None where it came to no end."""
        debate = self._debate(match)
        row = self._row(debate)
        self._played.update((match.for_contestant, match.against_contestant))
        if not debate.turns:
            self.run.journal.queue(row)  # no need to wait: it is committed before anything that follows
        for slot in debate.slots[len(debate.turns) :]:
            if self.stopping or self._is_parked(match):
                return None
            speech: Speech | None = None
            try:
                speech = await self.contestants[match.contestant(slot.side)].speak(debate, slot)
                turn = hear(speech, debate, slot)
            except Unavailable as error:
                await self._park(match.contestant(slot.side), error)
                return None
            except BaseException as error:  # whatever a contestant raises, the others' debates go on
                if _ours(error):
                    raise
                await self._void(row, slot, error, speech)
                return None
            await self._record(row, turn, speech, last=slot is debate.slots[-1])
            public = turn if turn.reasoning is None else replace(turn, reasoning=None)
            debate = debate.with_turn(public)  # what is private ends in the journal
        self._count("complete")
        return debate

    def _debate(self, match: Match) -> Debate:
        """A debate with what its journal holds of it."""
        turns = self.run.journal.turns(match.debate_id) if match.debate_id in self._begun else ()
        slots = slots_for(self.run.spec.format, match.opener)
        return Debate(match=match, topic=self.run.topics[match.topic_id], slots=slots, turns=turns)

    def _row(self, debate: Debate) -> DebateRow:
        match = debate.match
        begun = match.debate_id in self._begun
        self._begun.add(match.debate_id)
        return DebateRow(
            debate_id=match.debate_id,
            match=match.match,
            topic_id=match.topic_id,
            split=debate.topic.split,
            for_contestant=match.for_contestant,
            against_contestant=match.against_contestant,
            opener=match.opener,
            replicate=match.replicate,
            seed=match.seed,
            status="open",
            started_at=self.run.journal.started_at(match.debate_id) if begun else datetime.now(UTC),
            ended_at=None,
        )

    async def _record(self, row: DebateRow, turn: Turn, speech: Speech, *, last: bool) -> None:
        if last:
            self.run.journal.queue(replace(row, status="complete", ended_at=datetime.now(UTC)))
        await self.run.journal.write(turn, *self._calls(speech.call, speech.shorten))
        self.progress.turns += 1

    def book(self, call: Call) -> None:
        """Record what a judge's question cost."""
        self.run.journal.queue(*self._calls(call))

    def _calls(self, *calls: Call | None) -> list[Call]:
        """The calls that were made, their cost added up."""
        made = [call for call in calls if call is not None]
        self.progress.cost_usd += sum(call.cost_usd for call in made)
        return made

    async def _void(self, row: DebateRow, slot: Slot, error: BaseException, speech: Speech | None) -> None:
        """Record why a debate came to no end, and what the turn cost that was none."""
        now = datetime.now(UTC)
        contestant = row.for_contestant if slot.side == "for" else row.against_contestant
        failure = Failure(
            debate_id=row.debate_id,
            step="speak",
            turn=slot.turn,
            at=now,
            contestant=contestant,
            judge=None,
            kind=error.kind if isinstance(error, SpeakFailed) else "raised",
            message=_message(error),
            attempts=error.attempts if isinstance(error, SpeakFailed) else 1,
        )
        paid = (speech.call, speech.shorten) if speech else (getattr(error, "call", None),)
        await self.run.journal.write(failure, replace(row, status="void", ended_at=now), *self._calls(*paid))
        self.progress.failures += 1
        self._failed[contestant] += 1
        failed, of = self._failed[contestant], self._played[contestant]
        if of >= LEAST and failed > self.max_failed * of:
            self.progress.parked[contestant] = f"made {failed} of {of} debates void; the last: {failure.message}"
        self._count("void")

    async def _park(self, contestant: str, error: Unavailable) -> None:
        """Ask a contestant no more in this sitting; where it is so for all of them, begin nothing new."""
        if calls := self._calls(error.call if error.call and error.call.attempts else None):
            await self.run.journal.write(*calls)
        if error.everybody:
            self.stop(_message(error))
        elif not self.stopping:
            self.progress.parked.setdefault(contestant, _message(error))

    def _count(self, status: Status) -> None:
        self.progress.done += 1
        self.progress.void += status == "void"

    # ── judging ──────────────────────────────────────────────────────────────────────────────────

    async def _judge_all(self, judge: Judge) -> None:
        queue = self._queues[judge.name]
        while True:
            match, debate = await queue.get()
            try:
                if not await self.judge(judge, debate or self._debate(match)):
                    self.progress.unjudged += 1
            finally:
                queue.task_done()

    async def judge(self, judge: Judge, debate: Debate) -> bool:
        """Ask `judge` for the votes that it still owes on `debate`, and record the verdict with the last one.

        False where it could not be asked for all of them.
        """
        asked = list(product(judge.orders, range(judge.samples)))
        stored = self.run.journal.votes(debate.id, judge.name)
        votes = [vote for vote in stored if (vote.order, vote.sample) in asked]
        have = {(vote.order, vote.sample) for vote in votes}
        owed = [place for place in asked if place not in have]
        transcript = content_id(*(turn.text for turn in debate.turns))

        async def vote(order: Order, sample: int) -> None:
            if self.stopping or judge.name in self.progress.absent:
                return
            identity = self.bench.identity(judge, transcript, order, sample)
            if (found := await self._vote(judge, debate, order, sample, identity)) is None:
                return
            votes.append(found)
            if len(votes) == len(asked):
                self._decide(judge, debate, votes)
            await self.run.journal.write(found)

        first = 0 if self.all_at_once else 1
        for order, sample in owed[:first]:
            await vote(order, sample)
        async with asyncio.TaskGroup() as tasks:
            for order, sample in owed[first:]:
                tasks.create_task(vote(order, sample))
        if not owed:  # only the verdict was
            await self._decide(judge, debate, votes)
        return len(votes) == len(asked)

    def _decide(self, judge: Judge, debate: Debate, votes: Sequence[Vote]) -> asyncio.Future[None]:
        """Record a judge's verdict, and those of the panels that waited for it."""
        related = self.bench.kin.related(judge.name, debate.match)
        verdict = from_votes(debate.id, judge.name, votes, related=related)
        self.progress.verdicts += 1
        return self.run.journal.queue(verdict, *self.tally.add(debate.match, verdict))

    async def _settle(self) -> None:
        """Have the panels decide that wait for nobody any more, but for members that cannot be asked."""
        for match in self.ended if self.bench.panels else ():
            for verdict in self.tally.due(match, absent=self.progress.absent):
                await self.run.journal.write(verdict)

    async def _vote(self, judge: Judge, debate: Debate, order: Order, sample: int, identity: str) -> Vote | None:
        """A vote as it may be stored; None where it stays owed."""
        try:
            return cast(await judge.vote(debate, order, sample), debate, judge.name, order, sample, identity)
        except NotNow as error:
            if error.everybody:
                self.stop(_message(error))
            elif not self.stopping:
                self.progress.absent.setdefault(judge.name, _message(error))
            return None
        except BaseException as error:  # whatever a judge raises, the debate stays
            if _ours(error):
                raise
            message = _message(error)
            no_reply = error if isinstance(error, NoReply) else None
            self.progress.failures += 1
            self.run.journal.queue(
                Failure(
                    debate_id=debate.id,
                    step="judge",
                    turn=None,
                    at=datetime.now(UTC),
                    contestant=None,
                    judge=judge.name,
                    kind=no_reply.kind if no_reply else "raised",
                    message=message,
                    attempts=1,
                )
            )
            return Vote(
                debate_id=debate.id,
                judge=judge.name,
                order=order,
                sample=sample,
                winner="invalid",
                call_id=no_reply.call_id if no_reply else None,
                error=message,
                identity=identity,
            )


def _ours(error: BaseException) -> bool:
    """Whether an error was meant for the engine, and did not come out of the contestant or judge that was asked."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt)


def _message(error: BaseException) -> str:
    """One bounded line; of an unforeseen error, its type as well."""
    try:
        said = str(error)
    except Exception:
        said = "(its message cannot be read)"
    foreseen = isinstance(error, SpeakFailed | Unavailable | NoReply | NotNow)
    return presentable(one_line(said if foreseen else f"{type(error).__name__}: {said}"))
