"""How models at endpoints are asked, by contestants and by judges: their settings, and the `ask` of a judge.

    [[judges]]
    name = "gpt"
    kind = "llm"
    endpoint = "big"               # a name among [[endpoints]]
    model = "gpt-5-mini"
    temperature = 0.7

`Asking` are the settings, which a contestant has as well (`arena/remote.py`). `Asker` is what a judge is handed: it
puts a question on the line of its model (`arena/line.py`), books what that cost, and gives back what could be heard.
The answer is held to the question's schema by the endpoint where that knows how; one that refuses the field is asked
without it from then on, and the judge's own reading of the answer is the same either way.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from arena.client import Fault, Reply
from arena.contestants import Name
from arena.endpoints import Endpoint
from arena.line import Answer, Body, Cost, NoAnswer, OutOfBudget, Unanswered, call_row
from arena.speech import visible
from judges.asking import NoReply, NotNow, Question
from judges.asking import Reply as Heard
from runs.records import Call, content_id, content_seed
from topics.errors import InputError

MOST_TOKENS, THINKING_TOKENS = 4_000, 16_000
"""Most tokens of a judge's answer, where nobody says; a vote takes some 500."""
OUTAGES = ("server", "timeout", "not_found")
"""Faults that are an endpoint's as long as nobody is answered there, and a question's own where others are."""
LEVEL = 1_000
"""Of a vote at the gate: above that of any turn, so that a debate which is played is judged first."""


class Asking(BaseModel):
    """How a model is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    endpoint: Name
    """A name among the endpoints."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """As the endpoint calls it (default: the endpoint's own, where the arena starts it)."""
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    """Default: the endpoint's own."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Of an answer (default: well above what it needs)."""
    thinking: bool | None = None
    """Whether it reasons before it answers (default: as the model does)."""
    seeded: bool | None = None
    """Send a seed that is drawn from what is asked (default: to a vLLM, yes; some APIs refuse it)."""
    body: dict[str, JsonValue] = {}
    """Further fields of a request, as the endpoint knows them."""

    def request(
        self, messages: Sequence[Mapping[str, Any]], endpoint: Endpoint, *, model: str, most: int, seed: int
    ) -> Body:
        """What is sent; `model` is what the server calls it, `most` the tokens of an answer where nobody says."""
        body: Body = {"model": model, "messages": messages}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.top_p is not None:
            body["top_p"] = self.top_p
        if self.thinks is not None and endpoint.kind == "vllm":
            body["chat_template_kwargs"] = {"enable_thinking": self.thinks}
        body |= self.body
        if not body.keys() & {"max_tokens", "max_completion_tokens"}:
            body["max_tokens"] = self.max_tokens or most
        if self.seeded if self.seeded is not None else endpoint.kind == "vllm":
            body["seed"] = seed
        return body

    @property
    def thinks(self) -> bool | None:
        """Whether it is told to reason, or not to."""
        return self.thinking

    def model_at(self, endpoint: Endpoint, who: str) -> str:
        """The model at its endpoint; `InputError` where neither names one."""
        model = self.model or endpoint.model
        if model is None:
            raise InputError(f"{who} names no model of endpoint {self.endpoint!r}; add model = ...")
        return model


class Asks(Protocol):
    """A line, or what stands for one: `arena/line.py`, `arena/batch.py`."""

    endpoint: Endpoint
    model: str

    @property
    def answered_at(self) -> datetime | None:
        """When it last answered anybody."""
        ...

    async def ask(
        self,
        body_of: Callable[[int], Body],
        *,
        session: str,
        level: int,
        accept: Callable[[Reply], Fault | None] = ...,
        draw: int = 0,
    ) -> Answer:
        """See `Line.ask`."""
        ...


class Asker:
    """The `ask` of one judge."""

    def __init__(
        self, judge: str, asking: Asking, line: Asks, book: Callable[[Call], object], *, structured: bool | None = None
    ) -> None:
        """`structured` says whether the endpoint can hold an answer to a schema; None, to find out."""
        self.judge = judge
        self.asking = asking
        self.line = line
        self.book = book
        self.structured = structured

    async def __call__(self, question: Question) -> Heard:
        """The answer; raises `NoReply` or `NotNow`."""
        held = self.structured is not False and question.schema is not None
        try:
            return await self._heard(question, held=held)
        except NoReply as error:
            if error.kind != "refused" or not held or self.structured:
                raise
        reply = await self._heard(question, held=False)
        self.structured = False  # it was the schema that was refused
        return reply

    async def _heard(self, question: Question, *, held: bool) -> Heard:
        """The answer, held to the question's schema or not."""
        try:
            answer = await self.line.ask(
                lambda unusable: self.request(question, unusable, held=held),
                session=question.about,
                level=LEVEL,
                accept=_audible,
                draw=question.draw,
            )
        except Unanswered as error:
            call_id = self._booked(question, error.cost, None)
            if error.kind in OUTAGES and not self._answers_others(error.cost):
                raise NotNow(f"{error.kind}: {error}") from None
            raise NoReply(error.kind, str(error), call_id, error.cost.attempts) from None
        except NoAnswer as error:
            self._booked(question, error.cost, None)
            raise NotNow(str(error), everybody=isinstance(error, OutOfBudget)) from None
        if held and self.structured is None:
            self.structured = True  # one that was answered so can do it
        call_id = self._booked(question, answer.cost, answer.reply.finish)
        return Heard(text=visible(answer.reply.text), call_id=call_id)

    def _answers_others(self, cost: Cost) -> bool:
        """Whether anybody was answered since a question was first asked: then it is the question's own fault."""
        return self.line.answered_at is not None and self.line.answered_at > cost.started_at

    def request(self, question: Question, unusable: int = 0, *, held: bool = True) -> Body:
        """What is sent, held to the question's schema or not; `unusable` answers were given to it before."""
        most = MOST_TOKENS + THINKING_TOKENS * bool(self.asking.thinking)
        seed = content_seed("ask", self.judge, question.about, question.draw, unusable) >> 32
        body = self.asking.request(question.messages, self.line.endpoint, model=self.line.model, most=most, seed=seed)
        if question.schema is not None and held:
            schema = {"name": "answer", "schema": question.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _booked(self, question: Question, cost: Cost, finish: str | None) -> str | None:
        """Book the row of a call; None where nothing was sent."""
        if not cost.attempts:
            return None
        moment = cost.started_at.isoformat()  # the same question may be asked again, and is then paid again
        call = call_row(
            cost,
            call_id=content_id(self.judge, question.about, question.draw, moment),
            debate_id=question.about,
            role="judge",
            turn=None,
            endpoint=self.line.endpoint.name,
            model=self.line.model,
            finish=finish,
        )
        self.book(call)
        return call.call_id


def _audible(reply: Reply) -> Fault | None:
    """Nothing, or that there is nothing to hear."""
    return None if visible(reply.text) else Fault("empty", "the answer has no visible text", "again")


class Unasked:
    """An `ask` that sends nothing and keeps what it was asked: to see what a judge would ask."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    async def __call__(self, question: Question) -> Heard:
        """Raises `NoReply`."""
        self.questions.append(question)
        raise NoReply("refused", "nothing is sent")
