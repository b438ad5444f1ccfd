"""An installed copy has what a clone has: every data file of a package is declared."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_data_file_is_declared() -> None:
    for package in SETTINGS["packages"]:
        folder = ROOT / package.replace(".", "/")
        declared = {path for pattern in SETTINGS["package-data"].get(package, []) for path in folder.glob(pattern)}
        ignored = {"__pycache__", "out"}
        data = {p for p in folder.rglob("*") if p.is_file() and p.suffix != ".py" and not ignored & set(p.parts)}
        assert data == declared, f"{package}: {data ^ declared}"


def test_a_folder_named_runs_does_not_hide_the_package(tmp_path: Path) -> None:
    (tmp_path / "runs" / "out").mkdir(parents=True)  # what a first run leaves behind in any folder
    code = "import runs; print(runs.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == ROOT / "runs" / "__init__.py"
