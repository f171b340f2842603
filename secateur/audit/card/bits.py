"""Bits per weight, and the sizes of MLX models: what a table of bits by component makes.

MLX keeps a scale and a bias in 16 bits for every group, so a matrix of b bits in groups of g
costs b + 32/g bits per weight; whatever is no matrix stays in 16 bits. An embedding is a matrix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from secateur.audit.card.card import Row
from secateur.audit.card.quantity import Quantity, bytes_in, quantities
from secateur.audit.card.sizes import Reading, judge
from secateur.audit.card.subject import Subject, sizes_in
from secateur.audit.finding import Finding
from secateur.system.sizes import show_in_both_units

_BPW = re.compile(
    r"\b(?:bpw|bits per weight)\W{0,4}(~?\d+\.\d+)|(~?\d+\.\d+)\s?(?:bpw|bits per weight)\b",
    re.IGNORECASE,
)
_OTHER = re.compile(r"\bvs\.?\s+\S+?'s\s+(~?\d+(?:\.\d+)?)", re.IGNORECASE)
_EXTRA = re.compile(
    r"(~?\d+(?:\.\d+)?\s?[KMGT]i?B)\s+(?:extra|more|larger|bigger|additional)", re.IGNORECASE
)
_AS_IT_IS = re.compile(r"unquanti[sz]ed|not quanti[sz]ed|\b16[- ]bit|\bb?f(?:p|loat)?16\b", re.I)
_MIXED = re.compile(r"\bmixed\b", re.IGNORECASE)
_UNIFORM = re.compile(r"\b(?:standard|plain|uniform)\b", re.IGNORECASE)
_WORDS = (
    (r"\bexperts?\b", "expert"),
    (r"\brouter\b", "router"),
    (r"\battention\b|\battn\b", "attention"),
    (r"\bembed", "embedding"),
    (r"\bhead\b", "head"),
    (r"\bdense\b|\bmlp\b", "dense"),
)
"""What a component's words mean when they are no module's name."""

DEFAULT_GROUP = 64
"""mlx-lm's group size of affine types."""


@dataclass(frozen=True)
class Component:
    """A row that gives bits to roles; `bits` None: left in 16 bits."""

    row: Row
    roles: tuple[str, ...]
    bits: int | None
    group: int


@dataclass(frozen=True)
class Mixture:
    """A table of components: what it makes, and what it makes if matrices left out are not."""

    components: tuple[Component, ...]
    base: int
    group: int


def bits_findings(subject: Subject) -> Iterator[Finding]:
    """Every number of bits per weight, and the sizes of mixed MLX models."""
    mixture = _mixture(subject)
    if mixture is None:
        yield from _of_files(subject)
        return
    yield from _of_mixture(subject, mixture)


def _of_files(subject: Subject) -> Iterator[Finding]:
    """Bits per weight of a GGUF, against the size on the same line or the card's own size."""
    elements = sum(subject.shape.elements(subject.experts).values())
    for line in subject.card.lines:
        for found in _BPW.finditer(line.text):
            said = next(iter(quantities(found[1] or found[2])), None)
            sizes = sizes_in(line.text) or list(subject.anchors)
            if said is None or not sizes:
                continue
            size = sizes[0]
            bits = size.value * bytes_in(size.unit) * 8 / elements
            yield Finding(
                "bits per weight",
                found[0],
                "holds" if said.fits(bits, bits) else "wrong",
                f"{bits:.3f}",
                f"{size.said} for {elements / 1e9:.2f} B parameters",
                line.number,
            )


def _mixture(subject: Subject) -> Mixture | None:
    """The first table with a column of bits."""
    for header in subject.card.rows:
        cells = [cell.lower() for cell in header.cells]
        if "bits" not in cells:
            continue
        at = cells.index("bits")
        of_group = next((i for i, cell in enumerate(cells) if "group" in cell), None)
        found = []
        for row in subject.card.block_of(header):
            if row is header or len(row.cells) <= at:
                continue
            group = _whole(row.cells[of_group]) if of_group is not None else None
            found.append((row, _roles(subject, row.label), _whole(row.cells[at]), group))
        bits = [b for _, _, b, _ in found if b is not None]
        if not bits:
            continue
        groups = Counter(g for _, _, _, g in found if g is not None)
        group = groups.most_common(1)[0][0] if groups else DEFAULT_GROUP
        base = min(bits)
        return Mixture(
            tuple(
                Component(
                    row,
                    roles,
                    None if b is None and _AS_IT_IS.search(row.text) else b or base,
                    g or group,
                )
                for row, roles, b, g in found
            ),
            base,
            group,
        )
    return None


def _whole(cell: str) -> int | None:
    return int(cell) if cell.isdigit() else None


def _roles(subject: Subject, words: str) -> tuple[str, ...]:
    """The roles that a component's name means: by the names of modules, else by its words."""
    family = subject.shape.family
    roles: list[str] = []
    for path in re.findall(r"[\w*]+(?:\.[\w*]+)+", words):
        part = path.strip("*.").removesuffix(".*")
        rows = family.rows if family is not None else ()
        roles += [row.role for row in rows if f".{part}" in row.name]
    if not roles:
        roles = [role for pattern, role in _WORDS if re.search(pattern, words, re.IGNORECASE)]
    return tuple(dict.fromkeys(roles))


def _bits_of(
    subject: Subject, mixture: Mixture | None, base: int, quantized: tuple[str, ...] = ()
) -> float:
    """Bits per weight; the roles in `quantized` get the base's bits whatever the table says."""
    group = mixture.group if mixture else DEFAULT_GROUP
    bits = 0.0
    elements = subject.shape.elements(subject.experts)
    shapes = {info.name: info.shape for info in subject.shape.tensors}
    for name, count in elements.items():
        role = subject.shape.matches[name].role
        if len(shapes[name]) < 2 or role.startswith("norm"):
            bits += 16 * count
            continue
        one: int | None = base
        size = group
        for component in mixture.components if mixture else ():
            if any(role == r or role.startswith(f"{r}.") for r in component.roles):
                one, size = component.bits, component.group
                break
        if one is None and role in quantized:
            one = base
        bits += count * (16 if one is None else one + 32 / size)
    return bits / sum(elements.values())


def _of_mixture(subject: Subject, mixture: Mixture) -> Iterator[Finding]:
    left = tuple(
        role for c in mixture.components if c.bits is None for role in c.roles if role != "norm"
    )
    stated = _bits_of(subject, mixture, mixture.base)
    whole = _bits_of(subject, mixture, mixture.base, left)
    uniform = _bits_of(subject, None, mixture.base)
    claims = list(_claims(subject))
    fits_stated = any(said.fits(stated, stated, 0.0005) for said, _, _ in claims)
    fits_whole = any(said.fits(whole, whole, 0.0005) for said, _, _ in claims)
    bits = whole if fits_whole and not fits_stated else stated
    for said, words, line in claims:
        holds = said.fits(bits, bits, 0.0005)
        yield Finding(
            "bits per weight", words, "holds" if holds else "wrong", f"{bits:.3f}",
            "by the table of bits" + (f", with {' and '.join(left)} at {mixture.base} bits"
            if bits == whole and left else ""), line,
        )  # fmt: skip
    for said, words, line in _others(subject):
        yield Finding(
            "bits per weight", words, "holds" if said.fits(uniform, uniform, 0.01) else "wrong",
            f"{uniform:.3f}", f"every matrix at {mixture.base} bits", line,
        )  # fmt: skip
    for component in mixture.components:
        if component.bits is not None or not set(component.roles) & set(left):
            continue
        if not claims:
            verdict, reason = "unchecked", "the card gives no bits per weight to compare"
        elif fits_whole and not fits_stated:
            verdict = "wrong"
            reason = (
                f"unquantized it would be {stated:.3f} bits per weight, and the card's "
                f"{claims[0][0].said} is {whole:.3f}, with {' and '.join(left)} quantized"
            )
        else:
            verdict, reason = "holds", f"{stated:.3f} bits per weight"
        yield Finding(
            "types", component.row.text, verdict,  # type: ignore[arg-type]
            f"{' and '.join(left)} at {mixture.base} bits" if verdict == "wrong" else "",
            reason, component.row.line,
        )  # fmt: skip
    yield from _sizes(subject, bits, uniform)


def _claims(subject: Subject) -> Iterator[tuple[Quantity, str, int]]:
    for line in subject.card.lines:
        for found in _BPW.finditer(line.text):
            said = next(iter(quantities(found[1] or found[2])), None)
            if said is not None:
                yield said, found[0], line.number


def _others(subject: Subject) -> Iterator[tuple[Quantity, str, int]]:
    """ "(vs. v0's ~4.5)": the number right behind one of bits per weight."""
    for line in subject.card.lines:
        for found in _BPW.finditer(line.text):
            other = _OTHER.match(line.text[found.end() :].lstrip(" ("))
            if other:
                yield next(iter(quantities(other[1]))), other[0], line.number


def _sizes(subject: Subject, mixed: float, uniform: float) -> Iterator[Finding]:
    """The sizes of the mixture and of the uniform model, and the difference."""
    elements = sum(subject.shape.elements(subject.experts).values())
    nbytes: Mapping[str, float] = {
        "the table of bits": mixed * elements / 8,
        "every matrix alike": uniform * elements / 8,
    }
    for row in subject.card.rows:
        sizes = [v for v in row.values if v is not None and v.is_size and not v.signed]
        if len(sizes) != 1 or re.search("memory", row.text, re.IGNORECASE):
            continue
        if _MIXED.search(row.text):
            what = "the table of bits"
        elif _UNIFORM.search(row.text):
            what = "every matrix alike"
        else:
            continue
        size = nbytes[what]
        verdict, must, reason = judge(sizes[0], [Reading(what, size, size)])
        said = f"{row.label}: {sizes[0].said}"
        yield Finding("size", said, verdict, must, reason, row.line)  # type: ignore[arg-type]
    more = nbytes["the table of bits"] - nbytes["every matrix alike"]
    for line in subject.card.lines:
        for found in _EXTRA.finditer(line.text):
            said_size = sizes_in(found[1])[0]
            verdict, _, _ = judge(said_size, [Reading("", more, more)])
            yield Finding(
                "size", found[0], verdict, show_in_both_units(more),  # type: ignore[arg-type]
                f"{mixed:.3f} against {uniform:.3f} bits per weight", line.number,
            )  # fmt: skip
