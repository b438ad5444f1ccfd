"""`python -m training.dpo --from-run [RUN]`: an adapter that prefers what won to what lost.

The pairs are those of `training.pairs`: made from the run, or a pair set that was made before (`--pairs`). A speech
stands in many pairs, so each is run once a micro-batch, the reference is asked once for each and kept on disk
(`training/preference.py`, `training/batches.py`, `training/reference.py`). A tenth of the train topics is held back;
on them preference accuracy and the perplexity of chosen speeches are checked, and a training that loses its language
stops at its last good checkpoint.

With no base named, the newest policy that was taught this run's winning speeches is taken; where there is none, a
tiny one is taught first. Under `accelerate launch -m training.dpo` several processes share the micro-batches.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field

from arena.models import Model, Tokenizer, extra
from runs import find, tables
from runs.adapters import Adapter
from runs.statistics import rate
from topics.errors import InputError, command, is_file
from training import pair_set, pairs, policy, ranks, sft
from training.batches import Batching, MicroBatch, plan
from training.guard import Bounds
from training.pair_set import PairSet
from training.policy import Start
from training.recipe import TINY, Count, Positive, Training, default, table
from training.speeches import Decided, decided_speeches, held_back
from training.state import State, trained
from training.tokens import Tokens, lengths, tokenise, too_long, without

CHECKED = 256
"""Most held-back pairs that a check reads."""


class Settings(Training, cli_prog_name="python -m training.dpo"):
    """Train an adapter that prefers what won to what lost."""

    pairs: Path | None = None
    """a pair set's folder (default: made from the run)"""
    beta: Positive
    """how strongly the reference holds"""
    loss: Literal["sigmoid", "sigmoid_norm", "ipo", "hinge"]
    """sigmoid (DPO) | sigmoid_norm (by length) | ipo | hinge"""
    batching: Batching
    """how pairs share passes: blocks | keys | stock"""
    budget: Annotated[int, Field(ge=2)]
    """most sequences of a micro-batch"""
    per_step: Count
    """micro-batches of a step, of all processes"""
    max_perplexity: Positive
    """the guard's bound, on held-back chosen speeches"""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Pairs to learn and pairs to check, as token ids."""

    learnt: Tokens
    checked: Tokens
    topics: list[str]
    """Of each checked pair, its topic."""
    too_long: int
    digest: str


def pairs_of(settings: Settings) -> tuple[PairSet, Decided]:
    """The pair set that is named, or the run's, which is then written; and the run's speeches, by the same judge."""
    if settings.pairs is None:
        run = tables.load(find(settings.from_run, out=settings.out, sealed=True))
        chosen = pairs.Settings(judge=settings.judge, context=settings.context)
        heard = decided_speeches(run, judge=chosen.judge, chosen=chosen.chosen)
        found = pairs.among(heard, chosen)
        folder = settings.out / "pairs" / f"{found.run}-{found.digest[:12]}"
        if not settings.dry_run and not is_file(folder / pair_set.NAME) and ranks.is_first():
            stored = chosen.model_dump(mode="json", exclude=pairs.NOT_STORED)
            pair_set.write(found, folder, run=run, settings=stored)
        return found, heard
    found = pair_set.load(settings.pairs)
    for name, theirs in (("context", found.context), ("judge", found.judge)):
        mine = getattr(settings, name)
        if name in settings.typed and mine != theirs:
            raise InputError(f"{str(settings.pairs)!r} was made with --{name} {theirs}, not {mine}; leave it out")
    run = tables.load(find(settings.from_run if "from_run" in settings.typed else found.run, out=settings.out))
    if run.folder.name != found.run:
        raise InputError(f"{str(settings.pairs)!r} was made from run {found.run}, not {run.folder.name}")
    return found, decided_speeches(run, judge=found.judge, chosen=["any"])


def data(found: PairSet, settings: Settings, tokenizer: Tokenizer) -> Data:
    """The pairs of the topics to learn from, and some of those held back."""
    topics = found.pairs["topic_id"].unique().sort().to_list()
    back = held_back(topics, settings.held_back)
    if len(topics) <= len(back):
        raise InputError(f"pairs of {len(topics)} topics are too few to hold some back; play more topics")
    learnt, long = fitting(tokenise(found, tokenizer, [topic for topic in topics if topic not in back]), settings)
    drawn = _drawn(found, back)
    checked, _ = fitting(tokenise(drawn, tokenizer), settings)
    return Data(
        learnt=learnt,
        checked=checked,
        topics=[drawn.pairs["topic_id"][row] for row in checked.rows],
        too_long=long,
        digest=found.digest,
    )


def _drawn(found: PairSet, topics: set[str]) -> PairSet:
    """Some pairs of the topics held back, as many of each as of any other."""
    frame = found.pairs.filter(pl.col("topic_id").is_in(list(topics)))
    order = pl.Series("order", Random("checked").sample(range(frame.height), frame.height))
    turn = pl.col("order").rank("ordinal").over("topic_id")
    drawn = frame.with_columns(order).sort(turn, "order").head(CHECKED).drop("order")
    return replace(found, pairs=drawn)


def fitting(tokens: Tokens, settings: Training) -> tuple[Tokens, int]:
    """The pairs that fit, and how many do not; refused where those are more than the share that may be."""
    long = too_long(tokens, settings.max_length)
    policy.few_too_long(len(long), len(tokens.pairs), "pairs have a speech that is", settings)
    return (without(tokens, long) if long else tokens), len(long)


def run(settings: Settings, state: State | None = None) -> Adapter | None:
    """Train, and register what came out; None where it was stopped on the way."""
    with extra():
        import torch  # noqa: F401
    found, heard = pairs_of(settings)
    settings = settings.model_copy(update={"context": found.context, "from_run": str(heard.run.folder)})
    if settings.per_step % ranks.processes():
        raise InputError(
            f"{settings.per_step} micro-batches a step cannot be shared by {ranks.processes()} processes; "
            f"expected a multiple: --per-step"
        )
    begin = ranks.together(lambda: policy.start(settings, heard, taught=True))
    if begin.parent is None and settings.base in (None, TINY):
        if settings.dry_run:
            print("no policy was taught this run's winning speeches yet: a tiny base would be, first (training.sft)")
        else:
            begin = taught(settings, heard)
    settings = settings.model_copy(update={"base": begin.name})
    if ranks.is_first():
        print(f"base: {begin.why}", file=sys.stderr)
    from training.session import Session

    tokenizer = policy.tokenizer(begin)
    made = data(found, settings, tokenizer)
    batches = planned(made, settings)
    digests = {"base": begin.base.digest, "pairs": made.digest}
    if settings.dry_run:
        tell(begin, made, batches, settings)
        return None
    policy.room(begin.source, settings, full=False, tokens=at_once(made, batches))
    state = state or ranks.together(lambda: State.begin(settings, "dpo", digests))
    state.same(digests)
    session = Session(
        settings=settings,
        state=state,
        begin=begin,
        run=heard.run.folder.name,
        judge=heard.judge,
        tokenizer=tokenizer,
        form="lora",
    )
    return fit(session, made, batches)


def fit(session: Any, made: Data, batches: list[MicroBatch]) -> Adapter | None:
    """Ask the reference, train, register."""
    from training import preference
    from training.reference import log_probs

    settings: Settings = session.settings
    model = policy.load(session.begin, settings, session.tokenizer, full=False)
    kept = {
        "cache": settings.out / "reference",
        "model_digest": reference_digest(session.begin, settings),
        "autocast": session.precision,
    }
    used = sorted({sequence for batch in batches for sequence in batch.sequences})
    needed = replace(made.learnt, sequences=[made.learnt.sequences[sequence] for sequence in used], pairs=[], rows=[])
    values = dict(zip(used, log_probs(model, needed, progress=asked, **kept), strict=True))
    reference = [values.get(sequence, nan) for sequence in range(len(made.learnt.sequences))]  # nan: never run
    before = log_probs(model, made.checked, **kept)
    arguments = session.arguments() | {
        "beta": settings.beta,
        "loss_type": [settings.loss],
        "gradient_accumulation_steps": settings.per_step // ranks.processes(),
        "disable_dropout": False,
    }
    trainer = preference.PreferenceTrainer(
        model,
        preference.settings(**arguments),
        tokens=made.learnt,
        reference=reference,
        plan=batches,
        tokenizer=session.tokenizer,
        peft_config=policy.lora(settings) if session.begin.adapter is None else None,
    )

    def check(model: Model) -> Mapping[str, float]:
        found = preference.evaluate(model, made.checked, before, settings.beta, autocast=session.precision)
        sure = rate(found["correct"], made.topics)
        bounds = {"accuracy_low": sure.low, "accuracy_high": sure.high}
        named = {name: found[name] for name in ("accuracy", "margin", "perplexity")}
        return named | {"held_back_loss": found["loss"]} | {k: v for k, v in bounds.items() if v is not None}

    adapter: Adapter | None = session.fit(trainer, check, Bounds(perplexity=settings.max_perplexity))
    return adapter


def reference_digest(begin: Start, settings: Settings) -> str:
    """What names the weights of the reference, and how they are held."""
    further = begin.adapter.weights_digest if begin.adapter else "-"
    return f"{begin.base.digest}/{further}/{'nf4/' if settings.four_bit else ''}{settings.dtype}"


def planned(made: Data, settings: Settings) -> list[MicroBatch]:
    """The micro-batches of the whole training."""
    return plan(
        made.learnt,
        batching=settings.batching,
        budget=settings.budget,
        per_step=settings.per_step,
        epochs=settings.epochs,
        seed=settings.seed,
    )


def at_once(made: Data, batches: list[MicroBatch]) -> int:
    """Tokens of the largest micro-batch."""
    read = lengths(made.learnt)
    return max(sum(read[sequence] for sequence in batch.sequences) for batch in batches)


def asked(done: int, total: int) -> None:
    """Tell how far the reference is."""
    if ranks.is_first():
        print(f"reference {done:,}/{total:,} sequences", file=sys.stderr, flush=True)


def taught(settings: Settings, heard: Decided) -> Start:
    """A tiny base that was first taught the run's winning speeches."""
    values = table(default(None), "sft") | {"recipe": default(None)}
    shared = {name: getattr(settings, name) for name in ("from_run", "judge", "context", "held_back", "seed", "out")}
    print("base: none was named, so a tiny one is first taught the winning speeches", file=sys.stderr)
    parent = sft.run(sft.Settings.model_validate(values | shared))
    if parent is None:
        raise InputError("the tiny base was not taught to the end; go on with: python -m training.sft --resume")
    named = settings.model_copy(update={"base": parent.id})
    return ranks.together(lambda: policy.start(named, heard, taught=True))


def tell(begin: Start, made: Data, batches: list[MicroBatch], settings: Settings) -> None:
    """What a training would be."""
    read = lengths(made.learnt)
    tokens = sum(read[sequence] for batch in batches for sequence in batch.sequences)
    pairs_ = sum(len(batch.chosen) for batch in batches)
    steps = -(-len(batches) // settings.per_step)
    print(f"{len(made.learnt.pairs):,} pairs, {len(made.learnt.sequences):,} sequences, {made.too_long:,} too long")
    print(f"{pairs_:,} pairs in {len(batches):,} micro-batches of {settings.batching}, {steps:,} steps")
    print(f"{tokens:,} tokens without sharing prompts, and {sum(read):,} of the reference")
    print(
        policy.estimate(
            begin.source, settings, tokens=tokens, asked=sum(read), at_once=at_once(made, batches), full=False
        )
    )
    print("nothing was written")


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    return trained(Settings, "dpo", run, argv)


if __name__ == "__main__":
    sys.exit(main())
