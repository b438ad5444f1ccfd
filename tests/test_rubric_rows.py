"""Rows of a file: what is read of them, what is refused, and what answers to them earn, by hand."""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rubric_judge import answer as judged

import topics
from judges import rubric
from judges.asking import NoReply, NotNow, Question, Reply
from judges.rubric import Item, RubricJudge, weigh
from runs.records import content_seed
from topics.errors import InputError
from topics.leakage import NEAR_DUPLICATE, jaccard, ngrams
from training.recipe import table
from training.rewards import Items, Reward, Rewards
from training.rubric_rows import Line, Row, earned, load

ROOT = Path(__file__).parent.parent
SNIPPETS = {"S1": "Line 2 carries 40,000 people a day.", "S2": "Lyon reopened its network."}
MERIT = Item(text="It names the number.", weight=3.0)
FAULT = Item(text="It speaks of buses.", positive=False)
STATIC = Item(text="It pads.", positive=False, weight=2.0)


def written(folder: Path, *lines: object) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def test_a_row_in_full(tmp_path: Path) -> None:
    line = {
        "id": "line-2",
        "topic": "trams",
        "prompt": "[S1] [S2] How many?",
        "positive_rubrics": [{"text": "It names  the number.", "weight": 3}],
        "negative_rubrics": ["It speaks of buses."],
        "snippets": SNIPPETS,
        "max_words": 60,
    }
    row = Row(
        id="line-2",
        topic="trams",
        messages=[{"role": "user", "content": "[S1] [S2] How many?"}],
        items=(MERIT, FAULT),
        snippets=SNIPPETS,
        most_words=60,
    )
    assert load(written(tmp_path, line)) == (row,)
    listed = line | {"snippets": [{"id": name, "text": text} for name, text in SNIPPETS.items()]}
    assert load(written(tmp_path, listed)) == (row,)
    assert row.prompt == "[S1] [S2] How many?"


def test_a_row_of_a_prompt_alone_and_one_in_messages(tmp_path: Path) -> None:
    chat = [{"role": role, "content": f"{role} says"} for role in ("system", "user", "assistant", "user")]
    lacking = {"prompt": "Why?", "snippets": None, "max_words": None, "id": None}
    path = written(tmp_path, {"prompt": "Why trams?"}, "", "  \r", {"prompt": chat}, lacking)
    bare, long, null = load(path)
    assert bare.messages == [{"role": "user", "content": "Why trams?"}] and bare.prompt == "Why trams?"
    assert (bare.items, bare.snippets, bare.most_words) == ((), {}, None) and null.snippets == {}
    assert long.messages == chat
    assert [long.prompt.index(f"{role}:\n{role} says") for role in ("system", "user", "assistant")] == [0, 21, 38]
    assert bare.topic == bare.id and len({row.id for row in (bare, long, null)}) == 3
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path) == (bare, long, null)


def test_ids_come_of_the_prompt_and_topics_of_the_id(tmp_path: Path) -> None:
    first, second = load(written(tmp_path, {"prompt": "a"}, {"prompt": "b", "id": "b"}))
    (alone,) = load(written(tmp_path, {"prompt": "a", "max_words": 3}))
    assert alone.id == first.id and (second.id, second.topic) == ("b", "b")


GOOD = {"prompt": "[S1] Why?", "positive_rubrics": ["It says why."], "snippets": {"S1": "So it is."}}

WRONG: list[tuple[object, str]] = [
    ("nonsense", "no JSON.*one JSON object"),
    ("[" * 100_000, "too deep.*one JSON object"),
    ("[1]", "list, and no object"),
    ('"text"', "str, and no object"),
    ('{"prompt": "a", "max_words": NaN}', "NaN is no number"),
    ('{"prompt": "a", "prompt": "b"}', "'prompt' stands twice"),
    ('{"prompt": "S1", "snippets": {"S1": "a", "S1": "b"}}', "'S1' stands twice"),
    ('{"prompt": "a", "max_words": ' + "9" * 5_000 + "}", "a whole number of 5000 digits"),
    ({}, "prompt: Field required"),
    ({"promt": "a"}, "unknown field 'promt'; expected prompt, .*did you mean 'prompt'"),
    (GOOD | {"positive_rubric": ["b"]}, "'positive_rubric'.*did you mean 'positive_rubrics'"),
    (GOOD | {"zzz\n": 1}, r"unknown field 'zzz\\n'; expected"),
    (GOOD | {"prompt": ""}, "prompt number 1 content: expected some text"),
    (GOOD | {"prompt": " \n"}, "expected some text"),
    (GOOD | {"prompt": 7}, "prompt: expected a string, or a list"),
    (GOOD | {"prompt": []}, "prompt: .*at least 1"),
    (GOOD | {"prompt": ["a"]}, "prompt number 1: expected an object of role and content"),
    (GOOD | {"prompt": [{"role": "user"}]}, "prompt number 1 content: Field required"),
    (GOOD | {"prompt": [{"role": "tool", "content": "a"}]}, "number 1 role: .*'system', 'user' or 'assistant'"),
    (GOOD | {"prompt": [{"role": "user", "contents": "a"}]}, "prompt number 1: .*'contents'.*mean 'content'"),
    (GOOD | {"prompt": [{"role": "assistant", "content": "S1"}]}, "role 'assistant'; expected a user's"),
    (GOOD | {"prompt": "a\0b"}, "NUL"),
    ('{"prompt": "a\\ud800"}', "surrogate"),
    ('{"prompt": "a", "\\ud800": 1}', "line 3: .*valid string"),
    (GOOD | {"prompt": "S1" * 500_001}, "prompt number 1 content: .*at most 1000000"),
    (GOOD | {"positive_rubrics": "It says why."}, "positive_rubrics: .*list"),
    (GOOD | {"positive_rubrics": [1]}, "positive_rubrics number 1: expected a string, or an object"),
    (GOOD | {"positive_rubrics": ["a", ""]}, "positive_rubrics number 2 text: expected some text"),
    (GOOD | {"positive_rubrics": ["a" * 1_001]}, "at most 1000"),
    (GOOD | {"negative_rubrics": [{"text": "a", "wieght": 1}]}, "negative_rubrics number 1: .*mean 'weight'"),
    (GOOD | {"negative_rubrics": [{"text": "a", "weight": 0}]}, "number 1 weight: .*greater than 0"),
    (GOOD | {"negative_rubrics": [{"text": "a", "weight": "2"}]}, "weight: .*number"),
    ('{"prompt": "a", "negative_rubrics": [{"text": "a", "weight": 1e999}]}', "weight: "),
    (GOOD | {"negative_rubrics": ["It says  why."]}, r"'It says why\.' 2 times"),
    (GOOD | {"positive_rubrics": ["a", "b", "a"]}, "'a' 2 times"),
    (GOOD | {"negative_rubrics": [f"It is {n}." for n in range(50)]}, "51 rubric items; expected at most 50"),
    (GOOD | {"snippets": "a"}, "snippets: expected an object of id and text"),
    (GOOD | {"snippets": {"S1": 1}}, "snippets number 1 text: .*string"),
    (GOOD | {"snippets": [{"id": "S1", "text": "a"}, {"id": "S1", "text": "b"}]}, "the id 'S1'"),
    (GOOD | {"snippets": [{"id": "S1", "txt": "a"}]}, "'txt'.*mean 'text'"),
    (GOOD | {"snippets": {"S2": "a"}}, "does not show snippet 'S2'"),
    (GOOD | {"snippets": {f"S{n}": "a" for n in range(1_001)}}, "snippets: .*at most 1000"),
    (GOOD | {"snippets": {"S" * 201: "a"}}, "number 1 id: .*at most 200"),
    *((GOOD | {"prompt": name, "snippets": {name: "a"}}, "id: .*") for name in ("a,b", "<S>", "'S1'", " S1", "a\tb")),
    (GOOD | {"id": ""}, "id: expected some text"),
    (GOOD | {"id": "a\nb"}, "id: expected an id of printable"),
    (GOOD | {"id": 7}, "id: .*string"),
    (GOOD | {"id": "a" * 201}, "id: .*at most 200"),
    (GOOD | {"topic": " a"}, "topic: expected an id"),
    (GOOD | {"max_words": 0}, "max_words: .*at least|max_words: .*greater"),
    (GOOD | {"max_words": True}, "max_words: .*integer"),
    (GOOD | {"max_words": 2.0}, "max_words: .*integer"),
]


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[f"{n}" for n in range(len(WRONG))])
def test_a_wrong_line_is_told_in_one_line_with_its_number(tmp_path: Path, line: object, said: str) -> None:
    path = written(tmp_path, GOOD | {"id": "one"}, "", line)
    with pytest.raises(InputError, match=said) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{str(path)!r} line 3") and "\n" not in message


def test_an_id_stands_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2 has the id 'x', as line 1 has"):
        load(written(tmp_path, {"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}))
    with pytest.raises(InputError, match=r"line 3 has the id '\w+', as line 1 has; give each"):
        load(written(tmp_path, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a", "max_words": 3}))


def test_a_file_that_is_none_or_empty_is_told(tmp_path: Path) -> None:
    for lines in ((), ("", " ")):
        with pytest.raises(InputError, match="has no rows; expected one JSON object"):
            load(written(tmp_path, *lines))
    for path, said in ((tmp_path, "directory"), (tmp_path / "none.jsonl", "No such file")):
        with pytest.raises(InputError, match=f"cannot read .*{said}"):
            load(path)
    path = written(tmp_path, GOOD)
    path.write_bytes(path.read_bytes() + '{"prompt": "für"}'.encode("latin-1"))
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        load(path)


def test_a_row_that_the_rewards_cannot_score_is_refused_before_the_training(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, {"prompt": "Why?"}, {"prompt": "And?", "negative_rubrics": ["It pads."]})
    alone = Rewards(weights={"rubric": 1.0}, instance_rubrics_only=True)
    assert len(load(path)) == len(load(path, Rewards(weights={"format": 1.0}), [STATIC])) == 3
    with pytest.raises(InputError, match="line 2: a prompt has no rubric item"):
        load(path, alone, [STATIC])
    with pytest.raises(InputError, match=r"line 3: .*'It pads\.' 2 times"):
        load(path, Rewards(weights={"rubric": 1.0}), [STATIC])


# ── held out ─────────────────────────────────────────────────────────────────────────────────────

HELD_OUT = topics.load("test")
FLUORIDE = next(topic for topic in HELD_OUT if topic.topic_id == "end-water-fluoridation")
PLACES: list[dict[str, Any]] = [
    {"prompt": "Argue: {}"},
    {"prompt": [{"role": "system", "content": "{}"}, {"role": "user", "content": "Argue."}]},
    {"prompt": "Why?", "positive_rubrics": ["It says that {}"]},
    {"prompt": "Why?", "negative_rubrics": ["{}"]},
    {"prompt": "[S1] Why?", "snippets": {"S1": "Trams are quiet. " * 50 + "{}" + " Trams are quiet." * 50}},
]


@pytest.mark.parametrize("place", PLACES)
def test_a_held_out_motion_is_refused_wherever_it_stands(tmp_path: Path, place: dict[str, Any]) -> None:
    line = json.dumps(place).replace("{}", FLUORIDE.motion)
    with pytest.raises(InputError, match="line 2 holds the held-out topic 'end-water-fluoridation'"):
        load(written(tmp_path, GOOD | {"id": "one"}, line))


@pytest.mark.parametrize(
    "text",
    [
        FLUORIDE.motion.upper(),
        FLUORIDE.motion.replace(" should", " should not"),
        "  ".join(FLUORIDE.motion.replace(" ", " *\n").split(" ")),
        "Is it so that towns that add fluoride to their drinking water ought to stop that?",
    ],
)
def test_a_near_duplicate_is_refused_too(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="end-water-fluoridation"):
        load(written(tmp_path, {"prompt": f"Discuss. {text} Give reasons."}))


@pytest.mark.parametrize("field", ["id", "topic"])
def test_a_held_out_topic_is_refused_by_its_id(tmp_path: Path, field: str) -> None:
    with pytest.raises(InputError, match="line 1 holds the held-out topic 'end-water-fluoridation'"):
        load(written(tmp_path, {"prompt": "Why?", field: FLUORIDE.topic_id}))


def test_every_held_out_motion_is_found_and_nothing_of_the_train_topics_is(tmp_path: Path) -> None:
    for topic in HELD_OUT:
        with pytest.raises(InputError, match=topic.topic_id):
            load(written(tmp_path, {"prompt": f"So many say: {topic.motion} But do they?"}))
    train = topics.load("train")
    rows = load(written(tmp_path, *({"prompt": topic.model_dump_json(), "id": topic.topic_id} for topic in train)))
    assert [row.topic for row in rows] == [topic.topic_id for topic in train]


WORDS = st.sampled_from([*FLUORIDE.motion.rstrip(".").split(), "trams", "trams", "are", "quiet"])


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=30), st.integers(0, 12), st.integers(0, 12))
def test_what_is_refused_is_what_overlaps_in_as_many_words_as_the_motion_has(
    words: list[str], start: int, size: int
) -> None:
    words = [*words[:15], *FLUORIDE.motion.split()[start : start + size], *words[15:]]

    def holds(motion: str) -> bool:
        size, grams = len(motion.split()), ngrams(motion)
        stretches = (words[at : at + size] for at in range(max(1, len(words) - size + 1)))
        return any(jaccard(ngrams(" ".join(stretch)), grams) >= NEAR_DUPLICATE for stretch in stretches)

    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), {"prompt": " ".join(words)})
        if any(holds(topic.motion) for topic in HELD_OUT):
            with pytest.raises(InputError, match="held-out"):
                load(path)
        else:
            assert len(load(path)) == 1


# ── what an answer earns ─────────────────────────────────────────────────────────────────────────

REFINER = Rewards(weights={"rubric": 1.0, "citation": 0.2, "format": 0.1}, scale=10.0)
ROW = Row(
    id="line-2",
    topic="trams",
    messages=[{"role": "user", "content": "[S1] [S2] How many?"}],
    items=(MERIT, FAULT),
    snippets=SNIPPETS,
    most_words=None,
)
UNCITED = Row(id="why", topic="why", messages=ROW.messages, items=(MERIT,), snippets={}, most_words=4)
ANSWER = "<think>SECRET</think><answer>So <snippet id=S1>Line 2 carries 40,000</snippet>.</answer>"


class Scripted:
    """An `ask` that answers each kind of question as it is told, and keeps the questions."""

    def __init__(self, rubric: object = judged(8, 3, 5), citation: object = judged(5, 10)) -> None:
        self.told = {"rubric": rubric, "citation": citation}
        self.questions: dict[str, Question] = {}

    async def __call__(self, question: Question) -> Reply:
        kind = "citation" if '"claims": [' in question.messages[1]["content"] else "rubric"
        self.questions[kind] = question
        told = self.told[kind]
        if isinstance(told, Exception):
            raise told
        return Reply(text=json.dumps(told))


def reward(ask: Any, answer: str, rewards: Rewards = REFINER, row: Row = ROW, **how: Any) -> Reward:
    judge = RubricJudge("rubric", ask=ask)
    return asyncio.run(earned(judge, row, answer, rewards, [STATIC], **how))


def scores(items: Items | None) -> list[float]:
    return [scored.score for scored in items or ()]


def test_a_reward_by_hand() -> None:
    ask = Scripted()
    found = reward(ask, ANSWER)
    # rubric (3 * 0.8 + 1 * (1 - 0.3) + 2 * (1 - 0.5)) / 6 = 4.1 / 6; F1 of 0.5 and 1 is 2 / 3; the form is kept
    assert found.value == pytest.approx(10 * (4.1 / 6 + 0.2 * 2 / 3 + 0.1))
    assert found.value == pytest.approx(9.1667, abs=1e-4)
    assert list(found.components) == ["rubric", "citation", "format"]
    assert {question.about for question in ask.questions.values()} == {"line-2"}
    assert not any("SECRET" in said["content"] for q in ask.questions.values() for said in q.messages)
    assert "[S1] [S2] How many?" in ask.questions["rubric"].messages[1]["content"]


def test_instance_items_alone_leave_the_static_ones_out_of_question_reward_and_log() -> None:
    ask = Scripted(rubric=judged(8, 3))
    found = reward(ask, ANSWER, REFINER.model_copy(update={"instance_rubrics_only": True}))
    assert found.value == pytest.approx(10 * ((3 * 0.8 + 0.7) / 4 + 0.2 * 2 / 3 + 0.1))
    assert [scored.item for scored in found.components["rubric"] or ()] == [MERIT, FAULT]
    assert STATIC.text not in ask.questions["rubric"].messages[0]["content"]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "Line 2 carries 40,000.",
        "<answer></answer>",
        "<answer>...</answer>",
        "<answer><snippet id=S1></snippet></answer>",
        "<answer>Line 2 carries",
        "<think><answer>Line 2 carries 40,000.</answer></think>",
        "<think>Hm. <answer>Line 2 carries 40,000.</answer>",
        "<answer>a</answer><answer>b</answer>",
    ],
)
@pytest.mark.parametrize("row", [ROW, UNCITED])
def test_without_an_answer_block_everything_is_worst_and_nothing_is_asked(answer: str, row: Row) -> None:
    ask = Scripted()
    rewards = Rewards(weights={"rubric": 1.0, "citation": 0.2, "format": 0.1, "length": 0.1})
    found = reward(ask, answer, rewards, row)
    assert found.value == 0.0 and not ask.questions
    assert all(weigh(items or ()) == 0.0 for items in found.components.values())


def test_where_neither_citations_nor_form_earn_anything_all_that_can_be_heard_is_the_answer() -> None:
    plain = Rewards(weights={"rubric": 1.0})
    ask = Scripted()
    assert reward(ask, "<think>SECRET</think>Line 2 carries 40,000.", plain).value == pytest.approx(4.1 / 6)
    assert "Line 2 carries 40,000." in ask.questions["rubric"].messages[1]["content"]
    assert "SECRET" not in ask.questions["rubric"].messages[1]["content"]
    reward(ask, "Well: <answer>Line 2.</answer>", plain)
    assert "Well: <answer>Line 2.</answer>" in ask.questions["rubric"].messages[1]["content"]
    logged = Rewards(weights={"rubric": 1.0, "citation": 0.0, "format": 0.0})
    for answer in ("Line 2 carries 40,000.", ANSWER, "", "<answer>"):
        assert reward(Scripted(), answer, plain).value == reward(Scripted(), answer, logged).value


@pytest.mark.parametrize(("cut", "form"), [(False, [1, 1, 1, 1]), (True, [1, 1, 1, 0])])
def test_an_answer_that_was_cut_does_not_come_to_its_end(cut: bool, form: list[float]) -> None:
    assert scores(reward(Scripted(), ANSWER, cut=cut).components["format"]) == form


def test_the_form_by_hand() -> None:
    assert scores(reward(Scripted(), "Well: " + ANSWER).components["format"]) == [1, 0, 1, 1]
    assert scores(reward(Scripted(), "<answer>So <snippet id=S1>it is.</answer>").components["format"]) == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("<answer>So it is.</answer>", 1.0),
        ("<answer>So <snippet id=S1>it is</snippet>.</answer>", 0.0),
        ("<answer>So <snippet id=>it is</snippet>.</answer>", 0.0),
        ("So it is.", 0.0),
    ],
)
def test_without_snippets_to_cite_nothing_is_all_there_is(answer: str, share: float) -> None:
    ask = Scripted()
    found = reward(ask, answer, Rewards(weights={"citation": 1.0}), UNCITED)
    assert found.value == share and not ask.questions


@pytest.mark.parametrize(
    ("words", "share"), [("one", 1.0), ("one two three four", 1.0), ("one two three four five", 0.0)]
)
def test_words_are_counted_without_tags(words: str, share: float) -> None:
    only = Rewards(weights={"length": 1.0})
    assert reward(Scripted(), f"<snippet id=S1 >{words}</snippet>", only, UNCITED).value == share
    assert reward(Scripted(), f"<think>one two three four</think>{words}", only, UNCITED).value == share
    assert reward(Scripted(), words * 100, only).value == 1.0, "a row without a limit"


def test_words_are_those_of_the_answer_block_where_there_has_to_be_one() -> None:
    both = Rewards(weights={"length": 1.0, "format": 1.0})
    found = reward(Scripted(), "Here is what I found: <answer>one two</answer>", both, UNCITED)
    assert scores(found.components["length"]) == [1.0] and found.value == pytest.approx(1 + 3 / 4)


@pytest.mark.parametrize("failed", ["rubric", "citation"])
def test_a_question_that_fails_is_none_through_the_reward_and_no_other_component(failed: str) -> None:
    for failure in (NoReply("server", "down"), {"no": "scores"}):
        found, whole = reward(Scripted(**{failed: failure}), ANSWER), reward(Scripted(), ANSWER)
        assert found.value is None
        assert {name for name, items in found.components.items() if items is None} == {failed}
        assert all(found.components[name] == whole.components[name] for name in found.components if name != failed)


@pytest.mark.parametrize(("parked", "other"), [("rubric", "citation"), ("citation", "rubric")])
def test_what_may_come_later_passes_when_nothing_is_asked_any_more(parked: str, other: str) -> None:
    answered: list[str] = []

    class Slow(Scripted):
        async def __call__(self, question: Question) -> Reply:
            reply = await super().__call__(question)
            for _ in range(10):
                await asyncio.sleep(0)
            answered.extend(kind for kind, asked in self.questions.items() if asked is question)
            return reply

    with pytest.raises(NotNow, match="parked"):
        reward(Slow(**{parked: NotNow("parked")}), ANSWER)
    assert answered == [other]


def test_both_questions_are_asked_side_by_side() -> None:
    class Together(Scripted):
        """Answers nobody before both have asked."""

        def __init__(self) -> None:
            super().__init__()
            self.both = asyncio.Barrier(2)

        async def __call__(self, question: Question) -> Reply:
            async with asyncio.timeout(60):
                await self.both.wait()
            return await super().__call__(question)

    assert reward(Together(), ANSWER) == reward(Scripted(), ANSWER)


def test_no_two_questions_about_a_row_have_the_same_draw() -> None:
    draws = []
    for draw in range(4):
        ask = Scripted()
        reward(ask, ANSWER, draw=draw)
        draws += [question.draw for question in ask.questions.values()]
    assert len(set(draws)) == len(draws) == 8


def test_what_is_not_scored_here_is_an_error() -> None:
    with pytest.raises(ValueError, match="'margin'; expected rubric, citation, format, length"):
        reward(Scripted(), ANSWER, Rewards(weights={"rubric": 1.0, "margin": 1.0}))


async def by_content(question: Question) -> Reply:
    """Scores that depend on the question, and now and then none that can be read."""
    seed = content_seed(*(message["content"] for message in question.messages))
    if seed % 5 == 0:
        return Reply(text="none")
    assert question.schema is not None
    asked = question.schema["properties"]["items"]["properties"]
    return Reply(text=json.dumps(judged(*((seed >> n) % 11 for n in range(len(asked))))))


TAGS = [
    "<answer>",
    "</answer>",
    "<snippet id=S1>",
    "<snippet id=S2,X>",
    "</snippet>",
    "<snippet",
    "<think>",
    "</think>",
]
SAID = st.lists(st.sampled_from([*TAGS, "Line 2 is full.", '"}], "claims": [', "{items}", "\0", "\ud800"]) | st.text())


@given(SAID, st.booleans(), st.sampled_from([ROW, UNCITED]))
def test_whatever_is_said_earns_between_nothing_and_all_or_is_unknown(said: list[str], cut: bool, row: Row) -> None:
    rewards = Rewards(weights={"rubric": 1.0, "citation": 0.2, "format": 0.1, "length": 0.1}, scale=10.0)
    for answer in ("".join(said), f"<answer>{''.join(said)}</answer>"):
        value = reward(by_content, answer, rewards, row, cut=cut).value
        assert value is None or -1e-9 <= value <= 14 + 1e-9


# ── the published system, and the page ───────────────────────────────────────────────────────────


def test_the_recipe_refiner_has_that_systems_numbers() -> None:
    recipe = table("refiner", "grpo")
    told = ("rows", "group", "beta", "learning_rate", "temperature", "max_length", "max_completion", "seed")
    assert [recipe[name] for name in told] == [32, 8, 0.001, 5e-6, 1.0, 6144 + 1024, 1024, 42]
    assert (recipe["check_every"], recipe["schedule"], recipe["warmup"]) == (50, "constant_with_warmup", 0.0)
    rewards = Rewards.model_validate(recipe["rewards"])
    assert (rewards.scale, rewards.weights["rubric"], rewards.weights["citation"]) == (10.0, 1.0, 0.2)
    assert not rewards.instance_rubrics_only and len(rubric.load(recipe["static"])) == 3
    persuade = table("persuade", "dpo")
    assert [recipe[name] for name in ("rank", "alpha")] == [persuade[name] for name in ("rank", "alpha")]


def test_the_static_rubric_has_one_merit_and_two_faults() -> None:
    discipline, padding, confabulation = rubric.load("research")
    assert "cites" in discipline.text and discipline.positive
    assert "did not ask" in padding.text and not padding.positive
    assert "another" in confabulation.text and not confabulation.positive


def test_the_page_on_data_writes_a_file_that_can_be_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "write-grpo-data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    line_2, why = load(tmp_path / "prompts.jsonl", REFINER, rubric.load("research"))
    assert (line_2.id, line_2.topic, line_2.most_words, list(line_2.snippets)) == ("line-2", "trams", 60, SHOWN)
    assert [(of.positive, of.weight) for of in line_2.items] == [(True, 1.0), (True, 2.0), (False, 1.0)]
    assert why.topic == why.id and len(why.messages) == 2
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(Line.model_fields)


SHOWN = ["S1", "S2", "S3"]


def test_importing_rows_loads_nothing_heavy() -> None:
    code = "import sys, training.rubric_rows; print({'torch', 'trl', 'transformers', 'openai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
