"""Turns of stored debates to be spoken anew, and what a speech there earns by rule.

    contexts, lacking = turn_contexts(heard, "key", topics, most=200, seed=0)
    reward = earned(contexts[0], "Trams are quiet, because ...", rewards)     # training.rewards.Reward

A turn context is what a policy is asked at one place of a debate that was played: topic, side, slot, and, as far as its
context shows it, what had been said. It is rendered by what the arena asks with. What a speech earns there is
counted, by pure functions, from what the topic lets them recognise; no model is asked:

rubric      an item for each of the side's own points, made or not; and for every topic: that the motion's words are
            spoken, that sentences give reasons, and, as a fault, that sentences stand twice
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
from dataclasses import dataclass
from random import Random

import polars as pl

from arena.prompting import Message
from arena.speech import sentence_ends, visible, within
from judges.rubric import Item
from judges.rules import MADE, key_of, stands, words
from runs.adapters import Context
from runs.spec import Spec
from topics import Side, Topic, opposite
from training.debate_rewards import answered, budget
from training.rewards import Component, Items, Reward, Rewards, item, worst
from training.speeches import KEY, Decided, prompts

REASONS = 0.5
"""Share of the sentences that give a reason, at which all is given."""

TO_THE_MOTION = Item(text="speaks to the motion")
GIVES_REASONS = Item(text="gives reasons")
SAYS_TWICE = Item(text="says a sentence twice", positive=False)
STATIC = (TO_THE_MOTION, GIVES_REASONS, SAYS_TWICE)
"""The rubric items of every topic."""

_REASON = re.compile(r"\b(?:because|since|so that|for example|for instance|therefore)\b", re.IGNORECASE)
_MARKUP = re.compile(r"^\s*(?:#|[-*•]\s|\d+[.)]\s|\|)|</?[a-z]+>|\*\*|```", re.MULTILINE | re.IGNORECASE)
"""Headings, lists, tables, tags and bold type."""


@dataclass(frozen=True, kw_only=True)
class TurnContext:
    """A turn of a stored debate that is to be spoken anew."""

    topic: Topic
    side: Side
    turn: int
    words: int
    """The word budget."""
    heard: str
    """What the opponent said last; empty before it has spoken."""
    messages: list[Message]
    """What the policy is asked."""


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
    budgets = {slot.turn: slot.words for slot in Spec.read(heard.run.folder).format}
    before = _heard_before(heard, drawn["debate_id"])
    rows = drawn.select("debate_id", *KEY).iter_rows()
    contexts = [
        TurnContext(
            topic=heard.topics[topic],
            side=side,
            turn=turn,
            words=budgets[turn],
            heard=before[debate, turn],
            messages=messages[prompt],
        )
        for (debate, topic, side, turn), prompt in zip(rows, ids, strict=True)
    ]
    return contexts, len(topics) - len(usable)


def _heard_before(heard: Decided, debates: pl.Series) -> dict[tuple[str, int], str]:
    """What the opponent had said last, by debate and turn."""
    found: dict[tuple[str, int], str] = {}
    last: dict[tuple[str, Side], str] = {}
    rows = heard.speeches.filter(pl.col("debate_id").is_in(debates.implode())).sort("match", "turn")
    for debate, turn, side, text in rows.select("debate_id", "turn", "side", "text").iter_rows():
        found[debate, turn] = last.get((debate, opposite(side)), "")
        last[debate, side] = text
    return found


def room(context: TurnContext) -> int:
    """Tokens that an answer may have, what ends it included: those that a seat has (`arena.local`)."""
    return 2 * context.words + 64


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


def earned(context: TurnContext, answer: str, rewards: Rewards, *, cut: bool = False) -> Reward:
    """The reward of an answer; `cut`: a limit on tokens ended it. Raises `ValueError` for what no rule scores."""
    whole = visible(answer)
    spoken = Spoken(context=context, whole=whole, text=within(whole, context.words)[0], cut=cut)
    found: dict[Component, Items] = {}
    for component in rewards.weights:
        if component not in RULES:
            raise ValueError(f"no rule scores {component!r}; expected {', '.join(RULES)}")
        items = RULES[component](spoken)
        if rewards.instance_rubrics_only:
            items = tuple(one for one in items if one.item not in STATIC)
        found[component] = items if re.search(r"\w", spoken.text) else worst(one.item for one in items)
    return rewards.compose(found)


def _rubric(spoken: Spoken) -> Items:
    context, key = spoken.context, key_of(spoken.context.topic)
    said, sentences = words(spoken.text), _sentences(spoken.text)
    claims = dict(zip((p.claim for p in context.topic.points[context.side]), key.claims[context.side], strict=True))
    scores = {Item(text=claim): float(stands(clause, said)) for claim, clause in claims.items()}
    reasons = sum(bool(_REASON.search(sentence)) for sentence in sentences)
    scores |= {
        TO_THE_MOTION: min(1.0, len(key.motion & said) / max(1.0, MADE * len(key.motion))),
        GIVES_REASONS: min(1.0, reasons / max(1.0, REASONS * len(sentences))),
        SAYS_TWICE: 1 - len(set(sentences)) / max(1, len(sentences)),
    }
    return tuple(item(of.text, score, positive=of.positive) for of, score in scores.items())


def _answered(spoken: Spoken) -> Items:
    context = spoken.context
    return answered(context.topic, context.side, context.heard, spoken.text)


def _budget(spoken: Spoken) -> Items:
    return budget(spoken.whole, spoken.context.words)


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
