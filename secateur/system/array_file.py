"""Arrays with a header of strings in one safetensors file: read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from secateur.errors import InputError


def read_arrays(
    path: Path, form: str, names: tuple[str, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `atomic.write_safetensors` wrote; the header's `provenance` parsed.

    Raises InputError when the file cannot be read, is of another format or lacks an array.
    """
    try:
        with safe_open(path, "np") as file:
            head: dict[str, Any] = dict(file.metadata() or {})
            if head.get("format") != form or set(file.keys()) != set(names):
                raise InputError(
                    f"{path} holds {head.get('format', 'no format')!r}, expected {form!r}: "
                    "it is no file of this kind, or of another version; make it again"
                )
            arrays = {name: file.get_tensor(name) for name in names}
            head["provenance"] = json.loads(head["provenance"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {path}: {error}: make it again") from None
    return arrays, head
