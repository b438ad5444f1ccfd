"""The list of runs: what it counts, who holds a run, what cannot be read, and what fits on a terminal."""

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from conftest import Play, refused, roster

import runs
from arena.run import Settings as Played
from arena.run import run, scheduled
from runs import Run
from runs.list import TEXTS, Entry, Settings, Unread, found, held, look, main, report
from runs.list import scheduled as counted
from runs.show import main as show
from runs.spec import Spec
from topics.errors import InputError

IN_A_PATH = "\x1bc\u202eevil\r\n red"
HOSTILE = "\x1b[31mred\x1b[0m \u202eevil\u2066 \r\nrow\x07 \u200f\u061c"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed run with void debates, in a folder of runs of its own."""
    out = tmp_path_factory.mktemp("runs")
    trajectory = '[[judges]]\nname = "rules"\nkind = "rules"\ntrajectory = true\n'
    entries = roster(
        out / "r.toml", "sure, strength = 0.5", "shaky, strength = 0.5, fails = 0.05", judges=f"\n{trajectory}"
    )
    return run(Played(roster=entries, limit=20, judges=["rules", "scripted"], out=out)).folder


@pytest.fixture
def copy(played: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(played, tmp_path / "out" / played.name))


def entry(folder: Path) -> Entry:
    seen = look(folder)
    assert isinstance(seen, Entry), seen
    return seen


def opened(folder: Path, *, late: int = 15) -> None:
    """Take a finished run back to a moment when the debates from `late` on had not come to an end."""
    (folder / "manifest.json").unlink()
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute("UPDATE debates SET status = 'open', ended_at = NULL WHERE match >= ?", (late,))
    connection.execute("DELETE FROM debates WHERE match >= ?", (late + 2,))
    connection.commit()
    connection.close()


def test_what_is_counted_is_what_the_tables_hold(played: Path) -> None:
    seen, held_by = entry(played), runs.load(played)
    debates = held_by.debates.collect()
    assert (seen.state, seen.debates, seen.owed) == ("sealed", 20, 0)
    assert seen.complete == len(debates.filter(status="complete")) and 0 < seen.void < 20
    assert seen.splits == {"train": debates["topic_id"].n_unique()}
    assert {"rules", "rules@2"} < {*held_by.verdicts.collect()["judge"]}
    assert (seen.contestants, seen.judges) == (("shaky", "sure"), ("rules", "scripted")), "a trajectory's is no other"
    assert seen.size == sum(path.stat().st_size for path in played.iterdir())


def test_a_journal_and_its_tables_say_the_same(copy: Path) -> None:
    connection = sqlite3.connect(copy / "journal.db")
    connection.execute("UPDATE calls SET cost_usd = turn / 64.0")
    connection.commit()
    connection.close()
    runs.tables.seal(copy)
    sealed = entry(copy)
    assert sealed.cost_usd == pytest.approx(runs.load(copy).calls.collect()["cost_usd"].sum()) and sealed.cost_usd > 1
    (copy / "manifest.json").unlink()
    live = entry(copy)
    same = ("debates", "complete", "void", "splits", "contestants", "judges", "cost_usd")
    assert live.state == "stopped"
    assert [getattr(live, name) for name in same] == [getattr(sealed, name) for name in same]


def test_what_has_no_price_has_no_cost(copy: Path) -> None:
    """Sealed and live: null where a call was at an endpoint without a price, and has none of its own."""
    free = {"name": "free", "prompt_price": 0.0, "cached_price": None, "completion_price": 0.0}
    Spec.read(copy).model_copy(update={"endpoints": (free, free | {"name": "dear", "completion_price": 1.0})}).save(
        copy
    )

    def seen(*changes: str) -> list[float | None]:
        connection = sqlite3.connect(copy / "journal.db")
        for change in changes:
            connection.execute(f"UPDATE calls SET {change}")
        connection.commit()
        connection.close()
        runs.tables.seal(copy)
        costs = [entry(copy).cost_usd]
        assert ("  -  " in report(Settings(out=copy.parent)).splitlines()[1]) == (costs[0] is None)
        (copy / "manifest.json").unlink()
        return [*costs, entry(copy).cost_usd]

    assert seen() == [0, 0], "what is simulated costs nothing"
    assert seen("endpoint = 'dear'") == [0, 0]
    assert seen("endpoint = 'free' WHERE turn = 1") == [None, None]
    assert seen("cost_usd = 0.5 WHERE turn = 2") == [None, None]
    paid = seen("cost_usd = 0.25 WHERE turn = 1")
    assert paid[0] == paid[1] and paid[0] is not None and paid[0] > 1, "it was paid while there was a price"


def test_what_did_not_end_is_owed(copy: Path) -> None:
    before = runs.load(copy).debates.collect()
    ended = before.filter(before["match"] < 15)
    opened(copy)
    seen = entry(copy)
    assert (seen.state, seen.debates, seen.owed) == ("stopped", 20, 5), "two open, three never begun"
    assert (seen.complete, seen.void) == tuple(len(ended.filter(status=s)) for s in ("complete", "void"))


@pytest.mark.parametrize(
    "settings",
    [
        {"limit": 7},
        {"limit": 9000},
        {},
        {"matches": 5},
        {"matches": 4, "replicates": 3},
        {"replicates": 2, "limit": 11},
    ],
)
def test_a_schedule_is_as_long_as_it_will_be(settings: dict[str, int], played: Path) -> None:
    spec = Spec.read(played)
    contestants = tuple({"name": name} for name in "abc")
    plain = {"matches": None, "replicates": 1, "contestants": contestants, "settings": {"limit": settings.get("limit")}}
    decided = {name: value for name, value in settings.items() if name != "limit"}
    spec = spec.model_copy(update=plain | decided)
    assert counted(spec) == len(scheduled(spec))


def test_whoever_holds_a_run_is_seen_and_keeps_it(copy: Path) -> None:
    assert not held(copy)
    with Run.resume(copy):
        for _ in range(3):
            assert held(copy) and entry(copy).state == "going"
        with pytest.raises(InputError, match="in use by another process"):
            Run.resume(copy)
    assert entry(copy).state == "sealed"
    for _ in range(5):  # asking leaves nothing behind that would keep anybody out
        assert not held(copy)
        Run.resume(copy).close()


def test_asking_writes_nothing(played: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(played, tmp_path / "bare"))
    (copy / ".lock").unlink()
    before = sorted(path.name for path in copy.iterdir())
    assert entry(copy).state == "sealed"
    assert sorted(path.name for path in copy.iterdir()) == before


def test_a_run_that_another_process_plays(tmp_path: Path) -> None:
    words = ["-m", "arena.run", "--topics", "train", "--limit", "3000", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen = list(_watched(tmp_path, process))
        assert [one.state for one in seen] == ["going"] * 2
        assert seen[0].complete < seen[1].complete <= 3000 and {one.debates for one in seen} == {3000}
    finally:
        process.kill()
        process.wait()
    (folder,) = found(tmp_path)
    after = entry(folder)
    assert after.state == "stopped" and after.owed > 0 and after.complete >= seen[1].complete


def _watched(out: Path, process: "subprocess.Popen[bytes]") -> Iterator[Entry]:
    """Twice what is seen of the run: once some debates are complete, and once there are more."""
    more_than = 0
    for _ in range(1200):
        assert process.poll() is None, "it ended before it was seen"
        for folder in found(out):
            if (seen := entry(folder)).complete > more_than:
                yield seen
                if more_than:
                    return
                more_than = seen.complete
        time.sleep(0.05)
    raise AssertionError("no debate within a minute")


def test_what_cannot_be_read_is_told_and_hides_nothing(played: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    copies = {name: Path(shutil.copytree(played, out / name)) for name in ("1-good", *BROKEN)}
    (copies["2-spec"] / "spec.json").write_text("{")
    (copies["9-deep"] / "spec.json").write_text("[" * 200_000)
    (copies["3-manifest"] / "manifest.json").write_text("[]")
    (copies["4-table"] / "debates.parquet").unlink()
    table = copies["5-bytes"] / "debates.parquet"
    table.write_bytes(bytes(table.stat().st_size))
    for name in ("6-journal", "7-no-journal", "8-newer"):
        (copies[name] / "manifest.json").unlink()
    (copies["6-journal"] / "journal.db").write_bytes(b"no database at all" * 400)
    (copies["7-no-journal"] / "journal.db").unlink()
    connection = sqlite3.connect(copies["8-newer"] / "journal.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    (out / "no-run").mkdir()
    lines = report(Settings(out=out)).splitlines()
    assert lines[1].startswith("1-good") and lines[-1].startswith("next:  ")
    told = {line.split(": ")[1]: line.split(": ", 2)[2] for line in lines if line.startswith("cannot be read: ")}
    assert list(told) == sorted(BROKEN, reverse=True)
    assert all(BROKEN[name] in why for name, why in told.items()), told


BROKEN = {
    "2-spec": "cannot be read as the spec",
    "3-manifest": "cannot be read",
    "4-table": "No such file",
    "5-bytes": "parquet",
    "6-journal": "cannot be read as a journal",
    "7-no-journal": "holds no journal.db",
    "8-newer": "newer than",
    "9-deep": "cannot be read as the spec of a run: RecursionError",
}


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_told(copy: Path) -> None:
    copy.chmod(0)
    try:
        (seen,) = map(look, found(copy.parent))
        assert isinstance(seen, Unread) and seen.why == "Permission denied"
    finally:
        copy.chmod(0o755)


def test_names_cannot_steer_a_terminal(copy: Path) -> None:
    spec = Spec.read(copy)
    judges = ({"name": HOSTILE, "kind": "rules"},)
    contestants = tuple(entry | {"name": HOSTILE + entry["name"]} for entry in spec.contestants)
    spec.model_copy(update={"contestants": contestants, "judges": judges}).save(copy)
    out = copy.parent
    copy.rename(out / f"1 {IN_A_PATH}")
    (Path(shutil.copytree(out / f"1 {IN_A_PATH}", out / f"0 {IN_A_PATH}")) / "spec.json").write_text("{")
    said = report(Settings(out=out))
    assert len(said.splitlines()) == 4 and all(line.isprintable() for line in said.splitlines())
    assert said.count("red") >= 4


def test_the_newest_is_first_and_old_ones_are_left_out(played: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = [f"2026010{day}-120000-000000" for day in (3, 1, 4, 2)]
    for name in names:
        shutil.copytree(played, out / name)
    shutil.copytree(played, out / ".hidden")
    assert [folder.name for folder in found(out)] == sorted(names, reverse=True)
    lines = report(Settings(out=out, limit=2)).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == sorted(names, reverse=True)[:2]
    assert lines[3] == "note: 2 older runs not shown; leave out --limit to see all"
    assert lines[4] == f"next:  python -m runs.show {out / sorted(names)[-1]}"


def test_calibrations_are_listed_where_they_are_asked_for(copy: Path) -> None:
    out = copy.parent
    aside = Path(shutil.copytree(copy, out / "calibrations" / "20990101-000000-000000"))
    assert found(out) == [copy] and found(out, aside=True) == [aside, copy]
    lines = report(Settings(out=out, all=True)).splitlines()
    assert lines[1].startswith("calibrations/20990101-000000-000000 ")
    opened(aside)
    assert (entry(aside).debates, entry(aside).owed) == (17, 2), "nobody scheduled debates that were made"


def test_a_run_of_test_topics_is_a_look_at_them(play: Play) -> None:
    for topics, looks in (("train", 0), ("test", 1), ("test", 2)):
        folder = play(topics=topics, limit=4).folder
        said = report(Settings(out=folder.parent))
        assert f"{topics} {entry(folder).splits[topics]}" in said
        assert (f"note: {looks} of these runs had test topics" in said) == (looks > 0)


def test_a_narrow_terminal_has_fewer_columns(played: Path, tmp_path: Path) -> None:
    whole = report(Settings(out=played.parent)).splitlines()[:2]
    assert whole[0].split() == [*TEXTS, "debates", "complete", "void", "owed", "cost", "size"]
    before = len(whole[0].split())
    least = len(f"{played.name}  stopped  complete  owed")
    for width in range(len(whole[1]), least - 1, -1):
        lines = report(Settings(out=played.parent), width).splitlines()[:2]
        assert max(map(len, lines)) <= width
        shown = lines[0].split()
        assert {"run", "state", "complete", "owed"} <= {*shown} and len(shown) <= before
        before = len(shown)
    assert before == 4


def test_no_run_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (tmp_path, tmp_path / "none"):
        assert main(["--out", str(out)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line == f"no runs under {str(out)!r} yet; play one: python -m arena.run --topics train"


def test_what_is_next_can_be_typed(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copy.parent.parent / "home"
    (home / "runs").mkdir(parents=True)
    copy.parent.rename(home / "runs" / "out")
    monkeypatch.chdir(home)
    for arguments in ([], ["--out", str(home / "runs" / "out")]):
        assert main(arguments) == 0
        words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next:"))
        assert words[:3] == ["python", "-m", "runs.show"] and show(words[3:]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "--limit '0'"),
        (["--limit", "some"], "--limit 'some'"),
        (["--al"], "unrecognized arguments: --al"),
        (["newest"], "unrecognized arguments: newest"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *arguments, "--out", tmp_path, command=main)


def test_times_are_those_of_the_seal(played: Path) -> None:
    sealed_at = json.loads((played / "manifest.json").read_text())["sealed_at"]
    assert abs((entry(played).changed_at - datetime.fromisoformat(sealed_at)).total_seconds()) < 2
