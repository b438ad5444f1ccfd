"""The schedule: which contestants meet on which topic, on which sides.

By default every pair meets on every topic on both sides. With `matches` per topic the same list of ordered
pairs is dealt out in rounds, so that each pair, and each side of it, is played equally often to within one. A
pair's two sides follow each other, and topics come in a drawn order, so that any first part of a schedule
(`--limit`) is nearly balanced too. Everything is drawn from the seed by hash.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

from runs.records import Match, Opener, content_id, content_seed
from topics import Side
from topics.errors import InputError


def schedule(
    topic_ids: Sequence[str],
    contestants: Sequence[str],
    *,
    seed: int,
    matches: int | None = None,
    replicates: int = 1,
    opener: Opener = "for",
) -> Iterator[Match]:
    """The matches of a run, in order.

    `matches` is the number per topic, at most n (n - 1) for n contestants; None means all of them.
    """
    pairs = sorted(combinations(sorted(contestants), 2), key=lambda pair: content_seed(seed, "pair", *pair))
    ordered = [sides for a, b in pairs for sides in ((a, b), (b, a))]
    each = len(ordered) if matches is None else matches
    if not 1 <= each <= len(ordered):
        raise InputError(
            f"--matches {each}: {len(contestants)} contestants allow 1 to {len(ordered)} a topic; see --replicates"
        )
    topic_order = sorted(topic_ids, key=lambda topic_id: content_seed(seed, "topic", topic_id))
    step = each if each % 2 else 2  # rounds of one pair's two sides; an odd number is played topic by topic
    number = 0
    for replicate in range(replicates):
        for round_ in range(0, each, step):
            for place, topic_id in enumerate(topic_order, replicate * len(topic_order)):
                for k in range(round_, round_ + step):
                    occurrence, at = _deal(place, k, each, len(ordered))
                    opens = _opens(opener, occurrence, seed, pairs[at // 2])
                    yield _match(number, topic_id, ordered[at], opens, replicate, seed)
                    number += 1


def _deal(place: int, k: int, each: int, pairs: int) -> tuple[int, int]:
    """Which ordered pair is the kth match of the topic in `place`, and how often it was dealt before."""
    if each == pairs:
        return place, (2 * place + k) % pairs  # everyone, but each topic begins with another pair
    return divmod(place * each + k, pairs)


def _opens(opener: Opener, occurrence: int, seed: int, pair: tuple[str, str]) -> Side:
    """Who opens a pair's nth meeting; when alternating, each side of each pair opens every other time."""
    if opener == "alternate":
        return "for" if (occurrence + content_seed(seed, "opener", *pair)) % 2 == 0 else "against"
    return opener


def _match(number: int, topic_id: str, sides: tuple[str, str], opener: Side, replicate: int, seed: int) -> Match:
    identity = (seed, topic_id, *sides, opener, replicate)
    return Match(
        debate_id=content_id("debate", *identity),
        match=number,
        topic_id=topic_id,
        for_contestant=sides[0],
        against_contestant=sides[1],
        opener=opener,
        replicate=replicate,
        seed=content_seed("debate", *identity),
    )
