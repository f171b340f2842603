"""Statistics files, their token samples, Gram matrices and hashes of text as one file each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.corpus.text_hashes import join_hashes
from secateur.errors import StatisticsError
from secateur.statistics.file import load
from secateur.statistics.gram_file import GramFile, gram_path, merge_grams
from secateur.statistics.merge import merge
from secateur.statistics.sample_file import SampleFile, merge_samples, sample_path
from secateur.statistics.statistics import Statistics
from secateur.statistics.text_file import load_text, save_text, text_path

SOLUTION = "rerouted.pooled.scores"
"""An array that is there when `rerouted` is solved."""


@dataclass(frozen=True)
class Merged:
    """Merged statistics, not yet saved, and the files that lack a token sample, or the Gram
    matrices that others have."""

    statistics: Statistics
    samples: tuple[SampleFile, ...]
    without_sample: tuple[Path, ...]
    lost_sums: tuple[str, ...]
    grams: tuple[GramFile, ...] = ()
    without_grams: tuple[Path, ...] = ()

    def notes(self, statistics: Statistics) -> list[str]:
        """What the merged file lacks, as it is saved, and what to do about it."""
        notes = []
        if missing := sorted({f"{part}/{parts}" for _, part, parts in self._missing()}):
            notes.append(f"parts of a corpus are missing: {', '.join(missing)}")
        if self.lost_sums:
            notes.append(
                f"left out, since not every file has it: {', '.join(self.lost_sums)} "
                "(calibrate all of them with the same --observe)"
            )
        if self.grams and self.without_grams:
            notes.append(
                f"no Gram matrices in the merged file, since {self.without_grams[0]} has none: "
                "calibrate all of them with the same --gram"
            )
        if statistics.has(SOLUTION):
            return notes
        if self.without_sample:
            files = ", ".join(map(str, self.without_sample[:3]))
            more = ", ..." if len(self.without_sample) > 3 else ""
            remedy = f"no token sample for {files}{more}: calibrate with --keep-sample, then merge"
        else:
            remedy = "merge"
        notes.append(
            f"the default criterion 'rerouted' is not in the merged file ({remedy} with --model "
            "MODEL to solve it), nor the layer order that recipes with tiers take from it"
        )
        return notes

    def _missing(self) -> set[tuple[str, int, int]]:
        have = set(self.statistics.shards)
        return {
            (sha, part, parts)
            for sha, _, parts in have
            for part in range(1, parts + 1)
            if (sha, part, parts) not in have
        }


def merge_files(paths: Sequence[Path]) -> Merged:
    """Merge statistics files of one model; the samples are opened and checked, not merged yet.

    Raises StatisticsError for files that cannot be read or merged. Peak memory: two files.
    """
    if not paths:
        raise StatisticsError("name at least one statistics file to merge")
    whole: Statistics | None = None
    sums: set[str] = set()
    samples, without = [], []
    grams, without_grams = [], []
    for path in paths:
        part = load(path)
        sums |= set(part.sums)
        if sample_path(path).exists():
            samples.append(SampleFile(sample_path(path)))
            samples[-1].check_origin(part, path)
        else:
            without.append(path)
        if gram_path(path).exists():
            grams.append(GramFile(gram_path(path)))
            grams[-1].check_origin(part, path)
        else:
            without_grams.append(path)
        try:
            whole = part if whole is None else merge(whole, part)
        except StatisticsError as error:
            raise StatisticsError(f"{path}, and what is named before it: {error}") from None
    assert whole is not None
    lost = sums - set(whole.sums)
    return Merged(
        whole, tuple(samples), tuple(without), tuple(sorted(lost)), tuple(grams),
        tuple(without_grams),
    )  # fmt: skip


def write_merged_sample(merged: Merged, out: Path) -> SampleFile | None:
    """Write the merged sample next to the statistics file `out`; None when a part lacks one.

    Raises StatisticsError for samples that do not fit, WriteError when the disk refuses.
    """
    if merged.without_sample:
        return None
    merge_samples(merged.samples, merged.statistics, sample_path(out))
    return SampleFile(sample_path(out))


def write_merged_grams(merged: Merged, out: Path) -> None:
    """Write the merged Gram matrices next to the statistics file `out`, where every part has them.

    Raises StatisticsError for parts of different kinds, WriteError when the disk refuses.
    """
    if merged.grams and not merged.without_grams:
        merge_grams(merged.grams, merged.statistics, gram_path(out))


def write_merged_text(parts: Sequence[Path], out: Path) -> None:
    """Write the hashes of the text of all `parts` next to the statistics file `out`, where every
    part has them. Raises StatisticsError, WriteError."""
    paths = [text_path(part) for part in parts]
    if all(path.is_file() for path in paths):
        save_text(join_hashes([load_text(path) for path in paths]), text_path(out))
