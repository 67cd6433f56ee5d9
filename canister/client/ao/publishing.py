"""A file that stays, as an item or as a transaction of the base layer. A large one is never held in memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from canister.ao.arweave.chunks import Span, tree_of_parts
from canister.ao.arweave.transactions import PostedChunk, sign_transaction
from canister.ao.encoding import from_base64url
from canister.ao.signing.deep_hash import Hashed
from canister.ao.signing.items import sign_head
from canister.ao.signing.tags import Tag
from canister.ao.signing.wallets import ArweaveWallet, Wallet
from canister.client.ao.network import ITEM_TYPE, Network
from canister.client.errors import ClientError, ProtocolError

AT_ONCE_BYTES = 4 << 20  # in one request; more goes in chunks
PART_BYTES = 5 << 20
_READ_BYTES = 1 << 20
_POLL_SECONDS = 0.2
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Published:
    id: str
    n_bytes: int
    url: str


def publish(
    network: Network, file: Path, wallet: Wallet, tags: Sequence[Tag] = (), progress: Progress = lambda n: None
) -> Published:
    """As an item. progress: gets the bytes that were sent since the last time."""
    with file.open("rb") as opened:
        digest, n_bytes = hashlib.sha384(), 0
        for block in _blocks(opened):
            digest.update(block)
            n_bytes += len(block)
        head = sign_head(wallet, Hashed(n_bytes, digest.digest()), tags)
        begin = head.to_bytes()
        if n_bytes <= AT_ONCE_BYTES:
            opened.seek(0)
            network.request("POST", "/tx", content=begin + opened.read(), headers=ITEM_TYPE)
            progress(n_bytes)
        else:
            _in_parts(network, begin, opened, progress)
    return Published(head.id, n_bytes, f"{network.url}/{head.id}")


def publish_on_base_layer(
    network: Network, file: Path, wallet: ArweaveWallet, tags: Sequence[Tag] = (), progress: Progress = lambda n: None
) -> Published:
    """As a transaction, whose chunks go with their proofs. A reward is offered as the network asks for one."""
    n_bytes = file.stat().st_size
    with file.open("rb") as opened:

        def read(span: Span) -> bytes:
            opened.seek(span.start)
            return opened.read(span.n_bytes)

        tree = tree_of_parts(n_bytes, read) if n_bytes else None
        root = b"" if tree is None else tree.root
        reward = network.request("GET", f"/price/{n_bytes}").text.strip()
        anchor = network.request("GET", "/tx_anchor").text.strip()
        if not reward.isdecimal():
            raise ProtocolError(f"the price at {network.url} is {reward[:40]!r}, no number")
        transaction = sign_transaction(
            wallet,
            data_root=root,
            data_bytes=n_bytes,
            tags=tags,
            reward=int(reward),
            anchor=from_base64url(anchor, "the anchor"),
        )
        network.request("POST", "/tx", json=transaction.to_json())
        for proven in () if tree is None else tree.chunks:
            chunk = PostedChunk(root, n_bytes, proven.offset, proven.proof, read(proven.span))
            network.request("POST", "/chunk", json=chunk.to_json())
            progress(proven.span.n_bytes)
    return Published(transaction.id, n_bytes, f"{network.url}/{transaction.id}")


def _in_parts(network: Network, begin: bytes, file: BinaryIO, progress: Progress) -> None:
    about = network.request("GET", "/v1/chunks/arweave/-1/-1", params={"chunkSize": str(PART_BYTES)}).json()
    top = f"/v1/chunks/arweave/{about['id']}"
    file.seek(0)
    at, part = 0, begin
    while part := part + file.read(PART_BYTES - len(part)):
        network.request("POST", f"{top}/{at}", content=part, headers=ITEM_TYPE)
        progress(len(part))
        at, part = at + len(part), b""
    network.request("POST", f"{top}/finalize")
    while True:
        told = network.request("GET", f"{top}/status").json()
        if told.get("status") == "FINALIZED":
            return
        if told.get("status") in ("INVALID", "UNDERFUNDED"):
            raise ClientError(f"the upload was refused: {told.get('error') or told['status']}")
        time.sleep(_POLL_SECONDS)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_READ_BYTES):
        yield block
