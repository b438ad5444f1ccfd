"""Real processes, really stopped: nothing that reached the journal is asked for again, and nothing else changes."""

import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Play, assert_same_tables

import runs
from runs.tables import is_sealed

DRIVER = Path(__file__).parent / "driver.py"
DEBATES, JUDGES = 40, "rules,scripted"
SPEC = ["--topics", "train", "--limit", str(DEBATES), "--judges", JUDGES, "--seed", "7", "--concurrency", "6"]


def start(log: Path, *arguments: str, delay: float = 0.004) -> subprocess.Popen[str]:
    command = [sys.executable, str(DRIVER), str(log), str(delay), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journalled(folder: Path) -> set[str]:
    """What the journal holds, as lines of the driver's log."""
    connection = sqlite3.connect(f"file:{folder / 'journal.db'}?mode=ro", uri=True)
    try:
        return {f"{debate} {turn}" for debate, turn in connection.execute("SELECT debate_id, turn FROM turns")}
    finally:
        connection.close()


def asked(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def unfinished(out: Path) -> Path | None:
    return next((folder for folder in runs.run.folders(out) if not is_sealed(folder)), None)


def kill_in_the_middle(process: subprocess.Popen[str], log: Path, draw: random.Random) -> bool:
    """Kill `process` at a random moment: between its start and its end, mostly while turns are being asked for."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 1))  # whatever it is doing: importing, opening, sealing
    else:
        before = len(asked(log))
        while len(asked(log)) == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.12))
    finished = process.poll() is not None
    process.kill()
    process.communicate()
    return not finished


@pytest.mark.slow
def test_killed_at_25_moments_and_resumed_it_is_the_run_it_would_have_been(play: Play, tmp_path: Path) -> None:
    undisturbed = play(limit=DEBATES, judges=JUDGES.split(","), seed=7)
    draw, kills = random.Random(2026), 0
    out = tmp_path / "killed"
    for sitting in range(120):
        if kills >= 30:
            break
        log = tmp_path / f"log-{sitting}"
        folder = unfinished(out)
        have = journalled(folder) if folder else set()
        process = start(log, "--out", str(out), *(["--resume", folder.name] if folder else SPEC))
        kills += kill_in_the_middle(process, log, draw)
        assert not have & set(asked(log)), "a turn that had reached the journal was asked for again"
        assert len(set(asked(log))) == len(asked(log))
    while folder := unfinished(out):
        last = start(tmp_path / "log-last", "--out", str(out), "--resume", folder.name)
        last.communicate()
        assert last.returncode == 0
    assert kills >= 25
    done = runs.run.folders(out)
    assert done
    for folder in done:
        assert_same_tables(folder, undisturbed.folder)


def wait_for_turns(log: Path, turns: int, process: subprocess.Popen[str]) -> None:
    while len(asked(log)) < turns and process.poll() is None:
        time.sleep(0.005)


def test_the_first_interrupt_finishes_what_is_in_flight(play: Play, tmp_path: Path) -> None:
    out, log = tmp_path / "stopped", tmp_path / "log"
    process = start(log, "--out", str(out), *SPEC, delay=0.05)
    wait_for_turns(log, 20, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    folder = unfinished(out)
    assert folder is not None and process.returncode == 1
    assert f"python -m arena.run --resume {folder}" in error
    assert set(asked(log)) == journalled(folder), "what was in flight is stored"
    assert not list(folder.glob("*.parquet"))

    again = start(log, "--out", str(out), "--resume")
    printed, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and "granite" in printed
    assert len(asked(log)) == len(set(asked(log)))
    assert_same_tables(folder, play(limit=DEBATES, judges=JUDGES.split(","), seed=7).folder)

    third = start(log, "--out", str(out), "--resume", folder.name)
    printed, _ = third.communicate(timeout=60)
    assert third.returncode == 0 and "already finished" in printed


def test_the_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    out, log = tmp_path / "stopped", tmp_path / "log"
    process = start(log, "--out", str(out), *SPEC, delay=60)
    wait_for_turns(log, 6, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1 and "--resume" in error
    assert "Traceback" not in error


def test_a_full_disk_stops_the_run_in_one_line_and_loses_nothing(play: Play, tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))  # the journal will pass that

    out, log = tmp_path / "full", tmp_path / "log"
    command = [sys.executable, str(DRIVER), str(log), "0", "--out", str(out), *SPEC]
    done = subprocess.run(command, preexec_fn=no_large_files, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: the journal could not be written") and "--resume" in line
    folder = unfinished(out)
    assert folder is not None
    kept = journalled(folder)
    assert 20 < len(kept) < 400
    again = start(log, "--out", str(out), "--resume", delay=0)
    again.communicate()
    assert not kept & set(asked(log)[-(400 - len(kept)) :])
    assert_same_tables(folder, play(limit=DEBATES, judges=JUDGES.split(","), seed=7).folder)


def test_two_processes_cannot_hold_one_run(tmp_path: Path) -> None:
    out, log = tmp_path / "held", tmp_path / "log"
    process = start(log, "--out", str(out), *SPEC, delay=60)
    wait_for_turns(log, 1, process)
    other = start(tmp_path / "other", "--out", str(out), "--resume")
    _, error = other.communicate(timeout=30)
    process.kill()
    process.communicate()
    assert other.returncode == 2 and "in use by another process" in error
    assert not asked(tmp_path / "other")
