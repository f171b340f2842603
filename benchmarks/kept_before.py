"""What `rerouted` of another checkout keeps of gemmule's experts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CODE = """
import json, pathlib, sys
sys.path.insert(0, "benchmarks")
import criteria
checkpoint = criteria.open_checkpoint("gemmule")
corpus = criteria.read_sets(checkpoint, "calibration")
alone = criteria.part(corpus, lambda domain, _: domain == sys.argv[2])
keep = []
for some in (corpus, alone):
    statistics = criteria.calibrate(checkpoint, some)
    for dropped in json.loads(sys.argv[3]):
        request = criteria.Pruning(drop=dropped, criterion="rerouted")
        keep.append(criteria.choose(checkpoint, statistics, request).keep)
pathlib.Path(sys.argv[1]).write_text(json.dumps(keep))
"""
"""Run in the other checkout: for both corpora of criteria.py and every share dropped."""
Keep = Mapping[int, tuple[int, ...]]
"""{layer: experts that stay}"""


def keep_before(
    tree: Path, shares: Sequence[float], alone: str
) -> tuple[dict[float, Keep], dict[float, Keep]]:
    """{share dropped: what stays} by `rerouted` of another checkout, for both corpora."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keep.json"
        environment = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, "-c", CODE, str(path), alone, json.dumps(shares)]
        subprocess.run(command, cwd=tree, env=environment, check=True)
        found = [
            {int(layer): tuple(kept) for layer, kept in keep.items()}
            for keep in json.loads(path.read_text())
        ]
    on_all, on_one = found[: len(shares)], found[len(shares) :]
    return dict(zip(shares, on_all, strict=True)), dict(zip(shares, on_one, strict=True))
