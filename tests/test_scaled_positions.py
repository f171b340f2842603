"""YaRN and linear scaling of positions in a GGUF: llama.cpp computes with it what transformers
computes, behind the original context too, and what it would compute otherwise is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from test_decode import write
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from secateur import Formats, Pruning, apply, plan
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import CheckpointError, FormatError
from secateur.families.registry import family_of
from secateur.families.rope import scaling_of, yarn_attention
from secateur.formats.gguf.container import Value
from secateur.formats.gguf.metadata import model_metadata
from secateur.outputs.registry import open_artefact
from secateur.serving.teacher_forced_logits import run_llama_cpp

GOLDEN = Path(__file__).parent / "golden/convert"
ORIGINAL = 256
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
"""As Qwen3's model cards advise it for long contexts."""
KINDS: dict[str, dict[str, Any]] = {
    "yarn": YARN,
    "yarn, attention as given": {**YARN, "attention_factor": 1.5},
    "yarn, attention of two scales": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.4},
    "linear": {"rope_type": "linear", "factor": 4.0},
}
DOCUMENT = 3 * ORIGINAL
CONFIG = json.loads((GOLDEN / "single/config.json").read_text())
_SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 64, "num_experts_per_tok": 2, "max_position_embeddings": 4 * ORIGINAL,
    "intermediate_size": 64,
}  # fmt: skip


def save_qwen3(folder: Path, scaling: Mapping[str, Any]) -> None:
    config = transformers.Qwen3MoeConfig(
        **_SIZES, vocab_size=266, moe_intermediate_size=32, num_experts=4, norm_topk_prob=True,
        mlp_only_layers=[], rope_parameters={"rope_theta": 1e4, **scaling},
    )  # fmt: skip
    save_random(transformers.Qwen3MoeForCausalLM(config), folder, "single")


def save_mixtral(folder: Path, scaling: Mapping[str, Any]) -> None:
    config = transformers.MixtralConfig(
        **_SIZES, vocab_size=424, num_local_experts=4, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_theta": 1e4, **scaling},
    )  # fmt: skip
    save_random(transformers.MixtralForCausalLM(config), folder, "pieces")


def save_random(model: Any, folder: Path, tokenizer: str) -> None:
    """A model that looks closely at where a token stands."""
    torch.manual_seed(6)
    with torch.no_grad():
        for name, value in model.named_parameters():
            wide = 0.3 if "q_proj" in name or "k_proj" in name else 0.1
            value.copy_(torch.randn(value.shape) * wide + ("norm" in name))
    model.to(torch.bfloat16).save_pretrained(folder)
    for path in (GOLDEN / tokenizer).iterdir():
        if path.name.startswith("tokenizer"):
            shutil.copy(path, folder)


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def tokens() -> list[int]:
    return np.random.default_rng(3).integers(5, 250, DOCUMENT).tolist()


def of_transformers(folder: Path, **changed: Any) -> NDArray[np.float64]:
    """[DOCUMENT, V]: log-probabilities."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **changed
    )
    with torch.inference_mode():
        return log_softmax(model.eval()(torch.tensor([tokens()])).logits[0].numpy())


def of_llama_cpp(path: Path) -> NDArray[np.float64]:
    with run_llama_cpp(path, context=DOCUMENT, experts=(2, 2)) as engine:
        rows = list(engine.run(tokens(), range(DOCUMENT)))
    return log_softmax(np.concatenate([part.logits for part in rows]))


def divergence(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.exp(first) * (first - second)).sum(-1)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("qwen3_moe", "yarn, attention as given"),
        *(
            pytest.param("qwen3_moe", kind, marks=pytest.mark.slow)
            for kind in KINDS
            if kind != "yarn, attention as given"
        ),
        *(pytest.param("mixtral", kind, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_llama_cpp_computes_what_transformers_computes(
    family: str, kind: str, tmp_path: Path
) -> None:
    save = {"qwen3_moe": save_qwen3, "mixtral": save_mixtral}[family]
    save(tmp_path / "model", KINDS[kind])
    decided = plan(tmp_path / "model", Pruning(drop=0.0), Formats(to="gguf", types=("F32",)))
    apply(decided, tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.gguf")
    theirs, ours = of_transformers(tmp_path / "model"), of_llama_cpp(path)
    far = divergence(theirs, ours)[ORIGINAL:]
    assert np.quantile(far, 0.95) < 1e-6
    # Without the scaling, or with YaRN's own attention factor, it would show.
    others = [{"rope_type": "default"}]
    if KINDS[kind] is not YARN and kind != "linear":
        others.append(YARN)
    for other in others:
        config = transformers.AutoConfig.from_pretrained(tmp_path / "model")
        config.rope_parameters = {"rope_theta": 1e4, **other}
        without = of_transformers(tmp_path / "model", config=config)
        assert np.median(divergence(theirs, without)[ORIGINAL:]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_qwen3, save_mixtral])
def test_llama_cpp_reads_no_other_numbers_of_yarn(save: Any, tmp_path: Path) -> None:
    """Hence they are refused where they are not what it computes with, and do not count in a file
    that is measured."""
    save(tmp_path / "model", YARN)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert checkpoint.family.gguf is not None
    prefix = f"{checkpoint.family.gguf.architecture}.rope.scaling.yarn_"
    numbers = {"beta_fast": 4.0, "beta_slow": 2.0, "attn_factor": 3.0, "ext_factor": 0.5}
    keys = {f"{prefix}{name}": Value("f32", number) for name, number in numbers.items()}
    plain = write(checkpoint, tmp_path / "a.gguf", "F32", vocabulary=True)
    more = write(checkpoint, tmp_path / "b.gguf", "F32", vocabulary=True, keys=keys)
    assert np.array_equal(of_llama_cpp(plain), of_llama_cpp(more))
    assert open_artefact(more, checkpoint).source.names()


def test_a_file_is_measured_under_the_scaling_that_it_was_made_with(tmp_path: Path) -> None:
    save_qwen3(tmp_path / "model", YARN)
    checkpoint = open_checkpoint(tmp_path / "model")
    path = write(checkpoint, tmp_path / "a.gguf", "F32")
    assert open_artefact(path, checkpoint).source.names()
    shutil.copytree(tmp_path / "model", tmp_path / "plain")
    config = json.loads((tmp_path / "plain/config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    (tmp_path / "plain/config.json").write_text(json.dumps(config))
    plain = open_checkpoint(tmp_path / "plain")
    with pytest.raises(FormatError, match=r"rope\.scaling\.factor is 4\.0, which the original's"):
        open_artefact(path, plain)
    path = write(plain, tmp_path / "b.gguf", "F32")
    with pytest.raises(FormatError, match=r"has no qwen3moe\.rope\.scaling\.factor, but the or"):
        open_artefact(path, checkpoint)


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_the_keys_are_the_converters(place: str, key: str) -> None:
    """In its order, whatever the config's spelling; the attention factor is said where it differs
    from YaRN's own."""
    settings = {key if name == "rope_type" else name: value for name, value in YARN.items()}
    config = {**CONFIG, place: settings}
    found = model_metadata(family_of(config), config, (), "x", 1)
    expected = {
        "qwen3moe.rope.scaling.type": Value("string", "yarn"),
        "qwen3moe.rope.scaling.factor": Value("f32", 4.0),
        "qwen3moe.rope.scaling.original_context_length": Value("u32", ORIGINAL),
        "qwen3moe.rope.freq_base": Value("f32", CONFIG["rope_theta"]),
    }
    rotary = {name: value for name, value in found.items() if ".rope." in name}
    assert list(rotary.items()) == list(expected.items())
    config = {**config, place: {**settings, "attention_factor": 2 * (0.1 * math.log(4) + 1)}}
    more = model_metadata(family_of(config), config, (), "x", 1)
    assert more.pop("qwen3moe.rope.scaling.attn_factor").value == pytest.approx(2)
    assert more == found


def test_without_an_original_context_it_is_the_models_own() -> None:
    config = {**CONFIG, "rope_scaling": {"rope_type": "yarn", "factor": 2}}
    found = model_metadata(family_of(config), config, (), "x", 1)
    original = found["qwen3moe.rope.scaling.original_context_length"]
    assert original.value == CONFIG["max_position_embeddings"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"attention_factor": 1.3},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
        {"mscale": 0.707, "mscale_all_dim": 0.4},
        {"mscale": 0.707},
        {"mscale": 0.0, "mscale_all_dim": 0.4},
        {"factor": 1.0, "mscale": 0.707, "mscale_all_dim": 0.4},
        {"attention_factor": None, "mscale_all_dim": None},
    ],
)
def test_the_attention_factor_is_that_of_transformers(more: dict[str, Any]) -> None:
    settings = {"rope_theta": 1e4, **YARN, **more}
    config = transformers.Qwen3MoeConfig(**_SIZES, rope_parameters=deepcopy(settings))
    _, expected = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    assert yarn_attention(scaling_of({"rope_parameters": settings})) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_fast": 16}, "rope_scaling.beta_fast = 16, and llama.cpp's qwen3moe computes only"),
        ({"beta_slow": 2.0}, "rope_scaling.beta_slow = 2.0, and llama.cpp's qwen3moe computes"),
        ({"truncate": False}, "rope_scaling.truncate = False, and llama.cpp's qwen3moe computes"),
        ({"truncate": "no"}, "truncate = 'no', "),
        ({"factor": None}, "factor = None, expected a number from 1 on"),
        ({"factor": 0.5}, "factor = 0.5, expected a number from 1 on"),
        ({"factor": True}, "factor = True, expected a number"),
        ({"attention_factor": "2"}, "attention_factor = '2', expected a number from"),
        ({"attention_factor": 0}, "attention_factor = 0, expected a number from"),
        ({"original_max_position_embeddings": 0}, "embeddings = 0, expected a number from 1 on"),
        ({"original_max_position_embeddings": 9.5}, "for rope.scaling.original_context_length, "),
        ({"rope_type": "longrope"}, "rotary embedding 'longrope', and llama.cpp's qwen3moe"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    change: dict[str, Any], message: str
) -> None:
    config = {**CONFIG, "rope_scaling": {**YARN, **change}}
    with pytest.raises(CheckpointError, match=message):
        model_metadata(family_of(config), config, (), "x", 1)


def test_two_places_that_differ_are_refused() -> None:
    both = {"rope_scaling": YARN, "rope_parameters": {**YARN, "factor": 2.0}}
    with pytest.raises(CheckpointError, match="other settings in rope_parameters than in rope_sca"):
        model_metadata(family_of(CONFIG), {**CONFIG, **both}, (), "x", 1)
    both["rope_parameters"] = YARN
    assert model_metadata(family_of(CONFIG), {**CONFIG, **both}, (), "x", 1)
