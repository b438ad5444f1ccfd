"""Which debates a list shows: by topic, contestant, outcome and flags.

    narrow(now, Filters(contestant="cedar", outcome="won", flag={"trimmed"}))

Filters are a model, because they come from a URL; the debates that they leave are a frame, made by one expression.
"""

from collections.abc import Iterator
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from runs.view.watch import Now
from topics.errors import InputError, one_line

PAGE = 50
"""Debates on a page."""


class Filters(BaseModel):
    """Which debates a list shows."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: str = ""
    contestant: str = ""
    side: Literal["", "for", "against"] = ""
    """Where the contestant stood."""
    judge: str = ""
    """By whose verdict outcomes are told; the first of the run's judges where none is named."""
    outcome: Literal["", "for", "against", "tie", "abstain", "invalid", "none", "won", "lost"] = ""
    """`none`: no verdict; `won` and `lost` are the contestant's."""
    status: Literal["", "open", "complete", "void"] = ""
    flag: frozenset[Literal["trimmed", "failed", "disagree", "inconsistent", "invalid", "voted"]] = frozenset()
    """All of which a debate has."""
    page: int = Field(default=1, ge=1, le=10**6)


def narrow(now: Now, filters: Filters) -> pl.DataFrame:
    """The debates that `filters` leave, with the judge's `winner` and `margin`, in the order of the schedule.

    Raises `InputError` for a topic, contestant or judge that the run does not know, and where `won`, `lost` or a side
    is asked for without a contestant.
    """
    judge = filters.judge or next(iter(now.judges), "")
    _known("topic", filters.topic, now.topics["topic_id"])
    _known("contestant", filters.contestant, now.contestants)
    _known("judge", filters.judge, now.verdicts["judge"].unique())
    if not filters.contestant and (filters.side or filters.outcome in ("won", "lost")):
        raise InputError(f"{filters.side or filters.outcome!r} is said of a contestant; choose one as well")
    said = now.verdicts.filter(judge=judge).select("debate_id", "winner", "margin")
    debates = now.debates.join(said, on="debate_id", how="left", maintain_order="left")
    return debates.filter(*_conditions(filters))


def _conditions(filters: Filters) -> Iterator[pl.Expr]:
    yield pl.lit(True)
    if filters.topic:
        yield pl.col("topic_id") == filters.topic
    if filters.status:
        yield pl.col("status") == filters.status
    yield from map(pl.col, sorted(filters.flag))
    on = {side: pl.col(f"{side}_contestant") == filters.contestant for side in ("for", "against")}
    if filters.contestant:
        yield on[filters.side] if filters.side else on["for"] | on["against"]
    winner = pl.col("winner")
    if filters.outcome in ("won", "lost"):
        of_for, of_against = ("for", "against") if filters.outcome == "won" else ("against", "for")
        yield (on["for"] & (winner == of_for)) | (on["against"] & (winner == of_against))
    elif filters.outcome == "none":
        yield winner.is_null()
    elif filters.outcome:
        yield winner == filters.outcome


def _known(what: str, name: str, known: Any) -> None:
    if name and name not in known:
        raise InputError(f"no {what} {one_line(name, 60)!r} in this run")
