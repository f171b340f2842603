"""What a GGUF file really is, by its header: types of every role, and what reproduces them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from secateur.audit.finding import Finding, sorted_findings
from secateur.audit.gguf.file_checks import (
    IMATRIX,
    Reproduced,
    against_config_findings,
    declared_type,
    file_type_findings,
    imatrix_findings,
    length_finding,
    name_findings,
    number,
    split_findings,
)
from secateur.audit.gguf.making import Made, Way, gguf_recipes, make, recipe_ways, stock_ways
from secateur.audit.gguf.shape import Shape, shape_of_file
from secateur.audit.gguf.source import Header
from secateur.audit.gguf.template import template_findings
from secateur.errors import FormatError, PlanError
from secateur.families.schema import Family
from secateur.formats.gguf.container import Metadata, TensorInfo
from secateur.formats.gguf.provenance import ROUNDING
from secateur.formats.gguf.reader import GgufFile
from secateur.formats.gguf.split import joined
from secateur.recipes.llama_mixes import FILE_TYPES, category_of
from secateur.recipes.llama_types import TypeChoice, TypeRequest
from secateur.recipes.recipe import LARGE

_ENDS = ("embedding", "output")


@dataclass(frozen=True)
class Identity:
    """A GGUF file at a glance; `findings` are what is wrong or odd with it.

    `roles` is {role: {type: (tensors, bytes)}}, `expected` the bytes that the header says the
    file has, `actual` those that it has, `parts` how many files there are and which were read.
    `rounding` is what a file of ours says of how its levels were chosen; None: nothing.
    """

    source: str
    name: str
    architecture: str
    family: str | None
    experts: int
    top_k: int
    layers: int
    tensors: int
    parameters: int
    data: int
    bits_per_weight: float
    file_type: str | None
    roles: Mapping[str, Mapping[str, tuple[int, int]]]
    reproduced: Reproduced | None
    imatrix: Mapping[str, Any]
    rounding: str | None
    expected: int
    actual: int | None
    header: int
    fetched: int
    parts: tuple[int, int]
    findings: tuple[Finding, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def identify(headers: Sequence[Header], config: Shape | None = None) -> Identity:
    """Say what a file is; `headers` are those of its parts, the first part's first.

    `config` is the shape that the model ought to have. Raises FormatError for a file that does
    not describe a model.
    """
    first = headers[0]
    whole = joined([header.gguf for header in headers])
    metadata = whole.metadata
    _require_model(first.source, metadata)
    parts = (number(metadata, "split.count") or 1, len(headers))
    shape = shape_of_file(whole) if whole.tensors else None
    infos = tuple(whole.tensors.values())
    has_imatrix = any(key.startswith(IMATRIX) for key in metadata)
    reproduced = None
    if shape is not None and parts[0] == parts[1]:
        reproduced = _reproduce(shape, infos, has_imatrix, declared_type(metadata))
    data = sum(info.nbytes for info in infos)
    elements = sum(_elements(info) for info in infos)
    described = shape or config
    family = described.family if described else None
    lengths = [header.actual for header in headers if header.actual is not None]
    findings = [
        *(length_finding(header) for header in headers),
        *split_findings(whole, parts),
        *name_findings(first.name, metadata, shape, reproduced),
        *file_type_findings(metadata, reproduced),
        *imatrix_findings(metadata, reproduced, has_imatrix),
        *against_config_findings(shape, config),
        *_template_findings(whole, family),
    ]
    return Identity(
        source=first.source,
        name=first.name,
        architecture=str(metadata["general.architecture"].value),
        family=family.title if family else None,
        experts=shape.experts if shape else 0,
        top_k=shape.top_k if shape else 0,
        layers=shape.layers if shape else 0,
        tensors=len(infos),
        parameters=elements,
        data=data,
        bits_per_weight=8 * data / elements if elements else 0.0,
        file_type=declared_type(metadata),
        roles=_roles(shape, infos) if shape else {},
        reproduced=reproduced,
        imatrix={k.removeprefix(IMATRIX): v.value for k, v in metadata.items() if IMATRIX in k},
        rounding=str(metadata[ROUNDING].value) if ROUNDING in metadata else None,
        expected=sum(header.expected for header in headers),
        actual=sum(lengths) if len(lengths) == len(headers) else None,
        header=sum(header.gguf.data_offset for header in headers),
        fetched=sum(header.fetched for header in headers),
        parts=parts,
        findings=sorted_findings(findings),
    )


def _require_model(source: str, metadata: Metadata) -> None:
    if "general.architecture" not in metadata:
        kind = metadata["general.type"].value if "general.type" in metadata else "nothing of a kind"
        raise FormatError(
            f"{source}: holds {kind} and no model: it has no general.architecture (of a split "
            "file name the first part; of an imatrix see `secateur imatrix --help`)"
        )


def _template_findings(whole: GgufFile, family: Family | None) -> list[Finding]:
    if family is None:
        return []
    rows = whole.tensors.get("token_embd.weight")
    return template_findings(whole.metadata, family, rows.shape[0] if rows else None)


def _elements(info: TensorInfo) -> int:
    count = 1
    for length in info.shape:
        count *= length
    return count


def _roles(shape: Shape, infos: Sequence[TensorInfo]) -> dict[str, dict[str, tuple[int, int]]]:
    roles: dict[str, dict[str, tuple[int, int]]] = {}
    for info in infos:
        kinds = roles.setdefault(shape.matches[info.name].role, {})
        count, size = kinds.get(info.type, (0, 0))
        kinds[info.type] = (count + 1, size + info.nbytes)
    return dict(sorted(roles.items()))


def _reproduce(
    shape: Shape, infos: Sequence[TensorInfo], has_imatrix: bool, declared: str | None
) -> Reproduced | None:
    """The first way that gives every type, else the nearest one."""
    exact: list[Made] = []
    nearest: tuple[int, Made] | None = None
    for way in _ways(shape, infos, has_imatrix, declared):
        if exact and way.request.ftype != exact[0].way.request.ftype:
            break  # The likeliest explanation is enough; only its own variants are also reported.
        try:
            made = make(shape, shape.experts, way)
        except PlanError:
            continue
        if not way.request.has_imatrix and any(c.needs_importance for c in made.choices):
            continue
        count = len(_differing(made, infos))
        if not count:
            exact.append(made)
        elif nearest is None or count < nearest[0]:
            nearest = (count, made)
    if not exact and nearest is None:
        return None
    best = exact[0] if exact else nearest[1]  # type: ignore[index]
    return Reproduced(
        best.way.sentence(),
        _differing(best, infos),
        tuple((c.name, c.fallback_from or "", c.type) for c in best.fallbacks),
        tuple(made.way.sentence() for made in exact[1:]),
    )


def _differing(made: Made, infos: Sequence[TensorInfo]) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (info.name, info.type, choice.type)
        for info, choice in zip(infos, made.choices, strict=True)
        if info.type != choice.type
    )


def _ways(
    shape: Shape, infos: Sequence[TensorInfo], has_imatrix: bool, declared: str | None
) -> Iterator[Way]:
    """What may have made the file, the likeliest first."""
    ends = {category_of(i.name): i.type for i in infos if category_of(i.name) in _ENDS}
    names = sorted(FILE_TYPES, key=lambda name: name != declared)
    for name in names:
        for way in sorted(stock_ways(name), key=lambda w: w.request.has_imatrix != has_imatrix):
            yield way
            # Only where the ends alone differ are the options for them worth a try.
            yield from _with_ends(shape, infos, way, ends)
    for recipe in gguf_recipes():
        yield from recipe_ways(recipe, shape)


def _with_ends(
    shape: Shape, infos: Sequence[TensorInfo], way: Way, ends: Mapping[str, str]
) -> Iterator[Way]:
    try:
        made = make(shape, shape.experts, way)
    except PlanError:
        return
    differing = {category_of(name) for name, _, _ in _differing(made, infos)}
    if not differing or not differing <= set(_ENDS):
        return
    embedding = ends.get("embedding") if "embedding" in differing else None
    output = ends.get("output") if "output" in differing else None
    request = replace(way.request, embedding=embedding, output=output)
    names = [name for name, base in LARGE.items() if base == way.name and embedding == "Q8_0"]
    sentence = f"{way.name} ({names[0]} by its other name)" if names else way.name
    yield Way(sentence, request, True)


def made_of_file(headers: Sequence[Header], shape: Shape) -> Made | None:
    """The file as something made, so that statements can be held against it.

    None unless it holds the shape's tensors.
    """
    whole = joined([header.gguf for header in headers])
    infos = tuple(whole.tensors.get(info.name, info) for info in shape.tensors)
    if set(whole.tensors) != {info.name for info in shape.tensors}:
        return None
    for way in _ways(shape, infos, False, declared_type(whole.metadata)):
        try:
            made = make(shape, shape.experts, way)
        except PlanError:
            continue
        if not _differing(made, infos):
            return replace(made, way=replace(way, name=f"the file ({way.name})"))
    choices = tuple(TypeChoice(info.name, info.type, "as in the file") for info in infos)
    asked = Way("the file", TypeRequest("F16"), False)
    return Made(asked, choices, infos, shape.file_bytes(infos))
