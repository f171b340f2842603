"""Does the order by divergence agree with the order by tasks? Writes tasks_divergence.json.

gemmule is pruned to three sizes by three criteria: `rerouted`, the sum criterion that is best in
criteria.json over these sizes, and `reap`. Each of the nine models and the original is measured in
three ways:

    divergence   mean KL(original || pruned) over documents of gemmule's test set, as in
                 criteria.py (dropped experts masked, float32)
    tasks        gemmule's own suites, greedy, asked of llama.cpp: accuracy, mean over the suites
    loops        replies to the test set's dialogues, drawn at a temperature: share that the
                 detectors find degenerate, and share that loops

Orders are compared with Kendall's tau: over all nine, and among the three of one size, where it is
hardest. Its interval is from 2,000 resamples of documents, items (within their suite) and prompts;
no document, item or prompt is shared by two measures. A pair of models counts as ordered by a
measure when the 95 % interval of its paired difference leaves out zero.

    python benchmarks/tasks_divergence.py [--work out/tasks-divergence] [--items 300]
        [--prompts 96] [--seeds 2]

What was answered is kept in --work: an interrupted run asks only what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import criteria
import numpy as np
import torch
from asked_models import LOOP_TEMPERATURE, LOOP_TOKENS, SEED, Model, ask
from goals import result_path
from rank_agreement import RESAMPLES, Measured, Resampled, Values, concordance, interval, pairs

import secateur
from secateur.checkpoint.reader import open_checkpoint
from secateur.evaluation.robustness.verdict import judge
from secateur.evaluation.tasks.paired import compare_paired
from secateur.evaluation.tasks.suites.base import data_hash
from secateur.evaluation.tasks.suites.registry import SUITES
from secateur.pruning.choose import choose
from secateur.statistics.file import load

DROPPED = (0.125, 0.25, 0.5)
SUMS = ("frequency", "weighted_frequency", "ean_sum", "weighted_ean_sum")
"""Criteria that are a plain sum over tokens."""
TASKS = ("gemmule-arithmetic", "gemmule-chat", "gemmule-tools")
TOKENS = 3000
"""Held-out tokens of a domain, as in criteria.json."""
ORIGINAL = "original"


def best_sum() -> str:
    """The sum criterion with the lowest mean place in criteria.json over these sizes."""
    rows = json.loads(Path(__file__).with_name("criteria.json").read_text())["calibrated_on_all"]
    places = {
        name: np.mean(
            [row["place"] for row in rows if row["criterion"] == name and row["dropped"] in DROPPED]
        )
        for name in SUMS
    }
    return min(places, key=lambda name: float(places[name]))


def make_models(work: Path, names: Sequence[str]) -> list[Model]:
    """The GGUFs in BF16, as the weights are: what is not there yet is made."""
    statistics = work / "statistics.safetensors"
    if not statistics.exists():
        secateur.calibrate("gemmule", statistics, secateur.Calibration("gemmule"), workers=1)
    models = []
    wanted = [(ORIGINAL, 0.0), *((name, drop) for drop in DROPPED for name in names)]
    for name, drop in wanted:
        criterion = "rerouted" if name == ORIGINAL else name
        out = work / f"{name}-{drop:g}"
        if not out.exists():
            plan = secateur.plan(
                "gemmule",
                secateur.Pruning(drop=drop, criterion=criterion),
                secateur.Formats(to="gguf", types=("BF16",)),
                statistics=statistics,
            )
            secateur.apply(plan, out, statistics=statistics, workers=1)
        (path,) = out.glob("gemmule*.gguf")
        models.append(Model(name, drop, path))
    return models


def measure_divergence(work: Path, models: Sequence[Model]) -> tuple[dict[str, Values], Values]:
    """({model: summed divergence per document}, tokens per document)"""
    checkpoint = open_checkpoint("gemmule")
    statistics = load(work / "statistics.safetensors")
    whole = criteria.Masked(checkpoint)
    test = criteria.read_sets(checkpoint, "test")
    data = criteria.held_out(whole, criteria.part(test, lambda _, so_far: so_far < TOKENS))
    kept = work / f"divergence-{TOKENS}.json"
    sums: dict[str, Values] = {ORIGINAL: np.zeros(len(data.tokens))}
    if kept.exists():
        sums |= {name: np.array(found) for name, found in json.loads(kept.read_text()).items()}
    for model in models:
        if model.name not in sums:
            request = secateur.Pruning(drop=model.dropped, criterion=model.criterion)
            keep = choose(checkpoint, statistics, request).keep
            sums[model.name] = criteria.divergence(whole, data, keep)
            mean = sums[model.name].sum() / data.tokens.sum()
            print(f"{model.name}: {mean:.4f} nats", file=sys.stderr, flush=True)
            kept.write_text(json.dumps({name: found.tolist() for name, found in sums.items()}))
    return sums, data.tokens.astype(np.float64)


def summarise(models: Sequence[Model], measured: Mapping[str, Measured], tokens: Values) -> Any:
    values = Resampled(measured, tokens)
    original = measured[ORIGINAL]
    rows = []
    for at, model in enumerate(models):
        mine = measured[model.name]
        row: dict[str, Any] = {
            "criterion": model.criterion,
            "dropped": model.dropped,
            "divergence": interval(values.divergence[at]),
            "accuracy": interval(values.accuracy[at]),
            "degenerate_replies": interval(values.degenerate[at]),
            "looping_replies": interval(values.loops[at]),
            "by_task": {task: interval(found[at]) for task, found in values.by_task.items()},
        }
        if model.dropped:
            row["accuracy_lost"] = interval(values.accuracy[0] - values.accuracy[at])
            row["paired"] = {
                task: compare_paired(
                    task,
                    {item: [score] for item, score in original.tasks[task].items()},
                    {item: [score] for item, score in scores.items()},
                ).describe()
                for task, scores in mine.tasks.items()
            }
            row["degenerate_paired"] = compare_paired(
                "degenerate replies", original.degenerate, mine.degenerate
            ).describe()
        rows.append(row)
    every = list(range(1, len(models)))
    same_size = [[i for i in every if models[i].dropped == drop] for drop in DROPPED]
    others = {
        "accuracy": -values.accuracy,
        **{task: -found for task, found in values.by_task.items()},
        "degenerate replies": values.degenerate,
        "looping replies": values.loops,
    }
    agreement = {
        name: {
            "all nine": concordance(values.divergence, worse, [every]),
            "among the three of a size": concordance(values.divergence, worse, same_size),
            "pairs of one size": [
                {
                    "dropped": drop,
                    **pairs({"divergence": values.divergence, name: worse}, members),
                }
                for drop, members in zip(DROPPED, same_size, strict=True)
            ],
            "pairs": pairs({"divergence": values.divergence, name: worse}, every),
        }
        for name, worse in others.items()
    }
    return rows, agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out/tasks-divergence"))
    parser.add_argument("--items", type=int, default=300, help="of each suite")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=2, help="replies to a prompt")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    started = time.perf_counter()
    names = ("rerouted", best_sum(), "reap")
    models = make_models(options.work, names)
    checkpoint = open_checkpoint("gemmule")
    about = criteria.provenance(checkpoint)
    sums, tokens = measure_divergence(options.work, models)
    measured: dict[str, Measured] = {}
    for model in models:
        scores, exchanges = ask(model, options.work, options)
        verdicts = {key: [judge(one).word for one in some] for key, some in exchanges.items()}
        degenerate = {
            key: [float(word not in ("sound", "truncated")) for word in words]
            for key, words in verdicts.items()
        }
        loops = {key: [float(w == "loop") for w in words] for key, words in verdicts.items()}
        measured[model.name] = Measured(sums[model.name], scores, degenerate, loops)
        rates = {task: round(float(np.mean(list(s.values()))), 3) for task, s in scores.items()}
        print(f"{model.name}: {rates}", file=sys.stderr, flush=True)
    rows, agreement = summarise(models, measured, tokens)
    report = {
        "what": "divergence of pruned gemmules beside what they lose in tasks and in loops",
        **about,
        "criteria": names,
        "held_out": {"documents": len(tokens), "tokens": int(tokens.sum())},
        "tasks": {
            name: {
                "items": options.items,
                "seed": SEED,
                "sha256": data_hash(SUITES[name], SUITES[name].items(SEED, options.items)),
            }
            for name in options.tasks
        },
        "loops": {
            "prompts": options.prompts,
            "replies_to_each": options.seeds,
            "temperature": LOOP_TEMPERATURE,
            "most_tokens": LOOP_TOKENS,
        },
        "resamples": RESAMPLES,
        "seconds": round(time.perf_counter() - started),
        "models": rows,
        "agreement_with_divergence": agreement,
    }
    result_path("tasks_divergence").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
