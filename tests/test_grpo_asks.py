"""GRPO with a rubric judge over real HTTP: rows of a file, and turns of a run; what was answered is asked once."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import TRAINERS_WARN, Play, refused, toml
from test_endpoints import endpoint, stats

torch = pytest.importorskip("torch")

from runs import adapters  # noqa: E402
from training import grpo, tiny  # noqa: E402
from training.recipe import table  # noqa: E402

pytestmark = [
    *TRAINERS_WARN,
    pytest.mark.usefixtures("one_thread"),
]

ROWS = [
    {
        "id": f"row-{n}",
        "topic": f"line-{n // 2}",
        "prompt": f"[S1] Line {n} carries {n} thousand people.\nHow many people use line {n}?",
        "positive_rubrics": [f"It says that line {n} carries {n} thousand people."],
        "negative_rubrics": ["It speaks of buses."],
        "snippets": {"S1": f"Line {n} carries {n} thousand people."},
        "max_words": 20,
    }
    for n in range(12)
]
REWARDS = {"weights": {"rubric": 1.0, "length": 0.1}, "scale": 10.0}
"""Without format and citations all that is said is scored: a base that knows nothing gives no answer block."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base that knows nothing: its answers are what they are."""
    return tiny.build([row["prompt"] for row in ROWS], tmp_path_factory.mktemp("base"), seed=3)  # type: ignore[misc]


def recipe(path: Path, rewards: dict[str, Any] = REWARDS, **more: Any) -> Path:
    numbers = table("tiny", "grpo") | {"rows": 4, "group": 2, "limit": 8, "check_every": 1, "max_completion": 12}
    numbers |= {"held_back": 0.3, "guard": {}, "seed": 5} | more
    body = "".join(f"{name} = {toml(value)}\n" for name, value in (numbers | {"rewards": rewards}).items())
    path.write_text(f"[grpo]\n{body}")
    return path


def given(folder: Path, base: Path, url: str, **more: Any) -> list[str]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "roster.toml").write_text(
        f'[[endpoints]]\nname = "here"\nbase_url = "{url}"\nprompt_price = 1.0\ncompletion_price = 1.0\n'
        '[[judges]]\nname = "gpt"\nkind = "llm"\nendpoint = "here"\nmodel = "judge"\n'
    )
    words = ["--data", folder / "rows.jsonl", "--recipe", recipe(folder / "mine.toml", **more), "--base", base]
    words += ["--roster", folder / "roster.toml", "--rubric-judge", "gpt", "--out", folder / "out"]
    return list(map(str, words))


def test_rows_of_a_file_are_answered_judged_and_learnt_from(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(tmp_path) as url:
        words = given(tmp_path, base, url, static="research")
        assert grpo.main([*words, "--dry-run"]) == 0
        printed = capsys.readouterr().out
        assert "8 rows of 4 topics" in printed and "nothing was written" in printed and "2 batches of 4 rows" in printed
        assert not (tmp_path / "out" / "training").exists() and stats(url)["answered"] == 0
        assert grpo.main(words) == 0
        asked = stats(url)["answered"]
        told = capsys.readouterr().err
        assert f"judge 'gpt': {asked} questions" in told and asked > 0
        assert grpo.main(words) == 0, "the same again: drawn alike, so all of it was answered before"
        assert stats(url)["answered"] == asked
        assert "judge 'gpt': 0 questions" in capsys.readouterr().err
    (child,) = adapters.listed(tmp_path / "out" / "adapters")
    assert child.method == "grpo" and child.run is None and child.tasks and child.metrics["unscored"] == 0
    frame = pl.read_parquet(child.folder / "metrics.parquet")
    for part in ("rubric", "length"):
        assert (
            frame[f"earned_{part}"].drop_nulls().is_between(0, 1).all() and frame[f"train_{part}"].is_not_null().any()
        )


def test_what_is_counted_takes_no_judge(base: Path, tmp_path: Path) -> None:
    words = given(tmp_path, base, "http://127.0.0.1:9/v1", rewards={"weights": {"format": 1.0, "length": 1.0}})
    alone = [word for word in words if word not in ("--rubric-judge", "gpt", "--roster", str(tmp_path / "roster.toml"))]
    assert grpo.main(alone) == 0
    (child,) = adapters.listed(tmp_path / "out" / "adapters")
    assert child.metrics["unscored"] == 0


def test_a_judge_that_is_gone_stops_the_training_with_the_line_to_go_on(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(tmp_path) as url:
        words = given(tmp_path, base, url)
        assert grpo.main([*words, "--max-cost", "0.0001"]) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("error: judge 'gpt' answers no more") and "training.grpo --resume" in line
        assert "--max-cost 0.0001" in line, "what is pasted is as careful as what was typed"
        (folder,) = (path for path in (tmp_path / "out" / "training").iterdir() if path.is_dir())
        assert grpo.main(["--out", str(tmp_path / "out"), "--resume", str(folder)]) == 0
    assert len(adapters.listed(tmp_path / "out" / "adapters")) == 1


def test_what_cannot_be_is_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*more: str, **settings: Any) -> str:
        return refused(capsys, *given(tmp_path, base, "http://127.0.0.1:9/v1", **settings), *more, command=grpo.main)

    assert "8 tasks are too few for --rows 16" in line("--rows", "16")
    assert "no judge 'gtp'" in line("--rubric-judge", "gtp", "--dry-run") and "gpt" in line("--rubric-judge", "gtp")
    assert "a row of a file cannot earn 'margin'" in line(rewards={"weights": {"margin": 1.0, "rubric": 1.0}})
    assert "--debates and --data exclude each other" in line("--debates")
    (tmp_path / "rows.jsonl").unlink()
    assert not list((tmp_path / "out").glob("training/*/")), "what was refused left nothing"


def test_turns_are_judged_with_motion_and_side_in_sight(play: Play, tmp_path: Path) -> None:
    """A rubric judge of turns, and an audit, see the whole prompt; items of the topic's points are scored by it."""
    from functools import partial

    from judges.asking import Question, Reply
    from judges.rubric import RubricJudge
    from runs import tables
    from training.earning import _turns_earn
    from training.practice import Answer
    from training.speeches import decided_speeches
    from training.turns import turn_contexts

    heard = decided_speeches(tables.load(play().folder), judge=None, chosen=["any"])
    (context, *_), _ = turn_contexts(heard, "key", set(heard.topics_heard), most=1, seed=0)
    questions: list[Question] = []

    async def ask(question: Question) -> Reply:
        questions.append(question)
        items = question.schema["properties"]["items"]["properties"]  # type: ignore[index]
        return Reply(text=json.dumps({"items": {n: {"reason": "so", "score": 5} for n in items}}))

    class Scorer:
        rubric = RubricJudge("gpt", ask=ask)

        def all(self, work: Any) -> list[Any]:
            import asyncio

            return [asyncio.run(one) for one in work]

    settings = grpo.Settings.model_validate(
        table("tiny", "grpo") | {"rewards": {"weights": {"rubric": 1.0, "audit": 1.0}}, "rubric_judge": "gpt"}
    )
    earn = partial(_turns_earn, Scorer(), None, settings)  # type: ignore[arg-type]
    (reward,) = earn([Answer(task=context, text="Trams are quiet.", cut=False, draw=1)])
    assert reward.value == pytest.approx(0.5 * 2), "half of every merit, and half of every fault"
    assert len(questions) == 2
    for question in questions:
        shown = "".join(message["content"] for message in question.messages)
        assert context.topic.motion in shown and context.slot.side in shown and "Trams are quiet." in shown
    points = context.topic.points[context.slot.side]
    assert all(any(point.claim in said["content"] for said in questions[0].messages) for point in points) or all(
        any(point.claim in said["content"] for said in questions[1].messages) for point in points
    )
