"""Two runs compared: exactly nothing between equal ones, planted differences, the size of p, and hand examples."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Play, refused, roster

import runs
from runs.bias import FEW
from runs.comparison import Comparison, compare, main
from runs.paired import differences, flips, holm, paired
from runs.records import Slot
from runs.spec import Spec
from runs.statistics import topic_weights
from runs.tables import Tables
from topics.errors import InputError

OPPONENTS = ("x", "y")


def run_of(frame: pl.DataFrame, judge: str = "gpt", digest: str = "same", split: str = "train") -> Tables:
    """A run of debates (`topic_id`, `for_contestant`, `against_contestant`, `winner`; `theme`)."""
    if "theme" not in frame.columns:
        frame = frame.with_columns(theme=pl.lit("law"))
    frame = frame.with_columns(
        debate_id=pl.format("d{}", pl.int_range(pl.len())),
        status=pl.lit("complete"),
        replicate=pl.lit(0),
        split=pl.lit(split),
        digest=pl.lit(digest),
    )
    other = dict.fromkeys(("turns", "votes", "calls", "failures"), pl.LazyFrame())
    return Tables(
        folder=Path("nowhere"),
        sealed=True,
        debates=frame.drop("winner", "theme", "digest").lazy(),
        verdicts=frame.select("debate_id", "winner", judge=pl.lit(judge)).lazy(),
        topics=frame.select("topic_id", "theme", "digest").unique("topic_id").lazy(),
        **other,
    )


def played(
    rng: np.random.Generator, chance: float, *, topics: int = 30, who: str = "me", spread: float = 0.0, seed: int = 0
) -> pl.DataFrame:
    """Debates of `who` with each opponent on both sides; `chance` to win, which varies by topic with `spread`, in the
    same way for the same `seed`."""
    easy = np.random.default_rng(seed).normal(0, spread, topics) if spread else np.zeros(topics)
    rows = []
    for t in range(topics):
        for other in OPPONENTS:
            for side in ("for", "against"):
                draw = rng.random()
                won = draw < chance + easy[t]
                names = (who, other) if side == "for" else (other, who)
                rows.append((f"t{t:03}", *names, "for" if won == (side == "for") else "against", f"theme {t % 3}"))
    names = ["topic_id", "for_contestant", "against_contestant", "winner", "theme"]
    return pl.DataFrame(rows, schema=names, orient="row")


def me(found: Comparison) -> dict[str, float]:
    chosen = found.frame.filter(a="me")
    assert len(chosen) == 1
    return chosen.row(0, named=True)


# Hand examples


def test_holm_as_published() -> None:
    """The example of Wikipedia's article on the method: 0.01, 0.04, 0.03 and 0.005 at a level of 0.05; the second and
    the third hypothesis stand."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_holm_as_statsmodels_has_it() -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).random(20) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


def test_the_difference_by_hand() -> None:
    names = ["topic_id", "for_contestant", "against_contestant", "winner"]
    a = [("t1", "me", "x", "against"), ("t1", "x", "me", "for"), ("t2", "me", "x", "tie"), ("t3", "me", "x", "for")]
    a += [("t1", "me", "x", "for")]  # in this place 0 and 1
    b = [("t1", "me", "x", "for"), ("t1", "x", "me", "tie"), ("t2", "me", "x", "against"), ("t3", "x", "me", "for")]
    one, two = (run_of(pl.DataFrame(rows, schema=names, orient="row")) for rows in (a, b))
    found = compare(one, two, contestants=["me"])
    row = me(found)
    # t1: FOR 1 - 0.5, AGAINST 0.5 - 0; t2: 0 - 0.5; t3 was played on another side
    assert row["delta"] == (0.5 - 0.5) / 2 == row["score_b"] - row["score_a"] == 0
    assert (row["won"], row["lost"], row["tied"], row["topics"]) == (1, 1, 0, 2)
    assert (row["debates_a"], row["debates_b"], row["unmatched_a"], row["unmatched_b"]) == (4, 3, 1, 1)
    assert row["few_topics"] and row["p"] is None and row["p_holm"] is None and row["delta_low"] is None
    assert "1 of 5 of 'me' in A, 1 of 4 of 'me' in B" in found.notes[0]


def test_sign_flips_by_counting_them_all() -> None:
    """Ten topics, each 0.1 to 1 better: none of the 1,024 ways to give signs makes more, and one makes as much. Where
    every second one is worse, or all but two, more of them do."""
    every = np.array([*product([1, -1], repeat=10)])
    size = np.linspace(0.1, 1, 10)
    for sign in (np.ones(10), np.array([-1, 1] * 5), np.array([-1] * 8 + [1, 1])):
        delta_TQ = (sign * size)[:, None]
        found = paired(delta_TQ, np.ones_like(delta_TQ), topic_weights(10, 20_000, 0), flips(10, 20_000, 0))
        share = (every @ size >= (sign * size).sum() - 1e-9).mean()
        assert found["p_flip"][0] == pytest.approx(share, rel=0.5 if share < 0.01 else 0.05)
    ten = topic_weights(10, 10, 0), flips(10, 10, 0)
    assert paired(size[:, None], np.ones((10, 1)), *ten)["p"][0] == 1 / 11, "the least that ten resamples can say"
    assert paired(-size[:, None], np.ones((10, 1)), *ten)["p"][0] == 1


# Laws


def test_a_run_is_exactly_as_good_as_itself() -> None:
    run = run_of(played(np.random.default_rng(0), 0.6))
    found = compare(run, run, contestants=["me"])
    row = me(found)
    assert row["delta"] == 0 and row["p"] == row["p_flip"] == row["p_holm"] == 1
    assert row["tied"] == row["topics"] == 30 and row["delta_low"] is None
    assert (found.strata["delta"] == 0).all() and found.notes == ()


def test_it_is_there_under_runs() -> None:
    one, two = (run_of(played(np.random.default_rng(seed), 0.5)) for seed in (1, 2))
    called = runs.compare(one, two, contestants=["me"])
    assert called.frame.equals(compare(one, two, contestants=["me"]).frame)


def test_to_exchange_the_runs_turns_the_sign() -> None:
    rng = np.random.default_rng(1)
    one, two = run_of(played(rng, 0.4)), run_of(played(rng, 0.6))
    there, back = me(compare(one, two, contestants=["me"])), me(compare(two, one, contestants=["me"]))
    assert there["delta"] == pytest.approx(-back["delta"]) and there["delta"] > 0
    assert there["delta_low"] == pytest.approx(-back["delta_high"])
    assert (there["won"], there["lost"]) == (back["lost"], back["won"])
    assert there["p"] + back["p"] == pytest.approx(1, abs=1e-3) and there["p_flip"] < 0.05 < back["p_flip"]


def test_the_same_seed_gives_the_same_numbers_whatever_the_order_of_rows() -> None:
    rng = np.random.default_rng(2)
    one, two = played(rng, 0.4), played(rng, 0.5)
    found = compare(run_of(one), run_of(two), contestants=["me"])
    again = compare(run_of(one.sample(fraction=1, shuffle=True, seed=5)), run_of(two.reverse()), contestants=["me"])
    assert found.frame.equals(again.frame, null_equal=True) and found.strata.equals(again.strata, null_equal=True)


# Planted


def test_a_planted_difference_is_found_and_held() -> None:
    """200 contestants, in ten pairs of runs on topics of unequal difficulty: between equals p is at most 0.05 in about
    1 of 20, and the interval holds the difference in about 19 of 20; a difference of 0.2 is nearly always found."""
    gains = {f"me {n}": 0.0 if n % 2 else 0.2 for n in range(20)}
    rows = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        runs_ = [
            pl.concat(played(rng, 0.4 + after * more, who=who, spread=0.1, seed=seed) for who, more in gains.items())
            for after in (0, 1)
        ]
        rows += compare(*map(run_of, runs_), contestants=list(gains), resamples=1000, seed=seed).frame.to_dicts()
    held = [row["delta_low"] <= gains[row["a"]] <= row["delta_high"] for row in rows]
    assert 184 <= sum(held) <= 197, "92 to 98.5 %"
    for name in ("p", "p_flip"):
        assert sum(row[name] <= 0.05 for row in rows if not gains[row["a"]]) <= 11, "of 100"
        assert sum(row[name] <= 0.05 for row in rows if gains[row["a"]]) >= 90, "of 100"


@pytest.mark.parametrize("topics", [12, 59])
def test_p_has_the_size_that_it_says(topics: int) -> None:
    """2,000 comparisons at once where there is no difference."""
    delta_TQ = np.random.default_rng(topics).normal(0, 0.4, (topics, 2000))
    weights_RT, signs_RT = topic_weights(topics, 2000, 0), flips(topics, 2000, 0)
    found = paired(delta_TQ, np.ones_like(delta_TQ), weights_RT, signs_RT)
    assert (found["p_flip"] <= 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert (found["p"] <= 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert (found["p"] <= 0.025).mean() == pytest.approx((found["delta_low"] > 0).mean(), abs=0.01), (
        "it fits the bounds"
    )
    held = (found["delta_low"] <= 0) & (found["delta_high"] >= 0)
    assert held.mean() == pytest.approx(0.95, abs=0.02)


def test_a_theme_in_which_all_of_it_lies_is_found() -> None:
    rng = np.random.default_rng(3)
    one, two = played(rng, 0.3, topics=60), played(rng, 0.3, topics=60)
    better = played(rng, 0.9, topics=60).filter(theme="theme 1")
    two = pl.concat([two.filter(pl.col("theme") != "theme 1"), better])
    strata = compare(run_of(one), run_of(two), contestants=["me"]).strata
    assert strata["theme"].to_list() == ["theme 0", "theme 1", "theme 2"] and (strata["topics"] == 20).all()
    assert strata.filter(pl.col("p_holm") < 0.05)["theme"].to_list() == ["theme 1"]
    assert (strata["p_holm"] >= strata["p"]).all()
    few = compare(run_of(played(rng, 0.3)), run_of(played(rng, 0.6)), contestants=["me"]).strata
    assert (few["topics"] == FEW).all() and few["delta"].null_count() == 0
    fewer = compare(run_of(played(rng, 0.3, topics=27)), run_of(played(rng, 0.6)), contestants=["me"]).strata
    assert fewer["few_topics"].all()
    for name in ("delta", "delta_low", "p", "p_flip", "p_holm"):
        assert fewer[name].null_count() == 3, "too few topics, in place of a number"


def test_what_has_no_p_corrects_nothing() -> None:
    rows = [(f"t{t}", of, delta) for of, n, delta in (("many", 20, 0.5), ("few", 5, 0.5)) for t in range(n)]
    rows[0] = ("t0", "many", -0.1)
    found = differences(pl.DataFrame(rows, schema=["topic_id", "of", "delta"], orient="row"), ["of"])
    many = found.filter(of="many").row(0, named=True)
    assert many["p_holm"] == many["p"] and found.filter(of="few")["p_holm"].to_list() == [None]


# Who is compared with whom


def test_two_of_one_run_by_what_they_did_in_the_same_places() -> None:
    rng = np.random.default_rng(4)
    frame = pl.concat([played(rng, 0.3, who="old"), played(rng, 0.7, who="new")])
    met = frame.head(1).with_columns(for_contestant=pl.lit("old"), against_contestant=pl.lit("new"))
    run = run_of(pl.concat([frame, met]))
    found = compare(run, run, pairs={"old": "new"}).frame.row(0, named=True)
    assert (found["a"], found["b"]) == ("old", "new") and found["delta"] > 0.2 and found["p"] < 0.01
    assert (found["unmatched_a"], found["unmatched_b"]) == (1, 1), "they have no common opponent in each other"
    both = compare(run, run).frame
    assert both["a"].to_list() == both["b"].to_list() == ["new", "old", "x", "y"]


def test_what_cannot_be_compared_is_told() -> None:
    rng = np.random.default_rng(5)
    one, two = played(rng, 0.5), played(rng, 0.5, who="you")
    with pytest.raises(InputError, match=r"contestant 'mee' has no verdict in run A; expected.*did you mean 'me'"):
        compare(run_of(one), run_of(two), pairs={"mee": "you"})
    with pytest.raises(InputError, match="contestant 'me' has no verdict in run B"):
        compare(run_of(one), run_of(two), contestants=["me"])
    with pytest.raises(InputError, match=r"0 judges decided in both runs \(none\); name one with --judge"):
        compare(run_of(one), run_of(two, judge="qwen"))
    with pytest.raises(InputError, match="judge 'gpt' has no verdicts in both runs"):
        compare(run_of(one), run_of(two, judge="qwen"), judge="gpt")
    with pytest.raises(InputError, match="no debate has a counterpart"):
        compare(run_of(one), run_of(two.with_columns(topic_id="other" + pl.col("topic_id"))), pairs={"me": "you"})
    alone = two.filter(pl.lit(False))
    with pytest.raises(InputError, match=r"0 judges decided"):
        compare(run_of(one), run_of(alone))


def test_topics_that_were_changed_are_left_out_and_told() -> None:
    one = played(np.random.default_rng(6), 0.5)
    with pytest.raises(InputError, match="no debate has a counterpart"):
        compare(run_of(one), run_of(one, digest="changed"), contestants=["me"])
    two = run_of(one, split="test")
    changed = two.topics.with_columns(digest=pl.when(topic_id="t000").then(pl.lit("new")).otherwise("digest"))
    found = compare(run_of(one), Tables(**{**vars(two), "topics": changed}), contestants=["me"])
    assert me(found)["topics"] == 29
    assert "1 topics have another text in B, and are left out" in found.notes
    assert "the splits differ: 'train' in A, 'test' in B" in found.notes


def test_one_of_a_may_be_compared_with_several_of_b() -> None:
    rng = np.random.default_rng(7)
    one = run_of(played(rng, 0.4, who="base"))
    two = run_of(pl.concat([played(rng, 0.4, who="one"), played(rng, 0.6, who="two")]))
    found = compare(one, two, pairs=[("base", "one"), ("base", "two"), ("base", "one")]).frame
    assert found.select("a", "b").rows() == [("base", "one"), ("base", "two")]
    assert found["p_holm"].to_list() == pytest.approx(holm(found["p"].to_list())) and max(found["p_holm"]) > 0
    alone = compare(one, two, pairs={"base": "two"}).frame.row(0, named=True)
    assert found.row(1, named=True) | {"p_holm": None} == alone | {"p_holm": None}
    assert found["p_holm"][1] == pytest.approx(2 * alone["p_holm"]), "there are two to correct for"


# What else is not the same


def test_void_debates_are_told_with_whose_they_are() -> None:
    """Two runs of the same strength, but in B whatever `me` would have lost came to no end: it looks better, and the
    notes say why."""
    rng = np.random.default_rng(8)
    before, frame = (pl.concat([played(rng, 0.5), played(rng, 0.5, who="you")]) for _ in range(2))
    lost = (pl.col("for_contestant") == "me") == (pl.col("winner") == "against")
    mine = (pl.col("for_contestant") == "me") | (pl.col("against_contestant") == "me")
    one, two = run_of(before), run_of(frame)
    void = pl.when(lost & mine).then(pl.lit("void")).otherwise(pl.lit("complete"))
    debates = two.debates.collect().with_columns(frame.select(status=void))
    n = len(debates.filter(status="void"))
    found = compare(one, Tables(**{**vars(two), "debates": debates.lazy()}), contestants=["me", "you"])
    assert me(found)["score_b"] == 1 and me(found)["p"] < 0.01 and 0 < n < 120
    told = f"left out, being void, and so nobody's loss: {n} of 240 debates of B; {n} of 120 of 'me'"
    assert told in found.notes and not any("debates of A" in note for note in found.notes)
    yours = compare(Tables(**{**vars(two), "debates": debates.lazy()}), one, contestants=["you"])
    assert (
        f"left out, being void, and so nobody's loss: {n} of 240 debates of A; none of who is compared" in yours.notes
    )


def test_complete_debates_that_the_judge_did_not_decide_are_told() -> None:
    frame = played(np.random.default_rng(9), 0.5)
    silent = frame.with_columns(winner=pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("abstain")).otherwise("winner"))
    gone = run_of(frame)
    fewer = Tables(**{**vars(gone), "verdicts": gone.verdicts.head(115)})
    notes = compare(run_of(silent), fewer, contestants=["me"]).notes
    assert "7 complete debates of A without a verdict of 'gpt' that decides, and left out" in notes
    assert "5 complete debates of B without a verdict of 'gpt' that decides, and left out" in notes


GPT = {"name": "gpt", "kind": "llm", "endpoint": "api", "model": "m", "orders": ["for_first"], "samples": 1}
QWEN = GPT | {"name": "qwen"}
BENCH = {"name": "bench", "members": ["gpt", "qwen"], "quorum": None, "related": "leave_out"}
X = {"name": "x", "kind": "endpoint", "endpoint": "vllm", "model": "base", "temperature": None}
SERVER = {"name": "vllm", "kind": "vllm", "base_url": [], "model": "base"}


def notes_of(tmp_path: Path, judge: str = "gpt", **other: Any) -> list[str]:
    """What is told of two runs with the same debates, whose specs differ in `other`."""
    slot = Slot(turn=1, side="for", stage="opening", words=9, instruction="")
    played_ = {"format": (slot,), "opener": "for", "contestants": (X,), "endpoints": (SERVER,)}
    played_ |= {"judges": (GPT, QWEN), "panels": (BENCH,)}
    told = []
    frame = played(np.random.default_rng(10), 0.5)
    for name, also in (("a", {}), ("b", other)):
        (folder := tmp_path / name).mkdir(exist_ok=True)
        spec = {"seed": 0, "topics": {}, "matches": None, "replicates": 1} | played_ | also
        Spec.model_validate(spec).save(folder)
        told.append(Tables(**{**vars(run_of(frame, judge=judge)), "folder": folder}))
    return list(compare(*told, judge=judge, contestants=["me"]).notes)


JUDGES, OTHERS = ("judges that are not the same", "opponents that are not the same")


@pytest.mark.parametrize(
    ("judge", "other", "told"),
    [
        ("gpt", {}, None),
        ("gpt", {"format": ()}, "the runs differ in format"),
        ("gpt", {"format": (), "opener": "alternate"}, "the runs differ in format and opener"),
        ("gpt", {"judges": (GPT | {"orders": ["for_first", "against_first"], "samples": 3}, QWEN)}, JUDGES),
        ("gpt", {"judges": (GPT | {"model": "n"}, QWEN)}, f"{JUDGES} in both runs, under one name: 'gpt'"),
        ("gpt@4", {"judges": (GPT | {"model": "n"}, QWEN)}, f"{JUDGES} in both runs, under one name: 'gpt'"),
        ("gpt", {"judges": (GPT | {"family": "g", "lineage": "l", "trajectory": True}, QWEN)}, None),
        ("gpt", {"judges": (GPT, QWEN | {"model": "n"})}, None),
        ("bench", {"judges": (GPT, QWEN | {"model": "n"})}, f"{JUDGES} in both runs, under one name: 'qwen'"),
        ("bench", {"panels": (BENCH | {"quorum": 2},)}, f"{JUDGES} in both runs, under one name: 'bench'"),
        ("gpt", {"panels": (BENCH | {"quorum": 2},)}, None),
        ("gpt", {"contestants": (X | {"temperature": 1.0},)}, f"{OTHERS} in both runs, under one name: 'x'"),
        ("gpt", {"endpoints": (SERVER | {"model": "tuned"},)}, f"{OTHERS} in both runs, under one name: 'x'"),
        ("gpt", {"contestants": (X, {"name": "me", "kind": "simulated"})}, None),
    ],
)
def test_what_was_played_or_judged_otherwise_is_told(
    judge: str, other: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    notes = notes_of(tmp_path, judge, **other)
    assert len(notes) == (told is not None) and all(note.startswith(told or "") for note in notes)


def test_a_trajectory_is_a_judge_only_where_it_is_named() -> None:
    one, two = (run_of(played(np.random.default_rng(seed), 0.5)) for seed in (11, 12))
    part = [
        Tables(**{**vars(run), "verdicts": pl.concat([run.verdicts, more])})
        for run, more in (
            (run, run.verdicts.with_columns(judge=pl.lit("gpt@4"), winner=pl.lit("for"))) for run in (one, two)
        )
    ]
    assert compare(*part, contestants=["me"]).judge == "gpt"
    assert compare(*part, contestants=["me"]).frame.equals(compare(one, two, contestants=["me"]).frame)
    assert me(compare(*part, judge="gpt@4", contestants=["me"]))["delta"] == 0
    home = [Tables(**{**vars(run), "verdicts": run.verdicts.with_columns(judge=pl.lit("me@home"))}) for run in part]
    assert compare(*home, contestants=["me"]).judge == "me@home"


# The command


def league(tmp_path: Path, name: str, strength: float) -> Path:
    others = ("oak, strength = 0.4", "elm, strength = 0.5")
    return roster(tmp_path / f"{name}.toml", f"me, strength = {strength}", *others)


def test_the_command_finds_who_became_stronger(play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        play(roster=league(tmp_path, name, strength), limit=120).folder
        for name, strength in (("weak", 0.3), ("strong", 0.8))
    ]
    assert main([*map(str, folders), "--contestants", "me", "--themes"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[-1].startswith("better in B than in A (by rules, one-sided, p < 0.05 after Holm): me (+0.")
    assert printed[0].split()[:2] == ["A", "B"] and printed[1].split()[:2] == ["me", "me"]
    assert "too few topics" in "\n".join(printed)
    assert main([str(folders[1]), str(folders[0]), "--contestants", "me"]) == 0
    assert capsys.readouterr().out.strip().endswith("nobody that can be told")
    assert main([*map(str, folders), "--pairs", "me=me", "--contestants", "oak"]) == 0
    noted = capsys.readouterr().out
    assert "note: opponents that are not the same in both runs, under one name: 'me'" in noted
    assert main([*map(str, folders), "--pairs", "me=me,me=oak"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:3]]
    assert rows == [["me", "me"], ["me", "oak"]]
    line = refused(capsys, folders[0], folders[1], "--judge", "rulez", command=main)
    assert line == "error: judge 'rulez' has no verdicts in both runs; expected one of 'rules'; did you mean 'rules'?"
    line = refused(capsys, *folders, "--pairs", "me=me,oak", command=main)
    assert line.startswith("error: --pairs 'oak'; expected a contestant of A")
    assert "no run 'nowhere'" in refused(capsys, folders[0], "nowhere", command=main)
    refused(capsys, folders[0], command=main)


def test_help_fits_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert left.value.code == 0 and len(lines) < 24 and max(map(len, lines)) <= 110
