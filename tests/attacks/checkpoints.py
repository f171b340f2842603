"""Model folders: headers and counts that lie, links that leave, configs beyond sense."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack import Attack, Goods, edit_json, in_model, instead, rewrite_header, sparse

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
INSPECT = "inspect {room}/model"


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: rewrite_header(folder / SINGLE, change)


def _first(**changes: Any) -> Callable[[Path], object]:
    """Changes of the entry of the tensor whose data come first."""

    def change(header: dict[str, Any]) -> None:
        names = [name for name in header if name != "__metadata__"]
        header[min(names, key=lambda name: header[name]["data_offsets"])].update(changes)

    return _header(change)


def _config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / "config.json", changes)


def _raw(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _link(name: str, target: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.symlink(target, folder / name)

    return change


def _index(shard: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / SINGLE).rename(folder / "a.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))

    return change


def _not_a_file(name: str, how: str) -> Callable[[Goods, Path], object]:
    def make(goods: Goods, room: Path) -> None:
        in_model()(goods, room)
        instead(f"model/{name}", how)(goods, room)

    return make


def _swap(folder: Path) -> None:
    """Pickled weights in the place of safetensors."""
    (folder / SINGLE).unlink()
    for name in ("pytorch_model.bin", "consolidated.00.pth"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch pickle-was-run'\ntR.")


def _code(folder: Path) -> None:
    """Code that would be run with trust_remote_code."""
    path = folder / "evil.py"
    path.write_text("open('code-was-run', 'w')\nclass Config: pass\n")
    edit_json(
        folder / "config.json",
        {"auto_map": {"AutoConfig": "evil.Config"}, "trust_remote_code": True},
    )
    edit_json(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}})


ATTACKS = (
    Attack(
        "header of 2**63 bytes",
        in_model(_raw(SINGLE, (1 << 63).to_bytes(8, "little") + b"{}")),
        INSPECT,
        (SINGLE, "claims a header of"),
    ),
    Attack(
        "header as large as a sparse file",
        in_model(lambda f: sparse(f / SINGLE, 1 << 40, (1 << 39).to_bytes(8, "little") + b"{")),
        INSPECT,
        (SINGLE, "claims a header of"),
    ),
    Attack(
        "header of a hundred million zeros",
        in_model(lambda f: sparse(f / SINGLE, 1 << 30, (99_999_999).to_bytes(8, "little"))),
        INSPECT,
        (SINGLE, "no valid JSON"),
    ),
    Attack(
        "header with nesting",
        in_model(
            _raw(SINGLE, (8 << 20).to_bytes(8, "little") + b'{"a":' * 1_600_000 + b" " * (8 << 20))
        ),
        INSPECT,
        (SINGLE, "no valid JSON"),
    ),
    Attack(
        "dimensions that overflow",
        in_model(_first(shape=[1 << 62, 1 << 62])),
        INSPECT,
        (SINGLE, "takes"),
    ),
    Attack(
        "dimension of a thousand digits",
        in_model(_first(shape=[10**1000])),
        INSPECT,
        (SINGLE, "a number of 1001 digits"),
    ),
    Attack(
        "offsets outside of the file",
        in_model(_first(data_offsets=[1 << 60, (1 << 60) + 4])),
        INSPECT,
        (SINGLE,),
    ),
    Attack(
        "offsets the wrong way round", in_model(_first(data_offsets=[64, 0])), INSPECT, (SINGLE,)
    ),
    Attack("type that does not exist", in_model(_first(dtype="F4_E9000")), INSPECT, ("F4_E9000",)),
    Attack(
        "name with escape sequences",
        in_model(
            _header(
                lambda h: h.update({"\x1b]0;owned\x07\x1b[2J\u202e": h.pop("model.norm.weight")})
            )
        ),
        INSPECT,
        ("\\x1b",),
        never="\x1b",
    ),
    Attack(
        "name of a megabyte",
        in_model(_header(lambda h: h.update({"a" * (1 << 20): h.pop("model.norm.weight")}))),
        INSPECT,
        ("aaaa",),
    ),
    Attack(
        "name with a zero byte",
        in_model(_header(lambda h: h.update({"model.norm\0.weight": h.pop("model.norm.weight")}))),
        INSPECT,
        ("model.norm",),
    ),
    Attack(
        "metadata that is a list",
        in_model(_header(lambda h: h.update(__metadata__=[1]))),
        "plan {room}/model --experts 8 -o {out}",
        code=0,
    ),
    Attack(
        "index to a file above",
        in_model(_index("../../etc/passwd")),
        INSPECT,
        ("../../etc/passwd", "outside the model folder"),
    ),
    Attack(
        "index to an absolute path",
        in_model(_index("/etc/passwd")),
        INSPECT,
        ("/etc/passwd", "outside the model folder"),
    ),
    Attack(
        "index with a zero byte", in_model(_index("a\0b.safetensors")), INSPECT, ("is missing",)
    ),
    Attack(
        "index with a name of 5,000 bytes",
        in_model(_index("a" * 5000)),
        INSPECT,
        ("File name too long",),
    ),
    Attack("index that is a pipe", _not_a_file(INDEX, "pipe"), INSPECT, (INDEX, "a pipe")),
    Attack("weights that are a pipe", _not_a_file(SINGLE, "pipe"), INSPECT, (SINGLE, "a pipe")),
    Attack(
        "weights that are a device",
        _not_a_file(SINGLE, "endless device"),
        INSPECT,
        (SINGLE, "a device"),
    ),
    Attack(
        "weights that are a folder", _not_a_file(SINGLE, "folder"), INSPECT, (SINGLE, "a folder")
    ),
    Attack(
        "weights that link to themselves",
        _not_a_file(SINGLE, "cycle"),
        INSPECT,
        (SINGLE, "a link to"),
    ),
    Attack(
        "config that is a pipe",
        _not_a_file("config.json", "pipe"),
        INSPECT,
        ("config.json", "a pipe"),
    ),
    Attack(
        "config that is a device",
        _not_a_file("config.json", "endless device"),
        INSPECT,
        ("config.json", "a device"),
    ),
    Attack(
        "tokenizer that is a pipe",
        _not_a_file("tokenizer.json", "pipe"),
        INSPECT,
        ("tokenizer.json", "a pipe"),
    ),
    Attack(
        "license that links to a private file",
        in_model(_link("LICENSE", "/etc/passwd")),
        INSPECT,
        ("LICENSE", "out of the model's folder"),
        never="root:",
    ),
    Attack(
        "config that links to a private file",
        in_model(_link("config.json", "/etc/passwd")),
        INSPECT,
        ("config.json", "out of the model's folder"),
        never="root:",
    ),
    Attack(
        "template that links to a private file",
        in_model(_link("chat_template.jinja", "../../../../../../../../etc/passwd")),
        INSPECT,
        ("chat_template.jinja", "out of the model's folder"),
        never="root:",
    ),
    Attack(
        "pickles in the place of weights",
        in_model(_swap),
        "shrink {room}/model --experts 6 --corpus {corpus} -o {out}",
        ("safetensors only",),
        never="pickle-was-run",
    ),
    Attack("code in the folder", in_model(_code), INSPECT, code=0, never="code-was-run"),
    Attack(
        "config of a billion layers",
        in_model(_config(num_hidden_layers=10**9)),
        INSPECT,
        ("config.json", "1000000000"),
    ),
    Attack(
        "config of a million thin layers",
        in_model(
            _config(num_hidden_layers=500_000, num_experts=1, top_k_experts=1, layer_types=None),
            lambda f: (f / SINGLE).unlink(),
        ),
        INSPECT,
        ("config.json", "500000 layers"),
    ),
    Attack(
        "config of negative width",
        in_model(_config(hidden_size=-64)),
        INSPECT,
        ("hidden_size", "-64"),
    ),
    Attack(
        "config of a width beyond all disks",
        in_model(_config(hidden_size=1 << 62), lambda f: (f / SINGLE).unlink()),
        INSPECT,
        code=0,
    ),
    Attack(
        "config of a number of 5,000 digits",
        in_model(_raw("config.json", b'{"num_experts": ' + b"9" * 5000 + b"}")),
        INSPECT,
        ("config.json", "digits"),
    ),
    Attack(
        "config nested a million deep",
        in_model(_raw("config.json", b'{"a":' * 1_000_000)),
        INSPECT,
        ("config.json", "nested too deeply"),
    ),
    Attack(
        "config of half a gigabyte",
        in_model(lambda f: sparse(f / "config.json", 1 << 29)),
        INSPECT,
        ("config.json", "more than 64 MiB"),
    ),
    Attack(
        "config of lists without end",
        in_model(_raw("config.json", b'{"a": [' + b"[]," * 8_000_000 + b"[]]}")),
        INSPECT,
        ("config.json",),
    ),
    Attack(
        "config with half a surrogate pair",
        in_model(_raw("config.json", b'{"model_type": "gemma4_text", "x": "\\ud800"}')),
        INSPECT,
        ("config.json", "surrogate"),
    ),
    Attack(
        "config with a byte order mark",
        in_model(
            lambda f: _raw("config.json", b"\xef\xbb\xbf" + (f / "config.json").read_bytes())(f)
        ),
        INSPECT,
        ("config.json",),
    ),
    Attack(
        "config with line ends of another system",
        in_model(
            lambda f: _raw(
                "config.json",
                json.dumps(json.loads((f / "config.json").read_bytes()), indent=1)
                .replace("\n", "\r\n")
                .encode(),
            )(f)
        ),
        INSPECT,
        code=0,
    ),
    Attack(
        "config that says a key twice",
        in_model(_raw("config.json", b'{"model_type": "gemma4_text", "model_type": "mixtral"}')),
        INSPECT,
        ("config.json", "occurs twice"),
    ),
    Attack(
        "model named by a folder above",
        lambda goods, room: None,
        "inspect ../nowhere",
        ("../nowhere",),
    ),
    Attack(
        "hub id that leaves its owner", lambda goods, room: None, "inspect owner/..", ("owner/..",)
    ),
    Attack(
        "hub id with a zero width",
        lambda goods, room: None,
        "inspect owner/na\u200bme",
        ("is no hub id",),
    ),
    Attack(
        "model card of aliases",
        in_model(
            _raw(
                "README.md",
                b"---\na: &a [x,x]\n"
                + b"".join(
                    b"%c: &%c [*%c,*%c,*%c,*%c]\n"
                    % (98 + n, 98 + n, 97 + n, 97 + n, 97 + n, 97 + n)
                    for n in range(20)
                )
                + b"license: *u\n---\n",
            )
        ),
        INSPECT,
        code=0,
    ),
)
