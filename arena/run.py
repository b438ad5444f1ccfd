"""`python -m arena.run --topics train`: contestants debate, judges decide, the run is stored and rated.

With no roster given, six simulated contestants debate and the rules judge decides, offline and at no cost. A run
that was stopped, however, goes on where it was with `--resume`: at the exact turn and the exact vote. From code:

    result = run(Settings(topics="train", limit=100))
"""

import asyncio
import os
import shlex
import signal
import sys
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import polars as pl
from pydantic import BaseModel, Field, ValidationError

import runs
import topics as catalogue
from arena import bench as benches
from arena import format as formats
from arena import plan
from arena import roster as rosters
from arena.batch import refuse_sent
from arena.engine import Engine
from arena.line import Lines
from arena.progress import Progress, shown
from arena.roster import Seats
from arena.schedule import schedule
from runs import NEWEST, OUT, Run
from runs.journal import StorageError
from runs.records import Match, Opener
from runs.settings import Command, explain, parse
from runs.spec import Spec
from runs.tables import is_sealed
from topics import Topic
from topics.errors import InputError, command

Count = Annotated[int, Field(ge=1, le=10**9)]


class Settings(Command, cli_prog_name="python -m arena.run"):
    """Play debates, have them judged, store and rate them."""

    topics: str = "train"
    """train | test | all | ids | a .jsonl or .csv file"""
    roster: Path | None = None
    """TOML file with contestants and judges (default: six simulated)"""
    contestants: list[str] | None = None
    """names from the roster (default: all)"""
    judges: list[str] = Field(default=["rules"])
    """names from the roster, built-in, or module:Class (default: rules)"""
    format: str = "standard"
    """the slots: a name, or a .toml file"""
    opener: Opener | None = None
    """side that speaks first (default: as in the format)"""
    matches: Count | None = None
    """per topic (default: every pair on both sides)"""
    replicates: Count = 1
    """how often each match is played"""
    seed: int = 0
    """everything is drawn from it"""
    limit: Count | None = None
    """the first N matches of the schedule only"""
    concurrency: Annotated[Count, Field(le=10_000)] = 256
    """debates at once"""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """USD that the run may cost in all; then it stops, to be resumed"""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """hours after which it stops, to be resumed"""
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.5
    """share of void debates that parks a contestant"""
    out: Path = OUT
    """where runs are made"""
    resume: str | None = None
    """go on with a run (default: the newest unfinished one)"""
    config: Path | None = None
    """settings from a TOML file or a run's spec.json"""
    dry_run: bool = False
    """say what would be played, and write nothing"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to."""

    folder: Path
    sealed: bool
    progress: Progress
    rows: dict[str, int]
    """Rows of each table, once sealed."""


NOT_STORED = {"resume", "config", "dry_run", "out"}


def resolve(settings: Settings, stored: Spec | None = None, out: Path | None = None) -> tuple[Spec, list[Topic]]:
    """The spec that `settings` come to, and its topics, with everything that is named looked up.

    What was not given is taken from a `stored` spec; where that covers the topics, they are not looked up. `out` is
    where the run lies or will lie, adapters beside it (default: as in the settings).
    """
    given, out = settings.model_fields_set, out or settings.out
    stated = settings.model_dump(mode="json", exclude=NOT_STORED, exclude_unset=stored is not None)
    if stored is not None:
        stated = stored.settings | stated
        settings = _valid(Settings, stated)
    roster = rosters.load(settings.roster) if stored is None or "roster" in given else rosters.stored_roster(stored)
    topics = catalogue.load(settings.topics) if stored is None or "topics" in given else []
    slots = formats.load(settings.format) if stored is None or "format" in given else stored.format
    seated = rosters.seated(roster, settings.contestants)
    spec = Spec(
        seed=settings.seed,
        topics={topic.topic_id: topic.digest for topic in topics} if stored is None or topics else stored.topics,
        format=slots,
        opener=settings.opener or slots[0].side,
        matches=settings.matches,
        replicates=settings.replicates,
        contestants=tuple(rosters.resolved(c, roster.endpoints, out) for c in sorted(seated, key=lambda c: c.name)),
        settings=stated,
        **rosters.judging(roster, settings.judges, seated=seated, stored=stored),
    )
    return spec, topics


M = TypeVar("M", bound=BaseModel)


def _valid(model: type[M], stored: dict[str, Any]) -> M:
    """What a run has stored, checked again: it may have been changed by hand."""
    try:
        return model.model_validate(stored)
    except ValidationError as error:
        raise InputError(f"the run's spec.json cannot be used: {explain(error)}") from None


def run(settings: Settings) -> Result:
    """Play what `settings` ask for; returns when the run is sealed or was stopped.

    Raises `InputError` for wrong input, and `StorageError` where the run cannot be written.
    """
    with _opened(settings) as (held, seats):
        stated = _valid(Settings, held.spec.settings)
        engine = Engine(
            held,
            scheduled(held.spec, begun=held.journal.statuses()),
            seats.contestants,
            benches.bench(held.spec, seats.lines, lambda call: engine.book(call)),
            concurrency=stated.concurrency,
            max_failed=stated.max_failed,
            again=_resume(held.folder),
        )
        finished = drive(engine, seats.lines, max_cost=stated.max_cost, max_hours=stated.max_hours)
        try:
            rows = {name: table["rows"] for name, table in held.seal()["tables"].items()} if finished else {}
        except StorageError as error:
            raise StorageError(f"{error}; free some disk, then: {_resume(held.folder)}") from None
        return Result(folder=held.folder, sealed=finished, progress=engine.progress, rows=rows)


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Run, Seats]]:
    """A new run, or the one to go on with, its stored spec compared with what was given; and its contestants.

    They are seated first: whoever cannot be is refused before anything is written.
    """
    if settings.resume is None:
        spec, topics = resolve(settings)
        _fed_back(settings.config, spec)
        next(_schedule(spec))  # refuses what cannot be scheduled
        with (
            rosters.seats(spec, settings.out) as seats,
            Run.create(spec, topics, settings.out) as held,
        ):
            yield held, seats
        return
    folder = runs.find(settings.resume, out=settings.out, sealed=False)
    with Run.resume(folder) as held:
        spec, _ = resolve(settings, held.spec, folder.parent)
        if different := held.spec.differences(spec):
            raise InputError(
                f"{str(folder)!r} was started with another {', '.join(different)}; "
                f"resume it without these settings, or start a new run without --resume"
            )
        refuse_sent(folder, (judge.name for judge in benches.seated(spec)[0]))
        with rosters.seats(spec, folder.parent) as seats:
            held.keep(spec)
            yield held, seats


def _fed_back(config: Path | None, spec: Spec) -> None:
    """Refuse a run's spec.json whose settings mean something else by now: its roster, format or topics changed."""
    if config is None or config.suffix != ".json":
        return
    stored = Spec.read(config)
    behind = {"contestants": ("roster", "contestants")}
    for key in stored.differences(spec):
        if all(spec.settings.get(name) == stored.settings.get(name) for name in behind.get(key, (key,))):
            raise InputError(f"the {key} that {str(config)!r} names are not those it was made with; name them anew")


def scheduled(spec: Spec, begun: Container[str] = ()) -> list[Match]:
    """The matches of a spec up to its limit, and those behind it that were begun under an earlier limit."""
    limit = spec.settings.get("limit")
    matches = _schedule(spec) if begun else islice(_schedule(spec), limit)
    return [match for match in matches if limit is None or match.match < limit or match.debate_id in begun]


def _schedule(spec: Spec) -> Iterator[Match]:
    return schedule(
        list(spec.topics),
        [contestant["name"] for contestant in spec.contestants],
        seed=spec.seed,
        matches=spec.matches,
        replicates=spec.replicates,
        opener=spec.opener,
    )


def drive(engine: Engine, lines: Lines, *, max_cost: float | None, max_hours: float | None) -> bool:
    """Run an engine to its end, or until it is stopped; True when nothing is left."""
    lines.tail, engine.on_stop = lambda: engine.tail, lines.stop
    lines.budget.spent, lines.budget.unknown = engine.progress.cost_usd, engine.progress.unknown_usd
    lines.budget.most = max_cost
    try:
        return asyncio.run(_drive(engine, lines, max_hours))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return False
    except StorageError as error:
        raise StorageError(f"{error}; free some disk, then: {engine.again}") from None


async def _drive(engine: Engine, lines: Lines, max_hours: float | None) -> bool:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    if threading.current_thread() is threading.main_thread():  # others cannot have signals
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _interrupt, engine, task)
    if max_hours is not None:
        loop.call_later(3600 * max_hours, engine.stop, f"--max-hours {max_hours:g} are over")
    try:
        async with shown(engine.progress):
            return await engine.play_all()
    finally:
        await lines.close()


def _interrupt(engine: Engine, task: asyncio.Task[bool]) -> None:
    """The first signal finishes what is in flight, the second cancels it, the third does not wait for anybody."""
    if task.cancelling():
        print(f"stopped; go on with: {engine.again}", file=sys.stderr, flush=True)
        os._exit(1)  # the journal is whole at any moment
    if engine.progress.stopping:
        task.cancel()
    else:
        engine.stop()
        print("stopping: finishing what is in flight; Ctrl-C again stops at once", file=sys.stderr, flush=True)


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv, optional={"resume": NEWEST})
    if settings.dry_run:
        return _dry_run(settings)
    if settings.resume is not None and (folder := _finished(settings)):
        print(f"run {folder.name} is already finished; its leaderboard: python -m runs.show {folder}")
        return 0
    try:
        result = run(settings)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not result.sealed:
        say_why(result.progress)
        done = f"{result.progress.done:,} of {result.progress.debates:,} debates played"
        print(f"stopped with {done}; go on with: {_resume(result.folder)}", file=sys.stderr)
        return 1
    return _report(result)


def say_why(progress: Progress) -> None:
    """Say why a sitting did not come to its end."""
    for name, why in (*progress.parked.items(), *progress.absent.items()):
        print(f"parked: {name}: {why}", file=sys.stderr)
    if progress.stopped:
        print(f"stopped: {progress.stopped}", file=sys.stderr)


def _resume(folder: Path) -> str:
    return f"python -m arena.run --resume {shlex.quote(str(folder))}"


def _finished(settings: Settings) -> Path | None:
    """The folder that `--resume` names, if that run is sealed already."""
    if settings.resume in (None, NEWEST):
        return None
    folder = runs.find(settings.resume, out=settings.out)
    return folder if is_sealed(folder) else None


def _dry_run(settings: Settings) -> int:
    """Say what a run would be, having looked up everything that it names."""
    if settings.resume is not None:
        raise InputError("--dry-run plans a new run; it cannot be combined with --resume")
    spec, topics = resolve(settings)
    matches = scheduled(spec)
    topic_count = f"{len({match.topic_id for match in matches})} of {len(topics)} topics"
    print(f"{len(matches):,} debates on {topic_count}, {len(spec.contestants)} contestants, seed {spec.seed}")
    for line in plan.told(spec, topics, matches):
        print(line)
    print(f"would write a new folder under {settings.out}; nothing was written. To play: the same without --dry-run")
    return 0


def _report(result: Result) -> int:
    """Print the leaderboard, what was written and what to type next; 1 where a judge is broken."""
    from runs import show

    tables = runs.load(result.folder)
    print(show.leaderboards(tables))
    counts = ", ".join(f"{result.rows[name]:,} {name}" for name in ("debates", "turns", "verdicts", "failures"))
    print(f"\nwrote {result.folder}: {counts}; {result.progress.void:,} debates are void")
    debates = tables.debates.collect()
    if held_out := debates.filter(pl.col("split") == "test")["topic_id"].n_unique():
        print(f"note:  {held_out} test topics are held out; this run was a look at them, and counts as one")
    print(f"next:  python -m runs.show {result.folder} {debates['debate_id'][0]}")
    return report_raised(result.progress)


def report_raised(progress: Progress) -> int:
    """Name the judges that raised, which is a fault of theirs; 1 where there is one."""
    for judge, (count, first) in progress.raised.items():
        votes = f"{count:,} votes, which are" if count > 1 else "1 vote, which is"
        what = f"judge {judge!r} raised on {votes} invalid; the turns are stored. First: {first}"
        print(f"error: {what}", file=sys.stderr)
    return 1 if progress.raised else 0


if __name__ == "__main__":
    sys.exit(main())
