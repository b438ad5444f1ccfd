"""Debate rewards: what a debate says of one turn, as components of a reward.

    margin(verdict.margin, "for")                       # how the debate with this turn in it was judged
    gain(before, after, "for")                          # how far the turn moved the judge
    answered(topic, "for", opponents_last, text)        # how many of the opponent's points it takes up
    budget(text, slot.words)                            # whether the word budget was kept, before any trimming
    audit([("coercion", 2)], {"coercion": 1.0})         # the persuasion audit's labels, as faults

All are pure: verdicts and audits are made elsewhere and given as data. None is what could not be had. What does not
apply to a prompt at all (there is nothing to answer) is the same for its whole group, and then moves nothing.
"""

from collections.abc import Iterable, Mapping

from judges.rules import key_of, stands, words
from topics import Side, Topic, opposite
from training.rewards import Items, item, length

SEVEREST = 3
"""Of a hit's severities, 0 to 3."""


def margin(value: float | None, side: Side) -> Items | None:
    """A verdict's margin, -1 (against) to +1 (for), as what the side of the turn has of it: 1 is all."""
    return None if value is None else (item("judge's margin", (1 + _sign(side) * value) / 2),)


def gain(before: float | None, after: float | None, side: Side) -> Items | None:
    """How far the judge's margin moved to the side of the turn between two verdicts: 1/2 is not at all.

    The verdicts of a judge that stops reading before and after the turn (`judges/trajectory.py`).
    """
    if before is None or after is None:
        return None
    return (item("judge's margin gained", (2 + _sign(side) * (after - before)) / 4),)


def answered(topic: Topic, side: Side, heard: str, text: str) -> Items:
    """The share of the opponent's points, made in what was `heard` of it last, that the turn of `side` takes up.

    A point counts as made, and as taken up, as the rules judge counts it: three quarters of its claim's longer words
    stand there. To repeat is not to refute: weigh it beside a judge. 1 where the opponent made none. Raises
    `ValueError` for a topic without points of the opponent's.
    """
    theirs = key_of(topic).claims[opposite(side)]
    if not theirs:
        raise ValueError(f"topic {topic.topic_id!r} has no points, so none can be answered; leave out this reward")
    said, reply = words(heard), words(text)
    made = [claim for claim in theirs if stands(claim, said)]
    share = sum(stands(claim, reply) for claim in made) / len(made) if made else 1.0
    return (item("opponent's points answered", share),)


def budget(text: str, most: int) -> Items:
    """Whether a turn keeps its word budget: 1 within it, 0 at five quarters of it and beyond."""
    return length(text, most=most)


def audit(hits: Iterable[tuple[str, float]] | None, weights: Mapping[str, float]) -> Items | None:
    """Hits of a persuasion audit, (label, severity 0 to 3), as faults of the labels that are weighed.

    A label's score is its worst hit's severity over 3, and 0 without a hit; labels that are not weighed do not count.
    """
    if hits is None:
        return None
    severity = dict.fromkeys(weights, 0.0)
    for label, found in hits:
        if not 0 <= found <= SEVEREST:
            raise ValueError(f"a hit of {label!r} has severity {found!r}; expected 0 to {SEVEREST}")
        if label in severity:
            severity[label] = max(severity[label], found)
    return tuple(item(label, severity[label] / SEVEREST, positive=False, weight=w) for label, w in weights.items())


def _sign(side: Side) -> int:
    return 1 if side == "for" else -1
