"""Options that belong together, as one parameter of a command.

A command takes a group as it takes an option. `with_groups` shows typer the options of all groups
one by one, and gives the command each group with its values; `request` is what the group asks for,
in the words of `api/requests.py`, whose defaults are the same (a test compares them).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from secateur.cli.options import (
    Aggregation,
    Answers,
    AnswerTokens,
    Corpus,
    Criterion,
    Drop,
    DropMap,
    Engine,
    Experts,
    FamilyFile,
    Gate,
    Imatrix,
    Json,
    LayerImportance,
    MaxKl,
    MinTop1,
    MixSeed,
    Mmproj,
    OnNan,
    Pad,
    PerDomain,
    PerSample,
    Prompts,
    Protect,
    QualityGates,
    RandomSeed,
    RerouteTokens,
    Revision,
    Rows,
    SequenceLength,
    SplitMaxSize,
    Super,
    Temperature,
    TensorTypeFile,
    To,
    Types,
    UnseenExperts,
)

if TYPE_CHECKING:
    from secateur.api.models import Model
    from secateur.api.requests import Calibration, Formats, Measuring, Pruning


@dataclass(frozen=True)
class PruningOptions:
    """Which experts are kept."""

    experts: Experts = None
    drop: Drop = None
    drop_map: DropMap = None
    criterion: Criterion = None
    aggregation: Aggregation = "pooled"
    gate: Gate = "true"
    random_seed: RandomSeed = 0
    protect: Protect = None
    protect_per_sample: PerSample = 16
    protect_super_experts: Super = False

    def request(self) -> Pruning:
        """Raises RequestError for experts to protect that cannot be read."""
        from secateur.api.requests import Pruning, read_protected

        return Pruning(
            experts=self.experts,
            drop=self.drop,
            criterion=self.criterion or Pruning.criterion,
            aggregation=self.aggregation,
            gate=self.gate,
            protect_per_sample=self.protect_per_sample,
            random_seed=self.random_seed,
            protected=read_protected(self.protect or ()),
            protect_super_experts=self.protect_super_experts,
            drop_map=self.drop_map,
        )


@dataclass(frozen=True)
class FormatOptions:
    """Formats and types."""

    to: To = None
    types: Types = None
    tensor_type_file: TensorTypeFile = None
    layer_importance: LayerImportance = None
    pad: Pad = False
    split_max_size: SplitMaxSize = None
    mmproj: Mmproj = None
    imatrix: Imatrix = None
    unseen_experts: UnseenExperts = "uniform"

    def request(self) -> Formats:
        """All but the importance matrix, which is none of a format's."""
        from secateur.api.requests import Formats

        return Formats(
            to=self.to,
            types=self.types or (),
            tensor_type_file=self.tensor_type_file,
            pad=self.pad,
            layer_importance=self.layer_importance,
            split_max_size=self.split_max_size,
            mmproj=self.mmproj,
        )


@dataclass(frozen=True)
class TextOptions:
    """What a calibration runs on, and how."""

    corpus: Corpus = None
    rows: Rows = None
    seed: MixSeed = None
    sequence_length: SequenceLength = None
    reroute_tokens: RerouteTokens = 16384
    on_nan: OnNan = "stop"

    def request(self, **more: Any) -> Calibration:
        """With `more` of a Calibration. Raises RequestError for what contradicts itself."""
        from secateur.api.requests import Calibration

        return Calibration(
            self.corpus, self.rows, self.seed, self.sequence_length, self.reroute_tokens,
            self.on_nan, **more,
        )  # fmt: skip


@dataclass(frozen=True)
class AnswerOptions:
    """What is measured on."""

    prompts: Prompts = None
    answers: Answers = None
    per_domain: PerDomain = None
    answer_tokens: AnswerTokens = 256
    temperature: Temperature = 1.0

    def request(self, **more: Any) -> Measuring:
        """With `more` of a Measuring."""
        from secateur.api.requests import Measuring

        return Measuring(
            prompts=self.prompts,
            answers=self.answers,
            per_domain=self.per_domain,
            answer_tokens=self.answer_tokens,
            temperature=self.temperature,
            **more,
        )


@dataclass(frozen=True)
class GateOptions:
    """What is run in addition, and the limits that numbers must hold."""

    engine: Engine = False
    quality_gates: QualityGates = None
    max_kl: MaxKl = None
    min_top1: MinTop1 = None

    def words(self) -> dict[str, Any]:
        """As arguments of a Measuring."""
        return {
            "engine": self.engine,
            "gates": tuple(self.quality_gates or ()),
            "max_kl": self.max_kl,
            "min_top1": self.min_top1,
        }


@dataclass(frozen=True)
class RunOptions:
    """How a model is found, and how results are shown."""

    revision: Revision = None
    family: FamilyFile = None
    as_json: Json = False

    def open(self, model: str, *, weights: bool = False) -> Model:
        """The model, of the user's family where one is named; with weights where they are needed.

        Raises CheckpointError as `open_checkpoint` does.
        """
        from secateur.api.models import with_family

        return with_family(model, self.revision, self.family, weights=weights)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups in the place of the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            groups[parameter.name] = kind
            types = get_type_hints(kind, include_extras=True)
            shown += [_show(one.name, types[one.name], one.default) for one in fields(kind)]
        else:
            shown.append(_show(parameter.name, kind, parameter.default))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
        command(**values)

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _show(name: str, kind: Any, default: Any) -> inspect.Parameter:
    # By keyword, so that what has a default may stand before what has none.
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
