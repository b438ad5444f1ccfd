"""Rates by group, each with its interval over topics: one matrix product for all groups together.

    said = turns.join(debates.select("debate_id", "topic_id"), on="debate_id")
    shares(said, ["contestant"], {"trimmed": pl.col("trimmed")})
    shares(said, ["contestant"], {"words": pl.col("words")}, bounded=False)

Whoever reads a run asks the same of its tables again and again: of these rows, what share is so, by this and that, and
how sure is it? Polars adds up by topic and group, which leaves a matrix of topics by groups, however many rows there
were; all resamples of topics (`runs/statistics.py`) are then one product with it.

A row in which a part is not known (null) counts in neither that part nor its whole: unknown is not nought.

Array names end in their dimensions: R resamples, T topics, Q quantities (a group's each).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from runs.bias import FEW
from runs.statistics import Array, rates, standard_error, t_interval, topic_weights

RESAMPLES = 1000
ONE = pl.lit(1.0)


def shares(
    rows: pl.DataFrame | pl.LazyFrame,
    by: Sequence[str],
    parts: Mapping[str, pl.Expr],
    whole: pl.Expr = ONE,
    *,
    bounded: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """What share of `whole` each of `parts` is, by the columns `by`; rows have a `topic_id`.

    Gives the columns `by`, in their order, then of each part its name, `_low` and `_high` (null on fewer than
    `runs.bias.FEW` topics), then `topics`, the most that a part rests on, and `few_topics`. What is not there is null.

    Parts that are not `bounded` by the whole (words of a turn, dollars of a win) are amounts that are never negative.
    Their interval is value -+ t x error, that of a share Wilson's. A share rests on topics that have some of the whole,
    an amount on all that have a row; rows in which the part is not known are left out of both.
    """
    cells = rows.lazy().select("topic_id", *by, **_numbers(parts, whole)).group_by("topic_id", *by).sum().collect()
    groups = cells.select(by).unique().sort(by).with_row_index("__group")
    cells = cells.join(groups, on=by, nulls_equal=True).sort("topic_id", "__group")
    topic = cells["topic_id"].rank("dense").to_numpy().astype(np.int64) - 1
    shape = (cells["topic_id"].n_unique(), len(groups))
    place = topic * len(groups) + cells["__group"].to_numpy().astype(np.int64)
    weights_RT = topic_weights(shape[0], resamples, seed)
    found: dict[str, Array] = {}
    topics_Q = np.zeros(len(groups), np.int64)
    for name in parts:
        part_TQ, whole_TQ, known_TQ = (_matrix(cells[f"{name}{of}"], place, shape) for of in ("", *_WHOLE))
        own_Q = ((whole_TQ if bounded else known_TQ) > 0).sum(axis=0)
        args = (part_TQ, whole_TQ, weights_RT)
        value_Q, *bounds = rates(*args) if bounded else ratios(*args, own_Q)
        low_Q, high_Q = (np.where(own_Q < FEW, np.nan, bound_Q) for bound_Q in bounds)
        found |= {name: value_Q, f"{name}_low": low_Q, f"{name}_high": high_Q}
        topics_Q = np.maximum(topics_Q, own_Q)
    topics = pl.Series("topics", topics_Q, dtype=pl.Int32)
    table = groups.drop("__group").with_columns(pl.Series(name, x, pl.Float64) for name, x in found.items())
    return table.with_columns(pl.col(*found).fill_nan(None), topics, few_topics=topics < FEW)


_WHOLE = ("__whole", "__known")


def _numbers(parts: Mapping[str, pl.Expr], whole: pl.Expr) -> dict[str, pl.Expr]:
    """Of each part: the part, the whole, and that both are known; 0 where they are not."""
    found = {}
    for name, part in parts.items():
        known = part.is_not_null() & whole.is_not_null()
        for of, x in zip(("", *_WHOLE), (part, whole, pl.lit(1.0)), strict=True):
            found[f"{name}{of}"] = pl.when(known).then(x.cast(pl.Float64)).otherwise(0.0)
    return found


def _matrix(values: pl.Series, place: NDArray[np.int64], shape: tuple[int, int]) -> Array:
    return np.bincount(place, values.to_numpy(), shape[0] * shape[1]).reshape(shape).astype(np.float64)


def ratios(
    part_TQ: Array, whole_TQ: Array, weights_RT: Array, topics_Q: NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """Ratios `part / whole` of amounts that are not negative, and their bounds; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):  # dollars of no win are no number of dollars
        value_Q = part_TQ.sum(axis=0) / whole_TQ.sum(axis=0)
        resampled_RQ = (weights_RT @ part_TQ) / (weights_RT @ whole_TQ)
    value_Q[~np.isfinite(value_Q)] = np.nan
    low_Q, high_Q = t_interval(value_Q, standard_error(resampled_RQ, topics_Q), topics_Q)
    return value_Q, np.maximum(low_Q, 0), high_Q
