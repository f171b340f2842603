"""Good files made bad, by choices that a fuzzer makes: bytes, or values inside of JSON."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    1 << 31,
    1 << 63,
    -(1 << 63),
    1e308,
    -0.5,
    float("nan"),
    float("inf"),
    "",
    "a",
    "a\0b",
    "../../x",
    "/etc/passwd",
    "\x1b[2J",
    "</script>",
    "\u202e",
    "9" * 30,
    "a" * 300,
    [],
    {},
    [[]],
    [None],
    {"a": None},
    [1] * 50,
    [-1],
    ["a"],
    [["a", 1]],
    {"0": [0]},
    {"": {}},
    "\ud800",
)
"""What somebody may write where something else was meant."""

TOKENS: tuple[bytes, ...] = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"\n",
    b"\r\n",
    b"[",
    b"{",
    b"]",
    b"}",
    b":",
    b",",
    b'"',
    b"'",
    b"\\",
    b"&a ",
    b"*a",
    b"!!",
    b"- ",
    b"#",
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"|",
    b"(",
    b")",
    b"1e999",
    b"99999999999999999999",
    b"-1",
    b"0x",
    b"null",
    b"true",
    b"NaN",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\t",
    b"<<",
    b"---\n",
    b'"""',
    b"1:2:3",
    b"~",
)
"""What readers look for."""


class Choices:
    """Numbers out of a fuzzer's bytes, zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        width = 1 if count <= 256 else 2 if count <= 65536 else 4
        piece = self._data[self._at : self._at + width]
        self._at += width
        return int.from_bytes(piece, "little") % max(count, 1)

    def bytes(self, most: int) -> bytes:
        """Some bytes as they are."""
        count = self.below(most + 1)
        self._at += count
        return self._data[self._at - count : self._at]


def mutate_bytes(good: bytes, choices: Choices) -> bytes:
    """Bytes of a file cut, doubled, overwritten, or with something put in between."""
    content = bytearray(good)
    for _ in range(1 + choices.below(4)):
        at = choices.below(len(content) + 1)
        end = min(len(content), at + choices.below(64))
        what = choices.below(6)
        if what == 0:
            del content[at:end]
        elif what == 1:
            content[at:at] = content[at:end]
        elif what == 2:
            content[at:end] = choices.bytes(16)
        elif what == 3:
            content[at:at] = TOKENS[choices.below(len(TOKENS))]
        elif what == 4:
            del content[at:]
        else:
            piece = TOKENS[choices.below(len(TOKENS))]
            content[at : at + len(piece)] = piece
    return bytes(content)


def mutate_json(good: Any, choices: Choices) -> Any:
    """JSON with some values in the place of others, keys gone, doubled or new."""
    whole = [copy.deepcopy(good)]
    for _ in range(1 + choices.below(3)):
        holder: Any = whole
        key: Any = 0
        for _ in range(choices.below(9)):
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner:
                break
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            holder, key = inner, keys[choices.below(len(keys))]
        what = choices.below(4)
        if what == 0 and holder is not whole:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[str(ODD[choices.below(len(ODD))])] = holder[key]
        elif what == 2 and isinstance(holder, list) and holder is not whole:
            holder.append(holder[key])
        else:
            holder[key] = copy.deepcopy(ODD[choices.below(len(ODD))])
    return whole[0]


def mutate_document(good: bytes, choices: Choices) -> bytes:
    """A JSON file with other values in it, and now and then other bytes."""
    text = json.dumps(mutate_json(json.loads(good), choices)).encode("utf-8", "surrogatepass")
    return mutate_bytes(text, choices) if choices.below(8) == 7 else text


def _mutate_hashed(found: Any, choices: Choices) -> str:
    """A document with other values and, mostly, the hash that goes with them."""
    if "document" not in found or not choices.below(8):
        return json.dumps(mutate_json(found, choices))
    document = mutate_json(found["document"], choices)
    text = json.dumps(document, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return json.dumps({"document": document, "sha256": digest})


def mutate_header(good: bytes, choices: Choices) -> bytes:
    """A safetensors file with another header, whose metadata may be JSON, too; data as they are."""
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    metadata = header.get("__metadata__", {})
    nested = [key for key, value in metadata.items() if value.startswith("{")]
    if nested and choices.below(4):
        metadata[nested[0]] = _mutate_hashed(json.loads(metadata[nested[0]]), choices)
    else:
        header = mutate_json(header, choices)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if choices.below(8) == 7:
        return mutate_bytes(len(text).to_bytes(8, "little") + text + data, choices)
    return len(text).to_bytes(8, "little") + text + data
