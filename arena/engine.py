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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from arena.bench import Bench
from arena.boundary import in_words, ours
from arena.contestants import Contestant, SpeakFailed, Unavailable
from arena.judging import Judging
from arena.progress import Progress
from arena.speech import hear
from runs import Run
from runs.journal import StorageError
from runs.records import Call, Debate, DebateRow, Failure, Match, Slot, Speech, Status, Turn

LEAST = 10
"""Debates that a contestant must have begun before its share of failures is looked at: of those, since debates that
fail are the first to end."""


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
        """`max_failed` is the share of its debates that a contestant may make void before it is parked, `all_at_once`
        that of `Judging`, and `again` what to type to go on."""
        self.run = run
        self.matches = list(matches)
        self.contestants = contestants
        self.again = again
        self.concurrency = concurrency
        self.max_failed = max_failed
        cost, unknown, most = run.journal.costs()
        self.progress = Progress(
            debates=len(self.matches),
            turns_each=len(run.spec.format),
            cost_usd=cost,
            unknown=unknown,
            unknown_usd=most,
        )
        self.judging = Judging(
            run, bench, self.progress, debate_of=self._debate, stop=self.stop, all_at_once=all_at_once
        )
        self.on_stop: Callable[[], None] = lambda: None
        """Called once when nothing new is to be begun: what waits to be asked need not wait any more."""
        self._begun: set[str] = set()
        self._waiting = 0
        """Matches that no worker has taken yet."""
        self._played: Counter[str] = Counter()
        """Debates of this sitting, by contestant."""
        self._failed: Counter[str] = Counter()
        self.ended: list[Match] = []
        """Matches whose debates are complete."""

    def stop(self, why: str = "") -> None:
        """Begin nothing new; what is in flight is still recorded."""
        self.progress.stopped = self.progress.stopped or why
        if not self.progress.stopping:
            self.progress.stopping = True
            self.on_stop()

    @property
    def tail(self) -> bool:
        """Whether no debate is left to begin."""
        return not self._waiting

    async def play_all(self) -> bool:
        """Play and judge everything that is owed; True when nothing is left."""
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
        await self.judging.settle(self.ended)
        left = self.progress.debates - self.progress.done or self.progress.unjudged
        return not self.progress.stopping and not left

    async def _work(self, owed: list[Match]) -> None:
        async with asyncio.TaskGroup() as tasks:
            workers = min(self.concurrency, len(self.matches))
            judging = self.judging.begin(tasks, workers)
            matches, self._waiting = iter(owed), len(owed)  # shared: each worker takes the next one
            async with asyncio.TaskGroup() as playing:
                for _ in range(workers):
                    playing.create_task(self._play_each(matches))
            await self.judging.done()
            for worker in judging:
                worker.cancel()

    def _owed(self) -> list[Match]:
        """Matches without an outcome, begun ones first; finished ones that lack a verdict go to their judges."""
        statuses = self.run.journal.statuses()
        self._begun = set(statuses)
        owed = []
        for match in self.matches:
            status = statuses.get(match.debate_id, "open")
            if status == "open":
                owed.append(match)
                continue
            self._count(status)
            if status == "complete":
                self.ended.append(match)
                self.judging.submit(match)
        return sorted(owed, key=lambda match: match.debate_id not in self._begun)

    async def _play_each(self, matches: Iterable[Match]) -> None:
        for match in matches:
            self._waiting -= 1
            if self.progress.stopping:
                return
            if self._is_parked(match):
                continue
            debate = await self.play(match)
            if debate is not None:
                self.ended.append(match)
                self.judging.submit(match, debate)

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
            if self.progress.stopping or self._is_parked(match):
                return None
            speech: Speech | None = None
            try:
                speech = await self.contestants[match.contestant(slot.side)].speak(debate, slot)
                turn = hear(speech, debate, slot)
            except Unavailable as error:
                await self._park(match.contestant(slot.side), error)
                return None
            except BaseException as error:  # whatever a contestant raises, the others' debates go on
                if ours(error):
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
        return self.run.debate(match, begun=match.debate_id in self._begun)

    def _row(self, debate: Debate) -> DebateRow:
        match = debate.match
        begun = match.debate_id in self._begun
        self._begun.add(match.debate_id)
        started_at = self.run.journal.started_at(match.debate_id) if begun else datetime.now(UTC)
        return DebateRow.of(debate, "open", started_at=started_at, ended_at=None)

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
        for call in made:
            self.progress.pay(call)
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
            message=in_words(error),
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
            self.stop(in_words(error))
        elif not self.progress.stopping:
            self.progress.parked.setdefault(contestant, in_words(error))

    def _count(self, status: Status) -> None:
        self.progress.done += 1
        self.progress.void += status == "void"
