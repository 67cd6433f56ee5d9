"""Models that somebody has published, for programs that load them by their ids.

Data is a GGUF file, or the first chunk of a model of llama2.c, as Onchain-Llama publishes one: each chunk names the
next by its tag Next, and the last one the tokenizer. Such a model becomes a GGUF file. Each model gets a canister of
its own, as long as there are as many left as the operator allows.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from canister.ao.llama2c.convert import convert
from canister.ao.storage.archive import Archive, Found
from canister.errors import BadRequest, CanisterBusy, CanisterError, NotFound, Trap
from canister.metering.fees import INITIAL_CYCLES
from canister.server import preload
from canister.state.canisters import Birth
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host

MAX_CHUNKS = 10_000
PROTOCOL, TOKENIZER, CHUNK = "Onchain-Llama", "Tokenizer", "Model-Chunk"
_GGUF = b"GGUF"
_MAX_REASONS = 1000

log = get_logger(__name__)


class StoredModels:
    """folder: for files that are being made. n_most: models that are loaded at once. Made on the event loop."""

    def __init__(self, host: Host, archive: Archive, folder: Path, n_most: int) -> None:
        self._host, self._archive, self._folder, self._n_most = host, archive, folder, n_most
        self._loop = asyncio.get_running_loop()
        self._canisters: tuple[Canister, ...] = ()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._reasons: dict[str, str] = {}  # why models could not be loaded, each told once
        self._one_by_one = asyncio.Lock()

    def find(self, id: str) -> Canister:
        """The canister that has it loaded. On a program's thread. Raises CanisterBusy: it is being loaded, ask again;
        NotFound, with the reason.
        """
        for canister in self._canisters:
            if canister.model.engine is not None and canister.model.is_loaded_from(_target(id)):
                return canister
        if id in self._loading:
            raise CanisterBusy(f"the model {id} is being loaded")
        if (reason := self._reasons.pop(id, None)) is not None:
            raise NotFound(reason)
        if not self._n_most:
            raise NotFound(f"the model {id[:80]} is not loaded from storage here: --ao-stored-models is 0")
        self._check(id)
        self._loop.call_soon_threadsafe(self._begin, id)
        raise CanisterBusy(f"the model {id} is being loaded")

    async def close(self) -> None:
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self, id: str) -> Found:
        """Raises NotFound."""
        found = self._archive.find(id)
        if not found.has_all:
            raise NotFound(f"the data of {id} is not complete yet")
        return found

    def _begin(self, id: str) -> None:
        if id not in self._loading:
            self._loading[id] = asyncio.create_task(self._load(id), name=f"model {id}")

    async def _load(self, id: str) -> None:
        try:
            async with self._one_by_one:
                await self._loaded(id)
        except (CanisterError, Trap, OSError) as error:
            log.warning("a model of the storage could not be loaded", id=id, reason=str(error))
            if len(self._reasons) < _MAX_REASONS:
                self._reasons[id] = f"the model {id} could not be loaded: {error}"[:400]
        finally:
            del self._loading[id]

    async def _loaded(self, id: str) -> None:
        target, free = _target(id), None
        for number in range(self._n_most):
            canister = await self._canister(number)
            await canister.model.loaded()
            if canister.model.is_loaded_from(target):
                return
            if free is None and canister.model.engine is None:
                free = canister
        if free is None:
            raise BadRequest(f"{self._n_most} models of the storage are loaded, as --ao-stored-models allows")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / f"{id}.gguf"
        try:
            await self._gathered(id, file)
            await preload.put(self._host, free, file, target)
        except BaseException:
            await asyncio.shield(preload.remove(self._host, free, target))
            raise
        finally:
            file.unlink(missing_ok=True)

    async def _canister(self, number: int) -> Canister:
        """The same one at each start; another one when it was deleted."""
        for n_deleted in range(MAX_CHUNKS):
            request_id = hashlib.sha256(f"model of the storage {number} {n_deleted}".encode()).digest()
            controllers = [self._host.identity.principal, *self._host.settings.controller]
            made = await self._host.create(request_id, Birth(controllers, INITIAL_CYCLES, {}))
            if made is not None:
                if made not in self._canisters:
                    self._canisters = (*(one for one in self._canisters if one in self._host.canisters), made)
                return made
        raise BadRequest("there is no canister for a model of the storage: all that were made were deleted")

    async def _gathered(self, id: str, file: Path) -> None:
        """The GGUF file. Raises NotFound, BadRequest."""
        found = self._check(id)
        if _named(found, "Data-Protocol") != PROTOCOL:
            await self._copied([found], file)
            with file.open("rb") as written:
                if written.read(len(_GGUF)) != _GGUF:
                    raise BadRequest(f"the data of {id} is no GGUF file, and no chunk of a model of {PROTOCOL}")
            return
        chunks, tokenizer = self._chain(found)
        model, words = file.with_suffix(".bin"), file.with_suffix(".tokenizer")
        try:
            await self._copied(chunks, model, _named(found, "Model-Size"))
            await self._copied([tokenizer], words, _named(found, "Tokenizer-Size"))
            await asyncio.to_thread(convert, model, words, file, name=id)
        finally:
            model.unlink(missing_ok=True)
            words.unlink(missing_ok=True)

    def _chain(self, found: Found) -> tuple[list[Found], Found]:
        """The chunks of a model in order, and the tokenizer that the last one names."""
        chunks: list[Found] = []
        while _named(found, "Type") == CHUNK:
            chunks.append(found)
            following = _named(found, "Next")
            if not following or len(chunks) >= MAX_CHUNKS:
                raise BadRequest(f"the chunk {found.record.id} names no next one, or there is no end of them")
            found = self._check(following)
        if not chunks or _named(found, "Type") != TOKENIZER:
            told = f"Type {_named(found, 'Type')[:40]!r}"
            raise BadRequest(f"{found.record.id} has the {told}: a model is loaded by the id of its first {CHUNK}")
        return chunks, found

    async def _copied(self, parts: list[Found], file: Path, size: str = "") -> None:
        """size: what it is said to be."""
        n_bytes = sum(part.record.data_bytes for part in parts)
        if size and size != str(n_bytes):
            raise BadRequest(f"{file.stem} has {n_bytes} bytes, and its tags say {size[:40]}")
        with file.open("wb") as target:
            for part in parts:
                async with aclosing(self._archive.data(part)) as blocks:
                    async for block in blocks:
                        await asyncio.to_thread(target.write, block)


def _target(id: str) -> str:
    return f"models/{id}.gguf"


def _named(found: Found, name: str) -> str:
    wanted = name.lower().encode()
    values = (value for key, value in found.record.tags if key.lower() == wanted)
    return next(values, b"").decode("utf-8", "replace")
