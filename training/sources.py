"""Where GRPO's tasks come from: turns of a run, whole debates on its topics, or rows of a file.

    source = of_turns(heard, settings, tokenizer)       # or of_debates, of_rows: nothing is asked or opened for it
    source.tasks, source.held_back                      # who says what they earn: training/earning.py

A source has tasks to learn on and tasks that are held back, on topics that no step sees: a tenth of the train topics,
or of the topics of a file. Whoever is to be asked is looked up here, so that what cannot be is refused before anything
is made, and a digest of them is kept, so that a training goes on with the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import polars as pl

from arena import roster as rosters
from arena.local import most_tokens
from arena.models import Tokenizer, prompt_ids
from arena.prompting import Message
from arena.roster import Roster
from judges.rubric import Item
from judges.rubric import load as load_rubric
from runs.records import Slot, content_id, content_seed, slots_for
from runs.spec import Spec
from topics import SIDES
from topics.errors import InputError, near
from training import policy, rubric_rows
from training.rewards import Component
from training.rubric_rows import Row
from training.scoring import named
from training.speeches import Decided, held_back, prompts
from training.tokens import Tokens, lengths, sequences
from training.turns import RULES, turn_contexts

if TYPE_CHECKING:
    from training.grpo import Settings

CHECKED = 256
"""Most winning speeches that a check reads."""
JUDGED: tuple[Component, ...] = ("margin", "gain")
"""What a judge of debates says of a turn."""
SCORED: tuple[Component, ...] = ("audit",)
"""What a rubric judge alone says of one."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tasks to learn on and tasks to check on."""

    kind: str
    """turns, debates or rows"""
    tasks: Sequence[Any]
    held_back: Sequence[tuple[Any, int]]
    """Each with the number of the draw that a check asks for."""
    tokens: Sequence[int]
    """Most tokens of a sequence of each task."""
    longest: int
    """Most tokens of an answer, or of a turn."""
    company: str = ""
    """Digest of who judges and who is debated with, as a roster has them; empty where nobody of it is asked."""
    each: int = 1
    """Sequences that one draw comes to."""
    said: Sequence[str]
    """What a dry run says of it."""
    digest: str
    won: Tokens | None = None
    """Winning speeches on held-back topics."""
    heard: Decided | None = None
    static: tuple[Item, ...] = field(default=())
    """Rubric items of every row."""


def of_turns(heard: Decided, settings: Settings, tokenizer: Tokenizer) -> Source:
    """Turns of a run's debates."""
    known = (*RULES, *JUDGED, *SCORED)
    if unknown := set(settings.rewards.weights) - set(known):
        raise InputError(
            f"no rule scores the reward {min(unknown)!r} of a turn; expected weights of {', '.join(known)}"
        )
    if "audit" in settings.rewards.weights and settings.rubric_judge is None:
        raise InputError("the reward 'audit' is scored by a model; name a judge: --rubric-judge NAME --roster FILE")
    back, ahead = _split(heard, settings)
    learnt, without = turn_contexts(heard, settings.context, ahead, most=settings.limit, seed=settings.seed)
    checked, _ = turn_contexts(heard, settings.context, back, most=settings.checks, seed=0)
    if not learnt or not checked:
        raise InputError(
            f"{len(heard.topics_heard)} topics, of which {without} to learn from have no points for both sides, are "
            f"too few to hold some back; play more topics with points"
        )
    kept, tokens = fitting(learnt, settings, tokenizer, "turns may be")
    digest = content_id(settings.context, *((c.topic.digest, c.turn, c.heard, c.messages) for c in kept), size=32)
    return Source(
        kind="turns",
        tasks=kept,
        held_back=[(task, 0) for task in checked],
        tokens=tokens,
        longest=max(task.most_tokens for task in kept),
        company=company_of(heard, settings),
        said=[
            f"{len(kept):,} turns on {len({one.unit for one in kept}):,} topics, {len(learnt) - len(kept):,} too long",
            f"{without:,} topics left out, a side without points",
        ],
        digest=digest,
        won=won(heard, back, settings, tokenizer),
        heard=heard,
    )


def of_debates(heard: Decided, settings: Settings, tokenizer: Tokenizer) -> Source:
    """Sides of debates that are yet to be played, on the topics of a run and in its format."""
    from training.debates import ITSELF, PARENT, Seat, earnable, is_by_turn

    slots = slots_of(heard)
    known = [entry.name for entry in roster_of(heard, settings).contestants]
    opponents = settings.opponents or ([] if settings.league else known)
    if odd := next((name for name in opponents if name not in known), None):
        raise InputError(f"unknown opponent {odd!r}; expected {', '.join(known)}{near(odd, known)}: see --roster")
    if settings.rubric_judge is not None:
        raise InputError("a debate earns what --reward-judge says; --rubric-judge is for turns and rows: leave it out")
    earnable(settings.rewards)
    back, ahead = _split(heard, settings)

    def seats(topics: set[str], against: Sequence[str], seed: int) -> list[Seat]:
        """All there are, in a drawn order, as many of each topic as of any other."""
        by_topic = [
            [Seat(topic=heard.topics[topic], side=side, opponent=one) for side in SIDES for one in against]
            for topic in sorted(topics)
        ]
        dice = Random(f"{seed}/seats")
        for some in by_topic:
            dice.shuffle(some)
        dice.shuffle(by_topic)
        return list(chain.from_iterable(zip(*by_topic, strict=True)))

    against = [*opponents, *([ITSELF] if settings.league else [])]
    tasks = seats(ahead, against, settings.seed)[: settings.limit]
    checked = seats(back, opponents or [PARENT], 0)
    return Source(
        kind="debates",
        tasks=tasks,
        held_back=[(checked[n % len(checked)], n // len(checked) * settings.group) for n in range(settings.checks)],
        tokens=[settings.max_length] * len(tasks),
        longest=max(map(most_tokens, slots)),
        company=company_of(heard, settings),
        each=len(slots) // 2 if is_by_turn(settings.context, settings.rewards) else 1,
        said=[
            f"{len(tasks):,} seats in debates on {len(ahead):,} topics, {len(slots)} turns each",
            f"against {', '.join(against)}",
        ],
        digest=content_id(settings.context, *slots, *((t.topic.digest, t.side, t.opponent) for t in tasks), size=32),
        won=won(heard, back, settings, tokenizer),
        heard=heard,
    )


@dataclass(frozen=True, kw_only=True)
class RowTask:
    """A task: a row of a file."""

    row: Row
    most_tokens: int

    @property
    def unit(self) -> str:
        return self.row.topic

    @property
    def name(self) -> str:
        return self.row.id

    @property
    def messages(self) -> list[Message]:
        return self.row.messages


def of_rows(path: Path, settings: Settings, tokenizer: Tokenizer) -> Source:
    """Rows of a file."""
    static = load_rubric(settings.static) if settings.static else ()
    if unknown := set(settings.rewards.weights) - set(rubric_rows.SCORED):
        known = ", ".join(rubric_rows.SCORED)
        raise InputError(f"a row of a file cannot earn {min(unknown)!r}; expected weights of {known}")
    if settings.rubric_judge is None and set(rubric_rows.JUDGED) & set(settings.rewards.weights):
        raise InputError("who scores rubrics is not said; name a judge of a roster: --rubric-judge NAME --roster FILE")
    rows = rubric_rows.load(path, settings.rewards, static)
    units = sorted({row.topic for row in rows}, key=lambda unit: content_seed("held back", unit))
    back = set(units[: max(1, round(settings.held_back * len(units)))])
    ahead = [RowTask(row=row, most_tokens=settings.max_completion) for row in rows if row.topic not in back]
    if not ahead:
        raise InputError(f"{str(path)!r} has {len(units)} topic, too few to hold some back; expected two, at least")
    learnt = Random(f"{settings.seed}/rows").sample(ahead, min(len(ahead), settings.limit or len(ahead)))
    kept, tokens = fitting(learnt, settings, tokenizer, "rows may be")
    checked, _ = fitting(
        [RowTask(row=row, most_tokens=settings.max_completion) for row in rows if row.topic in back],
        settings,
        tokenizer,
        "held-back rows may be",
    )
    return Source(
        kind="rows",
        tasks=kept,
        held_back=[(task, 0) for task in checked[: settings.checks]],
        tokens=tokens,
        longest=settings.max_completion,
        company=company_of(None, settings),
        said=[f"{len(kept):,} rows of {len(units) - len(back):,} topics, {len(learnt) - len(kept):,} too long"],
        digest=content_id(*map(repr, (task.row for task in (*kept, *checked))), *map(repr, static), size=32),
        static=static,
    )


def fitting(tasks: Sequence[Any], settings: Settings, tokenizer: Tokenizer, what: str) -> tuple[list[Any], list[int]]:
    """Those tasks that fit, and the tokens of each. Raises `InputError` where too many do not, or too few are left."""
    sizes = [len(prompt_ids(tokenizer, task.messages)) + task.most_tokens for task in tasks]
    fits = [at for at, size in enumerate(sizes) if size <= settings.max_length]
    policy.few_too_long(len(tasks) - len(fits), len(tasks), what, settings)
    return [tasks[at] for at in fits], [sizes[at] for at in fits]


def _split(heard: Decided, settings: Settings) -> tuple[set[str], set[str]]:
    """Topics that are held back, and those that are learnt on."""
    back = held_back(heard.topics_heard, settings.held_back)
    return back, set(heard.topics_heard) - back


def won(heard: Decided, topics: set[str], settings: Settings, tokenizer: Tokenizer) -> Tokens:
    """Winning speeches on some topics, drawn, as far as they fit."""
    found = heard.speeches.filter("won", pl.col("topic_id").is_in(topics))
    found = found.unique(["key", "text_digest"], keep="first", maintain_order=True)
    lot = pl.Series("lot", Random("checked").sample(range(found.height), found.height))
    found = found.with_columns(lot).sort("lot").head(CHECKED)
    asked, ids = prompts(heard, settings.context, found)
    texts = found.select(text_id="text_digest", text="text").unique("text_id")
    tokens, _ = sequences(list(zip(ids, found["text_digest"], strict=True)), asked, texts, tokenizer)
    sizes = zip(tokens.sequences, lengths(tokens), strict=True)
    return replace(tokens, sequences=[one for one, size in sizes if size <= settings.max_length])


def slots_of(heard: Decided) -> tuple[Slot, ...]:
    """The slots of a run's debates; where the opener alternates, as the format has them."""
    spec = Spec.read(heard.run.folder)
    return spec.format if spec.opener == "alternate" else slots_for(spec.format, spec.opener)


def roster_of(heard: Decided | None, settings: Settings) -> Roster:
    """Who can be seated: those of a roster file, or of the run that is learnt from."""
    if settings.roster is not None or heard is None:
        return rosters.load(settings.roster)
    return rosters.stored_roster(Spec.read(heard.run.folder))


def company_of(heard: Decided | None, settings: Settings) -> str:
    """Digest of who is asked; whoever is not known is refused here, before anything is made."""
    if settings.rubric_judge is not None:
        if settings.roster is None:
            raise InputError("--rubric-judge names a judge of a roster; expected --roster FILE as well")
        named(settings.rubric_judge, settings.roster)
    judged = set(settings.rewards.weights) & set(JUDGED)
    if not judged and settings.rubric_judge is None:
        return ""
    roster = roster_of(heard, settings)
    if judged:
        rosters.judging(roster, [settings.reward_judge])
    entries = roster.model_dump(mode="json", include={"contestants", "judges"})
    return content_id(json.dumps(entries, sort_keys=True), settings.rubric_judge, settings.reward_judge, size=32)
