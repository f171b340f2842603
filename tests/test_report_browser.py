"""report.html in a real browser, as a person meets it: on a phone and a desktop, by keyboard, read
aloud, in print, in grey. Run by `make browser`, which installs Chromium where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_asked_folder import answered, keep
from test_report_page import with_evidence

from secateur.release.evidence import ORIGINAL
from secateur.release.html.page import pictures_of, render_page
from secateur.release.results import Results, read_results

pytestmark = pytest.mark.slow

PHONE, DESKTOP = (390, 844), (1280, 900)
MISSING = "no Chromium is installed: run `make browser`, or `apt-get install chromium` as root"


@pytest.fixture(scope="module")
def results(made: Path) -> Results:
    return with_evidence(read_results(made))


@pytest.fixture(scope="module")
def page_file(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of picture, about three outputs."""
    from dataclasses import replace

    outputs = [replace(results, name=f"tiny-{number}") for number in (1, 2, 3)]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(outputs), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.fail(MISSING)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, page_file: Path) -> Iterator[Any]:
    """Opens the page: show(size, file=page, **context); fails when it asks for anything, or an
    error or a warning is written to the console."""
    contexts: list[Any] = []
    odd: list[str] = []

    def opened(size: tuple[int, int], file: Path = page_file, **words: Any) -> Any:
        address = file.as_uri()
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, offline=True, **words
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: odd.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: odd.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("request", lambda asked: odd.append(asked.url) if asked.url != address else None)
        page.goto(address)
        page.wait_for_selector("html[data-drawn]", timeout=120_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert odd == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(size: tuple[int, int], scheme: str, show: Any) -> None:
    page = show(size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.drawn") == scheme
    assert page.evaluate("innerWidth") == size[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    cut = page.evaluate(
        """() => Array.from(document.querySelectorAll('.picture svg')).filter(svg => {
             const box = svg.getBoundingClientRect(), place = svg.closest('.scroll');
             return box.width > place.scrollWidth + 1 || box.width < 250;
        }).length"""
    )
    assert cut == 0


def test_the_page_of_a_servers_answers_is_read_in_the_same_ways(tmp_path: Path, show: Any) -> None:
    kept = keep(tmp_path / "kept", answered("model", 1, 9), answered(ORIGINAL, 5, 9))
    page = show(PHONE, kept / "report.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    images = page.locator(".picture[role=img]")
    assert images.count() == page.locator(".picture svg").count() == 2
    labels = [images.nth(number).get_attribute("aria-label") for number in range(2)]
    assert all(label and len(label) > 40 for label in labels)
    assert all("n = " in text for text in page.locator(".sample").all_inner_texts())
    tables = page.get_by_role("table")
    names = page.locator("[role=region][tabindex='0']")
    assert tables.count() >= 2 and names.count() >= 2  # wide tables scroll by the keyboard
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_every_picture_is_drawn_and_has_a_name(results: Results, show: Any) -> None:
    page = show(DESKTOP)
    expected = pictures_of([results])
    images = page.locator(".picture[role=img]")
    names = [images.nth(number).get_attribute("aria-label") for number in range(images.count())]
    assert len(names) >= len(expected)
    assert all(name and len(name) > 40 for name in names)
    assert page.locator(".picture svg").count() == len(names)
    marks = page.evaluate(
        """() => Array.from(document.querySelectorAll('.picture svg'))
                      .map(svg => svg.querySelectorAll('.role-mark path').length)"""
    )
    assert min(marks) > 0
    for picture in expected:
        if picture.name.startswith(("size", "diver")):
            assert page.get_by_role("heading", name=picture.title, exact=True).count() == 1


def test_the_keyboard_reaches_and_opens_every_table(show: Any) -> None:
    page = show(PHONE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    details = page.locator("figure details")
    wanted, opened = details.count(), 0
    assert wanted > 5
    for _ in range(40 * wanted):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('figure summary')"):
            page.keyboard.press("Enter")
            opened += 1
        if opened == wanted:
            break
    assert page.locator("figure details[open]").count() == wanted
    tables = page.locator("figure details table")
    assert tables.count() == wanted
    assert all(tables.nth(number).locator("caption").inner_text() for number in range(wanted))
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_it_prints_on_white_without_what_only_a_screen_needs(show: Any) -> None:
    page = show(DESKTOP, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_selector("html[data-drawn=light]", timeout=60_000)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.locator(".picture svg").first.is_visible()
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_in_grey_dropped_experts_and_scores_can_be_told_apart(show: Any) -> None:
    """What is dropped has a line through it; the shades of the scale differ in lightness alone."""
    page = show(DESKTOP)
    strokes, fills = page.evaluate(
        """() => {
          const map = document.querySelector('[data-picture^="experts"]');
          const lines = map.querySelectorAll('.mark-rule.role-mark line').length;
          const shades = Array.from(map.querySelectorAll('.mark-rect.role-mark path'))
              .map(cell => getComputedStyle(cell).fill);
          return [lines, shades];
        }"""
    )
    dropped = page.evaluate(
        """() => JSON.parse(document.querySelector('[id^="spec-experts"]').textContent)
                     .datasets.rows.filter(row => row.dropped).length"""
    )
    assert dropped > 0 and strokes == 2 * dropped
    amounts = page.evaluate(
        """() => JSON.parse(document.querySelector('[id^="spec-experts"]').textContent)
                     .datasets.rows.map(row => row.amount)"""
    )
    lightness = [_lightness(fill) for fill in fills]
    in_order = [light for _, light in sorted(zip(amounts, lightness, strict=True))]
    assert all(a >= b for a, b in zip(in_order, in_order[1:], strict=False))
    assert in_order[0] - in_order[-1] > 0.5


def _lightness(fill: str) -> float:
    """Relative luminance's root of `rgb(r, g, b)`, 0 to 1."""
    red, green, blue = (int(part) / 255 for part in fill[4:-1].split(","))
    return float((0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2) ** (1 / 2.2))
