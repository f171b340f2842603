"""How to run what an output holds: for each program the files that it can read, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import OutputError
from secateur.formats.gguf.naming import label_of
from secateur.formats.gguf.split import part_name
from secateur.release.card.facts import CHAT_TEMPLATE, FAMILY, Fact
from secateur.release.card.scope import Output, Scope
from secateur.release.card.shown import Shown, show, show_if
from secateur.release.card.uses import uses_of
from secateur.release.manifest import MANIFEST
from secateur.release.ollama.write import FILES as OLLAMA_FILES
from secateur.release.ollama.write import MODELFILE
from secateur.system.text_files import read_text

GENERATION = "generation_config.json"
SAMPLERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Keys of generation_config.json, by which transformers and vLLM draw tokens."""

_LLAMA = {
    "temperature": "--temp",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "repetition_penalty": "--repeat-penalty",
}
_SWITCH = "enable_thinking"


def running_of(scope: Scope) -> Mapping[str, Any]:
    """The values of the card's sections about programs; a program without a file has none."""
    safetensors = scope.of("safetensors")
    mlx = [show(one.facts, "key") for one in scope.of("mlx")]
    return {
        "context": show_if(scope.config("max_position_embeddings"), "plain count"),
        "memory_context": show_if(scope.results.plan.get("memory", "context"), "plain count"),
        "samplers": _samplers(scope),
        "llama_samplers": [(_LLAMA[str(fact.key)], show(fact, "setting"))
                           for fact in _sampler_facts(scope)],
        "thinks": _thinks(scope),
        "ggufs": _examples(scope) if scope.is_ladder else _ggufs(scope.of("gguf")),
        "mmproj": [show(file, "key") for one in scope.of("mmproj") for file in one.files],
        "ollama": [show(file, "key") for file in _ollama_files(scope)],
        "renderer": _has_renderer(scope),
        "transformers": bool(safetensors),
        "tool_parser": show_if(scope.results.at(FAMILY, ("vllm", "tool_call")), "code"),
        "reasoning_parser": show_if(scope.results.at(FAMILY, ("vllm", "reasoning")), "code"),
        "mlx": mlx[:1] if scope.is_ladder else mlx,
        "at_root": bool(scope.root),
    }  # fmt: skip


def _sampler_facts(scope: Scope) -> list[Fact]:
    found = (scope.results.at(GENERATION, (key,)) for key in SAMPLERS)
    return [fact for fact in found if fact is not None and isinstance(fact.value, int | float)]


def _samplers(scope: Scope) -> list[tuple[Shown, Shown]]:
    return [(show(fact, "key"), show(fact, "setting")) for fact in _sampler_facts(scope)]


def _thinks(scope: Scope) -> bool:
    """Whether the model's own chat template has a switch for thinking."""
    names = [
        CHAT_TEMPLATE,
        *(f"{one.folder}/{CHAT_TEMPLATE}" for one in scope.outputs if one.folder),
    ]
    listed = scope.results.manifest["files"].value
    for name in names:
        if name in listed:
            text = read_text(scope.results.folder / name, "a chat template", OutputError)
            return _SWITCH in text
    return False


def _ggufs(outputs: Sequence[Output]) -> list[tuple[Shown, Shown | None]]:
    """(file, the label by which Ollama finds it on the Hub) of every GGUF, of a split one the
    first part."""
    firsts = [file for one in outputs for file in _first(one)]
    return [(show(file, "key"), show(file, "gguf label") if label_of(file.key) else None)
            for file in firsts]  # fmt: skip


def _examples(scope: Scope) -> list[tuple[Shown, Shown | None]]:
    """Of a ladder the GGUF in the middle, of those that are worth their size."""
    uses = uses_of(scope)
    outputs = [one for one in scope.of("gguf") if uses[one.format_id].rather is None]
    return _ggufs(outputs[len(outputs) // 2 :][:1])


def _first(output: Output) -> list[Fact]:
    parts = [(file, part_name(file.key)) for file in output.files]
    return [file for file, part in parts if part is None or part.number == 1]


def _has_renderer(scope: Scope) -> bool:
    """Whether the Modelfile names a renderer, which no pull from the Hub sets."""
    if not any(file.key == MODELFILE for file in _ollama_files(scope)):
        return False
    text = read_text(scope.results.folder / MODELFILE, "a Modelfile", OutputError)
    return any(line.startswith("RENDERER ") for line in text.splitlines())


def _ollama_files(scope: Scope) -> list[Fact]:
    """The files for Ollama that lie in the output, where a GGUF goes with them."""
    if not scope.of("gguf"):
        return []
    listed = scope.results.file(MANIFEST)["files"]
    return [listed[name] for name in OLLAMA_FILES if name in listed.value]
