"""The guard against reward hacking: bounds that a policy must stay within while it is trained.

A policy that is rewarded finds what pays, and what pays is not always what was meant: speeches that grow, that say
the same again, that leave what the reference would say, that no longer are language. Each check on held-back topics
measures these, and what lies outside its bounds ends the training (`training/watch.py`), which then keeps its last
good checkpoint and says why.

    bounds = Bounds(perplexity=50, words=(0.5, 2), repetition=0.2)
    tripped(bounds, found, first)       # None, or "repetition 0.31 is above 0.2"

How it departs from early stopping: nothing is waited for and no best is looked for. A check is within the bounds or
it is not, and a value that is no number is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf, isfinite, isnan
from typing import Annotated

from pydantic import BaseModel, Field, model_validator

AtLeastNothing = Annotated[float, Field(ge=0)]
SEQUENCE = 4
"""Words of the sequences whose repetition is counted."""


class Bounds(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a check may find; what is None is not judged, and neither is what a check does not give."""

    perplexity: Annotated[float, Field(gt=0)] | None = None
    """most, on held-back winning speeches"""
    words: tuple[AtLeastNothing, AtLeastNothing] | None = None
    """least and most words a speech, as multiples of those at the first check"""
    repetition: Annotated[float, Field(ge=0, le=1)] | None = None
    """most, as a share of sequences of four words"""
    kl: AtLeastNothing | None = None
    """most nats a token against the reference"""
    audit: Annotated[float, Field(ge=0, le=1)] | None = None
    """most faults that the audit finds, as a rate"""

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.words is not None and self.words[0] > self.words[1]:
            raise ValueError(f"words {list(self.words)}: expected the least first, then the most")
        return self

    @property
    def before_the_first_step(self) -> Bounds:
        """Those that a policy must keep before it has learnt anything: it must know its language."""
        return Bounds(perplexity=self.perplexity)


def tripped(bounds: Bounds, found: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    """Why a check's findings end the training, in one clause; None where all are within their bounds.

    Read are `perplexity`, `held_back_words`, `held_back_repetition`, `held_back_kl` and `held_back_audit`, as far as
    they were found; `first` is what the first check found. A perplexity that is no finite number ends it in any case.
    """
    for what, value, least, most, how in _judged(bounds, found, first):
        if not isfinite(value) or isnan(most):
            return f"{what} is no finite number"
        if value > most:
            return f"{what} {value:.6g} is above {most:.6g}{how}"
        if value < least:
            return f"{what} {value:.6g} is below {least:.6g}{how}"
    return None


def _judged(
    bounds: Bounds, found: Mapping[str, float], first: Mapping[str, float]
) -> Iterator[tuple[str, float, float, float, str]]:
    """What was found and has a bound: its name, value, least, most, and what these come from."""
    perplexity = found.get("perplexity")
    if perplexity is not None and (bounds.perplexity is not None or not isfinite(perplexity)):
        yield "perplexity", perplexity, 0.0, inf if bounds.perplexity is None else bounds.perplexity, ""
    words, before = found.get("held_back_words"), first.get("held_back_words")
    if bounds.words is not None and words is not None and before:  # of nothing, everything is a multiple
        least, most = (times * before for times in bounds.words)
        allowed = " to ".join(f"{times:g}" for times in bounds.words)
        yield "mean words a speech", words, least, most, f" ({allowed} times the first check's {before:.6g})"
    for what, name, bound in (
        ("repetition", "held_back_repetition", bounds.repetition),
        ("KL to the reference", "held_back_kl", bounds.kl),
        ("rate of audit faults", "held_back_audit", bounds.audit),
    ):
        if bound is not None and name in found:
            yield what, found[name], -inf, bound, ""


def repetition(text: str) -> float:
    """Share of a text's sequences of four words that stood before in it: 0 for none, and for a text too short for two.

    It is seq-rep-4 of Welleck et al., Neural Text Generation with Unlikelihood Training (2019), of words instead of
    tokens, in lower case: 1 - different sequences / sequences.
    """
    words = text.casefold().split()
    count = len(words) - SEQUENCE + 1
    if count < 2:
        return 0.0
    return 1 - len(set(zip(*(words[start : start + count] for start in range(SEQUENCE)), strict=True))) / count
