"""Judges: how a debate becomes votes.

    judge = judges.load("rules")                     # by name: built in, or registered by a package
    judge = judges.load("my_package.mine:MyJudge")   # or by where the class is

A third party registers under the entry-point group `debate_arena.judges`; `docs/write-a-judge.md` shows how.
Judges open no socket: one that asks a language model is handed `ask` (`judges/asking.py`).
"""

from judges.judge import Judge
from judges.loading import kinds, load

__all__ = ["Judge", "kinds", "load"]
