"""What measuring an artefact costs beside a plain forward of the same tokens: measuring.json.

Three shapes, each without a quarter of its experts: gemmule; `random_models.wide` (two layers of
128 experts at width 1024, random weights); the same with 32 experts and as many tokens as Gemma 4
has, 262,144, where two layers instead of thirty make the vocabulary weigh more than it does. A turn
is a process of one thread for each of: transformers' forward of the pruned checkpoint in float32,
texts that are equally long, one and eight at once; measuring the same checkpoint, which takes the
original's probabilities (made before), compares all tokens, notes experts and summarises with
intervals; measuring it in Q4_K_M. Processor seconds count, after a first small run that imports
everything: with reading the weights, and without (a larger model reads them once for far more
tokens). Memory is the peak of a process, beside that of `apply` making the same file, of a first
small run (nearly all of it libraries), and of measuring on a quarter of the texts. A shape that is
not asked for keeps what was measured.

    python benchmarks/measuring.py [--turns 5] [--texts 96 16 4] [--shapes gemmule wide vocabulary]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from goals import result_path, write_result

from secateur.checkpoint.reader import open_checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.evaluation.tokens.answers import Answer, AnswerSet, answer_set
from secateur.evaluation.tokens.prompts import read_prompts

LENGTH, BATCHES = 256, (1, 8)
"""Tokens of a text, and how many texts transformers is given at once: the fastest counts."""
SHAPES: dict[str, dict[str, int]] = {
    "gemmule": {},
    "wide": {},
    "vocabulary": {"num_experts": 32, "vocab_size": 262144, "vocab_size_per_layer_input": 262144},
}
"""What of `random_models.WIDE` each changes."""
TEXTS = {"gemmule": 96, "wide": 16, "vocabulary": 4}
MOST_LOGITS = 1 << 30
"""Bytes of logits that transformers is asked for at once."""
KINDS = ("safetensors", "gguf")


def texts(count: int, length: int | None = None) -> AnswerSet:
    """Texts of gemmule's test set, of which all but a first token is scored; with a `length`, all
    of that length, cut from the texts one after the other."""
    folder = open_checkpoint("gemmule").path
    found = read_prompts(folder / "sets" / "test.jsonl", load_tokenizer(folder)).prompts
    if length is None:
        chosen = [(one.id, one.domain, one.input_ids) for one in found]
        chosen = chosen[:: max(1, len(chosen) // count)]
    else:
        ids = [token for one in found for token in one.input_ids]
        starts = range(0, len(ids) - length + 1, length)
        chosen = [(str(at), "all", tuple(ids[at : at + length])) for at in starts]
    if len(chosen) < count:
        raise SystemExit(f"the test set has {len(chosen)} texts, expected {count}")
    return answer_set(
        [
            Answer(name, domain, "documents", ids, 1, "given")
            for name, domain, ids in chosen[:count]
        ],
        {},
    )


def digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """(what it gives, processor and wall seconds)"""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return found, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def peak() -> int:
    """Peak of this process's resident memory in MiB (ru_maxrss begins with the parent's)."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) >> 10


def forward(folder: Path, answers: AnswerSet, batch: int) -> dict[str, Any]:
    """transformers: reading the weights, then the logits of all tokens."""
    import torch
    import transformers

    torch.set_num_threads(1)
    rows = torch.tensor([answer.input_ids for answer in answers.answers])

    def load() -> Any:
        found = transformers.AutoModelForCausalLM.from_pretrained(
            folder / "pruned", dtype=torch.float32
        )
        return found.eval()

    def run() -> None:
        with torch.inference_mode():
            for part in rows.split(batch):
                model(input_ids=part, use_cache=False)

    load()
    model, reading = timed(load)
    with torch.inference_mode():
        model(input_ids=rows[:batch, :16], use_cache=False)
    _, running = timed(run)
    return {"read": reading, "run": running, "peak_mib": peak()}


def measure(folder: Path, answers: AnswerSet, kind: str) -> dict[str, Any]:
    """Ours: one artefact, its weights read (and decoded) on the way."""
    from secateur.evaluation.kept_experts import find_kept_experts
    from secateur.evaluation.scores import score
    from secateur.evaluation.summary import summarise, summarise_layers
    from secateur.evaluation.tokens.teacher import load_teacher, teach
    from secateur.forward.weights import CheckpointWeights
    from secateur.outputs.registry import open_artefact
    from secateur.system.allocator import return_large_blocks

    return_large_blocks()  # as the command line does
    original = open_checkpoint(folder / "model")
    name = "pruned" if kind == "safetensors" else next(folder.glob("gguf/*.gguf"))
    source = open_artefact(folder / name, original).source

    def read() -> None:
        for tensor in source.names():
            source.tensor(tensor).float()

    def score_all() -> Any:
        teacher = load_teacher(folder / f"teacher-{len(answers.answers)}.safetensors")
        kept = find_kept_experts(source, CheckpointWeights(original))
        return score(teacher, source, "artefact", answers, kept=kept)

    teach(source, "first", texts(2, 16))
    first = peak()  # of little but what is imported
    scores, running = timed(score_all)
    import scipy.stats  # noqa: F401 - what is imported counts as memory, not as time

    found: dict[str, Any] = {"score": running}
    _, found["summarise"] = timed(
        lambda: (summarise(scores, answers), summarise_layers(scores, answers))
    )
    found |= {"peak_mib": peak(), "first_run_mib": first}
    _, found["read_again"] = timed(read)  # part of `score`, too
    return found


def make(folder: Path, kind: str) -> dict[str, Any]:
    """`apply` of one of the two files, without every fourth expert."""
    import secateur
    from secateur.system.allocator import return_large_blocks

    return_large_blocks()
    model = open_checkpoint(folder / "model")
    gone = {"drop": list(range(0, model.experts, 4))}
    drop = folder / "drop.json"
    drop.write_text(json.dumps({"layers": {str(layer): gone for layer in model.moe_layers}}))
    formats = secateur.Formats()
    if kind == "gguf":
        formats = secateur.Formats(types=("Q4_K_M",), to="gguf")
    plan = secateur.plan(model.path, secateur.Pruning(drop_map=drop), formats)
    out = folder / ("pruned" if kind == "safetensors" else "gguf")
    _, spent = timed(lambda: secateur.apply(plan, out, workers=1))
    return {"apply": spent, "peak_mib": peak()}


def prepare(folder: Path, shape: str, counts: Sequence[int]) -> int:
    """The original, and what it says of so many texts; how many tokens it knows."""
    import random_models

    from secateur.checkpoint.hub import gemmule_folder
    from secateur.evaluation.tokens.teacher import save_teacher, teach
    from secateur.forward.weights import CheckpointWeights

    model = gemmule_folder()
    if shape != "gemmule":
        model = random_models.wide(folder / "wide", **SHAPES[shape])
    (folder / "model").symlink_to(model)
    source = CheckpointWeights(open_checkpoint(model))
    for count in counts:
        teacher = teach(source, "original", texts(count, LENGTH))
        save_teacher(teacher, folder / f"teacher-{count}.safetensors")
    return source.family.number(source.config, "vocab")


def run_child(*words: object) -> dict[str, Any]:
    """What one step says, done in a process of its own."""
    command = [sys.executable, __file__, "--child", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(*words[1:], found, file=sys.stderr, flush=True)
    return found


def child(folder: Path, count: int, step: str, what: str) -> None:
    """A step: "make" or "measure" a kind of file, or "forward" so many texts at once."""
    if step == "make":
        found = make(folder, what)
    elif step == "measure":
        found = measure(folder, texts(count, LENGTH), what)
    else:
        found = forward(folder, texts(count, LENGTH), int(what))
    print(json.dumps(found))


def compare(shape: str, count: int, turns: int) -> dict[str, Any]:
    """The row of a shape."""
    some = max(1, count // 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocab = prepare(folder, shape, (count, some))
        batches = [batch for batch in BATCHES if 4 * batch * LENGTH * vocab <= MOST_LOGITS]
        made = {kind: run_child(folder, count, "make", kind) for kind in KINDS}
        few = {kind: run_child(folder, some, "measure", kind)["peak_mib"] for kind in KINDS}
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(turns):
            for batch in batches:
                row = run_child(folder, count, "forward", batch)
                found.setdefault(f"forward {batch}", []).append(row)
            for kind in KINDS:
                row = run_child(folder, count, "measure", kind)
                found.setdefault(kind, []).append(row)
    return {
        "texts": count,
        "tokens": count * LENGTH,
        "vocabulary": vocab,
        "turns": turns,
        "load_average": round(os.getloadavg()[0], 1),
        "over_plain_forward": {
            clock: {kind: ratios(found, kind, clock) for kind in KINDS} for clock in ("cpu", "wall")
        },
        "memory": {
            kind: memory(found, kind, made[kind]["peak_mib"], few[kind], (count - some) * LENGTH)
            for kind in KINDS
        },
        "made": made,
        "every_turn": found,
    }


def memory(
    found: dict[str, list[dict[str, Any]]], kind: str, made: int, few: int, more: int
) -> dict[str, float | None]:
    """Peaks in MiB, and what each of `more` tokens adds to that of a `few`, in KiB."""
    peaks = {
        "peak_mib": median(row["peak_mib"] for row in found[kind]),
        "first_run_mib": median(row["first_run_mib"] for row in found[kind]),
        "plain_forward_mib": min(
            median(row["peak_mib"] for row in rows)
            for name, rows in found.items()
            if name.startswith("forward")
        ),
        "making_mib": made,
        "peak_of_a_quarter_mib": few,
    }
    growth = digits((peaks["peak_mib"] - few) * 1024 / more) if more else None
    return {**peaks, "kib_for_each_more_token": growth}


def ratios(found: dict[str, list[dict[str, Any]]], kind: str, clock: str) -> dict[str, Any]:
    """Measuring over transformers' fastest forward: medians of the turns, and the range of a turn's
    own; all of it, and both without reading the weights."""

    def seconds(row: dict[str, Any], *parts: str) -> float:
        return sum(row[part][clock] for part in parts)

    plain = min(
        (rows for name, rows in found.items() if name.startswith("forward")),
        key=lambda rows: median(seconds(row, "run") for row in rows),
    )
    every = {"all": [], "without_reading": []}
    for mine, theirs in zip(found[kind], plain, strict=True):
        whole = seconds(mine, "score", "summarise")
        every["all"].append(whole / seconds(theirs, "read", "run"))
        rest = whole - seconds(mine, "read_again")
        every["without_reading"].append(rest / seconds(theirs, "run"))
    return {
        name: {
            "median": digits(median(values)),
            "least": digits(min(values)),
            "most": digits(max(values)),
        }
        for name, values in every.items()
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        folder, count, step, what = sys.argv[2:]
        child(Path(folder), int(count), step, what)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--texts", type=int, nargs="+", help="of each of the shapes")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args()
    path = result_path("measuring")
    report = json.loads(path.read_text()) if path.exists() else {}
    report["what"] = "one artefact measured over transformers' forward in float32"
    counts = options.texts or [TEXTS[shape] for shape in options.shapes]
    for shape, count in zip(options.shapes, counts, strict=False):
        report[shape] = compare(shape, count, options.turns)
        write_result(path, report)


if __name__ == "__main__":
    main()
