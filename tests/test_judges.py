"""The built-in judges, and finding a stranger's."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import judges
import topics
from judges.rules import Rules, score, words
from runs.records import Debate, Match, Slot, Turn
from topics import Side, Topic, opposite
from topics.errors import InputError

TOPIC = Topic.model_validate(
    {
        "topic_id": "trams",
        "motion": "Cities should build trams rather than widen roads.",
        "info": "Lyon reopened its network during 2001; several hundred cities have trams.",
        "points": {
            "for": [
                {"claim": "trams carry more people per lane", "reason": "one vehicle replaces hundreds of cars"},
                {"claim": "quiet streets attract shops", "reason": "pedestrians linger where traffic is calm"},
            ],
            "against": [
                {"claim": "rails cannot follow changing demand", "reason": "moving tracks costs millions each time"},
                {"claim": "buses reach distant suburbs sooner", "reason": "roads already lead everywhere"},
            ],
        },
    }
)
FULL = {
    "for": "Trams carry more people per lane, because one vehicle replaces hundreds of cars.",
    "against": "Rails cannot follow changing demand, because moving tracks costs millions each time.",
}


def debate(*texts: str, topic: Topic = TOPIC, opener: Side = "for") -> Debate:
    """A debate of `texts`, side after side."""
    match = Match(
        debate_id="d",
        match=0,
        topic_id=topic.topic_id,
        for_contestant="a",
        against_contestant="b",
        opener=opener,
        replicate=0,
        seed=1,
    )
    sides = [opener if i % 2 == 0 else opposite(opener) for i in range(len(texts))]
    turns = tuple(
        Turn(
            debate_id="d",
            turn=i,
            side=side,
            stage="opening",
            contestant=match.contestant(side),
            text=text,
            reasoning=None,
            words=len(text.split()),
            trimmed=False,
            call_id=str(i),
        )
        for i, (side, text) in enumerate(zip(sides, texts, strict=True), 1)
    )
    slots = tuple(Slot(turn=t.turn, side=t.side, stage="opening", words=50, instruction="") for t in turns)
    return Debate(match=match, topic=topic, slots=slots, turns=turns)


def scores(of: Debate) -> dict[str, tuple[float, float]]:
    return {s.criterion: (s.for_, s.against) for s in score(of)}


def test_scores_by_hand() -> None:
    # FOR makes one of two points with its reason; AGAINST says nothing that can be recognised.
    got = scores(debate(FULL["for"], "Nothing of the kind."))
    assert got["argument_quality"] == pytest.approx((0.7 * 0.5 * 10, 0))
    assert got["evidence"] == pytest.approx((0.7 * 10, 0))
    assert got["persuasiveness"] == pytest.approx((0.3 * 10, 0.3 * 10))  # nothing said twice, nothing answered
    vote = Rules().judge(debate(FULL["for"], "Nothing of the kind."))
    assert vote.winner == "for" and vote.confidence == 1.0


def test_rebuttal_is_an_answer_to_what_was_said_last() -> None:
    answer = "You say that rails cannot follow changing demand. They can."
    got = scores(debate(FULL["for"], FULL["against"], answer))
    assert got["persuasiveness"][0] == pytest.approx(10)
    stale = "You say that buses reach distant suburbs sooner. They do not."
    assert scores(debate(FULL["for"], FULL["against"], stale))["persuasiveness"][0] == pytest.approx(3)


def test_repetition_costs_freshness() -> None:
    said = scores(debate(FULL["for"], "x", FULL["for"], "y"))
    fresh = scores(debate(FULL["for"], "x", FULL["for"].replace("Trams", "The trams"), "y"))
    assert said["persuasiveness"][0] == pytest.approx(fresh["persuasiveness"][0] - 1.5)


def test_background_is_recognised() -> None:
    told = scores(debate(FULL["for"] + " " + TOPIC.info, "x"))
    assert told["evidence"][0] == pytest.approx(10)


def test_a_mirrored_debate_gets_the_mirrored_verdict() -> None:
    mirrored = TOPIC.model_copy(update={"points": {s: TOPIC.points[opposite(s)] for s in topics.SIDES}})
    texts = (FULL["for"], "Nothing of the kind.", "Quiet streets attract shops.", "Still nothing.")
    one = Rules().judge(debate(*texts))
    other = Rules().judge(debate(*texts, topic=mirrored, opener="against"))
    assert (one.winner, other.winner) == ("for", "against")
    assert one.confidence == other.confidence


def test_equal_sides_tie() -> None:
    assert Rules().judge(debate(FULL["for"], FULL["against"])).winner == "tie"
    assert Rules().judge(debate("x", "y")).winner == "tie"


def test_the_order_makes_no_difference() -> None:
    one = asyncio.run(Rules().vote(debate(*FULL.values()), "for_first", 0))
    other = asyncio.run(Rules().vote(debate(*FULL.values()), "against_first", 1))
    assert replace(other, order="for_first", sample=0) == one


def test_a_topic_without_points_can_be_judged() -> None:
    bare = Topic(topic_id="bare", motion="Cities should build trams rather than widen roads.")
    strong = "Cities that build trams gain, because widened roads fill again. For example, 12 cities saw it."
    vote = Rules().judge(debate(strong, "I disagree.", strong + " You said: I disagree.", "No.", topic=bare))
    assert vote.winner == "for"


def test_words() -> None:
    assert words("Straße, don't; a 2001 élan — trams") == {"straße", "élan", "trams"}


STRANGER = """
from runs.records import Vote

class Coin:
    orders = ("for_first", "against_first")
    samples = 2
    def __init__(self, name="coin", always="for"):
        self.name, self.always = name, always
    async def vote(self, debate, order, sample):
        return Vote(debate_id="?", judge="?", order="for_first", sample=9, winner=self.always)

class NoJudge: 
    def __init__(self, name): pass

class Blocking(Coin):
    def vote(self, debate, order, sample): ...
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    return "stranger"


def test_a_judge_by_where_its_class_is(stranger: str) -> None:
    judge = judges.load(f"{stranger}:Coin", name="mine", always="tie")
    assert (judge.name, judge.samples) == ("mine", 2)


def test_a_registered_judge(stranger: str, tmp_path: Path) -> None:
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[debate_arena.judges]\ncoin = stranger:Coin\n")
    assert judges.load("coin").name == "coin"
    with pytest.raises(InputError, match=r"expected coin, rules, scripted or module:Class; did you mean 'coin'"):
        judges.load("coins")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("stranger:NoJudge", "it lacks name, orders"), ("stranger:Blocking", "must be `async def`"), ("x", "unknown")],
)
def test_what_is_no_judge_is_refused(stranger: str, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judges.load(kind)


def test_the_engine_keeps_the_identity_of_a_vote(stranger: str, play: object) -> None:
    import runs

    result = play(limit=3, judges=["stranger:Coin"])  # type: ignore[operator]
    votes = runs.load(result.folder).votes.collect()
    assert votes.select("judge", "order", "sample").unique().height == 4
    assert set(votes["judge"]) == {"stranger:Coin"}
    verdicts = runs.load(result.folder).verdicts.collect()
    assert verdicts["votes"].to_list() == [4] * 3 and set(verdicts["winner"]) == {"for"}
