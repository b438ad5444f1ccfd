"""What a reader must know before believing a comparison of two runs (`runs/comparison.py`): what else is not the same.

    print(*caveats(one, two, "gpt", frame, opponents), sep="\\n")

A comparison sees verdicts, in places that both runs have. So whatever keeps a debate from having one can look like a
gain: who fails where the other would lose is left with the wins. Void debates are therefore told by run, and how many
of them the compared contestants sat in; so are debates without a counterpart, or without a verdict that decides. And an
opponent or a judge of one name is the same only if its entry in the spec is, but for what says nothing of its votes.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from runs.pairings import decided
from runs.panels import TRAJECTORY
from runs.spec import Spec
from runs.tables import Tables
from topics.errors import listed

LABELS = frozenset({"name", "family", "lineage", "trajectory"})
"""Fields of a judge's entry that do not move its verdicts. Its orders and samples do: they decide what is a tie."""


def caveats(one: Tables, two: Tables, judge: str, frame: pl.DataFrame, opponents: Collection[str]) -> Iterator[str]:
    """One sentence each; `frame` is that of the comparison, `opponents` are those whom it rests on."""
    yield from _unmatched(frame)
    for which, run in zip("AB", (one, two), strict=True):
        yield from _void(which, run, frame[which.lower()].unique(maintain_order=True).to_list())
        yield from _undecided(which, run, judge)
    yield from _topics(one, two)
    specs = Spec.beside(one.folder), Spec.beside(two.folder)
    if specs[0] is not None and specs[1] is not None:
        yield from _of_specs(specs[0], specs[1], judge, opponents)


def _unmatched(frame: pl.DataFrame) -> Iterator[str]:
    """Debates that have no counterpart."""
    for row in frame.iter_rows(named=True):
        left = [(row[run], row[f"unmatched_{run}"], row[f"debates_{run}"], run.upper()) for run in "ab"]
        if parts := [f"{n:,} of {n + m:,} of {name!r} in {run}" for name, n, m, run in left if n]:
            yield f"left out, without the same topic, side and opponent in the other run: {', '.join(parts)}"


def _void(which: str, run: Tables, compared: Sequence[str]) -> Iterator[str]:
    """Debates that came to no end, which nobody can have lost."""
    ended = run.debates.filter(pl.col("status") != "open").select("status", "for_contestant", "against_contestant")
    debates = ended.collect()
    void = debates.filter(status="void")
    if void.is_empty():
        return
    theirs = [f"{n:,} of {_sat(debates, name):,} of {name!r}" for name in compared if (n := _sat(void, name))]
    told = ", ".join(theirs) or "none of who is compared"
    yield f"left out, being void, and so nobody's loss: {len(void):,} of {len(debates):,} debates of {which}; {told}"


def _sat(debates: pl.DataFrame, name: str) -> int:
    return debates.filter((pl.col("for_contestant") == name) | (pl.col("against_contestant") == name)).height


def _undecided(which: str, run: Tables, judge: str) -> Iterator[str]:
    complete = run.debates.filter(status="complete")
    said = decided(run.debates, run.verdicts, judge).select("debate_id")
    if lacking := complete.join(said, on="debate_id", how="anti").select(pl.len()).collect().item():
        yield f"{lacking:,} complete debates of {which} without a verdict of {judge!r} that decides, and left out"


def _topics(one: Tables, two: Tables) -> Iterator[str]:
    texts = one.topics.select("topic_id", "digest").join(two.topics.select("topic_id", "digest"), on="topic_id")
    if changed := texts.filter(pl.col("digest") != pl.col("digest_right")).select(pl.len()).collect().item():
        yield f"{changed} topics have another text in B, and are left out"
    splits = [sorted(run.debates.select(pl.col("split").unique()).collect()["split"]) for run in (one, two)]
    if splits[0] != splits[1]:
        yield f"the splits differ: {listed(splits[0])} in A, {listed(splits[1])} in B"


def _of_specs(one: Spec, two: Spec, judge: str, opponents: Collection[str]) -> Iterator[str]:
    """What was played otherwise, and who is not who they were."""
    if settings := [name for name in ("format", "opener") if getattr(one, name) != getattr(two, name)]:
        yield f"the runs differ in {' and '.join(settings)}"
    whole = re.sub(TRAJECTORY, "", judge)
    members = {name for panel in (*one.panels, *two.panels) if panel["name"] == judge for name in panel["members"]}
    judges = _changed(_seated(one, one.judges, LABELS), _seated(two, two.judges, LABELS), {whole, *members})
    judges += _changed(_seated(one, one.panels), _seated(two, two.panels), {judge})
    if judges:
        yield f"judges that are not the same in both runs, under one name: {listed(judges)}"
    if others := _changed(_seated(one, one.contestants), _seated(two, two.contestants), opponents):
        yield f"opponents that are not the same in both runs, under one name: {listed(others)}"


def _seated(
    spec: Spec, entries: Iterable[Mapping[str, Any]], labels: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Entries by name, without `labels`, and with the model of a server that the arena starts for them."""
    served = {endpoint["name"]: endpoint.get("model") for endpoint in spec.endpoints}
    return {
        entry["name"]: {field: value for field, value in entry.items() if field not in labels and value is not None}
        | {"served": served.get(entry.get("endpoint"))}
        for entry in entries
    }


def _changed(
    here: Mapping[str, Mapping[str, Any]], there: Mapping[str, Mapping[str, Any]], names: Collection[str]
) -> list[str]:
    """Names whose entries differ."""
    return sorted(name for name in {*names} & here.keys() & there.keys() if here[name] != there[name])
