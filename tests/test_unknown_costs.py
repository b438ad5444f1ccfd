"""What a failed call cost: a request that was sent, and of which nobody says what it took, is no request that cost
nothing; it is told beside every sum, counts at its most against what may be spent, and is read in runs of any age."""

import asyncio
import json
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from conftest import Play
from test_endpoints import endpoint, league, listening, spent, stats
from test_view import seen

import runs
from arena.client import NOTHING, Client, Fault, Usage
from arena.endpoints import Endpoint
from arena.run import main
from runs import costs
from runs.files import sha256_of
from runs.list import look, render
from runs.report.__main__ import main as report
from runs.schema import VERSION
from runs.show import transcript
from runs.spec import Spec

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"


def taken(url: str) -> Usage | None:
    """What one request took, whatever came of it."""

    async def ask() -> Usage | None:
        client = Client(Endpoint(name="e", base_url=(url,), timeout_s=0.5, connect_timeout_s=0.5))
        try:
            return (await client.send(BODY, session="d")).usage
        except Fault as fault:
            return fault.usage
        finally:
            await client.close()

    return asyncio.run(ask())


@contextmanager
def breaking(how: str) -> Iterator[str]:
    """A server that takes one request and then breaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            wire, _ = server.accept()
            with wire:
                wire.recv(1 << 16)
                if how == "half":
                    wire.sendall(HEAD + b'{"choices"')
                elif how == "garbage":
                    wire.sendall(b"and now for something else\r\n\r\n")
                elif how == "hang":
                    time.sleep(1)
                elif how == "reset":
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        thread.join()


@pytest.mark.parametrize("how", ["hang", "reset", "close", "half", "garbage"])
def test_what_breaks_after_it_was_sent_may_have_been_billed(how: str) -> None:
    with breaking(how) as url:
        assert taken(url) is None


def test_what_was_never_sent_took_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert taken(f"http://127.0.0.1:{port}/v1") == NOTHING
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    assert taken("http://192.0.2.1/v1") == NOTHING, "not even to a proxy"


SAID: dict[str, tuple[int, Any, Usage | None]] = {
    **{
        str(status): (status, {"error": {"message": "no"}}, NOTHING)
        for status in (400, 401, 402, 404, 413, 429, 503, 529)
    },
    **{str(status): (status, {"error": {"message": "oh"}}, None) for status in (500, 502, 504)},
    "error": (200, {"error": {"message": "oh"}}, None),
    "refusal": (200, {"error": {"message": "no", "code": 429}}, NOTHING),
    "told": (
        200,
        {"error": {"message": "oh"}, "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        Usage(prompt=3, completion=2),
    ),
    "silent": (200, {"choices": [CHOICE]}, None),
    "half": (200, {"choices": [CHOICE], "usage": {"prompt_tokens": 3}}, None),
    "odd": (200, {"choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": "two"}}, None),
    "free": (200, {"choices": [CHOICE], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}, NOTHING),
    "nothing": (200, {"choices": []}, None),
    "no object": (200, [], None),
}


@pytest.mark.parametrize("name", SAID)
def test_what_an_answer_does_not_say_is_not_nothing(name: str) -> None:
    status, body, usage = SAID[name]

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    with listening(answer) as url:
        assert taken(url) == usage


# ── played ───────────────────────────────────────────────────────────────────────────────────────────

HANG = '[[faults]]\nkind = "hang"\nrequests = [3]\n'


def played(play: Play, folder: Path, attempts: int, faults: str = HANG) -> tuple[Path, float]:
    """A run whose third request is never answered, if it meets that fault; and what its answers cost."""
    with endpoint(folder, faults) as url:
        limits = f"timeout_s = 0.5\nattempts = {attempts}"
        result = play(roster=league(folder / "r.toml", url, limits=limits), limit=4, format="brief", concurrency=1)
        return result.folder, spent(stats(url))


def shown(folder: Path, debate: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Whatever shows a sum of costs."""
    capsys.readouterr()
    assert report([str(folder), "--format", "md"]) == 0
    entry = look(folder)
    with seen(folder) as browser:
        page = browser.get(f"/debates/{debate}").said
    return {
        "show": transcript(runs.load(folder), debate),
        "list": render([entry], folder.parent),  # type: ignore[list-item]
        "report": (folder / "report.md").read_text(),
        "view": page,
    }


def test_a_call_without_an_answer_has_no_cost_and_is_told_beside_every_sum(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, paid = played(play, tmp_path, attempts=1)
    calls = runs.load(folder).calls.collect()
    (lost,) = calls.filter(pl.col("unknown_usd").is_not_null()).to_dicts()
    assert [lost[name] for name in ("cost_usd", "prompt_tokens", "completion_tokens", "finish_reason")] == [None] * 4
    assert lost["turn"] == 3 and lost["attempts"] == 1
    assert calls["cost_usd"].sum() == pytest.approx(paid, rel=1e-9) and calls["cost_usd"].null_count() == 1
    (tmp_path / "whole").mkdir()
    whole, _ = played(play, tmp_path / "whole", attempts=1, faults="")
    same = runs.load(whole).calls.filter(debate_id=lost["debate_id"], turn=3, role="speak").collect()
    assert lost["unknown_usd"] >= same["cost_usd"][0] > 0, "no answer costs more than the most"
    ledger = costs.spent(runs.load(folder), Spec.read(folder))
    assert ledger["unknown"].sum() == 1 and ledger["cost_usd"].sum() == pytest.approx(paid)
    said = {"show": "and 1 call of unknown cost", "list": " +1?", "view": "and 1 call of unknown cost"}
    said["report"] = "USD in all and 1 call of unknown cost"
    sealed = shown(folder, lost["debate_id"], capsys)
    (folder / "manifest.json").unlink()
    live = shown(folder, lost["debate_id"], capsys)
    other = shown(whole, lost["debate_id"], capsys)
    for name, words in said.items():
        assert words in sealed[name] and words in live[name] and words not in other[name], name
        assert "unknown cost" not in other[name]


def test_what_its_other_attempts_cost_is_known(play: Play, tmp_path: Path) -> None:
    folder, paid = played(play, tmp_path, attempts=2)
    calls = runs.load(folder).calls.collect()
    assert calls["cost_usd"].null_count() == 0 and calls["cost_usd"].sum() == pytest.approx(paid, rel=1e-9)
    (late,) = calls.filter(attempts=2).to_dicts()
    assert late["unknown_usd"] >= late["cost_usd"] > 0 and late["completion_tokens"] > 0
    assert calls["unknown_usd"].count() == 1


def test_what_is_unknown_counts_at_its_most_against_what_may_be_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an endpoint that never answers no more is asked than what all of it may cost, in two sittings together."""
    with endpoint(tmp_path, '[[faults]]\nkind = "hang"\nevery = 1\n') as url:
        entries = league(tmp_path / "r.toml", url, limits="timeout_s = 0.2\nattempts = 100")
        words = ["--roster", str(entries), "--limit", "4", "--format", "brief", "--out", str(tmp_path / "out")]
        assert main([*words, "--max-cost", "0.05", "--concurrency", "2"]) == 1
        (folder,) = runs.run.folders(tmp_path / "out")
        calls, asked = runs.load(folder).calls.collect(), stats(url)["requests"]
        assert asked == calls["attempts"].sum() > 1 and calls["cost_usd"].count() == 0
        most = calls["unknown_usd"].sum()
        assert most <= 0.05 < most + calls["unknown_usd"].max()
        assert main(["--resume", str(folder), "--max-cost", "0.05"]) == 1
        assert stats(url)["requests"] == asked, "what may be spent already is remembered"
        said = capsys.readouterr().err
        assert (
            f"of 0.05 USD are spent at most, as nobody says what requests took that may have cost {most:.2f};" in said
        )


def test_where_no_cost_is_known_none_is_told(play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, paid = played(play, tmp_path, attempts=1, faults='[[faults]]\nkind = "hang"\nevery = 1\n')
    calls = runs.load(folder).calls.collect()
    assert paid == 0 and len(calls) == calls["cost_usd"].null_count() > 0
    said = shown(folder, calls["debate_id"][0], capsys)
    assert f"no USD known and {len(calls)} calls of unknown cost" in said["report"]
    assert "cost not known" in said["show"] and "cost not known" in said["view"]
    assert "0 USD in all" not in said["report"] and "0.0000" not in said["view"]


def test_what_an_endpoint_without_a_price_took_is_not_nothing(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the sum of its calls nor any of them is told as 0."""
    with endpoint(tmp_path) as url:
        path = league(tmp_path / "r.toml", url)
        path.write_text("\n".join(line for line in path.read_text().splitlines() if "_price" not in line))
        folder = play(roster=path, limit=1, format="brief").folder
    debate = runs.load(folder).debates.collect()["debate_id"][0]
    said = shown(folder, debate, capsys)
    assert (
        "cost not known, for want of a price" in said["view"] and "cost not known, for want of a price" in said["show"]
    )
    assert "0.0000" not in said["view"]


# ── runs of earlier versions ─────────────────────────────────────────────────────────────────────────


def test_a_run_that_does_not_know_of_it_is_read_and_renewed(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = play(limit=3).folder
    debate = runs.load(folder).debates.collect()["debate_id"][0]
    before = runs.load(folder).calls.collect()
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute("ALTER TABLE calls DROP COLUMN unknown_usd")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    pl.read_parquet(folder / "calls.parquet").drop("unknown_usd").write_parquet(folder / "calls.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / "calls.parquet"
    manifest["tables"]["calls"] |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    for state in ("sealed", "stopped"):
        assert runs.load(folder).calls.collect().equals(before, null_equal=True)
        said = shown(folder, debate, capsys)
        assert state in said["list"] and "unknown cost" not in "".join(said.values()) and "?" not in said["list"]
        (folder / "manifest.json").unlink(missing_ok=True)
    connection = sqlite3.connect(folder / "journal.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (2,), "reading changes nothing"
    assert main(["--resume", str(folder)]) == 0
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    connection.close()
    assert runs.load(folder).calls.collect().equals(before, null_equal=True)
