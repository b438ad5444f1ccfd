"""`python benchmarks/pairs.py`: what pairs cost at PERSUADE's size, beside the plain Python way.

Plays 10,487 debates of 10 simulated contestants on the 200 train topics, then times, each in a process of its own:
the ids of 80,000-100,000 pairs with Polars and with dictionaries, the whole command, and the export of full texts with
both. Which contestant's speeches are chosen is set so that the number of pairs falls in that range, as PERSUADE's
81,192 does. CPU is of all threads; memory is what the step added to the process's peak.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import polars as pl

from arena.run import Settings as Played
from arena.run import run as play
from runs import tables
from training import pairs
from training.pair_set import PairSet, export_jsonl, load
from training.speeches import decided_speeches

DEBATES, CONTESTANTS = 10_487, 10
IDS = ("row", "key", "text_id", "won", "contestant", "opponent")


def prepare(out: Path) -> Path:
    """The run, and its speeches without their texts; returns the run's folder."""
    entry = '[[contestants]]\nname = "c{n}"\nkind = "simulated"\nstrength = {strength:.2f}\n'
    roster = out / "roster.toml"
    roster.write_text("".join(entry.format(n=n, strength=0.30 + 0.06 * n) for n in range(CONTESTANTS)))
    folder = play(Played(topics="train", roster=roster, matches=53, limit=DEBATES, out=out)).folder
    run = tables.load(folder)
    heard = decided_speeches(run, judge=None, chosen=["any"])
    heard.speeches.select(IDS).write_parquet(out / "speeches.parquet")
    return folder


def choose(out: Path) -> str:
    """The contestant with which the number of pairs comes nearest to 90,000."""
    speeches = pl.read_parquet(out / "speeches.parquet")
    sizes = {f"c{n}": pairs.pair_rows(speeches, [f"c{n}"], "all").height for n in range(CONTESTANTS)}
    return min(sizes, key=lambda name: abs(sizes[name] - 90_000))


def ids_by_polars(out: Path, chosen: str) -> Callable[[], int]:
    speeches = pl.read_parquet(out / "speeches.parquet")
    return lambda: pairs.pair_rows(speeches, [chosen], "all").height


def ids_by_python(out: Path, chosen: str) -> Callable[[], int]:
    rows = pl.read_parquet(out / "speeches.parquet").rows()

    def make() -> int:
        won, lost = defaultdict(list), defaultdict(list)
        for row, key, text, wins, contestant, _ in rows:
            if not wins:
                lost[key].append((row, text))
            elif contestant == chosen:
                won[key].append((row, text))
        found = {}
        for key, winners in won.items():
            for row, text in winners:
                for other, its_text in lost[key]:
                    if text != its_text:
                        found.setdefault((key, text, its_text), (row, other))
        return len(found)

    return make


def command(out: Path, chosen: str) -> Callable[[], int]:
    folder = next(f for f in out.iterdir() if (f / "manifest.json").is_file())
    arguments = ["--from-run", str(folder), "--chosen", chosen, "--out", str(out / "made")]
    return lambda: pairs.main(arguments)


def jsonl_by_polars(out: Path, chosen: str) -> Callable[[], int]:
    made = load(out / "made")
    return lambda: export_jsonl(made, out / "pairs.jsonl") or made.pairs.height


def jsonl_by_python(out: Path, chosen: str) -> Callable[[], int]:
    made: PairSet = load(out / "made")

    def export() -> int:
        text = dict(made.texts.iter_rows())
        prompt = dict(made.prompts.select("prompt_id", "messages").iter_rows())
        with (out / "plain.jsonl").open("w") as file:
            for pair in made.pairs.iter_rows(named=True):
                sides = {
                    part: [{"role": "assistant", "content": text[pair[f"{part}_text_id"]]}]
                    for part in ("chosen", "rejected")
                }
                file.write(json.dumps({"prompt": prompt[pair["prompt_id"]], **sides}) + "\n")
        return made.pairs.height

    return export


STEPS: dict[str, Callable[[Path, str], Callable[[], int]]] = {
    "pair ids, Polars": ids_by_polars,
    "pair ids, dictionaries": ids_by_python,
    "the whole command": command,
    "JSONL of full texts, Polars": jsonl_by_polars,
    "JSONL of full texts, json.dumps": jsonl_by_python,
}


def memory(field: str) -> float:
    """A figure of this process's memory (Linux), in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(step: str, out: Path, chosen: str) -> None:
    """Run one step in this process, and print what it cost as JSON."""
    prepared = STEPS[step](out, chosen)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, which a child inherits
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = prepared()
    cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "result": result}
    cost["mb"] = memory("VmHWM") - before
    print("\n" + json.dumps(cost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    if given := parser.parse_args().measure:
        measure(given[0], Path(given[1]), given[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        prepare(out)
        chosen = choose(out)
        costs = {}
        for step in STEPS:
            arguments = [sys.executable, __file__, "--measure", step, folder, chosen]
            printed = subprocess.run(arguments, capture_output=True, check=True, text=True).stdout
            costs[step] = json.loads(printed.splitlines()[-1])
        made = load(out / "made")
        print(f"{DEBATES:,} debates, {made.counts['keys']:,} keys, {made.pairs.height:,} pairs, chosen {chosen}\n")
        print("| step | CPU s | wall s | memory MB |\n|---|---|---|---|")
        for step, cost in costs.items():
            print(f"| {step} | {cost['cpu']:.3f} | {cost['wall']:.3f} | {cost['mb']:.0f} |")


if __name__ == "__main__":
    main()
