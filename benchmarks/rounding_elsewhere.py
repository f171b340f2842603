"""Our rounding beside that of other tools that learn it and write GGUF: rounding_elsewhere.json.

Every file holds the same tensors in the same types, so equal bytes: what the other tool chose, ours
takes over tensor by tensor. To nearest (llama-quantize's bytes), with feedback, and what the other
tool made; all calibrated on the same documents, all measured by this toolkit's forward pass:

    python -m venv ELSEWHERE && ELSEWHERE/bin/pip install auto-round 'octuma[hf,gguf]'
    python benchmarks/models/smollm2.py GGUF --shuffle --wide -o WORK/wide
    python benchmarks/rounding_elsewhere.py smollm2-wide WORK/wide --documents \\
        --python ELSEWHERE/bin/python --methods auto-round-0,auto-round-50 --types Q2_K_S,Q4_K_M

Methods: `auto-round-N` is Intel's auto-round with N iterations of learned rounding for each layer
(0: its search of scales, which it recommends for most GGUF types), `octuma` is GPTQ after AWQ in
Q4_1 (a model of `--shuffle` without `--wide`: it needs no padding). `--gguf-py`: a folder to take
`gguf` from, as auto-round needs a newer one for Qwen3-MoE than the package index has. A type that
is in the file already is not measured again.

The other tool's numbers are put into a copy of our file, under our names and in our order of rows,
so that only they differ. Its own tokenizer and metadata are not looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path, write_result
from models import smollm2
from rounding import ROUNDINGS, TEST_SET, Run, ratio, write_formats
from rounding_models import (
    CALIBRATION_SET,
    GRAM,
    calibrate,
    describe,
    open_model,
    text_of,
    write_documents,
)
from transformers import AutoTokenizer

from secateur import Formats, Measuring
from secateur.checkpoint.reader import Checkpoint
from secateur.evaluation.scores import Scores
from secateur.evaluation.summary import token_groups
from secateur.formats.gguf.reader import GgufFile, read_gguf
from secateur.recipes.recipe import Recipe

AUTO_ROUND = re.compile(r"auto-round-(\d+)")
NOT_ROUNDED = ("F32", "F16", "BF16")
DRIVER = """
import sys
from auto_round.export.export_to_gguf import llama_cpp_conversion
llama_cpp_conversion.get_conversion()
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda model, tokenizer: "default"
from auto_round.cli.main import run
sys.exit(run())
"""
"""auto-round's command line, with a name for tokenizers that its converter does not know: it stops
for them, after hours, when it writes the vocabulary."""
OCTUMA = "from octuma.cli import app; app()"
VERSIONS = """
import json, sys
from importlib import metadata
names = ("auto-round", "octuma", "gguf", "torch", "transformers")
found = {one.name.lower(): one.version for one in metadata.distributions()}
print(json.dumps({name: found[name] for name in names if name in found}))
"""


@dataclass(frozen=True)
class Given:
    """What the other tools are given: the interpreter they are installed for, the model as a dense
    one where it is one, the rows of text as JSON lines and as plain text, and how to calibrate."""

    python: Path
    model: Path
    rows: Path
    text: Path
    count: int
    length: int
    batch: int
    windows: int
    work: Path
    gguf_py: Path | None

    def run(self, *arguments: str) -> float:
        """Run that Python, and return its processor seconds. What it says is kept in `work`."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment.pop("PYTHONPATH", None)
        if self.gguf_py is not None:
            environment["PYTHONPATH"] = str(self.gguf_py)
        before, log = _children(), self.work / "elsewhere.log"
        with log.open("ab") as out:
            command = [str(self.python), *arguments]
            done = subprocess.run(command, check=False, env=environment, stdout=out, stderr=out)
        if done.returncode:
            sys.exit(f"{arguments[-1]}: exit code {done.returncode}; what it said is in {log}")
        return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_auto_round(given: Given, kind: str, iterations: int, out: Path) -> float:
    """Write a GGUF of a type below `out`; processor seconds. Its extension that learns rounding for
    GGUF's types is on where there are iterations; rates and all else are its defaults."""
    learned = ("--enable_alg_ext",) if iterations else ()
    return given.run(
        "-c", DRIVER, "--model", str(given.model), "--format", f"gguf:{kind.lower()}",
        "--iters", str(iterations), *learned, "--nsamples", str(given.count),
        "--seqlen", str(given.length), "--batch_size", str(given.batch), "--disable_torch_compile",
        "--dataset", str(given.rows), "--device", "cpu", "--output_dir", str(out),
    )  # fmt: skip


def run_octuma(given: Given, out: Path) -> float:
    """Write a GGUF in Q4_1 below `out`; processor seconds. It takes windows at random places."""
    packed = out / "packed"
    spent = given.run(
        "-c", OCTUMA, "quantize", str(given.model), "--out", str(packed), "--calib",
        str(given.text), "--samples", str(given.windows), "--seqlen", str(given.length),
        "--device", "cpu",
    )  # fmt: skip
    return spent + given.run("-c", OCTUMA, "export", str(packed), "--out", str(out / "it.gguf"))


def run_method(given: Given, method: str, kind: str) -> tuple[GgufFile, float]:
    """(what a method makes of the model in a type, processor seconds), made once for `work`."""
    out = given.work / f"{kind}-{method}"
    seconds = out / "seconds.json"
    if not seconds.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        learned = AUTO_ROUND.fullmatch(method)
        if learned:
            spent = run_auto_round(given, kind, int(learned[1]), out)
        else:
            spent = run_octuma(given, out)
        seconds.write_text(json.dumps(spent))
    (path,) = out.rglob("*.gguf")
    return read_gguf(path), json.loads(seconds.read_text())


def write_rows(folder: Path, every: int, length: int, target: Path) -> int:
    """JSON lines of texts that are `length` tokens each, special ones included, cut out of every so
    many of the calibration set's records, one after the other. Returns how many there are.

    auto-round leaves shorter rows out, and drops white space at their ends.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    records = CALIBRATION_SET.read_text("utf-8").splitlines()[::every]
    text = "\n\n".join(text_of(json.loads(line)) for line in records)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    taken = length - len(tokenizer("")["input_ids"])
    rows, at = [], 0
    while at + taken <= len(ids):
        row = tokenizer.decode(ids[at : at + taken])
        if row == row.strip() and len(tokenizer(row)["input_ids"]) == length:
            rows.append(json.dumps({"text": row}) + "\n")
            at += taken
        else:
            at += 1
    target.write_text("".join(rows), "utf-8")
    return len(rows)


def ours_for(name: str, ours: GgufFile) -> str:
    """Our name of another tool's tensor: a dense layer is one expert's."""
    return name if name in ours.tensors else re.sub(r"(ffn_\w+)\.weight$", r"\1_exps.weight", name)


def same_types(theirs: GgufFile, kind: str) -> Recipe:
    """A recipe with the types of another tool's file, tensor by tensor."""
    rounded = {
        name: info.type for name, info in theirs.tensors.items() if info.type not in NOT_ROUNDED
    }
    patterns = tuple(
        (f"^{re.escape(name.removesuffix('.weight'))}(_exps)?\\.weight$".lower(), found)
        for name, found in rounded.items()
    )
    embedding = rounded.get("token_embd.weight")
    return Recipe(f"like-{kind}", kind, embedding=embedding, patterns=patterns)


def put_in(theirs: GgufFile, ours: GgufFile, turned: bool, head: int, out: Path) -> None:
    """Write a copy of our file with another tool's numbers. `turned`: it left the rows of q and k
    as transformers has them, and llama.cpp wants the halves of a head as neighbours.

    Exits where a tensor has another type or another size than ours.
    """
    shutil.copyfile(ours.path, out)
    with out.open("r+b") as file:
        for name, info in theirs.tensors.items():
            target = ours_for(name, ours)
            if name == "output.weight" and target not in ours.tensors:
                continue  # a second copy of the embedding, which is tied
            wanted = ours.tensor(target)
            if (info.type, info.nbytes) != (wanted.type, wanted.nbytes):
                sys.exit(f"{name}: {info.type} {info.shape}, ours {wanted.type} {wanted.shape}")
            data = theirs.data(name)
            if turned and name.endswith(("attn_q.weight", "attn_k.weight")):
                rows = data.reshape(-1, 2, head // 2, data.size // info.shape[0])
                data = np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)
            file.seek(ours.offsets[target])
            file.write(data.tobytes())


@dataclass(frozen=True)
class Ours:
    """Our side of the comparison: the model, its statistics, and where answers are scored."""

    model: Checkpoint
    statistics: Path
    run: Run
    work: Path

    def write(self, rounding: Any, like: Recipe) -> tuple[Path, int, float]:
        """(our GGUF in the types of a recipe, its bytes of tensors, processor seconds)"""
        out = self.work / f"{like.name}-{rounding}"
        shutil.rmtree(out, ignore_errors=True)
        wanted = Formats(to="gguf", recipes=(like,), rounding=rounding)
        return write_formats(self.model, wanted, self.statistics, out)

    def measure(self, given: Given, kind: str, methods: Sequence[str]) -> dict[str, Any]:
        """One type: what all methods lose, and what they cost."""
        scores: dict[str, Scores] = {}
        seconds: dict[str, float] = {}
        made = {}
        for method in methods:
            made[method], seconds[method] = run_method(given, method, kind)
            print(kind, method, f"{seconds[method]:.0f} s", flush=True)
        like = same_types(made[methods[0]], kind)
        sizes = set()
        for rounding in ROUNDINGS:
            path, nbytes, seconds[rounding] = self.write(rounding, like)
            sizes.add(nbytes)
            scores[rounding] = self.run.score(path)
            if rounding == "nearest":
                for method, theirs in made.items():
                    out = self.work / f"{kind}-{method}.gguf"
                    head = int(self.model.config["head_dim"])
                    put_in(theirs, read_gguf(path), method == "octuma", head, out)
                    scores[method] = self.run.score(out)
                    out.unlink()
            shutil.rmtree(path.parent)
        (size,) = sizes
        return {
            "tensor_bytes": size,
            "types": count_types(made[methods[0]]),
            "cpu_seconds": {name: round(spent, 1) for name, spent in seconds.items()},
            **self.compare(scores, methods),
        }

    def compare(self, scores: dict[str, Scores], methods: Sequence[str]) -> dict[str, Any]:
        """All over nearest, and feedback over all others, pooled and by domain."""
        answers = self.run.answers

        def of_domain(domain: str) -> dict[str, Any]:
            found = ratio(scores, answers, domain)
            over = {"feedback": found.pop("ratio")}
            beside = {}
            for method in methods:
                over[method] = ratio(scores, answers, domain, method)["ratio"]
                beside[method] = ratio(scores, answers, domain, "feedback", method)["ratio"]
            return {**found, "over_nearest": over, "feedback_over": beside}

        names = sorted({group.domain for group in token_groups(answers)} - {"pooled"})
        return {**of_domain("pooled"), "domains": {name: of_domain(name) for name in names}}


def count_types(found: GgufFile) -> dict[str, int]:
    """{type: how many tensors of a file have it}"""
    types = [info.type for info in found.tensors.values()]
    return {one: types.count(one) for one in sorted(set(types))}


def give(options: argparse.Namespace, model: Checkpoint, work: Path) -> Given:
    """The model and the text as the other tools read them."""
    folder = model.path.absolute()
    if model.config["model_type"] == "mixtral":
        folder = work / "dense"
        if not folder.exists():
            smollm2.write_dense(model.path, folder)
    rows = work / "rows.jsonl"
    count = write_rows(model.path, options.every, options.length, rows)
    text = work / "rows.txt"
    lines = [json.loads(line)["text"] for line in rows.read_text("utf-8").splitlines()]
    text.write_text("\n\n".join(lines), "utf-8")
    return Given(
        python=options.python.absolute(), model=folder, rows=rows, text=text, count=count,
        length=options.length, batch=options.batch, windows=options.windows, work=work,
        gguf_py=options.gguf_py and options.gguf_py.absolute(),
    )  # fmt: skip


def calibrate_on_rows(model: Checkpoint, given: Given) -> tuple[Path, float]:
    """(our statistics of the rows, processor seconds), made once for `work`."""
    source = {"name": "rows", "path": given.rows.name}
    mix, seconds = given.work / "mix.yaml", given.work / "calibrate-seconds.json"
    mix.write_text(json.dumps({"sequence_length": given.length, "sources": [source]}))
    began = time.process_time()
    statistics = calibrate(model, given.work, mix)
    if not seconds.exists():
        seconds.write_text(json.dumps(round(time.process_time() - began, 1)))
    return statistics, json.loads(seconds.read_text())


def versions(python: Path) -> Mapping[str, str]:
    """{package: version} of what the other tools run on."""
    found: Mapping[str, str] = json.loads(subprocess.check_output([python, "-c", VERSIONS]))
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="what the model is called in the results")
    parser.add_argument("model", help="its folder")
    parser.add_argument("--python", type=Path, required=True, help="that has the other tools")
    parser.add_argument("--gguf-py", type=Path, help="folder that holds a newer gguf package")
    parser.add_argument("--methods", default="auto-round-0,auto-round-200")
    parser.add_argument("--types", default="Q2_K_S,Q4_K_M")
    parser.add_argument("--every", type=int, default=4, help="of the calibration set's records")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=8, help="rows of an iteration of auto-round")
    parser.add_argument("--windows", type=int, default=128, help="windows that octuma takes")
    parser.add_argument("--per-domain", type=int, default=7)
    parser.add_argument("--documents", action="store_true", help="as in rounding_models.py")
    parser.add_argument("--work", type=Path, required=True, help="kept for another run")
    parser.add_argument("--out", type=Path, default=result_path("rounding_elsewhere"))
    return parser.parse_args()


def main() -> None:
    options = parse()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    model = open_model(options.model)
    given = give(options, model, work)
    statistics, spent = calibrate_on_rows(model, given)
    asked: dict[str, Any] = {"prompts": TEST_SET, "per_domain": options.per_domain}
    if options.documents:
        asked = {"prompts": write_documents(work / "documents.jsonl", options.per_domain)}
    entry = results.setdefault(options.name, {"types": {}})
    entry["gram"] = GRAM
    entry.update(
        describe(model, statistics),
        calibrate_cpu_seconds=spent,
        measured_on="documents" if options.documents else "the model's own answers",
        elsewhere=versions(given.python),
        rows={"tokens": given.length, "rows": given.count, "batch": given.batch},
    )
    ours = Ours(model, statistics, Run(model, Measuring(**asked), work), work)
    for kind in options.types.split(","):
        if kind in entry["types"]:
            continue
        found = entry["types"][kind] = ours.measure(given, kind, options.methods.split(","))
        shown = {name: found[name] for name in ("kl_mean", "over_nearest", "feedback_over")}
        print(kind, json.dumps(shown), flush=True)
        others = json.loads(options.out.read_text()) if options.out.exists() else {}
        write_result(options.out, {**others, options.name: entry})


if __name__ == "__main__":
    main()
