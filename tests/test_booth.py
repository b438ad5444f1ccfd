"""Where persons vote, and who is let in: what is stored is what was sent, whole, by who says so."""

import asyncio
import html
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from socket import create_connection, socket
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import Play, refused
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_view import PATIENCE_S, TOKEN, Browser, browser_named, csrf, seen, stored_votes, template, until

import runs
from runs import Run, ballots, tables
from runs.ballots import behind, cast, vote_of
from runs.records import content_id
from runs.view import Settings, serve, server
from runs.view.__main__ import main
from runs.view.search import WAITING, WORDS, Index, phrases
from runs.view.server import MOST_BODY, Guard
from runs.view.stored import Store
from topics.errors import InputError

Messages = Sequence[dict[str, Any]]
CUT = {"type": "http.disconnect"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a sealed run of 40 debates."""
    return Path(shutil.copytree(template("plain"), tmp_path / "run"))


def in_journal(folder: Path) -> list[tuple[Any, ...]]:
    """Votes of persons: judge, winner, confidence, reason."""
    query = "SELECT judge, winner, confidence, rationale FROM votes WHERE judge LIKE 'human:%' ORDER BY judge"
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        return journal.execute(query).fetchall()


def vote_once(folder: Path, person: str = "ann") -> str:
    """Cast a vote beside any viewer; gives the debate."""
    with Run.resume(folder) as held:
        debate = held.debate(next(held.journal.complete()))
    cast(folder, debate.match, vote_of(debate, f"human:{person}", "for"))
    return debate.id


# A body, whole or not at all


def posted(messages: Messages, *, then: Callable[[], Awaitable[dict[str, Any]]] | None = None) -> tuple[int, bytes]:
    """What a POST in pieces is answered by one who gives back what arrives; `then` gives what follows the pieces."""
    left, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        return left.pop(0) if left or not then else await then()

    async def send(message: Any) -> None:
        sent.append(message)

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(echo, host="127.0.0.1", token="")(scope | {"scheme": "http"}, receive, send))
    return sent[0]["status"], sent[1]["body"]


def piece(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.integers(0, 4))
@example([b"confidence=8", b"5"], 0)
def test_a_body_arrives_whole_or_not_at_all(parts: list[bytes], at: int) -> None:
    whole = [*map(piece, parts[:-1]), piece(parts[-1], more=False)]
    assert posted(whole) == (200, b"".join(parts))
    cut = [*map(piece, parts[:at]), CUT]
    assert posted(cut)[0] == 400


def test_a_body_in_pieces_has_a_bound() -> None:
    parts = [piece(b"x" * (MOST_BODY // 2))] * 2
    assert posted([*parts, piece(b"", more=False)])[0] == 200
    assert posted([*parts, piece(b"x", more=False)])[0] == 413


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_S", 0.05)

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    assert posted([piece(b"x")], then=never)[0] == 408


def test_who_is_waited_for_when_the_server_ends_is_told() -> None:
    async def ends() -> dict[str, Any]:
        raise asyncio.CancelledError

    assert posted([piece(b"x")], then=ends)[0] == 503


def test_half_a_ballot_is_no_vote(folder: Path) -> None:
    with seen(folder, name="ann") as browser:
        path, page = browser.ballot()
        body = urlencode({"csrf": csrf(page), "winner": "for", "confidence": "85"})
        host = browser.url.split("/")[2]
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/x-www-form-urlencoded"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        with create_connection(("127.0.0.1", int(host.split(":")[1]))) as connection:
            connection.sendall((head + body[:-1]).encode())
        assert browser.vote(path, page, winner="for", confidence="85").status == 303
    assert in_journal(folder) == [("human:ann", "for", 0.85, "")]


# Forms


def test_a_form_of_another_kind_is_not_read(folder: Path) -> None:
    with seen(folder, name="ann") as browser:
        path, page = browser.ballot()
        part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
        body = part.format("csrf", csrf(page)) + part.format("winner", "for") + "--b--\r\n"
        for more in ("", "; charset=idna", "; charset=raw_unicode_escape"):
            kind = f"multipart/form-data; boundary=b{more}"
            for place in (path, "/judge/name", "/judge/nothing"):
                assert browser.ask("POST", place, body, Content_Type=kind).status == 415
        for kind in ("text/plain", "", "application/json", "multipart/form-data"):
            assert browser.ask("POST", path, body, Content_Type=kind).status == 415
    assert in_journal(folder) == []


def test_what_a_form_says_of_its_letters_does_not_matter(folder: Path) -> None:
    charsets, reason = ["raw_unicode_escape", "idna", "undefined", '"', "\xff"], "Zürich \\ud800 \\N{x}"
    with seen(folder, name="ann") as browser:
        for charset in charsets:
            path, page = browser.ballot()
            body = urlencode({"csrf": csrf(page), "winner": "for", "reason": reason})
            kind = f"application/x-www-form-urlencoded; charset={charset}"
            assert browser.ask("POST", path, body, Content_Type=kind).status == 303
    assert in_journal(folder) == [("human:ann", "for", None, reason)] * len(charsets)


# Who votes


def test_the_next_person_at_a_browser_says_another_name(folder: Path) -> None:
    with seen(folder) as browser:
        path, page = browser_named(browser, "ann")
        assert browser.vote(path, page, winner="for").status == 303
        page = browser.ballot()[1]
        (leave,) = re.findall(r'<a href="([^"]+)">not ann\?</a>', page)
        form = browser.page(leave)
        assert browser.post("/judge/name", {"csrf": csrf(form), "name": "bob"}).status == 303
        path, page = browser.ballot()
        assert browser.vote(path, page, winner="against").status == 303
    assert [row[:2] for row in in_journal(folder)] == [("human:ann", "for"), ("human:bob", "against")]


def test_who_judges_by_the_command_line_stays_who_they_are(folder: Path) -> None:
    with seen(folder, name="ann") as browser:
        assert "/judge/name" not in browser.ballot()[1]
        answer = browser.get("/judge/name")
        assert (answer.status, answer.headers["location"]) == (303, "/judge")


def test_a_ballots_address_is_told_by_its_own_viewer_alone(folder: Path) -> None:
    with seen(folder, name="ann") as one, seen(folder, name="ann") as other:
        (path, page), (elsewhere, same) = one.ballot(), other.ballot()
        speeches = [
            re.findall(r'<div class="said" dir="auto">(.*?)</div>', shown, flags=re.S) for shown in (page, same)
        ]
        assert path != elsewhere and speeches[0] == speeches[1]
        assert other.get(path).status == 404
        debates = runs.load(folder).debates.collect()["debate_id"]
        assert not {path.rpartition("/")[2]} & {content_id("ballot", "ann", debate) for debate in debates}


def test_a_debate_that_was_voted_on_is_not_given_again(folder: Path) -> None:
    with seen(folder, name="ann") as one, seen(folder, name="ann") as other:
        path, page = one.ballot()
        elsewhere = other.ballot()[0]
        assert one.vote(path, page, winner="for").status == 303
        assert "Your vote is stored" in other.page(elsewhere)
        assert other.ballot()[0] != elsewhere


def test_the_count_is_that_of_now(play: Play) -> None:
    folder = play(limit=3).folder
    with seen(folder, name="ann") as browser:
        for _ in range(3):
            path, page = browser.ballot()
            assert browser.vote(path, page, winner="tie").status == 303
        assert "ann has voted on 3 debates" in " ".join(re.sub("<[^>]+>", "", browser.page("/judge")).split())


def test_a_trajectory_is_no_judge_and_a_judge_with_an_at_sign_is_one(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        for judge in ("me@home", "rules@4"):
            columns = "winner, margin, consistent, votes, related"
            copied = f"SELECT debate_id, ?, {columns} FROM verdicts WHERE judge = 'rules'"
            journal.execute(f"INSERT INTO verdicts (debate_id, judge, {columns}) {copied}", (judge,))
        journal.commit()
    with seen(folder, name="bob") as browser:
        path, page = browser.ballot()
        assert browser.vote(path, page, winner="tie").status == 303
        shown = re.sub(r"</?bdi[^>]*>", "", browser.page(path))
        assert {*re.findall(r"<li>(\S+): ", shown)} == {"me@home", "rules", "human:bob"}


# What goes wrong


def test_a_vote_that_cannot_be_written_comes_back_as_it_was_filled_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballots, "PATIENCE_S", 0.05)
    form = {"winner": "against", "confidence": "85", "reason": "a long & careful reason"}
    with seen(folder, name="ann") as browser:
        path, page = browser.ballot()
        with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = browser.vote(path, page, **form)
            assert answer.status == 503 and "the vote could not be written" in answer.said
            assert form["reason"] in answer.said and 'value="85"' in answer.text
            assert re.findall(r'value="(\w+)" required checked', answer.text) == ["against"]
        assert in_journal(folder) == []
        assert browser.vote(path, answer.text, **form).status == 303
    assert in_journal(folder) == [("human:ann", "against", 0.85, form["reason"])]


def test_what_was_written_on_a_ballot_of_an_earlier_sitting_is_shown(folder: Path) -> None:
    with seen(folder, name="ann") as browser:
        path, page = browser.ballot()
    reason = "a <b>long</b> & careful reason"
    with seen(folder, name="ann") as browser:
        answer = browser.vote(path, page, winner="for", reason=reason)
        assert answer.status == 404 and reason in html.unescape(answer.text) and "<b>" not in answer.text
        assert "What you wrote" not in browser.get(path).text
    assert in_journal(folder) == []


def test_the_index_outlives_the_run_it_reads(folder: Path) -> None:
    for path in folder.glob("journal.db*"):
        path.unlink()
    index = Index(Store(folder))
    index._step()
    turns = index.turns
    shutil.rmtree(folder)
    index._step()
    assert index.turns == turns > 0 and index.find("motion").total > 0


def test_why_votes_are_not_in_the_tables_is_told(folder: Path) -> None:
    with Run.resume(folder), seen(folder, name="ann") as browser:
        path, page = browser.ballot()
        assert browser.vote(path, page, winner="for").status == 303
        assert "in use by another process" in until(lambda: re.findall(r'id="waits">(.*?)</p>', browser.page(path)))[0]
    with seen(folder, name="ann") as browser:
        until(lambda: stored_votes(folder))
        path, page = browser.ballot()
        assert browser.vote(path, page, winner="for").status == 303
        assert 'id="waits"' not in browser.page(path)


# Search


@given(st.lists(st.sampled_from(["wind", "WIND", "wind.", '"wind"', "sun", '"wind sun"', "“Wind”"]), max_size=12))
@settings(deadline=None)
def test_a_part_that_is_asked_for_twice_is_looked_for_once(parts: list[str]) -> None:
    found = phrases(" ".join(parts))
    bare = [" ".join(re.findall(r"\w+", part.lower())) for part in parts]
    assert [" ".join(re.findall(r"\w+", part.lower())) for part in found] == [*dict.fromkeys(bare)]


def test_a_query_has_so_many_words_at_most() -> None:
    words = [f"w{n}" for n in range(WORDS + 5)]
    assert phrases(" ".join(words)) == words[:WORDS]
    assert phrases(f'"{" ".join(words)}" more') == [" ".join(words[:WORDS])]
    assert phrases("-".join(words)) == ["-".join(words[:WORDS])]
    assert phrases(f'one "{words[0]} {words[1]}" two') == ["one", "w0 w1", "two"]


def test_who_searches_beside_too_many_others_is_told_at_once() -> None:
    with Index(Store(template("plain"))) as index:
        until(lambda: index.complete)
        total = index.find("motion").total
        for _ in range(WAITING):
            assert index._places.acquire(blocking=False)
        with pytest.raises(sqlite3.OperationalError, match="too many others"):
            index.find("motion")
        index._places.release()
        assert all(index.find("motion").total == total for _ in range(2))


# Who may ask


def test_a_token_is_borne_as_bearer_or_not_at_all(folder: Path) -> None:
    with seen(folder, token=TOKEN) as browser:
        for given_, status in (
            (TOKEN, 401),
            (f"Basic {TOKEN}", 401),
            (f"Bearer {TOKEN}", 200),
            (f"bearer {TOKEN}", 200),
        ):
            assert browser.get("/", Authorization=given_).status == status
        for path in ("/", "/debates", "/status"):
            assert browser.get(path, Authorization=f"Bearer {TOKEN}").headers["cache-control"] == "no-store"
    with seen(folder) as browser:
        assert browser.get("/debates").headers["cache-control"] == "no-cache"


def test_a_token_means_itself_in_an_address(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for token in (
        "abc+def/ghi&jklm=#1",
        "x" * 20 + "%41",
        "with a blank in it",
        "with;a;semicolon;;",
        "Zürich-Zürich-Zürich",
    ):
        assert "letters, digits, - _ . ~" in refused(capsys, folder, "--token", token, command=main)
    with seen(folder, token="aZ09-._~aZ09-._~") as browser:
        assert browser.get("/" + browser.url.partition("/?")[2].join(("?", ""))).status == 303
        assert browser.get("/").status == 200


@pytest.mark.parametrize(
    ("node", "known"),
    [("Box", {"box", "BOX:80", "box.local"}), ("box.lan", {"box.lan", "box", "BOX:80", "box.local"}), ("", set())],
)
def test_a_machine_is_known_by_its_names(node: str, known: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: node)
    guard = Guard(lambda *_: asyncio.sleep(0), host="0.0.0.0", token=TOKEN)
    names = ["box", "BOX:80", "box.lan", "box.local", "box.evil.example", "local", ".local", "", "evil.local"]
    assert {name for name in names if guard._is_ours(name)} == known


# The command


def test_what_is_wrong_is_told_before_a_run_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vote_once(folder)
    assert behind(folder)
    assert "--host '' is no address" in refused(capsys, folder, "--host", "", command=main)
    assert "--name 'a b'" in refused(capsys, "nowhere", "--name", "a b", command=main)
    with seen(template("plain")) as browser:
        port = browser.url.split(":")[2].strip("/")
        assert "cannot listen" in refused(capsys, folder, "--port", port, command=main)
    assert behind(folder)  # a command that is refused seals nothing


def test_a_port_is_free_again_when_a_run_cannot_be_read(folder: Path) -> None:
    (folder / "spec.json").write_text("{")
    with closing(socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match="spec"), serve(Settings(run=str(folder), port=port)):
        pass
    with serve(Settings(run=str(template("plain")), port=port)) as url:
        assert Browser(url=url).get("/").status == 200


def started(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "runs.view", *map(str, arguments), "--port", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_who_stops_it_hears_what_it_still_does(folder: Path) -> None:
    process = started(folder, "--name", "ann")
    try:
        assert process.stdout is not None
        browser = Browser(url=process.stdout.readline().split()[0])
        path, page = browser.ballot()
        assert browser.vote(path, page, winner="for").status == 303
        with closing(HTTPConnection(browser.url.split("/")[2], timeout=PATIENCE_S)) as slow:
            slow.putrequest("POST", path)
            slow.putheader("Content-Length", "100")
            slow.endheaders(b"csrf=")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0 and "Traceback" not in errors
        assert "sealing the votes; Ctrl-C again leaves them to the next start" in errors
    finally:
        process.kill()
        process.communicate()
    assert [*stored_votes(folder).values()] == [("for", "for")]
    tables.verify(folder)


def test_the_address_for_others_is_one_that_they_can_open(folder: Path) -> None:
    process = started(folder, "--host", "0.0.0.0")
    try:
        assert process.stdout is not None
        assert f"http://{platform.node()}:" in process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
