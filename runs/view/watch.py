"""A run's tables in memory, kept fresh while the run goes on.

    with Watch(folder) as watch:
        now = watch.now                       # a `Now`: frames and leaderboards of one moment
        now.debates, now.boards["rules"]
        watch.store.debate(debate_id)         # texts of one debate, read by its key

The idea. What every page needs is small, whatever the run: debates, verdicts, topics, flags of each debate. It is kept
in memory as one value that is never changed, and a thread replaces it when something has happened: when another
connection wrote to the journal (`PRAGMA data_version`), or the journal or the manifest is another file. Leaderboards
are made there too, so that no request waits for one, and only by judges of whom something is new. Speeches, votes and
calls are large; they are read when they are asked for, one debate at a time (`runs/view/stored.py`).
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from runs import journal, tables
from runs.ballots import lots
from runs.list import held, scheduled
from runs.pairings import win_matrix
from runs.panels import HUMAN, TRAJECTORY, is_trajectory
from runs.ratings import Leaderboard, RatingsError, leaderboard
from runs.records import Debate, Match, Turn, slots_for
from runs.run import stored_topics
from runs.spec import Spec
from runs.view.stored import UNREADABLE, Row, Store
from topics import Topic
from topics.errors import InputError, one_line

FLAGS = ("trimmed", "failed", "disagree", "inconsistent", "invalid", "voted")
"""What a debate may be marked with: a turn was trimmed; something failed; two judges, panels and trajectories aside,
named different winners; a judge contradicted itself, or a panel's members each other; a verdict is invalid; a person
has voted."""
SEED = 0
"""Of the draw of ballots: that of `judges.human`, unless it is told another."""
VALID = ("for", "against", "tie")


# One moment


@dataclass(frozen=True, kw_only=True)
class Board:
    """A judge's leaderboard, or why there is none."""

    judge: str | None
    board: Leaderboard | None
    why: str
    trust: tuple[str, ...]
    """What a reader must know of the judge."""
    matrix: pl.DataFrame | None
    """Who beat whom, as `runs.pairings.win_matrix` tells it; null where nobody did."""


@dataclass(frozen=True, kw_only=True)
class Now:
    """A run at one moment. Never changed: whoever holds one reads on in peace."""

    spec: Spec
    sealed: bool
    seen_at: float
    """When this was read, by `time.time`."""
    debates: pl.DataFrame
    """Table `debates` with `motion`, `theme`, `turns`, `words`, and the `FLAGS`, in the order of the schedule."""
    verdicts: pl.DataFrame
    topics: pl.DataFrame
    spoken: pl.DataFrame
    """`words` by `debate_id` and `side`, null where those of a turn are not known."""
    planned: int | None
    """Debates of the schedule, where that can be told."""
    judges: tuple[str, ...]
    """Who gave verdicts, trajectories aside: panels, then the others, then persons."""
    boards: Mapping[str | None, Board]

    @cached_property
    def place(self) -> dict[str, int]:
        """Where a debate stands in `debates`."""
        return {debate_id: at for at, debate_id in enumerate(self.debates["debate_id"])}

    def debate(self, debate_id: str) -> Row | None:
        """A debate's row."""
        at = self.place.get(debate_id)
        return None if at is None else self.debates.row(at, named=True)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Debates by status, and verdicts."""
        by_status = dict(self.debates["status"].value_counts().rows())
        return {name: by_status.get(name, 0) for name in ("complete", "void", "open")} | {
            "verdicts": len(self.verdicts)
        }

    @cached_property
    def contestants(self) -> list[str]:
        """Their names, by name."""
        seen = {*self.debates["for_contestant"], *self.debates["against_contestant"]}
        return sorted({str(contestant["name"]) for contestant in self.spec.contestants} | seen)

    @cached_property
    def ballots(self) -> list[str]:
        """Complete debates in the order in which persons are given them."""
        return lots(self.debates.filter(status="complete").select("debate_id", "topic_id").rows(), SEED)


# Keeping it fresh


@dataclass(kw_only=True)
class Watch:
    """Looks at a run again and again, in a thread of its own, while the block lasts."""

    folder: Path
    out: Path | None = None
    """Where runs and their judges' report cards are (default: beside this run)."""
    every: float = 1.0
    """Seconds between looks; longer where a look takes long, so that it never takes more than a fifth of a core."""
    trouble: str = ""
    """Why the last look failed, if it did; what was seen before is still shown."""
    held: bool = False
    """Whether a process held a run that is not sealed, at the last look: somebody plays it."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Take the first look; raises `InputError` where there is nothing to see."""
        self.store = Store(self.folder)
        self._file: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._said, self._read = pl.DataFrame(schema=_SAID), 0
        self._debates = pl.DataFrame()
        self._boards_of: dict[str | None, tuple[pl.DataFrame, Board]] = {}
        self.held = held(self.folder)
        self._mark = self._heard()
        self.topics = self._topics()
        self.now = self._look()

    def __enter__(self) -> "Watch":
        self._thread = background("watch", self._step, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._connection:
            self._connection.close()

    def _topics(self) -> dict[str, Topic]:
        return {topic.topic_id: topic for topic in stored_topics(self.store.frame("topics"))}

    def of(self, debate_id: str) -> Debate:
        """A debate as whoever judges it is given it."""
        now = self.now
        row = now.debate(debate_id)
        if row is None:
            raise InputError(f"no debate {one_line(debate_id, 60)!r} in this run")
        match = Match(**{name: row[name] for name in Match.__dataclass_fields__})
        turns = tuple(Turn(**turn) for turn in self.store.turns(debate_id))
        slots = slots_for(now.spec.format, match.opener)
        return Debate(match=match, topic=self.topics[match.topic_id], slots=slots, turns=turns)

    def _step(self) -> float:
        began = time.monotonic()
        try:
            # Asked before the rest: who lets go has sealed the run first, or stopped. Of a sealed one, nobody asks.
            is_held = not self.now.sealed and held(self.folder)
            mark = self._heard()
            if mark != self._mark:
                self.now = self._look()
                self._mark = mark
            self.held, self.trouble = is_held, ""
        except (InputError, *UNREADABLE) as error:
            self.trouble = one_line(f"the run cannot be read just now: {error}")
        return max(self.every, 4 * (time.monotonic() - began))

    def _heard(self) -> object:
        """What changes when something has happened; a connection hears only of the file that it was opened on."""
        file = self.store.file()
        if file != self._file:
            if self._connection:
                self._connection.close()
            self._connection = None
            self._connection = journal.reader(self.folder) if file is not None else None
            self._said, self._read = pl.DataFrame(schema=_SAID), 0
            self._file = file
        return file, self.store.mark(self._connection)

    def _look(self) -> Now:
        spec, store = Spec.read(self.folder), self.store
        debates, verdicts, topics = (store.frame(name).collect() for name in ("debates", "verdicts", "topics"))
        topics = topics.select("topic_id", "motion", "theme", "question_type", "split", "info")
        panels = [str(panel["name"]) for panel in spec.panels]
        judges = _judges(verdicts, panels)
        said = self._spoken()
        return Now(
            spec=spec,
            sealed=tables.is_sealed(self.folder),
            seen_at=time.time(),
            debates=self._flagged(debates, verdicts, topics, panels, said),
            verdicts=verdicts,
            topics=topics,
            spoken=said.select("debate_id", "side", words=pl.when(pl.col("unknown") == 0).then("words")),
            planned=_planned(spec, len(debates)),
            judges=judges,
            boards=self._boards(debates, verdicts, judges, spec),
        )

    def _flagged(
        self,
        debates: pl.DataFrame,
        verdicts: pl.DataFrame,
        topics: pl.DataFrame,
        panels: list[str],
        said: pl.DataFrame,
    ) -> pl.DataFrame:
        judge = pl.col("judge")
        whole = verdicts.filter(~judge.str.contains(TRAJECTORY))
        single = pl.col("winner").filter(~judge.is_in(panels) & pl.col("winner").is_in(VALID))
        by_debate = whole.group_by("debate_id").agg(
            disagree=single.n_unique() > 1,
            inconsistent=pl.col("consistent").not_().any(),
            invalid=(pl.col("winner") == "invalid").any(),
            voted=judge.str.starts_with(HUMAN).any(),
        )
        failed = self.store.frame("failures").select("debate_id").unique().collect().with_columns(failed=True)
        motions = topics.select("topic_id", "motion", "theme")
        for more, on in (
            (motions, "topic_id"),
            (said.group_by("debate_id").agg(pl.col("turns", "words", "trimmed").sum()), "debate_id"),
            (by_debate, "debate_id"),
            (failed, "debate_id"),
        ):
            debates = debates.join(more, on=on, how="left", maintain_order="left")
        flags = [
            (pl.col("trimmed") > 0).fill_null(False).alias("trimmed"),
            *(pl.col(name).fill_null(False) for name in FLAGS[1:]),
        ]
        return debates.with_columns(pl.col("turns", "words").fill_null(0), *flags)

    def _spoken(self) -> pl.DataFrame:
        """Turns, their words, how many have unknown ones, and trimmed turns, by debate and side; only turns that are
        new since the last look are read."""
        for read, rows in self.store.blocks("debate_id, side, words, trimmed", self._read):
            self._read = read
            new = (
                pl.DataFrame(rows, schema=_SPOKEN, orient="row")
                .group_by("debate_id", "side")
                .agg(
                    pl.len().cast(pl.Int64).alias("turns"),
                    pl.col("words", "trimmed").sum(),
                    pl.col("words").null_count().cast(pl.Int64).alias("unknown"),
                )
            )
            self._said = pl.concat([self._said, new])
        self._said = self._said.group_by("debate_id", "side").sum()
        return self._said

    def _boards(
        self, debates: pl.DataFrame, verdicts: pl.DataFrame, judges: tuple[str, ...], spec: Spec
    ) -> dict[str | None, Board]:
        """Each judge's board: the last one, but for its trust, where debates and the judge's verdicts are the same."""
        same = debates.equals(self._debates)
        found: dict[str | None, tuple[pl.DataFrame, Board]] = {}
        for judge in judges or (None,):
            own = verdicts.clear() if judge is None else verdicts.filter(judge=judge)
            known, board = self._boards_of.get(judge, (None, None)) if same else (None, None)
            trust = self._trust(spec, judge)
            if board is None or known is None or not known.equals(own):
                board = _rated(debates, own, judge, spec)
            found[judge] = own, replace(board, trust=trust)
        self._debates, self._boards_of = debates, found
        return {judge: board for judge, (_, board) in found.items()}

    def _trust(self, spec: Spec, judge: str | None) -> tuple[str, ...]:
        from runs.show import aside, home, trust

        try:
            return (*aside(self.folder), *trust(self.out or home(self.folder), spec, judge))
        except InputError as error:
            return (f"the report cards cannot be read: {one_line(str(error))}",)


_SPOKEN = {"debate_id": pl.String, "side": pl.String, "words": pl.Int64, "trimmed": pl.Int64}
_SAID = {"debate_id": pl.String, "side": pl.String} | dict.fromkeys(("turns", "words", "trimmed", "unknown"), pl.Int64)


def background(name: str, step: Callable[[], float], stop: threading.Event) -> threading.Thread:
    """Call `step` in a thread until `stop`, each time after the seconds that it returned."""

    def work() -> None:
        while not stop.wait(step()):
            pass

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _rated(debates: pl.DataFrame, own: pl.DataFrame, judge: str | None, spec: Spec) -> Board:
    """The board by a judge's own verdicts, which is told nothing yet of how far to trust them."""
    names = [str(contestant["name"]) for contestant in spec.contestants]
    board, why = None, ""
    try:
        board = leaderboard(debates, own, judge=judge, contestants=names)
    except (RatingsError, InputError) as error:
        why = one_line(str(error))
    met = win_matrix(debates, own, judge) if len(own) else None
    return Board(judge=judge, board=board, why=why, trust=(), matrix=None if met is None or met.is_empty() else met)


def _judges(verdicts: pl.DataFrame, panels: list[str]) -> tuple[str, ...]:
    known = [judge for judge in verdicts["judge"].unique().sort() if not is_trajectory(judge)]
    return tuple(sorted(known, key=lambda judge: (judge.startswith(HUMAN), judge not in panels, judge)))


def _planned(spec: Spec, begun: int) -> int | None:
    """How many debates the schedule has; None where more were begun, as in a calibration."""
    planned = scheduled(spec)
    return planned if planned >= begun else None
