"""The checkpoint that a config describes, before any of it is there: every name and shape.

A family's `[shape]` table (`families/schema.py`) says how large its axes are, as expressions. A
row is in a layer when its own `when` holds.

Publishers split experts where the running model stacks them: the published form has the rows
with an `into`, the running model's the rows that these point at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.checkpoint.headers import TensorSpec
from secateur.checkpoint.tensors import STORAGE
from secateur.errors import FamilyError
from secateur.families.expressions import evaluate
from secateur.families.schema import Family, TensorMatch, TensorRow

_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class ExpectedTensors:
    """The tensors that a config describes; `notes` say what it leaves open."""

    specs: Mapping[str, TensorSpec] = field(repr=False)
    matches: Mapping[str, TensorMatch] = field(repr=False)
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """The meaning of the names in a family's expressions, for one config."""

    family: Family
    config: Mapping[str, Any] = field(repr=False)

    def value(self, expression: str, layer: int | None = None) -> Any:
        """The value of an expression in a layer. Raises FamilyError as `evaluate` does."""
        return evaluate(expression, self._lookup(layer))

    def size(self, expression: str, layer: int | None = None) -> int:
        """The value of an expression that must be a whole number of at least one.

        Raises FamilyError when it is none.
        """
        found = self.value(expression, layer)
        if type(found) is not int or found < 1:
            said = "gives nothing" if found is None else f"makes it {found!r}"
            raise FamilyError(
                f"config.json {said} for {expression!r}, expected a whole number of at least 1"
            )
        return found

    def _lookup(
        self, layer: int | None, hidden: frozenset[str] = frozenset()
    ) -> Callable[[str], Any]:
        names = self.family.shape.names
        defaults = self.family.shape.defaults
        _, part = self.family.section(self.config)

        def lookup(name: str) -> Any:
            if name == "layer":
                return layer
            if name in names and name not in hidden:
                # A word may stand for the config key of the same name, mended.
                return evaluate(names[name], self._lookup(layer, hidden | {name}))
            if name in self.family.config:
                found = self.family.find(self.config, name)
                if found is not None:
                    return found[1]
                keys = self.family.config[name]
                unsaid = (key for key in keys if key in defaults and key not in part)
                return next((defaults[key] for key in unsaid), None)
            if name in part:
                return part[name]
            return self.config.get(name, defaults.get(name))

        return lookup


def expected_tensors(
    family: Family, config: Mapping[str, Any], source: Path, *, running: Collection[str] = ()
) -> ExpectedTensors:
    """Names, types and shapes of the checkpoint of `config`, which lies in the file `source`.

    It is in the form of its publisher, but for the tensors of the rows named in `running`, which
    are as the running model has them (`running_rows` are all such rows). Raises FamilyError for a
    config that lacks a number, or that the family's rows cannot describe.
    """
    facts = Facts(family, config)
    _check(facts)
    prefix = prefix_of(family, config)
    usual, notes = _usual_type(config, family)
    hidden = _rows_of_other_form(family, running)
    specs: dict[str, TensorSpec] = {}
    matches: dict[str, TensorMatch] = {}
    layers = range(family.number(config, "layers"))
    for row in family.rows:
        if row.name in hidden or row.carried:
            continue
        dtype = "F32" if row.role in family.shape.float32 else usual
        for layer in layers if "{layer}" in row.name else (None,):
            if row.when is not None and not facts.value(row.when, layer):
                continue
            template = row.name.replace("{model}", prefix).replace("{layer}", str(layer))
            shape = row_shape(facts, row, layer)
            for expert in range(facts.size("experts")) if row.per_expert else (None,):
                name = template if expert is None else template.replace("{expert}", str(expert))
                specs[name] = _spec(name, dtype, shape, source)
                matches[name] = TensorMatch(
                    row, prefix if "{model}" in row.name else "", layer, expert
                )
    tower = family.mmproj
    if tower is not None and any(config.get(section) for section in tower.sections):
        specs |= expected_tensors(tower, config, source).specs
        matches |= {name: family.classify(name) for name in specs if name not in matches}
    return ExpectedTensors(specs, matches, (*notes, *_not_counted(family, config)))


def prefix_of(family: Family, config: Mapping[str, Any]) -> str:
    """How the text model's names begin in the checkpoint of this config."""
    section, _ = family.section(config)
    return family.shape.prefix.get(section, family.prefixes[0])


def running_rows(family: Family) -> frozenset[str]:
    """Names of the rows that other rows point at: in the running model they replace those."""
    return frozenset(row.into for row in family.rows if row.into)


def _rows_of_other_form(family: Family, running: Collection[str]) -> set[str]:
    """Names of the rows that a checkpoint has not, whose `running` rows are the running model's."""
    replaced = {row.name for row in family.rows if row.into and row.into in running}
    return replaced | (running_rows(family) - set(running))


def row_shape(facts: Facts, row: TensorRow, layer: int | None) -> tuple[int, ...]:
    """The shape of a row's tensor in a layer. Raises FamilyError for an axis without a size."""
    axes = facts.family.shape.axes
    for word in row.axes:
        if word not in axes:
            raise FamilyError(
                f"the family {facts.family.name!r} gives no size for the axis {word!r} of "
                f"{row.name}: add it to [shape.axes] in {facts.family.file}"
            )
    return tuple(facts.size(axes[word], layer) for word in row.axes)


def _spec(name: str, dtype: str, shape: tuple[int, ...], source: Path) -> TensorSpec:
    nbytes = STORAGE[dtype].itemsize
    for length in shape:
        nbytes *= length
    return TensorSpec(name, dtype, shape, source, 0, nbytes)


def _check(facts: Facts) -> None:
    for name, allowed in facts.family.shape.expect.items():
        found = facts.value(name)
        if found not in allowed:
            raise FamilyError(
                f"config.json has {name} = {found!r}, but the family's rows describe only "
                f"{', '.join(map(repr, allowed))}: add rows to {facts.family.file}"
            )


def _usual_type(config: Mapping[str, Any], family: Family) -> tuple[str, list[str]]:
    """(element type of the weights, what to say about it)."""
    _, part = family.section(config)
    matches = (config, part)
    named = [p[key] for p in matches for key in ("dtype", "torch_dtype") if p.get(key)]
    if not named:
        return "BF16", ["config.json gives no dtype: the checkpoint is counted in BF16"]
    if not isinstance(named[0], str) or named[0] not in _TYPES:
        raise FamilyError(
            f"config.json has dtype {named[0]!r}, expected one of {', '.join(_TYPES)}"
        )
    dtype = _TYPES[named[0]]
    if any(p.get("quantization_config") for p in matches):
        return dtype, [
            f"config.json has a quantization_config: counted is the model dequantized to {dtype}"
        ]
    return dtype, []


def _not_counted(family: Family, config: Mapping[str, Any]) -> list[str]:
    return [
        f"config.json describes {what}, whose tensors the family's rows give no shape: "
        "they are not counted in safetensors (a GGUF has none of them)"
        for key, what in family.shape.not_counted.items()
        if config.get(key)
    ]
