"""A program that talks to a server loads what it talks with, and nothing of the server."""

from __future__ import annotations

import ssl
import subprocess
import sys

MAX_MODULES = 15
HEAVY = {
    *("numpy", "prometheus_client", "sqlalchemy", "starlette", "fastapi", "uvicorn", "llama_cpp"),
    *("pydantic_settings", "typer", "click", "rich", "pygments"),
}


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_client_loads_few_of_our_modules() -> None:
    ours = {name for name in loaded_after("from canister.client import Canister") if name.split(".")[0] == "canister"}
    assert "canister.client.rest" in ours
    assert len(ours) <= MAX_MODULES, sorted(ours)


def test_a_client_loads_nothing_that_only_servers_and_commands_need() -> None:
    assert not HEAVY & loaded_after("from canister.client import Canister")


def test_a_signing_client_loads_nothing_that_only_servers_and_commands_need() -> None:
    assert not HEAVY & loaded_after("from canister.client.ic import IcCanister")


def test_httpx_that_was_there_before_stays_as_it_is() -> None:
    loaded = loaded_after(
        "import httpx; before = httpx; from canister.client.rest import httpx; assert httpx is before"
    )
    assert "canister.client.rest" in loaded


def test_a_client_of_this_machine_loads_no_certificates_and_trusts_none() -> None:
    from canister.client.http_library import trust

    here = trust("http://127.0.0.1:8000")
    assert isinstance(here["verify"], ssl.SSLContext)
    assert here["verify"].get_ca_certs() == []
    assert here["verify"].verify_mode == ssl.CERT_REQUIRED
    assert not here["trust_env"]
    for url, trusts_env in (("https://127.0.0.1:8443", False), ("http://example.org", True), ("https://a.b", True)):
        assert trust(url) == {"trust_env": trusts_env, "verify": True}
