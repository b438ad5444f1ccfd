"""The bias audit: published numbers, other people's code, laws, and tables whose truth was planted."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Play, refused, roster

import runs
from runs.agreement import alpha, coincidences, crossed, kappa
from runs.bias import COLUMNS, FEW, bias, main
from runs.regression import slope, uncertain
from runs.spec import Spec
from runs.tables import MANIFEST, Tables

Frames = dict[str, pl.DataFrame]
ONE = ("a", "b")


def spec(judges: Sequence[dict[str, str]] = (), panels: Sequence[str] = (), **families: str) -> Spec:
    return Spec(
        seed=0,
        topics={},
        format=(),
        opener="for",
        matches=None,
        replicates=1,
        contestants=tuple({"name": name, "family": family} for name, family in families.items()),
        judges=tuple(judges),
        panels=tuple({"name": name, "members": ["x", "y"]} for name in panels),
    )


def run_of(
    verdicts: dict[str, Sequence[str | None]],
    topics: Sequence[object] | None = None,
    seats: Sequence[tuple[str, str]] | None = None,
    longer: Sequence[int] | None = None,
    theme: Sequence[str] | None = None,
    status: Sequence[str] | None = None,
    opener: Sequence[str] | None = None,
) -> Tables:
    """A run's tables from what each judge said of each debate (None: nothing), each on a topic of its own as a rule."""
    n = len(next(iter(verdicts.values())))
    place = [f"t{topic}" for topic in (topics if topics is not None else range(n))]
    seats = seats if seats is not None else [ONE] * n
    debates = pl.DataFrame(
        {
            "debate_id": [f"d{i:05}" for i in range(n)],
            "topic_id": place,
            "theme": theme or ["all"] * n,
            "for_contestant": [seat[0] for seat in seats],
            "against_contestant": [seat[1] for seat in seats],
            "opener": opener or ["for"] * n,
            "status": status or ["complete"] * n,
        }
    )
    said = pl.concat(debates.select("debate_id", judge=pl.lit(j), winner=pl.Series(w)) for j, w in verdicts.items())
    words = pl.Series([0] * n if longer is None else longer, dtype=pl.Int32)
    turns = [debates.select("debate_id", side=pl.lit("for"), words=1000 + words)]
    turns += [debates.select("debate_id", side=pl.lit("against"), words=pl.lit(1000, dtype=pl.Int32))]
    other = dict.fromkeys(("votes", "calls", "failures"), pl.LazyFrame())
    return Tables(
        folder=Path(),
        sealed=True,
        debates=debates.drop("theme").lazy(),
        turns=pl.concat(turns).lazy(),
        verdicts=said.drop_nulls("winner").lazy(),
        topics=debates.select("topic_id", "theme").unique().lazy(),
        **other,
    )


def row(frame: pl.DataFrame, **of: str | None) -> dict[str, float]:
    """The one row with these values."""
    chosen = frame.filter(*(pl.col(name).eq_missing(pl.lit(value)) for name, value in of.items()))
    assert len(chosen) == 1
    return chosen.row(0, named=True)


# Published numbers and other people's code


def test_the_binary_example_of_krippendorff_as_published() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section A: 0.095."""
    meg, owen = "0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"
    said = {name: [("against", "for")[int(x)] for x in values.split()] for name, values in (("m", meg), ("o", owen))}
    found = row(bias(run_of(said), spec())["agreement"], judge="m", other="o")
    assert found["alpha"] == pytest.approx(0.095, abs=5e-4)
    assert found["agreement"] == 0.6 and found["debates"] == found["topics"] == 10


def test_the_example_with_four_observers_of_krippendorff_as_published() -> None:
    """The same, section C: four observers, twelve units, five values, some missing: 0.743."""
    units = """
        1 2 3 3 2 1 4 1 2 . . .
        1 2 3 3 2 2 4 1 2 5 . 3
        . 3 3 3 2 3 4 2 2 5 1 .
        1 2 3 3 2 4 4 1 2 5 1 .
    """
    codes = np.array([[-1 if x == "." else int(x) - 1 for x in line.split()] for line in units.strip().splitlines()])
    assert alpha(coincidences(codes.T, 5).sum(axis=0)) == pytest.approx(0.743, abs=5e-4)


@pytest.mark.parametrize(
    ("table", "published"),
    [
        # Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions, 3rd edition (2003), table 18.1
        ([[75, 1, 4], [5, 4, 1], [0, 0, 10]], 0.6765),
        # SAS/STAT User's Guide, PROC FREQ, "Cohen's kappa"; also in the tests of statsmodels
        ([[0, 4, 1], [0, 8, 0], [0, 1, 5]], 0.4842),
    ],
)
def test_kappa_as_published(table: list[list[int]], published: float) -> None:
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(table[i][j])]
    names = ("for", "tie", "against")
    said = {"human:ann": [names[i] for i, _ in pairs], "gpt": [names[j] for _, j in pairs]}
    found = row(bias(run_of(said), spec())["agreement"], judge="gpt", other="human:ann")
    assert found["kappa"] == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize("seed", range(3))
def test_alpha_and_kappa_as_libraries_have_them(seed: int) -> None:
    import evalica
    import pandas as pd
    from statsmodels.stats.inter_rater import cohens_kappa

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (80, 1)) * (rng.random((80, 4)) < 0.6) + rng.integers(0, 2, (80, 4))
    codes = np.where(rng.random((80, 4)) < 0.2, -1, np.minimum(codes, 2))
    theirs = evalica.alpha(pd.DataFrame(np.where(codes < 0, np.nan, codes).T))
    assert alpha(coincidences(codes).sum(axis=0)) == pytest.approx(theirs.alpha)
    table = crossed(codes[:, :2]).sum(axis=0)
    assert kappa(table) == pytest.approx(cohens_kappa(table, return_results=False))


def test_a_slope_of_one_yes_or_no_is_the_logarithm_of_the_odds_ratio() -> None:
    # of 10 short ones FOR wins 3, of 20 long ones 14 and half of 2 that are tied
    score = np.array([1.0] * 3 + [0.0] * 7 + [1.0] * 14 + [0.0] * 4 + [0.5] * 2)
    long = np.array([0.0] * 10 + [1.0] * 20)
    found = slope(score, np.ones((30, 1)), long, np.arange(30))
    assert found["slope"] == pytest.approx(math.log((15 / 5) / (3 / 7)), abs=1e-6)
    assert (found["debates"], found["certain"], found["topics"]) == (30, 0, 30)
    assert found["slope_low"] < found["slope"] < found["slope_high"]


# By hand


def test_the_side_is_a_share_with_ties_as_half_and_what_is_undecided_is_counted() -> None:
    said = ["for", "for", "tie", "against", "abstain", "invalid", "for"]
    run = run_of(
        {"gpt": said, "gpt@4": ["for"] * 7, "bench": ["against"] * 7},
        theme=["law", "law", "law", "art", "art", "art", "art"],
        status=["complete"] * 6 + ["void"],
    )
    found = bias(run, spec(panels=["bench"]))["side"]
    assert found.select("judge", "theme", "share", "verdicts", "undecided", "topics").rows() == [
        ("bench", None, 0.0, 6, 0, 6),
        ("bench", "art", 0.0, 3, 0, 3),
        ("bench", "law", 0.0, 3, 0, 3),
        ("gpt", None, 0.625, 4, 2, 4),
        ("gpt", "art", 0.0, 1, 2, 1),
        ("gpt", "law", 2.5 / 3, 3, 0, 3),
    ]


FAMILIES = {"a": "red", "b": "blue", "c": "blue"}
JUDGES = ({"name": "r", "family": "red"}, {"name": "g", "family": "green"}, {"name": "rr", "family": "red"})


def test_favour_is_what_the_judge_gives_its_own_less_what_unrelated_judges_give_them() -> None:
    seats = [("a", "b"), ("c", "a"), ("a", "b"), ("b", "c"), ("a", "a"), ("a", "c")]
    said = {
        "r": ["for", "for", "tie", "for", "for", "abstain"],  # gives a: 1, 0, 1/2
        "g": ["against", "tie", None, "for", "for", "for"],  # gives a: 0, 1/2
        "human:ann": ["for", "for", "against", "for", "for", "for"],  # gives a: 1, 0, 0
        "rr": ["for", "against", "for", "for", "for", "for"],  # related as well: no yardstick
        "bench": ["for", "against", "for", "for", "for", "for"],
        "r@2": ["for"] * 6,
    }
    found = bias(run_of(said, seats=seats), spec(JUDGES, ["bench"], **FAMILIES))["family"]
    assert found["judge"].to_list() == ["g", "r", "rr"]
    red = row(found, judge="r")
    assert (red["family"], red["debates"], red["topics"]) == ("red", 3, 3)
    assert red["share"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert red["others"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert red["favour"] == pytest.approx(red["share"] - red["others"])
    green = row(found, judge="g")
    assert green["debates"] == 0 and green["favour"] is None


def test_agreement_leaves_out_panels_trajectories_and_what_is_undecided() -> None:
    said = {
        "x": ["for", "for", "tie", "abstain"],
        "y": ["for", "against", "tie", "for"],
        "human:ann": ["for", None, None, "invalid"],
        "bench": ["for"] * 4,
        "x@2": ["for"] * 4,
    }
    found = bias(run_of(said), spec(panels=["bench"]))["agreement"]
    assert found.select("judge", "other", "debates", "undecided").rows() == [
        (None, None, 3, 2),
        ("human:ann", "x", 1, 2),
        ("human:ann", "y", 1, 1),
        ("x", "y", 3, 1),
    ]
    assert row(found, judge="x", other="y")["agreement"] == pytest.approx(2 / 3)
    assert row(found, judge="human:ann", other="x")["kappa"] is None  # one outcome only: nothing to go by


# Laws


def league(seed: int, debates: int = 160, topics: int = 40) -> Tables:
    """A run of three judges and four contestants, with some ties and some that decided nothing."""
    rng = np.random.default_rng(seed)
    seats = [tuple(map(str, rng.choice(list("abcd"), 2, replace=False))) for _ in range(debates)]
    longer = rng.integers(-300, 300, debates)
    base = rng.random(debates)
    outcomes = np.array(["for", "against", "tie", "abstain"])
    said = {}
    for judge in ("x", "y", "human:ann"):
        mixed = np.where(rng.random(debates) < 0.7, base, rng.random(debates))
        said[judge] = outcomes[np.searchsorted([0.5, 0.85, 0.95], mixed)].tolist()
    opener = np.where(rng.random(debates) < 0.5, "for", "against").tolist()
    return run_of(said, rng.integers(0, topics, debates).tolist(), seats, longer.tolist(), opener=opener)


def audited(run: Tables, **options: int) -> Frames:
    return bias(run, spec([{"name": "x", "family": "red"}], **FAMILIES, d="red"), **options)


def assert_close(left: Frames, right: Frames) -> None:
    for name in COLUMNS:
        assert left[name].columns == right[name].columns == list(COLUMNS[name])
        for column in left[name].columns:
            assert left[name][column].to_list() == pytest.approx(right[name][column].to_list(), abs=1e-6), column


def test_the_order_of_rows_makes_no_difference() -> None:
    run = league(1)
    names = ("debates", "turns", "verdicts", "topics")
    shuffled = {name: getattr(run, name).collect().sample(fraction=1, shuffle=True, seed=3).lazy() for name in names}
    other = {name: getattr(run, name) for name in ("votes", "calls", "failures")}
    assert_close(audited(run), audited(Tables(folder=Path(), sealed=True, **shuffled, **other)))


def test_with_the_sides_changed_the_share_is_the_other_one_and_all_else_is_the_same() -> None:
    run = league(2)
    swap = {"for": "against", "against": "for"}
    names = {"for_contestant": "against_contestant", "against_contestant": "for_contestant"}
    mirrored = Tables(
        folder=Path(),
        sealed=True,
        debates=run.debates.rename(names).with_columns(pl.col("opener").replace(swap)),
        turns=run.turns.with_columns(pl.col("side").replace(swap)),
        verdicts=run.verdicts.with_columns(pl.col("winner").replace(swap)),
        topics=run.topics,
        votes=run.votes,
        calls=run.calls,
        failures=run.failures,
    )
    one, other = audited(run), audited(mirrored)
    share, low, high = (one["side"][name] for name in ("share", "share_low", "share_high"))
    turned = one["side"].with_columns(share=1 - share, share_low=1 - high, share_high=1 - low)
    assert_close(one | {"side": turned}, other)


def test_the_same_input_and_seed_give_the_same_numbers() -> None:
    run = league(3)
    one, again, other = audited(run), audited(run), audited(run, seed=1)
    assert all(one[name].equals(again[name]) for name in one)
    assert one["side"]["share"].equals(other["side"]["share"])
    assert not one["agreement"]["alpha_low"].equals(other["agreement"]["alpha_low"])


# Where a slope does not exist


def test_a_contestant_who_never_lost_leaves_the_slope_as_it_is_without_it() -> None:
    rng = np.random.default_rng(5)
    seats = [tuple(map(str, rng.choice(list("abc"), 2, replace=False))) for _ in range(200)]
    longer = rng.integers(-300, 300, 200).tolist()
    said = ["for" if rng.random() < 1 / (1 + math.exp(-length / 150)) else "against" for length in longer]
    hero = [("z", "a"), ("b", "z"), ("z", "c")]
    without = bias(run_of({"x": said}, seats=seats, longer=longer), spec())["length"]
    seats, longer, said = seats + hero, [*longer, -50, 20, 10], [*said, "for", "against", "for"]
    found = row(bias(run_of({"x": said}, seats=seats, longer=longer), spec())["length"], judge="x")
    assert (found["debates"], found["certain"]) == (200, 3)
    assert found["slope"] / found["words"] == pytest.approx(without["slope"][0] / without["words"][0], rel=1e-6)


def test_all_debates_stay_where_an_estimate_exists() -> None:
    rng = np.random.default_rng(6)
    design = rng.normal(size=(300, 5))
    score = np.where(rng.random(300) < 0.1, 0.5, np.where(rng.random(300) < 0.5, 1.0, 0.0))
    assert uncertain(score, design).all()
    assert not uncertain((design[:, 2] > 0).astype(float), design).any()


@pytest.mark.parametrize(
    ("longer", "certain"),
    [
        ([7] * 40, 0),  # everybody says as much
        ([100, -100, 100, -100] * 10, 0),  # a says more, whoever wins
        ([100, 100, -100, -100] * 10, 40),  # who says more wins
    ],
)
def test_there_is_no_slope_where_length_cannot_be_told_apart_or_explains_all(longer: list[int], certain: int) -> None:
    seats = [("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")] * 10
    said = ["for", "for", "against", "against"] * 10
    found = row(bias(run_of({"x": said}, seats=seats, longer=longer), spec())["length"], judge="x")
    assert found["slope"] is None and found["slope_low"] is None and found["certain"] == certain


# Little to go by


def test_one_judge_has_nobody_to_agree_with() -> None:
    found = bias(run_of({"x": ["for", "against"] * 10}), spec())
    assert found["agreement"].is_empty() and found["family"].is_empty()
    assert row(found["side"], judge="x", theme=None)["share"] == 0.5


def test_a_run_without_verdicts_has_empty_tables() -> None:
    nothing: list[str | None] = [None] * 3
    run = run_of({"x": nothing})
    verdicts = run.verdicts.with_columns(pl.col("winner").cast(pl.String))
    found = bias(
        Tables(**{name: getattr(run, name) for name in run.__dataclass_fields__} | {"verdicts": verdicts}), spec()
    )
    for name, frame in found.items():
        assert frame.is_empty() and dict(frame.schema) == dict(COLUMNS[name])


def test_a_judge_that_decided_nothing_has_no_numbers() -> None:
    found = bias(run_of({"x": ["abstain", "invalid"] * 10, "y": ["for", "against"] * 10}), spec())
    x = row(found["side"], judge="x", theme=None)
    assert (x["share"], x["verdicts"], x["undecided"], x["topics"]) == (None, 0, 20, 0)
    both = row(found["agreement"], judge="x", other="y")
    assert (both["agreement"], both["alpha"], both["kappa"], both["debates"]) == (None, None, None, 0)
    assert both["undecided"] == 20
    run = league(4)
    silent = run.verdicts.filter(winner="abstain").collect()["judge"]
    pairs = audited(run)["agreement"].drop_nulls("judge").select("judge", "other", "undecided")
    for one, other, undecided in pairs.rows():
        assert undecided == int(silent.is_in([one, other]).sum()) > 0


@pytest.mark.parametrize("name", ["T", "debate_id", "judge", "winner", "me@home"])
def test_a_judge_may_be_called_like_a_column(name: str) -> None:
    run = league(8)
    renamed = run.verdicts.with_columns(pl.col("judge").replace({"x": name}))
    fields = {field: getattr(run, field) for field in run.__dataclass_fields__}
    before, after = audited(run)["agreement"], bias(Tables(**fields | {"verdicts": renamed}), spec())["agreement"]
    numbers = pl.exclude("judge", "other")
    pairs = [{judge, other} for judge, other in after.select("judge", "other").rows()]
    for row_ in before.iter_rows(named=True):
        now = {name if said == "x" else said for said in (row_["judge"], row_["other"])}
        there = after.select(numbers).row(pairs.index(now), named=True)
        assert there == pytest.approx({key: row_[key] for key in there})


def test_what_a_judge_gives_its_own_has_an_interval() -> None:
    found = row(audited(league(9))["family"], judge="x")
    for given in ("share", "others"):
        assert 0 <= found[f"{given}_low"] < found[given] < found[f"{given}_high"] <= 1
    assert found["favour"] == pytest.approx(found["share"] - found["others"])


@pytest.mark.parametrize(("topics", "few"), [(1, True), (FEW - 1, True), (FEW, False)])
def test_few_topics_have_values_and_no_intervals(topics: int, few: bool) -> None:
    rng = np.random.default_rng(7)
    run = league(7, debates=400)
    run = Tables(
        **{name: getattr(run, name) for name in run.__dataclass_fields__}
        | {
            "debates": run.debates.with_columns(topic_id=pl.Series([f"t{i}" for i in rng.integers(0, topics, 400)])),
            "topics": pl.LazyFrame({"topic_id": [f"t{i}" for i in range(topics)], "theme": ["law"] * topics}),
        }
    )
    for name, frame in audited(run).items():
        assert frame["few_topics"].to_list() == [few] * len(frame)
        for rate in [column.removesuffix("_low") for column in COLUMNS[name] if column.endswith("_low")]:
            known = frame[rate].is_not_null()
            assert known.any()
            assert (frame.filter(known)[f"{rate}_low"].is_null() == few).all()
            assert (frame.filter(known)[f"{rate}_high"].is_null() == few).all()


# Real runs


ROSTER = """
[[judges]]
name = "counts"
kind = "rules"
family = "simulated"

[[judges]]
name = "coin"
kind = "scripted"
winners = ["for", "against", "tie", "abstain"]

[[panels]]
name = "bench"
members = ["counts", "coin"]
quorum = 1
"""


@pytest.fixture
def played(play: Play, tmp_path: Path) -> Path:
    """A run of 60 debates on 30 topics, with two judges and their panel."""
    dials = ("ash, strength = 0.6, verbosity = 0.9", "birch, strength = 0.5", "cedar, strength = 0.5")
    file = roster(tmp_path / "roster.toml", *dials, judges=ROSTER)
    return play(limit=60, matches=2, roster=file, judges=["bench", "coin"]).folder


def test_a_run_as_it_is_played(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bias(runs.load(played), Spec.read(played))
    coin = row(found["side"], judge="coin", theme=None)
    assert (coin["share"], coin["verdicts"], coin["undecided"]) == (0.5, 45, 15)
    assert found["side"]["judge"].unique().sort().to_list() == ["bench", "coin", "counts"]
    assert found["agreement"].select("judge", "other").rows() == [(None, None), ("coin", "counts")]
    assert main([str(played), "--write", str(tmp_path / "tables")]) == 0
    said = capsys.readouterr().out
    shown = f"coin all {coin['share']:.3f} [{coin['share_low']:.3f}, {coin['share_high']:.3f}] 45 15 30"
    assert shown in re.sub(" +", " ", said)
    for name, frame in found.items():
        assert pl.read_parquet(tmp_path / "tables" / f"{name}.parquet").equals(frame)
    (played / MANIFEST).unlink()  # and while it is still going
    again = bias(runs.load(played), Spec.read(played))
    assert all(again[name].equals(frame) for name, frame in found.items())


def test_wrong_input_is_one_line(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(capsys, played, "--write", tmp_path / "file", command=main)
    assert "no run 'nowhere'" in refused(capsys, "nowhere", command=main)


# Planted truths


def planted(
    rng: np.random.Generator, topics: int = 40, each: int = 4
) -> list[tuple[str, float, dict[str, float], str]]:
    """(what, its truth, the row that holds it, of which rate) of simulated runs in which topics differ."""
    n = topics * each
    topic = np.repeat(np.arange(topics), each)
    found = []

    # FOR wins 0.6 of what is decided, on some topics 0.35, on others 0.85; one in ten is a tie.
    wins = rng.random(n) < (0.6 + rng.uniform(-0.25, 0.25, topics))[topic]
    side = np.where(rng.random(n) < 0.1, "tie", np.where(wins, "for", "against")).tolist()
    table = bias(run_of({"x": side}, topic.tolist()), spec(), resamples=300)
    found.append(("share", 0.1 / 2 + 0.9 * 0.6, row(table["side"], judge="x", theme=None)))

    # A hundred words more are worth half a logit, beside strengths and side; each debate is there twice, which
    # makes a topic's debates alike and leaves the model what it is. Strong contestants say more.
    strength = np.array([0.8, 0.3, -0.3, -0.8])
    half = topic[::2]
    on_for = rng.integers(0, 4, len(half))
    on_against = (on_for + rng.integers(1, 4, len(half))) % 4
    longer = np.rint(150 * rng.normal(size=len(half)) + 100 * (strength[on_for] - strength[on_against])).astype(int)
    logit = strength[on_for] - strength[on_against] + 0.3 + longer * 0.5 / 100
    said = np.where(rng.random(len(half)) < 1 / (1 + np.exp(-logit)), "for", "against")
    seats = [("abcd"[i], "abcd"[j]) for i, j in zip(np.repeat(on_for, 2), np.repeat(on_against, 2), strict=True)]
    run = run_of({"x": np.repeat(said, 2).tolist()}, topic.tolist(), seats, np.repeat(longer, 2).tolist())
    slope_ = row(bias(run, spec(), resamples=300)["length"], judge="x")
    found.append(("slope", slope_["words"] * 0.5 / 100, slope_))

    # The judge of a's family gives a 0.14 more than others do, on topics that suit a more or less.
    seats = [("a", "b"), ("b", "a")] * (n // 2)
    suits = rng.uniform(0.3, 0.6, topics)[topic]
    gives = {judge: rng.random(n) < suits + bump for judge, bump in (("r", 0.14), ("g", 0.0), ("h", 0.0))}
    said_by = {
        judge: ["for" if won == (seat[0] == "a") else "against" for won, seat in zip(to_a, seats, strict=True)]
        for judge, to_a in gives.items()
    }
    table = bias(run_of(said_by, topic.tolist(), seats), spec(JUDGES[:2], **FAMILIES), resamples=300)
    found.append(("favour", 0.14, row(table["family"], judge="r")))

    # Two judges whose verdicts fall into cells [for, tie, against] squared, otherwise on half of the topics.
    kinds = np.array([[30, 5, 5, 5, 10, 5, 5, 5, 30], [15, 10, 15, 5, 5, 10, 15, 5, 20]]) / 100
    cells = np.array([rng.choice(9, p=kinds[kind]) for kind in rng.integers(0, 2, topics)[topic]])
    names = np.array(["for", "tie", "against"])
    run = run_of({"x": names[cells // 3].tolist(), "y": names[cells % 3].tolist()}, topic.tolist())
    both = row(bias(run, spec(), resamples=300)["agreement"], judge="x", other="y")
    expected = kinds.mean(axis=0).reshape(3, 3)
    equal, (x, y) = np.trace(expected), (expected.sum(axis=1), expected.sum(axis=0))
    pooled = (x + y) / 2
    found.append(("agreement", equal, both))
    found.append(("kappa", (equal - x @ y) / (1 - x @ y), both))
    found.append(("alpha", (equal - pooled @ pooled) / (1 - pooled @ pooled), both))
    return found


def held(draws: int, seed: int) -> dict[str, float]:
    """How often the intervals hold what was planted, by rate."""
    rng = np.random.default_rng(seed)
    holds: dict[str, list[bool]] = {}
    for _ in range(draws):
        for rate, truth, found in planted(rng):
            holds.setdefault(rate, []).append(found[f"{rate}_low"] <= truth <= found[f"{rate}_high"])
    return {rate: float(np.mean(held)) for rate, held in holds.items()}


def test_intervals_hold_what_was_planted() -> None:
    held_by = held(draws=50, seed=1)
    assert len(held_by) == 6
    assert 0.92 <= np.mean(list(held_by.values())) <= 0.98
    assert min(held_by.values()) >= 0.86  # of 50, each
