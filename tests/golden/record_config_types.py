"""Record config_types.json: llama-quantize --dry-run on files that we plan from random configs.

Run by hand after a change of the pinned llama.cpp:
PYTHONPATH=.:tests python tests/golden/record_config_types.py BUILD/bin/llama-quantize VERSION COUNT

Nothing of a case is made by hand but its config.json: `open_shape` draws the checkpoint, the plan
decides how many experts are kept and every tensor of the F16 file, whose header the tool then
reads.
With a fourth argument (a seed) nothing is recorded: other cases are made, and all are compared.
"""

import json
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from record_llama_types import OVERRIDES, PATTERNS, dry_run, write_imatrix
from test_llama_types import summary

from secateur import Formats, Plan, PlanningAssumptions, Pruning, plan
from secateur.checkpoint.reader import open_shape
from secateur.errors import PlanError
from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.container import Metadata, TensorInfo
from secateur.outputs.gguf.layout import gguf_base, typed_layout
from secateur.outputs.gguf.tokenizer_keys import TokenizerKeys
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.recipe import Recipe, find_recipe

FAMILIES = ("gemma4_text", "qwen3_moe", "mixtral")
WIDTHS = (32, 64, 96, 100, 176, 256, 288, 512, 704, 768, 1024, 2112, 2816, 14336)
LAYERS = (1, 2, 3, 5, 6, 8, 9, 12, 16, 17, 24, 30, 32, 48, 56, 80)
LARGEST = 2**40
"""Bytes of a sparse file that any file system takes."""
ROPE = {"rope_type": "default", "rope_theta": 1e4}


def random_config(chance: random.Random, kind: str) -> dict:
    """config.json of a family with any counts and widths, awkward ones on purpose."""
    layers, head = chance.choice(LAYERS), chance.choice([32, 64, 96, 128, 256])
    heads, kv_heads = chance.choice([(16, 8), (32, 4), (8, 8), (64, 8), (12, 4), (16, 2), (4, 1)])
    experts = chance.choice([2, 3, 4, 7, 8, 8, 16, 32, 60, 90, 128, 256])
    config = {
        "model_type": kind,
        "dtype": "bfloat16",
        "vocab_size": chance.choice([256, 1000, 4096]),
        "hidden_size": chance.choice([256, 512, 768, 2816, 4096, 288, 96, 100]),
        "intermediate_size": chance.choice(WIDTHS),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": chance.random() < 0.5,
    }
    used = chance.randint(1, min(experts, 8))
    if kind == "gemma4_text":
        kinds = [chance.choice(["sliding", "sliding", "full"]) for _ in range(layers - 1)]
        return config | {
            "layer_types": [f"{name}_attention" for name in (*kinds, "full")],
            "global_head_dim": chance.choice([64, 256, 512]),
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": chance.random() < 0.7,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 256,
            "num_kv_shared_layers": 0,
            "enable_moe_block": True,
            "num_experts": experts,
            "top_k_experts": used,
            "moe_intermediate_size": chance.choice(WIDTHS[:-1]),
            "sliding_window": 512,
            "rope_parameters": {
                "sliding_attention": ROPE,
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1e6,
                },
            },
        }
    if kind == "qwen3_moe":
        return config | {
            "num_experts": experts,
            "num_experts_per_tok": used,
            "moe_intermediate_size": chance.choice(WIDTHS[:-1]),
            "norm_topk_prob": True,
            "rope_parameters": ROPE,
        }
    if chance.random() < 0.5 and config["hidden_size"] % (2 * heads) == 0:
        del config["head_dim"]
    return config | {
        "num_local_experts": experts,
        "num_experts_per_tok": used,
        "hidden_act": "silu",
        "rope_theta": 1e6,
    }


def experts_of(config: dict) -> int:
    return config.get("num_experts") or config["num_local_experts"]


def random_case(chance: random.Random, kind: str, ftype: str) -> dict:
    """A config, how many of its experts are kept, and what is asked of llama-quantize."""
    config = random_config(chance, kind)
    experts = experts_of(config)
    used = config.get("top_k_experts") or config["num_experts_per_tok"]
    asked = {"ftype": ftype, "has_imatrix": chance.random() < 0.5}
    if chance.random() < 0.2:
        asked["embedding"] = "Q8_0" if config["hidden_size"] % 32 == 0 else "F16"
    if chance.random() < 0.2:
        asked["output"] = "Q4_0" if config["hidden_size"] % 32 == 0 else "BF16"
    # A plan refuses rules that llama-quantize would ignore.
    if chance.random() < 0.3 and TYPES[FILE_TYPES[ftype].default].quantized:
        asked["patterns"] = [
            [chance.choice(PATTERNS), chance.choice(OVERRIDES)] for _ in range(chance.randint(1, 3))
        ]
    kept = experts if chance.random() < 0.4 else chance.randint(used, experts)
    return {"config": config, "kept": kept, "request": asked}


def config_of(case: dict, folder: Path) -> Path:
    """The case's config.json, the only file of a folder of its own."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "config.json"
    path.write_text(json.dumps(case["config"]))
    return path


def planned(case: dict, folder: Path) -> Plan:
    """Our plan of a case. Raises PlanError where the request cannot be met."""
    asked = case["request"]
    recipe = Recipe(
        "asked",
        asked["ftype"],
        embedding=asked.get("embedding"),
        output=asked.get("output"),
        patterns=tuple(map(tuple, asked.get("patterns", ()))),
    )
    return plan(
        config_of(case, folder),
        Pruning(experts=case["kept"]),
        Formats(to="gguf", recipes=(recipe,)),
        assumptions=PlanningAssumptions(imatrix=asked["has_imatrix"]),
    )


def unquantized(case: dict, folder: Path) -> tuple[Metadata, tuple[TensorInfo, ...]]:
    """Keys and tensors of the F16 file that we would write of a case."""
    checkpoint = open_shape(config_of(case, folder))
    keep = dict.fromkeys(checkpoint.moe_layers, tuple(range(case["kept"])))
    form = typed_layout(gguf_base(checkpoint, keep, TokenizerKeys({}, None)), find_recipe("F16"))
    return form.metadata, form.infos


def ours(case: dict, folder: Path) -> dict:
    """What our plan says of a case, in the words of its recorded answer."""
    try:
        found = planned(case, folder)
    except PlanError as error:
        return {"error": str(error)}
    (form,) = found.formats
    output = found.output(form)
    return {
        "types": summary((tensor.name, tensor.type) for tensor in found.of(form)),
        "fallbacks": output.fallback_tensors,
        "needs_imatrix": bool(output.needs_imatrix),
    }


def answer(case: dict, tool: str, folder: Path) -> dict:
    """The case with the tool's types for the file that we plan, or with its error.

    From a config alone, types that need an importance matrix are planned as if there were one.
    So the tool is asked whether it needs one without it, and then for the types with it.
    """
    metadata, infos = unquantized(case, folder)
    asked = case["request"]
    alone = dry_run(infos, metadata, {**asked, "has_imatrix": False}, tool, folder)
    needs = alone.get("needs_imatrix", False)
    if not (asked["has_imatrix"] or needs):
        return {**case, **alone}
    found = dry_run(infos, metadata, {**asked, "has_imatrix": True}, tool, folder)
    return {**case, **found, "needs_imatrix": needs}


def differs(case: dict, folder: Path) -> bool:
    """Whether our plan says something else than the tool; prints both."""
    found = ours(case, folder)
    if "error" in found or "error" in case:
        equal = "error" in found and not case.get("error", "UNEXPECTED").startswith("UNEXPECTED")
    else:
        equal = all(found[key] == case[key] for key in found)
    if not equal:
        print(json.dumps(case), "\nours:", found)
    return not equal


def make_cases(
    chance: random.Random, count: int, folder: Path, experts: int | None = None
) -> list[dict]:
    """`count` cases, families and file types in turn, of files that are not too large.

    `experts` is the most that a model has in all its layers, so that tests are quick.
    """
    names = list(FILE_TYPES)
    cases: list[dict] = []
    while len(cases) < count:
        number = len(cases)
        case = random_case(chance, FAMILIES[number % 3], names[number // 3 % len(names)])
        in_all = case["config"]["num_hidden_layers"] * experts_of(case["config"])
        if experts is not None and in_all > experts:
            continue
        _, infos = unquantized(case, folder)
        if sum(info.nbytes for info in infos) < LARGEST:
            cases.append(case)
    return cases


def main() -> None:
    tool, version, count, *seed = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        write_imatrix(folder / "imatrix.gguf")
        chance = random.Random(int(seed[0]) if seed else 1)
        cases = make_cases(chance, int(count), folder, experts=None if seed else 600)
        answers = list(pool.map(lambda case: answer(case, tool, folder), cases))
        wrong = sum(differs(case, folder) for case in answers)
    failed = sum("error" in case for case in answers)
    print(f"{len(answers)} cases, {failed} refused by the tool, {wrong} differ")
    if not seed:
        lines = ",\n".join(json.dumps(case) for case in answers)
        target = Path(__file__).with_name("config_types.json")
        target.write_text(f'{{"tool": {json.dumps(version)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
