"""Our types against the real llama-quantize's, for random models and wishes. Writes dry_run.json.

Every case is a random (layout, layers, experts, widths, heads, tied or not) with a random wish
(file type, importance matrix or not, overrides, embedding and output type, pure); layouts are
those of Gemma 4, Qwen3-MoE and Mixtral. `llama-quantize --dry-run` answers from a header-only
file; compared are all types, the number of fallbacks and whether an importance matrix is
needed. The same recorder makes the cases that the tests replay (tests/golden).

    python benchmarks/dry_run.py [--tool BUILD/bin/llama-quantize] [--cases 1050] [--seed 7]

llama-quantize comes with llama.cpp; where it is not on the PATH nor named, nothing is done.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/golden")]

from record_llama_types import answer, differs, random_case, write_imatrix  # noqa: E402

from secateur.planning.llama_mixes import FILE_TYPES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", default=shutil.which("llama-quantize"))
    parser.add_argument("--cases", type=int, default=1050)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if options.tool is None:
        print("llama-quantize is not on the PATH: name it with --tool")
        return
    chance = random.Random(options.seed)
    names = list(FILE_TYPES)
    cases = [random_case(chance, names[i % len(names)]) for i in range(options.cases)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        write_imatrix(Path(folder) / "imatrix.gguf")
        answers = list(pool.map(lambda case: answer(case, options.tool, Path(folder)), cases))
    found = {
        "cases": len(answers),
        "seed": options.seed,
        "file_types": len(names),
        "refused_by_the_tool": sum("error" in case for case in answers),
        "tensors_compared": sum(map(_tensors, answers)),
        "cases_that_differ": sum(map(differs, answers)),
        "llama.cpp": "0c1e57098",
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _tensors(case: dict) -> int:
    from test_llama_types import tensors_of

    return 0 if "error" in case else len(tensors_of(case["shape"]))


if __name__ == "__main__":
    main()
