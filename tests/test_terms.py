"""Ratings with every term: from other people's code, from laws, and from runs whose truth was planted."""

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

import runs.logistic
from runs.logistic import fit, refit
from runs.ratings import MEAN, POINTS, RatingsError, leaderboard
from runs.statistics import topic_weights
from runs.terms import COLUMNS, TERM_COLUMNS, Controlled, controlled
from topics.errors import InputError

SIDES = ("for", "against")
JUDGES = ("fair", "keen", "stern")
OWN = {"fair": 0.0, "keen": 0.5, "stern": -0.5}
SIDE, OPENER, LENGTH, WORDS = 0.3, 0.4, 0.35, 60.0
STRENGTH = dict(zip("abcde", np.linspace(1, -1, 5), strict=True))


def league(
    seed: int,
    debates: int = 400,
    topics: int = 40,
    judges: Sequence[str] = JUDGES,
    ties: float = 0.1,
    noise: float = 0.0,
    opener: str | None = None,
) -> pl.DataFrame:
    """Verdicts with every term planted, one row each; whoever is weaker says more, and topics may shift what is so."""
    rng = np.random.default_rng(seed)
    names = np.array([*STRENGTH])
    theta = np.array([*STRENGTH.values()])
    topic = rng.permutation(np.arange(debates) % topics)
    on_for = rng.integers(len(names), size=debates)
    on_against = (on_for + rng.integers(1, len(names), size=debates)) % len(names)
    words = [
        np.round(600 - 30 * theta[seat] + 40 * rng.normal(size=debates)).astype(int) for seat in (on_for, on_against)
    ]
    opened = np.full(debates, opener) if opener else rng.choice(["for", "against"], debates)
    shift = noise * rng.normal(size=(topics, len(names) + 1))
    frame = pl.DataFrame(
        {
            "debate_id": [f"d{i:05}" for i in range(debates)],
            "topic_id": [f"t{i:03}" for i in topic],
            "for_contestant": names[on_for],
            "against_contestant": names[on_against],
            "opener": opened,
            "status": "complete",
            "for_words": words[0],
            "against_words": words[1],
        }
    )
    logit = planted_logit(frame) + shift[topic, on_for] - shift[topic, on_against] + shift[topic, -1]
    told = []
    for judge in judges:
        won = rng.random(debates) < 1 / (1 + np.exp(-logit - OWN[judge]))
        winner = np.where(rng.random(debates) < ties, "tie", np.where(won, "for", "against"))
        told.append(frame.with_columns(judge=pl.lit(judge), winner=pl.Series(winner)))
    return pl.concat(told)


def planted_logit(rows: pl.DataFrame) -> np.ndarray:
    """Of FOR's chance before the judge (none: a fair one) in each row, had topics no say."""
    seats = [rows[f"{side}_contestant"].replace_strict(STRENGTH).to_numpy() for side in SIDES]
    opened = np.where(rows["opener"] == "for", 0.5, -0.5)
    longer = (rows["for_words"] - rows["against_words"]).to_numpy()
    own = rows["judge"].replace_strict(OWN).to_numpy() if "judge" in rows.columns else 0
    return seats[0] - seats[1] + SIDE + OPENER * opened + LENGTH * longer / WORDS + own


def tables(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """`debates`, `verdicts` and `turns`, each side's words over two turns."""
    debates = rows.unique("debate_id", maintain_order=True).drop("judge", "winner")
    turns = [
        debates.select("debate_id", side=pl.lit(side), words=pl.col(f"{side}_words") * part - extra)
        for side in SIDES
        for part, extra in ((0, -100), (1, 100))
    ]
    return debates, rows.select("debate_id", "judge", "winner"), pl.concat(turns)


def rate(rows: pl.DataFrame, **options: Any) -> Controlled:
    return controlled(*tables(rows), **options)


def ratings(found: Controlled, column: str = "rating") -> dict[str, float]:
    return dict(found.frame.select("contestant", column).rows())


def terms(found: Controlled, column: str = "value") -> dict[str, float]:
    """Values by term, a judge's own by the judge's name."""
    return dict(found.terms.select(pl.coalesce("judge", "term"), column).rows())


def design(rows: pl.DataFrame, *, length: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Score, design, topic and readout to points: built by hand, with the first contestant and judge as reference."""
    names, judges = sorted({*rows["for_contestant"], *rows["against_contestant"]}), sorted({*rows["judge"]})
    seats = [rows[f"{side}_contestant"].to_numpy()[:, None] == np.array(names) for side in SIDES]
    whose = rows["judge"].to_numpy()[:, None] == np.array(judges)
    longer = (rows["for_words"] - rows["against_words"]).to_numpy()
    deviation = rows.unique("debate_id").select((pl.col("for_words") - pl.col("against_words")).std(ddof=0)).item()
    columns = [(seats[0].astype(float) - seats[1])[:, 1:], np.ones((len(rows), 1)), whose[:, 1:].astype(float)]
    columns.append(np.where(rows["opener"] == "for", 0.5, -0.5)[:, None])
    columns += [longer[:, None] / deviation] * length
    centre, middle = (np.eye(n) - 1 / n for n in (len(names), len(judges)))
    p = len(names) - 1 + 1 + len(judges) - 1 + 1 + length
    read = np.zeros((len(names) + 1 + len(judges) + 1 + length, p))
    read[: len(names), : len(names) - 1] = centre[:, 1:]
    side = len(names) - 1
    read[len(names), side] = 1
    read[len(names), side + 1 : side + len(judges)] = 1 / len(judges)
    read[len(names) + 1 : len(names) + 1 + len(judges), side + 1 : side + len(judges)] = middle[:, 1:]
    read[len(names) + 1 + len(judges) :, side + len(judges) :] = np.eye(1 + length)
    score = rows["winner"].replace_strict({"for": 1.0, "tie": 0.5, "against": 0.0}).to_numpy()
    topic = rows["topic_id"].rank("dense").to_numpy().astype(int) - 1
    return score, np.hstack(columns), topic, read


# Other people's code


@pytest.mark.parametrize("length", [True, False])
def test_as_a_binomial_glm_with_errors_clustered_by_topic(length: bool) -> None:
    import statsmodels.api as sm

    rows = league(1, debates=900, topics=150, noise=0.4)
    score, design_DP, topic, read = design(rows, length=length)
    family = sm.families.Binomial()
    theirs = sm.GLM(score, design_DP, family=family).fit(cov_type="cluster", cov_kwds={"groups": topic}, tol=1e-12)
    value = POINTS * read @ theirs.params
    error = POINTS * np.sqrt(np.diag(read @ theirs.cov_params() @ read.T))

    found = rate(rows, length=length, resamples=3000)
    names = [*STRENGTH, "side", *JUDGES, "opener", *["length"] * length]
    ours, high = (
        {**terms(found, column), **ratings(found, bound)} for column, bound in (("value", "rating"), ("high", "high"))
    )
    assert [ours[name] - MEAN * (name in STRENGTH) for name in names] == pytest.approx(value, abs=1e-6 * POINTS)
    half = np.array([high[name] - ours[name] for name in names])
    assert half / 1.9760 == pytest.approx(error, rel=0.06)  # 1.9760: t(149), upper 2.5 %
    assert ratings(found, "plain") == ratings(rate(rows, length=False), "rating")


def test_each_resample_as_a_glm_with_its_weights() -> None:
    import statsmodels.api as sm

    rows = league(2, debates=120, topics=20)
    score, design_DP, topic, _ = design(rows)
    weights = topic_weights(20, 6, seed=3)
    near = fit(score, design_DP)
    assert near is not None
    both = [refit(score, design_DP, topic, weights, near, single=single) for single in (True, False)]
    for r, weight in enumerate(weights):
        model = sm.GLM(score, design_DP, family=sm.families.Binomial(), var_weights=weight[topic])
        exact = model.fit(tol=1e-13, tol_criterion="params").params
        assert both[0][r] == pytest.approx(exact, abs=2e-5)
        assert both[1][r] == pytest.approx(exact, abs=1e-7)


def test_with_no_other_term_evalica_statsmodels_and_we_agree() -> None:
    import evalica
    import statsmodels.api as sm

    rows = league(3)
    score, _, _, _ = design(rows)
    names = [*STRENGTH]
    on_for, on_against = (rows[f"{side}_contestant"].to_list() for side in SIDES)
    word = {"for": evalica.Winner.X, "against": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    counted = evalica.bradley_terry(
        on_for, on_against, [word[w] for w in rows["winner"]], tolerance=1e-13, limit=100_000
    )
    evalicas = np.log(counted.scores[names].to_numpy())
    seats = np.array(
        [[(f == name) - (a == name) for name in names[1:]] for f, a in zip(on_for, on_against, strict=True)]
    )
    statsmodels = np.append(0, sm.GLM(score, seats.astype(float), family=sm.families.Binomial()).fit(tol=1e-13).params)
    ours = np.append(0, fit(score, seats.astype(float)))
    for one in (evalicas, ours):
        assert one - one.mean() == pytest.approx(statsmodels - statsmodels.mean(), abs=1e-6)


def test_one_judge_and_no_length_is_the_leaderboard() -> None:
    """Another fit of the same model, with the same resamples: who opens does not vary, so there is no term for it."""
    debates, verdicts, turns = tables(league(4, judges=["fair"], opener="against"))
    board, found = leaderboard(debates, verdicts), controlled(debates, verdicts, turns, length=False)
    assert found.frame.select("rank", "contestant").equals(board.frame.select("rank", "contestant"))
    for ours, plain in (("rating", "plain"), ("low", "plain_low"), ("high", "plain_high")):
        assert found.frame[ours].to_list() == pytest.approx(board.frame[ours].to_list(), abs=0.01)
        assert found.frame[ours].equals(found.frame[plain])
    side = found.terms.row(0, named=True)
    bounds = board.side.value, board.side.low, board.side.high
    assert (side["value"], side["low"], side["high"]) == pytest.approx(bounds, abs=0.01)
    assert "AGAINST always spoke first, so the side term is side and order together" in found.notes


# Truth that was planted


def test_every_planted_term_is_recovered() -> None:
    rows = league(5, debates=6000, topics=200, ties=0)
    found = rate(rows)
    words = terms(found, "words")["length"]
    planted = {"side": SIDE, "length": LENGTH * words / WORDS, "opener": OPENER, **OWN}
    assert found.terms["term"].to_list() == ["side", "length", "opener", "judge", "judge", "judge"]
    truth = [POINTS * planted[judge or term] for term, judge in found.terms.select("term", "judge").rows()]
    truth += [MEAN + POINTS * STRENGTH[name] for name in found.frame["contestant"]]
    value, low, high = (
        np.array(found.terms[column].to_list() + found.frame[rating].to_list())
        for column, rating in (("value", "rating"), ("low", "low"), ("high", "high"))
    )
    assert ((low < truth) & (truth < high)).mean() > 0.7 and (np.abs(value - truth) < 1.6 * (high - value)).all()
    assert (high - low < 45).all() and found.terms["logit"].to_list() == pytest.approx(value[:6] / POINTS)
    assert found.frame["contestant"].to_list() == [*"abcde"]
    # whoever is weaker says more, and gains by it as long as it is not held apart
    assert ratings(found, "plain")["e"] > ratings(found)["e"] + 30
    assert ratings(found, "plain")["a"] < ratings(found)["a"] - 30


@pytest.mark.slow
def test_intervals_hold_the_planted_truth_with_59_topics() -> None:
    """Topics shift every strength and the side; the truth is what a fit to many such topics comes to."""
    noise, rng = 0.5, np.random.default_rng(7)
    rows = league(6, debates=59 * 8, topics=59, judges=("fair", "keen"), ties=0)
    _, design_DP, topic, read = design(rows)
    planted = planted_logit(rows)
    # the three shifts of a debate add up to one normal shift of its logit: Gauss-Hermite quadrature
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    expected = (1 / (1 + np.exp(-(planted[:, None] + math.sqrt(3) * noise * node)))) @ weight / weight.sum()
    truth = POINTS * read @ fit(expected, design_DP)
    truth[: len(STRENGTH)] += MEAN
    names = [*STRENGTH, "side", "fair", "keen", "opener", "length"]
    held = []
    for repetition in range(120):
        shift = noise * rng.normal(size=(59, len(STRENGTH) + 1))
        on_for, on_against = (
            rows[f"{s}_contestant"].replace_strict({n: i for i, n in enumerate(STRENGTH)}) for s in SIDES
        )
        moved = planted + shift[topic, on_for] - shift[topic, on_against] + shift[topic, -1]
        won = rng.random(len(rows)) < 1 / (1 + np.exp(-moved))
        found = rate(rows.with_columns(winner=np.where(won, "for", "against")), resamples=400, seed=repetition)
        low, high = ({**terms(found, bound), **ratings(found, bound)} for bound in ("low", "high"))
        held.append([low[name] < true < high[name] for name, true in zip(names, truth, strict=True)])
    assert 0.92 <= np.mean(held) <= 0.98
    assert np.min(np.mean(held, axis=0)) > 0.88


# Laws


def test_the_order_of_rows_does_not_matter() -> None:
    debates, verdicts, turns = tables(league(8))
    found = controlled(debates, verdicts, turns, seed=2)
    again = controlled(
        debates.reverse().lazy(), verdicts.sample(fraction=1, shuffle=True, seed=1), turns.reverse(), seed=2
    )
    assert found.frame.equals(again.frame) and found.terms.equals(again.terms) and found.notes == again.notes
    assert not found.frame.equals(controlled(debates, verdicts, turns, seed=3).frame)


def test_swapping_the_sides_turns_the_side_and_the_judges_round_and_nothing_else() -> None:
    rows = league(9)
    other = {"for": "against", "against": "for", "tie": "tie"}
    swapped = rows.rename(
        {"for_contestant": "against_contestant", "against_contestant": "for_contestant"}
        | dict(zip(["for_words", "against_words"], ["against_words", "for_words"], strict=True))
    ).with_columns(pl.col("winner", "opener").replace_strict(other))
    found, turned = rate(rows), rate(swapped)
    for column in ("rating", "low", "high", "plain", "plain_low", "plain_high"):
        assert turned.frame[column].to_list() == pytest.approx(found.frame[column].to_list(), abs=1e-2)
    for row, back in zip(found.terms.iter_rows(named=True), turned.terms.iter_rows(named=True), strict=True):
        bounds = (row["value"], row["low"], row["high"])
        if row["term"] in ("side", "judge"):
            bounds = (-row["value"], -row["high"], -row["low"])
        assert (back["value"], back["low"], back["high"]) == pytest.approx(bounds, abs=1e-2)


def test_words_that_both_sides_say_more_are_worth_nothing() -> None:
    rows = league(10)
    more = rows.with_columns(pl.col("for_words", "against_words") + 1000)
    assert rate(more).frame.equals(rate(rows).frame) and rate(more).terms.equals(rate(rows).terms)


def test_what_length_is_worth_does_not_depend_on_how_words_are_counted() -> None:
    rows = league(11)
    found, doubled = rate(rows), rate(rows.with_columns(pl.col("for_words", "against_words") * 2))
    assert terms(doubled)["length"] == pytest.approx(terms(found)["length"])
    assert terms(doubled, "words")["length"] == pytest.approx(2 * terms(found, "words")["length"])
    assert ratings(doubled) == pytest.approx(ratings(found))


def test_judges_terms_and_ratings_are_about_their_means() -> None:
    found = rate(league(12))
    assert sum(terms(found)[judge] for judge in JUDGES) == pytest.approx(0, abs=1e-9)
    for column in ("rating", "plain"):
        assert np.mean([*ratings(found, column).values()]) == pytest.approx(MEAN)


def test_steps_that_go_too_far_are_taken_back() -> None:
    """282 losses and a win, 83 wins and a loss: full Newton steps from nought run away, and weights make it worse."""
    from runs.bradley_terry import fit as by_matrices

    count, score = (
        np.array([[[0.0, 282, 332], [1, 0, 0], [0, 84, 0]]]),
        np.array([[[0.0, 1, 1], [0, 0, 0], [0, 83, 0]]]),
    )
    theirs = by_matrices(score, count)
    cells = [(f, a, won) for f in range(3) for a in range(3) for won in (1, 0)]
    times = [int(score[0, f, a] if won else count[0, f, a] - score[0, f, a]) for f, a, won in cells]
    data = [cell for cell, n in zip(cells, times, strict=True) for _ in range(n)]
    design_DP = np.array([[(f == c) - (a == c) for c in (1, 2)] + [1] for f, a, _ in data], dtype=float)
    score_D = np.array([float(won) for *_, won in data])
    found = fit(score_D, design_DP)
    strength = theirs.strength_RC[0]
    assert found == pytest.approx([*(strength[1:] - strength[0]), theirs.side_R[0]], abs=1e-8)
    # one topic for each kind of result, weighed as unevenly as some resample may
    topic = np.unique([f"{cell}" for cell in data], return_inverse=True)[1]
    for weights in (topic_weights(7, 3000, seed=0), np.exp(np.random.default_rng(0).normal(0, 3, (50, 7)))):
        again = refit(score_D, design_DP, topic, weights, found, single=False)
        chance = 1 / (1 + np.exp(-again @ design_DP.T))
        surplus = (weights[:, topic] * (score_D - chance)) @ design_DP
        assert np.abs(surplus / weights[:, topic].sum(axis=1, keepdims=True)).max() < 1e-8
        single = refit(score_D, design_DP, topic, weights, found)
        assert np.isfinite(single).all() and np.median(np.abs(single - again)) < 1e-4


# What cannot be told


def test_a_length_that_the_contestants_tell_is_none() -> None:
    rows = league(13)
    says = {name: 500 + 10 * i for i, name in enumerate(STRENGTH)}
    own = rows.with_columns(**{f"{s}_words": pl.col(f"{s}_contestant").replace_strict(says) for s in SIDES})
    for words in (
        own,
        rows.with_columns(for_words=500, against_words=400),
        rows.with_columns(for_words=5, against_words=5),
    ):
        found = rate(words)
        assert terms(found)["length"] is None and terms(found, "low")["length"] is None
        assert (
            "the length term cannot be told from strengths, side, judge, opener, which hold what it is worth"
            in found.notes
        )
        assert ratings(found) == ratings(found, "plain") == pytest.approx(ratings(rate(rows), "plain"))
    assert not any("length" in note for note in rate(rows).notes)


def test_one_opener_and_one_judge_have_no_term() -> None:
    found = rate(league(14, judges=["keen"], opener="for"))
    assert (terms(found)["opener"], terms(found)["keen"]) == (None, None)
    assert "FOR always spoke first, so the side term is side and order together" in found.notes
    assert "one judge, 'keen', so the side term is that judge's" in found.notes


def test_a_judge_who_alone_heard_one_opener_holds_what_opening_is_worth() -> None:
    rows = league(15, judges=["fair", "stern"])
    apart = rows.filter((pl.col("judge") == "fair") == (pl.col("opener") == "for"))
    found = rate(apart)
    assert terms(found)["opener"] is None and terms(found)["fair"] is not None
    assert "the opener term cannot be told from strengths, side, judge, which hold what it is worth" in found.notes


def test_who_only_won_has_no_rating_and_no_say() -> None:
    rows = league(16)
    wins = [("top", "a", "for"), ("b", "top", "against")] * 5
    top = pl.concat(
        [
            rows.head(10).with_columns(
                debate_id=pl.format("x{}", pl.int_range(10)),
                for_contestant=pl.Series([f for f, _, _ in wins]),
                against_contestant=pl.Series([a for _, a, _ in wins]),
                winner=pl.Series([w for *_, w in wins]),
            )
        ]
    )
    found, without = rate(pl.concat([rows, top])), rate(rows)
    assert found.frame["contestant"].to_list() == [*without.frame["contestant"], "top"]
    assert found.frame.row(-1)[2:] == (None,) * 6 + (0,) and found.frame["rank"].to_list()[-1] is None
    assert any(note.endswith("verdict on them: 'top'") for note in found.notes) and found.certain == 10
    # the unit of length is the run's, so that only what does not depend on it is the same
    assert {name: ratings(found)[name] for name in STRENGTH} == pytest.approx(ratings(without))


def test_a_judge_who_only_says_for_has_no_term() -> None:
    rows = league(17)
    yes = rows.filter(judge="fair").with_columns(judge=pl.lit("yes"), winner=pl.lit("for"))
    found, without = rate(pl.concat([rows, yes])), rate(rows)
    assert terms(found) == {**terms(without), "yes": None} and found.certain == len(yes)
    assert any(note.endswith("no term of its own: judge 'yes'") for note in found.notes)
    assert ratings(found) == ratings(without)


def test_where_length_decides_all_nothing_else_can_be_told() -> None:
    rows = league(18, judges=["fair"]).filter(pl.col("for_words") != pl.col("against_words"))
    longer = pl.when(pl.col("for_words") > pl.col("against_words")).then(pl.lit("for")).otherwise(pl.lit("against"))
    found = rate(rows.with_columns(winner=longer))
    assert found.frame["rating"].null_count() == 5 and found.terms["value"].null_count() == len(found.terms)
    assert any(note.startswith("no rating exists: the limit predicts every verdict") for note in found.notes)
    assert rate(rows.with_columns(winner=longer), length=False).frame["rating"].null_count() == 0


def test_who_never_met_the_others_is_named() -> None:
    rows = league(19)
    far = rows.with_columns(
        pl.col("for_contestant", "against_contestant").replace_strict({"a": "x", "b": "y"}, default=None),
        pl.col("debate_id") + "x",
    ).drop_nulls()
    found = rate(pl.concat([rows, far]))
    assert any(note.startswith("disconnected") and note.endswith("'x', 'y'") for note in found.notes)
    assert found.frame.filter(pl.col("rating").is_null())["contestant"].to_list() == ["x", "y"]
    assert ratings(found)["a"] == pytest.approx(ratings(rate(rows))["a"], abs=0.5)


def test_who_never_changes_sides_cannot_be_told_from_the_side() -> None:
    rows = league(20).filter((pl.col("for_contestant") < "c") & (pl.col("against_contestant") >= "c"))
    found = rate(rows)
    assert found.frame["rating"].null_count() == 5 and any("nobody changed sides" in note for note in found.notes)


@pytest.mark.parametrize("rows", [league(21).clear(), league(21).with_columns(winner=pl.lit("invalid"))])
def test_without_a_verdict_there_are_nulls(rows: pl.DataFrame) -> None:
    found = rate(rows)
    assert found.frame.schema == COLUMNS and found.terms.schema == TERM_COLUMNS
    assert found.frame["rating"].null_count() == len(found.frame) and found.topics == found.verdicts == 0
    assert "no rated verdict, so nobody has a rating" in found.notes


def test_without_resamples_there_are_values_and_no_bounds() -> None:
    found = rate(league(22), resamples=0)
    assert ratings(found) == ratings(rate(league(22))) and found.frame["low"].null_count() == 5
    assert "0 resamples: intervals are missing" in found.notes
    with pytest.raises(ValueError, match="-1"):
        rate(league(22), resamples=-1)


@pytest.mark.parametrize(("topics", "few"), [(9, True), (10, False)])
def test_few_topics_have_no_interval(topics: int, few: bool) -> None:
    found = rate(league(22, topics=topics))
    assert (found.frame["low"].null_count() == 5) == few and (found.terms["low"].null_count() == 6) == few
    assert any("too few for intervals" in note for note in found.notes) == few
    assert found.frame["rating"].null_count() == found.terms["value"].null_count() == 0


def test_a_fit_that_is_not_found_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.logistic, "MOST_STEPS", 1)
    with pytest.raises(RatingsError, match="5 contestants exist"):
        rate(league(23))


@pytest.mark.parametrize(("lost", "fate"), [(10, "10 of 1000.*left out"), (100, "100 of 1000.*too many")])
def test_resamples_that_are_not_found_are_counted(monkeypatch: pytest.MonkeyPatch, lost: int, fate: str) -> None:
    def losing(*arguments: Any) -> np.ndarray:
        return np.where(np.arange(1000)[:, None] < lost, np.nan, refit(*arguments))

    monkeypatch.setattr("runs.terms.refit", losing)
    found = rate(league(24))
    assert any(re.search(fate, note) for note in found.notes)
    assert found.frame["low"].null_count() == (0 if lost == 10 else 5)


# What is left out is counted


def test_what_decides_nothing_is_counted_and_left_out() -> None:
    rows = league(25, judges=["fair"])
    status = ["void"] * 2 + ["open"] * 3 + ["complete"] * 395
    winner = rows["winner"].to_list()
    winner[5:8], winner[8:9] = ["invalid"] * 3, ["abstain"]
    changed = rows.with_columns(status=pl.Series(status), winner=pl.Series(winner))
    debates, verdicts, turns = tables(changed)
    silent = turns.filter((pl.col("debate_id") != "d00009") | (pl.col("side") == "for"))
    unknown = silent.with_columns(words=pl.when(pl.col("debate_id") != "d00010").then("words"))
    found = controlled(debates, verdicts.filter(pl.col("debate_id") != "d00011"), unknown)
    assert (found.voids, found.invalid, found.abstained, found.unmeasured) == (2, 3, 1, 2)
    assert found.verdicts == 400 - 5 - 4 - 2 - 1
    for told in ("void: 2", "open: 3", "without a verdict: 1", "abstained: 1", "invalid verdicts: 3", "not known: 2"):
        assert any(note.startswith("left out") and note.endswith(told) for note in found.notes)
    kept = changed.filter(~pl.col("debate_id").is_in([f"d{i:05}" for i in range(12)]))
    assert ratings(found, "plain") == ratings(rate(kept), "plain")


# Judges


def named(judges: dict[str, str]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """A run in which each judge says what another one of `JUDGES` does."""
    rows = league(26)
    return tables(
        pl.concat([rows.filter(judge=says).with_columns(judge=pl.lit(name)) for name, says in judges.items()])
    )


def test_panels_trajectories_and_persons_count_only_where_they_are_named() -> None:
    run = named({"gpt": "fair", "qwen": "keen", "bench": "stern", "gpt@4": "stern", "human:ann": "stern"})
    panels = [{"name": "bench", "members": ("gpt", "qwen")}]
    found = controlled(*run, panels=panels)
    assert found.judges == ("gpt", "qwen")
    assert found.frame.equals(controlled(*named({"gpt": "fair", "qwen": "keen"})).frame)
    assert controlled(*run, panels=panels, judges=["human:ann", "bench"]).judges == ("bench", "human:ann")
    assert controlled(*named({"human:ann": "fair", "gpt@4": "keen"})).judges == ("human:ann",)


@pytest.mark.parametrize(
    ("judges", "why"),
    [
        (("bench", "gpt"), "'bench' and 'gpt' both hold what 'gpt' said"),
        (("gpt", "gpt@4"), "'gpt' and 'gpt@4' both hold what 'gpt' said"),
        (("bench", "gpt@4"), "'bench' and 'gpt@4' both hold"),
        (("gtp",), "no verdict of judge 'gtp'.*did you mean 'gpt'"),
    ],
)
def test_judges_that_cannot_stand_together_are_refused(judges: tuple[str, ...], why: str) -> None:
    run = named({"gpt": "fair", "qwen": "keen", "bench": "stern", "gpt@4": "stern"})
    with pytest.raises(InputError, match=why):
        controlled(*run, judges=judges, panels=[{"name": "bench", "members": ("gpt", "qwen")}])


def test_an_unknown_winner_is_refused() -> None:
    with pytest.raises(InputError, match="winner 'FOR' of debate 'd00000'"):
        rate(league(27).with_columns(winner=pl.lit("FOR")))


def test_importing_terms_is_light() -> None:
    heavy = "import sys, runs.terms; print({'scipy', 'statsmodels', 'evalica', 'pandas', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "set()\n"
