"""Whole runs: what they hold, that they do not depend on the order of answers, and what failures leave behind."""

import asyncio
from pathlib import Path

import polars as pl
import pytest
from conftest import Play, assert_same_tables, roster, timeless

import runs
from arena.contestants import SpeakFailed
from arena.run import main
from runs.records import Order, Vote
from runs.schema import TABLES

PROMISED = {
    "debates": "debate_id topic_id split for_contestant against_contestant opener replicate seed status "
    "started_at ended_at",
    "turns": "debate_id turn side stage contestant text reasoning words trimmed call_id",
    "votes": "debate_id judge order sample winner confidence scores rationale quotes call_id error",
    "verdicts": "debate_id judge winner margin consistent votes",
    "calls": "call_id debate_id role endpoint model adapter prompt_tokens cached_tokens completion_tokens "
    "reasoning_tokens latency_s attempts finish_reason cost_usd started_at",
    "failures": "debate_id step turn at contestant judge kind message attempts",
    "topics": "topic_id motion theme question_type split",
}


def test_a_run_holds_what_was_promised(play: Play) -> None:
    result = play(limit=40)
    tables = runs.load(result.folder)
    assert result.sealed and tables.sealed
    for name, columns in PROMISED.items():
        assert set(columns.split()) <= set(getattr(tables, name).collect_schema()), name
    debates, turns, verdicts = (getattr(tables, name).collect() for name in ("debates", "turns", "verdicts"))
    assert debates["status"].to_list() == ["complete"] * 40
    assert debates.schema["started_at"] == pl.Datetime("us", "UTC") and debates.schema["seed"] == pl.Int64
    assert turns["debate_id"].to_list() == [d for d in debates["debate_id"] for _ in range(10)]
    assert turns["turn"].to_list() == list(range(1, 11)) * 40
    assert turns["side"].to_list() == ["for", "against"] * 200
    assert verdicts["debate_id"].to_list() == debates["debate_id"].to_list()
    assert set(verdicts["winner"]) <= {"for", "against", "tie"}
    assert tables.calls.select("endpoint", "cost_usd").unique().collect().rows() == [("simulated", 0.0)]
    assert turns.join(tables.calls.collect(), on="call_id").height == turns.height


def test_no_sentence_is_cut_and_nothing_private_is_said(play: Play) -> None:
    turns = runs.load(play(limit=60).folder).turns.collect()
    budget = {"cross-examination": 200, "closing": 200}
    for turn in turns.iter_rows(named=True):
        assert turn["text"].rstrip("”\"')").endswith((".", "?", "!")), turn["text"][-80:]
        assert turn["words"] == len(turn["text"].split()) <= budget.get(turn["stage"], 250)
        assert "<" not in turn["text"]
        assert turn["reasoning"] is None or turn["reasoning"] not in turn["text"]
    assert turns.filter(pl.col("reasoning").is_not_null()).height > 50
    assert turns.filter("trimmed").height > 10


def test_an_answer_is_about_what_the_opponent_said(play: Play) -> None:
    tables = runs.load(play(limit=30).folder)
    debates = tables.debates.collect()
    points = {row["topic_id"]: row["points"] for row in tables.topics.collect().iter_rows(named=True)}
    answered = asked = 0
    for debate in debates.iter_rows(named=True):
        theirs = [p["claim"].lower() for p in points[debate["topic_id"]] if p["side"] == "for"]
        said = tables.turns.filter(pl.col("debate_id") == debate["debate_id"]).sort("turn").collect()["text"].to_list()
        made = [claim for claim in theirs if claim in said[2].lower()]
        asked += bool(made)
        answered += any(claim in said[3].lower() for claim in made)
    assert asked == 30 and answered >= 15


def test_the_same_spec_gives_the_same_tables_at_any_concurrency(play: Play) -> None:
    one = play(limit=60, concurrency=1, judges=["rules", "scripted"])
    many = play(limit=60, concurrency=64, judges=["rules", "scripted"])
    assert_same_tables(one.folder, many.folder)


def test_another_seed_gives_other_text(play: Play) -> None:
    one, other = (timeless(play(limit=12, seed=seed).folder)["turns"] for seed in (1, 2))
    assert not set(one["text"]) & set(other["text"])


def test_the_opener(play: Play) -> None:
    tables = runs.load(play(limit=24, opener="alternate").folder)
    first = tables.turns.filter(pl.col("turn") == 1).join(tables.debates, on="debate_id").collect()
    assert first["side"].to_list() == first["opener"].to_list()
    assert set(first["opener"]) == {"for", "against"}
    assert set(first["stage"]) == {"opening"}


def test_the_contestants_come_out_in_the_order_of_their_strengths(play: Play) -> None:
    from runs.ratings import leaderboard

    tables = runs.load(play(limit=1500).folder)
    board = leaderboard(tables.debates, tables.verdicts)
    assert board.frame["contestant"].to_list() == ["granite", "cedar", "harbor", "willow", "ember", "tinder"]


def test_a_contestant_that_fails_makes_its_debate_void_and_keeps_its_turns(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "sure, strength = 0.5", "shaky, strength = 0.5, fails = 0.1")
    result = play(roster=entries, topics="train", limit=60)
    tables = {name: getattr(runs.load(result.folder), name).collect() for name in TABLES}
    void = tables["debates"].filter(pl.col("status") == "void")
    assert 5 < void.height < 60 and result.progress.void == void.height
    assert tables["failures"]["debate_id"].to_list() == void["debate_id"].to_list()
    assert set(tables["failures"]["contestant"]) == {"shaky"} and set(tables["failures"]["kind"]) == {"server"}
    failed_at = dict(zip(tables["failures"]["debate_id"], tables["failures"]["turn"], strict=True))
    kept = dict(tables["turns"].group_by("debate_id").len().iter_rows())
    assert all(kept.get(debate, 0) == turn - 1 for debate, turn in failed_at.items())
    assert set(tables["verdicts"]["debate_id"]).isdisjoint(void["debate_id"])
    assert tables["verdicts"].height == 60 - void.height


def test_a_judge_that_raises_gives_invalid_verdicts_and_a_non_zero_exit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judges = '[[judges]]\nname = "broken"\nkind = "scripted"\nraises = "out of order\\nsecond line"\n'
    entries = roster(tmp_path / "r.toml", "ash", "birch", judges=judges)
    code = main(["--roster", str(entries), "--judges", "broken,rules", "--limit", "5", "--out", str(tmp_path / "out")])
    assert code == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error == [
        "error: judge 'broken' raised on 5 votes, which are invalid; the turns are stored. "
        "First: RuntimeError: out of order second line"
    ]
    tables = runs.load("newest", out=tmp_path / "out")
    assert tables.sealed
    verdicts = tables.verdicts.collect()
    assert verdicts.filter(pl.col("judge") == "broken")["winner"].to_list() == ["invalid"] * 5
    assert verdicts.filter(pl.col("judge") == "broken")["margin"].null_count() == 5
    assert "invalid" not in verdicts.filter(pl.col("judge") == "rules")["winner"]
    assert tables.turns.collect().height == 50
    failures = tables.failures.collect()
    assert failures["judge"].to_list() == ["broken"] * 5 and set(failures["kind"]) == {"raised"}


def test_a_judge_sees_nothing_private(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    from judges.scripted import Scripted

    seen = []

    async def look(self: Scripted, debate: runs.records.Debate, order: str, sample: int) -> Vote:
        seen.extend(turn.reasoning for turn in debate.turns)
        return Vote(debate_id=debate.id, judge=self.name, order="for_first", sample=sample, winner="tie")

    monkeypatch.setattr(Scripted, "vote", look)
    result = play(limit=20, judges=["scripted"])
    assert seen == [None] * 200
    assert runs.load(result.folder).turns.filter(pl.col("reasoning").is_not_null()).collect().height > 10


def test_a_user_s_own_topics_and_format(play: Play, tmp_path: Path) -> None:
    topics = tmp_path / "mine.csv"
    topics.write_text("motion\nCats make better company than dogs.\n")
    slots = '[[slots]]\nside = "against"\nstage = "statement"\nwords = 80\n'
    (tmp_path / "short.toml").write_text(slots + slots.replace("against", "for"))
    tables = runs.load(play(topics=str(topics), format=str(tmp_path / "short.toml")).folder)
    turns = tables.turns.collect()
    assert turns.height == 24 and turns["side"].to_list() == ["against", "for"] * 12  # the opener is the format's
    assert set(tables.debates.collect()["split"]) == {"custom"}
    assert tables.verdicts.collect().height == 12


def test_the_order_of_answers_makes_no_difference(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    from arena.simulated import Simulated
    from judges.rules import Rules
    from runs.records import Debate, Slot, Speech

    calm = play(limit=24, judges=["rules", "scripted"])
    speak, vote, draw = Simulated.speak, Rules.vote, random.Random(3)

    async def dawdle(self: Simulated, debate: Debate, slot: Slot) -> Speech:
        await asyncio.sleep(draw.uniform(0, 0.01))
        return await speak(self, debate, slot)

    async def ponder(self: Rules, debate: Debate, order: Order, sample: int) -> Vote:
        await asyncio.sleep(draw.uniform(0, 0.05))
        return await vote(self, debate, order, sample)

    monkeypatch.setattr(Simulated, "speak", dawdle)
    monkeypatch.setattr(Rules, "vote", ponder)
    hasty = play(limit=24, judges=["rules", "scripted"], concurrency=7)
    started = runs.load(hasty.folder).debates.sort("started_at").collect()["match"].to_list()
    ended = runs.load(hasty.folder).debates.sort("ended_at").collect()["match"].to_list()
    assert started != ended, "answers came in another order"
    assert_same_tables(calm.folder, hasty.folder)


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ValueError("no <b>idea</b>\n\x1b[31m"), "raised", "ValueError: no <b>idea</b> [31m"),
        (asyncio.CancelledError(), "raised", "CancelledError: "),
        (SystemExit(3), "raised", "SystemExit: 3"),
        (SpeakFailed("refused", "will not argue this", attempts=2), "refused", "will not argue this"),
    ],
)
def test_whatever_a_contestant_raises_is_attributed_once(
    play: Play, monkeypatch: pytest.MonkeyPatch, raised: BaseException, kind: str, message: str
) -> None:
    from arena.simulated import Simulated
    from runs.records import Debate, Slot, Speech

    speak = Simulated.speak

    async def stumble(self: Simulated, debate: Debate, slot: Slot) -> Speech:
        if debate.match.match == 2 and slot.turn == 4:
            raise raised
        return await speak(self, debate, slot)

    monkeypatch.setattr(Simulated, "speak", stumble)
    result = play(limit=6, concurrency=1)
    tables = runs.load(result.folder)
    assert result.sealed
    assert tables.debates.collect()["status"].to_list() == ["complete"] * 2 + ["void"] + ["complete"] * 3
    (failure,) = tables.failures.collect().to_dicts()
    assert (failure["kind"], failure["message"].strip(), failure["turn"]) == (kind, message.strip(), 4)
    assert failure["attempts"] == (2 if kind == "refused" else 1)
    assert tables.turns.collect().height == 53


def test_no_instruction_names_a_side() -> None:
    from arena import format as formats

    for slot in formats.load("standard"):
        assert not {"for the motion", "against the motion"} & {slot.instruction.lower()}
        assert "against" not in slot.instruction.replace("against each other", "")


def test_progress() -> None:
    from arena.progress import Progress, duration, line

    counts = {"done": 300, "void": 2, "turns": 3_000, "verdicts": 290, "wanted": 298, "failures": 2}
    progress = Progress(debates=1_200, turns_each=10, **counts)
    assert line(progress, 60) == "300/1,200  50 turns/s  290/298 verdicts  2 failures  3 min 00 s left"
    assert line(Progress(debates=5, turns_each=10), 0).endswith("starting")
    assert line(Progress(debates=5, turns_each=10, done=5), 9).endswith("judging")
    assert [duration(s) for s in (7, 200, 3720)] == ["7 s", "3 min 20 s", "1 h 02 min"]
