"""Settings: one pydantic model a command; the command line and a file fill the same model.

    class Settings(Command, cli_prog_name="python -m arena.run"):
        \"\"\"Play debates.\"\"\"
        seed: int = 0
        \"\"\"Run seed.\"\"\"

    settings = parse(Settings, argv, optional={"resume": NEWEST})

The command line wins over `--config FILE` (TOML, or a run's spec.json, whose settings it then takes); the
environment gives keys only and never a setting. Wrong input is an `InputError` that names the flag.
"""

import argparse
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, PydanticBaseSettingsSource, SettingsError

from runs.spec import Spec
from topics.errors import InputError, near


class Command(
    BaseSettings,
    extra="forbid",
    use_attribute_docstrings=True,
    cli_kebab_case=True,
    cli_implicit_flags="toggle",
    cli_hide_none_type=True,
    cli_avoid_json=True,
):
    """Base of every command's settings."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # neither the environment nor a .env file may change what a run does


S = TypeVar("S", bound=Command)


def parse(
    settings: type[S],
    argv: list[str] | None,
    optional: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> S:
    """Fill `settings` from a command line.

    `optional` names the flags that may stand without a value, and what they then mean; `defaults` are values that
    neither the command line nor `--config` gives.
    """

    def add_argument(container: Any, *names: str, **options: Any) -> Any:
        for name, default in (optional or {}).items():
            if f"--{name.replace('_', '-')}" in names:
                options |= {"nargs": "?", "const": default}
        if "metavar" in options and "choices" not in options:
            options["metavar"] = _METAVARS.get(options["metavar"], options["metavar"])
        options["help"] = _SAID.sub(r"\1", _NO_DEFAULT.sub("", options.get("help") or ""))
        return argparse._ActionsContainer.add_argument(container, *names, **options)

    words = sys.argv[1:] if argv is None else argv
    if any(not word.isprintable() for word in words):
        raise InputError("the command line holds control characters or bytes that are no UTF-8")
    prog = settings.model_config.get("cli_prog_name")
    parser = _Parser(prog=prog, description=settings.__doc__, formatter_class=_Formatter, allow_abbrev=False)
    source: CliSettingsSource[Any] = CliSettingsSource(settings, root_parser=parser, add_argument_method=add_argument)
    values = {**(defaults or {}), **_from_file(settings, words)}
    try:
        return CliApp.run(settings, cli_args=words, cli_settings_source=source, **values)
    except ValidationError as error:
        raise InputError(explain(error)) from None
    except SettingsError as error:
        raise InputError(f"the command line cannot be understood: {error}") from None


def explain(error: ValidationError) -> str:
    """The first fault of a settings model, as a sentence that names the flag."""
    first = error.errors()[0]
    flag = str(first["loc"][0]).replace("_", "-") if first["loc"] else "settings"
    if first["type"] == "extra_forbidden":
        return f"unknown setting {flag!r}"
    return f"--{flag} {first['input']!r}: {first['msg']}"


class _Parser(argparse.ArgumentParser):
    """A parser that tells what is wrong as everything else does."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        flags = [flag for action in self._actions for flag in action.option_strings]
        raise InputError(message + (near(unknown.split()[0], flags) if unknown != message else ""))


class _Formatter(argparse.HelpFormatter):
    """Help that fits a screen: one line a flag where the terminal is wide enough."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(110, shutil.get_terminal_size((110, 24)).columns))

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """`usage: prog [options] [RUN]`: the flags stand below, once is enough."""
        places = [f"[{action.metavar}]" for action in actions if not action.option_strings]
        super().add_usage(" ".join(["%(prog)s [options]", *places]), actions, groups, prefix)


_METAVARS = {"list[str]": "A,B", "dict[str,float]": "NAME=X", "int": "N", "float": "X", "Path": "PATH", "str": "NAME"}
_NO_DEFAULT = re.compile(r" \((?:required|default: (?:None|False|\[.*\]|\{\}|))\)$")

_SAID = re.compile(r"(\(default: .*\)) \(default: [^)]*\)$")
"""A default that a docstring tells, and argparse again."""


def peek(words: list[str], *names: str) -> dict[str, str | None]:
    """What a command line says of some flags, before it is parsed in full; None for what it does not say."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        finder.add_argument(f"--{name}")
    try:
        return vars(finder.parse_known_args(words)[0])
    except argparse.ArgumentError:
        return dict.fromkeys(names)  # the real parser will say it


def _from_file(settings: type[Command], words: list[str]) -> dict[str, Any]:
    """The settings in the file that `--config` names, if it does."""
    given = peek(words, "config")["config"]
    if given is None:
        return {}
    path = Path(given)
    values = Spec.read(path).settings if path.suffix == ".json" else read_toml(path)
    for name in values:
        if name not in settings.model_fields:
            raise InputError(f"unknown setting {name!r} in {str(path)!r}{near(name, settings.model_fields)}")
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not TOML: {error}") from None
