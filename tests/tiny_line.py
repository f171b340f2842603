"""All that the whole line needs, tiny: a Gemma 4 MoE with tokenizer and chat template, a corpus,
answers to measure on. And the command line, run inside this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny_models import save_tiny
from tiny_tokenizer import SPECIAL, save_tokenizer

from secateur.cli import main as cli
from secateur.release.manifest import is_of_one_run

VOCAB = 384
WIDER = {
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 512,
}
"""What the tokenizer of single characters, with its markers, needs of the tiny model."""


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def said(self) -> list[str]:
        """The lines on stderr that are not about progress."""
        return without_progress(self.err)


def without_progress(err: str) -> list[str]:
    """The lines of a log on stderr that do not say how far the work is, or what it will cost."""
    return [text for text in err.splitlines() if not text.startswith(("[", "calibrating on "))]


Run = Callable[..., Ran]


def runner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("plan", model, drop=0.25)` as `secateur plan MODEL --drop 0.25`, in this process."""

    def run(*words: object, **options: object) -> Ran:
        argv = ["secateur", *map(str, words)]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            argv += [flag] if value is True else [flag, str(value)]
        monkeypatch.setattr("sys.argv", argv)
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
        return Ran(code, *capfd.readouterr())

    return run


class Line(NamedTuple):
    """The files that a run starts from."""

    model: Path
    corpus: Path
    rows: Path
    prompts: Path
    answers: Path


def save_line(folder: Path) -> Line:
    """Write them into `folder`."""
    from tiny_models import _GEMMA4_TEXT

    kept = dict(_GEMMA4_TEXT)
    try:
        _GEMMA4_TEXT.update(WIDER)
        model = save_tiny("gemma4", folder / "tiny-moe", dtype=torch.bfloat16)
    finally:
        _GEMMA4_TEXT.clear()
        _GEMMA4_TEXT.update(kept)
    (model / "chat_template.jinja").unlink()
    in_gemmas_form(save_tokenizer(model) / "tokenizer.json")
    (model / "LICENSE").write_text("do as you like\n")
    talk = [_conversation(number) for number in range(12)]
    prompts = [{"domain": entry["domain"], "messages": entry["messages"][:1]} for entry in talk[:3]]
    rows = [{"input_ids": list(range(20 + n, 50 + n)), "category": "ab"[n % 2]} for n in range(6)]
    return Line(
        model,
        _lines(folder / "corpus.jsonl", [{"messages": entry["messages"]} for entry in talk]),
        _lines(folder / "rows.jsonl", rows),
        _lines(folder / "prompts.jsonl", prompts),
        _lines(folder / "answers.jsonl", talk[:6]),
    )


def in_gemmas_form(path: Path) -> None:
    """Characters with a bar for the space and bytes for all others, as llama.cpp has it."""
    data = json.loads(path.read_text("utf-8"))
    tokens = [*SPECIAL, "\n", "\u2581", *map(chr, range(33, 127))]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    data["model"].update(vocab=vocabulary, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    data["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    data["pre_tokenizer"] = None
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    data["decoder"] = {"type": "Sequence", "decoders": decoders}
    path.write_text(json.dumps(data), "utf-8")


def _conversation(number: int) -> dict[str, Any]:
    domain = ("sums", "names")[number % 2]
    asked = ("What is {0} plus {0}?", "Who is number {0}?")[number % 2].format(number)
    said = ("It is {0}.", "That is x{0}, of course.")[number % 2].format(2 * number)
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"id": f"{domain}-{number}", "domain": domain, "messages": messages}


def _lines(path: Path, records: list[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """{name: content} of all files below `folder`, but those that tell of one run only."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    whole = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: content for name, content in whole.items() if not is_of_one_run(name)}
