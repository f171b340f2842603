"""Read gemmule's freely licensed text sources into documents.

Every source is something a machine installs by package name: Debian packages, unpacked beside the
training run and never installed, and the Python of this environment. A reader yields `Document`s;
what becomes of them (chunks, chat turns, splits) is decided in `corpus.py`.
"""

from __future__ import annotations

import ast
import gzip
import re
import subprocess
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

DEBIAN_PACKAGES = {
    "postgresql-doc-15": "PostgreSQL licence",
    "rust-doc": "MIT or Apache-2.0",
    "python3.11-doc": "PSF-2.0",
    "sqlite3-doc": "public domain",
    "r-cran-janeaustenr": "text in the public domain (packaging MIT)",
    "wordnet-base": "WordNet 3.0 licence",
    "dict-jargon": "public domain",
}

CODE_PACKAGES = {
    "sympy": "BSD-3-Clause",
    "networkx": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "click": "BSD-3-Clause",
    "rich": "MIT",
    "pydantic": "MIT",
    "markdown_it": "MIT",
    "fsspec": "BSD-3-Clause",
    "huggingface_hub": "Apache-2.0",
    "torch": "BSD-3-Clause",
}


@dataclass(frozen=True)
class Document:
    """One text with the unit by which it may be split: two documents never share a source file.

    `paragraphs` are in reading order. For code each is one top-level statement; for definitions
    there is exactly one, and `head` is the word that is explained.
    """

    domain: str
    source: str
    name: str
    paragraphs: tuple[str, ...]
    head: str = ""


def unpack_debian(work: Path) -> dict[str, str]:
    """Download and unpack every Debian package below `work`; returns name to version."""
    versions = {}
    debs = work / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN_PACKAGES:
        if not list(debs.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", name], cwd=debs, check=True)
        deb = next(iter(debs.glob(f"{name}_*.deb")))
        root = work / "src" / name
        if not root.exists():
            root.parent.mkdir(exist_ok=True)  # dpkg makes the last folder only
            subprocess.run(["dpkg", "-x", deb, root], check=True)
        versions[name] = subprocess.run(
            ["dpkg-deb", "-f", deb, "Version"], check=True, capture_output=True, text=True
        ).stdout.strip()
    return versions


class _Paragraphs(HTMLParser):
    """Collects the text of paragraph-like elements, without navigation, tables and listings."""

    KEEP = {"p", "dd", "h1", "h2", "h3", "h4"}
    SKIP = {"script", "style", "nav", "table", "pre", "svg", "footer", "button", "form"}
    SKIP_CLASS = (
        "nav",
        "menu",
        "sphinxsidebar",
        "footer",
        "related",
        "toc",
        "search",
        "headerlink",
    )
    VOID = {"br", "img", "meta", "link", "input", "hr", "col", "wbr", "area", "base"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self._text: list[str] = []
        self._skip: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        if self._skip:
            if tag == self._skip[-1]:
                self._skip.append(tag)
            return
        classes = dict(attrs).get("class") or ""
        if tag in self.SKIP or any(word in classes for word in self.SKIP_CLASS):
            self._skip.append(tag)
        elif tag in self.KEEP:
            self._flush()
            self._open = True
        elif tag in {"li", "div", "ul", "ol", "dl", "dt"}:
            self._flush()
            self._open = tag == "li"

    def handle_endtag(self, tag: str) -> None:
        if self._skip:
            if tag == self._skip[-1]:
                self._skip.pop()
            return
        if tag in self.KEEP or tag in {"li", "div", "ul", "ol", "dl", "body"}:
            self._flush()

    def handle_data(self, data: str) -> None:
        if self._open and not self._skip:
            self._text.append(data)

    def _flush(self) -> None:
        text = clean(" ".join("".join(self._text).split()))
        self._text.clear()
        self._open = False
        if len(text) >= 40:
            self.out.append(text)


def clean(text: str) -> str:
    """Fold typographic characters that a 4096-token vocabulary would have to spell as bytes."""
    table: dict[str, str | int | None] = {
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "—": " - ",
        "–": "-",
        "…": "...",
        "¶": "",
        "\u00a0": " ",
        "\u200b": "",
        "™": "(TM)",
        "•": "*",
        "→": "->",
        "×": "x",
        "\u00ad": "",
    }
    return re.sub(" {2,}", " ", text.translate(str.maketrans(table))).strip()


def _html(root: Path, source: str, folders: tuple[str, ...]) -> Iterator[Document]:
    """One document for each HTML page below the given folders of `root`."""
    for folder in folders:
        for page in sorted((root / folder).rglob("*.html")):
            if page.name in {"print.html", "bookindex.html"} or page.stat().st_size > 1_500_000:
                continue
            parser = _Paragraphs()
            parser.feed(page.read_text(encoding="utf-8", errors="replace"))
            if sum(map(len, parser.out)) >= 400:
                name = str(page.relative_to(root))
                yield Document("prose", source, name, tuple(parser.out))


def _novels(root: Path) -> Iterator[Document]:
    """Jane Austen's six novels, one document a chapter.

    The R package stores each novel as one compressed character vector: a big-endian length, a zlib
    stream, and in it one CHARSXP (flags 0x00040009, length, bytes) for each printed line.
    """
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    at = 0
    while at < len(data):
        inflate = zlib.decompressobj()
        raw = inflate.decompress(data[at + 4 :])
        at = len(data) - len(inflate.unused_data)
        lines = []
        for found in re.finditer(b"\x00\x04\x00\x09(.{4})", raw, re.DOTALL):
            size = int.from_bytes(found.group(1), "big")
            lines.append(raw[found.end() : found.end() + size].decode("utf-8", "replace"))
        chapters = re.split(r"\n\s*(?:CHAPTER|Chapter) [\dIVXLC]+\.?\s*\n", "\n".join(lines))
        title = chapters[0].strip().split("\n")[0].title()
        for number, chapter in enumerate(chapters[1:], 1):
            joined = (clean(" ".join(p.split())) for p in chapter.split("\n\n"))
            kept = tuple(p.replace("_", "") for p in joined if len(p) > 3)
            yield Document("prose", "r-cran-janeaustenr", f"{title}, chapter {number}", kept)


def prose(src: Path) -> Iterator[Document]:
    """Technical manuals and novels."""
    share = "usr/share/doc"
    yield from _novels(src / "r-cran-janeaustenr")
    yield from _html(
        src / "postgresql-doc-15", "postgresql-doc-15", (f"{share}/postgresql-doc-15/html",)
    )
    yield from _html(src / "sqlite3-doc" / share / "sqlite3", "sqlite3-doc", (".",))
    yield from _html(
        src / "python3.11-doc" / share / "python3.11/html",
        "python3.11-doc",
        ("howto", "tutorial", "faq", "reference", "library", "using", "extending", "whatsnew"),
    )
    yield from _html(
        src / "rust-doc" / share / "rust-doc/html",
        "rust-doc",
        ("book", "rust-by-example", "reference", "nomicon", "rustc", "rustdoc", "edition-guide"),
    )


def _wordnet(root: Path) -> Iterator[Document]:
    """WordNet synsets: word, part of speech, synonyms, kind-of word and gloss with examples."""
    kinds = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
    for stem, kind in kinds.items():
        lines = (root / f"usr/share/wordnet/data.{stem}").read_text(encoding="latin-1").splitlines()
        rows = [line.split(" | ") for line in lines if not line.startswith("  ")]
        first = {row[0].split()[0]: row[0].split()[4] for row in rows}
        for row in rows:
            fields = row[0].split()
            count = int(fields[3], 16)
            words = [
                re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]
            ]
            parent = re.search(r" @ (\d{8}) ", row[0])
            above = first.get(parent.group(1), "").replace("_", " ") if parent else ""
            gloss = clean(row[1])
            if len(gloss) >= 25:
                text = "|".join((kind, ", ".join(words[1:4]), above, gloss))
                yield Document(
                    "definitions", "wordnet-base", f"{stem}/{fields[0]}", (text,), words[0]
                )


def _dict_entries(path: Path, source: str) -> Iterator[Document]:
    """Entries of a dictd database: a head word at the margin, an indented explanation below."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    for entry in re.split(r"\n\n(?=\S)", text)[3:]:
        head, _, body = entry.partition("\n")
        body = clean(" ".join(re.sub(r"[{}]", "", body).split()))
        body = re.sub(
            r"^(/[^/]*/,? *|//,? *)?((n|v|adj|adv|vt|vi|interj|excl|prep|pref)\b\.? *)?", "", body
        )
        if len(body) >= 60 and len(head) < 40 and "database" not in head:
            name = head.split(",")[0].strip().lower()
            yield Document("definitions", source, head, (body,), name)


def definitions(src: Path) -> Iterator[Document]:
    """Short and long explanations of words."""
    yield from _wordnet(src / "wordnet-base")
    yield from _dict_entries(src / "dict-jargon/usr/share/dictd/jargon.dict.dz", "dict-jargon")


def _python_file(path: Path, source: str, name: str) -> Document | None:
    """Top-level statements of one Python file, licence headers and huge literals left out."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return None
    lines = text.split("\n")
    parts = []
    for node in tree.body:
        first = min([node.lineno] + [d.lineno for d in getattr(node, "decorator_list", [])])
        part = "\n".join(lines[first - 1 : node.end_lineno]).rstrip()
        if len(part) < 12_000 and max(map(len, part.split("\n"))) < 160 and part.isascii():
            parts.append(part)
    return Document("code", source, name, tuple(parts)) if sum(map(len, parts)) >= 400 else None


def code() -> Iterator[Document]:
    """Python files of the standard library and of permissively licensed packages."""
    roots = {"python-stdlib": Path(sysconfig.get_paths()["stdlib"])}
    roots |= {name: Path(sysconfig.get_paths()["purelib"]) / name for name in CODE_PACKAGES}
    for source, root in roots.items():
        for path in sorted(root.rglob("*.py")):
            name = str(path.relative_to(root))
            skipped = (
                "site-packages",
                "test/",
                "tests/",
                "idlelib",
                "encodings",
                "turtledemo",
                "lib2to3",
                "_vendor",
                "testing",
            )
            if any(word in name for word in skipped) or not 600 < path.stat().st_size < 200_000:
                continue
            document = _python_file(path, source, name)
            if document is not None:
                yield document
