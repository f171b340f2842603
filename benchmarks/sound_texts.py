"""Sound replies of many kinds, among them those that only look repetitive: tables, code, poems."""

from __future__ import annotations

import json
import random
import string

from failing_texts import _FOREIGN, foreign
from text_material import Maker, ask, passages, prose, sentence, word

from secateur.evaluation.robustness.detectors.base import Call, Exchange


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


SOUND: tuple[Maker, ...] = (
    plain_prose, plain_code, table, log, json_array, matrix, poem, bullets, counting, times_table,
    cases, accessors, tests, inserts, markup, noise, rules, schedule, emphatic, closed_thought,
    obedient, proofread, taken_up, translation, native, quoting, other_calls,
)  # fmt: skip


WHOLE = (closed_thought, obedient, proofread, taken_up, other_calls)
"""Sound replies that are not cut."""
