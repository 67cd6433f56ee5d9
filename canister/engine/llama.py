"""llama.cpp's model and context. Only this module, `llama_build.py`, `vocabulary.py` and `sampling/samplers.py` import
llama_cpp.

Thin objects. They refuse what would abort the process (too many rows, a stream out of range, logits of a row that asked
for none) before llama.cpp sees it. They make no policy; callers decide which token is decoded when.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from canister.engine import llama_log
from canister.engine.llama_build import mul_mat, tensor_bytes
from canister.engine.llama_log import complaint
from canister.engine.llama_types import ContextParams, DecodeAborted, EngineFault, ModelError
from canister.engine.row_attention import RowAttention, can_change
from canister.engine.structs import address_of, set_fields
from canister.engine.vocabulary import Vocabulary
from canister.flags.parse import PlacementParams, RopeParams

Logits = NDArray[np.float32]
Bytes = NDArray[np.uint8]

KV_TYPES = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": 30,  # not among llama_cpp's constants
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q4_0": lib.GGML_TYPE_Q4_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "iq4_nl": lib.GGML_TYPE_IQ4_NL,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
}
SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}  # the last is not among llama_cpp's constants
ON_PROCESSOR = PlacementParams()
_ABORTED = 2  # what llama_decode answers when it was told to end
_NOWHERE = (1 << 31) - 2  # a position that no token has
_POOLINGS = {
    "mean": lib.LLAMA_POOLING_TYPE_MEAN,
    "cls": lib.LLAMA_POOLING_TYPE_CLS,
    "last": lib.LLAMA_POOLING_TYPE_LAST,
}
_INTS = ctypes.POINTER(ctypes.c_int32)
_BYTES = ctypes.POINTER(ctypes.c_uint8)


class Model(Vocabulary):
    """A model file in memory, and its vocabulary; freed with its last reference. Thread-safe but for loading."""

    _model = None

    def __init__(
        self,
        path: Path,
        name: str,
        more_paths: Sequence[Path] = (),
        *,
        extra_buffers: bool = True,
        placement: PlacementParams = ON_PROCESSOR,
    ) -> None:
        """Load a model. Raises ModelError. more_paths: the other parts of a split model, in order. llama.cpp opens no
        other file.

        extra_buffers: llama.cpp may keep weights in another form that is faster on this processor. placement: where it
        is computed; of a build that cannot offload the default one.
        """
        params = lib.llama_model_default_params()
        no_devices = ctypes.c_void_p(None)  # the end of an empty list
        tensor_split = (ctypes.c_float * lib.llama_max_devices())(*placement.tensor_split)
        set_fields(
            params,
            devices=None if placement.n_gpu_layers else ctypes.addressof(no_devices),
            n_gpu_layers=placement.n_gpu_layers,
            split_mode=SPLIT_MODES[placement.split_mode],
            main_gpu=placement.main_gpu,
            tensor_split=tensor_split if placement.tensor_split else None,
            use_extra_bufts=extra_buffers,
        )
        complaint()  # forget earlier errors, which are not about this file
        if more_paths:
            paths = (ctypes.c_char_p * (1 + len(more_paths)))(*map(os.fsencode, (path, *more_paths)))
            self._model = lib.llama_model_load_from_splits(paths, len(paths), params)
        else:
            self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ModelError(f"Cannot load the model {name}: {complaint() or 'not a model file'}")
        vocab = lib.llama_model_get_vocab(self._model)
        if lib.llama_model_has_encoder(self._model) or not lib.llama_model_has_decoder(self._model):
            raise ModelError(f"Cannot load the model {name}: it is no decoder-only language model")
        if lib.llama_vocab_type(vocab) == lib.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError(f"Cannot load the model {name}: it has no vocabulary")
        super().__init__(vocab)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self.n_params: int = lib.llama_model_n_params(self._model)
        self.n_layers: int = lib.llama_model_n_layer(self._model)
        self.n_embd: int = lib.llama_model_n_embd(self._model)
        self.n_embd_out: int = lib.llama_model_n_embd_out(self._model)
        self.size_bytes: int = lib.llama_model_size(self._model)
        file_type = lib.llama_ftype_name(lib.llama_model_ftype(self._model))
        self.file_type: str = (file_type or b"unknown").decode()
        template = lib.llama_model_chat_template(self._model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, buffer, len(buffer))
        self.description: str = buffer.value.decode("utf-8", "replace")

    def __del__(self) -> None:
        if self._model:
            lib.llama_model_free(self._model)


class Context:
    """KV memory of separate streams, and the batch. One thread may use it, but any thread may call abort()."""

    def __init__(self, model: Model, p: ContextParams, name: str) -> None:
        params = lib.llama_context_default_params()
        if p.pooling:
            set_fields(params, embeddings=True, pooling_type=_POOLINGS[p.pooling])
        set_fields(
            params,
            n_ctx=p.n_cells if p.pooling else p.n_streams * p.n_cells,
            n_batch=p.n_rows,
            n_ubatch=p.n_rows,
            n_seq_max=p.n_streams,
            n_outputs_max=p.max_outputs,
            n_threads=p.n_threads,
            n_threads_batch=p.n_threads,
            flash_attn_type=1 if p.flash_attn else 0,
            type_k=KV_TYPES[p.type_k],
            type_v=KV_TYPES[p.type_v],
            kv_unified=bool(p.pooling),
            offload_kqv=p.offload_kv,
            op_offload=False,  # large decodes alone would take other kernels
            no_perf=True,
            **_rope(p.rope),
        )
        self._row_attention = RowAttention(mul_mat()) if p.n_verified and can_change(tensor_bytes()) else None
        self._ctx = _made(model._model, params, name, self._row_attention)
        if self._row_attention is not None and not self._row_attention.find(_address(self._ctx)):
            lib.llama_free(self._ctx)
            self._row_attention = None
            self._ctx = _made(model._model, params, name, None)
        self.params = p
        self._is_async = p.is_offloaded
        self._memory = lib.llama_get_memory(self._ctx)
        self.can_shift: bool = bool(self._memory) and lib.llama_memory_can_shift(self._memory)
        # Cells behind a sliding window count as free, but are needed when a chat is rolled back. With them the search
        # for a place must not begin anew.
        self.closes_gaps = self.can_shift and not lib.llama_model_n_swa(model._model)
        self.has_gaps = False
        """May a token lie in another cell than that of its position? Not counting context shifts."""
        self._row_of_logits = ctypes.c_float * model.n_vocab
        self._row_of_embedding = ctypes.c_float * model.n_embd_out
        self._outputs: frozenset[int] = frozenset()
        self._pieces: dict[int, Logits] = {}  # by row, where a decode was cut into several of llama.cpp's
        # The batch: arrays that llama.cpp reads, seq_id pointers aimed once at one array.
        n = p.n_rows
        self._token, self._pos = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self._n_seq, self._seq = np.ones(n, np.int32), np.zeros(n, np.int32)
        self._output = np.zeros(n, np.int8)
        self._seq_ptr = (self._seq.ctypes.data + 4 * np.arange(n)).astype(np.uintp)
        self._batch = lib.llama_batch(
            token=ctypes.cast(self._token.ctypes.data, _INTS),
            pos=ctypes.cast(self._pos.ctypes.data, _INTS),
            n_seq_id=ctypes.cast(self._n_seq.ctypes.data, _INTS),
            seq_id=ctypes.cast(self._seq_ptr.ctypes.data, ctypes.POINTER(_INTS)),
            logits=ctypes.cast(self._output.ctypes.data, ctypes.POINTER(ctypes.c_int8)),
        )
        # Aborting needs no Python: llama.cpp calls strlen() on two bytes, the flag and a terminator.
        self._flag = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)
        lib.llama_set_abort_callback(self._ctx, strlen, ctypes.cast(self._flag, ctypes.c_void_p))

    def close(self) -> None:
        if self._ctx:
            lib.llama_free(self._ctx)
            self._ctx = None

    def set_threads(self, n: int) -> None:
        """The number of threads of the following decodes."""
        lib.llama_set_n_threads(self._ctx, n, n)

    def abort(self) -> None:
        """From any thread: make the running decode end soon, with DecodeAborted."""
        self._flag[0] = b"\1"

    def rearm(self) -> None:
        """Forget an abort that came too late or was obeyed."""
        self._flag[0] = b"\0"

    def decode(
        self,
        streams: Sequence[int],
        positions: Sequence[int],
        tokens: Sequence[int] | NDArray[np.int32],
        outputs: Sequence[int],
    ) -> None:
        """Decode one row per token; `outputs`: rows whose logits are wanted. DecodeAborted, EngineFault."""
        n = len(tokens)
        if not 0 < n <= self.params.n_rows or len(outputs) > self.params.max_outputs:
            raise EngineFault(f"a batch of {n} rows, {len(outputs)} with logits, in {self.params}")
        self._outputs = frozenset()
        self._pieces = {}
        most = self.params.most_at_once or n
        if n <= most:
            self._decode(streams, positions, tokens, outputs)
        else:
            for start in range(0, n, most):
                part = slice(start, min(start + most, n))
                wanted = [row - start for row in outputs if part.start <= row < part.stop]
                self._decode(streams[part], positions[part], tokens[part], wanted)
                self._pieces |= {start + row: self._logits(row).copy() for row in wanted}
        self._outputs = frozenset(outputs)

    def decode_verified(self, stream: int, first: int, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Decode consecutive tokens of a stream, the first at position `first`, all with logits, with the attention
        that each would have alone. DecodeAborted, EngineFault.
        """
        n = len(tokens)
        if not 1 < n <= self.params.n_verified:
            raise EngineFault(f"{n} tokens to verify, in {self.params}")
        rows = range(n)
        if self._row_attention is None:
            self.decode([stream] * n, range(first, first + n), tokens, rows)
            return
        with self._row_attention:
            self.decode([stream] * n, range(first, first + n), tokens, rows)
        if self._row_attention.n_changed < self._row_attention.n_usual:
            raise EngineFault("tokens were decoded at once without the attention of single ones")

    def _decode(
        self,
        streams: Sequence[int],
        positions: Sequence[int],
        tokens: Sequence[int] | NDArray[np.int32],
        outputs: Sequence[int],
    ) -> None:
        n = len(tokens)
        self._token[:n], self._pos[:n], self._seq[:n] = tokens, positions, streams
        self._output[:n] = 0
        for row in outputs:
            self._output[row] = 1
        self._batch.n_tokens = n
        llama_log.hold()
        status = lib.llama_decode(self._ctx, self._batch)
        if self._is_async:
            lib.llama_synchronize(self._ctx)  # a device goes on when llama_decode has returned, and decodes are timed
        llama_log.release(was_wanted=status == _ABORTED)
        if status != 0:
            self._close_gaps(streams)
        if status == _ABORTED:
            raise DecodeAborted
        if status != 0:
            raise EngineFault(f"llama_decode answered {status} {complaint()}")

    def _close_gaps(self, streams: Sequence[int]) -> None:
        """After a decode that failed: let the next one put each stream's tokens behind those that it has.

        llama.cpp takes streams with gaps between them in turn. When an earlier one fails, it notes for a later one the
        place of another stream to go on at, and nothing but a shift makes it look from the stream's beginning again.
        """
        if not self.closes_gaps:
            self.has_gaps |= len(set(streams)) > 1
            return
        for stream in set(streams):
            lib.llama_memory_seq_add(self._memory, stream, _NOWHERE, _NOWHERE + 1, 1)

    def embed(
        self, streams: Sequence[int], positions: Sequence[int], tokens: Sequence[int] | NDArray[np.int32]
    ) -> None:
        """Decode rows in a context for embeddings. DecodeAborted, EngineFault."""
        if not 0 < len(tokens) <= self.params.n_rows or not self.params.pooling:
            raise EngineFault(f"a batch of {len(tokens)} rows for embeddings, in {self.params}")
        self._decode(streams, positions, tokens, range(len(tokens)))

    def embedding(self, stream: int) -> Logits:
        """A copy of the vector of a stream of the last decode."""
        self._check(stream)
        address = address_of(lib.llama_get_embeddings_seq(self._ctx, stream))
        return np.frombuffer(memoryview(self._row_of_embedding.from_address(address)), np.float32).copy()

    def forget(self, stream: int) -> None:
        """Free the cells of a stream, where there are any."""
        self._check(stream)
        if self._memory:
            lib.llama_memory_seq_rm(self._memory, stream, -1, -1)

    def logits(self, row: int) -> Logits:
        """A view of the logits of a row of the last decode. The next decode overwrites it."""
        if row not in self._outputs:
            raise EngineFault(f"row {row} has no logits")
        return self._pieces[row] if self._pieces else self._logits(row)

    def all_logits(self) -> Logits:
        """The logits of the rows of the last decode that have some, in order; a view as of `logits`, or a copy."""
        if self._pieces or not self._outputs:
            return np.stack([self._pieces[row] for row in sorted(self._pieces)])
        rows = self._row_of_logits * len(self._outputs)  # llama.cpp has them one behind the other
        address = address_of(lib.llama_get_logits_ith(self._ctx, min(self._outputs)))
        found = np.frombuffer(memoryview(rows.from_address(address)), np.float32)
        return found.reshape(len(self._outputs), -1)

    def _logits(self, row: int) -> Logits:
        address = address_of(lib.llama_get_logits_ith(self._ctx, row))
        return np.frombuffer(memoryview(self._row_of_logits.from_address(address)), np.float32)

    def remove(self, stream: int, start: int, stop: int = -1) -> bool:
        """Remove positions start…stop of a stream. False when this kind of memory cannot."""
        self._check(stream)
        return bool(lib.llama_memory_seq_rm(self._memory, stream, start, stop))

    def clear(self, stream: int) -> None:
        self._check(stream)
        lib.llama_memory_seq_rm(self._memory, stream, -1, -1)

    def move(self, stream: int, start: int, stop: int, delta: int) -> None:
        """Add `delta` to the positions start…stop of a stream (llama.cpp's K-shift)."""
        self._check(stream)
        lib.llama_memory_seq_add(self._memory, stream, start, stop, delta)

    @property
    def memory_address(self) -> int:
        """The address of llama.cpp's memory object, for `kv/in_place.py`."""
        return int(self._memory or 0)

    def state(self, stream: int) -> Bytes:
        """The state blob of a stream, in memory of its own."""
        return self.read_state(stream, np.empty(self.state_bytes(stream), np.uint8))

    def read_state(self, stream: int, blob: Bytes) -> Bytes:
        """The state blob of a stream in memory that is large enough for it."""
        data = ctypes.cast(blob.ctypes.data, _BYTES)
        return blob[: int(lib.llama_state_seq_get_data(self._ctx, data, len(blob), stream))]

    def state_bytes(self, stream: int) -> int:
        """How large the state blob of a stream is."""
        self._check(stream)
        return int(lib.llama_state_seq_get_size(self._ctx, stream))

    def set_state(self, stream: int, blob: Bytes) -> bool:
        """Replace a stream by a state blob. False, and the stream is empty, when llama.cpp rejects it."""
        self._check(stream)
        blob = np.ascontiguousarray(blob)
        data = ctypes.cast(blob.ctypes.data, _BYTES)
        if lib.llama_state_seq_set_data(self._ctx, data, len(blob), stream) == len(blob):
            return True
        self.clear(stream)
        return False

    def _check(self, stream: int) -> None:
        if not 0 <= stream < self.params.n_streams:
            raise EngineFault(f"stream {stream} of {self.params.n_streams}")


def _made(model: object, params: Any, name: str, row_attention: RowAttention | None) -> Any:
    """A context with these parameters. Raises ModelError."""
    callback, user_data = (row_attention.address, row_attention.user_data) if row_attention is not None else (0, 0)
    set_fields(params, cb_eval=lib.ggml_backend_sched_eval_callback(callback), cb_eval_user_data=user_data)
    complaint()
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise ModelError(f"Cannot make a context for the model {name}: {complaint() or 'no memory'}")
    return context


def _address(pointer: Any) -> int:
    return int(ctypes.cast(pointer, ctypes.c_void_p).value or 0)


def _rope(rope: RopeParams) -> dict[str, object]:
    fields: dict[str, object] = {
        name if name.startswith("yarn") else f"rope_{name}": value for name, value in asdict(rope).items()
    }
    scaling = fields.pop("rope_scaling")
    fields["rope_scaling_type"] = -1 if scaling is None else ("none", "linear", "yarn").index(str(scaling))
    return fields
