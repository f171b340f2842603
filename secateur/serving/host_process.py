"""The process that an engine runs in: started, waited for, and ended with the block."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from secateur.errors import EngineError, RequestError

START_SECONDS = 600.0
"""Time that an engine has to load a small model."""
_SLOWEST_DISK = 50e6
"""Bytes per second; what is larger has more time to load."""
_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Host:
    """A running host, and what it said when it was ready."""

    name: str
    model: Path
    process: subprocess.Popen[str]
    facts: Mapping[str, Any]
    log: IO[str]
    log_start: int

    def failure(self) -> str | None:
        """Why the engine ended, in its own words; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"{self.name} with {self.model} ended: {_reason(self.log, self.log_start, '', code)}"

    def wait(self) -> None:
        """Wait until the engine ends by itself, which it should not."""
        self.process.wait()


@contextmanager
def start_host(
    name: str, script: Path, order: Mapping[str, Any], log: IO[str], nbytes: int = 0
) -> Iterator[Host]:
    """Start a host of an engine called `name` that serves order["model"], of `nbytes`.

    Its standard error goes to `log`. It does not get the terminal's Ctrl-C, which is for this
    process, and it ends when this process ends. Raises EngineError, with the engine's own words,
    when it does not load, RequestError for an order that it cannot fulfil.
    """
    command = [sys.executable, str(script)]
    start = log.seek(0, 2)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(f"cannot start {command[0]}: {error.strerror}") from None
    model = Path(order["model"])
    with process:
        try:
            state, said = _first_line(process, order, START_SECONDS + nbytes / _SLOWEST_DISK)
            if state == "refused":
                raise RequestError(f"{name} does not serve {model} so: {said}")
            if state != "ready":
                reason = said if state == "late" else _reason(log, start, said, _wait(process))
                raise EngineError(f"{name} did not load {model}: {reason}")
            facts = json.loads(said)
            yield Host(name, model, process, facts, log, start)
        finally:
            _stop(process)


def _first_line(
    process: subprocess.Popen[str], order: Mapping[str, Any], seconds: float
) -> tuple[str, str]:
    """What the host says of an order: one word, and the rest. It is killed when it takes longer,
    which is "late"."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(OSError):  # a host that is gone says so by ending
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        state, _, rest = process.stdout.readline().strip().partition(" ")
    finally:
        timer.cancel()
    if not state and late.is_set():
        return "late", f"it was not ready after {seconds:,.0f} seconds, and was stopped"
    return state, rest


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask it to end by closing its input; then make it."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    if _wait(process) is None:
        process.kill()


def _wait(process: subprocess.Popen[str]) -> int | None:
    """The status of a process that is about to end; None where it does not."""
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _reason(log: IO[str], start: int, said: str, code: int | None) -> str:
    """The first error in the log since `start`; llama.cpp's errors are "time E message"."""
    if log.closed:  # the block has ended, and the engine with it
        return "it was stopped"
    log.seek(start)
    errors = [line for line in log.read().splitlines() if " E " in line or "GGML_ASSERT" in line]
    reason = errors[0].rpartition(" E ")[2].strip() if errors else said
    return reason or f"its process ended with status {code}"
