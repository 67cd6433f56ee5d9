"""The console in a real Chromium, in front of a real server with the shipped model.

A test gets a page that is signed in. At its end the browser's console must be empty, and nothing may have been asked of
any other server, whatever the test did.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.server.pages.console import INDEX
from tests.harness import CHAT_MODEL, ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BUNDLE = ROOT / "console" / "dist" / INDEX
AXE = ROOT / "console" / "node_modules" / "axe-core" / "axe.min.js"
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 844}
# Of what Chromium says of answers that are errors; tests that make some look at what the page says.
OF_REQUESTS = "Failed to load resource"
PATIENCE_SECONDS = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = None
    if CHROMIUM is None:
        missing = "Chromium is not installed; on Debian: apt install chromium"
    elif not BUNDLE.is_file():
        missing = "the console is not bundled: make console says why"
    for item in items:
        if missing is not None and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=missing))


@dataclass
class Visit:
    """A page, and all that it asked for and said."""

    page: Any
    server: LocalServer
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_SECONDS * 1000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def box(self) -> Any:
        return self.page.get_by_label("Message", exact=True)

    def ask(self, text: str) -> None:
        self.box.fill(text)
        self.button("Send").click()

    def answer(self) -> str:
        """What the last message says, once nothing runs."""
        self.button("Send").wait_for()
        return str(self.page.locator(".message.assistant").last.locator(".prose").inner_text())

    def go(self, name: str) -> None:
        self.page.goto(f"{self.server.url}/#/{name}")
        self.page.locator(f'nav a[href="#/{name}"][aria-current="page"]').wait_for()

    def until(self, condition: str, argument: object = None) -> None:
        """Wait until an expression, or what a function answers, is true in the page. Playwright's own wait_for_function
        looks again with `eval`, which the page forbids.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.page.evaluate(condition, argument):
            assert time.monotonic() < deadline, f"{condition} has not come true"
            self.page.wait_for_timeout(50)

    def calls(self) -> int:
        """How many calls the last answer shows."""
        return int(self.page.locator(".message.assistant").last.locator("table.calls tbody tr").count())

    def set_option(self, label: str, value: object) -> None:
        options = self.page.locator("details.options")
        if options.get_attribute("open") is None:
            options.locator("summary").click()
        self.page.get_by_label(label).fill(str(value))
        self.page.get_by_label(label).blur()
        options.locator("summary").click()

    def check_quiet(self) -> None:
        own = f"{self.server.url}/"
        foreign = [url for url in self.requests if not url.startswith((own, "data:", f"blob:{own}"))]
        assert foreign == []
        assert [text for text in self.said if OF_REQUESTS not in text] == []


def post(server: LocalServer, path: str, body: object = None, *, key: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {key or server.api_key}"}
    response = httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def link_for(server: LocalServer, *, key: str | None = None) -> str:
    return f"{server.url}/#code={post(server, '/session/codes', key=key)['code']}"


# A module at a time: while it runs, Playwright's event loop is in the way of the other tests of this process.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        # A sandbox of its own needs a user that is not root. Shared memory is small in containers.
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """With the shipped model. Shared, so tests leave it as they found it."""
    started = LocalServer(tmp_path_factory.mktemp("console") / "data", "--model", str(CHAT_MODEL))
    with started:
        wait_for_model(started)
        yield started


def wait_for_model(server: LocalServer) -> None:
    transport = httpx.HTTPTransport(retries=3)
    with httpx.Client(base_url=server.url, transport=transport, timeout=60) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)


@pytest.fixture
def visit(browser: Any, server: LocalServer) -> Iterator[Visit]:
    """A browser of its own at the console, signed in as the controller by a link."""
    context = browser.new_context(viewport=WIDE, accept_downloads=True)
    try:
        visit = Visit(context.new_page(), server)
        visit.page.goto(link_for(server))
        visit.box.wait_for()
        yield visit
        visit.check_quiet()
    finally:
        context.close()
