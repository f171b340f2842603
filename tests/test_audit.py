"""What a GGUF is by its header alone, and whether what is said of it can be true."""

from __future__ import annotations

import json
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from published_claims import CLAIMS
from tiny_line import Run

from secateur import audit_model
from secateur.audit.card.quantity import quantities
from secateur.audit.card.samples import fisher, paired_at_best, upper_bound
from secateur.audit.claims import check_claims
from secateur.audit.finding import Finding
from secateur.audit.gguf import source as source_module
from secateur.audit.gguf.identify import Identity, identify
from secateur.audit.gguf.shape import shape_of_model
from secateur.audit.gguf.source import read_parts, read_source
from secateur.checkpoint.reader import open_checkpoint
from secateur.cli.render.audit import identity_lines
from secateur.errors import EngineError, FormatError
from secateur.formats.gguf.container import (
    STRING,
    Metadata,
    TensorInfo,
    Value,
    file_bytes,
    header_parts,
)
from secateur.formats.gguf.naming import experts_named, label_of
from secateur.formats.gguf.reader import HeaderCut, read_header
from secateur.outputs.gguf.layout import GgufLayout, gguf_layout
from secateur.recipes.recipe import find_recipe

EXPERTS = 24

Edit = Callable[[dict[str, Value], list[TensorInfo]], None]


@pytest.fixture(scope="module")
def form() -> Callable[..., GgufLayout]:
    """gemmule's GGUF by recipe, decided and not written."""
    checkpoint = open_checkpoint("gemmule")
    keep = {layer: tuple(range(EXPERTS)) for layer in checkpoint.moe_layers}

    def decide(recipe: str, **requests: Any) -> GgufLayout:
        return gguf_layout(checkpoint, keep, find_recipe(recipe), **{"imatrix": None, **requests})

    return decide


def write_header(
    path: Path, metadata: Metadata, infos: list[TensorInfo], length: int | None = None
) -> Path:
    """A GGUF with a header and a hole in place of its data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(header_parts(metadata, infos)))
    os.truncate(path, file_bytes(metadata, infos) if length is None else length)
    return path


def save(form: GgufLayout, folder: Path, edit: Edit | None = None, name: str | None = None) -> Path:
    """The form's file, its header edited."""
    metadata, infos = dict(form.metadata), list(form.infos)
    if edit is not None:
        edit(metadata, infos)
    return write_header(folder / (name or form.file), metadata, infos)


def of(identity: Identity, topic: str) -> list[Finding]:
    return [finding for finding in identity.findings if finding.topic == topic]


def wrong(identity: Identity) -> list[str]:
    return [finding.topic for finding in identity.findings if finding.verdict == "wrong"]


@pytest.mark.parametrize(
    ("recipe", "way", "fallbacks"),
    [
        ("Q4_K_M", "Q4_K_M", 12),
        ("Q8_0", "Q8_0", 0),
        ("F16", "F16", 0),
        ("IQ4_XS", "IQ4_XS", 12),
        ("Q6_K_L", "Q6_K", 12),
        ("apex-balanced", "apex-balanced", 6),
        ("apex-compact", "apex-compact", 12),
    ],
)
def test_the_recipe_is_found_by_the_types(
    recipe: str, way: str, fallbacks: int, form: Callable[..., GgufLayout], tmp_path: Path
) -> None:
    made = form(recipe)
    found = identify([read_source(str(save(made, tmp_path)))])
    assert found.reproduced is not None
    assert found.reproduced.differing == ()
    ways = (found.reproduced.way, *found.reproduced.also)
    assert any(word.startswith(way) for word in ways)
    assert len(found.reproduced.fallbacks) == fallbacks
    assert (found.experts, found.top_k, found.layers) == (EXPERTS, 4, 6)
    assert found.data == sum(info.nbytes for info in made.infos)
    assert found.expected == found.actual == file_bytes(made.metadata, made.infos)
    assert found.family is not None
    assert set(wrong(found)) <= {"file name"}
    counted = sum(n for kinds in found.roles.values() for n, _ in kinds.values())
    assert counted == found.tensors == len(made.infos)


def test_a_file_that_was_really_written_is_what_its_plan_says(made: Path) -> None:
    with pytest.raises(FormatError, match="holds imatrix and no model"):
        audit_model(made / "imatrix.gguf")
    for path in made.glob("*-*.gguf"):
        found = audit_model(path).file
        assert found is not None
        assert found.reproduced is not None
        assert found.reproduced.differing == ()
        assert found.file_type is not None
        assert found.reproduced.way.startswith(found.file_type)
        assert [f.verdict for f in of(found, "length")] == ["holds"]
        # The tiny tokenizer's config names no markers, so that they are normal tokens indeed.
        assert set(wrong(found)) <= {"tokenizer"}
        assert all("is a normal token" in f.said for f in of(found, "tokenizer"))


def test_an_importance_matrix_shows_in_the_types(
    form: Callable[..., GgufLayout], tmp_path: Path
) -> None:
    facts = {"quantize.imatrix.file": "calibration.gguf", "quantize.imatrix.chunks_count": 7}
    path = save(form("IQ3_XXS", imatrix=facts), tmp_path)
    found = identify([read_source(str(path))])
    assert found.reproduced is not None
    assert found.reproduced.way.startswith("IQ3_XXS with an imatrix")
    assert found.imatrix == {"file": "calibration.gguf", "chunks_count": 7}
    assert wrong(found) == []

    def hide(metadata: dict[str, Value], infos: list[TensorInfo]) -> None:
        for key in facts:
            del metadata[key]

    hidden = identify([read_source(str(save(form("IQ3_XXS", imatrix=facts), tmp_path, hide)))])
    assert wrong(hidden) == ["imatrix"]


def test_how_levels_were_chosen_is_shown_where_a_file_says_it(
    form: Callable[..., GgufLayout], tmp_path: Path
) -> None:
    says = set_value("secateur.rounding", Value(STRING, "feedback (shared)"))
    found = identify([read_source(str(save(form("Q4_0"), tmp_path / "feedback", says)))])
    assert found.rounding == found.to_json()["rounding"] == "feedback (shared)"
    assert "  secateur.rounding: feedback (shared)" in identity_lines(found)
    nearest = identify([read_source(str(save(form("Q4_0"), tmp_path / "nearest")))])
    assert nearest.rounding is None
    assert not any("rounding" in line for line in identity_lines(nearest))


def set_value(key: str, value: Value) -> Edit:
    def edit(metadata: dict[str, Value], infos: list[TensorInfo]) -> None:
        metadata[key] = value

    return edit


def retype(name: str, kind: str) -> Edit:
    def edit(metadata: dict[str, Value], infos: list[TensorInfo]) -> None:
        at = next(i for i, info in enumerate(infos) if info.name == name)
        infos[at] = replace(infos[at], type=kind)

    return edit


def normal_marker(metadata: dict[str, Value], infos: list[TensorInfo]) -> None:
    """Make the marker that ends a turn a token that text can spell."""
    tokens = metadata["tokenizer.ggml.tokens"].value
    kinds = metadata["tokenizer.ggml.token_type"].value
    assert isinstance(tokens, tuple)
    assert isinstance(kinds, tuple)
    at = tokens.index("<turn|>")
    metadata["tokenizer.ggml.token_type"] = Value("i32", (*kinds[:at], 1, *kinds[at + 1 :]))


OTHERS_TEMPLATE = "<start_of_turn>user\n{{ messages[0].content }}<end_of_turn>"


@pytest.mark.parametrize(
    ("edit", "topic", "says"),
    [
        (
            set_value("tokenizer.chat_template", Value(STRING, OTHERS_TEMPLATE)),
            "template",
            "it is the template of Gemma 1 to 3",
        ),
        (set_value("general.file_type", Value("u32", 18)), "file type", "Q4_K_M"),
        (
            set_value("quantize.imatrix.file", Value(STRING, "/home/me/models/imatrix.gguf")),
            "imatrix",
            "a name without a path",
        ),
        (normal_marker, "tokenizer", "<turn|> is a normal token"),
        (
            set_value("tokenizer.ggml.eos_token_id", Value("u32", 1 << 20)),
            "tokenizer",
            "there is no such token",
        ),
        (
            set_value("tokenizer.ggml.add_bos_token", Value("bool", False)),
            "tokenizer",
            "needs its first token",
        ),
    ],
)
def test_an_edited_header_is_noticed(
    edit: Edit, topic: str, says: str, form: Callable[..., GgufLayout], tmp_path: Path
) -> None:
    whole = identify([read_source(str(save(form("Q4_K_M"), tmp_path)))])
    assert wrong(whole) == []
    found = identify([read_source(str(save(form("Q4_K_M"), tmp_path, edit)))])
    assert topic in wrong(found)
    told = [f.sentence() for f in of(found, topic) if f.verdict == "wrong"]
    assert any(says in sentence for sentence in told), told


def test_the_nearest_recipe_names_the_tensors_that_differ(
    form: Callable[..., GgufLayout], tmp_path: Path
) -> None:
    edit = retype("blk.3.attn_q.weight", "Q8_0")
    found = identify([read_source(str(save(form("Q4_K_M"), tmp_path, edit)))])
    assert found.reproduced is not None
    assert found.reproduced.way.startswith("Q4_K_M")
    assert found.reproduced.differing == (("blk.3.attn_q.weight", "Q8_0", "Q4_K"),)
    assert [finding.verdict for finding in of(found, "file type")] == ["unproven"]


def test_a_file_without_its_data_is_read_and_its_length_told(
    form: Callable[..., GgufLayout], tmp_path: Path
) -> None:
    made = form("Q4_K_M")
    path = save(made, tmp_path)
    full = path.stat().st_size
    os.truncate(path, full - 5000)
    found = identify([read_source(str(path))])
    assert (found.expected, found.actual) == (full, full - 5000)
    assert wrong(found) == ["length"]
    assert "5,000 bytes of its tensors are missing" in of(found, "length")[0].reason
    os.truncate(path, full + 64)
    assert wrong(identify([read_source(str(path))])) == ["length"]
    os.truncate(path, 3000)
    with pytest.raises(FormatError, match="cut short or damaged"):
        read_source(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(64), "is a ZIP archive that does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(64), "cut short or damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + bytes(64), "cut short or damaged"),
    ],
)
def test_what_is_no_gguf_is_one_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=re.escape(message)):
        audit_model(path)


def test_a_header_that_ends_early_says_so() -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    with pytest.raises(HeaderCut):
        read_header(Path("x.gguf"), start, None)
    with pytest.raises(FormatError, match="cut short"):
        read_header(Path("x.gguf"), start, len(start))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("gemma-APEX-mini.gguf", None),
        ("gemma-APEX-I-Quality.gguf", None),
        ("gemma-I-Quality-IQ4_XS.gguf", "IQ4_XS"),
        ("gemma-Q4_K_L.gguf", None),
        ("gemma-Q5_K_L.gguf", None),
        ("gemma-Q6_K_L.gguf", "Q6_K_L"),
        ("gemma-Q3_K_XL.gguf", "Q3_K_XL"),
        ("gemma-Q2_K_L.gguf", "Q2_K_L"),
        ("gemma-CD-Q6_K.gguf", "Q6_K"),
        ("gemma-REAP.gguf", None),
        ("gemma-Q4_K_M-00001-of-00003.gguf", "Q4_K_M"),
    ],
)
def test_labels_are_read_as_the_hub_reads_them(name: str, label: str | None) -> None:
    assert label_of(name) == label


def test_a_name_must_agree_with_the_file(form: Callable[..., GgufLayout], tmp_path: Path) -> None:
    assert experts_named("gemma-4-A4B-109e-v3-Q4_K_M.gguf") == 109
    assert experts_named("gemma-4-E4B-Q4_K_M.gguf") is None
    for name, verdicts in {
        "gemmule-24e-Q4_K_M.gguf": {"holds"},
        "gemmule-24e-Q6_K.gguf": {"wrong", "holds"},
        "gemmule-20e-Q4_K_M.gguf": {"holds", "wrong"},
        "gemmule.gguf": {"wrong"},
    }.items():
        path = save(form("Q4_K_M"), tmp_path, name=name)
        found = identify([read_source(str(path))])
        assert {finding.verdict for finding in of(found, "file name")} == verdicts, name


def test_a_split_file_is_read_part_by_part(form: Callable[..., GgufLayout], tmp_path: Path) -> None:
    made = form("Q4_K_M", split=3_000_000)
    assert len(made.parts) > 2
    for part in made.parts:
        infos = list(made.infos[part.first : part.last])
        write_header(tmp_path / part.file, part.metadata, infos)
    first = tmp_path / made.parts[0].file
    for named in (first, tmp_path / made.parts[1].file):
        found = audit_model(named).file
        assert found is not None
        assert found.parts == (len(made.parts), len(made.parts))
        assert found.tensors == len(made.infos)
        assert found.reproduced is not None
        assert found.reproduced.differing == ()
        assert [finding.verdict for finding in of(found, "split")] == ["holds"]
    (tmp_path / made.parts[-1].file).unlink()
    found = audit_model(first).file
    assert found is not None
    assert found.reproduced is None
    assert [finding.verdict for finding in of(found, "split")] == ["unchecked"]


def test_a_config_tells_widths_and_tensors_that_are_not_its_own(
    form: Callable[..., GgufLayout], tmp_path: Path
) -> None:
    def wider(metadata: dict[str, Value], infos: list[TensorInfo]) -> None:
        for at, info in enumerate(infos):
            if info.name.endswith("ffn_down_exps.weight"):
                infos[at] = replace(info, shape=(*info.shape[:-1], 256))

    path = save(form("Q4_K_M"), tmp_path)
    found = audit_model(path, config="gemmule").file
    assert found is not None
    assert [finding.verdict for finding in of(found, "shape")] == ["holds"]
    found = audit_model(save(form("Q4_K_M"), tmp_path, wider), config="gemmule").file
    assert found is not None
    assert [finding.verdict for finding in of(found, "shape")] == ["unproven"]
    assert "padded" in of(found, "shape")[0].reason

    def without(metadata: dict[str, Value], infos: list[TensorInfo]) -> None:
        del infos[-1]

    found = audit_model(save(form("Q4_K_M"), tmp_path, without), config="gemmule").file
    assert found is not None
    assert "shape" in wrong(found)


# A server that stands in for the hub.


class Answers(BaseHTTPRequestHandler):
    """Serves one folder, with ranges or without, and counts what it sends."""

    def __init__(self, *args: Any, folder: Path, state: dict[str, Any], **kwargs: Any) -> None:
        self.folder, self.state = folder, state
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        path = self.folder / self.path.rpartition("/")[2].partition("?")[0]
        self.state["asked"].append((self.path, self.headers.get("Range")))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        total, first, last = len(content), 0, len(content) - 1
        asked = self.headers.get("Range") if self.state["ranges"] else None
        if asked:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
            assert found is not None
            first, last = int(found[1]), min(int(found[2]), last)
            if first >= total:
                self.send_error(416)
                return
        body = content[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(its address, the folder it serves, what it was asked)."""
    from huggingface_hub import close_session

    folder = tmp_path / "served"
    folder.mkdir()
    state: dict[str, Any] = {"asked": [], "ranges": True}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for word in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(word, raising=False)
    close_session()
    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answers, folder=folder, state=state))
    thread = threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{host.server_address[1]}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    try:
        yield address, folder, state
    finally:
        host.shutdown()
        host.server_close()
        thread.join()
        close_session()


def test_only_the_header_crosses_the_network(
    server: tuple[str, Path, dict[str, Any]],
    form: Callable[..., GgufLayout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, folder, state = server
    monkeypatch.setattr(source_module, "FIRST", 4096)
    path = save(form("Q4_K_M"), folder)
    local = audit_model(path).file
    for name in (f"{address}/{path.name}", f"hf://owner/name/{path.name}"):
        state["asked"].clear()
        found = audit_model(name).file
        assert found is not None
        assert local is not None
        assert found.reproduced == local.reproduced
        assert (found.expected, found.actual) == (local.expected, local.actual)
        assert local.header <= found.fetched < path.stat().st_size / 2
        ranges = [asked for _, asked in state["asked"]]
        assert ranges[:2] == ["bytes=0-4095", "bytes=4096-16383"]
    assert state["asked"][0][0] == f"/owner/name/resolve/main/{path.name}"
    assert not list(folder.parent.glob("hub/*"))


def test_a_pinned_revision_is_asked_for(
    server: tuple[str, Path, dict[str, Any]], form: Callable[..., GgufLayout]
) -> None:
    _, folder, state = server
    path = save(form("Q8_0"), folder)
    read_source(f"hf://owner/name@abc123/{path.name}")
    assert state["asked"][0][0] == f"/owner/name/resolve/abc123/{path.name}"


def test_a_server_without_ranges_is_cut_off(
    server: tuple[str, Path, dict[str, Any]], form: Callable[..., GgufLayout]
) -> None:
    address, folder, state = server
    state["ranges"] = False
    path = save(form("Q8_0"), folder)
    found = read_source(f"{address}/{path.name}")
    assert found.fetched <= source_module.FIRST < path.stat().st_size
    assert found.actual == path.stat().st_size


def test_a_remote_file_that_ends_in_its_header_is_an_error(
    server: tuple[str, Path, dict[str, Any]], form: Callable[..., GgufLayout]
) -> None:
    address, folder, _ = server
    path = save(form("Q8_0"), folder)
    os.truncate(path, 3000)
    with pytest.raises(FormatError, match="cut short or damaged"):
        read_source(f"{address}/{path.name}")


def test_what_the_hub_does_not_give_is_one_error(
    server: tuple[str, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _, _ = server
    with pytest.raises(FormatError, match="the server answers 404"):
        read_source("owner/name/missing.gguf")
    with pytest.raises(FormatError, match="no such file"):
        read_source("missing.gguf")
    with pytest.raises(EngineError, match="cannot read"):
        read_source("http://127.0.0.1:9/model.gguf")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FormatError, match="HF_HUB_OFFLINE forbids"):
        read_source("hf://owner/name/model.gguf")
    with pytest.raises(EngineError, match="offline mode"):
        read_source(f"{address}/model.gguf")


def test_parts_are_found_over_the_network(
    server: tuple[str, Path, dict[str, Any]], form: Callable[..., GgufLayout]
) -> None:
    _, folder, _ = server
    made = form("Q4_K_M", split=3_000_000)
    for part in made.parts:
        write_header(folder / part.file, part.metadata, list(made.infos[part.first : part.last]))
    headers = read_parts(f"hf://owner/name/{made.parts[0].file}")
    assert [header.name for header in headers] == [part.file for part in made.parts]


# Claims in general: a card of gemmule, true and not.

TRUE_CARD = """# gemmule-24e

gemmule with 24 experts per layer instead of 32, quantized with llama.cpp.

|  | Original | This model |
|---|---|---|
| Total params | {whole:.2f}M | {pruned:.2f}M |
| Experts per layer | 32 | 24 |
| Experts/tok | 4 | 4 |

REAP removes 25% of MoE experts (8 of 32 per layer).

| File | Quant | Size | Notes |
|---|---|---|---|
| gemmule-24e-Q4_K_M.gguf | Q4_K_M | {q4:.2f} MB | good |
| gemmule-24e-Q8_0.gguf | Q8_0 | {q8:.2f} MiB | better |
| gemmule-24e-Q6_K_L.gguf | Q6_K_L | {q6l:.3f} MB | Q6_K with Q8_0 embed/output |

The router (ffn_gate_inp) is F32, ffn_gate_up_exps is Q4_K.

## Results

| Task | Original | Pruned |
|---|---|---|
| Sums | 160/200 = 80.0% | 100/200 = 50.0% |

12 correct + 3 repaired = 15. 4 layers x 25 heads = 100.

<|turn>user
hello<turn|>
"""


@pytest.fixture(scope="module")
def numbers(form: Callable[..., GgufLayout]) -> dict[str, float]:
    """What is true of gemmule with 24 experts."""
    shape = shape_of_model(open_checkpoint("gemmule"))
    sizes = {
        name: file_bytes(made.metadata, made.infos)
        for name in ("Q4_K_M", "Q8_0", "Q6_K_L")
        for made in (form(name),)
    }
    return {
        "whole": shape.parameters(32) / 1e6,
        "pruned": shape.parameters(EXPERTS) / 1e6,
        "q4": sizes["Q4_K_M"] / 1e6,
        "q8": sizes["Q8_0"] / 2**20,
        "q6l": sizes["Q6_K_L"] / 1e6,
    }


def verdicts(text: str, said: str) -> set[str]:
    shape = shape_of_model(open_checkpoint("gemmule"))
    return {f.verdict for f in check_claims(text, shape) if said in f.said}


def test_a_true_card_has_nothing_wrong(numbers: dict[str, float]) -> None:
    shape = shape_of_model(open_checkpoint("gemmule"))
    found = check_claims(TRUE_CARD.format(**numbers), shape)
    assert [f.sentence() for f in found if f.verdict in ("wrong", "unproven")] == []
    topics = {f.topic for f in found if f.verdict == "holds"}
    assert {"parameters", "experts", "count", "file size", "recipe", "arithmetic"} <= topics


@pytest.mark.parametrize(
    ("old", "new", "said", "verdict"),
    [
        ("{q4:.2f} MB", "99.99 MB", "Q4_K_M.gguf", "wrong"),
        ("{q8:.2f} MiB", "{q8:.2f} MB", "Q8_0.gguf", "other unit"),
        ("Q6_K with Q8_0", "Q4_K_M with Q8_0", "with Q8_0 embed", "wrong"),
        ("{pruned:.2f}M", "16.10M", "16.10M", "wrong"),
        ("(8 of 32 per layer)", "(9 of 32 per layer)", "9 of 32", "wrong"),
        ("| Experts/tok | 4 | 4 |", "| Experts/tok | 4 | 6 |", "Experts/tok", "wrong"),
        ("is F32, ffn_gate_up", "is Q8_0, ffn_gate_up", "ffn_gate_inp", "wrong"),
        ("ffn_gate_up_exps is Q4_K", "ffn_down_exps is Q4_K", "ffn_down_exps", "wrong"),
        ("160/200 = 80.0%", "160/200 = 81.0%", "160/200", "wrong"),
        ("= 15. 4 layers", "= 16. 4 layers", "12 correct + 3", "wrong"),
        ("x 25 heads = 100", "x 25 heads = 110", "x 25 heads", "wrong"),
        ("<|turn>user", "<|im_start|>user", "<|im_start|>", "wrong"),
        ("hello<turn|>", "<|channel>answer", "<|channel>answer", "wrong"),
        ("quantized with", "created in May 2024 and quantized with", "May 2024", "wrong"),
        ("| good |", "| good, load with trust_remote_code=True |", "trust_remote", "wrong"),
        ("# gemmule-24e\n", "# A/x-a4b-it and A/x-e4b-it\n", "A/x-e4b-it", "wrong"),
        ("| Task |", "50 samples per task\n\n| Task |", "160/200", "holds"),
    ],
)
def test_an_untrue_card_is_told(
    old: str, new: str, said: str, verdict: str, numbers: dict[str, float]
) -> None:
    assert old in TRUE_CARD
    assert verdict in verdicts(TRUE_CARD.replace(old, new, 1).format(**numbers), said)


def test_a_file_and_its_own_card_are_compared(
    form: Callable[..., GgufLayout], tmp_path: Path, run: Run
) -> None:
    made = form("Q4_K_M")
    path = save(made, tmp_path)
    size = file_bytes(made.metadata, made.infos) / 1e6
    card = tmp_path / "card.md"
    card.write_text(
        f"{path.name} Q4_K_M {size:.2f} MB\n\n"
        "attn_q is Q4_K, attn_v is Q3_K, and 12 of 134 tensors needed a fallback.\n"
    )
    found = [(f.topic, f.verdict, f.reason) for f in audit_model(path, claims=card).claims]
    told = {(topic, verdict) for topic, verdict, _ in found}
    assert told == {
        ("file size", "holds"),
        ("types", "holds"),
        ("types", "wrong"),
        ("tensors", "holds"),
        ("fallbacks", "holds"),
    }
    assert any("attn_v is Q4_K" in reason for _, verdict, reason in found if verdict == "wrong")
    ran = run("audit", path, claims=card)
    assert ran.code == 0, ran.err
    assert "12 tensors fell back: Q4_K -> Q5_0, Q6_K -> Q8_0" in ran.out
    strict = run("audit", path, claims=card, strict=True)
    assert strict.code == 3
    assert "1 wrong" in strict.err
    data = run("audit", path, claims=card, json=True).json
    assert data["counts"]["wrong"] == 1
    assert data["file"]["reproduced"]["differing"] == []


def test_a_card_that_cannot_be_read_is_one_error(run: Run, tmp_path: Path) -> None:
    missing = run("audit", "gemmule", claims=tmp_path / "card.md")
    assert missing.code == 2
    assert missing.err.count("\n") == 1
    (tmp_path / "card.md").write_bytes(b"\xff\xfe\x00")
    assert run("audit", "gemmule", claims=tmp_path / "card.md").code == 2
    assert run("audit", tmp_path / "nowhere.gguf").code == 2


def test_numbers_are_read_as_written() -> None:
    found = quantities("~11 GB (F16: 35,206.24 MiB), 109e, v3, -1.52 pp, ~70%, 4-bit, 3.5x")
    assert [(q.value, q.unit) for q in found] == [
        (11.0, "GB"),
        (35206.24, "MiB"),
        (-1.52, "pp"),
        (70.0, "%"),
        (4.0, ""),
        (3.5, ""),
    ]
    assert [q.half for q in found[:4]] == [0.5, pytest.approx(0.005), pytest.approx(0.005), 5.0]


def test_small_samples_have_the_published_probabilities() -> None:
    """Against tables of the paired sign test, Fisher's exact test and the rule of three."""
    assert paired_at_best(3) == 0.25
    assert round(fisher(162, 159, 198, 198), 2) == 0.80
    assert round(fisher(46, 37, 50, 50), 3) == 0.031
    assert fisher(45, 24, 50, 50) < 1e-5
    assert fisher(46, 45, 50, 50) == pytest.approx(1.0)
    assert round(upper_bound(3), 2) == 0.56


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [True, False], ids=["header", "config"])
@pytest.mark.parametrize("card", CLAIMS)
def test_what_published_cards_state_wrongly_is_found_and_nothing_else(
    card: str, vocabulary: bool, real: Path, tmp_path: Path
) -> None:
    claims, path = CLAIMS[card], tmp_path / "card.md"
    path.write_text(claims.text, "utf-8")
    config = real / "config.json"
    if vocabulary:
        found = audit_model(real / "vocabulary.gguf", config=config, claims=path)
    else:
        found = audit_model(config, claims=path)
    for verdict, table in (("wrong", claims.wrong), ("unproven", claims.unproven)):
        reported = [finding for finding in found.claims if finding.verdict == verdict]
        for topic, said in table:
            hits = [f for f in reported if f.topic == topic and said in f.said]
            assert len(hits) == 1, f"not found: {topic}, {said!r}"
            reported.remove(hits[0])
        assert reported == [], "false: " + "; ".join(f.sentence() for f in reported)
    for reason in claims.reasons:
        assert any(reason in finding.sentence() for finding in found.claims), reason


def test_the_real_vocabulary_fits_its_family(real: Path) -> None:
    found = audit_model(real / "vocabulary.gguf", config=real / "config.json").file
    assert found is not None
    assert found.tensors == 0
    assert wrong(found) == []
    assert [finding.verdict for finding in of(found, "template")] == ["holds"]
    assert json.dumps(found.to_json())
