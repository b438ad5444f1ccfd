"""The sealed topics, their split, and a user's own."""

import json
from collections import Counter
from pathlib import Path

import pytest

import topics
from topics import catalogue, leakage, seal, split
from topics.__main__ import main
from topics.errors import InputError
from topics.topic import Topic, canonical


def test_the_catalogue_is_what_it_says() -> None:
    known = topics.load("all")
    assert Counter(t.split for t in known) == {"train": 200, "test": 59}
    assert len({t.topic_id for t in known}) == len({t.motion for t in known}) == 259
    for topic in known:
        assert 8 <= len(topic.motion.split()) <= 30 and topic.motion.endswith(".")
        assert len(topic.info.split()) <= 60
        assert topic.theme and topic.question_type and topic.framing and topic.cluster
        for side in topics.SIDES:
            assert len(topic.points[side]) == 3
            assert all(len(p.claim.split()) + len(p.reason.split()) <= 25 for p in topic.points[side])


def test_nothing_stands_on_both_sides_of_the_split() -> None:
    train, test = topics.load("train"), topics.load("test")
    assert not {t.cluster for t in train} & {t.cluster for t in test}
    assert not list(leakage.overlaps(train, test))


def test_the_split_is_drawn_from_its_seed_and_stratified() -> None:
    known = topics.load("all")
    assert split.draw(known) == {t.topic_id: t.split for t in known}
    assert split.draw(list(reversed(known))) == split.draw(known)
    assert split.draw(known, seed=1) != split.draw(known)
    for theme in {t.theme for t in known}:
        assert sum(t.split == "test" for t in known if t.theme == theme) in (4, 5)
    for kind, want in {"policy": 119, "value": 65, "fact": 50, "mixed": 25}.items():
        held_out = sum(t.split == "test" for t in known if t.question_type == kind)
        assert abs(held_out - want * 59 / 259) < 5


def test_largest_remainder_by_hand() -> None:
    # quotas 10 * (47, 16, 37) / 100 = 4.7, 1.6, 3.7: whole parts 4, 1, 3, and the two largest remainders are .7, .7
    assert split.shares({"a": 47, "b": 16, "c": 37}, 10, seed=0) == {"a": 5, "b": 1, "c": 4}


def test_jaccard_by_hand() -> None:
    a, b = leakage.ngrams("one two three four"), leakage.ngrams("two three four five")
    assert leakage.jaccard(a, b) == 1 / 3
    assert leakage.jaccard(a, a) == 1 and leakage.jaccard(a, leakage.ngrams("")) == 0


def test_canonical_json_ignores_spelling_of_the_same_text() -> None:
    assert canonical({"b": " e\u0301 ", "a": 1}) == canonical({"a": 1, "b": "é"}) == '{"a":1,"b":"é"}'


@pytest.mark.parametrize(
    ("mend", "named"),
    [
        (lambda rows: rows[0].update(motion=rows[0]["motion"] + " Indeed."), "changed: {first}"),
        (lambda rows: rows[0].update(split="test" if rows[0]["split"] == "train" else "train"), "changed: {first}"),
        (lambda rows: rows.pop(0), "missing: {first}"),
        (lambda rows: rows.append(rows[0] | {"topic_id": "stranger"}), "not sealed: stranger"),
    ],
)
def test_a_broken_seal_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mend: object, named: str) -> None:
    rows = [json.loads(line) for line in catalogue.MOTIONS.read_text().splitlines()]
    first = rows[0]["topic_id"]
    mend(rows)  # type: ignore[operator]
    broken = tmp_path / "motions.jsonl"
    broken.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(catalogue, "MOTIONS", broken)
    with pytest.raises(InputError, match=named.format(first=first)):
        topics.load("train")


def test_the_root_covers_the_list() -> None:
    sealed = json.loads(catalogue.MANIFEST.read_text())
    assert seal.root(sealed["topics"]) == sealed["root"]
    assert seal.root(dict(reversed(sealed["topics"].items()))) == sealed["root"]
    assert seal.root(sealed["topics"] | {"x": "0"}) != sealed["root"]


def test_ids_and_near_matches() -> None:
    ids = [t.topic_id for t in topics.load("all")][:2]
    assert [t.topic_id for t in topics.load(",".join(ids))] == ids
    with pytest.raises(InputError, match=f"did you mean '{ids[0]}'"):
        topics.load(ids[0][:-1])
    with pytest.raises(InputError, match="did you mean 'train'"):
        topics.load("trian")


def test_a_file_with_motions_only(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("motion,note\nCats make better company than dogs.,x\nCats make better company than dogs.,y\n")
    own = topics.load(path)
    assert [t.topic_id for t in own] == ["cats-make-better-company-than-dogs", "cats-make-better-company-than-dogs-2"]
    assert {t.split for t in own} == {"custom"}
    path = tmp_path / "mine.jsonl"
    path.write_text('{"motion": "Tea\\u0007 is better\\u001b[31m than coffee.", "split": "test"}\n')
    (one,) = topics.load(str(path))
    assert one.split == "custom" and one.motion.isprintable()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "no topics"),
        ("a.jsonl", "nonsense", "line 1 is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is list"),
        ("a.jsonl", '{"motto": "x"}', "line 1 has no 'motion'"),
        ("a.jsonl", '{"motion": "A b.", "points": {"for": [{"claim": "c"}]}}', "points.for.0.reason"),
        ("a.jsonl", '{"motion": "A.", "topic_id": "a"}\n{"motion": "B.", "topic_id": "a"}', "line 2 repeats topic_id"),
        ("a.csv", "title\nx\n", "line 2 has no 'motion'"),
        ("missing.csv", None, "cannot read topics"),
        ("a.jsonl", '{"motion": "A b.", "topic_id": "../../etc"}', "topic_id"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        topics.load(tmp_path / name)


def test_a_sealed_id_cannot_be_taken(tmp_path: Path) -> None:
    held_out = topics.load("test")[0].topic_id
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"topic_id": held_out, "motion": "Something else altogether."}))
    with pytest.raises(InputError, match="id of a sealed topic"):
        topics.load(path)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    assert "259 topics, 200 train, 59 test" in capsys.readouterr().out
    assert main(["stats"]) == 0
    assert "international" in capsys.readouterr().out
    topic: Topic = topics.load("all")[0]
    assert main(["show", topic.topic_id]) == 0
    assert topic.motion in capsys.readouterr().out
    assert main(["show", "no-such-topic"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown topics 'no-such-topic'")
