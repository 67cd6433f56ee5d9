"""Model files that were made to do harm, through the door: an error for who loads one, service for everybody else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from canister.model_file.gguf import read_gguf
from canister.runtime.host import Host
from canister.system import sandbox
from tests.engine.gguf_writer import write_gguf
from tests.engine.hostile_models import CRASHING, ENDLESS, Hostile
from tests.engine.tiny_models import llama_model
from tests.processes import text_of

pytestmark = pytest.mark.anyio


async def load(client: httpx.AsyncClient, file: Path, name: str) -> httpx.Response:
    url = f"/canisters/llama_cpp/files/models/{name}"
    stored = await client.put(url, content=file.read_bytes())
    assert stored.status_code == 200
    return await client.post("/canisters/llama_cpp/load_model", json={"args": ["--model", f"models/{name}"]})


@pytest.mark.parametrize("name", CRASHING)
async def test_the_server_survives(name: str, host: Host, controller: httpx.AsyncClient, tmp_path: Path) -> None:
    response = await load(controller, CRASHING[name].write(tmp_path / "bad.gguf"), "bad.gguf")
    assert response.status_code == 400
    error = response.json()["Err"]["error"]
    assert "models/bad.gguf" in error
    assert str(host.data_dir) not in error
    for canister in ("llama_cpp", "second"):
        assert (await controller.get(f"/canisters/{canister}/whoami")).status_code == 200


async def test_the_model_that_is_loaded_stays(host: Host, controller: httpx.AsyncClient, tmp_path: Path) -> None:
    good = llama_model(tmp_path / "good.gguf", "q8_0")
    assert (await load(controller, good, "good.gguf")).status_code == 200
    run = {"args": ["--model", "models/good.gguf", "-p", "hello", "-n", "2"]}
    bad = CRASHING["negative epsilon"].write(tmp_path / "bad.gguf")
    assert (await load(controller, bad, "bad.gguf")).status_code == 400
    assert (await controller.post("/canisters/llama_cpp/run_query", json=run)).status_code == 200
    # A file that takes the name of the good one, with harm inside, is another file.
    assert (await load(controller, bad, "good.gguf")).status_code == 400


async def test_a_client_that_goes_away_ends_the_trial(host: Host, tmp_path: Path) -> None:
    """The child that would go on for a minute is gone, and the next one is tried at once."""
    from canister import dispatch
    from canister.api.records import InputRecord

    controller = host.identity.principal

    async def blocks(file: Path):  # type: ignore[no-untyped-def]
        yield file.read_bytes()

    endless = ENDLESS.write(tmp_path / "endless.gguf")
    await dispatch.store_stream(host.default, controller, "models/endless.gguf", 0, blocks(endless))
    method = dispatch.find_method(host.default, "load_model")
    argument = InputRecord(args=["--model", "models/endless.gguf"])
    n_tried = host.default.model.trials.n_tried
    call = asyncio.create_task(dispatch.execute(host.default, method, controller, lambda: argument))
    while host.default.model.trials.n_tried == n_tried:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    children = Path("/proc/self/task").glob("*/children") if sys.platform == "linux" else []
    pids = [pid for path in children for pid in text_of(path).split()]
    assert not [pid for pid in pids if "trial_child" in text_of(Path(f"/proc/{pid}/cmdline"))]


async def test_no_file_is_opened_that_only_the_header_names(controller: httpx.AsyncClient, tmp_path: Path) -> None:
    """llama.cpp would open the other parts by name, and nobody has tried those."""
    hostile = Hostile({"split.count": 2, "split.no": 0}).write(tmp_path / "part")
    response = await load(controller, hostile, "part.gguf")
    assert response.status_code == 400
    assert "it is part 1 of a model in 2 parts" in response.json()["Err"]["error"]
    response = await load(controller, hostile, "part-00001-of-00002.gguf")
    assert response.status_code == 400
    assert "are missing: models/part-00002-of-00002.gguf" in response.json()["Err"]["error"]


async def test_weights_that_llama_cpp_cannot_compute_with_are_told(
    controller: httpx.AsyncClient, tmp_path: Path
) -> None:
    """It would end the process: its buffers begin at multiples of 32 bytes. The file is as its format allows."""
    tensors = [("token_embd.weight", (64, 512), "f32"), ("output_norm.weight", (64,), "f32")]
    for text in ("", "a" * 8):  # the header of one of them ends at no multiple of 32
        metadata = {"general.architecture": "llama", "llama.block_count": 1, "general.description": text}
        path = write_gguf(tmp_path / "aligned.gguf", metadata, tensors, alignment=8)
        if read_gguf(path).data_offset % 32:
            break
    response = await load(controller, path, "aligned.gguf")
    assert response.status_code == 400
    error = response.json()["Err"]["error"]
    assert "aligned to 8 bytes (general.alignment), and llama.cpp computes only with such as are aligned to 32" in error


# A server with a fault planted into it: the health probe writes where it must not, in the loop and in a thread.
PLANTED = """
import asyncio, sys
from pathlib import Path
from canister import cli
from canister.system import sandbox
decoys = Path(sys.argv.pop(1))
real = sandbox.confine_server

def planted(folders):
    state = real(folders)
    from canister.server import answers
    from canister.server.pages import health

    async def healthz(request):
        met = {}
        def harm(name):
            try:
                (decoys / name).write_bytes(b"harm")
                (decoys / "precious").unlink()
                met[name] = "done"
            except OSError as error:
                met[name] = error.strerror
        harm("loop")
        await asyncio.to_thread(harm, "thread")
        return answers.document(met)

    health.healthz = healthz
    return state

sandbox.confine_server = planted
cli.main()
"""


@pytest.mark.skipif(sandbox.abi() < sandbox.MIN_ABI, reason="this kernel has no Landlock, or one that is too old")
def test_a_planted_fault_does_no_harm(tmp_path: Path) -> None:
    """Aimed at decoys in a folder of the test; whatever the server's rights are, the kernel refuses."""
    decoys = tmp_path / "decoys"
    decoys.mkdir()
    (decoys / "precious").write_bytes(b"precious")
    command = [sys.executable, "-c", PLANTED, str(decoys), "serve", "--no-supervise"]
    command += ["--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("listening on ").strip()
            assert httpx.get(f"{url}/healthz").json() == dict.fromkeys(("loop", "thread"), "Permission denied")
        finally:
            server.terminate()
    assert {path.name: path.read_bytes() for path in decoys.iterdir()} == {"precious": b"precious"}
