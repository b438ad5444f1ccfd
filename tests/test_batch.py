"""Questions by batch, over real HTTP: one batch for all, at half the price, and nothing is paid twice."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine
from math import isnan
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from conftest import Play
from conftest import refused as refused_by
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provider import Provider, Row, expired, provided, refused, said

import runs
from arena import batch as batching
from arena import simulate, simulate_judge
from arena.batch import Batched, Batches
from arena.batch_api import Pace
from arena.batch_sent import NAME
from arena.client import Client, Fault, Reply
from arena.endpoints import Endpoint
from arena.judge import main as judge_main
from arena.line import Answer, Line, Lines, NoAnswer, OutOfBudget, Unanswered, Unavailable

KEY = "sk-planted-0123456789"
PACE = Pace(quiet=0.02, first=0.02, longest=0.05, told=0.0, patience=0.3)
PRICES = {"prompt_price": 1.0, "completion_price": 10.0}
Asking = Callable[[str], Coroutine[Any, Any, Answer]]


def body(words: str, most: int = 50) -> Row:
    return {"model": "m", "messages": [{"role": "user", "content": words}], "max_tokens": most}


class Sitting:
    """One process's worth of asking: `async with Sitting(provider, folder) as sitting`."""

    def __init__(self, provider: Provider, folder: Path, judge: str = "j", pace: Pace = PACE, **more: Any) -> None:
        endpoint = Endpoint(name="there", base_url=(provider.url,), **PRICES | more)
        self.lines = Lines([endpoint], {"there": Client(endpoint, key=KEY)})
        self.line: Line = self.lines.to("there", "m")
        self.batches = Batches(folder, pace)
        self.batched: Batched = self.batches.over(judge, self.line)

    async def __aenter__(self) -> "Sitting":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.lines.close()

    async def ask(self, words: str, session: str = "d", **more: Any) -> Answer:
        return await self.batched.ask(lambda unusable: body(words), session=session, **more)

    async def ask_all(self, *words: str) -> list[Answer | BaseException]:
        return await asyncio.gather(*map(self.ask, words), return_exceptions=True)


def sit(provider: Provider, folder: Path, *words: str, **more: Any) -> list[Answer | BaseException]:
    """What a sitting of its own gets for its questions."""

    async def sit() -> list[Answer | BaseException]:
        async with Sitting(provider, folder, **more) as sitting:
            return await sitting.ask_all(*words)

    return asyncio.run(sit())


def texts(answers: list[Answer | BaseException]) -> list[str]:
    return [answer.reply.text if isinstance(answer, Answer) else type(answer).__name__ for answer in answers]


# ── votes of a run ───────────────────────────────────────────────────────────────────────────────────


def roster(path: Path, url: str, *judges: str, **more: str) -> Path:
    """A roster of judges, each given as its name, at an endpoint that costs something."""
    text = f'[[endpoints]]\nname = "there"\nbase_url = "{url}"\nprompt_price = 1.0\ncompletion_price = 10.0\n'
    for judge in judges:
        text += f'[[judges]]\nname = "{judge}"\nkind = "llm"\nendpoint = "there"\nmodel = "judge"\n'
        text += "".join(f"{name} = {value}\n" for name, value in more.items())
    path.write_text(text)
    return path


def stats(url: str) -> Row:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        found: Row = json.load(answer)
        return found


def command(folder: Path, entries: Path, *more: str) -> list[str]:
    return ["--from-run", str(folder), "--judges", "gpt", "--roster", str(entries), *more]


def votes(folder: Path) -> pl.DataFrame:
    return runs.load(folder).votes.filter(judge="gpt").collect()


def cost(folder: Path) -> float:
    return float(runs.load(folder).calls.filter(role="judge").collect()["cost_usd"].sum())


def vote(batch: int, asked: Row) -> Row:
    """What a judge says."""
    text = simulate_judge.answer("judge", asked["body"]["messages"], 1)
    return said(text or '{"what": "was asked?"}')


def test_all_votes_come_in_one_batch_at_half_the_price(play: Play, tmp_path: Path) -> None:
    folder = play(limit=6).folder
    with simulate.serve(simulate.Settings(port=0, batch_latency=0.1)) as url:
        entries = roster(tmp_path / "r.toml", url, "gpt", samples="2")
        assert judge_main(command(folder, entries, "--batch")) == 0
        counted = stats(url)
        assert judge_main(command(folder, entries, "--batch")) == 0
        assert stats(url)["batches"] == 1, "nothing was owed any more"
    assert (counted["batches"], counted["batch_requests"]) == (1, 6 * 2 * 2)
    assert counted["requests"] == 0, "and nothing was asked beside it"
    assert votes(folder)["winner"].is_in(["for", "against"]).all() and votes(folder).height == 24
    full = (counted["batch_prompt_tokens"] + 10 * counted["batch_completion_tokens"]) / 1e6
    assert cost(folder) == pytest.approx(full / 2)
    assert not (folder / NAME).exists()


def test_a_repair_goes_in_a_second_batch_and_nothing_else_does(play: Play, tmp_path: Path) -> None:
    folder = play(limit=4).folder
    garbled: set[str] = set()

    def answer(batch: int, asked: Row) -> Row:
        if batch == 0 and len(garbled) < 3:
            garbled.add(asked["custom_id"])
            return said("I would rather not put it in JSON.")
        if batch == 1:
            assert asked["body"]["messages"][2]["content"] == "I would rather not put it in JSON."
            return vote(batch, asked | {"body": {"messages": asked["body"]["messages"][:2]}})
        return vote(batch, asked)

    with provided(Provider(answer)) as there:
        entries = roster(tmp_path / "r.toml", there.url, "gpt")
        assert judge_main(command(folder, entries, "--batch")) == 0
    assert [len(there.asked(n)) for n in range(len(there.batches))] == [8, 3]
    assert votes(folder)["winner"].is_in(["for", "against"]).all()
    assert cost(folder) == pytest.approx(11 * (100 + 10 * 10) / 1e6 / 2)


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_a_batch_that_was_sent_is_fetched_by_the_next_process(signal_: int, play: Play, tmp_path: Path) -> None:
    folder = play(limit=4).folder
    with provided(Provider(vote), released=False) as there:
        entries = roster(tmp_path / "r.toml", there.url, "gpt")
        arguments = [sys.executable, "-m", "arena.judge", *command(folder, entries, "--batch")]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(there.looked, process)
        process.send_signal(signal_)
        _, errors = process.communicate(timeout=60)
        if signal_ == signal.SIGINT:
            assert process.returncode == 1 and "go on with: python -m arena.judge" in errors and "--batch" in errors
        assert votes(folder).height == 0
        there.released.set()
        assert judge_main(command(folder, entries, "--batch")) == 0
    assert len(there.batches) == 1 and set(there.answered.values()) == {1}
    assert votes(folder).height == 8 and not (folder / NAME).exists()


def test_a_repair_that_is_on_its_way_is_fetched_and_nothing_is_booked_twice(play: Play, tmp_path: Path) -> None:
    folder = play(limit=2).folder

    def answer(batch: int, asked: Row) -> Row:
        if batch == 0:
            there.released.clear()
            return said("Not in JSON.")
        return vote(batch, asked | {"body": {"messages": asked["body"]["messages"][:2]}})

    with provided(Provider(answer)) as there:
        entries = roster(tmp_path / "r.toml", there.url, "gpt")
        arguments = [sys.executable, "-m", "arena.judge", *command(folder, entries, "--batch")]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(there.batches) == 2 and there.batches[1]["status"] == "in_progress", process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1, process.communicate()
        process.communicate()
        there.released.set()
        assert judge_main(command(folder, entries, "--batch")) == 0
    assert len(there.batches) == 2 and votes(folder)["winner"].is_in(["for", "against"]).all()
    assert cost(folder) == pytest.approx(8 * (100 + 10 * 10) / 1e6 / 2)


def test_an_endpoint_that_refuses_schemas_is_asked_without_in_a_second_batch(play: Play, tmp_path: Path) -> None:
    folder = play(limit=4).folder
    with simulate.serve(simulate.Settings(port=0, batch_latency=0.1, no_schema=True)) as url:
        entries = roster(tmp_path / "r.toml", url, "gpt")
        assert judge_main(command(folder, entries, "--batch")) == 0
        assert stats(url)["batches"] == 2
    assert votes(folder)["winner"].is_in(["for", "against"]).all()


def test_what_is_on_its_way_is_not_asked_directly(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = play(limit=2).folder
    entries = roster(tmp_path / "r.toml", "http://127.0.0.1:9/v1", "gpt")
    (folder / NAME).write_text(
        '[{"who": {"judge": "gpt", "endpoint": "there", "model": "judge"}, "file": "f", "batch": "b",'
        ' "sent_at": "2026-11-25T17:00:00Z", "ids": ["1"]}]'
    )
    line = refused_by(capsys, *command(folder, entries), command=judge_main)
    assert "a batch of judge 'gpt' is on its way" in line and "--batch" in line and NAME in line
    (folder / NAME).write_text("[{]")
    assert "cannot be read" in refused_by(capsys, *command(folder, entries, "--batch"), command=judge_main)


def test_a_vllm_has_no_batches(play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = play(limit=2).folder
    with provided(Provider()) as there:
        entries = roster(tmp_path / "r.toml", there.url, "gpt")
        entries.write_text(entries.read_text().replace("[[judges]]", 'kind = "vllm"\n[[judges]]'))
        line = refused_by(capsys, *command(folder, entries, "--batch"), command=judge_main)
    assert "vLLM" in line and "without --batch" in line


# ── what comes of a question ─────────────────────────────────────────────────────────────────────────


def test_questions_are_gathered_and_answers_found_by_their_ids(tmp_path: Path) -> None:
    with provided(Provider()) as there:
        assert texts(sit(there, tmp_path, "one", "two", "three")) == ["ONE", "TWO", "THREE"]
    assert len(there.batches) == 1
    assert {(row["method"], row["url"]) for row in there.asked(0)} == {("POST", "/v1/chat/completions")}


def test_a_bound_on_lines_or_bytes_begins_another_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_LINES", 3)
    with provided(Provider()) as there:
        assert texts(sit(there, tmp_path, *"abcdefg")) == list("ABCDEFG")
    assert sorted(len(there.asked(n)) for n in range(len(there.batches))) == [1, 3, 3]
    monkeypatch.setattr(batching, "MOST_LINES", 100)
    monkeypatch.setattr(batching, "MOST_BYTES", 2_500)
    with provided(Provider()) as there:
        assert len(set(texts(sit(there, tmp_path, *(letter * 500 for letter in "abcdefg"))))) == 7
    assert len(there.batches) == 3 and max(map(len, there.files.values())) <= 2_500


def test_a_text_may_hold_what_other_formats_end_a_line_with(tmp_path: Path) -> None:
    odd = "one\u2028two\u2029three\x85four\x0bfive\r\nsix"
    with provided(Provider(lambda batch, asked: said(odd))) as there:
        assert texts(sit(there, tmp_path, odd)) == [odd]


def test_the_same_words_are_as_many_questions_as_were_asked(tmp_path: Path) -> None:
    async def ask(there: Provider) -> list[str]:
        async with Sitting(there, tmp_path) as sitting:
            same = [sitting.ask("a"), sitting.ask("a"), sitting.ask("a", session="e"), sitting.ask("a", draw=1)]
            return texts(await asyncio.gather(*same))

    numbers = iter(range(100))
    with provided(Provider(lambda batch, asked: said(str(next(numbers))))) as there:
        first = asyncio.run(ask(there))
        again = asyncio.run(ask(there))
    assert len(set(first)) == 4 and again == first, "told apart, and the same on another day"
    assert len(there.batches) == 1


ROWS: dict[str, tuple[Row | None, type[NoAnswer], str]] = {
    "400": (refused(400, "no such field"), Unanswered, "refused"),
    "404": (refused(404, "no such model"), Unanswered, "not_found"),
    "413": (refused(413, "too long"), Unanswered, "length"),
    "context": (refused(400, "too long", code="context_length_exceeded"), Unanswered, "length"),
    "content": (refused(400, "filtered", code="content_filter"), Unanswered, "content"),
    "500": (refused(500, "oops"), Unanswered, "server"),
    "no choices": ({"response": {"status_code": 200, "body": {}}, "error": None}, Unanswered, "unparseable"),
    "no body": ({"response": {"status_code": "x"}}, Unanswered, "server"),
    "neither": ({"response": None, "error": None}, Unanswered, "server"),
    "error in a body": (
        {"response": {"status_code": 200, "body": {"error": {"message": "oops"}}}, "error": None},
        Unanswered,
        "server",
    ),
    "error": ({"response": None, "error": {"code": "internal", "message": "oops"}}, Unanswered, "server"),
    "401": (refused(401, "who are you?"), Unavailable, ""),
    "quota": (refused(429, "pay", code="insufficient_quota"), Unavailable, ""),
    "429": (refused(429, "slowly"), Unavailable, ""),
    "503": (refused(503, "later"), Unavailable, ""),
    "expired": (expired(), Unavailable, ""),
    "cancelled": (expired("batch_cancelled"), Unavailable, ""),
    "left out": (None, Unavailable, ""),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_becomes_of_a_line(name: str, tmp_path: Path) -> None:
    row, outcome, kind = ROWS[name]
    with provided(
        Provider(lambda batch, asked: row if asked["body"]["messages"][0]["content"] == "a" else said("B"))
    ) as there:
        failed, fine = sit(there, tmp_path, "a", "b")
    assert type(failed) is outcome and texts([fine]) == ["B"]
    assert isinstance(failed, NoAnswer)
    if name in ("no choices", "error in a body"):  # answered, and it does not say what it took
        assert isnan(failed.cost.usd) and failed.cost.unknown_usd
    else:
        assert failed.cost.usd == 0 and failed.cost.unknown_usd is None
    assert getattr(failed, "kind", "") == kind
    for_good = name in ("400", "404", "413", "context", "content", "401", "quota")
    assert len(there.batches) == (1 if for_good else batching.ATTEMPTS)
    assert all(count == 1 for count in there.answered.values() if name not in ("no choices", "error in a body"))


def test_answers_that_cannot_be_used_are_paid_and_asked_anew(tmp_path: Path) -> None:
    async def ask(there: Provider) -> Answer:
        (folder := tmp_path / there.name).mkdir(exist_ok=True)
        async with Sitting(there, folder) as sitting:
            return await sitting.ask("a", accept=lambda reply: None if reply.text == "good" else empty)

    empty = Fault("empty", "nothing to hear", "again")
    with provided(Provider(lambda batch, asked: said("bad" if batch < 2 else "good"))) as there:
        answer = asyncio.run(ask(there))
        assert answer.reply.text == "good" and answer.cost.attempts == 3
        assert answer.cost.usd == pytest.approx(3 * (100 + 100) / 1e6 / 2)
        again = asyncio.run(ask(there))
        assert (again.reply, again.cost.usage, again.cost.started_at) == (
            answer.reply,
            answer.cost.usage,
            answer.cost.started_at,
        )
        assert len(there.batches) == 3, "the next process pays for none of them"
    with provided(Provider(lambda batch, asked: said("bad"))) as there, pytest.raises(Unanswered) as error:
        asyncio.run(ask(there))
    assert error.value.kind == "empty" and error.value.cost.attempts == 3


# ── what becomes of a batch ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", ["expired", "cancelled", "completed"])
def test_only_what_a_batch_left_unanswered_goes_into_another_one(status: str, tmp_path: Path) -> None:
    def answer(batch: int, asked: Row) -> Row | None:
        done = batch > 0 or asked["body"]["messages"][0]["content"] in "abc"
        return said("yes") if done else expired() if status == "expired" else None

    with provided(Provider(answer, lambda batch: "completed" if batch else status)) as there:
        assert texts(sit(there, tmp_path, *"abcde")) == ["yes"] * 5
        assert texts(sit(there, tmp_path, *"abcde")) == ["yes"] * 5
    assert [len(there.asked(n)) for n in range(len(there.batches))] == [5, 2]
    assert set(there.answered.values()) == {1}


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
def test_questions_whose_batches_come_to_nothing_stay_owed(status: str, tmp_path: Path) -> None:
    wrong = [{"code": "invalid", "message": f"so it is, {KEY}", "line": 1}]
    with provided(Provider(lambda batch, asked: None, lambda batch: status, lambda batch: wrong)) as there:
        answers = sit(there, tmp_path, "a", "b")
        assert len(there.batches) == batching.ATTEMPTS
        assert not (tmp_path / NAME).exists(), "there is nothing to fetch"
        assert all(type(answer) is Unavailable for answer in answers)
        assert status in str(answers[0]) and "so it is" in str(answers[0]) and KEY not in str(answers[0])
        there.answer, there.status = lambda batch, asked: said("now"), lambda batch: "completed"
        assert texts(sit(there, tmp_path, "a", "b")) == ["now", "now"]


def test_a_batch_of_too_many_tokens_is_halved_and_the_halves_go_one_by_one(tmp_path: Path) -> None:
    open_: list[int] = []
    there = Provider()

    def status(batch: int) -> str:
        open_.append(sum(row["status"] in ("validating", "in_progress") for row in there.batches))
        return "failed" if len(there.asked(batch)) > 3 else "completed"

    there.status = status
    there.errors = lambda batch: [{"code": "token_limit_exceeded", "message": "too many"}]
    with provided(there):
        words = [str(number) for number in range(13)]
        assert texts(sit(there, tmp_path, *words)) == words
    assert [len(there.asked(n)) for n in range(len(there.batches))] == [13, 6, 3, 3, 3, 3, 1]
    assert set(open_) == {1} and set(there.answered.values()) == {1}
    there.status = lambda batch: "failed"
    with provided(there):
        assert texts(sit(there, tmp_path, "x", "y")) == ["Unavailable"] * 2, "not even one fits"


def test_a_file_that_is_too_large_goes_in_halves(tmp_path: Path) -> None:
    with provided(Provider(most_bytes=1_000)) as there:
        words = [str(number) for number in range(13)]
        assert texts(sit(there, tmp_path, *words)) == words
        assert max(map(len, there.files.values())) <= 1_000 and len(there.batches) < 13
        there.most_bytes = 10
        assert texts(sit(there, tmp_path, "a", "b")) == ["Unavailable"] * 2


def test_an_endpoint_without_a_batch_api_makes_no_vote_invalid(tmp_path: Path) -> None:
    for path in ("/files", "/batches"):
        meet = lambda method, at, path=path: web.Response(status=404) if at == path else None  # noqa: E731
        with provided(Provider(meet=meet)) as there:
            (answer,) = sit(there, tmp_path, "a")
        assert type(answer) is Unavailable and "without --batch" in str(answer)
        assert not (tmp_path / NAME).exists()


def test_a_batch_is_not_begun_twice_where_the_answer_to_its_beginning_is_lost(tmp_path: Path) -> None:
    there = Provider()

    def meet(method: str, path: str) -> web.Response | None:
        if (method, path) == ("POST", "/batches") and not there.batches:
            there.begin(*there.files)
            return web.Response(status=502, text=f"bad gateway {KEY}")
        return None

    there.meet = meet
    with provided(there):
        assert texts(sit(there, tmp_path, "a", "b")) == ["A", "B"]
    assert len(there.batches) == 1


@pytest.mark.parametrize("begun", [True, False])
def test_a_process_that_ended_between_file_and_batch_finds_out_which(begun: bool, tmp_path: Path) -> None:
    there = Provider()

    def meet(method: str, path: str) -> web.Response | None:
        if (method, path) != ("POST", "/batches"):
            return None
        if begun:
            there.begin(*there.files)
        return web.Response(status=401)

    there.meet = meet
    with provided(there):
        assert texts(sit(there, tmp_path, "a", "b")) == ["Unavailable"] * 2
        (note,) = json.loads((tmp_path / NAME).read_text())
        assert note["file"] == next(iter(there.files)) and note["batch"] is None and len(note["ids"]) == 2
        there.meet = lambda method, path: None
        assert texts(sit(there, tmp_path, "a", "b")) == ["A", "B"]
    assert len(there.batches) == 1 and set(there.answered.values()) == {1}
    assert len(there.files) == (2 if begun else 3)  # questions and answers; unless begun, questions once more


def test_a_batch_that_the_endpoint_knows_no_more_is_sent_again(tmp_path: Path) -> None:
    with provided(Provider()) as there:
        sit(there, tmp_path, "a")
    with provided(Provider()) as other:
        again = sit(other, tmp_path, "a")
        assert texts(again) == ["A"]
        assert len(other.batches) == 1
    may_have_been_paid_twice(again)


def may_have_been_paid_twice(found: list[Answer | BaseException]) -> None:
    """By an answer that was there once, for all that anybody knows, and by the one that came."""
    for answer in found:
        assert isinstance(answer, Answer) and answer.cost.attempts == 2
        assert answer.cost.usd == pytest.approx((100 + 10 * 10) / 1e6 / 2)
        assert answer.cost.unknown_usd == pytest.approx(((9 + 9) + 10 * 50) / 1e6 / 2)


def test_answers_that_are_gone_may_have_been_paid(tmp_path: Path) -> None:
    """Whether they are seen to be gone at once, or in another sitting; not where it is errors that are gone, or where
    the other file says that a question was not come to."""

    def answer(batch: int, asked: Row) -> Row | None:
        word = asked["body"]["messages"][0]["content"]
        return expired() if batch == 0 and word == "x" else refused(429, "slowly") if word == "e" else said("yes")

    there = Provider(answer, meet=lambda method, path: web.Response(status=404) if path == gone() else None)

    def gone() -> str:
        file = there.batches[0].get(kind) if there.batches else None
        return f"/files/{file}/content"

    kind = "output_file_id"
    with provided(there):
        *lost, untouched = sit(there, tmp_path, "a", "b", "x")
    assert texts([*lost, untouched]) == ["yes"] * 3
    may_have_been_paid_twice(lost)
    assert isinstance(untouched, Answer) and (untouched.cost.attempts, untouched.cost.unknown_usd) == (1, None)
    kind = "error_file_id"
    (tmp_path / "errors").mkdir()
    there.batches.clear()
    with provided(there):
        fine, failed = sit(there, tmp_path / "errors", "a", "e")
    assert isinstance(fine, Answer) and fine.cost.unknown_usd is None
    assert isinstance(failed, NoAnswer) and (failed.cost.usd, failed.cost.unknown_usd) == (0, None)


def test_what_may_have_been_paid_counts_against_what_may_be_spent(tmp_path: Path) -> None:
    async def ask(there: Provider) -> tuple[float, float]:
        async with Sitting(there, tmp_path) as sitting:
            await sitting.ask("a")
            return sitting.lines.budget.spent, sitting.lines.budget.unknown

    with provided(Provider()) as there:
        assert asyncio.run(ask(there))[1] == 0
    with provided(Provider()) as other:
        assert asyncio.run(ask(other)) == pytest.approx((200 / 1e6 / 2, 518 / 1e6 / 2))


def test_an_endpoint_that_stumbles_is_waited_for_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    there = Provider()
    met: Counter[str] = Counter()

    def meet(method: str, path: str) -> web.Response | None:
        met[path] += 1
        kinds = [
            web.Response(status=500),
            web.Response(status=429),
            web.Response(text="what?"),
            web.Response(status=502),
        ]
        return kinds[met[path] - 1] if met[path] <= len(kinds) else None

    there.meet = meet
    with provided(there):
        assert texts(sit(there, tmp_path, "a", pace=Pace(quiet=0.02, first=0.01, longest=0.02))) == ["A"]
    assert len(there.batches) == 1 and len(met) >= 4
    for gone in ("/batches/", "/files/"):
        folder = tmp_path / gone.strip("/")
        folder.mkdir()
        with provided(Provider()) as there:
            there.meet = lambda method, path, gone=gone: web.Response(status=503) if gone in path else None  # type: ignore[misc]
            (answer,) = sit(there, folder, "a")
            assert type(answer) is Unavailable and there.batches[0]["id"] in str(answer)
            there.meet = lambda method, path: None
            assert texts(sit(there, folder, "a")) == ["A"]
        assert len(there.batches) == 1


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────


def test_stopping_waits_for_no_batch_and_the_next_sitting_fetches_it(tmp_path: Path) -> None:
    async def stopped(there: Provider) -> list[Answer | BaseException]:
        async with Sitting(there, tmp_path) as sitting:
            asked = asyncio.ensure_future(sitting.ask_all("a", "b"))
            while not there.looked():
                await asyncio.sleep(0.01)
            late = asyncio.ensure_future(sitting.ask("c"))
            await asyncio.sleep(0)
            sitting.lines.stop()
            found = await asyncio.wait_for(asyncio.gather(asked, late, return_exceptions=True), 20)
            return [*found[0], found[1]]  # type: ignore[misc]

    with provided(Provider(), released=False) as there:
        one, two, late = asyncio.run(stopped(there))
        assert [type(answer) for answer in (one, two, late)] == [Unavailable] * 3
        assert f"{there.batches[0]['id']} goes on, and the same command fetches it" in str(one)
        assert "was not sent" in str(late)
        assert isinstance(one, Unavailable) and one.cost.attempts == 0, "so that no call is booked"
        there.released.set()
        assert texts(sit(there, tmp_path, *"abc")) == ["A", "B", "C"]
    assert [len(there.asked(n)) for n in range(len(there.batches))] == [2, 1]


Fates = st.lists(
    st.tuples(
        st.sampled_from(["completed", "expired", "cancelled", "failed"]),  # how the next batch ends
        st.integers(0, 2**6 - 1),  # which of its lines it answers
        st.integers(0, 40),  # hundredths of a second, until the sitting is stopped
    ),
    max_size=4,
)


@given(Fates)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_each_question_is_paid_once_and_answered(
    tmp_path_factory: pytest.TempPathFactory, fates: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("fates")
    words = list("abcdef")

    def fate(batch: int) -> tuple[str, int]:
        return fates[batch][:2] if batch < len(fates) else ("completed", 63)

    def answer(batch: int, asked: Row) -> Row | None:
        word = asked["body"]["messages"][0]["content"]
        return said(word.upper()) if fate(batch)[1] >> words.index(word) & 1 else None

    async def stopped(there: Provider, after: float) -> list[Answer | BaseException]:
        async with Sitting(there, folder) as sitting:
            asyncio.get_running_loop().call_later(after, sitting.lines.stop)
            return await sitting.ask_all(*words)

    with provided(Provider(answer, lambda batch: fate(batch)[0])) as there:
        for *_, after in fates:
            for word, found in zip(words, asyncio.run(stopped(there, after / 100)), strict=True):
                assert type(found) is Unavailable or texts([found]) == [word.upper()]
        while (last := texts(sit(there, folder, *words))).count("Unavailable"):
            assert len(there.batches) < 40
        assert last == [word.upper() for word in words]
    assert set(there.answered.values()) == {1}


# ── money ────────────────────────────────────────────────────────────────────────────────────────────


def test_money_is_held_before_sending_and_what_is_left_of_it_sends_the_next_batch(tmp_path: Path) -> None:
    async def ask(there: Provider, most: float) -> tuple[list[str], float]:
        async with Sitting(there, tmp_path / str(most)) as sitting:
            (tmp_path / str(most)).mkdir()
            sitting.lines.budget.most = most
            answers = await sitting.ask_all(*"abcdef")
            assert sitting.lines.budget.held == pytest.approx(0)
            return texts(answers), sitting.lines.budget.spent

    each = (100 + 10 * 10) / 1e6 / 2
    held = ((9 + 9) + 10 * 50) / 1e6 / 2  # three bytes a token, rounded down, nine for a message, nine for a prompt
    with provided(Provider()) as there:
        found, spent = asyncio.run(ask(there, 3.5 * held))
        assert found == list("ABCDEF") and spent == pytest.approx(6 * each)
        assert [len(there.asked(n)) for n in range(len(there.batches))] == [3, 2, 1]
    with provided(Provider()) as there:
        found, spent = asyncio.run(ask(there, 1.5 * held))
        assert set(found[2:]) == {"OutOfBudget"} and found[:1] == ["A"]
        assert spent <= 1.5 * held
    with provided(Provider()) as there:
        found, spent = asyncio.run(ask(there, 0.5 * held))
        assert set(found) == {OutOfBudget.__name__} and not there.batches


def test_what_an_earlier_sitting_sent_is_fetched_without_money(tmp_path: Path) -> None:
    async def ask(there: Provider) -> list[str]:
        async with Sitting(there, tmp_path) as sitting:
            sitting.lines.budget.most = 0.0
            return texts(await sitting.ask_all("a", "b"))

    with provided(Provider()) as there:
        sit(there, tmp_path, "a")
        assert asyncio.run(ask(there)) == ["A", "OutOfBudget"]


@pytest.mark.parametrize(("discount", "share"), [(0.5, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_what_is_taken_off(discount: float, share: float, tmp_path: Path) -> None:
    with provided(Provider()) as there:
        (answer,) = sit(there, tmp_path, "a", batch_discount=discount)
    assert isinstance(answer, Answer) and answer.cost.usd == pytest.approx(share * (100 + 10 * 10) / 1e6)


# ── the notes ────────────────────────────────────────────────────────────────────────────────────────


def test_notes_of_others_outlive_a_judge_that_is_done(tmp_path: Path) -> None:
    async def ask(there: Provider, judge: str) -> None:
        async with Sitting(there, tmp_path, judge) as sitting:
            await sitting.ask("a")
            sitting.batches.forget()

    with provided(Provider()) as there:
        sit(there, tmp_path, "a", judge="one")
        asyncio.run(ask(there, "two"))
        assert [note["who"]["judge"] for note in json.loads((tmp_path / NAME).read_text())] == ["one"]
        asyncio.run(ask(there, "one"))
    assert not (tmp_path / NAME).exists() and len(there.batches) == 2


def test_the_key_stands_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaky = web.json_response({"error": {"message": f"not with {KEY}"}}, status=400)
    with provided(Provider(lambda batch, asked: said(f"it is {KEY}"))) as there:
        (answer,) = sit(there, tmp_path, "a")
        assert texts([answer]) == ["it is [key]"]
        there.meet = lambda method, path: leaky if method == "POST" else None
        (answer,) = sit(there, tmp_path, "b")
    assert "not with [key]" in str(answer)
    printed = capsys.readouterr()
    assert KEY not in printed.err + printed.out and KEY not in (tmp_path / NAME).read_text()
    assert (
        f"judge j: batch {there.batches[0]['id']}: 1 questions" in printed.err
        and "1 of 1 questions answered" in printed.err
    )


def test_a_reply_is_read_as_the_client_reads_it() -> None:
    client = Client(Endpoint(name="e", base_url=("http://127.0.0.1:9/v1",)), key=KEY)
    assert client.read(200, said(f"a {KEY}")["response"]["body"]) == Reply(
        text="a [key]", reasoning=None, finish="stop", usage=client.read(200, said("b")["response"]["body"]).usage
    )
    with pytest.raises(Fault) as fault:
        client.read(400, {"error": {"message": f"no {KEY}"}})
    assert (fault.value.kind, fault.value.remedy, str(fault.value)) == ("refused", "never", "400: no [key]")
