"""What is drawn from a policy in GRPO's steps, and what it would earn on held-back tasks, before and after.

TRL's trainer compares and learns. Here stands what it is given: a function that draws (its `rollout_func`) and one that
says what was earned (its one reward function), both over a practice (`training/practice.py`); and a check that draws
for held-back tasks.

    steps = Steps(practice=practice, tasks=tasks, group=8, speaker=...)
    Trainer(rollout_func=steps.rollout, reward_funcs=steps.reward, ...)       # a row's prompt is its task's number
    check = HeldBack(practice=practice, wanted=[(task, 0)], speaker=..., best=1.3) # for training.session.Session.fit
    check(model)["held_back_reward"]                                              # 0 to 1: a share of the best

How the check departs from the usual evaluation: every check asks the same policy for the same speeches, disturbs no
draw of the training, and two checks differ by the policy and by no luck of the draw; the gain since the start is a
difference of pairs, with an interval over topics. Rewards that could not be had are left out, and counted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch

from arena.models import Model, Tokenizer, log_probs
from arena.speech import visible
from judges.rubric import weigh
from runs.files import replace_text
from runs.statistics import Estimate, mean, rate
from training.guard import repetition
from training.log import Log
from training.practice import Practice, Sample, Served, Speaker, keep, reference
from training.preference import perplexity
from training.reference import score
from training.rewards import Component, Reward, dead_items, spreads
from training.tokens import Tokens

DRIFT, LONG = 32, 4096
"""Held-back samples that the reference is asked about, and the most tokens of one of them: all its logits are held."""


def ends(model: Model, tokenizer: Tokenizer) -> set[int]:
    """The tokens that end a turn."""
    ids = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *([] if ids is None else [ids] if isinstance(ids, int) else ids)}


# ── in the steps ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(kw_only=True)
class Steps:
    """What the trainer draws and is told, step by step."""

    practice: Practice
    tasks: Sequence[Any]
    group: int
    """Draws of a task that are compared with each other."""
    speaker: Callable[[Any], Speaker]
    """Of a trainer, the policy as it is now."""
    samples: list[Sample] = field(default_factory=list)
    """Of the newest step."""

    def rollout(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """TRL's `rollout_func`: `prompts` are numbers of tasks, each as often as its draws have sequences.

        Where a draw comes to several, the first ones of all draws are a group, then the second ones: a debate's turns
        are compared with the same turns of other debates.
        """
        step, each = trainer.state.global_step, self.practice.each
        tasks = [self.tasks[int(prompts[start])] for start in range(0, len(prompts), self.group * each)]
        wanted = [(task, step * self.group + copy) for task in tasks for copy in range(self.group)]
        speaker = self.speaker(trainer)
        drawn = self.practice.draw(speaker, wanted)
        block = self.group * each
        self.samples = [
            drawn[start + copy * each + place]
            for start in range(0, len(drawn), block)
            for place in range(each)
            for copy in range(self.group)
        ]
        found: dict[str, Any] = {
            "prompt_ids": [list(one.prompt) for one in self.samples],
            "completion_ids": [list(one.completion) for one in self.samples],
            "logprobs": None,
        }
        if isinstance(speaker, Served):
            found["logprobs"] = [list(one.log_probs or [0.0] * len(one.completion)) for one in self.samples]
        if any(one.own is not None for one in self.samples):
            found["env_mask"] = [list(one.own or [1] * len(one.completion)) for one in self.samples]
        return found

    def reward(self, log_metric: Callable[[str, float], None], **_: Any) -> list[float | None]:
        """TRL's one reward function: of each sequence its reward, or None, which TRL keeps out of the gradient."""
        for name, value in summary(self.samples, self.group).items():
            log_metric(name, value)
        return [one.reward.value for one in self.samples]


def summary(samples: Sequence[Sample], group: int) -> dict[str, float]:
    """What a step's rewards come to: the mean of each component, and the shares unscored and of dead items."""
    rewards = [one.reward for one in samples]
    rows = spreads(rewards[start : start + group] for start in range(0, len(rewards), group))
    told = {f"train_{name}": value for name, value in means(rewards).items()}
    told["unscored"] = unscored(samples)
    if spread := {(row.component, row.item) for row in rows if row.sd is not None}:
        told["dead_items"] = len(dead_items(rows)) / len(spread)
    if scores := [one.score for one in samples if one.score is not None]:
        told["train_win_rate"] = fmean(scores)
    return told


def unscored(samples: Sequence[Sample]) -> float:
    """The share without a reward."""
    return sum(one.reward.value is None for one in samples) / len(samples)


def means(rewards: Iterable[Reward]) -> dict[Component, float]:
    """The mean of each component, 0 to 1, over the rewards that have it."""
    found: dict[Component, list[float]] = {}
    for one in rewards:
        for name, items in one.components.items():
            if items is not None:
                found.setdefault(name, []).append(weigh(items))
    return {name: fmean(values) for name, values in found.items()}


# ── on held-back tasks ───────────────────────────────────────────────────────────────────────────────


@dataclass(kw_only=True)
class HeldBack:
    """The check: what the policy as it is now earns on held-back tasks, how it speaks there, and how far it has come
    from the reference."""

    practice: Practice
    wanted: Sequence[tuple[Any, int]]
    """Held-back tasks, and the number of the draw of each."""
    speaker: Callable[[Model], Speaker]
    best: float
    """The most that can be earned."""
    won: Tokens | None
    """Winning speeches on held-back topics, for perplexity."""
    autocast: torch.dtype | None
    memory: Path
    """Where the first check's rewards are kept, for a training that goes on."""
    keeps: Callable[[], bool] = lambda: False
    """Whether what the policy is now is to be kept as an opponent."""

    def __call__(self, model: Model) -> dict[str, float]:
        samples = self.practice.draw(self.speaker(model), self.wanted)
        shares = [None if one.reward.value is None else one.reward.value / self.best for one in samples]
        if self.keeps():
            keep(model)
        first = self._first(shares, [one.score for one in samples])
        units = [one.unit for one in samples]
        earned, gained = estimates(shares, first["shares"], units)
        texts = [visible(text) for one in samples for text in one.texts]
        told = f"held-back reward {shown(earned)}, gained {shown(gained)}"
        found: dict[str, float | None] = {**_named("held_back_reward", earned), **_named("held_back_gain", gained)}
        if any(one.score is not None for one in samples):
            won, more = estimates([one.score for one in samples], first["scores"], units)
            told += f"; win rate {shown(won)}, gained {shown(more)}"
            found |= {**_named("held_back_win_rate", won), **_named("held_back_win_gain", more)}
        if texts:
            found["held_back_words"] = words = fmean(len(text.split()) for text in texts)
            found["held_back_repetition"] = fmean(map(repetition, texts))
            told += f"; {words:.0f} words a speech"
        print(told, file=sys.stderr)
        parts = means(one.reward for one in samples)
        found |= {f"held_back_earned_{name}": value for name, value in parts.items()}
        found |= {
            "held_back_unscored": unscored(samples),
            "held_back_kl": drift(model, [one for one in samples if one.tokens <= LONG][:DRIFT]),
        }
        if "audit" in parts:
            found["held_back_audit"] = 1 - parts["audit"]
        if self.won is not None:
            sums = score(model, self.won, range(len(self.won.sequences)), autocast=self.autocast)
            tokens = sum(len(self.won.speeches[speech]) for _, speech in self.won.sequences)
            found["perplexity"] = perplexity(fsum(sums), tokens)
        return {name: number for name, number in found.items() if number is not None}

    def _first(self, shares: list[float | None], scores: list[float | None]) -> Any:
        """What the first check of this training found."""
        if not self.memory.exists():
            replace_text(self.memory, json.dumps({"shares": shares, "scores": scores}))
        return json.loads(self.memory.read_text(encoding="utf-8"))


def drift(model: Model, samples: Sequence[Sample]) -> float | None:
    """KL divergence from the reference in nats a token, k3 (Schulman 2020), over what the policy drew; 0 without an
    adapter, which has not moved yet, and None without a sample."""
    if not samples:
        return None
    if not hasattr(model, "peft_config"):
        return 0.0
    from trl.trainer.utils import use_adapter

    training, total, tokens = model.training, 0.0, 0
    model.eval()
    try:
        for one in samples:
            own = torch.tensor(one.own or [1] * len(one.completion))
            policy = log_probs(model, one.prompt, one.completion)
            with use_adapter(model, reference(model)):
                away = log_probs(model, one.prompt, one.completion) - policy
            total += float(((away.exp() - 1 - away) * own).sum())
            tokens += int(own.sum())
    finally:
        model.train(training)
    return total / max(1, tokens)


def estimates(
    after: Sequence[float | None], before: Sequence[float | None], units: Sequence[str]
) -> tuple[Estimate, Estimate]:
    """The mean now, and how far it lies above that before, of the same tasks."""
    had = [(now, unit) for now, unit in zip(after, units, strict=True) if now is not None]
    both = [
        (now - then, unit)
        for now, then, unit in zip(after, before, units, strict=True)
        if now is not None and then is not None
    ]
    nothing = Estimate(value=None, low=None, high=None)
    return rate(*zip(*had, strict=True)) if had else nothing, mean(*zip(*both, strict=True)) if both else nothing


def _named(name: str, of: Estimate) -> dict[str, float | None]:
    return {name: of.value, f"{name}_low": of.low, f"{name}_high": of.high}


def shown(of: Estimate) -> str:
    """An estimate and its interval."""
    if of.value is None:
        return "unknown"
    return f"{of.value:.3f}" + (f" [{of.low:.3f}, {of.high:.3f}]" if of.low is not None else "")


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────

INTERVALS = [f"{name}{end}" for name in ("reward", "gain", "win_rate", "win_gain") for end in ("", "_low", "_high")]
SPOKEN = ("unscored", "words", "repetition", "kl")
EARNED = Log(
    columns={
        "loss": "loss",
        "reward": "train_reward",
        "reward_std": "train_reward_sd",
        "frac_reward_zero_std": "train_groups_alike",
        "train_win_rate": "train_win_rate",
        **{f"train_{name}": f"train_{name}" for name in get_args(Component)},
        "unscored": "train_unscored",
        "dead_items": "train_dead_items",
        "completions/mean_length": "train_tokens",
        "completions/clipped_ratio": "train_cut",
        "kl": "train_kl",
        "entropy": "entropy",
        "grad_norm": "grad_norm",
        "learning_rate": "learning_rate",
        **{f"held_back_{name}": name for name in (*INTERVALS, *SPOKEN)},
        **{f"held_back_earned_{name}": f"earned_{name}" for name in get_args(Component)},
        "perplexity": "perplexity",
    },
    panels={
        "reward": "reward, held-back topics",
        "win_rate": "win rate, held-back topics",
        "train_reward": "reward in the steps",
        "words": "words a speech",
        "kl": "KL from the reference, nats a token",
        "perplexity": "perplexity, held-back speeches",
    },
    found=(*INTERVALS, *SPOKEN, "perplexity"),
    told=("reward", "held_back_reward", "held_back_win_rate"),
    before=("reward", "win_rate"),
)
"""What is kept of a training by rewards. Those of a check are shares of the best, those of a step what was earned."""
