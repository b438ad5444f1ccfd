"""Training commands on a small run and the tiny base: what is learnt from, what is kept, killed and gone on with."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import TRAINERS_WARN, copied, newest, refused, run_of, words

torch = pytest.importorskip("torch")

import topics  # noqa: E402
from arena import run as arena  # noqa: E402
from runs import adapters, tables  # noqa: E402
from runs.adapters import Adapter  # noqa: E402
from runs.settings import read_toml  # noqa: E402
from training import dpo, grpo, pair_set, pairs, policy, sft  # noqa: E402
from training.recipe import FOLDER, known, parse_training, table  # noqa: E402
from training.speeches import decided_speeches, held_back, prompts  # noqa: E402
from training.state import State, resumed  # noqa: E402

pytestmark = [
    *TRAINERS_WARN,
]

TOPICS = [topic.topic_id for topic in topics.load("train")][:10]
QUICK_SFT = ["--limit", "64", "--rows", "16", "--check-every", "2", "--held-back", "0.3"]
QUICK_DPO = ["--epochs", "0.15", "--check-every", "2", "--held-back", "0.3", "--max-perplexity", "1e9"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of short debates in it, and a policy that was taught its winning speeches."""
    out = tmp_path_factory.mktemp("out")
    slots = (Path(arena.__file__).parent / "formats" / "brief.toml").read_text()
    (out / "format.toml").write_text(slots.replace("160", "40").replace("140", "30"))
    arena.run(
        arena.Settings.model_validate({"topics": ",".join(TOPICS), "format": str(out / "format.toml"), "out": out})
    )
    assert train(sft, out, *QUICK_SFT).method == "sft"
    return out


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def train(command: Any, out: Path, *more: str) -> Adapter:
    """The adapter that a training command makes, in this process."""
    before = {adapter.id for adapter in adapters.listed(out / "adapters")}
    assert command.main(words(out, *more)) == 0
    (new,) = [one for one in adapters.listed(out / "adapters") if one.id not in before] or [newest(out)]
    return new


# ── what is learnt from ──────────────────────────────────────────────────────────────────────────────


def test_every_recipe_fills_every_setting() -> None:
    assert {"persuade", "tiny"} <= set(known())
    for recipe in known():
        for command, section in ((sft, "sft"), (dpo, "dpo"), (grpo, "grpo"), (grpo, "debates")):
            if section not in read_toml(FOLDER / f"{recipe}.toml"):
                continue
            settings = parse_training(command.Settings, ["--recipe", recipe], section)
            for name, value in table(recipe, section).items():
                found = getattr(settings, name)
                assert found == (type(found)(**value) if isinstance(value, dict) else value), (recipe, section, name)


def test_the_recipe_persuade_has_that_systems_numbers() -> None:
    settings = parse_training(dpo.Settings, ["--recipe", "persuade"], "dpo")
    told = ("beta", "learning_rate", "warmup", "weight_decay", "max_grad_norm", "max_perplexity", "epochs")
    assert [getattr(settings, name) for name in told] == [0.2, 5e-6, 0.05, 0.01, 1.0, 10.0, 1]
    assert (settings.rank, settings.alpha, settings.dropout) == (16, 32, 0.05)
    assert settings.batching == "stock" and settings.budget // 2 * settings.per_step == 8


def test_the_command_line_wins_over_the_recipe_and_the_config(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[dpo]\nbeta = 0.3\nrank = 4\n")
    recipe = table("persuade", "dpo") | {"beta": 0.3, "rank": 4}
    lines = [f"{name} = {json.dumps(value)}" for name, value in recipe.items()]
    (tmp_path / "mine.toml").write_text("[dpo]\n" + "\n".join(lines))
    (tmp_path / "settings.toml").write_text(f'recipe = "{tmp_path / "mine.toml"}"\nrank = 8\nseed = 3\n')
    given = ["--config", str(tmp_path / "settings.toml"), "--seed", "4"]
    settings = parse_training(dpo.Settings, given, "dpo")
    assert (settings.beta, settings.rank, settings.seed) == (0.3, 8, 4)
    assert settings.typed == {"config", "recipe", "rank", "seed"}


def test_held_back_topics_are_the_same_for_every_seed_and_nest() -> None:
    names = [topic.topic_id for topic in topics.load("train")]
    back = held_back(names, 0.1)
    assert back < held_back(reversed(names), 0.3) and len(back) == 20
    for some in (names[:80], names[::3]):  # a topic is held back whatever other topics there are
        assert held_back(some, 0.1) == back & set(some)
    own = [f"own-{number}" for number in range(1000)]
    assert 60 < len(held_back(own, 0.1)) < 140 and len(held_back(["own-3"], 0.1)) == 1


@pytest.mark.parametrize("context", ["key", "transcript"])
def test_training_sees_the_tokens_that_are_played(made: Path, context: str) -> None:
    from arena import models
    from arena.prompting import key_messages, messages
    from runs.records import Debate, Match, slots_for
    from runs.spec import Spec
    from training.speeches import turns_of

    run = tables.load(run_of(made))
    heard = decided_speeches(run, judge=None, chosen=["any"])
    entry = newest_taught(made)
    tokenizer = models.load_tokenizer(str(entry.folder))
    settings = parse_training(sft.Settings, words(made, *QUICK_SFT, "--context", context), "sft")
    data = sft.demonstrations(heard, settings, tokenizer)
    learnt = {(tuple(data.learnt.prompts[p]), tuple(data.learnt.speeches[s])) for p, s in data.learnt.sequences}
    debates = {row["debate_id"]: row for row in run.debates.collect().to_dicts()}
    played = set()
    for row in heard.speeches.filter("won").to_dicts():
        match = Match(**{name: debates[row["debate_id"]][name] for name in Match.__slots__})
        slots = slots_for(Spec.read(run.folder).format, match.opener)
        turns = turns_of(run, pl.Series([match.debate_id]))[match.debate_id]
        debate = Debate(match=match, topic=heard.topics[row["topic_id"]], slots=slots, turns=turns)
        said = (key_messages if context == "key" else messages)(debate, slots[row["turn"] - 1])
        prompt = tuple(models.prompt_ids(tokenizer, said))
        played.add((prompt, tuple(models.speech_ids(tokenizer, said, row["text"]))))
    assert learnt <= played and len(learnt) == 64


def newest_taught(out: Path) -> Adapter:
    heard = decided_speeches(tables.load(run_of(out)), judge=None, chosen=["any"])
    found = policy.newest_taught(heard, out / "adapters")
    assert found is not None
    return found


def test_nothing_of_a_held_out_or_held_back_topic_is_in_the_tokenizer_or_the_demonstrations(made: Path) -> None:
    run = tables.load(run_of(made))
    heard = decided_speeches(run, judge=None, chosen=["any"])
    settings = parse_training(sft.Settings, words(made, *QUICK_SFT), "sft")
    back = held_back(heard.topics_heard, settings.held_back)
    assert 0 < len(back) < len(heard.topics_heard)
    texts = "\n".join(policy.corpus(heard, settings))
    for topic in [*topics.load("test"), *(heard.topics[topic_id] for topic_id in back)]:
        assert topic.motion not in texts and (not topic.info or topic.info not in texts)
    learnt = [heard.topics[topic_id] for topic_id in heard.topics_heard if topic_id not in back]
    assert all(topic.motion in texts for topic in learnt)


def test_reasoning_and_losing_speeches_are_not_demonstrated(made: Path) -> None:
    heard = decided_speeches(tables.load(run_of(made)), judge=None, chosen=["granite"])
    won = heard.speeches.filter("won", contestant="granite")
    asked, ids = prompts(heard, "key", won)
    assert len(ids) == won.height and asked.height == asked["prompt_id"].n_unique()
    settings = parse_training(sft.Settings, words(made, *QUICK_SFT, "--chosen", "granite", "--limit", "9999"), "sft")
    from arena.models import load_tokenizer

    tokenizer = load_tokenizer(str(newest_taught(made).folder))
    data = sft.demonstrations(heard, settings, tokenizer)
    said = {tokenizer.decode(list(speech), skip_special_tokens=True).strip() for speech in data.learnt.speeches}
    assert said <= set(won["text"])


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────


def test_dpo_begins_at_the_taught_policy_and_registers_an_adapter(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(made, tmp_path)
    child = train(dpo, out, *QUICK_DPO)
    printed = capsys.readouterr()
    assert child.parent == child.base.adapter == newest_taught(out).id
    assert "newest policy taught from this run" in printed.err
    assert f"wrote {child.folder}" in printed.out and f'adapter = "{child.id}"' in printed.out
    (found,) = (out / "pairs").iterdir()
    assert pair_set.load(found).digest == child.pairs
    assert child.form == "lora" and child.run == run_of(out).name and child.judge == "rules"
    adapters.verify(child)
    metrics = pl.read_parquet(child.folder / "metrics.parquet")
    assert metrics["step"].is_sorted() and metrics["accuracy"].is_not_null().sum() >= 2
    assert metrics["perplexity"].is_not_null().sum() >= 2 and metrics["loss"].is_not_null().any()
    assert (child.folder / "curve.svg").read_text().startswith("<svg")
    assert not list((out / "training").iterdir()), "what a finished training leaves is its entry"
    assert {"accuracy", "accuracy_low", "accuracy_high", "perplexity"} <= set(child.metrics)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(made: Path, tmp_path: Path) -> None:
    first, second = copied(made, tmp_path / "a"), copied(made, tmp_path / "b")
    one, two = train(dpo, first, *QUICK_DPO), train(dpo, second, *QUICK_DPO)
    assert one.id == two.id and one.files == two.files
    other = train(dpo, second, *QUICK_DPO, "--seed", "1")
    assert other.weights_digest != two.weights_digest


def test_an_adapter_is_trained_further_from_where_it_is(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    parent = train(dpo, out, *QUICK_DPO)
    child = train(dpo, out, *QUICK_DPO, "--base", parent.id, "--seed", "2")
    assert child.parent == parent.id and child.base == parent.base
    start = pl.read_parquet(child.folder / "metrics.parquet").filter(pl.col("margin").is_not_null()).row(0, named=True)
    assert start["step"] == 0 and abs(start["margin"]) < 1e-3, "the reference is the policy that it begins with"
    assert child.canary.without == pytest.approx(parent.canary.without, abs=1e-4)


def test_over_four_bits_an_adapter_is_trained(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = copied(made, tmp_path)
    child = train(dpo, out, *QUICK_DPO, "--four-bit")
    assert child.four_bit and child.canary.dtype == "float32"
    taught = train(sft, out, *QUICK_SFT, "--four-bit")
    assert taught.form == "lora" and taught.four_bit and Path(taught.base.name).name.startswith("tiny-")
    capsys.readouterr()
    line = refused(capsys, *words(out, *QUICK_SFT, "--four-bit", "--full"), command=sft.main)
    assert "not all weights can be trained" in line


def test_a_pair_set_can_be_named(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    assert pairs.main(["--from-run", str(run_of(made)), "--out", str(folder), "--chosen", "granite,cedar"]) == 0
    settings = parse_training(dpo.Settings, words(made, "--pairs", str(folder)), "dpo")
    found, heard = dpo.pairs_of(settings)
    assert found.chosen == ["granite", "cedar"] and heard.run.folder.name == run_of(made).name


def test_a_dry_run_writes_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path for path in made.rglob("*"))
    for command, quick in ((sft, QUICK_SFT), (dpo, QUICK_DPO)):
        assert command.main(words(made, *quick, "--dry-run")) == 0
        printed = capsys.readouterr().out
        assert "nothing was written" in printed and "GB of memory" in printed
    assert sorted(path for path in made.rglob("*")) == before


def test_speeches_are_taught_to_an_adapter_too(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    parent = train(dpo, out, *QUICK_DPO)
    child = train(sft, out, *QUICK_SFT, "--base", parent.id)
    assert child.form == "lora" and child.parent == parent.id and child.base == parent.base


def test_a_pair_set_says_which_run_and_which_prompts(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = copied(made, tmp_path), tmp_path / "pairs"
    assert pairs.main(["--from-run", str(run_of(out)), "--out", str(folder), "--context", "transcript"]) == 0
    given = ["--out", str(out), "--pairs", str(folder), *QUICK_DPO]
    assert dpo.main(given) == 0
    assert newest(out).context == "transcript" and newest(out).run == run_of(out).name
    capsys.readouterr()
    assert "made with --context transcript" in refused(capsys, *given, "--context", "key", command=dpo.main)


def test_a_shortened_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized" in refused(capsys, "--rec", "persuade", command=dpo.main)


def test_checks_are_not_on_what_the_parent_was_taught(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *words(made, *QUICK_DPO, "--held-back", "0.5"), command=dpo.main)
    assert "held back 0.3 of the train topics" in line and "--held-back 0.3" in line


def test_a_parent_of_another_recipe_must_be_named(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in table("tiny", "sft").items()]
    own = made / "own.toml"
    own.write_text("[sft]\n" + "\n".join(lines) + "\n")
    parent = train(sft, made, *QUICK_SFT, "--recipe", str(own))
    capsys.readouterr()
    line = refused(capsys, *words(made, *QUICK_DPO), command=dpo.main)
    shutil.rmtree(parent.folder)
    assert f"--base {parent.id}" in line


# ── stopped, killed, full ────────────────────────────────────────────────────────────────────────────


def test_the_guard_stops_and_keeps_the_last_good_checkpoint(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(made, tmp_path)
    calm = train(dpo, out, *QUICK_DPO)
    sound = pl.read_parquet(calm.folder / "metrics.parquet")["perplexity"].drop_nulls().to_list()
    wild = [*QUICK_DPO[:2], "--held-back", "0.3", "--check-every", "1", "--learning-rate", "0.03"]
    child = train(dpo, out, *wild, "--max-perplexity", str(1.05 * sound[0]))
    said = capsys.readouterr().err
    assert "is above" in said and "the last good one" in said
    seen = pl.read_parquet(child.folder / "metrics.parquet")["perplexity"].drop_nulls().to_list()
    assert seen[-1] > 1.05 * sound[0] >= max(seen[:-1])
    assert "stopped" in child.metrics and child.metrics["perplexity"] <= 1.05 * sound[0]


def test_the_guard_refuses_a_base_that_is_beyond_it_before_the_first_step(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(made, tmp_path)
    line = refused(capsys, *words(out, *QUICK_DPO, "--max-perplexity", "2"), command=dpo.main)
    assert "before the first step" in line and not list((out / "training").iterdir())


def test_a_model_that_has_lost_its_numbers_is_infinitely_perplexed() -> None:
    from training.preference import perplexity

    assert perplexity(float("nan"), 3) == perplexity(float("-inf"), 3) == float("inf")
    assert perplexity(-1e9, 1) < float("inf") and perplexity(-2.0, 2) == pytest.approx(2.718281828)


def test_what_was_begun_does_not_follow_what_is_newest(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    settings = parse_training(dpo.Settings, ["--out", str(out), *QUICK_DPO], "dpo")
    process = spawned(out, *QUICK_DPO, "--epochs", "2")
    wait_for(lambda: list((out / "training").glob("*/checkpoint-*/complete")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = (out / "training").iterdir()
    stored = State.read(folder).settings
    assert settings.from_run == "newest" and Path(stored["from_run"]).name == run_of(out).name
    assert stored["base"] == newest_taught(out).id
    elsewhere = parse_training(dpo.Settings, ["--resume", str(folder), "--dry-run"], "dpo")
    found, _ = resumed(elsewhere, "dpo")
    assert found.out == out and found.dry_run


def wait_for(there: Any, process: subprocess.Popen[str]) -> None:
    """Until something is there, or the process has ended."""
    for _ in range(2400):
        if there() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def spawned(out: Path, *more: str, method: str = "dpo", **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"training.{method}", "--out", str(out), *more]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, cwd=out, **(pipes | options))


@pytest.mark.slow
@pytest.mark.parametrize("four_bit", [False, True], ids=["lora", "qlora"])
def test_a_killed_training_comes_to_the_same_weights(made: Path, tmp_path: Path, four_bit: bool) -> None:
    quick = [*QUICK_DPO, "--epochs", "0.3", *(["--four-bit"] if four_bit else [])]
    out = copied(made, tmp_path)
    process = spawned(out, "--from-run", str(run_of(out)), *quick)
    wait_for(lambda: list((out / "training").glob("*/checkpoint-*/complete")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = (out / "training").iterdir()
    checkpoint = State.read(folder).last_checkpoint()
    assert checkpoint is not None and not [a for a in adapters.listed(out / "adapters") if a.method == "dpo"]
    done = spawned(out, "--resume")
    printed = done.communicate()
    assert done.returncode == 0, printed
    killed = newest(out)
    other = copied(made, tmp_path / "calm")
    process = spawned(other, "--from-run", str(run_of(other)), *quick)  # undisturbed, in a process of its own as well
    assert process.communicate() and process.returncode == 0
    calm = newest(other)
    assert killed.weights_digest == calm.weights_digest
    steps = [pl.read_parquet(one.folder / "metrics.parquet").drop("epoch") for one in (killed, calm)]
    assert steps[0]["loss"].to_list() == steps[1]["loss"].to_list()


@pytest.mark.slow
def test_a_killed_lesson_comes_to_the_same_weights(made: Path, tmp_path: Path) -> None:
    """Also in the second epoch, whose order is another than the first's."""
    quick = [*QUICK_SFT, "--epochs", "2", "--seed", "3", "--no-packing"]
    digests = []
    for name, killed in (("killed", True), ("calm", False)):
        out = copied(made, tmp_path / name)
        process = spawned(out, "--from-run", str(run_of(out)), *quick, method="sft")
        if killed:
            wait_for(lambda out=out: list((out / "training").glob("*/checkpoint-6/complete")), process)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = spawned(out, "--resume", method="sft")
        printed = process.communicate()
        assert process.returncode == 0, printed
        digests.append(newest(out).weights_digest)
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_two_processes_share_a_training(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "training.dpo", *words(out, *QUICK_DPO)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1 and not list((out / "training").iterdir())
    both = newest(out)
    alone = train(dpo, copied(made, tmp_path / "alone"), *QUICK_DPO)
    assert both.metrics["margin"] == pytest.approx(alone.metrics["margin"], rel=0.05)


@pytest.mark.slow
def test_accelerate_launches_it(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "training.dpo"]
    command += words(made, *QUICK_DPO, "--dry-run")
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "nothing was written" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_stops_cleanly_and_keeps_the_last_good_one(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))  # smaller than the optimiser's state

    process = spawned(out, "--from-run", str(run_of(out)), *QUICK_DPO, preexec_fn=full)
    printed = process.communicate()
    assert process.returncode == 1, printed
    assert "Traceback" not in printed[1] and "--resume" in printed[1].splitlines()[-1]
    (folder,) = (out / "training").iterdir()
    assert not list(folder.glob("checkpoint-*")), "half a checkpoint is none"
    done = spawned(out, "--resume")
    assert done.communicate() and done.returncode == 0
    assert newest(out).method == "dpo"


@pytest.mark.slow
def test_the_first_interrupt_saves_and_says_how_to_go_on(made: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    process = spawned(out, "--from-run", str(run_of(out)), *QUICK_DPO, "--epochs", "1", "--check-every", "1000")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 0/"):
            process.send_signal(signal.SIGINT)
            break
    printed = process.communicate()
    assert process.returncode == 1 and "go on with: python -m training.dpo --resume" in printed[1]
    (folder,) = (out / "training").iterdir()
    assert State.read(folder).last_checkpoint() is not None


# ── wrong input ──────────────────────────────────────────────────────────────────────────────────────


def test_wrong_input_is_one_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(command: Any, *given: object) -> str:
        return refused(capsys, *given, command=command.main)

    assert "no finished run" in line(dpo, "--from-run") and "start one" in line(sft, "--from-run")
    good = words(made)
    assert "no run" in line(dpo, "--from-run", "nowhere")
    assert "unknown contestants 'granit'" in line(sft, *good, "--chosen", "granit")
    assert "no recipe 'persuad'" in line(dpo, *good, "--recipe", "persuad")
    assert "no base 'nothing/here'" in line(dpo, *good, "--base", "nothing/here")
    assert "longer than 50 tokens" in line(sft, *good, *QUICK_SFT, "--max-length", "50")
    assert "longer than 50 tokens" in line(dpo, *good, *QUICK_DPO, "--max-length", "50")
    assert "no verdicts of judge 'gpt'" in line(dpo, *good, "--judge", "gpt")
    assert "no training 'x'" in line(dpo, "--out", made, "--resume", "x")
    assert "no unfinished dpo training" in line(dpo, "--out", made, "--resume")
    assert "--learning-rate" in line(dpo, *good, "--learning-rate", "-1")
    assert "unrecognized" in line(dpo, *good, "--bata", "1")


def test_a_base_without_a_chat_template_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(newest_taught(made).folder, tmp_path / "bare"))
    for name in ("adapter.json", "chat_template.jinja"):
        (bare / name).unlink()
    line = refused(capsys, *words(made, *QUICK_DPO, "--base", str(bare)), command=dpo.main)
    assert "no chat template" in line


def test_a_base_that_memory_cannot_hold_is_refused_before_it_is_loaded(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "available", lambda: (1e6, "memory"))
    monkeypatch.setattr(policy, "load_model", lambda *_, **__: pytest.fail("loaded"))
    line = refused(capsys, *words(made, *QUICK_DPO), command=dpo.main)
    assert "takes about" in line and "--four-bit" in line


def test_a_held_out_topic_among_the_pairs_is_refused_by_name(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pairs"
    assert pairs.main(["--from-run", str(run_of(made)), "--out", str(folder)]) == 0
    capsys.readouterr()
    (held_out, *_) = topics.load("test")
    frame = pl.read_parquet(folder / "pairs.parquet")
    frame.with_columns(topic_id=pl.lit(held_out.topic_id)).write_parquet(folder / "pairs.parquet")
    body = json.loads((folder / "pairs.json").read_text())
    body["sha256"]["pairs"] = pair_set.sha256_of(folder / "pairs.parquet")
    (folder / "pairs.json").write_text(json.dumps(body))
    line = refused(capsys, *words(made, *QUICK_DPO, "--pairs", str(folder)), command=dpo.main)
    assert repr(held_out.topic_id) in line


def test_a_run_of_one_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = '\n[[judges]]\nname = "tied"\nkind = "judges.scripted:Scripted"\nwinners = ["tie"]\n'
    default = (Path(arena.__file__).parent / "rosters" / "default.toml").read_text()
    (tmp_path / "roster.toml").write_text(default + judge)
    asked = {"out": tmp_path / "o", "limit": 6, "roster": tmp_path / "roster.toml", "judges": ["tied"]}
    result = arena.run(arena.Settings.model_validate(asked))
    line = refused(capsys, "--from-run", result.folder, "--out", tmp_path / "o", command=dpo.main)
    assert "no side won: 6" in line


def test_resume_refuses_other_settings(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = copied(made, tmp_path)
    settings = parse_training(dpo.Settings, words(out, *QUICK_DPO), "dpo")
    State.begin(settings, "dpo", {"base": "x", "pairs": "y"})
    line = refused(capsys, "--out", out, "--resume", "--beta", "0.7", command=dpo.main)
    assert "begun with beta 0.1, not 0.7" in line
    line = refused(capsys, "--out", out, "--resume", command=dpo.main)
    assert "another" in line and "changed since" in line


def test_a_missing_extra_names_its_line(made: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from training import dpo; "
        f"sys.exit(dpo.main({words(made, *QUICK_DPO)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install -e '.[train]'" in done.stderr, done.stderr
