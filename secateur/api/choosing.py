"""Where the codes of a plan are chosen: on the cores of the CPU, or on a GPU that is asked for."""

from __future__ import annotations

from secateur.cluster.running import Running
from secateur.errors import RequestError
from secateur.formats.mlx.codec import TYPES as MLX_TYPES
from secateur.outputs.apply import CheckedPlan
from secateur.outputs.blocks import ELEMENTS
from secateur.outputs.feedback import FACTOR_BYTES, IN_USE, ON_CORES, Chooser
from secateur.rounding.ggml_grids import GGML_GRIDS
from secateur.statistics.gram_file import GramFile
from secateur.system.device_names import read_device
from secateur.system.progress import Progress
from secateur.system.resources import cores

_TIMES_ROWS = 5
"""Memory that a thread takes on the device, in float32 rows."""


def find_chooser(
    checked: CheckedPlan, device: str, running: Running, progress: Progress
) -> Chooser:
    """Who chooses the codes of a plan that rounds with feedback.

    `device` is a user's word. A CUDA device does, the first of several, where Triton works on it
    and it has memory enough; in parts (outputs.write_parts), whose machines may differ, cores do.
    Which it is, where it may be a device, is told as a stage of the progress. Raises RequestError
    for another word, for a device that is not there, and for one with nothing to choose.
    """
    kind = read_device(device).kind
    if checked.gram is None and kind not in ("auto", "cpu"):
        raise RequestError(
            f"device {device} is where codes are chosen with error feedback, and this plan rounds "
            "to nearest: leave device out"
        )
    if checked.gram is None or kind == "cpu":
        return ON_CORES
    if why := _for_cores(checked, running):
        _say(progress, f"codes are chosen on the cores of the CPU: {why}")
        return ON_CORES
    from secateur.forward.backends.choose import choose_backend, is_cpu
    from secateur.forward.backends.torch_device import TorchDevice

    if is_cpu(device):
        return ON_CORES
    backend = choose_backend(device)
    assert isinstance(backend, TorchDevice)
    if backend.device.type != "cuda":
        why = f"{backend.name} is no CUDA device"
        _say(progress, f"codes are chosen on the cores of the CPU: {why}")
        return ON_CORES
    from secateur.rounding.device_feedback import open_chooser

    found = open_chooser(backend.device, _memory_of(checked.gram, running.workers or cores()))
    if isinstance(found, str):
        _say(progress, f"codes are chosen on the cores of the CPU, not on {backend.name}: {found}")
        return ON_CORES
    _say(progress, f"codes are chosen on {backend.name}")
    return Chooser(backend.name, found)


def _for_cores(checked: CheckedPlan, running: Running) -> str | None:
    """Why it is the cores that choose, whatever device there is."""
    if running.in_parts:
        return "outputs are made in parts"
    types = {tensor.type for tensor in checked.plan.tensors}
    return None if types & (GGML_GRIDS.keys() | MLX_TYPES.keys()) else "no type is scalar"


def _memory_of(gram: GramFile, threads: int) -> int:
    """Bytes on a device: the factors held, one on its way there, and the threads' rows."""
    widest = 4 * max(gram.description.columns.values()) ** 2
    rows = 4 * _TIMES_ROWS * ELEMENTS
    return max(FACTOR_BYTES, IN_USE * widest) + 2 * widest + threads * rows


def _say(progress: Progress, sentence: str) -> None:
    progress(sentence, 1, 1, "")
