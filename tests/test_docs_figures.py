"""Figures that pages quote in a sentence are those of the results they come from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import pytest

from secateur.calibration.cost import cost_of
from secateur.checkpoint.reader import open_shape
from secateur.corpus.rows import Corpus

ROOT = Path(__file__).resolve().parents[1]
GIB = 1024.0


def result(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/{name}.json").read_text("utf-8"))


def figures(page: str, sentence: str) -> list[float]:
    """The numbers that a page has in the place of every `#` of a sentence. Lines are joined."""
    text = " ".join((ROOT / "docs" / page).read_text("utf-8").split())
    found = re.findall(re.escape(sentence).replace(r"\#", r"([\d.,]*\d)"), text)
    assert len(found) == 1, f"{page} has {len(found)} times: {sentence}"
    (numbers,) = found
    each = (numbers,) if isinstance(numbers, str) else numbers
    return [float(number.replace(",", "")) for number in each]


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("tutorial.md", "Memory: # GiB for 32,768 tokens in flight"),
        ("how-to/memory-and-time.md", "in flight: # GiB at 26B width with 32,768 tokens"),
    ],
)
def test_memory_of_calibrating(page: str, sentence: str) -> None:
    runs = [run for run in result("memory")["runs"] if run["tokens"] == 32_768]
    most = max(run["peak_resident_mib"] for run in runs) / GIB
    assert figures(page, sentence) == [round(most, 1)]


def test_work_and_hours_of_calibrating(real: Path) -> None:
    shape = open_shape(str(real / "config.json"))
    tokens = 200_000
    cost = cost_of(shape, cast(Corpus, SimpleNamespace(tokens=tokens)))
    petaflops = round(cost.forward / 1e15, 1)
    work = "200,000 tokens are about # PFLOP. Layers of this size run at # to # of the rate"
    share = sorted(result("width")["line"]["calibrate"]["share_of_product"].values())
    least, most = round(share[0], 1), round(share[-1], 1)
    assert figures("tutorial.md", work) == [petaflops, least, most]
    more = "about # GFLOP, and 200,000 tokens # PFLOP. Layers of its size run at # to # of"
    each = round(cost.forward / 1e9 / tokens, 1)
    assert figures("how-to/memory-and-time.md", more) == [each, petaflops, least, most]
    hours = [cost.forward / 80e9 / 3600 / rate for rate in (share[-1], share[0])]
    assert [round(hour) for hour in hours] == [7, 7]  # "about seven hours" in both pages


def test_time_of_writing() -> None:
    ours = result("gguf_speed")["results"]["Q4_K_M"]
    assert figures("tutorial.md", "Two layers of 88 experts take # seconds from safetensors") == [
        round(median(run["seconds"] for run in ours["ours"]))
    ]
    assert round(1 / ours["median_ratio"]) == 6  # "a sixth"
    width = result("width")
    seconds = width["runs"]["gguf"]["8"]["wall_seconds"]
    assert figures("tutorial.md", "eight layers of # experts took # seconds") == [
        128 - int(128 * width["drop"]),
        round(seconds),
    ]
    minutes = width["line"]["gguf"]["wall_seconds"]["at_30_layers"] / 60
    assert 5 < minutes < 6  # "five to six minutes"
    size = width["runs"]["calibrate"]["2"]["checkpoint_gb"]
    assert figures("how-to/dry-run.md", "# GB: 1.6 GB a layer and the vocabulary") == [
        round(size, 1)
    ]


def test_what_feedback_left() -> None:
    def ratios(entries: dict[str, Any], names: str) -> Iterator[float]:
        yield from (one["ratio"][0] for name, one in entries.items() if re.search(names, name))

    few = r"^(I?Q[234]|mlx-([234]|mx|mixed))"  # types of 2 to 4 bits
    models = result("rounding_models")
    dense = models["smollm2"]["types"]
    left = [
        *ratios(result("rounding")["types"], few),
        *ratios(models["qwen3-moe"]["types"], few),
        *ratios(dense, r"^I?Q[234]"),
    ]
    mlx = list(ratios(dense, "^mlx-[234]$"))
    sentence = "it left # to # of the KL in types of 2 to 4 bits, # to # in MLX's 2 to 4 bits"
    found = [min(left), max(left), min(mlx), max(mlx)]
    assert figures("how-to/which-type.md", sentence) == [round(number, 2) for number in found]


def test_a_sentence_that_is_gone_is_found() -> None:
    with pytest.raises(AssertionError, match="0 times"):
        figures("tutorial.md", "It takes # minutes on a toaster")


def test_codes_chosen_on_a_gpu() -> None:
    found = result("rounding_device")
    kinds = found["types"].values()
    times = sorted(kind["gpu_over_cores"] for kind in kinds)
    said = "(# to # times as many blocks of rows a second with # cores and an H200"
    expected = [times[0], times[-1], found["threads"]]
    assert figures("how-to/which-type.md", said) == expected
    assert max(kind["codes_that_differ"] for kind in kinds) < 1e-3
    assert max(abs(kind["squared_error_over_cores"] - 1) for kind in kinds) < 1e-4
