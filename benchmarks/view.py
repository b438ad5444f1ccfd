"""`python benchmarks/view.py [--run FOLDER]`: how long the viewer takes to answer, by kind of page.

Over real HTTP, one request after the other on one connection, to `python -m runs.view` in a process of its own: first
on the run as it is, then on a copy whose journal grows meanwhile, another process writing a whole debate (turns, votes,
verdicts, calls) five times a second. Beside them, in the same run on the same machine, a bare Starlette route that
sends as many bytes as the debates page; its time is what HTTP itself costs here. Without `--run`, simulated contestants
play one of `--debates` debates first. Debates, filters and words are drawn at random, so that nothing is asked twice on
purpose. Time to start is from the process's start to its first answer; indexed is when search knows every turn.
"""

import argparse
import http.client
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import numpy as np
import polars as pl

import runs
from runs import tables
from runs.schema import TABLES

EACH = 100
WORDS = ("motion", "evidence", "people", "cost", "state", "public", "school", "energy", "harm", "city", "law", "health")
BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route
body = "x" * int(sys.argv[2])
app = Starlette(routes=[Route("/", lambda request: HTMLResponse(body))])
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, http="h11", loop="asyncio")
"""
GROW = """
import json, sqlite3, sys, time
rows = json.load(open(sys.argv[2]))
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("PRAGMA synchronous = FULL")
for debate in rows:
    connection.execute("BEGIN")
    for table, row in debate:
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    connection.execute("COMMIT")
    time.sleep(0.2)
"""


class Asker:
    """One connection to a server."""

    def __init__(self, url: str) -> None:
        self.host = url.split("/")[2]
        self.connection = http.client.HTTPConnection(self.host, timeout=60)

    def get(self, path: str) -> tuple[float, str]:
        """Seconds, and what came."""
        began = time.perf_counter()
        self.connection.request("GET", path)
        response = self.connection.getresponse()
        body = response.read()
        took = time.perf_counter() - began
        assert response.status in (200, 204, 303), (path, response.status)
        return took, body.decode()


@contextmanager
def viewer(folder: Path) -> Iterator[tuple[Asker, int, float]]:
    """A viewer in a process of its own: who asks it, its process, and seconds until its first answer."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "runs.view", str(folder), "--port", "0", "--name", "bench"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        asker = Asker(process.stdout.readline().split()[0])
        asker.get("/")
        yield asker, process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def kinds(folder: Path) -> dict[str, Callable[[Random], str]]:
    """A path of each kind of page, drawn at random."""
    debates = runs.load(folder).debates.collect()
    ids, names = debates["debate_id"].to_list(), sorted({*debates["for_contestant"]})
    topics = debates.group_by("topic_id").agg("debate_id").filter(pl.col("debate_id").list.len() > 1).sort("topic_id")

    def compared(draw: Random) -> str:
        a, b = draw.sample(draw.choice(topics["debate_id"].to_list()), 2)
        return f"/compare?a={a}&b={b}"

    def listed(draw: Random) -> str:
        outcome = draw.choice(("won", "lost", "tie", ""))
        return f"/debates?contestant={draw.choice(names)}&outcome={outcome}&page={draw.randrange(1, 20)}"

    return {
        "leaderboard": lambda draw: "/",
        "its moving part": lambda draw: "/board",
        "debates": lambda draw: f"/debates?page={draw.randrange(1, 200)}",
        "debates, filtered": listed,
        "a debate": lambda draw: f"/debates/{draw.choice(ids)}",
        "two compared": compared,
        "search": lambda draw: f"/search?q={draw.choice(WORDS)}+{draw.choice(WORDS)}",
        "search, one word": lambda draw: f"/search?q={draw.choice(WORDS)}&page={draw.randrange(1, 9)}",
        "next ballot": lambda draw: "/judge",
    }


def measure(asker: Asker, paths: dict[str, Callable[[Random], str]], each: int) -> dict[str, list[float]]:
    """Milliseconds by kind, kinds taken in turn."""
    draw, took = Random(1), {name: [] for name in paths}
    for _ in range(each):
        for name, path in paths.items():
            took[name].append(1000 * asker.get(path(draw))[0])
    return took


def bare(size: int, each: int) -> list[float]:
    """Milliseconds of a route that does nothing but send."""
    port = 8799
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port), str(size)])
    try:
        asker = Asker(f"http://127.0.0.1:{port}/")
        for _ in range(200):
            try:
                asker.get("/")
                break
            except OSError:
                time.sleep(0.1)
                asker = Asker(f"http://127.0.0.1:{port}/")
        return [1000 * asker.get("/")[0] for _ in range(each)]
    finally:
        process.terminate()
        process.wait()


def told(title: str, took: dict[str, list[float]], base: float) -> None:
    print(f"\n{title}\n{'page':<20} {'p50':>8} {'p95':>8} {'max':>8}   p95 / bare")
    for name, times in took.items():
        p50, p95, most = np.percentile(times, [50, 95, 100])
        print(f"{name:<20} {p50:>6.1f}ms {p95:>6.1f}ms {most:>6.1f}ms   {p95 / base:>6.1f}x")


def memory(pid: int) -> float:
    """The most that a process has held, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


@contextmanager
def growing(folder: Path, scratch: Path, debates: int) -> Iterator[Path]:
    """A copy of a run that is not sealed, and whose last debates are written to it one by one."""
    import json

    copy = Path(shutil.copytree(folder, scratch / "growing"))
    (copy / tables.MANIFEST).unlink(missing_ok=True)
    with closing(sqlite3.connect(copy / "journal.db")) as journal:
        last = [d for (d,) in journal.execute("SELECT debate_id FROM debates ORDER BY match DESC LIMIT ?", (debates,))]
        rows = []
        for debate in reversed(last):
            names = [name for name in TABLES if name != "topics"]
            of = {
                name: journal.execute(f"SELECT * FROM {name} WHERE debate_id = ?", (debate,)).fetchall()
                for name in names
            }
            rows.append([(name, row) for name in names for row in of[name]])
            for name in names:
                journal.execute(f"DELETE FROM {name} WHERE debate_id = ?", (debate,))
        journal.commit()
    (scratch / "rows.json").write_text(json.dumps(rows))
    command = [sys.executable, "-c", GROW, str(copy / "journal.db"), str(scratch / "rows.json")]
    process = subprocess.Popen(command)
    try:
        yield copy
    finally:
        process.kill()
        process.wait()


def indexed(asker: Asker, began: float) -> float:
    """Seconds until search knows every turn."""
    while "indexed so far" in asker.get("/search?q=a")[1]:
        time.sleep(0.2)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--debates", type=int, default=2_000, help="to play, without --run")
    parser.add_argument("--each", type=int, default=EACH, help="requests of a kind")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        folder = asked.run or played(scratch, asked.debates)
        with viewer(folder) as (asker, pid, start):
            began = time.perf_counter()
            size = len(asker.get("/debates")[1])
            ready = start + indexed(asker, began)
            sealed = measure(asker, kinds(folder), asked.each)
            held = memory(pid)
        plain = bare(size, asked.each)
        base = float(np.percentile(plain, 95))
        debates = runs.load(folder).debates.select(pl.len()).collect().item()
        print(f"{debates:,} debates: first answer {start:.1f} s, indexed {ready:.1f} s, at most {held:.0f} MB")
        told("sealed", sealed, base)
        with growing(folder, scratch, min(1_000, debates // 4)) as copy, viewer(copy) as (asker, pid, start):
            going = measure(asker, kinds(copy), asked.each)
            held = memory(pid)
        told(f"growing, indexed meanwhile; first answer {start:.1f} s, at most {held:.0f} MB", going, base)
        told("a bare Starlette route, as many bytes as a page of debates", {"bare": plain}, base)


def played(out: Path, debates: int) -> Path:
    from arena.run import Settings, run

    return run(Settings(topics="train", limit=debates, out=out)).folder


if __name__ == "__main__":
    main()
