"""Contestants: whoever can be asked for a speech.

    class Contestant(Protocol):
        async def speak(self, debate: Debate, slot: Slot) -> Speech: ...

`debate` holds what has been said so far, `slot` what is asked for now. A contestant that cannot answer raises
`SpeakFailed`; the debate is then void. Anything else that it raises is a failure of kind `raised`. The simulated
kind (`arena/simulated.py`) needs no network; endpoints and local models join by the same protocol.
"""

from typing import Protocol

from runs.records import Debate, FailureKind, Slot, Speech


class Contestant(Protocol):
    """A seat in a debate. It never learns of what kind its opponent is."""

    async def speak(self, debate: Debate, slot: Slot) -> Speech:
        """What is said in `slot` of `debate`."""
        ...


class SpeakFailed(Exception):
    """A contestant gave no usable answer, and why."""

    def __init__(self, kind: FailureKind, message: str, attempts: int = 1) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.attempts = attempts
