"""`secateur shrink`: the whole line in one command."""

from __future__ import annotations

import typer

from secateur.cli.help import Command
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
    Model,
    NoMeasure,
    OnNan,
    Out,
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
    Stats,
    Super,
    Temperature,
    TensorTypeFile,
    To,
    Types,
    UnseenExperts,
    Workers,
)
from secateur.cli.progress import show_progress
from secateur.cli.terminal import note, show

EXAMPLES = """
secateur shrink gemmule --experts 24 --types Q4_K_M -o out
secateur shrink MODEL --experts 103 --types Q4_K_M --corpus mix.yaml --prompts test.jsonl -o out
secateur shrink MODEL --experts 90 --types Q4_K_M --stats out/evidence/statistics.safetensors \\
    --no-measure -o smaller
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command, epilog=EXAMPLES)(shrink)


def shrink(
    model: Model,
    out: Out,
    experts: Experts = None,
    drop: Drop = None,
    drop_map: DropMap = None,
    criterion: Criterion = None,
    aggregation: Aggregation = "pooled",
    gate: Gate = "true",
    random_seed: RandomSeed = 0,
    protect: Protect = None,
    protect_per_sample: PerSample = 16,
    protect_super_experts: Super = False,
    to: To = None,
    types: Types = None,
    tensor_type_file: TensorTypeFile = None,
    layer_importance: LayerImportance = None,
    pad: Pad = False,
    split_max_size: SplitMaxSize = None,
    mmproj: Mmproj = None,
    imatrix: Imatrix = None,
    unseen_experts: UnseenExperts = "uniform",
    stats: Stats = None,
    corpus: Corpus = None,
    rows: Rows = None,
    seed: MixSeed = None,
    sequence_length: SequenceLength = None,
    reroute_tokens: RerouteTokens = 16384,
    on_nan: OnNan = "stop",
    prompts: Prompts = None,
    answers: Answers = None,
    per_domain: PerDomain = None,
    answer_tokens: AnswerTokens = 256,
    temperature: Temperature = 1.0,
    engine: Engine = False,
    no_measure: NoMeasure = False,
    quality_gates: QualityGates = None,
    max_kl: MaxKl = None,
    min_top1: MinTop1 = None,
    revision: Revision = None,
    family: FamilyFile = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """The whole line: calibrate, plan, apply, measure, report.

    An interrupted run resumes at the stage where it stopped.
    """
    from secateur.api.requests import (
        Calibration,
        Formats,
        Measuring,
        Pruning,
        ShrinkRequest,
        read_protected,
    )

    request = ShrinkRequest(
        Pruning(
            experts, drop, criterion or Pruning.criterion, aggregation, gate, protect_per_sample,
            random_seed, read_protected(protect or ()), protect_super_experts, drop_map,
        ),
        Formats(
            to, types or (), (), tensor_type_file, pad, layer_importance, split_max_size,
            mmproj,
        ),
        Calibration(corpus, rows, seed, sequence_length, reroute_tokens, on_nan),
        None if no_measure else Measuring(
            prompts, answers, per_domain, max_kl, min_top1, tuple(quality_gates or ()),
            answer_tokens, temperature, engine,
        ),
        stats,
        imatrix,
        unseen_experts,
    )  # fmt: skip
    from secateur.api.models import with_family
    from secateur.api.shrink import shrink as run

    with show_progress() as progress:
        report = run(
            with_family(model, revision, family, weights=True),
            out,
            request,
            revision=revision,
            workers=workers,
            on_message=note,
            progress=progress,
        )
    from secateur.cli.render.measurement import shrink_lines
    from secateur.cli.render.output import output_lines
    from secateur.release.manifest import read_manifest

    if report is None:
        manifest = read_manifest(out)
        show(manifest, output_lines(out, manifest), as_json)
    else:
        show(report.to_json(), shrink_lines(report, out), as_json)
        report.check_gate()
