"""The sample of tokens for `rerouted`: drawn before the pass, collected layer by layer.

Every category gives the same number of tokens (all it has, when it has fewer), those of the
smallest hashes (statistics.token_sample). The same tokens are used in every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.calibration.removal_search import LayerSample
from secateur.corpus.rows import Corpus
from secateur.forward.batches import Group, MicroBatch
from secateur.statistics.gram import GramKind
from secateur.statistics.sample_file import LayerTokens
from secateur.statistics.token_sample import (
    GRAM_TOKENS,
    REROUTE_TOKENS,
    TokenKeys,
    document_key,
    hash_places,
    join_keys,
    no_keys,
    share_of,
    smallest,
)

if TYPE_CHECKING:
    from secateur.calibration.pass_folder import PassFolder

_CANDIDATES = 1 << 20
"""Candidates of a category that are held before all but the smallest are dropped."""


@dataclass(frozen=True)
class Sampling:
    """What of the pass is kept besides its sums over experts.

    `tokens` are sampled (0: none) with `seed`, and kept in the file `keep`; Gram matrices of all
    linear layers' inputs, of the kind `gram`, on about `gram_tokens` (0: all), in the file
    `gram_file`. In the folder `resume` the pass keeps what another needs to go on where it is
    stopped; the other files are to be in it.
    """

    tokens: int = REROUTE_TOKENS
    seed: int = 0
    keep: Path | None = None
    gram: GramKind | None = None
    gram_tokens: int = GRAM_TOKENS
    gram_file: Path | None = None
    resume: PassFolder | None = None


class Drawn(NamedTuple):
    """The sampled tokens of a micro-batch or group; int64 [n]: flattened positions, and places in
    the sample."""

    positions: Tensor
    rows: Tensor


class Seen(NamedTuple):
    """What the sampled tokens of one group brought to a layer; see LayerTokens."""

    rows: Tensor
    inputs: Tensor
    scores: Tensor
    experts: Tensor
    gates: Tensor


@dataclass(frozen=True)
class TokenDraw:
    """The sampled tokens of a corpus, or of some of its micro-batches; arrays [S]."""

    keys: TokenKeys
    batch: NDArray[np.int64]
    position: NDArray[np.int64]
    """in the flattened micro-batch"""

    def of_first(self, batches: int) -> TokenDraw:
        """Those of the first so many micro-batches."""
        rows = np.flatnonzero(self.batch < batches)
        return TokenDraw(self.keys.take(rows), self.batch[rows], self.position[rows])

    def by_batch(self) -> dict[int, Drawn]:
        """{micro-batch: its sampled tokens}, in the order of their positions."""
        order = np.lexsort((self.position, self.batch))
        found = {}
        for index in np.unique(self.batch).tolist():
            rows = order[self.batch[order] == index]
            positions = torch.from_numpy(self.position[rows])
            found[index] = Drawn(positions, torch.from_numpy(rows))
        return found


def draw(batches: Sequence[MicroBatch], corpus: Corpus, tokens: int, seed: int) -> TokenDraw:
    """The sample of a corpus, `tokens` in all, shared evenly by the categories.

    Peak memory: some _CANDIDATES tokens per category.
    """
    share = share_of(tokens, len(corpus.categories))
    held: dict[int, list[TokenDraw]] = {}
    sizes: dict[int, int] = {}
    for category, candidates in _hash_lines(batches, corpus, seed):
        held.setdefault(category, []).append(candidates)
        sizes[category] = sizes.get(category, 0) + len(candidates.batch)
        if sizes[category] > max(_CANDIDATES, 4 * share):
            held[category] = [_cut(held[category], share)]
            sizes[category] = len(held[category][0].batch)
    return _cut([part for parts in held.values() for part in parts], share)


def choose_tokens(
    batches: Sequence[MicroBatch], corpus: Corpus, tokens: int, seed: int
) -> dict[int, Tensor] | None:
    """{micro-batch: bool [its tokens, flattened]} of about `tokens` of the corpus, those whose
    hashes are below a limit; None for all, where there are no more or `tokens` is 0.

    Whatever part of the corpus is run chooses the same of its tokens, so that sums over parts are
    those over the whole.
    """
    if not 0 < tokens < corpus.tokens:
        return None
    limit = np.uint64(tokens * 2**64 // corpus.tokens)
    chosen = {one.index: torch.zeros(one.input_ids.numel(), dtype=torch.bool) for one in batches}
    for _, line in _hash_lines(batches, corpus, seed):
        below = line.keys.hash < limit
        if below.any():
            chosen[int(line.batch[0])][torch.from_numpy(line.position[below])] = True
    return chosen


def _cut(parts: Sequence[TokenDraw], share: int) -> TokenDraw:
    """The `share` smallest of every category."""
    if not parts:
        return TokenDraw(no_keys(), np.zeros(0, np.int64), np.zeros(0, np.int64))
    keys = join_keys([part.keys for part in parts])
    chosen = smallest(keys, share)
    batch, position = (
        np.concatenate([getattr(part, name) for part in parts])[chosen]
        for name in ("batch", "position")
    )
    return TokenDraw(keys.take(chosen), batch, position)


def _hash_lines(
    batches: Sequence[MicroBatch], corpus: Corpus, seed: int
) -> Iterator[tuple[int, TokenDraw]]:
    """(category, its unmasked tokens) of every line."""
    copies = _count_copies(corpus)
    numbers = {name: number for number, name in enumerate(corpus.categories)}
    for batch in batches:
        length = batch.input_ids.shape[1]
        for number, line in enumerate(batch.lines):
            row = corpus.rows[line.row]
            category = numbers[row.category]
            sample = corpus.samples[row.samples[line.document]]
            document = document_key(sample.sha256, copies[line.row, line.document], seed)
            places = batch.mask[number].nonzero()[:, 0].numpy()
            count = len(places)
            keys = TokenKeys(
                np.full(count, category, np.int16),
                hash_places(document, places),
                np.full(count, document, np.uint64),
                places.astype(np.int32),
            )
            whole = np.full(count, batch.index, np.int64)
            yield category, TokenDraw(keys, whole, places + number * length)


def _count_copies(corpus: Corpus) -> dict[tuple[int, int], int]:
    """{(row, document in it): how many copies or pieces of the same document come before it}."""
    seen: dict[tuple[str, str], int] = {}
    copies = {}
    for number, row in enumerate(corpus.rows):
        for document, sample in enumerate(row.samples):
            key = corpus.samples[sample].sha256, row.category
            copies[number, document] = seen.get(key, 0)
            seen[key] = copies[number, document] + 1
    return copies


def join_drawn(group: Group, drawn: Mapping[int, Drawn]) -> Drawn | None:
    """The sampled tokens of a group, as positions in all its tokens; None without any."""
    start, positions, rows = 0, [], []
    for batch in group:
        if batch.index in drawn:
            positions.append(drawn[batch.index].positions + start)
            rows.append(drawn[batch.index].rows)
        start += batch.input_ids.numel()
    return Drawn(torch.cat(positions), torch.cat(rows)) if positions else None


def see(
    drawn: Drawn, mask: Tensor, hidden: Tensor, scores: Tensor, experts: Tensor, gates: Tensor
) -> Seen:
    """The sampled rows of a group [T, ...]; masked tokens are left out.

    The inputs are rounded to bfloat16, so that a sample that is kept is the one that was solved.
    """
    alive = mask[drawn.positions]
    rows = drawn.rows[alive]
    positions = drawn.positions[alive].to(hidden.device, non_blocking=True)
    return Seen(
        rows,
        hidden[positions].to(torch.bfloat16),
        scores[positions],
        experts[positions],
        gates[positions],
    )


def join_seen(parts: Sequence[Seen], tokens: int, sizes: tuple[int, int, int]) -> LayerTokens:
    """The sample of a layer, `tokens` long and in its own order; `sizes` are H, E, K."""
    hidden, experts, top_k = sizes
    found = LayerTokens(
        np.zeros((tokens, hidden), np.uint16),
        np.zeros((tokens, experts), np.float32),
        np.full((tokens, top_k), -1, np.int16),
        np.zeros((tokens, top_k), np.float32),
    )
    for part in parts:
        rows = part.rows.numpy()
        found.inputs[rows] = part.inputs.cpu().view(torch.int16).numpy().view(np.uint16)
        found.scores[rows] = part.scores.float().cpu().numpy()
        found.experts[rows] = part.experts.cpu().numpy()
        found.gates[rows] = part.gates.float().cpu().numpy()
    return found


def join_sample(parts: Sequence[Seen], keys: TokenKeys) -> LayerSample:
    """What the search works on, of a layer that was just run: it stays on the layer's device."""
    rows, order = torch.cat([part.rows for part in parts]).sort()
    there = order.to(parts[0].inputs.device, non_blocking=True)
    inputs, scores, experts, gates = (
        torch.cat([getattr(part, name) for part in parts])[there]
        for name in ("inputs", "scores", "experts", "gates")
    )
    return LayerSample(
        inputs=inputs.float() if inputs.device.type == "cpu" else inputs,
        scores=scores.float(),
        experts=experts,
        gates=gates.float(),
        categories=torch.from_numpy(keys.category[rows.numpy()].astype(np.int64)),
        weights=torch.ones(len(rows)),
    )


def to_layer_sample(tokens: LayerTokens, keys: TokenKeys, device: torch.device) -> LayerSample:
    """The same of a sample that was kept."""
    alive = np.flatnonzero(tokens.experts[:, 0] >= 0)
    part = Seen(
        torch.from_numpy(alive),
        torch.from_numpy(tokens.inputs[alive].view(np.int16)).view(torch.bfloat16).to(device),
        torch.from_numpy(tokens.scores[alive]).to(device),
        torch.from_numpy(tokens.experts[alive].astype(np.int64)).to(device),
        torch.from_numpy(tokens.gates[alive]).to(device),
    )
    return join_sample([part], keys)
