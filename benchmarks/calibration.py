"""What a calibration pass costs, against transformers' own forward. Writes calibration.json.

Both sides run the same tokens in one process, in turns, with the same number of threads. Ours is
all of `calibrate`: opening the shards, building the skeleton, the forward pass, REAP and imatrix
sums (and, as a second figure, the removal orders of `rerouted`). Theirs is the bare forward of
the base model, loaded beforehand: no head, no cache, no loading. It may choose the best of its
experts implementations and of several batch sizes (tokens side by side, filled up on the right
as ours are; none is given a mask). Ratios of best runs and medians; CPU seconds beside them.

    python benchmarks/calibration.py [--rounds 7] [--only gemmule|wide]

On a machine that others use, give the shell a session of its own first: `setsid`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from secateur.calibration.calibrate import REROUTE_TOKENS, calibrate
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.rows import Corpus, Row, Sample, corpus_of
from secateur.forward.batches import MicroBatch, micro_batches, side_by_side

THREADS = 2
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
BATCH_TOKENS = (512, 1024, 4096)
TRIAL = 256
"""Tokens on which the implementations are compared (batched_mm copies weights per token)."""
GATHERED = 4 << 30
"""Bytes: batched_mm is left out where its copies of weights for TRIAL tokens take more."""
WIDE = {
    "vocab_size": 4096,
    "vocab_size_per_layer_input": 4096,
    "hidden_size": 1024,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 2,
    "head_dim": 128,
    "global_head_dim": 256,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "enable_moe_block": True,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
    "sliding_window": 256,
    "layer_types": ["sliding_attention", "full_attention"],
    "final_logit_softcapping": 30.0,
}


def gemmule(limit: int) -> tuple[Checkpoint, Corpus]:
    """gemmule and `limit` tokens of its own calibration mix."""
    checkpoint = open_checkpoint("gemmule")
    whole = load_corpus("gemmule", load_tokenizer(checkpoint.path), vocab_size=4096)
    rows: list[Row] = []
    tokens = 0
    for row in whole.rows:
        if tokens + len(row.input_ids) > limit:
            break
        rows.append(row)
        tokens += len(row.input_ids)
    return checkpoint, corpus_of(rows, whole.samples, {"mix": "gemmule"})


def wide(folder: Path, tokens: int, row: int = 512) -> tuple[Checkpoint, Corpus]:
    """A random Gemma 4 with 128 experts, top 8, hidden 1024, in bf16; random rows."""
    torch.manual_seed(0)
    config = transformers.Gemma4TextConfig(**WIDE)
    transformers.Gemma4ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    draw = np.random.default_rng(0)
    places = np.arange(row, dtype=np.int32)
    rows = [
        Row(draw.integers(4, 4096, row), np.zeros(row, np.int32), places, "random", (number,))
        for number in range(tokens // row)
    ]
    samples = [Sample("random", "random", f"{n:064d}", row) for n in range(len(rows))]
    return open_checkpoint(folder), corpus_of(rows, samples, {"mix": "random"})


def parameters_of_an_expert(model: Any) -> int:
    """Numbers in one expert's matrices."""
    stacked = [p for name, p in model.layers[0].named_parameters() if ".experts." in f".{name}"]
    return sum(p[0].numel() for p in stacked if p.dim() == 3)


def forward(model: Any, batches: Sequence[MicroBatch]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model(input_ids=batch.input_ids, use_cache=False)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def best_forward(checkpoint: Checkpoint, corpus: Corpus) -> tuple[Any, Sequence[MicroBatch], dict]:
    """transformers' model and batches at their fastest, and what was tried."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path, dtype=torch.float32
    ).base_model.eval()
    tried: dict[str, float] = {}
    choices: dict[str, tuple[str, Sequence[MicroBatch]]] = {}
    short = side_by_side(corpus.rows, TRIAL)[:1]
    gathered = 4 * TRIAL * checkpoint.top_k * parameters_of_an_expert(model)
    names = [name for name in IMPLEMENTATIONS if name != "batched_mm" or gathered < GATHERED]
    for name in names:
        model.set_experts_implementation(name)
        seconds = min(timed(lambda: forward(model, short))[0] for _ in range(2))
        tried[f"{name}, one batch of {TRIAL}"] = seconds
    quickest = min(tried.values())
    for name in names:
        if tried[f"{name}, one batch of {TRIAL}"] > 3 * quickest:
            continue
        model.set_experts_implementation(name)
        for tokens in BATCH_TOKENS:
            batches = side_by_side(corpus.rows, tokens)
            key = f"{name}, batches of {tokens}"
            tried[key] = min(timed(partial(forward, model, batches))[0] for _ in range(1))
            choices[key] = (name, batches)
    best = min(choices, key=tried.__getitem__)
    model.set_experts_implementation(choices[best][0])
    figures = {key: round(seconds, 3) for key, seconds in tried.items()}
    return model, choices[best][1], {"chosen": best, "seconds": figures}


def compare(checkpoint: Checkpoint, corpus: Corpus, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    model, batches, tried = best_forward(checkpoint, corpus)
    work = {
        "forward": lambda: forward(model, batches),
        "calibrate": lambda: calibrate(checkpoint, corpus, reroute_tokens=0, workers=THREADS),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(rounds):
        for name in sorted(work, reverse=bool(number % 2)):
            runs[name].append(timed(work[name]))
    rerouted = timed(lambda: calibrate(checkpoint, corpus, workers=THREADS))
    model.to(torch.bfloat16)
    sixteen = timed(lambda: forward(model, batches[:1]))[0]
    model.to(torch.float32)
    same = timed(lambda: forward(model, batches[:1]))[0]
    wall = {name: [run[0] for run in runs[name]] for name in runs}
    cpu = {name: [run[1] for run in runs[name]] for name in runs}
    pairs = [one / other for one, other in zip(wall["calibrate"], wall["forward"], strict=True)]
    ours = micro_batches(corpus.rows, checkpoint.family.number(checkpoint.config, "hidden"))
    found = {
        "tokens": corpus.tokens,
        "filled_tokens": {
            "forward": sum(batch.input_ids.numel() for batch in batches),
            "calibrate": sum(batch.input_ids.numel() for batch in ours),
        },
        "rounds": rounds,
        "transformers": tried,
        "seconds": {
            name: {"best": min(wall[name]), "median": statistics.median(wall[name])}
            for name in wall
        },
        "cpu_seconds": {name: statistics.median(cpu[name]) for name in cpu},
        "ratio_best": min(wall["calibrate"]) / min(wall["forward"]),
        "ratio_median": statistics.median(wall["calibrate"]) / statistics.median(wall["forward"]),
        "ratio_of_turns": {
            "least": min(pairs),
            "median": statistics.median(pairs),
            "most": max(pairs),
        },
        "ratio_cpu": statistics.median(cpu["calibrate"]) / statistics.median(cpu["forward"]),
        "rerouted": {
            "sampled_tokens_at_most": REROUTE_TOKENS,
            "seconds": rerouted[0],
            "ratio_to_median_forward": rerouted[0] / statistics.median(wall["forward"]),
        },
        "bf16_over_fp32_forward_one_batch": sixteen / same,
    }
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 3))  # type: ignore[no-any-return]


def machine() -> dict[str, Any]:
    name = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": THREADS,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["gemmule", "wide"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    found: dict[str, Any] = {"machine": machine()}
    if options.out.exists():
        found = {**json.loads(options.out.read_text()), **found}
    if options.only != "wide":
        found["gemmule"] = compare(*gemmule(16_384), options.rounds)
    if options.only != "gemmule":
        with tempfile.TemporaryDirectory() as folder:
            found["wide"] = compare(*wide(Path(folder) / "model", 4096), options.rounds)
    found["machine"]["load_average_after"] = [round(load, 1) for load in os.getloadavg()]
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
