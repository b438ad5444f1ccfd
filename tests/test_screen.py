"""Screening: what is asked before anyone has spoken, how it is read, what it comes to, and a screen that is killed."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_endpoints import endpoint, spent, stats
from test_judges import debate

import runs
from arena.run import main as run
from arena.screen import main
from judges.answers import Unreadable
from judges.asking import NoReply, NotNow, Question, Reply
from judges.screening import ALL, LEAST, ONE_SIDED, ORDERS, Screener, messages, priors, read, schema, table
from runs.records import Order, Vote
from topics import Topic

MOTION = Topic(topic_id="trams", motion="Cities should build {trams}.", info="Lyon did so in 2001.")
GOOD = {"reason": "Trams carry more people.", "winner": "for", "confidence": 80}


# ── what is asked ────────────────────────────────────────────────────────────────────────────────


def test_all_before_the_last_paragraph_is_the_same_in_every_order_and_sample() -> None:
    asked = [messages(MOTION, order, sample) for order in ORDERS for sample in range(3)]
    assert len({system["content"] for system, _ in asked}) == 1
    heads, tails = zip(*(user["content"].rsplit("\n\n", 1) for _, user in asked), strict=True)
    assert set(heads) == {f"Motion: {MOTION.motion}\n\nWhat is known: {MOTION.info}"}
    assert len(set(tails)) == 6


def test_the_orders_change_places_and_nothing_else() -> None:
    one, other = (messages(MOTION, order, 0)[1]["content"].rsplit("\n\n", 1)[1] for order in ORDERS)
    swapped = one.replace("for", "\0").replace("against", "for").replace("\0", "against")
    assert one != other and swapped == other
    enums = [schema(order)["properties"]["winner"]["enum"] for order in ORDERS]
    assert enums == [["for", "against", "even"], ["against", "for", "even"]]


def test_a_motion_without_background_has_none() -> None:
    (_, user) = messages(Topic(topic_id="t", motion="Trams are quiet."), "for_first", 0)
    assert user["content"].count("\n\n") == 1 and "known" not in user["content"]


# ── reading an answer ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("winner", ["for", "against", "even"])
@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "I weighed for against against; even so:\n{}\nDone."])
def test_an_answer_is_the_value_of_a_key_whatever_stands_around_it(winner: str, around: str) -> None:
    answer = read(Reply(text=around.replace("{}", json.dumps(GOOD | {"winner": winner}))))
    assert (answer.winner, answer.confidence, answer.reason) == (winner, 80, GOOD["reason"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "for",
        "Both for and against have a case; it is even.",
        "I cannot take a side on this motion.",
        json.dumps(GOOD)[:-5],
        json.dumps(GOOD) + json.dumps(GOOD | {"winner": "against"}),
        json.dumps(GOOD | {"winner": "tie"}),
        json.dumps(GOOD | {"winner": "FOR"}),
        json.dumps(GOOD | {"winner": ["for"]}),
        json.dumps(GOOD | {"winner": None}),
        json.dumps(GOOD | {"confidence": "80"}),
        json.dumps(GOOD | {"confidence": True}),
        json.dumps(GOOD | {"confidence": 0.8}),
        json.dumps(GOOD | {"confidence": 101}),
        json.dumps(GOOD | {"confidence": float("nan")}),
        json.dumps(GOOD | {"reason": " "}),
        json.dumps(GOOD | {"note": "for"}),
        json.dumps({name: value for name, value in GOOD.items() if name != "reason"}),
        json.dumps({name: value for name, value in GOOD.items() if name != "winner"}),
        json.dumps(dict(reversed(GOOD.items()))),
        '{"a":' * 40_000,
    ],
)
def test_what_is_not_as_it_was_asked_for_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read(Reply(text=text))


def voted(*replies: str | Exception, order: Order = "for_first", sample: int = 0) -> tuple[Vote, list[Question]]:
    """The vote of a screener that hears `replies` one after the other, and what it asked."""
    asked: list[Question] = []

    async def ask(question: Question) -> Reply:
        asked.append(question)
        reply = replies[len(asked) - 1]
        if isinstance(reply, Exception):
            raise reply
        return Reply(text=reply, call_id=f"call {len(asked)}")

    about = replace(debate(), topic=MOTION)
    try:
        return asyncio.run(Screener("gpt", ask=ask).vote(about, order, sample)), asked
    finally:
        assert len(asked) == len(replies)


def test_a_vote_is_what_the_answer_says() -> None:
    vote, (question,) = voted(json.dumps(GOOD), order="against_first", sample=3)
    assert (vote.winner, vote.confidence, vote.rationale) == ("for", 0.8, GOOD["reason"])
    assert (vote.order, vote.sample, vote.call_id, vote.judge) == ("against_first", 3, "call 1", "gpt")
    assert question.messages == messages(MOTION, "against_first", 3)
    assert voted(json.dumps(GOOD | {"winner": "even"}))[0].winner == "tie"


def test_an_answer_that_cannot_be_read_is_repaired_once() -> None:
    vote, (first, second) = voted("Even, I think.", json.dumps(GOOD | {"winner": "against"}))
    assert (vote.winner, vote.call_id) == ("against", "call 2")
    assert list(second.messages[:2]) == list(first.messages) and second.messages[2]["content"] == "Even, I think."
    assert first.draw != second.draw
    with pytest.raises(NoReply) as caught:
        voted("Even, I think.", "Still even.")
    assert caught.value.kind == "unparseable"


@pytest.mark.parametrize("error", [NoReply("content", "refused"), NotNow("parked")])
def test_no_answer_is_not_asked_for_again(error: Exception) -> None:
    with pytest.raises(type(error)):
        voted(error)


def test_every_answer_has_draws_of_its_own() -> None:
    draws = [
        question.draw
        for order in ORDERS
        for sample in range(4)
        for question in voted("?", json.dumps(GOOD), order=order, sample=sample)[1]
    ]
    assert len(set(draws)) == len(draws) == 16


# ── what it comes to ─────────────────────────────────────────────────────────────────────────────


def answered(**said: Iterable[str]) -> pl.DataFrame:
    """Answers on one motion, by judge: the orders take turns."""
    rows = [("t", judge, ORDERS[n % 2], winner) for judge, winners in said.items() for n, winner in enumerate(winners)]
    return pl.DataFrame(rows, schema=["topic_id", "judge", "order", "winner"], orient="row")


def prior(judge: str = ALL, **said: Iterable[str]) -> dict[str, Any]:
    (row,) = priors(answered(**said)).filter(judge=judge).to_dicts()
    return row


# Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), table I,
# Wilson's score interval without continuity correction
@pytest.mark.parametrize(
    ("won", "of", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]
)
def test_the_interval_over_answers_is_wilsons(won: int, of: int, low: float, high: float) -> None:
    row = prior(gpt=["for"] * won + ["against"] * (of - won))
    assert row["prior"] == pytest.approx(won / of)
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_even_counts_half_and_invalid_not_at_all() -> None:
    row = prior(gpt=["for", "even", "invalid", "against", "even", "invalid"])
    assert (row["prior"], row["answers"], row["invalid"]) == (0.5, 4, 2)
    assert prior(gpt=["for", "invalid", "invalid"])["prior"] == 1
    empty = prior(gpt=["invalid"] * 20)
    assert (empty["prior"], empty["low"], empty["judges"], empty["one_sided"]) == (None, None, 0, "too_few")


def test_a_flag_takes_eight_answers_that_agree_four_in_each_order() -> None:
    assert prior(gpt=["for"] * 8)["one_sided"] == "for"
    assert prior(gpt=["against"] * 8)["one_sided"] == "against"
    assert prior(gpt=["for"] * 7)["one_sided"] == "too_few"
    assert prior(gpt=["for"] * 7 + ["even"])["one_sided"] == "no"
    assert prior(gpt=["for", "invalid"] * 20)["one_sided"] == "too_few", "asked in one order only"
    assert 8 / (8 + 1.96**2) > ONE_SIDED > 7 / (7 + 1.96**2) and 2 * LEAST == 8


def test_judges_that_disagree_are_no_side() -> None:
    row = prior(gpt=["for"] * 10, qwen=["against"] * 10)
    assert (row["prior"], row["one_sided"], row["judges"]) == (0.5, "no", 2)
    assert prior("gpt", gpt=["for"] * 10, qwen=["against"] * 10)["one_sided"] == "for"


def test_three_judges_that_agree_say_little_of_others() -> None:
    row = prior(a=["for"] * 10, b=["for"] * 10, c=["for"] * 10)
    assert row["one_sided"] == "for" and row["judges"] == 3
    assert row["judges_low"] == pytest.approx(3 / (3 + 4.302653**2), abs=1e-6)  # t with 2 degrees of freedom
    assert row["judges_high"] == 1
    assert prior(a=["for"] * 10)["judges_low"] is None
    assert prior("a", a=["for"] * 10, b=["for"] * 10)["judges_low"] is None


WINNERS = st.lists(st.sampled_from(["for", "against", "even", "invalid"]), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(WINNERS, WINNERS)
def test_sides_that_change_places_mirror_everything(one: list[str], other: list[str]) -> None:
    turned = {"for": "against", "against": "for"}
    row = prior(a=one, b=other)
    mirrored = prior(a=[turned.get(w, w) for w in one], b=[turned.get(w, w) for w in other])
    assert mirrored["one_sided"] == turned.get(row["one_sided"], row["one_sided"])
    for name, of in (("prior", "prior"), ("low", "high"), ("judges_low", "judges_high")):
        here, there = row[name], mirrored[of]
        assert (here is None and there is None) or here == pytest.approx(1 - there, abs=1e-9)


def test_a_motion_at_the_bound_is_seldom_flagged() -> None:
    # Every outcome of n answers is a topic; its chance is the binomial's, so the chance of a flag is exact.
    sizes = range(8, 41, 2)
    rows = [
        (f"{n} {won}", "gpt", ORDERS[i % 2], "for" if i < won else "against")
        for n in sizes
        for won in range(n + 1)
        for i in range(n)
    ]
    found = priors(pl.DataFrame(rows, schema=["topic_id", "judge", "order", "winner"], orient="row"))
    flags = dict(found.filter(judge="gpt").select("topic_id", "one_sided").iter_rows())

    def flagged(n: int, p: float) -> float:
        chances = (comb(n, won) * p**won * (1 - p) ** (n - won) for won in range(n + 1))
        return sum(chance for won, chance in enumerate(chances) if flags[f"{n} {won}"] in ("for", "against"))

    assert flagged(8, 0.5) == 1 / 128
    assert max(flagged(n, ONE_SIDED) for n in sizes) < 0.05
    assert max(flagged(n, 0.5) for n in sizes) < 0.01
    assert flagged(10, 0.99) > 0.9 and flagged(40, 0.9) > 0.9, "what is one-sided is found"


def test_topics_keep_their_order() -> None:
    frame = pl.concat([answered(b=["for"], a=["for"]).with_columns(topic_id=pl.lit(t)) for t in ("z", "a", "m")])
    assert priors(frame)["topic_id"].to_list() == [t for t in ("z", "a", "m") for _ in range(3)]
    assert set(priors(frame)["judge"]) == {"a", "b", ALL}


def test_the_table_shows_the_most_one_sided_first() -> None:
    said = {"open": ["for", "against"] * 5, "nearly": ["against"] * 19 + ["for"]} | {
        f"t{n}": ["for"] * 8 for n in range(25)
    }
    found = priors(pl.concat([answered(gpt=winners).with_columns(topic_id=pl.lit(t)) for t, winners in said.items()]))
    lines = table(found).splitlines()
    assert [line.split()[0] for line in lines[1:21]] == [f"t{n}" for n in range(20)]
    assert lines[1].split() == ["t0", "for", "1.00", "0.68-1.00", "1.00"]
    assert lines[21:] == ["and 6 more"] and table(found, most=26).splitlines()[-1].startswith("nearly")
    assert table(priors(answered(gpt=["for", "against"]))) == ""


# ── the command ──────────────────────────────────────────────────────────────────────────────────

JUDGE = '[[judges]]\nname = "{name}"\nkind = "llm"\nendpoint = "here"\nmodel = "{model}"\n'
SUBJECTS = ("trams", "schools", "museums", "bridges")


def roster(folder: Path, url: str, more: str = "", **models: str) -> Path:
    prices = "prompt_price = 1.0\ncached_price = 0.1\ncompletion_price = 10.0\nin_flight = 8"
    text = f'[[endpoints]]\nname = "here"\nbase_url = "{url}"\n{prices}\n'
    text += "".join(JUDGE.format(name=name, model=model) for name, model in models.items())
    (folder / "roster.toml").write_text(text + more)
    return folder / "roster.toml"


def own(folder: Path) -> Path:
    """Motions of which the simulated judges hold a third to be refuted, a third to be shown, and a third open."""
    wordings = {
        "sweeping": "Everybody gains from {}.",
        "modest": "Sometimes a city gains from {}.",
        "open": "We need {}.",
    }
    rows = [
        {"topic_id": f"{kind}-{subject}", "motion": motion.format(subject)}
        for kind, motion in wordings.items()
        for subject in SUBJECTS
    ]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "own.jsonl"


def screens(folder: Path) -> list[Path]:
    return runs.run.folders(folder / "out" / "screens")


def screened(folder: Path, *words: object, code: int = 0) -> Path:
    assert main(["--roster", str(folder / "roster.toml"), "--out", str(folder / "out"), *map(str, words)]) == code
    return screens(folder)[0]


def found(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "priors.parquet").filter(judge=ALL)


def test_planted_sides_are_flagged_and_open_motions_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(tmp_path) as url:
        roster(tmp_path, url, fair="judge", other="judge?position=0.1")
        folder = screened(tmp_path, "--judges", "fair,other", "--topics", own(tmp_path))
    flags = dict(found(folder).select("topic_id", "one_sided").iter_rows())
    wanted = {"sweeping": "against", "modest": "for", "open": "no"}
    assert flags == {f"{kind}-{subject}": side for kind, side in wanted.items() for subject in SUBJECTS}
    printed = capsys.readouterr().out.strip().splitlines()
    assert sum(line.startswith(("sweeping-", "modest-")) for line in printed) == 8
    assert printed[-2:] == [
        "8 of 12 motions are one-sided for these judges",
        f"next:  python -m arena.run --topics {folder / 'kept.jsonl'}",
    ]
    assert run(["--topics", str(folder / "kept.jsonl"), "--dry-run"]) == 0
    assert "on 4 of 4 topics" in capsys.readouterr().out


def test_answers_and_what_they_cost_are_kept(tmp_path: Path) -> None:
    with endpoint(tmp_path) as url:
        roster(tmp_path, url, fair="judge?invalid=0.2&tie=0.2")
        folder = screened(tmp_path, "--judges", "fair", "--topics", "train", "--limit", 30)
        bill = stats(url)
    answers = pl.read_parquet(folder / "answers.parquet")
    assert answers.height == 300 and answers.select("topic_id", "order", "sample").n_unique() == 300
    assert set(answers["winner"]) == {"for", "against", "even", "invalid"}
    invalid = answers.filter(winner="invalid")
    assert (
        invalid["error"].str.contains("cannot be read").all() and invalid["confidence"].null_count() == invalid.height
    )
    assert answers.filter(pl.col("winner") != "invalid")["cost_usd"].min() > 0
    calls = pl.read_parquet(folder / "calls.parquet")
    assert bill["requests"] == calls["attempts"].sum() == 300 + invalid.height, "each unreadable one was repaired once"
    assert calls["cost_usd"].sum() == pytest.approx(spent(bill))
    together = found(folder)
    assert together["answers"].sum() + together["invalid"].sum() == 300
    assert "sk-" not in (folder / "spec.json").read_text()


def test_one_who_always_says_for_and_one_who_says_what_is_named_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(tmp_path) as url:
        roster(tmp_path, url, yes="judge?side=1", first="judge?position=1")
        one = screened(tmp_path, "--judges", "yes", "--topics", "test", "--limit", 5)
        printed = capsys.readouterr().out
        other = screened(tmp_path, "--judges", "first", "--limit", 5)
    assert set(found(one)["one_sided"]) == {"for"} and not (one / "kept.txt").exists()
    assert "every motion is one-sided for these judges" in printed and "5 test topics are held out" in printed
    assert set(found(other)["prior"]) == {0.5} and set(found(other)["one_sided"]) == {"no"}
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line == f'next:  python -m arena.run --topics "$(cat {other / "kept.txt"})"'
    assert (other / "kept.txt").read_text().strip().split(",") == found(other)["topic_id"].to_list()


def test_too_few_answers_flag_nothing_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(tmp_path) as url:
        roster(tmp_path, url, yes="judge?side=1")
        words = ("--judges", "yes", "--limit", 3, "--samples", 3)
        folder = screened(tmp_path, *words)
        assert set(found(folder)["one_sided"]) == {"too_few"} and set(found(folder)["prior"]) == {1.0}
        assert "3 motions have too few answers: a flag takes 4 valid ones in each order" in capsys.readouterr().out
        sent = stats(url)["requests"]
        screened(tmp_path, *words, "--dry-run")
        assert stats(url)["requests"] == sent and len(screens(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "3 motions, 6 answers on each, of yes" in printed and "a flag takes 4" in printed


def test_a_panel_stands_for_its_members(tmp_path: Path) -> None:
    panel = '[[panels]]\nname = "bench"\nmembers = ["fair", "yes"]\n'
    with endpoint(tmp_path) as url:
        roster(tmp_path, url, panel, fair="judge", yes="judge?side=1")
        folder = screened(tmp_path, "--judges", "bench", "--limit", 2)
    assert set(pl.read_parquet(folder / "answers.parquet")["judge"]) == {"fair", "yes"}
    assert found(folder)["judges"].to_list() == [2, 2]


# ── stopped and gone on with ─────────────────────────────────────────────────────────────────────


def killed(folder: Path, url: str, *words: object, after: int) -> None:
    """A screen in a process of its own, killed once so many requests have reached the endpoint."""
    command = [sys.executable, "-m", "arena.screen", "--out", str(folder / "out"), *map(str, words)]
    asked = stats(url)["requests"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while stats(url)["requests"] < asked + after and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9, "it was still going"
    while stats(url)["in_flight"]:
        time.sleep(0.01)


def test_a_killed_screen_goes_on_and_asks_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(tmp_path, latency=0.05) as url:
        path = roster(tmp_path, url, fair="judge?invalid=0.1", other="other?noise=0.5")
        words = ("--judges", "fair,other", "--roster", path, "--topics", own(tmp_path))
        killed(tmp_path, url, *words, after=50)
        (folder,) = screens(tmp_path)
        kept = runs.load(folder).votes.collect()
        assert kept.height >= 10 and not (folder / "priors.parquet").exists()
        before = stats(url)["requests"]
        assert main(["--resume", "--out", str(tmp_path / "out")]) == 0
        sent = stats(url)["requests"]
        assert main(["--resume", str(folder), "--out", str(tmp_path / "out")]) == 0
        assert "already finished" in capsys.readouterr().out
        assert stats(url)["requests"] == sent
        undisturbed = screened(tmp_path, *words[:2], *words[4:])
    assert screens(tmp_path) == [undisturbed, folder]
    votes = runs.load(folder).votes.collect()
    assert votes.join(kept, on=kept.columns, how="semi", nulls_equal=True).height == kept.height
    asked = votes.join(kept, on=("judge", "debate_id", "order", "sample"), how="anti")
    assert sent - before == asked.height + asked.filter(winner="invalid").height, "what was missing, and its repairs"
    for name in ("priors", "answers"):
        one, same = (pl.read_parquet(where / f"{name}.parquet") for where in (folder, undisturbed))
        cache = [column for column in ("cached_tokens", "cost_usd") if column in one.columns]  # a matter of the moment
        assert one.drop(cache).equals(same.drop(cache)), name


def test_a_screen_stops_when_its_money_is_spent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(tmp_path) as url:
        roster(tmp_path, url, fair="judge")
        folder = screened(tmp_path, "--judges", "fair", "--limit", 20, "--max-cost", 0.06, code=1)
        error = capsys.readouterr().err
        assert f"go on with: python -m arena.screen --resume {folder}" in error and "USD are spent" in error
        assert 0 < runs.load(folder).votes.collect().height < 200
        assert main(["--resume", str(folder)]) == 0
        assert stats(url)["requests"] == 200


def test_other_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(tmp_path) as url:
        path = roster(tmp_path, url, fair="judge", other="judge")
        screened(tmp_path, "--judges", "fair", "--limit", 9, "--max-cost", 0, code=1)
        capsys.readouterr()
        go_on = ("--resume", "--out", tmp_path / "out")
        for words, names in (
            (("--limit", 8), "other topics"),
            (("--samples", 2), "other judges or samples"),
            (("--judges", "other", "--roster", path), "other judges or samples"),
        ):
            assert names in refused(capsys, *go_on, *words, command=main)
        roster(tmp_path, url, fair="judge?side=1")
        assert "other judges or samples" in refused(capsys, *go_on, "--roster", path, command=main)
        assert stats(url)["requests"] == 0
        assert main([*map(str, go_on), "--limit", "9"]) == 0


# ── wrong input ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "no judges named; expected --judges with names of the roster: fair"),
        (("--judges", "rules"), "judge 'rules' asks no model, so it has no view of a motion"),
        (("--judges", "fiar"), "did you mean 'fair'?"),
        (("--judges", "fair,fair"), "named twice"),
        (("--judges", "*"), "the name stands for all judges"),
        (("--judges", "lost"), "unknown endpoint 'nowhere'"),
        (("--judges", "fair", "--topics", "nothing"), "unknown topics 'nothing'"),
        (("--judges", "fair", "--samples", "0"), "--samples '0'"),
        (("--judges", "fair", "--limit", "x"), "--limit 'x'"),
        (("--judges", "fair", "--sample", "3"), "did you mean '--samples'"),
        (("--resume",), "no unfinished screen under"),
        (("--resume", "none"), "no run 'none'"),
        (("--resume", "--dry-run"), "--dry-run plans a new screen"),
    ],
)
def test_wrong_input_is_one_line(
    words: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = JUDGE.format(name="lost", model="m").replace('"here"', '"nowhere"') + JUDGE.format(name="*", model="m")
    path = roster(tmp_path, "http://127.0.0.1:9/v1", lost, fair="judge")
    assert line in refused(capsys, "--roster", path, "--out", tmp_path / "out", *words, command=main)
    assert not screens(tmp_path)


def test_a_run_is_no_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--limit", "1", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    (folder,) = runs.run.folders(tmp_path)
    assert "is a run, but no screen" in refused(capsys, "--resume", folder, command=main)


def test_an_endpoint_that_is_away_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = roster(tmp_path, "http://127.0.0.1:9/v1", fair="judge")
    line = refused(capsys, "--roster", path, "--out", tmp_path / "out", "--judges", "fair", command=main)
    assert "127.0.0.1:9" in line and not (tmp_path / "out").exists()
