"""The text that statistics saw, as hashes (corpus.text_hashes), next to the statistics file."""

from __future__ import annotations

import json
from pathlib import Path

from secateur.corpus.text_hashes import TextHashes
from secateur.statistics.described_file import FileKind, open_described
from secateur.system.atomic import write_safetensors

_METADATA = "secateur-text"
_VERSION = 1
_KIND = FileKind("holds no hashes of a text", _METADATA, _VERSION, "the same text")


def text_path(statistics: Path) -> Path:
    """Where the hashes of a statistics file lie: stats.safetensors, stats.text.safetensors."""
    return statistics.with_name(f"{statistics.stem}.text{statistics.suffix}")


def save_text(hashes: TextHashes, path: Path) -> None:
    """Write to a file that is complete or as it was; same text, same bytes. Raises WriteError."""
    about = {
        "version": _VERSION,
        "corpora": list(hashes.corpora),
        "documents": hashes.documents,
        "words": hashes.words,
        "all_runs": hashes.all_runs,
    }
    arrays = {"runs": hashes.runs, "passages": hashes.passages}
    write_safetensors(path, arrays, {_METADATA: json.dumps(about, sort_keys=True)})


def load_text(path: Path) -> TextHashes:
    """Read what `save_text` wrote. Raises StatisticsError for anything else."""
    with open_described(path, _KIND) as (file, data):
        return TextHashes(
            tuple(data["corpora"]),
            int(data["documents"]),
            int(data["words"]),
            int(data["all_runs"]),
            file.get_tensor("runs"),
            file.get_tensor("passages"),
        )
