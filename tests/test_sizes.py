"""The table of the cards' sizes comes out as it is recorded."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_cards_sizes_are_as_recorded(real: Path) -> None:
    spec = importlib.util.spec_from_file_location("sizes", ROOT / "benchmarks/sizes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sizes"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    found = module.found(real)
    recorded = json.loads((ROOT / "benchmarks/sizes.json").read_text())
    assert json.loads(json.dumps(found)) == recorded
    assert (found["rows"], found["reproduced"]) == (42, 31)
    assert found["only_with"] == {
        "an llama.cpp of spring 2026": 6,
        "no importance matrix": 1,
        "the base Q3_K_M": 1,
        "the vision tower counted in": 2,
    }
    assert found["not_reproduced"] == ["001 128 experts, Q6_K"]
