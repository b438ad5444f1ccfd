"""Screening: which side of a motion holds before anyone has spoken, and which motions are one-sided.

    judge = Screener("gpt", ask=ask, samples=5)
    vote = await judge.vote(debate, "for_first", 0)      # on the motion of a debate in which nobody has spoken
    frame = priors(answers)                              # a row for each topic and judge

A debate on a motion that every judge has decided beforehand tells little of who argued better, so motions are screened
with the judges that are to judge them. Each is asked in both orders, which side is named first, several times. A
judge's prior on a motion is the share of its answers that go to FOR, where "even" counts half. An answer that could
not be had is `invalid`: it leaves the count, and never becomes "even".

Two intervals stand beside a prior, since there are two questions:

1. What would these judges say if they were asked again? `low` and `high`: Wilson's interval over their answers. An
   answer is a draw by itself once judge and motion are given, so it holds for just these judges.
2. What would other judges like these say? `judges_low` and `judges_high`: answers of one judge go together, so the
   judge is the unit (`runs/statistics.py`). Three judges that all agree leave this one wide open, as they should.

`one_sided` is about the first, for those who will judge: the whole interval lies above 2/3 or below 1/3. It takes
eight answers that agree to get there, four in each order; with fewer nothing is flagged, and `too_few` says so. It is a
screen and not a test: of motions on which a judge tosses a coin, eight answers flag one in 128.
"""

from typing import Annotated, Any, Literal, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from judges.answers import Unreadable, ask_until, checked, closed, one_object, whole, wording
from judges.asking import Ask, Message, Question, Reply
from runs import statistics
from runs.adapters import aligned
from runs.records import Debate, Order, Vote, content_id
from runs.tables import Tables
from topics import SIDES, Side, Topic

ORDERS: tuple[Order, ...] = get_args(Order)
SAMPLES = 5
"""Answers in each order: as many as a flag takes, and one that may fail."""
ALL = "*"
"""Stands for all judges together in the table of priors."""
ONE_SIDED = 2 / 3
"""A prior beyond this, or below 1 minus this, is one-sided."""
LEAST = 4
"""Valid answers in each order that a flag takes: Wilson's bound of n that agree is n / (n + 1.96^2), over 2/3 at 8."""

_VALUE = {"for": 1.0, "even": 0.5, "against": 0.0}


class Answer(BaseModel):
    """What a judge says of a motion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Annotated[str, Field(strict=True, pattern=r"\S")]
    winner: Literal["for", "against", "even"]
    confidence: Annotated[float, Field(strict=True, ge=0, le=100, multiple_of=1)]


class Screener:
    """A judge of motions: it is shown the motion of a debate, and nothing of what was said."""

    orders = ORDERS

    def __init__(self, name: str, *, ask: Ask, samples: int = SAMPLES) -> None:
        self.name = name
        self.ask = ask
        self.samples = samples
        self.digest = digest()

    async def vote(self, debate: Debate, order: Order, sample: int) -> Vote:
        """One answer, "even" as a tie; what cannot be read is repaired once. Raises `NoReply` or `NotNow`."""
        question = Question(
            about=debate.id,
            messages=messages(debate.topic, order, sample),
            schema=schema(order),
            draw=sample * len(ORDERS) + ORDERS.index(order),
        )
        answer, reply = await ask_until(self.ask, question, lambda reply: (read(reply), reply), attempts=2)
        return Vote(
            debate_id=debate.id,
            judge=self.name,
            order=order,
            sample=sample,
            winner="tie" if answer.winner == "even" else answer.winner,
            confidence=answer.confidence / 100,
            rationale=answer.reason,
            call_id=reply.call_id,
        )


def messages(topic: Topic, order: Order, sample: int) -> list[Message]:
    """What is asked; everything before the last paragraph is the topic's alone."""
    first, second = _sides(order)
    parts = [
        f"Motion: {topic.motion}",
        *([f"What is known: {topic.info}"] if topic.info else []),
        wording("screen_tail").format(reading=sample + 1, first=first, second=second),
    ]
    return [{"role": "system", "content": wording("screen")}, {"role": "user", "content": "\n\n".join(parts)}]


def schema(order: Order) -> dict[str, Any]:
    """JSON schema of an answer; of the sides, the one that is named first."""
    winners = [*_sides(order), "even"]
    return closed(
        {"reason": {"type": "string"}, "winner": {"type": "string", "enum": winners}, "confidence": whole(100)}
    )


def read(reply: Reply) -> Answer:
    """What an answer says; raises `Unreadable`."""
    found = one_object(reply.text)
    answer = checked(found, Answer)
    if list(found).index("winner") < list(found).index("reason"):
        raise Unreadable("winner: stands before the reason; give the reason first")
    return answer


def digest() -> str:
    """Digest of all words and rules that an answer depends on, but for the topic's own."""
    schemas = [schema(order) for order in ORDERS]
    return content_id(*map(wording, ("screen", "screen_tail", "repair")), schemas)


# ── what it comes to ─────────────────────────────────────────────────────────────────────────────


def answers(tables: Tables) -> pl.DataFrame:
    """A row an answer, from the tables of a run in which nobody spoke; topics in their order.

    `topic_id`, `judge`, `order` (the side that was named first), `sample`, `winner` (`for`, `against`, `even`,
    `invalid`), `confidence` (0 to 1), `reason`, `error`; and of the call that brought it `prompt_tokens`,
    `cached_tokens`, `completion_tokens`, `cost_usd`. Calls that brought nothing are in the run's table of calls alone.
    """
    debates, votes, calls = (frame.collect() for frame in (tables.debates, tables.votes, tables.calls))
    took = calls.select("call_id", "prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")
    return (
        votes.join(debates.select("debate_id", "topic_id"), on="debate_id", maintain_order="left")
        .join(took, on="call_id", how="left", maintain_order="left")
        .select(
            *("topic_id", "judge", "order", "sample"),
            pl.col("winner").replace({"tie": "even"}),
            "confidence",
            pl.col("rationale").alias("reason"),
            *("error", *took.columns[1:]),
        )
    )


def priors(answers: pl.DataFrame) -> pl.DataFrame:
    """The priors that `answers` (`topic_id`, `judge`, `order`, `winner`) come to, topics in their order.

    `topic_id`, `judge`   the judge, or `*` for all of them together
    `judges`              how many of them gave a valid answer
    `answers`, `invalid`  valid answers, and those that could not be had
    `prior`               share of the valid answers for FOR, "even" as half; null where there is none
    `low`, `high`         95 %, Wilson, over answers: these judges, asked again
    `judges_low`, `judges_high`
                          95 %, the judge as the unit: other judges like these; null where fewer than two answered
    `one_sided`           `for` or `against`; `no`, it is not shown to be; `too_few` answers to tell
    """
    valued = answers.with_columns(
        by=pl.col("judge"), value=pl.col("winner").replace_strict(_VALUE, default=None, return_dtype=pl.Float64)
    )
    every = pl.concat([valued, valued.with_columns(judge=pl.lit(ALL))])
    groups = every.group_by("topic_id", "judge", maintain_order=True)
    valid = pl.col("value").is_not_null()
    in_order = [(valid & (pl.col("order") == order)).sum() for order in ORDERS]
    rows = groups.agg(
        judges=pl.col("by").filter(valid).n_unique().cast(pl.Int32),
        answers=valid.sum().cast(pl.Int32),
        invalid=(~valid).sum().cast(pl.Int32),
        prior=pl.col("value").mean(),
        enough=pl.min_horizontal(in_order) >= LEAST,
    )
    found = pl.concat([rows, _over_answers(rows), _over_judges(every, rows)], how="horizontal")
    order = {topic: place for place, topic in enumerate(answers["topic_id"].unique(maintain_order=True))}
    flag = (
        pl.when(~pl.col("enough"))
        .then(pl.lit("too_few"))
        .when(pl.col("low") > ONE_SIDED)
        .then(pl.lit("for"))
        .when(pl.col("high") < 1 - ONE_SIDED)
        .then(pl.lit("against"))
        .otherwise(pl.lit("no"))
    )
    return found.sort(pl.col("topic_id").replace_strict(order, return_dtype=pl.Int64), maintain_order=True).select(
        pl.exclude("enough"), one_sided=flag
    )


def flagged(priors: pl.DataFrame) -> pl.DataFrame:
    """The rows of motions that are one-sided for all judges together, the most one-sided first."""
    together = priors.filter(pl.col("judge") == ALL, pl.col("one_sided").is_in(["for", "against"]))
    return together.sort((pl.col("prior") - 0.5).abs(), descending=True, maintain_order=True)


def table(priors: pl.DataFrame, most: int = 20) -> str:
    """One-sided motions, `most` of them, with what each judge says, as text; empty where there are none."""
    judges = [name for name in priors["judge"].unique(maintain_order=True) if name != ALL]
    rows = flagged(priors)
    by = {(topic, judge): prior for topic, judge, prior in priors.select("topic_id", "judge", "prior").iter_rows()}
    cells = [["one-sided motion", "side", "prior", "95 %", *judges]]
    for row in rows.head(most).iter_rows(named=True):
        said = [by.get((row["topic_id"], judge)) for judge in judges]
        each = ["-" if prior is None else f"{prior:.2f}" for prior in said]
        interval = f"{row['low']:.2f}-{row['high']:.2f}"
        cells.append([row["topic_id"], row["one_sided"], f"{row['prior']:.2f}", interval, *each])
    more = f"\nand {rows.height - most:,} more" if rows.height > most else ""
    return aligned(cells, right=2 + len(judges)) + more if rows.height else ""


def _over_answers(rows: pl.DataFrame) -> pl.DataFrame:
    """Wilson's interval of each row; null without an answer."""
    from statsmodels.stats.proportion import proportion_confint  # slow to import

    answered = pl.when(pl.col("answers") > 0).then(pl.col("answers").cast(pl.Float64))
    n = rows.select(answered).to_series().to_numpy()
    low, high = proportion_confint(rows["prior"].to_numpy() * n, n, method="wilson")
    return pl.DataFrame({"low": low, "high": high}).fill_nan(None)


def _over_judges(every: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The interval with judges as units, of the rows of all judges."""
    together = every.filter(pl.col("judge") == ALL, pl.col("value").is_not_null())
    by_topic = {topic: frame for (topic,), frame in together.group_by("topic_id")}
    found: list[statistics.Estimate | None] = []
    for topic, judge, judges in rows.select("topic_id", "judge", "judges").iter_rows():
        if judge != ALL or judges < 2:
            found.append(None)
            continue
        frame = by_topic[topic].sort("by")
        found.append(statistics.rate(frame["value"].to_list(), frame["by"].to_list()))
    bounds = {"judges_low": [e and e.low for e in found], "judges_high": [e and e.high for e in found]}
    return pl.DataFrame(bounds, schema=dict.fromkeys(bounds, pl.Float64()))


def _sides(order: Order) -> tuple[Side, Side]:
    return SIDES if order == "for_first" else (SIDES[1], SIDES[0])
