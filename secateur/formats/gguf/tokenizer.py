"""A tokenizer's GGUF metadata: tokens, kinds, merges, special ids and the chat template.

Reads tokenizer.json and tokenizer_config.json as data. llama.cpp chooses how text is split before
merging by `tokenizer.ggml.model` and `.pre`, which are the family's; everything else is here, and
what is peculiar to tokenizers with scores in `sentencepiece_vocabulary.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.checkpoint.chat_templates import DEFAULT, chat_templates
from secateur.errors import CheckpointError
from secateur.families.format_rules import TokenizerRules
from secateur.formats.gguf.container import STRING, Value
from secateur.formats.gguf.sentencepiece_vocabulary import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    looks_special,
    pieces_vocabulary,
    ranked_scores,
)
from secateur.system.text_files import explain, read_json

BYTE = 6
"""llama.cpp's kind of a token that is a byte."""

_SPECIAL_IDS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
"""Special token -> llama.cpp's key, its spelling."""

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def tokenizer_metadata(
    folder: Path, config: Mapping[str, Any], rules: TokenizerRules, rows: int
) -> dict[str, Value]:
    """The tokenizer's keys. `rows` is the number of rows of the token embedding.

    Token ids beyond the tokenizer's are filled up with unused tokens to `rows`. Raises
    CheckpointError if a file is missing or damaged, is no BPE tokenizer, has holes in its ids or
    more tokens than rows.
    """
    try:
        return _metadata(folder, config, rules, rows)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{folder}: tokenizer.json or tokenizer_config.json is not as transformers writes it "
            f"({explain(error)}): take the publisher's files"
        ) from None


def _metadata(
    folder: Path, config: Mapping[str, Any], rules: TokenizerRules, rows: int
) -> dict[str, Value]:
    pieces = folder / rules.pieces if rules.pieces and (folder / rules.pieces).is_file() else None
    # With a SentencePiece model the other files may be missing.
    tokenizer = _json(folder / "tokenizer.json", optional=pieces is not None)
    settings = _json(folder / "tokenizer_config.json", optional=pieces is not None)
    if pieces is not None:
        words = pieces_vocabulary(pieces, settings, rows)
    else:
        _check_form(folder, tokenizer, rules)
        words = _vocabulary(folder, tokenizer, settings, rules, rows)
    metadata = {"model": Value(STRING, rules.model)}
    if rules.pre is not None:
        metadata["pre"] = Value(STRING, rules.pre)
    metadata["tokens"] = Value(STRING, tuple(words.tokens))
    if rules.score is not None:
        metadata["scores"] = Value("f32", tuple(words.scores))
    metadata["token_type"] = Value("i32", tuple(words.kinds))
    if rules.pieces is None:
        metadata["merges"] = Value(STRING, tuple(_merges(tokenizer)))
    for word, number in _special_ids(tokenizer, settings, config).items():
        if number in range(rows):  # some configs say with -1 that there is none
            metadata[_SPECIAL_IDS[word]] = Value("u32", number)
    for key, flag in _added_around(tokenizer, settings, rules).items():
        metadata[key] = Value("bool", flag)
    keys = {_PREFIX + key: value for key, value in metadata.items()}
    return keys | template_metadata(chat_templates(folder))


def has_tokenizer(folder: Path, rules: TokenizerRules) -> bool:
    """Whether a folder holds what `tokenizer_metadata` reads."""
    names = ("tokenizer.json", rules.pieces) if rules.pieces else ("tokenizer.json",)
    return any((folder / name).is_file() for name in names)


def _vocabulary(
    folder: Path,
    tokenizer: Mapping[str, Any],
    settings: Mapping[str, Any],
    rules: TokenizerRules,
    rows: int,
) -> Vocabulary:
    """The vocabulary of tokenizer.json, filled up with unused tokens."""
    tokens = _tokens(folder, tokenizer, rows)
    kinds = _kinds(tokenizer, settings, tokens, rules)
    tokens += [f"[PAD{number}]" for number in range(len(tokens), rows)]
    kinds += [UNUSED] * (rows - len(kinds))
    if rules.pieces is not None:
        return Vocabulary(tokens, kinds, ranked_scores(tokens, kinds, tokenizer["model"]["merges"]))
    return Vocabulary(tokens, kinds, [rules.score or 0.0] * rows)


def _added_around(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any], rules: TokenizerRules
) -> dict[str, bool]:
    """What llama.cpp adds to a text: the family's rules, or what the tokenizer's files say."""
    if rules.from_files:
        flags = _flags_of_files(tokenizer, settings)
    else:
        flags = {"add_bos_token": rules.add_bos, "add_space_prefix": rules.add_space_prefix}
    return {key: value for key, value in flags.items() if value is not None}


def _flags_of_files(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, bool | None]:
    """Whether the first and last token of a text are special ones: the post-processor's template,
    else tokenizer_config.json; and whether it begins with a space, which only the latter says."""
    flags: dict[str, bool | None] = {}
    processor = tokenizer.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        single = step.get("single", []) if step.get("type") == "TemplateProcessing" else []
        for word, item in (("bos", single[:1]), ("eos", single[-1:])) if len(single) > 1 else ():
            token = item[0].get("SpecialToken", {}).get("id")
            if token is not None:
                flags[word] = token in _content(settings.get(f"{word}_token"))
    for word in ("bos", "eos"):
        entry = settings.get(f"add_{word}_token")
        flags.setdefault(word, entry if isinstance(entry, bool) else None)
    found: dict[str, bool | None] = {f"add_{word}_token": value for word, value in flags.items()}
    space = settings.get("add_prefix_space")
    return {**found, "add_space_prefix": space if isinstance(space, bool) else None}


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    content = read_json(path, "a part of a tokenizer", CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def _check_form(folder: Path, tokenizer: Mapping[str, Any], rules: TokenizerRules) -> None:
    """Refuse a tokenizer that llama.cpp would misread under the family's `model` and `pre`."""
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE":
        raise CheckpointError(
            f"{folder}/tokenizer.json: is a {model.get('type')} tokenizer, expected BPE"
        )
    splits = sorted(_expressions(tokenizer.get("pre_tokenizer")))
    found = (bool(model.get("byte_fallback")), splits)
    expected = (rules.byte_fallback, [rules.split] if rules.split else [])
    if found != expected:
        raise CheckpointError(
            f"{folder}/tokenizer.json: has {_describe(*found)}, and llama.cpp's "
            f"{rules.pre or rules.model!r} tokenizer has {_describe(*expected)}, so it would split "
            "text otherwise: take the publisher's tokenizer, or write safetensors or MLX"
        )


def _describe(byte_fallback: bool, splits: Sequence[str]) -> str:
    fallback = "byte fallback" if byte_fallback else "no byte fallback"
    return f"{fallback} and splits text by {' and '.join(splits) or 'no expression'}"


def _expressions(node: Any) -> Iterator[str]:
    """Every regular expression in a pre-tokenizer's description."""
    if isinstance(node, list):
        for item in node:
            yield from _expressions(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "Regex":
                yield value
            else:
                yield from _expressions(value)


def _tokens(folder: Path, tokenizer: Mapping[str, Any], rows: int) -> list[str]:
    by_id = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    for added in tokenizer.get("added_tokens", ()):
        by_id.setdefault(added["id"], added["content"])
    missing = next((number for number in range(len(by_id)) if number not in by_id), None)
    if missing is not None or len(by_id) > rows:
        what = f"token id {missing} is missing" if missing is not None else f"only {rows} rows"
        raise CheckpointError(
            f"{folder}/tokenizer.json: {len(by_id)} tokens, but {what}: the tokenizer is not the "
            "one of this model's embedding"
        )
    return [by_id[number] for number in range(len(by_id))]


def _kinds(
    tokenizer: Mapping[str, Any],
    settings: Mapping[str, Any],
    tokens: list[str],
    rules: TokenizerRules,
) -> list[int]:
    """The kind of each token.

    An added token that is no control token is user-defined; where control tokens are those that
    are named, it is so only beyond the merge vocabulary.
    """
    base = len(tokenizer["model"]["vocab"])
    added = {token["content"]: token["special"] for token in tokenizer.get("added_tokens", ())}
    if rules.control == "added":
        control = {text for text, special in added.items() if special or looks_special(text)}
        user_defined = set(added) - control
    else:
        control = set(_named_tokens(settings))
        user_defined = {text for text in tokens[base:] if text not in control}
    kinds = []
    for number, text in enumerate(tokens):
        if text in rules.visible or text in user_defined:
            kinds.append(USER_DEFINED)
        elif rules.byte_fallback and number < base and _BYTE.fullmatch(text):
            kinds.append(BYTE)
        else:
            kinds.append(CONTROL if text in control else NORMAL)
    return kinds


def _named_tokens(settings: Mapping[str, Any]) -> Iterator[str]:
    """Every token that tokenizer_config.json names: `*_token` and the lists of extra ones."""
    for key, value in settings.items():
        if key.endswith("_token"):
            yield from _content(value)
        elif key in ("additional_special_tokens", "extra_special_tokens"):
            for item in value.values() if isinstance(value, dict) else value:
                yield from _content(item)


def _content(value: Any) -> Iterator[str]:
    text = value.get("content") if isinstance(value, dict) else value
    if isinstance(text, str):
        yield text


def _merges(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    """Merges as "left right"; a space inside a part is written as llama.cpp expects, U+0120."""
    for merge in tokenizer["model"]["merges"]:
        if isinstance(merge, str):
            yield merge
        else:
            yield " ".join(part.replace(" ", "\u0120") for part in merge)


def _special_ids(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, int]:
    """Ids of the special tokens: by name from the tokenizer's files, else from config.json."""
    ids = {added["content"]: added["id"] for added in tokenizer.get("added_tokens", ())}
    section = config.get("text_config") or {}
    found: dict[str, int] = {}
    for word in _SPECIAL_IDS:
        names = [name for name in _content(settings.get(f"{word}_token")) if name in ids]
        number = ids[names[0]] if names else config.get(f"{word}_token_id")
        if number is None:
            number = section.get(f"{word}_token_id")
        if type(number) is int:
            found[word] = number
    return found


def template_metadata(templates: Mapping[str, str]) -> dict[str, Value]:
    """The keys of chat templates by name, as gguf-py writes them; {} where there are none."""
    named = {
        re.sub(r"[^A-Za-z0-9]", "_", name): text
        for name, text in templates.items()
        if name != DEFAULT
    }
    metadata = {f"{_TEMPLATE}.{name}": Value(STRING, text) for name, text in named.items()}
    if named:
        metadata[f"{_TEMPLATE}s"] = Value(STRING, tuple(sorted(named)))
    if DEFAULT in templates:
        metadata[_TEMPLATE] = Value(STRING, templates[DEFAULT])
    return metadata
