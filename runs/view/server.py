"""The server: who may ask at all, and the parts of the viewer put together. See `runs/view/__init__.py`."""

import asyncio
import hmac
import platform
import re
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic_settings import CliPositionalArg
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runs.ballots import name_of
from runs.run import NEWEST, OUT, find
from runs.settings import Command
from runs.threaded import in_a_thread
from runs.view.booth import Booth, Sealing
from runs.view.lengths import Lengths
from runs.view.pages import Pages, application
from runs.view.search import Index
from runs.view.watch import Watch
from topics.errors import InputError

LOCAL = ("127.0.0.1", "localhost", "::1")
LEAST_TOKEN = 16
MOST_BODY = 100_000
"""Bytes of a request's body."""
BODY_S = 10.0
"""Seconds in which it must come."""
SWITCH_S = 0.0005
"""How long a thread keeps the interpreter from one that answers, in the command's own process; Python's own 5 ms add up
to most of an answer while the index is built."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send `Origin: null` from our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Settings(Command, cli_prog_name="python -m runs.view"):
    """Show a run as a local web page, live while it goes on; people can judge its debates there, blind."""

    run: CliPositionalArg[str] = NEWEST
    """a run's folder or id"""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8700
    """0: a free one"""
    host: str = "127.0.0.1"
    """where to listen; any other address takes a token"""
    token: str = ""
    """of at least 16 characters (default: made up, and printed, where one is needed)"""
    name: str = ""
    """of the person who judges here (default: each says one)"""
    out: Path = OUT
    """where runs are made"""


# Who may ask


class Guard:
    """Stands before the application: lets in whom it may concern, and says on every answer what a browser may do."""

    def __init__(self, app: ASGIApp, *, host: str, token: str) -> None:
        """Without a `token`, whoever reaches the server may ask."""
        self.app = app
        self.token = token
        self.open = host not in LOCAL
        self.names = {*LOCAL, host.lower(), *(_own_names() if self.open else ())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)

        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                private = scope["path"].startswith("/judge") or self.token
                headers.setdefault("Cache-Control", "no-store" if private else "no-cache")
            await send(message)

        try:
            response = self._refused(request) or await self._signed_in(request)
            if response is None and request.method == "POST":
                receive, response = await _whole(receive)
            await (response or self.app)(scope, receive, sent)
        except asyncio.CancelledError:  # the server ends, and waits no longer
            if not begun:
                await _told(503, "This server is ending.", last=True)(scope, receive, sent)

    def _refused(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD", "POST"):
            return _told(405, "GET and POST are all there is.")
        if not self._is_ours(request.headers.get("host", "")):
            return _told(400, "This server has another name.")
        if request.method == "POST" and not _is_same_origin(request):
            return _told(403, "That came from a page of somebody else's.")
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a `Host` is a name of this server; any address is where it listens on others than its own."""
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
        name = name.strip("[]").lower()
        if port and not port.isdigit():
            return False
        return name in self.names or (self.open and _is_address(name))

    async def _signed_in(self, request: Request) -> Response | None:
        """None for who bears the token; who brings it in a URL is given a cookie, and led on without it."""
        if not self.token:
            return None
        port = request.url.port or 80  # a cookie is for all ports of a host
        cookie = f"token-{port}"
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = request.cookies.get(cookie, "")
        if self._is_token(given) or (scheme.lower() == "bearer" and self._is_token(bearer)):
            return None
        if request.method == "GET" and self._is_token(request.query_params.get("token", "")):
            response = RedirectResponse("/", 303)
            # not strict: links from elsewhere would open nothing. POSTs are held to our pages by other means
            response.set_cookie(cookie, self.token, httponly=True, samesite="lax")
            return response
        return _told(401, "A token is needed: open the address that `runs.view` printed.")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _told(status: int, line: str, *, last: bool = False) -> Response:
    """A line; the `last` one on a connection, where a body was not read to its end."""
    return PlainTextResponse(f"{line}\n", status, headers={"Connection": "close"} if last else None)


def _own_names() -> set[str]:
    """What this machine may be called by others."""
    name = platform.node().lower()
    return {f"{own}{domain}" for own in {name, name.partition(".")[0]} - {""} for domain in ("", ".local")}


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin(request: Request) -> bool:
    """Whether a browser says that a page of ours sent it; who says nothing of it is none, and still needs our form."""
    site, origin = request.headers.get("sec-fetch-site", "same-origin"), request.headers.get("origin")
    ours = f"{request.url.scheme}://{request.headers.get('host', '')}"
    return site == "same-origin" and origin in (None, ours)


async def _whole(receive: Receive) -> tuple[Receive, Response | None]:
    """The body of a request, read up to a bound, and given on as it came; or what is told where it did not."""
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return receive, _told(400, "That was cut off.", last=True)
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MOST_BODY:
                    return receive, _told(413, f"That is more than {MOST_BODY:,} bytes.", last=True)
    except TimeoutError:
        return receive, _told(408, "That took too long.", last=True)

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return again, None


# The server


@contextmanager
def bound(host: str, port: int) -> Iterator[list[Any]]:
    """Sockets that listen, as long as the block lasts; who comes before they are served waits.

    Raises `InputError` where nothing can listen there.
    """

    async def made() -> list[Any]:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
        copies = [socket.dup() for socket in server.sockets]
        server.close()
        return copies

    with ExitStack() as stack:
        try:
            with ThreadPoolExecutor(1) as apart:  # whoever calls may be in an event loop of their own
                sockets = apart.submit(lambda: asyncio.run(made())).result()
            for socket in sockets:
                stack.callback(socket.close)
                socket.listen()
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            line = f"cannot listen on {host}:{port}: {why}; name another --port, or 0 for a free one"
            raise InputError(line) from None
        yield sockets


@asynccontextmanager
async def listening(app: ASGIApp, host: str, sockets: list[Any]) -> AsyncIterator[str]:
    """The server, within this event loop, on sockets that are bound; gives its base URL."""
    import uvicorn

    config = uvicorn.Config(
        app, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2, timeout_keep_alive=15,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        await serving


@contextmanager
def serve(settings: Settings) -> Iterator[str]:
    """The viewer, in threads of its own, as long as the block lasts; gives the URL to open, with the token if any.

    Raises `InputError` where there is no such run, the token is too short, or nothing can listen there; most of it
    before the run is read, which takes seconds for a large one.
    """
    token = _token(settings)
    if settings.name:
        name_of(settings.name)
    if not settings.host.strip():
        raise InputError("--host '' is no address; expected this machine's, or 0.0.0.0 for all that it has")
    folder = find(settings.run, out=settings.out)
    with ExitStack() as stack:
        sockets = stack.enter_context(bound(settings.host, settings.port))
        watch = stack.enter_context(Watch(folder=folder, out=settings.out))
        index = stack.enter_context(Index(watch.store))
        lengths = stack.enter_context(Lengths(watch))
        sealing = stack.enter_context(Sealing(folder))
        pages = Pages(watch, index, lengths)
        booth = Booth(watch, pages, sealing, person=settings.name)
        app = Guard(application(pages, *booth.routes()), host=settings.host, token=token)
        url = stack.enter_context(in_a_thread(listening(app, settings.host, sockets), "view"))
        yield f"{url}?token={token}" if token else url
    if sealing.waits:
        print(f"note: votes stand in the journal alone until this is viewed again: {sealing.waits}", file=sys.stderr)


def _token(settings: Settings) -> str:
    """What requests must bear; nothing where the server is this machine's own, and none was asked for."""
    if settings.token and len(settings.token) < LEAST_TOKEN:
        raise InputError(f"--token has {len(settings.token)} characters; expected at least {LEAST_TOKEN}")
    if not re.fullmatch(r"[A-Za-z0-9._~-]*", settings.token):  # what means itself in an address and in a cookie
        raise InputError("--token has characters that an address cannot hold; expected letters, digits, - _ . ~")
    return settings.token or ("" if settings.host in LOCAL else secrets.token_urlsafe(24))
