"""The format of a debate: its slots, as data.

`load("standard")` reads `arena/formats/standard.toml`; `load("my-format.toml")` a file of the user's own. Sides
must alternate, and a format that does not is refused with the number of the slot.
"""

from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runs.records import Slot
from runs.settings import read_toml
from topics import Side
from topics.errors import InputError, is_file, near

FOLDER = Path(__file__).parent / "formats"


class SlotEntry(BaseModel):
    """One `[[slots]]` of a format file."""

    model_config = ConfigDict(extra="forbid")

    side: Side
    stage: str = Field(min_length=1, max_length=60)
    words: int = Field(ge=1, le=20_000)
    instruction: str = Field(default="", max_length=5_000)


class FormatFile(BaseModel):
    """A format file."""

    model_config = ConfigDict(extra="forbid")

    slots: list[SlotEntry]


def load(name: str) -> tuple[Slot, ...]:
    """The slots of a format, by name or by file."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name.replace('/', ' ')}.toml"
    if not is_file(path):
        known = [file.stem for file in FOLDER.glob("*.toml")]
        raise InputError(f"no format {name!r}; expected one of {known} or a .toml file{near(name, known)}")
    try:
        entries = FormatFile.model_validate(read_toml(path)).slots
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise InputError(f"{str(path)!r}, {where}: {first['msg']}") from None
    if len(entries) < 2 or len(entries) % 2:
        raise InputError(f"{str(path)!r} has {len(entries)} slots; expected an even number, at least 2")
    for number, (one, other) in enumerate(pairwise(entries), 2):
        if one.side == other.side:
            raise InputError(
                f"{str(path)!r}: slot {number} is {other.side!r}, as slot {number - 1}; sides must alternate"
            )
    return tuple(Slot(turn=number, **entry.model_dump()) for number, entry in enumerate(entries, 1))
