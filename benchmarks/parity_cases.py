"""The two forms of gemmule that file types are compared on, and the files of both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import secateur
from secateur import Calibration, Formats, Pruning
from secateur.checkpoint.hub import GEMMULE, gemmule_folder
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import PlanError
from secateur.planning.imatrix_policy import FILE as IMATRIX

FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
"""File types that the converter writes itself, and its word for them."""

FORMS = ("whole", "pruned")


LLAMA_CPP = Path("out/llama.cpp")


def family_of(ftype: str) -> str:
    """What kind of types a file type is made of."""
    if ftype in FLOATS:
        return "float"
    if ftype.startswith("MXFP4"):
        return "mxfp4"
    if ftype.startswith("IQ"):
        return "i-quants"
    if "_K" in ftype:
        return "k-quants"
    return "legacy" if ftype[1] in "458" else "one and two bits"


class Theirs:
    """llama.cpp's own way from a checkpoint to a GGUF."""

    def __init__(self, tree: Path, binaries: Path, threads: int) -> None:
        self.converter = tree / "convert_hf_to_gguf.py"
        self.quantizer = binaries / "llama-quantize"
        self._threads = threads
        self._env = {**os.environ, "LD_LIBRARY_PATH": str(binaries)}

    def make(self, case: Case, ftype: str, out: Path) -> str | None:
        """Write a file; returns llama-quantize's words when it refuses to."""
        if ftype in FLOATS and case.imatrix is None:
            self._converted(case, out, FLOATS[ftype])
            return None
        source = case.folder / "theirs-16.gguf"
        if not source.exists():
            self._converted(case, source, "bf16")
        weigh = [] if case.imatrix is None else ["--imatrix", case.imatrix]
        code, said = self._ran(self.quantizer, *weigh, source, out, ftype, self._threads)
        if not code:
            return None
        out.unlink(missing_ok=True)
        return next((line for line in said if "imatrix" in line and "equir" in line), said[-1])

    def _converted(self, case: Case, out: Path, kind: str) -> None:
        convert = [sys.executable, self.converter, case.checkpoint.path, "--outtype", kind]
        code, said = self._ran(*convert, "--outfile", out)
        if code:
            raise RuntimeError("\n".join(said[-20:]))

    def _ran(self, *command: object) -> tuple[int, list[str]]:
        words = list(map(str, command))
        done = subprocess.run(words, check=False, env=self._env, capture_output=True)
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()


class Case:
    """One form of gemmule with an importance matrix, or without: all that can be made of it."""

    def __init__(self, work: Path, form: str, weighed: bool) -> None:
        self.form, self.weighed = form, weighed
        self.folder = work / f"{form}-{'imatrix' if weighed else 'plain'}"
        self._matrix = work / "matrix" / IMATRIX if weighed else None
        self._keep = Pruning(experts=open_checkpoint(GEMMULE).experts)
        source = gemmule_folder()
        if form == "pruned":
            source = work / "gemmule-24e"
            self._keep = Pruning(drop_map=_drop_map(work))
            if not source.exists():
                secateur.apply(secateur.plan(GEMMULE, self._keep, Formats()), source)
        self.checkpoint: Checkpoint = open_checkpoint(source)
        """What the converter starts from."""
        self.refused: dict[str, str] = {}
        """The types that are refused, and our words."""

    @property
    def imatrix(self) -> Path | None:
        """The matrix of the experts kept, as it lies beside our files."""
        return self._ours / IMATRIX if self.weighed else None

    def file_of(self, ftype: str) -> Path:
        """Our file of a type."""
        (found,) = self._ours.glob(f"*-{ftype}.gguf")
        return found

    def make(self, types: Sequence[str], threads: int) -> None:
        """Write all types that can be made, unless an earlier run has."""
        self._ours = self.folder / "ours"
        try:
            plan = self._plan(*types)
        except PlanError:
            for ftype in types:
                try:
                    self._plan(ftype)
                except PlanError as error:
                    self.refused[ftype] = str(error)
            plan = self._plan(*(ftype for ftype in types if ftype not in self.refused))
        if not self._ours.exists():
            secateur.apply(plan, self._ours, imatrix=self._matrix, workers=threads)

    def _plan(self, *types: str) -> secateur.Plan:
        request = Formats(to="gguf", types=types)
        return secateur.plan(GEMMULE, self._keep, request, imatrix=self._matrix)


def _drop_map(work: Path) -> Path:
    """Every fourth expert goes, another one in every layer."""
    checkpoint = open_checkpoint(GEMMULE)
    gone = {
        str(layer): {"drop": list(range(layer % 4, checkpoint.experts, 4))}
        for layer in checkpoint.moe_layers
    }
    path = work / "drop.json"
    path.write_text(json.dumps({"layers": gone}))
    return path


def make_matrix(work: Path) -> None:
    """The importance matrix of all experts, by the line that a user would take."""
    if (work / "matrix").exists():
        return
    stats = work / "stats.safetensors"
    if not stats.exists():
        secateur.calibrate(GEMMULE, stats, Calibration(GEMMULE, reroute_tokens=1024))
    request = Formats(to="gguf", types=("Q8_0",))
    everyone = Pruning(experts=open_checkpoint(GEMMULE).experts)
    plan = secateur.plan(GEMMULE, everyone, request, statistics=stats)
    secateur.apply(plan, work / "matrix", statistics=stats)
