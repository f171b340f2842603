"""The files of an output that Ollama reads: Modelfile, template, params.

`ollama create` reads a Modelfile; a model that is pulled from the hub gets the files `template`
(Go's template language) and `params` (JSON) of its repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.errors import OutputError
from secateur.formats.gguf.split import part_name
from secateur.planning.imatrix_policy import FILE as IMATRIX_FILE
from secateur.release.manifest import amend_manifest, read_manifest
from secateur.release.ollama.choose import Choice, choose
from secateur.release.ollama.model_file import ModelFile, read_model_file
from secateur.release.ollama.modelfile import Instruction, write_modelfile
from secateur.release.ollama.stops import stops_of
from secateur.serving.model_defaults import gguf_defaults
from secateur.system.atomic import write_text
from secateur.system.text_files import read_text

MODELFILE, TEMPLATE, PARAMS = "Modelfile", "template", "params"
FILES = (MODELFILE, TEMPLATE, PARAMS)

DEFAULT_TYPE = "Q4_K_M"
"""What Ollama takes of a repository where no type is asked for."""

CONTEXT = 32768
"""Tokens of context where nothing else is asked for, if the model was trained for as many: Ollama's
own default of a few thousand cuts thoughts and long texts without a word."""

_PROJECTOR = "mmproj"
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")


@dataclass(frozen=True)
class OllamaFiles:
    """What was written: the names of files, the GGUF that the Modelfile is for, the name of the
    Go template (None: none), the name of Ollama's renderer (None: none), the stops, and what is to
    be said of it."""

    written: tuple[str, ...]
    model: str | None
    template: str | None
    renderer: str | None
    stops: tuple[str, ...]
    notes: tuple[str, ...]


def write_ollama_files(
    out: Path, *, licence: str | None = None, context: int | None = None
) -> OllamaFiles:
    """Write Modelfile, template and params into an output with GGUF files, and into its manifest.

    Everything comes from the GGUF and the files beside it. A Go template is written only where it
    writes what the chat template in the GGUF writes, and RENDERER only where Ollama's renderer
    does; `notes` say which and why. `licence` is a text or name for LICENSE, by default the file
    LICENSE of the output. `context` is num_ctx, by default CONTEXT or what the model was trained
    for. An output without GGUF files gets none. Files of an earlier call that are no longer
    written are removed. Raises OutputError without a manifest, FormatError for a damaged GGUF,
    WriteError.
    """
    listed = read_manifest(out)["files"]
    models = _models(out)
    files: dict[str, str] = {}
    if not models:
        note = "no GGUF file in it, so no files for Ollama"
        result = OllamaFiles((), None, None, None, (), (note,))
    else:
        path = _default(models)
        model = read_model_file(path)
        choice = choose(model)
        stops, notes = stops_of(model, out)
        parameters = _parameters(path, model, stops, context)
        notes = (*choice.notes, *notes, *_notes(path, models))
        files = {
            MODELFILE: _modelfile(out, model, choice, parameters, notes, licence),
            PARAMS: json.dumps(parameters, indent=1, ensure_ascii=False) + "\n",
        }
        if choice.template is not None:
            files[TEMPLATE] = choice.template
        renderer = choice.renderer.name if choice.renderer else None
        result = OllamaFiles(tuple(files), path.name, choice.name, renderer, stops, notes)
    for name, text in files.items():
        write_text(out / name, text)
    gone = [name for name in FILES if name not in files and name in listed]
    for name in gone:
        (out / name).unlink(missing_ok=True)
    if files or gone:
        amend_manifest(out, tuple(files), gone)
    return result


def _models(out: Path) -> list[Path]:
    """The GGUF files of an output that are models; of split ones the first."""
    found = []
    for path in sorted(out.glob("*.gguf")):
        part = part_name(path.name)
        first = part is None or part.number == 1
        if path.name != IMATRIX_FILE and not path.name.startswith(_PROJECTOR) and first:
            found.append(path)
    return found


def _default(models: list[Path]) -> Path:
    """The file that Ollama would take: Q4_K_M, else the smallest."""
    named = [path for path in models if DEFAULT_TYPE in path.name]
    return named[0] if named else min(models, key=lambda path: path.stat().st_size)


def _parameters(
    path: Path, model: ModelFile, stops: tuple[str, ...], context: int | None
) -> dict[str, Any]:
    """Ollama's parameters: every sampler is named, as its own defaults are not neutral."""
    trained = model.trained_context
    if context is not None and trained is not None and context > trained:
        raise OutputError(
            f"a context of {context:,} tokens for Ollama, and {path.name} was trained for "
            f"{trained:,}: ask for at most that"
        )
    sampler = gguf_defaults(path).sampler
    values = {
        "stop": list(stops),
        "temperature": sampler.temperature,
        "top_k": sampler.top_k,
        "top_p": sampler.top_p,
        "min_p": sampler.min_p,
        "repeat_penalty": sampler.repeat_penalty,
        "num_ctx": context or min(CONTEXT, trained or CONTEXT),
    }
    return {name: value for name, value in values.items() if value not in (None, [])}


def _modelfile(
    out: Path,
    model: ModelFile,
    choice: Choice,
    parameters: Mapping[str, Any],
    notes: tuple[str, ...],
    licence: str | None,
) -> str:
    projectors = sorted(path.name for path in out.glob(f"{_PROJECTOR}*.gguf"))
    found = [Instruction("from", f"./{name}") for name in (model.path.name, *projectors[:1])]
    if choice.renderer is not None:
        found.append(Instruction("renderer", choice.renderer.name))
        found.append(Instruction("requires", choice.renderer.requires))
    elif choice.template is not None:
        found.append(Instruction("template", choice.template))
    if choice.parser is not None:
        found.append(Instruction("parser", choice.parser))
    for name, value in parameters.items():
        for one in value if isinstance(value, list) else [value]:
            shown = f"{one:g}" if isinstance(one, float) else str(one)
            found.append(Instruction("parameter", shown, name=name))
    text = licence or _licence(out)
    if text is not None:
        found.append(Instruction("license", text))
    head = f"Written by secateur {__version__} from the header of {model.path.name}."
    return write_modelfile(found, (head, *notes))


def _licence(out: Path) -> str | None:
    found = next((out / name for name in _LICENCES if (out / name).is_file()), None)
    return None if found is None else read_text(found, "a licence", OutputError).strip()


def _notes(path: Path, models: list[Path]) -> list[str]:
    notes = []
    others = [other.name for other in models if other != path]
    if others:
        notes.append(f"the same Modelfile serves {', '.join(others)}: change FROM")
    if part_name(path.name) is not None:
        notes.append("Ollama cannot pull a model in parts from the hub: write it as one file")
    return notes
