"""`python benchmarks/engine.py`: what a turn, a debate and a stored run cost.

Plays 1,000 and 20,000 debates, each in a process of its own so that peak memory is the run's alone, twice, since
machines are shared, and prints of the faster one
CPU a turn in whole and by part, with a bare loop over the same contestants (no engine, no journal, no judge) in
the same process for the ratio. Then the size of 1,000 stored debates, for simulated speeches and for speeches of
random words (which no template makes easy to compress), and the time to count words by contestant over them.
"""

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

import judges
import runs
import topics
from arena import roster as rosters
from arena.bench import bench
from arena.engine import Engine
from arena.run import Settings, resolve, scheduled
from arena.simulated import Simulated
from arena.speech import hear
from runs import Run
from runs.records import Call, Debate, Slot, Speech, content_id, slots_for

SMALL, LARGE = 1_000, 20_000


def measure(debates: int) -> dict[str, float]:
    """One run of `debates` debates: CPU by part, wall, memory."""
    with tempfile.TemporaryDirectory() as out:
        replicates = -(-debates // 6_000)
        settings = Settings(topics="train", limit=debates, replicates=replicates, out=Path(out))
        spec, its_topics = resolve(settings)
        bare = bare_loop(spec, its_topics) if debates <= SMALL else 0.0
        held = Run.create(spec, its_topics, settings.out)
        seats = {entry["name"]: Simulated.model_validate(entry) for entry in spec.contestants}
        engine = Engine(held, scheduled(spec), seats, bench(spec, None), concurrency=64)
        wall, cpu = time.perf_counter(), time.process_time()
        asyncio.run(engine.play_all())
        played, played_wall = time.process_time() - cpu, time.perf_counter() - wall
        cpu = time.process_time()
        held.seal()
        sealed = time.process_time() - cpu
        held.close()
        turns = engine.progress.turns
        return {
            "debates": debates,
            "turns": turns,
            "bare": bare,
            "played": played,
            "sealed": sealed,
            "turns_per_s": turns / played_wall,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def bare_loop(spec: runs.spec.Spec, its_topics: list[topics.Topic]) -> float:
    """CPU seconds a turn for the same speeches and votes in a plain loop that keeps nothing."""
    by_id = {topic.topic_id: topic for topic in its_topics}
    seats = {entry["name"]: Simulated.model_validate(entry) for entry in spec.contestants}
    judge = judges.load("rules")
    matches = scheduled(spec)[:200]

    async def play() -> int:
        turns = 0
        for match in matches:
            slots = slots_for(spec.format, match.opener)
            debate = Debate(match=match, topic=by_id[match.topic_id], slots=slots)
            try:
                for slot in slots:
                    speech = await seats[match.contestant(slot.side)].speak(debate, slot)
                    debate = debate.with_turn(hear(speech, debate, slot))
                    turns += 1
                await judge.vote(debate, "for_first", 0)
            except Exception:
                continue
        return turns

    cpu = time.process_time()
    turns = asyncio.run(play())
    return (time.process_time() - cpu) / turns


class Babbler:
    """A contestant that says random words, 250 a turn: text that compresses no better than prose."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.random = random.Random(name)
        letters = "etaoinshrdlucmfwypvbgk"
        self.words = ["".join(self.random.choices(letters, k=self.random.randint(2, 11))) for _ in range(8_000)]
        self.weights = [1 / (rank + 3) for rank in range(len(self.words))]

    async def speak(self, debate: Debate, slot: Slot) -> Speech:
        said = self.random.choices(self.words, weights=self.weights, k=slot.words)
        sentences = (" ".join(said[i : i + 18]).capitalize() + "." for i in range(0, len(said), 18))
        call = Call(
            call_id=content_id(debate.id, slot.turn),
            debate_id=debate.id,
            role="speak",
            turn=slot.turn,
            endpoint="local",
            model=self.name,
            latency_s=0.0,
            finish_reason="stop",
            started_at=datetime.now(UTC),
        )
        return Speech(answer=" ".join(sentences), call=call)


def storage(kind: str) -> tuple[float, float, float]:
    """(MB of text, MB of Parquet, seconds to count words by contestant) of 1,000 stored debates."""
    with tempfile.TemporaryDirectory() as out:
        spec, its_topics = resolve(Settings(topics="train", limit=1_000, out=Path(out)))
        seated = rosters.load().contestants
        seats = {c.name: c if kind == "simulated" else Babbler(c.name) for c in seated}
        with Run.create(spec, its_topics, Path(out)) as held:
            engine = Engine(held, scheduled(spec), seats, bench(spec, None), concurrency=64)
            asyncio.run(engine.play_all())
            manifest = held.seal()
            size = sum(table["bytes"] for table in manifest["tables"].values())
            turns = runs.load(held.folder).turns
            text = turns.select(pl.col("text").str.len_bytes().sum()).collect().item()
            words = pl.col("text").str.split(" ").list.len().sum()
            times = []
            for _ in range(5):
                began = time.perf_counter()
                turns.group_by("contestant").agg(words).collect()
                times.append(time.perf_counter() - began)
    return text / 1e6, size / 1e6, min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    pairs = [[_in_process(size) for _ in range(2)] for size in (SMALL, LARGE)]
    rows = [min(pair, key=lambda row: row["played"]) for pair in pairs]
    bare = min(row["bare"] for row in pairs[0])
    print("| debates | CPU ms a turn, play + journal + judge | sealing | all | x bare loop | turns/s | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        play, seal = (1e3 * row[part] / row["turns"] for part in ("played", "sealed"))
        ratio = play / (1e3 * bare)
        print(
            f"| {row['debates']:,} | {play:.3f} | {seal:.3f} | {play + seal:.3f} | {ratio:.2f} "
            f"| {row['turns_per_s']:,.0f} | {row['peak_mb']:.0f} |"
        )
    each = [(row["played"] + row["sealed"]) / row["debates"] for row in rows]
    print(f"\ncost per debate, {LARGE:,} against {SMALL:,}: {each[1] / each[0]:.2f}x")
    print(f"bare loop over the same contestants and judge: {1e3 * bare:.3f} ms a turn\n")
    print("| 1,000 stored debates | text MB | Parquet MB | text / Parquet | words by contestant, s |")
    print("|---|---|---|---|---|")
    for kind in ("simulated", "random words"):
        text, size, seconds = storage(kind)
        print(f"| {kind} | {text:.1f} | {size:.2f} | {text / size:.1f} | {seconds:.3f} |")
    bare_start, start = startup()
    print(f"\nimport arena.run: {start:.2f} s, {start / bare_start:.0f}x a bare interpreter")


def startup() -> tuple[float, float]:
    """Seconds, best of 3: a bare interpreter, and one that imports `arena.run`."""
    best = []
    for code in ("pass", "import arena.run"):
        times = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - began)
        best.append(min(times))
    return best[0], best[1]


def _in_process(debates: int) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--measure", str(debates)], capture_output=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
