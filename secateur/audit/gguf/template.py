"""Whether a chat template, and the markers a text uses, are those of the architecture."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from secateur.audit.finding import Finding
from secateur.families.schema import Family
from secateur.formats.gguf.container import Metadata

_TEMPLATE = "tokenizer.chat_template"
_TOKENS = "tokenizer.ggml.tokens"
_KINDS = "tokenizer.ggml.token_type"
_NORMAL = 1
"""llama.cpp's LLAMA_TOKEN_TYPE_NORMAL: a token that text can spell."""

_SPECIAL = ("bos", "eos", "eot", "eom", "unknown", "padding")


@cache
def dialects() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(who uses them, turn markers) of the templates we know."""
    text = resources.files(__package__).joinpath("dialects.toml").read_text("utf-8")
    return tuple((d["name"], tuple(d["markers"])) for d in tomllib.loads(text)["dialect"])


def foreign_markers(text: str, family: Family) -> dict[str, str]:
    """{marker: whose it is} of turn markers in a text that are not the family's."""
    return {
        marker: name
        for name, markers in dialects()
        for marker in markers
        if marker in text and marker not in family.published.markers
    }


def template_findings(metadata: Metadata, family: Family, rows: int | None) -> list[Finding]:
    """The template and tokenizer in a GGUF's metadata against what the family needs.

    `rows` is the number of rows of the token embedding, None when the file has none.
    """
    return [*_template(metadata, family), *_tokenizer(metadata, family, rows)]


def _template(metadata: Metadata, family: Family) -> list[Finding]:
    needed = family.published.markers
    if _TEMPLATE not in metadata:
        return [
            Finding(
                "template", "no chat template", "unchecked", f"one with {' and '.join(needed)}",
                "servers fall back to a template of their own, which is not this model's",
            )
        ]  # fmt: skip
    text = str(metadata[_TEMPLATE].value)
    missing = [marker for marker in needed if marker not in text]
    said = f"chat template of {len(text):,} characters"
    if not missing:
        reason = f"it holds {' and '.join(needed)}"
        return [Finding("template", said, "holds", "", reason)] if needed else []
    foreign = foreign_markers(text, family)
    whose = sorted(set(foreign.values()))
    reason = f"it lacks {' and '.join(missing)}" + (
        f" and holds {', '.join(foreign)}: it is the template of {' or '.join(whose)}"
        if foreign
        else ""
    )
    return [Finding("template", said, "wrong", f"one with {' and '.join(needed)}", reason)]


def _tokenizer(metadata: Metadata, family: Family, rows: int | None) -> list[Finding]:
    held = metadata.get(_TOKENS)
    if held is None or not isinstance(held.value, tuple):
        return [
            Finding("tokenizer", "no vocabulary", "wrong", _TOKENS, "llama.cpp refuses the file")
        ]
    tokens = held.value
    findings = []
    if rows is not None and rows != len(tokens):
        findings.append(
            Finding(
                "tokenizer",
                f"{len(tokens):,} tokens",
                "wrong",
                f"{rows:,} tokens",
                "the token embedding has as many rows",
            )  # fmt: skip
        )
    for key in ("scores", "token_type"):
        other = metadata.get(f"tokenizer.ggml.{key}")
        if other is not None and isinstance(other.value, tuple) and len(other.value) != len(tokens):
            findings.append(
                Finding(
                    "tokenizer",
                    f"{len(other.value):,} entries of {key}",
                    "wrong",
                    f"{len(tokens):,}",
                    "one for every token",
                )  # fmt: skip
            )
    for word in _SPECIAL:
        key = f"tokenizer.ggml.{word}_token_id"
        number = metadata[key].value if key in metadata else None
        if isinstance(number, int) and number >= len(tokens):
            findings.append(
                Finding(
                    "tokenizer",
                    f"{key} = {number}",
                    "wrong",
                    f"below {len(tokens):,}",
                    "there is no such token",
                )  # fmt: skip
            )
    findings += _markers(tokens, metadata, family)
    return findings + _beginning(metadata, family)


def _markers(tokens: Sequence[object], metadata: Metadata, family: Family) -> list[Finding]:
    """Every marker of the family must be one token that text cannot spell."""
    kinds = metadata[_KINDS].value if _KINDS in metadata else ()
    places = {token: index for index, token in enumerate(tokens)}
    findings = []
    for marker in family.published.markers:
        at = places.get(marker)
        if at is None:
            reason = "the vocabulary has no such token, so the model cannot end or begin a turn"
            findings.append(Finding("tokenizer", f"no token {marker}", "wrong", marker, reason))
        elif isinstance(kinds, tuple) and at < len(kinds) and kinds[at] == _NORMAL:
            findings.append(
                Finding(
                    "tokenizer",
                    f"{marker} is a normal token",
                    "wrong",
                    "a control token",
                    "llama.cpp would split it as text: convert the model again",
                )  # fmt: skip
            )
    return findings


def _beginning(metadata: Metadata, family: Family) -> list[Finding]:
    wanted = family.gguf.tokenizer.add_bos if family.gguf else None
    held = metadata.get("tokenizer.ggml.add_bos_token")
    if wanted is None or held is None or held.value == wanted:
        return []
    return [
        Finding(
            "tokenizer",
            f"add_bos_token = {held.value}",
            "wrong",
            str(wanted),
            "this model needs its first token",
        )  # fmt: skip
    ]
