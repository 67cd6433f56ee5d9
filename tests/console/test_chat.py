"""A chat, call by call: what is shown, and what happens when it is stopped, cut off, or gone on with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from canister.client.local_server import LocalServer
from tests.console.conftest import Visit, link_for, post, wait_for_model
from tests.harness import CHAT_MODEL

QUESTION = "Who are you?"
PER_CALL = "Answer tokens a call (0: as many as fit)"
RUNS = "**/run_update"
# Does the browser's database hold a chat with a complete answer?
IS_WRITTEN = """() => new Promise((done) => {
  const opened = indexedDB.open("canister-console");
  opened.onsuccess = () => {
    const asked = opened.result.transaction("chats").objectStore("chats").getAll();
    asked.onsuccess = () => {
      opened.result.close();
      done(asked.result.some((chat) => chat.messages.at(-1).state === "done"));
    };
  };
})"""


@pytest.fixture(scope="module")
def whole(server: LocalServer) -> str:
    """The answer to the question, made in one call."""
    prompt = post(server, "/apply-template", {"messages": [{"role": "user", "content": QUESTION}]})["prompt"]
    args = ["--prompt-cache", "whole", "--prompt-cache-all", "-p", prompt, "-n", "256", "--temp", "0"]
    record = post(server, "/run_update", {"args": args})["Ok"]
    assert record["generated_eog"]
    return str(record["output"]).strip()


class Gate:
    """Holds back the n-th run_update by which a page goes on with an answer. How many calls the prompt takes depends on
    the machine.
    """

    def __init__(self, page: Any, n: int) -> None:
        self.held: Any = None
        self._left = n
        page.route(RUNS, self._on_route)
        self._page = page

    def _on_route(self, route: Any) -> None:
        args = route.request.post_data_json["args"]
        self._left -= args[args.index("-p") + 1] == ""
        if self._left == 0 and self.held is None:
            self.held = route
        else:
            route.continue_()

    def wait(self) -> None:
        while self.held is None:
            self._page.wait_for_timeout(10)


def test_every_call_of_an_answer_is_shown_with_its_budget(visit: Visit, whole: str) -> None:
    visit.set_option(PER_CALL, 6)
    visit.ask(QUESTION)
    assert visit.answer() == whole
    assert visit.calls() > 3
    last = visit.page.locator(".message.assistant").last
    assert last.locator("tbody [role=meter]").count() == visit.calls()
    assert "budget of 40B" in last.locator("thead").inner_text()
    rows = last.locator("tbody tr").all_inner_texts()
    assert "open" in rows[0]
    n_prompts = sum("prompt" in row for row in rows)
    assert all("prompt" in row for row in rows[1 : 1 + n_prompts])
    assert all("answer" in row for row in rows[1 + n_prompts :])
    together = last.locator("tfoot").inner_text()
    assert "total" in together
    assert "instructions" in together


# Holds the last line of each run back until `go()`.
HOLD_LAST_LINE = """
const fetched = window.fetch;
window.fetch = async (...asked) => {
  const answer = await fetched(...asked);
  if (!String(asked[0]).endsWith("/run_update")) return answer;
  const lines = (await answer.text()).trimEnd().split("\\n");
  const last = lines.pop();
  const bytes = (text) => new TextEncoder().encode(text + "\\n");
  const body = new ReadableStream({ start: async (into) => {
    into.enqueue(bytes(lines.join("\\n")));
    await new Promise((done) => { window.go = done; });
    into.enqueue(bytes(last));
    into.close();
  } });
  return new Response(body, { status: answer.status, headers: answer.headers });
};
"""


def test_the_text_of_a_call_is_shown_before_the_call_is_over(visit: Visit, whole: str) -> None:
    visit.page.evaluate(HOLD_LAST_LINE)
    visit.ask(QUESTION)
    running = visit.page.locator("table.calls tbody tr.running")
    running.get_by_text("tokens so far").wait_for()
    last = visit.page.locator(".message.assistant").last
    last.locator(".prose").wait_for()
    assert whole == last.locator(".prose").inner_text()
    assert last.locator("tbody [role=meter]").count() == 1  # of the call before
    visit.page.evaluate("window.go()")
    assert visit.answer() == whole
    assert last.locator("tbody [role=meter]").count() == visit.calls()


def test_what_it_will_cost_is_told_while_one_types(visit: Visit) -> None:
    visit.box.fill(QUESTION)
    told = visit.page.locator(".estimate")
    told.get_by_text("of the budget").wait_for()
    text = told.inner_text()
    assert "14 prompt tokens, 0 cached" in text
    assert "1 call" in text
    assert "$" in text


def test_stopped_after_a_call_it_goes_on_as_if_it_had_not_been(visit: Visit, whole: str) -> None:
    visit.set_option(PER_CALL, 4)
    gate = Gate(visit.page, 2)
    visit.ask(QUESTION)
    gate.wait()
    visit.button("Stop after this call").click()
    visit.button("Stop now").wait_for()
    gate.held.continue_()
    visit.page.get_by_text("Stopped. What was answered until then is kept.").wait_for()
    so_far = visit.answer()
    assert so_far
    assert whole.startswith(so_far)
    assert visit.page.locator("table.calls tbody tr", has_text="answer").count() == 2
    visit.button("Go on").click()
    visit.button("Branch from here").wait_for()
    assert visit.answer() == whole


def test_stopped_now_the_call_leaves_no_trace(visit: Visit, whole: str) -> None:
    visit.set_option(PER_CALL, 4)
    gate = Gate(visit.page, 2)
    visit.ask(QUESTION)
    gate.wait()
    visit.page.keyboard.press("Escape")
    visit.button("Stop now").click()
    visit.page.get_by_text("Stopped. What was answered until then is kept.").wait_for()
    assert "stopped" in visit.page.locator("table.calls tbody tr").last.inner_text()
    gate.held.abort()
    visit.button("Go on").click()
    visit.button("Branch from here").wait_for()
    assert visit.answer() == whole


def test_a_lost_reply_loses_no_text(visit: Visit, whole: str) -> None:
    visit.set_option(PER_CALL, 4)
    gate = Gate(visit.page, 2)
    visit.ask(QUESTION)
    gate.wait()
    gate.held.fetch()  # the server commits it
    gate.held.abort("connectionreset")
    visit.page.get_by_role("alert").get_by_text("The server does not answer.").wait_for()
    assert whole.startswith(visit.answer())
    visit.button("Go on").click()
    visit.button("Branch from here").wait_for()
    assert visit.answer() == whole


def test_offline_a_question_waits_and_the_page_says_so(visit: Visit, whole: str) -> None:
    visit.page.context.set_offline(True)
    visit.ask(QUESTION)
    visit.page.get_by_text("Not connected").wait_for()
    visit.button("Go on").wait_for()
    visit.page.context.set_offline(False)
    visit.button("Go on").click()
    visit.button("Branch from here").wait_for()
    assert visit.answer() == whole
    assert visit.page.get_by_text("Not connected").count() == 0


class Busy:
    """Answers the first requests of a kind as a server that has too much to do."""

    def __init__(self, page: Any, place: str, seconds: list[int], status: int = 503) -> None:
        self.n_refused = 0
        self._seconds, self._status = seconds, status
        page.route(place, self._on_route)

    def _on_route(self, route: Any) -> None:
        if self.n_refused == len(self._seconds):
            route.continue_()
            return
        headers = {"Retry-After": str(self._seconds[self.n_refused])}
        self.n_refused += 1
        told = {"reject_code": 2, "reject_message": "too many calls wait", "error_code": "IC0201"}
        route.fulfill(status=self._status, json=told, headers=headers)


@pytest.mark.parametrize(("place", "status"), [(RUNS, 503), (RUNS, 429), ("**/apply-template", 503)])
def test_what_a_busy_server_asks_to_wait_is_counted_down_and_cut_short(
    visit: Visit, whole: str, place: str, status: int
) -> None:
    busy = Busy(visit.page, place, [1, 600], status)  # after the first wait it tries by itself
    visit.ask(QUESTION)
    waiting = visit.page.locator(".countdown")
    timer = waiting.get_by_role("timer")
    timer.get_by_text(re.compile(r"Next try in [4-6]\d\d s\.")).wait_for()
    assert busy.n_refused == 2
    assert "too many calls wait" in waiting.inner_text()
    before = timer.inner_text()
    visit.box.fill("a draft")
    visit.until("(before) => document.querySelector('[role=timer]').innerText !== before", before)
    assert timer.inner_text() < before
    visit.button("Try now").click()
    visit.button("Branch from here").wait_for()
    assert visit.answer() == whole
    assert waiting.count() == 0
    assert visit.box.input_value() == "a draft"


def test_who_stops_while_the_server_is_busy_goes_on_later(visit: Visit, whole: str) -> None:
    Busy(visit.page, RUNS, [600])
    visit.ask(QUESTION)
    visit.page.locator(".countdown").wait_for()
    visit.button("Stop after this call").click()
    visit.page.get_by_text("Stopped. What was answered until then is kept.").wait_for()
    visit.button("Go on").click()
    visit.button("Branch from here").wait_for()
    assert visit.answer() == whole


def test_a_branch_and_an_edit_leave_the_first_chat_as_it_was(visit: Visit, whole: str) -> None:
    visit.ask(QUESTION)
    assert visit.answer() == whole
    visit.button("Branch from here").click()
    chats = visit.page.locator(".list li")
    chats.nth(1).wait_for()
    visit.ask("What is a canister?")
    visit.page.locator(".message.assistant").nth(1).locator("table.calls").wait_for()
    other = visit.answer()
    assert other != whole
    # The first question and its answer were in the copied cache.
    cached = visit.page.locator(".message.assistant").last.locator("tbody tr").last.locator("td").nth(2).inner_text()
    assert int(cached) < 25
    visit.page.locator(".message.user .edit").last.click()
    visit.page.get_by_label("Edit your message").fill(QUESTION)
    visit.button("Ask in a branch").click()
    chats.nth(2).wait_for()
    visit.answer()
    chats.last.get_by_role("button").first.click()
    assert visit.answer() == whole
    assert visit.page.locator(".message").count() == 2


def test_chats_are_kept_found_exported_and_brought_back(visit: Visit, whole: str, tmp_path: Path) -> None:
    visit.ask(QUESTION)
    assert visit.answer() == whole
    visit.until(IS_WRITTEN)
    visit.page.reload()
    chats = visit.page.locator(".list li")
    chats.get_by_role("button", name=QUESTION, exact=True).click()
    assert visit.answer() == whole
    visit.page.keyboard.press("Control+k")
    visit.page.keyboard.type("no chat has this")
    visit.until("document.querySelectorAll('.list li').length === 0")
    visit.page.get_by_label("Search chats").fill("tiny chat model")
    chats.first.wait_for()
    with visit.page.expect_download() as download:
        visit.button("Export").click()
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    visit.page.get_by_label("Search chats").fill("")
    visit.page.on("dialog", lambda dialog: dialog.accept())
    visit.button(f"Forget the chat {QUESTION}").click()
    visit.until("document.querySelectorAll('.list li').length === 0")
    visit.page.set_input_files("input[type=file]", file)
    chats.first.get_by_role("button").first.click()
    assert visit.answer() == whole
    # Its prompt cache was forgotten with it: what was said goes in again.
    visit.ask("What is a canister?")
    visit.page.locator(".message.assistant").nth(1).locator("table.calls").wait_for()
    visit.answer()
    n_in = visit.page.locator(".message.assistant").last.locator("tbody tr").last.locator("td").nth(2).inner_text()
    assert int(n_in) > 40


# Sets back when each chat in the browser's database was gone on with: the n-th by n days.
AGE_CHATS = """() => new Promise((done) => {
  const opened = indexedDB.open("canister-console");
  opened.onsuccess = () => {
    const chats = opened.result.transaction("chats", "readwrite").objectStore("chats");
    const asked = chats.getAll();
    asked.onsuccess = () => {
      for (const chat of asked.result) {
        const day = new Date(chat.changed);
        day.setDate(day.getDate() - Number(chat.title));
        chats.put({ ...chat, changed: day.getTime() });
      }
    };
    chats.transaction.oncomplete = () => {
      opened.result.close();
      done();
    };
  };
})"""


def test_chats_are_grouped_by_their_days(visit: Visit, tmp_path: Path) -> None:
    now = visit.page.evaluate("Math.min(Date.now(), new Date().setHours(12, 0, 0, 0))")
    message = {"role": "user", "text": "so", "state": "done", "steps": [], "isPrompted": False, "base": -1, "error": ""}
    chats = [{"title": title, "changed": now, "messages": [message]} for title in ("0", "1", "400", "1")]
    file = tmp_path / "chats.json"
    file.write_text(json.dumps({"format": "llama-canister chats 1", "chats": chats}))
    visit.page.set_input_files("input[type=file]", file)
    rows = visit.page.locator(".list li")
    rows.nth(3).wait_for()
    visit.page.evaluate(AGE_CHATS)
    visit.page.reload()
    rows.nth(3).wait_for()
    days = visit.page.locator(".list details.day")
    names = days.locator("summary").all_inner_texts()
    assert names[:2] == ["Today", "Yesterday"]
    assert len(names) == 3
    assert names[2].endswith(visit.page.evaluate("String(new Date(Date.now() - 400 * 864e5).getFullYear())"))
    assert [day.locator("li").count() for day in days.all()] == [1, 2, 1]
    days.nth(1).locator("summary").click()  # folded
    days.nth(1).locator("li").first.wait_for(state="hidden")
    rows.nth(3).get_by_role("button").first.click()
    visit.ask(QUESTION)  # a chat that is gone on with is of today
    days.first.locator("li").nth(1).wait_for()
    visit.answer()
    assert days.first.locator("li").first.get_by_role("button").first.inner_text() == "400"
    assert days.count() == 2
    visit.go("settings")
    visit.page.get_by_label("Language").select_option("ja")
    visit.go("chat")
    days.first.locator("summary", has_text="今日").wait_for()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data", "--model", str(CHAT_MODEL)) as started:
        wait_for_model(started)
        yield started


def test_a_server_that_is_killed_in_the_middle_and_comes_back(
    browser: Any, own_server: LocalServer, whole: str
) -> None:
    context = browser.new_context()
    try:
        visit = Visit(context.new_page(), own_server)
        visit.page.goto(link_for(own_server))
        visit.box.wait_for()
        visit.set_option(PER_CALL, 4)
        gate = Gate(visit.page, 2)
        visit.ask(QUESTION)
        gate.wait()
        own_server.kill()
        gate.held.abort("connectionreset")
        visit.page.get_by_role("alert").get_by_text("The server does not answer.").wait_for()
        assert whole.startswith(visit.answer())
        visit.box.fill("a draft")
        own_server.start()
        wait_for_model(own_server)
        visit.button("Go on").click()  # still signed in: its key is in the server's database
        visit.button("Branch from here").wait_for()
        assert visit.answer() == whole
        assert visit.box.input_value() == "a draft"
        visit.check_quiet()
    finally:
        context.close()
