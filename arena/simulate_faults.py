"""Faults of the simulated endpoint: what can go wrong, and a file that says when.

    [[faults]]
    kind = "rate_retry_after"
    first = 3               # the first three requests; or requests = [3, 7], every = 10, share = 0.05
    retry_after = 2
    model = "sim-0.8"       # of this model alone, and counted among its requests; default: any

Four sorts of kinds. `REFUSALS` are answered with an error status, before anything is worked on where that is below 500.
`ALTERED` are answers that are billed and of little use. `MANGLED` are bodies of status 200 that no client can read.
`BROKEN` have to do with the connection. Requests are numbered from 1 as they come in; those that a rate limit refuses
are not counted. The first fault of the file that applies to a request is the one it meets. Shares are drawn once a
request, from a hash of the seed and its number, so they add up. Which request has which number depends on who comes
first, though not how many are struck.
"""

import asyncio
import math
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Self

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from arena.simulate_meter import duration
from arena.simulate_protocol import JSON, Answer, Refused
from arena.simulated import Draw
from runs.settings import read_toml
from topics.errors import InputError, near


def _mid_sentence(text: str) -> str:
    """About two thirds of `text`, the last word of which ends no sentence."""
    words = text.split(" ")
    kept = words[: max(1, 2 * len(words) // 3)]
    while len(kept) > 1 and not kept[-1][-1:].isalnum():
        kept.pop()
    return " ".join(kept) if len(words) > 1 else text[: max(1, len(text) // 2)]


_THOUGHT = "The other side will press its best point, so I should meet that first and keep my own case short."

REFUSALS: dict[str, tuple[int, str, str | None, str]] = {
    "rate_retry_after": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "rate_retry_after_ms": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "rate_reset_headers": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "rate_bare": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "error_500": (500, "server_error", None, "The server had an error while processing the request."),
    "error_500_forever": (500, "server_error", None, "The server always fails on this request."),
    "error_503": (503, "server_error", None, "The server is overloaded."),
    "auth_401": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "model_404": (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "bad_request_400": (400, "invalid_request_error", None, "The request is not understood."),
    "context_length_400": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is exceeded by the messages.",
    ),
    "quota_429": (429, "insufficient_quota", "insufficient_quota", "The quota of this account is exceeded."),
    "quota_402": (402, "billing_error", "insufficient_balance", "The balance of this account is used up."),
}
"""(status, type, code, message) of each."""

ALTERED: dict[str, Callable[[Answer], Answer]] = {
    "null_content": lambda answer: replace(answer, text=None, good=False),
    "content_filter": lambda answer: replace(answer, text="", finish="content_filter", good=False),
    "refusal": lambda answer: replace(answer, text=None, refusal="I cannot help with that.", good=False),
    "truncated": lambda answer: replace(answer, text=_mid_sentence(answer.text or ""), finish="length"),
    "unterminated_think": lambda answer: replace(answer, text=f"<think>{answer.text}", good=False),
    "think_only": lambda answer: replace(answer, text=f"<think>{answer.text}</think>", good=False),
    "reasoning_field": lambda answer: replace(answer, reasoning=_THOUGHT),
}

MANGLED = ("error_body", "invalid_json", "no_choices")
"""200 with an error for a body; with half a body; with a body that says what it used, and nothing else."""

LONGEST_HANG = 60.0
"""Seconds."""
DRIPS = 20
"""Pieces of a slow body."""

BROKEN = ("hang", "reset", "slow_body")
"""No answer until the client gives up; the connection closed without one; an answer that comes drop by drop."""

KINDS = (*REFUSALS, *ALTERED, *MANGLED, *BROKEN)

USES = {
    "retry_after": ("rate_retry_after", "rate_retry_after_ms", "rate_reset_headers", "error_503"),
    "status": ("error_500", "error_500_forever", "error_503", "error_body"),
    "seconds": ("hang", "slow_body"),
}
"""Which kinds have a use for a setting."""


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no such kind{near(kind, KINDS)}; expected one of {', '.join(KINDS)}")
    return kind


Number = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=3_600)]


class Fault(BaseModel):
    """One `[[faults]]`: what happens, and to which requests."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Annotated[str, AfterValidator(_known)]
    model: str | None = None
    """Of requests to this model alone, which are then counted by themselves (default: of all)."""
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of requests, drawn by their number."""
    requests: tuple[Number, ...] | None = None
    """Those with these numbers."""
    first: Number | None = None
    """So many, from the beginning."""
    every: Number | None = None
    """Each one whose number is a multiple of this."""
    times: Number | None = None
    """At most so often in all."""
    retry_after: Seconds | None = None
    """Seconds that the client is told to wait (default: 1, for rate limits)."""
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    """Instead of the kind's own."""
    seconds: Annotated[float, Field(gt=0, le=60)] | None = None
    """How long it takes (default: 1), or, for `hang`, when it is given up (default: 60)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("share", "requests", "first", "every") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"names {' and '.join(given) or 'none'} of share, requests, first and every; expected one")
        for name, kinds in USES.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(f"kind {self.kind!r} has no use for {name}; it is for {', '.join(kinds)}")
        return self

    def refused(self) -> Refused:
        """The error of one of the kinds in `REFUSALS`."""
        status, type_, code, message = REFUSALS[self.kind]
        return Refused(self.status or status, message, type=type_, code=code, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        seconds = 1.0 if self.retry_after is None else self.retry_after
        if self.kind == "rate_retry_after" or (self.kind == "error_503" and self.retry_after is not None):
            return {"retry-after": f"{seconds:g}"}
        if self.kind == "rate_retry_after_ms":
            return {"retry-after-ms": f"{1000 * seconds:g}"}
        if self.kind == "rate_reset_headers":
            return {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": duration(seconds),
                "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-tokens": "149000",
                "x-ratelimit-reset-tokens": "6ms",
            }
        return {}


class FaultsFile(BaseModel):
    """A file of faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    faults: tuple[Fault, ...] = ()


def load(path: Path) -> tuple[Fault, ...]:
    """The faults of a TOML file; `InputError` where it is none."""
    try:
        faults = FaultsFile.model_validate(read_toml(path)).faults
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(f"number {part + 1}" if isinstance(part, int) else str(part) for part in first["loc"])
        value = f" {first['input']!r}" if isinstance(first["input"], str | int | float) else ""
        raise InputError(f"{str(path)!r}, {where}{value}: {first['msg'].removeprefix('Value error, ')}") from None
    for model in {fault.model for fault in faults}:
        total = sum(fault.share or 0 for fault in faults if fault.model in (None, model))
        if total > 1 + 1e-9:
            raise InputError(f"{str(path)!r}: the shares of its faults add up to {total:g}; expected at most 1")
    return faults


class Schedule:
    """Which request meets which fault."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.faults = faults
        self.seed = seed
        self._requests = 0
        self._by_model: Counter[str] = Counter()
        self._left = [fault.times or math.inf for fault in faults]
        self._doomed: dict[int, Fault] = {}

    def draw(self, model: str, content: int) -> Fault | None:
        """The fault of the next request, if any; `content` is a hash of what is asked, and of whom."""
        if not self.faults:
            return None
        self._requests += 1
        self._by_model[model] += 1
        if content in self._doomed:
            return self._doomed[content]
        chance = Draw(self.seed, "fault", self._requests).below(1 << 53) / (1 << 53)
        for at, fault in enumerate(self.faults):
            if fault.model not in (None, model):
                continue
            chance -= fault.share or 0
            number = self._requests if fault.model is None else self._by_model[model]
            if self._left[at] == 0 or not _strikes(fault, number, chance):
                continue
            self._left[at] -= 1
            if fault.kind == "error_500_forever":
                self._doomed[content] = fault
            return fault
        return None


def _strikes(fault: Fault, number: int, chance: float) -> bool:
    """`chance` is what was drawn less the shares up to this fault's own, so below 0 it falls into them."""
    if fault.share is not None:
        return -fault.share <= chance < 0
    if fault.requests is not None:
        return number in fault.requests
    if fault.first is not None:
        return number <= fault.first
    return number % (fault.every or 1) == 0


# ── connections that break ───────────────────────────────────────────────────────────────────────


def is_gone(request: web.BaseRequest) -> bool:
    """Whether the client has hung up, or was hung up on."""
    return request.transport is None or request.transport.is_closing()


def reset(request: web.BaseRequest) -> web.Response:
    """Close the connection as a server does that dies: without a goodbye."""
    if (transport := request.transport) is not None:
        if (wire := transport.get_extra_info("socket")) is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()  # to nobody


async def hang(request: web.BaseRequest, seconds: float) -> web.Response:
    """Wait until the client gives up, or for so long; then close the connection."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not is_gone(request) and loop.time() < until:
        await asyncio.sleep(min(0.05, seconds))
    return reset(request)


async def drip(request: web.BaseRequest, body: bytes, seconds: float) -> web.StreamResponse:
    """Send a body piece by piece, until the client gives up."""
    response = web.StreamResponse(headers={**JSON, "Content-Length": str(len(body))})
    await response.prepare(request)
    size = -(-len(body) // DRIPS)
    for at in range(0, len(body), size):
        await asyncio.sleep(seconds / DRIPS)
        if is_gone(request):
            break
        await response.write(body[at : at + size])
    return response
