"""Local contestants: a language model in this process, with or without an adapter; no server, and a CPU will do.

    [[contestants]]
    name = "child"
    adapter = "dpo-1c9e0b7a44d2"     # an id in the registry, or an entry's folder
    temperature = 0.7

`Local` is the entry in the roster, `Seat` speaks for it, and a worker (`arena/worker.py`) holds one model for all
seats over the same base: adapters over one base share it, and so does the base itself, be it a model or a policy of
form `full`.

    with seated(entries, out) as seats:      # loads models, checks canaries; ends the threads
        speech = await seats["child"].speak(debate, slot)

What is drawn depends on the debate's seed, the turn and the contestant's name, not on who else is asked at the time.
Whatever is wrong with an entry is an `InputError` before a run is made: `resolved` checks files and digests without
loading a weight, and writes into the entry what it found, so that a run goes on with the very same policy or not at
all; `seated` checks the canary.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from arena.contestants import Name, SpeakFailed
from arena.models import load_tokenizer, prompt_ids
from arena.prompting import Message, render
from arena.speech import hear
from arena.worker import Worker
from runs import adapters
from runs.adapters import Adapter
from runs.records import Call, Debate, Slot, Speech, content_id, content_seed
from topics.errors import InputError

if TYPE_CHECKING:
    from arena.generate import Request

ATTEMPTS = 2
"""How often a seat draws when nothing that can be heard has come."""
PROBE: tuple[Message, ...] = tuple(
    Message(role=role, content="Speak.") for role in ("system", "user", "assistant", "user")
)
"""What a chat template must be able to render."""


class Local(BaseModel):
    """A local contestant, as it stands in a roster."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["local"]
    name: Name
    family: str = ""
    lineage: str = ""
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """An id in the registry, or an entry's folder."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """A folder or hub name; with an adapter: where its base lies, if not where it was."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.7
    """0: the likeliest token, always."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Of an answer (default: well above the slot's word budget)."""
    context: Literal["key", "transcript"] | None = None
    """What the prompt holds (default: as the adapter was trained; transcript)."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    four_bit: bool | None = None
    """Quantise the base on loading (default: as the adapter was trained; no)."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Speeches at once."""
    digest: str | None = None
    """Of what was trained: filled in when a run is made, compared from then on."""
    base: str | None = None
    """What the worker loads: digest of a model's folder, or a hub name; filled in likewise."""

    @model_validator(mode="after")
    def _something_to_load(self) -> Self:
        if self.adapter is None and self.model is None:
            raise ValueError("names neither an adapter nor a model; expected adapter = an id, or model = a folder")
        return self

    def resolved(self, out: Path) -> Self:
        """This entry with everything filled in that was left open, all its files checked against their digests."""
        source, found = self.source(out), dict[str, object]()
        if self.adapter is None:
            digest = adapters.digest_of_model(Path(source)) if Path(source).is_dir() else source
            context = self.context or "transcript"
            found = {"digest": digest, "base": digest, "context": context, "four_bit": bool(self.four_bit)}
        else:
            found = self._trained(entry_of(self.adapter, out), source)
        prompt_ids(load_tokenizer(source), PROBE)
        for name in ("digest", "base"):
            if getattr(self, name) not in (None, found[name]):
                raise InputError(
                    f"contestant {self.name!r}: {self.adapter or self.model!r} is not what it was when the run was "
                    f"made; restore it, or start a new run"
                )
        return self.model_copy(update=found)

    def _trained(self, adapter: Adapter, source: str) -> dict[str, object]:
        """What an adapter says of itself, its files and those of its base checked."""
        adapters.verify(adapter)
        adapters.check_base(adapter, source)
        if self.four_bit and not adapter.four_bit:
            raise InputError(
                f"contestant {self.name!r}: {adapter.id} was trained in full precision, and is not what it was "
                f"over a quantised base; leave four_bit out"
            )
        base = adapter.weights_digest if adapter.form == "full" else adapter.base.digest
        return {
            "digest": adapter.weights_digest,
            "base": base if Path(source).is_dir() else source,
            "context": self.context or adapter.context,
            "four_bit": adapter.four_bit if self.four_bit is None else self.four_bit,
        }

    def source(self, out: Path) -> str:
        """What is loaded: a folder or a hub name."""
        if self.model is not None:
            return self.model
        assert self.adapter is not None
        return adapters.base_source(entry_of(self.adapter, out))


def entry_of(which: str, out: Path) -> Adapter:
    """An adapter by id or folder: of the registry beside the runs under `out`, or else of the usual one."""
    beside = out / "adapters"
    return adapters.find(which, beside if beside.is_dir() else adapters.OUT)


# ── the seat ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A local contestant that speaks."""

    entry: Local
    worker: Worker
    adapter: str | None
    """As the worker knows it; None for the base itself."""

    async def speak(self, debate: Debate, slot: Slot) -> Speech:
        """A speech for `slot`; drawn once more where the first holds nothing that can be heard."""
        prompt = self.prompt(debate, slot)
        started, clock = datetime.now(UTC), perf_counter()
        completion = 0
        attempts = ATTEMPTS if self.entry.temperature > 0 else 1
        for attempt in range(1, attempts + 1):
            request = await self.worker.ask(self.request(prompt, debate, slot, attempt))
            completion += len(request.tokens) + (request.finish == "stop")
            call = Call(
                call_id=content_id(debate.id, "speak", slot.turn),
                debate_id=debate.id,
                role="speak",
                turn=slot.turn,
                endpoint="local",
                model=self.worker.name,
                adapter=self.adapter,
                prompt_tokens=len(prompt) * attempt,
                completion_tokens=completion,
                latency_s=perf_counter() - clock,
                attempts=attempt,
                finish_reason=request.finish,
                started_at=started,
            )
            speech = Speech(answer=self.worker.text(request.tokens), cut=request.finish == "length", call=call)
            try:
                hear(speech, debate, slot)
                break
            except SpeakFailed:  # after the last attempt the engine will say so
                continue
        return speech

    def prompt(self, debate: Debate, slot: Slot) -> list[int]:
        """The tokens that the model is asked with; `SpeakFailed` where they leave no room in its window."""
        said = render(self.entry.context or "transcript", debate, slot)
        prompt = prompt_ids(self.worker.tokenizer, said)
        if self.worker.window is not None and len(prompt) >= self.worker.window:
            raise SpeakFailed(
                "length", f"the prompt has {len(prompt):,} tokens; {self.worker.name} holds {self.worker.window:,}"
            )
        return prompt

    def request(self, prompt: list[int], debate: Debate, slot: Slot, attempt: int) -> "Request":
        """What the worker is asked; the seed comes from content alone."""
        from arena.generate import BASE, Request

        most = self.entry.max_tokens or most_tokens(slot)
        if self.worker.window is not None:
            most = min(most, self.worker.window - len(prompt))
        return Request(
            prompt=tuple(prompt),
            adapter=self.adapter if self.adapter in self.worker.adapters else BASE,
            seed=content_seed("speak", debate.match.seed, debate.id, slot.turn, self.entry.name, attempt),
            temperature=self.entry.temperature,
            top_p=self.entry.top_p,
            most=most,
        )


def most_tokens(slot: Slot) -> int:
    """Of an answer, what ends it included, where nobody says: well above the budget, English takes some 1.4 a word."""
    return 2 * slot.words + 64


@contextmanager
def seated(entries: Sequence[Local], out: Path) -> Iterator[dict[str, Seat]]:
    """Seats for resolved entries: one worker for each base, dtype and quantisation; ended with the block.

    Raises `InputError` where a model cannot be loaded, or an adapter's canary differs.
    """
    workers: dict[tuple[object, ...], Worker] = {}
    seats = {}
    with ExitStack() as stack:
        for entry in entries:
            key = (entry.base, entry.dtype, entry.four_bit)
            if key not in workers:
                workers[key] = Worker(
                    entry.source(out),
                    dtype=entry.dtype,
                    four_bit=bool(entry.four_bit),
                    batch=min(e.batch for e in entries if (e.base, e.dtype, e.four_bit) == key),
                )
                stack.callback(workers[key].close)
            adapter = None if entry.adapter is None else entry_of(entry.adapter, out)
            if adapter is not None:
                workers[key].add(adapter)
            seats[entry.name] = Seat(entry=entry, worker=workers[key], adapter=adapter.id if adapter else None)
        for worker in workers.values():
            worker.start()
        yield seats
