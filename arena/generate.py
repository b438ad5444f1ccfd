"""Generation: a batch of prompts in, one speech each out, every row as it would have been alone.

    generate(model, requests, stops={2}, done=hand_over)     # each request holds its answer when it is handed over

One static batch at a time: the prompts are read (*prefill*) in blocks of like length, laid side by side so that they
end in the same column, and continued one token a step; a row that has ended leaves the batch. How it departs from
`transformers.generate`, and why:

1. **A draw belongs to its request** (`arena/sampling.py`), so a speech depends neither on who shares its batch nor on
   the order in which requests came. What remains is rounding: matrix products of other shapes differ in the last
   bits, and where two tokens tie within that, the other one may win.
2. **Several policies in one batch.** Rows may name different LoRA adapters over the one base, or none.
3. **Keys and values grow in place.** Appending to a cache by concatenation copies all of it at every token, which for
   long prompts costs several times what the model does.
4. **It can be left at any token**, a row at a time.

Needs torch; `arena/local.py` imports it when a local contestant is seated.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from arena.models import Model
from arena.sampling import drawn

BASE = "__base__"
"""PEFT's name for no adapter."""
BLOCK_TOKENS = {"cpu": 2048}
"""Of prompts that are read in one forward pass, padding included, by type of device: what caches hold."""
MORE_TOKENS = 16384
"""The same on any other device, which wants much to do at a time."""
ROOM = 128
"""Columns by which keys and values grow."""

Finish = Literal["stop", "length"]


@dataclass(eq=False, kw_only=True)
class Request:
    """One speech that is asked for, and what has come of it."""

    prompt: Sequence[int]
    adapter: str = BASE
    seed: int
    """In [0, 2**63)."""
    temperature: float = 1.0
    """0: the likeliest token, always."""
    top_p: float = 1.0
    most: int
    """Tokens of the answer, what ends it included."""
    tokens: list[int] = field(default_factory=list)
    """The answer so far; at the end without the token that stopped it."""
    finish: Finish | None = None
    end: int | None = None
    """The token that stopped it."""
    log_probs: list[float] | None = None
    """Of the tokens that were drawn, where a server drew them and says so."""
    dropped: bool = False
    """Nobody waits for it any more; may be set from another thread at any time."""


def generate(
    model: Model, requests: Sequence[Request], stops: Collection[int], done: Callable[[Request], None]
) -> None:
    """Continue every request until it stops, is as long as it may be, or is dropped; `done` is told of each that ends.

    `model` is in eval mode; it is PEFT's wrapper where any request names an adapter. All prompts are at least one
    token long. Raises whatever the model raises; requests that `done` was not told of then have no answer.
    """
    rows = sorted((request for request in requests if not request.dropped), key=lambda request: len(request.prompt))
    for row in rows:
        row.tokens.clear()
    with torch.inference_mode():
        batch = _prefilled(model, rows) if rows else None
        if batch is None:
            return
        for step in range(max(row.most for row in rows)):
            tokens = batch.drawn(step)
            for row, token in zip(batch.rows, tokens.tolist(), strict=True):
                _add(row, token, stops, done)
            alive = [i for i, row in enumerate(batch.rows) if row.finish is None and not row.dropped]
            if not alive:
                return
            if len(alive) <= len(batch.rows) * 7 // 8:  # sooner, and copying would cost more than the dead rows do
                tokens = tokens[alive]
                batch.keep(alive)
            batch.forward(model, tokens)


def is_full(error: BaseException) -> bool:
    """Whether an error means that memory is full, so that a smaller batch may do."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _add(row: Request, token: int, stops: Collection[int], done: Callable[[Request], None]) -> None:
    if row.finish is not None or row.dropped:
        return
    if token in stops:
        row.finish, row.end = "stop", token
    else:
        row.tokens.append(token)
        if len(row.tokens) >= row.most:
            row.finish = "length"
    if row.finish is not None:
        done(row)


# ── the batch ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False, kw_only=True)
class Batch:
    """Rows that are continued together. T counts columns: padding on the left, prompt, answer so far."""

    rows: list[Request]
    cache: Any
    mask_BT: Tensor
    logits_BV: Tensor
    """Of the next token; float32."""

    def drawn(self, step: int) -> Tensor:
        """The next token of each row, [B]."""
        device = self.logits_BV.device
        temperature_B = torch.tensor([row.temperature for row in self.rows], device=device)
        top_p_B = torch.tensor([row.top_p for row in self.rows], device=device)
        seed_B = torch.tensor([row.seed for row in self.rows], device=device)
        return drawn(self.logits_BV, temperature_B, top_p_B, seed_B, step)

    def keep(self, alive: list[int]) -> None:
        """Only the rows with these indices."""
        chosen = torch.tensor(alive, device=self.mask_BT.device)
        self.rows = [self.rows[i] for i in alive]
        self.cache.batch_select_indices(chosen)
        self.mask_BT = self.mask_BT[chosen]

    def forward(self, model: Model, tokens_B: Tensor) -> None:
        """One token more for every row."""
        self.mask_BT = torch.cat([self.mask_BT, self.mask_BT.new_ones(len(self.rows), 1)], dim=1)
        at = [[len(row.prompt) + len(row.tokens) - 1] for row in self.rows]  # of a dead row: within the window still
        out = model(
            input_ids=tokens_B[:, None],
            attention_mask=self.mask_BT,
            position_ids=torch.tensor(at, device=tokens_B.device),
            cache=self.cache,
            use_cache=True,
            **_adapters(model, self.rows),
        )
        self.logits_BV = out.logits[:, -1].float()


def _adapters(model: Model, rows: Sequence[Request]) -> dict[str, Any]:
    """The argument by which PEFT's wrapper takes an adapter for each row; none for a bare model, nor where all want the
    active one, which is twice as fast."""
    names = [row.adapter for row in rows]
    return (
        {}
        if not hasattr(model, "peft_config") or set(names) == {getattr(model, "active_adapter", None)}
        else {"adapter_names": names}
    )


def _prefilled(model: Model, rows: list[Request]) -> Batch | None:
    """A batch whose prompts have been read, or None where nobody waits any more; `rows` come by length."""
    whole = not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    most = BLOCK_TOKENS.get(next(model.parameters()).device.type, MORE_TOKENS)
    parts = []
    for block in [rows] if whole else _blocks(rows, most):
        if all(row.dropped for row in rows):
            return None
        parts.append(_read(model, block))
    if whole:  # windows and states of other architectures cannot be laid side by side
        return parts[0]
    width = max(part.mask_BT.shape[1] for part in parts)
    mask_BT = torch.cat([torch.nn.functional.pad(part.mask_BT, (width - part.mask_BT.shape[1], 0)) for part in parts])
    cache = DynamicCache(config=model.config)
    for number in range(len(cache.layers)):
        cache.layers[number] = Growing.of([part.cache.layers[number] for part in parts], width)
    return Batch(
        rows=rows,
        cache=cache,
        mask_BT=mask_BT,
        logits_BV=torch.cat([part.logits_BV for part in parts]),
    )


def _blocks(rows: list[Request], most: int) -> Iterator[list[Request]]:
    """Rows cut into blocks of at most `most` tokens, each row counted as long as the longest of its block."""
    block: list[Request] = []
    for row in rows:
        if block and (len(block) + 1) * len(row.prompt) > most:
            yield block
            block = []
        block.append(row)
    yield block


def _read(model: Model, rows: list[Request]) -> Batch:
    """One forward pass over the prompts of `rows`, each different one once."""
    unique = [list(same) for _, same in groupby(sorted(rows, key=_prompt), key=_prompt)]
    device = next(model.parameters()).device
    width = max(len(row.prompt) for row in rows)
    ids_UT = torch.zeros(len(unique), width, dtype=torch.long)
    mask_UT = torch.zeros(len(unique), width, dtype=torch.long)
    for number, (first, *_) in enumerate(unique):
        ids_UT[number, width - len(first.prompt) :] = torch.tensor(first.prompt)
        mask_UT[number, width - len(first.prompt) :] = 1
    ids_UT, mask_UT = ids_UT.to(device), mask_UT.to(device)
    cache = DynamicCache(config=model.config)
    out = model(
        input_ids=ids_UT,
        attention_mask=mask_UT,
        position_ids=(mask_UT.cumsum(1) - 1).clamp(min=0),
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
        **_adapters(model, [first for first, *_ in unique]),
    )
    number_of = {id(row): number for number, same in enumerate(unique) for row in same}
    which_B = torch.tensor([number_of[id(row)] for row in rows], device=device)
    if len(unique) < len(rows) or which_B.tolist() != list(range(len(rows))):
        cache.batch_select_indices(which_B)
    return Batch(
        rows=rows,
        cache=cache,
        mask_BT=mask_UT[which_B],
        logits_BV=out.logits[which_B, -1].float(),
    )


def _prompt(row: Request) -> tuple[str, Sequence[int]]:
    return row.adapter, row.prompt


class Growing(DynamicLayer):  # type: ignore[misc]  # transformers is read as Any
    """Keys and values of one layer, [B, heads, T, size], as views into larger tensors that are filled in place."""

    _keys: Tensor
    _values: Tensor

    @classmethod
    def of(cls, parts: Sequence[Any], width: int) -> "Growing":
        """The layers of several blocks, one below the other, all ending in column `width`."""
        layer = cls()
        layer.dtype, layer.device, layer.is_initialized = parts[0].keys.dtype, parts[0].keys.device, True
        layer._keys = cls._joined([part.keys for part in parts], width)
        layer._values = cls._joined([part.values for part in parts], width)
        for part in parts:
            part.keys = part.values = None  # two copies of one layer at a time, not of all
        layer._show(width)
        return layer

    @staticmethod
    def _joined(parts: Sequence[Tensor], width: int) -> Tensor:
        _, heads, _, size = parts[0].shape
        # zeros, not what was in memory: padding has weight 0, but 0 times NaN is NaN
        joined = parts[0].new_zeros(sum(map(len, parts)), heads, width + ROOM, size)
        at = 0
        for part in parts:
            joined[at : at + len(part), :, width - part.shape[2] : width] = part
            at += len(part)
        return joined

    def _show(self, width: int) -> None:
        self.keys, self.values = self._keys[:, :, :width], self._values[:, :, :width]

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append columns; returns all of them."""
        begin = self.keys.shape[2]
        end = begin + keys.shape[2]
        if end > self._keys.shape[2]:
            more = (0, 0, 0, end + ROOM - self._keys.shape[2])
            self._keys = torch.nn.functional.pad(self._keys, more)
            self._values = torch.nn.functional.pad(self._values, more)
        self._keys[:, :, begin:end], self._values[:, :, begin:end] = keys, values
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        width = self.keys.shape[2]
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._show(width)
