"""The README and the other pages say what is so: their commands are run, and print what they show."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from arena import simulate

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = str(Path(sys.executable))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def typed(command: str, cwd: Path, **variables: str) -> str:
    """What a command prints, run as a user would from `cwd`."""
    words = shlex.split(command, comments=True)
    assert words[0] == "python"
    done = subprocess.run([PYTHON, *words[1:]], cwd=cwd, capture_output=True, text=True, env=os.environ | variables)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.mark.slow
def test_the_first_screen_is_true(tmp_path: Path) -> None:
    assert README.index("make demo") < 400, "one sentence, one command"
    shown = blocks(README, "text")[0]
    printed = typed("python -m arena.run --topics train", tmp_path)
    assert printed.startswith(shown), "the leaderboard of the README is the one that make demo ends with"
    (folder,) = (tmp_path / "runs" / "out").iterdir()
    assert f"wrote runs/out/{folder.name}: 6,000 debates" in printed
    command = printed.strip().splitlines()[-1].removeprefix("next:")
    assert "closing" in typed(command, tmp_path)


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    commands = [line for block in blocks(README, "bash") for line in block.splitlines() if line.startswith("python")]
    assert len(commands) >= 6
    printed = {command: typed(command, tmp_path) for command in commands}
    assert "nothing was written" in printed[commands[0]]
    assert "test topics are held out" in next(text for command, text in printed.items() if "--topics test" in command)
    (code,) = blocks(README, "python")
    assert "closing" in subprocess.run([PYTHON, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout


def test_every_make_target_of_the_readme_exists() -> None:
    commands = [*blocks(README, "bash"), *re.findall(r"`(make \w+)`", README)]
    targets = re.findall(r"make (\w+)", " ".join(commands))
    assert {"demo", "test", "check", "bench"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_map_names_what_is_there() -> None:
    (tree,) = (block for block in blocks(README, "text") if block.startswith("topics/"))
    for line in tree.splitlines():
        assert (ROOT / line.split("/")[0]).is_dir()
    for page in re.findall(r"`((?:docs/)?[\w-]+\.md)`", README):
        assert (ROOT / page).is_file(), page


def test_the_judge_of_the_page_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "write-a-judge.md").read_text(encoding="utf-8")
    code, asking = blocks(page, "python")
    (tmp_path / "my_judges.py").write_text(code + asking.replace("from judges.asking", "\n\nfrom judges.asking"))
    (command,) = blocks(page, "bash")
    assert "verdicts of my_judges:Longest" in typed(command, tmp_path)
    entry, package, one_word = blocks(page, "toml")
    contestants = (ROOT / "arena" / "rosters" / "default.toml").read_text()
    (tmp_path / "roster.toml").write_text(contestants + entry)
    run = "python -m arena.run --roster roster.toml --judges longest --limit 20"
    assert "verdicts of longest" in typed(run, tmp_path)

    (tmp_path / "package").mkdir()
    (tmp_path / "my_judges.py").rename(tmp_path / "package" / "my_judges.py")
    (tmp_path / "package" / "pyproject.toml").write_text(package)
    site = str(tmp_path / "site")
    install = "--quiet --no-index --no-build-isolation --no-deps --disable-pip-version-check"
    typed(f"python -m pip install {install} --target {site} ./package", tmp_path)
    named = "python -m arena.run --judges longest --limit 20"
    assert "verdicts of longest" in typed(named, tmp_path, PYTHONPATH=site)

    with simulate.serve(simulate.Settings(port=0, text="plain")) as url:
        router = f'[[endpoints]]\nname = "router"\nbase_url = "{url}"\n'
        (tmp_path / "roster.toml").write_text(contestants + router + one_word)
        run = "python -m arena.run --roster roster.toml --judges one-word --limit 2"
        assert "2 debates left out because the verdict is invalid" in typed(run, tmp_path, PYTHONPATH=site)


def test_the_tables_page_names_every_column() -> None:
    from runs.schema import TABLES

    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    rows = {row[0].strip("` "): row for row in (line.strip("| ").split(" | ") for line in page.splitlines())}
    for name, table in TABLES.items():
        told = set(re.findall(r"`(\w+)`", " ".join(rows[name][1:])))
        assert set(table.columns) <= told, f"docs/tables.md lacks {set(table.columns) - told} of {name}"
