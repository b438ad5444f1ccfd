"""The viewer over real HTTP: what it shows, what it refuses, and what it stores."""

import atexit
import html
import http.client
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import polars as pl
import pytest
from conftest import Play, refused, roster
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import runs
from arena.run import Result, run
from arena.run import Settings as Played
from runs import Run, tables
from runs.pairings import win_matrix
from runs.ratings import leaderboard
from runs.spec import Spec
from runs.transcript import NAMES
from runs.view import Settings, serve
from runs.view.__main__ import main
from runs.view.filters import PAGE, Filters
from runs.view.search import Index, phrases
from runs.view.server import CSP, MOST_BODY
from runs.view.stored import Store
from runs.view.watch import FLAGS
from topics.errors import InputError

DRIVER = Path(__file__).parent / "driver.py"
PATIENCE_S = 20


@dataclass(kw_only=True)
class Answer:
    """What came back."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def said(self) -> str:
        """What a reader reads."""
        return html.unescape(re.sub(r"<[^>]+>", "", self.text))


@dataclass(kw_only=True)
class Browser:
    """A client that sends paths as they are given, keeps cookies, and follows where it is sent on demand."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: str | bytes | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        with closing(http.client.HTTPConnection(self.url.split("/")[2], timeout=PATIENCE_S)) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # an answer may come before all was sent
                connection.request(method, path, body, sent)
            response = connection.getresponse()
            text = response.read().decode()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                cookie, _, rest = value.partition(";")
                self.cookies[cookie.partition("=")[0]] = cookie.partition("=")[2]
                assert "HttpOnly" in rest and "samesite=lax" in rest.lower()
        return Answer(status=response.status, text=text, headers={k.lower(): v for k, v in response.getheaders()})

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def page(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status == 200, answer
        return answer.text

    def post(self, path: str, form: dict[str, str], **headers: str) -> Answer:
        return self.ask("POST", path, urlencode(form), Content_Type="application/x-www-form-urlencoded", **headers)

    def ballot(self) -> tuple[str, str]:
        """The path of the next ballot, and its page."""
        answer = self.get("/judge")
        assert answer.status == 303, answer.said
        return answer.headers["location"], self.page(answer.headers["location"])

    def vote(self, path: str, page: str, **form: str) -> Answer:
        return self.post(path, {"csrf": csrf(page), **form})


def csrf(page: str) -> str:
    return re.findall(r'name="csrf" value="(\w+)"', page)[0]


def listed(page: str) -> list[str]:
    return re.findall(r'<tr data-item data-debate="(\w+)"', page)


@contextmanager
def seen(folder: Path, **more: Any) -> Iterator[Browser]:
    """A viewer of a run, and somebody who looks at it."""
    with serve(Settings(run=str(folder), port=0, **more)) as url:
        yield Browser(url=url)


def until(met: Callable[[], Any]) -> Any:
    """What `met` gives as soon as it gives something; a run that is sealed at this moment cannot be read."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with suppress(InputError):
            if found := met():
                return found
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.05)


@cache
def template(kind: str) -> Path:
    """Runs that tests copy or only look at."""
    out = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    if kind == "seated":
        return seated(Path(shutil.copytree(template("faulty"), out / "run")))
    files = {
        "plain": [],
        "faulty": [
            roster(
                out / "r.toml", "ash, strength = 0.7, fails = 0.004", "birch", "cedar, strength = 0.4, verbosity = 0.96"
            )
        ],
    }
    more: dict[str, Any] = {"roster": files[kind][0]} if files[kind] else {}
    judges = ["rules", "scripted"] if kind == "faulty" else ["rules"]
    played: Result = run(
        Played.model_validate(
            {"out": out, "limit": 120 if kind == "faulty" else 40, "judges": judges, "seed": 4, **more}
        )
    )
    return played.folder


PANEL, PARTS = "together", ("rules@4", "scripted@2")


def seated(folder: Path) -> Path:
    """A run in which a panel, two trajectories, a judge with an @ in its name, and two persons spoke as well."""
    spec = Spec.read(folder)
    spec.model_copy(update={"panels": ({"name": PANEL, "members": ["rules", "scripted"]},)}).save(folder)
    say(folder, PANEL, "tie")
    say(folder, "rules@4", "invalid", where="match % 2 = 0", consistent=0)
    say(folder, "scripted@2", "tie", consistent=0)
    say(folder, "me@home", "against", where="match % 3 = 0", consistent=0)
    say(folder, "human:ann", "for", where="match % 5 = 0")
    say(folder, "human:zed", "invalid", where="match % 7 = 0")
    tables.seal(folder)
    return folder


def say(folder: Path, judge: str, winner: str, *, where: str = "1", consistent: int = 1, text: str = "so") -> None:
    """Put a judge's votes, with a quote, and verdicts on complete debates into a journal."""
    quotes = json.dumps([{"turn": 1, "side": "for", "text": "a quote"}])
    of = f"FROM debates WHERE status = 'complete' AND {where}"
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        verdict = "debate_id, judge, winner, margin, consistent, votes, related"
        journal.execute(
            f"INSERT INTO verdicts ({verdict}) SELECT debate_id, ?, ?, 0, ?, 1, 0 {of}", (judge, winner, consistent)
        )
        vote = 'debate_id, judge, "order", sample, winner, scores, rationale, quotes'
        journal.execute(
            f"INSERT INTO votes ({vote}) SELECT debate_id, ?, 'for_first', 0, ?, '[]', ?, ? {of}",
            (judge, winner, text, quotes),
        )
        journal.commit()


@contextmanager
def playing(tmp_path: Path, delay: float) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A run of 30 debates that another process plays."""
    out = tmp_path / "out"
    spec = ["--topics", "train", "--limit", "30", "--judges", "rules", "--out", str(out), "--concurrency", "2"]
    command = [sys.executable, str(DRIVER), str(tmp_path / "log"), str(delay), *spec]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        folder = until(lambda: next(iter(runs.run.folders(out)), None))
        until(lambda: runs.load(folder).debates.collect().filter(status="complete").height > 2)
        yield folder, process
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a sealed run of 40 debates."""
    return Path(shutil.copytree(template("plain"), tmp_path / "run"))


@pytest.fixture(scope="module")
def faulty() -> Iterator[Browser]:
    """A viewer of a run in which debates became void, and two judges disagree."""
    with seen(template("faulty")) as browser:
        yield browser


# What it shows


def test_the_leaderboard_is_that_of_the_ratings(faulty: Browser) -> None:
    loaded = runs.load(template("faulty"))
    for judge in ("rules", "scripted"):
        page = faulty.page(f"/?judge={judge}")
        board = leaderboard(loaded.debates, loaded.verdicts, judge=judge, contestants=["ash", "birch", "cedar"])
        assert re.findall(r'data-contestant="(\w+)"', page) == board.frame["contestant"].to_list()
        shown = re.findall(r'class="rating">([^<]+)<', page)
        assert shown == [f"{value:,.0f}" if value is not None else "–" for value in board.frame["rating"]]
        assert all(html.escape(note, quote=True).replace("&#x27;", "&#39;") in page for note in board.notes)


def test_the_matrix_says_how_often_the_one_on_the_left_won(faulty: Browser) -> None:
    loaded = runs.load(template("faulty"))
    shown = faulty.page("/?judge=rules").split('<table id="matrix"')[1]
    names = re.findall(r'<th scope="col"><bdi class="name">(\w+)<', shown)
    cells = {}
    for row in shown.split('<tr><th scope="row"')[1:]:
        (name,) = re.findall(r'<bdi class="name">(\w+)<', row)
        for other, cell in zip(names, re.findall(r"<td[^>]*>(.*?)</td>", row), strict=True):
            cells[name, other] = re.match(r"(\d+) %<small>n (\d+)", cell)
    met = win_matrix(loaded.debates, loaded.verdicts, "rules").to_dicts()
    wanted = {(row["contestant"], row["other"]): (f"{100 * row['win_rate']:.0f}", str(row["debates"])) for row in met}
    assert {pair: cell.groups() for pair, cell in cells.items() if cell} == wanted
    assert len(wanted) == 6 and any(int(rate) != 50 for rate, _ in wanted.values())


def test_intervals_are_drawn_where_they_are(faulty: Browser) -> None:
    loaded = runs.load(template("faulty"))
    rated = leaderboard(loaded.debates, loaded.verdicts, judge="rules").frame.drop_nulls("low")
    drawn = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)".*?<rect x="([-\d.]+)"', faulty.page("/?judge=rules"))
    told = rated.select("low", "high", "rating").rows()
    pairs = [(x, float(at)) for row, ats in zip(told, drawn, strict=True) for x, at in zip(row, ats, strict=True)]
    pairs = [(x, at + 0.8 if n % 3 == 2 else at) for n, (x, at) in enumerate(pairs)]  # a mark is 1.6 wide
    (least, left), (most, right) = min(pairs), max(pairs)
    assert 0 <= left < 10 and 90 < right <= 100
    for x, at in pairs:
        assert at == pytest.approx(left + (right - left) * (x - least) / (most - least), abs=0.02)


def test_a_debate_shows_all_that_is_stored_of_it_but_private_reasoning(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        journal.execute("UPDATE turns SET reasoning = 'a private thought'")
        journal.commit()
    loaded = runs.load(folder)
    debate = loaded.debates.collect().row(7, named=True)
    with seen(folder) as browser:
        page = browser.page(f"/debates/{debate['debate_id']}")
        for turn in loaded.turns.filter(debate_id=debate["debate_id"]).collect().iter_rows(named=True):
            assert turn["text"] in html.unescape(re.sub(r"</?mark>", "", page))
            assert f'id="turn-{turn["turn"]}"' in page
        vote = loaded.votes.filter(debate_id=debate["debate_id"]).collect().row(0, named=True)
        assert vote["rationale"] in html.unescape(page)
        neighbours = re.findall(r'rel="(?:prev|next)" href="/debates/(\w+)"', page)
        assert neighbours == [loaded.debates.collect()["debate_id"][n] for n in (6, 8)]
        until(lambda: "indexed so far" not in browser.page("/search?q=a"))
        for path in ("/", "/debates", f"/debates/{debate['debate_id']}", "/search?q=private+thought", "/judge"):
            assert "a private thought" not in browser.page(path)
        assert 'data-total="0"' in browser.page("/search?q=%22a+private+thought%22")


def test_quotes_of_the_chosen_vote_are_marked(folder: Path) -> None:
    debate_id = runs.load(folder).debates.collect()["debate_id"][0]
    first, third = (runs.load(folder).turns.filter(debate_id=debate_id).collect()["text"][n] for n in (0, 2))
    quotes = {"for_first": (1, "for", first[10:50].strip()), "against_first": (3, "for", third[20:60].strip())}
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        for order, (turn, side, text) in quotes.items():
            stored = json.dumps([{"turn": turn, "side": side, "text": text}])
            row = (debate_id, "other", order, 0, "for", 0.5, "[]", "why", stored, None, None, None)
            journal.execute(f"INSERT INTO votes VALUES ({', '.join('?' * 12)})", row)
        journal.commit()
    with seen(folder) as browser:
        for order, (turn, _, text) in quotes.items():
            page = browser.page(f"/debates/{debate_id}?judge=other&order={order}&sample=0")
            assert [html.unescape(mark) for mark in re.findall("<mark>(.*?)</mark>", page)] == [text]
            assert text in html.unescape(page.split(f'id="turn-{turn}"')[1].split("</article>")[0])
        assert browser.get(f"/debates/{debate_id}?judge=nobody").status == 404


def test_two_debates_on_one_topic_stand_side_by_side(faulty: Browser) -> None:
    debates = runs.load(template("faulty")).debates.collect()
    first = debates.row(0, named=True)
    other = debates.filter(topic_id=first["topic_id"])["debate_id"][1]
    assert f'value="{other}"' in faulty.page(f"/debates/{first['debate_id']}")
    page = faulty.page(f"/compare?a={first['debate_id']}&b={other}")
    assert re.findall(r'<section data-debate="(\w+)"', page) == [first["debate_id"], other]
    elsewhere = debates.filter(pl.col("topic_id") != first["topic_id"])["debate_id"][0]
    assert faulty.get(f"/compare?a={first['debate_id']}&b={elsewhere}").status == 400


def test_whose_word_is_on_the_whole_debate() -> None:
    folder = template("seated")
    debates = runs.load(folder).debates.collect()
    row = next(row for row in debates.to_dicts() if row["status"] == "complete" and row["match"] % 210 == 0)
    whole = [PANEL, "me@home", "rules", "scripted", "human:ann", "human:zed"]
    with seen(folder) as browser:
        choices = browser.page("/").split('aria-label="By whose verdicts"')[1].split("</nav>")[0]
        assert re.findall(r'href="/\?judge=[^"]+"[^>]*>([^<]+)<', choices) == whole
        page = browser.page(f"/debates/{row['debate_id']}")
        assert re.findall(r'data-judge="([^"]+)"', page) == [*whole, *PARTS]
        apart = re.findall(r'<details id="part-\w+"><summary[^>]*><bdi class="name">([^<]+)<', page)
        assert apart == [*PARTS] and page.count("on a part of the debate") == 2
        outcomes = browser.page(f"/compare?a={row['debate_id']}&b={row['debate_id']}").split('<ul class="outcomes">')
        named = re.findall(r'<li><bdi class="name">([^<]+)<', outcomes[1])
        assert sorted(named) == sorted(whole)


def test_what_can_have_the_focus_is_named_by_what_it_is(folder: Path) -> None:
    say(folder, "other", "for", where="match = 0", text="at length " * 100)
    say(folder, "other@2", "for", where="match = 0")
    with seen(folder) as browser:
        debate = listed(browser.page("/debates"))[0]
        pages = []
        for judge in ("a judge who comes first", "zoe"):
            part = browser.page(f"/debates/{debate}/live")
            focusable = re.findall(r"<(?:a|summary|details|article|button)\b[^>]*>", part)
            ids = [*re.findall(r' id="([^"]+)"', " ".join(focusable))]
            assert len(ids) == len(focusable) == len({*ids})
            pages.append(ids)
            say(folder, judge, "for", where="match = 0")
        assert {*pages[0]} < {*pages[1]}  # nobody's name has passed to another


# The list

FIRST = {"faulty": "rules", "seated": PANEL}
"""By whose verdicts a run's outcomes are told, where nobody is named."""


def expected(filters: dict[str, Any], kind: str) -> list[str]:
    """What filters leave, said once more over the tables, row by row."""
    loaded = runs.load(template(kind))
    turns = loaded.turns.collect().to_dicts()
    trimmed = {turn["debate_id"] for turn in turns if turn["trimmed"]}
    failed = {*loaded.failures.collect()["debate_id"]}
    verdicts = loaded.verdicts.collect().to_dicts()
    left = []
    for debate in loaded.debates.collect().to_dicts():
        of_all = [verdict for verdict in verdicts if verdict["debate_id"] == debate["debate_id"]]
        own = [verdict for verdict in of_all if verdict["judge"] not in PARTS]
        single = [verdict for verdict in own if verdict["judge"] != PANEL]
        marks = {
            "trimmed": debate["debate_id"] in trimmed,
            "failed": debate["debate_id"] in failed,
            "disagree": len({v["winner"] for v in single} & {"for", "against", "tie"}) > 1,
            "inconsistent": not all(v["consistent"] for v in own),
            "invalid": any(v["winner"] == "invalid" for v in own),
            "voted": any(v["judge"].startswith("human:") for v in own),
        }
        judge = filters.get("judge", FIRST[kind])
        winner = next((v["winner"] for v in of_all if v["judge"] == judge), "none")
        seats = {side: debate[f"{side}_contestant"] for side in ("for", "against")}
        who = filters.get("contestant")
        won = {"won": seats.get(winner) == who, "lost": winner in seats and seats[winner] != who}
        keeps = (
            filters.get("topic", debate["topic_id"]) == debate["topic_id"],
            filters.get("status", debate["status"]) == debate["status"],
            who is None or who in ([seats[filters["side"]]] if "side" in filters else seats.values()),
            won.get(filters.get("outcome", ""), filters.get("outcome", winner) == winner),
            all(marks[flag] for flag in filters.get("flag", ())),
        )
        if all(keeps):
            left.append(debate["debate_id"])
    return left


def some_filters() -> list[dict[str, Any]]:
    debates = runs.load(template("faulty")).debates.collect()
    sides, outcomes = ({"side": "for"}, {"side": "against"}, {}), ("won", "lost", "for", "tie", "none")
    found: list[dict[str, Any]] = [{"contestant": "ash", "outcome": o} | side for side, o in product(sides, outcomes)]
    found += [{"flag": [flag]} for flag in FLAGS] + [{"status": status} for status in ("complete", "void", "open")]
    found += [{"outcome": o, "judge": j} for o in ("for", "against", "tie", "none") for j in ("rules", "scripted")]
    return [*found, {}, {"topic": debates["topic_id"][3]}, {"flag": ["disagree", "trimmed"], "contestant": "cedar"}]


def all_pages(browser: Browser, **filters: Any) -> list[str]:
    asked = urlencode(filters, doseq=True)
    first = browser.page(f"/debates?{asked}")
    total = int(re.findall(r'id="found" data-total="(\d+)"', first)[0])
    pages = [listed(browser.page(f"/debates?{asked}&page={n + 1}")) for n in range(-(-total // PAGE))]
    assert all(len(page) == PAGE for page in pages[:-1])
    found = [debate_id for page in pages for debate_id in page]
    assert len(found) == total
    return found


def test_filters_leave_what_the_tables_say(faulty: Browser) -> None:
    sizes = set()
    for filters in some_filters():
        found = all_pages(faulty, **filters)
        assert found == expected(filters, "faulty"), filters
        sizes.add(len(found))
    assert len(sizes) > 8


def test_flags_are_of_judges_of_whole_debates() -> None:
    with seen(template("seated")) as browser:
        sizes = []
        for flag in FLAGS:
            found = all_pages(browser, flag=[flag])
            assert found == expected({"flag": [flag]}, "seated"), flag
            sizes.append(len(found))
        ended = runs.load(template("seated")).debates.filter(status="complete").collect().height
        assert min(sizes) > 0 and max(sizes) < ended
        assert all_pages(browser, outcome="tie") == expected({"outcome": "tie"}, "seated")
        assert all_pages(browser, judge="rules@4", outcome="invalid")  # who asks for a part is shown it


def test_pages_hold_every_debate_once(faulty: Browser) -> None:
    found = all_pages(faulty)
    assert found == runs.load(template("faulty")).debates.collect()["debate_id"].to_list()
    assert len(found) > 2 * PAGE


def test_filters_that_are_in_the_address_stand_in_the_form(faulty: Browser) -> None:
    page = faulty.page("/debates?contestant=ash&outcome=won&flag=trimmed&page=1")
    chosen = re.findall(r'<option value="([^"]+)" selected', page)
    assert chosen == ["ash", "won"] and re.findall(r'value="(\w+)" checked', page) == ["trimmed"]


# Search


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with Index(Store(template("plain"))) as made:
        until(lambda: made.complete)
        yield made


def tokens(text: str) -> list[str]:
    bare = "".join(c for c in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", bare)


def test_search_finds_what_reading_everything_finds(index: Index) -> None:
    turns = runs.load(template("plain")).turns.collect().to_dicts()
    read = [(turn["debate_id"], turn["turn"], f" {' '.join(tokens(turn['text']))} ") for turn in turns]
    draw = Random(1)
    queries = ["the motion", '"of the"', "Zürich", "don't", "nowhere-to-be-found"]
    for _ in range(15):
        said = draw.choice(turns)["text"].split()
        at = draw.randrange(len(said) - 3)
        queries += [said[at].upper(), f"{said[at]} {draw.choice(said)}", '"' + " ".join(said[at : at + 3]) + '"']
    for query in queries:
        parts = [f" {' '.join(tokens(part))} " for part in phrases(query)]
        wanted = [(debate_id, turn) for debate_id, turn, text in read if all(part in text for part in parts)]
        pages = [index.find(query, page=n + 1) for n in range(max(1, min(3, -(-len(wanted) // 20))))]
        hits = [(hit.debate_id, hit.turn) for page in pages for hit in page.hits]
        assert all(page.total == len(wanted) for page in pages), query
        assert len({*hits}) == min(60, len(wanted)) and {*hits} <= {*wanted}, query


@given(st.text(max_size=300))
@example('" OR text : NEAR(')
@example("a* ^b - c + (d) {e}")
@example('"""')
@example("\x00 \ud7ff NOT")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_query_is_ever_read_as_syntax(index: Index, query: str) -> None:
    found = index.find(query)
    assert found.total >= len(found.hits)


def test_a_hit_leads_to_its_turn_and_is_marked(faulty: Browser) -> None:
    until(lambda: "indexed so far" not in faulty.page("/search?q=motion"))
    page = faulty.page("/search?q=motion")
    links = re.findall(r'<a href="/debates/(\w+)#turn-(\d+)"', page)
    assert links and all(f'id="turn-{turn}"' in faulty.page(f"/debates/{debate}") for debate, turn in links[:3])
    assert {mark.lower() for mark in re.findall("<mark>(.*?)</mark>", page)} == {"motion"}


# Strangers' text

HOSTILE = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '<a href="javascript:alert(1)">click</a>',
    "{{ 'a' * 40 }}{% raw %}{{ config }}",
    "\"'><svg/onload=alert(1)>",
    "\u202eevil\u2066 \u200ehidden\x1b[31m",
)


def spoil(folder: Path) -> None:
    """Put hostile text wherever strangers' text can stand."""
    said = " ".join(HOSTILE)
    ink = json.dumps(
        [{"turn": 1, "side": "for", "text": HOSTILE[0]}, {"turn": 2, "side": "against", "text": HOSTILE[5]}]
    )
    scores = json.dumps([{"criterion": HOSTILE[1], "for": 1, "against": 2}])
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        first = journal.execute("SELECT debate_id FROM debates ORDER BY match").fetchone()
        journal.execute("UPDATE turns SET text = ?, stage = ?, contestant = ?, trimmed = 1", (said, said, said))
        journal.execute("UPDATE debates SET for_contestant = ?, against_contestant = ?", (said, HOSTILE[1]))
        journal.execute(
            "UPDATE votes SET judge = ?, rationale = ?, quotes = ?, scores = ?, error = ?",
            (said, said, ink, scores, said),
        )
        journal.execute("UPDATE verdicts SET judge = ?", (said,))
        journal.execute("UPDATE calls SET model = ?", (said,))
        failure = (*first, "speak", 1, 0, said, said, "raised", said, 1)
        journal.execute(f"INSERT INTO failures VALUES ({', '.join('?' * 9)})", failure)
        journal.commit()


def harmless(page: str) -> None:
    """Nothing in a page runs, loads or leads anywhere but what templates put there."""
    tags = re.findall(r"<[a-zA-Z][^>]*>", page)
    for tag in tags:
        assert not re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', '""', tag)), tag
        assert not re.search(r"\s(style|srcdoc|formaction|ping)\s*=", re.sub(r'"[^"]*"', '""', tag)), tag
        for url in re.findall(r'\s(?:href|src|action|hx-get)="([^"]*)"', tag):
            assert re.match(r"(/|#|data:,$)", url) and not url.startswith("//"), url
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.S)
    assert scripts == ["", ""] and "<img" not in page and "<svg/" not in page
    read = re.sub(r'<option value="[^"]*"', "", page)  # which nobody reads, and which must be what it is
    assert not re.search("[\u200e\u202a-\u202e\u2066-\u2069\x1b]", read)
    assert "a" * 40 not in page


def test_hostile_text_is_only_text(folder: Path) -> None:
    spoil(folder)
    with seen(folder) as browser:
        ids = listed(browser.page("/debates"))
        until(lambda: "indexed so far" not in browser.page("/search?q=a"))
        name = quote(" ".join(HOSTILE))
        paths = [
            *("/", "/debates", f"/debates/{ids[0]}", f"/compare?a={ids[0]}&b={ids[1]}", "/search?q=config"),
            *(f"/?judge={name}", f"/debates?contestant={name}&judge={name}", f"/search?q={name}"),
        ]
        for path in paths:
            page = browser.page(path)
            harmless(page)
        assert html.escape(HOSTILE[0]).replace("&#x27;", "&#39;") in browser.page(f"/debates/{ids[0]}")
        for path in (
            f"/debates?contestant={name}x",
            f"/?judge={name}x",
            f"/debates/{name}",
            f"/{name}",
            f"/debates?page={name}",
        ):
            answer = browser.get(path)
            assert answer.status in (400, 404)
            harmless(answer.text)
        path, page = browser_named(browser)
        harmless(page)
        answer = browser.vote(path, page, winner="x", reason="</textarea>" + " ".join(HOSTILE[:5]))
        assert answer.status == 409
        harmless(answer.text)
        assert browser.vote(path, page, winner="tie", reason="</textarea>" + " ".join(HOSTILE)).status == 303
        harmless(browser.page(path))


def browser_named(browser: Browser, person: str = "ann") -> tuple[str, str]:
    """Say a name, and take the first ballot."""
    answer = browser.post("/judge/name", {"csrf": csrf(browser.page("/judge")), "name": person})
    assert answer.status == 303
    return browser.ballot()


def test_a_megabyte_of_one_letter_is_shown_in_part(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        first = "(SELECT debate_id FROM debates WHERE match = 0)"
        journal.execute(f"UPDATE turns SET text = ? WHERE turn = 3 AND debate_id = {first}", ("x" * 10**6,))
        journal.commit()
    with seen(folder) as browser:
        debate = listed(browser.page("/debates"))[0]
        page = browser.page(f"/debates/{debate}")
        assert len(page) < 200_000 and "20,000 of 1,000,000 characters" in page
        assert f'href="/debates/{debate}?whole=3#turn-3"' in page
        assert len(browser.page(f"/debates/{debate}?whole=3")) > 10**6


# Who may ask

ELSEWHERE = [
    *("/static/../view.py", "/static/%2e%2e/view.py", "/static/..%2f..%2fpyproject.toml", "/static/%2fetc%2fpasswd"),
    *("/debates/../../etc/passwd", "/debates/%2e%2e%2f%2e%2e%2fspec.json", "/spec.json", "/journal.db", "//etc/passwd"),
    *("/static/view.css/..", "/static/", "/debates/%00", "/judge/..%2f..", "/static/templates/base.html"),
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_no_path_reaches_a_file(faulty: Browser, path: str) -> None:
    answer = faulty.get(path)
    assert answer.status == 404
    assert not re.search("root:|def |seed|SQLite", answer.text)


def test_every_answer_says_what_a_browser_may_do(faulty: Browser) -> None:
    for path in ("/", "/nowhere", "/static/keys.js", "/debates?page=0", "/board"):
        headers = faulty.get(path).headers
        assert headers["content-security-policy"] == CSP and "unsafe" not in CSP
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    assert faulty.get("/judge").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8700", "", "evil.example:80@127.0.0.1"])
def test_another_name_gets_nothing(faulty: Browser, host: str) -> None:
    answer = faulty.get("/debates", Host=host)
    assert answer.status == 400 and "Debates" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8700", "LOCALHOST:8700"])
def test_its_own_names_are_known(faulty: Browser, host: str) -> None:
    assert faulty.get("/debates", Host=host).status == 200


def test_nothing_but_get_and_post(faulty: Browser) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert faulty.ask(method, "/debates").status == 405
    assert faulty.ask("POST", "/debates").status == 405
    assert faulty.ask("HEAD", "/debates").status == 200


def test_a_body_has_a_bound(faulty: Browser) -> None:
    assert faulty.post("/judge/name", {"name": "x" * (MOST_BODY + 1)}).status == 413
    chunks: Any = iter([b"x" * 60_000] * 2)
    assert faulty.ask("POST", "/judge/name", chunks).status == 413  # of which nothing says how long they are


def test_what_is_asked_wrongly_is_told_on_one_line(faulty: Browser) -> None:
    paths = ["page=0", "page=x", "page=99999999", "outcome=x", "side=x", "side=for", "outcome=won", "status=x"]
    paths += ["flag=x", "topic=x", "contestant=x", "judge=x", "flag=trimmed&flag=x"]
    others = ("/compare", "/compare?a=1", "/search?page=0&q=a", "/?length=2", "/list?page=0")
    for path in (*(f"/debates?{asked}" for asked in paths), *others):
        answer = faulty.get(path)
        assert answer.status == 400, path
        assert "\n" not in re.findall(r'id="error">(.*?)</p>', answer.text, flags=re.S)[0]
        assert "Traceback" not in answer.text


TOKEN = "a-token-of-some-length"


def test_a_token_is_needed_by_every_request(folder: Path) -> None:
    with seen(folder, host="0.0.0.0", token=TOKEN) as browser:
        assert browser.url.endswith(f"/?token={TOKEN}")
        browser.url = browser.url.replace("0.0.0.0", "127.0.0.1")
        for path in ("/", "/debates", "/static/view.css", "/judge", "/?token=wrong", f"/debates/?token={TOKEN[:-1]}"):
            answer = browser.get(path)
            assert answer.status == 401 and len(answer.text) < 100
        assert browser.get("/", Authorization="Bearer wrong").status == 401
        assert browser.get("/", Authorization=f"Bearer {TOKEN}").status == 200
        assert browser.get("/", Host="evil.example", Authorization=f"Bearer {TOKEN}").status == 400
        assert browser.get("/", Host="192.0.2.7:8700", Authorization=f"Bearer {TOKEN}").status == 200
        assert browser.get("/").status == 401
        answer = browser.get(f"/?token={TOKEN}")
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert browser.get("/debates").status == 200 and TOKEN not in browser.page("/")
        assert {browser.get(path).headers["cache-control"] for path in ("/", "/debates", "/nowhere")} == {"no-store"}


def test_a_token_is_made_up_where_none_is_given(folder: Path) -> None:
    with seen(folder, host="0.0.0.0") as one, seen(folder, host="0.0.0.0") as other:
        tokens_ = [browser.url.partition("?token=")[2] for browser in (one, other)]
        assert all(len(token) >= 16 for token in tokens_) and len(set(tokens_)) == 2


# Votes


def stored_votes(folder: Path, person: str = "ann") -> dict[str, tuple[str, str]]:
    loaded = runs.load(folder)
    both = loaded.votes.join(loaded.verdicts, on=["debate_id", "judge"]).filter(judge=f"human:{person}")
    return {row[0]: row[1:] for row in both.select("debate_id", "winner", "winner_right").collect().rows()}


def test_a_ballot_is_blind(folder: Path) -> None:
    loaded = runs.load(folder)
    debates = loaded.debates.collect()
    names = {*debates["for_contestant"], *debates["against_contestant"]}
    with seen(folder) as browser:
        for _ in range(4):
            path, page = browser_named(browser) if not browser.cookies else browser.ballot()
            answer = browser.get(path)
            everything = (path + page + json.dumps(answer.headers)).lower()
            assert len(names) > 3 and not any(re.search(rf"\b{name}\b", everything) for name in names)
            assert not any(debate_id in everything for debate_id in debates["debate_id"])
            around = re.sub(r'<(h1|p class="known"|div class="said").*?</(h1|p|div)>', "", page, flags=re.S)
            assert not re.search("rules|margin|verdict[^s]|sure<", around)
            assert answer.headers["cache-control"] == "no-store"
            spoken = re.findall(r'<div class="said" dir="auto">(.*?)</div>', page, flags=re.S)
            found = loaded.turns.filter(text=html.unescape(spoken[0])).collect()
            turns = loaded.turns.filter(debate_id=found["debate_id"][0]).collect()
            assert [html.unescape(text) for text in spoken] == turns["text"].to_list()
            assert {*re.findall(r"<strong>(\w+)</strong>", page)} & {*NAMES}
            browser.vote(path, page, winner="tie")
            revealed = browser.page(path)
            row = debates.row(by_predicate=pl.col("debate_id") == found["debate_id"][0], named=True)
            assert row["for_contestant"] in revealed and f"/debates/{row['debate_id']}" in revealed


def test_a_vote_is_stored_and_the_run_sealed_again(folder: Path) -> None:
    with seen(folder, name="ann") as browser:
        path, page = browser.ballot()
        answer = browser.vote(path, page, winner="against", confidence="80", reason="clearer,\nand calm")
        assert (answer.status, answer.headers["location"]) == (303, path)
        until(lambda: stored_votes(folder))
        assert tables.is_sealed(folder)
        tables.verify(folder)
        ((debate_id, voted),) = stored_votes(folder).items()
        assert voted == ("against", "against")
        vote = runs.load(folder).votes.filter(judge="human:ann").collect().row(0, named=True)
        assert (vote["confidence"], vote["rationale"], vote["order"]) == (0.8, "clearer, and calm", "for_first")
        until(lambda: "human:ann" in browser.page("/"))
        assert listed(browser.page("/debates?flag=voted")) == [debate_id]
        assert browser.ballot()[0] != path


def test_nobody_can_make_the_address_of_a_ballot(folder: Path) -> None:
    with seen(folder, name="ann") as one, seen(folder, name="ann") as other:
        pages = [browser.ballot() for browser in (one, other)]
    addresses, said = zip(*pages, strict=True)
    assert addresses[0] != addresses[1]
    assert len({re.findall(r"<h1[^>]*>(.*?)</h1>", page)[0] for page in said}) == 1  # though it is the same debate


def test_everybody_is_given_the_same_debates(folder: Path) -> None:
    given_ = []
    with seen(folder) as browser:
        for person in ("ann", "bob"):
            browser.cookies.clear()
            path, page = browser_named(browser, person)
            for _ in range(3):
                assert browser.vote(path, page, winner="abstain").status == 303
                path, page = browser.ballot()
        until(lambda: len(stored_votes(folder, "bob")) == 3)
        given_ = [set(stored_votes(folder, person)) for person in ("ann", "bob")]
    assert given_[0] == given_[1] and len(given_[0]) == 3


def test_a_stored_vote_is_not_changed(folder: Path) -> None:
    with seen(folder, name="ann") as browser:
        path, page = browser.ballot()
        form = {"winner": "for", "confidence": "50", "reason": "so"}
        assert browser.vote(path, page, **form).status == 303
        assert browser.vote(path, page, **form).status == 303  # a double click
        answer = browser.vote(path, page, **form | {"winner": "tie"})
        assert answer.status == 409 and "a stored vote is not changed" in answer.said
        until(lambda: stored_votes(folder))
        assert [*stored_votes(folder).values()] == [("for", "for")]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"winner": "invalid"}, 409),
        ({"winner": ""}, 409),
        ({"winner": "for", "confidence": "101"}, 409),
        ({"winner": "for", "confidence": "nan"}, 409),
        ({"winner": "for", "reason": "x" * 5_001}, 409),
        ({"winner": "for", "csrf": "0" * 32}, 403),
        ({"winner": "for", "csrf": ""}, 403),
    ],
)
def test_a_wrong_vote_is_refused_on_one_line(faulty: Browser, form: dict[str, str], status: int) -> None:
    browser = Browser(url=faulty.url)
    path, page = browser_named(browser, "zoe")
    answer = browser.vote(path, page, **form)
    assert answer.status == status
    assert "\n" not in re.findall(r'id="error">(.*?)</p>', answer.text, flags=re.S)[0]
    assert stored_votes(template("faulty"), "zoe") == {}


def test_nobody_elses_page_votes(faulty: Browser) -> None:
    browser = Browser(url=faulty.url)
    path, page = browser_named(browser, "zoe")
    form = {"csrf": csrf(page), "winner": "for"}
    elsewhere: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": browser.url.rstrip("/"), "Sec_Fetch_Site": "none"},
    ]
    for headers in elsewhere:
        assert browser.post(path, form, **headers).status == 403
    assert browser.get(f"{path}?winner=for&csrf={csrf(page)}").status == 200  # and is no vote
    other = Browser(url=faulty.url)
    browser_named(other, "yan")
    assert other.post(path, form).status == 404  # a ballot is its person's
    assert stored_votes(template("faulty"), "zoe") == {}


def test_votes_while_another_process_plays(tmp_path: Path) -> None:
    with playing(tmp_path, delay=0.02) as (folder, process), seen(folder, name="ann") as browser:
        cast, meanwhile = 0, 0
        for winner in ("for", "against", "tie", "abstain", "for", "against"):
            until(lambda: browser.get("/judge").status == 303)
            path, page = browser.ballot()
            meanwhile += process.poll() is None
            assert browser.vote(path, page, winner=winner).status == 303
            cast += 1
        assert meanwhile >= 3
        process.wait(PATIENCE_S)
        until(lambda: tables.is_sealed(folder) and len(stored_votes(folder)) == cast)
    tables.verify(folder)
    loaded = runs.load(folder)
    assert all(vote == verdict for vote, verdict in stored_votes(folder).values())
    assert loaded.debates.filter(status="complete").collect().height == 30
    assert loaded.turns.collect().height == 300 and loaded.verdicts.filter(judge="rules").collect().height == 30


def test_votes_that_the_tables_lack_are_sealed_at_the_next_start(folder: Path) -> None:
    with Run.resume(folder), seen(folder, name="ann") as browser:  # somebody else holds it all the while
        path, page = browser.ballot()
        assert browser.vote(path, page, winner="for").status == 303
        time.sleep(0.2)
    assert stored_votes(folder) == {}
    with seen(folder):
        until(lambda: stored_votes(folder))
    tables.verify(folder)


# Where it runs


def test_a_sealed_run_without_a_journal_is_shown(folder: Path) -> None:
    with seen(folder) as browser:
        debate = listed(browser.page("/debates"))[4]
        paths = ("/board", f"/debates/{debate}/live", "/debates?outcome=for")
        with_journal = [browser.page(path) for path in paths]
    for path in folder.glob("journal.db*"):
        path.unlink()
    with seen(folder, name="ann") as browser:
        assert [browser.page(path) for path in paths] == with_journal
        until(lambda: "indexed so far" not in browser.page("/search?q=motion"))
        assert 'data-total="0"' not in browser.page("/search?q=motion")
        path, page = browser.ballot()
        answer = browser.vote(path, page, winner="for")
        assert answer.status == 409 and "journal" in answer.said


def test_a_run_in_which_nothing_was_said_yet(play: Play) -> None:
    played = play(limit=2).folder
    with closing(sqlite3.connect(played / "journal.db")) as journal:
        for table in ("debates", "turns", "votes", "verdicts", "calls"):
            journal.execute(f"DELETE FROM {table}")
        journal.commit()
    (played / "manifest.json").unlink()
    with seen(played, name="ann") as browser:
        for path in ("/", "/debates", "/search?q=a", "/judge"):
            assert browser.get(path).status == 200
        assert "no rated verdict" in browser.page("/")


def test_the_command_refuses_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run 'nowhere'" in refused(capsys, "nowhere", "--out", folder.parent, command=main)
    assert "--token has 5 characters" in refused(capsys, folder, "--token", "short", command=main)
    assert "--name 'a b'" in refused(capsys, folder, "--name", "a b", command=main)
    with seen(folder) as browser:
        port = browser.url.split(":")[2].strip("/")
        line = refused(capsys, folder, "--port", port, command=main)
        assert re.search(rf"cannot listen on 127.0.0.1:{port}: .*; name another --port", line)
    assert "cannot listen on" in refused(capsys, folder, "--port", 0, "--host", "no such host", command=main)


def test_the_command_says_where_it_is_and_stops_when_told(folder: Path) -> None:
    command = [sys.executable, "-m", "runs.view", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/  \(Ctrl-C to stop\)", line)
        assert Browser(url=line.split()[0]).get("/").status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_help_fits_a_screen() -> None:
    shown = subprocess.run([sys.executable, "-m", "runs.view", "--help"], capture_output=True, text=True, check=True)
    assert len(shown.stdout.splitlines()) <= 24 and "--token" in shown.stdout


def test_filters_know_every_flag() -> None:
    assert Filters(flag=frozenset(FLAGS)).flag == set(FLAGS)  # type: ignore[arg-type]
