"""Copies from a device to the host that nothing waits for until they are looked at."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to the host: on CUDA queued into locked memory, else there at once."""

    def __init__(self, value: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if value.device.type != "cuda":
            self._value = value.cpu()
            return
        there = torch.empty_like(value, device="cpu", pin_memory=True)
        self._value = there.copy_(value, non_blocking=True)
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._done.record(torch.cuda.current_stream(value.device))

    def wait(self) -> Tensor:
        """The tensor, once the device has come so far; in any thread."""
        if self._done is not None:
            self._done.synchronize()
        return self._value
