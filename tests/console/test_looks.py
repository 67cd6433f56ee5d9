"""What axe finds on each page, wide and narrow, light and dark; that nothing is cut off; and the pictures of the docs.

CONSOLE_PICTURES=1 python -m pytest tests/console/test_looks.py     writes docs/console/
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.console.conftest import AXE, NARROW, WIDE, Visit
from tests.harness import ROOT

DOCS = ROOT / "docs" / "console"
MOST_BYTES = 150_000
MOST_PIXELS = 700  # in height
PAGES = ["chat", "models", "costs", "lab", "caches", "engine", "methods", "access", "logs", "settings"]

RUN_AXE = """(() => axe.run(document, {resultTypes: ["violations"]}).then((found) => JSON.stringify(
  found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" | ")}`))))()"""


def violations(visit: Visit) -> list[str]:
    """What axe finds. It goes in by the debugger, so that the page's policy stays as it is."""
    session = visit.page.context.new_cdp_session(visit.page)
    session.send("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
    answer = session.send("Runtime.evaluate", {"expression": RUN_AXE, "awaitPromise": True, "returnByValue": True})
    session.detach()
    found: list[str] = json.loads(answer["result"]["value"])
    return found


# What a page shows when it has what it asked for.
SHOWN = {
    "models": "main td:has-text('llama-canister tiny')",
    "costs": "main tbody tr",
    "caches": "main tbody tr",
    "engine": "main svg",
    "methods": "main figure.answer",
    "lab": "main table.sums",
    "logs": "main tbody tr",
    "settings": "main label:has-text('Tokens of an update')",
    "access": "main tbody tr",
}


def prepare(visit: Visit, name: str) -> None:
    if name in ("costs", "caches", "engine"):
        prepare(visit, "chat")
    visit.go(name)
    if name == "lab":
        visit.page.get_by_label("Template B").fill("Is it good or bad: {{message}}?")
        visit.page.get_by_label("Answer tokens at most").fill("4")
        visit.button("Run").click()
        visit.button("Run").wait_for()
    if name == "logs":
        visit.page.get_by_label("Search").fill("model loaded")
    if name == "methods":
        visit.page.locator("main form.method button[type=submit]").click()
    if name in SHOWN:
        visit.page.locator(SHOWN[name]).first.wait_for()
    if name == "chat":
        visit.set_option("Answer tokens a call (0: as many as fit)", 6)
        visit.ask("Who are you?")
        visit.answer()
        visit.box.fill("Why is the sky blue?")
        visit.page.locator(".estimate").get_by_text("of the budget").wait_for()


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_nothing_is_cut_off(visit: Visit, name: str) -> None:
    prepare(visit, name)
    check_looks(visit, name)


def check_looks(visit: Visit, name: str) -> None:
    """The page that is shown, in both sizes and schemes."""
    for size in (WIDE, NARROW):
        visit.page.set_viewport_size(size)
        for scheme in ("light", "dark"):
            visit.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            visit.page.wait_for_timeout(50)
            width = visit.page.evaluate("document.documentElement.scrollWidth")
            assert width == size["width"], (size, name)
            if AXE.is_file():
                assert violations(visit) == [], (scheme, size)
            _keep_picture(visit, name, "narrow" if size is NARROW else "wide", scheme)


def _keep_picture(visit: Visit, name: str, size: str, scheme: str) -> None:
    if not os.environ.get("CONSOLE_PICTURES") or (size, scheme) not in (("wide", "light"), ("narrow", "dark")):
        return
    DOCS.mkdir(exist_ok=True)
    suffix = "" if size == "wide" else "-narrow"
    before = visit.page.viewport_size
    visit.page.set_viewport_size({**before, "height": MOST_PIXELS})
    visit.page.wait_for_timeout(50)
    visit.page.screenshot(path=DOCS / f"{name}{suffix}.png")
    visit.page.set_viewport_size(before)


def test_the_pictures_of_the_docs_are_small() -> None:
    pictures = list(DOCS.glob("*.png"))
    assert pictures
    assert [str(picture) for picture in pictures if _size(picture) > MOST_BYTES] == []


def _size(file: Path) -> int:
    return file.stat().st_size
