"""The commands of cards and pages, held against the programs that they are for: the installed ones
where there are any, else what is noted of them in golden/other_programs.yaml."""

from __future__ import annotations

import mmap
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xllamacpp
import yaml

from secateur.families.registry import families
from secateur.release.card.running import _LLAMA

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "secateur" / "release" / "card" / "card.md.jinja"
PAGES = (TEMPLATE, *sorted((ROOT / "docs" / "how-to").glob("*.md")), ROOT / "README.md")
NOTED: Any = yaml.safe_load((Path(__file__).parent / "golden" / "other_programs.yaml").read_text())
_FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


def commands(program: str) -> Iterator[str]:
    """All lines of cards and pages that call a program, without the template's own signs."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            if line.startswith(f"{program} "):  # in a block of commands
                yield re.sub(r"{{.*?}}", "X", re.sub(r"{%.*?%}", "", line))


def flags_of(program: str) -> set[str]:
    found = {flag for line in commands(program) for flag in _FLAG.findall(line)}
    assert found, f"no page calls {program} with a flag"
    return found


def test_llama_cpp_knows_the_flags_of_its_commands() -> None:
    (library,) = Path(xllamacpp.__file__).parent.glob("*.so")
    flags = flags_of("llama-server") | set(_LLAMA.values())
    assert {"-m", "-c", "--mmproj", "--reasoning", "--temp", "--top-k"} <= flags
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        known = {flag.decode() for flag in re.findall(rb"\0(--?[a-z][\w-]*)(?=\0)", text)}
    assert flags <= known and 200 < len(known) < 2000


def test_mlx_lm_takes_its_command() -> None:
    from mlx_lm.generate import setup_arg_parser

    found = [shlex.split(line)[1:] for line in commands("mlx_lm.generate")]
    assert found
    for words in found:
        parsed = setup_arg_parser().parse_args(words)
        assert parsed.model and parsed.prompt


def test_the_hubs_client_takes_its_command() -> None:
    from huggingface_hub.cli.hf import app

    download = app.commands["download"].materialize()
    known = {flag for option in download.params for flag in option.opts}
    assert {"--local-dir", "--include"} <= flags_of("hf") <= known


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_vllm_knows_the_parsers_of_families(family: Any) -> None:
    for row in family.vllm:
        assert row.tool_call is None or row.tool_call in NOTED["vllm"]["tool_call_parsers"]
        assert row.reasoning is None or row.reasoning in NOTED["vllm"]["reasoning_parsers"]


def test_vllm_and_ollama_are_called_as_is_noted_of_them() -> None:
    assert flags_of("vllm") <= set(NOTED["vllm"]["flags"])
    calls = list(commands("ollama"))
    assert {line.split()[1] for line in calls} == {"create", "run"}
    for line in calls:
        assert set(_FLAG.findall(line)) <= set(NOTED["ollama"][line.split()[1]])
