"""The schedule: complete or balanced, the same anywhere, and nearly balanced in every first part."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena.schedule import schedule
from topics.errors import InputError

TOPICS = [f"topic-{i}" for i in range(20)]
NAMES = ["ash", "birch", "cedar", "dogwood"]


def test_by_default_every_pair_meets_on_every_topic_on_both_sides() -> None:
    matches = list(schedule(TOPICS, NAMES, seed=1))
    met = Counter((m.topic_id, m.for_contestant, m.against_contestant) for m in matches)
    assert met == Counter({(t, a, b): 1 for t in TOPICS for a, b in permutations(NAMES, 2)})
    assert [m.match for m in matches] == list(range(len(matches)))
    assert len({m.debate_id for m in matches}) == len({m.seed for m in matches}) == len(matches)


def test_it_depends_on_content_alone() -> None:
    one = list(schedule(TOPICS, NAMES, seed=1, matches=3))
    assert one == list(schedule(list(reversed(TOPICS)), list(reversed(NAMES)), seed=1, matches=3))
    other = list(schedule(TOPICS, NAMES, seed=2, matches=3))
    assert not {m.debate_id for m in one} & {m.debate_id for m in other}


@given(st.integers(2, 6), st.integers(1, 40), st.data())
def test_a_sample_is_balanced_in_pairs_and_sides(n: int, n_topics: int, data: st.DataObject) -> None:
    names = [f"n{i}" for i in range(n)]
    each = data.draw(st.integers(1, n * (n - 1)))
    matches = list(schedule([f"t{i}" for i in range(n_topics)], names, seed=data.draw(st.integers()), matches=each))
    assert set(Counter(m.topic_id for m in matches).values()) == {each}
    met = Counter(dict.fromkeys(permutations(names, 2), 0))
    met.update((m.for_contestant, m.against_contestant) for m in matches)
    assert max(met.values()) - min(met.values()) <= 1
    assert len({(m.topic_id, m.for_contestant, m.against_contestant) for m in matches}) == len(matches)


@pytest.mark.parametrize(("each", "off"), [(None, 0), (2, 0), (3, 1)])
def test_the_first_part_is_nearly_balanced(each: int | None, off: int) -> None:
    first = list(schedule(TOPICS, NAMES, seed=1, matches=each))[:24]
    sides = Counter(m.for_contestant for m in first)
    other = Counter(m.against_contestant for m in first)
    assert all(abs(sides[name] - other[name]) <= off for name in NAMES)
    assert len({m.topic_id for m in first}) >= 8
    assert len({frozenset((m.for_contestant, m.against_contestant)) for m in first}) == 6


@pytest.mark.parametrize("each", [None, 1, 2, 3, 6])
def test_alternating_openers_are_balanced_for_every_pair_and_side(each: int | None) -> None:
    matches = list(schedule(TOPICS[:12], NAMES, seed=3, matches=each, opener="alternate", replicates=2))
    for pair in permutations(NAMES, 2):
        opened = Counter(m.opener for m in matches if (m.for_contestant, m.against_contestant) == pair)
        assert abs(opened["for"] - opened["against"]) <= 1


def test_replicates_are_different_debates() -> None:
    matches = list(schedule(TOPICS[:2], NAMES[:2], seed=1, replicates=3))
    assert len({m.seed for m in matches}) == 12
    assert Counter(m.replicate for m in matches) == {0: 4, 1: 4, 2: 4}


def test_more_matches_than_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="allow 1 to 12 a topic"):
        list(schedule(TOPICS, NAMES, seed=1, matches=13))
