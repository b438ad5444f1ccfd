"""The plan of a run: how many calls it makes, and what they would cost, before anything is sent.

Every speech is taken to fill its word budget, every prompt is rendered as it would be, with filler in the place of
speeches, and a token is taken for four bytes. Prompts only grow, so a server with a prefix cache reads every token of a
debate once per contestant; what that would save is the difference between the two costs that are told.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, product, takewhile
from typing import Any

from arena.asking import Unasked
from arena.bench import JudgeEntry, bench
from arena.endpoints import Endpoint
from arena.prompting import render
from judges import Judge
from judges.asking import Message, NoReply
from judges.trajectory import After
from runs.adapters import aligned
from runs.records import Debate, Match, Order, Slot, Turn, slots_for
from runs.spec import Spec
from topics import Topic

BYTES_A_TOKEN, TOKENS_A_WORD = 4, 1.4
TOKENS_A_VOTE = 400
SAMPLE = 20
"""Matches whose prompts are rendered; the rest are taken to be like them."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Tokens and money of one contestant's calls."""

    calls: int
    prompt: float
    fresh: float
    """Of the prompt's, those that no earlier prompt of the same debate held."""
    completion: float

    def usd(self, endpoint: Endpoint) -> tuple[float, float]:
        """With and without a prefix cache."""
        whole = round(self.prompt), round(self.completion)
        return endpoint.cost(whole[0], round(self.prompt - self.fresh), whole[1]), endpoint.cost(whole[0], 0, whole[1])


def told(spec: Spec, topics: Sequence[Topic], matches: Sequence[Match]) -> Iterator[str]:
    """The plan of a run as lines."""
    known = {topic.topic_id: topic for topic in topics}
    sample = [filled(match, known[match.topic_id], spec.format) for match in matches[:SAMPLE]]
    judges = bench(spec, None).judges
    votes = sum(len(judge.orders) * judge.samples for judge in judges)
    turns = len(spec.format)
    yield f"{len(matches) * turns:,} turns, {len(matches) * votes:,} votes"
    speaking = [(entry, estimated(entry, spec, known, matches)) for entry in spec.contestants]
    judging = _judging(spec, {judge.name: (len(matches), sample) for judge in judges})
    yield from _table([*speaking, *judging], spec)
    yield "requests to shorten, and to repair a vote, are not counted"
    yield f"longest path: {turns} speeches and a vote, one after the other"


def judged(spec: Spec, owed: Mapping[str, tuple[int, Sequence[Debate]]], *, in_batches: bool = False) -> Iterator[str]:
    """The plan of a judging as lines; `owed` are the debates of each judge: how many, and a sample of them."""
    yield from _table(_judging(spec, owed), spec, in_batches=in_batches)


def _table(
    rows: Iterable[tuple[Mapping[str, Any], Estimate]], spec: Spec, *, in_batches: bool = False
) -> Iterator[str]:
    """Estimates as a table, and their sum."""
    endpoints = {entry["name"]: Endpoint.model_validate(entry) for entry in spec.endpoints}
    cells = [["who", "endpoint", "calls", "prompt k", "new k", "answer k", "USD"]]
    low = high = 0.0
    for entry, found in rows:
        if "endpoint" not in entry:
            cells.append([entry["name"], f"({entry['kind']})", f"{found.calls:,}", "-", "-", "-", "0"])
            continue
        endpoint = endpoints[entry["endpoint"]]
        share = 1 - endpoint.batch_discount if in_batches else 1.0
        least, most = (share * usd for usd in found.usd(endpoint))
        low, high = low + least, high + most
        tokens = [f"{value / 1000:,.0f}" for value in (found.prompt, found.fresh, found.completion)]
        cells.append([entry["name"], entry["endpoint"], f"{found.calls:,}", *tokens, _range(least, most)])
    yield aligned(cells, right=5)
    yield f"cost: {_range(low, high)} USD, with and without a prefix cache"


def _judging(
    spec: Spec, owed: Mapping[str, tuple[int, Sequence[Debate]]]
) -> Iterator[tuple[Mapping[str, Any], Estimate]]:
    """What each judge would be asked."""
    entries = {entry["name"]: entry for entry in spec.judges}
    for judge in bench(spec, None).judges:
        count, sample = owed[judge.name]
        entry = entries.get(judge.name) or entries[judge.name.rpartition("@")[0]]
        yield {**entry, "name": judge.name}, asyncio.run(_votes(entry, judge, count, sample))


async def _votes(entry: Mapping[str, Any], judge: Judge, count: int, sample: Sequence[Debate]) -> Estimate:
    """The votes of one judge: a debate's first one is fresh, of the others what follows the words they share."""
    places = list(product(judge.orders, range(judge.samples)))
    sums: Counter[str] = Counter()
    for debate in sample if "endpoint" in entry else ():
        asked = [_words(await first_asked(entry, judge, debate, order, vote)) for order, vote in places]
        sizes = [len(text.encode()) // BYTES_A_TOKEN for text in asked]
        alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*asked, strict=False))
        shared = sum(len(letters[0].encode()) for letters in alike) // BYTES_A_TOKEN
        fresh = sum(sizes) - shared * (len(sizes) - 1)
        sums.update(prompt=sum(sizes), fresh=fresh, completion=TOKENS_A_VOTE * len(sizes))
    scale = count / max(1, len(sample))
    return Estimate(
        calls=count * len(places),
        prompt=scale * sums["prompt"],
        fresh=scale * sums["fresh"],
        completion=scale * sums["completion"],
    )


def _words(messages: Sequence[Message]) -> str:
    return "".join(message["content"] for message in messages)


async def first_asked(
    entry: Mapping[str, Any], judge: Judge, debate: Debate, order: Order, sample: int
) -> Sequence[Message]:
    """What a judge would first ask for a vote; nothing where it asks nobody."""
    unasked = Unasked()
    made = JudgeEntry.model_validate(entry).make(unasked)
    with suppress(NoReply):
        await (After(made, judge.turns) if isinstance(judge, After) else made).vote(debate, order, sample)
    return unasked.questions[0].messages if unasked.questions else ()


def _range(low: float, high: float) -> str:
    one, other = f"{low:,.2f}", f"{high:,.2f}"
    return one if one == other else f"{one}-{other}"


def estimated(entry: Mapping[str, Any], spec: Spec, topics: Mapping[str, Topic], matches: Sequence[Match]) -> Estimate:
    """What one contestant would be asked."""
    name = entry["name"]
    mine = [match for match in matches if name in (match.for_contestant, match.against_contestant)]
    if entry["kind"] != "endpoint":
        return Estimate(calls=_turns(spec, mine, name), prompt=0, fresh=0, completion=0)
    sums: Counter[str] = Counter()
    sample = list(islice(mine, SAMPLE))
    for match in sample:
        debate = filled(match, topics[match.topic_id], spec.format)
        side = "for" if match.for_contestant == name else "against"
        before = 0
        for slot in (slot for slot in debate.slots if slot.side == side):
            said = render(entry["context"] or "transcript", debate, slot, entry["persona"])
            tokens = sum(len(message["content"].encode()) for message in said) // BYTES_A_TOKEN
            sums.update(prompt=tokens, fresh=max(0, tokens - before), completion=round(TOKENS_A_WORD * slot.words))
            before = tokens
    scale = len(mine) / max(1, len(sample))
    return Estimate(
        calls=_turns(spec, mine, name),
        prompt=scale * sums["prompt"],
        fresh=scale * sums["fresh"],
        completion=scale * sums["completion"],
    )


def _turns(spec: Spec, matches: Sequence[Match], name: str) -> int:
    each = len(spec.format) // 2
    return sum(each * ((match.for_contestant == name) + (match.against_contestant == name)) for match in matches)


def filled(match: Match, topic: Topic, format_: tuple[Slot, ...]) -> Debate:
    """A debate in which every speech is filler of just its budget."""
    slots = slots_for(format_, match.opener)
    turns = tuple(
        Turn(
            debate_id=match.debate_id,
            turn=slot.turn,
            side=slot.side,
            stage=slot.stage,
            contestant=match.contestant(slot.side),
            text="words " * slot.words,
            reasoning=None,
            words=slot.words,
            trimmed=False,
            call_id="",
        )
        for slot in slots
    )
    return Debate(match=match, topic=topic, slots=slots, turns=turns)
