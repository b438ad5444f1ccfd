"""From votes to a verdict: a pure function, used by whoever records votes (a judge, a re-judging, a person).

Within one order the winner is the outcome of more than half of the valid votes, otherwise a tie. Where two
orders were asked and disagree, the verdict is a tie and says that it is not consistent. An invalid vote is
never a tie and never zero: it leaves the count. No valid vote, no verdict: `invalid`.
"""

from collections import Counter
from collections.abc import Iterable

from runs.records import Verdict, Vote, Winner

VALUE: dict[Winner, float] = {"for": 1.0, "against": -1.0, "tie": 0.0}
"""What a vote counts in a margin; an outcome without a value counts in none."""


def from_votes(debate_id: str, judge: str, votes: Iterable[Vote], *, related: bool = False) -> Verdict:
    """What the votes of one judge on one debate come to; `related` is whether it is to one of the contestants."""
    valid = [vote for vote in votes if vote.winner != "invalid"]
    by_order = {order: majority([v.winner for v in valid if v.order == order]) for order in {v.order for v in valid}}
    values = [VALUE[vote.winner] for vote in valid if vote.winner in VALUE]
    winners = set(by_order.values())
    winner: Winner = "invalid" if not winners else winners.pop() if len(winners) == 1 else "tie"
    return Verdict(
        debate_id=debate_id,
        judge=judge,
        winner=winner,
        margin=sum(values) / len(values) if values else None,
        consistent=len(set(by_order.values())) <= 1,
        votes=len(valid),
        related=related,
    )


def majority(winners: list[Winner]) -> Winner:
    """The outcome that more than half of `winners` name; a tie where there is none."""
    winner, count = Counter(winners).most_common(1)[0]
    return winner if 2 * count > len(winners) else "tie"
