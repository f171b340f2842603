"""Batched expert dispatch: the threads of a group, however they come, leave and fail."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.forward.compute_slots import ComputeSlots
from secateur.forward.expert_batch import Aborted, ExpertBatch
from secateur.forward.expert_products import Room
from secateur.forward.expert_work import ExpertInput, ExpertWork

EXPERTS, HIDDEN, WIDTH = 4, 8, 6


def make_experts() -> Any:
    """What the products ask of a fused-experts module."""
    chance = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        num_experts=EXPERTS,
        has_gate=False,
        has_bias=False,
        is_transposed=True,
        has_post_expert_norm=False,
        act_fn=torch.relu,
        up_proj=torch.randn(EXPERTS, HIDDEN, WIDTH, generator=chance),
        down_proj=torch.randn(EXPERTS, WIDTH, HIDDEN, generator=chance),
    )


def make_input(seed: int, tokens: int = 5) -> ExpertInput:
    chance = torch.Generator().manual_seed(seed)
    experts = torch.stack([torch.randperm(EXPERTS, generator=chance)[:2] for _ in range(tokens)])
    hidden = torch.randn(tokens, HIDDEN, generator=chance)
    return ExpertInput(hidden, experts, torch.rand(tokens, 2, generator=chance))


def run_alone(module: nn.Module, given: ExpertInput) -> Tensor:
    work = ExpertWork(module, [given], None)
    work.help()
    return work.results()[0]


def test_members_that_leave_without_dispatching_hold_up_nobody() -> None:
    module, slots = make_experts(), ComputeSlots(2)
    batch = ExpertBatch(0, 3, slots, None)
    inputs = [make_input(0), make_input(1)]

    def work(number: int) -> Tensor | None:
        with batch.join(number), torch.inference_mode():
            return batch.dispatch(number, module, inputs[number]) if number < 2 else None

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(work, range(3)))
    for result, given in zip(results, inputs, strict=False):
        torch.testing.assert_close(result, run_alone(module, given))


def test_a_failing_member_aborts_the_others() -> None:
    batch = ExpertBatch(0, 2, ComputeSlots(2), None)
    waits = threading.Event()

    def wait() -> None:
        with batch.join(0):
            waits.set()
            batch.dispatch(0, make_experts(), make_input(0))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        waits.wait()
        batch.abort(ZeroDivisionError("a layer failed"))
        with pytest.raises(Aborted) as caught:
            waiting.result(timeout=60)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_work_that_ends_while_a_late_member_looks_at_it() -> None:
    """The last helper takes `_work` away; a member reads it once, so that it sees it whole."""

    class Vanishing(ExpertBatch):
        reads = 0

        @property
        def _work(self) -> ExpertWork | None:  # type: ignore[override]
            self.reads += 1
            return self._held if self.reads == 1 else None

        @_work.setter
        def _work(self, work: ExpertWork | None) -> None:
            self._held = work

    module, given = make_experts(), make_input(0)
    batch = Vanishing(0, 1, ComputeSlots(1), None)
    with batch.join(0), torch.inference_mode():
        result = batch.dispatch(0, module, given)
    torch.testing.assert_close(result, run_alone(module, given))


def test_widened_matrices_take_the_place_of_those_before() -> None:
    """24 MB of new memory for every expert of a 26B model took a sixth of the experts' time."""
    room, weights = Room(), torch.randn(3, 8, 6).bfloat16()
    first = room.widen(weights[0], 0, down=False)
    assert torch.equal(first, weights[0].float())
    beside = [room.widen(weights[1], 1, down=False), room.widen(weights[1].t(), 0, down=True)]
    assert torch.equal(first, weights[0].float())
    again = room.widen(weights[2], 0, down=False)
    assert again is first and torch.equal(again, weights[2].float())
    assert torch.equal(beside[0], weights[1].float()) and torch.equal(beside[1].t(), beside[0])
    wide = torch.randn(8, 6)
    assert room.widen(wide, 0, down=False) is wide
