"""Practice: what a policy speaks to in GRPO, and what it earns.

    practice = Prompts(tokenizer=tokenizer, earn=earn)
    samples = practice.draw(speaker, [(task, 1), (task, 2)])        # two answers to one prompt, each with its reward

A *task* is what is spoken to: a turn of a stored debate (`training/turns.py`), a row of a file
(`training/rubric_rows.py`), a seat in a debate that is yet to be played (`training/debates.py`). What is drawn for it
is a *sample*: tokens to learn from, and the reward. The training steps and the checks on held-back tasks draw through
the same function, with `arena.generate`, as the policy plays.

How it departs from the textbook: a draw belongs to its task and to a number, so that a step draws the same whatever
was drawn before it. A training that goes on at a checkpoint so asks the policy, and the judges, for the very same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from arena.generate import BASE, Request, generate, is_full
from arena.models import Model, Tokenizer, prompt_ids
from arena.prompting import Message
from runs.records import content_seed
from training.rewards import Reward

AT_ONCE = {"cpu": 100_000}
"""Tokens of prompts and answers that are drawn together, by type of device: what caches hold."""
MORE_AT_ONCE = 131_072
"""The same on any other device."""
POLICY = "default"
"""PEFT's name for the adapter that is trained."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sequence to learn from."""

    unit: str
    """What it counts to in statistics: a topic, as a rule."""
    prompt: Sequence[int]
    completion: Sequence[int]
    own: Sequence[int] | None = None
    """Of each token of the completion, 1 where the policy drew it and 0 where it heard it; None: it drew all."""
    log_probs: Sequence[float] | None = None
    """Of the completion's tokens as they were drawn, where a server drew them; 0 for what was heard."""
    texts: Sequence[str] = ()
    """What the policy said in it, as far as it can be heard."""
    cut: bool = False
    """A limit on tokens ended it."""
    reward: Reward
    score: float | None = None
    """Of a debate's first sequence: 1 where the policy won it, 0 where it lost, 1/2 for a tie."""

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion)


class Practice(Protocol):
    """What is spoken to, and what is earned."""

    each: int
    """Sequences that one draw of a task comes to."""

    def draw(self, speaker: Speaker, wanted: Sequence[tuple[Any, int]]) -> list[Sample]:
        """Samples for tasks, each with the number of the draw; `each` of them for each, in their order."""
        ...


# ── speaking ─────────────────────────────────────────────────────────────────────────────────────────


class Speaker(Protocol):
    """The policy as it is now."""

    @property
    def temperature(self) -> float:
        """At which it is drawn."""
        ...

    @property
    def selves(self) -> Sequence[str]:
        """Adapters of the policy as it was: first before it was trained, then as it was kept."""
        ...

    def __call__(self, requests: Sequence[Request]) -> None:
        """Answer every request."""
        ...


@dataclass(frozen=True, kw_only=True)
class Local:
    """A policy in this process."""

    model: Model
    stops: Collection[int]
    temperature: float

    @property
    def selves(self) -> Sequence[str]:
        """The reference, and what was kept, the oldest first."""
        return [reference(self.model) or BASE, *kept(self.model)]

    def __call__(self, requests: Sequence[Request]) -> None:
        """Answer every request, in batches that memory holds, and in the precision of the weights, as it plays."""
        device, training = next(self.model.parameters()).device.type, self.model.training
        at_once = AT_ONCE.get(device, MORE_AT_ONCE)
        self.model.eval()
        try:
            left = sorted(requests, key=lambda request: len(request.prompt))
            while left:
                batch = next(batches(left, at_once))
                try:
                    with bare(self.model):
                        generate(self.model, batch, self.stops, lambda _: None)
                except (MemoryError, RuntimeError) as error:
                    if not is_full(error) or len(batch) == 1:
                        raise
                    at_once //= 2
                left = [request for request in left if request.finish is None]
        finally:
            self.model.train(training)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A policy that TRL keeps in step with a vLLM (`--vllm`); an answer has as much room there as the longest."""

    trainer: Any
    stops: Collection[int]
    temperature: float
    selves: Sequence[str] = ()

    def __call__(self, requests: Sequence[Request]) -> None:
        """Answer every request."""
        prompts = [list(request.prompt) for request in requests]
        if not prompts:
            return
        vllm = self.trainer.vllm_generation
        _, answers, log_probs, _ = vllm.generate(prompts=prompts, images=None, num_generations=1)
        for request, ids, numbers in zip(requests, answers, log_probs, strict=True):
            ids, ended = list(ids)[: request.most], False
            if ids and ids[-1] in self.stops:
                request.end, ended = ids.pop(), True
            request.tokens, request.finish = ids, "stop" if ended else "length"
            request.log_probs = [number[0] for number in numbers][: len(ids) + ended]


@contextmanager
def bare(model: Model) -> Iterator[None]:
    """The model without the mixed precision that a trainer has wrapped it in: so it plays, and a draw of one token at a
    time is slower with it."""
    wrapped, original = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if wrapped is None or original is None:
        yield
        return
    model.forward = original
    try:
        yield
    finally:
        model.forward = wrapped


def batches(requests: Sequence[Request], at_once: int) -> Iterator[list[Request]]:
    """Requests, in their order, cut into batches of at most `at_once` tokens, one at least."""
    batch: list[Request] = []
    width = 0
    for request in requests:
        width = max(width, len(request.prompt) + request.most)
        if batch and (len(batch) + 1) * width > at_once:
            yield batch
            batch, width = [], len(request.prompt) + request.most
        batch.append(request)
    if batch:
        yield batch


# ── the policy as it was ─────────────────────────────────────────────────────────────────────────────

REFERENCE, PAST, MOST_PAST = "ref", "past-", 8


def reference(model: Model) -> str | None:
    """The adapter that a policy was before it was trained; None where it was the base."""
    return REFERENCE if REFERENCE in getattr(model, "peft_config", ()) else None


def kept(model: Model) -> list[str]:
    """The adapters that are what a policy was, the oldest first."""
    names = (name for name in getattr(model, "peft_config", ()) if name.startswith(PAST))
    return sorted(names, key=lambda name: int(name.removeprefix(PAST)))


def keep(model: Model) -> None:
    """Keep what a policy is now beside it, as an adapter that is not trained, and so the newest `MOST_PAST`."""
    before = kept(model)
    copy(model, f"{PAST}{1 + (int(before[-1].removeprefix(PAST)) if before else 0)}")
    for name in before[: len(before) + 1 - MOST_PAST]:
        model.delete_adapter(name)


def copy(model: Model, name: str) -> None:
    """Lay a copy of a policy's adapter over its base, which is not trained."""
    model.add_adapter(name, model.peft_config[POLICY])
    for of, parameter in list(model.named_parameters()):
        if f".{name}." in of:
            parameter.data.copy_(model.get_parameter(of.replace(f".{name}.", f".{POLICY}.")).data)
    model.set_adapter(POLICY)
    for of, parameter in model.named_parameters():
        parameter.requires_grad = f".{POLICY}." in of


def drawn(request: Request) -> list[int]:
    """All tokens that were drawn, what ended the answer included."""
    return [*request.tokens, *([] if request.end is None else [request.end])]


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────


class Prompt(Protocol):
    """A task that is one prompt."""

    @property
    def unit(self) -> str:
        """What it counts to in statistics."""
        ...

    @property
    def name(self) -> str:
        """What draws for it go by."""
        ...

    @property
    def messages(self) -> Sequence[Message]: ...

    @property
    def most_tokens(self) -> int:
        """Of an answer, what ends it included."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said to a prompt."""

    task: Any
    text: str
    cut: bool
    """A limit on tokens ended it."""
    draw: int


@dataclass(kw_only=True)
class Prompts:
    """Practice on single prompts."""

    tokenizer: Tokenizer
    earn: Callable[[Sequence[Answer]], Sequence[Reward]]
    """What answers earn, all of them together, so that judges can be asked at once."""
    adapter: str = POLICY
    each: int = 1

    def draw(self, speaker: Speaker, wanted: Sequence[tuple[Prompt, int]]) -> list[Sample]:
        """An answer to each, and its reward."""
        requests = [self.request(task, draw, speaker.temperature) for task, draw in wanted]
        speaker(requests)
        answers = [
            Answer(task=task, text=text_of(self.tokenizer, request), cut=request.finish == "length", draw=draw)
            for (task, draw), request in zip(wanted, requests, strict=True)
        ]
        return [
            Sample(
                unit=answer.task.unit,
                prompt=request.prompt,
                completion=drawn(request),
                log_probs=request.log_probs,
                texts=(answer.text,),
                cut=answer.cut,
                reward=reward,
            )
            for answer, request, reward in zip(answers, requests, self.earn(answers), strict=True)
        ]

    def request(self, task: Prompt, draw: int, temperature: float) -> Request:
        return Request(
            prompt=prompt_ids(self.tokenizer, task.messages),
            adapter=self.adapter,
            seed=content_seed("practice", task.name, draw),
            temperature=temperature,
            most=task.most_tokens,
        )


def text_of(tokenizer: Tokenizer, request: Request) -> str:
    """The text of an answer, as it came."""
    return str(tokenizer.decode(request.tokens, skip_special_tokens=True))
