"""Rewards: what components come to, by hand, and what a failure does not do."""

import asyncio
import math
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_rubric_judge import Told, answer

from judges.asking import NoReply, NotNow, Question, Reply
from judges.rubric import Item, ItemScore, RubricJudge, weigh
from topics.errors import InputError
from training.rewards import (
    Component,
    Items,
    Reward,
    Rewards,
    advantages,
    dead_items,
    failures,
    instance_items,
    item,
    length,
    rubric,
    rubric_items,
    spreads,
    worst,
)

MERIT = Item(text="It gives a reason.", weight=3.0)
FAULT = Item(text="It flatters the judge.", positive=False)
STATIC = Item(text="It pads.", positive=False, weight=2.0)


def scored(merit: float, fault: float) -> Items:
    return (
        ItemScore(item=MERIT, score=merit, reason="So it is."),
        ItemScore(item=FAULT, score=fault, reason="So it is."),
    )


def one(score: float) -> Items:
    return (item("x", score),)


# ── composing ────────────────────────────────────────────────────────────────────────────────────

REFINER = Rewards(weights={"rubric": 1.0, "citation": 0.2, "format": 0.1}, scale=10.0)


def test_a_reward_by_hand() -> None:
    # rubric (3 * 0.8 + 1 * (1 - 0.3)) / 4 = 0.775; citation 0.5; format (1 + 0) / 2 = 0.5
    two = (item("block", 1.0), item("tags", 0.0))
    reward = REFINER.compose({"rubric": scored(0.8, 0.3), "citation": one(0.5), "format": two})
    assert reward.value == pytest.approx(10 * (0.775 + 0.2 * 0.5 + 0.1 * 0.5))
    assert reward.value == pytest.approx(9.25)


def test_a_fault_that_applies_more_earns_less() -> None:
    only = Rewards(weights={"rubric": 1.0})
    values = [only.compose({"rubric": (item("fault", s, positive=False),)}).value for s in (0.0, 0.25, 1.0)]
    assert values == [1.0, 0.75, 0.0]


@pytest.mark.parametrize("missing", ["rubric", "citation", "format"])
def test_a_component_that_could_not_be_had_makes_the_whole_reward_none(missing: Component) -> None:
    components: dict[Component, Items | None] = {"rubric": one(1.0), "citation": one(1.0), "format": one(1.0)}
    assert REFINER.compose(components).value == pytest.approx(13.0)
    reward = REFINER.compose(components | {missing: None})
    assert reward.value is None and reward.components[missing] is None


def test_what_is_only_logged_neither_counts_nor_fails() -> None:
    logged = Rewards(weights={"rubric": 1.0, "length": 0.0})
    assert logged.compose({"rubric": one(0.5), "length": one(0.0)}).value == 0.5
    assert logged.compose({"rubric": one(0.5), "length": None}).value == 0.5


@pytest.mark.parametrize("score", [1.0001, -0.0001, 10.0, math.nan, math.inf])
@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_score_out_of_range_is_an_error(score: float, weight: float) -> None:
    rewards = Rewards(weights={"rubric": 1.0, "citation": weight})
    with pytest.raises(ValueError, match=r"reward 'citation', item 'x': .* is outside \[0, 1\]"):
        rewards.compose({"rubric": one(0.5), "citation": one(score)})


def test_the_bounds_themselves_are_in_range() -> None:
    assert [Rewards(weights={"rubric": 1}).compose({"rubric": one(s)}).value for s in (0.0, 1.0)] == [0.0, 1.0]


WRONG: list[tuple[Mapping[Component, Items | None], str]] = [
    ({"rubric": one(1.0)}, "components are"),
    ({"rubric": one(1.0), "citation": one(1.0), "length": one(1.0)}, "components are"),
    ({"rubric": one(1.0), "citation": ()}, "no item"),
    ({"rubric": (*one(1.0), *one(0.5)), "citation": one(1.0)}, "2 times"),
]


@pytest.mark.parametrize(("components", "said"), WRONG)
def test_components_that_are_not_those_that_are_weighed(
    components: Mapping[Component, Items | None], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Rewards(weights={"rubric": 1.0, "citation": 0.2}).compose(components)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": {}},
        {"weights": {"rubric": 0.0}},
        {"weights": {"rubric": -1.0}},
        {"weights": {"rubric": math.inf}},
        {"weights": {"rubrics": 1.0}},
        {"weights": {"rubric": 1.0}, "scale": 0.0},
        {"weights": {"rubric": 1.0}, "sclae": 10.0},
        {},
    ],
)
def test_settings_that_reward_nothing_or_are_not_known(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rewards.model_validate(wrong)


# ── rubric ───────────────────────────────────────────────────────────────────────────────────────


def test_a_prompts_own_items_come_first_and_can_come_alone() -> None:
    own = instance_items(["It names trams."], ["It names buses."])
    assert own == (Item(text="It names trams."), Item(text="It names buses.", positive=False))
    assert rubric_items(own, (STATIC,)) == (*own, STATIC)
    assert rubric_items(own, (STATIC,), instance_only=True) == own
    assert rubric_items((), (STATIC,)) == (STATIC,)


def test_a_prompt_without_an_item_or_with_one_twice_is_refused() -> None:
    with pytest.raises(InputError, match="static ones are left out"):
        rubric_items((), (STATIC,), instance_only=True)
    with pytest.raises(InputError, match="no rubric item"):
        rubric_items((), ())
    with pytest.raises(InputError, match=r"'It pads\.' 2 times"):
        rubric_items(instance_items(["It pads."], []), (STATIC,))


def asked(told: Told, text: str | None) -> Items | None:
    judge = RubricJudge("rubric", ask=told)
    return asyncio.run(rubric(judge, "Argue for trams.", text, (MERIT, FAULT), about="p1"))


def test_a_judges_scores_are_the_component() -> None:
    assert asked(Told(answer(8, 3)), "Trams are quiet.") == scored(0.8, 0.3)


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_no_text_has_the_worst_of_every_item_and_is_not_asked_about(text: str | None) -> None:
    told = Told(answer(0, 0))
    items = asked(told, text)
    assert items is not None and [s.score for s in items] == [0.0, 1.0] and weigh(items) == 0.0
    assert not told.questions
    assert weigh(worst([FAULT, STATIC])) == 0.0


def test_an_outage_is_none_and_what_may_come_later_passes() -> None:
    assert asked(Told(NoReply("server", "down")), "Trams are quiet.") is None
    assert asked(Told("no JSON", "none again"), "Trams are quiet.") is None
    with pytest.raises(NotNow):
        asked(Told(NotNow("parked")), "Trams are quiet.")


def test_a_judge_that_fails_on_one_in_ten_changes_no_other_reward() -> None:
    class Failing:
        def __init__(self, *fails: int) -> None:
            self.fails = fails

        async def __call__(self, question: Question) -> Reply:
            if question.draw in self.fails:
                raise NoReply("timeout", "late")
            return await Told(answer(question.draw % 11, 2))(question)

    async def rewards(*fails: int) -> list[Reward]:
        judge = RubricJudge("rubric", ask=Failing(*fails))
        texts = [f"Trams are quiet, says text {n}." for n in range(20)]
        scores = [rubric(judge, "Argue.", t, (MERIT, FAULT), about="p", draw=n) for n, t in enumerate(texts)]
        return [Rewards(weights={"rubric": 1.0}).compose({"rubric": items}) for items in await asyncio.gather(*scores)]

    # draws of a question asked so are 3 apart, so that its repair has one of its own
    all_of_them, fewer = asyncio.run(rewards()), asyncio.run(rewards(3 * 4, 3 * 17))
    assert [n for n, reward in enumerate(fewer) if reward.value is None] == [4, 17]
    assert all(a == b for n, (a, b) in enumerate(zip(all_of_them, fewer, strict=True)) if n not in (4, 17))
    assert failures(fewer) == {"rubric": 2} and failures(all_of_them) == {}


# ── length ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "score"), [(0, 0.0), (10, 0.5), (20, 1.0), (40, 1.0), (45, 0.75), (50, 0.5), (60, 0.0), (900, 0.0)]
)
def test_length_by_hand(words: int, score: float) -> None:
    (found,) = length("tram " * words, least=20, most=40, slack=0.5)
    assert found.score == pytest.approx(score)


def test_without_a_least_length_only_silence_is_too_short() -> None:
    assert [length("tram " * n, most=4)[0].score for n in (0, 1, 4, 5)] == [0.0, 1.0, 1.0, 0.0]
    for wrong in ({"most": 0}, {"most": 3, "least": 4}, {"most": 3, "least": -1}):
        with pytest.raises(ValueError, match="expected"):
            length("tram", **wrong)


# ── groups ───────────────────────────────────────────────────────────────────────────────────────


def test_advantages_by_hand() -> None:
    # mean 3, standard deviation 2 (Bessel: (4 + 0 + 4) / 2 = 4)
    by = 2 / (2 + 1e-4)
    assert advantages([1.0, 3.0, 5.0]) == pytest.approx([-by, 0.0, by])
    assert advantages([1.0, 3.0, 5.0], scale_rewards="none") == [-2.0, 0.0, 2.0]


def test_none_has_no_advantage_and_stands_in_no_mean() -> None:
    by = 2 / (2 + 1e-4)
    assert advantages([1.0, None, 3.0, 5.0, None]) == pytest.approx([-by, 0.0, 0.0, by, 0.0])
    assert advantages([None, 7.0]) == advantages([None, None]) == advantages([4.0, 4.0]) == [0.0, 0.0]
    with pytest.raises(ValueError, match="finite"):
        advantages([1.0, math.nan])


REWARDS = st.lists(st.none() | st.floats(-100, 100), min_size=1, max_size=10)


@given(REWARDS)
def test_a_group_with_failures_is_the_group_without_them(rewards: list[float | None]) -> None:
    found = advantages(rewards)
    had = [reward for reward in rewards if reward is not None]
    assert [a for a, reward in zip(found, rewards, strict=True) if reward is not None] == advantages(had)
    assert all(a == 0 for a, reward in zip(found, rewards, strict=True) if reward is None)
    assert sum(found) == pytest.approx(0, abs=1e-6)


def logged(*scores: float | None) -> list[Reward]:
    """A group, by (merit, fault, citation) scores; None where the judge failed."""
    rewards = Rewards(weights={"rubric": 1.0, "citation": 0.2})
    return [
        rewards.compose({"rubric": None if s is None else scored(s, 0.5), "citation": one(round(1 - (s or 0), 2))})
        for s in scores
    ]


def test_spreads_by_hand() -> None:
    rows = spreads([logged(0.2, 0.6, None), logged(0.4, 0.4)])
    assert [(r.group, r.component, r.item, r.positive, r.scored) for r in rows] == [
        (0, "rubric", MERIT.text, True, 2),
        (0, "rubric", FAULT.text, False, 2),
        (0, "citation", "x", True, 3),
        (1, "rubric", MERIT.text, True, 2),
        (1, "rubric", FAULT.text, False, 2),
        (1, "citation", "x", True, 2),
    ]
    assert [row.mean for row in rows] == pytest.approx([0.4, 0.5, 2.2 / 3, 0.4, 0.5, 0.6])
    # of 0.2, 0.6 the variance is 2 * 0.2^2 / 1; of 0.8, 0.4, 1.0 it is (1 + 25 + 16) / 225 / 2
    assert rows[0].sd == pytest.approx(math.sqrt(0.08)) and rows[2].sd == pytest.approx(math.sqrt(42 / 450))
    assert [row.sd for row in rows[3:]] == [0.0, 0.0, 0.0] and rows[1].sd == 0.0


def test_an_item_is_dead_that_varies_within_no_group() -> None:
    assert dead_items(spreads([logged(0.2, 0.6), logged(0.4, 0.4)])) == [("rubric", FAULT.text)]
    # differing between groups, which share no baseline, is no sign of life
    assert len(dead_items(spreads([logged(0.2, 0.2), logged(0.6, 0.6)]))) == 3
    # scored once in each group: nobody knows
    assert dead_items(spreads([logged(0.2, None), logged(0.6, None)])) == []
    assert not spreads([]) and not dead_items([])


def test_importing_rewards_loads_neither_torch_nor_trl() -> None:
    modules = "training.rewards, training.citations, training.debate_rewards"
    code = f"import sys, {modules}; print({{'torch', 'trl', 'transformers', 'openai'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
