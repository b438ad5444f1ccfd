"""The pages of the viewer: from routes to templates.

    pages = Pages(watch, index, lengths)
    app = application(pages, *more)          # a Starlette application over one run, with routes that are not here

A page is a pure reading of `watch.now`, of what the store holds under one key, or of the index; nothing in a URL is
ever a path, or a part of one. What moves by itself is a fragment with the digest of what it shows in its address: it is
asked for every two seconds, more rarely once the run is sealed, and answered by 204 while nothing has changed, so that
what is being read stays in place. The list of debates asks for nothing more once the run is sealed.

What is asked in a wrong way is told on one line: 400, or 404 where there is no such thing. Who may ask at all is
`server.py`'s to say, and what a person's ballot looks like, `runs/view/booth.py`'s.
"""

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import polars as pl
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from runs.costs import paid, unknown
from runs.markup import MOST, STATIC, render
from runs.panels import is_trajectory
from runs.records import content_id
from runs.report.chapters import CHAPTERS
from runs.report.reading import Part, Table
from runs.schema import TABLES
from runs.spec import Spec
from runs.spoken import dollars
from runs.view import search
from runs.view.filters import PAGE, Filters, narrow
from runs.view.lengths import Lengths
from runs.view.search import Index
from runs.view.stored import UNREADABLE, Row, Stored
from runs.view.watch import FLAGS, Watch
from topics.errors import InputError, one_line

Endpoint = Callable[[Request], Response | Awaitable[Response]]
WHOLE = 5_000_000
"""Characters of a turn that is asked for as a whole."""
OFFERED = 300
"""Debates on the same topic that a debate is offered to be compared with."""
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
HELD = {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.suffix in TYPES}
"""Files that are served; no other one can be."""
EDITION = content_id(*HELD.values())
OFTEN_S, RARELY_S = 2, 10
"""Seconds after which what moves is asked for again: before a run is sealed, and after, as people may still vote."""
LENGTH = next(chapter for chapter in CHAPTERS if chapter.anchor == "length-control")
"""The chapter of the report that the leaderboard shows beside itself when it is asked to."""

M = TypeVar("M", bound=BaseModel)


class Asked(BaseModel):
    """What a URL may ask of the pages that show no list of debates."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    judge: Annotated[str, StringConstraints(max_length=2000)] = ""
    order: Annotated[str, StringConstraints(max_length=20)] = ""
    sample: Annotated[int, Field(ge=0, le=10**6)] = 0
    length: Annotated[int, Field(ge=0, le=1)] = 0
    """1: the leaderboard with and without length."""
    whole: Annotated[int, Field(ge=0, le=10**6)] = 0
    """A turn that is shown in full, however long it is."""
    q: Annotated[str, StringConstraints(max_length=1000)] = ""
    page: Annotated[int, Field(ge=1, le=10**6)] = 1
    a: Annotated[str, StringConstraints(max_length=100)] = ""
    b: Annotated[str, StringConstraints(max_length=100)] = ""


def read(model: type[M], request: Request) -> M:
    """What a request's URL asks; raises `InputError` that names what is wrong with it."""
    given: dict[str, Any] = dict(request.query_params)
    if "flag" in given:
        given["flag"] = request.query_params.getlist("flag")
    return checked(model, {name: value for name, value in given.items() if value != ""})


def checked(model: type[M], values: Mapping[str, Any]) -> M:
    """A model of what strangers sent; raises `InputError` that names the first fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{name} {one_line(repr(first['input']), 60)}: {first['msg']}") from None


def link(path: str, **asked: object) -> str:
    """A URL within the viewer; what is empty is left out."""
    pairs = [
        (name, str(part))
        for name, value in asked.items()
        for part in (sorted(value) if isinstance(value, frozenset) else [value])
        if part not in ("", None, 0)
    ]
    return f"{path}?{QueryParams(pairs)}" if pairs else path


class Pages:
    """The pages of one run."""

    def __init__(self, watch: Watch, index: Index, lengths: Lengths) -> None:
        self.watch = watch
        self.index = index
        self.lengths = lengths

    def routes(self) -> list[BaseRoute]:
        """Where each page is."""
        pages: dict[str, Endpoint] = {
            "/": self.board,
            "/board": self.board_alone,
            "/status": self.status,
            "/debates": self.debates,
            "/list": self.list_alone,
            "/debates/{debate_id}": self.debate,
            "/debates/{debate_id}/live": self.debate_alone,
            "/compare": self.compare,
            "/search": self.search,
            "/static/{name}": self.static,
        }
        return [Route(path, page, methods=["GET"]) for path, page in pages.items()]

    # What all pages have

    def page(self, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
        """A whole page."""
        around = {"run": self.watch.folder.name, "edition": EDITION, "link": link, "asked_for": ""}
        shown = {**around, "head": self._status(), "title": title, **values}
        return HTMLResponse(render(template, **shown), status)

    def _status(self) -> Markup:
        now, ago = self.watch.now, datetime.now(UTC).timestamp() - self.watch.now.seen_at
        shown = render(
            "_status.html",
            now=now,
            state="sealed" if now.sealed else "going on" if self.watch.held else "stopped",
            trouble=self.watch.trouble,
            ago=next((f"{ago / s:.0f} {unit}" for s, unit in ((3600, "h"), (60, "min")) if ago >= s), ""),
        )
        return self._moving("status", "/status", shown)

    def _moving(self, name: str, url: str, shown: str) -> Markup:
        return moving(name, url, shown, RARELY_S if self.watch.now.sealed else OFTEN_S)

    def status(self, request: Request) -> Response:
        """How far the run is."""
        return answer(request, self._status())

    # The leaderboard

    def board(self, request: Request) -> Response:
        """Who stands where, by one judge's verdicts."""
        judge, length = self._asked(request)
        return self.page(
            "board.html",
            title="Leaderboard",
            judges=self.watch.now.judges,
            judge=judge,
            length=length,
            moving=self._board(judge, length),
        )

    def board_alone(self, request: Request) -> Response:
        """The part of it that moves."""
        return answer(request, self._board(*self._asked(request)))

    def _asked(self, request: Request) -> tuple[str | None, int]:
        """By whose verdicts, and whether with and without length."""
        now, asked = self.watch.now, read(Asked, request)
        judge = asked.judge
        if judge and judge not in now.judges:
            raise HTTPException(404, f"no judge {one_line(judge, 60)!r} in this run")
        return judge or next(iter(now.judges), None), asked.length

    def _board(self, judge: str | None, length: int) -> Markup:
        now = self.watch.now
        parts: tuple[Part, ...] | None = self.lengths.by(judge) if judge and length else ()
        found = now.boards.get(judge) or now.boards[next(iter(now.boards))]
        rows = found.board.frame.to_dicts() if found.board else []
        shown = render(
            "_board.html",
            now=now,
            found=found,
            rows=rows,
            place=_scale(rows),
            met=_met(found.matrix),
            link=link,
            chapter=LENGTH,
            parts=parts,
            is_table=lambda part: isinstance(part, Table),
        )
        every = RARELY_S if now.sealed and parts is not None else OFTEN_S
        return moving("board", link("/board", judge=judge, length=length), shown, every)

    # Debates

    def debates(self, request: Request) -> Response:
        """The debates that filters leave, a page of them."""
        filters = read(Filters, request)
        return self.page(
            "debates.html",
            title="Debates",
            now=self.watch.now,
            filters=filters,
            moving=self._list(filters),
            flags=FLAGS,
            twice=lambda names: [(name, name) for name in names],
        )

    def list_alone(self, request: Request) -> Response:
        """The part of it that moves."""
        return answer(request, self._list(read(Filters, request)))

    def _list(self, filters: Filters) -> Markup:
        now = self.watch.now
        judge = filters.judge or next(iter(now.judges), "")  # and it stays so, whoever gives verdicts later
        left = narrow(now, filters)
        pages = max(1, math.ceil(len(left) / PAGE))
        page = min(filters.page, pages)
        asked = filters.model_dump(exclude={"page"}) | {"judge": judge}
        shown = render(
            "_list.html",
            now=now,
            judge=judge,
            rows=left.slice(PAGE * (page - 1), PAGE).to_dicts(),
            total=len(left),
            page=page,
            pages=pages,
            to=lambda number: link("/debates", **asked, page=number),
        )
        return moving("list", link("/list", **asked, page=filters.page), shown, 0 if now.sealed else OFTEN_S)

    def debate(self, request: Request) -> Response:
        """One debate, turn by turn."""
        now, row = self.watch.now, self._row(request.path_params["debate_id"])
        at = now.place[row["debate_id"]]
        near = {"before": at - 1, "after": at + 1}
        around = {name: now.debates["debate_id"][n] if 0 <= n < len(now.debates) else None for name, n in near.items()}
        same = now.debates.filter((now.debates["topic_id"] == row["topic_id"]) & (now.debates["match"] != row["match"]))
        return self.page(
            "debate.html",
            title=row["motion"],
            row=row,
            moving=self._debate(request, row),
            same=same.head(OFFERED).to_dicts(),
            around=around,
        )

    def debate_alone(self, request: Request) -> Response:
        """The part of it that moves while the debate goes on, or is judged."""
        return answer(request, self._debate(request, self._row(request.path_params["debate_id"])))

    def _row(self, debate_id: str) -> Row:
        row = self.watch.now.debate(debate_id)
        if row is None:
            raise HTTPException(404, f"no debate {one_line(debate_id, 60)!r} in this run")
        return row

    def _debate(self, request: Request, row: Row) -> Markup:
        asked, now = read(Asked, request), self.watch.now
        stored = self.watch.store.debate(row["debate_id"])
        chosen = _chosen(stored, asked, now.judges)
        path = f"/debates/{row['debate_id']}"
        said = asked.model_dump(include={"judge", "order", "sample", "whole"})
        shown = render(
            "_debate.html",
            row=row,
            stored=stored,
            calls=_paid(stored.calls, now.spec),
            dollars=dollars,
            judges=_by_judge(stored, now.judges),
            is_part=is_trajectory,
            key=content_id,
            chosen=chosen,
            quotes=_quotes(chosen),
            most=lambda turn: WHOLE if turn == asked.whole else MOST,
            path=path,
            link=link,
        )
        return self._moving("debate", link(f"{path}/live", **said), shown)

    def compare(self, request: Request) -> Response:
        """Two debates on one topic, side by side."""
        asked = read(Asked, request)
        if not (asked.a and asked.b):
            raise InputError("two debates are compared: /compare?a=ID&b=ID; a debate's page offers them")
        rows = [self._row(asked.a), self._row(asked.b)]
        if rows[0]["topic_id"] != rows[1]["topic_id"]:
            raise InputError("these two debates are on different topics; compare two on one")
        both = [self.watch.store.debate(row["debate_id"]) for row in rows]
        turns: defaultdict[int, dict[int, Row]] = defaultdict(dict)
        for at, stored in enumerate(both):
            for turn in stored.turns:
                turns[turn["turn"]][at] = turn
        return self.page(
            "compare.html",
            title=f"Compare: {rows[0]['motion']}",
            rows=rows,
            both=both,
            turns=sorted(turns.items()),
            is_part=is_trajectory,
        )

    # Search

    def search(self, request: Request) -> Response:
        """Turns that hold some words."""
        asked, now = read(Asked, request), self.watch.now
        found = self.index.find(asked.q, page=asked.page)
        hits = [(hit, now.debate(hit.debate_id)) for hit in found.hits]
        return self.page(
            "search.html",
            title="Search",
            asked_for=one_line(asked.q, search.MOST),
            found=found,
            hits=hits,
            page=asked.page,
            pages=max(1, math.ceil(found.total / search.PAGE)),
            to=lambda number: link("/search", q=one_line(asked.q, search.MOST), page=number),
            parts=search.phrases(asked.q),
            indexed=self.index.turns,
            complete=self.index.complete,
            spoken=int(now.debates["turns"].sum()),
        )

    def static(self, request: Request) -> Response:
        """A file of those that are held."""
        name = request.path_params["name"]
        if name not in HELD:
            raise HTTPException(404, f"no file {one_line(name, 60)!r}")
        headers = {"Cache-Control": "max-age=86400", "Content-Type": TYPES[name[name.rindex(".") :]]}
        return Response(HELD[name], headers=headers)


# What moves by itself


def moving(name: str, url: str, shown: str, every: int) -> Markup:
    """A part of a page, and where it is asked for again: `every` so many seconds, with a digest of what it shows.

    One that is asked for every 0 seconds moves no more.
    """
    digest = content_id(shown, str(every))
    if not every:
        return Markup('<div id="{}" data-shown="{}">{}</div>').format(name, digest, Markup(shown))
    address = f"{url}{'&' if '?' in url else '?'}shown={digest}"
    wrap = '<div id="{}" data-shown="{}" hx-get="{}" hx-trigger="every {}s" hx-swap="outerHTML">{}</div>'
    return Markup(wrap).format(name, digest, address, every, Markup(shown))


def answer(request: Request, part: Markup) -> Response:
    """The part, or 204 where it is what the page already shows."""
    same = f'data-shown="{request.query_params.get("shown", "-")}"' in part[:200]
    return Response(status_code=204) if same else HTMLResponse(part)


# What templates are given


def _scale(rows: list[Row]) -> Callable[[float], float]:
    """Where a rating stands between the lowest and the highest bound, in percent."""
    bounds = [row[name] for row in rows for name in ("rating", "low", "high") if row[name] is not None]
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    return lambda value: round(2 + 96 * (value - low) / ((high - low) or 1), 2)


def _met(matrix: Any) -> dict[tuple[str, str], Row]:
    return {} if matrix is None else {(row["contestant"], row["other"]): row for row in matrix.to_dicts()}


def _by_judge(stored: Stored, judges: Iterable[str]) -> list[tuple[str, Row | None, list[Row]]]:
    """Each judge with its verdict and its votes: those of the run's order first, then trajectories."""
    verdicts = {row["judge"]: row for row in stored.verdicts}
    votes: defaultdict[str, list[Row]] = defaultdict(list)
    for vote in stored.votes:
        votes[vote["judge"]].append(vote)
    names = dict.fromkeys((*judges, *verdicts, *votes))
    return [(name, verdicts.get(name), votes[name]) for name in names if name in verdicts or votes[name]]


def _paid(calls: list[Row], spec: Spec) -> list[Row]:
    """Calls with what `runs.costs` knows of their cost."""
    rows = pl.DataFrame(calls, schema=TABLES["calls"].columns)
    return rows.with_columns(unknown(spec), paid(spec)).to_dicts()


def _chosen(stored: Stored, asked: Asked, judges: Iterable[str]) -> Row | None:
    """The vote whose quotes are marked: the one that is asked for, or the first that quotes."""
    if asked.judge:
        named = asked.judge, asked.order or "for_first", asked.sample
        for vote in stored.votes:
            if (vote["judge"], vote["order"], vote["sample"]) == named:
                return vote
        raise HTTPException(404, f"no such vote of judge {one_line(asked.judge, 60)!r} on this debate")
    rank = {name: at for at, name in enumerate(judges)}
    quoting = [vote for vote in stored.votes if vote["quotes"]]
    return min(quoting, key=lambda vote: rank.get(vote["judge"], len(rank)), default=None)


def _quotes(vote: Row | None) -> Mapping[int, list[str]]:
    """What a vote quotes, by turn."""
    quotes: defaultdict[int, list[str]] = defaultdict(list)
    for quote in vote["quotes"] if vote else ():
        quotes[quote["turn"]].append(quote["text"])
    return quotes


def application(pages: Pages, *more: BaseRoute) -> Starlette:
    """The application: pages, further routes, and what is told where something is wrong."""

    def told(request: Request, error: Exception) -> Response:
        status, line = 500, "something went wrong here; the terminal says what"
        if isinstance(error, HTTPException):
            status, line = error.status_code, error.detail
        elif isinstance(error, InputError):
            status, line = 400, str(error)
        elif isinstance(error, UNREADABLE):
            status, line = 503, f"this cannot be read or written just now; try again: {error}"
        return pages.page("error.html", title=str(status), status=status, line=one_line(line))

    handlers: Any = dict.fromkeys((HTTPException, InputError, *UNREADABLE, Exception), told)
    return Starlette(routes=[*pages.routes(), *more], exception_handlers=handlers)
