"""llama.cpp's logits of given tokens, in a process of its own: started by `host_process.py` as a
file.

It imports nothing of secateur. As `llama_host.py` it takes a line of JSON and says `ready ...` or
`failed REASON`; then for every further line, {"tokens": [...], "wanted": [positions]}, it writes
for each position float32 [V] and int32 [L * K], the experts chosen there, and lives until its
standard input is closed. llama.cpp's C functions are called through ctypes, so nothing has to be
built; a process of its own, because ggml aborts the whole process where Python would raise.

The C structs of parameters travel by value. Of the context's only a few members are set, at
offsets that hold for a library whose defaults `_check` knows; any other is refused.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STRUCT = 1024
"""Bytes of an opaque struct: larger than any of llama.cpp's parameters."""
_BATCH = 512
"""Tokens of one llama_decode."""

_OFFSETS = {"n_ctx": 0, "n_batch": 4, "n_ubatch": 8, "flash": 52, "callback": 88, "keys": 104}
"""Where the context's parameters hold tokens of context and of batches, whether flash attention is
used, the callback that sees tensors (and after it what it is given), the type of keys and, after
it, of values."""

_F32, _F16 = 0, 1
"""ggml's numbers of types."""
_NE, _NB = 16, 48
"""Where a ggml_tensor holds its four sizes and its four strides."""
_CHOSEN = b"ffn_moe_topk-"
"""How llama.cpp calls the tensor of the experts chosen in a layer."""


class _Opaque(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint8 * _STRUCT),)

    def write(self, offset: int, form: str, *values: Any) -> None:
        struct.pack_into(form, self.bytes, offset, *values)


class _Batch(ctypes.Structure):
    """`struct llama_batch`."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_SEES = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
_LOGS = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTERS = (
    "llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab",
    "llama_get_memory", "llama_get_logits_ith",
)  # fmt: skip


class Model:
    """A GGUF in llama.cpp, and what it chose in the batch that was run last."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._lib = lib = ctypes.CDLL(order["library"])
        for name in _POINTERS:
            getattr(lib, name).restype = ctypes.c_void_p
        for name in ("llama_model_default_params", "llama_context_default_params"):
            getattr(lib, name).restype = _Opaque
        lib.llama_batch_init.restype = _Batch
        lib.ggml_get_name.restype = ctypes.c_char_p
        self._log, self._sees = _LOGS(_write_error), _SEES(self._see)
        lib.llama_log_set(self._log, None)
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(
            order["model"].encode(), lib.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError("")
        self._shape = order["layers"], order["chosen"]
        self._context = self._open(order["context"], order["threads"])
        vocab = ctypes.c_void_p(lib.llama_model_get_vocab(ctypes.c_void_p(self._model)))
        self.vocab = int(lib.llama_vocab_n_tokens(vocab))
        self._batch = lib.llama_batch_init(_BATCH, 0, 1)
        self._chosen: dict[int, NDArray[np.int32]] = {}

    def _open(self, context: int, threads: int) -> ctypes.c_void_p:
        """A context as exact as it gets: no flash attention, keys and values in float32."""
        lib = self._lib
        params = lib.llama_context_default_params()
        _check(bytes(params.bytes))
        for name, value in (("n_ctx", context), ("n_batch", _BATCH), ("n_ubatch", _BATCH)):
            params.write(_OFFSETS[name], "<i", value)
        params.write(_OFFSETS["flash"], "<i", 0)
        params.write(_OFFSETS["keys"], "<ii", _F32, _F32)
        address = ctypes.cast(self._sees, ctypes.c_void_p).value
        params.write(_OFFSETS["callback"], "<Q", address)
        found = lib.llama_init_from_model(ctypes.c_void_p(self._model), params)
        if not found:
            raise RuntimeError("")
        opened = ctypes.c_void_p(found)
        lib.llama_set_n_threads(opened, threads, threads)
        return opened

    def run(self, tokens: list[int], wanted: list[int]) -> None:
        """Run a document, and write what is wanted of it to standard output."""
        memory = ctypes.c_void_p(self._lib.llama_get_memory(self._context))
        self._lib.llama_memory_clear(memory, True)
        for start in range(0, len(tokens), _BATCH):
            stop = min(len(tokens), start + _BATCH)
            here = [place - start for place in wanted if start <= place < stop]
            self._decode(tokens[start:stop], start, here)
            for row, place in enumerate(here):
                sys.stdout.buffer.write(self._logits(place))
                sys.stdout.buffer.write(self._experts(row, place, stop - start, len(here)))
        sys.stdout.buffer.flush()

    def _decode(self, tokens: list[int], start: int, wanted: list[int]) -> None:
        self._chosen.clear()
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, start + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = 0
        for place in wanted:
            batch.logits[place] = 1
        code = self._lib.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def _logits(self, place: int) -> bytes:
        found = self._lib.llama_get_logits_ith(self._context, place)
        return ctypes.string_at(found, 4 * self.vocab)

    def _experts(self, row: int, place: int, tokens: int, rows: int) -> bytes:
        """The experts of a token: the last layers are only run for tokens whose logits are asked
        for."""
        layers, chosen = self._shape
        if not layers:
            return b""
        found = [self._chosen[layer] for layer in sorted(self._chosen)]
        if len(found) != layers or any(table.shape[1] != chosen for table in found):
            raise RuntimeError(
                f"llama.cpp chose experts in {len(found)} layers, expected {chosen} in {layers}"
            )
        places = {tokens: place, rows: row} if tokens != rows else {tokens: place}
        return b"".join(table[places[len(table)]].tobytes() for table in found)

    def _see(self, tensor: int, ask: bool, _: Any) -> bool:
        """llama.cpp asks of every tensor whether it is wanted, and shows those that are."""
        name = self._lib.ggml_get_name(ctypes.c_void_p(tensor))
        if not self._shape[0] or not name.startswith(_CHOSEN):
            return not ask
        if not ask:
            sizes = struct.unpack("<4q", ctypes.string_at(tensor + _NE, 32))
            strides = struct.unpack("<4q", ctypes.string_at(tensor + _NB, 32))
            data = ctypes.create_string_buffer(strides[1] * (sizes[1] - 1) + 4 * sizes[0])
            self._lib.ggml_backend_tensor_get(
                ctypes.c_void_p(tensor), data, ctypes.c_size_t(0), ctypes.c_size_t(len(data))
            )
            table = np.ndarray((sizes[1], sizes[0]), np.int32, data.raw, 0, (strides[1], 4))
            self._chosen[int(name[len(_CHOSEN) :])] = table
        return True


def _check(defaults: bytes) -> None:
    """Refuse a library whose parameters may lie elsewhere."""
    same = (
        defaults[40:56] == struct.pack("<4i", -1, -1, -1, -1)  # scaling, pooling, attention, flash
        and defaults[64:80] == struct.pack("<4f", -1, -1, -1, -1)  # YaRN
        and struct.unpack_from("<QQii", defaults, 88) == (0, 0, _F16, _F16)
        and struct.unpack_from("<4i", defaults, 0)[:4] == (512, 2048, 512, 1)
    )
    if not same:
        raise RuntimeError("this llama.cpp has other context parameters than secateur knows")


def _write_error(level: int, text: bytes, _: Any) -> None:
    if level == 4:
        sys.stderr.write(f"0 E {text.decode('utf-8', 'replace')}")


def main() -> None:
    """Load what the first line orders, then answer every further one."""
    try:
        model = Model(json.loads(sys.stdin.readline()))
    except (RuntimeError, OSError, AttributeError) as error:
        print(f"failed {error}", flush=True)
        return
    print(f"ready {json.dumps({'vocab': model.vocab})}", flush=True)
    for line in sys.stdin:
        model.run(**json.loads(line))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:  # words on standard output would be taken for numbers
        sys.stderr.write(f"0 E {error}\n")
        sys.stderr.flush()
    os._exit(0)
