"""Five releases like the five published cards that the audit finds wrong: ours have no finding.

On gemmule: a recipe's quantization of a pruned and edited model, a ladder with an importance
matrix, pruned safetensors, a GGUF with files for Ollama, and MLX of 4 and 8 bits.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import secateur
from secateur import (
    Calibration,
    Formats,
    Measuring,
    Pruning,
    Release,
    Releasing,
    ShrinkRequest,
    audit_model,
    release_output,
)
from secateur.checkpoint.hub import gemmule_folder
from secateur.release.card.card import check_card

pytestmark = pytest.mark.slow

ANSWERS = Measuring(per_domain=2, answer_tokens=32)


@pytest.fixture(scope="module")
def stats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gemmule") / "stats"
    secateur.calibrate("gemmule", path, Calibration(corpus="gemmule"))
    return path


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gemmule under the card of a publisher who pruned it and edited its weights."""
    folder = tmp_path_factory.mktemp("edited") / "gemmule-REAP-heretic"
    shutil.copytree(gemmule_folder(), folder, ignore=shutil.ignore_patterns("README.md"))
    front = {
        "license": "apache-2.0",
        "base_model": "owner/gemmule-REAP",
        "base_model_relation": "finetune",
        "tags": ["heretic", "uncensored", "reap"],
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n")
    return folder


def made(model: str | Path, stats: Path, out: Path, formats: Formats, experts: int | None) -> Path:
    """An output, measured on a few answers."""
    pruning = Pruning(drop=0) if experts is None else Pruning(experts=experts)
    measuring = ANSWERS if model == "gemmule" else None
    secateur.shrink(
        model, out, ShrinkRequest(pruning, formats, statistics=stats, measuring=measuring)
    )
    return out


Make = Callable[[Path, Path, Path], Path]

KINDS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "a recipe's quantization of a pruned and edited model": (
        lambda stats, edited, out: made(edited, stats, out, Formats(types="apex-mini"), 24),
        ("gguf",),
    ),
    "a ladder with an importance matrix": (
        lambda stats, edited, out: made(
            "gemmule", stats, out,
            Formats(types="Q8_0,Q5_K_M,Q4_K_M,IQ4_XS,IQ3_XXS"), 28,
        ),
        ("gguf",),
    ),
    "pruned safetensors": (
        lambda stats, edited, out: made("gemmule", stats, out, Formats(), 24), (),
    ),
    "a GGUF with files for Ollama": (
        lambda stats, edited, out: made(
            "gemmule", stats, out, Formats(to="gguf", types="Q4_K_M"), 26
        ),
        (),
    ),
    "MLX of four and eight bits": (
        lambda stats, edited, out: made(
            edited, stats, out, Formats(types="mlx-mixed-4-8-32"), None
        ),
        ("mlx",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_our_cards_pass_our_audit(kind: str, stats: Path, edited: Path, tmp_path: Path) -> None:
    make, only = KINDS[kind]
    out = make(stats, edited, tmp_path / "out")
    done = release_output(out, Releasing(repository="me/gemmule-small", only=only))
    check_card(out)
    assert [note for note in done.notes if "wrong" in note] == []
    text = done.card.text
    for source in [*sent(done, ".gguf"), "gemmule"]:
        found = audit_model(source, claims=out / "README.md")
        odd = [one for one in found.claims if one.verdict not in ("holds", "unchecked")]
        assert [one.sentence() for one in odd] == []
        if str(source).endswith(".gguf"):
            assert {one.verdict for one in found.claims} == {"holds"}
            assert any(one.topic in ("types", "file size") for one in found.claims)
    assert "trust_remote_code" not in text
    assert "huggingface-cli" not in text
    assert "start_of_turn" not in text
    if "edited" in kind or "MLX" in kind:
        assert "**Edited:**" in text
        assert "heretic" in done.card.front_matter["tags"]
        assert done.card.front_matter["base_model"] == "owner/gemmule-REAP"
        assert "Nothing was measured" in text
    else:
        assert re.search(r"Divergence.* from `gemmule`", text)
    if "Ollama" in kind:
        assert "ollama run hf.co/me/gemmule-small:Q4_K_M" in text
        assert {"Modelfile", "template", "params"} <= {file.path for file in done.bundle.files}
    if "ladder" in kind:
        assert len(sent(done, ".gguf")) == 5
        assert text.count("llama-server -m ") == 1  # of the file to take first


def sent(done: Release, ending: str) -> list[Path]:
    """The files of this kind that would go up."""
    names = (file.source for file in done.bundle.files if file.path.endswith(ending))
    return sorted(path for path in names if path.name != "imatrix.gguf")
