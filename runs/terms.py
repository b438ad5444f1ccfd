"""Ratings with everything else that moves a verdict held apart: the side, the length, who opened, the judge.

    found = controlled(run.debates, run.verdicts, run.turns, panels=spec.panels)
    print(found.frame, found.terms, *found.notes, sep="\\n")

    logit P(FOR wins) = theta_for - theta_against + side + judge + opener (FOR opened: 1/2, else -1/2) + length z

z is by how many words FOR said more, over the standard deviation of that. So the side is what standing on FOR is worth
where both say as much, averaged over openers and judges; a judge's own term is how far that judge's side lies from the
mean of the judges, the terms of all adding up to nought; and `plain` ratings are of the same model, verdicts and
resamples without `length`: what a contestant gains by saying more is the difference.

Verdicts of several judges on a debate count as one each. They are no more independent than verdicts on a topic are,
which intervals allow for, since topics are what is resampled (`runs/statistics.py`).

How this departs from a textbook's regression:

1. It asks first whether there is an estimate. Verdicts that the model's limit predicts with certainty, as of who only
   ever won, or of a judge who only ever says FOR, have no say about the rest and are left out (`runs.regression`);
   whoever is then left without verdicts, or apart from the largest group that met, has no rating and is named.
2. A term that the others tell already has no value, and a note says what holds it then. What cannot be told is asked in
   the order of the formula, so that strengths and the side come first and the length last.
3. All resamples are fitted, to the end, at once (`runs/logistic.py`).

Array names end in their dimensions: R resamples, T topics, D verdicts, C contestants, J judges, P parameters, N names
(of contestants or judges), Q quantities.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from runs.bias import FEW, SCORE
from runs.logistic import fit, refit
from runs.panels import HUMAN, TRAJECTORY
from runs.ratings import MEAN, POINTS, WINNERS, RatingsError
from runs.standing import SEATS, Standing, Term, seated, stand
from runs.statistics import MAY_FAIL, NO_WIDTH, Array, standard_error, t_interval, topic_weights
from runs.words import longer
from topics.errors import InputError, listed, near

Frame = pl.DataFrame | pl.LazyFrame

COLUMNS = {
    "rank": pl.Int32,
    "contestant": pl.String,
    **dict.fromkeys(("rating", "low", "high", "plain", "plain_low", "plain_high"), pl.Float64),
    "verdicts": pl.Int32,
}
"""Of the frame of contestants, in order."""
TERM_COLUMNS = {
    **dict.fromkeys(("term", "judge"), pl.String),
    **dict.fromkeys(("value", "low", "high", "logit"), pl.Float64),
    "unit": pl.String,
    "words": pl.Float64,
}
"""Of the frame of terms, in order."""


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """Who stands where with other terms held apart, and what those terms are."""

    frame: pl.DataFrame
    """One row a contestant, best first, those without a rating last: `rank` (null for them), `contestant`, `rating`
    with `low` and `high`, `plain` (without the length term) with bounds, and `verdicts` that they rest on."""
    terms: pl.DataFrame
    """One row a term that was asked for: `term` (`side`, `length`, `opener`, `judge`), `judge` (of a judge's own term),
    `value`, `low`, `high` in rating points (null where the term cannot be told), `logit` (the value, in logits),
    `unit` (what the points are for), and `words` (of `length`: those that FOR says more)."""
    judges: tuple[str, ...]
    """Whose verdicts these are."""
    topics: int
    """With a verdict that ratings rest on."""
    verdicts: int
    """That ratings rest on."""
    certain: int
    """Verdicts left out because the limit predicts them with certainty, or because they are apart from the rest."""
    unmeasured: int
    """Verdicts left out because the words of the debate are not known."""
    voids: int
    """Void debates."""
    abstained: int
    """Verdicts left out because the judge abstained."""
    invalid: int
    notes: tuple[str, ...]
    """What a reader must know before believing the numbers, one sentence each."""


def controlled(
    debates: Frame,
    verdicts: Frame,
    turns: Frame,
    *,
    judges: Sequence[str] = (),
    panels: Iterable[Mapping[str, Any]] = (),
    length: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Controlled:
    """Rate the contestants of a run by several judges at once, with columns as in a run's tables (docs/tables.md).

    `judges` are by default those of the run that are neither a panel nor a trajectory, and no persons where others
    have given verdicts. `panels` are those of the run's spec: tables alone do not say which judge is one. With
    `length=False` there is no length term, and `turns` are not read. The same input and `seed` give the same numbers,
    whatever the order of the rows.

    Raises `InputError` for a judge that is unknown, for judges that hold one another's verdicts, and for a winner that
    is none; `RatingsError` where ratings exist and Newton's method did not find them.
    """
    if resamples < 0:
        raise ValueError(f"resamples is {resamples}; it must be 0 (no intervals) or more")
    known, told = _texts(debates, "debate_id", "topic_id", *SEATS, "opener", "status"), _texts(verdicts, *VERDICT)
    chosen = _judges(sorted(told["judge"].unique().drop_nulls()), judges, panels)
    heard = _heard(known, told.filter(pl.col("judge").is_in(chosen)), turns if length else None)
    names = sorted(seated(known))
    standing = stand(heard.frame, names, chosen, length)
    full, plain = _with_and_without(standing, topic_weights(standing.topics, resamples, seed))
    return Controlled(
        frame=_frame(standing, names, full, plain),
        terms=_table(chosen, length, full, heard.words),
        judges=tuple(chosen),
        topics=standing.topics,
        verdicts=len(standing.rows),
        certain=len(heard.frame) - len(standing.rows),
        **heard.counts,
        notes=(*standing.notes, *_doubts(standing, resamples, full, plain), *heard.notes),
    )


# From tables to rows


VERDICT = ("debate_id", "judge", "winner")


def _texts(table: Frame, *columns: str) -> pl.DataFrame:
    return table.lazy().select(pl.col(columns).cast(pl.String)).collect()


def _judges(known: list[str], named: Sequence[str], panels: Iterable[Mapping[str, Any]]) -> list[str]:
    """The judges whose verdicts are taken, in order of name."""
    members = {panel["name"]: panel["members"] for panel in panels}
    whose = {name: {re.sub(TRAJECTORY, "", one) for one in members.get(name, [name])} for name in {*known, *named}}
    if not named:
        single = [name for name in known if whose[name] == {name}]
        return [name for name in single if not name.startswith(HUMAN)] or single
    for name in named:
        if name not in known:
            there = f"there are those of {listed(known)}" if known else "there is none at all"
            raise InputError(f"no verdict of judge {name!r}; {there}{near(name, known)}")
    chosen = sorted(set(named))
    for one, other in combinations(chosen, 2):
        if both := whose[one] & whose[other]:
            raise InputError(f"{one!r} and {other!r} both hold what {min(both)!r} said; name one of the two")
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Heard:
    frame: pl.DataFrame
    """One row a verdict that decided: `topic_id`, contestants, `opener`, `judge`, `score`, `z`."""
    words: float
    """The standard deviation of what FOR says more, over complete debates; 0 where there is none."""
    counts: dict[str, int]
    """What is left out, by the field that tells it."""
    notes: tuple[str, ...]


def _heard(debates: pl.DataFrame, verdicts: pl.DataFrame, turns: Frame | None) -> _Heard:
    """Verdicts on complete debates, with what else the model has to know of them, and what is left out."""
    unknown = verdicts.filter(pl.col("winner").is_in(WINNERS).not_().fill_null(True))
    if len(unknown):
        debate_id, winner = unknown.select("debate_id", "winner").row(0)
        raise InputError(f"winner {winner!r} of debate {debate_id!r} is unknown; expected one of {listed(WINNERS)}")
    complete = debates.filter(status="complete")
    judged = complete.join(verdicts, on="debate_id")
    score = pl.col("winner").replace_strict(SCORE, default=None, return_dtype=pl.Float64)
    decided = judged.with_columns(score=score, z=pl.lit(0.0)).drop_nulls("score")
    measured, words = decided, 0.0
    if turns is not None:
        apart = longer(complete, turns).collect()
        words = float(apart["longer"].to_numpy().std()) if len(apart) else 0.0
        measured = decided.join(apart, on="debate_id").with_columns(z=pl.col("longer") / (words or 1.0))
    counts = {
        "voids": int((debates["status"] == "void").sum()),
        "abstained": int((judged["winner"] == "abstain").sum()),
        "invalid": int((judged["winner"] == "invalid").sum()),
        "unmeasured": len(decided) - len(measured),
    }
    still_open, unjudged = debates.filter(status="open"), complete.join(verdicts, on="debate_id", how="anti")
    told = {
        "debates void": counts["voids"],
        "debates still open": len(still_open),
        "debates without a verdict": len(unjudged),
        "verdicts in which the judge abstained": counts["abstained"],
        "invalid verdicts": counts["invalid"],
        "verdicts on debates whose words are not known": counts["unmeasured"],
    }
    notes = tuple(f"left out, {what}: {n:,}" for what, n in told.items() if n)
    return _Heard(frame=measured.sort("topic_id", "debate_id", "judge"), words=words, counts=counts, notes=notes)


# From a fit to tables

Key = tuple[str, str | None]
"""A term, and of which contestant or judge."""
NOTHING = (math.nan, math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    bounded: dict[Key, tuple[float, float, float]]
    """Value, low and high, in points."""
    failed: int
    """Resamples that did not converge."""
    same: bool
    """Some value is the same whatever topics weigh."""


def _with_and_without(standing: Standing, weights_RT: Array) -> tuple[_Fitted, _Fitted]:
    """What everything comes to, and what it does without the length."""
    full = _fitted(standing.terms, standing.rows, weights_RT)
    shorter = [term for term in standing.terms if term.name != "length"]
    return full, full if len(shorter) == len(standing.terms) else _fitted(shorter, standing.rows, weights_RT)


def _fitted(terms: list[Term], rows: pl.DataFrame, weights_RT: Array) -> _Fitted:
    """What each term comes to, with an interval over topics."""
    if not terms:
        return _Fitted(bounded={}, failed=0, same=False)
    design_DP = np.column_stack([term.columns_DP for term in terms])
    score_D, topic_D = rows["score"].to_numpy(), rows["topic_id"].rank("dense").to_numpy().astype(np.int64) - 1
    best_P = fit(score_D, design_DP)
    if best_P is None:
        raise RatingsError(f"the ratings of {len(terms[0].who)} contestants exist, but were not found")
    again_RP = refit(score_D, design_DP, topic_D, weights_RT, best_P)
    value_Q, resampled_RQ = _points(terms, best_P[None])[0], _points(terms, again_RP)
    topics_Q = np.full(len(value_Q), weights_RT.shape[1])
    error_Q = standard_error(resampled_RQ, topics_Q)
    low_Q, high_Q = t_interval(value_Q, error_Q, topics_Q)
    if weights_RT.shape[1] < FEW:
        low_Q, high_Q = np.full((2, len(value_Q)), math.nan)
    keys = [(term.name, name) for term in terms for name in term.who]
    bounded = dict(zip(keys, zip(value_Q.tolist(), low_Q.tolist(), high_Q.tolist(), strict=True), strict=True))
    return _Fitted(bounded=bounded, failed=int(np.isnan(again_RP[:, 0]).sum()), same=bool((error_Q <= NO_WIDTH).any()))


def _points(terms: list[Term], x_RP: Array) -> Array:
    """[R, Q]: what each name of each term is worth, in points; ratings about their mean."""
    ends = np.cumsum([term.columns_DP.shape[1] for term in terms])[:-1]
    parts = zip(terms, np.split(x_RP, ends, axis=1), strict=True)
    points_RQ = POINTS * np.concatenate([part_RP @ term.read_NP.T for term, part_RP in parts], axis=1)
    points_RQ[:, : len(terms[0].who)] += MEAN
    return points_RQ


def _frame(standing: Standing, names: list[str], full: _Fitted, plain: _Fitted) -> pl.DataFrame:
    """Contestants, best first; equals share a rank and stand by name."""
    rows = [
        [name, *full.bounded.get(("strengths", name), NOTHING), *plain.bounded.get(("strengths", name), NOTHING)]
        for name in names
    ]
    sat = [(standing.rows[SEATS[0]] == name) | (standing.rows[SEATS[1]] == name) for name in names]
    frame = pl.DataFrame(rows, schema={name: kind for name, kind in COLUMNS.items() if kind != pl.Int32}, orient="row")
    rating = pl.col("rating").round(6)
    return (
        frame.with_columns(
            pl.col(pl.Float64).fill_nan(None), verdicts=pl.Series([int(here.sum()) for here in sat], dtype=pl.Int32)
        )
        .with_columns(rank=rating.rank("min", descending=True))
        .sort(rating, "contestant", descending=[True, False], nulls_last=True)
        .select(pl.col(name).cast(kind) for name, kind in COLUMNS.items())
    )


def _table(judges: Sequence[str], length: bool, full: _Fitted, words: float) -> pl.DataFrame:
    """The terms that were asked for; null where one cannot be told."""
    asked = [("side", None), *[("length", None)] * length, ("opener", None), *(("judge", name) for name in judges)]
    units = {
        "side": "standing on FOR",
        "length": f"each {words:.0f} words more",
        "opener": "speaking first",
        "judge": "standing on FOR before this judge, beside the mean of judges",
    }
    rows = []
    for term, judge in asked:
        value, low, high = full.bounded.get((term, judge), NOTHING)
        spoken = words if term == "length" and words else None
        rows.append([term, judge, value, low, high, value / POINTS, units[term], spoken])
    return pl.DataFrame(rows, schema=TERM_COLUMNS, orient="row").with_columns(pl.col(pl.Float64).fill_nan(None))


def _doubts(standing: Standing, resamples: int, *fits: _Fitted) -> Iterator[str]:
    """What a reader of the intervals must know."""
    if not standing.terms:
        return
    if standing.topics < FEW:
        yield f"{standing.topics} topics are too few for intervals; from {FEW} on there are some"
    if resamples < 200:
        yield f"{resamples} resamples: intervals are {'missing' if resamples < 2 else 'rough'}"
    if failed := max(fitted.failed for fitted in fits):
        fate = "left out" if failed <= MAY_FAIL * resamples else "too many for an interval"
        yield f"{failed} of {resamples} resamples did not converge: {fate}"
    if any(fitted.same for fitted in fits):
        yield "every topic says the same of some rating or term, which then has no interval"
