"""The rules judge: a deterministic reading of a debate, without a model.

It exists so that the whole circle runs offline and so that a test can know the right answer. It counts what a
topic lets it recognise; it does not understand anything, it can be gamed, and some of its signposts are those of the
simulated contestants, who are judged well by it for that reason. Each side is scored 0-10 on three
criteria, which are weighed into a total; totals within `TIE` of each other are a tie.

argument_quality, weight 0.4
    0.7 coverage: the points of its own that a side makes in a turn, two being full marks
    0.3 structure: signposts and conclusions, two a turn being full marks
evidence, weight 0.3
    0.7 support: points that are made together with their reason
    0.3 background: whether the side draws on what is known about the topic
persuasiveness, weight 0.3
    0.7 rebuttal: turns that take up something the opponent said last
    0.3 freshness: sentences that the side has not said before

A point counts as made in a turn when three quarters of the claim's words of four letters or more stand there.
Where a topic has no points, coverage is taken from the motion's own words, support from sentences that give a
reason or a figure, and rebuttal from five words in a row out of the opponent's last speech.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from runs.records import Debate, Order, Score, Turn, Vote
from topics import SIDES, Side, Topic, opposite

WEIGHTS = {"argument_quality": 0.4, "evidence": 0.3, "persuasiveness": 0.3}
TIE = 0.1
"""Totals (0-10) that differ by less are a tie."""
SURE = 2.0
"""A difference of totals at which confidence is 1."""
MADE = 0.75
"""Share of a clause's words that must stand in a turn for the clause to count as said there."""
POINTS_PER_TURN = 2
"""Making this many points in a turn is full coverage."""

Words = frozenset[str]

_WORD = re.compile(r"[^\W\d_]{4,}")
_SUPPORTED = re.compile(r"\b(?:because|since|according to|for example|for instance|\d+)\b", re.IGNORECASE)
_STRUCTURE = (
    "first,",
    "second,",
    "third,",
    "finally,",
    "therefore",
    "in short",
    "for these reasons",
    "that is why",
    "we have shown",
    "it has stood",
    "nobody has shaken",
)
"""Signposts and conclusions, lower-case."""


@dataclass(frozen=True)
class Key:
    """What can be recognised of a topic, by side: the words of each claim and of its reason."""

    claims: dict[Side, list[Words]]
    reasons: dict[Side, list[Words]]
    motion: Words
    info: Words


@dataclass(frozen=True)
class Heard:
    """A turn, read once."""

    turn: Turn
    lower: str
    words: Words
    made: list[int]
    """Which of the speaker's points the turn makes."""


class Rules:
    """The judge that `--judges rules` names."""

    orders: tuple[Order, ...] = ("for_first",)
    samples = 1

    def __init__(self, name: str = "rules") -> None:
        self.name = name

    async def vote(self, debate: Debate, order: Order, sample: int) -> Vote:
        return self.judge(debate, order, sample)

    def judge(self, debate: Debate, order: Order = "for_first", sample: int = 0) -> Vote:
        """The vote on a debate; the order makes no difference to this judge."""
        scores = tuple(score(debate))
        totals = {side: sum(WEIGHTS[s.criterion] * _side(s, side) for s in scores) for side in SIDES}
        ahead = totals["for"] - totals["against"]
        return Vote(
            debate_id=debate.id,
            judge=self.name,
            order=order,
            sample=sample,
            winner="tie" if abs(ahead) < TIE else "for" if ahead > 0 else "against",
            confidence=min(1.0, abs(ahead) / SURE),
            scores=scores,
            rationale=f"Weighted totals of 10: for {totals['for']:.2f}, against {totals['against']:.2f}.",
        )


def score(debate: Debate) -> Iterable[Score]:
    """Both sides' scores, 0-10, on every criterion."""
    key = key_of(debate.topic)
    heard = [_hear(turn, key) for turn in debate.turns]
    by_side = {side: _criteria(side, heard, key) for side in SIDES}
    for criterion in WEIGHTS:
        yield Score(criterion=criterion, for_=by_side["for"][criterion], against=by_side["against"][criterion])


def _criteria(side: Side, heard: Sequence[Heard], key: Key) -> dict[str, float]:
    own = [h for h in heard if h.turn.side == side]
    pairs = [(before, h) for before, h in pairwise(heard) if h.turn.side == side]
    return {
        "argument_quality": 10 * (0.7 * _coverage(own, key, side) + 0.3 * _structure(own)),
        "evidence": 10 * (0.7 * _support(own, key, side) + 0.3 * _background(own, key)),
        "persuasiveness": 10 * (0.7 * _rebuttal(pairs, key, side) + 0.3 * _freshness(own)),
    }


@lru_cache(maxsize=1024)
def key_of(topic: Topic) -> Key:
    """What can be recognised of a topic."""
    return Key(
        claims={side: [words(p.claim) for p in topic.points.get(side, ())] for side in SIDES},
        reasons={side: [words(p.reason) for p in topic.points.get(side, ())] for side in SIDES},
        motion=words(topic.motion),
        info=words(topic.info),
    )


def words(text: str) -> Words:
    """The words of four letters or more, lower-case."""
    return frozenset(_WORD.findall(text.lower()))


def _hear(turn: Turn, key: Key) -> Heard:
    lower = turn.text.lower()
    said = frozenset(_WORD.findall(lower))
    return Heard(turn, lower, said, [i for i, claim in enumerate(key.claims[turn.side]) if stands(claim, said)])


def stands(clause: Words, said: Words) -> bool:
    """Whether a clause counts as said: `MADE` of its words are among those that were."""
    return bool(clause) and len(clause & said) >= MADE * len(clause)


def _coverage(own: Sequence[Heard], key: Key, side: Side) -> float:
    if not key.claims[side]:
        return _mean(len(h.words & key.motion) / max(1, len(key.motion)) for h in own)
    most = min(POINTS_PER_TURN, len(key.claims[side]))
    return _mean(min(1.0, len(h.made) / most) for h in own)


def _structure(own: Sequence[Heard]) -> float:
    return _mean(min(1.0, sum(marker in h.lower for marker in _STRUCTURE) / 2) for h in own)


def _support(own: Sequence[Heard], key: Key, side: Side) -> float:
    if not key.claims[side]:
        return _mean(bool(_SUPPORTED.search(sentence)) for h in own for sentence in _sentences(h.turn.text))
    return _mean(stands(key.reasons[side][point], h.words) for h in own for point in h.made)


def _background(own: Sequence[Heard], key: Key) -> float:
    return float(any(len(h.words & key.info) >= MADE * len(key.info) > 0 for h in own))


def _rebuttal(pairs: Sequence[tuple[Heard, Heard]], key: Key, side: Side) -> float:
    """`pairs` are the opponent's last turn and the turn that should answer it."""
    theirs = key.claims[opposite(side)]
    if not theirs:
        return _mean(bool(_runs(before.turn.text) & _runs(h.turn.text)) for before, h in pairs)
    return _mean(any(stands(theirs[point], h.words) for point in before.made) for before, h in pairs)


def _freshness(own: Sequence[Heard]) -> float:
    sentences = [sentence for h in own for sentence in _sentences(h.turn.text)]
    return len(set(sentences)) / len(sentences) if sentences else 0.0


def _sentences(text: str) -> list[str]:
    """Near enough: what stands between full stops, question and exclamation marks that a blank follows."""
    return text.replace("? ", ". ").replace("! ", ". ").split(". ")


def _runs(text: str, n: int = 5) -> frozenset[tuple[str, ...]]:
    """Every n words in a row."""
    said = text.lower().split()
    return frozenset(zip(*(said[i:] for i in range(n)), strict=False))


def _side(score: Score, side: Side) -> float:
    return score.for_ if side == "for" else score.against


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
