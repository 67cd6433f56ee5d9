"""Who may call what: does a caller have the access level that a row of the interface table asks for?

Roles: controllers of the canister; admins with AdminQuery or AdminUpdate; and, for the inference methods while the
access level is 1, every caller that is not anonymous. Access is checked before the arguments are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from canister.errors import AccessDenied
from canister.ic.principal import ANONYMOUS

if TYPE_CHECKING:
    from canister.api.methods import Access
    from canister.runtime.canister import Canister

ONLY_CONTROLLERS = 0
ALL_EXCEPT_ANONYMOUS = 1
LEVELS = {ONLY_CONTROLLERS: "Only controllers", ALL_EXCEPT_ANONYMOUS: "All except anonymous"}
PUBLIC_LOG = "public"  # of State.log_visibility


def check(canister: Canister, caller: str, access: Access) -> None:
    """Raise AccessDenied for a caller without this access."""
    if not allows(canister, caller, access):
        raise AccessDenied


def allows(canister: Canister, caller: str, access: Access) -> bool:
    """Does the caller have this access? `api.methods.WHO` explains each level."""
    match access:
        case "anyone":
            return True
        case "named":
            return caller != ANONYMOUS
        case "controller":
            return _is_controller(canister, caller)
        case "admin_query":
            return _has_role(canister, caller, "AdminQuery", "AdminUpdate")
        case "admin_update":
            return _has_role(canister, caller, "AdminUpdate")
        case "inference_query":
            return _is_open_to(canister, caller) or _has_role(canister, caller, "AdminQuery", "AdminUpdate")
        case "inference_update":
            return _is_open_to(canister, caller) or _has_role(canister, caller, "AdminUpdate")
        case "log_reader":
            return canister.state.log_visibility == PUBLIC_LOG or _is_controller(canister, caller)
        case _:
            assert_never(access)


def _is_controller(canister: Canister, caller: str) -> bool:
    return caller == canister.id or caller in canister.controllers


def _has_role(canister: Canister, caller: str, *roles: str) -> bool:
    return _is_controller(canister, caller) or canister.roles.get(caller) in roles


def _is_open_to(canister: Canister, caller: str) -> bool:
    return caller != ANONYMOUS and canister.access_level == ALL_EXCEPT_ANONYMOUS
