"""What tests share: playing a small run, reading its tables without the clock, and being refused in one line."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import runs
from arena.run import Result, Settings, main, run
from runs import adapters
from runs.adapters import Adapter
from runs.schema import CLOCK, TABLES

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a model hub

Play = Callable[..., Result]
TRAINERS_WARN = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
"""Marks of a module that trains: what TRL and transformers warn of, and nobody here can mend."""


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Play a run of few debates under the test's own folder."""

    def play(**settings: object) -> Result:
        return run(Settings.model_validate({"out": tmp_path / "out", "limit": 12} | settings))

    return play


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, for what must come out the same, or runs beside other processes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def timeless(folder: Path) -> dict[str, pl.DataFrame]:
    """Every table of a run, without the columns that depend on the clock."""
    tables = runs.load(folder)
    frames = {name: getattr(tables, name).collect() for name in TABLES}
    return {name: frame.drop(CLOCK & set(frame.columns)) for name, frame in frames.items()}


def assert_same_tables(a: Path, b: Path) -> None:
    """Two runs hold the same rows in the same order, clock columns aside."""
    left, right = timeless(a), timeless(b)
    for name in TABLES:
        assert left[name].equals(right[name], null_equal=True), f"table {name} differs between {a} and {b}"


def roster(path: Path, *contestants: str, judges: str = "") -> Path:
    """A roster file of simulated contestants, each given as `name, dials`."""
    entries = []
    for contestant in contestants:
        name, _, dials = contestant.partition(", ")
        lines = "\n".join(dials.split(", ")) if dials else "strength = 0.5"
        entries.append(f'[[contestants]]\nname = "{name}"\nkind = "simulated"\n{lines}\n')
    path.write_text("\n".join(entries) + judges)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, command: Callable[[list[str]], int] = main) -> str:
    """The one line that a refused command prints."""
    try:
        code = command(list(map(str, arguments)))
    except SystemExit as exit_:  # the parser's own way out
        code = exit_.code
    printed = capsys.readouterr()
    assert code == 2, (code, printed)
    assert printed.out == ""
    line = printed.err.strip().splitlines()[-1]
    assert "Traceback" not in printed.err
    return line


# ── a folder that a policy was taught in ─────────────────────────────────────────────────────────────


def run_of(out: Path) -> Path:
    """Its run."""
    return next(path.parent for path in out.glob("*/spec.json"))


def words(out: Path, *more: str) -> list[str]:
    """What a training command is told, to learn from its run."""
    return ["--from-run", str(run_of(out)), "--out", str(out), *more]


def copied(made: Path, tmp_path: Path) -> Path:
    """A copy to train in."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def newest(out: Path) -> Adapter:
    """What was trained last."""
    return adapters.listed(out / "adapters")[-1]


def toml(value: Any) -> str:
    """A value as a recipe has it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value)
