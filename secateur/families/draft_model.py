"""What a config and the shapes of tensors say of a model whose family is not known."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from secateur.errors import FamilyError
from secateur.families.expressions import evaluate

_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_NUMBERS = {
    "layers": _LAYERS,
    "heads": ("num_attention_heads", "n_heads", "n_head"),
    "kv_heads": ("num_key_value_heads", "n_kv_heads"),
    "hidden": ("hidden_size", "d_model", "n_embd"),
    "vocab": ("vocab_size",),
    "groups": ("n_group", "num_expert_group"),
    "used_groups": ("topk_group", "limited_groups"),
}
"""Config keys that hold these numbers, where they are there at all."""

_TOP_K = re.compile(r"experts_per_tok|top_?k_experts|experts_top_?k|moe_top_?k|moe_k$")
_COUNT = re.compile(r"^(n|num|moe)_.*experts$")
_WIDTH = re.compile(r"intermediate|ffn|inner|width|expert.*(dim|size)|moe.*(dim|size)")
_LAYER = re.compile(r"^(.*?)layers\.(\d+)\.(.+)$")
_LAYER_KEY = re.compile(r"dense|sparse|moe|mlp|layer")
"""Config keys that may say which layers have experts."""
NAMES = {"head": "head_dim or hidden // heads", "kv": "kv_heads or heads"}
"""Names that sizes of attention's axes use, where the config has no key of that name."""
_DENSE = "mlp.gate_proj.weight"


@dataclass(frozen=True)
class Template:
    """Tensors of one name but for the numbers in it. `shape` is None where they differ in it."""

    name: str
    shape: tuple[int, ...] | None
    layers: frozenset[int]


@dataclass(frozen=True)
class DraftModel:
    """A model as its files describe it.

    `keys` are the config keys of a family's numbers, `carried` the templates of parts next to the
    text model; `section` is the name of the config section of the text model, "" for the top.
    """

    config: Mapping[str, Any] = field(repr=False)
    section: str
    prefixes: tuple[str, ...]
    templates: tuple[Template, ...]
    carried: tuple[str, ...]
    keys: Mapping[str, tuple[str, ...]]

    @property
    def part(self) -> Mapping[str, Any]:
        part: Mapping[str, Any] = self.config[self.section] if self.section else self.config
        return part

    @property
    def sections(self) -> tuple[str, ...]:
        return (self.section, "") if self.section else ("",)

    @property
    def title(self) -> str:
        return str((self.config.get("architectures") or [self.model_types[0]])[0])

    @property
    def model_types(self) -> tuple[str, ...]:
        kinds = (self.config.get("model_type"), self.part.get("model_type"))
        return tuple(dict.fromkeys(str(kind) for kind in kinds if kind))

    @property
    def layers(self) -> frozenset[int]:
        return frozenset(range(self.number("layers") or 0))

    @cached_property
    def moe_layers(self) -> frozenset[int]:
        """Layers with tensors of experts."""
        return frozenset[int]().union(*(t.layers for t in self.templates if "expert" in t.name))

    @property
    def has_split_experts(self) -> bool:
        return any("{expert}" in template.name for template in self.templates)

    @cached_property
    def routed(self) -> str | None:
        """The condition on which a layer has experts; None where the config does not give it."""
        return "True" if self.moe_layers == self.layers else _condition(self, self.moe_layers)

    def find(self, name: str) -> Template | None:
        """The template of that name."""
        return next((template for template in self.templates if template.name == name), None)

    def number(self, name: str) -> int | None:
        """A number of the config, where one key holds it."""
        value = self.part.get(self.keys[name][0]) if self.keys.get(name) else None
        return value if type(value) is int else None

    def size(self, expression: str | None) -> int | None:
        """The value of an axis' expression, None where the config does not give it."""

        def lookup(name: str) -> Any:
            if name in NAMES and self.part.get(name) is None:
                return evaluate(NAMES[name], lookup)
            return self.number(name) if name in self.keys else self.part.get(name)

        try:
            value = None if expression is None else evaluate(expression, lookup)
        except FamilyError:
            return None
        return value if type(value) is int else None

    def holds_somewhere(self, when: str) -> bool:
        """Whether a row's condition holds in a layer; False where the config does not say."""

        def holds(layer: int) -> bool:
            facts = {"layer": layer, "routed": layer in self.moe_layers}

            def lookup(name: str) -> Any:
                return facts[name] if name in facts else self.part.get(name)

            return bool(evaluate(when, lookup))

        try:
            return any(holds(layer) for layer in self.layers)
        except FamilyError:
            return False

    def condition(self, layers: frozenset[int]) -> str | None:
        """An expression that holds in just these layers, None where none suggests itself."""
        if self.moe_layers != self.layers:
            if layers == self.moe_layers:
                return "routed"
            if layers == self.layers - self.moe_layers:
                return "not routed"
        return _condition(self, layers)


def read_model(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> DraftModel:
    """What config and shapes say. Raises FamilyError where there are no layers or no experts."""
    section = _section(config)
    prefix = _prefix(shapes)
    templates, carried = _group(shapes, prefix)
    part = config[section] if section else config
    prefixes = ("model.", prefix) if section and prefix != "model." else (prefix,)
    keys = _keys(part, templates, shapes)
    return DraftModel(config, section, prefixes, templates, carried, keys)


def _section(config: Mapping[str, Any]) -> str:
    """The section with the number of layers, and experts where several have layers."""
    parts = {"": config, **{k: v for k, v in config.items() if isinstance(v, Mapping)}}
    found = [name for name, part in parts.items() if any(key in part for key in _LAYERS)]
    if not found:
        raise FamilyError(
            f"config.json has none of {', '.join(_LAYERS)}, at its top or in a section: it does "
            "not describe a decoder"
        )
    return max(found, key=lambda name: any(_TOP_K.search(key) for key in parts[name]))


def _prefix(shapes: Mapping[str, Sequence[int]]) -> str:
    found = Counter(m[1] for name in shapes if "expert" in name and (m := _LAYER.match(name)))
    if not found:
        raise FamilyError(
            "no tensor's name has a layer and an expert in it, as in 'model.layers.0.mlp.experts': "
            "this is not a Mixture-of-Experts model, or not in its publisher's form"
        )
    return found.most_common(1)[0][0]


def _group(
    shapes: Mapping[str, Sequence[int]], prefix: str
) -> tuple[tuple[Template, ...], tuple[str, ...]]:
    """(templates of the text model, templates of the parts next to it)."""
    found: defaultdict[str, tuple[set[tuple[int, ...]], set[int]]] = defaultdict(
        lambda: (set(), set())
    )
    carried: dict[str, None] = {}
    for name, shape in shapes.items():
        match = _LAYER.match(name)
        if match and match[1] == prefix:
            rest = re.sub(r"experts\.\d+\.", "experts.{expert}.", match[3])
            template, layer = f"{{model}}layers.{{layer}}.{rest}", {int(match[2])}
        elif "." not in name.removeprefix(prefix).removesuffix(".weight"):
            template, layer = name.replace(prefix, "{model}", 1), set()
        else:
            carried[".".join(name.split(".")[:2]) + ".{rest}"] = None
            continue
        found[template][0].add(tuple(shape))
        found[template][1].update(layer)
    templates = tuple(
        Template(name, next(iter(forms)) if len(forms) == 1 else None, frozenset(layers))
        for name, (forms, layers) in found.items()
    )
    return templates, tuple(carried)


def _keys(
    part: Mapping[str, Any], templates: Sequence[Template], shapes: Mapping[str, Sequence[int]]
) -> dict[str, tuple[str, ...]]:
    """The config keys of a family's numbers; several where the model does not tell which."""
    whole = {key: value for key, value in part.items() if type(value) is int}
    found = {
        name: tuple(key for key in keys if key in whole)
        for name, keys in _NUMBERS.items()
        if any(key in whole for key in keys)
    }
    hidden = whole.get(found["hidden"][0]) if "hidden" in found else None
    count = _count(templates, shapes)
    found["experts"] = tuple(
        key for key, value in whole.items() if _COUNT.search(key) and count in (None, value)
    )
    found["top_k"] = tuple(key for key in whole if _TOP_K.search(key))
    width = min(
        (_other(shape, hidden) for t in templates if (shape := _expert_matrix(t))), default=None
    )
    widths = [key for key, value in whole.items() if _WIDTH.search(key) and value == width]
    found["expert_width"] = tuple(widths)
    dense = next((t.shape for t in templates if t.name.endswith(_DENSE) and t.shape), None)
    if dense is not None:
        found["dense_width"] = tuple(
            key for key, value in whole.items()
            if _WIDTH.search(key) and value == _other(dense, hidden)
        )  # fmt: skip
    return found


def _count(templates: Sequence[Template], shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The number of experts: of per-expert names, or the first axis of a stack."""
    numbers = [int(found[1]) for name in shapes if (found := re.search(r"experts\.(\d+)\.", name))]
    if numbers:
        return max(numbers) + 1
    stacks = (t.shape for t in templates if "experts" in t.name and t.shape and len(t.shape) == 3)
    return next((shape[0] for shape in stacks), None)


def _expert_matrix(template: Template) -> tuple[int, ...] | None:
    """The shape of one expert's matrix; None for what is none."""
    if template.shape is None or "experts" not in template.name or "shared" in template.name:
        return None
    shape = template.shape if "{expert}" in template.name else template.shape[1:]
    return shape if len(shape) == 2 else None


def _other(shape: Sequence[int], hidden: int | None) -> int:
    """The axis of a matrix that is not the hidden size."""
    return next((axis for axis in shape if axis != hidden), shape[0])


def _condition(model: DraftModel, layers: frozenset[int]) -> str | None:
    """The one simple expression of the config that holds in just these layers."""
    every = model.layers
    found = []
    for key, value in model.part.items():
        if not _LAYER_KEY.search(key):
            continue
        if type(value) is int and 0 < value < len(every):
            if layers == frozenset(layer for layer in every if layer >= value):
                found.append(f"layer >= {key}")
        elif isinstance(value, list) and value and all(type(item) is int for item in value):
            if layers == every - set(value):
                found.append(f"layer not in {key}")
            elif layers == every & set(value):
                found.append(f"layer in {key}")
        elif isinstance(value, list) and len(value) == len(every):
            kinds = {value[layer] for layer in layers}
            if layers == frozenset(layer for layer in every if value[layer] in kinds):
                found.append(f"{key}[layer] in {sorted(map(str, kinds))}")
    return found[0] if len(found) == 1 else None
