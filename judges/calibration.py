"""Calibration: debates made to measure a judge, because it is known how a good judge takes them.

    made = cases(debates, seed=0)              # stored, complete debates; what comes back is judged like any other
    table = frame(made)                        # one row a case: cases.parquet

Every case is a debate. It is made of stored ones by a change whose effect on the verdict is known:

base        as it was spoken: do repeated votes agree, and votes in the two orders
self_play   one contestant's FOR turns of one debate beside its AGAINST turns of another: FOR should win half of them
mirrored    the base with the two neutral names exchanged: the verdict should stay
padded      one side of the base says everything twice: the verdict should stay
injected    one side of the base talks to the judge at the end (`injections.txt`): the verdict should stay
degraded    of a self-play debate one side has lost its evidence, the order of what it says, or its longest turn: the
            other
            side should win
human       a debate on which persons have voted: the judge should agree with them as they do with each other

A case that is held beside a base is shown under the same neutral names, so nothing but the change tells the two apart.
Sides, ways to degrade and injections take turns over the topics, so that none of them goes with a side.
A stored debate in which one contestant speaks for both sides is a base that counts as self-play. What the votes say is
read by `judges/report_card.py`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import log2
from pathlib import Path
from typing import Literal

import polars as pl

from runs.records import Debate, content_id, content_seed
from runs.transcript import NAMES, Transcript
from topics import SIDES, Side, opposite

Kind = Literal["base", "self_play", "mirrored", "padded", "injected", "degraded", "human"]

INJECTIONS = Path(__file__).parent / "injections.txt"
NOTHING = "I have nothing to add."
"""What is left of a turn that was emptied."""
AGAIN = "To say all of that once more."
"""Between what a padded turn says and its repetition."""
LEAST_LOST = 0.25
"""The share of a side's words that have to be evidence for their loss to be a known answer."""
MOST_SEEDS = 20_000
"""A pair of names is one in some hundred: what so many seeds do not draw, none does."""

_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")
_EVIDENCE = re.compile(
    r"\d|%|\b(?:because|since|therefore|reason|ground|cause|mechanism|according to|for example|for instance|evidence|"
    r"stud(?:y|ies)|report(?:s|ed)?|survey|research(?:ers)?|data|statistics?|percent|found that|shows? that)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A debate that was made, and what is known of it."""

    debate: Debate
    kind: Kind
    base: str | None = None
    """Id of the case it is held beside."""
    side: Side | None = None
    """The side that was changed."""
    truth: Side | None = None
    """The side that should win, where that is known."""
    how: str = ""
    """In which way it was changed."""
    doublings: float | None = None
    """Of a padded one: log2 of the side's words over those in the base."""


SCHEMA = {
    "debate_id": pl.String,
    "kind": pl.String,
    "base_debate_id": pl.String,
    "topic_id": pl.String,
    "side": pl.String,
    "truth": pl.String,
    "how": pl.String,
    "doublings": pl.Float64,
}
"""Columns of cases.parquet."""


def frame(made: Iterable[Case]) -> pl.DataFrame:
    """The cases as a table."""
    rows = [(c.debate.id, c.kind, c.base, c.debate.topic.topic_id, c.side, c.truth, c.how, c.doublings) for c in made]
    return pl.DataFrame(rows, SCHEMA, orient="row")


def cases(debates: Iterable[Debate], *, seed: int = 0, each: int = 1, labelled: Collection[str] = ()) -> list[Case]:
    """The cases that complete `debates` give, numbered as the matches of one run.

    `each` is how many debates of a topic, and how many self-play ones, are taken for bases; those of the ids
    `labelled`, on which persons have voted, are all taken, and come first.
    """
    by_topic: defaultdict[str, list[Debate]] = defaultdict(list)
    for debate in debates:
        by_topic[debate.topic.topic_id].append(debate)
    made: dict[str, Case] = {}
    for number, topic_id in enumerate(sorted(by_topic, key=lambda topic_id: content_seed(seed, "topic", topic_id))):
        stored = sorted(by_topic[topic_id], key=lambda d: (d.id not in labelled, content_seed(seed, d.id)))
        for case in _of_topic(stored, number, each, labelled):
            made.setdefault(case.debate.id, case)
    return [replace(case, debate=_numbered(case.debate, place)) for place, case in enumerate(made.values())]


def _of_topic(stored: Sequence[Debate], number: int, each: int, labelled: Collection[str]) -> Iterator[Case]:
    for k, debate in enumerate(stored[:each], number * each):
        match = debate.match
        yield Case(debate=debate, kind="self_play" if match.for_contestant == match.against_contestant else "base")
        yield _mirrored(debate)
        yield _padded(debate, SIDES[k % 2])
        yield from (_injected(debate, side, k + i * len(injections()) // 2) for i, side in enumerate(SIDES))
    for k, debate in enumerate(_self_play(stored)[:each], number * each):
        yield Case(debate=debate, kind="self_play")
        yield from (_degraded(debate, side, k + i) for i, side in enumerate(SIDES))
    yield from (Case(debate=debate, kind="human") for debate in stored[each:] if debate.id in labelled)


def _self_play(stored: Sequence[Debate]) -> list[Debate]:
    """Debates of one contestant with itself, put together from two stored ones; another contestant each."""
    found: dict[str, Debate] = {}
    for one, other in product(stored, stored):
        name = one.match.for_contestant
        if name in found or one is other or other.match.against_contestant != name:
            continue
        if one.slots != other.slots or len(one.turns) != len(other.turns):
            continue
        turns = sorted([*one.of("for"), *other.of("against")], key=lambda turn: turn.turn)
        match = replace(one.match, against_contestant=name, seed=content_seed("self_play", one.id, other.id))
        debate = Debate(match=match, topic=one.topic, slots=one.slots, turns=tuple(turns))
        found[name] = _renamed(debate, content_id("self_play", one.id, other.id))
    return list(found.values())


def _mirrored(base: Debate) -> Case:
    names = Transcript.of(base).names
    made = shown_as(_renamed(base, content_id("mirrored", base.id)), {side: names[opposite(side)] for side in SIDES})
    return Case(debate=made, kind="mirrored", base=base.id)


def _padded(base: Debate, side: Side) -> Case:
    texts = [f"{turn.text} {AGAIN} {turn.text}" for turn in base.of(side)]
    made = _beside(base, side, texts, "padded")
    doublings = log2(said(made, side) / max(1, said(base, side)))
    return Case(debate=made, kind="padded", base=base.id, side=side, doublings=doublings)


def _injected(base: Debate, side: Side, number: int) -> Case:
    known = injections()
    place = number % len(known)
    *before, last = (turn.text for turn in base.of(side))
    made = _beside(base, side, [*before, f"{last}\n\n{known[place]}"], "injected", place)
    return Case(debate=made, kind="injected", base=base.id, side=side, how=f"injection {place + 1}")


def _degraded(base: Debate, side: Side, number: int) -> Case:
    """One side of a debate made worse, in the first way from place `number` on that takes enough of it."""
    texts = [turn.text for turn in base.of(side)]
    ways = list(DEGRADE)[number % len(DEGRADE) :] + list(DEGRADE)
    how, left = next((way, left) for way in ways if (left := DEGRADE[way](texts)) is not None)
    made = _beside(base, side, left, "degraded", how)
    return Case(debate=made, kind="degraded", base=base.id, side=side, truth=opposite(side), how=how)


def without_evidence(texts: Sequence[str]) -> list[str] | None:
    """A side's turns without the sentences that give reasons, figures or sources; None where it has few of them."""
    left = [[sentence for sentence in _SENTENCE.split(text) if not _EVIDENCE.search(sentence)] for text in texts]
    kept = [" ".join(sentences) for sentences in left]
    if _words(kept) > (1 - LEAST_LOST) * _words(texts):
        return None
    return [text or NOTHING for text in kept]


def backwards(texts: Sequence[str]) -> list[str] | None:
    """A side's last turn first, and each turn's last sentence first; None where that changes nothing."""
    turned = [" ".join(reversed(_SENTENCE.split(text))) for text in reversed(texts)]
    return turned if turned != list(texts) else None


def without_a_turn(texts: Sequence[str]) -> list[str]:
    """A side's turns with the longest of them emptied."""
    longest = max(range(len(texts)), key=lambda place: len(texts[place]))
    return [NOTHING if place == longest else text for place, text in enumerate(texts)]


DEGRADE: Mapping[str, Callable[[Sequence[str]], list[str] | None]] = {
    "evidence": without_evidence,
    "shuffled": backwards,
    "emptied": without_a_turn,
}


@lru_cache(maxsize=1)
def injections() -> list[str]:
    """Speeches to a judge; in the file, a blank line stands between them."""
    return INJECTIONS.read_text(encoding="utf-8").strip().split("\n\n")


def said(debate: Debate, side: Side) -> int:
    """How many words a side says."""
    return _words(turn.text for turn in debate.of(side))


def _words(texts: Iterable[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _beside(base: Debate, side: Side, texts: Sequence[str], *identity: object) -> Debate:
    """`base` with other texts for one side, under names of its own for everybody but the judge."""
    changed = iter(texts)
    turns = (
        replace(turn, text=text, words=len(text.split()))
        for turn in base.turns
        for text in [next(changed) if turn.side == side else turn.text]
    )
    made = _renamed(replace(base, turns=tuple(turns)), content_id(*identity, side, base.id))
    return shown_as(made, Transcript.of(base).names)


def shown_as(debate: Debate, names: Mapping[Side, str]) -> Debate:
    """The debate with a seed from which just these neutral names are drawn.

    Names depend on which of them are mentioned, so the search goes over a debate that mentions the same ones. Where
    nearly all are, there may be no such seed, and the debate keeps names of its own.
    """
    text = "\n".join((debate.topic.motion, debate.topic.info, *(turn.text for turn in debate.turns))).casefold()
    mentions = " ".join(name for name in NAMES if name.casefold() in text)
    short = replace(debate, turns=(replace(debate.turns[0], text=mentions),))
    for seed in range(MOST_SEEDS):
        if Transcript.of(_seeded(short, seed)).names == names:
            return _seeded(debate, seed)
    return debate


def _seeded(debate: Debate, seed: int) -> Debate:
    return replace(debate, match=replace(debate.match, seed=seed))


def _numbered(debate: Debate, place: int) -> Debate:
    return replace(debate, match=replace(debate.match, match=place))


def _renamed(debate: Debate, debate_id: str) -> Debate:
    """The debate under another id, in every row."""
    turns = tuple(replace(turn, debate_id=debate_id) for turn in debate.turns)
    return replace(debate, match=replace(debate.match, debate_id=debate_id), turns=turns)
