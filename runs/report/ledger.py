"""Chapters of a report on what a run took: words, failures, calls, tokens and money.

Each function takes a `Reading` and yields tables and remarks; the figures come from `runs/costs.py`.
"""

import polars as pl

from runs import costs
from runs.report.reading import (
    Column,
    Note,
    Parts,
    Reading,
    Table,
    dollars,
    estimate,
    listed,
    name,
    plain,
    rate,
    text,
    usd,
    whole,
)


def spoken(reading: Reading) -> Parts:
    """Words by stage, and how often a speech was over its budget."""
    found = costs.stages(reading.run)
    if not len(found):
        yield Note(text="not shown: nobody has spoken")
        return
    yield Table.of(
        found,
        "Words of a turn, and how often one was over its budget and ends at an earlier sentence",
        text("contestant"),
        text("stage"),
        estimate("words", "words"),
        rate("trimmed", "trimmed"),
        whole("turns"),
        whole("topics"),
    )


def completed(reading: Reading) -> Parts:
    """How many debates came to their end."""
    found = costs.completion(reading.run)
    if not len(found):
        yield Note(text="not shown: no debate has ended")
        return
    yield Table.of(
        found,
        "Debates that ended, and how many of them are complete; the others are void, and in no rating",
        text("contestant", none="all"),
        rate("complete", "completion_rate"),
        whole("ended", "debates"),
        whole("void"),
        whole("topics"),
    )


def failed(reading: Reading) -> Parts:
    """What went wrong."""
    found = costs.failures(reading.run)
    if not len(found):
        yield Note(text="nothing failed")
        return
    yield Table.of(
        found.head(MOST),
        "What went wrong, most frequent first",
        text("step"),
        text("kind"),
        text("contestant"),
        text("judge"),
        whole("failures"),
        whole("debates"),
        whole("attempts"),
    )
    if len(found) > MOST:
        yield Note(text=f"{len(found) - MOST:,} more kinds of failure are not shown")


MOST = 50
"""Rows of failures that are shown."""


def spent(reading: Reading) -> Parts:
    """Who took how many calls and tokens, and what they cost."""
    found = costs.spent(reading.run, reading.spec)
    if not len(found):
        yield Note(text="not shown: nobody was asked")
        return
    unpriced = found.filter(pl.col("cost_usd").is_null() & (pl.col("unknown") < pl.col("calls")))
    known = f"{usd(float(found['cost_usd'].sum()))} USD in all" if found["cost_usd"].count() else "no USD known"
    total = "dollars not all known" if len(unpriced) else f"{known}{costs.beside(int(found['unknown'].sum()))}"
    if reading.spec.unpriced:
        yield Note(text=f"no price is set for {listed(reading.spec.unpriced)}, so nobody knows what it cost")
    if found["unknown"].sum():
        yield Note(text=_UNKNOWN)
    yield Table.of(
        found,
        f"Calls, tokens and dollars: {total}; tokens are of the calls that counted them",
        text("whose", "name", none="nobody knows"),
        text("as", "kind"),
        whole("debates"),
        whole("calls"),
        whole("counted"),
        whole("prompt tokens", "prompt_tokens"),
        whole("cached", "cached_tokens"),
        rate("cached share", "cached_share"),
        whole("completion tokens", "completion_tokens"),
        whole("of them reasoning", "reasoning_tokens"),
        dollars("USD", "cost_usd"),
        *_unknown(found),
        dollars("USD a debate", "cost_per_debate", bounded=True),
        plain("seconds", "seconds"),
    )


_UNKNOWN = (
    "a call of unknown cost was sent, and no answer said what it took (a time-out, a broken connection): "
    "sums are without it, and so the least that was spent"
)


def _unknown(found: pl.DataFrame) -> list[Column]:
    """How many calls a cost is without, where there are any."""
    return [whole("of unknown cost", "unknown")] if found["unknown"].sum() else []


def wins(reading: Reading) -> Parts:
    """What a win and a verdict cost."""
    if reading.judge is not None:
        won = costs.per_win(reading.run, reading.spec, reading.judge)
        yield Table.of(
            won,
            f"What a win costs, by {name(reading.judge)}; a tie is half of one",
            text("contestant"),
            plain("wins", "wins", 1),
            dollars("USD", "cost_usd"),
            *_unknown(won),
            dollars("USD a win", "cost_per_win", bounded=True),
            estimate("tokens a win", "tokens_per_win"),
            whole("topics"),
        )
    found = costs.per_verdict(reading.run, reading.spec)
    if len(found):
        yield Table.of(
            reading.by_judge(found),
            "What a verdict costs; a panel's cost is its members', and counted there already",
            text("judge", none="nobody knows"),
            Column(head="members", show=lambda row: name(", ".join(row["members"] or ())), text=True),
            whole("verdicts"),
            whole("votes"),
            whole("invalid", "invalid_votes"),
            whole("calls"),
            dollars("USD", "cost_usd"),
            *_unknown(found),
            dollars("USD a verdict", "cost_per_verdict", bounded=True),
            whole("topics"),
        )
