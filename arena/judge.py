"""`python -m arena.judge --from-run [RUN] --judges gpt,qwen`: further verdicts on debates that are stored.

Judges and panels are those of a roster, of the run itself, or built in. Only votes that are missing are asked for, each
is stored as it comes, and the tables of a sealed run are written again at the end, as its next generation. Stopped,
however, the same command goes on where it was. `--batch` sends the votes through the batch API of their endpoints,
which takes up to a day and costs half as much at the big providers (`arena/batch.py`). From code:

    result = judge(Settings(from_run="runs/out/20261125-170000-000000", judges=["gpt"], roster=Path("roster.toml")))
"""

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

import runs
from arena import bench as benches
from arena import plan
from arena import roster as rosters
from arena.batch import DEBATES, Batches, refuse_sent
from arena.engine import Engine
from arena.progress import Progress
from arena.run import Count, drive, report_raised, say_why
from runs import NEWEST, OUT, Run
from runs.journal import StorageError
from runs.records import Match
from runs.settings import Command, parse
from runs.spec import Spec
from runs.tables import is_sealed
from topics.errors import command


class Settings(Command, cli_prog_name="python -m arena.judge"):
    """Have the stored debates of a run judged by further judges."""

    from_run: str = NEWEST
    """a run, by folder or id; newest: the newest finished one"""
    judges: list[str] = Field(default=[])
    """names from the roster or the run, built-in, or module:Class"""
    roster: Path | None = None
    """TOML file with judges, panels and their endpoints (default: those of the run)"""
    batch: bool = False
    """ask through the batch API: half the price, up to a day"""
    concurrency: Annotated[Count, Field(le=10_000)] = 256
    """debates at once, for each judge"""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """USD that this may cost; then it stops, to be gone on with"""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """hours after which it stops, to be gone on with"""
    out: Path = OUT
    """where runs are"""
    dry_run: bool = False
    """say what would be asked and what it would cost, and send nothing"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What judging came to."""

    folder: Path
    finished: bool
    """Nothing is owed any more."""
    progress: Progress


def reseated(stored: Spec, settings: Settings) -> tuple[Spec, Spec]:
    """The spec of this sitting, and the one that the run keeps: every judge that it ever seated."""
    roster = rosters.load(settings.roster) if settings.roster else rosters.stored_roster(stored)
    changes = rosters.judging(roster, settings.judges, stored=stored)
    before = stored.settings.get("judges") or ["rules"]
    names = list(dict.fromkeys([*before, *settings.judges]))
    kept = stored.model_copy(update=changes | {"settings": stored.settings | {"judges": names}})
    return kept.model_copy(update={"settings": stored.settings | {"judges": settings.judges}}), kept


def judge(settings: Settings) -> Result:
    """Have debates judged; returns when all votes are there, or it was stopped.

    Raises `InputError` for wrong input, and `StorageError` where the run cannot be written.
    """
    folder = runs.find(settings.from_run, out=settings.out, sealed=True)
    sealed = is_sealed(folder)
    with Run.resume(folder) as held, ExitStack() as stack:
        sitting, kept = reseated(held.spec, settings)
        batches = Batches(folder) if settings.batch else None
        matches = list(held.journal.complete())
        if batches is None:
            refuse_sent(folder, owing(held, sitting, matches))
        seats = stack.enter_context(rosters.seats(sitting, folder.parent, plays=False))
        held.keep(kept)
        engine = Engine(
            held,
            matches,
            {},
            benches.bench(sitting, seats.lines, lambda call: engine.book(call), batches.over if batches else None),
            concurrency=max(settings.concurrency, DEBATES if batches else 0),
            all_at_once=settings.batch,
            again=again(folder, settings),
        )
        most = None if settings.max_cost is None else engine.progress.most_usd + settings.max_cost
        finished = drive(engine, seats.lines, max_cost=most, max_hours=settings.max_hours)
        if batches and finished:
            batches.forget()
        if sealed:
            held.seal()
        return Result(folder=folder, finished=finished, progress=engine.progress)


def owing(held: Run, sitting: Spec, matches: Sequence[Match]) -> list[str]:
    """The judges of a sitting that have no verdict yet on some of the debates."""
    judged = held.journal.judged()
    names = [judge.name for judge in benches.bench(sitting, None).judges]
    return [name for name in names if any((match.debate_id, name) not in judged for match in matches)]


def again(folder: Path, settings: Settings) -> str:
    """The command that goes on."""
    words = ["--from-run", str(folder), "--judges", ",".join(settings.judges)]
    words += ["--roster", str(settings.roster)] if settings.roster else []
    given = settings.model_fields_set & {"concurrency", "max_cost", "max_hours"}
    words += [word for name in sorted(given) for word in (f"--{name.replace('_', '-')}", str(getattr(settings, name)))]
    return shlex.join(["python", "-m", "arena.judge", *words, *(["--batch"] if settings.batch else [])])


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv, optional={"from_run": NEWEST})
    if settings.dry_run:
        return _dry_run(settings)
    try:
        result = judge(settings)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    progress = result.progress
    print(f"wrote {result.folder}: {progress.verdicts:,} verdicts; {progress.failures:,} votes failed")
    if not result.finished:
        say_why(progress)
        print(f"stopped; go on with: {again(result.folder, settings)}", file=sys.stderr)
        return 1
    print(f"next:  python -m runs.show {result.folder} --judge {shlex.quote(settings.judges[0])}")
    return report_raised(progress)


def _dry_run(settings: Settings) -> int:
    """Say what would be asked."""
    folder = runs.find(settings.from_run, out=settings.out, sealed=True)
    with Run.resume(folder) as held:
        sitting, _ = reseated(held.spec, settings)
        matches = list(held.journal.complete())
        judged = held.journal.judged()
        owed = {
            judge.name: [match for match in matches if (match.debate_id, judge.name) not in judged]
            for judge in benches.bench(sitting, None).judges
        }
        print(f"{len(matches):,} complete debates of {folder}")
        sample = {
            name: (len(found), [held.debate(match) for match in found[: plan.SAMPLE]]) for name, found in owed.items()
        }
        for line in plan.judged(sitting, sample, in_batches=settings.batch):
            print(line)
    print("nothing was sent. To judge: the same without --dry-run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
