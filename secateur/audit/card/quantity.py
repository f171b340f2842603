"""Numbers as people write them: how exact they claim to be, and in which unit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from secateur.system.sizes import BINARY, DECIMAL

_UNITS = "TiB|GiB|MiB|KiB|TB|GB|MB|KB|bpw|pp|pts|B|M|K|%"
_NUMBER = re.compile(
    r"(?<![\w.,/#:-])(?P<about>[~≈]\s?)?(?P<sign>[-+])?(?P<digits>\d{1,3}(?:,\d{3})+|\d+)"
    r"(?P<part>\.\d+)?(?:\s?(?P<unit>" + _UNITS + r")(?![\w])|(?=[\s|,;:)(*/x±]|\.\s|\.?$|-bit))",
)

_COUNTS = {"K": 1e3, "M": 1e6, "B": 1e9}

ABOUT = 0.02
"""What "about" allows, as a share, where the digits allow less."""


@dataclass(frozen=True)
class Quantity:
    """A written number: its value, half a unit of its last digit, its unit and its words."""

    value: float
    half: float
    unit: str
    said: str
    start: int
    end: int
    signed: bool = False

    @property
    def is_size(self) -> bool:
        return self.unit in DECIMAL or self.unit in BINARY

    @property
    def count(self) -> float:
        """The value of a count, B being thousand millions."""
        return self.value * _COUNTS.get(self.unit, 1)

    @property
    def count_half(self) -> float:
        return self.half * _COUNTS.get(self.unit, 1)

    def fits(self, low: float, high: float, slack: float = 0.0) -> bool:
        """Whether a number between `low` and `high` (in this unit) may be written so."""
        return low - self.half - slack <= self.value <= high + self.half + slack


def quantities(text: str) -> list[Quantity]:
    """Every number of a text that stands alone, in order."""
    found = []
    for match in _NUMBER.finditer(text):
        digits = match["digits"].replace(",", "")
        part = match["part"] or ""
        value = float(digits + part)
        half = 0.5 * 10 ** -(len(part) - 1) if part else 0.5
        if match["about"]:
            # "~70%" is a round number; "~10 GB" is one of two digits.
            round_share = not part and match["unit"] == "%"
            zeros = len(digits) - len(digits.rstrip("0")) if round_share else 0
            half = max(half * 10**zeros, ABOUT * value)
        sign = -1 if match["sign"] == "-" else 1
        found.append(
            Quantity(
                sign * value,
                half,
                match["unit"] or "",
                match[0].strip(),
                match.start(),
                match.end(),
                bool(match["sign"]),
            )  # fmt: skip
        )
    return found


def bytes_in(unit: str) -> float:
    """Bytes of one unit of size."""
    return DECIMAL.get(unit) or BINARY[unit]


def other_unit(unit: str) -> str:
    """GiB for GB, and so on."""
    return unit.replace("i", "") if unit in BINARY else f"{unit[0]}iB"
