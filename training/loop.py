"""`python -m training.loop`: the whole circle. Play, pair, train, re-enter, play again; n rounds, then the proof.

    play     contestants debate the train topics, and the judge decides
    teach    a policy learns the winning speeches (`training.sft`); in the first round only
    prefer   an adapter over it learns what won against what lost (`training.dpo`), in each round from the latest play;
             with `--method grpo` what its turns earn, with `--method debates` what its debates do (`training.grpo`)
    prove    the last policy plays the taught one, which it descends from, on the sealed topics, both sides, once

In every later play the policies sit among the same opponents, so their ratings can be followed by round. By default
all is offline: simulated opponents, the rules judge, a tiny policy. Settings were chosen on held-back train topics; the
test topics are looked at in the last stage alone, and each such look is written down.

Every stage is recorded when it is done and nothing is done twice: a loop that was stopped, however, goes on with
`--resume`, within a debate or a training too.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal, TypeVar

import polars as pl
from pydantic import Field, ValidationError

import runs
import topics as catalogue
from arena import roster as rosters
from arena import run as arena
from arena.models import extra
from runs import NEWEST, OUT, adapters
from runs.files import replace_text
from runs.journal import StorageError
from runs.pairings import decided, seats
from runs.ratings import leaderboard
from runs.run import folders as runs_under
from runs.settings import explain
from runs.spec import Spec
from runs.statistics import Estimate, rate
from runs.tables import is_sealed
from topics.errors import InputError, command, one_line
from training import dpo, folders, grpo, sft
from training.recipe import NOT_STORED, TINY, Count, Recipe, Training, has, known, parse_training, table
from training.state import State, find_same

NAME = "loop.json"
OPPONENTS = rosters.DEFAULT.with_name("spread.toml")
K = TypeVar("K", bound=Training)
PARENT = "taught"
LEARNS: dict[str, tuple[Any, str, Any]] = {
    "dpo": (dpo.Settings, "dpo", dpo.run),
    "grpo": (grpo.Settings, "grpo", grpo.run),
    "debates": (grpo.Settings, "grpo", grpo.run),
}
"""By `--method`, a training's settings, what its folder is called by, and itself."""
WHAT = {
    "dpo": "an adapter learns what won against what lost",
    "grpo": "an adapter learns what turns earn",
    "debates": "an adapter learns what debates earn",
}


class Settings(Recipe, cli_prog_name="python -m training.loop"):
    """Play, train on the outcomes, re-enter, play again; then prove it on the sealed topics."""

    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    """of play and training"""
    roster: Path | None = None
    """opponents and judges (default: six simulated)"""
    method: Literal["dpo", "grpo", "debates"] = "dpo"
    """how the adapter learns: pairs, turns, or debates"""
    judge: str = "rules"
    """who decides"""
    format: str
    """the slots: a name, or a .toml file"""
    topics: str = "train"
    """what is played and learnt from"""
    prove_on: str = "test"
    """what the proof is played on"""
    limit: Count | None = None
    """debates of the first play (default: every pair, both sides)"""
    again: Count
    """debates per topic when the policies have joined"""
    temperature: Annotated[float, Field(ge=0, le=10)]
    """of the policies when they play"""
    seed: int = 0
    """everything is drawn from it"""
    out: Path = OUT
    """where runs and adapters are made"""
    resume: str | None = None
    """go on with a loop (default: the newest unfinished)"""
    dry_run: bool = False
    """say what would be done, and write nothing"""


@dataclass(kw_only=True)
class Loop:
    """A loop under way: its folder, and what its stages came to."""

    folder: Path
    settings: Settings
    done: dict[str, str]
    """By stage: the id of the run or the adapter."""
    seconds: dict[str, float]

    @classmethod
    def begin(cls, settings: Settings) -> "Loop":
        """A new loop under `settings.out`."""
        folder = settings.out / "loops" / folders.named()
        loop = cls(folder=folder, settings=settings, done={}, seconds={})
        loop.check()
        rosters.load(settings.roster or OPPONENTS)
        folders.begin(folder / NAME, loop.body, settings.out)
        return loop

    @classmethod
    def read(cls, folder: Path, out: Path) -> "Loop":
        """A loop that was begun."""
        try:
            body = json.loads((folder / NAME).read_text(encoding="utf-8"))
            settings = Settings.model_validate(body["settings"] | {"out": out})
            return cls(folder=folder, settings=settings, done=dict(body["done"]), seconds=dict(body["seconds"]))
        except ValidationError as error:
            raise InputError(f"{str(folder)!r} cannot be resumed: {explain(error)}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(folder)!r} cannot be read as a loop ({type(error).__name__})") from None

    @property
    def body(self) -> dict[str, Any]:
        """What `loop.json` holds."""
        stored = self.settings.model_dump(mode="json", exclude=NOT_STORED)
        return {"settings": stored, "done": self.done, "seconds": self.seconds}

    def check(self) -> None:
        """Refuse what is wrong with a recipe, before hours are spent."""
        for kind, method in ((sft.Settings, "sft"), (LEARNS[self.settings.method][0], self.settings.method)):
            self.told(kind, method, "", "")

    def stage(self, name: str, what: str, work: Callable[[], str]) -> str:
        """Do a stage, unless it was done; `work` gives the id of what it made."""
        if name not in self.done:
            print(f"\n== {name}: {one_line(what, 100)}", file=sys.stderr, flush=True)
            started = perf_counter()
            self.done[name] = work()
            self.seconds[name] = perf_counter() - started
            folders.save(self.folder / NAME, self.body)
        return self.done[name]

    @property
    def finished(self) -> bool:
        return "prove" in self.done

    # ── stages ───────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Every stage that is still owed."""
        settings = self.settings
        first = {"limit": settings.limit} if settings.limit else {}
        played = self.stage("play 1", f"opponents on {settings.topics}", lambda: self.play(settings.topics, {}, first))
        parent = self.stage("teach", "a policy learns what won", lambda: self.teach(played))
        policies = {PARENT: parent}
        for number in range(1, settings.rounds + 1):
            newest = list(policies.values())[-1]
            child = self.stage(
                f"prefer {number}",
                WHAT[settings.method],
                lambda run=played, base=newest: self.prefer(run, base),  # type: ignore[misc]
            )
            policies[f"round-{number}"] = child
            played = self.stage(
                f"play {number + 1}",
                f"the policies join on {settings.topics}",
                lambda seated=dict(policies): self.play(  # type: ignore[misc]
                    settings.topics, seated, {"matches": settings.again}
                ),
            )
        pair = {PARENT: parent, f"round-{settings.rounds}": policies[f"round-{settings.rounds}"]}
        self.stage(
            "prove",
            f"{' against '.join(reversed(pair))} on {settings.prove_on}",
            lambda: self.play(settings.prove_on, pair, {}, alone=True),
        )

    def play(self, topics: str, policies: Mapping[str, str], options: Mapping[str, Any], alone: bool = False) -> str:
        """Play a run, or go on with it; its id."""
        roster = self.folder / f"{'prove' if alone else f'play-{len(policies)}'}.toml"
        replace_text(roster, self.roster(policies))
        asked = arena.Settings.model_validate(
            {
                "topics": topics,
                "roster": roster,
                "judges": [self.settings.judge],
                "contestants": list(policies) if alone else None,
                "format": self.settings.format,
                "seed": self.settings.seed,
                "out": self.settings.out,
                **options,
            }
        )
        spec, _ = arena.resolve(asked)
        begun = [folder for folder in runs_under(self.settings.out) if folder.name > self.folder.name]
        same = [folder for folder in begun if Spec.read(folder).digest == spec.digest]
        if same and is_sealed(same[0]):
            return same[0].name
        if same:
            asked = arena.Settings.model_validate({"resume": str(same[0]), "out": self.settings.out})
        result = arena.run(asked)
        if not result.sealed:
            raise Stopped
        return result.folder.name

    def roster(self, policies: Mapping[str, str]) -> str:
        """A roster file: opponents and judges as they are given, and the policies."""
        text = (self.settings.roster or OPPONENTS).read_text(encoding="utf-8")
        for name, adapter in policies.items():
            text += (
                f'\n[[contestants]]\nname = "{name}"\nkind = "local"\nadapter = "{adapter}"\nfamily = "policy"\n'
                f"temperature = {self.settings.temperature}\n"
            )
        return text

    def teach(self, run: str) -> str:
        return self.trained(self.told(sft.Settings, "sft", run, self.settings.base or TINY), "sft", sft.run)

    def prefer(self, run: str, base: str) -> str:
        kind, method, train = LEARNS[self.settings.method]
        return self.trained(self.told(kind, self.settings.method, run, base), method, train)

    def told(self, kind: type[K], method: str, run: str, base: str) -> K:
        """The settings of a training: those of the recipe's table `method`, and what the loop says."""
        settings = self.settings
        recipe = str(settings.recipe)
        if method in ("grpo", "debates") and recipe in known() and not has(recipe, method):
            recipe = "debate"
        said: dict[str, Any] = {"from_run": str(settings.out / run), "base": base, "recipe": recipe}
        if method in ("grpo", "debates"):
            said |= {"context": table(str(settings.recipe), "sft")["context"], "reward_judge": settings.judge}
            said |= {"roster": (settings.roster or OPPONENTS).resolve(), "debates": method == "debates"}
        said |= {name: getattr(settings, name) for name in ("judge", "seed", "out")}
        try:
            return kind.model_validate(table(recipe, method) | said)
        except ValidationError as error:
            raise InputError(f"recipe {recipe!r}, [{method}]: {explain(error)}") from None

    def trained(self, settings: Any, method: str, train: Callable[[Any, State | None], Any]) -> str:
        """Train, or go on with a training of the very same settings."""
        adapter = train(settings, find_same(settings, method))
        if adapter is None:
            raise Stopped
        return str(adapter.id)


class Stopped(Exception):
    """A stage was interrupted; what it has is kept."""


# ── what came of it ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The last policy against its parent on topics that nothing was chosen on."""

    child: str
    win_rate: Estimate
    debates: int
    wins: int
    losses: int
    ties: int
    topics: int
    void: int


def proof(folder: Path, judge: str, child: str) -> Proof:
    """How often `child` won; a tie is half a win, the topic is the unit."""
    tables = runs.load(folder)
    scores = seats(decided(tables.debates, tables.verdicts, judge)).filter(contestant=child).collect()
    return Proof(
        child=child,
        win_rate=rate(scores["score"].to_list(), scores["topic_id"].to_list()),
        debates=scores.height,
        wins=int((scores["score"] == 1).sum()),
        losses=int((scores["score"] == 0).sum()),
        ties=int((scores["score"] == 0.5).sum()),
        topics=scores["topic_id"].n_unique(),
        void=tables.debates.filter(status="void").collect().height,
    )


def ratings(loop: Loop) -> pl.DataFrame:
    """Every contestant's rating in every play on the train topics, with its interval and its record.

    `round`, `among` (`all`, or `policies`: their debates with each other alone), `contestant`, `rating`, `low`, `high`
    (null where somebody lost to all others, say), `wins`, `losses`, `ties`.
    """
    frames = []
    for number in range(1, loop.settings.rounds + 2):
        tables = runs.load(loop.settings.out / loop.done[f"play {number}"])
        debates = tables.debates.collect()
        verdicts = tables.verdicts.filter(judge=loop.settings.judge).collect()
        seated = [PARENT, *(f"round-{n}" for n in range(1, number))]
        between = pl.col("for_contestant").is_in(seated) & pl.col("against_contestant").is_in(seated)
        for among, some in (("all", debates), ("policies", debates.filter(between))):
            if not some.height:
                continue
            board = leaderboard(some, verdicts.join(some, on="debate_id", how="semi"), judge=loop.settings.judge)
            rows = board.frame.select("contestant", "rating", "low", "high", "wins", "losses", "ties")
            frames.append(rows.select(pl.lit(number - 1).alias("round"), pl.lit(among).alias("among"), pl.all()))
    return pl.concat(frames)


def picture(frame: pl.DataFrame, path: Path) -> None:
    """Ratings by round with their intervals: a panel for all, and one for the policies among themselves."""
    import altair

    panels = []
    for among, title in (("all", "all contestants"), ("policies", "policies among themselves")):
        shown = frame.filter(pl.col("rating").is_not_null() & (pl.col("among") == among))
        if not shown.height:
            continue
        base = altair.Chart(shown, title=title).encode(
            x=altair.X("round:O", title="round (0: before any training)"), color=altair.Color("contestant:N")
        )
        scale = altair.Scale(zero=False)
        lines = base.mark_line(point=True).encode(y=altair.Y("rating:Q", scale=scale))
        bars = base.mark_rule().encode(y=altair.Y("low:Q", scale=scale, title="rating"), y2="high:Q")
        panels.append((lines + bars).properties(width=320, height=280))
    altair.hconcat(*panels).save(str(path))


def report(loop: Loop) -> str:
    """What the loop did, and where everything lies; the picture and the tables are written beside it."""
    out, settings = loop.settings.out, loop.settings
    frame = ratings(loop)
    frame.write_parquet(loop.folder / "ratings.parquet")
    picture(frame, loop.folder / "ratings.svg")
    lines = [f"{'stage':10} {'seconds':>8}  made"]
    lines += [f"{name:10} {loop.seconds[name]:8.0f}  {made}" for name, made in loop.done.items()]
    lines += ["", *standings(frame)]
    lines += ["", *policies(loop)]
    found = proof(out / loop.done["prove"], settings.judge, f"round-{settings.rounds}")
    sure = found.win_rate
    interval = f"[{sure.low:.3f}, {sure.high:.3f}]" if sure.low is not None else "(no interval)"
    counts = f"{found.wins} won, {found.losses} lost, {found.ties} tied, {found.void} void; {found.topics} topics"
    told = f"{sure.value:.3f} {interval}" if sure.value is not None else "nothing decided"
    lines += [f"{found.child} against {PARENT} on {one_line(settings.prove_on, 60)}: win rate {told} ({counts})"]
    if looked := looks(out, out / loop.done["prove"]):
        lines.append(f"note: the proof looked at held-out topics; runs under {out} that did: {looked}")
    text = "\n".join(lines)
    replace_text(loop.folder / "report.txt", text + "\n")
    return text


def standings(frame: pl.DataFrame) -> list[str]:
    """The ratings as lines."""
    lines = [f"round  {'among':9} {'contestant':12} rating   95 % interval      won   lost   tied"]
    for row in frame.iter_rows(named=True):
        rating = "     -" if row["rating"] is None else f"{row['rating']:6.0f}"
        interval = " " * 14 if row["low"] is None else f"{row['low']:5.0f} to {row['high']:5.0f}"
        record = f"{row['wins']:6,} {row['losses']:6,} {row['ties']:6,}"
        lines.append(f"{row['round']:5}  {row['among']:9} {row['contestant']:12} {rating}   {interval}  {record}")
    return [*lines, "-: no rating can be had, as for who has lost to everybody else in the group"]


def looks(out: Path, run: Path) -> int:
    """How many runs under `out` were played on held-out topics; 0 where `run` was not one of them."""
    held_out = {topic.topic_id for topic in catalogue.load("test")}
    looked = [folder for folder in runs_under(out) if held_out & set(Spec.read(folder).topics)]
    return len(looked) if run.name in {folder.name for folder in looked} else 0


def policies(loop: Loop) -> list[str]:
    """A line a policy: what the checks on held-back train topics found."""
    lines = []
    for name, made in loop.done.items():
        if name == "teach" or name.startswith("prefer"):
            entry = adapters.find(made, loop.settings.out / "adapters")
            lines.append(f"{name:10} {made}: {entry.figures} (held-back train topics)")
    return [*lines, ""]


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse_training(Settings, argv, "loop")
    if settings.dry_run:
        return _dry_run(settings)
    with extra():
        import torch  # noqa: F401
    loop = _resumed(settings) if settings.resume is not None else Loop.begin(settings)
    try:
        loop.run()
    except (Stopped, StorageError, KeyboardInterrupt) as error:
        if str(error):
            print(f"error: {error}", file=sys.stderr)
        print(f"stopped; go on with: python -m training.loop --resume {loop.folder}", file=sys.stderr)
        return 1
    print(report(loop))
    print(f"\nwrote {loop.folder}: {', '.join(sorted(path.name for path in loop.folder.iterdir()))}")
    print(f"next:  python -m runs.show {loop.settings.out / loop.done['prove']}")
    return 0


def _resumed(settings: Settings) -> Loop:
    """The loop that `--resume` names: a folder, its name, or the newest unfinished one; given settings are compared."""
    loop = _begun(settings)
    folders.same(loop.folder, settings.typed - NOT_STORED, settings, loop.settings)
    return loop


def _begun(settings: Settings) -> Loop:
    root = settings.out / "loops"
    known = folders.begun(f"*/{NAME}", root)
    if settings.resume != NEWEST:
        folder = folders.find(str(settings.resume), "loop", NAME, root, known)
        return Loop.read(folder, folder.parent.parent)
    for folder in known:
        if not (loop := Loop.read(folder, settings.out)).finished:
            return loop
    raise InputError(f"no unfinished loop under {str(root)!r}; start one without --resume")


def _dry_run(settings: Settings) -> int:
    """Say what a loop would do."""
    Loop(folder=settings.out, settings=settings, done={}, seconds={}).check()
    spec, topics = arena.resolve(
        arena.Settings.model_validate(
            {"topics": settings.topics, "roster": settings.roster or OPPONENTS, "judges": [settings.judge]}
            | {"format": settings.format, "seed": settings.seed, "out": settings.out, "limit": settings.limit}
        )
    )
    debates = len(arena.scheduled(spec))
    print(f"play 1: {debates:,} debates on {len(topics)} topics, {len(spec.contestants)} contestants")
    print(f"teach: {settings.base or 'a tiny base'} learns what won; recipe {settings.recipe}")
    for number in range(1, settings.rounds + 1):
        print(f"prefer {number}: {WHAT[settings.method]}")
        print(f"play {number + 1}: {settings.again * len(topics):,} debates, {number + 1} policies among the opponents")
    print(f"prove: the last policy against the taught one on {settings.prove_on}, both sides")
    print("nothing was written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
