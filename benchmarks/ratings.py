"""How long a leaderboard takes: ours against evalica's Bradley-Terry, in one run on one machine.

    python -m benchmarks.ratings            # or: python benchmarks/ratings.py

Made from a seed: 13,726 verdicts on debates of 10 contestants about 259 topics. Both sides get the same topic
weights. evalica is given every advantage: verdicts already added up by pair and result, weights by one matrix
product, nothing after its 1,000 fits. It has no side term; the last line says how far the two are apart without one.

Then as many verdicts of three judges, with every term planted: ours against a GLM of statsmodels, which is timed on a
few resamples, begun where ours begin, and multiplied.
"""

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import evalica
import numpy as np
import polars as pl
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for those who run it as a file

from runs import logistic
from runs.bradley_terry import Fit, fit
from runs.ratings import POINTS, leaderboard
from runs.statistics import standard_error, topic_weights
from runs.terms import controlled

VERDICTS, CONTESTANTS, TOPICS, RESAMPLES = 13_726, 10, 259, 1000
MANY, TIMED = 10_000, 5
"""Resamples of the model with every term, and those that statsmodels fits."""
OWN = {"fair": 0.0, "keen": 0.4, "stern": -0.4}
"""What each judge adds to the side, in logits."""
WINNERS = {"for": evalica.Winner.X, "against": evalica.Winner.Y, "tie": evalica.Winner.Draw}

Array = NDArray[np.float64]


def tables(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`debates` and `verdicts` with planted strengths, a planted side term, and one tie in twenty."""
    rng = np.random.default_rng(seed)
    strength = np.linspace(-1, 1, CONTESTANTS)
    topic = rng.permutation(np.arange(VERDICTS) % TOPICS)
    on_for = rng.integers(CONTESTANTS, size=VERDICTS)
    on_against = (on_for + rng.integers(1, CONTESTANTS, size=VERDICTS)) % CONTESTANTS
    p = 1 / (1 + np.exp(strength[on_against] - strength[on_for] - 0.3))
    winner = np.where(rng.random(VERDICTS) < p, "for", "against")
    winner[rng.random(VERDICTS) < 0.05] = "tie"
    debates = pl.DataFrame({"T": topic, "F": on_for, "A": on_against}).select(
        pl.format("debate {}", pl.int_range(VERDICTS)).alias("debate_id"),
        pl.format("topic {}", "T").alias("topic_id"),
        pl.format("contestant {}", "F").alias("for_contestant"),
        pl.format("contestant {}", "A").alias("against_contestant"),
        pl.lit("for").alias("opener"),
        pl.lit("complete").alias("status"),
    )
    return debates, debates.select("debate_id", pl.lit("rules").alias("judge"), pl.Series("winner", winner))


def added_up(debates: pl.DataFrame, verdicts: pl.DataFrame) -> tuple[pl.DataFrame, Array]:
    """Every pair and result that occurs, one row each, and how often by topic, [T, row]."""
    cell = ["for_contestant", "against_contestant", "winner"]
    wide = (
        debates.join(verdicts, on="debate_id")
        .pivot("topic_id", index=cell, values="debate_id", aggregate_function="len")
        .fill_null(0)
        .sort(cell)
    )
    return wide.select(cell), wide.drop(cell).to_numpy().T.astype(np.float64)


def matrices(cells: pl.DataFrame, count_TK: Array) -> tuple[Array, Array]:
    """`score_TFA` and `count_TFA`, as `runs.bradley_terry.fit` takes them once topics are weighted and added up."""
    names = sorted(cells["for_contestant"].unique())
    score, count = np.zeros((2, TOPICS, len(names), len(names)))
    points = {"for": 1, "against": 0, "tie": 0.5}
    for k, (on_for, on_against, winner) in enumerate(cells.rows()):
        score[:, names.index(on_for), names.index(on_against)] += points[winner] * count_TK[:, k]
        count[:, names.index(on_for), names.index(on_against)] += count_TK[:, k]
    return score, count


def ours(score_TFA: Array, count_TFA: Array, *, side: bool = True) -> tuple[Fit, Array]:
    """The fit and its standard errors, from matrices."""
    weights_RT = topic_weights(TOPICS, RESAMPLES, 0)
    shape = (RESAMPLES, CONTESTANTS, CONTESTANTS)
    score_RFA, count_RFA = (weights_RT @ part.reshape(TOPICS, -1) for part in (score_TFA, count_TFA))
    best = fit(score_TFA.sum(axis=0)[None], count_TFA.sum(axis=0)[None], side=side)
    again = fit(score_RFA.reshape(shape), count_RFA.reshape(shape), side=side, start=best)
    return best, standard_error(again.strength_RC, np.full(CONTESTANTS, TOPICS))


def theirs(cells: pl.DataFrame, count_TK: Array) -> tuple[Array, Array]:
    """evalica's fit [C] and those of the resamples [R, C], in logits of mean 0."""
    names = sorted(cells["for_contestant"].unique())
    on_for, on_against = cells["for_contestant"].to_list(), cells["against_contestant"].to_list()
    winners = [WINNERS[winner] for winner in cells["winner"]]
    *_, index = evalica.indexing(on_for, on_against)

    def logits(weights: Array) -> Array:
        scores = evalica.bradley_terry(on_for, on_against, winners, index=index, weights=weights.tolist()).scores
        logs = np.log(scores[names].to_numpy())
        return np.asarray(logs - logs.mean())

    weights_RT = topic_weights(TOPICS, RESAMPLES, 0)
    return logits(count_TK.sum(axis=0)), np.array([logits(row) for row in weights_RT @ count_TK])


def seconds(work: Callable[[], object], times: int = 5) -> tuple[float, float]:
    """The best of several runs, after one that does not count: on the clock, and of all processors together."""
    work()
    taken = []
    for _ in range(times):
        start, busy = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - start, time.process_time() - busy))
    return min(taken)


def judged(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """`debates`, `verdicts` of three judges and `turns`, with every term planted: as many verdicts as above."""
    rng = np.random.default_rng(seed)
    debates, _ = tables(seed)
    debates = debates.head(-(-VERDICTS // len(OWN))).with_columns(
        opener=pl.Series(["for", "against"]).sample(-(-VERDICTS // len(OWN)), with_replacement=True, seed=seed)
    )
    strength = {f"contestant {i}": theta for i, theta in enumerate(np.linspace(-1, 1, CONTESTANTS))}
    seats = [debates[f"{side}_contestant"].replace_strict(strength).to_numpy() for side in ("for", "against")]
    words = [np.round(600 - 30 * seat + 40 * rng.normal(size=len(debates))).astype(int) for seat in seats]
    logit = seats[0] - seats[1] + 0.3 + 0.4 * (debates["opener"] == "for").to_numpy() + (words[0] - words[1]) / 150
    told = []
    for judge, own in OWN.items():
        winner = np.where(rng.random(len(debates)) < 1 / (1 + np.exp(-logit - own)), "for", "against")
        winner[rng.random(len(debates)) < 0.05] = "tie"
        told.append(debates.select("debate_id", pl.lit(judge).alias("judge"), pl.Series("winner", winner)))
    turns = [
        debates.select("debate_id", pl.lit(side).alias("side"), pl.Series("words", said))
        for side, said in zip(("for", "against"), words, strict=True)
    ]
    return debates, pl.concat(told).head(VERDICTS), pl.concat(turns)


def designed(
    debates: pl.DataFrame, verdicts: pl.DataFrame, turns: pl.DataFrame
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Score, design and topic of each verdict, as a GLM takes them: the first contestant and judge are nought."""
    said = turns.pivot("side", index="debate_id", values="words")
    wide = verdicts.join(debates, on="debate_id").join(said, on="debate_id").sort("topic_id", "debate_id", "judge")
    names, judges = sorted(wide["for_contestant"].unique()), sorted(wide["judge"].unique())
    seats = [wide[f"{side}_contestant"].to_numpy()[:, None] == np.array(names[1:]) for side in ("for", "against")]
    longer = (wide["for"] - wide["against"]).to_numpy()
    columns = [
        seats[0].astype(np.float64) - seats[1],
        np.ones((len(wide), 1)),
        wide["judge"].to_numpy()[:, None] == np.array(judges[1:]),
        (wide["opener"] == "for").to_numpy()[:, None] - 0.5,
        longer[:, None] / longer.std(),
    ]
    score = wide["winner"].replace_strict({"for": 1.0, "against": 0.0, "tie": 0.5}).to_numpy()
    topic = wide["topic_id"].rank("dense").to_numpy().astype(np.int64) - 1
    return score, np.hstack(columns).astype(np.float64), topic


def glm(score_D: Array, design_DP: Array, weight_D: Array, near_P: Array) -> Array:
    """statsmodels' fit of one resample, from where ours begins."""
    import statsmodels.api as sm

    model = sm.GLM(score_D, design_DP, family=sm.families.Binomial(), var_weights=weight_D)
    return np.asarray(model.fit(start_params=near_P).params)


def every_term() -> None:
    debates, verdicts, turns = judged()
    score_D, design_DP, topic_D = designed(debates, verdicts, turns)
    near_P = logistic.fit(score_D, design_DP)
    assert near_P is not None
    weights_RT = topic_weights(topic_D.max() + 1, MANY, 0)
    found: list[Array] = []
    bare = seconds(lambda: found.append(logistic.refit(score_D, design_DP, topic_D, weights_RT, near_P)), times=2)
    whole = seconds(lambda: controlled(debates, verdicts, turns, resamples=MANY), times=2)
    few = weights_RT[:TIMED, topic_D]
    peers = [glm(score_D, design_DP, weight_D, near_P) for weight_D in few]
    timed = seconds(lambda: [glm(score_D, design_DP, weight_D, near_P) for weight_D in few], times=2)
    peer = tuple(MANY / TIMED * part for part in timed)
    print(f"\nEvery term: {len(score_D):,} verdicts of {len(OWN)} judges, {design_DP.shape[1]} parameters (strengths,")
    print(f"side, judges, opener, length), {MANY:,} resamples; best of 2; {os.cpu_count()} processors.\n")
    print("| | seconds | processor seconds | statsmodels' time over it |\n|---|---:|---:|---:|")
    for name, (taken, cpu) in {
        "`controlled`: tables to table, fitted with length and without": whole,
        "the fits with length alone": bare,
        f"statsmodels {version('statsmodels')}, GLM: {TIMED} fits, times {MANY // TIMED:,}": peer,
    }.items():
        print(f"| {name} | {taken:.2f} | {cpu:.2f} | {peer[0] / taken:.0f} |")
    apart = np.abs(found[0][:TIMED] - peers).max()
    print(f"\nLargest difference from statsmodels in {TIMED} resamples: {apart:.0e} logits.")


def main() -> None:
    debates, verdicts = tables()
    cells, count_TK = added_up(debates, verdicts)
    score_TFA, count_TFA = matrices(cells, count_TK)
    whole = seconds(lambda: leaderboard(debates, verdicts, resamples=RESAMPLES))[0]
    bare = seconds(lambda: ours(score_TFA, count_TFA))[0]
    peer = seconds(lambda: theirs(cells, count_TK))[0]
    rows = {
        "`leaderboard`: tables to table, side term, win and void rates": whole,
        "its fits alone: side term, from win matrices": bare,
        f"evalica {evalica.__version__}: no side term, from added-up rows": peer,
    }
    print(f"{VERDICTS:,} verdicts, {CONTESTANTS} contestants, {TOPICS} topics, {RESAMPLES:,} resamples; best of 5;")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}\n")
    print("| | seconds | evalica's time over it |\n|---|---:|---:|")
    for name, taken in rows.items():
        print(f"| {name} | {taken:.4f} | {peer / taken:.1f} |")
    plain, _ = ours(score_TFA, count_TFA, side=False)
    apart = np.abs(plain.strength_RC[0] - theirs(cells, count_TK)[0]).max() * POINTS
    print(f"\nLargest difference without side term, at evalica's default tolerance: {apart:.4f} rating points.")
    every_term()


if __name__ == "__main__":
    main()
