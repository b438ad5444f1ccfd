"""A judge that says what it was told to say: for tests of everything that stands behind a judge."""

from collections.abc import Sequence
from typing import get_args

from runs.records import Debate, Order, Vote, Winner
from topics.errors import InputError


class Scripted:
    """Votes `winners[match % len(winners)]`, or raises."""

    def __init__(
        self,
        name: str = "scripted",
        winners: Sequence[Winner] = ("for", "against", "tie"),
        orders: Sequence[Order] = ("for_first",),
        samples: int = 1,
        raises: str = "",
    ) -> None:
        if not winners or (unknown := set(winners) - set(get_args(Winner))):
            raise InputError(f"judge {name!r}: winners must be some of {get_args(Winner)}, not {sorted(unknown)}")
        self.name = name
        self.winners = tuple(winners)
        self.orders = tuple(orders)
        self.samples = samples
        self.raises = raises
        """The message to raise with instead of voting; empty, never."""

    async def vote(self, debate: Debate, order: Order, sample: int) -> Vote:
        if self.raises:
            raise RuntimeError(self.raises)
        winner = self.winners[debate.match.match % len(self.winners)]
        return Vote(debate_id=debate.id, judge=self.name, order=order, sample=sample, winner=winner, confidence=1.0)
