"""The verbs of importance matrices as plain functions: look, merge, slice, convert.

Files are llama.cpp's, GGUF or .dat; which one is read from the file, and written by its suffix.
`experts` per layer need naming only for a .dat that holds no router.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.api.models import File, check_file
from secateur.errors import FormatError, PlanError
from secateur.formats.imatrix import matrix as sums
from secateur.formats.imatrix.coverage import ImatrixCoverage, count_expert_tokens, measure_coverage
from secateur.formats.imatrix.dat_file import count_in_tokens
from secateur.formats.imatrix.file import open_imatrix, save_imatrix
from secateur.formats.imatrix.matrix import Imatrix
from secateur.planning.document import read_plan
from secateur.pruning.drop_map import read_drop_map
from secateur.pruning.selection import Keep
from secateur.statistics.coverage import LEAST

SUFFIXES = (".gguf", ".dat")
"""Of the two forms of an importance matrix."""


def coverage_of_imatrix(
    path: File, least: int = LEAST, experts: int | None = None
) -> ImatrixCoverage:
    """What a matrix knows, per layer; experts without data, and with fewer than `least` tokens."""
    return measure_coverage(open_imatrix(Path(path), experts), least)


def merge_imatrices(
    paths: Sequence[File], out: File, experts: int | None = None, *, force: bool = False
) -> Imatrix:
    """Add recordings of one model up: sums and counts.

    A .dat among GGUF files is taken for chunks of their size, and all its experts for equally
    much used, as llama-imatrix takes it. Raises FormatError for matrices of different shapes or
    chunk sizes.
    """
    if not paths:
        raise FormatError("name at least one importance matrix to merge")
    check_file(Path(out), force)
    found = [open_imatrix(Path(path), experts) for path in paths]
    size = next((imatrix.chunk_size for imatrix in found if imatrix.chunk_size), 0)
    if size:
        found = [count_in_tokens(imatrix, size) for imatrix in found]
    merged = found[0]
    for imatrix in found[1:]:
        merged = sums.merge(merged, imatrix)
    save_imatrix(Path(out), merged)
    return merged


def slice_imatrix(
    path: File,
    out: File,
    *,
    plan: File | None = None,
    drop_map: File | None = None,
    experts: int | None = None,
    force: bool = False,
) -> Imatrix:
    """The matrix of a pruned model: of every stack only the experts that a plan or a drop map
    keeps, in their new order.

    Raises PlanError unless exactly one of the two is given, or when it is of a model with other
    layers or experts.
    """
    check_file(Path(out), force)
    whole = open_imatrix(Path(path), experts)
    sliced = sums.select_experts(whole, _keep(path, whole, plan, drop_map))
    save_imatrix(Path(out), sliced)
    return sliced


def convert_imatrix(
    path: File, out: File, experts: int | None = None, *, force: bool = False
) -> Imatrix:
    """Write a matrix in the form of the suffix of `out`: .dat or .gguf.

    Raises FormatError for another suffix.
    """
    if Path(out).suffix.lower() not in SUFFIXES:
        raise FormatError(f"{out}: expected a name that ends with {' or '.join(SUFFIXES)}")
    check_file(Path(out), force)
    imatrix = open_imatrix(Path(path), experts)
    save_imatrix(Path(out), imatrix)
    return imatrix


def _keep(path: File, whole: Imatrix, plan: File | None, drop_map: File | None) -> Keep:
    counts = {layer: tokens.size for layer, tokens in count_expert_tokens(whole).items()}
    if not counts:
        raise FormatError(f"{path} holds no stack of experts: there is nothing to slice")
    experts = max(counts.values())
    if plan is not None and drop_map is None:
        decided = read_plan(Path(plan))
        if set(decided.keep) != set(counts) or decided.model.get("experts") != experts:
            raise PlanError(
                f"{plan} is for {len(decided.keep)} MoE layers of {decided.model.get('experts')} "
                f"experts, but {path} has {len(counts)} of {experts}: it is of another model, or "
                "sliced already"
            )
        return decided.keep
    if drop_map is not None and plan is None:
        return read_drop_map(Path(drop_map), experts, sorted(counts))
    raise PlanError("say which experts are kept: either a plan (plan) or a drop map (drop_map)")
