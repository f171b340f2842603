"""Any file in place of any other: one short line and exit code 2, nothing left behind.

Every argument and option that names a file is given every kind of file that there is. What a file
really is good for it may do (code 0); whatever else it is, no traceback, no exception's repr and
no piece of the file may reach the terminal.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_line import Line, Ran, Run

LONGEST = 600
"""Characters of a message at most, whatever was in the file."""

SECRET = "Xyzzy"
"""Stands in the text files, again and again; a message that quotes a file would show it."""


def contents(line: Line, made: Path, stats: Path) -> Iterator[tuple[str, bytes]]:
    """Files of every kind that secateur reads or writes, damaged ones, and foreign ones."""
    (gguf,) = made.glob("*Q8_0.gguf")
    ours = {
        "gguf": gguf, "safetensors": made / "model.safetensors", "statistics": stats,
        "plan": made / "plan.json", "manifest": made / "manifest.json",
        "report": made / "report.json", "config": line.model / "config.json",
        "tokenizer": line.model / "tokenizer.json", "imatrix": made / "imatrix.gguf",
        "jsonl": line.corpus, "answers": line.answers, "rows": line.rows,
        "drop map": made / "expert_drop_metadata.json",
    }  # fmt: skip
    whole = {name: path.read_bytes() for name, path in ours.items()}
    yield from whole.items()
    for name in ("gguf", "safetensors", "plan"):
        yield f"half a {name}", whole[name][: len(whole[name]) // 2]
    yield "half an imatrix", whole["imatrix"][: len(whole["imatrix"]) // 2]
    yield "empty", b""
    yield "png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    yield "zip", b"PK\x03\x04" + bytes(range(256)) * 8
    yield "pickle", b"\x80\x02}q\x00X\x05\x00\x00\x00" + SECRET.encode() * 50
    yield "zeros", bytes(4096)
    yield "utf-16", (f'{{"{SECRET}": 1}}\n' * 100).encode("utf-16")
    yield "latin-1", (f"{SECRET} gr\xfcn\n" * 100).encode("latin-1")
    yield "one line", SECRET.encode() * 40_000
    yield "prose", f"{SECRET} {SECRET}, {SECRET}.\n".encode() * 200
    yield "yaml", f"name: {SECRET}\nsources:\n  - {{name: {SECRET}, path: nowhere}}\n".encode()
    yield "yaml alias", b"a: &a [1]\nb: *c\n"
    yield "toml", f'[{SECRET}]\nwords = ["{SECRET}"]\n'.encode()
    yield "card", f"---\nlicense: mit\n---\n# {SECRET}\n".encode()
    yield "json deep", b"[" * 100_000
    yield "json number", b'{"version": ' + b"9" * 6000 + b"}"
    yield "json key twice", f'{{"{SECRET * 300}": 1, "{SECRET * 300}": 2}}'.encode()
    for text in ("null", "3", "[]", "{}", '"text"', "NaN", "[null]"):
        yield f"json {text}", text.encode()
    for value in (None, [SECRET * 300], {"x": SECRET * 300}):
        keys = ("model", "layers", "files", "weight_map", "chat_template", "do_sample")
        yield f"json {value!r:.6}", json.dumps(dict.fromkeys(keys, value)).encode()


COMMANDS = {
    "config.json": [
        "inspect {file}",
        "plan {file} --experts 6",
        "audit {gguf} --config {file}",
        "recipe lint apex-mini {file}",
        "measure {made} --against {file} --answers {answers}",
    ],
    "statistics.safetensors": [
        "merge {stats} {file} -o {out}",
        "coverage {file}",
        "plan {model} --experts 6 --stats {file}",
        "apply {plan} --model {model} --stats {file} -o {out}",
    ],
    "plan.json": [
        "apply {file} -o {out}",
        "imatrix slice {imatrix} --plan {file} -o {out}",
        "recipe export {file} -o {out}",
    ],
    "map.json": [
        "plan {model} --drop-map {file}",
        "imatrix slice {imatrix} --drop-map {file} -o {out}",
    ],
    "layers.json": [
        "plan {model} --experts 6 --stats {stats} --types apex-mini --layer-importance {file}",
    ],
    "tokenizer.json": ["plan {model}/config.json --experts 6 --types Q8_0 --tokenizer {file}"],
    "rows.jsonl": ["calibrate {model} --rows {file} -o {out} --workers 1"],
    "mix.yaml": ["calibrate {model} --corpus {file} -o {out}"],
    "recipe.yaml": [
        "plan {model} --experts 6 --stats {stats} --types {file}",
        "recipe show {file}",
        "recipe lint {file} {model}",
    ],
    "types.txt": [
        "plan {model} --experts 6 --stats {stats} --types Q8_0 --tensor-type-file {file}",
    ],
    "imatrix.dat": [
        "plan {model} --experts 6 --stats {stats} --types Q8_0 --imatrix {file}",
        "apply {plan} --model {model} --imatrix {file} -o {out}",
        "imatrix merge {imatrix} {file} -o {out}",
        "imatrix show {file}",
        "imatrix convert {file} -o {out} --experts-in-file 8",
    ],
    "model.gguf": ["audit {file}", "measure {file} --against {model} --answers {answers}"],
    "output": ["verify {file}"],
}
"""The name under which a file is given -> the commands that read it."""


@pytest.fixture(scope="module")
def kinds(line: Line, made: Path, stats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, content in contents(line, made, stats):
        (folder / name.replace("/", "")).write_bytes(content)
    (folder / "a folder").mkdir()
    (folder / "link to nothing").symlink_to(folder / "nowhere")
    return folder


def complaint(ran: Ran) -> str | None:
    """What is wrong with the way in which a file was refused; None if nothing is."""
    if ran.code == 0:
        return None
    checks = {
        f"code {ran.code}": ran.code == 2,
        f"{len(ran.said)} lines": len(ran.said) == 1,
        f"{len(ran.err)} characters": len(ran.err) <= LONGEST,
        "a traceback": "Traceback" not in ran.err,
        "a repr": "Error(" not in ran.err,
        "its content": SECRET * 20 not in ran.err,
        "output": ran.out == "",
    }
    failed = [what for what, well in checks.items() if not well]
    return f"{', '.join(failed)}: {ran.err[:700]}" if failed else None


PAIRS = [(name, command) for name, commands in COMMANDS.items() for command in commands]


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "command"), PAIRS)
def test_any_file_in_place_of_any_other(
    every: int,
    name: str,
    command: str,
    kinds: Path,
    line: Line,
    made: Path,
    stats: Path,
    run: Run,
    tmp_path: Path,
) -> None:
    room, file = tmp_path / "room", tmp_path / name
    places = {
        "file": file, "out": room / "out", "model": line.model, "answers": line.answers,
        "made": made, "stats": stats, "plan": made / "plan.json",
        "imatrix": made / "imatrix.gguf", "gguf": next(made.glob("*Q8_0.gguf")),
    }  # fmt: skip
    words = [word.format(**places) for word in command.split()]
    failures = []
    # Every third kind, another third for the next command; all of them in the slow suite.
    first = PAIRS.index((name, command)) % every
    for kind in sorted(kinds.iterdir())[first::every]:
        if kind.name.startswith("json") and not name.endswith("json"):
            continue
        room.mkdir()
        file.symlink_to(kind)
        ran = run(*words)
        if found := complaint(ran):
            failures.append(f"{kind.name}: {found}")
        if ran.code and list(room.iterdir()):
            failures.append(f"{kind.name}: left {[path.name for path in room.iterdir()]}")
        file.unlink()
        shutil.rmtree(room)
    assert not failures, "\n".join(failures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "tokenizer_config.json", "generation_config.json",
    ],
)  # fmt: skip
def test_any_file_in_a_model_folder(
    every: int, name: str, kinds: Path, line: Line, made: Path, run: Run, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(line.model, model)
    (model / name).unlink(missing_ok=True)
    failures = []
    # Every fourth kind, another fourth for each name; all of them in the slow suite.
    files = [one for one in sorted(kinds.iterdir()) if one.is_file() and one.name[:4] != "half"]
    for kind in files[len(name) % every :: every]:
        shutil.copy(kind, model / name)
        ran = run("plan", model, "--drop-map", made / "expert_drop_metadata.json", types="Q8_0")
        if found := complaint(ran):
            failures.append(f"{kind.name}: {found}")
        (model / name).unlink()
    assert not failures, "\n".join(failures)


def test_a_tokenizer_may_be_named_by_its_file(line: Line, run: Run) -> None:
    config = line.model / "config.json"
    for name in ("", "tokenizer.json"):
        options = {"types": "Q8_0", "tokenizer": line.model / name}
        ran = run("plan", config, "--json", experts=6, **options)
        assert ran.code == 0, ran.err
        assert ran.json["files"]["gguf-Q8_0"]
