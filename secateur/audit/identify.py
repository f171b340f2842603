"""What a GGUF file really is, by its header: types of every role, and what reproduces them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from secateur.audit.finding import Finding, sorted_findings
from secateur.audit.making import Made, Way, gguf_recipes, make, recipe_ways, stock_ways
from secateur.audit.names import SHARD, experts_named, quant_label
from secateur.audit.shape import Shape, shape_of_file
from secateur.audit.source import Header
from secateur.audit.template import template_findings
from secateur.errors import FormatError, PlanError
from secateur.formats.gguf import Metadata, TensorInfo
from secateur.formats.gguf_reader import GgufFile
from secateur.planning.llama_mixes import FILE_TYPES, category_of
from secateur.planning.llama_types import TypeChoice, TypeRequest
from secateur.planning.recipe import LARGE

_ENDS = ("embedding", "output")
_LOCAL_PATH = re.compile(r"^(?:/|~|[A-Za-z]:[\\/])|[\\/](?:home|Users|root|mnt|workspace)[\\/]")
_IMATRIX = "quantize.imatrix."


@dataclass(frozen=True)
class Reproduced:
    """The way whose types are the file's, or the nearest one.

    `differing` are (tensor, type in the file, type that the way gives); empty: all are the same.
    `also` are other ways with just the same types.
    """

    way: str
    differing: tuple[tuple[str, str, str], ...]
    fallbacks: tuple[tuple[str, str, str], ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """A GGUF file at a glance; `findings` are what is wrong or odd with it.

    `roles` is {role: {type: (tensors, bytes)}}, `expected` the bytes that the header says the
    file has, `actual` those that it has, `parts` how many files there are and which were read.
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
    whole = _joined(headers)
    metadata = whole.metadata
    if "general.architecture" not in metadata:
        kind = metadata["general.type"].value if "general.type" in metadata else "nothing of a kind"
        raise FormatError(
            f"{first.source}: holds {kind} and no model: it has no general.architecture (of a "
            "split file name the first part; of an imatrix see `secateur imatrix --help`)"
        )
    parts = (_number(metadata, "split.count") or 1, len(headers))
    shape = shape_of_file(whole) if whole.tensors else None
    infos = tuple(whole.tensors.values())
    has_imatrix = any(key.startswith(_IMATRIX) for key in metadata)
    reproduced = None
    if shape is not None and parts[0] == parts[1]:
        reproduced = _reproduce(shape, infos, has_imatrix, _declared(metadata))
    data = sum(info.nbytes for info in infos)
    elements = sum(_elements(info) for info in infos)
    described = shape or config
    family = described.family if described else None
    findings = [
        *(_length(header) for header in headers),
        *_split(whole, parts),
        *_names(first.name, metadata, shape, reproduced),
        *_file_type(metadata, reproduced),
        *_imatrix(metadata, reproduced, has_imatrix),
        *_against_config(shape, config),
    ]
    if family is not None:
        rows = whole.tensors.get("token_embd.weight")
        findings += template_findings(metadata, family, rows.shape[0] if rows else None)
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
        file_type=_declared(metadata),
        roles=_roles(shape, infos) if shape else {},
        reproduced=reproduced,
        imatrix={k.removeprefix(_IMATRIX): v.value for k, v in metadata.items() if _IMATRIX in k},
        expected=sum(header.expected for header in headers),
        actual=None
        if any(header.actual is None for header in headers)
        else sum(header.actual or 0 for header in headers),
        header=sum(header.gguf.data_offset for header in headers),
        fetched=sum(header.fetched for header in headers),
        parts=parts,
        findings=sorted_findings(findings),
    )


def _joined(headers: Sequence[Header]) -> GgufFile:
    """The parts of a split file as one: the first one's keys, everyone's tensors."""
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        for name, info in header.gguf.tensors.items():
            if name in tensors:
                raise FormatError(f"{header.source}: tensor {name!r} is in another part already")
            tensors[name] = info
    return replace(headers[0].gguf, tensors=tensors)


def _number(metadata: Metadata, key: str) -> int | None:
    held = metadata[key].value if key in metadata else None
    return held if isinstance(held, int) else None


def _declared(metadata: Metadata) -> str | None:
    number = _number(metadata, "general.file_type")
    return next((name for name, row in FILE_TYPES.items() if row.number == number), None)


def _elements(info: TensorInfo) -> int:
    count = 1
    for length in info.shape:
        count *= length
    return count


def _roles(shape: Shape, infos: Sequence[TensorInfo]) -> dict[str, dict[str, tuple[int, int]]]:
    roles: dict[str, dict[str, tuple[int, int]]] = {}
    for info in infos:
        kinds = roles.setdefault(shape.places[info.name].role, {})
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
            break  # The likeliest explanation is enough; only its own variants are also told.
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


def _length(header: Header) -> Finding:
    said = "unknown" if header.actual is None else f"{header.actual:,} bytes"
    must = f"{header.expected:,} bytes"
    if header.actual is None:
        return Finding("length", said, "unchecked", must, "the server does not tell the length")
    last = header.gguf.alignment - 1
    if header.actual < header.expected:
        missing = header.expected - header.actual
        reason = f"{missing:,} bytes of its tensors are missing: download it again"
        return Finding("length", said, "wrong", must, reason)
    if header.actual > header.expected + last:
        return Finding("length", said, "wrong", must, "bytes follow its last tensor")
    return Finding("length", said, "holds", must, "the header's tensors end there")


def _split(whole: GgufFile, parts: tuple[int, int]) -> Iterator[Finding]:
    """Whether all parts of a split file are there, and hold what the first says."""
    count, read = parts
    if count == 1:
        return
    if read < count:
        yield Finding(
            "split", f"{read} of {count} parts", "unchecked", f"{count} parts",
            "the others are not beside it, so its types are not identified",
        )  # fmt: skip
        return
    told = _number(whole.metadata, "split.tensors.count")
    same = told in (None, len(whole.tensors))
    yield Finding(
        "split", f"{told} tensors in {count} parts", "holds" if same else "wrong",
        f"{len(whole.tensors)} tensors", "what the parts hold",
    )  # fmt: skip


def made_of_file(headers: Sequence[Header], shape: Shape) -> Made | None:
    """The file as something made, so that statements can be held against it.

    None unless it holds the shape's tensors.
    """
    whole = _joined(headers)
    infos = tuple(whole.tensors.get(info.name, info) for info in shape.tensors)
    if set(whole.tensors) != {info.name for info in shape.tensors}:
        return None
    for way in _ways(shape, infos, False, _declared(whole.metadata)):
        try:
            made = make(shape, shape.experts, way)
        except PlanError:
            continue
        if not _differing(made, infos):
            return replace(made, way=replace(way, name=f"the file ({way.name})"))
    choices = tuple(TypeChoice(info.name, info.type, "as in the file") for info in infos)
    asked = Way("the file", TypeRequest("F16"), False)
    return Made(asked, choices, infos, shape.file_bytes(infos))


def _names(
    name: str, metadata: Metadata, shape: Shape | None, reproduced: Reproduced | None
) -> Iterator[Finding]:
    """The file's name against what the Hub reads out of it and what the file holds."""
    if shape is None:
        return
    label = quant_label(name)
    declared = _declared(metadata)
    if label is None:
        yield Finding(
            "file name", name, "wrong", f"a name that ends in -{declared or 'Q4_K_M'}.gguf",
            "the Hub and Ollama read no quantization out of it",
        )  # fmt: skip
    elif declared is not None and not _same_label(label, declared):
        yield Finding(
            "file name", f"{name} reads as {label}", "wrong", declared,
            "general.file_type says so",
        )  # fmt: skip
    elif label.replace("UD-", "") not in name.upper().removesuffix(".GGUF").split("-"):
        yield Finding(
            "file name", f"{name} reads as {label}", "unproven", "",
            f"what stands before the label is lost: {label} of another kind has the same one",
        )  # fmt: skip
    else:
        yield Finding("file name", name, "holds", label, "the label the Hub reads")
    named = experts_named(name)
    if named is not None and shape.experts:
        verdict = "holds" if named == shape.experts else "wrong"
        yield Finding(
            "file name", f"{named} experts", verdict, f"{shape.experts} experts",  # type: ignore[arg-type]
            f"{shape.architecture}.expert_count",
        )  # fmt: skip
    count = _number(metadata, "split.count") or 1
    if count > 1 and not SHARD.search(name):
        yield Finding(
            "file name", name, "wrong", f"NAME-00001-of-{count:05d}.gguf",
            f"it is one of {count} parts, and llama.cpp finds the others by their names",
        )  # fmt: skip


def _same_label(label: str, declared: str) -> bool:
    plain = label.removeprefix("UD-")
    return plain == declared or LARGE.get(plain) == declared or plain.startswith(f"{declared}_")


def _file_type(metadata: Metadata, reproduced: Reproduced | None) -> Iterator[Finding]:
    declared = _declared(metadata)
    if reproduced is None:
        return
    if declared is None:
        yield Finding(
            "file type", f"general.file_type = {_number(metadata, 'general.file_type')}",
            "unchecked", reproduced.way, "no file type of llama-quantize has this number",
        )  # fmt: skip
        return
    said = f"general.file_type = {declared}"
    if not reproduced.differing:
        same = any(
            re.match(rf"{re.escape(declared)}\b(?!_)", way)
            for way in (reproduced.way, *reproduced.also)
        )
        recipe = reproduced.way.split()[0] not in FILE_TYPES
        yield Finding(
            "file type", said, "holds" if same or recipe else "wrong", reproduced.way,
            "it gives every tensor's type",
        )  # fmt: skip
        return
    kinds = Counter((got, gives) for _, got, gives in reproduced.differing)
    told = ", ".join(f"{n} x {got} for {gives}" for (got, gives), n in kinds.most_common(4))
    yield Finding(
        "file type", said, "unproven", f"nearest: {reproduced.way}",
        f"{len(reproduced.differing)} tensors have other types than any file type or recipe known "
        f"here gives: {told}",
    )  # fmt: skip


def _imatrix(
    metadata: Metadata, reproduced: Reproduced | None, has_imatrix: bool
) -> Iterator[Finding]:
    for key in ("file", "dataset"):
        held = metadata.get(f"{_IMATRIX}{key}")
        if held is not None and _LOCAL_PATH.search(str(held.value)):
            yield Finding(
                "imatrix", f"{_IMATRIX}{key} = {held.value}", "wrong", "a name without a path",
                "the path of the machine it was made on is public with the file",
            )  # fmt: skip
    if reproduced is None or reproduced.differing:
        return
    ways = (reproduced.way, *reproduced.also)
    matrices = {" with an imatrix" in way for way in ways}
    if matrices == {not has_imatrix}:
        yield Finding(
            "imatrix",
            f"quantize.imatrix keys: {'present' if has_imatrix else 'none'}",
            "wrong",
            reproduced.way,
            "only so the tensors have these types",
        )


def _against_config(shape: Shape | None, config: Shape | None) -> Iterator[Finding]:
    """The file's tensors against those of the config, at the file's number of experts."""
    if shape is None or config is None:
        return
    if shape.architecture != config.architecture:
        yield Finding(
            "shape", f"architecture {shape.architecture}", "wrong", config.architecture,
            "the config's",
        )  # fmt: skip
        return
    theirs = {info.name: info.shape for info in shape.tensors}
    ours = {info.name: info.shape for info in config.with_experts(shape.experts)}
    odd = sorted(set(theirs) ^ set(ours))
    if odd:
        what = "has" if odd[0] in theirs else "lacks"
        yield Finding(
            "shape", f"the file {what} {odd[0]}", "wrong", f"{len(ours)} tensors",
            f"{len(odd)} tensors differ from the config's",
        )  # fmt: skip
        return
    wider = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    if not wider:
        yield Finding("shape", f"{len(theirs)} tensors", "holds", "", "as the config says")
        return
    name, (mine, has) = next(iter(wider.items()))
    grown = all(all(b >= a for a, b in zip(*pair, strict=True)) for pair in wider.values())
    yield Finding(
        "shape", f"{name} has shape {list(has)}", "unproven" if grown else "wrong",
        f"{list(mine)} by the config",
        f"{len(wider)} tensors are {'wider: padded with zeros, if they are' if grown else 'other'}",
    )  # fmt: skip
