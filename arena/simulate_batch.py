"""The batch API of the simulated endpoint: many requests in a file, answered later, in two files.

    POST /v1/files                  multipart: purpose=batch, file=<one request a line>
    POST /v1/batches                {"input_file_id", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    GET  /v1/batches/ID             status, request_counts; in the end output_file_id and error_file_id
    POST /v1/batches/ID/cancel      what is done by then stays
    GET  /v1/files/ID/content       JSON lines: custom_id, response.status_code, response.body, error

A line of the input has custom_id, method, url and body; the bodies are those of single requests, all to one model. As
with OpenAI's, a file that is no batch makes the batch `failed`, with the lines at fault; a line that is refused stands
in the error file, its status and body in `response`; a file that would be empty is not there. A batch takes its latency
from the first line to the last. Its lines meet faults as single requests do, but for those of a connection and of a
body, which are errors 500 here, and a slow body, which is none. Rate limits do not hold for them. Files and batches
live in memory until a reset, and a batch never expires.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

from arena.simulate_protocol import Refused

URL = "/v1/chat/completions"
MOST_LINES, MOST_BYTES = 50_000, 200_000_000
"""Of a file."""
MOST_HELD = 1_000_000_000
"""Bytes of all files together."""
MOST_ERRORS = 100
"""That a failed batch lists."""
TOGETHER = 50
"""Lines worked on before somebody else gets a turn."""
PAUSE = 0.01
"""Seconds that a batch has to be ahead of its time to rest."""

Body = dict[str, Any]
Complete = Callable[[Body], Awaitable[Body]]
"""The body that answers the body of a request; raises `Refused`."""


class NoBatch(Exception):
    """A file holds no batch: a code, what is wrong, and in which line."""

    def __init__(self, code: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.as_json = {"code": code, "message": message, "line": line, "param": None}


@dataclass(kw_only=True)
class Batch:
    """A batch as the protocol tells it."""

    id: str
    input_file_id: str
    metadata: Any = None
    status: str = "validating"
    model: str | None = None
    moments: dict[str, int] = field(default_factory=dict)
    errors: list[Body] = field(default_factory=list)
    total: int = 0
    completed: int = 0
    failed: int = 0
    files: dict[str, str | None] = field(default_factory=lambda: {"output_file_id": None, "error_file_id": None})
    usage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("prompt", "cached", "completion"), 0))

    def __post_init__(self) -> None:
        self.moments["created_at"] = int(time.time())

    def now(self, status: str) -> None:
        """Go over to another status."""
        self.status = status
        self.moments[f"{status}_at"] = int(time.time())

    def count(self, usage: Mapping[str, Any]) -> None:
        """Count a line that was answered."""
        self.completed += 1
        self.usage["prompt"] += usage["prompt_tokens"]
        self.usage["cached"] += usage["prompt_tokens_details"]["cached_tokens"]
        self.usage["completion"] += usage["completion_tokens"]

    def as_json(self) -> Body:
        states = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": URL,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            **self.files,
            "created_at": self.moments["created_at"],
            "expires_at": self.moments["created_at"] + 86_400,
            **{f"{state}_at": self.moments.get(f"{state}_at") for state in states},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.usage["prompt"],
                "input_tokens_details": {"cached_tokens": self.usage["cached"]},
                "output_tokens": self.usage["completion"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.usage["prompt"] + self.usage["completion"],
            },
            "metadata": self.metadata,
        }


class Batches:
    """Files, and the batches that are made of them."""

    def __init__(self, complete: Complete, latency: float) -> None:
        """`latency` is how many seconds a batch takes."""
        self._complete = complete
        self._latency = latency
        self._files: dict[str, tuple[Body, bytes]] = {}
        self._batches: dict[str, Batch] = {}
        self._work: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many batches were begun."""
        return len(self._batches)

    def close(self) -> None:
        """Give up whatever is in work."""
        for task in self._work:
            task.cancel()

    async def handle(self, request: web.BaseRequest, path: str) -> Body | bytes | None:
        """What a request to /v1/files or /v1/batches is answered with; None where there is no such place."""
        match request.method, *path.strip("/").split("/"):
            case "POST", "files":
                return await self._upload(request)
            case "GET", "files", name, "content":
                return self._file(name)[1]
            case "POST", "batches":
                return self._begin(await request.read())
            case "GET", "batches", name:
                return self._batch(name).as_json()
            case "POST", "batches", name, "cancel":
                return self._cancel(self._batch(name))
        return None

    async def _upload(self, request: web.BaseRequest) -> Body:
        if not request.content_type.startswith("multipart/"):
            raise Refused(400, "A file comes as multipart/form-data.")
        fields: dict[str, tuple[str, bytes]] = {}
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name not in ("purpose", "file"):
                raise Refused(400, "Expected the fields purpose and file.")
            content = bytearray()
            while chunk := await part.read_chunk(1 << 16):
                content += chunk
                if len(content) > MOST_BYTES:
                    raise Refused(413, f"The file is larger than {MOST_BYTES} bytes.", param="file")
            fields[part.name] = (part.filename or "", bytes(content))
        if fields.keys() != {"purpose", "file"} or fields["purpose"][1] != b"batch":
            raise Refused(400, "Expected a file, and 'batch' for its purpose.", param="purpose")
        return self._store("batch", *fields["file"])

    def _store(self, purpose: str, name: str, content: bytes) -> Body:
        if sum(len(held) for _, held in self._files.values()) + len(content) > MOST_HELD:
            raise Refused(400, f"The files would be larger than {MOST_HELD} bytes together; POST /reset drops them.")
        described: Body = {
            "id": f"file-{secrets.token_hex(12)}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self._files[described["id"]] = described, content
        return described

    def _file(self, name: str) -> tuple[Body, bytes]:
        if name not in self._files:
            raise Refused(404, f"No such File object: {name[:100]}", param="id")
        return self._files[name]

    def _batch(self, name: str) -> Batch:
        if name not in self._batches:
            raise Refused(404, f"No batch found with id '{name[:100]}'.")
        return self._batches[name]

    def _begin(self, body: bytes) -> Body:
        try:
            asked = json.loads(body)
            wanted = asked["endpoint"], asked["completion_window"]
            file, metadata = asked["input_file_id"], asked.get("metadata")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused(400, f"The batch is not understood: {error}.") from None
        if wanted != (URL, "24h"):
            raise Refused(400, f"Expected {URL!r} for endpoint and '24h' for completion_window.", param="endpoint")
        self._file(str(file))
        batch = Batch(id=f"batch_{secrets.token_hex(12)}", input_file_id=file, metadata=metadata)
        self._batches[batch.id] = batch
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return batch.as_json()

    def _cancel(self, batch: Batch) -> Body:
        if batch.status not in ("validating", "in_progress"):
            raise Refused(409, f"Cannot cancel a batch with status '{batch.status}'.")
        batch.now("cancelling")
        return batch.as_json()

    async def _run(self, batch: Batch) -> None:
        """Check the file, answer it line by line, and put what came of it into files."""
        try:
            requests = await self._read(batch)
            if not batch.errors:
                await self._work_on(batch, requests)
        except Refused as error:  # no room for its files
            batch.errors = [NoBatch("server_error", str(error)).as_json]
        if batch.errors:
            batch.now("failed")

    async def _work_on(self, batch: Batch, requests: Mapping[str, Body]) -> None:
        batch.total = len(requests)
        if batch.status == "validating":
            batch.now("in_progress")
        loop = asyncio.get_running_loop()
        started, done, refused = loop.time(), [], []
        for number, (custom_id, body) in enumerate(requests.items(), 1):
            ahead = started + self._latency * number / len(requests) - loop.time()
            if ahead > PAUSE or number % TOGETHER == 0:
                await asyncio.sleep(max(0.0, ahead))
            if batch.status == "cancelling":
                break
            try:
                answer = await self._complete(body)
            except Refused as error:
                batch.failed += 1
                refused.append(_line(custom_id, error.status, error.body))
            else:
                batch.count(answer["usage"])
                done.append(_line(custom_id, 200, answer))
        cancelled = batch.status == "cancelling"
        if not cancelled:
            batch.now("finalizing")
        for name, lines in (("output", done), ("error", refused)):
            if lines:
                stored = self._store("batch_output", f"{batch.id}_{name}.jsonl", "".join(lines).encode())
                batch.files[f"{name}_file_id"] = stored["id"]
        batch.now("cancelled" if cancelled else "completed")

    async def _read(self, batch: Batch) -> dict[str, Body]:
        """The bodies of a batch's requests by their custom_id; what is wrong with them is noted in it."""
        requests: dict[str, Body] = {}
        lines = self._file(batch.input_file_id)[1].splitlines()
        if len(lines) > MOST_LINES:
            lines, batch.errors = [], [NoBatch("too_many_tasks", f"More than {MOST_LINES} requests.").as_json]
        elif not any(line.strip() for line in lines):
            batch.errors = [NoBatch("empty_file", "The file holds no request.").as_json]
        for number, line in enumerate(lines, 1):
            if number % TOGETHER == 0:
                await asyncio.sleep(0)
            try:
                if line.strip():
                    custom_id, body = _asked(line, number, batch, requests)
                    requests[custom_id] = body
            except NoBatch as error:
                if len(batch.errors) < MOST_ERRORS:
                    batch.errors.append(error.as_json)
        return requests


def _asked(line: bytes, number: int, batch: Batch, before: Mapping[str, Body]) -> tuple[str, Body]:
    """custom_id and body of a line; raises `NoBatch`."""
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        raise NoBatch("invalid_json_line", "This line is not parseable as valid JSON.", number) from None
    if not isinstance(asked, dict) or not isinstance(asked.get("custom_id"), str):
        raise NoBatch("missing_required_parameter", "Missing required parameter: 'custom_id'.", number)
    if asked["custom_id"] in before:
        raise NoBatch("duplicate_custom_id", f"The custom_id {asked['custom_id'][:60]!r} was used before.", number)
    if (asked.get("method"), asked.get("url")) != ("POST", URL):
        raise NoBatch("url_mismatch", f"Expected method 'POST' and url {URL!r}.", number)
    body = asked.get("body")
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise NoBatch("missing_required_parameter", "Missing required parameter: 'body', with a model.", number)
    batch.model = batch.model or body["model"]
    if body["model"] != batch.model:
        raise NoBatch("model_mismatch", "All requests of a batch must be to the same model.", number)
    return asked["custom_id"], body


def _line(custom_id: str, status: int, body: Body) -> str:
    """A line of an output or error file."""
    response = {"status_code": status, "request_id": f"req_{secrets.token_hex(8)}", "body": body}
    line = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": custom_id, "response": response, "error": None}
    return f"{json.dumps(line)}\n"
