"""Outputs of secateur that a stranger changed: manifests, reports, evidence, links."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack import Attack, Goods, edit_json, instead, write

VERIFY = "verify {room}/made"
REPORT = "report {room}/made"
RELEASE = "release {room}/made --repository owner/name --base-model owner/base --license mit"


def _output(*changes: Callable[[Path], object]) -> Callable[[Goods, Path], object]:
    def make(goods: Goods, room: Path) -> None:
        folder = room / "made"
        folder.mkdir()
        for path in goods.made.rglob("*"):
            place = folder / path.relative_to(goods.made)
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, place) if path.stat().st_size > 1 << 20 else shutil.copy(path, place)
        for change in changes:
            change(folder)

    return make


def _json(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / name, change)


def _listed(name: str) -> Callable[[Path], object]:
    """A file among those of the manifest."""
    return _json("manifest.json", lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))


def _link(name: str, target: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.symlink(target, folder / name)

    return change


def _raw(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


ATTACKS = (
    Attack(
        "a manifest with a file above",
        _output(_listed("../../etc/passwd")),
        VERIFY,
        ("manifest.json", "../../etc/passwd"),
    ),
    Attack(
        "a manifest with an absolute path",
        _output(_listed("/etc/passwd")),
        VERIFY,
        ("manifest.json", "/etc/passwd"),
    ),
    Attack("a manifest with a zero byte", _output(_listed("a\0b")), VERIFY, ("manifest.json",)),
    Attack(
        "a manifest with escape sequences",
        _output(_listed("\x1b[2J")),
        VERIFY,
        ("made",),
        never="\x1b",
    ),
    Attack(
        "a manifest of huge sizes",
        _output(
            _json("manifest.json", lambda m: m["files"].update(a={"bytes": 1e400, "sha256": "0"}))
        ),
        VERIFY,
        ("manifest.json",),
    ),
    Attack(
        "a manifest nested without end",
        _output(_raw("manifest.json", b'{"files":' * 500_000)),
        VERIFY,
        ("manifest.json",),
    ),
    Attack(
        "an output with a link to a private file",
        _output(_link("run.json", "/etc/passwd")),
        RELEASE,
        ("run.json", "link"),
        never="root:",
    ),
    Attack(
        "an output with a link to a private folder",
        _output(_link("evidence/speed", "/etc")),
        RELEASE,
        code=0,
        never="root:",
    ),
    Attack("a report of lists", _output(_raw("report.json", b"[]")), REPORT, ("report.json",)),
    Attack(
        "a report nested without end",
        _output(_raw("report.json", b"[" * 500_000)),
        REPORT,
        ("report.json",),
    ),
    Attack(
        "a report of measurements of texts",
        _output(
            _json("report.json", lambda r: r["artefacts"][0]["measurements"][0].update(value="x"))
        ),
        REPORT,
        ("report.json",),
    ),
    Attack(
        "a report of measurements beyond numbers",
        _output(_json("report.json", lambda r: r["artefacts"][0].update(bytes=10**300))),
        REPORT,
        ("report.json",),
    ),
    Attack(
        "a report of an original of no bytes",
        _output(_json("report.json", lambda r: r.update(original_bytes=0))),
        REPORT,
        ("report.json",),
    ),
    Attack(
        "evidence of another kind",
        _output(_raw("evidence/tasks.json", json.dumps({"kind": "loops"}).encode())),
        REPORT,
        ("tasks.json",),
    ),
    Attack(
        "a run of another kind",
        _output(_raw("run.json", b'{"runs": [{"command": 7}]}')),
        REPORT,
        code=0,
    ),
    Attack(
        "a Modelfile without an end",
        write("Modelfile", 'FROM a\nTEMPLATE """' + "x" * 10**6),
        "audit {gguf} --modelfile {room}/Modelfile",
        ("Modelfile",),
    ),
    Attack(
        "a Modelfile with a template nested without end",
        write("Modelfile", 'FROM a\nTEMPLATE """' + "{{ " + "(" * 50_000 + '"""\n'),
        "audit {gguf} --modelfile {room}/Modelfile",
        code=0,
    ),
    Attack(
        "a card of numbers without end",
        write("card.md", "# a\n" + "1.5e" * 200_000 + "\n"),
        "audit {gguf} --claims {room}/card.md",
        ("line ", "characters"),
    ),
    Attack(
        "a card of one long table",
        write("card.md", "|a|b|\n|-|-|\n" + "|1|2" * 100_000 + "\n"),
        "audit {gguf} --claims {room}/card.md",
        ("line ", "characters"),
    ),
    Attack(
        "a card that is a pipe",
        instead("card.md", "pipe"),
        "audit {gguf} --claims {room}/card.md",
        code=0,
    ),
)
