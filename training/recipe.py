"""What every training command is told, and where its numbers come from: a recipe, `--config`, the command line.

A recipe is a TOML file with a table for each command that it is for: `[sft]`, `[dpo]`, `[grpo]` and
`[debates]` (GRPO in whole debates), `[loop]`; those in
`training/recipes/` are known by name. Any of its numbers can be given on the command line, which wins, or in a
`--config` file. The default recipe is `tiny` for the tiny base and what was made from it; for any other base it is
`persuade`, in GRPO `debate`, or `refiner` for rows of a file.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PrivateAttr
from pydantic_settings import CliSuppress

from arena.models import Dtype
from runs import NEWEST, OUT, adapters
from runs.adapters import Context
from runs.settings import Command, parse, peek, read_toml
from topics.errors import InputError, near

FOLDER = Path(__file__).parent / "recipes"
TINY = "tiny"

Count = Annotated[int, Field(ge=1, le=10**9)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Recipe(Command):
    """Settings of which a recipe fills those without a default."""

    recipe: str | None = None
    """tiny | persuade | debate | refiner | a .toml file (default: by the base)"""
    base: str | None = None
    """an adapter's id, a model's folder, a hub name, or tiny"""
    config: Path | None = None
    """settings from a TOML file"""
    _typed: frozenset[str] = PrivateAttr(frozenset())

    @property
    def typed(self) -> frozenset[str]:
        """The settings that the user gave, on the command line or in `--config`; the others are the recipe's."""
        return self._typed


class Training(Recipe):
    """The settings that all training commands share."""

    from_run: str = NEWEST
    """a run's folder or id (default: the newest finished one)"""
    judge: str | None = None
    """whose verdicts (default: the run's only judge)"""
    context: Context
    """what a prompt shows: key | transcript"""
    epochs: Positive
    """passes over what is trained on"""
    learning_rate: Positive
    """at its peak"""
    schedule: CliSuppress[Literal["linear", "cosine", "constant_with_warmup"]]
    """how the learning rate falls"""
    warmup: CliSuppress[Share]
    """share of the steps in which the learning rate rises"""
    weight_decay: CliSuppress[NotNegative]
    """of AdamW"""
    max_grad_norm: CliSuppress[Positive]
    """gradients are clipped at this norm"""
    max_length: Count
    """most tokens of prompt and speech together"""
    too_long: Share = 0.01
    """most that may be left out as longer, as a share"""
    rank: Count
    """of the adapter"""
    alpha: CliSuppress[Positive]
    """of the adapter: its output is scaled by alpha / rank"""
    dropout: CliSuppress[Share]
    """on the adapter's input"""
    four_bit: bool = False
    """quantise the base (NF4): QLoRA"""
    dtype: CliSuppress[Dtype]
    """of the base's weights, where those are not trained"""
    mixed: CliSuppress[bool]
    """compute in bfloat16 where that is safe"""
    gradient_checkpointing: CliSuppress[bool]
    """less memory for more time"""
    held_back: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the train topics kept for checks"""
    check_every: Count
    """steps between checks and checkpoints"""
    keep: Count = 1
    """checkpoints kept, the newest"""
    keep_gb: CliSuppress[Positive | None] = None
    """GB that they may take together"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """of weights, order and dropout"""
    out: Path = OUT
    """where adapters and all else are made"""
    resume: str | None = None
    """go on with a training (default: the newest unfinished)"""
    dry_run: bool = False
    """say what would be done, and write nothing"""


NOT_STORED = {"resume", "config", "dry_run", "out", "keep", "keep_gb", "max_cost"}
"""Settings that do not decide what comes out."""
PLACES = {"from_run", "base", "pairs", "data", "roster"}
"""Settings that name where something lies; a record has what they came to."""

T = TypeVar("T", bound=Recipe)


def parse_training(settings: type[T], argv: list[str] | None, section: str) -> T:
    """Fill a command's settings; `section` is its table in a recipe."""
    words = sys.argv[1:] if argv is None else argv
    given = peek(words, "recipe", "base", "config", "out", "data")
    config = given["config"] or ""
    stated = read_toml(Path(config)) if config.endswith(".toml") else {}
    if stated:
        given |= {name: stated[name] for name in ("recipe", "base", "data") if given[name] is None and name in stated}
    recipe = given["recipe"] or default(given["base"], Path(given["out"] or OUT), section, rows=bool(given["data"]))
    values = table(str(recipe), section)
    for name in values:
        if name not in settings.model_fields:
            hint = near(name, settings.model_fields)
            raise InputError(f"recipe {str(recipe)!r}, [{section}]: unknown setting {name!r}{hint}")
    optional: dict[str, str] = {name: NEWEST for name in ("from_run", "resume") if name in settings.model_fields}
    filled = parse(settings, argv, optional=optional, defaults=values | {"recipe": recipe})
    named = [word.partition("=")[0].removeprefix("--").partition(".")[0] for word in words if word.startswith("--")]
    flags = {name.replace("-", "_") for name in named}
    typed = flags | {flag.removeprefix("no_") for flag in flags} | set(stated)
    filled._typed = frozenset(typed & set(settings.model_fields))
    return filled


def default(base: str | None, out: Path = OUT, section: str = "dpo", *, rows: bool = False) -> str:
    """The recipe of a base that is named without one, for a command; `rows`: for rows of a file."""
    if rows:
        return "refiner"
    usual = "debate" if section in ("grpo", "debates") else "persuade"
    if base in (None, TINY):
        return TINY
    try:
        recipe = adapters.find(str(base), out / "adapters").recipe
    except InputError:
        return usual  # a model's folder or a hub name
    return recipe if recipe in known() and has(recipe, section) else usual


def has(recipe: str, section: str) -> bool:
    """Whether a recipe that comes with the package has such a table."""
    return section in read_toml(FOLDER / f"{recipe}.toml")


def known() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def table(recipe: str, section: str) -> dict[str, Any]:
    """One table of a recipe, by its name or from a file."""
    path = Path(recipe) if recipe.endswith(".toml") else FOLDER / f"{recipe}.toml"
    if path.parent == FOLDER and recipe not in known():
        raise InputError(f"no recipe {recipe!r}; expected {', '.join(known())}, or a .toml file{near(recipe, known())}")
    values = read_toml(path).get(section)
    if not isinstance(values, dict):
        raise InputError(f"recipe {recipe!r} has no table [{section}]; add one")
    return values
