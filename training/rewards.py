"""Rewards: what a completion earns in GRPO, made of components that are made of items.

    rewards = Rewards(weights={"rubric": 1.0, "citation": 0.2, "format": 0.1}, scale=10.0)      # out of a recipe
    items = rubric_items(instance, static, instance_only=rewards.instance_rubrics_only)
    scored = await rubric(judge, prompt, text, items, about=prompt_id, draw=3)
    reward = rewards.compose({"rubric": scored, "citation": cited and cited.items, "format": well_formed(completion)})
    reward.value                                    # a number, or None
    spreads([[reward, ...], ...])                   # per group and item, for the log

A component is a tuple of item scores, each 0 to 1, of which faults enter as 1 - score; `judges.rubric.weigh` makes
them one number. Rubric, citations (`training/citations.py`), format, length and what a debate says of a turn
(`training/debate_rewards.py`) all have that form, so one check, one log and one list of dead items serve them all.
The reward is the weighted sum of the components, times a scale.

How it departs from the usual reward function:

1. A component that could not be had is None, and so is the whole reward: an outage is not learnt from. TRL leaves a
   None out of a sum of reward functions, as if it were 0, and masks a completion only where all of them are None; so
   a trainer is to be given this sum as its one reward function.
2. What a policy does wrong is no outage: a missing answer has the worst score on every item, and on a fault that
   is 1. Else, saying nothing would earn what is paid for the absence of faults.
3. A score outside [0, 1] is an error, and is not clipped.
4. Where rewards are divided by their group's standard deviation the scale only matters beside its epsilon; where they
   are not (`scale_rewards="none"`) it multiplies the advantage.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from judges.rubric import Item, ItemScore, RubricJudge, weigh
from topics.errors import InputError

Component = Literal["rubric", "citation", "format", "length", "margin", "gain", "answered", "budget", "audit"]
Items = tuple[ItemScore, ...]

EPSILON = 1e-4
"""Added to a group's standard deviation, as TRL does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """What a completion earns."""

    value: float | None
    """None where a component that counts could not be had."""
    components: Mapping[Component, Items | None]


class Rewards(BaseModel):
    """What is rewarded, as a recipe says it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    weights: dict[Component, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """Of the components; one of weight 0 is only logged."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """What the weighted sum is multiplied by."""
    instance_rubrics_only: bool = False
    """Leave static rubric items out of reward and log."""

    @field_validator("weights")
    @classmethod
    def _some(cls, weights: dict[Component, float]) -> dict[Component, float]:
        if not any(weights.values()):
            raise ValueError("no component has a weight above 0, so nothing would be rewarded")
        return weights

    def compose(self, components: Mapping[Component, Items | None]) -> Reward:
        """The reward of a completion; raises `ValueError` where these are not the components that are weighed."""
        if components.keys() != self.weights.keys():
            raise ValueError(f"rewards weigh {sorted(self.weights)}, but the components are {sorted(components)}")
        values = {name: None if items is None else _value(name, items) for name, items in components.items()}
        earned = [(weight, values[name]) for name, weight in self.weights.items() if weight]
        had = [weight * value for weight, value in earned if value is not None]
        value = self.scale * math.fsum(had) if len(had) == len(earned) else None
        return Reward(value=value, components=dict(components))


def _value(component: Component, items: Items) -> float:
    """What the items of a component come to."""
    if not items:
        raise ValueError(f"reward {component!r} has no item; leave out a component that does not apply")
    for scored in items:
        if not 0 <= scored.score <= 1:
            raise ValueError(f"reward {component!r}, item {scored.item.text!r}: {scored.score!r} is outside [0, 1]")
    _once(f"reward {component!r}", [scored.item for scored in items])
    return weigh(items)


def item(text: str, score: float, *, positive: bool = True, weight: float = 1.0, reason: str = "") -> ItemScore:
    """A score that no judge gave."""
    return ItemScore(item=Item(text=text, positive=positive, weight=weight), score=score, reason=reason)


# ── rubric ───────────────────────────────────────────────────────────────────────────────────────


def instance_items(positive: Iterable[str], negative: Iterable[str]) -> tuple[Item, ...]:
    """The items of a prompt's own rubrics, all of one weight."""
    merits = (Item(text=text) for text in positive)
    return (*merits, *(Item(text=text, positive=False) for text in negative))


def rubric_items(instance: Iterable[Item], static: Iterable[Item], *, instance_only: bool = False) -> tuple[Item, ...]:
    """What a prompt's completions are scored on: its own items, then those of every prompt.

    Raises `InputError` where there is none, or one stands twice.
    """
    items = (*instance, *(() if instance_only else static))
    if not items:
        where = "of its own, and static ones are left out" if instance_only else "of its own, nor a static one"
        raise InputError(f"a prompt has no rubric item {where}; expected positive_rubrics or negative_rubrics")
    _once("the rubric of a prompt", items)
    return items


async def rubric(
    judge: RubricJudge, prompt: str, text: str | None, items: Sequence[Item], *, about: str, draw: int = 0
) -> Items | None:
    """How far the items apply to a text; None where the judge failed, the worst where there is no text.

    Raises `NotNow`.
    """
    if not text or not text.strip():
        return worst(items)
    scores = await judge.score(prompt, text, items, about=about, draw=draw)
    return None if scores is None else scores.items


def worst(items: Iterable[Item], reason: str = "there is no text") -> Items:
    """No merit, every fault: worth 0."""
    return tuple(ItemScore(item=item, score=0.0 if item.positive else 1.0, reason=reason) for item in items)


def _once(where: str, items: Iterable[Item]) -> None:
    text, times = Counter(item.text for item in items).most_common(1)[0]
    if times > 1:
        raise InputError(f"{where} names item {text!r} {times} times; each may stand once")


# ── length ───────────────────────────────────────────────────────────────────────────────────────


def length(text: str, *, most: int, least: int = 0, slack: float = 0.25) -> Items:
    """1 from `least` to `most` words; below in proportion, above falling to 0 at `most` times 1 + `slack`.

    No word at all is worth 0, whatever the least.
    """
    if not 0 <= least <= most or most < 1 or slack <= 0:
        raise ValueError(f"expected 0 <= least <= most, most >= 1 and slack > 0, not {least}, {most} and {slack}")
    words = len(text.split())
    score = max(0.0, min(1.0, words / max(least, 1), 1 - (words - most) / (slack * most)))
    return (item(f"from {least} to {most} words", score),)


# ── groups ───────────────────────────────────────────────────────────────────────────────────────


def advantages(rewards_G: Sequence[float | None], *, scale_rewards: Literal["group", "none"] = "group") -> list[float]:
    """GRPO's advantages in a group of completions of one prompt, as TRL computes them.

    (reward - mean) / (standard deviation + EPSILON), over the rewards that there are, with Bessel's correction. A
    completion without a reward has advantage 0, and so has one that is alone in having one.
    """
    had = [reward for reward in rewards_G if reward is not None]
    if not all(map(math.isfinite, had)):
        raise ValueError(f"rewards must be finite numbers or None, not {rewards_G}")
    if len(had) < 2:
        return [0.0] * len(rewards_G)
    mean = fmean(had)
    by = stdev(had) + EPSILON if scale_rewards == "group" else 1.0
    return [0.0 if reward is None else (reward - mean) / by for reward in rewards_G]


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemSpread:
    """How an item's scores lie within one group."""

    group: int
    component: Component
    item: str
    positive: bool
    scored: int
    """Completions that have a score on it."""
    mean: float
    """Of the scores as they are: of a fault, how far it applies."""
    sd: float | None
    """Standard deviation, with Bessel's correction; None below two scores."""


def spreads(groups: Iterable[Sequence[Reward]]) -> list[ItemSpread]:
    """The spread of every item in every group, in their order."""
    rows: list[ItemSpread] = []
    for group, rewards in enumerate(groups):
        found: defaultdict[tuple[Component, Item], list[float]] = defaultdict(list)
        for reward in rewards:
            for component, items in reward.components.items():
                for scored in items or ():
                    found[component, scored.item].append(scored.score)
        rows += [
            ItemSpread(
                group=group,
                component=component,
                item=of.text,
                positive=of.positive,
                scored=len(scores),
                mean=fmean(scores),
                sd=stdev(scores) if len(scores) > 1 else None,
            )
            for (component, of), scores in found.items()
        ]
    return rows


def dead_items(rows: Iterable[ItemSpread]) -> list[tuple[Component, str]]:
    """The items whose score varies within no group: they move no advantage.

    An item that no group has scored twice is not among them, for nobody knows.
    """
    varies: dict[tuple[Component, str], bool] = {}
    for row in rows:
        if row.sd is not None:
            key = row.component, row.item
            varies[key] = varies.get(key, False) or row.sd > 0
    return [key for key, alive in varies.items() if not alive]


def failures(rewards: Iterable[Reward]) -> dict[Component, int]:
    """Completions for which a component could not be had, of the components of which some could not."""
    return dict(Counter(name for reward in rewards for name, items in reward.components.items() if items is None))
