"""What the simulated endpoint measures: tokens, what its prefix cache holds, its rate limits, and what it counted.

    prompt = Prompt.of("some-model", messages)
    prompt.tokens == count_tokens(messages)      # 3, and for each message 4 and a quarter of its bytes, rounded up
    cache.cached(prompt)                         # of those, what an earlier request left in the cache
    cache.keep(prompt, answer)                   # as a server keeps what it read and what it wrote

A tokenizer would cost more than all else together, and no test needs one: the rule is as long as real tokens are on
average, and anybody can compute it. Everything here is plain state without a clock; whoever asks says what time it is.
"""

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROMPT_TOKENS, MESSAGE_TOKENS, BYTES_A_TOKEN = 3, 4, 4
MOST_MESSAGES = 200_000
"""That a prefix cache holds, some 30 MB: a thousand debates of two contestants and ten turns take 24,000."""


def tokens_of(text: str) -> int:
    """A quarter of the text's bytes in UTF-8, rounded up."""
    return -(-(len(text) if text.isascii() else len(text.encode())) // BYTES_A_TOKEN)


def count_tokens(messages: Iterable[Mapping[str, Any]]) -> int:
    """Tokens of a prompt: 3 for itself, and for each message 4 and those of its content."""
    return PROMPT_TOKENS + sum(MESSAGE_TOKENS + tokens_of(message["content"] or "") for message in messages)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the cache sees it: for each message, that one and everything before it as one number."""

    chain: list[int]
    """Hashes of the model and the first 1, 2, ... messages; they hold within this process."""
    ends: list[int]
    """Tokens of the first 1, 2, ... messages."""

    @classmethod
    def of(cls, model: str, messages: Sequence[Mapping[str, Any]]) -> "Prompt":
        """Raises `UnicodeEncodeError` where a message is no text that could be sent."""
        chain, ends, link, end = [], [], hash(model), 0
        for message in messages:
            content = message["content"]
            link = hash((link, message["role"], content))
            end += MESSAGE_TOKENS + tokens_of(content)
            chain.append(link)
            ends.append(end)
        return cls(chain, ends)

    @property
    def tokens(self) -> int:
        return self.ends[-1] + PROMPT_TOKENS


class PrefixCache:
    """Which beginnings of prompts a server still has at hand, by model, the least recently used ones forgotten.

    Whole messages count, and the last one up to its last blank line (`prompt_of`), and of those whole blocks. How far
    else a message that is new begins like one that is known does not count, nor do a prompt's own 3 tokens: some of its
    end is always read anew, as in a real server.
    """

    def __init__(self, block: int, most: int = MOST_MESSAGES) -> None:
        self.block = block
        self.most = most
        self._known: OrderedDict[int, None] = OrderedDict()

    def cached(self, prompt: Prompt) -> int:
        """How many of the prompt's tokens need not be read."""
        for link, end in zip(reversed(prompt.chain), reversed(prompt.ends), strict=True):
            if link in self._known:
                return end - end % self.block
        return 0

    def keep(self, prompt: Prompt, answer: str | None) -> None:
        """A prompt was read, and `answer` written after it."""
        if answer:
            self._touch(hash((prompt.chain[-1], "assistant", answer)))
        for link in reversed(prompt.chain):  # so that a beginning is forgotten after what begins with it
            self._touch(link)
        while len(self._known) > self.most:
            self._known.popitem(last=False)

    def _touch(self, link: int) -> None:
        self._known[link] = None
        self._known.move_to_end(link)


class Window:
    """The requests of the last minute (or whatever is called one) to one model, and whether one more fits.

    What was let through at `t` counts until `t + seconds`. What is refused never counts.
    """

    def __init__(self, requests: int | None, tokens: int | None, seconds: float) -> None:
        self.requests_limit, self.tokens_limit, self.seconds = requests, tokens, seconds
        self.tokens = self.most_requests = self.most_tokens = 0
        self._admitted: deque[tuple[float, int]] = deque()

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until a request of so many tokens fits; 0: now. Infinity: it is larger than the limit."""
        self._forget(now)
        wait = 0.0
        if self.requests_limit is not None and len(self._admitted) >= self.requests_limit:
            wait = self._until(len(self._admitted) - self.requests_limit, now)
        if self.tokens_limit is not None and self.tokens + tokens > self.tokens_limit:
            if tokens > self.tokens_limit:
                return math.inf
            left = self.tokens
            for number, (_, used) in enumerate(self._admitted):
                left -= used
                if left + tokens <= self.tokens_limit:
                    return max(wait, self._until(number, now))
        return wait

    def admit(self, tokens: int, now: float) -> None:
        """Let a request through."""
        self._forget(now)
        self._admitted.append((now, tokens))
        self.tokens += tokens
        self.most_requests = max(self.most_requests, len(self._admitted))
        self.most_tokens = max(self.most_tokens, self.tokens)

    def headers(self, now: float) -> dict[str, str]:
        """What is left, and how long until more is, as rate-limit headers; none where there is no limit."""
        if self.requests_limit is None and self.tokens_limit is None:
            return {}
        self._forget(now)
        reset = duration(self._until(0, now) if self._admitted else 0.0)
        limits = (
            ("requests", self.requests_limit, len(self._admitted)),
            ("tokens", self.tokens_limit, self.tokens),
        )
        found = {}
        for name, limit, used in limits:
            if limit is not None:
                found[f"x-ratelimit-limit-{name}"] = str(limit)
                found[f"x-ratelimit-remaining-{name}"] = str(limit - used)
                found[f"x-ratelimit-reset-{name}"] = reset
        return found

    def _until(self, number: int, now: float) -> float:
        """Seconds until the oldest requests up to this one have left."""
        return self._admitted[number][0] + self.seconds - now

    def _forget(self, now: float) -> None:
        while self._admitted and self._admitted[0][0] + self.seconds <= now:
            self.tokens -= self._admitted.popleft()[1]


def duration(seconds: float) -> str:
    """As rate-limit headers write it: `120ms`, `1.5s`, `1m30s`."""
    ms = math.ceil(1000 * seconds)
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes}m{ms / 1000:g}s" if minutes else f"{ms / 1000:g}s"


BILLED = ("prompt_tokens", "cached_tokens", "completion_tokens")


@dataclass(kw_only=True)
class Stats:
    """What has come and gone, since the start or the last reset."""

    counts: Counter[str] = field(default_factory=Counter)
    by_status: Counter[str] = field(default_factory=Counter)
    """`none`: the connection ended without an answer, from either side."""
    by_model: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    faults: Counter[str] = field(default_factory=Counter)
    max_in_flight: int = 0
    _seen: set[int] = field(default_factory=set)

    def count(self, model: str, name: str, number: int = 1) -> None:
        self.counts[name] += number
        self.by_model[model][name] += number

    def ended(self, model: str, status: str) -> None:
        """A request is over: answered, or failed."""
        self.count(model, "requests")
        self.by_status[status] += 1

    def billed(self, model: str, prompt: int, cached: int, completion: int) -> None:
        """An answer that says what it used was sent."""
        for name, tokens in zip(BILLED, (prompt, cached, completion), strict=True):
            self.count(model, name, tokens)

    def answered(self, model: str, request: int) -> None:
        """A good answer was sent; `request` is a hash of what was asked: model, messages, seed and session.

        Two debates on one topic open with the same words, so a client that names its sessions (x-session-id) is not
        said to repeat itself where another session asks the same.
        """
        self.count(model, "answered")
        if request in self._seen:
            self.counts["repeats"] += 1
        self._seen.add(request)

    def as_json(self) -> dict[str, Any]:
        names = ("requests", "answered", *BILLED, "refused", "repeats")
        return {
            **{name: self.counts[name] for name in names},
            "max_in_flight": self.max_in_flight,
            "by_status": dict(self.by_status),
            "faults": dict(self.faults),
            "by_model": {model: dict(counts) for model, counts in self.by_model.items()},
        }
