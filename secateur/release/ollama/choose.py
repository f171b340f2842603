"""Which Go template a model gets, and whether Ollama's own renderer may be named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from secateur.families.ollama_rules import OllamaRenderer, template_texts
from secateur.families.registry import families
from secateur.families.schema import Family
from secateur.release.ollama.comparison import Comparison, abilities, compare, jinja_abilities
from secateur.release.ollama.go_template.parser import parse_template
from secateur.release.ollama.model_file import ModelFile, markers_in
from secateur.system.sizes import show_count


@dataclass(frozen=True)
class Choice:
    """What was proved to write what the model's own template writes.

    `template` is the Go template's text and `name` its name, None where none was equal; `renderer`
    is Ollama's, None where it is not equal, and `parser` what Ollama shall read answers with.
    `notes` say for people what was chosen and why.
    """

    name: str | None
    template: str | None
    renderer: OllamaRenderer | None
    parser: str | None
    notes: tuple[str, ...]


def choose(model: ModelFile) -> Choice:
    """Compare the Go templates that are known with the model's own template, those of its
    architecture first; take the first that writes the same. Raises FamilyError for a family whose
    templates are not there."""
    if model.template is None:
        return _nothing(f"{model.path.name} has no chat template, so there is none to derive from")
    renderer = _renderer_of(model.architecture)
    compared: dict[str, Comparison] = {}
    found: tuple[str, str] | None = None
    for name, text in _candidates(model.architecture):
        if found is None or renderer is not None and renderer.template == name:
            compared[name] = compare(parse_template(text), model)
        if found is None and compared[name].equal and not _unknown(text, model):
            found = name, text
    if found is None:
        nearest = min(compared.values(), key=lambda one: len(one.different), default=None)
        return _nothing(_no_template(model, nearest))
    name, text = found
    notes = [f"template: {name}, {_agreement(compared[name])}", *_lacks(text, model)]
    parser = renderer.parser if renderer else None
    if renderer is not None:
        of_renderer = compared[renderer.template]
        notes.append(_of_renderer(renderer, of_renderer))
        renderer = renderer if of_renderer.equal else None
    return Choice(name, text, renderer, parser, tuple(notes))


def _candidates(architecture: str) -> Iterator[tuple[str, str]]:
    """(name, text) of every Go template, those of an architecture first."""
    for family in sorted(families(), key=lambda family: not _is_of(family, architecture)):
        if family.ollama is not None:
            yield from template_texts(family.ollama, family.file)


def _renderer_of(architecture: str) -> OllamaRenderer | None:
    rules = [family.ollama for family in families() if _is_of(family, architecture)]
    return next((one.renderer for one in rules if one and one.renderer), None)


def _is_of(family: Family, architecture: str) -> bool:
    return family.gguf is not None and family.gguf.architecture == architecture


def _unknown(text: str, model: ModelFile) -> list[str]:
    """Marks in a template that are no tokens of the file: they would be read as plain text."""
    return [mark for mark in markers_in(text) if mark not in model.tokens]


def _agreement(comparison: Comparison) -> str:
    refused = f"; {len(comparison.refused)} its template refuses" if comparison.refused else ""
    return (
        f"the same text as the model's own chat template for {len(comparison.same)} of "
        f"{show_count(len(comparison.same), 'conversation')}{refused}"
    )


def _lacks(text: str, model: ModelFile) -> list[str]:
    missing = sorted(jinja_abilities(model.template or "") - abilities(parse_template(text)))
    if not missing:
        return []
    return [
        f"the Go template leaves out {' and '.join(missing)}, which the model's own template can "
        "do: Ollama's templates cannot write it as the model learnt it"
    ]


def _of_renderer(renderer: OllamaRenderer, comparison: Comparison) -> str:
    if comparison.equal:
        return f"RENDERER {renderer.name}: {_agreement(comparison)}"
    total = len(comparison.same) + len(comparison.different)
    shown = "; ".join(comparison.different[:4])
    more = len(comparison.different) - 4
    return (
        f"no RENDERER {renderer.name}: it writes {len(comparison.different)} of {total} "
        f"conversations otherwise than the model's own chat template ({shown}"
        + (f"; and {more} more" if more > 0 else "")
        + "). `ollama create` sets a renderer for this architecture by itself and passes over "
        "TEMPLATE; a model that is pulled from the hub gets the file `template`"
    )


def _no_template(model: ModelFile, nearest: Comparison | None) -> str:
    if nearest is None:
        return "no Go template is known, so none is written"
    total = len(nearest.same) + len(nearest.different)
    return (
        f"no Go template writes what the chat template of {model.path.name} writes (the nearest "
        f"differs in {len(nearest.different)} of {total} conversations), so none is written: "
        "recent versions of Ollama read the chat template in the GGUF itself"
    )


def _nothing(note: str) -> Choice:
    return Choice(None, None, None, None, (note,))
