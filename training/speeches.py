"""The speeches of a run's decided debates: who won with what, under which key, asked by which prompt.

Pairs and demonstrations both begin here. A speech's *key* is (topic, side, turn); whether it *won* is what the judge
said of its debate. Held-out topics never come in: those of a mixed run are left out, and so is a topic of the user's
own that says nearly what a held-out one says. What each step leaves out is counted. Private reasoning is not read.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import polars as pl

import topics as catalogue
from arena.prompting import render
from runs.adapters import Context
from runs.ratings import leaderboard
from runs.records import Debate, Match, Turn, content_seed, slots_for
from runs.run import stored_topics
from runs.spec import Spec
from runs.tables import Tables
from topics import Topic
from topics.errors import InputError, near
from topics.leakage import overlaps

KEY = ("topic_id", "side", "turn")
MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The speeches of the debates that a judge has decided."""

    run: Tables
    judge: str
    chosen: list[str] | None
    """Whose winning speeches are wanted; None for anybody's."""
    speeches: pl.DataFrame
    """One row a speech, in the order of the schedule: `row`, `key`, `topic_id`, `side`, `turn`, `text`, `text_id` (a
    number), `text_digest`, `won`, `margin` (to its side), `contestant`, `opponent`, `debate_id`."""
    topics: Mapping[str, Topic]
    debates: pl.DataFrame
    counts: dict[str, int]
    """What every step found or left out."""

    @property
    def steps(self) -> str:
        """The counts, to be told where nothing is left."""
        return "; ".join(f"{what}: {count:,}" for what, count in self.counts.items())

    @property
    def topics_heard(self) -> list[str]:
        """The topics of the speeches."""
        return self.speeches["topic_id"].unique().sort().to_list()

    def played(self, debate_ids: pl.Series, *, turns: bool = True) -> dict[str, Debate]:
        """Some of the debates by id, with what was said in them, or without; nothing private is read."""
        wanted = debate_ids.unique()
        rows = self.debates.select(Match.__slots__).filter(pl.col("debate_id").is_in(wanted.implode()))
        slots = Spec.read(self.run.folder).format
        said = turns_of(self.run, wanted) if turns else {}
        return {
            match.debate_id: Debate(
                match=match,
                topic=self.topics[match.topic_id],
                slots=slots_for(slots, match.opener),
                turns=said.get(match.debate_id, ()),
            )
            for match in (Match(**row) for row in rows.iter_rows(named=True))
        }


def decided_speeches(
    run: Tables, *, judge: str | None, chosen: list[str], min_margin: float = 0.0, consistent: bool = False
) -> Decided:
    """The speeches of a run that may be trained on.

    `chosen` is ["best"], ["any"] or names of contestants; the best one is who stands first in the ratings.
    """
    judge = _judge(run, judge)
    topics = {topic.topic_id: topic for topic in stored_topics(run.topics)}
    debates = run.debates.collect()
    verdicts = run.verdicts.filter(judge=judge).collect()
    counts = {"debates": debates.height}
    open_to_training = debates.filter(~pl.col("topic_id").is_in(_held_out(topics.values())))
    counts["left out, held-out topic or a near-duplicate of one"] = debates.height - open_to_training.height
    names = _named(debates, chosen)
    if chosen == ["best"]:
        names = [_best(open_to_training, verdicts, judge)]
    left = _decided(open_to_training, verdicts, min_margin, consistent, counts)
    speeches = _speeches(run, left)
    counts["speeches of winning sides"] = int(speeches["won"].sum())
    counts["speeches of losing sides"] = speeches.height - counts["speeches of winning sides"]
    return Decided(run=run, judge=judge, chosen=names, speeches=speeches, topics=topics, debates=debates, counts=counts)


def held_back(topic_ids: Iterable[str], share: float) -> set[str]:
    """The train topics that no training step sees, so that settings can be chosen on them: about a share of them.

    Whether a topic is one depends on it and on the share alone, on no seed and on no other topic, so a policy and its
    parent hold back the same; a larger share holds back all of a smaller one and more. Where that leaves none of a
    few topics, the first by lot is held back.
    """

    def lot(topic_id: str) -> int:
        return content_seed("held back", topic_id)

    train = sorted((topic.topic_id for topic in catalogue.load("train")), key=lot)
    back = set(train[: round(share * len(train))])  # of the catalogue's own exactly the share
    known = set(topic_ids)
    if not known:
        return set()
    own = known.difference(train)
    return (known & back) | {topic_id for topic_id in own if lot(topic_id) < share * 2**63} or {min(known, key=lot)}


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


def _decided(
    debates: pl.DataFrame, verdicts: pl.DataFrame, min_margin: float, consistent: bool, counts: dict[str, int]
) -> pl.DataFrame:
    """The debates that say something, with `winner` and `margin`; what each step leaves out is counted."""

    def keep(frame: pl.DataFrame, what: str, predicate: pl.Expr) -> pl.DataFrame:
        kept = frame.filter(predicate)
        counts[what] = frame.height - kept.height
        return kept

    left = keep(debates, "left out, void or unfinished", pl.col("status") == "complete")
    left = left.join(verdicts.drop("judge", "votes"), on="debate_id", how="left", maintain_order="left")
    decides = pl.col("winner").is_in(["for", "against"]).fill_null(False)
    left = keep(left, "left out, no side won", decides)
    left = keep(left, "left out, margin below the least", pl.col("margin").abs() >= min_margin)
    return keep(left, "left out, orders disagree", pl.col("consistent") | pl.lit(not consistent))


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


def prompts(heard: Decided, context: Context, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """The prompts of some of `heard.speeches`, each once, and the prompt's id for every row of `wanted`.

    They are rendered by what the arena asks with: the key alone, or with what had been said before the speech.
    """
    by = list(KEY) if context == "key" else ["debate_id", "turn"]
    asked = wanted.select(*KEY, "debate_id").unique(by, maintain_order=True)
    debates = heard.played(asked["debate_id"], turns=context == "transcript")
    rows = []
    for topic_id, side, turn, debate_id in asked.iter_rows():
        debate = debates[debate_id]
        said = render(context, debate, debate.slots[turn - 1])
        digest = blake2b(json.dumps(said, ensure_ascii=False).encode(), digest_size=16).hexdigest()
        rows.append((digest, topic_id, side, turn, debate_id, said))
    schema = {"prompt_id": pl.String, "topic_id": pl.String, "side": pl.String, "turn": pl.Int32}
    frame = pl.DataFrame(rows, schema=schema | {"debate_id": pl.String, "messages": MESSAGES}, orient="row")
    ids = wanted.select(by).join(frame.select(*by, "prompt_id"), on=by, how="left", maintain_order="left")
    return frame.drop("debate_id").unique("prompt_id", maintain_order=True), ids["prompt_id"]


def turns_of(run: Tables, debate_ids: pl.Series) -> dict[str, tuple[Turn, ...]]:
    """What was said in some debates, without what is private."""
    names = list(Turn.__dataclass_fields__)
    wanted = run.turns.filter(pl.col("debate_id").is_in(debate_ids.implode())).sort("debate_id", "turn")
    public = wanted.with_columns(reasoning=pl.lit(None, pl.String)).select(names).collect()
    return {
        str(debate_id): tuple(Turn(**row) for row in turns.iter_rows(named=True))
        for (debate_id,), turns in public.group_by("debate_id", maintain_order=True)
    }
