"""Reading topics from a file: JSONL, or CSV with a header. `motion` is the only column that must be there.

Every fault names the file and the line. Topics of a user's own file get `split = "custom"`, whatever the file
says, and an id made from the motion where it gives none.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from topics.errors import InputError
from topics.topic import Topic

MOST_BYTES = 64 * 1024 * 1024


def read(path: Path) -> list[Topic]:
    """The topics of a file as they stand there, in its order; ids are unique."""
    return _topics(path, list(_rows(path)))


def read_custom(path: Path) -> list[Topic]:
    """A user's own topics: as `read`, but with `split = "custom"`, whatever the file says."""
    return _topics(path, [(line, row | {"split": "custom"}) for line, row in _rows(path)])


def _topics(path: Path, rows: list[tuple[int, dict[str, Any]]]) -> list[Topic]:
    if not rows:
        expected = "one JSON object a line, or a CSV with a 'motion' column"
        raise InputError(f"no topics in {str(path)!r}; expected {expected}")
    given = {row.get("topic_id") for _, row in rows if isinstance(row.get("topic_id"), str)}
    slugs: Counter[str] = Counter()
    seen: dict[str, int] = {}
    topics = []
    for line, row in rows:
        topic = _topic(path, line, {key: value for key, value in row.items() if value not in (None, "")}, given, slugs)
        if topic.topic_id in seen:
            first = seen[topic.topic_id]
            raise InputError(f"{str(path)!r} line {line} repeats topic_id {topic.topic_id!r} of line {first}")
        seen[topic.topic_id] = line
        topics.append(topic)
    return topics


def _topic(path: Path, line: int, row: dict[str, Any], given: set[Any], slugs: Counter[str]) -> Topic:
    where = f"{str(path)!r} line {line}"
    if not isinstance(motion := row.get("motion"), str) or not motion.strip():
        raise InputError(f"{where} has no 'motion'; expected a sentence to debate")
    try:
        return Topic.model_validate(row if "topic_id" in row else row | {"topic_id": _slug(motion, given, slugs)})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}, field {field!r}: {first['msg']}") from None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _text(path)
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text), strict=True)
        try:
            names = reader.fieldnames or []
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise InputError(f"{str(path)!r} has two columns {twice!r}; expected one of each name")
            for row in reader:
                yield reader.line_num, {key: _cell(key, value) for key, value in row.items() if key}
        except csv.Error as error:
            raise InputError(f"{str(path)!r} line {reader.line_num} is not CSV: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand in a string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{str(path)!r} line {number} is not JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"{str(path)!r} line {number} is {type(row).__name__}, not an object with a 'motion'")
        yield number, row


def _cell(key: str, value: Any) -> Any:
    """A CSV cell; `points` holds JSON there."""
    if key != "points" or not value:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # the model's own message then names the field


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{str(path)!r} is larger than {MOST_BYTES // 2**20} MiB; expected a file of motions")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read topics from {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is not UTF-8 text") from None
    except ValueError as error:  # a path that can be none
        raise InputError(f"cannot read topics from {str(path)!r}: {error}") from None


def _slug(motion: str, given: set[Any], slugs: Counter[str]) -> str:
    """A readable id made from the first words of a motion, numbered where it is taken."""
    slug = "-".join(re.findall(r"[a-z0-9]+", motion.lower())[:8])[:60].strip("-") or "topic"
    while True:
        slugs[slug] += 1
        fresh = slug if slugs[slug] == 1 else f"{slug}-{slugs[slug]}"
        if fresh not in given:
            return fresh
