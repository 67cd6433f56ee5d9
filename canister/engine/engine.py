"""The engine: asyncio in front, a model's context on the decode thread behind.

Everything that touches llama.cpp's context runs on the decode thread, which several engines may share. This module
starts and ends an engine and answers questions about it; `core.py` runs the calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from canister.engine.aside import Aside, Steps, step_back
from canister.engine.core import EngineCore
from canister.engine.crash_notes import CrashNotes, ModelWatch
from canister.engine.embedder import EmbedderCore, EmbedTask, Vectors
from canister.engine.kv.prefetch import Prefetcher
from canister.engine.llama import Model
from canister.engine.llama_types import EngineFault, ModelError
from canister.engine.load.embedding_loader import prepare_embedder
from canister.engine.load.loaded import EngineInfo, Loaded, LoadedEmbedder, LoadParams
from canister.engine.load.loader import load_models, prepare
from canister.engine.request import GenerateRequest, GenerateResult, Tokens
from canister.engine.sampling.grammars import Grammars
from canister.engine.stats import EngineStats, Tier
from canister.engine.task import Task, settle, until_done
from canister.engine.thread import DecodeThread
from canister.errors import BadRequest, ContextExceeded, ModelUnloaded, NotSupported
from canister.system.machine import usable_cores

__all__ = ["Engine", "EngineInfo", "EngineStats", "LoadParams", "ModelError"]

PIECE_CHARACTERS = 4096  # of one piece, when a text is too long for the context

Use = Literal["chat", "embeddings", "any"]


def no_chat(model: str) -> str:
    """Why a model for embeddings answers nothing, in a sentence."""
    return (
        f"The loaded model {model} is an embedding model, which turns a text into numbers and writes none: send it to "
        "/v1/embeddings, or load a model that continues a text"
    )


def no_embeddings(model: str) -> str:
    """Why a model makes no embeddings, in a sentence."""
    return (
        f"The loaded model {model} makes no embeddings, since it was made to continue texts: load an embedding model "
        "(one whose file says how its tokens' vectors are pooled)"
    )


class Engine:
    """A loaded model, made by `load` and ended by `close`. Everything else may be called at any time between."""

    def __init__(self, params: LoadParams, thread: DecodeThread | None = None, watch: ModelWatch | None = None) -> None:
        self._params = params
        self._watch = watch or CrashNotes(Path()).of_model(params.model_id)  # takes no notes
        self._owns_thread = thread is None
        self._thread = DecodeThread(f"engine {params.name}") if thread is None else thread
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_closing = False  # on the loop: no new calls
        self._is_ending = False  # on the thread: end when no call is left
        self._keeps_logits = False  # leave a file of logits for the next engine
        self._n_cores = usable_cores()
        self._info: EngineInfo | None = None
        self._model: Model | None = None
        self._draft: Model | None = None  # the weights of the draft model
        self._preparing: Steps[Loaded | LoadedEmbedder] | None = None
        self._is_waiting = False  # until work done aside has ended
        self._aside: Aside[Any] | None = None
        self._core: EngineCore | EmbedderCore | None = None
        self._grammars = Grammars(self._loaded_model)

    # -- on the event loop

    @classmethod
    async def load(
        cls, params: LoadParams, thread: DecodeThread | None = None, watch: ModelWatch | None = None
    ) -> Engine:
        """Load a model file. Raises ModelError or Conflict, which name the file or setting and what is wrong with it.

        thread: where to decode, beside other engines; None: on a thread of its own.
        watch: is told of each decode, in case a decode ends the process.
        """
        engine = cls(params, thread, watch)
        loading = asyncio.get_running_loop().run_in_executor(None, load_models, params)
        try:
            engine._model, engine._draft = await asyncio.shield(loading)
        except BaseException:
            await until_done(loading)  # the caller may close the file only after that
            engine._end_thread()
            raise
        # So that nobody waits for it later. It takes as long as the context, beside which it is done.
        reading = asyncio.get_running_loop().run_in_executor(None, getattr, engine._model, "special_tokens")
        engine._post(engine._begin)
        try:
            await asyncio.shield(engine._ready)
            await reading
        except asyncio.CancelledError:
            engine._ready.add_done_callback(lambda ready: ready.exception())
            engine._closed.add_done_callback(lambda _: engine._end_thread())
            engine._end(drain=False)
            raise
        except BaseException:
            engine._end_thread()
            raise
        return engine

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    def check_use(self, use: Use) -> None:
        """NotSupported for a use that the loaded model is not of the kind for."""
        if use == "chat" and self.info.pooling:
            raise NotSupported(no_chat(self.info.name))
        if use == "embeddings" and not self.info.pooling:
            raise NotSupported(no_embeddings(self.info.name))

    def tokenize(self, text: str, add_bos: bool, special: bool = True) -> list[int]:
        """Tokens of a text. add_bos: put BOS first if the vocabulary says so. special: parse special tokens.

        Long texts take long, with some tokenizers by the square of their length, so tokenize them in a worker thread. A
        text that is too long for the context in any case is tokenized in pieces. Its tokens are then not quite right,
        but are more than n_ctx.
        """
        model = self._loaded_model()
        if len(text) <= PIECE_CHARACTERS or len(text) <= self.info.n_ctx * model.longest_piece_bytes:
            return model.tokenize(text, add_bos, special)
        starts = range(0, len(text), PIECE_CHARACTERS)
        parts = [model.tokenize(text[i : i + PIECE_CHARACTERS], add_bos and i == 0, special) for i in starts]
        return [token for part in parts for token in part]

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Tokens that no text makes, such as <|im_end|>: names and numbers. Grammars call them by their numbers."""
        return self._loaded_model().special_tokens

    def piece(self, token: int, special: bool) -> bytes:
        """The bytes of a token, possibly part of a character; special tokens are empty unless `special`."""
        return self._loaded_model().piece(token, special)

    def is_eog(self, token: int) -> bool:
        return self._loaded_model().is_eog(token)

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        """Run one call. Cancelling it ends the work and rolls it back before this returns."""
        if self._is_closing:
            raise ModelUnloaded("The model is being unloaded: try again")
        core = self._chat_core()
        request.check(self.info.n_vocab, self.info.n_ctx)
        binding = await self._grammars.bind(request.sampling)
        if self._is_closing:
            raise ModelUnloaded("The model is being unloaded: try again")
        loop = asyncio.get_running_loop()
        task = Task(request, loop, loop.create_future(), binding)
        if core.hand_out_beside(task):
            assert isinstance(task.outcome, GenerateResult)
            return task.outcome
        with core.coming(task):
            self._post(lambda: core.submit(task))
        try:
            result = await asyncio.shield(task.done)
        except asyncio.CancelledError:
            if not task.done.done():
                task.is_cancelled = True
                self._post(lambda: core.cancel(task))
                core.abort_chunk(task)
            await until_done(task.done)  # one step at most
            task.done.exception()
            raise
        if result.n_prompt_decoded or result.n_generated:
            self._watch.went_well()
        return result

    def tokenize_framed(self, text: str) -> list[int]:
        """Tokens of a text for `embed`, with all that the vocabulary puts around one. Of a text that is too long in any
        case there are more than n_ctx, which are not quite right.
        """
        model = self._loaded_model()
        if len(text) <= PIECE_CHARACTERS or len(text) <= self.info.n_ctx * model.longest_piece_bytes:
            return model.tokenize_framed(text)
        return self.tokenize(text, add_bos=False)

    async def embed(self, caller: str, texts: Sequence[Tokens]) -> Vectors:
        """A vector for each text, as the model gives it. Cancelling it ends the work before this returns.

        NotSupported: the model makes none. ContextExceeded, BadRequest: for a text that cannot be read.
        """
        if self._is_closing:
            raise ModelUnloaded("The model is being unloaded: try again")
        core, info = self._loaded_core(), self.info
        if not isinstance(core, EmbedderCore):
            raise NotSupported(no_embeddings(info.name))
        for tokens in texts:
            if not len(tokens) or not 0 <= tokens.min() <= tokens.max() < info.n_vocab:
                raise BadRequest(f"A text has one token or more, each below {info.n_vocab}")
            if len(tokens) > info.n_ctx:
                raise ContextExceeded(len(tokens), info.n_ctx)
        vectors = np.empty((len(texts), info.n_embd), np.float32)
        if not len(texts):
            return vectors
        loop = asyncio.get_running_loop()
        task = EmbedTask(caller, texts, loop, loop.create_future(), vectors)
        self._post(lambda: core.submit(task))
        try:
            found = await asyncio.shield(task.done)
        except asyncio.CancelledError:
            if not task.done.done():
                self._post(lambda: core.cancel(task))
                core.abort(task)
                await until_done(task.done)
            raise
        self._watch.went_well()
        return found

    def forget(self, key: str) -> None:
        """Free the KV memory of a conversation, at once or when its call ends."""
        core = self._loaded_core()
        if isinstance(core, EngineCore):
            self._post(lambda: core.forget(key))

    @property
    def prefetcher(self) -> Prefetcher:
        """Brings stored conversations near before a call needs them."""
        return self._chat_core().prefetcher

    def residents(self) -> dict[str, int]:
        """The conversations in the KV memory, and how many tokens each had when its last call ended."""
        core = self._loaded_core()
        return core.residents() if isinstance(core, EngineCore) else {}

    def tier_of(self, key: str) -> Tier:
        """Where the nearest state of a conversation is."""
        core = self._loaded_core()
        return core.tier_of(key) if isinstance(core, EngineCore) else "file"

    def stats(self) -> EngineStats:
        """The current counters, for metrics. Each is right by itself; together they may be of two moments."""
        return self._loaded_core().stats()

    async def close(self, *, drain: bool = True) -> None:
        """Refuse new calls, finish the running ones (or cancel them, without `drain`), and free the model."""
        self._end(drain)
        await asyncio.shield(self._closed)
        self._end_thread()
        weights, self._model, self._draft = [self._model, self._draft], None, None
        await asyncio.to_thread(weights.clear)  # freeing gigabytes takes time

    def _post(self, command: Callable[[], None]) -> None:
        self._thread.post(self, command)

    def _end(self, drain: bool) -> None:
        self._is_closing = True
        self._post(lambda: self._begin_end(drain))

    def _end_thread(self) -> None:
        if self._owns_thread:
            self._thread.close()

    def _loaded_model(self) -> Model:
        model = self._model
        if model is None:
            raise ModelUnloaded("The model is not loaded any more: call load_model")
        return model

    def _loaded_core(self) -> EngineCore | EmbedderCore:
        assert self._core is not None  # `load` gives nobody an engine before
        return self._core

    def _chat_core(self) -> EngineCore:
        core = self._loaded_core()
        if not isinstance(core, EngineCore):
            raise NotSupported(no_chat(self.info.name))
        return core

    # -- on the thread

    @property
    def mapped_bytes(self) -> int:
        return sum(model.size_bytes for model in (self._model, self._draft) if model is not None)

    @property
    def has_work(self) -> bool:
        if self._is_waiting:
            return False
        return self._preparing is not None or self._is_ending or (self._core is not None and self._core.has_work)

    @property
    def n_threads(self) -> int:
        # Loading measures speeds and needs all cores.
        return self._n_cores if self._info is None else self._info.n_threads

    def take_turn(self) -> None:
        """Load a little further, by one decode, or do one step of the calls, or end."""
        with self._watch.decoding:
            if self._preparing is not None:
                self._prepare()
            if isinstance(self._core, EngineCore):
                self._core.take_turn(is_shared=self._thread.is_shared)
            elif self._core is not None:
                self._embed(self._core)
        if self._is_ending and (self._core is None or not self._core.has_tasks):
            self._leave()

    def fail(self, error: Exception) -> None:
        """After a bug: give all calls the fault until the engine is closed, so that none waits for ever."""
        fault = EngineFault(f"the engine has stopped: {error}")
        if self._core is not None:
            self._core.fail(fault)
        settle(self._ready, fault)

    def _begin(self) -> None:
        self._thread.attach(self)
        mapped_bytes, is_shared = self._thread.mapped_bytes, self._thread.is_shared
        if self._params.pooling:
            self._preparing = prepare_embedder(self._params, self._loaded_model(), mapped_bytes)
        else:
            model, draft = self._loaded_model(), self._draft
            self._preparing = prepare(self._params, model, mapped_bytes, is_shared=is_shared, draft=draft)

    def _embed(self, core: EmbedderCore) -> None:
        """One decode for embeddings, here or aside."""
        work = core.take_turn(is_shared=self._thread.is_shared)
        if work is not None:
            self._do_aside(work, lambda: core.finish(work))

    def _prepare(self) -> None:
        """One step of loading, until the context is there or cannot be made."""
        assert self._preparing is not None
        try:
            step = next(self._preparing)
        except StopIteration as done:
            self._preparing = None
            self._set_up(done.value)
        except Exception as error:
            self._preparing = None
            self._thread.detach(self)
            settle(self._ready, error)
        else:
            if step is not None:
                self._do_aside(step, lambda: step.drop() if self._preparing is None else None)

    def _set_up(self, loaded: Loaded | LoadedEmbedder) -> None:
        if isinstance(loaded, LoadedEmbedder):
            self._info, self._core = loaded.info, EmbedderCore(loaded, self._params, self._watch)
            settle(self._ready, None)
            return
        core = EngineCore(self._loaded_model, loaded, self._params)

        def ready() -> None:
            self._info, self._core = loaded.info, core
            settle(self._ready, None)

        self._do_aside(Aside(core.give_back_cells), ready)

    def _do_aside(self, work: Aside[Any], then: Callable[[], None]) -> None:
        """Do the work on another thread, take no turns meanwhile, and continue here with `then`."""

        def over() -> None:
            self._is_waiting, self._aside = False, None
            then()

        def do() -> None:
            step_back()
            work.run()
            self._post(over)

        self._is_waiting = True
        self._aside = work
        threading.Thread(target=do, name=f"aside {self._params.name}", daemon=True).start()

    def _leave(self) -> None:
        """End, now that no call is left and none will come."""
        self._thread.detach(self)
        if self._core is None:
            settle(self._closed, None)
            return
        if isinstance(self._core, EngineCore):
            self._core.end(keeps_logits=self._keeps_logits)
        self._do_aside(Aside(self._core.close), lambda: settle(self._closed, None))

    def _begin_end(self, drain: bool) -> None:
        self._is_ending, self._keeps_logits = True, drain
        if self._preparing is not None:  # nobody waits for the model any more
            self._preparing.close()
            self._preparing = None
            if self._aside is not None:
                self._aside.is_wanted = False
        if not drain and self._core is not None:
            self._core.cancel_all()
