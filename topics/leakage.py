"""Lexical overlap between motions: word n-gram Jaccard, exact.

0.30 over word 3-grams is the bound above which two motions count as near-duplicates; none may stand on
different sides of the split.
"""

import re
from collections.abc import Iterator, Sequence

from topics.topic import Topic

NEAR_DUPLICATE = 0.30


def ngrams(text: str, n: int = 3) -> frozenset[tuple[str, ...]]:
    """The set of word n-grams of a text, lower-case; of a shorter text, the one n-gram that it is."""
    words = re.findall(r"\w+(?:['’]\w+)*", text.lower())
    if len(words) < n:
        return frozenset([tuple(words)] if words else [])
    return frozenset(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """|a and b| / |a or b|, in [0, 1]; 0 where both are empty."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def overlaps(
    left: Sequence[Topic], right: Sequence[Topic], bound: float = NEAR_DUPLICATE
) -> Iterator[tuple[Topic, Topic, float]]:
    """Every pair, one motion from each list, whose 3-gram Jaccard reaches `bound`."""
    right_grams = [(topic, ngrams(topic.motion)) for topic in right]
    for a in left:
        grams = ngrams(a.motion)
        for b, other in right_grams:
            if (overlap := jaccard(grams, other)) >= bound:
                yield a, b, overlap
