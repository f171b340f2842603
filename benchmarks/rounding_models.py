"""Rounding with error feedback on other models than gemmule, at equal bytes: rounding_models.json.

Every model, type by type, to nearest and with feedback, as rounding.py does for gemmule:

    python benchmarks/rounding_models.py smollm2 WORK/smollm2 --documents
    python benchmarks/rounding_models.py qwen3-moe WORK/qwen3-moe
    python benchmarks/rounding_models.py gemmule-on-code gemmule --only code
    python benchmarks/rounding_models.py gemmule-on-a-sixth gemmule --every 6 --types Q2_K

The models are made by the scripts in models/; SmolLM2 with --wide and --shuffle, as the file that
it comes from is in Q4_1, whose levels feedback would find again. `--documents`: measured on pieces
of documents of gemmule's test set, for a model that writes other text than gemmule does; else on
the model's own answers to that set's prompts. `--only`: calibrated on documents of these domains
alone, and tested on all. A type that is in the file already is not measured again. `--engines`:
files of these types in llama.cpp and mlx-lm as well, over two pieces of each domain, beside our
decoded weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from goals import result_path, write_result
from models import smollm2
from rounding import ROUNDINGS, TEST_SET, Run, write

import secateur
from secateur import Calibration, Measuring
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.mix import read_mix
from secateur.families.registry import family_of
from secateur.statistics.file import load_header

TYPES = "Q2_K,Q3_K_M,Q4_K_M,Q4_0,IQ4_XS,mlx-2,mlx-3,mlx-4"
CALIBRATION_SET = TEST_SET.with_name("calibration.jsonl")
GRAM: Literal["own"] = "own"
CHARACTERS = 240
"""Of a document that is measured on."""
SEQUENCE = 512
TRAINING = "training.json"
"""What a script in models/ says of the model that it made."""


def text_of(record: dict[str, Any]) -> str:
    """A document's text, or what was said in a conversation."""
    if "text" in record:
        return str(record["text"])
    return "\n\n".join(one["content"] for one in record["messages"] if one.get("content"))


def write_documents(target: Path, per_domain: int) -> Path:
    """JSON lines of pieces of each domain's first documents that are long enough."""
    taken: dict[str, list[str]] = defaultdict(list)
    for line in TEST_SET.open(encoding="utf-8"):
        record = json.loads(line)
        piece = text_of(record)[:CHARACTERS]
        found = taken[record["domain"]]
        if len(found) < per_domain and len(piece) == CHARACTERS:
            found.append(json.dumps({"domain": record["domain"], "text": piece}))
    target.write_text("".join(f"{line}\n" for lines in taken.values() for line in lines))
    return target


def write_mix(folder: Path, domains: list[str], every: int) -> Path:
    """A mix of every so many of the calibration set's records of these domains; of all domains
    where none is named."""
    records = CALIBRATION_SET.read_text("utf-8").splitlines(keepends=True)[::every]
    chosen = [one for one in records if not domains or json.loads(one)["domain"] in domains]
    (folder / "calibration.jsonl").write_text("".join(chosen), "utf-8")
    source = {"name": "set", "path": "calibration.jsonl", "category_field": "domain"}
    path = folder / "mix.yaml"
    path.write_text(json.dumps({"sequence_length": SEQUENCE, "sources": [source]}))
    return path


def open_model(name: str) -> Checkpoint:
    """A checkpoint. Those of models/ have other tokenizers than is usual in their families, so that
    llama.cpp's name for it is another one: SmolLM2's, and gemmule's."""
    path = Path(name) / "config.json"
    kind = json.loads(path.read_text())["model_type"] if path.is_file() else None
    if kind == "mixtral":
        return open_checkpoint(name, None, smollm2.family())
    if kind == "qwen3_moe":
        found, gemmule = family_of({"model_type": kind}), open_checkpoint("gemmule").family
        assert found.gguf is not None and gemmule.gguf is not None
        rules = replace(found.gguf, tokenizer=gemmule.gguf.tokenizer)
        return open_checkpoint(name, None, replace(found, gguf=rules))
    return open_checkpoint(name)


def calibrate(model: Checkpoint, work: Path, mix: Path) -> Path:
    """Statistics with Gram matrices, kept in `work`."""
    statistics = work / "statistics.safetensors"
    if not statistics.exists():
        request = Calibration(read_mix(mix), reroute_tokens=0, gram=GRAM)
        secateur.calibrate(model, statistics, request)
    return statistics


def describe(model: Checkpoint, statistics: Path) -> dict[str, Any]:
    """The model, and how many tokens of which categories it was calibrated on."""
    corpora = load_header(statistics).corpora
    training = model.path / TRAINING
    made = json.loads(training.read_text()) if training.is_file() else None
    return {
        "parameters": sum(spec.elements for spec in model.specs.values()),
        **({"training": made} if made else {}),
        "calibrated_on": [one["tokens_by_category"] for one in corpora],
    }


def run_engines(
    model: Checkpoint, kind: str, statistics: Path, work: Path
) -> dict[str, dict[str, float]]:
    """{rounding: what the engine of a type's files says beside what our decoded weights say}"""
    found = {}
    prompts = write_documents(work / "for-engines.jsonl", 2)
    for rounding in ROUNDINGS:
        out = work / f"engine-{kind}-{rounding}"
        shutil.rmtree(out, ignore_errors=True)
        path, _, _ = write(model, kind, rounding, statistics, out)
        request = Measuring(prompts=prompts, real_engine=True)
        (report,) = secateur.measure(path, model, request, work=work, workers=1).artefacts
        shutil.rmtree(out)
        named = {
            "kl_mean": report.value("kl_mean"),
            "kl_mean_in_the_engine": report.value("kl_mean", kind="engine"),
            "kl_mean_between": report.value("engine_kl_mean", kind="engine"),
            "same_token": report.value("engine_top1_agreement", kind="engine"),
        }
        found[rounding] = {name: float(f"{one.value:.4g}") for name, one in named.items() if one}
    return found


def save(out: Path, name: str, entry: dict[str, Any]) -> None:
    """Put a model's entry into the file, into which others may have been put meanwhile."""
    others = json.loads(out.read_text()) if out.exists() else {}
    write_result(out, {**others, name: entry})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="what the model is called in the results")
    parser.add_argument("model", help="its folder, or gemmule")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--per-domain", type=int, default=12)
    parser.add_argument("--documents", action="store_true")
    parser.add_argument("--only", default="", help="domains to calibrate on")
    parser.add_argument("--every", type=int, default=1, help="of the calibration set's records")
    parser.add_argument("--engines", default="", help="types to run in their engines")
    parser.add_argument("--work", type=Path, help="keeps statistics and scores for another run")
    parser.add_argument("--out", type=Path, default=result_path("rounding_models"))
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    model = open_model(options.model)
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        domains = options.only.split(",") if options.only else []
        statistics = calibrate(model, work, write_mix(work, domains, options.every))
        asked: dict[str, Any] = {"prompts": TEST_SET, "per_domain": options.per_domain}
        if options.documents:
            asked = {"prompts": write_documents(work / "documents.jsonl", options.per_domain)}
        entry = results.setdefault(options.name, {"types": {}})
        measured_on = "documents" if options.documents else "the model's own answers"
        entry.update(describe(model, statistics), measured_on=measured_on)
        for kind in filter(None, options.engines.split(",")):
            found = run_engines(model, kind, statistics, work)
            entry.setdefault("engines", {})[kind] = found
            print(kind, json.dumps(found), flush=True)
            save(options.out, options.name, entry)
        wanted = [kind for kind in options.types.split(",") if kind and kind not in entry["types"]]
        run = Run(model, Measuring(**asked), work) if wanted else None
        for kind in wanted:
            assert run is not None
            found = entry["types"][kind] = {"gram": GRAM, **run.measure(kind, statistics)}
            print(kind, json.dumps({k: found[k] for k in ("kl_mean", "ratio")}), flush=True)
            save(options.out, options.name, entry)


if __name__ == "__main__":
    main()
