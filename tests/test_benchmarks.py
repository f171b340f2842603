"""The scripts under benchmarks/: each can be imported, so none asks for what is gone."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_asks_for_nothing_that_is_gone(script: Path) -> None:
    assert importlib.import_module(script.stem).__doc__
