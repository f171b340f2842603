"""Plans with a user's importance matrix, and what becomes of experts without data."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_line import Line, Run

from secateur import Formats, Pruning, apply, open_checkpoint, plan, read_plan, save_plan
from secateur.api.models import load_statistics
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.tensors import to_float32
from secateur.errors import FormatError, PlanError
from secateur.formats.ggml.codec import encode
from secateur.formats.ggml.engine import load_engine
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.imatrix.file import open_imatrix, save_imatrix
from secateur.formats.imatrix.matrix import Imatrix, ImatrixEntry, select_experts, write_imatrix
from secateur.outputs.gguf.layout import gguf_layout
from secateur.planning.document import IMATRIX, IMATRIX_FROM, Plan
from secateur.planning.unseen_experts import Policy
from secateur.recipes.recipe import find_recipe

KEEP = {0: (0, 2, 3, 5, 6, 7), 1: (1, 2, 3, 4, 6, 7)}
DROPS = {"layers": {str(layer): {"keep": list(kept)} for layer, kept in KEEP.items()}}
STACK = "blk.1.ffn_gate_up_exps.weight"

Made = Callable[..., Path]


def recorded(checkpoint: Checkpoint, unseen: Mapping[int, int] = {}) -> Imatrix:  # noqa: B006
    """As llama-imatrix would record it: sums that differ by column and expert, tokens by expert;
    `unseen` names one expert per layer without data."""
    everyone = tuple(range(checkpoint.experts))
    keep = dict.fromkeys(checkpoint.moe_layers, everyone)
    form = gguf_layout(checkpoint, keep, find_recipe("Q8_0"), imatrix=None)
    random = np.random.default_rng(7)
    entries = {}
    for tensor in form.tensors:
        info = tensor.info
        if not info.name.startswith("blk.") or len(info.shape) < 2:
            continue
        matrices = info.shape[0] if len(info.shape) == 3 else 1
        tokens = random.integers(100, 200, matrices).astype(np.float32)
        sums = random.uniform(0.1, 9, (matrices, info.shape[-1])).astype(np.float32)
        layer = int(info.name.split(".")[1])
        if layer in unseen and matrices > 1:
            tokens[unseen[layer]], sums[unseen[layer]] = 0, 0
        entries[info.name] = ImatrixEntry(sums * tokens[:, None], tokens)
    return Imatrix(("/home/somebody/wiki.txt",), 4, 512, entries)


@pytest.fixture(scope="module")
def checkpoint(line: Line) -> Checkpoint:
    return open_checkpoint(line.model)


@pytest.fixture
def drops(tmp_path: Path) -> Path:
    import json

    path = tmp_path / "drops.json"
    path.write_text(json.dumps(DROPS))
    return path


@pytest.fixture
def made(checkpoint: Checkpoint, tmp_path: Path) -> Made:
    """`made(**unseen)` is the path of a recorded matrix."""

    def make(unseen: Mapping[int, int] = {}, name: str = "theirs.gguf") -> Path:  # noqa: B006
        path = tmp_path / name
        save_imatrix(path, recorded(checkpoint, unseen))
        return path

    return make


def planned(
    line: Line, drops: Path, imatrix: Path, policy: Policy = "uniform", **words: Any
) -> Plan:
    kinds = words.pop("types", ("Q4_0",))
    return plan(
        line.model,
        Pruning(drop_map=drops),
        Formats(to="gguf", types=kinds),
        imatrix=imatrix,
        unseen_experts=policy,
        **words,
    )


def test_our_own_matrix_is_named_after_the_mix(line: Line, stats: Path) -> None:
    decided = plan(
        line.model, Pruning(experts=6), Formats(to="gguf", types=("Q4_0",)), statistics=stats
    )
    mix = load_statistics(stats).corpora[0]["mix"]
    assert decided.selection["imatrix"]["quantize.imatrix.dataset"] == mix


def test_a_matrix_of_the_whole_model_is_sliced(
    line: Line, checkpoint: Checkpoint, drops: Path, made: Made, tmp_path: Path
) -> None:
    theirs = made()
    decided = planned(line, drops, theirs)
    assert decided.selection[IMATRIX] == {
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "wiki.txt",
        "quantize.imatrix.entries_count": len(recorded(checkpoint).entries),
        "quantize.imatrix.chunks_count": 4,
    }
    assert decided.selection[IMATRIX_FROM] == {
        "from": "file",
        "sha256": hashlib.sha256(theirs.read_bytes()).hexdigest(),
        "unseen_experts": "uniform",
        "experts_without_data": [],
        "experts_below_32_tokens": 0,
    }
    assert "/home" not in str(decided.selection)
    out = tmp_path / "out"
    apply(decided, out, imatrix=theirs)
    sliced = open_imatrix(out / "imatrix.gguf")
    right = select_experts(recorded(checkpoint), KEEP)
    for name, entry in right.entries.items():
        np.testing.assert_array_equal(sliced.entries[name].in_sum2, entry.in_sum2)
        np.testing.assert_array_equal(sliced.entries[name].counts, entry.counts)
    # A matrix that is sliced already gives the same file of weights.
    save_imatrix(tmp_path / "sliced.gguf", right)
    again = planned(line, drops, tmp_path / "sliced.gguf")
    apply(again, tmp_path / "again", imatrix=tmp_path / "sliced.gguf")
    (weights,) = out.glob("*Q4_0.gguf")
    one, other = read_gguf(weights), read_gguf(tmp_path / "again" / weights.name)
    for name in one.tensors:
        np.testing.assert_array_equal(one.data(name), other.data(name))


def bytes_of_expert(folder: Path, checkpoint: Checkpoint, expert: int) -> bytes:
    """Of `STACK`, one expert of the pruned model's."""
    (weights,) = folder.glob("*Q4_0.gguf")
    file = read_gguf(weights)
    info = file.tensors[STACK]
    assert info.type == "Q4_0"
    return file.data(STACK).reshape(info.shape[0], -1)[expert].tobytes()


@pytest.mark.parametrize("policy", ["uniform", "mean"])
def test_an_expert_without_data_is_treated_as_planned(
    policy: Policy, line: Line, checkpoint: Checkpoint, drops: Path, made: Made, tmp_path: Path
) -> None:
    theirs = made({1: 3})
    decided = planned(line, drops, theirs, policy)
    (said,) = [note for note in decided.notes if note.startswith("imatrix")]
    assert "1 of 12 experts kept have no data (1:3)" in said
    assert f"--unseen-experts {policy}" in said
    apply(decided, tmp_path / "out", imatrix=theirs)
    place = KEEP[1].index(3)
    source = checkpoint.read("model.layers.1.experts.gate_up_proj")
    rows = np.ascontiguousarray(to_float32(source)[3])
    entry = recorded(checkpoint, {1: 3}).entries[STACK]
    seen = [expert for expert in KEEP[1] if expert != 3]
    weights = np.ones(rows.shape[1], np.float32)
    if policy == "mean":
        total = entry.in_sum2[seen].sum(0, dtype=np.float64) / entry.counts[seen].sum()
        weights = total.astype(np.float32)
    right = encode(rows, "Q4_0", weights).tobytes()
    assert bytes_of_expert(tmp_path / "out", checkpoint, place) == right
    # The matrix beside the output says what was done with it.
    told = open_imatrix(tmp_path / "out" / "imatrix.gguf")
    np.testing.assert_array_equal(told.entries[STACK].means()[place], weights)


def test_the_policy_stop_refuses_and_names_the_experts_as_the_model_counts_them(
    line: Line, drops: Path, made: Made
) -> None:
    with pytest.raises(PlanError, match=r"1 of 12 experts kept have no data \(0:6\).*calibrate"):
        planned(line, drops, made({0: 6}), "stop")
    # An expert that goes needs no data.
    assert (
        planned(line, drops, made({0: 1}), "stop").selection[IMATRIX_FROM]["unseen_experts"]
        == "stop"
    )


def test_experts_with_little_data_are_counted(line: Line, drops: Path, tmp_path: Path) -> None:
    few = recorded(open_checkpoint(line.model))
    entries = dict(few.entries)
    for name, entry in entries.items():
        if entry.counts.size > 1 and name.startswith("blk.0."):
            counts = entry.counts.copy()
            counts[2] = 31
            entries[name] = ImatrixEntry(entry.in_sum2, counts)
    write_imatrix(tmp_path / "few.gguf", replace(few, entries=entries))
    decided = planned(line, drops, tmp_path / "few.gguf")
    assert "imatrix: 1 of 12 experts kept saw fewer than 32 tokens (0:2)" in decided.notes
    assert decided.selection[IMATRIX_FROM]["experts_below_32_tokens"] == 1


def test_a_dat_file_does_too(line: Line, drops: Path, made: Made) -> None:
    """It names the expert without data, which it knows by its flat row."""
    theirs = made({1: 3}, "theirs.dat")
    decided = planned(line, drops, theirs)
    assert decided.selection[IMATRIX_FROM]["experts_without_data"] == ["1:3"]
    assert any("a .dat has lost how many tokens" in note for note in decided.notes)


def test_apply_takes_only_the_matrix_of_the_plan(
    line: Line, drops: Path, made: Made, tmp_path: Path
) -> None:
    theirs = made()
    save_plan(planned(line, drops, theirs), tmp_path / "plan.json")
    decided = read_plan(tmp_path / "plan.json")
    with pytest.raises(PlanError, match=r"matrix of sha256 \w+: name it with --imatrix"):
        apply(decided, tmp_path / "out")
    with pytest.raises(PlanError, match=r"sha256 \w+, not that of \w+: name it with --imatrix"):
        apply(decided, tmp_path / "out", imatrix=made({0: 0}, "other.gguf"))
    lying = {**decided.selection, IMATRIX: {**decided.selection[IMATRIX]}}
    lying[IMATRIX]["quantize.imatrix.chunks_count"] = 400
    with pytest.raises(PlanError, match=r"chunks_count 400, but it has 4"):
        apply(replace(decided, selection=lying), tmp_path / "out", imatrix=theirs)
    assert not (tmp_path / "out").exists()


def test_a_matrix_of_another_model_is_refused(
    line: Line, checkpoint: Checkpoint, drops: Path, tmp_path: Path
) -> None:
    whole = recorded(checkpoint)
    five = {layer: tuple(range(5)) for layer in KEEP}
    write_imatrix(tmp_path / "five.gguf", select_experts(whole, five))
    with pytest.raises(FormatError, match="stacks of 5 experts, expected 8 as in the model or 6"):
        planned(line, drops, tmp_path / "five.gguf")
    entry = whole.entries[STACK]
    narrow = ImatrixEntry(entry.in_sum2[:, :-1], entry.counts)
    write_imatrix(tmp_path / "n.gguf", replace(whole, entries={**whole.entries, STACK: narrow}))
    with pytest.raises(PlanError, match=rf"\[6, {narrow.in_sum2.shape[1]}\] sums of {STACK}"):
        planned(line, drops, tmp_path / "n.gguf")


def test_small_types_of_experts_without_data_are_warned_of(tmp_path: Path) -> None:
    """gemmule's gate and up have rows of 256, so that the smallest types fit them."""
    gemmule = open_checkpoint("gemmule")
    whole = recorded(gemmule, {2: 5, 3: 9})
    write_imatrix(tmp_path / "x.gguf", whole)
    words = (gemmule, Pruning(drop=0.0), Formats(to="gguf", types=("IQ2_XS", "Q4_K_M")))
    decided = plan(*words, imatrix=tmp_path / "x.gguf")
    (warned,) = [note for note in decided.notes if "WARNING" in note]
    assert warned.startswith("gguf-IQ2_XS: WARNING: 2 experts without data (2:5, 3:9)")
    assert "IQ2_XS" in warned
    assert "--unseen-experts mean" in warned
    entries = {name: entry for name, entry in whole.entries.items() if "gate_up" not in name}
    write_imatrix(tmp_path / "x.gguf", replace(whole, entries=entries))
    with pytest.raises(
        PlanError, match=r"no entry for 6 tensors .*first: blk\.0\.ffn_gate_up_exps"
    ):
        plan(*words, imatrix=tmp_path / "x.gguf")


def test_the_command_line_takes_it(run: Run, line: Line, drops: Path, made: Made) -> None:
    theirs = made({1: 3})
    words: dict[str, Any] = {"drop_map": drops, "types": "Q4_0", "imatrix": theirs}
    shown = run("plan", line.model, **words, json=True)
    assert shown.json["selection"]["imatrix_from"]["experts_without_data"] == ["1:3"]
    refused = run("plan", line.model, **words, unseen_experts="stop")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    wrong = run("plan", line.model, **words, unseen_experts="none")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "'uniform', 'mean', 'stop'" in wrong.err


def test_llama_cpps_own_reader_opens_our_file(made: Made, checkpoint: Checkpoint) -> None:
    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))

    library = load_engine()
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, Parameters]
    for name in ("gguf_get_n_tensors", "gguf_find_tensor", "gguf_find_key", "gguf_get_val_u32"):
        getattr(library, name).restype = ctypes.c_int64
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.gguf_get_n_tensors.argtypes = [ctypes.c_void_p]
    library.gguf_get_val_u32.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.gguf_get_val_u32.restype = ctypes.c_uint32
    library.gguf_free.argtypes = [ctypes.c_void_p]
    opened = library.gguf_init_from_file(str(made()).encode(), Parameters(True, None))
    assert opened
    try:
        assert library.gguf_get_n_tensors(opened) == 2 * len(recorded(checkpoint).entries)
        assert library.gguf_find_tensor(opened, f"{STACK}.counts".encode()) >= 0
        key = library.gguf_find_key(opened, b"imatrix.chunk_size")
        assert library.gguf_get_val_u32(opened, key) == 512
    finally:
        library.gguf_free(opened)
