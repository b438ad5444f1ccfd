"""`make pictures`: the pictures of README and docs, made anew.

Six simulated contestants debate, three simulated judges and the rules judge decide, and Debian's Chromium opens the
run's report and its viewer. Everything is drawn from seeds, so the pictures change where what they show does.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import runs
from arena import simulate
from arena.run import Settings as Played
from arena.run import run as play
from runs import view
from runs.report.__main__ import main as report

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
ROSTER = ROOT / "arena" / "rosters" / "default.toml"
JUDGES = """
[[endpoints]]
name = "simulated"
base_url = "{url}"
prompt_price = 0.50
cached_price = 0.05
completion_price = 2.00

[[judges]]
name = "north"
kind = "llm"
endpoint = "simulated"
model = "north?noise=0.1"

[[judges]]
name = "east"
kind = "llm"
endpoint = "simulated"
model = "east?noise=0.2"

[[judges]]
name = "south"
kind = "llm"
endpoint = "simulated"
model = "south?side=0.15&position=0.1"

[[panels]]
name = "bench"
members = ["north", "east", "south"]
"""
DEBATES = 600
WIDTH, HEIGHT = 1200, 780


def played(out: Path) -> Path:
    """A run under `out`; gives its folder."""
    with simulate.serve(simulate.Settings(port=0)) as url:
        roster = out / "roster.toml"
        roster.write_text(ROSTER.read_text(encoding="utf-8") + JUDGES.format(url=url))
        settings = Played(roster=roster, limit=DEBATES, matches=3, judges=["bench", "rules"], out=out)
        return play(settings).folder


def taken(page: Page, name: str, url: str, *, at: str = "") -> None:
    """Open a page, scroll to what is to be seen, and take a picture of it."""
    page.goto(url)
    if at:
        page.locator(at).first.evaluate("element => element.scrollIntoView({ block: 'start' })")
    page.wait_for_timeout(500)
    page.screenshot(path=PICTURES / name)
    print(f"wrote {(PICTURES / name).relative_to(ROOT)}")


def quoted(folder: Path) -> str:
    """A debate that all judges saw alike, with quotes to be marked."""
    verdicts = runs.load(folder).verdicts.filter(judge="bench", consistent=True, winner="for").collect()
    return str(verdicts.sort("margin", "debate_id", descending=[True, False])["debate_id"][0])


def main() -> int:
    chromium = shutil.which("chromium")
    if chromium is None:
        print("error: no chromium on the PATH; Debian: apt-get install chromium", file=sys.stderr)
        return 2
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as out:
        folder = played(Path(out))
        report([str(folder), "--format", "png", "--write", str(PICTURES)])
        report([str(folder)])
        with view.serve(view.Settings(run=str(folder), port=0)) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            taken(page, "report.png", (folder / "report.html").as_uri(), at="#leaderboard")
            taken(page, "viewer.png", url)
            taken(page, "debate.png", f"{url}debates/{quoted(folder)}", at="mark")
            page.goto(f"{url}judge")
            page.fill("#name", "ann")
            page.press("#name", "Enter")
            page.wait_for_selector("#vote")
            taken(page, "ballot.png", page.url, at="#turn-10")
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
