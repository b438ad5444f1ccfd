"""One debate as text: the motion, what was said in turn, what failed, the verdicts with their votes, and the cost.

    print(transcript(runs.load(folder), "fc1f41", width=80))

What contestants and judges said is shown as it is, with its lines kept; but whatever could move a cursor, recolour a
terminal or turn the direction of writing round is shown by its code point, and what is endless in part. FOR stands to
the left and AGAINST is indented, so colour adds nothing that is not there without it. Private reasoning is not even
read.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from runs.costs import beside, paid, unknown
from runs.panels import is_trajectory
from runs.spec import Spec
from runs.tables import Tables
from topics import SIDES
from topics.errors import UNSEEN, InputError, near, one_line

Row = dict[str, Any]
MOST = 20_000
"""Characters of a text that are shown."""
JOINERS = "\u200c\u200d"
"""They have no shape and stay: scripts and emoji are written with them."""
Line = tuple[str, int, str]
"""A text, by how much it is indented, and a style of `STYLES`, or none."""
STYLES = {"title": "1", "for": "1;36", "against": "1;35", "aside": "2"}
"""Colours as terminals number them."""
INDENT = {"for": 0, "against": 4}
NARROWEST = 20
"""Columns below which nothing is wrapped any narrower."""


def transcript(
    loaded: Tables, debate: str, judge: str | None = None, *, width: int | None = None, colour: bool = False
) -> str:
    """One debate: the motion, what was said in turn, what failed, the verdicts with their votes, and the cost.

    `debate` is a debate_id or the beginning of one; `judge` leaves out what the others decided. Lines are wrapped to
    `width` characters where one is given.
    """
    row = _debate(loaded, debate)
    lines = [*_said(loaded, row), *_failures(loaded, row), *_verdicts(loaded, row, judge), *_costs(loaded, row)]
    return "\n".join(_laid(lines, width, colour))


def _debate(loaded: Tables, debate: str) -> Row:
    rows = loaded.debates.filter(pl.col("debate_id").str.starts_with(debate)).collect()
    if rows.height != 1:
        found = f"{rows.height} debates of {str(loaded.folder)!r} begin with {debate!r}"
        some = ", ".join(map(repr, rows["debate_id"].head(3)))
        hint = near(debate, loaded.debates.select("debate_id").collect()["debate_id"].head(5000))
        raise InputError(f"{found}; expected the debate_id of one{f', such as {some}' if some else hint}")
    return rows.row(0, named=True)


def _rows(table: pl.LazyFrame, debate: Row, *columns: str) -> list[Row]:
    return table.filter(debate_id=debate["debate_id"]).select(*(columns or [pl.all()])).collect().to_dicts()


def _said(loaded: Tables, debate: Row) -> Iterator[Line]:
    """The motion, who argued, and the turns."""
    topic = loaded.topics.filter(topic_id=debate["topic_id"]).collect().row(0, named=True)
    yield one_line(topic["motion"], 1000), 0, "title"
    yield one_line(f"FOR {debate['for_contestant']}, AGAINST {debate['against_contestant']}; {debate['status']}"), 0, ""
    kind = ", ".join(filter(None, (topic["theme"], debate["split"])))
    about = f"topic {debate['topic_id']} ({kind}); {debate['opener'].upper()} opens"
    yield one_line(f"debate {debate['debate_id']} on {about}"), 0, "aside"
    turns = _rows(loaded.turns, debate, "turn", "side", "stage", "contestant", "text", "words", "trimmed")
    for turn in sorted(turns, key=lambda turn: int(turn["turn"])):
        words = f"{turn['words']} words{', trimmed' if turn['trimmed'] else ''}"
        title = f"{turn['turn']}. {turn['side'].upper()} {turn['contestant']}: {turn['stage']} ({words})"
        yield "", 0, ""
        yield one_line(title), INDENT[turn["side"]], turn["side"]
        yield _safe(turn["text"]), INDENT[turn["side"]], ""


def _failures(loaded: Tables, debate: Row) -> Iterator[Line]:
    for failure in _rows(loaded.failures, debate):
        where = f"{failure['step']} {failure['turn'] or ''}".strip()
        who = failure["contestant"] or failure["judge"] or "nobody"
        tries = f" ({failure['attempts']} attempts)" if failure["attempts"] > 1 else ""
        yield "", 0, ""
        yield one_line(f"failed at {where}: {who}, {failure['kind']}{tries}, {failure['message']}", 1000), 0, "title"


def _verdicts(loaded: Tables, debate: Row, judge: str | None) -> Iterator[Line]:
    """Each judge's verdict with its votes; of a trajectory the votes are left out unless it is the one asked for."""
    verdicts = {row["judge"]: row for row in _rows(loaded.verdicts, debate)}
    votes = _rows(loaded.votes, debate)
    judges = list(dict.fromkeys([*verdicts, *(vote["judge"] for vote in votes)]))
    if judge is not None and judge not in judges:
        known = f"there are those of {', '.join(map(repr, judges))}" if judges else "nobody has judged it"
        raise InputError(
            f"no verdict of judge {judge!r} on debate {debate['debate_id']!r}; {known}{near(judge, judges)}"
        )
    panels = {panel["name"]: panel["members"] for panel in Spec.read(loaded.folder).panels}
    for name in [judge] if judge else judges:
        yield "", 0, ""
        yield _verdict(name, verdicts.get(name), debate), 0, "title"
        for member in panels.get(name, ()):
            said = verdicts[member]["winner"] if member in verdicts else "no verdict"
            yield one_line(f"{member}: {said}"), 2, ""
        if judge or not is_trajectory(name):
            for vote in votes:
                yield from _vote(vote) if vote["judge"] == name else ()


def _verdict(judge: str, verdict: Row | None, debate: Row) -> str:
    if verdict is None:
        return one_line(f"no verdict of {judge} yet")
    winner, margin = verdict["winner"], verdict["margin"]
    who = f" ({debate[f'{winner}_contestant']})" if winner in SIDES else ""
    parts = ["no margin" if margin is None else f"margin {margin:+.2f}", f"votes {verdict['votes']}"]
    parts += ["not consistent"] if not verdict["consistent"] else []
    parts += ["related to a contestant"] if verdict["related"] else []
    return one_line(f"verdict of {judge}: {winner}{who}; {', '.join(parts)}")


def _vote(vote: Row) -> Iterator[Line]:
    sure = "" if vote["confidence"] is None else f", confidence {100 * vote['confidence']:.0f} %"
    first = vote["order"].removesuffix("_first").upper()
    yield one_line(f"vote {vote['sample'] + 1}, {first} first: {vote['winner']}{sure}"), 2, "aside"
    scores = (f"{score['criterion']} {score['for']:g} to {score['against']:g}" for score in vote["scores"] or ())
    if said := one_line(", ".join(scores), 1000):
        yield f"scores, FOR to AGAINST: {said}", 4, ""
    if vote["error"]:
        yield f"error: {one_line(vote['error'], 1000)}", 4, ""
    if vote["rationale"]:
        yield _safe(vote["rationale"]), 4, ""
    for quote in vote["quotes"] or ():
        yield f'turn {quote["turn"]}, {quote["side"].upper()}: "{one_line(quote["text"], 1000)}"', 4, ""


def _costs(loaded: Tables, debate: Row) -> Iterator[Line]:
    spec = Spec.beside(loaded.folder)
    known = [unknown(spec), paid(spec)] if spec else [pl.col("unknown_usd").is_not_null().alias("unknown")]
    columns = ("role", "prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd", "unknown")
    calls = _rows(loaded.calls.with_columns(known), debate, *columns)
    yield "", 0, ""
    yield f"cost {dollars(calls)}, {len(calls)} calls", 0, "title"
    for role in dict.fromkeys(call["role"] for call in calls):
        mine = [call for call in calls if call["role"] == role]
        yield f"{role}: {len(mine)} calls, {dollars(mine)}, {_tokens(mine)}", 2, ""


def dollars(calls: Sequence[Row]) -> str:
    """What calls cost together, in words; of each its `cost_usd` and `unknown`, as `runs.costs` has them."""
    costs = [call["cost_usd"] for call in calls if call["cost_usd"] is not None or not call["unknown"]]
    if None in costs:
        return "not known, for want of a price"
    if calls and not costs:
        return "not known"
    return f"{sum(costs):.4f} USD{beside(sum(call['unknown'] for call in calls))}"


def _tokens(calls: Sequence[Row]) -> str:
    """Tokens of each kind; those that were not counted, or not in every call, are said to be so."""
    kinds = {kind: [call[f"{kind}_tokens"] for call in calls] for kind in ("prompt", "cached", "completion")}
    counted = {kind: [n for n in values if n is not None] for kind, values in kinds.items()}
    if not any(counted.values()):
        return "tokens not counted"
    told = {kind: f"{sum(values):,} {kind}" if values else f"{kind} not counted" for kind, values in counted.items()}
    some = {kind: f" (of {len(values)} calls)" for kind, values in counted.items() if 0 < len(values) < len(calls)}
    return f"tokens: {', '.join(told[kind] + some.get(kind, '') for kind in kinds)}"


# Laying out


def _laid(lines: Iterable[Line], width: int | None, colour: bool) -> Iterator[str]:
    """Lines as they are printed."""
    for text, indent, style in lines:
        for line in text.split("\n"):
            for piece in [line] if width is None else _wrapped(line, max(width - indent, NARROWEST)):
                shown = f"{' ' * indent}{piece}".rstrip()
                yield f"\x1b[{STYLES[style]}m{shown}\x1b[0m" if colour and style and shown else shown


def _wrapped(line: str, width: int) -> list[str]:
    """Pieces that take up so many columns at most; some letters take two."""
    from rich.console import Console
    from rich.text import Text

    return [piece.plain for piece in Text(line).wrap(Console(width=width), width)]


def _safe(text: str) -> str:
    """A text of somebody's, line by line, for a terminal."""
    more = f" [{MOST:,} of {len(text):,} characters]" if len(text) > MOST else ""
    lines = (UNSEEN.sub(_code, line.expandtabs(4)) for line in text[:MOST].splitlines())
    lines = ("".join(map(_shape, line)) for line in lines)
    return "\n".join(lines) + more


def _shape(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    return " " if character.isspace() else f"<U+{ord(character):04X}>"


def _code(found: re.Match[str]) -> str:
    return f"<U+{ord(found[0]):04X}>"
