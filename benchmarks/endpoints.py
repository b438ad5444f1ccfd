"""`python benchmarks/endpoints.py`: what asking an endpoint costs, and how near a run comes to the shortest possible.

Debates of ten turns against the simulated endpoint (canned text, a process of its own), 64 requests in flight. A debate
is a chain, so no schedule ends sooner than max(ten times the latency, all calls x latency / 64): *makespan* is told as
a multiple of that bound. CPU is the client's, per call, with everything that a run keeps: the journal included, sealing
told apart. Beside it, in the same run: a bare loop over the `openai` package that keeps turns and calls in SQLite as
durably, raw `aiohttp` that keeps nothing, and `inspect-ai` where it is installed. Each in a process of its own.

The last table has three endpoints of different speed and cap: no schedule ends before the slowest has done its part.
"""

import argparse
import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from arena import roster as rosters
from arena.bench import bench
from arena.engine import Engine
from arena.prompting import messages
from arena.run import Settings, resolve, scheduled
from runs import Run
from runs.records import Debate, Match, Turn, slots_for

CAP = 64
WAYS = ("arena", "openai", "aiohttp", "inspect")
SPEEDS = ((0.1, 32), (0.2, 32), (0.3, 48))
"""Latency and cap of each of three endpoints."""


@contextmanager
def endpoint(latency: float) -> Any:
    """A simulated endpoint in a process of its own; its base URL."""
    command = [sys.executable, "-m", "arena.simulate", "--port", "0", "--latency", str(latency), "--text", "plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def roster(path: Path, urls: list[str], caps: list[int]) -> Path:
    text = ""
    for number, (url, cap) in enumerate(zip(urls, caps, strict=True)):
        text += f'[[endpoints]]\nname = "e{number}"\nkind = "vllm"\nbase_url = "{url}"\nin_flight = {cap}\n'
    for number in range(max(2, len(urls))):  # kind vllm: a fixed window
        where = min(number, len(urls) - 1)
        model = "m" if len(urls) == 1 else f"m{number}"
        text += f'[[contestants]]\nname = "c{number}"\nendpoint = "e{where}"\nmodel = "{model}"\n'
    path.write_text(text)
    return path


def arena(debates: int, urls: list[str], caps: list[int], concurrency: int) -> dict[str, float]:
    """The arena's own way: a run from its first call to its seal."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        settings = Settings(
            topics="train", roster=roster(out / "r.toml", urls, caps), judges=["scripted"], limit=debates,
            replicates=-(-debates // 400), out=out,
        )  # fmt: skip
        spec, its_topics = resolve(settings)
        with (
            rosters.seats(spec, out) as seats,
            Run.create(spec, its_topics, out) as held,
        ):
            matches = scheduled(spec)
            engine = Engine(held, matches, seats.contestants, bench(spec, None), concurrency=concurrency)
            seats.lines.tail = lambda: engine.tail

            async def play() -> None:
                await engine.play_all()
                await seats.lines.close()

            found = measured(play, 10 * len(matches))
            cpu = time.process_time()
            held.seal()
            found["sealing"] = 1e3 * (time.process_time() - cpu) / (10 * len(matches))
        by_seat = {
            name: 5 * sum(name in (m.for_contestant, m.against_contestant) for m in matches)
            for name in seats.contestants
        }
        return found | {"calls": by_seat}  # type: ignore[dict-item]


def measured(play: Callable[[], Awaitable[None]], calls: int) -> dict[str, float]:
    import aiohttp  # noqa: F401  # what a client imports is paid once, not per call
    import openai.types.chat  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(play())  # type: ignore[arg-type]
    return {
        "wall": time.perf_counter() - wall,
        "cpu": 1e3 * (time.process_time() - cpu) / calls,
        "mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def plain(way: str, debates: int, url: str) -> dict[str, float]:
    """The same debates in a bare loop: all at once, a semaphore before the endpoint."""
    settings = Settings(topics="train", limit=debates, replicates=-(-debates // 6000))
    spec, topics = resolve(settings)
    by_id = {topic.topic_id: topic for topic in topics}
    matches = scheduled(spec)

    async def run() -> None:
        import aiohttp
        import openai
        from openai.types.chat import ChatCompletion

        gate = asyncio.Semaphore(CAP)
        if way == "openai":
            client = openai.AsyncOpenAI(
                api_key="none", base_url=url, max_retries=0, http_client=openai.DefaultAioHttpClient()
            )
            keep = Keep()

            async def ask(body: dict[str, Any]) -> str:
                async with gate:
                    answer = await client.post("/chat/completions", cast_to=ChatCompletion, body=body)
                return str(answer.choices[0].message.content)
        else:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

            async def ask(body: dict[str, Any]) -> str:
                async with gate, session.post(f"{url}/chat/completions", json=body) as response:
                    answer = await response.json()
                return str(answer["choices"][0]["message"]["content"])

        async def play(match: Match) -> None:
            slots = slots_for(spec.format, match.opener)
            debate = Debate(match=match, topic=by_id[match.topic_id], slots=slots)
            for slot in slots:
                text = await ask({"model": "m", "messages": messages(debate, slot), "max_tokens": 1200})
                turn = Turn(
                    debate_id=debate.id, turn=slot.turn, side=slot.side, stage=slot.stage, text=text, reasoning=None,
                    contestant=match.contestant(slot.side), words=len(text.split()), trimmed=False, call_id="",
                )  # fmt: skip
                if way == "openai":
                    await keep.row(turn)
                debate = debate.with_turn(turn)

        await asyncio.gather(*map(play, matches))
        await (client if way == "openai" else session).close()

    return measured(run, 10 * len(matches))


class Keep:
    """Turns and calls in SQLite, on disk before anything depends on them, one commit a pass of the loop."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.connection = sqlite3.connect(f"{self.folder.name}/kept.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("CREATE TABLE turns (debate TEXT, turn INT, row TEXT)")
        self.waiting: list[tuple[str, int, str]] = []
        self.kept: asyncio.Future[None] | None = None

    async def row(self, turn: Turn) -> None:
        if self.kept is None:
            self.kept = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self.commit)
        self.waiting.append((turn.debate_id, turn.turn, json.dumps(asdict(turn))))
        await asyncio.shield(self.kept)

    def commit(self) -> None:
        rows, self.waiting = self.waiting, []
        kept, self.kept = self.kept, None
        self.connection.execute("BEGIN")
        self.connection.executemany("INSERT INTO turns VALUES (?, ?, ?)", rows)
        self.connection.execute("COMMIT")
        assert kept is not None
        kept.set_result(None)


def inspect_ai(debates: int, url: str) -> dict[str, float]:
    """The same by inspect-ai: a task whose solver is a debate of ten turns."""
    from inspect_ai import Task, eval_async
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, get_model
    from inspect_ai.solver import Generate, TaskState, solver

    settings = Settings(topics="train", limit=debates, replicates=-(-debates // 6000))
    spec, topics = resolve(settings)
    by_id = {topic.topic_id: topic for topic in topics}
    matches = scheduled(spec)
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}

    @solver
    def debate_solver() -> Any:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            match = matches[int(state.sample_id)]
            slots = slots_for(spec.format, match.opener)
            debate = Debate(match=match, topic=by_id[match.topic_id], slots=slots)
            for slot in slots:
                said = [kinds[message["role"]](content=message["content"]) for message in messages(debate, slot)]
                text = (await get_model().generate(said)).completion
                turn = Turn(
                    debate_id=debate.id, turn=slot.turn, side=slot.side, stage=slot.stage, text=text, reasoning=None,
                    contestant=match.contestant(slot.side), words=len(text.split()), trimmed=False, call_id="",
                )  # fmt: skip
                debate = debate.with_turn(turn)
            return state

        return solve

    async def run() -> None:
        with tempfile.TemporaryDirectory() as logs:
            samples = [Sample(id=number, input="debate") for number in range(len(matches))]
            model = get_model("openai-api/here/m", base_url=url, api_key="none")
            await eval_async(
                Task(dataset=samples, solver=debate_solver()), model=model, max_connections=CAP,
                max_samples=len(matches), log_dir=logs, display="none",
            )  # fmt: skip

    return measured(run, 10 * len(matches))


def one(way: str, debates: int, urls: list[str], caps: list[int], concurrency: int) -> dict[str, float]:
    if way == "arena":
        return arena(debates, urls, caps, concurrency)
    return inspect_ai(debates, urls[0]) if way == "inspect" else plain(way, debates, urls[0])


def in_process(way: str, debates: int, urls: list[str], caps: list[int], concurrency: int) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", json.dumps([way, debates, urls, caps, concurrency])]
    printed = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--debates", type=json.loads, default=[100, 1000], help="how many (default: [100, 1000])")
    parser.add_argument("--concurrency", type=int, default=Settings.model_fields["concurrency"].default)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one)))
        return
    ways = [way for way in WAYS if way != "inspect" or find_spec("inspect_ai")]
    print("| debates | latency s | way | wall s | bound s | makespan / bound | CPU ms a call | sealing | memory MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for latency in (0.02, 0.2):
        for debates in given.debates:
            bound = max(10 * latency, 10 * debates * latency / CAP)
            for way in ways:
                with endpoint(latency) as url:
                    found = in_process(way, debates, [url], [CAP], given.concurrency)
                cells = [f"{found['wall']:.2f}", f"{bound:.2f}", f"{found['wall'] / bound:.2f}", f"{found['cpu']:.2f}"]
                cells += [f"{found['sealing']:.2f}" if "sealing" in found else "-", f"{found['mb']:.0f}"]
                print(f"| {debates:,} | {latency} | {way} | {' | '.join(cells)} |", flush=True)
    three(given.debates[0], given.concurrency)


def three(debates: int, concurrency: int) -> None:
    """Three endpoints at a time, each with a model of its own."""
    with endpoint(SPEEDS[0][0]) as a, endpoint(SPEEDS[1][0]) as b, endpoint(SPEEDS[2][0]) as c:
        found = in_process("arena", 3 * debates, [a, b, c], [cap for _, cap in SPEEDS], concurrency)
    bounds = {
        name: calls * latency / cap
        for (name, calls), (latency, cap) in zip(sorted(found["calls"].items()), SPEEDS, strict=True)
    }
    bound = max(bounds.values())
    each = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in bounds.items())
    print(f"\nthree endpoints, latency and cap {SPEEDS}, {3 * debates} debates: bounds {each};")
    print(f"wall {found['wall']:.2f} s, {found['wall'] / bound:.2f} of the slowest's bound")


if __name__ == "__main__":
    main()
