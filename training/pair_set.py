"""A pair set: preference pairs on disk, each text and each prompt once.

    texts.parquet      text_id (digest), text
    prompts.parquet    prompt_id, topic_id, side, turn, messages
    pairs.parquet      the key, ids of prompt and texts, where they come from, judge, margin, source
    pairs.json         settings, counts of every step, digests; written last, and what makes a folder a pair set

`load` is the gate through which pairs reach training: it refuses files that were changed, and any held-out topic.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

import topics as catalogue
from runs.adapters import Context
from runs.files import replace_text, sha256_of
from runs.spec import Spec
from runs.tables import Tables
from topics.errors import InputError

NAME = "pairs.json"
FILES = ("texts", "prompts", "pairs")


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """Pairs in memory: three frames as in their files, and the counts of every step."""

    texts: pl.DataFrame
    prompts: pl.DataFrame
    pairs: pl.DataFrame
    run: str
    """The run's id."""
    judge: str
    context: Context
    chosen: list[str]
    counts: dict[str, int]

    @property
    def digest(self) -> str:
        """Of what is in the tables, whatever the settings or the file's compression."""
        rows = (sha256(repr(getattr(self, name).rows()).encode()).hexdigest() for name in FILES)
        return sha256("".join(rows).encode()).hexdigest()


def write(pair_set: PairSet, folder: Path, *, run: Tables, settings: dict[str, Any]) -> None:
    """Write a pair set: the three tables, then `pairs.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        getattr(pair_set, name).write_parquet(folder / f"{name}.parquet", compression="zstd", compression_level=9)
    body = {
        "version": 1,
        "run": pair_set.run,
        "run_spec": Spec.read(run.folder).digest,
        "judge": pair_set.judge,
        "context": pair_set.context,
        "digest": pair_set.digest,
        "chosen": pair_set.chosen,
        "settings": settings,
        "counts": pair_set.counts,
        "sha256": {name: sha256_of(folder / f"{name}.parquet") for name in FILES},
    }
    replace_text(folder / NAME, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def load(folder: Path) -> PairSet:
    """A pair set from its folder; `InputError` where it was changed or holds a held-out topic, which is named."""
    try:
        body: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        changed = [name for name in FILES if sha256_of(folder / f"{name}.parquet") != body["sha256"][name]]
        about = {name: body[name] for name in ("run", "judge", "context", "chosen", "counts")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(folder)!r} cannot be read as a pair set ({type(error).__name__}: {error})") from None
    if changed:
        which = ", ".join(changed)
        raise InputError(f"{str(folder)!r}: {which} differ from what pairs.json says; make the pairs again")
    texts, prompts, pairs = (pl.read_parquet(folder / f"{name}.parquet", glob=False) for name in FILES)
    pair_set = PairSet(texts=texts, prompts=prompts, pairs=pairs, **about)
    held_out = {topic.topic_id for topic in catalogue.load("test")}
    found = held_out & {*pair_set.prompts["topic_id"], *pair_set.pairs["topic_id"]}
    if found:
        raise InputError(f"{str(folder)!r} holds the held-out topic {min(found)!r}; nothing may be trained on it")
    return pair_set


def export_jsonl(pair_set: PairSet, path: Path, rows: int = 8_192) -> None:
    """Pairs with their full texts as TRL reads them: `prompt` (messages), `chosen`, `rejected` (one message each)."""
    reply = pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.col("text")))
    texts = pair_set.texts.select("text_id", reply=reply)
    joined = {
        "prompt": pair_set.prompts.select("prompt_id", prompt="messages"),
        "chosen": texts.select(chosen_text_id="text_id", chosen="reply"),
        "rejected": texts.select(rejected_text_id="text_id", rejected="reply"),
    }
    with path.open("wb") as file:
        for block in pair_set.pairs.iter_slices(rows):  # full texts stand in memory for one block at a time
            for frame in joined.values():
                block = block.join(frame, on=frame.columns[0], maintain_order="left")
            block.select(list(joined)).write_ndjson(file)
