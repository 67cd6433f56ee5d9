"""How a server proves to somebody who can read its data folder that it runs on that folder.

It answers a nonce with an HMAC under the folder's root key. The address on which the connection arrived is signed too,
so an answer that another server passes on, on another port or machine, proves nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from pathlib import Path

PATH = "/proof"
NONCE = re.compile(r"[0-9a-f]{64}")

_PURPOSE = b"llama-canister: server of this data folder\n"  # the key signs certificates too, in another way


def prove(secret: bytes, nonce: str, host: str, port: int | None) -> str:
    """64 hex digits. nonce: NONCE. host, port: of the server's end of the connection, numeric."""
    message = _PURPOSE + f"{nonce}\n{_plain(host)}\n{port}".encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def is_proof(given: object, secret: bytes, nonce: str, host: str, port: int | None) -> bool:
    return (
        isinstance(given, str)
        and NONCE.fullmatch(given) is not None
        and hmac.compare_digest(given, prove(secret, nonce, host, port))
    )


def secret_of(root_key_path: Path) -> bytes | None:
    """The contents of the file of the root key; None: unusable."""
    try:
        secret = bytes.fromhex(root_key_path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return secret if len(secret) == 32 else None


def _plain(host: str) -> str:
    """One spelling of an address: ::ffff:127.0.0.1 is what a socket for both families calls 127.0.0.1."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # a socket in the file system
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
