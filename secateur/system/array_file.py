"""Arrays with a header of strings in one safetensors file: read strictly, and to the last bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from secateur.errors import InputError
from secateur.system import strict_json
from secateur.system.atomic import write_safetensors
from secateur.system.text_files import need_file

_SHA256 = "sha256"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], head: Mapping[str, str]) -> None:
    """Write arrays with a header, complete or as it was, with the hash of both.

    Raises WriteError.
    """
    write_safetensors(path, arrays, {**head, _SHA256: _hash(arrays, head)})


def read_arrays(
    path: Path, form: str, *names: tuple[str, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `write_arrays` wrote, of one of the sets of names (of any, where none is given); the
    header's `provenance` parsed.

    Raises InputError when the file cannot be read, is of another format, lacks an array or was
    changed.
    """
    arrays, head = _read(path)
    if head.get("format") != form or (names and set(arrays) not in map(set, names)):
        raise InputError(
            f"{path} holds {head.get('format', 'no format')!r}, expected {form!r}: "
            "it is no file of this kind, or of another version; make it again"
        )
    return arrays, _checked(path, arrays, head)


def check_arrays(path: Path) -> dict[str, Any]:
    """The `provenance` in a file that `write_arrays` wrote.

    Raises InputError when it cannot be read or was changed.
    """
    arrays, head = _read(path)
    provenance: dict[str, Any] = _checked(path, arrays, head)["provenance"]
    return provenance


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    try:
        need_file(path)
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(  # noqa: SIM118
                file.metadata() or {}
            )
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {path}: {error}: {_REMEDY}") from None
    except (TypeError, AttributeError):  # numpy has no such type: these are weights
        raise InputError(
            f"cannot read {path}: it holds numbers of a type that this file has not: {_REMEDY}"
        ) from None


def _checked(
    path: Path, arrays: Mapping[str, NDArray[Any]], head: Mapping[str, str]
) -> dict[str, Any]:
    """The header with its provenance parsed."""
    facts: dict[str, Any] = {key: value for key, value in head.items() if key != _SHA256}
    if head.get(_SHA256) != _hash(arrays, facts):
        raise InputError(f"{path} does not have the hash in its header, it was changed: {_REMEDY}")
    try:
        return {**facts, "provenance": strict_json.loads(facts["provenance"])}
    except (ValueError, KeyError):
        raise InputError(f"cannot read {path}: its header names no origin: {_REMEDY}") from None


_REMEDY = "make it again (`secateur cache clean --damaged` removes it)"


def _hash(arrays: Mapping[str, NDArray[Any]], head: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(head), sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
