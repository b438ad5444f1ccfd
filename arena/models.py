"""Language models in this process: loading one, rendering a debate's prompt for it, and what it thinks of a text.

Training and playing go through the same functions here, so that both see the same tokens: a prompt is rendered by
`prompt_ids`, a speech behind it by `speech_ids`, whoever asks. What a model or a person wrote can never become a
control token: `tamed` takes the special tokens of the vocabulary apart where they stand in a message.

Needs the extra `train`; nothing here is imported before it is used, so `import arena.run` stays light.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from arena.prompting import Message
from topics.errors import InputError, one_line

if TYPE_CHECKING:
    import torch

Tokenizer = Any
"""A `transformers.PreTrainedTokenizerBase`; the library has no types of its own."""
Model = Any
"""A `transformers.PreTrainedModel`, or PEFT's wrapper around one."""

Dtype = Literal["float32", "bfloat16", "float16", "auto"]

_TAG = re.compile(r"<.*>$|\[.*\]$", re.DOTALL)
"""Tokens such as <think>, which vocabularies do not always mark as special."""

TEMPLATE = {"enable_thinking": False}
"""Given to every chat template, in training and in play; templates that know no thinking ignore it."""


@contextmanager
def extra() -> Iterator[None]:
    """Around the imports that the extra `train` brings: a missing one is wrong input with the line to type."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # threads that wait give way to other processes, if not at once
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; models in this process need the extra 'train': pip install -e '.[train]'"
        ) from None


def keep_memory() -> None:
    """On a CPU with glibc: keep freed memory in the process, which else is cleared anew for every large tensor.

    It halves the time of training a small model. Elsewhere nothing is done.
    """
    import ctypes

    import torch

    if not torch.cuda.is_available() and sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28)):
                mallopt(option, value)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Names of glibc's malloc.h."""


def load_tokenizer(source: str) -> Tokenizer:
    """The tokenizer of a model from its folder or hub name; it must have a chat template."""
    with extra():
        from transformers import AutoTokenizer
    tokenizer = _loaded(AutoTokenizer, source)
    if not tokenizer.chat_template:
        raise InputError(f"{source!r} has no chat template; a debater needs one: name an instruct model")
    if tokenizer.eos_token_id is None:
        raise InputError(f"{source!r} has no end-of-turn token (eos_token); name an instruct model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_model(source: str, *, dtype: Dtype = "float32", four_bit: bool = False) -> Model:
    """A causal language model from its folder or hub name, in eval mode; safetensors only, no code from the folder.

    `four_bit` quantises it on loading: NF4 with double quantisation (bitsandbytes), computing in `dtype`, in
    bfloat16 where that is "auto".
    """
    with extra():
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if four_bit:
        compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
        options["dtype"] = compute
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    model = _loaded(AutoModelForCausalLM, source, **options)
    if four_bit:
        _keep_gradients(model)
    keep_memory()
    if torch.cuda.is_available() and not four_bit:
        model = model.to("cuda")
    return model.eval()


def _keep_gradients(model: Model) -> None:
    """Switch off a repacking that loses gradients.

    On CPUs with AVX512_BF16 a bitsandbytes layer that once ran in eval mode without gradients is repacked for good,
    and gradients through it are then wrong, without a word.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _loaded(kind: Any, source: str, **options: Any) -> Any:
    """`kind.from_pretrained`, whose many ways to fail are one line here."""
    with extra():
        from safetensors import SafetensorError
        from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{source!r} cannot be loaded as a language model ({type(error).__name__}: {one_line(str(error), 200)}); "
            f"expected a folder with config.json, *.safetensors and a tokenizer, or a hub name"
        ) from None


def tamed(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Message]:
    """`messages` in which no text can be read as a control token: a blank stands in each, behind its first letter."""
    added = tokenizer.added_tokens_decoder.values()
    special = [
        token.content for token in added if len(token.content) > 1 and (token.special or _TAG.match(token.content))
    ]

    def tame(text: str) -> str:
        for token in special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    return [{"role": message["role"], "content": tame(message["content"])} for message in messages]


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The tokens of a prompt, up to where the answer begins."""
    return _ids(tokenizer, tamed(tokenizer, messages), add_generation_prompt=True)


def speech_ids(tokenizer: Tokenizer, messages: Sequence[Message], text: str) -> list[int]:
    """The tokens of `text` as the answer to `messages`, with what ends a turn.

    Raises `InputError` where the template renders the prompt differently once an answer follows, since training
    would then teach another prompt than the one that is played.
    """
    prompt = prompt_ids(tokenizer, messages)
    answered = [*messages, Message(role="assistant", content=text)]
    whole = _ids(tokenizer, tamed(tokenizer, answered))
    if whole[: len(prompt)] != prompt:
        raise InputError(
            "the chat template renders a prompt differently once its answer follows; "
            "training would not see what is played: use a template that is a prefix of itself"
        )
    return whole[len(prompt) :]


def rendered(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    """The text of a prompt, up to where the answer begins."""
    return str(_applied(tokenizer, tamed(tokenizer, messages), add_generation_prompt=True, tokenize=False))


def _ids(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> list[int]:
    return list(_applied(tokenizer, messages, return_dict=True, **options)["input_ids"])


def _applied(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(list(messages), **TEMPLATE, **options)
    except Exception as error:  # jinja2's own errors: a template may refuse, say, a system message
        raise InputError(f"the chat template cannot render a debate's prompt: {one_line(str(error))}") from None


def log_probs(model: Model, prompt: Sequence[int], speech: Sequence[int]) -> torch.Tensor:
    """Natural log-probability of each token of `speech` behind `prompt`; float32 [len(speech)], no gradient."""
    import torch

    ids = torch.tensor([[*prompt, *speech]], device=next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen: torch.Tensor = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
    return chosen
