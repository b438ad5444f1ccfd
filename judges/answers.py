"""Answers of a language model that are one JSON object, and asking until there is one that can be read.

    answer = await ask_until(ask, question, lambda reply: checked(one_object(reply.text), Mine))

An endpoint that can hold an answer to a schema (`closed`, `whole`) is asked to, and its answer is read like any other.
It holds exactly one JSON object; prose and fences around that are not read, so no word in them can become a result.
What is not as it was asked for is `Unreadable`: it is sent back once with what is wrong with it, then the question is
asked once afresh, and after that there is no answer.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from judges.asking import Ask, NoReply, Question, Reply
from topics.errors import one_line

FOLDER = Path(__file__).parent / "prompts"
MOST_REPLY = 50_000
"""Characters of an answer that is read at all; a vote takes some 3,000."""
MOST_REPAIR = 8_000
"""Characters of an unreadable answer that are sent back."""
DEEPEST = 8
"""Objects within objects; a vote has three."""
ATTEMPTS = 3
"""Questions that one answer may take: itself, its repair, a fresh one."""

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Unreadable(Exception):
    """An answer cannot be read; the message says what is wrong with it, and repeats no sentence of it."""


def closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an object that has these properties and no others: strict decoding asks for just that."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def whole(most: int) -> dict[str, Any]:
    """Schema of a whole number from 0; listed, since not every endpoint knows bounds."""
    return {"type": "integer", "enum": list(range(most + 1))}


_TOKEN = re.compile(r'\\.|["{}]', re.DOTALL)


def one_object(text: str) -> dict[str, Any]:
    """The one JSON object in `text`, whatever stands around it; time grows with the length alone."""
    if len(text) > MOST_REPLY:
        raise Unreadable(f"the answer has {len(text)} characters; at most {MOST_REPLY} are read")
    found: list[dict[str, Any]] = []
    for span in dict.fromkeys(_outermost(text)):
        value = _parsed(span)
        if value not in found[:1]:
            found.append(value)
        if len(found) > 1:
            raise Unreadable("the answer holds more than one JSON object, and they differ; give one")
    if not found:
        raise Unreadable("the answer holds no JSON object")
    return found[0]


def _outermost(text: str) -> Iterator[str]:
    """What stands between outermost braces; within them, braces in strings do not count."""
    depth = start = 0
    quoted = False
    for token in _TOKEN.finditer(text):
        if quoted:
            quoted = token[0] != '"'
        elif token[0] == '"':
            quoted = depth > 0
        elif token[0] == "{":
            start = start if depth else token.start()
            depth += 1
            if depth > DEEPEST:
                raise Unreadable(f"objects stand more than {DEEPEST} deep within each other")
        elif token[0] == "}" and depth:
            depth -= 1
            if not depth:
                yield text[start : token.end()]
    if depth:
        raise Unreadable("the JSON object does not end; it may have been cut off, or a quotation mark is not escaped")


def _parsed(span: str) -> dict[str, Any]:
    try:
        value = json.loads(span, strict=False, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise Unreadable("lists stand too deep within each other") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"the object is not JSON: {error.msg}, at its character {error.pos}") from None
    except ValueError:  # a whole number of thousands of digits
        raise Unreadable("a number is too long") from None
    assert isinstance(value, dict)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise Unreadable("a key stands twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise Unreadable(f"{name} is not a number of JSON")


def checked(found: Mapping[str, Any], model: type[M]) -> M:
    """An object as a `model`; raises `Unreadable` with its first fault."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Unreadable(one_line(f"{'.'.join(map(_plain, first['loc']))}: {first['msg']}")) from None


def _plain(key: object) -> str:
    """A key of an answer as a message may hold it: what is sent back as the user's words repeats no sentence."""
    return str(key) if re.fullmatch(r"\w{1,60}", str(key)) else "(a key)"


async def ask_until(ask: Ask, question: Question, read: Callable[[Reply], T], attempts: int = ATTEMPTS) -> T:
    """What `read` makes of an answer: to the question, else to a repair turn, else to the question asked afresh.

    Raises `NoReply` where none can be read. Draws of a question that is asked so are told apart by its own `draw`.
    """
    messages = question.messages
    for attempt in range(attempts):
        draw = question.draw * ATTEMPTS + attempt
        reply = await ask(replace(question, messages=messages, draw=draw))
        try:
            return read(reply)
        except Unreadable as fault:
            last = NoReply("unparseable", f"the answer cannot be read: {fault}", reply.call_id)
            messages = question.messages if attempt else _repair(question, reply, fault)
    raise last


def _repair(question: Question, reply: Reply, fault: Unreadable) -> list[Mapping[str, str]]:
    said = one_line(str(fault)).rstrip(".")
    return [
        *question.messages,
        {"role": "assistant", "content": reply.text[:MOST_REPAIR]},
        {"role": "user", "content": wording("repair").replace("{fault}", said)},
    ]


@cache
def wording(name: str) -> str:
    """A text in `judges/prompts/`."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()
