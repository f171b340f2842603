"""What `release` prints for people: what goes up, and what a push did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from secateur.api.release import Release
from secateur.checkpoint.model_card import MODEL_CARD
from secateur.cli.render.table import Table
from secateur.release.upload.bundle import UploadFile
from secateur.system.sizes import show_bytes, show_count

_INDEX = "model-index"


def release_lines(release: Release, *, every: bool = False) -> list[str | Table]:
    """What goes up, the front matter, notes, and where it lies now or how to send it. Small files
    of a folder are one line, but for `every`."""
    bundle, card = release.bundle, release.card
    where = card.declared.get("repository", "a repository")
    rows = list(_rows(bundle.files, every))
    front = [
        f"  {key}: {json.dumps(word) if key != _INDEX else _results(word)}"
        for key, word in card.front_matter.items()
    ]
    files = show_count(len(bundle.files), "file")
    return [
        f"{release.out}: {files}, {show_bytes(bundle.size)}, for {where}",
        Table(("file", "size", "sha256", "kind"), rows, "lrll"),
        "front matter:",
        *front,
        *_left(release),
        *(f"note: {note}" for note in release.notes),
        *_end(release),
    ]


def _rows(files: Sequence[UploadFile], every: bool) -> Iterator[tuple[str, str, str, str]]:
    """(file, size, hash, kind); small files of a folder together, where the first stands."""
    folders: dict[str, list[UploadFile]] = {}
    for file in files:
        if file.kind == "regular" and "/" in file.path and not every:
            folders.setdefault(file.path.partition("/")[0], []).append(file)
    for file in files:
        together = folders.get(file.path.partition("/")[0], [])
        if file not in together:
            yield file.path, show_bytes(file.size), file.sha256[:12], file.kind
        elif file is together[0]:
            size = show_bytes(sum(one.size for one in together))
            many = show_count(len(together), "small file")
            yield f"{file.path.partition('/')[0]}/: {many} (-v lists them)", size, "", file.kind


def _results(index: Sequence[Mapping[str, Any]]) -> str:
    """What the Hub's widget of results gets, in words."""
    names = [one["dataset"]["name"] for entry in index for one in entry["results"]]
    return f"accuracy on {', '.join(names)}"


def _left(release: Release) -> list[str]:
    counted = Counter(release.bundle.left.values())
    return [f"stays here: {show_count(count, 'file')} ({why})" for why, count in counted.items()]


def _end(release: Release) -> list[str]:
    pushed = release.pushed
    if pushed is None:
        return [
            f"read the card: {release.out / MODEL_CARD}",
            "nothing was sent: --push OWNER/NAME sends it (a new repository is private)",
        ]
    others = [f"note: also there: {', '.join(pushed.others)}"] if pushed.others else []
    return [
        *others,
        f"{pushed.address}: {show_count(pushed.sent, 'file')} sent, {pushed.there} there already; "
        "all hashes are as they are here",
    ]
