"""Contestants: whoever can be asked for a speech.

    class Contestant(Protocol):
        async def speak(self, debate: Debate, slot: Slot) -> Speech: ...

`debate` holds what has been said so far, `slot` what is asked for now. A contestant that cannot answer raises
`SpeakFailed`; the debate is then void. One that cannot be asked for the time being raises `Unavailable`; the debate
then stays owed. Anything else that it raises is a failure of kind `raised`. The simulated kind (`arena/simulated.py`)
needs no network; endpoints (`arena/remote.py`) and local models (`arena/local.py`) join by the same protocol.
"""

from typing import Annotated, Protocol

from pydantic import AfterValidator, Field

from runs.records import Call, Debate, FailureKind, Slot, Speech


def _printable(name: str) -> str:
    if name != name.strip() or "," in name or not name.isprintable():
        raise ValueError(f"a name is printable and has neither commas nor blanks around it, not {name!r}")
    return name


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
"""Of a contestant or a judge."""


class Contestant(Protocol):
    """A seat in a debate. It never learns of what kind its opponent is."""

    async def speak(self, debate: Debate, slot: Slot) -> Speech:
        """What is said in `slot` of `debate`."""
        ...


class SpeakFailed(Exception):
    """A contestant gave no usable answer, and why."""

    def __init__(self, kind: FailureKind, message: str, attempts: int = 1, call: Call | None = None) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.attempts = attempts
        self.call = call
        """What it cost all the same."""


class Unavailable(Exception):
    """A contestant cannot be asked for the time being: quota or money is spent, or nobody is there."""

    def __init__(self, message: str, call: Call | None = None, *, everybody: bool = False) -> None:
        super().__init__(message)
        self.call = call
        """What it cost all the same."""
        self.everybody = everybody
        """It is so for all contestants."""
