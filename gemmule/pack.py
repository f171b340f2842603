"""Render documents as the chat template does and turn each split into one token stream a domain.

    python gemmule/pack.py --work WORK --model secateur/gemmule

Writes WORK/tokens/{train,test}-{domain}.npy (uint16). Every document begins with <bos>; raw text
ends with <eos>, a dialogue with its last <turn|>. The final answer of a dialogue follows either the
plain turn header or the generation prompt (with its empty thought channel), so that the model knows
both.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

HEADER = "<|turn>model\n"


def answer_text(tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]) -> tuple[str, str]:
    """The last message as the model has to write it: (generation prompt, answer up to <turn|>)."""
    messages, tools = record["messages"], record.get("tools")
    last = messages[-1]
    thinks = "thought" in last

    def render(part: list[dict[str, Any]], **options: Any) -> str:
        text = tokenizer.apply_chat_template(part, tools=tools, tokenize=False, **options)
        assert isinstance(text, str)
        return text

    prompt = render(messages[:-1], add_generation_prompt=True, enable_thinking=thinks)
    answer = render(messages)[len(render(messages[:-1])) :].removeprefix(HEADER)
    if thinks:
        answer = f"<|channel>thought\n{last['thought']}<channel|>{answer}"
    return prompt, answer


def render(tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]) -> str:
    """A training document with control tokens; choices depend on the document's id alone."""
    if "text" in record:
        return f"<bos>{record['text']}<eos>"
    rng = random.Random(record["id"])
    if rng.random() < 0.6 or "thought" in record["messages"][-1]:
        return "".join(answer_text(tokenizer, record))
    messages = record["messages"]
    if len(messages) > 1 and "tool_responses" in messages[-2]:
        messages = [*messages[:-2], messages[-2] | {"content": messages[-1]["content"]}]
    text = tokenizer.apply_chat_template(messages, tools=record.get("tools"), tokenize=False)
    assert isinstance(text, str)
    return text


def _encode(job: tuple[str, list[str]]) -> list[tuple[str, list[int]]]:
    """Domain and token ids of a batch of JSON lines (runs in a worker)."""
    tokenizer = AutoTokenizer.from_pretrained(job[0])
    records = [json.loads(line) for line in job[1]]
    encoded = tokenizer([render(tokenizer, r) for r in records], add_special_tokens=False)[
        "input_ids"
    ]
    return [(record["domain"], ids) for record, ids in zip(records, encoded, strict=True)]


def _batches(model: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    with path.open(encoding="utf-8") as lines:
        while batch := list(islice(lines, 1000)):
            yield model, batch


def main() -> None:
    """Pack the train and test splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()
    out = args.work / "tokens"
    out.mkdir(exist_ok=True)
    for split in ("test", "train"):
        streams: dict[str, list[np.ndarray]] = defaultdict(list)
        documents: dict[str, int] = defaultdict(int)
        with Pool(2) as pool:
            for batch in pool.imap(
                _encode, _batches(str(args.model), args.work / "corpus" / f"{split}.jsonl")
            ):
                for domain, ids in batch:
                    streams[domain].append(np.array(ids, dtype=np.uint16))
                    documents[domain] += 1
        order = np.random.default_rng(0)
        for domain, rows in streams.items():
            shuffled = np.concatenate([rows[i] for i in order.permutation(len(rows))])
            np.save(out / f"{split}-{domain}.npy", shuffled)
            print(f"{split} {domain}: {documents[domain]} documents, {len(shuffled)} tokens")


if __name__ == "__main__":
    main()
