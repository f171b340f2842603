"""A part of a corpus, for one of several machines.

What a group of micro-batches gives does not depend on the groups around it, but on how its own
documents are put together. So parts are whole groups of the whole corpus: the merged statistics
of all parts are those of one pass, to the byte. (Corpora that were divided by document make other
groups: the same tokens are sampled, and sums differ by the rounding of 32-bit products.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from secateur.errors import CorpusError
from secateur.forward.batches import Group


@dataclass(frozen=True)
class Shard:
    """Part `part` of `parts`, counted from 1."""

    part: int
    parts: int

    def __post_init__(self) -> None:
        if not 1 <= self.part <= self.parts:
            raise CorpusError(
                f"shard {self.part}/{self.parts}: expected a part from 1 to {self.parts}, as in 1/3"
            )


WHOLE = Shard(1, 1)


def read_shard(text: str) -> Shard:
    """The shard of a text such as 2/3. Raises CorpusError for any other."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise CorpusError(f"shard {text!r}: expected a part of the corpus such as 2/3")
    return Shard(int(part), int(parts))


def take_groups(groups: Sequence[Group], shard: Shard) -> tuple[tuple[Group, ...], dict[int, int]]:
    """A part's groups with their micro-batches numbered anew, and {old number: new number}.

    Every `parts`-th group: neighbours are of like length, so the parts take about as long.
    Raises CorpusError when there are fewer groups than parts.
    """
    if shard.parts > len(groups):
        raise CorpusError(
            f"the text is too short for {shard.parts} parts: it has {len(groups)} groups of "
            "documents, and each part needs one"
        )
    numbers: dict[int, int] = {}
    taken = []
    for group in groups[shard.part - 1 :: shard.parts]:
        for batch in group:
            numbers[batch.index] = len(numbers)
        taken.append(tuple(replace(batch, index=numbers[batch.index]) for batch in group))
    return tuple(taken), numbers
