"""A part of a corpus, for one of several machines.

What a group of micro-batches gives does not depend on the groups around it, but on how its own
documents are put together. So parts are whole groups of the whole corpus: the merged statistics
of all parts are those of one pass, to the byte. (Corpora that were divided by document make other
groups: the same tokens are sampled, and sums differ by the rounding of 32-bit products.)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from secateur.errors import CorpusError
from secateur.forward.batches import Group, divide_groups


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


def take_groups(
    groups: Sequence[Group], shard: Shard, fits: int = sys.maxsize
) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """(a part's groups, all others), their micro-batches numbered anew: first those of the part.

    Every `parts`-th group: neighbours are of like length, so the parts take about as long. Which
    documents a part has does not depend on `fits`, the tokens that a device has memory for: its
    micro-batches are divided when they are taken (batches.divide_groups).
    Raises CorpusError when there are fewer groups than parts.
    """
    if shard.parts > len(groups):
        raise CorpusError(
            f"the text is too short for {shard.parts} parts, each of which needs a group of "
            f"documents: it makes {len(groups)}"
        )
    first, step = shard.part - 1, shard.parts
    taken = _number(divide_groups(groups[first::step], fits), 0)
    others = [group for number, group in enumerate(groups) if number % step != first]
    return taken, _number(others, sum(map(len, taken)))


def _number(groups: Sequence[Group], first: int) -> tuple[Group, ...]:
    numbers = count(first)
    return tuple(tuple(replace(batch, index=next(numbers)) for batch in group) for group in groups)
