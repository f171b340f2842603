"""Text as SmolLM2's token ids, two bytes each: what upcycle.py trains on, small enough to be sent.

    python benchmarks/models/token_ids.py WORK/corpus --tokenizer WORK/smollm2/tokenizer.json -o IDS

WORK/corpus is what gemmule's corpus.py writes: manuals, novels, dictionaries and code as they are,
arithmetic, tool use and conversations made by rule, split by document. Documents are drawn (by a
seed) until a domain has its share of as many characters as are asked for; conversations are
rendered as SmolLM2's template does. IDS gets train-DOMAIN.npy and test-DOMAIN.npy, uint16.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

MIX = {
    "code": 0.32,
    "prose": 0.31,
    "definitions": 0.16,
    "arithmetic": 0.09,
    "chat": 0.08,
    "tools": 0.04,
}
"""Each domain's share of the text that is trained on, that of gemmule's training."""
END_OF_TEXT = 0
SEED = 11


def render(record: dict[str, Any]) -> str:
    """As SmolLM2's template does, without a system's turn of its own."""
    if "messages" not in record:
        return str(record["text"])
    turns = ((one["role"], one.get("content") or "") for one in record["messages"])
    return "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in turns)


def draw_documents(path: Path, characters: dict[str, int]) -> dict[str, list[str]]:
    """{domain: documents}, drawn from all of a domain's until they have so many characters."""
    found: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            found.setdefault(record["domain"], []).append(render(record))
    for name, documents in found.items():
        random.Random(f"{SEED}/{name}").shuffle(documents)
        found[name] = list(_up_to(documents, characters[name]))
    return found


def _up_to(documents: list[str], characters: int) -> Iterator[str]:
    left = characters
    for one in documents:
        if left <= 0:
            return
        left -= len(one)
        yield one


def encode(documents: list[str], tokenizer: Tokenizer) -> NDArray[np.uint16]:
    """The documents' tokens, an end behind each."""
    lines = [[*one.ids, END_OF_TEXT] for one in tokenizer.encode_batch(documents)]
    return np.concatenate([np.array(ids, np.uint16) for ids in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=1_800_000, help="shared as MIX is")
    parser.add_argument("--held-characters", type=int, default=60_000, help="of each")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    if tokenizer.get_vocab_size() > 1 << 16:
        raise SystemExit(f"{options.tokenizer}: its ids do not fit in two bytes")
    options.out.mkdir(parents=True, exist_ok=True)
    shares = {name: round(share * options.characters) for name, share in MIX.items()}
    wanted = {"train": shares, "test": dict.fromkeys(MIX, options.held_characters)}
    for split, characters in wanted.items():
        for name, documents in draw_documents(
            options.corpus / f"{split}.jsonl", characters
        ).items():
            ids = encode(documents, tokenizer)
            np.save(options.out / f"{split}-{name}.npy", ids)
            print(split, name, len(documents), "documents,", len(ids), "tokens", flush=True)


if __name__ == "__main__":
    main()
