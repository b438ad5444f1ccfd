"""What a run leaves on disk: sealed, still going, resumed, fed back, shown; and when it cannot be written."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from conftest import Play, assert_same_tables, roster, timeless

import runs
from arena.run import Settings, main, run
from runs import Run
from runs.files import sha256_of
from runs.journal import Journal, StorageError, reader
from runs.records import Failure, Order, Vote
from runs.schema import TABLES, VERSION
from topics.errors import InputError


def test_a_live_run_reads_like_a_sealed_one(play: Play) -> None:
    result = play(limit=8)
    sealed = timeless(result.folder)
    (result.folder / "manifest.json").unlink()
    assert not runs.load(result.folder).sealed
    live = timeless(result.folder)
    assert all(live[name].equals(sealed[name]) for name in TABLES)
    live_turns = runs.load(result.folder).turns
    assert live_turns.filter(pl.col("side") == "for").select("words").head(3).collect().shape == (3, 1)


def test_the_manifest_tells_what_was_sealed(play: Play) -> None:
    folder = play(limit=4).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["generation"] == 1 and manifest["tables"]["turns"]["rows"] == 40
    runs.tables.verify(folder)
    (folder / "turns.parquet").write_bytes((folder / "votes.parquet").read_bytes())
    with pytest.raises(InputError, match="turns differ from what was sealed"):
        runs.tables.verify(folder)


def test_what_was_resolved_can_be_fed_back(play: Play) -> None:
    first = play(limit=6, seed=5, contestants=["granite", "tinder"], judges=["scripted"])
    spec = first.folder / "spec.json"
    out = first.folder.parent
    assert main(["--config", str(spec), "--out", str(out)]) == 0
    second = runs.find("newest", out=out, sealed=True)
    other = next(f for f in runs.run.folders(out) if f != first.folder)
    assert second == other
    assert_same_tables(first.folder, other)


def test_a_journal_that_cannot_be_written_stops_the_run(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Journal._commit
    commits = 0

    def full_disk(self: Journal) -> None:
        nonlocal commits
        commits += 1
        if commits == 5:
            self._waiting[Failure].append(("too", "few", "columns"))  # SQLite refuses the whole group
        commit(self)

    monkeypatch.setattr(Journal, "_commit", full_disk)
    with pytest.raises(StorageError, match="could not be written"):
        play(limit=12, concurrency=2)


def test_a_group_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    import topics

    Journal.create(tmp_path, topics.load("test")[:1])
    journal = Journal(tmp_path)
    vote = Vote(debate_id="d", judge="j", order="for_first", sample=0, winner="tie")

    async def write() -> None:
        first = asyncio.gather(journal.write(vote), journal.write(vote), return_exceptions=True)
        assert [type(error) for error in await first] == [StorageError, StorageError]  # the key is unique
        assert journal.votes("d", "j") == []
        await journal.write(vote)
        assert [v.winner for v in journal.votes("d", "j")] == ["tie"]

    asyncio.run(write())
    journal.close()


def test_resume_adds_judges_and_leaves_turns(play: Play) -> None:
    first = play(limit=5)
    (first.folder / "manifest.json").unlink()
    again = run(Settings(resume=first.folder.name, out=first.folder.parent, judges=["rules", "scripted"]))
    assert again.progress.turns == 0 and again.progress.verdicts == 5
    judges = runs.load(first.folder).verdicts.collect()["judge"]
    assert judges.to_list() == ["rules", "scripted"] * 5


def test_tables_that_cannot_be_written_are_one_line_and_can_be_written_later(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = play(limit=3).folder
    (folder / "manifest.json").unlink()
    (folder / "turns.parquet").unlink()
    (folder / "turns.parquet").mkdir()  # in the way
    assert main(["--resume", str(folder)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: the tables could not be written") and f"--resume {folder}" in line
    assert not runs.load(folder).sealed
    (folder / "turns.parquet").rmdir()
    assert main(["--resume", str(folder)]) == 0
    assert runs.load(folder).turns.collect().height == 30


def unfinished(play: Play, **settings: object) -> Path:
    """A run that was killed while sealing."""
    folder = play(**settings).folder
    (folder / "manifest.json").unlink()
    return folder


def test_resume_keeps_the_stored_roster_and_judges(play: Play, tmp_path: Path) -> None:
    judges = '[[judges]]\nname = "s"\nkind = "scripted"\nsamples = 3\norders = ["for_first", "against_first"]\n'
    entries = roster(tmp_path / "r.toml", "ash", "birch", judges=judges)
    folder = unfinished(play, roster=entries, judges=["s"], contestants=["ash", "birch"], limit=4)
    entries.unlink()
    out = str(folder.parent)
    assert main(["--resume", str(folder), "--out", out, "--contestants", "ash,birch", "--judges", "s,rules"]) == 0
    assert set(runs.load(folder).verdicts.collect()["judge"]) == {"s", "rules"}
    assert json.loads((folder / "spec.json").read_text())["settings"]["judges"] == ["s", "rules"]


def test_another_judge_under_the_same_name_is_refused(play: Play, tmp_path: Path) -> None:
    judges = '[[judges]]\nname = "s"\nkind = "scripted"\nsamples = 3\n'
    entries = roster(tmp_path / "r.toml", "ash", "birch", judges=judges)
    folder = unfinished(play, roster=entries, judges=["s"], limit=4)
    roster(tmp_path / "r.toml", "ash", "birch", judges=judges.replace("3", "1"))
    with pytest.raises(InputError, match="another judge 's', with another samples"):
        run(Settings(resume=str(folder), roster=entries, judges=["s"]))


def cut_short(folder: Path, where: str) -> None:
    """Take a finished run back to a moment when the debates of `where` had four turns."""
    connection = sqlite3.connect(folder / "journal.db")
    late = f"SELECT debate_id FROM debates WHERE {where}"
    connection.execute(f"UPDATE debates SET status = 'open', ended_at = NULL WHERE debate_id IN ({late})")
    connection.execute(f"DELETE FROM turns WHERE turn > 4 AND debate_id IN ({late})")
    connection.execute(f"DELETE FROM calls WHERE turn > 4 AND debate_id IN ({late})")
    for table in ("votes", "verdicts"):
        connection.execute(f"DELETE FROM {table} WHERE debate_id IN ({late})")
    connection.commit()
    connection.close()


def test_a_smaller_limit_still_finishes_what_was_begun(play: Play) -> None:
    folder = unfinished(play, limit=12)
    cut_short(folder, "match >= 9")
    run(Settings(resume=str(folder), limit=3))
    assert runs.load(folder).debates.collect()["status"].to_list() == ["complete"] * 12
    assert_same_tables(folder, play(limit=12).folder)


def test_what_was_sealed_is_what_is_shown(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    from runs.show import main as show

    folder = play(limit=3).folder
    assert show([str(folder)]) == 0
    verdicts = (folder / "verdicts.parquet").read_bytes()
    (folder / "verdicts.parquet").write_bytes(verdicts[:-9] + bytes(9))
    assert show([str(folder)]) == 2
    assert "verdicts differ from what was sealed" in capsys.readouterr().err
    (folder / "verdicts.parquet").unlink()
    assert show([str(folder)]) == 2
    (folder / "verdicts.parquet").write_bytes(verdicts)
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace(f'"version": {VERSION}', '"version": 99'))
    assert show([str(folder)]) == 2
    assert f"has schema 99, newer than the {VERSION} known" in capsys.readouterr().err
    manifest.write_text("")
    assert show([str(folder)]) == 2
    manifest.write_text(text)
    assert show([str(folder)]) == 0


def test_what_is_printed_cannot_steer_a_terminal(play: Play, tmp_path: Path) -> None:
    from runs.show import transcript

    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"motion": "A \x1b[31mred\x1b[0m motion is better than a plain one."}))
    folder = play(topics=str(path), limit=1).folder
    debate = runs.load(folder).debates.collect()["debate_id"][0]
    text = transcript(runs.load(folder), debate)
    assert all(c.isprintable() or c == "\n" for c in text)


def test_output_that_nobody_reads_is_no_error(play: Play) -> None:
    import os
    import subprocess
    import sys

    folder = play(limit=2).folder
    command = f"{sys.executable} -m runs.show {folder} | true; exit ${{PIPESTATUS[0]}}"
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=plain)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_spec_that_means_something_else_by_now_is_refused(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "ash", "birch")
    first = play(roster=entries, limit=3)
    arguments = ["--config", str(first.folder / "spec.json"), "--out", str(tmp_path / "again")]
    assert main(arguments) == 0
    roster(tmp_path / "r.toml", "ash, strength = 0.9", "birch")
    assert main(arguments) == 2
    assert main([*arguments, "--roster", str(roster(tmp_path / "s.toml", "ash", "birch"))]) == 0


@pytest.mark.parametrize("held", [0, 256])
def test_nothing_private_comes_back_from_the_journal(play: Play, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Debates that wait for a judge on disk, and debates that are resumed, are read again without reasoning."""
    from arena.simulated import Simulated
    from judges.scripted import Scripted
    from runs.records import Debate, Slot, Speech

    seen = []
    speak, vote = Simulated.speak, Scripted.vote

    async def listen(self: Simulated, debate: Debate, slot: Slot) -> Speech:
        seen.extend(turn.reasoning for turn in debate.turns)
        return await speak(self, debate, slot)

    async def judge(self: Scripted, debate: Debate, order: Order, sample: int) -> Vote:
        seen.extend(turn.reasoning for turn in debate.turns)
        return await vote(self, debate, order, sample)

    monkeypatch.setattr("arena.judging.HELD", held)
    monkeypatch.setattr(Simulated, "speak", listen)
    monkeypatch.setattr(Scripted, "vote", judge)
    folder = unfinished(play, limit=12, judges=["scripted"])
    cut_short(folder, "match >= 6")
    run(Settings(resume=str(folder), judges=["scripted"]))
    assert len(seen) > 12 * 50 and set(seen) == {None}
    assert runs.load(folder).turns.filter(pl.col("reasoning").is_not_null()).collect().height > 5


def test_void_debates_are_not_judged_on_resume(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "sure, strength = 0.5", "shaky, strength = 0.5, fails = 0.05")
    folder = unfinished(play, roster=entries, limit=20)
    run(Settings(resume=str(folder), judges=["rules", "scripted"]))
    tables = runs.load(folder)
    void = tables.debates.filter(status="void").collect()["debate_id"]
    assert 0 < len(void) < 20
    assert set(tables.verdicts.collect()["debate_id"]).isdisjoint(void)


def test_a_turn_survives_a_power_cut(tmp_path: Path) -> None:
    Journal.create(tmp_path, [])
    journal = Journal(tmp_path)
    (synchronous,) = journal._connection.execute("PRAGMA synchronous").fetchone()
    (mode,) = journal._connection.execute("PRAGMA journal_mode").fetchone()
    assert (synchronous, mode) == (2, "wal")  # FULL: every commit is on the disk, not only in its cache
    journal.close()


def test_the_newest_run_is_the_last_one_begun(play: Play) -> None:
    for _ in range(5):
        folder = play(limit=1).folder
        assert runs.find("newest", out=folder.parent) == folder


def of_the_first_schema(folder: Path) -> None:
    """Make a sealed run as the first version of this code would have left it."""
    connection = sqlite3.connect(folder / "journal.db")
    for table, column in (("votes", "identity"), ("verdicts", "related")):
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        (pl.read_parquet(folder / f"{table}.parquet").drop(column)).write_parquet(folder / f"{table}.parquet")
    connection.execute("ALTER TABLE calls DROP COLUMN unknown_usd")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    manifest = json.loads((folder / "manifest.json").read_text())
    for table in ("votes", "verdicts"):
        path = folder / f"{table}.parquet"
        manifest["tables"][table] |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 1}))


def test_a_run_of_the_first_schema_is_read_and_renewed(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    from arena.judge import Settings, judge

    folder = play(limit=3).folder
    of_the_first_schema(folder)
    old = runs.load(folder)
    assert old.votes.collect()["identity"].to_list() == [None] * 3 and old.verdicts.collect()["votes"].sum() == 3
    assert judge(Settings(from_run=str(folder), judges=["scripted"])).finished
    new = runs.load(folder).votes.collect()
    assert new.filter(judge="rules")["identity"].null_count() == 3
    assert new.filter(judge="scripted")["identity"].n_unique() == 3


def test_who_reads_an_old_journal_reads_on_while_it_is_renewed(play: Play) -> None:
    """By the same connection, with the same columns in the same places, and by row ids where it goes by these."""
    folder = play(limit=3).folder
    before = timeless(folder)
    of_the_first_schema(folder)
    with closing(reader(folder)) as old:
        for renewed in (False, True):
            for name in ("votes", "verdicts", "calls"):
                cursor = old.execute(f"SELECT * FROM {name}")
                assert [column[0] for column in cursor.description] == ["rowid", *TABLES[name].columns]
                ids = old.execute(f"SELECT rowid FROM {name} ORDER BY rowid").fetchall()
                assert len(ids) == len(set(ids)) == before[name].height and None not in ids[0]
            if not renewed:
                with Run.resume(folder):
                    pass
