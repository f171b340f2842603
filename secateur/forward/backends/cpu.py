"""The CPU backend: float32 products, and threads that share the experts of a group.

16-bit weights are widened: on a CPU without AMX their products are a hundred times slower. Every
thread computes with a single torch thread, and groups do not depend on the threads, so the bits do
not either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.forward.backends.base import LayerCall
from secateur.forward.batches import ON_CPU, BatchSize, Group, MicroBatch
from secateur.forward.compute_slots import ComputeSlots
from secateur.forward.expert_batch import Aborted, ExpertBatch
from secateur.forward.expert_work import ExpertObserver
from secateur.forward.norms import fuse_norms
from secateur.forward.rotary import fuse_rotary
from secateur.forward.weights import Stack, WeightSource, WrappedWeights
from secateur.system.resources import free_memory

LOGITS_BYTES = 64 << 20
"""Bytes of float32 logits held at once per worker."""


def count_in_flight(workers: int, members: int) -> int:
    """Groups of so many micro-batches that are begun at a time: as many as keep all workers busy,
    and one more, since members of a group wait for each other. Each group holds some five times
    its hidden states."""
    return 1 + -(-workers // members)


@dataclass(frozen=True)
class CpuBackend:
    """All `workers` cores of this machine.

    Half as many threads again compute, since one that waits for Python's lock leaves its core to
    another.
    """

    workers: int = 1
    batch_size: BatchSize = ON_CPU
    name: str = "cpu"
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    queued: bool = False
    states_limit: int = 2 << 30
    logits_bytes: int = LOGITS_BYTES
    layers_ahead: int = 1

    def of_layer(self, layer: int) -> CpuBackend:
        return self

    @contextmanager
    def open(self, source: WeightSource) -> Iterator[WidenedWeights]:
        """The source with all but stacks of experts widened to float32 (those are widened a matrix
        at a time: forward.expert_products)."""
        yield WidenedWeights(source)

    @contextmanager
    def adapt(self, module: nn.Module, routers: Sequence[nn.Module]) -> Iterator[None]:
        """RMSNorms and rotary positions in one pass over memory each."""
        with fuse_norms(module), fuse_rotary(module):
            yield

    @contextmanager
    def start(self, groups: Sequence[Group]) -> Iterator[_Session]:
        """Start the threads."""
        threads = torch.get_num_threads()
        with ExitStack() as stack:
            stack.callback(torch.set_num_threads, threads)
            # In this thread too: a team of torch threads would spin on cores that the workers need.
            torch.set_num_threads(1)

            def start_pool(threads: int) -> ThreadPoolExecutor:
                return stack.enter_context(
                    ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
                )

            workers = max(1, self.workers)
            pool = start_pool(workers)
            # A thread for every micro-batch that may wait for others; slots limit who computes.
            largest = max(map(len, groups), default=1)
            in_flight = count_in_flight(workers, largest)
            members = start_pool(in_flight * largest)
            try:
                yield _Session(pool, members, ComputeSlots(workers + workers // 2), in_flight)
            except BaseException:
                # Else the pools would finish everything queued before they let the error out.
                pool.shutdown(cancel_futures=True)
                members.shutdown(cancel_futures=True)
                raise

    @contextmanager
    def run_alone(self, model: nn.Module, routers: Sequence[nn.Module]) -> Iterator[None]:
        """Threads that are in no group run the experts themselves; all else is the model's own."""
        yield

    def free_memory(self) -> int:
        return free_memory()


@dataclass(frozen=True)
class _Session:
    pool: ThreadPoolExecutor
    members: ThreadPoolExecutor
    slots: ComputeSlots
    in_flight: int
    unchecked: int = 0

    def begin(
        self, rank: int, group: Group, call: LayerCall, observer: ExpertObserver | None
    ) -> _Step:
        """Every micro-batch of the group runs the layer in a thread of its own."""
        experts = ExpertBatch(rank, len(group), self.slots, observer)

        def work(number: int, batch: MicroBatch) -> tuple[Tensor, Tensor]:
            with experts.join(number), torch.inference_mode():
                return call(batch)

        return _Step(experts, [self.members.submit(work, *one) for one in enumerate(group)])

    def map(self, work: Any, batches: Sequence[MicroBatch]) -> Iterable[Any]:
        """In the workers."""
        return self.pool.map(work, batches)


@dataclass(frozen=True)
class _Step:
    experts: ExpertBatch
    done: list[Future[tuple[Tensor, Tensor]]]

    def outputs(self) -> list[Tensor]:
        return [output for output, _ in self._results()]

    def broken(self) -> list[Tensor]:
        return [broken for _, broken in self._results()]

    def abort(self, error: BaseException) -> None:
        self.experts.abort(error)

    def _results(self) -> list[tuple[Tensor, Tensor]]:
        try:
            return [future.result() for future in self.done]
        except BaseException as error:
            self.experts.abort(error)
            # A member that waited for one that failed has that one's error as its cause.
            reason = error.__cause__ if isinstance(error, Aborted) else error
            raise reason or error from None


@dataclass(frozen=True)
class WidenedWeights(WrappedWeights):
    """A source whose tensors are float32, and whose stacks of experts stay as they are."""

    source: WeightSource

    def tensor(self, name: str) -> Tensor:
        return self.source.tensor(name).float()

    def experts(self, name: str) -> Stack:
        return self.source.experts(name)

    def prefetch(self, tensors: Sequence[str], stacks: Sequence[str]) -> None:
        """Nothing: the system reads ahead of what is mapped."""
