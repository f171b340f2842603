"""Gather gemmule's corpus and split it by document.

    python gemmule/corpus.py --work WORK [--seed 4]

Downloads the Debian packages named in `sources.py` below WORK, reads them and this environment's
Python packages, adds the documents that `arithmetic.py`, `tools.py` and `chat.py` make, and writes
WORK/corpus/{train,calibration,selection,test}.jsonl, one document per line:
{"id", "domain", "source", "messages", "tools"?} or {"id", "domain", "source", "text"}.
A source file (for generated text: a document) falls into one split, by the hash of its name.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import json
import random
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arithmetic
import chat
import sources
import tools

Record = dict[str, Any]
SPLITS = (("calibration", 0.025), ("selection", 0.02), ("test", 0.03))  # the rest is train
CHUNK = 1800  # characters of raw text in one document, about 500 tokens
CODE_LIMIT = 5_000_000  # characters taken of one code package

CONTINUE = (
    "Continue this text:\n\n{}",
    "Continue the following text.\n\n{}",
    "What comes next in this text?\n\n{}",
    "Please go on with this passage:\n\n{}",
    "Write the next paragraph.\n\n{}",
)
MEANING = (
    "What does {} mean?",
    "Define {}.",
    "What is the meaning of {}?",
    "Explain the word {}.",
    "{}: what is that?",
    "Give a definition of {}.",
)


def digest(value: Any) -> str:
    """Hash of a document's content, ignoring differences in white space."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def content(record: Record) -> Any:
    """What makes a document that document: its text, or its messages."""
    return record.get("text") or record["messages"]


def split_of(key: str) -> str:
    """The split of a source file or generated document, by the hash of its key."""
    at = int(digest(key)[:12], 16) / 16**12
    for name, share in SPLITS:
        if at < share:
            return name
        at -= share
    return "train"


def turns(*texts: str) -> list[dict[str, str]]:
    """Alternating user and assistant messages."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def _chunks(paragraphs: list[str], joint: str) -> Iterator[list[str]]:
    """Consecutive paragraphs of about CHUNK characters together."""
    held: list[str] = []
    for paragraph in paragraphs:
        if held and sum(map(len, held)) + len(paragraph) > CHUNK:
            yield held
            held = []
        pieces = [paragraph[i : i + 2 * CHUNK] for i in range(0, len(paragraph), 2 * CHUNK)]
        held += pieces if joint else [paragraph]
    if held:
        yield held


def prose_records(documents: Iterator[sources.Document], rng: random.Random) -> Iterator[Record]:
    """Raw chunks, and chunks whose beginning is the prompt and whose rest is the answer."""
    seen: set[str] = set()
    for document in documents:
        fresh = []
        for paragraph in document.paragraphs:
            key = digest(paragraph)
            if key not in seen or len(paragraph) < 60:
                fresh.append(paragraph)
            seen.add(key)
        for chunk in _chunks(fresh, "\n\n"):
            if sum(map(len, chunk)) < 200:
                continue
            cut = max(1, len(chunk) // 3)
            rest = "\n\n".join(chunk[cut:])
            base = {"domain": "prose", "source": document.source, "name": document.name}
            if rng.random() < 0.4 and len(rest) > 150:
                ask = rng.choice(CONTINUE).format("\n\n".join(chunk[:cut]))
                yield base | {"messages": turns(ask, rest)}
            else:
                yield base | {"text": "\n\n".join(chunk)}


def _entry(document: sources.Document) -> tuple[str, list[tuple[str, str]]]:
    """A dictionary line for a word, and the questions that it answers."""
    head, body = document.head, document.paragraphs[0]
    if document.source != "wordnet-base":
        return f"{head}: {body}", [("", body)]
    kind, alike, above, gloss = body.split("|", 3)
    examples = re.findall(r'"([^"]{12,})"', gloss)
    meaning = re.split(r'; *"', gloss)[0].strip(" ;")
    line = f"{head} ({kind}): {meaning}."
    answers = [("", f"{head} ({kind}) means: {meaning}.")]
    if alike:
        line += f" Also: {alike}."
        answers.append((f"Give a synonym of {head} in the sense of: {meaning}.", f"{alike}."))
    if above:
        line += f" A kind of {above}." if kind == "noun" else ""
        answers.append((f"What kind of thing is {head}?", f"It is a kind of {above}."))
    if examples:
        line += f' Example: "{examples[0]}"'
        answers.append((f"Use {head} in a sentence.", f'"{examples[0]}"'))
    return line, answers


def definition_records(
    documents: Iterator[sources.Document], rng: random.Random
) -> Iterator[Record]:
    """Pages of dictionary lines, and dialogues about meanings, of entries of one split."""
    shuffled = list(documents)
    rng.shuffle(shuffled)
    groups: dict[tuple[str, str], list[sources.Document]] = {}
    for document in shuffled:
        group = groups.setdefault((document.source, split_of(f"definitions/{document.head}")), [])
        group.append(document)
        if len(group) < rng.randrange(2, 8):
            continue
        base = {
            "domain": "definitions",
            "source": document.source,
            "split": split_of(f"definitions/{document.head}"),
        }
        entries = [(member, *_entry(member)) for member in group]
        group.clear()
        if rng.random() < 0.4:
            yield base | {"text": "\n".join(line for _, line, _ in entries)}
            continue
        texts: list[str] = []
        for member, _, answers in entries:
            texts += [rng.choice(MEANING).format(member.head), answers[0][1]]
            for ask, answer in answers[1:]:
                texts += [ask, answer] if rng.random() < 0.3 and ask else []
        yield base | {"messages": turns(*texts)}


def _functions(part: str) -> Iterator[tuple[str, str, str]]:
    """(signature with docstring, body, first sentence of the docstring) of documented functions."""
    for node in ast.walk(ast.parse(part)):
        if (
            not isinstance(node, ast.FunctionDef)
            or not isinstance(node.body[0], ast.Expr)
            or len(node.body) < 2
        ):
            continue
        about = ast.get_docstring(node) or ""
        lines = part.split("\n")[node.lineno - 1 : node.end_lineno]
        cut = (node.body[0].end_lineno or node.lineno) - node.lineno + 1
        text = textwrap.dedent("\n".join(lines)).split("\n")
        head, body = "\n".join(text[:cut]), "\n".join(text[cut:]).strip("\n")
        if about and 60 < len(body) < 1500 and len(head) < 1500:
            yield head, body, about.split("\n\n")[0].replace("\n", " ")


def code_records(documents: Iterator[sources.Document], rng: random.Random) -> Iterator[Record]:
    """Raw stretches of files, and single functions to complete, to write or to explain."""
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    shuffled = list(documents)
    rng.shuffle(shuffled)
    for document in shuffled:
        size = sum(map(len, document.paragraphs))
        if taken[document.source] + size > CODE_LIMIT:
            continue
        taken[document.source] += size
        base = {"domain": "code", "source": document.source, "name": document.name}
        fresh = [p for p in document.paragraphs if digest(p) not in seen]
        seen.update(map(digest, fresh))
        pieces = [piece for part in fresh for piece in _pieces(part)]
        for chunk in _chunks(pieces, ""):
            if sum(map(len, chunk)) > 150:
                yield base | {"text": "\n\n".join(chunk)}
        for part in fresh:
            for head, body, about in _functions(part):
                kind = rng.random()
                if kind < 0.3:
                    ask = rng.choice(
                        (
                            "Complete this function:",
                            "Write the body of this function.",
                            "Finish the code:",
                        )
                    )
                    yield base | {
                        "messages": turns(
                            f"{ask}\n```python\n{head}\n```", f"```python\n{body}\n```"
                        )
                    }
                elif kind < 0.38:
                    ask = rng.choice(
                        ("What does this code do?", "Explain this function in one sentence.")
                    )
                    yield base | {"messages": turns(f"{ask}\n```python\n{body}\n```", about)}


def _pieces(part: str) -> Iterator[str]:
    """A statement as it is, or a long one cut at blank lines."""
    held: list[str] = []
    for block in part.split("\n\n"):
        if held and sum(map(len, held)) + len(block) > CHUNK:
            yield "\n\n".join(held)
            held = []
        held.append(block)
    yield "\n\n".join(held)


def made_records(seed: int) -> Iterator[Record]:
    """Documents made by rule: chat form and raw form of arithmetic, tool use and dialogue."""
    plans: tuple[tuple[str, Callable[[random.Random], Record], int], ...] = (
        ("arithmetic", arithmetic.exercise, 36_000),
        ("arithmetic", arithmetic.worksheet, 9_000),
        ("tools", tools.session, 16_000),
        ("tools", tools.log, 6_000),
        ("chat", chat.dialogue, 30_000),
        ("chat", chat.transcript, 9_000),
    )
    for domain, maker, count in plans:
        rng = random.Random(f"{seed}/{domain}/{maker.__name__}")
        for _ in range(count):
            yield {"domain": domain, "source": f"gemmule/{domain}.py"} | maker(rng)


def build(work: Path, seed: int) -> Counter[tuple[str, str]]:
    """Write the splits; returns characters for each (split, domain)."""
    rng = random.Random(seed)
    src = work / "src"
    records = (
        prose_records(sources.prose(src), rng),
        definition_records(sources.definitions(src), rng),
        code_records(sources.code(), rng),
        made_records(seed),
    )
    folder = work / "corpus"
    folder.mkdir(exist_ok=True)
    names = ["train", *(name for name, _ in SPLITS)]
    files = {name: (folder / f"{name}.jsonl").open("w", encoding="utf-8") for name in names}
    home: dict[str, str] = {}
    size: Counter[tuple[str, str]] = Counter()
    for stream in records:
        for record in stream:
            key = digest(content(record))
            name = record.pop("name", None)
            split = record.pop("split", None) or split_of(
                f"{record['source']}/{name}" if name else key
            )
            if home.setdefault(key, split) != split or (key in home and size[("seen", key)]):
                continue
            size[("seen", key)] = 1
            row = {"id": f"{record['domain']}-{key[:12]}"} | record
            files[split].write(json.dumps(row, ensure_ascii=False) + "\n")
            size[(split, record["domain"])] += len(json.dumps(content(record), ensure_ascii=False))
    for file in files.values():
        file.close()
    return Counter({k: v for k, v in size.items() if k[0] != "seen"})


def main() -> None:
    """Build the corpus and print what it was built from."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=4)
    args = parser.parse_args()
    versions: dict[str, str] = sources.unpack_debian(args.work)
    for name in sources.CODE_PACKAGES:
        versions[name] = importlib.metadata.version(
            {"markdown_it": "markdown-it-py"}.get(name, name)
        )
    size = build(args.work, args.seed)
    hashes = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((args.work / "corpus").glob("*.jsonl"))
    }
    report = {
        "seed": args.seed,
        "versions": versions,
        "sha256": hashes,
        "characters": {f"{s}/{d}": n for (s, d), n in sorted(size.items())},
    }
    (args.work / "corpus" / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
