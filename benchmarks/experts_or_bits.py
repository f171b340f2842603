"""Fewer experts or fewer bits? gemmule in GGUF types, whole and pruned: experts_or_bits.json.

For each number of experts kept and each type: bytes of the tensors, bits per weight, and what was
lost against the original on its own answers (mean KL with its 95 % interval over answers, top-1
agreement). Importance matrix and choice of experts come from gemmule's own calibration set, the
answers from its test set. A small model's widths (96 and 288) make K types fall back more often
than a large model's, so sizes are those of the tensors as they are.

    python benchmarks/experts_or_bits.py [--stats FILE] [--per-domain 10]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from goals import result_path

import secateur
from secateur import Calibration, Formats, Measuring, Pruning

EXPERTS = (32, 28, 24)
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K")


def rows(stats: Path, per_domain: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each number of experts and type."""
    found = []
    for experts in EXPERTS:
        plan = secateur.plan(
            "gemmule", Pruning(experts=experts), Formats("gguf", TYPES), statistics=stats
        )
        out = folder / f"{experts}"
        secateur.apply(plan, out, statistics=stats)
        for kind in TYPES:
            form = f"gguf-{kind}"
            (file,) = plan.files[form]
            report = secateur.measure(
                out / file, "gemmule", Measuring(per_domain=per_domain), work=folder / "work"
            )
            kl, top1 = (report.artefacts[0].value(name) for name in ("kl_mean", "top1_agreement"))
            assert kl is not None and top1 is not None
            row = {
                "experts": experts,
                "type": kind,
                "tensor_bytes": plan.tensor_bytes(form),
                "bits_per_weight": round(plan.output(form).bits_per_weight, 3),
                "kl_mean": {"value": kl.value, "low": kl.low, "high": kl.high},
                "top1_agreement": round(top1.value, 4),
                "samples": dict(kl.n),
            }
            print(json.dumps(row), flush=True)
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stats", type=Path, help="Statistics of gemmule. Default: made.")
    parser.add_argument("--per-domain", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stats = options.stats or Path(name) / "stats.safetensors"
        if options.stats is None:
            secateur.calibrate("gemmule", stats, Calibration(corpus="gemmule"))
        result = {
            "what": "gemmule in GGUF types, whole and pruned: size and what was lost",
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
            "rows": rows(stats, options.per_domain, Path(name)),
        }
    result_path("experts_or_bits").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
