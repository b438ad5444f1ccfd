"""OpenAI's batch API, as far as it is needed: a file of questions goes up, and in the end files of answers come down.

    api = BatchApi(line, Pace())
    file = await api.upload(lines)                      # JSON lines: custom_id, method, url, body
    state = await api.begin(file)                       # from here on it costs
    while state.status not in ENDED:
        await api.rest(1.0)
        state = await api.look(state.id)
    found, gone = await api.answers(state, ids)         # by custom_id; whose answers may be there no more

Each step is tried again while the endpoint is busy or away, for as long as patience lasts, and raises a `Fault` that is
`never` or `park` where there is no use in that; `Stopped` where the line was parked. Beginning a batch twice would be
paid twice: where a first try may have reached the endpoint, its batches are looked through before the second.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from arena.client import Fault, Reply
from arena.line import PATIENCE, Line

URL = "/v1/chat/completions"
"""What each question is for, whatever the path of the endpoint is."""
ENDED = ("completed", "failed", "expired", "cancelled")
NOT_DONE = ("batch_expired", "batch_cancelled")
"""Codes of answers that say that a question was not come to."""
MOST_BYTES = 1_000_000_000
"""Of a file of answers."""
WATCH = 0.2
"""Seconds in which a stop is noticed."""

T = TypeVar("T")
Id = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long to wait, in seconds."""

    quiet: float = 0.5
    """Without a further question, until those that are there are sent."""
    first: float = 1.0
    """Until a batch is looked at for the first time, then half as much again each time..."""
    longest: float = 60.0
    """... up to this."""
    told: float = 60.0
    """Between two words on how far a batch is."""
    patience: float = PATIENCE
    """For which the endpoint may be away."""


class State(BaseModel):
    """A batch, as its endpoint tells of it."""

    id: Id
    status: Annotated[str, Field(max_length=40)]
    input_file_id: str | None = None
    output_file_id: Id | None = None
    error_file_id: Id | None = None
    request_counts: Any = None
    errors: Any = None

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        counts = self.request_counts if isinstance(self.request_counts, dict) else {}
        completed, failed, total = (counts.get(name) for name in ("completed", "failed", "total"))
        if not (isinstance(completed, int) and isinstance(failed, int) and isinstance(total, int) and total):
            return self.status
        return f"{self.status}, {completed + failed:,}/{total:,} done"

    @property
    def error(self) -> tuple[str, str]:
        """Code and words of the first thing that was wrong with it."""
        rows = self.errors.get("data") if isinstance(self.errors, dict) else None
        first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
        return str(first.get("code") or ""), str(first.get("message") or "")


class Stopped(Exception):
    """The line was parked: nobody waits any longer. Says why."""


class BatchApi:
    """The batch API of a line's endpoint; where that has several base URLs, of the first."""

    def __init__(self, line: Line, pace: Pace) -> None:
        self._line = line
        self._client = line.client
        self.pace = pace

    async def upload(self, lines: bytes) -> str:
        """Put a file of questions there; its id."""

        async def upload() -> str:
            files = self._client.at(self._client.urls[0]).files
            made = await files.create(file=("questions.jsonl", lines), purpose="batch")
            return _file_id(getattr(made, "id", None))

        return await self._patiently(upload)

    async def begin(self, file: str) -> State:
        """Begin the batch of a file."""
        body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
        tried = False

        async def begin() -> State:
            nonlocal tried
            if tried and (found := await self._of_file(file)):
                return found
            tried = True
            return _state(await self._client.at(self._client.urls[0]).post("/batches", cast_to=object, body=body))

        return await self._patiently(begin)

    async def find(self, file: str) -> State | None:
        """The batch of a file, where it was begun; None as well where the endpoint lists no batches."""
        return await self._patiently(lambda: self._of_file(file))

    async def look(self, batch: str) -> State:
        """How a batch stands."""

        async def look() -> State:
            return _state(await self._get(f"/batches/{quote(batch, safe='')}"))

        return await self._patiently(look)

    async def answers(self, state: State, ids: Collection[str]) -> tuple[dict[str, Reply | Fault], set[str]]:
        """What came of the questions that were answered, by id; and where the file of answers is gone, all questions of
        which the other file says nothing: these may have been answered."""
        found: dict[str, Reply | Fault] = {}
        gone: set[str] = set()
        for file in filter(None, (state.output_file_id, state.error_file_id)):
            try:
                rows = await self._patiently(lambda file=file: self._rows(file))  # type: ignore[misc]
            except Fault as fault:
                if fault.kind != "not_found":
                    raise
                gone |= set(ids) if file == state.output_file_id else set()
                continue
            for row in rows:
                id_, answer = row.get("custom_id"), self._answer(row)
                if not isinstance(id_, str) or id_ not in ids:
                    continue
                gone.discard(id_)
                if answer is not None:
                    found.setdefault(id_, answer)
        return found, gone

    def blotted(self, text: str) -> str:
        """One bounded line of what the endpoint said, without the key."""
        return self._client.blotted(text)

    async def rest(self, seconds: float) -> None:
        """Wait, but no longer than until the line is parked; then `Stopped`."""
        until = monotonic() + seconds
        while self._line.gate.parked is None:  # its own waiters hear of it at once; nobody else is told
            if (left := until - monotonic()) <= 0:
                return
            await asyncio.sleep(min(left, WATCH))
        raise Stopped(self._line.gate.parked)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        pause, gone_since = self.pace.first, None
        while True:
            try:
                with self._client.faults():
                    return await ask()
            except Fault as fault:
                if fault.remedy in ("never", "park"):
                    raise
                gone_since = gone_since or monotonic()
                if monotonic() - gone_since > self.pace.patience:
                    why = f"nothing of use was answered for {self.pace.patience / 60:.0f} minutes: {fault}"
                    raise Fault(fault.kind, why, "park") from None
                wait = fault.pause or pause
            await self.rest(wait)
            pause = min(2 * pause, self.pace.longest)

    async def _get(self, path: str) -> object:
        found: object = await self._client.at(self._client.urls[0]).get(path, cast_to=object)
        return found

    async def _of_file(self, file: str) -> State | None:
        """The batch that was made of a file, where it is among the last hundred; None as well where none are listed."""
        try:
            with self._client.faults():
                found = await self._get("/batches?limit=100")
        except Fault as fault:
            if fault.remedy == "never":
                return None
            raise
        rows = found.get("data") if isinstance(found, dict) else None
        mine = (row for row in rows or () if isinstance(row, dict) and row.get("input_file_id") == file)
        return next(map(_state, mine), None)

    async def _rows(self, file: str) -> list[dict[str, Any]]:
        content = bytearray()
        files = self._client.at(self._client.urls[0]).files
        async with files.with_streaming_response.content(file) as answer:
            async for block in answer.iter_bytes():
                content += block
                if len(content) > MOST_BYTES:
                    raise Fault("unparseable", f"the answers are more than {MOST_BYTES:,} bytes", "park")
        rows = list(_objects(bytes(content)))
        if content.strip() and not rows:  # somebody else's page, for one, in place of what was paid for
            raise Fault("unparseable", "what was answered is no file of answers", "again")
        return rows

    def _answer(self, row: dict[str, Any]) -> Reply | Fault | None:
        """What came of one question; None where it was not come to."""
        response, error = row.get("response"), row.get("error")
        status, body = (response.get("status_code"), response.get("body")) if isinstance(response, dict) else (500, {})
        if not isinstance(response, dict) and isinstance(error, dict):
            if error.get("code") in NOT_DONE:
                return None
            body = {"error": error}
        try:
            return self._client.read(status if isinstance(status, int) else 500, body)
        except Fault as fault:
            return fault


def _state(found: object) -> State:
    try:
        return State.model_validate(found)
    except ValidationError:
        raise Fault("unparseable", "what was answered is no batch", "again") from None


def _file_id(found: object) -> str:
    if not isinstance(found, str) or not 0 < len(found) <= 200 or not found.isascii() or not found.isprintable():
        raise Fault("unparseable", "what was answered is no file", "again")
    return found


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines; a line that is none is passed over, and its question has no answer."""
    for line in content.split(b"\n"):  # no other character ends a line: a text may hold any
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row
