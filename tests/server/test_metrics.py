"""`/metrics` and the log: what is told, that it is right, and that nothing of the callers is in it."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from canister.telemetry import logs, metrics
from tests.server.served import CHAT, served

pytestmark = pytest.mark.anyio

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(client: httpx.AsyncClient) -> Samples:
    text = (await client.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted({"canister": "llama_cpp", **labels}.items()))), 0.0)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged, at the level that servers have."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.set_up_logs("info", "json")
    yield stream
    root.handlers, root.level = handlers, level


async def test_the_figures_of_a_chat(tmp_path: Path, logged: io.StringIO) -> None:
    secret = "zebra-crossing-secret-prompt"
    async with (
        served(tmp_path, with_model=True, slots=2) as server,
        server.client() as controller,
        server.client("named-caller") as client,
    ):
        before = await scrape(controller)
        assert value(before, "canister_ready") == 1
        records = []
        for prompt in (CHAT.format(secret), "", ""):
            args = ["--prompt-cache", "private-cache-name", "--prompt-cache-all", "-p", prompt, "--ignore-eos"]
            response = await client.post("/run_update", json={"args": args}, headers={"X-Request-Id": "req-7"})
            records.append(response.json()["Ok"])
        cycles = int(response.headers["x-ic-cycles"])
        after = await scrape(controller)

        def grown(name: str, **labels: str) -> float:
            return value(after, name, **labels) - value(before, name, **labels)

        for kind, field in (
            ("prompt", "n_prompt_tokens_decoded"),
            ("generated", "n_tokens_generated"),
            ("cached", "n_prompt_tokens_cached"),
        ):
            assert grown("canister_tokens_total", kind=kind) == sum(record[field] for record in records)
        assert grown("canister_tokens_total", kind="cached") > 0
        assert grown("canister_requests_total", method="run_update", outcome="ok") == 3
        assert grown("canister_commit_seconds_count") == 3
        assert grown("canister_instructions_total", method="run_update") > 0
        assert grown("canister_cycles_total", method="run_update") > cycles
        assert value(after, "canister_cycle_balance") == value(before, "canister_cycle_balance") - grown(
            "canister_cycles_total", method="run_update"
        )
        # A chat alone is a batch of one, however many steps took its prompts.
        n_alone = grown("canister_engine_rows_total") - grown("canister_engine_accepted_tokens_total")
        assert n_alone == grown("canister_engine_row_steps_total") > 0
        assert grown("canister_engine_steps_total") > grown("canister_engine_row_steps_total")
        assert grown("canister_engine_prompt_tokens_total") + grown("canister_engine_rows_total") >= sum(
            record["n_prompt_tokens_decoded"] + record["n_tokens_generated"] for record in records
        )
        assert value(after, "canister_engine_resident") == 1
        assert value(after, "canister_engine_slots") == 2
        last = records[-1]
        n_tokens = last["n_prompt_tokens_cached"] + last["n_prompt_tokens_decoded"] + last["n_tokens_generated"]
        assert value(after, "canister_engine_kv_tokens") == n_tokens
        assert value(after, "canister_calls_running") == value(after, "canister_calls_waiting") == 0

        # What is known of the callers stands neither in metrics nor in the log.
        key = client.headers["authorization"].removeprefix("Bearer ")
        controller_key = server.host.key_path.read_text().strip()
        metrics = (await controller.get("/metrics")).text
        principal = server.host.principal_of(key)
        assert principal is not None
        log = logged.getvalue()
    assert '"request_id": "req-7"' in log
    for words in (secret, key, controller_key, "private-cache-name", last["output"]):
        assert words not in metrics
        assert words not in log
    assert principal not in metrics


async def test_every_observation_is_documented(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True) as server, server.client() as client:
        found = {name for name, _ in await scrape(client)}
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    missing = [
        name
        for name in found | set(metrics.OBSERVED)
        if name.startswith("canister_")
        and not name.endswith(("_bucket", "_count", "_sum", "_created"))
        and f"`{name}`" not in text
    ]
    assert not missing
    of_devices = {name for name in metrics.OBSERVED if name.startswith("canister_engine_device_")}  # none is here
    assert set(metrics.OBSERVED) - of_devices <= found
