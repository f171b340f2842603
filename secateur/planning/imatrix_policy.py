"""The importance matrix a plan quantizes with: from a calibration or a user's file, under GGUF
names, for the experts kept, with a stated policy for experts without data.

Calibration sums squared inputs by the running model's parameters; llama.cpp looks them up by
GGUF tensor name. Which names a parameter has there is in the family's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import FormatError, PlanError
from secateur.families.schema import Family
from secateur.formats.gguf.tensors import GgufTensor
from secateur.formats.imatrix.coverage import count_expert_tokens, measure_coverage
from secateur.formats.imatrix.file import ImatrixFile
from secateur.formats.imatrix.matrix import (
    Imatrix,
    ImatrixEntry,
    make_quantize_metadata,
    select_experts,
)
from secateur.planning.unseen_experts import (
    POLICIES,
    Expert,
    Policy,
    apply_policy,
    describe_coverage,
)
from secateur.pruning.selection import Keep
from secateur.statistics.coverage import LEAST
from secateur.statistics.statistics import Statistics

FILE = "imatrix.gguf"
"""Its name in an output."""

Facts = Mapping[str, str | int]
"""What a GGUF says of the matrix it was quantized with: llama.cpp's quantize.imatrix.* keys."""


@dataclass(frozen=True)
class Importance:
    """The matrix itself, of the experts kept in their order, and what is to be known of it.

    `facts` go into a GGUF's metadata, `origin` (JSON-able) into the plan; `unseen` are the
    experts kept without data, by their numbers in the unpruned model.
    """

    imatrix: Imatrix
    facts: Facts
    origin: Mapping[str, Any]
    unseen: tuple[Expert, ...]
    notes: tuple[str, ...]


def importance_of(
    checkpoint: Checkpoint,
    keep: Keep,
    statistics: Statistics | None,
    file: ImatrixFile | None,
    policy: Policy,
) -> Importance | None:
    """What the file, else the statistics, weigh the errors of the experts kept with.

    None when there is neither. Raises PlanError for a matrix of another number of experts, for
    an unknown policy, and where the policy `stop` meets an expert without data.
    """
    if policy not in POLICIES:
        raise PlanError(f"--unseen-experts is {policy!r}, expected {' or '.join(POLICIES)}")
    if file is not None:
        sliced = _select(file.imatrix, checkpoint, keep)
        origin: dict[str, Any] = {"from": "file", "sha256": file.sha256}
    elif statistics is not None:
        sliced = select_experts(from_statistics(statistics, checkpoint.family), keep)
        origin = {"from": "statistics"}
    else:
        return None
    found = measure_coverage(sliced, LEAST)
    unseen, few = (_in_source(keep, experts) for experts in (found.unseen, found.few))
    total = sum(row.experts for row in found.layers)
    notes = list(describe_coverage(unseen, few, total, policy))
    if not found.counted:
        notes.append("imatrix: a .dat has lost how many tokens each expert saw")
    origin |= {
        "unseen_experts": policy,
        "experts_without_data": [f"{layer}:{expert}" for layer, expert in unseen],
        f"experts_below_{LEAST}_tokens": len(few),
    }
    facts = {
        key: value.value
        for key, value in make_quantize_metadata(sliced, FILE).items()
        if isinstance(value.value, str | int)
    }
    return Importance(apply_policy(sliced, policy), facts, origin, unseen, tuple(notes))


def from_statistics(statistics: Statistics, family: Family) -> Imatrix:
    """llama.cpp's imatrix from our sums, of all experts.

    A parameter that no row gives a GGUF name (a router that stays in F32) is left out.
    """
    entries = {}
    for running, (squares, tokens) in statistics.importance().items():
        for name in gguf_names(family, running):
            entries[name] = ImatrixEntry(squares.astype(np.float32), tokens.astype(np.float32))
    # llama.cpp keeps one name: that of the whole mix says more than that of its first source.
    datasets = tuple(sorted({_name_of(corpus) for corpus in statistics.corpora}))
    length = max(int(corpus.get("sequence_length", 0)) for corpus in statistics.corpora)
    total = sum(statistics.tokens.values())
    return Imatrix(datasets, -(-total // max(length, 1)), max(length, 1), entries)


def _name_of(corpus: Mapping[str, Any]) -> str:
    return str(corpus.get("mix") or corpus.get("rows_file") or "corpus")


def gguf_names(family: Family, running: str) -> list[str]:
    """GGUF names of the tensors that a parameter of the running model becomes."""
    place = family.classify(running)
    rows = [row for row in family.rows if row is place.row or row.into == place.row.name]
    names = [family.fill(name, place.layer) for row in rows for name in row.gguf]
    return list(dict.fromkeys(names))


def check_shapes(importance: Importance, tensors: Sequence[GgufTensor]) -> None:
    """Raises PlanError where sums do not have the columns or experts of their tensor."""
    for tensor in tensors:
        info = tensor.info
        entry = importance.imatrix.entries.get(info.name)
        expected = (info.shape[-3] if len(info.shape) > 2 else 1, tensor.columns)
        if entry is not None and entry.in_sum2.shape != expected:
            raise PlanError(
                f"the importance matrix has {list(entry.in_sum2.shape)} sums of {info.name}, "
                f"expected {list(expected)} (matrices, columns): it is of another model"
            )


def _select(imatrix: Imatrix, checkpoint: Checkpoint, keep: Keep) -> Imatrix:
    """Of the unpruned model: sliced; already of the pruned one: as it is."""
    counts = {tokens.size for tokens in count_expert_tokens(imatrix).values()}
    kept = len(next(iter(keep.values())))
    if counts == {checkpoint.experts}:
        return select_experts(imatrix, keep)
    if counts == {kept}:
        return imatrix
    found = f"stacks of {', '.join(map(str, sorted(counts)))} experts" if counts else "no experts"
    raise FormatError(
        f"the importance matrix has {found}, expected {checkpoint.experts} as in the model or "
        f"{kept} as planned: record it again"
    )


def _in_source(keep: Keep, experts: Sequence[Expert]) -> tuple[Expert, ...]:
    return tuple((layer, keep[layer][expert]) for layer, expert in experts if layer in keep)
