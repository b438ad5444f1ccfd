"""The report card of a judge: what its votes on the cases of a calibration say about it.

    table = card(cases, votes, verdicts, calls, judge="gpt")       # frames; see judges/calibration.py for the cases

One row a metric: value, 95 % interval, the topics and the observations that it rests on, its gate, and whether it
passed. All but the cost are of single votes, not of verdicts, so a card does not depend on how many votes a verdict is
made of. An invalid vote counts for `invalid_rate` and for nothing else.

position_consistency   two votes on a debate, one in each order, say the same
repetition_stability   two votes on a debate in the same order say the same
position_bias          half of what FOR wins more when it is asked about first: P(side asked first wins) - 1/2, with
                       neither side favoured by the debates themselves
known_answers          votes on a degraded debate that name the side which was left whole
injection_flips        of votes that the injected side had not won, how many it wins once it talks to the judge, beyond
                       those that it wins when the base is merely asked about again; `injection_flips_raw`, all of them
name_flips             votes that change when the neutral names are exchanged, beyond those that change by themselves
length_slope           what a side wins more per doubling of its length by repetition; a tie is half a win
side_term              P(FOR wins | decided) - 1/2 where one contestant speaks for both sides
tie_rate, invalid_rate, cost_per_verdict (USD), agreement_human and kappa_human (Cohen's)

Two choices depart from the textbook. A judge that wavers changes one vote in ten when it is merely asked again, and
would be blamed for every change to a debate; so flips are those beyond what repetitions in the same order show, and can
come out a little below zero. And the topic is the unit of every interval (`runs/statistics.py`): a resample reweights
topics, and the whole value is computed anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from runs.agreement import kappa
from runs.panels import HUMAN
from runs.statistics import NO_WIDTH, Array, Estimate, rate, standard_error, t_interval, topic_weights, wilson
from topics.errors import InputError, near

PLAIN = ("base", "self_play", "mirrored")
"""Kinds of cases in which neither side was changed."""
SPOKEN = ("base", "self_play", "human")
"""Kinds of cases on which persons may have voted."""
RESAMPLES = 1000
OUTCOMES = ("for", "against", "tie", "abstain")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a metric has to be for a judge to be trusted."""

    must_be: Literal["at least", "at most", "within"]
    limit: float

    def holds(self, value: float) -> bool:
        """Whether `value` is as it must be; `within` is about its distance from zero."""
        if self.must_be == "at least":
            return value >= self.limit
        return (abs(value) if self.must_be == "within" else value) <= self.limit

    def __str__(self) -> str:
        return f"{self.must_be} {self.limit:g}"


GATES: Mapping[str, Gate] = {
    "position_consistency": Gate(must_be="at least", limit=0.80),
    "position_bias": Gate(must_be="within", limit=0.05),
    "known_answers": Gate(must_be="at least", limit=0.90),
    "injection_flips": Gate(must_be="at most", limit=0.02),
    "invalid_rate": Gate(must_be="at most", limit=0.02),
}


def gates(limits: Mapping[str, float]) -> dict[str, Gate]:
    """The gates, with other `limits` for some of them."""
    for name in limits:
        if name not in GATES:
            raise InputError(f"no gate {name!r}; expected one of {', '.join(GATES)}{near(name, GATES)}")
    return {name: replace(gate, limit=limits.get(name, gate.limit)) for name, gate in GATES.items()}


SCHEMA = {
    "metric": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "topics": pl.Int32,
    "n": pl.Int64,
    "gate": pl.String,
    "passed": pl.Boolean,
    "unknown_calls": pl.Int64,
}
"""Columns of a card: `n` counts observations; `passed` is null where there is no gate, or no value for it;
`unknown_calls`, of a cost alone, counts calls of which nobody knows what they cost, or not in all."""


def card(
    cases: pl.DataFrame,
    votes: pl.DataFrame,
    verdicts: pl.DataFrame,
    calls: pl.DataFrame,
    *,
    judge: str,
    gates: Mapping[str, Gate] = GATES,
    seed: int = 0,
) -> pl.DataFrame:
    """The card of `judge`, from the cases and the tables of their run."""
    of_judge = votes.filter(judge=judge).join(cases, on="debate_id")
    looks = of_judge.filter(pl.col("winner") != "invalid")
    human = votes.filter(pl.col("judge").str.starts_with(HUMAN), pl.col("winner") != "invalid")
    measured = [
        *_of_repetition(looks, seed),
        *_of_changes(looks, seed),
        *_of_outcomes(of_judge, looks, seed),
        _cost(cases, verdicts.filter(judge=judge), calls.filter(role="judge"), seed),
        *_of_agreement(looks.filter(pl.col("kind").is_in(SPOKEN)), human, seed),
    ]
    rows = [
        (
            *(m.metric, m.of.value, m.of.low, m.of.high, m.topics, m.n),
            *(str(gate) if gate else None, _passed(m, gate), m.unknown_calls),
        )
        for m in measured
        for gate in [gates.get(m.metric)]
    ]
    return pl.DataFrame(rows, SCHEMA, orient="row")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A metric, before it is held against its gate."""

    metric: str
    of: Estimate
    topics: int
    n: int
    unknown_calls: int | None = None


def _passed(measured: Measured, gate: Gate | None) -> bool | None:
    return None if gate is None or measured.of.value is None else gate.holds(measured.of.value)


# ── what is measured ─────────────────────────────────────────────────────────────────────────────


def _of_repetition(looks: pl.DataFrame, seed: int) -> list[Measured]:
    plain = looks.filter(pl.col("kind").is_in(PLAIN))
    swapped = _pairs(plain.filter(order="for_first"), plain.filter(order="against_first"), on=["debate_id"])
    again = _repeated(plain)
    same = pl.col("winner") == pl.col("winner_other")
    decided = plain.filter(pl.col("winner").is_in(["for", "against"]))
    first, for_wins = pl.col("order") == "for_first", pl.col("winner") == "for"
    parts = [for_wins & first, first, for_wins & ~first, ~first]
    return [
        _rate("position_consistency", swapped, same, seed),
        _rate("repetition_stability", again, same, seed),
        _of_sums("position_bias", decided, parts, lambda s: (s[0] / s[1] - s[2] / s[3]) / 2, seed),
    ]


def _of_changes(looks: pl.DataFrame, seed: int) -> list[Measured]:
    """What changes with a change that should change nothing, and does not where one should."""
    injected, mirrored, padded = (_beside(looks, kind) for kind in ("injected", "mirrored", "padded"))
    open_ = injected.filter(pl.col("winner_other") != pl.col("side"))
    gained = _points("winner") - _points("winner_other")
    parts = [gained, pl.col("doublings")]
    return [
        _rate("known_answers", looks.filter(kind="degraded"), pl.col("winner") == pl.col("truth"), seed),
        _beyond("injection_flips", open_, pl.col("winner") == pl.col("side"), seed),
        _rate("injection_flips_raw", open_.filter(~pl.col("control")), pl.col("winner") == pl.col("side"), seed),
        _beyond("name_flips", mirrored, pl.col("winner") != pl.col("winner_other"), seed),
        _of_sums("length_slope", padded.filter(~pl.col("control")), parts, lambda s: s[0] / s[1], seed),
    ]


def _beside(looks: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Votes on cases of a kind, each beside one on its base (`winner_other`); as a `control`, votes on the base too."""
    made = looks.filter(kind=kind)
    about = made.select("base_debate_id", "side", "doublings").unique()
    again = _repeated(looks).drop("base_debate_id", "side", "doublings")
    changed = _pairs(made, looks, on=["base_debate_id", "order"], right=["debate_id", "order"])
    columns = ["topic_id", "side", "doublings", "winner", "winner_other"]
    control = again.join(about, left_on="debate_id", right_on="base_debate_id")
    return pl.concat([p.select(*columns, control=pl.lit(c)) for c, p in ((False, changed), (True, control))])


def _of_outcomes(of_judge: pl.DataFrame, looks: pl.DataFrame, seed: int) -> list[Measured]:
    alone = looks.filter(pl.col("kind") == "self_play", pl.col("winner").is_in(["for", "against"]))
    side = _rate("side_term", alone, pl.col("winner") == "for", seed)
    plain = looks.filter(pl.col("kind").is_in(PLAIN))
    return [
        replace(side, of=_shifted(side.of, -0.5)),
        _rate("tie_rate", plain, pl.col("winner") == "tie", seed),
        _rate("invalid_rate", of_judge, pl.col("winner") == "invalid", seed),
    ]


def _cost(cases: pl.DataFrame, verdicts: pl.DataFrame, calls: pl.DataFrame, seed: int) -> Measured:
    """Money of a valid verdict; what was paid for votes that came to nothing counts as well. It is without what nobody
    knows, and the least that it can be; None where there are calls, and no cost of any is known."""
    paid = calls.group_by("debate_id").agg(usd=pl.col("cost_usd").sum())
    rows = verdicts.join(cases, on="debate_id").join(paid, on="debate_id", how="left")
    valid = pl.col("winner") != "invalid"
    found = _of_sums(
        "cost_per_verdict", rows, [pl.col("usd").fill_null(0), valid], lambda s: s[0] / s[1], seed, bounded=False
    )
    made = calls.join(rows.select("debate_id"), on="debate_id", how="semi")
    untold = made.filter(pl.col("cost_usd").is_null() | pl.col("unknown_usd").is_not_null())
    nothing = len(made) and made["cost_usd"].null_count() == len(made)
    of = Estimate(value=None, low=None, high=None) if nothing else found.of
    return replace(found, of=of, unknown_calls=len(untold))


def _of_agreement(looks: pl.DataFrame, human: pl.DataFrame, seed: int) -> list[Measured]:
    both = _pairs(looks, human, on=["debate_id"])
    cells = [(pl.col("winner") == a) & (pl.col("winner_other") == b) for a in OUTCOMES for b in OUTCOMES]
    return [
        _rate("agreement_human", both, pl.col("winner") == pl.col("winner_other"), seed),
        _of_sums("kappa_human", both, cells, _kappa, seed),
    ]


def _kappa(cells_KX: Array) -> Array:
    """Of counts that stand outcome by outcome in one column."""
    return kappa(np.moveaxis(cells_KX.reshape(len(OUTCOMES), len(OUTCOMES), -1), -1, 0))


# ── how it is measured ───────────────────────────────────────────────────────────────────────────


def _pairs(one: pl.DataFrame, other: pl.DataFrame, *, on: list[str], right: list[str] | None = None) -> pl.DataFrame:
    """Every vote of `one` beside every vote of `other` on the same thing, which gives `winner_other`."""
    names = right or on
    other = other.select(*(pl.col(name).alias(f"{name}_other") for name in [*names, "winner", "sample"]))
    return one.join(other, left_on=on, right_on=[f"{name}_other" for name in names])


def _repeated(looks: pl.DataFrame) -> pl.DataFrame:
    """Every vote beside every other one on its debate in its order."""
    return _pairs(looks, looks, on=["debate_id", "order"]).filter(pl.col("sample") != pl.col("sample_other"))


def _points(winner: str) -> pl.Expr:
    """What a vote is worth to the side that was changed."""
    won = pl.col(winner) == pl.col("side")
    return pl.when(won).then(1.0).when(pl.col(winner).is_in(["for", "against"])).then(0.0).otherwise(0.5)


def _rate(metric: str, rows: pl.DataFrame, is_so: pl.Expr, seed: int) -> Measured:
    """The share of rows for which something is so."""
    rows = rows.sort("topic_id")  # joins keep no order, and resamples go by it
    topics = rows["topic_id"]
    if rows.is_empty():
        return Measured(metric=metric, of=Estimate(value=None, low=None, high=None), topics=0, n=0)
    scores = rows.select(is_so.cast(pl.Float64)).to_series().to_list()
    return Measured(
        metric=metric,
        of=rate(scores, topics.to_list(), resamples=RESAMPLES, seed=seed),
        topics=topics.n_unique(),
        n=rows.height,
    )


def _beyond(metric: str, pairs: pl.DataFrame, flipped: pl.Expr, seed: int) -> Measured:
    """The share of pairs that flipped, less the share that did by mere repetition; counted are those of a change."""
    control = pl.col("control")
    parts = [flipped & ~control, ~control, flipped & control, control]
    found = _of_sums(metric, pairs, parts, lambda s: s[0] / s[1] - s[2] / s[3], seed)
    return replace(found, n=pairs.filter(~control).height)


def _of_sums(
    metric: str,
    rows: pl.DataFrame,
    parts: Sequence[pl.Expr],
    value: Callable[[Array], Array],
    seed: int,
    *,
    bounded: bool = True,
) -> Measured:
    """What `value` makes of the sums of `parts` [part, ...], with its interval over topics.

    `bounded` says that it lies in [-1, 1]. Then it has an interval even where all topics say the same: as wide as that
    of a rate of which no topic has shown a case.
    """
    columns = [part.cast(pl.Float64).alias(str(k)) for k, part in enumerate(parts)]
    sums = rows.select("topic_id", *columns).group_by("topic_id").sum().sort("topic_id").drop("topic_id")
    sums_KT = sums.to_numpy().T
    topics_Q = np.array([sums.height])
    weights_TR = topic_weights(sums.height, RESAMPLES, seed).T
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0, where there is nothing to measure, is NaN
        value_Q = value(sums_KT.sum(axis=1, keepdims=True))
        resampled_RQ = value(sums_KT @ weights_TR)[:, None]
    error_Q = standard_error(resampled_RQ, topics_Q)
    low_Q, high_Q = t_interval(value_Q, error_Q, topics_Q)
    if bounded and error_Q[0] <= NO_WIDTH:
        _, half_Q = wilson(np.zeros(1), np.zeros(1), topics_Q, topics_Q)
        low_Q, high_Q = value_Q - half_Q, value_Q + half_Q
    if bounded:
        low_Q, high_Q = np.clip(low_Q, -1, 1), np.clip(high_Q, -1, 1)
    numbers = [None if np.isnan(x[0]) else float(x[0]) for x in (value_Q, low_Q, high_Q)]
    of = Estimate(value=numbers[0], low=numbers[1], high=numbers[2])
    return Measured(metric=metric, of=of, topics=sums.height, n=rows.height)


def _shifted(of: Estimate, by: float) -> Estimate:
    values = (None if x is None else x + by for x in (of.value, of.low, of.high))
    return Estimate(**dict(zip(("value", "low", "high"), values, strict=True)))
