"""The gate: through which every request to one (endpoint, model) passes, and where it waits for its time.

    gate = Gate("big/gpt", Limits(in_flight=64, adaptive=True, tokens_per_minute=90_000))
    with await gate.enter(tokens=1_200, level=3) as place:      # an upper bound of what it will use; Parked
        reply = await send(body)
        place.done(tokens=reply.usage.total)                    # or pushed_back, unreachable, failed: exactly one

It keeps what an endpoint publishes (requests and tokens a minute) and finds out what it does not: the cap on requests
in flight halves when the endpoint pushes back and grows by one after as many successes as it is wide, as TCP does it.
A vLLM server queues without a word, so its cap is fixed. One pause is shared by all after a 429; a breaker sends one
probe at a time to a server that is gone; a parked gate lets nobody through any more.

Who waits, waits in order of level: a debate that is nearly finished before one that has not begun, so that few are
open at once; and the other way round when none is left to begin, for then the longest way to go decides when the run
ends. Only one at a time is let to the two windows, and it keeps its place before them, however large it is.

Never more than a limit in any minute, as the *server* counts it, asks for care in two places. It counts arrivals and
not our starts, and a slow connection brings two of them closer together: so the minute is one of 61 seconds here. And
it may count tokens when a request arrives or when it is answered: so a request weighs from its start until a minute
after its answer, first by its estimate, then by what it used. (A server that charges its own estimate and never
settles it is out of reach of this, and says so by a 429.)

How it departs from the textbook: requests a minute are asyncio-throttle's, an exact window of starts, which polls;
therefore one waits in it, never all. The rest is one future for each that waits, one timer for all of them, and
neither where nobody has to wait.
"""

import asyncio
import math
import random
import time
import warnings
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Protocol, Self

from asyncio_throttle.throttler import Throttler

PERIOD = 61.0
"""Seconds that a minute is taken for."""
STREAK = 5
"""Requests in a row that reach nobody, until the breaker opens."""
FIRST, MOST = 1.0, 60.0
"""Seconds that a pause of our own begins with and grows to, by doubling; intervals between probes as well."""
SPREAD = 0.2
"""Share of a shared pause over which, after it, as many as the cap allows are let go one after another..."""
MOST_SPREAD = 5.0
"""... and its most seconds."""

TICK = 1e-4
"""Seconds of the shortest sleep: a rest that is lost in rounding must not wake the gate for ever."""


class Clock(Protocol):
    """What the gate measures time by; all but the window of requests."""

    def now(self) -> float:
        """Monotonic seconds."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class RealClock:
    """The clock of this machine."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one model at an endpoint may be asked."""

    in_flight: int
    """Most requests at once."""
    adaptive: bool
    """Whether the cap halves and grows (an API), or stays (vLLM)."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Parked(Exception):
    """The endpoint answers nobody any more; says why."""


class Pass:
    """A place among the requests in flight, to be closed exactly once by what came of the request.

    Left without an outcome by an exception (a cancellation), it frees the place and keeps its tokens in the window,
    since the server may have counted them. `RuntimeError` where it is closed twice, or left in silence.
    """

    __slots__ = ("_gate", "_is_open", "_round", "_tokens")

    def __init__(self, gate: "Gate", tokens: int, round_: int) -> None:
        self._gate, self._tokens, self._round, self._is_open = gate, tokens, round_, True

    def done(self, tokens: int) -> None:
        """It was answered, and used so many `tokens`; 0 where the answer does not say, which keeps the estimate."""
        self._gate._leave(self, tokens or None)
        self._gate._heard()
        self._gate._grow(self)
        self._gate._pump()

    def failed(self, tokens: int = 0) -> None:
        """Something else was answered, so the server lives; `tokens` as in `done`."""
        self._gate._leave(self, tokens or None)
        self._gate._heard()
        self._gate._pump()

    def pushed_back(self, pause: float | None, shared: bool) -> None:
        """The endpoint has too much to do. The cap halves, where it adapts.

        `shared` (a 429) pauses everybody, for as many seconds as the endpoint asks or for some of our own. Else (a
        time-out) nobody is paused; whether this request itself rests before it enters again is its sender's affair.
        """
        self._gate._leave(self, 0 if shared else None)  # what is refused is not counted; a time-out may have been
        self._gate._heard()
        self._gate._push_back(self, pause, shared)
        self._gate._pump()

    def unreachable(self) -> None:
        """Nobody answered: refused, or reset."""
        self._gate._lose(was_probe=self._gate._leave(self, None))
        self._gate._pump()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            self._gate._leave(self, None)
            self._gate._pump()
            if kind is None:
                raise RuntimeError(f"a pass of {self._gate.name!r} was left without an outcome")

    def __del__(self) -> None:
        if self._is_open:
            warnings.warn(f"a pass of {self._gate.name!r} was never closed; its place is lost", stacklevel=2)


class _Waiter:
    __slots__ = ("admitted", "ticket", "tokens")

    def __init__(self, tokens: int, ticket: int) -> None:
        self.tokens, self.ticket = tokens, ticket
        self.admitted: asyncio.Future[Pass | None] = asyncio.get_running_loop().create_future()
        """With its pass, or with None by a gate that was parked."""


class Gate:
    """The gate of one model at one endpoint. Its attributes without an underscore are there to be shown."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        *,
        clock: Clock | None = None,
        seed: int = 0,
        tail: Callable[[], bool] = lambda: False,
        _period: float = PERIOD,
    ) -> None:
        """`tail` tells whether no debate is left to begin."""
        self.name = name
        self.limits = limits
        self.cap = limits.in_flight
        self.in_flight = 0
        self.waiting = 0
        self.paused_until = 0.0
        """On the gate's clock."""
        self.parked: str | None = None
        self.is_down = False
        """The breaker is open: only a probe is let through."""
        self.clock = clock or RealClock()
        self._random = random.Random(seed)
        self._tail = tail
        rate, tokens = limits.requests_per_minute, limits.tokens_per_minute
        self._throttler = None if rate is None else Throttler(rate, period=_period)
        self._window = None if tokens is None else _Window(tokens, _period)
        self._queues: dict[int, deque[_Waiter]] = {}
        self._head: _Waiter | None = None  # before the window of tokens, and to be let through before anybody else
        self._tickets = count()
        self._is_starting = False  # one is before the window of requests
        self._acquiring: asyncio.Future[None] | None = None  # its wait there
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = 0.0
        self._round = self._pushes = self._successes = self._lost = self._failed_probes = 0
        self._next_start = self._spread_until = self._gap = self._probe_at = 0.0
        self._probe: Pass | None = None

    async def enter(self, tokens: int, level: int) -> Pass:
        """Wait until a request of at most `tokens` may be sent, by a debate that is `level` turns old.

        One that is larger than the limit goes when the window is empty. Raises `Parked`, also while waiting.
        """
        ticket = next(self._tickets)
        while True:
            if self.parked is not None:
                raise Parked(self.parked)
            place = self._admit(tokens) if self._is_free(tokens) else await self._wait(tokens, level, ticket)
            if self._throttler is not None and not self._is_held(place):
                await self._start(place, self._throttler)
            if not self._is_held(place):
                place._round = self._round
                self._is_starting = False
                self._pump()
                return place
            self._take_back(place)

    def park(self, reason: str) -> None:
        """Let nobody through any more; what is in flight may still be answered."""
        if self.parked is not None:
            return
        self.parked = reason
        waiters = [waiter for queue in self._queues.values() for waiter in queue]
        for waiter in [*waiters, self._head] if self._head else waiters:
            if not waiter.admitted.done():
                self.waiting -= 1
                waiter.admitted.set_result(None)
        self._queues, self._head = {}, None
        if self._acquiring is not None:
            self._acquiring.cancel()
        self._pump()

    # ── entering ─────────────────────────────────────────────────────────────────────────────────

    def _is_free(self, tokens: int) -> bool:
        """Whether nobody waits, and nothing is to be waited for."""
        now = self.clock.now()
        return not self.waiting and self._opens_at() <= now and self._fits_at(tokens, now) <= now

    def _admit(self, tokens: int) -> Pass:
        """Take a place; everything that could stand against it was looked at."""
        place = Pass(self, tokens, self._round)
        self.in_flight += 1
        self._is_starting = self._throttler is not None
        if self._window is not None:
            self._window.held += tokens
        if self.is_down:
            self._probe = place
        if self._spread_until and (now := self.clock.now()) < self._spread_until:
            self._next_start = now + self._random.uniform(0, 2 * self._gap)
        return place

    async def _wait(self, tokens: int, level: int, ticket: int) -> Pass:
        waiter = _Waiter(tokens, ticket)
        queue = self._queues.setdefault(level, deque())
        insort(queue, waiter, key=lambda other: other.ticket)  # the last, unless it had been admitted before
        self.waiting += 1
        self._pump()
        try:
            place = await waiter.admitted
        except BaseException:
            self._withdraw(waiter)
            raise
        if place is None:
            raise Parked(self.parked)
        return place

    def _withdraw(self, waiter: _Waiter) -> None:
        """A waiter was cancelled, perhaps just after it was admitted."""
        if waiter.admitted.done() and not waiter.admitted.cancelled():
            if (place := waiter.admitted.result()) is not None:
                self._take_back(place)
            return
        self.waiting -= 1
        if waiter is self._head:
            self._head = None
        self._pump()  # its queue passes it over

    async def _start(self, place: Pass, throttler: Throttler) -> None:
        """Wait for the window of requests, last of all, since that counts when a request starts."""
        self._acquiring = asyncio.ensure_future(throttler.acquire())  # type: ignore[no-untyped-call]
        try:
            await asyncio.wait([self._acquiring])  # so that parking can cancel the one without the other
        except BaseException:
            self._acquiring.cancel()
            self._take_back(place)
            raise
        finally:
            self._acquiring = None

    def _is_held(self, place: Pass) -> bool:
        """Whether something came between a request's admission and its start."""
        paused = self.clock.now() < self.paused_until
        return paused or self.parked is not None or (self.is_down and place is not self._probe)

    def _take_back(self, place: Pass) -> None:
        """Undo an admission; nothing was sent."""
        self._is_starting = False
        self._leave(place, 0)
        self._pump()

    # ── who is next, and when ────────────────────────────────────────────────────────────────────

    def _pump(self) -> None:
        """Let through whoever may go now, and look again when the next one may."""
        while self.waiting:
            at, now = self._opens_at(), self.clock.now()
            if at <= now:  # nobody is chosen before it is time, for a better one may come
                self._head = self._head or self._pick()
                if self._head is None:
                    break
                at = self._fits_at(self._head.tokens, now)
            if at > now:
                return self._wake_at(at)
            head, self._head = self._head, None
            assert head is not None
            if not head.admitted.done():  # else it was cancelled, and will say so
                self.waiting -= 1
                head.admitted.set_result(self._admit(head.tokens))
        self._wake_at(math.inf)

    def _opens_at(self) -> float:
        """When the next one may go, whoever it is; infinity where no clock can tell."""
        if self.in_flight >= self.cap or self._is_starting or (self.is_down and self._probe):
            return math.inf
        return max(self._next_start, self._probe_at) if self.is_down else self._next_start

    def _fits_at(self, tokens: int, now: float) -> float:
        return -math.inf if self._window is None else self._window.fits_at(tokens, now)

    def _pick(self) -> _Waiter | None:
        """The first waiter of the highest level, of the lowest one in the tail of a run."""
        while self._queues:
            level = (min if self._tail() else max)(self._queues)
            queue = self._queues[level]
            while queue:
                if not (waiter := queue.popleft()).admitted.done():
                    return waiter
            del self._queues[level]
        return None

    def _wake_at(self, at: float) -> None:
        if self._alarm is not None and (at == math.inf or at < self._alarm_at):
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None and at < math.inf:  # one that rings too early looks again
            self._alarm, self._alarm_at = asyncio.ensure_future(self._ring(at)), at

    async def _ring(self, at: float) -> None:
        await self.clock.sleep(max(at - self.clock.now(), TICK))
        self._alarm = None
        self._pump()

    # ── what came of a request ───────────────────────────────────────────────────────────────────

    def _leave(self, place: Pass, used: int | None) -> bool:
        """Free a place; `used` tokens stay in the window, or as many as were reserved where nobody knows.

        Returns whether it was the probe.
        """
        if not place._is_open:
            raise RuntimeError(f"a pass of {self.name!r} was closed twice")
        place._is_open = False
        self.in_flight -= 1
        if self._window is not None:
            self._window.settle(place._tokens, place._tokens if used is None else used, self.clock.now())
        was_probe = place is self._probe
        if was_probe:
            self._probe = None
        return was_probe

    def _heard(self) -> None:
        """The server lives."""
        self._lost, self.is_down, self._probe = 0, False, None

    def _grow(self, place: Pass) -> None:
        """Widen the cap by one for as many successes as it is wide, of requests that were sent under it."""
        if place._round != self._round:
            return
        self._pushes = 0
        self._successes += 1
        if self.limits.adaptive and self._successes >= self.cap:
            self.cap, self._successes = min(self.cap + 1, self.limits.in_flight), 0

    def _push_back(self, place: Pass, pause: float | None, shared: bool) -> None:
        """Halve the cap, unless that has happened since `place` was taken; pause."""
        is_news = place._round == self._round
        if is_news:
            self._round, self._pushes, self._successes = self._round + 1, self._pushes + 1, 0
            if self.limits.adaptive:
                self.cap = max(1, self.cap // 2)
        if not shared:
            return
        now = self.clock.now()
        if pause is not None and pause > 0:  # "in no time" is no answer to too many requests
            self._pause(now, pause)
        elif is_news or now >= self.paused_until:
            self._pause(now, self._backoff(max(1, self._pushes)))

    def _pause(self, now: float, seconds: float) -> None:
        """Pause everybody, for the longest that is asked; then let them go one after another, at random distances."""
        if now + seconds > self.paused_until:
            self.paused_until = now + seconds
            spread = min(SPREAD * seconds, MOST_SPREAD)
            self._spread_until, self._gap = self.paused_until + spread, spread / self.cap
            self._next_start = self.paused_until + self._random.uniform(0, 2 * self._gap)

    def _lose(self, *, was_probe: bool) -> None:
        """Nobody answered: count, and open the breaker or leave it open for longer."""
        if was_probe:
            self._failed_probes += 1
        elif self.is_down:
            return  # it was sent before the breaker opened, and tells nothing new
        else:
            self._lost += 1
            if self._lost < STREAK:
                return
            self.is_down, self._failed_probes = True, 0
        self._probe_at = self.clock.now() + self._backoff(self._failed_probes + 1)

    def _backoff(self, times: int) -> float:
        """Seconds to wait after so many failures: doubling up to a bound, then up to a half less by chance."""
        return min(MOST, FIRST * 2.0 ** min(times - 1, 30)) * self._random.uniform(0.5, 1.0)


class _Window:
    """The tokens of the last minute: of requests in flight by estimate, of answered ones by what they used."""

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.held = 0
        self._period = period
        self._answered: deque[tuple[float, int]] = deque()

    def fits_at(self, tokens: int, now: float) -> float:
        """When to look again whether so many more fit; minus infinity where they do, infinity before an answer."""
        while self._answered and self._answered[0][0] <= now:
            self.held -= self._answered.popleft()[1]
        if self.held + tokens <= self.limit or not self.held:
            return -math.inf
        return self._answered[0][0] if self._answered else math.inf

    def settle(self, reserved: int, used: int, now: float) -> None:
        """A request was answered."""
        self.held += used - reserved
        if used:
            self._answered.append((now + self._period, used))
