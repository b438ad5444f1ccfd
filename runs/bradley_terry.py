"""The Bradley-Terry fit with a side term: many data sets at once, by Newton's method on win matrices.

    found = fit(score_RFA, count_RFA)        # found.strength_RC, found.side_R, in logits

    logit P(FOR wins) = theta_for - theta_against + gamma

Two things come before the iterations. `reach` says which contestants are linked by wins, `can_grow` whether the
side term is bounded: together they decide exactly whether a maximum-likelihood estimate exists, so that what is
fitted converges, and what does not exist is never a large number.

Array names end in their dimensions: R data sets, C contestants, F the contestant on FOR, A the one on AGAINST, P
parameters (a strength for each contestant, then gamma).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runs.statistics import Array

Mask = NDArray[np.bool_]

MOST_STEPS = 100
"""Of Newton's method; ten are the rule."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Maximum-likelihood estimates of R data sets, in logits; NaN where there is none or it was not found."""

    strength_RC: Array
    """Of mean 0."""
    side_R: Array
    """gamma; 0 in a fit without side term."""
    exists_R: Mask
    """The data have an estimate."""
    converged_R: Mask
    """It exists, and no parameter's gradient is above 1e-11 of the data set's debates."""


def fit(score_RFA: Array, count_RFA: Array, *, side: bool = True, start: Fit | None = None) -> Fit:
    """Fit R win matrices at once, each [C, C]: points of the row on FOR against the column, and debates counted.

    Counts may be fractional: they are weights. `side=False` is the plain Bradley-Terry model. `start` is a fit of
    one data set like these, to begin from.
    """
    resamples, contestants = len(score_RFA), score_RFA.shape[-1]
    exists_R = _exists(score_RFA, count_RFA, side)
    x_RP = np.full((resamples, contestants + 1), np.nan)
    x_RP[exists_R] = 0.0 if start is None else np.append(start.strength_RC[0], start.side_R[0])
    converged_R = np.zeros(resamples, dtype=bool)
    # Blocks bound the memory, and small ones stay in the processor's cache.
    block = max(1, 2**16 // contestants**2) if contestants else 1
    for rows in np.array_split(np.flatnonzero(exists_R), max(1, -(-int(exists_R.sum()) // block))):
        x_RP[rows], converged_R[rows] = _newton(x_RP[rows], score_RFA[rows], count_RFA[rows], side)
    x_RP[~converged_R] = np.nan
    return Fit(strength_RC=x_RP[:, :-1], side_R=x_RP[:, -1], exists_R=exists_R, converged_R=converged_R)


def _exists(score_RFA: Array, count_RFA: Array, side: bool) -> Mask:
    """Whether each data set has an estimate, which depends only on who won against whom on which side."""
    support = np.stack([score_RFA > 0, score_RFA < count_RFA], axis=1)
    bits = np.packbits(support.reshape(len(support), math.prod(support.shape[1:])), axis=1)
    _, first, which = np.unique(bits, axis=0, return_index=True, return_inverse=True)

    def exists(score_FA: Array, count_FA: Array) -> bool:
        bounded = not side or not any(can_grow(score_FA, count_FA, sign) for sign in (+1, -1))
        return bounded and bool(reach(score_FA, count_FA).all())

    return np.array([exists(score_RFA[r], count_RFA[r]) for r in first], dtype=bool)[which.ravel()]


def _newton(x_RP: Array, score_RFA: Array, count_RFA: Array, side: bool) -> tuple[Array, Mask]:
    """Newton's method with step halving, on all data sets until the last has converged."""
    x_RP = x_RP.copy()
    total_R = count_RFA.sum(axis=(1, 2))
    active = np.arange(len(x_RP))
    for _ in range(MOST_STEPS):
        gradient, hessian = _derivatives(x_RP[active], score_RFA[active], count_RFA[active], side)
        far = np.abs(gradient).max(axis=1) > 1e-11 * total_R[active]
        active = active[far]
        if not len(active):
            break
        step = np.linalg.solve(hessian[far], gradient[far, :, None])[..., 0]
        x_RP[active] = _uphill(x_RP[active], step, score_RFA[active], count_RFA[active])
    converged_R = np.ones(len(x_RP), dtype=bool)
    converged_R[active] = False
    return x_RP, converged_R


def _logits(x_RP: Array) -> Array:
    strength_RC = x_RP[:, :-1]
    return strength_RC[:, :, None] - strength_RC[:, None, :] + x_RP[:, -1, None, None]


def _derivatives(x_RP: Array, score_RFA: Array, count_RFA: Array, side: bool) -> tuple[Array, Array]:
    """Gradient [R, P] of the log-likelihood, and minus its second derivatives [R, P, P], made invertible."""
    p_RFA = 1 / (1 + np.exp(-_logits(x_RP)))
    surplus_RFA = score_RFA - count_RFA * p_RFA
    variance_RFA = (score_RFA - surplus_RFA) * (1 - p_RFA)
    surplus_RF, variance_RF, variance_RA = surplus_RFA.sum(2), variance_RFA.sum(2), variance_RFA.sum(1)
    contestants = score_RFA.shape[-1]
    gradient_RP = np.empty_like(x_RP)
    gradient_RP[:, :-1] = surplus_RF - surplus_RFA.sum(1)
    gradient_RP[:, -1] = surplus_RF.sum(1) if side else 0
    hessian = np.empty((*x_RP.shape, x_RP.shape[-1]))
    # Only differences of strengths matter. Curvature along their mean, which the gradient never has a part in,
    # makes the matrix invertible and keeps the mean at 0.
    mean_R = variance_RF.sum(1) / contestants**2
    hessian[:, :-1, :-1] = mean_R[:, None, None] - variance_RFA - variance_RFA.transpose(0, 2, 1)
    diagonal = np.arange(contestants)
    hessian[:, diagonal, diagonal] += variance_RF + variance_RA
    hessian[:, :-1, -1] = hessian[:, -1, :-1] = variance_RF - variance_RA if side else 0
    hessian[:, -1, -1] = variance_RF.sum(1) if side else 1
    # A hair on the diagonal bends the path, not the goal, and keeps one flat data set from failing them all.
    diagonal = np.arange(contestants + 1)
    hessian[:, diagonal, diagonal] += 1e-12 * mean_R[:, None] + 1e-300
    return gradient_RP, hessian


def _uphill(x_RP: Array, step_RP: Array, score_RFA: Array, count_RFA: Array) -> Array:
    """x + step, the step halved where it would lower the likelihood."""
    # Near the top both are equal up to rounding, which grows with the debates added up: that is not worse.
    least_R = _log_likelihood(x_RP, score_RFA, count_RFA) - 1e-12 * count_RFA.sum(axis=(1, 2))
    for _ in range(40):
        worse_R = _log_likelihood(x_RP + step_RP, score_RFA, count_RFA) < least_R
        if not worse_R.any():
            break
        step_RP = np.where(worse_R[:, None], step_RP / 2, step_RP)
    return x_RP + step_RP


def _log_likelihood(x_RP: Array, score_RFA: Array, count_RFA: Array) -> Array:
    logit_RFA = _logits(x_RP)
    value_RFA = score_RFA * logit_RFA - count_RFA * np.logaddexp(0, logit_RFA)
    return np.asarray(value_RFA.sum(axis=(1, 2)))


def reach(score_FA: Array, count_FA: Array) -> Mask:
    """[C, C]: a chain of wins and ties leads from one contestant to the other (to oneself, always)."""
    reach_CC: Mask = (score_FA > 0) | (score_FA < count_FA).T | np.eye(len(score_FA), dtype=bool)
    for via in range(len(reach_CC)):
        reach_CC |= reach_CC[:, via, None] & reach_CC[None, via]
    return reach_CC


def can_grow(score_FA: Array, count_FA: Array, sign: int) -> bool:
    """Whether gamma can go to infinity (`sign` +1) or minus infinity (-1) without a result speaking against it.

    It can if strengths can move along, at some rate d, so that no result becomes less likely: d_f - d_a + sign >= 0
    for each pair of which FOR won a debate, <= 0 for each of which AGAINST did (Albert and Anderson, Biometrika
    71, 1984). These are difference constraints, met if and only if no chain of wins that closes has a negative
    sum of +sign for every win on FOR and -sign for every win on AGAINST: shortest paths, by Floyd and Warshall.
    """
    on_for = np.where(score_FA > 0, float(sign), np.inf)
    on_against = np.where(score_FA < count_FA, -float(sign), np.inf).T
    distance_CC = np.minimum(on_for, on_against)
    for via in range(len(distance_CC)):
        distance_CC = np.minimum(distance_CC, distance_CC[:, via, None] + distance_CC[None, via])
    return bool((np.diag(distance_CC) >= 0).all())
