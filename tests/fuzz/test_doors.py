"""No input makes the server answer 500: any body, any method, in JSON and in Candid's text, for files, for the IC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.api.examples import EXAMPLES
from canister.api.methods import METHODS
from canister.client.local_server import LocalServer
from canister.flags.table import FLAGS
from tests.fuzz.targets import NAME_OF_AN_EXCEPTION

NAMES = [method.name for method in METHODS]
# Names as an attacker spells them: out of the folder, NUL, both Unicode forms, reserved elsewhere, too long.
EVIL_NAMES = [
    *("", ".", "..", "/", "../x", "a/../../x", "/etc/passwd", "a\0b", "a\\..\\b", "a//b/./c/", "~/x", "C:\\x", "CON"),
    *("é", "e\u0301", "Å", "A\u030a", "ﬁle", "file\u202egnp", "\u2025/x", "％2e％2e/x", "%2e%2e%2fx", "a" * 256),
    *("é" * 200, "a/" * 600, "\ud800", "x\n", ".canister_cache", ".canister_cache/x/sessions/y", "canister.db", "$(x)"),
]
TEXTS = st.one_of(st.sampled_from(EVIL_NAMES), st.text(max_size=30), st.sampled_from([f.names[0] for f in FLAGS]))
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, -1, 2**31, 2**32, 2**63, 2**64]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A controller of a server of its own, which may be left in any state."""
    with (
        LocalServer(tmp_path_factory.mktemp("fuzz") / "data", "--canister", "fuzzed") as server,
        httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {server.api_key}"}, timeout=60, trust_env=False
        ) as client,
    ):
        yield client
        assert client.get("/healthz").status_code == 200
        log = (server.data_dir / "serve.err").read_text()
        assert "Traceback" not in log
        assert "method failed" not in log
        assert "request failed" not in log


def like(example: Any) -> st.SearchStrategy[Any]:
    """Values of the shape of an example, each part of it sometimes another."""
    if isinstance(example, dict):
        return st.fixed_dictionaries({name: st.one_of(like(value), VALUES) for name, value in example.items()})
    if isinstance(example, list):
        return st.lists(TEXTS, max_size=6)
    return TEXTS if isinstance(example, str) else NUMBERS


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "replace")


BODIES = st.one_of(
    st.binary(max_size=60), VALUES.map(dumped), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def is_sound(response: httpx.Response) -> None:
    """An answer, or a refusal that is the sender's fault; both in JSON or Candid."""
    assert response.status_code < 500, (response.status_code, response.text)
    assert "Traceback" not in response.text
    assert not NAME_OF_AN_EXCEPTION.search(response.text), response.text


@pytest.mark.parametrize("name", NAMES)
def test_any_body(client: httpx.Client, name: str) -> None:
    @FEW
    @given(
        st.one_of(BODIES, like(EXAMPLES.get(name)).map(dumped)),
        st.sampled_from(["application/json", "text/candid", "x"]),
    )
    def send(body: bytes, media_type: str) -> None:
        is_sound(client.post(f"/canisters/fuzzed/{name}", content=body, headers={"Content-Type": media_type}))

    send()


@pytest.mark.parametrize("name", [name for name, example in EXAMPLES.items() if isinstance(example, dict)])
def test_evil_names(client: httpx.Client, name: str) -> None:
    """Wherever a method takes a text."""
    example: dict[str, Any] = EXAMPLES[name]  # type: ignore[assignment]
    for evil in EVIL_NAMES:
        argument = {
            field: evil
            if isinstance(value, str) and field != "chunk"
            else ["--model", evil, "--log-file", evil]
            if isinstance(value, list)
            else value
            for field, value in example.items()
        }
        is_sound(client.post(f"/canisters/fuzzed/{name}", content=dumped(argument)))


@MANY
@given(st.sampled_from(["GET", "PUT", "HEAD", "POST", "DELETE", "OPTIONS"]), TEXTS, st.binary(max_size=40))
def test_any_path_of_files(client: httpx.Client, verb: str, path: str, body: bytes) -> None:
    from urllib.parse import quote

    url = f"/canisters/fuzzed/files/{quote(path.encode('utf-8', 'replace'), safe='')}"
    is_sound(client.request(verb, url, content=body, params={"offset": path.encode("utf-8", "replace")}))


@MANY
@given(st.sampled_from(["call", "query", "read_state"]), st.sampled_from(["v2", "v3", "v4"]), BODIES)
def test_any_body_for_the_ic(client: httpx.Client, kind: str, version: str, body: bytes) -> None:
    canister_id = client.get("/canisters").json()["canisters"][0]["id"]
    is_sound(
        client.post(
            f"/api/{version}/canister/{canister_id}/{kind}", content=body, headers={"Content-Type": "application/cbor"}
        )
    )


@MANY
@given(
    st.dictionaries(
        st.sampled_from(["Authorization", "X-Request-Id", "Accept", "Range", "Content-Type"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip),
    )
)
def test_any_header(client: httpx.Client, headers: dict[str, str]) -> None:
    is_sound(client.get("/whoami", headers=headers))
    is_sound(client.get("/canisters/fuzzed/files/x", headers=headers))
