"""Every method against every kind of caller, as the table of the specification has it (spec/canister.md §3)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from canister import dispatch
from canister.api.methods import METHODS, Method
from canister.api.records import ApiError, RunOutputRecord
from canister.config import CanisterSettings
from canister.errors import Trap
from canister.ic import principal as principals
from canister.runtime.canister import Canister

pytestmark = pytest.mark.anyio

CONTROLLER, QUERY_ADMIN, UPDATE_ADMIN, NAMED = (
    principals.to_text(principals.self_authenticating(bytes([n]))) for n in range(4)
)
CALLERS = {
    "anonymous": principals.ANONYMOUS,
    "named": NAMED,
    "admin query": QUERY_ADMIN,
    "admin update": UPDATE_ADMIN,
    "controller": CONTROLLER,
}
ADMINS_UPDATE = {"admin update", "controller"}
ADMINS_QUERY = {"admin query", *ADMINS_UPDATE}
EVERYBODY = set(CALLERS)

# The role of each method, in the words of the specification's table; written out here, so that a slip in the
# interface table cannot hide itself.
ROLES = {
    "anyone": "health ready whoami get_max_tokens",
    "named": "get_memory_status get_call_log get_receipt",
    "inference query": "check_access run_query get_chats estimate_run",
    "inference update": ("new_chat run_update remove_prompt_cache copy_prompt_cache chats_pause chats_resume"),
    "admin update": (
        "load_model set_max_tokens file_upload_chunk upload_prompt_cache_chunk filesystem_remove "
        "recursive_dir_content_update log_pause log_resume remove_log_file cache_cleanup_start_timer "
        "cache_cleanup_stop_timer cache_cleanup_now set_cache_cleanup_config cycle_balance_start_timer "
        "cycle_balance_stop_timer"
    ),
    "admin query": (
        "file_download_chunk download_prompt_cache_chunk uploaded_file_details uploaded_prompt_cache_details "
        "filesystem_file_size get_creation_timestamp_ns recursive_dir_content_query get_access "
        "get_cache_cleanup_stats get_cycle_balance"
    ),
    "controller": "set_access assignAdminRole revokeAdminRole getAdminRoles",
}
OURS = {"get_call_log", "estimate_run", "get_receipt"}  # beyond the specification's table
ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()}


def may_call(role: str, level: int) -> set[str]:
    inference = {"named", *ADMINS_QUERY} if level == 1 else set()
    return {
        "anyone": EVERYBODY,
        "named": EVERYBODY - {"anonymous"},
        "inference query": ADMINS_QUERY | inference,
        "inference update": ADMINS_UPDATE | inference,
        "admin query": ADMINS_QUERY,
        "admin update": ADMINS_UPDATE,
        "controller": {"controller"},
    }[role]


@pytest.fixture
async def canister(tmp_path: Path) -> AsyncIterator[Canister]:
    made = Canister(principals.canister_id(0), "llama_cpp", tmp_path, {CONTROLLER}, CanisterSettings())
    await made.start()
    for principal, role in ((QUERY_ADMIN, "AdminQuery"), (UPDATE_ADMIN, "AdminUpdate")):
        await call(made, "assignAdminRole", CONTROLLER, {"principal": principal, "role": role, "note": ""})
    yield made
    await made.stop(0)


async def call(canister: Canister, name: str, caller: str, arg: object = None) -> dispatch.Reply:
    method = dispatch.find_method(canister, name)

    def decode() -> object:
        return arg if method.arg is None or not isinstance(arg, dict) else method.arg.model_validate(arg)

    return await dispatch.execute(canister, method, caller, decode)


class Reached(Exception):
    """The arguments were looked at, so the guard let the caller pass."""


async def is_refused(canister: Canister, method: Method, caller: str) -> bool:
    """Access Denied, in the method's own form? If not, the arguments were looked at."""

    def decode() -> object:
        raise Reached

    try:
        reply = await dispatch.execute(canister, method, caller, decode)
    except Trap as trap:
        return not isinstance(trap.__cause__, Reached)
    if reply.error is None or reply.error.http_status != 401:
        return False
    if method.err is RunOutputRecord:
        assert reply.value == RunOutputRecord(status_code=401, error="Access Denied")
    else:
        assert reply.value == ApiError(Other="Access Denied")
    return True


def test_the_specification_names_the_methods_of_the_table() -> None:
    assert {method.name for method in METHODS} == set(ROLE_OF)
    assert len(METHODS) == 43 + len(OURS)


@pytest.mark.parametrize("level", [0, 1])
async def test_every_method_for_every_caller(canister: Canister, level: int) -> None:
    await call(canister, "set_access", CONTROLLER, {"level": level})
    wrong = []
    for method in METHODS:
        for kind, caller in CALLERS.items():
            refused = await is_refused(canister, method, caller)
            if refused == (kind in may_call(ROLE_OF[method.name], level)):
                wrong.append((method.name, kind, "refused" if refused else "let pass"))
    assert not wrong


async def test_roles_and_level_survive_a_restart(canister: Canister, tmp_path: Path) -> None:
    await call(canister, "set_access", CONTROLLER, {"level": 1})
    before = (await call(canister, "getAdminRoles", CONTROLLER)).value
    await canister.stop(0)
    again = Canister(canister.id, canister.name, tmp_path, {CONTROLLER}, CanisterSettings())
    await again.start()
    assert (await call(again, "getAdminRoles", CONTROLLER)).value == before
    assert again.access_level == 1
    assert not await is_refused(again, dispatch.find_method(again, "run_update"), NAMED)
    await again.stop(0)
    await canister.start()  # for the fixture's own stop


async def test_assigning_again_replaces_and_revoking_takes_away(canister: Canister) -> None:
    before = time.time_ns()
    reply = await call(
        canister, "assignAdminRole", CONTROLLER, {"principal": NAMED, "role": "AdminUpdate", "note": "one"}
    )
    record = reply.value.model_dump(mode="json")  # type: ignore[attr-defined]
    assert before <= record.pop("assignedAt") <= time.time_ns()
    assert record == {"principal": NAMED, "role": "AdminUpdate", "note": "one", "assignedBy": CONTROLLER}
    await call(canister, "assignAdminRole", CONTROLLER, {"principal": NAMED, "role": "AdminQuery", "note": "two"})
    assert await is_refused(canister, dispatch.find_method(canister, "log_pause"), NAMED)
    assert not await is_refused(canister, dispatch.find_method(canister, "get_access"), NAMED)
    assert (await call(canister, "revokeAdminRole", CONTROLLER, NAMED)).value == f"Admin role revoked for {NAMED}"
    assert await is_refused(canister, dispatch.find_method(canister, "get_access"), NAMED)
    gone = await call(canister, "revokeAdminRole", CONTROLLER, NAMED)
    assert str(gone.error) == "Principal not found"


async def test_an_access_level_that_is_none_is_refused(canister: Canister) -> None:
    reply = await call(canister, "set_access", CONTROLLER, {"level": 2})
    assert str(reply.error) == "Invalid access level"
    assert canister.access_level == 0
