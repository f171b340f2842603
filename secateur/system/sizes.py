"""Amounts of bytes: read as people write them, and written for people."""

from __future__ import annotations

import re

from secateur.errors import InputError

DECIMAL: dict[str, int] = {
    f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)
}
BINARY: dict[str, int] = {
    f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)
}
_UNITS = {
    "": 1,
    "B": 1,
    **DECIMAL,
    **{unit[0]: nbytes for unit, nbytes in DECIMAL.items()},
    **{unit.upper(): nbytes for unit, nbytes in BINARY.items()},
}


def read_size(text: str, error: type[InputError] = InputError) -> int:
    """Bytes of an amount such as 12GiB, 16GB, 5G (thousands, as in llama-gguf-split) or 4096.

    Raises `error` for anything else, and for less than one byte.
    """
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)", text.strip())
    unit = found[2].upper() if found else ""
    size = int(float(found[1]) * _UNITS[unit]) if found and unit in _UNITS else 0
    if size < 1:
        raise error(f"size {text!r}: expected an amount such as 12GiB, 16GB or 5G")
    return size


def show_bytes(number: float) -> str:
    """Bytes in decimal multiples: 9.68 MB."""
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return f"{number:.0f} B"


def show_amount(number: float, unit: str) -> str:
    """A number with its unit; bytes in decimal multiples."""
    return show_bytes(number) if unit == "bytes" else f"{number:,.0f} {unit}"


def show_count(number: int, one: str, many: str | None = None) -> str:
    """How many there are of something: 1 file, 2,400 files; `many` where that is not `one` + s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def show_in_both_units(nbytes: float) -> str:
    """Bytes in decimal and in binary multiples, for those who mix them up: 9.68 MB = 9.23 MiB."""
    if nbytes < 1e8:
        return f"{nbytes / 1e6:.2f} MB = {nbytes / 2**20:.2f} MiB"
    return f"{nbytes / 1e9:.2f} GB = {nbytes / 2**30:.2f} GiB"


def show_figure(value: float) -> str:
    """A measured number with three digits, large ones whole: `0.0867`, `1,690`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
