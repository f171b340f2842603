"""Our divergence beside that of the real engines: the same files and tokens. Writes JSON.

gemmule whole and with 24 of its 32 experts, each in five GGUF types and as MLX; texts of its test
set, every token but the first scored over the whole vocabulary. Of each file: mean KL from the
original by our decoded weights and in llama.cpp (mlx-lm), the paired difference of the two, and how
far the two are apart: with the same experts in all layers, and where one differs. What sets them
apart is the precision of activations, which llama.cpp rounds to that of the weights they meet (F32:
not at all), and the experts that change with it.

    python benchmarks/engine_agreement.py [--texts 48] [--work out/engine_agreement]

Files and rows that an interrupted run left in --work are not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path
from measuring import digits, texts

import secateur
from secateur import Formats, Pruning, Recipe, open_checkpoint
from secateur.evaluation.compare import paired_difference
from secateur.evaluation.engine import InOurPath, score_engine
from secateur.evaluation.kept_experts import find_kept_experts
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.metrics.registry import arrays_sha256, metric_named
from secateur.evaluation.metrics.router import BY_LAYER
from secateur.evaluation.scores import FORMAT, Scores, score
from secateur.evaluation.summary import summarise, token_groups
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import Teacher, teach
from secateur.forward.weights import CheckpointWeights
from secateur.outputs.registry import artefacts_of, open_artefact
from secateur.serving.teacher_forced_logits import Engine, run_llama_cpp, run_mlx_lm

TYPES = ("F32", "BF16", "Q8_0", "Q4_K_M", "Q2_K")
MLX = Recipe("affine-4-32", "affine-4-32", "mlx")
KEPT = 24
KL = metric_named("kl_mean")
SHOWN = (KL, metric_named("top1_agreement"))


def make(work: Path) -> Iterator[tuple[str, Path]]:
    """(which experts, file) of all files, made where they are not there yet."""
    whole, pruned = Pruning(drop=0.0), Pruning(experts=KEPT, criterion="reap")
    gguf, mlx = Formats(types=TYPES, to="gguf"), Formats(to="mlx", recipes=(MLX,))
    some = f"{KEPT} experts"
    wanted = {
        ("all experts", "gguf"): (whole, gguf),
        (some, "gguf"): (pruned, gguf),
        (some, "mlx"): (pruned, mlx),
        ("all experts", "mlx"): (whole, mlx),
    }
    statistics = work / "statistics.safetensors"
    if not statistics.exists():
        request = secateur.Calibration("gemmule", reroute_tokens=0)
        secateur.calibrate("gemmule", statistics, request, workers=1)
    for (experts, form), (pruning, formats) in wanted.items():
        out = work / f"{experts.replace(' ', '-')}-{form}"
        if not out.exists():
            used = statistics if pruning.experts else None
            plan = secateur.plan("gemmule", pruning, formats, statistics=used)
            secateur.apply(plan, out, statistics=used, workers=1)
        for path in artefacts_of(out):
            yield experts, path


def shown(found: Measurement) -> dict[str, float | None]:
    """Its value and interval."""
    return {key: digits(getattr(found, key)) for key in ("value", "low", "high")}


def numbers(scores: Scores, answers: AnswerSet) -> dict[str, Any]:
    """{metric: its value and interval over all tokens}"""
    found = summarise(scores, answers, metrics=SHOWN)
    return {entry.name: shown(entry) for entry in found if entry.domain == "pooled"}


def apart(between: Scores) -> dict[str, Any]:
    """How far two runs of a file are apart, by whether their experts are the same."""
    kl = between.arrays["kl"]
    found = {"kl_median": digits(float(np.median(kl)))}
    if BY_LAYER in between.arrays:
        same = (between.arrays[BY_LAYER] == 1).all(-1)
        found["tokens_with_the_same_experts"] = digits(float(same.mean()))
        for name, chosen in {"same": same, "other": ~same}.items():
            value = digits(float(kl[chosen].mean())) if chosen.any() else None
            found[f"kl_mean_with_{name}_experts"] = value
    return found


def measure(path: Path, teacher: Teacher, answers: AnswerSet) -> dict[str, Any]:
    """The row of a file."""
    checkpoint = open_checkpoint("gemmule")
    artefact = open_artefact(path, checkpoint)
    kept = find_kept_experts(artefact.source, CheckpointWeights(checkpoint))
    scores = score(teacher, artefact.source, path.name, answers, kept=kept)
    own = teach(artefact.source, path.name, answers, top_k=teacher.top.shape[-1])
    running: AbstractContextManager[Engine]
    if artefact.runs_in_mlx_lm:
        running = run_mlx_lm(path)
    else:
        longest = max(len(one.input_ids) for one in answers.answers)
        running = run_llama_cpp(path, context=longest, experts=own.experts.shape[1:])
    with running as engine:
        against, between = score_engine(engine, teacher, InOurPath(own, scores, kept), answers)
        name = engine.host.name
    difference = paired_difference(KL, next(token_groups(answers)), (against, scores))
    return {
        "engine": name,
        "ours": numbers(scores, answers),
        "in_the_engine": numbers(against, answers),
        "kl_mean_in_the_engine_minus_ours": shown(difference),
        "between_the_two": numbers(between, answers) | apart(between),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--work", type=Path, default=Path("out/engine_agreement"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    answers, checkpoint = texts(options.texts), open_checkpoint("gemmule")

    @cache
    def original() -> Teacher:
        vocab = checkpoint.family.number(checkpoint.config, "vocab")
        return teach(CheckpointWeights(checkpoint), "original", answers, top_k=vocab)

    engines = {name: version(name) for name in ("xllamacpp", "mlx-lm", "mlx")}
    decides = json.dumps([answers.sha256, FORMAT, arrays_sha256(), engines])
    kept = options.work / f"rows-{hashlib.sha256(decides.encode()).hexdigest()[:12]}.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    rows = [json.loads(line) for line in lines]
    for experts, path in make(options.work):
        case = {"experts": experts, "file": path.name}
        if not any(case.items() <= row.items() for row in rows):
            rows.append(case | measure(path, original(), answers))
            with kept.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    report = {
        "what": "mean KL from gemmule in nats: our decoded weights, and the engine that runs them",
        "texts": len(answers.answers),
        "tokens": answers.tokens,
        "confidence": 0.95,
        "engines": engines,
        "rows": rows,
    }
    result_path("engine_agreement").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
