"""Records a log of inspect-ai, as it really writes one, for tests/test_elsewhere.py.

Run in an environment of its own (inspect-ai wants other versions of libraries than ours, and some
thirty more packages):

    python -m venv there && there/bin/pip install inspect-ai openai
    there/bin/python tests/golden/record_inspect_log.py

Its mock model gives the answers below in their order, so that no network is needed; what is real is
the format, which is version 0.3.285's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from inspect_ai import Epochs, Task, eval  # type: ignore[import-not-found]
from inspect_ai.dataset import Sample  # type: ignore[import-not-found]
from inspect_ai.model import (  # type: ignore[import-not-found]
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import choice  # type: ignore[import-not-found]
from inspect_ai.solver import multiple_choice  # type: ignore[import-not-found]

FOLDER = Path(__file__).parent
MODEL = "mockllm/model"
USAGE = ModelUsage(input_tokens=30, output_tokens=4, total_tokens=34)


def answer(text: str, stop: str = "stop") -> ModelOutput:
    output = ModelOutput.from_content(MODEL, text, stop_reason=stop)
    return output.model_copy(update={"usage": USAGE})


def thought(text: str) -> ModelOutput:
    content = [ContentReasoning(reasoning="Stones fall."), ContentText(text=text)]
    message = ChatMessageAssistant(content=content, model=MODEL)
    choices = [{"message": message, "stop_reason": "stop"}]
    return ModelOutput(model=MODEL, choices=choices, usage=USAGE)


ANSWERS = [
    answer("ANSWER: B"),
    answer("ANSWER: C"),
    answer("ANSWER: B", "max_tokens"),
    answer(""),
    thought("ANSWER: B"),
]


def record(folder: Path) -> None:
    """The log of a run over five questions."""
    questions = [
        Sample(f"Question {n}?", choices=["stone", "apple", "rain"], target="B", id=n)
        for n in range(1, len(ANSWERS) + 1)
    ]
    task = Task(
        name="fruit",
        dataset=questions,
        solver=multiple_choice(),
        scorer=choice(),
        epochs=Epochs(1),
        config=GenerateConfig(temperature=0.5, seed=42, max_tokens=64),
    )
    with tempfile.TemporaryDirectory() as place:
        model = get_model(MODEL, custom_outputs=ANSWERS)
        (log,) = eval(
            task, model=model, log_dir=place, log_format="eval", display="none", max_samples=1
        )
        shutil.copy(log.location.removeprefix("file://"), folder / "inspect.eval")


if __name__ == "__main__":
    record(FOLDER)
