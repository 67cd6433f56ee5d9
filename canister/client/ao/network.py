"""Talk to a network of AO, by the legacy wire and Arweave's: `/mu`, `/cu`, the bundler, the gateway.

Every message is signed by the wallet. Errors are those of `canister.client.errors`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from canister.ao.encoding import from_base64url
from canister.ao.signing.items import ANCHOR_BYTES, Item, sign_item
from canister.ao.signing.tags import texts
from canister.ao.signing.wallets import Wallet
from canister.client.errors import ClientError, ProtocolError, Unreachable
from canister.client.http_library import httpx, no_answer, not_ours, open_client

SECONDS = 120.0  # for an answer
RESULT_SECONDS = 300.0  # a program may take a while, and wait for others
ITEM_TYPE = {"Content-Type": "application/octet-stream"}
PROTOCOL = (("Data-Protocol", "ao"), ("Variant", "ao.TN.1"))
MODULE = "ISShJH1ij-hPPt9St5UFFr_8Ys3Kj5cyg7zrMGt7H9s"  # aos, which programs are written for
_TRIES = 5
_BUSY = (429, 502, 503, 504)


class Refusal(ClientError):
    """The network has said no. status: HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Network:
    """wallet: who signs; without one only questions can be asked."""

    def __init__(self, url: str, wallet: Wallet | None = None, timeout_seconds: float = SECONDS) -> None:
        self.url = url.rstrip("/")
        self._wallet = wallet
        self._http = open_client(self.url, timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def request(
        self,
        verb: str,
        path: str,
        *,
        content: bytes | None = None,
        json: object = None,
        headers: Mapping[str, str] = {},
        params: Mapping[str, str] = {},
    ) -> httpx.Response:
        """An answer below 400. When none comes, or the network is busy, it asks again. Raises Refusal, Unreachable."""
        for left in reversed(range(_TRIES)):
            try:
                answer = self._http.request(
                    verb, path, content=content, json=json, headers=dict(headers), params=dict(params)
                )
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if not left or isinstance(error, httpx.ConnectError | httpx.InvalidURL):
                    raise no_answer(self.url, error) from error
            else:
                if answer.status_code < 400:
                    return answer
                if not left or answer.status_code not in _BUSY:
                    raise self._refused(answer)
            time.sleep(0.5 * (_TRIES - left))
        raise AssertionError("not reached")

    def node(self) -> str:
        """The address of the network's node, which schedules processes and speaks for them."""
        return self.request("GET", "/~meta@1.0/info/address").text.strip()

    def owner(self, id: str) -> str | None:
        """Who signed a message, or made a process. None: it is not known here."""
        query = "query ($id: ID!) { transaction(id: $id) { owner { address } } }"
        found = self._document("POST", "/graphql", json={"query": query, "variables": {"id": id}}).get("data")
        node = found.get("transaction") if isinstance(found, Mapping) else None
        return str(node["owner"]["address"]) if isinstance(node, Mapping) else None

    @property
    def address(self) -> str | None:
        """Of the wallet."""
        return None if self._wallet is None else self._wallet.address

    def sign(self, data: bytes, tags: Iterable[tuple[str, str]], target: str = "") -> Item:
        if self._wallet is None:
            raise ClientError("this needs a wallet that signs: --wallet FILE; `canister ao keygen FILE` makes one")
        to = from_base64url(target, "the target", 32) if target else b""
        return sign_item(self._wallet, data, texts(tags), target=to, anchor=secrets.token_bytes(ANCHOR_BYTES))

    def store(self, item: Item) -> str:
        """Its id."""
        return _text(self._document("POST", "/tx", content=item.to_bytes(), headers=ITEM_TYPE), "id")

    def spawn(self, tags: Sequence[tuple[str, str]] = (), data: bytes = b"", module: str = MODULE) -> str:
        """The id of a new process. tags: its own, besides those of the protocol."""
        node = self.node()
        own = {name for name, _ in tags}
        given = [("Type", "Process"), ("Module", module), ("Scheduler", node), ("Authority", node)]
        needed = [*PROTOCOL, *(tag for tag in given if tag[0] not in own)]
        return self._post(self.sign(data, [*needed, *tags]))

    def send(self, process: str, tags: Sequence[tuple[str, str]] = (), data: bytes = b"") -> str:
        """The id of a message. tags: its own, besides those of the protocol."""
        return self._post(self.sign(data, [*PROTOCOL, ("Type", "Message"), *tags], process))

    def result(self, process: str, message: str) -> dict[str, object]:
        """What the process made of a message, as soon as it has. Raises Unreachable when it takes too long."""
        until = time.monotonic() + RESULT_SECONDS
        while time.monotonic() < until:
            answer = self.request("GET", f"/cu/result/{message}", params={"process-id": process})
            if answer.status_code != 202:
                return self._object(answer)
        raise Unreachable(
            f"{process} has not got to the message {message} within {RESULT_SECONDS:g} seconds; it is kept: "
            f"`canister ao result {process} {message}` asks again"
        )

    def results(self, process: str, after: str | None = None, limit: int = 25) -> list[tuple[str, dict[str, object]]]:
        """Cursors and results, the oldest first. after: a cursor."""
        params = {"sort": "ASC", "limit": str(limit), **({"from": after} if after else {})}
        found = self._document("GET", f"/cu/results/{process}", params=params)
        edges = found.get("edges")
        if not isinstance(edges, list):
            raise ProtocolError(f"what answers at {self.url} has no edges in its results")
        return [(_text(edge, "cursor"), _object(edge.get("node"))) for edge in map(_object, edges)]

    def last_cursor(self, process: str) -> str | None:
        """Of its newest result; None: it has none."""
        found = self._document("GET", f"/cu/results/{process}", params={"sort": "DESC", "limit": "1"}).get("edges")
        return _text(_object(found[0]), "cursor") if isinstance(found, list) and found else None

    def dry_run(
        self, process: str, tags: Sequence[tuple[str, str]] = (), data: str = "", owner: str | None = None
    ) -> dict[str, object]:
        """What the process would make of a message, which changes nothing. owner: who it is said to be from."""
        message = {
            "Id": "0" * 43,
            "Target": process,
            "Owner": owner or "0" * 43,
            "Data": data,
            "Tags": [{"name": name, "value": value} for name, value in tags],
            "Anchor": "0",
        }
        return self._document("POST", "/cu/dry-run", params={"process-id": process}, json=message)

    def _post(self, item: Item) -> str:
        return _text(self._document("POST", "/mu", content=item.to_bytes(), headers=ITEM_TYPE), "id")

    def _document(
        self,
        verb: str,
        path: str,
        *,
        content: bytes | None = None,
        json: object = None,
        headers: Mapping[str, str] = {},
        params: Mapping[str, str] = {},
    ) -> dict[str, object]:
        return self._object(self.request(verb, path, content=content, json=json, headers=headers, params=params))

    def _object(self, answer: httpx.Response) -> dict[str, object]:
        try:
            return _object(answer.json())
        except ValueError:
            raise not_ours(self.url, answer.status_code, answer.headers) from None

    def _refused(self, answer: httpx.Response) -> Refusal:
        try:
            told = answer.json()
            message = told.get("message") or told.get("error") or told.get("reject_message")
        except (ValueError, AttributeError):
            message = None
        if not isinstance(message, str):
            message = str(not_ours(self.url, answer.status_code, answer.headers))
        return Refusal(answer.status_code, message)


def _object(found: object) -> dict[str, object]:
    if not isinstance(found, dict):
        raise ProtocolError("the network has answered with JSON that is no object")
    return found


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise ProtocolError(f"the network has answered without {name}")
    return value
