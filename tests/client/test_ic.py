"""The signing client against a real server: values, errors, and answers that must not be believed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.api.records import FileUploadInputRecord, InputRecord, MaxTokensRecord
from canister.client.errors import ProtocolError, Refused, Rejected, UnknownMethod, Unreachable
from canister.client.ic import IcCanister, Sender
from canister.client.local_server import LocalServer
from canister.client.rest import Canister
from canister.client.transfer import upload
from canister.ic import cbor, envelope, principal
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity, KeyKind
from canister.ic.principal import ANONYMOUS

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
LIMITS = MaxTokensRecord(max_tokens_update=0, max_tokens_query=0)


def controller(server: LocalServer) -> Identity:
    return Identity.from_pem((server.data_dir / "controller.pem").read_bytes())


def client(server: LocalServer, sender: Sender = None, canister: str = "llama_cpp", **options: Any) -> IcCanister:
    return IcCanister(server.url, canister, sender, **options)


@pytest.fixture
async def ours(running_server: LocalServer) -> AsyncIterator[IcCanister]:
    async with client(running_server, controller(running_server)) as canister:
        yield canister


async def test_queries_and_updates(ours: IcCanister) -> None:
    assert (await ours.call("health")).value.status_code == 200
    assert (await ours.call("set_max_tokens", LIMITS)).value.status_code == 200
    assert (await ours.get_max_tokens()).value == LIMITS


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "prime256v1"])
async def test_who_calls(running_server: LocalServer, kind: KeyKind) -> None:
    identity = Identity.generate(kind)
    delegated = envelope.delegate(identity, Identity.generate(), time.time_ns() + 60 * 10**9)
    for sender, caller in ((identity, identity.principal), (delegated, identity.principal), (None, ANONYMOUS)):
        async with client(running_server, sender, principal.canister_id(0)) as canister:
            assert (await canister.call("whoami")).value == caller


async def test_a_large_chunk(ours: IcCanister) -> None:
    chunk = bytes(range(250)) * 8000
    arg = FileUploadInputRecord(filename="ic-client.bin", chunk=chunk, chunksize=len(chunk), offset=0)
    assert (await ours.call("file_upload_chunk", arg)).value.filesize == len(chunk)


async def whole_chat(canister: IcCanister | Canister, model: Path) -> str:
    """What a canister says that the model was put into, call by call."""
    await upload(canister, model, "models/chat.gguf")
    await canister.load_model(InputRecord(args=["--model", "models/chat.gguf"]))
    cache = ["--prompt-cache", "chat.cache", "--prompt-cache-all"]
    greedy = ["--samplers", "temperature", "--temp", "0.0"]
    await canister.new_chat(InputRecord(args=cache))
    prompt, text = "Once upon a time there was a small cat", ""
    for _ in range(6):
        args = [*cache, *greedy, "-n", "8", "-p", prompt]
        record = (await canister.run_update(InputRecord(args=args))).value
        text += record.output
        if not record.prompt_remaining:
            prompt = ""
    await canister.call("remove_prompt_cache", InputRecord(args=cache))
    return text


async def test_a_whole_chat_is_the_same_through_both_doors(tmp_path: Path, story_model: Path) -> None:
    texts = []
    for door in ("ic", "rest"):
        with LocalServer(tmp_path / door) as server:
            key = (server.data_dir / "controller.key").read_text().strip()
            made = client(server, controller(server)) if door == "ic" else Canister(server.url, "llama_cpp", key)
            async with made as canister:
                texts.append(await whole_chat(canister, story_model))
    assert texts[0] == texts[1] != ""


async def test_an_update_that_is_polled(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", "--sync-call-seconds", "0") as server:
        async with client(server, controller(server)) as canister:
            assert (await canister.call("set_max_tokens", LIMITS)).value.status_code == 200


async def test_errors(running_server: LocalServer, ours: IcCanister) -> None:
    with pytest.raises(UnknownMethod):
        await ours.call("no_such_method")
    async with client(running_server) as anonymous:
        with pytest.raises(Refused, match="Access Denied"):
            await anonymous.call("set_max_tokens", LIMITS)
    async with client(running_server, canister="nobody") as unknown:
        with pytest.raises(Rejected, match="This server has: llama_cpp"):
            await unknown.call("health")
    async with client(running_server, canister=principal.canister_id(9)) as unknown:
        with pytest.raises(Rejected, match=r"Canister .* not found") as caught:
            await unknown.call("health")
        assert caught.value.error_code == "IC0301"
        with pytest.raises(Rejected, match=r"Canister .* not found"):
            await unknown.call("set_max_tokens", LIMITS)
    async with IcCanister("http://127.0.0.1:1", principal.canister_id(0)) as nowhere:
        with pytest.raises(Unreachable):
            await nowhere.call("health")


async def test_an_expired_request(running_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canister.client.agent.EXPIRY_SECONDS", -1)
    async with client(running_server, Identity.generate()) as late:
        with pytest.raises(Rejected, match=r"^Invalid request expiry: ") as caught:
            await late.call("set_max_tokens", LIMITS)
    assert caught.value.http_status == 400


async def test_a_root_key_that_is_not_the_servers(running_server: LocalServer) -> None:
    other = RootKey.generate().public_key_der
    async with client(running_server, controller(running_server), root_key=other) as canister:
        for method, arg in (("health", None), ("set_max_tokens", LIMITS)):
            with pytest.raises(ProtocolError, match="certificate that does not hold"):
                await canister.call(method, arg)


class Meddler(httpx.AsyncHTTPTransport):
    """Changes what a server answers."""

    def __init__(self, path: str, change: Any) -> None:
        super().__init__()
        self._path, self._change = path, change

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not request.url.path.endswith(self._path):
            return response
        document: Any = cbor.decode(await response.aread())
        self._change(document)
        return httpx.Response(200, content=cbor.encode(document), request=request)


def change_reply(document: Any) -> None:
    document["reply"] = {"arg": b"DIDL\0\1\x71\0"}


def change_signature(document: Any) -> None:
    document["signatures"][0]["signature"] = bytes(64)


def change_time(document: Any) -> None:
    document["signatures"][0]["timestamp"] += 1


def drop_signatures(document: Any) -> None:
    del document["signatures"]


def change_node(document: Any) -> None:
    document["signatures"][0]["identity"] = b"\1"


@pytest.mark.parametrize("change", [change_reply, change_signature, change_time, drop_signatures, change_node])
async def test_answers_to_queries_that_were_changed(running_server: LocalServer, change: Any) -> None:
    async with client(running_server, transport=Meddler("/query", change)) as canister:
        with pytest.raises(ProtocolError):
            await canister.call("health")


async def test_answers_to_updates_that_were_changed(running_server: LocalServer) -> None:
    def change(document: Any) -> None:
        document["certificate"] = document["certificate"].replace(b"DIDL", b"DIDM")

    async with client(running_server, transport=Meddler("/call", change)) as canister:
        with pytest.raises(ProtocolError, match="does not belong to what the certificate says"):
            await canister.call("set_max_tokens", LIMITS)


@pytest.mark.parametrize("door", [[], ["--rest"]])
def test_the_scripts_use_either_door(running_server: LocalServer, tmp_path: Path, door: list[str]) -> None:
    source, back = tmp_path / "up.bin", tmp_path / "down.bin"
    source.write_bytes(bytes(range(256)) * 5000)
    name = f"scripts{len(door)}.bin"
    options = ["--network", running_server.url, "--data-dir", str(running_server.data_dir), *door]
    for command in (
        ["scripts.upload", str(source), "--canister-filename", name, "--filetype", "other"],
        ["scripts.download", name, "--local-filename", str(back), "--filetype", "other"],
    ):
        done = subprocess.run([sys.executable, "-m", *command, *options], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert back.read_bytes() == source.read_bytes()
    log = (running_server.data_dir / "serve.err").read_text()
    path = f"/api/v4/canister/{principal.canister_id(0)}/call" if not door else "/file_upload_chunk"
    assert path in log
