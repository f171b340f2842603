"""MLX folders in mlx-lm's own server, and what it is not asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

import secateur
from secateur.api.serving import find_served
from secateur.errors import EngineError, RequestError
from secateur.serving.answer_facts import message_of, thought_of
from secateur.serving.engine_server import serve_model
from secateur.serving.mlx_serving import _arguments
from secateur.serving.model_defaults import folder_defaults
from secateur.serving.probe import probe_thinking
from secateur.serving.settings import NEUTRAL, Sampler, ServerSettings, Thinking

GEMMULE = Path(secateur.__file__).with_name("gemmule")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (ServerSettings(thinking=Thinking(True, 5)), "reasoning_budget"),
        (ServerSettings(api_key="key"), "an API key"),
        (ServerSettings(gpu_layers=3), "gpu_layers"),
        (ServerSettings(sampler=Sampler(dry_multiplier=0.5, seed=1)), "dry_multiplier, a seed"),
    ],
)
def test_what_mlx_would_ignore_is_refused(settings: ServerSettings, named: str) -> None:
    with (
        pytest.raises(RequestError, match=rf"mlx_lm\.server, which does not know {named}"),
        serve_model(GEMMULE, settings),
    ):
        pass


def test_a_context_beyond_the_training_is_refused() -> None:
    with (
        pytest.raises(RequestError, match="at most 2048 tokens"),
        serve_model(GEMMULE, ServerSettings(context=4096)),
    ):
        pass


def test_an_answer_may_be_as_long_as_the_context() -> None:
    """Without a word mlx_lm.server cuts answers after 512 tokens."""
    asked = list(_arguments(ServerSettings(), NEUTRAL, folder_defaults(GEMMULE)))
    assert asked[asked.index("--max-tokens") + 1] == "2048"
    asked = list(_arguments(ServerSettings(context=300), NEUTRAL, folder_defaults(GEMMULE)))
    assert asked[asked.index("--max-tokens") + 1] == "300"


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gemmule by mlx-lm's own converter, in the one type that mlx multiplies on every CPU."""
    out = tmp_path_factory.mktemp("mlx") / "mlx-F32"
    subprocess.run(
        [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(GEMMULE), "--mlx-path",
         str(out), "--dtype", "float32"],
        check=True, capture_output=True,
    )  # fmt: skip
    return out


@pytest.mark.slow
def test_an_mlx_folder_is_served(float32: Path, tmp_path: Path) -> None:
    assert find_served(float32) == float32
    assert find_served(float32.parent) == float32
    log = tmp_path / "mlx.log"
    with serve_model(float32, ServerSettings(thinking=Thinking(True)), log) as server:
        with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            create: Any = client.chat.completions.create
            question = [{"role": "user", "content": "What is 12 + 7?"}]
            answer = create(model=server.alias, messages=question, max_tokens=200).model_dump()
        assert message_of(answer)["content"] and "12" in thought_of(message_of(answer))
        assert probe_thinking(server, Thinking(True)).verdict == "yes"
        assert probe_thinking(server, Thinking(False)).verdict == "yes"
        # It takes a budget and ignores it, which is what the probe is for.
        assert probe_thinking(server, Thinking(True, 5)).verdict == "no"
        assert server.identity.engine == "mlx-lm"
        assert server.failure() is None
    assert server.failure() is not None
    assert log.read_text()


@pytest.mark.slow
def test_an_engine_that_loads_but_does_not_answer_is_told(float32: Path, tmp_path: Path) -> None:
    """Here for want of a tokenizer; bfloat16 on a CPU ends mlx-lm's thread in the same way."""
    broken = tmp_path / "mlx-broken"
    broken.mkdir()
    for path in float32.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "tokenizer.json").unlink()
    with (
        pytest.raises(EngineError, match="mlx-lm loaded .* but does not answer"),
        serve_model(broken),
    ):
        pass
