"""Wrong input, told in one line.

Whoever finds that a user's input is wrong raises `InputError` with a sentence that says what happened, what
was expected, and what to type. A command's `main` is wrapped in `command`, which prints that line and exits
with 2, so that no user ever meets a traceback for a typing mistake:

    @command
    def main(argv: list[str] | None = None) -> int: ...

It lives in `topics` because every other package may import from here.
"""

import difflib
import functools
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

_EMOJI = "#*0-9©®‼⁉™ℹ←-⇿⌀-➿⤀-⥿⬀-⯿〰〽㊗㊙\U0001f000-\U0001faff"
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u2800\ufff9-\ufffb"
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    rf"(?<![{_EMOJI}]\ufe0f)"
)
"""A character without a shape, in which a text could hide another, or turn the direction of writing round: control
characters, ends of lines, marks of annotation, a Braille cell without dots, and what Unicode calls default ignorable.
Not so the joiners (U+200C, U+200D) that scripts and emoji are written with, nor U+FE0F, where it makes an emoji of what
stands before it."""


class Main(Protocol):
    """A command's `main`: takes a command line (None: that of the process), returns the exit code."""

    def __call__(self, argv: list[str] | None = None) -> int: ...


class InputError(ValueError):
    """The user's input is wrong; the message is the line they will read."""


def command(main: Main) -> Main:
    """Wrap a command's `main` so that wrong input is one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            code = main(argv)
            sys.stdout.flush()
            return code
        except InputError as error:
            print(f"error: {one_line(str(error), 1000)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 1
        except OSError as error:  # standard output is gone: `... | head` closed it, or its disk is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                return 0
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            return 1

    return wrapped


def is_file(path: Path) -> bool:
    """Whether there is such a file; no where the path is none that could be."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def listed(names: Iterable[str]) -> str:
    """Names in quotes, for a message: `'a', 'b'`."""
    return ", ".join(map(repr, names))


def near(name: str, known: Iterable[str], most: int = 3) -> str:
    """A hint that names what `name` may have meant: `; did you mean 'a' or 'b'?`, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def one_line(text: str, most: int = 300) -> str:
    """`text` on one line without what has no shape, at most `most` characters: safe to print or to log."""
    line = " ".join("".join(c if c.isprintable() else " " for c in UNSEEN.sub(" ", text[: 4 * most])).split())
    return line if len(line) <= most else line[: most - 1] + "…"
