"""How the 59 test topics were drawn, so that anyone can draw them again.

Stratified by theme, then by question type within a theme, with whole clusters: all wordings of one proposition
stand on one side. Seats are shared out by largest remainder; which clusters fill them is decided by a hash of
the seed and the cluster, never by a random generator, so that the draw is the same on any machine.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from topics.topic import Topic

SEED = 20261120
N_TEST = 59


def draw(topics: Sequence[Topic], n_test: int = N_TEST, seed: int = SEED) -> dict[str, str]:
    """`train` or `test` by topic id; exactly `n_test` are `test`."""
    by_theme: dict[str, list[Topic]] = defaultdict(list)
    for topic in topics:
        by_theme[topic.theme].append(topic)
    chosen: set[str] = set()
    seats = shares({theme: len(of) for theme, of in by_theme.items()}, n_test, seed)
    for theme in sorted(by_theme):
        chosen |= _draw_theme(by_theme[theme], seats[theme], seed)
    if len(chosen) != n_test:
        raise ValueError(f"{len(chosen)} test topics drawn, {n_test} wanted: some theme holds only large clusters")
    return {t.topic_id: "test" if t.topic_id in chosen else "train" for t in topics}


def _draw_theme(topics: list[Topic], seats: int, seed: int) -> set[str]:
    clusters: dict[str, list[Topic]] = defaultdict(list)
    for topic in topics:
        clusters[topic.cluster].append(topic)
    order = sorted(clusters, key=lambda cluster: _hash(seed, cluster))
    left = shares(Counter(t.question_type for t in topics), seats, seed)
    chosen: list[Topic] = []
    for strict in (True, False):  # first within each question type's share, then whatever fills the theme
        for cluster in order:
            members = clusters[cluster]
            need = Counter(t.question_type for t in members)
            fits = len(chosen) + len(members) <= seats and members[0] not in chosen
            if fits and (not strict or all(left[kind] >= n for kind, n in need.items())):
                chosen += members
                for kind, n in need.items():
                    left[kind] -= n
    return {topic.topic_id for topic in chosen}


def shares(sizes: Mapping[str, int], seats: int, seed: int) -> dict[str, int]:
    """Share out `seats` in proportion to `sizes` by largest remainder; equal remainders by hash."""
    total = sum(sizes.values())
    exact = {name: seats * size / total for name, size in sizes.items()}
    given = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (given[name] - exact[name], _hash(seed, name)))
    for name in by_remainder[: seats - sum(given.values())]:
        given[name] += 1
    return given


def _hash(seed: int, name: str) -> bytes:
    return blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
