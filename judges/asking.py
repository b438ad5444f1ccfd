"""How a judge asks a language model: it opens no socket, it is handed `ask`.

    reply = await ask(Question(about=debate.id, messages=messages, schema=schema))

The arena makes an `ask` for each judge that names an endpoint (`arena/asking.py`): it sends the question through the
endpoint's gate, tries again what can be tried again, and books what it cost. What a judge gets is what could be heard:
private reasoning is split off before. A judge needs to know of two ways in which a question comes to nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runs.records import FailureKind

Message = Mapping[str, str]
"""A chat message: its role and its content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a judge wants to know."""

    about: str
    """The id of what it is about, a debate's as a rule: such questions go to one server, and share what it cached."""
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None = None
    """JSON schema that the answer is held to, where the endpoint can do that."""
    draw: int = 0
    """Tells draws of one question apart: seeds are made of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer."""

    text: str
    """What could be heard of it; never empty."""
    call_id: str | None = None


class NoReply(Exception):
    """A question, or a vote, that has no usable answer and will have none, and why: the vote is `invalid`."""

    def __init__(self, kind: FailureKind, message: str, call_id: str | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.call_id = call_id
        self.attempts = attempts


class NotNow(Exception):
    """A question that may be answered another time: the endpoint is parked, or money is spent. The vote stays owed."""

    def __init__(self, message: str, *, everybody: bool = False) -> None:
        super().__init__(message)
        self.everybody = everybody
        """It is so for everybody who asks."""


class Ask(Protocol):
    """Asks one language model. Raises `NoReply` or `NotNow`, which a judge lets pass."""

    async def __call__(self, question: Question, /) -> Reply:
        """The answer to `question`."""
        ...
