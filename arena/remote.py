"""Contestants at an endpoint: a model behind an API or a vLLM server, with or without an adapter.

    [[contestants]]
    name = "kimi"
    endpoint = "router"               # a name among [[endpoints]]
    model = "moonshotai/kimi-k2"
    temperature = 0.7

`Remote` is the entry in the roster, `Seat` speaks for it. A seat asks with the prompts of `arena/prompting.py`, each of
which begins with the one before, so that a server with a prefix cache reads every token of a debate once. A speech over
its word budget is sent back once with the request to shorten it; what is still too long ends at an earlier sentence
end, which the engine sees to (`arena/speech.py`), as it does to private reasoning.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from arena import serving
from arena.asking import THINKING_TOKENS, Asking
from arena.client import Client, Fault, Reply, key_of, listed
from arena.contestants import Name, SpeakFailed, Unavailable
from arena.endpoints import Endpoint
from arena.line import Answer, Body, Cost, Line, Lines, NoAnswer, OutOfBudget, Unanswered, call_row
from arena.local import entry_of
from arena.prompting import Message, render, shorten
from arena.speech import sentence_ends, visible
from runs import adapters
from runs.records import Call, Debate, Role, Slot, Speech, content_id, content_seed
from topics.errors import InputError, near

TOKENS_A_WORD, SPARE_TOKENS = 4, 200
"""Most tokens of an answer, where nobody says: of any language, and with room for one sentence too many; English has
some 1.4 a word. A budget is kept by words, a cap on tokens only bounds what a model gone astray can cost."""


class Remote(Asking):
    """A contestant at an endpoint, as it stands in a roster."""

    kind: Literal["endpoint"]
    name: Name
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """On a vLLM: an id in the registry, or an entry's folder."""
    family: str = ""
    lineage: str = ""
    shortens: bool = True
    """Send back a speech over its budget, once."""
    persona: Annotated[str, Field(max_length=10_000)] = ""
    """Said to it at the end of its instructions."""
    context: Literal["key", "transcript"] | None = None
    """What the prompt holds (default: as the adapter was trained; transcript)."""
    digest: str | None = None
    """Of the adapter's weights: filled in when a run is made, compared from then on."""

    @property
    def thinks(self) -> bool | None:
        """An adapter does as it was trained, which is not to."""
        return False if self.thinking is None and self.adapter is not None else self.thinking

    def resolved(self, endpoints: Mapping[str, Endpoint], out: Path) -> Self:
        """This entry with everything filled in that was left open, and its adapter checked against its files."""
        endpoint = endpoints[self.endpoint]
        model = self.model_at(endpoint, f"contestant {self.name!r}")
        if self.adapter is None:
            return self.model_copy(update={"model": model, "context": self.context or "transcript"})
        if endpoint.kind != "vllm":
            raise InputError(
                f"contestant {self.name!r}: endpoint {self.endpoint!r} takes no adapters; expected one of kind 'vllm'"
            )
        adapter = entry_of(self.adapter, out)
        adapters.verify(adapter)
        if adapter.form == "full":
            raise InputError(
                f"contestant {self.name!r}: {adapter.id} is a whole model, not an adapter over one; "
                f"serve it: model = {adapter.id!r} under [[endpoints]]"
            )
        if endpoint.is_started:
            adapters.check_base(adapter, source_of(endpoint, out))
        if self.digest not in (None, adapter.weights_digest):
            raise InputError(
                f"contestant {self.name!r}: {self.adapter!r} is not what it was when the run was made; "
                f"restore it, or start a new run"
            )
        found = {"model": model, "context": self.context or adapter.context, "digest": adapter.weights_digest}
        return self.model_copy(update=found)


def source_of(endpoint: Endpoint, out: Path) -> str:
    """What a server that the arena starts is to serve: a folder, a hub name, or a whole policy of the registry."""
    assert endpoint.model is not None
    if "/" in endpoint.model or Path(endpoint.model).is_dir():
        return endpoint.model
    return adapters.base_source(entry_of(endpoint.model, out))


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A contestant at an endpoint that speaks."""

    entry: Remote
    line: Line
    served: str
    """The name by which the server knows the model, or the adapter."""

    async def speak(self, debate: Debate, slot: Slot) -> Speech:
        """A speech for `slot`."""
        said = render(self.entry.context or "transcript", debate, slot, self.entry.persona)
        try:
            answer = await self._ask(said, debate, slot, "speak")
        except Unanswered as error:
            call = self._call(error.cost, None, debate, slot, "speak")
            raise SpeakFailed(error.kind, str(error), call.attempts, call) from None
        except NoAnswer as error:
            call = self._call(error.cost, None, debate, slot, "speak")
            raise Unavailable(str(error), call, everybody=isinstance(error, OutOfBudget)) from None
        reply = answer.reply
        speech = Speech(
            answer=reply.text,
            reasoning=reply.reasoning,
            cut=reply.finish == "length",
            call=self._call(answer.cost, reply.finish, debate, slot, "speak"),
        )
        heard = visible(reply.text)
        if not self.entry.shortens or len(heard.split()) <= slot.words:
            return speech
        return await self._shortened(speech, heard, said, debate, slot)

    async def _shortened(self, speech: Speech, heard: str, said: list[Message], debate: Debate, slot: Slot) -> Speech:
        """The speech, shortened by whoever gave it; as it was where that comes to nothing, or is no shorter."""
        try:
            answer = await self._ask(shorten(said, heard, slot), debate, slot, "shorten")
        except NoAnswer as error:
            return replace(speech, shorten=self._call(error.cost, None, debate, slot, "shorten"))
        reply = answer.reply
        call = self._call(answer.cost, reply.finish, debate, slot, "shorten")
        if len(visible(reply.text).split()) >= len(heard.split()):
            return replace(speech, shorten=call)
        return replace(speech, answer=reply.text, cut=reply.finish == "length", shorten=call)

    async def _ask(self, said: list[Message], debate: Debate, slot: Slot, role: Role) -> Answer:
        return await self.line.ask(
            lambda unusable: self.request(said, debate, slot, role, unusable),
            session=debate.id,
            level=slot.turn - 1,
            accept=usable,
        )

    def request(self, said: list[Message], debate: Debate, slot: Slot, role: Role, unusable: int) -> Body:
        """What is sent; `unusable` answers were given to it before."""
        entry = self.entry
        most = TOKENS_A_WORD * slot.words + SPARE_TOKENS + THINKING_TOKENS * bool(entry.thinking)
        seed = content_seed(role, debate.match.seed, debate.id, slot.turn, entry.name, unusable) >> 32
        return entry.request(said, self.line.endpoint, model=self.served, most=most, seed=seed)

    def _call(self, cost: Cost, finish: str | None, debate: Debate, slot: Slot, role: Role) -> Call:
        """The row of a call; one that came to nothing may be made again, so its id is of that moment."""
        again = () if finish is not None else (cost.started_at.isoformat(),)
        return call_row(
            cost,
            call_id=content_id(debate.id, role, slot.turn, *again),
            debate_id=debate.id,
            role=role,
            turn=slot.turn,
            endpoint=self.line.endpoint.name,
            model=self.line.model,
            adapter=self.entry.adapter,
            finish=finish,
        )


def usable(reply: Reply) -> Fault | None:
    """Nothing, or why a reply is a failed attempt: it holds no visible text, or was cut off in its first sentence."""
    heard = visible(reply.text)
    if not heard:
        return Fault("empty", "the answer has no visible text", "again")
    if reply.finish == "length" and not sentence_ends(heard):
        return Fault("length", "the answer was cut off in its first sentence", "again")
    return None


@contextmanager
def seated(
    entries: Sequence[Remote],
    endpoints: Mapping[str, Endpoint],
    out: Path,
    *,
    judges: Mapping[str, Asking] | None = None,
    spare: Collection[str] = (),
) -> Iterator[tuple[dict[str, Seat], Lines]]:
    """Seats for resolved entries, and the lines by which they and `judges` ask; servers that were started for them end
    with the block.

    Raises `InputError` where a key is missing, nobody answers, a server lacks a model, or an adapter's canary differs.
    An endpoint that only `spare` judges ask at may be away: its lines are parked.
    """
    judges = judges or {}
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        served: dict[str, str] = {}
        away: dict[str, str] = {}
        for endpoint in endpoints.values():
            mine = [entry for entry in entries if entry.endpoint == endpoint.name]
            key = key_of(endpoint)
            policies = {entry.adapter: entry_of(entry.adapter, out) for entry in mine if entry.adapter}
            source = source_of(endpoint, out) if endpoint.is_started else None
            server = stack.enter_context(serving.served(endpoint, source, list(policies.values()), key=key))
            asking = {name: judge for name, judge in judges.items() if judge.endpoint == endpoint.name}
            try:
                known = [(url, listed(endpoint, url, key)) for url in server.urls]
            except InputError as error:
                if mine or not asking.keys() <= set(spare):
                    raise
                known, away[endpoint.name] = [], str(error)
            for url, models in known:
                for who in mine:
                    _has(f"contestant {who.name!r}", who, url, models)
                for name, judge in asking.items():
                    _has(f"judge {name!r}", judge, url, models)
            for entry in mine:
                policy = policies[entry.adapter] if entry.adapter else None
                served[entry.name] = server.seat(policy, base=str(entry.model)) if policy else str(entry.model)
            clients[endpoint.name] = Client(endpoint, urls=server.urls, key=key)
            clients[endpoint.name].prepare()
        lines = Lines(endpoints.values(), clients)
        for judge in judges.values():
            if judge.endpoint in away:
                lines.to(judge.endpoint, str(judge.model)).gate.park(away[judge.endpoint])
        seats = {
            entry.name: Seat(entry=entry, line=lines.to(entry.endpoint, str(entry.model)), served=served[entry.name])
            for entry in entries
        }
        yield seats, lines


def _has(who: str, asking: Asking, url: str, models: set[str] | None) -> None:
    """Refuse a model that a server does not list."""
    if models is not None and asking.model not in models:
        known = ", ".join(sorted(models)[:8]) or "none"
        raise InputError(f"{who}: {url} has no model {asking.model!r}; it has {known}{near(str(asking.model), models)}")
