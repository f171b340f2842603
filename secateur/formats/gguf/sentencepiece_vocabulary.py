"""The vocabulary of a tokenizer that llama.cpp merges by scores: its "llama" kind (SentencePiece).

Scores are those of the SentencePiece model in the checkpoint's folder. A checkpoint that has been
saved again has only tokenizer.json, whose merges are ordered and have no scores; then a token's
score is minus the rank of the first merge that makes it, as the scores of such models are. There
convert_hf_to_gguf.py gives every token the same score, a stand-in by its own comment, with which
llama.cpp splits text in another way than the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import CheckpointError
from secateur.formats.gguf.sentencepiece import read_pieces
from secateur.system.text_files import explain, read_json

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""llama.cpp's kinds of tokens (`enum llama_token_type`), those that are given here."""

_EMPTY_ROW = -10000.0
_ADDED = -1000.0
_OF_THE_PIECES = (1, 2, 3, 5, 6)
"""Types of pieces that stay what they are; user-defined ones become normal."""


class Vocabulary(NamedTuple):
    """Tokens by id, their kinds and scores, one for every row of the embedding."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float]


def pieces_vocabulary(path: Path, settings: Mapping[str, Any], rows: int) -> Vocabulary:
    """The vocabulary of a SentencePiece model and of the tokens added to it.

    `settings` is tokenizer_config.json. As llama.cpp's converter has it, added tokens without one
    of the embedding's `rows` are left out. Raises CheckpointError as `read_pieces` does, for more
    pieces than rows, and for damaged files next to it.
    """
    pieces = read_pieces(path)
    if len(pieces) > rows:
        raise CheckpointError(
            f"{path}: {len(pieces)} tokens, but only {rows} rows: the tokenizer is not the one of "
            "this model's embedding"
        )
    tokens = [f"[PAD{number}]" for number in range(rows)]
    kinds, scores = [UNUSED] * rows, [_EMPTY_ROW] * rows
    for number, piece in enumerate(pieces):
        kind = piece.type if piece.type in _OF_THE_PIECES else NORMAL
        tokens[number], kinds[number], scores[number] = piece.text, kind, piece.score
    for number, text, kind in _added(path.parent, settings):
        if number in range(rows):  # a number below 0 would be counted from the end
            tokens[number], kinds[number], scores[number] = text, kind, _ADDED
    return Vocabulary(tokens, kinds, scores)


def ranked_scores(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[Sequence[str] | str]
) -> list[float]:
    """Scores by the order of merges; what no merge makes is merged last, or is no normal token."""
    ranks: dict[str, int] = {}
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(parts), len(ranks))
    last = float(-len(ranks))
    return [
        float(-ranks[text]) if text in ranks else last if kind == NORMAL else _ADDED
        for text, kind in zip(tokens, kinds, strict=True)
    ]


def looks_special(text: str) -> bool:
    """llama.cpp's converter's guess for tokens that are not marked as special."""
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        text.startswith(opening) and text.endswith(closing)
        for opening, closing in (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    )


def _added(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[int, str, int]]:
    """(id, text, kind) of tokens added to the model, the later of the same id counting."""
    file = folder / "added_tokens.json"
    try:
        if file.is_file():
            for text, number in read_json(file, "tokens", CheckpointError).items():
                yield int(number), text, USER_DEFINED
        for number, token in settings.get("added_tokens_decoder", {}).items():
            text = token["content"]
            if token.get("special") or looks_special(text):
                yield int(number), text, CONTROL
            else:
                yield int(number), text.replace("\u2581", " "), USER_DEFINED
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: added_tokens.json or tokenizer_config.json has no readable added tokens "
            f"({explain(error)}): download it again"
        ) from None
