"""What a run is made of: the records that flow through the house and are, one for one, the rows of its tables.

A table's columns are the fields of its record, so that the journal, the Parquet files and the code agree by
construction (`runs/schema.py` reads the annotations). `Match`, `Slot`, `Debate` and `Speech` are not rows: they
are what the engine plays with.
"""

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Literal

from topics import Side, Topic, opposite

Winner = Literal["for", "against", "tie", "abstain", "invalid"]
Order = Literal["for_first", "against_first"]
Status = Literal["open", "complete", "void"]
Step = Literal["speak", "judge", "audit"]
Role = Literal["speak", "judge", "audit", "shorten"]
Opener = Literal["for", "against", "alternate"]
FailureKind = Literal[
    "transport", "timeout", "rate", "server", "auth", "not_found", "refused", "content", "empty", "length",
    "unparseable", "raised", "budget",
]  # fmt: skip

Int64 = Annotated[int, "Int64"]
"""A whole number that may pass 2**31; a plain `int` is stored in 32 bits."""


def content_id(*parts: object, size: int = 8) -> str:
    """Hex digest of `parts`, the same on any machine: ids come from content, never from a counter or a clock."""
    return blake2b("\x1f".join(map(str, parts)).encode(), digest_size=size).hexdigest()


def content_seed(*parts: object) -> int:
    """A whole number in [0, 2**63) that depends on `parts` alone."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One of the places in the format."""

    turn: int
    """1, 2, ... in the order of speaking."""
    side: Side
    stage: str
    words: int
    """The word budget."""
    instruction: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A debate that is scheduled."""

    debate_id: str
    match: int
    """Its place in the schedule, from 0."""
    topic_id: str
    for_contestant: str
    against_contestant: str
    opener: Side
    replicate: int
    seed: int

    def contestant(self, side: Side) -> str:
        """Who speaks on `side`."""
        return self.for_contestant if side == "for" else self.against_contestant


@dataclass(frozen=True, kw_only=True, slots=True)
class DebateRow:
    """Table `debates`."""

    debate_id: str
    match: int
    topic_id: str
    split: str
    for_contestant: str
    against_contestant: str
    opener: Side
    replicate: int
    seed: Int64
    status: Status
    """`open` only while the run is going."""
    started_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, debate: "Debate", status: Status, *, started_at: datetime, ended_at: datetime | None) -> "DebateRow":
        """The row of a debate."""
        match = {field.name: getattr(debate.match, field.name) for field in fields(Match)}
        return cls(**match, split=debate.topic.split, status=status, started_at=started_at, ended_at=ended_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Table `turns`: what was said in a slot."""

    debate_id: str
    turn: int
    side: Side
    stage: str
    contestant: str
    text: str
    reasoning: str | None
    """Private; never shown to the opponent, to a judge, or to a training target."""
    words: int
    trimmed: bool
    """The text was over its budget and ends at an earlier sentence end than the answer did."""
    call_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Table `calls`: what one answer cost. Token counts are null where nothing was counted, or nobody said it."""

    call_id: str
    debate_id: str
    role: Role
    turn: int | None
    """Null for a judge."""
    endpoint: str
    model: str
    adapter: str | None = None
    prompt_tokens: Int64 | None = None
    cached_tokens: Int64 | None = None
    completion_tokens: Int64 | None = None
    reasoning_tokens: Int64 | None = None
    latency_s: float
    attempts: int = 1
    finish_reason: str | None
    cost_usd: float = 0.0
    """Of the attempts of which it is known what they took; NaN, which is stored as null, where it is of none."""
    started_at: datetime
    unknown_usd: float | None = None
    """What the other attempts may have cost at most: they were sent, and nobody said what they took. Null where there
    are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Points for both sides on one criterion of a judge, on the judge's own scale."""

    criterion: str
    for_: float
    against: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """A span of a turn that a judge rests on."""

    turn: int
    side: Side
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """Table `votes`: one answer of one judge."""

    debate_id: str
    judge: str
    order: Order
    """The side that was asked about and scored first."""
    sample: int
    winner: Winner
    confidence: float | None = None
    """0 to 1."""
    scores: tuple[Score, ...] = ()
    rationale: str = ""
    quotes: tuple[Quote, ...] = ()
    call_id: str | None = None
    error: str | None = None
    identity: str | None = None
    """Digest of all that the vote depends on: judge, model, prompt, settings, order, sample and transcript."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Table `verdicts`: what a judge's votes come to, or a panel's verdicts."""

    debate_id: str
    judge: str
    winner: Winner
    margin: float | None
    """Mean of the valid votes, -1 (against) to +1 (for); null where none decided."""
    consistent: bool
    """The orders agree; true where there was one. Of a panel: its members agree."""
    votes: int
    """How many valid ones; of a panel, valid verdicts of members."""
    related: bool = False
    """The judge, or a member that counts, is related to one of the contestants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Table `failures`: something went wrong, and was attributed once."""

    debate_id: str
    step: Step
    turn: int | None
    at: datetime
    contestant: str | None
    judge: str | None
    kind: FailureKind
    message: str
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicPoint:
    """A point of a topic, as a row of the list in table `topics`."""

    side: Side
    claim: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicRow:
    """Table `topics`: a topic as it was debated."""

    topic_id: str
    motion: str
    theme: str
    question_type: str
    framing: str
    info: str
    points: tuple[TopicPoint, ...]
    cluster: str
    split: str
    digest: str

    @classmethod
    def of(cls, topic: Topic) -> "TopicRow":
        """The row of a topic; `Topic.model_validate(row.as_topic())` gives the topic again."""
        points = tuple(TopicPoint(side=s, claim=p.claim, reason=p.reason) for s, ps in topic.points.items() for p in ps)
        return cls(points=points, digest=topic.digest, **topic.model_dump(exclude={"points"}))


Record = DebateRow | Turn | Call | Vote | Verdict | Failure | TopicRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """What a contestant gives back for a slot: its answer as it came, and what the answer cost.

    The engine, not the contestant, splits off private reasoning and keeps the word budget (`arena/speech.py`):
    a contestant that forgets cannot leak.
    """

    answer: str
    reasoning: str | None = None
    """Private reasoning that the endpoint returned in a field of its own."""
    cut: bool = False
    """A limit on tokens ended the answer, wherever it was."""
    call: Call
    shorten: Call | None = None
    """The call that asked for a shorter answer, where one did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Debate:
    """A debate so far. It grows by replacement, so whoever holds one holds it unchanged."""

    match: Match
    topic: Topic
    slots: tuple[Slot, ...]
    turns: tuple[Turn, ...] = field(default=())

    @property
    def id(self) -> str:
        return self.match.debate_id

    def with_turn(self, turn: Turn) -> "Debate":
        """The debate with one turn more."""
        return replace(self, turns=(*self.turns, turn))

    def of(self, side: Side) -> list[Turn]:
        """The turns of one side, in order."""
        return [turn for turn in self.turns if turn.side == side]

    def last_of_opponent(self, side: Side) -> Turn | None:
        """What the other side said last, or None where it has not spoken yet."""
        return next((turn for turn in reversed(self.turns) if turn.side == opposite(side)), None)


def slots_for(slots: tuple[Slot, ...], opener: Side) -> tuple[Slot, ...]:
    """The format as it is played when `opener` speaks first: sides change places if the format says otherwise."""
    if slots[0].side == opener:
        return slots
    return tuple(replace(slot, side=opposite(slot.side)) for slot in slots)
