"""The calibration pass against brute force on the real transformers models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import EXPERTS, FORMS, TOP_K, VOCAB, load, save_tiny
from torch import Tensor

from secateur.calibration.layer_pass import calibrate
from secateur.calibration.observers.sample_norms import SAMPLE_NORMS
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.load import load_rows
from secateur.corpus.rows import Corpus, Row, Sample, make_corpus
from secateur.errors import CorpusError, NumericError
from secateur.forward import weights
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.batches import ON_CPU
from secateur.pruning.criteria.base import Settings, score
from secateur.pruning.criteria.reap import REAP
from secateur.statistics.file import load as load_statistics
from secateur.statistics.file import save
from secateur.statistics.merge import merge
from secateur.statistics.statistics import Statistics

TINY = Callable[[str], Checkpoint]
Document = tuple[str, str, list[int], list[bool]]
"""Category, sample hash, token ids, which of them count."""

DOCUMENTS: tuple[tuple[str, str, int], ...] = (
    ("code", "a", 11),
    ("code", "b", 7),
    ("prose", "c", 9),
    ("prose", "c", 5),
    ("prose", "d", 14),
)
"""Category, sample, tokens. Two documents are pieces of one sample."""


def corpus(documents: Sequence[tuple[str, str, int]] = DOCUMENTS, seed: int = 3) -> Corpus:
    """Rows with two documents each where neighbours share a category."""
    random = np.random.default_rng(seed)
    # The highest ids stand for images and sounds in the wrapper.
    texts = [random.integers(4, VOCAB - 8, size) for _, _, size in documents]
    keys = sorted({(sha, category) for category, sha, _ in documents})
    rows: list[Row] = []
    for (category, sha, size), ids in zip(documents, texts, strict=True):
        sample = keys.index((sha, category))
        if rows and rows[-1].category == category and len(rows[-1].samples) == 1:
            last = rows.pop()
            number = np.full(size, 1, np.int32)
            rows.append(
                Row(
                    np.concatenate([last.input_ids, ids]),
                    np.concatenate([last.documents, number]),
                    np.concatenate([last.positions, np.arange(size, dtype=np.int32)]),
                    category,
                    (*last.samples, sample),
                )
            )
            continue
        places = np.arange(size, dtype=np.int32)
        rows.append(Row(ids, np.zeros(size, np.int32), places, category, (sample,)))
    samples = [
        Sample(
            "file", category, sha * 64, sum(n for c, s, n in documents if (s, c) == (sha, category))
        )
        for sha, category in keys
    ]
    return make_corpus(rows, samples, {"mix": "test"})


def documents_of(rows: Corpus) -> list[Document]:
    """What the model has to run, one after the other, without filling."""
    found: list[Document] = []
    for row in rows.rows:
        for number, sample in enumerate(row.samples):
            places = np.flatnonzero(row.documents == number)
            whole = slice(places[0], places[-1] + 1)
            counted = (row.documents[whole] == number).tolist()
            sha = rows.samples[sample].sha256
            found.append((row.category, sha, row.input_ids[whole].tolist(), counted))
    return found


class Reference:
    """Brute force: the whole model by transformers, one document at a time, hooks everywhere."""

    def __init__(self, checkpoint: Checkpoint, rows: Corpus) -> None:
        self.model: Any = load(checkpoint.path)
        self.checkpoint = checkpoint
        self.rows = rows
        self.pairs: dict[int, list[dict[str, Any]]] = {layer: [] for layer in checkpoint.moe_layers}
        """Per layer one entry per token and chosen expert."""
        self.squares: dict[str, np.ndarray] = {}
        self.behind: dict[str, np.ndarray] = {}
        layers = self.model.base_model
        self.layers = getattr(layers, "language_model", layers).layers
        self.logits: Tensor = torch.empty(0)
        self.mask = torch.empty(0)
        self.document: Document = DOCUMENTS  # type: ignore[assignment]
        with self._hooked(), torch.no_grad():
            for document in documents_of(rows):
                self.document = document
                self.mask = torch.tensor(document[3])
                masked = {} if all(document[3]) else {"attention_mask": self.mask.long()[None]}
                self.model(input_ids=torch.tensor([document[2]]), use_cache=False, **masked)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        names = {module: name for name, module in self.model.named_modules()}
        for number, layer in enumerate(self.layers):
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    handles.append(module.register_forward_pre_hook(self._linear(names[module])))
                if number in self.pairs and hasattr(module, "_apply_gate"):
                    handles.append(
                        module.register_forward_pre_hook(self._experts(number, names[module]))
                    )
            if number in self.pairs:
                family = self.checkpoint.family
                path = family.fill(family.router.module, number).split(f"layers.{number}.")[1]
                handles.append(layer.get_submodule(path).register_forward_hook(self._router))
        yield
        for handle in handles:
            handle.remove()

    def _router(self, module: Any, arguments: Any, output: Any) -> None:
        self.logits = output[0].float()
        if self.checkpoint.family.router.output == "probabilities":
            assert torch.allclose(self.logits.sum(-1), torch.ones(len(self.logits)), atol=1e-5)
            self.logits = self.logits.log()

    def _linear(self, name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any) -> None:
            seen = arguments[0].reshape(-1, arguments[0].shape[-1]).double()
            assert len(seen) == len(self.mask)
            self._add_squares(running(name) + ".weight", 0, 1, seen[self.mask])

        return hook

    def _add_squares(self, name: str, matrix: int, matrices: int, inputs: Tensor) -> None:
        self.squares.setdefault(name, np.zeros((matrices, inputs.shape[-1])))
        self.behind.setdefault(name, np.zeros(matrices, np.int64))
        self.squares[name][matrix] += inputs.square().sum(0).numpy()
        self.behind[name][matrix] += len(inputs)

    def _experts(self, layer: int, name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any) -> None:
            hidden, index, weights = arguments
            ones = torch.ones(len(hidden), 1)
            reference = torch.zeros_like(self.logits)
            reference.scatter_(-1, index, torch.softmax(self.logits.gather(-1, index), -1))
            for expert in range(EXPERTS):
                only = torch.full((len(hidden), 1), expert)
                # Called past the hooks; the family's own eager loop gives one expert's output.
                outputs = type(module).forward(module, hidden, only, ones)
                with inner_shown(module) as width:
                    inner = type(module).forward(module, hidden, only, ones)[:, :width]
                chosen = (index == expert).any(-1) & self.mask
                self._add_squares(
                    f"{running(name)}.gate_up_proj", expert, EXPERTS, hidden[chosen].double()
                )
                self._add_squares(
                    f"{running(name)}.down_proj", expert, EXPERTS, inner[chosen].double()
                )
                for token in chosen.nonzero().flatten().tolist():
                    self.pairs[layer].append(
                        {
                            "category": self.document[0],
                            "sha256": self.document[1],
                            "expert": expert,
                            "gate": float(weights[token][index[token] == expert]),
                            "norm": float(outputs[token].double().norm()),
                            "largest": float(outputs[token].abs().max()),
                            "reference_gate": float(reference[token, expert]),
                        }
                    )

        return hook

    def sums(self, layer: int, value: Callable[[dict[str, Any]], float]) -> np.ndarray:
        """float64 [C, E]"""
        total = np.zeros((len(self.rows.categories), EXPERTS))
        for pair in self.pairs[layer]:
            total[self.rows.categories.index(pair["category"]), pair["expert"]] += value(pair)
        return total


def running(name: str) -> str:
    """A module's name in the text model, though it lies in a wrapper."""
    return name.replace("model.language_model.", "model.")


@contextmanager
def inner_shown(module: Any) -> Iterator[int]:
    """Make a fused-experts module output what its down projections see."""
    down, bias = module.down_proj, getattr(module, "down_proj_bias", None)
    rows, columns = down.shape[1:]
    width = rows if module.is_transposed else columns
    module.down_proj = torch.nn.Parameter(torch.eye(rows, columns).expand(EXPERTS, -1, -1))
    if bias is not None:
        module.down_proj_bias = torch.nn.Parameter(torch.zeros_like(bias))
    try:
        yield width
    finally:
        module.down_proj = down
        if bias is not None:
            module.down_proj_bias = bias


FIELDS: dict[str, Callable[[dict[str, Any]], float]] = {
    "gate": lambda p: p["gate"],
    "norm": lambda p: p["norm"],
    "gate_norm": lambda p: p["gate"] * p["norm"],
    "squared_norm": lambda p: p["norm"] ** 2,
    "reference_gate": lambda p: p["reference_gate"],
    "reference_gate_norm": lambda p: p["reference_gate"] * p["norm"],
}


def check_equal(found: Statistics, reference: Reference) -> None:
    assert found.layers == reference.checkpoint.moe_layers
    for layer in found.layers:
        assert np.array_equal(found.count(layer), reference.sums(layer, lambda _: 1))
        for name, value in FIELDS.items():
            expected = reference.sums(layer, value)
            assert found.array(layer, name) == pytest.approx(expected, rel=2e-5, abs=1e-7), name
        for category, expert in np.ndindex(found.array(layer, "largest").shape):
            largest = [
                pair["largest"]
                for pair in reference.pairs[layer]
                if (pair["category"], pair["expert"]) == (found.categories[category], expert)
            ]
            got = float(found.array(layer, "largest")[category, expert])
            assert got == pytest.approx(max(largest, default=0.0), rel=1e-5)
        norms = found.array(layer, "sample_norms")
        for row, sample in enumerate(found.samples):
            expected = np.zeros(EXPERTS)
            for pair in reference.pairs[layer]:
                if (pair["category"], pair["sha256"]) == (sample["category"], sample["sha256"]):
                    expected[pair["expert"]] += abs(pair["gate"]) * pair["norm"]
            assert norms[row] == pytest.approx(expected, rel=2e-5, abs=1e-8)
    importance = found.importance()
    assert sorted(importance) == sorted(reference.squares)
    for name, (squares, tokens) in importance.items():
        assert np.array_equal(tokens, reference.behind[name]), name
        expected = reference.squares[name]
        assert squares == pytest.approx(expected, rel=2e-5, abs=1e-6 * expected.max()), name


def as_bytes(statistics: Statistics, folder: Path) -> bytes:
    save(statistics, folder / "statistics")
    return (folder / "statistics").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_sums_equal_brute_force_on_the_real_model(form: str, tiny: TINY, tmp_path: Path) -> None:
    checkpoint, rows = tiny(form), corpus()
    found = calibrate(
        checkpoint, rows, sampling=Sampling(0), backend=CpuBackend(2), observers=[SAMPLE_NORMS]
    )
    assert found.tokens == {"code": 18, "prose": 28}
    assert found.skipped == 0
    assert [(s["category"], s["tokens"]) for s in found.samples] == [
        ("code", 11),
        ("code", 7),
        ("prose", 14),
        ("prose", 14),
    ]
    check_equal(found, Reference(checkpoint, rows))
    again = load_rows_round_trip(found, tmp_path)
    assert again.header() == found.header()


def load_rows_round_trip(found: Statistics, folder: Path) -> Statistics:
    save(found, folder / "s")
    return load_statistics(folder / "s")


@pytest.mark.parametrize("form", ["gemma4", "gpt_oss", "mixtral", "deepseek_v3", "qwen3_moe"])
def test_masked_tokens_and_padding_never_count(form: str, tiny: TINY, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    lines = []
    for length, zeros in ((10, (0, 1)), (12, (5, 6)), (6, ()), (9, (8,))):
        mask = [0 if place in zeros else 1 for place in range(length)]
        ids = random.integers(4, VOCAB - 8, length).tolist()
        lines.append({"input_ids": ids, "attention_mask": mask, "category": "xy"[length % 2]})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    rows = load_rows(path, VOCAB)
    found = calibrate(
        tiny(form), rows, sampling=Sampling(0), backend=CpuBackend(2), observers=[SAMPLE_NORMS]
    )
    assert sum(found.tokens.values()) == sum(sum(line["attention_mask"]) for line in lines)
    for layer in found.layers:
        assert found.count(layer).sum() == TOP_K * rows.tokens
    check_equal(found, Reference(tiny(form), rows))


@pytest.mark.parametrize("form", ["gemma4", "deepseek_v3"])
def test_any_number_of_workers_gives_the_same_bytes(form: str, tiny: TINY, tmp_path: Path) -> None:
    rows = long_corpus()
    files = [
        as_bytes(
            calibrate(tiny(form), rows, sampling=Sampling(64), backend=CpuBackend(workers)),
            tmp_path,
        )
        for workers in (1, 2, 3)
    ]
    assert files[0] == files[1] == files[2]


def long_corpus(seed: int = 7) -> Corpus:
    """1800 tokens in documents of 30: several micro-batches."""
    return corpus([("code" if n % 2 else "prose", f"{n:02d}", 30) for n in range(60)], seed)


def parts_of(whole: Corpus, cuts: Sequence[int]) -> list[Corpus]:
    """The corpus' rows in several corpora."""
    parts = []
    for start, end in zip([0, *cuts], [*cuts, len(whole.rows)], strict=True):
        rows = whole.rows[start:end]
        used = sorted({sample for row in rows for sample in row.samples})
        moved = [row._replace(samples=tuple(map(used.index, row.samples))) for row in rows]
        parts.append(make_corpus(moved, [whole.samples[s] for s in used], {"mix": "part"}))
    return parts


def test_parts_of_a_corpus_merge_to_the_whole(tiny: TINY) -> None:
    """Micro-batches of the parts differ from the whole's: sums differ by their rounding only."""
    whole_corpus = long_corpus()
    whole = calibrate(tiny("gemma4"), whole_corpus, sampling=Sampling(0), observers=[SAMPLE_NORMS])
    merged: Statistics | None = None
    for part in parts_of(whole_corpus, [7, 23, 40]):
        found = calibrate(tiny("gemma4"), part, sampling=Sampling(0), observers=[SAMPLE_NORMS])
        merged = found if merged is None else merge(merged, found)
    assert merged is not None
    assert merged.header() | {"corpora": []} == whole.header() | {"corpora": []}
    assert sorted(merged.arrays) == sorted(whole.arrays)
    for layer in whole.layers:
        assert np.array_equal(merged.count(layer), whole.count(layer))
        for field in (*FIELDS, "largest", "sample_norms"):
            assert merged.array(layer, field) == pytest.approx(whole.array(layer, field), rel=1e-5)
        assert merged.array(layer, "largest") == pytest.approx(
            whole.array(layer, "largest"), rel=1e-5
        )
        assert merged.array(layer, "sample_norms") == pytest.approx(
            whole.array(layer, "sample_norms"), rel=1e-5
        )
    for name, (squares, tokens) in whole.importance().items():
        assert np.array_equal(merged.importance()[name][1], tokens)
        assert merged.importance()[name][0] == pytest.approx(squares, rel=1e-4)


def test_parts_that_are_whole_groups_merge_to_the_same_bytes(tiny: TINY, tmp_path: Path) -> None:
    backend = CpuBackend(2, replace(ON_CPU, least=256, group=512))
    # Documents of 64 tokens, 4 to a micro-batch, 8 to a group, in the order of the rows.
    whole = corpus([("code", f"{n:02d}", 64) for n in range(32)])
    parts = parts_of(whole, [4, 12])  # two documents a row: 1, 2 and 1 groups
    options = {"sampling": Sampling(0), "backend": backend}
    found = [calibrate(tiny("gemma4"), part, **options) for part in parts]
    merged = merge(merge(found[2], found[0]), found[1])
    once = calibrate(tiny("gemma4"), whole, **options)
    same = replace(merged, corpora=once.corpora)
    assert as_bytes(same, tmp_path) == as_bytes(once, tmp_path)


@pytest.mark.parametrize("form", ["gemma4", "qwen3_moe", "gpt_oss", "deepseek_v3", "mixtral"])
def test_reap_with_the_reference_gate_is_the_reference_formula(form: str, tiny: TINY) -> None:
    """S_j = (1/n_j) sum g_tj |f_j(x_t)|, g the softmax over the chosen logits (reap.md, 2.3)."""
    rows = corpus()
    reference = Reference(tiny(form), rows)
    found = calibrate(tiny(form), rows, sampling=Sampling(0))
    scores = score(found, REAP, Settings(gate="reference"))
    for layer in found.layers:
        for expert in range(EXPERTS):
            seen = [p for p in reference.pairs[layer] if p["expert"] == expert]
            expected = sum(p["reference_gate"] * p["norm"] for p in seen) / max(1, len(seen))
            assert scores[layer][expert] == pytest.approx(expected, rel=2e-6, abs=1e-7)


def test_reference_and_true_gate_are_one_where_the_router_is_plain(tiny: TINY) -> None:
    found = calibrate(tiny("qwen3_moe"), corpus(), sampling=Sampling(0))
    for layer in found.layers:
        assert found.array(layer, "reference_gate") == pytest.approx(found.array(layer, "gate"))
    other = calibrate(tiny("gemma4"), corpus(), sampling=Sampling(0))
    gates = other.array(0, "gate").sum(0)
    assert not np.allclose(other.array(0, "reference_gate").sum(0), gates, rtol=0.05)


def test_nan_stops_and_names_layer_expert_and_sample(broken: Checkpoint) -> None:
    with pytest.raises(
        NumericError, match=r"layer 1, expert 3 gave NaN .* sample \w+ \(file\)"
    ) as e:
        calibrate(broken, corpus(), sampling=Sampling(0))
    assert e.value.exit_code == 1
    assert "\n" not in str(e.value)


def test_skipped_tokens_are_counted_and_leave_no_trace(broken: Checkpoint, tiny: TINY) -> None:
    rows = corpus()
    found = calibrate(broken, rows, sampling=Sampling(0), skip_bad=True, backend=CpuBackend(2))
    sound = Reference(tiny("gemma4"), rows)
    # Layer 0 is as it was; in layer 1 the tokens of expert 3 are out, with all their experts.
    assert np.array_equal(found.count(0), sound.sums(0, lambda _: 1))
    lost = int(sound.sums(1, lambda _: 1)[:, 3].sum())
    assert found.skipped == lost > 0
    assert found.count(1)[:, 3].tolist() == [0, 0]
    assert found.count(1).sum() == TOP_K * (rows.tokens - lost)
    assert found.count(2).sum() == TOP_K * (rows.tokens - lost)
    squares, tokens = found.importance()["model.layers.1.experts.down_proj"]
    assert tokens[3] == 0
    assert squares[3].tolist() == [0.0] * squares.shape[1]
    dense = found.importance()["model.layers.2.mlp.down_proj.weight"][1]
    assert dense.tolist() == [rows.tokens - lost]
    assert all(np.isfinite(found.array(layer, "norm")).all() for layer in found.layers)


def test_a_broken_expert_is_the_first_to_go(tmp_path: Path) -> None:
    folder = save_tiny("gemma4", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if "layers.1." in n and "down_proj" in n and "experts" in n)
    tensors[name][3] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    with pytest.raises(NumericError, match="--on-nan skip"):
        calibrate(checkpoint, corpus())
    found = calibrate(checkpoint, corpus(), skip_bad=True)
    for objective in ("pooled", "worst"):
        scores = found.arrays[f"layer.1.rerouted.{objective}.scores"]
        assert np.isfinite(scores).all()
        assert scores.argmin() == 3
        assert found.arrays[f"layer.1.rerouted.{objective}.errors"][-2] < 1e-12


def test_nan_in_attention_is_refused_or_skipped(tmp_path: Path) -> None:
    folder = save_tiny("gemma4", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if "layers.1." in n and "q_proj" in n)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    with pytest.raises(NumericError, match=r"layer 1"):
        calibrate(checkpoint, corpus(), sampling=Sampling(0))
    found = calibrate(checkpoint, corpus(), sampling=Sampling(0), skip_bad=True)
    assert found.skipped == corpus().tokens
    assert found.count(0).sum() == TOP_K * corpus().tokens
    assert found.count(1).sum() == found.count(2).sum() == 0


@pytest.mark.parametrize("form", FORMS)
def test_experts_read_one_by_one_change_nothing(
    form: str, tiny: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = calibrate(tiny(form), corpus(), sampling=Sampling(64))
    monkeypatch.setattr(weights, "EAGER_STACK_BYTES", 0)
    one_by_one = calibrate(tiny(form), corpus(), sampling=Sampling(64))
    assert at_once.arrays.keys() == one_by_one.arrays.keys()
    for name, values in at_once.arrays.items():
        np.testing.assert_array_equal(values, one_by_one.arrays[name], err_msg=name)


def test_an_empty_corpus_is_refused(tiny: TINY) -> None:
    with pytest.raises(CorpusError, match="no usable rows"):
        calibrate(tiny("gemma4"), make_corpus([], [], {}))


@pytest.mark.parametrize("sampled", [0, 16])
def test_progress_counts_the_tokens_of_the_corpus_once(tiny: TINY, sampled: int) -> None:
    calls: list[tuple[str, int, int, str]] = []
    sampling = Sampling(sampled)
    calibrate(tiny("gemma4"), corpus(), sampling=sampling, progress=lambda *c: calls.append(c))
    assert {(stage, total, unit) for stage, _, total, unit in calls} == {
        ("calibrate", 46, "tokens")
    }
    done = [entry[1] for entry in calls]
    assert done[0] == 0 and done[-1] == 46 and done == sorted(done)
    assert len(done) == 4 + (sampled > 0) * 3  # layers, and solving each
    if not sampled:
        assert done == [0, 15, 30, 46]
