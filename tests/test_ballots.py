"""A person's vote beside whoever plays: once, whole, never changed, and in the tables once these can be written."""

import asyncio
import fcntl
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection
from threading import Thread

import pytest
from conftest import Play, roster
from hypothesis import given
from hypothesis import strategies as st
from test_stored_runs import of_the_first_schema

import runs
from runs import Run, tables
from runs.ballots import behind, cast, lots, reseal, vote_of
from runs.journal import StorageError
from runs.records import Debate, Vote, Winner
from runs.run import LOCK
from runs.verdicts import from_votes
from topics.errors import InputError

PANEL = '[[panels]]\nname = "bench"\nmembers = ["rules", "scripted", "human:ann"]\n'


@pytest.fixture
def folder(play: Play, tmp_path: Path) -> Path:
    """A sealed run of six debates, whose panel a person sits on."""
    file = roster(tmp_path / "r.toml", "ash, strength = 0.9", "birch", judges=PANEL)
    return play(limit=6, roster=file, judges=["bench"]).folder


def debates(folder: Path) -> list[Debate]:
    with Run.resume(folder) as held:
        return [held.debate(match) for match in held.journal.complete()]


def stored(folder: Path, judge: str = "human:bob") -> list[tuple[str, str, str | None]]:
    """Debate, vote, verdict, as the journal has them."""
    both = "votes v LEFT JOIN verdicts d USING (debate_id, judge)"
    query = f"SELECT debate_id, v.winner, d.winner FROM {both} WHERE judge = ?"
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        return sorted(journal.execute(query, (judge,)).fetchall())


def in_tables(folder: Path, judge: str = "human:bob") -> list[tuple[str, str]]:
    verdicts = runs.load(folder).verdicts.filter(judge=judge).select("debate_id", "winner").collect().rows()
    assert [d for d, _ in verdicts] == runs.load(folder).votes.filter(judge=judge).collect()["debate_id"].to_list()
    return sorted(verdicts)


# The draw


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), unique=True), st.integers(), st.randoms())
def test_the_draw_goes_round_the_topics_and_does_not_mind_the_order(
    places: list[tuple[int, int]], seed: int, random: object
) -> None:
    pairs = [(f"{topic}-{number}", str(topic)) for topic, number in places]
    mixed = pairs.copy()
    random.shuffle(mixed)  # type: ignore[attr-defined]
    drawn = lots(pairs, seed)
    assert drawn == lots(mixed, seed) and sorted(drawn) == sorted(debate_id for debate_id, _ in pairs)
    topic_of, seen = dict(pairs), Counter[str]()
    for debate_id in drawn:
        left = Counter(topic_of[other] for other in drawn) - seen
        assert seen[topic_of[debate_id]] == min(seen[topic] for topic in left)
        seen[topic_of[debate_id]] += 1


# Beside another process


def test_a_vote_is_cast_while_somebody_else_holds_the_run(folder: Path) -> None:
    first, second = debates(folder)[:2]
    with Run.resume(folder) as held:
        cast(folder, first.match, vote_of(first, "human:bob", "for", confidence=0.7, reason="why"))
        assert reseal(folder) and behind(folder)
        asyncio.run(held.journal.write(vote_of(second, "human:eve", "tie")))  # the other writer is not disturbed
    assert stored(folder) == [(first.id, "for", "for")] and in_tables(folder) == []
    assert reseal(folder) == "" and not behind(folder)
    assert in_tables(folder) == [(first.id, "for")]
    tables.verify(folder)


def test_the_verdict_is_that_of_the_same_function(folder: Path) -> None:
    for debate, winner in zip(debates(folder), ("for", "against", "tie", "abstain"), strict=False):
        vote = vote_of(debate, "human:bob", winner)  # type: ignore[arg-type]
        cast(folder, debate.match, vote)
    reseal(folder)
    for row in runs.load(folder).verdicts.filter(judge="human:bob").collect().iter_rows(named=True):
        said = runs.load(folder).votes.filter(judge="human:bob", debate_id=row["debate_id"]).collect()["winner"][0]
        vote = Vote(debate_id=row["debate_id"], judge="human:bob", order="for_first", sample=0, winner=said)
        expected = from_votes(row["debate_id"], "human:bob", [vote])
        assert row == {name: getattr(expected, name) for name in row}


def test_the_same_vote_again_changes_nothing_and_another_is_refused(folder: Path) -> None:
    debate = debates(folder)[0]
    vote = vote_of(debate, "human:bob", "for", confidence=0.5, reason="so")
    for _ in range(2):
        cast(folder, debate.match, vote)
    for winner, confidence, reason in (("tie", 0.5, "so"), ("for", None, "so"), ("for", 0.5, "otherwise")):
        with pytest.raises(InputError, match="a stored vote is not changed"):
            cast(folder, debate.match, vote_of(debate, "human:bob", winner, confidence=confidence, reason=reason))  # type: ignore[arg-type]
    assert stored(folder) == [(debate.id, "for", "for")]


def test_many_people_at_once(folder: Path) -> None:
    all_ = debates(folder)
    winners: tuple[Winner, ...] = ("for", "against")

    def votes(person: int) -> None:
        for debate in all_:
            cast(folder, debate.match, vote_of(debate, f"human:p{person}", winners[person % 2]))

    threads = [Thread(target=votes, args=(person,)) for person in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reseal(folder)
    for person in range(6):
        said = winners[person % 2]
        assert in_tables(folder, f"human:p{person}") == sorted((debate.id, said) for debate in all_)


def test_a_vote_that_cannot_be_written_leaves_nothing(folder: Path) -> None:
    debate = debates(folder)[0]
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON verdicts BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(StorageError, match="the vote could not be written: full"):
            cast(folder, debate.match, vote_of(debate, "human:bob", "for"))
        assert stored(folder) == []
        other.execute("DROP TRIGGER full")
    cast(folder, debate.match, vote_of(debate, "human:bob", "for"))
    assert stored(folder) == [(debate.id, "for", "for")]


def test_a_vote_on_a_run_of_the_first_schema_renews_it_unless_somebody_holds_it(play: Play) -> None:
    folder = play(limit=2).folder
    first, second = debates(folder)
    of_the_first_schema(folder)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"its journal is old, and is renewed while nobody plays: .* in use by"):
            cast(folder, first.match, vote_of(first, "human:bob", "for"))
    assert stored(folder) == []
    for debate in (first, second):
        cast(folder, debate.match, vote_of(debate, "human:bob", "for"))
    assert stored(folder) == sorted((debate.id, "for", "for") for debate in (first, second))
    assert reseal(folder) == "" and len(in_tables(folder)) == 2
    tables.verify(folder)


# Panels


def test_a_member_of_a_panel_is_refused_while_somebody_else_plays(folder: Path) -> None:
    debate = debates(folder)[0]
    with Run.resume(folder), pytest.raises(InputError, match=r"ann sits on the panel 'bench', .* in use by another"):
        cast(folder, debate.match, vote_of(debate, "human:ann", "for"))
    assert stored(folder, "human:ann") == []


def test_a_panel_takes_in_its_members_vote(folder: Path) -> None:
    before = {row["debate_id"]: row for row in runs.load(folder).verdicts.filter(judge="bench").collect().to_dicts()}
    for debate in debates(folder):
        cast(folder, debate.match, vote_of(debate, "human:ann", "against"))
    assert reseal(folder) == ""
    after = runs.load(folder).verdicts.filter(judge="bench").collect().to_dicts()
    assert len(after) == 6
    members = runs.load(folder).verdicts.collect().filter(judge="rules").to_dicts()
    others = {row["debate_id"]: row for row in runs.load(folder).verdicts.filter(judge="scripted").collect().to_dicts()}
    for row, one in zip(after, members, strict=True):
        said = [one["winner"], others[row["debate_id"]]["winner"], "against"]
        winner, count = Counter(said).most_common(1)[0]
        assert (row["winner"], row["votes"]) == (winner if count > 1 else "tie", 3)
        assert before[row["debate_id"]]["votes"] == 2


def test_a_members_vote_waits_while_the_same_process_seals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = debates(folder)[:2]
    cast(folder, first.match, vote_of(first, "human:bob", "for"))
    write = tables._write
    member = Thread(target=lambda: cast(folder, second.match, vote_of(second, "human:ann", "tie")))

    def beside_a_vote(place: Path, table: tables.Table, snapshot: Connection) -> dict[str, object]:
        if member.ident is None:
            member.start()
            member.join(0.3)  # long enough to be refused
        return write(place, table, snapshot)

    with monkeypatch.context() as patched:
        patched.setattr(tables, "_write", beside_a_vote)
        assert reseal(folder) == ""
    member.join()
    assert stored(folder, "human:ann") == [(second.id, "tie", "tie")]
    assert reseal(folder) == "" and in_tables(folder, "human:ann") == [(second.id, "tie")]


def test_members_vote_at_once(folder: Path) -> None:
    threads = [
        Thread(target=cast, args=(folder, debate.match, vote_of(debate, "human:ann", "for")))
        for debate in debates(folder)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored(folder, "human:ann")) == 6 and reseal(folder) == ""
    assert runs.load(folder).verdicts.filter(judge="bench").collect()["votes"].to_list() == [3] * 6


# Sealing again


def test_a_vote_that_came_between_two_tables_is_sealed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were cast while another process seals: what is sealed is of one moment, and the vote comes after it."""
    debate = debates(folder)[0]
    write = tables._write

    def then_vote(place: Path, table: tables.Table, snapshot: Connection) -> dict[str, object]:
        written = write(place, table, snapshot)
        if table.name == "votes":
            cast(folder, debate.match, vote_of(debate, "human:bob", "for"))
        return written

    with Run.resume(folder) as held, monkeypatch.context() as patched:
        patched.setattr(tables, "_write", then_vote)
        held.seal()
    assert runs.load(folder).verdicts.filter(judge="human:bob").collect().height == 0
    assert runs.load(folder).votes.filter(judge="human:bob").collect().height == 0
    assert behind(folder) and reseal(folder) == "" and in_tables(folder) == [(debate.id, "for")]


def test_what_has_nothing_to_seal_is_left_alone(folder: Path) -> None:
    sealed = (folder / tables.MANIFEST).read_bytes()
    assert reseal(folder) == "" and (folder / tables.MANIFEST).read_bytes() == sealed
    debate = debates(folder)[0]
    (folder / tables.MANIFEST).unlink()
    cast(folder, debate.match, vote_of(debate, "human:bob", "for"))
    assert reseal(folder) == "" and not tables.is_sealed(folder)  # a run that goes on is sealed by whoever plays it


def test_tables_that_are_damaged_are_told_of(folder: Path) -> None:
    debate = debates(folder)[0]
    cast(folder, debate.match, vote_of(debate, "human:bob", "for"))
    table = folder / "votes.parquet"
    whole = table.read_bytes()
    table.write_bytes(b"x" * len(whole))
    assert "parquet" in reseal(folder)
    table.write_bytes(whole)
    assert reseal(folder) == "" and in_tables(folder) == [(debate.id, "for")]


def test_a_folder_without_a_journal_takes_no_vote(folder: Path) -> None:
    debate = debates(folder)[0]
    (folder / "journal.db").unlink()
    with pytest.raises(InputError, match=r"holds no journal\.db"):
        cast(folder, debate.match, vote_of(debate, "human:bob", "for"))
    assert not behind(folder)
