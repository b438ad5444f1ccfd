"""PairRM: the published formula on small random weights, the laws of a comparison, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import judges
from judges import pairrm
from judges.pairrm import MARKERS, Comparison, PairRM, load
from topics import catalogue
from topics.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tokenizers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

MOTIONS = [topic.motion for topic in catalogue.load("train")]
HIDDEN = 32
SHAPE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "initializer_range": 0.3,
    "layer_norm_eps": 1e-7,
}
"""DeBERTa v3's shape, made small; weights are drawn wide, so that texts make a difference."""


def build_tokenizer(folder: Path, markers: Iterable[str] = MARKERS) -> Any:
    """Stored as DeBERTa v3's is: SentencePiece pieces behind NFKC, markers that are matched in normalised text."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    control = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    made.train_from_iterator(
        MOTIONS,
        trainers.UnigramTrainer(vocab_size=400, special_tokens=control, unk_token="[UNK]", show_progress=False),
    )
    made.add_special_tokens(["[MASK]"])
    made.add_tokens(list(markers))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    stored = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **named)
    stored.save_pretrained(folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"tokenizer_class": "DebertaV2Tokenizer"}))
    return stored


def draw(shape: tuple[int, ...], seed: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a PairRM with random weights, named as in `llm-blender/PairRM-hf`."""
    folder = tmp_path_factory.mktemp("pairrm")
    tokenizer = build_tokenizer(folder)
    markers = tokenizer.convert_tokens_to_ids(list(MARKERS))
    config = transformers.DebertaV2Config(vocab_size=len(tokenizer), **SHAPE)
    named = dict(zip(MARKERS.values(), markers, strict=True))
    own = {"architectures": ["DebertaV2PairRM"], "n_tasks": 1, "drop_out": 0.05, **named}
    (folder / "config.json").write_text(json.dumps(config.to_dict() | own))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = transformers.DebertaV2Model(config)
    weights = {f"pretrained_model.{name}": value for name, value in encoder.state_dict().items()}
    weights |= {
        "head_layer.1.weight": draw((HIDDEN, 2 * HIDDEN), 4) / HIDDEN**0.5,
        "head_layer.1.bias": draw((HIDDEN,), 5),
        "head_layer.4.weight": draw((1, HIDDEN), 6),
        "head_layer.4.bias": draw((1,), 7),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> PairRM:
    return load(str(folder))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def texts(n: int, longest: int = 2, start: int = 0) -> list[str]:
    """`n` texts of one to `longest` motions."""
    return [" ".join(MOTIONS[(start + 7 * i + j) % len(MOTIONS)] for j in range(1 + i % longest)) for i in range(n)]


def published(folder: Path, source: str, a: str, b: str) -> float:
    """l(A, B) as the model's authors describe it, for one row and without padding."""
    weights = load_file(folder / "model.safetensors")
    encoder = transformers.DebertaV2Model(transformers.DebertaV2Config.from_pretrained(folder)).eval()
    prefix = "pretrained_model."
    encoder.load_state_dict({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [i for text in zip(MARKERS, (source, a, b), strict=True) for i in tokenizer.encode("".join(text)).ids]
    with torch.no_grad():
        states = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
    of_source, of_a, of_b = (states[ids.index(tokenizer.token_to_id(marker))] for marker in MARKERS)

    def score(candidate: Any) -> Any:
        inner = weights["head_layer.1.weight"] @ torch.cat([of_source, candidate]) + weights["head_layer.1.bias"]
        return weights["head_layer.4.weight"][0] @ inner.tanh() + weights["head_layer.4.bias"][0]

    return float(score(of_a) - score(of_b))


def test_the_logit_is_the_published_one(folder: Path, model: PairRM) -> None:
    triples = list(zip(texts(4), texts(4, start=50), texts(4, start=90), strict=True))
    expected = [published(folder, *triple) for triple in triples]
    assert model.one_way(*zip(*triples, strict=True)) == pytest.approx(expected, abs=1e-4)
    assert max(map(abs, expected)) > 0.1


def test_a_batch_says_what_each_row_says_alone(model: PairRM) -> None:
    rows = texts(30, longest=5), texts(30, longest=4, start=30), texts(30, longest=3, start=60)
    together = model.logits(*rows)
    alone = [model.logits([s], [a], [b])[0] for s, a, b in zip(*rows, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)
    turned = model.logits(*(list(reversed(row)) for row in rows))
    assert turned[::-1] == pytest.approx(together, abs=1e-4)
    assert len({round(logit, 2) for logit in together}) > 20


def test_padding_does_not_reach_a_logit(model: PairRM) -> None:
    short = model._row("x", "y", MOTIONS[0])
    (alone,) = model._forward([short])
    for longer in (2, 20, 80):
        padded = model._forward([short, model._row(" ".join(MOTIONS[:longer]), "y", "z")])
        assert padded[0] == pytest.approx(alone, abs=1e-4)


def test_one_batch_or_many(model: PairRM, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = texts(12), texts(12, start=30), texts(12, start=60)
    at_once = model.logits(*rows)
    monkeypatch.setattr(pairrm, "BATCH", 1)
    assert model.logits(*rows) == pytest.approx(at_once, abs=1e-4)


def test_batches_hold_every_row_once_and_so_many_tokens() -> None:
    lengths = [2048, 7, 900, 12, 2047, 300, 40, 900, 1, 5000]
    batches = list(pairrm._batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 4096 for batch in batches)
    assert len(batches) < len(lengths)


def test_a_comparison_does_not_see_the_order(model: PairRM) -> None:
    prompts, a, b = texts(30), texts(30, start=30), texts(30, start=60)
    one, other = model.comparisons(prompts, a, b), model.comparisons(prompts, b, a)
    assert [c.logit for c in one] == pytest.approx([-c.logit for c in other], abs=1e-4)
    turned = {"a": "b", "b": "a", "abstain": "abstain"}
    assert [c.winner for c in one] == [turned[c.winner] for c in other]
    assert {c.winner for c in one} == {"a", "b", "abstain"}


def test_it_abstains_where_the_orders_disagree(model: PairRM) -> None:
    prompts, a, b = texts(30), texts(30, start=30), texts(30, start=60)
    ways = list(zip(model.one_way(prompts, a, b), model.one_way(prompts, b, a), strict=True))
    for found, (ab, ba) in zip(model.comparisons(prompts, a, b), ways, strict=True):
        assert found.logit == pytest.approx((ab - ba) / 2, abs=1e-4)
        assert (found.winner == "abstain") == (ab * ba >= 0)


def test_equal_texts_are_no_better_than_each_other(model: PairRM) -> None:
    assert model.compare(MOTIONS[0], MOTIONS[1], MOTIONS[1]) == Comparison(winner="abstain", logit=0)
    assert model.best(MOTIONS[0], [MOTIONS[1]] * 4) == 0


def test_nothing_in_is_nothing_out(model: PairRM) -> None:
    assert model.logits([], [], []) == []
    assert model.best("x", []) is None and model.best("x", ["only"]) == 0


class Told(PairRM):
    """A PairRM whose l(A, B) is told, in place of the network's."""

    def __init__(self, told: Callable[[str, str], float]) -> None:
        self.told = told

    def one_way(self, source_texts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> list[float]:
        return [self.told(x, y) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize(
    ("ab", "ba", "winner", "logit"),
    [
        (2.0, -1.0, "a", 1.5),
        (-2.0, 1.0, "b", -1.5),
        (3.0, 1.0, "abstain", 1.0),
        (-3.0, -1.0, "abstain", -1.0),
        (0.0, -1.0, "abstain", 0.5),
        (1.0, 0.0, "abstain", 0.5),
    ],
)
def test_comparisons_by_hand(ab: float, ba: float, winner: str, logit: float) -> None:
    found = Told(lambda a, b: {"xy": ab, "yx": ba}[a + b]).compare("", "x", "y")
    assert (found.winner, found.logit) == (winner, logit)


def symmetric(table: dict[str, float]) -> Told:
    """Of a table that says how much better the first letter is than the second."""
    return Told(lambda a, b: table[a + b] if a + b in table else -table[b + a])


@pytest.mark.parametrize(
    ("model", "candidates", "best"),
    [
        # quality planted in the text itself, and a lean to the first place that does not hide it
        (Told(lambda a, b: len(a) - len(b) + 0.5), ["xx", "xxxx", "x", "xxx"], 1),
        # x beats y and z by little, y beats z by much: wins come first
        (symmetric({"xy": 0.1, "xz": 0.1, "yz": 9}), ["z", "y", "x"], 2),
        # a circle: every one wins once, and the sums are x: 3 - 1, y: 2 - 3, z: 1 - 2
        (symmetric({"xy": 3, "yz": 2, "zx": 1}), ["z", "y", "x"], 2),
        # a circle again, sums x: 5 - 2, y: 1 - 5, z: 2 - 1: the copy of z gives y no second win
        (symmetric({"xy": 5, "yz": 1, "zx": 2}), ["y", "z", "z", "x"], 3),
        # the lean decides everything: nothing is decided
        (Told(lambda a, b: len(a) - len(b) + 9), ["xx", "xxxx", "x"], None),
        # one decided comparison is enough
        (Told(lambda a, b: 1.0 if a + b != "zx" else -1.0), ["y", "z", "x"], 2),
    ],
)
def test_the_best_of_k_by_hand(model: PairRM, candidates: list[str], best: int | None) -> None:
    assert model.best("", candidates) == best


def test_the_best_of_k_has_most_wins(model: PairRM) -> None:
    candidates = texts(5, start=40)
    best = model.best(MOTIONS[0], candidates)
    wins = [
        sum(model.compare(MOTIONS[0], text, other).winner == "a" for other in candidates if other != text)
        for text in candidates
    ]
    assert best is not None and wins[best] == max(wins) > 0


LONG = " ".join(MOTIONS)


@pytest.mark.parametrize(
    ("source", "a", "b", "lengths"),
    [
        (LONG, LONG, LONG, (1224, 412, 412)),
        (LONG, "", LONG, (1224, 3, 412)),
        ("", LONG, LONG, (3, 1022, 1022)),  # of 2048 the prompt leaves 2045, half of which is 1022
        ("", "", LONG, (3, 3, 1022)),
        ("", "", "", (3, 3, 3)),
    ],
)
def test_lengths(model: PairRM, source: str, a: str, b: str, lengths: tuple[int, int, int]) -> None:
    row = model._row(source, a, b)
    parts = [part.tolist() for part in row.ids.tensor_split([row.marks[1] - 1, row.marks[2] - 1])]
    assert tuple(map(len, parts)) == lengths
    tokenizer = model.tokenizer
    for marker, part in zip(MARKERS, parts, strict=True):
        ends = [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids(marker), tokenizer.sep_token_id]
        assert [*part[:2], part[-1]] == ends


def test_the_end_is_cut_and_the_rest_is_read(model: PairRM) -> None:
    words = LONG.split()
    row = model._row(LONG, LONG, "x").ids
    assert row.equal(model._row(LONG + " more", LONG + " other", "x").ids)
    assert not row.equal(model._row(LONG, " ".join(["Other", *words[1:]]), "x").ids)
    assert model.compare("x", LONG + " more", LONG + " other") == Comparison(winner="abstain", logit=0)


FORGED = [
    *(*MARKERS, "[CLS]", "[SEP]", "[MASK]", "[PAD]"),
    "＜｜source｜＞",  # a marker after normalisation
    "<|\uff53ource|>",
    "\u0338",  # joins a > before it into one character
    *("\ud800", "\x00", "\n", " ", "trams", ">"),
]


@settings(max_examples=200, deadline=None)
@given(*[st.lists(st.sampled_from(FORGED), max_size=8).map("".join) for _ in range(3)])
def test_no_text_forges_a_marker(model: PairRM, source: str, a: str, b: str) -> None:
    ids = model._row(source, a, b).ids.tolist()
    tokenizer = model.tokenizer
    for marker in MARKERS:
        assert ids.count(tokenizer.convert_tokens_to_ids(marker)) == 1
    assert ids.count(tokenizer.cls_token_id) == ids.count(tokenizer.sep_token_id) == 3
    assert tokenizer.mask_token_id not in ids and tokenizer.pad_token_id not in ids


def test_of_a_huge_text_no_more_is_read_than_counts(model: PairRM, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    encode = model.tokenizer.encode
    monkeypatch.setattr(
        model.tokenizer, "encode", lambda text, **given: read.append(len(text)) or encode(text, **given)
    )
    huge = LONG + "\U0001f600" * 3_000_000
    assert model._row(huge, huge, "x").ids.equal(model._row(LONG, LONG, "x").ids)
    assert len(LONG) < max(read) < 200_000


def marked(copy: Path, *markers: str) -> None:
    build_tokenizer(copy, markers)


def configured(copy: Path, **values: object) -> None:
    told = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(told | values))


def weighted(copy: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change one tensor, or drop it."""
    weights = load_file(copy / "model.safetensors")
    value = change(weights.pop(name))
    kept = weights if value is None else weights | {name: value.contiguous()}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})


def pickled(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without(file: Path, part: str) -> None:
    """Take a part out of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {part: None}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: marked(c, *[*MARKERS][:2]), r"reads '<\|candidate2\|>' as \[.*instead of CLS, one id of its own"),
        (lambda c: marked(c, "<|source|>", "<|candidate|>"), r"reads '<\|candidate1\|>'"),
        (
            lambda c: marked(c, "<|source|>", "<|candidate2|>", "<|candidate1|>"),
            r"'<\|candidate1\|>' the id \d+, its config.json says",
        ),
        (lambda c: configured(c, source_prefix_id=128001), "its config.json says 128001"),
        (lambda c: without(c / "tokenizer.json", "post_processor"), "instead of CLS"),
        (lambda c: without(c / "tokenizer.json", "model"), r"\(Exception: "),
        (lambda c: without(c / "tokenizer_config.json", "unk_token"), "no token for what is unknown"),
        (lambda c: marked(c, *MARKERS, "<|one more|>"), "ids that the model lacks"),
        (
            lambda c: weighted(c, "head_layer.4.bias", lambda _: None),
            "1 of its weights are missing, 'head_layer.4.bias'",
        ),
        (
            lambda c: weighted(c, "pretrained_model.encoder.layer.1.output.dense.weight", lambda _: None),
            "missing, 'pretrained_model.encoder.layer.1.output.dense.weight'",
        ),
        (lambda c: weighted(c, "head_layer.1.weight", lambda w: w[:, :-1]), "size mismatch for head_layer.1.weight"),
        (lambda c: configured(c, num_hidden_layers=4), "weights are missing, 'pretrained_model.encoder.layer.3"),
        (lambda c: (c / "model.safetensors").unlink(), r"\(OSError: [^)]* model.safetensors"),
        (pickled, r"\(OSError: [^)]* model.safetensors"),
        (lambda c: truncated(c / "model.safetensors"), r"\(SafetensorError"),
        (lambda c: truncated(c / "tokenizer.json"), r"\(JSONDecodeError: "),
        (lambda c: (c / "tokenizer.json").unlink(), r"\(ValueError: [^)]*tokenizer"),
        (lambda c: truncated(c / "config.json"), r"\(JSONDecodeError: "),
        (lambda c: (c / "config.json").unlink(), "there is no config.json"),
        (lambda c: configured(c, hidden_size="many"), "[^)]*hidden_size"),
    ],
)
def test_what_does_not_fit_is_refused(
    copy: Path, spoil: Callable[[Path], None], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(copy)
    capfd.readouterr()
    with pytest.raises(InputError, match=message) as refusal:
        load(str(copy))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
    assert "llm-blender/PairRM-hf" in str(refusal.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", ["", "no/such-model", "/no/such/folder", "a\nb", "a\x00b", ".."])
def test_what_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="cannot be loaded as PairRM") as refusal:
        load(source)
    assert "\n" not in str(refusal.value)


def test_damaged_weights_are_no_abstention(copy: Path) -> None:
    weighted(copy, "head_layer.4.weight", lambda w: w * float("nan"))
    with pytest.raises(InputError, match="gives no finite logit"):
        load(str(copy)).compare("x", "y", "z")


def test_half_precision_weights_are_read_as_float32(copy: Path) -> None:
    weights = {name: w.bfloat16() for name, w in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert {w.dtype for w in load(str(copy)).network.parameters()} == {torch.float32}


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_the_extra_is_missing(folder: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"{missing} is not installed.*pip install 'debate-arena\[train\]'"):
        load(str(folder))


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, judges.pairrm; print(*{name.partition('.')[0] for name in sys.modules})"
    root = Path(pairrm.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "topics" in done.stdout.split()
    assert not {"torch", "transformers", "tokenizers", "safetensors"} & set(done.stdout.split())


@pytest.mark.parametrize("given", [{}, {"model": "llm-blender/PairRM-hf", "samples": 2}])
def test_it_does_not_judge_a_debate(given: dict[str, object]) -> None:
    with pytest.raises(
        InputError, match=r"'mine': PairRM compares two texts and does not judge a debate; name .* 'llm'"
    ):
        judges.load("pairrm", name="mine", **given)


@pytest.mark.skipif(not os.environ.get("PAIRRM"), reason="PAIRRM does not name a folder with llm-blender/PairRM-hf")
def test_golden_values() -> None:
    """The two that the model's authors publish; each is l(A, B)."""
    found = load(os.environ["PAIRRM"]).one_way(
        ["hello!", "I love you!"], ["hi!", "I hate you!"], ["f**k off!", "I love you, too!"]
    )
    assert found == pytest.approx([1.9003, -1.2547], abs=2e-3)
