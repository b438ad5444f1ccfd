"""`python -m arena.screen --topics train --roster roster.toml --judges gpt,qwen`: which motions are one-sided?

Asks judges which side of a motion holds before anyone has spoken, keeps their priors, and flags what is one-sided for
them (`judges/screening.py`). Any judge with an endpoint can be asked; its rubric has no part in it.

A screen is a run under `<out>/screens/` whose debates nobody has spoken in: journal, tables, seal and resuming are a
run's, so an answer is on disk before it counts, and what was paid for once is not asked again. Beside a run's files:

    answers.parquet    every answer; columns as in `judges.screening.answers`
    priors.parquet     a row a topic and judge, and one for all judges; as in `judges.screening.priors`
    kept.txt           ids of the motions that are not one-sided; kept.jsonl where they came from a file

Test topics may be screened: no debate on them is seen, and none gets into training. But to leave out some by what a
screen says is to choose what a result rests on, so that has to be done before any result is seen.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field, ValidationError

import runs
import topics as catalogue
from arena import bench as benches
from arena import format as formats
from arena import plan
from arena import roster as rosters
from arena.asking import Asking
from arena.bench import JudgeEntry
from arena.engine import Engine
from arena.progress import Progress
from arena.roster import Roster, Seats
from arena.run import Count, drive, say_why
from judges.screening import ALL, LEAST, ORDERS, SAMPLES, answers, flagged, priors, table
from runs import NEWEST, OUT, Run
from runs.files import replace_text
from runs.journal import StorageError
from runs.records import Debate, DebateRow, Match, content_id
from runs.run import folders
from runs.settings import Command, explain, parse
from runs.spec import Spec
from runs.tables import is_sealed
from topics import Topic
from topics.errors import InputError, command, one_line

NOBODY = "nobody"
"""Who speaks."""
KEPT = {"name", "family", "lineage", "structured", *Asking.model_fields}
"""Of a judge's entry, what says how its model is asked; the rest is about debates."""
DECISIVE = {"topics", "limit", "roster", "judges", "samples"}


class Settings(Command, cli_prog_name="python -m arena.screen"):
    """Ask judges which side of each motion holds before anyone has spoken."""

    topics: str = "train"
    """train | test | all | ids | a .jsonl or .csv file"""
    limit: Count | None = None
    """the first N of them only"""
    roster: Path | None = None
    """TOML file with judges, panels and their endpoints"""
    judges: list[str] = Field(default=[])
    """names from the roster, of judges that have an endpoint or of panels"""
    samples: Annotated[Count, Field(le=1000)] = SAMPLES
    """answers in each of two orders, of each judge"""
    concurrency: Annotated[Count, Field(le=10_000)] = 256
    """motions at once, for each judge"""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """USD that this may cost in all; then it stops, to be resumed"""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """hours after which it stops, to be resumed"""
    out: Path = OUT
    """where runs are; screens lie under it"""
    resume: str | None = None
    """go on with a screen (default: the newest unfinished one)"""
    config: Path | None = None
    """settings from a TOML file"""
    dry_run: bool = False
    """say what would be asked and what it would cost, and send nothing"""

    @property
    def folder(self) -> Path:
        return self.out / "screens"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a screen came to."""

    folder: Path
    priors: pl.DataFrame | None
    """None where it was stopped."""
    progress: Progress


def screen(settings: Settings) -> Result:
    """Screen motions; returns when the priors are written, or it was stopped.

    Raises `InputError` for wrong input, and `StorageError` where the screen cannot be written.
    """
    with _opened(settings) as (held, seats):
        _fill(held)
        engine = Engine(
            held,
            held.journal.complete(),
            {},
            benches.bench(held.spec, seats.lines, lambda call: engine.book(call)),
            concurrency=settings.concurrency,
            again=again(held.folder),
        )
        finished = drive(engine, seats.lines, max_cost=settings.max_cost, max_hours=settings.max_hours)
        found = None
        if finished:
            said = answers(runs.load(held.folder))
            found = priors(said)
            _keep(held, said, found)
            held.seal()
        return Result(folder=held.folder, priors=found, progress=engine.progress)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────


def planned(settings: Settings, stored: Spec | None = None) -> tuple[Spec, list[Topic]]:
    """The spec that `settings` come to, and its topics. What was not given is taken from a `stored` spec; where that
    covers the topics, they are not looked up."""
    given = settings.model_fields_set
    stated = settings.model_dump(mode="json", include=DECISIVE, exclude_unset=stored is not None)
    if stored is not None:
        stated = stored.settings | stated
        try:
            settings = Settings.model_validate(stated)
        except ValidationError as error:
            raise InputError(f"the screen's spec.json cannot be used: {explain(error)}") from None
    anew = stored is None or given & {"topics", "limit"}
    roster = rosters.load(settings.roster) if stored is None or "roster" in given else rosters.stored_roster(stored)
    topics = catalogue.load(settings.topics)[: settings.limit] if anew else []
    if not any(settings.judges):
        raise InputError(f"no judges named; expected --judges with names of the roster: {_who(roster)}")
    entries, panels = benches.named(settings.judges, roster.judges, roster.panels)
    judges = [_screener(entry, settings.samples, roster) for entry in entries]
    asked = {judge["endpoint"] for judge in judges}
    slots = formats.load("standard")
    spec = Spec(
        seed=0,
        topics={topic.topic_id: topic.digest for topic in topics} if anew or stored is None else stored.topics,
        format=slots,
        opener=slots[0].side,
        matches=None,
        replicates=1,
        contestants=(),
        endpoints=tuple(endpoint.model_dump(mode="json") for endpoint in roster.endpoints if endpoint.name in asked),
        judges=tuple(judges),
        panels=tuple(panel.model_dump(mode="json") for panel in panels),
        settings=stated,
    )
    return spec, topics


def _screener(entry: JudgeEntry, samples: int, roster: Roster) -> dict[str, Any]:
    """A judge's entry as a screen stores it: its model asked about motions."""
    if entry.name == ALL:
        raise InputError(f"judge {ALL!r}: the name stands for all judges together here; give it another one")
    if entry.asking is None:
        what = f"judge {entry.name!r} asks no model, so it has no view of a motion that nobody has debated"
        raise InputError(f"{what}; expected judges of the roster that have an endpoint: {_who(roster)}")
    kept = {name: value for name, value in entry.model_dump(exclude_unset=True).items() if name in KEPT}
    asked = JudgeEntry.model_validate(kept | {"kind": "judges.screening:Screener", "samples": samples})
    return asked.resolved({endpoint.name: endpoint for endpoint in roster.endpoints})


def _who(roster: Roster) -> str:
    names = [judge.name for judge in roster.judges if judge.asking] + [panel.name for panel in roster.panels]
    return ", ".join(names) or "it has none with an endpoint; name one with --roster FILE"


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Run, Seats]]:
    """A new screen, or the one to go on with, its stored settings compared with what was given; and how to ask.

    Whoever cannot be asked is refused before anything is written.
    """
    if settings.resume is None:
        spec, topics = planned(settings)
        with (
            rosters.seats(spec, settings.out, plays=False) as seats,
            Run.create(spec, topics, settings.folder) as held,
        ):
            yield held, seats
        return
    with Run.resume(_find(settings)) as held:
        spec, _ = planned(settings, held.spec)
        different = held.spec.differences(spec)
        if (spec.judges, spec.panels) != (held.spec.judges, held.spec.panels):
            different.append("judges or samples")
        if different:
            raise InputError(
                f"{str(held.folder)!r} was started with other {', '.join(different)}; "
                f"resume it without these settings, or start a new screen without --resume"
            )
        with rosters.seats(spec, settings.out, plays=False) as seats:
            held.keep(spec)
            yield held, seats


def _find(settings: Settings) -> Path:
    """The folder that `--resume` names."""
    assert settings.resume is not None
    if settings.resume == NEWEST and all(map(is_sealed, folders(settings.folder))):
        start = "start one: python -m arena.screen --roster FILE --judges A,B"
        raise InputError(f"no unfinished screen under {str(settings.folder)!r}; {start}")
    folder = runs.find(settings.resume, out=settings.folder, sealed=False)
    if not Spec.read(folder).settings.keys() <= DECISIVE:
        raise InputError(f"{str(folder)!r} is a run, but no screen; expected a folder under {str(settings.folder)!r}")
    return folder


def _debates(spec: Spec, topics: Iterable[Topic]) -> Iterator[Debate]:
    """A debate on each motion, in which nobody speaks."""
    for place, topic in enumerate(topics):
        match = Match(
            debate_id=content_id("screen", topic.topic_id),
            match=place,
            topic_id=topic.topic_id,
            for_contestant=NOBODY,
            against_contestant=NOBODY,
            opener="for",
            replicate=0,
            seed=0,
        )
        yield Debate(match=match, topic=topic, slots=spec.format)


def _fill(held: Run) -> None:
    """Write those debates, in one transaction, where they are not there yet."""
    if held.journal.statuses():
        return
    now = datetime.now(UTC)
    debates = _debates(held.spec, held.topics.values())
    rows = [DebateRow.of(debate, "complete", started_at=now, ended_at=now) for debate in debates]
    asyncio.run(held.journal.write(*rows))


# ── what comes of it ─────────────────────────────────────────────────────────────────────────────


def _keep(held: Run, said: pl.DataFrame, found: pl.DataFrame) -> None:
    """Write answers, priors and what is left to play."""
    left_out = set(flagged(found)["topic_id"])
    kept = [held.topics[topic] for topic in held.spec.topics if topic not in left_out]
    try:
        for name, frame in (("answers", said), ("priors", found)):
            fresh = held.folder / f".{name}.parquet.new"
            frame.write_parquet(fresh)
            fresh.replace(held.folder / f"{name}.parquet")
        if any(topic.split == "custom" for topic in kept):
            rows = (json.dumps(topic.model_dump(mode="json"), ensure_ascii=False) for topic in kept)
            replace_text(held.folder / "kept.jsonl", "\n".join(rows) + "\n")
        elif kept:
            replace_text(held.folder / "kept.txt", ",".join(topic.topic_id for topic in kept) + "\n")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"the priors could not be written: {one_line(str(error))}") from None


def again(folder: Path) -> str:
    """The command that goes on."""
    return f"python -m arena.screen --resume {shlex.quote(str(folder))}"


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv, optional={"resume": NEWEST})
    if settings.dry_run:
        return _dry_run(settings)
    if settings.resume is not None and is_sealed(folder := _find(settings)):
        print(f"screen {folder.name} is already finished; its priors: {folder / 'priors.parquet'}")
        return 0
    try:
        result = screen(settings)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result.priors is not None:
        _report(result.folder, result.priors, result.progress)
        return 0
    say_why(result.progress)
    print(f"stopped; go on with: {again(result.folder)}", file=sys.stderr)
    return 1


def _dry_run(settings: Settings) -> int:
    """Say what a screen would ask."""
    if settings.resume is not None:
        raise InputError("--dry-run plans a new screen; it cannot be combined with --resume")
    spec, topics = planned(settings)
    each = len(spec.judges) * len(ORDERS) * settings.samples
    names = ", ".join(entry["name"] for entry in spec.judges)
    print(f"{len(topics):,} motions, {each} answers on each, of {names}")
    sample = list(_debates(spec, topics[: plan.SAMPLE]))
    for line in plan.judged(spec, {entry["name"]: (len(topics), sample) for entry in spec.judges}):
        print(line)
    if each < LEAST * len(ORDERS):
        print(f"note:  {_too_few()}")
    print(f"would write a new folder under {settings.folder}; nothing was sent. To ask: the same without --dry-run")
    return 0


def _report(folder: Path, found: pl.DataFrame, progress: Progress) -> None:
    """Print what is one-sided, what was written and what to type next."""
    together = found.filter(judge=ALL)
    if text := table(found):
        print(text, end="\n\n")
    said, invalid = together["answers"].sum(), together["invalid"].sum()
    print(f"wrote {folder}: {said:,} answers and {invalid:,} invalid ones, for {progress.paid}")
    print(f"{flagged(found).height:,} of {together.height:,} motions are one-sided for these judges")
    if few := together.filter(one_sided="too_few").height:
        print(f"note:  {few:,} motions have too few answers: {_too_few()}")
    spec = Spec.read(folder)
    held_out = {topic.topic_id for topic in catalogue.load("test")} & set(spec.topics)
    if held_out:
        print(f"note:  {len(held_out)} test topics are held out; leave some out before any result is seen, not after")
    print(f"next:  {_next(folder)}")


def _too_few() -> str:
    return f"a flag takes {LEAST} valid ones in each order; ask more with --samples, or more judges"


def _next(folder: Path) -> str:
    if (folder / "kept.jsonl").is_file():
        return f"python -m arena.run --topics {shlex.quote(str(folder / 'kept.jsonl'))}"
    if (folder / "kept.txt").is_file():
        return f'python -m arena.run --topics "$(cat {shlex.quote(str(folder / "kept.txt"))})"'
    return "every motion is one-sided for these judges; screen others, with --topics"


if __name__ == "__main__":
    sys.exit(main())
