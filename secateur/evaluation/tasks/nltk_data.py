"""Data of NLTK that some of lm-eval's tasks score with (IFEval: words and sentences).

Such a task fetches them when it is loaded, from a place that is not the hub. Where that fails NLTK
only prints it, and lm-eval ends with an error when everything has been asked. So it is an error of
its own, at once.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from secateur.errors import RequestError

_NEEDED = re.compile(r"nltk\.download\(\W*([\w.-]+)")
"""What NLTK says of data that are not there."""


@contextmanager
def fetching_is_checked() -> Iterator[None]:
    """While tasks are loaded, asked and scored: raise RequestError where data that a task fetches
    cannot be had, or were not when it was first loaded."""
    if importlib.util.find_spec("nltk") is None:
        yield
        return
    import nltk  # type: ignore[import-untyped]

    fetch = nltk.download

    def checked(what: Any = None, *more: Any, **named: Any) -> bool:
        if not fetch(what, *more, **named):
            raise _refused(str(what))
        return True

    nltk.download = checked
    try:
        yield
    except LookupError as error:
        found = _NEEDED.search(str(error))
        if found is None:
            raise
        raise _refused(found[1]) from None
    finally:
        nltk.download = fetch


def _refused(what: str) -> RequestError:
    return RequestError(
        f"the task is scored with NLTK's data {what}, which are not here and could not be fetched "
        f"(they come from GitHub, not from the hub): run `python -m nltk.downloader {what}` where "
        "there is a network, copy ~/nltk_data to this machine, and let NLTK_DATA name it if it "
        "lies elsewhere; the built-in suite `instructions` needs no data"
    )
