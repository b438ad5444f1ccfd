"""The built-in judges, and finding a stranger's."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Play

import judges
import runs
import topics
from arena import roster as rosters
from arena.run import Result
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
    known = "expected coin, llm, pairrm, rules, scripted or module:Class"
    with pytest.raises(InputError, match=f"{known}; did you mean 'coin'"):
        judges.load("coins")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("stranger:NoJudge", "it lacks name, orders"), ("stranger:Blocking", "must be `async def`"), ("x", "unknown")],
)
def test_what_is_no_judge_is_refused(stranger: str, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judges.load(kind)


def test_the_engine_keeps_the_identity_of_a_vote(stranger: str, play: Play) -> None:
    result = play(limit=3, judges=["stranger:Coin"])
    votes = runs.load(result.folder).votes.collect()
    assert votes.select("judge", "order", "sample").unique().height == 4
    assert set(votes["judge"]) == {"stranger:Coin"}
    verdicts = runs.load(result.folder).verdicts.collect()
    assert verdicts["votes"].to_list() == [4] * 3 and set(verdicts["winner"]) == {"for"}


GARBAGE = """
import asyncio
from runs.records import Quote, Score, Vote

class Garbage:
    orders = ("for_first",)
    samples = 1
    def __init__(self, name, what):
        self.name, self.what = name, what
    async def vote(self, debate, order, sample):
        vote = dict(debate_id=debate.id, judge=self.name, order=order, sample=sample, winner="for")
        return eval(self.what)

def lift(error):
    raise error

class Unreadable(Exception):
    def __str__(self): raise ValueError
"""


@pytest.fixture
def garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, play: Play) -> Play:
    """Play a run in which judge `bad` returns what the expression `what` comes to."""
    (tmp_path / "garbage.py").write_text(GARBAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "garbage", raising=False)

    def judged(what: str, **settings: object) -> Result:
        bad = f'\n[[judges]]\nname = "bad"\nkind = "garbage:Garbage"\nwhat = """{what}"""\n'
        (tmp_path / "roster.toml").write_text(rosters.DEFAULT.read_text() + bad)
        return play(roster=tmp_path / "roster.toml", **settings)

    return judged


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("None", "expected a Vote, got NoneType"),
        ("'for'", "expected a Vote, got str"),
        ("Vote(**vote | {'winner': 'maybe'})", "winner: Input should be"),
        ("Vote(**vote | {'winner': ['for']})", "winner: Input should be"),
        ("Vote(**vote, confidence='high')", "confidence"),
        ("Vote(**vote, confidence=7.5)", "confidence: 7.5 is not within 0 and 1"),
        ("Vote(**vote, confidence=float('nan'))", "confidence: nan"),
        ("Vote(**vote, scores=(Score(criterion='c', for_=float('inf'), against=1),))", "a score is not finite"),
        ("Vote(**vote, scores='abc')", "scores"),
        ("Vote(**vote, quotes=(Quote(turn=10**12, side='for', text='x'),))", "a turn that the debate does not have"),
        ("Vote(**vote, quotes=(Quote(turn=1, side='for', text='x'),) * 1000)", "a list of 1000 items"),
        ("Vote(**vote, call_id=10**30)", "call_id"),
        ("lift(SystemExit(0))", "SystemExit"),
        ("lift(asyncio.CancelledError())", "CancelledError"),
        ("lift(Unreadable())", "Unreadable: (its message cannot be read)"),
    ],
)
def test_what_is_no_vote_is_an_invalid_one(what: str, error: str, garbage: Play) -> None:
    result = garbage(what, judges=["bad", "rules"], limit=3, concurrency=2)
    tables = runs.load(result.folder)
    bad = tables.votes.filter(judge="bad").collect()
    assert result.sealed and bad["winner"].to_list() == ["invalid"] * 3
    assert error in bad["error"][0]
    assert tables.failures.collect()["kind"].to_list() == ["raised"] * 3
    assert tables.verdicts.filter(judge="rules").collect().height == 3


def test_the_text_of_a_vote_is_made_presentable_and_bounded(garbage: Play) -> None:
    what = r"Vote(**vote, rationale='a\\ud800b\\x1b[31m\\x00' + 'x' * 10**6)"
    result = garbage(what, judges=["bad"], limit=2)
    rationale = runs.load(result.folder).votes.collect()["rationale"][0]
    assert rationale.startswith("ab[31mxxx") and len(rationale) <= 20_000


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ('orders = ("for_first")', "its orders must be some of"),
        ('orders = ("for_first", "for_first")', "each once"),
        ("orders = ()", "its orders"),
        ('orders = ("for_frist",)', "its orders"),
        ("samples = 0", "its samples must be a whole number of at least 1, not 0"),
        ('samples = "2"', "its samples"),
        ('name = property(lambda self: "other")', "could not be made|it calls itself"),
    ],
)
def test_the_shape_of_a_judge_is_checked(part: str, message: str, stranger: str, tmp_path: Path) -> None:
    (tmp_path / "shape.py").write_text(f"from {stranger} import Coin\nclass Shape(Coin):\n    {part}\n")
    sys.modules.pop("shape", None)
    with pytest.raises(InputError, match=message):
        judges.load("shape:Shape")


def test_a_module_that_exits_is_refused(stranger: str, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    with pytest.raises(InputError, match=r"could not be loaded.*SystemExit"):
        judges.load("leaves:Judge")
