"""`serve`: an OpenAI-compatible server of what an output holds, by a real engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from secateur.api.models import File
from secateur.api.original_gguf import find_original_gguf, gguf_of_original
from secateur.checkpoint.reader import open_shape
from secateur.errors import InputError, RequestError
from secateur.formats.gguf.naming import MMPROJ
from secateur.outputs.gguf.format import GgufFormat
from secateur.outputs.mlx.format import MlxFormat
from secateur.outputs.registry import FORMATS
from secateur.planning.memory import context_memory
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.llama_serving import slot_context
from secateur.serving.model_defaults import folder_defaults, gguf_defaults, is_tower
from secateur.serving.settings import DEFAULT_SETTINGS, ServerSettings, Thinking
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import free_memory
from secateur.system.secret_file import read_or_make_secret
from secateur.system.sizes import show_bytes

KEY_VARIABLE = "SECATEUR_API_KEY"
"""The variable of the environment that holds the key which a server asks for."""

NO_TOWER = "none"
"""In the place of a vision tower: images are not seen."""
_SERVED = (GgufFormat.name, MlxFormat.name)
_THINKING = {"auto": None, "on": True, "off": False}


@contextmanager
def serve(
    out: File,
    file: str | None = None,
    settings: ServerSettings = DEFAULT_SETTINGS,
    *,
    log: File | None = None,
) -> Iterator[EngineServer]:
    """Serve a GGUF or MLX folder of an output (or itself) until the block ends.

    `file` names one where there are several: a file, a folder, or a part of its name that no other
    has, such as "Q4_K_M". `log` is appended to. Raises RequestError when there is nothing to serve
    or it is not clear what, and as serving.engine_server.serve_model.
    """
    path = find_served(Path(out), file)
    with serve_model(path, settings, None if log is None else Path(log)) as server:
        yield server


def find_served(out: Path, file: str | None = None) -> Path:
    """What `serve` serves: a GGUF or an MLX folder. Raises RequestError."""
    if not out.exists():
        raise RequestError(f"{out} is not there, expected an output of secateur or a GGUF")
    if out.is_file() or _is_mlx(out):
        if file is not None:
            raise RequestError(f"{out} is a model itself: leave out {file!r}")
        return out
    found = _artefacts(out)
    if not found:
        raise RequestError(_say_how_else(out))
    chosen = _choose(found, file)
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(path.name for path in chosen or found)
    if file is None or chosen:
        raise RequestError(f"{out} holds several models ({names}): name one of them")
    raise RequestError(f"{out} holds no {file!r}, but {names}: name one of these")


def find_tower(path: Path, given: str | None = None) -> Path | None:
    """The GGUF of the vision tower to serve a GGUF with: `given`, else the one beside it in its
    output; None for NO_TOWER, where there is none, and for MLX, of which mlx-lm serves the text.

    Raises RequestError for a file that is no tower, or where there are several.
    """
    if given == NO_TOWER:
        return None
    if given is not None:
        tower = Path(given)
        if path.is_dir():
            raise RequestError(
                f"{path} is an MLX folder, which is served without images: leave out {given}"
            )
        if not is_tower(tower):
            raise RequestError(
                f"{given} is no GGUF of a vision tower: give one that --mmproj of plan or shrink "
                f"makes, or {NO_TOWER!r}"
            )
        return tower
    found = [] if path.is_dir() else sorted(path.parent.glob(f"{MMPROJ}*.gguf"))
    if len(found) > 1:
        names = ", ".join(tower.name for tower in found)
        raise RequestError(
            f"{path.parent} holds several vision towers ({names}): name one with mmproj "
            f"(--mmproj), or give {NO_TOWER!r}"
        )
    return found[0] if found else None


def _is_mlx(folder: Path) -> bool:
    has_model = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return has_model and FORMATS[MlxFormat.name].recognises(folder)


def _choose(found: Sequence[Path], file: str | None) -> list[Path]:
    if file is None:
        return list(found)
    exact = [path for path in found if path.name == Path(file).name]
    return exact or [path for path in found if file.lower() in path.name.lower()]


def _say_how_else(out: Path) -> str:
    """How to serve a folder that neither engine of ours reads."""
    if not any(out.glob("*.safetensors")):
        return f"{out} holds neither a GGUF nor an MLX folder: there is nothing to serve"
    return (
        f"{out} holds safetensors only, which llama.cpp and mlx-lm do not read: serve it with "
        f"`vllm serve {out}` or `transformers serve {out}`, or make a GGUF of it: `secateur "
        f"shrink {out} --drop 0 --to gguf --types Q8_0 --no-measure -o NEW`"
    )


def find_served_or_original(
    model: str,
    *,
    tell: Callable[[str], None],
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Path:
    """What to serve for a model that is set beside another: an output, a GGUF or an MLX folder as
    `find_served`, or else an original (a folder or an id), whose GGUF is made and kept.

    `tell` is told how large that GGUF is before it is made. Raises as both.
    """
    path = Path(model)
    if path.is_file() or (path.is_dir() and (_is_mlx(path) or _artefacts(path))):
        return find_served(path)
    found = find_original_gguf(model)
    if not found.made:
        tell(
            f"writing {model} as a GGUF of {show_bytes(found.nbytes)} to {found.path}, where it is "
            "kept (`secateur cache` removes it)"
        )
    return gguf_of_original(model, workers=workers, progress=progress)


def _artefacts(out: Path) -> list[Path]:
    return [path for name in _SERVED for path in FORMATS[name].artefacts(out)]


@dataclass(frozen=True)
class ServedMemory:
    """Bytes that serving takes: `weights`, and the key-value `cache` of all slots together, None
    where no config next to the file says how large it is. `free` is what there is."""

    weights: int
    cache: int | None
    free: int

    @property
    def total(self) -> int:
        """What is known of it."""
        return self.weights + (self.cache or 0)


def memory_of_serving(path: Path, settings: ServerSettings) -> ServedMemory:
    """What serving `path` takes. Reads headers and a config. Raises as `serve` does."""
    is_folder = path.is_dir()
    defaults = folder_defaults(path) if is_folder else gguf_defaults(path)
    context = slot_context(settings, defaults, path)
    if defaults.trained_context is not None:
        context = min(context, defaults.trained_context)
    cache = None
    for folder in (path,) if is_folder else (path.parent,):
        if (folder / "config.json").is_file():
            try:
                memory = context_memory(open_shape(folder), context)
            except InputError:  # of another model, or of a family that says nothing of it
                break
            cache = memory.cache * settings.slots + memory.logits
    tower = 0 if settings.mmproj is None else settings.mmproj.stat().st_size
    return ServedMemory(defaults.nbytes + tower, cache, free_memory())


def read_thinking(word: str, budget: int | None, message: str) -> Thinking:
    """Thinking as words say it: "auto", "on" or "off". Raises RequestError."""
    if word not in _THINKING:
        raise RequestError(f"thinking is {word!r}, expected {', '.join(_THINKING)}")
    return Thinking(_THINKING[word], budget, message)


def find_key(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key that a server asks for: of a file, which is made where it is not there, or of the
    variable KEY_VARIABLE; None where neither is given. Raises RequestError, WriteError."""
    if file is not None:
        return read_or_make_secret(file)
    return environment.get(KEY_VARIABLE) or None
