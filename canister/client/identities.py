"""Identities of the person at the keyboard: one PEM file for each, and which of them calls when none is named.

    $XDG_CONFIG_HOME/llama-canister/    or what CANISTER_CONFIG_DIR names
      identities/NAME.pem               0600, in a folder that only its owner may enter (0700); never encrypted
      default-identity                  a name; not there: the server's own identity

Two names are built in: `anonymous`, who signs nothing, and `controller`, the identity that a server on this machine
made for itself and that controls its canisters; it lies in the server's data folder, and is only read here.
Every error is a CanisterError whose message says what to do. No key is ever overwritten.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from canister.defaults import user_folder
from canister.errors import BadRequest, Conflict, NotFound
from canister.ic.identity import Identity, IdentityError, KeyKind
from canister.ic.principal import ANONYMOUS as ANONYMOUS_PRINCIPAL
from canister.system import atomic_file
from canister.system.data_dir import CONTROLLER_IDENTITY

ANONYMOUS = "anonymous"
CONTROLLER = "controller"
BUILT_IN = (ANONYMOUS, CONTROLLER)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@.-]{0,63}")


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """One line of a list. principal None: the file cannot be read."""

    name: str
    principal: str | None
    is_default: bool


def default_folder() -> Path:
    """Where identities are kept unless a store is told otherwise."""
    own = os.environ.get("CANISTER_CONFIG_DIR")
    if own:
        return Path(own).expanduser()
    return user_folder("CONFIG", ".config")


def load_identity(name: str | None = None, data_dir: Path | None = None) -> Identity | None:
    """The identity that signs; None: the anonymous caller.

    name: of an identity, or the path of a PEM file; None: the default one. data_dir: folder of the server whose own
    identity is `controller`. Nobody signs where that is the default and missing.
    """
    store = IdentityStore(data_dir=data_dir)
    if name is None:
        name = store.default()
        if name == CONTROLLER and not store.has_controller():
            return None
    return store.load(name)


class IdentityStore:
    """Holds nothing in memory; every call reads the files."""

    def __init__(self, folder: Path | None = None, data_dir: Path | None = None) -> None:
        self._folder = folder or default_folder()
        self._controller = None if data_dir is None else data_dir.expanduser() / CONTROLLER_IDENTITY

    # -- looking

    def names(self) -> list[str]:
        """Names of the identities kept here, sorted, without the built-in ones."""
        return sorted(path.stem for path in self._pems.glob("*.pem") if _is_name(path.stem))

    def rows(self) -> list[IdentityRow]:
        """All identities, the built-in ones first; `controller` only where there is one."""
        default = self.default()
        names = [ANONYMOUS, *([CONTROLLER] if self.has_controller() else []), *self.names()]
        return [IdentityRow(name, self._principal_if_readable(name), name == default) for name in names]

    def default(self) -> str:
        """The name used when none is given."""
        try:
            return self._default_file.read_text(encoding="utf-8").strip() or CONTROLLER
        except FileNotFoundError:
            return CONTROLLER

    def has_controller(self) -> bool:
        return self._controller is not None and self._controller.exists()

    def load(self, name: str) -> Identity | None:
        """The identity of this name, or in the PEM file of this path; None for `anonymous`."""
        if name == ANONYMOUS:
            return None
        path = self.path(name)
        try:
            return Identity.from_pem(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(self._missing(name, path)) from None
        except OSError as error:
            raise BadRequest(f"identity {name}: {path}: {error.strerror}") from None
        except IdentityError as error:
            raise BadRequest(f"identity {name}: {path}: {error}") from None

    def principal(self, name: str) -> str:
        identity = self.load(name)
        return ANONYMOUS_PRINCIPAL if identity is None else identity.principal

    def path(self, name: str) -> Path:
        """Where the PEM of an identity is, or would be."""
        if "/" in name or name.endswith(".pem"):
            return Path(name).expanduser()
        if name == CONTROLLER:
            if self._controller is None:
                raise NotFound("the server's own identity is in its data folder; name that with --data-dir")
            return self._controller
        _check_name(name)
        return self._pems / f"{name}.pem"

    # -- changing

    def new(self, name: str, kind: KeyKind = "ed25519") -> Identity:
        """Make and keep an identity. Conflict if there is one of this name."""
        identity = Identity.generate(kind)
        self._keep(name, identity)
        return identity

    def add(self, name: str, pem: bytes) -> Identity:
        """Keep the identity in a PEM of icp or dfx."""
        try:
            identity = Identity.from_pem(pem)
        except IdentityError as error:
            raise BadRequest(f"identity {name}: {error}") from None
        self._keep(name, identity)
        return identity

    def delete(self, name: str) -> None:
        """Delete an identity for ever."""
        if name in BUILT_IN:
            raise BadRequest(f"{name} is built in")
        self._must_exist(name)
        if name == self.default():
            raise Conflict(f"{name} is the default identity; choose another one first: canister identity default NAME")
        self.path(name).unlink()

    def choose(self, name: str) -> None:
        """Make an identity the default one."""
        if name not in BUILT_IN:
            self._must_exist(name)
        _make_private(self._folder)
        atomic_file.write(self._default_file, f"{name}\n".encode())

    def _keep(self, name: str, identity: Identity) -> None:
        if name in BUILT_IN:
            raise Conflict(f"{name} is built in; choose another name")
        _check_name(name)
        _make_private(self._folder)
        _make_private(self._pems)
        try:
            atomic_file.create(self.path(name), identity.to_pem())
        except FileExistsError:
            raise Conflict(f"identity {name} is there already; delete it first, or choose another name") from None

    def _must_exist(self, name: str) -> None:
        _check_name(name)
        path = self.path(name)
        if not path.exists():
            raise NotFound(self._missing(name, path))

    def _missing(self, name: str, path: Path) -> str:
        if name == CONTROLLER:
            return f"{path} does not exist: the first start of `canister serve` makes it"
        if path.parent != self._pems:
            return f"{path} does not exist"
        known = ", ".join([*BUILT_IN, *self.names()])
        return f"there is no identity {name}; known: {known}. `canister identity new {name}` makes it."

    def _principal_if_readable(self, name: str) -> str | None:
        try:
            return self.principal(name)
        except (BadRequest, NotFound):
            return None

    @property
    def _pems(self) -> Path:
        return self._folder / "identities"

    @property
    def _default_file(self) -> Path:
        return self._folder / "default-identity"


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(".pem")


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise BadRequest(f"{name[:80]!r} is no name of an identity: letters, digits and _ @ . - inside, at most 64")


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # it may have been made by something less careful
