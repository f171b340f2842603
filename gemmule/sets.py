"""Choose the documents of the shipped sets: calibration, selection and test.

    python gemmule/sets.py --work WORK --model secateur/gemmule

Every domain gets about the same number of tokens, half raw and half dialogue (test: 60 dialogues
whose last message is the reference answer, and raw text for perplexity). The splits are checked to
be disjoint from each other and from the training text by content hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from corpus import content, digest
from pack import render
from transformers import AutoTokenizer, PreTrainedTokenizerBase

DOMAINS = ("prose", "definitions", "code", "arithmetic", "tools", "chat")
TOKENS = {"calibration": 60_000, "selection": 30_000}  # of all domains together
TEST_PROMPTS, TEST_RAW_TOKENS = 60, 5_000  # of each domain
LONGEST = 900  # tokens of one document: rows are short, and many documents vary more than few


def usable(record: dict[str, Any]) -> bool:
    """A thought cannot be told in the template's messages; such documents are for training only."""
    return "text" in record or "thought" not in record["messages"][-1]


def choose(
    records: list[tuple[int, dict[str, Any]]], kind: str, tokens: int, count: int | None = None
) -> list[dict[str, Any]]:
    """Documents of one kind ("text" or "messages") in hash order up to `tokens` or `count`."""
    taken: list[dict[str, Any]] = []
    total = 0
    for size, record in records:
        if kind not in record or size > LONGEST:
            continue
        if total >= tokens if count is None else len(taken) >= count:
            break
        taken.append(record)
        total += size
    return taken


def load(
    path: Path, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """(tokens, document) of a split by domain, in the order of the documents' hashes."""
    by_domain: dict[str, list[tuple[int, dict[str, Any]]]] = {domain: [] for domain in DOMAINS}
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for record in sorted(rows, key=lambda r: hashlib.sha256(r["id"].encode()).hexdigest()):
        held = by_domain[record["domain"]]
        if usable(record) and len(held) < 1500:
            held.append((len(tokenizer(render(tokenizer, record))["input_ids"]), record))
    return by_domain


def main() -> None:
    """Write sets/*.jsonl below the model folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with (args.work / "corpus/train.jsonl").open(encoding="utf-8") as lines:
        seen = {digest(content(json.loads(line))) for line in lines}
    out = args.model / "sets"
    out.mkdir(exist_ok=True)
    for split in ("calibration", "selection", "test"):
        chosen: list[dict[str, Any]] = []
        for records in load(args.work / f"corpus/{split}.jsonl", tokenizer).values():
            if split == "test":
                chosen += choose(records, "messages", 0, TEST_PROMPTS) + choose(
                    records, "text", TEST_RAW_TOKENS
                )
            else:
                share = TOKENS[split] // len(DOMAINS) // 2
                chosen += choose(records, "messages", share) + choose(records, "text", share)
        keys = {digest(content(record)) for record in chosen}
        if len(keys) != len(chosen) or keys & seen:
            raise SystemExit(f"{split}: a document is also in another split")
        seen |= keys
        with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in chosen)
        total = sum(len(tokenizer(render(tokenizer, record))["input_ids"]) for record in chosen)
        print(
            f"{split}: {len(chosen)} documents, {total} tokens, "
            f"{(out / f'{split}.jsonl').stat().st_size} bytes"
        )


if __name__ == "__main__":
    main()
