"""What `read_state` may ask for: paths of the IC's state tree → the part of the tree that answers them.

A certificate has only what was asked for. Labels and leaves are bytes, as in the IC interface specification, "State
tree". A path that leads nowhere is left out; one that may not be asked for raises PathError.
"""

from __future__ import annotations

from collections.abc import Iterable

from canister.api.service import candid_service, module_hash
from canister.dispatch import Dispatcher, Target
from canister.errors import CanisterNotFound
from canister.ic import cbor, certificate, principal
from canister.ic.envelope import Path, Request
from canister.ic.hash_tree import Content
from canister.ic.request_id import leb128
from canister.state.ingress_history import KnownMessage

Tree = dict[bytes, Content]

REQUEST_ID_BYTES = 32
CANDID_SERVICE = b"candid:service"


class PathError(Exception):
    """http_status: 400, 403 or 404. The texts are the IC's."""

    def __init__(self, message: str, http_status: int) -> None:
        super().__init__(message)
        self.http_status = http_status


async def of_canister(
    behind: Dispatcher, effective_id: bytes, request: Request, targets: frozenset[bytes] | None
) -> Tree:
    """The answer to a read_state of a canister; targets: the canisters that its sender may ask about, None for all."""
    canister = _canister(behind, effective_id)
    tree: Tree = {}
    for path in request.paths:
        match path:
            case (b"request_status", id, *_):
                _check_request_id(id, request.paths)
                await _add_status(tree, behind, canister, id, effective_id, request.sender, targets)
            case (b"canister", id, (b"controllers" | b"module_hash"), *_) | (b"canister", id, b"metadata", _, *_):
                if id != effective_id:
                    raise PathError(
                        f"Effective principal id in URL {principal.to_text(effective_id)} does not match requested "
                        f"principal id: {_shown(id)}.",
                        400,
                    )
                if canister is not None:
                    _branch(tree, b"canister")[id] = _information(canister)
            case _:
                _add_common(tree, behind, path)
    return tree


def of_subnet(behind: Dispatcher, effective_id: bytes, request: Request) -> Tree:
    """The answer to a read_state of the subnet."""
    if effective_id != behind.root_key.subnet_id:
        raise PathError(f"Subnet {principal.to_text(effective_id)} is not the one that this server stands for.", 400)
    tree: Tree = {}
    for path in request.paths:
        _add_common(tree, behind, path)
    return tree


def request_status(id: bytes, known: KnownMessage) -> Tree:
    """The known state of an update call."""
    status: Tree = {b"status": known.status.encode()}
    answer = known.answer
    if answer is not None and answer.reply is not None:
        status[b"reply"] = answer.reply
    elif answer is not None:
        status[b"reject_code"] = leb128(answer.reject_code or 0)
        status[b"reject_message"] = (answer.reject_message or "").encode()
        status[b"error_code"] = (answer.error_code or "").encode()
    return {b"request_status": {id: status}}


def _add_common(tree: Tree, behind: Dispatcher, path: Path) -> None:
    """Paths that are the same for canisters and subnets."""
    match path:
        case (b"time",) | (b"api_boundary_nodes", *_):
            return  # the time is in every certificate; there are no such nodes
        case (b"subnet", *_):
            _branch(tree, b"subnet")[behind.root_key.subnet_id] = _subnet(behind)
        case (b"canister_ranges", *_):
            ranges = _ranges(behind)
            first = min((principal.from_text(canister.id) for canister in behind.targets), default=b"")
            tree[b"canister_ranges"] = {behind.root_key.subnet_id: {first: ranges}}
        case _:
            raise PathError("Invalid path requested.", 404)


async def _add_status(
    tree: Tree,
    behind: Dispatcher,
    canister: Target | None,
    id: bytes,
    effective_id: bytes,
    sender: bytes,
    targets: frozenset[bytes] | None,
) -> None:
    # The default canister knows the messages that make and delete others.
    known = await (canister or behind.default).find_message(id) or await behind.default.find_message(id)
    if known is None:
        return
    if known.caller != principal.to_text(sender):
        raise PathError("The user tries to access Request ID not signed by the caller.", 403)
    if targets is not None and effective_id not in targets:
        raise PathError(
            "The user tries to access request IDs for canisters not belonging to sender delegation targets.", 403
        )
    tree.update(request_status(id, known))


def _check_request_id(id: bytes, paths: Iterable[Path]) -> None:
    if len(id) != REQUEST_ID_BYTES:
        raise PathError(
            "Invalid request id in paths. Maybe the request ID is not of 32 bytes in length?!",
            400,
        )
    for path in paths:
        if path[:1] == (b"request_status",) and path[1:2] != (id,):
            other = path[1].hex()[: 2 * REQUEST_ID_BYTES] if len(path) > 1 else ""
            raise PathError(
                f"More than one non-unique request ID exists in request_status paths: 0x{id.hex()} and 0x{other}.",
                400,
            )


def _information(canister: Target) -> Tree:
    controllers = sorted(map(principal.from_text, canister.controllers))
    return {
        b"controllers": cbor.encode(controllers),
        b"module_hash": module_hash(),
        b"metadata": {CANDID_SERVICE: candid_service().encode()},
    }


def _subnet(behind: Dispatcher) -> Tree:
    node_id = principal.self_authenticating(behind.node.public_key_der)
    return {
        b"public_key": behind.root_key.public_key_der,
        b"canister_ranges": _ranges(behind),
        b"node": {node_id: {b"public_key": behind.node.public_key_der}},
    }


def _ranges(behind: Dispatcher) -> bytes:
    return certificate.ranges_of(principal.from_text(canister.id) for canister in behind.targets)


def _canister(behind: Dispatcher, id: bytes) -> Target | None:
    try:
        return behind.with_id(id)
    except CanisterNotFound:
        return None


def _branch(tree: Tree, label: bytes) -> Tree:
    branch = tree.setdefault(label, {})
    assert isinstance(branch, dict)
    return branch


def _shown(id: bytes) -> str:
    return principal.to_text(id) if len(id) <= principal.MAX_BYTES else id[:32].hex()
