"""Pictures of a run, drawn by Altair and handed over as SVG that can stand in a page.

    chart = leaderboard(board.frame)           # an altair chart; None where there is nothing to draw, or too much
    svg(chart, "leaderboard", "Ratings: ...")  # Markup, safe to inline
    png(chart)                                 # bytes

The idea. A chart is drawn without a browser (vl-convert) and written anew, element by element: what is not in a short
list of shapes and attributes is left out. So a name can be text in a picture and nothing else: there is no link, no
script, no style and no reference to elsewhere that could survive. Ids get the picture's name before them, because a
page holds several pictures.

Colours are blue and orange of Okabe and Ito, which colour-blind readers tell apart, and text has the colour of the page
around it, light or dark. What a colour says is said by a place or a number as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, count
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import polars as pl
from markupsafe import Markup

from topics.errors import one_line

if TYPE_CHECKING:
    import altair as alt

    Drawing = alt.LayerChart | alt.FacetChart

BLUE, ORANGE, GREY = "#2E86C8", "#D55E00", "#808080"
MOST = 28
"""Characters of a name in a picture."""
CELL = 46
"""Pixels of a cell of the win matrix."""
LONGEST, WIDEST = 300, 40
"""Names up to which there is a picture with a row for each, and a win matrix: more than that nobody reads, and Altair
takes no more than 5,000 rows."""
SHAPES = frozenset({"g", "path", "rect", "line", "circle", "text", "tspan", "defs", "clipPath"})
ATTRIBUTES = (
    "d x y x1 x2 y1 y2 cx cy r dx dy width height transform fill fill-opacity stroke stroke-width stroke-opacity "
    "stroke-dasharray stroke-miterlimit opacity text-anchor font-size font-weight font-family id clip-path"
)
"""Of SVG, all that a picture here is made of."""


def labels(names: Iterable[str]) -> dict[str, str]:
    """What each name is called in a picture: short, and no two alike."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        short = one_line(name, MOST) or "?"
        found[name] = next(
            label for label in chain([short], (f"{short} ({n})" for n in count(2))) if label not in taken
        )
        taken.add(found[name])
    return found


def _room(called: dict[str, str]) -> dict[str, int]:
    """Pixels around a chart: names may be wider where they are read than where they were drawn."""
    wider = max((len(label) for label in called.values()), default=0)
    return {"left": 6 + wider, "right": 10 + wider, "top": 6 + wider // 2, "bottom": 6}


# The charts


def leaderboard(frame: pl.DataFrame) -> Drawing | None:
    """Ratings with their intervals, best first; columns as in `Leaderboard.frame`."""
    rated = frame.filter(pl.col("rating").is_not_null()).select(
        name="contestant", value="rating", low="low", high="high"
    )
    title = "rating, with its 95 % interval"
    return _intervals(rated, title, around=1500.0, least=50.0, form="d") if 0 < len(rated) <= LONGEST else None


def shares(frame: pl.DataFrame, title: str) -> Drawing | None:
    """Shares `value` of `name`, with `low` and `high` where they have an interval, around one half."""
    known = frame.filter(pl.col("value").is_not_null())
    return _intervals(known, title, around=0.5, least=0.05, form=".0%") if 0 < len(known) <= LONGEST else None


def _intervals(frame: pl.DataFrame, title: str, *, around: float, least: float, form: str) -> Drawing:
    """A row for each name: a dot, and a bar from `low` to `high`; the axis has `least` on both sides of `around`."""
    import altair as alt

    called = labels(frame["name"])
    data = frame.select(pl.col("name").replace_strict(called, return_dtype=pl.String), "value", "low", "high")
    ends = (end for column in ("value", "low", "high") for end in (data[column].min(), data[column].max()))
    known = [float(str(end)) for end in ends if end is not None]
    known += [around - least, around + least]
    scale = alt.Scale(domain=[min(known), max(known)], nice=True, zero=False)
    base = alt.Chart(data).encode(y=alt.Y("name:N", sort=None, title=None))
    x: dict[str, Any] = {"title": title, "scale": scale, "axis": alt.Axis(format=form, tickCount=6)}
    bars = base.transform_filter("isValid(datum.low)").mark_rule(color=BLUE, strokeWidth=7, opacity=0.45)
    layers = (
        alt.Chart(pl.DataFrame({"at": [around]})).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="at:Q"),
        bars.encode(x=alt.X("low:Q", **x), x2="high:Q"),
        base.mark_circle(color=BLUE, size=70, opacity=1).encode(x=alt.X("value:Q", **x)),
    )
    return alt.layer(*layers).properties(width=460, height=alt.Step(26), padding=_room(called))


def win_matrix(frame: pl.DataFrame, order: Collection[str]) -> Drawing | None:
    """How often the contestant of a row beat that of a column: `contestant`, `other`, `win_rate`, `debates`."""
    import altair as alt

    if len(order) > WIDEST:
        return None
    called = labels(order)
    names = [
        pl.col(name).replace_strict(called, default=None, return_dtype=pl.String) for name in ("contestant", "other")
    ]
    data = (
        frame.filter(pl.col("win_rate").is_not_null())
        .select(*names, "win_rate", "debates", above=pl.col("win_rate") >= 0.5, apart=(pl.col("win_rate") - 0.5).abs())
        .drop_nulls()
    )
    if not len(data):
        return None
    axis = alt.Axis(labelAngle=-40, orient="top", domain=False, ticks=False, labelLimit=200)
    base = alt.Chart(data).encode(
        x=alt.X("other:N", sort=list(called.values()), title=None, axis=axis),
        y=alt.Y("contestant:N", sort=list(called.values()), title=None),
    )
    cells = base.mark_rect().encode(
        fill=alt.Color("above:N", scale=alt.Scale(domain=[True, False], range=[BLUE, ORANGE]), legend=None),
        fillOpacity=alt.FillOpacity("apart:Q", scale=alt.Scale(domain=[0, 0.5], range=[0.02, 0.6]), legend=None),
    )
    rates = base.mark_text(dy=-5, fontSize=12, color="currentColor").encode(text=alt.Text("win_rate:Q", format=".0%"))
    counts = base.mark_text(dy=9, fontSize=9, color="currentColor", opacity=0.75)
    layers = (cells, rates, counts.transform_calculate(n="'n ' + format(datum.debates, ',')").encode(text="n:N"))
    return alt.layer(*layers).properties(width=alt.Step(CELL), height=alt.Step(CELL - 6), padding=_room(called))


def lengths(frame: pl.DataFrame) -> Drawing | None:
    """How often a side won (`value`, `low`, `high`) that said so many `words` more than the other."""
    import altair as alt

    data = frame.drop_nulls("value")
    if not len(data):
        return None
    scale = alt.Scale(domain=[0, 1])
    base = alt.Chart(data).encode(
        x=alt.X("words:Q", title="words more than the other side", scale=alt.Scale(nice=True))
    )
    y = alt.Y("value:Q", title="won", scale=scale, axis=alt.Axis(format=".0%", tickCount=5))
    ends: dict[str, Any] = {"y": alt.Y("low:Q", title="won", scale=scale), "y2": "high:Q"}
    layers = (
        alt.Chart(pl.DataFrame({"at": [0.5]})).mark_rule(color=GREY, strokeDash=[3, 3]).encode(y="at:Q"),
        base.transform_filter("isValid(datum.low)").mark_rule(color=BLUE, strokeWidth=7, opacity=0.45).encode(**ends),
        base.mark_line(color=BLUE, strokeWidth=1.5, opacity=0.6).encode(y=y),
        base.mark_circle(color=BLUE, size=70, opacity=1).encode(y=y),
    )
    return alt.layer(*layers).properties(width=460, height=220, padding=8)


# From a chart to bytes


def svg(chart: Drawing, name: str, says: str) -> Markup:
    """A chart as SVG to stand in a page; `name` is of this picture alone, `says` is read to who cannot see it."""
    import vl_convert

    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg(_dressed(chart, None)))
    inner = Markup("").join(_kept(child, name) for child in drawn)
    size = {side: float(drawn.attrib[side]) for side in ("width", "height")}
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}">{}</svg>').format(
        says, size["width"], size["height"], size["width"], size["height"], inner
    )


def png(chart: Drawing) -> bytes:
    """A chart as a PNG on white."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_dressed(chart, "white"), scale=2))


def _dressed(chart: Drawing, ground: str | None) -> dict[str, Any]:
    """A chart's description in the colours of the page, or black on `ground`."""
    ink = "currentColor" if ground is None else "#1b1e24"
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    lines = {"gridColor": GREY, "gridOpacity": 0.25, "domain": False, "tickColor": GREY, "labelLimit": 260}
    made: dict[str, Any] = (
        chart.configure(aria=False, font="sans-serif", background=ground or "transparent")
        .configure_axis(**text, **lines)
        .configure_view(stroke=None)
        .configure_text(color=ink)
        .to_dict(validate=False)
    )
    return made


_REFERENCE = re.compile(r"url\(#([\w-]+)\)")


def _kept(element: ElementTree.Element, name: str) -> Markup:
    """An element with its known attributes and children; nothing of one that is unknown, or cannot be seen."""
    tag = element.tag.rpartition("}")[2]
    unseen = (
        element.get("display") == "none" or element.get("opacity") == "0" or (tag == "path" and not element.get("d"))
    )
    if tag not in SHAPES or unseen:
        return Markup()
    attributes = Markup().join(_attributes(element, name))
    inner = Markup().join(_kept(child, name) for child in element)
    text = element.text or "" if tag in ("text", "tspan") else ""
    if not inner and not text and tag == "g":
        return Markup()
    return Markup("<{}{}>{}{}</{}>").format(Markup(tag), attributes, text, inner, Markup(tag))


def _attributes(element: ElementTree.Element, name: str) -> Iterator[Markup]:
    for key, value in element.attrib.items():
        if key == "id":
            value = f"{name}-{value}"
        elif found := _REFERENCE.fullmatch(value):
            value = f"url(#{name}-{found[1]})"
        elif "url(" in value.lower():
            continue
        if key in ATTRIBUTES.split():
            yield Markup(' {}="{}"').format(Markup(key), value)
