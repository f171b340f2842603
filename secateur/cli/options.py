"""The arguments and options that several commands share, in the groups of the help pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

EXPERTS = "Which experts are kept"
TYPES = "Formats and types"
TEXT = "Calibration"
MEASURING = "Measuring"
CONFIG_ONLY = "Planning from a config alone"
RUNNING = "Running"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model folder, hub id (owner/name), or 'gemmule', the small model included here.",
    ),
]
Statistics = Annotated[
    Path, typer.Argument(metavar="STATISTICS", help="Statistics that `calibrate` wrote.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=RUNNING)
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="REVISION", help="Commit, branch or tag of a hub id.", rich_help_panel=RUNNING
    ),
]
FamilyFile = Annotated[
    Path | None,
    typer.Option(
        "--family",
        metavar="FILE",
        help="Your own TOML of the model's family (`secateur family draft`).",
        rich_help_panel=RUNNING,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Threads to use. Default: all cores.", rich_help_panel=RUNNING
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Where to write.")]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite the file that is there.", rich_help_panel=RUNNING)
]
Stats = Annotated[
    Path | None,
    typer.Option("--stats", metavar="FILE", help="Statistics that `calibrate` wrote."),
]

Experts = Annotated[
    int | None,
    typer.Option(metavar="N", help="Experts to keep in each layer.", rich_help_panel=EXPERTS),
]
Drop = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the experts to drop, instead: 0.30 of 128 is 38.",
        rich_help_panel=EXPERTS,
    ),
]
DropMap = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSON that names the experts to keep or drop, instead.",
        rich_help_panel=EXPERTS,
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        metavar="CRITERION",
        help="What an expert is worth. Default: rerouted.",
        rich_help_panel=EXPERTS,
    ),
]
Aggregation = Annotated[
    str,
    typer.Option(
        metavar="AGGREGATION",
        help="How scores of several categories of text become one.",
        rich_help_panel=EXPERTS,
    ),
]
Gate = Annotated[
    Literal["true", "reference"],
    typer.Option(
        "--routing-weight",
        metavar="true|reference",
        help="Routing weight: as applied, or softmax only as in REAP's code.",
        rich_help_panel=EXPERTS,
    ),
]
RandomSeed = Annotated[
    int,
    typer.Option(
        "--random-seed",
        min=0,
        metavar="N",
        help="Seed of the criterion `random`.",
        rich_help_panel=EXPERTS,
    ),
]
Protect = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LAYER:EXPERT[,...]",
        help="Experts to keep in any case; may be repeated.",
        rich_help_panel=EXPERTS,
    ),
]
PerSample = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Experts that the criterion `contribution` protects per sample.",
        rich_help_panel=EXPERTS,
    ),
]
Super = Annotated[
    bool,
    typer.Option(
        "--protect-super-experts",
        help="Keep experts with outstanding activations.",
        rich_help_panel=EXPERTS,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT[,FORMAT...]",
        help="Formats to write. Default: safetensors, and what the types are for.",
        rich_help_panel=TYPES,
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--types",
        "--recipe",
        metavar="TYPE[,TYPE...]",
        help="File types (Q4_K_M), recipes (`secateur recipe list`), suites (suite:bartowski) or "
        "YAML files; comma-separated or repeated.",
        rich_help_panel=TYPES,
    ),
]
TensorTypeFile = Annotated[
    Path | None,
    typer.Option(
        "--tensor-type-file",
        metavar="FILE",
        help="llama-quantize's NAME=TYPE file, over the one file type in --types.",
        rich_help_panel=TYPES,
    ),
]
LayerImportance = Annotated[
    str | None,
    typer.Option(
        metavar="rerouted|contribution|FILE",
        help="What ranks layers for recipes with tiers: a measure of the statistics (default: "
        "rerouted), or a JSON file with a number per layer.",
        rich_help_panel=TYPES,
    ),
]
Pad = Annotated[
    bool,
    typer.Option(
        "--pad",
        help="Widen rows with zeros where a GGUF type needs it, instead of another type.",
        rich_help_panel=TYPES,
    ),
]
SplitMaxSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Cut GGUF files of more tensor bytes than this: 5G, 500MB, 4GiB.",
        rich_help_panel=TYPES,
    ),
]
Mmproj = Annotated[
    str | None,
    typer.Option(
        metavar="F16|BF16|F32|Q8_0|none",
        help="Type of the vision tower's own GGUF. Default: F16 if there is a tower.",
        rich_help_panel=TYPES,
    ),
]
Imatrix = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="llama.cpp's importance matrix (GGUF or .dat) instead of the statistics'.",
        rich_help_panel=TYPES,
    ),
]
UnseenExperts = Annotated[
    Literal["uniform", "mean", "stop"],
    typer.Option(
        metavar="uniform|mean|stop",
        help="Experts without importance data: all columns alike (as llama.cpp), the mean of "
        "their layer, or stop.",
        rich_help_panel=TYPES,
    ),
]

Corpus = Annotated[
    str | None,
    typer.Option(
        metavar="MIX",
        help="A mix by name or YAML path, or a JSONL or text file.",
        rich_help_panel=TEXT,
    ),
]
Rows = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSONL with input_ids per line, used as given, instead of --corpus.",
        rich_help_panel=TEXT,
    ),
]
MixSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        metavar="N",
        help="Seed of the mix, instead of its own.",
        rich_help_panel=TEXT,
    ),
]
SequenceLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens per row of the mix, instead of its own.",
        rich_help_panel=TEXT,
    ),
]
RerouteTokens = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Tokens sampled for the criterion `rerouted`; 0 leaves it out.",
        rich_help_panel=TEXT,
    ),
]
Observe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SUM",
        help="A sum to make in addition to the built-in ones; may be repeated.",
        rich_help_panel=TEXT,
    ),
]
KeepSample = Annotated[
    bool,
    typer.Option(
        "--keep-sample",
        help="Write the sampled tokens to a file next to the statistics, so that `merge` can solve "
        "`rerouted` again (3 GB for a 26B model).",
        rich_help_panel=TEXT,
    ),
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="PART/PARTS",
        help="Run one part of the corpus, as in 2/3, on each of several machines; `merge --model` "
        "of all parts gives what one run gives.",
        rich_help_panel=TEXT,
    ),
]
OnNan = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        metavar="stop|skip",
        help="Stop when a token becomes NaN or infinite, or skip such tokens.",
        rich_help_panel=TEXT,
    ),
]

Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Held-out prompts that the original answers first: JSONL, a line as "
        '{"domain": "code", "messages": [{"role": "user", "content": "..."}]}.',
        rich_help_panel=MEASURING,
    ),
]
Answers = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The original's own answers, instead: the same lines, each ending with a message of "
        'role "assistant".',
        rich_help_panel=MEASURING,
    ),
]
PerDomain = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Take so many of each domain only.", rich_help_panel=MEASURING
    ),
]
NoMeasure = Annotated[
    bool,
    typer.Option(
        "--no-measure", help="Write the files and measure nothing.", rich_help_panel=MEASURING
    ),
]
AnswerTokens = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens of an answer at most; models that think first need thousands.",
        rich_help_panel=MEASURING,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="T",
        help="Temperature at which the original answers; 0 takes the most probable token.",
        rich_help_panel=MEASURING,
    ),
]
Engine = Annotated[
    bool,
    typer.Option(
        "--engine",
        help="Also run GGUF files in llama.cpp, and compare it with the decoded weights.",
        rich_help_panel=MEASURING,
    ),
]
QualityGates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="METRIC<=NUMBER",
        help="Exit with 3 when a number misses its limit, as in kl_p99<=1.5 or "
        "top1_agreement>=0.9; may be repeated. Metrics:",
        rich_help_panel=MEASURING,
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(metavar="NATS", help="Short for --gate kl_mean<=NATS.", rich_help_panel=MEASURING),
]
MinTop1 = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Short for --gate top1_agreement>=SHARE.", rich_help_panel=MEASURING
    ),
]

Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="tokenizer.json or its folder, or a GGUF that holds the vocabulary.",
        rich_help_panel=CONFIG_ONLY,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Tokens of context to count memory for. Default: 32768.",
        rich_help_panel=RUNNING,
    ),
]
AssumeImatrix = Annotated[
    bool,
    typer.Option(
        "--assume-imatrix",
        help="Plan types as if there were an importance matrix.",
        rich_help_panel=CONFIG_ONLY,
    ),
]
