"""A draft of a family's TOML, from a model's config and the names and shapes of its tensors alone.

What follows from them is written; what does not is a line `# FILL IN: key = ...` with what can be
said of it. No line is guessed: until it is filled in, the file is refused for the missing key. A
row that a shared file (`data/_*.toml`) has by name and by shape is taken over with `extends`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from secateur.families.draft_model import NAMES, DraftModel, Template, read_model
from secateur.families.registry import SharedFile, families, shared_files
from secateur.families.schema import EXPERT, TensorRow

FILL_IN = "# FILL IN:"
"""What the lines begin with that a person has to write."""

_ANYWHERE = {"vocab": "vocab", "hidden": "hidden", "one": "1"}
_ATTENTION = {"heads": "heads * head", "kv_heads": "kv * head", "head": "head"}
_DENSE = {"dense_ffn": "dense_width"}
_ROUTER = {"expert": "experts"}
_EXPERT = {
    "expert": "experts", "gate": "expert_width", "up": "expert_width", "ffn": "expert_width",
    "gate|up": "2 * expert_width", "gate/up": "2 * expert_width",
}  # fmt: skip
_WORDS = {**_ANYWHERE, **_ATTENTION, **_DENSE, **_EXPERT}
"""Axis words that any family may use, and their sizes, by the part of a layer that has them."""

_ROLES = (
    'norm, bias, router, "router.bias", "router.correction_bias", "router.expert_scale", '
    '"attention.q" (k, v, o), "expert.gate" (up, down, gate_up), "dense.gate" (up, down), '
    '"shared.gate" (up, down), scale, vision, audio'
)


def draft(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> str:
    """The text of a draft.

    `config` is config.json, `shapes` the shape of every tensor by name. Raises FamilyError for a
    config without layers, or tensors without experts.
    """
    model = read_model(config, shapes)
    bases = _choose_bases(model)
    covered = {row.name for base in bases for row in base.rows if _covers(row, model, base)}
    rows = [t for t in model.templates if t.name not in covered]
    parts = (
        _head(model, bases),
        _config(model),
        _shape(model, bases, rows),
        _router(model, bases, rows),
        *(_row(template, model, bases) for template in rows),
        *(_carried(name) for name in model.carried),
    )
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _choose_bases(model: DraftModel) -> list[SharedFile]:
    """The shared files whose own rows are all this model's, and no file that another extends."""
    files = shared_files()
    chosen = [file for file in files if _fits(file, model)]
    if model.has_split_experts and not any(_has_stacks(file) for file in chosen):
        chosen += [file for file in files if any(_is_stack(row) for row in file.own)]
    extended = {name for file in chosen for name in file.extends}
    return [file for file in chosen if file.name not in extended]


def _fits(file: SharedFile, model: DraftModel) -> bool:
    """Whether the model has rows of a shared file, and all that it would be said to have."""
    stacks = {row.into for row in file.own}
    covered = {row.name for row in file.own if _covers(row, model, file)}
    needed = {
        row.name
        for row in file.own
        if row.name not in stacks and (row.when is None or model.holds_somewhere(row.when))
    }
    return bool(covered) and needed <= covered


def _has_stacks(file: SharedFile) -> bool:
    return any(_is_stack(row) for row in file.rows)


def _is_stack(row: TensorRow) -> bool:
    return EXPERT in row.axes and row.role.startswith("expert.")


def _covers(row: TensorRow, model: DraftModel, file: SharedFile) -> bool:
    """Whether a shared row is right for the model's tensors of that name, whose axes are clear.

    Of a stack of experts they are not: two projections in one tensor may be halves or
    interleaved, and a matrix may be transposed.
    """
    template, axes = model.find(row.name), {**_WORDS, **file.axes}
    if template is None or template.shape is None or len(row.axes) != len(template.shape):
        return False
    sizes = tuple(model.size(axes.get(word)) for word in row.axes)
    joined = any("|" in word for word in row.axes)
    unclear = _is_stack(row) and (joined or len(set(sizes)) < len(sizes))
    return sizes == template.shape and not unclear


def _head(model: DraftModel, bases: Sequence[SharedFile]) -> list[str]:
    return [
        "# Drafted by secateur from config.json and the tensors' shapes. Replace every line",
        "# `FILL IN` by the key that it names; secateur/families/schema.py says what keys mean.",
        "# [gguf] and [mlx], for those formats, are not drafted.",
        f"title = {_text(model.title)}",
        *([f"extends = {_text([base.name for base in bases])}"] if bases else []),
        f"model_types = {_text(model.model_types)}",
        f"prefixes = {_text(model.prefixes)}",
    ]


def _config(model: DraftModel) -> list[str]:
    lines = ["[config]", f"sections = {_text(model.sections)}"]
    for name, keys in model.keys.items():
        if len(keys) == 1 or name == "experts":
            lines.append(f"{name} = {_text(keys)}")
        else:
            of = f"one of {', '.join(keys)}" if keys else "the config key that holds it"
            lines.append(f"{FILL_IN} {name} = [...]  # {of}")
    return lines


def _shape(model: DraftModel, bases: Sequence[SharedFile], rows: Sequence[Template]) -> list[str]:
    lines = []
    if model.section:
        prefix = model.prefixes[-1]
        lines += ["[shape.prefix]", f'{model.section} = "{prefix}"', f'"" = "{model.prefixes[0]}"']
    known = {word for base in bases for word in base.axes}
    written = [words for row in rows if (words := _clear_axes(row, model)) is not None]
    added = {word for words in written for word in words} - known
    lines.append("[shape.names]  # words of your own for use in expressions")
    if added & _ATTENTION.keys() and not any("head" in base.names for base in bases):
        lines += [f"{name} = {_text(size)}" for name, size in NAMES.items()]
    if (routed := model.routed) != "True":
        lines.append(_or_fill("routed", routed, f"true in layers {_ranges(model.moe_layers)}"))
    lines += ["", "[shape.axes]  # sizes of further axis words that you fill in"]
    lines += [f"{_text(word)} = {_text(size)}" for word, size in _WORDS.items() if word in added]
    return lines


def _router(model: DraftModel, bases: Sequence[SharedFile], rows: Sequence[Template]) -> list[str]:
    inherited = [base.router["module"] for base in bases if "module" in base.router]
    lines = ["[router]"]
    if not any(model.find(f"{module}.weight") for module in inherited):
        routers = [row.name for row in rows if _role(row, model) == "router"]
        module = routers[0].removesuffix(".weight") if len(routers) == 1 else None
        # Where the running model has other names, that of its router does not follow from these.
        known = None if inherited else module
        hint = f"of the running model, the one that chooses experts: {module or 'a module'}?"
        lines.append(_or_fill("module", known, hint))
        lines.append(f"{FILL_IN} output = ...  # what it returns first: logits or probabilities")
    score = model.part.get("scoring_func", model.part.get("score_function"))
    known = score if score in ("softmax", "sigmoid") else None
    lines.append(_or_fill("score", known, "softmax or sigmoid"))
    key = next((key for key in model.part if key.startswith("norm_topk")), None)
    lines.append(_or_fill("normalise", key, "selected, all, none, or a config key that decides"))
    biases = [t.name for t in rows if t.name.endswith("e_score_correction_bias")]
    lines += [f"bias = {_text(name)}" for name in biases]
    if model.part.get("n_group") or model.part.get("num_expert_group"):
        lines.append(f"{FILL_IN} group_best = ...  # a group is ranked by its so many best scores")
    return lines


def _row(template: Template, model: DraftModel, bases: Sequence[SharedFile]) -> list[str]:
    lines = ["[[tensor]]", f"name = {_text(template.name)}"]
    role = _role(template, model)
    lines.append(_or_fill("role", role, f"such as {_ROLES}"))
    axes = _clear_axes(template, model)
    lines.append(f"axes = {_text(axes)}" if axes is not None else _unclear_axes(template, model))
    if "{layer}" in template.name and template.layers != model.layers:
        when = model.condition(template.layers)
        lines.append(_or_fill("when", when, f"true in layers {_ranges(template.layers)}"))
    stacks = any(_has_stacks(base) for base in bases)
    if "{expert}" in template.name or (role == "router" and stacks):
        targets = [row.name for base in bases for row in base.rows if _is_stack(row)]
        if role == "router":
            targets = [row.name for base in bases for row in base.rows if row.role == "router"]
        hint = f"in the running model: {' or '.join(targets)}" if targets else "a stack's row"
        lines.append(f"{FILL_IN} into = ...  # what it is a part of {hint}")
    return lines


def _carried(name: str) -> list[str]:
    return [
        "[[tensor]]", f"name = {_text(name)}", f'{FILL_IN} role = ...  # such as vision or audio',
        "axes = []",
    ]  # fmt: skip


def _role(template: Template, model: DraftModel) -> str | None:
    """The role that the name, or the name and the shape, leave no doubt of."""
    known = {row.role for family in families() for row in family.rows if row.name == template.name}
    if len(known) == 1:
        return known.pop()
    leaf = template.name.removesuffix(".weight").rpartition(".")[2]
    vector = template.shape is not None and len(template.shape) == 1
    experts = model.number("experts")
    if vector and template.shape != (experts,):
        return "norm" if "norm" in leaf else "bias" if leaf == "bias" else None
    if template.shape == (experts, model.number("hidden")) and leaf in ("gate", "router"):
        return "router"
    return None


def _axes_of(template: Template, model: DraftModel) -> list[list[str]]:
    """For each axis of a tensor the words whose size it has, of its part of a layer."""
    words = dict(_ANYWHERE)
    if "attn" in template.name or "attention" in template.name:
        words |= _ATTENTION
    elif "experts" in template.name and "shared" not in template.name:
        words |= _EXPERT
    elif model.number("experts") in (template.shape or ())[:1]:
        words |= _ROUTER
    elif "shared" not in template.name:
        words |= _DENSE
    sizes = {word: model.size(text) for word, text in words.items()}
    return [[word for word, size in sizes.items() if size == axis] for axis in template.shape or ()]


def _clear_axes(template: Template, model: DraftModel) -> list[str] | None:
    """The axes of a tensor, None where the sizes leave a choice."""
    words = _axes_of(template, model)
    if template.shape is None or any(len(options) != 1 for options in words):
        return None
    return [options[0] for options in words]


def _unclear_axes(template: Template, model: DraftModel) -> str:
    if template.shape is None:
        return f"{FILL_IN} axes = [...]  # the shape is another in other layers"
    options = "; ".join(" or ".join(o) or "no word known" for o in _axes_of(template, model))
    return f"{FILL_IN} axes = [...]  # shape {list(template.shape)}: {options}"


def _or_fill(key: str, value: str | None, hint: str) -> str:
    return f"{FILL_IN} {key} = ...  # {hint}" if value is None else f"{key} = {_text(value)}"


def _text(value: str | Sequence[str]) -> str:
    """As TOML, which has the strings and lists of JSON."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)


def _ranges(layers: frozenset[int]) -> str:
    return ", ".join(_spans(sorted(layers)))


def _spans(numbers: Sequence[int]) -> Iterator[str]:
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            first, last = numbers[start], numbers[end - 1]
            yield str(first) if first == last else f"{first} to {last}"
            start = end
