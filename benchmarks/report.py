"""`python benchmarks/report.py [--run FOLDER]`: what a report costs, beside reading the tables that it is made of.

Without `--run`, simulated contestants play 13,726 debates first. Then the page, the Markdown and the pictures are made,
each by the command in a process of its own; and, in another, every column that a report reads is loaded by Polars and
nothing done with it. Seconds are of the wall, imports included; memory is the peak of the process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for those who run it as a file

DEBATES = 13_726


def play(out: Path) -> Path:
    """A run to report."""
    from arena.run import Settings, run

    return run(Settings(topics="train", limit=DEBATES, replicates=-(-DEBATES // 6000), out=out)).folder


def bare(folder: Path) -> None:
    """The tables, loaded."""
    import runs
    from runs.report.reading import TEXTS
    from runs.schema import TABLES

    loaded = runs.load(folder)
    for name in TABLES:
        getattr(loaded, name).drop(TEXTS.get(name, [])).collect()


def report(folder: Path, kind: str, out: Path) -> None:
    """The command."""
    from runs.report.__main__ import main

    target = out if kind == "png" else out / f"report.{kind}"
    with redirect_stdout(StringIO()):
        assert main([str(folder), "--format", kind, "--write", str(target)]) == 0


def one(what: str, folder: Path, out: Path) -> None:
    """One of the rows, in this process."""
    bare(folder) if what == "bare" else report(folder, what, out)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3))


def measured(what: str, folder: Path, out: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of one of the rows, in a process of its own."""
    words = [sys.executable, __file__, "--one", what, "--run", str(folder), "--out", str(out)]
    began = time.perf_counter()
    found = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    return time.perf_counter() - began, json.loads(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.run, given.out)
        return
    with tempfile.TemporaryDirectory() as made:
        out = Path(made)
        folder = given.run or play(out)
        import runs

        rows = {name: runs.load(folder).__dict__[name].collect().height for name in ("debates", "verdicts")}
        base, memory = measured("bare", folder, out)
        print(f"{rows['debates']:,} debates, {rows['verdicts']:,} verdicts\n")
        print("| | seconds | x loading | peak MB | file MB |\n|---|---:|---:|---:|---:|")
        print(f"| loading its tables | {base:.2f} | 1.0 | {memory:.0f} | - |", flush=True)
        for kind in ("html", "md", "png"):
            taken, memory = measured(kind, folder, out)
            size = sum(path.stat().st_size for path in out.glob(f"*.{kind}")) / 1e6
            print(f"| runs.report, {kind} | {taken:.2f} | {taken / base:.1f} | {memory:.0f} | {size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
