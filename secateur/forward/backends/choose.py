"""The backend that a user's word names: auto, cpu, cuda, cuda:1, cuda:0,cuda:1, mps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import RequestError
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.spread_device import SpreadDevice
from secateur.forward.backends.torch_device import TorchDevice
from secateur.system.device_names import first_gpus, read_device
from secateur.system.resources import cores


def choose_backend(
    device: str, *, workers: int | None = None, dtype: torch.dtype = torch.float32
) -> Backend:
    """The backend of `device`, with `workers` cores (default: all) for what the CPU does.

    `auto` is the first CUDA GPU, or the CPU where there is none; of several GPUs each holds its
    share of the layers. `dtype` is that of products on a
    device; on the CPU they are float32. Raises RequestError for another word, and for a device that
    is not there.
    """
    kind, numbers = read_device(device)
    count = workers or cores()
    if is_cpu(device):
        return CpuBackend(count)
    kind = "cuda" if kind == "auto" else kind
    found = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if max(numbers) >= found:
        raise RequestError(
            f"device {device}: torch {torch.__version__} sees {found} {kind.upper()} devices here: "
            "name another (auto takes what there is)"
        )
    if kind != "cuda":
        return TorchDevice(torch.device(kind), dtype, count)
    return share_layers([torch.device(kind, number) for number in numbers], dtype, count)


def share_layers(
    devices: Sequence[torch.device], dtype: torch.dtype = torch.float32, workers: int = 1
) -> TorchDevice:
    """One device, or several that share the layers of a model."""
    first, *others = devices
    if not others:
        return TorchDevice(first, dtype, workers)
    return SpreadDevice(first, dtype, workers, others=tuple(others))


def places_for_all_layers(device: str, workers: int | None = None) -> Iterator[Backend]:
    """Where a whole model may be held at once, the first with room to be taken: `auto` leaves the
    choice (a GPU, all GPUs together, the CPU), another word does not. Raises as choose_backend."""
    yield choose_backend(device, workers=workers)
    if read_device(device).kind != "auto" or is_cpu(device):
        return
    if torch.cuda.device_count() > 1:
        yield choose_backend(first_gpus(torch.cuda.device_count()), workers=workers)
    yield CpuBackend(workers or cores())


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
