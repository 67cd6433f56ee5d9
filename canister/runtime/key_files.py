"""The keys of a server in its data folder, made at the first start: identities, root key, the controller's API key."""

from __future__ import annotations

from pathlib import Path

from canister.errors import BadRequest
from canister.ic.certificate import CertificateError, RootKey
from canister.ic.identity import Identity, IdentityError
from canister.state.api_keys import KeyRing
from canister.system import atomic_file
from canister.telemetry.logs import get_logger

CONTROLLER_KEY_NAME = "controller"

log = get_logger(__name__)


def identity_in(path: Path) -> Identity:
    """The identity in a PEM file, made now if there is none. BadRequest for a file that is none."""
    if not path.exists():
        identity = Identity.generate()
        atomic_file.write(path, identity.to_pem())
        return identity
    try:
        return Identity.from_pem(path.read_bytes())
    except IdentityError as error:
        raise BadRequest(
            f"{path}: {error}; restore the file, or move it away to get a new identity (the canisters' controllers "
            "follow)"
        ) from error


def root_key_in(path: Path) -> RootKey:
    """The root key in a file of 64 hex digits, made now if there is none. BadRequest for a file that is none."""
    if not path.exists():
        root_key = RootKey.generate()
        atomic_file.write(path, f"{root_key.to_bytes().hex()}\n".encode("ascii"))
        return root_key
    try:
        return RootKey.from_bytes(bytes.fromhex(path.read_text(encoding="ascii", errors="replace")))
    except (CertificateError, ValueError) as error:
        raise BadRequest(
            f"{path}: {error}; restore the file, or move it away to get a new root key "
            "(clients that have remembered the old one have to fetch it)"
        ) from error


def see_to_api_key(path: Path, keys: KeyRing, identity: Identity) -> None:
    """Make sure that controller.key holds a key of this identity, unless the operator has revoked it."""
    known = keys.get(CONTROLLER_KEY_NAME)
    is_ours = known is None or known.principal == identity.principal
    if path.exists() and is_ours:
        if keys.find(path.read_text(encoding="ascii", errors="replace").strip()) is None:
            log.warning(
                "the controller's API key does not count any more; delete the file to get a new one at a start",
                file=str(path),
            )
        return
    key = keys.create(CONTROLLER_KEY_NAME, identity.principal, replace=True)
    atomic_file.write(path, f"{key}\n".encode("ascii"))
