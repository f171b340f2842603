"""Replies whose label is known because of how they were made: loops of many kinds, and what only
looks like one. For benchmarks/loops.py and the tests.

Ordinary text is gemmule's test set (documents of prose, code and definitions); all else is composed
at random, the same for the same seed. Every kind has as many replies as are asked for; of those
that go on at length, every second one is cut at a random place as by a limit of tokens.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from secateur.checkpoint.hub import gemmule_folder
from secateur.evaluation.robustness.detectors.base import Call, Exchange

PROMPT = (
    "Please explain in your own words how the following works, step by step, and give an example "
    "for somebody who has never heard of it: a {} beside a {}."
)


@dataclass(frozen=True)
class Labelled:
    """A reply, the kind that it is of, and its label: a detector's group, or "" for sound.

    `also` is another group that it belongs to: a thought that loops until the limit has no answer.
    """

    kind: str
    label: str
    exchange: Exchange
    also: str = ""


Maker = Callable[[random.Random], Exchange]


@cache
def passages() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Real text of about 150 words or more: (prose and definitions, code)."""
    prose, code = [], []
    path = gemmule_folder() / "sets" / "test.jsonl"
    for record in map(json.loads, path.read_text("utf-8").splitlines()):
        text = record.get("text") or record["messages"][-1]["content"]
        if record["domain"] in ("prose", "definitions", "code") and len(text.split()) >= 60:
            (code if record["domain"] == "code" else prose).append(text)
    return tuple(prose), tuple(code)


def prose(chance: random.Random, words: int) -> str:
    """About so many words of real prose, from one place after another, none of them twice."""
    found: list[str] = []
    for text in chance.sample(passages()[0], len(passages()[0])):
        parts = text.split(" ")
        at = chance.randrange(max(1, len(parts) - 60))
        found += parts[at : at + 60]
        if len(found) >= words:
            break
    return " ".join(found[:words])


def sentence(chance: random.Random, least: int, most: int) -> str:
    words = prose(chance, chance.randint(least, most)).replace(".", "").split()
    return " ".join(words).capitalize() + chance.choice([". ", ".\n", "! ", ".\n\n"])


def word(chance: random.Random) -> str:
    return next((w for w in prose(chance, 40).split() if w.isalpha() and len(w) > 2), "again")


def ask(chance: random.Random) -> str:
    return PROMPT.format(word(chance), word(chance))


def cut(chance: random.Random, exchange: Exchange) -> Exchange:
    """The same, in every second case cut in its last two thirds, as by a limit of tokens."""
    text = exchange.content
    if chance.random() < 0.5 or len(text) < 300:
        return exchange
    return replace(
        exchange, content=text[: chance.randint(len(text) // 3, len(text))], finish="length"
    )


# --- loops -------------------------------------------------------------------------------------


def _loop(chance: random.Random, unit: str, copies: int, start: int = 40) -> Exchange:
    """Prose that comes into copies of a unit and is cut within one."""
    text = prose(chance, chance.randint(5, start)) + " " + unit * copies
    text = text[: len(text) - chance.randrange(len(unit))]
    return Exchange(ask(chance), text, finish=chance.choice(["length", "length", "stop"]))


def word_run(chance: random.Random) -> Exchange:
    return _loop(chance, word(chance) + " ", chance.randint(25, 300))


def mark_run(chance: random.Random) -> Exchange:
    return _loop(chance, chance.choice("!?.*#=0a~") * 16, chance.randint(25, 120))


def phrase_loop(chance: random.Random) -> Exchange:
    unit = " ".join(word(chance) for _ in range(chance.randint(2, 6))) + chance.choice([" ", ", "])
    return _loop(chance, unit, chance.randint(12, 80))


def sentence_loop(chance: random.Random) -> Exchange:
    return _loop(chance, sentence(chance, 7, 25), chance.randint(5, 40))


def paragraph_loop(chance: random.Random) -> Exchange:
    return _loop(chance, prose(chance, chance.randint(50, 140)) + "\n\n", chance.randint(4, 9))


def code_loop(chance: random.Random) -> Exchange:
    lines = chance.choice(passages()[1]).splitlines()
    at = chance.randrange(max(1, len(lines) - 4))
    unit = "\n".join(line for line in lines[at : at + chance.randint(1, 4)] if line.strip())
    return _loop(chance, (unit or "return None") + "\n", chance.randint(14, 40))


def two_sided_loop(chance: random.Random) -> Exchange:
    first, second = sentence(chance, 6, 14), sentence(chance, 6, 14)
    return _loop(chance, f"A: {first}B: {second}", chance.randint(5, 20))


def row_loop(chance: random.Random) -> Exchange:
    row = "| " + " | ".join(word(chance) for _ in range(4)) + " |\n"
    return _loop(chance, row, chance.randint(12, 60))


def spaceless_loop(chance: random.Random) -> Exchange:
    unit = "".join(chr(chance.randrange(0x4E00, 0x9FA0)) for _ in range(chance.randint(4, 24)))
    start = "".join(chr(chance.randrange(0x4E00, 0x9FA0)) for _ in range(40))
    text = start + (unit + "。") * chance.randint(12, 40)
    return Exchange(start[20:] + start[:20], text[: -chance.randint(1, 4)], finish="length")


def numbered_loop(chance: random.Random) -> Exchange:
    unit, name = sentence(chance, 9, 20).strip(), chance.choice(["Step", "Attempt", "Check"])
    steps = "".join(f"{name} {n}: {unit}\n" for n in range(1, chance.randint(20, 60)))
    return Exchange(ask(chance), steps[: -chance.randint(1, len(unit))], finish="length")


def thought_loop(chance: random.Random) -> Exchange:
    unit = chance.choice(["Wait, ", "Hmm, ", "Let me check. ", "But "]) + sentence(chance, 8, 30)
    return Exchange(
        ask(chance), "", prose(chance, 30) + unit * chance.randint(6, 30), finish="length"
    )


def thought_loop_answered(chance: random.Random) -> Exchange:
    """The thought went in circles until its budget ended, then came an answer."""
    return replace(thought_loop(chance), content=prose(chance, 40), finish="stop")


def varied_loop(chance: random.Random) -> Exchange:
    """Copies of three sentences in each of which one word is another."""
    words = "".join(sentence(chance, 9, 16) for _ in range(3)).split(" ")
    copies = []
    for _ in range(chance.randint(8, 20)):
        copy = list(words)
        copy[chance.randrange(len(copy))] = word(chance)
        copies.append(" ".join(copy))
    return Exchange(ask(chance), prose(chance, 20) + " ".join(copies), finish="length")


def shuffled_loop(chance: random.Random) -> Exchange:
    """The same four sentences in any order, without an end."""
    units = [sentence(chance, 10, 20) for _ in range(4)]
    text = "".join(chance.choice(units) for _ in range(chance.randint(20, 50)))
    return Exchange(ask(chance), prose(chance, 20) + text, finish="length")


def left_loop(chance: random.Random) -> Exchange:
    """A loop that the model got out of: ordinary text follows."""
    unit = sentence(chance, 8, 20)
    text = prose(chance, 30) + unit * chance.randint(12, 30) + prose(chance, 60)
    return Exchange(ask(chance), text)


def repeated_calls(chance: random.Random) -> Exchange:
    call = Call("search", json.dumps({"query": word(chance), "limit": chance.randint(1, 9)}))
    if chance.random() < 0.5:
        return Exchange(
            ask(chance), calls=(call,), earlier_calls=(call,) * chance.randint(2, 6),
            finish="tool_calls",
        )  # fmt: skip
    return Exchange(ask(chance), calls=(call,) * chance.randint(3, 200), finish="tool_calls")


# --- no answer, echo, drift -----------------------------------------------------------------


def empty(chance: random.Random) -> Exchange:
    return Exchange(ask(chance), chance.choice(["", " ", "\n\n", "\n" * 8]))


def unclosed(chance: random.Random) -> Exchange:
    return Exchange(ask(chance), "", prose(chance, chance.randint(20, 300)))


def endless(chance: random.Random) -> Exchange:
    return Exchange(ask(chance), "", prose(chance, chance.randint(300, 600)), finish="length")


def echo(chance: random.Random) -> Exchange:
    prompt = ask(chance) + chance.choice(["", "\n\n" + prose(chance, 60)])
    before = chance.choice(["", "user\n", "Question: ", "> "])
    after = chance.choice(["", "\n" + prompt, "\n\n" + prose(chance, 40)])
    return Exchange(prompt, before + prompt + after)


_FOREIGN = {
    "cyrillic": (0x430, 0x44F),
    "arabic": (0x627, 0x64A),
    "chinese": (0x4E00, 0x9FA0),
    "devanagari": (0x905, 0x939),
    "hangul": (0xAC00, 0xD7A3),
    "thai": (0xE01, 0xE2E),
}


def foreign(chance: random.Random, words: int, script: str | None = None) -> str:
    found = []
    for _ in range(words):
        low, high = _FOREIGN[script or chance.choice(list(_FOREIGN))]
        found.append("".join(chr(chance.randint(low, high)) for _ in range(chance.randint(2, 8))))
    return " ".join(found)


def drift(chance: random.Random) -> Exchange:
    script = chance.choice(list(_FOREIGN))
    text = prose(chance, chance.randint(0, 80)) + " " + foreign(chance, 60, script)
    return Exchange(ask(chance), text + chance.choice(["", " " + prose(chance, 30)]))


def soup(chance: random.Random) -> Exchange:
    """Words of any script and none."""
    words = [foreign(chance, 1) if chance.random() < 0.75 else word(chance) for _ in range(80)]
    return Exchange(ask(chance), prose(chance, 20) + " " + " ".join(words), finish="length")


def drift_to_latin(chance: random.Random) -> Exchange:
    script = chance.choice(["cyrillic", "arabic", "devanagari"])
    text = foreign(chance, 30, script) + " " + prose(chance, 80)
    return Exchange(foreign(chance, 20, script), text)


# --- what only looks repetitive, is cut, or is short ------------------------------------------


def plain_prose(chance: random.Random) -> Exchange:
    return Exchange(ask(chance), prose(chance, chance.randint(20, 600)))


def plain_code(chance: random.Random) -> Exchange:
    return Exchange(ask(chance), "```\n" + chance.choice(passages()[1]) + "\n```")


def table(chance: random.Random) -> Exchange:
    columns = chance.randint(3, 6)
    head = "| " + " | ".join(word(chance) for _ in range(columns)) + " |\n"
    rule = "|" + "|".join(["-" * chance.randint(3, 30)] * columns) + "|\n"
    values = [word(chance) for _ in range(5)] + ["yes", "no", "-", "0", "1.5", "n/a"]
    rows = (
        f"| {n} | " + " | ".join(chance.choice(values) for _ in range(columns - 1)) + " |\n"
        for n in range(chance.randint(8, 40))
    )
    return Exchange(ask(chance), head + rule + "".join(rows))


def log(chance: random.Random) -> Exchange:
    events = [sentence(chance, 3, 7).strip() for _ in range(4)] + ["connection closed", "ok"]
    lines = (
        f"2026-11-{n % 28 + 1:02} 12:{chance.randrange(60):02}:{chance.randrange(60):02} "
        f"{chance.choice(['INFO', 'INFO', 'WARN'])} worker-{chance.randrange(8)} "
        f"{chance.choice(events)} ({chance.randrange(900)} ms)"
        for n in range(chance.randint(15, 60))
    )
    return Exchange(ask(chance), "\n".join(lines))


def json_array(chance: random.Random) -> Exchange:
    keys = [word(chance).lower() for _ in range(4)]
    items = [
        {key: chance.choice([n, word(chance), n % 2 == 0, None]) for key in keys}
        for n in range(chance.randint(6, 30))
    ]
    return Exchange(ask(chance), json.dumps(items, indent=chance.choice([None, 2])))


def matrix(chance: random.Random) -> Exchange:
    size = chance.randint(4, 12)
    rows = ([int(i == j) * chance.randint(1, 9) for j in range(size)] for i in range(size))
    text = "Here is the matrix:\n\n" + ",\n".join(map(str, rows))
    return Exchange(ask(chance), text + "\n\n" + prose(chance, 25))


def poem(chance: random.Random) -> Exchange:
    refrain = [sentence(chance, 5, 8).strip() for _ in range(chance.randint(1, 4))]
    verses = (
        "\n".join([*(sentence(chance, 5, 8).strip() for _ in range(4)), *refrain])
        for _ in range(chance.randint(4, 9))
    )
    return Exchange(ask(chance), "\n\n".join(verses))


def bullets(chance: random.Random) -> Exchange:
    mark, start = chance.choice(["- ", "* ", "{}. "]), chance.choice(["", "The ", "A kind of "])
    items = (
        mark.format(n) + start + sentence(chance, 1, 9).strip()
        for n in range(1, chance.randint(20, 100))
    )
    return Exchange(ask(chance), "\n".join(items))


def counting(chance: random.Random) -> Exchange:
    joint = chance.choice(["\n", ", ", " ", "\n\n"])
    step = chance.choice([1, 2, 5, 10])
    return Exchange(
        ask(chance), joint.join(str(n * step) for n in range(1, chance.randint(50, 500)))
    )


def times_table(chance: random.Random) -> Exchange:
    lines = (f"{a} x {b} = {a * b}" for a in range(2, chance.randint(5, 13)) for b in range(1, 11))
    return Exchange(ask(chance), "\n".join(lines))


def cases(chance: random.Random) -> Exchange:
    """A proof by cases, in words that recur."""
    number = chance.randint(800, 9000)
    lines = (
        f"Is {number} divisible by {n}? {n} times {number // n} is {number // n * n}, so "
        + ("yes." if number % n == 0 else f"no, {number % n} is left.")
        for n in range(2, chance.randint(10, 24))
    )
    return Exchange(ask(chance), "\n".join(lines) + "\n" + prose(chance, 20))


def accessors(chance: random.Random) -> Exchange:
    """Code that is repetitive by nature."""
    names = [word(chance).lower() for _ in range(chance.randint(5, 14))]
    text = "\n\n".join(
        f"    def get_{name}(self) -> str:\n        return self._{name}\n\n"
        f"    def set_{name}(self, value: str) -> None:\n        self._{name} = value"
        for name in names
    )
    return Exchange(ask(chance), f"class {names[0].title()}:\n{text}\n")


def tests(chance: random.Random) -> Exchange:
    text = "\n\n".join(
        f"def test_{word(chance).lower()}_{n}():\n    assert parse({word(chance)!r}) == "
        f"{chance.randint(0, 99)}\n    assert parse('') is None"
        for n in range(chance.randint(6, 16))
    )
    return Exchange(ask(chance), text)


def inserts(chance: random.Random) -> Exchange:
    lines = (
        f"INSERT INTO items (id, name, price) VALUES ({n}, '{word(chance)}', "
        f"{chance.randint(1, 99)}.99);"
        for n in range(chance.randint(8, 40))
    )
    return Exchange(ask(chance), "\n".join(lines))


def markup(chance: random.Random) -> Exchange:
    items = "\n".join(
        f'  <li class="item"><a href="/{word(chance)}">{sentence(chance, 1, 4).strip()}</a></li>'
        for _ in range(chance.randint(8, 30))
    )
    return Exchange(ask(chance), f"<ul>\n{items}\n</ul>")


def noise(chance: random.Random) -> Exchange:
    """Sequences without words: DNA, base64, a hash."""
    letters = chance.choice(
        ["ACGT", string.ascii_letters + string.digits + "+/", "0123456789abcdef"]
    )
    return Exchange(
        ask(chance),
        "Here it is: " + "".join(chance.choice(letters) for _ in range(chance.randint(200, 1500))),
    )


def rules(chance: random.Random) -> Exchange:
    """Headings with rules under them, and a drawing."""
    parts = (
        f"{sentence(chance, 2, 5).strip()}\n{chance.choice('=-*_') * chance.randint(20, 120)}\n"
        f"{prose(chance, 40)}\n"
        for _ in range(4)
    )
    return Exchange(ask(chance), "\n".join(parts))


def schedule(chance: random.Random) -> Exchange:
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    meal = [sentence(chance, 3, 6).strip() for _ in range(6)]
    lines = (
        f"**Week {week}, {day}**\n- Lunch: {chance.choice(meal)}\n- Dinner: {chance.choice(meal)}"
        for week in range(1, chance.randint(2, 4))
        for day in days
    )
    return Exchange(ask(chance), "\n".join(lines))


def emphatic(chance: random.Random) -> Exchange:
    """A word said a few times over, and a row of marks."""
    shout = (word(chance) + " ") * chance.randint(3, 8)
    text = prose(chance, 60) + " " + shout + "!" * chance.randint(1, 12) + " " + prose(chance, 60)
    return Exchange(ask(chance), text)


def closed_thought(chance: random.Random) -> Exchange:
    return Exchange(ask(chance), prose(chance, 60), prose(chance, chance.randint(20, 300)))


def obedient(chance: random.Random) -> Exchange:
    """It was asked for twelve copies and gives them."""
    said = sentence(chance, 4, 9).strip()
    prompt = f'Write the sentence "{said}" exactly 12 times, one a line. Then write END.'
    return Exchange(prompt, (said + "\n") * 12 + chance.choice(["END", ""]), copies=12)


def proofread(chance: random.Random) -> Exchange:
    text = prose(chance, 120)
    words = text.split(" ")
    words[chance.randrange(len(words))] = word(chance)
    prompt = f"Please correct the spelling of this text, and change nothing else:\n\n{text}"
    return Exchange(prompt, " ".join(words))


def taken_up(chance: random.Random) -> Exchange:
    """An answer that begins in the words of the question."""
    prompt = ask(chance)
    return Exchange(prompt, " ".join(prompt.split()[:9]) + " means: " + prose(chance, 50))


def translation(chance: random.Random) -> Exchange:
    prompt = f"Translate into Russian:\n\n{prose(chance, 40)}"
    return Exchange(prompt, foreign(chance, 40, "cyrillic"))


def native(chance: random.Random) -> Exchange:
    """A foreign prompt with code, answered in its own script with code."""
    script = chance.choice(list(_FOREIGN))
    code = "\n```\n" + chance.choice(passages()[1])[:400] + "\n```\n"
    answer = foreign(chance, 40, script) + code + foreign(chance, 30, script)
    return Exchange(foreign(chance, 20, script) + code, answer)


def quoting(chance: random.Random) -> Exchange:
    """English about foreign words."""
    parts = (prose(chance, 25) + f" ({foreign(chance, 2)}) " for _ in range(5))
    return Exchange(ask(chance), "".join(parts))


def other_calls(chance: random.Random) -> Exchange:
    """Different calls, and one that is tried once more."""
    calls = [Call("search", json.dumps({"query": word(chance) + str(n)})) for n in range(6)]
    return Exchange(ask(chance), calls=(*calls, calls[-1]), finish="tool_calls")


LOOPS: tuple[Maker, ...] = (
    word_run, mark_run, phrase_loop, sentence_loop, paragraph_loop, code_loop, two_sided_loop,
    row_loop, spaceless_loop, numbered_loop, thought_loop, thought_loop_answered, varied_loop,
    shuffled_loop, left_loop, repeated_calls,
)  # fmt: skip
OTHERS: dict[str, tuple[Maker, ...]] = {
    "no_answer": (empty, unclosed, endless),
    "echo": (echo,),
    "drift": (drift, soup, drift_to_latin),
}
SOUND: tuple[Maker, ...] = (
    plain_prose, plain_code, table, log, json_array, matrix, poem, bullets, counting, times_table,
    cases, accessors, tests, inserts, markup, noise, rules, schedule, emphatic, closed_thought,
    obedient, proofread, taken_up, translation, native, quoting, other_calls,
)  # fmt: skip
WHOLE = (closed_thought, obedient, proofread, taken_up, other_calls)
"""Sound replies that are not cut."""


def labelled(each: int, seed: int = 0) -> Iterator[Labelled]:
    """`each` replies of every kind."""
    groups = {"loop": LOOPS, **OTHERS, "": SOUND}
    for label, makers in groups.items():
        for make in makers:
            for number in range(each):
                chance = random.Random(f"{seed}/{make.__name__}/{number}")
                exchange = make(chance)
                if not label and make not in WHOLE:
                    exchange = cut(chance, exchange)
                also = "no_answer" if make is thought_loop else ""
                yield Labelled(make.__name__, label, exchange, also)
