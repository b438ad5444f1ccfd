"""GRPO's learning: TRL's trainer, in which a prompt is read once for all that was drawn behind it.

    trainer = Trainer(rollout_func=steps.rollout, reward_funcs=steps.reward, ...)

A group is one prompt and several completions, and the prompt is the longer part. TRL reads it before each completion,
deals the sequences of an update out to its passes by chance, and pads all to the longest. Here those of one prompt are
neighbours, a pass is only as wide as it must be, and each different prompt of it is read once: its keys and values are
computed, then repeated for the completions (`training.reference`, the same two functions as in DPO). Without dropout,
loss and gradient are TRL's own up to rounding (tests/test_practice.py); with it, a prompt's is drawn once.

Prompts are not shared where keys and values cannot be repeated (layers that do not attend to everything), where a loss
balances experts over all that is read, and not by the policy with gradient checkpointing, which then leaves it to the
reference. Positions are taken to be relative, as with RoPE. What TRL logs of a step (`kl`, `entropy`) is its mean over
passes.

Two private methods of TRL's are overridden, so its next minor version is not taken without the tests.

Dimensions: S sequences, T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from trl import GRPOTrainer

from arena.models import Model
from training.reference import on, prompt_batch, read, run, shares_prompts, speech_batch, widened
from training.tokens import Tokens

READ = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
"""What a pass holds of its sequences, [S, T] each: prompts padded on the left, completions on the right."""


class Trainer(GRPOTrainer):  # type: ignore[misc]  # TRL is Any here
    """TRL's trainer; what it asks a model for, it is told with each prompt read once."""

    _buffered_inputs: Any
    """The passes of what was drawn."""

    def compute_loss(self, model: Model, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        return super().compute_loss(model, narrowed(inputs), *args, **options)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before:
            return inputs
        passes, each = self._buffered_inputs, self.args.gradient_accumulation_steps
        updates = [passes[start : start + each] for start in range(0, len(passes), each)]
        self._buffered_inputs = [one for update in updates for one in together(update)]
        return self._buffered_inputs[self._step % len(passes)]

    def _get_per_token_logps_and_entropies(
        self, model: Model, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **options: Any
    ) -> Any:
        asked = read_once(model, logits_to_keep) if self.shares else model
        return super()._get_per_token_logps_and_entropies(
            asked, input_ids, attention_mask, logits_to_keep, *args, **options
        )

    @property
    def shares(self) -> bool:
        """Whether prompts may be read once just now."""
        recomputed = self.args.gradient_checkpointing and torch.is_grad_enabled()
        return not (recomputed or self.aux_loss_enabled) and shares_prompts(self.model)


def read_once(model: Model, width: int) -> Callable[..., Any]:
    """A stand-in for the model, asked as TRL asks it, about completions in the last `width` columns; its fields have
    these alone.
    """

    def answer(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **asked: Any) -> Any:
        parts = [(part[:, :-width], part[:, -width:]) for part in (input_ids, attention_mask)]
        tokens = sequences(*(row for part in zip(*parts, strict=True) for row in part))
        if len(tokens.prompts) == len(tokens.sequences) or min(map(len, tokens.prompts)) < 2:
            return model(input_ids=input_ids, attention_mask=attention_mask, **asked)
        prompts = range(len(tokens.prompts))
        batch = prompt_batch(tokens, prompts) | speech_batch(tokens, range(len(tokens.sequences)), prompts)
        batch = on(input_ids.device, batch)
        found = run(model, batch, read(model, batch))
        return dataclasses.replace(found, **widened(found, width))

    return answer


def sequences(*read: torch.Tensor) -> Tokens:
    """Sequences as token ids, each different prompt once; `read` as in `READ`, [S, T] each."""
    prompts, completions = (
        [row[shown].tolist() for row, shown in zip(ids_ST, mask_ST.bool(), strict=True)]
        for ids_ST, mask_ST in (read[:2], read[2:])
    )
    number = {prompt: at for at, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    asked = [(number[tuple(prompt)], at) for at, prompt in enumerate(prompts)]
    return Tokens(prompts=list(number), speeches=completions, sequences=asked, pairs=[])


def together(passes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same sequences in as many passes of the same size, those of one prompt next to each other."""
    found = sequences(*(torch.cat([one[name] for one in passes]) for name in READ))

    def place(at: int) -> tuple[int, int, int]:
        prompt, completion = found.sequences[at]
        return len(found.prompts[prompt]), prompt, len(found.speeches[completion])

    order_S = torch.tensor(sorted(range(len(found.sequences)), key=place))
    many = {name for name, value in passes[0].items() if value.dim()}
    moved = {name: torch.cat([one[name] for one in passes])[order_S].chunk(len(passes)) for name in many}
    return [{**one, **{name: moved[name][at] for name in many}} for at, one in enumerate(passes)]


def narrowed(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A pass without the columns that no sequence of it fills: on the left of prompts, on the right of completions."""
    prompts = int(inputs["prompt_mask"].sum(1).max())
    width, longest = inputs["completion_mask"].shape[1], int(inputs["completion_mask"].sum(1).max())
    completions = max(2, longest)  # of one column TRL takes what is a token's for a sequence's, without the mask
    found = dict(inputs)
    for name, value in inputs.items():
        if name.startswith("prompt_"):
            found[name] = value[:, value.shape[1] - prompts :]
        elif torch.is_tensor(value) and value.dim() == 2 and value.shape[1] == width:
            found[name] = value[:, :completions]
    return found
