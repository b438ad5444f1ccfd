"""The gate: what it must never let through, whom it must never forget, and who goes first.

Time is virtual: it jumps to whatever comes next as soon as everybody sleeps, and it is an error if nothing ever comes.
"""

import asyncio
import gc
import selectors
import time
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena.gate import MOST, PERIOD, STREAK, Gate, Limits, Parked, Pass

MINUTE = 60.0
SOON = 1e-6


class Leap(selectors.DefaultSelector):
    """Waits for nothing but lets `now` leap."""

    now = 1000.0
    idle = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen")
        before, self.now = self.now, self.now + max(0.0, timeout)
        self.idle = 0 if self.now > before else self.idle + 1
        assert self.idle < 10_000, "somebody spins"
        assert self.now < 100_000, "this takes a day"
        return super().select(0)


class Virtual:
    """The clock of a virtual loop; not its zero, so that who reads another clock is found out."""

    def now(self) -> float:
        return asyncio.get_running_loop().time() - 900.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


CLOCK = Virtual()


def virtually(main: Coroutine[Any, Any, Any]) -> Any:
    """Run in virtual time; whatever a task or a callback raises unseen is an error."""
    unseen: list[dict[str, Any]] = []

    def loop() -> asyncio.AbstractEventLoop:
        leap = Leap()
        made = asyncio.SelectorEventLoop(leap)
        made.time = lambda: leap.now  # type: ignore[method-assign]
        made.set_exception_handler(lambda _, context: unseen.append(context))
        return made

    with asyncio.Runner(loop_factory=loop) as runner:
        result = runner.run(main)
    assert not unseen
    return result


def gate(in_flight: int = 1, *, adaptive: bool = True, tpm: int | None = None, **more: Any) -> Gate:
    limits = Limits(in_flight=in_flight, adaptive=adaptive, tokens_per_minute=tpm)
    return Gate("big/gpt", limits, clock=CLOCK, **more)


async def settle() -> None:
    """Let everybody do what can be done without time."""
    for _ in range(20):
        await asyncio.sleep(0)


class Crowd:
    """Requests with names, their order of starting and when."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.started: dict[str, float] = {}
        self.passes: dict[str, Pass] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def come(self, name: str, *, level: int = 0, tokens: int = 1, latency: float | None = None) -> None:
        """Enter; leave after `latency`, or keep the pass."""

        async def request() -> None:
            place = await self.gate.enter(tokens, level)
            self.started[name] = CLOCK.now()
            if latency is None:
                self.passes[name] = place
                return
            with place:
                await CLOCK.sleep(latency)
                place.done(tokens)

        self.tasks[name] = asyncio.create_task(request())

    @property
    def order(self) -> list[str]:
        return list(self.started)

    async def all(self) -> None:
        await asyncio.gather(*self.tasks.values())


# ── the cap ──────────────────────────────────────────────────────────────────────────────────────

OUTCOMES: list[Callable[[Pass], None]] = [
    lambda place: place.done(3),
    lambda place: place.done(3),
    lambda place: place.failed(),
    lambda place: place.pushed_back(None, shared=True),
    lambda place: place.pushed_back(2.5, shared=True),
    lambda place: place.pushed_back(None, shared=False),
    lambda place: place.unreachable(),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.booleans(), st.sampled_from([None, 40]))
def test_whatever_happens_the_cap_holds_and_everybody_is_served(
    seed: int, in_flight: int, adaptive: bool, tpm: int | None
) -> None:
    dice = Random(seed)

    async def main() -> None:
        g = gate(in_flight, adaptive=adaptive, tpm=tpm, tail=lambda: dice.random() < 0.3)
        running: set[int] = set()
        caps: Counter[float] = Counter()  # the widest cap at an instant, for at one instant it may have fallen since

        def look() -> None:
            caps[CLOCK.now()] = max(caps[CLOCK.now()], g.cap)

        async def request(i: int) -> bool:
            await CLOCK.sleep(dice.choice([0, dice.randrange(8), dice.uniform(0, 8)]))
            look()
            with await g.enter(dice.randint(1, 12), dice.randrange(4)) as place:
                running.add(i)
                look()
                assert len(running) <= caps[CLOCK.now()] <= in_flight
                try:
                    await CLOCK.sleep(dice.choice([0, dice.randrange(4), dice.uniform(0, 4)]))
                    look()
                    dice.choice(OUTCOMES)(place)
                finally:
                    running.discard(i)
                    look()
            return True

        tasks = [asyncio.create_task(request(i)) for i in range(30)]
        gone = dice.sample(tasks, 6)
        for task in gone:
            await CLOCK.sleep(dice.uniform(0, 2))
            task.cancel()
        served = await asyncio.gather(*tasks, return_exceptions=True)
        for task, outcome in zip(tasks, served, strict=True):
            assert outcome is True or (task in gone and isinstance(outcome, asyncio.CancelledError)), outcome
        assert (g.in_flight, g.waiting) == (0, 0)
        assert adaptive or g.cap == in_flight

    virtually(main())


def test_many_push_backs_of_one_round_halve_once_and_successes_grow_one_by_one() -> None:
    async def main() -> None:
        g = gate(8)
        first = [await g.enter(1, 0) for _ in range(8)]
        for place in first[:4]:
            place.pushed_back(None, shared=False)
        assert g.cap == 4
        second = []
        for place in first[4:]:
            place.failed()
            second.append(await g.enter(1, 0))
        second[0].pushed_back(None, shared=False)
        assert g.cap == 2, "these were sent after the first halving"
        for place in second[1:]:
            place.done(1)
        assert g.cap == 2, "these were sent before the second one, and prove nothing about the new cap"
        grown = []
        for _ in range(30):
            (await g.enter(1, 0)).done(1)
            grown.append(g.cap)
        for cap, successes in Counter(grown).items():
            assert successes >= cap - (cap == 2) or cap == 8  # the one that widens it already sees it wider
        assert grown[-1] == 8 and sorted(grown) == grown and set(grown) == set(range(2, 9))
        for _ in range(10):
            (await g.enter(1, 0)).pushed_back(None, shared=False)
        assert g.cap == 1

    virtually(main())


def test_a_fixed_window_stays() -> None:
    async def main() -> None:
        g = gate(8, adaptive=False)
        for _ in range(5):
            (await g.enter(1, 0)).pushed_back(None, shared=False)
        assert g.cap == 8

    virtually(main())


# ── tokens a minute ──────────────────────────────────────────────────────────────────────────────


def most_in_a_minute(counted: list[tuple[float, int]]) -> int:
    """The most tokens that a server counts within any 60 seconds."""
    times = [at for at, _ in counted]
    return max(sum(tokens for at, tokens in counted if start <= at <= start + MINUTE) for start in times)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.sampled_from([50, 200, 1000]))
def test_no_minute_of_the_server_holds_more_tokens_than_the_limit(seed: int, in_flight: int, limit: int) -> None:
    dice = Random(seed)
    at_arrival: list[tuple[float, int]] = []
    at_answer: list[tuple[float, int]] = []
    within: list[tuple[float, int]] = []
    longest = dice.choice([0.1, 5, 100])

    async def main() -> None:
        g = gate(in_flight, tpm=limit)

        async def request() -> None:
            used = dice.randint(1, max(1, limit // 3))
            estimate = min(limit, used + dice.choice([0, dice.randint(0, limit // 2)]))
            await CLOCK.sleep(dice.uniform(0, 100))
            with await g.enter(estimate, dice.randrange(3)) as place:
                await CLOCK.sleep(dice.uniform(0, longest))  # on its way
                at_arrival.append((CLOCK.now(), used))
                await CLOCK.sleep(dice.uniform(0, longest))
                within.append((CLOCK.now(), used))
                await CLOCK.sleep(dice.uniform(0, longest))
                at_answer.append((CLOCK.now(), used))
                await CLOCK.sleep(dice.uniform(0, longest))  # on its way back
                if dice.random() < 0.9:
                    place.done(used)
                else:
                    dice.choice([place.failed, lambda: place.pushed_back(None, shared=False), place.unreachable])()

        await asyncio.gather(*(request() for _ in range(40)))

    virtually(main())
    assert len(at_answer) == 40
    for counted in (at_arrival, within, at_answer):
        assert most_in_a_minute(counted) <= limit


def test_what_was_not_used_is_given_back_at_once() -> None:
    async def main() -> None:
        g = gate(4, tpm=1000)
        began = CLOCK.now()
        for _ in range(10):
            (await g.enter(900, 0)).done(10)
        (await g.enter(900, 0)).pushed_back(SOON, shared=True)  # refused: it was not counted
        (await g.enter(900, 0)).done(900)
        assert CLOCK.now() - began < 1
        (await g.enter(900, 0)).done(900)
        assert CLOCK.now() - began > MINUTE

    virtually(main())


def test_a_request_whose_use_is_unknown_weighs_as_estimated() -> None:
    async def main(close: Callable[[Pass], None]) -> None:
        g = gate(4, tpm=1000)
        began = CLOCK.now()
        close(await g.enter(900, 0))
        place = await g.enter(101, 0)
        assert CLOCK.now() - began > MINUTE
        place.done(1)

    def cancelled(place: Pass) -> None:
        with pytest.raises(asyncio.CancelledError), place:
            raise asyncio.CancelledError

    for close in [
        lambda place: place.done(0),
        lambda place: place.failed(),
        lambda place: place.pushed_back(None, shared=False),
        lambda place: place.unreachable(),
        cancelled,
    ]:
        virtually(main(close))


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    async def main() -> None:
        g = gate(8, tpm=100)
        crowd = Crowd(g)
        crowd.come("small", tokens=60, latency=1)
        await settle()
        crowd.come("huge", tokens=500, latency=1)
        await settle()
        crowd.come("next", tokens=1, latency=1)
        await crowd.all()
        assert crowd.order == ["small", "huge", "next"]
        assert crowd.started["huge"] - crowd.started["small"] > MINUTE
        assert crowd.started["next"] - crowd.started["huge"] > MINUTE

    virtually(main())


@pytest.mark.parametrize("level", [0, 5])
def test_a_large_request_is_not_overtaken_for_ever_by_small_ones(level: int) -> None:
    async def main() -> None:
        crowd = Crowd(gate(50, tpm=100))
        for i in range(9):
            crowd.come(f"before {i}", tokens=10, latency=1)
        await settle()
        crowd.come("large", tokens=90, latency=1)
        for i in range(100):
            await CLOCK.sleep(2)
            crowd.come(f"after {i}", level=level, tokens=5, latency=1)
        await crowd.all()
        assert crowd.order.index("large") == 9
        assert crowd.started["large"] - crowd.started["before 0"] < 2 + PERIOD

    virtually(main())


# ── requests a minute (asyncio-throttle's clock is the real one) ─────────────────────────────────


def really(main: Coroutine[Any, Any, None]) -> None:
    """Run in real time, and not for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(15):
            await main

    asyncio.run(bounded())


def throttled(rate: int, period: float, in_flight: int = 10, *, adaptive: bool = False) -> Gate:
    limits = Limits(in_flight=in_flight, adaptive=adaptive, requests_per_minute=rate, tokens_per_minute=10**9)
    return Gate("big/gpt", limits, _period=period)


def test_no_period_sees_more_starts_than_the_limit_and_levels_keep_their_order() -> None:
    async def main() -> None:
        g = throttled(4, 0.4)
        starts: list[tuple[float, int]] = []

        async def request(level: int) -> None:
            with await g.enter(1, level) as place:
                starts.append((time.monotonic(), level))
                place.done(1)

        await asyncio.gather(*(request(level) for level in range(13)))
        assert all(later[0] - first[0] > 0.3 for first, later in zip(starts, starts[4:], strict=False))
        assert [level for _, level in starts] == [0, *range(12, 0, -1)], "the first found nobody before it"

    really(main())


def test_who_was_before_the_window_of_requests_at_a_halving_belongs_to_the_next_round() -> None:
    async def main() -> None:
        g = throttled(2, 0.1, 8, adaptive=True)
        first, second = await g.enter(1, 0), await g.enter(1, 0)
        third = asyncio.create_task(g.enter(1, 0))
        await asyncio.sleep(0.02)
        first.pushed_back(None, shared=False)
        second.pushed_back(None, shared=False)
        assert g.cap == 4
        (await third).pushed_back(None, shared=False)
        assert g.cap == 2

    really(main())


def test_the_window_of_requests_costs_no_concurrency() -> None:
    async def main() -> None:
        g = throttled(10, 3600, in_flight=7)
        tasks = [asyncio.create_task(g.enter(1, 0)) for _ in range(9)]
        await asyncio.sleep(0.1)
        assert (g.in_flight, g.waiting) == (7, 2)
        g.park("enough")
        for place in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(place, Parked) or (isinstance(place, Pass) and place.done(1) is None)

    really(main())


def test_parking_reaches_the_one_before_the_window_of_requests() -> None:
    async def main() -> None:
        g = throttled(1, 3600)
        place = await g.enter(1, 0)
        tasks = [asyncio.create_task(g.enter(1, 0)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert (g.in_flight, g.waiting) == (2, 2)
        tasks[0].cancel()
        await asyncio.sleep(0.05)
        assert (g.in_flight, g.waiting) == (2, 1), "the next one stands there"
        assert len(asyncio.all_tasks()) == 4, "and nothing is left of the first: here, two that wait, one that counts"
        g.park("quota exhausted")
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, Parked, Parked]
        place.done(1)
        assert (g.in_flight, g.waiting) == (0, 0)

    really(main())


def test_a_pause_holds_the_one_before_the_window_of_requests_and_it_stays_first() -> None:
    async def main() -> None:
        g = throttled(1, 0.1)
        place = await g.enter(1, 0)
        order: list[tuple[int, bool]] = []

        async def request(i: int) -> None:
            with await g.enter(1, 0) as place:
                order.append((i, g.clock.now() >= g.paused_until))
                place.done(1)

        tasks = [asyncio.create_task(request(i)) for i in range(3)]
        await asyncio.sleep(0.02)
        place.pushed_back(0.3, shared=True)
        await asyncio.gather(*tasks)
        assert order == [(0, True), (1, True), (2, True)]

    really(main())


# ── order ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_tail", [False, True])
def test_old_debates_go_first_and_last_in_the_tail_each_level_in_the_order_it_came(is_tail: bool) -> None:
    async def main() -> None:
        crowd = Crowd(gate(1, tail=lambda: is_tail))
        crowd.come("holds", latency=5)
        await settle()
        came = [(level, i) for i, level in enumerate([3, 0, 9, 3, 0, 10, 9, 3])]
        for level, i in came:
            crowd.come(f"{level} {i}", level=level, latency=1)
            await settle()
        await crowd.all()
        expected = sorted(came, key=lambda one: (one[0] if is_tail else -one[0], one[1]))
        assert crowd.order == ["holds", *(f"{level} {i}" for level, i in expected)]

    virtually(main())


def test_the_tail_may_begin_while_requests_wait() -> None:
    async def main() -> None:
        is_tail = False
        crowd = Crowd(gate(1, tail=lambda: is_tail))
        for level in (5, 0, 1, 2, 3):
            crowd.come(f"{level}", level=level, latency=1)
        await CLOCK.sleep(1.5)
        is_tail = True
        await crowd.all()
        assert crowd.order == ["5", "3", "0", "1", "2"]

    virtually(main())


# ── pauses ───────────────────────────────────────────────────────────────────────────────────────


def released(pauses: list[float | None], seed: int = 0, *, shared: bool = True, in_flight: int = 16) -> list[float]:
    """Seconds from the push-backs to the starts of 20 requests that wait."""

    async def main() -> list[float]:
        g = gate(in_flight, adaptive=False, seed=seed)
        places = [await g.enter(1, 0) for _ in range(in_flight)]
        crowd = Crowd(g)
        for i in range(20):
            crowd.come(f"{i}", latency=0)
        await settle()
        assert not crowd.order and g.waiting == 20
        now = CLOCK.now()
        places.pop().done(1)  # lets one through, which has not started yet when the pause begins
        for pause in pauses:
            places.pop().pushed_back(pause, shared=shared)
        if shared:
            assert g.paused_until > now
        for place in places:
            place.done(1)
        await settle()
        crowd.come("new", latency=0)
        await crowd.all()
        assert crowd.order == [*(f"{i}" for i in range(20)), "new"]
        return [at - now for at in crowd.started.values()]

    return virtually(main())


def test_one_pause_is_shared_by_all_and_released_bit_by_bit() -> None:
    starts = released([10.0])
    assert min(starts) >= 10
    assert max(starts) < 13
    assert len(set(starts)) > 14, "not all at once"
    gaps = sorted(b - a for a, b in pairwise(starts))
    assert gaps[-1] > 2 * gaps[len(gaps) // 2] > 0, "at random distances"
    assert released([10.0]) == starts and released([10.0], seed=1) != starts
    assert max(released([10.0] * 7)) < 13, "pauses at the same time are one pause"
    assert min(released([10.0, 3.0, 30.0, 5.0])) >= 30


def test_a_push_back_that_is_not_shared_pauses_nobody() -> None:
    assert max(released([10.0, None], shared=False)) == 0


@pytest.mark.parametrize("asked", [None, 0.0, -3.0, float("nan")])
def test_pauses_of_our_own_double_up_to_a_bound_and_begin_anew_after_a_success(asked: float | None) -> None:
    async def main() -> list[float]:
        g = gate(1, seed=4)
        lengths = []
        for i in range(12):
            place = await g.enter(1, 0)
            if i == 10:
                place.done(1)
                place = await g.enter(1, 0)
            place.pushed_back(asked, shared=True)
            lengths.append(g.paused_until - CLOCK.now())
        return lengths

    lengths = virtually(main())
    bounds = [min(MOST, 2.0**i) for i in range(10)] + [1.0, 2.0]
    for length, bound in zip(lengths, bounds, strict=True):
        assert bound / 2 - SOON <= length <= bound + SOON
    assert len({length / bound for length, bound in zip(lengths, bounds, strict=True)}) == 12, "jittered"


# ── parking ──────────────────────────────────────────────────────────────────────────────────────


def test_parking_wakes_everybody_and_keeps_everybody_out() -> None:
    async def main() -> None:
        g = gate(2, tpm=100)
        place = await g.enter(90, 0)
        tasks = [asyncio.create_task(g.enter(50, level)) for level in (0, 3, 1, 1)]
        await settle()
        tasks[2].cancel()
        g.park("quota exhausted")
        g.park("another reason")
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Parked, Parked, asyncio.CancelledError, Parked]
        assert str(outcomes[0]) == g.parked == "quota exhausted"
        with pytest.raises(Parked, match="quota exhausted"):
            await g.enter(1, 0)
        place.done(1)
        assert (g.in_flight, g.waiting) == (0, 0)

    virtually(main())


def test_who_was_let_through_at_the_moment_of_parking_is_not_sent() -> None:
    async def main() -> None:
        g = gate(1)
        place = await g.enter(1, 0)
        task = asyncio.create_task(g.enter(1, 0))
        await settle()
        place.done(1)
        g.park("quota exhausted")
        with pytest.raises(Parked):
            await task
        assert (g.in_flight, g.waiting) == (0, 0)

    virtually(main())


# ── the breaker ──────────────────────────────────────────────────────────────────────────────────


async def broken(in_flight: int = 10) -> Gate:
    g = gate(in_flight)
    for _ in range(STREAK - 1):
        (await g.enter(1, 0)).unreachable()
    (await g.enter(1, 0)).failed()
    for _ in range(STREAK - 1):
        (await g.enter(1, 0)).unreachable()
    assert not g.is_down, "somebody answered in between"
    (await g.enter(1, 0)).unreachable()
    assert g.is_down
    return g


@pytest.mark.parametrize("answer", [outcome for outcome in OUTCOMES if outcome is not OUTCOMES[-1]])
def test_a_dead_server_gets_one_probe_at_a_time_until_it_answers(answer: Callable[[Pass], None]) -> None:
    async def main() -> None:
        g = await broken()
        crowd = Crowd(g)
        for i in range(30):
            crowd.come(f"{i}")
        asked, died = [], CLOCK.now()
        for probes in range(10):
            while f"{probes}" not in crowd.started:
                await CLOCK.sleep(5)
            await CLOCK.sleep(200)
            assert len(crowd.started) == probes + 1 and g.in_flight == 1
            asked.append(crowd.started[f"{probes}"] - died)
            died = CLOCK.now()
            crowd.passes[f"{probes}"].unreachable()
        assert all(min(MOST, 2**i) / 2 - 0.2 <= wait <= min(MOST, 2**i) + 0.2 for i, wait in enumerate(asked))
        while "10" not in crowd.started:
            await CLOCK.sleep(5)
        answer(crowd.passes["10"])
        assert not g.is_down
        await CLOCK.sleep(5)
        assert len(crowd.started) == 11 + g.cap
        g.park("enough")
        await asyncio.gather(*crowd.tasks.values(), return_exceptions=True)
        for i in range(11, 11 + g.cap):
            crowd.passes[f"{i}"].done(1)

    virtually(main())


def test_a_probe_that_is_cancelled_hands_on_to_the_next() -> None:
    async def main() -> None:
        g = await broken()
        crowd = Crowd(g)
        for i in range(3):
            crowd.come(f"{i}", latency=1000 if i == 0 else 0)
        await CLOCK.sleep(3)
        assert crowd.order == ["0"]
        crowd.tasks["0"].cancel()
        await CLOCK.sleep(3)
        assert crowd.order == ["0", "1", "2"] and not g.is_down

    virtually(main())


def test_an_old_request_that_fails_late_changes_nothing_and_one_that_is_answered_closes_the_breaker() -> None:
    async def main() -> None:
        g = gate(STREAK + 15)
        places = [await g.enter(1, 0) for _ in range(STREAK + 15)]
        for place in places[:STREAK]:
            place.unreachable()
        probe = asyncio.create_task(g.enter(1, 0))
        for place in places[STREAK:-4]:
            await CLOCK.sleep(0.1)
            place.unreachable()
        await settle()
        assert probe.done()
        places[-1].unreachable()
        places[-2].unreachable()
        second = asyncio.create_task(g.enter(1, 0))
        await CLOCK.sleep(300)
        assert not second.done() and g.is_down
        places[-3].done(1)
        assert not g.is_down
        (await second).done(1)
        probe.result().unreachable()
        assert not g.is_down
        places[-4].done(1)

    virtually(main())


def test_a_server_that_comes_back_is_not_kept_waiting_for_the_next_probe() -> None:
    async def main() -> None:
        g = gate(20, adaptive=False)
        old = await g.enter(1, 0)
        for _ in range(STREAK + 7):
            (await g.enter(1, 0)).unreachable()
        crowd = Crowd(g)
        crowd.come("waits", latency=0)
        await settle()
        assert not crowd.order
        old.pushed_back(1.0, shared=True)
        now = CLOCK.now()
        await crowd.all()
        assert 1 <= crowd.started["waits"] - now < 2

    virtually(main())


# ── passes and cancellation ──────────────────────────────────────────────────────────────────────


def test_a_pass_is_closed_exactly_once() -> None:
    async def main() -> None:
        g = gate(3)
        for first in OUTCOMES:
            for second in OUTCOMES:
                place = Pass(g, 1, 0)
                g.in_flight += 1
                first(place)
                with pytest.raises(RuntimeError, match="twice"):
                    second(place)
        assert g.in_flight == 0
        g = gate(3)
        with pytest.raises(RuntimeError, match="without an outcome"), await g.enter(1, 0):
            pass
        with pytest.raises(ZeroDivisionError), await g.enter(1, 0):
            _ = 1 / 0
        with await g.enter(1, 0) as place:
            place.done(1)
        assert g.in_flight == 0
        place = await g.enter(1, 0)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del place
            gc.collect()
        assert ["never closed" in str(one.message) for one in seen] == [True]

    virtually(main())


def _watched(ticks: int, seconds: float, limit: int | None) -> tuple[list[str], Gate]:
    """Five requests, of which the second is cancelled at a moment; all others must be served, in order."""

    async def main() -> tuple[list[str], Gate]:
        g = gate(1, tpm=limit)
        crowd = Crowd(g)
        for name in "abcde":
            crowd.come(name, tokens=60, latency=1)
        await CLOCK.sleep(seconds)
        for _ in range(ticks):
            await asyncio.sleep(0)
        crowd.tasks["b"].cancel()
        await asyncio.gather(*crowd.tasks.values(), return_exceptions=True)
        assert [name for name in "abcde" if crowd.tasks[name].cancelled()] in ([], ["b"])
        return crowd.order, g

    return virtually(main())


@pytest.mark.parametrize("limit", [None, 100])
def test_cancelled_at_any_moment_it_loses_nothing_and_the_others_keep_their_order(limit: int | None) -> None:
    period = 1 if limit is None else 1 + PERIOD
    seen = set()
    for seconds in (0, 0.5, 1, 1.5, period, period + 0.5, period + 1):
        for ticks in range(8):
            order, g = _watched(ticks, seconds, limit)
            assert [name for name in order if name != "b"] == list("acde")
            assert (g.in_flight, g.waiting) == (0, 0)
            seen.add("b" in order)
    assert seen == {True, False}, "before and after it started"


def test_who_waited_behind_a_cancelled_request_that_did_not_fit_goes_at_once() -> None:
    async def main() -> None:
        g = gate(5, tpm=100)
        (await g.enter(60, 0)).done(60)
        large, small = (asyncio.create_task(g.enter(tokens, 0)) for tokens in (90, 30))
        await settle()
        assert (g.in_flight, g.waiting) == (0, 2)
        began = CLOCK.now()
        large.cancel()
        (await small).done(30)
        assert CLOCK.now() == began

    virtually(main())


def test_cancelled_between_being_let_through_and_starting() -> None:
    async def main() -> None:
        g = gate(1, tpm=100)
        place = await g.enter(40, 0)
        first, second = (asyncio.create_task(g.enter(60, 0)) for _ in range(2))
        await settle()
        place.done(40)
        assert g.in_flight == 1
        first.cancel()
        began = CLOCK.now()
        (await second).done(1)
        assert first.cancelled() and CLOCK.now() == began, "the tokens of what was never sent are free at once"
        assert (g.in_flight, g.waiting) == (0, 0)

    virtually(main())


def test_a_free_way_costs_no_task_no_timer_and_no_future() -> None:
    g = gate(2, tpm=None)
    g.clock = type("Still", (), {"now": lambda self: 0.0})()
    entering = g.enter(1, 0)
    with pytest.raises(StopIteration) as stopped:
        entering.send(None)  # outside of any loop, where nothing can be scheduled
    stopped.value.value.done(1)
