"""The chat-completions protocol, as far as the simulated endpoint speaks it: requests in, answers and errors out.

    asked = Request.read(body)                                   # or raises Refused
    completion(asked, Answer(text="Trams are quiet."), cached=0)

Only what a debate needs: texts for messages, one answer, no stream, no tools, no log-probabilities. A schema for the
answer is accepted; simulated judges keep to it because they answer so anyway, contestants never.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from arena.simulate_meter import BYTES_A_TOKEN, MESSAGE_TOKENS, Prompt, tokens_of
from runs.records import content_seed

JSON = {"Content-Type": "application/json"}
ROLES = {"system", "developer", "user", "assistant", "tool"}


class Refused(Exception):
    """A request that is answered with an error status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.code, self.param, self.headers = status, type, code, param, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asked for."""

    model: str
    messages: list[dict[str, Any]]
    seed: int | None
    most: int | None
    """Tokens that the answer may have."""
    prompt: Prompt
    structured: bool
    """It asks for an answer in a given form; `response_format`."""

    @cached_property
    def digest(self) -> int:
        """The same on any machine; not of its seed."""
        return content_seed(self.model, *(part for m in self.messages for part in (m["role"], m["content"])))

    @classmethod
    def read(cls, body: bytes) -> "Request":
        """Raises `Refused` (400)."""
        try:
            return cls.of(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise _not_understood(error) from None

    @classmethod
    def of(cls, asked: Any) -> "Request":
        """Raises `Refused` (400)."""
        try:
            if not isinstance(asked, dict):
                raise TypeError("the body is no object")
            model, messages = asked["model"], asked["messages"]
            if not isinstance(model, str) or not isinstance(messages, list) or not messages:
                raise TypeError("expected a model's name, and messages")
            for message in messages:
                message["content"] = message.get("content") or ""
                if message["role"] not in ROLES or not isinstance(message["content"], str):
                    raise TypeError(f"expected messages with a role of {sorted(ROLES)} and a text for content")
            tokens_of(model)
            prompt = prompt_of(model, messages)
            most = asked.get("max_completion_tokens") or asked.get("max_tokens")
            if asked.get("stream") or asked.get("n") not in (None, 1):
                raise TypeError("this endpoint neither streams nor gives several answers")
            if not all(isinstance(value, int | None) for value in (most, asked.get("seed"))):
                raise TypeError("expected whole numbers for seed and max_tokens")
            structured = _structured(asked.get("response_format"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _not_understood(error) from None
        seed = asked.get("seed")
        return cls(model=model, messages=messages, seed=seed, most=most, prompt=prompt, structured=structured)


def _not_understood(error: Exception) -> Refused:
    why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return Refused(400, f"The request is not understood: {why}.")


def _structured(wanted: Any) -> bool:
    """Whether a `response_format` asks for more than a text."""
    if wanted is None or wanted == {"type": "text"}:
        return False
    form = wanted["json_schema"] if wanted["type"] == "json_schema" else {"name": "", "schema": {}}
    if wanted["type"] not in ("json_schema", "json_object") or not isinstance(form["name"], str):
        raise TypeError("expected a response_format of type text, json_object or json_schema, which has a name")
    if not isinstance(form["schema"], dict):
        raise TypeError("expected an object for the schema of response_format")
    return True


def prompt_of(model: str, messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """A prompt as the cache sees it, its last message cut in two at its last blank line.

    What two questions about one text have in common ends there, and a server has read it once. Raises
    `UnicodeEncodeError` where a message is no text that could be sent.
    """
    prompt = Prompt.of(model, messages)
    head = messages[-1]["content"].rpartition("\n\n")[0]
    if head:
        before, end = (prompt.chain[-2], prompt.ends[-2]) if len(messages) > 1 else (hash(model), 0)
        prompt.chain.insert(-1, hash((before, "begins", head)))
        prompt.ends.insert(-1, end + MESSAGE_TOKENS + tokens_of(head))
    return prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a completion says."""

    text: str | None
    finish: str = "stop"
    refusal: str | None = None
    reasoning: str | None = None
    """Sent in a field of its own."""
    good: bool = True
    """There is something in it that can be used."""

    @property
    def reasoning_tokens(self) -> int:
        return tokens_of(self.reasoning or "")

    @property
    def tokens(self) -> int:
        return tokens_of(self.text or "") + tokens_of(self.refusal or "") + self.reasoning_tokens


def cut(text: str, tokens: int) -> str:
    """`text` as a limit on tokens leaves it."""
    return text.encode()[: BYTES_A_TOKEN * tokens].decode(errors="ignore")


def completion(asked: Request, answer: Answer, cached: int) -> dict[str, Any]:
    """The body in which an answer is sent; `cached` tokens of the prompt had not to be read."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    usage: dict[str, Any] = {
        "prompt_tokens": asked.prompt.tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": asked.prompt.tokens + answer.tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
        usage["completion_tokens_details"] = {"reasoning_tokens": answer.reasoning_tokens}
    return {
        "id": f"chatcmpl-{hash((asked.prompt.chain[-1], asked.seed)) & (1 << 64) - 1:016x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}],
        "usage": usage,
    }
