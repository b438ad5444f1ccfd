"""Rates by group, each with its interval over topics: one matrix product for all groups together.

    said = turns.join(debates.select("debate_id", "topic_id"), on="debate_id")
    shares(said, ["contestant"], {"trimmed": pl.col("trimmed")})
    shares(said, ["contestant"], {"words": pl.col("words")}, bounded=False)

Whoever reads a run asks the same of its tables again and again: of these rows, what share is so, by this and that, and
how sure is it? Polars adds up by topic and group, which leaves a matrix of topics by groups, however many rows there
were; all resamples of topics (`runs/statistics.py`) are then one product with it.

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

    Gives the columns `by`, in their order, then of each part its name, `_low` and `_high`, then `topics`, and
    `few_topics`: fewer than `runs.bias.FEW`, and then no interval. What does not exist is null.

    Parts that are not `bounded` by the whole (words of a turn, dollars of a win) are amounts that are never negative.
    Their interval is value -+ t x error, that of a share Wilson's. A share rests on topics that have some of the whole,
    an amount on all that have a row.
    """
    summed = rows.lazy().select("topic_id", *by, __whole=whole.cast(pl.Float64), **_numbers(parts))
    cells = summed.group_by("topic_id", *by).sum().collect().sort("topic_id", *by)
    groups = cells.select(by).unique().sort(by).with_row_index("__group")
    cells = cells.join(groups, on=by, nulls_equal=True, maintain_order="left")
    topic = cells["topic_id"].rank("dense").to_numpy().astype(np.int64) - 1
    place = topic * len(groups) + cells["__group"].to_numpy().astype(np.int64)
    shape = (cells["topic_id"].n_unique(), len(groups))
    whole_TQ = _matrix(cells["__whole"], place, shape)
    topics_Q = (whole_TQ > 0).sum(axis=0) if bounded else np.bincount(cells["__group"], minlength=len(groups))
    weights_RT = topic_weights(shape[0], resamples, seed)
    found: dict[str, Array] = {}
    for name in parts:
        part_TQ = _matrix(cells[name], place, shape)
        args = (part_TQ, whole_TQ, weights_RT)
        value_low_high = rates(*args) if bounded else ratios(*args, topics_Q)
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), value_low_high, strict=True))
    topics = pl.Series("topics", topics_Q, dtype=pl.Int32)
    few = pl.col("topics") < FEW
    bounds = [name for name in found if name.endswith(("_low", "_high")) and name not in parts]
    return (
        groups.drop("__group")
        .with_columns(**{name: pl.Series(name, value, dtype=pl.Float64) for name, value in found.items()})
        .with_columns(pl.col(*found).fill_nan(None), topics, few_topics=topics < FEW)
        .with_columns(pl.when(~few).then(pl.col(*bounds)))
    )


def _numbers(parts: Mapping[str, pl.Expr]) -> dict[str, pl.Expr]:
    return {name: part.cast(pl.Float64) for name, part in parts.items()}


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
