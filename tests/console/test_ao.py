"""The page of AO in front of a real `canister ao serve`: a process is made and talked to by the browser's own key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from canister.client.local_server import LocalServer
from tests.console.conftest import WIDE, Visit, link_for
from tests.console.test_looks import check_looks

pytestmark = pytest.mark.nightly


@pytest.fixture
def visit(browser: Any, ao_server: LocalServer) -> Iterator[Visit]:
    context = browser.new_context(viewport=WIDE)
    visit = Visit(context.new_page(), ao_server)
    visit.page.goto(link_for(ao_server))
    visit.page.locator("nav.main").wait_for()
    yield visit
    visit.check_quiet()
    context.close()


def test_a_process_is_made_evaluated_and_its_answers_are_shown(visit: Visit) -> None:
    visit.go("ao")
    visit.page.locator("dl.named").get_by_text("address").wait_for()
    visit.button("Make the identity of this browser").click()
    visit.page.get_by_label("Name of the process").fill("counter")
    visit.button("Make a process").click()
    view = visit.page.get_by_role("region", name="The process")
    for program, told in (
        ("Count = 41", ""),
        ("Count + 1", "42"),
        ("'<img src=x onerror=window.hacked=1>' .. Count", "<img src=x onerror=window.hacked=1>41"),
    ):
        view.get_by_label("Data").fill(program)
        view.get_by_role("button", name="Send, signed").click()
        view.locator("figure pre").first.get_by_text(told, exact=True).wait_for(state="attached")
    results = view.locator("table.results")
    results.get_by_text("42", exact=True).wait_for()
    view.get_by_label("Action").fill("Nothing")
    view.get_by_role("button", name="Try it out").click()
    view.locator("figure").wait_for()
    money = visit.page.get_by_role("region", name="Money")
    address = visit.page.get_by_role("region", name="Your wallet").locator("code").inner_text()
    money.get_by_label("Account").fill(address)
    money.get_by_label("Amount").fill("1500")
    money.get_by_role("button", name="Mint").click()
    money.get_by_text("1,500").wait_for()
    assert visit.page.evaluate("window.hacked") is None
    visit.page.locator("main .page").evaluate("page => { page.scrollTop = 0; }")
    check_looks(visit, "ao")
