"""Takes the screenshots of the web page for the README: `python -m loadtest.screenshots` writes docs/page-*.png.

Needs Chromium (`chromium` on the path; Debian: apt-get install chromium).
"""

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from loadtest.options import ended_by_sigterm
from loadtest.stack import ROOT, StackError, service
from models.command_line import Parser, expects

#: File name, sample picture, colour scheme.
SHOTS: tuple[tuple[str, str, Literal["light", "dark"]], ...] = (
    ("page-classify.png", "Coffee", "light"),
    ("page-depth.png", "Street", "dark"),
)
_WIDTH, _RUNS = 1120, 9


def chromium() -> str:
    """Path of the browser.

    Raises:
        StackError: There is none.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise StackError("No Chromium was found: install it (Debian: apt-get install chromium).")
    return program


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as play:
        running = play.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
        )
        try:
            yield running
        finally:
            running.close()


def compare_sample(page: Page, url: str, sample: str) -> None:
    """Opens the page and compares a sample picture."""
    page.goto(f"{url}/")
    page.locator("#state.ready").wait_for()
    page.get_by_role("button", name=sample).click()
    page.locator("#answer").wait_for(timeout=60_000)


def photograph(page: Page) -> bytes:
    """Screenshot from the top to the end of the answer, as an RGB PNG: a palette puts bands into the depth maps."""
    end = page.locator("#experiments").bounding_box()
    assert end is not None
    clip = {"x": 0, "y": 0, "width": _WIDTH, "height": end["y"]}
    shot = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]  # a plain dict is what it takes
    stream = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").save(stream, "PNG", optimize=True)
    return stream.getvalue()


@expects(StackError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the screenshots. Returns the exit code."""
    parser = Parser(prog="python -m loadtest.screenshots", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="output folder (default %(default)s)")
    arguments = parser.parse_args(argv)
    with ended_by_sigterm(), service() as served, browser() as running:
        for name, sample, scheme in SHOTS:
            page = running.new_page(viewport={"width": _WIDTH, "height": 900}, color_scheme=scheme)
            compare_sample(page, served.url, sample)
            for count in range(2, _RUNS + 1):  # a single run says little about the time
                page.get_by_role("button", name="Compare").click()
                page.get_by_text(f"{count} comparisons on this page").wait_for(timeout=60_000)
            (arguments.out / name).write_bytes(photograph(page))
            print(f"{arguments.out / name}: {(arguments.out / name).stat().st_size / 1000:.0f} kB", file=sys.stderr)
            page.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
