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
from pathlib import Path
from typing import Any

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
from training.checkpoints import to_free, wanted
from training.guard import Bounds
from training.log import PREFERENCE, Log
from training.policy import Start
from training.recipe import NOT_STORED, PLACES, Training
from training.state import State
from training.watch import Check, Watch

HINTS = ("PytorchStreamWriter", "inline_container", "No space left", "File too large", "quota exceeded")
UNBOUNDED = Bounds()
FULL_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS}


@dataclass(frozen=True, kw_only=True)
class Session:
    """A training that this process carries out."""

    settings: Training
    state: State
    begin: Start
    tokenizer: Tokenizer
    form: Form
    run: str | None = None
    """The id of the run that was learnt from, and whose verdicts counted."""
    judge: str | None = None
    log: Log = PREFERENCE

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

    def fit(self, trainer: Any, check: Check, bounds: Bounds = UNBOUNDED, *, whole: int = 1) -> Adapter | None:
        """Train from the start, or from the last checkpoint, and register; None where it was stopped on the way.

        It can be stopped, and gone on with, at every `whole`th step.

        Raises `StorageError` where the disk is full or the guard found nothing to keep.
        """
        checkpoint = ranks.together(self.state.last_checkpoint)
        settings, folder = self.settings, self.state.folder
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        room = 12 * trainable + 1_000_000
        watch = Watch(
            folder,
            check,
            log=self.log,
            every=settings.check_every,
            whole=whole,
            bounds=bounds,
            room=room,
            keep=settings.keep,
            keep_gb=settings.keep_gb,
        )
        silence(trainer)
        trainer.add_callback(watch)
        with self.stored(folder, room):
            try:
                with watch:
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except InputError:
                self.withdraw()
                raise
        if watch.full:
            raise self.full(f"stopped, {watch.stopped}", folder, room)
        if watch.stopped is not None and not watch.tripped:
            print(f"stopped, {watch.stopped}; {self.go_on('go on with')}", file=sys.stderr)
            return None
        step = self.go_back(trainer, str(watch.stopped)) if watch.tripped else trainer.state.global_step
        trainer.accelerator.wait_for_everyone()
        with self.stored(settings.out, room):
            return ranks.together(lambda: self.register(trainer, watch, step))

    def withdraw(self) -> None:
        """Remove a training that was refused; one that has come to a checkpoint is kept."""
        if ranks.is_first() and self.state.last_checkpoint() is None:
            self.state.remove()

    @contextmanager
    def stored(self, where: Path, room: int) -> Iterator[None]:
        """Around what writes: a full disk, however a library tells it, is a `StorageError` that says how to go on."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, InputError) as error:
            if not is_storage(error):
                raise
            raise self.full(f"cannot write ({one_line(str(error))})", where, room) from None

    def full(self, what: str, where: Path, room: int) -> StorageError:
        """What is kept, and how much to free for a checkpoint, where `room` is what the first takes, about."""
        good = self.state.last_checkpoint()
        folder = self.state.folder
        kept = f"{good.name} is kept in {str(folder)!r}, the last good one" if good else "no checkpoint was made yet"
        free = to_free(where, wanted(folder, room))
        return StorageError(f"{what}; {kept}; {self.go_on(f'{free}, then')}")

    def go_on(self, how: str) -> str:
        most = getattr(self.settings, "max_cost", None)
        again = shlex.join(["--resume", str(self.state.folder), *(["--max-cost", f"{most:g}"] if most else [])])
        return f"{how}: python -m training.{self.state.method} {again}"

    def go_back(self, trainer: Any, why: str) -> int:
        """Put back the weights of the last good checkpoint; its step."""
        good = ranks.together(self.state.last_checkpoint)
        if good is None:
            if ranks.is_first():
                self.state.remove()
            raise StorageError(
                f"stopped, {why}, and no checkpoint was good; try a lower --learning-rate, or a wider bound"
            )
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
        frame = self.log.table(trainer.state.log_history)
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()  # else in bfloat16
        stored = settings.model_dump(mode="json", exclude=NOT_STORED | PLACES)
        with making(settings.out / "adapters") as folder:
            adapters = {"selected_adapters": ["default"]} if self.form == "lora" else {}
            model.save_pretrained(folder, **adapters)  # TRL may hold the parent beside it
            if self.form == "full":
                self.tokenizer.save_pretrained(folder)
            else:
                (folder / "README.md").unlink(missing_ok=True)
            frame.write_parquet(folder / "metrics.parquet")
            self.log.curve(frame, folder / "curve.svg")
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
                tasks=self.state.digests.get("tasks"),
                run=self.run,
                judge=self.judge,
                metrics=self.log.figures(frame, step) | ({"stopped": watch.stopped} if watch.stopped else {}),
                out=settings.out / "adapters",
            )
        self.state.remove()
        return adapter


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
