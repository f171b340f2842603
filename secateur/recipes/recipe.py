"""A recipe: which type every tensor of an output gets, said by role, layer and name.

    name: my-mix
    base: Q4_K_M
    tiers: {high: "0", middle: "1-6,10"}
    rules:
      - {role: expert.down, layers: edge 5, type: Q6_K}
      - {role: [attention.q, attention.k], layers: high, type: Q5_K}
      - {name: 'blk\\.\\d+\\.ffn_down\\.weight', type: Q8_0, if_present: true}

The first rule that matches a tensor decides. A rule that matches no tensor is an error, unless it
says `if_present`. What a rule gives is an explicit type: rows that it does not divide fall back as
llama-quantize's overrides do.

A file type of llama.cpp (`Q4_K_M`) is a recipe without rules; `_L` and `_XL` are those with the
embedding and the output in Q8_0. A --tensor-type-file of llama-quantize makes one together with
the file type that it is for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from secateur.errors import PlanError
from secateur.formats.ggml.tensor_type_file import read_tensor_types
from secateur.recipes.llama_mixes import ALIASES, FILE_TYPES, file_type
from secateur.recipes.patterns import name_pattern
from secateur.system.settings import Settings, read_yaml

RECIPES = Path(__file__).parent / "data"

BASES: dict[str, Callable[[str], str]] = {"gguf": file_type, "mlx": str}
"""{what recipes can be for, the first by default: the function that reads their `base`}. A new
format that takes recipes adds itself here."""

RECIPE_KEYS = {
    "name": "what the recipe is called; the file's name by default",
    "about": "one line for people",
    "to": "the format that it is for: gguf (default) or mlx",
    "base": "what tensors get that no rule names: a file type of llama.cpp (Q3_K_M), or for MLX a "
    "type; required",
    "embedding": "type of the token embedding: llama-quantize's --token-embedding-type",
    "output": "type of the output matrix: its --output-tensor-type",
    "imatrix": "true: refuse to plan without an importance matrix",
    "pad": "true: widen rows with zeros where a type needs it, instead of another type",
    "tiers": "names for groups of layers, most important first: a list of layers in text, or a "
    "share of all layers as a number below 1",
    "rules": "list of rules, see below",
}
"""The keys of a recipe, and what each holds."""

RULE_KEYS = {
    "role": "a role or a list of roles; `expert` stands for every `expert.*`",
    "layers": "layers, as below, or the name of a tier",
    "name": "a regular expression that the whole name of the output's tensor matches",
    "type": "the type that matching tensors get; required",
    "if_present": "true: it is no error when nothing matches",
}
"""The keys of a rule, and what each holds. Without `role`, `layers` or `name`: any."""

LARGE = {
    "Q6_K_L": "Q6_K",
    "Q5_K_L": "Q5_K_M",
    "Q4_K_L": "Q4_K_M",
    "Q3_K_XL": "Q3_K_L",
    "Q2_K_L": "Q2_K",
}
"""bartowski's names: the file type on the right, with embedding and output in Q8_0."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a recipe. Empty `roles`, `layers` or `name`: any."""

    type: str
    roles: tuple[str, ...] = ()
    layers: str = ""
    name: str = ""
    if_present: bool = False

    def sentence(self) -> str:
        """The rule as a person would point at it."""
        parts = [" ".join(self.roles), f"layers {self.layers}" if self.layers else "", self.name]
        return f"{', '.join(part for part in parts if part) or 'everything'} = {self.type}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the types of one output come about; see the module's docstring.

    `to` is the name of an output format. A recipe for a tower's GGUF (outputs/gguf/mmproj.py) has
    no rules: its `base` is llama.cpp's type.

    `patterns` are llama-quantize's own overrides (regular expression, type), tried after the
    rules: lower-cased, found anywhere in a name, the first match wins.
    """

    name: str
    base: str
    to: str = "gguf"
    about: str = ""
    embedding: str | None = None
    output: str | None = None
    imatrix: bool = False
    pad: bool = False
    tiers: Mapping[str, str | float] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isprintable() or {"/", "\\"} & set(self.name):
            raise PlanError(
                f"recipe name {self.name!r:.60}: files are called by it, so it may hold no slash "
                "and no control character"
            )

    @property
    def format(self) -> str:
        """What plans call the output: `gguf-Q4_K_M`, `mlx-mixed-4-8`, `mmproj-F16`."""
        return f"{self.to}-{self.name}"

    def facts(self) -> dict[str, Any]:
        """What a plan remembers of it (JSON-able)."""
        text = json.dumps(asdict(self), sort_keys=True)
        return {
            "to": self.to,
            "recipe": self.name,
            "base": self.base,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            **({"pad": True} if self.pad else {}),
        }


def recipe_of_facts(format_id: str, facts: Mapping[str, Any]) -> Recipe:
    """The recipe of a plan's format, without rules: the plan's tensors say their types.

    Raises PlanError when the facts do not describe the format.
    """
    try:
        recipe = Recipe(
            str(facts["recipe"]), facts["base"], facts["to"], pad=bool(facts.get("pad", False))
        )
    except KeyError as error:
        raise PlanError(
            f"the plan's format {format_id!r} does not say {error}: plan again"
        ) from None
    if recipe.format != format_id:
        raise PlanError(
            f"the plan's format {format_id!r} is written as {recipe.format!r}: plan again"
        )
    return recipe


def find_recipe(word: str) -> Recipe:
    """The recipe of a file type's name (any case), a shipped recipe's name, or a YAML path.

    Raises PlanError that lists what there is.
    """
    path = Path(word)
    if path.suffix in (".yaml", ".yml"):
        return read_recipe(path)
    upper = ALIASES.get(word.upper(), word.upper())
    if upper in FILE_TYPES:
        return Recipe(upper, upper)
    if upper in LARGE:
        return Recipe(upper, LARGE[upper], embedding="Q8_0", output="Q8_0")
    shipped = {name.lower(): name for name in shipped_recipes()}
    if word.lower() in shipped:
        return read_recipe(RECIPES / f"{shipped[word.lower()]}.yaml")
    known = [*FILE_TYPES, *LARGE, *shipped]
    close = [shipped.get(one, one) for one in _close_names(word, known)]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise PlanError(
        f"unknown file type or recipe {word!r}: {hint}expected a file type of llama.cpp such as "
        "Q4_K_M, a recipe of `secateur recipe list`, a suite such as suite:bartowski, or the path "
        "of a .yaml file"
    )


def _close_names(word: str, known: Sequence[str]) -> list[str]:
    """Up to three known names that hold the word or look like it."""
    holding = [name for name in known if word.lower() in name.lower()]
    lowered = {name.lower(): name for name in known}
    alike = [lowered[name] for name in get_close_matches(word.lower(), list(lowered))]
    return list(dict.fromkeys([*holding, *alike]))[:3]


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with secateur."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def recipe_of_types(path: Path, base: str) -> Recipe:
    """llama-quantize's --tensor-type-file at `path`, over the file type `base`.

    Raises FormatError for a file that llama-quantize rejects, PlanError for an unknown base.
    """
    patterns = tuple((rule.pattern, rule.type) for rule in read_tensor_types(path))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)
    return Recipe(name, file_type(base), about=f"the patterns of {path.name}", patterns=patterns)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises PlanError naming the file and the rule that cannot be used."""
    where = str(path)
    given = Settings.of(read_yaml(path, PlanError), where, RECIPE_KEYS, PlanError)
    to = given.choice("to", tuple(BASES))
    base = given.text("base")
    if base is None:
        raise PlanError(f"{where}: base is missing: name the type of what no rule matches")
    tiers = given.pairs("tiers") or {}
    return Recipe(
        name=given.text("name") or path.stem,
        base=BASES[to](base),
        to=to,
        about=given.text("about") or "",
        embedding=given.text("embedding"),
        output=given.text("output"),
        imatrix=given.flag("imatrix", False),
        pad=given.flag("pad", False),
        tiers={str(key): value for key, value in tiers.items()},
        rules=tuple(
            _rule(entry, f"{where}: rules[{index}]")
            for index, entry in enumerate(given.listing("rules") or [])
        ),
    )


def _rule(entry: object, where: str) -> Rule:
    given = Settings.of(entry, where, RULE_KEYS, PlanError)
    kind = given.text("type")
    if kind is None:
        raise PlanError(f"{where}: type is missing")
    roles = given.values.get("role", [])
    roles = [roles] if isinstance(roles, str) else roles
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise PlanError(f"{where}: role is {roles!r}, expected a role or a list of roles")
    name = given.text("name") or ""
    try:
        name_pattern(name)
    except ValueError as error:
        raise PlanError(f"{where}: name {name!r} is no regular expression: {error}") from None
    layers = given.values.get("layers", "")
    if not isinstance(layers, str | int) or isinstance(layers, bool):
        raise PlanError(f"{where}: layers is {layers!r}, expected text such as '0-4,10'")
    return Rule(kind, tuple(roles), str(layers), name, given.flag("if_present", False))
