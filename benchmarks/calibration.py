"""`python benchmarks/calibration.py`: do report cards find what was planted in judges?

Simulated judges (`arena/simulate_dials.py`) with known biases are calibrated over and over: each time a run is played
on other topics, cases are made of it, the LLM judge asks its questions and reads the answers, and a card is drawn up.
Told are, for each judge and metric, what was planted (worked out in `tests/planted.py`), the mean of the cards, and how
many of their 95 % intervals hold what was planted; and how many cards of each judge pass every gate. The judge is asked
without a network between, which changes no vote: 100 calibrations of each of five judges are 960,000 votes.

    python benchmarks/calibration.py --calibrations 5 --topics 20      # a look
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for those who run it as a file
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import polars as pl
from planted import expected

import topics as catalogue
from arena import simulate_judge
from arena.cases import material
from arena.run import Settings, run
from arena.simulate_dials import dials
from judges.asking import NoReply, Question, Reply
from judges.calibration import Case, frame
from judges.llm import LLM, ORDERS
from judges.report_card import GATES, card
from runs.records import content_seed

JUDGES = {
    "unbiased": "",
    "wavering": "noise=0.02",
    "first": "position=0.15&noise=0.2&tie=0.05&invalid=0.03",
    "longer": "side=0.2&length=0.2&noise=0.1&abstain=0.05",
    "obedient": "injection=0.25&noise=0.15&tie=0.1&side=-0.1&invalid=0.05",
}
METRICS = (
    "position_consistency", "repetition_stability", "position_bias", "known_answers", "injection_flips",
    "injection_flips_raw", "name_flips", "length_slope", "side_term", "tie_rate", "invalid_rate",
)  # fmt: skip
SAMPLES = 2
MATCHES = 4
"""Debates on a topic, of which cases are made."""
COST = 0.001
"""USD of a question, so that a verdict has a price."""
Cards = defaultdict[str, list[tuple[list[dict[str, Any]], dict[str, float]]]]
"""Of each judge: the rows of its cards, each with what they should say."""


@dataclass
class Asked:
    """The `ask` of a simulated judge, and what was asked."""

    model: str
    calls: list[tuple[str, str, float]]

    async def __call__(self, question: Question) -> Reply:
        self.calls.append((question.about, "judge", COST))
        seed = content_seed(self.model, question.about, question.draw)
        text = simulate_judge.answer(self.model, question.messages, seed)
        if text is None:
            raise NoReply("unparseable", "the simulated judge does not know what it was asked")
        return Reply(text=text)


async def votes(judge: LLM, cases: Sequence[Case]) -> pl.DataFrame:
    """The votes of a judge on every case; one without a usable answer is invalid."""
    rows = []
    for case, order, sample in product(cases, ORDERS, range(SAMPLES)):
        try:
            winner = (await judge.vote(case.debate, order, sample)).winner
        except NoReply:
            winner = "invalid"
        rows.append((case.debate.id, judge.name, order, sample, winner))
    return pl.DataFrame(rows, ["debate_id", "judge", "order", "sample", "winner"], orient="row")


def calibrated(name: str, number: int, topics: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The card of one calibration, as rows, and what it should say."""
    ids = sorted((topic.topic_id for topic in catalogue.load("train")), key=lambda i: content_seed(number, i))
    with tempfile.TemporaryDirectory() as where:
        settings = Settings(out=Path(where), topics=",".join(ids[:topics]), matches=MATCHES, seed=number)
        with redirect_stderr(StringIO()):  # its progress
            folder = run(settings).folder
        made = material(folder, seed=number, limit=topics, each=1).cases
    ask = Asked(f"{name}{number}?{JUDGES[name]}" if JUDGES[name] else f"{name}{number}", [])
    found = asyncio.run(votes(LLM("judge", ask=ask), made))
    winner = pl.when((pl.col("winner") != "invalid").any()).then(pl.lit("for")).otherwise(pl.lit("invalid"))
    verdicts = found.group_by("debate_id", "judge").agg(winner=winner)  # a card counts valid ones, no more
    calls = pl.DataFrame(ask.calls, ["debate_id", "role", "cost_usd"], orient="row")
    rows = card(frame(made), found, verdicts, calls, judge="judge", seed=number).to_dicts()
    return rows, expected(made, dials(ask.model), right=1)


def pool_of(processes: int) -> ProcessPoolExecutor:
    """Processes that begin afresh: Polars does not survive a fork."""
    return ProcessPoolExecutor(processes, get_context("spawn"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrations", type=int, default=100)
    parser.add_argument("--topics", type=int, default=60)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    began = time.perf_counter()
    with pool_of(options.processes) as pool:
        tasks = [
            (name, pool.submit(calibrated, name, number, options.topics))
            for name in JUDGES
            for number in range(options.calibrations)
        ]
        cards: Cards = defaultdict(list)
        for name, task in tasks:
            cards[name].append(task.result())
    print(f"{len(tasks)} calibrations on {options.topics} topics, {time.perf_counter() - began:,.0f} s")
    told(cards)


def within(row: dict[str, Any], value: float) -> bool:
    """Whether an interval holds a value, but for rounding."""
    return bool(row["low"] - 1e-9 <= value <= row["high"] + 1e-9)


def told(cards: Cards) -> None:
    """Print what was planted beside what was found."""
    held: list[bool] = []
    for name, of_judge in cards.items():
        print(f"\n{name}: {JUDGES[name] or 'no dials'}\n{'':24}{'planted':>9}{'mean':>9}{'held':>7}")
        for metric in METRICS:
            found = [next(row for row in rows if row["metric"] == metric) for rows, _ in of_judge]
            true = [planted[metric] for _, planted in of_judge]
            inside = [within(row, value) for row, value in zip(found, true, strict=True)]
            print(f"{metric:24}{mean(true):9.4f}{mean(row['value'] for row in found):9.4f}{mean(inside):7.0%}")
            held += inside if JUDGES[name] else []
        passed = sum(all(row["passed"] for row in rows if row["metric"] in GATES) for rows, _ in of_judge)
        print(f"passes every gate: {passed} of {len(of_judge)}")
    print(f"\nintervals of judges with dials that hold what was planted: {mean(held):.1%} of {len(held):,}")


if __name__ == "__main__":
    main()
