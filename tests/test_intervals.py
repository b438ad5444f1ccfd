"""Intervals: published ones, and whether they hold the truth as often as they say."""

import math

import numpy as np
import polars as pl
import pytest

from runs.bradley_terry import fit
from runs.ratings import MEAN, POINTS, leaderboard
from runs.statistics import mean, standard_error, t_interval, topic_weights, wilson


def shifted_league(rng: np.random.Generator, strength: np.ndarray, topics: int, noise: float) -> pl.DataFrame:
    """Every contestant against every other on both sides of every topic; each topic shifts strengths and side."""
    shape = (topics, len(strength), len(strength))
    here = strength + rng.normal(0, noise, (topics, len(strength)))
    side = SIDE + rng.normal(0, noise, topics)
    logit = here[:, :, None] - here[:, None, :] + side[:, None, None]
    topic, on_for, on_against = (index.ravel() for index in np.indices(shape))
    winner = np.where(rng.random(shape) < 1 / (1 + np.exp(-logit)), "for", "against").ravel()
    return pl.DataFrame({"T": topic, "F": on_for, "A": on_against, "winner": winner}).filter(pl.col("F") != pl.col("A"))


def marginal(strength: np.ndarray, noise: float) -> np.ndarray:
    """The truth that a fit estimates, in points: ratings, then the side term.

    Averaged over topics the odds are milder than at the average topic, so the planted strengths are not what many
    topics converge to. The fit to exact expected scores is: the three shifts add up to one normal shift of each
    logit, over which Gauss-Hermite quadrature integrates.
    """
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    logit = strength[:, None] - strength[None, :] + SIDE
    expected = (1 / (1 + np.exp(-(logit[..., None] + math.sqrt(3) * noise * node)))) @ weight / weight.sum()
    count = 1 - np.eye(len(strength))
    limit = fit((expected * count)[None], count[None])
    return np.append(MEAN + POINTS * limit.strength_RC[0], POINTS * limit.side_R[0])


SIDE = 0.3


def coverage(seed: int, repetitions: int = 200, topics: int = 60, noise: float = 0.8, unit: str = "T") -> float:
    """The share of 95 % intervals, over all ratings and the side term, that hold the planted truth.

    `unit` is what the intervals take for the topic; `debate_id` is the mistake of resampling verdicts.
    """
    rng = np.random.default_rng(seed)
    strength = np.linspace(-1, 1, 6)
    truth = marginal(strength, noise)
    held = []
    for repetition in range(repetitions):
        rows = shifted_league(rng, strength, topics, noise).with_row_index("debate_id")
        debates = rows.rename({"F": "for_contestant", "A": "against_contestant"})
        debates = debates.with_columns(status=pl.lit("complete"), topic_id=pl.col(unit))
        board = leaderboard(debates, rows.with_columns(judge=pl.lit("rules")), resamples=500, seed=repetition)
        frame = board.frame.sort("contestant")
        low, high = (np.append(frame[bound].to_numpy(), getattr(board.side, bound)) for bound in ("low", "high"))
        held.append((low <= truth) & (truth <= high))
    return float(np.mean(held))


def test_intervals_hold_the_planted_truth() -> None:
    assert 0.92 <= coverage(seed=1) <= 0.98


def test_resampling_verdicts_instead_of_topics_would_not() -> None:
    assert coverage(seed=1, repetitions=60, unit="debate_id") < 0.92


def test_wilson_where_topics_are_independent_is_the_published_interval() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263 is 0.2553 to 0.3662."""
    many, rate_ = np.array([10**9]), np.array([81 / 263])
    error = np.sqrt(rate_ * (1 - rate_) / 263)
    low, high = wilson(rate_, error, many, np.array([263.0]))
    assert (low[0], high[0]) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_the_standard_error_of_a_mean_of_topics_is_the_textbook_one() -> None:
    value = np.random.default_rng(0).normal(size=(12, 1))
    weights = topic_weights(12, 100_000, seed=0)
    assert weights.mean(axis=1) == pytest.approx(1)
    error = standard_error(weights @ value / 12, np.array([12]))
    assert error == pytest.approx(value.std(ddof=1) / math.sqrt(12), rel=0.01)
    low, high = t_interval(np.zeros(1), np.ones(1), np.array([12]))
    assert (low[0], high[0]) == pytest.approx((-2.2010, 2.2010), abs=1e-4)  # t(11), upper 2.5 %, any table


@pytest.mark.parametrize(("lost", "defensible"), [(0, True), (25, True), (26, False)])
def test_a_bound_is_null_where_too_many_resamples_are_lost(lost: int, defensible: bool) -> None:
    resampled = np.random.default_rng(0).normal(size=(1000, 1))
    resampled[:lost] = np.nan
    assert np.isfinite(standard_error(resampled, np.array([50])))[0] == defensible


def test_a_mean_and_its_interval_over_topics() -> None:
    found = mean([0.0, 0.2, 0.3, 0.3, -0.1], ["a", "a", "b", "b", "c"])
    assert found.value == pytest.approx(0.14) and found.low is not None and found.high is not None
    assert found.low < 0.14 < found.high
    shifted = mean([1.0, 1.2, 1.3, 1.3, 0.9], ["a", "a", "b", "b", "c"])
    assert (shifted.low, shifted.high) == (pytest.approx(found.low + 1), pytest.approx(found.high + 1))
    assert mean([0.1, 0.3], ["a", "a"]).low is None
