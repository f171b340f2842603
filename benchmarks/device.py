"""The streamed pass on a device: its speed at the full width of Gemma 4 26B-A4B, and its agreement.

    python benchmarks/device.py                       # what there is: a CUDA GPU, or the CPU, small
    python benchmarks/device.py --device cuda --tokens 32768 262144 --checkpoint-gb 52

Random weights are made on the device. Measured are: the pass with all sums, without sums and with
`rerouted` solved, with resident weights and streamed from a checkpoint on disk that is written
for it; transformers' own forward of the same layers with the same weights, with each of its
experts functions; the rates of one large matrix product and of copies from disk and to the device;
and on gemmule how far the statistics of the device are from those of the CPU.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemma4_facts
import numpy as np
import torch
import transformers
from goals import result_path, write_result
from safetensors.torch import save_file
from torch import Tensor

from secateur.calibration import layer_pass
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint, open_checkpoint, open_shape
from secateur.corpus.rows import Corpus, Row, Sample, make_corpus
from secateur.forward.backends.choose import choose_backend
from secateur.forward.backends.grouped_products import wait_for
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.batches import make_micro_batches
from secateur.forward.skeleton import build_skeleton, fill_parameters
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights, WeightSource
from secateur.pruning.choose import Pruning, choose
from secateur.pruning.criteria.registry import CRITERIA
from secateur.statistics.statistics import Statistics

ROW = 2048
"""Tokens of a document."""
SMALL = {
    "hidden_size": 256, "intermediate_size": 192, "moe_intermediate_size": 64, "num_experts": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "global_head_dim": 128,
    "vocab_size": 4096, "vocab_size_per_layer_input": 4096,
}  # fmt: skip
"""Where there is no GPU, a model of this size."""


def config_of(layers: int, small: bool) -> dict[str, Any]:
    """Gemma 4 26B-A4B's text model with so many layers."""
    text = copy.deepcopy(gemma4_facts.CONFIG["text_config"])
    text |= {
        "architectures": ["Gemma4ForCausalLM"],
        "num_hidden_layers": layers,
        "layer_types": text["layer_types"][:layers],
        **(SMALL if small else {}),
    }
    return text


@dataclass(frozen=True)
class Random:
    """Random weights, made when they are first asked for and kept on a device."""

    checkpoint: Checkpoint
    device: torch.device
    held: dict[str, Tensor]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.checkpoint.config

    @property
    def family(self) -> Any:
        return self.checkpoint.family

    def names(self) -> Sequence[str]:
        return CheckpointWeights(self.checkpoint).names()

    def tensor(self, name: str) -> Tensor:
        if name not in self.held:
            shape = self.checkpoint.specs[name].shape
            self.held[name] = random(name, tuple(shape), self.device)
        return self.held[name]

    def experts(self, name: str) -> Tensor:
        return self.tensor(name)


def random(name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if "norm" in name or len(shape) < 2:
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
    scale = 0.15 if "router" in name else 0.02
    for part in tensor if len(shape) > 2 else [tensor]:  # an expert at a time: less memory
        part.normal_(0.0, scale)
    return tensor


@contextmanager
def weights_of(source: WeightSource) -> Iterator[None]:
    """Let calibrations read the weights of a source."""
    before = layer_pass.CheckpointWeights
    layer_pass.CheckpointWeights = lambda _: source
    try:
        yield
    finally:
        layer_pass.CheckpointWeights = before


def rows_of(tokens: int, vocab: int, length: int) -> Corpus:
    draw = np.random.default_rng(0)
    count = max(1, tokens // length)
    rows = [
        Row(draw.integers(0, vocab, length), np.zeros(length, np.int32),
            np.arange(length, dtype=np.int32), "random", (number,))
        for number in range(count)
    ]  # fmt: skip
    samples = [Sample("random", "random", f"{number:064x}", length) for number in range(count)]
    return make_corpus(rows, samples, {})


class Clock:
    """Seconds of the layers of a calibration, without what comes before and after."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        run = layer_pass._run_layers

        def timed(*given: Any) -> Any:
            wait_for(self.device)
            begun = time.perf_counter()
            found = run(*given)
            wait_for(self.device)
            self.seconds = time.perf_counter() - begun
            return found

        layer_pass._run_layers = timed
        try:
            yield
        finally:
            layer_pass._run_layers = run


def best_of(times: int, work: Callable[[], float]) -> list[float]:
    return [work() for _ in range(times)]


def time_calibration(
    checkpoint: Checkpoint, backend: TorchDevice, corpus: Corpus, sampled: int
) -> float:
    clock = Clock(backend.device)
    with clock.watch():
        layer_pass.calibrate(checkpoint, corpus, sampling=Sampling(sampled), backend=backend)
    return clock.seconds


def time_plain(source: Random, backend: TorchDevice, corpus: Corpus) -> float:
    """The pass without sums."""
    checkpoint = source.checkpoint
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    batches = make_micro_batches(corpus.rows, hidden, backend.batch_size)
    with ForwardPass(source, batches, backend) as forward:
        wait_for(backend.device)
        begun = time.perf_counter()
        for layer in range(checkpoint.layers):
            with forward.load_layer(layer) as module:
                forward.run(module, layer)
        forward.finish()
        wait_for(backend.device)
        return time.perf_counter() - begun


def time_transformers(
    source: Random, backend: TorchDevice, corpus: Corpus, function: str, tokens: int
) -> list[float]:
    """transformers' own forward of all layers, with the same weights in bfloat16."""
    model = build_skeleton(source, backend)
    model.set_experts_implementation(function)
    names = {n: n for n in model.state_dict() if not n.startswith("lm_head.")}
    with fill_parameters(model, names, _AsTheyAre(source)), torch.inference_mode():
        lines = max(1, tokens // len(corpus.rows[0].input_ids))
        ids = [torch.from_numpy(np.stack([row.input_ids for row in corpus.rows[i : i + lines]]))
               for i in range(0, len(corpus.rows), lines)]  # fmt: skip
        embedded = [model.model.embed_tokens(part.to(backend.device)) for part in ids]

        def once() -> float:
            wait_for(backend.device)
            begun = time.perf_counter()
            for part in embedded:
                model.base_model(inputs_embeds=part, use_cache=False)
            wait_for(backend.device)
            return time.perf_counter() - begun

        once()
        return best_of(3, once)


@dataclass(frozen=True)
class _AsTheyAre:
    source: Random

    def tensor(self, name: str) -> Tensor:
        return self.source.tensor(name)

    experts = tensor


def open_random(layers: int, small: bool, folder: Path, device: torch.device) -> Random:
    """A model of which only the shapes are on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(layers, small)))
    checkpoint = open_shape(folder / "config.json")
    checkpoint._computed["identity"] = "random"
    return Random(checkpoint, device, {})


def write_checkpoint(source: Random, folder: Path, seconds: float) -> Checkpoint:
    """The first layers of a model as a checkpoint on disk, as many as can be written in time."""
    begun = time.perf_counter()
    names = list(source.names())
    weight_map: dict[str, str] = {}
    layers = 0
    folder.mkdir(parents=True)
    for layer in range(source.checkpoint.layers):
        if layer and layer % 6 == 0 and time.perf_counter() - begun > seconds:
            break  # after a layer of full attention, which has to be the last
        mine = [name for name in names if f".layers.{layer}." in name]
        shard = f"model-{layer:02d}.safetensors"
        save_file({n: source.tensor(n).cpu() for n in mine}, folder / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(mine, shard)
        layers += 1
    rest = [name for name in names if ".layers." not in name]
    save_file({n: source.tensor(n).cpu() for n in rest}, folder / "model-rest.safetensors",
              {"format": "pt"})  # fmt: skip
    weight_map |= dict.fromkeys(rest, "model-rest.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {**source.config, "num_hidden_layers": layers}
    config["layer_types"] = config["layer_types"][:layers]
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(folder)
    checkpoint._computed["identity"] = "random"
    return checkpoint


def forget_files(folder: Path) -> bool:
    """Let the system forget what it holds of the files; False where it may not be told to."""
    os.sync()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def read_rate(folder: Path, threads: int) -> float:
    """Bytes per second that the disk gives to several readers, of files not held in memory."""
    from concurrent.futures import ThreadPoolExecutor

    forget_files(folder)
    files = sorted(folder.glob("model-[0-9]*.safetensors"))[:6]

    def read(part: tuple[Path, int, int]) -> int:
        path, start, size = part
        buffer = bytearray(16 << 20)
        done = 0
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while done < size and (got := file.readinto(buffer)):
                done += got
        return done

    parts = []
    for path in files:
        size = path.stat().st_size
        each = size // threads + 1
        parts += [(path, start, each) for start in range(0, size, each)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(read, parts))
    return total / (time.perf_counter() - begun)


def ceilings(device: torch.device, small: bool) -> dict[str, float]:
    """FLOP/s of one large bfloat16 and float32 product; bytes/s from locked memory."""
    found = {}
    size = 1024 if small else 8192
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def product(one: Tensor = one, other: Tensor = other) -> float:
            wait_for(device)
            begun = time.perf_counter()
            for _ in range(3):
                one @ other
            wait_for(device)
            return (time.perf_counter() - begun) / 3

        product()
        found[f"{name}_flops"] = 2.0 * size**3 / min(best_of(3, product))
    if device.type == "cuda":
        host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        there = torch.empty_like(host, device=device)

        def copy_once() -> float:
            wait_for(device)
            begun = time.perf_counter()
            there.copy_(host, non_blocking=True)
            wait_for(device)
            return time.perf_counter() - begun

        found["to_device_bytes"] = (1 << 30) / min(best_of(4, copy_once))
    return found


def active_flops(checkpoint: Checkpoint) -> float:
    """Floating point operations of all layers per token, without attention over the context."""
    total = 0.0
    for name, place in checkpoint.matches.items():
        if place.layer is None or not place.row.axes or len(checkpoint.specs[name].shape) < 2:
            continue
        share = checkpoint.top_k / checkpoint.experts if place.role.startswith("expert.") else 1.0
        total += 2.0 * share * checkpoint.specs[name].elements
    return total


def summary(seconds: Sequence[float], tokens: int, flops: float, limit: float) -> dict[str, Any]:
    best = min(seconds)
    return {
        "seconds": [round(one, 4) for one in seconds],
        "tokens_per_second": round(tokens / best),
        "share_of_matrix_limit": round(flops * tokens / best / limit, 3),
    }


def profile(work: Callable[[], Any]) -> str:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
    averages = found.key_averages()
    return (
        averages.table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)
        + "\n"
        + averages.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60)
    )


TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def device_statistics(device: str, folder: Path) -> dict[str, Statistics]:
    """gemmule's statistics on the device, in both types of products; those in the folder are not
    made again."""
    import criteria as bench

    from secateur.statistics.file import load, save

    checkpoint = open_checkpoint("gemmule")
    found = {}
    for name, dtype in TYPES.items():
        path = folder / f"gemmule-{name}.safetensors"
        if not path.exists():
            backend = choose_backend(device, dtype=dtype)
            if not isinstance(backend, TorchDevice):
                backend = TorchDevice(torch.device("cpu"), dtype)
            corpus = bench.read_sets(checkpoint, "calibration")
            save(layer_pass.calibrate(checkpoint, corpus, backend=backend), path)
        found[name] = load(path)
    return found


def agreement(device: str, folder: Path) -> dict[str, Any]:
    """gemmule on the CPU and on the device: scores, kept sets and what the pruned models lose."""
    import criteria as bench

    checkpoint = open_checkpoint("gemmule")
    corpus = bench.read_sets(checkpoint, "calibration")
    others = device_statistics(device, folder)
    cpu = layer_pass.calibrate(checkpoint, corpus)
    model = bench.Masked(checkpoint)
    held = bench.held_out(model, bench.read_sets(checkpoint, "test"))
    found: dict[str, Any] = {"tokens": corpus.tokens, "test_tokens": int(held.tokens.sum())}
    for name, other in others.items():
        found[name] = {"device": other.devices[0], **compare_statistics(checkpoint, cpu, other)}
        found[name]["kl"] = [
            {
                "criterion": criterion,
                "drop": drop,
                "cpu": kl_of(bench, model, held, checkpoint, cpu, criterion, drop),
                "device": kl_of(bench, model, held, checkpoint, other, criterion, drop),
            }
            for criterion in ("rerouted", "reap")
            for drop in (0.25, 0.5)
        ]
    return found


def kl_of(
    bench: Any, model: Any, held: Any, checkpoint: Checkpoint, statistics: Statistics,
    criterion: str, drop: float,
) -> float:  # fmt: skip
    """Mean divergence per held-out token with the experts that the statistics choose."""
    keep = choose(checkpoint, statistics, Pruning(drop=drop, criterion=criterion)).keep
    return float(bench.divergence(model, held, keep).sum() / held.tokens.sum())


def compare_statistics(checkpoint: Checkpoint, one: Statistics, other: Statistics) -> Any:
    """Per criterion: difference and Spearman correlation of scores, overlap of kept sets."""
    from scipy.stats import spearmanr

    from secateur.pruning.criteria.base import score

    found: dict[str, Any] = {}
    moved = sum(int(np.abs(one.count(n) - other.count(n)).sum()) for n in one.layers) / 2
    choices = sum(int(one.count(n).sum()) for n in one.layers)
    found["choices_moved"] = round(moved / choices, 6)
    for name in ("rerouted", "reap", "weighted_frequency", "weighted_ean_sum"):
        ours, theirs = (score(each, CRITERIA[name]) for each in (one, other))
        same = [float(spearmanr(ours[n], theirs[n]).statistic) for n in one.layers]
        scale = [
            float(np.abs(ours[n] - theirs[n]).max() / np.abs(ours[n]).max()) for n in one.layers
        ]
        overlap = {}
        for drop in (0.125, 0.25, 0.5):
            sets = [
                choose(checkpoint, each, Pruning(drop=drop, criterion=name)).keep
                for each in (one, other)
            ]
            kept = [len(set(sets[0][n]) & set(sets[1][n])) / len(sets[0][n]) for n in one.layers]
            overlap[str(drop)] = [round(float(np.mean(kept)), 4), round(min(kept), 4)]
        found[name] = {
            "spearman_mean": round(float(np.mean(same)), 5),
            "spearman_least": round(min(same), 5),
            "largest_difference": round(float(max(scale)), 5),
            "kept_by_both_mean_and_least": overlap,
        }
    return found


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
            book.note("first", lambda: time_calibration(source.checkpoint, backend, first, 0))
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
            return [time_calibration(checkpoint, backend, corpus, options.sampled)]

        note("rerouted", solved)
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
