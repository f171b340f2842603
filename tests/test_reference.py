"""docs/reference is what the code says, and names every key that a file of ours has or may have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from documented_keys import unknown
from file_pages import FAMILY_TABLES, JOB_SECTIONS
from reference import FOLDER, differences
from tiny_line import Line

from secateur import Formats, Pruning, plan
from secateur.corpus.fields import FIELD_KEYS
from secateur.corpus.mix import MIX_KEYS, SOURCE_KEYS
from secateur.corpus.row_file import ROW_KEYS
from secateur.evaluation.tokens.answers import ANSWER_KEYS, HEADER_KEYS, Answer
from secateur.evaluation.tokens.prompts import PROMPT_KEYS
from secateur.families.schema import NUMBERS
from secateur.families.typed_tables import keys_of
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.imatrix.matrix import IMATRIX_KEYS, QUANTIZE_KEYS
from secateur.planning.document import to_json
from secateur.planning.keys import PLAN_KEYS
from secateur.pruning.drop_map import DROP_MAP_KEYS
from secateur.recipes.recipe import RECIPE_KEYS, RULE_KEYS
from secateur.release.keys import EVIDENCE_KEYS, MANIFEST_KEYS, REPORT_KEYS, RUN_KEYS
from secateur.statistics import keys as statistics_keys
from secateur.statistics.file import load
from secateur.system import typed_yaml

READ: Mapping[str, list[Mapping[str, object]]] = {
    "mix": [MIX_KEYS, SOURCE_KEYS, FIELD_KEYS],
    "job": [typed_yaml.keys_of(cls) for cls in JOB_SECTIONS],
    "rows": [ROW_KEYS],
    "prompts-and-answers": [PROMPT_KEYS, HEADER_KEYS, ANSWER_KEYS],
    "recipe": [RECIPE_KEYS, RULE_KEYS],
    "drop-map": [DROP_MAP_KEYS],
    "family": [NUMBERS, *(keys_of(cls) for cls in FAMILY_TABLES)],
    "imatrix": [IMATRIX_KEYS, QUANTIZE_KEYS],
    "plan": [PLAN_KEYS],
    "output": [MANIFEST_KEYS, REPORT_KEYS, RUN_KEYS, EVIDENCE_KEYS],
    "statistics": [statistics_keys.HEADER_KEYS],
}
"""{page: the tables by which its files are read or written}"""


def test_the_pages_are_what_the_code_says() -> None:
    assert [path.name for path in differences()] == [], "make reference"


@pytest.mark.parametrize("page", READ)
def test_every_key_of_a_format_is_on_its_page(page: str) -> None:
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    named = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    assert {key for table in READ[page] for key in table} <= named


def test_what_an_output_holds_is_described(made: Path) -> None:
    assert unknown(read(made / "plan.json"), PLAN_KEYS) == []
    assert unknown(read(made / "manifest.json"), MANIFEST_KEYS) == []
    assert unknown(read(made / "report.json"), REPORT_KEYS) == []
    assert unknown(read(made / "run.json"), RUN_KEYS) == []
    assert unknown(read(made / "expert_drop_metadata.json"), DROP_MAP_KEYS) == []


def test_an_importance_matrix_has_the_keys_that_are_described(made: Path) -> None:
    assert set(read_gguf(made / "imatrix.gguf").metadata) == set(IMATRIX_KEYS)
    (quantized,) = made.glob("*-Q4_K_M.gguf")
    found = {key for key in read_gguf(quantized).metadata if key.startswith("quantize.")}
    assert found == set(QUANTIZE_KEYS)


def test_what_statistics_hold_is_described(stats: Path) -> None:
    assert unknown(load(stats).header(), statistics_keys.HEADER_KEYS) == []
    assert set(ANSWER_KEYS) == set(Answer._fields)


def test_other_plans_are_described(line: Line, stats: Path, real: Path, tmp_path: Path) -> None:
    named = tmp_path / "map.json"
    layers = {str(layer): {"drop": [0]} for layer in load(stats).layers}
    named.write_text(json.dumps({"layers": layers}))
    drop = Pruning(drop=0.25, protect={0: (1,)}, protect_super_experts=True)
    for decided in (
        plan(line.model, drop, Formats(types=("Q4_K_M",), pad=True), statistics=stats),
        plan(line.model, Pruning(drop_map=named), Formats()),
        plan("gemmule", Pruning(drop=0), Formats(types=("mlx-mixed-4-8-32",))),
        plan(real / "config.json", Pruning(experts=103), Formats(types=("Q4_K_M",))),
    ):
        assert unknown(json.loads(to_json(decided)), PLAN_KEYS) == []


def test_a_key_that_no_table_names_is_found() -> None:
    assert unknown({"experts": 1, "odd": {"deep": 1}}, DROP_MAP_KEYS) == ["odd.deep"]
    assert unknown({"layers": {"0": {"keep": [1], "odd": 1}}}, DROP_MAP_KEYS) == ["layers.0.odd"]


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
