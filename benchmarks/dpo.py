"""`python benchmarks/dpo.py`: what an epoch of DPO costs when pairs share texts, beside stock TRL on the same pairs.

The pairs have PERSUADE's shape: of every key some 3.2 chosen and 12.8 rejected speeches (26 losing ones of which
half, 5 winning ones of which most were there), all paired with each other, about 41 pairs a key. Speeches are random
words of 60 to 260 tokens behind a prompt of 60 tokens, then of 300. The model has the shape of the tiny base, with
random weights and LoRA on every linear layer; policy and reference are timed apart, after a first step that is not.

Each way is measured in a process of its own, one after the other, on the same threads and with the same settings of
the allocator. Stock TRL runs a random sample of the pairs, the others all of them; everything is told per 1,000
pairs. Seconds are of CPU, so that others on the machine count as little as possible: with one thread on an idle
machine they are the clock's. Tokens are those that pass through the model, padding included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}
"""A CPU otherwise spends a large part of its time on giving memory back and asking for it again."""
WAYS = ("stock", "keys", "blocks")
PROMPTS = (60, 300)
BATCH, BUDGET = 8, 16
"""Pairs of a stock batch, and the sequences that are in it: the budget of the others."""


def make_pairs(keys: int, prompt_tokens: int, tokenizer: Any, words: list[str]) -> Any:
    """A pair set of PERSUADE's shape."""
    from arena.models import prompt_ids
    from training.pair_set import PairSet

    draw = Random(7)
    one = len(tokenizer(" ".join(draw.choices(words, k=2_000)))["input_ids"]) / 2_000  # tokens of a word
    texts: dict[str, str] = {}
    prompts, pairs = [], []
    for number in range(keys):
        key = f"p{number}", f"topic-{number}", "for", 1
        asked: list[Any] = [{"role": "user", "content": " ".join(draw.choices(words, k=round(prompt_tokens / one)))}]
        while len(prompt_ids(tokenizer, asked)) > prompt_tokens:
            asked[0]["content"] = asked[0]["content"].rpartition(" ")[0]
        sides = []
        for tries, share in ((5, 0.64), (26, 0.49)):
            names = [f"t{len(texts) + n}" for n in range(max(1, sum(draw.random() < share for _ in range(tries))))]
            lengths = [min(260, max(60, draw.gauss(160, 45))) for _ in names]
            spoken = [" ".join(draw.choices(words, k=round(length / one))) for length in lengths]
            texts |= zip(names, spoken, strict=True)
            sides.append(names)
        prompts.append((*key, asked))
        pairs += [(*key, chosen, rejected) for chosen in sides[0] for rejected in sides[1]]
    about = ["prompt_id", "topic_id", "side", "turn"]
    return PairSet(
        run="run",
        context="key",
        texts=pl.DataFrame({"text_id": list(texts), "text": list(texts.values())}),
        prompts=pl.DataFrame(prompts, schema=[*about, "messages"], orient="row"),
        pairs=pl.DataFrame(pairs, schema=[*about, "chosen_text_id", "rejected_text_id"], orient="row"),
        judge="none",
        chosen=["any"],
        counts={},
    )


def rows_for_stock(pair_set: Any, sample: int) -> Any:
    """A random sample of the pairs as TRL reads them."""
    from datasets import Dataset

    from arena.models import TEMPLATE

    prompt = dict(pair_set.prompts.select("prompt_id", "messages").iter_rows())
    text = dict(pair_set.texts.iter_rows())
    named = pair_set.pairs.select("prompt_id", "chosen_text_id", "rejected_text_id").rows()
    chosen = Random(1).sample(named, min(sample, len(named)))
    replies = [[[{"role": "assistant", "content": text[t]}] for t in pair[1:]] for pair in chosen]
    return Dataset.from_list(
        [
            {"prompt": prompt[pair[0]], "chosen": c, "rejected": r, "chat_template_kwargs": TEMPLATE}
            for pair, (c, r) in zip(chosen, replies, strict=True)
        ]
    )


class Meter:
    """Seconds and tokens of a model, from `start` to `stop`."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, _: Any, inputs: Any, __: Any) -> None:
        self.tokens += inputs[0].numel()

    def start(self) -> None:
        self.tokens, self.began = 0, time.process_time()

    def stop(self) -> None:
        self.cost = {"seconds": time.process_time() - self.began, "tokens": self.tokens}


def timed(trainer: Any, meter: Meter) -> dict[str, float]:
    """What training costs from the end of its first step on."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.start() if state.global_step == 1 else meter.stop()

    trainer.add_callback(Clock())
    trainer.train()
    return meter.cost


def settings(out: Path, bf16: bool) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "use_cpu": True,
        "bf16": bf16,
        "gradient_checkpointing": False,
        "learning_rate": 1e-4,
        "beta": 0.1,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1_000,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def measure_stock(model: Any, tokenizer: Any, pair_set: Any, sample: int, options: dict[str, Any]) -> dict[str, Any]:
    """TRL's trainer with its own precomputed reference."""
    from trl import DPOConfig, DPOTrainer

    meter = Meter(model)
    reference = {"seconds": 0.0, "tokens": 0, "pairs": 0}

    class Timed(DPOTrainer):
        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            meter.start()
            values = super().compute_ref_log_probs(model, inputs)
            meter.stop()
            if len(values[0]) == BATCH:
                for name, cost in {**meter.cost, "pairs": BATCH}.items():
                    reference[name] += cost
            return values

    args = DPOConfig(
        per_device_train_batch_size=BATCH,
        precompute_ref_log_probs=True,
        max_length=None,
        num_train_epochs=1,
        **options,
    )
    rows = rows_for_stock(pair_set, sample // BATCH * BATCH)
    trainer = Timed(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    policy = timed(trainer, meter)
    return {"reference": reference, "policy": {**policy, "pairs": len(rows) - BATCH}}


def measure_ours(
    way: Any, model: Any, tokenizer: Any, pair_set: Any, out: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Pairs that share sequences: reference once a sequence, then a plan."""
    import torch

    from training.batches import plan
    from training.preference import PreferenceTrainer
    from training.preference import settings as preference
    from training.reference import log_probs, score
    from training.tokens import tokenise

    meter = Meter(model)
    tokens = tokenise(pair_set, tokenizer)
    autocast = torch.bfloat16 if options["bf16"] else None
    score(model, tokens, range(BUDGET), autocast=autocast)  # the first of its kind is slower
    meter.start()
    values = log_probs(model, tokens, cache=out / "cache", model_digest="bench", autocast=autocast)
    meter.stop()
    reference = {**meter.cost, "pairs": len(tokens.pairs)}
    batches = plan(tokens, batching=way, budget=BUDGET, per_step=1)
    trainer = PreferenceTrainer(
        model, preference(**options), tokens=tokens, reference=values, plan=batches, tokenizer=tokenizer
    )
    policy = timed(trainer, meter)
    return {"reference": reference, "policy": {**policy, "pairs": len(tokens.pairs) - len(batches[0].chosen)}}


def measure(way: str, prompt_tokens: int, keys: int, sample: int, threads: int, bf16: bool, out: Path) -> None:
    """Measure one way in this process, and print what it cost as JSON."""
    import torch
    from peft import LoraConfig, get_peft_model

    import topics
    from arena.models import load_model, load_tokenizer
    from training import tiny

    torch.set_num_threads(threads)
    motions = [topic.motion for topic in topics.load("train")]
    base = str(tiny.build(motions, out / "base", seed=1))
    tokenizer = load_tokenizer(base)
    words = sorted({word for motion in motions for word in motion.split()})
    pair_set = make_pairs(keys, prompt_tokens, tokenizer, words)
    torch.manual_seed(1)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(base), lora)
    options = settings(out, bf16)
    if way == "stock":
        cost = measure_stock(model, tokenizer, pair_set, sample, options)
    else:
        cost = measure_ours(way, model, tokenizer, pair_set, out, options)
    print("\n" + json.dumps(cost))


def per_1000(cost: dict[str, float], name: str) -> float:
    return cost[name] / cost["pairs"] * 1_000


def show(costs: dict[str, dict[str, Any]], prompt_tokens: int, keys: int, bf16: bool) -> None:
    """The table of one prompt length."""
    pairs = {way: cost["reference"]["pairs"] for way, cost in costs.items()}
    about = f"{keys} keys, {pairs['keys']:,} pairs; stock on {pairs['stock']:,} of them"
    precision = "bfloat16 autocast" if bf16 else "float32"
    print(f"\nprompts of {prompt_tokens} tokens, {about}; {precision}; for 1,000 pairs\n")
    print("| way | reference s | policy s | together s | reference k | policy k | reference | policy | together |")
    print("|---|---|---|---|---|---|---|---|---|")
    seconds = {}
    for way, cost in costs.items():
        seconds[way] = [per_1000(cost[part], "seconds") for part in ("reference", "policy")]
        seconds[way].append(sum(seconds[way]))
        tokens = [per_1000(cost[part], "tokens") / 1_000 for part in ("reference", "policy")]
        ratios = [stock / here for stock, here in zip(seconds["stock"], seconds[way], strict=True)]
        cells = [f"{s:.1f}" for s in seconds[way]] + [f"{t:.0f}" for t in tokens] + [f"{r:.1f}x" for r in ratios]
        print(f"| {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pairs, to see that it runs")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast on both sides")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    keys, sample = (4, 3 * BATCH) if given.quick else (25, 24 * BATCH)
    if given.measure:
        way, prompt_tokens, threads, out = given.measure
        measure(way, int(prompt_tokens), keys, sample, int(threads), given.bf16, Path(out))
        return
    environment = os.environ | MALLOC | {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1"}
    passed = [flag for flag in ("--quick", "--bf16") if flag in sys.argv]
    for prompt_tokens in PROMPTS:
        costs = {}
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                run = [way, str(prompt_tokens), str(given.threads), folder]
                arguments = [sys.executable, __file__, *passed, "--measure", *run]
                printed = subprocess.run(
                    arguments, stdout=subprocess.PIPE, check=True, text=True, env=environment
                ).stdout
            costs[way] = json.loads(printed.splitlines()[-1])
        show(costs, prompt_tokens, keys, given.bf16)


if __name__ == "__main__":
    main()
