"""Train gemmule's tokenizer: 4096 entries in the form of Gemma 4's.

    python gemmule/tokenizer.py --work WORK --template chat_template.jinja --out secateur/gemmule

Spaces become U+2581, unknown characters fall back to the 256 byte tokens, digits stand alone, and
the control tokens keep the ids that they have in the real model (`<|turn>` is 105, ...), so that
anything written for one works on the other. Gaps between them are ordinary tokens.
Merges are learned on words but, as in the real tokenizer, applied without splitting the text first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

VOCAB = 4096
CONTROL = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<mask>": 4,
    "<|tool>": 46,
    "<tool|>": 47,
    "<|tool_call>": 48,
    "<tool_call|>": 49,
    "<|tool_response>": 50,
    "<tool_response|>": 51,
    '<|"|>': 52,
    "<|think|>": 98,
    "<|channel>": 100,
    "<channel|>": 101,
    "<|turn>": 105,
    "<turn|>": 106,
}
BYTE_START = 238  # id of <0x00> in the real vocabulary
SHARE = {
    "prose": 10_000_000,
    "definitions": 5_000_000,
    "code": 12_000_000,
}  # characters to learn merges from
SHARE_MADE = 1_500_000  # the same for each domain that is made by rule and repeats itself
WORDS = r"\n+|\t+|▁{2,}|▁?\p{L}+|\p{N}|▁?[^\p{L}\p{N}\s▁]+|▁"


def training_texts(path: Path) -> Iterator[str]:
    """Texts of the train split, as many characters of each domain as SHARE says."""
    left: dict[str, int] = {}
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            texts = [row["text"]] if "text" in row else [m["content"] for m in row["messages"]]
            if left.setdefault(row["domain"], SHARE.get(row["domain"], SHARE_MADE)) > 0:
                left[row["domain"]] -= sum(map(len, texts))
                yield from (text.replace(" ", "▁") for text in texts)


def learn(texts: Iterator[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Ordinary tokens (single characters, then merged ones) and the merges that make them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    room = VOCAB - len(CONTROL) - 256
    trainer = trainers.BpeTrainer(
        vocab_size=room, limit_alphabet=120, max_token_length=20, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    ordered = sorted(model["vocab"], key=model["vocab"].get)
    return ordered, [tuple(pair) for pair in model["merges"]]


def lay_out(tokens: list[str]) -> dict[str, int]:
    """Ids: control and byte tokens where the real model has them, the others around them."""
    taken = dict(CONTROL) | {f"<0x{b:02X}>": BYTE_START + b for b in range(256)}
    used = set(taken.values())
    free = (i for i in range(VOCAB) if i not in used)
    taken.update(zip(tokens, free, strict=True))
    return dict(sorted(taken.items(), key=lambda item: item[1]))


def tokenizer_json(vocab: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """The file that the tokenizers library reads, field for field in Gemma 4's form."""
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    one, two = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    second = {"SpecialToken": {"id": "<bos>", "type_id": 1}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": t, **flags} for t, i in CONTROL.items()],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, one],
            "pair": [bos, one, second, two],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """What transformers needs beside tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "additional_special_tokens": [t for t, i in CONTROL.items() if i > 4],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def main() -> None:
    """Learn the merges and write the three tokenizer files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tokens, merges = learn(training_texts(args.work / "corpus" / "train.jsonl"))
    args.out.mkdir(parents=True, exist_ok=True)
    written = tokenizer_json(lay_out(tokens), merges)
    (args.out / "tokenizer.json").write_text(
        json.dumps(written, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    (args.out / "tokenizer_config.json").write_text(
        json.dumps(tokenizer_config(), indent=1), encoding="utf-8"
    )
    # Read first: the template may be the one that lies there.
    (args.out / "chat_template.jinja").write_bytes(args.template.read_bytes())
    print(f"{len(tokens)} ordinary tokens, {len(merges)} merges")


if __name__ == "__main__":
    main()
