"""Who beats whom, where, and why perhaps not by arguing: the win matrix, strata, swapped pairs, length.

    win_matrix(run.debates, run.verdicts, "gpt")       # of every two contestants
    strata(run, "gpt", by="theme")                     # by theme, or by question_type
    swaps(run.debates, run.verdicts, "gpt")            # the same two on the same topic, each on both sides once
    lengths(run, "gpt")                                # how often the side wins that said more

Each gives a tidy frame by judge, of one judge or, without a name, of every one but a trajectory's (`gpt@4` reads a
part of a debate). Verdicts on complete debates count that decide something: abstain and invalid are left out. A tie is
half a win. Every rate has its interval over topics (`runs/shares.py`), and under `runs.bias.FEW` topics none.

What to know of swapped pairs: a tie is neither the side's nor the contestant's doing, so a pair with one counts as
decided by neither. Chance alone makes sides decide: between equals half of the pairs without a tie. In a public
benchmark of this kind (29 models, 683 motions) sides decide 26.8 % of swapped pairs.

What to know of length: who argues better may say more. This is the picture; the slope beside contestants' strengths is
in `runs/bias.py`.
"""

from collections.abc import Sequence
from typing import Literal

import polars as pl

from runs.bias import SCORE
from runs.panels import TRAJECTORY
from runs.shares import shares
from runs.tables import Tables
from runs.words import longer
from topics.errors import InputError, near

Frame = pl.DataFrame | pl.LazyFrame

_SEATS = ["for_contestant", "against_contestant"]


def decided(debates: Frame, verdicts: Frame, judge: str | None = None) -> pl.LazyFrame:
    """A row for each verdict that decides a complete debate: `judge`, `debate_id`, `topic_id`, `for_contestant`,
    `against_contestant`, `replicate`, and `score`, what FOR has of it (1, 0.5, 0).

    Raises `InputError` for a judge that gave no verdict, where others did.
    """
    said = verdicts.lazy().select("debate_id", "judge", "winner")
    if judge is None:
        said = said.filter(~pl.col("judge").str.contains(TRAJECTORY))
    else:
        known = said.select(pl.col("judge").unique()).collect()["judge"].to_list()
        if known and judge not in known:
            expected = f"there are those of {', '.join(map(repr, sorted(known)))}{near(judge, known)}"
            raise InputError(f"no verdict of judge {judge!r}; {expected}")
        said = said.filter(judge=judge)
    score = pl.col("winner").replace_strict(SCORE, default=None, return_dtype=pl.Float64)
    complete = debates.lazy().filter(status="complete").select("debate_id", "topic_id", *_SEATS, "replicate")
    return complete.join(said, on="debate_id").with_columns(score=score).drop_nulls("score").sort("judge", "debate_id")


def seats(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of `decided` twice, from each contestant's place: `contestant`, `other`, `side`, and `score`, theirs."""
    kept = pl.exclude(*_SEATS, "score")
    own = {"for": pl.col("score"), "against": 1 - pl.col("score")}
    places = zip(own, (_SEATS, _SEATS[::-1]), strict=True)
    return pl.concat(
        rows.select(kept, side=pl.lit(side), contestant=pl.col(one), other=pl.col(two), score=own[side])
        for side, (one, two) in places
    )


def win_matrix(debates: Frame, verdicts: Frame, judge: str | None = None, *, by_side: bool = False) -> pl.DataFrame:
    """A row for each contestant and each other that it met: `judge`, `contestant`, `other`; `by_side` also `side`, the
    contestant's; `win_rate` with bounds, `topics`, `few_topics`, `debates` = `wins` + `losses` + `ties`.

    Debates of a contestant against itself have no place in it.
    """
    by = ["judge", "contestant", "other", *(["side"] if by_side else [])]
    met = seats(decided(debates, verdicts, judge)).filter(pl.col("contestant") != pl.col("other")).collect()
    return _with(_counts(met, by), shares(met, by, {"win_rate": pl.col("score")}), by)


def strata(run: Tables, judge: str | None = None, *, by: Literal["theme", "question_type"] = "theme") -> pl.DataFrame:
    """A row for each stratum of the topics and each contestant: `judge`, the column `by` (null where a topic has
    none), `contestant` (null: FOR, whoever speaks), `win_rate` with bounds, `topics`, `few_topics`, `debates`, `wins`,
    `losses`, `ties`.
    """
    kinds = run.topics.select("topic_id", by)
    rows = decided(run.debates, run.verdicts, judge).join(kinds, on="topic_id", how="left")
    on_for = rows.with_columns(contestant=pl.lit(None, dtype=pl.String))
    columns = ["judge", "topic_id", "debate_id", by, "contestant", "score"]
    placed = pl.concat([part.select(columns) for part in (on_for, seats(rows))]).collect()
    groups = ["judge", by, "contestant"]
    return _with(_counts(placed, groups), shares(placed, groups, {"win_rate": pl.col("score")}), groups)


def _counts(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    outcomes = {"wins": 1.0, "losses": 0.0, "ties": 0.5}
    return rows.group_by(by).agg(
        pl.len().cast(pl.Int32).alias("debates"),
        *((pl.col("score") == score).sum().cast(pl.Int32).alias(name) for name, score in outcomes.items()),
    )


def _with(counts: pl.DataFrame, found: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    return found.join(counts, on=by, how="left", nulls_equal=True, maintain_order="left")


def swaps(debates: Frame, verdicts: Frame, judge: str | None = None) -> pl.DataFrame:
    """What decides pairs of debates that differ in who is on which side: same topic, same two contestants, same
    replicate.

    A row for each judge, and for each judge and two contestants: `judge`, `contestant`, `other` (null: all of them);
    shares with bounds: `side_share` (the same side won both), `contestant_share` (the same contestant did),
    `neither_share` (a tie in at least one); `topics`, `few_topics`, `pairs`, `for_both` and `against_both` (pairs that
    a side won, by which one).
    """
    both = _swapped(decided(debates, verdicts, judge).filter(pl.col(_SEATS[0]) != pl.col(_SEATS[1])))
    nobody = pl.lit(None, dtype=pl.String)
    everybody = both.with_columns(contestant=nobody, other=nobody)
    placed = pl.concat([everybody, both]).collect()
    by = ["judge", "contestant", "other"]
    counts = placed.group_by(by).agg(
        pl.len().cast(pl.Int32).alias("pairs"), *(pl.col(x).sum().cast(pl.Int32) for x in ("for_both", "against_both"))
    )
    parts = {
        "side_share": pl.col("for_both") | pl.col("against_both"),
        "contestant_share": pl.col("same"),
        "neither_share": pl.col("tied"),
    }
    return _with(counts, shares(placed, by, parts), by)


def _swapped(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Pairs of verdicts: on a debate with the contestant whose name comes first on FOR, and on its counterpart."""
    first, second = (
        rows.filter(pl.col(one) < pl.col(other)).rename({one: "contestant", other: "other"})
        for one, other in (_SEATS, _SEATS[::-1])
    )
    both = first.join(second, on=["judge", "topic_id", "contestant", "other", "replicate"])
    here, there = pl.col("score"), pl.col("score_right")
    tied = (here == 0.5) | (there == 0.5)
    return both.select(
        *("judge", "topic_id", "contestant", "other"),
        for_both=(here == 1) & (there == 1),
        against_both=(here == 0) & (there == 0),
        same=~tied & (here != there),
        tied=tied,
    )


def lengths(run: Tables, judge: str | None = None, *, bins: int = 8) -> pl.DataFrame:
    """How often the side that said more wins, by how much more: `judge`, `bin` (from 1; about equally many debates
    each), `words` (the mean difference), `words_from`, `words_to`; `win_rate` of the longer side with bounds,
    `topics`, `few_topics`, `debates`.

    The bins are the run's, so that judges can be compared; debates in which both sides said as much, or whose words are
    not known, are in none.
    """
    rows = decided(run.debates, run.verdicts, judge).join(_binned(run, bins), on="debate_id")
    won = pl.when(pl.col("longer") > 0).then(pl.col("score")).otherwise(1 - pl.col("score"))
    placed = rows.with_columns(won=won).collect()
    by, words = ["judge", "bin"], pl.col("longer").abs()
    counts = placed.group_by(by).agg(
        words=words.mean(), words_from=words.min(), words_to=words.max(), debates=pl.len().cast(pl.Int32)
    )
    return _with(counts, shares(placed, by, {"win_rate": pl.col("won")}), by)


def _binned(run: Tables, bins: int) -> pl.LazyFrame:
    """By how many words FOR said more in each debate, and the bin; equals stand in one bin."""
    apart = longer(run.debates, run.turns).filter(pl.col("longer") != 0)
    place = pl.col("longer").abs().rank("min").cast(pl.Int64) - 1
    return apart.with_columns(bin=(place * bins // pl.len() + 1).cast(pl.Int32))
