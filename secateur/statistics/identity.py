"""What tells statistics apart: a hash of all that they hold, wherever their file lies."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from secateur.statistics.statistics import Statistics


def statistics_sha256(statistics: Statistics) -> str:
    """sha256 (hex) over the header and every array, by name, type, shape and bytes.

    Reads every array once. Peak memory: none, but for an array that is not in C order.
    """
    digest = hashlib.sha256(json.dumps(statistics.header(), sort_keys=True).encode())
    for name in sorted(statistics.arrays):
        array = np.ascontiguousarray(statistics.arrays[name])
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
