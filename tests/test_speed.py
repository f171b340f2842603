"""Speed in the real engines, in turns; no time is asserted, only what was timed and how."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from secateur.checkpoint.hub import gemmule_folder
from secateur.errors import EngineError, RequestError
from secateur.evaluation.speed import gguf_turn, mlx_turn
from secateur.evaluation.speed.alternate import cut_prompts, time_in_turns
from secateur.evaluation.speed.request import Speed
from secateur.evaluation.speed.summary import geometric_mean, speed_measurements, speed_ratios
from secateur.evaluation.speed.turn import TimedModel, Turn
from secateur.serving.settings import ServerSettings

SHORT = Speed(prompt_tokens=48, answer_tokens=6, turns=3)


def turn(factor: float, memory: int = 1000) -> Turn:
    return Turn(100, 10, 2.0 * factor, 0.5 * factor, 2.1 * factor, 1.0 * factor, None, memory)


def test_models_alternate_and_read_the_same_prompt_in_a_turn() -> None:
    seen: list[tuple[str, int]] = []

    def model(name: str) -> TimedModel:
        def take(prompt: Sequence[int], tokens: int) -> Turn:
            assert (len(prompt), tokens) == (SHORT.prompt_tokens, SHORT.answer_tokens)
            seen.append((name, prompt[0]))
            return turn(1)

        return TimedModel(name, "toy", take)

    found = time_in_turns([model("a"), model("b")], range(100), SHORT)
    assert [name for name, _ in seen] == ["a", "b", "b", "a", "a", "b"]
    prompts = [{first for _, first in seen[at : at + 2]} for at in (0, 2, 4)]
    assert [len(one) for one in prompts] == [1, 1, 1] and len(set.union(*prompts)) == 3
    assert {key: len(turns) for key, turns in found.items()} == {("a", "toy"): 3, ("b", "toy"): 3}


def test_a_text_too_short_for_different_prompts_is_refused() -> None:
    assert len({tuple(one) for one in cut_prompts(range(50), SHORT)}) == 3
    with pytest.raises(RequestError, match="longer text than 49 tokens"):
        cut_prompts(range(49), SHORT)


def test_ratios_are_of_the_same_turn_and_what_no_system_tells_is_left_out() -> None:
    original = [turn(1), turn(3), turn(2)]
    artefact = [turn(0.5, 500), turn(1.5, 600), turn(1, 500)]
    found = {one.name: one for one in speed_ratios(original, artefact, "toy")}
    assert found["generation_speed_ratio"].value == pytest.approx(2)
    assert found["generation_speed_ratio"].low == pytest.approx(2)  # though turns differ threefold
    assert found["time_to_first_token_ratio"].value == pytest.approx(0.5)
    assert "generation_cpu_ratio" not in found
    alone = {one.name: one for one in speed_measurements(artefact, "toy")}
    assert alone["peak_memory"].value == 600 and alone["peak_memory"].low is None
    assert alone["prefill_speed"].domain == "toy" and dict(alone["prefill_speed"].n) == {"turns": 3}


def test_what_mlx_lm_says_when_it_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "host.py"
    script.write_text(
        "import sys\nprint('ready {}', flush=True)\nsys.stdin.readline()\nsys.stdin.readline()\n"
        "print('failed out of memory', flush=True)\n"
    )
    monkeypatch.setattr(mlx_turn, "_HOST", script)
    with pytest.raises(EngineError, match="did not answer: out of memory"):
        mlx_turn.take_turn(tmp_path, [1, 2, 3], 2)


def test_the_interval_is_students_over_logarithms_and_two_turns_have_none() -> None:
    found = geometric_mean([math.e, math.e**2, math.e**3])
    assert found.value == pytest.approx(math.e**2)
    assert found.low == pytest.approx(math.exp(2 - 4.302652729911275 / math.sqrt(3)))
    assert geometric_mean([1.0, 2.0]).low is None


def check(found: Turn, answered: int) -> None:
    assert (found.prompt_tokens, found.answer_tokens) == (SHORT.prompt_tokens, answered)
    assert min(found.prompt_seconds, found.answer_seconds, found.first_token) > 0
    if sys.platform == "linux":
        assert found.prompt_cpu is not None and found.peak_memory is not None
        assert found.peak_memory > 10 << 20


def test_a_turn_in_llama_cpp_is_of_the_tokens_that_were_asked_for(gemmule_gguf: Path) -> None:
    prompt = range(200, 200 + SHORT.prompt_tokens)
    found = gguf_turn.take_turn(
        gemmule_gguf, ServerSettings(workers=1), prompt, SHORT.answer_tokens
    )
    check(found, SHORT.answer_tokens)
    assert (found.peak_memory or 1 << 40) > gemmule_gguf.stat().st_size // 2


@pytest.mark.slow
def test_a_turn_in_mlx_lm_is_of_the_tokens_that_were_asked_for() -> None:
    prompt = range(200, 200 + SHORT.prompt_tokens)
    held = b"x" * (1 << 30)  # Linux counts what the parent had towards a child's ru_maxrss
    found = mlx_turn.take_turn(gemmule_folder(), prompt, SHORT.answer_tokens)
    check(found, SHORT.answer_tokens - 1)  # the first token comes with the prompt
    assert (found.peak_memory or 0) < len(held)


@pytest.mark.parametrize("field", ["prompt_tokens", "answer_tokens", "turns"])
def test_settings_that_time_nothing_are_refused(field: str) -> None:
    with pytest.raises(RequestError, match=f"speed: {field} is 0"):
        Speed(**{field: 0})
