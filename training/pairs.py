"""`python -m training.pairs --from-run [RUN]`: from the outcomes of debates to preference pairs, turn by turn.

The idea is PERSUADE's. Every speech has a key: topic, side, turn. Under one key, the speeches of sides that won
their debate are *chosen*, those of sides that lost theirs *rejected*, and every chosen one is paired with every
rejected one of other words. By default only the best contestant's speeches are chosen, and everybody's are
rejected, so that many ways to fail are seen.

What the published description leaves open is a setting and stands in `pairs.json`: whether rejected speeches come
from all debates or from those of the chosen contestant (`--rejected`), and whether the prompt is the key alone or
what had been said before the chosen speech (`--context`). Held-out topics never enter: those of a mixed run are left
out and counted. Each text is stored once, by digest; private reasoning is not read at all.

Needs only the base install.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

import topics as catalogue
from arena.prompting import key_messages, messages
from runs import NEWEST, OUT, find, tables
from runs.ratings import leaderboard
from runs.records import Debate, Match, Turn, slots_for
from runs.run import stored_topics
from runs.settings import Command, parse
from runs.spec import Spec
from runs.tables import Tables
from topics import Topic
from topics.errors import InputError, command, near
from topics.leakage import overlaps
from training.pair_set import PairSet, export_jsonl, write

KEY = ("topic_id", "side", "turn")
NOT_STORED = {"config", "dry_run", "out"}
MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


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
    """The pairs of a run. Raises `InputError` where none are left, with what each step left out."""
    judge = _judge(run, settings.judge)
    topics = {topic.topic_id: topic for topic in stored_topics(run.topics)}
    debates = run.debates.collect()
    verdicts = run.verdicts.filter(judge=judge).collect()
    counts = {"debates": debates.height}
    open_to_training = debates.filter(~pl.col("topic_id").is_in(_held_out(topics.values())))
    counts["left out, held-out topic or a near-duplicate of one"] = debates.height - open_to_training.height
    chosen = _named(debates, settings.chosen)
    if settings.chosen == ["best"]:
        chosen = [_best(open_to_training, verdicts, judge)]
    decided = _decided(open_to_training, verdicts, settings, counts)
    speeches = _speeches(run, decided)
    counts["speeches of winning sides"] = int(speeches["won"].sum())
    counts["speeches of losing sides"] = speeches.height - counts["speeches of winning sides"]
    found = pair_rows(speeches, chosen, settings.rejected)
    counts["pairs of different texts"] = found.height
    if settings.cap is not None:
        found = capped(found, speeches, settings.cap, settings.seed)
        counts["pairs under the cap"] = found.height
    if not found.height:
        steps = "; ".join(f"{what}: {n:,}" for what, n in counts.items())
        raise InputError(f"no pairs are left with these settings ({steps}); loosen --chosen, --min-margin or --judge")
    counts["keys"] = found["key"].n_unique()
    winners, losers = (speeches[found[part]] for part in ("chosen_row", "rejected_row"))
    prompts, prompt_ids = _prompts(run, settings.context, winners, debates, topics)
    pairs = _pairs(winners, losers, prompt_ids, judge)
    used = pl.concat([pairs["chosen_text_id"], pairs["rejected_text_id"]]).unique()
    texts = speeches.filter(pl.col("text_digest").is_in(used.implode())).unique("text_digest", maintain_order=True)
    return PairSet(
        texts=texts.select(text_id="text_digest", text="text"),
        prompts=prompts,
        pairs=pairs,
        judge=judge,
        chosen=chosen or ["any"],
        counts=counts | {"texts": texts.height, "pairs": pairs.height},
    )


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


def _judge(run: Tables, wanted: str | None) -> str:
    known = run.verdicts.select(pl.col("judge").unique().sort()).collect()["judge"].to_list()
    if not known:
        raise InputError(f"{str(run.folder)!r} has no verdicts; judge it first")
    if wanted is None and len(known) > 1:
        raise InputError(f"{str(run.folder)!r} has verdicts of {', '.join(known)}; name one with --judge")
    if wanted is not None and wanted not in known:
        raise InputError(f"no verdicts of judge {wanted!r}; there are those of {', '.join(known)}{near(wanted, known)}")
    return wanted or str(known[0])


def _held_out(topics: Iterable[Topic]) -> list[str]:
    """Which of a run's topics training may not see: the sealed ones, and its own that nearly say the same."""
    known = list(topics)
    sealed = catalogue.load("test")
    near_duplicates = overlaps([topic for topic in known if topic.split == "custom"], sealed)
    marked = [topic for topic in known if topic.split == "test"]  # by whatever catalogue the run was played with
    return [topic.topic_id for topic in (*sealed, *marked, *(topic for topic, _, _ in near_duplicates))]


def _decided(debates: pl.DataFrame, verdicts: pl.DataFrame, settings: Settings, counts: dict[str, int]) -> pl.DataFrame:
    """The debates that say something, with `winner` and `margin`; what each step leaves out is counted."""

    def keep(frame: pl.DataFrame, what: str, predicate: pl.Expr) -> pl.DataFrame:
        kept = frame.filter(predicate)
        counts[what] = frame.height - kept.height
        return kept

    left = keep(debates, "left out, void or unfinished", pl.col("status") == "complete")
    left = left.join(verdicts.drop("judge", "votes"), on="debate_id", how="left", maintain_order="left")
    decides = pl.col("winner").is_in(["for", "against"]).fill_null(False)
    left = keep(left, "left out, no side won", decides)
    left = keep(left, "left out, margin below the least", pl.col("margin").abs() >= settings.min_margin)
    return keep(left, "left out, orders disagree", pl.col("consistent") | pl.lit(not settings.consistent))


def _named(debates: pl.DataFrame, names: list[str]) -> list[str] | None:
    """The contestants that `--chosen` names, each looked up; None for anybody."""
    if names in (["any"], ["best"]):
        return None
    known = sorted({*debates["for_contestant"], *debates["against_contestant"]})
    for name in names:
        if name not in known:
            raise InputError(f"unknown contestants {name!r}; the run has {', '.join(known)}{near(name, known)}")
    return list(names)


def _best(debates: pl.DataFrame, verdicts: pl.DataFrame, judge: str) -> str:
    """The contestant that stands first in the ratings."""
    board = leaderboard(debates, verdicts, judge=judge, resamples=0)
    rated = board.frame.filter(pl.col("debates") > 0)
    if not rated.height:
        raise InputError("nobody has won a debate on a train topic, so there is no best contestant; see --chosen")
    return str(rated["contestant"][0])


def _speeches(run: Tables, decided: pl.DataFrame) -> pl.DataFrame:
    """Every turn of the decided debates: its key, whether its side won, and its text's digest and number."""
    columns = ["debate_id", "match", "topic_id", "winner", "margin", "for_contestant", "against_contestant"]
    is_for = pl.col("side") == "for"
    frame = (
        run.turns.select("debate_id", "turn", "side", "contestant", "text")
        .join(decided.lazy().select(columns), on="debate_id")
        .sort("match", "turn")
        .with_columns(
            won=pl.col("side") == pl.col("winner"),
            margin=pl.when(is_for).then(pl.col("margin")).otherwise(-pl.col("margin")),
            opponent=pl.when(is_for).then(pl.col("against_contestant")).otherwise(pl.col("for_contestant")),
        )
        .drop("winner", "for_contestant", "against_contestant")
        .collect()
    )
    digests = [blake2b(text.encode(), digest_size=16).hexdigest() for text in frame["text"]]
    return frame.with_columns(text_digest=pl.Series(digests, dtype=pl.String)).with_columns(
        row=pl.int_range(pl.len(), dtype=pl.UInt32),
        key=pl.struct(KEY).rank("dense").cast(pl.UInt32),
        text_id=pl.col("text_digest").rank("dense").cast(pl.UInt32),
    )


def _pairs(winners: pl.DataFrame, losers: pl.DataFrame, prompt_ids: pl.Series, judge: str) -> pl.DataFrame:
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
        source=pl.lit("outcome"),
    )


def _prompts(
    run: Tables, context: str, winners: pl.DataFrame, debates: pl.DataFrame, topics: Mapping[str, Topic]
) -> tuple[pl.DataFrame, pl.Series]:
    """The prompts of the chosen speeches, each once, and the prompt's id for every pair."""
    by = list(KEY) if context == "key" else ["debate_id", "turn"]
    wanted = winners.select(*KEY, "debate_id").unique(by, maintain_order=True)
    played = debates.select(Match.__slots__).filter(pl.col("debate_id").is_in(wanted["debate_id"].implode()))
    matches = {row["debate_id"]: Match(**row) for row in played.iter_rows(named=True)}
    slots = Spec.read(run.folder).format
    turns = _turns_of(run, wanted["debate_id"]) if context == "transcript" else {}
    rows = []
    for topic_id, side, turn, debate_id in wanted.iter_rows():
        match = matches[debate_id]
        debate = Debate(
            match=match,
            topic=topics[topic_id],
            slots=slots_for(slots, match.opener),
            turns=turns.get(debate_id, ()),
        )
        slot = debate.slots[turn - 1]
        asked = key_messages(debate, slot) if context == "key" else messages(debate, slot)
        digest = blake2b(json.dumps(asked, ensure_ascii=False).encode(), digest_size=16).hexdigest()
        rows.append((digest, topic_id, side, turn, debate_id, asked))
    schema = {"prompt_id": pl.String, "topic_id": pl.String, "side": pl.String, "turn": pl.Int32}
    prompts = pl.DataFrame(rows, schema=schema | {"debate_id": pl.String, "messages": MESSAGES}, orient="row")
    ids = winners.select(by).join(prompts.select(*by, "prompt_id"), on=by, how="left", maintain_order="left")
    return prompts.drop("debate_id").unique("prompt_id", maintain_order=True), ids["prompt_id"]


def _turns_of(run: Tables, debate_ids: pl.Series) -> dict[str, tuple[Turn, ...]]:
    """What was said in some debates, without what is private."""
    names = list(Turn.__dataclass_fields__)
    wanted = run.turns.filter(pl.col("debate_id").is_in(debate_ids.implode())).sort("debate_id", "turn")
    public = wanted.with_columns(reasoning=pl.lit(None, pl.String)).select(names).collect()
    return {
        str(debate_id): tuple(Turn(**row) for row in turns.iter_rows(named=True))
        for (debate_id,), turns in public.group_by("debate_id", maintain_order=True)
    }


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
