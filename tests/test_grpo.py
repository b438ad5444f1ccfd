"""GRPO on turns of stored debates: what a speech earns by hand, what is never asked, and a small run of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import TRAINERS_WARN, Play, copied, refused, run_of, toml, words
from hypothesis import given, settings
from hypothesis import strategies as st
from test_judges import FULL, debate

torch = pytest.importorskip("torch")

import runs  # noqa: E402
import topics  # noqa: E402
from arena import run as arena  # noqa: E402
from runs import adapters, tables  # noqa: E402
from runs.adapters import Adapter  # noqa: E402
from training import earning, grpo, sft  # noqa: E402
from training.recipe import parse_training, table  # noqa: E402
from training.rewards import Reward, Rewards, item  # noqa: E402
from training.sources import of_turns  # noqa: E402
from training.speeches import decided_speeches, held_back  # noqa: E402
from training.turns import TurnContext, earned, turn_contexts  # noqa: E402

pytestmark = [
    *TRAINERS_WARN,
    pytest.mark.usefixtures("one_thread"),
]

TOPICS = [topic.topic_id for topic in topics.load("train")][:12]
QUICK_SFT = ["--limit", "960", "--rows", "16", "--check-every", "1000", "--held-back", "0.3"]
QUICK = ["--limit", "48", "--rows", "8", "--group", "4", "--check-every", "3", "--checks", "24", "--held-back", "0.3"]
QUICK += ["--guard.perplexity", "1e9", "--guard.words", "[0,10]"]
"""Six steps."""
SHORT = ["--limit", "16", "--checks", "8"]
"""Two."""
REWARDS = Rewards(weights={"rubric": 1.0, "answered": 0.25, "budget": 0.25, "format": 0.25}, scale=2.0)
BEST = 3.5


def stored(words: int) -> TurnContext:
    """The third turn of a debate, of so many words, before it is spoken."""
    played = debate("It is so.", FULL["against"], "")
    slots = tuple(replace(slot, words=words) for slot in played.slots)
    return TurnContext(debate=replace(played, slots=slots, turns=played.turns[:2]), turn=3, messages=[])


CONTEXT = stored(40)


# ── what a speech earns ──────────────────────────────────────────────────────────────────────────────


def test_a_reward_by_hand() -> None:
    """One of two points, which weigh as much as two items; one of the motion's 8 longer words, of the 6 that are all;
    every sentence a reason; no step marked, nobody taken up, no conclusion; and no sentence twice."""
    reward = earned(CONTEXT, FULL["for"], REWARDS)
    assert reward.value == pytest.approx(2 * ((1 + 0 + 1 / 6 + 1 + 0 + 0 + 0 + 1) / 8 + 0.25 * (0 + 1 + 1)))
    only = REWARDS.model_copy(update={"instance_rubrics_only": True})
    assert earned(CONTEXT, FULL["for"], only).value == pytest.approx(2 * (1 / 2 + 0.25 * (0 + 1 + 1)))


def test_what_each_rule_is_about() -> None:
    def gained(answer: str, than: str, context: TurnContext = CONTEXT, **more: bool) -> float:
        value, other = earned(context, answer, REWARDS, **more).value, earned(context, than, REWARDS).value
        assert value is not None and other is not None
        return value - other

    plain = FULL["for"]
    assert gained(f"{plain} Quiet streets attract shops, since people linger.", plain) == pytest.approx(2 / 8)
    assert gained(f"Rails cannot follow changing demand? {plain}", plain) == pytest.approx(2 * 0.25)
    assert gained(f"First, {plain}", plain) == pytest.approx(2 * 0.5 / 8)
    assert gained(f"My opponent is wrong. {plain}", plain) == pytest.approx(2 * 0.5 / 8)
    assert gained(f"{plain} Therefore I say yes.", plain) == pytest.approx(2 / 8)
    assert gained(f"{plain} {plain}", plain) == pytest.approx(-2 * 0.5 / 8)
    assert gained(f"# Case\n\n{plain}", plain) == pytest.approx(-2 * 0.25 / 2)
    assert gained(plain, plain, cut=True) == pytest.approx(-2 * 0.25 / 2)
    words = len(plain.split())
    long = stored(words // 2)  # one sentence, which is never trimmed
    assert gained(plain, plain, long) == 0 and earned(long, plain, REWARDS).value == pytest.approx(
        earned(CONTEXT, plain, REWARDS).value - 2 * 0.25  # type: ignore[operator]
    )


@settings(max_examples=200, deadline=None)
@given(st.text() | st.lists(st.sampled_from([*FULL.values(), "# A", "Trams.", "because"])).map(" ".join), st.booleans())
def test_a_reward_lies_in_its_range_and_reasoning_earns_nothing(text: str, cut: bool) -> None:
    reward = earned(CONTEXT, text, REWARDS, cut=cut)
    assert reward.value is not None and 0 <= reward.value <= BEST
    thought = earned(CONTEXT, f"<think>{FULL['for']}</think>", REWARDS, cut=cut)
    assert thought.value == 0
    if "<" not in text and "[" not in text:
        assert earned(CONTEXT, f"<think>{FULL['against']}</think>{text}", REWARDS, cut=cut).value == reward.value


def test_in_the_first_turn_nobody_is_there_to_be_taken_up() -> None:
    """Nor a point of the other side to be answered: what is left of the rubric is weighed alone."""
    first = TurnContext(debate=replace(CONTEXT.debate, turns=()), turn=1, messages=[])
    reward = earned(first, FULL["for"], REWARDS)
    assert reward.value == pytest.approx(2 * ((1 + 0 + 1 / 6 + 1 + 0 + 0 + 1) / 7 + 0.25 * (1 + 1 + 1)))


def test_what_no_rule_scores_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rule scores 'margin'"):
        earned(CONTEXT, "Trams.", Rewards(weights={"margin": 1.0}))


def test_a_reward_that_cannot_be_had_is_none_and_is_counted() -> None:
    from training.draws import summary
    from training.practice import Sample

    def reward(short: float, cut: bool) -> Reward:
        items = (item("short", short), item("cut", float(cut)), item("same", 1.0))
        return Rewards(weights={"rubric": 1.0}, scale=2.0).compose({"rubric": items})

    outage = Reward(value=None, components={"rubric": None})
    rewards = [reward(1.0, False), outage, reward(0.0, False), reward(1.0, True)]
    assert [one.value for one in rewards] == pytest.approx([4 / 3, None, 2 / 3, 2.0])
    samples = [Sample(unit="a", prompt=[1], completion=[1], reward=one) for one in rewards]
    told = summary(samples, 2)
    assert told["unscored"] == 1 / 4 and told["train_rubric"] == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert told["dead_items"] == pytest.approx(1 / 3)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("context", ["key", "transcript"])
def test_turns_are_those_that_were_played(play: Play, context: Any) -> None:
    run = runs.load(play(topics=",".join(TOPICS[:5]), limit=40).folder)
    heard = decided_speeches(run, judge=None, chosen=["any"])
    contexts, lacking = turn_contexts(heard, context, set(heard.topics_heard), most=20, seed=1)
    assert len(contexts) == 20 and lacking == 0
    assert {sum(c.unit == topic for c in contexts) for topic in heard.topics_heard} == {4}
    assert len({c.name for c in contexts}) == 20
    spoken = {(row["topic_id"], row["turn"], row["side"]): row for row in heard.speeches.to_dicts()}
    for one in contexts:
        assert (one.topic.topic_id, one.turn, one.slot.side) in spoken
        assert [turn.turn for turn in one.debate.turns] == list(range(1, one.turn)), "as it stood before the turn"
        assert all(turn.reasoning is None for turn in one.debate.turns) and one.most_tokens == 2 * one.slot.words + 64
        asked = one.messages[0]["content"] + one.messages[-1]["content"]
        assert one.topic.motion in asked and f"At most {one.slot.words} words" in asked
        assert (one.turn == 1) == (one.heard == "")
        assert (one.heard in one.messages[-1]["content"]) == (context == "transcript" or not one.heard)
    again, _ = turn_contexts(heard, context, set(heard.topics_heard), most=20, seed=1)
    other, _ = turn_contexts(heard, context, set(heard.topics_heard), most=20, seed=2)
    assert again == contexts != other


def test_held_out_topics_are_never_asked_about(play: Play) -> None:
    mixed = ",".join(topic.topic_id for topic in [*topics.load("train")[:4], *topics.load("test")[:3]])
    heard = decided_speeches(runs.load(play(topics=mixed, limit=None).folder), judge=None, chosen=["any"])
    contexts, _ = turn_contexts(heard, "transcript", set(heard.topics_heard), most=None, seed=0)
    held_out = topics.load("test")
    assert {one.topic.topic_id for one in contexts} == {topic.topic_id for topic in topics.load("train")[:4]}
    said = json.dumps([one.messages for one in contexts])
    assert not any(topic.motion in said for topic in held_out)


# ── a small run ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of short debates in it, and a policy that was taught its winning speeches."""
    out = tmp_path_factory.mktemp("out")
    slots = (Path(arena.__file__).parent / "formats" / "brief.toml").read_text()
    (out / "format.toml").write_text(slots.replace("160", "40").replace("140", "30"))
    given_ = {"topics": ",".join(TOPICS), "format": str(out / "format.toml"), "out": out}
    arena.run(arena.Settings.model_validate(given_))
    assert sft.main(words(out, *QUICK_SFT)) == 0
    return out


def trained(out: Path, *more: str) -> Adapter:
    """The adapter that a training makes, in this process."""
    assert grpo.main(words(out, *QUICK, *more)) == 0
    return adapters.listed(out / "adapters")[-1]


@pytest.mark.slow
def test_a_policy_is_trained_checked_on_held_back_topics_and_seated(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(made, tmp_path)
    (parent,) = adapters.listed(out / "adapters")
    child = trained(out)
    printed = capsys.readouterr()
    assert (child.method, child.form, child.parent, child.base.adapter) == ("grpo", "lora", parent.id, parent.id)
    adapters.verify(child)
    frame = pl.read_parquet(child.folder / "metrics.parquet")
    checked = frame.filter(pl.col("reward").is_not_null())
    assert checked["step"].to_list() == [0, 3, 6] and frame["train_reward"].is_not_null().sum() == 6
    assert checked["reward"].is_between(0, 1).all() and checked["gain"][0] == 0
    assert child.metrics["reward_before"] == pytest.approx(checked["reward"][0], abs=1e-6)
    assert child.metrics["reward"] == pytest.approx(checked["reward"][-1], abs=1e-6)
    assert child.metrics["gain"] == pytest.approx(checked["reward"][-1] - checked["reward"][0], abs=1e-5)
    assert frame["train_unscored"].max() == 0 and checked["perplexity"].is_finite().all()
    assert checked["kl"][0] == 0 < checked["kl"][-1] and checked["words"].min() > 0  # type: ignore[operator]
    assert {"earned_rubric", "earned_budget", "reward_low", "gain_high"} <= {
        name for name in checked.columns if checked[name].is_not_null().any()
    }
    assert checked["win_rate"].is_null().all(), "a turn wins nothing"
    assert f"held-back reward {checked['reward'][0]:.3f}" in printed.err
    assert f"held-back reward {checked['reward'][-1]:.3f}" in printed.err
    assert f"wrote {child.folder}: reward_before" in printed.out and f'adapter = "{child.id}"' in printed.out
    assert not list((out / "training").iterdir()), "what a finished training leaves is its entry"

    roster = tmp_path / "roster.toml"
    seats = (
        f'[[contestants]]\nname = "{one.method}"\nkind = "local"\nadapter = "{one.id}"\n' for one in (child, parent)
    )
    roster.write_text("\n".join(seats))
    test = ",".join(topic.topic_id for topic in topics.load("test")[:2])
    asked = {"topics": test, "format": str(out / "format.toml"), "out": out, "roster": roster}
    result = arena.run(arena.Settings.model_validate(asked))
    turns = tables.load(result.folder).turns.collect()
    assert {"grpo", "sft"} <= set(turns["contestant"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(made: Path, tmp_path: Path) -> None:
    one, two = trained(copied(made, tmp_path / "a"), *SHORT), trained(copied(made, tmp_path / "b"), *SHORT)
    assert one.id == two.id and one.files == two.files
    other = trained(copied(made, tmp_path / "c"), *SHORT, "--seed", "1")
    assert other.weights_digest != one.weights_digest


@pytest.mark.slow
def test_an_adapter_is_trained_further_from_where_it_is(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    parent = trained(out, *SHORT)
    child = trained(out, *SHORT, "--base", parent.id, "--seed", "2")
    assert child.parent == parent.id and child.base == parent.base
    assert child.canary.without == pytest.approx(parent.canary.without, abs=1e-4)
    assert set(child.files) == set(parent.files)


@pytest.mark.slow
def test_an_outage_teaches_nothing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no reward can be had and nothing holds the policy, no weight moves: the adapter does nothing."""
    none = Reward(value=None, components={"rubric": None})
    monkeypatch.setattr(earning, "_turns_earn", lambda scorer, seated, settings, answers: [none] * len(answers))
    child = trained(copied(made, tmp_path), *SHORT, "--beta", "0")
    assert child.canary.with_adapter == pytest.approx(child.canary.without, abs=1e-6)
    frame = pl.read_parquet(child.folder / "metrics.parquet")
    assert frame["train_unscored"].drop_nulls().to_list() == [1.0] * frame["train_unscored"].is_not_null().sum()
    assert "reward" not in child.metrics


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_topics_held_back_are_not_learnt_from(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(made.rglob("*"))
    assert grpo.main(words(made, *QUICK, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "of 8 turns, 4 draws for each" in printed and "6 steps" in printed and "nothing was written" in printed
    assert sorted(made.rglob("*")) == before
    filled = parse_training(grpo.Settings, words(made, *QUICK), "grpo")
    heard = decided_speeches(tables.load(run_of(made)), judge=None, chosen=["any"])
    from arena.models import load_tokenizer

    (taught,) = adapters.listed(made / "adapters")
    source = of_turns(heard, filled, load_tokenizer(str(taught.folder)))
    back = held_back(heard.topics_heard, 0.3)
    assert {one.unit for one, _ in source.held_back} == back and len(source.held_back) == 24
    assert {one.unit for one in source.tasks} == set(heard.topics_heard) - back and len(source.tasks) == 48
    seeded = of_turns(heard, filled.model_copy(update={"seed": 1}), load_tokenizer(str(taught.folder)))
    assert seeded.held_back == source.held_back and seeded.digest != source.digest


# ── wrong input ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_wrong_input_is_one_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*given: str) -> str:
        return refused(capsys, *words(made, *given), command=grpo.main)

    recipe = table("tiny", "grpo") | {"rewards": {"weights": {"rubric": 1.0, "citation": 0.5}}}
    body = [f"{name} = {toml(value)}" for name, value in recipe.items()]
    (tmp_path / "mine.toml").write_text("[grpo]\n" + "\n".join(body))
    (taught,) = adapters.listed(made / "adapters")
    assert "no rule scores the reward 'citation'" in line("--recipe", str(tmp_path / "mine.toml"))
    assert "python -m training.sft" in line(*QUICK, "--base", "tiny")
    assert "has no table [grpo]" in line("--recipe", "persuade", "--base", taught.id)
    assert "too few for --rows 64" in line(*QUICK, "--rows", "64")
    assert "--opponents is for --debates" in line(*QUICK, "--opponents", "granite")
    assert "--league is for --debates" in line(*QUICK, "--league")
    assert "expected --roster FILE" in line(*QUICK, "--rubric-judge", "gpt")
    assert "weigh neither margin nor gain" in line(*QUICK, "--reward-judge", "rules")
    assert "does not weigh; add it" in line(*QUICK, "--guard.audit", "0.5")
    assert "longer than 60 tokens" in line(*QUICK, "--max-length", "60")
    assert "--group" in line(*QUICK, "--group", "1")
    assert "--temperature" in line(*QUICK, "--temperature", "0")
    assert "above the guard's" in line(*QUICK, "--guard.perplexity", "1")
    assert "no unfinished grpo training" in line("--resume")
    assert "unrecognized" in line("--gruop", "4")


def test_without_a_taught_policy_the_line_to_type_is_said(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = play().folder
    line = refused(capsys, "--from-run", folder, "--out", tmp_path / "out", command=grpo.main)
    assert line.endswith(f"python -m training.sft --from-run {folder}")


def test_a_missing_extra_names_its_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from training import grpo; sys.exit(grpo.main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 2 and "pip install -e '.[train]'" in done.stderr, done.stderr
