"""PairRM: a small model that reads a prompt and two texts and says which text answers it better.

It is for pairs of turns and for the best of k candidates. It was made for answers of some 400 tokens and cuts what is
longer, so it never judges a debate. The model is LLM-Blender's (Jiang et al. 2023, "LLM-Blender: Ensembling Large
Language Models with Pairwise Ranking and Generative Fusion"): one encoder reads both texts side by side, each behind a
marker, and one head scores each marker together with the prompt's, l(A, B) = s_1 - s_2 > 0 where A is better.

    pairrm = load("llm-blender/PairRM-hf")                    # or a folder with its files
    pairrm.compare(prompt, a, b)                              # Comparison(winner="a", logit=1.9)
    pairrm.best(prompt, candidates)                           # index of one of them, or None

How it departs from the textbook:

1. Which text stands first sways the model. So both orders are asked: the logit is (l(A,B) - l(B,A)) / 2, and where
   the two orders name different winners it abstains.
2. What stands for a control token in a text is read as an unknown one: no text can forge a marker.
3. The tokenizer is taken as it is stored. transformers 5 rebuilds DeBERTa's with another normaliser.

Needs the extra `train`; nothing of it is imported before it is used.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from topics.errors import InputError, one_line

if TYPE_CHECKING:
    import torch

MARKERS = {
    "<|source|>": "source_prefix_id",
    "<|candidate1|>": "cand1_prefix_id",
    "<|candidate2|>": "cand2_prefix_id",
}
"""What stands before the prompt and before each text, and where config.json has the id the model knows it by."""
TOTAL, SOURCE = 2048, 1224
"""Most tokens of all three, and of the prompt; each text gets half of what the prompt leaves."""
CHARACTERS = 100_000
"""A text is cut here before it is read: far more than its tokens will hold, and no more than is quickly read."""
BATCH = 4096
"""Tokens in a batch, padding included: two rows of full length, which take some 3 GB beside the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Which of two texts is better."""

    winner: Literal["a", "b", "abstain"]
    logit: float
    """(l(A,B) - l(B,A)) / 2, natural log-odds that A is better; there too where the orders disagree."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A prompt and two texts, as the model reads them."""

    ids: torch.Tensor
    """int32 [T]."""
    marks: tuple[int, int, int]
    """Where the markers stand."""


class PairRM:
    """The model; `load` makes one."""

    def __init__(self, source: str, network: torch.nn.ModuleDict, tokenizer: Any, markers: dict[str, int]) -> None:
        self.source = source
        self.network = network
        self.tokenizer = tokenizer
        self.markers = markers
        self.control = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}

    def best(self, prompt: str, candidates: Sequence[str]) -> int | None:
        """Index of the best candidate: the one that wins most comparisons, of equals the one with most logit in sum.

        None where no comparison was decided: nothing then speaks for any of them. Equal texts count once.
        """
        different = list(dict.fromkeys(candidates))
        if len(different) < 2:
            return 0 if different else None
        pairs = list(combinations(different, 2))
        wins: Counter[str] = Counter()
        logit = dict.fromkeys(different, 0.0)
        for (a, b), found in zip(
            pairs, self.comparisons([prompt] * len(pairs), *zip(*pairs, strict=True)), strict=True
        ):
            logit[a] += found.logit
            logit[b] -= found.logit
            if found.winner != "abstain":
                wins[a if found.winner == "a" else b] += 1
        return candidates.index(max(different, key=lambda text: (wins[text], logit[text]))) if wins else None

    def compare(self, prompt: str, a: str, b: str) -> Comparison:
        """Which of two texts answers `prompt` better."""
        return self.comparisons([prompt], [a], [b])[0]

    def logits(self, source_texts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
        """(l(A,B) - l(B,A)) / 2 of each prompt and its two texts."""
        return [found.logit for found in self.comparisons(source_texts, a, b)]

    def comparisons(self, source_texts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[Comparison]:
        """Which of its two texts answers each prompt better; all of them, in both orders, share batches."""
        both = self.one_way([*source_texts, *source_texts], [*a, *b], [*b, *a])
        return [_compared(ab, ba) for ab, ba in zip(both[: len(a)], both[len(a) :], strict=True)]

    def one_way(self, source_texts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
        """l(A, B) of each, in the order as given: the model's own answer, which leans to one place."""
        given = list(zip(source_texts, a, b, strict=True))
        different = list(dict.fromkeys(given))  # equal texts then get equal logits, to the last bit
        rows = [self._row(*texts) for texts in different]
        found: dict[tuple[str, str, str], float] = {}
        for batch in _batches([len(row.ids) for row in rows]):
            found |= zip([different[i] for i in batch], self._forward([rows[i] for i in batch]), strict=True)
        if not all(map(math.isfinite, found.values())):
            raise InputError(f"PairRM in {self.source!r} gives no finite logit: its weights are damaged; get it anew")
        return [found[texts] for texts in given]

    def _forward(self, rows: Sequence[Row]) -> list[float]:
        """l(A, B) of each row of a batch, which is padded on the right."""
        import torch

        device = next(self.network.parameters()).device
        ids_BT = torch.nn.utils.rnn.pad_sequence([row.ids for row in rows], batch_first=True).to(device)
        lengths_B = torch.tensor([len(row.ids) for row in rows], device=device)
        mask_BT = (torch.arange(ids_BT.shape[1], device=device) < lengths_B[:, None]).long()
        marks_B3 = torch.tensor([row.marks for row in rows], device=device)
        with torch.inference_mode():
            states_BTH = self.network["pretrained_model"](input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
            marked_B3H = states_BTH.gather(1, marks_B3[..., None].expand(-1, -1, states_BTH.shape[-1]))
            scores_B2 = self.network["head_layer"](torch.cat([marked_B3H[:, [0, 0]], marked_B3H[:, 1:]], -1))[..., 0]
        logits: list[float] = (scores_B2[:, 0] - scores_B2[:, 1]).tolist()
        return logits

    def _row(self, source_text: str, a: str, b: str) -> Row:
        import torch

        source = self._ids("<|source|>", source_text, SOURCE)
        left = (TOTAL - len(source)) // 2
        first, second = self._ids("<|candidate1|>", a, left), self._ids("<|candidate2|>", b, left)
        ids = torch.tensor([*source, *first, *second], dtype=torch.int32)
        return Row(ids=ids, marks=(1, len(source) + 1, len(source) + len(first) + 1))

    def _ids(self, marker: str, text: str, most: int) -> list[int]:
        """At most `most` tokens: CLS, the marker, the text, SEP."""
        text = text[:CHARACTERS].encode(errors="replace").decode()
        ids = self.tokenizer.encode(marker + text, truncation=True, max_length=most)
        if ids[1] != self.markers[marker]:  # normalisation has joined the text's first character to the marker
            ids = self.tokenizer.encode(f"{marker} {text}", truncation=True, max_length=most)
        plain = (self.tokenizer.unk_token_id if i in self.control else i for i in ids[2:-1])
        return [*ids[:2], *plain, ids[-1]]


class PairRMJudge:
    """What `kind = "pairrm"` names: a refusal, since PairRM is no judge of debates."""

    def __init__(self, name: str = "pairrm", **settings: Any) -> None:
        raise InputError(
            f"judge {name!r}: PairRM compares two texts and does not judge a debate; name a judge of kind 'llm' or "
            "'rules' instead, and call judges.pairrm.load(...) for pairs of turns and the best of k candidates"
        )


def load(source: str) -> PairRM:
    """PairRM from a folder or hub name (`llm-blender/PairRM-hf`), on a GPU where there is one; safetensors only.

    In float32, since a winner is the sign of a small difference. Raises `InputError` where anything does not fit.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import torch
        from transformers import PreTrainedTokenizerFast
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; PairRM needs: pip install 'debate-arena[train]'") from None
    try:
        network, config, missing = _network(source)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # tokenizers and safetensors raise nothing more special
        _refuse(source, f"{type(error).__name__}: {error}")
    if missing:
        _refuse(source, f"{len(missing)} of its weights are missing, {missing[0]!r} among them")
    network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return PairRM(source, network, tokenizer, _markers(source, tokenizer, config))


def _network(source: str) -> tuple[torch.nn.ModuleDict, Any, list[str]]:
    """Encoder and head, named as in the stored weights; their config; and which of their weights are not stored."""
    from safetensors.torch import load_file
    from torch import nn
    from transformers import DebertaV2Config, DebertaV2Model
    from transformers.initialization import no_init_weights
    from transformers.utils import cached_file

    weights = load_file(cached_file(source, "model.safetensors"))
    if (told := cached_file(source, "config.json")) is None:
        raise FileNotFoundError("there is no config.json")
    config = DebertaV2Config.from_json_file(told)
    hidden = config.hidden_size
    with no_init_weights():
        inner, outer = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, 1)
        head = nn.Sequential(nn.Dropout(), inner, nn.Tanh(), nn.Dropout(), outer)
        network = nn.ModuleDict({"pretrained_model": DebertaV2Model(config).float(), "head_layer": head})
    return network, config, network.load_state_dict(weights, strict=False).missing_keys


def _markers(source: str, tokenizer: Any, config: Any) -> dict[str, int]:
    """Ids of the markers, which the tokenizer must know as one token each, and the model by the same ids."""
    tokenizer.truncation_side = "right"
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if max(vocabulary.values()) >= config.vocab_size:
        _refuse(source, f"its tokenizer has ids that the model lacks, whose vocabulary is {config.vocab_size}")
    if tokenizer.unk_token_id is None:
        _refuse(source, "its tokenizer has no token for what is unknown")
    for marker, configured in MARKERS.items():
        marked = [tokenizer.cls_token_id, vocabulary.get(marker), tokenizer.sep_token_id]
        if (read := tokenizer.encode(marker)) != marked:
            _refuse(
                source, f"its tokenizer reads {marker!r} as {read} instead of CLS, one id of its own, SEP: {marked}"
            )
        if (trained := getattr(config, configured, marked[1])) != marked[1]:
            _refuse(source, f"its tokenizer gives {marker!r} the id {marked[1]}, its config.json says {trained}")
    return {marker: vocabulary[marker] for marker in MARKERS}


def _refuse(source: str, reason: str) -> NoReturn:
    raise InputError(
        f"{source!r} cannot be loaded as PairRM ({one_line(reason, 200)}); expected 'llm-blender/PairRM-hf', or a "
        "folder with its config.json, model.safetensors and tokenizer.json"
    ) from None


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows that go together, by their index: of about the same length, the longest first."""
    left = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while left:
        rows = max(1, BATCH // lengths[left[0]])
        yield left[:rows]
        left = left[rows:]


def _compared(ab: float, ba: float) -> Comparison:
    winner: Literal["a", "b", "abstain"] = "a" if ab > 0 > ba else "b" if ab < 0 < ba else "abstain"
    return Comparison(winner=winner, logit=(ab - ba) / 2)
