"""Reading topics from a file: JSONL, or CSV with a header. `motion` is the only column that must be there.

Every fault names the file and the line. Topics of a user's own file get `split = "custom"`, whatever the file
says, and an id made from the motion where it gives none.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from topics.errors import InputError
from topics.topic import Topic

MOST_BYTES = 64 * 1024 * 1024


def read(path: Path) -> list[Topic]:
    """The topics of a file as they stand there, in its order; ids are unique."""
    topics: list[Topic] = []
    seen: dict[str, int] = {}
    for line, row in _rows(path):
        topic = _topic(path, line, row, seen)
        seen[topic.topic_id] = line
        topics.append(topic)
    if not topics:
        raise InputError(
            f"no topics in {str(path)!r}; expected one JSON object a line, or a CSV with a 'motion' column"
        )
    return topics


def read_custom(path: Path) -> list[Topic]:
    """A user's own topics: as `read`, with `split = "custom"`."""
    return [topic.model_copy(update={"split": "custom"}) for topic in read(path)]


def _topic(path: Path, line: int, row: dict[str, Any], seen: dict[str, int]) -> Topic:
    where = f"{str(path)!r} line {line}"
    if not isinstance(motion := row.get("motion"), str) or not motion.strip():
        raise InputError(f"{where} has no 'motion'; expected a sentence to debate")
    row = {"topic_id": _fresh_slug(motion, seen), **{k: v for k, v in row.items() if v not in (None, "")}}
    try:
        topic = Topic.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}, field {field!r}: {first['msg']}") from None
    if topic.topic_id in seen:
        raise InputError(
            f"{where} repeats topic_id {topic.topic_id!r} of line {seen[topic.topic_id]}; ids must be unique"
        )
    return topic


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _text(path)
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        try:
            for row in reader:
                yield reader.line_num, {key: _cell(key, value) for key, value in row.items() if key}
        except csv.Error as error:
            raise InputError(f"{str(path)!r} line {reader.line_num} is not CSV: {error}") from None
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
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
    except (json.JSONDecodeError, RecursionError):
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


def _fresh_slug(motion: str, taken: dict[str, int]) -> str:
    """A readable id made from the first words of a motion, numbered where it is taken."""
    slug = "-".join(re.findall(r"[a-z0-9]+", motion.lower())[:8])[:60].strip("-") or "topic"
    fresh, number = slug, 2
    while fresh in taken:
        fresh, number = f"{slug}-{number}", number + 1
    return fresh
