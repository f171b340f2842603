"""What a calibration run knows: sums per layer, category and expert, and imatrix sums.

Sums, never means, and exact ones (calibration.exact): shards, domains and machines merge to the
same bytes in any order. Shapes: C categories, E experts, S samples.

The file is safetensors with one JSON document in its metadata:

    layer.{l}.tokens      int64 [C, E]        tokens that the expert worked on
    layer.{l}.sums        int64 [2, F, C, E]  exact sums of FIELDS
    layer.{l}.largest     float32 [C, E]      largest absolute element of its outputs
    layer.{l}.samples     int64 [S, E]        sum of |gate * output|, in units of 2**-32
    layer.{l}.rerouted.*                      the solved removal order (calibration.reroute)
    imatrix.{name}.sums   int64 [2, M, N]     exact sums of squared inputs, M matrices of N inputs
    imatrix.{name}.tokens int64 [M]           tokens behind them
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from secateur.errors import StatisticsError
from secateur.statistics import exact
from secateur.system.atomic import write_safetensors

FIELDS = (
    "gate",
    "norm",
    "gate_norm",
    "squared_norm",
    "reference_gate",
    "reference_gate_norm",
)
"""What is summed over the tokens of an expert: its true coefficient g, the norm of its output
|f|, g|f|, |f|^2, and g and g|f| with the reference's gate (softmax of the router's logits over
the chosen experts, nothing else)."""

SAMPLE_UNIT = 2.0**-32
VERSION = 1

Array = NDArray[Any]


@dataclass(frozen=True)
class Statistics:
    """The result of observing a model on a corpus.

    `model` names the checkpoint (source, revision, identity, layers, experts, top_k);
    `corpora` describes every corpus merged in, sorted by hash; `samples` lists source, category,
    sha256 and tokens of each document, sorted by `sample_key`, and gives the `samples` arrays
    their rows.
    """

    model: Mapping[str, Any]
    categories: tuple[str, ...]
    tokens: Mapping[str, int]
    skipped: int
    corpora: tuple[Mapping[str, Any], ...]
    samples: tuple[Mapping[str, Any], ...]
    arrays: Mapping[str, Array] = field(repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """The MoE layers, ascending."""
        return tuple(
            sorted(int(name.split(".")[1]) for name in self.arrays if name.endswith(".largest"))
        )

    @property
    def experts(self) -> int:
        """Experts per MoE layer."""
        return int(self.model["experts"])

    @property
    def top_k(self) -> int:
        """Experts chosen per token."""
        return int(self.model["top_k"])

    def count(self, layer: int) -> NDArray[np.int64]:
        """int64 [C, E]: tokens that each expert worked on."""
        return self.arrays[f"layer.{layer}.tokens"]

    def sum(self, layer: int, what: str) -> NDArray[np.float64]:
        """float64 [C, E]: one of FIELDS, summed."""
        return exact.value(self.arrays[f"layer.{layer}.sums"][:, FIELDS.index(what)])

    def largest(self, layer: int) -> NDArray[np.float32]:
        """float32 [C, E]: largest absolute element of an output."""
        return self.arrays[f"layer.{layer}.largest"]

    def sample_norms(self, layer: int) -> NDArray[np.float64]:
        """float64 [S, E]: per sample, the sum of |gate * output|."""
        return self.arrays[f"layer.{layer}.samples"] * SAMPLE_UNIT

    def importance(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """{running name: (squared inputs float64 [M, N], tokens int64 [M])}."""
        names = [n.removesuffix(".sums") for n in self.arrays if n.startswith("imatrix.")]
        return {
            name.removeprefix("imatrix."): (
                exact.value(self.arrays[f"{name}.sums"]),
                self.arrays[f"{name}.tokens"],
            )
            for name in names
            if f"{name}.sums" in self.arrays
        }

    def header(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON."""
        return {
            "version": VERSION,
            "model": dict(self.model),
            "categories": list(self.categories),
            "tokens": dict(self.tokens),
            "skipped": self.skipped,
            "corpora": [dict(corpus) for corpus in self.corpora],
            "samples": [dict(sample) for sample in self.samples],
        }


def save(statistics: Statistics, path: Path) -> None:
    """Write to a file that is complete or as it was; same statistics, same bytes.

    Raises WriteError when the disk refuses.
    """
    text = json.dumps(statistics.header(), sort_keys=True, ensure_ascii=False)
    write_safetensors(path, statistics.arrays, {"secateur": text})


def load(path: Path) -> Statistics:
    """Read what `save` wrote.

    Raises StatisticsError for a file that is missing, damaged, or of another kind or version.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata["secateur"])
        if header["version"] != VERSION:
            raise StatisticsError(
                f"{path} has statistics of version {header['version']}, this secateur reads "
                f"{VERSION}: calibrate again"
            )
        statistics = Statistics(
            model=header["model"],
            categories=tuple(header["categories"]),
            tokens=header["tokens"],
            skipped=header["skipped"],
            corpora=tuple(header["corpora"]),
            samples=tuple(header["samples"]),
            arrays=arrays,
        )
        _check_shapes(statistics)
        return statistics
    except FileNotFoundError:
        raise StatisticsError(f"{path} does not exist: make it with `secateur calibrate`") from None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise StatisticsError(
            f"{path} is no statistics file of secateur ({error}): calibrate again"
        ) from None


def _check_shapes(statistics: Statistics) -> None:
    """Raises KeyError or ValueError when an array of the experts is missing or of another shape."""
    categories, experts = len(statistics.categories), statistics.experts
    shapes = {
        "tokens": (categories, experts),
        "sums": (2, len(FIELDS), categories, experts),
        "largest": (categories, experts),
        "samples": (len(statistics.samples), experts),
    }
    for layer in statistics.layers:
        for what, shape in shapes.items():
            name = f"layer.{layer}.{what}"
            if (got := statistics.arrays[name].shape) != shape:
                raise ValueError(f"{name} has shape {list(got)}, expected {list(shape)}")


def sample_key(sample: Mapping[str, Any]) -> tuple[str, str]:
    """What makes two documents the same sample: their content and their category."""
    return str(sample["sha256"]), str(sample["category"])


def merge(left: Statistics, right: Statistics) -> Statistics:
    """Both runs as one. Associative and commutative to the bit; removal orders are not sums and
    are left out (solve them in a pass over the whole corpus).

    Raises StatisticsError when the two are of different models.
    """
    if left.model["identity"] != right.model["identity"]:
        raise StatisticsError(
            f"cannot merge statistics of {left.model['source']} and {right.model['source']}: "
            "they were made on different models"
        )
    categories = tuple(sorted({*left.categories, *right.categories}))
    samples = _merged_samples(left.samples, right.samples)
    rows = {sample_key(sample): row for row, sample in enumerate(samples)}
    arrays: dict[str, Array] = {}
    for part in (left, right):
        for name, array in part.arrays.items():
            if ".rerouted." in name:
                continue
            spread = _spread(name, array, part, categories, rows)
            arrays[name] = _combined(name, arrays[name], spread) if name in arrays else spread
    tokens = {c: left.tokens.get(c, 0) + right.tokens.get(c, 0) for c in categories}
    corpora = {json.dumps(corpus, sort_keys=True): corpus for corpus in left.corpora}
    corpora.update({json.dumps(corpus, sort_keys=True): corpus for corpus in right.corpora})
    return Statistics(
        # The same weights may lie in two places; either name would do, if it is always the same.
        model=min(left.model, right.model, key=lambda model: json.dumps(model, sort_keys=True)),
        categories=categories,
        tokens=tokens,
        skipped=left.skipped + right.skipped,
        corpora=tuple(corpora[key] for key in sorted(corpora)),
        samples=samples,
        arrays={name: arrays[name] for name in sorted(arrays)},
    )


def _merged_samples(
    left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    together: dict[tuple[str, str], dict[str, Any]] = {}
    for sample in (*left, *right):
        known = together.setdefault(sample_key(sample), {**sample, "tokens": 0})
        known["tokens"] += sample["tokens"]
        known["source"] = min(known["source"], sample["source"])
    return tuple(together[key] for key in sorted(together))


def _spread(
    name: str,
    array: Array,
    part: Statistics,
    categories: Sequence[str],
    rows: Mapping[tuple[str, str], int],
) -> Array:
    """The part's array with its categories or samples at the places they have in the whole."""
    if name.endswith(".samples"):
        axis, size = 0, len(rows)
        places = [rows[sample_key(sample)] for sample in part.samples]
    elif name.startswith("layer."):
        axis, size = array.ndim - 2, len(categories)
        places = [categories.index(category) for category in part.categories]
    else:
        return array
    shape = list(array.shape)
    shape[axis] = size
    spread = np.zeros(shape, array.dtype)
    index: list[Any] = [slice(None)] * array.ndim
    index[axis] = places
    spread[tuple(index)] = array
    return spread


def _combined(name: str, left: Array, right: Array) -> Array:
    if name.endswith(".largest"):
        return np.maximum(left, right)
    if name.endswith(".sums"):
        return exact.add(left, right)
    return np.asarray(left + right)
