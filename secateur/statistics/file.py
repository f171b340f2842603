"""The statistics file: safetensors with one JSON document in its metadata.

The document holds the hash of every array, so that what is read is what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from secateur.errors import StatisticsError
from secateur.statistics.described_file import FileKind, describe, hash_arrays, read_document
from secateur.statistics.statistics import VERSION, Statistics, array_name
from secateur.statistics.sums import KINDS, shape_of
from secateur.system.atomic import write_safetensors
from secateur.system.text_files import need_file

METADATA = "secateur"
"""The key of the JSON document."""

_KIND = FileKind("is no statistics file", METADATA, VERSION, "--corpus")


def save(statistics: Statistics, path: Path) -> None:
    """Write to a file that is complete or as it was; same statistics, same bytes.

    Raises WriteError when the disk refuses.
    """
    hashes = {name: hash_arrays([(name, array)]) for name, array in statistics.arrays.items()}
    data = {**statistics.header(), "hashes": hashes}
    write_safetensors(path, statistics.arrays, describe(_KIND, data))


def load(path: Path) -> Statistics:
    """Read what `save` wrote.

    Raises StatisticsError for a file that is missing, damaged, or of another kind or version.
    """
    return _load(path, lambda name: True)


def load_header(path: Path) -> Statistics:
    """The same without its arrays, which may be large. Raises StatisticsError."""
    return _load(path, lambda name: False)


def load_sums(path: Path, names: Collection[str]) -> Statistics:
    """The same with the layers' arrays of these names only, as far as it has them: a hundredth of
    a large file. Raises StatisticsError."""
    return _load(path, lambda name: name.startswith("layer.") and name.split(".", 2)[2] in names)


def _load(path: Path, is_wanted: Callable[[str], bool]) -> Statistics:
    try:
        need_file(path)
        with safe_open(path, "np") as file:
            header = read_document(_KIND, file.metadata())
            _check_version(path, header)
            _check_header(header)
            names = list(file.keys())
            if sorted(names) != sorted(header["hashes"]):
                raise ValueError("it has other arrays than its header names")
            arrays = {name: file.get_tensor(name) for name in names if is_wanted(name)}
            for name, array in arrays.items():
                if hash_arrays([(name, array)]) != header["hashes"][name]:
                    raise ValueError(f"{name} was changed")
        statistics = Statistics(
            model=header["model"],
            categories=tuple(header["categories"]),
            tokens=header["tokens"],
            skipped=header["skipped"],
            corpora=tuple(header["corpora"]),
            samples=tuple(header["samples"]),
            arrays=arrays,
            sums=header["sums"],
            shards=tuple(
                (str(sha), int(part), int(parts)) for sha, part, parts in header["shards"]
            ),
            devices=tuple(header.get("devices", ("cpu",))),
        )
        _check_arrays(statistics, is_wanted)
        return statistics
    except FileNotFoundError:
        raise StatisticsError(f"{path} does not exist: make it with `secateur calibrate`") from None
    except KeyError as error:
        raise _no_statistics(path, f"{error.args[0]} is missing") from None
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise _no_statistics(path, getattr(error, "strerror", None) or str(error)) from None


def _no_statistics(path: Path, reason: str) -> StatisticsError:
    return StatisticsError(
        f"{path} is no statistics file of secateur ({reason[:200]}): name a file that `secateur "
        "calibrate` or `secateur merge` wrote"
    )


def _check_version(path: Path, header: Any) -> None:
    if header["version"] != VERSION:
        raise StatisticsError(
            f"{path} has statistics of version {header['version']}, this secateur reads version "
            f"{VERSION}, which has a hash of every sum: calibrate again"
        )


def _check_header(header: Mapping[str, Any]) -> None:
    """Raises KeyError, TypeError or ValueError for a value of another kind than `save` writes."""
    model, categories, tokens = (header[key] for key in ("model", "categories", "tokens"))
    counts = [model["experts"], model["top_k"], model["layers"], header["skipped"]]
    counts += tokens.values()
    texts = [*categories, *header["sums"], *header.get("devices", ())]
    records = [*header["corpora"], *header["samples"]]
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("a count in it is no whole number")
    if not all(isinstance(text, str) for text in texts) or len(set(categories)) < len(categories):
        raise ValueError("a name in it is no text, or occurs twice")
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("a record in it has no keys")


def _check_arrays(statistics: Statistics, is_wanted: Callable[[str], bool]) -> None:
    """Raises KeyError or ValueError when a sum is missing or of another shape or kind."""
    sizes = len(statistics.categories), statistics.experts, len(statistics.samples)
    for name, kind in statistics.sums.items():
        if kind not in KINDS:
            raise ValueError(f"the sum {name} is of the unknown kind {kind}")
        shape = shape_of(kind, *sizes)
        for layer in statistics.layers:
            full = array_name(layer, name)
            if not is_wanted(full):
                continue
            if (got := statistics.arrays[full].shape) != shape:
                raise ValueError(f"{full} has shape {list(got)}, expected {list(shape)}")
