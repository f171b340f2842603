"""In which form a random checkpoint can be stored, and what its config then says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from secateur.checkpoint.config_edit import without_leftovers
from secateur.checkpoint.expected_tensors import expected_tensors
from secateur.checkpoint.synthetic.design import Form, is_packed
from secateur.errors import CheckpointError, RequestError
from secateur.families.schema import Family

_KEY = "quantization_config"
FORMS: tuple[str, ...] = get_args(Form)


def choose_form(family: Family, config: Mapping[str, Any], asked: Form, file: Path) -> Form:
    """The form in which the config's publisher stores it (`published`), or the one asked for.

    Raises RequestError for a form that the family's data does not describe, CheckpointError for a
    config whose own is none of them.
    """
    methods = [rule.method for rule in family.packed]
    if asked == "published":
        found = _quantization(family, config)
        method = found.get("quant_method") if found else None
        if found and method not in methods:
            raise CheckpointError(
                f"{file} says that its weights are stored by {method!r}, which no [[packed]] table "
                f"of the family {family.name!r} describes: ask for the form plain (16 bits)"
            )
        return next((form for form in methods if form == method), "plain")
    if asked in ("fp8", "mxfp4") and asked not in methods:
        raise RequestError(
            f"form {asked}: {family.title} is not published in it; there is "
            f"{', '.join(['plain', 'stacked', *methods])}"
        )
    return asked


def without_undescribed(
    family: Family, config: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the config without the parts of a model whose tensors the family's rows give no shape,
    notes that say so)."""
    gone = {key: what for key, what in family.shape.not_counted.items() if config.get(key)}
    notes = tuple(
        f"{what} is left out: the family's rows give it no shape" for what in gone.values()
    )
    return {**config, **dict.fromkeys(gone)}, notes


def config_of_form(
    family: Family, config: Mapping[str, Any], form: Form, file: Path
) -> dict[str, Any]:
    """The config as it is for a form: with the publisher's own words where it has some."""
    plain, _ = without_leftovers(config, family)
    if form == "fp8":
        return {**plain, _KEY: _own(family, config, form) or _fp8(family, plain, file)}
    if form == "mxfp4":
        return {**plain, _KEY: _own(family, config, form) or {"quant_method": form}}
    return plain


def _own(family: Family, config: Mapping[str, Any], form: Form) -> Mapping[str, Any] | None:
    found = _quantization(family, config)
    return found if found and found.get("quant_method") == form else None


def _quantization(family: Family, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    _, part = family.section(config)
    found = config.get(_KEY) or part.get(_KEY)
    return found if isinstance(found, Mapping) else None


def _fp8(family: Family, config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """As transformers writes it; matrices that stay in 16 bits are named."""
    expected = expected_tensors(family, config, file)
    kept = [
        name.removesuffix(".weight")
        for name, spec in expected.specs.items()
        if len(spec.shape) == 2 and not is_packed(family, "fp8", expected.matches[name].role, spec)
    ]
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": kept,
    }
