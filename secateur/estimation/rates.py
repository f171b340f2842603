"""What a probe measures of a machine, and what is assumed where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rates:
    """Seconds that pieces of work take on this machine, with the workers that will be used.

    `layers` {layer: seconds for a full group of tokens}, `group` the tokens of such a group,
    `rest` {layer: seconds per token of a group that is not full}; `solve` seconds per sampled token
    of solving `rerouted` in one layer and `solve_layer` what it takes besides; `gram` seconds per
    token that Gram matrices take in all layers; `head` seconds per
    scored token for its logits and what is made of them; `encode` {type: seconds per element};
    `step` seconds for one more token of every answer of one batch. `read`, `write` and `hash` are
    bytes per second, and so is `copy`, of those read and those written together while both go on.
    """

    layers: Mapping[int, float]
    group: int
    rest: Mapping[int, float]
    solve: float
    solve_layer: float
    start: float
    head: float
    step: float
    read: float
    write: float
    copy: float
    hash: float
    encode: Mapping[str, float] = field(default_factory=dict)
    gram: float = 0.0
    probed: bool = True


FLOPS = 15e9
"""Floating point operations per second and core that are assumed before anything is measured."""
ENCODED = 20e6
"""Elements per second and core that are encoded."""
COPIED = 500e6
"""Bytes per second that a disk reads or writes."""
HASHED = 400e6
"""Bytes per second and core that are hashed."""
