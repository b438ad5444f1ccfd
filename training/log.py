"""The log of a training: which of its numbers are kept, under which names, and the picture of them.

    log.table(trainer.state.log_history)        # one row a step
    log.figures(table, step=40)                 # what stands in the registry: what the check at a step found
    log.curve(table, path)

A trainer and a check write what they like into the trainer's log, which is part of every checkpoint; a `Log` says
what of it is kept. That of SFT and DPO stands here, that of GRPO in `training/draws.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl


@dataclass(frozen=True, kw_only=True)
class Log:
    """What is kept of a training's numbers."""

    columns: Mapping[str, str]
    """By the name that a trainer or a check gives, the column that it becomes."""
    panels: Mapping[str, str]
    """Columns that have a curve, and its title."""
    found: tuple[str, ...]
    """Columns of a check that stand in the registry."""
    told: tuple[str, ...]
    """What a progress line names, as trainer and check call it."""
    before: tuple[str, ...] = ()
    """Columns of the first check that stand in the registry too, as `<column>_before`."""

    def table(self, history: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
        """A trainer's log as a table: one row a step, null where a step has no such value."""
        rows: dict[int, dict[str, float]] = {}
        for entry in history:
            step = int(entry["step"])
            row = rows.setdefault(step, {"step": step, "epoch": float(entry.get("epoch", 0))})
            row |= {column: float(entry[name]) for name, column in self.columns.items() if entry.get(name) is not None}
        schema = {"step": pl.Int64, "epoch": pl.Float64} | dict.fromkeys(self.columns.values(), pl.Float64)
        return pl.DataFrame([rows[step] for step in sorted(rows)], schema=schema)

    def figures(self, table: pl.DataFrame, step: int) -> dict[str, float | int | str]:
        """What the check at `step` found, and the first one."""
        row = table.row(by_predicate=pl.col("step") == step, named=True)
        first = table.row(by_predicate=pl.col("step") == 0, named=True)
        values = {f"{name}_before": first[name] for name in self.before} | {name: row[name] for name in self.found}
        return {name: round(value, 6) for name, value in values.items() if value is not None} | {"steps": step}

    def curve(self, table: pl.DataFrame, path: Path) -> None:
        """The curves as one picture, a panel for each value that was measured; with its interval where it has one."""
        import altair

        charts = []
        for name, title in self.panels.items():
            seen = table.filter(pl.col(name).is_not_null())
            if seen.height < 2:
                continue
            axes = {"x": altair.X("step:Q"), "y": altair.Y(f"{name}:Q", title=title, scale=altair.Scale(zero=False))}
            chart = altair.Chart(seen).mark_line(point=seen.height < 60).encode(**axes)
            if f"{name}_low" in seen.columns:
                ends = {"y": altair.Y(f"{name}_low:Q", title=title), "y2": f"{name}_high:Q"}
                chart += altair.Chart(seen).mark_rule().encode(x="step:Q", **ends)
            charts.append(chart.properties(width=280, height=200))
        if charts:
            altair.hconcat(*charts).save(str(path))


PREFERENCE = Log(
    columns={
        "rewards/accuracies": "train_accuracy",
        "rewards/margins": "train_margin",
        "mean_token_accuracy": "token_accuracy",
        "num_tokens": "tokens",
        "grad_norm": "grad_norm",
        "learning_rate": "learning_rate",
        "loss": "loss",
        **{
            name: name
            for name in ("accuracy", "accuracy_low", "accuracy_high", "margin", "held_back_loss", "perplexity")
        },
    },
    panels={
        "loss": "training loss",
        "accuracy": "preference accuracy, held-back topics",
        "perplexity": "perplexity, held-back speeches",
    },
    found=("accuracy", "accuracy_low", "accuracy_high", "margin", "perplexity"),
    told=("loss", "accuracy", "perplexity"),
)
"""Of SFT and DPO."""
