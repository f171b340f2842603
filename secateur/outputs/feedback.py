"""What an output's rows are rounded with: the factor of the Gram matrix of each matrix's inputs,
and who chooses their codes.

Factors are made when a block of rows first needs one, and a few are kept for the next: matrices of
a layer share theirs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.families.schema import Family
from secateur.pruning.selection import Keep
from secateur.rounding.factor import LEAST_TOKENS, Factor, Groups, factorize
from secateur.rounding.grid import Choose
from secateur.statistics.gram import whole_matrix
from secateur.statistics.gram_file import GramFile

FACTOR_BYTES = 512 << 20
"""Bytes of factors that are kept for later blocks. Those of the last IN_USE inputs are kept in any
case: every type that a matrix is written in asks for its own again with each block of rows."""
IN_USE = 2
"""Threads may be at the end of one matrix and at the beginning of the next."""


@dataclass(frozen=True)
class Chooser:
    """Who chooses the codes of scalar types. Where it is not the CPU's cores, sums are added in
    another order, so that `name` decides bytes: files are of one chooser."""

    name: str = "cpu"
    choose: Choose | None = field(default=None, repr=False)


ON_CORES = Chooser()


class _Input(NamedTuple):
    """Whose factor: the input's name, the expert (None: one for all), zeros to the right, and how
    the type divides a row."""

    name: str
    expert: int | None
    right: int
    groups: Groups = Groups(1)


@dataclass
class _Held:
    """A factor, made by the thread that comes first."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    made: bool = False
    factor: Factor | None = None


class FactorOf:
    """The factors for one matrix of a tensor; `get` makes one where nobody did before. `choose`
    chooses its codes (None: a core of the CPU)."""

    def __init__(self, feedback: Feedback, which: _Input, following: Sequence[int] = ()) -> None:
        """`following` are the experts whose rows come next."""
        self._feedback, self._which, self._following = feedback, which, following
        self.choose = feedback.chooser.choose

    def get(self, groups: Groups) -> Factor | None:
        """For a type that divides rows so. None for inputs that were always zero, or hardly seen:
        such a matrix is rounded to nearest."""
        return self._feedback.factor(self._which._replace(groups=groups), self._following)


class Feedback:
    """The factors of an output of the experts kept. Peak memory: FACTOR_BYTES, or the factors of
    two inputs if they take more, and for every thread one Gram matrix four times in float64."""

    def __init__(
        self,
        file: GramFile,
        family: Family,
        keep: Keep,
        chooser: Chooser = ON_CORES,
        workers: int = 1,
    ) -> None:
        """`workers` threads ask for factors. Where many wait for a large one they make it together;
        who waits for that of an expert makes the next one's."""
        self.chooser = chooser
        self._file = file
        self._workers = workers
        self._family = family
        self._keep = keep
        self._held: OrderedDict[_Input, _Held] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """Of all that decides codes: the sha256 of the Gram matrices, and who chooses."""
        sha256, chooser = self._file.description.sha256, self.chooser
        return sha256 if chooser.name == ON_CORES.name else f"{sha256} on {chooser.name}"

    def of(self, sources: Sequence[str], matrix: int, columns: int, right: int) -> FactorOf | None:
        """The factor for a tensor's matrix of so many columns, before `right` zeros.

        None for a tensor whose inputs were not observed: an embedding, a router, the output head,
        and experts' `down` where the matrices are `shared`.
        Raises PlanError for Gram matrices of other columns.
        """
        name = observed_input(self._file, self._family, sources)
        if name is None:
            return None
        if (got := self._file.description.columns[name]) != columns:
            raise PlanError(
                f"the Gram matrix of {name} has {got} columns, expected {columns} as in "
                f"{sources[0]}: it is of another model, calibrate this one"
            )
        layer = self._family.classify(sources[0]).layer
        if self._file.matrices(name) == 1 or layer is None:
            return FactorOf(self, _Input(name, None, right))
        expert, *following = self._keep[layer][matrix : matrix + 1 + self._workers]
        return FactorOf(self, _Input(name, expert, right), following)

    def factor(self, which: _Input, following: Sequence[int] = ()) -> Factor | None:
        """The factor, kept from before or made now. While another thread makes it, that of the
        first of the experts `following` that nobody has begun is made here."""
        held = self._hold(which)
        if not held.lock.acquire(blocking=False):
            self._make_ahead(which, following)
            self._hold(which)
            held.lock.acquire()
        try:
            if not held.made:
                held.factor = self._make(which)
                held.made = True
        finally:
            held.lock.release()
        self._forget()
        return held.factor

    def _hold(self, which: _Input) -> _Held:
        """What is held of an input, from now on as the one that was used last."""
        with self._lock:
            held = self._held.setdefault(which, _Held())
            self._held.move_to_end(which)
            return held

    def _make_ahead(self, which: _Input, following: Sequence[int]) -> None:
        with self._lock:
            soon = (which._replace(expert=expert) for expert in following)
            ahead = next((one for one in soon if one not in self._held), None)
        if ahead is not None:
            self.factor(ahead)

    def _make(self, which: _Input) -> Factor | None:
        name, expert, right, groups = which
        found = self._file.input(name, expert)
        gram = whole_matrix(found.sums[0], found.columns, np.float32)
        padded = np.pad(gram, (0, right)) if right else gram
        return factorize(padded, groups, int(found.tokens[0]), self._workers)

    def _forget(self) -> None:
        """Drop what was used longest ago, until the rest is small enough."""
        with self._lock:
            sizes = {key: _bytes_of(held) for key, held in self._held.items()}
            total = sum(sizes.values())
            inputs = dict.fromkeys((key.name, key.expert) for key in reversed(sizes))
            in_use = list(inputs)[:IN_USE]
            for key, size in sizes.items():
                if total <= FACTOR_BYTES:
                    return
                # What is being made now has no size yet.
                if size and (key.name, key.expert) not in in_use:
                    del self._held[key]
                    total -= size


def observed_input(file: GramFile, family: Family, sources: Sequence[str]) -> str | None:
    """The input, as the file names it, of a tensor that is made of these; None if not observed."""
    if not sources:
        return None
    running = family.running_name(family.classify(sources[0]))
    return file.description.shared_by.get(running)


def describe_few(file: GramFile, checkpoint: Checkpoint, keep: Keep) -> list[str]:
    """For people: the Gram matrices of the experts kept that come of fewer tokens than columns."""
    family = checkpoint.family
    layers = {family.running_name(place): place.layer for place in checkpoint.matches.values()}
    total, few = 0, []
    for name, tokens in file.tokens().items():
        layer, columns = layers.get(name), file.description.columns[name]
        experts = keep[layer] if len(tokens) > 1 and layer is not None else None
        for expert in experts or (0,):
            total += 1
            if tokens[expert] < columns:
                whose = name if experts is None else f"{name} of expert {expert}"
                few.append((tokens[expert], f"{whose}: {tokens[expert]} for {columns} columns"))
    if not few:
        return []
    few.sort()
    unused = sum(tokens < LEAST_TOKENS for tokens, _ in few)
    text = (
        f"feedback: {len(few)} of {total} Gram matrices come of fewer tokens than columns, and "
        f"gain less ({'; '.join(said for _, said in few[:3])}{'; ...' if len(few) > 3 else ''})"
    )
    if unused:
        text += f"; {unused} of fewer than {LEAST_TOKENS}, whose weights are rounded to nearest"
    return [f"{text}: calibrate on more text, or with a larger --gram-tokens"]


def describe_feedback(format_id: str, quantized: Mapping[str, bool]) -> str:
    """For people, of {quantized tensor: whether its codes are chosen with feedback}."""
    nearest = [name for name, chosen in quantized.items() if not chosen]
    text = (
        f"{format_id}: codes chosen with error feedback in {len(quantized) - len(nearest)} of "
        f"{len(quantized)} quantized tensors"
    )
    if nearest:
        text += f"; to nearest: {', '.join(nearest[:3])}{', ...' if nearest[3:] else ''}"
    return text


def _bytes_of(held: _Held) -> int:
    return held.factor.feedback.nbytes if held.factor is not None else 0
