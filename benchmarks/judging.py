"""`python benchmarks/judging.py`: what a vote costs when stored debates are judged again.

Simulated contestants debate, then `arena.judge` has every debate judged by two simulated judges, in both orders, over
HTTP, 64 requests in flight each, by an endpoint in a process of its own. CPU is that of judging alone, per vote, with
everything it keeps: votes, calls, verdicts; writing the tables again is told apart. Beside it, in the same run and on
a sample of the same prompts, a bare loop over the `openai` package that parses the answer's JSON and keeps it in SQLite
as durably. Then a third judge joins, and all three are asked for: how many requests the endpoint sees says whether
anything was asked twice. Each in a process of its own.
"""

import argparse
import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import runs
from arena import bench as benches
from arena import judge as judging
from arena.plan import first_asked
from arena.run import Settings, run
from runs import Run

CAP, SAMPLE = 64, 2_000
MODELS = {"a": "judge?position=0.05", "b": "judge?noise=0.1", "c": "judge"}


@contextmanager
def endpoint() -> Any:
    """A simulated endpoint in a process of its own; its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "arena.simulate", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def answered(url: str) -> dict[str, int]:
    """Answers by model."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as response:
        found = json.load(response)["by_model"]
    return {name: found.get(model, {}).get("answered", 0) for name, model in MODELS.items()}


def roster(path: Path, url: str) -> Path:
    text = f'[[endpoints]]\nname = "e"\nkind = "vllm"\nbase_url = "{url}"\nin_flight = {CAP}\n'  # vllm: a fixed window
    for name, model in MODELS.items():
        text += f'[[judges]]\nname = "{name}"\nkind = "llm"\nendpoint = "e"\nmodel = "{model}"\n'
    path.write_text(text)
    return path


def play(debates: int, out: str) -> dict[str, Any]:
    """Stored debates to judge."""
    settings = Settings(topics="train", limit=debates, replicates=-(-debates // 6000), out=Path(out))
    return {"folder": str(run(settings).folder)}


def judge(folder: str, names: list[str], path: str) -> dict[str, Any]:
    """Judging, as the command does it."""
    sealing = [0.0]
    seal = Run.seal

    def timed(held: Run) -> dict[str, Any]:
        began = time.process_time()
        found = seal(held)
        sealing[0] += time.process_time() - began
        return found

    Run.seal = timed  # type: ignore[method-assign]
    import openai.types.chat  # noqa: F401  # what a client imports is paid once, not per vote

    wall, cpu = time.perf_counter(), time.process_time()
    result = judging.judge(judging.Settings(from_run=folder, judges=names, roster=Path(path)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert result.finished
    return {"wall": wall, "cpu": cpu - sealing[0], "sealing": sealing[0], "verdicts": result.progress.verdicts}


def bare(folder: str, path: str) -> dict[str, Any]:
    """The same prompts in a bare loop; making them is not counted."""
    with Run.resume(Path(folder)) as held:
        spec, _ = judging.reseated(held.spec, judging.Settings(judges=["a"], roster=Path(path)))
        (seated,) = benches.bench(spec, None).judges
        debates = [held.debate(match) for match in list(held.journal.complete())[: SAMPLE // 2]]
    entry = next(entry for entry in spec.judges if entry["name"] == "a")
    url = next(e["base_url"][0] for e in spec.endpoints if e["name"] == "e")
    prompts = [
        asyncio.run(first_asked(entry, seated, debate, order, 0)) for debate in debates for order in seated.orders
    ]
    bodies = [{"model": MODELS["a"], "messages": prompt, "max_tokens": 4000} for prompt in prompts]

    async def ask_all() -> None:
        import openai
        from openai.types.chat import ChatCompletion

        gate = asyncio.Semaphore(CAP)
        client = openai.AsyncOpenAI(
            api_key="none", base_url=url, max_retries=0, http_client=openai.DefaultAioHttpClient()
        )
        with tempfile.TemporaryDirectory() as kept:
            table = sqlite3.connect(f"{kept}/kept.db", isolation_level=None)
            table.execute("PRAGMA journal_mode = WAL")
            table.execute("PRAGMA synchronous = FULL")
            table.execute("CREATE TABLE votes (number INT, row TEXT)")

            async def ask(number: int) -> None:
                async with gate:
                    answer = await client.post("/chat/completions", cast_to=ChatCompletion, body=bodies[number])
                said = json.loads(answer.choices[0].message.content or "null")
                table.execute("INSERT INTO votes VALUES (?, ?)", (number, json.dumps(said)))

            await asyncio.gather(*map(ask, range(len(bodies))))
        await client.close()

    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(ask_all())
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "votes": len(bodies)}


def in_process(what: str, *arguments: Any) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", json.dumps([what, *arguments])]
    found: dict[str, Any] = json.loads(
        subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--debates", type=int, default=13_726)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, *arguments = given.one
        print(json.dumps({"play": play, "judge": judge, "bare": bare}[what](*arguments)))
        return
    with tempfile.TemporaryDirectory() as out, endpoint() as url:
        folder = in_process("play", given.debates, out)["folder"]
        path = str(roster(Path(out) / "r.toml", url))
        debates = runs.load(Path(folder)).debates.filter(status="complete").collect().height
        loop = in_process("bare", folder, path)
        before = answered(url)
        two = in_process("judge", folder, ["a", "b"], path)
        votes = sum(answered(url).values()) - sum(before.values())
        bare_ms, ms = 1e3 * loop["cpu"] / loop["votes"], 1e3 * two["cpu"] / votes
        print(f"{debates:,} debates, two judges, both orders: {votes:,} votes, {two['verdicts']:,} verdicts")
        print("| way | votes | wall s | CPU ms a vote | x bare | sealing again, s |")
        print("|---|---|---|---|---|---|")
        print(f"| arena.judge | {votes:,} | {two['wall']:.1f} | {ms:.2f} | {ms / bare_ms:.2f} | {two['sealing']:.1f} |")
        print(f"| bare openai loop | {loop['votes']:,} | {loop['wall']:.1f} | {bare_ms:.2f} | 1.00 | - |", flush=True)
        before = answered(url)
        in_process("judge", folder, ["a", "b", "c"], path)
        asked = {name: count - before[name] for name, count in answered(url).items()}
        print(f"\na third judge, with the first two named again: asked {asked}")


if __name__ == "__main__":
    main()
