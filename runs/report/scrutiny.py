"""Chapters of a report on how far to trust it: sides, swapped pairs, report cards, agreement, people's votes.

Each function takes a `Reading` and yields tables, pictures and remarks; the figures come from `runs/bias.py`,
`runs/pairings.py`, `runs/cards.py` and `runs/gold.py`.
"""

from collections.abc import Callable

import polars as pl

from runs import cards, gold
from runs.pairings import swaps
from runs.panels import HUMAN
from runs.ratings import RatingsError
from runs.report import charts
from runs.report.reading import (
    DASH,
    Column,
    Note,
    Parts,
    Reading,
    Row,
    Table,
    estimate,
    name,
    picture,
    points,
    rate,
    text,
    whole,
)
from runs.shares import shares
from runs.show import trust
from topics.errors import InputError


def sides(reading: Reading) -> Parts:
    """How often FOR wins, by judge."""
    found = reading.bias["side"].filter(pl.col("theme").is_null())
    if not len(found):
        yield Note(text="not shown: nobody has given a verdict")
        return
    found = reading.by_judge(found)
    drawn = found.select(name="judge", value="share", low="share_low", high="share_high")
    says = "How often FOR wins, by judge, a tie as half"
    yield from picture(charts.shares(drawn, "FOR won"), "sides", says)
    yield Table.of(
        found,
        says,
        text("judge"),
        rate("FOR won", "share"),
        Column(head="side term", show=_side_term(reading)),
        whole("verdicts"),
        whole("undecided"),
        whole("topics"),
    )


def _side_term(reading: Reading) -> Callable[[Row], str]:
    def shown(row: Row) -> str:
        try:
            return points(reading.board(row["judge"]).side)
        except (RatingsError, InputError):
            return "unknown"

    return shown


def swapped(reading: Reading) -> Parts:
    """Whether the side decides, where the same two met on both sides."""
    found = swaps(reading.debates, reading.verdicts)
    columns = (
        rate("the side decided", "side_share"),
        rate("the contestant decided", "contestant_share"),
        rate("neither", "neither_share"),
        whole("pairs"),
        whole("FOR won both", "for_both"),
        whole("AGAINST won both", "against_both"),
        whole("topics"),
    )
    if not len(found):
        yield Note(text="no two debates differ in nothing but who is on which side")
        return
    overall = reading.by_judge(found.filter(pl.col("contestant").is_null()))
    yield Table.of(overall, "Pairs of debates that differ in who is on which side", text("judge"), *columns)
    pairs = found.filter(pl.col("contestant").is_not_null(), judge=reading.judge)
    caption = f"The same by contestants, of {name(reading.judge)}"
    yield Table.of(pairs, caption, text("contestant"), text("and", "other"), *columns, folded=True)


def verdicts(reading: Reading) -> Parts:
    """What became of a judge's verdicts."""
    said = reading.verdicts.filter(pl.col("judge").is_in(reading.judges))
    said = said.join(reading.debates.filter(status="complete").select("debate_id", "topic_id"), on="debate_id")
    if not len(said):
        return
    winner = pl.col("winner")
    parts = {name: winner == name for name in ("tie", "abstain", "invalid")}
    found = shares(said, ["judge"], {**parts, "consistent": pl.col("consistent"), "related": pl.col("related")})
    found = found.join(said.group_by("judge").agg(n=pl.len()), on="judge", maintain_order="left")
    yield Table.of(
        reading.by_judge(found),
        "Verdicts; consistent: the orders of asking agree (of a panel: its members)",
        text("judge"),
        rate("consistent", "consistent"),
        *(rate(outcome, outcome) for outcome in parts),
        rate("related to a contestant", "related"),
        whole("verdicts", "n"),
        whole("topics"),
    )


def report_cards(reading: Reading) -> Parts:
    """Of each judge that was calibrated, and who was not."""
    found, said = cards.look(reading.out)[0], dict[str, None]()
    for entry in reading.spec.judges:
        if entry["name"] not in reading.judges:
            continue
        card = cards.newest(found, entry)
        if card is not None:
            frame = pl.DataFrame([row.model_dump() for row in card.rows], schema=_CARD)
            verdict = Column(
                head="gate met", show=lambda row: {True: "yes", False: "NO"}.get(row["passed"], DASH), text=True
            )
            yield Table.of(
                frame,
                f"Report card of {name(entry['name'])}, from calibration {name(card.run)}",
                text("metric"),
                verdict,
                text("gate"),
                estimate("value", "value", "", digits=3),
                whole("n"),
                whole("topics"),
            )
        warnings = [one for one in trust(reading.out, reading.spec, entry["name"]) if one not in said]
        said |= dict.fromkeys(warnings)  # of a card that cannot be read, once
        yield from (Note(text=warning) for warning in warnings)


_CARD = {
    **{"metric": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64},
    **{"topics": pl.Int64, "n": pl.Int64, "gate": pl.String, "passed": pl.Boolean},
}


def agreement(reading: Reading) -> Parts:
    """Whether judges agree, of all and of every two."""
    found = reading.bias["agreement"]
    if not len(found):
        yield Note(text="agreement is not shown: it takes two judges")
        return
    yield Table.of(
        found,
        "Agreement; alpha and kappa take away what chance alone would give",
        text("judge", none="all"),
        text("and", "other", none="all"),
        rate("agree", "agreement"),
        estimate("alpha", "alpha", digits=2),
        estimate("kappa", "kappa", digits=2),
        whole("debates"),
        whole("undecided"),
        whole("topics"),
    )


def family(reading: Reading) -> Parts:
    """What being related to a judge is worth."""
    found = reading.bias["family"]
    if not len(found):
        yield Note(text="favour for family is not shown: no judge of this run has a family")
        return
    yield Table.of(
        found,
        "Favour for family: what a judge gives to its own, less what others give them, in points of a debate",
        text("judge"),
        text("family"),
        estimate("gives its own", "share", digits=3),
        estimate("others give them", "others", digits=3),
        estimate("favour", "favour", digits=3, signed=True),
        whole("debates"),
        whole("topics"),
    )


def corrected(reading: Reading) -> Parts:
    """What win rates would be if people had judged, where people voted."""
    if not any(judge.startswith(HUMAN) for judge in reading.judges):
        yield Note(text="no person has voted, so nothing can be corrected: python -m runs.view, or judges.human")
        return
    yield Table.of(
        gold.judges(reading.run),
        "Judges beside people, on debates that both have decided",
        text("judge"),
        rate("for where people say for", "sensitivity"),
        rate("against where people do", "specificity"),
        rate("agree", "agreement"),
        estimate("kappa", "kappa", digits=2),
        whole("debates"),
        whole("topics"),
    )
    if reading.judge is None or reading.judge.startswith(HUMAN):
        return
    found = gold.win_rates(reading.run, reading.judge)
    yield Table.of(
        found,
        f"Win rates by {name(reading.judge)}, and corrected for what it gets wrong beside people",
        text("contestant"),
        rate("by the judge", "win_rate"),
        rate("by people alone", "people_rate"),
        rate("corrected", "corrected"),
        whole("debates"),
        whole("by people", "people_debates"),
        whole("topics"),
        notes=(f"not corrected: {why}" for why in found["why"].drop_nulls().unique().sort()),
    )
