"""Who may call what: access level and admin roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.api.record_types import text
from canister.api.records import (
    AccessInputRecord,
    AccessRecord,
    AdminRole,
    AdminRoleAssignment,
    AssignAdminRoleInputRecord,
    StatusCodeRecord,
)
from canister.errors import BadRequest, NotFound
from canister.runtime.access import LEVELS

if TYPE_CHECKING:
    from canister.runtime.call import Call


async def set_access(call: Call, arg: AccessInputRecord) -> AccessRecord:
    if arg.level not in LEVELS:
        raise BadRequest("Invalid access level")
    call.change(access_level=arg.level)
    return AccessRecord(level=arg.level, explanation=LEVELS[arg.level])


async def get_access(call: Call) -> AccessRecord:
    level = call.state.access_level
    return AccessRecord(level=level, explanation=LEVELS[level])


async def check_access(call: Call) -> StatusCodeRecord:
    return StatusCodeRecord()


async def assignAdminRole(call: Call, arg: AssignAdminRoleInputRecord) -> AdminRoleAssignment:
    call.canister.roles.assign(call.work, arg.principal, arg.role.value, arg.note)
    return AdminRoleAssignment(
        principal=arg.principal, role=arg.role, note=arg.note, assignedBy=call.caller, assignedAt=call.now_ns
    )


async def revokeAdminRole(call: Call, arg: text) -> text:
    if arg not in call.canister.roles:
        raise NotFound("Principal not found")
    call.canister.roles.revoke(call.work, arg)
    return f"Admin role revoked for {arg}"


async def getAdminRoles(call: Call) -> list[AdminRoleAssignment]:
    return [
        AdminRoleAssignment(
            principal=row.principal,
            role=AdminRole(row.role),
            note=row.note,
            assignedBy=row.assigned_by,
            assignedAt=row.assigned_at,
        )
        for row in call.canister.roles.all()
    ]
