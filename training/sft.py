"""`python -m training.sft --from-run [RUN]`: teach a model the winning speeches of a run.

Demonstrations are the speeches of sides that won their debate, each behind the prompt that the arena asks with; only
what is said is learnt, not the prompt. A tenth of the train topics is held back, and perplexity on the winning
speeches there is what the checks show. With no base named, a tiny one is built and taught in full, offline, in
minutes. What comes out stands in the registry and can be seated, or be the base of `training.dpo`.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import exp, fsum
from random import Random
from typing import Any, TypeVar

import polars as pl
from pydantic import Field

from arena.models import Model, Tokenizer, extra
from runs import find, tables
from runs.adapters import Adapter, Form
from runs.journal import StorageError
from runs.records import content_id
from topics.errors import InputError, command
from training import policy, ranks
from training.policy import Start
from training.recipe import Count, Training, parse_training
from training.speeches import Decided, decided_speeches, held_back, prompts
from training.state import State, resumed
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
    """several speeches a row"""


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
    won = heard.speeches.filter("won")
    if heard.chosen is not None:
        won = won.filter(pl.col("contestant").is_in(heard.chosen))
    if not won.height:
        steps = "; ".join(f"{what}: {count:,}" for what, count in heard.counts.items())
        raise InputError(f"no winning speeches are left with these settings ({steps}); see --chosen, --judge")
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
    if long > settings.too_long * len(tokens.sequences):
        raise InputError(
            f"{long:,} of {len(tokens.sequences):,} speeches are longer than {settings.max_length} tokens with their "
            f"prompt; expected at most a share of {settings.too_long:g}: raise --max-length or --too-long"
        )
    return replace(tokens, sequences=fits), long


def run(settings: Settings, state: State | None = None) -> Adapter | None:
    """Train, and register what came out; None where it was stopped on the way."""
    with extra():
        import torch  # noqa: F401
    heard = decided_speeches(
        tables.load(find(settings.from_run, sealed=True)), judge=settings.judge, chosen=settings.chosen
    )
    begin = ranks.together(lambda: policy.start(settings, heard, taught=False))
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
    return fit(Session(settings=settings, state=state, begin=begin, heard=heard, tokenizer=tokenizer, form=form), data)


def fit(session: Any, data: Demonstrations) -> Adapter | None:
    """Train and register."""
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    from training.reference import score

    disable_progress_bars()
    settings: Settings = session.settings
    model = policy.load(session.begin, settings, full=settings.full)
    arguments = session.arguments() | {
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.rows,
        "max_length": settings.max_length,
        "packing": settings.packing,
        "train_sampling_strategy": "random" if settings.packing else "group_by_length",
        "completion_only_loss": True,
    }
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(list(_rows(data.learnt))),
        processing_class=session.tokenizer,
        peft_config=None if settings.full else policy.lora(settings),
    )
    spoken = sum(len(data.checked.speeches[speech]) for _, speech in data.checked.sequences)

    def check(model: Model) -> dict[str, float]:
        values = score(model, data.checked, range(len(data.checked.sequences)), autocast=session.precision)
        loss = -fsum(values) / spoken
        return {"perplexity": exp(min(loss, 50.0)), "held_back_loss": loss}

    adapter: Adapter | None = session.fit(trainer, check)
    return adapter


def _rows(tokens: Tokens) -> Iterator[dict[str, list[int]]]:
    for prompt, speech in tokens.sequences:
        asked, said = tokens.prompts[prompt], tokens.speeches[speech]
        yield {"input_ids": [*asked, *said], "completion_mask": [0] * len(asked) + [1] * len(said)}


def at_once(data: Demonstrations, settings: Settings) -> int:
    """Tokens of the largest step."""
    return settings.rows * (settings.max_length if settings.packing else max(lengths(data.learnt)))


def tell(begin: Start, data: Demonstrations, settings: Settings) -> None:
    """What a training would be."""
    tokens = int(sum(lengths(data.learnt)) * settings.epochs)
    print(f"{len(data.learnt.sequences):,} speeches on {data.topics} topics, {data.too_long:,} too long")
    print(f"{len(data.checked.sequences):,} speeches of held-back topics to check on")
    print(
        policy.estimate(
            begin.source, settings, tokens=tokens, asked=0, at_once=at_once(data, settings), full=settings.full
        )
    )
    print("nothing was written")


T = TypeVar("T", bound=Training)


def trained(
    kind: type[T], method: str, run: Callable[[T, State | None], Adapter | None], argv: list[str] | None
) -> int:
    """A training command: parse, train or go on, say what was written."""
    settings = parse_training(kind, argv, method)
    state = None
    if settings.resume is not None:
        settings, state = resumed(settings, method)
    try:
        adapter = run(settings, state)
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if adapter is None:
        return 0 if settings.dry_run else 1
    first = ranks.is_first()
    ranks.leave()
    if not first:
        return 0
    known = ", ".join(f"{name} {value:.4g}" for name, value in adapter.metrics.items() if isinstance(value, float))
    print(f"wrote {adapter.folder}: {known}")
    print(f'seat:  [[contestants]] name = "{method}", kind = "local", adapter = "{adapter.id}"')
    return 0


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    return trained(Settings, "sft", run, argv)


if __name__ == "__main__":
    sys.exit(main())
