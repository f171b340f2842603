"""Commands about statistics files: merge them, see what they cover, score experts by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from secateur.api.models import File
from secateur.api.requests import Pruning
from secateur.errors import StatisticsError
from secateur.pruning.choose import scores_of
from secateur.statistics import file as statistics_file
from secateur.statistics.coverage import LEAST, Coverage
from secateur.statistics.coverage import coverage as coverage_of
from secateur.statistics.merge import merge as merge_statistics
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import check_writable


def merge(paths: Sequence[File], out: File) -> Statistics:
    """Merge statistics files of one model into one; exact, whatever the order."""
    if not paths:
        raise StatisticsError("name at least one statistics file to merge")
    check_writable(Path(out))
    merged = statistics_file.load(Path(paths[0]))
    for path in paths[1:]:
        merged = merge_statistics(merged, statistics_file.load(Path(path)))
    statistics_file.save(merged, Path(out))
    return merged


def coverage(statistics: File, least: int = LEAST) -> Coverage:
    """Which experts saw fewer than `least` tokens."""
    return coverage_of(statistics_file.load(Path(statistics)), least)


def scores(statistics: File, request: Pruning) -> Mapping[int, list[float]]:
    """{MoE layer: score per expert} by the request's criterion; higher is kept."""
    found = scores_of(statistics_file.load(Path(statistics)), request)
    return {layer: values.tolist() for layer, values in found.items()}
