"""The seal: what proves that the 259 topics are the ones that results were reported on.

`manifest.json` holds a SHA-256 per topic (over canonical JSON, `split` included) and one root over the sorted
list. Loading verifies it and names what differs, so that nobody trains on a topic that was once held out, or
reports on one that was changed, without being told.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from topics.errors import InputError
from topics.topic import Topic


def digests(topics: list[Topic]) -> dict[str, str]:
    """SHA-256 by topic id, ids sorted."""
    return {topic.topic_id: topic.digest for topic in sorted(topics, key=lambda t: t.topic_id)}


def root(by_id: dict[str, str]) -> str:
    """One SHA-256 over the sorted list of `id digest` lines."""
    lines = "".join(f"{topic_id} {digest}\n" for topic_id, digest in sorted(by_id.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def manifest(topics: list[Topic], seed: int) -> dict[str, Any]:
    """What `manifest.json` holds; `seed` is the one the split was drawn from."""
    by_id = digests(topics)
    counts = {split: sum(t.split == split for t in topics) for split in ("train", "test")}
    return {"version": 1, "split_seed": seed, **counts, "root": root(by_id), "topics": by_id}


def verify(topics: list[Topic], path: Path) -> None:
    """Raise `InputError` that names the topics by which `topics` and the manifest at `path` differ."""
    try:
        sealed = json.loads(path.read_text(encoding="utf-8"))
        want: dict[str, str] = sealed["topics"]
        stated = sealed["root"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the seal {path.name!r} cannot be read ({error}); restore it: git checkout topics/") from None
    have = digests(topics)
    parts = [
        ("changed", [i for i in want if i in have and have[i] != want[i]]),
        ("missing", [i for i in want if i not in have]),
        ("not sealed", [i for i in have if i not in want]),
    ]
    faults = [
        f"{what}: {', '.join(ids[:5])}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''}"
        for what, ids in parts
        if ids
    ]
    if not faults and root(want) != stated:
        faults = ["the manifest's root does not match its own list"]
    if faults:
        raise InputError(f"the topics differ from their seal ({'; '.join(faults)}); restore them: git checkout topics/")
