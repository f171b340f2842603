"""`inspect`: a model's shape by its headers or its config alone."""

from __future__ import annotations

from secateur.api.models import Model, open_headers
from secateur.checkpoint.inspection import Inspection, inspect_checkpoint


def inspect(model: Model, revision: str | None = None) -> Inspection:
    """Look at a model by its headers, or by its config alone. Reads no weights."""
    return inspect_checkpoint(open_headers(model, revision))
