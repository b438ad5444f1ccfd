"""Watching a training: checks, the perplexity guard, progress, the first Ctrl-C, metrics and their curve.

Every `every` steps the policy is asked what it makes of held-back train topics. The guard stops a training whose
perplexity on held-back speeches passes its bound, and what it was like at the last good check is kept: a checkpoint
is written only behind a good check. Rows go into the trainer's own log, which is part of every checkpoint, so a
resumed training has the whole curve.
"""

from __future__ import annotations

import math
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import polars as pl
from transformers import TrainerCallback

from runs.files import replace_text
from topics.errors import InputError
from training.state import COMPLETE

Check = Callable[[Any], Mapping[str, float]]
"""Asked with the model; `perplexity` among what it gives is what the guard looks at."""

SHOWN = ("loss", "accuracy", "perplexity")
"""What a progress line names, where it is known."""


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is Any here
    """What happens beside the training itself."""

    def __init__(self, folder: Path, check: Check, *, every: int, most: float, room: int) -> None:
        self.folder = folder
        self.check = check
        self.every = every
        self.most = most
        """The guard's bound."""
        self.room = room
        """Bytes that a checkpoint takes, about."""
        self.stopped: str | None = None
        """Why the training ended before its time."""
        self.tripped = False
        """The guard ended it."""
        self.interrupted = False
        self._started = monotonic()
        self._begun_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._started, self._begun_at = monotonic(), state.global_step
        if state.global_step == 0 and not self._look(state, model):
            found = state.log_history[-1]["perplexity"]
            raise InputError(
                f"before the first step, perplexity on held-back speeches is {found:.4g}, above the guard's "
                f"{self.most:g}; teach the base first (python -m training.sft), or raise --max-perplexity"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
        last = state.global_step >= state.max_steps
        due = state.global_step % self.every == 0 or last or self.interrupted
        control.should_save = False
        if due:
            good = self._look(state, model)
            control.should_save = good and self._has_room()
            if not good:
                self.tripped = True
                self.stopped = f"perplexity {state.log_history[-1]['perplexity']:.2f} is above {self.most:g}"
        if self.interrupted and not last:
            self.stopped = self.stopped or "interrupted"
        control.should_training_stop = control.should_training_stop or self.stopped is not None or last
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint is whole: say so in it, and only then let go of older ones."""
        if not state.is_world_process_zero:
            return
        replace_text(self.folder / f"checkpoint-{state.global_step}" / COMPLETE, "")
        for path in self.folder.glob("checkpoint-*"):
            if path.name != f"checkpoint-{state.global_step}":
                shutil.rmtree(path, ignore_errors=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        row = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if "loss" in row:
            self._tell(state, {"loss": row["loss"], **self._last(state, "accuracy", "perplexity")})

    def _look(self, state: Any, model: Any) -> bool:
        """Ask the check; True where the policy is still sound."""
        found = dict(self.check(model))
        state.log_history.append({"step": state.global_step, "epoch": state.epoch or 0.0, **found})
        if state.is_world_process_zero:
            metrics(state.log_history).write_parquet(self.folder / "metrics.parquet")
        self._tell(state, found)
        perplexity = found.get("perplexity", 0.0)
        return math.isfinite(perplexity) and perplexity <= self.most

    def _has_room(self) -> bool:
        """Whether the disk can take another checkpoint; a training that cannot save stops."""
        free = shutil.disk_usage(self.folder).free
        if free > 1.2 * self.room:
            return True
        self.stopped = f"the disk is full: {free / 1e6:.0f} MB are free, a checkpoint takes {self.room / 1e6:.0f}"
        return False

    def _last(self, state: Any, *names: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for row in state.log_history:
            found |= {name: row[name] for name in names if name in row}
        return found

    def _tell(self, state: Any, values: Mapping[str, float]) -> None:
        if not state.is_world_process_zero:
            return
        done = state.global_step - self._begun_at
        left = (state.max_steps - state.global_step) * (monotonic() - self._started) / done if done else None
        said = "  ".join(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)
        ahead = f"  {left:,.0f} s left" if left is not None else ""
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"step {state.global_step:,}/{state.max_steps:,}  {said}{ahead}", end=end, file=sys.stderr, flush=True)

    def __enter__(self) -> Watch:
        """The first Ctrl-C ends the step and saves; the second is Python's own."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nstopping: finishing the step and saving; Ctrl-C again stops at once", file=sys.stderr, flush=True)


NAMES = {
    "rewards/accuracies": "train_accuracy",
    "rewards/margins": "train_margin",
    "mean_token_accuracy": "token_accuracy",
    "num_tokens": "tokens",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "loss": "loss",
}
"""What a trainer logs, under the name it has here; the rest of its log is left out."""
CHECKED = ("accuracy", "accuracy_low", "accuracy_high", "margin", "held_back_loss", "perplexity")


def metrics(history: list[dict[str, Any]]) -> pl.DataFrame:
    """A trainer's log as a table: one row a step, null where a step has no such value."""
    rows: dict[int, dict[str, float]] = {}
    for entry in history:
        row = rows.setdefault(int(entry["step"]), {"step": int(entry["step"]), "epoch": float(entry.get("epoch", 0))})
        row |= {NAMES[name]: float(entry[name]) for name in NAMES if name in entry}
        row |= {name: float(entry[name]) for name in CHECKED if name in entry}
    columns = ["step", "epoch", *NAMES.values(), *CHECKED]
    schema = {name: pl.Int64 if name == "step" else pl.Float64 for name in columns}
    return pl.DataFrame([rows[step] for step in sorted(rows)], schema=schema)


def curve(frame: pl.DataFrame, path: Path) -> None:
    """The curves of a training as one picture, a panel for each value that was measured."""
    import altair

    panels = {
        "loss": "training loss",
        "accuracy": "preference accuracy, held-back topics",
        "perplexity": "perplexity, held-back speeches",
    }
    charts = []
    for name, title in panels.items():
        seen = frame.filter(pl.col(name).is_not_null())
        if seen.height < 2:
            continue
        axes = {"x": altair.X("step:Q"), "y": altair.Y(f"{name}:Q", title=title, scale=altair.Scale(zero=False))}
        chart = altair.Chart(seen).mark_line(point=seen.height < 60).encode(**axes)
        charts.append(chart.properties(width=280, height=200))
    if charts:
        altair.hconcat(*charts).save(str(path))
