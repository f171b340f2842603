"""The memory of a context, against what llama.cpp itself allocates."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CACHED, FAMILIES

from secateur import Formats, PlanningAssumptions, Pruning, apply, plan
from secateur.checkpoint.reader import Checkpoint, open_shape
from secateur.errors import FamilyError, PlanError
from secateur.planning.memory import Cells, context_memory

TINY = Callable[[str], Checkpoint]

HOST = """
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup, params.verbosity = int(sys.argv[2]), 1, False, 4
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
sys.stdout.flush()
os._exit(0)
"""
CACHE = re.compile(r"llama_kv_cache: size = +([0-9.]+) MiB \( *(\d+) cells, +(\d+) layers")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gemmule, which has sliding layers and keys that are values, as GGUF."""
    folder = tmp_path_factory.mktemp("memory") / "out"
    request = Formats(to="gguf", types=("Q8_0",))
    apply(plan("gemmule", Pruning(drop=0.0), request), folder, workers=1)
    return next(folder.glob("*.gguf"))


@pytest.mark.parametrize("context", [300, 1000, 2048])
def test_the_cache_is_what_llama_cpp_allocates(context: int, gguf: Path) -> None:
    counted = context_memory(open_shape("gemmule"), context)
    command = [sys.executable, "-c", HOST, str(gguf), str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    theirs = sorted(
        (int(layers), int(cells), float(mib))
        for mib, cells, layers in CACHE.findall(done.stdout + done.stderr)
    )
    ours = sorted((c.layers, c.tokens, c.bytes / 2**20) for c in counted.cells)
    # llama.cpp prints two decimals, and may make a first context to measure by.
    assert {found[:2] for found in theirs} == {counted[:2] for counted in ours}
    for layers, cells, mib in theirs:
        (right,) = (size for n, tokens, size in ours if (n, tokens) == (layers, cells))
        assert mib == pytest.approx(right, abs=0.0051)
    found = re.findall(r"compute buffer size = +([0-9.]+) MiB", done.stdout + done.stderr)
    # An estimate: llama.cpp's buffer holds more, and for short contexts a little less.
    assert 0.95 <= float(found[-1]) * 2**20 / counted.logits < 1.5


def test_the_real_models_cache(real: Path) -> None:
    model = open_shape(real / "config.json")
    found = context_memory(model)
    assert found.context == 32768
    assert found.cells == (
        Cells(5, 0, 32768, 5 * 32768 * 2 * 2 * 512 * 2),
        Cells(25, 1024, 1536, 25 * 1536 * 2 * 8 * 256 * 2),
    )
    assert found.cache == 940 * 2**20
    assert context_memory(model, 512).cells[1].tokens == 512


def test_shared_layers_have_no_cells(tiny: TINY, tmp_path: Path) -> None:
    config = json.loads(tiny("gemma4").config_file.read_text())
    config |= {"num_hidden_layers": 4, "num_kv_shared_layers": 1}
    config["layer_types"] = ["sliding_attention", "full_attention"] * 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = context_memory(open_shape(tmp_path), 64)
    assert (found.shared, sum(kind.layers for kind in found.cells)) == (1, 3)


@pytest.mark.parametrize("form", FAMILIES)
def test_every_family_says_what_it_keeps(form: str, tiny: TINY) -> None:
    found, elements = context_memory(tiny(form), 64), CACHED.get(form, 2 * 16)
    assert sum(kind.layers for kind in found.cells) == 3
    assert found.cache == 3 * 256 * elements * 2
    assert found.bytes == found.cache + 64 * 64 * 4


def test_a_context_that_is_not_there_is_refused(tiny: TINY) -> None:
    for context, message in ((0, "at least 1"), (65, "made for at most 64 tokens")):
        with pytest.raises(PlanError, match=message):
            context_memory(tiny("gemma4"), context)
    from dataclasses import replace

    model = tiny("gemma4")
    bare = replace(model, family=replace(model.family, memory=None))
    with pytest.raises(FamilyError, match=r"no \[memory\] table"):
        context_memory(bare)


def test_a_plan_counts_it(tiny: TINY) -> None:
    request: Any = Formats(types=("Q8_0",))
    decided = plan(
        "gemmule", Pruning(drop=0.0), request, assumptions=PlanningAssumptions(context=1000)
    )
    memory = context_memory(open_shape("gemmule"), 1000)
    assert decided.memory == {**memory.to_json(), "formats": ["gguf-Q8_0"]}
    output = decided.output("gguf-Q8_0")
    assert output.memory_bytes == decided.tensor_bytes("gguf-Q8_0") + memory.bytes
    assert decided.output("safetensors").memory_bytes is None
