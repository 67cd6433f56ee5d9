"""Who gets in: by a link that counts once, by an API key; and what a browser keeps of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from canister.client.local_server import LocalServer
from tests.console.conftest import Visit, link_for, post


@pytest.fixture
def page(browser: Any) -> Any:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def test_a_link_counts_once_and_leaves_the_address(page: Any, server: LocalServer) -> None:
    link = link_for(server)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(link)
    page.get_by_label("Message", exact=True).wait_for()
    code = link.rpartition("=")[2]
    assert page.url == f"{server.url}/#/chat"
    assert not any(code in url for url in asked)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    page.goto(link)
    page.get_by_role("alert").get_by_text("used already").wait_for()
    assert page.url == f"{server.url}/#/chat"


def test_a_link_counts_in_a_tab_that_shows_the_page_already(page: Any, server: LocalServer) -> None:
    who = post(server, "/whoami")
    made = post(server, "/keys", {"name": "forgotten"})
    page.goto(server.url)
    page.get_by_label("API key").fill(made["key"])
    page.get_by_label("Keep it in this browser").check()
    page.get_by_role("button", name="Sign in", exact=True).click()
    principal = page.locator("header .principal")
    principal.and_(page.get_by_title(made["principal"])).wait_for()
    httpx.delete(f"{server.url}/keys/forgotten", headers={"Authorization": f"Bearer {server.api_key}"})
    page.goto(link_for(server))  # the key that this browser sends counts no longer
    principal.and_(page.get_by_title(who)).wait_for()
    page.get_by_label("Message", exact=True).wait_for()
    assert page.evaluate("localStorage.getItem('canister.key')") is None


def test_signing_out_revokes_the_key_of_the_browser(visit: Visit, server: LocalServer) -> None:
    key = visit.page.evaluate("sessionStorage.getItem('canister.key')")
    assert visit.page.evaluate("localStorage.getItem('canister.key')") is None
    assert key != server.api_key
    asked = {"Authorization": f"Bearer {key}"}
    assert httpx.post(f"{server.url}/whoami", headers=asked).status_code == 200
    with visit.page.expect_response("**/session"):
        visit.button("Sign out").click()
    visit.page.get_by_label("API key").wait_for()
    assert httpx.post(f"{server.url}/whoami", headers=asked).status_code == 401
    assert visit.page.evaluate("sessionStorage.getItem('canister.key')") is None


def test_an_api_key_signs_in_and_a_wrong_one_is_told(page: Any, server: LocalServer) -> None:
    page.goto(server.url)
    page.get_by_label("API key").fill("lc_00000000_" + "A" * 43)
    page.get_by_role("button", name="Sign in", exact=True).click()
    assert "unknown, revoked or expired" in page.get_by_role("alert").inner_text()
    page.get_by_label("API key").fill(server.api_key)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_label("Message", exact=True).wait_for()
    page.reload()  # a tab stays signed in
    page.get_by_label("Message", exact=True).wait_for()
    assert page.evaluate("localStorage.getItem('canister.key')") is None
    # A key that other programs may use stays, when a browser forgets it.
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    assert post(server, "/whoami")


def test_over_plain_http_by_a_name_a_key_is_all_that_there_is(page: Any, server: LocalServer) -> None:
    page.add_init_script("Object.defineProperty(window, 'isSecureContext', { value: false })")
    page.goto(server.url)
    page.get_by_text("open it as localhost, or by HTTPS").wait_for()
    assert page.get_by_role("button", name="Sign in as this browser").count() == 0


def test_who_may_not_chat_is_told_who_can_change_it(page: Any, server: LocalServer) -> None:
    made = post(server, "/keys", {"name": "stranger"})
    page.goto(link_for(server, key=made["key"]))
    told = page.get_by_role("alert")
    told.wait_for()
    assert made["principal"] in told.inner_text()
    assert "assignAdminRole" in told.inner_text()
    assert page.get_by_role("button", name="Send").is_disabled()


def test_a_browser_signs_in_as_itself_and_is_let_in_by_the_controller(page: Any, server: LocalServer) -> None:
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.url)
    page.get_by_role("button", name="Sign in as this browser").click()
    told = page.get_by_role("alert")
    told.get_by_text("assignAdminRole").wait_for()
    key = page.evaluate("sessionStorage.getItem('canister.key')")
    who = post(server, "/whoami", key=key)
    assert who in told.inner_text()
    # The server names the same principal as the browser found for its key.
    page.goto(f"{server.url}/#/settings")
    page.get_by_role("region", name="Identity").locator("code").first.get_by_text(who, exact=True).wait_for()
    post(server, "/assignAdminRole", {"principal": who, "role": "AdminUpdate", "note": "a browser"})
    page.goto(f"{server.url}/#/chat")
    page.get_by_text("Ask llama-canister tiny").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in as this browser").click()  # the same one again
    page.get_by_label("Message", exact=True).wait_for()
    assert post(server, "/whoami", key=page.evaluate("sessionStorage.getItem('canister.key')")) == who
    exported = page.evaluate(
        """() => new Promise((done) => {
          const opened = indexedDB.open("canister-identity");
          opened.onsuccess = () => {
            const asked = opened.result.transaction("keys").objectStore("keys").get("own");
            asked.onsuccess = () => crypto.subtle.exportKey("pkcs8", asked.result.privateKey).then(
              () => done("read"), () => done("kept"));
          };
        })"""
    )
    assert exported == "kept"
    post(server, "/revokeAdminRole", who)
    assert said == []
