"""API keys: what REST callers present instead of a signature. A key stands for a principal.

    lc_<8 hex: id>_<43 base64url: secret of 256 bits>

The server database keeps the id and the SHA-256 of the whole key, never the key. A key is found by its id and compared
in constant time. Nothing is cached, so a key that another process makes or revokes counts from the next request on.
`canister api-key` uses this module directly, also while a server runs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, tuple_

from canister.errors import BadRequest, Conflict, NotFound
from canister.errors.nearest import nearest
from canister.ic import principal as principals
from canister.ic.identity import Identity
from canister.store.database import Database
from canister.store.statements import Prepared
from canister.store.tables import api_keys
from canister.system.data_dir import SERVER_DATABASE

_KEY = re.compile(r"lc_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_NO_HASH = "0" * 64

_COPIED = tuple(api_keys.c[name] for name in ("name", "key_id", "hash", "principal", "created_ns", "expires_ns"))

# Made once, since it runs on every request with a key.
_BY_ID = Prepared(
    select(*(api_keys.c[name] for name in ("hash", "name", "key_id", "principal", "created_ns", "expires_ns"))).where(
        api_keys.c.key_id == bindparam("of_key_id")
    )
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. Times in ns since 1970; expires_ns None: never."""

    name: str
    key_id: str
    principal: str
    created_ns: int
    expires_ns: int | None

    def is_expired(self, now_ns: int | None = None) -> bool:
        return self.expires_ns is not None and (now_ns or time.time_ns()) >= self.expires_ns


class KeyRing:
    """The API keys in a server database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        principal: str | None = None,
        lifetime_seconds: int | None = None,
        *,
        replace: bool = False,
    ) -> str:
        """Make a key and return it. It can never be seen again.

        principal: whom the key stands for; None gives it a principal of its own. replace: revoke a key of the same
        name, which otherwise raises Conflict.
        """
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"{name[:80]!r} is no name for an API key: letters, digits and . _ @ -, at most 64, "
                "the first a letter or a digit"
            )
        if principal is None:
            principal = Identity.generate().principal
        else:
            _check_principal(principal)
        now_ns = time.time_ns()
        key_id = secrets.token_hex(4)
        key = f"lc_{key_id}_{secrets.token_urlsafe(32)}"
        row = {
            "name": name,
            "key_id": key_id,
            "hash": _hash(key),
            "principal": principal,
            "created_ns": now_ns,
            "expires_ns": None if lifetime_seconds is None else now_ns + lifetime_seconds * 1_000_000_000,
        }

        def write(connection: Connection) -> None:
            if replace:
                connection.execute(delete(api_keys).where(api_keys.c.name == name))
            found = connection.execute(select(api_keys).where(api_keys.c.name == name)).first()
            if found is not None:
                raise Conflict(
                    f"there is an API key named {name!r} already, for principal {found.principal}; "
                    f"take another name, or revoke it first: canister api-key revoke {name}"
                )
            connection.execute(insert(api_keys).values(row))

        self._database.submit(write).result()
        return key

    def list(self, after: tuple[int, str] | None = None, n_most: int | None = None) -> Sequence[ApiKey]:
        """Keys, expired ones too, oldest first: n_most behind the one with this time of creation and id. None: all."""
        place = tuple_(api_keys.c.created_ns, api_keys.c.key_id)
        query = select(api_keys).order_by(*place).limit(n_most)
        with self._database.read() as connection:
            return [_api_key(row) for row in connection.execute(query if after is None else query.where(place > after))]

    def pages(self, n_each: int = 1000) -> Iterator[Sequence[ApiKey]]:
        """All keys, by pages, so that no more of them are in memory."""
        after = None
        while found := self.list(after, n_each):
            yield found
            after = found[-1].created_ns, found[-1].key_id

    def named(self, prefix: str) -> Sequence[ApiKey]:
        """The keys whose names begin so, oldest first."""
        within = (api_keys.c.name >= prefix, api_keys.c.name < f"{prefix}\x7f")
        query = select(api_keys).where(*within).order_by(api_keys.c.created_ns)
        with self._database.read() as connection:
            return [_api_key(row) for row in connection.execute(query)]

    def get(self, name: str) -> ApiKey | None:
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.name == name)).first()
            return None if row is None else _api_key(row)

    def revoke(self, name: str) -> None:
        """Remove a key, which is refused from now on. NotFound names the nearest."""

        def write(connection: Connection) -> None:
            if connection.execute(delete(api_keys).where(api_keys.c.name == name)).rowcount == 0:
                names = connection.execute(select(api_keys.c.name)).scalars().all()
                near = nearest(name, names)
                hint = f"did you mean {near!r}?" if near else "canister api-key list shows them all"
                raise NotFound(f"there is no API key named {name[:80]!r}: {hint}")

        self._database.submit(write).result()

    def copy(self) -> bytes:
        """All keys, without their secrets, for `put`."""
        with self._database.read() as connection:
            rows = connection.execute(select(*_COPIED).order_by(api_keys.c.name)).mappings()
            return json.dumps([dict(row) for row in rows]).encode()

    def put(self, copy: bytes) -> None:
        """Let these be all keys."""
        rows = json.loads(copy)

        def write(connection: Connection) -> None:
            connection.execute(delete(api_keys))
            if rows:
                connection.execute(insert(api_keys), rows)

        self._database.submit(write).result()

    def find(self, key: str) -> ApiKey | None:
        """The key that this text is, if it is known, whole and not expired."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        row = self._database.first(_BY_ID, {"of_key_id": match[1]})
        # An unknown id is compared too, so that the time taken does not reveal which ids exist.
        if not hmac.compare_digest(_hash(key), _NO_HASH if row is None else row[0]) or row is None:
            return None
        found = ApiKey(*row[1:])
        return None if found.is_expired() else found


@contextmanager
def open_keys(data_dir: Path) -> Iterator[KeyRing]:
    """The API keys of a data folder, for a process that is not its server. The folder is made when missing."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(data_dir / SERVER_DATABASE, "server")
    database.open()
    try:
        yield KeyRing(database)
    finally:
        database.close()


def parse_duration(text: str) -> int:
    """Seconds in a text like `90s`, `15m`, `12h`, `30d` or `2w`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise BadRequest(f"{text[:40]!r} is no duration: a number and s, m, h, d or w, for instance 30d")
    return int(match[1]) * _SECONDS[match[2]]


def _check_principal(text: str) -> None:
    try:
        principals.from_text(text)
    except principals.PrincipalError as error:
        raise BadRequest(str(error)) from None
    if text == principals.ANONYMOUS:
        raise BadRequest(f"{text} is the anonymous caller, who needs no key")


def _hash(key: str) -> str:
    # A plain hash is enough: the secret has 256 random bits, which nobody guesses however fast the hash.
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def _api_key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(row.name, row.key_id, row.principal, row.created_ns, row.expires_ns)
