"""Texts stay texts, whoever wrote them, and the page can do nothing but what it is for."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from canister.client.local_server import LocalServer
from tests.console.conftest import Visit, post
from tests.harness import CHAT_MODEL

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "[link](javascript:window.hacked=1)",
    "[link](JaVaScRiPt:window.hacked=1)",
    "[link](data:text/html,<script>window.hacked=1</script>)",
    "<javascript:window.hacked=1>",
    "![picture](https://evil.example/pixel.png)",
    '<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>',
    "```html\n<script>window.hacked = 1</script>\n```",
    "| a |\n|---|\n| <b onmouseover=window.hacked=1>x</b> |",
    "&lt;script&gt;window.hacked = 1&lt;/script&gt;",
    "<think><img src=x onerror=window.hacked=1></think><tool_call><script>window.hacked=1</script></tool_call>",
    "\u202e<style>*{display:none}</style>",
]


def test_hostile_texts_of_people_and_models_stay_texts(visit: Visit, tmp_path: Path) -> None:
    said = [
        {
            "role": role,
            "text": text,
            "state": "done",
            "steps": [],
            "isPrompted": True,
            "base": 0,
            "error": "",
            "kind": "",
        }
        for text in HOSTILE
        for role in ("user", "assistant")
    ]
    chats = [{"title": text, "messages": said, "system": "", "settings": {}} for text in HOSTILE]
    file = tmp_path / "chats.json"
    file.write_text(json.dumps({"format": "llama-canister chats 1", "chats": chats}))
    visit.page.set_input_files("input[type=file]", file)
    listed = visit.page.locator(".list li")
    listed.nth(len(HOSTILE) - 1).wait_for()
    listed.first.get_by_role("button").first.click()
    visit.page.locator(".message").nth(2 * len(HOSTILE) - 1).wait_for()
    visit.page.locator(".message.assistant .prose").nth(len(HOSTILE) - 1).wait_for()
    visit.page.eval_on_selector_all("details", "found => found.forEach(details => { details.open = true; })")
    assert visit.page.evaluate("window.hacked") is None
    inside = visit.page.locator("main script, main img, main iframe, main svg, main style, main object, main [onerror]")
    assert inside.count() == 0
    targets = visit.page.eval_on_selector_all("main a", "found => found.map(a => a.getAttribute('href'))")
    assert set(targets) <= {"https://evil.example/pixel.png"}
    assert visit.page.locator(".bubble").all_inner_texts()[:2] == HOSTILE[:2]


IMAGE = "<img src=x onerror>"
FORBIDDEN = "main script, main img, main iframe, main style, main object, main [onerror], header img"


def test_hostile_names_of_files_models_caches_keys_and_log_lines_stay_texts(visit: Visit) -> None:
    server, headers = visit.server, {"Authorization": f"Bearer {visit.server.api_key}"}
    path = f"models/{IMAGE}.gguf"
    url = f"{server.url}/canisters/llama_cpp/files/{quote(path)}"
    name = b"llama-canister tiny"
    model = CHAT_MODEL.read_bytes().replace(name, IMAGE.encode(), 1)
    assert len(name) == len(IMAGE)
    assert httpx.put(url, content=model, headers=headers).status_code == 200
    args = ["--prompt-cache", IMAGE, "--prompt-cache-all", "-p", "x", "-n", "2"]
    post(server, "/run_update", {"args": args})
    stranger = post(server, "/keys", {"name": "hostile", "expires": "1h"})["principal"]
    post(server, "/assignAdminRole", {"principal": stranger, "role": "AdminQuery", "note": IMAGE})
    httpx.get(f"{server.url}/{quote(IMAGE)}", headers=headers)
    shown = {
        "models": f"td:has-text('{IMAGE}')",
        "caches": f"td:has-text('{IMAGE}')",
        "access": f"li:has-text('{IMAGE}')",
        "logs": "td:has-text('%3Cimg')",
        "costs": "tbody tr",
    }
    for page, place in shown.items():
        visit.go(page)
        visit.page.locator(f"main {place}").first.wait_for()
        assert visit.page.locator(FORBIDDEN).count() == 0, page
    visit.go("access")
    keys = visit.page.get_by_role("region", name="API keys")
    keys.get_by_label("Name").fill(IMAGE)
    keys.get_by_role("button", name="Create a key").click()
    keys.get_by_role("alert").get_by_text(IMAGE).wait_for()
    visit.go("lab")
    visit.page.get_by_label("Template A").fill("{{" + "what}} " + IMAGE)
    visit.page.get_by_label("Variables").fill(f"what = {IMAGE} | x")
    visit.page.get_by_label("Variables").press_sequentially("\n" + IMAGE)
    visit.page.get_by_role("status").get_by_text(IMAGE).wait_for()
    assert visit.page.locator(FORBIDDEN).count() == 0
    assert visit.page.evaluate("window.hacked") is None
    assert httpx.delete(url, headers=headers).status_code == 200
    assert httpx.delete(f"{server.url}/keys/hostile", headers=headers).status_code == 200
    post(server, "/revokeAdminRole", stranger)
    post(server, "/remove_prompt_cache", {"args": ["--prompt-cache", IMAGE]})


def test_a_damaged_file_of_chats_is_told(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "chats.json"
    for content, told in (
        ("{", "not JSON"),
        ("{}", "no chats"),
        ('{"format": "llama-canister chats 1", "chats": [{}]}', "damaged"),
    ):
        file.write_text(content)
        visit.page.set_input_files("input[type=file]", file)
        visit.page.get_by_role("alert").get_by_text(told).wait_for()


def test_the_policy_holds_in_a_browser(visit: Visit) -> None:
    evaluated = "try { %s; 'done' } catch (error) { error.name }"
    assert visit.page.evaluate(evaluated % "document.body.innerHTML = '<b>x</b>'") == "TypeError"
    assert visit.page.evaluate("fetch('https://example.com/').then(() => 'sent', error => error.name)") == "TypeError"
    assert visit.page.evaluate("document.cookie") == ""
    # Both were reported to the browser's console by the browser, which is what this test is about.
    visit.said.clear()
    visit.requests[:] = [url for url in visit.requests if "example.com" not in url]


@pytest.mark.parametrize("headers", [{"Accept": "text/html"}, {}])
def test_other_pages_may_not_put_it_into_a_frame(server: LocalServer, headers: dict[str, str]) -> None:
    response = httpx.get(f"{server.url}/", headers=headers)
    assert ("frame-ancestors 'none'" in response.headers.get("content-security-policy", "")) == bool(headers)
    assert "set-cookie" not in response.headers
