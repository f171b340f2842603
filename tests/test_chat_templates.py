"""One reader of a model's chat templates: transformers' order, and gguf-py's keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers

from secateur import Formats, Pruning, plan
from secateur.checkpoint.chat_templates import chat_templates
from secateur.checkpoint.hub import gemmule_folder
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import CheckpointError
from secateur.formats.gguf.tokenizer import template_metadata

TINY = Callable[[str], Checkpoint]
LIST = [{"name": "default", "template": "listed"}, {"name": "tool_use", "template": "tools"}]

LAYOUTS: dict[str, dict[str, Any]] = {
    "none": {},
    "text": {"config": "one"},
    "list": {"config": LIST},
    "list without a default": {"config": LIST[1:]},
    "file": {"chat_template.jinja": "new"},
    "file over text": {"config": "old", "chat_template.jinja": "new"},
    "file over list": {"config": LIST, "chat_template.jinja": "new"},
    "folder": {
        "chat_template.jinja": "new",
        "additional_chat_templates/tool-use.jinja": "tools",
        "additional_chat_templates/rag.jinja": "search",
    },
    "folder over list": {"config": LIST, "additional_chat_templates/rag.jinja": "search"},
    "processor's": {"chat_template.json": json.dumps({"chat_template": "processor"})},
    "text over processor's": {
        "config": "one",
        "chat_template.json": json.dumps({"chat_template": "processor"}),
    },
}


def laid_out(folder: Path, source: Path, layout: dict[str, Any]) -> Path:
    """A copy of a tokenizer with the templates of a layout."""
    folder.mkdir()
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    for name, content in layout.items():
        if name == "config":
            settings["chat_template"] = content
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(params=LAYOUTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny: TINY) -> Path:
    return laid_out(tmp_path / "model", tiny("mixtral").path, LAYOUTS[request.param])


def test_text_is_written_by_the_template_that_transformers_takes(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder).chat_template
    ours = load_tokenizer(folder).chat_template
    if theirs is None and (folder / "chat_template.json").is_file():
        theirs = "processor"  # transformers gives it to the processor, not to the tokenizer
    assert ours == theirs
    assert chat_templates(folder) == ({"default": ours} if isinstance(ours, str) else ours or {})


def test_a_gguf_gets_the_template_that_text_is_written_by(folder: Path) -> None:
    templates = load_tokenizer(folder).chat_template
    named = {"default": templates} if isinstance(templates, str) else templates or {}
    keys = {key: value.value for key, value in template_metadata(chat_templates(folder)).items()}
    assert keys.get("tokenizer.chat_template") == named.get("default")
    assert len(keys.get("tokenizer.chat_templates", ())) == len(named.keys() - {"default"})


def test_the_keys_are_those_of_gguf_py(tmp_path: Path, folder: Path) -> None:
    """Where tokenizer_config.json does not hold an older template: gguf-py prefers that."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if "chat_template" in settings and list(folder.glob("**/*.jinja")):
        return
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    vocabulary = gguf.SpecialVocab(folder)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
    theirs = {
        key: tuple(sorted(value.value)) if isinstance(value.value, list) else value.value
        for key, value in writer.kv_data[0].items()
        if "chat_template" in key
    }
    ours = template_metadata(chat_templates(folder))
    assert {key: value.value for key, value in ours.items()} == theirs


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", '{"chat_template": 3}', "neither a text nor a list"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "x"}]}', "neither a text nor a"),
        ("tokenizer_config.json", '{"chat', "is not usable JSON"),
        ("chat_template.json", "[", "is not usable JSON"),
    ],
)
def test_a_template_that_is_none_is_refused(
    file: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        chat_templates(tmp_path)
    (tmp_path / file).write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=f"{file} is text in UTF-16"):
        chat_templates(tmp_path)


def test_a_plan_says_when_a_gguf_has_no_template_by_default(tmp_path: Path) -> None:
    model = shutil.copytree(gemmule_folder(), tmp_path / "model")
    (model / "additional_chat_templates").mkdir()
    (model / "chat_template.jinja").rename(model / "additional_chat_templates/rag.jinja")
    request = Formats(to=("gguf",), types=("Q8_0",))
    decided = plan(str(model), Pruning(drop=0.0), request)
    assert any("chat templates by name only (rag)" in note for note in decided.notes)
