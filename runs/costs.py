"""What a run took, and from whom: calls, tokens, money, time, and what was paid for a win or a verdict.

    run, spec = runs.load(folder), Spec.read(folder)
    spent(run, spec)                   # the ledger: every call has one place in it
    per_win(run, spec, "gpt")          # cost and tokens of a contestant's win
    per_verdict(run, spec)             # cost of a judge's verdict; a panel's is its members'
    stages(run), failures(run), completion(run)
    beside(3)                          # " and 3 calls of unknown cost", to stand behind a sum

A call to a contestant is of who speaks on its turn's side, whether it came to anything or not. A judge's call is of the
judge whose vote names it. Calls that no vote names (the first answer where a repair was needed, a vote that stays owed)
are of the judge that asks that model at that endpoint, where there is one only. What then has no owner stands in a row
without a name, so that the ledger adds up to the run.

Nothing counted is null, never 0: a contestant that asks nobody has no tokens, and `counted` says of how many calls the
tokens are. So is a cost of which a part is not known: at an endpoint without a price nobody knows what an answer costs,
while what is simulated, or answers on this machine, costs nothing. An attempt that was sent and of which nobody said
what it took (a time-out, a connection that broke) has a price, and may have cost it: sums are without it, and how many
such calls there are stands beside each of them (`unknown`). Shares, and costs of something, have intervals over topics
(`runs/shares.py`).
"""

import polars as pl

from runs.pairings import decided, seats
from runs.shares import shares
from runs.spec import Spec
from runs.tables import Tables
from topics import SIDES, opposite

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")

_COSTS = ["cost_usd", "unknown", "unknown_usd"]
_CALL = ["call_id", "debate_id", "role", "turn", "endpoint", "model", "latency_s", *_COSTS, *TOKENS]
_SEATS = ["for_contestant", "against_contestant"]


# Whose a call is


def paid(spec: Spec) -> pl.Expr:
    """`cost_usd` of calls; null at an endpoint without a price, unless it had one when the call was made."""
    unknown = pl.col("endpoint").is_in(spec.unpriced) & (pl.col("cost_usd") == 0)
    return pl.when(~unknown).then("cost_usd").alias("cost_usd")


def unknown(spec: Spec) -> pl.Expr:
    """Of which calls nobody knows what they cost in all, though there is a price: `unknown`."""
    return (pl.col("unknown_usd").is_not_null() & ~pl.col("endpoint").is_in(spec.unpriced)).alias("unknown")


def beside(calls: int) -> str:
    """What is to be said behind a sum that is without so many calls, or a part of them."""
    return f" and {calls:,} {'call' if calls == 1 else 'calls'} of unknown cost" if calls else ""


def owned(run: Tables, spec: Spec) -> pl.LazyFrame:
    """A run's calls with their `topic_id`, `kind` (`contestant`, `judge`, or another's role) and `name`, whose they are
    (null: nobody knows); `cost_usd` as `paid` has it, `unknown`, and `unknown_usd`."""
    about = run.debates.select("debate_id", "topic_id", "opener", *_SEATS)
    speaks, judges = pl.col("role").is_in(["speak", "shorten"]), pl.col("role") == "judge"
    speaker = pl.when(side="for").then(_SEATS[0]).when(side="against").then(_SEATS[1])
    return (
        run.calls.with_columns(unknown(spec), paid(spec))
        .select(_CALL)
        .join(about, on="debate_id", how="left")
        .join(_sides(spec), on=["opener", "turn"], how="left")
        .join(_named(run), on="call_id", how="left")
        .join(_asking(spec), on=["endpoint", "model"], how="left")
        .with_columns(
            kind=pl.when(speaks).then(pl.lit("contestant")).otherwise("role"),
            name=pl.when(speaks).then(speaker).when(judges).then(pl.coalesce("named", "asks")),
        )
        .select(*_CALL, "topic_id", "kind", "name")
    )


def _sides(spec: Spec) -> pl.LazyFrame:
    """Whose turn it is: `opener`, `turn`, `side`; where another opens than in the format, sides change places."""
    rows = [
        (opener, slot.turn, slot.side if opener == spec.format[0].side else opposite(slot.side))
        for opener in SIDES
        for slot in spec.format
    ]
    return pl.LazyFrame(rows, schema={"opener": pl.String, "turn": pl.Int32, "side": pl.String}, orient="row")


def _named(run: Tables) -> pl.LazyFrame:
    """Calls that a vote names: `call_id`, `named`, the judge."""
    votes = run.votes.select("call_id", named="judge").drop_nulls()
    return votes.unique("call_id", keep="first", maintain_order=True)


def _asking(spec: Spec) -> pl.LazyFrame:
    """Models that one judge alone asks: `endpoint`, `model`, `asks`, the judge."""
    rows = [(judge["endpoint"], judge.get("model"), judge["name"]) for judge in spec.judges if judge.get("endpoint")]
    asking = pl.LazyFrame(rows, schema=dict.fromkeys(("endpoint", "model", "asks"), pl.String), orient="row")
    return asking.filter(pl.len().over("endpoint", "model") == 1)


# What was spent


def spent(run: Tables, spec: Spec) -> pl.DataFrame:
    """The ledger, a row for each whose calls there are: `kind` and `name` as in `owned`; `debates` that they are of,
    `calls`, `counted`, tokens, `cost_usd` (null where a call's is not known for want of a price, or none is known) and
    `unknown` (how many calls it is without, or without a part of), `seconds` (of all answers, one after the other);
    `cached_share` of prompt tokens and `cost_per_debate` with bounds, `topics`, `few_topics`.
    """
    calls = owned(run, spec).with_columns(call=1).collect()
    by = ["kind", "name"]
    sums = [pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in TOKENS]
    ledger = calls.group_by(by).agg(
        pl.col("debate_id").n_unique().cast(pl.Int32).alias("debates"),
        pl.len().cast(pl.Int32).alias("calls"),
        pl.col("prompt_tokens").count().cast(pl.Int32).alias("counted"),
        *sums,
        _all_of("cost_usd"),
        _unknown,
        pl.col("latency_s").sum().alias("seconds"),
    )
    first = pl.col("debate_id").is_first_distinct().over(by)
    cost = shares(calls, by, {"cost_per_debate": pl.col("cost_usd").fill_null(0)}, first, bounded=False)
    prompts = calls.drop_nulls(["prompt_tokens", "cached_tokens"])
    cached = shares(prompts, by, {"cached_share": pl.col("cached_tokens")}, pl.col("prompt_tokens"))
    return (
        ledger.join(cached.drop("topics", "few_topics"), on=by, how="left", nulls_equal=True)
        .join(cost, on=by, how="left", nulls_equal=True)
        .with_columns(_with("cost_usd", "cost_per_debate"))
        .sort(by, nulls_last=True)
    )


def _all_of(column: str, excused: str = "unknown") -> pl.Expr:
    """The sum over calls; null where it is not known of each of them that is not `excused`, or of none."""
    told = pl.col(column).is_not_null()
    known = (told & (pl.col("call") > 0)).any() & (told | pl.col(excused)).all()
    return pl.when(known).then(pl.col(column).sum()).alias(column)


_unknown = pl.col("unknown").sum().cast(pl.Int32)


def _with(whole: str, per: str) -> pl.Expr:
    """What something costs, with its bounds; null where the whole is."""
    return pl.when(pl.col(whole).is_not_null()).then(pl.col(f"^{per}.*$"))


def per_win(run: Tables, spec: Spec, judge: str | None = None) -> pl.DataFrame:
    """What a win costs, a tie being half of one: `judge`, `contestant`, `wins`, `cost_usd`, `unknown` (calls that it is
    without), `cost_per_win` and `tokens_per_win` (prompt and completion) with bounds, `topics`, `few_topics`.

    Counted are debates that the judge decided, and void ones, in which nobody can win what was paid for. Null for
    somebody who never won, or asks nobody; a cost where that of some call is not known, `unknown` ones aside; tokens
    where some call's are not, those aside that had no answer to say it, whatever the price.
    """
    by = ["judge", "contestant"]
    rows = decided(run.debates, run.verdicts, judge)
    void = run.debates.filter(status="void").select("debate_id").join(rows.select("judge").unique(), how="cross")
    spoken = owned(run, spec).filter(kind="contestant").rename({"name": "contestant"}).drop_nulls("contestant")
    in_them = pl.concat([rows.select("judge", "debate_id"), void.select("judge", "debate_id")])
    tokens = pl.col("prompt_tokens") + pl.col("completion_tokens")
    cost = spoken.join(in_them, on="debate_id").select(
        "topic_id",
        *by,
        "cost_usd",
        "unknown",
        untold=pl.col("unknown_usd").is_not_null(),
        tokens=tokens,
        call=1,
        win=0.0,
    )
    won = seats(rows).select(
        "topic_id", *by, cost_usd=0.0, unknown=False, untold=False, tokens=pl.lit(0, pl.Int64), call=0, win="score"
    )
    both = pl.concat([cost, won]).collect()
    parts = {"cost_per_win": pl.col("cost_usd").fill_null(0), "tokens_per_win": pl.col("tokens").fill_null(0)}
    sums = both.group_by(by).agg(
        pl.col("win").sum().alias("wins"), _all_of("cost_usd"), _unknown, _all_of("tokens", "untold")
    )
    found = sums.join(shares(both, by, parts, pl.col("win"), bounded=False), on=by).sort(by)
    return found.with_columns(_with("cost_usd", "cost_per_win"), _with("tokens", "tokens_per_win")).drop("tokens")


def per_verdict(run: Tables, spec: Spec) -> pl.DataFrame:
    """What a verdict costs: `judge` (null: calls that have no judge), `members` (of a panel, whose cost is theirs; null
    for others, whose costs add up to the run's), `votes` and `invalid_votes`, `verdicts` that are valid, `calls`,
    `cost_usd`, `unknown` (calls that it is without), and `cost_per_verdict` with bounds (null for a judge that asks
    nobody, and where a call's cost is not known for want of a price), `topics`, `few_topics`.

    What was paid for votes that came to nothing counts as well. A trajectory's (`gpt@4`) are apart from its judge's.
    """
    cast = run.votes.group_by("judge").agg(
        pl.len().cast(pl.Int32).alias("votes"),
        (pl.col("winner") == "invalid").sum().cast(pl.Int32).alias("invalid_votes"),
    )
    panels = [(str(panel["name"]), [str(name) for name in panel["members"]]) for panel in spec.panels]
    seated = pl.LazyFrame(panels, schema={"judge": pl.String, "members": pl.List(pl.String)}, orient="row")
    asked = owned(run, spec).filter(kind="judge")
    calls = asked.select("topic_id", "cost_usd", "unknown", judge="name", call=1, verdict=0)
    theirs = seated.explode("members").join(calls, left_on="members", right_on="judge").drop("members")
    valid = run.verdicts.filter(pl.col("winner") != "invalid").join(run.debates, on="debate_id")
    given = valid.select("topic_id", "judge", cost_usd=0.0, unknown=False, call=0, verdict=1)
    columns = ["topic_id", "judge", "cost_usd", "unknown", "call", "verdict"]
    rows = pl.concat([part.select(columns) for part in (calls, theirs, given)]).collect()
    sums = rows.group_by("judge").agg(
        pl.col("verdict").sum().cast(pl.Int32).alias("verdicts"),
        pl.col("call").sum().cast(pl.Int32).alias("calls"),
        _all_of("cost_usd"),
        _unknown,
    )
    parts = {"cost_per_verdict": pl.col("cost_usd").fill_null(0)}
    cost = shares(rows, ["judge"], parts, pl.col("verdict"), bounded=False)
    return (
        sums.join(seated.collect(), on="judge", how="left")
        .join(cast.collect(), on="judge", how="left")
        .join(cost, on="judge", how="left", nulls_equal=True)
        .with_columns(_with("cost_usd", "cost_per_verdict"), pl.col("votes", "invalid_votes").fill_null(0))
        .select("judge", "members", "votes", "invalid_votes", *sums.columns[1:], *cost.columns[1:])
        .sort("judge", nulls_last=True)
    )


# What was spoken, and what went wrong


def stages(run: Tables) -> pl.DataFrame:
    """What contestants say in each stage: `contestant`, `stage` in the order of speaking, `words` (the mean) and
    `trimmed` (the share of turns that were over their budget) with bounds, `topics`, `few_topics`, `turns`."""
    said = run.turns.select("debate_id", "turn", "stage", "contestant", "words", "trimmed")
    rows = said.join(run.debates.select("debate_id", "topic_id"), on="debate_id").collect()
    by = ["contestant", "stage"]
    words = shares(rows, by, {"words": pl.col("words")}, bounded=False).drop("topics", "few_topics")
    trimmed = shares(rows, by, {"trimmed": pl.col("trimmed")})
    place = rows.group_by(by).agg(pl.len().cast(pl.Int32).alias("turns"), pl.col("turn").min())
    return words.join(trimmed, on=by).join(place, on=by).sort("contestant", "turn", "stage").drop("turn")


def failures(run: Tables) -> pl.DataFrame:
    """What went wrong, most frequent first: `step`, `kind`, `contestant`, `judge` (null where it was none's),
    `failures`, `debates`, `attempts`."""
    by = ["step", "kind", "contestant", "judge"]
    return (
        run.failures.group_by(by)
        .agg(
            pl.len().cast(pl.Int32).alias("failures"),
            pl.col("debate_id").n_unique().cast(pl.Int32).alias("debates"),
            pl.col("attempts").sum().cast(pl.Int32),
        )
        .sort("failures", *by, descending=[True, *[False] * 4])
        .collect()
    )


def completion(run: Tables) -> pl.DataFrame:
    """How many of the debates that ended are complete: `contestant` (null: all), `completion_rate` with bounds,
    `topics`, `few_topics`, `debates`, `void`; a debate counts for both who sat in it."""
    ended = run.debates.filter(pl.col("status") != "open").select("topic_id", "status", *_SEATS)
    nobody = pl.lit(None, pl.String)
    places = [ended.select("topic_id", "status", contestant=who) for who in (nobody, *map(pl.col, _SEATS))]
    rows = pl.concat(places).collect()
    rate = shares(rows, ["contestant"], {"completion_rate": pl.col("status") == "complete"})
    counts = rows.group_by("contestant").agg(
        pl.len().cast(pl.Int32).alias("debates"), (pl.col("status") == "void").sum().cast(pl.Int32).alias("void")
    )
    return rate.join(counts, on="contestant", how="left", nulls_equal=True, maintain_order="left")
