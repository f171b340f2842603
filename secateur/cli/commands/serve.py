"""`secateur serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.help import USING
from secateur.cli.options.output import Json
from secateur.cli.options.serving import (
    EngineOptions,
    SamplingOptions,
    ServedFile,
    ThinkingOptions,
)
from secateur.cli.register import add_command
from secateur.cli.signals import stopped_by_signals
from secateur.cli.terminal import note, show

if TYPE_CHECKING:
    from secateur.serving.engine_server import EngineServer
    from secateur.serving.settings import ServerSettings

EXAMPLES = """
secateur serve out
secateur serve out Q4_K_M --slots 4 --context 16384
secateur serve model-Q4_K_M.gguf --thinking on --reasoning-budget 4096
secateur serve out --host 0.0.0.0 --api-key-file key.txt
"""
ACCESS = "Access"

Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Where to listen. Other than 127.0.0.1 it needs a key.",
        rich_help_panel=ACCESS,
    ),
]
Port = Annotated[
    int,
    typer.Option(min=0, max=65535, metavar="N", help="0 takes a free one.", rich_help_panel=ACCESS),
]
Slots = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Requests at a time; others wait.", rich_help_panel=ACCESS
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Holds the key that every request has to give; it is made where it is not there. "
        "Without it the key is that of the variable SECATEUR_API_KEY, if it is set. Pages in a "
        "browser may call a server with a key only.",
        rich_help_panel=ACCESS,
    ),
]
Alias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What clients call the model. Default: the file's name.",
        rich_help_panel=ACCESS,
    ),
]
Mmproj = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|none",
        help="GGUF of the vision tower, for images. Default: the one beside the model, if there is "
        "one.",
    ),
]
NoProbe = Annotated[
    bool,
    typer.Option(
        "--no-probe",
        help="Do not try at the start whether thinking is as it was asked for.",
        rich_help_panel="Thinking",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, serve, group=USING, examples=EXAMPLES)


def serve(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="An output of `apply`, a GGUF or an MLX folder."),
    ],
    engine: EngineOptions,
    thinking: ThinkingOptions,
    sampling: SamplingOptions,
    file: ServedFile = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    slots: Slots = 1,
    api_key_file: ApiKeyFile = None,
    alias: Alias = None,
    mmproj: Mmproj = None,
    no_probe: NoProbe = False,
    as_json: Json = False,
) -> None:
    """Serve a model to clients of OpenAI's API, until it is stopped.

    A GGUF runs in llama.cpp, an MLX folder in mlx-lm. Ctrl-C or SIGTERM stop it.
    """
    from secateur.api import serving as api
    from secateur.cli.render.serving import memory_line, served_as_json, served_lines
    from secateur.errors import EngineError
    from secateur.serving.engine_server import serve_model
    from secateur.serving.settings import ServerSettings
    from secateur.system.resources import log_folder

    path = api.find_served(out, file)
    settings = ServerSettings(
        context=engine.context, slots=slots, workers=engine.workers, gpu_layers=engine.gpu_layers,
        thinking=thinking.settings(), sampler=sampling.settings(), host=host, port=port,
        api_key=api.find_key(api_key_file), alias=alias, mmproj=api.find_tower(path, mmproj),
    )  # fmt: skip
    note(memory_line(path, api.memory_of_serving(path, settings)))
    log = engine.log or log_folder() / f"serve-{path.stem}.log"
    with stopped_by_signals(), serve_model(path, settings, log) as server:
        probe = None if no_probe else _probe(server, settings)
        described: dict[str, Any] = served_as_json(server, path, log, probe)
        show(described, served_lines(server, settings, described, api_key_file), as_json)
        server.wait()
        raise EngineError(f"{server.failure()}: its log is {log}")
    note("stopped")


def _probe(server: EngineServer, settings: ServerSettings) -> Any:
    """What the probe says of thinking that was asked for; None where nothing was."""
    from secateur.serving.probe import probe_thinking

    asked = settings.thinking
    if asked.enabled is None and asked.budget is None:
        return None
    return probe_thinking(server, asked)
