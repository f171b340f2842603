"""What a GGUF's header gives away, check by check: length, name, file type, imatrix, shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from secateur.audit.finding import Finding
from secateur.audit.gguf.shape import Shape
from secateur.audit.gguf.source import Header
from secateur.formats.gguf.container import Metadata
from secateur.formats.gguf.naming import experts_named, label_of
from secateur.formats.gguf.reader import GgufFile
from secateur.formats.gguf.split import PartName, part_name
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.recipe import LARGE
from secateur.system.sizes import show_count

IMATRIX = "quantize.imatrix."
"""How the keys begin that say with which importance matrix a file was made."""

_LOCAL_PATH = re.compile(r"^(?:/|~|[A-Za-z]:[\\/])|[\\/](?:home|Users|root|mnt|workspace)[\\/]")


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


def number(metadata: Metadata, key: str) -> int | None:
    held = metadata[key].value if key in metadata else None
    return held if isinstance(held, int) else None


def declared_type(metadata: Metadata) -> str | None:
    held = number(metadata, "general.file_type")
    return next((name for name, row in FILE_TYPES.items() if row.number == held), None)


def length_finding(header: Header) -> Finding:
    said = "unknown" if header.actual is None else f"{header.actual:,} bytes"
    must = f"{header.expected:,} bytes"
    if header.actual is None:
        return Finding("length", said, "unchecked", must, "the server does not say the length")
    last = header.gguf.alignment - 1
    if header.actual < header.expected:
        missing = header.expected - header.actual
        reason = f"{missing:,} bytes of its tensors are missing: download it again"
        return Finding("length", said, "wrong", must, reason)
    if header.actual > header.expected + last:
        return Finding("length", said, "wrong", must, "bytes follow its last tensor")
    return Finding("length", said, "holds", must, "the header's tensors end there")


def split_findings(whole: GgufFile, parts: tuple[int, int]) -> Iterator[Finding]:
    """Whether all parts of a split file are there, and hold what the first says."""
    count, read = parts
    if count == 1:
        return
    if read < count:
        yield Finding(
            "split", f"{read} of {count} parts", "unchecked", f"{count} parts",
            "the others are not next to it, so its types are not identified",
        )  # fmt: skip
        return
    stated = number(whole.metadata, "split.tensors.count")
    same = stated in (None, len(whole.tensors))
    yield Finding(
        "split", f"{stated} tensors in {count} parts", "holds" if same else "wrong",
        f"{len(whole.tensors)} tensors", "what the parts hold",
    )  # fmt: skip


def name_findings(
    name: str, metadata: Metadata, shape: Shape | None, reproduced: Reproduced | None
) -> Iterator[Finding]:
    """The file's name against what the Hub reads out of it and what the file holds."""
    if shape is None:
        return
    label = label_of(name)
    declared = declared_type(metadata)
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
    count = number(metadata, "split.count") or 1
    if count > 1 and part_name(name) is None:
        yield Finding(
            "file name", name, "wrong", PartName("NAME", 1, count).file,
            f"it is one of {count} parts, and llama.cpp finds the others by their names",
        )  # fmt: skip


def _same_label(label: str, declared: str) -> bool:
    plain = label.removeprefix("UD-")
    return plain == declared or LARGE.get(plain) == declared or plain.startswith(f"{declared}_")


def file_type_findings(metadata: Metadata, reproduced: Reproduced | None) -> Iterator[Finding]:
    declared = declared_type(metadata)
    if reproduced is None:
        return
    if declared is None:
        yield Finding(
            "file type", f"general.file_type = {number(metadata, 'general.file_type')}",
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
    stated = ", ".join(f"{n} x {got} for {gives}" for (got, gives), n in kinds.most_common(4))
    yield Finding(
        "file type", said, "unproven", f"nearest: {reproduced.way}",
        f"{show_count(len(reproduced.differing), 'tensor')} of other types than any file type or "
        f"recipe known here gives: {stated}",
    )  # fmt: skip


def imatrix_findings(
    metadata: Metadata, reproduced: Reproduced | None, has_imatrix: bool
) -> Iterator[Finding]:
    for key in ("file", "dataset"):
        held = metadata.get(f"{IMATRIX}{key}")
        if held is not None and _LOCAL_PATH.search(str(held.value)):
            yield Finding(
                "imatrix", f"{IMATRIX}{key} = {held.value}", "wrong", "a name without a path",
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


def against_config_findings(shape: Shape | None, config: Shape | None) -> Iterator[Finding]:
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
            f"{show_count(len(odd), 'tensor')} not as the config has them",
        )  # fmt: skip
        return
    wider = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    if not wider:
        yield Finding("shape", f"{len(theirs)} tensors", "holds", "", "as the config says")
        return
    name, (mine, has) = next(iter(wider.items()))
    grown = all(all(b >= a for a, b in zip(*pair, strict=True)) for pair in wider.values())
    how = "wider: padded with zeros, if this is the model" if grown else "of another shape"
    yield Finding(
        "shape", f"{name} has shape {list(has)}", "unproven" if grown else "wrong",
        f"{list(mine)} by the config", f"{show_count(len(wider), 'tensor')} {how}",
    )  # fmt: skip
