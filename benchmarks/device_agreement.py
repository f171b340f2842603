"""How far the statistics of a device are from those of the CPU, on gemmule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.calibration import layer_pass
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.forward.backends.choose import choose_backend
from secateur.forward.backends.torch_device import TorchDevice
from secateur.pruning.choose import Pruning, choose
from secateur.pruning.criteria.registry import CRITERIA
from secateur.statistics.statistics import Statistics

TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def device_statistics(device: str, folder: Path) -> dict[str, Statistics]:
    """gemmule's statistics on the device, in both types of products; those in the folder are not
    made again."""
    import criteria as bench

    from secateur.statistics.file import load, save

    checkpoint = open_checkpoint("gemmule")
    found = {}
    for name, dtype in TYPES.items():
        path = folder / f"gemmule-{name}.safetensors"
        if not path.exists():
            backend = choose_backend(device, dtype=dtype)
            if not isinstance(backend, TorchDevice):
                backend = TorchDevice(torch.device("cpu"), dtype)
            corpus = bench.read_sets(checkpoint, "calibration")
            save(layer_pass.calibrate(checkpoint, corpus, backend=backend), path)
        found[name] = load(path)
    return found


def agreement(device: str, folder: Path) -> dict[str, Any]:
    """gemmule on the CPU and on the device: scores, kept sets and what the pruned models lose."""
    import criteria as bench

    checkpoint = open_checkpoint("gemmule")
    corpus = bench.read_sets(checkpoint, "calibration")
    others = device_statistics(device, folder)
    cpu = layer_pass.calibrate(checkpoint, corpus)
    model = bench.Masked(checkpoint)
    held = bench.held_out(model, bench.read_sets(checkpoint, "test"))
    found: dict[str, Any] = {"tokens": corpus.tokens, "test_tokens": int(held.tokens.sum())}
    for name, other in others.items():
        found[name] = {"device": other.devices[0], **compare_statistics(checkpoint, cpu, other)}
        found[name]["kl"] = [
            {
                "criterion": criterion,
                "drop": drop,
                "cpu": kl_of(bench, model, held, checkpoint, cpu, criterion, drop),
                "device": kl_of(bench, model, held, checkpoint, other, criterion, drop),
            }
            for criterion in ("rerouted", "reap")
            for drop in (0.25, 0.5)
        ]
    return found


def kl_of(
    bench: Any, model: Any, held: Any, checkpoint: Checkpoint, statistics: Statistics,
    criterion: str, drop: float,
) -> float:  # fmt: skip
    """Mean divergence per held-out token with the experts that the statistics choose."""
    keep = choose(checkpoint, statistics, Pruning(drop=drop, criterion=criterion)).keep
    return float(bench.divergence(model, held, keep).sum() / held.tokens.sum())


def compare_statistics(checkpoint: Checkpoint, one: Statistics, other: Statistics) -> Any:
    """Per criterion: difference and Spearman correlation of scores, overlap of kept sets."""
    from scipy.stats import spearmanr

    from secateur.pruning.criteria.base import score

    found: dict[str, Any] = {}
    moved = sum(int(np.abs(one.count(n) - other.count(n)).sum()) for n in one.layers) / 2
    choices = sum(int(one.count(n).sum()) for n in one.layers)
    found["choices_moved"] = round(moved / choices, 6)
    for name in ("rerouted", "reap", "weighted_frequency", "weighted_ean_sum"):
        ours, theirs = (score(each, CRITERIA[name]) for each in (one, other))
        same = [float(spearmanr(ours[n], theirs[n]).statistic) for n in one.layers]
        scale = [
            float(np.abs(ours[n] - theirs[n]).max() / np.abs(ours[n]).max()) for n in one.layers
        ]
        overlap = {}
        for drop in (0.125, 0.25, 0.5):
            sets = [
                choose(checkpoint, each, Pruning(drop=drop, criterion=name)).keep
                for each in (one, other)
            ]
            kept = [len(set(sets[0][n]) & set(sets[1][n])) / len(sets[0][n]) for n in one.layers]
            overlap[str(drop)] = [round(float(np.mean(kept)), 4), round(min(kept), 4)]
        found[name] = {
            "spearman_mean": round(float(np.mean(same)), 5),
            "spearman_least": round(min(same), 5),
            "largest_difference": round(float(max(scale)), 5),
            "kept_by_both_mean_and_least": overlap,
        }
    return found
