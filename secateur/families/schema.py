"""A model family as data: every key that a family's TOML may have, and what it becomes.

A family is one TOML file: `data/NAME.toml` in this package, `NAME.toml` in the folder `families`
of the user's configuration, or the file of `--family`. The reader is strict: an unknown key, a
missing one and a value of another type are errors with file and line.

    extends           a file, or several, whose tables this one takes over (`loading.py`)
    title             what people call the family
    model_types       the `model_type` of every config.json that it describes
    prefixes          what `{model}` in a row's name stands for; the running model's comes first
    [published]       day of release and chat markers, for the audit: `Published`
    [config]          `sections` of config.json that may hold the text model, "" for the top, and
                      for each of NUMBERS the config keys that hold it, tried in order
    [[also]]          keys that some readers need and some writers leave out: `AlsoKey`
    [shape]           how large the axes of the rows are: `ShapeRules`
    [memory]          what llama.cpp keeps of a token in each layer: `MemoryRules`
    [router]          how scores become routing weights: `RouterRule`
    [branch]          post_norm: the norm between the experts' sum and the residual stream
    [gguf], [mlx]     the form in llama.cpp and mlx-lm (`format_rules.py`)
    [ollama]          templates and renderer in Ollama (`ollama_rules.py`)
    [[packed]]        a form in fewer bits that checkpoints are published in: `PackedRule`
    [[vllm]]          vLLM's parsers of tool calls and thoughts, by chat template (`vllm_rules.py`)
    [[tensor]]        one kind of tensor: `TensorRow`
    [mmproj]          the tables of a tower next to the text model once more: it is described as a
                      family of its own, and has from its parent the tables that it leaves out

A row's `name` is a template with the holes `{model}`, `{layer}`, `{expert}` and `{rest}`. `{a|b}`
in it stands for a row for each word, and the row's `gguf` has as many. Rows with `{rest}` are
parts of a model that are only carried along.

A row has one word per axis. Two words carry meaning everywhere: `expert` is the axis that pruning
selects along, and `gate|up` (halves) or `gate/up` (interleaved) is an axis that holds two
projections. An axis `red/green/blue` is a patch of an image, its channels interleaved.

The world is closed: a tensor that no row describes is an error, never a guess.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from secateur.errors import FamilyError
from secateur.families.format_rules import AlsoKey, GgufRules, MlxRules
from secateur.families.ollama_rules import OllamaRules
from secateur.families.vllm_rules import VllmParsers

EXPERT = "expert"
NUMBERS = {
    "layers": "decoder layers",
    "experts": "routed experts of a layer",
    "top_k": "experts that work on a token",
    "heads": "attention heads",
    "kv_heads": "heads of keys and values",
    "hidden": "width of the residual stream",
    "expert_width": "width inside an expert",
    "dense_width": "width inside a dense MLP",
    "vocab": "entries of the vocabulary",
    "groups": "groups of experts",
    "used_groups": "groups that a token may choose from",
    "extra_layers": "blocks after the model's own layers that predict further tokens; left out",
}
"""The numbers of a config that a family may name in [config]."""

_ANY_PATTERN = re.compile("")


@dataclass(frozen=True)
class TensorRow:
    """[[tensor]]: a kind of tensor, described once for all layers.

    `into` is the name of another row whose tensor in the running model this one is a part of
    (per-expert matrices of a stack), or an older name of. `when` is the condition on which a model
    has the row in a layer. `gguf` and `mlx` are its names in files of those formats; several are
    those of its halves. `gguf_heads` is the size of an attention head where a GGUF has the rows
    of the tensor in another order (`formats/gguf/row_order.py`).
    """

    name: str
    role: str
    axes: tuple[str, ...]
    pattern: re.Pattern[str] = field(repr=False, default=_ANY_PATTERN, metadata={"derived": True})
    into: str | None = None
    gguf: tuple[str, ...] = field(default=(), metadata={"one_or_many": True})
    gguf_heads: str | None = field(default=None, metadata={"expression": True})
    when: str | None = field(default=None, metadata={"expression": True})
    mlx: tuple[str, ...] = field(default=(), metadata={"one_or_many": True})

    @property
    def carried(self) -> bool:
        """True for a part that is copied as it is, whatever tensors it has."""
        return "{rest}" in self.name

    @property
    def per_expert(self) -> bool:
        """True when the expert's number is part of the name, not an axis."""
        return "{expert}" in self.name

    @property
    def expert_axis(self) -> int | None:
        """Position of the axis that pruning selects along, None when there is none."""
        return self.axes.index(EXPERT) if EXPERT in self.axes else None


@dataclass(frozen=True)
class TensorMatch:
    """Where one tensor of a checkpoint belongs: its row, and the holes filled in."""

    row: TensorRow
    prefix: str
    layer: int | None
    expert: int | None

    @property
    def role(self) -> str:
        return self.row.role


@dataclass(frozen=True)
class RouterRule:
    """[router]: how this family's router turns scores into routing weights.

    With logits z over E experts, a = exp(z) (`softmax`) or sigmoid(z) (`sigmoid`); the chosen set
    S are the top k of a (plus the `bias` tensor, which steers the choice only). The weight
    of j in S is c_j * a_j / D, with D = sum of a over S (`selected`), over all experts (`all`),
    or 1 (`none`), and c_j a constant of the expert (such as a scale per expert). `normalise` may
    name a boolean config key that chooses between `selected` and the score's own default.
    `output` says what the router module returns first: `logits` or `probabilities`.
    Where experts form groups, groups are ranked by the sum of their `group_best` best scores.
    `inputs` is how many numbers of size one a logit sums up, an expression: "1" where the router
    divides its input by the root of its width.
    """

    module: str
    output: Literal["logits", "probabilities"]
    score: Literal["softmax", "sigmoid"]
    normalise: str
    bias: str | None = None
    group_best: int = 1
    inputs: str = field(default="hidden", metadata={"expression": True})


@dataclass(frozen=True)
class PackedRule:
    """[[packed]]: a form in which publishers store weights in fewer than 16 bits.

    `method` is the quant_method of config.json's quantization_config: `fp8` are E4M3 numbers with
    a scale for every block of 128 x 128 (NAME_scale_inv), `mxfp4` blocks of 32 with a common
    exponent (NAME_blocks, NAME_scales). `roles` are the roles that it is done to, or what these
    have before the dot.
    """

    method: Literal["fp8", "mxfp4"]
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """[published]: what the family's publisher gave with it, to check what others make of it.

    `released` is the day of its first release (ISO). A chat template of the family holds all
    `markers`; `channels` are the names that may follow a marker that opens a channel.
    """

    released: str | None = None
    markers: tuple[str, ...] = ()
    channel: str | None = None
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShapeRules:
    """[shape]: how large the axes of the rows are, in expressions (`expressions.py`).

    A name in an expression means, in this order: `layer`, the number of the row's layer; a word
    of `names`; one of NUMBERS; a key of the config's section, or of its top; a default. What none
    of these gives is None.

        axes         an axis word of the rows -> its size
        names        words of the family's own
        defaults     config key -> what transformers takes where the config leaves it out
        expect       config key -> the values that the rows can describe
        prefix       config section -> the prefix of names in such a checkpoint
        float32      roles that are published in 32 bits, whatever the model's type
        not_counted  config section -> what it describes, whose tensors no row gives a shape
        layer_numbers  config keys whose lists name layers by their numbers
    """

    axes: Mapping[str, str] = field(default_factory=dict, metadata={"expression": True})
    names: Mapping[str, str] = field(default_factory=dict, metadata={"expression": True})
    defaults: Mapping[str, Any] = field(default_factory=dict)
    expect: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    prefix: Mapping[str, str] = field(default_factory=dict)
    float32: tuple[str, ...] = ()
    not_counted: Mapping[str, str] = field(default_factory=dict)
    layer_numbers: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryRules:
    """[memory]: what llama.cpp keeps of a token in a layer, as expressions.

    `keys` and `values` are numbers of elements; a layer that is not `cached` shares another's,
    and one with a `window` keeps that many tokens only (0: all).
    """

    keys: str = field(metadata={"expression": True})
    values: str = field(metadata={"expression": True})
    cached: str = field(default="True", metadata={"expression": True})
    window: str = field(default="0", metadata={"expression": True})


@dataclass(frozen=True)
class Family:
    """A model family: its rows, its config keys and its router's rule.

    `file` is the TOML file it was read from, and `sha256` that of the user's file with all that
    it extends of the user's; None for a family that ships with secateur.
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]
    rows: tuple[TensorRow, ...]
    config: Mapping[str, tuple[str, ...]]
    sections: tuple[str, ...]
    also: tuple[AlsoKey, ...]
    router: RouterRule
    post_norm: str | None
    file: str
    sha256: str | None = None
    gguf: GgufRules | None = field(repr=False, default=None)
    shape: ShapeRules = field(repr=False, default_factory=ShapeRules)
    memory: MemoryRules | None = field(repr=False, default=None)
    published: Published = field(repr=False, default_factory=Published)
    mlx: MlxRules | None = field(repr=False, default=None)
    ollama: OllamaRules | None = field(repr=False, default=None)
    vllm: tuple[VllmParsers, ...] = field(repr=False, default=())
    mmproj: Family | None = field(repr=False, default=None)
    packed: tuple[PackedRule, ...] = ()

    def match(self, name: str) -> TensorMatch | None:
        """The place of the tensor called `name`; None when no row describes it."""
        for row in self.rows:
            if match := row.pattern.fullmatch(name):
                holes = match.groupdict()
                return TensorMatch(
                    row,
                    holes.get("model") or "",
                    int(holes["layer"]) if holes.get("layer") else None,
                    int(holes["expert"]) if holes.get("expert") else None,
                )
        return None

    def user_file(self) -> dict[str, str]:
        """What plans and statistics remember of the user's file: {"name", "sha256"}."""
        return {"name": f"{self.name}.toml", "sha256": self.sha256 or ""}

    def classify(self, name: str) -> TensorMatch:
        """The place of the tensor called `name`.

        Raises FamilyError, naming the nearest row, when no row describes it.
        """
        if (found := self.match(name)) is not None:
            return found
        near = difflib.get_close_matches(
            re.sub(r"\.\d+\.", ".{layer}.", name, count=1),
            [row.name.replace("{model}", self.prefixes[0]) for row in self.rows],
            n=1,
            cutoff=0.0,
        )
        raise FamilyError(
            f"tensor {name!r} is not known to the family {self.name!r} "
            f"(nearest row: {near[0] if near else 'none'}): is the checkpoint in its publisher's "
            f"form? If so, a [[tensor]] row is missing in {self.file}"
        )

    def running_name(self, place: TensorMatch) -> str:
        """The parameter of the running (text-only) transformers model that the tensor fills."""
        return self.fill(place.row.into or place.row.name, place.layer, place.expert)

    def fill(self, template: str, layer: int | None = None, expert: int | None = None) -> str:
        """A template's name in the running model, holes filled."""
        return (
            template.replace("{model}", self.prefixes[0])
            .replace("{layer}", str(layer))
            .replace("{expert}", str(expert))
        )

    def fused_row(self, target: str) -> TensorRow:
        """The row whose template is `target`, that is what an `into` points at."""
        return next(row for row in self.rows if row.name == target)

    def section(self, config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """(name, mapping) of the config section that describes the text model; "" is the top."""
        for name in self.sections:
            part = config.get(name) if name else config
            if isinstance(part, Mapping) and any(key in part for key in self.config["layers"]):
                return name, part
        raise FamilyError(
            f"config.json has none of {', '.join(self.config['layers'])}: "
            f"it does not describe a {self.title} model"
        )

    def find(self, config: Mapping[str, Any], what: str) -> tuple[str, int] | None:
        """(key, value) of the first of this number's config keys that is present."""
        _, part = self.section(config)
        for key in self.config.get(what, ()):
            if isinstance(part.get(key), int) and not isinstance(part[key], bool):
                return key, part[key]
        return None

    def number(self, config: Mapping[str, Any], what: str) -> int:
        """A number that the config must hold, such as `experts` or `layers`."""
        if found := self.find(config, what):
            return found[1]
        raise FamilyError(
            f"config.json names no {what} (looked for {', '.join(self.config.get(what, ()))}): "
            f"is this a Mixture-of-Experts {self.title} model?"
        )
