"""A Modelfile against the GGUF that it is for: what Ollama would do with the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secateur.audit.finding import Finding, Verdict, sorted_findings
from secateur.audit.gguf.shape import family_of_architecture
from secateur.audit.gguf.template import dialects
from secateur.families.ollama_rules import OllamaRenderer, template_texts
from secateur.families.schema import Family
from secateur.formats.gguf.container import Metadata
from secateur.release.ollama.comparison import Comparison, compare
from secateur.release.ollama.go_template.nodes import GoTemplateError, Template
from secateur.release.ollama.go_template.parser import parse_template
from secateur.release.ollama.model_file import ModelFile, markers_in, model_file_of
from secateur.release.ollama.modelfile import Instruction, Modelfile, parse_modelfile
from secateur.release.ollama.stops import turn_end

_SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "penalty_repeat",
}
"""Ollama's parameter -> the key of general.sampling that says what the publisher recommends."""

_NUMBERS = (
    *_SAMPLING, "num_ctx", "num_keep", "num_predict", "num_batch", "num_gpu", "main_gpu",
    "num_thread", "seed", "typical_p", "repeat_last_n", "presence_penalty", "frequency_penalty",
    "draft_num_predict",
)  # fmt: skip
_OTHERS = ("stop", "use_mmap")
_DEPRECATED = (
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat",
    "mirostat_tau", "mirostat_eta",
)  # fmt: skip
"""Parameters of Ollama (api/types.go and parser/parser.go, August 2026)."""


@dataclass(frozen=True)
class _Subject:
    """The Modelfile, the file's vocabulary and template, its metadata and family."""

    modelfile: Modelfile
    model: ModelFile
    metadata: Metadata
    family: Family | None

    @property
    def renderer(self) -> OllamaRenderer | None:
        """The renderer that `ollama create` sets for this architecture by itself."""
        rules = self.family.ollama if self.family else None
        return rules.renderer if rules else None


def modelfile_findings(
    text: str, where: str, metadata: Metadata, source: str
) -> tuple[Finding, ...]:
    """What becomes of every instruction of a Modelfile that the header of `source` decides.

    Raises FormatError for a Modelfile that Ollama refuses, or a file without a vocabulary.
    """
    modelfile = parse_modelfile(text, where)
    model = model_file_of(metadata, Path(source.rpartition("/")[2]))
    family = family_of_architecture(model.architecture)
    subject = _Subject(modelfile, model, metadata, family)
    return sorted_findings(
        [
            *_from(subject),
            *_templates(subject),
            *_renderers(subject),
            *_stops(subject),
            *_parameters(subject),
            *_requires(subject),
        ]
    )


def _found(one: Instruction, verdict: Verdict, must: str, reason: str) -> Finding:
    words = [one.command.upper(), one.name, " ".join(one.value.split())]
    said = " ".join(filter(None, words))
    shown = said if len(said) <= 60 else said[:57] + "..."
    return Finding("Modelfile", shown, verdict, must, reason, one.line)


def _from(subject: _Subject) -> Iterator[Finding]:
    names = [one.value.rpartition("/")[2] for one in subject.modelfile.of("from")]
    if subject.model.path.name not in names:
        one = subject.modelfile.of("from")[0]
        reason = f"it is held against {subject.model.path.name}, which it does not name"
        yield _found(one, "unchecked", "", reason)


def _templates(subject: _Subject) -> Iterator[Finding]:
    model, renderer = subject.model, subject.renderer
    for one in subject.modelfile.of("template"):
        yield from _markers(one, model)
        if model.begins and model.bos and one.value.lstrip().startswith(model.bos):
            reason = f"llama.cpp writes {model.bos} itself: it would stand there twice"
            yield _found(one, "wrong", f"no {model.bos}", reason)
        yield _of_template(one, model)
        if subject.modelfile.of("renderer"):
            reason = "Ollama passes over a template next to a renderer"
            yield _found(one, "wrong", "one of the two", reason)
        elif renderer is not None:
            reason = (
                f"`ollama create` sets a renderer for {model.architecture} by itself and passes "
                "over the template"
            )
            yield _found(one, "unproven", "", reason)


def _markers(one: Instruction, model: ModelFile) -> Iterator[Finding]:
    turns = [mark for _, markers in dialects() for mark in markers if mark in one.value]
    for mark in dict.fromkeys((*markers_in(one.value), *turns)):
        if mark not in model.tokens and mark not in (model.template or ""):
            reason = f"{mark} is no token of the file{_whose(mark)}: the model reads plain text"
            yield _found(one, "wrong", "marks of the model's own template", reason)


def _whose(mark: str) -> str:
    names = [name for name, markers in dialects() if mark in markers]
    return f", but a mark of {names[0]}" if names else ""


def _of_template(one: Instruction, model: ModelFile) -> Finding:
    if model.template is None:
        return _found(one, "unchecked", "", "the file has no chat template to compare it with")
    try:
        template = parse_template(one.value)
    except GoTemplateError as error:
        return _found(one, "unchecked", "", f"it is not compared: {error}")
    if "Messages" not in template.names():
        reason = "it sees one question at a time, no .Messages: it is not compared"
        return _found(one, "unproven", "the turns of .Messages", reason)
    return _compared(one, compare(template, model))


def _compared(one: Instruction, found: Comparison) -> Finding:
    total = len(found.same) + len(found.different)
    if found.equal:
        return _found(
            one, "holds", "", f"writes {total} of {total} conversations as the file's own"
        )
    shown, more = found.different[:3], ", ..." if len(found.different) > 3 else ""
    reason = (
        f"writes {len(found.different)} of {total} conversations otherwise than the chat template "
        f"in the file: {'; '.join(shown)}{more}"
    )
    return _found(one, "wrong", "the model's own text", reason)


def _renderers(subject: _Subject) -> Iterator[Finding]:
    known = subject.renderer
    for one in subject.modelfile.of("renderer"):
        if known is None or known.name != one.value:
            reason = "what this renderer writes is not known here"
            yield _found(one, "unchecked", known.name if known else "", reason)
            continue
        assert subject.family is not None and subject.family.ollama is not None
        texts = dict(template_texts(subject.family.ollama, subject.family.file))
        template: Template = parse_template(texts[known.template])
        yield _compared(one, compare(template, subject.model))
    for one in subject.modelfile.of("parser"):
        if known is not None and known.parser != one.value:
            reason = f"Ollama reads answers of {subject.model.architecture} with {known.parser}"
            yield _found(one, "unproven", known.parser, reason)


def _stops(subject: _Subject) -> Iterator[Finding]:
    model, stops = subject.model, subject.modelfile.parameters("stop")
    for one in stops:
        if model.is_control(one.value):
            yield _found(one, "holds", "", "one control token of the file")
        elif one.value in model.tokens:
            reason = "a token that text can spell: an answer that quotes it is cut"
            yield _found(one, "unproven", "a control token", reason)
        elif markers_in(one.value):
            reason = f"no token of the file{_whose(one.value)}: the model never writes it"
            yield _found(one, "wrong", "a control token", reason)
        else:
            reason = "a text of several tokens: an answer that holds it is cut"
            yield _found(one, "unproven", "a control token", reason)
    end = turn_end(model)
    if end is not None and stops and end not in [one.value for one in stops]:
        reason = (
            f"the model ends its turn with {end}, and a stop that is given takes the place of "
            "those that Ollama would set"
        )
        yield _found(stops[0], "wrong", f'a stop "{end}"', reason)


def _parameters(subject: _Subject) -> Iterator[Finding]:
    for one in subject.modelfile.of("parameter"):
        if one.name in _OTHERS:
            continue
        if one.name in _DEPRECATED:
            yield _found(one, "unproven", "", "Ollama no longer uses it")
        elif one.name not in _NUMBERS:
            yield _found(one, "wrong", "", "Ollama has no such parameter, and refuses the file")
        else:
            yield from _number(one, subject)


def _number(one: Instruction, subject: _Subject) -> Iterator[Finding]:
    try:
        value = float(one.value)
    except ValueError:
        yield _found(one, "wrong", "a number", "Ollama refuses the file")
        return
    trained = subject.model.trained_context
    if one.name == "num_ctx" and trained is not None and value > trained:
        yield _found(one, "wrong", f"at most {trained}", "the model was trained for no more")
    key = f"general.sampling.{_SAMPLING.get(one.name)}"
    stated = subject.metadata[key].value if key in subject.metadata else None
    if isinstance(stated, int | float) and abs(stated - value) > 1e-5 * max(abs(value), 1):
        yield _found(one, "unproven", f"{stated:g}", f"the file recommends another ({key})")


def _requires(subject: _Subject) -> Iterator[Finding]:
    for one in subject.modelfile.of("requires"):
        if not re.fullmatch(r"v?\d+\.\d+\.\d+(-[\w.]+)?", one.value):
            yield _found(one, "wrong", "a version such as 0.32.1", "Ollama refuses the file")
