"""`python -m arena.calibrate --judge NAME`: how far a judge can be trusted, as a report card.

Debates are made of those of a run, so that it is known how a good judge takes them (`judges/calibration.py`), the judge
is asked about each in both orders, twice or as often as its entry says, and what its votes say is printed and stored
(`judges/report_card.py`, `runs/cards.py`). A judge below its gates can still be used; leaderboards say so.

A calibration is a run under `runs/out/calibrations/` whose debates were made and not played: journal, tables and seal
are a run's, and so is going on after it was stopped. From code:

    result = calibrate(Settings(judge="gpt", roster=Path("roster.toml")))
    result.card
"""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import polars as pl
from pydantic import Field

import runs
from arena import bench as benches
from arena import cases, plan
from arena import roster as rosters
from arena.asking import Unasked
from arena.bench import JudgeEntry
from arena.cases import Material, fill, material
from arena.engine import Engine
from arena.line import Lines
from arena.progress import Progress
from arena.run import Count, drive, report_raised, say_why
from judges import Judge
from judges.report_card import card, gates
from runs import NEWEST, OUT, Run
from runs import cards as stored
from runs.cards import Card
from runs.costs import paid
from runs.journal import StorageError
from runs.records import Debate, Order, Vote
from runs.run import folders
from runs.settings import Command, parse
from runs.spec import Spec
from topics.errors import InputError, command

ORDERS: tuple[Order, ...] = get_args(Order)
LEAST_SAMPLES = 2
"""Votes in an order that it takes to see whether a judge repeats itself."""


class Settings(Command, cli_prog_name="python -m arena.calibrate"):
    """Measure a judge on debates made for it: its report card."""

    judge: str = ""
    """a name from the roster or the run, built-in, or module:Class"""
    roster: Path | None = None
    """TOML file with the judge and its endpoint (default: those of the run)"""
    from_run: str = NEWEST
    """whose debates are taken: folder or id (default: the newest finished run)"""
    limit: Count = 60
    """topics at most"""
    each: Annotated[int, Field(ge=1, le=100)] = 1
    """debates of a topic that are taken as they are; about eight are made of each"""
    seed: int = 0
    """which topics, debates and sides are taken"""
    gates: dict[str, float] = Field(default={})
    """limits in place of the usual ones: known_answers=0.8,invalid_rate=0.05"""
    concurrency: Annotated[Count, Field(le=10_000)] = 256
    """debates at once"""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """USD that this may cost in all; then it stops, to be resumed"""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """hours after which it stops, to be resumed"""
    out: Path = OUT
    """where runs are; calibrations lie under it"""
    resume: str | None = None
    """go on with a calibration (default: the newest unfinished one)"""
    config: Path | None = None
    """settings from a TOML file"""
    dry_run: bool = False
    """say what would be asked and what it would cost, and send nothing"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a calibration came to."""

    folder: Path
    card: Card | None
    """None where it was stopped."""
    progress: Progress


DECIDED = ("judge", "roster", "from_run", "limit", "each", "seed")
"""Settings that stay as they are when a calibration is resumed."""


def calibrate(settings: Settings) -> Result:
    """Calibrate a judge; returns when its card is written, or it was stopped.

    Raises `InputError` for wrong input, and `StorageError` where the calibration cannot be written.
    """
    with _opened(settings) as (held, lines):
        bench = benches.bench(held.spec, lines, lambda call: engine.book(call))
        engine = Engine(
            held,
            list(held.journal.complete()),
            {},
            replace(bench, judges=[Thorough(judge) for judge in bench.judges]),
            concurrency=settings.concurrency,
            again=_again(held.folder),
        )
        finished = drive(engine, lines, max_cost=settings.max_cost, max_hours=settings.max_hours)
        made = None
        if finished:
            held.seal()
            made = _carded(held, held.spec.settings["gates"] | settings.gates)
        return Result(folder=held.folder, card=made, progress=engine.progress)


class Thorough:
    """A judge that is asked in both orders, and at least twice in each, whatever it would be asked otherwise."""

    orders = ORDERS

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.name = judge.name
        self.samples = max(LEAST_SAMPLES, judge.samples)

    async def vote(self, debate: Debate, order: Order, sample: int) -> Vote:
        """Its judge's vote."""
        return await self.judge.vote(debate, order, sample)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────


def prepared(settings: Settings) -> tuple[Spec, Material]:
    """The spec that `settings` come to, everything that is named looked up, and the cases that will be judged."""
    folder = runs.find(settings.from_run, out=settings.out, sealed=True)
    limits = {name: gate.limit for name, gate in gates(settings.gates).items()}
    judge, endpoints = _judge(settings, Spec.read(folder))
    made = material(folder, seed=settings.seed, limit=settings.limit, each=settings.each)
    stated = settings.model_dump(mode="json", include=set(DECIDED)) | {"gates": limits, "from_run": str(folder)}
    spec = Spec(
        seed=settings.seed,
        topics={topic.topic_id: topic.digest for topic in made.topics},
        format=made.source.format,
        opener=made.source.opener,
        matches=None,
        replicates=1,
        contestants=made.source.contestants,
        endpoints=endpoints,
        judges=(judge,),
        settings=stated | {"judges": [settings.judge]},
    )
    return spec, made


def _judge(settings: Settings, source: Spec) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """The judge's entry, asked in both orders and twice where its kind can be told so, and its endpoint's."""
    if not settings.judge:
        raise InputError("no judge named; expected --judge with a name from the roster, rules, or module:Class")
    roster = rosters.load(settings.roster) if settings.roster else rosters.stored_roster(source)
    (entry, *_), panels = benches.named([settings.judge], roster.judges, roster.panels)
    if panels:
        raise InputError(
            f"{settings.judge!r} is a panel; calibrate its members one by one: {', '.join(panels[0].members)}"
        )
    endpoints = {endpoint.name: endpoint for endpoint in roster.endpoints}
    resolved = _twice(entry).resolved(endpoints)
    asked = (endpoint for name, endpoint in endpoints.items() if name == resolved.get("endpoint"))
    return resolved, tuple(endpoint.model_dump(mode="json") for endpoint in asked)


def _twice(entry: JudgeEntry) -> JudgeEntry:
    """An entry with the orders and samples of a calibration, so that the plan knows them; as it is where its kind takes
    no such settings (`Thorough` asks all the same)."""
    entry = entry.model_copy(update={"trajectory": False})
    ask = Unasked() if entry.asking else None
    samples = max(LEAST_SAMPLES, entry.make(ask).samples)
    told = entry.model_copy(update={"orders": list(ORDERS), "samples": samples})
    try:
        told.make(ask)
    except InputError:
        return entry
    return told


# ── the run that it is ───────────────────────────────────────────────────────────────────────────


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Run, Lines]]:
    """A new calibration, or the one to go on with, its debates written; and the lines by which its judge asks.

    Who cannot be asked is refused before anything is written.
    """
    if settings.resume is None:
        spec, made = prepared(settings)
        with (
            rosters.seats(spec, settings.out, plays=False) as seats,
            Run.create(spec, made.topics, settings.out / stored.FOLDER) as held,
        ):
            fill(held, made)
            yield held, seats.lines
        return
    with Run.resume(_which(settings)) as held:
        _compare(settings, held)
        with rosters.seats(held.spec, settings.out, plays=False) as seats:
            if not any(held.journal.complete()):
                kept = held.spec.settings
                fill(held, material(Path(kept["from_run"]), **{name: kept[name] for name in ("seed", "limit", "each")}))
            yield held, seats.lines


def _compare(settings: Settings, held: Run) -> None:
    """Refuse settings that are not those with which a calibration was started."""
    if "gates" not in held.spec.settings:
        raise InputError(f"{str(held.folder)!r} is no calibration; expected a folder under {stored.FOLDER}")
    gates(settings.gates)
    given = settings.model_dump(mode="json", include=settings.model_fields_set & set(DECIDED))
    if different := [name for name, value in given.items() if value != held.spec.settings[name]]:
        raise InputError(
            f"{str(held.folder)!r} was started with another {', '.join(different)}; resume it without these settings, "
            f"or start a new calibration without --resume"
        )


def _which(settings: Settings) -> Path:
    """The folder that `--resume` names."""
    out = settings.out / stored.FOLDER
    if settings.resume != NEWEST:
        return runs.find(str(settings.resume), out=out)
    unfinished = next((folder for folder in folders(out) if not stored.is_there(folder)), None)
    if unfinished is None:
        raise InputError(
            f"no unfinished calibration under {str(out)!r}; start one: python -m arena.calibrate --judge NAME"
        )
    return unfinished


def _carded(held: Run, limits: Mapping[str, float]) -> Card:
    """The card of a calibration whose votes are all there, written."""
    loaded = runs.load(held.folder)
    judge = held.spec.judges[0]
    table = card(
        pl.read_parquet(held.folder / cases.NAME, glob=False),
        loaded.votes.collect(),
        loaded.verdicts.collect(),
        loaded.calls.with_columns(paid(held.spec)).collect(),
        judge=judge["name"],
        gates=gates(limits),
        seed=held.spec.seed,
    )
    return stored.write(held.folder, table, judge=judge, from_run=held.spec.settings["from_run"])


# ── the command ──────────────────────────────────────────────────────────────────────────────────


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv, optional={"from_run": NEWEST, "resume": NEWEST})
    if settings.dry_run:
        return _dry_run(settings)
    if settings.resume is not None and stored.is_there(folder := _which(settings)):
        print(f"{stored.render(stored.read(folder))}\ncalibration {folder.name} is already finished")
        return 0
    try:
        result = calibrate(settings)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return _report(result) if result.card else _stopped(result)


def _again(folder: Path) -> str:
    return shlex.join(["python", "-m", "arena.calibrate", "--resume", str(folder)])


def _stopped(result: Result) -> int:
    """Say why there is no card yet, and how to go on."""
    progress = result.progress
    say_why(progress)
    print(f"stopped after {progress.verdicts:,} verdicts; go on with: {_again(result.folder)}", file=sys.stderr)
    return 1


def _report(result: Result) -> int:
    """Print the card, what was written and what to type next; 1 where the judge is broken."""
    assert result.card is not None
    made, loaded = result.card, runs.load(result.folder)
    name = made.judge["name"]
    print(stored.render(made))
    mark = stored.mark(made)
    print(f"\n{name}: {mark}: leaderboards will say so" if mark else f"\n{name} passes all its gates")
    debates, votes = (frame.select(pl.len()).collect().item() for frame in (loaded.debates, loaded.votes))
    print(f"wrote {result.folder}: {debates:,} debates, {votes:,} votes, the card as {stored.NAME} and {stored.TABLE}")
    roster = Spec.read(result.folder).settings["roster"]
    words = ["--from-run", made.from_run, "--judges", name, *(["--roster", roster] if roster else [])]
    print(f"next:  {shlex.join(['python', '-m', 'arena.judge', *words])}")
    return report_raised(result.progress)


def _dry_run(settings: Settings) -> int:
    """Say what would be asked."""
    if settings.resume is not None:
        raise InputError("--dry-run plans a new calibration; it cannot be combined with --resume")
    spec, made = prepared(settings)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in Counter(case.kind for case in made.cases).items())
    print(f"{len(made.cases):,} debates on {len(made.topics):,} topics of {spec.settings['from_run']}: {kinds}")
    judge = benches.bench(spec, None).judges[0]
    print(f"{len(made.cases) * len(ORDERS) * Thorough(judge).samples:,} votes")
    step = max(1, len(made.cases) // plan.SAMPLE)
    sample = [case.debate for case in made.cases[::step][: plan.SAMPLE]]
    for line in plan.judged(spec, {judge.name: (len(made.cases), sample)}):
        print(line)
    print(f"would write a new folder under {settings.out / stored.FOLDER}; nothing was sent")
    return 0


if __name__ == "__main__":
    sys.exit(main())
