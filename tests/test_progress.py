"""How far long work is: lines for a log, and the words that bars and lines share."""

from __future__ import annotations

from secateur.cli.progress import LogLines, describe, show_time


def test_a_line_at_begin_and_end_and_now_and_then_between() -> None:
    lines: list[str] = []
    now = 0.0
    log = LogLines(lines.append, lambda: now)
    for percent in range(101):
        now = percent * 1.0
        log("calibrate", percent * 10, 1000, "tokens")
    assert lines[0] == "[calibrate] begins (1,000 tokens)"
    assert lines[1] == "[calibrate] 5 %, 50 of 1,000 tokens, 10 tokens/s, 0:05, 1:35 left"
    assert lines[-1] == "[calibrate] 100 %, 1,000 of 1,000 tokens, 10 tokens/s, 1:40"
    assert len(lines) == 21


def test_quick_work_is_two_lines_and_slow_work_says_that_it_lives() -> None:
    lines: list[str] = []
    now = 0.0
    log = LogLines(lines.append, lambda: now)
    for done in range(11):
        now = done * 0.01
        log("verify", done, 10, "bytes")
    assert len(lines) == 2
    lines.clear()
    for done in (0, 1, 2):
        now = 100 + done * 31.0
        log("answers", done, 1000, "answers")
    assert len(lines) == 3
    log("verify", 10, 10, "bytes")
    assert len(lines) == 3


def test_the_unit_is_said_once() -> None:
    said = describe(3932, 3932, "tokens", 2.0)
    assert said == "100 %, 3,932 of 3,932 tokens, 1,966 tokens/s, 0:02"
    assert describe(5 * 10**8, 10**9, "bytes", 10.0).startswith("50 %, 500.00 MB of 1.00 GB, 50.00")
    assert describe(0, 1, "", 3.0) == "0:03"
    assert show_time(18245) == "5:04:05"
