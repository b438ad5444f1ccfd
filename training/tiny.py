"""The tiny base: a small Qwen3 with random weights and a tokenizer of its own, built here, without any download.

It is what `--base tiny` means, and what is used when no base is named: enough to run the whole circle on two CPU
cores. Some 3.4 million parameters and a byte-level BPE over the train topics and a run's own texts on them, so
nothing of a held-out topic is in it. The chat template is Qwen3's own. Random weights know nothing: `training.sft`
teaches it the winning speeches first, in full.

One thing departs from the usual: clauses that are said again and again (a prompt's instructions, a speaker's turns of
phrase) are one token each. That makes everything half as long, so twice as much is learnt in the same time.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from arena.models import Tokenizer, extra
from runs.files import replace_text
from runs.records import content_id

VOCABULARY = 4096
"""Tokens, special ones and every byte included."""
HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD = 256, 4, 4, 2, 64
CONTEXT = 4096
CLAUSE = re.compile(r"[^.!?:;,\n]+[.!?:;,]")
OFTEN = 1 / 250
"""A clause that stands in this share of the texts is one token. With a hundred topics or more, none of one topic is."""
CLAUSES = 512
"""Most clauses that are."""


def build(texts: Iterable[str], out: Path, *, seed: int) -> Path:
    """The folder of a tiny base under `out`, made from `texts` unless it is there already.

    Its name is a digest of texts, seed and shape: the same in, the same weights out.
    """
    texts = sorted(texts)
    shape = (VOCABULARY, HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD, CONTEXT, CLAUSE.pattern, OFTEN, CLAUSES)
    folder = out / f"tiny-{content_id(seed, shape, *texts)}"
    if (folder / "built.json").exists():
        return folder
    with extra():
        import torch
        from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
        from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    tokenizer = _tokenizer(texts)
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    replace_text(folder / "built.json", json.dumps({"seed": seed, "texts": len(texts)}) + "\n")
    return folder


def _tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE with Qwen3's control tokens and chat template."""
    with extra():
        import tokenizers
        import trl
        from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast
    clauses = often(texts)
    bpe = tokenizers.Tokenizer(models.BPE())
    lines = pre_tokenizers.Split("\n", behavior="isolated")  # else a prompt's last token may change with the answer
    bpe.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2 - len(clauses),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>", *clauses)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=CONTEXT,
    )
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def often(texts: list[str]) -> list[str]:
    """The clauses of two words or more that many texts hold, those first that save most."""
    held = Counter(clause for text in texts for clause in set(CLAUSE.findall(text)) if " " in clause)
    frequent = [clause for clause, count in held.items() if count >= max(2, OFTEN * len(texts))]
    return sorted(frequent, key=lambda clause: (-held[clause] * clause.count(" "), clause))[:CLAUSES]
