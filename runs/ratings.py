"""Ratings: who argues better, by how much, and how sure that is.

    from runs.ratings import leaderboard
    board = leaderboard(debates, verdicts, judge="rules")
    print(board.frame, board.side, *board.notes, sep="\\n")

The idea. Each contestant has a strength theta, and standing on FOR is worth gamma to anybody:

    logit P(FOR wins) = theta_for - theta_against + gamma

Strengths are shown on the usual scale: 400 points are odds of ten to one, the mean is 1500. Where FOR always
speaks first, gamma is side and order of speaking together; only a run that alternates the opener can tell them
apart. One judge is rated at a time, and verdicts that decide nothing (abstain, invalid) and void debates are
counted, shown, and left out.

How this departs from the textbook's Bradley-Terry model:

1. It has the side term, so a contestant who stood on the better side more often gains nothing by it.
2. A tie is half a win to each.
3. It asks first whether there is an estimate to find. A contestant who only ever won has no finite strength, and
   an optimiser stopped somewhere on the way to infinity would print a number all the same. Ratings are for the
   largest group whose members have all won (or tied) against each other, directly or through others; whoever
   stands outside it is named in the notes. Leaving out debates with outsiders costs nothing: a debate whose
   result the limit predicts with certainty has no say about the rest.
4. Intervals come from reweighting topics, not verdicts (`runs/statistics.py` says why and how).
5. All resamples are one batch of Newton iterations on win matrices (`runs/bradley_terry.py`), which makes them
   cheap enough to be always on.

Array names end in their dimensions: R resamples, T topics, C contestants, F the contestant on FOR, A the one on
AGAINST, Q quantities (a rating for each contestant, then the side term).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from runs.bradley_terry import Fit, Mask, can_grow, fit, reach
from runs.statistics import MAY_FAIL, NO_WIDTH, Array, Estimate, rates, standard_error, t_interval, topic_weights
from topics.errors import InputError, listed, near

POINTS = 400 / math.log(10)
"""Rating points in one logit."""
MEAN = 1500.0
FEW_TOPICS = 40
"""Below this many topics the notes ask for care."""
WINNERS = ("for", "against", "tie", "abstain", "invalid")


class RatingsError(RuntimeError):
    """Ratings exist and were not found."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Who stands where, in the eyes of one judge."""

    frame: pl.DataFrame
    """One row a contestant, best first: those above every rating, the rated, those below, the disconnected.

    `rank` (null for the unrated), `contestant`, `rating`, `low`, `high`; `debates` = `wins` + `losses` + `ties`
    (those with a verdict; a debate against oneself counts on both sides); for both sides `for_win_rate`,
    `for_low`, `for_high`, `for_debates` (a tie is half a win); `void_rate`, `void_low`, `void_high`, `scheduled`
    (debates that ended, void ones included)."""
    side: Estimate
    """What standing on FOR is worth, in rating points: side and order together where FOR always opens."""
    judge: str | None
    """Null where nobody has given a verdict."""
    topics: int
    """Topics with a rated verdict."""
    verdicts: int
    """Rated ones: for, against or tie, of a debate that is not void."""
    voids: int
    """Void debates, whatever verdicts they have."""
    abstained: int
    """Verdicts left out because the judge abstained."""
    invalid: int
    notes: tuple[str, ...]
    """What a reader must know before believing the numbers, one sentence each."""


def leaderboard(
    debates: pl.DataFrame | pl.LazyFrame,
    verdicts: pl.DataFrame | pl.LazyFrame,
    *,
    judge: str | None = None,
    contestants: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Leaderboard:
    """Rate the contestants of a run's `debates` by one judge's `verdicts` (columns as in a run's tables).

    `judge` may be left out where only one judge gave verdicts. `contestants` are listed even if they have no
    debate. Verdicts of debates that are not in `debates` are ignored, so filtering `debates` rates a part of a
    run. The same input and `seed` give the same intervals, whatever the order of the rows.

    Raises `InputError` for a judge that is unknown or not named among several and for a winner that is none;
    `RatingsError` where the ratings exist and Newton did not find them.
    """
    if resamples < 0:
        raise ValueError(f"resamples is {resamples}; it must be 0 (no intervals) or more")
    judge, votes = _of_judge(verdicts.lazy(), judge)
    tally = _tally(debates.lazy(), votes, contestants)
    standing = _standing(tally)
    weights_RT = topic_weights(len(tally.score_TFA), resamples, seed)
    ratings = _rate(tally, standing, weights_RT)
    columns = _counts(tally) | ratings.columns | _rates(tally, weights_RT)
    return Leaderboard(
        frame=_frame(tally, standing, columns),
        side=ratings.side,
        judge=judge,
        topics=int(tally.count_TFA.any(axis=(1, 2)).sum()),
        verdicts=int(tally.count_TFA.sum()),
        voids=tally.voids,
        abstained=tally.abstained,
        invalid=tally.invalid,
        notes=(*standing.notes, *ratings.notes, *_left_out(tally)),
    )


# From tables to matrices


@dataclass(frozen=True, kw_only=True)
class _Tally:
    names: list[str]
    for_TFA: Array
    """How often FOR won."""
    against_TFA: Array
    tie_TFA: Array
    ended_TC: Array
    """Debates that ended, by contestant."""
    void_TC: Array
    voids: int
    abstained: int
    invalid: int
    unjudged: int
    open: int
    openers: frozenset[str]

    @property
    def score_TFA(self) -> Array:
        """Wins of FOR, a tie as half."""
        return self.for_TFA + self.tie_TFA / 2

    @property
    def count_TFA(self) -> Array:
        """Rated verdicts."""
        return self.for_TFA + self.against_TFA + self.tie_TFA


def _of_judge(verdicts: pl.LazyFrame, judge: str | None) -> tuple[str | None, pl.DataFrame]:
    """The judge, and its verdicts: `debate_id`, `winner`."""
    frame = verdicts.select(pl.col("debate_id", "judge", "winner").cast(pl.String)).collect()
    known = sorted(frame["judge"].unique().drop_nulls())
    if judge is None and len(known) > 1:
        raise InputError(f"verdicts of {len(known)} judges: name the one to rate by, out of {listed(known)}")
    if judge is not None and known and judge not in known:
        raise InputError(f"no verdict of judge {judge!r}; there are those of {listed(known)}{near(judge, known)}")
    judge = judge if judge is not None else next(iter(known), None)
    frame = frame.filter(pl.col("judge").eq_missing(pl.lit(judge)))
    unknown = frame.filter(pl.col("winner").is_in(WINNERS).not_().fill_null(True))
    if len(unknown):
        debate_id, winner = unknown.select("debate_id", "winner").row(0)
        raise InputError(f"winner {winner!r} of debate {debate_id!r} is unknown; expected one of {listed(WINNERS)}")
    return judge, frame.select("debate_id", "winner")


def _tally(debates: pl.LazyFrame, votes: pl.DataFrame, contestants: Sequence[str]) -> _Tally:
    """Count everything once, by topic and by who stood on which side."""
    wanted = ["debate_id", "topic_id", "for_contestant", "against_contestant", "status"]
    opener = [name for name in ("opener",) if name in debates.collect_schema().names()]
    known = debates.select(pl.col(*wanted, *opener).cast(pl.String)).collect()
    ended = known.filter(pl.col("status") != "open")
    names = sorted({*contestants, *known["for_contestant"].unique(), *known["against_contestant"].unique()})
    topics = sorted(ended["topic_id"].unique())
    sides = {"F": "for_contestant", "A": "against_contestant"}
    ended = ended.with_columns(
        pl.col("topic_id").cast(pl.Enum(topics)).to_physical().cast(pl.Int64).alias("T"),
        *(pl.col(side).cast(pl.Enum(names)).to_physical().cast(pl.Int64).alias(dim) for dim, side in sides.items()),
    )
    complete, void = ended.filter(pl.col("status") != "void"), ended.filter(pl.col("status") == "void")
    judged = complete.join(votes, on="debate_id")
    shape = (len(topics), len(names), len(names))
    by_winner = {winner: _histogram(judged.filter(pl.col("winner") == winner), shape) for winner in WINNERS[:3]}
    return _Tally(
        names=names,
        for_TFA=by_winner["for"],
        against_TFA=by_winner["against"],
        tie_TFA=by_winner["tie"],
        ended_TC=_both_sides(_histogram(ended, shape)),
        void_TC=_both_sides(_histogram(void, shape)),
        voids=len(void),
        abstained=int((judged["winner"] == "abstain").sum()),
        invalid=int((judged["winner"] == "invalid").sum()),
        unjudged=len(complete.join(votes, on="debate_id", how="anti")),
        open=len(known) - len(ended),
        openers=frozenset(judged["opener"].unique()) if opener else frozenset(),
    )


def _histogram(rows: pl.DataFrame, shape: tuple[int, int, int]) -> Array:
    """Rows by their codes `T`, `F`, `A`."""
    topic, on_for, on_against = (rows[dim].to_numpy() for dim in "TFA")
    cells = (topic * shape[1] + on_for) * shape[2] + on_against
    return np.bincount(cells, minlength=math.prod(shape)).reshape(shape).astype(np.float64)


def _both_sides(count_TFA: Array) -> Array:
    return np.asarray(count_TFA.sum(axis=2) + count_TFA.sum(axis=1))


# Who can be rated


@dataclass(frozen=True, kw_only=True)
class _Standing:
    rated: NDArray[np.int64]
    """The contestants that have a rating, as indices; none where the model has no estimate."""
    tier_C: NDArray[np.int64]
    """0 above every rating, 1 rated, 2 below, 3 no telling."""
    notes: tuple[str, ...]


def _standing(tally: _Tally) -> _Standing:
    """The largest group that can be rated, and what keeps each of the others out of it."""
    score_FA, count_FA = tally.score_TFA.sum(axis=0), tally.count_TFA.sum(axis=0)
    spoke_C = count_FA.any(axis=0) | count_FA.any(axis=1)
    unrated = np.arange(0), np.full(len(tally.names), 3)
    if not spoke_C.any():
        return _Standing(rated=unrated[0], tier_C=unrated[1], notes=("no rated verdict, so nobody has a rating",))
    silent = _named(tally, ~spoke_C, "no rated debate, so no rating: {}")
    reach_CC = reach(score_FA, count_FA)
    group = _largest(reach_CC & reach_CC.T, count_FA)
    inside = np.ix_(group, group)
    if why := _no_estimate(score_FA[inside], count_FA[inside]):
        return _Standing(rated=unrated[0], tier_C=unrated[1], notes=(why, *silent))
    above_C, below_C = reach_CC[:, group[0]], reach_CC[group[0]]
    tier_C = np.select([above_C & below_C, above_C, below_C], [1, 0, 2], default=3)
    notes = (
        *_named(tally, tier_C == 0, "rating unbounded above, won every debate against the rated contestants: {}"),
        *_named(tally, tier_C == 2, "rating unbounded below, lost every debate against the rated contestants: {}"),
        *_named(tally, (tier_C == 3) & spoke_C, "disconnected, no chain of wins leads to or from those rated: {}"),
        *silent,
    )
    return _Standing(rated=group, tier_C=tier_C, notes=notes)


def _named(tally: _Tally, chosen_C: Mask, sentence: str) -> tuple[str, ...]:
    """The sentence with the chosen contestants' names, or nothing where none is chosen."""
    names = [name for name, chosen in zip(tally.names, chosen_C, strict=True) if chosen]
    return (sentence.format(listed(names)),) if names else ()


def _largest(same_CC: Mask, count_FA: Array) -> NDArray[np.int64]:
    """The largest class of an equivalence, the one with most debates among equals."""
    classes = {tuple(np.flatnonzero(row)) for row in same_CC}
    size = {members: (len(members), count_FA[np.ix_(members, members)].sum()) for members in classes}
    return np.array(max(sorted(classes), key=size.__getitem__), dtype=np.int64)


def _no_estimate(score_FA: Array, count_FA: Array) -> str:
    """Why a group that is connected by wins in both directions has no ratings all the same, or nothing."""
    if len(score_FA) < 2:
        return "no rating exists: no two contestants have each won or tied against the other, even through others"
    above, below = (can_grow(score_FA, count_FA, sign) for sign in (+1, -1))
    if above and below:
        return "no rating exists: nobody changed sides in a way that tells a side's worth from a contestant's"
    if not (above or below):
        return ""
    side, way = ("FOR", "above") if above else ("AGAINST", "below")
    if (score_FA == (count_FA if above else 0)).all():
        return f"no rating exists: {side} won every debate, so the side term is unbounded {way} and explains all"
    return f"no rating exists: the side term is unbounded {way}, {side} won too often for so few debates"


# From fits to a table


@dataclass(frozen=True, kw_only=True)
class _Ratings:
    columns: dict[str, Array]
    side: Estimate
    notes: tuple[str, ...]


def _rate(tally: _Tally, standing: _Standing, weights_RT: Array) -> _Ratings:
    """Ratings and side term of the rated contestants, with intervals."""
    columns = {name: np.full(len(tally.names), np.nan) for name in ("rating", "low", "high")}
    group = standing.rated
    if not len(group):
        return _Ratings(columns=columns, side=Estimate(value=None, low=None, high=None), notes=())
    inside = np.ix_(np.arange(len(tally.score_TFA)), group, group)
    score_TFA, count_TFA = tally.score_TFA[inside], tally.count_TFA[inside]
    best = fit(score_TFA.sum(axis=0)[None], count_TFA.sum(axis=0)[None])
    if not best.converged_R[0]:
        raise RatingsError(f"the ratings of {len(group)} contestants exist, but Newton's method did not reach them")
    again = fit(_weighted(weights_RT, score_TFA), _weighted(weights_RT, count_TFA), start=best)
    value_Q, resampled_RQ = _points(best)[0], _points(again)
    topics = int(count_TFA.any(axis=(1, 2)).sum())
    topics_Q = np.full(len(value_Q), topics)
    error_Q = standard_error(resampled_RQ, topics_Q)
    low_Q, high_Q = t_interval(value_Q, error_Q, topics_Q)
    for name, value in zip(columns, (value_Q, low_Q, high_Q), strict=True):
        columns[name][group] = value[:-1]
    side = Estimate(value=float(value_Q[-1]), low=_or_none(low_Q[-1]), high=_or_none(high_Q[-1]))
    notes = _doubts(topics, len(weights_RT), int((~again.converged_R).sum()), bool((error_Q <= NO_WIDTH).any()))
    return _Ratings(columns=columns, side=side, notes=notes)


def _weighted(weights_RT: Array, part_TFA: Array) -> Array:
    flat = weights_RT @ part_TFA.reshape(len(part_TFA), -1)
    return np.asarray(flat.reshape(-1, *part_TFA.shape[1:]))


def _points(fitted: Fit) -> Array:
    """[R, Q]: ratings of the contestants, then the side term, in points."""
    return np.column_stack([MEAN + POINTS * fitted.strength_RC, POINTS * fitted.side_R])


def _doubts(topics: int, resamples: int, failed: int, same: bool) -> tuple[str, ...]:
    """What a reader of the intervals must know."""
    notes = []
    if topics == 1:
        notes.append("one topic: no interval, since nothing shows how topics differ")
    elif topics < FEW_TOPICS:
        notes.append(f"only {topics} topics: intervals rest on t({topics - 1}) and on few topics' differences")
    if resamples < 200:
        notes.append(f"{resamples} resamples: intervals are {'missing' if resamples < 2 else 'rough'}")
    if failed:
        fate = "left out" if failed <= MAY_FAIL * resamples else "too many for an interval"
        notes.append(f"{failed} of {resamples} resamples did not converge: {fate}")
    if same:
        notes.append("every topic says the same of some rating or of the side, which then has no interval")
    return tuple(notes)


def _rates(tally: _Tally, weights_RT: Array) -> dict[str, Array]:
    """Win rates on both sides and the rate of void debates, with intervals from the same resamples."""
    score_TFA, count_TFA = tally.score_TFA, tally.count_TFA
    parts = {
        "for_win_rate": (score_TFA.sum(2), count_TFA.sum(2)),
        "against_win_rate": ((count_TFA - score_TFA).sum(1), count_TFA.sum(1)),
        "void_rate": (tally.void_TC, tally.ended_TC),
    }
    part_TQ, whole_TQ = (np.concatenate(columns, axis=1) for columns in zip(*parts.values(), strict=True))
    rate_Q, low_Q, high_Q = rates(part_TQ, whole_TQ, weights_RT)  # NaN without any debate, and then null
    columns: dict[str, Array] = {}
    for i, name in enumerate(parts):
        of = slice(i * len(tally.names), (i + 1) * len(tally.names))
        short = name.split("_")[0]
        columns |= {name: rate_Q[of], f"{short}_low": low_Q[of], f"{short}_high": high_Q[of]}
    return columns


def _counts(tally: _Tally) -> dict[str, Array]:
    """By contestant; a debate is counted on both of its sides."""
    wins = tally.for_TFA.sum(axis=(0, 2)) + tally.against_TFA.sum(axis=(0, 1))
    losses = tally.against_TFA.sum(axis=(0, 2)) + tally.for_TFA.sum(axis=(0, 1))
    ties = _both_sides(tally.tie_TFA).sum(axis=0)
    return {
        "debates": wins + losses + ties,
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "for_debates": tally.count_TFA.sum(axis=(0, 2)),
        "against_debates": tally.count_TFA.sum(axis=(0, 1)),
        "scheduled": tally.ended_TC.sum(axis=0),
    }


COLUMNS = {
    "rank": pl.Int32,
    "contestant": pl.String,
    **dict.fromkeys(("rating", "low", "high"), pl.Float64),
    **dict.fromkeys(("debates", "wins", "losses", "ties"), pl.Int32),
    **dict.fromkeys(("for_win_rate", "for_low", "for_high"), pl.Float64),
    "for_debates": pl.Int32,
    **dict.fromkeys(("against_win_rate", "against_low", "against_high"), pl.Float64),
    "against_debates": pl.Int32,
    **dict.fromkeys(("void_rate", "void_low", "void_high"), pl.Float64),
    "scheduled": pl.Int32,
}
"""Of a leaderboard's frame, in order."""


def _frame(tally: _Tally, standing: _Standing, columns: dict[str, Array]) -> pl.DataFrame:
    """Sort and rank. Those without a rating stand by win rate within their tier; equals share a rank, by name."""
    merit = pl.coalesce(pl.col("rating").round(6), (pl.col("wins") + pl.col("ties") / 2) / pl.col("debates"))
    frame = pl.DataFrame({"contestant": tally.names, "tier": standing.tier_C, **columns})
    return (
        frame.with_columns(pl.col(pl.Float64).fill_nan(None))
        .with_columns(merit.fill_nan(None).alias("merit"), rank=pl.col("rating").round(6).rank("min", descending=True))
        .sort("tier", "merit", "contestant", descending=[False, True, False], nulls_last=True)
        .select(pl.col(name).cast(kind) for name, kind in COLUMNS.items())
    )


def _left_out(tally: _Tally) -> tuple[str, ...]:
    """What the run holds and the ratings do not."""
    counts = {
        "void, and left out": tally.voids,
        "still open, and left out": tally.open,
        "without a verdict, and left out": tally.unjudged,
        "left out because the judge abstained": tally.abstained,
        "left out because the verdict is invalid": tally.invalid,
    }
    notes = [f"{n} {'debate' if n == 1 else 'debates'} {why}" for why, n in counts.items() if n]
    if len(tally.openers) == 1:
        opener = next(iter(tally.openers)).upper()
        notes.append(f"{opener} always spoke first, so the side term is side and order together")
    return tuple(notes)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
