"""Hostile files, through the real command line: one line, the right code, bounded time and memory.

The cases stand in tables, one for each kind of file; all of them run in one process apart, whose
memory is limited and which an alarm ends.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import checkpoints
import corpora
import ggufs
import handwritten
import measured
import outputs
import pytest
from _pytest.mark import ParameterSet
from attack import MEMORY, SECONDS, Attack, Outcome

TABLES = (checkpoints, ggufs, measured, handwritten, corpora, outputs)
ATTACKS = {attack.name: attack for table in TABLES for attack in table.ATTACKS}


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    assert len(ATTACKS) == sum(len(table.ATTACKS) for table in TABLES) >= 80


def _marked(table: ModuleType) -> list[ParameterSet]:
    """The names of a table; the default suite tries two of it, none that load transformers."""
    default = 0 if table is corpora else 2
    return [
        pytest.param(attack.name, marks=[pytest.mark.slow] if place >= default else [])
        for place, attack in enumerate(table.ATTACKS)
    ]


@pytest.mark.parametrize("name", [case for table in TABLES for case in _marked(table)])
def test_hostile(name: str, outcomes: dict[str, tuple[Outcome, Path]]) -> None:
    attack: Attack = ATTACKS[name]
    assert name in outcomes, f"it did not end within {SECONDS} seconds"
    outcome, room = outcomes[name]
    said = outcome.err.splitlines()
    assert "Traceback" not in outcome.err + outcome.out, outcome.err[-2000:]
    assert outcome.code == attack.code, outcome.err[:600]
    assert outcome.memory < MEMORY
    if attack.code:
        said = [line for line in said if not line.startswith(("[", "calibrating on "))]
        assert len(said) == 1 and len(said[0]) < 4100, said
        assert all(word in said[0] for word in attack.words), said[0]
        assert not (room / "new").exists()
    if attack.never:
        assert attack.never not in outcome.out + outcome.err
        left = [path.name for path in (*room.rglob("*"), *room.parent.glob("*"))]
        assert not any(attack.never in name for name in left), left
