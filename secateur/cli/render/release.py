"""What `release` prints for people: what goes up, and what a push did."""

from __future__ import annotations

import json
from collections import Counter

from secateur.api.release import Release
from secateur.cli.render.table import Table
from secateur.system.sizes import show_bytes


def release_lines(release: Release) -> list[str | Table]:
    """The files, the front matter, notes, and where it lies now or how to send it."""
    bundle, card = release.bundle, release.card
    where = card.declared.get("repository", "a repository")
    rows = [
        (file.path, show_bytes(file.size), file.sha256[:12], file.kind) for file in bundle.files
    ]
    front = [f"  {key}: {json.dumps(word)}" for key, word in card.front_matter.items()]
    return [
        f"{release.out}: {len(bundle.files)} files, {show_bytes(bundle.size)}, for {where}",
        Table(("file", "size", "sha256", "kind"), rows, "lrll"),
        "front matter:",
        *front,
        *_left(release),
        *(f"note: {note}" for note in release.notes),
        *_end(release),
    ]


def _left(release: Release) -> list[str]:
    counted = Counter(release.bundle.left.values())
    return [f"stays here: {count} files ({why})" for why, count in counted.items()]


def _end(release: Release) -> list[str]:
    pushed = release.pushed
    if pushed is None:
        return ["nothing was sent: --push OWNER/NAME sends it"]
    others = [f"note: also there: {', '.join(pushed.others)}"] if pushed.others else []
    return [
        *others,
        f"{pushed.address}: {pushed.sent} files sent, {pushed.there} were there; all hashes are "
        "as they are here",
    ]
