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
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from arena.models import Model, Tokenizer
from training.batches import MicroBatch
from training.reference import Batch, prompt_batch, read, run, score, shares_prompts, speech_batch, whole_batch
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
SHARED_PROMPT = 64
"""Least tokens of a prompt that is read once for all its speeches."""


def settings(**given: Any) -> DPOConfig:
    """A `DPOConfig` for a `PreferenceTrainer`: what is given, and what a plan takes over."""
    return DPOConfig(**given | FIXED)


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
        if wrong := {name: getattr(args, name) for name, value in FIXED.items() if getattr(args, name) != value}:
            raise ValueError(f"{wrong} is not what a plan needs; make the arguments with training.preference.settings")
        if args.ld_alpha is not None:
            raise ValueError("ld_alpha: the reference of LD-DPO depends on the pair, not on the sequence alone")
        if peft_config is None and not hasattr(model, "peft_config"):
            raise ValueError("expected a PeftModel, or a plain model with peft_config")
        exact = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad and not peft_config}
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
        self.precompute_ref_logps = True
        self.tokens, self.reference = tokens, reference
        self.train_dataset = dealt(plan, args.gradient_accumulation_steps, self.accelerator.num_processes)
        whole = args.gradient_checkpointing or self.is_fsdp_enabled or self.is_deepspeed_enabled
        self.shares = (
            shared_prompt is not None and not whole and not self.aux_loss_enabled and shares_prompts(self.model)
        )
        self.shared_prompt = shared_prompt or 0

    def _collate(self, batches: list[MicroBatch]) -> Batch:
        """One micro-batch as tensors; the reference of each of its sequences among them."""
        (batch,) = batches
        tokens = self.tokens
        prompts = list(dict.fromkeys(tokens.sequences[sequence][0] for sequence in batch.sequences))
        lengths = [len(tokens.prompts[prompt]) for prompt in prompts]
        if self.shares and min(lengths) >= max(2, self.shared_prompt) and len(prompts) < len(batch.sequences):
            made = prompt_batch(tokens, prompts) | speech_batch(tokens, batch.sequences, prompts)
        else:
            made = whole_batch(tokens, batch.sequences)
        return made | {
            "chosen": torch.tensor(batch.chosen),
            "rejected": torch.tensor(batch.rejected),
            "reference": torch.tensor([self.reference[sequence] for sequence in batch.sequences]),
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
                past = read(model, inputs) if "prompt_ids" in inputs else []
            out = run(model, inputs, past)
            fields = {name: value for name, value in out.items() if torch.is_tensor(value) and value.dim() == 2}
            return dataclasses.replace(out, **{name: value[rows_P] for name, value in fields.items()})

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
        perplexity=math.exp(-math.fsum(values[sequence] for sequence in liked) / spoken),
        correct=[margin > 0 for margin in margins],
    )


def _softplus(x: float) -> float:
    """log(1 + e^x), which is -log sigmoid(-x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
