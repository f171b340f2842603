"""Gates on what was asked: tasks, loops and speed, in every place where a gate can be said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_line import Run

import secateur.release.evidence as kept
from secateur.api.measuring import Measuring
from secateur.api.releasing import Releasing
from secateur.errors import GateError, InputError
from secateur.evaluation.asked_numbers import asked_numbers
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.gate import (
    check_gates,
    check_measured,
    gate_names,
    judge_gates,
    parse_gate,
)
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.speed.request import Speed
from secateur.evaluation.tasks.request import Tasks
from secateur.release.card.card import check_card, make_card, write_card
from secateur.release.pages import write_pages
from secateur.release.report import Report, to_markdown


def number(
    name: str, value: float, domain: str, kind: str, ends: tuple[float, float] | None = None
) -> Measurement:
    low, high = ends or (None, None)
    return Measurement(
        name, value, "share", {"items": 50}, low, high, 0.95 if ends else None, domain, kind
    )


NUMBERS = {
    "a.gguf": (
        number("kl_mean", 0.1, "pooled", "answers"),
        number("kl_mean", 0.4, "code", "answers"),
        number("accuracy", 0.7, "gsm8k", "tasks", (0.56, 0.81)),
        number("accuracy", 0.5, "mmlu", "tasks", (0.37, 0.63)),
        number("accuracy_difference", -0.02, "gsm8k", "tasks", (-0.07, 0.03)),
        number("loop_rate", 0.01, "pooled", "loops", (0.0, 0.03)),
        number("loop_rate", 0.2, "code", "loops", (0.1, 0.4)),
        number("generation_speed_ratio", 1.4, "llama.cpp", "speed"),
    ),
    "folder": (number("kl_mean", 0.02, "pooled", "answers"),),
}


def check(*gates: str) -> None:
    check_gates([parse_gate(gate) for gate in gates], NUMBERS)


def test_limits_to_what_was_asked_are_held() -> None:
    # Safetensors are served by no engine: they have no number, and are held to no such limit.
    check("accuracy>=0.5", "accuracy:gsm8k>=0.7", "loop_rate<=0.01", "kl_mean:pooled<=0.1")
    check("accuracy_difference>=-0.02", "accuracy.low:mmlu>=0.3", "generation_speed_ratio>=1.2")
    for missed, said in {
        "accuracy>=0.6": r"a\.gguf: accuracy \(mmlu\): 0\.5 .*limit is accuracy>=0\.6$",
        "accuracy:gsm8k>=0.71": r"accuracy \(gsm8k\).*accuracy:gsm8k>=0\.71",
        "accuracy_difference.low>=-0.05": r"\[-0\.07, 0\.03\].*accuracy_difference\.low>=-0\.05",
        "loop_rate.high<=0.02": "loop_rate.high<=0.02",
        "loop_rate:code<=0.1": "loop_rate:code<=0.1",
        "generation_speed_ratio>=1.5": "generation_speed_ratio>=1.5",
    }.items():
        with pytest.raises(GateError, match=said) as got:
            check(missed)
        assert got.value.exit_code == 3 and str(parse_gate(missed)) == missed


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("accuracy:gsm9k>=0.5", "'accuracy' for gsm9k tasks.* for gsm8k, mmlu only"),
        ("degenerate_rate<=0.5", "there is no measurement 'degenerate_rate'.*loop_rate"),
        ("generation_speed_ratio.low>=1", "has no interval"),
        ("kl_mean:code<=1", "of folder"),
    ],
)
def test_a_limit_to_what_was_not_measured_is_bad_input(gate: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as got:
        check(gate)
    assert got.value.exit_code == 2


@pytest.mark.parametrize("text", ["peak_memory<=17179869184", "kl_mean<=0.1234567", "kl_max<=7"])
def test_a_limit_is_kept_to_its_last_digit(text: str) -> None:
    gate = parse_gate(text)
    assert parse_gate(str(gate)) == gate


def test_a_limit_that_nothing_will_measure_is_refused_at_once() -> None:
    for gate, said in {"loop_rate<=0.1": "--loops", "accuracy:x>=0.1": "--tasks NAME"}.items():
        with pytest.raises(InputError, match=said):
            Measuring(gates=(gate,)).check_limits()
    Measuring(gates=("loop_rate<=0.1",)).check_limits(["loops"])  # an earlier run measured it
    asked = Tasks(("reasoning",))
    Measuring(gates=("accuracy_difference>=0",), tasks=asked).check_limits()
    for gate in ("accuracy_difference>=0", "flips_lost<=3"):
        with pytest.raises(InputError, match="relative to the original"):
            Measuring(gates=(gate,), tasks=asked, serving=Serving(original="none")).check_limits()
    with pytest.raises(InputError, match="is better higher"):
        Measuring(speed=Speed(), gates=("prefill_speed<=3",))
    check_measured([parse_gate("kl_mean<=1")], ())


def test_every_number_that_counts_can_have_a_limit() -> None:
    for kind, titles in kept.MAIN_NUMBERS.items():
        assert all(asked_numbers()[name].kind == kind for name in titles)
    assert len(set(gate_names())) == len(gate_names())


def test_reports_say_what_came_of_every_limit(made: Path, shrunk: Report) -> None:
    name = shrunk.artefacts[0].name
    gates = ("kl_mean<=100", "accuracy>=0.9", "loop_rate<=0.5")
    report = replace(shrunk, gates=tuple(map(parse_gate, gates)))
    numbers = (number("accuracy", 0.5, "gsm8k", "tasks", (0.4, 0.6)),)
    evidence = kept.Evidence("tasks", (kept.ArtefactEvidence(name, numbers),))
    page = to_markdown(report, (), (evidence,))
    assert f"| `accuracy>=0.9` | {name} | gsm8k | 0.5 [0.4, 0.6] | missed |" in page
    assert f"| `loop_rate<=0.5` | {name} | - | - | not measured |" in page
    assert f"| `kl_mean<=100` | {name} | pooled |" in page
    words = {verdict.word for verdict in judge_gates(report.gates[:1], {name: NUMBERS["folder"]})}
    assert words == {"met"}


def test_measuring_refuses_a_limit_before_anything_long(made: Path, run: Run) -> None:
    done = run("measure", made, "--against", "gemmule", "--gate", "loop_rate<=0.1")
    assert done.code == 2 and "add --loops" in done.err
    server = run("measure", "http://localhost:1/v1", "--tasks", "reasoning", "--gate", "kl_mean<=1")
    assert server.code == 2 and "needs the weights" in server.err
    job = run("shrink", "gemmule", "--gate", "accuracy>=0.1", "-o", made.parent / "never")
    assert job.code == 2 and "--tasks NAME" in job.err


def test_release_holds_an_output_to_limits_of_what_was_asked(
    made: Path, run: Run, tmp_path: Path
) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    report = json.loads((out / "report.json").read_text())
    name = report["artefacts"][0]["name"]
    ran = run("release", out, "--gate", "accuracy>=0.6")
    assert ran.code == 2 and "no measurement 'accuracy'" in ran.err
    numbers = (number("accuracy", 0.5, "gsm8k", "tasks", (0.4, 0.6)),)
    kept.write_evidence(out, kept.Evidence("tasks", (kept.ArtefactEvidence(name, numbers),)))
    write_pages(out)
    ran = run("release", out, "--gate", "accuracy>=0.6")
    assert ran.code == 3 and "the limit is accuracy>=0.6" in ran.err


def test_a_limit_that_only_releasing_sets_is_on_the_card(made: Path, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    card = make_card(out, Releasing(gates=("kl_mean<=123", "kl_p99:code<=7")).declared)
    assert "Limits that it was held to: `kl_mean<=123, kl_p99:code<=7`." in card.text
    write_card(out, card)
    check_card(out)  # the limit is what the releaser says, and the card's ledger knows that
    assert "Limits that it was held to" not in make_card(out, Releasing().declared).text
