"""The text that statistics saw, as hashes (corpus.text_hashes), next to the statistics file."""

from __future__ import annotations

from pathlib import Path

from secateur.corpus.text_hashes import TextHashes
from secateur.statistics.described_file import (
    FileKind,
    describe,
    hash_arrays,
    open_described,
)
from secateur.system.atomic import write_safetensors

_METADATA = "secateur-text"
_VERSION = 2
_KIND = FileKind("holds no hashes of a text", _METADATA, _VERSION, "the same text")


def text_path(statistics: Path) -> Path:
    """Where the hashes of a statistics file lie: stats.safetensors, stats.text.safetensors."""
    return statistics.with_name(f"{statistics.stem}.text{statistics.suffix}")


def save_text(hashes: TextHashes, path: Path) -> None:
    """Write to a file that is complete or as it was; same text, same bytes. Raises WriteError."""
    arrays = {"runs": hashes.runs, "passages": hashes.passages}
    about = {
        "hashes": hash_arrays(arrays.items()),
        "corpora": list(hashes.corpora),
        "documents": hashes.documents,
        "words": hashes.words,
        "all_runs": hashes.all_runs,
    }
    write_safetensors(path, arrays, describe(_KIND, about))


def load_text(path: Path) -> TextHashes:
    """Read what `save_text` wrote. Raises StatisticsError for anything else."""
    with open_described(path, _KIND) as (file, data):
        arrays = {name: file.get_tensor(name) for name in ("runs", "passages")}
        if hash_arrays(arrays.items()) != data["hashes"]:
            raise ValueError("it was changed")
        return TextHashes(
            tuple(data["corpora"]),
            int(data["documents"]),
            int(data["words"]),
            int(data["all_runs"]),
            **arrays,
        )
