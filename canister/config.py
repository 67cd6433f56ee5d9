"""The settings of server and clients, from flags > CANISTER_* > canister.toml > defaults.

Each setting is one row here; the options of `canister serve`, environment names, the TOML file and the docs are made
from these rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from canister.defaults import (
    DEFAULT_CANISTER,
    DEFAULT_PORT,
    ENVIRONMENT_PREFIX,
    QUERY_LIMIT,
    UPDATE_LIMIT,
    default_data_dir,
)

PER_CANISTER = (
    "instruction_limit",
    "query_instruction_limit",
    "budget_policy",
    "page_cost",
    "subnet_nodes",
    "balance_policy",
    "slots",
    "threads",
    "exact",
    "ram_cache",
    "max_pause_ms",
    "call_timeout",
)


def _limit(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "none" else value


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() == "auto":
        return None
    match = re.fullmatch(r"(\d+)([KMGT]?)(I?B)?", value.upper())
    if match is None:
        raise ValueError(f"{value!r} is not a size: a number of bytes, or one with K, M, G or T, such as 256M")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


MemorySize = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_size)]
InstructionLimit = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_limit)]
Seconds = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_limit)]


# Panels of the help of `canister serve`, in order. Each setting names its panel.
BASICS, SPEED, AS_ON_IC = "Basics", "Model and speed", "As on the Internet Computer"
ACCESS, CALLERS, REQUESTS, PROCESS = "Access", "Limits of callers", "Requests", "Process and log"


@dataclass(frozen=True, slots=True)
class Flag:
    """How `canister serve` takes a setting. metavar: names its value, where the type does not."""

    panel: str
    metavar: str | None = None
    short: str | None = None


class Settings(BaseSettings):
    """All settings. Unknown names in canister.toml are refused."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, toml_file="canister.toml", frozen=True, validate_default=True
    )

    host: Annotated[str, Flag(BASICS, "ADDRESS")] = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Flag(BASICS, "PORT")] = Field(
        DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    data_dir: Annotated[Path, Flag(BASICS, "DIR")] = Field(
        default_factory=default_data_dir, description="Folder that holds all state of the server."
    )
    model: Annotated[Path | None, Flag(BASICS, "FILE", short="-m")] = Field(
        None, description="GGUF file to put into the first canister and load, if it is not there already."
    )
    canister: Annotated[list[str], Flag(BASICS, "NAME")] = Field(
        default=[DEFAULT_CANISTER], min_length=1, description="Names of the canisters that are hosted."
    )
    slots: Annotated[int, Flag(SPEED)] = Field(
        0, ge=0, le=64, description="Chats that a model keeps in its KV memory; 0: by memory, at most 8."
    )
    threads: Annotated[int, Flag(SPEED)] = Field(
        0, ge=0, description="Threads that decode, at most one a core; 0: the fastest for one chat, measured at load."
    )
    exact: Annotated[Literal["auto", "on", "off"], Flag(SPEED)] = Field(
        "auto",
        description="Whether a chat gets the same tokens whoever runs beside it and however it is cut into calls. "
        "auto: where it costs little; on: always, with fewer chats per decode if need be; "
        "off: flash attention and any number.",
    )
    ram_cache: Annotated[MemorySize, Flag(SPEED, "SIZE|auto")] = Field(
        None,
        description="Memory for the states of chats that lost their slot, such as 256M or 1G, 0 for none; "
        "auto: an eighth of what is available, at most 1G.",
    )
    max_pause_ms: Annotated[int, Flag(SPEED)] = Field(
        200,
        ge=1,
        description="Milliseconds that a chat may wait for its next token while prompts of others are decoded; it sets "
        "the size of their chunks.",
    )
    call_timeout: Annotated[Seconds, Flag(SPEED, "SECONDS|none")] = Field(
        None, description="Seconds that one call may take, waiting included; then it is cancelled and rolled back."
    )
    instruction_limit: Annotated[InstructionLimit, Flag(AS_ON_IC, "N|none")] = Field(
        UPDATE_LIMIT, description="Instructions that one update call may take; none: counted, not enforced."
    )
    query_instruction_limit: Annotated[InstructionLimit, Flag(AS_ON_IC, "N|none")] = Field(
        QUERY_LIMIT, description="Instructions that one query call may take; none: counted, not enforced."
    )
    budget_policy: Annotated[Literal["yield", "trap"], Flag(AS_ON_IC)] = Field(
        "yield",
        description="What happens at the limit: yield ends the call before the token that would not fit; "
        "trap fails it as the main network does.",
    )
    page_cost: Annotated[Literal["mainnet", "legacy"], Flag(AS_ON_IC)] = Field(
        "mainnet", description="What touching memory costs: mainnet since 2026-07-30; legacy before, and locally."
    )
    subnet_nodes: Annotated[int, Flag(AS_ON_IC)] = Field(
        13, ge=1, description="Nodes of the subnet whose prices are charged."
    )
    balance_policy: Annotated[Literal["track", "enforce"], Flag(AS_ON_IC)] = Field(
        "track", description="track: the cycle balance may fall below zero; enforce: calls are refused (IC0207)."
    )
    max_body_bytes: Annotated[int, Flag(REQUESTS)] = Field(
        8 * 1024 * 1024, ge=1024, description="Largest body of a call; larger ones are refused with 413."
    )
    max_held_bytes: Annotated[int, Flag(REQUESTS)] = Field(
        256 * 1024 * 1024, ge=1024, description="Bodies of requests held in memory at once; beyond that: 503."
    )
    max_calls: Annotated[int, Flag(CALLERS)] = Field(
        256, ge=1, description="Calls that a canister works on at once; more wait, in fair turns among their callers."
    )
    max_calls_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        32, ge=1, description="Calls of one caller that a canister works on at once."
    )
    max_queue: Annotated[int, Flag(CALLERS)] = Field(
        1024, ge=0, description="Calls that may wait for a canister; more are refused with 503, or rejected (IC0201)."
    )
    max_queue_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        128, ge=0, description="Calls of one caller that may wait; more are refused with 429, or rejected (IC0201)."
    )
    max_streams: Annotated[int, Flag(CALLERS)] = Field(
        16, ge=1, description="Files that a canister sends and receives at once as streams; beyond that: 503."
    )
    max_streams_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        4, ge=1, description="Of those, streams of one caller; beyond that: 429."
    )
    stream_share: Annotated[float, Flag(CALLERS, "SHARE")] = Field(
        0.03,
        ge=0.001,
        le=1,
        description="Share of a core that these streams may take, all together, while a model decodes on every core; "
        "1: as much as they want.",
    )
    supervise: Annotated[bool, Flag(PROCESS)] = Field(
        True,
        description="Serve from a child process, which is started again when it crashes. Off for systemd and "
        "containers, which start a server again by themselves and go by its exit code.",
    )
    max_crashes: Annotated[int, Flag(PROCESS)] = Field(
        5, ge=0, description="Crashes within a minute after which it is not started again; 0: it always is."
    )
    max_connections: Annotated[int, Flag(REQUESTS)] = Field(
        1024, ge=1, description="Connections at once; then the longest idle one is closed, or a new one gets 503."
    )
    header_seconds: Annotated[float, Flag(REQUESTS)] = Field(
        20.0, gt=0, description="How long a client may take to send the head of a request; then it is disconnected."
    )
    stall_seconds: Annotated[float, Flag(REQUESTS)] = Field(
        30.0, gt=0, description="How long a client may be slower than 1 KB/s while it sends a body or takes an answer."
    )
    max_stable_bytes: Annotated[int, Flag(CALLERS)] = Field(
        500 * 1024**3, ge=1, description="Bytes of all files in the stable memory of a canister, and of kept answers."
    )
    max_files: Annotated[int, Flag(CALLERS)] = Field(
        1_000_000, ge=1, description="Files and folders in the stable memory of a canister."
    )
    max_cache_bytes_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        64 * 1024**3, ge=1, description="Bytes of the prompt caches that one caller has in a canister."
    )
    max_cache_files_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        20_000, ge=1, description="Files and folders of the prompt caches of one caller; most caches have two files."
    )
    keep_answers_days: Annotated[float, Flag(CALLERS, "DAYS")] = Field(
        30.0,
        gt=0,
        le=3650,
        description="How long answers are kept that were stored, run in the background, or have an Idempotency-Key.",
    )
    max_answers_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        1000, ge=1, description="Of those, answers of one caller; the oldest that have ended make room."
    )
    max_answer_bytes_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        256 * 1024**2, ge=1, description="Bytes of those of one caller; the oldest that have ended make room."
    )
    answer_caches_per_caller: Annotated[int, Flag(CALLERS)] = Field(
        32,
        ge=1,
        description="Prompt caches that whole answers, as OpenAI's clients ask for them, leave of one caller; then the "
        "one used longest ago is removed.",
    )
    max_log_bytes: Annotated[int, Flag(CALLERS)] = Field(
        16 * 1024 * 1024, ge=1024, description="Size at which a --log-file begins anew; the one before stays as .1."
    )
    sync_call_seconds: Annotated[float, Flag(REQUESTS)] = Field(
        10.0, ge=0, description="How long an IC call is waited for before its client is told to poll."
    )
    log_level: Annotated[str, Flag(PROCESS, "LEVEL")] = Field("info", description="debug, info, warning or error.")
    log_format: Annotated[str, Flag(PROCESS, "FORMAT")] = Field(
        "auto", description="json, console, or auto: console on a terminal."
    )
    drain_seconds: Annotated[float, Flag(PROCESS)] = Field(
        30.0, ge=0, description="How long running calls may take after SIGTERM."
    )

    controller: Annotated[list[str], Flag(ACCESS, "PRINCIPAL")] = Field(
        default=[], description="Principals that control every canister, besides the server's own identity."
    )
    metrics: Annotated[Literal["controllers", "everybody"], Flag(ACCESS)] = Field(
        "controllers",
        description="Who may read /metrics: sums over all callers, from which one caller could tell what others do.",
    )
    browser_origins: Annotated[list[str], Flag(ACCESS, "ORIGIN|*")] = Field(
        default=[],
        description="Web pages that may use this server from a browser, over REST with an API key and over the IC "
        "interface, such as http://localhost:5173; * for all. Others get 403 at /api, and read nothing else.",
    )
    allowed_hosts: Annotated[list[str], Flag(ACCESS, "NAME|*")] = Field(
        default=[],
        description="Names by which clients call a server that listens on its own machine alone, as behind a proxy: "
        "example.org; * for all. Others are refused with 403, but for localhost and addresses.",
    )
    confine: Annotated[bool, Flag(ACCESS)] = Field(
        True, description="Let the kernel refuse writes outside the data folder (Landlock, where Linux has it)."
    )

    canisters: dict[str, dict[str, Any]] = Field(
        default={},
        description=f"Settings of single canisters, by name: {', '.join(PER_CANISTER)}. "
        "In canister.toml: [canisters.llama_cpp]",
    )

    def of(self, canister: str) -> Settings:
        """The settings of one canister: those of `canisters` before those of the server."""
        own = self.canisters.get(canister)
        return self if own is None else self.__class__.model_validate({**self.model_dump(), **own, "canisters": {}})

    @field_validator("canisters")
    @classmethod
    def _known_overrides(cls, canisters: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for canister, own in canisters.items():
            for name in own:
                if name not in PER_CANISTER:
                    raise ValueError(f"[canisters.{canister}] {name}: only {', '.join(PER_CANISTER)} can be set there")
        return canisters

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.lower() not in ("debug", "info", "warning", "error"):
            raise ValueError(f"{value!r} is not a log level: debug, info, warning or error")
        return value.lower()

    @field_validator("log_format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in ("auto", "json", "console"):
            raise ValueError(f"{value!r} is not a log format: auto, json or console")
        return value

    @field_validator("canister")
    @classmethod
    def _usable_names(cls, names: list[str]) -> list[str]:
        for name in names:
            if not name or len(name) > 64 or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{name!r} is no canister name: letters, digits, _ and -, at most 64")
        if len(set(names)) != len(names):
            raise ValueError(f"a canister is named twice in {names}")
        return names

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load_settings(**flags: Any) -> Settings:
    """Settings from given flags (those that are None are not given), environment and canister.toml.

    Raises pydantic's ValidationError, which names the setting and the value.
    """
    return Settings(**{name: value for name, value in flags.items() if value is not None})


class _Given(Settings):
    """Settings that somebody else has read, whatever the environment and canister.toml say by now."""

    model_config = SettingsConfigDict(toml_file=None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_from_json(values: dict[str, Any]) -> Settings:
    """All settings, as `Settings.model_dump_json` wrote them."""
    return _Given(**values)
