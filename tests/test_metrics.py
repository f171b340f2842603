"""The registry of metrics, and that a metric is one file: reports, gates and help follow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_line import Line, Run

from secateur.evaluation import metrics
from secateur.evaluation.metrics import registry
from secateur.evaluation.metrics.base import Metric, mean

NEW = '''
"""Divergence the other way round, and the change of the right token's log-probability."""

import numpy as np

from secateur.evaluation.metrics.base import Metric, Quantile, ScoredTokens, TokenArray, mean
from secateur.evaluation.metrics.kl import kl_of_bins


def log_prob_change(tokens: ScoredTokens) -> np.ndarray:
    return tokens.artefact_actual - tokens.original_actual


ARRAYS = (
    TokenArray("reverse_kl", np.float64, lambda tokens: kl_of_bins(tokens.artefact, tokens.original)),
    TokenArray("log_prob_change", np.float32, log_prob_change),
)

METRICS = (
    Metric(
        name="reverse_kl_mean",
        title="mean reverse KL",
        unit="nats per token",
        better="lower",
        help="mean KL divergence of the original from the artefact",
        statistic=mean("reverse_kl"),
        in_summary=True,
        in_table=True,
    ),
    Metric(
        name="log_prob_change_median",
        title="median change of log-probability",
        unit="nats",
        better="higher",
        help="change of the right token's log-probability that half of the tokens do not exceed",
        statistic=Quantile("log_prob_change", 0.5),
    ),
)
'''  # noqa: E501 - as in docs/extending.md


@pytest.fixture
def add_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a file into the folder of metrics, for one test."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    before = set(sys.modules)

    def add(text: str) -> None:
        (folder / "reverse_kl.py").write_text(text)
        monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
        forget()

    def forget() -> None:
        registry.all_metrics.cache_clear()
        registry.token_arrays.cache_clear()

    yield add
    monkeypatch.undo()
    forget()
    for name in set(sys.modules) - before:
        if name.startswith(metrics.__name__):
            del sys.modules[name]


def test_all_metrics_are_there_in_order_and_complete() -> None:
    names = [metric.name for metric in registry.all_metrics()]
    assert names == [
        "kl_mean", "kl_median", "kl_p90", "kl_p99", "kl_p99.9", "kl_max",
        "perplexity", "perplexity_original", "perplexity_ratio",
        "probability_change_mean", "probability_change_rms", "probability_change_p1",
        "router_agreement", "chosen_experts_left", "top1_agreement", "top5_agreement",
    ]  # fmt: skip
    assert set(registry.gate_names()) == set(names) - {
        "perplexity_original",
        "probability_change_mean",
        "chosen_experts_left",
    }
    for metric in registry.all_metrics():
        assert metric.title and metric.unit and metric.help
        assert registry.metric_named(metric.name) is metric


def test_a_new_file_is_a_metric_everywhere(
    add_metric: Callable[[str], None], made: Path, line: Line, run: Run, tmp_path: Path
) -> None:
    options = {"against": line.model, "answers": line.answers, "work": tmp_path / "work"}
    out = Path(shutil.copytree(made, tmp_path / "out"))
    assert run("measure", out / "tiny-moe-6e-Q8_0.gguf", **options).code == 0
    add_metric(NEW)
    ran = run("measure", out, "--gate", "reverse_kl_mean<=99", **options)
    assert ran.code == 0
    assert "mean reverse KL" in ran.out
    text = (out / "report.md").read_text()
    assert text.count("mean reverse KL") == 1 + len(list(out.glob("tiny*.gguf"))) + 1
    ran = run("measure", out, "--gate", "log_prob_change_median>=9", **options)
    assert ran.code == 3
    files = [out / f"tiny-moe-6e-{name}.gguf" for name in ("Q4_K_M", "Q8_0")]
    found = run("compare", *files, json=True, **options).json["pairs"][0]["comparisons"]
    assert {"reverse_kl_mean", "kl_mean"} <= {entry["metric"] for entry in found}
    shown = run("measure", help=True).out
    assert "reverse_kl_mean" in "".join(shown.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NEW.replace('"reverse_kl_mean"', '"kl_mean"'), "'kl_mean' is used twice"),
        (NEW.replace('TokenArray("reverse_kl"', 'TokenArray("kl"'), "'kl' is used twice"),
        (NEW.replace('mean("reverse_kl")', 'mean("kl_reverse")'), r"needs \['kl_reverse'\]"),
    ],
)
def test_metrics_that_contradict_each_other_are_refused(
    text: str, message: str, add_metric: Callable[[str], None]
) -> None:
    add_metric(text)
    with pytest.raises(ValueError, match=message):
        registry.all_metrics()


def test_a_metric_without_a_better_side_is_no_gate() -> None:
    assert not Metric("a", "a", "a", None, "a", mean("kl")).is_gate
