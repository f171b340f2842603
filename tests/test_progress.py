"""How far long work is: lines for a log, and the words that bars and lines share."""

from __future__ import annotations

import pytest

from secateur.cli.progress import LogLines, Stage
from secateur.system.progress import Counter, no_progress
from secateur.system.stopwatch import Stopwatch, show_duration, show_time, timed


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


def test_no_silence_is_longer_than_half_a_minute() -> None:
    lines: list[str] = []
    now = 0.0
    log = LogLines(lines.append, lambda: now)
    log.break_silence()
    assert lines == []
    log("answers", 0, 1000, "tokens")
    for second in (10, 29, 31, 45, 62):
        now = float(second)
        log.break_silence()
    assert lines[1:] == [
        "[answers] 0 %, 0 of 1,000 tokens, 0:31",
        "[answers] 0 %, 0 of 1,000 tokens, 1:02",
    ]
    log("answers", 1000, 1000, "tokens")
    now += 40
    log.break_silence()
    assert lines[-1] == "[answers] ended 0:40 ago, working on"


def test_the_unit_is_said_once() -> None:
    said = Stage("layers", 0, 3932, 3932, "tokens", 2.0).sentence()
    assert said == "100 %, 3,932 of 3,932 tokens, 1,966 tokens/s, 0:02"
    half = Stage("write", 0, 5 * 10**8, 10**9, "bytes", 10.0).sentence()
    assert half == "50 %, 500.00 MB of 1.00 GB, 50.00 MB/s, 0:10, 0:10 left"
    assert Stage("load", 0, 0, 1, "", 3.0).sentence() == "0:03"
    assert show_time(18245) == "5:04:05"
    assert [show_duration(n) for n in (36.6, 178, 18245)] == ["37 s", "2 min 58 s", "5 h 4 min"]


def test_a_stopwatch_knows_how_long_each_stage_took() -> None:
    now, told = [0.0], []
    watch = Stopwatch(lambda *words: told.append(words), "typed", lambda: now[0])
    for seconds, stage in ((1, "a"), (2, "b"), (4, "a"), (8, "a"), (16, "b")):
        now[0] = seconds
        watch(stage, 1, 2, "tokens")
    assert watch.seconds == {"a": 7, "b": 14}
    assert watch.total == 16
    assert told[0] == ("a", 1, 2, "tokens")
    assert timed(watch) is watch
    assert timed(no_progress).command == ""


def test_what_an_interrupted_run_has_done_counts_for_the_share_but_not_for_the_rate() -> None:
    resumed = Stage("answers", 500, 600, 1000, "tokens", 10.0)
    assert resumed.sentence() == "60 %, 600 of 1,000 tokens, 10 tokens/s, 0:10, 0:40 left"


@pytest.mark.parametrize("width", [40, 60, 80, 110])
@pytest.mark.parametrize("name", ["calibrate", "gemma-4-26B-A4B-it-90e-Q4_K_M.gguf: hash weights"])
def test_a_bar_is_never_wider_than_the_terminal(width: int, name: str) -> None:
    stage = Stage(name, 0, 12_345_678, 45_000_000, "tokens", 18245.0)
    line = stage.line(width)
    assert len(line) <= width
    assert "27 %, " in line and line.endswith(", 5:04:05, 13:24:18 left")
    assert ("677 tokens/s" in line) == (width - len(name) > 40)
    assert (name in line) == (width >= 80 or name == "calibrate")
    if width == 110 and name == "calibrate":
        assert "12,345,678 of 45,000,000 tokens, 677 tokens/s" in line and "━━━━╌" in line
        assert "####-" in stage.line(width, plain=True)


def test_tokens_that_go_through_layers_are_counted_once() -> None:
    told: list[tuple[int, int]] = []
    count = Counter(lambda _, done, total, __: told.append((done, total)), "s", 10, "t", steps=30)
    for _ in range(3):
        count(4)
        count(6)
    assert told == [(done, 10) for done in (0, 1, 3, 4, 6, 8, 10)]
