"""The report put together: its chapters as a page, as Markdown, or its leaderboard and win matrix as pictures."""

import re
from datetime import UTC, datetime

from markupsafe import Markup

from runs import markup
from runs.pairings import win_matrix
from runs.ratings import RatingsError
from runs.report import charts, samples
from runs.report.chapters import CHAPTERS
from runs.report.reading import Note, Picture, Reading, Table, name
from topics.errors import InputError, one_line


def html(reading: Reading, wanted: int = 5) -> str:
    """The page, with `wanted` sample debates."""
    chosen = samples.read(reading, samples.choose(reading, wanted))
    style = Markup((markup.STATIC / "report.css").read_text(encoding="utf-8"))
    return markup.render("report.html", style=style, samples=chosen, **_told(reading))


def markdown(reading: Reading) -> str:
    """The tables and remarks, as Markdown."""
    return markup.render("report.md", md=md, **_told(reading))


def _told(reading: Reading) -> dict[str, object]:
    return {
        "reading": reading,
        "chapters": [(chapter, chapter.parts(reading)) for chapter in CHAPTERS],
        "kind": lambda part: {Table: "table", Picture: "picture", Note: "note"}[type(part)],
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "name": name,
        "title": one_line(reading.run.folder.name, 100),
    }


def pictures(reading: Reading) -> dict[str, bytes]:
    """Leaderboard and win matrix as PNG, by file name.

    Raises `InputError` where there is nothing to draw.
    """
    try:
        frame = reading.board(reading.judge).frame
    except RatingsError as error:
        raise InputError(f"no picture of {str(reading.run.folder)!r}: {error}") from None
    found = win_matrix(reading.debates, reading.verdicts, reading.judge)
    drawn = {
        "leaderboard.png": charts.leaderboard(frame),
        "win-matrix.png": charts.win_matrix(found, frame["contestant"]),
    }
    made = {file: charts.png(chart) for file, chart in drawn.items() if chart is not None}
    if not made:
        raise InputError(f"no picture of {str(reading.run.folder)!r}: nobody has a rating; see --format html for why")
    return made


_MEANS_SOMETHING = re.compile(r"([\\`*_{}\[\]()#!|~$^])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})  # @: an address, or a mention of somebody


def md(text: object) -> Markup:
    """A text for Markdown, in which nothing is a tag, a link, emphasis, code or the end of a cell."""
    quiet = _MEANS_SOMETHING.sub(r"\\\1", one_line(str(text), 1000)).replace("www.", r"www\.").replace("://", r"\://")
    return Markup(quiet.translate(_HTML))
