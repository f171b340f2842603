"""`corpus`: the mixes that ship, and what a mix will give before it is used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.api.estimating import Task, estimate
from secateur.api.models import Model, open_headers
from secateur.api.requests import Calibration
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.check import SAMPLE, MixCheck, check_sources
from secateur.corpus.load import override
from secateur.corpus.mix import Mix, list_mixes, read_mix
from secateur.corpus.packing import Document, pack
from secateur.corpus.rows import Sample, make_corpus
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import CorpusError
from secateur.estimation.stage import Estimate
from secateur.system.progress import Progress, no_progress

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus


@dataclass(frozen=True)
class CorpusCheck:
    """What a mix gives for a model; `estimate` is of calibrating on it, None where the model's
    weights are not there, or a GPU would calibrate."""

    found: MixCheck
    estimate: Estimate | None

    def refuse(self) -> None:
        """Raise CorpusError when the corpus cannot be made as it is, naming the first source."""
        for source in self.found.sources:
            if source.fails:
                raise CorpusError(f"source {source.name!r}: {source.problems[-1]}")

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        mix = self.found.mix
        return {
            "mix": mix.name,
            "seed": mix.seed,
            "sequence_length": mix.sequence_length,
            "overlong": mix.overlong,
            "tokens": self.found.tokens,
            "categories": self.found.categories,
            "problems": list(self.found.problems),
            "sources": [
                {
                    **asdict(source),
                    "lengths": None if source.lengths is None else source.lengths._asdict(),
                    "exact": source.exact,
                }
                for source in self.found.sources
            ],
            "estimate": None if self.estimate is None else self.estimate.to_json(),
        }


def list_corpora() -> tuple[Mix, ...]:
    """The mixes that come with secateur."""
    return tuple(read_mix(name) for name in list_mixes())


def check_corpus(
    mix: str | Path,
    model: Model,
    *,
    sample: int = SAMPLE,
    seed: int | None = None,
    sequence_length: int | None = None,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> CorpusCheck:
    """Render a sample of every source with the model's chat template, and count its tokens.

    No weights are read, except for a few seconds of trying where they are there and calibrating
    would take long. Raises CorpusError for a mix that cannot be read.
    """
    plan = override(read_mix(mix), seed, sequence_length)
    if sample < 1:
        raise CorpusError(f"sample is {sample} documents, expected at least 1")
    checkpoint = open_headers(model, revision)
    found = check_sources(plan, load_tokenizer(checkpoint.path), sample, progress)
    expected = None
    if found.drawn and not checkpoint.shape_only:
        expected = _estimate(checkpoint, found, workers, progress)
    return CorpusCheck(found, expected)


def _estimate(
    checkpoint: Checkpoint, found: MixCheck, workers: int | None, progress: Progress
) -> Estimate | None:
    from secateur.forward.backends.choose import is_cpu

    calibration = Calibration(corpus=found.mix.name)
    if not is_cpu(calibration.device):
        return None
    task = Task(
        Path("statistics.safetensors"),
        _corpus_of(found),
        tokens=found.tokens,
        calibration=calibration,
        hashes=True,
    )
    return estimate(checkpoint, task, workers=workers, progress=progress)


def _corpus_of(found: MixCheck) -> Corpus:
    """The rows of the sampled documents."""
    documents = [
        Document(number, category, ids) for number, (category, ids) in enumerate(found.drawn)
    ]
    samples = [
        Sample("sample", one.category, f"{one.sample:064x}", len(one.input_ids))
        for one in documents
    ]
    rows = pack(documents, found.mix.sequence_length, together=found.mix.pack)
    return make_corpus(rows, samples, {})
