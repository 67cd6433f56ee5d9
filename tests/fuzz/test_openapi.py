"""The OpenAPI document is true: whatever fits it or breaks it gets an answer that stands in it, and never a 500.

Schemathesis makes the requests from the document and holds the answers against it: status, media type, headers, body,
wrong arguments and wrong verbs refused. It runs against a server of its own, confined where the kernel can, that writes
below `tmp_path` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from canister.client.local_server import LocalServer
from canister.server.pages.openapi import document
from tests.harness import CHAT_MODEL

N_EXAMPLES = 8  # an operation and kind of request, in every run
NIGHTLY_EXAMPLES = 150
CANISTER = "fuzzed"

SCHEMA = schemathesis.openapi.from_dict(document())
ENDLESS = {"GET /canisters/{canister}/events"}  # a stream for as long as somebody listens: see test_events.py
OPERATIONS: dict[str, APIOperation[Any, Any]] = {
    found.ok().label: found.ok() for found in SCHEMA.get_all_operations() if found.ok().label not in ENDLESS
}
TELLS_503 = {"GET /v1/health"}  # that no model is loaded, as is the case here
EMBEDDINGS = ("/v1/embeddings", "/embedding", "/api/embed", "/api/embeddings")
TELLS_501 = {f"POST {path}" for path in ("/infill", *EMBEDDINGS)}  # that the model which is loaded is of another kind
# Paths and headers take any text, so a request of nothing else cannot break the schema.
BREAKABLE = [label for label, operation in OPERATIONS.items() if operation.body or operation.query]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """It may be left in any state."""
    with LocalServer(tmp_path_factory.mktemp("openapi") / "data", "--canister", CANISTER) as server:
        yield server
        log = (server.data_dir / "serve.err").read_text()
        assert "Traceback" not in log
        assert "method failed" not in log
        assert "request failed" not in log


def hold(server: LocalServer, label: str, mode: GenerationMode, n_examples: int) -> None:
    """Send requests of one operation as the controller; the error tells what disagrees, and repeats the request."""
    operation = OPERATIONS[label]
    known = {"canister": CANISTER} if "{canister}" in operation.path else None
    requests = operation.as_strategy(mode, path_parameters=known)
    if known is not None:  # now and then another canister, which is not there
        requests = st.one_of(requests, requests, operation.as_strategy(mode))

    @settings(max_examples=n_examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests)
    def send(case: Case) -> None:
        # That an argument fits its schema does not say that it makes sense: flags, names and states are not in schemas.
        without = [positive_data_acceptance, *([not_a_server_error] if label in TELLS_503 else [])]
        answered(server, case, excluded_checks=without)

    send()


def answered(server: LocalServer, case: Case, **options: Any) -> int:
    """The status of an answer that is as documented."""
    headers = {"Authorization": f"Bearer {server.api_key}"}
    response = case.call_and_validate(base_url=server.url, headers=headers, timeout=60, **options)
    return int(response.status_code)


@pytest.mark.parametrize("label", OPERATIONS)
def test_what_fits_the_document(server: LocalServer, label: str) -> None:
    hold(server, label, GenerationMode.POSITIVE, N_EXAMPLES)


@pytest.mark.parametrize("label", BREAKABLE)
def test_what_breaks_the_document(server: LocalServer, label: str) -> None:
    hold(server, label, GenerationMode.NEGATIVE, N_EXAMPLES)


@pytest.mark.nightly
@pytest.mark.parametrize("label", OPERATIONS)
def test_much_that_fits_the_document(server: LocalServer, label: str) -> None:
    hold(server, label, GenerationMode.POSITIVE, NIGHTLY_EXAMPLES)


@pytest.mark.nightly
@pytest.mark.parametrize("label", BREAKABLE)
def test_much_that_breaks_the_document(server: LocalServer, label: str) -> None:
    hold(server, label, GenerationMode.NEGATIVE, NIGHTLY_EXAMPLES)


def test_the_examples_of_the_document(tmp_path: Path) -> None:
    """Sent one after the other, as JSON and as Candid text, to a canister that has the model which they speak of."""
    statuses: dict[tuple[str, str | None], int] = {}
    with LocalServer(tmp_path / "data", "--canister", CANISTER) as server:
        file = OPERATIONS["PUT /canisters/{canister}/files/{path}"]
        path = {"canister": CANISTER, "path": "models/model.gguf", "name": "who-are-you"}
        path |= {"model": CANISTER, "id": "resp_none"}  # of the OpenAI door
        upload = file.Case(path_parameters=path, body=CHAT_MODEL.read_bytes(), media_type="application/octet-stream")
        assert answered(server, upload) == 200
        load = "POST /canisters/{canister}/load_model"
        # First what the others need, last what takes it away.
        ordered = sorted(OPERATIONS.items(), key=lambda item: (item[0].startswith("DELETE"), item[0] != load))
        for label, operation in ordered:
            if operation is file:
                continue
            parameters = {name: value for name, value in path.items() if f"{{{name}}}" in operation.path}
            contents = operation.definition.raw.get("requestBody", {}).get("content", {})
            for media_type, content in contents.items() or [(None, {})]:
                body = {} if media_type is None else {"body": content["example"]}
                case = operation.Case(path_parameters=parameters, media_type=media_type, **body)
                without = [not_a_server_error] if label in TELLS_501 | TELLS_503 else []
                statuses[label, media_type] = answered(server, case, excluded_checks=without)
    assert {statuses[label, "application/json"] for label in TELLS_501} == {501}
    for method in ("load_model", "new_chat", "run_update", "run_query"):
        for media_type in ("application/json", "text/candid"):
            assert statuses[f"POST /canisters/{{canister}}/{method}", media_type] == 200
