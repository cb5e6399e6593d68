"""The shipped models behind the page, in a real Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from loadtest.screenshots import browser as chromium
from loadtest.screenshots import chromium as find_chromium
from loadtest.stack import StackError
from tests.live.service_process import LiveService, running
from tests.tiny_zoo import write_zoo

ROOT = Path(__file__).resolve().parents[2]

EXPERIMENT = """
experiments:
  - name: binary-in-place-of-full
    task: classify
    mode: paired
    baseline: {variant: full}
    candidate: {variant: binary}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module only: while it is open, Playwright's event loop holds the thread that asynchronous tests need."""
    try:
        find_chromium()
    except StackError as error:
        pytest.skip(str(error))
    with chromium() as running_browser:
        yield running_browser


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("ui")
    (folder / "experiments.yaml").write_text(EXPERIMENT)
    options = ("--fallback", "reference")
    declared = {"BIREAL_EXPERIMENTS_FILE": str(folder / "experiments.yaml")}
    with running(ROOT / "models/zoo", folder / "service.log", *options, **declared) as live:
        yield live


@pytest.fixture
def locked(tmp_path) -> Iterator[LiveService]:
    """A service of tiny models that asks for the key `a-key-of-this-service`."""
    zoo = write_zoo(tmp_path / "zoo")
    (tmp_path / "experiments.yaml").write_text(EXPERIMENT)
    variables = {
        "BIREAL_EXPERIMENTS_FILE": str(tmp_path / "experiments.yaml"),
        "BIREAL_API_KEYS": "a-key-of-this-service",
    }
    with running(zoo, tmp_path / "service.log", "--fallback", "reference", **variables) as live:
        yield live


class Watched:
    """A page, and what must not happen on it."""

    def __init__(self, page: Page, url: str, refused: tuple[int | str, ...]) -> None:
        self.url = url
        # Chromium tells the console of every answer above 399, also of those that a test is about, and of failures to
        # ask, which a test names by Chromium's word for them.
        self._meant = tuple(
            f"the server responded with a status of {what} " if isinstance(what, int) else what for what in refused
        )
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: message.type in {"error", "warning"} and self._complain(message.text))
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _complain(self, text: str) -> None:
        if not any(meant in text for meant in self._meant):
            self.complaints.append(text)

    def foreign(self) -> list[str]:
        return [url for url in self.requests if not url.startswith((self.url, "blob:", "data:"))]


@pytest.fixture
def open_page(browser, service):
    """Opens the page once it is ready; every page must end without a complaint and without asking another host.

    A test with a service of its own names it before this fixture, so that it stops after its pages are closed: a
    service that stops resets what a page asks at that moment, and the page complains.
    """
    opened = []

    def open_one(*, of: LiveService = service, refused: tuple[int | str, ...] = (), **options) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1120, "height": 900}, **options})
        page = context.new_page()
        page.set_default_timeout(30_000)
        opened.append((context, Watched(page, of.url, refused)))
        page.goto(f"{of.url}/")
        page.locator("#state.ready").wait_for()
        return page

    yield open_one
    for context, watched in opened:
        context.close()
        assert len(watched.requests) > 3
        assert not watched.foreign()
        assert not watched.complaints, watched.complaints
