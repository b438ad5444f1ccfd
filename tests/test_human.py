"""A person's votes through a CSV: there and back, blind, checked whole, and harmless to open."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from conftest import Play, refused, roster
from hypothesis import given
from hypothesis import strategies as st

import runs
from arena.run import Result
from judges import human
from judges.human import COLUMNS, harmless, main, read, write
from runs import Run, tables
from runs.ballots import draw, name_of
from runs.records import Match, Vote
from runs.transcript import NAMES
from runs.verdicts import from_votes

Row = dict[str, str]


def rows_of(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def save(path: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def ballots(folder: Path, path: Path, person: str = "ann", **options: int) -> list[Row]:
    with Run.resume(folder) as held:
        write(held, person, path, **options)
    return rows_of(path)


def cast(folder: Path, path: Path, person: str = "ann") -> human.Count:
    with Run.resume(folder) as held:
        return read(held, person, path)


def of_ann(folder: Path) -> dict[str, tuple[str, str]]:
    """What `human:ann` said, and what her verdict is, by debate."""
    found = runs.load(folder)
    both = found.votes.join(found.verdicts, on=["debate_id", "judge"]).filter(judge="human:ann")
    return {row[0]: row[1:] for row in both.select("debate_id", "winner", "winner_right").collect().rows()}


def generation(folder: Path) -> int:
    return int(json.loads((folder / tables.MANIFEST).read_text())["generation"])


@pytest.fixture
def played(play: Play) -> Path:
    """A sealed run of six debates on three topics."""
    return play(limit=6).folder


def test_there_and_back(played: Path, tmp_path: Path) -> None:
    rows = ballots(played, tmp_path / "ballots.csv")
    assert len(rows) == 6 and all(row["winner"] == row["confidence"] == row["reason"] == "" for row in rows)
    meant = dict(zip((row["ballot"] for row in rows), ("for", "against", "tie", "abstain", "for"), strict=False))
    for row, winner in zip(rows, meant.values(), strict=False):
        row["winner"] = row.get(winner, winner)  # the columns `for` and `against` hold the names
    rows[0] |= {
        "winner": f" {rows[0]['winner'].upper()} ",
        "confidence": "85",
        "reason": "clear,\nand \x1b[31mcalm; why",
    }
    counted = cast(played, save(tmp_path / "ballots.csv", rows))
    assert (counted.stored, counted.already, counted.empty) == (5, 0, 1)
    assert of_ann(played) == {ballot: (winner, winner) for ballot, winner in meant.items()}
    tables.verify(played)
    assert generation(played) == 2
    vote = runs.load(played).votes.filter(judge="human:ann", debate_id=rows[0]["ballot"]).collect().row(0, named=True)
    assert (vote["order"], vote["sample"], vote["confidence"]) == ("for_first", 0, 0.85)
    assert vote["rationale"] == "clear, and [31mcalm; why" and vote["identity"]


def test_the_verdict_is_that_of_the_same_function(played: Path, tmp_path: Path) -> None:
    rows = [row | {"winner": row["against"]} for row in ballots(played, tmp_path / "b.csv")]
    cast(played, save(tmp_path / "b.csv", rows))
    for row in runs.load(played).verdicts.filter(judge="human:ann").collect().iter_rows(named=True):
        vote = Vote(debate_id=row["debate_id"], judge="human:ann", order="for_first", sample=0, winner="against")
        expected = from_votes(row["debate_id"], "human:ann", [vote])
        assert row == {name: getattr(expected, name) for name in row}


def test_a_ballot_is_blind_and_shows_what_was_said(played: Path, tmp_path: Path) -> None:
    rows = ballots(played, tmp_path / "b.csv")
    debates = {row["debate_id"]: row for row in runs.load(played).debates.collect().iter_rows(named=True)}
    contestants = {row[f"{side}_contestant"] for row in debates.values() for side in ("for", "against")}
    text = (tmp_path / "b.csv").read_text(encoding="utf-8-sig").lower()
    assert len(contestants) > 2 and not any(re.search(rf"\b{name}\b", text) for name in contestants)
    turns = runs.load(played).turns.collect()
    for row in rows:
        assert {row["for"], row["against"]} < set(NAMES)
        for turn in turns.filter(debate_id=row["ballot"]).iter_rows(named=True):
            assert f"{row[turn['side']]} (turn {turn['turn']}):\n{turn['text']}" in row["transcript"]


# What is wrong with a file


def spoiled(rows: list[Row], **changes: str) -> list[Row]:
    return [rows[0] | {"winner": "tie"}, rows[1] | {"winner": "tie"} | changes, *rows[2:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"winner": "Bob"}, r"row 3: winner 'Bob' of '\w+'; expected \w+, \w+, tie or abstain"),
        ({"winner": "for"}, "row 3: winner 'for'"),
        ({"winner": "invalid"}, "row 3: winner 'invalid'"),
        ({"ballot": "nowhere"}, "row 3: ballot 'nowhere' is of no complete debate of this run"),
        ({"ballot": ""}, "row 3: ballot ''"),
        ({"digest": "0"}, r"row 3: ballot '\w+' is of another run"),
        ({"confidence": "101"}, "row 3: confidence '101': Input should be less than or equal to 100"),
        ({"confidence": "-1"}, "row 3: confidence '-1'"),
        ({"confidence": "nan"}, "row 3: confidence 'nan'"),
        ({"confidence": "high"}, "row 3: confidence 'high': Input should be a valid number"),
        ({"reason": "x" * 5_001}, r"row 3: reason 'x+…: String should have at most 5000"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_stored(
    changes: Row, message: str, played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = spoiled(ballots(played, tmp_path / "b.csv"), **changes)
    save(tmp_path / "b.csv", rows)
    line = refused(capsys, "--from-run", played, "--name", "ann", "--read", tmp_path / "b.csv", command=main)
    assert re.search(message, line) and "row 2" not in line
    assert of_ann(played) == {} and generation(played) == 1


def test_every_wrong_row_is_counted(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row | {"winner": "nobody"} for row in ballots(played, tmp_path / "b.csv")]
    save(tmp_path / "b.csv", rows)
    line = refused(capsys, "--from-run", played, "--name", "ann", "--read", tmp_path / "b.csv", command=main)
    assert all(f"row {at}: " in line for at in range(2, 7)) and line.endswith("and 1 more")


def test_a_ballot_that_stands_twice_is_refused(played: Path, tmp_path: Path) -> None:
    rows = ballots(played, tmp_path / "b.csv")
    save(tmp_path / "b.csv", [rows[0] | {"winner": "tie"}, rows[0]])
    with pytest.raises(human.InputError, match=r"row 3: ballot '.*' stands in this file twice"):
        cast(played, tmp_path / "b.csv")


def test_a_ballot_of_another_run_is_refused_though_its_debate_has_the_same_id(play: Play, tmp_path: Path) -> None:
    files = [roster(tmp_path / f"{dial}.toml", f"ash, strength = {dial}", "birch") for dial in (0.3, 0.9)]
    one, other = (play(limit=2, roster=file).folder for file in files)
    rows = [row | {"winner": "tie"} for row in ballots(one, tmp_path / "b.csv")]
    ids = [set(runs.load(folder).debates.collect()["debate_id"]) for folder in (one, other)]
    assert ids[0] == ids[1]
    with pytest.raises(human.InputError, match="is of another run"):
        cast(other, save(tmp_path / "b.csv", rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column ballot, digest, winner"),
        (b"ballot,winner\r\nx,tie\r\n", "has no column digest"),
        ("ballot,digest,winner\nx,y,Zoë".encode("latin-1"), "is not UTF-8; save it"),
        (b"\x00\x01\x02", "has no column|is no CSV"),
    ],
)
def test_what_is_no_such_file_is_refused(
    content: bytes, message: str, played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.csv").write_bytes(content)
    line = refused(capsys, "--from-run", played, "--name", "ann", "--read", tmp_path / "b.csv", command=main)
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write", "b.csv"], "--name '' is no person's name"),
        (["--name", "a b", "--write", "b.csv"], "--name 'a b' is no person's name; expected up to 50 letters"),
        (["--name", "ann"], "expected either --write FILE"),
        (["--name", "ann", "--write", "b.csv", "--read", "b.csv"], "expected either --write FILE"),
        (["--name", "ann", "--read", "missing.csv"], "cannot read 'missing.csv'"),
        (["--name", "ann", "--write", "no/such/b.csv"], "cannot write"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    message: str,
    played: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "--from-run", played, *arguments, command=main)


def test_ballots_that_may_be_filled_in_are_not_overwritten(
    played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ballots(played, tmp_path / "b.csv")
    before = (tmp_path / "b.csv").read_bytes()
    line = refused(capsys, "--from-run", played, "--name", "bob", "--write", tmp_path / "b.csv", command=main)
    assert "exists, and may hold votes" in line and (tmp_path / "b.csv").read_bytes() == before


def test_a_run_that_is_in_use_is_left_alone(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ballots(played, tmp_path / "b.csv")
    with Run.resume(played):
        line = refused(capsys, "--from-run", played, "--name", "ann", "--read", tmp_path / "b.csv", command=main)
    assert "in use by another process" in line


# Again, otherwise, later


def test_the_same_file_twice_changes_nothing(played: Path, tmp_path: Path) -> None:
    rows = [row | {"winner": row["for"], "confidence": "70"} for row in ballots(played, tmp_path / "b.csv")]
    cast(played, save(tmp_path / "b.csv", rows))
    before = {path: path.read_bytes() for path in played.glob("*.parquet")} | {"generation": generation(played)}
    counted = cast(played, tmp_path / "b.csv")
    assert (counted.stored, counted.already, counted.empty) == (0, 6, 0)
    assert before == {path: path.read_bytes() for path in played.glob("*.parquet")} | {"generation": generation(played)}


@pytest.mark.parametrize("change", [{"winner": "tie"}, {"confidence": "71"}, {"reason": "on reflection"}])
def test_a_changed_mind_is_refused(change: Row, played: Path, tmp_path: Path) -> None:
    rows = [row | {"winner": row["for"], "confidence": "70"} for row in ballots(played, tmp_path / "b.csv")]
    cast(played, save(tmp_path / "b.csv", rows))
    before = of_ann(played)
    rows[2] |= change
    with pytest.raises(human.InputError, match=r"row 4: ann has voted on .* otherwise before"):
        cast(played, save(tmp_path / "b.csv", rows))
    assert of_ann(played) == before


def test_what_is_voted_on_is_not_drawn_again(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [row | {"winner": "tie"} for row in ballots(played, tmp_path / "1.csv", limit=4)]
    cast(played, save(tmp_path / "1.csv", first))
    rest = [row | {"winner": "tie"} for row in ballots(played, tmp_path / "2.csv")]
    assert (len(first), len(rest)) == (4, 2) and not {r["ballot"] for r in first} & {r["ballot"] for r in rest}
    cast(played, save(tmp_path / "2.csv", rest))
    line = refused(capsys, "--from-run", played, "--name", "ann", "--write", tmp_path / "3.csv", command=main)
    assert "no complete debate that 'ann' has not voted on" in line
    assert len(ballots(played, tmp_path / "bob.csv", person="bob")) == 6


def test_a_run_that_is_not_finished_takes_votes_and_stays_unfinished(played: Path, tmp_path: Path) -> None:
    (played / tables.MANIFEST).unlink()
    rows = [row | {"winner": "tie"} for row in ballots(played, tmp_path / "b.csv", limit=3)]
    assert cast(played, save(tmp_path / "b.csv", rows)).stored == 3
    assert not tables.is_sealed(played) and len(of_ann(played)) == 3


def test_a_sitting_that_ended_before_sealing_is_made_good(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row | {"winner": "tie"} for row in ballots(played, tmp_path / "b.csv")]
    save(tmp_path / "b.csv", rows)

    def seal(self: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Run, "seal", seal)
        cast(played, tmp_path / "b.csv")
    assert of_ann(played) == {} and generation(played) == 1
    assert cast(played, tmp_path / "b.csv").already == 6
    assert len(of_ann(played)) == 6 and generation(played) == 2


def test_void_debates_have_no_ballot(play: Play, tmp_path: Path) -> None:
    file = roster(tmp_path / "r.toml", "ash, strength = 0.5, fails = 0.05", "birch")
    folder = play(limit=20, roster=file).folder
    status = dict(runs.load(folder).debates.select("debate_id", "status").collect().rows())
    assert set(status.values()) == {"complete", "void"}
    rows = ballots(folder, tmp_path / "b.csv")
    assert {row["ballot"] for row in rows} == {name for name, how in status.items() if how == "complete"}
    void = next(name for name, how in status.items() if how == "void")
    with pytest.raises(human.InputError, match="is of no complete debate"):
        cast(folder, save(tmp_path / "b.csv", [rows[0] | {"ballot": void, "winner": "tie"}]))


JUDGES = """
[[judges]]
name = "one"
kind = "scripted"
winners = ["for", "against"]

[[judges]]
name = "two"
kind = "scripted"
winners = ["against"]

[[panels]]
name = "bench"
members = ["one", "two", "human:ann"]
quorum = 2
"""


def test_a_panel_takes_in_the_vote_of_a_person_who_sits_on_it(play: Play, tmp_path: Path) -> None:
    folder = play(limit=4, roster=roster(tmp_path / "r.toml", "ash", "birch", judges=JUDGES), judges=["bench"]).folder

    def of_bench() -> dict[str, tuple[str, int]]:
        found = runs.load(folder).verdicts.filter(judge="bench").collect()
        return {row["debate_id"]: (row["winner"], row["votes"]) for row in found.iter_rows(named=True)}

    assert Counter(of_bench().values()) == {("tie", 2): 2, ("against", 2): 2}
    rows = ballots(folder, tmp_path / "b.csv")
    cast(folder, save(tmp_path / "b.csv", [row | {"winner": row["for"]} for row in rows]))
    assert Counter(of_bench().values()) == {("for", 3): 2, ("against", 3): 2}


# The draw


def matches(topics: int, each: int) -> list[Match]:
    return [
        Match(
            debate_id=f"{topic}-{i}",
            match=topic * each + i,
            topic_id=f"t{topic}",
            for_contestant="a",
            against_contestant="b",
            opener="for",
            replicate=i,
            seed=0,
        )
        for topic in range(topics)
        for i in range(each)
    ]


def test_the_draw_goes_round_the_topics() -> None:
    drawn = draw(matches(7, 5), seed=3)
    assert len({match.debate_id for match in drawn}) == 35
    for first in range(0, 35, 7):
        assert len({match.topic_id for match in drawn[first : first + 7]}) == 7


def test_the_draw_is_the_seeds() -> None:
    there = matches(7, 5)
    assert draw(there, seed=3) == draw(reversed(there), seed=3)
    assert len({tuple(match.debate_id for match in draw(there, seed)) for seed in range(5)}) == 5
    first = Counter(draw(there, seed)[0].topic_id for seed in range(70))
    assert len(first) == 7


# Spreadsheets


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+49", "'+49"),
        ("-5", "'-5"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  \t=1", "  \t'=1"),
        ('said;=1;"=2', "said;'=1;\"'=2"),
        ("first\n\n- second", "first\n\n'- second"),
        ("＝1", "'＝1"),
        ("4711", "'4711"),
        ("1234e5678", "'1234e5678"),
        ("a = b - c, 'quoted' @home", "a = b - c, 'quoted' @home"),
        ("", ""),
    ],
)
def test_a_cell_is_text_to_a_spreadsheet(cell: str, expected: str) -> None:
    assert harmless(cell) == expected


@given(st.text(alphabet=st.sampled_from("=+-@a;\t\n\r \",'0"), max_size=12))
def test_nothing_begins_like_a_formula_however_cells_are_parted(text: str) -> None:
    for part in re.split(r"[;\t\r\n]", harmless(text)):
        assert part.lstrip(' "')[:1] not in tuple("=+-@")


@given(st.text(alphabet=st.sampled_from("0123456789abcdef"), min_size=1, max_size=16))
def test_ids_survive_a_spreadsheet_that_reads_numbers(debate_id: str) -> None:
    shown = harmless(debate_id)
    with pytest.raises(ValueError, match="could not convert"):
        float(shown)
    assert human._plain(f" {shown} ") == debate_id


@pytest.fixture
def bold(play: Play, tmp_path: Path) -> Result:
    """A run whose motion is a formula."""
    (tmp_path / "topics.csv").write_text('motion\n"=HYPERLINK(""http://127.0.0.1"") should be banned."\n')
    return play(limit=2, topics=str(tmp_path / "topics.csv"))


def test_a_formula_for_a_motion_comes_back_as_a_vote(bold: Result, tmp_path: Path) -> None:
    rows = ballots(bold.folder, tmp_path / "b.csv")
    assert all(row["motion"].startswith("'=HYPERLINK") for row in rows)
    assert not re.search(r"""(^|[,;\n])"?[=+\-@]""", (tmp_path / "b.csv").read_text(encoding="utf-8-sig"))
    assert cast(bold.folder, save(tmp_path / "b.csv", [row | {"winner": "tie"} for row in rows])).stored == 2


Save = Callable[[Path, list[Row]], None]


def with_semicolons(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def without_the_text(path: Path, rows: list[Row]) -> None:
    save(path, [*rows, dict.fromkeys(COLUMNS, "")], columns=("winner", "digest", "ballot"))


@pytest.mark.parametrize("save_as", [with_semicolons, without_the_text])
def test_files_as_spreadsheets_save_them(save_as: Save, played: Path, tmp_path: Path) -> None:
    save_as(tmp_path / "b.csv", [row | {"winner": "tie"} for row in ballots(played, tmp_path / "b.csv")])
    assert cast(played, tmp_path / "b.csv").stored == 6


# The command


def test_the_command_says_what_to_type_next(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.csv"
    assert main(["--from-run", "--out", str(played.parent), "--name", "ann", "--write", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("next:  python -m judges.human ")
    save(path, [row | {"winner": "abstain"} for row in rows_of(path)])
    assert main(said[-1].split()[4:]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "6 votes of ann; 0 were stored before, 0 ballots have no winner" in said[0]
    assert set(runs.load(played).verdicts.filter(pl.col("judge") == name_of("ann")).collect()["winner"]) == {"abstain"}
