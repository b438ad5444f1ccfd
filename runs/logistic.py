"""Logistic regression on verdicts, for many weightings of topics at once.

    x_P = fit(score_D, design_DP)                                     # the estimate; None where it was not found
    x_RP = refit(score_D, design_DP, topic_D, weights_RT, x_P)        # the same in each resample; NaN where not found

    logit P(score = 1) = design . x

A resample changes what topics weigh and nothing else, so its estimate lies close to that of the data. The first step of
all resamples starts from there: first and second derivatives are added up by topic once, and those of a resample are a
row of a matrix product. The steps after it are Newton's own, on blocks of resamples that share the processors; two are
the rule.

How this departs from the textbook's iteratively reweighted least squares:

1. A step is at most four logits long, and one that went too far all the same is taken back by half. That is seen
   without the likelihood, whose logarithms cost as much as all the rest: the slope along the step has turned round, to
   more than half of what it was.
2. It ends by Newton's decrement, g' H^-1 g: the squared distance to the maximum in standard errors, whatever the scale
   of a column. The step that showed it to be small is taken all the same, and leaves a small part of it.
3. Resamples are computed in single precision, which is twice as fast and errs by 3e-7 of a logit where a standard
   error is 2e-2 (13,726 verdicts). Every verdict is turned into a win, so that the chance of what did not happen, which
   is all that counts, keeps its digits where it is small. The fit of the data is in double precision, and so is that of
   a resample whose weights are too uneven for single.
4. Matrix products are many small ones: so small that the library behind numpy does not spread each over threads of its
   own, which wait for one another without sleep. On a busy machine that took twenty times as long.

Whether there is an estimate must be known before: `runs.regression.uncertain` leaves the verdicts that have one. As
weights are positive, every resample then has one too.

Array names end in their dimensions: R resamples, B those of a block, T topics, D verdicts, G groups of verdicts and S
those of a group, P parameters, K pairs of parameters.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.statistics import Array

Floats = NDArray[np.floating[Any]]
"""In single or in double precision."""

MOST_STEPS = 100
"""Of Newton's method, halvings included."""
NEAR = {np.float32: 1e-8, np.float64: 1e-16}
"""The decrement before the last step, by precision: a ten-thousandth of a standard error, and a hundred-millionth."""
HELD = 0.01
"""Second derivatives stay as they are as long as each step leaves at most this part of the decrement."""
LONGEST = 4.0
"""Of a step, in any parameter: curvature tells nothing of what lies further away than a few logits."""
CELLS = 2**20
"""Numbers that wait to be added up."""
SMALL = 2**18
"""Multiplications up to which OpenBLAS computes a matrix product in one thread (its `SMP_THRESHOLD_MIN`, times 4)."""


def fit(score_D: Array, design_DP: Array) -> Array | None:
    """The estimate [P], in logits for each unit of a column; None where Newton's method did not get there.

    Scores are from 0 to 1, a tie 0.5. Columns of the design must be linearly independent.
    """
    rows = _rows(score_D, design_DP, np.zeros(len(score_D), dtype=np.int64), np.float64)
    start_P = np.zeros(design_DP.shape[1])
    x_P = _newton(rows, np.ones((1, 1)), start_P, *_by_topic(rows, start_P))[0]
    return x_P if np.isfinite(x_P).all() else None


def refit(
    score_D: Array,
    design_DP: Array,
    topic_D: NDArray[np.int64],
    weights_RT: Array,
    near_P: Array,
    *,
    single: bool = True,
) -> Array:
    """Estimates [R, P] of the same data with topics weighed otherwise; `near_P` is that of the data as they are.

    Topics are numbered from 0, as the columns of `weights_RT`, whose entries are positive; each has a verdict. Where
    Newton's method did not get there, NaN. `single=False` computes all in double precision.
    """
    rows = _rows(score_D, design_DP, topic_D, np.float32 if single else np.float64)
    gradient_RP, hessian_RK = (weights_RT @ part for part in _by_topic(rows, near_P))

    size = rows.topic_GS.shape[1]  # a block has as many resamples as a group has verdicts

    def block(first: int) -> Array:
        of = slice(first, first + size)
        return _newton(rows, weights_RT[of], near_P, gradient_RP[of], hessian_RK[of])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(block, range(0, len(weights_RT), size)))
    x_RP = np.concatenate([np.empty((0, len(near_P))), *found])
    lost_R = np.isnan(x_RP).any(axis=1)
    if single and lost_R.any():
        x_RP[lost_R] = refit(score_D, design_DP, topic_D, weights_RT[lost_R], near_P, single=False)
    return x_RP


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What happened, in the order of topics, in groups; the last group is filled up with what says nothing."""

    across_GPS: Floats
    """The design, its sign turned where FOR lost, so that everything that happened is a win."""
    gain_GSP: Floats
    """The same the other way round, times the share of the verdict: a tie is half a win and half a loss."""
    outer_GSK: Floats
    """Products of columns, each pair once, times that share."""
    topic_GS: NDArray[np.int64]
    pair_PP: NDArray[np.int64]
    """Where in K a pair stands."""
    near: float
    """The decrement before the last step."""


def _rows(score_D: Array, design_DP: Array, topic_D: NDArray[np.int64], kind: type[np.float32 | np.float64]) -> _Rows:
    parameters = design_DP.shape[1]
    one, other = np.triu_indices(parameters)
    pair_PP = np.empty((parameters, parameters), dtype=np.int64)
    pair_PP[one, other] = pair_PP[other, one] = np.arange(len(one))
    won_D, lost_D = score_D > 0, score_D < 1
    share = np.concatenate([score_D[won_D], 1 - score_D[lost_D]])
    topic = np.concatenate([topic_D[won_D], topic_D[lost_D]])
    design = np.concatenate([design_DP[won_D], -design_DP[lost_D]])
    size = max(1, math.isqrt(SMALL // len(one)))
    fill = -len(share) % size
    order = np.pad(np.argsort(topic, kind="stable"), (0, fill), mode="edge").reshape(-1, size)
    share_GS1 = share[order][:, :, None]
    share_GS1.reshape(-1)[len(share) :] = 0
    return _Rows(
        across_GPS=np.ascontiguousarray(design[order].transpose(0, 2, 1), dtype=kind),
        gain_GSP=(share_GS1 * design[order]).astype(kind),
        outer_GSK=(share_GS1 * (design[:, one] * design[:, other])[order]).astype(kind),
        topic_GS=topic[order],
        pair_PP=pair_PP,
        near=NEAR[kind],
    )


def _surprise(rows: _Rows, x_BP: Array) -> Floats:
    """How likely it was that each thing would not happen, [G, B, S]: with all digits where that is near 0."""
    surprise_GBS = x_BP.astype(rows.across_GPS.dtype) @ rows.across_GPS
    np.exp(surprise_GBS, out=surprise_GBS)
    surprise_GBS += 1
    return np.divide(1, surprise_GBS, out=surprise_GBS)


def _by_topic(rows: _Rows, x_P: Array) -> tuple[Array, Array]:
    """Gradient [T, P] of each topic's log-likelihood at a point, and minus its second derivatives [T, K]."""
    surprise_GS1 = _surprise(rows, x_P[None]).transpose(0, 2, 1)
    first_T = np.unique(rows.topic_GS, return_index=True)[1]
    parts = surprise_GS1 * rows.gain_GSP, surprise_GS1 * (1 - surprise_GS1) * rows.outer_GSK
    gradient_TP, hessian_TK = (
        np.add.reduceat(part.reshape(-1, part.shape[-1]), first_T, dtype=np.float64) for part in parts
    )
    return gradient_TP, hessian_TK


def _derivatives(rows: _Rows, weights_BT: Array, x_BP: Array, *, second: bool) -> tuple[Array, Array | None]:
    """Gradient [B, P] of the log-likelihood of each weighting, and minus its second derivatives [B, K] if asked for."""
    surprise_GBS = _surprise(rows, x_BP)
    weight_BGS = np.take(weights_BT.astype(surprise_GBS.dtype), rows.topic_GS, axis=1)
    weighed_GBS = weight_BGS.transpose(1, 0, 2) * surprise_GBS
    gradient_BP = _added_up(weighed_GBS, rows.gain_GSP)
    if not second:
        return gradient_BP, None
    weighed_GBS *= np.subtract(1, surprise_GBS, out=surprise_GBS)
    return gradient_BP, _added_up(weighed_GBS, rows.outer_GSK)


def _added_up(weighed_GBS: Floats, columns_GSN: Floats) -> Array:
    """Weighed columns, added up over groups, [B, N]: as many groups at once as memory is well spent on."""
    total_BN = np.zeros((weighed_GBS.shape[1], columns_GSN.shape[2]))
    many = max(1, CELLS // total_BN.size)
    for first in range(0, len(weighed_GBS), many):
        of = slice(first, first + many)
        total_BN += (weighed_GBS[of] @ columns_GSN[of]).sum(axis=0, dtype=np.float64)
    return total_BN


def _newton(rows: _Rows, weights_BT: Array, start_P: Array, gradient_BP: Array, hessian_BK: Array) -> Array:
    """Estimates [B, P] from a common start and the derivatives there; NaN for those that are not found."""
    x_BP, step_BP = np.tile(start_P, (len(weights_BT), 1)), np.zeros_like(gradient_BP)
    slope_B, active = np.zeros(len(weights_BT)), np.arange(len(weights_BT))
    with np.errstate(over="ignore", invalid="ignore"):  # where there is no estimate, steps grow without end
        for _ in range(MOST_STEPS):
            far = (gradient_BP * step_BP[active]).sum(axis=1) < -slope_B[active] / 2
            back, onward, before_B = active[far], active[~far], slope_B.copy()
            step_BP[back] /= 2
            slope_B[back] /= 2
            x_BP[back] -= step_BP[back]
            step_BP[onward] = _solve(hessian_BK[onward][:, rows.pair_PP], gradient_BP[~far])
            slope_B[onward] = (gradient_BP[~far] * step_BP[onward]).sum(axis=1)
            x_BP[onward] += step_BP[onward]
            active = active[far | ~(slope_B[active] <= rows.near)]
            if not len(active):
                break
            moving = bool((slope_B[active] > HELD * before_B[active]).any())
            gradient_BP, fresh = _derivatives(rows, weights_BT[active], x_BP[active], second=moving)
            if fresh is not None:
                hessian_BK[active] = fresh
    x_BP[active] = np.nan
    return x_BP


def _solve(hessian_BPP: Array, gradient_BP: Array) -> Array:
    """Newton's step, no longer than `LONGEST`."""
    # A hair on the diagonal bends the path, not the goal, and keeps one flat data set from failing them all.
    diagonal = np.arange(hessian_BPP.shape[1])
    hessian_BPP[:, diagonal, diagonal] *= 1 + 1e-12
    hessian_BPP[:, diagonal, diagonal] += 1e-300
    step_BP = np.linalg.solve(hessian_BPP, gradient_BP[:, :, None])[..., 0]
    return np.asarray(step_BP / np.maximum(1, np.abs(step_BP).max(axis=1, keepdims=True) / LONGEST))
