"""The five queries of docs/tables.md: they run as they stand, print what the page shows, and are right.

Each is worked out a second time in plain Python from the rows of the same tables, on a run of simulated contestants and
on one whose contestants were asked over HTTP, whose tokens were counted and paid for, and of some not told.
"""

import contextlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import pytest

import runs
from arena import simulate
from arena.run import Settings, run
from arena.run import main as play
from runs.schema import TABLES
from runs.statistics import rate

PAGE = (Path(__file__).parent.parent / "docs" / "tables.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("# Five queries\n") :]
FIRST, *QUERIES = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
POINTS = {"for": 1.0, "tie": 0.5, "against": 0.0}
ROSTER = """
[[endpoints]]
name = "router"
base_url = "{url}"
prompt_price = 0.5
cached_price = 0.05
completion_price = 2.0

[[contestants]]
name = "kimi"
endpoint = "router"
model = "sim-0.9"

[[contestants]]
name = "granite"
kind = "simulated"
strength = 0.5
fails = 0.02
"""

Row = dict[str, Any]
Names = dict[str, Any]


@pytest.fixture(scope="module")
def shown_of(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run lies that the page speaks of."""
    home = tmp_path_factory.mktemp("shown")
    (command,) = re.findall(r"`python -m arena\.run (.*?)`", SECTION)
    assert play([*command.split(), "--out", str(home / "runs" / "out")]) == 0
    return home


@pytest.fixture(scope="module")
def paid_for(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run lies whose tokens were counted."""
    home = tmp_path_factory.mktemp("paid")
    (home / "faults.toml").write_text('[[faults]]\nkind = "error_500"\nrequests = [3, 4]\n')
    with simulate.serve(simulate.Settings(port=0, faults=home / "faults.toml")) as url:
        (home / "r.toml").write_text(ROSTER.format(url=url))
        run(Settings(roster=home / "r.toml", limit=30, judges=["rules", "scripted"], out=home / "runs" / "out"))
    return home


@pytest.fixture(params=["shown_of", "paid_for"])
def names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """What a notebook has after its first block, in the folder of a run."""
    monkeypatch.chdir(request.getfixturevalue(request.param))
    known: Names = {}
    with pl.Config():
        exec(FIRST, known)
        yield known


def printed(code: str, names: Names) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def rows(table: str) -> list[Row]:
    frame: pl.LazyFrame = getattr(runs.load(), table)
    return frame.collect().to_dicts()


def decided() -> Iterator[tuple[Row, float]]:
    """Complete debates with what FOR has of the judge's verdict."""
    winners = {row["debate_id"]: row["winner"] for row in rows("verdicts") if row["judge"] == "rules"}
    for debate in rows("debates"):
        if debate["status"] == "complete" and winners.get(debate["debate_id"]) in POINTS:
            yield debate, POINTS[winners[debate["debate_id"]]]


def same(frame: pl.LazyFrame, expected: dict[Any, tuple[Any, ...]], *key: str) -> None:
    """The frame has a row for each key, and its other columns hold those values."""
    found = frame.collect()
    others = [name for name in found.columns if name not in key]
    told = {tuple(row[k] for k in key): tuple(row[name] for name in others) for row in found.to_dicts()}
    assert len(found) == len(told) == len(expected)
    for at, values in expected.items():
        assert told[at] == pytest.approx(values, nan_ok=False), at


# What the page shows


def test_the_page_shows_what_is_printed(shown_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shown_of)
    known: Names = {}
    with pl.Config():
        exec(FIRST, known)
        for query in QUERIES:
            question, *lines = query.splitlines()
            shown = [line.removeprefix("#").removeprefix(" ") for line in lines if line.startswith("#")]
            assert question.startswith("# ") and question.count("?") == 1 and len(shown) >= 2
            told = [line.removeprefix(" ") for line in printed(query, known).splitlines()]
            assert [line.strip() for line in shown] == [line.strip() for line in told]


def test_there_are_five_and_they_stay_lazy(names: Names) -> None:
    assert len(QUERIES) == 5
    for query in QUERIES:
        printed(query, names)
    assert all(isinstance(names[name], pl.LazyFrame) for name in ("won", "always", "closest", "stages", "costs"))


def test_every_column_that_is_named_is_one_of_the_table() -> None:
    """What stands in quotes is a column of the tables, one that the query makes, or a value of one."""
    columns = {name for table in TABLES.values() for name in table.columns}
    inside = {field.name for t in TABLES.values() for c in t.columns.values() for field in _fields(c)}
    code = "\n".join([FIRST, *QUERIES])
    words = set(re.findall(r'"(\w+)"', code))
    made = set(re.findall(r"(\w+)=", code)) | set(re.findall(r'_name="(\w+)"', code))
    values = {"for", "against", "tie", "complete", "rules", "granite", "newest", "NOTHING"}
    assert words <= columns | inside | made | values, words - columns - inside - made - values
    for table, told in (("votes", "scores"), ("calls", "cached_tokens"), ("turns", "trimmed")):
        assert told in words and told in TABLES[table].columns


def _fields(dtype: pl.DataType) -> list[pl.Field]:
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    return list(inner.fields) if isinstance(inner, pl.Struct) else []


# Each of them again, in plain Python


def test_who_wins_on_which_side(names: Names) -> None:
    said = printed(QUERIES[0], names)
    scores: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    of_granite: list[tuple[str, float]] = []
    for debate, score in decided():
        for side, own in (("for", score), ("against", 1 - score)):
            name = debate[f"{side}_contestant"]
            scores[name, f"{side}_contestant"].append(own)
            of_granite += [(debate["topic_id"], own)] if name == "granite" else []
    same(names["won"], {key: (len(own), fmean(own)) for key, own in scores.items()}, "contestant", "seat")
    of_granite.sort()
    found = rate([own for _, own in of_granite], [topic for topic, _ in of_granite])
    assert said.splitlines()[-1] == f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert found.value == pytest.approx(fmean(own for _, own in of_granite))


def test_where_for_always_wins(names: Names) -> None:
    printed(QUERIES[1], names)
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for debate, score in decided():
        scores[debate["topic_id"]].append(score)
    themes = {topic["topic_id"]: topic["theme"] for topic in rows("topics")}
    always = {topic: (len(own), 1.0) for topic, own in scores.items() if {*own} == {1.0}}
    assert always or len(scores) < 20
    same(names["always"], {(topic, themes[topic]): told for topic, told in always.items()}, "topic_id", "theme")


def test_which_debates_were_closest(names: Names) -> None:
    printed(QUERIES[2], names)
    leads = {
        (vote["debate_id"], vote["rationale"]): (sum(score["for"] - score["against"] for score in vote["scores"]),)
        for vote in rows("votes")
        if vote["judge"] == "rules" and vote["scores"]
    }
    same(names["closest"], leads, "debate_id", "rationale")
    printed_first = names["closest"].sort(pl.col("lead").abs(), "debate_id").head(1).collect()["lead"][0]
    assert abs(printed_first) == pytest.approx(min(abs(lead) for (lead,) in leads.values()))


def test_how_much_is_said(names: Names) -> None:
    printed(QUERIES[3], names)
    stages: defaultdict[str, list[Row]] = defaultdict(list)
    for turn in rows("turns"):
        stages[turn["stage"]].append(turn)
    expected = {
        (stage,): (
            min(turn["turn"] for turn in said),
            fmean(turn["words"] for turn in said),
            fmean(turn["trimmed"] for turn in said),
            len(said),
        )
        for stage, said in stages.items()
    }
    same(names["stages"], expected, "stage")


def test_what_a_debate_costs(names: Names) -> None:
    printed(QUERIES[4], names)
    calls: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for call in rows("calls"):
        calls[call["role"], call["endpoint"]].append(call)
    expected: dict[Any, tuple[Any, ...]] = {}
    for key, made in calls.items():
        counted = [call for call in made if call["cached_tokens"] is not None]
        prompt = sum(call["prompt_tokens"] for call in counted)
        cached = sum(call["cached_tokens"] for call in counted) / prompt if counted else None
        usd = sum(call["cost_usd"] or 0 for call in made) / len({call["debate_id"] for call in made})
        unknown = sum(call["unknown_usd"] is not None for call in made)
        expected[key] = (len(made), usd, unknown, cached)
    same(names["costs"], expected, "role", "endpoint")
    assert expected["speak", "simulated"][2:] == (0, None)
    asked = [told for (_, endpoint), told in expected.items() if endpoint == "router"]
    assert all(usd > 0 and cached > 0.3 for _, usd, _, cached in asked)
    assert not asked or sum(unknown for _, _, unknown, _ in asked) == 2
