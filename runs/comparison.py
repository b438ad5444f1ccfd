"""`python -m runs.comparison RUN_A RUN_B`: whether a contestant does better in one run than in another.

    found = runs.compare("20260101-base", "20260102-tuned", judge="gpt", pairs={"base": "tuned"})
    found.frame           # a row for each contestant: both scores, the difference, its interval, its p
    found.strata          # the same by theme
    print(*found.notes, sep="\\n")

Two policies that never met can be compared by what they did in the same place: same topic, same side, same opponent. A
win is 1, a tie 0.5, a loss 0. Of each such place the score in A is taken from that in B (means, where it was played
more than once), the differences of a topic are averaged, and the mean over topics is how much better B is. The two runs
may be one, to compare two of its contestants.

How sure that is, `runs/paired.py` says: an interval, two values of p, and `p_holm`, the first of them corrected for how
many contestants are compared, or how many themes of one. There is no interval and no p under `runs.bias.FEW` topics,
and of a theme then no difference either. What else sets two runs apart is told by `runs/caveats.py`.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field
from pydantic_settings import CliPositionalArg

from runs import tables
from runs.adapters import aligned
from runs.caveats import caveats
from runs.paired import ROUNDING, differences
from runs.pairings import decided, seats
from runs.panels import is_trajectory
from runs.run import OUT, find
from runs.settings import Command, parse
from runs.tables import Tables
from topics.errors import InputError, command, listed, near, one_line

RESAMPLES = 10_000
LEVEL = 0.05
"""A p below this is called a difference in the last line."""

_PLACE = ["topic_id", "side", "other"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much better contestants do in run B than in run A, by one judge."""

    frame: pl.DataFrame
    """`a`, `b` (the contestant in each run), `score_a`, `score_b` (of what is matched), `delta` (B's less A's) with
    `delta_low` and `delta_high`, `p`, `p_flip`, `p_holm`, `won`, `lost`, `tied` (topics), `debates_a`, `debates_b`,
    `unmatched_a`, `unmatched_b` (debates without a counterpart), `topics`, `few_topics`."""
    strata: pl.DataFrame
    """By theme: `a`, `b`, `theme`, `delta` with bounds, `p`, `p_flip`, `p_holm`, `topics`, `few_topics`."""
    judge: str
    notes: tuple[str, ...]
    """What a reader must know before believing the numbers, one sentence each."""


def compare(
    a: str | Path | Tables,
    b: str | Path | Tables,
    *,
    judge: str | None = None,
    contestants: Sequence[str] | None = None,
    pairs: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: Path = OUT,
) -> Comparison:
    """Compare two runs: folders, ids under `out`, or tables.

    `contestants` are compared with themselves (default: all that debated in both), `pairs` name a contestant of A and
    the one of B that it is compared with; given as tuples, one contestant may stand in several. `judge` may be left out
    where one judge alone decided in both.

    Raises `InputError` where there is nobody to compare, or no judge to do it by.
    """
    one, two = (run if isinstance(run, Tables) else tables.load(find(run, out=out)) for run in (a, b))
    judge = _judge(one, two, judge)
    placed = [_placed(run, judge) for run in (one, two)]
    chosen = _chosen(placed, contestants, pairs)
    matched = _matched(placed, chosen, one, two)
    if matched.is_empty():
        raise InputError("no debate has a counterpart in the other run: the same topic, side and opponent")
    by_topic = matched.group_by("a", "b", "topic_id", "theme").agg(
        pl.col("score_a", "score_b", "delta").mean(), pl.col("debates_a", "debates_b").sum()
    )
    frame = _overall(by_topic, differences(by_topic, ["a", "b"], resamples=resamples, seed=seed), chosen, placed)
    strata = differences(by_topic, ["a", "b", "theme"], ["a", "b"], resamples=resamples, seed=seed)
    strata = strata.with_columns(pl.when(~pl.col("few_topics")).then("delta"))
    return Comparison(
        frame=frame, strata=strata, judge=judge, notes=tuple(caveats(one, two, judge, frame, set(matched["other"])))
    )


# Who is compared, and where


def _judge(one: Tables, two: Tables, judge: str | None) -> str:
    """The judge to compare by."""
    known = []
    for run in (one, two):
        names = run.verdicts.select(pl.col("judge").unique()).collect()["judge"].to_list()
        known.append({name for name in names if judge or not is_trajectory(name)})
    both = sorted(known[0] & known[1])
    if judge is not None and judge not in both:
        expected = f"expected one of {_list(both)}{near(judge, both)}"
        raise InputError(f"judge {judge!r} has no verdicts in both runs; {expected}")
    if judge is None and len(both) != 1:
        raise InputError(f"{len(both)} judges decided in both runs ({_list(both)}); name one with --judge")
    return judge or both[0]


def _list(names: Iterable[str]) -> str:
    return listed(names) or "none"


def _placed(run: Tables, judge: str) -> pl.DataFrame:
    """Scores by place: `contestant`, `topic_id`, `side`, `other`, `score` (the mean), `debates`."""
    rows = seats(decided(run.debates, run.verdicts, judge)).filter(pl.col("contestant") != pl.col("other"))
    cells = rows.group_by("contestant", *_PLACE).agg(pl.col("score").mean(), debates=pl.len().cast(pl.Int32))
    return cells.sort("contestant", *_PLACE).collect()


def _chosen(
    placed: Sequence[pl.DataFrame],
    contestants: Sequence[str] | None,
    pairs: Mapping[str, str] | Iterable[tuple[str, str]],
) -> list[tuple[str, str]]:
    """Who of A is compared with whom of B."""
    seated = [sorted(cells["contestant"].unique()) for cells in placed]
    pairs = [*(pairs.items() if isinstance(pairs, Mapping) else pairs)]
    if contestants is None and not pairs:
        if not (both := sorted({*seated[0]} & {*seated[1]})):
            raise InputError("no contestant has a verdict in both runs; name who is compared with whom: --pairs x=y")
        return [(name, name) for name in both]
    chosen = [*((name, name) for name in contestants or ()), *pairs]
    for names in chosen:
        for which, name, known in zip("AB", names, seated, strict=True):
            if name not in known:
                told = f"expected one of {_list(known)}{near(name, known)}"
                raise InputError(f"contestant {name!r} has no verdict in run {which}; {told}")
    return list(dict.fromkeys(chosen))


def _matched(
    placed: Sequence[pl.DataFrame], chosen: Sequence[tuple[str, str]], one: Tables, two: Tables
) -> pl.DataFrame:
    """Places that both runs have, of topics that are the same in both: `a`, `b`, place, `theme`, both scores."""
    pairs = pl.DataFrame(chosen, schema={"a": pl.String, "b": pl.String}, orient="row")
    here, there = (
        cells.rename({"contestant": run, "score": f"score_{run}", "debates": f"debates_{run}"})
        for run, cells in zip("ab", placed, strict=True)
    )
    same = one.topics.select("topic_id", "theme", "digest").join(
        two.topics.select("topic_id", "digest"), on=["topic_id", "digest"], how="semi"
    )
    return (
        pairs.join(here, on="a")
        .join(there, on=["b", *_PLACE])
        .join(same.select("topic_id", "theme").collect(), on="topic_id")
        .with_columns(delta=pl.col("score_b") - pl.col("score_a"))
        .sort("a", "b", *_PLACE)
    )


# What they come to


def _overall(
    by_topic: pl.DataFrame, found: pl.DataFrame, chosen: Sequence[tuple[str, str]], placed: Sequence[pl.DataFrame]
) -> pl.DataFrame:
    """The frame of a comparison, in the order in which contestants were named."""
    pair, delta = ["a", "b"], pl.col("delta")
    sums = by_topic.group_by(pair).agg(
        pl.col("score_a", "score_b").mean(),
        pl.col("debates_a", "debates_b").sum(),
        won=(delta > ROUNDING).sum().cast(pl.Int32),
        lost=(delta < -ROUNDING).sum().cast(pl.Int32),
        tied=(delta.abs() <= ROUNDING).sum().cast(pl.Int32),
    )
    frame = pl.DataFrame(chosen, schema=pair, orient="row").join(sums, on=pair, how="left", maintain_order="left")
    frame = frame.join(found, on=pair, how="left", maintain_order="left")
    counts = ["debates_a", "debates_b", "won", "lost", "tied", "topics"]
    frame = frame.with_columns(pl.col(counts).fill_null(0), pl.col("few_topics").fill_null(True))
    for run, cells in zip(pair, placed, strict=True):
        played = cells.group_by(pl.col("contestant").alias(run)).agg(played=pl.col("debates").sum())
        left = (pl.col("played") - pl.col(f"debates_{run}")).cast(pl.Int32).alias(f"unmatched_{run}")
        frame = frame.join(played, on=run, how="left", maintain_order="left").with_columns(left).drop("played")
    return frame.select(*COLUMNS)


COLUMNS = (
    *("a", "b", "score_a", "score_b", "delta", "delta_low", "delta_high", "p", "p_flip", "p_holm"),
    *("won", "lost", "tied", "debates_a", "debates_b", "unmatched_a", "unmatched_b", "topics", "few_topics"),
)
"""Of a comparison's frame, in order."""


# The command


class Settings(Command, cli_prog_name="python -m runs.comparison"):
    """Compare two runs: does a contestant do better in B than in A, on the same topics, sides and opponents?"""

    a: CliPositionalArg[str]
    """the run before: a folder or id"""
    b: CliPositionalArg[str]
    """the run after; may be the same, with --pairs"""
    judge: str | None = None
    """whose verdicts to go by (default: the only one in both)"""
    contestants: list[str] | None = None
    """compared with themselves (default: all in both)"""
    pairs: list[str] = Field(default=[])
    """x=y: x of A, compared with y of B"""
    themes: bool = False
    """show the themes as well"""
    resamples: Annotated[int, Field(ge=200, le=100_000)] = RESAMPLES
    """of the topics"""
    seed: int = 0
    """of the resamples"""
    out: Path = OUT
    """where runs are made"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    folders = [find(run, out=settings.out) for run in (settings.a, settings.b)]
    found = compare(
        *map(tables.verified, folders),
        judge=settings.judge,
        contestants=settings.contestants,
        pairs=[*map(_pair, settings.pairs)],
        resamples=settings.resamples,
        seed=settings.seed,
    )
    print(render(found, themes=settings.themes))
    return 0


def _pair(word: str) -> tuple[str, str]:
    x, equals, y = word.partition("=")
    if not (x and equals and y):
        raise InputError(f"--pairs {word!r}; expected a contestant of A and the one of B that it is compared with: x=y")
    return x, y


def render(found: Comparison, *, themes: bool = False) -> str:
    """A comparison as text; the last line says what came of it."""
    rows = [("A", "B", "score A", "score B", "B - A", "p", "sign flips", "p (Holm)", "won", "lost", "tied", "topics")]
    lines = [aligned([*rows, *map(_row, found.frame.iter_rows(named=True))], right=10)]
    if themes:
        head = ("A", "B", "theme", "B - A", "p", "sign flips", "p (Holm)", "topics")
        lines += ["", aligned([head, *map(_stratum, found.strata.iter_rows(named=True))], right=5)]
    lines += [f"note: {one_line(note, 1000)}" for note in found.notes]
    return "\n".join([*lines, _told(found)])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    scores = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("score_a", "score_b"))
    return (
        *(one_line(row[name], 30) for name in ("a", "b")),
        *(*scores, _delta(row), *_ps(row)),
        *(f"{row[name]:,}" for name in ("won", "lost", "tied", "topics")),
    )


def _stratum(row: dict[str, Any]) -> tuple[str, ...]:
    names = (one_line(row[name] or "-", 30) for name in ("a", "b", "theme"))
    return *names, _delta(row), *_ps(row), f"{row['topics']:,}"


def _ps(row: dict[str, Any]) -> Iterator[str]:
    return ("-" if row[name] is None else f"{row[name]:.4f}" for name in ("p", "p_flip", "p_holm"))


def _delta(row: dict[str, Any]) -> str:
    value, low = row["delta"], row["delta_low"]
    why = "too few topics" if row["few_topics"] else "no interval"
    if value is None:
        return why
    return f"{value:+.3f} [{why}]" if low is None else f"{value:+.3f} [{low:+.3f}, {row['delta_high']:+.3f}]"


def _told(found: Comparison) -> str:
    better = found.frame.filter(pl.col("p_holm") < LEVEL)
    names = (f"{row['b']} ({row['delta']:+.3f}, p {row['p_holm']:.4f})" for row in better.iter_rows(named=True))
    judge = f"by {one_line(found.judge, 60)}, one-sided, p < {LEVEL} after Holm"
    return one_line(f"better in B than in A ({judge}): {', '.join(names) or 'nobody that can be told'}", 1000)


if __name__ == "__main__":
    sys.exit(main())
