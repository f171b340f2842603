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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and editors; a test compares the two
    from secateur.api.apply import apply as apply
    from secateur.api.audit import Audit as Audit, audit_model as audit_model
    from secateur.api.calibrate import calibrate as calibrate
    from secateur.api.imatrix import (
        convert_imatrix as convert_imatrix,
        coverage_of_imatrix as coverage_of_imatrix,
        merge_imatrices as merge_imatrices,
        slice_imatrix as slice_imatrix,
    )
    from secateur.api.inspect import inspect as inspect
    from secateur.api.job import run as run
    from secateur.api.compare import compare as compare
    from secateur.api.measure import measure as measure, measure_shard as measure_shard
    from secateur.api.pages import report as report
    from secateur.api.plan import (
        diff_plans as diff_plans,
        fit as fit,
        plan as plan,
        save_plan as save_plan,
    )
    from secateur.api.recipes import (
        export_plan as export_plan,
        export_recipe as export_recipe,
        lint_recipe as lint_recipe,
    )
    from secateur.api.release import Release as Release, release_output as release_output
    from secateur.api.requests import (
        Calibration as Calibration,
        Formats as Formats,
        Job as Job,
        Measuring as Measuring,
        PlanningAssumptions as PlanningAssumptions,
        Releasing as Releasing,
        Running as Running,
        ShrinkRequest as ShrinkRequest,
        Solving as Solving,
    )
    from secateur.api.serving import serve as serve
    from secateur.api.shrink import shrink as shrink
    from secateur.api.statistics import coverage as coverage, merge as merge, scores as scores
    from secateur.api.synth import RandomWeights as RandomWeights, synth as synth
    from secateur.api.verify import verify as verify
    from secateur.checkpoint.inspection import Inspection as Inspection
    from secateur.checkpoint.reader import (
        Checkpoint as Checkpoint,
        open_checkpoint as open_checkpoint,
    )
    from secateur.errors import (
        GateError as GateError,
        InputError as InputError,
        SecateurError as SecateurError,
    )
    from secateur.evaluation.compare import (
        ComparedArtefacts as ComparedArtefacts,
        Comparison as Comparison,
    )
    from secateur.evaluation.measurement import Measurement as Measurement
    from secateur.planning.document import (
        Plan as Plan,
        PlannedTensor as PlannedTensor,
        read_plan as read_plan,
    )
    from secateur.pruning.choose import Pruning as Pruning
    from secateur.recipes.lint import LintReport as LintReport
    from secateur.recipes.recipe import Recipe as Recipe, find_recipe as find_recipe
    from secateur.release.report import Report as Report
    from secateur.serving.settings import (
        Sampler as Sampler,
        ServerSettings as ServerSettings,
        Thinking as Thinking,
    )
    from secateur.statistics.coverage import Coverage as Coverage
    from secateur.statistics.statistics import Statistics as Statistics

__version__ = "0.1.0"

_HOMES = {
    "Calibration": "api.requests",
    "Formats": "api.requests",
    "Measuring": "api.requests",
    "Running": "api.requests",
    "apply": "api.apply",
    "calibrate": "api.calibrate",
    "coverage": "api.statistics",
    "fit": "api.plan",
    "inspect": "api.inspect",
    "compare": "api.compare",
    "measure": "api.measure",
    "measure_shard": "api.measure",
    "merge": "api.statistics",
    "report": "api.pages",
    "plan": "api.plan",
    "diff_plans": "api.plan",
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
    "Solving": "api.requests",
    "Job": "api.requests",
    "run": "api.job",
    "shrink": "api.shrink",
    "serve": "api.serving",
    "synth": "api.synth",
    "RandomWeights": "api.synth",
    "ServerSettings": "serving.settings",
    "Thinking": "serving.settings",
    "Sampler": "serving.settings",
    "Checkpoint": "checkpoint.reader",
    "open_checkpoint": "checkpoint.reader",
    "Inspection": "checkpoint.inspection",
    "Statistics": "statistics.statistics",
    "Coverage": "statistics.coverage",
    "Pruning": "pruning.choose",
    "PlanningAssumptions": "api.requests",
    "Release": "api.release",
    "Releasing": "api.requests",
    "release_output": "api.release",
    "Plan": "planning.document",
    "PlannedTensor": "planning.document",
    "read_plan": "planning.document",
    "Comparison": "evaluation.compare",
    "ComparedArtefacts": "evaluation.compare",
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
