"""Plans from a config alone have llama-quantize's types: replayed from the real tool's answers for
the files that we plan (golden/record_config_types.py)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from secateur.recipes.llama_mixes import FILE_TYPES

GOLDEN = Path(__file__).parent / "golden"
sys.path.append(str(GOLDEN))

from record_config_types import FAMILIES, differs  # noqa: E402

CASES = json.loads((GOLDEN / "config_types.json").read_text())["cases"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_of_any_config_has_llama_quantizes_types(family: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case["config"]["model_type"] == family]
    assert len(cases) >= 30
    assert [case for case in cases if differs(case, tmp_path)] == []


def test_the_golden_cases_reach_every_file_type_and_prune() -> None:
    assert {case["request"]["ftype"] for case in CASES} == set(FILE_TYPES)
    kept = Counter(case["kept"] == 8 for case in CASES if "error" not in case)
    assert kept[True] >= 5 and kept[False] >= 60
