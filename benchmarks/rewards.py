"""`python benchmarks/rewards.py`: how long a batch of completions waits for its rewards.

Completions are scored by a simulated judge, in a process of its own, that takes 200 ms for an answer; each is asked
about twice, for its rubric and for its citations, 64 questions in flight. No way of asking ends sooner than
ceil(calls / 64) x 200 ms: *wall* is the time from the last completion to the rewards, and is told as a multiple of that
bound. CPU is the client's, per call, with all that it keeps; the batch that comes first makes its 64 connections as
well. Beside it, in the same run: a bare loop over the `openai` package with the same prompts and a semaphore of 64,
which keeps nothing. Each in a process of its own. Last, the batch is scored once more by another process with the same
cache: what is asked then was lost.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

from arena.simulate_text import plain
from judges.asking import NoReply, Question
from judges.rubric import Item, RubricJudge
from training.citations import answer, citation
from training.rewards import rubric
from training.scoring import Scoring, scoring

CAP, LATENCY, GROUP = 64, 0.2, 8
NAME, MODEL = "simulated", "rubric-judge"
ITEMS = (
    *(Item(text=f"It says that the burden falls on those who {what}.") for what in ("travel", "stay", "work", "wait")),
    *(Item(text=text, positive=False) for text in ("It claims what no snippet holds.", "It says a sentence twice.")),
)
SNIPPETS = {f"S{n}": plain(60, n) for n in range(1, 9)}


@contextmanager
def endpoint() -> Iterator[str]:
    """A simulated endpoint in a process of its own; its base URL."""
    command = [sys.executable, "-m", "arena.simulate", "--port", "0", "--latency", str(LATENCY), "--text", "plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def roster(path: Path, url: str) -> Path:
    text = f'[[endpoints]]\nname = "e"\nkind = "vllm"\nbase_url = "{url}"\nin_flight = {CAP}\n'  # vllm: a fixed window
    path.write_text(text + f'[[judges]]\nname = "{NAME}"\nkind = "llm"\nendpoint = "e"\nmodel = "{MODEL}"\n')
    return path


def prompt(number: int) -> str:
    return f"Task {number}: answer from the snippets.\n\n{plain(500, number)}"


def completion(batch: int, number: int) -> str:
    """Some 250 words, three claims, five citations."""
    cited = (f"<snippet id=S{n},S{n + 1}>{plain(40, number + n)}</snippet>" for n in (1, 3))
    last = f"<snippet id=S{number % 8 + 1}>In batch {batch}, {number} of them said so. {plain(40, number)}</snippet>"
    return f"<answer>{plain(130, number)} {' '.join(cited)} {last}</answer>"


async def reward(judge: RubricJudge, batch: int, number: int) -> float | None:
    """Of one completion; both parts are asked for at once."""
    asked, text = prompt(number // GROUP), answer(completion(batch, number))
    about, draw = f"prompt-{number // GROUP}", number % GROUP
    scored, cited = await asyncio.gather(
        rubric(judge, asked, text, ITEMS, about=about, draw=draw),
        citation(judge, asked, text, SNIPPETS, about=about, draw=draw),
    )
    return None if scored is None or cited is None else fmean(item.score for item in scored) + 0.2 * cited.f1


def timed(way: Any, calls: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return {"wall": time.perf_counter() - wall, "cpu": 1e3 * (time.process_time() - cpu) / calls}


def arena(calls: int, batches: int, path: str, cache: str) -> dict[str, Any]:
    """Batches by way of `training.scoring`."""

    def score(judge: Scoring, batch: int) -> None:
        values = judge.all(reward(judge.rubric, batch, number) for number in range(calls // 2))
        assert None not in values

    with scoring(NAME, roster=Path(path), out=Path(cache).parent, cache=Path(cache)) as judge:
        import openai.types.chat  # noqa: F401  # what a client imports is paid once, not per call

        found = [timed(lambda at=batch: score(judge, at), calls) for batch in range(batches)]  # type: ignore[misc]
        return {"batches": found, "asked": judge.asked, "cached": judge.cached}


def bare(calls: int, batches: int, url: str) -> dict[str, Any]:
    """The same prompts in a bare loop; making them is not counted."""
    bodies = [[body for n in range(calls // 2) for body in _bodies(batch, n)] for batch in range(batches)]
    with asyncio.Runner() as runner:
        import openai
        from openai.types.chat import ChatCompletion

        gate = asyncio.Semaphore(CAP)
        client = openai.AsyncOpenAI(
            api_key="none", base_url=url, max_retries=0, http_client=openai.DefaultAioHttpClient()
        )

        async def ask(body: dict[str, Any]) -> float:
            async with gate:
                answer = await client.post("/chat/completions", cast_to=ChatCompletion, body=body)
            items = json.loads(answer.choices[0].message.content or "null")["items"]
            return fmean(item["score"] for item in items.values())

        async def ask_all(batch: int) -> None:
            await asyncio.gather(*map(ask, bodies[batch]))

        found = [timed(lambda at=batch: runner.run(ask_all(at)), calls) for batch in range(batches)]  # type: ignore[misc]
        runner.run(client.close())
    return {"batches": found}


def _bodies(batch: int, number: int) -> list[dict[str, Any]]:
    """What is sent for one completion."""
    asked: list[Question] = []

    async def keep(question: Question) -> Any:
        asked.append(question)
        raise NoReply("refused", "nothing is sent")

    asyncio.run(reward(RubricJudge(NAME, ask=keep), batch, number))
    return [{"model": MODEL, "messages": q.messages, "max_tokens": 4000, "seed": batch} for q in asked]


def in_process(what: str, *arguments: Any) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", json.dumps([what, *arguments])]
    printed = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, nargs="+", default=[512, 1024, 4096], help="of a batch")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, *arguments = given.one
        print(json.dumps({"arena": arena, "bare": bare}[what](*arguments)))
        return
    print("| calls | way | batch | wall s | bound s | wall / bound | CPU ms a call |")
    print("|---|---|---|---|---|---|---|")
    for calls in given.calls:
        with tempfile.TemporaryDirectory() as folder:
            again = compared(calls, given.batches, Path(folder))
        print(f"scored again with the same cache: {again['cached']:,} answers from it, {again['asked']:,} asked")


def compared(calls: int, batches: int, folder: Path) -> dict[str, Any]:
    """Both ways, in rows of the table, and what comes of the first batches once more."""
    bound = ceil(calls / CAP) * LATENCY
    for way in ("scoring", "bare openai loop"):
        with endpoint() as url:
            path, cache = str(roster(folder / "r.toml", url)), str(folder / "scored.db")
            if way == "scoring":
                found = in_process("arena", calls, batches, path, cache)
                again = in_process("arena", calls, batches, path, cache)
            else:
                found = in_process("bare", calls, batches, url)
        for batch, one in enumerate(found["batches"], 1):
            cells = f"{one['wall']:.2f} | {bound:.2f} | {one['wall'] / bound:.3f} | {one['cpu']:.2f}"
            print(f"| {calls:,} | {way} | {batch} | {cells} |", flush=True)
    return again


if __name__ == "__main__":
    main()
