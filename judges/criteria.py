"""What a judge weighs: criteria out of a rubric file.

    [[criteria]]                     # judges/rubrics/debate.toml, or a file of one's own
    name = "evidence"
    weight = 0.3
    description = "Is what a side claims supported?"

    rubric = criteria.load("debate")       # a built-in one by name, or the path of a .toml

Weights are relative: they are brought to a sum of 1. A file that does not fit is refused in a line that says where.
"""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runs.settings import read_toml
from topics.errors import InputError, near
from topics.topic import Sentence

FOLDER = Path(__file__).parent / "rubrics"

Weight = Annotated[float, Field(strict=True, gt=0, le=1_000_000, allow_inf_nan=False)]
M = TypeVar("M", bound=BaseModel)


class Criterion(BaseModel):
    """One thing that both sides are scored on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
    description: Sentence
    """What to look for, told to the judge."""
    weight: Weight = 1.0
    """Its share of the total; those of a rubric sum to 1 once it is loaded."""


class _Rubric(BaseModel):
    model_config = ConfigDict(extra="forbid")

    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1, max_length=20)]


def load(named: str | Path) -> tuple[Criterion, ...]:
    """The criteria of a rubric; raises `InputError`."""
    criteria = from_file(named, _Rubric).criteria
    names = [criterion.name for criterion in criteria]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"rubric {str(named)!r} names criterion {twice!r} twice; names must be unique")
    total = sum(criterion.weight for criterion in criteria)
    return tuple(criterion.model_copy(update={"weight": criterion.weight / total}) for criterion in criteria)


def from_file(named: str | Path, model: type[M]) -> M:
    """A rubric file as a `model`: that of a built-in rubric, or the .toml at a path."""
    built_in = {path.stem: path for path in FOLDER.glob("*.toml")}
    path = built_in.get(str(named), Path(named))
    if path.suffix != ".toml":
        raise InputError(
            f"unknown rubric {str(named)!r}; expected {', '.join(sorted(built_in))} or the path of a .toml"
            f"{near(str(named), built_in)}"
        )
    try:
        return model.model_validate(read_toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(f"number {part + 1}" if isinstance(part, int) else str(part) for part in first["loc"])
        raise InputError(f"rubric {str(path)!r}, {where}: {first['msg']}") from None
