"""How fast a GGUF comes out of safetensors, against llama.cpp. Writes gguf_speed.json.

The checkpoint has Gemma 4 26B-A4B's shapes, 88 experts, two layers, gemmule's tokenizer and
random weights (over 2 GB). Theirs: convert_hf_to_gguf.py to BF16, then
llama-quantize. Ours: `secateur plan` and `secateur apply`, which sync what they write; theirs do
not. Both from a warm page cache, with the same number of threads, in turns; wall and processor
time and peak resident memory of every process, and the bytes written. The importance matrix is
random. The tensors of both files are compared byte by byte. `suite` writes several types, ours
in one run.

    python benchmarks/gguf_speed.py [FOLDER] [--llama-cpp TREE] [--bin FOLDER_OF_LLAMA_QUANTIZE]

llama.cpp is where `make llama-tools` puts it, unless named; without it nothing is done.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path, write_result
from random_models import gemma26

from secateur.checkpoint.reader import open_checkpoint
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.tensors import gguf_tensors
from secateur.formats.imatrix.matrix import Imatrix, ImatrixEntry, write_imatrix

EXPERTS, VOCAB, LAYERS = 88, 4096, 2
NAME = "model"
LLAMA_CPP = Path("out/llama.cpp")
LADDER = ("Q8_0", "Q6_K", "Q4_K_M")


def make_checkpoint(folder: Path) -> int:
    """Layers of Gemma 4 26B-A4B's size; returns the bytes of the tensors."""
    model = gemma26(
        folder, LAYERS, vocab_size=VOCAB, vocab_size_per_layer_input=VOCAB, num_experts=EXPERTS
    )
    return open_checkpoint(model).nbytes


def make_imatrix(model: Path, path: Path) -> None:
    """A random importance matrix with an entry for every matrix of the GGUF."""
    checkpoint = open_checkpoint(model)
    shapes = {name: spec.shape for name, spec in checkpoint.specs.items()}
    chance = np.random.default_rng(1)
    entries = {}
    for tensor in gguf_tensors(checkpoint.family, checkpoint.config, shapes, "BF16"):
        if tensor.info.type == "BF16" and tensor.info.name != "token_embd.weight":
            matrices = tensor.info.shape[0] if len(tensor.info.shape) == 3 else 1
            sums = chance.random((matrices, tensor.info.shape[-1]), dtype=np.float32) ** 4 * 1000
            entries[tensor.info.name] = ImatrixEntry(sums, np.full(matrices, 100, np.float32))
    write_imatrix(path, Imatrix(("random",), 10, 512, entries))


def apart(action: Callable[..., Any], *details: object) -> Any:
    """Call it in a process of its own: a child's peak memory begins with its parent's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(action, *details).result()


def timed(*command: object, **options: object) -> dict[str, float]:
    """Run a process; wall and processor seconds, peak resident bytes, bytes given to the disk."""
    started = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
    )
    said = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{command}: {said.decode()[-2000:]}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }


def together(steps: dict[str, dict[str, float]], written: int) -> dict[str, object]:
    return {
        "seconds": sum(step["seconds"] for step in steps.values()),
        "cpu_seconds": sum(step["cpu_seconds"] for step in steps.values()),
        "peak_rss_bytes": max(step["peak_rss_bytes"] for step in steps.values()),
        "bytes_written": written,
        "steps": steps,
    }


class Routes:
    """Both ways from a checkpoint to GGUF files of some types."""

    def __init__(self, work: Path, llama_cpp: Path, binaries: Path, threads: int) -> None:
        self.work, self.model, self.imatrix = work, work / NAME, work / "imatrix.gguf"
        self._llama_cpp, self._binaries, self._threads = llama_cpp, binaries, threads

    def theirs(self, types: tuple[str, ...], imatrix: bool) -> dict[str, object]:
        shutil.rmtree(self.work / "theirs", ignore_errors=True)
        (self.work / "theirs").mkdir()
        whole = self.work / "theirs/bf16.gguf"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._threads))
        convert = self._llama_cpp / "convert_hf_to_gguf.py"
        command = [sys.executable, convert, self.model, "--outfile", whole, "--outtype", "bf16"]
        steps = {"convert": timed(*command, env={**os.environ, **threads})}
        weigh = ["--imatrix", self.imatrix] if imatrix else []
        for kind in types:
            out = self.work / f"theirs/{kind}.gguf"
            quantize = [self._binaries / "llama-quantize", *weigh, whole, out, kind, self._threads]
            steps[f"quantize {kind}"] = timed(*quantize)
        written = sum(path.stat().st_size for path in (self.work / "theirs").iterdir())
        whole.unlink()
        return together(steps, written)

    def ours(self, types: tuple[str, ...], imatrix: bool) -> dict[str, object]:
        shutil.rmtree(self.work / "ours", ignore_errors=True)
        main = [
            sys.executable,
            "-c",
            "import sys; from secateur.cli.main import main; sys.exit(main())",
        ]
        plan = self.work / "plan.json"
        plan.unlink(missing_ok=True)
        weigh = ["--imatrix", self.imatrix] if imatrix else []
        request = ["--experts", EXPERTS, "--to", "gguf", "--types", ",".join(types), "-o", plan]
        out = self.work / "ours"
        steps = {"plan": timed(*main, "plan", self.model, *request, *weigh)}
        steps["apply"] = timed(*main, "apply", plan, "-o", out, "--workers", self._threads, *weigh)
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        return together(steps, written)

    def differing_bytes(self, kind: str) -> int:
        """Bytes of tensors in which the two files of a type differ."""
        (mine,) = (self.work / "ours").glob(f"*{kind}.gguf")
        ours, theirs = read_gguf(mine), read_gguf(self.work / f"theirs/{kind}.gguf")
        if dict(ours.tensors) != dict(theirs.tensors):
            raise RuntimeError(f"{kind}: the files hold other tensors")
        return sum(
            int(np.count_nonzero(ours.data(name) != theirs.data(name))) for name in ours.tensors
        )


CASES = {
    "Q4_K_M": (("Q4_K_M",), False),
    "Q4_K_M, imatrix": (("Q4_K_M",), True),
    "IQ3_XXS": (("IQ3_XXS",), True),
    "suite": (LADDER, True),
}
"""What is made: types, and whether with an importance matrix."""


def measure(routes: Routes, rounds: int, cases: list[str]) -> dict[str, object]:
    results: dict[str, object] = {}
    for case in cases:
        types, imatrix = CASES[case]
        runs: dict[str, list[dict[str, object]]] = {"ours": [], "theirs": []}
        for turn in range(rounds):
            for who in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
                subprocess.run(f"cat {routes.model}/* > /dev/null", shell=True, check=True)
                os.sync()
                found = getattr(routes, who)(types, imatrix)
                found["load_average"] = os.getloadavg()[0]
                runs[who].append(found)
                print(case, turn, who, json.dumps(found), file=sys.stderr, flush=True)
        pairs = zip(runs["ours"], runs["theirs"], strict=True)
        ratios = [float(o["seconds"]) / float(t["seconds"]) for o, t in pairs]  # type: ignore[arg-type]
        results[case] = {
            "types": types,
            "imatrix": imatrix,
            "rounds": rounds,
            "wall_ours_over_theirs": [round(ratio, 3) for ratio in ratios],
            "median_ratio": round(statistics.median(ratios), 3),
            "differing_tensor_bytes": {kind: apart(routes.differing_bytes, kind) for kind in types},
            **runs,
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("out/gguf_speed"),
        help="where to work: needs 20 GB, made and removed (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--llama-cpp", type=Path, default=LLAMA_CPP, help="its source tree")
    parser.add_argument("--bin", type=Path, help="where llama-quantize is")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint for another run")
    options = parser.parse_args()
    tools = options.bin or options.llama_cpp / "build/bin"
    if not (tools / "llama-quantize").exists():
        print(f"{tools} has no llama-quantize: run `make llama-tools`, or name it with --bin")
        return
    options.folder.mkdir(parents=True, exist_ok=options.keep)
    routes = Routes(options.folder, options.llama_cpp, tools, options.threads)
    if not routes.model.exists():
        apart(make_checkpoint, routes.model)
        apart(make_imatrix, routes.model, routes.imatrix)
    nbytes = open_checkpoint(routes.model).nbytes
    # Cases that are not run again keep what was measured.
    kept = result_path("gguf_speed")
    before = json.loads(kept.read_text())["results"] if kept.exists() else {}
    results = {**before, **measure(routes, options.rounds, options.cases)}
    if not options.keep:
        shutil.rmtree(options.folder)
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = {line.split(":")[1].strip() for line in cpuinfo.splitlines() if "model name" in line}
    report = {
        "what": "safetensors to GGUF, Gemma 4 26B-A4B's shapes, 2 layers, 88 experts",
        "source_bytes": nbytes,
        "threads": options.threads,
        "llama_quantize": "native build, Release (-O3), GGML_NATIVE, OpenMP",
        "machine": {
            "cpu": sorted(names),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "results": results,
    }
    write_result(kept, report)


if __name__ == "__main__":
    main()
