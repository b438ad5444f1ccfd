"""Loading topics: `load("train")`, `load("test")`, `load("all")`, `load("id,id")` or `load("my-topics.csv")`.

The sealed topics are verified every time they are read. A user's own file may not take the name of a sealed
topic: what is held out must stay recognisable by its id.
"""

from collections.abc import Sequence
from pathlib import Path

from topics import files, seal
from topics.errors import InputError, near
from topics.topic import Topic

FOLDER = Path(__file__).parent
MOTIONS = FOLDER / "motions.jsonl"
MANIFEST = FOLDER / "manifest.json"
SPLITS = ("train", "test", "all")


def load(which: str | Path | Sequence[str] = "all") -> list[Topic]:
    """Topics by split, by ids (a list, or one string with commas), or from a user's own file."""
    if isinstance(which, Path):
        return _own(which)
    if isinstance(which, str):
        if which in SPLITS:
            return [topic for topic in sealed() if which in ("all", topic.split)]
        if Path(which).suffix.lower() in (".jsonl", ".csv", ".json") or "/" in which:
            return _own(Path(which))
        which = [name.strip() for name in which.split(",") if name.strip()]
    return _by_id(which)


def sealed() -> list[Topic]:
    """All 259 topics, in file order, their seal verified."""
    topics = files.read(MOTIONS)
    seal.verify(topics, MANIFEST)
    return topics


def _by_id(ids: Sequence[str]) -> list[Topic]:
    if not ids:
        raise InputError(f"no topics named; expected one of {', '.join(SPLITS)}, topic ids, or a file")
    known = {topic.topic_id: topic for topic in sealed()}
    for topic_id in ids:
        if topic_id not in known:
            hint = near(topic_id, [*SPLITS, *known])
            raise InputError(
                f"unknown topics {topic_id!r}: expected train, test, all, topic ids (python -m topics stats) "
                f"or a .jsonl or .csv file{hint}"
            )
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if list(ids).count(i) > 1)
        raise InputError(f"topic {twice!r} is named twice; name each topic once")
    return [known[topic_id] for topic_id in ids]


def _own(path: Path) -> list[Topic]:
    topics = files.read_custom(path)
    known = {topic.topic_id for topic in sealed()}
    for topic in topics:
        if topic.topic_id in known:
            raise InputError(
                f"{str(path)!r} uses the id of a sealed topic, {topic.topic_id!r}; give it another topic_id, "
                f"or name the sealed one: --topics {topic.topic_id}"
            )
    return topics
