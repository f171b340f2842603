"""The backend that a user's word names: auto, cpu, cuda, cuda:1, mps."""

from __future__ import annotations

import torch

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import RequestError
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.torch_device import TorchDevice
from secateur.system.device_names import read_device
from secateur.system.resources import cores


def choose_backend(
    device: str, *, workers: int | None = None, dtype: torch.dtype = torch.float32
) -> Backend:
    """The backend of `device`, with `workers` cores (default: all) for what the CPU does.

    `auto` is the first CUDA GPU, or the CPU where there is none. `dtype` is that of products on a
    device; on the CPU they are float32. Raises RequestError for another word, and for a device that
    is not there.
    """
    kind, number = read_device(device)
    count = workers or cores()
    if is_cpu(device):
        return CpuBackend(count)
    kind = "cuda" if kind == "auto" else kind
    found = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if number >= found:
        raise RequestError(
            f"device {device}: torch {torch.__version__} sees {found} {kind.upper()} devices here: "
            "name another (auto takes what there is)"
        )
    where = torch.device(kind, number) if kind == "cuda" else torch.device(kind)
    return TorchDevice(where, dtype, count)


def is_cpu(device: str) -> bool:
    """Whether a user's word means the CPU of this machine."""
    kind = read_device(device).kind
    return kind == "cpu" or (kind == "auto" and not torch.cuda.is_available())


def product_type(checkpoint: Checkpoint) -> torch.dtype:
    """What a device multiplies a checkpoint's weights in while it calibrates: bfloat16 where its
    experts are, as they were trained; else float32, which rounds no weight."""
    types = {
        checkpoint.specs[name].dtype
        for name, place in checkpoint.matches.items()
        if place.role.startswith("expert.")
    }
    return torch.bfloat16 if types == {"BF16"} else torch.float32
