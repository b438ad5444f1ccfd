"""GRPO on the tiny policy, at the size that it needs: what it earns on held-back topics rises, twice the same, and the
adapter goes back into the arena against its parent."""

import sys
from pathlib import Path

import pytest
from conftest import TRAINERS_WARN, newest, roster

torch = pytest.importorskip("torch")

from arena import run as arena  # noqa: E402
from training import grpo, sft  # noqa: E402
from training.loop import OPPONENTS, proof  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    *TRAINERS_WARN,
]


def test_what_is_earned_rises_and_the_adapter_plays_its_parent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = {"topics": "train", "format": "short", "roster": OPPONENTS, "limit": 3000, "out": out}
    run = arena.run(arena.Settings.model_validate(asked)).folder
    given = ["--from-run", str(run), "--out", str(out)]
    assert sft.main([*given, "--limit", "4000"]) == 0
    parent = newest(out)
    assert grpo.main(given) == 0
    child = newest(out)
    found = child.metrics
    assert child.parent == parent.id and found["unscored"] == 0
    assert float(found["gain"]) >= 0.1 and float(found["gain_low"]) > 0, found
    assert float(found["reward"]) == pytest.approx(float(found["reward_before"]) + float(found["gain"]), abs=1e-5)
    assert grpo.main([*given, "--limit", "32"]) == 0 and (once := newest(out)) != child
    assert grpo.main([*given, "--limit", "32"]) == 0 and newest(out).weights_digest == once.weights_digest

    seats = "".join(
        f'\n[[contestants]]\nname = "{name}"\nkind = "local"\nadapter = "{one.id}"\n'
        for name, one in (("child", child), ("parent", parent))
    )
    played = arena.run(
        arena.Settings.model_validate(
            {
                "topics": "test",
                "format": "short",
                "roster": roster(tmp_path / "roster.toml", judges=seats),
                "out": out,
            }
        )
    )
    assert played.sealed
    shown = proof(played.folder, "rules", "child")
    rate = shown.win_rate
    assert shown.topics == 59 and shown.debates + shown.void == 118
    assert rate.value is not None and rate.low is not None and rate.low <= rate.value <= (rate.high or 0)
    print(f"child against parent, sealed topics: {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]", file=sys.stderr)
