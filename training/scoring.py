"""The rubric judge at work: a batch of texts is scored at once, by a language model behind a roster's endpoint.

    with scoring("gpt", roster=Path("roster.toml"), out=OUT, cache=folder / "scored.db", max_cost=5.0) as judge:
        rewards = judge.all(reward(judge.rubric, text) for text in texts)
        judge.asked, judge.cached, judge.failed, judge.cost_usd, judge.unknown      # since the block began

Coroutines go in, what they return comes out, in their order. `training.rewards.rubric` is one, and so is whatever
awaits several of them. A trainer is no coroutine, so `all` runs an event loop until the whole batch is scored. The
batch is in flight together; how much of it is sent at once is for the endpoint's gate to say (`arena/gate.py`).

Nothing is paid for twice. What was answered is kept under a digest of all that was asked, and a training that was
killed, goes on and draws the same texts again asks for the rest alone; the same question twice in a batch is one. Each
answer is written as it comes, so that whatever ends a training loses what was in flight and no more.

A question that fails makes one reward None, is counted, and is asked again another time: failures are not kept. An
answer that cannot be read is an answer, and as unreadable another time. Where the judge answers nobody any more, or
its money is spent, nothing further is sent, what is in flight is still taken in, and `all` raises `Unscored`.

How it departs from a loop over a client: a question that fails while no other is answered may have met an outage, or
may be one that never goes well, which a training that goes on with all others in its cache meets alone. The judge is
then asked something plain, and only where that has no answer either is it an outage.
"""

import asyncio
import gc
import json
import sqlite3
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from arena import remote
from arena import roster as rosters
from arena.asking import Asker, Asking
from arena.bench import JudgeEntry
from arena.endpoints import Endpoint
from arena.line import Budget, Line, Lines, total
from judges.asking import Ask, NoReply, NotNow, Question, Reply
from judges.rubric import Item, RubricJudge, Scores
from runs.records import Call, content_id
from topics.errors import InputError, near, one_line

PLAIN = Question(about="plain", messages=[{"role": "user", "content": "Answer with the one word yes."}])
"""What whoever answers at all can answer."""

T = TypeVar("T")


class Unscored(Exception):
    """A batch could not be scored, and no other can be: the judge answers nobody, or the money is spent."""


@contextmanager
def scoring(
    judge: str, *, roster: Path, out: Path, cache: Path | None = None, max_cost: float | None = None
) -> Iterator["Scoring"]:
    """The judge of that name in a roster, of which only what says how its model is asked has a part in this.

    What it answers is kept in the file `cache`, or for the block alone; in the block it may cost `max_cost` USD. A
    server that has to be started for it ends with the block; `out` is where adapters are. Raises `InputError`.
    """
    entry, endpoint = named(judge, roster)
    asking = entry.asking
    assert asking is not None
    with (
        _opened(cache) as answers,
        remote.seated([], {endpoint.name: endpoint}, out, judges={judge: asking}) as (_, lines),
        asyncio.Runner() as runner,
    ):
        lines.budget.most = max_cost
        line = lines.to(endpoint.name, str(asking.model))
        calls: list[Call] = []
        asker = Asker(judge, asking, line, calls.append, structured=entry.structured)
        held = Scoring(judge, Once(asker, line, _identity(asking), answers), lines, runner, calls)
        try:
            yield held
        finally:
            runner.run(held.close())


def named(judge: str, path: Path) -> tuple[JudgeEntry, Endpoint]:
    """A judge of a roster, its model looked up, and where it is asked."""
    roster = rosters.load(path)
    known = {entry.name: entry for entry in roster.judges if "endpoint" in (entry.model_extra or {})}
    if judge not in known:
        has = ", ".join(known) or "none: add [[judges]] with endpoint = ..."
        raise InputError(f"{str(path)!r} has no judge {judge!r} with an endpoint; it has {has}{near(judge, known)}")
    given, kept = known[judge].model_dump(exclude_unset=True), {"name", "structured", *Asking.model_fields}
    asked = {name: value for name, value in given.items() if name in kept}
    endpoints = {endpoint.name: endpoint for endpoint in roster.endpoints}
    found = JudgeEntry.model_validate(asked | {"kind": "llm"}).resolved(endpoints)  # whatever its own kind may be
    return JudgeEntry.model_validate(found), endpoints[found["endpoint"]]


def _identity(asking: Asking) -> str:
    """Digest of what an answer depends on besides what is asked."""
    return content_id(json.dumps(asking.model_dump(mode="json"), sort_keys=True))


class Scoring:
    """A judge at work; see the head of the module."""

    def __init__(self, name: str, once: "Once", lines: Lines, runner: asyncio.Runner, calls: Sequence[Call]) -> None:
        self.rubric: RubricJudge = _Counting(name, ask=once)
        self._once = once
        self._lines = lines
        self._runner = runner
        self._calls = calls
        self._cause: BaseException | None = None

    @property
    def asked(self) -> int:
        """Questions that the cache had no answer to, repairs included."""
        return self._once.asked

    @property
    def cached(self) -> int:
        """Questions that it had one to, or that were just being asked."""
        return self._once.cached

    @property
    def failed(self) -> int:
        """Texts that the judge was asked to score and has no scores for."""
        assert isinstance(self.rubric, _Counting)
        return self.rubric.failed

    @property
    def budget(self) -> Budget:
        """What it may cost, and all that has a part in it has."""
        return self._lines.budget

    @property
    def cost_usd(self) -> float:
        """What it cost, as far as that is known."""
        return total(self._calls)[0]

    @property
    def unknown(self) -> int:
        """Calls that this is without, or without a part of."""
        return total(self._calls)[1]

    def all(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """What each of them returns, in their order, once all have.

        Raises `Unscored`, or the first that went wrong otherwise, when what was in flight has been taken in.
        """
        try:
            with _unburdened():
                tasks = self._runner.run(self._together(coroutines))
        finally:
            self._once.answers.settle()
        if isinstance(self._cause, NotNow):
            raise Unscored(f"judge {self.rubric.name!r} answers no more: {one_line(str(self._cause), 600)}") from None
        if self._cause is not None:
            raise self._cause
        return [task.result() for task in tasks]

    async def _together(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> Sequence[asyncio.Task[T]]:
        """They all, ended."""
        left, tasks = list(coroutines)[::-1], list[asyncio.Task[T]]()
        try:
            while left:
                tasks.append(asyncio.create_task(self._or_stop(left.pop())))
                await self._once.room()
        finally:  # only an interrupt leaves any
            for coroutine in left:
                coroutine.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._once.asking:  # of a coroutine that did not wait for all its questions
            await asyncio.wait(set(self._once.asking.values()))
        return tasks

    async def _or_stop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What it returns; where it cannot, nothing further is sent for anybody."""
        try:
            return await coroutine
        except BaseException as error:
            self._cause = self._cause or error
            self._lines.stop()
            raise

    async def close(self) -> None:
        """Let go of whatever an interrupt has left, and of the connections."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._lines.close()


@contextmanager
def _unburdened() -> Iterator[None]:
    """Python looks for garbage among what is made from here on, and not, several times a batch, in all of torch."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Counting(RubricJudge):
    """Counts the texts for which there are no scores."""

    failed = 0

    async def score(self, prompt: str, text: str, items: Sequence[Item], *, about: str, draw: int = 0) -> Scores | None:
        scores = await super().score(prompt, text, items, about=about, draw=draw)
        self.failed += scores is None
        return scores


# ── asking once ──────────────────────────────────────────────────────────────────────────────────


class Once:
    """An `Ask` that asks nothing that has been answered, or is being asked."""

    def __init__(self, ask: Ask, line: Line, identity: str, answers: "Answers") -> None:
        self.ask = ask
        self.line = line
        self.identity = identity
        """Of who is asked, and how."""
        self.answers = answers
        self.asking: dict[str, asyncio.Task[Reply]] = {}
        """What is in flight; it goes on where whoever asked does not wait for it any more, for it is paid."""
        self.asked = self.cached = 0
        self._ended = asyncio.Event()

    async def room(self) -> None:
        """Hear what has been answered, and wait while as many questions as may be in flight wait at the gate: that is
        never idle then, and what is put into words sooner than it can be sent is in the way of answers."""
        await asyncio.sleep(0)
        while self.line.gate.waiting >= self.line.gate.limits.in_flight:
            self._ended.clear()
            await self._ended.wait()

    async def __call__(self, question: Question) -> Reply:
        """The answer; raises `NoReply` or `NotNow`."""
        said = json.dumps([*question.messages, question.schema])
        key = content_id(self.identity, said, question.draw, size=16)
        if (text := self.answers.get(key)) is not None:
            self.cached += 1
            return Reply(text=text)
        if key in self.asking:
            self.cached += 1
        else:
            self.asking[key] = asyncio.create_task(self._answered(key, question))
        return await asyncio.shield(self.asking[key])

    async def _answered(self, key: str, question: Question) -> Reply:
        self.asked += 1
        try:
            reply = await self.ask(question)
            self.answers.put(key, reply.text)
        except NotNow as error:
            if error.everybody or not await self._answers_anybody():
                raise
            raise NoReply("server", str(error)) from None
        finally:
            del self.asking[key]
            self._ended.set()
        return reply

    async def _answers_anybody(self) -> bool:
        """Whether the judge answers something plain, be it that it will not."""
        try:
            await self.ask(PLAIN)
        except NoReply:
            return True
        except NotNow:
            return False
        return True


class Answers:
    """Answers by the digest of what was asked, in SQLite. Several trainings may have one file open."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def get(self, key: str) -> str | None:
        """An answer; None where there is none. Raises `InputError` where the file is damaged."""
        with _readable(self._name):
            row = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, answer: str) -> None:
        """Keep an answer, so that the end of this process does not lose it. Raises `NotNow`."""
        try:
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))
        except sqlite3.Error as error:
            raise NotNow(f"{self._name} cannot be written: {error}", everybody=True) from None

    def settle(self) -> None:
        """Have what was kept survive a power cut as well."""
        with suppress(sqlite3.Error):  # on a full disk the log stays beside the file, and nothing is lost
            self._connection.execute("PRAGMA wal_checkpoint")


@contextmanager
def _opened(path: Path | None) -> Iterator[Answers]:
    """The answers in a file, or none yet and in memory."""
    name = "the cache" if path is None else f"the cache {str(path)!r}"
    with _readable(name):
        connection = sqlite3.connect(path or ":memory:", isolation_level=None)
    try:
        with _readable(name):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a commit waits for no disk; `settle` does
            connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            connection.execute("SELECT key, answer FROM answers LIMIT 1").fetchone()
        yield Answers(connection, name)
    finally:
        connection.close()


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(
            f"{name} cannot be read as answers of a judge: {error}; remove it to begin anew, and pay for it again"
        ) from None
