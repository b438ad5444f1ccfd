"""Runs: what a run is (records, journal, tables) and what can be read off one (ratings, transcripts).

    import runs
    tables = runs.load("newest")                 # lazy Polars frames: debates, turns, votes, verdicts, ...
    tables.turns.collect()

Opens no socket to a model and never imports torch. What a run produces goes to `runs/out/`.
"""

from pathlib import Path

from runs.run import NEWEST, OUT, Run, find
from runs.tables import Tables


def load(run: str | Path = NEWEST, *, out: Path = OUT) -> Tables:
    """The tables of a run: a folder, an id under `out`, or the newest one. Lazy; sealed or still going."""
    from runs import tables

    return tables.load(find(run, out=out))


__all__ = ["NEWEST", "OUT", "Run", "Tables", "find", "load"]
