"""Notes on the names and the number of GGUF files, before they are published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from secateur.formats.gguf.naming import MMPROJ, label_of, without_part


def file_notes(files: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Sentences on {format: {file: ...}}: labels that two files share, files that are cut."""
    labelled: defaultdict[str, set[str]] = defaultdict(set)
    notes = []
    for format_id, names in files.items():
        whole = {without_part(name) for name in names if name.endswith(".gguf")}
        for name in sorted(whole):
            label = label_of(name)
            if label and not name.startswith(MMPROJ):
                labelled[label].add(name)
        if len(names) > 1 and whole:
            notes.append(
                f"{format_id}: {len(names)} files; Ollama cannot pull a model in several files "
                "(llama-gguf-split --merge makes one of them)"
            )
    notes += [
        f"{' and '.join(sorted(names))} have the same label, {label}: the Hub and Ollama cannot "
        "tell them apart by it, so name the whole file when you download one"
        for label, names in labelled.items()
        if len(names) > 1
    ]
    return notes
