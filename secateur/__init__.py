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
    "Calibration": "api.requests",
    "Formats": "api.requests",
    "Measuring": "api.requests",
    "apply": "api.apply",
    "calibrate": "api.calibrate",
    "coverage": "api.statistics",
    "fit": "api.plan",
    "inspect": "api.inspect",
    "compare": "api.measure",
    "measure": "api.measure",
    "merge": "api.statistics",
    "plan": "api.plan",
    "save_plan": "api.plan",
    "scores": "api.statistics",
    "verify": "api.verify",
    "lint_recipe": "api.recipes",
    "export_recipe": "api.recipes",
    "export_plan": "api.recipes",
    "Recipe": "recipes.recipe",
    "find_recipe": "recipes.recipe",
    "LintReport": "recipes.lint",
    "convert_imatrix": "api.imatrix",
    "coverage_of_imatrix": "api.imatrix",
    "merge_imatrices": "api.imatrix",
    "slice_imatrix": "api.imatrix",
    "Audit": "api.audit",
    "audit_model": "api.audit",
    "ShrinkRequest": "api.requests",
    "shrink": "api.shrink",
    "Checkpoint": "checkpoint.reader",
    "open_checkpoint": "checkpoint.reader",
    "Inspection": "checkpoint.inspection",
    "Statistics": "statistics.statistics",
    "Coverage": "statistics.coverage",
    "Pruning": "pruning.choose",
    "PlanningAssumptions": "outputs.build",
    "Plan": "planning.document",
    "PlannedTensor": "planning.document",
    "read_plan": "planning.document",
    "Comparison": "evaluation.compare",
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
