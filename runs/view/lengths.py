"""A judge's standing with the length held equal, worked out beside the pages, and remembered.

    with Lengths(watch) as lengths:
        lengths.by("rules")            # parts of a report, or None while they are worked out

The model with every term (`runs/terms.py`) takes a second for a large run, and most readers never ask for it. So no
request waits for it, nor does the thread that looks at the run: one of its own works it out for judges that somebody
has asked for, again where debates or the judge's verdicts are others, and takes a fifth of a core at most. Until then
what it came to before is shown; what nobody asks for any more is forgotten once it no longer holds.

What is remembered are the tables and remarks of the report's own chapter, so that both say the same in the same words.
"""

import threading
import time
import warnings
from dataclasses import dataclass

import polars as pl

from runs.report.reading import Note, Part
from runs.report.standings import with_and_without
from runs.standing import SEATS
from runs.view.watch import Now, Watch, background
from topics.errors import one_line

KEPT_S = 60.0
"""Seconds after which nobody asks for a judge any more; a page asks every few."""
TOLD = ("debate_id", "topic_id", *SEATS, "opener", "status")
"""What the model knows of a debate, words aside, which no longer change once it is complete."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a judge's verdicts came to, and what it was read from."""

    debates: pl.DataFrame
    own: pl.DataFrame
    parts: tuple[Part, ...]

    def holds(self, now: Now, judge: str) -> bool:
        """Whether it would come out the same now."""
        return self.own.equals(_own(now, judge)) and self.debates.equals(now.debates.select(TOLD))


class Lengths:
    """Standings with and without length, worked out in a thread while the block lasts."""

    def __init__(self, watch: Watch, *, every: float = 0.2) -> None:
        self._watch = watch
        self._every = every
        self._asked: dict[str, float] = {}
        self._known: dict[str, _Known] = {}
        self._seen: Now | None = None
        self._stop = threading.Event()

    def __enter__(self) -> "Lengths":
        self._thread = background("lengths", self._step, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def by(self, judge: str) -> tuple[Part, ...] | None:
        """What is known by a judge's verdicts, which is kept fresh from now on; None while it is worked out."""
        self._asked[judge] = time.monotonic()
        known = self._known.get(judge)
        return None if known is None else known.parts

    def _step(self) -> float:
        began, now = time.monotonic(), self._watch.now
        asked = {judge for judge, at in [*self._asked.items()] if began - at < KEPT_S}
        if now is not self._seen:
            for judge in [judge for judge, known in self._known.items() if judge not in asked]:
                if not self._known[judge].holds(now, judge):
                    del self._known[judge]
        for judge in sorted(asked):
            known = self._known.get(judge)
            if known is None or (now is not self._seen and not known.holds(now, judge)):
                self._known[judge] = _worked_out(now, judge)
            if self._stop.is_set():
                break
        self._seen = now
        return max(self._every, 4 * (time.monotonic() - began))


def _own(now: Now, judge: str) -> pl.DataFrame:
    return now.verdicts.filter(judge=judge)


def _worked_out(now: Now, judge: str) -> _Known:
    """What a judge's verdicts come to, or why they come to nothing."""
    own = _own(now, judge)
    found: tuple[Part, ...]
    try:
        found = tuple(with_and_without(now.debates, own, now.spoken, (judge,), now.spec.panels))
    except Exception as error:  # by a defect of ours; else readers would be told for ever that it is worked out
        what = one_line(f"{type(error).__name__}: {error}", 500)
        warnings.warn(f"length control by {judge!r} is not shown: {what}", RuntimeWarning, stacklevel=2)
        found = (Note(text=f"not shown, by a defect: {what}"),)
    return _Known(debates=now.debates.select(TOLD), own=own, parts=found)
