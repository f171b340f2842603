"""llama-quantize's --tensor-type-file: which type the tensors get whose names a pattern meets.

    blk.0.attn_q=q6_k blk.0.ffn_down_exps=q4_k
    ^blk\\.(1|2)\\.attn_q\\.weight$=q5_k

Words between spaces or line ends, each NAME=TYPE, split at the first `=`. NAME is a regular
expression (ECMAScript) that llama-quantize lower-cases and searches anywhere in a tensor's name,
so only `^` and `$` bind it; the first that meets a tensor decides. TYPE is a ggml type in any
case. There are no comments. Restates tools/quantize/quantize.cpp of llama.cpp (0c1e57098).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import FormatError
from secateur.formats.ggml.types import INTERNAL_TYPES, TYPES
from secateur.formats.gguf.tensors import file_order
from secateur.system.text_files import LARGEST_SETTINGS, decode, read_bytes

_SPACE = " \t\n\v\f\r"
"""What separates words for C++ streams."""

_UNSTORABLE = INTERNAL_TYPES | {"I8", "I16", "I32", "I64", "F64"}
"""Types that llama-quantize can name, and then fails to make."""


@dataclass(frozen=True, slots=True)
class TypeRule:
    """One word of the file: a lower-cased pattern, the type's name, and the line it stands on."""

    pattern: str
    type: str
    line: int


def read_tensor_types(path: Path) -> tuple[TypeRule, ...]:
    """The rules of a file, in order.

    Raises FormatError, naming the line, for what llama-quantize rejects.
    """
    expected = "NAME=TYPE words"
    content = read_bytes(path, expected, FormatError, LARGEST_SETTINGS)
    text = decode(content, path, expected, FormatError)
    if text.startswith("\ufeff"):
        raise FormatError(
            f"{path} begins with a byte order mark, which llama-quantize takes for a part of the "
            "first name: save it as UTF-8 without one"
        )
    return tuple(
        _rule(word, f"{path}, line {number}", number)
        for number, line in enumerate(text.split("\n"), start=1)
        for word in re.split(f"[{_SPACE}]+", line)
        if word
    )


def _rule(word: str, where: str, line: int) -> TypeRule:
    name, equals, kind = word.partition("=")
    if word.startswith("#") or not equals:
        comment = ": it knows no comments, remove it" if word.startswith(("#", "//", ";")) else ""
        raise FormatError(
            f"{where}: llama-quantize stops at {word!r:.60} (malformed tensor type), expected "
            f"NAME=TYPE without spaces{comment}"
        )
    if not name or not kind:
        raise FormatError(f"{where}: {word!r:.60} lacks its {'type' if name else 'tensor name'}")
    upper = kind.upper()
    if upper not in TYPES or upper in _UNSTORABLE:
        raise FormatError(f"{where}: {kind!r:.60} is no ggml type for weights{_hint(upper)}")
    return TypeRule(name.lower(), upper, line)


def _hint(kind: str) -> str:
    """What may have been meant: file types like Q4_K_M are no types of single tensors."""
    shorter = kind.rpartition("_")[0]
    meant = {"IQ3_M": "IQ3_S", "IQ2_M": "IQ2_S", "IQ3_XS": "IQ3_S"}.get(kind, shorter)
    if meant in TYPES:
        return f": it is a type of whole files, name one of tensors, such as {meant}"
    known = (name for name, row in TYPES.items() if row.quantized and name not in _UNSTORABLE)
    return f", known are: {', '.join(known)}, F16, BF16, F32"


def tensor_types_text(types: Mapping[str, str]) -> str:
    """A file that gives every tensor of {GGUF name: type} its type, and no other tensor one.

    Patterns are whole names, layers of one type and kind on one line.
    """
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for name in sorted(types, key=file_order):
        layer, part = _split(name)
        groups[part, types[name]] += [] if layer is None else [layer]
    return "".join(
        f"{_pattern(part, layers)}={kind.lower()}\n" for (part, kind), layers in groups.items()
    )


def _split(name: str) -> tuple[int | None, str]:
    """(layer, rest) of `blk.12.attn_q.weight`, else (None, name)."""
    found = re.fullmatch(r"blk\.(0|[1-9]\d*)\.(.+)", name)
    return (int(found[1]), found[2]) if found else (None, name)


def _pattern(part: str, layers: list[int]) -> str:
    escaped = part.replace(".", r"\.")
    if not layers:
        return f"^{escaped}$"
    numbers = "|".join(map(str, layers))
    return rf"^blk\.{numbers if len(layers) == 1 else f'({numbers})'}\.{escaped}$"
