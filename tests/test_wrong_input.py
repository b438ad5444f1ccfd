"""Wrong input: one clear line, exit code 2, nothing half-written."""

import json
import re
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Play, refused

from arena.run import main
from runs.schema import VERSION
from topics import catalogue

CONTESTANT = '[[contestants]]\nname = "{}"\nkind = "simulated"\nstrength = 0.5\n'
TWO = CONTESTANT.format("ash") + CONTESTANT.format("birch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topics", "trian"], "unknown topics 'trian'.*did you mean 'train'"),
        (["--topics", "lower-voting-age"], "did you mean 'lower-voting-age-16'"),
        (["--topics", "missing.csv"], "cannot read topics from 'missing.csv'"),
        (["--topics", ""], "no topics named"),
        (["--judges", "ruels"], "unknown judges 'ruels'.*did you mean 'rules'"),
        (["--judges", "no_such_module:Judge"], "could not be loaded.*No module named"),
        (["--judges", "judges.rules:Nothing"], "could not be loaded.*Nothing"),
        (["--judges", "pathlib:Path"], "judge 'pathlib:Path' could not be made|is no judge"),
        (["--judges", "rules,rules"], "named twice"),
        (["--judges", ""], "no judges named"),
        (["--contestants", "granite"], "1 contestants are seated"),
        (["--contestants", "granite,grantie"], "unknown contestants 'grantie'.*did you mean 'granite'"),
        (["--contestants", "granite,granite"], "named twice"),
        (["--roster", "missing.toml"], "cannot read 'missing.toml'"),
        (["--format", "standart"], "no format 'standart'.*did you mean 'standard'"),
        (["--matches", "31"], "--matches 31: 6 contestants allow 1 to 30"),
        (["--matches", "0"], "--matches '0'"),
        (["--limit", "some"], "--limit 'some'"),
        (["--seed", "x"], "--seed 'x'"),
        (["--opener", "nobody"], "invalid choice: 'nobody'|--opener 'nobody'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--resume"], "no unfinished run"),
        (["--resume", "20200101"], "no run '20200101'"),
        (["--config", "missing.toml"], "cannot read 'missing.toml'"),
        (["--resume", "--dry-run"], "plans a new run"),
    ],
)
def test_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(capsys, *arguments)), message
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 contestants are seated; a debate needs at least two"),
        (CONTESTANT.format("ash"), "1 contestants are seated"),
        (CONTESTANT.format("ash") * 2, "uses the name 'ash' twice"),
        ("[[contestants]]\nname = 'x'\n", "contestants number 1 endpoint: Field required"),
        ("[[contestants]]\nname = 'x'\nkind = 'human'\n", "kind 'human' cannot be seated"),
        (CONTESTANT.format("ash") + "strenght = 1\n", "strenght"),
        (CONTESTANT.format("ash").replace("0.5", "7"), "strength"),
        ("[[panels]]\nname = 'x'\n", "panels"),
        ("contestants = [", "is not TOML"),
        (TWO + "[[judges]]\nname = 'j'\nkind = 'rules'\nstern = true\n", "stern"),
        (
            CONTESTANT.format("a")
            + CONTESTANT.format("b")
            + "[[judges]]\nname = 'j'\nkind = 'scripted'\nwinners = ['me']\n",
            "me",
        ),
    ],
)
def test_rosters(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roster = tmp_path / "roster.toml"
    roster.write_text(text)
    judges = ["--judges", "j"] if "judges" in text else []
    assert message in refused(capsys, "--roster", roster, "--out", tmp_path / "out", *judges)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (["for", "against", "against", "for"], "slot 3 is 'against', as slot 2"),
        (["for"], "1 slots; expected an even number"),
        (["for", "against", "for"], "3 slots; expected an even number"),
        ([], "slots"),
    ],
)
def test_formats(sides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "format.toml"
    path.write_text("".join(f'[[slots]]\nside = "{side}"\nstage = "s"\nwords = 50\n' for side in sides))
    assert message in refused(capsys, "--format", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_seal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = catalogue.MOTIONS.read_text()
    broken = tmp_path / "motions.jsonl"
    broken.write_text(text.replace("should", "must", 1))
    monkeypatch.setattr(catalogue, "MOTIONS", broken)
    assert "differ from their seal (changed: " in refused(capsys, "--topics", "train", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_out_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot write to" in refused(capsys, "--out", tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_disk_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    def no_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "arena.run", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, preexec_fn=no_files, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot write to")
    assert not list((tmp_path / "out").iterdir())


def left_unfinished(play: Play) -> Path:
    folder = play(limit=3).folder
    (folder / "manifest.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--seed", "1"], "another seed;"),
        (["--topics", "test", "--opener", "against"], "another topics, opener;"),
        (["--contestants", "granite,cedar"], "another contestants;"),
        (["--matches", "2", "--replicates", "2"], "another matches, replicates;"),
    ],
)
def test_a_run_of_another_spec(given: list[str], named: str, play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    folder = left_unfinished(play)
    before = (folder / "spec.json").read_text()
    assert named in refused(capsys, "--resume", folder, *given)
    assert (folder / "spec.json").read_text() == before
    assert (
        main(["--resume", str(folder), "--concurrency", "2", "--topics", "train"]) == 0
    )  # what agrees is no difference


def test_a_journal_of_a_newer_schema(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    folder = left_unfinished(play)
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    assert f"has schema {VERSION + 1}, newer than the {VERSION}" in refused(capsys, "--resume", folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("journal.db", "no database", "cannot be read as a journal"),
        ("spec.json", "{", "cannot be read as the spec"),
        ("spec.json", None, "was changed by hand"),
    ],
)
def test_a_damaged_run(
    name: str, text: str | None, message: str, play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = left_unfinished(play)
    if text is None:
        body = json.loads((folder / name).read_text())
        text = json.dumps(body | {"seed": 99})
    (folder / name).write_text(text)
    assert message in refused(capsys, "--resume", folder)


def test_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text('sede = 1\ntopics = "train"\n')
    assert "unknown setting 'sede'" in refused(capsys, "--config", config, "--out", tmp_path / "out")
    config.write_text('seed = "x"\n')
    assert "--seed 'x'" in refused(capsys, "--config", config, "--out", tmp_path / "out")
    config.write_text(f'seed = 3\nlimit = 2\nout = "{tmp_path / "out"}"\n')
    assert main(["--config", str(config), "--limit", "4"]) == 0  # the command line wins
    assert "4 debates" in capsys.readouterr().out


def test_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "nonsense")
    monkeypatch.setenv("TOPICS", "nonsense")
    assert main(["--limit", "1", "--out", str(tmp_path / "out")]) == 0


def test_show(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    from runs.show import main as show

    folder = play(limit=3).folder
    capsys.readouterr()
    assert "no run 'nothing'" in refused(capsys, "nothing", command=show)
    assert "expected the debate_id of one" in refused(capsys, folder, "zzz", command=show)
    assert "no verdict of judge 'ruels'" in refused(capsys, folder, "--judge", "ruels", command=show)
