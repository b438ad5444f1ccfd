"""What GRPO draws and is told: by whom a draw is decided, what TRL makes of it, and what a check remembers.

The policy is a tiny model with random weights, the trainer is TRL's own; what is practised on is made up here.
"""

import json
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TRAINERS_WARN
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from datasets import Dataset  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import GRPOConfig  # noqa: E402

from arena.generate import Request  # noqa: E402
from arena.models import Model, Tokenizer, load_model, load_tokenizer, prompt_ids, speech_ids  # noqa: E402
from arena.prompting import Message  # noqa: E402
from training import practice as practices  # noqa: E402
from training import tiny  # noqa: E402
from training.draws import HeldBack, Steps, drift, estimates  # noqa: E402
from training.policy_gradient import Trainer, together  # noqa: E402
from training.practice import (  # noqa: E402
    Answer,
    Local,
    Practice,
    Prompts,
    Sample,
    Served,
    Speaker,
    batches,
    drawn,
    text_of,
)
from training.reference import base_of  # noqa: E402
from training.rewards import Reward, Rewards, advantages, item  # noqa: E402
from training.tokens import Tokens  # noqa: E402

pytestmark = [
    *TRAINERS_WARN,
    pytest.mark.filterwarnings("ignore:You are importing from 'rollout_func':UserWarning"),
    pytest.mark.usefixtures("one_thread"),
]

WORDS = ["trams", "quiet", "streets", "attract", "shops", "because", "people", "linger", "where", "traffic", "calms"]
TEXTS = [" ".join([*WORDS[start:], *WORDS[:start]]) + "." for start in range(len(WORDS))]
END = "<|im_end|>"
WEIGHED = Rewards(weights={"format": 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(TEXTS, tmp_path_factory.mktemp("tiny"), seed=7)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


@pytest.fixture
def model(folder: Path) -> Model:
    """Random weights under an adapter that does nothing yet, as training begins."""
    torch.manual_seed(0)
    settings = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(load_model(str(folder)), settings)


def moved(model: Model) -> Model:
    """The same with an adapter that does something."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.05)
    return model


@dataclass(frozen=True, kw_only=True)
class Task:
    """One prompt."""

    name: str
    unit: str = "topic"
    most_tokens: int = 12

    @property
    def messages(self) -> list[Message]:
        return [{"role": "user", "content": f"{self.name} {WORDS[len(self.name) % 7]}"}]


TASKS = [Task(name=name) for name in ("a", "bb", "ccc ddd eee", "ffff", "ggggg " * 9)]


def earned(value: float | None) -> Reward:
    return WEIGHED.compose({"format": None if value is None else (item("good", value),)})


def prompts(tokenizer: Tokenizer, earn: Callable[[Sequence[Answer]], Sequence[Reward]] | None = None) -> Prompts:
    return Prompts(tokenizer=tokenizer, earn=earn or (lambda answers: [earned(0.5)] * len(answers)))


def local(model: Model, tokenizer: Tokenizer, temperature: float = 1.0) -> Local:
    return Local(model=model, stops={tokenizer.eos_token_id}, temperature=temperature)


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_draw_belongs_to_its_task_and_its_number(
    model: Model, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shares its batch, in whatever order, again and again."""
    speaker, held = local(moved(model), tokenizer), prompts(tokenizer)
    wanted = [(task, draw) for task in TASKS for draw in range(3)]
    said = dict(zip([(t.name, n) for t, n in wanted], held.draw(speaker, wanted), strict=True))
    assert len({tuple(one.completion) for one in said.values()}) == len(wanted), "each draw says something else"
    mixed = random.Random(3).sample(wanted, len(wanted))
    for some, at_once in ((wanted, 100_000), (mixed, 100_000), (mixed, 60), (mixed[:4], 1)):
        monkeypatch.setitem(practices.AT_ONCE, "cpu", at_once)
        for (task, number), one in zip(some, held.draw(speaker, some), strict=True):
            assert one == said[task.name, number]


def test_an_answer_is_what_was_drawn_and_what_it_says_is_judged(model: Model, tokenizer: Tokenizer) -> None:
    seen: list[Answer] = []

    def earn(answers: Sequence[Answer]) -> list[Reward]:
        seen.extend(answers)
        return [earned(None if one.draw == 2 else one.draw / 4) for one in answers]

    end = tokenizer.eos_token_id
    cut = [tokenizer(text)["input_ids"][:7] for text in TEXTS[:2]]
    whole = tokenizer(TEXTS[3])["input_ids"][:5]

    def speaker(requests: Sequence[Request]) -> None:
        for request, tokens in zip(requests, [cut[0], whole, cut[1]], strict=True):
            request.tokens, request.finish = list(tokens), "length"
        requests[1].finish, requests[1].end = "stop", end

    speaker.temperature = 0.5  # type: ignore[attr-defined]
    wanted = [(TASKS[0], 0), (TASKS[1], 1), (TASKS[0], 2)]
    samples = prompts(tokenizer, earn).draw(speaker, wanted)  # type: ignore[arg-type]
    assert [list(one.completion) for one in samples] == [cut[0], [*whole, end], cut[1]]
    assert [one.cut for one in samples] == [one.cut for one in seen] == [True, False, True]
    assert [one.texts for one in samples] == [(one.text,) for one in seen]
    assert [one.text for one in seen] == [tokenizer.decode(ids) for ids in (cut[0], whole, cut[1])]
    assert [(one.task, one.draw) for one in seen] == wanted
    assert [one.reward.value for one in samples] == [0, 0.25, None]
    assert [list(one.prompt) for one in samples] == [prompt_ids(tokenizer, task.messages) for task, _ in wanted]
    assert all(one.own is None and one.log_probs is None and one.score is None for one in samples)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=30), st.integers(1, 400))
def test_batches_keep_the_order_and_the_measure(sizes: list[tuple[int, int]], at_once: int) -> None:
    requests = [Request(prompt=[1] * prompt, seed=0, most=most) for prompt, most in sizes]
    found = list(batches(requests, at_once))
    assert [request for batch in found for request in batch] == requests
    for number, batch in enumerate(found):
        width = max(len(request.prompt) + request.most for request in batch)
        assert len(batch) == 1 or len(batch) * width <= at_once
        if number + 1 < len(found):  # the next would not have gone in
            first = found[number + 1][0]
            assert (len(batch) + 1) * max(width, len(first.prompt) + first.most) > at_once


class Filling:
    """A model whose memory is full in some of its passes."""

    def __init__(self, model: Model, full: Collection[int], error: str | None = None) -> None:
        self.model, self.full, self.passes, self.error = model, full, 0, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.passes += 1
        if self.passes in self.full:
            raise RuntimeError(self.error) if self.error else torch.OutOfMemoryError("full")
        return self.model(*args, **options)


@pytest.mark.parametrize("full", [[1], [3], [9], [4, 8, 13]])
def test_full_memory_loses_no_answer(model: Model, tokenizer: Tokenizer, full: list[int]) -> None:
    """Answers that had come to their end before memory was full are kept as they are."""
    end = prompt_ids(tokenizer, TASKS[0].messages)[0]  # drawn now and then: answers end at different times
    stops = {tokenizer.eos_token_id, *range(0, len(tokenizer), 9), end}

    def answers(model: Any) -> list[Request]:
        requests = [
            Request(prompt=prompt_ids(tokenizer, task.messages), adapter="default", seed=n, most=12)
            for n, task in enumerate(TASKS * 2)
        ]
        Local(model=model, stops=stops, temperature=1)(requests)
        return requests

    moved(model)
    calm = answers(model)
    assert len({len(one.tokens) for one in calm}) > 2 and {one.finish for one in calm} == {"stop", "length"}
    filling = Filling(model, full)
    for one, other in zip(calm, answers(filling), strict=True):
        assert (one.tokens, one.finish, one.end) == (other.tokens, other.finish, other.end)
    assert filling.passes > max(full)


def test_one_answer_that_memory_cannot_hold_is_an_error(model: Model, tokenizer: Tokenizer) -> None:
    request = Request(prompt=[5, 6], adapter="default", seed=0, most=4)
    with pytest.raises(torch.OutOfMemoryError):
        local(Filling(model, range(1, 99)), tokenizer)([request])


@pytest.mark.parametrize("training", [True, False])
def test_drawing_leaves_the_model_as_it_was_and_draws_without_dropout(
    model: Model, tokenizer: Tokenizer, training: bool
) -> None:
    moved(model).train(training)
    before = torch.random.get_rng_state()
    one, two = (prompts(tokenizer).draw(local(model, tokenizer), [(TASKS[0], 0)]) for _ in range(2))
    assert one == two, "dropout would tell them apart"
    assert model.training is training and torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="broken"):
        local(Filling(model, [1], "broken"), tokenizer)([Request(prompt=[1], seed=0, most=1)])
    assert model.training is training


# ── a server ─────────────────────────────────────────────────────────────────────────────────────────


class Vllm:
    """What TRL's `vllm_generation` gives: of each answer its tokens, what ended it included, and numbers for each."""

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self.answers = answers
        self.given: list[list[int]] = []

    def generate(self, *, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        assert num_generations == 1
        self.given = prompts
        numbers = [[[-0.5 - place] for place in range(len(answer))] for answer in self.answers]
        return prompts, self.answers, numbers, None


def test_answers_of_a_server_are_as_those_drawn_here() -> None:
    """Tokens, the one that ended it, and a number for each that was drawn; no more of them than were asked for."""
    answers = [[4, 5, 2], [4, 5, 6], (4, 5, 6, 7, 8, 2), [2], [4, 5, 3]]
    requests = [Request(prompt=(9, number), seed=number, most=most) for number, most in enumerate([8, 3, 4, 8, 3])]
    vllm = Vllm(answers)
    Served(trainer=SimpleNamespace(vllm_generation=vllm), stops={2, 3}, temperature=1)(requests)
    assert vllm.given == [[9, number] for number in range(5)]
    assert [one.tokens for one in requests] == [[4, 5], [4, 5, 6], [4, 5, 6, 7], [], [4, 5]]
    assert [one.finish for one in requests] == ["stop", "length", "length", "stop", "stop"]
    assert [one.end for one in requests] == [2, None, None, 2, 3]
    assert [drawn(one) for one in requests] == [[4, 5, 2], [4, 5, 6], [4, 5, 6, 7], [2], [4, 5, 3]]
    assert [one.log_probs for one in requests] == [[-0.5 - n for n in range(k)] for k in (3, 3, 4, 1, 3)]


def test_a_server_is_not_asked_for_nothing() -> None:
    Served(trainer=SimpleNamespace(), stops={2}, temperature=1)([])


# ── steps, as TRL takes them ─────────────────────────────────────────────────────────────────────────


@dataclass(kw_only=True)
class Made:
    """A practice that gives what it is told, and notes what is wanted."""

    of: Callable[[Any, int], Sequence[Sample]]
    each: int = 1

    def __post_init__(self) -> None:
        self.wanted: list[list[tuple[Any, int]]] = []

    def draw(self, speaker: Speaker, wanted: Sequence[tuple[Any, int]]) -> list[Sample]:
        self.wanted.append(list(wanted))
        return [sample for task, number in wanted for sample in self.of(task, number)]


def sample(
    tokenizer: Tokenizer, text: str, value: float | None, *, own: Sequence[int] | None = None, **more: Any
) -> Sample:
    prompt = prompt_ids(tokenizer, TASKS[0].messages)
    completion = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    return Sample(unit="topic", prompt=prompt, completion=completion, own=own, reward=earned(value), **more)


class Seen(Trainer):  # type: ignore[misc]
    """TRL's trainer, which notes the log-probabilities that it differentiates, and all that a step knows."""

    notes: list[tuple[Any, Any]]
    steps: list[dict[str, Any]]
    apart: Callable[[dict[str, Any]], None] | None = None

    def _get_per_token_logps_and_entropies(self, model: Any, ids: Any, *args: Any, **options: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(model, ids, *args, **options)
        if found[0].requires_grad:
            found[0].retain_grad()
            self.notes.append((ids, found[0]))
        return found

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        found = super()._generate_and_score_completions(inputs)
        self.steps.append(dict(found))
        if self.apart is not None:
            self.apart(found)
        return found


class Gradients(TrainerCallback):  # type: ignore[misc]
    """The adapter's gradient in each step, before it is applied."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        self.found.append({name.removeprefix("module."): grad for name, grad in grads.items()})


@dataclass(kw_only=True)
class Stepped:
    trainer: Seen
    gradients: list[dict[str, Any]]
    steps: Steps

    def gradient_of(self, one: Sample) -> Any:
        """Of the log-probability of each token of a sequence's completion, in the only step."""
        whole = [*one.prompt, *one.completion]
        for ids_BT, logps_BC in self.trainer.notes:
            for ids, gradient in zip(ids_BT.tolist(), logps_BC.grad, strict=True):
                start = next((n for n in range(len(ids)) if ids[n : n + len(whole)] == whole), None)
                if start is not None:
                    at = start + len(one.prompt) - (len(ids) - len(gradient))
                    rest = torch.cat([gradient[:at], gradient[at + len(one.completion) :]])
                    assert not rest.any(), "padding has no gradient"
                    return gradient[at : at + len(one.completion)]
        raise AssertionError("the sequence was not learnt from")


@pytest.fixture
def train(model: Model, tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Stepped]:
    def train(
        made: Practice,
        *,
        group: int,
        rows: int = 1,
        at_once: int | None = None,
        most: int = 1,
        tasks: Sequence[Any] = ("only",),
        apart: Callable[[dict[str, Any]], None] | None = None,
        first: Callable[[Model], object] = lambda model: None,
        **options: Any,
    ) -> Stepped:
        steps = Steps(practice=made, tasks=tasks, group=group, speaker=lambda trainer: local(model, tokenizer))
        size = group * made.each
        told: dict[str, Any] = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": at_once or size * rows,
            "gradient_accumulation_steps": size * rows // (at_once or size * rows),
            "num_generations": group,
            "max_completion_length": 64,
            "max_steps": most,
            "learning_rate": 1e-3,
            "max_grad_norm": 0,
            "beta": 0.0,
            "bf16": False,
            "gradient_checkpointing": False,
            "shuffle_dataset": False,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
        }
        Seen.notes, Seen.steps, Seen.apart = [], [], None if apart is None else staticmethod(apart)
        trainer = Seen(
            model=model,
            reward_funcs=steps.reward,
            rollout_func=steps.rollout,
            args=GRPOConfig(**told | options),
            train_dataset=Dataset.from_dict(
                {"prompt": [str(n % len(tasks)) for n in range(rows * most) for _ in range(made.each)]}
            ),
            processing_class=tokenizer,
        )
        seen = Gradients()
        trainer.add_callback(seen)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # so that gradients can be computed by hand
        first(model)
        trainer.train()
        return Stepped(trainer=trainer, gradients=seen.found, steps=steps)

    return train


def test_what_is_drawn_goes_by_group_and_by_step(train: Callable[..., Stepped], tokenizer: Tokenizer) -> None:
    """Two sequences of each draw, two draws of a task, two tasks a step, two steps; numbers never come again."""

    def of(task: str, number: int) -> list[Sample]:
        texts = [f"{TEXTS[number % 13]} {task} {number} {part}" for part in range(2)]
        return [sample(tokenizer, text, number / 8, texts=(text,)) for text in texts]

    made = Made(of=of, each=2)
    stepped = train(made, group=2, rows=2, most=2, tasks=["p", "q", "r", "s"])
    assert made.wanted == [
        [("p", 0), ("p", 1), ("q", 0), ("q", 1)],
        [("r", 2), ("r", 3), ("s", 2), ("s", 3)],
    ]
    (first, second) = stepped.trainer.steps
    for one, values in ((first, [0, 1 / 8]), (second, [2 / 8, 3 / 8])):  # first sequences together, then second ones
        assert one["advantages"].tolist() == pytest.approx(advantages(values) * 4, rel=1e-4)
    said = [tuple(one.texts) for one in stepped.steps.samples]
    assert [text[0][-5:] for text in said] == ["r 2 0", "r 3 0", "r 2 1", "r 3 1", "s 2 0", "s 3 0", "s 2 1", "s 3 1"]


def test_what_a_rollout_hands_over(tokenizer: Tokenizer) -> None:
    """TRL wants lists: of each prompt's sequence its tokens, who drew them, and their log-probabilities, or None."""
    heard = sample(tokenizer, TEXTS[0], 0.5)
    masked = replace(heard, own=[0, *[1] * (len(heard.completion) - 1)])
    given = {"0": [heard], "1": [masked]}
    steps = Steps(practice=Made(of=lambda task, _: given[task]), tasks=["0", "1"], group=2, speaker=lambda _: None)  # type: ignore[arg-type,return-value]
    trainer = SimpleNamespace(state=SimpleNamespace(global_step=3))
    found = steps.rollout(["1", "1", "0", "0"], trainer)
    assert found.keys() == {"prompt_ids", "completion_ids", "logprobs", "env_mask"} and found["logprobs"] is None
    assert found["completion_ids"] == [list(heard.completion)] * 4
    assert found["env_mask"] == [masked.own] * 2 + [[1] * len(heard.completion)] * 2
    assert "env_mask" not in steps.rollout(["0", "0"], trainer)
    given["0"] = [replace(heard, log_probs=[-1.0] * len(heard.completion))]
    steps.speaker = lambda trainer: Served(trainer=trainer, stops=(), temperature=1.0)
    places = len(heard.completion)
    assert steps.rollout(["0", "0", "1", "1"], trainer)["logprobs"] == [[-1.0] * places] * 2 + [[0.0] * places] * 2


def test_what_a_step_tells(tokenizer: Tokenizer) -> None:
    values = [0.25, None, 0.75, 0.5]
    scores = [1.0, None, 0.5, None]
    samples = [sample(tokenizer, TEXTS[0], v, score=s) for v, s in zip(values, scores, strict=True)]
    steps = Steps(practice=Made(of=lambda *_: []), tasks=[], group=2, speaker=lambda _: None, samples=samples)  # type: ignore[arg-type,return-value]
    told: dict[str, float] = {}
    assert steps.reward(told.__setitem__, prompts=["0"] * 4, completions=[""] * 4) == values
    assert told == {"train_format": 0.5, "unscored": 0.25, "dead_items": 0.0, "train_win_rate": 0.75}


def split(completion: Sequence[int], *lengths: int) -> list[int]:
    """Of so many tokens, by turns, own and heard."""
    mask = [1 - number % 2 for number, length in enumerate(lengths) for _ in range(length)]
    return [*mask, *[1] * (len(completion) - len(mask))]


def debates(tokenizer: Tokenizer, values: Sequence[float | None]) -> list[Sample]:
    """Long sequences behind a short prompt or a long one, own and heard tokens by turns."""
    texts = [f"{TEXTS[n]} {TEXTS[n + 3]} {' '.join(WORDS[: n + 1])}" for n in range(len(values))]
    bare = [sample(tokenizer, text, value) for text, value in zip(texts, values, strict=True)]
    asked_ = [prompt_ids(tokenizer, TASKS[-(n % 2)].messages) for n in range(len(bare))]
    return [
        replace(one, prompt=prompt, own=split(one.completion, 3 + n, 4, 2, 3 - n % 2))
        for n, (one, prompt) in enumerate(zip(bare, asked_, strict=True))
    ]


VALUES = [0.0, 1.0, 0.25, None]


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_what_was_heard_has_exactly_no_gradient(
    train: Callable[..., Stepped], tokenizer: Tokenizer, model: Model, beta: float
) -> None:
    """Nor has a debate without a reward, but for what holds the policy; what the policy said has."""
    samples = debates(tokenizer, VALUES)
    made = Made(of=lambda _, number: [samples[number]])
    stepped = train(made, group=4, beta=beta, at_once=2, first=moved)  # the reference stays where it was
    assert len(stepped.trainer.notes) == 2
    for one in samples:
        gradient, own = stepped.gradient_of(one), torch.tensor(one.own).bool()
        assert 0 < own.sum() < len(own) and not gradient[~own].any()
        if one.reward.value is None and not beta:
            assert not gradient.any()
        else:
            assert gradient[own].all() and gradient.isfinite().all()


def test_the_gradient_is_that_of_own_tokens_by_hand(
    train: Callable[..., Stepped], tokenizer: Tokenizer, model: Model
) -> None:
    """-A log p of each token that the policy drew, over their number: computed without TRL, one by one."""
    moved(model)
    samples = debates(tokenizer, VALUES)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len({len(one.prompt) for one in samples}) == 2 and len({len(one.completion) for one in samples}) == 4
    count = sum(sum(one.own or ()) for one in samples)
    loss = torch.zeros(())
    for one, advantage in zip(samples, advantages(VALUES), strict=True):
        ids = torch.tensor([[*one.prompt, *one.completion]])
        logits = model.eval()(input_ids=ids).logits[0, len(one.prompt) - 1 : -1].float()
        logps = logits.log_softmax(-1).gather(-1, ids[0, len(one.prompt) :, None])[:, 0]
        loss = loss - advantage * (logps * torch.tensor(one.own)).sum() / count
    hand = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    model.train()
    for at_once in (4, 1):
        (found,) = train(
            Made(of=lambda _, number: [samples[number]]), group=4, at_once=at_once, learning_rate=0.0
        ).gradients
        assert found.keys() == hand.keys() and any(grad.abs().max() > 1e-4 for grad in hand.values())
        for name, gradient in hand.items():
            torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_:FutureWarning")
@pytest.mark.parametrize(("beta", "recomputed"), [(0.0, False), (0.5, False), (0.5, True)])
def test_a_prompt_is_read_once_for_all_its_draws_and_the_gradient_stays(
    train: Callable[..., Stepped],
    tokenizer: Tokenizer,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    beta: float,
    recomputed: bool,
) -> None:
    """Two tasks of four draws, in two passes: TRL deals them out by chance, and reads a prompt for each draw, by the
    policy and, where it holds the policy, by the reference. What is recomputed is read by the reference alone.
    """
    asked = {name: prompt_ids(tokenizer, TASKS[n].messages) for n, name in enumerate("pq", start=2)}
    drawn_ = {
        (name, number): replace(sample(tokenizer, f"{TEXTS[number]} {name}", number % 3 / 2), prompt=prompt)
        for name, prompt in asked.items()
        for number in range(4)
    }
    read: list[tuple[int, int]] = []
    base = base_of(model).base_model
    watched = base.register_forward_pre_hook(
        lambda _, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )

    def stepped() -> Stepped:
        read.clear()
        if "ref" in model.peft_config:  # TRL's copy of the adapter
            model.delete_adapter("ref")
        made = Made(of=lambda name, number: [drawn_[name, number]])
        options = {"beta": beta, "first": moved, "learning_rate": 0.0, "gradient_checkpointing": recomputed}
        return train(made, group=4, rows=2, at_once=4, tasks=["p", "q"], **options)

    once = stepped().gradients[0]
    longest = {name: max(len(one.completion) for (of, _), one in drawn_.items() if of == name) for name in asked}
    shared = [shape for name, prompt in asked.items() for shape in ((1, len(prompt) - 1), (4, 1 + longest[name]))]
    alone = [(4, len(prompt) + longest[name]) for name, prompt in asked.items()]
    assert len(set(map(len, asked.values()))) == 2
    assert sorted(read) == sorted([*(alone if recomputed else shared), *(shared if beta else [])])
    monkeypatch.setattr(Trainer, "shares", False)
    again = stepped().gradients[0]
    whole = (4, max(map(len, asked.values())) + max(longest.values()))  # padded to the longest of all
    assert sorted(read) == sorted([*alone, *([whole] * 2 if beta else [])])
    assert again.keys() == once.keys() and any(gradient.abs().max() > 1e-4 for gradient in again.values())
    for name, gradient in again.items():
        torch.testing.assert_close(once[name], gradient, rtol=1e-3, atol=1e-6)
    watched.remove()


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_passes_are_dealt_anew_by_prompt_and_nothing_is_mixed_up(data: st.DataObject) -> None:
    """Every sequence is there once, with what belongs to it; those of a prompt are neighbours."""
    many, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    prompts_ = data.draw(
        st.lists(st.sampled_from([(1,), (1, 2), (2, 1), (3, 3, 3)]), min_size=many * size, max_size=many * size)
    )
    spoken = [data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)) for _ in prompts_]

    def passes() -> list[dict[str, Any]]:
        made = {
            "prompt_ids": [[0] * (3 - len(one)) + list(one) for one in prompts_],
            "prompt_mask": [[0] * (3 - len(one)) + [1] * len(one) for one in prompts_],
            "completion_ids": [one + [0] * (4 - len(one)) for one in spoken],
            "completion_mask": [[1] * len(one) + [0] * (4 - len(one)) for one in spoken],
            "advantages": list(range(len(prompts_))),
        }
        tensors = {name: torch.tensor(rows).split(size) for name, rows in made.items()}
        return [
            {name: rows[at] for name, rows in tensors.items()} | {"num_items_in_batch": torch.tensor(7)}
            for at in range(many)
        ]

    found = together(passes())
    assert [len(one["advantages"]) for one in found] == [size] * many
    assert all(one["num_items_in_batch"] == 7 for one in found)
    order = [int(at) for one in found for at in one["advantages"]]
    assert sorted(order) == list(range(len(prompts_)))
    told = [
        one
        for part in found
        for one in zip(*(of.tolist() for of in (part["prompt_ids"], part["completion_ids"])), strict=True)
    ]
    whole = [
        one
        for part in passes()
        for one in zip(*(of.tolist() for of in (part["prompt_ids"], part["completion_ids"])), strict=True)
    ]
    assert told == [whole[at] for at in order]
    seen = [prompts_[at] for at in order]
    assert sum(one != two for one, two in pairwise(seen)) == len(set(prompts_)) - 1


def test_what_was_heard_would_teach_nothing_whatever_it_were_worth(
    train: Callable[..., Stepped], tokenizer: Tokenizer, model: Model
) -> None:
    """Advantages of a million where opponents speak change no bit of the gradient; one of an own token does."""
    moved(model)
    samples = debates(tokenizer, VALUES)

    def worth(what: str) -> Callable[[dict[str, Any]], None]:
        def apart(step: dict[str, Any]) -> None:
            mask_BC = step["tool_mask"] * step["completion_mask"]
            advantage_BC = step["advantages"][:, None].expand(mask_BC.shape).clone()
            if what != "alike":
                advantage_BC[mask_BC == (what == "own")] += 1e6
            step["advantages"] = advantage_BC

        return apart

    found = {
        what: train(
            Made(of=lambda _, number: [samples[number]]), group=4, learning_rate=0.0, apart=worth(what)
        ).gradients[0]
        for what in ("alike", "heard", "own")
    }
    for name, gradient in found["alike"].items():
        assert torch.equal(gradient, found["heard"][name])
    assert any(not torch.equal(gradient, found["own"][name]) for name, gradient in found["alike"].items())


def test_none_reaches_trl_as_none(train: Callable[..., Stepped], tokenizer: Tokenizer, model: Model) -> None:
    """It moves no mean and has advantage 0; where nobody has a reward, no weight moves at all."""
    moved(model)
    values = [1.0, None, 0.0, 0.5]
    samples = debates(tokenizer, values)
    stepped = train(Made(of=lambda _, number: [samples[number]]), group=4)
    (step,) = stepped.trainer.steps
    assert step["advantages"].tolist() == pytest.approx([0.5 / 0.5001, 0, -0.5 / 0.5001, 0], rel=1e-4)
    assert stepped.trainer.state.log_history[0]["unscored"] == 0.25

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    nothing = debates(tokenizer, [None] * 4)
    train(Made(of=lambda _, number: [nothing[number]]), group=4)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("at_once", [4, 2])
def test_a_sequence_that_nobody_drew_teaches_nothing(
    train: Callable[..., Stepped], tokenizer: Tokenizer, model: Model, at_once: int
) -> None:
    """What stands for a turn that was not come to: gradients are those without it, and finite, in a pass of its own
    kind alone as well.
    """
    moved(model)
    end = [tokenizer.eos_token_id]
    nobody = Sample(unit="topic", prompt=end, completion=end, own=[0], reward=earned(None))
    samples = debates(tokenizer, [1.0, 0.0])
    alone = train(Made(of=lambda _, n: [samples[n]]), group=2, learning_rate=0.0).gradients[0]
    both = train(Made(of=lambda _, n: [samples[n], nobody], each=2), group=2, at_once=at_once, learning_rate=0.0)
    assert isfinite(both.trainer.state.log_history[0]["loss"])
    for name, gradient in alone.items():
        torch.testing.assert_close(both.gradients[0][name], gradient, rtol=2e-3, atol=1e-6)


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────


def check(
    practice: Practice, wanted: Sequence[tuple[Any, int]], memory: Path, speaker: Any = None, **more: Any
) -> HeldBack:
    return HeldBack(
        practice=practice,
        wanted=wanted,
        speaker=speaker or (lambda _: None),
        best=WEIGHED.scale * 2,
        won=more.pop("won", None),
        autocast=None,
        memory=memory,
    )


class Bare:
    """A policy without an adapter."""


def scripted(tokenizer: Tokenizer, values: Sequence[float | None], scores: Sequence[float | None]) -> Made:
    def of(task: int, _: int) -> list[Sample]:
        text = " ".join(WORDS[: 4 + task])
        one = sample(tokenizer, text, values[task], texts=(text,), score=scores[task])
        return [replace(one, unit=f"topic {task % 3}")]

    return Made(of=of)


def test_a_check_is_compared_with_the_first_one_ever(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Pair by pair, over those that have a reward both times; another process finds the first check on the disk."""
    memory, wanted = tmp_path / "before.json", [(number, 0) for number in range(6)]
    first = check(scripted(tokenizer, [0, 0.2, 0.4, None, 0.8, 1.0], [0, 1, 0.5, None, 0, 1]), wanted, memory)
    found = first(Bare())
    assert found["held_back_reward"] == pytest.approx((0 + 0.2 + 0.4 + 0.8 + 1) / 5 / 2)
    assert found["held_back_gain"] == 0 and found["held_back_unscored"] == pytest.approx(1 / 6)
    assert found["held_back_win_rate"] == 0.5 and found["held_back_win_gain"] == 0
    assert found["held_back_words"] == pytest.approx(4 + 15 / 6) and found["held_back_repetition"] == 0
    assert found["held_back_earned_format"] == pytest.approx(2.4 / 5) and found["held_back_kl"] == 0
    kept = memory.read_bytes()

    second = check(scripted(tokenizer, [0.5, None, 0.6, 0.9, 0.8, 0.8], [1, 1, 1, 1, None, 1]), wanted, memory)
    later = second(Bare())
    assert later["held_back_reward"] == pytest.approx((0.5 + 0.6 + 0.9 + 0.8 + 0.8) / 5 / 2)
    assert later["held_back_gain"] == pytest.approx((0.5 + 0.2 + 0 - 0.2) / 4 / 2)
    assert later["held_back_gain_low"] < later["held_back_gain"] < later["held_back_gain_high"]
    assert later["held_back_win_rate"] == 1 and later["held_back_win_gain"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert memory.read_bytes() == kept and json.loads(kept)["shares"][:2] == [0, 0.1]
    assert first(Bare())["held_back_gain"] == 0 and second.practice.wanted == [wanted]  # type: ignore[attr-defined]


def test_a_gain_that_nobody_knows_is_not_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    wanted = [(0, 0), (1, 0)]
    check(scripted(tokenizer, [None, 0.5], [None] * 2), wanted, tmp_path / "a")(Bare())
    found = check(scripted(tokenizer, [0.5, None], [None] * 2), wanted, tmp_path / "a")(Bare())
    assert "held_back_gain" not in found and found["held_back_reward"] == 0.25
    nothing = check(scripted(tokenizer, [None] * 2, [None] * 2), wanted, tmp_path / "b")(Bare())
    assert "held_back_reward" not in nothing and nothing["held_back_unscored"] == 1
    assert not any(name.startswith("held_back_win") for name in found | nothing)


def test_where_nobody_said_anything_no_speech_is_measured(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Opponents failed before the policy ever spoke: that is no speech of no words."""
    nobody = replace(sample(tokenizer, "", None), own=[0])
    found = check(Made(of=lambda *_: [nobody]), [(0, 0), (1, 0)], tmp_path / "before.json")(Bare())
    assert found == {"held_back_unscored": 1.0, "held_back_kl": 0.0}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.none() | st.floats(0, 1)] * 2, st.sampled_from("abc")), min_size=1, max_size=12))
def test_what_both_checks_share_cancels(rows: list[tuple[float | None, float | None, str]]) -> None:
    """To lift every reward of both checks alike changes no gain; to swap the checks turns it around."""
    after, before, units = zip(*rows, strict=True)
    _, gain = estimates(after, before, units)
    _, back = estimates(before, after, units)
    lifted = [[None if value is None else value + 0.25 for value in values] for values in (after, before)]
    _, same = estimates(lifted[0], lifted[1], units)
    if gain.value is None:
        assert same.value is back.value is None
    else:
        assert same.value == pytest.approx(gain.value, abs=1e-9) and back.value == pytest.approx(-gain.value, abs=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_a_check_disturbs_nothing(model: Model, tokenizer: Tokenizer, tmp_path: Path, training: bool) -> None:
    """Neither torch's luck, nor the model's mode or weights; and asked twice it answers the same."""
    moved(model).train(training)
    messages = TASKS[0].messages
    won = Tokens(
        prompts=[prompt_ids(tokenizer, messages)],
        speeches=[speech_ids(tokenizer, messages, text) for text in TEXTS[:2]],
        sequences=[(0, 0), (0, 1)],
        pairs=[],
    )
    before, weights = torch.random.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    asking = check(
        prompts(tokenizer),
        [(task, 0) for task in TASKS],
        tmp_path / "before.json",
        lambda model: local(model, tokenizer),
        won=won,
    )
    one, two = asking(model), asking(model)
    assert one == two and one["held_back_kl"] > 0 and one["perplexity"] > 1
    assert torch.equal(before, torch.random.get_rng_state()) and model.training is training
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(model.parameters(), weights, strict=True))
    assert model.active_adapter == "default" and not model.base_model.model.lm_head.weight.requires_grad
    assert all(p.requires_grad for name, p in model.named_parameters() if ".lora_" in name)


def test_drift_is_nothing_before_a_step_and_grows_with_the_adapter(model: Model, tokenizer: Tokenizer) -> None:
    samples = debates(tokenizer, [0.0, 1.0])
    assert drift(model, samples) == 0
    moved(model)
    near = drift(model, samples)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= 2
    assert 0 < near < drift(model, samples)


def test_drift_reads_own_tokens_alone(model: Model, tokenizer: Tokenizer) -> None:
    """By hand: the mean over the tokens that the policy drew of r - 1 - log r, r = reference / policy."""
    moved(model).eval()
    samples = debates(tokenizer, [0.0, 1.0])
    total, count = 0.0, 0
    for one in samples:
        ids = torch.tensor([[*one.prompt, *one.completion]])
        with torch.no_grad():
            policy = model(input_ids=ids).logits[0].log_softmax(-1)
            with model.disable_adapter():
                reference = model(input_ids=ids).logits[0].log_softmax(-1)
        for place, (token, own) in enumerate(zip(one.completion, one.own or (), strict=True)):
            if own:
                log_r = float(
                    reference[len(one.prompt) - 1 + place, token] - policy[len(one.prompt) - 1 + place, token]
                )
                total, count = total + torch.tensor(log_r).exp().item() - 1 - log_r, count + 1
    assert drift(model, samples) == pytest.approx(total / count, rel=1e-3)
    only = [replace(samples[0], own=[0] * len(samples[0].completion))]
    assert drift(model, only) == 0


def test_text_is_what_was_said_without_what_ends_it(tokenizer: Tokenizer) -> None:
    ids = tokenizer(TEXTS[0])["input_ids"]
    request = Request(prompt=[1], seed=0, most=99, tokens=[*ids, tokenizer.convert_tokens_to_ids(END)])
    assert text_of(tokenizer, request) == TEXTS[0]


def test_what_is_drawn_is_not_drawn_in_mixed_precision(model: Model, tokenizer: Tokenizer) -> None:
    """As `accelerate` wraps a model that is trained: the wrapper stays for the steps, and is not drawn through."""
    wanted = [(TASKS[0], 0)]
    bare = prompts(tokenizer).draw(local(model, tokenizer), wanted)
    original = model.forward

    def wrapped(*_: Any, **__: Any) -> None:
        raise AssertionError("drawn through the wrapper")

    model._original_forward, model.forward = original, wrapped
    assert prompts(tokenizer).draw(local(model, tokenizer), wanted) == bare
    assert model.forward is wrapped and model._original_forward == original
    del model.forward, model._original_forward
