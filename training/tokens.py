"""Pairs as token ids: every prompt once, every speech once, every *sequence* (a speech behind a prompt) once.

A cross product repeats each text in many pairs, but a model has to read each sequence only once to know its
log-probability. So the sequence is the unit that is run and cached, and a pair is two numbers:

    tokens = tokenise(pair_set.load(folder), tokenizer)
    tokens.pairs[0]          (17, 42)   chosen sequence, rejected sequence
    tokens.sequences[17]     (3, 17)    prompt, speech

Prompts and speeches get the very tokens that are played: both are rendered by the chat template of `arena.models`.
A speech's tokens are taken behind the first prompt it answers and reused behind others of the same roles; that a
template allows this is checked on examples, and where it does not, every sequence is rendered on its own.

Nothing is cut here. `too_long` names the pairs that do not fit, `without` leaves pairs out, and both are explicit.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from arena.models import TEMPLATE, Tokenizer, prompt_ids, speech_ids, tamed
from arena.prompting import Message
from training.pair_set import PairSet

EXAMPLES = 16
"""Sequences on which the reuse of a speech's tokens is checked."""
AT_ONCE = 1_024
"""Conversations rendered in one call."""

Asked = tuple[str, str]
"""A prompt's id and a text's."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Pairs as token ids."""

    prompts: list[Sequence[int]]
    speeches: list[Sequence[int]]
    """Speeches, with what ends a turn."""
    sequences: list[tuple[int, int]]
    """Prompt and speech, each different one once."""
    pairs: list[tuple[int, int]]
    """Chosen and rejected sequence, both behind the same prompt."""
    rows: list[int] = field(default_factory=list)
    """Of each pair, its row in the pair set's table `pairs`."""


def tokenise(pair_set: PairSet, tokenizer: Tokenizer, topics: Collection[str] | None = None) -> Tokens:
    """The pairs of a pair set, of some topics only where they are named, in the order of its table."""
    frame = pair_set.pairs.with_row_index("row")
    if topics is not None:
        frame = frame.filter(pl.col("topic_id").is_in(list(topics)))
    named = frame.select("prompt_id", "chosen_text_id", "rejected_text_id").rows()
    asked = list(dict.fromkeys((prompt, text) for prompt, *texts in named for text in texts))
    tokens, number = sequences(asked, pair_set.prompts, pair_set.texts, tokenizer)
    return replace(
        tokens,
        pairs=[(number[prompt, chosen], number[prompt, rejected]) for prompt, chosen, rejected in named],
        rows=frame["row"].to_list(),
    )


def sequences(
    asked: Sequence[Asked], prompts: pl.DataFrame, texts: pl.DataFrame, tokenizer: Tokenizer
) -> tuple[Tokens, dict[Asked, int]]:
    """Texts behind their prompts, without any pairs; and which sequence each of `asked` became.

    `prompts` has `prompt_id` and `messages`, `texts` has `text_id` and `text`.
    """
    renderer = _Renderer(prompts, texts, tokenizer)
    asking = renderer.prompts(list(dict.fromkeys(prompt for prompt, _ in asked)))
    spoken = renderer.speeches(list(asked), asking)
    prompted, speeches, numbered = _Numbered(), _Numbered(), _Numbered()
    number = {}
    for prompt, text in asked:
        here = prompted[asking[prompt].tobytes()], speeches[spoken[prompt, text].tobytes()]
        number[prompt, text] = numbered[here]
    tokens = Tokens(
        prompts=[array("i", ids) for ids in prompted],
        speeches=[array("i", ids) for ids in speeches],
        sequences=list(numbered),
        pairs=[],
    )
    return tokens, number


def lengths(tokens: Tokens) -> list[int]:
    """Tokens of each sequence, prompt and speech together."""
    return [len(tokens.prompts[prompt]) + len(tokens.speeches[speech]) for prompt, speech in tokens.sequences]


def too_long(tokens: Tokens, most: int) -> list[int]:
    """The pairs of which a sequence has more than `most` tokens, as numbers into `pairs`."""
    long = {number for number, length in enumerate(lengths(tokens)) if length > most}
    return [number for number, pair in enumerate(tokens.pairs) if not long.isdisjoint(pair)]


def without(tokens: Tokens, pairs: Iterable[int]) -> Tokens:
    """The same tokens without some pairs, and without what only they used."""
    left_out = set(pairs)
    kept = [number for number in range(len(tokens.pairs)) if number not in left_out]
    prompts, speeches, sequences = _Numbered(), _Numbered(), _Numbered()
    numbered = [(sequences[chosen], sequences[rejected]) for chosen, rejected in (tokens.pairs[n] for n in kept)]
    both = [tokens.sequences[sequence] for sequence in sequences]
    return Tokens(
        sequences=[(prompts[prompt], speeches[speech]) for prompt, speech in both],
        prompts=[tokens.prompts[prompt] for prompt in prompts],
        speeches=[tokens.speeches[speech] for speech in speeches],
        pairs=numbered,
        rows=[tokens.rows[pair] for pair in kept] if tokens.rows else [],
    )


class _Numbered(dict[Any, int]):
    """Gives what it is asked for a number: the next one where it is new."""

    def __missing__(self, key: Any) -> int:
        self[key] = len(self)
        return self[key]


class _Renderer:
    """Renders the prompts and texts of a pair set, many at a time."""

    def __init__(self, prompts: pl.DataFrame, texts: pl.DataFrame, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.messages: dict[str, list[Message]] = dict(prompts.select("prompt_id", "messages").iter_rows())
        self.texts: dict[str, str] = dict(texts.select("text_id", "text").iter_rows())
        replies = [Message(role="assistant", content=text) for text in self.texts.values()]
        self.replies = dict(zip(self.texts, tamed(tokenizer, replies), strict=True))
        self.tamed = {prompt: tamed(tokenizer, messages) for prompt, messages in self.messages.items()}

    def prompts(self, prompts: Sequence[str]) -> dict[str, array[int]]:
        if prompts:
            prompt_ids(self.tokenizer, self.messages[prompts[0]])  # refuses an unfit template, in one line
        ids = self._ids([self.tamed[prompt] for prompt in prompts], add_generation_prompt=True)
        return dict(zip(prompts, ids, strict=True))

    def speeches(self, asked: list[Asked], prompts: dict[str, array[int]]) -> dict[Asked, array[int]]:
        """The tokens of each text behind its prompt; rendered once for all prompts of the same roles."""
        roles = {prompt: tuple(message["role"] for message in self.messages[prompt]) for prompt in prompts}
        first: dict[tuple[str, tuple[str, ...]], Asked] = {}
        for prompt, text in asked:
            first.setdefault((text, roles[prompt]), (prompt, text))
        ids = self._behind(list(first.values()), prompts)
        found = {(prompt, text): ids[first[text, roles[prompt]]] for prompt, text in asked}
        reused = [one for one in asked if one not in ids]
        for prompt, text in reused[:: max(1, len(reused) // EXAMPLES)]:
            if list(found[prompt, text]) != speech_ids(self.tokenizer, self.messages[prompt], self.texts[text]):
                return self._behind(asked, prompts)
        return found

    def _behind(self, asked: list[Asked], prompts: dict[str, array[int]]) -> dict[Asked, array[int]]:
        answered = [[*self.tamed[prompt], self.replies[text]] for prompt, text in asked]
        found = {}
        for (prompt, text), whole in zip(asked, self._ids(answered), strict=True):
            start = len(prompts[prompt])
            if whole[:start] != prompts[prompt]:
                speech_ids(self.tokenizer, self.messages[prompt], self.texts[text])  # says why, in one line
            found[prompt, text] = whole[start:]
        return found

    def _ids(self, conversations: list[list[Message]], **options: Any) -> Iterator[array[int]]:
        for start in range(0, len(conversations), AT_ONCE):
            some = conversations[start : start + AT_ONCE]
            rendered = self.tokenizer.apply_chat_template(some, return_dict=True, **TEMPLATE, **options)
            yield from (array("i", ids) for ids in rendered["input_ids"])
