"""What a model thinks of every sequence; and what the reference thought of it, asked once and kept.

A sequence's log-probability is the sum over the tokens of its speech, the prompt's excluded. The textbook trainer
asks the reference twice for every pair; here it is asked once for every different sequence, and each prompt is read
once: its keys and values are computed, then repeated for the speeches behind it. That is the same computation with
its parts in another order, and it is differentiable, so the policy is trained through the same two functions, `read`
and `run`.

    reference = log_probs(model, tokens, cache=folder, model_digest=digest)     # a number for each sequence

Values are kept on disk by a digest of model, precision and token ids, in small Parquet parts named by their own
digest. Another pair set, or a pass that goes on, asks only for what is missing; a killed pass loses the part it was
at; a damaged part is told, ignored and computed again. Several processes share the parts among them.
"""

import hashlib
import math
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import torch
from accelerate import PartialState
from transformers import DynamicCache
from trl.trainer.utils import add_fused_lm_head

from arena.models import Model
from runs.files import sha256_of
from topics.errors import InputError, one_line
from training.tokens import Tokens

PART = 512
"""Sequences of a part of the cache."""
CHUNK = 128
"""Sequences whose prompts are read together; their speeches are then run in the order of their lengths."""
BATCH_TOKENS = {True: 2_048, False: 16_384}
"""Most tokens of a forward pass without gradients, prompts included, on a CPU and elsewhere."""

Batch = dict[str, torch.Tensor]
"""Sequences as tensors. Dimensions: S sequences, T tokens, K prompts, N tokens of a prompt."""
Past = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer, the keys and the values of prompts, [K, heads, N, head size]."""
Progress = Callable[[int, int], None]
"""Called with how many sequences are done, and how many there are to do."""


def log_probs(
    model: Model,
    tokens: Tokens,
    *,
    cache: Path,
    model_digest: str,
    autocast: torch.dtype | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """The log-probability of every sequence under `model` as it is now, from the cache as far as it is there.

    `model_digest` names the weights, an adapter's and a quantisation included. `autocast` is the precision that
    training computes in where that is not the model's own.
    """
    digests = [_digest(tokens.prompts[p], tokens.speeches[s]) for p, s in tokens.sequences]
    folder = cache / hashlib.sha256(f"{model_digest}|{autocast or model.dtype}".encode()).hexdigest()[:24]
    known = _stored(folder)
    state = PartialState(cpu=not torch.cuda.is_available())
    missing = _in_order(tokens, (at for at, digest in enumerate(digests) if digest not in known))
    parts = [missing[start : start + PART] for start in range(0, len(missing), PART)]
    mine = parts[state.process_index :: state.num_processes]
    settings: dict[str, Any] = {"autocast": autocast, "batch_tokens": batch_tokens}
    done, total = 0, sum(map(len, mine))
    for part in mine:
        values = score(model, tokens, part, **settings)
        if bad := [value for value in values if not math.isfinite(value)]:
            of = f"{len(bad):,} of {len(values):,} sequences"
            raise InputError(f"the reference gives {of} a log-probability of {bad[0]}; expected a sound model")
        known |= _store(folder, [digests[at] for at in part], values)
        done += len(part)
        if progress is not None:
            progress(done, total)
    if state.num_processes > 1:
        state.wait_for_everyone()
        known |= _stored(folder)
    elsewhere = [at for at, digest in enumerate(digests) if digest not in known]  # on a disk that is not shared
    known |= zip((digests[at] for at in elsewhere), score(model, tokens, elsewhere, **settings), strict=True)
    return [known[digest] for digest in digests]


def score(
    model: Model,
    tokens: Tokens,
    sequences: Sequence[int],
    *,
    autocast: torch.dtype | None = None,
    batch_tokens: int | None = None,
) -> list[float]:
    """The log-probabilities of some sequences under `model` as it is now, in their order; no gradient, nothing kept."""
    base = base_of(model)
    device = next(base.parameters()).device
    batch_tokens = batch_tokens or BATCH_TOKENS[device.type == "cpu"]
    share = shares_prompts(model) and min(map(len, tokens.prompts), default=0) > 1
    found: dict[int, float] = {}
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _scoring(base), torch.autocast(device.type, autocast, enabled=autocast is not None):
            for chunk in _chunks(tokens, sequences, batch_tokens):
                prompts = list(dict.fromkeys(tokens.sequences[at][0] for at in chunk))
                asked = on(device, prompt_batch(tokens, prompts)) if share else {}
                past = read(model, asked) if share else []
                for some in _fitting(tokens, chunk, batch_tokens):
                    batch = on(device, speech_batch(tokens, some, prompts) if share else whole_batch(tokens, some))
                    sums = run(model, asked | batch, past).log_probs.float().sum(1)
                    found |= zip(some, sums.tolist(), strict=True)
    finally:
        model.train(training)
    return [found[at] for at in sequences]


def base_of(model: Model) -> Model:
    """The language model itself, without PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def shares_prompts(model: Model) -> bool:
    """Whether a prompt's keys and values can be repeated for several speeches: every layer attends to everything."""
    config = base_of(model).config.get_text_config()
    layers = getattr(config, "layer_types", None)
    if layers is None:
        return getattr(config, "sliding_window", None) is None
    return set(layers) == {"full_attention"}


def read(model: Model, batch: Mapping[str, torch.Tensor]) -> Past:
    """The keys and values of prompts; `batch` as made by `prompt_batch`."""
    cache = DynamicCache()
    base_of(model).base_model(
        input_ids=batch["prompt_ids"], attention_mask=batch["prompt_mask"], cache=cache, use_cache=True
    )
    return [(layer.keys, layer.values) for layer in cache.layers]


def run(model: Model, batch: Mapping[str, torch.Tensor], past: Past) -> Any:
    """TRL's fused head on sequences: a `FusedCausalLMOutput` whose fields are [S, T-1], zero outside the speeches."""
    mask_ST = batch["attention_mask"]
    behind: dict[str, Any] = {}
    if past:
        prompt_S = batch["prompt_of"]
        cache = DynamicCache()
        for layer, states in enumerate(past):
            cache.update(*(state.index_select(0, prompt_S) for state in states), layer)
        steps_T = torch.arange(mask_ST.size(1), device=mask_ST.device)
        behind = {"cache": cache, "position_ids": batch["starts"][:, None] + steps_T}
        mask_ST = torch.cat([batch["prompt_mask"][prompt_S], mask_ST], 1)
    labels_ST = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return model(
        input_ids=batch["input_ids"],
        attention_mask=mask_ST,
        labels=labels_ST,
        fused_lm_head=True,
        use_cache=False,
        **behind,
    )


def widened(output: Any, width: int) -> dict[str, torch.Tensor]:
    """The fields of the fused head's output that have a value for each token, filled up with zeros to [S, width]."""
    fields = {name: value for name, value in output.items() if torch.is_tensor(value) and value.dim() == 2}
    return {name: torch.nn.functional.pad(value, (0, width - value.size(1))) for name, value in fields.items()}


def whole_batch(tokens: Tokens, sequences: Sequence[int]) -> Batch:
    """Sequences with their prompts, padded on the right."""
    both = [
        (tokens.prompts[prompt], tokens.speeches[speech])
        for prompt, speech in map(tokens.sequences.__getitem__, sequences)
    ]
    ids_ST, mask_ST = _padded([[*prompt, *speech] for prompt, speech in both])
    starts_S = torch.tensor([len(prompt) for prompt, _ in both])
    spoken_ST = (torch.arange(ids_ST.size(1)) >= starts_S[:, None]).long() * mask_ST
    return {"input_ids": ids_ST, "attention_mask": mask_ST, "completion_mask": spoken_ST}


def prompt_batch(tokens: Tokens, prompts: Sequence[int]) -> Batch:
    """Prompts without their last token, which is run with each speech and says what comes next."""
    ids_KN, mask_KN = _padded([tokens.prompts[prompt][:-1] for prompt in prompts])
    return {"prompt_ids": ids_KN, "prompt_mask": mask_KN}


def speech_batch(tokens: Tokens, sequences: Sequence[int], prompts: Sequence[int]) -> Batch:
    """Speeches, each with the last token of its prompt in front, which stands at `prompt_of` in `prompts`."""
    place = {prompt: at for at, prompt in enumerate(prompts)}
    both = [tokens.sequences[sequence] for sequence in sequences]
    ids_ST, mask_ST = _padded([[tokens.prompts[prompt][-1], *tokens.speeches[speech]] for prompt, speech in both])
    spoken_ST = mask_ST.clone()
    spoken_ST[:, 0] = 0
    return {
        "input_ids": ids_ST,
        "attention_mask": mask_ST,
        "completion_mask": spoken_ST,
        "prompt_of": torch.tensor([place[prompt] for prompt, _ in both]),
        "starts": torch.tensor([len(tokens.prompts[prompt]) - 1 for prompt, _ in both]),
    }


def on(device: torch.device, batch: Batch) -> Batch:
    """The same on a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one tensor, padded on the right with token 0, which no mask ever shows; and the mask."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[at, : len(row)] = 1
    return ids, mask


@contextmanager
def _scoring(base: Model) -> Iterator[None]:
    """Give `base` TRL's fused head for a while, computing nothing but log-probabilities."""
    before = base.__dict__.get("forward")
    add_fused_lm_head(base)
    try:
        yield
    finally:
        del base.forward
        if before is not None:
            base.forward = before


def _in_order(tokens: Tokens, sequences: Iterator[int] | Sequence[int]) -> list[int]:
    """Sequences of the same prompt, and prompts of about the same length, next to each other."""

    def place(sequence: int) -> tuple[int, int, int]:
        prompt, speech = tokens.sequences[sequence]
        return len(tokens.prompts[prompt]), prompt, len(tokens.speeches[speech])

    return sorted(sequences, key=place)


def _chunks(tokens: Tokens, sequences: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Sequences some prompts at a time, so that the prompts can be read at once."""
    chunk: list[int] = []
    prompts: set[int] = set()
    for sequence in _in_order(tokens, sequences):
        prompt = tokens.sequences[sequence][0]
        wide = (len(prompts) + 1) * len(tokens.prompts[prompt]) > batch_tokens
        if chunk and (len(chunk) >= CHUNK or (prompt not in prompts and wide)):
            yield chunk
            chunk, prompts = [], set()
        chunk.append(sequence)
        prompts.add(prompt)
    if chunk:
        yield chunk


def _fitting(tokens: Tokens, chunk: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """The sequences of a chunk, longest first, as many at a time as fit."""

    def speech(sequence: int) -> int:
        return len(tokens.speeches[tokens.sequences[sequence][1]])

    longest_prompt = max(len(tokens.prompts[tokens.sequences[sequence][0]]) for sequence in chunk)
    waiting = sorted(chunk, key=speech)
    while waiting:
        rows = max(1, batch_tokens // (longest_prompt + speech(waiting[-1])))
        yield waiting[-rows:]
        del waiting[-rows:]


def _digest(prompt: Sequence[int], speech: Sequence[int]) -> str:
    numbers = array("q", [len(prompt), *prompt, *speech])
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).hexdigest()


def _store(folder: Path, digests: list[str], values: list[float]) -> dict[str, float]:
    """Write a part; a reader, or a kill, never sees half of one under its final name."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{uuid4().hex}.new"
    pl.DataFrame({"sequence": digests, "log_prob": values}).write_parquet(fresh)
    fresh.replace(folder / f"{sha256_of(fresh)[:24]}.parquet")
    return dict(zip(digests, values, strict=True))


def _stored(folder: Path) -> dict[str, float]:
    """Everything in the parts of a folder, except for damaged ones."""
    known: dict[str, float] = {}
    for part in sorted(folder.glob("*.parquet")):
        try:
            if sha256_of(part)[:24] == part.stem:
                known |= pl.read_parquet(part, glob=False).select("sequence", "log_prob").iter_rows()
                continue
            what = "its contents do not match its name"
        except (OSError, pl.exceptions.PolarsError) as error:
            what = one_line(str(error))
        print(f"note: {part} is damaged ({what}); what it held is computed again", file=sys.stderr)
    return known
