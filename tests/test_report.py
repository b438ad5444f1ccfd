"""The report: everything in its place, the figures those of the tables, and strangers' text as text."""

import asyncio
import re
import resource
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Play, refused
from markdown_it import MarkdownIt

import runs
from runs import Run, cards, gold, tables
from runs.markup import number, percent
from runs.ratings import leaderboard
from runs.records import (
    Call,
    Debate,
    DebateRow,
    Failure,
    Match,
    Quote,
    Record,
    Score,
    Slot,
    Turn,
    Verdict,
    Vote,
    Winner,
)
from runs.report import charts, scrutiny
from runs.report.__main__ import main
from runs.report.chapters import CHAPTERS
from runs.report.page import html, markdown, md
from runs.report.reading import Note, Reading, Table, usd
from runs.report.samples import choose
from runs.spec import Spec
from topics import SIDES, Topic

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "[x](javascript:alert(1)) | `y` | **z**",
    "{{ 7*7 }}{% raw %}",
    "a\u202egnp.exe\u2066b",
    "\"'><svg onload=alert(1)>",
    "https://evil.example/x www.evil.example",
]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "article", "div", "span"),
    *("h1", "h2", "h3", "h4", "p", "a", "b", "bdi", "mark", "ol", "ul", "li", "details", "summary", "figure"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "path", "rect", "line", "circle", "text", "tspan", "defs", "clippath"),
}


class Page(HTMLParser):
    """A page as a browser would take it apart: tags with attributes, headings, tables with captions, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[list[str]] = []
        self.captions: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(str(source))
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
            self.captions.append("")
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag in HEADINGS:
            self.headings.append([tag, ""])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self._open)  # every element is closed, in order

    def handle_data(self, data: str) -> None:
        inside = set(self._open)
        if "style" in inside:
            return
        self.text += data
        if "caption" in inside:
            self.captions[-1] += data
        elif inside & {"th", "td"}:
            self.tables[-1][-1][-1] += data
        elif inside & HEADINGS:
            self.headings[-1][1] += data

    @property
    def by_caption(self) -> dict[str, list[list[str]]]:
        return dict(zip(self.captions, self.tables, strict=True))


HEADINGS = {"h1", "h2", "h3", "h4"}


def made(
    out: Path,
    *,
    names: Sequence[str] = ("a", "b", "c"),
    judges: Sequence[str] = ("x", "y", "z"),
    topics: int = 12,
    text: Sequence[str] = ("Roses are red. Violets are blue.",),
    winners: Sequence[Winner] = ("for", "against", "tie", "for", "against"),
    void: Sequence[int] = (),
    panel: bool = True,
    sealed: bool = True,
    theme: str = "law",
    motion: str = "Roses are better than violets.",
) -> Path:
    """A run of every two contestants on both sides, made by hand: verdicts by turns, `text` everywhere."""
    known = [Topic(topic_id=f"t{i}", motion=motion, theme=theme, question_type="policy") for i in range(topics)]
    slots = tuple(
        Slot(turn=i + 1, side=SIDES[i % 2], stage="opening" if i < 2 else "closing", words=50, instruction="Speak.")
        for i in range(4)
    )
    spec = Spec(
        seed=1,
        topics={topic.topic_id: topic.digest for topic in known},
        format=slots,
        opener="for",
        matches=None,
        replicates=1,
        contestants=tuple({"name": name, "family": name} for name in names),
        judges=tuple(
            {"name": name, "kind": "llm", "family": names[0], "endpoint": "e", "model": name} for name in judges
        ),
        panels=({"name": "bench", "members": [*judges]},) if panel else (),
    )
    seats = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    seats = [seat for pair in seats for seat in (pair, pair[::-1])]
    records: list[Record] = []
    with Run.create(spec, known, out) as run:
        places = [(topic, seat) for topic in known for seat in seats]
        for n, (topic, (one, other)) in enumerate(places):
            match = Match(
                **{"debate_id": f"d{n:04}", "match": n, "topic_id": topic.topic_id, "replicate": 0, "seed": n},
                **{"for_contestant": one, "against_contestant": other, "opener": "for"},
            )
            debate = Debate(match=match, topic=topic, slots=slots)
            state = "void" if n in void else "complete"
            records.append(DebateRow.of(debate, state, started_at=NOW, ended_at=NOW))
            records += _spoken(match, slots, text, n, whole=state == "complete")
            if state == "void":
                records.append(_failure(match, text[n % len(text)]))
            else:
                for place, judge in enumerate(judges):
                    records += _judged(match, judge, winners[(n * (place + 1)) % len(winners)], text[n % len(text)])
                if panel:
                    records.append(_verdict(match, "bench", winners[n % len(winners)], len(judges)))
        asyncio.run(run.journal.write(*records))
        if sealed:
            run.seal()
        return run.folder


def _spoken(match: Match, slots: Sequence[Slot], text: Sequence[str], n: int, *, whole: bool) -> list[Record]:
    records: list[Record] = []
    for slot in slots if whole else slots[:1]:
        key = {"debate_id": match.debate_id, "turn": slot.turn, "call_id": f"{match.debate_id}-{slot.turn}"}
        said = text[(n + slot.turn) % len(text)]
        who = match.contestant(slot.side)
        about: dict[str, Any] = {"words": 40 + (n * slot.turn) % 7, "trimmed": n % 5 == 0}
        turn = Turn(
            **key, **about, side=slot.side, stage=slot.stage, contestant=who, text=said, reasoning="SECRET THOUGHT"
        )
        cost: dict[str, Any] = {"prompt_tokens": 100, "cached_tokens": 25, "completion_tokens": 50, "cost_usd": 0.001}
        call = Call(
            **key, **cost, role="speak", endpoint="e", model=who, latency_s=1.0, finish_reason="stop", started_at=NOW
        )
        records += [turn, call]
    return records


def _judged(match: Match, judge: str, winner: Winner, text: str) -> list[Record]:
    vote = Vote(
        **{"debate_id": match.debate_id, "judge": judge, "order": "for_first", "sample": 0, "winner": winner},
        confidence=0.7,
        scores=(Score(criterion=text[:20], for_=5.0, against=4.0),),
        rationale=text,
        quotes=(Quote(turn=1, side="for", text=text), Quote(turn=2, side="against", text="Violets are blue")),
    )
    return [vote, _verdict(match, judge, winner, 1)]


def _verdict(match: Match, judge: str, winner: Winner, votes: int) -> Verdict:
    margin = {"for": 1.0, "against": -1.0, "tie": 0.0}.get(winner)
    return Verdict(
        debate_id=match.debate_id, judge=judge, winner=winner, margin=margin, consistent=winner != "tie", votes=votes
    )


def _failure(match: Match, text: str) -> Failure:
    who = {"contestant": match.for_contestant, "judge": None, "message": text}
    return Failure(debate_id=match.debate_id, step="speak", turn=2, at=NOW, kind="server", attempts=3, **who)


# What is there


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three contestants and three judges who are a panel; three debates are void."""
    return made(tmp_path_factory.mktemp("made"), names=["a|b", "*c*", "<d>"], void=[3, 7, 8])


@pytest.fixture(scope="module")
def source(folder: Path) -> str:
    """Its page."""
    return html(Reading.of(tables.load(folder)))


def test_the_page_has_every_chapter_and_loads_nothing(source: str) -> None:
    page = Page(source)
    assert source.startswith("<!doctype html>")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {chapter.anchor for chapter in CHAPTERS} | {"debates"} <= set(ids)
    assert {tag for tag, _ in page.tags} <= TAGS and "<script" not in source
    links = [attrs[name] for _, attrs in page.tags for name in ("href", "src", "xlink:href") if name in attrs]
    assert links and all(str(link).startswith("#") and str(link)[1:] in ids for link in links)
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    assert "url(" not in source and "@import" not in source and "xmlns" not in source
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "script-src" not in policy


def test_the_page_can_be_read_without_seeing_it(source: str) -> None:
    page = Page(source)
    levels = [int(tag[1]) for tag, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    drawn = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawn) >= 4 and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawn)
    assert all(page.captions) and len(set(page.captions)) == len(page.tables) > 20
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.tags if tag == "th")
    assert all(len(row) == len(rows[0]) for rows in page.tables for row in rows)


def test_every_part_is_there_in_this_run(source: str) -> None:
    page = Page(source)
    assert "not shown" not in page.text.replace("reasoning is not shown", "")
    begin = (
        "Leaderboard by bench",
        "Ratings by bench",
        "What else decides",
        "How often the contestant of a row beat",
        "How often FOR wins",
        "Pairs of debates",
        "Win rates by theme",
        "Win rates by question type",
        "Verdicts;",
        "Agreement;",
        "Favour for family",
        "What saying so many words more",
        "Words of a turn",
        "Debates that ended",
        "What went wrong",
        "Calls, tokens and dollars",
        "What a win costs",
        "What a verdict costs",
    )
    assert [caption for caption in begin if not any(found.startswith(caption) for found in page.captions)] == []


def test_the_figures_are_those_of_the_leaderboard(folder: Path, source: str) -> None:
    run, page = runs.load(folder), Page(source)
    contestants = [entry["name"] for entry in Spec.read(folder).contestants]
    board = leaderboard(run.debates, run.verdicts, judge="bench", contestants=contestants)
    (shown,) = (rows for caption, rows in page.by_caption.items() if caption.startswith("Leaderboard by bench"))
    for cells, row in zip(shown[1:], board.frame.iter_rows(named=True), strict=True):
        assert cells[:2] == [str(row["rank"]), row["contestant"]]
        assert cells[2] == f"{number(row['rating'])} [{number(row['low'])}, {number(row['high'])}]"
        assert cells[3:6] == [str(row[n]) for n in ("wins", "losses", "ties")]
        bounds = ", ".join(number(100 * row[f"for_{end}"], 1) for end in ("low", "high"))
        assert cells[6] == f"{percent(row['for_win_rate'])} [{bounds}]"
    assert all(note in page.text for note in board.notes)


def test_the_markdown_has_the_same_cells(folder: Path, source: str, tmp_path: Path) -> None:
    assert report(folder, "--format", "md", "--write", tmp_path) == 0
    written = (tmp_path / "report.md").read_text()
    page, rendered = Page(source), Page(MarkdownIt("commonmark").enable("table").render(written))
    assert rendered.tables == page.tables and len(page.tables) > 20


def test_a_panel_comes_first_unless_a_judge_is_named(folder: Path) -> None:
    run = tables.load(folder)
    assert Reading.of(run).judges == ("bench", "x", "y", "z")
    assert Reading.of(run, "y").judges == ("y", "bench", "x", "z")


def test_a_run_that_is_going_says_so_and_shows_the_same(folder: Path, source: str, tmp_path: Path) -> None:
    live = shutil.copytree(folder, tmp_path / folder.name)
    (live / tables.MANIFEST).unlink()
    going, sealed = Page(html(Reading.of(tables.load(live)), 0)), Page(source)
    assert "Still going." in going.text and "Still going." not in sealed.text
    assert going.captions == sealed.captions and going.tables[1:] == sealed.tables[1:]  # the first is on the run itself


@pytest.mark.parametrize("play_of", ["void", "tie", "invalid", "one debate"])
def test_what_cannot_be_computed_says_why_and_stops_nothing(tmp_path: Path, play_of: str) -> None:
    if play_of in ("tie", "invalid"):
        folder = made(tmp_path, topics=2, winners=[play_of])  # type: ignore[list-item]
    elif play_of == "one debate":
        folder = made(tmp_path, names=["a", "b"], topics=1, void=[1], panel=False, judges=["x"])
    else:
        folder = made(tmp_path, topics=2, void=range(12), panel=False)
    page = Page(html(Reading.of(tables.load(folder))))
    assert [title for tag, title in page.headings if tag == "h2"] == [*(c.title for c in CHAPTERS), "Debates to read"]
    cells = [cell for rows in page.tables for row in rows for cell in row]
    assert not [cell for cell in cells if re.search(r"\b(nan|None|inf|null)\b", cell)]
    said = {
        "void": "no rated verdict",
        "tie": "every topic says the same",
        "invalid": "no rated verdict",
        "one debate": "no rating exists",
    }
    assert said[play_of] in page.text


def test_people_correct_a_judge(tmp_path: Path) -> None:
    folder = made(tmp_path, judges=["x", "human:ann"], panel=False, topics=30, winners=["for", "against", "against"])
    reading = Reading.of(tables.load(folder), "x")
    beside, corrected = (part for part in scrutiny.corrected(reading) if isinstance(part, Table))
    assert [row[0] for row in beside.rows] == ["x"] and [row[0] for row in corrected.rows] == ["a", "b", "c"]
    found = gold.win_rates(reading.run, "x")
    assert [row[3].split(" [")[0] for row in corrected.rows] == [percent(value) for value in found["corrected"]]
    assert corrected.notes == tuple(f"not corrected: {why}" for why in found["why"].drop_nulls().unique())


def test_a_report_card_is_shown_with_its_gates(tmp_path: Path) -> None:
    folder = made(tmp_path, topics=2)
    reading = Reading.of(tables.load(folder))
    said = [part.text for part in scrutiny.report_cards(reading) if isinstance(part, Note)]
    assert [text.split(";")[0] for text in said] == [f"judge {name!r} was never calibrated" for name in "xyz"]
    calibration = shutil.copytree(folder, tmp_path / cards.FOLDER / "c1")
    row = {"metric": "known_answers", "value": 0.71, "low": 0.6, "high": 0.8, "topics": 20, "n": 40}
    table = pl.DataFrame([row | {"gate": "at least 0.9", "passed": False}])
    cards.write(calibration, table, judge=reading.spec.judges[0], from_run=folder.name)
    shown, warning, *_ = scrutiny.report_cards(reading)
    assert isinstance(shown, Table) and isinstance(warning, Note)
    assert shown.rows == (("known_answers", "NO", "at least 0.9", "0.710 [0.600, 0.800]", "40", "20"),)
    assert "below its gates: known_answers 0.710" in warning.text


# Strangers' text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything that a stranger can write is hostile."""
    return made(
        tmp_path_factory.mktemp("hostile"),
        names=HOSTILE,
        judges=["<b>judge</b>", "javascript:alert(1)"],
        topics=2,
        text=[*HOSTILE, "a" * 1_000_000],
        void=[0, 5],
        theme=HOSTILE[1],
        motion=" ".join(HOSTILE),
    )


def test_hostile_text_is_text_in_the_page(hostile: Path) -> None:
    source = html(Reading.of(tables.load(hostile)), 20)
    page = Page(source)
    assert {tag for tag, _ in page.tags} <= TAGS
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        assert "javascript" not in str(attrs.get("href", "")).lower()
    assert "{{ 7*7 }}" in page.text and "49{%" not in page.text
    assert "<script>alert(1)</script>" in page.text
    assert not set("\u202e\u2066") & set(source) and "U+202E" in page.text
    assert "[20,000 of 1,000,000 characters]" in page.text and len(source) < 4e6


def test_hostile_names_are_text_in_the_markdown(hostile: Path) -> None:
    source = markdown(Reading.of(tables.load(hostile)))
    plain = MarkdownIt("commonmark", {"html": True}).enable("table").render(source)
    tags = {tag for tag, _ in Page(plain).tags}
    assert tags <= {"h1", "h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert "https://" not in source and "www.evil" not in source  # which some would make links of
    assert "<script>" in Page(plain).text and "{{ 7*7 }}" in Page(plain).text


def test_pictures_hold_shapes_and_text_alone(hostile: Path) -> None:
    reading = Reading.of(tables.load(hostile))
    chart = charts.leaderboard(reading.board("bench").frame)
    found = Page("" if chart is None else charts.svg(chart, "one", HOSTILE[5]))
    assert {tag for tag, _ in found.tags} <= {"svg", *charts.SHAPES}
    assert {name for tag, attrs in found.tags if tag != "svg" for name in attrs} <= set(charts.ATTRIBUTES.split())
    assert "<script>alert(1)</script>" in found.text


def test_pictures_on_one_page_share_no_ids() -> None:
    import altair as alt

    clipped = alt.layer(alt.Chart(pl.DataFrame({"x": [1.0, 2.0]})).mark_line(clip=True).encode(x="x:Q", y="x:Q"))
    tags = [Page(charts.svg(clipped, name, "")).tags for name in ("one", "two")]
    ids = [{attrs["id"] for _, attrs in of if "id" in attrs} for of in tags]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    for of, known in zip(tags, ids, strict=True):
        used = [attrs["clip-path"] for _, attrs in of if "clip-path" in attrs]
        assert used and {str(use)[5:-1] for use in used} <= known


def test_names_that_look_alike_stay_apart_in_a_picture() -> None:
    called = charts.labels(["a" * 50, "a" * 60, "a\u202eb", "a b", "a b"])
    assert len(set(called.values())) == len(called) == 4


def test_private_reasoning_is_never_shown(folder: Path, source: str) -> None:
    assert tables.load(folder).turns.collect()["reasoning"].unique().to_list() == ["SECRET THOUGHT"]
    assert "SECRET THOUGHT" not in source


# Debates to read


def test_quotes_are_marked_where_they_were_said(source: str) -> None:
    assert "Roses are red. <mark>Violets are blue</mark>." in source  # turn 2
    assert "<mark>Roses are red. Violets are blue.</mark>" in source  # turn 1


def test_debates_are_chosen_by_rule(play: Play) -> None:
    folder = play(limit=60).folder
    reading = Reading.of(tables.load(folder))
    margin = dict(reading.verdicts.select("debate_id", "margin").iter_rows())
    closest, clearest, *others = choose(reading, 5)
    rest = {debate_id: abs(value) for debate_id, value in margin.items()}
    assert rest[closest] == min(rest.values())
    assert rest[clearest] == max(value for debate_id, value in rest.items() if debate_id != closest)
    assert len({closest, clearest, *others}) == 5
    assert len(choose(reading, 100)) == 60 and choose(reading, 0) == {}


def test_one_that_judges_see_differently_and_a_void_one_are_among_them(folder: Path) -> None:
    reading = Reading.of(tables.load(folder))
    why = choose(reading, 5)
    (apart,) = (debate_id for debate_id, text in why.items() if "furthest apart" in text)
    said = reading.verdicts.filter(debate_id=apart)
    assert {"for", "against"} <= set(said["winner"])
    assert next(debate_id for debate_id, text in why.items() if "nothing" in text) in ("d0003", "d0007", "d0008")


# The command


def report(folder: Path, *words: object) -> int:
    return main([str(folder), *map(str, words)])


def test_it_is_written_into_the_runs_folder_the_same_each_time(
    folder: Path, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    assert report(copy) == 0
    wrote, next_ = capsys.readouterr().out.splitlines()
    assert wrote.startswith(f"wrote {copy / 'report.html'}, ") and next_ == f"next:  python -m runs.view {copy}"
    written = (copy / "report.html").read_text()
    pages = [[line for line in page.splitlines() if "Read on" not in line] for page in (source, written)]
    assert pages[0] == pages[1] and len(pages[0]) > 500
    tables.verify(copy)  # a report changes nothing that was sealed


def test_pictures_are_pngs(folder: Path, tmp_path: Path) -> None:
    assert report(folder, "--format", "png", "--write", tmp_path) == 0
    for name in ("leaderboard.png", "win-matrix.png"):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and int.from_bytes(data[16:20]) > 300


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--judge", "benhc"],
            "no verdict of judge 'benhc'; there are those of 'bench', 'x', 'y', 'z'; did you mean 'bench'?",
        ),
        (["--format", "pdf"], "'pdf'"),
        (["--samples", "-1"], "--samples"),
        (["--write", "/nowhere/report.html"], "name another place with --write"),
        (["--write", "/nowhere", "--format", "png"], "name another place with --write"),
    ],
)
def test_wrong_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in refused(capsys, folder, *words, command=main)
    assert not [path for path in folder.iterdir() if "report" in path.name or path.suffix == ".png"]


def test_no_such_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run 'x'" in refused(capsys, "x", "--out", tmp_path, command=main)


def test_pictures_of_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path, topics=2, void=range(12), panel=False)
    assert "nobody has a rating" in refused(capsys, folder, "--format", "png", command=main)


def test_a_full_disk_leaves_the_page_that_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path, topics=2, panel=False, judges=["x"])
    page = folder / "report.html"
    page.write_text("the old one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        line = refused(capsys, folder, command=main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert line.startswith(f"error: cannot write '{page}' (File too large)")
    assert page.read_text() == "the old one"
    assert not [path for path in folder.iterdir() if path.name.startswith(".report")]


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (None, "–"), (12.345, "12.35"), (0.5, "0.500"), (0.000123456, "0.000123")]
)
def test_dollars_below_one_keep_three_digits(value: float | None, said: str) -> None:
    assert usd(value) in (said, said.replace("12.35", "12.34"))


@pytest.mark.parametrize("text", ["# a", "a|b", "<b>", "[a](b)", "`a`", "*a*_b_", "&lt;", "~~a~~", "![a](b)", "\\"])
def test_markdown_means_nothing_in_a_cell(text: str) -> None:
    rendered = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(f"|x|\n|-|\n| {md(text)} |")
    )
    page = Page(rendered)
    assert {tag for tag, _ in page.tags} == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.text.split() == ["x", *text.split()]
