"""secateur makes Mixture-of-Experts language models smaller and proves what that cost.

The verbs of the command line as functions, and the values they take and give:

    import secateur
    from secateur import Calibration, Formats, Measuring, Pruning

    secateur.calibrate("gemmule", "stats", Calibration(corpus="gemmule"))
    plan = secateur.plan("gemmule", Pruning(experts=24), Formats(types=("Q4_K_M",)),
                         statistics="stats")
    print(plan.file_bytes("gguf-Q4_K_M"))
    secateur.apply(plan, "out", statistics="stats")
    report = secateur.measure("out", "gemmule", Measuring(per_domain=10))
    print(report.artefacts[0].value("kl_mean"))

Names are imported when they are first used, so that `import secateur` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Calibration": "verbs",
    "Formats": "verbs",
    "Measuring": "verbs",
    "apply": "verbs",
    "calibrate": "verbs",
    "coverage": "verbs",
    "fit": "verbs",
    "inspect": "verbs",
    "measure": "verbs",
    "merge": "verbs",
    "plan": "verbs",
    "save_plan": "verbs",
    "scores": "verbs",
    "verify": "verbs",
    "lint_recipe": "recipe_verbs",
    "export_recipe": "recipe_verbs",
    "export_plan": "recipe_verbs",
    "Recipe": "planning.recipe",
    "find_recipe": "planning.recipe",
    "LintReport": "planning.lint",
    "convert_imatrix": "imatrices",
    "coverage_of_imatrix": "imatrices",
    "merge_imatrices": "imatrices",
    "slice_imatrix": "imatrices",
    "Audit": "audit_verbs",
    "audit_model": "audit_verbs",
    "Wish": "pipeline",
    "shrink": "pipeline",
    "Checkpoint": "checkpoint.reader",
    "open_checkpoint": "checkpoint.reader",
    "Inspection": "checkpoint.inspection",
    "Statistics": "calibration.statistics",
    "Coverage": "calibration.coverage",
    "Pruning": "planning.choose",
    "Supposed": "planning.resolve",
    "Plan": "planning.plan",
    "PlannedTensor": "planning.plan",
    "read_plan": "planning.plan",
    "Measurement": "evaluation.measurement",
    "Report": "release.report",
    "SecateurError": "errors",
    "InputError": "errors",
    "GateError": "errors",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - keys of _HOMES are strings


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"secateur.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
