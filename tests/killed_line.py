"""A process that has imported everything and runs command lines in forks of itself, each sent a
signal at its n-th change of a folder: so a run can be cut at every moment, and quickly.

Run as a script it reads {"argv", "folder", "at", "signal"} a line, and answers {"code", "changes",
"err"}: the exit code, negative for a signal, and what was changed until then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


class Cut(NamedTuple):
    """How a run ended, after how many changes, and what it said."""

    code: int
    changes: int
    err: str


class Killer:
    """Runs command lines that are cut short."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *argv: object, folder: Path, at: int = 0, signal: int = signal.SIGKILL) -> Cut:
        """Run `secateur ARGV`; at the `at`-th change below `folder` (0: never) send `signal`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"argv": list(map(str, argv)), "folder": str(folder), "at": at, "signal": signal}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Cut(**json.loads(self._process.stdout.readline()))


@contextmanager
def killer() -> Iterator[Killer]:
    """Start the process; it ends with the block."""
    command = [sys.executable, "-W", "ignore", __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Killer(process)
        process.kill()


def _serve() -> None:
    import torch
    import xllamacpp  # noqa: F401
    from transformers import (  # noqa: F401
        AutoModelForCausalLM,
        Gemma4ForCausalLM,
        GenerationConfig,
        PreTrainedTokenizerFast,
    )

    import secateur.api.measure  # noqa: F401
    from secateur.cli import main as cli

    torch.set_num_threads(1)
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
                # What is cached counts as a change: the folder's name begins with the other's.
                os.environ["XDG_CACHE_HOME"] = asked["folder"] + "-cache"
                sys.argv = ["secateur", *asked["argv"]]
                cli.main()
                sys.exit(0)
            os.close(write)
            with os.fdopen(read, "rb") as counted:
                changes = len(counted.read())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            err.seek(0)
            answer = Cut(code, changes, err.read().decode())
        sys.stdout.write(json.dumps(answer._asdict()) + "\n")
        sys.stdout.flush()


def _cut_at(asked: dict[str, Any], count: int) -> None:
    """Count changes below the folder as bytes in a pipe; at the n-th, send the signal first."""
    seen = 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in CHANGES or not str(details[0]).startswith(asked["folder"]):
            return
        if event == "open" and not (details[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        os.write(count, b".")
        if seen == asked["at"]:
            os.kill(os.getpid(), asked["signal"])

    sys.addaudithook(hook)


if __name__ == "__main__":
    _serve()
