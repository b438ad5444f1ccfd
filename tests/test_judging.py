"""Language models as judges, over real HTTP: what they cost is booked, nothing is asked twice, a prompt is read once,
and an endpoint that is away keeps nobody from playing."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Play, refused

import runs
from arena import simulate
from arena.judge import Settings, judge
from arena.judge import main as judge_main
from arena.run import main
from runs.tables import is_sealed

PRICES = "prompt_price = 1.0\ncached_price = 0.1\ncompletion_price = 10.0"
DEAD = "http://127.0.0.1:9/v1"


def served(**settings: Any) -> Any:
    return simulate.serve(simulate.Settings.model_validate({"port": 0} | settings))


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def roster(path: Path, *judges: str, panel: str = "", **urls: str) -> Path:
    """A roster of two simulated contestants; each judge is `name, endpoint, model, further lines`."""
    text = "".join(f'[[endpoints]]\nname = "{name}"\nbase_url = "{url}"\n{PRICES}\n' for name, url in urls.items())
    for strength in (0.8, 0.4):
        text += f'[[contestants]]\nname = "s{strength}"\nkind = "simulated"\nfamily = "oak"\nstrength = {strength}\n'
    for entry in judges:
        name, endpoint, model, *lines = entry.split(", ")
        text += f'[[judges]]\nname = "{name}"\nkind = "llm"\nendpoint = "{endpoint}"\nmodel = "{model}"\n'
        text += "\n".join(lines) + "\n"
    path.write_text(text + panel)
    return path


def calls(folder: Path) -> pl.DataFrame:
    return runs.load(folder).calls.filter(role="judge").collect()


def test_votes_are_stored_with_what_they_cost(play: Play, tmp_path: Path) -> None:
    with served() as url:
        entries = roster(tmp_path / "r.toml", "fair, here, judge, samples = 2", here=url)
        folder = play(roster=entries, judges=["fair", "rules"], limit=8).folder
        counted = stats(url)
    votes, asked = runs.load(folder).votes.filter(judge="fair").collect(), calls(folder)
    assert votes.height == asked.height == counted["answered"] == 32 and counted["repeats"] == 0
    assert set(votes["winner"]) <= {"for", "against"} and set(votes["call_id"]) == set(asked["call_id"])
    assert votes["identity"].n_unique() == 32, "order and sample are part of a vote's identity"
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert asked[name].sum() == counted[name]
    fresh = counted["prompt_tokens"] - counted["cached_tokens"]
    usd = (fresh + 0.1 * counted["cached_tokens"] + 10 * counted["completion_tokens"]) / 1e6
    assert asked["cost_usd"].sum() == pytest.approx(usd)
    turns = runs.load(folder).turns.collect()
    for row in votes.explode("quotes").drop_nulls("quotes").to_dicts():
        spoken = turns.filter(debate_id=row["debate_id"], turn=row["quotes"]["turn"]).row(0, named=True)
        assert row["quotes"]["side"] == spoken["side"] and row["quotes"]["text"] in spoken["text"]


def test_a_debate_is_read_once(play: Play, tmp_path: Path) -> None:
    with served(block=1, latency=0.01) as url:
        entries = roster(tmp_path / "r.toml", "fair, here, judge, samples = 3", here=url)
        folder = play(roster=entries, judges=["fair"], limit=12).folder
    by_time = calls(folder).sort("started_at").with_columns(nth=pl.int_range(pl.len()).over("debate_id"))
    first, later = by_time.filter(nth=0), by_time.filter(pl.col("nth") > 0)
    assert later.height == 12 * 5
    assert later["cached_tokens"].sum() >= 0.9 * later["prompt_tokens"].sum()
    assert later.select((pl.col("cached_tokens") / pl.col("prompt_tokens")).min()).item() >= 0.9, "each of them"
    ended = first.with_columns(end=pl.col("started_at") + pl.duration(microseconds=pl.col("latency_s") * 1e6))
    after = later.join(ended.select("debate_id", "end"), on="debate_id")
    assert after.filter(pl.col("started_at") < pl.col("end")).is_empty(), "a debate's first vote is sent alone"


def test_an_endpoint_without_structured_output_is_asked_in_plain_words(play: Play, tmp_path: Path) -> None:
    with served(no_schema=True) as url:
        entries = roster(tmp_path / "r.toml", "fair, here, judge", here=url)
        folder = play(roster=entries, judges=["fair"], limit=6).folder
        counted = stats(url)
    assert "invalid" not in set(runs.load(folder).votes.collect()["winner"])
    assert counted["by_status"]["200"] == 12 and 1 <= counted["by_status"]["400"] <= 6


def test_a_judge_that_cannot_be_read_gives_invalid_votes_and_the_cost_is_booked(play: Play, tmp_path: Path) -> None:
    with served() as url:
        entries = roster(tmp_path / "r.toml", "odd, here, judge?invalid=1", here=url)
        folder = play(roster=entries, judges=["odd"], limit=3).folder
        counted = stats(url)
    tables = runs.load(folder)
    assert set(tables.votes.collect()["winner"]) == {"invalid"} and set(tables.verdicts.collect()["winner"]) == {
        "invalid"
    }
    assert set(tables.failures.collect()["kind"]) == {"unparseable"}
    assert counted["answered"] == calls(folder).height == 3 * 2 * 3, "asked, repaired, asked afresh"


def test_a_trajectory_votes_after_each_pair_of_turns(play: Play, tmp_path: Path) -> None:
    with served() as url:
        entries = roster(tmp_path / "r.toml", "fair, here, judge, trajectory = true", here=url)
        folder = play(roster=entries, judges=["fair"], limit=3).folder
    verdicts = runs.load(folder).verdicts.collect()
    assert set(verdicts["judge"]) == {"fair", "fair@2", "fair@4", "fair@6", "fair@8"} and verdicts.height == 15
    quoted = runs.load(folder).votes.filter(judge="fair@4").collect()["quotes"].explode().drop_nulls()
    assert quoted.len() and quoted.struct.field("turn").max() <= 4


def test_a_judge_of_the_family_is_named_so(play: Play, tmp_path: Path) -> None:
    with served() as url:
        entries = roster(
            tmp_path / "r.toml", 'kin, here, judge, family = "oak"', "fair, here, judge?noise=0.1", here=url
        )
        folder = play(roster=entries, judges=["kin", "fair"], limit=3).folder
    related = runs.load(folder).verdicts.collect().group_by("judge").agg(pl.col("related").all())
    assert dict(related.iter_rows()) == {"kin": True, "fair": False}


PANEL = '[[panels]]\nname = "bench"\nmembers = ["a", "b", "c"]\n'


def test_a_panel_with_a_dead_endpoint_decides_and_is_completed_when_it_is_back(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judges = ("a, here, judge", "b, here, judge?noise=0.2", "c, away, judge?noise=0.1")
    with served() as url:
        entries = roster(tmp_path / "r.toml", *judges, panel=PANEL, here=url, away=DEAD)
        result = play(roster=entries, judges=["bench"], limit=6)
        assert not result.sealed and set(result.progress.absent) == {"c"}
        assert f"nobody answers at {DEAD}" in result.progress.absent["c"]
        panel = runs.load(result.folder).verdicts.filter(judge="bench").collect()
        assert panel.height == 6 and set(panel["votes"]) == {2} and "invalid" not in set(panel["winner"])
        strict = roster(tmp_path / "s.toml", *judges, panel=PANEL + "quorum = 3\n", here=url, away=DEAD)
        lacking = play(roster=strict, judges=["bench"], limit=6)
        assert set(runs.load(lacking.folder).verdicts.filter(judge="bench").collect()["winner"]) == {"invalid"}

        before = stats(url)["answered"]
        for folder, path in ((result.folder, entries), (lacking.folder, strict)):
            path.write_text(path.read_text().replace(DEAD, url))
            assert main(["--resume", str(folder), "--roster", str(path)]) == 0
            panel = runs.load(folder).verdicts.filter(judge="bench").collect()
            assert is_sealed(folder) and set(panel["votes"]) == {3} and "invalid" not in set(panel["winner"])
        assert stats(url)["answered"] == before + 2 * 6 * 2, "only the one that was away is asked"


def test_a_judge_that_nobody_can_replace_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = roster(tmp_path / "r.toml", "a, away, judge", away=DEAD)
    line = refused(capsys, "--roster", entries, "--judges", "a", "--out", tmp_path / "out")
    assert f"endpoint 'away': nobody answers at {DEAD}" in line and not (tmp_path / "out").exists()


def test_a_quota_that_ends_leaves_votes_owed(play: Play, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('[[faults]]\nkind = "quota_402"\nrequests = [11]\n')
    entries = tmp_path / "r.toml"
    with served(faults=tmp_path / "f.toml") as url:
        result = play(roster=roster(entries, "a, here, judge", here=url), judges=["a", "rules"], limit=12)
        votes = runs.load(result.folder).votes.filter(judge="a").collect()
        assert not result.sealed and 5 <= votes.height < 24 and "invalid" not in set(votes["winner"])
    assert result.progress.done == 12 and runs.load(result.folder).verdicts.filter(judge="rules").collect().height == 12
    with served() as url:
        assert main(["--resume", str(result.folder), "--roster", str(roster(entries, "a, here, judge", here=url))]) == 0
        assert stats(url)["answered"] == 24 - votes.height
    tables = runs.load(result.folder)
    assert tables.votes.filter(judge="a").collect().height == 24 and not tables.failures.collect().height


def test_an_outage_leaves_votes_owed_and_a_question_of_its_own_fault_is_invalid(play: Play, tmp_path: Path) -> None:
    entries = tmp_path / "r.toml"
    (tmp_path / "f.toml").write_text('[[faults]]\nkind = "error_503"\nevery = 1\n')
    with served(faults=tmp_path / "f.toml") as url:
        result = play(roster=roster(entries, "a, here, judge", here=url), judges=["a"], limit=6)
    tables = runs.load(result.folder)
    assert not result.sealed and "server" in result.progress.absent["a"] and not tables.votes.collect().height
    (tmp_path / "f.toml").write_text('[[faults]]\nkind = "error_500_forever"\nrequests = [7]\n')
    with served(faults=tmp_path / "f.toml", latency=0.02) as url:
        words = ["--resume", str(result.folder), "--roster", str(roster(entries, "a, here, judge", here=url))]
        assert main([*words, "--concurrency", "4"]) == 0
    tables = runs.load(result.folder)
    votes, failures = tables.votes.collect(), tables.failures.collect()
    assert votes.height == 12 and votes.filter(winner="invalid").height == 1
    assert failures["kind"].to_list() == ["server"] and failures["attempts"][0] > 1


def test_a_dropped_judge_can_be_asked_again_without_its_roster(play: Play, tmp_path: Path) -> None:
    with served() as url:
        entries = roster(tmp_path / "r.toml", "a, here, judge", "b, here, judge?noise=0.1", here=url)
        stopped = play(roster=entries, judges=["a", "b"], limit=4, max_hours=1e-9)
        assert main(["--resume", str(stopped.folder), "--judges", "rules", "--max-hours", "1"]) == 0
        assert judge(Settings(from_run=str(stopped.folder), judges=["a"])).finished
        assert runs.load(stopped.folder).verdicts.filter(judge="a").collect().height == 4


def test_a_limit_on_cost_is_not_met_by_what_is_merely_held_back(play: Play, tmp_path: Path) -> None:
    with served(latency=0.005) as url:
        entries = roster(tmp_path / "r.toml", "a, here, judge", here=url)
        folder = play(limit=24).folder
        result = judge(Settings(from_run=str(folder), judges=["a"], roster=entries, max_cost=0.5))
    assert result.finished and 0.1 < calls(folder)["cost_usd"].sum() < 0.5


def test_judging_again_with_a_third_judge_asks_the_third_alone(play: Play, tmp_path: Path) -> None:
    with served() as url:
        entries = roster(tmp_path / "r.toml", "a, here, judge", "b, here, judge?noise=0.2", here=url)
        folder = play(roster=entries, judges=["a", "b"], limit=6).folder
        before = stats(url)["by_model"]
        more = roster(tmp_path / "m.toml", "c, here, judge?noise=0.3, samples = 2", here=url)
        assert judge(Settings(from_run=str(folder), judges=["c"], roster=more)).finished
        after = stats(url)["by_model"]
        assert {name: after[name] for name in before} == before
        assert after["judge?noise=0.3"]["answered"] == 24
        known = runs.load(folder).verdicts.collect()
        assert judge(Settings(from_run=str(folder), judges=["a", "b", "c"])).progress.verdicts == 0
        assert stats(url)["by_model"] == after and runs.load(folder).verdicts.collect().equals(known)


def test_another_judge_under_a_known_name_is_refused(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served() as url:
        entries = roster(tmp_path / "r.toml", "a, here, judge", here=url)
        folder = play(roster=entries, judges=["a"], limit=2).folder
        (tmp_path / "mine.txt").write_text("Judge by manners alone.")
        for other in (
            "a, here, judge?noise=0.2",
            "a, here, judge, samples = 2",
            f'a, here, judge, prompt = "{tmp_path}/mine.txt"',
        ):
            roster(entries, other, here=url)
            line = refused(capsys, "--from-run", folder, "--judges", "a", "--roster", entries, command=judge_main)
            assert "the run has another judge 'a'" in line and "give this one a new name" in line


def test_a_plan_tells_what_judging_would_cost(play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(block=1) as url:
        entries = roster(tmp_path / "r.toml", "a, here, judge, samples = 2", here=url)
        folder = play(limit=12).folder
        capsys.readouterr()
        words = ["--from-run", str(folder), "--judges", "a", "--roster", str(entries)]
        assert judge_main([*words, "--dry-run"]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("a ")).split()
        assert stats(url)["requests"] == 0
        assert judge_main(words) == 0
        counted = stats(url)
    assert int(row[2]) == counted["answered"] == 48
    fresh = counted["prompt_tokens"] - counted["cached_tokens"]
    assert 1000 * int(row[3]) == pytest.approx(counted["prompt_tokens"], rel=0.1)
    assert 1000 * int(row[4]) == pytest.approx(fresh, rel=0.2)
    assert 0.5 < float(row[6].split("-")[0]) / calls(folder)["cost_usd"].sum() < 2, "answers are guessed at"


def test_a_judging_that_costs_too_much_stops_and_goes_on(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(latency=0.01) as url:
        entries = roster(tmp_path / "r.toml", "a, here, judge", here=url)
        folder = play(limit=24).folder
        words = ["--from-run", str(folder), "--judges", "a", "--roster", str(entries)]
        assert judge_main([*words, "--max-cost", "0.1", "--concurrency", "1"]) == 1
        said = capsys.readouterr().err
        assert "of 0.10 USD are spent" in said and "go on with: python -m arena.judge" in said
        assert 0 < calls(folder)["cost_usd"].sum() <= 0.1
        runs.tables.verify(folder)
        assert judge_main(words) == 0
        assert stats(url)["repeats"] == 0 and runs.load(folder).verdicts.filter(judge="a").collect().height == 24


@pytest.mark.slow
def test_judging_is_killed_and_asks_nothing_twice(play: Play, tmp_path: Path) -> None:
    with served(latency=0.02) as url:
        entries = roster(tmp_path / "r.toml", "a, here, judge, samples = 2", here=url)
        folder = play(limit=120).folder
        words = [
            sys.executable,
            "-m",
            "arena.judge",
            "--from-run",
            str(folder),
            "--judges",
            "a",
            "--roster",
            str(entries),
        ]
        for least in (60, 200, 340):
            process = subprocess.Popen([*words, "--concurrency", "8"], stderr=subprocess.DEVNULL)
            wait_for(folder, least, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0
        counted = stats(url)
    votes = runs.load(folder).votes.filter(judge="a").collect()
    assert votes.height == votes.unique(["debate_id", "order", "sample"]).height == 480
    assert counted["repeats"] <= 3 * 8 * 3, "what was in flight when it was killed, and no more"


def wait_for(folder: Path, votes: int, process: "subprocess.Popen[bytes]") -> None:
    """Until so many votes of judge `a` are in the journal."""
    for _ in range(1200):
        assert process.poll() is None, "it ended before it could be killed"
        with sqlite3.connect(f"file:{folder / 'journal.db'}?mode=ro", uri=True) as connection:
            if connection.execute("SELECT count(*) FROM votes WHERE judge = 'a'").fetchone()[0] >= votes:
                return
        time.sleep(0.05)
    raise AssertionError("no votes within a minute")


def test_a_leaderboard_says_how_far_its_judge_can_be_trusted(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from arena.calibrate import main as calibrate
    from runs.show import main as show

    with served() as url:
        biased = "biased, here, judge?position=0.6"
        entries = roster(tmp_path / "r.toml", "fair, here, judge", biased, panel=PANEL_OF_TWO, here=url)
        folder = play(roster=entries, judges=["pair", "rules"], limit=24).folder
        out = ["--out", str(folder.parent)]
        capsys.readouterr()
        assert show([str(folder), *out]) == 0
        said = capsys.readouterr().out
        assert said.count("note: judge 'biased' was never calibrated") == 2, "under its own board, and the panel's"
        assert "judge 'rules'" not in said
        for name in ("fair", "biased"):
            words = ["--judge", name, "--roster", str(entries), "--from-run", str(folder), "--limit", "4", *out]
            assert calibrate(words) == 0
        capsys.readouterr()
        assert show([str(folder), "--judge", "pair", *out]) == 0
        said = capsys.readouterr().out
    assert "note: judge 'biased': below its gates: " in said and "position_bias" in said
    assert "judge 'fair'" not in said and "never calibrated" not in said


PANEL_OF_TWO = '[[panels]]\nname = "pair"\nmembers = ["fair", "biased"]\n'
