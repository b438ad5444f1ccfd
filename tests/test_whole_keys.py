"""Whole keys are exact: loss and gradient of pairs that share sequences are those of stock TRL, pair by pair.

Everything runs on a small real Qwen3 in float32. The policy differs from the reference, so that every pair weighs
differently, and one test breaks weights and references to see that the comparison would notice.
"""

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

torch = pytest.importorskip("torch")
from datasets import Dataset  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import DPOConfig, DPOTrainer  # noqa: E402

from arena import models  # noqa: E402
from training import preference, tiny  # noqa: E402
from training import reference as cached  # noqa: E402
from training.batches import MicroBatch, plan  # noqa: E402
from training.pair_set import PairSet  # noqa: E402
from training.preference import PreferenceTrainer, dealt, evaluate, settings  # noqa: E402
from training.reference import base_of, log_probs, score  # noqa: E402
from training.tokens import Tokens, tokenise  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true:UserWarning"),
]

BETA = 0.3
CLOSE = 1e-5
"""Largest relative difference between what must be the same."""
TEXT = "the motion fails because homes cost more and fewer people would then find work near where they live"
WORDS = TEXT.split()

Gradients = dict[str, torch.Tensor]
Key = tuple[int, int, float, int]
"""Of a key: chosen texts, rejected texts, share of their pairs that is there, texts that are on both sides."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, a good deal tinier."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"VOCABULARY": 400, "HIDDEN": 64, "LAYERS": 2, "HEADS": 2, "HEAD": 32}.items():
            patch.setattr(tiny, name, value)
        patch.setattr(tiny, "KEY_VALUE_HEADS", 1)
        return tiny.build(WORDS, tmp_path_factory.mktemp("base"), seed=1)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return models.load_tokenizer(str(base))


def make_pairs(*keys: Key, seed: int = 0) -> PairSet:
    """A pair set of random texts."""
    draw = Random(seed)
    texts: dict[str, str] = {}
    prompts, pairs = [], []
    for number, (chosen, rejected, share, both) in enumerate(keys):
        key = f"p{number}", f"topic-{number}", "for", 1
        words = " ".join(draw.choices(WORDS, k=draw.randint(4, 12)))
        asked = [{"role": "system", "content": f"You argue: {words}."}, {"role": "user", "content": "Speak."}]
        prompts.append((*key, asked))
        names = [f"t{len(texts) + n}" for n in range(chosen + rejected - both)]
        texts |= {name: f"{name} " + " ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for name in names}
        product = [(c, r) for c in names[:chosen] for r in names[chosen - both :] if c != r]
        pairs += [(*key, *pair) for pair in draw.sample(product, max(1, round(share * len(product))))]
    roles = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
    about = {"prompt_id": pl.String, "topic_id": pl.String, "side": pl.String, "turn": pl.Int32}
    ids = {"chosen_text_id": pl.String, "rejected_text_id": pl.String}
    return PairSet(
        run="run",
        context="key",
        texts=pl.DataFrame({"text_id": list(texts), "text": list(texts.values())}),
        prompts=pl.DataFrame(prompts, schema=about | {"messages": roles}, orient="row"),
        pairs=pl.DataFrame(pairs, schema=about | ids, orient="row"),
        judge="rules",
        chosen=["any"],
        counts={},
    )


def stock_rows(pair_set: PairSet, pairs: Sequence[int]) -> Dataset:
    """The same pairs as TRL reads them."""
    prompt = dict(pair_set.prompts.select("prompt_id", "messages").iter_rows())
    text = dict(pair_set.texts.iter_rows())

    def reply(text_id: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text[text_id]}]

    named = pair_set.pairs.select("prompt_id", "chosen_text_id", "rejected_text_id").rows()
    return Dataset.from_list(
        [
            {
                "prompt": prompt[named[pair][0]],
                "chosen": reply(named[pair][1]),
                "rejected": reply(named[pair][2]),
                "chat_template_kwargs": models.TEMPLATE,
            }
            for pair in pairs
        ]
    )


def adapted(base: Path, *, four_bit: bool = False, dropout: float = 0.0) -> PeftModel:
    """A policy to begin with: an adapter that already says something."""
    torch.manual_seed(5)
    model = models.load_model(str(base), four_bit=four_bit)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return moved(get_peft_model(model, lora), 0.02)


def moved(model: PeftModel, by: float) -> PeftModel:
    """The same policy elsewhere."""
    generator = torch.Generator().manual_seed(9)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:
            parameter.data += by * torch.randn(parameter.shape, generator=generator)
    return model


class Steps(TrainerCallback):
    """Keeps the gradient of every step, and the loss where `training_step` is wrapped."""

    def __init__(self) -> None:
        self.gradients: list[Gradients] = []
        self.losses: list[float] = [0.0]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.gradients.append({name: p.grad.detach().double().clone() for name, p in named.items()})
        self.losses.append(0.0)

    def of(self, trainer: DPOTrainer) -> list[tuple[float, Gradients]]:
        """Train, and return loss and gradient of each step."""
        one = trainer.training_step

        def kept(*arguments: Any, **named: Any) -> Any:
            loss = one(*arguments, **named)
            self.losses[-1] += float(loss)
            return loss

        trainer.training_step = kept
        trainer.add_callback(self)
        trainer.train()
        return list(zip(self.losses, self.gradients, strict=False))


COMMON: dict[str, Any] = {
    "beta": BETA,
    "learning_rate": 0.0,  # every step starts from the same weights
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def stock_steps(
    base: Path, tokenizer: Any, out: Path, pair_set: PairSet, steps: list[list[int]], four_bit: bool, **loss: Any
) -> list[tuple[float, Gradients]]:
    """Loss and gradient of stock TRL on each step's pairs, one pair at a time."""
    found = []
    for pairs in steps:
        args = DPOConfig(
            output_dir=str(out),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=len(pairs),
            max_length=None,
            num_train_epochs=1,
            **COMMON | loss,
        )
        rows = stock_rows(pair_set, pairs)
        model = adapted(base, four_bit=four_bit)
        trainer = DPOTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if four_bit:  # TRL has rounded policy and reference alike, and would compare itself with the rounded one
            exact = dict(adapted(base, four_bit=True).named_parameters())
            for name, parameter in trainer.model.named_parameters():
                if "lora_" in name:
                    parameter.data = exact[name.replace(".ref.", ".default.")].data.clone()
        moved(trainer.model, 0.05)
        found += Steps().of(trainer)
    return found


def our_trainer(
    base: Path,
    tokenizer: Any,
    out: Path,
    tokens: Tokens,
    batches: list[MicroBatch],
    *,
    per_step: int,
    four_bit: bool = False,
    dropout: float = 0.0,
    shared_prompt: int | None = None,
    reference: Callable[[list[float]], list[float]] = list,
    **loss: Any,
) -> PreferenceTrainer:
    model = adapted(base, four_bit=four_bit, dropout=dropout)
    values = reference(score(model, tokens, range(len(tokens.sequences))))
    trainer = PreferenceTrainer(
        model,
        settings(output_dir=str(out), gradient_accumulation_steps=per_step, **COMMON | loss),
        tokens=tokens,
        reference=values,
        plan=batches,
        tokenizer=tokenizer,
        shared_prompt=shared_prompt,
    )
    moved(trainer.model, 0.05)
    return trainer


def pairs_of(tokens: Tokens, batches: Sequence[MicroBatch]) -> list[int]:
    """The pairs of some micro-batches, as numbers."""
    number = {pair: at for at, pair in enumerate(tokens.pairs)}
    sides = [(b.sequences[c], b.sequences[r]) for b in batches for c, r in zip(b.chosen, b.rejected, strict=True)]
    return [number[pair] for pair in sides]


def difference(ours: tuple[float, Gradients], stock: tuple[float, Gradients]) -> float:
    """The largest relative difference: of the loss, or of the gradient of all parameters together."""
    assert ours[1].keys() == stock[1].keys() and len(ours[1]) > 10
    here, there = (torch.cat([gradient.flatten() for gradient in one[1].values()]) for one in (ours, stock))
    return max(abs(ours[0] - stock[0]) / abs(stock[0]), float((here - there).norm() / there.norm()))


FULL: Key = (3, 4, 1.0, 0)
INCOMPLETE: Key = (3, 5, 0.6, 0)
BOTH: Key = (3, 3, 1.0, 2)

ONCE: dict[str, Any] = {"shared_prompt": 2}
PARTS: dict[str, Any] = {"pass_tokens": 1}
THREE: dict[str, Any] = {"budget": 5, "per_step": 3, "one_prompt": True}
NORMALISED: dict[str, Any] = {"loss_type": ["sigmoid_norm"]}
TWO_LOSSES: dict[str, Any] = {"loss_type": ["ipo", "hinge"], "loss_weights": [0.7, 0.3]}
QLORA: dict[str, Any] = {"four_bit": True}

CASES: dict[str, tuple[list[Key], dict[str, Any], dict[str, Any]]] = {
    # keys, the plan, and how it is run
    "sigmoid": ([FULL, (1, 3, 1.0, 0)], {}, {}),
    "sigmoid, prompt once": ([FULL, (1, 3, 1.0, 0)], {}, ONCE),
    "sigmoid, in parts": ([FULL, (1, 3, 1.0, 0)], {}, PARTS),
    "length-normalised": ([FULL], {}, NORMALISED),
    "length-normalised, prompt once, in parts": ([FULL], {}, NORMALISED | ONCE | PARTS),
    "ipo and hinge": ([FULL], {}, TWO_LOSSES),
    "incomplete keys, prompt once": ([INCOMPLETE, INCOMPLETE], {"batching": "blocks"}, ONCE),
    "texts on both sides, prompt once": ([BOTH, FULL], {}, ONCE),
    "several keys at once, prompt once, in parts": ([FULL, BOTH, (2, 2, 1.0, 0)], {"budget": 16}, ONCE | PARTS),
    "accumulation": ([FULL, (1, 2, 1.0, 0), BOTH], THREE, {}),
    "accumulation, prompt once": ([FULL, (1, 2, 1.0, 0), BOTH], THREE, ONCE),
    "stock batches": ([INCOMPLETE], {"budget": 4, "per_step": 3, "batching": "stock"}, {}),
    "4-bit base": ([FULL, BOTH, FULL], {"per_step": 2}, QLORA),
    "4-bit base, prompt once, in parts": ([FULL, BOTH, FULL], {"per_step": 2}, QLORA | ONCE | PARTS),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_stock_trl(
    case: str, base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, how, run = CASES[case]
    run = dict(run)
    monkeypatch.setattr(preference, "PASS_TOKENS", {True: run.pop("pass_tokens", 10_000)})
    pair_set = make_pairs(*keys)
    tokens = tokenise(pair_set, tokenizer)
    how = {"batching": "keys", "budget": 8, "per_step": 1} | how
    batches = plan(tokens, seed=3, **how)
    steps = [batches[start : start + how["per_step"]] for start in range(0, len(batches), how["per_step"])]
    if how["per_step"] > 1:
        assert len(steps) > 1 and len(steps[-1]) < how["per_step"], "an incomplete last step is among the cases"
        assert len({len(batch.chosen) for batch in batches}) > 1, "and micro-batches of different sizes"
    trainer = our_trainer(base, tokenizer, tmp_path, tokens, batches, per_step=how["per_step"], **run)
    collated = [trainer.data_collator([batch]) for batch in batches]
    assert any("prompt_ids" in one for one in collated) == ("prompt once" in case)
    assert any(len(one["parts"]) > 1 for one in collated) == ("in parts" in case)
    ours = Steps().of(trainer)
    loss = {name: value for name, value in run.items() if name.startswith("loss")}
    pairs = [pairs_of(tokens, step) for step in steps]
    stock = stock_steps(base, tokenizer, tmp_path, pair_set, pairs, run.get("four_bit", False), **loss)
    assert len(ours) == len(stock) == len(steps)
    assert max(map(difference, ours, stock)) < CLOSE


def test_the_comparison_fails_where_weights_or_references_are_wrong(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    pair_set = make_pairs(FULL, (1, 2, 1.0, 0))
    tokens = tokenise(pair_set, tokenizer)
    batches = plan(tokens, batching="keys", budget=8, per_step=2, one_prompt=True)
    assert len({len(batch.chosen) for batch in batches}) == 2
    (stock,) = stock_steps(base, tokenizer, tmp_path, pair_set, [pairs_of(tokens, batches)], False)

    def off(batches: list[MicroBatch], **broken: Any) -> float:
        trainer = our_trainer(base, tokenizer, tmp_path, tokens, batches, per_step=2, **broken)
        return difference(Steps().of(trainer)[0], stock)

    assert off(batches) < CLOSE
    assert off([dataclasses.replace(batch, weight=1.0) for batch in batches]) > 1_000 * CLOSE
    twice = [
        dataclasses.replace(b, chosen=(*b.chosen, b.chosen[0]), rejected=(*b.rejected, b.rejected[0])) for b in batches
    ]
    assert off(twice) > 1_000 * CLOSE
    swapped = [dataclasses.replace(batch, chosen=batch.rejected, rejected=batch.chosen) for batch in batches]
    assert off(swapped) > 1_000 * CLOSE
    assert off(batches, reference=lambda values: [values[0] + 1, *values[1:]]) > 1_000 * CLOSE
    assert off(batches, reference=lambda values: [*values[1:], values[0]]) > 1_000 * CLOSE


@pytest.mark.parametrize("four_bit", [False, True])
def test_reference_values_are_those_of_stock_trl(four_bit: bool, base: Path, tokenizer: Any, tmp_path: Path) -> None:
    pair_set = make_pairs(FULL, INCOMPLETE, BOTH)
    tokens = tokenise(pair_set, tokenizer)
    model = adapted(base, four_bit=four_bit)
    exact = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    values = log_probs(model, tokens, cache=tmp_path / "cache", model_digest="m", batch_tokens=200)
    rows = stock_rows(pair_set, range(len(tokens.pairs)))
    args = DPOConfig(output_dir=str(tmp_path), max_length=None, per_device_train_batch_size=1, **COMMON)
    trainer = DPOTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    for name, parameter in trainer.model.named_parameters():  # undo its rounding under a 4-bit base
        parameter.data = exact[name.replace(".ref.", ".default.")].data
    for row, (chosen, rejected) in zip(trainer.train_dataset, tokens.pairs, strict=True):
        speech = tokens.speeches[tokens.sequences[chosen][1]]
        assert row["chosen_ids"] == list(speech), "and tokens are those of stock TRL"
        stock = trainer.compute_ref_log_probs(trainer.model, trainer.data_collator([row]))
        assert [values[chosen], values[rejected]] == pytest.approx([float(one) for one in stock], rel=CLOSE)
    prompt, speech_at = tokens.sequences[0]
    played = models.log_probs(model, list(tokens.prompts[prompt]), list(tokens.speeches[speech_at]))
    assert values[0] == pytest.approx(float(played.sum()), rel=CLOSE), "and what play says of the same tokens"


def scored(monkeypatch: pytest.MonkeyPatch, until: int | None = None) -> list[int]:
    """The sequences that the reference is asked for from now on; killed in the part after `until` parts."""
    asked: list[int] = []
    parts = 0

    def counted(model: Any, tokens: Tokens, sequences: Sequence[int], **options: Any) -> list[float]:
        nonlocal parts
        if until is not None and parts == until:
            raise KeyboardInterrupt
        parts += bool(sequences)
        asked.extend(sequences)
        return score(model, tokens, sequences, **options)

    monkeypatch.setattr(cached, "score", counted)
    return asked


def test_the_cache_asks_only_for_what_is_missing(
    base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "PART", 3)
    model = adapted(base)
    few, more = (tokenise(make_pairs(*keys), tokenizer) for keys in ([FULL], [FULL, INCOMPLETE]))
    store = {"cache": tmp_path / "cache", "model_digest": "m"}
    asked = scored(monkeypatch, until=1)
    with pytest.raises(KeyboardInterrupt):
        log_probs(model, few, **store)
    assert len(asked) == 3, "killed in its second part"
    asked = scored(monkeypatch)
    heard: list[tuple[int, int]] = []
    values = log_probs(model, few, progress=lambda done, total: heard.append((done, total)), **store)
    assert len(asked) == 4 and heard == [(3, 4), (4, 4)], "the seven sequences but for the part that was whole"
    asked = scored(monkeypatch)
    assert log_probs(model, few, **store) == values and asked == []
    assert log_probs(model, more, **store)[: len(values)] == pytest.approx(values)
    assert len(asked) == len(more.sequences) - len(few.sequences)
    asked.clear()
    for other in ({"model_digest": "another"}, {"autocast": torch.bfloat16}):
        log_probs(model, few, **store | other)
        assert len(asked) == len(few.sequences)
        asked.clear()


def test_a_damaged_part_is_told_and_computed_again(
    base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cached, "PART", 3)
    model, tokens = adapted(base), tokenise(make_pairs(FULL), tokenizer)
    values = log_probs(model, tokens, cache=tmp_path, model_digest="m")
    parts = sorted(tmp_path.glob("*/*.parquet"), key=lambda part: pl.read_parquet(part).height)
    assert [pl.read_parquet(part).height for part in parts] == [1, 3, 3]
    whole = parts[-1].read_bytes()
    broken = {"cut": whole[:-9], "empty": b"", "changed": whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]}
    for contents in broken.values():
        for part in tmp_path.glob("*/*.parquet"):  # the ones written in the rounds before
            if part not in parts:
                part.unlink()
        parts[-1].write_bytes(contents)
        asked = scored(monkeypatch)
        assert log_probs(model, tokens, cache=tmp_path, model_digest="m") == pytest.approx(values, rel=CLOSE)
        assert len(asked) == 3
        assert f"note: {parts[-1]} is damaged" in capsys.readouterr().err


def weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("four_bit", [False, True])
def test_a_run_goes_on_from_a_checkpoint_as_if_undisturbed(
    four_bit: bool, base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    tokens = tokenise(make_pairs(FULL, INCOMPLETE, BOTH), tokenizer)
    batches = plan(tokens, batching="blocks", budget=5, per_step=2, epochs=1.5, seed=4, one_prompt=True)
    how: dict[str, Any] = {"learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    how |= {"dropout": 0.05, "disable_dropout": False, "shared_prompt": 2}

    def made(out: str) -> PreferenceTrainer:
        return our_trainer(base, tokenizer, tmp_path / out, tokens, batches, per_step=2, four_bit=four_bit, **how)

    first = made("a")
    before = weights(first.model)
    assert {value.dtype for value in before.values()} == {torch.float32}
    first.train()
    assert first.state.global_step == -(-len(batches) // 2) > 3
    after = weights(first.model)
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert not any(torch.equal(before[name], after[name]) for name in before)
    second = made("b")  # not earlier: the seed is set when a trainer is made
    second.train()
    assert_same(after, weights(second.model))
    third = made("c")
    third.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert_same(after, weights(third.model))
    assert not (tmp_path / "a" / "checkpoint-2" / "ref").exists()


def test_evaluation_is_the_formula_and_leaves_the_model_alone(base: Path, tokenizer: Any) -> None:
    tokens = tokenise(make_pairs(FULL, BOTH), tokenizer)
    model = adapted(base)
    reference = score(model, tokens, range(len(tokens.sequences)))
    same = evaluate(model, tokens, reference, BETA)
    assert same["accuracy"] == 0 and same["margin"] == 0 and same["loss"] == pytest.approx(0.693147, rel=1e-5)
    moved(model, 0.05).train()
    found = evaluate(model, tokens, reference, BETA)
    assert model.training and "forward" not in vars(base_of(model))
    nats = []
    for prompt, speech in tokens.sequences:
        nats.append(float(models.log_probs(model, list(tokens.prompts[prompt]), list(tokens.speeches[speech])).sum()))
    gain = [now - then for now, then in zip(nats, reference, strict=True)]
    margins = torch.tensor([gain[chosen] - gain[rejected] for chosen, rejected in tokens.pairs])
    assert found["correct"] == (margins > 0).tolist()
    assert 0 < found["accuracy"] == sum(found["correct"]) / len(margins) < 1
    assert found["margin"] == pytest.approx(float(margins.mean()), rel=1e-3)
    assert found["loss"] == pytest.approx(float(-torch.nn.functional.logsigmoid(BETA * margins).mean()), rel=1e-4)
    liked = {chosen for chosen, _ in tokens.pairs}
    count = sum(len(tokens.speeches[tokens.sequences[at][1]]) for at in liked)
    assert found["perplexity"] == pytest.approx(math.exp(-sum(nats[at] for at in liked) / count), rel=1e-4)


def test_what_a_plan_takes_over_and_another_plan_are_refused(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_train_epochs"):
        settings(output_dir=str(tmp_path), num_train_epochs=3)
    tokens = tokenise(make_pairs(FULL, (1, 2, 1.0, 0)), tokenizer)
    batches = plan(tokens, batching="keys", budget=8, per_step=2, one_prompt=True)
    with pytest.raises(ValueError, match="per_step"):
        our_trainer(base, tokenizer, tmp_path, tokens, batches, per_step=1)
    with pytest.raises(ValueError, match="PeftModel"):
        PreferenceTrainer(
            models.load_model(str(base)),
            settings(output_dir=str(tmp_path), **COMMON),
            tokens=tokens,
            reference=[],
            plan=batches,
            tokenizer=tokenizer,
        )


def test_an_incomplete_last_turn_of_the_processes_is_filled_with_nothing() -> None:
    batches = [MicroBatch(sequences=(0, 1), chosen=(0,), rejected=(1,)) for _ in range(7)]
    assert dealt(batches, 2, 1) == batches
    filled = dealt(batches, 1, 4)
    assert [batch.weight for batch in filled] == [1, 1, 1, 1, *[pytest.approx(4 / 3)] * 3, 0]


TWO: list[Key] = [FULL, INCOMPLETE, (1, 2, 1.0, 0), FULL]


def trained_in(processes: int, base: Path, out: Path) -> dict[str, torch.Tensor]:
    """The weights after a run in which so many processes take part, this one among them."""
    torch.set_num_threads(1)
    tokenizer = models.load_tokenizer(str(base))
    tokens = tokenise(make_pairs(*TWO), tokenizer)
    model = adapted(base)
    values = log_probs(model, tokens, cache=out / "cache", model_digest="m")
    batches = plan(tokens, batching="keys", budget=6, per_step=4, one_prompt=True, seed=2)
    assert len(batches) % 4 == 3, "the last step is incomplete, and one process gets less of it"
    several: dict[str, Any] = {"ddp_backend": "gloo"} if processes > 1 else {}
    args = settings(
        output_dir=str(out),
        gradient_accumulation_steps=4 // processes,
        **COMMON | several | {"learning_rate": 1e-2, "optim": "sgd"},
    )
    trainer = PreferenceTrainer(
        model, args, tokens=tokens, reference=values, plan=batches, tokenizer=tokenizer, shared_prompt=2
    )
    assert trainer.accelerator.num_processes == processes
    trainer.train()
    return weights(trainer.model)


@pytest.mark.slow
def test_two_processes_are_one(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference, "PASS_TOKENS", {True: 1})
    alone = trained_in(1, base, tmp_path / "one")
    before = weights(adapted(base))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    out = tmp_path / "two"
    with subprocess.Popen([*command, str(base), str(out)], env=environment, stderr=subprocess.PIPE) as started:
        try:
            _, printed = started.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            started.terminate()  # and not kill, which would leave the two behind
            raise
    assert started.returncode == 0, printed.decode()
    together = torch.load(out / "weights.pt")
    for name, there in alone.items():
        assert not torch.equal(there, before[name])
        assert torch.allclose(together[name] - before[name], there - before[name], rtol=1e-3, atol=1e-6)


if __name__ == "__main__":  # one of two processes
    preference.PASS_TOKENS = {True: 1}
    found = trained_in(2, Path(sys.argv[1]), Path(sys.argv[2]))
    if os.environ["RANK"] == "0":
        torch.save(found, Path(sys.argv[2]) / "weights.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # or a thread of it may outlive the process, and abort it
