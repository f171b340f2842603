"""What a stranger wrote is shown on a terminal, and obeyed by none."""

from __future__ import annotations

import io
import json
import logging

import pytest

from secateur.cli.plain_text import plain_text
from secateur.cli.render.table import Table, print_on_terminal
from secateur.cli.talk import Screen
from secateur.cli.terminal import exit_with, note, show

EVIL = "a\x1b]52;c;cm0gLXJmIC8=\x07b\x1b[2J\rc\x9b31md\x7f\x08e\ud800"
"""Writes to the clipboard, clears the screen, goes back over what stands there."""


class Terminal(io.StringIO):
    """Where answers go, colours allowed."""

    def isatty(self) -> bool:
        return True


def is_harmless(text: str) -> bool:
    codes = {ord(sign) for sign in text}
    return not codes & ({*range(0x20), 0x7F, *range(0x80, 0xA0)} - {0x0A, 0x09})


def test_controls_become_pictures() -> None:
    assert plain_text(EVIL) == "a␛]52;c;cm0gLXJmIC8=␇b␛[2J␍c\ufffd31md␡␈e\ufffd"
    assert plain_text("tab\tand line\nstay, and so do ümläute, 漢字 and \U0001f600") == (
        "tab\tand line\nstay, and so do ümläute, 漢字 and \U0001f600"
    )


@pytest.mark.parametrize("kind", ["answer", "thought"])
def test_a_reply_in_chat(kind: str) -> None:
    screen = Screen(plain := io.StringIO(), thoughts=True)
    screen.name(EVIL)
    screen.piece(kind, EVIL[:5])  # type: ignore[arg-type]
    screen.piece(kind, EVIL[5:])  # type: ignore[arg-type]
    screen.end(EVIL)
    assert is_harmless(plain.getvalue())
    screen = Screen(coloured := Terminal())
    screen.piece(kind, EVIL)  # type: ignore[arg-type]
    ours = coloured.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert is_harmless(ours) and "␛[2J" in ours


def test_results_errors_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    show({"name": EVIL}, [EVIL, Table(("a",), ((EVIL,),))], as_json=False)
    shown = capsys.readouterr().out
    show({"name": EVIL}, [], as_json=True)
    document = capsys.readouterr().out
    assert is_harmless(document) and json.loads(document) == {"name": EVIL}  # and nothing is lost
    print_on_terminal([EVIL, Table(("a", "b"), ((EVIL, "1"),))])
    note(EVIL)
    with pytest.raises(SystemExit):
        exit_with(EVIL, 2)
    printed = capsys.readouterr()
    printed_out = shown + printed.out
    assert is_harmless(printed_out) and is_harmless(printed.err)
    assert printed_out.count("c\ufffd31m") >= 4


def test_the_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.cli.terminal import set_detail

    monkeypatch.setenv("HF_TOKEN", "a-token-of-mine-1234")
    log = logging.getLogger("secateur")
    kept = log.handlers, log.propagate, log.level
    try:
        set_detail(1, quiet=False)
        log.info("%s and a-token-of-mine-1234", EVIL)
    finally:
        log.handlers, log.propagate = kept[:2]
        log.setLevel(kept[2])
    said = capsys.readouterr().err
    assert is_harmless(said) and "and ***" in said
