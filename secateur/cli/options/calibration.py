"""Options: the text that a model is calibrated on, and how that is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secateur.cli.choices import complete, complete_or_path, corpora, observers

if TYPE_CHECKING:
    from secateur.api.requests import Calibration

TEXT = "Text"
CALIBRATION = "Calibration"

Corpus = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=complete_or_path(corpora),
        help="What to read: a mix by name or YAML path, or a JSONL or text file.",
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
        rich_help_panel=CALIBRATION,
    ),
]
OnNan = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        help="Stop when a token becomes NaN or infinite, or skip such tokens.",
        rich_help_panel=CALIBRATION,
    ),
]
Observe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        autocompletion=complete(observers),
        help="A sum to make in addition to the built-in ones; may be repeated.",
        rich_help_panel=CALIBRATION,
    ),
]
KeepSample = Annotated[
    bool,
    typer.Option(
        "--keep-sample",
        help="Write the sampled tokens to a file next to the statistics, so that `merge` can solve "
        "`rerouted` again (3 GB for a 26B model).",
        rich_help_panel=CALIBRATION,
    ),
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="PART/PARTS",
        help="Run one part of the corpus, as in 2/3, on each of several machines; `merge --model` "
        "of all parts gives what one run gives.",
        rich_help_panel=CALIBRATION,
    ),
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        "--held-out",
        metavar="SHARE",
        help="Share of the documents that is left out, for `measure` to measure on.",
        rich_help_panel=TEXT,
    ),
]
Gram = Annotated[
    Literal["none", "shared", "own"],
    typer.Option(
        help="Write Gram matrices next to the statistics, for --rounding feedback: of every input "
        "(own), or of all but what the experts' down projections see (shared), a smaller file.",
        rich_help_panel=CALIBRATION,
    ),
]
GramTokens = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Tokens that count for Gram matrices (experts' down projections see all); 0: every "
        "token.",
        rich_help_panel=CALIBRATION,
    ),
]
Stats = Annotated[
    Path | None,
    typer.Option(
        "--stats",
        "--statistics",
        metavar="FILE",
        help="Statistics of a calibration that was made already.",
        rich_help_panel=CALIBRATION,
    ),
]


@dataclass(frozen=True)
class CalibrationOptions:
    """What a calibration runs on, and how."""

    corpus: Corpus = None
    rows: Rows = None
    seed: MixSeed = None
    sequence_length: SequenceLength = None
    reroute_tokens: RerouteTokens = 16384
    on_nan: OnNan = "stop"
    gram: Gram = "none"
    gram_tokens: GramTokens = 131072

    def request(self, **more: Any) -> Calibration:
        """With `more` of a Calibration. Raises RequestError for what contradicts itself."""
        from secateur.api.requests import Calibration

        return Calibration(
            self.corpus, self.rows, self.seed, self.sequence_length, self.reroute_tokens,
            self.on_nan, gram=self.gram, gram_tokens=self.gram_tokens, **more,
        )  # fmt: skip
