"""Every command of README.md and docs/ is one that can be typed, and prints what is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from transcripts import ROOT, Command, blocks, pages, run, runnable

from secateur.cli.main import app

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
LINES_OF_README = 130


COMMAND: Any = typer.main.get_command(app)


def read_options(arguments: list[str]) -> None:
    """Raises typer's usage errors for a command line that cannot be."""
    command = COMMAND
    context = command.make_context("secateur", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", PAGES)
def test_no_option_is_invented(name: str) -> None:
    for block in blocks(PAGES[name]):
        for command in block.commands:
            for arguments in command.programs:
                if {"-h", "--help"} & set(arguments):
                    continue
                try:
                    read_options(arguments)
                except typer.TyperException as error:
                    pytest.fail(f"{name}:{block.line}: {command.text}: {error.format_message()}")


def every_option(command: Any) -> Iterator[str]:
    """Of a command and of those below it."""
    yield from (word for one in command.params for word in (*one.opts, *one.secondary_opts))
    for below in getattr(command, "commands", {}).values():
        yield from every_option(below)


OPTIONS = {"--help", *every_option(COMMAND)}
OTHERS = re.compile(r"--n-cpu-moe|pip install|models/|run_all\.py")
"""What names options of other programs, in code within a sentence."""


def options_in_sentences(text: str) -> set[str]:
    sentences = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", sentences)
    return {
        option
        for span in spans
        if not OTHERS.search(span)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)
    }


@pytest.mark.parametrize("name", PAGES)
def test_no_option_of_a_sentence_is_invented(name: str) -> None:
    assert options_in_sentences(PAGES[name].read_text("utf-8")) <= OPTIONS


@pytest.mark.parametrize("name", PAGES)
def test_make_knows_every_target(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"^\s*(?:\$ )?make ([\w-]+)", PAGES[name].read_text("utf-8"), re.MULTILINE)
    assert set(named) <= targets


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if runnable(page)])
def test_commands_print_what_is_shown(name: str, tmp_path: Path) -> None:
    different = [
        f"{name}:{block.line}: $ {command.text}\n{output}"
        for block, command, output in run(PAGES[name], tmp_path)
        if not command.prints(output)
    ]
    assert not different, "\n".join(different)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        if "://" in target:
            continue
        path = (page.parent / target).resolve()
        assert path.exists(), f"{name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            assert anchor in [anchor_of(heading) for heading in headings], f"{target}#{anchor}"


def anchor_of(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_readme_is_short() -> None:
    lines = PAGES["README.md"].read_text("utf-8").count("\n")
    assert lines < LINES_OF_README


def test_every_page_is_on_the_map() -> None:
    page = ROOT / "docs" / "README.md"
    linked = {(page.parent / target).resolve() for target, _ in LINK.findall(page.read_text())}
    every = set((ROOT / "docs").rglob("*.md")) - {page}
    assert {str(path.relative_to(ROOT)) for path in every - linked} == set()


def test_what_is_wrong_is_found() -> None:
    assert options_in_sentences("`--gone` and\n```sh\nx --y\n```\n") == {"--gone"}
    with pytest.raises(typer.TyperException, match="--expert"):
        read_options(["plan", "gemmule", "--expertz", "3"])
    with pytest.raises(typer.TyperException, match="shrnik"):
        read_options(["shrnik", "gemmule"])
    assert not Command("x", "a ... c").prints("a b d")
    assert Command("x", "a ... c").prints("a b\nb c\n")
    assert Command("cat a | secateur plan x && secateur fit y").programs == [
        ["plan", "x"],
        ["fit", "y"],
    ]
