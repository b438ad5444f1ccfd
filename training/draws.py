"""Speeches drawn from a policy, and what they earn: in GRPO's steps, and on held-back topics, before and after.

TRL's trainer draws, compares and learns. Here stands what it is given and what it is watched by: its one reward
function, a check that draws one speech in each turn context of the held-back topics, and the entry in the registry.

    reward = scorer(contexts, earn, stops, group=8)             # for GRPOTrainer(reward_funcs=reward)
    check = HeldBack(contexts=held_back, earn=earn, ...)        # for training.session.Session.fit
    check(model)["held_back_reward"]                            # 0 to 1: a share of the best that can be had

How the check departs from the usual evaluation: it draws with `arena.generate`, as the policy plays, where a draw
belongs to its request alone. Every check so asks the same policy for the same speech, disturbs no draw of the training,
and two checks differ by the policy and by no luck of the draw; the gain since the start is a difference of pairs, with
an interval over topics. Rewards that could not be had are left out, and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, isnan
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
import torch

from arena.canary import canary
from arena.generate import BASE, Request, generate
from arena.models import Model, Tokenizer, prompt_ids
from arena.speech import visible
from judges.rubric import weigh
from runs.adapters import Adapter
from runs.records import content_seed
from runs.statistics import NAMES, Estimate, rate, standard_error, t_interval, topic_weights
from training.adapters import making, register
from training.preference import perplexity
from training.recipe import NOT_STORED, PLACES
from training.reference import score
from training.rewards import Reward, dead_items, spreads
from training.session import Session
from training.tokens import Tokens
from training.turns import RULES, TurnContext, room
from training.watch import Watch

BATCH = 64
"""Speeches that a check draws at once."""

Earn = Callable[[TurnContext, str, bool], Reward]
"""What an answer earns; the last says whether a limit on tokens ended it."""


def ends(model: Model, tokenizer: Tokenizer) -> set[int]:
    """The tokens that end a turn."""
    ids = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *([] if ids is None else [ids] if isinstance(ids, int) else ids)}


# ── in the steps ─────────────────────────────────────────────────────────────────────────────────────


def scorer(
    contexts: Sequence[TurnContext], earn: Earn, stops: Collection[int], group: int
) -> Callable[..., list[float | None]]:
    """TRL's one reward function: of each completion its reward, or None, which TRL keeps out of group and gradient.

    The data set's column `number` says in which of `contexts` a completion was given.
    """

    def reward(
        completions: Sequence[Sequence[Mapping[str, str]]],
        completion_ids: Sequence[Sequence[int]],
        number: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        rewards = [
            earn(contexts[at], said[0]["content"], ids[-1] not in stops)
            for at, said, ids in zip(number, completions, completion_ids, strict=True)
        ]
        for name, value in summary(rewards, group).items():
            log_metric(name, value)
        return [one.value for one in rewards]

    return reward


def summary(rewards: Sequence[Reward], group: int) -> dict[str, float]:
    """What a step's rewards come to: the mean of each component, and the shares unscored and of dead items."""
    rows = spreads(rewards[start : start + group] for start in range(0, len(rewards), group))
    told = {f"train_{name}": value for name, value in means(rewards).items()}
    told["unscored"] = sum(one.value is None for one in rewards) / len(rewards)
    if spread := {(row.component, row.item) for row in rows if row.sd is not None}:
        told["dead_items"] = len(dead_items(rows)) / len(spread)
    return told


def means(rewards: Iterable[Reward]) -> dict[str, float]:
    """The mean of each component, 0 to 1, over the rewards that have it."""
    found: dict[str, list[float]] = {}
    for one in rewards:
        for name, items in one.components.items():
            if items is not None:
                found.setdefault(name, []).append(weigh(items))
    return {name: fmean(values) for name, values in found.items()}


# ── on held-back topics ──────────────────────────────────────────────────────────────────────────────


@dataclass(kw_only=True)
class HeldBack:
    """The check: what the policy as it is now earns on held-back topics, and what it makes of speeches that won."""

    contexts: Sequence[TurnContext]
    earn: Earn
    best: float
    """The most that a speech can earn."""
    won: Tokens
    """Winning speeches on held-back topics, for perplexity."""
    tokenizer: Tokenizer
    stops: Collection[int]
    temperature: float
    seed: int
    autocast: torch.dtype | None
    before: list[float | None] | None = field(default=None)
    """What was earned, as shares of the best, at the first check."""

    def __call__(self, model: Model) -> dict[str, float]:
        answers = self.drawn(model)
        rewards = [self.earn(context, *answer) for context, answer in zip(self.contexts, answers, strict=True)]
        shares = [None if one.value is None else one.value / self.best for one in rewards]
        self.before = self.before or shares
        value, gain = _estimates(shares, self.before, [context.topic.topic_id for context in self.contexts])
        spoken = fmean(len(visible(said).split()) for said, _ in answers)
        print(f"held-back reward {_shown(value)}, gained {_shown(gain)}, {spoken:.0f} words a speech", file=sys.stderr)
        log_probs = score(model, self.won, range(len(self.won.sequences)), autocast=self.autocast)
        tokens = sum(len(self.won.speeches[speech]) for _, speech in self.won.sequences)
        found = {
            **_named("held_back_reward", value),
            **_named("held_back_gain", gain),
            **{f"held_back_{name}": mean for name, mean in means(rewards).items()},
            "held_back_unscored": sum(share is None for share in shares) / len(shares),
            "held_back_words": spoken,
            "perplexity": perplexity(fsum(log_probs), tokens),
        }
        return {name: number for name, number in found.items() if number is not None}

    def drawn(self, model: Model) -> list[tuple[str, bool]]:
        """An answer in each context, and whether a limit on tokens ended it."""
        requests = [
            Request(
                prompt=prompt_ids(self.tokenizer, context.messages),
                adapter="default" if hasattr(model, "peft_config") else BASE,
                seed=content_seed("held back", self.seed, context.topic.topic_id, context.side, context.turn, number),
                temperature=self.temperature,
                most=room(context),
            )
            for number, context in enumerate(self.contexts)
        ]
        device, training = next(model.parameters()).device.type, model.training
        model.eval()
        try:
            with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
                for start in range(0, len(requests), BATCH):
                    generate(model, requests[start : start + BATCH], self.stops, lambda _: None)
        finally:
            model.train(training)
        return [
            (str(self.tokenizer.decode(one.tokens, skip_special_tokens=True)), one.finish == "length")
            for one in requests
        ]


def _estimates(
    after: Sequence[float | None], before: Sequence[float | None], topics: Sequence[str]
) -> tuple[Estimate, Estimate]:
    """The mean now, and how far it lies above that before, of the same contexts."""
    had = [(now, topic) for now, topic in zip(after, topics, strict=True) if now is not None]
    both = [
        (now - then, topic)
        for now, then, topic in zip(after, before, topics, strict=True)
        if now is not None and then is not None
    ]
    nothing = Estimate(value=None, low=None, high=None)
    return rate(*zip(*had, strict=True)) if had else nothing, mean(*zip(*both, strict=True)) if both else nothing


def mean(values: Sequence[float], topics: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The mean of numbers, each of a topic, with its 95 % interval over topics."""
    numbers = {topic: number for number, topic in enumerate(dict.fromkeys(topics))}
    place = [numbers[topic] for topic in topics]
    part_TQ, whole_TQ = (np.bincount(place, weights)[:, None].astype(np.float64) for weights in (values, None))
    weights_RT, topics_Q = topic_weights(len(numbers), resamples, seed), np.array([len(numbers)])
    value_Q = part_TQ.sum(0) / whole_TQ.sum(0)
    error_Q = standard_error((weights_RT @ part_TQ) / (weights_RT @ whole_TQ), topics_Q)
    found = (value_Q, *t_interval(value_Q, error_Q, topics_Q))
    return Estimate(**{name: None if isnan(x[0]) else float(x[0]) for name, x in zip(NAMES, found, strict=True)})


def _named(name: str, of: Estimate) -> dict[str, float | None]:
    return {name: of.value, f"{name}_low": of.low, f"{name}_high": of.high}


def _shown(of: Estimate) -> str:
    if of.value is None:
        return "unknown"
    return f"{of.value:.3f}" + (f" ({of.low:.3f} to {of.high:.3f})" if of.low is not None else "")


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────

COLUMNS = {
    "loss": "loss",
    "reward": "train_reward",
    "reward_std": "train_reward_sd",
    "frac_reward_zero_std": "train_groups_alike",
    **{f"train_{name}": f"train_{name}" for name in RULES},
    "unscored": "train_unscored",
    "dead_items": "train_dead_items",
    "completions/mean_length": "train_tokens",
    "completions/clipped_ratio": "train_cut",
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    **{f"held_back_{name}": name for name in ("reward", "reward_low", "reward_high", "gain", "gain_low", "gain_high")},
    **{f"held_back_{name}": name for name in (*RULES, "unscored", "words")},
    "perplexity": "perplexity",
}
"""What is logged, by trainer, reward function and check, and the column it becomes; rewards of the check are shares
of the best, those of a step are what was earned."""


def table(history: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """A trainer's log as a table: one row a step, null where a step has no such value."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        row = rows.setdefault(int(entry["step"]), {"step": int(entry["step"])})
        row |= {column: float(entry[name]) for name, column in COLUMNS.items() if entry.get(name) is not None}
    schema = {"step": pl.Int64} | dict.fromkeys(COLUMNS.values(), pl.Float64)
    return pl.DataFrame([rows[step] for step in sorted(rows)], schema=schema)


@dataclass(frozen=True, kw_only=True)
class Rewarded(Session):
    """A session whose entry in the registry says what was earned."""

    def register(self, trainer: Any, watch: Watch, step: int) -> Adapter:
        """Enter what stands after `step` into the registry, and remove the training's folder."""
        settings, out = self.settings, self.settings.out / "adapters"
        frame = table(trainer.state.log_history)
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()  # else in bfloat16
        with making(out) as folder:
            model.save_pretrained(folder, selected_adapters=["default"])  # TRL may hold the parent beside it
            (folder / "README.md").unlink(missing_ok=True)
            frame.write_parquet(folder / "metrics.parquet")
            adapter = register(
                folder,
                form="lora",
                base=self.begin.base,
                parent=self.begin.parent,
                method=self.state.method,
                canary=canary(model, self.tokenizer, adapter=True),
                seed=settings.seed,
                settings=settings.model_dump(mode="json", exclude=NOT_STORED | PLACES),
                context=settings.context,
                recipe=str(settings.recipe),
                four_bit=settings.four_bit,
                run=self.heard.run.folder.name,
                judge=self.heard.judge,
                metrics=earnings(frame, step) | ({"stopped": watch.stopped} if watch.stopped else {}),
                out=out,
            )
        self.state.remove()
        return adapter


def earnings(frame: pl.DataFrame, step: int) -> dict[str, float | int | str]:
    """What the check found at `step`, and what was earned before the first."""
    row = frame.row(by_predicate=pl.col("step") == step, named=True)
    first = frame.row(by_predicate=pl.col("step") == 0, named=True)
    names = ("reward", "reward_low", "reward_high", "gain", "gain_low", "gain_high", "words", "perplexity")
    found = {"reward_before": first["reward"]} | {name: row[name] for name in names}
    return {name: round(value, 6) for name, value in found.items() if value is not None} | {"steps": step}
