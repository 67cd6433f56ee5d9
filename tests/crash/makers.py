"""A client that makes and deletes canisters while the server is killed, and knows what must be there afterwards."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from canister.api import codec
from canister.api.management import CanisterIdRecord, ProvisionalCreateRecord, find_method
from canister.client.agent import MANAGEMENT_ID, Agent
from canister.client.errors import ClientError, Rejected, Unreachable
from canister.client.local_server import LocalServer
from canister.ic import principal
from canister.ic.identity import Identity

KEPT = 3  # canisters that stay for a while
FILE = b"in a canister that a message made " * 3000


class Lost(Exception):
    """No answer: the call may have happened or not."""


class Maker:
    """kept: canisters that were made, filled and told so. deleted: whose end was told. n_acked: answered calls."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.kept: list[str] = []
        self.deleted: set[str] = set()
        self.n_acked = 0

    def work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._round()
            except (Lost, httpx.TransportError, Unreachable):
                time.sleep(0.02)

    def _round(self) -> None:
        # First of all, so that canisters do not gather where a round is seldom finished between two kills: those that
        # were kept long enough, and those made without an answer that came through, which are whole and nobody's.
        del self.kept[:-KEPT]
        for id in self.listed() - {*self.kept} - {principal.canister_id(0)}:
            self._delete(id)
        made = self._manage("provisional_create_canister_with_cycles", ProvisionalCreateRecord(amount=10**12))
        id = str(made.canister_id)
        assert id not in self.deleted, "an id was given again"
        self._put(id)
        self.kept.append(id)
        self.check()

    def check(self) -> None:
        """All that was answered is so."""
        listed = self.listed()
        assert listed >= {*self.kept}, "a canister is gone that was made"
        assert not listed & self.deleted, "a canister is back that was deleted"
        for id in self.kept:
            content = httpx.get(f"{self.server.url}/canisters/{id}/files/x", headers=self._key(), trust_env=False)
            assert (content.status_code, content.content) == (200, FILE)

    def listed(self) -> set[str]:
        answer = httpx.get(f"{self.server.url}/canisters", trust_env=False)
        return {row["id"] for row in answer.json()["canisters"]}

    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.server.api_key}"}

    def _put(self, id: str) -> None:
        url = f"{self.server.url}/canisters/{id}/files/x"
        answer = httpx.put(url, content=FILE, headers=self._key(), trust_env=False, timeout=60)
        if answer.status_code == 503:  # it is being stopped or started
            raise Lost
        assert answer.status_code == 200, answer.text
        self.n_acked += 1

    def _delete(self, id: str) -> None:
        try:
            self._manage("stop_canister", CanisterIdRecord(canister_id=id), id)
            self._manage("delete_canister", CanisterIdRecord(canister_id=id), id)
        except Rejected as error:
            if error.error_code != "IC0301":  # deleted before, and the answer was lost
                raise
        self.deleted.add(id)

    def _manage(self, name: str, record: object, id: str | None = None) -> Any:
        method = find_method(name)
        effective = principal.from_text(id or principal.canister_id(0))
        sender = Identity.from_pem((self.server.data_dir / "controller.pem").read_bytes())

        async def send() -> bytes:
            async with Agent(self.server.url, sender) as agent:
                return await agent.update(MANAGEMENT_ID, name, codec.encode_args(method, record), effective)

        try:
            reply = asyncio.run(send())
        except Rejected as error:
            if error.http_status == 503 or error.error_code in ("IC0509", "IC0508"):
                raise Lost from error
            raise
        except ClientError as error:
            raise Lost from error
        self.n_acked += 1
        return codec.decode_reply(method, reply).value if method.ok is CanisterIdRecord else None


def folders(data_dir: Path) -> set[str]:
    return {path.name for path in (data_dir / "canisters").iterdir()}
