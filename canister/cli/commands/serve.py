"""`canister serve`: the options are the rows of `config.Settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from canister.cli.shared.help import default_text
from canister.config import Settings

# Where each setting stands in the help; what is in no list is of use to few.
PANELS = {
    "Basics": ("host", "port", "data_dir", "model", "canister"),
    "Model and speed": ("slots", "threads", "exact", "ram_cache", "max_pause_ms", "call_timeout"),
    "As on the Internet Computer": (
        "instruction_limit",
        "query_instruction_limit",
        "budget_policy",
        "page_cost",
        "subnet_nodes",
        "balance_policy",
    ),
    "Access": ("controller", "metrics", "browser_origins", "allowed_hosts", "confine"),
    "Limits of callers": (
        "max_calls",
        "max_calls_per_caller",
        "max_queue",
        "max_queue_per_caller",
        "max_streams",
        "max_streams_per_caller",
        "stream_share",
        "max_stable_bytes",
        "max_files",
        "max_cache_bytes_per_caller",
        "max_cache_files_per_caller",
        "max_log_bytes",
    ),
    "Requests": (
        "max_body_bytes",
        "max_held_bytes",
        "max_connections",
        "header_seconds",
        "stall_seconds",
        "sync_call_seconds",
    ),
}
OTHERS = "Process and log"


def _setting(name: str, *flags: str, metavar: str | None = None) -> Any:
    """The option of a setting; its text and default come from the row."""
    text = Settings.model_fields[name].description or ""
    if default_text(name):
        text += f" [default: {default_text(name)}]"
    flags = flags or (f"--{name.replace('_', '-')}",)
    panel = next((panel for panel, names in PANELS.items() if name in names), OTHERS)
    values = _values(name)
    return typer.Option(
        *flags,
        metavar=metavar,
        help=text,
        show_default=False,
        rich_help_panel=panel,
        autocompletion=(lambda: values) if values else None,
    )


def _values(name: str) -> list[str]:
    """Those that a setting can have, where they are few."""
    annotation = Settings.model_fields[name].annotation
    return list(map(str, get_args(annotation))) if get_origin(annotation) is Literal else []


def serve(
    host: Annotated[str | None, _setting("host", metavar="ADDRESS")] = None,
    port: Annotated[int | None, _setting("port", metavar="PORT")] = None,
    data_dir: Annotated[Path | None, _setting("data_dir", metavar="DIR")] = None,
    model: Annotated[Path | None, _setting("model", "-m", "--model", metavar="FILE")] = None,
    canister: Annotated[list[str] | None, _setting("canister", metavar="NAME")] = None,
    slots: Annotated[int | None, _setting("slots", metavar="N")] = None,
    threads: Annotated[int | None, _setting("threads", metavar="N")] = None,
    ram_cache: Annotated[str | None, _setting("ram_cache", metavar="SIZE|auto")] = None,
    max_pause_ms: Annotated[int | None, _setting("max_pause_ms", metavar="N")] = None,
    call_timeout: Annotated[str | None, _setting("call_timeout", metavar="SECONDS|none")] = None,
    exact: Annotated[str | None, _setting("exact", metavar="auto|on|off")] = None,
    instruction_limit: Annotated[str | None, _setting("instruction_limit", metavar="N|none")] = None,
    query_instruction_limit: Annotated[str | None, _setting("query_instruction_limit", metavar="N|none")] = None,
    budget_policy: Annotated[str | None, _setting("budget_policy", metavar="yield|trap")] = None,
    page_cost: Annotated[str | None, _setting("page_cost", metavar="mainnet|legacy")] = None,
    subnet_nodes: Annotated[int | None, _setting("subnet_nodes", metavar="N")] = None,
    balance_policy: Annotated[str | None, _setting("balance_policy", metavar="track|enforce")] = None,
    max_body_bytes: Annotated[int | None, _setting("max_body_bytes", metavar="N")] = None,
    max_held_bytes: Annotated[int | None, _setting("max_held_bytes", metavar="N")] = None,
    max_calls: Annotated[int | None, _setting("max_calls", metavar="N")] = None,
    max_calls_per_caller: Annotated[int | None, _setting("max_calls_per_caller", metavar="N")] = None,
    max_queue: Annotated[int | None, _setting("max_queue", metavar="N")] = None,
    max_queue_per_caller: Annotated[int | None, _setting("max_queue_per_caller", metavar="N")] = None,
    max_streams: Annotated[int | None, _setting("max_streams", metavar="N")] = None,
    max_streams_per_caller: Annotated[int | None, _setting("max_streams_per_caller", metavar="N")] = None,
    stream_share: Annotated[float | None, _setting("stream_share", metavar="SHARE")] = None,
    max_connections: Annotated[int | None, _setting("max_connections", metavar="N")] = None,
    header_seconds: Annotated[float | None, _setting("header_seconds", metavar="SECONDS")] = None,
    stall_seconds: Annotated[float | None, _setting("stall_seconds", metavar="SECONDS")] = None,
    max_stable_bytes: Annotated[int | None, _setting("max_stable_bytes", metavar="N")] = None,
    max_files: Annotated[int | None, _setting("max_files", metavar="N")] = None,
    max_cache_bytes_per_caller: Annotated[int | None, _setting("max_cache_bytes_per_caller", metavar="N")] = None,
    max_cache_files_per_caller: Annotated[int | None, _setting("max_cache_files_per_caller", metavar="N")] = None,
    max_log_bytes: Annotated[int | None, _setting("max_log_bytes", metavar="N")] = None,
    sync_call_seconds: Annotated[float | None, _setting("sync_call_seconds", metavar="SECONDS")] = None,
    log_level: Annotated[str | None, _setting("log_level", metavar="LEVEL")] = None,
    log_format: Annotated[str | None, _setting("log_format", metavar="FORMAT")] = None,
    drain_seconds: Annotated[float | None, _setting("drain_seconds", metavar="SECONDS")] = None,
    controller: Annotated[list[str] | None, _setting("controller", metavar="PRINCIPAL")] = None,
    metrics: Annotated[str | None, _setting("metrics", metavar="controllers|everybody")] = None,
    browser_origins: Annotated[list[str] | None, _setting("browser_origins", metavar="ORIGIN|*")] = None,
    allowed_hosts: Annotated[list[str] | None, _setting("allowed_hosts", metavar="NAME|*")] = None,
    confine: Annotated[bool | None, _setting("confine", "--confine/--no-confine")] = None,
    supervise: Annotated[bool | None, _setting("supervise", "--supervise/--no-supervise")] = None,
    max_crashes: Annotated[int | None, _setting("max_crashes", metavar="N")] = None,
) -> None:
    """Serve canisters over HTTP until SIGTERM or Ctrl-C.

    Every setting can also stand in the environment (CANISTER_PORT=…) or in canister.toml of the working folder.
    A flag wins over the environment, the environment over the file.
    """
    from canister.cli.shared.settings import load_settings

    settings = load_settings(
        host=host,
        port=port,
        data_dir=data_dir,
        model=model,
        canister=canister or None,
        controller=controller or None,
        slots=slots,
        threads=threads,
        ram_cache=ram_cache,
        max_pause_ms=max_pause_ms,
        call_timeout=call_timeout,
        exact=exact,
        instruction_limit=instruction_limit,
        query_instruction_limit=query_instruction_limit,
        budget_policy=budget_policy,
        page_cost=page_cost,
        subnet_nodes=subnet_nodes,
        balance_policy=balance_policy,
        max_body_bytes=max_body_bytes,
        max_held_bytes=max_held_bytes,
        max_calls=max_calls,
        max_calls_per_caller=max_calls_per_caller,
        max_queue=max_queue,
        max_queue_per_caller=max_queue_per_caller,
        max_streams=max_streams,
        max_streams_per_caller=max_streams_per_caller,
        stream_share=stream_share,
        max_connections=max_connections,
        header_seconds=header_seconds,
        stall_seconds=stall_seconds,
        max_stable_bytes=max_stable_bytes,
        max_files=max_files,
        max_cache_bytes_per_caller=max_cache_bytes_per_caller,
        max_cache_files_per_caller=max_cache_files_per_caller,
        max_log_bytes=max_log_bytes,
        sync_call_seconds=sync_call_seconds,
        log_level=log_level,
        log_format=log_format,
        drain_seconds=drain_seconds,
        metrics=metrics,
        browser_origins=browser_origins or None,
        allowed_hosts=allowed_hosts or None,
        confine=confine,
        supervise=supervise,
        max_crashes=max_crashes,
    )

    from canister.server.process import start

    start(settings)
