"""DPO on pairs that share texts: TRL's losses on every pair, one forward and backward pass for every sequence.

    args = settings(output_dir="out", learning_rate=1e-4, gradient_accumulation_steps=4)
    trainer = PreferenceTrainer(model, args, tokens=tokens, reference=log_probs(...), plan=plan(...), tokenizer=...)
    trainer.train()

How it departs from `trl.DPOTrainer`, whose losses, metrics, checkpoints and loop it keeps:

1. The data set is a plan (`training.batches`): an item is a micro-batch, run in the order of the plan, its loss
   weighted so that a step's loss is the mean over its pairs. One pass over the plan is the whole run.
2. `compute_loss` runs the micro-batch's sequences, each once, and hands TRL a stand-in for the model that answers
   with a row for every pair. The gradient of such an index is the sum over the pairs of a sequence, so loss and
   gradient are those of the pairs run one by one (tests/test_whole_keys.py).
3. A prompt is read once for all its speeches in the micro-batch (`training.reference.read`), where it has at least
   `shared_prompt` tokens, the model attends fully, and gradient checkpointing is off. Only speeches reach the head.
4. Reference values come from outside, once a sequence (`training.reference.log_probs`).
5. Adapter weights stay float32 under a 4-bit base, where TRL rounds them to bfloat16.

The losses of TRL that look at a whole batch (`sft`, `aot`, `bco_pair` and the like) look at a micro-batch here too.
No private method is touched; that the loss asks the model with `fused_lm_head=True` is internal to TRL all the same,
so its next minor version is not taken without the tests.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypedDict

import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from arena.models import Model, Tokenizer
from training.batches import MicroBatch, parts
from training.reference import (
    Batch,
    prompt_batch,
    read,
    run,
    score,
    shares_prompts,
    speech_batch,
    whole_batch,
    widened,
)
from training.tokens import Tokens

FIXED: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "max_length": None,
    "precompute_ref_log_probs": False,
}
"""Settings of TRL that a plan takes over: what they say elsewhere is in the plan, or is not done at all here."""
PASS_TOKENS = {True: 128, False: 4_096}
"""What one more forward and backward pass costs, in tokens, on a CPU and elsewhere: less padding is not worth it."""
SHARED_PROMPT = 16
"""Least tokens of a prompt that is read once for all its speeches."""


def settings(**given: Any) -> DPOConfig:
    """A `DPOConfig` for a `PreferenceTrainer`: what is given, and what a plan takes over."""
    _refuse({name: given[name] for name in FIXED.keys() & given.keys()})
    return DPOConfig(**{"dataloader_pin_memory": torch.cuda.is_available()} | given | FIXED)


def _refuse(given: dict[str, Any]) -> None:
    if wrong := {name: value for name, value in given.items() if value != FIXED[name]}:
        raise ValueError(f"{wrong}: a plan takes these over; make the arguments with training.preference.settings")


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's DPO trainer on a plan of micro-batches; `model` is a `PeftModel`, or a plain one with `peft_config`."""

    def __init__(
        self,
        model: Model,
        args: DPOConfig,
        *,
        tokens: Tokens,
        reference: Sequence[float],
        plan: Sequence[MicroBatch],
        tokenizer: Tokenizer,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        shared_prompt: int | None = SHARED_PROMPT,
    ) -> None:
        _refuse({name: getattr(args, name) for name in FIXED})
        if args.ld_alpha is not None:
            raise ValueError("ld_alpha: the reference of LD-DPO depends on the pair, not on the sequence alone")
        if peft_config is None and not hasattr(model, "peft_config"):
            raise ValueError("expected a PeftModel, or a plain model with peft_config")
        exact = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad and not peft_config
        }
        disable_progress_bars()  # for the one row that TRL must be given
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collate,
            train_dataset=Dataset.from_list([{"prompt": "", "chosen": "a", "rejected": "b"}]),
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
        )
        enable_progress_bars()
        if "ref" in self.model.peft_config:  # TRL's copy of the adapter, in the place of which are the values
            self.model.delete_adapter("ref")
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:  # here and not later: a checkpoint is read after this, and would be rounded
                parameter.data = exact.get(name, parameter.data).float()
        if self.accelerator.num_processes > 1:
            self.accelerator.gather = partial(_gathered, self.accelerator, self.accelerator.gather)
        self.precompute_ref_logps = True
        self.tokens, self.reference = tokens, reference
        self.train_dataset = dealt(plan, args.gradient_accumulation_steps, self.accelerator.num_processes)
        # What is run in several passes is run beside the wrapper, which sharded weights do not allow.
        self.passes = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.aux_loss_enabled)
        self.shares = self.passes and not args.gradient_checkpointing and shares_prompts(self.model)
        self.shared_prompt = math.inf if shared_prompt is None else max(2, shared_prompt)

    def _collate(self, batches: list[MicroBatch]) -> dict[str, Any]:
        """One micro-batch as tensors: sequences longest first, the parts they are run in, and pairs among them."""
        (batch,) = batches
        tokens = self.tokens
        sequences = [tokens.sequences[sequence] for sequence in batch.sequences]
        prompts = list(dict.fromkeys(prompt for prompt, _ in sequences))
        shortest = min(len(tokens.prompts[prompt]) for prompt in prompts)
        share = self.shares and shortest >= self.shared_prompt and len(prompts) < len(sequences)
        width = [len(tokens.speeches[s]) + (1 if share else len(tokens.prompts[p])) for p, s in sequences]
        order = sorted(range(len(sequences)), key=lambda at: -width[at])
        place = {at: row for row, at in enumerate(order)}
        rows = [batch.sequences[at] for at in order]
        made = prompt_batch(tokens, prompts) if share else {}
        made |= speech_batch(tokens, rows, prompts) if share else whole_batch(tokens, rows)
        pass_tokens = PASS_TOKENS[self.args.device.type == "cpu"] if self.passes else math.inf
        cuts = parts([width[at] for at in order], pass_tokens)
        return made | {
            "parts": [(start, stop, width[order[start]]) for start, stop in cuts],
            "chosen": torch.tensor([place[at] for at in batch.chosen]),
            "rejected": torch.tensor([place[at] for at in batch.rejected]),
            "reference": torch.tensor([self.reference[sequence] for sequence in rows]),
            "weight": torch.tensor(batch.weight),
        }

    def compute_loss(
        self,
        model: Model,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean of TRL's loss over the pairs of a micro-batch, times its weight."""
        rows_P = torch.cat([inputs["chosen"], inputs["rejected"]])  # 2P: all chosen ones, then all rejected ones
        masks = [inputs[name].flatten() for name in ("attention_mask", "prompt_mask") if name in inputs]
        pairs = {
            "input_ids": inputs["input_ids"][rows_P],
            "completion_mask": inputs["completion_mask"][rows_P],
            "attention_mask": torch.cat(masks),  # TRL only counts tokens in it: those that are run
            "ref_chosen_logps": inputs["reference"][inputs["chosen"]],
            "ref_rejected_logps": inputs["reference"][inputs["rejected"]],
        }

        def per_pair(**_: Any) -> Any:
            with self.accelerator.autocast():
                past = read(self.model, inputs) if "prompt_ids" in inputs else []
            # Only the first pass goes through a wrapper: processes must agree on how often they meet there.
            outs = [run(self.model if at else model, part, past) for at, part in enumerate(_cut(inputs))]
            wide = [widened(out, inputs["input_ids"].size(1) - 1) for out in outs]
            return dataclasses.replace(
                outs[0], **{name: torch.cat([one[name] for one in wide])[rows_P] for name in wide[0]}
            )

        return super().compute_loss(per_pair, pairs, False, num_items_in_batch) * inputs["weight"]


def dealt(plan: Sequence[MicroBatch], per_process: int, processes: int) -> list[MicroBatch]:
    """A plan as processes take turns at it, checked against what a step is.

    Accelerate would fill up the last turn with micro-batches from the start; it is filled here with copies of weight
    zero, so that no pair counts twice.
    """
    per_step = per_process * processes
    for start in range(0, len(plan), per_step):
        step = plan[start : start + per_step]
        if not math.isclose(sum(batch.weight for batch in step), len(step), rel_tol=1e-6):
            raise ValueError(f"the plan was made for other steps than {per_step} micro-batches; give plan() per_step")
    last = len(plan) % per_step
    short = -last % processes
    if not short:
        return list(plan)
    rest = [dataclasses.replace(batch, weight=batch.weight * (last + short) / last) for batch in plan[-last:]]
    return [*plan[:-last], *rest, *[dataclasses.replace(plan[-1], weight=0.0)] * short]


def _gathered(accelerator: Any, gather: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    """What TRL asks all processes for, one metric of every pair; here they do not all have as many pairs."""
    if value.dim() == 0:
        return gather(value)
    together = gather(accelerator.pad_across_processes(value, pad_index=math.nan))
    return together[~together.isnan()]


def _cut(inputs: dict[str, Any]) -> Iterator[Batch]:
    """The parts of a micro-batch, each without the padding of the longer ones."""
    for start, stop, width in inputs["parts"]:
        part = {name: inputs[name][start:stop, :width] for name in ("input_ids", "attention_mask", "completion_mask")}
        part |= {name: inputs[name][start:stop] for name in ("prompt_of", "starts") if name in inputs}
        yield part | {name: inputs[name] for name in ("prompt_mask",) if name in inputs}


class Evaluation(TypedDict):
    """What a policy makes of pairs, held-back ones for instance."""

    accuracy: float
    """Share of pairs of which the policy raised the chosen sequence above the rejected one."""
    margin: float
    """Mean of h(chosen) - h(rejected), in nats; h is what the policy adds to the reference's log-probability."""
    loss: float
    """Mean DPO loss."""
    perplexity: float
    """Of the chosen speeches, each different one once, by token."""
    correct: list[bool]
    """Of each pair, whether it counts as accurate."""


def evaluate(
    model: Model,
    tokens: Tokens,
    reference: Sequence[float],
    beta: float,
    *,
    autocast: torch.dtype | None = None,
) -> Evaluation:
    """What `model` as it is now makes of pairs, in eval mode and without gradient; its mode is put back."""
    if not tokens.pairs:
        raise ValueError("no pairs to evaluate")
    values = score(model, tokens, range(len(tokens.sequences)), autocast=autocast)
    gain = [value - before for value, before in zip(values, reference, strict=True)]
    margins = [gain[chosen] - gain[rejected] for chosen, rejected in tokens.pairs]
    liked = {chosen for chosen, _ in tokens.pairs}
    spoken = sum(len(tokens.speeches[tokens.sequences[sequence][1]]) for sequence in liked)
    return Evaluation(
        accuracy=sum(margin > 0 for margin in margins) / len(margins),
        margin=math.fsum(margins) / len(margins),
        loss=math.fsum(_softplus(-beta * margin) for margin in margins) / len(margins),
        perplexity=perplexity(math.fsum(values[sequence] for sequence in liked), spoken),
        correct=[margin > 0 for margin in margins],
    )


def perplexity(log_prob: float, tokens: int) -> float:
    """Of tokens of so much log-probability together; infinite where a model has lost its numbers."""
    return math.exp(min(-log_prob / tokens, 50.0)) if math.isfinite(log_prob) else math.inf


def _softplus(x: float) -> float:
    """log(1 + e^x), which is -log sigmoid(-x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
