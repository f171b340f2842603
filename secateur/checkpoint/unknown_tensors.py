"""Tensors that no row of the family describes: what they probably are, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from secateur.errors import FamilyError
from secateur.families.schema import Family

_SHOWN = 3
"""Names that a message shows."""

_CODED = (
    "weight_scale", "scale_inv", "input_scale", "activation_scale", "k_scale", "v_scale",
    "_blocks", "_scales", "_proj.scales", "embed_tokens.scales", "lm_head.scales", "gate.scales",
    ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".weight_shape", ".weight_zero_point",
    ".weight_global_scale", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
)  # fmt: skip
"""Ends of the names that belong to weights in FP8, MXFP4, GPTQ, AWQ, compressed-tensors and
bitsandbytes."""

_KINDS = (
    (
        r"base_model\..*|.*\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\b.*",
        "these are names of a PEFT adapter: merge it into its base model (merge_and_unload) and "
        "save that",
    ),
    (
        r".*\.(switch_mlp|switch_glu)\..*|.*\.biases",
        "these are names of an MLX model: start from the original checkpoint in transformers' form",
    ),
    (
        rf".*({'|'.join(map(re.escape, _CODED))})|.*\.quant_state\..*",
        "these belong to quantized weights: dequantize the checkpoint to 16 bits first",
    ),
    (
        r"(module|_orig_mod|_fsdp_wrapped_module)\..*|.*\._orig_mod\..*",
        "these names were left by a training wrapper: save the model inside it",
    ),
    (
        r"(language_model|text_model|model\.text_model|transformer)\..*",
        "these names are those of an older wrapper: load the model with transformers and save it "
        "again",
    ),
    (
        r"(layers\.\d+|tok_embeddings|embed|head|norm|output)\..*",
        "these names are those of the publisher's own format: use the checkpoint in transformers' "
        "form",
    ),
)
"""(pattern of the whole name, what such tensors are and what to do), the first that fits."""

_DESCRIBE = (
    "describe them by a [[tensor]] row of a family file, or leave them out if they came into the "
    "checkpoint by mistake"
)


def unknown_tensors(names: Sequence[str], family: Family, folder: Path) -> FamilyError:
    """The error for tensors of `folder` that the family does not know; `names` is not empty.

    It is about those of one kind, and says how many more there are.
    """
    advice, same = _advise(names)
    more = f" and {len(same) - _SHOWN} more" if len(same) > _SHOWN else ""
    others = len(names) - len(same)
    near = f" (nearest row: {_nearest(names[0], family)})" if advice == _DESCRIBE else ""
    return FamilyError(
        f"{folder} has tensors that the family {family.name!r} does not know, "
        f"{', '.join(map(repr, same[:_SHOWN]))}{more}{near}: {advice}"
        + (f" (and {others} unknown tensors of other kinds)" if others else "")
    )


def _advise(names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """(what to do, the names that it is about): of the first of _KINDS that any name fits."""
    for pattern, advice in _KINDS:
        if same := [name for name in names if re.fullmatch(pattern, name)]:
            return advice, same
    return _DESCRIBE, names


def _nearest(name: str, family: Family) -> str:
    rows = [row.name.replace("{model}", family.prefixes[0]) for row in family.rows]
    template = re.sub(r"\.\d+\.", ".{layer}.", name, count=1)
    return next(iter(difflib.get_close_matches(template, rows, n=1, cutoff=0.0)), "none")
