"""What a user asks for: one dataclass a subject, and the one place that interprets their words.

The command line, a job file and Python fill the same dataclasses with the same words; the
functions below say what the words mean. Messages name an argument as Python does, as in
`split_max_size`: the option is called the same, with dashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from secateur.api.measuring import Measuring
from secateur.api.releasing import Releasing
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import Running
from secateur.corpus.held_out import HoldOut
from secateur.corpus.mix import Mix
from secateur.errors import RequestError
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.robustness.request import Loops
from secateur.evaluation.speed.request import Speed
from secateur.evaluation.tasks.request import Tasks
from secateur.outputs.base import DEFAULT_ASSUMPTIONS, Output, PlanningAssumptions
from secateur.outputs.gguf.format import TOWER
from secateur.outputs.gguf.mmproj import tower_recipe
from secateur.outputs.registry import DEFAULT_TO, FORMATS, format_of
from secateur.planning.rounding import Rounding
from secateur.planning.unseen_experts import Policy
from secateur.pruning.choose import Pruning
from secateur.recipes.llama_mixes import ALIASES, FILE_TYPES
from secateur.recipes.recipe import Recipe, recipe_of_types
from secateur.recipes.suites import find_recipes
from secateur.statistics.token_sample import GRAM_TOKENS, REROUTE_TOKENS
from secateur.system.device_names import read_device
from secateur.system.settings import check_least
from secateur.system.sizes import read_size

__all__ = [
    "DEFAULT_ASSUMPTIONS",
    "Calibration",
    "Formats",
    "Gram",
    "Job",
    "Loops",
    "Measuring",
    "OnNan",
    "PlanningAssumptions",
    "Policy",
    "Pruning",
    "Releasing",
    "Running",
    "Serving",
    "ShrinkRequest",
    "Speed",
    "Tasks",
    "read_counts",
    "read_protected",
    "read_types",
    "read_words",
    "resolve_outputs",
    "resolve_recipes",
    "resolve_split",
]

Words = str | Sequence[str]
"""One or several words; a comma separates as well."""

OnNan = Literal["stop", "skip"]
"""What becomes of tokens that turn into NaN or infinity."""

Gram = Literal["none", "shared", "own"]
"""Which Gram matrices are made (statistics.gram.GramKind)."""


def read_words(given: Words) -> tuple[str, ...]:
    """The words of a list or of a text with commas, blanks left out."""
    texts = [given] if isinstance(given, str) else given
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


@dataclass(frozen=True)
class Solving:
    """How `rerouted` is solved for merged statistics: of which `revision` of a hub's model, by how
    many threads (default: all cores), and on which `device`: with `auto` on a GPU where GPUs made
    the sums and there is one, else on the CPU."""

    revision: str | None = None
    workers: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        read_device(self.device)
        check_least("workers", self.workers, 1, RequestError)


@dataclass(frozen=True)
class Calibration:
    """What to calibrate on, and how. One of `corpus` (a mix, or its name or path) and `rows`.

    `seed` and `sequence_length` take the place of the mix's own; `reroute_tokens` are sampled for
    the criterion `rerouted`. `observe` names sums to make in addition to the built-in ones
    (calibration.observers.registry). `keep_sample` writes the token sample next to the statistics,
    from which `rerouted` is solved again after a merge. `shard` is a part of the corpus, as in
    "2/3": its sample is kept, and nothing is solved. `gram` writes Gram matrices of all linear
    layers' inputs next to the statistics, for rounding with error feedback: "own" has one for what
    each expert's `down` sees, "shared" leaves these out, which are rounded to nearest then; of the
    other inputs about `gram_tokens` count (0: all), drawn by hashes. `device` is where the model
    runs: auto, cpu, cuda, cuda:N, several as in cuda:0,cuda:1, or mps. `held_out` is the share of
    the documents that is left out, to be measured on later (corpus.held_out).
    """

    corpus: str | Mix | None = None
    rows: Path | None = None
    seed: int | None = None
    sequence_length: int | None = None
    reroute_tokens: int = REROUTE_TOKENS
    on_nan: OnNan = "stop"
    observe: tuple[str, ...] = ()
    keep_sample: bool = False
    shard: str | None = None
    gram: Gram = "none"
    gram_tokens: int = GRAM_TOKENS
    device: str = "auto"
    held_out: float | None = None

    @property
    def text(self) -> str | Path | Mix | None:
        """The mix or the rows."""
        return self.corpus or self.rows

    def __post_init__(self) -> None:
        read_device(self.device)
        if self.held_out is not None:
            HoldOut(self.held_out)
        if self.corpus is not None and self.rows is not None:
            raise RequestError("either corpus or rows is calibrated on, not both: leave one out")
        least_of = {"seed": 0, "sequence_length": 1, "reroute_tokens": 0, "gram_tokens": 0}
        for name, least in least_of.items():
            check_least(name, getattr(self, name), least, RequestError)
        for name in ("seed", "sequence_length"):
            if self.rows is not None and getattr(self, name) is not None:
                raise RequestError(
                    f"{name} is of a mix, and rows are used as given: leave {name} out, or name a "
                    "mix with corpus"
                )
        if self.gram_tokens != GRAM_TOKENS and self.gram == "none":
            raise RequestError(
                "gram_tokens count for Gram matrices, and none are made: add gram, or leave it out"
            )
        if self.keep_sample and not self.reroute_tokens:
            raise RequestError("keep_sample: with reroute_tokens 0 there is no sample to keep")


@dataclass(frozen=True)
class Formats:
    """What to write: the pruned checkpoint, and files by recipes.

    `types` are file types of llama.cpp, names of shipped recipes, paths of YAML recipes
    (recipes.recipe) or suites (recipes.suites); `recipes` are recipes made in Python. `to` names
    the formats; without it the pruned checkpoint is written, and what the types are for.
    `tensor_type_file` is llama-quantize's, over the one file type in `types`. `pad` widens rows
    with zeros where a GGUF type needs it.
    `layer_importance` says what ranks layers for recipes with tiers: a measure of the statistics,
    a file (recipes.layer_importance), or a number per layer. GGUF files of more bytes of tensors
    than `split_max_size` are cut. `mmproj` is the type of the vision tower's own GGUF, or "none";
    by default it is written as F16 with GGUF files of a model that has such a tower. `rounding` is
    to the nearest level, or with error feedback, which is the default where the statistics have
    Gram matrices (planning.rounding).
    """

    to: Words | None = None
    types: Words = ()
    recipes: tuple[Recipe, ...] = ()
    tensor_type_file: Path | None = None
    pad: bool = False
    layer_importance: str | Path | tuple[float, ...] | None = None
    split_max_size: int | str | None = None
    mmproj: str | None = None
    rounding: Rounding | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", read_words(self.types))  # a file may be one of several


@dataclass(frozen=True)
class ShrinkRequest:
    """All that a run of `shrink` is asked for.

    `statistics` of an earlier run take the place of a calibration; a corpus is then there to
    measure on. `imatrix` is an importance matrix of llama.cpp to use instead of the statistics'
    own; `unseen_experts` says what becomes of experts without data in it. Without `measuring` the
    files are written and not measured.

    `content` are hashes that inputs have to have, by what names them (api.job_content); `written`
    says how a job file wrote a path. Neither decides anything of the output.
    """

    pruning: Pruning = Pruning()
    formats: Formats = Formats()
    calibration: Calibration = Calibration()
    measuring: Measuring | None = field(default_factory=Measuring)
    statistics: Path | None = None
    imatrix: Path | None = None
    unseen_experts: Policy = "uniform"
    content: Mapping[str, str] | None = field(default=None, repr=False)
    written: Mapping[Path, str] = field(default_factory=dict, repr=False, metadata={"key": False})

    def __post_init__(self) -> None:
        text, measuring = self.calibration.text, self.measuring
        unused = measuring is None or any(
            (measuring.prompts, measuring.answers, measuring.corpus, measuring.rows)
        )
        if self.statistics is not None and text is not None and unused:
            raise RequestError(
                f"statistics {self.statistics} take the place of a calibration, and nothing is "
                f"measured on the text: leave out {'corpus' if self.calibration.corpus else 'rows'}"
            )


@dataclass(frozen=True, kw_only=True)
class Job(ShrinkRequest):
    """A request with the model that it is for, and where its output goes.

    `model` is a folder, a hub id or `gemmule`, `revision` a commit, branch or tag of a hub id,
    `family` the user's file of the model's family. `secateur` is the version that resolved it.
    """

    model: str
    revision: str | None = None
    family: Path | None = None
    out: str | None = None
    running: Running = Running()
    secateur: str | None = None


def resolve_outputs(formats: Formats, checkpoint: Checkpoint) -> tuple[Output, ...]:
    """The outputs for a model, in order: the pruned checkpoint, the recipes' files, the tower's.

    Reads recipe files, so it is called once. Raises RequestError for formats and types that
    contradict each other, PlanError for an unknown type or recipe.
    """
    recipes = resolve_recipes(formats)
    made: set[str] = {recipe.to for recipe in recipes}
    wanted = read_words(formats.to or ())
    if formats.to is not None and not wanted:
        raise RequestError(f"to is empty: expected some of {', '.join(FORMATS)}")
    if odd := [word for word in wanted if word not in FORMATS]:
        raise RequestError(f"to {odd[0]!r}: expected some of {', '.join(FORMATS)}")
    for_llama = any(format_of(recipe).llama_quantize for recipe in recipes)
    _refuse_unused(formats, bool(recipes), for_llama)
    tower = tower_recipe(checkpoint, formats.mmproj, TOWER in wanted or for_llama)
    made |= {recipe.to for recipe in tower}
    _check_formats(wanted, made)
    first = tuple(word for word in wanted or DEFAULT_TO if FORMATS[word].example is None)
    return (*first, *recipes, *tower)


def resolve_split(formats: Formats) -> int | None:
    """Bytes of tensors in a file of a GGUF at most; None to cut none. Raises RequestError."""
    given = formats.split_max_size
    return read_size(given, RequestError) if isinstance(given, str) else given


def read_types(given: Words) -> tuple[Recipe, ...]:
    """The recipes that words such as `Q8_0,suite:apex,./mine.yaml` name, in order.

    Raises PlanError for a word that names none.
    """
    return tuple(recipe for word in read_words(given) for recipe in find_recipes(word))


def read_counts(given: str | Sequence[int]) -> tuple[int, ...]:
    """Numbers of experts, comma-separated. Raises RequestError for anything else."""
    if not isinstance(given, str):
        return tuple(given)
    try:
        return tuple(int(word) for word in read_words(given))
    except ValueError:
        raise RequestError(f"experts {given!r}: expected numbers such as 90,109") from None


def read_protected(entries: Iterable[str]) -> Mapping[int, tuple[int, ...]]:
    """{layer: experts} of LAYER:EXPERT[,EXPERT...] entries. Raises RequestError."""
    protected: dict[int, tuple[int, ...]] = {}
    for entry in entries:
        layer, _, experts = entry.partition(":")
        try:
            named = tuple(int(expert) for expert in experts.split(","))
            protected[int(layer)] = (*protected.get(int(layer), ()), *named)
        except ValueError:
            raise RequestError(
                f"protect {entry!r}: expected LAYER:EXPERT[,EXPERT...], as in 0:3,17"
            ) from None
    return protected


def resolve_recipes(formats: Formats) -> tuple[Recipe, ...]:
    """The recipes of the words and those made in Python, padded where that is asked for.

    Raises RequestError or PlanError for a word that is no type or recipe.
    """
    words = tuple(formats.types)
    last: tuple[Recipe, ...] = ()
    if formats.tensor_type_file is not None:
        bases = [word for word in words if ALIASES.get(word.upper(), word.upper()) in FILE_TYPES]
        if len(bases) != 1:
            raise RequestError(
                f"tensor_type_file {formats.tensor_type_file}: it goes with exactly one file type "
                f"in types, such as Q4_K_M; got {len(bases)}"
            )
        words = tuple(word for word in words if word not in bases)
        last = (recipe_of_types(formats.tensor_type_file, bases[0]),)
    recipes = (*read_types(words), *last, *formats.recipes)
    return tuple(map(_pad, recipes)) if formats.pad else recipes


def _pad(recipe: Recipe) -> Recipe:
    """A GGUF recipe with padding, under a name of its own: its files have other widths."""
    if not format_of(recipe).llama_quantize or recipe.pad:
        return recipe
    return replace(recipe, name=f"{recipe.name}-padded", pad=True)


def _refuse_unused(formats: Formats, quantizes: bool, for_llama: bool) -> None:
    """Raise RequestError for what would decide nothing of what is written."""
    if formats.rounding == "feedback" and not quantizes:
        raise RequestError("rounding feedback is of quantized files: name types, or leave it out")
    for name in ("pad", "split_max_size"):
        if getattr(formats, name) and not for_llama:
            raise RequestError(
                f"{name} is about GGUF files: name types of some, such as Q4_K_M, or leave it out"
            )


def _check_formats(wanted: Sequence[str], made: set[str]) -> None:
    """Raises RequestError when `to` names other formats than the types make."""
    if not wanted:
        return
    by_recipe = {word for word in wanted if FORMATS[word].example is not None}
    if lacking := sorted(by_recipe - made):
        example = FORMATS[lacking[0]].example
        raise RequestError(f"to {lacking[0]}: it needs a file type or recipe, as in {example}")
    if surplus := sorted(name for name in made - by_recipe if FORMATS[name].goes_with is None):
        raise RequestError(
            f"to {','.join(wanted)}: the types are for {surplus[0]}: add {surplus[0]}, or leave "
            "them out"
        )
