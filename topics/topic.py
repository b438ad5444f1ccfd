"""A topic: the motion that is debated and what is known about it.

Topics come from files, so they are pydantic models: what is wrong with a row is said in a sentence. Only
`motion` is required; the simulated contestants and the rules judge make use of `points` where there are any.
"""

import hashlib
import json
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Side = Literal["for", "against"]
SIDES: tuple[Side, Side] = ("for", "against")
Split = Literal["train", "test", "custom"]


def opposite(side: Side) -> Side:
    """The other side."""
    return "against" if side == "for" else "for"


def _clean(value: Any) -> Any:
    """Text without control characters and with single spaces; anything else as it is."""
    if not isinstance(value, str):
        return value
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


Sentence = Annotated[str, Field(min_length=1, max_length=1_000), BeforeValidator(_clean)]
Paragraph = Annotated[str, Field(max_length=5_000), BeforeValidator(_clean)]
Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Point(BaseModel):
    """One argument of a side, as two clauses that read `claim, because reason`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Sentence
    reason: Sentence


class Topic(BaseModel):
    """A topic as it stands in a file."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    topic_id: Slug
    """Names the topic everywhere."""
    motion: Sentence
    """The proposition that is debated, as a statement."""
    theme: Paragraph = ""
    question_type: Literal["policy", "value", "fact", "mixed", ""] = ""
    framing: Literal["absolute", "comparative", ""] = ""
    info: Paragraph = ""
    """Neutral background."""
    points: dict[Side, tuple[Point, ...]] = {}
    """What each side can say."""
    cluster: Annotated[str, Field(max_length=100)] = ""
    """All wordings of one proposition, its negation included, share it."""
    split: Split = "custom"

    def __hash__(self) -> int:
        return hash((self.topic_id, self.motion))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of every field: equal digests, equal topics."""
        return hashlib.sha256(canonical(self.model_dump()).encode()).hexdigest()


def canonical(value: Any) -> str:
    """One text per value: JSON with sorted keys and no spaces; strings NFKC-normalised and stripped."""
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFKC", value).strip()
    if isinstance(value, dict):
        return {_normal(key): _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    return value
