"""The console's page and files, as a browser asks for them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx
import pytest

from canister.server.pages import console
from tests.harness import CHAT_MODEL

pytestmark = pytest.mark.anyio

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small bundle in the place of the real one."""
    (tmp_path / "index.html").write_text('<script type="module" src="{{base}}/main.js"></script>')
    (tmp_path / "main.js").write_text("let one = 1;\n" * 200)
    (tmp_path / "notes.txt").write_text("nobody is to read this")
    monkeypatch.setattr(console, "_PLACES", (tmp_path,))
    console._bundle.cache_clear()
    return tmp_path


@pytest.fixture(autouse=True)
def forget() -> object:
    yield
    console._bundle.cache_clear()


async def test_browsers_see_the_console_and_others_what_they_saw(anonymous: httpx.AsyncClient, bundle: Path) -> None:
    shown = await anonymous.get("/", headers={"Accept": BROWSER})
    assert shown.headers["content-type"].startswith("text/html")
    assert "Accept" in shown.headers["vary"]
    assert shown.headers["cache-control"] == "no-cache"
    policy = shown.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "trusted-types 'none'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    told = await anonymous.get("/", headers={"Accept": "*/*"})
    assert told.json()["name"] == "llama-canister"
    assert told.headers["vary"] == "Accept"


async def test_files_are_kept_for_ever_under_the_hash_of_all_of_them(
    anonymous: httpx.AsyncClient, bundle: Path
) -> None:
    page = (await anonymous.get("/", headers={"Accept": BROWSER})).text
    (path,) = re.findall(r'src="(console/[0-9a-f]{16}/main\.js)"', page)  # relative, for a proxy with a prefix
    file = await anonymous.get(f"/{path}")
    assert file.headers["content-type"].startswith("text/javascript")
    assert "immutable" in file.headers["cache-control"]
    assert file.headers["content-encoding"] == "gzip"
    assert file.content == (bundle / "main.js").read_bytes()
    assert len(gzip.compress(file.content)) < len(file.content)
    other = await anonymous.get("/console/0123456789abcdef/main.js")
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")
    before = console.read_bundle(bundle).version
    (bundle / "main.js").write_text("let two = 2;")
    assert console.read_bundle(bundle).version != before


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "..%2fconsole.py", "%2e%2e", "nothing.js"])
async def test_nothing_else_of_the_folder_is_served(anonymous: httpx.AsyncClient, bundle: Path, name: str) -> None:
    assert (await anonymous.get(f"/console/0123456789abcdef/{name}")).status_code == 404


async def test_without_a_bundle_the_page_says_what_is_missing(
    anonymous: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_PLACES", (tmp_path / "nothing",))
    console._bundle.cache_clear()
    shown = await anonymous.get("/", headers={"Accept": BROWSER})
    assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "npm" in shown.text
    assert "make console" in shown.text
    assert (await anonymous.get("/console/0123456789abcdef/main.js")).status_code == 404


async def test_the_page_gets_the_shipped_model(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get(f"/console/shipped/{CHAT_MODEL.name}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content == CHAT_MODEL.read_bytes()
    assert (await anonymous.get("/console/shipped/other.gguf")).status_code == 404
