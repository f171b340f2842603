"""The streamed pass on a device: its speed at the full width of Gemma 4 26B-A4B, and its agreement.

    python benchmarks/device.py                       # what there is: a CUDA GPU, or the CPU, small
    python benchmarks/device.py --device cuda --tokens 32768 262144

Random weights are made on the device. Measured are: the pass with all sums, without sums and with
`rerouted` solved, with resident weights and streamed from a checkpoint on disk that is written
for it; transformers' own forward of the same layers with the same weights, with each of its
experts functions; the rates of one large matrix product and of copies from disk and to the device;
and on gemmule how far the statistics of the device are from those of the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from device_agreement import agreement, device_statistics
from device_timing import (
    active_flops,
    best_of,
    ceilings,
    profile,
    read_rate,
    summary,
    time_calibration,
    time_grams,
    time_plain,
    time_transformers,
)
from goals import result_path, write_result
from random_weights import (
    ROW,
    Random,
    forget_files,
    open_random,
    rows_of,
    weights_of,
    write_checkpoint,
)

from secateur.corpus.rows import Corpus
from secateur.forward.backends.choose import choose_backend
from secateur.forward.backends.torch_device import TorchDevice


class Book:
    """The results so far; each is written when it is there, and an error is a result too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {}

    def note(self, name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        try:
            self.found[name] = work()
        except Exception as error:  # a benchmark on a lent machine goes on with the rest
            import traceback

            traceback.print_exc()
            self.found[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        write_result(self.path, self.found)
        print(
            f"[{time.perf_counter() - begun:6.1f} s] {name}: {json.dumps(self.found[name])[:600]}"
        )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.found[name]


def describe(device: torch.device) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cores": os.cpu_count(),
    }


def measure_speed(options: argparse.Namespace, book: Book, device: torch.device) -> None:
    small = device.type != "cuda"
    backend = TorchDevice(device, torch.bfloat16, os.cpu_count() or 1)
    book.note("ceilings", lambda: ceilings(device, small))
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        source = open_random(options.layers, small, Path(folder) / "shapes", device)
        flops, length = active_flops(source.checkpoint), min(ROW, *options.tokens)
        vocab = source.checkpoint.family.number(source.config, "vocab")
        first = rows_of(min(options.tokens), vocab, length)
        book.note("model", lambda: {
            "layers": options.layers, "small": small, "flops_per_token": flops,
            "bytes": source.checkpoint.nbytes,
        })  # fmt: skip
        with weights_of(source):
            # What is compiled or tried once is no part of the passes that are timed.
            book.note("first", lambda: time_calibration(
                source.checkpoint, backend, first, options.sampled
            ))  # fmt: skip
            for tokens in options.tokens:
                measure_tokens(options, book, source, backend, rows_of(tokens, vocab, length))
            if options.profile:
                few = rows_of(min(options.tokens), vocab, length)
                text = profile(lambda: time_calibration(source.checkpoint, backend, few, 0))
                options.profile.write_text(text)
        if options.write_seconds:
            measure_streaming(options, book, backend, source, Path(folder) / "checkpoint")


def measure_tokens(
    options: argparse.Namespace,
    book: Book,
    source: Random,
    backend: TorchDevice,
    corpus: Corpus,
) -> None:
    """The pass on so many tokens with resident weights, and transformers' own forward."""
    tokens, flops = corpus.tokens, active_flops(source.checkpoint)

    def note(name: str, work: Callable[[], list[float]]) -> None:
        limit = book.found["ceilings"]["bf16_flops"]
        book.note(f"{name} {tokens}", lambda: summary(work(), tokens, flops, limit))

    checkpoint, times = source.checkpoint, options.times
    note("sums", lambda: best_of(times, lambda: time_calibration(checkpoint, backend, corpus, 0)))
    if options.sampled:

        def solved() -> list[float]:
            sampled = options.sampled
            return best_of(times, lambda: time_calibration(checkpoint, backend, corpus, sampled))

        note("rerouted", solved)
    if options.gram:

        def with_grams() -> list[float]:
            return best_of(times, lambda: time_grams(checkpoint, backend, corpus, options.gram))

        note(f"gram {options.gram}", with_grams)
    if options.only_ours:
        return
    note("plain", lambda: best_of(times, lambda: time_plain(source, backend, corpus)))
    # One is the best by far; the others are tried on the fewest tokens only.
    least = tokens == min(options.tokens)
    for function in ("grouped_mm", "eager", "batched_mm") if least else ("grouped_mm",):

        def theirs(function: str = function) -> list[float]:
            return time_transformers(source, backend, corpus, function, options.together)

        note(f"transformers {function}", theirs)


def measure_streaming(
    options: argparse.Namespace, book: Book, backend: TorchDevice, source: Random, folder: Path
) -> None:
    """The pass from a checkpoint on disk."""
    begun = time.perf_counter()
    checkpoint = write_checkpoint(source, folder, options.write_seconds)
    nbytes = sum(path.stat().st_size for path in checkpoint.shards)
    spent = time.perf_counter() - begun
    source.held.clear()
    gc.collect()
    disk = book.note("disk", lambda: {
        "layers": checkpoint.layers, "bytes": nbytes, "written_bytes_per_second": nbytes / spent,
        "read_bytes_per_second": read_rate(folder, 8),
    })  # fmt: skip
    flops = active_flops(checkpoint)
    vocab = checkpoint.family.number(checkpoint.config, "vocab")
    for tokens in options.tokens:
        corpus = rows_of(tokens, vocab, min(ROW, *options.tokens))
        for name in ("cold", "warm"):

            def once(name: str = name, corpus: Corpus = corpus) -> dict[str, Any]:
                if name == "cold":
                    forget_files(folder)
                seconds = time_calibration(checkpoint, backend, corpus, 0)
                limit = book.found["ceilings"]
                copying = nbytes / limit.get("to_device_bytes", float("inf"))
                if name == "cold":
                    copying = max(copying, nbytes / disk["read_bytes_per_second"])
                multiplying = flops * corpus.tokens / limit["bf16_flops"]
                return {
                    "seconds": round(seconds, 3),
                    "tokens_per_second": round(corpus.tokens / seconds),
                    "bytes_per_second": round(nbytes / seconds),
                    "share_of_slower_limit": round(max(copying, multiplying) / seconds, 3),
                    "slower_limit": "copy" if copying > multiplying else "matrix",
                }

            book.note(f"streamed {name} {tokens}", once)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("--together", type=int, default=16384, help="tokens of transformers' calls")
    parser.add_argument("--sampled", type=int, default=0, help="tokens that rerouted is solved on")
    parser.add_argument("--gram", choices=("shared", "own"), help="Gram matrices that are timed")
    parser.add_argument("--write-seconds", type=float, default=1.0)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--statistics", type=Path, default=Path(tempfile.gettempdir()),
                        help="where gemmule's statistics of the device are kept")  # fmt: skip
    parser.add_argument("--times", type=int, default=3, help="how often a pass is timed")
    parser.add_argument("--only-ours", action="store_true", help="without transformers' forward")
    parser.add_argument("--only-statistics", action="store_true", help="make them, and no more")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-agreement", action="store_true")
    parser.add_argument("-o", "--out", type=Path, default=result_path("device"))
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    chosen = choose_backend(options.device).device
    small = chosen.type != "cuda"
    options.layers = options.layers or (2 if small else 30)
    options.tokens = options.tokens or ([2048] if small else [32768, 262144])
    book = Book(options.out)
    book.note("machine", lambda: describe(chosen))
    if not options.no_agreement:
        options.statistics.mkdir(parents=True, exist_ok=True)
        if options.only_statistics:
            device_statistics(options.device, options.statistics)
        else:
            book.note("agreement", lambda: agreement(options.device, options.statistics))
    if not options.no_speed:
        measure_speed(options, book, chosen)


if __name__ == "__main__":
    sys.exit(main())
