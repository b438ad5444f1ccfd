"""The rubric judge: scores one text against a list of rubric items, each 0-1, reason first.

    judge = RubricJudge("rubric", ask=ask)
    scores = await judge.score(prompt, text, load("speech"), about=prompt_id, draw=3)
    reward = None if scores is None else weigh(scores.items)

Made to be a reward, thousands of times: one question scores a text on all items, and what questions share stands first
(the items, then the prompt, the text last), so that a server with a prefix cache reads both once for a group of texts.
The judge is not told which items are faults; it says how far each applies, and `weigh` turns those round. What could
not be had is `None`, never a zero: a reward that is missing is left out, not learnt from.

It is no judge of debates and has no `vote`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from judges import criteria
from judges.answers import Unreadable, ask_until, checked, closed, one_object, whole, wording
from judges.asking import Ask, Message, NoReply, Question, Reply
from judges.reading import Points
from runs.records import content_id
from topics.topic import Sentence


class Item(BaseModel):
    """One thing that may be true of a text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    text: Sentence
    positive: Annotated[bool, Field(strict=True)] = True
    """Whether it is a merit; else a fault."""
    weight: criteria.Weight = 1.0


class _Rubric(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=50)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """How far an item applies to a text."""

    item: Item
    score: float
    """0, not at all, to 1, fully; of a fault, too."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What the judge says of a text."""

    items: tuple[ItemScore, ...]
    """One for each item, in their order."""
    call_id: str | None = None


class _Scored(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(strict=True, pattern=r"\S")]
    score: Points


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: dict[str, _Scored]


def load(named: str | Path) -> tuple[Item, ...]:
    """The items of a rubric file, a built-in one by name or the .toml at a path; raises `InputError`."""
    return criteria.from_file(named, _Rubric).items


def weigh(scores: Iterable[ItemScore]) -> float:
    """The weighted mean of how far merits apply and faults do not, 0 to 1."""
    listed = list(scores)
    earned = sum(s.item.weight * (s.score if s.item.positive else 1 - s.score) for s in listed)
    return earned / sum(s.item.weight for s in listed)


class RubricJudge:
    """A judge of single texts."""

    def __init__(self, name: str, *, ask: Ask) -> None:
        self.name = name
        self.ask = ask

    async def score(self, prompt: str, text: str, items: Sequence[Item], *, about: str, draw: int = 0) -> Scores | None:
        """The scores of a `text` that was written for a `prompt`; None where there are none.

        `about` names what shares a prompt (a prompt's id), `draw` tells questions about it apart. Raises `NotNow`.
        """
        question = Question(
            about=about,
            messages=messages(prompt, text, items),
            schema=schema(items),
            draw=draw,
        )
        try:
            return await ask_until(self.ask, question, lambda reply: read(reply, items), attempts=2)
        except NoReply:
            return None


def messages(prompt: str, text: str, items: Sequence[Item]) -> list[Message]:
    """What the judge is asked."""
    drawn = (
        content_id("rubric", prompt, n) for n in count()
    )  # of the prompt alone: its texts share what stands before them
    nonce = next(nonce for nonce in drawn if not any(nonce in said.lower() for said in (prompt, text)))
    listed = "\n".join(f"{n}. {item.text}" for n, item in enumerate(items, 1))
    return [
        {"role": "system", "content": wording("rubric").replace("{items}", listed)},
        {"role": "user", "content": wording("text").format(nonce=nonce, prompt=prompt, text=text)},
    ]


def schema(items: Sequence[Item]) -> dict[str, Any]:
    """JSON schema of the answer."""
    scored = closed({"reason": {"type": "string"}, "score": whole(10)})
    return closed({"items": closed({str(n): scored for n, _ in enumerate(items, 1)})})


def read(reply: Reply, items: Sequence[Item]) -> Scores:
    """What an answer says; raises `Unreadable`."""
    answer = checked(one_object(reply.text), _Answer)
    if set(answer.items) != {str(n) for n, _ in enumerate(items, 1)}:
        raise Unreadable(f"items: expected exactly the numbers 1 to {len(items)}")
    scored = (
        ItemScore(item=item, score=answer.items[str(n)].score / 10, reason=answer.items[str(n)].reason)
        for n, item in enumerate(items, 1)
    )
    return Scores(items=tuple(scored), call_id=reply.call_id)
