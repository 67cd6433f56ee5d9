"""The page with the documentation needs this server alone, and the browser is told so."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx
import pytest

from canister.server.pages import docs

pytestmark = pytest.mark.anyio


async def test_all_that_the_page_needs_is_here(anonymous: httpx.AsyncClient) -> None:
    page = await anonymous.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert "docs/swagger-ui-bundle.js" in needed
    for address in needed:
        assert not re.match(r"[a-z]+:|/", address), f"{address} leads away, or out of the prefix of a proxy"
        assert (await anonymous.get(urljoin("/docs", address))).status_code == 200


async def test_the_script_shows_our_document(anonymous: httpx.AsyncClient) -> None:
    script = (await anonymous.get("/docs/start.js")).text
    url = re.search(r'url: "([^"]+)"', script)
    assert url is not None
    assert (await anonymous.get(urljoin("/docs", url[1]))).json()["openapi"] == "3.1.0"
    assert "validatorUrl: null" in script
    assert "filter: true" in script
    assert "Filter by path or summary" in script
    # OpenAPI 3.1 needs version 5 of Swagger UI.
    assert re.search(r'PACKAGE_VERSION:"5\.', (await anonymous.get("/docs/swagger-ui-bundle.js")).text)


@pytest.mark.parametrize("route", [route.path for route in docs.routes()])
async def test_the_browser_may_run_and_ask_nothing_else(anonymous: httpx.AsyncClient, route: str) -> None:
    response = await anonymous.get(route)
    assert response.headers["x-content-type-options"] == "nosniff"
    rules = dict(rule.strip().split(" ", 1) for rule in response.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert not re.search(r"https?:|\*|unsafe-eval", " ".join(rules.values()))
