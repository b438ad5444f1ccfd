"""`python -m arena.simulate --port 8900`: an endpoint that costs nothing, with limits, latency and faults on demand.

It speaks the OpenAI protocol over real HTTP, so that tests, benchmarks and users without a key exercise the real
client:

    [[endpoints]]
    name = "here"
    base_url = "http://127.0.0.1:8900/v1"

Any model is accepted, and answers as a simulated contestant (`arena/simulate_text.py`) or, asked as a judge, as a
simulated judge (`arena/simulate_judge.py`); the same request has the same answer. Under /v1 it has /chat/completions,
/models and, for batches, /files and /batches (`arena/simulate_batch.py`); /stats tells what it counted, and POST
/reset makes everything as it was at the start. Tokens, the prefix cache and the rate limits are those of
`arena/simulate_meter.py`, faults those of `arena/simulate_faults.py`. A request passes the limits, which hold for each
model; then meets its fault, if any; then takes its time. A client that has hung up by then is billed nothing. From
code:

    with serve(Settings(port=0)) as url: ...          # in a thread;  async with listening(...): in this loop
"""

import asyncio
import json
import math
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from arena.simulate_batch import Batches
from arena.simulate_dials import dials
from arena.simulate_faults import ALTERED, LONGEST_HANG, REFUSALS, Fault, Schedule, drip, hang, is_gone, load, reset
from arena.simulate_meter import BILLED, PrefixCache, Stats, Window, count_tokens, tokens_of
from arena.simulate_protocol import JSON, Answer, Refused, Request, completion, cut
from arena.simulate_text import Speakers, Style
from runs.records import content_seed
from runs.settings import Command, parse
from runs.threaded import in_a_thread
from topics.errors import InputError, command

__all__ = ["Server", "Settings", "count_tokens", "listening", "main", "serve"]

BATCHED = {name: f"batch_{name}" for name in BILLED}
"""What was billed to batches is counted by itself as well."""

PerMinute = Annotated[int, Field(ge=1, le=10**12)]


class Settings(Command, cli_prog_name="python -m arena.simulate"):
    """Serve simulated contestants and judges over the OpenAI protocol, at no cost."""

    host: str = "127.0.0.1"
    """where to listen"""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8900
    """0: a free one"""
    latency: Annotated[float, Field(ge=0, le=600)] = 0.0
    """seconds that an answer takes, on average"""
    latency_spread: Annotated[float, Field(ge=0, le=10)] = 0.0
    """its standard deviation, as a share of it"""
    requests_per_minute: PerMinute | None = None
    """of each model"""
    tokens_per_minute: PerMinute | None = None
    """of each model"""
    window: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """seconds in such a minute"""
    faults: Path | None = None
    """TOML file that says what goes wrong, and when"""
    models: list[str] | None = None
    """the only ones there are (default: any)"""
    block: Annotated[int, Field(ge=1, le=10**6)] = 16
    """tokens in a block of the prefix cache"""
    no_cache: bool = False
    """no prefix cache"""
    text: Style = "debate"
    """plain: canned sentences, which is cheaper"""
    no_schema: bool = False
    """refuse response_format, as some servers do"""
    batch_latency: Annotated[float, Field(ge=0, le=86_400)] = 0.5
    """seconds that a batch takes"""
    seed: int = 0
    """latencies and shares of faults are drawn from it"""


class Server:
    """The endpoint; `handle` is what aiohttp calls."""

    def __init__(self, settings: Settings) -> None:
        """Raises `InputError` where the file of faults cannot be used."""
        self.settings = settings
        self.faults = load(settings.faults) if settings.faults else ()
        self.speakers = Speakers(settings.text)
        self.in_flight = 0
        self.batches = Batches(self._complete_line, settings.batch_latency)
        self.reset()

    def reset(self) -> None:
        """As at the start: nothing counted, cached, limited, met or stored."""
        self.batches.close()
        self.batches = Batches(self._complete_line, self.settings.batch_latency)
        self.stats = Stats()
        self.cache = PrefixCache(self.settings.block)
        self.schedule = Schedule(self.faults, self.settings.seed)
        self.windows: dict[str, Window] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request."""
        path = request.path.removeprefix("/v1")
        if path == "/chat/completions" and request.path != path and request.method == "POST":
            return await self._complete(request)
        if path == "/stats" and request.method == "GET":
            return _json(self._stats())
        if path == "/reset" and request.method == "POST":
            self.reset()
            return _json({})
        if path == "/models" and request.method == "GET":
            return self._list()
        if request.path != path and (answer := await self._handle_batch(request, path)) is not None:
            return answer
        return _refusal(Refused(404, f"There is no {request.method} {request.path[:100]}."))

    async def _handle_batch(self, request: web.BaseRequest, path: str) -> web.Response | None:
        try:
            answer = await self.batches.handle(request, path)
        except Refused as refused:
            return _refusal(refused)
        except (web.HTTPRequestEntityTooLarge, ValueError) as error:  # no such body as it says
            return _refusal(Refused(400, str(error)))
        return web.Response(body=answer) if isinstance(answer, bytes) else _json(answer) if answer else None

    def _list(self) -> web.Response:
        if self.settings.models is None:  # a list would say that there are no others
            return _refusal(Refused(404, "Any model is accepted, so none is listed."))
        rows = [{"id": name, "object": "model", "owned_by": "simulated"} for name in self.settings.models]
        return _json({"object": "list", "data": rows})

    def _stats(self) -> dict[str, Any]:
        windows = self.windows.values()
        return self.stats.as_json() | {
            "batches": self.batches.count,
            **{name: self.stats.counts[name] for name in ("batch_requests", *BATCHED.values())},
            "in_flight": self.in_flight,
            "max_requests_in_window": max((window.most_requests for window in windows), default=0),
            "max_tokens_in_window": max((window.most_tokens for window in windows), default=0),
        }

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer or fail, and count which."""
        self.in_flight += 1
        self.stats.max_in_flight = max(self.stats.max_in_flight, self.in_flight)
        model, status = "", "none"
        try:
            asked = Request.read(await request.read())
            model = asked.model
            response = await self._answer(request, asked)
            if not is_gone(request):
                status = str(response.status)
            return response
        except Refused as refused:
            status = str(refused.status)
            return _refusal(refused)
        except web.HTTPRequestEntityTooLarge as error:
            status = "413"
            return _refusal(Refused(413, str(error)))
        finally:
            self.in_flight -= 1
            self.stats.ended(model, status)

    async def _answer(self, request: web.BaseRequest, asked: Request) -> web.StreamResponse:
        started = asyncio.get_running_loop().time()
        self._refuse(asked)
        window = self._window(asked.model)
        self._within(window, asked.model, asked.prompt.tokens, started)  # before a text is made for nothing
        answer = await self._say(asked)
        tokens = asked.prompt.tokens + answer.tokens
        self._within(window, asked.model, tokens, started)
        fault = self.schedule.draw(asked.model, asked.prompt.chain[-1])
        refused = fault.refused() if fault and fault.kind in REFUSALS else None
        if fault:
            self.stats.faults[fault.kind] += 1
        if refused and refused.status < 500:
            raise refused
        window.admit(tokens, started)
        cached = self._cached(asked)
        if fault and fault.kind == "reset":
            return reset(request)
        if fault and fault.kind == "hang":
            return await hang(request, fault.seconds or LONGEST_HANG)
        if self.settings.latency:
            await asyncio.sleep(started + self._latency(asked) - asyncio.get_running_loop().time())
        if refused:
            raise refused
        if is_gone(request):
            return web.Response()
        if fault and fault.kind in ALTERED:
            answer = ALTERED[fault.kind](answer)
        headers = window.headers(asyncio.get_running_loop().time())
        return await self._send(request, asked, answer, cached, fault, headers)

    async def _complete_line(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request that came in a batch; raises `Refused`."""
        asked = Request.of(body)
        self.stats.count(asked.model, "batch_requests")
        self._refuse(asked)
        answer = await self._say(asked)
        fault = self.schedule.draw(asked.model, asked.prompt.chain[-1])
        if fault:
            self.stats.faults[fault.kind] += 1
            if fault.kind in REFUSALS:
                raise fault.refused()
            if fault.kind in ALTERED:
                answer = ALTERED[fault.kind](answer)
            elif fault.kind != "slow_body":
                raise Refused(500, "The server had an error while processing the request.", type="server_error")
        cached = self._cached(asked)
        self._bill(asked, answer, cached)
        for name, tokens in zip(BATCHED.values(), (asked.prompt.tokens, cached, answer.tokens), strict=True):
            self.stats.count(asked.model, name, tokens)
        return completion(asked, answer, cached)

    def _refuse(self, asked: Request) -> None:
        """Refuse what this endpoint does not know."""
        models = self.settings.models
        try:
            dials(asked.model)
            if models is not None and asked.model not in models:
                raise ValueError("it is not among those that are served")
        except ValueError as error:
            message = f"The model `{asked.model[:100]}` does not exist: {error}."
            raise Refused(404, message, code="model_not_found") from None
        if asked.structured and self.settings.no_schema:
            message = "Unrecognized request argument supplied: response_format"
            raise Refused(400, message, param="response_format")

    def _window(self, model: str) -> Window:
        settings = self.settings
        if model not in self.windows:
            limits = settings.requests_per_minute, settings.tokens_per_minute
            self.windows[model] = Window(*limits, settings.window)
        return self.windows[model]

    def _within(self, window: Window, model: str, tokens: int, now: float) -> None:
        """Refuse a request that is one too many."""
        if not (wait := window.wait(tokens, now)):
            return
        self.stats.count(model, "refused")
        headers = window.headers(now)
        message = f"The request is larger than the limit of {window.tokens_limit} tokens."
        if wait < math.inf:
            headers |= {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(1000 * wait))}
            message = f"Rate limit reached; try again in {wait:.3f} s."
        raise Refused(429, message, type="requests", code="rate_limit_exceeded", headers=headers)

    async def _say(self, asked: Request) -> Answer:
        seed = asked.digest if asked.seed is None else asked.seed
        text = await self.speakers.answer(asked.model, asked.messages, seed)
        if asked.most is not None and tokens_of(text) > asked.most:
            return Answer(text=cut(text, asked.most), finish="length")
        return Answer(text=text)

    def _latency(self, asked: Request) -> float:
        settings = self.settings
        if not settings.latency_spread:
            return settings.latency
        drawn = content_seed("latency", settings.seed, asked.digest, asked.seed)
        return log_normal(settings.latency, settings.latency_spread, (drawn + 0.5) / 2**63)

    async def _send(
        self,
        request: web.BaseRequest,
        asked: Request,
        answer: Answer,
        cached: int,
        fault: Fault | None,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Put the answer into a body, send it, and count what is billed."""
        kind = fault.kind if fault else ""
        if kind == "error_body" and fault is not None:
            error = {"message": "The upstream server failed.", "type": "server_error", "param": None}
            return _json({"error": {**error, "code": fault.status or 500}})
        body = completion(asked, answer, cached)
        if kind == "no_choices":
            del body["choices"]
        written = json.dumps(body).encode()
        if kind == "invalid_json":
            return web.Response(body=written[: len(written) // 2], headers=JSON)
        response: web.StreamResponse
        if kind == "slow_body" and fault is not None:
            response = await drip(request, written, fault.seconds or 1.0)
            if is_gone(request):
                return response
        else:
            response = web.Response(body=written, headers={**JSON, **headers})
        self._bill(asked, answer, cached, request.headers.get("x-session-id"), good=kind != "no_choices")
        return response

    def _cached(self, asked: Request) -> int:
        return 0 if self.settings.no_cache else self.cache.cached(asked.prompt)

    def _bill(
        self, asked: Request, answer: Answer, cached: int, session: str | None = None, *, good: bool = True
    ) -> None:
        """Count an answer that was sent, and keep it in the cache."""
        self.cache.keep(asked.prompt, answer.text)
        self.stats.billed(asked.model, asked.prompt.tokens, cached, answer.tokens)
        if answer.good and good:
            self.stats.answered(asked.model, hash((asked.prompt.chain[-1], asked.seed, session)))


def log_normal(mean: float, spread: float, share: float) -> float:
    """The value below which a `share` of a log-normal distribution lies: of this mean, and `spread` times it for
    standard deviation."""
    variance = math.log1p(spread**2)
    return mean * math.exp(NormalDist(-variance / 2, math.sqrt(variance)).inv_cdf(share))


def _json(value: Any) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), headers=JSON)


def _refusal(refused: Refused) -> web.Response:
    body = json.dumps(refused.body).encode()
    return web.Response(status=refused.status, body=body, headers={**JSON, **refused.headers})


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[str]:
    """The endpoint, within this event loop; gives its base URL. Raises `InputError` where it cannot listen."""
    server = Server(settings)
    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.2)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            why = error.strerror or str(error)
            raise InputError(f"cannot listen on {where}: {why}; name another --port, or 0 for a free one") from None
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http://{host}:{runner.addresses[0][1]}/v1"
    finally:
        server.batches.close()
        await runner.cleanup()


@contextmanager
def serve(settings: Settings) -> Iterator[str]:
    """The endpoint, in a thread of its own, as long as the block lasts; gives its base URL."""
    with in_a_thread(listening(settings), "simulate") as url:
        yield url


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    asyncio.run(_until_stopped(settings))
    return 0


async def _until_stopped(settings: Settings) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with listening(settings) as url:
        print(f"simulated endpoint: {url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    raise SystemExit(main())
