"""Models that were published: programs load them by their ids, as GGUF files or as chunks of a model of llama2.c."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from canister.ao.signing.wallets import Ed25519Wallet
from canister.client.ao.network import Network
from canister.client.ao.publishing import publish
from canister.client.local_server import LocalServer
from canister.system.data_dir import AO, AO_MODELS
from tests.ao.llama2c import reference
from tests.harness import CHAT_MODEL

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

CHUNK_BYTES = 50_000
SAY = b"Llama.setPrompt('Hello') return Llama.run(8)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with LocalServer(tmp_path_factory.mktemp("ao"), "--slots", "2", command=("ao", "serve")) as made:
        yield made


@pytest.fixture(scope="module")
def network(server: LocalServer) -> Iterator[Network]:
    with Network(server.url, Ed25519Wallet.generate()) as made:
        yield made


class Program:
    """A process with a model."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._process = network.spawn()

    def eval(self, code: bytes) -> dict[str, object]:
        return self._network.result(self._process, self._network.send(self._process, [("Action", "Eval")], code))

    def load(self, id: str) -> str:
        """What is said against it."""
        return str(self.eval(b"return Llama.load('/data/%s')" % id.encode()).get("Error", ""))

    def say(self) -> str:
        told = self.eval(SAY)
        assert "Error" not in told, told
        return str(told["Output"]["data"])  # type: ignore[index]


def chunks_of(network: Network, folder: Path, *, said: int = 0) -> str:
    """A random model of llama2.c, from its last chunk to its first, whose id is returned. said: more bytes than it has,
    by its tag."""
    files = folder / "model.bin", folder / "tokenizer.bin"
    model = reference.Model(shared=True).fill(seed=3)
    reference.write_model(files[0], model, 0)
    reference.write_tokenizer(files[1], reference.vocabulary(model.vocab))
    data, words = files[0].read_bytes(), files[1].read_bytes()
    protocol = ("Data-Protocol", "Onchain-Llama")
    following = network.store(network.sign(words, [protocol, ("Type", "Tokenizer")]))
    parts = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    assert len(parts) > 2
    sizes = [("Model-Size", str(len(data) + said)), ("Tokenizer-Size", str(len(words)))]
    for number, part in reversed(list(enumerate(parts))):
        tags = [protocol, ("Type", "Model-Chunk"), ("Next", following), *(sizes if number == 0 else [])]
        following = network.store(network.sign(part, tags))
    return following


def test_what_is_no_model_is_refused_with_the_reason(network: Network, server: LocalServer, tmp_path: Path) -> None:
    program = Program(network)
    text = network.store(network.sign(b"no model at all", []))
    damaged = network.store(network.sign(CHAT_MODEL.read_bytes()[:100_000], []))
    tokenizer = network.store(network.sign(b"", [("Data-Protocol", "Onchain-Llama"), ("Type", "Tokenizer")]))
    lost = [("Data-Protocol", "Onchain-Llama"), ("Type", "Model-Chunk"), ("Next", text[::-1])]
    for id, reason in (
        (text, "no GGUF file"),
        (damaged, "could not be loaded"),
        (tokenizer, "first Model-Chunk"),
        (network.store(network.sign(b"x", lost)), "nothing under"),
        (network.store(network.sign(b"x", lost[:2])), "names no next one"),
        (chunks_of(network, tmp_path, said=1), "its tags say"),
        ("0" * 43, "there is no model"),
    ):
        assert reason in program.load(id), (id, reason)
    assert program.load("tiny") == ""
    assert not list((server.data_dir / AO / AO_MODELS).iterdir())
    network.request("GET", "/readyz")


def test_published_models_are_loaded_by_their_ids(network: Network, server: LocalServer, tmp_path: Path) -> None:
    program = Program(network)
    assert program.load("tiny") == ""
    expected = program.say()
    file, wallet = publish(network, CHAT_MODEL, Ed25519Wallet.generate(), []).id, Ed25519Wallet.generate()
    assert program.load(file) == ""
    assert program.say() == expected
    chunks = Program(network)
    assert chunks.load(chunks_of(network, tmp_path)) == ""
    assert len(chunks.say()) > 0
    third = publish(network, CHAT_MODEL, wallet, [(b"Name", b"again")]).id
    assert "--ao-stored-models" in Program(network).load(third)
    server.kill()
    server.start()
    assert program.say() == expected  # once its model is back
