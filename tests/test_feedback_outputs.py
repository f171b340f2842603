"""Files whose levels were chosen with error feedback: same sizes, nearer to the model, exact."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import yaml
from numpy.typing import NDArray
from test_calibrate import corpus
from tiny_line import WIDER, Run, in_gemmas_form
from tiny_mlx import save_wide
from tiny_models import save_tiny
from tiny_tokenizer import save_tokenizer

import secateur
from secateur import Formats, Measuring, Pruning, ShrinkRequest
from secateur.api.cache import list_cache
from secateur.calibration.layer_pass import calibrate
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.rows import Row
from secateur.errors import PlanError
from secateur.formats.ggml.codec import encode
from secateur.formats.gguf.reader import read_gguf
from secateur.forward.batches import make_micro_batches
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import WeightSource
from secateur.outputs.build import resolve
from secateur.outputs.feedback import Feedback
from secateur.outputs.registry import open_artefact
from secateur.planning.document import Plan
from secateur.recipes.recipe import Recipe
from secateur.rounding.factor import LEAST_TOKENS, Groups, factorize
from secateur.rounding.feedback import round_with_feedback
from secateur.rounding.ggml_grids import GGML_GRIDS
from secateur.statistics.file import save
from secateur.statistics.gram import GramKind, whole_matrix
from secateur.statistics.gram_file import GramFile, gram_path

TYPES = ("Q4_0", "IQ4_NL")
RECIPES = (Recipe("m4", "affine-4-64", "mlx"), Recipe("m3", "affine-3-32", "mlx"))
OBSERVED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Rows that blocks of 32 and groups of 64 divide, and a tokenizer that a GGUF can hold."""
    return save_model(tmp_path_factory.mktemp("wide") / "model", save_wide, WIDER)


def save_model(folder: Path, save: Callable[..., Path], sizes: Mapping[str, Any]) -> Checkpoint:
    kept = dict(tiny_models._GEMMA4_TEXT)
    try:
        tiny_models._GEMMA4_TEXT.update(sizes)
        save("gemma4", folder)
    finally:
        tiny_models._GEMMA4_TEXT.clear()
        tiny_models._GEMMA4_TEXT.update(kept)
    in_gemmas_form(save_tokenizer(folder) / "tokenizer.json")
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def observed(model: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Statistics with Gram matrices of a kind, made once."""
    folder = tmp_path_factory.mktemp("stats")
    documents = [("code" if n % 3 else "prose", f"{n:02d}", 60) for n in range(12)]

    def get(kind: GramKind) -> Path:
        path = folder / f"{kind}.safetensors"
        if not path.exists():
            sampling = Sampling(40, gram=kind, gram_file=gram_path(path))
            save(calibrate(model, corpus(documents), sampling=sampling), path)
        return path

    return get


def decide(model: Checkpoint, stats: Path, rounding: Any, drop: float = 0.0) -> Plan:
    formats = Formats(types=TYPES, recipes=RECIPES, to="gguf,mlx", rounding=rounding)
    pruning = Pruning(drop=drop, criterion="frequency")
    return secateur.plan(model, pruning, formats, statistics=stats)


def write(
    plan: Plan, stats: Path, out: Path, workers: int = 2, device: str = "cpu"
) -> dict[str, bytes]:
    """{file: its bytes} of all weights."""
    secateur.apply(plan, out, statistics=stats, workers=workers, device=device)
    kept = [path for path in sorted(out.rglob("*")) if path.suffix in (".gguf", ".safetensors")]
    named = {path.relative_to(out).as_posix(): path for path in kept if "imatrix" not in path.name}
    return {name: path.read_bytes() for name, path in named.items() if "evidence/" not in name}


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_a_gguf_holds_the_solvers_codes_of_the_experts_kept(
    kind: GramKind, model: Checkpoint, observed: Callable[..., Path], tmp_path: Path
) -> None:
    """Every observed tensor, from the Gram matrices as a calibration wrote them, by the solver; the
    experts' `down` only from their own."""
    stats = observed(kind)
    plan = decide(model, stats, "feedback", drop=0.25)
    write(plan, stats, tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*Q4_0.gguf")
    file, gram = read_gguf(path), GramFile(gram_path(stats))
    imatrix = read_gguf(tmp_path / "out/imatrix.gguf")
    rounded = 0
    for tensor in plan.of("gguf-Q4_0"):
        kind_of = file.tensor(tensor.name).type
        stem = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if kind_of not in GGML_GRIDS or not stem.startswith(OBSERVED):
            continue
        running = model.family.running_name(model.family.classify(tensor.sources[0]))
        observed_as = gram.description.shared_by.get(running)
        found = None if observed_as is None else gram.input(observed_as)
        assert (found is None) == (kind == "shared" and "down_exps" in tensor.name)
        layer = int(tensor.name.split(".")[1])
        stack = secateur_rows(model, plan, tensor.sources[0], tensor.name, layer)
        sums = imatrix.data(f"{tensor.name}.in_sum2").view(np.float32).reshape(len(stack), -1)
        counts = imatrix.data(f"{tensor.name}.counts").view(np.float32).reshape(-1, 1)
        data = file.data(tensor.name).reshape(len(stack), stack.shape[1], -1)
        for number, rows in enumerate(stack):
            means = np.divide(sums, counts, where=counts > 0, out=np.ones_like(sums))[number]
            nearest = encode(rows, kind_of, means)
            if found is None:
                assert np.array_equal(data[number], nearest)
                continue
            which = plan.keep[layer][number] if len(found.sums) > 1 else 0
            gram_of = whole_matrix(found.sums[which], found.columns)
            factor = factorize(gram_of, GGML_GRIDS[kind_of].groups, int(found.tokens[which]))
            assert factor is not None
            expected = round_with_feedback(rows, nearest, GGML_GRIDS[kind_of], factor)
            assert np.array_equal(data[number], expected), (tensor.name, number)
            assert not np.array_equal(data[number], nearest)
        rounded += 1
    assert rounded > 10
    assert file.value("secateur.rounding") == f"feedback ({kind})"


def secateur_rows(
    model: Checkpoint, plan: Plan, source: str, name: str, layer: int
) -> NDArray[np.float32]:
    """float32 [matrices, R, C]: a tensor's matrices, of the experts kept."""
    bits = model.read(source).array.astype(np.uint32) << 16
    rows = bits.view(np.float32)
    if rows.ndim == 2:
        return rows[None]
    rows = rows[list(plan.keep[layer])]
    half = rows.shape[1] // 2
    if "gate_up" in source and "gate_up" not in name:
        rows = rows[:, :half] if "gate" in name.split(".")[2] else rows[:, half:]
    return np.ascontiguousarray(rows)


def test_bytes_are_those_of_nearest_and_do_not_depend_on_workers(
    model: Checkpoint, observed: Callable[..., Path], tmp_path: Path
) -> None:
    stats = observed("own")
    nearest = write(decide(model, stats, "nearest"), stats, tmp_path / "nearest")
    plan = decide(model, stats, "feedback")
    one = write(plan, stats, tmp_path / "one", workers=1)
    assert write(plan, stats, tmp_path / "three", workers=3) == one
    for name, size in ((name, len(data)) for name, data in one.items()):
        assert size == next(files[name] for files in plan.files.values() if name in files)
        if name.endswith(".safetensors"):
            assert size == len(nearest[name])
        assert one[name] != nearest[name]
    for format_id in plan.formats:  # beside its metadata, a GGUF is as large as well
        assert plan.tensor_bytes(format_id) == decide(model, stats, "nearest").tensor_bytes(
            format_id
        )


def test_the_model_is_nearer_to_itself(
    model: Checkpoint, observed: Callable[..., Path], tmp_path: Path
) -> None:
    """A layer's outputs, over the inputs that were observed."""
    stats = observed("shared")
    for rounding in ("nearest", "feedback"):
        write(decide(model, stats, rounding), stats, tmp_path / rounding)
    gram = GramFile(gram_path(stats))
    name = "model.layers.1.mlp.gate_proj.weight"
    original = model.read(name).array.astype(np.uint32) << 16
    found = gram.input(gram.description.shared_by[name])
    upper = np.triu(whole_matrix(found.sums[0], found.columns))
    whole = upper + np.triu(upper, 1).T
    for format_id in ("gguf-Q4_0", "gguf-IQ4_NL", "mlx-m4", "mlx-m3"):
        errors = []
        for rounding in ("nearest", "feedback"):
            kind = format_id.partition("-")[2]
            out = tmp_path / rounding
            path = next(out.glob(f"*{kind}.gguf")) if "gguf" in format_id else out / format_id
            artefact = open_artefact(path, model)
            off = (
                original.view(np.float32).astype(np.float64) - artefact.source.tensor(name).numpy()
            )
            errors.append(float(((off @ whole) * off).sum()))
        assert errors[1] < 0.6 * errors[0], format_id


def test_a_plan_names_its_gram_matrices_and_is_applied_with_no_others(
    model: Checkpoint, observed: Callable[..., Path], tmp_path: Path
) -> None:
    stats = observed("shared")
    plan = decide(model, stats, "feedback")
    assert plan.selection["rounding"]["gram"] == "shared"
    said = [note for note in plan.notes if "codes chosen with error feedback" in note]
    assert len(said) == len(TYPES) + len(RECIPES)
    assert all("token_embd" in note or "embed_tokens" in note for note in said)
    assert decide(model, stats, None) == plan  # the default, where there are Gram matrices
    assert "rounding" not in decide(model, stats, "nearest").selection
    floats = Formats(types=("F16", "Q8_0"), to="gguf")
    with_floats = secateur.plan(model, Pruning(drop=0.0), floats, statistics=stats)
    assert not [note for note in with_floats.notes if note.startswith("gguf-F16: codes")]
    says = {
        name: "secateur.rounding" in decided.layout.metadata
        for name, decided in resolve(with_floats, model).items()
    }
    assert says == {"gguf-F16": False, "gguf-Q8_0": True}
    assert "rounding" in with_floats.selection
    alone = Formats(types="F16", to="gguf", rounding="feedback")
    unrounded = secateur.plan(model, Pruning(drop=0.0), alone, statistics=stats)
    assert "rounding" not in unrounded.selection
    pruned = secateur.plan(model, Pruning(drop=0.0), Formats(to="safetensors"), statistics=stats)
    assert "rounding" not in pruned.selection
    other = tmp_path / "other.safetensors"
    other.write_bytes(stats.read_bytes())
    with pytest.raises(PlanError, match="the plan rounds with the Gram matrices of sha256"):
        secateur.apply(plan, tmp_path / "out", statistics=other)
    with pytest.raises(PlanError, match="calibrate with --gram own"):
        decide(model, other, "feedback")
    assert "rounding" not in decide(model, other, None).selection
    assert not (tmp_path / "out").exists()


def test_a_plan_names_matrices_of_few_tokens_and_unseen_experts_are_to_nearest(
    model: Checkpoint, observed: Callable[..., Path], tmp_path: Path
) -> None:
    assert not [note for note in decide(model, observed("own"), None).notes if "fewer" in note]
    stats = tmp_path / "few.safetensors"
    sampling = Sampling(0, gram="own", gram_file=gram_path(stats))
    save(calibrate(model, corpus([("code", "a", 60)]), sampling=sampling), stats)
    tokens = GramFile(gram_path(stats)).tokens()
    plan = decide(model, stats, "feedback")
    (note,) = (note for note in plan.notes if note.startswith("feedback: "))
    every = [count for counts in tokens.values() for count in counts]
    assert note.startswith(f"feedback: {len(every)} of {len(every)} Gram matrices come of fewer")
    unused = sum(count < LEAST_TOKENS for count in every)
    assert f"; {unused} of fewer than {LEAST_TOKENS}, whose weights are rounded to nearest" in note
    down = next(name for name in tokens if name.endswith("layers.0.experts.down_proj"))
    name = min((name for name in tokens if len(tokens[name]) > 1), key=lambda one: min(tokens[one]))
    least = min(tokens[name])
    assert f"{name} of expert {tokens[name].index(least)}: {least} for 64 columns" in note
    data = []
    for rounding in ("feedback", "nearest"):
        out = tmp_path / rounding
        write(decide(model, stats, rounding), stats, out)
        (path,) = out.glob("*Q4_0.gguf")
        data.append(read_gguf(path).data("blk.0.ffn_down_exps.weight").reshape(model.experts, -1))
    seen = np.array(tokens[down]) >= LEAST_TOKENS
    assert (data[0] == data[1]).all(1).tolist() == (~seen).tolist() and 0 < seen.sum() < len(seen)


def test_factors_are_dropped_when_there_are_too_many(
    model: Checkpoint, observed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.outputs.feedback.FACTOR_BYTES", 3 * 4 * 64 * 64)
    file = GramFile(gram_path(observed("own")))
    keep = dict.fromkeys(model.moe_layers, tuple(range(model.experts)))
    feedback = Feedback(file, model.family, keep)
    down = next(name for name in model.specs if name.endswith("experts.down_proj"))
    first = None
    for expert in range(model.experts):
        handle = feedback.of([down], expert, 64, 0)
        assert handle is not None
        factor = handle.get(Groups(32))
        assert factor is not None
        first = factor if first is None else first
        assert len(feedback._held) <= 3
    again = feedback.of([down], 0, 64, 0)
    assert again is not None and first is not None
    made = again.get(Groups(32))
    assert made is not None and made is not first
    assert np.array_equal(made.feedback, first.feedback)


def test_factors_that_blocks_ask_for_in_turn_are_made_once(
    model: Checkpoint, observed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix in several types has a factor for each division of a row, all larger than the room
    for them; and threads are at two matrices at a time."""
    monkeypatch.setattr("secateur.outputs.feedback.FACTOR_BYTES", 1)
    made: list[Groups] = []

    def count(gram: Any, groups: Groups, tokens: int, threads: int) -> Any:
        made.append(groups)
        return factorize(gram, groups, tokens, threads)

    monkeypatch.setattr("secateur.outputs.feedback.factorize", count)
    file = GramFile(gram_path(observed("own")))
    keep = dict.fromkeys(model.moe_layers, tuple(range(model.experts)))
    feedback = Feedback(file, model.family, keep)
    down = next(name for name in model.specs if name.endswith("experts.down_proj"))
    kinds = [Groups(16), Groups(32), Groups(32, in_file_order=True)]
    for _ in range(3):  # blocks of rows
        for expert in (0, 1):
            for groups in kinds:
                handle = feedback.of([down], expert, 64, 0)
                assert handle is not None and handle.get(groups) is not None
    assert made == kinds * 2
    handle = feedback.of([down], 2, 64, 0)
    assert handle is not None and handle.get(kinds[0]) is not None
    assert {key.expert for key in feedback._held} == {1, 2}


def test_who_waits_for_an_experts_factor_makes_the_next_ones(
    model: Checkpoint, observed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, ahead = threading.Event(), threading.Event(), threading.Event()
    made: list[int] = []

    def make(self: Feedback, which: Any) -> Any:
        made.append(which.expert)
        if which.expert == 0:
            begun.set()
            assert go_on.wait(60)
        else:
            ahead.set()
        return original(self, which)

    original = Feedback._make
    monkeypatch.setattr(Feedback, "_make", make)
    keep = dict.fromkeys(model.moe_layers, tuple(range(model.experts)))
    feedback = Feedback(GramFile(gram_path(observed("own"))), model.family, keep, workers=2)
    down = next(name for name in model.specs if name.endswith("experts.down_proj"))
    first, second = (feedback.of([down], expert, 64, 0) for expert in (0, 1))
    assert first is not None and second is not None
    with ThreadPoolExecutor(2) as pool:
        makes = pool.submit(first.get, Groups(32))
        assert begun.wait(60)
        waits = pool.submit(first.get, Groups(32))
        assert ahead.wait(60) and not makes.done()
        go_on.set()
        assert makes.result(60) is waits.result(60) is not None
    assert second.get(Groups(32)) is not None
    assert made == [0, 1]


def test_the_command_line(model: Checkpoint, run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [[4 + (7 * n * m + n) % 90 for n in range(40)] for m in range(1, 9)]
    rows.write_text(
        "".join(json.dumps({"input_ids": ids, "category": "a"}) + "\n" for ids in lines)
    )
    stats, plan, out = (tmp_path / name for name in ("st", "plan.json", "out"))
    made = run(
        "calibrate", model.path, rows=rows, gram="own", reroute_tokens=0, out=stats, workers=1
    )
    assert made.code == 0, made.err
    assert "Gram matrices take about" in made.err
    options = {"stats": stats, "drop": 0.25, "criterion": "reap", "types": "Q4_0", "to": "gguf"}
    assert run("plan", model.path, out=plan, rounding="feedback", **options).code == 0
    refused = run("apply", plan, stats=stats, out=out, device="cuda:97")
    assert refused.code == 2 and "CUDA devices here" in refused.err
    applied = run("apply", plan, stats=stats, out=out, workers=1)
    assert applied.code == 0, applied.err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["selection"]["rounding"]["gram"] == "own"
    assert manifest["codes_chosen_on"] == "cpu"
    near = run("plan", model.path, out=tmp_path / "near", rounding="nearest", **options)
    assert near.code == 0, near.err
    refused = run("apply", tmp_path / "near", stats=stats, out=tmp_path / "n", device="cuda")
    assert refused.code == 2 and "this plan rounds to nearest" in refused.err
    assert run("verify", out).code == 0
    gram_path(stats).unlink()
    refused = run("plan", model.path, rounding="feedback", **options)
    assert (refused.code, refused.out) == (2, "")
    assert "calibrate with --gram own" in refused.err


def shrink(model: Checkpoint, out: Path, rounding: Any, **more: Any) -> list[str]:
    """What it said; Q4_0 of three quarters of the experts, not measured."""
    said: list[str] = []
    request = ShrinkRequest(
        pruning=Pruning(drop=0.25, criterion="frequency"),
        formats=Formats(to="gguf", types="Q4_0", rounding=rounding),
        measuring=None,
        **more,
    )
    secateur.shrink(model, out, request, workers=1, on_message=said.append)
    return said


def test_shrink_makes_keeps_and_finds_gram_matrices(
    model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `rounding="feedback"` alone; a second run from the statistics in the output gives the
    same file by itself, until the cache is cleaned, which it says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    lines = [[4 + (7 * n * m + n) % 90 for n in range(40)] for m in range(1, 9)]
    rows.write_text(
        "".join(json.dumps({"input_ids": ids, "category": "a"}) + "\n" for ids in lines)
    )
    calibration = secateur.Calibration(rows=rows, reroute_tokens=0, held_out=None)
    first, again = tmp_path / "first", tmp_path / "again"
    said = shrink(model, first, "feedback", calibration=calibration)
    assert any("Gram matrices, kept in the cache to make other sizes with" in one for one in said)
    job = yaml.safe_load((first / "job.yaml").read_text())
    assert (job["formats"]["rounding"], job["calibration"]["gram"]) == ("feedback", "own")
    assert not list(first.rglob("*gram*"))
    (made,) = (path for path in first.glob("*.gguf") if "imatrix" not in path.name)
    assert read_gguf(made).value("secateur.rounding") == "feedback (own)"
    plain = tmp_path / "plain"  # the same text again, which the matrices in the cache are of
    shrink(model, plain, None, calibration=calibration)
    assert "secateur.rounding" not in read_gguf(plain / made.name).metadata
    assert yaml.safe_load((plain / "job.yaml").read_text())["formats"]["rounding"] == "nearest"
    kept = first / "evidence/statistics.safetensors"
    said = shrink(model, again, None, statistics=kept)
    assert yaml.safe_load((again / "job.yaml").read_text())["formats"]["rounding"] == "feedback"
    assert (again / made.name).read_bytes() == made.read_bytes()
    (file,) = (file for file in list_cache() if file.entry.what == "Gram matrices")
    assert (file.damage, file.entry.model) == (None, model.name)
    file.entry.path.unlink()
    with pytest.raises(PlanError, match="calibrate with --gram own"):
        shrink(model, tmp_path / "none", "feedback", statistics=kept)
    said = shrink(model, tmp_path / "nearest", None, statistics=kept)
    assert any(one.startswith("levels are the nearest ones") for one in said)
    job = yaml.safe_load((tmp_path / "nearest/job.yaml").read_text())
    assert job["formats"]["rounding"] == "nearest"


def logits_of(source: WeightSource, ids: list[int]) -> NDArray[np.float32]:
    """[tokens, vocabulary]: what our forward gives on one document."""
    count = len(ids)
    places = np.arange(count, dtype=np.int32)
    row = Row(np.array(ids), np.zeros(count, np.int32), places, "any", (0,))
    hidden = source.family.number(source.config, "hidden")
    with ForwardPass(source, make_micro_batches([row], hidden)) as forward:
        for layer in range(source.family.number(source.config, "layers")):
            with forward.load_layer(layer) as module:
                forward.run(module, layer)
        with forward.load_head():
            (batch,) = forward.batches
            return np.asarray(forward.logits(batch, torch.arange(count)).numpy())


@pytest.mark.slow
def test_llama_cpp_and_mlx_lm_read_such_files_as_we_do(tmp_path: Path) -> None:
    """gemmule: llama.cpp's answers agree as before; mlx-lm's logits, in float32, are our forward's
    with the decoded weights."""
    import mlx.core as mx
    from mlx_lm import load

    mx.set_default_device(mx.cpu)
    stats = tmp_path / "stats.safetensors"
    request = secateur.Calibration(corpus="gemmule", reroute_tokens=0, gram="shared")
    secateur.calibrate("gemmule", stats, request)
    agreement: dict[str, float] = {}
    for rounding in ("nearest", "feedback"):
        formats = Formats(to="gguf,mlx", types="Q3_K_M", recipes=(RECIPES[1],), rounding=rounding)
        plan = secateur.plan("gemmule", Pruning(drop=0.0), formats, statistics=stats)
        out = tmp_path / rounding
        secateur.apply(plan, out, statistics=stats)
        (gguf,) = (path for path in out.glob("*.gguf") if "imatrix" not in path.name)
        measuring = Measuring(per_domain=2, real_engine=True)
        report = secateur.measure(gguf, "gemmule", measuring, work=tmp_path / "work", workers=1)
        found = report.artefacts[0].measurements
        agreement[rounding] = next(
            one.value for one in found if one.name == "engine_top1_agreement"
        )
        network, _ = load(str(out / "mlx-m3"))
        network.set_dtype(mx.float32)  # bfloat16 would hide what is compared
        ids = list(range(5, 400, 11))
        theirs = np.array(network(mx.array([ids])))[0]
        artefact = open_artefact(out / "mlx-m3", open_checkpoint("gemmule"))
        ours = logits_of(artefact.source, ids)
        assert np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max()
    assert agreement["feedback"] > agreement["nearest"] - 0.03
    assert agreement["feedback"] > 0.9


@pytest.mark.slow
def test_codebook_types_take_feedback_too(tmp_path: Path) -> None:
    """Rows that superblocks divide; outputs of a layer over the inputs that were observed."""
    widths = dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size"), 256)
    save_bf16 = partial(save_tiny, dtype=torch.bfloat16)
    model = save_model(tmp_path / "model", save_bf16, {**WIDER, **widths})
    stats, types = tmp_path / "s.safetensors", ("IQ3_XXS", "IQ2_S", "IQ1_S", "IQ1_M")
    documents = [("code" if n % 3 else "prose", f"{n:02d}", 60) for n in range(12)]
    save(
        calibrate(
            model, corpus(documents), sampling=Sampling(40, gram="own", gram_file=gram_path(stats))
        ),
        stats,
    )
    made = {}
    for rounding, workers in (("nearest", 1), ("feedback", 1), ("feedback", 3)):
        plan = secateur.plan(
            model, Pruning(drop=0.0), Formats(types=types, to="gguf", rounding=rounding),
            statistics=stats,
        )  # fmt: skip
        out = tmp_path / f"{rounding}-{workers}"
        made[out.name] = write(plan, stats, out, workers)
    assert made["feedback-1"] == made["feedback-3"]
    gram = GramFile(gram_path(stats))
    for name in ("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        original = (model.read(name).array.astype(np.uint32) << 16).view(np.float32)
        found = gram.input(gram.description.shared_by[name])
        upper = np.triu(whole_matrix(found.sums[0], found.columns))
        whole = upper + np.triu(upper, 1).T
        for kind in types:
            errors = []
            for rounding in ("nearest-1", "feedback-1"):
                (path,) = (tmp_path / rounding).glob(f"*-{kind}.gguf")
                off = original - open_artefact(path, model).source.tensor(name).numpy()
                errors.append(float(((off @ whole) * off).sum()))
            assert errors[1] < 0.6 * errors[0], (name, kind, errors)
