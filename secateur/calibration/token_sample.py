"""A stratified sample of tokens, chosen before the pass and collected layer by layer.

Every category gives the same number of tokens (all it has, when it has fewer), drawn without
replacement by a seeded generator. The same tokens are used in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.calibration.removal_search import LayerSample
from secateur.corpus.rows import Corpus
from secateur.forward.batches import Group, MicroBatch


class Drawn(NamedTuple):
    """The sampled tokens of a micro-batch or group: flattened positions, categories; int64 [n]."""

    positions: Tensor
    categories: Tensor


class Seen(NamedTuple):
    """What the sampled tokens of one group brought to a layer; see LayerSample."""

    inputs: Tensor
    scores: Tensor
    experts: Tensor
    gates: Tensor
    categories: Tensor


def draw(
    batches: Sequence[MicroBatch], corpus: Corpus, tokens: int, seed: int
) -> Mapping[int, Drawn]:
    """{micro-batch: its sampled tokens}, `tokens` in all, shared evenly by the categories."""
    numbers = {name: number for number, name in enumerate(corpus.categories)}
    where: list[list[tuple[int, int]]] = [[] for _ in corpus.categories]
    for batch in batches:
        length = batch.input_ids.shape[1]
        for line, source in enumerate(batch.lines):
            category = numbers[corpus.rows[source.row].category]
            unmasked = batch.mask[line].nonzero().flatten().tolist()
            where[category] += [(batch.index, line * length + place) for place in unmasked]
    share = -(-tokens // len(where))
    chosen: dict[int, list[tuple[int, int]]] = {}
    for category, places in enumerate(where):
        generator = np.random.Generator(np.random.PCG64([seed, category]))
        for pick in generator.permutation(len(places))[:share]:
            index, position = places[int(pick)]
            chosen.setdefault(index, []).append((position, category))
    drawn = {}
    for index, entries in chosen.items():
        pairs = torch.tensor(sorted(entries), dtype=torch.int64)
        drawn[index] = Drawn(pairs[:, 0], pairs[:, 1])
    return drawn


def join_drawn(group: Group, drawn: Mapping[int, Drawn]) -> Drawn | None:
    """The sampled tokens of a group, as positions in all its tokens; None without any."""
    start, positions, categories = 0, [], []
    for batch in group:
        if batch.index in drawn:
            positions.append(drawn[batch.index].positions + start)
            categories.append(drawn[batch.index].categories)
        start += batch.input_ids.numel()
    return Drawn(torch.cat(positions), torch.cat(categories)) if positions else None


def see(
    drawn: Drawn, mask: Tensor, hidden: Tensor, scores: Tensor, experts: Tensor, gates: Tensor
) -> Seen:
    """The sampled rows of a group [T, ...]; masked tokens are left out."""
    alive = mask[drawn.positions]
    positions = drawn.positions[alive]
    return Seen(
        hidden[positions],
        scores[positions],
        experts[positions],
        gates[positions],
        drawn.categories[alive],
    )


def join(parts: Sequence[Seen]) -> LayerSample:
    """The whole sample of a layer, in the order of the groups."""
    joined = Seen(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    return LayerSample(*joined, weights=torch.ones(len(joined.categories)))
