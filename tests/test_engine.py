"""The real engines against our path: the same files and tokens, full logits of both."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import secateur
from secateur import Formats, Measuring, Pruning, Recipe
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import EngineError
from secateur.evaluation.tokens.answers import Answer, answer_set
from secateur.evaluation.tokens.teacher import Teacher, teach
from secateur.outputs.registry import open_artefact
from secateur.serving import llama_logits_host
from secateur.serving.teacher_forced_logits import run_llama_cpp

SHORT = tuple(range(5, 75))
LONG = tuple(range(5, 605))  # more than one batch of llama.cpp's


def make(out: Path, kind: str) -> Path:
    """gemmule in a type."""
    plan = secateur.plan("gemmule", Pruning(drop=0.0), Formats(types=(kind,), to="gguf"))
    secateur.apply(plan, out, workers=1)
    return out / f"gemmule-{kind}.gguf"


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The type whose products see float32 inputs."""
    return make(tmp_path_factory.mktemp("engine") / "out", "F32")


def compare_with(file: Path, ids: Sequence[int]) -> tuple[Teacher, np.ndarray, np.ndarray]:
    """(what we say of every token, llama.cpp's log-probabilities, its experts)."""
    source = open_artefact(file, open_checkpoint("gemmule")).source
    vocab = source.family.number(source.config, "vocab")
    document = answer_set([Answer("a", "x", "answers", tuple(ids), 1, "stop")], {})
    ours = teach(source, "ours", document, top_k=vocab)
    with run_llama_cpp(file, context=len(ids), experts=ours.experts.shape[1:]) as engine:
        rows = list(engine.run(ids, range(len(ids) - 1)))
        first = next(engine.run(ids[:9], [3]))  # a document of its own, from its beginning
    logits = np.concatenate([part.logits for part in rows]).astype(np.float64)
    assert np.abs(first.logits[0] - logits[3]).max() < 1e-3
    theirs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return ours, theirs, np.concatenate([part.experts for part in rows])


def divergence(ours: Teacher, theirs: np.ndarray) -> np.ndarray:
    logs = np.empty(theirs.shape)
    np.put_along_axis(logs, ours.top_ids.astype(np.int64), ours.top.astype(np.float64), -1)
    return (np.exp(logs) * (logs - theirs)).sum(-1)


def test_llama_cpp_says_what_our_path_says_in_float32(float32: Path) -> None:
    ours, theirs, experts = compare_with(float32, SHORT)
    assert (np.sort(experts, -1) == np.sort(ours.experts, -1)).mean() > 0.99
    assert np.median(divergence(ours, theirs)) < 1e-6  # of sums in float32


@pytest.mark.slow
def test_in_float32_only_experts_that_are_tied_set_llama_cpp_apart_from_us(float32: Path) -> None:
    ours, theirs, experts = compare_with(float32, LONG)
    same = (np.sort(experts, -1) == np.sort(ours.experts, -1)).all((1, 2))
    assert same.mean() > 0.99
    assert divergence(ours, theirs)[same].max() < 1e-3  # some read what a tied token wrote
    assert np.median(divergence(ours, theirs)) < 1e-6  # of sums in float32


@pytest.mark.slow
def test_with_quantized_weights_llama_cpp_rounds_activations_too(tmp_path: Path) -> None:
    ours, theirs, experts = compare_with(make(tmp_path / "out", "Q8_0"), LONG)
    same = (np.sort(experts, -1) == np.sort(ours.experts, -1)).all((1, 2))
    kl = divergence(ours, theirs)
    assert 0.6 < same.mean() < 0.99
    assert 1e-5 < np.median(kl) < 0.02
    assert kl[~same].mean() > kl[same].mean()


def test_a_model_that_llama_cpp_does_not_load_is_an_error_in_its_words(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 5, 5))
    with (
        pytest.raises(EngineError, match=r"llama\.cpp did not load .*damaged\.gguf: \w+"),
        run_llama_cpp(damaged, context=64, experts=(1, 1)),
    ):
        pass


@pytest.mark.slow
def test_an_engine_that_ends_while_it_reads_says_why(float32: Path) -> None:
    with (
        run_llama_cpp(float32, context=64, experts=(6, 4)) as engine,
        pytest.raises(EngineError, match=r"llama\.cpp with .*-F32\.gguf ended: .*GGML_ASSERT"),
    ):
        list(engine.run(range(5, 905), [899]))
    with (
        run_llama_cpp(float32, context=64, experts=(3, 4)) as engine,
        pytest.raises(EngineError, match=r"chose experts in 6 layers, expected 4 in 3"),
    ):
        list(engine.run(range(5, 25), [9]))


def test_a_library_whose_structs_may_lie_elsewhere_is_refused() -> None:
    with pytest.raises(RuntimeError, match="other context parameters"):
        llama_logits_host._check(bytes(1024))


@pytest.mark.slow
def test_mlx_lm_is_measured_beside_our_path(tmp_path: Path) -> None:
    """On the CPU, where what is not quantized is float32 to both."""
    out = tmp_path / "out"
    plan = secateur.plan(
        "gemmule",
        Pruning(drop=0.0),
        Formats(to="mlx", recipes=(Recipe("m4", "affine-4-32", "mlx"),)),
    )
    secateur.apply(plan, out, workers=1)
    request = Measuring(max_prompts=4, real_engine=True)
    (artefact,) = secateur.measure(out, "gemmule", request, workers=1).artefacts
    apart, difference, theirs = (
        artefact.value(name, kind="engine")
        for name in ("engine_kl_mean", "kl_mean_difference", "kl_mean")
    )
    own = artefact.value("kl_mean")
    assert apart is not None and difference is not None and theirs is not None and own is not None
    assert apart.n == own.n
    assert apart.value < 1e-4 < own.value
    assert abs(difference.value) < 0.1 * own.value
    assert artefact.value("engine_router_agreement", kind="engine") is None
