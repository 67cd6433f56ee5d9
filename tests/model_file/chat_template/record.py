"""Writes the recorded prompts again, with llama-server as `tests/bench/peers.py` builds it.

    python -m tests.model_file.chat_template.record LLAMA_SERVER [--texts FOLDER] [--only NAME …]

--texts keeps the whole prompts too, to compare by eye; they are other people's texts and not for the repository.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path

import httpx

from tests.harness import CHAT_MODEL
from tests.model_file.chat_template import public_templates
from tests.model_file.chat_template.conversations import CONVERSATIONS
from tests.model_file.chat_template.recordings import Prompt, Recordings, load, save

START_SECONDS = 120
OPTIONS = ("--jinja", "--ctx-size", "256", "--parallel", "1", "--threads", "1", "--no-warmup", "--n-gpu-layers", "0")


def main() -> None:
    arguments = _arguments()
    known = public_templates.templates()
    if not known:
        raise SystemExit(public_templates.MISSING)
    prompts = load().prompts if arguments.only else {}
    facts = ("", "", "")
    for name, source in known.items():
        if arguments.only and name not in arguments.only:
            continue
        prompts[name], facts = _prompts(arguments.llama_server, name, source, arguments.texts) or ({}, facts)
        print(f"{name}: {sum(not one.error for one in prompts[name].values())} of {len(prompts[name])}", flush=True)
    build, bos, eos = facts
    hashes = {name: public_templates.sha256(source) for name, source in known.items()}
    save(Recordings(build, date.today().isoformat(), bos, eos, False, hashes, prompts))


def _prompts(
    binary: Path, name: str, source: str, texts: Path | None
) -> tuple[dict[str, Prompt], tuple[str, str, str]] | None:
    """The prompts by conversation; and build, BOS and EOS as the server tells them. None: it refuses the template."""
    with tempfile.TemporaryDirectory(prefix="record-") as scratch:
        path = Path(scratch) / "template.jinja"
        path.write_text(source, encoding="utf-8")
        port = _free_port()
        command = [str(binary), "--model", str(CHAT_MODEL), "--chat-template-file", str(path), "--port", str(port)]
        with open(Path(scratch) / "log", "wb") as log:
            server = subprocess.Popen([*command, *OPTIONS], stdout=log, stderr=subprocess.STDOUT)
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                    if not _is_ready(client, server):
                        return None
                    props = client.get("/props").json()
                    made = {talk: _prompt(client, name, talk, texts) for talk in CONVERSATIONS}
                    return made, (props["build_info"], props["bos_token"], props["eos_token"])
            finally:
                server.kill()
                server.wait()


def _prompt(client: httpx.Client, name: str, talk: str, texts: Path | None) -> Prompt:
    answer = client.post("/apply-template", content=json.dumps(CONVERSATIONS[talk]))
    if answer.status_code != 200:
        message = str(answer.json()["error"]["message"])
        return Prompt(error=message.strip().splitlines()[-1][:200])
    text = answer.json()["prompt"]
    if texts is not None:
        texts.mkdir(parents=True, exist_ok=True)
        (texts / f"{name}--{talk}.txt").write_text(text, encoding="utf-8")
    return Prompt.of(text)


def _is_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            if client.get("/health").status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_server", type=Path)
    parser.add_argument("--texts", type=Path, help="a folder for whole prompts")
    parser.add_argument("--only", nargs="*", default=[], help="names of templates")
    return parser.parse_args()


if __name__ == "__main__":
    main()
