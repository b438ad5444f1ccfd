"""Judging: asks judges for the votes that debates lack, and records what they and their panels come to.

    judging = Judging(run, bench, progress, debate_of=..., stop=...)
    judging.submit(match, debate)      # a complete debate, to every judge that has no verdict on it
    await judging.done()

Each judge has a queue of its own, so that a slow or broken one holds nobody up. A vote is on disk before anything
depends on it. What can go wrong with a vote is told apart here, once:

* the judge raises, or what it returns is no vote: the vote is `invalid`, and a row of `failures` says why;
* nobody will ever answer it (`NoReply`): the same, with the kind that the endpoint's fault has;
* nobody answers for the time being (`NotNow`): the vote stays owed, and the judge is asked no more in this sitting.
  Panels that it sits on decide without it at the end, where their quorum holds, and again when its votes are there.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import product

from arena.bench import Bench
from arena.boundary import in_words, ours
from arena.progress import Progress
from arena.vote import cast
from judges import Judge
from judges.asking import NoReply, NotNow
from runs import Run
from runs.panels import Tally
from runs.records import Debate, Failure, Match, Order, Vote, content_id
from runs.verdicts import from_votes

HELD = 256
"""Debates that wait for a judge in memory; further ones are read again from the journal when their turn comes."""

Waiting = asyncio.Queue[tuple[Match, Debate | None]]


class Judging:
    """The judges of a run at work."""

    def __init__(
        self,
        run: Run,
        bench: Bench,
        progress: Progress,
        *,
        debate_of: Callable[[Match], Debate],
        stop: Callable[[str], None],
        all_at_once: bool = False,
    ) -> None:
        """A judge's first vote on a debate is sent alone, so that the others find its prompt cached; unless
        `all_at_once`. `debate_of` reads a stored debate, `stop` ends the sitting for everybody."""
        self.run = run
        self.bench = bench
        self.progress = progress
        self.debate_of = debate_of
        self.stop = stop
        self.alone = 0 if all_at_once else 1
        self.tally = Tally(bench.panels, bench.kin, run.journal.verdicts())
        self._judged = run.journal.judged()
        self._queues: dict[str, Waiting] = {judge.name: asyncio.Queue() for judge in bench.judges}

    def submit(self, match: Match, debate: Debate | None = None) -> None:
        """Put a complete debate, or one to be read when its turn comes, before the judges that owe a verdict on it."""
        for name, queue in self._queues.items():
            if (match.debate_id, name) not in self._judged:
                self.progress.wanted += 1
                queue.put_nowait((match, debate if queue.qsize() < HELD else None))

    def begin(self, tasks: asyncio.TaskGroup, workers: int) -> list[asyncio.Task[None]]:
        """Start so many workers a judge; they wait for debates until they are cancelled."""
        return [tasks.create_task(self._work(judge)) for judge in self.bench.judges for _ in range(workers)]

    async def done(self) -> None:
        """Return when nothing that was submitted waits any more."""
        for queue in self._queues.values():
            await queue.join()

    async def settle(self, ended: Iterable[Match]) -> None:
        """Have the panels decide that wait for nobody any more, but for members that cannot be asked."""
        due = [v for match in ended for v in self.tally.due(match, absent=self.progress.absent)]
        if due:
            await self.run.journal.write(*due)

    async def _work(self, judge: Judge) -> None:
        queue = self._queues[judge.name]
        while True:
            match, debate = await queue.get()
            try:
                if not await self.judge(judge, debate or self.debate_of(match)):
                    self.progress.unjudged += 1
            finally:
                queue.task_done()

    async def judge(self, judge: Judge, debate: Debate) -> bool:
        """Ask `judge` for the votes that it still owes on `debate`, and record the verdict with the last one.

        False where it could not be asked for all of them.
        """
        asked = list(product(judge.orders, range(judge.samples)))
        votes = [v for v in self.run.journal.votes(debate.id, judge.name) if (v.order, v.sample) in asked]
        have = {(vote.order, vote.sample) for vote in votes}
        owed = [place for place in asked if place not in have]
        transcript = content_id(*(turn.text for turn in debate.turns))

        async def vote(order: Order, sample: int) -> None:
            if self.progress.stopping or judge.name in self.progress.absent:
                return
            identity = self.bench.identity(judge, transcript, order, sample)
            if (found := await self._vote(judge, debate, order, sample, identity)) is None:
                return
            votes.append(found)
            if len(votes) == len(asked):
                self._decide(judge, debate, votes)
            await self.run.journal.write(found)

        for order, sample in owed[: self.alone]:
            await vote(order, sample)
        if rest := owed[self.alone :]:
            async with asyncio.TaskGroup() as tasks:
                for order, sample in rest:
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

    async def _vote(self, judge: Judge, debate: Debate, order: Order, sample: int, identity: str) -> Vote | None:
        """A vote as it may be stored; None where it stays owed."""
        try:
            return cast(await judge.vote(debate, order, sample), debate, judge.name, order, sample, identity)
        except NotNow as error:
            if error.everybody:
                self.stop(in_words(error))
            elif not self.progress.stopping:
                self.progress.absent.setdefault(judge.name, in_words(error))
            return None
        except BaseException as error:  # whatever a judge raises, the debate stays
            if ours(error):
                raise
            return self._invalid(error, judge, debate, order, sample, identity)

    def _invalid(
        self, error: BaseException, judge: Judge, debate: Debate, order: Order, sample: int, identity: str
    ) -> Vote:
        """The vote of a judge that gave none, and a record of why."""
        message = in_words(error)
        no_reply = error if isinstance(error, NoReply) else None
        if no_reply is None:
            count, first = self.progress.raised.get(judge.name, (0, message))
            self.progress.raised[judge.name] = count + 1, first
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
                attempts=no_reply.attempts if no_reply else 1,
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
