"""A process that has imported everything and runs command lines in forks of itself, each sent a
signal at its n-th change of a folder: so a run can be cut at every moment, and quickly.

Instead of the signal something else can happen: a disk that fills, a file that vanishes or changes,
a clock that jumps back.

Run as a script it reads {"argv", "folder", "at", "signal", "accident"} a line, and answers {"code",
"err", "log"}: the exit code, negative for a signal, what was said, and a point for every change and
a line for every piece of long work that was begun: a layer of a pass, a tensor that is noted as
written, a batch of answers.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

LONG_AGO = "-400d"
"""A clock that was set wrong, for libfaketime."""

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


class Cut(NamedTuple):
    """How a run ended, what it said, and its changes and work in order."""

    code: int
    err: str
    log: list[str]

    @property
    def changes(self) -> int:
        """How many there were."""
        return self.log.count(".")

    @property
    def work(self) -> list[str]:
        """The pieces of work that were begun."""
        return [line for line in self.log if line != "."]


class Killer:
    """Runs command lines that are cut short."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def kill_run(self) -> None:
        """SIGKILL for the command line that runs now, from another thread."""
        import psutil

        for child in psutil.Process(self._process.pid).children():
            child.kill()

    def run(
        self,
        *argv: object,
        folder: Path,
        at: int = 0,
        signal: int = signal.SIGKILL,
        accident: tuple[str, Path] | None = None,
    ) -> Cut:
        """Run `secateur ARGV`; at the `at`-th change below `folder` (0: never) send `signal`, or
        have an `accident`: ("fill", a file that takes all room), ("vanish", file), ("change",
        file) or ("clock", the file that sets it)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        happens = accident and [accident[0], str(accident[1])]
        asked = {
            "argv": list(map(str, argv)), "folder": str(folder), "at": at, "signal": signal,
            "accident": happens,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Cut(**json.loads(self._process.stdout.readline()))


@contextmanager
def killer(**environment: str) -> Iterator[Killer]:
    """Start the process, with more in its environment; it ends with the block."""
    command = [sys.executable, "-W", "ignore", __file__]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as process:
        yield Killer(process)
        process.kill()


def _serve() -> None:
    import altair  # noqa: F401
    import torch
    import vl_convert  # noqa: F401
    import xllamacpp  # noqa: F401
    from transformers import (  # noqa: F401
        AutoModelForCausalLM,
        Gemma4ForCausalLM,
        GenerationConfig,
        PreTrainedTokenizerFast,
    )

    import secateur.api.measure  # noqa: F401
    import secateur.api.release  # noqa: F401
    from secateur.calibration import pass_folder
    from secateur.cli import main as cli

    torch.set_num_threads(1)
    pass_folder.MOST_SHARE = math.inf  # layers of tiny models are quicker than a disk
    for text in sys.stdin:
        asked = json.loads(text)
        read, write = os.pipe()
        with tempfile.TemporaryFile() as err:
            child = os.fork()
            if not child:
                os.close(read)
                os.dup2(err.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                # A shell that starts the tests in the background makes them ignore Ctrl-C.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                _cut_at(asked, write)
                _count_work(write)
                # What is cached counts as a change: the folder's name begins with the other's.
                os.environ["XDG_CACHE_HOME"] = asked["folder"] + "-cache"
                sys.argv = ["secateur", *asked["argv"]]
                cli.main()
                sys.exit(0)
            os.close(write)
            with os.fdopen(read, "rb") as counted:
                log = counted.read().decode().splitlines()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            err.seek(0)
            answer = Cut(code, err.read().decode(), log)
        sys.stdout.write(json.dumps(answer._asdict()) + "\n")
        sys.stdout.flush()


def _cut_at(asked: dict[str, Any], count: int) -> None:
    """Count changes below the folder as points in a pipe; at the n-th, send the signal first."""
    seen = 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in CHANGES or not str(details[0]).startswith(asked["folder"]):
            return
        if event == "open" and not (details[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        os.write(count, b".\n")
        if seen == asked["at"]:
            if asked["accident"]:
                _happen(*asked["accident"])
            else:
                os.kill(os.getpid(), asked["signal"])

    sys.addaudithook(hook)


def _happen(kind: str, name: str) -> None:
    """An accident to a file."""
    if kind == "vanish":
        os.unlink(name)
    elif kind == "change":
        with open(name, "r+b", buffering=0) as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"\x11\x3f")
    elif kind == "clock":
        Path(name).write_text(LONG_AGO)
    else:
        with suppress(OSError), open(name, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))


def _count_work(count: int) -> None:
    """Write a line into the pipe for every piece of long work that begins."""
    from secateur.evaluation.tokens import generate
    from secateur.forward.stream import ForwardPass
    from secateur.system.continued_file import ContinuedFile

    def counted(owner: Any, name: str, line: Callable[..., str]) -> None:
        function = getattr(owner, name)

        def run(*args: Any, **words: Any) -> Any:
            os.write(count, f"{line(*args)}\n".encode())
            return function(*args, **words)

        setattr(owner, name, run)

    counted(ForwardPass, "load_layer", lambda self, layer: f"layer {layer}")
    counted(ContinuedFile, "note", lambda self, done, at: f"{self.path.name} {done}")
    counted(generate, "answer_batch", lambda model, batch: f"answers {batch[0].id}")


if __name__ == "__main__":
    _serve()
