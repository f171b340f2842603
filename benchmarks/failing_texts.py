"""Replies that fail, of many kinds: loops, no answer, echoes, drift into another script."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from text_material import Maker, ask, passages, prose, sentence, word

from secateur.evaluation.robustness.detectors.base import Call, Exchange


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
