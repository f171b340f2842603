"""Files for Ollama: what they say comes from the GGUF, and is equal to its chat template."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from go_cases import CARD_003, CASES, DATA
from tiny_line import Run

from secateur.api.audit import audit_model
from secateur.audit.modelfile import _compared, modelfile_findings
from secateur.errors import FormatError, OutputError
from secateur.formats.gguf.reader import read_gguf
from secateur.release.manifest import verify, write_manifest
from secateur.release.ollama.choose import choose
from secateur.release.ollama.comparison import Comparison, compare
from secateur.release.ollama.go_template.evaluate import render
from secateur.release.ollama.go_template.nodes import GoTemplateError
from secateur.release.ollama.go_template.parser import parse_template
from secateur.release.ollama.model_file import ModelFile, markers_in, read_model_file
from secateur.release.ollama.modelfile import Instruction, parse_modelfile, write_modelfile
from secateur.release.ollama.write import write_ollama_files

GEMMULE = Path(__file__).parent.parent / "secateur" / "gemmule"
GEMMA_3 = "<start_of_turn>user\n{{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n"


@pytest.fixture(scope="module")
def model(gemmule_gguf: Path) -> ModelFile:
    return read_model_file(gemmule_gguf)


@pytest.fixture()
def output(gemmule_gguf: Path, tmp_path: Path) -> Path:
    (tmp_path / "gemmule-Q8_0.gguf").hardlink_to(gemmule_gguf)
    shutil.copy(GEMMULE / "generation_config.json", tmp_path)
    write_manifest(tmp_path, {})
    return tmp_path


def test_the_files_say_what_the_gguf_says(output: Path, model: ModelFile) -> None:
    (output / "LICENSE").write_text("Do what you like.\n")
    found = write_ollama_files(output, context=512)
    assert found.written == ("Modelfile", "params", "template")
    modelfile = parse_modelfile((output / "Modelfile").read_text("utf-8"), "Modelfile")
    assert [one.value for one in modelfile.of("from")] == ["./gemmule-Q8_0.gguf"]
    assert [one.value for one in modelfile.of("license")] == ["Do what you like."]
    template = (output / "template").read_text("utf-8")
    assert modelfile.of("template")[0].value == template
    assert compare(parse_template(template), model).equal
    params = json.loads((output / "params").read_text("utf-8"))
    assert params["stop"] == [one.value for one in modelfile.parameters("stop")]
    assert params["stop"][0] == "<turn|>" and all(map(model.is_control, params["stop"]))
    assert params["num_ctx"] == 512
    assert params["temperature"] == 0  # "do_sample": false
    assert not [one for one in verify(output) if one.is_damage]
    assert write_ollama_files(output, context=512) == found


def test_a_licence_in_another_encoding_is_said(output: Path) -> None:
    (output / "LICENSE").write_bytes("Für alle.".encode("latin-1"))
    with pytest.raises(OutputError, match=r"LICENSE"):
        write_ollama_files(output)


def test_a_template_is_written_only_where_it_is_equal(model: ModelFile) -> None:
    own = model.template or ""
    for changed in (
        own.replace("<|turn>' + role", "<|turn> ' + role"),
        own.replace("message['content'] | trim", "message['content'] | trim | upper"),
        own.replace("response:'", "result:'"),
    ):
        assert changed != own
        other = choose(replace(model, template=changed))
        assert other.template is None and other.renderer is None
        assert "no Go template writes what the chat template" in other.notes[0]
    assert choose(replace(model, template=None)).template is None


def test_files_that_are_no_longer_right_are_removed(
    output: Path, monkeypatch: pytest.MonkeyPatch, model: ModelFile
) -> None:
    write_ollama_files(output)
    assert (output / "template").exists()
    other = replace(model, template="{{ messages[0].content }}")
    monkeypatch.setattr("secateur.release.ollama.write.read_model_file", lambda path: other)
    found = write_ollama_files(output)
    assert found.written == ("Modelfile", "params") and not (output / "template").exists()
    assert "TEMPLATE" not in (output / "Modelfile").read_text("utf-8").replace("`template`", "")
    assert not [one for one in verify(output) if one.is_damage]


def test_another_models_markers_cannot_be_written(model: ModelFile) -> None:
    """A Gemma 3 template on a Gemma 4 file: the markers are no tokens of it, so neither a template
    nor a stop has them, whatever the file's own chat template and configuration say."""
    jinja = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}"
        "<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
    )
    foreign = replace(model, template=jinja)
    found = choose(foreign)
    assert found.template is None
    assert not set(markers_in(GEMMA_3)) & model.tokens


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}"
    "{{ ' [INST] ' + messages[0].content + '\n\n' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' [INST] ' + m.content + ' [/INST]' }}{% endif %}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
FIRST_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
    "{{ m.content + eos_token + ' ' }}{% else %}{{ raise_exception('no system') }}{% endif %}"
    "{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% set system = messages[0].role == 'system' %}"
    "{% if system or enable_thinking %}<|turn>system\n{% if enable_thinking %}<|think|>\n"
    "{% endif %}{% if system %}{{ messages[0].content }}{% endif %}<turn|>\n{% endif %}"
    "{% for m in messages %}{% if m.role != 'system' %}<|turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<turn|>\n{% endif %}"
    "{% endfor %}<|turn>model\n{% if not enable_thinking %}<|channel>thought\n<channel|>{% endif %}"
)
"""Other models' forms of a conversation, in short; the last is Gemma 4's of July 2026."""


@pytest.mark.parametrize(
    ("jinja", "name", "renderer"),
    [
        (CHATML, "chatml", None),
        (CHATML + "{% if enable_thinking == false %}<think>\n\n</think>\n\n{% endif %}",
         "qwen3-hybrid", None),
        (CHATML + "{{ '<think>\n' }}", "qwen3-thinking", None),
        (MISTRAL, "mistral-2024-07", None),
        (MISTRAL.replace("+ eos_token", "+ ' ' + eos_token"), "mistral-8x22b", None),
        (FIRST_MISTRAL, "mistral-2023-12", None),
        (TURNS, "gemma4-2026-07", "gemma4-large"),
        (TURNS.replace("<|think|>\n", "<|think|>"), "gemma4-2026-04", None),
    ],
)  # fmt: skip
def test_other_forms_have_their_template(
    model: ModelFile, jinja: str, name: str, renderer: str | None
) -> None:
    tokens = model.tokens | {"<|im_start|>", "<|im_end|>"}
    found = choose(replace(model, template=jinja, tokens=tokens, eos="</s>"))
    assert found.name == name, found.notes
    assert (found.renderer.name if found.renderer else None) == renderer
    if name == "chatml":
        foreign = choose(replace(model, template=jinja))
        assert foreign.template is None  # its marks are no tokens of the file


def test_what_a_template_leaves_out_is_said(model: ModelFile) -> None:
    tokens = model.tokens | {"<|im_start|>", "<|im_end|>"}
    found = choose(replace(model, template=CHATML + "{% if tools %}!{% endif %}", tokens=tokens))
    assert found.name == "chatml" and "leaves out tools" in found.notes[1]


def test_an_output_without_gguf_gets_none(tmp_path: Path) -> None:
    write_manifest(tmp_path, {})
    found = write_ollama_files(tmp_path)
    assert found.written == () and "no GGUF file" in found.notes[0]


def test_too_much_context_is_refused(output: Path) -> None:
    with pytest.raises(OutputError, match="trained for 2,048"):
        write_ollama_files(output, context=4096)
    assert not (output / "Modelfile").exists()


@pytest.mark.parametrize(("text", "written"), CASES)
def test_go_templates(text: str, written: str) -> None:
    assert render(parse_template(text), DATA) == written


@pytest.mark.parametrize(
    "text",
    [
        "{{ if .x }}a", "{{ end }}", "{{ else }}", "{{ .x", "{{ nofunction .x }}", "{{ $x }}",
        "{{ .missing }}", "{{ .list }}", '{{ eq 1 "a" }}', "{{ index .list 5 }}",
        "{{ range 1 }}{{ end }}", "{{ json 1e3 }}",
        '{{ template "none" }}', '{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}',
        "{{ (1 }}", "{{ 1 | }}", '{{ "\\q" }}',
    ],
)  # fmt: skip
def test_what_is_outside_of_the_subset_is_an_error(text: str) -> None:
    with pytest.raises(GoTemplateError):
        render(parse_template(text), {"list": [1]})


def test_a_modelfile_is_read_as_it_was_written() -> None:
    instructions = (
        Instruction("from", "./a b.gguf"),
        Instruction("template", '\n{{ if .System }}<|"|>{{ end }} \n# no comment\n'),
        Instruction("parameter", "<turn|>", name="stop"),
        Instruction("parameter", "0.95", name="top_p"),
    )
    text = write_modelfile(instructions, ("Two\nlines",))
    found = parse_modelfile(text, "Modelfile")
    assert [(o.command, o.value, o.name) for o in found.instructions] == [
        (o.command, o.value, o.name) for o in instructions
    ]
    assert found.of("parameter")[0].line == 8
    with pytest.raises(FormatError, match="three quotation marks"):
        write_modelfile([Instruction("system", 'a"""\nb')], ())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("TEMPLATE x\n", "no FROM"),
        ("FROM a\nTEMPERATURE 1\n", "line 2: begins with 'TEMPERATURE'"),
        ('FROM a\nTEMPLATE """b\n', "line 2: a value that begins"),
        ("FROM a\nPARAMETER stop\n", "line 2: PARAMETER needs a name"),
    ],
)
def test_a_broken_modelfile_is_named_with_its_line(text: str, what: str) -> None:
    with pytest.raises(FormatError, match=what):
        parse_modelfile(text, "Modelfile")


def test_the_faults_of_a_published_modelfile_are_found(gemmule_gguf: Path, tmp_path: Path) -> None:
    """That of model card 003, against a file with Gemma 4's marks and template."""
    path = tmp_path / "Modelfile"
    path.write_text(CARD_003)
    found = audit_model(gemmule_gguf, modelfile=path).instructions
    wrong = [(one.line, one.reason) for one in found if one.verdict == "wrong"]
    assert [line for line, _ in wrong] == [2, 2, 2, 6, 6]
    said = " ".join(reason for _, reason in wrong)
    assert "<start_of_turn> is no token of the file, but a mark of Gemma 1 to 3" in said
    assert "it would stand there twice" in said and "the model ends its turn with <turn|>" in said


@pytest.mark.parametrize(("count", "end"), [(2, "1; 2"), (4, "1; 2; 3, ...")])
def test_it_is_said_whether_more_conversations_differ(count: int, end: str) -> None:
    other = Comparison(("same",) * 20, tuple("1234"[:count]), (), frozenset())
    assert _compared(Instruction("template", "x"), other).reason.endswith(f": {end}")


def test_our_own_modelfile_has_no_fault(output: Path, run: Run) -> None:
    write_ollama_files(output)
    gguf, path = output / "gemmule-Q8_0.gguf", output / "Modelfile"
    metadata = read_gguf(gguf).metadata
    found = modelfile_findings(path.read_text("utf-8"), "Modelfile", metadata, gguf.name)
    assert not [one for one in found if one.verdict == "wrong"]
    held = [one.said for one in found if one.verdict == "holds"]
    assert held[0].startswith("TEMPLATE") and "PARAMETER stop <turn|>" in held
    text = path.read_text("utf-8")
    for change, what in (
        (text.replace("<|turn>model", "<|turn>modell"), "otherwise than the chat template"),
        (text.replace('stop "<turn|>"', 'stop "<|im_end|>"'), "a mark of ChatML"),
        (text.replace("num_ctx 2048", "num_ctx 131072"), "trained for no more"),
        (text + "RENDERER gemma4-large\n", "writes 15 of 22 conversations otherwise"),
        (text + "REQUIRES soon\n", "refuses the file"),
    ):
        assert change != text
        instructions = modelfile_findings(change, "Modelfile", metadata, gguf.name)
        assert [one for one in instructions if one.verdict == "wrong" and what in one.reason], what
    path.write_text(text.replace("top_p", "topp"), "utf-8")
    code, lines, errors = run("audit", gguf, "--modelfile", path, "--strict")
    assert code == 3 and "no such parameter" in lines and "no such parameter" in errors


def test_a_modelfile_needs_a_gguf(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(CARD_003)
    code, _, errors = run("audit", "gemmule", "--modelfile", path)
    assert code == 2 and "is no GGUF" in errors
