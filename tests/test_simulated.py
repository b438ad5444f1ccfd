"""Simulated contestants: determined by the seed, and each dial does what it says."""

import asyncio
import re
from collections.abc import Iterable
from itertools import pairwise

import pytest

import topics
from arena import format as formats
from arena.contestants import SpeakFailed
from arena.schedule import schedule
from arena.simulated import Draw, Simulated
from arena.speech import hear
from runs.records import Debate, Turn, slots_for
from topics import Topic

SLOTS = formats.load("standard")
TOPICS = topics.load("train")[::5]
PLAIN = Simulated(kind="simulated", name="plain", strength=0.5)


def debates(who: Simulated, *, against: Simulated = PLAIN, played_on: Iterable[Topic] = TOPICS) -> list[Debate]:
    """`who` speaks FOR against a plain contestant, once a topic."""

    async def play(topic: Topic) -> Debate:
        (match, *_) = schedule([topic.topic_id], ["a", "b"], seed=1)
        debate = Debate(match=match, topic=topic, slots=slots_for(SLOTS, "for"))
        for slot in debate.slots:
            speaker = who if slot.side == "for" else against
            debate = debate.with_turn(hear(await speaker.speak(debate, slot), debate, slot))
        return debate

    return [asyncio.run(play(topic)) for topic in played_on]


def spoken(who: Simulated) -> list[Turn]:
    return [turn for debate in debates(who) for turn in debate.of("for")]


def dial(**dials: float) -> Simulated:
    return Simulated.model_validate({"kind": "simulated", "name": "dial", "strength": 1.0} | dials)


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def reasons(debate: Debate) -> float:
    text = " ".join(turn.text for turn in debate.of("for"))
    return sum(point.reason in text for point in debate.topic.points["for"])


def reasons_at_once(debate: Debate) -> float:
    """Points that the opening states together with their reason."""
    return sum(point.reason in debate.turns[0].text for point in debate.topic.points["for"])


def answers(debate: Debate) -> float:
    """Turns that name a claim which the opponent made in the turn before."""
    claims = [point.claim.lower() for point in debate.topic.points["against"]]
    said = [turn.text.lower() for turn in debate.turns]
    return sum(any(c in before and c in text for c in claims) for before, text in list(pairwise(said))[1::2])


@pytest.mark.parametrize(
    ("name", "low", "high", "measure"),
    [
        ("evidence", 0.1, 1.0, reasons_at_once),
        ("strength", 0.1, 1.0, reasons_at_once),
        ("rebuttal", 0.1, 1.0, answers),
        ("strength", 0.1, 1.0, answers),
        ("structure", 0.0, 1.0, lambda d: mean("First, " in t.text or "Nobody" in t.text for t in d.of("for"))),
        ("verbosity", 0.4, 0.9, lambda d: mean(t.words for t in d.of("for"))),
        ("thinks", 0.0, 1.0, lambda d: mean(t.reasoning is not None for t in d.of("for"))),
        ("verbosity", 0.9, 1.3, lambda d: mean(t.trimmed for t in d.of("for"))),
    ],
)
def test_a_dial_turns_what_it_names(name: str, low: float, high: float, measure: object) -> None:
    a, b = (mean(measure(debate) for debate in debates(dial(**{name: value}))) for value in (low, high))  # type: ignore[operator]
    assert b > a + 0.15 * abs(b)


def test_repetition_makes_points_again_instead_of_new_ones() -> None:
    def covered(who: Simulated) -> float:
        return mean(reasons(debate) for debate in debates(who))

    assert covered(dial(repetition=0.0, strength=0.3)) > covered(dial(repetition=1.0, strength=0.3))


def test_failures_come_as_often_as_the_dial_says() -> None:
    who = dial(fails=0.3)
    failed = 0
    for topic in topics.load("train"):
        (match, *_) = schedule([topic.topic_id], ["a", "b"], seed=1)
        debate = Debate(match=match, topic=topic, slots=SLOTS)
        for slot in SLOTS:
            try:
                asyncio.run(who.speak(debate, slot))
            except SpeakFailed:
                failed += 1
    assert 0.25 < failed / 2000 < 0.35


def test_the_same_seed_gives_the_same_words() -> None:
    assert [t.text for t in spoken(dial())] == [t.text for t in spoken(dial())]


def test_it_argues_without_points_and_against_strangers() -> None:
    bare = Topic(topic_id="bare", motion="Cities should build trams rather than {widen} roads.")
    (debate,) = debates(dial(), played_on=[bare])
    assert bare.motion in debate.turns[0].text
    assert all(re.search(r"[.?!]$", turn.text) for turn in debate.turns)
    # an opponent whose words match no known claim is quoted
    stranger = debate.turns[1]
    words = "Quite different words altogether, {braces} and all. " * 3
    slot = debate.slots[2]
    heard = Debate(
        match=debate.match,
        topic=TOPICS[0],
        slots=debate.slots,
        turns=(debate.turns[0], Turn(**{f: getattr(stranger, f) for f in Turn.__slots__} | {"text": words})),
    )
    answer = asyncio.run(dial(rebuttal=1.0, strength=1.0).speak(heard, slot)).answer
    assert "“Quite different words altogether, {braces} and all." in answer


def test_draws_are_even_and_reproducible() -> None:
    draw = Draw("seed", 1)
    counts = [0] * 7
    for _ in range(7_000):
        counts[draw.below(7)] += 1
    assert all(850 < count < 1150 for count in counts)
    assert [Draw(1, "x").below(100) for _ in range(3)] == [Draw(1, "x").below(100)] * 3
    assert 0.27 < mean(Draw("p", i).chance(0.3) for i in range(4_000)) < 0.33
