"""GGUF files and importance matrices: counts, lengths and offsets that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from attack import Attack, Goods, instead, sparse, write

FILE = "{room}/model.gguf"
AUDIT = f"audit {FILE}"
SHOW = "imatrix show {room}/imatrix"


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(
    *pairs: bytes, tensors: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None
) -> bytes:
    """A header; `counts` are those that it claims."""
    number = counts or (len(tensors), len(pairs))
    return b"GGUF" + struct.pack("<IQQ", 3, *number) + b"".join(pairs) + b"".join(tensors)


def pair(key: str | bytes, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def array(key: str, kind: int, count: int) -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, count)


def tensor(name: str | bytes, shape: tuple[int, ...], offset: int = 0, kind: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


NAMED = pair("general.architecture", "gemma4")


def _file(content: bytes, size: int = 0) -> Callable[[Goods, Path], object]:
    def make(goods: Goods, room: Path) -> None:
        sparse(room / "model.gguf", max(size, len(content)), content)

    return make


def _dat(*parts: bytes) -> Callable[[Goods, Path], object]:
    return write("imatrix", b"".join(parts))


ATTACKS = (
    Attack(
        "a count of 2**63 keys", _file(gguf(counts=(0, 1 << 63))), AUDIT, ("model.gguf", "keys")
    ),
    Attack(
        "a count of 2**63 tensors",
        _file(gguf(counts=(1 << 63, 0))),
        AUDIT,
        ("model.gguf", "tensors"),
    ),
    Attack(
        "as many keys as a sparse terabyte could hold",
        _file(gguf(counts=(0, 1 << 32)), 1 << 40),
        AUDIT,
        ("model.gguf",),
    ),
    Attack(
        "as many tensors as a sparse terabyte could hold",
        _file(gguf(counts=(1 << 33, 0)), 1 << 40),
        AUDIT,
        ("model.gguf",),
    ),
    Attack(
        "an array of a sparse terabyte",
        _file(gguf(array("a", 0, 1 << 39)), 1 << 40),
        AUDIT,
        ("model.gguf",),
    ),
    Attack(
        "an array of numbers in three gigabytes",
        _file(gguf(array("a", 0, 3 << 30)), (3 << 30) + 100),
        AUDIT,
        ("model.gguf",),
    ),
    Attack(
        "an array of empty strings in three gigabytes",
        _file(gguf(array("a", 8, 380_000_000)), 3 << 30),
        AUDIT,
        ("model.gguf",),
    ),
    Attack(
        "an array of arrays", _file(gguf(array("a", 9, 4) + bytes(64))), AUDIT, ("unknown kind 9",)
    ),
    Attack(
        "a string of 2**63 bytes",
        _file(gguf(struct.pack("<Q", 1 << 63) + bytes(64))),
        AUDIT,
        ("model.gguf",),
    ),
    Attack(
        "a string of a sparse terabyte",
        _file(gguf(text("a") + struct.pack("<IQ", 8, 1 << 39)), 1 << 40),
        AUDIT,
        ("model.gguf",),
    ),
    Attack("a key that is no UTF-8", _file(gguf(pair(b"\xff\xfe", "x"))), AUDIT, ("UTF-8",)),
    Attack(
        "a key with escape sequences",
        _file(gguf(pair("\x1b[2J\x1b]52;c;cm0=\x07", "x") * 2)),
        AUDIT,
        ("model.gguf",),
        never="\x1b",
    ),
    Attack("a key twice", _file(gguf(pair("a", "x"), pair("a", "x"))), AUDIT, ("occurs twice",)),
    Attack(
        "a kind that does not exist",
        _file(gguf(text("a") + struct.pack("<I", 99)), 99),
        AUDIT,
        ("unknown kind 99",),
    ),
    Attack(
        "dimensions of a GGUF that overflow",
        _file(gguf(NAMED, tensors=(tensor("a", (1 << 32, 1 << 32, 1 << 32, 1 << 32)),))),
        "measure " + FILE + " --against {model} --answers {corpus}",
        ("model.gguf",),
    ),
    Attack(
        "a dimension of zero",
        _file(gguf(NAMED, tensors=(tensor("a", (0,)),))),
        AUDIT,
        ("at least one element",),
    ),
    Attack(
        "five dimensions",
        _file(gguf(NAMED, tensors=(tensor("a", (1, 1, 1, 1, 1)),))),
        AUDIT,
        ("5 axes",),
    ),
    Attack(
        "four billion dimensions",
        _file(gguf(NAMED, tensors=(text("a") + struct.pack("<I", (1 << 32) - 1),)) + bytes(64)),
        AUDIT,
        ("axes",),
    ),
    Attack(
        "tensors that overlap",
        _file(gguf(NAMED, tensors=(tensor("a", (8,)), tensor("b", (8,)))) + bytes(128)),
        AUDIT,
        ("overlap",),
    ),
    Attack(
        "an offset outside of the file",
        _file(gguf(NAMED, tensors=(tensor("a", (8,), 1 << 62),)) + bytes(64)),
        AUDIT,
        ("'a'",),
    ),
    Attack(
        "a tensor of an unknown type",
        _file(gguf(NAMED, tensors=(tensor("a", (8,), 0, 77),))),
        AUDIT,
        ("unknown ggml type 77",),
    ),
    Attack(
        "a tensor twice",
        _file(gguf(NAMED, tensors=(tensor("a", (8,)), tensor("a", (8,), 32))) + bytes(64)),
        AUDIT,
        ("occurs twice",),
    ),
    Attack(
        "an alignment of zero",
        _file(
            gguf(text("general.alignment") + struct.pack("<II", 4, 0), tensors=(tensor("a", (8,)),))
        ),
        AUDIT,
        ("power of two",),
    ),
    Attack("a file that is a pipe", instead("model.gguf", "pipe"), AUDIT, ("model.gguf",)),
    Attack(
        "a file without an end", instead("model.gguf", "endless device"), AUDIT, ("model.gguf",)
    ),
    Attack(
        "a vocabulary of a sparse terabyte",
        _file(gguf(array("tokenizer.ggml.tokens", 8, 1 << 36)), 1 << 40),
        "plan {model}/config.json --experts 8 --types Q8_0 --tokenizer " + FILE + " -o {out}",
        ("model.gguf",),
    ),
    Attack(
        "an imatrix of two billion entries",
        _dat(struct.pack("<i", (1 << 31) - 1)),
        SHOW,
        ("imatrix",),
    ),
    Attack("an imatrix of minus one entries", _dat(struct.pack("<i", -1)), SHOW, ("-1 entries",)),
    Attack(
        "an imatrix with a name of two gigabytes",
        _dat(struct.pack("<ii", 1, (1 << 31) - 1)),
        SHOW,
        ("imatrix",),
    ),
    Attack(
        "an imatrix with two billion values",
        _dat(struct.pack("<ii", 1, 1), b"a", struct.pack("<ii", 1, (1 << 31) - 1)),
        SHOW,
        ("imatrix",),
    ),
    Attack(
        "an imatrix of NaN",
        _dat(struct.pack("<ii", 1, 1), b"a", struct.pack("<iif", 1, 1, float("nan"))),
        SHOW,
        ("imatrix",),
    ),
    Attack("an imatrix that is a pipe", instead("imatrix", "pipe"), SHOW, ("imatrix",)),
    Attack(
        "an imatrix without an end",
        instead("imatrix", "endless device"),
        SHOW,
        ("imatrix", "a device"),
    ),
)
