"""`python -m training.grpo --from-run [RUN]`: an adapter that speaks so as to earn more, turn by turn.

Turns of a run's debates are spoken anew by the policy, several times each. What a speech earns is counted by rules
made of the topic's points, without any model (`training/turns.py`), and what earned more than the others of its group
becomes likelier (GRPO, TRL's trainer). Held-out topics never come in. A tenth of the train topics is held back: on
their turns the mean reward before and after is told and kept, with an interval over topics, and so is the perplexity
of speeches that won there; a training that loses its language stops at its last good checkpoint.

    python -m training.sft --from-run                       # teach a policy first
    python -m training.grpo --from-run
    wrote runs/out/adapters/grpo-5f0c...: reward_before ..., reward ..., gain ...

With no base named, the newest policy that was taught this run's winning speeches is taken. A stored speech is not
learnt from; debates give prompts alone. What the recipe's `rewards` weighs is one number, the trainer's one reward.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from random import Random
from typing import Annotated, Any

import polars as pl
from pydantic import Field
from pydantic_settings import CliSuppress

from arena.models import TEMPLATE, Tokenizer, extra, prompt_ids, tamed
from runs import find, tables
from runs.adapters import Adapter
from runs.records import content_id
from topics.errors import InputError, command
from training import policy, ranks
from training.policy import Start
from training.recipe import TINY, Count, NotNegative, Positive, Training
from training.rewards import Reward, Rewards
from training.speeches import Decided, decided_speeches, held_back, prompts
from training.state import State, trained
from training.tokens import Tokens, lengths, sequences
from training.turns import RULES, TurnContext, earned, room, turn_contexts

CHECKED = 256
"""Most held-back turns that a check draws a speech for, and most winning speeches that it reads."""


class Settings(Training, cli_prog_name="python -m training.grpo"):
    """Train an adapter by what its speeches earn."""

    limit: Count | None = None
    """at most N turns, drawn from the seed"""
    rows: Count
    """turns a step"""
    group: Annotated[int, Field(ge=2, le=1024)]
    """speeches drawn for each turn"""
    temperature: Annotated[float, Field(gt=0, le=10)]
    """at which they are drawn"""
    beta: NotNegative
    """how strongly the reference holds (KL, k3)"""
    rewards: CliSuppress[Rewards]
    """what is rewarded"""
    max_perplexity: Positive
    """the guard's bound, on held-back winning speeches"""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Turns to learn on and turns to check on."""

    contexts: Sequence[TurnContext]
    prompt_tokens: Sequence[int]
    """Of each of them."""
    checked: Sequence[TurnContext]
    won: Tokens
    """Winning speeches on held-back topics."""
    too_long: int
    without_points: int
    """Topics that were left out."""
    digest: str

    @property
    def topics(self) -> int:
        return len({context.topic.topic_id for context in self.contexts})


def data(heard: Decided, settings: Settings, tokenizer: Tokenizer) -> Data:
    """The turns of the topics to learn from, and of those held back."""
    back = held_back(heard.topics_heard, settings.held_back)
    ahead = set(heard.topics_heard) - back
    learnt, without = turn_contexts(heard, settings.context, ahead, most=settings.limit, seed=settings.seed)
    checked, _ = turn_contexts(heard, settings.context, back, most=CHECKED, seed=0)
    if not learnt or not checked:
        raise InputError(
            f"{len(heard.topics_heard)} topics, of which {without} to learn from have no points for both sides, are "
            f"too few to hold some back; play more topics with points"
        )
    sizes = [len(prompt_ids(tokenizer, context.messages)) for context in learnt]
    fits = [at for at, size in enumerate(sizes) if size + room(learnt[at]) <= settings.max_length]
    policy.few_too_long(len(learnt) - len(fits), len(learnt), "turns may be", settings)
    if len(fits) < settings.rows:
        raise InputError(f"{len(fits)} turns are too few for --rows {settings.rows} a step; see --rows, --limit")
    kept = [learnt[at] for at in fits]
    return Data(
        contexts=kept,
        prompt_tokens=[sizes[at] for at in fits],
        checked=checked,
        won=_won(heard, back, settings, tokenizer),
        too_long=len(learnt) - len(fits),
        without_points=without,
        digest=content_id(settings.context, *((c.topic.digest, c.turn, c.heard, c.messages) for c in kept), size=32),
    )


def _won(heard: Decided, topics: set[str], settings: Settings, tokenizer: Tokenizer) -> Tokens:
    """Winning speeches on some topics, drawn, as far as they fit."""
    won = heard.speeches.filter("won", pl.col("topic_id").is_in(topics))
    won = won.unique(["key", "text_digest"], keep="first", maintain_order=True)
    lot = pl.Series("lot", Random("checked").sample(range(won.height), won.height))
    won = won.with_columns(lot).sort("lot").head(CHECKED)
    asked, ids = prompts(heard, settings.context, won)
    texts = won.select(text_id="text_digest", text="text").unique("text_id")
    tokens, _ = sequences(list(zip(ids, won["text_digest"], strict=True)), asked, texts, tokenizer)
    sizes = zip(tokens.sequences, lengths(tokens), strict=True)
    return replace(tokens, sequences=[one for one, size in sizes if size <= settings.max_length])


def ordered(data: Data, settings: Settings) -> list[int]:
    """Which turns are spoken, in order: shuffled anew in each epoch, whole steps only, one at least."""
    every = range(len(data.contexts))
    order: list[int] = []
    for epoch in range(ceil(settings.epochs)):
        order += Random(f"{settings.seed}/{epoch}/turns").sample(every, len(every))
    steps = max(1, round(settings.epochs * len(every)) // settings.rows)
    return order[: steps * settings.rows]


def run(settings: Settings, state: State | None = None) -> Adapter | None:
    """Train, and register what came out; None where it was stopped on the way."""
    with extra():
        import torch  # noqa: F401
    if ranks.processes() > 1:
        raise InputError("training.grpo runs in one process; start it with python -m training.grpo")
    if unknown := set(settings.rewards.weights) - set(RULES):
        raise InputError(f"no rule scores the reward {min(unknown)!r}; expected weights of {', '.join(RULES)}")
    heard = decided_speeches(
        tables.load(find(settings.from_run, out=settings.out, sealed=True)), judge=settings.judge, chosen=["any"]
    )
    settings = settings.model_copy(update={"from_run": str(heard.run.folder)})
    begin = start(settings, heard)
    settings = settings.model_copy(update={"base": begin.name})
    print(f"base: {begin.why}", file=sys.stderr)
    tokenizer = policy.tokenizer(begin)
    made = data(heard, settings, tokenizer)
    if settings.dry_run:
        tell(begin, made, settings)
        return None
    policy.room(begin.source, settings, full=False, tokens=at_once(made, settings))
    digests = {"base": begin.base.digest, "turns": made.digest}
    state = state or State.begin(settings, "grpo", digests)
    state.same(digests)
    from training.draws import Rewarded

    return fit(
        Rewarded(settings=settings, state=state, begin=begin, heard=heard, tokenizer=tokenizer, form="lora"), made
    )


def start(settings: Settings, heard: Decided) -> Start:
    """The policy that is trained further; one that was taught nothing is refused."""
    taught = policy.newest_taught(heard, settings.out / "adapters")
    if settings.base == TINY or (settings.base is None and taught is None):
        raise InputError(
            "no policy was taught this run's winning speeches yet, and one that says nothing earns nothing; first: "
            f"python -m training.sft --from-run {settings.from_run}"
        )
    return policy.start(settings, heard, taught=True)


def fit(session: Any, made: Data) -> Adapter | None:
    """Train and register."""
    from datasets import Dataset, disable_progress_bars
    from trl import GRPOConfig, GRPOTrainer

    from training.draws import HeldBack, ends, scorer

    disable_progress_bars()
    settings: Settings = session.settings
    model = policy.load(session.begin, settings, session.tokenizer, full=False)
    stops = ends(model, session.tokenizer)

    def earn(context: TurnContext, answer: str, cut: bool) -> Reward:
        return earned(context, answer, settings.rewards, cut=cut)

    check = HeldBack(
        contexts=made.checked,
        earn=earn,
        best=settings.rewards.scale * sum(settings.rewards.weights.values()),
        won=made.won,
        tokenizer=session.tokenizer,
        stops=stops,
        temperature=settings.temperature,
        seed=settings.seed,
        autocast=session.precision,
    )
    if session.state.last_checkpoint() is not None:
        check(model)  # a training that goes on has to know what it began with
    arguments = session.arguments() | {
        "num_train_epochs": 1,
        "per_device_train_batch_size": settings.group,
        "gradient_accumulation_steps": settings.rows,
        "num_generations": settings.group,
        "max_completion_length": max(map(room, made.contexts)),
        "temperature": settings.temperature,
        "beta": settings.beta,
        "shuffle_dataset": False,
        "chat_template_kwargs": TEMPLATE,
    }
    rows = [
        {"prompt": tamed(session.tokenizer, made.contexts[number].messages), "number": number}
        for number in ordered(made, settings)
    ]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=scorer(made.contexts, earn, stops, settings.group),
        args=GRPOConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=session.tokenizer,
        peft_config=policy.lora(settings) if session.begin.adapter is None else None,
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL rounds adapters over a 4-bit base to bfloat16
            parameter.data = parameter.data.float()
    adapter: Adapter | None = session.fit(trainer, check, settings.max_perplexity)
    return adapter


def at_once(made: Data, settings: Settings) -> int:
    """Tokens of the largest group, which is what a pass reads."""
    longest = max(size + room(context) for size, context in zip(made.prompt_tokens, made.contexts, strict=True))
    return settings.group * longest


def tell(begin: Start, made: Data, settings: Settings) -> None:
    """What a training would be."""
    order = ordered(made, settings)
    tokens = settings.group * sum(made.prompt_tokens[at] + room(made.contexts[at]) for at in order)
    print(f"{len(made.contexts):,} turns on {made.topics:,} topics, {made.too_long:,} too long")
    print(f"{made.without_points:,} topics left out, a side without points")
    print(f"{len(order) // settings.rows:,} steps of {settings.rows} turns, {settings.group} speeches for each")
    print(f"{len(made.checked):,} turns on held-back topics to check on")
    print(f"at most {tokens:,} tokens, drawn and then learnt from")
    asked = tokens * (2 if settings.beta else 1)
    print(
        policy.estimate(begin.source, settings, tokens=tokens, asked=asked, at_once=at_once(made, settings), full=False)
    )
    print("nothing was written")


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    return trained(Settings, "grpo", run, argv)


if __name__ == "__main__":
    sys.exit(main())
