"""Runs commands of secateur one after the other, each with bounds of time and memory.

Standard input has a JSON line for each command, [name, words]; for each a line goes out when it has
ended. A command that takes too long ends this process by a signal, and has no line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time

from secateur.cli import main as cli

WAITING = 10
"""How much longer a command may take by the clock than by the processor's time."""


def main(seconds: int, memory: int) -> None:
    results = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        name, words = json.loads(line)
        before = _size()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (before + memory, hard))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(WAITING * seconds)
        began = time.process_time()
        code, out, err = _run(words)
        took = time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        results.write(json.dumps([name, code, out, err, took, _size() - before]) + "\n")
        results.flush()


def _run(words: list[str]) -> tuple[int, str, str]:
    """The exit code, and what was written to the two streams."""
    sys.argv = ["secateur", *words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        code = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 70
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        return code, _text(out), _text(err)


def _text(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read().decode("utf-8", "replace"))  # type: ignore[attr-defined]


def _size() -> int:
    """Bytes of this process's memory that are not those of files."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
