"""`python -m judges.human`: a person as a judge, through a CSV that any spreadsheet opens. Blind.

    python -m judges.human --from-run RUN --name ann --write ballots.csv      # draws debates, one row each
    python -m judges.human --from-run RUN --name ann --read ballots.csv       # stores what was filled in

A ballot shows what every judge is shown: the motion, what is known, and the speeches under the neutral names of
`runs/transcript.py`; who the contestants are stands nowhere (a speech that tells it, tells it to all judges). The
person fills in `winner` (one of the two names, tie or abstain) and, if they like, `confidence` (0 to 100) and `reason`.
The vote then is one like any other, of judge `human:ann`, with a verdict by the same function. The same seed draws the
same debates for everybody, so that two people can be compared.

A file is checked whole before anything is stored, and stored whole or not at all; a vote that is stored is not changed
any more. Text that a spreadsheet would take for a formula or a number gets an apostrophe in front: speeches are
strangers' words, and must not run.
"""

import csv
import io
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from runs import NEWEST, OUT, Run, find
from runs.ballots import MOST_REASON, draw, name_of, store, vote_of, votes_of
from runs.journal import StorageError
from runs.records import Debate, Vote, Winner, content_id
from runs.settings import Command, parse
from runs.transcript import Transcript
from topics import SIDES
from topics.errors import InputError, command, one_line

COLUMNS = ("ballot", "digest", "motion", "known", "for", "against", "transcript", "winner", "confidence", "reason")
"""Of the file. `ballot` is the debate's id, `digest` that of what was said in it; under `for` and `against` stand the
names of who speaks for the motion, and against it."""
SHOWN = 5
"""Wrong rows that an error names one by one."""

_FORMULA = re.compile(r"(^|[;\t\r\n])([\s\"]*)(?=[=+\-@＝＋－＠])")
"""Where a spreadsheet may see a formula begin: at the start of a cell, and of what becomes a cell where it is told that
semicolons, tabs or lines part them."""


Percent = Annotated[float, Field(ge=0, le=100)]


class Ballot(BaseModel):
    """A row of the file, as far as it is read."""

    model_config = ConfigDict(frozen=True)

    ballot: Annotated[str, Field(min_length=1)]
    digest: str
    winner: str = ""
    confidence: Annotated[Percent | None, BeforeValidator(lambda cell: cell or None)] = None
    reason: Annotated[str, Field(max_length=MOST_REASON)] = ""


@dataclass(frozen=True, kw_only=True)
class Count:
    """What became of the ballots of a file."""

    stored: int
    already: int
    """Voted before, in the same way."""
    empty: int
    """Without a winner: not voted on."""


def write(run: Run, person: str, path: Path, *, limit: int = 50, seed: int = 0) -> int:
    """Write ballots of debates that a person has not voted on, in the order of the draw; returns how many."""
    voted = votes_of(run, name_of(person))
    left = [match for match in draw(run.journal.complete(), seed) if match.debate_id not in voted]
    if not left:
        raise InputError(f"{str(run.folder)!r} has no complete debate that {person!r} has not voted on")
    debates = {match.debate_id: run.debate(match) for match in left[:limit]}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, quoting=csv.QUOTE_ALL, restval="")
    writer.writeheader()
    for debate in debates.values():
        writer.writerow({name: harmless(cell) for name, cell in _shown(debate).items()})
    try:
        with path.open("x", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets the encoding
            file.write(text.getvalue())
    except FileExistsError:
        raise InputError(f"{str(path)!r} exists, and may hold votes; name another file after --write") from None
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    return len(debates)


def _shown(debate: Debate) -> dict[str, str]:
    seen = Transcript.of(debate)
    turns = (f"{seen.names[turn.side]} (turn {turn.turn}):\n{turn.text}" for turn in debate.turns)
    return {
        **{"ballot": debate.id, "digest": _digest(debate), "motion": debate.topic.motion, "known": debate.topic.info},
        **{side: seen.names[side] for side in SIDES},
        "transcript": "\n\n".join(turns),
    }


def read(run: Run, person: str, path: Path) -> Count:
    """Store the votes of a file that a person filled in, with their verdicts; a sealed run is sealed again.

    Raises `InputError` that names the rows which are wrong; then nothing is stored.
    """
    judge, rows = name_of(person), list(_rows(path))
    ballots = {row.get("ballot") for _, row in rows}
    debates = {m.debate_id: run.debate(m) for m in run.journal.complete() if m.debate_id in ballots}
    stored = votes_of(run, judge)
    votes: dict[str, Vote | None] = {}
    wrong: list[str] = []
    for at, row in rows:
        try:
            ballot, vote = _read(row, debates, judge)
            if ballot in votes:
                raise ValueError(f"ballot {ballot!r} stands in this file twice")
            if vote and ballot in stored and stored[ballot] != (vote.winner, vote.confidence, vote.rationale):
                raise ValueError(f"{person} has voted on {ballot!r} otherwise before, and a stored vote is not changed")
            votes[ballot] = vote
        except ValueError as error:
            wrong.append(f"row {at}: {error}")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise InputError(f"nothing of {str(path)!r} was stored: {'; '.join(wrong[:SHOWN])}{more}")
    cast = [vote for vote in votes.values() if vote is not None]
    fresh = [vote for vote in cast if vote.debate_id not in stored]
    store(run, judge, [(debates[vote.debate_id].match, vote) for vote in fresh])
    return Count(stored=len(fresh), already=len(cast) - len(fresh), empty=len(votes) - len(cast))


def _read(row: Mapping[str, str], debates: Mapping[str, Debate], judge: str) -> tuple[str, Vote | None]:
    """A row's ballot and vote, None where it has no winner. Raises `ValueError` that says what is wrong with it."""
    try:
        filled = Ballot.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{first['loc'][0]} {one_line(repr(first['input']), 60)}: {first['msg']}") from None
    debate = debates.get(filled.ballot)
    if debate is None:
        raise ValueError(f"ballot {one_line(filled.ballot, 60)!r} is of no complete debate of this run")
    if filled.digest != _digest(debate):
        raise ValueError(f"ballot {debate.id!r} is of another run, in which something else was said")
    if not filled.winner:
        return debate.id, None
    names = Transcript.of(debate).names
    winners: dict[str, Winner] = {"tie": "tie", "abstain": "abstain"}
    winners |= {names[side].lower(): side for side in SIDES}
    if filled.winner.lower() not in winners:
        expected = f"{names['for']}, {names['against']}, tie or abstain"
        raise ValueError(f"winner {one_line(filled.winner, 60)!r} of {debate.id!r}; expected {expected}")
    confidence = None if filled.confidence is None else filled.confidence / 100
    vote = vote_of(debate, judge, winners[filled.winner.lower()], confidence=confidence, reason=filled.reason)
    return debate.id, vote


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a file with their numbers as a spreadsheet shows them; empty ones are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is not UTF-8; save it from the spreadsheet as CSV UTF-8") from None
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a debate may be longer than the module's own limit
    first = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ",")
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        if missing := {"ballot", "digest", "winner"} - set(header):
            raise InputError(f"{str(path)!r} has no column {', '.join(sorted(missing))}; expected a file of --write")
        for at, cells in enumerate(lines, 2):
            if any(cell.strip() for cell in cells):
                yield at, dict(zip(header, map(_plain, cells), strict=False))
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is no CSV: {error}") from None


def _digest(debate: Debate) -> str:
    return content_id(Transcript.of(debate).text)


def harmless(cell: str) -> str:
    """`cell` with an apostrophe in front of what a spreadsheet would take for a formula or for a number."""
    return f"'{cell}" if _is_number(cell) else _FORMULA.sub(r"\1\2'", cell)


def _plain(cell: str) -> str:
    """A cell as it was before `harmless`, without the blanks around it."""
    cell = cell.strip()
    return cell[1:] if cell.startswith("'") and harmless(cell[1:]) == cell else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


class Settings(Command, cli_prog_name="python -m judges.human"):
    """Let a person judge the debates of a run, through a CSV: --write it, fill it in, --read it."""

    from_run: str = NEWEST
    """a run, by folder or id; newest: the newest finished one"""
    name: str = ""
    """of the person: letters, digits, - and _"""
    write: Path | None = None
    """file to write ballots to"""
    read: Path | None = None
    """file with ballots that are filled in"""
    limit: Annotated[int, Field(ge=1)] = 50
    """at most N ballots"""
    seed: int = 0
    """of the draw: the same debates for everybody"""
    out: Path = OUT
    """where runs are"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv, optional={"from_run": NEWEST})
    if (settings.write is None) == (settings.read is None):
        raise InputError("expected either --write FILE, for empty ballots, or --read FILE, once they are filled in")
    with Run.resume(find(settings.from_run, out=settings.out, sealed=True)) as held:
        folder = shlex.quote(str(held.folder))
        if settings.write is not None:
            count = write(held, settings.name, settings.write, limit=settings.limit, seed=settings.seed)
            print(f"wrote {settings.write}: {count:,} ballots; fill in winner and, if you like, confidence and reason")
            then = f"--name {settings.name} --read {shlex.quote(str(settings.write))}"
            print(f"next:  python -m judges.human --from-run {folder} {then}")
        elif settings.read is not None:
            try:
                found = read(held, settings.name, settings.read)
            except StorageError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            rest = f"{found.already:,} were stored before, {found.empty:,} ballots have no winner"
            print(f"wrote {held.folder}: {found.stored:,} votes of {settings.name}; {rest}")
            print(f"next:  python -m runs.bias {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
