"""Runs: what a run is (records, journal, tables) and what can be read off one (ratings, transcripts).

    import runs
    tables = runs.load("newest")                 # lazy Polars frames: debates, turns, votes, verdicts, ...
    tables.turns.collect()
    runs.compare("20260101-base", "20260102-tuned")     # whether contestants do better in the second

Opens no socket to a model and never imports torch. What a run produces goes to `runs/out/`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.run import NEWEST, OUT, Run, find
from runs.tables import Tables

if TYPE_CHECKING:
    from runs.comparison import Comparison


def load(run: str | Path = NEWEST, *, out: Path = OUT) -> Tables:
    """The tables of a run: a folder, an id under `out`, or the newest one. Lazy; sealed or still going."""
    from runs import tables

    return tables.load(find(run, out=out))


def compare(a: str | Path | Tables, b: str | Path | Tables, **settings: Any) -> "Comparison":
    """Whether contestants do better in run `b` than in run `a`; `settings` as in `runs/comparison.py`."""
    from runs import comparison

    return comparison.compare(a, b, **settings)


__all__ = ["NEWEST", "OUT", "Run", "Tables", "compare", "find", "load"]
