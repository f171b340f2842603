"""Model families as data: which tensors a model has, what their axes mean, where its numbers are.

A family is a TOML file beside this module. Each `[[tensor]]` row is a name template with the
holes `{model}` (one of the family's prefixes), `{layer}`, `{expert}` and `{rest}`, a role, and
one word per axis. Two axis words carry meaning everywhere: `expert` is the axis that pruning
selects along, and `gate|up` (halves) or `gate/up` (interleaved) is an axis that holds two
projections. A row with `into` says that its tensors are parts of another row's tensor in the
running model: per-expert matrices of the experts' stack, or an older name. Where a model has a
row only in some layers or with some configs, `when` is the condition
(`checkpoint/expected_tensors.py`). `gguf` and `mlx` are its names in files
of other formats; several are those of its halves. `gguf_heads` is
the size of an attention head, as an expression, where a GGUF has its rows in another order
(`formats/gguf/row_order.py`).

An axis `red/green/blue` is a patch of an image, its colours interleaved. `{a|b}` in a name stands
for a row for each word, and the row's `gguf` has as many. Rows with `{rest}` are parts of a model
that are only carried along. `[mmproj]` has the tables of such a part, a tower beside the text
model, once more: it is described as a family of its own.

The world is closed: a tensor that no row describes is an error, never a guess.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from secateur.errors import FamilyError

EXPERT = "expert"
_WORDS = re.compile(r"\{([^{}|]+(?:\|[^{}|]+)+)\}")
_HOLES = {"layer": r"(?P<layer>\d+)", "expert": r"(?P<expert>\d+)", "rest": r"(?P<rest>.+)"}


@dataclass(frozen=True)
class TensorRow:
    """One line of a family's table: a kind of tensor, described once for all layers."""

    name: str
    role: str
    axes: tuple[str, ...]
    pattern: re.Pattern[str] = field(repr=False)
    into: str | None = None
    gguf: tuple[str, ...] = ()
    gguf_heads: str | None = None
    when: str | None = None
    mlx: tuple[str, ...] = ()

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
    """How this family's router turns scores into coefficients, as data.

    With logits z over E experts, a = exp(z) (`softmax`) or sigmoid(z) (`sigmoid`); the chosen set
    S are the top k of a (plus the `bias` tensor, which steers the choice only). The coefficient
    of j in S is c_j * a_j / D, with D = sum of a over S (`selected`), over all experts (`all`),
    or 1 (`none`), and c_j a constant of the expert (Gemma 4: per_expert_scale). `normalise` may
    name a boolean config key that chooses between `selected` and the score's own default.
    `output` says what the router module returns first: `logits` or `probabilities`.
    Where experts form groups, groups are ranked by the sum of their `group_best` best scores.
    """

    module: str
    output: str
    score: str
    normalise: str
    bias: str | None = None
    group_best: int = 1


@dataclass(frozen=True)
class AlsoKey:
    """A config key that some readers need and some writers leave out, and where its value is.

    `source` is a dotted path inside the text model's section. With `{layer}` in it, it is looked
    up for every layer whose `layer_types` entry is `layers`; a layer without it has the value of
    the key `otherwise`. The key goes into the text model's section, or to the `top` of the file.
    """

    key: str
    source: str
    layers: str | None = None
    otherwise: str | None = None
    top: bool = False


@dataclass(frozen=True)
class Published:
    """What the family's publisher gave with it, for checks of what others make of it.

    `released` is the day of its first release (ISO). A chat template of the family holds all
    `markers`; `channels` are the names that may follow a marker that opens a channel.
    """

    released: str | None = None
    markers: tuple[str, ...] = ()
    channel: str | None = None
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """A model family: its rows, its config keys and its router's rule."""

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
    gguf: Mapping[str, Any] = field(repr=False)
    shape: Mapping[str, Any] = field(repr=False, default_factory=dict)
    memory: Mapping[str, str] = field(repr=False, default_factory=dict)
    published: Published = field(repr=False, default_factory=Published)
    mlx: Mapping[str, Any] = field(repr=False, default_factory=dict)
    mmproj: Family | None = field(repr=False, default=None)

    def classify(self, name: str) -> TensorMatch:
        """The place of the tensor called `name`.

        Raises FamilyError, naming the nearest row, when no row describes it.
        """
        for row in self.rows:
            if match := row.pattern.fullmatch(name):
                holes = match.groupdict()
                return TensorMatch(
                    row,
                    holes.get("model") or "",
                    int(holes["layer"]) if holes.get("layer") else None,
                    int(holes["expert"]) if holes.get("expert") else None,
                )
        near = difflib.get_close_matches(
            re.sub(r"\.\d+\.", ".{layer}.", name, count=1),
            [row.name.replace("{model}", self.prefixes[0]) for row in self.rows],
            n=1,
            cutoff=0.0,
        )
        raise FamilyError(
            f"tensor {name!r} is not known to the family {self.name!r} "
            f"(nearest row: {near[0] if near else 'none'}): add a [[tensor]] row for it to "
            f"checkpoint/families/{self.name}.toml, or remove it from the checkpoint"
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


def families() -> tuple[Family, ...]:
    """All families that ship with secateur, by name."""
    folder = resources.files(__package__) / "data"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(_load(name.removesuffix(".toml")) for name in names)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a model's config belongs to, by its `model_type`.

    Raises FamilyError, listing the known types, when none does.
    """
    known = {kind: family for family in families() for kind in family.model_types}
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in known:
        return known[kind]
    raise FamilyError(
        f"config.json has model_type {kind!r}, which no family describes "
        f"(known: {', '.join(sorted(known))}): add a file to secateur/families/data/"
    )


@cache
def _load(name: str) -> Family:
    text = (resources.files(__package__) / "data" / f"{name}.toml").read_text("utf-8")
    return _family(name, tomllib.loads(text))


def _family(name: str, data: Mapping[str, Any]) -> Family:
    tower = data.get("mmproj")
    prefixes = tuple(data["prefixes"])
    config = dict(data["config"])
    sections = tuple(config.pop("sections"))
    return Family(
        name=name,
        title=data["title"],
        model_types=tuple(data["model_types"]),
        prefixes=prefixes,
        rows=tuple(_row(one, prefixes) for entry in data["tensor"] for one in _spread(entry)),
        config={key: tuple(value) for key, value in config.items()},
        sections=sections,
        also=tuple(AlsoKey(**entry) for entry in data.get("also", ())),
        router=RouterRule(**data["router"]),
        post_norm=data.get("branch", {}).get("post_norm"),
        gguf=data.get("gguf", {}),
        shape=data.get("shape", {}),
        memory=data.get("memory", {}),
        published=_published(data.get("published", {})),
        mlx=data.get("mlx", {}),
        mmproj=_family(name, {**data, **tower, "mmproj": None}) if tower else None,
    )


def _published(table: Mapping[str, Any]) -> Published:
    words: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Published(**words)


def _spread(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows that an entry stands for: one for each word of every `{a|b}` in its name."""
    found = _WORDS.search(entry["name"])
    if found is None:
        yield entry
        return
    fields = {key: entry[key] for key in ("name", "gguf") if isinstance(entry.get(key), str)}
    words = {key: _WORDS.search(text) for key, text in fields.items()}
    for number in range(found[1].count("|") + 1):
        filled = {
            key: text.replace(hole[0], hole[1].split("|")[number], 1)
            for key, text in fields.items()
            if (hole := words[key])
        }
        yield from _spread({**entry, **filled})


def _row(entry: Mapping[str, Any], prefixes: Sequence[str]) -> TensorRow:
    pattern = re.escape(entry["name"]).replace(r"\{", "{").replace(r"\}", "}")
    longest_first = sorted(prefixes, key=len, reverse=True)
    alternatives = "|".join(re.escape(prefix) for prefix in longest_first)
    pattern = pattern.replace("{model}", f"(?P<model>{alternatives})")
    for hole, expression in _HOLES.items():
        pattern = pattern.replace(f"{{{hole}}}", expression)
    return TensorRow(
        name=entry["name"],
        role=entry["role"],
        axes=tuple(entry["axes"]),
        pattern=re.compile(pattern),
        into=entry.get("into"),
        gguf=_names(entry.get("gguf", ())),
        gguf_heads=entry.get("gguf_heads"),
        when=entry.get("when"),
        mlx=tuple(entry.get("mlx", ())),
    )


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
