"""Whether a server does what a protocol says of thinking, found out before the first question.

What it does not do makes its answers those of another protocol: it is in the lock, and is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur.errors import OutputError
from secateur.evaluation.asking.lock import hash_json
from secateur.evaluation.asking.server import AskedServer
from secateur.serving.probe import Probe, read_probe
from secateur.serving.settings import Thinking
from secateur.system.atomic import write_text
from secateur.system.text_files import read_json

BROKEN = "thinking_not_as_asked"
"""What the lock's rules call what a server does not do; not there where it does all."""


def probe_once(server: AskedServer, model: str, thinking: Thinking, folder: Path) -> Probe | None:
    """What a probe found of a model (by its hash), kept in a folder; None where nothing is asked
    of thinking.

    Raises EngineError when the server does not answer, OutputError for a file that is not ours,
    WriteError.
    """
    if thinking.enabled is None and thinking.budget is None:
        return None
    key = hash_json([model, server.identity, asdict(thinking)])
    path = folder / f"{key[:32]}.json"
    if path.is_file():
        try:
            return read_probe(read_json(path, "what a probe of thinking found", OutputError))
        except (KeyError, TypeError):
            raise OutputError(f"{path} is not what secateur wrote: remove it") from None
    found = server.probe(thinking)
    write_text(path, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
    return found


def rules_of(probe: Probe | None) -> Mapping[str, Any]:
    """What a lock says of a probe."""
    return {BROKEN: list(probe.broken)} if probe is not None and probe.broken else {}
