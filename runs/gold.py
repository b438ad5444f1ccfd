"""What a judge's verdicts would be worth if people had given them: win rates corrected with a small set of human votes.

    judges(run)          # how each judge does beside people: sensitivity, specificity, kappa
    win_rates(run)       # contestants' win rates by each judge, corrected for what it gets wrong

A judge that errs moves every win rate towards, or past, one half. How often it errs is known from the debates on which
people voted too (`human:<name>`), and can be taken out of all the others:

    share of debates that FOR wins = (p + q0 - 1) / (q0 + q1 - 1)

p is the judge's share, q1 (sensitivity) how often it says for where people do, q0 (specificity) how often it says
against where people do. Source: Rogan and Gladen, American Journal of Epidemiology 107 (1978).

What is decided here, beyond the formula:

1. The event is that FOR wins, so q0 and q1 are the judge's own, of all its debates beside people's, and a side that it
   leans to is taken out. A contestant's rate is put together from its debates on both sides. The price: a liking for
   one contestant is not seen. `people_rate`, from people's votes alone, stands beside it to show one.
2. Several people: what more than half of them say; without a majority, or where it is a tie, the debate says nothing
   of q0 and q1. A tie of the judge is half right.
3. There is no number where q0 or q1 rests on fewer than `runs.bias.FEW` topics, or where the 95 % interval of
   q0 + q1 - 1 reaches down to 0, a judge that tells nothing; `why` says which.
4. Topics are reweighted once for p, q0 and q1 together, so the interval has the doubt of all three. It is value -+
   t x error on the fewest topics that any of them rests on.
5. The corrected rate and its bounds are clipped to [0, 1]: beyond lies what luck in q0 and q1 adds.
6. A panel with a person among its members is not held beside people. Where that person voted, it would be compared with
   a part of itself; where nobody did, it is another panel. Its rates stay as they are, and `why` says so.

Array names end in their dimensions: R resamples, T topics, D debates, C contestants; X is R or nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from runs.agreement import compare
from runs.bias import FEW, SCORE
from runs.pairings import decided, seats
from runs.panels import HUMAN
from runs.shares import RESAMPLES, shares
from runs.spec import Spec
from runs.statistics import Array, rates, standard_error, t_interval, t_quantile, topic_weights
from runs.tables import Tables
from runs.verdicts import majority

Row = dict[str, Any]
Panels = Sequence[Mapping[str, Any]]

_BOUNDED = ("", "_low", "_high")
_RATES = ("sensitivity", "specificity", "agreement", "kappa")
_CORRECTED = ["corrected", "corrected_low", "corrected_high"]
_COUNTS = ("debates", "for_topics", "against_topics", "topics")


def people(verdicts: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """What people say of each debate that they voted on: `debate_id`, `winner` (of more than half, otherwise a tie)."""
    said = verdicts.lazy().filter(pl.col("judge").str.starts_with(HUMAN), pl.col("winner") != "invalid")
    by_debate = said.group_by("debate_id").agg("winner").sort("debate_id").collect()
    winners = [majority(winners) for winners in by_debate["winner"].to_list()]
    return by_debate.select("debate_id", winner=pl.Series(winners, dtype=pl.String))


def correct(won: Any, of: Any, q0: Any, q1: Any) -> Any:
    """How many of `of` debates people would say FOR won, where a judge of specificity `q0` and sensitivity `q1` says
    `won`; with `of` 1, a rate becomes a rate. Numbers or arrays.
    """
    return (won + of * (q0 - 1)) / (q0 + q1 - 1)


# Judges


def judges(
    run: Tables, judge: str | None = None, *, panels: Panels | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> pl.DataFrame:
    """Each judge that is no person beside people, on debates that both decided: `judge`, `sensitivity`, `specificity`,
    `agreement`, `kappa` (Cohen's; for, tie, against) with bounds, `debates`, `for_topics` and `against_topics` (those
    on which people said so), `topics`, `few_topics`. Panels that persons are members of are not among them; `panels`
    are by default those of the run's spec.
    """
    mixed = _with_persons(run, panels)
    columns = [f"{rate}{bound}" for rate in _RATES for bound in _BOUNDED]
    schema = {"judge": pl.String, **dict.fromkeys(columns, pl.Float64), **dict.fromkeys(_COUNTS, pl.Int32)}
    alone = (one for one in _each(run, judge) if one[0] not in mixed)
    rows = [row for name, said in alone for row in _beside(name, said, resamples, seed)]
    bounds = pl.col(name for name in columns if name not in _RATES)
    return (
        pl.DataFrame(rows, schema=schema, strict=False)
        .with_columns(pl.col(pl.Float64).fill_nan(None), few_topics=pl.col("topics") < FEW)
        .with_columns(pl.when(~pl.col("few_topics")).then(bounds))
    )


def _with_persons(run: Tables, panels: Panels | None) -> dict[str, str]:
    """Panels that have persons among their members, and why that bars them."""
    if panels is None:
        stored = Spec.beside(run.folder)
        panels = stored.panels if stored else ()
    persons = {panel["name"]: [name for name in panel["members"] if name.startswith(HUMAN)] for panel in panels}
    return {
        name: f"persons are on the panel itself: {', '.join(map(repr, some))}" for name, some in persons.items() if some
    }


def _each(run: Tables, judge: str | None) -> Iterator[tuple[str, pl.DataFrame]]:
    """Judges that are no person, and what they decided, with what people say (`people`, null where they do not)."""
    said = decided(run.debates, run.verdicts, judge).filter(~pl.col("judge").str.starts_with(HUMAN)).collect()
    beside = said.join(people(run.verdicts).rename({"winner": "people"}), on="debate_id", how="left")
    numbered = beside.with_columns(T=pl.col("topic_id").rank("dense").over("judge").cast(pl.Int64) - 1)
    for (name,), rows in numbered.sort("judge", "debate_id").group_by("judge", maintain_order=True):
        yield str(name), rows


def _beside(name: str, said: pl.DataFrame, resamples: int, seed: int) -> Iterator[Row]:
    both = said.filter(pl.col("people").is_in(list(SCORE)))
    weights_RT = topic_weights(said["T"].n_unique(), resamples, seed)
    code = {score: number for number, score in enumerate(SCORE.values())}
    codes = [pl.col("score").replace_strict(code), pl.col("people").replace_strict(SCORE).replace_strict(code)]
    if both.is_empty():
        return
    found: Row = compare(both.select(a=codes[0], b=codes[1]).to_numpy(), both["T"].to_numpy(), weights_RT)
    for rate, right_T2 in zip(("sensitivity", "specificity"), _right(said, len(weights_RT.T)), strict=True):
        bounded = rates(right_T2[:, :1], right_T2[:, 1:], weights_RT)
        found |= {f"{rate}{bound}": float(x[0]) for bound, x in zip(_BOUNDED, bounded, strict=True)}
        found["for_topics" if rate == "sensitivity" else "against_topics"] = int((right_T2[:, 1] > 0).sum())
    yield {"judge": name, **{key: value for key, value in found.items() if not key.startswith("alpha")}}


def _right(said: pl.DataFrame, topics: int) -> tuple[Array, Array]:
    """By topic, how often the judge said for where people did, and against where people did; [T, right and all]."""
    own = {"for": pl.col("score"), "against": 1 - pl.col("score")}
    on_for, on_against = (_by_topic(said.filter(people=side).with_columns(x=own[side]), topics) for side in own)
    return on_for, on_against


def _by_topic(rows: pl.DataFrame, topics: int) -> Array:
    """Sums of `x` by topic, and numbers of rows: [T, 2]."""
    place = rows["T"].to_numpy()
    return np.stack([np.bincount(place, x, topics) for x in (rows["x"].to_numpy(), None)], axis=1).astype(np.float64)


# Contestants


def win_rates(
    run: Tables, judge: str | None = None, *, panels: Panels | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> pl.DataFrame:
    """Contestants' win rates by each judge that is no person, and what they would be by people: `judge`, `contestant`,
    `win_rate` (as the judge has it), `people_rate` (as people's own verdicts have it; null without any), `corrected`,
    each with bounds; `why` there is no corrected one; `topics`, `few_topics`, `debates`, `people_debates`. `panels` are
    by default those of the run's spec.
    """
    by, mixed = ["judge", "contestant"], _with_persons(run, panels)
    each = ((name, said, mixed.get(name)) for name, said in _each(run, judge))
    rows = [row for name, said, why in each for row in _corrected(name, said, why, resamples, seed)]
    corrected = pl.DataFrame(
        rows, schema=dict.fromkeys([*by, "why"], pl.String) | dict.fromkeys(_CORRECTED, pl.Float64)
    )
    by_judge = seats(decided(run.debates, run.verdicts, judge)).filter(~pl.col("judge").str.starts_with(HUMAN))
    by_people = seats(decided(run.debates, people(run.verdicts).with_columns(judge=pl.lit("people"))))
    found = _rates(by_judge, by, "", resamples, seed).join(corrected, on=by, how="left")
    theirs = _rates(by_people, ["contestant"], "people_", resamples, seed).drop("topics", "few_topics")
    bounds = [f"{x}{bound}" for x in ("win_rate", "people_rate", "corrected") for bound in _BOUNDED]
    return (
        found.join(theirs, on="contestant", how="left")
        .with_columns(pl.col("people_debates").fill_null(0), pl.col(_CORRECTED).fill_nan(None))
        .with_columns(pl.when(~pl.col("few_topics")).then(pl.col(_CORRECTED[1:])))
        .select(*by, *bounds, "why", "topics", "few_topics", "debates", "people_debates")
        .sort(by)
    )


def _rates(placed: pl.LazyFrame, by: list[str], whose: str, resamples: int, seed: int) -> pl.DataFrame:
    """Win rates, and how many debates they are of."""
    name = f"{whose}rate" if whose else "win_rate"
    rate = shares(placed, by, {name: pl.col("score")}, resamples=resamples, seed=seed)
    counts = placed.group_by(by).agg(pl.len().cast(pl.Int32).alias(f"{whose}debates")).collect()
    return rate.join(counts, on=by, how="left")


def _corrected(judge: str, said: pl.DataFrame, why: str | None, resamples: int, seed: int) -> Iterator[Row]:
    """A judge's contestants with their corrected rates, or why there are none, which may be known beforehand."""
    weights_RT = topic_weights(said["T"].n_unique(), resamples, seed)
    right = _right(said, weights_RT.shape[1])
    why = why or _why_not(*right, weights_RT)
    for contestant in sorted({*said["for_contestant"], *said["against_contestant"]}):
        row: Row = {"judge": judge, "contestant": contestant, "why": why}
        if why is None:
            sides = (said.filter(pl.col(seat) == contestant) for seat in ("for_contestant", "against_contestant"))
            own = [_by_topic(rows.with_columns(x="score"), weights_RT.shape[1]) for rows in sides]
            row |= dict(zip(_CORRECTED, _estimate(own, right, weights_RT), strict=True))
        yield row


def _estimate(own: Sequence[Array], right: Sequence[Array], weights_RT: Array) -> list[float]:
    """A contestant's corrected rate and its bounds."""
    least = min(int((part_T2[:, 1] > 0).sum()) for part_T2 in (own[0] + own[1], *right))
    topics_1 = np.array([least])
    value_1 = _rate(*(part_T2.sum(axis=0, keepdims=True) for part_T2 in (*own, *right)))
    resampled_R = _rate(*(weights_RT @ part_T2 for part_T2 in (*own, *right)))
    bounds = t_interval(value_1, standard_error(resampled_R[:, None], topics_1), topics_1)
    return [float(x) for x in np.clip(np.concatenate([value_1, *bounds]), 0, 1)]


def _rate(on_for_X2: Array, on_against_X2: Array, for_X2: Array, against_X2: Array) -> Array:
    """A contestant's corrected rate, from FOR's wins of its debates on each side and what the judge got right."""
    q1_X, q0_X = (part[:, 0] / part[:, 1] for part in (for_X2, against_X2))
    (won_X, of_X), (lost_X, others_X) = on_for_X2.T, on_against_X2.T
    wins_X = correct(won_X, of_X, q0_X, q1_X) + others_X - correct(lost_X, others_X, q0_X, q1_X)
    return np.asarray(wins_X / (of_X + others_X))


def _why_not(for_T2: Array, against_T2: Array, weights_RT: Array) -> str | None:
    """Why there is nothing to correct by, or None."""
    topics = [int((part_T2[:, 1] > 0).sum()) for part_T2 in (for_T2, against_T2)]
    if min(topics) < FEW:
        return f"too few human verdicts: for on {topics[0]} topics, against on {topics[1]}; it takes {FEW} of each"
    sums_R2 = [np.vstack([part_T2.sum(axis=0), weights_RT @ part_T2]) for part_T2 in (for_T2, against_T2)]
    value_R = sum(part_R2[:, 0] / part_R2[:, 1] for part_R2 in sums_R2) - 1
    least = np.array([min(topics)])
    low = value_R[0] - t_quantile(least)[0] * standard_error(value_R[1:, None], least)[0]
    return None if low > 0 else f"the judge tells too little: q0 + q1 - 1 is {value_R[0]:.2f}, and may be 0"
