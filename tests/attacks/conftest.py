"""All attacks, run once in a process apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attack import MEMORY, SECONDS, Attack, Goods, Outcome
from shared import Shared
from tiny_line import Line

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest,
    line: Line,
    stats: Path,
    made: Path,
    shared: Shared,
) -> dict[str, tuple[Outcome, Path]]:
    """{name: what happened, and the folder in which}; without those that did not end."""
    from test_attacks import ATTACKS

    goods = Goods(line.model, line.corpus, stats, made)
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_hostile"
    }
    attacks = [attack for attack in ATTACKS.values() if attack.name in wanted]
    return shared.make("rooms", lambda rooms: _run_all(attacks, goods, rooms))


def _run_all(
    attacks: Sequence[Attack], goods: Goods, rooms: Path
) -> dict[str, tuple[Outcome, Path]]:
    waiting = []
    for number, attack in enumerate(attacks):
        room = rooms / str(number)
        room.mkdir()
        attack.make(goods, room)
        words = [word.format(**goods.places(room)) for word in attack.command.split()]
        waiting.append((attack, room, words))
    found: dict[str, tuple[Outcome, Path]] = {}
    while waiting:
        done = dict(_run(waiting, rooms))
        found |= {
            attack.name: (done[attack.name], room) for attack, room, _ in waiting[: len(done)]
        }
        waiting = waiting[len(done) + 1 :]  # the next one did not end
    return found


def _run(
    cases: Sequence[tuple[Attack, Path, list[str]]], rooms: Path
) -> Iterator[tuple[str, Outcome]]:
    """As many of the cases as end in time."""
    orders = "".join(json.dumps([attack.name, words]) + "\n" for attack, _, words in cases)
    command = [sys.executable, str(HERE / "run_cases.py"), str(SECONDS), str(MEMORY)]
    ran = subprocess.run(
        command,
        input=orders,
        capture_output=True,
        text=True,
        cwd=rooms,
        check=False,
        env=_environment(),
    )
    for line in ran.stdout.splitlines():
        name, *outcome = json.loads(line)
        yield name, Outcome(*outcome)


def _environment() -> dict[str, str]:
    import os

    root = str(HERE.parents[1])
    return {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}
