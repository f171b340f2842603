"""What an output format is: read this first to add one (docs/extending.md has a worked example).

A format is one object: a subclass of `OutputFormat`, known to the rest of secateur by its name in
`outputs.registry.FORMATS`. Nothing outside its own folder asks which format it is dealing with.
A plan may hold several outputs of one format; each has a format id, which is the name of the
format, or NAME-RECIPE where the format is made by recipes (`gguf-Q4_K_M`).

What must hold:

1. `decide` and `resolve` read the config, headers and the tokenizer: no weights, and no torch.
2. The tensors and files of a decision are exact: names, types, shapes and bytes are those that
   `write` writes. A size that cannot be known is None, and such a plan cannot be applied.
3. `resolve` of a plan gives the tensors and files that `decide` gave it. Where a person changed a
   type in the plan, it gives what follows from that, or refuses.
4. `write` reads weights through `checkpoint.rows.RowSource` only, which is where edits of weights
   are made. The same plan gives the same bytes, whatever the number of workers.
5. A file appears under its name only when it is whole. What `reusable` names is all that an
   interrupted run leaves to the next one.
6. What `open` gives needs no more memory than writing did: experts are decoded one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.rows import RowEdit
from secateur.errors import InputError
from secateur.families.schema import Family
from secateur.formats.imatrix.matrix import Imatrix
from secateur.outputs.feedback import Feedback
from secateur.planning.document import Plan, PlannedTensor
from secateur.planning.imatrix_policy import Importance
from secateur.pruning.selection import Keep
from secateur.recipes.recipe import Recipe
from secateur.statistics.gram_file import GramFile
from secateur.system.progress import Progress, no_progress

if TYPE_CHECKING:
    from secateur.forward.weights import WeightSource

Output = Recipe | str
"""What to write: an output by a recipe, or the name of a format that needs none."""


@dataclass(frozen=True)
class PlanningAssumptions:
    """What a plan takes as given of things that are not the model's.

    `tokenizer` is a folder or a GGUF, for a config alone; `context` the tokens to count memory
    for; `imatrix` plans a config's files as if there were an importance matrix. Without `fetch`
    no weights are fetched for a hub id that is not in the cache: its config will do.
    """

    tokenizer: Path | None = None
    context: int | None = None
    imatrix: bool = False
    fetch: bool = True


DEFAULT_ASSUMPTIONS = PlanningAssumptions()


@dataclass(frozen=True)
class DecisionContext:
    """What all outputs of one plan are decided from.

    `importance` is the matrix to quantize with, `layer_importance` [layers] ranks layers for
    recipes with tiers, `split` cuts files of more bytes of tensors where a format has parts.
    `formats` are the names of all formats of the plan. `gram` is what levels are chosen with; None:
    each is the nearest.
    """

    checkpoint: Checkpoint
    keep: Keep
    importance: Importance | None = None
    layer_importance: Sequence[float] | None = None
    split: int | None = None
    assumptions: PlanningAssumptions = DEFAULT_ASSUMPTIONS
    formats: frozenset[str] = frozenset()
    gram: GramFile | None = None


L = TypeVar("L")


@dataclass(frozen=True)
class Decision(Generic[L]):
    """One output, decided to the byte.

    `layout` is the format's own description, which `write` takes; `files` are {name relative to
    the output folder: exact bytes} in the order of writing; `facts` are what the plan remembers
    of the recipe (Recipe.facts and the format's own), None for a format without recipes.
    """

    format_id: str
    layout: L = field(repr=False)
    tensors: tuple[PlannedTensor, ...] = field(repr=False)
    files: Mapping[str, int | None]
    facts: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WriteJob:
    """What is written, where to, and how.

    `imatrix` holds the experts kept, in order; `feedback` is what levels are chosen with; `edits`
    change the weights that are read.
    """

    checkpoint: Checkpoint
    keep: Keep
    folder: Path
    plan_sha256: str
    imatrix: Imatrix | None = None
    feedback: Feedback | None = None
    edits: tuple[RowEdit, ...] = ()
    workers: int = 1
    progress: Progress = no_progress


@dataclass(frozen=True)
class Artefact:
    """Something that can be measured. `name` is what reports call it, `files` hold its tensors,
    `identity` is a sha256 by which its scores are kept; `runs_in_llama_cpp` and `runs_in_mlx_lm` as
    it is."""

    path: Path
    name: str
    source: WeightSource
    identity: str
    files: tuple[Path, ...]
    runs_in_llama_cpp: bool = False
    runs_in_mlx_lm: bool = False


class OutputFormat(Protocol[L]):
    """One format of output. Subclass it, and override what is not as in the defaults."""

    name: str
    """What a recipe's `to`, a plan and `--to` call it."""

    example: str | None = None
    """How a user asks for a recipe of it, as in "types Q4_K_M"; None: it needs no recipe."""

    goes_with: str | None = None
    """The format whose outputs it belongs to, so that it is made and released with them where
    nobody names it (a vision tower: llama.cpp needs it beside the model)."""

    llama_quantize: bool = False
    """Whether llama-quantize's rules decide its types: it takes importance matrices,
    tensor-type files and padding, and llama.cpp's memory is counted for it."""

    @property
    def written_with(self) -> str:
        """The name of the format whose `write` writes it, too, in one pass over the weights."""
        return self.name

    def supports(self, family: Family) -> bool:
        """Whether models of a family can be written in it."""
        return True

    def decide(
        self, context: DecisionContext, recipes: Sequence[Recipe | None]
    ) -> Sequence[Decision[L]]:
        """One decision for each recipe; [None] for a format without recipes.

        Raises PlanError for a recipe that does not fit the model, FamilyError for a family that
        this format is not described for.
        """
        ...

    def resolve(self, plan: Plan, format_id: str, checkpoint: Checkpoint) -> Decision[L]:
        """The decision that the plan's own choices (experts kept, types) lead to.

        Raises PlanError for choices that cannot be.
        """
        ...

    def reusable(self, files: Mapping[str, int], folder: Path) -> frozenset[Path]:
        """Files in `folder` of an interrupted run that `write` will not write again, or resumes.

        `files` are {planned name: bytes}. All other files in `folder` are removed.
        """
        return frozenset()

    def write(self, decisions: Sequence[Decision[Any]], job: WriteJob) -> dict[str, str]:
        """Write all outputs of the plan that this format writes; {file: sha256} where known.

        Raises CheckpointError for a shard that cannot be read or holds NaN, NumericError for a
        number that does not fit its type, WriteError if the disk refuses.
        """
        ...

    def artefacts(self, folder: Path) -> list[Path]:
        """What `open` can open in an output folder."""
        return []

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder is of this format. Reads a config or a header at most."""
        return False

    def open(self, path: Path, original: Checkpoint, *, workers: int = 1) -> Artefact:
        """A source of running weights, for measuring against the original. Reads headers only.

        Raises FormatError or CheckpointError when it is damaged, InputError when it is not made
        from a model like the original.
        """
        raise InputError(f"{path}: a file of the format {self.name} is not measured by itself")
