"""Help pages of every command, found by walking the app; -v, -q, and completion in shells."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_line import Line, Run

from secateur.cli.choices import SHOWN
from secateur.cli.help import COMMAND_GROUPS, OPTIONS, describe, describe_all, first_sentence
from secateur.cli.main import app

SCRIPT = Path(sys.executable).with_name("secateur")


def pages(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group of commands, with the words that call it."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from pages(below, (*words, name))


PAGES = dict(pages(typer.main.get_command(app)))
COMMANDS = {words: page for words, page in PAGES.items() if not hasattr(page, "commands")}


def name(words: tuple[str, ...]) -> str:
    return " ".join(words) or "secateur"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("words", PAGES, ids=name)
@pytest.mark.usefixtures("narrow")
def test_every_page_reads_well(words: tuple[str, ...], run: Run) -> None:
    """An example, 80 columns, no type of Python, and -h is --help."""
    page = run(*words, "-h")
    assert (page.code, page.err) == (0, "")
    assert page.out == run(*words, "--help").out
    assert page.out.startswith(f"Usage: {' '.join(('secateur', *words))} [OPTIONS]")
    assert f"Examples:\n  secateur {' '.join(words)}" in page.out
    assert all(len(line) <= 80 for line in page.out.splitlines())
    odd = r"<\w+(\[\w+\])?( range)?>|\[?x[<>]=|\bNone\b|\{\w+\}|\b(list|tuple|dict)\["
    assert not re.findall(odd, page.out)
    assert first_sentence(PAGES[words].help)


@pytest.mark.parametrize("words", [words for words in PAGES if words not in COMMANDS], ids=name)
@pytest.mark.usefixtures("narrow")
def test_a_group_has_its_commands_whole_in_a_line_each(words: tuple[str, ...], run: Run) -> None:
    lines = [line.strip() for line in run(*words, "-h").out.splitlines()]
    for below, command in PAGES[words].commands.items():
        sentence = first_sentence(command.help)
        assert any(re.fullmatch(rf"{below} +{re.escape(sentence)}", line) for line in lines), below
    if not words:
        commands = PAGES[words].commands.values()
        assert {command.rich_help_panel for command in commands} == set(COMMAND_GROUPS)


@pytest.mark.parametrize("words", COMMANDS, ids=name)
def test_every_option_says_its_place_its_values_and_its_default(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    options = [param for param in command.params if param.param_type_name == "option"]
    entries = {entry.name: entry for entry in describe_all(command.params)}
    for names in ("-v, --verbose", "-q, --quiet"):
        assert names in entries
    for param in options:
        entry = describe(param)
        assert param.help, entry.name
        if not (param.is_flag or param.count or param.required or param.default is None):
            assert f"[default: {param.default}]" in entry.text
        for choice in param.type_descriptor.choices or ():
            assert str(choice) in entry.name
        if param.name in SHOWN:
            assert entry.choices == tuple(SHOWN[param.name]())
    crowded = [entry.name for entry in entries.values() if entry.group == OPTIONS]
    assert len(crowded) <= 6, f"{crowded} need groups"


@pytest.mark.slow
def test_quiet_leaves_the_result_and_verbose_adds_what_is_done(
    run: Run, line: Line, tmp_path: Path
) -> None:
    words = ("calibrate", line.model, "--corpus", line.corpus, "--workers", "1")
    quiet = run(*words, "-q", out=tmp_path / "a")
    assert (quiet.code, quiet.err) == (0, "")
    assert "tokens of 12 documents" in quiet.out
    told = run(*words, out=tmp_path / "b").err
    assert told
    assert "secateur.system.atomic" not in told
    assert run("-q", *words, out=tmp_path / "q").err == ""
    more = run(*words, "-v", out=tmp_path / "c")
    assert "secateur.system.atomic: " in more.err
    assert more.out.replace("/c", "/a") == quiet.out


def test_a_wrong_value_is_told_without_words_of_python(run: Run) -> None:
    ran = run("plan", "gemmule", "--routing-weight", "odd")
    said = "secateur: Invalid value for '--routing-weight': 'odd' is not one of 'true', 'reference'"
    assert (ran.code, ran.said) == (2, [f"{said}: see `secateur plan --help`"])


def test_an_error_is_told_however_quiet_and_traced_when_asked(run: Run) -> None:
    for flags in (("-q",), ()):
        ran = run("inspect", "/nowhere", *flags)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    ran = run("inspect", "/nowhere", "-vv")
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("secateur: ")


COMPLETIONS = {
    "secateur sh": ["shrink"],
    "secateur recipe ex": ["export"],
    "secateur recipe show apex-mini": ["apex-mini", "apex-mini-wegener"],
    "secateur plan gem": ["gemmule"],
    "secateur plan ": [],
    "secateur plan gemmule --criterion re": ["rerouted", "reap"],
    "secateur plan gemmule --types IQ3_XX": ["IQ3_XXS"],
    "secateur shrink gemmule --types Q4_K_M,suite:b": ["Q4_K_M,suite:bartowski"],
    "secateur plan gemmule --to gguf,ml": ["gguf,mlx"],
    "secateur calibrate gemmule --on-nan s": ["stop", "skip"],
    "secateur calibrate gemmule --corpus gem": ["gemmule"],
    "secateur measure out --gate top": ["top1_agreement", "top5_agreement"],
    "secateur measure out --against gem": ["gemmule"],
    "secateur family show mix": ["mixtral"],
    "secateur calibrate gemmule --seq": ["--sequence-length"],
}


@pytest.mark.parametrize("typed", COMPLETIONS)
def test_shells_complete(typed: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the functions that `--show-completion` prints for bash, zsh and fish ask for."""
    expected = COMPLETIONS[typed]
    words = typed.split(" ")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", typed)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    found = {}
    for shell in ("bash", "fish", "zsh"):
        monkeypatch.setenv("_SECATEUR_COMPLETE", f"complete_{shell}")
        found[shell] = run().out
    assert found["bash"].split() == expected
    assert [line.split("\t")[0] for line in found["fish"].split("\n") if line] == expected
    if expected:
        assert (
            re.findall(r'^(?:_arg.*\(\()?"([^"]+)"', found["zsh"].replace(r"\\:", ":"), re.M)
            == expected
        )
    else:
        assert found["zsh"].strip() == "_files"


def test_completion_is_installed_for_bash(tmp_path: Path) -> None:
    """The script that is written completes in a real bash."""
    env = {"HOME": str(tmp_path), "PATH": f"{SCRIPT.parent}:/usr/bin:/bin"}
    script = (
        "secateur --install-completion >&2; . ~/.bashrc; COMP_WORDS=(secateur fi); COMP_CWORD=1;"
        'complete -p secateur >&2; _secateur_completion secateur; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "fit\n"


def test_an_option_is_called_what_python_and_a_job_file_call_it() -> None:
    """Every field of the requests is an option of `shrink` or `calibrate`, with dashes."""
    from dataclasses import fields

    from secateur import Calibration, Formats, Measuring, Pruning

    known = {
        name
        for words in (("shrink",), ("calibrate",), ("measure",))
        for param in COMMANDS[words].params
        for name in param.opts
    }
    other = {"gates": "--gate", "serving": "--slots", "recipes": None, "gram": None}
    # The last two are there in Python only, `serving` has several options.
    for request in (Pruning, Formats, Calibration, Measuring):
        for field in fields(request):
            name = other.get(field.name, "--" + field.name.replace("_", "-"))
            assert name is None or name in known, f"{request.__name__}.{field.name}"
