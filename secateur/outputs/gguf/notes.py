"""What a plan notes of a GGUF: fallbacks, the importance matrix it needs, padding, the tokenizer.

`refuse_without_importance` refuses what llama-quantize would refuse after hours.
"""

from __future__ import annotations

from collections.abc import Sequence

from secateur.errors import PlanError
from secateur.families.schema import Family
from secateur.formats.ggml.types import TYPES
from secateur.outputs.feedback import describe_feedback, observed_input
from secateur.outputs.gguf.layout import GgufLayout
from secateur.outputs.gguf.tokenizer_keys import TokenizerKeys
from secateur.planning.document import PlannedTensor
from secateur.planning.imatrix_policy import Importance, check_shapes
from secateur.planning.unseen_experts import warn_of_unseen
from secateur.recipes.recipe import Recipe
from secateur.statistics.gram_file import GramFile
from secateur.system.sizes import show_count


def tokenizer_notes(tokenizer: TokenizerKeys) -> list[str]:
    """What files lack of the tokenizer; without any, their size is not known."""
    if tokenizer.nbytes is not None:
        return [*tokenizer.notes]
    return [
        "there is no tokenizer next to the config: bytes of tensors are exact, the size of GGUF "
        "files is not known (name a folder with tokenizer.json, or a GGUF, with --tokenizer)"
    ]


def importance_notes(
    recipe: Recipe, layout: GgufLayout, importance: Importance | None, shape_only: bool
) -> list[str]:
    """What the types of a GGUF need of the importance matrix.

    Raises PlanError where they need one and there is none, or it lacks their tensors.
    """
    format_id = recipe.format
    needing = layout.needing_importance
    if importance is None:
        needs = recipe.imatrix or bool(needing)
        if shape_only:
            how = (
                "needs an importance matrix, and is planned as with one"
                if needs
                else "without a matrix"
            )
            return [f"{format_id}: {how}; the keys that name one (under 1 kB) are not in its size"]
        if not needs:
            return []
        refuse_without_importance(format_id, layout)
        raise _lacks_importance(format_id, "the recipe needs")
    check_shapes(importance, layout.tensors)
    entries = importance.imatrix.entries
    if lacking := [name for name in needing if name not in entries]:
        raise PlanError(
            f"{format_id}: the importance matrix has no entry for "
            f"{show_count(len(lacking), 'tensor')} in types that need one (first: {lacking[0]}): "
            "record it again, or choose a larger type"
        )
    return warn_of_unseen(
        format_id, layout.choices, importance.unseen, importance.origin["unseen_experts"]
    )


def refuse_without_importance(format_id: str, layout: GgufLayout) -> None:
    """Raise PlanError where a type cannot be made without an importance matrix."""
    needing = layout.needing_importance
    if needing:
        subject = f"the types of {show_count(len(needing), 'tensor')} (first: {needing[0]}) need"
        raise _lacks_importance(format_id, subject)


def _lacks_importance(format_id: str, subject: str) -> PlanError:
    return PlanError(
        f"{format_id}: {subject} an importance matrix: calibrate and name the statistics with "
        "--stats, or name a matrix with --imatrix"
    )


def fallback_notes(format_id: str, planned: Sequence[PlannedTensor]) -> list[str]:
    """Fallbacks as one sentence; none without any."""
    fallen = [tensor for tensor in planned if tensor.fallback_from]
    if not fallen:
        return []
    types = sorted({f"{t.fallback_from} to {t.type}" for t in fallen})
    total = sum(tensor.bytes for tensor in planned)
    share = sum(tensor.bytes for tensor in fallen) / total
    return [
        f"{format_id}: {len(fallen)} of {len(planned)} tensors ({share:.0%} of the bytes) have "
        f"rows that the type's blocks do not divide, and fall back ({', '.join(types)})"
    ]


def rounding_notes(
    format_id: str, layout: GgufLayout, family: Family, gram: GramFile | None
) -> list[str]:
    """In how many tensors codes are chosen with feedback, and the first of those without."""
    if gram is None:
        return []
    from secateur.rounding.ggml_types import FEEDBACK_GRIDS

    quantized = {
        info.name: info.type in FEEDBACK_GRIDS
        and observed_input(gram, family, tensor.sources) is not None
        for tensor, info in zip(layout.tensors, layout.infos, strict=True)
        if TYPES[info.type].quantized
    }
    return [describe_feedback(format_id, quantized)] if quantized else []
