"""The streamed forward: all micro-batches through one layer, then the next layer's weights.

The model's own forward is recorded once per micro-batch (forward.layer_calls); then each layer is
loaded, called as recorded on all micro-batches, and freed. Where, and how the micro-batches of a
group share the experts, is the backend's matter (forward.backends). Peak memory: the layer as its
backend holds it; the hidden states (on the device, in host memory, or in a mapped file beyond
`hidden_limit`); the recorded calls (CALLS_LIMIT); and what a layer holds of the micro-batches that
are on their way through it: some five times their hidden states.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.errors import NumericError, WriteError
from secateur.forward.backends.base import Backend, GroupWork
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.batches import Group, MicroBatch, group_micro_batches
from secateur.forward.expert_work import ExpertObserver
from secateur.forward.layer_calls import LayerCalls, replace_layers
from secateur.forward.output_head import load_output_head
from secateur.forward.rounded_inputs import RoundInputs, round_inputs
from secateur.forward.skeleton import (
    build_skeleton,
    fill_parameters,
    find_path,
    get_decoder_layers,
    load_decoder_layer,
)
from secateur.forward.weights import WeightSource
from secateur.system.reserved_file import reserve_file
from secateur.system.sizes import show_bytes

HIDDEN_LIMIT = 2 << 30
"""Bytes of hidden states kept in host memory; more go to a mapped file."""


class _Step(NamedTuple):
    """A group on its way through a layer."""

    layer: int
    rank: int
    group: Group
    work: GroupWork


class ForwardPass:
    """One pass of micro-batches through a model, layer by layer.

    Use as a context manager: it embeds on entering; then run layers 0, 1, ..., each inside
    `load_layer`, then ask for `logits` inside `load_head`. Layers may be left out at the
    end only. `groups` are the micro-batches in groups that were made before (default: they are
    grouped here). `rounding` is done to the inputs of all products, the head's included.
    """

    def __init__(
        self,
        source: WeightSource,
        batches: Sequence[MicroBatch],
        backend: Backend = CpuBackend(),  # noqa: B008 - frozen
        *,
        hidden_limit: int = HIDDEN_LIMIT,
        skip_bad: bool = False,
        groups: Sequence[Group] | None = None,
        rounding: RoundInputs | None = None,
    ) -> None:
        self.backend = backend
        self.model = build_skeleton(source, backend)
        self.batches = batches
        self.groups = (
            group_micro_batches(batches, backend.batch_size) if groups is None else tuple(groups)
        )
        self.family = source.family
        self.config = source.config
        self.skipped = 0
        self.skip_bad = skip_bad
        self._rounding = rounding
        self._masks = [batch.mask.clone() for batch in batches]
        self._source = source
        self._hidden_limit = hidden_limit
        self._stack = ExitStack()
        self._hidden: list[Tensor] = []
        self._unchecked: deque[_Step] = deque()

    def __enter__(self) -> ForwardPass:
        with ExitStack() as stack:
            self._weights = stack.enter_context(self.backend.open(self._source))
            self._session = stack.enter_context(self.backend.start(self.groups))
            stack.enter_context(
                fill_parameters(self.model, self._name_outside_layers(), self._weights)
            )
            self._hidden = self._embed(stack)
            self._calls = LayerCalls(self.model, self.batches, self._hidden, self.backend.device)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hidden = []
        self._unchecked.clear()
        del self._calls
        self._stack.__exit__(*error)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """float32 [B, L, H]: the hidden states of a micro-batch before the next layer."""
        return self._hidden[batch.index]

    def mask(self, batch: MicroBatch) -> Tensor:
        """bool [B, L]: the tokens of a micro-batch that (still) count: no padding, not masked."""
        return self._masks[batch.index]

    @contextmanager
    def load_layer(self, layer: int) -> Iterator[nn.Module]:
        """The decoder layer `layer` with its weights."""
        prefix = f"{find_path(self.model, get_decoder_layers(self.model))}.{layer}"
        with (
            load_decoder_layer(self.model, layer, self._weights, self.backend) as module,
            round_inputs(module, prefix, self._rounding),
        ):
            yield module

    def run(
        self,
        module: nn.Module,
        layer: int,
        observe: Callable[[Group], ExpertObserver | None] = lambda _: None,
        done: Callable[[Group], None] = lambda _: None,
    ) -> None:
        """Push all micro-batches through a loaded layer.

        `observe` gives each group its observer; `done` is called when the group is through; both
        in this thread, in the order of the groups. When an unmasked token becomes NaN or infinite:
        NumericError, here or on a device as late as in `finish`; or with `skip_bad` the token is
        masked, and its group is run again without it (with a new observer).
        """
        left = iter(enumerate(self.groups))
        in_flight: deque[_Step] = deque()
        try:
            while True:
                for rank, group in islice(left, self._session.in_flight - len(in_flight)):
                    in_flight.append(self._begin(module, layer, rank, group, observe))
                if not in_flight:
                    return
                self._end(in_flight[0], module, observe)
                done(in_flight[0].group)
                self._unchecked.append(in_flight.popleft())
                self.finish(self._session.unchecked)
        except BaseException as error:
            for step in in_flight:
                step.work.abort(error)
            raise

    def _begin(
        self,
        module: nn.Module,
        layer: int,
        rank: int,
        group: Group,
        observe: Callable[[Group], ExpertObserver | None],
    ) -> _Step:
        device = self.backend.of_layer(layer).device

        def call(batch: MicroBatch) -> tuple[Tensor, Tensor]:
            recorded = self._calls.of(batch, layer, device)
            hidden = self._bring(batch, device)
            output = module(hidden, *recorded.args, **recorded.kwargs)
            output = output[0] if isinstance(output, tuple) else output
            broken = ~torch.isfinite(output.sum(-1))
            if not self.skip_bad:
                # Nothing will be done again: no need to hold the old states and the new.
                self._hidden[batch.index].copy_(output)
                output = self._hidden[batch.index]
            return output, broken

        work = self._session.begin(rank, group, call, observe(group))
        return _Step(layer, rank, group, work)

    def _bring(self, batch: MicroBatch, device: torch.device) -> Tensor:
        """The hidden states of a micro-batch on the device of a layer. Those that are kept on a
        device stay on the last one."""
        state = self._hidden[batch.index]
        there = state.to(device, non_blocking=True)
        if state.device.type == device.type:
            self._hidden[batch.index] = there
        return there

    def _end(
        self,
        step: _Step,
        module: nn.Module,
        observe: Callable[[Group], ExpertObserver | None],
    ) -> None:
        """Wait for a group; with `skip_bad`, mask its broken tokens and run it again."""
        outputs = step.work.outputs()
        if not self.skip_bad:
            return
        found = step.work.broken()
        bad = self._find_bad(step)
        if any(bool(one.any()) for one in bad):
            for batch, one in zip(step.group, bad, strict=True):
                self._masks[batch.index] &= ~one
                self.skipped += int(one.sum())
            outputs = self._begin(module, step.layer, step.rank, step.group, observe).work.outputs()
        for batch, output, broken in zip(step.group, outputs, found, strict=True):
            gone = broken.unsqueeze(-1).to(output.device)
            self._hidden[batch.index].copy_(output.masked_fill(gone, 0.0))

    def finish(self, left: int = 0) -> None:
        """Check what has been run, but for the last `left` groups. Raises NumericError as `run`
        does."""
        while len(self._unchecked) > left:
            self._check(self._unchecked.popleft())

    def check_layer(self, layer: int) -> None:
        """As `finish`, for the groups of `layer` and those before it."""
        while self._unchecked and self._unchecked[0].layer <= layer:
            self._check(self._unchecked.popleft())

    def _check(self, step: _Step) -> None:
        if self.skip_bad:
            return  # they are masked
        for batch, one in zip(step.group, self._find_bad(step), strict=True):
            if bool(one.any()):
                raise _bad_token(batch, step.layer, one)

    def _find_bad(self, step: _Step) -> list[Tensor]:
        """bool [B, L] of every micro-batch: unmasked tokens that became NaN or infinite."""
        return [
            broken & self._masks[batch.index]
            for batch, broken in zip(step.group, step.work.broken(), strict=True)
        ]

    def logits(self, batch: MicroBatch, where: Tensor) -> Tensor:
        """float32 [n, V]: logits at the flattened positions `where` (int64 [n]) of a micro-batch.

        Call inside `load_head()`. The model's own forward applies the final norm and soft-cap.
        """
        hidden = self._hidden[batch.index].reshape(-1, self._hidden[batch.index].shape[-1])
        with torch.inference_mode():
            states = hidden[where.to(hidden.device)].to(self.backend.device)
            result = self.model(inputs_embeds=states.unsqueeze(0), use_cache=False)
        return result.logits[0].float()  # type: ignore[no-any-return]

    @contextmanager
    def load_head(self) -> Iterator[None]:
        """Load the output head (the embedding, when tied) in its own type, for `logits`; call it
        after the last layer. Raises NumericError as `finish` does."""
        self.finish()
        names = set(self._source.names())
        own = "lm_head.weight"
        running = own if own in names else self._find_embedding() + ".weight"
        weight = self._source.tensor(running).to(self.backend.device)
        with (
            load_output_head(self.model, running, weight),
            round_inputs(self.model.lm_head, running.removesuffix(".weight"), self._rounding),
            replace_layers(self.model, []),
        ):
            yield

    def map(self, work: Callable[[MicroBatch], Any]) -> Iterator[Any]:
        """Run `work` on all micro-batches in the workers; results in order."""
        return iter(self._session.map(work, self.batches))

    def _name_outside_layers(self) -> dict[str, str]:
        """All small parameters outside the decoder layers: final norm and the like."""
        layers = find_path(self.model, get_decoder_layers(self.model))
        skip = (layers + ".", self._find_embedding() + ".", "lm_head.")
        return {n: n for n in self.model.state_dict() if not n.startswith(skip)}

    def _find_embedding(self) -> str:
        return find_path(self.model, self.model.get_input_embeddings())

    def _embed(self, stack: ExitStack) -> list[Tensor]:
        """Run the embedding module on just the rows that occur."""
        used = torch.unique(torch.cat([batch.input_ids.reshape(-1) for batch in self.batches]))
        module = self.model.get_input_embeddings()
        device = self.backend.device
        table = self._source.tensor(self._find_embedding() + ".weight")
        shell = module.weight
        try:
            module.weight = nn.Parameter(
                table[used.to(table.device)].float().to(device), requires_grad=False
            )
            del table
            width = module.weight.shape[-1]
            states = self._allocate_states(
                [(*batch.input_ids.shape, width) for batch in self.batches], stack
            )
            padding, module.padding_idx = module.padding_idx, None
            with torch.inference_mode():
                for state, batch in zip(states, self.batches, strict=True):
                    state.copy_(module(torch.searchsorted(used, batch.input_ids).to(device)))
            module.padding_idx = padding
        finally:
            module.weight = shell
        return states

    def _allocate_states(self, shapes: Sequence[tuple[int, ...]], stack: ExitStack) -> list[Tensor]:
        dtype = self.backend.dtype
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
        nbytes = dtype.itemsize * sum(sizes)
        if nbytes <= self.backend.states_limit:
            return [torch.empty(shape, dtype=dtype, device=self.backend.device) for shape in shapes]
        if nbytes <= self._hidden_limit:
            return [torch.empty(shape, dtype=dtype) for shape in shapes]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-hidden-"))
        file = _reserve(Path(folder, "states"), nbytes)
        flat = torch.from_file(str(file), shared=True, size=sum(sizes), dtype=dtype)
        parts = torch.split(flat, sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _reserve(path: Path, nbytes: int) -> Path:
    """The path, with a file of so many bytes there. Raises WriteError."""
    try:
        reserve_file(path, nbytes)
    except OSError as error:
        raise WriteError(
            f"the hidden states take {show_bytes(nbytes)} in {path.parent.parent}: "
            f"{error.strerror}: set TMPDIR to a folder of a larger disk, or calibrate in parts "
            "(parts, or shard)"
        ) from None
    return path


def _bad_token(batch: MicroBatch, layer: int, bad: Tensor) -> NumericError:
    number = int(bad.any(-1).nonzero()[0])
    line = batch.lines[number]
    return NumericError(
        f"layer {layer} gave NaN or infinity for row {line.row}, token "
        f"{line.start + int(bad[number].nonzero()[0])}: "
        "the checkpoint's weights or this row are damaged"
    )
