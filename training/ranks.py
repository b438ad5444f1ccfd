"""One training in several processes (`accelerate launch -m training.dpo ...`, torchrun): who writes, and who is told.

What lies on disk is made by the first process and told to the others. Alone, a process is its own first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def _state() -> Any:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def processes() -> int:
    """How many processes share the training."""
    return int(_state().num_processes)


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return bool(_state().is_main_process)


def together(make: Callable[[], T]) -> T:
    """What the first process makes, in every process; what it raises, in every process too."""
    if processes() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    told: list[Any] = [None, None]
    if is_first():
        try:
            told[0] = make()
        except Exception as error:
            told[1] = error
    broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    made: T = told[0]
    return made


def leave() -> None:
    """Let go of the other processes, before this one ends."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
