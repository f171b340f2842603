"""Speed and memory of gemmule beside its artefacts in the real engines, in turns: speed.json.

Three quarters of the experts in Q8_0, Q4_K_M and MLX of 8 bits, beside the original (BF16 in
llama.cpp; its own folder in mlx-lm), as `secateur measure --speed` times them: every turn is a
process of its own, one request at a time, the prompt in no cache, on one thread. Ratios are of
turns in alternation, with t intervals of their logarithms. The models are made first, into --out,
and kept there; with --prepare nothing is timed, so that the timing can have the machine alone.

    python benchmarks/speed.py [--prepare] [--turns 6] [--out out/speed]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from goals import result_path

from secateur import Calibration, Formats, Pruning, ShrinkRequest, shrink
from secateur.api.original_gguf import gguf_of_original
from secateur.api.speed import measure_speed
from secateur.api.subjects import AskedOutput, Subject
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.speed.request import Speed
from secateur.release.evidence import MAIN_NUMBERS, ORIGINAL, ArtefactEvidence

HERE = Path(__file__).parent
EXPERTS = 24
TYPES = ("Q8_0", "Q4_K_M", str(HERE / "ladder_mlx_8bit.yaml"))
LENGTHS = {"prompt_tokens": 256, "answer_tokens": 64}
"""gemmule's context is 2,048 tokens, and mlx-lm reads about 50 a second on a CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/speed"))
    parser.add_argument("--prepare", action="store_true", help="make the models, time nothing")
    parser.add_argument("--turns", type=int, default=6)
    given = parser.parse_args()
    original = open_checkpoint("gemmule")
    subjects = make_models(given.out, original)
    if given.prepare:
        return
    asked = AskedOutput(subjects, Serving(), given.out, 1, original=original)
    evidence, items = measure_speed(asked, Speed(turns=given.turns, **LENGTHS))
    found = {
        "experts": EXPERTS,
        "of_experts": original.experts,
        "facts": dict(evidence.facts),
        "models": [numbers_of(one) for one in evidence.artefacts],
        "notes": list(evidence.notes),
        "turns": items,
    }
    result_path("speed").write_text(json.dumps(found, indent=1) + "\n")


def make_models(out: Path, original: Checkpoint) -> tuple[Subject, ...]:
    """The original as a GGUF, and the artefacts; what is there already is taken."""
    pruned = out / "pruned"
    if not pruned.exists():
        formats = Formats(to="gguf,mlx", types=TYPES)
        calibration = Calibration(corpus="gemmule")
        request = ShrinkRequest(Pruning(experts=EXPERTS), formats, calibration, measuring=None)
        shrink("gemmule", pruned, request, workers=1)
    whole = gguf_of_original(original, out / "original", workers=1)
    ggufs = sorted(path for path in pruned.glob("*.gguf") if path.name != "imatrix.gguf")
    mlx = sorted(path.parent for path in pruned.glob("*/model.safetensors"))
    return (
        Subject(ORIGINAL, whole, whole.name),
        *(Subject(path.name, path, path.name) for path in (*ggufs, *mlx)),
    )


def numbers_of(one: ArtefactEvidence) -> dict[str, Any]:
    """A model's numbers, with the bytes that its engine had resident."""
    names = {*MAIN_NUMBERS["speed"], "peak_memory", "prefill_cpu_ratio", "generation_cpu_ratio"}
    return {
        "model": one.name,
        "numbers": [entry.to_json() for entry in one.measurements if entry.name in names],
    }


if __name__ == "__main__":
    main()
