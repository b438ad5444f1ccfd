"""From what a judge returned to a vote that may be stored.

Done once, at the one place where votes enter, for every judge: the vote gets the identity that it was asked for,
text is made presentable and bounded, and everything is checked against the record's own types. What does not
fit is an error, which the engine records as an invalid vote; nothing is bent into shape silently.
"""

import math
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from arena.speech import presentable
from runs.records import Debate, Order, Vote

MOST_RATIONALE = 20_000
MOST_TEXT = 5_000
MOST_ITEMS = 200
"""Bounds on what one vote may hold: characters of its rationale, of any other text, and items of a list."""

_VOTE = TypeAdapter(Vote)


def cast(vote: object, debate: Debate, judge: str, order: Order, sample: int, identity: str | None = None) -> Vote:
    """`vote` as it may be stored; raises `ValueError` that says what is wrong with it."""
    if not isinstance(vote, Vote):
        raise ValueError(f"expected a Vote, got {type(vote).__name__}")
    vote = replace(vote, debate_id=debate.id, judge=judge, order=order, sample=sample, identity=identity)
    try:
        vote = _VOTE.validate_python(_bounded(_VOTE.dump_python(vote, warnings=False)))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if vote.confidence is not None and not 0 <= vote.confidence <= 1:
        raise ValueError(f"confidence: {vote.confidence} is not within 0 and 1")
    if not all(math.isfinite(number) for score in vote.scores for number in (score.for_, score.against)):
        raise ValueError("scores: a score is not finite")
    if not all(1 <= quote.turn <= len(debate.slots) for quote in vote.quotes):
        raise ValueError("quotes: a quote names a turn that the debate does not have")
    return vote


def _bounded(value: Any, most: int = MOST_TEXT) -> Any:
    """`value` with its texts presentable and cut to `most` characters; too many items are an error."""
    if isinstance(value, str):
        return presentable(value[:most])
    if isinstance(value, dict):
        return {key: _bounded(item, MOST_RATIONALE if key == "rationale" else most) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > MOST_ITEMS:
            raise ValueError(f"a list of {len(value)} items; at most {MOST_ITEMS} are kept")
        return tuple(_bounded(item, most) for item in value)
    return value
