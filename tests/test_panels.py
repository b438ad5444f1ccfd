"""Panels: what several judges come to, who is left out of it, and what waits for whom."""

import json
from pathlib import Path

import pytest
from conftest import Play, refused, roster
from hypothesis import given
from hypothesis import strategies as st

import runs
from arena.judge import Settings, judge
from arena.judge import main as judge_main
from runs.panels import Kin, Panel, Tally, are_related
from runs.records import Match, Verdict, Winner
from topics.errors import InputError

MATCH = Match(
    debate_id="d",
    match=0,
    topic_id="t",
    for_contestant="anna",
    against_contestant="ben",
    opener="for",
    replicate=0,
    seed=1,
)
KIN = Kin([{"name": "a", "family": "oak"}, {"name": "b"}, {"name": "c"}], [{"name": "anna", "family": "oak"}])
NOBODY = Kin([], [])


def said(judge: str, winner: Winner, margin: float | None = None, **more: object) -> Verdict:
    values = {"debate_id": "d", "judge": judge, "winner": winner, "margin": margin, "consistent": True, "votes": 1}
    return Verdict(**values | more)  # type: ignore[arg-type]


def panel(*members: str, **settings: object) -> Panel:
    return Panel.model_validate({"name": "p", "members": members, **settings})


@pytest.mark.parametrize(
    ("winners", "quorum", "winner", "agreed", "votes"),
    [
        ("for for for", None, "for", True, 3),
        ("for for against", None, "for", False, 3),
        ("for against tie", None, "tie", False, 3),
        ("for against", None, "tie", False, 2),  # one of two is no majority
        ("for invalid for", None, "for", True, 2),
        ("for invalid invalid", None, "invalid", True, 1),  # one of three is no quorum
        ("for invalid invalid", 1, "for", True, 1),
        ("for for against", 3, "for", False, 3),
        ("for for invalid", 3, "invalid", True, 2),
        ("abstain abstain for", None, "abstain", False, 3),
        ("tie tie against", None, "tie", False, 3),
    ],
)
def test_what_a_panel_comes_to(winners: str, quorum: int | None, winner: str, agreed: bool, votes: int) -> None:
    names = winners.split()
    verdicts = [said(f"j{i}", name) for i, name in enumerate(names)]  # type: ignore[arg-type]
    members = (panel(*(f"j{i}" for i in range(max(2, len(names)))), quorum=quorum)).decide("d", verdicts)
    assert (members.winner, members.consistent, members.votes) == (winner, agreed, votes)


def test_its_margin_is_the_mean_of_theirs() -> None:
    verdict = panel("a", "b", "c").decide("d", [said("a", "for", 1.0), said("b", "for", 0.5), said("c", "abstain")])
    assert verdict.margin == pytest.approx(0.75) and verdict.winner == "for"


@given(st.lists(st.sampled_from(["for", "against", "tie", "abstain", "invalid"]), min_size=2, max_size=7))
def test_exchanging_the_sides_exchanges_the_verdict(winners: list[Winner]) -> None:
    other = {"for": "against", "against": "for"}
    names = [f"j{i}" for i in range(len(winners))]
    one = panel(*names).decide("d", map(said, names, winners))
    mirrored = panel(*names).decide("d", [said(n, other.get(w, w)) for n, w in zip(names, winners, strict=True)])  # type: ignore[arg-type]
    assert mirrored.winner == other.get(one.winner, one.winner)


def test_relatives_share_a_family_a_lineage_or_a_model() -> None:
    assert are_related({"family": "oak"}, {"family": "oak", "lineage": "x"})
    assert are_related({"lineage": "x"}, {"lineage": "x"}) and are_related({"model": "m"}, {"model": "m"})
    assert not are_related({"family": ""}, {"family": ""}) and not are_related({"family": "x"}, {"lineage": "x"})
    assert KIN.related("a", MATCH) and KIN.related("a@4", MATCH) and not KIN.related("b", MATCH)


def test_a_relative_is_left_out_or_flagged() -> None:
    verdicts = [said("a", "for", related=True), said("b", "against"), said("c", "against")]
    for how, winner, votes, related in (("leave_out", "against", 2, False), ("flag", "against", 3, True)):
        tally = Tally([panel("a", "b", "c", related=how)], KIN, [])
        (found,) = [v for verdict in verdicts for v in tally.add(MATCH, verdict)]
        assert (found.winner, found.votes, found.related) == (winner, votes, related)


def test_a_panel_waits_for_its_members_but_not_for_those_who_are_away() -> None:
    tally = Tally([panel("a", "b", "c")], NOBODY, [])
    assert not list(tally.add(MATCH, said("a", "for")))
    assert not list(tally.due(MATCH, absent={"c"})), "b may still come"
    assert [v.winner for v in tally.due(MATCH, absent={"b", "c"})] == ["invalid"]
    assert not list(tally.due(MATCH, absent={"b", "c"})), "told once"
    taken_in = [(v.winner, v.votes) for name in ("b", "c") for v in tally.add(MATCH, said(name, "for"))]
    assert taken_in == [("for", 2), ("for", 3)], "once it has decided, whatever comes is taken in"


def test_nobody_waits_for_a_person_whose_verdict_counts_when_it_comes() -> None:
    tally = Tally([panel("a", "b", "human:ann", quorum=2)], NOBODY, [])
    list(tally.add(MATCH, said("a", "for")))
    assert [v.winner for v in tally.add(MATCH, said("b", "against"))] == ["tie"]
    assert [v.winner for v in tally.add(MATCH, said("human:ann", "for"))] == ["for"]


PANEL = """
[[judges]]
name = "one"
kind = "scripted"
winners = ["for"]
[[judges]]
name = "two"
kind = "scripted"
winners = ["for", "against"]
[[judges]]
name = "three"
kind = "scripted"
raises = "out of order"
[[panels]]
name = "bench"
members = ["one", "two", "three"]
"""


def test_a_panel_judges_a_run(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "a", "b", judges=PANEL)
    folder = play(roster=entries, limit=6, judges=["bench"]).folder
    verdicts = runs.load(folder).verdicts.collect()
    assert set(verdicts["judge"]) == {"one", "two", "three", "bench"} and verdicts.height == 24
    bench = verdicts.filter(judge="bench")
    assert bench["winner"].to_list() == ["for", "tie"] * 3 and set(bench["votes"]) == {2}


def test_a_panel_over_verdicts_that_are_there_asks_nobody(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "a", "b", judges=PANEL)
    folder = play(roster=entries, limit=6, judges=["one", "two", "three"]).folder
    votes = runs.load(folder).votes.collect()
    result = judge(Settings(from_run=str(folder), judges=["bench"], roster=entries))
    assert result.finished and result.progress.verdicts == 0
    assert runs.load(folder).votes.collect().equals(votes)
    assert runs.load(folder).verdicts.filter(judge="bench").collect().height == 6


def test_a_panel_under_another_meaning_is_refused(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "a", "b", judges=PANEL)
    folder = play(roster=entries, limit=2, judges=["bench"]).folder
    entries.write_text(entries.read_text() + "quorum = 3\n")
    with pytest.raises(InputError, match="another panel 'bench', with another quorum; give"):
        judge(Settings(from_run=str(folder), judges=["bench"], roster=entries))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("quorum = 4", "has a quorum of 4, but 3 members"),
        ('related = "perhaps"', "leave_out"),
    ],
)
def test_a_panel_that_cannot_be(line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from arena.run import main

    entries = roster(tmp_path / "r.toml", "a", "b", judges=PANEL + line)
    assert message in refused(capsys, "--roster", entries, "--judges", "bench", "--out", tmp_path / "out", command=main)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entry", "names", "message"),
    [
        (PANEL.replace('"bench"', '"rules"'), "rules", "'rules' is the name of a panel and of a judge"),
        (PANEL.replace('"two"', '"one@2"'), "one@2", "what a judge is called on the first turns of a debate"),
        (PANEL.replace('"two"', '"human:bob"'), "one", "the name of a person"),
        (PANEL.replace('"bench"', '"human:bob"'), "one", "the name of a person"),
        (PANEL + '[[panels]]\nname = "all"\nmembers = ["bench", "one"]', "all", "panel 'bench' is a member of a panel"),
        (PANEL, "human:ann", "python -m judges.human --name ann"),
        (PANEL, "nobody", "expected bench, llm, one, pairrm, rules, scripted, three, two or module:Class"),
    ],
)
def test_names_that_would_be_taken_for_others(
    entry: str, names: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from arena.run import main

    entries = roster(tmp_path / "r.toml", "a", "b", judges=entry)
    line = refused(capsys, "--roster", entries, "--judges", names, "--out", tmp_path / "out", command=main)
    assert message in line and not (tmp_path / "out").exists()


def test_a_panel_cannot_take_the_name_of_a_judge_that_has_verdicts(play: Play, tmp_path: Path) -> None:
    folder = play(roster=roster(tmp_path / "r.toml", "a", "b", judges=PANEL), limit=2, judges=["one"]).folder
    entries = roster(tmp_path / "s.toml", "a", "b", judges=PANEL.replace('"one"', '"four"').replace('"bench"', '"one"'))
    with pytest.raises(InputError, match="'one' is the name of a panel and of a judge"):
        judge(Settings(from_run=str(folder), judges=["one"], roster=entries))


def test_a_panel_of_persons_says_nothing_before_one_has_voted(play: Play, tmp_path: Path) -> None:
    people = '[[panels]]\nname = "people"\nmembers = ["human:ann", "human:bob"]\n'
    folder = play(
        roster=roster(tmp_path / "r.toml", "a", "b", judges=people), limit=2, judges=["people", "rules"]
    ).folder
    assert set(runs.load(folder).verdicts.collect()["judge"]) == {"rules"}


def test_a_judge_that_raised_once_does_not_spoil_what_comes_later(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = roster(tmp_path / "r.toml", "a", "b", judges=PANEL)
    folder = play(limit=2).folder
    words = ["--from-run", str(folder), "--roster", str(entries), "--judges"]
    assert judge_main([*words, "three"]) == 1
    assert "judge 'three' raised on 2 votes" in capsys.readouterr().err
    assert judge_main([*words, "two"]) == 0


def test_judging_again_needs_judges_that_are_known(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    folder = play(limit=2).folder
    assert "no judges named" in refused(capsys, "--from-run", folder, command=judge_main)
    line = refused(capsys, "--from-run", folder, "--judges", "nobody", command=judge_main)
    assert "unknown judges 'nobody'" in line
    line = refused(capsys, "--from-run", folder, "--judges", "llm", command=judge_main)
    assert "asks a model; add endpoint" in line


def test_judging_again_asks_only_what_is_missing(play: Play, tmp_path: Path) -> None:
    entries = roster(tmp_path / "r.toml", "a", "b", judges=PANEL)
    folder = play(roster=entries, limit=6, judges=["one"]).folder
    before = runs.load(folder).votes.collect()
    assert judge(Settings(from_run=str(folder), judges=["two", "one"], roster=entries)).progress.verdicts == 6
    after = runs.load(folder).votes.collect()
    assert after.filter(judge="one").equals(before) and after.filter(judge="two").height == 6
    assert json.loads((folder / "manifest.json").read_text())["generation"] == 2
    runs.tables.verify(folder)
    assert judge(Settings(from_run=str(folder), judges=["one", "two"])).progress.wanted == 0, "it knows them by now"
