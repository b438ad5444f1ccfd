"""A policy to be trained: which base it starts from, how it is loaded, and whether there is room for it.

A base is named by an adapter's id (a policy trained here), a model's folder, a hub name, or "tiny"; with nothing
named, the newest policy that was taught the run's winning speeches is taken, or a tiny base is built from the run.
Prompts are rendered by `arena.models`, with what the arena asks with, so training and play see the same tokens.
"""

import atexit
import json
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import polars as pl

from arena.canary import attach, check_canary
from arena.models import Model, Tokenizer, extra, load_model, load_tokenizer
from runs import adapters
from runs.adapters import Adapter, Base
from topics import Topic
from topics.errors import InputError, one_line
from training import tiny
from training.adapters import base_of
from training.recipe import TINY, Training
from training.speeches import Decided, held_back, prompts

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from."""

    source: str
    """A folder or hub name to load."""
    base: Base
    parent: str | None
    """The id of the policy that is trained further, where it was trained here."""
    adapter: Adapter | None = None
    """That policy, where it is an adapter over the base."""
    why: str
    """Said to the user."""

    @property
    def name(self) -> str:
        """What `--base` would have to say to start here again."""
        return self.parent or self.base.name


def start(settings: Training, heard: Decided | None, *, taught: bool) -> Start:
    """Where a training starts. `taught`: with nothing named, prefer a policy that was taught this run's speeches.

    Without a run the base is named.
    """
    out = settings.out / "adapters"
    named = settings.base
    why = ""
    if named is None and taught and heard and (parent := newest_taught(heard, out)) is not None:
        named, why = parent.id, "the newest policy taught from this run"
        if parent.recipe != settings.recipe and "recipe" not in settings.typed:
            raise InputError(
                f"{parent.id}, the newest policy taught from this run, was taught by the recipe {parent.recipe!r}, "
                f"and no base was named; name it, so that its recipe is taken: --base {parent.id}"
            )
    if named in (None, TINY):
        if heard is None:
            raise InputError(
                "the tiny base is built from a run's texts; name another, such as a policy's id: --base ID"
            )
        return _tiny(heard, settings, named)
    further = adapter_of(str(named), out)
    if further is not None:
        source, why = adapters.base_source(further), f"{further.id}, trained further"
        begin = Start(source=source, base=further.base, parent=further.id, adapter=further, why=why)
        if heard is not None:
            _hold_back_the_same(begin, settings, out)
        return begin
    cached = fetched(str(named), out)
    base = base_of(str(named), out)
    source = str(adapters.find(base.adapter, out).folder) if base.adapter else cached or base.name
    begin = Start(source=source, base=base, parent=base.adapter, why=why or str(named))
    if heard is not None:
        _hold_back_the_same(begin, settings, out)
    return begin


def _tiny(heard: Decided, settings: Training, named: str | None) -> Start:
    bases = settings.out / "bases"
    if settings.dry_run:
        bases = Path(mkdtemp())
        atexit.register(shutil.rmtree, bases, ignore_errors=True)
    folder = tiny.build(corpus(heard, settings), bases, seed=settings.seed)
    why = "a tiny base, built from the run's own texts" + (", as none was named" if named is None else "")
    return Start(
        source=str(folder),
        base=Base(name=str(folder.resolve()), digest=adapters.digest_of_model(folder)),
        parent=None,
        why=why,
    )


def fetched(named: str, out: Path) -> str | None:
    """The folder that holds a hub model, which is downloaded where it is not here yet; None for any other base."""
    local = Path(named).exists() or (out / named).exists()
    if local or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", named):
        return None
    with extra():
        from huggingface_hub import snapshot_download
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    with suppress(OSError, ValueError, RuntimeError):  # `base_of` will say it
        return str(snapshot_download(named, allow_patterns=wanted))
    return None


def _hold_back_the_same(begin: Start, settings: Training, out: Path) -> None:
    """Refuse checks on topics that the parent was taught."""
    if begin.parent is None:
        return
    share = adapters.find(begin.parent, out).settings.get("held_back")
    if isinstance(share, float) and share < settings.held_back:
        raise InputError(
            f"{begin.parent} held back {share:g} of the train topics, so checks on {settings.held_back:g} would be on "
            f"what it was taught; expected --held-back {share:g} or less"
        )


def adapter_of(which: str, out: Path) -> Adapter | None:
    """The adapter over a base that is meant, or None where something else is."""
    try:
        found = adapters.find(which, out)
    except InputError:
        return None
    adapters.verify(found)
    return found if found.form == "lora" else None


def newest_taught(heard: Decided, out: Path) -> Adapter | None:
    """The newest full policy that was taught the winning speeches of a run, as the same judge saw them."""
    found = []
    for folder in adapters.folders(out):
        with suppress(InputError):  # another entry that is damaged
            found.append(adapters.load(folder))
    run, judge = heard.run.folder.name, heard.judge
    taught = [one for one in found if (one.method, one.form, one.run, one.judge) == ("sft", "full", run, judge)]
    return max(taught, key=lambda one: one.made_at, default=None)


def corpus(heard: Decided, settings: Training) -> Iterable[str]:
    """The texts a tokenizer is made from: the run's topics, speeches and prompts; nothing held out or held back."""
    kept = heard.speeches.filter("won", ~pl.col("topic_id").is_in(held_back(heard.topics_heard, settings.held_back)))
    asked, _ = prompts(heard, "key", kept)
    yield from kept["text"].unique(maintain_order=True)
    yield from (message["content"] for messages in asked["messages"] for message in messages)  # often the same
    for topic_id in kept["topic_id"].unique(maintain_order=True):
        yield from _texts(heard.topics[topic_id])


def _texts(topic: Topic) -> Iterable[str]:
    yield from (topic.motion, topic.info)
    yield from (text for points in topic.points.values() for point in points for text in (point.claim, point.reason))


def tokenizer(begin: Start) -> Tokenizer:
    """The tokenizer of the base, which needs no room to speak of."""
    return load_tokenizer(begin.source)


def load(begin: Start, settings: Training, tokenizer: Tokenizer, *, full: bool) -> Model:
    """The model to train; its weights in float32 where they are trained themselves."""
    model = load_model(begin.source, dtype="float32" if full else settings.dtype, four_bit=settings.four_bit)
    if begin.adapter is None:
        return model
    if begin.adapter.four_bit != settings.four_bit:
        held = "a quantised base" if begin.adapter.four_bit else "a base that is not quantised"
        raise InputError(f"{begin.adapter.id} was trained over {held}; train it further with the same: see --four-bit")
    adapters.check_base(begin.adapter, begin.source)
    model = attach(model, begin.adapter)
    check_canary(begin.adapter, model, tokenizer)
    model.peft_config["default"].base_model_name_or_path = begin.source  # PEFT looks there when it saves, or on the hub
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in name
    return model


def lora(settings: Training) -> Any:
    """PEFT's settings for an adapter on all linear layers."""
    with extra():
        from peft import LoraConfig
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def needed(source: str, settings: Training, *, full: bool, tokens: int) -> float | None:
    """Bytes that training takes, roughly: weights, gradients, Adam, and what a pass over `tokens` tokens keeps.

    None for a model that is not on this disk.
    """
    folder = Path(source)
    if not folder.is_dir():
        return None
    size = parameters(folder)
    width = 4.0 if full or settings.dtype == "float32" else 2.0
    if full:
        held = 16.0 * size  # weights, gradients and Adam's two averages, in float32
    else:
        held = size * (0.6 if settings.four_bit else width) + 16.0 * 0.01 * size * settings.rank / 16
    return held + tokens * kept_of_a_token(folder, settings) * (2.0 if settings.mixed else width)


def kept_of_a_token(folder: Path, settings: Training) -> float:
    """Numbers that a forward pass keeps of a token for the way back: what goes into each matrix product, about."""
    config = read_json(folder / "config.json")
    hidden, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    inner = config.get("intermediate_size", 4 * hidden)
    each = hidden if settings.gradient_checkpointing else 10 * hidden + 4 * inner
    return float(layers * each + config.get("vocab_size", 0))


def read_json(path: Path) -> dict[str, int]:
    """The settings of a model, as far as they are whole numbers."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return {name: value for name, value in body.items() if isinstance(value, int)}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({one_line(str(error))}); expected a model's config") from None


def parameters(folder: Path) -> int:
    """How many parameters a model's files hold, read from their headers."""
    with extra():
        from safetensors import safe_open
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                count = 1
                for length in file.get_slice(name).get_shape():
                    count *= length
                total += count
    return total


def room(source: str, settings: Training, *, full: bool, tokens: int) -> None:
    """Refuse a training that the memory cannot hold, before anything is loaded."""
    wanted = needed(source, settings, full=full, tokens=tokens)
    free, where = available()
    if wanted is not None and wanted > free:
        raise InputError(
            f"training {source!r} takes about {wanted / GB:.1f} GB and {free / GB:.1f} GB of {where} are free; "
            f"expected a smaller base, an adapter in place of full training, --four-bit, or fewer tokens at once"
        )


def few_too_long(long: int, of: int, what: str, settings: Training) -> None:
    """Refuse data of which more than the share that may be left out is longer than `max_length`."""
    if long > settings.too_long * of:
        raise InputError(
            f"{long:,} of {of:,} {what} longer than {settings.max_length} tokens with the prompt; expected at most a "
            f"share of {settings.too_long:g}: raise --max-length or --too-long"
        )


def estimate(source: str, settings: Training, *, tokens: int, asked: int, at_once: int, full: bool) -> str:
    """A line on how much memory and time a training takes here, before anything is loaded.

    Time is 6 floating-point operations a parameter and token trained on and 2 for one only asked, at a third of what
    a matrix product reaches here.
    """
    wanted = needed(source, settings, full=full, tokens=at_once)
    if wanted is None:
        return "memory and time: not known before the model is here"
    free, where = available()
    work = (6 * tokens + 2 * asked) * parameters(Path(source))
    return f"about {wanted / GB:.2f} GB of {where} ({free / GB:.1f} GB are free), about {3 * work / speed():,.0f} s"


def speed() -> float:
    """Floating-point operations a second in a matrix product."""
    import time

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(1024, 1024, device=device)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        float((a @ a)[0, 0])
        rounds += 1
    return 2 * 1024**3 * rounds / (time.perf_counter() - started)


def available() -> tuple[float, str]:
    """Free bytes of what the model will lie in, and its name."""
    with extra():
        import psutil
        import torch
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]), "GPU memory"
    return float(psutil.virtual_memory().available), "memory"
