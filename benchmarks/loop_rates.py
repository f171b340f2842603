"""How much oftener a deeply pruned gemmule fails to answer than gemmule: loop_rates.json.

300 prompts of its test set, three replies each of at most 512 tokens, drawn at temperature 1 by
llama.cpp: gemmule, and what is left with 12 of 32 experts (by frequency) in Q8_0. Rates, and what
differs in pairs, as `secateur measure --loops` gives them.

    python benchmarks/loop_rates.py [--out OUTPUT]

`--out` takes the evidence of an output that was measured so before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

from goals import result_path

import secateur
from secateur import Calibration, Formats, Measuring, Pruning
from secateur.api.requests import Loops
from secateur.evaluation.measurement import POOLED
from secateur.release.evidence import Evidence, read_evidence

EXPERTS = 12


def measure_new(folder: Path) -> Path:
    stats, out = folder / "stats.safetensors", folder / "out"
    secateur.calibrate("gemmule", stats, Calibration(corpus="gemmule"), workers=1)
    pruning = Pruning(experts=EXPERTS, criterion="frequency")
    plan = secateur.plan("gemmule", pruning, Formats("gguf", "Q8_0"), statistics=stats)
    secateur.apply(plan, out, statistics=stats, workers=1)
    request = Measuring(per_domain=1, loops=Loops(tokens=512))
    secateur.measure(out, "gemmule", request, work=folder / "work", workers=1)
    return out


def summary(evidence: Evidence) -> dict[str, object]:
    """All pooled numbers, and the differences in every domain."""
    return {
        "what": "replies that loop or never answer, gemmule beside 12 of its 32 experts",
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "asked": dict(evidence.facts),
        "models": {
            one.name: [
                entry.to_json()
                for entry in one.measurements
                if entry.domain == POOLED or "difference" in entry.name
            ]
            for one in evidence.artefacts
        },
        "notes": list(evidence.notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        evidence = read_evidence(options.out or measure_new(Path(name)), "loops")
    assert evidence is not None
    text = json.dumps(summary(evidence), indent=1)
    result_path("loop_rates").write_text(text + "\n")


if __name__ == "__main__":
    main()
