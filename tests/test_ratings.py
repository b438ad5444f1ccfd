"""Ratings: from a published table, from closed forms, from laws, and from runs whose truth was planted."""

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl
import pytest

import runs.ratings
from runs.bradley_terry import fit
from runs.ratings import COLUMNS, MEAN, POINTS, Leaderboard, RatingsError, leaderboard
from runs.statistics import Estimate
from topics.errors import InputError

Row = tuple[str, str, str, str]
"""Topic, FOR, AGAINST, winner."""


def tables(rows: Iterable[Row], judge: str = "rules") -> tuple[pl.DataFrame, pl.DataFrame]:
    """`debates` and `verdicts` of finished debates; a winner `void` makes the debate void."""
    rows = [(f"d{i}", *row) for i, row in enumerate(rows)]
    wide = pl.DataFrame(
        rows, schema=["debate_id", "topic_id", "for_contestant", "against_contestant", "winner"], orient="row"
    ).cast(pl.String)
    void = pl.col("winner") == "void"
    debates = wide.select(pl.exclude("winner"), status=pl.when(void).then(pl.lit("void")).otherwise(pl.lit("complete")))
    return debates, wide.filter(~void).select("debate_id", pl.lit(judge).alias("judge"), "winner")


def rate(rows: Iterable[Row], **options: object) -> Leaderboard:
    return leaderboard(*tables(rows), **options)  # type: ignore[arg-type]


def ratings(board: Leaderboard) -> dict[str, float]:
    return dict(board.frame.select("contestant", "rating").rows())


def row(board: Leaderboard, contestant: str) -> dict[str, float]:
    return board.frame.row(by_predicate=pl.col("contestant") == contestant, named=True)


def league(seed: int, topics: int = 30, ties: float = 0.1, names: str = "abcde", each: int = 6) -> list[Row]:
    """A run with planted strengths, a planted side term and some ties."""
    rng = np.random.default_rng(seed)
    strength = dict(zip(names, np.linspace(1, -1, len(names)), strict=True))
    rows = []
    for topic, _ in itertools.product(range(topics), range(each)):
        on_for, on_against = rng.choice(list(names), 2, replace=False)
        p = 1 / (1 + math.exp(strength[on_against] - strength[on_for] - 0.4))
        winner = "tie" if rng.random() < ties else "for" if rng.random() < p else "against"
        rows.append((f"t{topic}", str(on_for), str(on_against), winner))
    return rows


def matrices(rows: Sequence[Row]) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = sorted({row[1] for row in rows} | {row[2] for row in rows})
    score, count = np.zeros((2, len(names), len(names)))
    for _, on_for, on_against, winner in rows:
        cell = names.index(on_for), names.index(on_against)
        score[cell] += {"for": 1, "tie": 0.5, "against": 0}[winner]
        count[cell] += 1
    return names, score, count


# Published numbers and other people's code


def test_the_baseball_season_of_1987_as_published() -> None:
    """Agresti, Categorical Data Analysis (2002), section 10.6, and the R package BradleyTerry2, `?baseball`."""
    teams = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
    home = """ 0-0 4-3 4-2 4-3 6-1 4-2 6-0   3-3 0-0 4-2 4-3 6-0 6-1 4-3   2-5 4-3 0-0 2-4 4-3 4-2 6-0
               3-3 5-1 2-5 0-0 4-3 4-2 6-1   5-1 2-5 3-3 4-2 0-0 5-2 6-0   2-5 3-3 3-4 4-3 4-2 0-0 2-4
               2-5 1-5 1-6 2-4 1-6 3-4 0-0 """
    won, lost = np.array([cell.split("-") for cell in home.split()], float).reshape(7, 7, 2).transpose(2, 0, 1)
    published = {
        False: ([1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0], 0),
        True: ([1.6196, 1.4754, 1.3271, 1.2813, 1.1438, 0.7047, 0], 0.3023),
    }
    for side, (strengths, advantage) in published.items():
        found = fit(won[None], (won + lost)[None], side=side)
        above_the_last = found.strength_RC[0] - found.strength_RC[0, teams.index("Baltimore")]
        assert above_the_last == pytest.approx(strengths, abs=6e-5)
        assert found.side_R[0] == pytest.approx(advantage, abs=6e-5)


def test_the_worked_example_of_wikipedia() -> None:
    """https://en.wikipedia.org/wiki/Bradley-Terry_model: the strengths p after convergence, of geometric mean 1."""
    won = np.array([[0.0, 2, 0, 1], [3, 0, 5, 0], [0, 3, 0, 1], [4, 0, 3, 0]])
    published = [0.640, 1.043, 0.660, 2.270]
    found = fit(won[None], won[None], side=False)
    assert np.exp(found.strength_RC[0]) == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("seed", range(3))
def test_without_side_term_as_evalica(seed: int) -> None:
    import evalica

    rows = league(seed)
    names, score, count = matrices(rows)
    word = {"for": evalica.Winner.X, "against": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    _, on_for, on_against, winners = zip(*rows, strict=True)
    theirs = evalica.bradley_terry(on_for, on_against, [word[w] for w in winners], tolerance=1e-12, limit=10_000)
    logs = np.log([theirs.scores[name] for name in names])
    assert fit(score[None], count[None], side=False).strength_RC[0] == pytest.approx(logs - logs.mean(), abs=5e-5)


def test_with_side_term_as_a_binomial_glm_with_errors_clustered_by_topic() -> None:
    import statsmodels.api as sm

    rows = league(4, topics=80)
    names = sorted({row[1] for row in rows})
    design = np.zeros((len(rows), len(names)))  # a's strength is the reference; the last column is the side term
    for i, (_, on_for, on_against, _) in enumerate(rows):
        design[i, names.index(on_for) - 1] += names.index(on_for) > 0
        design[i, names.index(on_against) - 1] -= names.index(on_against) > 0
        design[i, -1] = 1
    won = [{"for": 1, "tie": 0.5, "against": 0}[row[3]] for row in rows]
    topic = np.unique([row[0] for row in rows], return_inverse=True)[1]
    theirs = sm.GLM(won, design, family=sm.families.Binomial()).fit(cov_type="cluster", cov_kwds={"groups": topic})
    to_mean_zero = np.eye(len(names)) - 1 / len(names)
    turn = np.block([[to_mean_zero[:, 1:], np.zeros((len(names), 1))], [np.zeros(len(names) - 1), 1]])
    points = POINTS * turn @ theirs.params + np.append(np.full(len(names), MEAN), 0)
    errors = POINTS * np.sqrt(np.diag(turn @ theirs.cov_params() @ turn.T))

    board = rate(rows, resamples=4000)
    ours = [row(board, name)["rating"] for name in names] + [board.side.value]
    assert ours == pytest.approx(points, abs=1e-4 * POINTS)
    half = [row(board, name)["high"] - row(board, name)["rating"] for name in names]
    half.append(board.side.high - board.side.value)
    assert np.array(half) / 1.9905 == pytest.approx(errors, rel=0.1)  # 1.9905: t(79), upper 2.5 %


def test_two_contestants_by_hand() -> None:
    """a on FOR won 3 of 4: difference + side = log 3. b on FOR won 1 of 2: -difference + side = 0."""
    rows = [(f"t{i}", "a", "b", winner) for i, winner in enumerate(("for", "for", "for", "against"))]
    board = rate([*rows, ("t0", "b", "a", "for"), ("t1", "b", "a", "against")])
    half = 400 * math.log10(3) / 2
    assert ratings(board) == pytest.approx({"a": 1500 + half / 2, "b": 1500 - half / 2})
    assert board.side.value == pytest.approx(half)
    assert row(board, "a") | {"for_win_rate": 0.75, "against_win_rate": 0.5, "wins": 4, "losses": 2} == row(board, "a")


def test_two_ties_say_what_a_win_and_a_loss_say() -> None:
    rows = league(5, ties=0)
    win_and_loss = [("t0", "a", "b", "for"), ("t0", "a", "b", "against")]
    ties = [("t0", "a", "b", "tie")] * 2
    assert ratings(rate(rows + ties)) == pytest.approx(ratings(rate(rows + win_and_loss)))


# Laws


def test_swapping_the_sides_turns_the_side_term_round_and_nothing_else() -> None:
    other = {"for": "against", "against": "for", "tie": "tie"}
    rows = league(6)
    board, swapped = rate(rows), rate((t, b, a, other[w]) for t, a, b, w in rows)
    for column in ("rating", "low", "high"):
        assert swapped.frame[column].to_list() == pytest.approx(board.frame[column].to_list())
    assert swapped.frame["for_win_rate"].to_list() == pytest.approx(board.frame["against_win_rate"].to_list())
    assert swapped.side.value == pytest.approx(-board.side.value)
    assert (swapped.side.low, swapped.side.high) == pytest.approx((-board.side.high, -board.side.low))


def test_renaming_contestants_renames_rows() -> None:
    new = dict(zip("abcde", "dbeca", strict=True))
    rows = league(7)
    board, renamed = rate(rows), rate((t, new[a], new[b], w) for t, a, b, w in rows)
    assert renamed.frame["contestant"].to_list() == [new[name] for name in board.frame["contestant"]]
    assert renamed.frame["low"].to_list() == pytest.approx(board.frame["low"].to_list())


def test_every_verdict_twice_leaves_ratings_and_intervals() -> None:
    rows = league(8)
    board, twice = rate(rows), rate(rows * 2)
    for column in ("rating", "low", "high"):
        assert twice.frame[column].to_list() == pytest.approx(board.frame[column].to_list())
    assert twice.verdicts == 2 * board.verdicts


def test_the_same_seed_gives_the_same_intervals_in_any_order_of_rows() -> None:
    debates, verdicts = tables(league(9))
    board = leaderboard(debates, verdicts, seed=3)
    again = leaderboard(debates.sample(fraction=1, shuffle=True, seed=1).lazy(), verdicts.reverse().lazy(), seed=3)
    assert board.frame.equals(again.frame) and board.side == again.side
    assert not board.frame.equals(leaderboard(debates, verdicts, seed=4).frame)


def test_a_debate_against_oneself_speaks_about_the_side_only() -> None:
    rows = league(10)
    board, more = rate(rows), rate([*rows, *[("t0", "a", "a", "for")] * 40])
    assert more.side.value > board.side.value + 10
    assert row(more, "a")["wins"] == row(board, "a")["wins"] + 40
    assert row(more, "a")["losses"] == row(board, "a")["losses"] + 40
    alone = fit(np.array([[[3.0]]]), np.array([[[4.0]]]))
    assert alone.side_R[0] == pytest.approx(math.log(3))


def test_an_estimate_exists_exactly_where_no_direction_separates_the_results() -> None:
    """Against a linear program for the definition: no direction makes some result likelier and none less likely."""
    from scipy.optimize import linprog

    def exists(score: np.ndarray, count: np.ndarray) -> bool:
        names, pairs = np.eye(len(score)), np.argwhere(count > 0)
        x = np.array([[*(names[f] - names[a]), 1.0] for f, a in pairs])
        won, lost = score[tuple(pairs.T)] > 0, (score < count)[tuple(pairs.T)]
        gains = np.concatenate([x[won], -x[lost]])
        best = linprog(-gains.sum(0), A_ub=-gains, b_ub=np.zeros(len(gains)), bounds=[(-1, 1)] * x.shape[1])
        return bool(best.fun > -1e-7 and np.linalg.matrix_rank(x) == len(score))

    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        count = rng.poisson(0.6, (4, 4)).astype(float) * ~np.eye(4, dtype=bool)
        score = rng.binomial(count.astype(int), 0.6).astype(float)
        if count.any():
            found = fit(score[None], count[None])
            assert found.exists_R[0] == exists(score, count), (score, count)
            assert found.converged_R[0] == found.exists_R[0]
            assert np.isfinite(found.strength_RC).all() == found.exists_R[0]
            seen.add(bool(found.exists_R[0]))
    assert seen == {True, False}


def test_lopsided_results_converge() -> None:
    """Full Newton steps run away from here: the step must be halved where it would lower the likelihood."""
    count = np.array([[[0.0, 282, 332], [1, 0, 0], [0, 84, 0]]])
    score = np.array([[[0.0, 1, 1], [0, 0, 0], [0, 83, 0]]])
    found = fit(score, count)
    assert found.converged_R[0]
    p = 1 / (1 + np.exp(-(found.strength_RC[0][:, None] - found.strength_RC[0] + found.side_R[0])))
    surplus = score[0] - count[0] * p  # at the maximum everybody scored what is expected, and so did FOR
    assert surplus.sum(axis=1) - surplus.sum(axis=0) == pytest.approx(0, abs=1e-8)
    assert surplus.sum() == pytest.approx(0, abs=1e-8)


# What cannot be rated is named


def of(board: Leaderboard, *contestants: str) -> str:
    """The one note that names these contestants."""
    (note,) = (note for note in board.notes if note.endswith(": " + ", ".join(map(repr, contestants))))
    return note


def unrated(board: Leaderboard) -> list[str]:
    frame = board.frame.filter(pl.col("rating").is_null())
    assert frame.select("rank", "low", "high").null_count().sum_horizontal().item() == 3 * len(frame)
    return frame["contestant"].to_list()


def test_those_who_cannot_be_rated_stand_around_the_rated_and_are_named() -> None:
    core = league(11)
    outside = [("t0", "top", "a", "for"), ("t1", "b", "top", "against"), ("t0", "e", "low", "for")]
    apart = [("t3", "x", "y", "for"), ("t3", "y", "x", "for"), ("t4", "x", "y", "against")]
    board = rate(core + outside + apart, contestants=["a", "absent"])
    assert board.frame["contestant"].to_list() == ["top", "a", "b", "c", "d", "e", "low", "y", "x", "absent"]
    assert unrated(board) == ["top", "low", "y", "x", "absent"]
    assert "unbounded above" in of(board, "top") and "unbounded below" in of(board, "low")
    assert "disconnected" in of(board, "x", "y") and "no rated debate" in of(board, "absent")
    assert board.frame["rank"].to_list() == [None, 1, 2, 3, 4, 5, None, None, None, None]
    assert {name: ratings(board)[name] for name in "abcde"} == pytest.approx(ratings(rate(core)))
    assert row(board, "top")["for_win_rate"] == 1 and row(board, "absent")["for_win_rate"] is None


def test_equals_share_a_rank() -> None:
    """a to f did alike against g, on both sides."""
    on_for, on_against = ("for", "for", "against"), ("for", "against")
    rows = [(f"t{t}", name, "g", winner) for name in "abcdef" for t, winner in enumerate(on_for)]
    rows += [(f"t{t}", "g", name, winner) for name in "abcdef" for t, winner in enumerate(on_against)]
    board = rate(rows)
    assert board.frame["contestant"].to_list() == list("abcdefg")
    assert board.frame["rank"].to_list() == [1] * 6 + [7]


def test_where_every_topic_says_the_same_there_is_no_interval() -> None:
    board = rate((f"t{t}", a, b, "tie") for t in range(3) for a, b in itertools.permutations("abc", 2))
    assert board.frame["rank"].to_list() == [1, 1, 1]
    assert board.side.value == pytest.approx(0)
    assert board.side.low is None and board.frame["low"].null_count() == 3
    assert any("every topic says the same" in note for note in board.notes)


def test_one_chain_of_wins_is_no_rating() -> None:
    board = rate([("t0", "a", "b", "for"), ("t1", "c", "b", "against"), ("t2", "a", "c", "for")])
    assert unrated(board) == ["a", "b", "c"] and board.side == Estimate(value=None, low=None, high=None)
    assert any("no rating exists" in note for note in board.notes)


@pytest.mark.parametrize(("winner", "way"), [("for", "FOR won every debate"), ("against", "AGAINST won every debate")])
def test_a_side_that_won_everything_has_no_number(winner: str, way: str) -> None:
    pairs = itertools.permutations("abc", 2)
    board = rate((f"t{t}", a, b, winner) for (a, b), t in itertools.product(pairs, range(5)))
    assert len(unrated(board)) == 3 and board.side.value is None
    assert any(way in note for note in board.notes)


def test_a_side_nearly_as_strong_has_none_either() -> None:
    """a on FOR won and lost against b; b on FOR only won: the side may be worth anything from some point upward."""
    board = rate([("t0", "a", "b", "for"), ("t1", "a", "b", "against"), ("t2", "b", "a", "for")])
    assert len(unrated(board)) == 2 and any("unbounded above" in note for note in board.notes)


def test_whoever_never_changes_sides_cannot_be_told_from_the_side() -> None:
    board = rate([("t0", "a", "b", "for"), ("t1", "a", "b", "against")])
    assert len(unrated(board)) == 2 and any("nobody changed sides" in note for note in board.notes)


def test_a_fit_that_does_not_converge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.bradley_terry, "MOST_STEPS", 1)
    with pytest.raises(RatingsError, match="5 contestants exist"):
        rate(league(12))


# What is left out is counted


def test_void_invalid_and_undecided_are_counted_and_left_out() -> None:
    rows = league(13)
    extra = [("t0", "a", "b", w) for w in ("void", "void", "invalid", "abstain", "invalid", "invalid")]
    board, plain = rate(rows + extra), rate(rows)
    assert (board.voids, board.invalid, board.abstained, board.verdicts) == (2, 3, 1, len(rows))
    assert ratings(board) == pytest.approx(ratings(plain)) and board.side == plain.side
    assert row(board, "a")["scheduled"] == row(plain, "a")["scheduled"] + 6
    assert row(board, "a")["debates"] == row(plain, "a")["debates"]
    assert row(board, "a")["void_rate"] == pytest.approx(2 / row(board, "a")["scheduled"])
    for number in ("2 debates void", "3 debates left out because the verdict is invalid", "1 debate left out"):
        assert any(note.startswith(number) for note in board.notes)


def test_open_and_unjudged_debates_and_verdicts_of_void_ones() -> None:
    rows = league(14)
    debates, verdicts = tables(rows)
    status = pl.Series(["void", "open", *["complete"] * (len(rows) - 2)])
    board = leaderboard(debates.with_columns(status=status), verdicts.head(-3))
    assert (board.voids, board.verdicts) == (1, len(rows) - 5)
    assert {"1 debate still open, and left out", "3 debates without a verdict, and left out"} < set(board.notes)


def test_verdicts_of_debates_outside_the_frame_are_ignored() -> None:
    debates, verdicts = tables(league(15))
    part = debates.filter(pl.col("topic_id") < "t2")
    its_own = verdicts.join(part, on="debate_id", how="semi")
    assert 0 < len(its_own) < len(verdicts)
    assert leaderboard(part, verdicts).frame.equals(leaderboard(part, its_own).frame)


@pytest.mark.parametrize("winner", ["invalid", "abstain", "void"])
def test_a_run_without_a_rated_verdict_has_a_leaderboard_of_nulls(winner: str) -> None:
    board = rate((t, a, b, winner) for t, a, b, _ in league(16))
    assert unrated(board) == list("abcde") and board.verdicts == board.topics == 0
    assert board.frame["for_win_rate"].null_count() == 5
    assert "no rated verdict, so nobody has a rating" in board.notes


@pytest.mark.parametrize("judge", [None, "rules"])
def test_a_run_without_any_debate(judge: str | None) -> None:
    board = rate([], contestants=["b", "a"], judge=judge)
    assert board.frame["contestant"].to_list() == ["a", "b"] and board.judge == judge
    assert rate([]).frame.schema == COLUMNS and rate([]).frame.is_empty()


# Judges


def test_one_judge_is_rated_at_a_time() -> None:
    debates, verdicts = tables(league(17))
    other = verdicts.with_columns(judge=pl.lit("strict"), winner=pl.lit("tie"))
    both = pl.concat([verdicts, other])
    assert leaderboard(debates, both, judge="rules").frame.equals(leaderboard(debates, verdicts).frame)
    with pytest.raises(InputError, match="'rules', 'strict'"):
        leaderboard(debates, both)
    with pytest.raises(InputError, match=r"no verdict of judge 'stric'.*did you mean 'strict'"):
        leaderboard(debates, both, judge="stric")


def test_an_unknown_winner_is_refused() -> None:
    with pytest.raises(InputError, match="winner 'FOR' of debate 'd0'"):
        rate([("t0", "a", "b", "FOR")])


def test_importing_ratings_is_light() -> None:
    heavy = "import sys, runs.ratings; print({'scipy', 'statsmodels', 'evalica', 'pandas', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "set()\n"


# Intervals


def test_one_topic_has_ratings_and_no_interval() -> None:
    board = rate(("t0", a, b, w) for _, a, b, w in league(18))
    bounds = [name for name in COLUMNS if name.endswith(("low", "high"))]
    assert board.frame["rating"].null_count() == 0
    assert all(board.frame[bound].null_count() == 5 for bound in bounds) and board.side.low is None
    assert any(note.startswith("one topic") for note in board.notes)


@pytest.mark.parametrize(("topics", "noted"), [(12, True), (60, False)])
def test_few_topics_are_said(topics: int, noted: bool) -> None:
    assert any(note.startswith(f"only {topics} topics") for note in rate(league(19, topics=topics)).notes) == noted


def test_who_always_opens_is_said() -> None:
    debates, verdicts = tables(league(20))
    always = debates.with_columns(opener=pl.lit("for"))
    turns = always.with_columns(opener=pl.when(pl.col("topic_id") < "t2").then("opener").otherwise(pl.lit("against")))
    note = "FOR always spoke first, so the side term is side and order together"
    assert [note in leaderboard(frame, verdicts).notes for frame in (always, turns, debates)] == [True, False, False]


def test_rates_of_nought_and_one_have_an_interval() -> None:
    rows = [(f"t{t}", a, b, "for" if a == "a" else "against") for t in range(10) for a, b in (("a", "b"), ("b", "a"))]
    board = rate(rows)
    upper = 2.2622**2 / (10 + 2.2622**2)  # Wilson at 0 of 10, with t(9)
    assert row(board, "b")["for_win_rate"] == 0
    assert (row(board, "b")["for_low"], row(board, "b")["for_high"]) == pytest.approx((0, upper), abs=1e-4)
    assert (row(board, "a")["for_low"], row(board, "a")["for_high"]) == pytest.approx((1 - upper, 1), abs=1e-4)
    assert row(board, "a")["void_rate"] == 0 and row(board, "a")["void_high"] == pytest.approx(upper, abs=1e-4)


def test_without_resamples_there_are_estimates_and_no_bounds() -> None:
    rows = league(21)
    board = rate(rows, resamples=0)
    assert ratings(board) == ratings(rate(rows)) and board.frame["low"].null_count() == 5
    assert board.side.low is None and "0 resamples: intervals are missing" in board.notes
    with pytest.raises(ValueError, match="-1"):
        rate(rows, resamples=-1)


def test_a_rate_that_is_the_same_on_every_topic_is_worth_its_debates() -> None:
    """One win and one loss on each of 10 topics: no spread between topics, and still only 20 debates."""
    rows = [(f"t{t}", "a", b, w) for t in range(10) for b, w in (("b", "for"), ("c", "against"))]
    n, t2 = 20, 2.2622**2  # t(9)
    half = math.sqrt(t2 * 0.25 / n + t2**2 / (4 * n * n)) / (1 + t2 / n)
    found = row(rate(rows), "a")
    assert (found["for_low"], found["for_high"]) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)


def slow_to_converge(converged: int) -> Callable[..., object]:
    """`_newton` that loses every data set of a batch after the first `converged`."""
    real = runs.bradley_terry._newton

    def newton(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
        x, found = real(*arguments)  # type: ignore[arg-type]
        return x, found & (np.arange(len(found)) < converged)

    return newton


@pytest.mark.parametrize(("converged", "fate"), [(990, "10 of 1000.*left out"), (900, "100 of 1000.*too many")])
def test_resamples_that_do_not_converge_are_counted(monkeypatch: pytest.MonkeyPatch, converged: int, fate: str) -> None:
    monkeypatch.setattr(runs.bradley_terry, "_newton", slow_to_converge(converged))
    board = rate(league(22))
    assert any(re.search(fate, note) for note in board.notes)
    assert board.frame["low"].null_count() == (0 if converged == 990 else 5)
    assert board.frame["for_low"].null_count() == 0
