"""The counts and sizes on the five cards, from the real model's shape by our own arithmetic."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def found(real: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("cards", ROOT / "benchmarks/cards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.cards(real))


@pytest.mark.parametrize(
    ("experts", "drop", "billions"),
    [("128", 0.0, 25.81), ("109", 0.15, 22.41), ("103", 0.20, 21.34), ("90", 0.30, 19.02)],
)
def test_parameters_are_those_of_the_cards(
    experts: str, drop: float, billions: float, found: dict[str, Any]
) -> None:
    assert found[experts]["drop"] == drop
    assert round(found[experts]["parameters_with_vision"] / 1e9, 2) == billions
    assert found[experts]["gguf_tensors"] == 658


def test_the_published_files_have_our_sizes(found: dict[str, Any]) -> None:
    """Their sizes on the Hub, to the byte; in GiB as card 001 gives them."""
    assert found["128"]["gguf_bytes"] == {
        "F16": 50_505_130_016,
        "Q8_0": 26_859_853_856,
        "Q4_K_M": 16_796_010_528,
    }
    assert round(found["90"]["tensor_mib"]["F16"], 2) == pytest.approx(35_206.24, abs=0.011)
    gib = {ftype: nbytes / 2**30 for ftype, nbytes in found["109"]["gguf_bytes"].items()}
    assert {ftype: round(size, 3) for ftype, size in gib.items()} == {
        "F16": 40.716,
        "Q8_0": 21.655,
        "Q4_K_M": 13.545,
    }
    assert round(found["90"]["text_parameters"] / 1e9, 2) == 18.45
