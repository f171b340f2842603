"""Exact sizes from a config, and what of them fits in a memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_line import Run

from secateur import Formats, PlanningAssumptions, Pruning, fit, plan
from secateur.checkpoint.hub import gemmule_folder
from secateur.errors import CheckpointError, FormatError, PlanError
from secateur.formats.gguf.container import metadata_bytes
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.vocabulary import read_vocabulary
from secateur.planning.memory import context_memory

CONFIG, VOCABULARY = "config.json", "vocabulary.gguf"
CARDS = Path(__file__).resolve().parents[1] / "benchmarks/cards.json"


def test_sizes_are_the_cards(real: Path) -> None:
    """Tensors to the byte; files but for the names in the header, of which ours has more keys."""
    for count, card in json.loads(CARDS.read_text())["experts"].items():
        types = tuple(card["gguf_bytes"])
        decided = plan(
            real / CONFIG,
            Pruning(experts=int(count)),
            Formats(to="gguf", types=types),
            assumptions=PlanningAssumptions(real / VOCABULARY),
        )
        for name in types:
            form = f"gguf-{name}"
            mib = decided.tensor_bytes(form) / 2**20
            assert mib == pytest.approx(card["tensor_mib"][name], abs=6e-4)
            size = decided.file_bytes(form)
            assert size is not None
            assert abs(size - card["gguf_bytes"][name]) < 1024


def test_a_vocabulary_is_measured_without_being_read(real: Path) -> None:
    metadata = read_gguf(real / VOCABULARY).metadata
    found = read_vocabulary(real / VOCABULARY)
    keys = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    assert (found.nbytes, found.tokens) == (metadata_bytes(keys), 262144)


def test_without_a_tokenizer_the_file_is_not_known(run: Run, real: Path) -> None:
    request = Formats(to="gguf", types=("Q4_K_M",))
    decided = plan(real / CONFIG, Pruning(experts=109), request)
    assert decided.file_bytes("gguf-Q4_K_M") is None
    assert any("size of GGUF files is not known" in note for note in decided.notes)
    with pytest.raises(PlanError, match="does not know the size"):
        decided.sizes("gguf-Q4_K_M")
    told = run("plan", real / CONFIG, experts=109, types="Q4_K_M", to="gguf", json=True)
    assert told.code == 0
    assert told.json["file_bytes"] == {"gguf-Q4_K_M": None}
    assert told.json["tensor_bytes"] == {"gguf-Q4_K_M": 14_527_886_224}
    output = told.json["outputs"]["gguf-Q4_K_M"]
    assert (output["fallback_tensors"], output["needs_imatrix"]) == (60, False)
    lines = run("plan", real / CONFIG, experts=109, types="Q4_K_M", to="gguf", tensors=True).out
    assert "Q5_0 instead of Q4_K" in lines


def test_what_needs_an_importance_matrix_is_planned_as_with_one(real: Path) -> None:
    decided = plan(real / CONFIG, Pruning(experts=109), Formats(to="gguf", types=("IQ2_XXS",)))
    assert decided.output("gguf-IQ2_XXS").needs_imatrix
    assert any("needs an importance matrix" in note for note in decided.notes)
    plain = plan(real / CONFIG, Pruning(experts=109), Formats(to="gguf", types=("Q4_K_M",)))
    assert any("(under 1 kB) are not in its size" in n for n in plain.notes)


def test_what_fits_is_sorted_and_fits(run: Run, real: Path) -> None:
    options = {"memory": "13GiB", "experts": "90,109", "types": "Q4_K_M,Q3_K_M,Q8_0"}
    told = run("fit", real / CONFIG, tokenizer=real / VOCABULARY, json=True, **options)
    assert told.code == 0
    rows = told.json["rows"]
    assert told.json["tried"] == 6
    fitting = [(90, "Q4_K_M"), (109, "Q3_K_M"), (90, "Q3_K_M")]
    assert [(row["experts"], row["type"]) for row in rows] == fitting
    assert all(row["total"] <= 13 * 2**30 for row in rows)
    request = Formats(to="gguf", types=("Q3_K_M",))
    decided = plan(
        real / CONFIG,
        Pruning(experts=109),
        request,
        assumptions=PlanningAssumptions(real / VOCABULARY),
    )
    assert rows[1]["file"] == decided.file_bytes("gguf-Q3_K_M")
    assert rows[1]["total"] == decided.output("gguf-Q3_K_M").memory_bytes
    assert "109  Q3_K_M" in run("fit", real / CONFIG, **options).out


def test_a_model_with_weights_fits_as_its_plan_says() -> None:
    found = fit("gemmule", 10**9, context=1024)
    whole = next(row for row in found.rows if (row.experts, row.type) == (32, "Q8_0"))
    decided = plan("gemmule", Pruning(drop=0.0), Formats(types=("Q8_0",)))
    assert whole.file == decided.file_bytes("gguf-Q8_0")
    from secateur.checkpoint.reader import open_shape

    assert whole.total == whole.weights + context_memory(open_shape("gemmule"), 1024).bytes
    assert fit("gemmule", 1, context=1024).rows == ()


def test_bad_requests_are_one_line(run: Run, tmp_path: Path, real: Path) -> None:
    for options in ({"memory": "lots"}, {"memory": "1GiB", "experts": "a"}):
        assert run("fit", "gemmule", **options).code == 2
    with pytest.raises(PlanError, match="33"):
        fit("gemmule", 10**9, experts=(33,))
    with pytest.raises(PlanError, match="has its own tokenizer"):
        fit("gemmule", 10**9, tokenizer=gemmule_folder())
    config = tmp_path / "config.json"
    config.write_bytes((gemmule_folder() / "config.json").read_bytes())
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(FormatError, match="cut short"):
        fit(config, 10**9, tokenizer=tmp_path / "bad.gguf")
    with pytest.raises(CheckpointError, match="of 262144 tokens"):
        fit(config, 10**9, tokenizer=real / VOCABULARY)
    mine = fit(config, 10**9, tokenizer=gemmule_folder()).rows
    assert {row.weights for row in mine} == {row.weights for row in fit("gemmule", 10**9).rows}
