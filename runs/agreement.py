"""Whether judges agree: raw agreement, Krippendorff's alpha and Cohen's kappa, with intervals over topics.

    compare(code_DJ, topic_D, weights_RT)      # what each judge said of each debate, as 0, 1, 2; -1 for nothing

Outcomes are names without order (the nominal alpha, the unweighted kappa). Each measure is a function of counts of who
said what beside whom, and counts add up over topics: so a thousand resamples of topics (`runs/statistics.py`) are one
matrix product, where the libraries that know these measures resample debates, or nothing.

Array names end in their dimensions: R resamples, T topics, D debates, J judges, C outcomes; X is any of R, T and D.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.statistics import Array, rates, standard_error, t_interval

OUTCOMES = 3
"""For, tie, against."""

Codes = NDArray[np.int64]


def compare(code_DJ: Codes, topic_D: Codes, weights_RT: Array) -> dict[str, Any]:
    """`agreement` and `alpha` of judges, of two also `kappa`, each with `_low` and `_high`; `debates` and `topics` of
    which at least two of them said something. NaN for what does not exist, as where all said the same of everything.

    `agreement` is the share of equal pairs of verdicts on a debate, each debate weighed by how many verdicts it has.
    """
    topics = weights_RT.shape[1]
    beside_TCC = _by_topic(coincidences(code_DJ), topic_D, topics)
    pairs_T1 = beside_TCC.sum(axis=(1, 2))[:, None] / 2
    heard = int((pairs_T1 > 0).sum())
    equal, low, high = rates(np.trace(beside_TCC, axis1=1, axis2=2)[:, None] / 2, pairs_T1, weights_RT)
    found = {
        **{"debates": int(((code_DJ >= 0).sum(axis=1) > 1).sum()), "topics": heard},
        **{"agreement": equal[0], "agreement_low": low[0], "agreement_high": high[0]},
    }
    measures: list[tuple[str, Callable[[Array], Array], Array]] = [("alpha", alpha, beside_TCC)]
    if code_DJ.shape[1] == 2:
        measures.append(("kappa", kappa, _by_topic(crossed(code_DJ), topic_D, topics)))
    for name, measure, count_TCC in measures:
        value = float(measure(count_TCC.sum(axis=0)))
        bounds = interval(value, measure(np.tensordot(weights_RT, count_TCC, 1)), heard)
        found |= {name: value, f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
    return found


def interval(value: float, resampled_R: Array, topics: int) -> tuple[float, float]:
    """Bounds of a quantity between -1 and 1, from its values in resamples of topics; NaN for none."""
    one = np.array([topics])
    bounds = t_interval(np.array([value]), standard_error(resampled_R[:, None], one), one)
    low, high = np.clip(np.concatenate(bounds), -1, 1)
    return float(low), float(high)


def coincidences(code_DJ: Codes, outcomes: int = OUTCOMES) -> Array:
    """How often each outcome was said beside each, [D, C, C]: ordered pairs of verdicts over one less than there are.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C.
    """
    said_DC = (code_DJ[:, :, None] == np.arange(outcomes)).sum(axis=1).astype(np.float64)
    pairs_DCC = said_DC[:, :, None] * said_DC[:, None, :]
    pairs_DCC[:, np.arange(outcomes), np.arange(outcomes)] -= said_DC
    return np.asarray(pairs_DCC / np.maximum(said_DC.sum(axis=1) - 1, 1)[:, None, None])


def crossed(code_DJ: Codes, outcomes: int = OUTCOMES) -> Array:
    """What the first of two judges said, against what the second did, [D, C, C]."""
    said_DJC = (code_DJ[:, :, None] == np.arange(outcomes)).astype(np.float64)
    return np.asarray(said_DJC[:, 0, :, None] * said_DJC[:, 1, None, :])


def alpha(beside_XCC: Array) -> Array:
    """Krippendorff's nominal alpha of coincidences: one less observed over expected disagreement."""
    said_XC = beside_XCC.sum(axis=-1)
    all_X = said_XC.sum(axis=-1)
    apart_X = all_X - np.trace(beside_XCC, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):  # 0 / 0 where one outcome was all that was ever said
        return np.asarray(1 - (all_X - 1) * apart_X / (all_X**2 - (said_XC**2).sum(axis=-1)))


def kappa(crossed_XCC: Array) -> Array:
    """Cohen's kappa of two judges: how far they agree beyond what their own shares of outcomes would give by chance.

    Source: Cohen, Educational and Psychological Measurement 20 (1960).
    """
    all_X = crossed_XCC.sum(axis=(-2, -1))
    chance_X = (crossed_XCC.sum(axis=-1) * crossed_XCC.sum(axis=-2)).sum(axis=-1)
    equal_X = np.trace(crossed_XCC, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):  # as above
        return np.asarray((all_X * equal_X - chance_X) / (all_X**2 - chance_X))


def _by_topic(cell_DCC: Array, topic_D: Codes, topics: int) -> Array:
    sum_TCC = np.zeros((topics, *cell_DCC.shape[1:]))
    np.add.at(sum_TCC, topic_D, cell_DCC)
    return sum_TCC
