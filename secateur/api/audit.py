"""The verb `audit` as a function: what a file is, and what becomes of what a card or a Modelfile
says of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from secateur.audit.claims import check_claims
from secateur.audit.finding import VERDICTS, Finding
from secateur.audit.gguf.identify import Identity, identify, made_of_file
from secateur.audit.gguf.shape import Shape, shape_of_file, shape_of_model
from secateur.audit.gguf.source import Header, is_file_source, read_parts
from secateur.audit.modelfile import modelfile_findings
from secateur.checkpoint.reader import open_shape
from secateur.errors import FormatError
from secateur.formats.gguf.split import part_name
from secateur.planning.imatrix_policy import FILE as IMATRIX_FILE
from secateur.system.text_files import read_text


@dataclass(frozen=True)
class Audit:
    """What an audit found: of the file (None for a config alone), of the card's statements, and of
    the Modelfile's instructions."""

    source: str
    file: Identity | None
    card: str | None
    claims: tuple[Finding, ...] = field(repr=False)
    modelfile: str | None = None
    instructions: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, the file's first."""
        of_file = self.file.findings if self.file else ()
        return (*of_file, *self.claims, *self.instructions)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What cannot be as it is said."""
        return tuple(finding for finding in self.findings if finding.verdict == "wrong")

    def counts(self) -> dict[str, int]:
        """{verdict: how many of the card's statements}."""
        found = Counter(finding.verdict for finding in self.claims)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "source": self.source,
            "file": self.file.to_json() if self.file else None,
            "card": self.card,
            "counts": self.counts(),
            "claims": [asdict(finding) for finding in self.claims],
            "modelfile": self.modelfile,
            "instructions": [asdict(finding) for finding in self.instructions],
        }


def audit_model(
    source: str | Path,
    *,
    claims: str | Path | None = None,
    modelfile: str | Path | None = None,
    config: str | Path | None = None,
    revision: str | None = None,
) -> Audit:
    """Say what a GGUF file is, and hold a card's statements against it or against a config.

    `source` is a GGUF (a local file, hf://owner/name/file.gguf, a URL), of which only the header
    is read, or a config: config.json, a model folder, a hub id, `gemmule`. `claims` is the file of
    a card, `modelfile` one of Ollama, for a GGUF; `config` is the model's, where the file's own
    header is not to be taken for it. Raises FormatError, CheckpointError or EngineError for what
    cannot be read.
    """
    text = read_text(Path(claims), "a model card", FormatError) if claims is not None else None
    headers: tuple[Header, ...] = ()
    identity = None
    if is_file_source(str(source)):
        headers = read_parts(str(source), revision)
        stated = _of_config(config, headers) if config is not None else None
        identity = identify(headers, stated)
        shape = stated
    else:
        stated = shape = _of_config(config or source, (), None if config else revision)
    found: tuple[Finding, ...] = ()
    if text is not None:
        file = None
        if headers and headers[0].gguf.tensors:
            own = shape_of_file(headers[0].gguf)
            # The file's own tensors decide; what the config adds is what no header says.
            shape = _with_file(stated, own) if stated is not None else own
            file = made_of_file(headers, shape)
        if shape is None:
            raise FormatError(
                f"{source}: holds a vocabulary and no tensors: name the model's config with "
                "--config to check a card"
            )
        found = check_claims(text, shape, file, identity.name if identity else None)
    instructions = _of_modelfile(modelfile, headers, str(source))
    return Audit(
        str(source),
        identity,
        str(claims) if claims is not None else None,
        found,
        str(modelfile) if modelfile is not None else None,
        instructions,
    )


def _of_modelfile(
    modelfile: str | Path | None, headers: tuple[Header, ...], source: str
) -> tuple[Finding, ...]:
    if modelfile is None:
        return ()
    if not headers:
        raise FormatError(
            f"{source}: is no GGUF, and a Modelfile is held against one: name the file"
        )
    text = read_text(Path(modelfile), "a Modelfile", FormatError)
    return modelfile_findings(text, str(modelfile), headers[0].gguf.metadata, source)


def ggufs_in(source: str | Path) -> tuple[Path, ...]:
    """The GGUF models of a local folder, of a split one the first part; none of anything else."""
    folder = Path(source)
    found = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    found = [path for path in found if path.name != IMATRIX_FILE]
    parts = {path: part_name(path.name) for path in found}
    return tuple(path for path, part in parts.items() if part is None or part.number == 1)


def _of_config(
    config: str | Path, headers: tuple[Header, ...], revision: str | None = None
) -> Shape:
    vocabulary = headers[0].gguf.metadata if headers else None
    if vocabulary is not None and "tokenizer.ggml.tokens" not in vocabulary:
        vocabulary = None
    return shape_of_model(open_shape(config, revision), vocabulary)


def _with_file(stated: Shape, own: Shape) -> Shape:
    """The config's shape with the file's number of experts."""

    if stated.architecture != own.architecture:
        return own
    return replace(stated, tensors=stated.with_experts(own.experts), experts=own.experts)
