"""`python -m training.adapters list | show ID | merge ID --out DIR | verify [ID]`: what was trained, kept and checked.

A policy enters the registry (`runs/adapters.py`) here, and nowhere else:

    with making() as folder:  # hidden, and gone afterwards
        model.save_pretrained(folder)
        adapter = register(folder, form="lora", base=base_of("sft-..."), canary=canary(model, ...), method="dpo", ...)

`register` looks at every file, writes the README and then `adapter.json`, and renames the folder into place, so there
is never half an entry. The same weights made in the same way are one entry.

`merge` adds an adapter to its base for those who serve one model. Weights in 4 bits cannot take up a small difference:
an adapter trained over a quantised base is merged into that base with its quantisation undone, which is the model that
it was trained with. The merged folder is loaded again and must say of the canary what the adapter said.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ValidationError
from pydantic_settings import CliPositionalArg, CliSubCommand

from arena.canary import EXACT, attach, check_canary, recite
from arena.models import Dtype, Model, extra, load_model, load_tokenizer
from runs import adapters
from runs.adapters import LORA, NAME, OUT, README, Adapter, Base, Canary, Context, Form
from runs.files import replace_text, sha256_of
from runs.settings import Command, parse
from topics.errors import InputError, command, is_file, one_line

UNSORTED = ("target_modules", "exclude_modules", "modules_to_save")
"""Fields of `adapter_config.json` that are sets, which PEFT writes in an order of their own in each process."""
PLACEHOLDER = "unnamed-000000000000"


@contextmanager
def making(out: Path = OUT) -> Iterator[Path]:
    """A hidden folder under `out` for what `register` will take; what it did not take is removed at the end."""
    folder = out / f".making-{uuid4().hex}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(out, error) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def register(
    folder: Path,
    *,
    form: Form,
    base: Base,
    method: str,
    canary: Canary,
    seed: int,
    settings: Mapping[str, Any],
    context: Context,
    recipe: str = "",
    four_bit: bool = False,
    parent: str | None = None,
    pairs: str | None = None,
    tasks: str | None = None,
    run: str | None = None,
    judge: str | None = None,
    metrics: Mapping[str, float | int | str] | None = None,
    out: Path = OUT,
) -> Adapter:
    """Make the finished `folder`, which lies under `out`, an entry of the registry.

    Gives the entry that is there where the same was registered before. Raises `InputError` where a file is of a kind
    that an entry may not hold, a needed one is missing, or the folder cannot be written; `folder` then stays.
    """
    try:
        if form == "lora":
            _put_in_order(folder / LORA[0], base)
        draft = Adapter(
            id=PLACEHOLDER,
            form=form,
            method=method,
            base=base,
            parent=parent,
            recipe=recipe,
            settings=dict(settings),
            context=context,
            four_bit=four_bit,
            pairs=pairs,
            tasks=tasks,
            run=run,
            judge=judge,
            seed=seed,
            metrics=dict(metrics or {}),
            canary=canary,
            made_at=datetime.now(UTC),
            files=_files(folder),
            version=adapters.VERSION,
            folder=folder,
        )
        adapter = draft.model_copy(update={"id": draft.content})
        replace_text(folder / README, readme(adapter))
        adapters.write(adapter)
        return _placed(adapter, out)
    except ValidationError as error:
        raise InputError(f"{str(folder)!r} cannot become an entry: {adapters.explain(error)}") from None
    except OSError as error:
        raise _unwritable(out, error) from None


def _put_in_order(path: Path, base: Base) -> None:
    """Write PEFT's settings so that the same training gives the same bytes, and the base by the name it has here."""
    adapters.check_config(path)
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in UNSORTED:
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    config["base_model_name_or_path"] = base.name
    replace_text(path, json.dumps(config, indent=1, sort_keys=True) + "\n")


def _files(folder: Path) -> dict[str, str]:
    """Digests of what will be registered. PEFT's model card gives way to the README."""
    found = sorted(path for path in folder.iterdir() if path.name not in (README, NAME))
    if odd := [path.name for path in found if path.is_symlink() or not path.is_file()]:
        raise InputError(f"{str(folder)!r} cannot become an entry: {odd[0]!r} is a folder or a link; an entry is flat")
    return {path.name: sha256_of(path) for path in found}


def _placed(adapter: Adapter, out: Path) -> Adapter:
    """The entry under its own name: the one that is there already, or else this one.

    One that is there and was damaged makes way (it is hidden, not deleted): whoever trains again mends it.
    """
    place = out / adapter.id
    if place.exists():
        try:
            there = adapters.load(place)
            adapters.verify(there)
            return there
        except InputError:
            place.rename(out / f".damaged-{uuid4().hex}")
    try:
        adapter.folder.rename(place)
    except OSError:
        if not is_file(place / NAME):  # if it is there, another process was quicker
            raise
        return adapters.load(place)
    return adapter.model_copy(update={"folder": place})


def _unwritable(out: Path, error: OSError) -> InputError:
    return InputError(f"cannot write to {str(out)!r} ({error.strerror or error}); make room, or name another folder")


def base_of(source: str, out: Path = OUT) -> Base:
    """The base that `source` names: an entry of form `full` (id or folder), a model's folder, or a hub name.

    Of a hub name, the files in the local cache are read: load the model first.
    """
    for folder in (Path(source), out / source):
        if is_file(folder / NAME):
            entry = adapters.load(folder)
            adapters.verify(entry)
            if entry.form != "full":
                raise InputError(
                    f"{entry.id} is an adapter over a base, not a base; merge it first: "
                    f"python -m training.adapters merge {entry.id} --out DIR"
                )
            return Base(name=entry.id, digest=entry.weights_digest, adapter=entry.id)
    if Path(source).is_dir():
        return Base(name=str(Path(source).resolve()), digest=adapters.digest_of_model(Path(source)))
    with extra():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    try:
        cached = snapshot_download(source, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        raise InputError(f"no base {source!r}; expected an adapter's id, a model's folder, or a hub name") from None
    return Base(name=source, digest=adapters.digest_of_model(Path(cached)))


def merge(adapter: Adapter, folder: Path) -> float:
    """Write `adapter` merged with its base, in float32 and with the tokenizer, into the new `folder`.

    Returns the largest difference between merged and unmerged log-probabilities of the canary. Raises `InputError`
    for a full entry, a folder that holds anything, another base, and a difference above `EXACT`.
    """
    if adapter.form == "full":
        raise InputError(f"{adapter.id} is a whole model, with nothing to merge; it lies in {str(adapter.folder)!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} is not empty; name another folder with --out")
    with extra():
        from safetensors import SafetensorError
    adapters.verify(adapter)
    source = adapters.base_source(adapter)
    adapters.check_base(adapter, source)
    tokenizer = load_tokenizer(source)
    policy = attach(_unquantised(adapter, source), adapter)
    check_canary(adapter, policy, tokenizer)
    expected = recite(adapter.canary, policy, tokenizer, adapter.id)
    new = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        policy.merge_and_unload(safe_merge=True).save_pretrained(new)
        tokenizer.save_pretrained(new)
        del policy  # the merged model is loaded beside nothing
        difference = _differs(adapter, expected, new)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.rename(folder)
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error))
        raise InputError(f"{adapter.id} cannot be merged into {str(folder)!r} ({reason})") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return difference


def _unquantised(adapter: Adapter, source: str) -> Model:
    """The weights that an adapter was trained over, in float32: of a base in 4 bits, what its 4 bits stand for."""
    if not adapter.four_bit:
        return load_model(source)
    dtypes: dict[str, Dtype] = {"bfloat16": "bfloat16", "float16": "float16"}
    quantised = load_model(source, dtype=dtypes.get(adapter.canary.dtype, "float32"), four_bit=True)
    return quantised.dequantize().float().eval()


def _differs(adapter: Adapter, expected: list[float], folder: Path) -> float:
    """Largest difference that a merged model on disk shows on the canary, in nats."""
    merged, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    now = recite(adapter.canary, merged, tokenizer, adapter.id)
    difference = max(abs(x - y) for x, y in zip(now, expected, strict=True))
    if not difference <= EXACT:
        raise InputError(
            f"{adapter.id} merged is not {adapter.id}: log-probabilities of the canary differ by up to "
            f"{difference:.3g}, at most {EXACT:g} is expected; serve the adapter over its base instead"
        )
    return difference


def lineage(adapter: Adapter) -> list[Adapter | str]:
    """`adapter`, the policy it began with, and so on; an id alone, last, where that one is not in the registry."""
    chain: list[Adapter | str] = [adapter]
    while (parent := adapter.parent) is not None:
        try:
            adapter = adapters.load(adapter.folder.parent / parent)
        except InputError:
            return [*chain, parent]
        chain.append(adapter)
    return chain


def describe(adapter: Adapter) -> str:
    """An entry as text: what it is, where it comes from, and its metrics."""
    facts = [
        ("made", f"{adapter.made_at:%Y-%m-%d %H:%M} UTC by {adapter.method}, seed {adapter.seed}"),
        ("recipe", adapter.recipe),
        ("base", f"{adapter.base.name} ({adapter.base.digest[:12]}…)"),
        ("weights", ("4-bit base (NF4), " if adapter.four_bit else "") + _FORMS[adapter.form]),
        ("prompt", _CONTEXTS[adapter.context]),
        ("run", adapter.run),
        ("judge", adapter.judge),
        ("pairs", adapter.pairs),
        ("canary", f"{len(adapter.canary.tokens)} tokens, {adapter.canary.dtype}{_effect(adapter.canary)}"),
        ("folder", str(adapter.folder)),
    ]
    lines = [adapter.id, *(f"  {name:<9}{one_line(value)}" for name, value in facts if value)]
    lines += ["", "lineage", *(f"  {_ancestor(one)}" for one in lineage(adapter))]
    if adapter.metrics:
        rows = [(f"  {one_line(name, 40)}", adapters.figure(value)) for name, value in adapter.metrics.items()]
        lines += ["", "metrics", adapters.aligned(rows, right=1)]
    return "\n".join(lines)


_FORMS = {"lora": "LoRA over the base", "full": "whole model"}
_CONTEXTS = {"key": "topic, side and turn alone (key)", "transcript": "what had been said before (transcript)"}


def _effect(canary: Canary) -> str:
    """How far the adapter moves the canary, in nats."""
    if canary.without is None:
        return ""
    moved = [abs(x - y) for x, y in zip(canary.with_adapter, canary.without, strict=True)]
    return f"; the adapter moves them by {math.fsum(moved) / len(moved):.3g} nats on average"


def _ancestor(one: Adapter | str) -> str:
    if isinstance(one, str):
        return f"{one}  not in this registry"
    base = one.base.adapter or one_line(one.base.name, 60)
    return f"{one.id}  {one.method}, {one.form}, over {base}" + (f", run {one_line(one.run, 40)}" if one.run else "")


def readme(adapter: Adapter) -> str:
    """The README of an entry: what it is, how it was made, and how to use it."""
    base = one_line(adapter.base.adapter or adapter.base.name, 1000)
    rows = [f"* {one_line(name, 40)}: {adapters.figure(value)}" for name, value in adapter.metrics.items()]
    made_from = {"parent": adapter.parent, "run": adapter.run, "judge": adapter.judge, "pairs": adapter.pairs}
    seat = f'[[contestants]]\nname = "{adapter.method}"\nkind = "local"\nadapter = "{adapter.id}"'
    trained = [
        f"* method {adapter.method}, recipe {one_line(adapter.recipe or 'none', 60)}, seed {adapter.seed}",
        f"* base {base}, digest {adapter.base.digest}",
        *(f"* {name} {one_line(value)}" for name, value in made_from.items() if value),
        f"* prompt: {_CONTEXTS[adapter.context]}",
    ]
    parts = [
        f"# {adapter.id}",
        f"A debater: {_FORMS[adapter.form]}, trained from the outcomes of debates.",
        "## How it was trained\n\n" + "\n".join(trained),
        *(["## Metrics, on held-back train topics\n\n" + "\n".join(rows)] if rows else []),
        f"## Load it\n\n```python\n{_loading(adapter, base)}\n```",
        f"## Seat it\n\n```toml\n{seat}\n```",
        f"`adapter.json` holds everything else; `python -m training.adapters verify {adapter.id}` checks the files.",
    ]
    return "\n\n".join(parts) + "\n"


def _loading(adapter: Adapter, base: str) -> str:
    here = f"runs/out/adapters/{adapter.id}"
    source = here if adapter.form == "full" else f"runs/out/adapters/{base}" if adapter.base.adapter else base
    lines = ["from arena.models import load_model, load_tokenizer", "", f"base = {source!r}"]
    if adapter.form == "full":
        lines += ["model, tokenizer = load_model(base), load_tokenizer(base)"]
    else:
        options = ", four_bit=True" if adapter.four_bit else ""
        lines = ["from peft import PeftModel", "", *lines, f"model = load_model(base{options})"]
        lines += [f"model = PeftModel.from_pretrained(model, {here!r})", "tokenizer = load_tokenizer(base)"]
    return "\n".join(lines)


class Listing(BaseModel, use_attribute_docstrings=True):
    """All adapters, oldest first."""

    out: Path = OUT
    """where adapters are kept"""


class Showing(Listing):
    """One adapter: what it is, its lineage, its metrics."""

    adapter: CliPositionalArg[str]
    """an adapter's id or folder"""


class Merging(BaseModel, use_attribute_docstrings=True):
    """Add an adapter to its base: a model's folder, to be served by itself."""

    adapter: CliPositionalArg[str]
    """an adapter's id or folder"""
    out: Path | None = None
    """the folder to make"""


class Verifying(Listing):
    """Check every file of an adapter, or of all, and its base where that is a folder."""

    adapter: CliPositionalArg[str | None] = None
    """an adapter's id or folder (default: all)"""


class Settings(Command, cli_prog_name="python -m training.adapters"):
    """The policies that were trained here."""

    list: CliSubCommand[Listing]
    """all of them, oldest first"""
    show: CliSubCommand[Showing]
    """one: what it is, its lineage, its metrics"""
    merge: CliSubCommand[Merging]
    """add one to its base, as a model to serve by itself"""
    verify: CliSubCommand[Verifying]
    """check that the files are what was registered"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    if settings.list:
        print(adapters.report(settings.list.out))
    elif settings.show:
        print(describe(adapters.find(settings.show.adapter, settings.show.out)))
    elif settings.merge:
        merged(settings.merge)
    elif settings.verify:
        verified(settings.verify)
    else:
        raise InputError("what to do is not said; expected list, show ID, merge ID --out DIR, or verify [ID]")
    return 0


def merged(settings: Merging) -> None:
    """The command `merge`."""
    if settings.out is None:
        raise InputError("merge needs --out DIR, the folder to make")
    adapter = adapters.find(settings.adapter)
    difference = merge(adapter, settings.out)
    print(
        f"canary of {len(adapter.canary.tokens)} tokens: merged and unmerged differ by at most {difference:.2g} nats "
        f"in float32 (bound {EXACT:g})"
    )
    print(f"wrote {settings.out}: {', '.join(sorted(file.name for file in settings.out.iterdir()))}")


def verified(settings: Verifying) -> None:
    """The command `verify`: a line for each sound entry, and an error that names all others."""
    if not settings.adapter and not adapters.folders(settings.out):
        print(adapters.report(settings.out))
        return
    folders = [Path(settings.adapter)] if settings.adapter else adapters.folders(settings.out)
    wrong = []
    for folder in folders:
        try:
            print(_checked(adapters.find(folder, settings.out)))
        except InputError as error:
            wrong.append(str(error))
    if len(wrong) > 1:
        raise InputError(f"{len(wrong)} of {len(folders)} adapters are wrong: {'; '.join(wrong)}")
    if wrong:
        raise InputError(wrong[0])


def _checked(adapter: Adapter) -> str:
    """A line on an entry that is sound; `InputError` where it is not."""
    adapters.verify(adapter)
    size = sum((adapter.folder / name).stat().st_size for name in adapter.files)
    line = f"{adapter.id}  sound: {len(adapter.files)} files, {size / 1e6:,.1f} MB"
    if adapter.form == "full":
        return line
    source = adapters.base_source(adapter)
    adapters.check_base(adapter, source)
    checked = "base is the same" if Path(source).is_dir() else "base is on the hub, and not checked here"
    return f"{line}; {checked}"


if __name__ == "__main__":
    sys.exit(main())
