"""What is printed of a run: a debate whole, harmless and as wide as the terminal; leaderboards; what to type next."""

import fcntl
import os
import pty
import random
import re
import shlex
import shutil
import sqlite3
import struct
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import polars as pl
import pytest
from conftest import refused, roster
from rich.cells import cell_len

import runs
from arena.run import Settings, run
from runs import cards
from runs.ballots import cast, vote_of
from runs.bias import FEW
from runs.list import ASIDE
from runs.show import controlled, home, leaderboards, main
from runs.spec import Spec
from runs.spoken import MOST, transcript
from runs.tables import Tables

SHAPELESS = [chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp")]
UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00\ufe0e\uffa0\ufff9\U0001d17a\U000e0100\U000e01ef"
"""Letters, marks and symbols of which nothing is seen either."""
JUDGES = """
[[judges]]
name = "three"
kind = "scripted"
samples = 3
orders = ["for_first", "against_first"]

[[judges]]
name = "still"
kind = "scripted"
winners = ["against"]

[[panels]]
name = "both"
members = ["three", "still"]
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed run: void debates, thinking aloud, trimmed speeches, two judges and their panel."""
    out = tmp_path_factory.mktemp("runs")
    dials = ("wordy, strength = 0.7, verbosity = 0.96, thinks = 0.8", "shaky, strength = 0.5, fails = 0.03")
    entries = roster(out / "r.toml", *dials, judges=JUDGES)
    return run(Settings(roster=entries, limit=16, judges=["both", "rules"], out=out)).folder


@pytest.fixture
def copy(played: Path, tmp_path: Path) -> Path:
    """A copy of it that is not sealed, to be changed by `write`."""
    folder = Path(shutil.copytree(played, tmp_path / "out" / played.name))
    (folder / "manifest.json").unlink()
    return folder


def write(folder: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def of_status(folder: Path, status: str) -> str:
    return str(runs.load(folder).debates.filter(status=status).collect()["debate_id"][0])


def squeezed(text: str) -> str:
    return "".join(text.split())


def harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\u200c\u200d" for c in text) and not {*UNSEEN} & {*text}


# A debate


def test_a_debate_is_shown_whole_and_in_order(played: Path) -> None:
    loaded = runs.load(played)
    debate = of_status(played, "complete")
    said = transcript(loaded, debate)
    at = 0
    turns = loaded.turns.filter(debate_id=debate).sort("turn").collect()
    for turn in turns.iter_rows(named=True):
        title = f"{turn['turn']}. {turn['side'].upper()} {turn['contestant']}: {turn['stage']} ({turn['words']} words"
        at = said.index(f"{title}{', trimmed' if turn['trimmed'] else ''})\n", at)
        for line in turn["text"].splitlines():
            at = said.index(line.strip(), at)
    assert turns["trimmed"].any(), "one of them has the mark"
    row = loaded.debates.filter(debate_id=debate).collect().row(0, named=True)
    (motion,) = loaded.topics.filter(topic_id=row["topic_id"]).collect()["motion"]
    assert said.startswith(f"{motion}\nFOR {row['for_contestant']}, AGAINST {row['against_contestant']}; complete\n")


def test_sides_are_told_apart_without_colour(played: Path) -> None:
    debate = of_status(played, "complete")
    speeches = transcript(runs.load(played), debate).split("\n\nverdict of")[0].split("\n\n")
    titled = [block for block in speeches if re.match(r" *\d+\. ", block)]
    indents = {re.findall("FOR|AGAINST", block)[0]: len(block) - len(block.lstrip()) for block in titled}
    assert indents["FOR"] != indents["AGAINST"] and len(indents) == 2


def test_private_reasoning_is_never_shown(played: Path) -> None:
    loaded = runs.load(played)
    thought = loaded.turns.drop_nulls("reasoning").collect()
    assert len(thought) > 20
    for debate in thought["debate_id"].unique():
        said = squeezed(transcript(loaded, debate))
        assert not any(squeezed(text) in said for text in thought.filter(debate_id=debate)["reasoning"])


def test_votes_stand_under_their_verdicts(copy: Path) -> None:
    debate = of_status(copy, "complete")
    quotes = '[{"turn": 2, "side": "against", "text": "on balance"}]'
    where = "WHERE judge = 'three' AND sample = 1 AND \"order\" = 'against_first'"
    write(copy, f"UPDATE votes SET confidence = 0.25, rationale = 'Because.', quotes = ? {where}", quotes)
    write(copy, "UPDATE votes SET error = 'it broke', winner = 'invalid' WHERE judge = 'still'")
    loaded = runs.load(copy)
    said = transcript(loaded, debate)
    verdicts = {row["judge"]: row for row in loaded.verdicts.filter(debate_id=debate).collect().iter_rows(named=True)}
    assert {*verdicts} == {"three", "still", "both", "rules"}
    blocks = {name: said.split(f"verdict of {name}: ")[1].split("\n\n")[0].splitlines() for name in verdicts}
    for name, row in verdicts.items():
        assert blocks[name][0].startswith(row["winner"]) and f"votes {row['votes']}" in blocks[name][0]
    assert sum(line.startswith("  vote ") for line in blocks["three"]) == 6
    at = blocks["three"].index(f"  vote 2, AGAINST first: {verdicts['three']['winner']}, confidence 25 %")
    assert blocks["three"][at + 1 : at + 3] == ["    Because.", '    turn 2, AGAINST: "on balance"']
    assert blocks["still"][1:] == ["  vote 1, FOR first: invalid, confidence 100 %", "    error: it broke"]
    assert blocks["both"][1:] == [f"  {name}: {verdicts[name]['winner']}" for name in ("three", "still")]
    assert "scores, FOR to AGAINST: " in blocks["rules"][2]


def test_one_judge_alone(played: Path) -> None:
    debate = of_status(played, "complete")
    said = transcript(runs.load(played), debate, "three")
    assert re.findall("verdict of (.*?):", said) == ["three"]


def test_a_void_debate_says_why(played: Path) -> None:
    loaded = runs.load(played)
    debate = of_status(played, "void")
    said = transcript(loaded, debate)
    failure = loaded.failures.filter(debate_id=debate).collect().row(0, named=True)
    line = f"failed at speak {failure['turn']}: shaky, {failure['kind']}, {failure['message']}"
    assert f"\n\n{line}\n" in said and "; void\n" in said and "verdict" not in said
    assert len(re.findall(r"^ *\d+\. (?:FOR|AGAINST) ", said, flags=re.M)) == failure["turn"] - 1


def test_a_debate_that_goes_on_is_shown_so_far(copy: Path) -> None:
    debate = of_status(copy, "complete")
    write(copy, "UPDATE debates SET status = 'open' WHERE debate_id = ?", debate)
    for table in ("votes", "verdicts"):
        write(copy, f"DELETE FROM {table} WHERE debate_id = ?", debate)
    write(copy, "DELETE FROM turns WHERE turn > 4 AND debate_id = ?", debate)
    said = transcript(runs.load(copy), debate)
    assert "; open\n" in said and "verdict" not in said
    assert re.findall(r"^ *(\d+)\. (?:FOR|AGAINST) ", said, flags=re.M) == ["1", "2", "3", "4"]


def test_a_vote_without_its_verdict_is_shown(copy: Path) -> None:
    debate = of_status(copy, "complete")
    write(copy, "DELETE FROM verdicts WHERE judge = 'three'")
    said = transcript(runs.load(copy), debate)
    assert "\nno verdict of three yet\n  vote 1" in said and "\n  three: no verdict\n" in said


def test_costs_add_up_and_nothing_is_made_up(copy: Path) -> None:
    debate = of_status(copy, "complete")
    assert re.search(
        r"\ncost 0\.0000 USD, 10 calls\n  speak: .*tokens not counted$", transcript(runs.load(copy), debate)
    )
    write(copy, "UPDATE calls SET cost_usd = turn, prompt_tokens = 1000 * turn, completion_tokens = 7 WHERE turn < 10")
    write(copy, "UPDATE calls SET role = 'shorten' WHERE turn = 3")
    said = transcript(runs.load(copy), debate).splitlines()[-3:]
    assert said == [
        "cost 45.0000 USD, 10 calls",
        "  speak: 9 calls, 42.0000 USD, "
        "tokens: 42,000 prompt (of 8 calls), cached not counted, 56 completion (of 8 calls)",
        "  shorten: 1 calls, 3.0000 USD, tokens: 3,000 prompt, cached not counted, 7 completion",
    ]


# What others wrote, and terminals


def hostile(folder: Path, text: str) -> None:
    """The text wherever somebody else's text stands."""
    for table, columns in {
        "turns": ("text", "stage", "contestant"),
        "votes": ("rationale", "error", "judge"),
        "verdicts": ("judge",),
        "failures": ("message", "contestant"),
        "topics": ("motion", "theme"),
        "debates": ("for_contestant", "against_contestant"),
    }.items():
        for column in columns:
            write(folder, f"UPDATE {table} SET {column} = {column} || ?", text)
    for column in ("judge", "contestant"):
        write(folder, f"UPDATE {'votes' if column == 'judge' else 'turns'} SET {column} = {column} || ?", text)


@pytest.mark.parametrize("status", ["complete", "void"])
def test_no_mark_without_a_shape_reaches_a_terminal(status: str, copy: Path) -> None:
    hostile(copy, "".join(f"a{c}" for c in (*SHAPELESS, *UNSEEN) if c != "\0"))
    debate = of_status(copy, status)
    for width in (None, 60):
        said = transcript(runs.load(copy), debate, width=width)
        assert harmless(said)
        assert {"<U+001B>", "<U+0007>", "<U+202E>", "<U+2066>", "<U+200F>", "<U+061C>"} <= {*re.findall("<U.*?>", said)}
    boards = leaderboards(runs.load(copy))
    assert harmless(boards) and "wordy" in boards


def test_joiners_and_blanks_are_no_marks(copy: Path) -> None:
    text = "می\u200cخواهم 👩\u200d🚀 ❤\ufe0f 10\u00a0000\u202f€\tend"
    write(copy, "UPDATE turns SET text = ?", text)
    assert "می\u200cخواهم 👩\u200d🚀 ❤\ufe0f 10 000 €" in transcript(runs.load(copy), of_status(copy, "complete"))


def test_what_is_endless_is_shown_in_part(copy: Path) -> None:
    write(copy, "UPDATE turns SET text = ? WHERE turn = 3", "x" * 10**6)
    write(copy, "UPDATE votes SET rationale = ?, error = ? WHERE judge = 'still'", "y" * 10**6, "z" * 10**6)
    said = transcript(runs.load(copy), of_status(copy, "complete"), width=80)
    assert said.count(f"[{MOST:,} of 1,000,000 characters]") == 2
    assert len(said) < 5 * MOST


@pytest.mark.parametrize("width", [25, 40, 80, 110])
def test_lines_are_as_wide_as_the_terminal_and_lose_nothing(width: int, copy: Path) -> None:
    write(copy, "UPDATE turns SET text = ? WHERE turn = 3", "第一部分的论点 " * 30 + "ab" * 300)
    debate = of_status(copy, "complete")
    whole, wrapped = (transcript(runs.load(copy), debate, width=w) for w in (None, width))
    assert max(map(cell_len, wrapped.splitlines())) <= width < max(map(cell_len, whole.splitlines()))
    assert squeezed(wrapped) == squeezed(whole)


def test_colour_is_added_and_changes_nothing(played: Path) -> None:
    loaded, debate = runs.load(played), of_status(played, "complete")
    plain, coloured = (transcript(loaded, debate, width=70, colour=colour) for colour in (False, True))
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    titles = {side: {re.findall(r"\x1b\[[\d;]*m", line)[0] for line in lines} for side, lines in _titles(coloured)}
    assert len(titles["FOR"]) == len(titles["AGAINST"]) == 1 and titles["FOR"] != titles["AGAINST"]
    assert all(line.endswith("\x1b[0m") for line in coloured.splitlines() if "\x1b" in line), "no line leaves it on"


def _titles(text: str) -> Iterable[tuple[str, list[str]]]:
    for side in ("FOR", "AGAINST"):
        yield side, [line for line in text.splitlines() if re.search(rf"m *\d+\. {side} ", line)]


def on_a_terminal(*words: str, columns: int, **variables: str) -> str:
    """What a command shows on a terminal so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-m", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=plain | variables
    ):
        os.close(theirs)
        shown = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            shown += more
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal_has_colour_unless_it_is_told_not_to(played: Path) -> None:
    debate = of_status(played, "complete")
    words = ("runs.show", str(played), debate)
    shown = on_a_terminal(*words, columns=64, TERM="xterm")
    plain = on_a_terminal(*words, columns=64, TERM="xterm", NO_COLOR="1")
    assert "\x1b[" in shown and "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == plain
    body = plain.split("\nnext:")[0]
    assert body == transcript(runs.load(played), debate, width=64)


# Leaderboards, and what comes after


def test_a_run_ends_with_what_is_shown_of_it(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boards = leaderboards(runs.load(played))
    assert main([str(played)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{boards}\nnext:  ") and boards.count("95 % interval") == 4


def ran(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the first command of a last line prints."""
    words = shlex.split(line.removeprefix("next:").split(";")[0])
    assert words[:3] == ["python", "-m", "runs.show"] and main(words[3:]) == 0
    return capsys.readouterr().out


def test_what_is_next_can_be_typed(played: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(played)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"; python -m runs.report {played}")
    assert ran(last, capsys).splitlines()[-1] == f"next:  python -m runs.view {played}"
    for table in ("debates", "verdicts"):
        write(copy, f"DELETE FROM {table}")
    assert main([str(copy)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next:  python -m runs.report {copy}"


def test_a_run_that_is_not_finished_says_so(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(copy, "UPDATE debates SET status = 'open' WHERE match > 9")
    assert main([str(copy)]) == 0
    note = f"note: the run is not finished: 10 of 16 debates have ended; to go on: python -m arena.run --resume {copy}"
    assert note in capsys.readouterr().out.splitlines()
    with runs.Run.resume(copy):
        assert main([str(copy)]) == 0
    assert "note: the run is still going: 10 of 16 debates have ended\n" in capsys.readouterr().out


def test_length_control_stands_beside_what_was_said(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from runs import terms

    loaded = runs.load(played)
    found = terms.controlled(loaded.debates, loaded.verdicts, loaded.turns, judges=("rules",))
    assert main([str(played), "--judge", "rules", "--length"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, row in zip(lines[1:], found.frame.iter_rows(named=True), strict=False):
        told = [f"{row[name]:.0f}" for name in ("rating", "plain") if row[name] is not None]
        assert line.split()[1] == row["contestant"] and {*told} <= {*line.split()}
    terms = [line for line in lines if " term" in line and not line.startswith("note: ")]
    assert [line.split()[0] for line in terms] == ["side", "length", "opener"]
    assert [line for line in lines if line.startswith("note: ")] == [f"note: {note}" for note in found.notes]


def judged_by(folder: Path, name: str, as_: str) -> None:
    """A judge under another name."""
    for table in ("votes", "verdicts"):
        write(folder, f"UPDATE {table} SET judge = ? WHERE judge = ?", as_, name)


def test_a_judge_with_an_at_sign_is_a_judge(copy: Path) -> None:
    judged_by(copy, "rules", "me@home")
    loaded = runs.load(copy)
    assert "verdicts of me@home on" in leaderboards(loaded)
    said = transcript(loaded, of_status(copy, "complete")).split("verdict of me@home: ")[1].split("\n\n")[0]
    assert "\n  vote 1, " in said


def test_what_is_read_in_part_is_shown_to_who_asks(copy: Path) -> None:
    judged_by(copy, "rules", "three@4")
    loaded, debate = runs.load(copy), of_status(copy, "complete")
    assert "three@4" not in leaderboards(loaded) and "verdicts of three@4 on" in leaderboards(loaded, "three@4")
    whole, asked = (transcript(loaded, debate, judge).split("verdict of three@4: ")[1] for judge in (None, "three@4"))
    assert "  vote 1, " in asked and "  vote 1, " not in whole.split("\n\n")[0]
    for table in ("votes", "verdicts"):
        write(copy, f"DELETE FROM {table} WHERE judge != 'three@4'")
    alone = leaderboards(runs.load(copy))
    assert "0 verdicts of no judge" in alone and "no rated verdict" in alone
    assert "three@4" not in leaderboards(runs.load(copy), length=True)


def test_a_card_that_cannot_be_read_is_a_note(copy: Path) -> None:
    before = leaderboards(runs.load(copy))
    folder = copy.parent / cards.FOLDER / "c1"
    shutil.copytree(copy, folder)
    (folder / cards.NAME).write_text("{")
    after = leaderboards(runs.load(copy))
    notes = [line for line in after.splitlines() if "cannot be read as a card" in line]
    assert notes and all(line.startswith("note: ") for line in notes)
    assert "\n".join(line for line in after.splitlines() if line not in notes) == before


@pytest.mark.parametrize("aside", ASIDE)
def test_what_is_no_league_says_so_and_has_its_cards_where_all_are(aside: str, copy: Path) -> None:
    assert "says who argues better" not in leaderboards(runs.load(copy)) and home(copy) == copy.parent
    folder = Path(shutil.copytree(copy, copy.parent / aside / "c1"))
    first, *others = leaderboards(runs.load(folder)).splitlines()
    assert first.startswith("note: ") and first.endswith("nothing here says who argues better")
    assert home(folder) == copy.parent and "95 % interval" in others[1]
    row = {"metric": "known_answers", "value": 0.5, "low": 0.4, "high": 0.6, "topics": 20, "n": 40}
    table = pl.DataFrame([row | {"gate": "at least 0.9", "passed": False}])
    (made := copy.parent / cards.FOLDER / "c2").mkdir(parents=True)
    shutil.copy(copy / "spec.json", made)
    judge = next(entry for entry in Spec.read(copy).judges if entry["name"] == "still")
    cards.write(made, table, judge=judge, from_run="")
    assert "judge 'still': below its gates: known_answers 0.500" in leaderboards(runs.load(folder), "still")


def test_votes_that_came_after_the_seal_are_told_of(
    played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(played, tmp_path / played.name))
    with runs.Run.resume(folder) as held:
        match = next(iter(held.journal.complete()))
        vote = vote_of(held.debate(match), "human:ann", "for")
    assert main([str(folder)]) == 0 and "since the run was sealed" not in capsys.readouterr().out
    cast(folder, match, vote)
    assert main([str(folder)]) == 0
    assert f"since the run was sealed; no figure knows of it before: python -m runs.view {folder}\n" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("topics", [FEW - 1, FEW])
def test_too_few_topics_are_named_where_there_is_no_interval(topics: int) -> None:
    places = [(f"t{t}", one, other) for t in range(topics) for one, other in permutations("abc", 2)]
    rng = random.Random(1)
    debates = pl.DataFrame(places, ["topic_id", "for_contestant", "against_contestant"], orient="row").with_columns(
        debate_id=pl.Series([f"d{n}" for n in range(len(places))]), opener=pl.lit("for"), status=pl.lit("complete")
    )
    verdicts = debates.select(
        "debate_id", judge=pl.lit("x"), winner=pl.Series([rng.choice(["for", "against"]) for _ in places])
    )
    words = pl.Series([rng.randrange(100, 900) for _ in places])
    turns = [debates.select("debate_id", side=pl.lit("for"), words=words)]
    turns += [debates.select("debate_id", side=pl.lit("against"), words=pl.lit(500, pl.Int64))]
    lines = controlled(debates, verdicts, pl.concat(turns), "x").splitlines()
    ratings, terms = lines[1:4], [line for line in lines if line.startswith(("side term", "length term"))]
    assert all(line.count("too few topics") == 2 * (topics < FEW) for line in ratings)
    assert len(terms) == 2 and all(("[too few topics]" in line) == (topics < FEW) for line in terms)
    assert "- to -" not in "".join(lines)


def test_a_topic_without_a_theme_leaves_no_gap(copy: Path) -> None:
    write(copy, "UPDATE topics SET theme = ''")
    assert re.search(r" on topic \S+ \(train\); FOR opens", transcript(runs.load(copy), of_status(copy, "complete")))


def test_wrong_input(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded: Tables = runs.load(played)
    debates = loaded.debates.collect()["debate_id"]
    several = next(c for c in "0123456789abcdef" if debates.str.starts_with(c).sum() > 1)
    line = refused(capsys, played, several, command=main)
    assert f"{debates.str.starts_with(several).sum()} debates" in line and "expected the debate_id of one" in line
    named = re.findall(r"'([0-9a-f]{16})'", line)
    assert named and all(name in debates.to_list() and name.startswith(several) for name in named)
    near = debates[0][:-1] + ("0" if debates[0][-1] != "0" else "1")
    assert f"did you mean '{debates[0]}'" in refused(capsys, played, near, command=main)
    for status, known in (("complete", "did you mean 'rules'"), ("void", "nobody has judged it")):
        judge = refused(capsys, played, of_status(played, status), "--judge", "ruels", command=main)
        assert "no verdict of judge 'ruels' on debate" in judge and known in judge
    assert "--length is about leaderboards" in refused(capsys, played, debates[0], "--length", command=main)
    assert "'nobody'" in refused(capsys, played, "--length", "--judge", "nobody", command=main)


def test_the_beginning_of_a_debate_is_enough(played: Path) -> None:
    loaded = runs.load(played)
    for debate in loaded.debates.select(pl.col("debate_id").head(3)).collect()["debate_id"]:
        assert transcript(loaded, debate[:8]) == transcript(loaded, debate)
