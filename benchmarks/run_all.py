"""All benchmarks, one after the other, and one table of how they stand to the goals.

    python benchmarks/run_all.py             quick sizes, under 30 minutes; results in out/bench
    python benchmarks/run_all.py --full      full sizes, hours; results replace benchmarks/*.json
    python benchmarks/run_all.py measuring sizes         only these

A quick result says whether something broke or became much slower; the numbers that pages quote are
those of full size. A script that takes longer than its limit is ended, with all that it started. A
benchmark that cannot be quick, or needs what is not there, is listed with the reason; --full leaves
out those alone that need a GPU, other tools, or models and texts that are not in this repository.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goals import FOLDER, OUT_VARIABLE, table

OUT = Path("out/bench")
TOTAL = 30 * 60
"""Seconds that all quick runs together may take at most."""
FULL_LIMIT = 12 * 3600
LLAMA = "make llama-tools"


@dataclass(frozen=True)
class Quick:
    """How a script is run quickly: its arguments, and seconds until it is ended."""

    seconds: int
    arguments: Sequence[str] = ()
    needs: str = ""
    """What makes what has to be there first; the script says so itself, and does nothing."""


@dataclass(frozen=True)
class Slow:
    """Why a script has no quick size."""

    reason: str


@dataclass(frozen=True)
class ByHand(Slow):
    """Why a script is not run from here, at its full size neither."""


SCRIPTS: Mapping[str, Quick | Slow] = {
    "cards": Quick(60),
    "sizes": Quick(30),
    "claims_statistics": Quick(40),
    "startup": Quick(60, ("--rounds", "2", "--before", "HEAD")),
    "measuring": Quick(240, ("--turns", "1", "--texts", "32", "4")),
    "calibration": Quick(300, ("--rounds", "1", "--forward", "eager,4096")),
    "estimate": Quick(180, ("--rounds", "1")),
    "pruning": Quick(150, ("--layers", "1", "--rounds", "1")),
    "resuming": Quick(75, ("--turns", "1", "--shapes", "gemmule")),
    "memory": Quick(90, ("--layers", "1", "--rows", "2", "--reroute-tokens", "0")),
    "gguf_speed": Quick(335, ("--rounds", "3", "--cases", "Q4_K_M"), LLAMA),  # the first compiles
    "dry_run": Quick(60, ("--cases", "60", "--configs", "20"), LLAMA),
    "type_parity": Quick(120, ("--types", "Q8_0", "Q4_K_M"), LLAMA),
    "engine_agreement": Slow("all of the model's GGUF types and MLX in two engines: 15 minutes"),
    "device": ByHand("its goals are a GPU's: run it where there is one"),
    "audit": ByHand("needs the cards' texts, which are not ours to ship (--cards FOLDER)"),
    "rerouted_before": ByHand("needs a checkout of older code (--before CHECKOUT)"),
    "criteria": Slow("every criterion at seven ratios: an hour"),
    "rerouted_sample": Slow("removes experts for every size of the sample: half an hour"),
    "rounding": Slow("a Gram matrix and two files for every type: two hours"),
    "rounding_models": ByHand("its models are trained first (models/): hours"),
    "rounding_elsewhere": ByHand("needs other tools, and models that are made first: an hour"),
    "frontier": Slow("two files for every number of experts and type: half an hour"),
    "rounding_cost": Slow("calibrations in turns, of which each takes a minute"),
    "rounding_pruned": Slow("two calibrations and six files: half an hour"),
    "gram_tokens": ByHand("one of its models is trained first (models/): an hour for each"),
    "rounding_device": ByHand("compares a GPU with the cores of its machine"),
    "rounding_speed": Slow("makes a checkpoint of 2.4 GB and writes it in turns: six minutes"),
    "width": Slow("makes 27 GB of weights and takes every step with 2, 4, 8 layers: half an hour"),
    "experts_or_bits": Slow("measures every type at every number of experts: an hour"),
    "layer_importance": Slow("measures a file for every layer: half an hour"),
    "gemmule_quality": Slow("a property of the shipped model, which does not change"),
    "ladder": Slow("tasks and loops of eleven artefacts: half an hour"),
    "speed": Slow("an engine is started for every turn of five models: ten minutes"),
    "loops": Slow("150 long replies of a small model: a quarter of an hour"),
    "loop_rates": Slow("1,800 replies: half an hour"),
    "serving_losses": Slow("some hundred replies in turns: a quarter of an hour"),
    "paper_plan": Quick(20),
    "cluster_simulation": Quick(40, ("--seeds", "20")),
    "tasks_divergence": Slow("ten models answer 300 items of each suite: hours"),
}
NOT_LISTED = Slow("no quick size is given for it in run_all.py")
NO_BENCHMARKS = ("gemma4_facts", "generated_loops", "goals", "run_all")


def benchmarks() -> list[str]:
    """All scripts that can be run, those of SCRIPTS first; the others are parts of them."""
    found = {
        path.stem
        for path in FOLDER.glob("*.py")
        if '__name__ == "__main__"' in path.read_text("utf-8")
    }
    listed = [script for script in SCRIPTS if script in found]
    return listed + sorted(found - {*listed, *NO_BENCHMARKS})


@dataclass(frozen=True)
class Outcome:
    """What came of a script: in words, and the seconds it took."""

    script: str
    words: str
    seconds: float = 0.0
    failed: bool = False


def run(script: str, arguments: Sequence[str], limit: float, out: Path | None) -> Outcome:
    """Run a script in a session of its own; results go to `out`, or to benchmarks/."""
    environment = dict(os.environ) if out is None else {**os.environ, OUT_VARIABLE: str(out)}
    command = [sys.executable, str(FOLDER / f"{script}.py"), *arguments]
    print(f"== {script} {' '.join(arguments)}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=sys.stderr, start_new_session=True
    ) as process:
        try:
            code = process.wait(limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Outcome(script, f"ended at its limit of {limit:.0f} s", limit, failed=True)
    seconds = time.monotonic() - begun
    if code:
        return Outcome(script, f"failed with exit code {code}", seconds, failed=True)
    return Outcome(script, "ran", seconds)


def run_quick(script: str, out: Path) -> Outcome:
    """A script at its quick size."""
    how = SCRIPTS.get(script, NOT_LISTED)
    if isinstance(how, Slow):
        return Outcome(script, f"not run: {how.reason}")
    result = out / f"{script}.json"
    result.unlink(missing_ok=True)  # some add to what is there
    outcome = run(script, how.arguments, how.seconds, out)
    if not outcome.failed and not result.exists():
        return Outcome(script, f"not run: needs `{how.needs}`", outcome.seconds)
    return outcome


def run_full(script: str) -> Outcome:
    """A script as its result was made: that is what its defaults are."""
    how = SCRIPTS.get(script)
    if isinstance(how, ByHand):
        return Outcome(script, f"not run: {how.reason}")
    return run(script, (), FULL_LIMIT, None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", help="only these (default: all)")
    parser.add_argument("--full", action="store_true", help="replace benchmarks/*.json; hours")
    options = parser.parse_args()
    there = benchmarks()
    unknown = set(options.scripts) - set(there)
    if unknown:
        parser.error(f"no benchmark: {', '.join(sorted(unknown))}; all: {', '.join(there)}")
    wanted = options.scripts or there
    if options.full:
        outcomes = [run_full(script) for script in wanted]
        folders = {"full": FOLDER}
    else:
        outcomes = [run_quick(script, OUT.absolute()) for script in wanted]
        folders = {"quick": OUT, "full": FOLDER}
    print(table(folders))
    print()
    for outcome in outcomes:
        print(f"{outcome.seconds:6.0f} s  {outcome.script}: {outcome.words}")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
