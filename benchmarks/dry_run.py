"""Our types against the real llama-quantize's, for random models and requests. Writes dry_run.json.

Two samples. In the first every case is a random list of tensors (layout, layers, experts, widths,
heads, tied or not; layouts are those of Gemma 4, Qwen3-MoE and Mixtral), which reaches shapes that
no config gives. In the second it is a random config.json of these families and a number of experts
to keep, of which our planner makes the file. Each has a random
request (file type, importance matrix
or not, overrides, embedding and output type, in the first sample pure).

`llama-quantize --dry-run` answers from a header-only file; compared are all types, the number of
fallbacks and whether an importance matrix is needed. The same recorders make the cases that the
tests replay (tests/golden).

    python benchmarks/dry_run.py [--tool BUILD/bin/llama-quantize] [--cases 1050] [--configs 210]
                                 [--seed 7]

llama-quantize comes with llama.cpp; where it is not on the PATH, not named and not made by `make
llama-tools`, nothing is done.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/golden")]

import record_config_types as configs  # noqa: E402
from goals import result_path, write_result  # noqa: E402
from record_llama_types import answer, differs, random_case, write_imatrix  # noqa: E402

from secateur.recipes.llama_mixes import FILE_TYPES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    made = shutil.which("llama-quantize", path=ROOT / "out/llama.cpp/build/bin")
    parser.add_argument("--tool", default=shutil.which("llama-quantize") or made)
    parser.add_argument("--cases", type=int, default=1050)
    parser.add_argument("--configs", type=int, default=210)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if options.tool is None:
        print("llama-quantize is not on the PATH: name it with --tool, or run `make llama-tools`")
        return
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        write_imatrix(folder / "imatrix.gguf")
        found = {
            "seed": options.seed,
            "file_types": len(FILE_TYPES),
            **from_lists(options, folder, pool),
            "from_configs": from_configs(options, folder, pool),
            "llama.cpp": "0c1e57098",
        }
    write_result(result_path("dry_run"), found)
    print(json.dumps(found, indent=1))


def from_lists(options: argparse.Namespace, folder: Path, pool: ThreadPoolExecutor) -> dict:
    """The first sample: random lists of tensors."""
    chance, names = random.Random(options.seed), list(FILE_TYPES)
    cases = [random_case(chance, names[i % len(names)]) for i in range(options.cases)]
    answers = list(pool.map(lambda case: answer(case, options.tool, folder), cases))
    return {
        "cases": len(answers),
        "refused_by_the_tool": sum("error" in case for case in answers),
        "tensors_compared": sum(map(_tensors, answers)),
        "cases_that_differ": sum(map(differs, answers)),
    }


def from_configs(options: argparse.Namespace, folder: Path, pool: ThreadPoolExecutor) -> dict:
    """The second sample: random configs, planned."""
    cases = configs.make_cases(random.Random(options.seed), options.configs, folder)
    answers = list(pool.map(lambda case: configs.answer(case, options.tool, folder), cases))
    return {
        "cases": len(answers),
        "families": {
            family: sum(case["config"]["model_type"] == family for case in answers)
            for family in configs.FAMILIES
        },
        "pruned": sum(case["kept"] < configs.experts_of(case["config"]) for case in answers),
        "experts_kept": _span(case["kept"] for case in answers),
        "layers": _span(case["config"]["num_hidden_layers"] for case in answers),
        "hidden_size": _span(case["config"]["hidden_size"] for case in answers),
        "refused_by_the_tool": sum("error" in case for case in answers),
        "tensors_compared": sum(
            len(configs.unquantized(case, folder)[1]) for case in answers if "error" not in case
        ),
        "cases_that_differ": sum(configs.differs(case, folder) for case in answers),
    }


def _span(numbers: Iterable[int]) -> list[int]:
    """The least and the most."""
    found = sorted(numbers)
    return [found[0], found[-1]]


def _tensors(case: dict) -> int:
    from test_llama_types import tensors_of

    return 0 if "error" in case else len(tensors_of(case["shape"]))


if __name__ == "__main__":
    main()
