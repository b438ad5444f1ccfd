"""What a judge is: whoever turns a debate into votes.

    class Judge(Protocol):
        name: str
        orders: tuple[Order, ...]          # ("for_first",) or both
        samples: int
        async def vote(self, debate: Debate, order: Order, sample: int) -> Vote: ...

One vote is one look at the whole debate. The engine asks for every order and sample that is owed, records each
vote as it comes, and makes the verdict of them (`runs/verdicts.py`). The debate it hands over holds no private
reasoning. A judge that raises gives an `invalid` vote, never a lost debate. One that asks a language model takes `ask`
(`judges/asking.py`) as a keyword, and may have a `digest` of its prompts, which is part of its votes' identity.
"""

from typing import Protocol

from runs.records import Debate, Order, Vote


class Judge(Protocol):
    """A judge. Its settings are its constructor's keyword arguments; `name` is always the first."""

    name: str
    orders: tuple[Order, ...]
    """The orders it is asked in."""
    samples: int
    """Votes per order."""

    async def vote(self, debate: Debate, order: Order, sample: int) -> Vote:
        """One vote; `order` says which side to look at and score first."""
        ...
