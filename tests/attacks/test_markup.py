"""Names of models, artefacts, kinds of text and notes cannot become a part of a page."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import CardError, FormatError
from secateur.release.card.facts import Fact
from secateur.release.card.shown import HOW, write
from secateur.release.html.page import render_page
from secateur.release.ollama.modelfile import Instruction, parse_modelfile, write_modelfile
from secateur.release.report import to_markdown
from secateur.release.results import Results, read_results

PAYLOADS = (
    "<script>window.owned=1</script>",
    "\"><img src=x onerror='window.owned=1'>",
    "</script></style></title><svg onload=window.owned=1>",
    "](javascript:window.owned=1) [x",
    "'-window.owned=1-'${window.owned=1}{{constructor.constructor('window.owned=1')()}}",
    "a.b[0]['c'] \\ datum.x \u2028 <!--",
)


def spoiled(results: Results, payload: str) -> Results:
    """The same results with a payload in the place of every name."""
    artefacts = tuple(
        replace(
            artefact,
            name=f"{payload}{number}",
            measurements=tuple(
                replace(one, domain=payload if one.domain == "sums" else one.domain)
                for one in artefact.measurements
            ),
        )
        for number, artefact in enumerate(results.report.artefacts)
    )
    made = {**results.report.made, "model": {**results.report.made["model"], "source": payload}}
    report = replace(
        results.report, original=payload, artefacts=artefacts, notes=(payload,), made=made
    )
    runs = tuple(replace(run, command=payload) for run in results.runs)
    return replace(results, name=payload, report=report, runs=runs)


class Shape(HTMLParser):
    """The elements of a page with the names of their attributes, and what stands in scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.addresses: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.addresses |= {str(value) for name, value in attrs if name in ("href", "src")}


@pytest.fixture(scope="module")
def results(made: Path) -> Results:
    return read_results(made)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_page_has_the_elements_that_it_has_without(payload: str, results: Results) -> None:
    plain = Shape(render_page([spoiled(results, "name")]))
    page = render_page([spoiled(results, payload)])
    found = Shape(page)
    assert found.tags == plain.tags
    assert all(address.startswith("#") for address in found.addresses)
    assert not any(name.startswith("on") for _, names in found.tags for name in names)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_report_in_markdown_holds_no_html(payload: str, results: Results) -> None:
    bad = spoiled(results, payload)
    text = to_markdown(bad.report, bad.runs)
    assert "\u2028" not in text
    # Code is shown as it is: blocks of it (a command), after an empty line, and spans of one line.
    said = re.sub(r"(?<=\n\n) {4}[^\n]*|`[^`\n]*`", "", text)
    for sign in ("<script", "<img", "<svg", "<!--", "</", "](java"):
        assert sign not in said


@pytest.mark.parametrize("payload", PAYLOADS[:3])
@pytest.mark.parametrize("how", ["text", "title", "key", "base name", "words of key", "code"])
def test_the_card_escapes_names_or_refuses_them(payload: str, how: str) -> None:
    fact = Fact("report.json", ("artefacts", f"`{payload}"), f"`{payload}")
    assert how in HOW
    try:
        shown = write(fact, how)
    except CardError as error:
        assert "\n" not in str(error)
        return
    assert "<" not in shown.replace("\\<", "")


def test_a_name_in_a_modelfile_is_no_instruction() -> None:
    for command, name, value in (
        ("parameter", "stop", 'a"\nSYSTEM evil'),
        ("from", "", "./a.gguf\nADAPTER /etc/passwd"),
        ("parameter", "stop", "a\rSYSTEM evil"),
        ("renderer", "", "x\nLICENSE evil"),
    ):
        with pytest.raises(FormatError, match="an instruction of its own"):
            write_modelfile([Instruction(command, value, name=name)], ())
    text = write_modelfile(
        [Instruction("from", "a"), Instruction("parameter", "<end>", name="stop")],
        ("a\nFROM evil",),
    )
    assert [one.command for one in parse_modelfile(text, "x").instructions] == ["from", "parameter"]


@pytest.mark.slow
def test_no_name_runs_in_a_browser(results: Results, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "no Chromium is installed: `make browser` installs it"
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for number, payload in enumerate(PAYLOADS):
            path = tmp_path / f"{number}.html"
            path.write_text(render_page([spoiled(results, payload)]), "utf-8")
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-drawn]")
            assert page.evaluate("window.owned") is None, payload
            page.close()
        browser.close()
