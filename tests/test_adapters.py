"""The registry: an entry is whole or not there, is what it says it is, and plays as it was trained."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import refused

import topics
from runs import adapters
from runs.adapters import Adapter, Base, Canary
from topics import Topic
from topics.errors import InputError
from topics.leakage import overlaps

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from arena import canary as canaries  # noqa: E402
from arena.models import load_model, load_tokenizer  # noqa: E402
from training import adapters as training  # noqa: E402
from training import tiny  # noqa: E402

TEXTS = ["Town squares need trees, since they give shade.", "Schools should teach cooking; for example, soup."]


@dataclass
class World:
    """A registry with a policy of form full, a LoRA over it, and one over its four bits."""

    out: Path
    tiny: Path
    sft: Adapter
    dpo: Adapter
    four_bit: Adapter

    def copy(self, out: Path) -> Path:
        shutil.copytree(self.out, out)
        return out


def lora_over(source: str, *, seed: int = 0, four_bit: bool = False) -> Any:
    """A LoRA over a base that moves its log-probabilities by some tenths."""
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)  # PEFT's
        model = peft.get_peft_model(load_model(source, four_bit=four_bit), settings)
    drawn = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.05, generator=drawn)
    return model.eval()


def registered(out: Path, source: str, model: Any, *, four_bit: bool = False, **more: Any) -> Adapter:
    tokenizer = load_tokenizer(source)
    with training.making(out) as folder:
        model.save_pretrained(folder)
        given = {
            "form": "lora",
            "method": "dpo",
            "base": training.base_of(source, out),
            "canary": canaries.canary(model, tokenizer, adapter=True),
            "recipe": "persuade",
            "seed": 7,
            "settings": {"beta": 0.1, "bound": float("inf")},
            "context": "key",
            "four_bit": four_bit,
            "run": "20260101-000000-000000",
            "judge": "rules",
            "metrics": {"accuracy": 0.625, "perplexity": 3.5, "pairs": 1200},
            "out": out,
        }
        return training.register(folder, **given | more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("world")
    out = place / "adapters"
    base = tiny.build(TEXTS, place, seed=1)
    model, tokenizer = load_model(str(base)), load_tokenizer(str(base))
    with training.making(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        sft = training.register(
            folder,
            form="full",
            method="sft",
            base=Base(name="tiny", digest=training.base_of(str(base)).digest),
            canary=canaries.canary(model, tokenizer, adapter=False),
            seed=7,
            settings={},
            context="key",
            out=out,
        )
    source = str(sft.folder)
    dpo = registered(out, source, lora_over(source), parent=sft.id)
    quantised = registered(out, source, lora_over(source, four_bit=True), four_bit=True, parent=sft.id, seed=8)
    return World(out=out, tiny=base, sft=sft, dpo=dpo, four_bit=quantised)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record as somebody would who knows how its digest is made."""
    body = json.loads(path.read_text())
    del body["digest"]
    change(body)
    path.write_text(json.dumps(body | {"digest": adapters._digest(body)}))


# -- what is registered is there, and is found


def test_what_was_registered_is_read_again(world: World) -> None:
    assert [a.id for a in adapters.listed(world.out)] == [world.sft.id, world.dpo.id, world.four_bit.id]
    for adapter in (world.sft, world.dpo, world.four_bit):
        again = adapters.find(adapter.id, world.out)
        assert again == adapter == adapters.find(adapter.folder)
        assert again.folder == world.out / adapter.id
        adapters.verify(again)
    assert world.dpo.base == Base(name=world.sft.id, digest=world.sft.weights_digest, adapter=world.sft.id)
    assert world.sft.weights_digest == adapters.digest_of_model(world.sft.folder)
    assert world.dpo.settings["bound"] == "inf"
    assert not [path for path in world.out.iterdir() if path.name.startswith(".")]


def test_an_entry_says_how_to_use_it(world: World) -> None:
    readme = (world.dpo.folder / "README.md").read_text()
    for part in (world.dpo.id, world.sft.id, "PeftModel.from_pretrained", f'adapter = "{world.dpo.id}"', "0.625"):
        assert part in readme
    assert "four_bit=True" in (world.four_bit.folder / "README.md").read_text()
    config = json.loads((world.dpo.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == world.sft.id


def test_the_same_training_is_one_entry(world: World, tmp_path: Path) -> None:
    out = world.copy(tmp_path / "out")
    source = str(out / world.sft.id)
    model = lora_over(source)
    targets = list(model.peft_config["default"].target_modules)
    model.peft_config["default"].target_modules = targets[::-1]  # a set, whose order is another in each process
    again = registered(out, source, model, parent=world.sft.id, metrics={"accuracy": 0.1})
    assert again.id == world.dpo.id
    assert again.made_at == world.dpo.made_at
    assert len(adapters.listed(out)) == 3
    assert registered(out, source, model, parent=world.sft.id, seed=9).id != world.dpo.id
    assert registered(out, source, lora_over(source, seed=1), parent=world.sft.id).id != world.dpo.id


def test_training_again_mends_a_damaged_entry(world: World, tmp_path: Path) -> None:
    out = world.copy(tmp_path / "out")
    (out / world.dpo.id / "adapter_model.safetensors").write_bytes(b"torn")
    source = str(out / world.sft.id)
    mended = registered(out, source, lora_over(source), parent=world.sft.id)
    assert mended.id == world.dpo.id
    adapters.verify(adapters.find(mended.id, out))


def test_lineage(world: World, tmp_path: Path) -> None:
    assert [one.id for one in training.lineage(world.dpo) if isinstance(one, Adapter)] == [world.dpo.id, world.sft.id]
    shutil.copytree(world.dpo.folder, tmp_path / world.dpo.id)
    assert training.lineage(adapters.load(tmp_path / world.dpo.id))[-1] == world.sft.id
    text = training.describe(world.dpo)
    for part in ("lineage", world.sft.id, "accuracy", "0.625", "persuade", "1,200"):
        assert part in text


# -- never half an entry


@pytest.mark.parametrize("torn", ["replace_text", "rename", "sha256_of"])
def test_a_failed_write_leaves_no_entry(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if torn == "rename":
        monkeypatch.setattr(Path, "rename", full)
    else:
        monkeypatch.setattr(training, torn, full)
    with pytest.raises(InputError, match="No space left on device"), training.making(tmp_path) as folder:
        for name in adapters.LORA:
            shutil.copy(world.dpo.folder / name, folder)
        given = world.dpo.model_dump(include={"form", "method", "recipe", "settings", "context", "seed"})
        training.register(folder, **given, base=world.dpo.base, canary=world.dpo.canary, out=tmp_path)
    assert adapters.listed(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_kill_before_the_record_is_no_entry(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.dpo.folder, tmp_path / ".making-1", ignore=shutil.ignore_patterns("adapter.json"))
    shutil.copytree(world.dpo.folder, tmp_path / ".making-2")
    shutil.copytree(world.dpo.folder, tmp_path / "half", ignore=shutil.ignore_patterns("adapter.json"))
    assert adapters.listed(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("training_args.bin", "'training_args.bin' is of a kind that an entry may not hold"),
        ("optimizer.pt", "'optimizer.pt' is of a kind"),
        ("modeling.py", "'modeling.py' is of a kind"),
        ("ref/adapter_model.safetensors", "'ref' is a folder or a link"),
        ("", "'adapter_model.safetensors'"),
    ],
)
def test_what_cannot_become_an_entry(world: World, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match="cannot become an entry") as error, training.making(tmp_path) as folder:
        for part in adapters.LORA[: 2 if name else 1]:
            shutil.copy(world.dpo.folder / part, folder)
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
        given = world.dpo.model_dump(include={"form", "method", "recipe", "settings", "context", "seed"})
        training.register(folder, **given, base=world.dpo.base, canary=world.dpo.canary, out=tmp_path)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


# -- an entry that is no longer what it was


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed weights": (lambda f: flip(f / "adapter_model.safetensors"), "'adapter_model.safetensors' was changed"),
    "missing weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "'adapter_model.safetensors' is missing"),
    "changed settings": (lambda f: (f / "adapter_config.json").write_text("{}"), "'adapter_config.json' was changed"),
    "pickle beside": (lambda f: (f / "adapter_model.bin").write_bytes(b"x"), "'adapter_model.bin' is none of the"),
    "more weights": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "'model.safetensors' is none of the"),
    "folder beside": (lambda f: (f / "ref").mkdir(), "'ref' is a folder"),
    "link out": (lambda f: (f / "README.md").unlink() or (f / "README.md").symlink_to("/etc/hostname"), "a link"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = tmp_path / "out" / world.dpo.id
    shutil.copytree(world.dpo.folder, folder)
    do, said = DAMAGE[damage]
    do(folder)
    with pytest.raises(InputError) as error:
        adapters.verify(adapters.load(folder))
    assert said in str(error.value)
    line = refused(capsys, "verify", world.dpo.id, "--out", folder.parent, command=training.main)
    assert said in line
    assert world.dpo.id in line


def test_a_change_is_seen_in_a_file_that_was_checked_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / world.dpo.id
    shutil.copytree(world.dpo.folder, folder)
    adapter = adapters.load(folder)
    now = adapters.time.time()
    monkeypatch.setattr(adapters.time, "time", lambda: now + 60)  # old enough for its digest to be remembered
    adapters.verify(adapter)
    adapters.verify(adapter)
    flip(folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="was changed"):
        adapters.verify(adapter)


def test_a_renamed_folder_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.dpo.folder, tmp_path / "better")
    with pytest.raises(InputError, match=f"'better' holds {world.dpo.id}"):
        adapters.verify(adapters.load(tmp_path / "better"))
    claimed = "dpo-" + "0" * 12
    shutil.copytree(world.dpo.folder, tmp_path / claimed)
    rewrite(tmp_path / claimed / "adapter.json", lambda body: body.update(id=claimed))
    with pytest.raises(InputError, match=f"says {claimed}, but what it describes is {world.dpo.id}"):
        adapters.load(tmp_path / claimed)


def test_an_unknown_adapter_is_refused(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=f"did you mean '{world.dpo.id}'"):
        adapters.find(world.dpo.id[:-1] + "x", world.out)
    with pytest.raises(InputError, match="holds none; train one: python -m training"):
        adapters.find("dpo-000000000000", tmp_path)
    assert "no adapter 'x'" in refused(capsys, "show", "x", "--out", world.out, command=training.main)


DEEP: Any = 1
for _ in range(200):
    DEEP = [DEEP]

HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "path out of the folder": (lambda b: b["files"].update({"../../x.json": "0" * 64}), "files"),
    "absolute path": (lambda b: b["files"].update({"/etc/passwd": "0" * 64}), "files"),
    "pickle": (lambda b: b["files"].update({"weights.bin": "0" * 64}), "may not hold"),
    "no weights": (lambda b: b["files"].pop("adapter_model.safetensors"), "needs 'adapter_model.safetensors'"),
    "parent out of the registry": (lambda b: b.update(parent="../../etc"), "parent"),
    "base out of the registry": (lambda b: b["base"].update(adapter="../sft"), "base.adapter"),
    "wrong type": (lambda b: b.update(metrics=[1, 2]), "metrics"),
    "unknown field": (lambda b: b.update(run_me="rm"), "run_me"),
    "its own folder": (lambda b: b.update(folder="/etc", method=5), "method"),
    "deep": (lambda b: b.update(settings={"x": DEEP}), "what it describes is"),
    "unequal canary": (lambda b: b["canary"]["tokens"].pop(), "one log-probability for each"),
    "canary without end": (lambda b: b["canary"].update(speech="x" * 20_000), "canary.speech"),
    "no number": (lambda b: b["canary"]["with_adapter"].__setitem__(0, float("nan")), "canary.with_adapter"),
    "lone surrogate": (lambda b: b.update(judge="\ud800"), "what it describes is"),
    "newer": (lambda b: b.update(version=99), "newer than 1; update"),
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_hostile_record_is_one_line(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], trick: str
) -> None:
    folder = tmp_path / world.dpo.id
    shutil.copytree(world.dpo.folder, folder)
    change, said = HOSTILE[trick]
    rewrite(folder / "adapter.json", change)
    assert said in refused(capsys, "show", folder, command=training.main)
    assert adapters.report(tmp_path).startswith("note: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"version": 1}',
        b"[" * 100_000,
        b" " * (1 << 21),
        b'{"a": ' + b"9" * 9999 + b"}",
    ],
    ids=["empty", "list", "torn", "bytes", "bare", "deep", "megabytes", "digits"],
)
def test_a_record_of_rubbish_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "adapter.json").write_bytes(body)
    assert "adapter.json" in refused(capsys, "show", tmp_path / "dpo", command=training.main)


def test_a_record_elsewhere_is_not_read(world: World, tmp_path: Path) -> None:
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "adapter.json").symlink_to(world.dpo.folder / "adapter.json")
    with pytest.raises(InputError, match="expected a file"):
        adapters.load(tmp_path / "dpo")
    os.mkfifo(tmp_path / "adapter_config.json")
    with pytest.raises(InputError, match="expected a file"):
        adapters.check_config(tmp_path / "adapter_config.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_mapping": {"parent_library": "os", "base_model_class": "x"}}, "'auto_mapping'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "'megatron_config'"),
        ({"peft_type": "PROMPT_TUNING"}, "only LoRA"),
    ],
)
def test_settings_that_import_something_are_refused(
    world: World, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads((world.dpo.folder / path.name).read_text()) | change))
    with pytest.raises(InputError, match=said):
        adapters.check_config(path)


# -- the base


def test_the_base_is_found_and_checked(world: World, tmp_path: Path) -> None:
    assert adapters.base_source(world.sft) == str(world.sft.folder)
    source = adapters.base_source(world.dpo)
    assert source == str(world.sft.folder)
    adapters.check_base(world.dpo, source)
    adapters.check_base(world.dpo, "some/hub-name")
    copied = shutil.copytree(world.sft.folder, tmp_path / "elsewhere")
    adapters.check_base(world.dpo, str(copied))
    flip(copied / "tokenizer_config.json")
    with pytest.raises(InputError, match=f"is not the base that {world.dpo.id} was trained on"):
        adapters.check_base(world.dpo, str(copied))
    with pytest.raises(InputError, match="is not the base"):
        adapters.check_base(world.dpo, str(tiny.build([*TEXTS, "More."], tmp_path, seed=1)))


def test_a_base_that_is_gone_or_changed_is_refused(world: World, tmp_path: Path) -> None:
    out = world.copy(tmp_path / "out")
    adapter = adapters.find(world.dpo.id, out)
    flip(out / world.sft.id / "model.safetensors")
    with pytest.raises(InputError, match=r"'model\.safetensors' was changed"):
        adapters.base_source(adapter)
    shutil.rmtree(out / world.sft.id)
    with pytest.raises(InputError, match=f"no adapter '{world.sft.id}'"):
        adapters.base_source(adapter)
    moved = adapter.model_copy(update={"base": Base(name=str(tmp_path / "gone"), digest="0" * 64)})
    with pytest.raises(InputError, match="is not there"):
        adapters.base_source(moved)
    hub = adapter.model_copy(update={"base": Base(name="some/model-1B", digest="0" * 64)})
    assert adapters.base_source(hub) == "some/model-1B"


def test_what_can_be_a_base(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.base_of(str(world.tiny)).name == str(world.tiny.resolve())
    assert training.base_of(world.sft.id, world.out).adapter == world.sft.id
    with pytest.raises(InputError, match="merge it first"):
        training.base_of(world.dpo.id, world.out)
    with pytest.raises(InputError, match="no base"):
        training.base_of("nobody/nothing", world.out)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, local_files_only: str(world.tiny))
    cached = training.base_of("some/model-1B")
    assert cached == Base(name="some/model-1B", digest=adapters.digest_of_model(world.tiny))
    pickled = shutil.copytree(world.tiny, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="is no model"):
        training.base_of(str(pickled))
    with pytest.raises(InputError, match="holds an adapter"):
        adapters.digest_of_model(world.dpo.folder)


# -- the canary


@pytest.mark.parametrize("which", ["sft", "dpo", "four_bit"])
def test_the_policy_that_plays_is_the_one_that_was_trained(world: World, which: str) -> None:
    adapter: Adapter = getattr(world, which)
    source = adapters.base_source(adapter)
    model, tokenizer = load_model(source, four_bit=adapter.four_bit), load_tokenizer(source)
    if adapter.form == "lora":
        model = canaries.attach(model, adapter)
        model.train()
        assert canaries.check_canary(adapter, model, tokenizer) < 1e-5
        assert model.training
        with model.disable_adapter(), pytest.raises(InputError, match=f"{adapter.id} is not at work"):
            canaries.check_canary(adapter, model, tokenizer)
    else:
        assert canaries.check_canary(adapter, model, tokenizer) < 1e-5


def test_several_adapters_over_one_base(world: World) -> None:
    source = str(world.sft.folder)
    other = registered(world.out.with_name("others"), source, lora_over(source, seed=1))
    tokenizer = load_tokenizer(source)
    model = canaries.attach(canaries.attach(load_model(source), world.dpo, "first"), other, "second")
    for name, adapter, wrong in (("second", other, world.dpo), ("first", world.dpo, other)):
        model.set_adapter(name)
        canaries.check_canary(adapter, model, tokenizer)
        with pytest.raises(InputError, match="the model that was loaded is not"):
            canaries.check_canary(wrong, model, tokenizer)


def test_sixteen_bits_are_close_enough_and_another_base_is_not(world: World, tmp_path: Path) -> None:
    source = str(world.sft.folder)
    tokenizer = load_tokenizer(source)
    model = canaries.attach(load_model(source, dtype="bfloat16"), world.dpo)
    assert 1e-3 < canaries.check_canary(world.dpo, model, tokenizer) < canaries.ROUNDED
    with model.disable_adapter(), pytest.raises(InputError, match="not at work"):
        canaries.check_canary(world.dpo, model, tokenizer)
    other = str(tiny.build(TEXTS, tmp_path, seed=2))
    for dtype in ("float32", "bfloat16"):
        model = canaries.attach(load_model(other, dtype=dtype), world.dpo)
        with pytest.raises(InputError, match=r"the model that was loaded is not|not at work"):
            canaries.check_canary(world.dpo, model, tokenizer)


def test_another_tokenizer_or_template_is_refused(world: World, tmp_path: Path) -> None:
    source = str(world.sft.folder)
    model, tokenizer = load_model(source), load_tokenizer(source)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", "<|im_start|> ")
    with pytest.raises(InputError, match=r"canary \(prompt\)"):
        canaries.check_canary(world.sft, model, tokenizer)
    other = load_tokenizer(str(tiny.build(["Soup"], tmp_path, seed=1)))
    with pytest.raises(InputError, match="another tokenizer or chat template"):
        canaries.check_canary(world.sft, model, other)


def test_weights_that_do_not_fit_are_refused(world: World, tmp_path: Path) -> None:
    """Also by those who skip `verify`."""
    source = str(world.sft.folder)
    config = json.loads((world.dpo.folder / "adapter_config.json").read_text())

    def changed(**settings: object) -> Adapter:
        folder = Path(shutil.copytree(world.dpo.folder, tmp_path / str(len(list(tmp_path.iterdir())))))
        (folder / "adapter_config.json").write_text(json.dumps(config | settings))
        return adapters.load(folder)

    with pytest.raises(InputError, match="does not fit its base"):
        canaries.attach(load_model(source), changed(r=16))
    with pytest.raises(InputError, match="does not fit its base"):
        canaries.attach(load_model(source), changed(target_modules=["nothing"]))
    halved = canaries.attach(load_model(source), changed(layers_to_transform=[0]))
    with pytest.raises(InputError, match="the model that was loaded is not"):
        canaries.check_canary(world.dpo, halved, load_tokenizer(source))
    torn = changed()
    weights = load_file(torn.folder / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), torn.folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="missing adapter keys"):
        canaries.attach(load_model(source), torn)
    (torn.folder / "adapter_model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"{broken}")
    with pytest.raises(InputError, match="does not fit its base"):
        canaries.attach(load_model(source), torn)


def test_a_small_effect_is_told_from_none() -> None:
    """Numbers by hand: an adapter that moves tokens by 4e-4, within the tolerance, and is off."""
    recorded = Canary.model_validate(
        {
            "messages": [{"role": "user", "content": "x"}],
            "speech": "x",
            "prompt_digest": "0" * 64,
            "tokens": (1, 2),
            "with_adapter": (-1.0, -2.0),
            "without": (-1.0004, -2.0004),
            "dtype": "float32",
        }
    )
    for now, is_on in (((-1.0001, -2.0001), True), ((-1.0003, -2.0003), False)):
        assert canaries.is_at_work(recorded, now, canaries.EXACT) == is_on
    same = recorded.model_copy(update={"without": recorded.with_adapter})
    assert canaries.is_at_work(same, (-1.1, -2.1), canaries.EXACT)


def test_the_canary_is_no_topic() -> None:
    motion = canaries.MESSAGES[0]["content"].splitlines()[2]
    made_up = Topic(topic_id="canary", motion=motion)
    known = [*topics.load("train"), *topics.load("test")]
    assert not list(overlaps([made_up], known, bound=0.05))


# -- merging


@pytest.mark.parametrize("which", ["dpo", "four_bit"])
def test_merged_is_what_the_adapter_was(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    adapter: Adapter = getattr(world, which)
    into = tmp_path / "deep" / "merged"
    assert training.main(["merge", str(adapter.folder), "--out", str(into)]) == 0
    assert "differ by at most" in capsys.readouterr().out
    assert list(into.parent.iterdir()) == [into]
    merged, tokenizer = load_model(str(into)), load_tokenizer(str(into))
    now = canaries.recite(adapter.canary, merged, tokenizer, "merged")
    assert max(abs(x - y) for x, y in zip(now, adapter.canary.with_adapter, strict=True)) < 1e-3
    assert "quantization_config" not in json.loads((into / "config.json").read_text())
    training.base_of(str(into))


def test_a_merge_that_differs_is_not_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt: Callable[..., Any] = peft.tuners.lora.LoraModel.unload
    monkeypatch.setattr(peft.tuners.lora.LoraModel, "merge_and_unload", lambda self, **_: spoilt(self))
    line = refused(capsys, "merge", world.dpo.folder, "--out", tmp_path / "merged", command=training.main)
    assert "merged is not" in line
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_merged(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    for words, said in (
        ((world.sft.folder, "--out", tmp_path / "x"), "is a whole model"),
        ((world.dpo.folder, "--out", tmp_path / "used"), "is not empty"),
        ((world.dpo.folder, "--out", tmp_path / "used" / "notes.txt"), "is not empty"),
        ((world.dpo.folder,), "merge needs --out DIR"),
    ):
        assert said in refused(capsys, "merge", *words, command=training.main)


# -- commands


def test_list(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for main in (training.main, adapters.main):
        assert main(["list", "--out", str(world.out)]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert [row.split()[0] for row in rows] == [world.sft.id, world.dpo.id, world.four_bit.id]
        assert head.index("accuracy") + len("accuracy") == rows[1].index("0.625") + len("0.625")
        assert main(["list", "--out", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines()[0].startswith("no adapters under")


def test_verify_names_all_that_are_wrong(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = world.copy(tmp_path / "out")
    assert training.main(["verify", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("sound") == 3
    for adapter in (world.dpo, world.four_bit):
        flip(out / adapter.id / "adapter_model.safetensors")
    assert training.main(["verify", "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("sound") == 1
    assert len(printed.err.splitlines()) == 1
    assert "2 of 3" in printed.err
    assert world.dpo.id in printed.err
    assert world.four_bit.id in printed.err


def test_wrong_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected list, show ID" in refused(capsys, command=training.main)
    assert "invalid choice: 'shwo'" in refused(capsys, "shwo", command=training.main)
    assert "required: ADAPTER" in refused(capsys, "show", command=training.main)
    assert "--verb 'lits'" in refused(capsys, "lits", command=adapters.main)


def test_the_registry_needs_no_torch() -> None:
    code = "import sys, runs.adapters, arena.canary, training.adapters; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "peft", "huggingface_hub"} & set(loaded)
