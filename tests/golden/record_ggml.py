"""Record ggml_encode.json: what a native ggml build makes of a fixed matrix, type by type.

Run by hand after a change of the pinned llama.cpp:
PYTHONPATH=.:tests python tests/golden/record_ggml.py BUILD/bin/libggml-base.so VERSION
"""

import ctypes
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from test_ggml import matrix

from secateur.formats.ggml.codec import ENCODABLE, FLOATS
from secateur.formats.ggml.encoders import NEED_IMPORTANCE
from secateur.formats.ggml.types import TYPES


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    library.ggml_quantize_chunk.argtypes = (
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    )
    rows, importance = matrix()
    digests = {}
    for name in ENCODABLE:
        if name in FLOATS - {"F16", "BF16"}:
            continue
        kind = TYPES[name]
        for label, weights in (("plain", None), ("importance", importance)):
            if weights is None and name in NEED_IMPORTANCE:
                continue
            out = np.empty((6, 1024 // kind.block * kind.nbytes), dtype=np.uint8)
            library.ggml_quantize_chunk(
                kind.id,
                rows.ctypes.data,
                out.ctypes.data,
                0,
                6,
                1024,
                None if weights is None else weights.ctypes.data,
            )
            digests[f"{name} {label}"] = hashlib.sha256(out.tobytes()).hexdigest()
    target = Path(__file__).with_name("ggml_encode.json")
    target.write_text(json.dumps({"engine": sys.argv[2], "sha256": digests}, indent=1) + "\n")


if __name__ == "__main__":
    main()
