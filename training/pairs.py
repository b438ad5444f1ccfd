"""`python -m training.pairs --from-run [RUN]`: from the outcomes of debates to preference pairs, turn by turn.

The idea is PERSUADE's. Every speech has a key: topic, side, turn. Under one key, the speeches of sides that won
their debate are *chosen*, those of sides that lost theirs *rejected*, and every chosen one is paired with every
rejected one of other words. By default only the best contestant's speeches are chosen, and everybody's are
rejected, so that many ways to fail are seen.

What the published description leaves open is a setting and stands in `pairs.json`: whether rejected speeches come
from all debates or from those of the chosen contestant (`--rejected`), and whether the prompt is the key alone or
what had been said before the chosen speech (`--context`). Held-out topics never enter: those of a mixed run are left
out and counted. Each text is stored once, by digest; private reasoning is not read at all.

`--siblings` keeps only pairs of speeches that answered the very same prompt: what had been said before was the same in
both debates, as where a run has branched, and in every opening.

Needs only the base install.
"""

import sys
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from runs import NEWEST, OUT, find, tables
from runs.settings import Command, parse
from runs.tables import Tables
from topics.errors import InputError, command
from training.pair_set import PairSet, export_jsonl, write
from training.speeches import KEY, Decided, decided_speeches, prompts

NOT_STORED = {"config", "dry_run", "out"}


class Settings(Command, cli_prog_name="python -m training.pairs"):
    """Make preference pairs from the outcomes of a run."""

    from_run: str = NEWEST
    """a run's folder or id (default: the newest finished one)"""
    chosen: list[str] = Field(default=["best"])
    """whose winning speeches: best | any | names (default: best)"""
    rejected: Literal["all", "involved"] = "all"
    """losing speeches of all debates, or of the chosen one's"""
    judge: str | None = None
    """whose verdicts (default: the run's only judge)"""
    min_margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    """leave out verdicts of a smaller margin"""
    consistent: bool = False
    """leave out verdicts whose orders disagree"""
    siblings: bool = False
    """only pairs behind which the same had been said"""
    cap: Annotated[int, Field(ge=1)] | None = None
    """at most N pairs a key, drawn from the seed"""
    context: Literal["key", "transcript"] = "key"
    """what the prompt shows"""
    seed: int = 0
    """of the draw"""
    export: Literal["jsonl"] | None = None
    """write pairs.jsonl with full texts as well"""
    out: Path | None = None
    """folder to make (default: runs/out/pairs/<run-id>)"""
    config: Path | None = None
    """settings from a TOML file"""
    dry_run: bool = False
    """count the pairs, and write nothing"""


def make(run: Tables, settings: Settings) -> PairSet:
    """The pairs of a run."""
    heard = decided_speeches(
        run,
        judge=settings.judge,
        chosen=settings.chosen,
        min_margin=settings.min_margin,
        consistent=settings.consistent,
    )
    return among(heard, settings)


def among(heard: Decided, settings: Settings) -> PairSet:
    """The pairs among speeches. Raises `InputError` where none are left, with what each step left out."""
    speeches, counts = heard.speeches, heard.counts
    if settings.siblings:
        speeches = by_what_was_said(speeches)
    found = pair_rows(speeches, heard.chosen, settings.rejected)
    counts["pairs of different texts"] = found.height
    if settings.cap is not None:
        found = capped(found, speeches, settings.cap, settings.seed)
        counts["pairs under the cap"] = found.height
    if not found.height:
        what = f"no pairs are left with these settings ({heard.steps})"
        raise InputError(f"{what}; loosen --chosen, --min-margin or --judge")
    counts["keys"] = found["key"].n_unique()
    winners, losers = (speeches[found[part]] for part in ("chosen_row", "rejected_row"))
    asked, prompt_ids = prompts(heard, settings.context, winners)
    pairs = _pairs(winners, losers, prompt_ids, heard.judge, "sibling" if settings.siblings else "outcome")
    used = pl.concat([pairs["chosen_text_id"], pairs["rejected_text_id"]]).unique()
    texts = speeches.filter(pl.col("text_digest").is_in(used.implode())).unique("text_digest", maintain_order=True)
    return PairSet(
        texts=texts.select(text_id="text_digest", text="text"),
        prompts=asked,
        pairs=pairs,
        run=heard.run.folder.name,
        judge=heard.judge,
        context=settings.context,
        chosen=heard.chosen or ["any"],
        counts=counts | {"texts": texts.height, "pairs": pairs.height},
    )


def by_what_was_said(speeches: pl.DataFrame) -> pl.DataFrame:
    """`speeches` with a key that also tells what had been said before them; they come debate by debate, in order."""
    said: dict[str, str] = {}
    before = []
    for debate_id, digest in speeches.select("debate_id", "text_digest").iter_rows():
        before.append(said.get(debate_id, ""))
        said[debate_id] = blake2b(f"{before[-1]}{digest}".encode(), digest_size=16).hexdigest()
    known = speeches.with_columns(before=pl.Series(before, dtype=pl.String))
    return known.with_columns(key=pl.struct("key", "before").rank("dense").cast(pl.UInt32)).drop("before")


def pair_rows(speeches: pl.DataFrame, chosen: list[str] | None, rejected: str) -> pl.DataFrame:
    """Pairs as row numbers into `speeches`: `chosen_row`, `rejected_row`, in the order of the keys.

    `speeches` has `row`, `key`, `text_id`, `won`, `contestant`, `opponent`; `chosen` None means anybody. One pair
    for each different (key, chosen text, rejected text), the earliest of its kind.
    """
    columns = pl.col("key", "row", "text_id", "contestant", "opponent")
    won = speeches.lazy().filter("won").select(columns)
    if chosen is not None:
        won = won.filter(pl.col("contestant").is_in(chosen))
    lost = speeches.lazy().filter(~pl.col("won")).select(columns)
    pairs = won.join(lost, on="key", suffix="_rejected", maintain_order="left_right")
    pairs = pairs.filter(pl.col("text_id") != pl.col("text_id_rejected"))
    if rejected == "involved":
        mine = pl.col("contestant")
        pairs = pairs.filter((pl.col("contestant_rejected") == mine) | (pl.col("opponent_rejected") == mine))
    pairs = pairs.unique(["key", "text_id", "text_id_rejected"], keep="first", maintain_order=True)
    return pairs.select(chosen_row="row", rejected_row="row_rejected", key="key").collect()


def capped(pairs: pl.DataFrame, speeches: pl.DataFrame, cap: int, seed: int) -> pl.DataFrame:
    """At most `cap` pairs of each key, drawn by a hash of the seed and both texts."""
    digests = speeches["text_digest"]
    rows = zip(pairs["chosen_row"], pairs["rejected_row"], strict=True)
    lots = [blake2b(f"{seed}:{digests[c]}:{digests[r]}".encode(), digest_size=8).hexdigest() for c, r in rows]
    drawn = pairs.with_columns(lot=pl.Series(lots, dtype=pl.String))
    return drawn.filter(pl.col("lot").rank("ordinal").over("key") <= cap).drop("lot")


def _pairs(winners: pl.DataFrame, losers: pl.DataFrame, prompt_ids: pl.Series, judge: str, source: str) -> pl.DataFrame:
    """Table `pairs`, from the speeches on both sides of each pair."""
    return winners.select(
        *KEY,
        prompt_id=prompt_ids,
        chosen_text_id="text_digest",
        rejected_text_id=losers["text_digest"],
        chosen_contestant="contestant",
        rejected_contestant=losers["contestant"],
        chosen_debate_id="debate_id",
        rejected_debate_id=losers["debate_id"],
        judge=pl.lit(judge),
        margin=(pl.col("margin") - losers["margin"]) / 2,
        source=pl.lit(source),
    )


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv, optional={"from_run": NEWEST})
    run = tables.load(find(settings.from_run, sealed=True))
    folder = settings.out or OUT / "pairs" / run.folder.name
    if not settings.dry_run and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{str(folder)!r} is not empty; name another folder with --out")
    pair_set = make(run, settings)
    for what, count in pair_set.counts.items():
        print(f"{count:>10,}  {what}")
    print(f"chosen: {', '.join(pair_set.chosen)}; judge: {pair_set.judge}; rejected: {settings.rejected}")
    if settings.dry_run:
        print("nothing was written")
        return 0
    try:
        write(pair_set, folder, run=run, settings=settings.model_dump(mode="json", exclude=NOT_STORED))
        if settings.export == "jsonl":
            export_jsonl(pair_set, folder / "pairs.jsonl")
    except OSError as error:
        what = f"cannot write to {str(folder)!r} ({error.strerror})"
        raise InputError(f"{what}; name another folder with --out") from None
    print(f"wrote {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
