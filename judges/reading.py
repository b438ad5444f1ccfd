"""What a judge answers, and reading it: one validator, whether the endpoint held the answer to the schema or not.

    schema(criteria, order)                       # what an endpoint may hold the answer to
    reading = read(text, criteria, debate)        # what it says, or `Unreadable` with what is wrong

Whatever is not as it was asked for makes an answer unreadable, and never a tie: a second object that differs, a key
twice, a number out of range, a quote that its side did not say, a winner named before the reasons or against the
judge's own scores. A winner is the value of one key, never a word found in the text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from judges.answers import Unreadable, checked, closed, one_object, whole
from judges.criteria import Criterion
from runs.records import Debate, Order, Quote, Score, Turn
from topics import SIDES, Side

MOST_QUOTE = 1_000
NEAR = 0.5
"""Weighted totals (0-10) that differ by no more are nearly equal: the judge may name either side then, or a tie. One
point on one criterion of a usual rubric is within it, two points on one are not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a judge says of a debate."""

    winner: Literal["for", "against", "tie", "abstain"]
    confidence: float
    """0 to 1."""
    scores: tuple[Score, ...]
    """0 to 10, in the order of the criteria."""
    quotes: tuple[Quote, ...]
    """As the turns have them."""
    summary: str


Points = Annotated[float, Field(strict=True, ge=0, le=10, allow_inf_nan=False)]
Cited = Annotated[str, Field(strict=True, max_length=MOST_QUOTE)]


class _Weighed(BaseModel):
    """What stands under one criterion."""

    model_config = ConfigDict(extra="forbid")

    quote_for: Cited
    quote_against: Cited
    for_: Points = Field(alias="for")
    against: Points

    def quote(self, side: Side) -> str:
        return self.quote_for if side == "for" else self.quote_against


class _Answer(BaseModel):
    """The whole answer."""

    model_config = ConfigDict(extra="forbid")

    criteria: dict[str, _Weighed]
    summary: Annotated[str, Field(strict=True, pattern=r"\S")]
    winner: Literal["for", "against", "tie", "abstain"]
    confidence: Annotated[float, Field(strict=True, ge=0, le=100, multiple_of=1)]
    """Whole, so that 0.9 is not taken for nine tenths of a hundredth."""


def schema(criteria: Sequence[Criterion], order: Order) -> dict[str, Any]:
    """JSON schema of an answer, as it is to be written: of the sides, the one asked about first."""
    sides = SIDES if order == "for_first" else SIDES[::-1]
    points = {side: whole(10) for side in sides}
    weighed = closed({f"quote_{side}": {"type": "string"} for side in sides} | points)
    return closed(
        {
            "criteria": closed({criterion.name: weighed for criterion in criteria}),
            "summary": {"type": "string"},
            "winner": {"type": "string", "enum": ["for", "against", "tie", "abstain"]},
            "confidence": whole(100),
        }
    )


def read(text: str, criteria: Sequence[Criterion], debate: Debate) -> Reading:
    """What a judge's answer to `schema` says of `debate`; raises `Unreadable`."""
    found = one_object(text)
    answer = checked(found, _Answer)
    names = [criterion.name for criterion in criteria]
    if set(answer.criteria) != set(names):
        raise Unreadable(f"criteria: expected exactly {', '.join(names)}")
    if list(found).index("winner") < max(map(list(found).index, ("criteria", "summary"))):
        raise Unreadable("winner: stands before the reasons; give criteria and summary first")
    _agree(answer, criteria)
    return Reading(
        winner=answer.winner,
        confidence=answer.confidence / 100,
        scores=tuple(Score(criterion=n, for_=w.for_, against=w.against) for n in names for w in [answer.criteria[n]]),
        quotes=tuple(_quotes(answer, names, debate)),
        summary=answer.summary,
    )


def _agree(answer: _Answer, criteria: Sequence[Criterion]) -> None:
    """That the winner is the side with the higher total, or the totals are nearly equal."""
    total_for = sum(criterion.weight * answer.criteria[criterion.name].for_ for criterion in criteria)
    total_against = sum(criterion.weight * answer.criteria[criterion.name].against for criterion in criteria)
    ahead = total_for - total_against
    if answer.winner == "abstain" or abs(ahead) <= NEAR + 1e-9:
        return
    if answer.winner != ("for" if ahead > 0 else "against"):
        raise Unreadable(
            f"winner: {answer.winner!r} does not agree with the weighted totals of its scores, "
            f"for {total_for:.2f} and against {total_against:.2f}"
        )


# ── quotes ───────────────────────────────────────────────────────────────────────────────────────

_MARKS = "\"'`´‘’‚‛“”„‟«»‹›′″"
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_LIKE = {char: f"[{re.escape(group)}]" for group in (_MARKS, _DASHES) for char in group}
_ENDS = _MARKS + " \t\n.…"
"""What a judge may put around a quote that is not of it."""


def _quotes(answer: _Answer, names: Sequence[str], debate: Debate) -> Iterator[Quote]:
    """The quotes, each with the turn that it stands in."""
    turns = {side: debate.of(side) for side in SIDES}
    for name in names:
        for side in SIDES:
            quote = answer.criteria[name].quote(side)
            if not quote.strip(_ENDS):
                continue
            if (found := _find(quote, turns[side])) is None:
                raise Unreadable(
                    f"criteria.{name}.quote_{side}: no turn of the side {side} has these words; copy them exactly from "
                    'one turn, or give ""'
                )
            yield found


def _find(quote: str, turns: Sequence[Turn]) -> Quote | None:
    """Where a quote stands: as it is, or but for white space and the shape of dashes and quotation marks."""
    for turn in turns:
        if quote in turn.text:
            return Quote(turn=turn.turn, side=turn.side, text=quote)
    for words in (quote.split(), quote.strip(_ENDS).split()):
        like = re.compile(r"\s+".join("".join(_LIKE.get(char) or re.escape(char) for char in word) for word in words))
        for turn in turns:
            if match := like.search(turn.text):
                return Quote(turn=turn.turn, side=turn.side, text=match[0])
    return None
