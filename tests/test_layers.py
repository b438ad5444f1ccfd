"""The one rule: imports flow only to the right, and what must stay light stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["training", "arena", "judges", "runs", "topics"]
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
HEAVY = {
    *("torch", "transformers", "trl", "peft", "datasets", "matplotlib", "altair", "plotly"),
    *("openai", "statsmodels", "pandas", "scipy", "evalica"),
}


def imported(path: Path) -> Iterator[str]:
    """Top-level names of every import in a module, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_to_the_right(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    to_the_left = set(imported(path)) & {*LAYERS[:layer], "tests", "benchmarks", "conftest"}
    assert not to_the_left, f"{path.relative_to(ROOT)} imports {to_the_left}"


def test_the_rule_sees_every_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(LAYERS)
    assert len(MODULES) > 20


@pytest.mark.parametrize(
    "module",
    [
        *("arena.run", "arena.judge", "arena.calibrate", "arena.screen", "runs.show", "runs.bias", "runs.adapters"),
        *("runs.list", "runs.comparison", "runs.view.__main__", "runs.report.__main__"),
        *("judges", "judges.human", "topics", "training.pairs", "training.dpo", "training.loop"),
    ],
)
def test_importing_a_command_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())


def test_topics_and_runs_open_no_socket() -> None:
    network = {"socket", "http", "urllib", "httpx", "aiohttp", "openai", "requests"}
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] in ("topics", "runs", "judges"):
            assert not network & set(imported(path)), path
