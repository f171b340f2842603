"""The five cards audited: every statement that can be computed, and its verdict. Writes audit.json.

No weights: the shape is that of the real model's numbers, the header as large as that of its
vocabulary (gemma4_facts.py). The cards are not ours to ship: name a folder that holds their texts
as `000*.txt` to `004*.txt`. The errors found are compared with those found by hand
(audit_known.py); one that is missing, or a false one, ends the run with status 1.

    python benchmarks/audit.py --cards FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gemma4_facts
from audit_known import MUST, OTHER_UNIT, UNPROVEN, WRONG
from goals import result_path

from secateur import Audit, audit_model


def audit(card: Path, model: Path) -> tuple[Audit, dict[str, Any]]:
    """One card's findings; as JSON, what holds only counted by topic."""
    start = time.perf_counter()
    found = audit_model(model / "vocabulary.gguf", config=model / "config.json", claims=card)
    seconds = time.perf_counter() - start
    holding = Counter(f.topic for f in found.claims if f.verdict == "holds")
    return found, {
        "card": card.name,
        "seconds": round(seconds, 1),
        "statements": len(found.claims),
        "counts": found.counts(),
        "holds": dict(sorted(holding.items())),
        "findings": [asdict(f) for f in found.claims if f.verdict != "holds"],
    }


def differences(card: str, found: Audit) -> Iterator[str]:
    """Where the findings differ from those made by hand."""
    for verdict, table in (("wrong", WRONG[card]), ("unproven", UNPROVEN[card])):
        reported = [finding for finding in found.claims if finding.verdict == verdict]
        for line, topic, said in table:
            hits = [f for f in reported if (f.line, f.topic) == (line, topic) and said in f.said]
            if len(hits) != 1:
                yield f"{card}: not found: line {line}, {topic}, {said!r}"
            for hit in hits:
                reported.remove(hit)
        yield from (f"{card}: false: {finding.sentence()}" for finding in reported)
    if found.counts()["other unit"] != OTHER_UNIT[card]:
        yield f"{card}: {found.counts()['other unit']} in another unit, not {OTHER_UNIT[card]}"
    for (name, line), must in MUST.items():
        sentences = [f.sentence() for f in found.claims if f.line == line]
        if name == card and not any(must in sentence for sentence in sentences):
            yield f"{card}: line {line} does not say {must!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=Path, help="Folder with the cards' texts.")
    options = parser.parse_args()
    paths = sorted(options.cards.glob("00[0-4]*.txt")) if options.cards else []
    if len(paths) != len(WRONG):
        print("skipped: name a folder with the five cards' texts, as --cards FOLDER")
        return
    cards, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        model = gemma4_facts.write_model(Path(folder))
        for path in paths:
            found, facts = audit(path, model)
            cards.append(facts)
            wrong += list(differences(path.name[:3], found))
    total: Counter[str] = Counter()
    for card in cards:
        total.update(card["counts"])
    text = json.dumps({"total": dict(total), "cards": cards}, indent=1, ensure_ascii=False)
    result_path("audit").write_text(text + "\n")
    print(json.dumps({"total": dict(total)}))
    for card in cards:
        print(card["card"], f"{card['seconds']} s", card["counts"])
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
