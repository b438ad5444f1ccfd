"""`python -m runs.report`: the command; see `runs/report/__init__.py`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from runs import tables
from runs.files import replace_bytes
from runs.report.charts import LONGEST, WIDEST
from runs.report.page import html, markdown, pictures
from runs.report.reading import Reading
from runs.run import NEWEST, OUT, find
from runs.settings import Command, parse
from topics.errors import InputError, command, one_line

Format = Literal["html", "md", "png"]


class Settings(Command, cli_prog_name="python -m runs.report"):
    """Write what can be read off a run as one page."""

    run: CliPositionalArg[str] = NEWEST
    """a run's folder or id"""
    judge: str | None = None
    """whose verdicts come first (default: a panel's, or else the first judge's)"""
    format: Format = "html"
    """html: one page; md: its tables; png: its leaderboard and win matrix"""
    samples: Annotated[int, Field(ge=0, le=100)] = 5
    """debates to show in full"""
    write: Path | None = None
    """file to write, or, of pictures, the folder (default: in the run's folder)"""
    out: Path = OUT
    """where runs are made"""


@command
def main(argv: list[str] | None = None) -> int:
    """The command line; see `--help`."""
    settings = parse(Settings, argv)
    folder = find(settings.run, out=settings.out)
    run = tables.verified(folder)
    reading = Reading.of(run, settings.judge)
    target = settings.write or folder
    if settings.format == "png":
        made = {target / file: data for file, data in pictures(reading).items()}
    else:
        page = html(reading, settings.samples) if settings.format == "html" else markdown(reading)
        made = {target / f"report.{settings.format}" if target.is_dir() else target: page.encode()}
    for path, data in made.items():
        put(path, data)
        print(f"wrote {one_line(str(path))}, {len(data) / 1e6:.2f} MB")
    if settings.format == "png" and len(made) < 2:
        print(
            f"note: no picture of more than {WIDEST} contestants as a matrix, or {LONGEST} in a row, and none of nobody"
        )
    print(f"next:  python -m runs.view {shlex.quote(one_line(str(folder), 1000))}")
    return 0


def put(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    try:
        replace_bytes(path, data)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"cannot write {str(path)!r} ({why}); name another place with --write") from None


if __name__ == "__main__":
    sys.exit(main())
