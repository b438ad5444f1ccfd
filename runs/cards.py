"""Report cards of judges: where they lie, and what they say of a judge that a leaderboard goes by.

    card = card_of(OUT, entry)         # the newest of a judge, from its entry in a spec; None where it has none
    mark(card)                         # "below its gates: known_answers 0.71 (at least 0.9)", or nothing

A calibration is a run under `<out>/calibrations/` (`arena/calibrate.py`). Beside its tables lie `cases.parquet`, what
was made and why, `card.parquet`, the card as a table, and, written last, `card.json`: the same with the judge's entry.

A card is found by what the judge is, not by what it is called: a digest of its entry without the fields that say
nothing of how it votes. How many votes it gives and in which orders are among them, because a card is of single votes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from runs.adapters import aligned
from runs.files import replace_text
from runs.records import content_id
from runs.run import folders
from topics.errors import InputError, one_line

FOLDER = "calibrations"
"""Under the folder in which runs are made."""
NAME, TABLE = "card.json", "card.parquet"
LABELS = frozenset({"name", "family", "lineage", "trajectory", "orders", "samples"})
"""Fields of a judge's entry that do not tell how it votes."""


class Row(BaseModel):
    """One metric, as in card.parquet."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    metric: str
    value: float | None
    low: float | None
    high: float | None
    topics: int
    n: int
    gate: str | None
    passed: bool | None
    unknown_calls: int | None = None
    """Calls that a cost is without, or without a part of; null where it is none, and in cards of earlier versions."""


class Card(BaseModel):
    """A report card, as it stands in card.json."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    judge: dict[str, Any]
    """The judge's entry."""
    digest: str
    """Of what the judge is."""
    run: str
    """The calibration that it comes from."""
    from_run: str
    """The run whose debates were taken."""
    made_at: datetime
    rows: tuple[Row, ...]

    @property
    def failed(self) -> list[Row]:
        """The metrics that are not as their gates demand."""
        return [row for row in self.rows if row.passed is False]

    @property
    def unknown(self) -> list[Row]:
        """The metrics that have a gate and no value."""
        return [row for row in self.rows if row.gate is not None and row.passed is None]


def digest_of(judge: Mapping[str, Any]) -> str:
    """Digest of what a judge is, from its entry; the same under another name."""
    kept = {name: value for name, value in judge.items() if name not in LABELS and value is not None}
    return content_id(json.dumps(kept, sort_keys=True, default=str))


def write(folder: Path, table: pl.DataFrame, *, judge: Mapping[str, Any], from_run: str) -> Card:
    """Write the card of a calibration into its folder."""
    fresh = folder / f".{TABLE}.new"
    table.write_parquet(fresh)
    fresh.replace(folder / TABLE)
    card = Card(
        judge=dict(judge),
        digest=digest_of(judge),
        run=folder.name,
        from_run=from_run,
        made_at=datetime.now(UTC),
        rows=tuple(Row.model_validate(row) for row in table.to_dicts()),
    )
    replace_text(folder / NAME, card.model_dump_json(indent=1) + "\n")
    return card


def is_there(folder: Path) -> bool:
    """Whether a calibration has come to its end."""
    return (folder / NAME).is_file()


def read(folder: Path) -> Card:
    """The card in the folder of a calibration."""
    path = folder / NAME
    try:
        return Card.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        again = "delete it, and calibrate the judge again"
        raise InputError(f"{str(path)!r} cannot be read as a card ({one_line(str(what))}); {again}") from None


def cards(out: Path) -> Iterator[Card]:
    """All cards under `out`, newest first."""
    return (read(folder) for folder in folders(out / FOLDER) if is_there(folder))


def look(out: Path) -> tuple[list[Card], list[str]]:
    """The cards under `out` that can be read, newest first, and why others cannot."""
    found, unread = [], []
    for folder in filter(is_there, folders(out / FOLDER)):
        try:
            found.append(read(folder))
        except InputError as error:
            unread.append(str(error))
    return found, unread


def card_of(out: Path, judge: Mapping[str, Any]) -> Card | None:
    """The newest card of a judge, from its entry; None where it was never calibrated."""
    return newest(cards(out), judge)


def newest(found: Iterable[Card], judge: Mapping[str, Any]) -> Card | None:
    """The first of `found` that is of a judge."""
    wanted = digest_of(judge)
    return next((card for card in found if card.digest == wanted), None)


def mark(card: Card) -> str:
    """What a reader of the judge's verdicts has to be told, on one line; empty where all is as it must be."""
    below = ", ".join(f"{row.metric} {_number(row.value)} ({row.gate})" for row in card.failed)
    unknown = ", ".join(row.metric for row in card.unknown)
    parts = [f"below its gates: {below}"] if below else []
    return one_line("; ".join([*parts, *([f"not measured: {unknown}"] if unknown else [])]), 500)


def render(card: Card) -> str:
    """A card as a text table, and below it which costs are not known in all."""
    rows = [("", "", "gate", "value", "95 % interval", "topics", "n"), *(_cells(row) for row in card.rows)]
    table = aligned([[one_line(cell, 40) for cell in row] for row in rows], right=4)
    return "\n".join([table, *(_untold(row) for row in card.rows if row.unknown_calls)])


def _untold(row: Row) -> str:
    what = "not known" if row.value is None else "the least that it can be"
    calls = f"{row.unknown_calls:,} {'call' if row.unknown_calls == 1 else 'calls'}"
    return f"note: {one_line(row.metric, 40)} is {what}, as nobody knows what {calls} cost in all"


def _cells(row: Row) -> Sequence[str]:
    interval = "-" if row.low is None else f"{_number(row.low)} to {_number(row.high)}"
    said = {True: "passed", False: "FAILED", None: "-" if row.gate is None else "not measured"}[row.passed]
    return row.metric, said, row.gate or "-", _number(row.value), interval, f"{row.topics:,}", f"{row.n:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"  # never -0.000
