"""`python -m runs.bias [RUN]`: what a run's judges lean to, apart from who argued better, and whether they agree.

    found = bias(runs.load(folder), Spec.read(folder))
    found["side"]         # how often FOR wins, by judge and theme
    found["length"]       # what saying more is worth
    found["family"]       # what being related to the judge is worth
    found["agreement"]    # of every two judges, and of all

Verdicts on complete debates count; a trajectory's (`gpt@4`) do not, being on a part of a debate. Verdicts that decide
nothing (abstain, invalid) are left out and counted as `undecided`. Intervals are over topics, of 95 %; under `FEW`
topics a value stands without one.

What to know of the numbers:

1. The side is a plain share, a tie as half. Where a schedule does not seat everybody alike on both sides, read the side
   term of the leaderboard, which has the strengths taken out.
2. The slope of length stands beside contestants' strengths, so that a strong contestant who says much is no bias, and
   beside who opened, where that varies (`runs/regression.py`). Where contestants alone tell who says how much, there is
   no slope.
3. Favour for a family compares judges on the same debates: what a judge gives to contestants that are related to it
   (by family, lineage or model), less what judges give them that are not.
4. Agreement treats for, tie and against as names without order (`runs/agreement.py`). Panels have no place in it, nor
   among the judges that favour is compared with: they say what their members said.

Array names end in their dimensions: R resamples, T topics, D debates, V verdicts, J judges, P parameters.
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic_settings import CliPositionalArg

from runs import tables
from runs.adapters import aligned
from runs.agreement import compare, interval
from runs.panels import TRAJECTORY, are_related
from runs.regression import slope
from runs.run import NEWEST, OUT, find
from runs.settings import Command, parse
from runs.spec import Spec
from runs.statistics import Array, rates, topic_weights
from runs.tables import Tables
from runs.words import longer
from topics.errors import InputError, command, one_line

SCORE = {"for": 1.0, "tie": 0.5, "against": 0.0}
"""What FOR has of a verdict; the others decide nothing."""
FEW = 10
"""Topics below which there is no interval: how often intervals hold the truth was measured from here on upward."""


def _columns(names: str, *rates: str, between: str = "", counts: str) -> dict[str, Any]:
    """Columns of a table: names, rates with their bounds, numbers without, counts."""
    bounded = [f"{rate}{bound}" for rate in rates for bound in ("", "_low", "_high")]
    kinds = ((names.split(), pl.String), ([*between.split(), *bounded], pl.Float64), (counts.split(), pl.Int32))
    return {name: kind for some, kind in kinds for name in some} | {"topics": pl.Int32, "few_topics": pl.Boolean}


COLUMNS = {
    "side": _columns("judge theme", "share", counts="verdicts undecided"),
    "length": _columns("judge", "slope", between="words", counts="debates certain"),
    "family": _columns("judge family", "share", "others", "favour", counts="debates"),
    "agreement": _columns("judge other", "agreement", "alpha", "kappa", counts="debates undecided"),
}
"""Of each table. A rate has bounds, `_low` and `_high`, unless `few_topics`: `topics` are fewer than `FEW`."""

Row = dict[str, Any]


def bias(run: Tables, spec: Spec, *, resamples: int = 1000, seed: int = 0) -> dict[str, pl.DataFrame]:
    """The tables `side`, `length`, `family` and `agreement` of a run, as the functions of these names describe them."""
    verdicts = _verdicts(run)
    weights_RT = topic_weights(verdicts["T"].n_unique(), resamples, seed)
    single = verdicts.filter(~pl.col("judge").is_in([panel["name"] for panel in spec.panels]))
    rows = {
        "side": side(verdicts, weights_RT),
        "length": length(verdicts, longer(run.debates, run.turns).collect()),
        "family": family(single, spec, weights_RT),
        "agreement": agreement(single, weights_RT),
    }
    return {name: _table(found, COLUMNS[name]) for name, found in rows.items()}


def _verdicts(run: Tables) -> pl.DataFrame:
    """A row for each verdict on a complete debate; `T` numbers topics, `score` is null where nothing was decided."""
    debates = run.debates.filter(pl.col("status") == "complete").join(
        run.topics.select("topic_id", "theme"), on="topic_id", how="left"
    )
    whole = ~pl.col("judge").str.contains(TRAJECTORY)
    return (
        debates.select("debate_id", "topic_id", "theme", "for_contestant", "against_contestant", "opener")
        .join(run.verdicts.filter(whole).select("debate_id", "judge", "winner"), on="debate_id")
        .with_columns(score=pl.col("winner").replace_strict(SCORE, default=None, return_dtype=pl.Float64))
        .sort("debate_id", "judge")
        .collect()
        .with_columns(T=pl.col("topic_id").rank("dense").cast(pl.Int64) - 1)
    )


def _table(rows: Iterable[Row], columns: dict[str, Any]) -> pl.DataFrame:
    """Rows as a frame: what is not known is null, and so is an interval over few topics."""
    few = pl.col("topics") < FEW
    bounds = pl.col(name for name in columns if name.endswith(("low", "high")))
    return (
        pl.DataFrame(list(rows), schema=columns, strict=False)
        .with_columns(pl.col(pl.Float64).fill_nan(None), few_topics=few)
        .with_columns(pl.when(~few).then(bounds))
    )


def _by(rows: pl.DataFrame, *columns: str) -> Iterator[tuple[tuple[Any, ...], pl.DataFrame]]:
    return iter(rows.sort(columns, maintain_order=True).group_by(columns, maintain_order=True))


# Side


def side(verdicts: pl.DataFrame, weights_RT: Array) -> Iterator[Row]:
    """How often FOR wins: `judge`, `theme` (null: all), `share`, `verdicts` that decided, `undecided` ones."""
    overall = verdicts.with_columns(theme=pl.lit(None, dtype=pl.String))
    for (judge, theme), rows in _by(pl.concat([overall, verdicts]), "judge", "theme"):
        decided = rows.drop_nulls("score")
        part_T1, whole_T1 = _sums(decided, "score", weights_RT)
        share, low, high = rates(part_T1, whole_T1, weights_RT)
        yield {
            **{"judge": judge, "theme": theme, "share": share[0], "share_low": low[0], "share_high": high[0]},
            **{"verdicts": len(decided), "undecided": len(rows) - len(decided), "topics": decided["T"].n_unique()},
        }


def _sums(rows: pl.DataFrame, column: str, weights_RT: Array) -> tuple[Array, Array]:
    """Sums [T, 1] of a column by topic, and of how many."""
    topic_D, topics = rows["T"].to_numpy(), weights_RT.shape[1]
    part, whole = (np.bincount(topic_D, value, topics) for value in (rows[column].to_numpy(), None))
    return part[:, None].astype(np.float64), whole[:, None].astype(np.float64)


# Length


def length(verdicts: pl.DataFrame, words: pl.DataFrame) -> Iterator[Row]:
    """What saying more is worth: `judge`, and `slope`, in logits of FOR's odds for every `words` that FOR says more,
    the standard deviation over the run's debates. `debates` and `topics` are those that it rests on, `certain` how many
    were left out because they have no say.
    """
    deviation = float(words["longer"].to_numpy().std()) if len(words) else 0.0
    decided = verdicts.drop_nulls("score").join(words, on="debate_id", maintain_order="left")
    for (judge,), rows in _by(decided, "judge"):
        z_D = rows["longer"].to_numpy() / (deviation or 1.0)
        found = slope(rows["score"].to_numpy(), _beside(rows), z_D, rows["T"].to_numpy())
        yield {"judge": judge, "words": deviation, **found}


def _beside(rows: pl.DataFrame) -> Array:
    """What else may decide a debate, [D, P]: strengths (the first contestant's is nought), the side, who opened."""
    others = np.array(sorted({*rows["for_contestant"], *rows["against_contestant"]}))[1:]
    seats = [rows[f"{name}_contestant"].to_numpy()[:, None] == others for name in ("for", "against")]
    columns = [seats[0].astype(np.float64) - seats[1], np.ones((len(rows), 1))]
    if rows["opener"].n_unique() > 1:
        columns.append((rows["opener"] == "for").to_numpy().astype(np.float64)[:, None])
    return np.hstack(columns)


# Family


def family(verdicts: pl.DataFrame, spec: Spec, weights_RT: Array) -> Iterator[Row]:
    """Favour for one's own: `judge`, its `family`, `share` (what it gives to contestants that are related to it),
    `others` (what judges give them that are not), `favour` (the difference), `debates`.

    On debates that the judge and such another have decided, and in which one of the two contestants is related.
    """
    kin = [(j["name"], c["name"]) for j in spec.judges for c in spec.contestants if are_related(j, c)]
    related = pl.DataFrame(kin, schema={"judge": pl.String, "own": pl.String}, orient="row")
    decided = verdicts.drop_nulls("score")
    on_for = decided.with_columns(own="for_contestant", share="score")
    on_against = decided.with_columns(own="against_contestant", share=1 - pl.col("score"))
    seats = pl.concat([on_for, on_against])
    own = seats.join(related, on=["judge", "own"], how="semi").filter(pl.len().over("debate_id", "judge") == 1)
    others = seats.join(related, on=["judge", "own"], how="anti").group_by("debate_id", "own")
    paired = own.join(others.agg(others=pl.col("share").mean()), on=["debate_id", "own"]).sort("debate_id")
    for entry in sorted(spec.judges, key=lambda judge: str(judge["name"])):
        if entry.get("family"):
            rows = paired.filter(judge=entry["name"]).with_columns(favour=pl.col("share") - pl.col("others"))
            yield {"judge": entry["name"], "family": entry["family"], **_favour(rows, weights_RT)}


def _favour(rows: pl.DataFrame, weights_RT: Array) -> Row:
    found: Row = {name: rows[name].mean() for name in ("share", "others", "favour")}
    found |= {"debates": len(rows), "topics": rows["T"].n_unique()}
    if not len(rows):
        return found
    for name in ("share", "others"):
        _, low, high = rates(*_sums(rows, name, weights_RT), weights_RT)
        found |= {f"{name}_low": low[0], f"{name}_high": high[0]}
    part_T1, whole_T1 = _sums(rows, "favour", weights_RT)
    resampled_R = ((weights_RT @ part_T1) / (weights_RT @ whole_T1))[:, 0]
    bounds = interval(found["favour"], resampled_R, found["topics"])
    return found | dict(zip(("favour_low", "favour_high"), bounds, strict=True))


# Agreement


def agreement(verdicts: pl.DataFrame, weights_RT: Array) -> Iterator[Row]:
    """Whether judges agree: `judge` and `other` (null: all of them), `agreement`, `alpha` (Krippendorff's) and, of two,
    `kappa` (Cohen's); `debates` that two of them have decided, `undecided` verdicts of theirs.
    """
    judges = verdicts["judge"].unique().sort().to_list()
    if len(judges) < 2:
        return
    code = {name: number for number, name in enumerate(SCORE)}
    numbered = verdicts.select(  # not pivoted: a judge may be called like any column
        "T",
        *(pl.col(name).rank("dense").cast(pl.Int64) - 1 for name in ("debate_id", "judge")),
        winner=pl.col("winner").replace_strict(code, default=-1, return_dtype=pl.Int64),
    )
    topic_V, debate_V, judge_V, code_V = (column.to_numpy() for column in numbered)
    code_DJ = np.full((debate_V.max() + 1, len(judges)), -1)
    code_DJ[debate_V, judge_V] = code_V
    topic_D = np.zeros(len(code_DJ), np.int64)
    topic_D[debate_V] = topic_V
    silent_J = np.bincount(judge_V[code_V < 0], minlength=len(judges))
    everybody = [*range(len(judges))]
    for chosen in (everybody, *map(list, combinations(everybody, 2))):
        names = {} if chosen is everybody else {"judge": judges[chosen[0]], "other": judges[chosen[1]]}
        found = compare(code_DJ[:, chosen], topic_D, weights_RT)
        yield names | {"undecided": silent_J[chosen].sum(), **found}


# The command


class Settings(Command, cli_prog_name="python -m runs.bias"):
    """Show what the judges of a run lean to, and whether they agree."""

    run: CliPositionalArg[str] = NEWEST
    """a run's folder or id"""
    write: Path | None = None
    """folder to store the tables in as well, as Parquet"""
    out: Path = OUT
    """where runs are made"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    folder = find(settings.run, out=settings.out)
    run = tables.verified(folder)
    found = bias(run, Spec.read(folder))
    stored = [] if settings.write is None else store(found, settings.write)
    print("\n\n".join(render(name, frame) for name, frame in found.items()))
    if stored:
        print(f"\nwrote {', '.join(map(str, stored))}")
    return 0


TITLES = {
    "side": ("How often FOR wins, a tie as half", "nobody has given a verdict"),
    "length": ("What saying more is worth, in logits for each `words` more", "nobody has decided anything"),
    "family": ("What being related to the judge is worth, in points of a debate", "no judge of this run has a family"),
    "agreement": ("Whether judges agree", "it takes two judges"),
}
"""Of each table, and why it is empty where it is."""


def render(name: str, frame: pl.DataFrame) -> str:
    """A table as text, every rate with its interval."""
    title, empty = TITLES[name]
    if not len(frame):
        return f"{title}: {empty}"
    shown = [column for column in frame.columns if not column.endswith(("_low", "_high", "few_topics"))]
    rows = [[_cell(column, row) for column in shown] for row in frame.iter_rows(named=True)]
    texts = sum(frame.schema[column] == pl.String for column in shown)
    return f"{title}\n{aligned([shown, *rows], right=len(shown) - texts)}"


def _cell(column: str, row: Row) -> str:
    value, low = row[column], row.get(f"{column}_low")
    if column in ("judge", "theme", "other"):
        return "all" if value is None else one_line(value, 30) or "-"
    if not isinstance(value, float):
        return "-" if value is None else f"{value:,}" if isinstance(value, int) else one_line(value, 30)
    if f"{column}_low" not in row:
        return f"{value:.3g}"
    why = "too few topics" if row["few_topics"] else "no interval"
    return f"{value:.3f} [{why}]" if low is None else f"{value:.3f} [{low:.3f}, {row[f'{column}_high']:.3f}]"


def store(found: dict[str, pl.DataFrame], folder: Path) -> list[Path]:
    """Write each table into a folder as Parquet; returns the files."""
    paths = [folder / f"{name}.parquet" for name in found]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, frame in zip(paths, found.values(), strict=True):
            frame.write_parquet(path)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r} ({error.strerror or error}); name another folder") from None
    return paths


if __name__ == "__main__":
    sys.exit(main())
