"""The circle, smaller: it learns, what it learnt is played, and a loop that is stopped goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("torch")

import runs
import topics
from arena.simulated import PHRASES
from runs import adapters
from training import loop
from training.recipe import table
from training.speeches import held_back

HELD_BACK = ",".join(sorted(held_back([topic.topic_id for topic in topics.load("train")], 0.1)))


def recipe(path: Path, **changes: dict[str, object]) -> Path:
    """The recipe of the tiny base, with some of its numbers changed."""
    lines = []
    for section in ("sft", "dpo", "loop"):
        lines.append(f"[{section}]")
        values = table("tiny", section) | changes.get(section, {})
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def spawned(folder: Path, *words: str) -> subprocess.Popen[str]:
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "training.loop", *words]
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_the_circle_closes_and_the_policy_learns(tmp_path: Path) -> None:
    small = recipe(
        tmp_path / "small.toml",
        sft={"limit": 2000, "check_every": 125},
        dpo={"epochs": 0.03, "check_every": 30},
        loop={"again": 1},
    )
    asked = ["--recipe", str(small), "--prove-on", HELD_BACK]
    process = spawned(tmp_path, *asked)
    out = tmp_path / "runs" / "out"
    for _ in range(9000):  # killed in the middle of the second training
        if list(out.glob("training/*-dpo/checkpoint-*/complete")) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()
    assert list(out.glob("training/*-dpo")), said
    process = spawned(tmp_path, "--resume")
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert "== teach" not in said and "== prefer 1" in said, "what was done is not done again"
    (folder,) = (out / "loops").iterdir()
    done = json.loads((folder / "loop.json").read_text())["done"]
    parent, child = (adapters.find(done[stage], out / "adapters") for stage in ("teach", "prefer 1"))
    assert child.parent == parent.id and printed.count(child.id) >= 1
    assert "win rate" in printed and "round-1 against taught" in printed
    assert (folder / "ratings.svg").read_text().startswith("<svg") and (folder / "ratings.parquet").is_file()

    assert child.metrics["accuracy"] > 0.6 and child.metrics["accuracy_low"] > 0.5, child.metrics
    taught = pl.read_parquet(parent.folder / "metrics.parquet")["perplexity"].drop_nulls()
    assert taught[-1] < taught[0] / 5
    assert skill(out / done["prove"], "round-1") > skill(out / done["prove"], "taught") + 0.1

    joined = runs.load(out / done["play 2"]).turns.collect()
    assert {"taught", "round-1", "granite"} <= set(joined["contestant"])


def skill(run: Path, contestant: str) -> float:
    """What is planted: simulated contestants differ in the chance that a move comes off, and one that does is worded
    otherwise than one that does not. The share of moves in a contestant's speeches that do."""

    def said(*moves: str) -> int:
        fixed = [max(re.split(r"\{\w+\}", phrase), key=len).strip() for move in moves for phrase in PHRASES[move]]
        return sum(text.count(part) for text in texts for part in fixed)

    texts = runs.load(run).turns.filter(contestant=contestant).collect()["text"].to_list()
    skilled, unskilled = (
        said("reason", "warrant", "answer", "question"),
        said("assertion", "dismissal", "question_weak"),
    )
    return skilled / (skilled + unskilled)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert loop.main(["--dry-run", "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "6,000 debates on 200 topics" in printed and "prefer 2" in printed and "nothing was written" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("method", "what"), [("grpo", "what turns earn"), ("debates", "what debates earn")])
def test_the_adapter_may_learn_by_rewards(
    method: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a recipe that says nothing of rewards as well: then it is the recipe `debate`."""
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--recipe", "persuade", "--base", "some/model"]):
        assert loop.main(["--dry-run", "--method", method, *more]) == 0
        assert f"prefer 1: an adapter learns {what}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
