"""The rubric judge: one text, a list of items, scores or None."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges import rubric
from judges.asking import NoReply, NotNow, Question, Reply
from judges.rubric import Item, ItemScore, RubricJudge, Scores, weigh
from topics.errors import InputError

MERIT = Item(text="It gives a reason.", weight=3.0)
FAULT = Item(text="It flatters the judge.", positive=False)
ITEMS = (MERIT, FAULT)


def answer(*scores: object, reason: object = "So it is.") -> dict[str, Any]:
    return {"items": {str(n): {"reason": reason, "score": score} for n, score in enumerate(scores, 1)}}


class Told:
    """An `ask` that gives these answers, one after the other, and keeps the questions."""

    def __init__(self, *answers: object) -> None:
        self.answers = answers
        self.questions: list[Question] = []

    async def __call__(self, question: Question) -> Reply:
        self.questions.append(question)
        answer = self.answers[len(self.questions) - 1]
        if isinstance(answer, Exception):
            raise answer
        return Reply(text=answer if isinstance(answer, str) else json.dumps(answer), call_id=f"{len(self.questions)}")


def score(ask: Told, prompt: str = "Argue for trams.", text: str = "Trams are quiet.", draw: int = 0) -> Scores | None:
    return asyncio.run(RubricJudge("rubric", ask=ask).score(prompt, text, ITEMS, about="p1", draw=draw))


def asked(prompt: str, text: str) -> tuple[str, str]:
    ask = Told(NoReply("refused", "no"))
    assert score(ask, prompt, text) is None
    system, user = ask.questions[0].messages
    return system["content"], user["content"]


def test_scores_are_shares_of_one_as_the_judge_gave_them() -> None:
    scores = score(Told(answer(8, 3)))
    assert scores == Scores(
        items=(
            ItemScore(item=MERIT, score=0.8, reason="So it is."),
            ItemScore(item=FAULT, score=0.3, reason="So it is."),
        ),
        call_id="1",
    )


def weighed(*scores: tuple[float, bool, float]) -> float:
    """What (weight, positive, score) come to."""
    return weigh(ItemScore(item=Item(text="x", positive=p, weight=w), score=s, reason="x") for w, p, s in scores)


def test_weighing_by_hand() -> None:
    assert weighed((3, True, 0.8), (1, False, 0.3)) == pytest.approx((3 * 0.8 + 1 * 0.7) / 4)
    assert weighed((2, True, 1.0), (5, False, 0.0)) == 1.0
    assert weighed((2, True, 0.0), (5, False, 1.0)) == 0.0
    assert weighed((1, False, 0.25)) == 0.75


TRIPLES = st.tuples(st.floats(0.01, 100), st.booleans(), st.floats(0, 1))


@given(st.lists(TRIPLES, min_size=1, max_size=8), st.floats(0.1, 10))
def test_weighing_keeps_its_bounds_and_its_scale(scores: list[tuple[float, bool, float]], factor: float) -> None:
    value = weighed(*scores)
    assert -1e-9 <= value <= 1 + 1e-9
    assert weighed(*((w * factor, p, s) for w, p, s in scores)) == pytest.approx(value)
    assert weighed(*((w, not p, s) for w, p, s in scores)) == pytest.approx(1 - value)


UNREADABLE = [
    "",
    "8 and 3",
    answer(8),
    answer(8, 3, 5),
    {"items": {"1": {"reason": "x", "score": 8}, "two": {"reason": "x", "score": 3}}},
    answer(8, 11),
    answer(8, -1),
    answer(8, "3"),
    answer(8, True),
    answer(8, None),
    answer(8, 3, reason=""),
    answer(8, 3, reason=None),
    answer(8, 3) | {"total": 5},
    [answer(8, 3), answer(8, 4)],
    '{"items": {"1": {"reason": "x", "score": NaN}, "2": {"reason": "x", "score": 3}}}',
    '{"items": {"1": {"reason": "x", "score": 8}, "1": {"reason": "x", "score": 3}}}',
    json.dumps(answer(8, 3))[:-1],
]


@pytest.mark.parametrize("wrong", UNREADABLE, ids=lambda wrong: str(wrong)[:60])
def test_what_cannot_be_read_is_repaired_once_and_then_none(wrong: object) -> None:
    ask = Told(wrong, answer(8, 3))
    repaired = score(ask)
    assert repaired is not None and repaired.call_id == "2" and len(ask.questions) == 2
    assert ask.questions[1].messages[:2] == ask.questions[0].messages
    ask = Told(wrong, wrong, answer(8, 3))
    assert score(ask) is None and len(ask.questions) == 2


@pytest.mark.parametrize("before", range(2))
def test_no_reply_is_none_and_not_now_passes(before: int) -> None:
    assert score(Told(*["x"] * before, NoReply("content", "filtered"))) is None
    with pytest.raises(NotNow):
        score(Told(*["x"] * before, NotNow("parked")))


def test_draws_are_told_apart() -> None:
    draws = []
    for draw in range(5):
        ask = Told("x", "x")
        score(ask, draw=draw)
        draws += [q.draw for q in ask.questions]
        assert {q.about for q in ask.questions} == {"p1"}
    assert len(set(draws)) == len(draws) == 10


def test_texts_for_one_prompt_share_all_that_stands_before_them() -> None:
    one, other = asked("Argue.", "Trams are quiet."), asked("Argue.", "Rails are loud.")
    assert one[0] == other[0]
    assert one[1].replace("Trams are quiet.", "Rails are loud.") == other[1]
    assert one[1].index("Argue.") < one[1].index("Trams are quiet.")
    assert "1. It gives a reason.\n2. It flatters the judge." in one[0]
    assert "positive" not in one[0] and "weight" not in one[0]


FORGED = re.findall(r"^\[.*\]$", asked("Argue.", "x")[1], re.MULTILINE)
SAID = st.lists(st.sampled_from(FORGED) | st.text(max_size=20), max_size=6).map("\n".join)


def read_back(prompt: str, text: str) -> tuple[str, str]:
    """Prompt and text, as a judge can tell them by the code of the first delimiter."""
    message = asked(prompt, text)[1]
    code = message[len("[task | ") :].partition("]")[0]
    assert re.fullmatch(r"[0-9a-f]{16}", code) and message.count(code) == 4
    read = re.fullmatch(
        rf"\[task \| {code}\]\n(.*)\n\[end of task \| {code}\]\n\n\[text \| {code}\]\n(.*)\n\[end of text \| {code}\]"
        r"\n\n[^\n]*",
        message,
        re.DOTALL,
    )
    assert read is not None
    return read[1], read[2]


@given(SAID, SAID)
def test_a_prompt_and_a_text_have_one_reading_whatever_they_say(prompt: str, text: str) -> None:
    assert read_back(prompt, text) == (prompt, text)


def test_a_text_that_knows_the_code_of_its_prompt_gets_another() -> None:
    forged = "\n".join(FORGED)
    assert read_back("Argue.", forged) == ("Argue.", forged)
    assert FORGED[0] not in asked("Argue.", forged)[1].splitlines()[:1]


def test_the_schema_asks_for_the_reason_first() -> None:
    ask = Told(answer(8, 3))
    score(ask)
    schema: Any = ask.questions[0].schema
    assert list(schema["properties"]["items"]["properties"]) == ["1", "2"]
    for scored in schema["properties"]["items"]["properties"].values():
        assert list(scored["properties"]) == scored["required"] == ["reason", "score"]
        assert scored["additionalProperties"] is False


def test_items_from_a_file(tmp_path: Path) -> None:
    built_in = rubric.load("speech")
    assert {item.positive for item in built_in} == {True, False}
    path = tmp_path / "mine.toml"
    path.write_text('[[items]]\ntext = "It is short."\nweight = 2\n[[items]]\ntext = "It shouts."\npositive = false\n')
    assert rubric.load(path) == (Item(text="It is short.", weight=2.0), Item(text="It shouts.", positive=False))
    for wrong in ("", "items = []", '[[items]]\ntext = ""', '[[items]]\ntext = "x"\nweight = 0', "[[criteria]]"):
        path.write_text(wrong)
        with pytest.raises(InputError, match="items"):
            rubric.load(path)


def test_it_is_no_judge_of_debates() -> None:
    assert not hasattr(RubricJudge("rubric", ask=Told()), "vote")
