"""Scoring batches, over real HTTP: all at once, nothing twice, and what fails changes no other reward."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_endpoints import KEY, echoing, endpoint, spent, stats

from arena.simulate_judge import answer as simulated
from judges.asking import Question, Reply
from judges.rubric import Item, RubricJudge
from topics.errors import InputError
from training.citations import citation
from training.rewards import Rewards, rubric
from training.scoring import Scoring, Unscored, scoring

MODEL = "rubric-judge"
ITEMS = (Item(text="It says that trams are quiet."), Item(text="It flatters the judge.", positive=False))
REWARDS = Rewards(weights={"rubric": 1.0})
TEXTS = [f"Trams make no noise {'quiet' if n % 3 else ''} in street {n}." for n in range(200)]
SNIPPETS = {"S1": "Line 2 carries 40,000 people a day."}
PRICES = "prompt_price = 1.0\ncached_price = 0.1\ncompletion_price = 10.0"


async def reward(judge: RubricJudge, text: str, draw: int = 0) -> float | None:
    scored = await rubric(judge, "Argue for trams.", text, ITEMS, about="p1", draw=draw)
    return REWARDS.compose({"rubric": scored}).value


async def both(judge: RubricJudge, text: str) -> tuple[float | None, float | None]:
    """Rubric and citations, asked for at once."""
    cited = citation(judge, "Argue.", f"<snippet id=S1>{text}</snippet>", SNIPPETS, about="p1")
    found, support = await asyncio.gather(reward(judge, text), cited)
    return found, None if support is None else support.f1


def truth(texts: Sequence[str], model: str = MODEL) -> list[float | None]:
    """Their rewards, asked for one after another and without a network."""

    async def ask(question: Question) -> Reply:
        said = simulated(model, question.messages, seed=1)
        assert said is not None
        return Reply(text=said)

    judge = RubricJudge("j", ask=ask)
    return [asyncio.run(reward(judge, text)) for text in texts]


def roster(path: Path, url: str, *, judge: str = "", limits: str = "") -> Path:
    path.write_text(
        f'[[endpoints]]\nname = "here"\nbase_url = "{url}"\n{limits}\n'
        f'[[judges]]\nname = "gpt"\nkind = "llm"\nendpoint = "here"\n{judge or f"model = {MODEL!r}"}\n'
    )
    return path


@contextmanager
def opened(folder: Path, url: str, *, cache: str | None = "scored.db", **more: Any) -> Iterator[Scoring]:
    max_cost = more.pop("max_cost", None)
    path = roster(folder / "r.toml", url, **more)
    with scoring("gpt", roster=path, out=folder, cache=cache and folder / cache, max_cost=max_cost) as judge:  # type: ignore[arg-type]
        yield judge


def rewards(judge: Scoring, texts: Sequence[str]) -> list[float | None]:
    return judge.all(reward(judge.rubric, text) for text in texts)


def answers(path: Path) -> int:
    """How many a cache holds."""
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM answers").fetchone()
    connection.close()
    return int(count)


# ── a batch ──────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_has_the_rewards_of_its_texts_in_their_order(tmp_path: Path) -> None:
    assert len(set(truth(TEXTS))) > 3, "the texts differ in what they earn"
    with endpoint(tmp_path, latency=0.02) as url, opened(tmp_path, url, limits="in_flight = 8") as judge:
        assert rewards(judge, TEXTS) == truth(TEXTS)
        assert (judge.asked, judge.cached, judge.failed, judge.cost_usd) == (len(TEXTS), 0, 0, 0.0)
        seen = stats(url)
        assert seen["answered"] == len(TEXTS) and seen["max_in_flight"] == 8, "as many as the gate lets through"
        assert rewards(judge, []) == []


@pytest.mark.parametrize("name", ["gpt", "other"])
def test_any_judge_of_the_roster_with_an_endpoint_will_do(name: str, tmp_path: Path) -> None:
    with endpoint(tmp_path) as url:
        path = roster(tmp_path / "r.toml", url)
        more = f'[[judges]]\nname = "other"\nkind = "no_such:Judge"\nendpoint = "here"\nmodel = "{MODEL}"\nodd = 1\n'
        path.write_text(path.read_text() + more)
        with scoring(name, roster=path, out=tmp_path) as judge:
            assert rewards(judge, TEXTS[:3]) == truth(TEXTS[:3])


@pytest.mark.parametrize(("more", "refused"), [("structured = false", False), ("", True)])
def test_an_endpoint_without_schemas_scores_as_well(more: str, refused: bool, tmp_path: Path) -> None:
    judge = f"model = {MODEL!r}\n{more}"
    with endpoint(tmp_path, no_schema=True) as url, opened(tmp_path, url, judge=judge) as held:
        assert rewards(held, TEXTS[:10]) == truth(TEXTS[:10]) and held.asked == 10
        seen = stats(url)
        assert seen["answered"] == 10 and (seen["requests"] > 10) == refused


def test_a_text_that_says_nothing_is_not_asked_about(tmp_path: Path) -> None:
    with endpoint(tmp_path) as url, opened(tmp_path, url) as judge:
        assert rewards(judge, ["", " "]) == [0.0, 0.0]
        assert judge.asked == judge.failed == 0


def test_connections_that_have_gone_since_the_batch_before_fail_nobody(tmp_path: Path) -> None:
    with endpoint(tmp_path) as url, opened(tmp_path, url) as judge:
        pass
    with endpoint(tmp_path) as url:
        port = urlsplit(url).port
        kept = opened(tmp_path, url)
        judge = kept.__enter__()
        assert rewards(judge, TEXTS[:20]) == truth(TEXTS[:20])
    with endpoint(tmp_path, port=port) as url:
        assert rewards(judge, TEXTS[20:40]) == truth(TEXTS[20:40])
        seen = stats(url)
        kept.__exit__(None, None, None)
        assert seen["requests"] == seen["answered"] == 20, "and nothing had to be sent again"


# ── failures ─────────────────────────────────────────────────────────────────────────────────────


def test_what_fails_is_none_and_changes_nothing_else(tmp_path: Path) -> None:
    faults = '[[faults]]\nkind = "content_filter"\nshare = 0.1\n'
    with endpoint(tmp_path, faults) as url, opened(tmp_path, url) as judge:
        found = rewards(judge, TEXTS)
        struck = stats(url)["faults"]["content_filter"]
        missing = [n for n, value in enumerate(found) if value is None]
        assert len(missing) == judge.failed == struck and 10 <= struck <= 35
        assert [v for v in found if v is not None] == [v for n, v in enumerate(truth(TEXTS)) if n not in missing]
        assert answers(tmp_path / "scored.db") == len(TEXTS) - struck, "what failed is not kept"


def test_answers_that_cannot_be_read_are_counted_and_stay_so(tmp_path: Path) -> None:
    model = f"{MODEL}?invalid=0.1"
    with endpoint(tmp_path) as url:
        for _ in range(2):
            with opened(tmp_path, url, judge=f'model = "{model}"') as judge:
                found = rewards(judge, TEXTS)
                assert 8 <= found.count(None) == judge.failed <= 35
                others = [n for n, value in enumerate(found) if value is not None]
                assert [found[n] for n in others] == truth([TEXTS[n] for n in others], model)
        assert judge.asked == 0 and judge.cached == len(TEXTS) + judge.failed, "their repairs were asked for as well"


def test_what_always_fails_is_none_when_it_is_asked_for_alone(tmp_path: Path) -> None:
    faults = '[[faults]]\nkind = "error_500_forever"\nrequests = [3]\n'
    with endpoint(tmp_path, faults) as url:
        for asked in (20, 1):
            with opened(tmp_path, url) as judge:
                found = rewards(judge, TEXTS[:20])
                assert found.count(None) == judge.failed == 1 and judge.asked == asked


# ── what ends it ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["auth_401", "quota_402"])
def test_a_judge_that_answers_no_more_ends_the_batch_and_keeps_what_was_paid(kind: str, tmp_path: Path) -> None:
    faults = f'[[faults]]\nkind = "{kind}"\nrequests = [30]\n'
    limits = "in_flight = 8"
    with endpoint(tmp_path, faults, latency=0.02) as url, opened(tmp_path, url, limits=limits) as judge:
        with pytest.raises(Unscored, match=r"judge 'gpt' answers no more: .*40[12]"):
            judge.all(both(judge.rubric, text) for text in TEXTS)
        seen = stats(url)
        assert seen["answered"] == answers(tmp_path / "scored.db"), "what was in flight was taken in"
        assert 29 <= seen["answered"] < 60 and seen["requests"] == seen["answered"] + 1
        with pytest.raises(Unscored, match=r"40[12]"):
            rewards(judge, TEXTS)
        assert stats(url)["requests"] == seen["requests"], "nothing further is sent"
    with endpoint(tmp_path) as url, opened(tmp_path, url) as judge:
        assert [first for first, _ in judge.all(both(judge.rubric, text) for text in TEXTS)] == truth(TEXTS)
        assert judge.asked == 2 * len(TEXTS) - seen["answered"] == stats(url)["answered"]


def test_an_outage_is_no_reward(tmp_path: Path) -> None:
    faults = '[[faults]]\nkind = "error_500"\nevery = 1\n'
    with (
        endpoint(tmp_path, faults) as url,
        opened(tmp_path, url, limits="attempts = 2") as judge,
        pytest.raises(Unscored, match="server: 500"),
    ):
        rewards(judge, TEXTS[:8])


def test_a_budget_is_kept(tmp_path: Path) -> None:
    limits = f"in_flight = 4\n{PRICES}"
    with endpoint(tmp_path) as url, opened(tmp_path, url, limits=limits, max_cost=0.1) as judge:
        with pytest.raises(Unscored, match=r"of 0\.10 USD are spent"):
            rewards(judge, TEXTS)
        assert 0.05 < judge.cost_usd <= 0.1 and judge.cost_usd == pytest.approx(spent(stats(url)))
        assert 0 < stats(url)["answered"] == answers(tmp_path / "scored.db") < len(TEXTS)


def test_what_nobody_says_the_cost_of_is_told_beside_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.earning import _told_of

    faults = '[[faults]]\nkind = "error_500"\nrequests = [3, 5]\n'
    limits = f"in_flight = 1\nattempts = 1\n{PRICES}"
    with endpoint(tmp_path, faults) as url, opened(tmp_path, url, limits=limits, max_cost=10.0) as judge:
        rewards(judge, TEXTS[:40])
        known = spent(stats(url))
        assert judge.unknown == 2 and judge.cost_usd == pytest.approx(known) and judge.budget.unknown > 0
        _told_of(judge)
    assert f"{known:.2f} USD and 2 calls of unknown cost\n" in capsys.readouterr().err


def test_whatever_goes_wrong_otherwise_is_raised_as_it_is(tmp_path: Path) -> None:
    async def wrong() -> float:
        raise ZeroDivisionError("a mistake")

    with endpoint(tmp_path, latency=0.05) as url, opened(tmp_path, url) as judge:
        with pytest.raises(ZeroDivisionError, match="a mistake"):
            judge.all([reward(judge.rubric, TEXTS[0]), wrong(), reward(judge.rubric, TEXTS[1])])
        assert stats(url)["in_flight"] == 0


def test_a_question_in_flight_is_taken_in_though_nobody_waits_for_it(tmp_path: Path) -> None:
    async def hasty(judge: RubricJudge) -> None:
        async with asyncio.TaskGroup() as group:  # one that fails cancels the other
            group.create_task(reward(judge, TEXTS[0]))
            await asyncio.sleep(0.1)
            raise ZeroDivisionError("a mistake")

    with endpoint(tmp_path, latency=0.5) as url, opened(tmp_path, url) as judge:
        with pytest.raises(ExceptionGroup):
            judge.all([hasty(judge.rubric)])
        assert stats(url)["answered"] == answers(tmp_path / "scored.db") == 1


def test_an_interrupt_that_a_training_takes_care_of_lets_the_batch_end(tmp_path: Path) -> None:
    heard: list[int] = []

    def handle(number: int, frame: object) -> None:
        heard.append(number)

    async def interrupting(judge: RubricJudge) -> float | None:
        os.kill(os.getpid(), signal.SIGINT)
        return await reward(judge, TEXTS[0])

    before = signal.signal(signal.SIGINT, handle)
    try:
        with endpoint(tmp_path, latency=0.05) as url, opened(tmp_path, url) as judge:
            found = judge.all([interrupting(judge.rubric), *(reward(judge.rubric, text) for text in TEXTS[1:20])])
            assert found == truth(TEXTS[:20]) and heard == [signal.SIGINT]
            assert signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_nobody_takes_care_of_ends_the_batch_at_once(tmp_path: Path) -> None:
    async def interrupting(judge: RubricJudge) -> float | None:
        found = await reward(judge, TEXTS[0])
        os.kill(os.getpid(), signal.SIGINT)
        return found

    with endpoint(tmp_path, latency=0.05) as url:
        with pytest.raises(KeyboardInterrupt), opened(tmp_path, url, limits="in_flight = 4") as judge:
            judge.all([interrupting(judge.rubric), *(reward(judge.rubric, text) for text in TEXTS[1:])])
        assert 1 <= answers(tmp_path / "scored.db") < len(TEXTS)


# ── asking once ──────────────────────────────────────────────────────────────────────────────────


def test_what_was_answered_before_a_batch_was_broken_off_is_not_asked_again(tmp_path: Path) -> None:
    limits = "in_flight = 8"

    done: list[str] = []

    async def breaking(judge: RubricJudge, text: str) -> float | None:
        found = await reward(judge, text)
        done.append(text)
        if len(done) == len(TEXTS) // 2:
            raise RuntimeError("broken off")
        return found

    with endpoint(tmp_path, latency=0.01) as url:
        with opened(tmp_path, url, limits=limits) as judge, pytest.raises(RuntimeError, match="broken off"):
            judge.all(breaking(judge.rubric, text) for text in TEXTS)
        before = stats(url)["answered"]
        assert before == answers(tmp_path / "scored.db") and len(TEXTS) // 2 <= before < len(TEXTS)
        with opened(tmp_path, url, limits=limits) as judge:
            assert rewards(judge, TEXTS) == truth(TEXTS)
            assert (judge.cached, judge.asked) == (before, len(TEXTS) - before)
        assert stats(url)["answered"] == len(TEXTS) and stats(url)["repeats"] == 0


DYING = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_scoring import TEXTS, opened, reward

async def dying(judge, number):
    found = await reward(judge.rubric, TEXTS[number])
    if number == 60:
        os._exit(9)
    return found

with opened(Path(sys.argv[2]), sys.argv[3], limits="in_flight = 8") as judge:
    judge.all(dying(judge, number) for number in range(len(TEXTS)))
"""


def test_a_training_that_is_killed_loses_what_was_in_flight_and_no_more(tmp_path: Path) -> None:
    with endpoint(tmp_path, latency=0.01) as url:
        words = [sys.executable, "-c", DYING, str(Path(__file__).parent), str(tmp_path), url]
        killed = subprocess.run(words, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120)
        assert killed.returncode == 9, killed.stderr
        with opened(tmp_path, url) as judge:
            assert rewards(judge, TEXTS) == truth(TEXTS)
            assert judge.cached >= 50 and judge.asked == len(TEXTS) - judge.cached
        assert stats(url)["answered"] <= len(TEXTS) + 8


def test_the_same_question_twice_is_one(tmp_path: Path) -> None:
    same = [TEXTS[0]] * 5
    with endpoint(tmp_path, latency=0.05) as url, opened(tmp_path, url, cache=None) as judge:
        assert rewards(judge, same) == truth(same) and (judge.asked, judge.cached) == (1, 4)
        assert rewards(judge, same) == truth(same) and (judge.asked, judge.cached) == (1, 9)
        drawn = judge.all(reward(judge.rubric, text, draw) for draw, text in enumerate(same))
        assert drawn == truth(same) and judge.asked == stats(url)["answered"] == 5, "draws are told apart"
    with endpoint(tmp_path, '[[faults]]\nkind = "refusal"\nevery = 1\n') as url, opened(tmp_path, url) as judge:
        assert rewards(judge, same) == [None] * 5 and (judge.asked, judge.failed) == (1, 5)


@pytest.mark.parametrize(
    ("more", "again"),
    [
        ("", 0),
        ("structured = false", 0),
        ("temperature = 0.5", 5),
        ("thinking = true", 5),
        ("body = {reasoning_effort = 'low'}", 5),
    ],
)
def test_who_is_asked_in_another_way_is_asked_anew(more: str, again: int, tmp_path: Path) -> None:
    with endpoint(tmp_path) as url, opened(tmp_path, url) as judge:
        rewards(judge, TEXTS[:5])
    with endpoint(tmp_path) as url, opened(tmp_path, url, judge=f"model = {MODEL!r}\n{more}") as judge:
        assert rewards(judge, TEXTS[:5]) == truth(TEXTS[:5])
        assert judge.asked == again, "where the endpoint is does not matter"
    with endpoint(tmp_path) as url, opened(tmp_path, url, judge='model = "another"') as judge:
        assert rewards(judge, TEXTS[:5]) == truth(TEXTS[:5], "another") and judge.asked == 5


def test_without_a_file_answers_go_with_the_block(tmp_path: Path) -> None:
    with endpoint(tmp_path) as url:
        for _ in range(2):
            with opened(tmp_path, url, cache=None) as judge:
                rewards(judge, TEXTS[:5])
                assert judge.asked == 5
    assert {path.name for path in tmp_path.iterdir()} == {"r.toml"}


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


def refused(folder: Path, text: str, judge: str = "gpt", cache: Path | None = None) -> str:
    (folder / "r.toml").write_text(text)
    with (
        pytest.raises(InputError) as caught,
        scoring(judge, roster=folder / "r.toml", out=folder, cache=cache),
    ):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_judge_that_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with endpoint(tmp_path) as url:
        good = roster(tmp_path / "r.toml", url).read_text()
    named = refused(tmp_path, good, "gtp")
    assert "no judge 'gtp' with an endpoint" in named and "did you mean 'gpt'" in named
    rules = refused(tmp_path, '[[judges]]\nname = "mine"\nkind = "rules"\n', "mine")
    assert "no judge 'mine' with an endpoint" in rules and "none: add [[judges]]" in rules
    assert "unknown endpoint 'hear'" in refused(tmp_path, good.replace('endpoint = "here"', 'endpoint = "hear"'))
    assert "names no model" in refused(tmp_path, good.replace("model = ", "# "))
    assert "temperature" in refused(tmp_path, good + "temperature = 11\n")
    assert "r.toml" in refused(tmp_path, "[[judges")
    assert "here" in refused(tmp_path, good), "nobody is there any more"
    with pytest.raises(InputError, match=r"none\.toml"), scoring("gpt", roster=tmp_path / "none.toml", out=tmp_path):
        pass


def test_a_missing_key_is_named_and_one_that_is_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    limits = 'api_key_env = "PLANTED_KEY"'
    with echoing(401) as url:
        assert "PLANTED_KEY" in refused(tmp_path, roster(tmp_path / "r.toml", url, limits=limits).read_text())
        monkeypatch.setenv("PLANTED_KEY", KEY)
        with opened(tmp_path, url, limits=limits, judge='model = "m"') as judge:
            with pytest.raises(Unscored) as caught:
                rewards(judge, TEXTS[:3])
            assert "Bad key [key]" in str(caught.value) and KEY not in str(caught.value)
    with echoing(200) as url, opened(tmp_path, url, limits=limits, judge='model = "m"') as judge:
        assert rewards(judge, TEXTS[:3]) == [None] * 3
    for path in tmp_path.glob("scored.db*"):
        assert KEY.encode() not in path.read_bytes()


def _garbled(path: Path) -> None:
    path.write_bytes(b"no database at all " * 100)


def _anothers(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE answers (question TEXT)")
    connection.close()


def _cut(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
    connection.executemany("INSERT INTO answers VALUES (?, ?)", ((str(n), "x" * 500) for n in range(100)))
    connection.commit()
    connection.close()
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize("damage", [_garbled, _anothers, _cut, lambda path: path.mkdir()])
def test_a_damaged_cache_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    cache = tmp_path / "scored.db"
    damage(cache)
    with endpoint(tmp_path) as url:
        said = refused(tmp_path, roster(tmp_path / "r.toml", url).read_text(), cache=cache)
        assert str(cache) in said and "remove it" in said
        assert stats(url)["requests"] == 0


def test_a_cache_that_is_found_damaged_later_is_named_as_well(tmp_path: Path) -> None:
    cache = tmp_path / "scored.db"
    with endpoint(tmp_path) as url:
        with opened(tmp_path, url) as judge:
            rewards(judge, TEXTS)
        whole = cache.read_bytes()
        cache.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
        with pytest.raises(InputError, match=r"scored\.db.*cannot be read"), opened(tmp_path, url) as judge:
            rewards(judge, TEXTS)


def test_a_full_disk_is_an_end_and_loses_no_answer_that_was_kept(tmp_path: Path) -> None:
    def full(judge: Scoring) -> Coroutine[Any, Any, float | None]:
        judge._once.answers._connection.execute("PRAGMA max_page_count = 12")
        return reward(judge.rubric, TEXTS[0])

    with endpoint(tmp_path) as url:
        with opened(tmp_path, url) as judge, pytest.raises(Unscored, match=r"scored\.db.* cannot be written: .*full"):
            judge.all([full(judge), *(reward(judge.rubric, text) for text in TEXTS)])
        kept = answers(tmp_path / "scored.db")
        assert 0 < kept < len(TEXTS)
        with opened(tmp_path, url) as judge:
            assert rewards(judge, TEXTS) == truth(TEXTS) and judge.cached == kept
