"""The settings, a row each, in sections: the server, each canister, and the engine of a canister.

The options of `canister serve`, the names in the environment and in canister.toml, and the docs are made from these
rows. `sources.py` reads their values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from canister.config.values import (
    ACCESS,
    AO,
    AS_ON_IC,
    BASICS,
    CALLERS,
    HERD,
    PROCESS,
    REQUESTS,
    SPEED,
    CanisterNames,
    InstructionLimit,
    LogFormat,
    LogLevel,
    MemorySize,
    NamedModels,
    Seconds,
    ServeOption,
    UnixAddress,
)
from canister.defaults import DEFAULT_CANISTER, DEFAULT_PORT, QUERY_LIMIT, UPDATE_LIMIT, default_data_dir


class Section(BaseModel):
    """Settings that belong together. Settings of a section inside may also be given by their own names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def defaults(cls) -> Self:
        return cls.model_validate({})

    @classmethod
    def inside(cls) -> dict[str, type[Section]]:
        """The sections in this one, by name."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}

    @classmethod
    def rows(cls) -> dict[str, FieldInfo]:
        """Its settings by name, and those of the sections inside."""
        inside = cls.inside()
        found: dict[str, FieldInfo] = {}
        for section in inside.values():
            found |= section.rows()
        return found | {name: field for name, field in cls.model_fields.items() if name not in inside}

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        values: dict[str, Any] = dict(given)
        for name, section in cls.inside().items():
            own = {row: values.pop(row) for row in section.rows() if row in values}
            if own:
                values[name] = {**dict(values.get(name, {})), **own}
        return values


class EngineSettings(Section):
    """How a canister's model runs."""

    slots: Annotated[int, ServeOption(SPEED)] = Field(
        0, ge=0, le=64, description="Chats that a model keeps in its KV memory; 0: by memory, at most 8."
    )
    threads: Annotated[int, ServeOption(SPEED)] = Field(
        0, ge=0, description="Threads that decode, at most one a core; 0: the fastest for one chat, measured at load."
    )
    exact: Annotated[Literal["auto", "on", "portable", "off"], ServeOption(SPEED)] = Field(
        "auto",
        description="Whether a chat gets the same tokens, whatever runs beside it and however it is cut into calls. "
        "auto: where it costs little; on: always, with fewer chats per decode if need be; "
        "portable: as on, and the same tokens on every processor with AVX2, by a llama.cpp compiled for that alone; "
        "off: flash attention and any number of chats.",
    )
    spec_type: Annotated[
        Literal["none", "ngram-simple", "draft-simple", "ngram-simple,draft-simple"], ServeOption(SPEED)
    ] = Field(
        "ngram-simple",
        description="Speculative decoding, which changes no token and no cost. ngram-simple: what followed in the "
        "chat's own text, or in its caller's other chats, is proposed, and decoded in one pass where that gives the "
        "same bits. draft-simple: only the guesses of a model that load_model was given with --model-draft, which are "
        "otherwise used beside ngram-simple. none: one token at a time.",
    )
    spec_draft_n_max: Annotated[int, ServeOption(SPEED)] = Field(
        15, ge=0, le=15, description="Tokens of a draft, at most."
    )
    ram_cache: Annotated[MemorySize, ServeOption(SPEED, "SIZE|auto")] = Field(
        None,
        description="Memory for the states of chats that lost their slot, such as 256M or 1G, 0 for none; "
        "auto: an eighth of what is available, at most 1G.",
    )
    max_pause_ms: Annotated[int, ServeOption(SPEED)] = Field(
        200,
        ge=1,
        description="Milliseconds that a chat may wait for its next token while prompts of others are decoded, which "
        "limits the size of their chunks.",
    )


class CanisterSettings(Section):
    """Settings of one canister. Each can be set for a single canister."""

    engine: EngineSettings = Field(default_factory=EngineSettings.defaults)
    call_timeout: Annotated[Seconds, ServeOption(SPEED, "SECONDS|none")] = Field(
        None, description="Seconds that one call may take, waiting included; then it is cancelled and rolled back."
    )
    slice_seconds: Annotated[float, ServeOption(SPEED, "SECONDS")] = Field(
        1.0,
        gt=0,
        description="Seconds after which a call of a whole answer ends and the next one follows. Its tokens are then "
        "kept, also for a client that gives up and asks again.",
    )
    instruction_limit: Annotated[InstructionLimit, ServeOption(AS_ON_IC, "N|none")] = Field(
        UPDATE_LIMIT, description="Instructions that one update call may take; none: counted, not enforced."
    )
    query_instruction_limit: Annotated[InstructionLimit, ServeOption(AS_ON_IC, "N|none")] = Field(
        QUERY_LIMIT, description="Instructions that one query call may take; none: counted, not enforced."
    )
    budget_policy: Annotated[Literal["yield", "trap"], ServeOption(AS_ON_IC)] = Field(
        "yield",
        description="What happens at the limit: yield ends the call before the token that would not fit; "
        "trap fails it as the main network does.",
    )
    page_cost: Annotated[Literal["mainnet", "legacy"], ServeOption(AS_ON_IC)] = Field(
        "mainnet", description="What touching memory costs: mainnet since 2026-07-30; legacy before, and locally."
    )
    subnet_nodes: Annotated[int, ServeOption(AS_ON_IC)] = Field(
        13, ge=1, description="Nodes of the subnet whose prices are charged."
    )
    balance_policy: Annotated[Literal["track", "enforce"], ServeOption(AS_ON_IC)] = Field(
        "track", description="track: the cycle balance may fall below zero; enforce: calls are refused (IC0207)."
    )
    receipts: Annotated[Literal["hashes", "full", "off"], ServeOption(AS_ON_IC)] = Field(
        "hashes",
        description="What is kept of each update for its receipt. hashes: of argument and output; full: argument, "
        "output and tokens too; off: nothing, and no receipts.",
    )
    audit: Annotated[float, ServeOption(AS_ON_IC, "SHARE")] = Field(
        0.0,
        ge=0,
        le=1,
        description="The share of calls, such as 0.01, that the server decodes again while it is idle, to find out "
        "whether the model still gives the same tokens.",
    )
    keep_receipts: Annotated[int, ServeOption(AS_ON_IC)] = Field(
        100_000, ge=0, description="Receipts that a canister keeps, 0.4 KB each, the newest ones; 0: all."
    )
    keep_receipt_bytes: Annotated[int, ServeOption(AS_ON_IC)] = Field(
        1 << 30,
        ge=0,
        description="Bytes of arguments, outputs and tokens that a canister keeps under receipts = full; those of the "
        "oldest calls go first, and their receipts stay.",
    )
    max_calls: Annotated[int, ServeOption(CALLERS)] = Field(
        256, ge=1, description="Calls that a canister works on at once; more wait, in fair turns among their callers."
    )
    max_calls_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        32, ge=1, description="Calls of one caller that a canister works on at once."
    )
    max_queue: Annotated[int, ServeOption(CALLERS)] = Field(
        1024, ge=0, description="Calls that may wait for a canister; more are refused with 503, or rejected (IC0201)."
    )
    max_queue_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        128, ge=0, description="Calls of one caller that may wait; more are refused with 429, or rejected (IC0201)."
    )
    max_streams: Annotated[int, ServeOption(CALLERS)] = Field(
        16, ge=1, description="Files that a canister sends and receives at once as streams; more are refused with 503."
    )
    max_streams_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        4, ge=1, description="Files that one caller sends and receives at once as streams; more are refused with 429."
    )
    max_stable_bytes: Annotated[int, ServeOption(CALLERS)] = Field(
        500 * 1024**3, ge=1, description="Bytes of all files in the stable memory of a canister, and of kept answers."
    )
    max_files: Annotated[int, ServeOption(CALLERS)] = Field(
        1_000_000, ge=1, description="Files and folders in the stable memory of a canister."
    )
    max_cache_bytes_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        64 * 1024**3, ge=1, description="Bytes of the prompt caches that one caller has in a canister."
    )
    max_cache_files_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        20_000, ge=1, description="Files and folders of the prompt caches of one caller; most caches have two files."
    )
    keep_answers_days: Annotated[float, ServeOption(CALLERS, "DAYS")] = Field(
        30.0,
        gt=0,
        le=3650,
        description="Days for which answers are kept that are stored, made in background, or have an Idempotency-Key.",
    )
    max_answers_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        1000, ge=1, description="Kept answers of one caller; the oldest ended ones are removed for new ones."
    )
    max_answer_bytes_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        256 * 1024**2,
        ge=1,
        description="Bytes of the kept answers of one caller; the oldest ended ones are removed for new ones.",
    )
    answer_caches_per_caller: Annotated[int, ServeOption(CALLERS)] = Field(
        32,
        ge=1,
        description="Prompt caches that the whole answers of one caller leave, such as those of OpenAI's clients; then "
        "the least recently used one is removed.",
    )
    max_log_bytes: Annotated[int, ServeOption(CALLERS)] = Field(
        16 * 1024 * 1024, ge=1024, description="Bytes at which a --log-file begins anew; the former one stays as .1."
    )


class ServerSettings(Section):
    """Settings of the process and its doors."""

    host: Annotated[str, ServeOption(BASICS, "ADDRESS")] = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, ServeOption(BASICS, "PORT")] = Field(
        DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    listen: Annotated[UnixAddress | None, ServeOption(BASICS, "unix:PATH")] = Field(
        None,
        description="A socket file to listen on instead, which only the server's user may open; --network unix:PATH "
        "finds it.",
    )
    data_dir: Annotated[Path, ServeOption(BASICS, "DIR")] = Field(
        default_factory=default_data_dir, description="Folder that holds all state of the server."
    )
    model: Annotated[Path | None, ServeOption(BASICS, "FILE", short="-m")] = Field(
        None, description="GGUF file to put into the first canister and load, if it is not there already."
    )
    model_draft: Annotated[Path | None, ServeOption(BASICS, "FILE", short="-md")] = Field(
        None,
        description="With --model: a small GGUF of the same vocabulary that guesses for it; its answers come sooner, "
        "and are the same.",
    )
    canister: Annotated[CanisterNames, ServeOption(BASICS, "NAME")] = Field(
        default=[DEFAULT_CANISTER], min_length=1, description="Names of the canisters that are hosted."
    )
    supervise: Annotated[bool, ServeOption(PROCESS)] = Field(
        True,
        description="Serve from a child process, which is started again when it crashes. Turn it off for systemd and "
        "containers, which start a server again by themselves and go by its exit code.",
    )
    max_crashes: Annotated[int, ServeOption(PROCESS)] = Field(
        5, ge=0, description="Crashes within a minute after which the server is not started again; 0: it always is."
    )
    max_connections: Annotated[int, ServeOption(REQUESTS)] = Field(
        1024,
        ge=1,
        description="Connections at once; beyond that the longest idle one is closed, or a new one gets 503.",
    )
    header_seconds: Annotated[float, ServeOption(REQUESTS)] = Field(
        20.0, gt=0, description="Seconds that a client may take to send the head of a request; then it is disconnected."
    )
    stall_seconds: Annotated[float, ServeOption(REQUESTS)] = Field(
        30.0,
        gt=0,
        description="Seconds that a client may be slower than 1 KB/s while it sends a body or takes an answer.",
    )
    max_body_bytes: Annotated[int, ServeOption(REQUESTS)] = Field(
        8 * 1024 * 1024, ge=1024, description="Bytes of the largest body of a call; larger ones are refused with 413."
    )
    max_held_bytes: Annotated[int, ServeOption(REQUESTS)] = Field(
        256 * 1024 * 1024, ge=1024, description="Bytes of request bodies in memory at once; more are refused with 503."
    )
    sync_call_seconds: Annotated[float, ServeOption(REQUESTS)] = Field(
        10.0, ge=0, description="Seconds that an IC call is waited for before its client is told to poll."
    )
    stream_share: Annotated[float, ServeOption(CALLERS, "SHARE")] = Field(
        0.03,
        ge=0.001,
        le=1,
        description="Share of a core that all streams of files together may take while a model decodes on every core; "
        "1: as much as they want.",
    )
    drain_seconds: Annotated[float, ServeOption(PROCESS)] = Field(
        30.0, ge=0, description="Seconds that running calls may take after SIGTERM."
    )
    log_level: Annotated[LogLevel, ServeOption(PROCESS, "LEVEL")] = Field(
        "info", description="debug, info, warning or error."
    )
    log_format: Annotated[LogFormat, ServeOption(PROCESS, "FORMAT")] = Field(
        "auto", description="json, console, or auto: console on a terminal."
    )
    controller: Annotated[list[str], ServeOption(ACCESS, "PRINCIPAL")] = Field(
        default=[], description="Principals that control every canister, besides the server's own identity."
    )
    metrics: Annotated[Literal["controllers", "everybody"], ServeOption(ACCESS)] = Field(
        "controllers",
        description="Who may read /metrics, whose sums over all callers reveal to one caller what others do.",
    )
    browser_origins: Annotated[list[str], ServeOption(ACCESS, "ORIGIN|*")] = Field(
        default=[],
        description="Web pages that may use this server from a browser, over REST with an API key and over the IC "
        "interface, such as http://localhost:5173; * for all. Others get 403 at /api, and read nothing else.",
    )
    allowed_hosts: Annotated[list[str], ServeOption(ACCESS, "NAME|*")] = Field(
        default=[],
        description="Names by which clients call a server that listens only on its own machine, as behind a proxy, "
        "such as example.org; * for all. Other names are refused with 403, except localhost and addresses.",
    )
    herd_worker: Annotated[str | None, ServeOption(HERD, "ID")] = Field(
        None,
        pattern="^[A-Za-z0-9._-]{1,64}$",
        description="Name of this worker in its herd, whose leader it then serves by the private door /herd.",
    )
    herd_generation: Annotated[int, ServeOption(HERD)] = Field(
        0, ge=0, description="Number of this start of the worker; requests for another one are refused."
    )
    herd_secret_file: Annotated[Path | None, ServeOption(HERD, "FILE")] = Field(
        None, description="File with the secret by which the herd signs its requests: 32 bytes in hex."
    )
    ao: Annotated[bool, ServeOption(AO)] = Field(
        False,
        description="Also be a network of AO: Lua processes, a token and a herder, with a gateway and a bundler; see "
        "`canister ao`.",
    )
    ao_model: Annotated[NamedModels, ServeOption(AO, "ID=FILE")] = Field(
        default=[], description="A model that programs of AO load by this id: a GGUF file. The shipped one is there."
    )
    ao_packages: Annotated[Path | None, ServeOption(AO, "DIR")] = Field(
        None, description="Folder with Lua packages that programs of AO may install, as DIR/@vendor/Name.lua."
    )
    ao_workers: Annotated[int, ServeOption(AO)] = Field(
        2, ge=0, le=64, description="Workers of the herder of AO, which sells answers for its token."
    )
    ao_lease: Annotated[float, ServeOption(AO, "SECONDS")] = Field(
        600,
        gt=0,
        le=86400,
        description="What a worker of the herder has for an answer; then another one gets the request, and at last the "
        "payment goes back.",
    )
    ao_owners: Annotated[bool, ServeOption(AO)] = Field(
        False,
        description="Let dry runs of AO say whom they are from, though nobody signs them. Programs then show to "
        "everybody what they would show to that wallet.",
    )
    ao_storage: Annotated[int, ServeOption(AO, "BYTES")] = Field(
        64 * 1024**3,
        ge=1,
        description="Bytes that strangers may store at the gateway of AO, and bytes of the database of its processes; "
        "more are refused with 507.",
    )
    ao_stored_models: Annotated[int, ServeOption(AO)] = Field(
        2,
        ge=0,
        le=16,
        description="Models that programs of AO may load from what clients have published, at once; each takes memory "
        "and disk as any model does.",
    )
    confine: Annotated[bool, ServeOption(ACCESS)] = Field(
        True, description="Let the kernel refuse writes outside the data folder (Landlock, where Linux has it)."
    )
