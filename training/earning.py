"""Who says what is earned in GRPO: rules, a rubric judge, a judge of debates; seated for as long as a training runs.

    with practice(source, settings, tokenizer, cache=out / "answers.db") as held:       # training/practice.py
        held.draw(speaker, [(source.tasks[0], 0)])

What rules can score they score. Where a model is named with --rubric-judge it scores rubrics, citations and the audit,
and what a debate has to say (`margin`, `gain`) is said by --reward-judge. All that is asked for one batch is asked at
once. What it cost is told at the end, however that comes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from arena.line import Budget, total
from arena.models import Tokenizer
from arena.prompting import as_text
from judges.rubric import load as load_rubric
from runs.costs import beside
from training import rubric_rows
from training.rewards import Component, Items, Reward, rubric
from training.scoring import Scoring, scoring
from training.sources import JUDGED, Source, roster_of, slots_of
from training.turns import by_rule, read, rubric_of

if TYPE_CHECKING:
    from training.company import Company
    from training.grpo import Settings
    from training.practice import Answer, Practice


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
            budget = scorer.budget if scorer else None
            seated = stack.enter_context(_company(source, settings, (), budget))
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
def _company(
    source: Source, settings: Settings, opponents: Sequence[str], budget: Budget | None = None
) -> Iterator[Company]:
    from training.company import company

    assert source.heard is not None
    slots, roster = slots_of(source.heard), roster_of(source.heard, settings)
    budget = budget or Budget(most=settings.max_cost)
    with company(roster, opponents, settings.reward_judge, slots, settings.out, budget=budget) as seated:
        try:
            yield seated
        finally:
            spent, unknown = total(seated.calls)
            if spent or unknown:
                told = f"{spent:.2f} USD{beside(unknown)}"
                print(f"opponents and judge: {len(seated.calls):,} calls, {told}", file=sys.stderr)


def _told_of(scorer: Scoring) -> None:
    """What the rubric judge did, and what it cost."""
    print(
        f"judge {scorer.rubric.name!r}: {scorer.asked:,} questions, {scorer.cached:,} answered before, "
        f"{scorer.failed:,} texts without scores, {scorer.cost_usd:.2f} USD{beside(scorer.unknown)}",
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
