"""Models that do not continue texts are refused for what they are, before llama.cpp sees them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from canister.runtime.host import Host
from tests.engine.gguf_writer import Plain
from tests.engine.tiny_models import llama_model

pytestmark = pytest.mark.anyio

OTHERS: dict[str, tuple[dict[str, Plain], str]] = {
    "diffusion": ({"general.architecture": "dream"}, "it is a diffusion model (architecture 'dream')"),
    "encoder": ({"general.architecture": "t5encoder"}, "it is an embedding model (architecture 't5encoder')"),
    "reranker": ({"llama.pooling_type": 4}, "it is an embedding model (architecture 'llama', pooling 'rank')"),
    "translator": ({"general.architecture": "t5"}, "it is an encoder-decoder model (architecture 't5')"),
    "adapter": ({"general.type": "adapter"}, "it is a LoRA adapter"),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_another_kind_is_refused_in_one_sentence(
    name: str, host: Host, controller: httpx.AsyncClient, tmp_path: Path
) -> None:
    changes, said = OTHERS[name]
    file = llama_model(tmp_path / "other.gguf", changes=changes)
    url = "/canisters/llama_cpp"
    assert (await controller.put(f"{url}/files/models/other.gguf", content=file.read_bytes())).status_code == 200
    n_tried = host.default.model.trials.n_tried
    refused = await controller.post(f"{url}/load_model", json={"args": ["--model", "models/other.gguf"]})
    assert refused.status_code == 400
    error = refused.json()["Err"]["error"]
    assert error.startswith("cannot load model models/other.gguf: ")
    assert said in error
    assert host.default.model.trials.n_tried == n_tried
