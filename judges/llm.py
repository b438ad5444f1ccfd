"""The LLM judge: a language model reads a debate and scores both sides on a rubric, reasons first.

    [[judges]]
    name = "gpt"
    kind = "llm"
    endpoint = "big"
    model = "gpt-5-mini"
    samples = 2                    # of each order
    rubric = "debate"              # or the path of a .toml with criteria
    prompt = "mine.txt"            # in place of judges/prompts/judge.txt

How it departs from the usual prompt to a judge:

1. Speakers have neutral names, and each turn stands between lines that no speech can forge (`runs/transcript.py`).
2. It is asked in both orders, which side it looks at and scores first; `runs/verdicts.py` calls a disagreement a tie.
3. All that depends on the order or the sample stands in the last paragraph: a debate's votes share all before it.
4. Quotes come before scores and scores before the winner, and each is checked against the others and against the
   debate (`judges/reading.py`). An answer that cannot be read is repaired once, asked afresh once, then `invalid`.

A prompt of one's own replaces the task, never the protocol: delimiters, criteria and the form of the answer stay.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from judges import criteria
from judges.answers import ask_until, wording
from judges.asking import Ask, Message, Question, Reply
from judges.reading import Reading, read, schema
from runs.records import Debate, Order, Vote, content_id
from runs.transcript import Transcript
from topics import Side, opposite
from topics.errors import InputError

MOST_PROMPT = 50_000
"""Characters of a prompt of one's own."""
ORDERS: tuple[Order, ...] = get_args(Order)


class LLM:
    """A judge that asks a language model."""

    def __init__(
        self,
        name: str = "llm",
        *,
        ask: Ask,
        orders: Sequence[Order] = ORDERS,
        samples: int = 1,
        rubric: str | Path = "debate",
        prompt: str | Path | None = None,
    ) -> None:
        self.name = name
        self.ask = ask
        self.orders = tuple(orders)
        self.samples = samples
        self.criteria = criteria.load(rubric)
        self.system = system(self.criteria, prompt)
        self.schemas = {order: schema(self.criteria, order) for order in ORDERS}
        self.digest = digest(self.system, self.criteria)

    async def vote(self, debate: Debate, order: Order, sample: int) -> Vote:
        """One vote; raises `NoReply` or `NotNow` where there is none."""

        def heard(reply: Reply) -> tuple[Reading, Reply]:
            return read(reply.text, self.criteria, debate), reply

        question = Question(
            about=debate.id,
            messages=messages(self.system, debate, order, sample),
            schema=self.schemas[order],
            draw=sample * len(ORDERS) + ORDERS.index(order),
        )
        reading, reply = await ask_until(self.ask, question, heard)
        return Vote(
            debate_id=debate.id,
            judge=self.name,
            order=order,
            sample=sample,
            winner=reading.winner,
            confidence=reading.confidence,
            scores=reading.scores,
            rationale=reading.summary,
            quotes=reading.quotes,
            call_id=reply.call_id,
        )


def messages(system: str, debate: Debate, order: Order, sample: int) -> list[Message]:
    """What a judge is asked for one vote; everything before the last paragraph is the debate's alone."""
    transcript = Transcript.of(debate)
    names = transcript.names
    first: Side = "for" if order == "for_first" else "against"
    tail = wording("tail").format(
        nonce=transcript.nonce,
        reading=sample + 1,
        first=names[first],
        side=first,
        second=names[opposite(first)],
    )
    parts = [
        f"Motion: {debate.topic.motion}",
        *([f"What is known: {debate.topic.info}"] if debate.topic.info else []),
        f"{names['for']} speaks for the motion, {names['against']} against it.",
        transcript.text,
        tail,
    ]
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n\n".join(parts)}]


def system(rubric: Sequence[criteria.Criterion], own: str | Path | None = None) -> str:
    """The first message: the task, `own` in place of the built-in one, then criteria and protocol."""
    listed = "\n".join(f"- {c.name} (weight {c.weight:g}): {c.description}" for c in rubric)
    task = wording("judge") if own is None else _own(Path(own))
    return f"{task}\n\n{wording('protocol').replace('{criteria}', listed)}"


def digest(system: str, rubric: Sequence[criteria.Criterion]) -> str:
    """Digest of all words and rules that a vote depends on, but for the debate's own."""
    schemas = [schema(rubric, order) for order in ORDERS]
    return content_id(system, wording("tail"), wording("repair"), [c.weight for c in rubric], schemas)


def _own(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(f"cannot read the prompt {str(path)!r}: {why}; expected the path of a text file") from None
    if not 0 < len(text) <= MOST_PROMPT:
        raise InputError(f"the prompt {str(path)!r} has {len(text)} characters; expected 1 to {MOST_PROMPT}")
    return text
