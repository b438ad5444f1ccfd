"""The report: everything in its place, the figures those of the tables, and strangers' text as text."""

import asyncio
import itertools
import re
import resource
import shlex
import shutil
from collections.abc import Callable, Sequence
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
from runs import Run, cards, costs, gold, tables
from runs.ballots import cast, reseal, vote_of
from runs.bias import FEW, bias
from runs.list import ASIDE
from runs.markup import number, percent, plain, speech
from runs.pairings import swaps
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
from runs.report import charts, scrutiny, standings
from runs.report.__main__ import main
from runs.report.chapters import CHAPTERS, Chapter, overview
from runs.report.page import html, markdown, md
from runs.report.reading import Note, Parts, Reading, Table, usd
from runs.report.samples import choose, read
from runs.spec import Spec
from topics import SIDES, Topic
from topics.errors import one_line

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
    seats: Sequence[tuple[str, str]] = (),
    trajectories: Sequence[str] = (),
    void_judged: bool = False,
) -> Path:
    """A run of every two contestants (or of `seats`) on both sides, made by hand: verdicts by turns, `text` everywhere.

    A person votes on two debates of three; what `trajectories` say, nobody else does.
    """
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
            {"name": name, "kind": "llm", "family": names[n % len(names)], "endpoint": "e", "model": name}
            for n, name in enumerate(judges)
        ),
        panels=({"name": "bench", "members": [*judges]},) if panel else (),
    )
    seats = seats or [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
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
            if state == "complete" or void_judged:
                for place, judge in enumerate(judges):
                    if not judge.startswith("human:") or n % 3:
                        winner = winners[(n * (place + 1)) % len(winners)]
                        records += _judged(match, judge, winner, text[n % len(text)], related=one == names[0])
                if panel:
                    records.append(_verdict(match, "bench", winners[n % len(winners)], len(judges)))
            for judge in trajectories:
                records += _judged(match, judge, "abstain" if n % 2 else "for", "READ IN PART")
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


def _judged(match: Match, judge: str, winner: Winner, text: str, *, related: bool = False) -> list[Record]:
    vote = Vote(
        **{"debate_id": match.debate_id, "judge": judge, "order": "for_first", "sample": 0, "winner": winner},
        confidence=0.7,
        scores=(Score(criterion=text[:20], for_=5.0, against=4.0),),
        rationale=text,
        quotes=(Quote(turn=1, side="for", text=text), Quote(turn=2, side="against", text="Violets are blue")),
    )
    return [vote, _verdict(match, judge, winner, 1, related=related)]


def _verdict(match: Match, judge: str, winner: Winner, votes: int, *, related: bool = False) -> Verdict:
    margin = {"for": 1.0, "against": -1.0, "tie": 0.0}.get(winner)
    about: dict[str, Any] = {"margin": margin, "consistent": winner != "tie", "votes": votes, "related": related}
    return Verdict(debate_id=match.debate_id, judge=judge, winner=winner, **about)


def _failure(match: Match, text: str) -> Failure:
    who = {"contestant": match.for_contestant, "judge": None, "message": text}
    return Failure(debate_id=match.debate_id, step="speak", turn=2, at=NOW, kind="server", attempts=3, **who)


# What is there


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three contestants and three judges who are a panel; one of them reads first turns too. Three debates
    are void, and were judged all the same."""
    more: dict[str, Any] = {"trajectories": ["x@2"], "void_judged": True}
    return made(tmp_path_factory.mktemp("made"), names=["a|b", "*c*", "<d>"], void=[3, 7, 8], **more)


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


Shown = Callable[[dict[str, Any]], str]


def share_of(column: str) -> Shown:
    """A share in per cent with its bounds, as a cell has it."""
    return lambda row: percent(row[column]) + bounds(row, column, lambda value: number(100 * value, 1))


def amount_of(column: str, shown: Callable[[float], str]) -> Shown:
    return lambda row: shown(row[column]) + bounds(row, column, shown)


def bounds(row: dict[str, Any], column: str, shown: Callable[[float], str]) -> str:
    return f" [{shown(row[f'{column}_low'])}, {shown(row[f'{column}_high'])}]"


def counts(*columns: str) -> dict[str, Shown]:
    return {column: lambda row, column=column: f"{row[column]:,}" for column in columns}  # type: ignore[misc]


def figures(run: tables.Tables, spec: Spec) -> dict[str, tuple[pl.DataFrame, dict[str, Shown]]]:
    """Of tables by the beginning of their captions: where the figures are from, and what stands under which head."""
    audit = bias(run, spec)
    two, three, words = (lambda value, n=n: number(value, n) for n in (2, 3, 0))
    agreed = {
        "agree": share_of("agreement"),
        "alpha": amount_of("alpha", two),
        **counts("undecided", "debates", "topics"),
    }
    own = {"gives its own": amount_of("share", three), "others give them": amount_of("others", three)}
    decides = {"the side decided": share_of("side_share"), "the contestant decided": share_of("contestant_share")}
    decides |= {"neither": share_of("neither_share"), "FOR won both": counts("for_both")["for_both"]}
    said = {"words": amount_of("words", words), "trimmed": share_of("trimmed"), **counts("turns", "topics")}
    ended = {"complete": share_of("completion_rate"), "ended": counts("debates")["debates"], **counts("void", "topics")}
    paid = {"USD a win": amount_of("cost_per_win", usd), "tokens a win": amount_of("tokens_per_win", words)}
    voted = {"USD": lambda row: usd(row["cost_usd"]), **counts("verdicts", "votes", "calls")}
    overall = swaps(run.debates, run.verdicts).filter(pl.col("contestant").is_null())
    return {
        "How often FOR wins": (
            audit["side"].filter(pl.col("theme").is_null()),
            {"FOR won": share_of("share"), **counts("verdicts", "undecided", "topics")},
        ),
        "Pairs of debates that": (overall, {**decides, **counts("pairs", "topics")}),
        "Agreement;": (audit["agreement"], agreed),
        "Favour for family": (audit["family"], {**own, **counts("debates", "topics")}),
        "Words of a turn": (costs.stages(run), said),
        "Debates that ended": (costs.completion(run), ended),
        "What a win costs": (costs.per_win(run, spec, "bench"), {**paid, **counts("topics")}),
        "What a verdict costs": (costs.per_verdict(run, spec), voted),
    }


def test_the_figures_are_those_of_the_modules_that_know_them(folder: Path, source: str) -> None:
    run, page = runs.load(folder), Page(source)
    for begin, (frame, wanted) in figures(run, Spec.read(folder)).items():
        (shown,) = (rows for caption, rows in page.by_caption.items() if caption.startswith(begin))
        found = [{head: dict(zip(shown[0], row, strict=True))[head] for head in wanted} for row in shown[1:]]
        expected = [{head: show(row) for head, show in wanted.items()} for row in frame.iter_rows(named=True)]
        assert sorted(map(str, found)) == sorted(map(str, expected)), begin


def test_verdicts_are_counted_on_complete_debates_by_whole_readings(folder: Path, source: str) -> None:
    run = runs.load(folder)
    (shown,) = (rows for caption, rows in Page(source).by_caption.items() if caption.startswith("Verdicts;"))
    complete = run.debates.filter(status="complete").select("debate_id", "topic_id")
    said = run.verdicts.join(complete, on="debate_id").collect()
    assert [row[0] for row in shown[1:]] == ["bench", "x", "y", "z"]
    for cells in shown[1:]:
        row, own = dict(zip(shown[0], cells, strict=True)), said.filter(judge=cells[0])
        is_so = {"tie": own["winner"] == "tie", "abstain": own["winner"] == "abstain", "consistent": own["consistent"]}
        is_so["related to a contestant"] = own["related"]
        assert {head: row[head].split(" [")[0] for head in is_so} == {h: percent(x.mean()) for h, x in is_so.items()}
        assert row["verdicts"] == str(len(own)) and row["topics"] == str(own["topic_id"].n_unique())
    decide = said.filter(pl.col("judge").is_in(["x", "y", "z"]))  # the panel says what they said
    assert ["verdicts that decide", str(len(decide))] in Page(source).tables[0]


def test_the_markdown_has_the_same_cells(folder: Path, source: str, tmp_path: Path) -> None:
    assert report(folder, "--format", "md", "--write", tmp_path) == 0
    written = (tmp_path / "report.md").read_text()
    page, rendered = Page(source), Page(MarkdownIt("commonmark").enable("table").render(written))
    assert rendered.tables == page.tables and len(page.tables) > 20


def test_a_panel_comes_first_unless_a_judge_is_named(folder: Path) -> None:
    run = tables.load(folder)
    assert Reading.of(run).judges == ("bench", "x", "y", "z")
    assert Reading.of(run, "y").judges == ("y", "bench", "x", "z")


def test_length_control_takes_single_judges_together_whoever_comes_first(folder: Path) -> None:
    for judge in ("bench", "x@2"):  # who says what the others say, in part or all over again
        shown = list(standings.controlled_for_length(Reading.of(tables.load(folder), judge)))
        captions = [part.caption for part in shown if isinstance(part, Table) and part.caption.startswith("Ratings")]
        assert captions[-1].startswith("Ratings by x, y, z: ")
        assert not any("both hold" in part.text for part in shown if isinstance(part, Note))


def test_what_was_read_in_part_is_shown_of_nobody_who_did_not_ask(folder: Path, tmp_path: Path) -> None:
    reading = Reading.of(tables.load(folder))
    for sample in read(reading, choose(reading, 5)):
        assert {vote["judge"] for vote in sample.votes} <= {"x", "y", "z"}
    asked = Reading.of(tables.load(folder), "x@2")
    assert asked.judges == ("x@2", "bench", "x", "y", "z")
    alone = made(tmp_path, judges=["x"], panel=False, trajectories=["x@2"], topics=2)
    for judge in ("x", "x@2"):  # nobody is apart from oneself
        assert not any("furthest apart" in why for why in choose(Reading.of(tables.load(alone), judge), 5).values())


def test_what_is_read_in_part_alone_makes_no_leaderboard(tmp_path: Path) -> None:
    folder = made(tmp_path, judges=[], panel=False, trajectories=["x@2"], topics=2)
    page = Page(html(Reading.of(tables.load(folder))))
    assert ["judges", "none has given a verdict on a whole debate"] in page.tables[0]
    assert "no rated verdict" in page.text and "Ratings by" not in page.text
    (shown,) = (rows for caption, rows in page.by_caption.items() if caption.startswith("Leaderboard by no judge"))
    assert [row[1:3] for row in shown[1:]] == [["a", "–"], ["b", "–"], ["c", "–"]]


def test_a_judge_may_be_called_anything(tmp_path: Path) -> None:
    names = ["me@home", "T", "debate_id", "judge", "topic_id", "winner", "theme"]
    folder = made(tmp_path, names=["for", "against", "score"], judges=names, panel=False)
    reading = Reading.of(tables.load(folder))
    assert reading.judges == tuple(names)
    page = Page(html(reading))
    assert "not shown" not in page.text.replace("reasoning is not shown", "")
    assert any(caption.startswith("Leaderboard by me@home") for caption in page.captions)
    assert {vote["judge"] for sample in read(reading, choose(reading, 1)) for vote in sample.votes} == {*names}


def test_no_more_is_drawn_than_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"c{n:02}" for n in range(72)]
    met = pl.DataFrame([*itertools.permutations(names, 2)], ("contestant", "other"), orient="row")
    assert len(met) > 5000 and charts.win_matrix(met.with_columns(win_rate=0.5, debates=2), names) is None
    assert charts.win_matrix(met.with_columns(win_rate=0.5, debates=2), names[:3]) is not None
    many = pl.DataFrame({"contestant": [str(n) for n in range(5001)], "rating": 1500.0, "low": 1400.0, "high": 1600.0})
    assert charts.leaderboard(many) is None and charts.leaderboard(many.head(72)) is not None
    names = names[: charts.WIDEST + 1]
    folder = made(tmp_path, names=names, topics=2, judges=["x"], panel=False, seats=[*pairwise([*names, names[0]])])
    parts = list(standings.matrix(Reading.of(tables.load(folder))))
    assert [type(part) for part in parts] == [Note, Table]
    assert isinstance(parts[0], Note) and parts[0].text.startswith("not drawn: 41 contestants")
    assert isinstance(parts[1], Table) and len(parts[1].rows) == 41
    assert report(folder, "--format", "png") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("note: no picture of more than 40 contestants")
    assert not (folder / "win-matrix.png").exists()


def test_a_defect_takes_away_its_part_alone_and_is_heard_of(folder: Path) -> None:
    def broken(reading: Reading) -> Parts:
        yield Note(text="before")
        raise ZeroDivisionError("by\x1bnothing")

    def whole(reading: Reading) -> Parts:
        yield Note(text="after")

    chapter = Chapter(anchor="x", title="X", how="", made=(broken, whole))
    reading = Reading.of(tables.load(folder))
    with pytest.warns(RuntimeWarning, match="a part of 'X' is not shown: ZeroDivisionError: by nothing"):
        parts = chapter.parts(reading)
    said = [part.text for part in parts if isinstance(part, Note)]
    assert said == ["before", "not shown, by a defect: ZeroDivisionError: by nothing", "after"]
    with pytest.raises(RuntimeWarning):  # as any test would see it
        chapter.parts(reading)


@pytest.mark.parametrize("aside", [*ASIDE, ""])
def test_what_is_no_league_says_so(aside: str, tmp_path: Path) -> None:
    folder = made(tmp_path / aside, topics=2, judges=["x"], panel=False)
    said = [part.text for part in standings.leaderboards(Reading.of(tables.load(folder))) if isinstance(part, Note)]
    assert sum("nothing here says who argues better" in text for text in said) == bool(aside)


def test_votes_that_came_after_the_seal_are_told_of(tmp_path: Path) -> None:
    folder = made(tmp_path, topics=2, judges=["x"], panel=False)
    reading = Reading.of(tables.load(folder))

    def told() -> bool:
        return any("since the run was sealed" in part.text for part in overview(reading) if isinstance(part, Note))

    assert not told()
    with Run.resume(folder) as run:
        match = next(iter(run.journal.complete()))
        vote = vote_of(run.debate(match), "human:ann", "for")
    cast(folder, match, vote)
    assert told()
    assert reseal(folder) == "" and not told()


def test_where_topics_are_too_few_the_cells_say_so(tmp_path: Path) -> None:
    reading = Reading.of(tables.load(made(tmp_path, topics=FEW - 1, judges=["x"], panel=False)))
    ratings, terms = (part for part in standings.controlled_for_length(reading) if isinstance(part, Table))
    assert all(cell.endswith(" [too few topics]") for row in ratings.rows for cell in row[2:4])
    assert terms.rows and all(row[2].endswith(" [too few topics]") for row in terms.rows)
    (board,) = (part for part in standings.leaderboards(reading) if isinstance(part, Table))
    assert all(re.search(r" \[[\d,.]+, [\d,.]+\]$", row[2]) for row in board.rows)  # with a note of their worth
    assert any(note.startswith(f"only {FEW - 1} topics") for note in board.notes)


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


MOSTLY: list[Winner] = ["for", "for", "for", "against", "against", "against", "against"]
"""Read by ones and by twos, the same five times of seven."""


def test_people_correct_a_judge(tmp_path: Path) -> None:
    folder = made(tmp_path, judges=["x", "human:ann"], panel=False, topics=30, winners=MOSTLY)
    reading = Reading.of(tables.load(folder), "x")
    beside, corrected = (part for part in scrutiny.corrected(reading) if isinstance(part, Table))
    assert [row[0] for row in beside.rows] == ["x"] and [row[0] for row in corrected.rows] == ["a", "b", "c"]
    known = gold.judges(reading.run).row(0, named=True)
    assert known["sensitivity"] != known["specificity"]
    assert list(beside.rows[0][1:4]) == [share_of(x)(known) for x in ("sensitivity", "specificity", "agreement")]
    assert list(beside.rows[0][5:]) == [str(known[x]) for x in ("debates", "topics")]
    found = gold.win_rates(reading.run, "x")
    for cells, row in zip(corrected.rows, found.iter_rows(named=True), strict=True):
        assert list(cells[1:4]) == [share_of(x)(row) for x in ("win_rate", "people_rate", "corrected")]
        assert list(cells[4:]) == [str(row[x]) for x in ("debates", "people_debates", "topics")]
    assert all(found[x].to_list() != found["win_rate"].to_list() for x in ("people_rate", "corrected"))
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
    seen_aside, *_ = scrutiny.report_cards(Reading.of(tables.load(calibration)))
    assert isinstance(seen_aside, Table) and seen_aside.rows == shown.rows
    broken = shutil.copytree(calibration, tmp_path / cards.FOLDER / "c2")
    (broken / cards.NAME).write_text("{")
    assert isinstance(next(iter(scrutiny.report_cards(reading))), Table)
    said = [part.text for part in scrutiny.report_cards(reading) if isinstance(part, Note)]
    assert sum("cannot be read as a card" in text for text in said) == 1
    (board, *_) = (part for part in standings.leaderboards(reading) if isinstance(part, Table))
    assert any("cannot be read as a card" in note for note in board.notes)


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
    for names in itertools.permutations(["a b", "a  b", "a b (2)"]):
        assert len(set(charts.labels(names).values())) == 3


def moved(attrs: dict[str, str | None]) -> float:
    """How far to the right an element stands."""
    found = re.match(r"translate\(([-\d.]+),", str(attrs["transform"]))
    assert found
    return float(found[1])


def test_bars_are_drawn_from_end_to_end() -> None:
    row: dict[str, Any] = {
        "contestant": ["a", "b"],
        "rating": [1600.0, 1400.0],
        "low": [1550.0, 1300.0],
        "high": [1700.0, 1420.0],
    }
    chart = charts.leaderboard(pl.DataFrame(row))
    assert chart is not None
    tags = Page(charts.svg(chart, "x", "")).tags
    bars = [attrs for tag, attrs in tags if tag == "line" and attrs.get("stroke") == charts.BLUE]
    dots = [attrs for tag, attrs in tags if tag == "path" and attrs.get("fill") == charts.BLUE]
    a, b = ((moved(bar), moved(bar) + float(str(bar["x2"])), moved(dot)) for bar, dot in zip(bars, dots, strict=True))
    assert [(dot - min(ends)) / abs(ends[1] - ends[0]) for *ends, dot in (a, b)] == pytest.approx(
        [1 / 3, 5 / 6], abs=0.01
    )


def test_who_is_ahead_is_blue() -> None:
    frame = pl.DataFrame({"contestant": ["a", "b"], "other": ["b", "a"], "win_rate": [0.9, 0.1], "debates": [10, 10]})
    chart = charts.win_matrix(frame, ["a", "b"])
    assert chart is not None
    source = str(charts.svg(chart, "x", ""))
    cells = re.findall(r'd="M(\d+),\d+h\d+v\d+h-\d+Z" fill="(#\w+)"', source)
    rates = re.findall(r"translate\((\d+),\d+\)[^>]*>(\d+%)<", source)
    by_place = {rate: next(fill for left, fill in cells if 0 < int(at) - int(left) < charts.CELL) for at, rate in rates}
    assert by_place == {"90%": charts.BLUE, "10%": charts.ORANGE}


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
    copy = shutil.copytree(folder, tmp_path / "a blank" / folder.name)
    assert report(copy) == 0
    wrote, next_ = capsys.readouterr().out.splitlines()
    assert wrote.startswith(f"wrote {copy / 'report.html'}, ") and shlex.split(next_)[-1] == str(copy)
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
            "no verdict of judge 'benhc'; there are those of 'bench', 'x', 'x@2', 'y', 'z'; did you mean 'bench'?",
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


@pytest.mark.parametrize(
    "text",
    ["x@example.com", "@someone", "# a", "a|b", "<b>", "[a](b)", "`a`", "*a*_b_", "&lt;", "~~a~~", "![a](b)", "\\"],
)
def test_markdown_means_nothing_in_a_cell(text: str) -> None:
    rendered = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(f"|x|\n|-|\n| {md(text)} |")
    )
    page = Page(rendered)
    assert {tag for tag, _ in page.tags} == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.text.split() == ["x", *text.split()] and "@" not in md(text)


HIDDEN = (
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00\ufe0e\uffa0\ufff9\ufffb\U0001d173\U000e0041\U000e0100\U000e01ef"
)


@pytest.mark.parametrize("mark", HIDDEN)
def test_what_has_no_shape_is_shown_by_its_code_point(mark: str) -> None:
    code = f"U+{ord(mark):04X}"
    assert Page(speech(f"a{mark}b")).text == f"a{code}b" and plain(f"a{mark}b") == f"a[{code}]b"
    assert one_line(f"a{mark}b") == "a b"


def test_what_emoji_and_scripts_are_written_with_stays() -> None:
    for text in ("❤\ufe0f", "1\ufe0f\u20e3", "👩\u200d🚀", "می\u200cخواهم", "\ue000", "é", "한글"):
        assert Page(speech(text)).text == text
    assert Page(speech("a\ufe0f\ufe0f❤\ufe0f\ufe0f")).text == "aU+FE0FU+FE0F❤\ufe0fU+FE0F"
