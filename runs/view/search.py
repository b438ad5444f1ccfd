"""Full text of a run's turns: which ones hold these words, and where.

    with Index(watch.store) as index:
        found = index.find('subsidies "wind power"')      # all of these words, and the phrase
        found.total, found.hits[0].debate_id, found.hits[0].turn, found.hits[0].snippet

SQLite's FTS5 does it, in a temporary database that is the connection's own and goes with it. A thread fills it from the
start, and goes on with what is said later; whoever asks meanwhile finds what is there so far and is told how much that
is. Hits come in the order in which the turns were written.

A query is words: every part of it is handed to FTS5 as a quoted phrase, so that none of its own syntax is ever read.
Case and accents do not matter; `don't` is the phrase "don t", as FTS5 cuts texts the same way. What a query costs grows
with its words, however often one comes: so there is a bound on them, and on how many may wait for an answer.
"""

import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from runs.markup import speech
from runs.view.stored import UNREADABLE, Store
from runs.view.watch import background
from topics.errors import InputError, one_line

PAGE = 20
"""Hits on a page."""
MOST = 200
"""Characters of a query."""
WORDS = 16
"""Words of a query; what stands behind them is not looked for."""
WAITING = 16
"""Queries that wait for each other: fewer than the threads that answer requests, so that pages go on."""
AROUND = 40
"""Words of a snippet."""
MOST_SHOWN = 600
"""Characters of a snippet."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A turn that holds all that was asked for."""

    debate_id: str
    turn: int
    snippet: Markup


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to."""

    total: int
    """Turns that match."""
    hits: tuple[Hit, ...]
    """Those of the page."""


class Index:
    """The turns of a run, indexed in a thread while the block lasts."""

    def __init__(self, store: Store, *, every: float = 1.0) -> None:
        self._store = store
        self._every = every
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "": temporary, on disk
        self._database.execute("PRAGMA journal_mode = OFF")  # nothing of it outlives the process
        self._database.execute(
            "CREATE VIRTUAL TABLE said USING fts5 (debate_id UNINDEXED, turn UNINDEXED, text, tokenize = 'unicode61')"
        )
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(WAITING)
        self._stop = threading.Event()
        nonce = secrets.token_hex(8)  # no text can hold it, so that marks in a snippet are FTS5's
        self._marks = f"\x02{nonce}", f"\x03{nonce}"
        self._read = 0
        self.turns = 0
        """How many are indexed."""
        self.complete = False
        """Whether all that the run held at the start is indexed."""

    def __enter__(self) -> "Index":
        self._thread = background("index", self._step, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._database.close()

    def _step(self) -> float:
        try:
            for read, rows in self._store.blocks("debate_id, turn, text", self._read):
                self._read = read
                for at in range(0, len(rows), 200):
                    self._add(rows[at : at + 200])
                    if self._stop.wait(0.002):  # short steps, between which whoever asks can come in
                        return 0
            self.complete = True
        except (InputError, *UNREADABLE):
            pass
        return self._every

    def _add(self, rows: list[tuple[str, int, str]]) -> None:
        with self._lock:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO said VALUES (?, ?, ?)", rows)
            self._database.execute("COMMIT")
            self.turns += len(rows)

    def find(self, query: str, *, page: int = 1) -> Found:
        """The turns that hold every part of `query`, a page of them; none where no part has a letter or a digit.

        Raises `sqlite3.OperationalError` where too many others are searching.
        """
        if not (wanted := phrases(query)):
            return Found(total=0, hits=())
        match = " ".join(f'"{part}"' for part in wanted)
        select = (
            f"SELECT debate_id, turn, snippet(said, 2, ?, ?, '…', {AROUND}) FROM said WHERE said MATCH ? "
            "ORDER BY rowid LIMIT ? OFFSET ?"
        )
        if not self._places.acquire(blocking=False):
            raise sqlite3.OperationalError("too many others are searching")
        try:
            with self._lock:
                (total,) = self._database.execute("SELECT count(*) FROM said WHERE said MATCH ?", (match,)).fetchone()
                rows = self._database.execute(select, (*self._marks, match, PAGE, PAGE * (page - 1))).fetchall()
        finally:
            self._places.release()
        return Found(total=total, hits=tuple(Hit(debate_id=d, turn=t, snippet=self._snippet(s)) for d, t, s in rows))

    def _snippet(self, text: str) -> Markup:
        begin, end = self._marks
        shown, left = [], MOST_SHOWN
        for marked, part in _pieces(text, begin, end):
            if part and left > 0:
                shown.append(speech(part, [part] if marked and part.strip() else (), most=left))
                left -= len(part)
        return Markup("").join(shown)


def _pieces(text: str, begin: str, end: str) -> Iterator[tuple[bool, str]]:
    for at, piece in enumerate(text.split(begin)):
        marked, _, plain = piece.partition(end) if at else ("", "", piece)
        yield True, marked
        yield False, plain


def phrases(query: str) -> list[str]:
    """The parts of a query that hold a letter or a digit, each once: what stands in double quotes, and words."""
    line = one_line(query, MOST)
    if len(ends := [word.end() for word in _WORD.finditer(line)]) > WORDS:
        line = line[: ends[WORDS - 1]]
        line += '"' * (line.count('"') % 2)
    parts: dict[tuple[str, ...], str] = {}
    for part in map("".join, re.findall(r'"([^"]*)"|([^\s"]+)', line)):
        if words := tuple(_WORD.findall(part.casefold())):
            parts.setdefault(words, part)
    return [*parts.values()]


_WORD = re.compile(r"[^\W_]+")
