"""Contestants at endpoints, over real HTTP: every fault has its outcome, nothing is lost, nothing leaks, no limit is
passed, and what a run says it spent is what the server counted."""

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import Play, refused

import runs
from arena import roster as rosters
from arena import simulate, simulate_faults
from arena.client import key_of, pause_of
from arena.endpoints import Endpoint
from arena.prompting import messages
from arena.run import main
from runs.records import Debate, Match, Turn, slots_for
from runs.run import stored_topics
from runs.spec import Spec
from runs.tables import is_sealed

ROOT = Path(__file__).parent.parent
KEY = "sk-planted-0123456789"


@contextmanager
def endpoint(folder: Path, faults: str = "", **settings: Any) -> Iterator[str]:
    """A simulated endpoint in a thread; gives its base URL."""
    if faults:
        (folder / "faults.toml").write_text(faults)
        settings["faults"] = folder / "faults.toml"
    with simulate.serve(simulate.Settings.model_validate({"port": 0} | settings)) as url:
        yield url


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def league(path: Path, url: str, *models: str, limits: str = "", dials: str = "") -> Path:
    """A roster of models at one endpoint; it costs 1, 0.1 and 10 USD per million prompt, cached and answer tokens."""
    prices = "prompt_price = 1.0\ncached_price = 0.1\ncompletion_price = 10.0"
    text = f'[[endpoints]]\nname = "here"\nbase_url = "{url}"\n{prices}\n{limits}\n'
    for model in models or ("sim-0.8", "sim-0.3"):
        text += f'[[contestants]]\nname = "{model}"\nendpoint = "here"\nmodel = "{model}"\n{dials}\n'
    path.write_text(text)
    return path


def spent(found: dict[str, Any]) -> float:
    """What the tokens that a server counted cost."""
    fresh = found["prompt_tokens"] - found["cached_tokens"]
    return (fresh + 0.1 * found["cached_tokens"] + 10 * found["completion_tokens"]) / 1e6


# ── the fault matrix ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Row:
    """One fault, and what must come of four debates."""

    fault: str
    """On the third request of the run, or as it says itself."""
    outcome: str
    """`complete`; the kind of failure that makes a debate void; or `owed`."""
    more: str = ""
    attempts: int = 2
    """Of the call that met it, where it is complete."""
    limits: str = ""


ROWS = [
    Row("rate_retry_after", "complete", "retry_after = 0.2"),
    Row("rate_retry_after_ms", "complete", "retry_after = 0.2"),
    Row("rate_reset_headers", "complete", "retry_after = 0.2"),
    Row("rate_bare", "complete"),
    Row("error_500", "complete"),
    Row("error_500_forever", "server"),
    Row("error_503", "complete"),
    Row("hang", "complete", limits="timeout_s = 0.5"),
    Row("reset", "complete"),
    Row("slow_body", "complete", "seconds = 0.5", attempts=1),
    Row("error_body", "complete"),
    Row("invalid_json", "complete"),
    Row("no_choices", "complete"),
    Row("null_content", "complete"),
    Row("content_filter", "content"),
    Row("refusal", "content"),
    Row("truncated", "complete", attempts=1),
    Row("unterminated_think", "complete"),
    Row("think_only", "complete"),
    Row("reasoning_field", "complete", attempts=1),
    Row("auth_401", "owed"),
    Row("model_404", "not_found"),
    Row("bad_request_400", "refused"),
    Row("context_length_400", "length"),
    Row("quota_429", "owed"),
    Row("quota_402", "owed"),
]


LOST = ("error_500", "error_500_forever", "hang", "reset", "error_body", "invalid_json")
"""Faults after which nobody knows what the request took; after all others it was refused, or is told."""


@pytest.mark.parametrize("row", ROWS, ids=[row.fault for row in ROWS])
def test_every_fault_has_its_outcome_and_nothing_is_lost(row: Row, play: Play, tmp_path: Path) -> None:
    faults = f'[[faults]]\nkind = "{row.fault}"\nrequests = [3]\n{row.more}\n'
    with endpoint(tmp_path, faults) as url:
        entries = league(tmp_path / "r.toml", url, limits=row.limits)
        result = play(roster=entries, limit=4, format="brief", concurrency=1)
        counted = stats(url)
        assert counted["faults"] == {row.fault: 2 if row.fault == "error_500_forever" else 1}
        tables = {name: getattr(runs.load(result.folder), name).collect() for name in ("debates", "turns", "calls")}
        failures = runs.load(result.folder).failures.collect()
        statuses = tables["debates"]["status"].to_list()
        if row.outcome == "complete":
            assert result.sealed and statuses == ["complete"] * 4 and not failures.height
            assert tables["turns"].height == 40
            assert sorted(tables["calls"].filter(role="speak")["attempts"])[-2:] == [1, row.attempts]
        elif row.outcome == "owed":
            assert not result.sealed and len(result.progress.parked) == 1 and not failures.height
            assert "void" not in statuses
            assert tables["turns"].height == 2, "what was spoken before stays"
            assert main(["--resume", str(result.folder)]) == 0, "and goes on when the endpoint answers again"
            assert runs.load(result.folder).turns.collect().height == 40
        else:
            assert result.sealed and statuses.count("void") == 1
            assert failures["kind"].to_list() == [row.outcome] and failures["turn"].to_list() == [3]
            void = tables["debates"].filter(status="void")["debate_id"][0]
            assert tables["turns"].filter(debate_id=void).height == 2, "a void debate keeps its turns"
            assert tables["turns"].height == 32
        calls = runs.load(result.folder).calls.collect()
        assert calls["unknown_usd"].count() == (row.fault in LOST), "what nobody says is told apart"
        if row.fault != "invalid_json":  # what it cost cannot be read
            assert calls["cost_usd"].sum() == pytest.approx(spent(stats(url)), rel=1e-9)
        words = dict(tables["turns"].filter(turn=3).select("debate_id", "trimmed").iter_rows())
        assert any(words.values()) == (row.fault == "truncated"), "cut off by a limit: ends at a sentence, marked"
        assert not tables["turns"]["text"].str.contains("<think").any()
        thought = tables["turns"]["reasoning"].str.contains("meet that first").any()
        assert bool(thought) == (row.fault == "reasoning_field"), "a field of its own is private too"


def test_pauses_are_read_in_every_form() -> None:
    assert pause_of({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert pause_of({"retry-after": "2"}) == 2
    assert pause_of({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0, "a date in the past"
    assert pause_of({"x-ratelimit-reset-requests": "1m2.5s", "x-ratelimit-remaining-requests": "0"}) == 62.5
    both = {"x-ratelimit-reset-requests": "120ms", "x-ratelimit-reset-tokens": "2s"}
    assert pause_of(both) == 2
    assert pause_of(both | {"x-ratelimit-remaining-tokens": "900"}) == pytest.approx(0.12)
    for odd in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"x-ratelimit-reset-requests": "1 week"}):
        assert pause_of(odd) is None
    assert pause_of({"retry-after": "1e8"}) == 3600


def test_who_fails_too_often_is_parked_and_the_others_play(play: Play, tmp_path: Path) -> None:
    with endpoint(tmp_path, '[[faults]]\nkind = "bad_request_400"\nmodel = "sim-0.1"\nevery = 1\n') as url:
        entries = league(tmp_path / "r.toml", url, "sim-0.8", "sim-0.3", "sim-0.1")
        result = play(roster=entries, limit=60, format="brief", concurrency=4)
    debates = runs.load(result.folder).debates.collect()
    assert not result.sealed and list(result.progress.parked) == ["sim-0.1"]
    assert "made" in result.progress.parked["sim-0.1"] and "debates void" in result.progress.parked["sim-0.1"]
    assert 5 <= debates.filter(status="void").height < 20
    others = debates.filter(status="complete")
    assert set(others["for_contestant"]) == {"sim-0.8", "sim-0.3"} and others.height == 20


def test_an_endpoint_that_is_gone_for_a_while_loses_nothing(tmp_path: Path) -> None:
    """The server is stopped in the middle and comes back on the same port: what waits does not use up its attempts."""
    server = served(tmp_path, "--latency", "0.02")
    url = server.url
    entries = league(tmp_path / "r.toml", url, limits="attempts = 3")
    words = ["--roster", str(entries), "--limit", "30", "--format", "brief", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "arena.run", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while stats(url)["answered"] < 40:
        time.sleep(0.02)
    server.stop()
    time.sleep(2)
    again = served(tmp_path, "--latency", "0.02", port=url.rpartition(":")[2].removesuffix("/v1"))
    printed, said = process.communicate(timeout=120)
    again.stop()
    assert process.returncode == 0, said
    assert "0 failures; 0 debates are void" in printed


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)


def served(folder: Path, *words: str, port: str = "0") -> Served:
    """A simulated endpoint in a process of its own."""
    command = [sys.executable, "-m", "arena.simulate", "--port", port, *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http" in line, line
    return Served(process, line.split()[-1])


# ── many faults at once, limits, killing ─────────────────────────────────────────────────────────────

MIX = (
    "rate_retry_after_ms",
    "rate_bare",
    "error_500",
    "error_503",
    "reset",
    "error_body",
    "no_choices",
    "null_content",
    "truncated",
    "unterminated_think",
)


@pytest.mark.slow
def test_a_thousand_debates_under_five_percent_of_faults(tmp_path: Path) -> None:
    faults = "".join(f'[[faults]]\nkind = "{kind}"\nshare = 0.005\n' for kind in MIX)
    faults = faults.replace('"rate_retry_after_ms"\n', '"rate_retry_after_ms"\nretry_after = 0.05\n')
    (tmp_path / "faults.toml").write_text(faults)
    limits = {"requests_per_minute": 3_300, "tokens_per_minute": 6_000_000}
    flags = [word for name, value in limits.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    server = served(tmp_path, "--faults", "faults.toml", "--latency", "0.01", *flags)
    try:
        stated = "\n".join(f"{name} = {value}" for name, value in limits.items())
        entries = league(tmp_path / "r.toml", server.url, "granite", "sim-0.6", "tinder", limits=stated)
        words = ["--roster", str(entries), "--limit", "1000", "--format", "brief", "--out", str(tmp_path / "out")]
        assert main(words) == 0
        counted = stats(server.url)
    finally:
        server.stop()
    (folder,) = runs.run.folders(tmp_path / "out")
    tables = runs.load(folder)
    debates = tables.debates.collect()
    assert debates.filter(status="complete").height >= 995
    assert counted["max_requests_in_window"] <= limits["requests_per_minute"]
    assert counted["max_tokens_in_window"] <= limits["tokens_per_minute"]
    assert counted["refused"] == 0, "no request was turned away by a limit that was known"
    assert sum(counted["faults"].values()) > 300 and set(counted["faults"]) == set(MIX)
    calls = tables.calls.collect()
    for column, name in (("prompt_tokens",) * 2, ("cached_tokens",) * 2, ("completion_tokens",) * 2):
        assert calls[column].sum() == counted[name]
    assert calls["cost_usd"].sum() == pytest.approx(spent(counted), rel=1e-9)


def journalled(folder: Path) -> int:
    with sqlite3.connect(f"file:{folder / 'journal.db'}?mode=ro", uri=True) as connection:
        (count,) = connection.execute("SELECT count(*) FROM turns").fetchone()
    connection.close()
    return int(count)


@pytest.mark.slow
def test_killed_and_resumed_no_journalled_call_is_sent_again(tmp_path: Path) -> None:
    server, draw = served(tmp_path, "--latency", "0.03"), random.Random(7)
    out, in_flight, kills = tmp_path / "out", 8, 0
    entries = league(tmp_path / "r.toml", server.url, "granite", "sim-0.6", "tinder", limits=f"in_flight = {in_flight}")
    spec = ["--roster", str(entries), "--limit", "40", "--format", "brief"]
    try:
        for _ in range(40):
            folder = next((folder for folder in runs.run.folders(out) if not is_sealed(folder)), None)
            if runs.run.folders(out) and folder is None:
                break
            before = journalled(folder) if folder else 0
            words = ["--out", str(out), *(["--resume", str(folder)] if folder else spec)]
            process = subprocess.Popen(
                [sys.executable, "-m", "arena.run", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=tmp_path,
            )
            asked = stats(server.url)["requests"]
            while process.poll() is None and (kills >= 6 or stats(server.url)["requests"] < asked + 20):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2))
            kills += process.poll() is None
            process.kill()
            process.communicate()
            assert not folder or journalled(folder) >= before
        counted = stats(server.url)
    finally:
        server.stop()
    (folder,) = runs.run.folders(out)
    tables = runs.load(folder)
    assert tables.sealed and kills >= 5
    assert tables.debates.collect()["status"].to_list() == ["complete"] * 40
    assert tables.turns.collect().height == 400
    calls = tables.calls.collect()
    assert calls.filter(role="speak").height == 400 and calls["call_id"].n_unique() == calls.height
    # three models, each with a window of its own: what was in flight, and what was answered and not yet written
    lost = 2 * 3 * in_flight * kills
    assert counted["repeats"] <= lost
    assert counted["answered"] <= calls.height + lost


# ── what a debate's tokens cost ──────────────────────────────────────────────────────────────────────


def test_a_server_with_a_prefix_cache_reads_every_token_once(play: Play, tmp_path: Path) -> None:
    with endpoint(tmp_path, block=1) as url:
        result = play(roster=league(tmp_path / "r.toml", url, "tinder", "sim-0.5"), limit=12)
        counted = stats(url)
    assert not runs.load(result.folder).calls.filter(role="shorten").collect().height
    assert counted["prompt_tokens"] - counted["cached_tokens"] <= bound(result.folder)
    assert counted["cached_tokens"] > counted["prompt_tokens"] / 2


def bound(folder: Path) -> int:
    """Each token of a debate once per contestant, and what frames a prompt once a call."""
    tables, spec = runs.load(folder), Spec.read(folder)
    topics = {topic.topic_id: topic for topic in stored_topics(tables.topics)}
    turns = tables.turns.collect()
    total = 0
    for row in tables.debates.collect().iter_rows(named=True):
        names = (
            "debate_id",
            "match",
            "topic_id",
            "for_contestant",
            "against_contestant",
            "opener",
            "replicate",
            "seed",
        )
        said = turns.filter(debate_id=row["debate_id"]).sort("turn").to_dicts()
        debate = Debate(
            match=Match(**{name: row[name] for name in names}),
            topic=topics[row["topic_id"]],
            slots=slots_for(spec.format, row["opener"]),
            turns=tuple(Turn(**turn) for turn in said),
        )
        for slot in debate.slots[-2:]:
            total += simulate.count_tokens(messages(debate, slot)) + 3 * len(debate.slots) // 2
    return total


def test_a_speech_over_its_budget_is_sent_back_once_and_then_trimmed(play: Play, tmp_path: Path) -> None:
    with endpoint(tmp_path) as url:
        result = play(roster=league(tmp_path / "r.toml", url, "cedar", "tinder"), limit=12)
        kept = play(roster=league(tmp_path / "s.toml", url, "cedar", "tinder", dials="shortens = false"), limit=12)
    tables, long = runs.load(result.folder), runs.load(kept.folder)
    calls = tables.calls.filter(role="shorten").collect()
    assert calls.height > 3 and set(calls["model"]) == {"cedar"}
    assert calls.unique(["debate_id", "turn"]).height == calls.height, "once"
    budget = {slot.turn: slot.words for slot in Spec.read(result.folder).format}
    turns = tables.turns.collect()
    assert all(words <= budget[turn] for turn, words in turns.select("turn", "words").iter_rows())
    assert turns["trimmed"].sum() < long.turns.collect()["trimmed"].sum()
    assert not long.calls.filter(role="shorten").collect().height


def test_a_run_stops_before_it_costs_more_than_it_may(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(tmp_path, latency=0.01) as url:
        entries = league(tmp_path / "r.toml", url)
        words = ["--roster", str(entries), "--limit", "20", "--out", str(tmp_path / "out"), "--max-cost", "0.5"]
        assert main([*words, "--concurrency", "2"]) == 1  # what is held for two answers is little beside the limit
        said = capsys.readouterr().err
        (folder,) = runs.run.folders(tmp_path / "out")
        cost = runs.load(folder).calls.collect()["cost_usd"].sum()
        assert 0.4 < cost <= 0.5 and cost == pytest.approx(spent(stats(url)))
        assert "of 0.50 USD are spent" in said and f"--resume {folder}" in said
        assert main(["--resume", str(folder), "--max-cost", "100"]) == 0
        assert runs.load(folder).turns.collect().height == 200
        assert runs.load(folder).calls.collect()["cost_usd"].sum() == pytest.approx(spent(stats(url)))


def test_a_run_stops_after_its_hours(play: Play, tmp_path: Path) -> None:
    with endpoint(tmp_path, latency=0.05) as url:
        result = play(roster=league(tmp_path / "r.toml", url), limit=200, concurrency=4, max_hours=1 / 3600)
        assert not result.sealed and "are over" in result.progress.stopped and not result.progress.parked
        assert 0 < runs.load(result.folder).turns.collect().height < 2000


def test_why_an_answer_ended_is_bounded_and_can_be_stored() -> None:
    from arena.client import Client

    body = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "\ud800\x00" + 1000 * "x"}]}
    client = Client(Endpoint(name="e", base_url=("http://127.0.0.1:9/v1",)))
    finish = client.read(200, body).finish
    assert finish is not None and len(finish) <= 50 and finish.encode()


def test_an_interrupt_does_not_wait_for_a_pause_of_minutes(tmp_path: Path) -> None:
    faults = '[[faults]]\nkind = "rate_retry_after"\nrequests = [30]\nretry_after = 600\n'
    with endpoint(tmp_path, faults, latency=0.02) as url:
        entries = league(tmp_path / "r.toml", url, "sim-0.8", "sim-0.3")
        words = ["--roster", str(entries), "--limit", "30", "--out", str(tmp_path / "out")]
        command = [sys.executable, "-m", "arena.run", *words]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while not stats(url)["faults"]:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "--resume" in said and "parked" not in said


# ── keys, rosters, several base URLs ─────────────────────────────────────────────────────────────────


@contextmanager
def listening(answer: Any) -> Iterator[str]:
    """A server of one handler, in a thread."""
    found: list[Any] = []

    async def run() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stop = asyncio.Event()
        found.append((runner.addresses[0][1], asyncio.get_running_loop(), stop))
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    while not found:
        time.sleep(0.01)
    port, loop, stop = found[0]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@contextmanager
def echoing(status: int) -> Iterator[str]:
    """A server that repeats the key it is given: in its errors, or in its answers."""

    async def answer(request: web.Request) -> web.Response:
        key = request.headers["authorization"].removeprefix("Bearer ")
        if request.path.endswith("/models") or status == 200:
            said = f"My key is {key}, and I say so."
            message = {"role": "assistant", "content": said, "reasoning_content": f"It is {key}."}
            body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "data": [{"id": "m"}]}
            return web.json_response(body | {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})
        return web.json_response({"error": {"message": f"Bad key {key}", "code": "odd"}}, status=status)

    with listening(answer) as url:
        yield url


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_never_reaches_a_file_or_a_message(
    status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"PLANTED_KEY={KEY}\n")
    with echoing(status) as url:
        entries = league(tmp_path / "r.toml", url, "m", limits='api_key_env = "PLANTED_KEY"')
        second = '[[contestants]]\nname = "n"\nendpoint = "here"\nmodel = "m"\n'
        entries.write_text(entries.read_text() + second)
        code = main(["--roster", str(entries), "--limit", "2", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    (folder,) = runs.run.folders(tmp_path / "out")
    assert KEY not in printed.out + printed.err
    for path in folder.iterdir():
        assert KEY.encode() not in path.read_bytes(), path
    assert code == (1 if status == 401 else 0)
    for name in ("turns", "failures", "calls"):
        assert KEY not in str(getattr(runs.load(folder), name).collect().rows())
    if status == 200:
        assert "My key is [key], and I say so." in runs.load(folder).turns.collect()["text"].to_list()


def test_a_key_is_taken_from_the_environment_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = Endpoint(name="e", base_url=("http://127.0.0.1:1/v1",), api_key_env="PLANTED_KEY")
    (tmp_path / ".env").write_text("PLANTED_KEY=from-file\n")
    assert key_of(entry) == "from-file"
    monkeypatch.setenv("PLANTED_KEY", KEY)
    assert key_of(entry) == KEY


ENDPOINT = '[[endpoints]]\nname = "here"\nbase_url = "http://127.0.0.1:9/v1"\n'
SEAT = '[[contestants]]\nname = "a"\nendpoint = "here"\nmodel = "m"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ENDPOINT + SEAT.replace('"here"', '"hree"'),
            "unknown endpoint 'hree'; the roster has here; did you mean 'here'",
        ),
        (SEAT, "unknown endpoint 'here'; the roster has none: add [[endpoints]]"),
        (
            ENDPOINT + 'api_key_env = "NO_SUCH_KEY"\n' + SEAT + SEAT.replace('"a"', '"b"'),
            "variable NO_SUCH_KEY; set it",
        ),
        (ENDPOINT + SEAT + SEAT, "uses the name 'a' twice"),
        (ENDPOINT + ENDPOINT + SEAT, "uses the name 'here' twice"),
        (
            ENDPOINT + "requests_per_minute = -5\n" + SEAT,
            "endpoints number 1 requests_per_minute: Input should be greater",
        ),
        (ENDPOINT + "in_flight = 0\n" + SEAT, "endpoints number 1 in_flight"),
        (ENDPOINT.replace("http", "ftp") + SEAT, "expected http://HOST:PORT/v1"),
        (ENDPOINT.replace("127", "me:secret@127") + SEAT, "a key is named by api_key_env"),
        ('[[endpoints]]\nname = "here"\n' + SEAT, "has no base_url"),
        ('[[endpoints]]\nname = "here"\nkind = "vllm"\n' + SEAT, "has neither base_url nor model"),
        (
            ENDPOINT + SEAT.replace('model = "m"\n', "") + SEAT.replace('"a"', '"b"'),
            "names no model of endpoint 'here'",
        ),
        (ENDPOINT + SEAT + SEAT.replace('"a"', '"b"\nadapter = "dpo-x"'), "takes no adapters"),
        (
            ENDPOINT + 'kind = "vllm"\n' + SEAT + SEAT.replace('"a"', '"b"\nadapter = "dpo-0123456789ab"'),
            "no adapter 'dpo-0123456789ab'",
        ),
        (ENDPOINT + SEAT + SEAT.replace('"a"', '"b"'), "nobody answers at http://127.0.0.1:9/v1"),
    ],
)
def test_a_wrong_roster_is_one_line_before_the_first_call(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text(text)
    line = refused(capsys, "--roster", tmp_path / "r.toml", "--limit", 2, "--out", tmp_path / "out")
    assert message in line
    assert not runs.run.folders(tmp_path / "out")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_sound(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if path.stem == "faults":
        assert simulate_faults.load(path)
        return
    roster = rosters.load(path)
    assert len(roster.contestants) >= 2 and len(roster.endpoints) >= 1
    if not any(getattr(entry, "adapter", None) or entry.name == "taught" for entry in roster.contestants):
        assert main(["--roster", str(path), "--limit", "30", "--dry-run", "--out", str(tmp_path)]) == 0
        assert "USD, with and without a prefix cache" in capsys.readouterr().out


def test_a_model_that_the_server_does_not_list_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(tmp_path, models=["granite", "cedar"]) as url:
        entries = league(tmp_path / "r.toml", url, "granite", "cedra")
        line = refused(capsys, "--roster", entries, "--limit", 2, "--out", tmp_path / "out")
        assert stats(url)["requests"] == 0
    assert "has no model 'cedra'; it has cedar, granite; did you mean 'cedar'" in line


def test_a_dry_run_sends_nothing_and_says_what_it_would_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(tmp_path) as url:
        entries = league(tmp_path / "r.toml", url)
        assert main(["--roster", str(entries), "--limit", "10", "--dry-run", "--out", str(tmp_path / "out")]) == 0
        planned = capsys.readouterr().out
        assert stats(url)["requests"] == 0
        assert main(["--roster", str(entries), "--limit", "10", "--out", str(tmp_path / "out")]) == 0
        whole = stats(url)
    assert "longest path: 10 speeches and a vote" in planned and not (tmp_path / "out" / "spec.json").exists()
    low, high = map(float, planned.partition("cost: ")[2].split(" ")[0].split("-"))
    assert low * 0.6 < spent(whole) < high * 1.2


def test_a_debate_keeps_to_one_of_several_base_urls(play: Play, tmp_path: Path) -> None:
    with endpoint(tmp_path, block=1) as one, endpoint(tmp_path, block=1) as other:
        entries = league(tmp_path / "r.toml", one, "tinder", "sim-0.5")
        entries.write_text(entries.read_text().replace(f'"{one}"', json.dumps([one, other])))
        result = play(roster=entries, limit=24, format="brief")
        counted = [stats(one), stats(other)]
    assert result.sealed and all(found["answered"] > 40 for found in counted)
    together = {name: sum(found[name] for found in counted) for name in ("prompt_tokens", "cached_tokens")}
    assert together["prompt_tokens"] - together["cached_tokens"] <= bound(result.folder)


def test_what_an_opponent_thought_is_in_no_prompt(tmp_path: Path, play: Play) -> None:
    """Whatever way private reasoning comes in, no token of it is sent to anybody, or stands in a text."""
    secret, heard = "XSECRETX", []
    ways = [
        f"<think>{secret} one</think>A fair point stands here.",
        f"{secret} before</think> A fair point stands here.",
        f"A fair point stands here. <thinking>{secret} never closed",
        f"<think>a <think>{secret}</think> {secret}</think>A fair point stands here.",
        f"<THINK >{secret}</THINK> A fair point stands here. [think]{secret}[/think]",
    ]

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(status=404)
        heard.append(await request.text())
        message = {"role": "assistant", "content": ways[len(heard) % len(ways)], "reasoning": f"{secret} in a field"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return web.json_response(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    with listening(answer) as url:
        result = play(roster=league(tmp_path / "r.toml", url, "m", "n"), limit=4)
    assert result.sealed and len(heard) == 40
    assert not any(secret in body for body in heard)
    turns = runs.load(result.folder).turns.collect()
    assert turns["reasoning"].str.contains(secret).all() and not turns["text"].str.contains(secret).any()
    votes = runs.load(result.folder).votes.collect()
    assert secret not in json.dumps(votes.to_dicts(), default=str)
