"""From votes to a verdict, by hand."""

import pytest

from runs.records import Vote
from runs.verdicts import from_votes, majority

ORDERS = {"f": "for_first", "a": "against_first"}


def votes(**by_order: str) -> list[Vote]:
    """`votes(f="for tie", a="for")`: winners of the votes in each order."""
    return [
        Vote(debate_id="d", judge="j", order=ORDERS[order], sample=i, winner=winner)  # type: ignore[arg-type]
        for order, winners in by_order.items()
        for i, winner in enumerate(winners.split())
    ]


@pytest.mark.parametrize(
    ("cast", "winner", "margin", "consistent", "valid"),
    [
        (votes(f="for"), "for", 1.0, True, 1),
        (votes(f="for", a="for"), "for", 1.0, True, 2),
        (votes(f="for", a="against"), "tie", 0.0, False, 2),
        (votes(f="for", a="tie"), "tie", 0.5, False, 2),
        (votes(f="tie", a="tie"), "tie", 0.0, True, 2),
        (votes(f="for for against", a="for against for"), "for", 1 / 3, True, 6),
        (votes(f="for for tie against"), "tie", 0.25, True, 4),  # two of four are not more than half
        (votes(f="for against tie"), "tie", 0.0, True, 3),
        (votes(f="invalid"), "invalid", None, True, 0),
        (votes(f="invalid invalid", a="invalid"), "invalid", None, True, 0),
        (votes(f="invalid for", a="for"), "for", 1.0, True, 2),
        (votes(f="invalid", a="against"), "against", -1.0, True, 1),  # never a tie, never zero
        (votes(f="abstain", a="abstain"), "abstain", None, True, 2),
        (votes(f="abstain abstain for", a="abstain"), "abstain", 1.0, True, 4),
        (votes(), "invalid", None, True, 0),
    ],
)
def test_verdicts(cast: list[Vote], winner: str, margin: float | None, consistent: bool, valid: int) -> None:
    verdict = from_votes("d", "j", cast)
    assert (verdict.winner, verdict.consistent, verdict.votes) == (winner, consistent, valid)
    assert verdict.margin == (None if margin is None else pytest.approx(margin))
    assert from_votes("d", "j", reversed(cast)) == verdict


def test_a_majority_is_more_than_half() -> None:
    assert majority(["for", "for", "against"]) == "for"
    assert majority(["for", "against"]) == "tie"
    assert majority(["for", "for", "against", "tie"]) == "tie"
