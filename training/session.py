"""One training from its first step to its entry in the registry: what SFT and DPO have in common.

The trainer is TRL's. Here are the arguments that every trainer gets, how a training is resumed, what happens when the
disk is full or the guard trips, and how what came out is registered: with its canary, its metrics and their curve.
"""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from arena.canary import canary
from arena.models import Tokenizer
from runs.adapters import LORA, Adapter, Form
from runs.journal import StorageError
from topics.errors import InputError, one_line
from training import ranks
from training.adapters import making, register
from training.policy import Start
from training.recipe import NOT_STORED, PLACES, Training
from training.speeches import Decided
from training.state import State
from training.watch import Check, Watch, curve, metrics

HINTS = ("PytorchStreamWriter", "inline_container", "No space left", "File too large", "quota exceeded")
FULL_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS}


@dataclass(frozen=True, kw_only=True)
class Session:
    """A training that this process carries out."""

    settings: Training
    state: State
    begin: Start
    heard: Decided
    tokenizer: Tokenizer
    form: Form

    @property
    def precision(self) -> torch.dtype | None:
        """What is computed in, where that is not the weights' own."""
        return torch.bfloat16 if self.settings.mixed and bfloat16_pays() else None

    def arguments(self) -> dict[str, Any]:
        """The arguments of any of TRL's trainers."""
        settings = self.settings
        return {
            "output_dir": str(self.state.folder),
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": settings.schedule,
            "warmup_steps": settings.warmup,
            "weight_decay": settings.weight_decay,
            "max_grad_norm": settings.max_grad_norm,
            "bf16": self.precision is not None,
            "use_cpu": not torch.cuda.is_available(),
            "gradient_checkpointing": settings.gradient_checkpointing,
            "logging_steps": max(1, settings.check_every // 5),
            "save_strategy": "steps",
            "save_steps": settings.check_every,
            "report_to": "none",
            "seed": settings.seed,
            "disable_tqdm": True,
            "ddp_backend": "gloo" if ranks.processes() > 1 and not torch.cuda.is_available() else None,
        }

    def fit(self, trainer: Any, check: Check, most: float = float("inf")) -> Adapter | None:
        """Train from the start, or from the last checkpoint, and register; None where it was stopped on the way.

        Raises `StorageError` where the disk is full or the guard found nothing to keep.
        """
        checkpoint = ranks.together(self.state.last_checkpoint)
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        watch = Watch(
            self.state.folder, check, every=self.settings.check_every, most=most, room=12 * trainable + 1_000_000
        )
        silence(trainer)
        trainer.add_callback(watch)
        with self.stored():
            try:
                with watch:
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except InputError:  # the guard, before the first step
                if ranks.is_first():
                    self.state.remove()
                raise
        if watch.stopped is not None and not watch.tripped:
            print(f"stopped, {watch.stopped}; {self.go_on('go on with')}", file=sys.stderr)
            return None
        kept = self.go_back(trainer, str(watch.stopped)) if watch.tripped else trainer.state.global_step
        trainer.accelerator.wait_for_everyone()
        with self.stored():
            return ranks.together(lambda: self.register(trainer, watch, kept))

    @contextmanager
    def stored(self) -> Iterator[None]:
        """Around what writes: a full disk, however a library tells it, is a `StorageError` that says how to go on."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, InputError) as error:
            if not is_storage(error):
                raise
            self.state.last_checkpoint()
            raise StorageError(f"cannot write ({one_line(str(error))}); {self.go_on('free some disk, then')}") from None

    def go_on(self, how: str) -> str:
        return f"{how}: python -m training.{self.state.method} --resume {shlex.quote(str(self.state.folder))}"

    def go_back(self, trainer: Any, why: str) -> int:
        """Put back the weights of the last good checkpoint; its step."""
        good = ranks.together(self.state.last_checkpoint)
        if good is None:
            if ranks.is_first():
                self.state.remove()
            raise StorageError(f"stopped, {why}, and no checkpoint was good; try a lower --learning-rate")
        print(f"stopped, {why}; what is kept is {good.name}, the last good one", file=sys.stderr)
        if self.form == "lora":
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(trainer.model, load_file(good / LORA[1]))
        else:
            trainer.model.load_state_dict(load_file(good / "model.safetensors"), strict=False)
        return int(good.name.rpartition("-")[2])

    def register(self, trainer: Any, watch: Watch, step: int) -> Adapter:
        """Enter what stands after `step` into the registry, and remove the training's folder."""
        settings = self.settings
        frame = metrics(trainer.state.log_history)
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()  # else in bfloat16
        stored = settings.model_dump(mode="json", exclude=NOT_STORED | PLACES)
        with making(settings.out / "adapters") as folder:
            model.save_pretrained(folder)
            if self.form == "full":
                self.tokenizer.save_pretrained(folder)
            else:
                (folder / "README.md").unlink(missing_ok=True)
            frame.write_parquet(folder / "metrics.parquet")
            curve(frame, folder / "curve.svg")
            adapter = register(
                folder,
                form=self.form,
                base=self.begin.base,
                parent=self.begin.parent,
                method=self.state.method,
                canary=canary(model, self.tokenizer, adapter=self.form == "lora"),
                seed=settings.seed,
                settings=stored,
                context=settings.context,
                recipe=str(settings.recipe),
                four_bit=settings.four_bit,
                pairs=self.state.digests.get("pairs"),
                run=self.heard.run.folder.name,
                judge=self.heard.judge,
                metrics=found(frame, step) | ({"stopped": watch.stopped} if watch.stopped else {}),
                out=settings.out / "adapters",
            )
        self.state.remove()
        return adapter


def found(frame: pl.DataFrame, step: int) -> dict[str, float | int | str]:
    """What the check at `step` found."""
    row = frame.row(by_predicate=pl.col("step") == step, named=True)
    names = ("accuracy", "accuracy_low", "accuracy_high", "margin", "perplexity")
    return {name: round(row[name], 6) for name in names if row[name] is not None} | {"steps": step}


def silence(trainer: Any) -> None:
    """Progress is told by `Watch`, in one place."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def bfloat16_pays() -> bool:
    """Whether this machine multiplies in bfloat16 itself: any GPU that trains does, a CPU with AVX512_BF16."""
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


def is_storage(error: BaseException) -> bool:
    """Whether an error, however a library has wrapped it, comes from a disk that takes no more."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    return any(hint in str(error) for hint in HINTS)
