"""What llama-quantize made at other times: files of then are recognised by it.

In spring 2026, between llama.cpp's pull requests 19770 and 22572 (issue 22544), an override whose
type is the file type's default did not count as a match, so that a later pattern or the file
type's mix decided.
"""

from __future__ import annotations

from dataclasses import replace

from secateur.formats.ggml.types import ggml_type
from secateur.recipes.llama_mixes import FILE_TYPES, file_type
from secateur.recipes.llama_types import TypeRequest


def as_in_spring_2026(request: TypeRequest) -> TypeRequest:
    """The request as llama-quantize of spring 2026 read it: without the overrides it ignored."""
    default = FILE_TYPES[file_type(request.ftype)].default
    return replace(
        request,
        patterns=tuple(
            (pattern, kind) for pattern, kind in request.patterns if ggml_type(kind).name != default
        ),
        named={
            name: (kind, reason)
            for name, (kind, reason) in request.named.items()
            if ggml_type(kind).name != default
        },
    )
