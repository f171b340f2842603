"""What the values of options may be: for help pages, and for completion in a shell.

Registries are imported when they are asked for, so that every other start of the command line
costs nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator

Choices = Iterable[tuple[str, str]]
"""Values with what they are; an empty text where the name says it."""


def criteria() -> Choices:
    """All pruning criteria, the default first."""
    from secateur.pruning.criteria.registry import CRITERIA

    return [(one.name, one.help) for one in CRITERIA.values()]


def aggregations() -> Choices:
    """The ways to aggregate scores over categories, the default first."""
    from secateur.pruning.criteria.aggregations import AGGREGATIONS

    return [(one.name, one.help) for one in AGGREGATIONS.values()]


def observers() -> Choices:
    """The sums that are made on request."""
    from secateur.calibration.observers.registry import OBSERVERS

    return [(one.name, one.help) for one in OBSERVERS.values()]


def formats() -> Choices:
    """All output formats."""
    from secateur.outputs.registry import FORMATS

    return [(name, "") for name in FORMATS]


def gates() -> Choices:
    """All numbers that a limit may be set to."""
    from secateur.evaluation.gate import gate_names

    return [(name, "") for name in gate_names()]


def recipes() -> Choices:
    """The recipes that come with secateur."""
    from secateur.api.recipes import recipes as find

    return [(name, facts["about"]) for name, facts in find().items()]


def file_types() -> Choices:
    """File types of llama.cpp."""
    from secateur.recipes.llama_mixes import FILE_TYPES

    return [(name, "") for name in FILE_TYPES]


def types() -> Choices:
    """File types of llama.cpp, recipes and suites."""
    from secateur.api.recipes import suites

    yield from file_types()
    yield from recipes()
    yield from ((f"suite:{name}", ", ".join(words)) for name, words in suites().items())


def models() -> Choices:
    """The one model that needs no path."""
    yield "gemmule", "the small model included here"


def families() -> Choices:
    """The families that come with secateur."""
    from secateur.families.registry import families as find

    return [(family.name, family.title) for family in find()]


def corpora() -> Choices:
    """The mixes that come with secateur."""
    from secateur.corpus.mix import list_mixes

    return [(name, "") for name in list_mixes()]


def tower_types() -> Choices:
    """What a vision tower may be written as."""
    yield from ((name, "") for name in ("F16", "BF16", "F32", "Q8_0", "none"))


def devices() -> Choices:
    """Where a model may run."""
    yield "auto", "the first CUDA GPU, or the CPU where there is none"
    yield from ((name, "") for name in ("cpu", "cuda", "mps"))
    yield "cuda:0,cuda:1", "GPUs that share the layers of the model"


def task_suites() -> Choices:
    """The suites of questions that come with secateur."""
    from secateur.evaluation.tasks.suites.registry import SUITES

    return [(suite.name, suite.title) for suite in SUITES.values()]


def loop_plans() -> Choices:
    """The plans of prompts that loops are looked for on."""
    from secateur.evaluation.robustness.plan import find_plan, plan_names

    return [(name, find_plan(name).title) for name in plan_names()]


def protocols() -> Choices:
    """The protocols that come with secateur."""
    from secateur.evaluation.asking.protocol import find_protocol
    from secateur.evaluation.asking.protocol import protocols as find

    return [(name, find_protocol(name).title) for name in find()]


WIDEST = 60
"""Columns of a text next to a completion: a shell shows a line, and must not get two."""

SHOWN: dict[str, Callable[[], Choices]] = {
    "criterion": criteria,
    "aggregation": aggregations,
    "observe": observers,
    "to": formats,
    "quality_gates": gates,
    "tasks": task_suites,
    "protocol": protocols,
    "loop_prompts": loop_plans,
}
"""Option (by its name in Python) -> the values that its help lists."""


def complete(choices: Callable[[], Choices]) -> Callable[[str], Choices]:
    """A completion of one value."""

    def matching(incomplete: str) -> Choices:
        return [
            (value, textwrap.shorten(text, WIDEST, placeholder=" ..."))
            for value, text in choices()
            if value.startswith(incomplete)
        ]

    return matching


def complete_or_path(choices: Callable[[], Choices]) -> Callable[[str], Choices]:
    """A completion of one value where a path may stand: of nothing, the shell offers files."""

    def matching(incomplete: str) -> Choices:
        return complete(choices)(incomplete) if incomplete else ()

    return matching


def complete_list(choices: Callable[[], Choices]) -> Callable[[str], Choices]:
    """A completion of the last of several values with commas between them."""

    def matching(incomplete: str) -> Iterator[tuple[str, str]]:
        *given, last = incomplete.split(",")
        before = "".join(f"{word}," for word in given)
        for value, text in complete(choices)(last):
            if value not in given:
                yield before + value, text

    return matching
