"""`python -m training.grpo --from-run [RUN]`: an adapter that speaks so as to earn more.

A policy speaks several times to one task, and what earned more than the others of its group becomes likelier (GRPO,
TRL's trainer). There are three sources of tasks (`training/sources.py`):

    python -m training.sft --from-run                       # teach a policy first
    python -m training.grpo --from-run                      # turns of a run's debates are spoken anew
    python -m training.grpo --from-run --debates            # whole debates, against the run's contestants
    python -m training.grpo --data prompts.jsonl --rubric-judge big --roster roster.toml --base ID     # rows of a file
    wrote runs/out/adapters/grpo-5f0c...: reward_before ..., reward ..., gain ...

What is earned is weighed in the recipe's `rewards`, and is one number, the trainer's one reward; rules count it where
they can, and judges say it where they are named. Held-out topics never come in. A tenth of the topics is held back: on
their tasks the mean reward before and after is told and kept, with an interval over topics. The guard
(`training/guard.py`) watches there that speeches neither grow, repeat themselves nor leave the reference; a training
that leaves its bounds stops at its last good checkpoint. One that goes on (`--resume`) comes to the same weights, but
for one that draws with a vLLM (`--vllm`), whose draws no seed repeats. With no base named, the newest policy that was
taught this run's winning speeches is taken.
"""

import logging
import sys
from math import ceil
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import CliSuppress

from arena.models import Tokenizer, extra
from runs import adapters, find, tables
from runs.adapters import Adapter, Context
from runs.journal import StorageError
from topics.errors import InputError, command
from training import policy, ranks
from training.earning import practice
from training.guard import Bounds
from training.policy import Start
from training.recipe import TINY, Count, NotNegative, Training
from training.rewards import Rewards
from training.scoring import Unscored
from training.sources import Source, of_debates, of_rows, of_turns
from training.speeches import Decided, decided_speeches
from training.state import State, trained


class Settings(Training, cli_prog_name="python -m training.grpo"):
    """Train an adapter by what it earns."""

    data: Path | None = None
    """a .jsonl file of prompts and rubrics, in place of a run"""
    debates: bool = False
    """whole debates, in place of single turns"""
    roster: Path | None = None
    """opponents and judges (default: those of the run)"""
    opponents: list[str] | None = None
    """who is debated with (default: all of the roster)"""
    league: bool = False
    """also debate with its own past"""
    reward_judge: str = "rules"
    """who says what a debate earns"""
    rubric_judge: str | None = None
    """a model that scores rubrics (default: rules do)"""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """USD that judges and opponents may cost, each time it is started"""
    limit: Count | None = None
    """at most N tasks, drawn from the seed"""
    rows: Count
    """tasks a step"""
    group: Annotated[int, Field(ge=2, le=1024)]
    """draws of each task, which are compared"""
    updates: Count = 1
    """steps of the optimiser for each batch that was drawn"""
    at_once: CliSuppress[Count | None] = None
    """sequences of a pass (default: those of a group)"""
    max_completion: CliSuppress[Count] = 1024
    """most tokens of an answer to a row of a file"""
    temperature: CliSuppress[Annotated[float, Field(gt=0, le=10)]]
    """at which is drawn"""
    beta: NotNegative
    """how strongly the reference holds (KL, k3)"""
    scale_rewards: CliSuppress[Literal["group", "none"]] = "group"
    """whether rewards are divided by their group's standard deviation"""
    rewards: CliSuppress[Rewards]
    """what is rewarded"""
    static: CliSuppress[str | None] = None
    """rubric of every row of a file: a name, or a .toml file"""
    guard: CliSuppress[Bounds] = Bounds()
    """what ends a training"""
    checks: CliSuppress[Count] = 256
    """most draws of a check"""
    vllm: Literal["colocate", "server"] | None = None
    """draw with vLLM, on a GPU (default: in this process)"""
    vllm_url: CliSuppress[str] = "http://127.0.0.1:8000"
    """of the server, for --vllm server"""


def ordered(source: Source, settings: Settings) -> list[int]:
    """Which tasks are spoken to, in order: shuffled anew in each epoch, whole steps only, one at least."""
    every, whole = range(len(source.tasks)), len(source.tasks) // settings.rows * settings.rows
    order: list[int] = []
    for epoch in range(ceil(settings.epochs)):
        order += Random(f"{settings.seed}/{epoch}/turns").sample(every, whole)  # no task twice in a batch
    batches = max(1, round(settings.epochs * whole) // settings.rows)
    return order[: batches * settings.rows]


def run(settings: Settings, state: State | None = None) -> Adapter | None:
    """Train, and register what came out; None where it was stopped on the way."""
    with extra():
        import torch  # noqa: F401
    if ranks.processes() > 1:
        raise InputError("training.grpo runs in one process; start it with python -m training.grpo")
    settings, heard = looked_up(settings)
    begin = start(settings, heard)
    shown = settings.context if state else context(begin, settings)
    settings = settings.model_copy(update={"base": begin.name, "context": shown})
    print(f"base: {begin.why}", file=sys.stderr)
    tokenizer = policy.tokenizer(begin)
    source = sourced(settings, heard, tokenizer)
    if settings.dry_run:
        tell(begin, source, settings)
        return None
    policy.room(begin.source, settings, full=False, tokens=at_once(source, settings))
    digests = {"base": begin.base.digest, "tasks": source.digest, "judges and opponents": source.company}
    state = state or State.begin(settings, "grpo", digests)
    state.same(digests)
    from training.draws import EARNED
    from training.session import Session

    named = {"run": heard.run.folder.name, "judge": heard.judge} if heard else {}
    session = Session(
        settings=settings, state=state, begin=begin, tokenizer=tokenizer, form="lora", log=EARNED, **named
    )
    return fit(session, source)


def context(begin: Start, settings: Settings) -> Context:
    """What a prompt shows: as the parent was trained, where nobody says."""
    if begin.parent is None or "context" in settings.typed:
        return settings.context
    return adapters.find(begin.parent, settings.out / "adapters").context


def looked_up(settings: Settings) -> tuple[Settings, Decided | None]:
    """What is learnt from, looked up."""
    settings = unused(settings)
    if settings.data is None:
        run = tables.load(find(settings.from_run, out=settings.out, sealed=True))
        heard = decided_speeches(run, judge=settings.judge, chosen=["any"])
        return settings.model_copy(update={"from_run": str(heard.run.folder)}), heard
    for name in ("debates", "from_run", "judge", "opponents", "league"):
        if name in settings.typed:
            raise InputError(f"--{name.replace('_', '-')} and --data exclude each other; give one of them")
    if settings.base is None:
        raise InputError("no base is named, and rows of a file can teach none to speak; expected --base ID or a model")
    return settings.model_copy(update={"data": settings.data.resolve()}), None


def unused(settings: Settings) -> Settings:
    """Refuse what would do nothing, and give the roster by its whole path."""
    weights = settings.rewards.weights.keys()
    if settings.league and (settings.vllm or not settings.debates):
        raise InputError("--league is for --debates that are drawn in this process; leave it out, or --vllm")
    if settings.opponents and not settings.debates:
        raise InputError("--opponents is for --debates; add it, or leave --opponents out")
    if settings.rubric_judge and not {"rubric", "citation", "audit"} & weights:
        raise InputError("--rubric-judge scores rubrics, and the recipe's rewards weigh none; leave it out")
    if "reward_judge" in settings.typed and not {"margin", "gain"} & weights:
        raise InputError("--reward-judge judges debates, and the recipe's rewards weigh neither margin nor gain")
    if settings.guard.audit is not None and "audit" not in weights:
        raise InputError("guard.audit bounds what the reward 'audit' finds, which the recipe does not weigh; add it")
    return settings.model_copy(update={"roster": settings.roster and settings.roster.resolve()})


def sourced(settings: Settings, heard: Decided | None, tokenizer: Tokenizer) -> Source:
    """Where tasks come from."""
    if heard is None:
        assert settings.data is not None
        source = of_rows(settings.data, settings, tokenizer)
    else:
        source = (of_debates if settings.debates else of_turns)(heard, settings, tokenizer)
    if len(source.tasks) < settings.rows:
        raise InputError(
            f"{len(source.tasks)} tasks are too few for --rows {settings.rows} a step; see --rows, --limit"
        )
    return source


def start(settings: Settings, heard: Decided | None) -> Start:
    """The policy that is trained further; one that was taught nothing is refused."""
    if heard is None:
        return policy.start(settings, None, taught=False)
    taught = policy.newest_taught(heard, settings.out / "adapters")
    if settings.base == TINY or (settings.base is None and taught is None):
        raise InputError(
            "no policy was taught this run's winning speeches yet, and one that says nothing earns nothing; first: "
            f"python -m training.sft --from-run {settings.from_run}"
        )
    return policy.start(settings, heard, taught=True)


def fit(session: Any, source: Source) -> Adapter | None:
    """Train and register."""
    settings, folder = session.settings, session.state.folder
    try:
        with practice(source, settings, session.tokenizer, folder.parent / "answers.db") as held:
            adapter: Adapter | None = fitted(session, source, held)
    except Unscored as error:
        raise StorageError(f"{error}; {session.go_on('to go on later')}") from None
    except InputError:
        session.withdraw()
        raise
    return adapter


def fitted(session: Any, source: Source, held: Any) -> Adapter | None:
    """Train on a practice, and register."""
    from datasets import Dataset, disable_progress_bars
    from trl import GRPOConfig

    from training.draws import HeldBack, Steps, ends
    from training.policy_gradient import Trainer
    from training.practice import REFERENCE, Local, Served, Speaker, copy, reference

    disable_progress_bars()
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)  # what has no reward would be logged in full
    settings: Settings = session.settings
    model = policy.load(session.begin, settings, session.tokenizer, full=False)
    stops = ends(model, session.tokenizer)

    def local(model: Any) -> Speaker:
        return Local(model=model, stops=stops, temperature=settings.temperature)

    def speaker(trainer: Any) -> Any:
        if settings.vllm:
            return Served(trainer=trainer, stops=stops, temperature=settings.temperature)
        return local(trainer.accelerator.unwrap_model(trainer.model))

    check = HeldBack(
        practice=held,
        wanted=source.held_back,
        speaker=local,
        best=settings.rewards.scale * sum(settings.rewards.weights.values()),
        won=source.won,
        autocast=session.precision,
        memory=session.state.folder / "before.json",
    )
    prompts = [str(number) for number in ordered(source, settings) for _ in range(source.each)]
    steps = Steps(practice=held, tasks=source.tasks, group=settings.group, speaker=speaker)
    trainer = Trainer(
        model=model,
        reward_funcs=steps.reward,
        rollout_func=steps.rollout,
        args=GRPOConfig(**arguments(session, source)),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=session.tokenizer,
        peft_config=policy.lora(settings) if session.begin.adapter is None else None,
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL rounds adapters over a 4-bit base to bfloat16
            parameter.data = parameter.data.float()
    if session.begin.adapter is not None and reference(trainer.model) is None:
        copy(trainer.model, REFERENCE)  # TRL keeps the parent only where beta wants it
    if settings.league:
        check.keeps = lambda: trainer.state.global_step > 0 and trainer.state.global_step % settings.check_every == 0
    adapter: Adapter | None = session.fit(trainer, check, settings.guard, whole=settings.updates)
    return adapter


def arguments(session: Any, source: Source) -> dict[str, Any]:
    """What TRL's trainer is told."""
    settings: Settings = session.settings
    size = settings.group * source.each
    together, drawn = settings.at_once or size, settings.rows * size
    if drawn % (together * settings.updates):
        raise InputError(
            f"a batch of {drawn} sequences cannot be {settings.updates} updates of passes of {together}; expected a "
            f"multiple: see --rows, --group, --updates, at_once"
        )
    if settings.check_every % settings.updates:
        raise InputError(f"--check-every {settings.check_every} is no multiple of --updates {settings.updates}")
    told: dict[str, Any] = session.arguments() | {
        "num_train_epochs": 1,
        "per_device_train_batch_size": together,
        "gradient_accumulation_steps": drawn // together // settings.updates,
        "steps_per_generation": drawn // together,
        "num_generations": settings.group,
        "max_completion_length": source.longest,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "scale_rewards": settings.scale_rewards,
        "shuffle_dataset": False,
    }
    if settings.vllm:
        told |= {"use_vllm": True, "vllm_mode": settings.vllm, "vllm_server_base_url": settings.vllm_url}
    return told


def at_once(source: Source, settings: Settings) -> int:
    """Tokens that a pass reads at most."""
    return (settings.at_once or settings.group * source.each) * max(source.tokens)


def tell(begin: Start, source: Source, settings: Settings) -> None:
    """What a training would be."""
    order = ordered(source, settings)
    tokens = settings.group * source.each * sum(source.tokens[at] for at in order)
    for line in source.said:
        print(line)
    batches = len(order) // settings.rows
    steps, draws = batches * settings.updates, len(order) * settings.group
    checks = ceil(steps / settings.check_every) + 1
    print(f"{batches:,} batches of {settings.rows} {source.kind}, {settings.group} draws for each; {steps:,} steps")
    print(f"{checks:,} checks, {len(source.held_back):,} draws on held-back topics each")
    if settings.rubric_judge is not None:
        each = len({"rubric", "citation", "audit"} & settings.rewards.weights.keys())
        most = each * (draws + checks * len(source.held_back))
        print(f"at most {most:,} questions to {settings.rubric_judge!r}")
    print(f"at most {tokens:,} tokens in the steps, drawn and then learnt from")
    asked = tokens * (2 if settings.beta else 1)
    together = at_once(source, settings)
    print(policy.estimate(begin.source, settings, tokens=tokens, asked=asked, at_once=together, full=False))
    print("nothing was written")


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    words = sys.argv if argv is None else argv
    whole = "--debates" in words and not any(word.partition("=")[0] == "--data" for word in words)
    return trained(Settings, "grpo", run, argv, section="debates" if whole else "grpo")


if __name__ == "__main__":
    sys.exit(main())
