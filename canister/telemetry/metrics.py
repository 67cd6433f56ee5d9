"""Metrics of a server, as Prometheus reads them.

Names of methods come from the interface table, so the number of series is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from canister.errors import CallerBusy, Cancelled, CanisterBusy

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_REQUESTS = Counter(
    "canister_requests",
    "Requests answered, by canister, method and outcome: ok, err, reject or cancelled.",
    ("canister", "method", "outcome"),
    registry=REGISTRY,
)
_REQUEST_SECONDS = Histogram(
    "canister_request_seconds",
    "Seconds from a request's arrival to its answer.",
    ("method",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
REQUESTS_RUNNING = Gauge("canister_requests_running", "Requests that are being worked on.", registry=REGISTRY)

CONNECTIONS = Gauge("canister_connections", "Connections that are open.", registry=REGISTRY)

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST


_M = TypeVar("_M", Counter, Histogram)
_ones: dict[tuple[object, ...], Any] = {}


def _one(metric: _M, *labels: str) -> _M:
    """The metric with these labels; the library's own look-up checks and locks each time."""
    key = (metric, *labels)
    found: _M | None = _ones.get(key)
    if found is None:
        found = _ones[key] = metric.labels(*labels)
    return found


class counted:  # noqa: N801  # a context, as those that functions make; it is entered for each call
    """Count the request that is answered inside, and measure its time. An exception is a reject.

    is_ok: its outcome, which the code that answers it sets.
    """

    __slots__ = ("_canister", "_method", "_started", "is_ok")

    def __init__(self, canister: str, method: str) -> None:
        self._canister = canister
        self._method = method
        self.is_ok = False

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            label = "ok" if self.is_ok else "err"
        else:
            is_reject = isinstance(error, Exception) and not isinstance(error, Cancelled)
            label = "reject" if is_reject else "cancelled"
        _one(_REQUESTS, self._canister, self._method, label).inc()
        _one(_REQUEST_SECONDS, self._method).observe(time.perf_counter() - self._started)


_REFUSED = Counter(
    "canister_refused",
    "Requests sent away because of a limit, by its scope: caller, canister or server.",
    ("canister", "scope"),
    registry=REGISTRY,
)


def refused(scope: str, canister: str = "") -> None:
    """Count a refused request. scope: caller, canister or server."""
    _one(_REFUSED, canister, scope).inc()


@contextmanager
def refusals(canister: str, counted_as: str | None = None) -> Iterator[None]:
    """Count requests that are refused inside. counted_as: the method, if nothing else counts it as a request."""
    try:
        yield
    except (CallerBusy, CanisterBusy) as error:
        refused("caller" if isinstance(error, CallerBusy) else "canister", canister)
        if counted_as is not None:
            _one(_REQUESTS, canister, counted_as, "reject").inc()
        raise


_INSTRUCTIONS = Counter(
    "canister_instructions",
    "Instructions that calls would have taken on the Internet Computer.",
    ("canister", "method"),
    registry=REGISTRY,
)
_CYCLES = Counter("canister_cycles", "Cycles charged for calls.", ("canister", "method"), registry=REGISTRY)


def count_cost(canister: str, method: str, instructions: int, cycles: int) -> None:
    """Add a call's cost."""
    _one(_INSTRUCTIONS, canister, method).inc(instructions)
    _one(_CYCLES, canister, method).inc(cycles)


_TOKENS = Counter(
    "canister_tokens",
    "Tokens of runs: prompt (decoded), generated, and cached (found in the prompt cache, not decoded again).",
    ("canister", "kind"),
    registry=REGISTRY,
)


def count_tokens(canister: str, *, prompt: int, generated: int, cached: int) -> None:
    """Add the tokens that a run has decoded, and those that it did not have to decode."""
    for kind, n_tokens in (("prompt", prompt), ("generated", generated), ("cached", cached)):
        _one(_TOKENS, canister, kind).inc(n_tokens)


_AUDITED = Counter(
    "canister_receipts_audited",
    "Calls decoded again by the server itself: their tokens were equal, or one differs, which is an alarm.",
    ("canister", "outcome"),
    registry=REGISTRY,
)


def count_audited(canister: str, *, is_equal: bool) -> None:
    """Count a call that was decoded again."""
    _one(_AUDITED, canister, "equal" if is_equal else "differs").inc()


_COMMIT_SECONDS = Histogram(
    "canister_commit_seconds",
    "Seconds that commits took, from prepared bytes to the disk.",
    ("canister",),
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    registry=REGISTRY,
)


def count_commit(canister: str, seconds: float) -> None:
    """Add a commit and the time that it took."""
    _one(_COMMIT_SECONDS, canister).observe(seconds)


_GROUP_CALLS = Histogram(
    "canister_group_calls",
    "Transactions that were committed together, with one wait for the disk.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
    registry=REGISTRY,
)
_GROUP_SECONDS = Histogram(
    "canister_group_seconds",
    "Seconds that committing them together took on the writer's thread, the wait for the disk included.",
    buckets=(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
    registry=REGISTRY,
)


def count_group(n_calls: int, seconds: float) -> None:
    """Add a group of so many transactions that were committed together."""
    _GROUP_CALLS.observe(n_calls)
    _GROUP_SECONDS.observe(seconds)


# Read when somebody asks: name, help. A name that ends in `_total` only grows, until another model is loaded.
OBSERVED = {
    "canister_ready": "1 when the model that should be loaded is loaded, or none should be.",
    "canister_calls_running": "Calls that are being worked on.",
    "canister_calls_waiting": "Calls that wait for their turn.",
    "canister_streams_running": "Uploads and downloads of whole files.",
    "canister_cycle_balance": "Cycles that are left.",
    "canister_stable_bytes": "Bytes of all files in stable memory.",
    "canister_engine_slots": "Conversations that fit into the KV memory.",
    "canister_engine_resident": "Conversations that are in the KV memory.",
    "canister_engine_kv_tokens": "Tokens of the conversations in the KV memory, as their last calls left them.",
    "canister_engine_kv_capacity_tokens": "Tokens that fit into the KV memory.",
    "canister_engine_running": "Calls whose tokens are being decoded.",
    "canister_engine_waiting": "Calls that wait for a slot.",
    "canister_engine_steps_total": "Steps of the engine.",
    "canister_engine_row_steps_total": "Steps that decoded generated tokens, and not prompts alone.",
    "canister_engine_rows_total": "Generated tokens decoded; divided by the steps with such tokens: the batch size.",
    "canister_engine_drafted_tokens_total": "Tokens that were proposed by speculation and decoded.",
    "canister_engine_accepted_tokens_total": "Proposed tokens that were drawn, and so had no decode of their own.",
    "canister_engine_prompt_tokens_total": "Prompt tokens decoded.",
    "canister_engine_slot_tokens_total": "Tokens not decoded: they were in the slot.",
    "canister_engine_memory_tokens_total": "Tokens not decoded: their state came back from memory.",
    "canister_engine_disk_tokens_total": "Tokens not decoded: their KV rows came from the container.",
    "canister_engine_shared_tokens_total": "Tokens not decoded: another conversation of the caller had them.",
    "canister_engine_parked": "Conversations whose state is kept in memory beside the slots.",
    "canister_engine_parked_bytes": "Bytes of these states; bounded by --ram-cache.",
    "canister_engine_device_free_bytes": "Memory that is free on the devices that compute layers of the model.",
    "canister_engine_device_bytes": "All memory of these devices.",
    "canister_engine_busy_seconds_total": "Seconds in which the engine had something to do.",
}


def metrics_text(observed: Mapping[str, Mapping[str, float]]) -> bytes:
    """All metrics in Prometheus' text format. observed: by canister, values by the names of OBSERVED."""
    return generate_latest(REGISTRY) + generate_latest(_Observed(observed))


class _Observed(Collector):
    def __init__(self, observed: Mapping[str, Mapping[str, float]]) -> None:
        self._observed = observed

    def collect(self) -> Iterator[Metric]:
        for name, text in OBSERVED.items():
            make = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = make(name, text, labels=("canister",))
            for canister, values in self._observed.items():
                if name in values:
                    family.add_metric((canister,), values[name])
            yield family


_RESTARTS = Gauge(
    "canister_restarts", "How often the supervisor has started the server again after a crash.", registry=REGISTRY
)


def note_restarts(n_restarts: int) -> None:
    """Set how many crashes came before this process."""
    _RESTARTS.set(n_restarts)


_CONFINED = Gauge("canister_confined", "1 if the kernel refuses writes outside the data folder.", registry=REGISTRY)


def note_confined(is_on: bool) -> None:
    """Note whether this process is confined."""
    _CONFINED.set(is_on)
