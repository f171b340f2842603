"""A Mixtral as GGUF: planned from its config alone, written, loaded by llama.cpp, which then splits
text as the tokenizer does and predicts what transformers predicts with the weights in the file."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from test_gguf_llama import Host
from test_gguf_pieces import GOLDEN, NAMES, folder_of
from test_imatrix_plans import recorded
from tokenizers import Tokenizer

from secateur import Formats, Pruning, apply, fit, plan
from secateur.audit.gguf.shape import shape_of_file
from secateur.checkpoint.reader import open_checkpoint, open_shape
from secateur.checkpoint.tensors import to_float32
from secateur.errors import CheckpointError
from secateur.formats.ggml.codec import encode
from secateur.formats.gguf.container import TensorInfo, Value
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.writer import TensorChunk, write_gguf
from secateur.formats.imatrix.file import save_imatrix
from secateur.forward.weights import CheckpointWeights
from secateur.outputs.registry import open_artefact
from secateur.recipes.recipe import find_recipe

DECISIVE = 0.5
"""Natural logarithms between the best and the second token from which both engines must agree."""
MANY = Formats(to="gguf", types=("F16", "Q4_K_M"))
REAL = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16",
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "num_experts_per_tok": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
    "rope_theta": 1e6, "hidden_act": "silu", "sliding_window": None, "tie_word_embeddings": False,
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": True,
}  # fmt: skip
"""config.json of mistralai/Mixtral-8x7B-Instruct-v0.1."""


def save_model(
    folder: Path, *, fused: bool = False, head: int | None = None, width: int = 256
) -> Path:
    """A random model whose predictions are decisive, with the golden SentencePiece tokenizer."""
    torch.manual_seed(4)
    config = transformers.MixtralConfig(
        vocab_size=424, hidden_size=256, intermediate_size=width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
        max_position_embeddings=512, head_dim=head, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            wide = 0.5 if "norm" in name or "gate.weight" in name else 0.1
            value.copy_(torch.randn(value.shape) * wide + ("norm" in name))
        # The server tells no probabilities of a text's end, nor of bytes that are no character.
        model.lm_head.weight[:259] = 0
    model.half().save_pretrained(folder, save_original_format=not fused)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "convert/pieces" / name, folder)
    return folder


@pytest.fixture(scope="module", params=["published", "fused"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fused = request.param == "fused"
    path = tmp_path_factory.mktemp("mixtral") / request.param
    return save_model(path, fused=fused, head=32 if fused else None)


@pytest.fixture(scope="module")
def outputs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the model with 5 of 8 experts."""
    folder = tmp_path_factory.mktemp("out")
    drop = {"layers": {"0": {"drop": [0, 3, 4]}, "1": {"drop": [1, 2, 7]}}}
    (folder / "drop.json").write_text(json.dumps(drop))
    decided = plan(model, Pruning(drop_map=folder / "drop.json"), MANY)
    apply(decided, folder / "out")
    for form in decided.formats:
        for name, size in decided.files[form].items():
            assert (folder / "out" / name).stat().st_size == size
    return folder / "out"


def running(path: Path, original: Path) -> transformers.PreTrainedModel:
    """transformers' model of the numbers in a file."""
    source = open_artefact(path, open_checkpoint(original)).source
    config = transformers.MixtralConfig(**source.config)
    found = transformers.MixtralForCausalLM(config).float().eval()
    found.load_state_dict({name: source.tensor(name).float() for name in source.names()})
    return found


def agreement(path: Path, original: Path) -> list[float]:
    """Along what transformers generates, where it is decided: how far apart the log-probabilities
    of the next token are; infinity where llama.cpp says another one."""
    host, found, gaps = Host(path), running(path, original), []
    chance = random.Random(2)
    for _ in range(5):
        prompt = [1, *(chance.randint(300, 410) for _ in range(12))]
        made = found.generate(
            torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=None,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        ids = made.sequences[0].tolist()
        for step, logits in enumerate(made.logits):
            (first, second), (token, _) = torch.log_softmax(logits[0].double(), -1).topk(2)
            if first - second > DECISIVE:
                got, logprob = host.best(ids[: len(prompt) + step])
                gaps.append(abs(logprob - first.item()) if got == token else math.inf)
    assert len(gaps) >= 12
    return gaps


def test_llama_cpp_predicts_what_transformers_predicts(model: Path, outputs: Path) -> None:
    in_16_bits, in_4_bits = (
        agreement(path, model) for path in sorted(outputs.glob("*.gguf"), key=str)
    )
    assert max(in_16_bits) < 0.1
    # Activations are rounded to 8 bits for such weights, so that a token may get another expert.
    assert np.median(in_4_bits) < 0.1
    assert np.mean(np.isinf(in_4_bits)) <= 0.1


def test_all_experts_in_16_bits_are_the_original_itself(model: Path, tmp_path: Path) -> None:
    decided = plan(model, Pruning(drop=0.0), Formats(to="gguf", types=("F16",)))
    apply(decided, tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.gguf")
    source = open_artefact(path, open_checkpoint(model)).source
    expected = CheckpointWeights(open_checkpoint(model))
    assert set(source.names()) == set(expected.names())
    for name in expected.names():
        assert torch.equal(source.tensor(name).float(), expected.tensor(name).float()), name
    assert max(agreement(path, model)) < 0.1


def test_both_forms_make_one_file_with_importance_and_padding(tmp_path: Path) -> None:
    """Experts one by one or stacked, gate and up apart or in one tensor: the same bytes, and those
    that ggml makes of the rows themselves with their columns' importance."""
    drop = {"layers": {str(layer): {"drop": [1, 5]} for layer in range(2)}}
    (tmp_path / "drop.json").write_text(json.dumps(drop))
    files = []
    for fused in (False, True):
        model = save_model(tmp_path / f"form{fused:d}" / "model", fused=fused, width=160)
        matrix = recorded(open_checkpoint(model))
        save_imatrix(tmp_path / "theirs.gguf", matrix)
        padded = replace(find_recipe("Q4_K_M"), name="Q4_K_M-padded", pad=True)
        request = Formats(to="gguf", types=("Q3_K_M",), recipes=(padded,))
        pruning = Pruning(drop_map=tmp_path / "drop.json")
        decided = plan(model, pruning, request, imatrix=tmp_path / "theirs.gguf")
        out = tmp_path / f"out{fused:d}"
        apply(decided, out, imatrix=tmp_path / "theirs.gguf")
        files.append({path.name: read_gguf(path) for path in out.glob("model*.gguf")})
    published, stacked = files
    assert len(published) == 2
    assert published.keys() == stacked.keys()
    for name, file in published.items():
        assert file.tensors == stacked[name].tensors
        for tensor in file.tensors:
            assert np.array_equal(file.data(tensor), stacked[name].data(tensor)), tensor
    (plain,) = (file for name, file in published.items() if "Q3" in name)
    source = open_checkpoint(tmp_path / "form0/model")
    for tensor, rows in (
        ("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight"),
        ("blk.1.ffn_up_exps.weight", "model.layers.1.block_sparse_moe.experts.3.w3.weight"),
    ):
        numbers = to_float32(source.read(rows))
        if "attn_q" in tensor:  # 4 heads of 64 rows
            numbers = numbers.reshape(4, 2, 32, 256).swapaxes(1, 2).reshape(256, 256)
        entry, info = matrix.entries[tensor], plain.tensor(tensor)
        # Of the experts kept (0, 2, 3, ...) number 3 is the third.
        place, expert = (2, 3) if "exps" in tensor else (0, 0)
        expected = encode(numbers, info.type, entry.means()[expert])
        found = plain.data(tensor).reshape(-1, expected.nbytes)[place]
        assert np.array_equal(found, expected.reshape(-1)), tensor


def test_a_config_alone_gives_the_plan_of_the_weights(model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(model / name, tmp_path)
    types = ("F16", "Q8_0", "Q4_K_M", "IQ4_XS")
    request = Formats(to="gguf", types=types)
    drop = {"layers": {str(layer): {"drop": [6, 7]} for layer in range(2)}}
    (tmp_path / "drop.json").write_text(json.dumps(drop))
    whole = plan(model, Pruning(drop_map=tmp_path / "drop.json"), request)
    drawn = plan(tmp_path, Pruning(experts=6), request)
    assert [(t.name, t.type, t.shape, t.bytes) for t in whole.tensors] == [
        (t.name, t.type, t.shape, t.bytes) for t in drawn.tensors
    ]
    sizes = {form: drawn.file_bytes(form) for form in drawn.formats}
    named = len(model.name) - len(tmp_path.name)
    assert {form: whole.file_bytes(form) for form in whole.formats}.keys() == sizes.keys()
    for form, size in sizes.items():
        assert size is not None
        assert abs((whole.file_bytes(form) or 0) - size) <= 32 + abs(named)


def test_the_real_model_is_planned_and_fitted_from_its_config(tmp_path: Path) -> None:
    path = tmp_path / "Mixtral-8x7B" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(REAL))
    shape = open_shape(path)
    assert sum(spec.elements for spec in shape.specs.values()) == 46_702_792_704
    decided = plan(path, Pruning(drop=0.0), Formats(to="gguf", types=("F16", "Q4_K_M")))
    types = {t.name: t.type for t in decided.of("gguf-Q4_K_M")}
    # Eight experts: values and keys in 8 bits, the attention's output in 5.
    assert types["blk.7.attn_v.weight"] == types["blk.7.attn_k.weight"] == "Q8_0"
    assert types["blk.7.attn_output.weight"] == "Q5_K"
    assert decided.output("gguf-F16").parameters == 46_702_792_704
    rows = fit(path, 26 * 2**30, experts=(6, 8), types=("Q4_K_M", "Q3_K_M")).rows
    assert {(row.experts, row.type) for row in rows} == {
        (6, "Q4_K_M"), (6, "Q3_K_M"), (8, "Q3_K_M")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sliding_window": 4096}, "sliding_window = 4096, and llama.cpp's llama computes only mo"),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "rotary embedding 'longrope', and llama.cpp's llama",
        ),
        ({"hidden_act": "gelu"}, "computes only 'silu': write safetensors instead"),
        ({"rope_theta": None}, "gives no rope.freq_base"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REAL | change))
    with pytest.raises(CheckpointError, match=message):
        plan(tmp_path, Pruning(drop=0.0), Formats(to="gguf", types=("Q8_0",)))


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_splits_text_as_the_tokenizer_does(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    apply(
        plan(folder, Pruning(drop=0.0), Formats(to="gguf", types=("F16",))),
        tmp_path / "out",
    )
    (path,) = (tmp_path / "out").glob("*.gguf")
    host = Host(path)
    tokenizer = Tokenizer.from_file(str(GOLDEN / "convert/ranked/tokenizer.json"))
    chance = random.Random(1)
    letters = "abc XYZ  \n\n\t.,'\"0123é日本🎉▁<>|\u00a0\u200b"
    texts = ["".join(chance.choices(letters, k=chance.randint(1, 60))) for _ in range(100)]
    lines = (GOLDEN.parents[1] / "secateur/gemmule/sets/test.jsonl").read_text("utf-8")
    for text in [*texts, *lines.splitlines()[:40]]:
        got = host.post("tokenize", content=text, add_special=True, parse_special=True)
        assert got["tokens"] == tokenizer.encode(text).ids, text


@pytest.mark.parametrize("experts", [0, 8])
def test_only_a_file_with_experts_is_taken_for_this_family(experts: int, tmp_path: Path) -> None:
    """llama.cpp has one architecture for it and for Llama itself, of whose template and dates an
    audit knows nothing."""
    numbers = {"block_count": 1, "attention.head_count": 4, "attention.head_count_kv": 2}
    numbers |= {"expert_count": experts} if experts else {}
    infos = (TensorInfo("token_embd.weight", "F32", (4, 8)),)
    write_gguf(
        tmp_path / "a.gguf",
        {
            "general.architecture": Value("string", "llama"),
            **{f"llama.{key}": Value("u32", number) for key, number in numbers.items()},
        },
        infos,
        [TensorChunk(infos[0].name, np.zeros(infos[0].nbytes, np.uint8))],
    )
    found = shape_of_file(read_gguf(tmp_path / "a.gguf"))
    assert (found.family.name if found.family else None) == ("mixtral" if experts else None)
    assert (found.heads, found.kv_heads) == (4, 2)
