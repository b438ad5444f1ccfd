"""Watching a training: checks, the guard, checkpoints, progress, the first Ctrl-C, metrics and their curve.

Every `every` steps the policy is asked what it makes of held-back train topics. The guard (`training/guard.py`) stops
a training that leaves its bounds, and what it was like at the last good check is kept: a checkpoint is written only
behind a good check, and only where the disk has room for it. Rows go into the trainer's own log, which is part of
every checkpoint, so a resumed training has the whole curve, and the first check that bounds are multiples of.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from topics.errors import InputError
from training import checkpoints, ranks
from training.guard import Bounds, tripped
from training.log import Log

Check = Callable[[Any], Mapping[str, float]]
"""Asked with the model; what the guard looks at among what it gives, `training.guard.tripped` says."""


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is Any here
    """What happens beside the training itself."""

    def __init__(
        self,
        folder: Path,
        check: Check,
        *,
        log: Log,
        every: int,
        whole: int,
        bounds: Bounds,
        room: int,
        keep: int,
        keep_gb: float | None,
    ) -> None:
        self.folder = folder
        self.check = check
        self.log = log
        self.every = every
        self.whole = whole
        """Steps by which a training that is interrupted can be gone on with."""
        self.bounds = bounds
        """The guard's."""
        self.room = room
        """Bytes that the first checkpoint takes, about."""
        self.keep = keep
        self.keep_gb = keep_gb
        self.stopped: str | None = None
        """Why the training ended before its time."""
        self.tripped = False
        """The guard ended it."""
        self.full = False
        """A full disk ended it."""
        self.interrupted = False
        self._started = monotonic()
        self._begun_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._started, self._begun_at = monotonic(), state.global_step
        if state.global_step == 0 and self._look(state, model, self.bounds.before_the_first_step):
            found, most = state.log_history[-1]["perplexity"], self.bounds.perplexity or inf
            raise InputError(
                f"before the first step, perplexity on held-back speeches is {found:.4g}, above the guard's "
                f"{most:g}; teach the base first (python -m training.sft), or raise the bound: --max-perplexity, in "
                "training.grpo --guard.perplexity"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
        last = state.global_step >= state.max_steps
        interrupted = self.interrupted and state.global_step % self.whole == 0
        due = state.global_step % self.every == 0 or last or interrupted
        control.should_save = False
        if due:
            self.stopped = self._look(state, model, self.bounds)
            self.tripped = self.stopped is not None
            control.should_save = not self.tripped and self._has_room()
        if interrupted and not last:
            self.stopped = self.stopped or "interrupted"
        control.should_training_stop = control.should_training_stop or self.stopped is not None or last
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint is whole: say so in it, and only then let go of older ones."""
        PartialState().wait_for_everyone()  # each process writes a part of it

        def sealed() -> None:
            checkpoints.seal(self.folder / f"checkpoint-{state.global_step}")
            checkpoints.thin(self.folder, keep=self.keep, most=self.keep_gb and 1e9 * self.keep_gb)

        ranks.together(sealed)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        row = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if "loss" in row:
            self._tell(state, self._last(state) | row)

    def _look(self, state: Any, model: Any, bounds: Bounds) -> str | None:
        """Ask the check; why the policy is no longer sound, or None."""
        found = dict(self.check(model))
        state.log_history.append({"step": state.global_step, "epoch": state.epoch or 0.0, **found})
        if state.is_world_process_zero:
            self.log.table(state.log_history).write_parquet(self.folder / "metrics.parquet")
        self._tell(state, found)
        first = next(row for row in state.log_history if row["step"] == 0)
        return tripped(bounds, found, first)

    def _has_room(self) -> bool:
        """Whether the disk can take another checkpoint; a training that cannot save stops."""
        needed = checkpoints.wanted(self.folder, self.room)
        self.stopped = ranks.together(lambda: checkpoints.lacking(self.folder, needed))
        self.full = self.stopped is not None
        return not self.full

    def _last(self, state: Any) -> dict[str, float]:
        """The newest of what a progress line names."""
        found: dict[str, float] = {}
        for row in state.log_history:
            found |= {name: row[name] for name in self.log.told if row.get(name) is not None}
        return found

    def _tell(self, state: Any, values: Mapping[str, float]) -> None:
        if not state.is_world_process_zero:
            return
        done = state.global_step - self._begun_at
        left = (state.max_steps - state.global_step) * (monotonic() - self._started) / done if done else None
        said = "  ".join(f"{name.replace('_', ' ')} {values[name]:.4g}" for name in self.log.told if name in values)
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
