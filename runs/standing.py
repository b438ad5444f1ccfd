"""Who can be rated by a model with several terms, and which of its terms can be told from the others.

    standing = stand(rows, names, judges, length=True)      # the verdicts that ratings rest on, and the terms
    design_DP = np.column_stack([term.columns_DP for term in standing.terms])

Verdicts that the model's limit predicts with certainty have no say about the rest (`runs/regression.py`), and who is
left without any, or apart from the largest group that met, has no rating. A term whose columns follow from those of the
terms before it cannot be told. What was kept out, and why, is said in one sentence each.

Array names end in their dimensions: D verdicts, C contestants, J judges, P parameters, N names (of contestants or
judges).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from runs.bradley_terry import reach
from runs.regression import CERTAIN, uncertain
from runs.statistics import Array
from topics.errors import listed

SEATS = ("for_contestant", "against_contestant")


@dataclass(frozen=True)
class Term:
    name: str
    who: Sequence[str | None]
    """Contestants or judges, each of whom has a value; None for a value of all."""
    columns_DP: Array
    read_NP: Array
    """Values, in logits, from parameters."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    rows: pl.DataFrame
    """Verdicts that ratings rest on; none where nobody has a rating."""
    terms: list[Term]
    """The strengths first."""
    notes: tuple[str, ...]

    @property
    def topics(self) -> int:
        """Topics of these verdicts."""
        return self.rows["topic_id"].n_unique()


def stand(rows: pl.DataFrame, names: list[str], judges: list[str], length: bool) -> Standing:
    """The largest group that can be rated, by which terms, and what keeps others out."""
    telling = kept = _telling(rows)
    while len(group := _largest(kept)) < len(kept):
        kept = _telling(group)
    terms, notes = _terms(kept, length) if len(kept) else ([], (_why_nothing(rows),))
    kept = kept if terms else kept.clear()
    spoke, told, rated = (seated(frame) for frame in (rows, telling, kept))
    return Standing(
        rows=kept,
        terms=terms,
        notes=(
            *notes,
            *named(spoke - told, "rating unbounded, the model's limit predicts every verdict on them: {}"),
            *named(told - rated if rated else (), "disconnected, nothing undecided leads to those rated: {}"),
            *named({*names} - spoke, "no rated debate, so no rating: {}"),
            *named({*judges} - {*kept["judge"]}, "no verdict that ratings rest on, so no term of its own: judge {}"),
        ),
    )


def _why_nothing(rows: pl.DataFrame) -> str:
    if not len(rows):
        return "no rated verdict, so nobody has a rating"
    return "no rating exists: the limit predicts every verdict with certainty, so few are they for so many terms"


def _telling(rows: pl.DataFrame) -> pl.DataFrame:
    """The verdicts that the model's limit does not predict with certainty."""
    if not len(rows):
        return rows
    parts = [_seats(rows, sorted(seated(rows))), _codes(rows["judge"], sorted({*rows["judge"]})), _opened(rows)]
    design_DP = np.column_stack([np.ones(len(rows)), *parts, rows["z"].to_numpy()])
    return rows.filter(uncertain(rows["score"].to_numpy(), design_DP))


def _largest(rows: pl.DataFrame) -> pl.DataFrame:
    """The verdicts within the largest group of contestants who met, directly or through others."""
    if not len(rows):
        return rows
    names = sorted(seated(rows))
    on_for_DC, on_against_DC = (_codes(rows[seat], names) for seat in SEATS)
    met_CC = on_for_DC.T @ on_against_DC
    first_C = reach(met_CC / 2, met_CC).argmax(axis=1)
    size = {first: ((first_C == first).sum(), met_CC[first_C == first].sum()) for first in first_C.tolist()}
    members = [name for name, first in zip(names, first_C, strict=True) if first == max(size, key=size.__getitem__)]
    return rows.filter(pl.all_horizontal(pl.col(SEATS).is_in(members)))


def _terms(rows: pl.DataFrame, length: bool) -> tuple[list[Term], tuple[str, ...]]:
    """The terms that can be told from those before them; none where not even ratings can; and what became of others."""
    contestants, judges = sorted(seated(rows)), sorted({*rows["judge"]})
    own, among_C, among_J = np.ones((1, 1)), _contrast(len(contestants)), _contrast(len(judges))
    strength = Term("strengths", contestants, _seats(rows, contestants) @ among_C, among_C)
    side = Term("side", [None], np.ones((len(rows), 1)), own)
    if len(contestants) < 2:
        return [], ("no rating exists: nobody has met another over a verdict that was not certain",)
    if not _adds(side, [strength]):
        return [], ("no rating exists: nobody changed sides in a way that tells a side's worth from a contestant's",)
    told, notes = [strength, side], []
    for term in (
        Term("judge", judges, _codes(rows["judge"], judges) @ among_J, among_J),
        Term("opener", [None], _opened(rows), own),
        *[Term("length", [None], rows.select("z").to_numpy(), own)] * length,
    ):
        if _adds(term, told):
            told.append(term)
        else:
            notes.append(_untold(term.name, rows, told))
    return told, tuple(notes)


def _untold(name: str, rows: pl.DataFrame, told: list[Term]) -> str:
    """Why a term cannot be told, and what holds it."""
    if name == "judge" and rows["judge"].n_unique() == 1:
        return f"one judge, {rows['judge'][0]!r}, so the side term is that judge's"
    if name == "opener" and rows["opener"].null_count():
        return "who opened is not known of every debate, so there is no opener term"
    if name == "opener" and rows["opener"].n_unique() == 1:
        return f"{rows['opener'][0].upper()} always spoke first, so the side term is side and order together"
    before = ", ".join(term.name for term in told)
    return f"the {name} term cannot be told from {before}, which hold what it is worth"


def _adds(term: Term, told: list[Term]) -> bool:
    """Whether no combination of a term's columns follows from those of others, up to rounding."""
    design_DP = np.column_stack([*(one.columns_DP for one in told), term.columns_DP])
    rounding = CERTAIN**2 * len(design_DP)
    return bool(term.columns_DP.shape[1] and np.linalg.eigvalsh(design_DP.T @ design_DP)[0] > rounding)


def _contrast(names: int) -> Array:
    """Values of N names from N - 1 parameters, [N, P]: they add up to nought."""
    return np.vstack([np.eye(names - 1), -np.ones((1, names - 1))])


def _codes(column: pl.Series, names: list[str]) -> Array:
    """Which name stands in each row, [D, N], as 0 and 1."""
    return np.asarray(column.to_numpy()[:, None] == np.array(names, dtype=object), dtype=np.float64)


def _seats(rows: pl.DataFrame, names: list[str]) -> Array:
    """1 for who stands on FOR and -1 for who stands on AGAINST, [D, C]."""
    return _codes(rows[SEATS[0]], names) - _codes(rows[SEATS[1]], names)


def _opened(rows: pl.DataFrame) -> Array:
    """1/2 where FOR opened and -1/2 where AGAINST did, [D, 1]; 0 where that is not known of all."""
    known = not rows["opener"].null_count()
    return np.asarray(known * ((rows["opener"] == "for").fill_null(False).to_numpy()[:, None] - 0.5))


def seated(rows: pl.DataFrame) -> set[str]:
    return {*rows[SEATS[0]], *rows[SEATS[1]]}


def named(names: Iterable[str], sentence: str) -> Iterator[str]:
    """The sentence with the names, or nothing where there are none."""
    if named := sorted(names):
        yield sentence.format(listed(named))
