"""Models by the console: the first run of a server, uploads, loading, unloading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.client.local_server import LocalServer
from tests.console.conftest import WIDE, Visit, link_for
from tests.harness import CHAT_MODEL


@pytest.fixture
def empty(browser: Any, tmp_path: Path) -> Iterator[Visit]:
    """At the console of a server that was started for the first time, with nothing in it."""
    with LocalServer(tmp_path / "data") as server:
        context = browser.new_context(viewport=WIDE)
        visit = Visit(context.new_page(), server)
        visit.page.on("dialog", lambda dialog: dialog.accept())
        visit.page.goto(link_for(server))
        yield visit
        visit.check_quiet()
        context.close()


def rows(visit: Visit) -> Any:
    return visit.page.locator("main tbody tr")


def test_a_first_run_ends_in_a_chat(empty: Visit) -> None:
    empty.page.get_by_role("link", name="Models").last.click()
    empty.button("Load the shipped model").click()
    empty.page.locator(".chip.good").wait_for()
    assert "loaded" in rows(empty).inner_text()
    empty.page.locator(".upload").get_by_text("complete").wait_for()
    empty.go("chat")
    empty.button("Who are you?").click()
    assert empty.answer().startswith("I am")
    empty.go("models")
    empty.button("Unload").click()
    empty.button("Load the shipped model").wait_for()
    assert "no model" in empty.page.locator("header .chip").inner_text()
    row = rows(empty)
    row.get_by_text("yes", exact=True).wait_for()  # it fits the main network, which is told before it is loaded
    assert "$" in row.inner_text()
    empty.page.get_by_label("Context in tokens").fill("256")
    empty.button(f"Load models/{CHAT_MODEL.name}").click()
    empty.page.locator(".chip.good").wait_for()
    assert empty.page.locator(".chip.good").inner_text() == "llama-canister tiny"
    empty.button("Unload").click()
    empty.button(f"Remove models/{CHAT_MODEL.name}").click()
    empty.page.get_by_text("No model is here yet.").wait_for()


def test_what_is_no_model_is_told_before_a_byte_is_sent(visit: Visit, tmp_path: Path) -> None:
    visit.go("models")
    picker = visit.page.get_by_label("Model to upload")
    head = CHAT_MODEL.read_bytes()[:64]
    for content, told in (
        (b"<html>" + bytes(100), "no GGUF file"),
        (head[:4] + bytes([9, 0, 0, 0]) + head[8:], "version 9"),
        (head[:8] + bytes(8) + head[16:], "no tensors"),
    ):
        file = tmp_path / "wrong.gguf"
        file.write_bytes(content)
        picker.set_input_files(file)
        visit.page.get_by_role("alert").get_by_text(told).wait_for()
    assert not any("/files/" in url for url in visit.requests)


def test_an_upload_that_is_cut_off_goes_on_and_another_file_begins_anew(visit: Visit, tmp_path: Path) -> None:
    """The answer to the second slice is lost on its way, while the slice is stored."""
    data = CHAT_MODEL.read_bytes()
    file = tmp_path / "long.gguf"
    file.write_bytes(data + bytes(12 << 20))  # three slices
    visit.go("models")
    sent: list[str] = []

    def on_slice(route: Any) -> None:
        sent.append(route.request.headers["content-range"].partition("-")[0])
        if len(sent) == 2:
            route.fetch()
            route.abort("connectionreset")
        else:
            route.continue_()

    visit.page.route("**/files/**", on_slice)
    visit.page.get_by_label("Model to upload").set_input_files(file)
    visit.page.locator(".upload").get_by_text("complete").wait_for()
    assert sent == [f"bytes {n << 20}" for n in (0, 8, 16)]
    stored = httpx.get(
        f"{visit.server.url}/canisters/llama_cpp/files/models/long.gguf",
        headers={"Authorization": f"Bearer {visit.server.api_key}"},
    )
    assert stored.content == file.read_bytes()
    file.write_bytes(data[:-1] + b"x")
    visit.page.get_by_label("Model to upload").set_input_files(file)
    visit.page.locator(".upload").get_by_text("complete").nth(1).wait_for()
    assert sent[-1] == "bytes 0"
    visit.page.on("dialog", lambda dialog: dialog.accept())
    visit.button("Remove models/long.gguf").click()
    visit.page.get_by_text("models/long.gguf", exact=True).nth(2).wait_for(state="detached")
