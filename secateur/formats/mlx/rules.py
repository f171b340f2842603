"""What a family's TOML says about its form in mlx-lm: the `[mlx]` table, checked and typed.

    [mlx]             prefix: model_type -> what mlx-lm puts before the running model's names;
                      require: keys of the text model's section without which mlx-lm does not
                      load, or takes another default than transformers
    [mlx.expect]      "config path" = [values that mlx-lm computes]; absent and null are allowed
    [[mlx.also]]      a key that mlx-lm reads and transformers writes elsewhere, as [[also]]

A row's `mlx` gives the names of its tensors where they differ from the running model's: one, or
one for each half of an axis `gate|up`, which mlx-lm keeps apart. Per-expert rows of one name are
stacked. Rows without axes, a vision tower's, are not in mlx-lm's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.checkpoint.config_edit import with_also, with_experts, with_top
from secateur.errors import CheckpointError, FamilyError
from secateur.families.schema import AlsoKey, Family, TensorRow
from secateur.formats.gguf.rules import find


@dataclass(frozen=True, slots=True)
class MlxRules:
    """The `[mlx]` table of a family."""

    prefix: Mapping[str, str]
    require: tuple[str, ...]
    expect: Mapping[str, Sequence[Any]]
    also: tuple[AlsoKey, ...]


def mlx_rules(family: Family) -> MlxRules:
    """The family's rules. Raises FamilyError if its TOML has no [mlx] table."""
    table = family.mlx
    if not table:
        raise FamilyError(
            f"the family {family.name!r} has no [mlx] table, so nothing for mlx-lm can be made of "
            f"it: add one to checkpoint/families/{family.name}.toml, or write another format"
        )
    return MlxRules(
        prefix=table["prefix"],
        require=tuple(table.get("require", ())),
        expect=table.get("expect", {}),
        also=tuple(AlsoKey(**entry) for entry in table.get("also", ())),
    )


def mlx_config(text: str, family: Family, experts: int, quantization: Mapping[str, Any]) -> str:
    """The text of config.json for mlx-lm, with `quantization` under both names it goes by.

    The vision tower's section goes, as `mlx_lm.convert` does it: its weights are not there.
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
            f"[mlx] in checkpoint/families/{family.name}.toml"
        )
    templates = row.mlx or (row.into or row.name,)
    joined = [axis for axis in row.axes if "|" in axis or "/" in axis]
    halves = joined[0].split("|") if joined else [""]
    if len(halves) != len(templates) or (joined and row.axes[-2] != joined[0]):
        raise FamilyError(
            f"{row.name!r} holds {joined[0] if joined else 'one projection'}, and its `mlx` names "
            f"{len(templates)} tensors: mend checkpoint/families/{family.name}.toml"
        )
    return [rules.prefix[model_type] + family.fill(name, layer) for name in templates]
