"""Fuzzes the readers: each in a process of its own, guided by coverage, with bounds.

    python tests/fuzz/run.py --runs 20000                 every reader
    python tests/fuzz/run.py --runs 1000000 plan job      some of them
    python tests/fuzz/run.py --runs 5000 --seed 1 --goods FOLDER
    python tests/fuzz/run.py --runs 100000000 --seconds 90      so long for each reader

A finding is a crash (anything but an InputError), 20 seconds for one file (at random: of processor
time, or 200 by the clock), or 2 GiB of memory; the file goes to out/fuzz and its name is printed.
Exits with 1 when there is one. Without atheris (which has no wheel for every system) files are made
at random, without coverage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE.parents[1] / "out" / "fuzz"
SECONDS, MEMORY = 20, 2 << 30
LONGEST = 96
"""Bytes of choices: what becomes of a file."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seconds", type=int, default=0, help="a reader ends after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--goods", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--random", action="store_true", help="without coverage, atheris or not")
    asked = parser.parse_args()
    guided = importlib.util.find_spec("atheris") is not None and not asked.random
    if asked.worker:
        for name in asked.names:  # coverage takes a process for each: the fuzzer ends it
            _work(name, asked, guided)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        goods = asked.goods or _make_goods(Path(folder))
        return _run_all(asked.names, goods, asked, guided)


def _run_all(names: list[str], goods: Path, asked: argparse.Namespace, guided: bool) -> int:
    """Fuzz readers, each in a process of its own where coverage guides; 1 for a finding."""
    sys.path.insert(0, str(HERE))
    from readers import READERS

    FOUND.mkdir(parents=True, exist_ok=True)
    wanted = [reader.name for reader in READERS if not names or reader.name in names]
    bad = total = 0
    for part in [[name] for name in wanted] if guided else [wanted]:
        command = [sys.executable, __file__, "--worker", *part, "--goods", str(goods)]
        command += ["--runs", str(asked.runs), "--seed", str(asked.seed)]
        command += ["--seconds", str(asked.seconds)]
        command += [] if guided else ["--random"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=goods)
        print(ran.stdout, end="", flush=True)
        if ran.returncode:
            bad = 1
            print(f"{', '.join(part)}: code {ran.returncode}\n{ran.stderr[-6000:]}", flush=True)
        if done := re.search(r"number_of_executed_units: (\d+)", ran.stderr):
            total += int(done[1])
            print(f"  {int(done[1]):,} done, {total:,} of all readers", flush=True)
    return bad


def _work(name: str, asked: argparse.Namespace, guided: bool) -> None:
    """Fuzz one reader in this process."""
    goods: Path = asked.goods
    sys.path.insert(0, str(HERE))
    if guided:
        import atheris

        with atheris.instrument_imports(include=["secateur"]):
            import readers
    else:
        import readers
    paths = json.loads((goods / "goods.json").read_text())
    files = readers.Goods(*(Path(path) for path in paths))
    reader = next(one for one in readers.READERS if one.name == name)
    good = reader.good(files)
    with tempfile.TemporaryDirectory() as folder:
        path = readers.prepare(reader, files, Path(folder))
        # The good file first: what reading imports, compiles and starts is no file's time.
        readers.attempt(reader, good, path, None)

        def once(data: bytes) -> None:
            try:
                readers.attempt(reader, good, path, data)
            except BaseException:
                kept = FOUND / name.replace(" ", "-")
                kept.write_bytes(path.read_bytes())
                print(f"{kept} is what it could not read", file=sys.stderr)
                traceback.print_exc()
                raise

        print(f"{name}: {asked.runs} runs", flush=True)
        if guided:
            _guide(once, name.replace(" ", "-"), asked)
        _draw(once, asked)


def _guide(once: object, name: str, asked: argparse.Namespace) -> None:
    """By coverage; ends the process."""
    import atheris

    options = [f"-runs={asked.runs}", f"-seed={asked.seed}", f"-max_total_time={asked.seconds}"]
    options += [f"-timeout={SECONDS}", f"-max_len={LONGEST}", f"-artifact_prefix={FOUND}/{name}-"]
    options += [f"-rss_limit_mb={MEMORY >> 20}", "-print_final_stats=1", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options], once)
    atheris.Fuzz()


def _draw(once: object, asked: argparse.Namespace) -> None:
    """At random."""
    chance = random.Random(asked.seed)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    until = time.monotonic() + (asked.seconds or math.inf)
    done = 0
    while done < asked.runs and time.monotonic() < until:
        done += 1
        # Ended by the clock, a busy machine would make findings.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(10 * SECONDS)
        once(chance.randbytes(LONGEST))  # type: ignore[operator]
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    print(f"  {done:,} done", flush=True)


def _make_goods(folder: Path) -> Path:
    """The whole line on a tiny model."""
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "benchmarks")]
    from tiny_line import save_line

    from secateur import Calibration, Formats, Measuring, Pruning, ShrinkRequest, shrink

    line, out = save_line(folder), folder / "out"
    request = ShrinkRequest(
        Pruning(experts=6),
        Formats(types=("Q8_0", "Q4_K_M")),
        Calibration(str(line.corpus)),
        Measuring(answers=line.answers),
    )
    shrink(line.model, out, request, workers=1)
    write_goods(folder, line.model, line.corpus, line.rows, line.answers, out)
    return folder


def write_goods(folder: Path, *paths: Path) -> None:
    """Say in a file where the good files are."""
    (folder / "goods.json").write_text(json.dumps([str(path) for path in paths]))


if __name__ == "__main__":
    sys.exit(main())
