"""Arrays with a header of strings in one safetensors file: written whole, read strictly."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from secateur.errors import InputError, WriteError


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], head: Mapping[str, str]) -> None:
    """Arrays and a header of strings as safetensors, complete or absent. Raises WriteError."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, aside, dict(head))
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WriteError(f"cannot write {path}: {reason}") from None
    finally:
        aside.unlink(missing_ok=True)


def read_arrays(
    path: Path, form: str, names: tuple[str, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `write_arrays` wrote; the header's `provenance` parsed.

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
