"""Devices that are not there: memory of the CPU that says it is elsewhere.

Inside `PretendDevices` tensors may be moved to `xpu:0`, `xpu:1`, ...; they compute as on the CPU,
and as with real devices an operation on tensors of two places is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FIRST, SECOND = torch.device("xpu", 0), torch.device("xpu", 1)
_CPU = torch.device("cpu")
_BETWEEN = {"copy_", "__getitem__", "__setitem__"}
"""Operations that take tensors of several places, as torch has it."""


class PretendDevices(TorchFunctionMode):
    """`moved` counts tensors that went from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0
        self._places: dict[int, tuple[torch.device, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if getattr(func, "__self__", None) is torch.Tensor.device:
            return self.place(args[0])
        if name in ("to", "cpu"):
            return self._move(args[0], ("cpu",) if name == "cpu" else args[1:], kwargs)
        given = list(find_tensors((args, kwargs)))
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = "meta" if torch.device(asked).type == "meta" else "cpu"
        places = {self.place(one) for one in given if one.dim() and one.numel() and not one.is_meta}
        if len(places) > 1 and name not in _BETWEEN and asked is None:
            raise RuntimeError(f"{name}: tensors on {sorted(map(str, places))}")
        if name == "numpy" and places - {_CPU}:
            raise TypeError(f"numpy: a tensor on {places}")
        result = func(*args, **kwargs)
        there = torch.device(asked) if asked is not None else self._of(name, given, places)
        for one in find_tensors(result):
            if not one.is_meta and one.untyped_storage().data_ptr() not in self._places:
                self._note(one, there)
        return result

    def place(self, tensor: Tensor) -> torch.device:
        """Where a tensor is said to be."""
        if tensor.is_meta:
            return torch.device("meta")
        known = self._places.get(tensor.untyped_storage().data_ptr())
        return known[0] if known else _CPU

    def _of(self, name: str, given: Sequence[Tensor], places: set[torch.device]) -> torch.device:
        if name in _BETWEEN:
            return self.place(given[0])
        return next(iter(places), self.place(given[0]) if given else _CPU)

    def _move(self, tensor: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        copied = kwargs.pop("copy", False)
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if tensor.is_meta or torch.device(device or "cpu").type == "meta":
            return tensor.to(*args, **kwargs)
        before = self.place(tensor)
        there = before if device is None else device
        result = tensor if dtype is None else tensor.to(dtype)
        if result is tensor and (copied or there != before):
            result = tensor.clone()
        self.moved += there != before and "xpu" == there.type == before.type
        if result is not tensor:
            self._note(result, there)
        return result

    def _note(self, tensor: Tensor, place: torch.device) -> None:
        if place != _CPU and tensor.numel():
            # What is held is not freed, so that no other tensor gets its memory.
            self._places[tensor.untyped_storage().data_ptr()] = place, tensor


def find_tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from find_tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from find_tensors(part)
