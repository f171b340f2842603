"""What a card is about: the shape it must agree with, and what it says of itself.

Some numbers are the card's own and decide how others are read: how many experts the model has
left, how much there is in addition to the text model, which layers it calls important.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.audit.card.card import Card, Row
from secateur.audit.card.quantity import Quantity, quantities
from secateur.audit.gguf.making import Made
from secateur.audit.gguf.shape import Shape
from secateur.formats.gguf.naming import label_of
from secateur.system.sizes import BINARY

_ROUTED = re.compile(
    r"^\W*(?:remaining |original |routed )?experts?\s?(?:per|/)\s?(?:moe )?layer", re.IGNORECASE
)
_EXPERTS = re.compile(
    r"(?<![\d.,])(\d{1,4})\s+(?:remaining |routed |retained )*experts\b"
    r"|num_experts\"?:?\s*(\d{1,4})"
    r"|\bexperts per (?:moe )?layer \|?\s*(\d{1,4})|(?<![a-z0-9])(\d{1,4})e(?![a-z0-9])",
    re.IGNORECASE,
)
_LAYERS = re.compile(r"\bL\d+(?:-\d+)?(?:,?\s*L\d+(?:-\d+)?)*")

MAX_EXTRA_SHARE = 0.06
"""What may come in addition to the text model, as a share of it, when the config does not say."""


@dataclass(frozen=True)
class Subject:
    """A card and the shape it is about.

    `experts` is the model's own count, `base` the one it was pruned from. `extra` bounds the
    parameters in addition to the text model. `columns` says how many experts the columns of a
    block mean,
    `anchors` are the sizes that it gives to the hundredth of a MiB when the file has types of its
    own. `file` is the file itself and
    `name` its name, when there is one. `memo` keeps what was computed.
    """

    card: Card
    shape: Shape
    experts: int
    base: int
    extra: tuple[float, float]
    columns: dict[int, tuple[int, ...]] = field(repr=False, default_factory=dict)
    importance: tuple[float, ...] | None = None
    important: frozenset[int] = frozenset()
    anchors: tuple[Quantity, ...] = ()
    file: Made | None = field(repr=False, default=None)
    name: str | None = None
    memo: dict[tuple[str, int], Any] = field(repr=False, compare=False, default_factory=dict)

    def parameters(self, experts: int, whole: bool = True) -> tuple[float, float]:
        """Bounds of the parameters; `whole`: with what comes in addition to the text model."""
        text = self.shape.parameters(experts)
        low, high = self.extra if whole else (0.0, 0.0)
        return text + low, text + high

    def counted(self, row: Row) -> list[tuple[Quantity, int]]:
        """A row's numbers with the experts that their columns mean; none if that is unknown."""
        columns = self.columns.get(row.block)
        values = [v for v in row.values if v is not None]
        if columns is None or len(values) < len(columns):
            return [(values[0], self.experts)] if len(values) == 1 else []
        return list(zip(values, columns, strict=False))


def subject_of(
    card: Card, shape: Shape, file: Made | None = None, name: str | None = None
) -> Subject:
    """Read what the card is about; a `file` has its experts itself."""
    columns = _columns(card)
    base = max([shape.experts, *(n for counts in columns.values() for n in counts)])
    own = shape.experts if file is not None else _own(card, base, shape.top_k)
    order = _important(card, shape.layers)
    importance = tuple(
        float(len(order) - order.index(layer)) if layer in order else 0.0
        for layer in range(shape.layers)
    )
    bare = Subject(
        card, shape, own, base, _bounds(shape), columns, importance if order else None,
        frozenset(order), _anchors(card),
    )  # fmt: skip
    low, high = bare.extra
    for claim, count in parameter_claims(bare):
        rest = claim.count - shape.parameters(count)
        near = rest - claim.count_half, rest + claim.count_half
        # A count that the text model alone explains says nothing of what comes in addition.
        if near[0] > 0 and near[0] <= high and near[1] >= low:
            low, high = max(low, near[0]), min(high, near[1])
    return replace(bare, extra=(low, high), file=file, name=name)


def parameter_claims(subject: Subject) -> list[tuple[Quantity, int]]:
    """Every count of all parameters in the rows, with the experts it is for."""
    claims = []
    for row in subject.card.all_rows:
        if is_total(row.label):
            claims += [(q, n) for q, n in subject.counted(row) if q.unit in ("B", "M")]
    return claims


def is_total(label: str) -> bool:
    """Whether a row counts all parameters."""
    return re.match(r"\W*total param", label, re.IGNORECASE) is not None


def _bounds(shape: Shape) -> tuple[float, float]:
    if shape.extra is not None:
        return float(shape.extra), float(shape.extra)
    return 0.0, MAX_EXTRA_SHARE * shape.parameters(shape.experts)


def _anchors(card: Card) -> tuple[Quantity, ...]:
    """Exact sizes of a file that is said to have types of its own, without a label of any type."""
    if not re.search(r"tensor[- ](?:type|specific)|per-tensor|--tensor", card.text, re.IGNORECASE):
        return ()
    return tuple(
        size
        for line in card.lines
        for size in sizes_in(line.text)
        if size.unit in BINARY and size.half <= 0.005 and label_of(line.text) is None
    )


def _columns(card: Card) -> dict[int, tuple[int, ...]]:
    columns: dict[int, tuple[int, ...]] = {}
    for row in card.all_rows:
        values = [v for v in row.values if v is not None and not v.signed and not v.unit]
        counts = tuple(int(v.value) for v in values)
        if _ROUTED.match(row.label) and len(counts) > 1 and "of" not in " ".join(row.cells):
            columns.setdefault(row.block, counts)
    return columns


def _own(card: Card, base: int, top_k: int) -> int:
    """The count that the card names most often, of those below the one it started from."""
    named: Counter[int] = Counter()
    for line in card.lines:
        for found in _EXPERTS.finditer(line.text):
            count = int(next(group for group in found.groups() if group))
            if top_k < count < base:
                named[count] += 1
    for row in card.all_rows:
        if _ROUTED.match(row.label):
            for value in row.values:
                if value is not None and not value.unit and top_k < value.value < base:
                    named[int(value.value)] += 1
    return named.most_common(1)[0][0] if named else base


def _important(card: Card, layers: int) -> list[int]:
    """The layers that the card calls important, in its order; empty when it names none."""
    for line in card.sentences():
        found = re.search(r"high\w*[- ](?:importance|precision)[^()]*\(([^)]*)\)", line.text)
        if not found or not _LAYERS.search(found[1]):
            continue
        order: list[int] = []
        for first, last in re.findall(r"L(\d+)(?:-L?(\d+))?", found[1]):
            order += [n for n in range(int(first), int(last or first) + 1) if n not in order]
        if order and max(order) < layers:
            return order
    return []


def sizes_in(text: str) -> list[Quantity]:
    """The sizes in bytes that a text gives."""
    return [quantity for quantity in quantities(text) if quantity.is_size]
