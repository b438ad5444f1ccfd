"""What long trainings survive: a full disk, a kill, many checkpoints, and a policy that only seems to get better."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path

import polars as pl
import pytest
from conftest import TRAINERS_WARN, copied, words
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from transformers import TrainerControl, TrainerState  # noqa: E402

import topics  # noqa: E402
from arena import run as arena  # noqa: E402
from runs import adapters  # noqa: E402
from runs.adapters import Adapter  # noqa: E402
from training import checkpoints, grpo, sft  # noqa: E402
from training.draws import Steps  # noqa: E402
from training.guard import Bounds, repetition, tripped  # noqa: E402
from training.log import PREFERENCE  # noqa: E402
from training.state import State  # noqa: E402
from training.watch import Watch  # noqa: E402

pytestmark = [
    *TRAINERS_WARN,
    pytest.mark.usefixtures("one_thread"),
]

TOPICS = [topic.topic_id for topic in topics.load("train")][:10]
QUICK_SFT = ["--limit", "640", "--rows", "16", "--check-every", "1000", "--held-back", "0.3"]
QUICK = ["--limit", "24", "--rows", "4", "--group", "4", "--check-every", "2", "--held-back", "0.3"]
QUICK += ["--rank", "16", "--learning-rate", "1e-3"]
QUICK += ["--guard.perplexity", "1e9", "--guard.repetition", "1", "--guard.kl", "1e9"]
"""Six steps, a checkpoint after each second one."""
CALM = [*QUICK, "--guard.words", "[0,1e9]"]
MB = 10**6


# ── the guard ────────────────────────────────────────────────────────────────────────────────────────

FIRST = {"perplexity": 4.0, "held_back_words": 100.0, "held_back_repetition": 0.1, "held_back_kl": 0.0}
ALL = Bounds(perplexity=10, words=(0.5, 2), repetition=0.2, kl=0.5, audit=0.1)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({}, None),
        ({"perplexity": 10.0, "held_back_words": 200.0, "held_back_repetition": 0.2, "held_back_kl": 0.5}, None),
        ({"perplexity": 10.5}, "perplexity 10.5 is above 10"),
        ({"held_back_words": 201.0}, "mean words a speech 201 is above 200 (0.5 to 2 times the first check's 100)"),
        ({"held_back_words": 49.0}, "mean words a speech 49 is below 50 (0.5 to 2 times the first check's 100)"),
        ({"held_back_repetition": 0.25}, "repetition 0.25 is above 0.2"),
        ({"held_back_kl": 0.6}, "KL to the reference 0.6 is above 0.5"),
        ({"held_back_audit": 0.11}, "rate of audit faults 0.11 is above 0.1"),
        ({"held_back_reward": 0.0, "accuracy": nan}, None),
    ],
)
def test_what_trips_by_hand(found: dict[str, float], why: str | None) -> None:
    assert tripped(ALL, found, FIRST) == why
    assert tripped(Bounds(), found, FIRST) is None


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize("name", [*FIRST, "held_back_audit"])
def test_what_is_no_number_trips(name: str, value: float) -> None:
    assert "no finite number" in str(tripped(ALL, {name: value}, FIRST))
    assert (tripped(Bounds(), {name: value}, FIRST) is not None) == (name == "perplexity")


def test_words_are_multiples_of_the_first_check_where_it_heard_any() -> None:
    for first in ({}, {"held_back_words": 0.0}):
        assert tripped(ALL, {"held_back_words": 900.0}, first) is None
    assert tripped(ALL, {"held_back_words": 9.0}, {"held_back_words": nan}) is not None


@given(
    st.dictionaries(st.sampled_from([*FIRST, "held_back_audit"]), st.floats(0, 1e6), min_size=1),
    st.floats(1, 100),
)
def test_wider_bounds_trip_on_less_and_the_first_check_is_within_its_own_words(
    found: dict[str, float], factor: float
) -> None:
    wide = Bounds(perplexity=10 * factor, words=(0.5 / factor, 2 * factor), repetition=1, kl=0.5 * factor, audit=1)
    if tripped(wide, found, FIRST):
        assert tripped(ALL, found, FIRST)
    assert tripped(Bounds(words=(1, 1)), found, found) is None


def test_bounds_that_mean_nothing_are_refused() -> None:
    for wrong in ({"words": (2, 1)}, {"repetition": 1.5}, {"kl": -1}, {"perplexity": 0}, {"length": 2}, {"kl": nan}):
        with pytest.raises(ValidationError):
            Bounds.model_validate(wrong)


def test_repetition_by_hand() -> None:
    assert repetition("") == repetition("one two three four") == repetition("a " * 4) == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("A b c d, a B c d,") == pytest.approx(1 / 5)
    assert repetition("a " * 10) == pytest.approx(6 / 7)
    said = "the trams are quiet and the trams are quick and the trams are quiet"  # two of eleven stood before
    assert repetition(said) == pytest.approx(2 / 11)


@given(st.lists(st.sampled_from("abcde"), max_size=60), st.sampled_from([" ", "\n", " \t "]))
def test_laws_of_repetition(words: list[str], gap: str) -> None:
    text = gap.join(words)
    share = repetition(text)
    assert 0 <= share < 1 and share == repetition(text.upper())
    assert repetition(f"{text} {' '.join(f'new{number}' for number in range(len(words)))}") <= share
    if len(words) > 4:
        count = len(words)
        assert repetition(f"{text} {text}") >= (count - 3) / (2 * count - 3) - 1e-9


@pytest.mark.parametrize("text", ["a" * MB, "a " * (MB // 2), " " * MB, " ".join(map(str, range(MB // 7)))])
def test_a_megabyte_is_measured(text: str) -> None:
    assert repetition(text) == pytest.approx(1 if text.startswith("a ") else 0, abs=1e-4)


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────


def checkpoint(folder: Path, step: int, size: int, *, whole: bool = True) -> None:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"x" * size)
    if whole:
        checkpoints.seal(path)


def steps(folder: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in checkpoints.complete(folder)]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=12),
    st.integers(1, 12),
    st.none() | st.integers(0, 300),
)
def test_the_newest_checkpoints_stand(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], keep: int, most: int | None
) -> None:
    folder = tmp_path_factory.mktemp("training")
    for step, size in enumerate(sizes, start=1):
        checkpoint(folder, step, size)
    checkpoints.thin(folder, keep=keep, most=most)
    left = len(steps(folder))
    assert steps(folder) == list(range(len(sizes) - left + 1, len(sizes) + 1)), "older ones go first"
    assert 1 <= left <= keep and (most is None or left == 1 or sum(sizes[-left:]) <= most)
    if left < min(keep, len(sizes)):
        assert most is not None and sum(sizes[-left - 1 :]) > most, "none goes that could stay"


def test_a_checkpoint_that_is_not_whole_replaces_none(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9, 10)
    checkpoint(tmp_path, 10, 99, whole=False)
    checkpoints.thin(tmp_path, keep=1, most=None)
    assert steps(tmp_path) == [9] and (tmp_path / "checkpoint-10").is_dir()
    assert 10 <= checkpoints.wanted(tmp_path, 5000) < 20


def test_what_a_disk_lacks(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert checkpoints.wanted(tmp_path, 5000) >= 5000 and checkpoints.lacking(tmp_path, 5000) is None
    disk = checkpoints.disk(tmp_path)
    assert os.path.ismount(disk) and tmp_path.resolve().is_relative_to(disk)
    assert repr(str(disk)) in str(checkpoints.lacking(tmp_path, 2 * free + MB))
    said = re.fullmatch(r"free ([\d,.]+) MB under .*", checkpoints.to_free(tmp_path, 2 * free + MB))
    assert said and float(said[1].replace(",", "")) * MB == pytest.approx(free, rel=0.5)
    assert "quota" in checkpoints.to_free(tmp_path, 1)


# ── a watch, alone ───────────────────────────────────────────────────────────────────────────────────


def test_a_resumed_training_is_measured_by_its_very_first_check(tmp_path: Path) -> None:
    watch = Watch(
        tmp_path,
        lambda _: {"held_back_words": 190.0},
        log=PREFERENCE,
        every=2,
        whole=1,
        bounds=Bounds(words=(0.5, 1.8)),
        room=1,
        keep=1,
        keep_gb=None,
    )
    log = [{"step": 0, "epoch": 0.0, "held_back_words": 100.0}, {"step": 2, "epoch": 0.1, "held_back_words": 150.0}]
    state = TrainerState(global_step=4, max_steps=8, epoch=0.2, log_history=log)
    control = watch.on_step_end(None, state, TrainerControl())
    assert watch.tripped and control.should_training_stop and not control.should_save
    assert str(watch.stopped).startswith("mean words a speech 190 is above 180")


# ── trainings ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of short debates in it, and a policy that was taught its winning speeches."""
    out = tmp_path_factory.mktemp("out")
    slots = (Path(arena.__file__).parent / "formats" / "brief.toml").read_text()
    (out / "format.toml").write_text(slots.replace("160", "30").replace("140", "20"))
    given_ = {"topics": ",".join(TOPICS), "format": str(out / "format.toml"), "out": out}
    arena.run(arena.Settings.model_validate(given_))
    assert sft.main(words(out, *QUICK_SFT)) == 0
    return out


def trained(out: Path) -> Adapter:
    """The adapter that a training has made."""
    newest = adapters.listed(out / "adapters")[-1]
    assert newest.method == "grpo"
    return newest


def spawned(*command: str) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(*command: str) -> subprocess.CompletedProcess[str]:
    process = spawned(*command)
    printed = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, *printed)


COMMAND = [sys.executable, "-m", "training.grpo"]


def left_by(out: Path, *given_: str) -> Path:
    """What a whole training leaves of its folder where nothing is removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "remove", lambda _: None)
        assert grpo.main(words(out, *given_)) == 0
    (folder,) = (out / "training").iterdir()
    return folder


@dataclass(frozen=True, kw_only=True)
class Calm:
    adapter: Adapter
    folder: Path


@pytest.fixture(scope="module")
def calm(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A training that nothing disturbs, which keeps two checkpoints."""
    out = copied(made, tmp_path_factory.mktemp("calm"))
    folder = left_by(out, *CALM, "--keep", "2")
    return Calm(adapter=trained(out), folder=folder)


@dataclass(frozen=True, kw_only=True)
class Killed:
    out: Path
    size: int
    """Bytes of its checkpoint."""


@pytest.fixture(scope="module")
def killed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A training that was killed in its fourth step, after the checkpoint of its second."""
    out = copied(made, tmp_path_factory.mktemp("killed"))
    process = spawned(*COMMAND, *words(out, *CALM))
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("step 3/"):  # told when the third is done
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    (folder,) = (out / "training").iterdir()
    good = State.read(folder).last_checkpoint()
    assert good is not None and good.name == "checkpoint-2" and len(adapters.listed(out / "adapters")) == 1
    return Killed(out=out, size=checkpoints.size(good))


@pytest.mark.slow
def test_a_training_killed_in_a_step_comes_to_the_same_weights(killed: Killed, calm: Calm) -> None:
    assert grpo.main(["--out", str(killed.out), "--resume"]) == 0
    adapter = trained(killed.out)
    assert adapter.weights_digest == calm.adapter.weights_digest and adapter.metrics == calm.adapter.metrics
    assert not list((killed.out / "training").iterdir())


class Mount:
    """A small file system at a folder, seen only through `enter`, and with little of it free."""

    def __init__(self, at: Path, free: int, size: int = 64 * MB) -> None:
        script = f'mount -t tmpfs -o size={size} tmpfs "$0" && head -c {size - free} /dev/zero > "$0/ballast"'
        held = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"{script} && echo held && exec cat"]
        self.process = subprocess.Popen(
            [*held, str(at)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "held\n":
            _, error = self.process.communicate()
            raise OSError(error.strip())
        target = f"--target={self.process.pid}"
        self.enter = ["nsenter", target, "--user", "--mount", "--preserve-credentials", "--"]

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True)

    def close(self) -> None:
        self.process.communicate("")


@pytest.fixture
def mounted() -> Iterator[Callable[[Path, int], Mount]]:
    mounts: list[Mount] = []

    def mount(at: Path, free: int) -> Mount:
        at.mkdir(exist_ok=True)
        try:
            mounts.append(Mount(at, free))
            mounts[-1].run("true")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no small file system can be mounted here: {error}")
        return mounts[-1]

    yield mount
    for one in mounts:
        one.close()


def the_first_is_kept(seen: Path, folder: Path, stopped: subprocess.CompletedProcess[str]) -> str:
    """The one line that a training ended with; its first checkpoint is whole, and the only one."""
    line = stopped.stderr.strip().splitlines()[-1]
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr, stopped
    assert line.startswith("error: ") and stopped.stderr.count("error: ") == 1, stopped
    assert [path.name for path in seen.glob("checkpoint-*")] == ["checkpoint-2"]
    good = State.read(seen).last_checkpoint()
    assert good is not None and load_file(good / "adapter_model.safetensors")
    assert f"checkpoint-2 is kept in {str(folder)!r}" in line
    assert line.endswith(f"then: python -m training.grpo --resume {folder}")
    return line


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_second_checkpoint(
    made: Path, tmp_path: Path, killed: Killed, calm: Calm, mounted: Callable[[Path, int], Mount]
) -> None:
    """Space for one checkpoint and most of another; what the message says to free is enough."""
    out = copied(made, tmp_path)
    disk = mounted(out / "training", int(1.8 * killed.size))
    stopped = done(*disk.enter, *COMMAND, *words(out, *CALM))
    disk.run("sh", "-c", f'cp -r "$0"/*-grpo {tmp_path}/', str(out / "training"))
    (seen,) = tmp_path.glob("*-grpo")
    line = the_first_is_kept(seen, out / "training" / seen.name, stopped)
    asked = re.search(rf"the disk is full: .*; free ([\d.]+) MB under {str(out / 'training')!r}, then", line)
    assert asked, line
    disk.run("truncate", "--no-create", f"--size=-{round(float(asked[1]) * MB)}", str(out / "training" / "ballast"))
    again = done(*disk.enter, *COMMAND, "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr
    assert trained(out).weights_digest == calm.adapter.weights_digest


LIMITED = """
import resource, sys
from training import grpo, watch
save = watch.Watch.on_save
def on_save(self, *arguments, **more):
    save(self, *arguments, **more)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
watch.Watch.on_save = on_save
sys.exit(grpo.main())
"""


@pytest.mark.slow
def test_a_quota_that_is_used_up_in_the_second_checkpoint(
    made: Path, tmp_path: Path, killed: Killed, calm: Calm
) -> None:
    """After the first checkpoint, no file may be as large as the optimiser's state is: that of the second fails."""
    out = copied(made, tmp_path)
    limited = LIMITED.replace("LIMIT,", f"{killed.size // 2},")
    stopped = done(sys.executable, "-c", limited, *words(out, *CALM))
    (folder,) = (out / "training").iterdir()
    line = the_first_is_kept(folder, folder, stopped)
    assert "cannot write" in line and "a quota or a limit" in line
    assert grpo.main(["--out", str(out), "--resume"]) == 0
    assert trained(out).weights_digest == calm.adapter.weights_digest


@pytest.mark.slow
def test_checkpoints_are_kept_to_a_number_and_a_size(made: Path, tmp_path: Path, calm: Calm) -> None:
    small = left_by(copied(made, tmp_path), *CALM, "--keep", "3", "--keep-gb", "1e-9")
    for folder, stand in ((calm.folder, [4, 6]), (small, [6])):
        assert steps(folder) == stand and len(list(folder.glob("checkpoint-*"))) == len(stand)


@pytest.mark.slow
def test_the_guard_ends_a_training_whose_speeches_grow(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy that is paid by the token speaks ten times as long after four steps, and once and a half after two."""
    monkeypatch.setattr(Steps, "reward", lambda steps, **_: [float(len(one.completion)) for one in steps.samples])
    out = copied(made, tmp_path)
    folder = left_by(out, *QUICK, "--learning-rate", "3e-3", "--beta", "0", "--guard.words", "[0,3]")
    adapter, table = trained(out), pl.read_parquet(folder / "metrics.parquet")
    spoken = {row["step"]: row["words"] for row in table.to_dicts() if row["words"] is not None}
    assert spoken.keys() == {0, 2, 4} and spoken[2] <= 3 * spoken[0] < spoken[4]
    why = f"mean words a speech {spoken[4]:.6g} is above {3 * spoken[0]:.6g} "
    why += f"(0 to 3 times the first check's {spoken[0]:.6g})"
    assert f"stopped, {why}; what is kept is checkpoint-2, the last good one" in capsys.readouterr().err.splitlines()
    assert adapter.metrics["stopped"] == why and adapter.metrics["steps"] == 2 and steps(folder) == [2]
    weights, good = (load_file(at / "adapter_model.safetensors") for at in (adapter.folder, folder / "checkpoint-2"))
    assert weights.keys() == good.keys() and all(torch.equal(weights[name], good[name]) for name in weights)
