"""Where a run stands, in plain counts, and showing it: one live line on a terminal, elsewhere a line now and then."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import isnan
from time import monotonic

from runs.costs import beside
from runs.records import Call

LIVE_EVERY = 0.25
PLAIN_EVERY = 10.0
"""Seconds between two looks."""


@dataclass
class Progress:
    """Where a run stands; plain counts that a display may read at any time."""

    debates: int
    """Scheduled, those of earlier sittings included."""
    turns_each: int
    done: int = 0
    void: int = 0
    turns: int = 0
    """Of this sitting."""
    wanted: int = 0
    """Verdicts that debates wait for, or waited for in this sitting."""
    verdicts: int = 0
    """Of this sitting."""
    failures: int = 0
    cost_usd: float = 0.0
    """Of the run, earlier sittings included, as far as it is known."""
    unknown: int = 0
    """Calls that it is without, or without a part of: nobody knows what they took."""
    unknown_usd: float = 0.0
    """What these may have cost besides, at most."""
    parked: dict[str, str] = field(default_factory=dict)
    """Contestants that are not asked any more in this sitting, and why."""
    absent: dict[str, str] = field(default_factory=dict)
    """Judges that are not asked any more in this sitting, and why."""
    raised: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Judges that raised in this sitting, which is a fault of theirs: on how many votes, and what they said first."""
    unjudged: int = 0
    """Debates that a judge was not asked about in this sitting, each judge counted."""
    stopping: bool = False
    """Nothing new is begun."""
    stopped: str = ""
    """Why nothing new is begun, where it was not by a signal."""

    def pay(self, call: Call) -> None:
        """Add up what a call cost."""
        self.cost_usd += 0.0 if isnan(call.cost_usd) else call.cost_usd
        self.unknown += bool(call.unknown_usd)
        self.unknown_usd += call.unknown_usd or 0.0

    @property
    def most_usd(self) -> float:
        """The most that it may have cost."""
        return self.cost_usd + self.unknown_usd

    @property
    def paid(self) -> str:
        """What it cost, in words."""
        return f"{self.cost_usd:,.2f} USD{beside(self.unknown)}"


@asynccontextmanager
async def shown(progress: Progress) -> AsyncIterator[None]:
    """Show `progress` on stderr while the block runs."""
    watch = asyncio.create_task(_live(progress) if sys.stderr.isatty() else _plain(progress))
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _live(progress: Progress) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    began = monotonic()
    console = Console(stderr=True)
    bars = [BarColumn()] if console.width >= 100 else []
    bar = Bar(TextColumn("debates"), *bars, TextColumn("{task.description}"), console=console)
    with bar:
        task = bar.add_task("", total=progress.debates)
        try:
            while True:
                elapsed = monotonic() - began
                bar.update(task, completed=progress.done, description=line(progress, elapsed))
                await asyncio.sleep(LIVE_EVERY)
        finally:
            bar.update(task, completed=progress.done, description=line(progress, monotonic() - began))


async def _plain(progress: Progress) -> None:
    began = monotonic()
    while True:
        await asyncio.sleep(PLAIN_EVERY)
        print(f"debates {line(progress, monotonic() - began)}", file=sys.stderr, flush=True)


def line(progress: Progress, elapsed: float) -> str:
    """`done/all, turns/s, verdicts, failures, time left`; `elapsed` in seconds since this sitting began."""
    speed = progress.turns / elapsed if elapsed > 0 else 0.0
    left = (progress.debates - progress.done) * progress.turns_each / speed if speed else None
    if judges_only := progress.done == progress.debates:
        left = elapsed * (progress.wanted - progress.verdicts) / progress.verdicts if progress.verdicts else None
    parts = [f"{progress.done:,}/{progress.debates:,}"]
    parts += [f"{speed:,.0f} turns/s"] if progress.turns or not judges_only else []
    parts += [f"{progress.verdicts:,}/{progress.wanted:,} verdicts", f"{progress.failures:,} failures"]
    if progress.cost_usd or progress.unknown:
        parts.append(progress.paid)
    if away := [*progress.parked, *progress.absent]:
        parts.append(f"parked: {', '.join(away)}")
    parts += ["judging"] if judges_only else []
    if left is None:
        return "  ".join(parts if judges_only else [*parts, "starting"])
    return "  ".join([*parts, f"{duration(left)} left"])


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s` or `7 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
