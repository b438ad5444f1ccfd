"""Debate rewards: by hand, and the laws of a debate's two sides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_judges import FULL, TOPIC

from judges.rubric import weigh
from topics import Side, opposite
from training.debate_rewards import answered, audit, budget, gain, margin
from training.rewards import Items, Rewards

SIDES: list[Side] = ["for", "against"]


def value(items: Items | None) -> float:
    assert items is not None
    return weigh(items)


@pytest.mark.parametrize(
    ("given_", "for_", "against"), [(1.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (0.0, 0.5, 0.5), (0.5, 0.75, 0.25)]
)
def test_a_margin_by_hand(given_: float, for_: float, against: float) -> None:
    assert (value(margin(given_, "for")), value(margin(given_, "against"))) == (for_, against)


def test_a_gain_by_hand() -> None:
    assert value(gain(-1.0, 1.0, "for")) == 1.0 and value(gain(-1.0, 1.0, "against")) == 0.0
    assert value(gain(0.0, 0.5, "for")) == 0.625
    assert value(gain(0.4, 0.4, "against")) == 0.5


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_what_one_side_has_the_other_lacks(before: float, after: float) -> None:
    assert value(margin(after, "for")) + value(margin(after, "against")) == pytest.approx(1)
    assert value(gain(before, after, "for")) + value(gain(before, after, "against")) == pytest.approx(1)
    assert value(gain(before, after, "for")) == pytest.approx(value(gain(after, before, "against")))


def test_no_verdict_is_no_reward() -> None:
    assert margin(None, "for") is None
    assert gain(None, 0.5, "for") is None and gain(0.5, None, "for") is None
    with pytest.raises(ValueError, match="outside"):
        Rewards(weights={"margin": 1.0}).compose({"margin": margin(1.5, "for")})


RAILS = "My opponent says that rails cannot follow changing demand; yet demand follows rails."
BOTH = FULL["against"] + " Buses reach distant suburbs sooner, since roads lead everywhere."


@pytest.mark.parametrize(
    ("heard", "text", "share"),
    [
        (FULL["against"], RAILS, 1.0),
        (FULL["against"], "Trams are quiet.", 0.0),
        (BOTH, RAILS, 0.5),
        (BOTH, RAILS + " And buses do not reach distant suburbs sooner.", 1.0),
        ("Let us begin.", "Trams are quiet.", 1.0),
        ("", "Trams are quiet.", 1.0),
    ],
)
def test_points_answered_by_hand(heard: str, text: str, share: float) -> None:
    assert value(answered(TOPIC, "for", heard, text)) == share


def test_own_points_are_not_the_opponents() -> None:
    assert value(answered(TOPIC, "against", FULL["for"], RAILS)) == 0.0
    assert value(answered(TOPIC, "against", FULL["for"], FULL["for"])) == 1.0


@pytest.mark.parametrize("side", SIDES)
def test_a_topic_without_points_cannot_be_read_so(side: Side) -> None:
    bare = TOPIC.model_copy(update={"points": {side: TOPIC.points[side]}})
    with pytest.raises(ValueError, match="no points"):
        answered(bare, side, "x", "y")
    assert value(answered(bare, opposite(side), "x", "y")) == 1.0


def test_a_budget_is_kept_or_missed_by_so_much() -> None:
    assert [value(budget("tram " * n, 100)) for n in (0, 1, 100, 110, 125, 300)] == pytest.approx([0, 1, 1, 0.6, 0, 0])


WEIGHTS = {"fabricated_evidence": 3.0, "coercion": 1.0}


@pytest.mark.parametrize(
    ("hits", "worth"),
    [
        ([], 1.0),
        ([("coercion", 3)], 0.75),
        ([("fabricated_evidence", 3)], 0.25),
        ([("coercion", 3), ("fabricated_evidence", 2), ("fabricated_evidence", 1)], (3 * (1 / 3) + 0) / 4),
        ([("obfuscation", 3)], 1.0),
        ([("coercion", 0)], 1.0),
    ],
)
def test_audit_labels_are_faults_by_their_worst_hit(hits: list[tuple[str, float]], worth: float) -> None:
    items = audit(hits, WEIGHTS)
    assert value(items) == pytest.approx(worth)
    assert items is not None and [scored.item.text for scored in items] == list(WEIGHTS)
    assert not any(scored.item.positive for scored in items)


def test_an_audit_that_failed_is_none_and_a_severity_out_of_range_an_error() -> None:
    assert audit(None, WEIGHTS) is None
    for wrong in (4, -1, float("nan")):
        with pytest.raises(ValueError, match="severity"):
            audit([("obfuscation", wrong)], WEIGHTS)
