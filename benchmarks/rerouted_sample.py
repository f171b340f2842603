"""How many tokens, ranks and sketch channels `rerouted` needs. Writes rerouted_sample.json.

On gemmule's own calibration set: experts are removed as a smaller sample, fewer ranks of each
token or shorter sketches tell, and the sets are judged by all tokens, all ranks and whole outputs:
the relative error of the MoE block that they leave, over that of the sets which all of it chooses.

    python benchmarks/rerouted_sample.py [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from criteria import read_sets
from goals import result_path
from numpy.typing import NDArray

from secateur.calibration import routing, sketch
from secateur.calibration.block_error import read_norm
from secateur.calibration.layer_pass import calibrate
from secateur.calibration.removal_search import LayerSample, Search, prepare_search
from secateur.calibration.solve import LoadedLayer
from secateur.calibration.token_sample import Sampling, to_layer_sample
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.skeleton import (
    build_skeleton,
    find_path,
    get_decoder_layers,
    load_decoder_layer,
)
from secateur.forward.weights import CheckpointWeights
from secateur.statistics.sample_file import SampleFile
from secateur.statistics.token_sample import TokenKeys, share_of, smallest

KEPT = (28, 24, 20, 16, 12, 8)
SEEDS = (0, 1, 2)
EVERY = 1 << 20
"""More tokens, ranks and channels than there are."""


class Setting(NamedTuple):
    tokens: int
    spare_ranks: int = 2
    channels: int = 64
    seed: int = 0


SETTINGS = (
    *(Setting(tokens, seed=s) for tokens in (512, 1024, 2048, 4096, 8192, 16384) for s in SEEDS),
    *(Setting(16384, spare_ranks=spare) for spare in (1, 4, 12, EVERY)),
    *(Setting(16384, channels=channels) for channels in (8, 16, 32, 128, EVERY)),
    Setting(16384, 12, EVERY),
)


def layers_of(checkpoint: Checkpoint) -> Iterator[tuple[int, LoadedLayer]]:
    """The layers, each with its weights while it is used."""
    source, backend = CheckpointWeights(checkpoint), CpuBackend(1)
    model = build_skeleton(source, backend)
    with backend.open(source) as weights:
        for number in checkpoint.moe_layers:
            with load_decoder_layer(model, number, weights, backend) as module:
                path = find_path(model, get_decoder_layers(model)[number])
                yield number, LoadedLayer(module, path, number, source.family, source.config)


def search_of(layer: LoadedLayer, sample: LayerSample, setting: Setting, workers: int) -> Search:
    routing.SPARE_RANKS, sketch.CHANNELS = setting.spare_ranks, setting.channels
    return prepare_search(
        layer.find_experts()[1],
        read_norm(layer.find_post_norm()),
        layer.find_routing(),
        sample,
        categories=int(sample.categories.max()) + 1,
        workers=workers,
    )()


def draw(keys: TokenKeys, setting: Setting) -> NDArray[np.int64]:
    """The rows of a setting's sample; seed 0 has the hashes as they are."""
    if setting.seed:
        shuffled = np.random.default_rng(setting.seed).permutation(len(keys.hash))
        keys = keys._replace(hash=shuffled.astype(np.uint64))
    return np.sort(smallest(keys, share_of(setting.tokens, int(keys.category.max()) + 1)))


def judge(checkpoint: Checkpoint, sample: SampleFile, workers: int) -> dict[Setting, list[Any]]:
    """{setting: [layer][kept]: error over that of all there is, share of equal experts}."""
    found: dict[Setting, list[Any]] = {setting: [] for setting in SETTINGS}
    for number, layer in layers_of(checkpoint):
        whole = to_layer_sample(sample.layer(number), sample.keys, torch.device("cpu"))
        whole_search = search_of(layer, whole, Setting(EVERY, EVERY, EVERY), workers)
        best = whole_search.remove("pooled")
        for setting in SETTINGS:
            rows = draw(sample.keys, setting)
            part = LayerSample(**{name: value[rows] for name, value in vars(whole).items()})
            keep = search_of(layer, part, setting, workers).remove("pooled").keep
            one = []
            for kept in KEPT:
                by_category, _ = whole_search.errors(whole_search.state(keep[kept]))
                error = float(by_category @ whole_search.share) / best.errors[kept]
                one.append((error, float((keep[kept] & best.keep[kept]).sum()) / kept))
            found[setting].append(one)
        print(f"layer {number}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    checkpoint = open_checkpoint("gemmule")
    corpus = read_sets(checkpoint, "calibration")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample"
        sampling = Sampling(corpus.tokens, keep=path)
        calibrate(checkpoint, corpus, sampling=sampling, backend=CpuBackend(options.workers))
        found = judge(checkpoint, SampleFile(path), options.workers)
    rows = []
    for setting, layers in found.items():
        errors = np.array(layers)
        rows.append({
            **{k: "all" if v == EVERY else v for k, v in setting._asdict().items()},
            "kept": [
                {
                    "experts": kept,
                    "error": round(float(errors[:, place, 0].mean()), 4),
                    "worst_layer": round(float(errors[:, place, 0].max()), 4),
                    "equal_experts": round(float(errors[:, place, 1].mean()), 3),
                }
                for place, kept in enumerate(KEPT)
            ],
        })  # fmt: skip
    what = "relative error of gemmule's MoE blocks over that of sets chosen by all tokens and ranks"
    report = {"what": what, "tokens": corpus.tokens, "settings": rows}
    result_path("rerouted_sample").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
