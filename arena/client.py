"""The client: the one function that sends, and what can come back.

    client = Client(endpoint, key=key_of(endpoint))
    reply = await client.send(body, session=debate.id)     # or raises Fault

Every request to a language model goes through `send`, by the `openai` package, for APIs and vLLM alike. It asks once:
its own retries are switched off, since they know nothing of the other requests (`arena/line.py` does that). Whatever
goes wrong is one `Fault`, attributed here and nowhere else: what kind it is in the table `failures`, and what can be
done about it.

How it departs from `client.chat.completions.create`: the `post` below it has the same errors and time-outs, and costs a
third, since `create` transforms every message of a transcript anew; and the answer is taken as the JSON it is, and
looked at here, since an endpoint may answer anything.

A key is read from the environment or `.env` and kept in the client alone; where an answer or an error repeats it, it
is blotted out before anybody sees it.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from arena.endpoints import Endpoint
from arena.speech import presentable
from runs.records import FailureKind, content_seed
from topics.errors import InputError, one_line

if TYPE_CHECKING:
    import openai

BLOT = "[key]"
MOST_CHARACTERS = 4_000_000
"""Of an answer; what is longer has no place in a debate, and is an unparseable answer."""

Remedy = Literal["again", "slower", "repair", "never", "park"]
"""What can be done about a fault: ask again; ask again, and everybody more slowly; nobody is there, so wait for it to
be repaired; nothing, this request will never be answered; nothing, this endpoint answers nobody any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens that an answer is billed for."""

    prompt: int = 0
    cached: int = 0
    """Of the prompt's, those that were read from a cache."""
    completion: int = 0
    reasoning: int = 0
    """Of the completion's, those that are private."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            completion=self.completion + other.completion,
            reasoning=self.reasoning + other.reasoning,
        )

    @property
    def tokens(self) -> int:
        """Of the prompt and the completion."""
        return self.prompt + self.completion


NOTHING = Usage()

OVERLOADED = (503, 529)
"""Statuses of what did not begin to answer."""
UNSENT = ("ClientProxyConnectionError", "ConnectionTimeoutError")
"""Errors of connections that were never made, besides those of a connector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What an endpoint answered, as it came."""

    text: str
    reasoning: str | None
    """What it returned as private reasoning in a field of its own."""
    finish: str | None
    usage: Usage | None
    """None where it does not say."""


class Fault(Exception):
    """A request that was not answered."""

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        remedy: Remedy,
        *,
        pause: float | None = None,
        usage: Usage | None = NOTHING,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.remedy: Remedy = remedy
        self.pause = pause
        """Seconds that the endpoint asks to be left alone for."""
        self.usage = usage
        """What was billed all the same; None where that is not known: it was sent, and nobody said what it took."""


class Client:
    """Sends to one endpoint; made before the event loop runs, used and closed within it."""

    def __init__(self, endpoint: Endpoint, *, urls: tuple[str, ...] = (), key: str | None = None) -> None:
        self.endpoint = endpoint
        self.urls = urls or endpoint.base_url
        self._key = key
        self._openai: dict[str, openai.AsyncOpenAI] = {}

    async def send(self, body: Mapping[str, Any], *, session: str, attempt: int = 1) -> Reply:
        """Ask once. `session` (a debate's id) keeps requests on one base URL; a later attempt tries the next one.

        Raises `Fault`.
        """
        url = self.urls[(_place(session) + attempt - 1) % len(self.urls)]
        with self.faults():
            answer: Any = await self.at(url).post(
                "/chat/completions",
                cast_to=object,
                body=body,
                options={"headers": {"x-session-id": session}},
            )
            return self._reply(answer)

    def read(self, status: int, body: object) -> Reply:
        """The reply in an answer of a batch, with its status and body. Raises `Fault`; an error by its status is not
        billed, whatever that is, and one in a body of status 200 as it is elsewhere.
        """
        with self.faults():
            if status >= 400:
                raise self._status(status, body, {}, "an error without a message")
            return self._reply(body)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Whatever goes wrong at the endpoint, as one `Fault`, without the key."""
        import aiohttp
        import openai

        try:
            yield
        except Fault as fault:
            fault.args = (self.blotted(str(fault)),)
            raise
        except openai.APIStatusError as error:
            answered = self._status(error.status_code, error.body, error.response.headers, error.message)
            answered.usage = _billed(error.status_code)
            raise answered from None
        except openai.APITimeoutError as error:
            raise _no_answer(error) from None
        except openai.APIConnectionError as error:
            said = self.blotted(f"{error.message} {error.__cause__ or ''}".strip())
            raise Fault("transport", said, "repair", usage=_lost(error)) from None
        except (openai.APIError, aiohttp.ClientError, json.JSONDecodeError, UnicodeDecodeError) as error:
            said = self.blotted(f"{type(error).__name__}: {error}")
            raise Fault("unparseable", said, "again", usage=None) from None

    def blotted(self, text: str) -> str:
        """One bounded line of what the endpoint said, without the key."""
        return one_line(without(self._key, text), 500)

    async def close(self) -> None:
        """Let go of every connection."""
        made, self._openai = self._openai, {}
        for client in made.values():
            await client.close()

    def prepare(self) -> None:
        """Make what is slow to make, before anybody waits for it."""
        for url in self.urls:
            self.at(url)

    def at(self, url: str) -> "openai.AsyncOpenAI":
        """The connections to one base URL."""
        if url not in self._openai:
            import httpx2
            import openai

            seconds = self.endpoint.timeout_s
            most = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            self._openai[url] = openai.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=url,
                max_retries=0,
                timeout=httpx2.Timeout(seconds, connect=self.endpoint.connect_timeout_s),
                http_client=openai.DefaultAioHttpClient(limits=most),
            )
        return self._openai[url]

    def _reply(self, answer: Any) -> Reply:
        """The answer, looked at without trust: only that it is JSON is known, and not even of which shape."""
        if not isinstance(answer, dict):
            raise Fault("unparseable", f"the answer is no object but {type(answer).__name__}", "again", usage=None)
        if error := answer.get("error"):
            fault = self._status(_code_of(error), {"error": error}, {}, "an error in a body of status 200")
            fault.usage = _usage(answer.get("usage")) or _billed(_code_of(error))
            raise fault
        usage = _usage(answer.get("usage"))
        choice = _first(answer.get("choices"))
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Fault("unparseable", "the answer holds no choices", "again", usage=usage)
        finish, text, refusal = choice.get("finish_reason"), message.get("content"), message.get("refusal")
        if finish == "content_filter":
            raise Fault("content", "the endpoint's content filter blocked the answer", "never", usage=usage)
        if isinstance(refusal, str) and refusal and not text:
            raise Fault("content", f"the model refused: {refusal}", "never", usage=usage)
        reasoning = next((message[name] for name in ("reasoning_content", "reasoning") if message.get(name)), None)
        if not isinstance(text, str | None) or len(text or "") > MOST_CHARACTERS:
            raise Fault("unparseable", "the answer's content is no text of bearable length", "again", usage=usage)
        return Reply(
            text=without(self._key, text or ""),
            reasoning=without(self._key, reasoning) if isinstance(reasoning, str) else None,
            finish=one_line(presentable(finish), 50) if isinstance(finish, str) else None,
            usage=usage,
        )

    def _status(self, status: int, body: object, headers: Mapping[str, str], message: str) -> Fault:
        """The fault that a status, or an error's code, stands for."""
        detail: Any = body.get("error", body) if isinstance(body, dict) else {}
        code = str(detail.get("code") or detail.get("type") or "") if isinstance(detail, dict) else ""
        said = self.blotted(f"{status}: {detail.get('message') or message if isinstance(detail, dict) else message}")
        if status == 402 or "insufficient_quota" in code or "billing" in code:
            return Fault("rate", f"quota exhausted ({said})", "park")
        if status == 429:
            return Fault("rate", said, "slower", pause=pause_of(headers))
        if status in (401, 403):
            return Fault("auth", said, "park")
        if status == 404:
            return Fault("not_found", said, "never")
        if "context_length" in code or status == 413:
            return Fault("length", said, "never")
        if "content" in code:
            return Fault("content", said, "never")
        if status in (502, 503, 504, 529):
            return Fault("server", said, "slower", pause=pause_of(headers))
        if status in (408, 409, 425):
            return Fault("timeout" if status == 408 else "server", said, "again")
        return Fault("server", said, "again") if status >= 500 else Fault("refused", said, "never")


def without(key: str | None, text: str) -> str:
    """`text` in which the key, where there is one, is blotted out."""
    return text.replace(key, BLOT) if key else text


def _place(session: str) -> int:
    return content_seed("session", session)


def _no_answer(error: BaseException) -> Fault:
    """A time-out; one while connecting means that nobody is there."""
    if any("Connect" in name for name in _causes(error)):
        return Fault("transport", "no connection", "repair", usage=_lost(error))
    return Fault("timeout", "no answer in time", "slower", usage=None)


def _lost(error: BaseException) -> Usage | None:
    """What a request is billed for that has no answer: nothing where there never was a connection to send it by, be it
    to a proxy; else nobody knows, since a connection that breaks looks, further up, like one that was never made.
    """
    never = any(name.startswith("ClientConnector") or name in UNSENT for name in _causes(error))
    return NOTHING if never else None


def _billed(status: int) -> Usage | None:
    """What a request is billed for that was answered with an error: nothing where it was refused, as what is overloaded
    does too; where something broke on the way, the model may have answered before that.
    """
    return NOTHING if status < 500 or status in OVERLOADED else None


def _causes(error: BaseException) -> list[str]:
    """Names of an error's class and of those that it came from."""
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 10:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return causes


def _code_of(error: object) -> int:
    """The status in an error body, 500 where it names none."""
    code = error.get("code") if isinstance(error, dict) else None
    return int(code) if isinstance(code, int | str) and str(code).isdigit() and 400 <= int(code) < 600 else 500


def _first(choices: Any) -> dict[str, Any]:
    """The first choice, or nothing."""
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _usage(usage: Any) -> Usage | None:
    """What an answer says it took; None where it lacks one of the two numbers that are billed."""

    def count(value: Any, *names: str) -> int | None:
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, int) and 0 <= value < 2**40 else None

    prompt, completion = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    if prompt is None or completion is None:
        return None
    return Usage(
        prompt=prompt,
        cached=min(count(usage, "prompt_tokens_details", "cached_tokens") or 0, prompt),
        completion=completion,
        reasoning=count(usage, "completion_tokens_details", "reasoning_tokens") or 0,
    )


MOST_PAUSE = 3_600.0
"""Seconds; whoever asks for more is asked again after that."""


def pause_of(headers: Mapping[str, str]) -> float | None:
    """Seconds until an endpoint may be asked again, from its headers; None where they do not say.

    `retry-after-ms` and `retry-after` (seconds, or a date) say it; else the later one of the resets of those
    rate limits (`x-ratelimit-reset-requests`, `-tokens`) of which nothing remains.
    """
    found = next(_pauses(headers), None)
    return None if found is None else min(max(found, 0.0), MOST_PAUSE)


def _pauses(headers: Mapping[str, str]) -> Iterator[float]:
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        yield ms / 1000
    after = headers.get("retry-after")
    if (seconds := _number(after)) is not None:
        yield seconds
    elif after and (until := _date(after)) is not None:
        yield until
    resets = []
    for what in ("requests", "tokens"):
        reset = _duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        if reset is not None and headers.get(f"x-ratelimit-remaining-{what}", "0").strip() in ("0", ""):
            resets.append(reset)
    if resets:
        yield max(resets)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value == value and abs(value) < 1e9 else None


def _date(text: str) -> float | None:
    """Seconds until an HTTP date."""
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _duration(text: str) -> float | None:
    """Seconds of `1.5s`, `120ms`, `1m30s` or a bare number."""
    if (bare := _number(text)) is not None:
        return bare
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", text):
        return None
    return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text))


def key_of(endpoint: Endpoint) -> str | None:
    """The key of an endpoint from the environment or `.env`; `InputError` where the variable is not set."""
    from dotenv import dotenv_values

    name = endpoint.api_key_env
    if name is None:
        return None
    key = os.environ.get(name) or dotenv_values(Path(".env")).get(name)
    if not key:
        raise InputError(f"endpoint {endpoint.name!r} needs a key in the variable {name}; set it, or write it to .env")
    return key


def listed(endpoint: Endpoint, url: str, key: str | None) -> set[str] | None:
    """The models that a server says it has, asked before anything else; None where it does not say.

    `InputError` where nobody answers there, or the key is refused.
    """
    import openai

    with openai.OpenAI(
        api_key=key or "none", base_url=url, max_retries=1, timeout=endpoint.connect_timeout_s
    ) as client:
        try:
            found: Any = client.get("/models", cast_to=object)
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                variable = f"in {endpoint.api_key_env}" if endpoint.api_key_env else "that is missing: name api_key_env"
                raise InputError(f"endpoint {endpoint.name!r} refuses the key {variable}") from None
            return None
        except openai.APIConnectionError:
            raise InputError(
                f"endpoint {endpoint.name!r}: nobody answers at {url}; start it, or correct its base_url"
            ) from None
        except (openai.APIError, ValueError):
            return None
    rows = found.get("data") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        return None
    return {row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
