"""In what order the pairs are run, and which of them together: a *plan*, a list of micro-batches.

A micro-batch names the sequences to run and the pairs among them. The pairs of a key, all behind one prompt, share
their sequences: m chosen and n rejected ones make up to m x n pairs from m + n sequences. Three ways to use that:

    keys     a whole key at a time, cut only where it is larger than the budget: the fewest sequences
    blocks   a key is cut into near-square blocks of at most 4 x 5, which are dealt out over the epoch
    stock    shuffled pairs, each with two sequences of its own, as TRL does

Every pair comes exactly once an epoch in all three. They are not the same run, though: pairs that share texts say
less about the gradient together than pairs that do not, so a step of blocks from several keys is worth more than a
step of one key with as many pairs, and a step of shuffled pairs more still, at many times the cost.

A trainer averages the losses of a step's micro-batches, whatever their sizes; `weight` undoes that, so that a step's
loss is the mean over its pairs. Everything is drawn from the seed; no epoch is shuffled like another.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from random import Random
from typing import Literal

from training.tokens import Tokens

Batching = Literal["blocks", "keys", "stock"]

BLOCK = (4, 5)
"""Most chosen and most rejected sequences of a block."""
OPEN = 8
"""Micro-batches that are being filled at a time: more pack tighter, and shuffle less."""
AHEAD = 1_000
"""How far ahead of its turn a micro-batch may be taken to keep the prompts of a step apart."""

Pairs = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What is run at once: one forward and one backward pass."""

    sequences: tuple[int, ...]
    """Numbers into `Tokens.sequences`."""
    chosen: tuple[int, ...]
    """Of each pair, the chosen sequence, as a position in `sequences`."""
    rejected: tuple[int, ...]
    """Of each pair, the rejected sequence, as a position in `sequences`."""
    weight: float = 1.0
    """What the mean loss of its pairs is multiplied by."""


def plan(
    tokens: Tokens,
    *,
    batching: Batching,
    budget: int,
    per_step: int,
    epochs: float = 1,
    seed: int = 0,
    one_prompt: bool = False,
) -> list[MicroBatch]:
    """All micro-batches of a run, in order.

    `budget` is the most sequences of a micro-batch, `per_step` how many micro-batches all processes together run in
    a step of the optimiser; only the last step of the run may have fewer. With `one_prompt` no micro-batch holds
    sequences of two prompts. Part of an epoch is its first pairs.
    """
    if budget < 2 or per_step < 1 or epochs <= 0:
        raise ValueError(f"{budget=}, {per_step=}, {epochs=}: expected at least 2, at least 1, more than 0")
    made: list[MicroBatch] = []
    for epoch in range(ceil(epochs)):
        draw = Random(f"{seed}/{epoch}")
        if batching == "stock":
            one = _shuffled(tokens.pairs, budget // 2, draw)
        else:
            blocks = _spread([_cut(key, _grid(key, budget, batching), draw) for key in _keys(tokens)], draw)
            packed = blocks if one_prompt else _packed(blocks, budget)
            one = [_sharing(block) for block in _apart(packed, tokens, per_step)]
        made += _first(one, (epochs - epoch) * len(tokens.pairs))
    return _weighted(made, per_step)


def parts(lengths: Sequence[int], pass_tokens: float) -> list[tuple[int, int]]:
    """Where to cut rows, longest first, so that padding each part to its first row costs least.

    Each part costs `pass_tokens` besides its padded tokens. Returns where each part starts and stops.
    """
    best: list[tuple[float, int]] = [(0, 0)]  # of the first n rows: the least cost, and where the last part starts
    for stop in range(1, len(lengths) + 1):
        best.append(
            min((best[start][0] + pass_tokens + (stop - start) * lengths[start], start) for start in range(stop))
        )
    found: list[tuple[int, int]] = []
    stop = len(lengths)
    while stop:
        start = best[stop][1]
        found.insert(0, (start, stop))
        stop = start
    return found


def _keys(tokens: Tokens) -> list[Pairs]:
    """The pairs of each prompt."""
    keys = defaultdict(list)
    for pair in tokens.pairs:
        keys[tokens.sequences[pair[0]][0]].append(pair)
    return list(keys.values())


def _grid(key: Pairs, budget: int, batching: Batching) -> tuple[int, int]:
    """Into how many parts the chosen and the rejected sequences of a key are cut."""
    chosen, rejected = (len(set(side)) for side in zip(*key, strict=True))
    if batching == "blocks":
        most = min(BLOCK[0], budget // 2)
        return ceil(chosen / most), ceil(rejected / min(BLOCK[1], budget - most))
    if len({sequence for pair in key for sequence in pair}) <= budget:
        return 1, 1
    fitting = []
    for rows in range(1, chosen + 1):
        room = budget - ceil(chosen / rows)
        if room > 0:
            columns = ceil(rejected / room)
            fitting.append((columns * chosen + rows * rejected, rows, columns))  # sequences run, first
    return min(fitting)[1:]


def _cut(key: Pairs, grid: tuple[int, int], draw: Random) -> list[Pairs]:
    """The blocks of a grid over a key's chosen and rejected sequences, shuffled; empty ones left out."""
    part: list[dict[int, int]] = []
    for side, parts in zip(zip(*key, strict=True), grid, strict=True):
        sequences = list(dict.fromkeys(side))
        draw.shuffle(sequences)
        part.append({sequence: place * parts // len(sequences) for place, sequence in enumerate(sequences)})
    blocks = defaultdict(list)
    for chosen, rejected in key:
        blocks[part[0][chosen], part[1][rejected]].append((chosen, rejected))
    return list(blocks.values())


def _spread(keys: list[list[Pairs]], draw: Random) -> list[Pairs]:
    """All blocks in a random order in which those of a key stand about evenly over the epoch."""
    placed = []
    for blocks in keys:
        draw.shuffle(blocks)
        start = draw.random()
        placed += [((place + start) / len(blocks), block) for place, block in enumerate(blocks)]
    return [block for _, block in sorted(placed, key=lambda one: one[0])]


def _packed(blocks: Iterable[Pairs], budget: int) -> list[Pairs]:
    """Blocks put together as long as they fit the budget, each with one of the last few that had room."""
    bins: list[tuple[set[int], Pairs]] = []
    for block in blocks:
        needed = {sequence for pair in block for sequence in pair}
        for sequences, pairs in bins[-OPEN:]:
            if len(sequences | needed) <= budget:
                sequences |= needed
                pairs += block
                break
        else:
            bins.append((needed, list(block)))
    return [pairs for _, pairs in bins]


def _apart(blocks: Iterable[Pairs], tokens: Tokens, per_step: int) -> list[Pairs]:
    """The same in an order in which those of one step are of different prompts, where that is possible."""
    waiting = [(block, {tokens.sequences[chosen][0] for chosen, _ in block}) for block in blocks]
    waiting.reverse()  # so that what is next can be taken from the end
    ordered: list[Pairs] = []
    taken: set[int] = set()
    while waiting:
        if len(ordered) % per_step == 0:
            taken = set()
        ahead = islice(range(len(waiting) - 1, -1, -1), AHEAD)
        block, prompts = waiting.pop(next((at for at in ahead if taken.isdisjoint(waiting[at][1])), -1))
        ordered.append(block)
        taken |= prompts
    return ordered


def _sharing(pairs: Pairs) -> MicroBatch:
    """A micro-batch in which every sequence is run once, whatever it is paired with."""
    sequences = list(dict.fromkeys([chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]))
    place = {sequence: at for at, sequence in enumerate(sequences)}
    return MicroBatch(
        sequences=tuple(sequences),
        chosen=tuple(place[chosen] for chosen, _ in pairs),
        rejected=tuple(place[rejected] for _, rejected in pairs),
    )


def _shuffled(pairs: Pairs, at_once: int, draw: Random) -> list[MicroBatch]:
    """Shuffled pairs, some at a time, each with two sequences of its own."""
    order = draw.sample(pairs, len(pairs))
    parts = [order[start : start + at_once] for start in range(0, len(order), at_once)]
    return [
        MicroBatch(
            sequences=tuple(chosen for chosen, _ in part) + tuple(rejected for _, rejected in part),
            chosen=tuple(range(len(part))),
            rejected=tuple(range(len(part), 2 * len(part))),
        )
        for part in parts
    ]


def _first(batches: list[MicroBatch], pairs: float) -> list[MicroBatch]:
    """The first micro-batches, until they hold so many pairs."""
    kept: list[MicroBatch] = []
    held = 0
    for batch in batches:
        if held >= pairs:
            break
        kept.append(batch)
        held += len(batch.chosen)
    return kept


def _weighted(batches: Sequence[MicroBatch], per_step: int) -> list[MicroBatch]:
    """The same with their weights: a step's mean over micro-batches becomes its mean over pairs."""
    weighted: list[MicroBatch] = []
    for start in range(0, len(batches), per_step):
        step = batches[start : start + per_step]
        pairs = sum(len(batch.chosen) for batch in step)
        weighted += [replace(batch, weight=len(step) * len(batch.chosen) / pairs) for batch in step]
    return weighted
