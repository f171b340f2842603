"""The suites that come with secateur, by name."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.errors import RequestError
from secateur.evaluation.tasks.suites.base import Suite
from secateur.evaluation.tasks.suites.gemmule_arithmetic import GemmuleArithmetic
from secateur.evaluation.tasks.suites.gemmule_chat import GemmuleChat
from secateur.evaluation.tasks.suites.instructions import Instructions
from secateur.evaluation.tasks.suites.reasoning import Reasoning
from secateur.evaluation.tasks.suites.tool_calls import GEMMULE_TOOLS, TOOL_CALLS

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Reasoning(),
        TOOL_CALLS,
        Instructions(),
        GemmuleArithmetic(),
        GemmuleChat(),
        GEMMULE_TOOLS,
    )
}


def find_suite(name: str) -> Suite:
    """The suite of that name. Raises RequestError, with the names that there are."""
    if name not in SUITES:
        raise RequestError(f"there is no suite {name!r:.60}; there are {', '.join(SUITES)}")
    return SUITES[name]
