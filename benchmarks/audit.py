"""The five cards audited: every statement that can be computed, and its verdict. Writes audit.json.

No weights: the shape is the real model's config, the header that of its vocabulary. The command is
`secateur audit VOCABULARY --config CONFIG --claims CARD`, once for each card. Which of the errors
found are known ones, and that none is false, is compared in tests/test_audit.py.

    python benchmarks/audit.py [--shared /work/shared]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur import audit_model

SHARED = Path("/work/shared")


def audited(card: Path, data: Path) -> dict[str, Any]:
    """One card's findings, what holds only counted by topic."""
    start = time.perf_counter()
    found = audit_model(data / "ggml-vocab-gemma-4.gguf", config=data / "config.json", claims=card)
    seconds = time.perf_counter() - start
    holding = Counter(f.topic for f in found.claims if f.verdict == "holds")
    return {
        "card": card.name,
        "seconds": round(seconds, 1),
        "statements": len(found.claims),
        "counts": found.counts(),
        "holds": dict(sorted(holding.items())),
        "findings": [asdict(f) for f in found.claims if f.verdict != "holds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=SHARED)
    options = parser.parse_args()
    if not options.shared.is_dir():
        print(f"{options.shared} is not there: name a folder with the cards and the model's data")
        return
    data = options.shared / "data/gemma-4-26b-a4b-it"
    cards = [audited(card, data) for card in sorted((options.shared / "cards").glob("*.txt"))]
    total: Counter[str] = Counter()
    for card in cards:
        total.update(card["counts"])
    text = json.dumps({"total": dict(total), "cards": cards}, indent=1, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(json.dumps({"total": dict(total)}))
    for card in cards:
        print(card["card"], f"{card['seconds']} s", card["counts"])


if __name__ == "__main__":
    main()
