"""The canary: is the policy that plays the one that was trained?

When a policy is registered, it says how likely it finds each token of one fixed speech under a fixed prompt, with
the adapter and without. Whoever seats it asks again. Another base, another tokenizer or chat template, weights that
were not applied, or applied to the wrong layers: each gives other numbers, and each would otherwise play on without a
word. Digests (`runs/adapters.py`) say that the files are the same; the canary says that what they came to is.

The prompt and the speech are stored with the adapter, so a later wording here does not trouble earlier adapters. They
are about a town that does not exist, in the words of a debate's prompt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import isnan, nan, sqrt
from typing import Final

from arena.models import Model, Tokenizer, extra, log_probs, prompt_ids, speech_ids
from arena.prompting import Message
from runs.adapters import LORA, Adapter, Canary, Said, check_config, tokens_digest
from topics.errors import InputError, one_line

MESSAGES: Final[list[Message]] = [
    {
        "role": "system",
        "content": "You take part in a formal debate. The motion is:\n\n"
        "The town of Larkmoor should paint its clock tower green.\n\n"
        "You speak for the motion, from the first speech to the last. Write only the speech itself: plain prose.",
    },
    {
        "role": "user",
        "content": "Nobody has spoken yet; you open the debate.\n\n"
        "Your next speech is number 1 of 10: opening. State your case. At most 60 words.",
    },
]
SPEECH: Final = (
    "We support this motion because a tower that everybody sees should be a pleasure to look at. "
    "For example, the mill was painted ten years ago, and visitors have come to see it ever since. "
    "My opponent may fear the cost; however, the tower has to be painted in some colour anyway."
)

EXACT: Final = 1e-3
"""Most that a token's log-probability may differ, in nats, where both sides are float32. Another order of summation,
as in a merged model, makes some 1e-6 of it with the tiny base."""
ROUNDED: Final = 0.5
"""The same where a side is in 16 bits or the base in 4. Logits between 16 and 32 come in steps of 1/8 in bfloat16, so
a large model's tokens may move by some eighths from one kernel to the next; the tiny base's move by 0.01."""
SIGNIFICANT: Final = 1 / 50
"""Of the tolerance: an adapter that moves the canary by less (root mean square) cannot be told from none."""


MISFITS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, UserWarning)
"""What PEFT raises where settings or weights do not fit a base."""


def attach(model: Model, adapter: Adapter, name: str = "default") -> Model:
    """A base with a lora entry over it, in eval mode; `model` may have others on already, each under its own `name`.

    Of the entry only its safetensors and the settings of a plain LoRA are read; nothing of it is run. Raises
    `InputError` where they do not fit the base. The first adapter is on; `model.set_adapter(name)` turns to another.
    """
    check_config(adapter.folder / LORA[0])
    with extra():
        from peft import PeftModel
        from safetensors import SafetensorError
    folder = str(adapter.folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)  # PEFT's
            warnings.filterwarnings("error", message="Found missing adapter keys")  # they would be left at random
            if isinstance(model, PeftModel):
                model.load_adapter(folder, adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name=name)
            return model.eval()
    except (*MISFITS, SafetensorError) as error:
        what = f"{type(error).__name__}: {one_line(str(error), 200)}"
        raise InputError(
            f"{adapter.id} does not fit its base ({what}); check both: python -m training.adapters verify {adapter.id}"
        ) from None


def canary(model: Model, tokenizer: Tokenizer, *, adapter: bool) -> Canary:
    """The canary of a policy, to be stored with it; `adapter`: it is one over a base, as PEFT wraps it."""
    prompt, speech = prompt_ids(tokenizer, MESSAGES), speech_ids(tokenizer, MESSAGES, SPEECH)
    with_adapter = _asked(model, prompt, speech)
    without = None
    if adapter:
        with model.disable_adapter():
            without = _asked(model, prompt, speech)
    return Canary(
        messages=tuple(Said(**message) for message in MESSAGES),
        speech=SPEECH,
        prompt_digest=tokens_digest(prompt),
        tokens=tuple(speech),
        with_adapter=tuple(with_adapter),
        without=None if without is None else tuple(without),
        dtype=dtype_of(model),
    )


def check_canary(adapter: Adapter, model: Model, tokenizer: Tokenizer) -> float:
    """Refuse a model that does not say what `adapter` said when it was registered; returns the largest difference.

    `model` has the adapter on, as it will play. Raises `InputError` for another tokenizer or chat template, and for
    whatever `compare` refuses.
    """
    return compare(adapter, recite(adapter.canary, model, tokenizer, adapter.id), dtype_of(model))


def compare(adapter: Adapter, now: Sequence[float], dtype: str | None, *, base: Sequence[float] | None = None) -> float:
    """Refuse log-probabilities [tokens] that are not those of `adapter`'s canary; returns the largest difference.

    `dtype` is what they were computed in, None where nobody knows; `base` are those that the same server gives without
    the adapter, to be compared likewise. Raises `InputError` for such as are beyond the tolerance (`EXACT`, or
    `ROUNDED`), or nearer to the base's.
    """
    recorded, tolerance = adapter.canary, _tolerance(adapter, dtype)
    if base is not None and recorded.without is not None and not _furthest(base, recorded.without) <= tolerance:
        raise InputError(
            f"the model that was loaded is not the base of {adapter.id}, "
            f"{adapter.base.adapter or one_line(adapter.base.name)!r}: without the adapter, log-probabilities of its "
            f"canary differ by up to {_furthest(base, recorded.without):.3g}, at most {tolerance:g} is expected"
        )
    largest = _furthest(now, recorded.with_adapter)
    if largest <= tolerance and is_at_work(recorded, now, tolerance) and not _is_ignored(recorded, now, base):
        return largest
    if largest <= tolerance or (recorded.without and _furthest(now, recorded.without) <= tolerance):
        raise InputError(
            f"{adapter.id} is not at work: on its canary the model is nearer to its base without it (off by up to "
            f"{largest:.3g}); load the adapter's weights over the base, and turn it on"
        )
    raise InputError(
        f"the model that was loaded is not {adapter.id}: log-probabilities of its canary differ by up to "
        f"{largest:.3g}, at most {tolerance:g} is expected; check base and adapter: "
        f"python -m training.adapters verify {adapter.id}"
    )


def _is_ignored(recorded: Canary, now: Sequence[float], base: Sequence[float] | None) -> bool:
    """Whether a server says the very same with an adapter and without, though the adapter does something.

    An effect below `EXACT` may be lost in 16 bits; a larger one moves some of some 60 numbers.
    """
    if base is None or recorded.without is None:
        return False
    return list(now) == list(base) and _furthest(recorded.with_adapter, recorded.without) > EXACT


def _tolerance(adapter: Adapter, dtype: str | None) -> float:
    strict = adapter.canary.dtype == dtype == "float32" and not adapter.four_bit
    return EXACT if strict else ROUNDED


def is_at_work(recorded: Canary, now: Sequence[float], tolerance: float) -> bool:
    """Whether log-probabilities [tokens] are nearer to those with the adapter than to those without.

    Distances are root mean squares, so that over some 60 tokens an effect as small as the noise can be told. True
    where nothing can be: a full policy, or an effect below `SIGNIFICANT` of the tolerance.
    """
    if recorded.without is None:
        return True

    def apart(left: Sequence[float], right: Sequence[float]) -> float:
        return sqrt(sum((x - y) ** 2 for x, y in zip(left, right, strict=True)) / len(left))

    effect = apart(recorded.with_adapter, recorded.without)
    nearer_to_base = apart(now, recorded.without) < apart(now, recorded.with_adapter)
    return effect <= SIGNIFICANT * tolerance or not nearer_to_base


def recite(recorded: Canary, model: Model, tokenizer: Tokenizer, name: str) -> list[float]:
    """Log-probabilities of a recorded canary's tokens under `model`; `InputError` where its tokens are others."""
    messages = [Message(role=said.role, content=said.content) for said in recorded.messages]
    prompt, speech = prompt_ids(tokenizer, messages), speech_ids(tokenizer, messages, recorded.speech)
    for what, same in (
        ("prompt", tokens_digest(prompt) == recorded.prompt_digest),
        ("speech", tuple(speech) == recorded.tokens),
    ):
        if not same:
            raise InputError(
                f"the tokens of {name}'s canary ({what}) are others than when it was trained: "
                f"another tokenizer or chat template; use that of its base"
            )
    return _asked(model, prompt, speech)


def dtype_of(model: Model) -> str:
    """The type of a model's floating-point weights; of its computation, where it is quantised."""
    found = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
    return str(found).removeprefix("torch.")


def _furthest(left: Sequence[float], right: Sequence[float]) -> float:
    """Largest difference; NaN where any number is none."""
    apart = [abs(x - y) for x, y in zip(left, right, strict=True)]
    return nan if any(map(isnan, apart)) else max(apart)


def _asked(model: Model, prompt: Sequence[int], speech: Sequence[int]) -> list[float]:
    """`log_probs` without dropout, whatever mode the model is in."""
    training = model.training
    model.eval()
    try:
        return [float(value) for value in log_probs(model, prompt, speech)]
    finally:
        model.train(training)
