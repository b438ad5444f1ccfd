"""How sure a number is, when the topic is the unit.

Verdicts on one topic resemble each other, so ten verdicts on one motion say less than one verdict on each of
ten. Every interval here therefore asks: what would the number have been with other topics?

    weights_RT = topic_weights(topics, resamples, seed)
    resampled_RQ = (weights_RT @ part_TQ) / (weights_RT @ whole_TQ)
    error_Q = standard_error(resampled_RQ, topics_Q)
    low_Q, high_Q = t_interval(value_Q, error_Q, topics_Q)

Three choices depart from the textbook, each for what it measured over some thousands of simulated runs (10 to
259 topics, 6 to 30 verdicts on each, strength varying by topic; nominal 95 %):

1. A resample reweights topics instead of drawing them with replacement: independent exponential weights, scaled
   to mean one (the Bayesian bootstrap). No topic's weight is ever zero, so what can be fitted once can be fitted
   in every resample. Drawn topics lost the fit in more than 2.5 % of the resamples of up to 81 % of small runs
   (10 to 30 topics, 6 verdicts on each), which then had no interval to show, and covered no better elsewhere.
2. The interval is value +- t(G-1) x standard error with any number of topics G. It held the truth in 94-99 % of
   cases; percentiles of the same resamples did in 87-94 %.
3. A rate's interval is Wilson's, with the number of verdicts that the standard error is worth in place of their
   count. It stays within [0, 1] and has a width at rates of 0 and 1, where resampling has none: 94-98 %, where
   value +- t x error held 91-100 % and percentiles 86-99 %.

Array names end in their dimensions: R resamples, T topics, Q quantities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval; null where it does not exist or cannot be defended."""

    value: float | None
    low: float | None
    high: float | None


LEVEL = 0.95
"""Of every interval."""

MAY_FAIL = 0.025
"""The share of resamples that may lack a value; it is the tail that one bound of an interval cuts off."""

NO_WIDTH = 1e-6
"""A standard error up to this, in the quantity's unit, is rounding: every topic says the same."""


def topic_weights(topics: int, resamples: int, seed: int) -> Array:
    """Weights [R, T], positive, of mean one in each resample; the same for the same arguments.

    Source: Rubin, The Bayesian Bootstrap, Annals of Statistics 9 (1981), with T times his Dirichlet weights.
    """
    draws_RT = np.random.Generator(np.random.PCG64(seed)).standard_exponential((resamples, topics))
    return draws_RT / draws_RT.mean(axis=1, keepdims=True) if topics else draws_RT


def standard_error(resampled_RQ: Array, topics_Q: NDArray[np.int64]) -> Array:
    """Standard error of each quantity, from its values in the resamples and the number of topics it rests on.

    sqrt((G+1)/(G-1)) makes good that the resamples of a mean over G topics have variance s^2/(G+1), s^2 with the
    divisor G, where the mean's own is s^2/(G-1).

    Values that are not finite are left out. NaN where more than `MAY_FAIL` of them are, since their place within
    the distribution is unknown, and where there are fewer than two topics or two resamples.
    """
    finite_RQ = np.isfinite(resampled_RQ)
    kept_Q = finite_RQ.sum(axis=0)
    sound_Q = (topics_Q > 1) & (kept_Q > 1) & (kept_Q >= (1 - MAY_FAIL) * len(resampled_RQ))
    error_Q = np.full(len(topics_Q), np.nan)
    spread = np.std(resampled_RQ[:, sound_Q], axis=0, ddof=1, where=finite_RQ[:, sound_Q])
    error_Q[sound_Q] = spread * np.sqrt((topics_Q[sound_Q] + 1) / (topics_Q[sound_Q] - 1))
    return error_Q


def t_interval(value_Q: Array, error_Q: Array, topics_Q: NDArray[np.int64]) -> tuple[Array, Array]:
    """Bounds value -+ t(G-1) x error; NaN without an error, and where every topic says the same (`NO_WIDTH`)."""
    half_Q = np.where(error_Q > NO_WIDTH, t_quantile(topics_Q) * error_Q, np.nan)
    return value_Q - half_Q, value_Q + half_Q


def wilson(rate_Q: Array, error_Q: Array, topics_Q: NDArray[np.int64], counts_Q: Array) -> tuple[Array, Array]:
    """Bounds of rates in [0, 1]; NaN where the rate or its error is, as with one topic.

    n is the number of independent outcomes that would have the same standard error, rate (1 - rate) / error^2,
    at most `counts_Q`, the outcomes there are. At a rate of 0 or 1, where the error is 0, n is the number of
    topics: nobody knows how alike outcomes on a topic are, so each topic counts as one.

    Sources: Wilson, JASA 22 (1927); the effective n and t in place of the normal quantile, Korn and Graubard,
    Survey Methodology 24 (1998).
    """
    variance_Q = rate_Q * (1 - rate_Q)
    with np.errstate(divide="ignore", invalid="ignore"):
        n_Q = np.where(variance_Q > 0, np.minimum(variance_Q / error_Q**2, counts_Q), topics_Q + 0 * error_Q)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_Q = t_quantile(topics_Q)
        shrink_Q = 1 + t_Q**2 / n_Q
        centre_Q = (rate_Q + t_Q**2 / (2 * n_Q)) / shrink_Q
        half_Q = t_Q * np.sqrt(variance_Q / n_Q + t_Q**2 / (4 * n_Q**2)) / shrink_Q
    # Rounding may leave a bound 1e-17 on the wrong side of a rate of 0 or 1.
    return np.clip(centre_Q - half_Q, 0, rate_Q), np.clip(centre_Q + half_Q, rate_Q, 1)


def t_quantile(topics_Q: NDArray[np.int64]) -> Array:
    """The upper 2.5 % point of Student's t with G-1 degrees of freedom; NaN with fewer than two topics."""
    from scipy.special import stdtrit  # here, because importing scipy takes longer than rating a run

    freedom_Q = np.where(topics_Q > 1, topics_Q - 1.0, math.nan)
    return np.asarray(stdtrit(freedom_Q, (1 + LEVEL) / 2), dtype=np.float64)


def rates(part_TQ: Array, whole_TQ: Array, weights_RT: Array) -> tuple[Array, Array, Array]:
    """Rates `part / whole` over all topics, and the bounds of their intervals; NaN where there is none."""
    topics_Q = (whole_TQ > 0).sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0, where there is nothing to have a rate of, is NaN
        rate_Q = part_TQ.sum(axis=0) / whole_TQ.sum(axis=0)
        resampled_RQ = (weights_RT @ part_TQ) / (weights_RT @ whole_TQ)
    error_Q = standard_error(resampled_RQ, topics_Q)
    return rate_Q, *wilson(rate_Q, error_Q, topics_Q, whole_TQ.sum(axis=0))


def rate(scores: Sequence[float], topics: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The mean of `scores` in [0, 1], each of a topic, with an interval over topics; the order does not matter."""
    part_TQ, whole_TQ = _by_topic(scores, topics)
    return _estimate(rates(part_TQ, whole_TQ, topic_weights(len(part_TQ), resamples, seed)))


def mean(values: Sequence[float], topics: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The mean of any numbers, as `rate` gives it of scores: its interval may leave [0, 1]."""
    part_TQ, whole_TQ = _by_topic(values, topics)
    weights_RT, topics_Q = topic_weights(len(part_TQ), resamples, seed), np.array([len(part_TQ)])
    value_Q = part_TQ.sum(axis=0) / whole_TQ.sum(axis=0)
    error_Q = standard_error((weights_RT @ part_TQ) / (weights_RT @ whole_TQ), topics_Q)
    return _estimate((value_Q, *t_interval(value_Q, error_Q, topics_Q)))


def _by_topic(values: Sequence[float], topics: Sequence[str]) -> tuple[Array, Array]:
    """Sums and counts of one quantity by topic, [T, 1] each."""
    numbers = {topic: number for number, topic in enumerate(sorted(set(topics)))}
    place = [numbers[topic] for topic in topics]
    part_TQ, whole_TQ = (np.bincount(place, weights)[:, None].astype(np.float64) for weights in (values, None))
    return part_TQ, whole_TQ


def _estimate(found: tuple[Array, Array, Array]) -> Estimate:
    """One quantity's value and bounds."""
    value, low, high = (None if math.isnan(of_Q[0]) else float(of_Q[0]) for of_Q in found)
    return Estimate(value=value, low=low, high=high)
