"""Every artefact is measured in one way: GGUF files decoded into the same forward."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from test_divergence import some_answers
from tiny_models import VOCAB

from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.tensors import to_float32
from secateur.errors import CheckpointError, EngineError, FormatError, InputError
from secateur.evaluation.scores import score
from secateur.evaluation.tokens.teacher import teach
from secateur.formats.ggml.codec import encode
from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.container import TensorInfo, Value
from secateur.formats.gguf.metadata import model_metadata
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.tensors import gguf_tensors
from secateur.formats.gguf.tokenizer import tokenizer_metadata
from secateur.formats.gguf.writer import TensorChunk, write_gguf
from secateur.forward import weights
from secateur.forward.weights import CheckpointWeights, StackOnDisk
from secateur.outputs.gguf.weights import GgufWeights
from secateur.outputs.registry import open_artefact
from secateur.serving.llama_server import llama_server

Tiny = Callable[[str], Checkpoint]
Change = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]

ARCHITECTURE = "gemma4"


def write(
    checkpoint: Checkpoint,
    path: Path,
    kind: str,
    *,
    keys: Mapping[str, Value | None] | None = None,
    change: Change = lambda _, values: values,
    rename: Callable[[str], str | None] = lambda name: name,
    vocabulary: bool = False,
) -> Path:
    """A GGUF of a checkpoint: matrices in `kind` (F32 where its blocks do not fit)."""
    family = checkpoint.family
    tensors = gguf_tensors(
        family, checkpoint.config, {name: spec.shape for name, spec in checkpoint.specs.items()}
    )
    infos, chunks = [], []
    for tensor in tensors:
        arrays = (
            [tensor.values]
            if tensor.values is not None
            else [to_float32(checkpoint.read(source)) for source in tensor.sources]
        )
        stacked = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
        values = change(tensor.info.name, stacked.reshape(tensor.info.shape))
        name = rename(tensor.info.name)
        if name is None:
            continue
        fits = tensor.info.type != "F32" and values.shape[-1] % TYPES[kind].block == 0
        info = TensorInfo(name, kind if fits else "F32", values.shape)
        rows = np.ascontiguousarray(values.reshape(-1, values.shape[-1]), np.float32)
        infos.append(info)
        chunks.append(TensorChunk(name, encode(rows, info.type).reshape(-1)))
    metadata = model_metadata(family, checkpoint.config, infos, "tiny", 1)
    if vocabulary:
        size = next(info.shape[0] for info in infos if info.name == "token_embd.weight")
        rules = gguf_rules(family).tokenizer
        metadata |= tokenizer_metadata(checkpoint.path, checkpoint.config, rules, size)
    given = {**metadata, **(keys or {})}
    write_gguf(path, {k: v for k, v in given.items() if v is not None}, infos, chunks)
    return path


def divergence(checkpoint: Checkpoint, path: Path) -> NDArray[np.float64]:
    answers = some_answers()
    teacher = teach(CheckpointWeights(checkpoint), checkpoint.identity(), answers)
    artefact = open_artefact(path, checkpoint)
    return score(teacher, artefact.source, artefact.identity, answers).arrays["kl"]


def test_a_float32_gguf_is_the_original_itself(tiny: Tiny, tmp_path: Path) -> None:
    assert divergence(tiny("gemma4"), write(tiny("gemma4"), tmp_path / "a.gguf", "F32")).max() == 0


def test_the_text_part_of_a_wrapper_is_measured(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4_wrapper")
    assert divergence(checkpoint, write(checkpoint, tmp_path / "a.gguf", "F32")).max() == 0


def test_fewer_bits_diverge_more(tiny: Tiny, tmp_path: Path) -> None:
    found = [
        divergence(tiny("gemma4"), write(tiny("gemma4"), tmp_path / f"{kind}.gguf", kind)).mean()
        for kind in ("F16", "BF16", "Q8_0", "Q5_0", "Q4_0")
    ]
    assert 0 < found[0] < 1e-4
    assert found == sorted(found)


@pytest.mark.parametrize(("kind", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_16_bit_tensors_stay_16_bits(
    kind: str, dtype: torch.dtype, tiny: Tiny, tmp_path: Path
) -> None:
    checkpoint = tiny("gemma4")
    path = write(checkpoint, tmp_path / "a.gguf", kind)
    source = GgufWeights(read_gguf(path), checkpoint.family, checkpoint.config)
    value = source.tensor("model.layers.1.experts.down_proj")
    assert value.dtype == dtype
    assert torch.equal(
        value, CheckpointWeights(checkpoint).tensor("model.layers.1.experts.down_proj").to(dtype)
    )


@pytest.mark.parametrize("form", ["gemma4", "mixtral"])
@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
def test_experts_decoded_one_by_one_are_those_of_the_stack(
    form: str, kind: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer's stacks take gigabytes; so does joining their halves."""
    checkpoint = tiny(form)
    path = write(checkpoint, tmp_path / "a.gguf", kind)
    source = GgufWeights(read_gguf(path), checkpoint.family, checkpoint.config)
    once = divergence(checkpoint, path)
    monkeypatch.setattr(weights, "EAGER_STACK_BYTES", 0)
    names = [name for name in source.names() if ".experts." in name]
    assert len(names) == 2 * len(checkpoint.moe_layers)
    for name in names:
        stack, whole = source.experts(name), source.tensor(name)
        assert isinstance(stack, StackOnDisk)
        assert tuple(stack.shape) == tuple(whole.shape)
        assert all(torch.equal(stack[expert], whole[expert]) for expert in range(len(whole)))
    assert np.array_equal(divergence(checkpoint, path), once)


def test_names_are_those_of_the_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4")
    path = write(checkpoint, tmp_path / "a.gguf", "Q8_0")
    source = GgufWeights(read_gguf(path), checkpoint.family, checkpoint.config, workers=2)
    expected = CheckpointWeights(checkpoint)
    assert set(source.names()) == set(expected.names())
    for name in expected.names():
        got, wanted = source.tensor(name), expected.tensor(name)
        assert got.shape == wanted.shape
        assert (got - wanted).abs().max() <= wanted.abs().max() / 100


def test_the_expert_count_is_the_files_own(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4")
    kept = [0, 2, 3, 5, 7]

    def prune(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[kept] if "_exps." in name or name.endswith("ffn_gate_inp.weight") else values

    path = write(
        checkpoint,
        tmp_path / "a.gguf",
        "F32",
        change=prune,
        keys={f"{ARCHITECTURE}.expert_count": Value("u32", len(kept))},
    )
    source = GgufWeights(read_gguf(path), checkpoint.family, checkpoint.config)
    assert checkpoint.family.number(source.config, "experts") == len(kept)
    assert checkpoint.experts == 8
    assert divergence(checkpoint, path).mean() > 1e-3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": Value("string", "llama")}, "of the architecture 'llama'"),
        ({"gemma4.expert_used_count": Value("u32", 3)}, "expert_used_count is 3, but .* says 2"),
        ({"gemma4.rope.freq_base": Value("f32", 7.0)}, r"freq_base is 7\.0, but the original's"),
        ({"gemma4.attention.head_count_kv": Value("i32", (2, 2))}, "head_count_kv is"),
        ({"split.count": Value("u16", 2)}, "is part 1 of 2, which must be in its name"),
    ],
)
def test_a_file_of_another_model_is_refused(
    keys: dict[str, Value], message: str, tiny: Tiny, tmp_path: Path
) -> None:
    path = write(tiny("gemma4"), tmp_path / "a.gguf", "F32", keys=keys)
    with pytest.raises(FormatError, match=message):
        open_artefact(path, tiny("gemma4"))


def test_unknown_missing_and_strange_tensors_are_named(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4")
    name = "blk.1.ffn_down.weight"

    def renamed(to: str | None) -> Path:
        return write(
            checkpoint,
            tmp_path / "a.gguf",
            "F32",
            rename=lambda given: to if given == name else given,
        )

    with pytest.raises(FormatError, match=r"'blk\.1\.ffn_odd\.weight' is not known to the family"):
        open_artefact(renamed("blk.1.ffn_odd.weight"), checkpoint)
    with pytest.raises(FormatError, match=r"no tensor for .*layers\.1\.mlp\.down_proj\.weight'"):
        divergence(checkpoint, renamed(None))
    wide = write(
        checkpoint,
        tmp_path / "a.gguf",
        "F32",
        change=lambda given, v: np.repeat(v, 2, axis=0) if given == name else v,
    )
    with pytest.raises(CheckpointError, match=r"has shape \[64, 48\].* expects \[32, 48\]"):
        divergence(checkpoint, wide)
    turned = write(
        checkpoint,
        tmp_path / "a.gguf",
        "F32",
        change=lambda given, v: v + 1 if given == "rope_freqs.weight" else v,
    )
    with pytest.raises(FormatError, match=r"rope_freqs\.weight holds other values"):
        open_artefact(turned, checkpoint)


def test_experts_of_separate_projections_are_joined(tmp_path: Path) -> None:
    """A family whose checkpoint has one matrix per expert, and whose GGUF one stack per kind."""
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    config = transformers.Qwen3MoeConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        mlp_only_layers=[],
    )
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    assert divergence(checkpoint, write(checkpoint, tmp_path / "a.gguf", "F32")).max() == 0
    without_up = write(
        checkpoint,
        tmp_path / "b.gguf",
        "F32",
        rename=lambda name: None if name == "blk.1.ffn_up_exps.weight" else name,
    )
    with pytest.raises(FormatError, match="is made of gate, up, but the file has only gate"):
        divergence(checkpoint, without_up)


def test_a_checkpoint_folder_is_an_artefact(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4")
    found = open_artefact(checkpoint.path, checkpoint)
    assert (found.name, found.identity) == ("safetensors", checkpoint.identity())
    with pytest.raises(InputError, match="give the original that it was made from"):
        open_artefact(tiny("mixtral").path, checkpoint)
    with pytest.raises(InputError, match="neither a model folder nor a .gguf file"):
        open_artefact(tmp_path / "model.bin", checkpoint)
    with pytest.raises(FormatError, match="cannot be read"):
        open_artefact(tmp_path / "absent.gguf", checkpoint)


def test_identity_tells_files_apart(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny("gemma4")
    one = write(checkpoint, tmp_path / "a.gguf", "Q8_0")
    same = write(checkpoint, tmp_path / "b.gguf", "Q8_0")
    other = write(checkpoint, tmp_path / "c.gguf", "Q5_0")
    found = [open_artefact(path, checkpoint).identity for path in (one, same, other)]
    assert found[0] == found[1] != found[2]


@pytest.fixture(scope="module")
def gemmule() -> Checkpoint:
    return open_checkpoint("gemmule")


def test_an_engine_that_fails_says_why_and_leaves_nothing_behind(
    gemmule: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 5, 5))
    with (
        pytest.raises(EngineError, match=r"llama\.cpp did not load .*damaged\.gguf: \w+"),
        llama_server(damaged),
    ):
        pass
    path = write(gemmule, tmp_path / "gemmule.gguf", "F16", vocabulary=True)
    with (
        llama_server(path, context=64) as server,
        pytest.raises(EngineError, match=r"did not complete a prompt .*gemmule\.gguf: \S+"),
    ):
        server.complete([2] * 600, 4)
    assert [process.poll() is not None for process in started] == [True, True]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rope.scaling.type", Value("string", "yarn"), "scaling.type is 'yarn', which the orig"),
        ("rope.scaling.factor", Value("f32", 4.0), "scaling.factor is 4.0, which the original's"),
        ("rope.freq_base", None, "has no gemma4.rope.freq_base, but the original's config says"),
    ],
)
def test_other_positions_than_the_original_s_are_refused(
    key: str, value: Value | None, message: str, tiny: Tiny, tmp_path: Path
) -> None:
    """The weights are measured under the original's config, which would hide it."""
    checkpoint = tiny("gemma4")
    path = write(checkpoint, tmp_path / "a.gguf", "F32", keys={f"{ARCHITECTURE}.{key}": value})
    with pytest.raises(FormatError, match=message):
        open_artefact(path, checkpoint)


def test_keys_that_scale_nothing_are_no_difference(tiny: Tiny, tmp_path: Path) -> None:
    keys = {
        f"{ARCHITECTURE}.rope.scaling.type": Value("string", "none"),
        f"{ARCHITECTURE}.rope.scaling.factor": Value("f32", 1.0),
    }
    path = write(tiny("gemma4"), tmp_path / "a.gguf", "F32", keys=keys)
    assert open_artefact(path, tiny("gemma4")).source.names()
