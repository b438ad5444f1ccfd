"""`python benchmarks/dpo_quality.py --out FOLDER`: time to the same held-out accuracy, pairs sharing texts or not.

An epoch in which every text is run once costs a fraction of one in which every pair is run by itself
(`benchmarks/dpo.py`), but it has fewer steps, of pairs that are not independent, so it may also teach less. The honest
question is how long each takes to come equally far. Simulated contestants debate the train topics, a tiny policy is
taught what won, and some 4,000 pairs of 100 keys teach adapters over it, in three ways:

    stock    TRL's own trainer: 8 pairs a step, each pair run by itself, the reference asked twice a pair
    blocks   near-square blocks of several keys: 8 sequences a micro-batch, 4 micro-batches a step
    keys     whole keys: 16 sequences a micro-batch, one a step; two where a prompt is that of one chosen speech

once with key prompts and once, with half of the keys, with transcript prompts: the prompt is then what had been said
before the chosen speech. Keys are of the first four turns, whose transcripts are some 300 tokens long. The policy of
the transcripts is the other one, taught some transcripts more, so that long prompts are not new to it.

How it is kept fair:

1. The learning rate is tuned alike, on key prompts for both kinds: the same three, and further ones while the best is
   at an edge, on one seed. The best has the highest mean over its checks, which are closer at the beginning: it is
   fast, and ends well. Held-back topics are split in two: what is chosen on one half is reported on the other, three
   seeds, an interval over topics. After a short rise the rate is constant, so a run does not know how long it will be,
   and any point of its curve is what a run of that length would have come to.
2. Time is what training takes from its beginning, making batches included, measuring accuracy not; and the
   reference's: all of it where it is asked in advance, of stock's only that of the pairs seen.
3. Curves are means over neighbouring checks, and times are interpolated on them, on each seed's and on the mean of
   all seeds. The target is where stock's mean ends, after a quarter of an epoch, by when it has stopped rising; a lower
   one is nine tenths of its way there from 0.5. What never reaches a target is told as such.

Each measurement is a process of its own with one thread; seconds are of its CPU, those of the clock stand in the
results. A line is written for each as it ends, and another call does only what is missing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import fmean
from threading import Lock
from typing import Any, NamedTuple

KINDS = ("key", "transcript")
WAYS = ("stock", "blocks", "keys")
BUDGET = {"stock": 16, "blocks": 8, "keys": 16}
"""Sequences of a micro-batch."""
PER_STEP = {"key": {"stock": 1, "blocks": 4, "keys": 1}, "transcript": {"stock": 1, "blocks": 4, "keys": 2}}
"""Micro-batches of a step."""
BATCH = 8
"""Pairs of a stock step."""
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
EPOCHS = {"stock": 0.25, "blocks": 1.0, "keys": 1.0}
"""Of a run: by then the accuracy of all three has stopped rising."""
CHECKS = (1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""Where accuracy is measured, in epochs: closer at the beginning, where most is learnt."""
TURNS, HELD_BACK, WARMUP = 4, 0.2, 0.05
KEY = ("topic_id", "side", "turn")
PREPARE = ["prepare"]
IDS = ("chosen_text_id", "rejected_text_id")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    debates: int | None = None
    taught: int = 4_000
    """Speeches that the first policy is taught."""
    taught_more: int = 800
    """Speeches that the second is taught behind transcripts."""
    keys: int = 100
    keys_behind_transcripts: int = 50
    """Half as many, since each pair takes more than twice as long there."""
    pairs: int = 40
    """Of a key, about."""
    checked: tuple[int, int] = (4, 4)
    """Keys of a held-back topic, and the rejected speeches of each; with one chosen one."""
    timed: int = 30
    """Batches on which stock's reference is timed."""
    tried: range = range(1, 4)
    """The rates that are tried whatever comes out, as places in RATES; one alone is not tuned."""
    seeds: tuple[int, ...] = (1, 2, 3)


QUICK = Size(
    debates=600,
    taught=64,
    taught_more=8,
    keys=3,
    keys_behind_transcripts=3,
    pairs=16,
    checked=(1, 3),
    timed=2,
    tried=range(3, 4),
    seeds=(1,),
)


class Job(NamedTuple):
    """One measurement: of a run, or where there is no rate of the reference."""

    kind: str
    way: str
    half: str = ""
    rate: float = 0.0
    seed: int = 0
    epochs: float = 0.0


# ── what is prepared once ────────────────────────────────────────────────────────────────────────────


def prepare(out: Path, size: Size) -> None:
    """Play, teach, pair: what is not there yet."""
    from runs import adapters, tables
    from training import pair_set, pairs

    if all((out / f"pairs-{kind}" / "pairs.json").exists() for kind in KINDS):
        return
    run = tables.load(played(out, size))
    known = {entry.context for entry in adapters.listed(out / "adapters")}
    if "key" not in known:
        teach(out, run.folder, limit=size.taught)
    if "transcript" not in known:
        further = {"base": policy(out, "key").id, "context": "transcript", "max_length": 2048, "learning_rate": 1e-3}
        teach(out, run.folder, limit=size.taught_more, **further)
    for kind in KINDS:
        settings = pairs.Settings.model_validate({"context": kind})
        found = pairs.make(run, settings)
        keys = size.keys if kind == "key" else size.keys_behind_transcripts
        drawn = replace(found, pairs=draw(found.pairs, keys, size))
        pair_set.write(drawn, out / f"pairs-{kind}", run=run, settings=settings.model_dump(mode="json"))


def played(out: Path, size: Size) -> Path:
    """The run's folder, played to its end."""
    from arena import run as arena
    from runs.run import folders
    from runs.tables import is_sealed
    from training.loop import OPPONENTS

    begun = folders(out)
    if begun and is_sealed(begun[0]):
        return begun[0]
    asked: dict[str, Any] = {"roster": OPPONENTS, "format": "brief", "limit": size.debates}
    return arena.run(
        arena.Settings.model_validate(({"resume": str(begun[0])} if begun else asked) | {"out": out})
    ).folder


def teach(out: Path, run: Path, **options: Any) -> None:
    """Teach a tiny base, or a policy, winning speeches of the topics that are not held back."""
    from training import sft
    from training.recipe import table

    values = table("tiny", "sft") | {"recipe": "tiny", "from_run": str(run), "out": out, "held_back": HELD_BACK}
    if sft.run(sft.Settings.model_validate(values | options)) is None:
        sys.exit("teaching was stopped; call again")


def policy(out: Path, kind: str) -> Any:
    """The policy that was taught behind prompts of a kind."""
    from runs import adapters

    return next(entry for entry in adapters.listed(out / "adapters") if entry.context == kind)


def parts(topics: Iterable[str]) -> dict[str, list[str]]:
    """Train topics by what they are for."""
    from training.speeches import held_back

    known = set(topics)
    back = sorted(held_back(known, HELD_BACK))
    Random(1).shuffle(back)
    return {"learn": sorted(known - set(back)), "tune": back[::2], "report": back[1::2]}


def draw(pairs: Any, keys: int, size: Size) -> Any:
    """Large grids of pairs of so many keys to learn from, small ones of the topics held back."""
    import polars as pl

    known: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    for *key, chosen, rejected in pairs.filter(pl.col("turn") <= TURNS).select(*KEY, *IDS).iter_rows():
        known.setdefault(tuple(key), set()).add((chosen, rejected))
    topics = parts(pairs["topic_id"])
    dice = Random(7)
    learnt = dice.sample(sorted(key for key in known if key[0] in topics["learn"]), keys)
    kept = [(*key, *pair) for key in learnt for pair in grid(known[key], 5, size.pairs, dice)]
    checked, rejected = size.checked
    for topic in sorted(topics["tune"] + topics["report"]):
        of_topic = sorted(key for key in known if key[0] == topic)
        for key in dice.sample(of_topic, min(checked, len(of_topic))):
            kept += [(*key, *pair) for pair in grid(known[key], 1, rejected, dice)]
    schema = {name: pairs.schema[name] for name in (*KEY, *IDS)}
    return pairs.join(pl.DataFrame(kept, schema=schema, orient="row"), on=list(schema), how="semi")


def grid(pairs: set[tuple[str, str]], chosen: int, most: int, dice: Random) -> list[tuple[str, str]]:
    """At most so many pairs of a key: a few chosen speeches against as many rejected ones as that leaves."""
    sides = [sorted(set(side)) for side in zip(*pairs, strict=True)]
    few = dice.sample(sides[0], min(chosen, len(sides[0])))
    others = dice.sample(sides[1], min(max(1, most // len(few)), len(sides[1])))
    return [(a, b) for a in few for b in others if (a, b) in pairs]


# ── one measurement, in a process of its own ─────────────────────────────────────────────────────────


class Meter:
    """Seconds of CPU and clock, and tokens that pass through a model, while it runs."""

    def __init__(self, model: Any) -> None:
        self.spent = [0.0, 0.0, 0]
        self.since: tuple[float, float] | None = None
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, _: Any, inputs: Any, __: Any) -> None:
        self.spent[2] += inputs[0].numel() * (self.since is not None)

    def start(self) -> None:
        self.since = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        assert self.since is not None
        for place, now in enumerate((time.process_time(), time.perf_counter())):
            self.spent[place] += now - self.since[place]
        self.since = None

    def told(self) -> dict[str, float]:
        return {"cpu": round(self.spent[0], 2), "wall": round(self.spent[1], 2), "tokens": self.spent[2]}


class Bench:
    """What a measurement with one kind of prompt works with."""

    def __init__(self, out: Path, kind: str) -> None:
        import torch

        from arena.models import load_model, load_tokenizer
        from training import dpo, pair_set
        from training.recipe import table
        from training.session import bfloat16_pays
        from training.tokens import tokenise

        torch.set_num_threads(1)
        self.out, self.kind, self.base = out, kind, policy(out, kind)
        self.settings = dpo.Settings.model_validate(table("tiny", "dpo") | {"recipe": "tiny", "context": kind})
        self.tokenizer = load_tokenizer(str(self.base.folder))
        self.model = load_model(str(self.base.folder))
        self.set = pair_set.load(out / f"pairs-{kind}")
        self.topics = parts(self.set.pairs["topic_id"])
        self.tokens = partial(tokenise, self.set, self.tokenizer)
        self.learnt = self.tokens(self.topics["learn"])
        self.autocast = torch.bfloat16 if bfloat16_pays() else None
        self.meter = Meter(self.model)

    def reference(self, tokens: Any) -> list[float]:
        """What the policy thinks of sequences before it is trained, from the cache as far as it is there."""
        from training.reference import log_probs

        cache, digest = self.out / f"cache-{self.kind}", self.base.weights_digest
        return log_probs(self.model, tokens, cache=cache, model_digest=digest, autocast=self.autocast)

    def arguments(self, job: Job, steps: float) -> dict[str, Any]:
        """What any trainer is told; `steps` are those of an epoch."""
        said = {name: getattr(self.settings, name) for name in ("beta", "weight_decay", "max_grad_norm")}
        quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
        return {
            **said,
            **quiet,
            "output_dir": str(self.out / "trainer"),
            "use_cpu": True,
            "bf16": self.autocast is not None,
            "gradient_checkpointing": False,
            "learning_rate": job.rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": max(1, round(WARMUP * steps)),
            "seed": job.seed,
        }

    def trainer(self, job: Job, plan: Sequence[Any]) -> Any:
        """A trainer over a fresh adapter: TRL's on all pairs, or ours on a plan."""
        import torch

        from training.policy import lora
        from training.preference import PreferenceTrainer, settings

        values = self.reference(self.learnt)
        torch.manual_seed(job.seed)  # of the adapter's weights
        if job.way == "stock":
            return stock(self, job, range(len(self.learnt.pairs)), values)
        per_step = PER_STEP[job.kind][job.way]
        told = self.arguments(job, len(plan) / per_step / job.epochs) | {"gradient_accumulation_steps": per_step}
        given = {"tokens": self.learnt, "reference": values, "plan": plan, "tokenizer": self.tokenizer}
        return PreferenceTrainer(self.model, settings(**told), peft_config=lora(self.settings), **given)


def stock(bench: Bench, job: Job, pairs: Sequence[int], values: list[float] | None) -> Any:
    """TRL's trainer on some pairs; what its reference says is known, or asked for and timed."""
    import torch
    from datasets import disable_progress_bars
    from trl import DPOConfig, DPOTrainer

    from training.policy import lora

    disable_progress_bars()
    known = iter([[values[side] for side in bench.learnt.pairs[pair]] for pair in pairs] if values else [])

    class Stock(DPOTrainer):  # type: ignore[misc]
        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            if values is not None:
                return torch.tensor([next(known) for _ in range(len(inputs["input_ids"]) // 2)]).unbind(1)
            bench.meter.start()
            found = super().compute_ref_log_probs(model, inputs)
            bench.meter.stop()
            return found

    args = DPOConfig(
        per_device_train_batch_size=BATCH,
        precompute_ref_log_probs=True,
        max_length=None,
        dataloader_pin_memory=False,
        **bench.arguments(job, len(pairs) / BATCH),
    )
    about = {"processing_class": bench.tokenizer, "peft_config": lora(bench.settings)}
    return Stock(model=bench.model, args=args, train_dataset=rows(bench, pairs), **about)


def rows(bench: Bench, pairs: Sequence[int]) -> Any:
    """Some of the learnt pairs as TRL reads them."""
    from datasets import Dataset

    from arena.models import TEMPLATE

    prompt = dict(bench.set.prompts.select("prompt_id", "messages").iter_rows())
    text = dict(bench.set.texts.iter_rows())
    named = bench.set.pairs.select("prompt_id", *IDS).rows()
    found = []
    for asked, *said in (named[bench.learnt.rows[pair]] for pair in pairs):
        chosen, rejected = ([{"role": "assistant", "content": text[one]}] for one in said)
        found.append({"prompt": prompt[asked], "chosen": chosen, "rejected": rejected})
    return Dataset.from_list([row | {"chat_template_kwargs": TEMPLATE} for row in found])


def measure_reference(bench: Bench, job: Job, size: Size) -> dict[str, Any]:
    """What the reference costs for all pairs: TRL's own, timed on some batches of them, or ours."""
    from training.reference import score

    pairs = len(bench.learnt.pairs)
    if job.way == "stock":
        some = Random(1).sample(range(pairs), min(pairs, size.timed * BATCH))
        stock(bench, job, some, None)
        told = {name: round(value * pairs / len(some), 2) for name, value in bench.meter.told().items()}
        return told | {"pairs": pairs, "timed": len(some)}
    shutil.rmtree(bench.out / f"cache-{bench.kind}", ignore_errors=True)
    score(bench.model, bench.learnt, range(8), autocast=bench.autocast)  # the first of its kind is slower
    bench.meter.start()
    bench.reference(bench.learnt)
    bench.meter.stop()
    return bench.meter.told() | {"pairs": pairs, "sequences": len(bench.learnt.sequences)}


def measure_run(bench: Bench, job: Job) -> dict[str, Any]:
    """The curve of one training."""
    from training.batches import plan

    per_step, pairs = PER_STEP[job.kind][job.way], len(bench.learnt.pairs)
    shape: Any = {"batching": job.way, "budget": BUDGET[job.way], "per_step": per_step}
    made = plan(bench.learnt, **shape, epochs=job.epochs, seed=job.seed)
    sizes = [len(batch.chosen) for batch in made]
    seen = list(accumulate(sum(sizes[at : at + per_step]) for at in range(0, len(sizes), per_step)))
    checked = bench.tokens(bench.topics[job.half])
    before = bench.reference(checked)  # asked before there is an adapter
    curve = follow(bench, checked, before, seen, bench.trainer(job, made))
    return {"pairs": pairs, "topics": [bench.set.pairs["topic_id"][row] for row in checked.rows], "curve": curve}


def follow(bench: Bench, checked: Any, before: list[float], seen: list[int], trainer: Any) -> list[dict[str, Any]]:
    """Train, looking at held-back pairs now and then; `seen` says how many pairs each step has seen."""
    from transformers import TrainerCallback

    from training.preference import evaluate

    shares = [share * len(bench.learnt.pairs) for share in CHECKS]
    due = {next((step for step, n in enumerate(seen, 1) if n >= share), len(seen)) for share in shares}
    curve: list[dict[str, Any]] = []

    class Curve(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            bench.meter.start()

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
            step = state.global_step
            if step in due:
                bench.meter.stop()
                found: Any = evaluate(model, checked, before, bench.settings.beta, autocast=bench.autocast)
                right = "".join(str(round(2 * one)) for one in found["correct"])  # 1: nothing has moved
                curve.append({"step": step, "pairs": seen[step - 1], **bench.meter.told(), **found, "correct": right})
                bench.meter.start()
            control.should_training_stop = step >= len(seen)
            return control

    trainer.add_callback(Curve())
    trainer.train()
    return curve


def measure(out: Path, job: Job, size: Size) -> None:
    """Measure in this process, and print what was found as JSON."""
    began = time.perf_counter()
    bench = Bench(out, job.kind)
    found = measure_run(bench, job) if job.rate else measure_reference(bench, job, size)
    print("\n" + json.dumps({"job": job, "took": round(time.perf_counter() - began, 1), **found}))


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────


class Results:
    """What was measured, a line each; what is not there yet is measured."""

    def __init__(self, out: Path, size: Size, command: Sequence[str], until: float, jobs: int) -> None:
        from runs.files import replace_text

        self.path, self.size, self.command, self.until, self.jobs = out / "results.jsonl", size, command, until, jobs
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        read = [json.loads(line) for line in lines if line.endswith("}")]  # a kill may leave half of the last
        self.known = {Job(*row["job"]): row for row in read}
        self.writing = Lock()
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in read))

    def want(self, jobs: Iterable[Job]) -> None:
        """Measure what is missing, as far as there is time."""
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self._measure, [job for job in jobs if job not in self.known]))

    def _measure(self, job: Job) -> None:
        if time.monotonic() > self.until:
            return
        words = [*self.command, "--one", json.dumps(job)]
        printed = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout
        row: dict[str, Any] = json.loads(printed.splitlines()[-1])
        last = row["curve"][-1] if "curve" in row else row
        said = f"accuracy {last['accuracy']:.3f}, loss {last['loss']:.3f}, " if "curve" in row else ""
        with self.writing, self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            self.known[job] = row
            print(f"{job}: {said}{last['cpu']:.0f} s of CPU; took {row['took']:.0f} s", file=sys.stderr, flush=True)

    def tuned(self, kind: str) -> dict[str, float]:
        """The best learning rate of each way, as far as there is time to find it."""
        tried = {way: set(self.size.tried) for way in WAYS}
        if len(self.size.tried) == 1:
            return dict.fromkeys(WAYS, RATES[self.size.tried[0]])
        best: dict[str, int] = {}
        while len(best) < len(WAYS):
            wanted = [(way, at) for way in WAYS for at in sorted(tried[way])]
            jobs = {(way, at): Job(kind, way, "tune", RATES[at], 0, EPOCHS[way]) for way, at in wanted}
            self.want(jobs.values())
            if not all(job in self.known for job in jobs.values()):
                return {}
            for way in WAYS:
                means = {at: fmean(accuracies(self.known[jobs[way, at]])) for at in tried[way]}
                top = max(means, key=lambda at: means[at])
                further = {max(top - 1, 0), min(top + 1, len(RATES) - 1)} - tried[way]
                tried[way] |= further
                best |= {} if further else {way: top}
        return {way: RATES[at] for way, at in best.items()}

    def reported(self, kind: str) -> dict[str, list[dict[str, Any]]]:
        """The runs of all ways and seeds at their best rates; nothing where not all are there."""
        rates = self.tuned("key")
        jobs = [Job(kind, way, "report", rates[way], seed, EPOCHS[way]) for way in rates for seed in self.size.seeds]
        self.want(jobs)
        if not all(job in self.known for job in jobs):
            return {}
        return {way: [self.known[job] for job in jobs if job.way == way] for way in rates}


# ── what came of it ──────────────────────────────────────────────────────────────────────────────────


def accuracies(run: dict[str, Any]) -> list[float]:
    return [point["accuracy"] for point in run["curve"]]


def smooth(values: Sequence[float]) -> list[float]:
    """Means over each value and its neighbours; the last one is of the last three."""
    windows = [values[max(0, at - 1) : at + 2] for at in range(len(values))]
    return [fmean(window) for window in (*windows[:-1], values[-3:])]


def averaged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean curve of a way, which is checked at the same steps whatever the seed."""
    points = zip(*(run["curve"] for run in runs), strict=True)
    names = ("accuracy", "pairs", "cpu", "tokens")
    return runs[0] | {"curve": [{name: fmean(one[name] for one in point) for name in names} for point in points]}


def reach(run: dict[str, Any], target: float, name: str) -> float | None:
    """What of `name` (cpu, tokens, pairs) a run has used up when its smoothed curve meets the target."""
    before, used = 0.5, 0.0
    for level, point in zip(smooth(accuracies(run)), run["curve"], strict=True):
        if level >= target:
            return used + (target - before) / (level - before) * (point[name] - used) if level > before else used
        before, used = level, point[name]
    return None


def total(run: dict[str, Any], reference: dict[str, float], target: float, name: str) -> float | None:
    """The same with the reference's part: of stock's what the pairs seen took, else all."""
    used, pairs = (reach(run, target, what) for what in (name, "pairs"))
    if used is None or pairs is None:
        return None
    share = min(1.0, pairs / run["pairs"]) if run["job"][1] == "stock" else 1.0
    return used + share * reference[name]


def at_the_end(runs: list[dict[str, Any]]) -> str:
    """Accuracy where a way's runs end, a mean over seeds, with an interval over topics."""
    from runs.statistics import rate

    ends = [run["curve"][-1]["correct"] for run in runs]
    found = rate([fmean(map(int, seeds)) / 2 for seeds in zip(*ends, strict=True)], runs[0]["topics"])
    return f"{found.value:.3f}" + (f" [{found.low:.3f}, {found.high:.3f}]" if found.low is not None else "")


def show(results: Results, kind: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """The tables of one kind of prompt."""
    end = smooth(accuracies(averaged(found["stock"])))[-1]
    first = found["stock"][0]
    checked = f"{len(first['topics'])} pairs of {len(set(first['topics']))} topics held back"
    print(f"\n{kind} prompts: {first['pairs']:,} pairs learnt, {checked}; {len(found['stock'])} seeds")
    for what, target in (("where stock ends", end), ("nine tenths of the way there", 0.5 + 0.9 * (end - 0.5))):
        print(f"\nto {target:.3f}, {what}; seconds of CPU, of reference and policy together:\n")
        print("| way | rate | accuracy at its end | reference | each seed | mean curve | x stock | tokens, k |")
        print("|---|---|---|---|---|---|---|---|")
        taken: dict[str, float] = {}
        for way, runs in found.items():
            reference = results.known[Job(kind, "stock" if way == "stock" else "shared")]
            seconds = [total(run, reference, target, "cpu") for run in (*runs, averaged(runs))]
            tokens = total(averaged(runs), reference, target, "tokens")
            told = ["never" if value is None else f"{value:.0f}" for value in seconds]
            cells = [f"{runs[0]['job'][3]:g}", at_the_end(runs), f"{reference['cpu']:.0f}"]
            cells += [", ".join(told[:-1]), told[-1]]
            if seconds[-1] is not None:
                taken[way] = seconds[-1]
            cells.append(f"{taken[way] / taken['stock']:.2f}" if way in taken and taken.get("stock") else "-")
            cells.append("-" if tokens is None else f"{tokens / 1000:,.0f}")
            print(f"| {way} | {' | '.join(cells)} |")
        print(f"\nthere first: {min(taken, key=lambda way: taken[way], default='none')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of what was prepared and measured")
    parser.add_argument("--quick", action="store_true", help="very little, to see that it runs")
    parser.add_argument("--minutes", type=float, default=120, help="begin nothing after so long (default: 120)")
    parser.add_argument("--jobs", type=int, default=1, help="measurements at a time, a core each (default: 1)")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    size, out = (QUICK, given.out / "quick") if given.quick else (Size(), given.out)
    if given.one == PREPARE:
        prepare(out, size)
        return
    if given.one:
        measure(out, Job(*given.one), size)
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1"}
    os.environ |= {"PYTHONWARNINGS": "ignore"}
    until = time.monotonic() + 60 * given.minutes
    command = [sys.executable, __file__, "--out", str(given.out), *(["--quick"] if given.quick else [])]
    subprocess.run([*command, "--one", json.dumps(PREPARE)], check=True)  # what it holds in memory goes with it
    results = Results(out, size, command, until, given.jobs)
    for kind in KINDS:
        results.want(Job(kind, way) for way in ("shared", "stock"))
        if found := results.reported(kind):
            show(results, kind, found)
        else:
            print(f"{kind} prompts: there was no time for all; the same command goes on", file=sys.stderr)


if __name__ == "__main__":
    main()
