"""`secateur chat`."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.choices import complete_or_path, models
from secateur.cli.help import USING
from secateur.cli.options.serving import (
    EngineOptions,
    SamplingOptions,
    ServedFile,
    ThinkingOptions,
)
from secateur.cli.register import add_command
from secateur.cli.signals import stopped_by_signals
from secateur.cli.terminal import note

if TYPE_CHECKING:
    from secateur.cli.talk import Speaker
    from secateur.serving.settings import ServerSettings

EXAMPLES = """
secateur chat out
secateur chat out Q4_K_M --beside gemmule
secateur chat out --thinking off --system "Answer in one sentence."
"""
TALKING = "Talking"

Beside = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        autocompletion=complete_or_path(models),
        help="Ask another model the same, with the same seed: the original, which is written as a "
        "GGUF first and kept, or an output, a GGUF or an MLX folder.",
        rich_help_panel=TALKING,
    ),
]
System = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The system message.", rich_help_panel=TALKING),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens of an answer at most. Default: what the context has left.",
        rich_help_panel=TALKING,
    ),
]
Thoughts = Annotated[
    bool,
    typer.Option("--thoughts", help="Show thoughts in a pipe, too.", rich_help_panel=TALKING),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, chat, group=USING, examples=EXAMPLES)


def chat(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="An output of `apply`, a GGUF or an MLX folder."),
    ],
    engine: EngineOptions,
    thinking: ThinkingOptions,
    sampling: SamplingOptions,
    file: ServedFile = None,
    beside: Beside = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    thoughts: Thoughts = False,
) -> None:
    """Talk to a model, a line at a time; with --beside to two of them.

    Lines come from the terminal or from a pipe. /new forgets what was said, /system TEXT sets the
    system message, /quit ends.
    """
    from secateur.api.serving import find_served, find_served_or_original
    from secateur.cli.progress import show_progress
    from secateur.cli.talk import Screen, talk
    from secateur.serving.settings import ServerSettings

    settings = ServerSettings(
        context=engine.context, workers=engine.workers, gpu_layers=engine.gpu_layers,
        thinking=thinking.settings(), sampler=sampling.settings(),
    )  # fmt: skip
    paths = [find_served(out, file)]
    if beside is not None:
        with show_progress() as progress:
            paths.append(
                find_served_or_original(
                    beside, tell=note, workers=engine.workers, progress=progress
                )
            )
    seed = secrets.randbelow(1 << 31) if sampling.seed is None else sampling.seed
    fields = {} if max_tokens is None else {"max_tokens": max_tokens}
    screen = Screen(sys.stdout, thoughts=thoughts)
    with stopped_by_signals(), ExitStack() as stack:
        speakers = [_speaker(path, settings, engine.log, stack, (system, fields)) for path in paths]
        note(f"seed {seed}; /new forgets what was said, /quit ends")
        talk(speakers, screen, seed)


def _speaker(
    path: Path,
    settings: ServerSettings,
    log: Path | None,
    stack: ExitStack,
    asked: tuple[str | None, dict[str, int]],
) -> Speaker:
    """A served model that can be talked to until the stack is closed."""
    from secateur.api.serving import memory_of_serving
    from secateur.cli.render.serving import memory_line
    from secateur.cli.talk import Speaker
    from secateur.serving.chat_server import ChatServer
    from secateur.serving.conversation import Conversation
    from secateur.serving.engine_server import serve_model
    from secateur.system.resources import log_folder

    note(memory_line(path, memory_of_serving(path, settings)))
    where = log or log_folder() / f"chat-{path.stem}.log"
    server = stack.enter_context(serve_model(path, settings, where))
    chat = stack.enter_context(ChatServer(server.url, server.alias, key=server.api_key, retries=0))
    system, fields = asked
    return Speaker(path.stem, server, Conversation(chat, system, fields))
