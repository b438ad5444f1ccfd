"""The registry of adapters: every policy that was trained here, what it is, and whether it is still that.

An entry is a folder `runs/out/adapters/<id>/`: the weights, a README, and `adapter.json`, which is written last.
Its `form` says what the weights are: `lora` (PEFT's two files, loaded over a base) or `full` (a whole model with its
tokenizer, itself a base for others). `training` writes entries, `arena` seats them, and both read them here:

    adapter = find("dpo-1c9e0b7a44d2")
    verify(adapter)
    source = base_source(adapter)      # what to load: a folder or a hub name
    check_base(adapter, source)        # ... and whether it is the one that was trained on

The id comes from the weights and from what made them, never from the clock, so that a renamed folder is noticed and
the same training gives the same entry. What lies in an entry is data: names of files are flat, kinds of files that
can hold code are refused, nothing is unpickled or imported, and what is wrong is one line.

    python -m runs.adapters list
"""

import json
import re
import stat
import sys
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic_settings import CliPositionalArg

from runs.files import replace_text, sha256_of
from runs.records import content_id
from runs.settings import Command, parse
from topics.errors import InputError, command, is_file, near, one_line

OUT = Path("runs/out/adapters")
NAME = "adapter.json"
README = "README.md"
VERSION = 1
LARGEST = 1 << 20
"""Bytes that a JSON file of an entry may have, where it is read here; an honest one has some thousands."""

MODEL = re.compile(r"config\.json|[^/]+\.safetensors(\.index\.json)?|tokenizer(_config)?\.json|chat_template\.jinja")
"""The files that make a model what it is."""
LORA = ("adapter_config.json", "adapter_model.safetensors")
KINDS = (".safetensors", ".json", ".jsonl", ".jinja", ".txt", ".model", ".toml", ".md", ".parquet", ".png", ".svg")
"""Kinds of files that an entry may hold: none of them can hold code that somebody might run."""
IMPORTING = ("auto_mapping", "megatron_config", "corda_config", "lora_ga_config", "eva_config", "arrow_config")
"""Fields of `adapter_config.json` through which PEFT imports modules or opens other files; none is used here."""

MADE_BY = {"form", "method", "parent", "recipe", "settings", "context", "four_bit", "pairs", "run", "judge", "seed"}
"""Fields that the id comes from, besides the digests of weights and base."""

Form = Literal["lora", "full"]
Context = Literal["key", "transcript"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,23}-[0-9a-f]{12}$")]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Base(_Stored):
    """The model that a policy was trained from."""

    name: Annotated[str, Field(min_length=1, max_length=4096)]
    """An absolute path, a hub name, the id of an entry, or "tiny"."""
    digest: Sha256
    """As of `digest_of_model`."""
    adapter: Id | None = None
    """Its id, where the base is itself an entry of form `full`."""


class Said(_Stored):
    """A chat message of the canary."""

    role: Annotated[str, Field(max_length=40)]
    content: Annotated[str, Field(max_length=10_000)]


class Canary(_Stored):
    """A fixed speech, and what the policy thought of each of its tokens when it was registered."""

    messages: Annotated[tuple[Said, ...], Field(min_length=1, max_length=10)]
    speech: Annotated[str, Field(max_length=10_000)]
    prompt_digest: Sha256
    """Over the tokens of the prompt, as of `tokens_digest`."""
    tokens: tuple[int, ...]
    """Of the speech, with what ends a turn."""
    with_adapter: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    """Natural log-probability of each token under the policy."""
    without: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None
    """Under its base; None for a policy of form `full`."""
    dtype: str
    """Of the weights it was computed with; of the computation, where the base is quantised."""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        without = self.with_adapter if self.without is None else self.without
        if not self.tokens or not len(self.tokens) == len(self.with_adapter) == len(without):
            raise ValueError("the canary needs one log-probability for each of its tokens")
        return self


def _told(value: Any) -> Any:
    """JSON has no infinity: a number that is not finite is kept in words."""
    if isinstance(value, dict):
        return {key: _told(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_told(inner) for inner in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


class Adapter(_Stored):
    """An entry: `adapter.json`, and where it lies."""

    id: Id
    form: Form
    method: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,23}$")]
    """How it was trained: sft, dpo, ..."""
    base: Base
    parent: Id | None
    """The policy that training began with, where that is another entry."""
    recipe: str
    settings: Annotated[dict[str, JsonValue], BeforeValidator(_told)]
    """Of the training, resolved; without folders, so that the id is the same on any machine."""
    context: Context
    """The prompt it was trained on: the key alone, or what had been said before."""
    four_bit: bool
    """The base was quantised (NF4, double quantisation) while it was trained, and is so when it plays."""
    pairs: str | None
    """Digest of the pair set."""
    tasks: str | None = None
    """Digest of what was spoken to, in GRPO."""
    run: str | None
    """The run it was trained from."""
    judge: str | None
    seed: int
    metrics: Annotated[dict[str, int | float | str], BeforeValidator(_told)]
    """As measured on held-back train topics. `SHOWN` are the names that `list` has columns for."""
    canary: Canary
    made_at: AwareDatetime
    files: dict[FileName, Sha256]
    """Every file of the entry but `adapter.json` and the README."""
    version: int
    folder: Path = Field(exclude=True)
    """Where the entry lies; not stored."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if odd := [name for name in self.files if Path(name).suffix not in KINDS]:
            raise ValueError(f"files: {odd[0]!r} is of a kind that an entry may not hold; expected {', '.join(KINDS)}")
        needed = set(LORA) if self.form == "lora" else {"config.json", "tokenizer.json"}
        if missing := needed - set(self.files):
            raise ValueError(f"files: a {self.form} entry needs {min(missing)!r}")
        weights = [name for name in self.files if name.endswith(".safetensors")]
        if self.form == "full" and (set(LORA) & set(self.files) or not weights):
            raise ValueError("files: a full entry is a model in *.safetensors without an adapter_config.json")
        if (self.canary.without is None) != (self.form == "full"):
            raise ValueError("the canary of a lora entry has log-probabilities without the adapter, of a full one none")
        return self

    @property
    def weights_digest(self) -> str:
        """SHA-256 over what is loaded; for a full entry that of `digest_of_model`."""
        wanted = LORA if self.form == "lora" else [name for name in self.files if MODEL.fullmatch(name)]
        return _digest({name: self.files[name] for name in wanted})

    @property
    def figures(self) -> str:
        """The metrics that are measured, on one line."""
        measured = ((name, value) for name, value in self.metrics.items() if isinstance(value, float))
        return ", ".join(f"{name} {figure(value)}" for name, value in measured)

    @property
    def content(self) -> str:
        """The id that the weights and what made them come to."""
        made = json.dumps(self.model_dump(mode="json", include=MADE_BY), sort_keys=True)
        return f"{self.method}-{content_id(self.weights_digest, self.base.digest, made, size=6)}"


SHOWN = ("accuracy", "perplexity", "loss")
"""Metrics that `list` has a column for: preference accuracy (0 to 1), perplexity and loss of held-back texts."""


def write(adapter: Adapter) -> None:
    """Write `adapter.json` into the entry's folder, whole or not at all."""
    body = json.loads(adapter.model_dump_json())
    body["digest"] = _digest(body)
    replace_text(adapter.folder / NAME, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def load(folder: Path) -> Adapter:
    """The entry in `folder`, if its record is sound; the other files are `verify`'s business."""
    body = _json(folder / NAME)
    version = body.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(f"{str(folder)!r} has version {version}, newer than {VERSION}; update debate-arena")
    stored = body.pop("digest", None)
    try:
        if stored != _digest(body):
            raise InputError(f"{str(folder / NAME)!r} was changed by hand: its digest does not match; restore it")
        adapter = Adapter.model_validate(body | {"folder": folder})
    except ValidationError as error:
        raise InputError(f"{str(folder / NAME)!r} is not the record of an adapter: {explain(error)}") from None
    except RecursionError:
        raise InputError(f"{str(folder / NAME)!r} is not the record of an adapter: it is nested too deep") from None
    if adapter.id != adapter.content:
        raise InputError(f"{str(folder / NAME)!r} says {adapter.id}, but what it describes is {adapter.content}")
    return adapter


def explain(error: ValidationError) -> str:
    """The first fault of a record, as a phrase that names the field."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    said = first["msg"].removeprefix("Value error, ")
    return one_line(f"{where}: {said}" if where else said)


def folders(out: Path = OUT) -> list[Path]:
    """The folders of all entries under `out`, by name; what is still being made is hidden, and left out."""
    if not out.is_dir():
        return []
    return sorted(folder for folder in out.iterdir() if not folder.name.startswith(".") and is_file(folder / NAME))


def listed(out: Path = OUT) -> list[Adapter]:
    """All entries, oldest first. Raises `InputError` at one that cannot be read."""
    return sorted(map(load, folders(out)), key=lambda adapter: (adapter.made_at, adapter.id))


def find(which: str | Path, out: Path = OUT) -> Adapter:
    """The entry that is meant by an id under `out`, or by a path."""
    for folder in (Path(which), out / which):
        if is_file(folder / NAME):
            return load(folder)
    known = [folder.name for folder in folders(out)]
    what = f"no adapter {str(which)!r}; expected an entry's folder or an id under {str(out)!r}"
    if not known:
        raise InputError(f"{what}, which holds none; train one: python -m training.sft --from-run")
    raise InputError(f"{what}{near(str(which), known)}; list them: python -m runs.adapters list")


def verify(adapter: Adapter) -> None:
    """Check that an entry is what it was when it was registered; `InputError` names the first thing that is not."""
    folder = adapter.folder
    name = folder.resolve().name
    if name != adapter.id:
        raise InputError(f"the folder {name!r} holds {adapter.id}; an entry's folder is not renamed: name it so again")
    try:
        here = {path.name: path.lstat().st_mode for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"cannot read {str(folder)!r} ({error.strerror or error})") from None
    for name, mode in sorted(here.items()):
        if not stat.S_ISREG(mode):
            raise InputError(f"{adapter.id}: {name!r} is a folder or a link, and an entry holds files only; remove it")
        if name not in {*adapter.files, NAME, README}:
            raise InputError(f"{adapter.id}: {name!r} is none of the files it was registered with; remove it")
    for name, digest in adapter.files.items():
        if name not in here:
            raise InputError(f"{adapter.id}: {name!r} is missing; restore it, or train again")
        if _sha256(folder / name) != digest:
            raise InputError(f"{adapter.id}: {name!r} was changed since it was registered; restore it, or train again")
    if adapter.form == "lora":
        check_config(folder / LORA[0])


def check_config(path: Path) -> None:
    """Refuse an `adapter_config.json` that is no plain LoRA's, or through which PEFT would import or open something."""
    config = _json(path)
    if config.get("peft_type") != "LORA":
        found = one_line(repr(config.get("peft_type")), 40)
        raise InputError(f"{str(path)!r} is of type {found}; only LoRA adapters (peft_type LORA) can be seated")
    if used := [name for name in IMPORTING if config.get(name)]:
        raise InputError(f"{str(path)!r} sets {used[0]!r}, through which PEFT may run code; expected null")


def base_source(adapter: Adapter, out: Path | None = None) -> str:
    """What to load for a policy: a folder or a hub name. A full entry is its own; a lora entry names its base.

    `out` is the registry in which a base that is itself an entry is looked up: by default the one `adapter` is in.
    """
    if adapter.form == "full":
        return str(adapter.folder)
    base = adapter.base
    if base.adapter is not None:
        entry = find(base.adapter, out or adapter.folder.parent)
        verify(entry)
        if entry.form != "full" or entry.weights_digest != base.digest:
            raise InputError(f"{adapter.id} was trained on another base than {entry.id} is now; restore that one")
        return str(entry.folder)
    if Path(base.name).is_dir():
        return base.name
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base.name):
        return base.name
    raise InputError(f"the base of {adapter.id}, {one_line(base.name)!r}, is not there; put it back")


def check_base(adapter: Adapter, source: str) -> None:
    """Refuse a folder that is not the base of `adapter`; reads every weight.

    A hub name is not looked up here: of that, the canary tells.
    """
    if not Path(source).is_dir():
        return
    expected = adapter.weights_digest if adapter.form == "full" else adapter.base.digest
    if digest_of_model(Path(source)) != expected:
        raise InputError(
            f"{str(source)!r} is not the base that {adapter.id} was trained on, "
            f"{adapter.base.adapter or one_line(adapter.base.name)!r}: its digest differs"
        )


def digest_of_model(folder: Path) -> str:
    """SHA-256 over names and digests of a model's files (`MODEL`), wherever the folder lies.

    Pickled weights do not count: a folder without *.safetensors is an `InputError`.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if MODEL.fullmatch(path.name))
        if LORA[0] in names or LORA[1] in names or (folder / LORA[0]).exists():
            raise InputError(f"{str(folder)!r} holds an adapter, not a model; merge it first, or name its base")
        if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
            raise InputError(f"{str(folder)!r} is no model: expected config.json and weights in *.safetensors")
        return _digest({name: _sha256(folder / name) for name in names})
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be read as a model ({error.strerror or error})") from None


def tokens_digest(tokens: Sequence[int]) -> str:
    """SHA-256 over tokens."""
    return _digest(list(tokens))


def _digest(body: Any) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of an entry, which may hold anything: also a link, a pipe, or gigabytes."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise ValueError(f"expected a file of at most {LARGEST:,} bytes")
        body = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(body, dict):
            raise ValueError("expected an object")
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(getattr(error, "strerror", None) or str(error))
        raise InputError(f"{str(path)!r} cannot be read: {reason}") from None
    return body


_known: dict[tuple[int, ...], str] = {}


def _sha256(path: Path) -> str:
    """SHA-256 of a file, remembered as long as the file stays as it is: several adapters may share one large base."""
    try:
        found = path.stat()
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key not in _known:
            digest = sha256_of(path)
            if abs(time.time() - found.st_ctime) < 2:
                return digest  # so fresh that a change could still fall on the same tick of the clock
            _known[key] = digest
        return _known[key]
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r} ({error.strerror or error})") from None


def table(adapters: Sequence[Adapter]) -> str:
    """Entries as a text table: what they are, what they come from, and the metrics among `SHOWN` that any has."""
    metrics = [name for name in SHOWN if any(name in adapter.metrics for adapter in adapters)]
    head = ["id", "method", "form", "parent", "base", "run", "judge", "made", *metrics]
    rows = [head, *([*_cells(adapter), *(figure(adapter.metrics.get(n)) for n in metrics)] for adapter in adapters)]
    return aligned(rows, right=len(metrics))


def _cells(adapter: Adapter) -> Iterable[str]:
    base = adapter.base.adapter or Path(adapter.base.name).name
    made = f"{adapter.made_at:%Y-%m-%d %H:%M}"
    texts = (adapter.parent, base, adapter.run, adapter.judge, made)
    return (adapter.id, adapter.method, adapter.form, *(one_line(text or "-", 26) for text in texts))


def figure(value: int | float | str | None) -> str:
    """A metric as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else one_line(value or "-", 60)


def aligned(rows: Sequence[Sequence[str]], right: int = 0) -> str:
    """Rows as columns two blanks apart; the last `right` ones hold numbers, and end in one line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<"] * (len(widths) - right) + [">"] * right
    lines = ("  ".join(map(format, row, (f"{s}{w}" for s, w in zip(sides, widths, strict=True)))) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


class Settings(Command, cli_prog_name="python -m runs.adapters"):
    """List the policies that were trained here; python -m training.adapters shows, merges and verifies them."""

    verb: CliPositionalArg[Literal["list"]] = "list"
    """all of them, oldest first"""
    out: Path = OUT
    """where adapters are kept"""


def report(out: Path = OUT) -> str:
    """The table of all entries under `out`; one that cannot be read is a note below it."""
    good: list[Adapter] = []
    notes: list[str] = []
    for folder in folders(out):
        try:
            good.append(load(folder))
        except InputError as error:
            notes.append(f"note: {one_line(str(error), 1000)}")
    if not good and not notes:
        return f"no adapters under {str(out)!r} yet; train one: python -m training.sft --from-run"
    shown = [table(sorted(good, key=lambda adapter: (adapter.made_at, adapter.id)))] if good else []
    return "\n".join([*shown, *notes])


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    print(report(parse(Settings, argv).out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
