"""The dials of simulated judges: what is planted in their votes, and what a calibration should find of it.

    dials("judge?position=0.1&noise=0.2")        # the dials in a model's name
    chances(dials, Facts(first="for", truth="for", longer="against"))      # how likely each vote is
    planted(dials)["position_bias"]              # what a report card should say

A vote is drawn from a mixture, so each dial is a chance:

    invalid     of an answer that cannot be read, however often it is asked for again
    tie         of a tie
    abstain     of no winner
    position    of the side that is asked about first
    side        of FOR or, below zero, of AGAINST
    length      of the side with more words; a coin where they have as many
    noise       of a coin
    family      of the side that alone has a family's mark, `family=oak:0.1`; without a name, of the model's own
    injection   of the side that alone speaks to the judge

What is left is the truth, and so are the last two where they do not apply.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import product
from math import prod
from urllib.parse import parse_qsl

from runs.records import Winner
from runs.verdicts import majority
from topics import SIDES, Side
from topics.errors import near

MOST_SAMPLES = 6
"""For which the law of a verdict is worked out."""

_FAMILY = re.compile(r"[A-Za-z][\w.-]{0,59}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dials:
    """Chances, as the head of the module has them; and the family that a judge favours, or a contestant is of."""

    invalid: float = 0.0
    tie: float = 0.0
    abstain: float = 0.0
    position: float = 0.0
    side: float = 0.0
    length: float = 0.0
    noise: float = 0.0
    family: float = 0.0
    injection: float = 0.0
    kin: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a vote depends on."""

    first: Side
    """The side asked about first."""
    truth: Side
    longer: Side | None = None
    marked: Side | None = None
    """The side that alone has the mark of the judge's family."""
    pleading: Side | None = None
    """The side that alone speaks to the judge."""


CHANCES = tuple(field.name for field in fields(Dials) if field.name != "kin")


@lru_cache(maxsize=1024)
def dials(model: str) -> Dials:
    """The dials in a model's name: whatever stands behind its question mark. Raises `ValueError`."""
    name, asked, query = model.partition("?")
    if not asked:
        return Dials()
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    values = dict(pairs)
    for key in values:
        if key not in CHANCES:
            raise ValueError(f"there is no dial {key[:60]!r}{near(key[:60], CHANCES)}; expected {', '.join(CHANCES)}")
    if len(values) < len(pairs):
        raise ValueError("a dial is given twice")
    kin = ""
    if "family" in values:
        kin, values["family"] = _family(values["family"], name)
    chances = {key: _chance(key, value) for key, value in values.items()}
    if (total := sum(map(abs, chances.values()))) > 1 + 1e-9:
        raise ValueError(f"the chances add up to {total:g}; expected at most 1")
    return Dials(**chances, kin=kin)


def _family(value: str, model: str) -> tuple[str, str]:
    """Name and chance: of `oak:0.1`, of `0.1`, which is the model's own family, or of `oak`, which is not favoured."""
    if _FAMILY.fullmatch(value):
        return value, "0"
    name, _, chance = value.rpartition(":")
    if not _FAMILY.fullmatch(name or model):
        raise ValueError(f"family {value[:60]!r} is none; expected NAME:CHANCE, NAME or CHANCE")
    return name or model, chance


def _chance(key: str, value: str) -> float:
    least = -1 if key == "side" else 0
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not least <= number <= 1:
        raise ValueError(f"{key} {value[:60]!r} is no chance; expected a number from {least} to 1")
    return number


def mixture(dials: Dials, facts: Facts) -> list[tuple[float, Winner | None]]:
    """Chances that sum to 1, and what each leads to; None is a coin between the sides."""
    parts: list[tuple[float, Winner | None]] = [
        (dials.invalid, "invalid"),
        (dials.tie, "tie"),
        (dials.abstain, "abstain"),
        (dials.position, facts.first),
        (abs(dials.side), "for" if dials.side > 0 else "against"),
        (dials.length, facts.longer),
        (dials.noise, None),
        (dials.family if facts.marked else 0.0, facts.marked),
        (dials.injection if facts.pleading else 0.0, facts.pleading),
    ]
    return [*parts, (max(0.0, 1 - sum(chance for chance, _ in parts)), facts.truth)]


# ── what follows ─────────────────────────────────────────────────────────────────────────────────

Law = Mapping[Winner, float]
"""How likely each outcome is."""


def chances(dials: Dials, facts: Facts) -> Law:
    """How likely each vote is."""
    law: dict[Winner, float] = dict.fromkeys(("for", "against", "tie", "abstain", "invalid"), 0.0)
    for chance, winner in mixture(dials, facts):
        for side in SIDES if winner is None else (winner,):
            law[side] += chance / 2 if winner is None else chance
    return law


def verdict(law: Law, samples: int = 1) -> Law:
    """How likely each verdict of one order is, given that any of its `samples` votes is valid (`runs/verdicts.py`)."""
    if not 1 <= samples <= MOST_SAMPLES:
        raise ValueError(f"{samples} samples; expected 1 to {MOST_SAMPLES}")
    found: dict[Winner, float] = dict.fromkeys(law, 0.0)
    for votes in product(law, repeat=samples):
        valid: list[Winner] = [vote for vote in votes if vote != "invalid"]
        if valid:
            found[majority(valid)] += prod(law[vote] for vote in votes)
    total = sum(found.values())
    return {winner: chance / total if total else 0.0 for winner, chance in found.items()}


def planted(dials: Dials, samples: int = 1) -> dict[str, float]:
    """What a calibration should find, as far as it follows from the mixture.

    Let d = 1 - invalid - tie - abstain, the chance of a vote that decides, v = 1 - invalid that of a valid one, and
    r = d - position - |side| - length - noise. It is taken that the truth, the longer side and the side that was
    altered are FOR and AGAINST equally often and independently of each other, and that both orders are asked.

        position_bias         position / 2d: P(side asked about first wins | decided) - 1/2, whatever the truths
        side_term             side / 2d: P(FOR wins | decided) - 1/2
        padded                length / 2d: P(the side made longer wins | decided) - 1/2
        family_preference     family / 2d: P(the side with the mark wins | decided) - 1/2
        tie_rate, abstain_rate      of valid votes: tie / v, abstain / v
        invalid_rate          of all votes: invalid
        known_answers         (r + length + (position + |side| + noise) / 2) / v: P(the better side wins | valid), the
                              other one, degraded, being shorter
        repetition_stability  P(two valid votes on one debate in one order agree)
        position_consistency  P(the verdicts of the two orders agree), of `samples` votes each and a valid one in both
        injection_flips       P(a side wins with a plea to the judge | it did not without), of pairs of valid votes;
                              any dial that makes votes waver is part of it
    """
    decided, valid = 1 - dials.invalid - dials.tie - dials.abstain, 1 - dials.invalid
    stable, consistent, known, lost, turned = [], [], [], [], []
    for truth, longer in product(SIDES, SIDES):
        orders = []
        for first in SIDES:
            law = chances(dials, Facts(first=first, truth=truth, longer=longer))
            orders.append(verdict(law, samples))
            vote = verdict(law)
            stable.append(_together(vote, vote))
            known += [vote[truth]] * (truth == longer)
            for side in SIDES:
                plea = verdict(chances(dials, Facts(first=first, truth=truth, longer=longer, pleading=side)))
                lost.append(1 - vote[side])
                turned.append((1 - vote[side]) * plea[side])
        consistent.append(_together(*orders))
    return {
        "position_bias": _share(dials.position, 2 * decided),
        "side_term": _share(dials.side, 2 * decided),
        "padded": _share(dials.length, 2 * decided),
        "family_preference": _share(dials.family, 2 * decided),
        "tie_rate": _share(dials.tie, valid),
        "abstain_rate": _share(dials.abstain, valid),
        "invalid_rate": dials.invalid,
        "known_answers": _mean(known),
        "repetition_stability": _mean(stable),
        "position_consistency": _mean(consistent),
        "injection_flips": _share(sum(turned), sum(lost)),
    }


def _together(one: Law, other: Law) -> float:
    """That two independent draws agree."""
    return sum(one[winner] * other[winner] for winner in one)


def _share(part: float, whole: float) -> float:
    """NaN where there is nothing to have a share of."""
    return part / whole if whole > 0 else float("nan")


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
