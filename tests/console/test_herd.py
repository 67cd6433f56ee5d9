"""The console in front of a real herd: its page, and a chat that a worker answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from canister.client.local_server import LocalServer
from tests.console.conftest import WIDE, Visit, link_for, wait_for_model
from tests.console.test_looks import check_looks
from tests.herd.herds import herd_process

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with herd_process(tmp_path_factory.mktemp("herd"), workers=2) as server:
        wait_for_model(server)
        yield server


@pytest.fixture
def visit(browser: Any, herd: LocalServer) -> Iterator[Visit]:
    context = browser.new_context(viewport=WIDE)
    visit = Visit(context.new_page(), herd)
    visit.page.on("dialog", lambda dialog: dialog.accept())
    visit.page.goto(link_for(herd))
    visit.box.wait_for()
    yield visit
    visit.check_quiet()
    context.close()


def test_workers_queue_and_fees_are_shown_and_a_worker_is_drained(visit: Visit, tmp_path: Path) -> None:
    visit.go("herd")
    rows = visit.page.get_by_role("region", name="Workers of the herd").locator("tbody tr")
    rows.locator(".tag.ok").nth(1).wait_for()
    assert rows.count() == 2
    told = visit.page.locator(".tiles").inner_text()
    assert "base fee" in told
    assert "your balance" in told
    assert "on this machine" in rows.first.inner_text()
    assert str(visit.server.data_dir) not in visit.page.locator("body").inner_text()
    check_looks(visit, "herd")
    rows.last.get_by_role("button").click()
    rows.last.get_by_text("draining").wait_for()


def test_more_is_paid_for_a_job_that_waits(visit: Visit) -> None:
    """The server's answers about one job are the page's own here: a real one would have its turn at once."""
    job = {"id": "ab" * 32, "caller": "aaaaa-aa", "status": "queued", "fee": "12", "multiplier": 1.0}
    asked: list[object] = []

    def raised(route: Any) -> None:
        asked.append(route.request.post_data_json)
        if asked[-1] == {"fee": "11"}:
            told = {"reject_code": 5, "reject_message": "the job holds 12 units already", "error_code": "BadRequest"}
            route.fulfill(status=400, json=told)
        else:
            job.update(fee="36", multiplier=3.0)
            route.fulfill(json=job)

    visit.page.route("**/herd/inference?*", lambda route: route.fulfill(json={"jobs": [job]}))
    visit.page.route("**/herd/inference/*/fee", raised)
    visit.go("herd")
    row = visit.page.get_by_role("region", name="Paid jobs").locator("tbody tr")
    fee = row.get_by_label("Fee of the job abababab, in all")
    assert fee.input_value() == "24"  # twice as much is proposed
    fee.fill("11")
    row.get_by_role("button", name="Pay more").click()
    visit.page.get_by_role("alert").get_by_text("holds 12 units already").wait_for()
    fee.fill("36")
    row.get_by_role("button", name="Pay more").click()
    row.get_by_text("× 3").wait_for()
    assert asked == [{"fee": "11"}, {"fee": "36"}]
    check_looks(visit, "herd-paid")
    visit.page.unroute_all(behavior="ignoreErrors")


def test_a_worker_answers_a_chat(visit: Visit) -> None:
    visit.ask("Who are you?")
    assert visit.answer().startswith("I am")
    assert visit.calls() >= 1
    for name in ("costs", "models", "caches", "engine", "access", "logs", "settings"):
        visit.go(name)
        visit.page.locator("main h1").first.wait_for()
        assert visit.page.get_by_text("Show the page again").count() == 0
