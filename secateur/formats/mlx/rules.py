"""A model in mlx-lm's form: its config, and the names of its tensors, by the family's [mlx] table.

A row's `mlx` gives the names of its tensors where they differ from the running model's: one, or
one for each half of an axis `gate|up`, which mlx-lm keeps apart. Per-expert rows of one name are
stacked. Rows without axes, a vision tower's, are not in mlx-lm's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.checkpoint.config_edit import with_also, with_experts, with_top
from secateur.errors import CheckpointError, FamilyError
from secateur.families.format_rules import MlxRules
from secateur.families.rope import check_rope
from secateur.families.schema import Family, TensorRow
from secateur.formats.gguf.rules import find


def mlx_rules(family: Family) -> MlxRules:
    """The family's rules. Raises FamilyError if its TOML has no [mlx] table."""
    if family.mlx is None:
        raise FamilyError(
            f"the family {family.name!r} has no [mlx] table, so nothing for mlx-lm can be made of "
            f"it: add one to {family.file}, or write another format"
        )
    return family.mlx


def mlx_config(text: str, family: Family, experts: int, quantization: Mapping[str, Any]) -> str:
    """The text of config.json for mlx-lm, with `quantization` under both of its names.

    The vision tower's section is left out, as `mlx_lm.convert` does it: its weights are not there.
    """
    text = with_also(with_experts(text, family, experts), family, mlx_rules(family).also)
    keys = ("quantization", "quantization_config")
    values = dict.fromkeys(keys, quantization) if quantization else {}
    return with_top(text, values, (*keys, "vision_config", "_name_or_path"))


def check_config(family: Family, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a config that mlx-lm would not read as transformers does."""
    rules = mlx_rules(family)
    _, part = family.section(config)
    for path, allowed in rules.expect.items():
        value = find(part, (path,))
        if value is not None and value not in allowed:
            known = f": it computes only {', '.join(map(repr, allowed))}" if allowed else ""
            raise CheckpointError(
                f"config.json has {path} = {value!r}, which mlx-lm does not compute for "
                f"{family.title}{known}; write another format"
            )
    check_rope(part, rules.rope, f"mlx-lm for {family.title}", "write another format")
    if lacking := [key for key in rules.require if key not in part]:
        raise CheckpointError(
            f"config.json has no {lacking[0]}, and mlx-lm does not take what transformers takes "
            "then: add the key with the model's own value"
        )


def mlx_names(family: Family, row: TensorRow, model_type: str, layer: int | None) -> list[str]:
    """What mlx-lm calls the tensors of a row in a layer: one, or one for each half of an axis.

    Raises FamilyError for a model type without a prefix, or halves that mlx-lm's files cannot
    hold apart.
    """
    rules = mlx_rules(family)
    if model_type not in rules.prefix:
        raise FamilyError(
            f"mlx-lm's names for the model type {model_type!r} are not known: add its prefix to "
            f"[mlx] in {family.file}"
        )
    templates = row.mlx or (row.into or row.name,)
    joined = [axis for axis in row.axes if "|" in axis or "/" in axis]
    halves = joined[0].split("|") if joined else [""]
    if len(halves) != len(templates) or (joined and row.axes[-2] != joined[0]):
        raise FamilyError(
            f"{row.name!r} holds {joined[0] if joined else 'one projection'}, and its `mlx` names "
            f"{len(templates)} tensors: mend {family.file}"
        )
    return [rules.prefix[model_type] + family.fill(name, layer) for name in templates]
