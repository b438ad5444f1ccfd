"""How much one thing moves the odds that FOR wins, beside others that do: a slope, where one exists.

    found = slope(score_D, beside_DP, z_D, topic_D)      # found["slope"], in logits for each unit of z

    logit P(FOR wins) = beside . b + slope z

The fit and its interval are statsmodels' (a binomial GLM, a tie as half; sandwich errors clustered by topic, with its
small-sample factor and t(G-1)). What is added is the question whether there is anything to fit. Where a contestant only
ever won, its strength has no estimate, and an optimiser that is stopped on the way to infinity gives numbers all the
same. Such debates, which the limit predicts with certainty, have no say about the rest: they are found exactly, by a
linear program, and left out. Where `z` is then a combination of the other columns, there is no slope.

Array names end in their dimensions: D debates, P parameters.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.statistics import Array

CERTAIN = 1e-6
"""A difference up to this, where columns are of the order of one, is rounding."""


def slope(score_D: Array, beside_DP: Array, z_D: Array, topic_D: NDArray[np.int64]) -> dict[str, Any]:
    """`slope`, `slope_low`, `slope_high` (absent where there is none; one topic has no bounds), `debates` and `topics`
    that it rests on, and `certain`: how many debates were left out.

    Raises `RuntimeError` where a slope exists and was not found.
    """
    from scipy.linalg import orth
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    kept_D = uncertain(score_D, np.column_stack([beside_DP, z_D]))
    score_D, beside_DP, z_D, topic_D = score_D[kept_D], beside_DP[kept_D], z_D[kept_D], topic_D[kept_D]
    topics = len(np.unique(topic_D))
    found: dict[str, Any] = {"debates": len(score_D), "certain": int((~kept_D).sum()), "topics": topics}
    if not len(score_D) or _follows(z_D, beside_DP):
        return found
    design_DP = np.column_stack([orth(beside_DP), z_D])  # columns that say the same, as of two who only meet each other
    clusters = {"cov_type": "cluster", "cov_kwds": {"groups": topic_D}, "use_t": True} if topics > 1 else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerfectSeparationWarning)  # all are ties; what is separated was left out above
        fitted = GLM(score_D, design_DP, family=Binomial()).fit(**clusters)
    if not fitted.converged:
        raise RuntimeError("the slope exists, but the regression did not reach it")
    low, high = fitted.conf_int()[-1] if clusters else (None, None)
    return found | {"slope": float(fitted.params[-1]), "slope_low": low, "slope_high": high}


def uncertain(score_D: Array, design_DP: Array) -> NDArray[np.bool_]:
    """Which debates are left without those that the model's limit predicts with certainty.

    The likelihood grows for ever in a direction of the parameters in which no result becomes less likely and some more.
    Sources: Albert and Anderson, Biometrika 71 (1984); as a linear program, Konis (thesis, Oxford, 2007).
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    gain_DP = np.where(score_D > 0.5, 1.0, -1.0)[:, None] * design_DP
    tied_D, kept_D = score_D == 0.5, np.ones(len(score_D), dtype=bool)
    while kept_D.any():
        decided_D, even_D = kept_D & ~tied_D, kept_D & tied_D
        best = linprog(
            -gain_DP[decided_D].sum(axis=0),
            A_ub=csr_matrix(-gain_DP[decided_D]),
            b_ub=np.zeros(decided_D.sum()),
            A_eq=csr_matrix(design_DP[even_D]),
            b_eq=np.zeros(even_D.sum()),
            bounds=(-1, 1),
        )
        if best.status:
            raise RuntimeError(f"it could not be told whether the slope exists: {best.message}")
        certain_D = decided_D & (gain_DP @ best.x > CERTAIN)
        if not certain_D.any():
            break
        kept_D &= ~certain_D
    return kept_D


def _follows(z_D: Array, beside_DP: Array) -> bool:
    """Whether a column is a combination of others, so that its slope cannot be told."""
    solution, *_ = np.linalg.lstsq(beside_DP, z_D, rcond=None)
    return bool(np.abs(z_D - beside_DP @ solution).max() < CERTAIN)
