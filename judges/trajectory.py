"""A judge that stops reading: its verdict on the first turns of a debate, to see where it was won.

    [[judges]]
    name = "gpt"
    trajectory = true              # also asks after turns 2, 4, ... : judges "gpt@2", "gpt@4", ...

A trajectory is made of judges like any other, so votes, verdicts and resuming need no second way. Their prompts begin
alike, turn for turn, so a server with a prefix cache reads a debate once.
"""

from dataclasses import replace

from judges.judge import Judge
from runs.records import Debate, Order, Vote


class After:
    """A judge that is shown the first `turns` turns of a debate."""

    def __init__(self, judge: Judge, turns: int) -> None:
        self.judge = judge
        self.turns = turns
        self.name = f"{judge.name}@{turns}"
        self.orders = judge.orders
        self.samples = judge.samples

    async def vote(self, debate: Debate, order: Order, sample: int) -> Vote:
        """Its judge's vote on what had been said by then."""
        return await self.judge.vote(replace(debate, turns=debate.turns[: self.turns]), order, sample)
