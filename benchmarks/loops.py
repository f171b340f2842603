"""Precision and recall of every detector of degenerate replies. Writes loops.json.

Labelled replies (labelled_texts.py) of 16 kinds of loops, 7 other failures, and 27 kinds of sound
text that looks repetitive, or is cut by a limit. On one half of them it is looked from which
strength on 99 % of what a detector finds is right (`holds_from`), and at which next lower one that
fails (`fails_at`); its threshold has to be above the latter. Precision and recall are of the other
half, with 95 % Wilson intervals. Recall is over all replies of the detector's group, those of kinds
that it is not made for included; a table says which kinds each finds, and which sound kinds are
taken for something.
Then loops that gemmule really fell into (generated_loops.py), which no threshold was chosen on.

    python benchmarks/loops.py [--each 80] [--generated 150] [--folder FOLDER]

`--folder` keeps gemmule's statistics and the replies for another run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from generated_loops import Generated, generate
from goals import result_path
from labelled_texts import Labelled, labelled

from secateur.evaluation.intervals import wilson_interval
from secateur.evaluation.robustness.detectors.base import Detector, Exchange
from secateur.evaluation.robustness.registry import all_detectors
from secateur.evaluation.robustness.verdict import judge

PRECISION = 0.99


def strength(detector: Detector, exchange: Exchange) -> float:
    found = detector.find(exchange)
    return found.strength if found else 0.0


def is_one(detector: Detector, text: Labelled) -> bool:
    return detector.group in (text.label, text.also)


def threshold_range(detector: Detector, texts: Sequence[Labelled]) -> tuple[float, float]:
    """(fails_at, holds_from): the lowest strength down to which `PRECISION` of what is found has
    the detector's label, and the one that comes next."""
    found = [(strength(detector, one.exchange), is_one(detector, one)) for one in texts]
    found = sorted((one for one in found if one[0] > 0), reverse=True)
    right, fails_at, holds_from = 0, 0.0, 0.0
    for count, (value, label) in enumerate(found, start=1):
        right += label
        following = found[count][0] if count < len(found) else 0.0
        if following < value and right / count >= PRECISION:
            fails_at, holds_from = following, value
    return fails_at, holds_from


def share(hits: int, count: int) -> dict[str, Any]:
    if not count:
        return {"hits": 0, "of": 0}
    found = wilson_interval(hits / count, count)
    return {
        "hits": hits, "of": count, "value": round(found.value, 4),
        "low": round(found.low or 0, 4), "high": round(found.high or 0, 4),
    }  # fmt: skip


def quality(marks: Iterable[tuple[bool, bool]]) -> dict[str, Any]:
    """Of (found, is one): precision, recall, and how many others are taken for one."""
    counts = Counter(marks)
    hits = counts[True, True]
    return {
        "precision": share(hits, hits + counts[True, False]),
        "recall": share(hits, hits + counts[False, True]),
        "false_alarms": share(counts[True, False], counts[True, False] + counts[False, False]),
    }


def of_detector(
    detector: Detector, chosen_on: Sequence[Labelled], tried_on: Sequence[Labelled]
) -> dict[str, Any]:
    kinds: dict[str, list[bool]] = {}
    marks = []
    for one in tried_on:
        found = strength(detector, one.exchange) >= detector.threshold
        kinds.setdefault(one.kind, []).append(found)
        marks.append((found, is_one(detector, one)))
    fails_at, holds_from = threshold_range(detector, chosen_on)
    return {
        "detector": detector.name,
        "group": detector.group,
        "threshold": detector.threshold,
        "fails_at": round(fails_at, 4),
        "holds_from": round(holds_from, 4),
        **quality(marks),
        "found_by_kind": {
            kind: round(sum(found) / len(found), 3) for kind, found in kinds.items() if any(found)
        },
    }


def of_verdicts(texts: Sequence[Labelled]) -> dict[str, Any]:
    """The same for the word that a reply gets."""
    words = [(judge(one.exchange).word, one) for one in texts]
    wrong = Counter(one.kind for word, one in words if not one.label and word not in SOUND)
    sizes = Counter(one.kind for one in texts)
    return {
        "groups": {
            group: quality((word == group, one.label == group) for word, one in words)
            for group in ("loop", "no_answer", "echo", "drift")
        },
        "sound_kinds_taken_for_something": {
            kind: share(count, sizes[kind]) for kind, count in wrong.most_common()
        },
        "cut_replies": {
            "sound_text_called_truncated": share(
                sum(w == "truncated" for w, one in words if _cut(one)),
                sum(_cut(one) for _, one in words),
            )
        },
    }


SOUND = ("sound", "truncated")


def _cut(one: Labelled) -> bool:
    return not one.label and one.exchange.finish == "length"


def of_generated(replies: Sequence[Generated]) -> dict[str, Any]:
    """Real replies: those that say neither are counted and left out."""
    usable = [one for one in replies if one.label in ("loop", "")]
    words = [(judge(one.exchange), one) for one in usable]
    return {
        "replies": {
            f"{experts} experts": dict(Counter(one.label or "ended" for one in replies
                                               if one.experts == experts))
            for experts in sorted({one.experts for one in replies})
        },
        "verdict_loop": quality((v.word == "loop", one.label == "loop") for v, one in words),
        "detectors": {
            detector.name: quality((v.found(detector.name), one.label == "loop")
                                   for v, one in words)
            for detector in all_detectors()
            if detector.group == "loop" and detector.name != "repeated_tool_calls"
        },
    }  # fmt: skip


def replies_of(count: int, folder: Path) -> list[Generated]:
    """Generated, or read where a run before kept them in the folder."""
    path = folder / f"replies-{count}.jsonl"
    if not path.is_file():
        found = list(generate(count, folder))
        path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
    lines = map(json.loads, path.read_text().splitlines())
    return [
        Generated(
            one["experts"], one["prompt"], one["label"],
            Exchange(one["prompt"], one["exchange"]["content"], finish=one["exchange"]["finish"]),
        )
        for one in lines
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=80)
    parser.add_argument("--generated", type=int, default=150)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    texts = list(labelled(options.each))
    chosen_on, tried_on = texts[::2], texts[1::2]
    detectors = [of_detector(one, chosen_on, tried_on) for one in all_detectors()]
    with tempfile.TemporaryDirectory() as name:
        replies = replies_of(options.generated, options.folder or Path(name))
    result = {
        "what": "detectors of degenerate replies: precision and recall, 95 % Wilson intervals",
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "labelled": {"of_each_kind": options.each, "chosen_on": len(chosen_on),
                     "tried_on": len(tried_on)},
        "detectors": detectors,
        "verdicts": of_verdicts(tried_on),
        "generated": of_generated(replies),
    }  # fmt: skip
    low = [one["detector"] for one in detectors if one["threshold"] <= one["fails_at"]]
    print(f"thresholds that are too low: {', '.join(low) or 'none'}")
    result_path("loops").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
