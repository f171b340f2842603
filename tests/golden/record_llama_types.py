"""Record llama_types.json: what the real llama-quantize --dry-run chooses for random models.

Run by hand after a change of the pinned llama.cpp:
PYTHONPATH=.:tests python tests/golden/record_llama_types.py BUILD/bin/llama-quantize VERSION COUNT

Dry runs read headers only, so every model is a sparse file of a few kilobytes. With a fourth
argument (a seed) nothing is recorded: other cases are made, and every answer is compared.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from test_llama_types import request_of, summary, tensors_of, traits_of

from secateur.errors import PlanError
from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.container import Metadata, TensorInfo, Value, file_bytes, header_parts
from secateur.formats.gguf.writer import TensorChunk, write_gguf
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.llama_types import choose_types

ARCHITECTURES = {"fused": "gemma4", "split": "qwen3moe", "mixtral": "llama"}
PATTERNS = (
    "ffn_down",
    "ffn_gate",
    "attn_v",
    "attn_.*",
    r"blk\.[0-3]\.",
    "blk.(1|2).ffn_.*_exps",
    "FFN_UP",
    "output.weight",
    "token_embd",
    "exps",
    r"ffn_(up|down)_exps\.weight$",
    "nothing_matches",
)
OVERRIDES = ("Q2_K", "Q3_K", "Q4_0", "Q4_K", "Q5_K", "Q5_1", "Q6_K", "Q8_0", "IQ3_S", "IQ4_NL")
OVERRIDES += ("IQ4_XS", "IQ2_XS", "IQ3_XXS", "F16", "BF16", "MXFP4", "Q2_0")
LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*\], type = +(\S+), size = .*?(?:\((\S+)\))?$")


def random_case(chance: random.Random, ftype: str) -> dict:
    """A model's shape and a request; awkward widths and counts on purpose."""
    layout = chance.choice(list(ARCHITECTURES))
    heads, kv_heads = chance.choice([(16, 8), (32, 4), (8, 8), (64, 8), (12, 4), (16, 2), (4, 1)])
    widths = (32, 64, 96, 100, 176, 256, 288, 512, 704, 768, 1024, 2112, 2816)
    shape = {
        "layout": layout,
        "layers": chance.choice([1, 2, 3, 5, 6, 8, 9, 12, 16, 17, 24, 30, 30, 48, 80]),
        "experts": chance.choice(
            [2, 3, 4, 7, 8, 8, 16, 32, 90, 128] + [0, 1] * (layout != "fused")
        ),
        "heads": heads,
        "kv_heads": kv_heads,
        "hidden": chance.choice([256, 512, 768, 2816, 2816, 288, 96, 100]),
        "dense": chance.choice(widths),
        "expert": chance.choice(widths),
        "query": chance.choice([256, 512, 4096, 288, 64]),
        "key": chance.choice([256, 512, 1024, 96]),
        "tied": chance.random() < 0.5,
        "source": chance.choice(["F16", "F16", "BF16", "F32"]),
    }
    request = {"ftype": ftype, "has_imatrix": chance.random() < 0.5}
    # a dry run does not notice that such a type does not divide the row; we refuse it
    fits = [k for k in ("Q8_0", "Q6_K", "BF16", "Q4_0") if shape["hidden"] % TYPES[k].block == 0]
    if chance.random() < 0.2:
        request["embedding"] = chance.choice(fits)
    if chance.random() < 0.2:
        request["output"] = chance.choice(fits)
    if chance.random() < 0.3:
        count = chance.randint(1, 4)
        request["patterns"] = [
            [chance.choice(PATTERNS), chance.choice(OVERRIDES)] for _ in range(count)
        ]
    if chance.random() < 0.1:
        request["pure"] = True
    if chance.random() < 0.1:
        request["quantize_output"] = False
    case = {"shape": shape, "request": request}
    if layout == "mixtral" and shape["layers"] == 80 and shape["experts"] != 8:
        case["shared_value_heads"] = heads != kv_heads
    return case


def metadata_of(shape: dict) -> dict[str, Value]:
    """The keys that llama.cpp insists on before it looks at tensors."""
    arch = ARCHITECTURES[shape["layout"]]
    layers = shape["layers"]
    keys = {
        "context_length": Value("u32", 1024),
        "block_count": Value("u32", layers),
        "embedding_length": Value("u32", shape["hidden"]),
        "feed_forward_length": Value("u32", shape["dense"]),
        "attention.head_count": Value("u32", shape["heads"]),
        "attention.head_count_kv": Value("i32", (shape["kv_heads"], *[1] * (layers - 1))),
        "attention.layer_norm_rms_epsilon": Value("f32", 1e-6),
        "attention.key_length": Value("u32", 64),
        "attention.value_length": Value("u32", 64),
        "rope.dimension_count": Value("u32", 64),
        "vocab_size": Value("u32", 128),
    }
    if shape["experts"]:
        keys["expert_count"] = Value("u32", shape["experts"])
        keys["expert_used_count"] = Value("u32", 1)
        keys["expert_feed_forward_length"] = Value("u32", shape["expert"])
    if shape["layout"] == "fused":
        keys["attention.sliding_window"] = Value("u32", 128)
        keys["attention.sliding_window_pattern"] = Value(
            "bool", tuple(layer % 6 != 5 for layer in range(layers))
        )
        keys["embedding_length_per_layer_input"] = Value("u32", 0)
        keys["attention.key_length_swa"] = keys["attention.value_length_swa"] = Value("u32", 64)
    return {
        "general.architecture": Value("string", arch),
        **{f"{arch}.{key}": value for key, value in keys.items()},
    }


def answer(case: dict, tool: str, folder: Path) -> dict:
    """The case with the tool's types, or with its error."""
    infos, metadata = tensors_of(case["shape"]), metadata_of(case["shape"])
    return {**case, **dry_run(infos, metadata, case["request"], tool, folder)}


def dry_run(
    infos: Sequence[TensorInfo], metadata: Metadata, asked: dict, tool: str, folder: Path
) -> dict:
    """What the tool says of a file of which only the header is there, or its error.

    An importance matrix lies in `folder`, as `write_imatrix` makes it.
    """
    path = folder / f"{id(infos)}-{threading.get_ident()}.gguf"
    with path.open("wb") as file:
        file.writelines(header_parts(metadata, infos))
        file.truncate(file_bytes(metadata, infos))
    command = [tool, "--dry-run"]
    command += ["--imatrix", str(folder / "imatrix.gguf")] * asked["has_imatrix"]
    for option, key in (
        ("--token-embedding-type", "embedding"),
        ("--output-tensor-type", "output"),
    ):
        command += [option, asked[key]] if key in asked else []
    for pattern, kind in asked.get("patterns", ()):
        command += ["--tensor-type", f"{pattern}={kind}"]
    command += ["--pure"] * asked.get("pure", False)
    command += ["--leave-output-tensor"] * (not asked.get("quantize_output", True))
    command += [str(path), asked["ftype"]]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    path.unlink()
    text = done.stdout + done.stderr
    if done.returncode:
        reason = re.search(r"no tensor type fallback is defined|GGML_ASSERT\(.*?\)", text)
        return {"error": reason[0] if reason else f"UNEXPECTED {text[-400:]}"}
    lines = [found for line in text.splitlines() if (found := LINE.match(line.strip()))]
    assert len(lines) == len(infos), text
    fallbacks = re.search(r"WARNING: (\d+) of \d+ tensor\(s\) required fallback", text)
    return {
        "types": summary((found[1], (found[3] or found[2]).upper()) for found in lines),
        "fallbacks": int(fallbacks[1]) if fallbacks else 0,
        "needs_imatrix": "will require an imatrix" in text,
    }


def write_imatrix(path: Path) -> None:
    """One entry is enough to be an importance matrix."""
    infos = [
        TensorInfo("blk.0.attn_q.weight.in_sum2", "F32", (1, 4)),
        TensorInfo("blk.0.attn_q.weight.counts", "F32", (1, 1)),
    ]
    metadata = {
        "general.type": Value("string", "imatrix"),
        "imatrix.datasets": Value("string", ("none",)),
        "imatrix.chunk_count": Value("u32", 1),
        "imatrix.chunk_size": Value("u32", 1),
    }
    ones = (TensorChunk(i.name, np.ones(i.shape, np.float32).view(np.uint8)) for i in infos)
    write_gguf(path, metadata, infos, ones)


def differs(case: dict) -> bool:
    """Whether our choice is not the tool's; prints both."""
    try:
        choices = choose_types(tensors_of(case["shape"]), traits_of(case), request_of(case))
    except PlanError as error:
        ours, needs, fallbacks = f"error: {error}", None, None
        equal = "error" in case
    else:
        ours = summary((choice.name, choice.type) for choice in choices)
        needs = any(c.needs_importance for c in choices) and not case["request"]["has_imatrix"]
        fallbacks = sum(choice.fallback_from is not None for choice in choices)
        equal = (ours, needs, fallbacks) == (
            case.get("types"),
            case.get("needs_imatrix"),
            case.get("fallbacks"),
        )
    if not equal:
        print(json.dumps(case), "\nours:", ours, needs, fallbacks)
    return not equal


def main() -> None:
    tool, version, count, *seed = sys.argv[1:]
    chance = random.Random(int(seed[0]) if seed else 1)
    names = list(FILE_TYPES)
    cases = [random_case(chance, names[i % len(names)]) for i in range(int(count))]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        write_imatrix(Path(folder) / "imatrix.gguf")
        answers = list(pool.map(lambda case: answer(case, tool, Path(folder)), cases))
    wrong = sum(map(differs, answers))
    failed = sum("error" in case for case in answers)
    print(f"{len(answers)} cases, {failed} refused by the tool, {wrong} differ")
    if not seed:
        lines = ",\n".join(json.dumps(case) for case in answers)
        target = Path(__file__).with_name("llama_types.json")
        target.write_text(f'{{"tool": {json.dumps(version)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
