"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import save_tiny

from secateur.checkpoint.reader import Checkpoint, open_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A tiny float32 checkpoint by form (`tiny_models.FORMS`), saved once a session: read only."""
    opened: dict[str, Checkpoint] = {}

    def get(form: str) -> Checkpoint:
        if form not in opened:
            folder: Path = save_tiny(form, tmp_path_factory.mktemp(form) / "model")
            opened[form] = open_checkpoint(folder)
        return opened[form]

    return get
