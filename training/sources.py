"""Where GRPO's tasks come from, and who says what is earned: turns of a run, whole debates, or rows of a file.

    source = of_turns(heard, settings, tokenizer)       # or of_debates, of_rows: nothing is asked or opened for it
    with practice(source, settings, tokenizer) as practice:
        practice.draw(speaker, [(source.tasks[0], 0)])

A source has tasks to learn on and tasks that are held back, on topics that no step sees: a tenth of the train topics,
or of the topics of a file. What rules can score they score; where a model is named with --rubric-judge it scores
rubrics and citations, and what a debate has to say (`margin`, `gain`) is said by --reward-judge.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import polars as pl

from arena import roster as rosters
from arena.models import Tokenizer, prompt_ids
from arena.prompting import Message, as_text
from arena.roster import Roster
from judges.rubric import Item
from judges.rubric import load as load_rubric
from runs.records import Slot, content_id, content_seed, slots_for
from runs.spec import Spec
from topics import SIDES
from topics.errors import InputError, near
from training import policy, rubric_rows
from training.rewards import Component, Items, Reward, rubric
from training.rubric_rows import Row
from training.scoring import Scoring, named, scoring
from training.speeches import Decided, held_back, prompts
from training.tokens import Tokens, lengths, sequences
from training.turns import RULES, by_rule, read, rubric_of, turn_contexts

if TYPE_CHECKING:
    from training.company import Company
    from training.grpo import Settings
    from training.practice import Answer, Practice

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
    named = content_id(settings.context, *((c.topic.digest, c.turn, c.heard, c.messages) for c in kept), size=32)
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
        digest=named,
        won=won(heard, back, settings, tokenizer),
        heard=heard,
    )


def of_debates(heard: Decided, settings: Settings, tokenizer: Tokenizer) -> Source:
    """Sides of debates that are yet to be played, on the topics of a run and in its format."""
    from training.debates import COMPONENTS, ITSELF, PARENT, Seat, is_by_turn

    slots = slots_of(heard)
    known = [entry.name for entry in roster_of(heard, settings).contestants]
    opponents = settings.opponents or ([] if settings.league else known)
    if odd := next((name for name in opponents if name not in known), None):
        raise InputError(f"unknown opponent {odd!r}; expected {', '.join(known)}{near(odd, known)}: see --roster")
    if settings.rubric_judge is not None:
        raise InputError("a debate earns what --reward-judge says; --rubric-judge is for turns and rows: leave it out")
    if unknown := set(settings.rewards.weights) - set(COMPONENTS):
        wanted = " and ".join(COMPONENTS)
        raise InputError(f"a whole debate cannot earn {min(unknown)!r}; expected weights of {wanted}: see [debates]")
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
        longest=max(2 * slot.words + 64 for slot in slots),
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


# ── who says what is earned ──────────────────────────────────────────────────────────────────────────


@contextmanager
def practice(source: Source, settings: Settings, tokenizer: Tokenizer, cache: Path) -> Iterator[Practice]:
    """A source's practice; opponents and judges are seated for as long as the block. Raises `InputError`."""
    from training.practice import Prompts

    with ExitStack() as stack:
        if source.kind == "debates":
            yield stack.enter_context(_debates(source, settings, tokenizer))
            return
        scorer = None
        if settings.rubric_judge is not None:
            assert settings.roster is not None
            out, most = settings.out, settings.max_cost
            scorer = stack.enter_context(
                scoring(settings.rubric_judge, roster=settings.roster, out=out, cache=cache, max_cost=most)
            )
            stack.callback(_told_of, scorer)
        if source.kind == "rows":
            yield Prompts(tokenizer=tokenizer, earn=partial(_rows_earn, scorer, source, settings))
            return
        seated = None
        if set(settings.rewards.weights) & set(JUDGED):
            seated = stack.enter_context(_company(source, settings, ()))
        yield Prompts(tokenizer=tokenizer, earn=partial(_turns_earn, scorer, seated, settings))


@contextmanager
def _debates(source: Source, settings: Settings, tokenizer: Tokenizer) -> Iterator[Practice]:
    from training.debates import ITSELF, PARENT, Debates

    seated = dict.fromkeys(task.opponent for task in (*source.tasks, *(task for task, _ in source.held_back)))
    opponents = [name for name in seated if name not in (ITSELF, PARENT)]
    with _company(source, settings, opponents) as company:
        yield Debates(
            seated=company,
            tokenizer=tokenizer,
            context=settings.context,
            rewards=settings.rewards,
            window=settings.max_length,
            group=settings.group,
        )


@contextmanager
def _company(source: Source, settings: Settings, opponents: Sequence[str]) -> Iterator[Company]:
    from training.company import company

    assert source.heard is not None
    slots, roster = slots_of(source.heard), roster_of(source.heard, settings)
    with company(roster, opponents, settings.reward_judge, slots, settings.out, max_cost=settings.max_cost) as seated:
        try:
            yield seated
        finally:
            if spent := sum(seated.costs):
                print(f"opponents and judge: {len(seated.costs):,} calls, {spent:.2f} USD", file=sys.stderr)


def _told_of(scorer: Scoring) -> None:
    """What the rubric judge did, and what it cost."""
    print(
        f"judge {scorer.rubric.name!r}: {scorer.asked:,} questions, {scorer.cached:,} answered before, "
        f"{scorer.failed:,} texts without scores, {scorer.cost_usd:.2f} USD",
        file=sys.stderr,
    )


def _rows_earn(scorer: Scoring | None, source: Source, settings: Settings, answers: Sequence[Answer]) -> list[Reward]:
    """What answers to rows of a file earn."""
    judge = scorer.rubric if scorer else None
    work = (
        rubric_rows.earned(judge, one.task.row, one.text, settings.rewards, source.static, cut=one.cut, draw=one.draw)
        for one in answers
    )
    return scorer.all(work) if scorer else [asyncio.run(one) for one in work]


def _turns_earn(
    scorer: Scoring | None, seated: Company | None, settings: Settings, answers: Sequence[Answer]
) -> list[Reward]:
    """What turns earn: by rules, and by whoever is asked."""
    rewards = settings.rewards
    spoken = [read(one.task, one.text, cut=one.cut) for one in answers]
    asked: dict[Component, Sequence[Items | None]] = {}
    if scorer is not None:
        for name in rewards.weights.keys() & {"rubric", "audit"}:
            asked[name] = scorer.all(
                rubric(
                    scorer.rubric,
                    as_text(one.task.messages),
                    said.text if said.says else None,
                    rubric_of(one.task, rewards) if name == "rubric" else load_rubric("audit"),
                    about=one.task.name,
                    draw=one.draw,
                )
                for one, said in zip(answers, spoken, strict=True)
            )
    if seated is not None:
        asked |= seated.turns(answers, rewards.weights.keys() & set(JUDGED))
    by_rules = rewards.weights.keys() - asked.keys()
    return [
        rewards.compose(
            {name: by_rule(said, name, rewards) if name in by_rules else asked[name][at] for name in rewards.weights}
        )
        for at, said in enumerate(spoken)
    ]
