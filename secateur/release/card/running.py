"""How to run what an output holds: for each program the files that it can read, by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


class Gguf(NamedTuple):
    """A GGUF (of a split one the first part, and what matches all `parts`), and the tag by which
    Ollama pulls it from the Hub: its label, the file's name where several have that one, None for
    parts, which Ollama does not pull."""

    name: Shown
    parts: Shown | None
    tag: Shown | None


def running_of(scope: Scope) -> Mapping[str, Any]:
    """The values of the card's sections about programs; a program without a file has none."""
    safetensors = scope.of("safetensors")
    ggufs = _examples(scope) if scope.is_ladder else _ggufs(scope, scope.of("gguf"))
    mlx = [show(one.facts, "key") for one in scope.of("mlx")]
    return {
        "context": show_if(scope.config("max_position_embeddings"), "plain count"),
        "memory_context": show_if(scope.results.plan.get("memory", "context"), "plain count"),
        "samplers": _samplers(scope),
        "llama_samplers": [(_LLAMA[str(fact.key)], show(fact, "setting"))
                           for fact in _sampler_facts(scope)],
        "thinks": _thinks(scope),
        "ggufs": ggufs,
        "pulls": [one.tag for one in ggufs if one.tag],
        "mmproj": [show(file, "shell word") for one in scope.of("mmproj") for file in one.files],
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


def _ggufs(scope: Scope, outputs: Sequence[Output]) -> list[Gguf]:
    """Every GGUF of some outputs, of a split one the first part."""
    every = [file for one in scope.of("gguf") for file in _first(one)]
    labels = Counter(label_of(file.key) for file in every)
    return [_gguf(file, labels) for one in outputs for file in _first(one)]


def _gguf(file: Fact, labels: Mapping[str | None, int]) -> Gguf:
    name, label = show(file, "shell word"), label_of(file.key)
    if part_name(file.key) is not None:
        return Gguf(name, show(file, "all parts"), None)
    by_label = label is not None and labels[label] == 1
    return Gguf(name, None, show(file, "gguf label") if by_label else name)


def _examples(scope: Scope) -> list[Gguf]:
    """Of a ladder the GGUF in the middle, of those that are worth their size."""
    uses = uses_of(scope)
    outputs = [one for one in scope.of("gguf") if uses[one.format_id].rather is None]
    return _ggufs(scope, outputs[len(outputs) // 2 :][:1])


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
