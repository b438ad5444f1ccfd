"""Rows of a file to speak to in GRPO: prompts, each with what its answers are scored on, and what an answer earns.

    {"prompt": "...", "positive_rubrics": ["It names the year."], "negative_rubrics": [], "snippets": {"S1": "..."}}

    rows = load(Path("prompts.jsonl"), rewards, static)         # `InputError` with the number of the line
    reward = await earned(judge, rows[0], answer, rewards, static, draw=3)          # training.rewards.Reward

One JSON object a line (docs/write-grpo-data.md). What an answer earns is said by a rubric judge: `rubric`, by the row's
own items and static ones, and `citation`, by its snippets. `format` and `length` are counted, and depend on no judge.

How it departs from the usual rubric reward:

1. Where citations or format earn something, the answer is what stands in the one `<answer>` block, and who gives none
   has the worst score on everything. Else it is all that can be heard. A component of weight 0 changes neither.
2. What does not apply to a row is worth all there is of it, to every answer that says something: such a constant moves
   no group. Without snippets there is nothing to cite, so citing nothing is all there is, and an id made up earns none.
3. A file that holds a held-out motion, in whatever place, is refused: where as many words in a row as the motion has
   come as near to it as two motions may not (`topics/leakage.py`).
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import polars as pl
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

import topics as catalogue
from arena.prompting import Message, as_text
from arena.speech import visible
from judges.criteria import Weight
from judges.rubric import Item, RubricJudge
from runs.records import content_id
from topics.errors import InputError, near
from topics.leakage import NEAR_DUPLICATE, jaccard, ngrams
from topics.topic import Sentence
from training.citations import Claim, citation, claims, well_formed
from training.citations import answer as answer_block
from training.rewards import Component, Items, Reward, Rewards, item, length, rubric, rubric_items, worst

SCORED: tuple[Component, ...] = ("rubric", "citation", "format", "length")
"""What can be rewarded here."""
JUDGED: tuple[Component, ...] = ("rubric", "citation")
"""What takes a judge."""
MOST_CHARACTERS = 1_000_000
MOST_ITEMS = 50
MOST_SNIPPETS = 1_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt and what is known of it."""

    id: str
    topic: str
    """Rows that share it are held back together, and are one unit of the statistics."""
    messages: list[Message]
    """What the policy is asked."""
    items: tuple[Item, ...]
    """Its own, merits first."""
    snippets: Mapping[str, str]
    """What can be cited, by id."""
    most_words: int | None

    @property
    def prompt(self) -> str:
        """What a judge is shown of the messages."""
        return as_text(self.messages)


# ── a line ───────────────────────────────────────────────────────────────────────────────────────


def _sound(text: Any) -> Any:
    """A text that can be stored and shown; what is no text is left to its type."""
    if isinstance(text, str):
        if "\0" in text or (not text.isascii() and re.search("[\ud800-\udfff]", text)):
            raise ValueError("expected text without NUL characters and halves of surrogate pairs")
        if not text.strip():
            raise ValueError("expected some text, not a blank one")
    return text


def _plain_name(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("expected an id of printable characters, without blanks around it")
    return name


@lru_cache(maxsize=4096)  # rows call theirs alike
def _citable(name: str) -> str:
    if claims(visible(f"<snippet id={name}>x</snippet>")) != (Claim(text="x", ids=(name,)),):
        raise ValueError(f"{name!r} cannot be cited; expected an id without commas, quotation marks, < and >")
    return name


def _as_messages(prompt: Any) -> Any:
    if not isinstance(prompt, str | list):
        raise ValueError("expected a string, or a list of chat messages")
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _as_item(said: Any) -> Any:
    if not isinstance(said, str | dict):
        raise ValueError("expected a string, or an object with text and weight")
    return {"text": said} if isinstance(said, str) else said


def _as_snippets(snippets: Any) -> Any:
    if not isinstance(snippets, dict | list):
        raise ValueError("expected an object of id and text, or a list of objects with id and text")
    return [{"id": name, "text": text} for name, text in snippets.items()] if isinstance(snippets, dict) else snippets


Text = Annotated[str, Field(max_length=MOST_CHARACTERS), BeforeValidator(_sound)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_plain_name), BeforeValidator(_sound)]


class _Closed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Message(_Closed):
    role: Literal["system", "user", "assistant"]
    content: Text


class _Item(_Closed):
    text: Annotated[Sentence, BeforeValidator(_sound)]
    weight: Weight = 1.0


class _Snippet(_Closed):
    id: Annotated[Name, AfterValidator(_citable)]
    text: Text


_Items = list[Annotated[_Item, BeforeValidator(_as_item)]]


class Line(_Closed):
    """A line of the file, as it is written."""

    prompt: Annotated[list[_Message], Field(min_length=1), BeforeValidator(_as_messages)]
    positive_rubrics: _Items = []
    negative_rubrics: _Items = []
    snippets: Annotated[list[_Snippet], Field(max_length=MOST_SNIPPETS), BeforeValidator(_as_snippets)] = []
    id: Name | None = None
    topic: Name | None = None
    max_words: Annotated[int, Field(ge=1, le=MOST_CHARACTERS)] | None = None

    def row(self) -> Row:
        """What it says; raises `ValueError` for parts that do not fit together."""
        messages = [Message(role=message.role, content=message.content) for message in self.prompt]
        if messages[-1]["role"] != "user":
            raise ValueError(f"the prompt ends with a message of role {messages[-1]['role']!r}; expected a user's")
        merits = [Item(text=said.text, weight=said.weight) for said in self.positive_rubrics]
        faults = [Item(text=said.text, positive=False, weight=said.weight) for said in self.negative_rubrics]
        items = (*merits, *faults)
        if len(items) > MOST_ITEMS:
            raise ValueError(f"{len(items)} rubric items; expected at most {MOST_ITEMS}")
        if items:
            rubric_items(items, ())
        snippets = {snippet.id: snippet.text for snippet in self.snippets}
        if len(snippets) < len(self.snippets):
            twice, _ = Counter(snippet.id for snippet in self.snippets).most_common(1)[0]
            raise ValueError(f"two snippets have the id {twice!r}; expected one text for each id")
        asked = "\n".join(message["content"] for message in messages)
        if hidden := next((name for name in snippets if name not in asked), None):
            raise ValueError(f"the prompt does not show snippet {hidden!r}; expected each id to stand in it")
        name = self.id or content_id(json.dumps(messages))
        return Row(
            id=name,
            topic=self.topic or name,
            messages=messages,
            items=items,
            snippets=snippets,
            most_words=self.max_words,
        )


# ── the file ─────────────────────────────────────────────────────────────────────────────────────


def load(path: Path, rewards: Rewards | None = None, static: Sequence[Item] = ()) -> tuple[Row, ...]:
    """The rows of a file, in its order; those that `rewards`, where given, cannot score are refused.

    Raises `InputError`, one line that names the file's.
    """
    rows: dict[int, Row] = {}
    lines: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{str(path)!r} line {number}"
        try:
            row = Line.model_validate(_object(line)).row()
            if rewards is not None and "rubric" in rewards.weights:
                rubric_items(row.items, static, instance_only=rewards.instance_rubrics_only)
        except ValidationError as error:
            raise InputError(f"{where}{_fault(error)}") from None
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        if row.id in lines:
            raise InputError(f"{where} has the id {row.id!r}, as line {lines[row.id]} has; give each an id of its own")
        rows[number], lines[row.id] = row, number
    if not rows:
        raise InputError(f"{str(path)!r} has no rows; expected one JSON object with a prompt on each line")
    _refuse_held_out(path, rows)
    return tuple(rows.values())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                    yield number, text
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} line {number} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from None


def _object(line: str) -> dict[str, Any]:
    expected = "expected one JSON object on each line"
    try:
        value = json.loads(line, object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON, {error.msg} at its character {error.pos + 1}; {expected}") from None
    except RecursionError:
        raise ValueError(f"lists or objects stand too deep within each other; {expected}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__}, and no object; {expected}")
    return {name: given for name, given in value.items() if given is not None}  # tables write so what they lack


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice!r} stands twice in one object; expected it once")
    return found


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a whole number of {len(digits)} digits; expected a smaller one")
    return int(digits)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_PARTS: dict[str, type[BaseModel]] = {
    "prompt": _Message,
    "positive_rubrics": _Item,
    "negative_rubrics": _Item,
    "snippets": _Snippet,
}


def _fault(error: ValidationError) -> str:
    """What is wrong with a line; a field that is not known comes before one that is missing, which it may be."""
    faults = error.errors(include_url=False, include_input=False)
    first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    place = [f"number {part + 1}" if isinstance(part, int) else part for part in first["loc"]]
    match first["type"]:
        case "extra_forbidden":
            *place, name = place
            known = list((_PARTS[place[0]] if place else Line).model_fields)
            said = f"unknown field {name!r}; expected {', '.join(known)}{near(name, known)}"
        case "model_type":
            said = f"expected an object of {' and '.join(_PARTS[place[0]].model_fields)}"
        case _:
            said = first["msg"].removeprefix("Value error, ")
    return f", {' '.join(place)}: {said}" if place else f": {said}"


# ── held out ─────────────────────────────────────────────────────────────────────────────────────

AT_ONCE = 256
"""Rows whose texts are searched together."""


def _refuse_held_out(path: Path, rows: Mapping[int, Row]) -> None:
    """Raise `InputError` for a row that names, or holds, what is held out."""
    sealed = catalogue.load("test")
    named = [topic.topic_id for topic in sealed]
    motions = dict(zip(named, map(ngrams, _words([topic.motion for topic in sealed])), strict=True))
    listed = list(rows.items())
    for start in range(0, len(listed), AT_ONCE):
        texts = [(line, text) for line, row in listed[start : start + AT_ONCE] for text in _texts(row)]
        shown = _words([text for _, text in texts])
        for (line, _), words, hits in zip(texts, shown, _hits(shown, motions), strict=True):
            if hits and (found := next((name for name in motions if _near(words, motions[name], hits)), None)):
                _refused(path, line, found)
    for line, row in listed:
        if found := next((name for name in named if name in (row.id, row.topic)), None):
            _refused(path, line, found)


def _refused(path: Path, line: int, topic: str) -> NoReturn:
    raise InputError(
        f"{str(path)!r} line {line} holds the held-out topic {topic!r}, or nearly; nothing may be trained on it: "
        f"remove the line"
    )


def _texts(row: Row) -> Iterator[str]:
    yield from (message["content"] for message in row.messages)
    yield from (of.text for of in row.items)
    yield from row.snippets.values()


def _words(texts: Sequence[str]) -> pl.Series:
    """Texts as lower-case words, a space before and behind each."""
    lower = (" " + pl.Series(texts, dtype=pl.String) + " ").str.to_lowercase()
    return lower.str.replace_all(r"\W{2,}|[^\w ]", " ")  # \W+ says the same, and takes four times as long


Grams = frozenset[tuple[str, ...]]


def _hits(shown: pl.Series, motions: Mapping[str, Grams]) -> Iterator[set[tuple[str, ...]]]:
    """Of each text, those 3-grams of the motions that stand in it; found for all in one pass."""
    sought = sorted({f" {' '.join(gram)} " for grams in motions.values() for gram in grams})
    for found in shown.str.extract_many(sought, overlapping=True).to_list():
        yield {tuple(gram.split()) for gram in found}


def _near(words: str, motion: Grams, hits: set[tuple[str, ...]]) -> bool:
    """Whether as many words in a row as the motion has are a near-duplicate of it; `hits`: 3-grams of any motion."""
    if len(motion & hits) < NEAR_DUPLICATE * len(motion):
        return False
    listed, size = words.split(), len(motion) + 2
    latest = max(0, len(listed) - size)
    found = (at for at, gram in enumerate(zip(listed, listed[1:], listed[2:], strict=False)) if gram in motion)
    starts = {min(max(0, start), latest) for at in found for start in range(at + 3 - size, at + 1)}
    return any(jaccard(ngrams(" ".join(listed[at : at + size])), motion) >= NEAR_DUPLICATE for at in starts)


# ── what an answer earns ─────────────────────────────────────────────────────────────────────────

_TAGS = re.compile(r"</?snippet\b[^<>]*>")


async def earned(
    judge: RubricJudge | None,
    row: Row,
    answer: str,
    rewards: Rewards,
    static: Sequence[Item],
    *,
    cut: bool = False,
    draw: int = 0,
) -> Reward:
    """The reward of an answer to a row, its two questions asked side by side; `cut`: a limit on tokens ended it.

    Its value is None where the judge failed. `draw` tells answers to a row apart. Raises `NotNow`, when nothing of it
    is asked any more, and `ValueError` for a component that is not scored here. Without a judge rubric and citation
    are not.
    """
    if unknown := rewards.weights.keys() - set(SCORED):
        raise ValueError(f"no row is scored on {min(unknown)!r}; expected {', '.join(SCORED)}")
    if judge is None and (asked := rewards.weights.keys() & set(JUDGED)):
        raise ValueError(f"nobody scores {min(asked)!r}; expected a judge")
    block = _said(answer_block(answer))
    weighed = any(rewards.weights.get(name) for name in ("citation", "format"))
    text = block if weighed else _said(visible(answer))

    async def scored(component: Component) -> Items | None:
        match component:
            case "rubric":
                assert judge is not None
                items = rubric_items(row.items, static, instance_only=rewards.instance_rubrics_only)
                return await rubric(judge, row.prompt, text, items, about=row.id, draw=2 * draw)
            case "citation":
                assert judge is not None
                return await _cited(judge, row, block, draw=2 * draw + 1)
            case "format":
                return _format(answer, block, cut)
            case _:
                return _length(text, row.most_words)

    found = await asyncio.gather(*map(scored, rewards.weights), return_exceptions=True)
    components: dict[Component, Items | None] = {}
    for name, items in zip(rewards.weights, found, strict=True):
        if isinstance(items, BaseException):
            raise items
        components[name] = items
    return rewards.compose(components)


def _said(text: str | None) -> str | None:
    """A text; None where there is no word in it."""
    return text if text and re.search(r"\w", _TAGS.sub("", text)) else None


async def _cited(judge: RubricJudge, row: Row, block: str | None, *, draw: int) -> Items | None:
    if block and not row.snippets and not claims(block):
        return (item("citation F1", 1.0),)
    found = await citation(judge, row.prompt, block, row.snippets, about=row.id, draw=draw)
    return None if found is None else found.items


def _format(answer: str, block: str | None, cut: bool) -> Items:
    items = (*well_formed(answer), item("comes to its end", float(not cut)))
    return items if block else worst(scored.item for scored in items)


def _length(text: str | None, most: int | None) -> Items:
    """As it is read, without tags."""
    if most is None:
        return (item("any number of words", float(text is not None)),)
    return length(_TAGS.sub("", text or ""), most=most)
