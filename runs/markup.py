"""Strangers' text as HTML: escaped, bounded, and with what cannot be seen made visible.

    speech("<b>ha</b>", ["ha"])        # &lt;b&gt;<mark>ha</mark>&lt;/b&gt;
    plain("a\nname", 60)               # on one line, for where no tag may stand: an attribute, an option, a title
    render("report.html", title=...)   # a template of runs/templates

What models say, what files name contestants and what a person types may hold anything: tags, links, template syntax,
marks that turn the direction of writing round, a megabyte of one letter. Templates escape every value that they are
given, with no way for a template to say otherwise but a `Markup` that is made here. Marks of direction and control
characters are shown by their code points: they could make a speech read otherwise than it was judged. What is long is
shown in part, and says so.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from topics.errors import UNSEEN

TEMPLATES, STATIC = Path(__file__).parent / "templates", Path(__file__).parent / "static"
MOST = 20_000
"""Characters of a text that are shown."""


def speech(text: str, quotes: Iterable[str] = (), *, most: int = MOST) -> Markup:
    """A text, with every place where one of `quotes` stands in a `<mark>`; quotes that overlap are one mark."""
    shown = text[:most]
    parts = [
        Markup("<mark>{}</mark>").format(_visible(part)) if marked else _visible(part)
        for part, marked in _cut(shown, quotes)
    ]
    if len(text) > most:
        parts.append(Markup(' <span class="cut">[{} of {} characters]</span>').format(f"{most:,}", f"{len(text):,}"))
    return Markup("").join(parts)


def _cut(text: str, quotes: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """`text` in pieces, each with whether it is quoted."""
    at = 0
    for start, end in _spans(text, quotes):
        yield text[at:start], False
        yield text[start:end], True
        at = end
    yield text[at:], False


def _spans(text: str, quotes: Iterable[str]) -> list[tuple[int, int]]:
    """Where quotes stand, in order, without overlaps."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for quote in {quote.strip() for quote in quotes} for span in _places(text, quote)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _places(text: str, quote: str) -> Iterator[tuple[int, int]]:
    """Where a quote stands, one behind the other. A pattern made of a megabyte would take seconds."""
    at = text.find(quote) if quote else -1
    while at >= 0:
        yield at, at + len(quote)
        at = text.find(quote, at + len(quote))


def _visible(text: str) -> Markup:
    """A text, escaped, with what has no shape shown by its code point."""
    return Markup(UNSEEN.sub(lambda found: f'<span class="unseen">U+{ord(found[0]):04X}</span>', str(escape(text))))


def plain(text: str, most: int = 200) -> str:
    """A text on one line, with what has no shape shown by its code point; not escaped yet, as a template does that."""
    line = UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", " ".join(text[: most + 1].split()))
    return line if len(text) <= most else f"{line[:most]}…"


def render(template: str, **values: Any) -> str:
    """A template of `runs/templates`, filled in."""
    return environment().get_template(template).render(values)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates, and the filters with which they show numbers."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"speech": speech, "plain": plain, "percent": percent, "number": number, "count": count}
    return made


def number(value: float | None, digits: int = 0, *, signed: bool = False) -> str:
    """A number, or a dash where there is none."""
    if value is None or not isfinite(value):
        return "–"
    said = f"{value:{'+' if signed else ''},.{digits}f}"
    return said.replace("-", "−") if float(said.replace(",", "")) else f"{0:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, or a dash where there is none."""
    said = number(None if value is None else 100 * value, digits)
    return said if said == "–" else f"{said} %"


def count(value: int | None) -> str:
    """A count with its thousands apart, or a dash."""
    return "–" if value is None else f"{value:,}"
