"""The identity store: what lies where with which rights, and what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from canister.client.identities import IdentityStore, default_folder, load_identity
from canister.errors import BadRequest, Conflict, NotFound
from canister.ic.identity import Identity, KeyKind
from canister.ic.principal import ANONYMOUS


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A server's folder, with its own identity."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "controller.pem").write_bytes(Identity.generate().to_pem())
    return folder


@pytest.fixture
def store(data_dir: Path) -> IdentityStore:
    return IdentityStore(data_dir=data_dir)


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "prime256v1"])
def test_what_is_made_is_found_again_and_private(store: IdentityStore, kind: KeyKind) -> None:
    made = store.new("alice", kind)
    assert store.load("alice") == made
    assert load_identity("alice") == made
    path = store.path("alice")
    assert path == default_folder() / "identities" / "alice.pem"
    assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (0o600, 0o700, 0o700)
    assert [file.name for file in path.parent.iterdir()] == ["alice.pem"]


def test_a_folder_that_others_may_enter_is_closed(store: IdentityStore) -> None:
    folder = default_folder() / "identities"
    folder.mkdir(parents=True, mode=0o755)
    store.new("alice")
    assert mode(folder) == 0o700


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_folder() == Path(os.environ["CANISTER_CONFIG_DIR"])
    monkeypatch.delenv("CANISTER_CONFIG_DIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "llama-canister"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".config" / "llama-canister"


def test_nothing_is_overwritten(store: IdentityStore) -> None:
    made = store.new("alice")
    with pytest.raises(Conflict, match="alice is there already"):
        store.new("alice")
    with pytest.raises(Conflict, match="alice is there already"):
        store.add("alice", Identity.generate().to_pem())
    assert store.load("alice") == made
    for name in ("anonymous", "controller"):
        with pytest.raises(Conflict, match="built in"):
            store.new(name)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "-x", "a b", "a\n", "ä", "x" * 65, "key.pem"])
def test_names_that_are_refused(store: IdentityStore, name: str) -> None:
    with pytest.raises(BadRequest, match="is no name of an identity"):
        store.new(name)
    assert store.names() == []


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP256R1()])
def test_pems_of_other_tools(store: IdentityStore, form: PrivateFormat, curve: ec.EllipticCurve) -> None:
    pem = ec.generate_private_key(curve).private_bytes(Encoding.PEM, form, NoEncryption())
    assert store.add("theirs", pem) == Identity.from_pem(pem) == store.load("theirs")


def test_what_is_no_pem(store: IdentityStore) -> None:
    with pytest.raises(BadRequest, match="identity bob: no private key in PEM form"):
        store.add("bob", b"hello")
    assert store.names() == []


def test_who_signs_when_nobody_is_named(store: IdentityStore, data_dir: Path, tmp_path: Path) -> None:
    controller = Identity.from_pem((data_dir / "controller.pem").read_bytes())
    assert store.default() == "controller"
    assert load_identity(None, data_dir) == controller
    assert load_identity(None, tmp_path) is None
    assert load_identity() is None
    alice = store.new("alice")
    assert load_identity(None, data_dir) == controller
    store.choose("alice")
    assert load_identity() == load_identity(None, data_dir) == alice
    store.choose("controller")
    assert load_identity() is None
    assert load_identity(None, data_dir) == controller
    store.choose("anonymous")
    assert load_identity(None, data_dir) is None


def test_a_file_may_stand_for_a_name(store: IdentityStore, tmp_path: Path) -> None:
    identity = Identity.generate()
    path = tmp_path / "key.pem"
    path.write_bytes(identity.to_pem())
    assert load_identity(str(path)) == identity
    with pytest.raises(NotFound, match=r"none\.pem does not exist"):
        load_identity(str(tmp_path / "none.pem"))


def test_who_is_not_there(store: IdentityStore, tmp_path: Path) -> None:
    store.new("alice")
    for act in (store.load, store.choose, store.delete):
        with pytest.raises(NotFound, match="known: anonymous, controller, alice"):
            act("alcie")
    with pytest.raises(NotFound, match="canister serve"):
        IdentityStore(data_dir=tmp_path / "nothing").load("controller")
    with pytest.raises(NotFound, match="--data-dir"):
        load_identity("controller")


def test_delete(store: IdentityStore) -> None:
    store.new("alice")
    store.choose("alice")
    with pytest.raises(Conflict, match="default identity"):
        store.delete("alice")
    store.choose("controller")
    store.delete("alice")
    assert store.names() == []
    for name in ("anonymous", "controller"):
        with pytest.raises(BadRequest, match="built in"):
            store.delete(name)


def test_rows(store: IdentityStore) -> None:
    bob, alice = store.new("bob"), store.new("alice")
    store.choose("bob")
    store.path("alice").write_text("broken")
    shown = [(row.name, row.principal, row.is_default) for row in store.rows()]
    assert shown == [
        ("anonymous", ANONYMOUS, False),
        ("controller", store.principal("controller"), False),
        ("alice", None, False),
        ("bob", bob.principal, True),
    ]
    with pytest.raises(BadRequest, match="identity alice: "):
        store.load("alice")
    assert alice.principal != bob.principal
