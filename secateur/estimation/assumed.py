"""Rates that are assumed of a machine before anything is measured: slow ones, so that what might
take long is probed."""

from __future__ import annotations

from secateur.estimation.arithmetic import Shape
from secateur.estimation.rates import COPIED, ENCODED, FLOPS, HASHED, Rates
from secateur.estimation.work import Calibrating
from secateur.forward.batches import ON_CPU


def assumed_rates(shape: Shape, work: Calibrating | None, workers: int) -> Rates:
    """From the operations that there are, at a rate that old processors reach."""
    speed = FLOPS * workers
    full = {n: layer.flops * ON_CPU.group / speed for n, layer in enumerate(shape.layers)}
    solve = work.solving / speed if work is not None else 0.0
    head = 6.0 * shape.vocab * shape.hidden / speed
    step = 16 * (sum(layer.flops for layer in shape.layers) / speed) + 0.01 * len(shape.layers)
    return Rates(
        layers=full,
        group=ON_CPU.group,
        rest={n: seconds / ON_CPU.group for n, seconds in full.items()},
        solve=solve,
        solve_layer=0.0,
        start=1.0,
        head=head,
        step=step,
        read=COPIED,
        write=COPIED,
        copy=COPIED,
        hash=HASHED * workers,
        encode={"": 1 / (ENCODED * workers)},
        gram=work.gram / speed if work is not None else 0.0,
        probed=False,
    )
