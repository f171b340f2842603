"""Our GGUF files against llama.cpp's own, for every file type. Writes type_parity.json.

The model is gemmule, whole and without every fourth expert; every file type is made without and
with an importance matrix (of gemmule's own calibration set). Ours: `plan` and `apply`, all types
in one pass. Theirs: convert_hf_to_gguf.py of the same checkpoint (the pruned one is our
safetensors output), then llama-quantize with the same matrix; float types without a matrix are
the converter's own, which has an order of its own, where llama-quantize sorts by layer. Compared
are names, order, shapes and types of the tensors, every byte of them, all metadata, and what real
llama.cpp (xllamacpp) answers greedily to four prompts with each of the two files. `decoded` is
another check, of the whole model's files with a matrix: llama.cpp against transformers' modules
on the file's decoded weights, along what llama.cpp generates.

    python benchmarks/type_parity.py [FOLDER] [--llama-cpp TREE] [--bin FOLDER_OF_LLAMA_QUANTIZE]

Rows that an interrupted run left in FOLDER are not made again. llama.cpp is where `make
llama-tools` puts it, unless named; without it nothing is done.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path, write_result
from parity_cases import FORMS, LLAMA_CPP, Case, Theirs, family_of, make_matrix

from secateur.checkpoint.hub import GEMMULE, gemmule_folder
from secateur.checkpoint.reader import open_checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.evaluation.tokens.answers import Answer, answer_set
from secateur.evaluation.tokens.prompts import Prompt, read_prompts
from secateur.evaluation.tokens.teacher import teach
from secateur.formats.ggml.engine import engine_version
from secateur.formats.gguf.reader import GgufFile, read_gguf
from secateur.outputs.registry import open_artefact
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.serving.llama_server import llama_server

DOMAINS = ("arithmetic", "tools", "chat", "code")
TOKENS = 32
"""Tokens of an answer at most; a prompt of each domain."""


_MADE_BY = "ours says who made the file, and by which plan"
_CARD = "ours reads the original's model card, which is not in the pruned folder that theirs reads"
_GUESS = "theirs guesses it from the folder's name"
WHY: Mapping[str, str] = {
    "general.name": "ours is the checkpoint's name as it is, theirs has capitals and spaces",
    "general.quantized_by": _MADE_BY,
    "secateur.version": _MADE_BY,
    "secateur.plan_sha256": _MADE_BY,
    "quantize.imatrix.file": "ours names the file beside it, theirs a path on this machine",
    "tokenizer.ggml.add_sep_token": "false is what llama.cpp takes when it is not there",
    **dict.fromkeys(("general.license", "general.tags"), _CARD),
    **dict.fromkeys(("general.basename", "general.finetune"), _GUESS),
}
"""Why a metadata key differs, where it does so on purpose."""


def differences(ours: GgufFile, theirs: GgufFile) -> dict[str, Any]:
    """Where two files differ: their tensors' names, order, shapes and types, and every byte."""
    common = [name for name in ours.tensors if ours.tensors[name] == theirs.tensors.get(name)]
    differing = {
        name: int(np.count_nonzero(ours.data(name) != theirs.data(name))) for name in common
    }
    return {
        "tensors": len(ours.tensors),
        "bytes": sum(info.nbytes for info in ours.tensors.values()),
        "same_order": list(ours.tensors) == list(theirs.tensors),
        "other_name_shape_or_type": sorted({*ours.tensors, *theirs.tensors} - set(common)),
        "differing_tensors": {
            f"{name} ({ours.tensors[name].type})": count
            for name, count in differing.items()
            if count
        },
        "differing_bytes": sum(differing.values()),
        "types": sorted({info.type for info in ours.tensors.values()}),
    }


def other_metadata(ours: GgufFile, theirs: GgufFile) -> dict[str, list[str | None]]:
    """{key: [our value, their value]} where they are not the same; None: not there."""

    def shown(file: GgufFile, key: str) -> str | None:
        held = file.metadata.get(key)
        return None if held is None else f"{held.kind} {str(held.value)[:80]}"

    keys = dict.fromkeys([*ours.metadata, *theirs.metadata])
    return {
        key: [shown(ours, key), shown(theirs, key)]
        for key in keys
        if ours.metadata.get(key) != theirs.metadata.get(key)
    }


def answers(path: Path, prompts: Sequence[Prompt]) -> list[list[int]]:
    """What llama.cpp answers with a file: token ids, greedily."""
    longest = max(len(prompt.input_ids) for prompt in prompts)
    with llama_server(path, context=longest + TOKENS + 8) as server:
        return [
            [token.id for token in server.complete(prompt.input_ids, TOKENS, top=1)]
            for prompt in prompts
        ]


def row_of(case: Case, ftype: str, theirs: Theirs, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """All that is compared of one type of a case."""
    row: dict[str, Any] = {"type": ftype, "family": family_of(ftype), "form": case.form}
    row |= {"imatrix": case.weighed}
    other = case.folder / f"theirs-{ftype}.gguf"
    refused = theirs.make(case, ftype, other)
    if refused or ftype in case.refused:
        return row | {"refused": {"ours": case.refused.get(ftype), "theirs": refused}}
    mine = case.file_of(ftype)
    first, second = read_gguf(mine), read_gguf(other)
    row |= differences(first, second)
    row["metadata"] = other_metadata(first, second)
    with ThreadPoolExecutor(2) as pool:
        said, expected = pool.map(lambda path: answers(path, prompts), (mine, other))
    row["answers"] = {
        "prompts": len(prompts),
        "tokens": sum(map(len, said)),
        "distinct_tokens": len({token for answer in said for token in answer}),
        "same": said == expected,
    }
    other.unlink()
    return row


def decoded(case: Case, ftype: str, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """How well llama.cpp on our file agrees with transformers' modules on its decoded weights: on
    the tokens that it generates, and on its ten most probable ones at every step."""
    mine = case.file_of(ftype)
    longest = max(len(prompt.input_ids) for prompt in prompts)
    made, steps = [], []
    with llama_server(mine, context=longest + TOKENS + 8) as server:
        for prompt in prompts:
            found = server.complete(prompt.input_ids, TOKENS)
            ids = prompt.input_ids + tuple(step.id for step in found)
            begin = len(prompt.input_ids)
            made.append(Answer(prompt.id, prompt.domain, "answers", ids, begin, "stop"))
            steps += found
    source = open_artefact(mine, open_checkpoint(GEMMULE)).source
    answers = answer_set(made, {})
    ours = teach(source, "decoded", answers, top_k=source.family.number(source.config, "vocab"))
    logs = np.empty(ours.top.shape)
    np.put_along_axis(logs, ours.top_ids.astype(np.int64), ours.top, -1)
    gaps = [
        np.abs(logs[row, list(step.top_ids)] - np.array(step.top)).mean()
        for row, step in enumerate(steps)
    ]
    return {
        "type": ftype,
        "engine_top1_agreement": round(float((ours.actual >= ours.top.max(-1)).mean()), 5),
        "mean_abs_logprob_difference": round(float(np.mean(gaps)), 5),
    }


class Kept:
    """Lines of JSON in a file, so that an interrupted run is gone on with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if (
            path.exists()
        ) else []  # fmt: skip

    def get(self, make: Callable[[], dict[str, Any]], **wanted: object) -> dict[str, Any]:
        """The line with these values, made now or by an earlier run."""
        for line in self.lines:
            if wanted.items() <= line.items():
                return line
        self.lines.append(make())
        with self._path.open("a") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")
        print(json.dumps(self.lines[-1])[:400], file=sys.stderr, flush=True)
        return self.lines[-1]


def measure(
    work: Path, types: Sequence[str], theirs: Theirs, threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of all cases, what `decoded` says of the first case's files)."""
    tokenizer = load_tokenizer(gemmule_folder())
    found = read_prompts(gemmule_folder() / "sets/test.jsonl", tokenizer, per_domain=1).prompts
    prompts = [prompt for prompt in found if prompt.domain in DOMAINS and prompt.kind == "answers"]
    make_matrix(work)
    kept, again, rows = Kept(work / "rows.jsonl"), Kept(work / "decoded.jsonl"), []
    cases = [Case(work, form, weighed) for form in FORMS for weighed in (True, False)]
    for case in cases:
        case.make(types, threads)
        for ftype in types:
            make = partial(row_of, case, ftype, theirs, prompts)
            rows.append(kept.get(make, type=ftype, form=case.form, imatrix=case.weighed))
    possible = [row["type"] for row in rows[: len(types)] if "refused" not in row]
    agreed = [again.get(partial(decoded, cases[0], t, prompts), type=t) for t in possible]
    return rows, agreed


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rows of a family amount to."""
    made = [row for row in found if "refused" not in row]
    return {
        "file_types": list(dict.fromkeys(row["type"] for row in found)),
        "pairs_of_files": len(made),
        "refused_by_both": sum(all(row.get("refused", {"": 0}).values()) for row in found),
        "refused_by_one": [
            [row["type"], row["form"], row["imatrix"], row["refused"]]
            for row in found
            if "refused" in row and not all(row["refused"].values())
        ],
        "tensors": sum(row["tensors"] for row in made),
        "bytes": sum(row["bytes"] for row in made),
        "other_names_shapes_or_types": sum(len(row["other_name_shape_or_type"]) for row in made),
        "in_another_order": [
            [row["type"], row["form"], row["imatrix"]] for row in made if not row["same_order"]
        ],
        "differing_bytes": sum(row["differing_bytes"] for row in made),
        "pairs_with_the_same_answers": sum(row["answers"]["same"] for row in made),
        "answered_tokens": sum(row["answers"]["tokens"] for row in made),
    }


def metadata_of(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{key: in how many pairs it differs, an example, and why} over all rows."""
    keys: dict[str, Any] = {}
    for row in found:
        for key, (ours, theirs) in row.get("metadata", {}).items():
            # Where somebody's machine keeps its files is nobody else's business.
            shown = [text and re.sub(r"/\S*/", ".../", text) for text in (ours, theirs)]
            told = {"pairs": 0, "ours": shown[0], "theirs": shown[1]}
            told["why"] = WHY.get(key, "unexplained")
            keys.setdefault(key, told)["pairs"] += 1
    return keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("out/type_parity"),
        help="where to work: needs 3 GB, made and removed (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--llama-cpp", type=Path, default=LLAMA_CPP, help="its source tree")
    parser.add_argument("--bin", type=Path, help="where llama-quantize is")
    parser.add_argument("--types", nargs="+", default=list(FILE_TYPES), choices=list(FILE_TYPES))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tools = options.bin or options.llama_cpp / "build/bin"
    theirs = Theirs(options.llama_cpp, tools, options.threads)
    for path, option in ((theirs.converter, "--llama-cpp"), (theirs.quantizer, "--bin")):
        if not path.is_file():
            print(f"{path} is not there: run `make llama-tools`, or name its folder with {option}")
            return
    options.folder.mkdir(parents=True, exist_ok=True)
    work = options.folder.resolve()
    found, agreed = measure(work, options.types, theirs, options.threads)
    families = list(dict.fromkeys(row["family"] for row in found))
    report = {
        "what": "gemmule, whole and 24 of 32 experts, in every file type, against llama.cpp's way",
        "llama_quantize": "native build, Release (-O3), GGML_NATIVE, OpenMP",
        "engine": engine_version(),
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "all": summary(found),
        "families": {
            family: summary([row for row in found if row["family"] == family])
            for family in families
        },
        "decoded": agreed,
        "metadata_that_differs": metadata_of(found),
        "rows": [{k: v for k, v in row.items() if k != "metadata"} for row in found],
    }
    write_result(result_path("type_parity"), report)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
