"""Which server a command talks to, and who calls, by the options of a command line."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import typer

from canister.cli.shared.settings import data_folder, served_url
from canister.defaults import LOCAL_URL, UNIX, socket_path
from canister.system import server_proof
from canister.system.data_dir import CONTROLLER_KEY, ROOT_KEY

if TYPE_CHECKING:
    import httpcore

    from canister.client.agent import Agent
    from canister.client.ic import IcCanister
    from canister.client.rest import Canister
    from canister.ic.identity import Identity

LOCAL = "local"
ANONYMOUS = "anonymous"
MAX_PROOF_BYTES = 10_000  # of an answer that has 70

Connected: TypeAlias = "Callable[[], Canister | IcCanister]"
"""Makes the client of a command, to be used once: `async with connected() as client`."""


@dataclass(frozen=True, slots=True)
class Connection:
    """url: without a path. api_key None: anonymous."""

    url: str
    api_key: str | None


def connection(
    network: str, api_key: str | None, anonymous: bool, data_dir: Path | None, *, tells_whose_key: bool = True
) -> Connection:
    """The server and the caller of the options. Raises typer.BadParameter.

    tells_whose_key: say on stderr that the key is the controller's, though another identity is the default.
    """
    url = url_of(network)
    if anonymous:
        if api_key:
            raise typer.BadParameter("either --anonymous or --api-key")
        return Connection(url, None)
    key = api_key or os.environ.get("CANISTER_API_KEY")
    if not key:
        key = _controller_key(url, data_dir)
        if key and tells_whose_key:
            _tell_whose_key()
    if key and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("the API key has characters that no key has; was it copied whole?")
    return Connection(url, key or None)


def _tell_whose_key() -> None:
    from canister.client.identities import BUILT_IN, IdentityStore

    default = IdentityStore().default()
    if default not in BUILT_IN:
        print(
            f"canister: asked with the key of the server's own identity; {default} cannot be used here: this goes over "
            "REST, where callers have keys (--api-key KEY)",
            file=sys.stderr,
        )


def caller(
    network: str,
    canister: str,
    api_key: str | None,
    anonymous: bool,
    data_dir: Path | None,
    *,
    identity: str | None,
    rest: bool = False,
    prefers_rest: bool = False,
    root_key: str | None = None,
) -> Connected:
    """Makes the client of the options: a signing one, or one over REST when they mention REST or a key.

    prefers_rest: the command measures, or needs what only REST tells. The server's own identity and the anonymous
    caller then call over REST; other identities sign all the same.
    """
    from canister.client.ic import IcCanister
    from canister.client.rest import Canister

    if identity is not None and (rest or anonymous or api_key):
        raise typer.BadParameter("--identity goes with none of --rest, --anonymous and --api-key")
    if anonymous and api_key:
        raise typer.BadParameter("either --anonymous or --api-key")
    url = url_of(network)
    api_key = api_key or os.environ.get("CANISTER_API_KEY")
    has_key = api_key is not None and identity is None and not anonymous
    if rest or has_key or (prefers_rest and (anonymous or _may_call_by_key(identity))):
        server = connection(network, api_key, anonymous or identity == ANONYMOUS, data_dir)
        return lambda: Canister(server.url, canister, server.api_key)
    sender = None if anonymous else signer(url, data_dir, identity)
    key = _root_key(root_key)
    return lambda: IcCanister(url, canister, sender, root_key=key)


def _may_call_by_key(identity: str | None) -> bool:
    from canister.client.identities import BUILT_IN, IdentityStore

    return (identity or IdentityStore().default()) in BUILT_IN


def agent_for(network: str, identity: str | None, data_dir: Path | None, root_key: str | None) -> Agent:
    """The agent of the options. Raises typer.BadParameter, CanisterError."""
    from canister.client.agent import Agent

    url = url_of(network)
    return Agent(url, signer(url, data_dir, identity), _root_key(root_key))


def _root_key(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise typer.BadParameter("--root-key is not hex; was it copied whole?") from None


def url_of(network: str) -> str:
    """`local` or a URL, as the URL of a server. Raises typer.BadParameter."""
    url = os.environ.get("CANISTER_URL") or served_url() if network == LOCAL else network
    path = socket_path(url)
    if path:
        return f"{UNIX}{Path(path).expanduser().absolute()}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        known = f"'local', a URL like {LOCAL_URL} or unix:PATH"
        raise typer.BadParameter(f"a network is {known}, not {url!r}{_elsewhere(url)}")
    return url.rstrip("/")


def _elsewhere(network: str) -> str:
    return "; the Internet Computer itself is reached with icp or dfx" if network in ("ic", "mainnet") else ""


def only_local(environment: str | None) -> str | None:
    """Check `--environment`, which names networks in projects of icp."""
    if environment not in (None, LOCAL):
        raise typer.BadParameter(
            f"an environment is 'local' here, not {environment!r}; --network URL names another server"
            f"{_elsewhere(environment)}"
        )
    return environment


def signer(url: str, data_dir: Path | None, name: str | None) -> Identity | None:
    """The identity that signs, None for nobody. The server's own only where its folder is at hand. Raises
    CanisterError.
    """
    from canister.client.http_library import is_loopback
    from canister.client.identities import load_identity

    is_ours = data_dir is not None or is_loopback(url)
    return load_identity(name, data_folder(data_dir) if is_ours else None)


def _controller_key(url: str, data_dir: Path | None) -> str | None:
    """The key of the server's own identity, if this is the server of its folder. Raises ClientError.

    The key leaves this machine only if the folder was named.
    """
    from canister.client.errors import ClientError
    from canister.client.http_library import is_loopback

    if data_dir is None and not is_loopback(url):
        return None
    folder = data_folder(data_dir)
    path = folder / CONTROLLER_KEY
    if not path.exists():
        return None
    if _is_server_of(url, folder):
        return path.read_text(encoding="utf-8").strip()
    if data_dir is not None:
        raise ClientError(
            f"{url} does not prove that it is the server of {folder}, so it is not sent the key in {path}; see "
            "--data-dir. Through a proxy or a mapped port no server can: give the key itself, with --api-key"
        )
    print(
        f"canister: calling as anonymous: the key in {path} is of another server than {url}; give --data-dir or "
        "--api-key",
        file=sys.stderr,
    )
    return None


_proved: set[tuple[str, Path]] = set()  # servers that have proved themselves to this process


def _is_server_of(url: str, folder: Path) -> bool:
    """Does this server prove that it holds the secrets of the folder? Raises ClientError."""
    secret = server_proof.secret_of(folder / ROOT_KEY)
    if secret is None:
        return False
    if (url, folder) not in _proved:
        nonce = secrets.token_hex(32)
        given, (host, port) = _ask_for_proof(url, nonce)
        if not server_proof.is_proof(given, secret, nonce, host, port):
            return False
        _proved.add((url, folder))
    return True


def _ask_for_proof(url: str, nonce: str) -> tuple[object, tuple[str, int | None]]:
    """The server's answer, and the address that we are really connected to. Raises ClientError."""
    from canister.client.http_library import CONNECT_SECONDS, httpx, no_answer, not_ours, open_client

    named, headers = {"nonce": nonce}, {"Accept-Encoding": "identity"}
    body = bytearray()
    try:
        with (
            open_client(url, CONNECT_SECONDS) as client,
            client.stream("GET", server_proof.PATH, params=named, headers=headers) as response,
        ):
            address = _address_of(response.extensions["network_stream"])
            for block in response.iter_raw():
                body += block
                if len(body) > MAX_PROOF_BYTES:
                    raise not_ours(url, response.status_code, response.headers)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise no_answer(url, error) from error
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise not_ours(url, response.status_code, response.headers)
    return told.get("proof"), address


def _address_of(stream: httpcore.NetworkStream) -> tuple[str, int | None]:
    try:
        address = stream.get_extra_info("server_addr")
    except OSError:  # it hung up
        return "", None
    if isinstance(address, str):  # of a socket file
        return address, None
    return str(address[0]), int(address[1])
