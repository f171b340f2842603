"""Where Gram matrices are found: next to their statistics, or kept in the user's cache.

`calibrate` writes them next to the statistics. `shrink` puts the statistics into its output; the
Gram matrices, which are some hundred times larger and of use only to this machine, it keeps in the
cache, where another size made from the same statistics finds them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from secateur.api.models import File
from secateur.errors import SecateurError
from secateur.statistics import file as statistics_file
from secateur.statistics.gram_file import GramFile, gram_path
from secateur.statistics.sample_file import origin_of
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import atomic_path
from secateur.system.cache import kept_file, model_folder, name_model, touch
from secateur.system.sizes import show_bytes


def load_gram(given: Statistics | File | None) -> GramFile | None:
    """The Gram matrices of statistics: those next to their file, else those in the cache; None
    where there are none.

    Raises StatisticsError for a file that is damaged or belongs to other statistics.
    """
    if given is None:
        return None
    if isinstance(given, Statistics):
        return _load_kept(given)
    path = Path(given)
    statistics = statistics_file.load_header(path)
    if not gram_path(path).exists():
        return _load_kept(statistics)
    found = GramFile(gram_path(path))
    found.check_origin(statistics, path)
    return found


def keep_gram(statistics: Path, model: str) -> str | None:
    """Move the Gram matrices next to a statistics file into the cache, under the name of the
    `model`; what to tell the user, None where there are none.

    A disk that refuses is no reason to fail: they are then lost with the work folder.
    """
    made = gram_path(statistics)
    if not made.exists():
        return None
    described = statistics_file.load_header(statistics)
    kept = _kept_path(described)
    size = show_bytes(made.stat().st_size)
    try:
        with atomic_path(kept) as partial:
            shutil.move(made, partial)
    except SecateurError as error:
        return f"the Gram matrices, {size}, are not kept for another size: {error}"
    name_model(kept.parent, model)
    return f"Gram matrices, kept in the cache to make other sizes with: {kept}, {size}"


def _load_kept(statistics: Statistics) -> GramFile | None:
    path = _kept_path(statistics)
    if not path.exists():
        return None
    touch(path)
    found = GramFile(path)
    found.check_origin(statistics, path)
    return found


def _kept_path(statistics: Statistics) -> Path:
    origin = origin_of(statistics)
    key = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    return kept_file(model_folder(str(origin["model"])), "Gram matrices", key)
