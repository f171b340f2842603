"""Do our measures of layer importance tell what rounding a layer costs? layer_importance.json.

gemmule, unpruned, Q8_0 but for one layer, whose matrices are Q2_K (rows of 96 and 288: Q4_0):
divergence from the original on its own answers, layer by layer, and the rank correlation
(Spearman) of this with each measure of planning.layer_importance. Six layers of one small model:
a correlation of 6 pairs says little, a sign at most.

    python benchmarks/layer_importance.py [--stats FILE] [--per-domain 8]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from goals import result_path
from scipy.stats import spearmanr

import secateur
from secateur import Calibration, Formats, Measuring, Pruning
from secateur.checkpoint.reader import open_checkpoint
from secateur.recipes.layer_importance import MEASURES
from secateur.recipes.recipe import Recipe, Rule
from secateur.statistics.file import load

ROLES = ("expert", "dense", "attention")


def recipes(layers: int) -> tuple[Recipe, ...]:
    """One recipe per layer, and one without any layer in two bits."""
    return (
        Recipe("Q8_0", "Q8_0"),
        *(
            Recipe(f"layer{layer}", "Q8_0", rules=(Rule("Q2_K", ROLES, str(layer)),))
            for layer in range(layers)
        ),
    )


def costs(layers: int, per_domain: int, folder: Path) -> dict[str, dict[str, float]]:
    """{recipe: mean divergence in nats per token, and its interval}."""
    request = Pruning(drop=0.0)
    plan = secateur.plan("gemmule", request, Formats("gguf", recipes=recipes(layers)))
    out = folder / "out"
    secateur.apply(plan, out)
    found = {}
    for recipe in recipes(layers):
        (file,) = plan.files[recipe.format]
        report = secateur.measure(
            out / file, "gemmule", Measuring(per_domain=per_domain), work=folder / "work"
        )
        entry = report.artefacts[0].value("kl_mean")
        assert entry is not None
        found[recipe.name] = {"kl_mean": entry.value, "low": entry.low, "high": entry.high}
        print(recipe.name, found[recipe.name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stats", type=Path, help="Statistics of gemmule. Default: made.")
    parser.add_argument("--per-domain", type=int, default=8)
    options = parser.parse_args()
    checkpoint = open_checkpoint("gemmule")
    with tempfile.TemporaryDirectory() as name:
        path = options.stats or Path(name) / "stats.safetensors"
        if options.stats is None:
            secateur.calibrate(checkpoint, path, Calibration(corpus="gemmule"))
        statistics = load(path)
        cost = costs(checkpoint.layers, options.per_domain, Path(name))
    by_layer = [cost[f"layer{layer}"]["kl_mean"] for layer in range(checkpoint.layers)]
    result: dict[str, Any] = {
        "model": "gemmule",
        "answers": options.per_domain * 6,
        "cost": cost,
        "measures": {
            name: {
                "layers": [round(v, 6) for v in measure(statistics, checkpoint.layers)],
                "spearman": round(
                    float(spearmanr(measure(statistics, checkpoint.layers), by_layer).statistic), 3
                ),
            }
            for name, measure in MEASURES.items()
        },
    }
    text = json.dumps(result, indent=1)
    result_path("layer_importance").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
