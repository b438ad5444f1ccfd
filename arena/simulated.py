"""Simulated contestants: they argue from a topic's own points, with a known strength, at no cost.

What they are for: a demonstration without keys, tests and benchmarks of everything around a contestant, and a
check of the whole chain from speech to rating, since their true order is known. A speech is a list of *moves*
(lead, answer to the opponent, points with reasons and background, end), each worded by a phrase from
`phrases.toml`. `strength` is the chance that a move which takes skill succeeds; the dials say how much of each
kind of move a contestant goes for. Every draw comes from a hash of the debate's seed and the turn: same seed, same
words, on any machine and in any order.
"""

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from arena.contestants import Name, SpeakFailed
from runs.records import Call, Debate, Slot, Speech, content_id
from topics import Side, Topic, opposite

PHRASES: dict[str, list[str]] = tomllib.loads((Path(__file__).parent / "phrases.toml").read_text(encoding="utf-8"))
QUOTE_WORDS = 25
END_WORDS = 12
"""Room that a speaker keeps for its last sentence."""

Share = Annotated[float, Field(ge=0, le=1)]


class Simulated(BaseModel):
    """A simulated contestant, as it stands in a roster."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["simulated"]
    name: Name
    family: str = ""
    lineage: str = ""
    strength: Share
    """Chance that a move which takes skill succeeds."""
    evidence: Share = 0.9
    """How much it goes for reasons and background."""
    rebuttal: Share = 0.9
    """How much it goes for answering what the opponent really said."""
    structure: Share = 0.9
    """How much it goes for signposts and summaries."""
    repetition: Share = 0.1
    """Chance that it makes a point again instead of a new one."""
    verbosity: Annotated[float, Field(gt=0, le=3)] = 0.9
    """Length that it aims at, as a share of the word budget."""
    thinks: Share = 0.1
    """Chance that it thinks aloud in <think> tags before it speaks."""
    fails: Share = 0.0
    """Chance that a turn fails."""

    async def speak(self, debate: Debate, slot: Slot) -> Speech:
        """A speech for `slot`, fully determined by the debate's seed, the turn and what was said before."""
        started, clock = datetime.now(UTC), perf_counter()
        draw = Draw(debate.match.seed, slot.turn, self.name)
        if draw.chance(self.fails):
            raise SpeakFailed("server", "simulated failure")
        moves = Moves(self, debate, slot, draw)
        thought = f"<think>{moves.say('thought', moves.fresh())}</think>\n" if draw.chance(self.thinks) else ""
        call = Call(
            call_id=content_id(debate.id, "speak", slot.turn),
            debate_id=debate.id,
            role="speak",
            turn=slot.turn,
            endpoint="simulated",
            model=self.name,
            latency_s=perf_counter() - clock,
            finish_reason="stop",
            started_at=started,
        )
        return Speech(answer=thought + moves.speech(), call=call)


class Draw:
    """A stream of choices drawn from a hash of `parts`: cheap to make, and without any state but its own."""

    def __init__(self, *parts: object) -> None:
        self._key = "\x1f".join(map(str, parts)).encode()
        self._round = 0
        self._pool = 0

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        if self._pool < 1 << 64:
            digest = blake2b(self._key, digest_size=64, salt=self._round.to_bytes(8, "big")).digest()
            self._pool, self._round = int.from_bytes(digest, "big"), self._round + 1
        self._pool, number = divmod(self._pool, n)
        return number

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.below(1 << 32) < p * (1 << 32)

    def pick(self, options: Sequence[str]) -> str:
        """One of `options`."""
        return options[self.below(len(options))]


Clauses = dict[str, str]
"""One point as the slots that a phrase may fill."""


@lru_cache(maxsize=1024)
def clauses(topic: Topic, side: Side) -> tuple[Clauses, ...]:
    """A side's points; general ones where the topic gives none."""
    points = [(_clause(point.claim), _clause(point.reason)) for point in topic.points.get(side, ())]
    if not points:
        general = PHRASES["general"][side == "against" :: 2]
        points = [(claim, reason) for claim, _, reason in (line.partition("|") for line in general)]
    shared = {"motion": topic.motion, "stance": side, "info": topic.info}
    return tuple(
        shared | {"claim": claim, "Claim": claim[:1].upper() + claim[1:], "reason": reason} for claim, reason in points
    )


def _clause(text: str) -> str:
    return text.rstrip(" .!?;:,")


class Moves:
    """One speech in the making."""

    def __init__(self, who: Simulated, debate: Debate, slot: Slot, draw: Draw) -> None:
        self.draw = draw
        self.slot = slot
        self.points = clauses(debate.topic, slot.side)
        self.background = bool(debate.topic.info)
        self.evidence = who.strength * who.evidence
        self.rebuttal = who.strength * who.rebuttal
        self.structure = who.strength * who.structure
        self.repetition = who.repetition
        self.strength = who.strength
        self.target = who.verbosity * slot.words
        self.last = debate.last_of_opponent(slot.side)
        self.theirs = self._claims_heard(debate)
        own = " ".join(turn.text for turn in debate.of(slot.side))
        self.unsaid = [point for point in self.points if point["reason"] not in own]
        self.said: list[str] = []
        self.words = 0
        self.used: set[str] = set()
        self.next_phrase: dict[str, int] = {}

    def speech(self) -> str:
        """The whole speech: what the stage asks for, then elaboration up to the length aimed at."""
        stages = {
            "opening": self.opening,
            "cross-examination": self.cross_examination,
            "closing": self.closing,
        }
        stages.get(self.slot.stage, self.rebut)()
        end = self.draw.pick(PHRASES["end"]).format_map(self.points[0])
        while self.words + len(end.split()) < self.target and self.elaborate():
            pass
        self.add(end)
        return " ".join(self.said)

    def opening(self) -> None:
        self.say_and_add("opening_lead", self.points[0])
        if self.last and self.draw.chance(self.rebuttal):
            self.answer()
        self.argue(self.shuffled()[: 2 + self.draw.chance(self.strength)])

    def rebut(self) -> None:
        self.say_and_add("rebuttal_lead" if self.last else "opening_lead", self.points[0])
        for _ in range(2):
            if self.draw.chance(self.rebuttal):
                self.answer()
            else:
                self.say_and_add("dismissal", self.points[0])
        self.argue([self.fresh()])

    def cross_examination(self) -> None:
        if self.last and "?" in self.last.text and self.draw.chance(self.rebuttal):
            self.say_and_add("reply", self.fresh())
        self.say_and_add("cross_lead", self.points[0])
        for point in self.shuffled():
            if self.draw.chance(self.rebuttal):
                self.say_and_add(*self.about_theirs("question", point))
            else:
                self.say_and_add("question_weak", point)
        self.argue([self.fresh()])

    def closing(self) -> None:
        self.say_and_add("closing_lead", self.points[0])
        if self.draw.chance(self.rebuttal):
            self.answer()
        for point in self.shuffled():
            if self.draw.chance(self.structure):
                self.say_and_add("recap", point)
        point = self.fresh()
        if self.draw.chance(self.rebuttal):
            weighed = point | {"theirs": self.their_claim(), "theirs_short": "its own assumptions"}
            self.say_and_add("weigh", weighed)
        self.argue([point])

    def argue(self, points: list[Clauses]) -> None:
        """Make `points`: claim, then reason and background as far as skill goes."""
        signposts = len(points) > 1 and self.draw.chance(self.structure)
        for number, point in enumerate(points):
            if signposts:
                self.add(f"{('First', 'Second', 'Third')[number]}, {point['claim']}.")
            else:
                self.say_and_add("claim", point)
            if self.draw.chance(self.evidence):
                self.say_and_add("reason", point)
                self.if_room("warrant", point)
            else:
                self.say_and_add("assertion", point)
            if self.background and self.draw.chance(self.evidence / 2):
                self.background = False
                self.if_room("background", point)
            self.if_room("impact", point)

    def answer(self) -> None:
        """Answer something that the opponent really said last."""
        self.say_and_add(*self.about_theirs("answer", self.fresh()))

    def about_theirs(self, move: str, point: Clauses) -> tuple[str, Clauses]:
        """`move` worded for a claim of the opponent's, or for its own words where no claim is recognised."""
        if self.theirs or self.last is None:
            return move, point | {"theirs": self.their_claim()}
        return f"{move}_quote", point | {"quote": _excerpt(self.last.text)}

    def elaborate(self) -> bool:
        """One more sentence on a point; False once there is nothing left to say."""
        for _ in range(4):
            move = "warrant" if self.draw.chance(self.evidence) else "assertion"
            text = self.say(move, self.points[self.draw.below(len(self.points))])
            if text not in self.used:
                self.add(text)
                return True
        return False

    def fresh(self) -> Clauses:
        """A point whose reason has not been given yet, unless there is none or the speaker repeats itself."""
        if self.unsaid and not self.draw.chance(self.repetition):
            return self.unsaid[self.draw.below(len(self.unsaid))]
        return self.points[self.draw.below(len(self.points))]

    def shuffled(self) -> list[Clauses]:
        """All points, unsaid ones first, otherwise in a drawn order."""
        order = list(self.points)
        for i in range(len(order) - 1, 0, -1):
            j = self.draw.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return sorted(order, key=lambda point: point not in self.unsaid)

    def their_claim(self) -> str:
        return self.draw.pick(self.theirs or PHRASES["theirs_general"])

    def say(self, move: str, point: Clauses) -> str:
        """The wording of one move; within a speech the phrases of a move take turns."""
        phrases = PHRASES[move]
        at = self.next_phrase.get(move)
        if at is None:
            at = self.draw.below(len(phrases))
        self.next_phrase[move] = at + 1
        return phrases[at % len(phrases)].format_map(point)

    def say_and_add(self, move: str, point: Clauses) -> None:
        self.add(self.say(move, point))

    def if_room(self, move: str, point: Clauses) -> None:
        """A move that a speaker leaves out where it would take the speech past its length."""
        text = self.say(move, point)
        if self.words + len(text.split()) < self.target - END_WORDS:
            self.add(text)

    def add(self, text: str) -> None:
        self.said.append(text)
        self.used.add(text)
        self.words += text.count(" ") + 1

    def _claims_heard(self, debate: Debate) -> list[str]:
        """The opponent's claims that its last speech really made."""
        if self.last is None:
            return []
        heard = self.last.text.lower()
        theirs = clauses(debate.topic, opposite(self.slot.side))
        return [point["claim"] for point in theirs if point["claim"].lower() in heard]


def _excerpt(text: str) -> str:
    """The opening words of a speech, marked where they break off."""
    words = text[: 40 * QUOTE_WORDS].split()
    return " ".join(words[:QUOTE_WORDS]) + (" …" if len(words) > QUOTE_WORDS else "")
