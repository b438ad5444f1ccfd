"""`python benchmarks/grpo.py`: what a GRPO step's learning costs where a prompt is read once, beside stock TRL.

Groups of 8 completions of 20 to 80 tokens behind prompts of 60, 200 and 600 tokens, 16 groups a step, a group to a
pass; nothing is drawn, the tokens are random and the same for both. The model has the shape of the tiny base, with
random weights and LoRA on every linear layer. Ways take turns in one process, a fresh adapter each time; the first of
a training's steps is not timed. Seconds are of CPU, tokens those that pass through the model, padding included.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

GROUP, GROUPS = 8, 16
PROMPTS = (60, 200, 600)
SHORTEST, LONGEST = 20, 80
WAYS = ("stock", "once")


def sequences(steps: int, prompt_tokens: int, vocabulary: int) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Of each step, prompts, each for a group, and completions."""
    draw = Random(7)

    def some(many: int) -> list[int]:
        return [draw.randrange(300, vocabulary) for _ in range(many)]

    for _ in range(steps):
        asked = [prompt for _ in range(GROUPS) for prompt in [some(prompt_tokens)] * GROUP]
        yield asked, [some(draw.randint(SHORTEST, LONGEST)) for _ in asked]


def measure(way: str, base: str, prompt_tokens: int, steps: int, out: Path) -> tuple[float, float]:
    """CPU seconds and tokens of a step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from arena.models import load_model, load_tokenizer
    from training.policy_gradient import Trainer

    torch.manual_seed(1)
    lora = LoraConfig(r=2, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(base), lora)
    tokens: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: tokens.append(given[0].numel()))
    given = sequences(steps + 1, prompt_tokens, model.config.vocab_size)
    draw = Random(3)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        asked, spoken = next(given)
        return {"prompt_ids": asked, "completion_ids": spoken, "logprobs": None}

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [draw.random() for _ in completions]

    trainer = (GRPOTrainer if way == "stock" else Trainer)(
        model=model,
        reward_funcs=reward,
        rollout_func=rollout,
        args=GRPOConfig(
            output_dir=str(out),
            per_device_train_batch_size=GROUP,
            gradient_accumulation_steps=GROUPS,
            num_generations=GROUP,
            max_completion_length=LONGEST,
            max_steps=steps + 1,
            beta=0.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a"] * GROUPS * (steps + 1)}),
        processing_class=load_tokenizer(base),
    )
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds.append(time.process_time())
            if state.global_step == 1:
                tokens.clear()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    return (seconds[-1] - seconds[0]) / steps, sum(tokens) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one step each, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    given = parser.parse_args()
    import logging
    import warnings

    import torch

    import topics
    from training import tiny

    warnings.simplefilter("ignore")
    logging.getLogger("trl").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(given.threads)
    rounds, steps = (1, 1) if given.quick else (3, 3)
    print("| prompt tokens | way | CPU s a step | k tokens a step | seconds, stock / here | tokens, stock / here |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        base = str(tiny.build([topic.motion for topic in topics.load("train")], out / "base", seed=1))
        for prompt_tokens in PROMPTS:
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way in WAYS:
                    found[way].append(measure(way, base, prompt_tokens, steps, out))
            least = {way: min(costs) for way, costs in found.items()}
            for way, (seconds, tokens) in least.items():
                ratios = [stock / here for stock, here in zip(least["stock"], (seconds, tokens), strict=True)]
                cells = [f"{seconds:.2f}", f"{tokens / 1_000:.1f}", *(f"{ratio:.2f}x" for ratio in ratios)]
                print(f"| {prompt_tokens} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
