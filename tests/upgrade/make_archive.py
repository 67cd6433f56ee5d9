"""Write the data folder of this version as an archive, for the tests of all later ones; run once for each release.

    python -m tests.upgrade.make_archive

A server is started, used, and killed in the midst of its life, so that what a crash leaves behind is in the folder as
well. The model file and the server's keys are left out: a test puts the model back, and keys are made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from canister.client.local_server import LocalServer
from canister.state.api_keys import open_keys
from canister.system.distribution import version
from tests.harness import CHAT_MODEL

ARCHIVES = Path(__file__).parent
MAX_BYTES = 1_000_000
SECRETS = ("controller.pem", "controller.key", "node.pem", "root.key")
LEFT_OUT = (*SECRETS, "serve.out", "serve.err", "lock")
MODEL = f"models/{CHAT_MODEL.name}"
PROMPT = "<|im_start|>user\nPlease tell me a story.<|im_end|>\n<|im_start|>assistant\n"
FLAGS = ["--prompt-cache", "chat", "--prompt-cache-all", "--temp", "0.8", "--seed", "5", "-sp"]
N_CALLS = 4
SERVE = ("--slots", "2", "--canister", "llama_cpp", "--canister", "two")
DATA = bytes(range(256)) * 40


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch) / "data"
        expected = live(data_dir)
        target = ARCHIVES / f"{version()}.tar.xz"
        pack(data_dir, expected, target)
    print(f"wrote {target} ({target.stat().st_size} bytes)")


def live(data_dir: Path) -> dict[str, Any]:
    """Use a server in all its ways, kill it, and tell what has to be found again."""
    server = LocalServer(
        data_dir, "-m", str(CHAT_MODEL), "--slots", "2", "--canister", "llama_cpp", "--canister", "two"
    )
    server.start()
    try:
        with open_keys(data_dir) as keys:
            visitor_key = keys.create("visitor")
        with client(server, server.api_key) as controller, client(server, visitor_key) as visitor:
            wait_until_ready(controller)
            who = controller.get("/whoami").json()
            visiting = visitor.get("/whoami").json()
            ok(controller, "set_max_tokens", {"max_tokens_update": 10, "max_tokens_query": 10})
            ok(controller, "set_access", {"level": 1})
            ok(controller, "assignAdminRole", {"principal": visiting, "role": "AdminQuery", "note": "visits"})
            ok(controller, "chats_resume")
            for path in ("notes/kept.bin", "notes/grown.bin"):
                assert controller.put(f"/canisters/llama_cpp/files/{path}", content=DATA).status_code == 200
            controller.put("/canisters/llama_cpp/files/notes/grown.bin", params={"offset": len(DATA)}, content=DATA)
            assert controller.put("/canisters/two/files/other.bin", content=DATA).status_code == 200
            ok(visitor, "new_chat", {"args": FLAGS})
            for n in range(N_CALLS):
                record = ok(visitor, "run_update", {"args": [*FLAGS, "-p", "" if n else PROMPT]})
            ok(visitor, "run_update", {"args": ["-p", PROMPT, "--log-file", "logs/run.log", "-n", "3"]})
            calls = ok(controller, "get_call_log", {"max_entries": 1000})
            return {
                "version": version(),
                "model_sha256": hashlib.sha256(CHAT_MODEL.read_bytes()).hexdigest(),
                "controller": who,
                "visitor": visiting,
                "canisters": [entry["id"] for entry in controller.get("/canisters").json()["canisters"]],
                "conversation": record["conversation"],
                "n_tokens": record["n_prompt_tokens"] + record["n_tokens_generated"],
                "n_calls": len(calls),
                "chats": ok(visitor, "get_chats")["chats"],
                "files": {
                    "notes/kept.bin": hashlib.sha256(DATA).hexdigest(),
                    "notes/grown.bin": hashlib.sha256(DATA + DATA).hexdigest(),
                },
            }
    finally:
        server.kill()


def pack(data_dir: Path, expected: dict[str, Any], target: Path) -> None:
    for path in sorted(data_dir.rglob("*")):
        if path.name in LEFT_OUT or path.name == CHAT_MODEL.name:
            path.unlink()
    (data_dir / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    with tarfile.open(target, "w:xz") as archive:
        archive.add(data_dir, ".", filter=_anonymous)
    if target.stat().st_size > MAX_BYTES:
        target.unlink()
        raise SystemExit(f"{target} would be larger than {MAX_BYTES} bytes")


def unpack(archive: Path, data_dir: Path) -> dict[str, Any]:
    """The data folder of an archive, the shipped model in its place; and what has to be found in it."""
    with tarfile.open(archive) as packed:
        packed.extractall(data_dir, filter="data")
    expected: dict[str, Any] = json.loads((data_dir / "expected.json").read_text(encoding="utf-8"))
    place = data_dir / "canisters" / expected["canisters"][0] / "stable" / MODEL
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CHAT_MODEL, place)
    return expected


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def client(server: LocalServer, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False)


def wait_until_ready(http: httpx.Client) -> None:
    """Until the models are there; AssertionError if one could not be loaded."""
    while (ready := http.get("/readyz")).status_code == 503 and "being" in ready.text:
        time.sleep(0.02)
    assert ready.status_code == 200, ready.text


def ok(http: httpx.Client, method: str, arg: object = None) -> Any:
    """What a method answers; the value of Ok, where there is one."""
    response = http.post(f"/{method}") if arg is None else http.post(f"/{method}", json=arg)
    assert response.status_code == 200, (method, response.text)
    document = response.json()
    return document["Ok"] if isinstance(document, dict) and list(document) == ["Ok"] else document


if __name__ == "__main__":
    main()
