"""Turns of stored debates to be spoken anew, and what a speech there earns by rule.

    contexts, lacking = turn_contexts(heard, "key", topics, most=200, seed=0)
    reward = earned(contexts[0], "Trams are quiet, because ...", rewards)     # training.rewards.Reward

A turn context is what a policy is asked at one place of a debate that was played: topic, side, slot, and, as far as its
context shows it, what had been said. It is rendered by what the arena asks with. What a speech earns there is
counted, by pure functions, from what the topic lets them recognise; no model is asked:

rubric      an item for each of the side's own points, made or not, which together weigh as much as two; and for every
            topic: that the motion's words are spoken, that sentences give reasons, that steps are marked, that the
            other side is taken up, that the end is a conclusion, and, as a fault, that sentences stand twice
answered    the share of the opponent's points, of those made in its last speech, that are taken up
budget      whether the word budget is kept, before anything is trimmed
format      plain prose that comes to its end

Points count as the rules judge counts them (`judges/rules.py`): three quarters of a claim's longer words stand in the
text. Whoever counts words can be gamed with words; what these rewards raise is what they count, and nothing else.
All but `budget` read what would be heard: private reasoning left out, trimmed to the budget. A speech without a word
has the worst score on every item.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import polars as pl

from arena.local import most_tokens
from arena.prompting import Message
from arena.speech import sentence_ends, visible, within
from judges.rubric import Item, ItemScore
from judges.rules import MADE, key_of, stands, words
from runs.adapters import Context
from runs.records import Debate, Slot
from topics import Topic
from training.debate_rewards import answered, budget
from training.rewards import Component, Items, Reward, Rewards, item, rubric_items, worst
from training.speeches import KEY, Decided, prompts

REASONS = 0.5
"""Share of the sentences that give a reason, at which all is given."""
TWICE = 2
"""Saying a signpost, or taking up the other side, this often is all that is asked."""
POINTS = 2.0
"""What the side's points weigh together, in items."""

TO_THE_MOTION = Item(text="speaks to the motion")
GIVES_REASONS = Item(text="gives reasons")
MARKS_STEPS = Item(text="marks its steps")
TAKES_UP = Item(text="takes up the other side")
CONCLUDES = Item(text="ends with a conclusion")
SAYS_TWICE = Item(text="says a sentence twice", positive=False)
STATIC = (TO_THE_MOTION, GIVES_REASONS, MARKS_STEPS, TAKES_UP, CONCLUDES, SAYS_TWICE)
"""The rubric items of every topic."""
EVERY = Rewards(weights={"rubric": 1.0})
"""Under which a rubric has all its items."""

_REASON = re.compile(r"\b(?:because|since|so that|for example|for instance|therefore)\b", re.IGNORECASE)
_STEP = re.compile(
    r"\b(?:first|second|third|next|moreover|finally)(?:ly)?,|\bthe (?:first|second|third) is\b", re.IGNORECASE
)
_THEIRS = re.compile(
    r"\b(?:my opponents?|the other side|you (?:say|said|claim)|we have (?:just )?heard|against my case|their case)\b",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"\b(?:therefore|in short|that is why|for (?:these|all these) reasons|on that ground|so i ask|to conclude)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"^\s*(?:#|[-*•]\s|\d+[.)]\s|\|)|</?[a-z]+>|\*\*|```", re.MULTILINE | re.IGNORECASE)
"""Headings, lists, tables, tags and bold type."""


@dataclass(frozen=True, kw_only=True)
class TurnContext:
    """A task: a turn of a stored debate that is to be spoken anew."""

    debate: Debate
    """As it stood before the turn."""
    turn: int
    messages: list[Message]
    """What the policy is asked."""

    @property
    def slot(self) -> Slot:
        return self.debate.slots[self.turn - 1]

    @property
    def topic(self) -> Topic:
        return self.debate.topic

    @property
    def unit(self) -> str:
        return self.topic.topic_id

    @property
    def name(self) -> str:
        return f"{self.debate.id}/{self.turn}"

    @property
    def heard(self) -> str:
        """What the opponent said last; empty before it has spoken."""
        last = self.debate.last_of_opponent(self.slot.side)
        return last.text if last else ""

    @property
    def most_tokens(self) -> int:
        """Those that a seat has (`arena.local`)."""
        return most_tokens(self.slot)


def turn_contexts(
    heard: Decided, context: Context, topics: set[str], *, most: int | None, seed: int
) -> tuple[list[TurnContext], int]:
    """At most so many turns on some topics, as many of each topic as of any other, in a drawn order.

    Also how many of the topics were left out, because a side of them has no points. Where the context is the key, a
    (topic, side, turn) comes once, from the first debate that has it; else a turn comes once for every debate.
    """
    usable = {topic for topic in topics if all(heard.topics[topic].points.get(side) for side in ("for", "against"))}
    if not usable:
        return [], len(topics)
    by = list(KEY) if context == "key" else ["debate_id", "turn"]
    each = heard.speeches.filter(pl.col("topic_id").is_in(usable)).unique(by, keep="first", maintain_order=True)
    lot = pl.Series("lot", Random(f"{seed}/turns").sample(range(each.height), each.height), dtype=pl.Int64)
    place = pl.col("lot").rank("ordinal").over("topic_id")
    drawn = each.with_columns(lot).sort(place, "lot").drop("lot").head(each.height if most is None else most)
    asked, ids = prompts(heard, context, drawn)
    messages: dict[str, list[Message]] = dict(asked.select("prompt_id", "messages").iter_rows())
    debates = heard.played(drawn["debate_id"])
    rows = zip(drawn["debate_id"], drawn["turn"], ids, strict=True)
    contexts = [
        TurnContext(debate=_before(debates[debate], turn), turn=turn, messages=messages[prompt])
        for debate, turn, prompt in rows
    ]
    return contexts, len(topics) - len(usable)


def _before(debate: Debate, turn: int) -> Debate:
    return replace(debate, turns=debate.turns[: turn - 1])


# ── what a speech earns ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """An answer, read once."""

    context: TurnContext
    whole: str
    """All that could be heard."""
    text: str
    """What would be heard: the whole, trimmed to the word budget."""
    cut: bool
    """A limit on tokens ended it."""

    @property
    def says(self) -> bool:
        """There is a word in it."""
        return bool(re.search(r"\w", self.text))


def read(context: TurnContext, answer: str, *, cut: bool = False) -> Spoken:
    """An answer as it would be heard; `cut`: a limit on tokens ended it."""
    whole = visible(answer)
    return Spoken(context=context, whole=whole, text=within(whole, context.slot.words)[0], cut=cut)


def by_rule(spoken: Spoken, component: Component, rewards: Rewards) -> Items:
    """A component of an answer's reward. Raises `ValueError` for what no rule scores."""
    if component not in RULES:
        raise ValueError(f"no rule scores {component!r}; expected {', '.join(RULES)}")
    items = RULES[component](spoken)
    if rewards.instance_rubrics_only:
        items = tuple(one for one in items if one.item not in STATIC)
    return items if spoken.says else worst(one.item for one in items)


def earned(context: TurnContext, answer: str, rewards: Rewards, *, cut: bool = False) -> Reward:
    """The reward of an answer by rules alone."""
    spoken = read(context, answer, cut=cut)
    return rewards.compose({component: by_rule(spoken, component, rewards) for component in rewards.weights})


def rubric_of(context: TurnContext, rewards: Rewards) -> tuple[Item, ...]:
    """The items that a turn is scored on, by rules or by a judge."""
    points = context.topic.points[context.slot.side]
    own = [Item(text=f"makes the point: {point.claim}", weight=POINTS / len(points)) for point in points]
    static = [one for one in STATIC if one != TAKES_UP or context.turn > 1]  # in the first nobody can be taken up
    return rubric_items(own, static, instance_only=rewards.instance_rubrics_only)


def _rubric(spoken: Spoken) -> Items:
    context, key = spoken.context, key_of(spoken.context.topic)
    said, sentences = words(spoken.text), _sentences(spoken.text)
    made = [float(stands(claim, said)) for claim in key.claims[context.slot.side]]
    reasons = sum(bool(_REASON.search(sentence)) for sentence in sentences)
    scores = {
        TO_THE_MOTION: len(key.motion & said) / max(1.0, MADE * len(key.motion)),
        GIVES_REASONS: reasons / max(1.0, REASONS * len(sentences)),
        MARKS_STEPS: len(_STEP.findall(spoken.text)) / TWICE,
        TAKES_UP: len(_THEIRS.findall(spoken.text)) / TWICE,
        CONCLUDES: float(any(_CONCLUSION.search(sentence) for sentence in sentences[-1:])),
        SAYS_TWICE: 1 - len(set(sentences)) / max(1, len(sentences)),
    }
    found = [*made, *(min(1.0, scores[of]) for of in STATIC if of != TAKES_UP or context.turn > 1)]
    items = rubric_of(context, EVERY)
    return tuple(ItemScore(item=of, score=score, reason="by rule") for of, score in zip(items, found, strict=True))


def _answered(spoken: Spoken) -> Items:
    context = spoken.context
    return answered(context.topic, context.slot.side, context.heard, spoken.text)


def _budget(spoken: Spoken) -> Items:
    return budget(spoken.whole, spoken.context.slot.words)


def _format(spoken: Spoken) -> Items:
    ends = sentence_ends(spoken.whole)
    return (
        item("plain prose", float(not _MARKUP.search(spoken.whole))),
        item("comes to its end", float(not spoken.cut and bool(ends) and ends[-1] == len(spoken.whole))),
    )


def _sentences(text: str) -> list[str]:
    starts = [0, *sentence_ends(text)]
    parts = (text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
    return [" ".join(words) for part in parts if (words := part.lower().split())]


RULES: dict[Component, Callable[[Spoken], Items]] = {
    "rubric": _rubric,
    "answered": _answered,
    "budget": _budget,
    "format": _format,
}
"""What a rule can score."""
