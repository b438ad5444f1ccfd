"""`python -m training.sft --from-run [RUN]`: teach a model the winning speeches of a run.

Demonstrations are the speeches of sides that won their debate, each behind the prompt that the arena asks with; only
what is said is learnt, not the prompt. A tenth of the train topics is held back, and perplexity on the winning
speeches there is what the checks show. With no base named, a tiny one is built and taught in full, offline, in
minutes. What comes out stands in the registry and can be seated, or be the base of `training.dpo`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, fsum
from random import Random
from typing import Any

import polars as pl
from pydantic import Field

from arena.models import Model, Tokenizer, extra
from runs import find, tables
from runs.adapters import Adapter, Form
from runs.records import content_id
from topics.errors import InputError, command
from training import policy, ranks
from training.policy import Start
from training.recipe import TINY, Count, Training
from training.speeches import Decided, decided_speeches, held_back, prompts
from training.state import State, trained
from training.tokens import Tokens, lengths, sequences

CHECKED = 256
"""Most held-back speeches that a check reads."""


class Settings(Training, cli_prog_name="python -m training.sft"):
    """Teach a model the winning speeches of a run."""

    chosen: list[str] = Field(default=["any"])
    """whose winning speeches: any | best | names"""
    limit: Count | None = None
    """at most N speeches, drawn from the seed"""
    full: bool
    """train all weights; otherwise an adapter"""
    rows: Count
    """speeches a step; with packing: rows of max-length tokens"""
    packing: bool = True
    """one speech a row (default: several)"""


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """Speeches to learn and speeches to check, as token ids."""

    learnt: Tokens
    checked: Tokens
    too_long: int
    topics: int
    digest: str


def demonstrations(heard: Decided, settings: Settings, tokenizer: Tokenizer) -> Demonstrations:
    """The winning speeches of the topics to learn from, and of those held back."""
    won = winning(heard)
    back = held_back(heard.topics_heard, settings.held_back)
    learnt = _drawn(won.filter(~pl.col("topic_id").is_in(back)), settings.limit, settings.seed)
    checked = _drawn(won.filter(pl.col("topic_id").is_in(back)), CHECKED, 0)
    if not learnt.height or not checked.height:
        raise InputError(
            f"{len(heard.topics_heard)} topics with winning speeches are too few to hold some back; play more topics"
        )
    tokens, long = _fitting(_tokens(heard, learnt, settings, tokenizer), settings)
    return Demonstrations(
        learnt=tokens,
        checked=_fitting(_tokens(heard, checked, settings, tokenizer), settings)[0],
        too_long=long,
        topics=learnt["topic_id"].n_unique(),
        digest=content_id(*learnt["text_digest"], *learnt["debate_id"], settings.context, size=32),
    )


def winning(heard: Decided) -> pl.DataFrame:
    """The winning speeches of those who were chosen; refused where there are none."""
    won = heard.speeches.filter("won")
    if heard.chosen is not None:
        won = won.filter(pl.col("contestant").is_in(heard.chosen))
    if not won.height:
        raise InputError(f"no winning speeches are left with these settings ({heard.steps}); see --chosen, --judge")
    return won


def _drawn(speeches: pl.DataFrame, most: int | None, seed: int) -> pl.DataFrame:
    """At most so many speeches of different words, in a drawn order."""
    each = speeches.unique(["key", "text_digest"], maintain_order=True)
    order = Random(f"{seed}/demonstrations").sample(range(each.height), each.height)
    return each[order[:most]]


def _tokens(heard: Decided, speeches: pl.DataFrame, settings: Settings, tokenizer: Tokenizer) -> Tokens:
    asked, ids = prompts(heard, settings.context, speeches)
    texts = speeches.select(text_id="text_digest", text="text").unique("text_id")
    return sequences(list(zip(ids, speeches["text_digest"], strict=True)), asked, texts, tokenizer)[0]


def _fitting(tokens: Tokens, settings: Training) -> tuple[Tokens, int]:
    """The sequences that fit, and how many do not; refused where those are more than the share that may be."""
    fits = [one for one, length in zip(tokens.sequences, lengths(tokens), strict=True) if length <= settings.max_length]
    long = len(tokens.sequences) - len(fits)
    policy.few_too_long(long, len(tokens.sequences), "speeches are", settings)
    return replace(tokens, sequences=fits), long


def run(settings: Settings, state: State | None = None) -> Adapter | None:
    """Train, and register what came out; None where it was stopped on the way."""
    with extra():
        import torch  # noqa: F401
    played = tables.load(find(settings.from_run, out=settings.out, sealed=True))
    heard = decided_speeches(played, judge=settings.judge, chosen=settings.chosen)
    winning(heard)  # refuses a run without any before a base is built
    if settings.rows % ranks.processes():
        raise InputError(f"--rows {settings.rows} cannot be shared by {ranks.processes()} processes; give a multiple")
    begin = ranks.together(lambda: policy.start(settings, heard, taught=False))
    settings = settings.model_copy(update={"from_run": str(played.folder), "base": named(settings, begin)})
    settings = settings.model_copy(update={"full": trains_all(settings, begin)})
    if ranks.is_first():
        print(f"base: {begin.why}", file=sys.stderr)
    tokenizer = policy.tokenizer(begin)
    data = demonstrations(heard, settings, tokenizer)
    if settings.dry_run:
        tell(begin, data, settings)
        return None
    policy.room(begin.source, settings, full=settings.full, tokens=at_once(data, settings))
    digests = {"base": begin.base.digest, "speeches": data.digest}
    state = state or ranks.together(lambda: State.begin(settings, "sft", digests))
    state.same(digests)
    from training.session import Session

    form: Form = "full" if settings.full else "lora"
    return fit(
        Session(
            settings=settings,
            state=state,
            begin=begin,
            run=heard.run.folder.name,
            judge=heard.judge,
            tokenizer=tokenizer,
            form=form,
        ),
        data,
    )


def named(settings: Settings, begin: Start) -> str:
    """The base, as `--resume` will have to name it."""
    return TINY if settings.base in (None, TINY) else begin.name


def trains_all(settings: Settings, begin: Start) -> bool:
    """Whether all weights are trained: not those under an adapter, and not quantised ones."""
    if begin.adapter is None and not settings.four_bit:
        return settings.full
    if "full" in settings.typed and settings.full:
        why = "--four-bit quantises the base" if settings.four_bit else f"{begin.parent} is an adapter"
        raise InputError(f"{why}, so not all weights can be trained; leave out --full")
    return False


def fit(session: Any, data: Demonstrations) -> Adapter | None:
    """Train and register."""
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    from training.preference import perplexity
    from training.reference import score

    disable_progress_bars()
    settings: Settings = session.settings
    model = policy.load(session.begin, settings, session.tokenizer, full=settings.full)
    arguments = session.arguments() | {
        "num_train_epochs": settings.epochs if settings.packing else 1,
        "per_device_train_batch_size": settings.rows // ranks.processes(),
        "max_length": settings.max_length,
        "packing": settings.packing,
        "train_sampling_strategy": "random" if settings.packing else "sequential",
        "completion_only_loss": True,
    }
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(list(_rows(data.learnt, ordered(data.learnt, settings)))),
        processing_class=session.tokenizer,
        peft_config=None if settings.full or session.begin.adapter else policy.lora(settings),
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL rounds adapters over a 4-bit base to bfloat16
            parameter.data = parameter.data.float()
    spoken = sum(len(data.checked.speeches[speech]) for _, speech in data.checked.sequences)

    def check(model: Model) -> dict[str, float]:
        values = score(model, data.checked, range(len(data.checked.sequences)), autocast=session.precision)
        total = fsum(values)
        return {"perplexity": perplexity(total, spoken), "held_back_loss": -total / spoken}

    adapter: Adapter | None = session.fit(trainer, check)
    return adapter


def ordered(tokens: Tokens, settings: Settings) -> list[int]:
    """In what order the speeches are read: shuffled anew in each epoch, those of a step of about the same length.

    Packed rows are shuffled by the trainer, so they come as they are.
    """
    every = list(range(len(tokens.sequences)))
    if settings.packing:
        return every
    read, order = lengths(tokens), []
    for epoch in range(ceil(settings.epochs)):
        draw = Random(f"{settings.seed}/{epoch}/order")
        mixed = draw.sample(every, len(every))
        near = [mixed[at : at + 50 * settings.rows] for at in range(0, len(mixed), 50 * settings.rows)]
        steps = []
        for some in near:
            some.sort(key=lambda sequence: read[sequence])
            steps += [some[at : at + settings.rows] for at in range(0, len(some), settings.rows)]
        order += [sequence for step in draw.sample(steps, len(steps)) for sequence in step]
    return order[: round(settings.epochs * len(every))]


def _rows(tokens: Tokens, order: list[int]) -> Iterator[dict[str, list[int]]]:
    for prompt, speech in (tokens.sequences[sequence] for sequence in order):
        asked, said = tokens.prompts[prompt], tokens.speeches[speech]
        yield {"input_ids": [*asked, *said], "completion_mask": [0] * len(asked) + [1] * len(said)}


def at_once(data: Demonstrations, settings: Settings) -> int:
    """Tokens of the largest step."""
    return settings.rows * (settings.max_length if settings.packing else max(lengths(data.learnt)))


def tell(begin: Start, data: Demonstrations, settings: Settings) -> None:
    """What a training would be."""
    tokens = int(sum(lengths(data.learnt)) * settings.epochs)
    steps = ceil(len(data.learnt.sequences) * settings.epochs / settings.rows)
    rows = f"{steps:,} steps of {settings.rows}" if not settings.packing else f"packed, {settings.rows} rows a step"
    print(f"{len(data.learnt.sequences):,} speeches on {data.topics} topics, {data.too_long:,} too long")
    print(f"{tokens:,} tokens, {rows}")
    print(f"{len(data.checked.sequences):,} speeches of held-back topics to check on")
    print(
        policy.estimate(
            begin.source, settings, tokens=tokens, asked=0, at_once=at_once(data, settings), full=settings.full
        )
    )
    print("nothing was written")


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    return trained(Settings, "sft", run, argv)


if __name__ == "__main__":
    sys.exit(main())
