"""What the command line prints of an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.cli.terminal import show
from secateur.system.resources import free_memory

if TYPE_CHECKING:
    from secateur.estimation.stage import Estimate


def show_estimate(found: Estimate, as_json: bool) -> None:
    """Print an estimate; then raise RequestError where this machine cannot suffice."""
    from secateur.estimation.table import table

    show(found.to_json(), table(found), as_json)
    found.check(free_memory())
