"""The pages beside the chat, each doing what it is for once."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from canister.api.methods import METHODS
from canister.client.local_server import LocalServer
from canister.state.api_keys import open_keys
from tests.console.conftest import Visit, link_for, post

# The prompt cache of the chat that was written last.
NEWEST_CACHE = """() => new Promise((done) => {
  const opened = indexedDB.open("canister-console");
  opened.onsuccess = () => {
    const asked = opened.result.transaction("chats").objectStore("chats").getAll();
    asked.onsuccess = () => {
      opened.result.close();
      done(asked.result.sort((a, b) => b.changed - a.changed)[0].cache);
    };
  };
})"""
PAGES = ["chat", "models", "costs", "lab", "caches", "engine", "methods", "access", "logs", "settings"]


def test_costs_are_summed_filtered_and_saved(visit: Visit, tmp_path: Path) -> None:
    visit.ask("Who are you?")
    visit.answer()
    visit.go("costs")
    rows = visit.page.locator("main tbody tr")
    rows.first.wait_for()
    of_answers = visit.page.locator(".tile", has=visit.page.get_by_text("price of 1,000 answers"))
    of_answers.locator("dd", has_text="$").wait_for()
    visit.page.get_by_role("img", name="Headroom").wait_for()
    post(visit.server, "/get_max_tokens")
    post(visit.server, "/set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    rows.locator("code", has_text="set_max_tokens").first.wait_for()  # as it happens
    visit.page.locator("label", has_text="Method").locator("select").select_option("run_update")
    assert set(rows.locator("code").all_inner_texts()) == {"run_update"}
    assert visit.page.locator("main svg rect").count() > 0
    n_calls = int(visit.page.locator(".tile dd").first.inner_text().replace(",", ""))
    assert rows.count() == min(n_calls, 100)
    with visit.page.expect_download() as download:
        visit.button("Save as CSV").click()
    download.value.save_as(tmp_path / "calls.csv")
    saved = list(csv.DictReader((tmp_path / "calls.csv").read_text().splitlines()))
    assert {row["method"] for row in saved} == {"run_update"}
    newest = [rows.first.locator("td").nth(n).inner_text().replace(",", "") for n in (5, 6)]
    assert [saved[0][name] for name in ("n_prompt_tokens_decoded", "n_tokens_generated")] == newest
    assert int(newest[1]) > 0
    chart = visit.page.locator("figure", has_text="Tokens of each call")
    chart.get_by_text("as a table").click()
    last = chart.locator("tbody tr").last
    assert [last.locator("td").nth(n).inner_text().replace(",", "") for n in (1, 2)] == newest
    assert len(saved) == n_calls


def refuse_once(visit: Visit, asked: str, status: int) -> None:
    """The next request of a page to this address is refused as by a busy server."""
    refused = {"reject_code": 2, "reject_message": "too many calls wait", "error_code": "IC0201"}
    headers = {"Retry-After": "600"}
    visit.page.route(asked, lambda route: route.fulfill(status=status, json=refused, headers=headers), times=1)


def test_a_page_that_was_refused_for_now_looks_again(visit: Visit) -> None:
    refuse_once(visit, "**/get_call_log", 429)
    visit.go("costs")
    visit.page.locator(".countdown", has_text="too many calls wait").wait_for()
    visit.button("Try now").click()
    visit.button("Save as CSV").wait_for()
    assert visit.page.locator(".countdown").count() == 0


@pytest.mark.parametrize(
    ("page", "asked", "shown"),
    [
        ("access", "**/get_access", "Everybody with an API key may chat"),
        ("access", "**/keys?*", "Create a key"),
        ("models", "**/models?*", "llama-canister-tiny.gguf"),
    ],
)
def test_each_part_of_a_page_that_was_refused_for_now_looks_again(
    visit: Visit, page: str, asked: str, shown: str
) -> None:
    refuse_once(visit, asked, 503)
    visit.go(page)
    visit.page.locator(".countdown", has_text="too many calls wait").wait_for()
    visit.button("Try now").click()
    visit.page.locator("main").get_by_text(shown).first.wait_for()
    assert visit.page.locator(".countdown").count() == 0


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("access", "Everybody with an API key may chat"),
        ("models", "llama-canister-tiny.gguf"),
        ("settings", "Tokens of an update at most"),
    ],
)
@pytest.mark.parametrize("is_known", [False, True], ids=["never seen", "seen before"])
def test_a_page_that_no_server_answered_is_shown_when_one_is_back(
    visit: Visit, page: str, shown: str, is_known: bool
) -> None:
    if is_known:  # otherwise the code of the page cannot be had either
        visit.go(page)
        visit.page.locator("main").get_by_text(shown).first.wait_for()
        visit.go("chat")
    visit.page.context.set_offline(True)
    visit.go(page)
    visit.page.locator("main").get_by_role("alert").first.wait_for()
    visit.page.get_by_text("Not connected").wait_for()
    visit.page.context.set_offline(False)
    visit.page.locator("main").get_by_text(shown).first.wait_for()
    visit.until("() => !document.querySelector('[role=alert]')")


def test_what_a_setting_was_refused_for_now_is_done_later(visit: Visit) -> None:
    refuse_once(visit, "**/cache_cleanup_now", 503)
    visit.go("settings")
    visit.button("Remove old prompt caches now").click()
    visit.page.locator(".countdown", has_text="too many calls wait").wait_for()
    visit.button("Try now").click()
    visit.page.get_by_role("status").get_by_text("Old prompt caches are removed.").wait_for()
    assert visit.page.locator(".countdown").count() == 0


def test_the_lab_waits_for_a_busy_server(visit: Visit) -> None:
    refuse_once(visit, "**/run_update", 429)
    visit.go("lab")
    visit.button("Run").click()
    visit.page.locator(".countdown", has_text="too many calls wait").wait_for()
    visit.button("Try now").click()
    visit.page.locator("main table").first.wait_for()
    visit.button("Run").wait_for()
    assert visit.page.get_by_text("too many calls wait").count() == 0


def test_a_long_list_of_keys_comes_by_pages(visit: Visit) -> None:
    names = [f"many-{n:03}" for n in range(120)]
    with open_keys(visit.server.data_dir) as ring:
        for name in names:
            ring.create(name)
    visit.go("access")
    keys = visit.page.get_by_role("region", name="API keys")
    rows = keys.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == 100
    keys.get_by_role("button", name="Show more").click()
    keys.get_by_text(names[-1], exact=True).wait_for()
    assert rows.count() > len(names)
    assert keys.get_by_role("button", name="Show more").count() == 0
    with open_keys(visit.server.data_dir) as ring:
        for name in names:
            ring.revoke(name)


def test_caches_are_listed_with_their_chats_and_removed(visit: Visit, browser: object) -> None:
    visit.ask("Who are you?")
    visit.answer()
    cache = visit.page.evaluate(NEWEST_CACHE)
    other = browser.new_context()  # type: ignore[attr-defined]
    elsewhere = Visit(other.new_page(), visit.server)
    elsewhere.page.goto(link_for(visit.server))
    elsewhere.box.wait_for()
    elsewhere.go("caches")
    row = elsewhere.page.locator("main tbody tr", has_text=cache)
    row.wait_for()
    assert "Who are you?" not in row.inner_text()  # the chat is in the first browser
    assert int(row.locator("td").nth(2).inner_text()) == 40
    assert "in the model’s memory" in row.inner_text()
    other.close()
    visit.go("caches")
    own = visit.page.locator("main tbody tr", has_text="Who are you?")
    own.wait_for()
    assert int(own.locator("td").nth(2).inner_text()) > 20
    visit.page.on("dialog", lambda dialog: dialog.accept())
    own.get_by_role("button").click()
    own.wait_for(state="detached")
    visit.go("chat")
    visit.ask("What is a canister?")  # what was said goes in again
    visit.page.locator(".message.assistant").nth(1).locator("table.calls").wait_for()
    assert visit.answer()


def test_the_engine_shows_its_slots_and_its_rate(visit: Visit) -> None:
    visit.go("engine")
    slots = visit.page.get_by_role("list", name="Slots").get_by_role("listitem")
    slots.first.wait_for()
    assert slots.count() == 8
    visit.page.get_by_role("img", name="Tokens decoded a second").wait_for()
    args = ["--prompt-cache", "engine-page", "--prompt-cache-all", "-p", "one two three", "-n", "7", "--ignore-eos"]
    record = post(visit.server, "/run_update", {"args": args})["Ok"]
    n_tokens = record["n_prompt_tokens"] + record["n_tokens_generated"]
    slots.get_by_text(f"resident, {n_tokens} tokens").first.wait_for()
    assert "from slots" in visit.page.locator("main").inner_text()
    post(visit.server, "/remove_prompt_cache", {"args": args[:2]})


def test_where_no_stream_can_be_had_it_is_asked_from_time_to_time(visit: Visit) -> None:
    """As behind something that hands an answer on once it is complete."""
    visit.page.route("**/events*", lambda route: None if "stream=false" not in route.request.url else route.continue_())
    visit.go("engine")
    visit.page.locator(".slot").first.wait_for()
    assert any("stream=false" in url for url in visit.requests)
    visit.go("costs")
    rows = visit.page.locator("main tbody tr")
    rows.first.wait_for()
    post(visit.server, "/set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    rows.first.locator("code", has_text="set_max_tokens").wait_for()
    visit.page.unroute_all(behavior="ignoreErrors")


def test_the_keys_are_told_in_a_dialog_that_takes_the_focus_and_gives_it_back(visit: Visit) -> None:
    visit.button("New chat").focus()
    visit.page.keyboard.press("?")
    dialog = visit.page.get_by_role("dialog", name="Keys")
    dialog.get_by_text("stop after this call").wait_for()
    visit.until("() => document.activeElement.closest('dialog') !== null")
    visit.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    visit.until("() => document.activeElement.textContent === 'New chat'")


def test_who_is_at_the_end_of_a_chat_stays_there(visit: Visit) -> None:
    visit.set_option("Answer tokens a call (0: as many as fit)", 2)  # many calls, more than the page has room for
    visit.ask("Who are you?")
    visit.answer()
    is_at_end = """() => { const box = document.querySelector('.messages');
      return box.scrollHeight > box.clientHeight && box.scrollHeight - box.scrollTop - box.clientHeight < 2; }"""
    visit.until(is_at_end)
    visit.page.locator("details.options summary").click()
    visit.page.get_by_label("System message").wait_for()
    visit.until(is_at_end)


def test_what_is_written_and_not_sent_stays(visit: Visit) -> None:
    visit.box.fill("a draft")
    visit.go("models")
    visit.go("chat")
    assert visit.box.input_value() == "a draft"
    visit.button("Sign out").click()
    visit.page.get_by_label("API key").fill(visit.server.api_key)
    visit.button("Sign in").click()
    visit.box.wait_for()
    assert visit.box.input_value() == "a draft"


def test_two_templates_are_compared_warm(visit: Visit) -> None:
    visit.go("lab")
    visit.page.get_by_label("Template A").fill("Tell me of {{what}} and {{no}}")
    visit.page.get_by_role("status").get_by_text("no line gives it values").wait_for()
    visit.page.get_by_label("Template A").fill("You are short. Tell me of {{what}}")
    visit.page.get_by_label("Template B").fill("{{what}}?")
    visit.page.get_by_label("Variables").fill("what = a canister | the sky")
    visit.page.get_by_label("Answer tokens at most").fill("4")
    visit.page.get_by_label("A good answer contains").fill("a")
    visit.page.get_by_text("2 prompts of A, 2 of B").wait_for()
    visit.button("Run").click()
    visit.go("chat")  # it goes on meanwhile
    visit.go("lab")
    visit.page.get_by_role("region", name="Prompts of B").locator("tbody tr").nth(1).wait_for()
    visit.button("Run").wait_for()
    warm_up, steady = visit.page.get_by_role("region", name="Prompts of A").locator("tbody tr").all()
    cells = [[row.locator("td").nth(n).inner_text() for n in (3, 4)] for row in (warm_up, steady)]
    assert cells[0][0] == "0"
    assert int(cells[1][0]) > 5  # found in the cache
    assert int(cells[1][1]) < int(cells[0][1])
    sums = visit.page.locator("table.sums tbody").inner_text()
    assert "$" in sums
    assert "%" in sums


def test_the_log_is_shown_searched_and_goes_on(visit: Visit) -> None:
    visit.go("logs")
    visit.page.locator("table.log tbody tr").first.wait_for()
    visit.page.get_by_label("Search").fill("model loaded")
    found = visit.page.locator("table.log tbody tr")
    found.first.wait_for()
    assert "model loaded" in found.first.inner_text()
    visit.page.get_by_label("Search").fill("get_max_tokens")
    post(visit.server, "/get_max_tokens")
    found.first.wait_for()
    visit.page.get_by_label("Lowest level").select_option("critical")
    found.first.wait_for(state="detached")


def test_settings_of_browser_and_canister_are_kept(visit: Visit) -> None:
    visit.go("settings")
    visit.page.get_by_role("radio", name="Dark").check()
    assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"
    visit.page.get_by_label("Answer tokens at most").fill("99")
    visit.page.get_by_label("Answer tokens at most").blur()
    updates = visit.page.get_by_label("Tokens of an update at most")
    for limit in (77, 0):
        updates.fill(str(limit))
        updates.blur()
        visit.until(
            "async (limit) => (await (await fetch('get_max_tokens', {method: 'POST', headers: {Authorization: "
            "`Bearer ${sessionStorage.getItem('canister.key')}`}})).json()).max_tokens_update === limit",
            limit,
        )
    visit.button("Turn the model’s log off").click()
    visit.page.get_by_role("status").get_by_text("log is off").wait_for()
    visit.button("Turn the model’s log on").click()
    visit.page.get_by_role("status").get_by_text("log is on").wait_for()
    visit.page.reload()
    visit.page.get_by_role("radio", name="Dark").wait_for()
    assert visit.page.get_by_role("radio", name="Dark").is_checked()
    assert visit.page.get_by_label("Answer tokens at most").input_value() == "99"


def test_the_page_speaks_the_language_that_is_chosen(visit: Visit) -> None:
    visit.go("settings")
    visit.page.get_by_label("Language").select_option("de")
    visit.page.get_by_role("heading", name="Einstellungen").wait_for()
    assert visit.page.evaluate("document.documentElement.lang") == "de"
    visit.page.reload()
    visit.page.get_by_role("link", name="Modelle").wait_for()
    visit.go("models")
    visit.page.get_by_role("button", name="Datei wählen").wait_for()


def test_keys_and_roles_are_made_and_taken_back(visit: Visit) -> None:
    visit.page.on("dialog", lambda dialog: dialog.accept())
    visit.go("access")
    keys = visit.page.get_by_role("region", name="API keys")
    keys.get_by_label("Name").fill("from-the-console")
    keys.get_by_label("Lifetime").fill("1d")
    keys.get_by_role("button", name="Create a key").click()
    made = visit.page.locator(".made code").inner_text()
    principal = post(visit.server, "/whoami", key=made)
    roles = visit.page.get_by_role("region", name="Roles")
    roles.get_by_label("Principal").fill(principal)
    roles.locator("select").select_option("AdminQuery")
    roles.get_by_role("button", name="Assign").click()
    given = roles.locator("li", has_text="AdminQuery")
    given.wait_for()
    given.get_by_role("button", name="Revoke").click()
    given.wait_for(state="detached")
    keys.get_by_role("button", name="Revoke the key from-the-console").click()
    keys.get_by_text("from-the-console", exact=True).wait_for(state="detached")
    keys.get_by_label("Name").fill("a b")
    keys.get_by_role("button", name="Create a key").click()
    keys.get_by_role("alert").get_by_text("no name for an API key").wait_for()


def test_the_level_is_set(visit: Visit) -> None:
    visit.go("access")
    with visit.page.expect_response("**/set_access"):
        visit.page.get_by_label("Everybody with an API key may chat").check()
    assert post(visit.server, "/get_access")["Ok"]["level"] == 1
    with visit.page.expect_response("**/set_access"):
        visit.page.get_by_label("Only controllers and admins may chat").check()
    assert post(visit.server, "/get_access")["Ok"]["level"] == 0
    visit.until("document.querySelector('input[name=level]').checked")


def test_every_method_has_a_form_that_sends_what_the_interface_takes(visit: Visit) -> None:
    """Nothing is done: what is sent is looked at on its way, and answered with a reject as a server would."""
    visit.go("methods")
    names = visit.page.locator("nav[aria-label=Methods] code")
    names.first.wait_for()
    shown = set(names.all_inner_texts())
    rows = {method.name: method for method in METHODS}
    assert shown == set(rows)
    sent: dict[str, str | None] = {}

    def on_call(route: object) -> None:
        request = route.request  # type: ignore[attr-defined]
        sent[request.url.rpartition("/")[2]] = request.post_data
        reject = '{"reject_code": 4, "error_code": "x", "reject_message": "looked at"}'
        route.fulfill(status=400, content_type="application/json", body=reject)  # type: ignore[attr-defined]

    visit.page.route("**/canisters/llama_cpp/*", lambda route: on_call(route) if is_form(route) else route.continue_())
    for name in sorted(shown):
        names.get_by_text(name, exact=True).click()
        visit.page.locator("main form.method button[type=submit]").click()
        visit.page.locator(".answer").get_by_text("looked at").wait_for()
    from canister.api import codec

    for name, body in sent.items():
        if rows[name].arg is None:
            assert body is None
        else:
            assert body is not None
            codec.args_from_json_text(rows[name], body.encode())
    assert set(sent) == shown


def is_form(route: object) -> bool:
    request = route.request  # type: ignore[attr-defined]
    return request.method == "POST" and not request.url.endswith(("/whoami/", "/apply-template"))


def test_a_form_calls_and_shows_answer_and_cost(visit: Visit) -> None:
    visit.page.goto(f"{visit.server.url}/#/methods/get_max_tokens")
    visit.page.locator("main h1").get_by_text("get_max_tokens").wait_for()
    visit.page.locator("main form.method button[type=submit]").click()
    answer = visit.page.locator(".answer")
    answer.get_by_text("max_tokens_update").wait_for()
    assert "instructions" in answer.inner_text()
    visit.page.locator("nav[aria-label=Methods] code").get_by_text("set_max_tokens", exact=True).click()
    visit.page.get_by_label("max_tokens_update").fill("-1")
    visit.page.locator("main form.method button[type=submit]").click()
    visit.page.locator(".answer.problem").get_by_text("max_tokens_update").first.wait_for()


@pytest.fixture
def stranger(browser: object, server: LocalServer) -> Iterator[Visit]:
    """Signed in as somebody without any role."""
    key = post(server, "/keys", {"name": "a-stranger", "expires": "1h"})["key"]
    context = browser.new_context()  # type: ignore[attr-defined]
    visit = Visit(context.new_page(), server)
    visit.page.goto(link_for(server, key=key))
    visit.page.locator("nav.main").wait_for()
    yield visit
    visit.check_quiet()
    context.close()
    post_revoke(server, "a-stranger")


def post_revoke(server: LocalServer, name: str) -> None:
    import httpx

    headers = {"Authorization": f"Bearer {server.api_key}"}
    assert httpx.delete(f"{server.url}/keys/{name}", headers=headers).status_code == 200


def test_who_has_no_role_is_told_so_on_each_page_and_breaks_none(stranger: Visit) -> None:
    for name in PAGES:
        stranger.go(name)
        told = stranger.page.locator("main").get_by_role("alert").first
        if name in ("costs", "methods"):  # these are for everybody who is named
            stranger.page.locator("main h1").wait_for()
        else:
            told.wait_for()
            assert "assignAdminRole" in told.inner_text() or "--add-controller" in told.inner_text()
        assert stranger.page.get_by_text("Show the page again").count() == 0


# What a page shows to an admin; "alert" where the page is for controllers.
FOR_ADMINS = {
    "chat": "h2:has-text('Ask llama-canister tiny')",
    "models": "tbody tr",
    "costs": "h1",
    "lab": "form",
    "caches": "h1",
    "engine": ".slot",
    "methods": "form.method",
    "access": "alert",
    "logs": "alert",
    "settings": "text=Tokens of an update",
}


@pytest.mark.parametrize("role", ["AdminQuery", "AdminUpdate"])
def test_admins_see_what_their_role_has(stranger: Visit, server: LocalServer, role: str) -> None:
    who = post(server, "/whoami", key=stranger.page.evaluate("sessionStorage.getItem('canister.key')"))
    post(server, "/assignAdminRole", {"principal": who, "role": role, "note": ""})
    assert set(FOR_ADMINS) == set(PAGES)
    for name, place in FOR_ADMINS.items():
        stranger.go(name)
        alerts = stranger.page.locator("main").get_by_role("alert")
        if place == "alert":
            alerts.first.wait_for()
            assert f"--add-controller {who}" in alerts.first.inner_text()
        else:
            stranger.page.locator("main").locator(place).first.wait_for()
            assert alerts.count() == 0, name
    post(server, "/revokeAdminRole", who)


def test_a_full_disk_is_told_with_what_can_be_removed(visit: Visit) -> None:
    told = {"Err": {"Other": "no room on the disk; make room and try again"}}
    visit.page.route("**/cache_cleanup_now", lambda route: route.fulfill(status=507, json=told))
    visit.go("settings")
    visit.button("Remove old prompt caches now").click()
    problem = visit.page.get_by_role("alert")
    problem.get_by_text("no room on the disk").wait_for()
    links = problem.get_by_role("link")
    assert [link.get_attribute("href") for link in links.all()] == ["#/models", "#/caches"]
