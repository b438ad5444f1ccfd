"""Pairs: equal to a plain nested loop, on random speeches and on played runs; nothing held out, nothing twice."""

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from conftest import Play, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import runs
import topics
from arena.prompting import key_messages, messages
from runs.records import Debate, Match, slots_for
from runs.spec import Spec
from topics.errors import InputError
from training import pair_set
from training.pairs import Settings, capped, main, make, pair_rows
from training.speeches import turns_of

NAMES = ["ash", "birch", "cedar"]
SPEECH = st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans(), st.sampled_from(NAMES), st.sampled_from(NAMES))


@pytest.fixture
def dense(play: Play) -> runs.Tables:
    """A run of few topics on which everybody met, so that keys hold many speeches."""
    return runs.load(play(topics=",".join(t.topic_id for t in topics.load("train")[:5]), limit=None).folder)


def nested_loop(rows: list[dict[str, Any]], chosen: list[str] | None, rejected: str) -> set[tuple[Any, ...]]:
    """Pairs the plain way: every winner with every loser of its key, by (key, chosen text, rejected text)."""
    found = set()
    for winner, loser in product(rows, rows):
        if winner["key"] != loser["key"] or not winner["won"] or loser["won"]:
            continue
        if winner["text_id"] == loser["text_id"] or (chosen is not None and winner["contestant"] not in chosen):
            continue
        if rejected == "involved" and winner["contestant"] not in (loser["contestant"], loser["opponent"]):
            continue
        found.add((winner["key"], winner["text_id"], loser["text_id"]))
    return found


CHOSEN = st.sampled_from([None, ["ash"], ["ash", "birch"]])


@settings(max_examples=150, deadline=None)
@given(st.lists(SPEECH, max_size=25), CHOSEN, st.sampled_from(["all", "involved"]))
def test_pairs_of_random_speeches_are_those_of_a_nested_loop(
    drawn: list[tuple[Any, ...]], chosen: list[str] | None, rejected: str
) -> None:
    names = ("row", "key", "text_id", "won", "contestant", "opponent")
    rows: list[dict[str, Any]] = [dict(zip(names, (i, *speech), strict=True)) for i, speech in enumerate(drawn)]
    schema = {"row": pl.UInt32, "key": pl.UInt32, "text_id": pl.UInt32, "won": pl.Boolean}
    speeches = pl.DataFrame(rows, schema=schema | {"contestant": pl.String, "opponent": pl.String})
    found = pair_rows(speeches, chosen, rejected)
    named = [(rows[c]["key"], rows[c]["text_id"], rows[r]["text_id"]) for c, r, _ in found.iter_rows()]
    assert len(named) == len(set(named)), "each pair of texts once a key"
    assert set(named) == nested_loop(rows, chosen, rejected)
    for c, r, key in found.iter_rows():  # and the rows that stand for it qualify themselves
        assert rows[c]["key"] == rows[r]["key"] == key and rows[c]["won"] and not rows[r]["won"]
        assert rejected == "all" or rows[c]["contestant"] in (rows[r]["contestant"], rows[r]["opponent"])


def test_pairs_of_a_run_are_those_of_a_nested_loop(dense: runs.Tables) -> None:
    run = dense
    made = make(run, Settings(chosen=["any"]))
    debates = {row["debate_id"]: row for row in run.debates.collect().to_dicts()}
    winner = dict(run.verdicts.collect().select("debate_id", "winner").iter_rows())
    rows = []
    for turn in run.turns.collect().to_dicts():
        if winner.get(turn["debate_id"]) in ("for", "against"):
            key = (debates[turn["debate_id"]]["topic_id"], turn["side"], turn["turn"])
            won = winner[turn["debate_id"]] == turn["side"]
            rows.append({"key": key, "text_id": turn["text"], "won": won, "contestant": turn["contestant"]})
    text = dict(made.texts.iter_rows())
    got = {
        ((row["topic_id"], row["side"], row["turn"]), text[row["chosen_text_id"]], text[row["rejected_text_id"]])
        for row in made.pairs.to_dicts()
    }
    assert got == nested_loop(rows, None, "all") and len(got) == made.pairs.height > 500
    assert made.texts["text"].n_unique() == made.texts.height == made.counts["texts"]


def test_the_best_contestant_is_chosen_and_everybody_rejected(dense: runs.Tables) -> None:
    run = dense
    made = make(run, Settings())
    assert made.chosen == ["granite"] and set(made.pairs["chosen_contestant"]) == {"granite"}
    assert set(made.pairs["rejected_contestant"]) == {"granite", "cedar", "harbor", "willow", "ember", "tinder"}
    narrow = make(run, Settings(rejected="involved"))
    assert 0 < narrow.pairs.height < made.pairs.height
    assert set(made.pairs["source"]) == {"outcome"} and made.pairs["margin"].is_between(0, 1).all()


def test_siblings_are_the_pairs_behind_which_the_same_had_been_said(dense: runs.Tables) -> None:
    debates = dense.debates.collect()
    turns = dense.turns.collect()
    for _, of_topic in debates.group_by("topic_id"):  # a run that branches: all debates of a topic, after turn 4
        trunk = of_topic["debate_id"][0]
        text = dict(turns.filter(debate_id=trunk).select("turn", "text").iter_rows())
        shared = pl.col("debate_id").is_in(of_topic["debate_id"].implode()) & (pl.col("turn") <= 4)
        turns = turns.with_columns(
            pl.when(shared).then(pl.col("turn").replace_strict(text)).otherwise("text").alias("text")
        )
    branched = replace(dense, turns=turns.lazy())
    everything = make(branched, Settings(chosen=["any"], context="transcript"))
    made = make(branched, Settings(chosen=["any"], context="transcript", siblings=True))
    said = {debate: [t.text for t in of] for debate, of in turns_of(branched, debates["debate_id"]).items()}

    def names(frame: pl.DataFrame) -> set[tuple[Any, ...]]:
        return set(frame.select("topic_id", "side", "turn", "chosen_text_id", "rejected_text_id").iter_rows())

    for row in made.pairs.to_dicts():
        before = (said[row[f"{part}_debate_id"]][: row["turn"] - 1] for part in ("chosen", "rejected"))
        assert next(before) == next(before) and row["source"] == "sibling"
    assert set(made.pairs["turn"]) == {5}, "before it all said the same, behind it nobody did"
    assert names(made.pairs) == names(everything.pairs.filter(turn=5))


def test_nothing_private_and_no_name_stands_in_a_pair(play: Play) -> None:
    run = runs.load(play(limit=60).folder)
    made = make(run, Settings(chosen=["any"], context="transcript"))
    reasoning = run.turns.filter(pl.col("reasoning").is_not_null()).collect()["reasoning"].to_list()
    everything = "\n".join(made.texts["text"]) + json.dumps(made.prompts["messages"].to_list())
    assert reasoning and not any(thought in everything for thought in reasoning)
    assert "<think" not in everything and "granite" not in everything


@pytest.mark.parametrize("context", ["key", "transcript"])
def test_prompts_are_those_of_the_arena(play: Play, context: str) -> None:
    folder = play(limit=40, opener="alternate").folder
    run = runs.load(folder)
    made = make(run, Settings.model_validate({"chosen": ["any"], "context": context}))
    prompts = {row["prompt_id"]: row["messages"] for row in made.prompts.to_dicts()}
    debates = {row["debate_id"]: row for row in run.debates.collect().to_dicts()}
    known = {topic.topic_id: topic for topic in topics.load("train")}
    for pair in made.pairs.sample(60, seed=1).to_dicts():
        row = debates[pair["chosen_debate_id"]]
        match = Match(**{name: row[name] for name in Match.__slots__})
        turns = turns_of(run, pl.Series([row["debate_id"]]))[row["debate_id"]]
        slots = slots_for(Spec.read(folder).format, row["opener"])
        debate = Debate(match=match, topic=known[row["topic_id"]], slots=slots, turns=turns)
        asked = (key_messages if context == "key" else messages)(debate, slots[pair["turn"] - 1])
        assert prompts[pair["prompt_id"]] == asked
    if context == "key":
        assert made.prompts.height == made.counts["keys"]


def test_held_out_topics_are_left_out_and_refused(play: Play, tmp_path: Path) -> None:
    mixed = ",".join(topic.topic_id for topic in [*topics.load("train")[:4], *topics.load("test")[:3]])
    run = runs.load(play(topics=mixed, limit=None).folder)
    made = make(run, Settings(chosen=["any"]))
    held_out = {topic.topic_id for topic in topics.load("test")}
    assert made.counts["left out, held-out topic or a near-duplicate of one"] == 3 * 30
    assert not held_out & {*made.pairs["topic_id"], *made.prompts["topic_id"]}

    spoilt = made.pairs.with_columns(topic_id=pl.lit(min(held_out)))
    whole = pair_set.PairSet(**{name: getattr(made, name) for name in made.__dataclass_fields__} | {"pairs": spoilt})
    pair_set.write(whole, tmp_path / "spoilt", run=run, settings={})
    with pytest.raises(InputError, match=f"holds the held-out topic '{min(held_out)}'"):
        pair_set.load(tmp_path / "spoilt")


def test_a_near_duplicate_of_a_held_out_motion_is_left_out(play: Play, tmp_path: Path) -> None:
    own = tmp_path / "mine.jsonl"
    copied = topics.load("test")[0].motion.replace(".", ", in every country.")
    own.write_text(
        "".join(json.dumps({"motion": motion}) + "\n" for motion in (copied, "Cats make better company than dogs."))
    )
    run = runs.load(play(topics=str(own), limit=None).folder)
    made = make(run, Settings(chosen=["any"]))
    assert made.counts["left out, held-out topic or a near-duplicate of one"] == 30
    assert set(made.pairs["topic_id"]) == {"cats-make-better-company-than-dogs"}


def test_filters_and_counts(play: Play) -> None:
    run = runs.load(play(limit=200, judges=["rules", "scripted"]).folder)
    with pytest.raises(InputError, match="verdicts of rules, scripted; name one with --judge"):
        make(run, Settings())
    made = make(run, Settings(judge="scripted", chosen=["any"]))
    ties = run.verdicts.filter(judge="scripted", winner="tie").collect().height
    assert made.counts["left out, no side won"] == ties > 50
    assert set(made.pairs["judge"]) == {"scripted"}
    few = runs.load(play(limit=1, contestants=["granite", "cedar"], judges=["scripted"]).folder)
    with pytest.raises(InputError, match=r"no pairs are left .*speeches of losing sides: 5"):
        make(few, Settings(chosen=["any"]))


def test_a_cap_draws_by_the_seed_and_keeps_to_it(dense: runs.Tables) -> None:
    made, again, other = (make(dense, Settings(chosen=["any"], cap=3, seed=seed)).pairs for seed in (1, 1, 2))
    assert made.equals(again) and not made.equals(other)
    assert made.group_by("topic_id", "side", "turn").len()["len"].max() == 3
    speeches = pl.DataFrame({"text_digest": [str(i) for i in range(20)]})
    rows = pl.DataFrame({"chosen_row": list(range(10)), "rejected_row": list(range(10, 20)), "key": [0] * 10})
    counts = [0] * 10
    for seed in range(300):
        for row in capped(rows, speeches, 3, seed)["chosen_row"]:
            counts[row] += 1
    assert all(60 < count < 120 for count in counts), "every pair is as likely as any other"


def test_what_is_written_is_read_and_what_was_changed_is_refused(play: Play, tmp_path: Path) -> None:
    result = play(limit=200)
    out = tmp_path / "pairs"
    assert main(["--from-run", str(result.folder), "--out", str(out), "--export", "jsonl"]) == 0
    loaded = pair_set.load(out)
    assert loaded.pairs.height == loaded.counts["pairs"] > 0
    lines = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert len(lines) == loaded.pairs.height
    text = dict(loaded.texts.iter_rows())
    for line, pair in zip(lines, loaded.pairs.to_dicts(), strict=True):
        assert line["chosen"] == [{"role": "assistant", "content": text[pair["chosen_text_id"]]}]
        assert line["rejected"][0]["content"] == text[pair["rejected_text_id"]]
        assert [message["role"] for message in line["prompt"]] == ["system", "user"]
    assert main(["--from-run", str(result.folder), "--out", str(out)]) == 2  # not empty
    (out / "texts.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="texts differ from what"):
        pair_set.load(out)
    with pytest.raises(InputError, match="cannot be read as a pair set"):
        pair_set.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-run", "nothing"], "no run 'nothing'"),
        (["--from-run"], "no finished run"),
        (["--chosen", "grantie"], "unknown contestants 'grantie'; the run has .* did you mean 'granite'"),
        (["--judge", "ruels"], "no verdicts of judge 'ruels'.*did you mean 'rules'"),
        (["--min-margin", "2"], "--min-margin"),
        (["--cap", "0"], "--cap"),
    ],
)
def test_wrong_input(
    arguments: list[str],
    message: str,
    play: Play,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = play(limit=20).folder
    monkeypatch.chdir(tmp_path)
    if "--from-run" not in arguments:
        arguments = ["--from-run", str(folder), *arguments]
    assert re.search(message, refused(capsys, *arguments, "--out", tmp_path / "p", command=main))
    assert not (tmp_path / "p").exists()


def test_dry_run_writes_nothing(play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = play(limit=60).folder
    assert main(["--from-run", str(folder), "--dry-run", "--chosen", "any", "--out", str(tmp_path / "p")]) == 0
    assert "nothing was written" in capsys.readouterr().out and not (tmp_path / "p").exists()


def test_random_settings_never_break_the_promises(dense: runs.Tables) -> None:
    draw = Random(1)
    for _ in range(8):
        wanted = {
            "chosen": draw.choice([["any"], ["best"], ["willow", "cedar"]]),
            "rejected": draw.choice(["all", "involved"]),
            "cap": draw.choice([None, 1, 5]),
            "context": draw.choice(["key", "transcript"]),
        }
        made = make(dense, Settings.model_validate(wanted))
        assert made.pairs.select("topic_id", "side", "turn", "chosen_text_id", "rejected_text_id").is_unique().all()
        assert (made.pairs["chosen_text_id"] != made.pairs["rejected_text_id"]).all()
        assert set(made.pairs["prompt_id"]) == set(made.prompts["prompt_id"])
        assert {*made.pairs["chosen_text_id"], *made.pairs["rejected_text_id"]} == set(made.texts["text_id"])
