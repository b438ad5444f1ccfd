"""A batch API for tests, over real HTTP: what it tells of its batches and answers to questions is the test's to say."""

import asyncio
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Row = dict[str, Any]


def said(text: str, prompt: int = 100, completion: int = 10) -> Row:
    """A line's answer: a completion."""
    message = {"role": "assistant", "content": text}
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
    }
    return {"response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


def refused(status: int, message: str, **error: Any) -> Row:
    """A line's answer: an error."""
    return {"response": {"status_code": status, "body": {"error": {"message": message, **error}}}, "error": None}


def expired(code: str = "batch_expired") -> Row:
    return {"response": None, "error": {"code": code, "message": "This request could not be executed in time."}}


def echo(batch: int, asked: Row) -> Row | None:
    """The last message, in capitals."""
    return said(asked["body"]["messages"][-1]["content"].upper())


@dataclass
class Provider:
    """One endpoint; everything it was sent is kept."""

    answer: Callable[[int, Row], Row | None] = echo
    """To a question of the n-th batch (from 0); None to leave it out."""
    status: Callable[[int], str] = lambda batch: "completed"
    """In which the n-th batch ends."""
    errors: Callable[[int], list[Row]] = lambda batch: []
    """What was wrong with the n-th batch."""
    meet: Callable[[str, str], web.Response | None] = lambda method, path: None
    """In place of an answer to a request."""
    most_bytes: int = 10**9
    """Of a file."""
    lists: bool = True
    """Whether GET /batches is known."""
    files: dict[str, bytes] = field(default_factory=dict)
    batches: list[Row] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Until then, batches are in progress."""
    answered: Counter[str] = field(default_factory=Counter)
    """Answers that were billed, by custom_id."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    name: str = field(default_factory=lambda: secrets.token_hex(4))

    def asked(self, batch: int) -> list[Row]:
        """The lines of the n-th batch."""
        return [json.loads(line) for line in self.files[self.batches[batch]["input_file_id"]].splitlines()]

    def looked(self) -> bool:
        """Whether somebody has looked at a batch."""
        return any(method == "GET" and path.startswith("/batches/") for method, path in self.requests)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        method, path = request.method, request.path.removeprefix("/v1")
        self.requests.append((method, path))
        if (instead := self.meet(method, path)) is not None:
            return instead
        match method, *path.strip("/").split("/"):
            case "POST", "files":
                parts: Any = await request.multipart()
                form = {part.name: await _whole(part) async for part in parts}
                if len(form["file"]) > self.most_bytes:
                    return web.Response(status=413)
                assert form["purpose"] == b"batch"
                return web.json_response({"id": self._store(form["file"]), "object": "file"})
            case "POST", "batches":
                asked = json.loads(await request.read())
                assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
                return web.json_response(self.begin(asked["input_file_id"]))
            case "GET", "batches" if self.lists:
                return web.json_response({"object": "list", "data": self.batches[::-1], "has_more": False})
            case "GET", "batches", name:
                found = [number for number, batch in enumerate(self.batches) if batch["id"] == name]
                return web.json_response(self._look(found[0])) if found else _missing()
            case "GET", "files", name, "content" if name in self.files:
                return web.Response(body=self.files[name])
        return _missing()

    def _store(self, content: bytes) -> str:
        id_ = f"file-{self.name}-{len(self.files)}"
        self.files[id_] = content
        return id_

    def begin(self, file: str) -> Row:
        batch = {"id": f"batch_{self.name}_{len(self.batches)}", "status": "validating", "input_file_id": file}
        self.batches.append(batch)
        return batch

    def _look(self, number: int) -> Row:
        batch = self.batches[number]
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            if self.released.is_set():
                self._end(number, batch)
        return batch

    def _end(self, number: int, batch: Row) -> None:
        batch["status"] = self.status(number)
        batch["errors"] = {"object": "list", "data": self.errors(number)}
        if batch["status"] == "failed":
            return
        lines: dict[str, list[Row]] = {"output_file_id": [], "error_file_id": []}
        for asked in reversed(self.asked(number)):  # the order of answers is nobody's promise
            if (answer := self.answer(number, asked)) is not None:
                good = (answer["response"] or {}).get("status_code") == 200
                self.answered.update([asked["custom_id"]] * good)
                lines["output_file_id" if good else "error_file_id"].append(answer | {"custom_id": asked["custom_id"]})
        for name, rows in lines.items():
            if rows:
                written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                batch[name] = self._store(written.encode())
        total = len(self.asked(number))
        batch["request_counts"] = {"total": total, "completed": len(lines["output_file_id"]), "failed": 0}


async def _whole(part: Any) -> bytes:
    content = bytearray()
    while chunk := await part.read_chunk(1 << 20):  # `read` has a bound of its own
        content += chunk
    return bytes(content)


def _missing() -> web.Response:
    return web.json_response({"error": {"message": "no such thing", "code": None}}, status=404)


@contextmanager
def provided(provider: Provider, *, released: bool = True) -> Iterator[Provider]:
    """Serve it in a thread; its batches end at the first look, once it is released."""
    if released:
        provider.released.set()
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(provider.handle), shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield provider
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
