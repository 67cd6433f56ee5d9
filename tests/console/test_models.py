"""Models by the console: the first run of a server, uploads, loading, unloading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.client.local_server import LocalServer
from tests.console.conftest import WIDE, Visit, link_for
from tests.engine.split_models import split
from tests.engine.tiny_models import llama_model
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
    empty.button("Load the shipped model").click()
    empty.button("Who are you?").click()
    assert empty.answer().startswith("I am")
    empty.go("models")
    empty.page.locator(".upload").get_by_text("complete").wait_for()
    assert "loaded" in rows(empty).inner_text()
    empty.button("Unload").click()
    empty.button("Load the shipped model").wait_for()
    assert "no model" in empty.page.locator("header .chip").inner_text()
    row = rows(empty)
    row.get_by_text("yes", exact=True).wait_for()  # it fits the main network, which is told before it is loaded
    assert "$" in row.inner_text()
    assert "loading takes 42.9M instructions" in row.inner_text()
    empty.page.get_by_label("Context in tokens").fill("256")
    empty.button(f"Load models/{CHAT_MODEL.name}").click()
    empty.page.locator(".chip.good").wait_for()
    assert empty.page.locator(".chip.good").inner_text() == "llama-canister tiny"
    empty.button("Unload").click()
    empty.button(f"Remove models/{CHAT_MODEL.name}").click()
    empty.page.get_by_text("No model is here yet.").wait_for()


def test_a_first_run_with_a_file_of_ones_own_ends_in_a_chat(empty: Visit, tmp_path: Path) -> None:
    """What it needs and costs is told by its header, and is what the server says once it is there."""
    file = tmp_path / "my own.gguf"
    file.write_bytes(CHAT_MODEL.read_bytes())
    empty.page.get_by_role("link", name="Add a model").click()
    empty.page.get_by_label("Model to upload").set_input_files(file)
    chosen = empty.page.get_by_role("region", name="Chosen: my own.gguf")
    chosen.get_by_text("yes", exact=True).wait_for()
    told = chosen.inner_text()
    for part in (
        "llama-canister tiny",
        "4.09 MiB",
        "88.8 MiB of 3.75 GiB heap",
        "its upload takes 18.9B cycles",
        "1 call",
    ):
        assert part in told
    assert not any("/files/" in url for url in empty.requests)
    answer = chosen.locator("dd").last.inner_text().split()[0]
    assert answer.startswith("$")
    empty.button("Upload my own.gguf").click()
    chosen.wait_for(state="detached")
    row = rows(empty)
    row.get_by_text("yes", exact=True).wait_for()
    assert "88.8 MiB of 3.75 GiB heap" in row.inner_text()
    assert answer in row.inner_text()
    empty.button("Load models/my own.gguf").click()
    empty.page.locator(".chip.good").wait_for()
    empty.go("chat")
    empty.ask("Who are you?")
    assert empty.answer().startswith("I am")


def test_a_file_that_was_chosen_can_be_left_out(visit: Visit, tmp_path: Path) -> None:
    visit.go("models")
    part = split(llama_model(tmp_path / "whole.gguf", "f16"), 2, tmp_path, "m")[1]
    picker = visit.page.get_by_label("Model to upload")
    picker.set_input_files([CHAT_MODEL, part])
    visit.page.get_by_role("region", name=f"Chosen: {part.name}").get_by_text("part 2 of 2").wait_for()
    for name in (CHAT_MODEL.name, part.name):
        visit.button(f"Not this one: {name}").click()
        visit.page.get_by_role("region", name=f"Chosen: {name}").wait_for(state="detached")
    assert not any("/files/" in url for url in visit.requests)


def test_what_is_no_model_is_told_before_a_byte_is_sent(visit: Visit, tmp_path: Path) -> None:
    visit.go("models")
    picker = visit.page.get_by_label("Model to upload")
    head = CHAT_MODEL.read_bytes()[:64]
    for content, told in (
        (b"<html>" + bytes(100), "not a GGUF file"),
        (head[:4] + bytes([9, 0, 0, 0]) + head[8:], "version 9"),
        (head[:8] + bytes(8) + head[16:], "no tensors"),
    ):
        file = tmp_path / "wrong.gguf"
        file.write_bytes(content)
        picker.set_input_files(file)
        visit.page.get_by_role("alert").get_by_text(told).wait_for()
    assert not any("/files/" in url for url in visit.requests)


# The answer to the second slice is lost, and a bit of the third is turned on its way.
LOSE_AND_SPOIL = """() => {
  const fetched = window.fetch;
  window.slices = [];
  window.fetch = async (path, init) => {
    if (init?.method !== "PUT") return fetched(path, init);
    window.slices.push(init.headers.get("content-range").split("-")[0]);
    let body = init.body;
    if (window.slices.length === 3) {
      body = init.body.slice(0);
      new Uint8Array(body)[1000] ^= 1;
    }
    const answer = await fetched(path, { ...init, body });
    if (window.slices.length === 2) throw new TypeError("Failed to fetch");
    return answer;
  };
}"""


def test_an_upload_that_is_cut_off_goes_on_and_another_file_begins_anew(visit: Visit, tmp_path: Path) -> None:
    """The answer to the second slice is lost on its way, while the slice is stored; a bit of the third is turned."""
    data = CHAT_MODEL.read_bytes()
    file = tmp_path / "long.gguf"
    file.write_bytes(data + bytes(12 << 20))  # three slices
    visit.go("models")
    visit.page.evaluate(LOSE_AND_SPOIL)
    visit.page.get_by_label("Model to upload").set_input_files(file)
    visit.button("Upload long.gguf").click()
    visit.page.locator(".upload").get_by_text("complete").wait_for()
    assert visit.page.evaluate("window.slices") == [f"bytes {n << 20}" for n in (0, 8, 16, 16)]
    stored = httpx.get(
        f"{visit.server.url}/canisters/llama_cpp/files/models/long.gguf",
        headers={"Authorization": f"Bearer {visit.server.api_key}"},
    )
    assert stored.content == file.read_bytes()
    file.write_bytes(data[:-1] + b"x")
    visit.page.get_by_label("Model to upload").set_input_files(file)
    visit.button("Upload long.gguf").click()
    visit.page.locator(".upload").get_by_text("complete").nth(1).wait_for()
    assert visit.page.evaluate("window.slices.at(-1)") == "bytes 0"
    visit.page.on("dialog", lambda dialog: dialog.accept())
    visit.button("Remove models/long.gguf").click()
    visit.page.get_by_text("models/long.gguf", exact=True).nth(2).wait_for(state="detached")
