"""What moves by itself in the viewer, over real HTTP: a run is followed while it goes on, and nothing is sent twice."""

import html
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
from test_view import Browser, all_pages, harmless, listed, playing, say, seen, spoil, template, tokens, until

import runs
from runs import Run, tables
from runs.pairings import win_matrix
from runs.ratings import leaderboard
from runs.report.reading import Note, Reading, Table
from runs.report.standings import controlled_for_length
from runs.terms import controlled
from runs.view import lengths
from runs.view.lengths import Lengths
from runs.view.watch import Watch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a sealed run of 40 debates."""
    return Path(shutil.copytree(template("plain"), tmp_path / "run"))


@pytest.fixture
def stopped(folder: Path) -> Path:
    """A run that is not sealed; tests write into its journal."""
    (folder / tables.MANIFEST).unlink()
    return folder


def address(page: str, name: str) -> str:
    """Where a part of a page is asked for again; nowhere, where it is not."""
    (part,) = re.findall(rf'<div id="{name}"[^>]*>', page)
    return html.unescape("".join(re.findall(r'hx-get="([^"]+)"', part)))


def test_a_part_that_has_not_changed_is_not_sent_again(stopped: Path) -> None:
    with seen(stopped) as browser:
        debate = listed(browser.page("/debates"))[0]
        parts = [("/", "board"), ("/", "status"), (f"/debates/{debate}", "debate"), ("/?length=1", "board")]
        parts += [("/debates", "list"), ("/debates?outcome=for&flag=trimmed&page=3", "list")]
        worked_out(browser, "/?length=1")
        for page, name in parts:
            asked = address(browser.page(page), name)
            answer = browser.get(asked)
            assert (answer.status, answer.text) == (204, "")
            changed = browser.get(asked.replace("shown=", "shown=0"))
            assert changed.status == 200 and changed.text.startswith(f'<div id="{name}"')


def test_a_run_that_goes_on_is_followed(tmp_path: Path) -> None:
    with playing(tmp_path, delay=0.03) as (folder, process), seen(folder) as browser:
        counts = [shown(browser)]
        while process.poll() is None:
            time.sleep(0.1)
            counts.append(shown(browser))
        assert "going on" in browser.page("/") or tables.is_sealed(folder)
        assert counts == sorted(counts) and len(set(counts)) > 2
        until(lambda: shown(browser) == 30 and "sealed" in browser.page("/status"))
        loaded = runs.load(folder)
        board = leaderboard(loaded.debates, loaded.verdicts, judge="rules")
        assert re.findall(r'class="rating">([^<]+)<', browser.page("/")) == [f"{v:,.0f}" for v in board.frame["rating"]]
        said = dict(loaded.turns.group_by("debate_id").agg(pl.col("words").sum()).collect().rows())
        rows = re.findall(r'data-debate="(\w+)">(.*?)</tr>', browser.page("/debates"), flags=re.S)
        words = {debate_id: re.findall(r"<td[^>]*>(.*?)</td>", row)[6] for debate_id, row in rows}
        assert words == {debate_id: f"{count:,}" for debate_id, count in said.items()}
        turn = loaded.turns.collect().row(-1, named=True)
        asked = quote('"' + " ".join(tokens(turn["text"])[:12]) + '"')
        until(lambda: f"/debates/{turn['debate_id']}#turn-{turn['turn']}" in browser.page(f"/search?q={asked}"))


def test_a_run_that_nobody_plays_has_stopped(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with seen(folder) as browser:
        assert state(browser) == "stopped"
        with Run.resume(folder):
            until(lambda: state(browser) == "going on")
        until(lambda: state(browser) == "stopped")
        often = asked_every(browser)
        tables.seal(folder)
        until(lambda: state(browser) == "sealed")
        assert asked_every(browser) > often


def state(browser: Browser) -> str:
    return re.findall(r'class="mark \w+">([^<]+)<', browser.page("/status"))[0]


def asked_every(browser: Browser) -> int:
    """Seconds after which the parts of a page ask for themselves again."""
    (every,) = {*re.findall(r'hx-trigger="every (\d+)s"', browser.page("/"))}
    return int(every)


def test_only_judges_of_whom_there_is_something_new_are_rated(folder: Path) -> None:
    say(folder, "other", "for", where="match % 3 > 0")
    with Watch(folder=folder, every=0.05) as watch:
        before = watch.now
        say(folder, "other", "against", where="match % 3 = 0")
        until(lambda: watch.now is not before)
        now = watch.now
        assert now.boards["rules"].board is before.boards["rules"].board
        for judge in ("other", "rules"):
            fresh = leaderboard(now.debates, now.verdicts, judge=judge, contestants=now.contestants)
            kept = now.boards[judge]
            assert kept.board is not None and kept.matrix is not None
            assert kept.board.frame.equals(fresh.frame) and kept.board.notes == fresh.notes
            assert kept.matrix.equals(win_matrix(now.debates, now.verdicts, judge))
        with closing(sqlite3.connect(folder / "journal.db")) as journal:
            journal.execute("UPDATE debates SET status = 'void' WHERE match < 3")
            journal.commit()
        until(lambda: watch.now is not now)
        for judge in ("other", "rules"):
            fresh = leaderboard(watch.now.debates, watch.now.verdicts, judge=judge, contestants=now.contestants)
            board = watch.now.boards[judge].board
            assert board is not None and board.voids == 3 and board.frame.equals(fresh.frame)


def shown(browser: Browser) -> int:
    return int(re.findall(r'data-count="complete">([\d,]+)', browser.page("/status"))[0].replace(",", ""))


def test_a_look_that_fails_is_told_and_what_was_seen_stays(folder: Path) -> None:
    with Watch(folder=folder, every=0.05) as watch:
        before = len(watch.now.debates)
        spec = (folder / "spec.json").read_text()
        (folder / "spec.json").write_text("{")
        (folder / "manifest.json").touch()
        assert "spec" in until(lambda: watch.trouble) and len(watch.now.debates) == before
        (folder / "spec.json").write_text(spec)
        until(lambda: not watch.trouble)


def test_a_run_that_is_taken_away_is_told(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with seen(folder) as browser:
        assert "cannot be read" not in browser.page("/status")
        shutil.rmtree(folder)
        until(lambda: "cannot be read just now" in browser.page("/status"))
        assert shown(browser) == 40


def test_a_journal_may_go_and_come_back_while_a_sealed_run_is_viewed(folder: Path, tmp_path: Path) -> None:
    with seen(folder, name="ann") as browser:
        path, page = browser.ballot()
        debate = listed(browser.page("/debates"))[4]
        paths = ("/board", f"/debates/{debate}/live", "/debates?outcome=for")
        before = [browser.page(path) for path in paths]
        kept = Path(shutil.copy(folder / "journal.db", tmp_path))
        for file in folder.glob("journal.db*"):
            file.unlink()
        assert [browser.page(path) for path in paths] == before
        assert browser.vote(path, page, winner="for").status == 409
        time.sleep(1.2)
        assert "error" not in browser.page("/status")
        kept.rename(folder / "journal.db")
        say(folder, "other", "for")
        until(lambda: "other" in browser.page("/"))
        assert browser.vote(path, page, winner="for").status == 303
        until(lambda: listed(browser.page("/debates?flag=voted")))


# The list


@contextmanager
def held_back(folder: Path, where: str) -> Iterator[Callable[[], None]]:
    """Debates that are taken out of the journal, and come into it when what this gives is called, or at the end."""
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        rows = journal.execute(f"SELECT * FROM debates WHERE {where}").fetchall()
        journal.execute(f"DELETE FROM debates WHERE {where}")
        journal.commit()

    def back() -> None:
        with closing(sqlite3.connect(folder / "journal.db")) as journal:
            journal.executemany(f"INSERT OR IGNORE INTO debates VALUES ({', '.join('?' * len(rows[0]))})", rows)
            journal.commit()

    yield back
    back()


def part_of(page: str) -> str:
    """The list as a page shows it."""
    return page[page.index('<div id="list"') :].partition("</main>")[0].strip()


@pytest.mark.parametrize(
    "asked", ["", "contestant=ash&outcome=won", "outcome=none", "status=complete&page=2", "page=9", "judge=scripted"]
)
def test_the_list_that_moves_is_what_the_page_would_show(tmp_path: Path, asked: str) -> None:
    folder = Path(shutil.copytree(template("faulty"), tmp_path / "run"))
    (folder / tables.MANIFEST).unlink()
    (ended,) = runs.load(folder).debates.filter(status="complete").select("match").head(1).collect()["match"]
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        journal.execute("DELETE FROM verdicts WHERE rowid % 3 = 0")
        journal.commit()
    with seen(folder) as browser:
        with held_back(folder, "match IN (1, 20, 39)"):
            until(lambda: 'data-total="117"' in browser.page("/debates"))
            before = browser.page(f"/debates?{asked}")
        with closing(sqlite3.connect(folder / "journal.db")) as journal:
            verdict = "debate_id, judge, winner, margin, consistent, votes, related"
            journal.execute(
                f"INSERT OR IGNORE INTO verdicts ({verdict}) SELECT debate_id, j.value, 'for', 1, 1, 1, 0 "
                "FROM debates, json_each('[\"rules\", \"scripted\"]') j WHERE status = 'complete'"
            )
            journal.execute("UPDATE debates SET status = 'void' WHERE match = ?", (ended,))
            journal.commit()
        void = re.findall(r'data-count="void">\d+', before)
        until(lambda: re.findall(r'data-count="void">\d+', browser.page("/status")) != void)
        answer = browser.get(address(before, "list"))
        assert answer.status == 200
        assert part_of(answer.text) == part_of(browser.page(f"/debates?{asked}")) != part_of(before)
        assert browser.get(address(answer.text, "list")).status == 204


def test_new_debates_come_into_the_list(stopped: Path) -> None:
    with seen(stopped) as browser:
        every = listed(browser.page("/debates"))
        with held_back(stopped, "match IN (1, 20, 39)"):
            page = until(lambda: len(listed(page := browser.page("/debates"))) == 37 and page)
            assert listed(page) == [debate for at, debate in enumerate(every) if at not in (1, 20, 39)]
        answer = until(lambda: (got := browser.get(address(page, "list"))).status == 200 and got)
        assert listed(answer.text) == every == all_pages(browser)


def test_by_whom_outcomes_are_told_stays_whoever_comes(stopped: Path) -> None:
    with seen(stopped) as browser:
        page = browser.page("/debates")
        say(stopped, "aaa", "tie")
        until(lambda: '<bdi class="name">aaa</bdi>' in browser.page("/debates"))  # who comes first by name
        assert '<bdi class="name">rules</bdi>' in page
        answer = browser.get(address(page, "list"))
        assert answer.status == 204 or '<bdi class="name">rules</bdi>' in answer.text


def test_the_list_of_a_finished_run_asks_for_nothing_more(stopped: Path) -> None:
    with seen(stopped) as browser:
        asked = address(browser.page("/debates"), "list")
        assert asked
        tables.seal(stopped)
        until(lambda: state(browser) == "sealed")
        answer = browser.get(asked)
        assert answer.status == 200 and len(listed(answer.text)) == 40 and address(answer.text, "list") == ""
        page = browser.page("/debates")
        assert part_of(page) == part_of(answer.text) and re.findall('hx-get="/([a-z]+)', page) == ["status"]


# With and without length


def worked_out(browser: Browser, path: str) -> str:
    """A leaderboard with and without length, as soon as it is there."""
    page: str = until(lambda: "length-waits" not in (got := browser.page(path)) and got)
    return page


def test_length_is_held_equal_in_the_words_of_the_report() -> None:
    loaded = runs.load(template("faulty"))
    for judge in ("rules", "scripted"):
        with seen(template("faulty")) as browser:
            path = f"/?judge={judge}&length=1"
            plain = browser.page(f"/?judge={judge}")
            assert 'id="length"' not in plain and path in html.unescape(plain)
            page = worked_out(browser, path)
        shown = page.split('<section id="length"')[1].split("</section>")[0]
        found = controlled(loaded.debates, loaded.verdicts, loaded.turns, judges=(judge,))
        cells = [re.findall(r"<bdi[^>]*>(.*?)</bdi>", row) for row in re.findall("<tr>.*?</tr>", shown)]
        for row, cell in zip(found.frame.to_dicts(), cells[1:], strict=False):
            assert (cell[1], cell[2].split()[0]) == (row["contestant"], f"{row['rating']:,.0f}")
            assert cell[3].split()[0] == f"{row['plain']:,.0f}"
        assert found.frame["rating"].to_list() != found.frame["plain"].to_list()
        told = [*controlled_for_length(Reading.of(loaded, judge))][:2]
        said = html.unescape(re.sub("<[^>]+>", "\n", shown)).split("\n")
        for part in told:
            assert isinstance(part, Table)
            words = [part.caption, *(column.head for column in part.columns), *part.notes]
            assert {*words, *(cell for row in part.rows for cell in row)} <= {*said, ""}
        assert {*found.notes} <= {*said} and found.notes


def test_nobody_waits_for_it(folder: Path) -> None:
    with seen(folder) as browser:
        page = browser.page("/?length=1")
        assert 'id="leaderboard"' in page and 'id="length-waits"' in page
        asked = address(page, "board")
        answer = until(lambda: (got := browser.get(asked)).status == 200 and got)
        assert "length-waits" not in answer.text and 'id="length-1"' in answer.text
        assert part_every(page) < part_every(answer.text)  # soon while it is waited for, and rarely after
        assert 'id="length-1"' in browser.page("/?length=1")  # it is remembered


def part_every(page: str) -> int:
    return int(re.findall(r'<div id="board"[^>]* hx-trigger="every (\d+)s"', page)[0])


def test_it_is_worked_out_again_only_where_something_is_new(folder: Path) -> None:
    say(folder, "zoe", "for", where="match % 3 > 0")
    with Watch(folder=folder, every=0.05) as watch, Lengths(watch, every=0.01) as known:
        before = {"rules": until(lambda: known.by("rules")), "zoe": until(lambda: known.by("zoe"))}
        say(folder, "zoe", "against", where="match % 3 = 0")
        until(lambda: known.by("rules") and known.by("zoe") is not before["zoe"])
        assert known.by("rules") is before["rules"]  # which is looked at before the other
        with closing(sqlite3.connect(folder / "journal.db")) as journal:
            journal.execute("UPDATE debates SET status = 'void' WHERE match < 3")
            journal.commit()
        until(lambda: known.by("rules") is not before["rules"])
        assert "left out, debates void: 3" in str(known.by("rules"))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(lengths, "KEPT_S", -1.0)  # nobody asks any more
            say(folder, "other", "for")
            until(lambda: "other" in watch.now.judges)
            assert known.by("rules") is not None  # it holds still
            with closing(sqlite3.connect(folder / "journal.db")) as journal:
                journal.execute("UPDATE debates SET status = 'void' WHERE match < 5")
                journal.commit()
            until(lambda: known.by("rules") is None)
        assert "left out, debates void: 5" in str(until(lambda: known.by("rules")))


def test_words_that_are_not_known_are_not_silence(stopped: Path) -> None:
    with closing(sqlite3.connect(stopped / "journal.db")) as journal:
        some = "(SELECT debate_id FROM debates WHERE match < 4)"
        journal.execute(f"UPDATE turns SET words = NULL WHERE turn = 3 AND debate_id IN {some}")
        journal.commit()
    loaded = runs.load(stopped)
    turns = loaded.turns.select("debate_id", "side", "words").collect()
    with Watch(folder=stopped) as watch:
        now = watch.now
        seen_, told = (controlled(now.debates, now.verdicts, words) for words in (now.spoken, turns))
    assert seen_.frame.equals(told.frame) and seen_.notes == told.notes and seen_.unmeasured == 4


def test_what_cannot_be_rated_says_so(stopped: Path) -> None:
    say(stopped, "odd", "sideways", where="match = 0")
    with Watch(folder=stopped) as watch, Lengths(watch, every=0.01) as known:
        (why,) = until(lambda: known.by("odd"))
    assert isinstance(why, Note) and "no length control by odd: winner 'sideways'" in why.text


def test_hostile_text_is_only_text_there_too(stopped: Path) -> None:
    spoil(stopped)
    with seen(stopped) as browser:
        page = worked_out(browser, "/?length=1")
        assert 'id="length"' in page and page.count("&lt;script&gt;") > 2
        harmless(page)
        page = browser.page("/debates")
        assert "script" in address(page, "list")  # a judge's name, of which an address is made
        harmless(page)
