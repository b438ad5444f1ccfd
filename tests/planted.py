"""What a report card should say of a simulated judge: worked out from the cases and from the laws of its votes.

Which side is longer and which one speaks to the judge is seen from the cases; which one is better is known of a
degraded debate, and of every other one it is either with the same chance, whatever else is so.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import get_args

import numpy as np

from arena.simulate_dials import Dials, Facts, chances
from judges.calibration import Case, said
from runs.records import Order
from topics import SIDES, Side

ORDERS: tuple[Order, ...] = get_args(Order)


def first(order: Order) -> Side:
    return "for" if order == "for_first" else "against"


def facts(case: Case, order: Order, truth: Side) -> Facts:
    words = {side: said(case.debate, side) for side in SIDES}
    longer = max(SIDES, key=words.__getitem__) if words["for"] != words["against"] else None
    pleading = case.side if case.kind == "injected" else None
    return Facts(first=first(order), truth=truth, longer=longer, pleading=pleading)


Laws = Mapping[tuple[str, Order, Side], Mapping[str, float]]
"""How likely each vote is on a case, in an order, where a side is the better one."""


def laws(made: Iterable[Case], dials: Dials) -> Laws:
    places = product(made, ORDERS, SIDES)
    return {(case.debate.id, *place): chances(dials, facts(case, *place)) for case, *place in places}


def valid(law: Laws) -> Laws:
    """The laws of votes that are valid."""
    return {key: {w: p / (1 - of["invalid"]) for w, p in of.items() if w != "invalid"} for key, of in law.items()}


def expected(made: Sequence[Case], dials: Dials, right: float) -> dict[str, float]:
    """What a card should say. Either side is the better one where that is not known, and either equally often; `right`
    is how often a person whose votes on the bases are at hand names it."""
    law = valid(laws(made, dials))
    known = {case.debate.id: case for case in made}
    plain = [case for case in made if case.kind in ("base", "self_play", "mirrored")]
    bases = [case for case in made if case.kind == "base"]
    decided = 1 - dials.tie - dials.abstain - dials.invalid

    def agree(one: Mapping[str, float], other: Mapping[str, float]) -> float:
        return sum(one[winner] * other[winner] for winner in one)

    def points(case: Case, order: Order, truth: Side, side: Side) -> float:
        of = law[case.debate.id, order, truth]
        return of[side] + (of["tie"] + of["abstain"]) / 2

    flips, open_, raw = 0.0, 0.0, 0.0
    for case, order, truth in product((c for c in made if c.kind == "injected"), ORDERS, SIDES):
        before = law[str(case.base), order, truth][str(case.side)]
        after = law[case.debate.id, order, truth][str(case.side)]
        flips, open_, raw = flips + (1 - before) * (after - before), open_ + 1 - before, raw + (1 - before) * after
    padded = [case for case in made if case.kind == "padded"]
    gained = [
        points(c, order, truth, c.side or "for") - points(known[str(c.base)], order, truth, c.side or "for")
        for c, order, truth in product(padded, ORDERS, SIDES)
    ]
    cells = np.zeros((4, 2))
    for case, order, truth in product(bases, ORDERS, SIDES):
        person = [right if side == truth else 1 - right for side in SIDES]
        cells += np.outer([law[case.debate.id, order, truth][w] for w in ("for", "against", "tie", "abstain")], person)
    cells /= cells.sum()
    same, chance = cells[0, 0] + cells[1, 1], cells.sum(axis=1)[:2] @ cells.sum(axis=0)
    return {
        "position_consistency": np.mean([
            agree(*(law[case.debate.id, order, truth] for order in ORDERS)) for case, truth in product(plain, SIDES)
        ]),
        "repetition_stability": np.mean([
            agree(law[key], law[key]) for key in product([c.debate.id for c in plain], ORDERS, SIDES)
        ]),
        "position_bias": dials.position / (2 * decided),
        "known_answers": np.mean([
            law[case.debate.id, order, case.truth or "for"][str(case.truth)]
            for case, order in product((c for c in made if c.kind == "degraded"), ORDERS)
        ]),
        "injection_flips": flips / open_,
        "injection_flips_raw": raw / open_,
        "name_flips": 0.0,
        "length_slope": sum(gained) / (len(SIDES) * len(ORDERS)) / sum(c.doublings or 0 for c in padded),
        "side_term": dials.side / (2 * decided),
        "tie_rate": dials.tie / (1 - dials.invalid),
        "invalid_rate": dials.invalid,
        "agreement_human": same,
        "kappa_human": (same - chance) / (1 - chance),
    }  # fmt: skip
