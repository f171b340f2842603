"""What Ollama's files are derived from: the header of a GGUF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from secateur.errors import FormatError
from secateur.formats.gguf.container import Metadata
from secateur.formats.gguf.reader import read_local_header

_NORMAL = 1
"""llama.cpp's LLAMA_TOKEN_TYPE_NORMAL: a token that text can spell."""

_ENDS = ("eos", "eot", "eom")
_MARKER = re.compile(r"<\|[^<>|\s\"]+\|?>|<[^<>|\s\"]+\|>|<｜[^<>｜]+｜>|</?\w+_of_\w+>")
"""Texts that have the form of a turn's or a tool's mark in the chat templates there are."""


@dataclass(frozen=True)
class ModelFile:
    """A GGUF's architecture, chat template and vocabulary.

    `controls` are the tokens that text cannot spell, `tokens` all of them; `ends` are the control
    tokens that its header says end an answer. `begins` says that llama.cpp puts `bos` first.
    """

    path: Path
    architecture: str
    template: str | None
    tokens: frozenset[str] = field(repr=False)
    controls: frozenset[str] = field(repr=False)
    by_id: Mapping[int, str] = field(repr=False)
    bos: str
    eos: str
    begins: bool
    ends: tuple[str, ...]
    trained_context: int | None

    def is_control(self, text: str) -> bool:
        """Whether a text is one token that text cannot spell."""
        return text in self.controls


def read_model_file(path: Path) -> ModelFile:
    """The header of a GGUF, of a split one the first file. Raises FormatError for a damaged one,
    or one without a vocabulary."""
    file, _ = read_local_header(path)
    return model_file_of(file.metadata, path)


def model_file_of(metadata: Metadata, path: Path) -> ModelFile:
    """The same of metadata that were read. Raises FormatError without a vocabulary in it."""
    values = {key: value.value for key, value in metadata.items()}
    tokens, kinds = (values.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    if not isinstance(tokens, tuple) or not isinstance(kinds, tuple) or len(tokens) != len(kinds):
        raise FormatError(f"{path}: has no vocabulary with a type for every token")
    texts = {number: str(token) for number, token in enumerate(tokens)}
    controls = {texts[n]: n for n, kind in enumerate(kinds) if kind != _NORMAL}

    def named(word: str) -> str:
        return texts.get(values.get(f"tokenizer.ggml.{word}_token_id"), "")  # type: ignore[arg-type]

    architecture = str(values.get("general.architecture"))
    template = values.get("tokenizer.chat_template")
    context = values.get(f"{architecture}.context_length")
    return ModelFile(
        path=path,
        architecture=architecture,
        template=template if isinstance(template, str) else None,
        tokens=frozenset(texts.values()),
        controls=frozenset(controls),
        by_id=texts,
        bos=named("bos"),
        eos=named("eos"),
        begins=values.get("tokenizer.ggml.add_bos_token") is True,
        ends=tuple(dict.fromkeys(filter(controls.__contains__, map(named, _ENDS)))),
        trained_context=context if type(context) is int else None,
    )


def markers_in(text: str) -> tuple[str, ...]:
    """The marks of turns, tools and thoughts in a text, each once, in their order."""
    return tuple(dict.fromkeys(found[0] for found in _MARKER.finditer(text)))
