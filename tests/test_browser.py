"""Report and viewer in a real browser: pages load, move by themselves, obey the keyboard, run nothing of a stranger's.

Debian's Chromium, without a window, driven by Playwright. Every tab watches for what must not be: an error on the
console (a blocked script is one), a dialog, a request to anywhere but the viewer, an answer that is a failure.
"""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright
from test_view import HOSTILE, playing, say, spoil, template, until
from test_watch import held_back

import runs
from runs import tables
from runs.ratings import leaderboard
from runs.report.__main__ import main as report
from runs.terms import controlled
from runs.view import Settings, serve

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH, so no page was opened in a browser"),
    pytest.mark.slow,
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
PATIENCE_MS = 20_000
MOST_TABS = 200
"""Presses of a key after which what is looked for is not going to come."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser. Runs are played before it is there: it holds the thread's event loop."""
    template("plain"), template("faulty")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a sealed run of 40 debates."""
    return Path(shutil.copytree(template("plain"), tmp_path / "run"))


def watched(page: Page, url: str) -> list[str]:
    """What must not be in a tab of `url`, as it comes."""
    wrong: list[str] = []

    def dialog(opened: Dialog) -> None:
        wrong.append(f"dialog: {opened.message}")
        opened.dismiss()

    def note(what: str, *, unless: bool) -> None:
        if not unless:
            wrong.append(what)

    page.on("console", lambda said: note(f"console: {said.text}", unless=said.type not in ("error", "warning")))
    page.on("pageerror", lambda error: note(f"raised: {error}", unless=False))
    page.on("dialog", dialog)
    page.on("request", lambda asked: note(f"asked {asked.url}", unless=asked.url.startswith((url, "data:"))))
    page.on("response", lambda got: note(f"{got.status} of {got.url}", unless=got.status < 400))
    return wrong


@contextmanager
def tab(chromium: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page of `url`, and at the end the assurance that nothing went wrong in it."""
    context = chromium.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    wrong = watched(page, url)
    page.goto(url)
    yield page
    context.close()
    assert not wrong, wrong


@contextmanager
def viewed(chromium: Browser, folder: Path, **options: Any) -> Iterator[Page]:
    """A tab of the viewer of a run, at its leaderboard."""
    with serve(Settings(run=str(folder), port=0)) as url, tab(chromium, url, **options) as page:
        yield page


def open_(page: Page, path: str) -> None:
    """Go to another page of the same viewer."""
    page.goto(re.sub(r"(https?://[^/]+).*", r"\1", page.url) + path)


def reported(folder: Path) -> str:
    """Write a run's report; gives its address."""
    assert report([str(folder)]) == 0
    return (folder / "report.html").as_uri()


def found(page: Page) -> int:
    return int(page.locator("#found").get_attribute("data-total") or "")


# A finished run


def test_every_page_loads(chromium: Browser) -> None:
    folder = template("faulty")
    debates = runs.load(folder).debates.collect()
    twice = debates.filter(pl.len().over("topic_id") > 1)["debate_id"][:2].to_list()
    paths = [
        "/",
        "/debates",
        f"/debates/{twice[0]}",
        f"/compare?a={twice[0]}&b={twice[1]}",
        "/search?q=motion",
        "/judge",
    ]
    with viewed(chromium, folder) as page:
        for path in paths:
            open_(page, path)
            expect(page.locator("main h1")).to_be_visible()
            assert page.title()
        for name in ("Leaderboard", "Debates", "Search", "Judge"):
            page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
            expect(page.locator("main h1")).to_be_visible()


def test_the_leaderboard_shows_the_ratings(chromium: Browser) -> None:
    loaded = runs.load(template("faulty"))
    board = leaderboard(loaded.debates, loaded.verdicts, judge="rules")
    with viewed(chromium, template("faulty")) as page:
        open_(page, "/?judge=rules")
        assert page.locator("#leaderboard td.rating").all_inner_texts() == [f"{v:,.0f}" for v in board.frame["rating"]]


def test_filters_work_and_the_address_keeps_them(chromium: Browser) -> None:
    debates = runs.load(template("faulty")).debates.collect()
    void = debates.filter(pl.col("status") == "void", pl.col("for_contestant") == "ash")
    with viewed(chromium, template("faulty")) as page:
        open_(page, "/debates")
        assert found(page) == debates.height
        page.get_by_label("Contestant").select_option("ash")
        page.get_by_label("on", exact=True).select_option("for")
        page.get_by_label("Status").select_option("void")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**status=void**")
        assert found(page) == void.height > 0
        shown = page.locator("#debates tbody tr").evaluate_all("rows => rows.map(row => row.dataset.debate)")
        assert set(shown) == set(void["debate_id"])
        page.reload()
        assert found(page) == void.height and page.get_by_label("Status").input_value() == "void"
        page.go_back()
        assert found(page) == debates.height


def test_search_leads_to_the_turn(chromium: Browser) -> None:
    turns = runs.load(template("faulty")).turns.collect()
    words = re.findall(r"[A-Za-z]+", turns["text"][7])[:6]
    with viewed(chromium, template("faulty")) as page:
        page.get_by_label("Search what was said").fill('"' + " ".join(words) + '"')
        page.keyboard.press("Enter")
        page.wait_for_url("**/search**")
        until(lambda: found(page) or (page.reload() and None))
        hit = page.locator("ol.hits li").first
        expect(hit.locator("mark").first).to_be_visible()
        debate, turn = hit.get_attribute("data-debate"), hit.get_attribute("data-turn")
        hit.get_by_role("link").first.click()
        page.wait_for_url(f"**/debates/{debate}#turn-{turn}")
        expect(page.locator(f"#turn-{turn}")).to_be_in_viewport()
        said = turns.filter(debate_id=debate, turn=int(turn or 0))["text"].item()
        assert page.locator(f"#turn-{turn} .said").inner_text().split() == said.split()


# The keyboard


def until_focused(page: Page, selector: str, key: str = "Tab") -> None:
    """Press a key until what has the focus is what is looked for."""
    for _ in range(MOST_TABS):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{key} never led to {selector}")


def to_a_ballot(page: Page) -> None:
    """From any page to a ballot of Ann's, without a mouse."""
    until_focused(page, "nav a[href='/judge']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/judge")
    until_focused(page, "#name")
    page.keyboard.type("ann")
    page.keyboard.press("Enter")
    page.wait_for_url("**/judge/*")


def test_a_person_votes_with_the_keyboard_alone(chromium: Browser, folder: Path) -> None:
    generation = json.loads((folder / tables.MANIFEST).read_text())["generation"]
    with viewed(chromium, folder) as page:
        to_a_ballot(page)
        seats = runs.load(folder).debates.collect()
        names = {*seats["for_contestant"], *seats["against_contestant"]}
        read = page.locator("body").inner_text()
        assert not [name for name in names if re.search(rf"\b{name}\b", read)], "a ballot is blind"
        page.keyboard.press("2")
        until_focused(page, "#confidence")
        page.keyboard.type("80")
        until_focused(page, "#reason")
        page.keyboard.type("2 better reasons, / and ? are only letters here")
        until_focused(page, "#send")
        page.keyboard.press("Enter")
        expect(page.locator("#revealed")).to_be_visible()
        (vote,) = until(lambda: runs.load(folder).votes.filter(judge="human:ann").collect().to_dicts())
        assert (vote["winner"], vote["confidence"]) == ("against", 0.8)
        assert vote["rationale"] == "2 better reasons, / and ? are only letters here"
        (verdict,) = runs.load(folder).verdicts.filter(judge="human:ann").collect().to_dicts()
        assert (verdict["winner"], verdict["margin"], verdict["debate_id"]) == ("against", -1.0, vote["debate_id"])
        assert json.loads((folder / tables.MANIFEST).read_text())["generation"] == generation + 1
        tables.verify(folder)

        open_(page, f"/debates/{vote['debate_id']}")
        until(lambda: page.locator("[data-judge='human:ann']").count() or (page.reload() and None))
        expect(page.locator("[data-judge='human:ann']")).to_contain_text("2 better reasons")
        open_(page, "/")
        page.get_by_role("link", name="human:ann").press("Enter")
        expect(page.locator("main")).to_contain_text("human:ann")


def test_keys_lead_through_lists_and_pages(chromium: Browser) -> None:
    with viewed(chromium, template("faulty")) as page:
        page.keyboard.press("Tab")
        expect(page.locator("a.skip")).to_be_focused()
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#help")).not_to_be_visible()
        open_(page, "/debates")
        rows = page.locator("#debates tbody tr")
        ids = rows.evaluate_all("rows => rows.map(row => row.dataset.debate)")
        for key in "jjkj":
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/debates/{ids[1]}")
        page.keyboard.press("n")
        page.wait_for_url(f"**/debates/{ids[2]}")
        page.keyboard.press("p")
        page.wait_for_url(f"**/debates/{ids[1]}")
        page.keyboard.press("j")
        expect(page.locator("#turn-1")).to_be_focused()
        page.keyboard.press("/")
        expect(page.locator("#q")).to_be_focused()
        page.keyboard.type("jn?")
        assert page.locator("#q").input_value() == "jn?", "in a field, keys are letters"


def test_keys_can_be_switched_off_and_everything_is_reached_without_them(chromium: Browser, folder: Path) -> None:
    with viewed(chromium, folder) as page:
        until_focused(page, "#help-button")
        page.keyboard.press("Enter")
        expect(page.locator("#help")).to_contain_text("next and previous row")  # it says what the keys are
        assert {"j", "k", "n", "p", "/", "?", "1", "4"} <= {*page.locator("#help kbd").all_inner_texts()}
        until_focused(page, "#keys-work")
        page.keyboard.press("Space")
        page.keyboard.press("Escape")
        open_(page, "/debates")  # and it is remembered
        here = page.url
        for key in "j?/n1":
            page.keyboard.press(key)
            assert page.evaluate("document.activeElement === document.body") and not page.locator("#help").is_visible()
        until_focused(page, "#debates tbody a")
        debate = page.evaluate("document.activeElement.closest('tr').dataset.debate")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/debates/{debate}")
        page.keyboard.press("n")
        until_focused(page, "a[rel=next]")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: debate not in url and "/debates/" in url)
        to_a_ballot(page)
        expect(page.locator("#vote label kbd").first).to_be_hidden()  # it would be of no use
        page.keyboard.press("2")
        assert page.locator("#vote input:checked").count() == 0
        until_focused(page, "input[name=winner]")
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        expect(page.locator("#revealed")).to_be_visible()
        page.goto(here)
        until_focused(page, "#help-button")
        page.keyboard.press("Enter")
        until_focused(page, "#keys-work")
        assert not page.locator("#keys-work").is_checked()
        page.keyboard.press("Space")
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        expect(page.locator("#q")).to_be_focused()


def test_what_has_the_focus_can_be_seen(chromium: Browser) -> None:
    outline = "() => document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle"
    with viewed(chromium, template("faulty")) as page:
        for path in ("/", "/debates", "/judge"):
            open_(page, path)
            for _ in range(12):
                page.keyboard.press("Tab")
                assert page.evaluate(outline) != "none", page.evaluate("() => document.activeElement.outerHTML")


# A run that goes on


def complete(page: Page) -> int:
    return int(page.locator("[data-count=complete]").inner_text().split()[0].replace(",", ""))


def test_the_leaderboard_moves_by_itself(chromium: Browser, tmp_path: Path) -> None:
    with playing(tmp_path, delay=0.05) as (folder, process), viewed(chromium, folder) as page:
        page.evaluate("window.unchanged = true")
        before, board = complete(page), page.locator("main").inner_text()
        expect(page.locator(".mark")).to_have_text("going on")
        until(lambda: complete(page) > before)
        until(lambda: page.locator("main").inner_text() != board)
        open_(page, "/judge")  # and a person votes meanwhile
        page.locator("#name").fill("ann")
        page.keyboard.press("Enter")
        page.wait_for_url("**/judge/*")
        page.keyboard.press("1")
        page.locator("#send").press("Enter")
        expect(page.locator("#revealed")).to_be_visible()
        assert process.poll() is None, "the run was over before the vote"
        open_(page, "/?judge=rules")
        page.evaluate("window.unchanged = true")
        expect(page.locator(".mark")).to_have_text("sealed", timeout=4 * PATIENCE_MS)
        assert page.evaluate("window.unchanged"), "the page was loaded again"
        until(lambda: complete(page) == 30)
        loaded = until(lambda: _with_vote(folder))
        rated = [f"{v:,.0f}" for v in leaderboard(loaded.debates, loaded.verdicts, judge="rules").frame["rating"]]
        until(lambda: page.locator("#leaderboard td.rating").all_inner_texts() == rated)


def _with_vote(folder: Path) -> Any:
    """The sealed tables, once the person's vote is in them."""
    loaded = runs.load(folder)
    voted = loaded.verdicts.filter(judge="human:ann", winner="for").collect()
    return loaded if loaded.sealed and voted.height == 1 else None


def test_what_a_reader_is_at_stays_when_the_board_moves(chromium: Browser, tmp_path: Path) -> None:
    with playing(tmp_path, delay=0.05) as (folder, _), viewed(chromium, folder) as page:
        until_focused(page, "#leaderboard a")
        focused = page.evaluate("document.activeElement.id")
        before = complete(page)
        until(lambda: complete(page) > before)
        assert page.evaluate("document.activeElement.id") == focused


@pytest.fixture
def stopped(folder: Path) -> Path:
    """A run that is not sealed, in which two judges quoted; tests write into its journal."""
    (folder / tables.MANIFEST).unlink()
    for judge in ("mid", "new"):
        say(folder, judge, "for", where="match = 0", text="at some length, " * 60)
    return folder


def test_what_a_reader_is_at_stays_when_a_debate_moves(chromium: Browser, stopped: Path) -> None:
    debate = runs.load(stopped).debates.collect()["debate_id"][0]
    focused = "() => document.activeElement.id"
    with viewed(chromium, stopped) as page:
        open_(page, f"/debates/{debate}")
        new = page.locator("[data-judge=new]")
        new.locator("details summary").first.click()
        new.locator("details summary").last.click()
        opened = page.locator("details[open]").evaluate_all("all => all.map(each => each.id)")
        assert len(opened) == 2
        places = [
            new.get_by_role("link", name="Mark its quotes"),
            new.locator("details summary").last,
            new.locator("details li a"),
            page.locator("#turn-3 a.to"),
            page.get_by_role("navigation", name="Turns").get_by_role("link", name="4", exact=True),
        ]
        for at, place in enumerate(places):
            place.focus()
            before = page.evaluate(focused)
            page.evaluate("document.activeElement.old = true")
            say(stopped, f"a{at}", "against", where="match = 0")
            expect(page.locator(f"[data-judge=a{at}]")).to_be_visible()
            assert page.evaluate(focused) == before != "" and page.evaluate("!document.activeElement.old")
            expect(place).to_be_focused()
        assert page.locator("details[open]").evaluate_all("all => all.map(each => each.id)") == opened


def test_the_list_moves_by_itself_and_what_a_reader_is_at_stays(chromium: Browser, stopped: Path) -> None:
    asked: list[str] = []
    options: dict[str, Any] = {"viewport": {"width": 400, "height": 700}}
    with viewed(chromium, stopped, **options) as page, held_back(stopped, "match = 3") as back:
        open_(page, "/debates?outcome=none&judge=new")
        page.evaluate("window.unchanged = true")
        page.get_by_label("Contestant").select_option(index=1)  # and is not sent yet
        rows = page.locator("#debates tbody tr")
        expect(rows).to_have_count(38)  # one of 40 has an outcome, and one is not there
        rows.nth(10).get_by_role("link").focus()
        page.locator("#debates-scroll").evaluate("each => each.scrollTo(60, 0)")
        here = "[document.activeElement.id, Math.round(document.activeElement.getBoundingClientRect().top)]"
        at = f"() => [...{here}, document.querySelector('#debates-scroll').scrollLeft]"
        before = page.evaluate(at)
        assert before[0] and page.evaluate("scrollY") > 100 and before[2] == 60
        back()
        expect(rows).to_have_count(39)
        assert page.evaluate(at) == before and found(page) == 39
        say(stopped, "new", "tie", where="match = 39")
        expect(rows).to_have_count(38)
        assert page.evaluate(at) == before and found(page) == 38
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#debates td.motion'))")
        text = page.evaluate("getSelection().toString()")
        with page.expect_response(lambda got: "/list" in got.url and got.status == 200):
            say(stopped, "new", "tie", where="match = 38")
        assert page.evaluate("getSelection().toString()") == text and rows.count() == 38
        page.evaluate("getSelection().empty()")
        expect(rows).to_have_count(37)
        assert page.evaluate(at) == before
        tables.seal(stopped)
        expect(page.locator("#list[hx-get]")).to_have_count(0)
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(5_000)
        assert not [url for url in asked if "/list" in url] and page.evaluate("window.unchanged")
        assert page.get_by_label("Contestant").input_value() != ""


def test_new_debates_appear_in_the_list(chromium: Browser, tmp_path: Path) -> None:
    with playing(tmp_path, delay=0.05) as (folder, _), viewed(chromium, folder) as page:
        open_(page, "/debates?status=complete")
        page.evaluate("window.unchanged = true")
        rows = page.locator("#debates tbody tr")
        before = rows.count()
        until(lambda: before < rows.count() < 30)
        expect(rows).to_have_count(30, timeout=4 * PATIENCE_MS)
        assert page.evaluate("window.unchanged"), "the page was loaded again"
        expect(page.locator("#debates .outcome", has_text="–")).to_have_count(0)  # and its outcome


def test_length_control_comes_by_itself(chromium: Browser, stopped: Path) -> None:
    with viewed(chromium, stopped, viewport={"width": 400, "height": 700}) as page:
        open_(page, "/?judge=rules")
        page.get_by_role("link", name="With and without length").press("Enter")
        page.wait_for_url("**length=1**")
        page.evaluate("window.unchanged = true")
        shown = page.locator("#length-1 tbody tr")
        expect(shown.first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        loaded = runs.load(stopped)
        frame = controlled(loaded.debates, loaded.verdicts, loaded.turns, judges=("rules",)).frame
        names = page.locator("#length-1 th[scope=row]").all_inner_texts()
        assert [name.strip() for name in names] == frame["contestant"].to_list()
        before = page.locator("#length").inner_text()
        with closing(sqlite3.connect(stopped / "journal.db")) as journal:
            journal.execute("UPDATE debates SET status = 'void' WHERE match < 6")
            journal.commit()
        until(lambda: page.locator("#length").inner_text() != before)
        expect(page.locator("#length")).to_contain_text("left out, debates void: 6")
        assert page.evaluate("window.unchanged")


def test_what_a_reader_has_selected_stays_until_it_is_let_go(chromium: Browser, stopped: Path) -> None:
    debate = runs.load(stopped).debates.collect()["debate_id"][0]
    selected = "() => getSelection().toString()"
    with viewed(chromium, stopped) as page:
        open_(page, f"/debates/{debate}")
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#turn-2 .said'))")
        text = page.evaluate(selected)
        assert len(text) > 200
        for judge in ("one", "two"):  # what the second asks for was asked for by the page that the first left alone
            with page.expect_response(lambda got: "/live" in got.url and got.status == 200):
                say(stopped, judge, "against", where="match = 0")
        assert page.evaluate(selected) == text and page.locator("[data-judge=one]").count() == 0
        page.evaluate("getSelection().empty()")
        expect(page.locator("[data-judge=two]")).to_be_visible()


def test_a_page_says_when_the_viewer_is_gone(chromium: Browser, stopped: Path) -> None:
    page = chromium.new_page()  # whose console may complain
    page.set_default_timeout(PATIENCE_MS)
    with serve(Settings(run=str(stopped), port=0)) as url:
        page.goto(url)
        expect(page.locator(".mark")).to_have_text("stopped")
        assert page.locator("#unanswered").count() == 0
    expect(page.locator("#status")).to_contain_text("no answer from the viewer", timeout=PATIENCE_MS)
    with serve(Settings(run=str(stopped), port=int(url.split(":")[2].strip("/")))):
        expect(page.locator("#unanswered")).to_have_count(0, timeout=PATIENCE_MS)
    page.close()


# Strangers' text


def shown_as_text(page: Page) -> None:
    """Nothing ran, and all of it can be read."""
    page.wait_for_timeout(200)  # what an image that cannot be loaded would need to raise its error
    assert "owned" not in page.title()
    assert page.locator("main img, main script, main a[href^=javascript]").count() == 0
    html = page.locator("html").inner_html()
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", re.sub(r'(value|href)="[^"]*"', "", html))


@pytest.fixture
def hostile(folder: Path) -> Path:
    """A sealed run with hostile text wherever strangers' text can stand."""
    spoil(folder)
    tables.seal(folder)
    return folder


def test_nothing_of_a_strangers_runs_in_the_viewer(chromium: Browser, hostile: Path) -> None:
    ids = runs.load(hostile).debates.collect()["debate_id"].to_list()
    paths = ["/", "/debates", f"/debates/{ids[0]}", f"/compare?a={ids[0]}&b={ids[1]}", "/search?q=config"]
    with viewed(chromium, hostile) as page:
        for path in paths:
            open_(page, path)
            shown_as_text(page)
        open_(page, f"/debates/{ids[0]}")
        said = page.locator("#turn-1 .said").inner_text()
        for text in HOSTILE[:5]:
            assert " ".join(text.split()) in " ".join(said.split())
        assert "U+202E" in said and "U+2066" in said
        open_(page, "/judge")
        page.locator("#name").fill("ann")
        page.keyboard.press("Enter")
        page.wait_for_url("**/judge/*")
        shown_as_text(page)


def test_nothing_of_a_strangers_runs_in_the_report(chromium: Browser, hostile: Path) -> None:
    with tab(chromium, reported(hostile), offline=True) as page:
        shown_as_text(page)
        read = " ".join(page.locator("main").inner_text().split())
        for text in HOSTILE[:5]:
            assert " ".join(text.split()) in read
        assert "U+202E" in read


# The report, and what both have in common


def test_the_report_opens_offline_and_asks_for_nothing(chromium: Browser, folder: Path) -> None:
    with tab(chromium, reported(folder), offline=True) as page:
        assert page.locator("figure svg").count() > 2
        for link in page.locator("#contents a").all():
            anchor = link.get_attribute("href") or ""
            link.click()
            expect(page.locator(anchor)).to_be_in_viewport()
        assert page.locator("script").count() == 0


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways(chromium: Browser, folder: Path, width: int, scheme: str) -> None:
    options: dict[str, Any] = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    sideways = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    ids = runs.load(folder).debates.collect()["debate_id"].to_list()
    with tab(chromium, reported(folder), **options) as page:
        assert page.evaluate(sideways) <= 0
    with viewed(chromium, folder, **options) as page:
        for path in (
            "/",
            "/debates",
            f"/debates/{ids[0]}",
            f"/compare?a={ids[0]}&b={ids[1]}",
            "/search?q=motion",
            "/judge",
        ):
            open_(page, path)
            assert page.evaluate(sideways) <= 0, path
