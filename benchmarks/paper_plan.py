"""A calibration of a model of a trillion parameters, on paper: bytes, hours, disks.

    python benchmarks/paper_plan.py

No such model was run. The shape is Kimi K2's as its config publishes it; parameters, active
parameters and the work of a token are counted by the code that counts them for any model, from a
config. Rates are those that device.json measured on one H100 with a model of 26B parameters; what
is assumed beyond that is in ASSUMED. The page docs/how-to/one-trillion.md shows the arithmetic; its
tables are made from the result of this script.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from goals import result_path, write_result

from secateur.calibration.cost import cost_of, limit_sample
from secateur.checkpoint.inspection import inspect_checkpoint
from secateur.checkpoint.reader import Checkpoint, open_shape
from secateur.statistics.token_sample import REROUTE_TOKENS

SAMPLES, TOKENS = 22_000, 45_056_000
"""Samples of 2,048 tokens each."""
SHAPE = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 163840,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "n_shared_experts": 1,
    "n_routed_experts": 384,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.827,
    "scoring_func": "sigmoid",
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_nextn_predict_layers": 0,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-06,
    "rope_theta": 50000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
"""Kimi K2's config.json, with the model_type of the family that it is built as."""


class Assumed(NamedTuple):
    """What was not measured."""

    gpus_of_a_machine: int = 8
    start_seconds: float = 60.0
    """of a worker: Ray, torch, opening the model"""
    hosts_read: float = 5.5e9
    """bytes/s that a machine's NVMe disks are read at; a row of the table is made with the rate
    that was measured on the machine of the H100"""
    network: float = 1.25e9
    """bytes/s between a store and the machines' disks, for each machine (10 Gbit/s)"""
    head_flops: float = 2e12
    """of 32-bit products of the machine that merges, whose CPU solves `rerouted`"""


ASSUMED = Assumed()


class Rates(NamedTuple):
    """What device.json says of one H100."""

    flops: float
    """of the pass with all sums, at 262,144 tokens: share of the matrix limit times that limit"""
    disk: float
    """bytes/s, streamed cold, at 32,768 tokens"""
    copy: float
    """bytes/s to the device when the disk does not count (streamed warm, 32,768 tokens)"""


def rates_of(device: Mapping[str, Any]) -> Rates:
    """The rates in device.json's later run."""
    found = device["final"]
    sums = found["sums 262144"]
    return Rates(
        flops=sums["share_of_matrix_limit"] * found["ceilings"]["bf16_flops"],
        disk=found["streamed cold 32768"]["bytes_per_second"],
        copy=found["streamed warm 32768"]["bytes_per_second"],
    )


def shape_of() -> Checkpoint:
    """The model from its config alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(SHAPE))
        return open_shape(path)


class _Text(NamedTuple):
    tokens: int


def plan_of(device: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of the page, from the rates that were measured."""
    model, rates = shape_of(), rates_of(device)
    counted = inspect_checkpoint(model)
    work = cost_of(model, _Text(TOKENS))  # type: ignore[arg-type]
    weights = {"FP8 (as published)": counted.parameters, "BF16": 2 * counted.parameters}
    compute = work.forward / rates.flops
    read = counted.parameters / ASSUMED.hosts_read
    copy = 2 * counted.parameters / rates.copy
    part = {
        "start_seconds": ASSUMED.start_seconds,
        "compute_seconds": round(compute, 1),
        "read_seconds": round(max(read, copy), 1),
    }
    alone = {**part, "read_seconds": round(max(read * ASSUMED.gpus_of_a_machine, copy), 1)}
    hidden = model.family.number(model.config, "hidden")
    return {
        "what": "on paper: no model of this size was run",
        "samples": SAMPLES,
        "tokens": TOKENS,
        "parameters": counted.parameters,
        "active": counted.active,
        "flops_per_token": work.forward / TOKENS,
        "weights_bytes": weights,
        "rates": {name: float(f"{value:.4g}") for name, value in rates._asdict().items()},
        "assumed": ASSUMED._asdict(),
        "compute_gpu_hours": round(compute / 3600, 2),
        "tokens_per_second_of_a_gpu": round(rates.flops * TOKENS / work.forward),
        "read_seconds": {
            "measured disk": round(counted.parameters / rates.disk, 1),
            "assumed disks": round(read, 1),
            "assumed disks, every GPU of a machine for itself": alone["read_seconds"],
            "copy to the device": round(copy, 1),
        },
        "part": part,
        "tokens_that_hide_reading": round(part["read_seconds"] * TOKENS / compute),
        "fetch_seconds": round(counted.parameters / ASSUMED.network),
        "clusters": [
            {
                **_row(gpus, parts, part),
                "hours_alone": _row(gpus, parts, alone)["hours"],
                "hidden_states_bytes_of_a_gpu": round(TOKENS / parts * hidden * 2),
            }
            for gpus, parts in CLUSTERS
        ],
        "sampled_tokens": limit_sample(model, REROUTE_TOKENS),
        "rerouted_tflop": round(work.reroute / 1e12),
        "rerouted_hours": round(work.reroute / ASSUMED.head_flops / 3600, 1),
        "statistics_bytes": statistics_bytes(model),
        "sample_bytes": sample_bytes(model),
    }


CLUSTERS = ((8, 8), (8, 64), (16, 16), (64, 64), (64, 128), (64, 512))
"""(GPUs, parts)"""


def part_seconds(part: Mapping[str, float], parts: int) -> float:
    """Of one of so many parts: the model is read while the part computes."""
    return part["start_seconds"] + max(part["read_seconds"], part["compute_seconds"] / parts)


def _row(gpus: int, parts: int, part: Mapping[str, float]) -> dict[str, Any]:
    """How long so many GPUs take for so many parts, none of them lost."""
    one, rounds = part_seconds(part, parts), math.ceil(parts / gpus)
    return {
        "gpus": gpus,
        "parts": parts,
        "tokens_of_a_part": round(TOKENS / parts),
        "computing_seconds": round(part["compute_seconds"] / parts, 1),
        "part_seconds": round(one, 1),
        "hours": round(rounds * one / 3600, 2),
        "gpu_hours": round(rounds * one * gpus / 3600, 1),
        "limit": "computing"
        if part["compute_seconds"] / parts > part["read_seconds"]
        else "reading",
    }


def statistics_bytes(model: Checkpoint) -> int:
    """Of the statistics' largest sums, which are of every input of every expert: what its gate and
    up see, and what its down sees, 64 bits each."""
    family, config = model.family, model.config
    hidden, width = family.number(config, "hidden"), family.number(config, "expert_width")
    moe = len(model.moe_layers)
    return 8 * moe * model.experts * (hidden + width)


def sample_bytes(model: Checkpoint) -> int:
    """Of the token sample (statistics.sample_file): 2 H + 4 E + 6 K for each token and layer."""
    tokens = limit_sample(model, REROUTE_TOKENS)
    hidden = model.family.number(model.config, "hidden")
    each = 2 * hidden + 4 * model.experts + 6 * model.top_k
    return tokens * len(model.moe_layers) * each


def main() -> None:
    device = json.loads((Path(__file__).parent / "device.json").read_text("utf-8"))
    found = plan_of(device)
    print(json.dumps(found, indent=1))
    write_result(result_path("paper_plan"), found)


if __name__ == "__main__":
    main()
