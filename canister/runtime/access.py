"""Who may call what: the guards that interface.py names. A guard raises AccessDenied, or returns.

Roles: controllers of the canister; admins that hold AdminQuery or AdminUpdate; and, while the access level is 1,
every caller that is not anonymous for the inference methods. A guard runs before the arguments are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.errors import AccessDenied
from canister.ic.principal import ANONYMOUS

if TYPE_CHECKING:
    from canister.runtime.call import Call

ONLY_CONTROLLERS = 0
ALL_EXCEPT_ANONYMOUS = 1
LEVELS = {ONLY_CONTROLLERS: "Only controllers", ALL_EXCEPT_ANONYMOUS: "All except anonymous"}


def anyone(call: Call) -> None:
    """Everybody, the anonymous caller too."""


def named(call: Call) -> None:
    """Every caller that is not anonymous."""
    if call.caller == ANONYMOUS:
        raise AccessDenied


def controller(call: Call) -> None:
    """A controller of the canister, or the canister itself (its timers)."""
    if not _is_controller(call):
        raise AccessDenied


def admin_query(call: Call) -> None:
    """A controller, or a holder of AdminQuery or AdminUpdate."""
    if not holds_admin_query(call):
        raise AccessDenied


def admin_update(call: Call) -> None:
    """A controller, or a holder of AdminUpdate."""
    if not _has_role(call, "AdminUpdate"):
        raise AccessDenied


def inference_query(call: Call) -> None:
    """As admin_query; at access level 1 every named caller."""
    if not (_is_open_to(call) or holds_admin_query(call)):
        raise AccessDenied


def inference_update(call: Call) -> None:
    """As admin_update; at access level 1 every named caller."""
    if not (_is_open_to(call) or _has_role(call, "AdminUpdate")):
        raise AccessDenied


def holds_admin_query(call: Call) -> bool:
    """May the caller look at what is not its own?"""
    return _has_role(call, "AdminQuery", "AdminUpdate")


def holds_admin_update(call: Call) -> bool:
    """May the caller change what is not its own?"""
    return _has_role(call, "AdminUpdate")


def _is_controller(call: Call) -> bool:
    return call.caller == call.canister.id or call.caller in call.canister.controllers


def _has_role(call: Call, *roles: str) -> bool:
    return _is_controller(call) or call.canister.roles.get(call.caller) in roles


def _is_open_to(call: Call) -> bool:
    return call.caller != ANONYMOUS and call.canister.access_level == ALL_EXCEPT_ANONYMOUS
