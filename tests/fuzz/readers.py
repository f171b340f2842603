"""Every reader of a stranger's file, as a function of a path, with good files to begin from."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from mutate import Choices, mutate_bytes, mutate_document, mutate_header

from secateur.api.job_file import read_job
from secateur.audit.gguf.identify import identify
from secateur.audit.gguf.source import Header
from secateur.checkpoint.headers import framework_of, read_header
from secateur.checkpoint.model_card import read_front_matter
from secateur.checkpoint.reader import open_checkpoint, open_shape
from secateur.corpus.bounded_templates import BoundedEnvironment
from secateur.corpus.fields import FIELDS, hash_content, parse_fields, read_content
from secateur.corpus.json_lines import read_json_lines
from secateur.corpus.load import check_mix
from secateur.corpus.row_file import load_rows
from secateur.errors import CorpusError, InputError
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.tasks.inspect_log import read_inspect_log
from secateur.evaluation.tokens.answers import load_answers
from secateur.evaluation.tokens.prompts import check_lines
from secateur.formats.ggml.tensor_type_file import read_tensor_types
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.sentencepiece import read_pieces
from secateur.formats.gguf.vocabulary import read_vocabulary
from secateur.formats.imatrix.coverage import measure_coverage
from secateur.formats.imatrix.file import open_imatrix
from secateur.planning.document import read_plan, to_json
from secateur.pruning.drop_map import read_drop_map
from secateur.recipes.layer_importance import read_layer_importance
from secateur.recipes.recipe import read_recipe, shipped_recipes
from secateur.release.evidence import KINDS, read_evidence
from secateur.release.manifest import verify
from secateur.release.ollama.go_template.lexer import GoTemplateError
from secateur.release.ollama.go_template.parser import parse_template
from secateur.release.ollama.modelfile import parse_modelfile
from secateur.release.pages import check_pages, write_pages
from secateur.statistics.coverage import coverage
from secateur.statistics.file import load

Mutate = Callable[[bytes, Choices], bytes]


@dataclass(frozen=True)
class Goods:
    """Good files: a model, its corpus, statistics, and an output of it."""

    model: Path
    corpus: Path
    rows: Path
    answers: Path
    made: Path

    @property
    def stats(self) -> Path:
        return self.made / "evidence" / "statistics.safetensors"


@dataclass(frozen=True)
class Reader:
    """A reader: `good` gives the file to begin from, `read` takes the path of a bad one.

    `place` is where the file lies in a folder; with `around` the folder is a copy of a good one.
    """

    name: str
    mutate: Mutate
    good: Callable[[Goods], bytes]
    read: Callable[[Path], object]
    place: str = "file"
    around: Callable[[Goods], Path] | None = None


def _content(name: str) -> Callable[[Goods], bytes]:
    return lambda goods: (goods.made / name).read_bytes()


def _of_model(name: str) -> Callable[[Goods], bytes]:
    return lambda goods: (goods.model / name).read_bytes()


def _text(text: str) -> Callable[[Goods], bytes]:
    return lambda goods: text.encode()


def _header(path: Path) -> object:
    found = read_header(path)
    return found, framework_of(path)


def _config(path: Path) -> object:
    found = open_shape(path)
    return found.facts(), found.nbytes


def _index(path: Path) -> object:
    return open_checkpoint(path.parent).facts()


def _small_gguf(goods: Goods) -> bytes:
    """The header of a real file, and zeros for its tensors."""
    path = next(goods.made.glob("*Q8_0.gguf"))
    return path.read_bytes()


def _gguf(path: Path) -> object:
    gguf = read_gguf(path)
    return identify([Header(str(path), path.name, gguf, path.stat().st_size)])


def _dat(goods: Goods) -> bytes:
    from secateur.formats.imatrix.dat_file import write_dat

    path = goods.made.parent / "fuzz.dat"
    write_dat(path, open_imatrix(goods.made / "imatrix.gguf"))
    content = path.read_bytes()
    path.unlink()
    return content


def _plan(path: Path) -> object:
    return to_json(read_plan(path))


def _statistics(path: Path) -> object:
    return coverage(load(path))


def _lines(path: Path) -> object:
    fields = parse_fields(FIELDS, "fuzz")
    check_lines(path)
    return [
        hash_content(read_content(record, fields, ("<think>", "</think>"), "fuzz"), "fuzz")
        for record in read_json_lines(path).records
    ]


def _template(path: Path) -> object:
    messages = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c" * 50}]
    try:
        template = BoundedEnvironment(trim_blocks=True).from_string(
            path.read_text("utf-8", "replace")
        )
        return template.render(messages=messages, tools=None, add_generation_prompt=True)
    except MemoryError:
        raise
    except Exception as error:  # as `render_chat` takes it
        raise CorpusError(str(error)) from error


def _go_template(path: Path) -> object:
    try:
        return parse_template(path.read_text("utf-8", "replace"))
    except GoTemplateError as error:
        raise InputError(str(error)) from error


def _modelfile(path: Path) -> object:
    return parse_modelfile(path.read_text("utf-8", "replace"), "Modelfile")


def _ledger(path: Path) -> object:
    with Ledger(path) as ledger:
        return ledger.find("k")


def _output(path: Path) -> object:
    folder = path.parent
    if path.parent.name == "evidence":
        folder = folder.parent
    found = verify(folder), check_pages(folder)
    write_pages(folder)
    return found


def _evidence(path: Path) -> object:
    return [read_evidence(path.parent.parent, kind) for kind in KINDS]


def _log(goods: Goods) -> bytes:
    sample = {
        "id": 1,
        "epoch": 1,
        "input": "a",
        "target": "b",
        "scores": {"m": {"value": "C", "answer": "b"}},
        "output": {
            "choices": [{"message": {"content": "b"}, "stop_reason": "stop"}],
            "usage": {"input_tokens": 3, "output_tokens": 4},
        },
    }
    header = {"eval": {"task": "t", "model": "m", "task_args": {}}, "plan": {"config": {}}}
    return json.dumps({**header, "samples": [sample]}).encode()


def _zipped_log(goods: Goods) -> bytes:
    whole = json.loads(_log(goods))
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as log:
        log.writestr("header.json", json.dumps({"eval": whole["eval"], "plan": whole["plan"]}))
        log.writestr("samples/1.json", json.dumps(whole["samples"][0]))
    return content.getvalue()


def _pieces(goods: Goods) -> bytes:
    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    pieces = [field(1, name) + b"\x15\0\0\x80\x3f\x18\1" for name in (b"a", b"b", b"ab")]
    return b"".join(field(1, piece) for piece in pieces) + field(2, b"\x18\2")


def _recipe(goods: Goods) -> bytes:
    import secateur.recipes as package

    name = next(iter(shipped_recipes()))
    return (Path(str(package.__file__)).parent / "data" / f"{name}.yaml").read_bytes()


LEDGER = {"key": "k", "task": "t", "id": "1", "reply": {"content": "a", "seconds": 1.0}}
JOB = "model: gemmule\npruning:\n  experts: 24\nformats:\n  types: [Q4_K_M, Q8_0]\nout: new\n"
MIX = (
    "name: a\ntokens: 100\nsources:\n- name: a\n  path: a.jsonl\n  weight: 1\n  fields: {text: t}\n"
)
FAMILY = (
    'title = "a"\nextends = ["_decoder", "_attention", "_split_experts"]\nmodel_types = ["x"]\n'
)
FAMILY += '[config]\nexperts = ["num_experts"]\n[router]\nscore = "softmax"\nnormalise = "norm"\n'
TEMPLATE = "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] | trim | replace('a', 'b') }}"
TEMPLATE += "{% if loop.last and add_generation_prompt %}{{ '%s' % (m.content[1:]) }}{% endif %}"
TEMPLATE += "{% endfor %}{% set n = namespace(x='a') %}{{ n.x * 3 + tools | tojson(indent=2) }}"
GO = '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}<u>{{ $m.Content }}{{ else }}'
GO += '{{ printf "%s" .X | len }}{{ end }}{{ end }}{{ .Response }}'
MODELFILE = 'FROM ./a.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<end>"\nSYSTEM hi\n'
CARD = "---\nlicense: mit\nbase_model:\n- a/b\ntags: [x, y]\n---\n# A card\n"


def _family(path: Path) -> object:
    return open_shape(_family.model, family=path)  # type: ignore[attr-defined]


READERS = (
    Reader("header", mutate_header, _of_model("model.safetensors"), _header),
    Reader("config", mutate_document, _of_model("config.json"), _config),
    Reader("gguf", mutate_bytes, _small_gguf, _gguf),
    Reader("vocabulary", mutate_bytes, _small_gguf, read_vocabulary),
    Reader(
        "imatrix",
        mutate_bytes,
        _content("imatrix.gguf"),
        lambda path: measure_coverage(open_imatrix(path, 8), 32),
    ),
    Reader(
        "imatrix dat", mutate_bytes, _dat, lambda path: measure_coverage(open_imatrix(path, 6), 32)
    ),
    Reader("statistics", mutate_header, lambda goods: goods.stats.read_bytes(), _statistics),
    Reader("plan", mutate_document, _content("plan.json"), _plan),
    Reader("job", mutate_bytes, _text(JOB), read_job),
    Reader("resolved job", mutate_bytes, _content("job.yaml"), read_job),
    Reader("mix", mutate_bytes, _text(MIX), check_mix, "mix.yaml"),
    Reader("recipe", mutate_bytes, _recipe, read_recipe, "recipe.yaml"),
    Reader(
        "types",
        mutate_bytes,
        _text("blk.0.attn_q=q6_k\n^blk\\.(1|2)\\.=q5_k a=f16\n"),
        read_tensor_types,
    ),
    Reader("family", mutate_bytes, _text(FAMILY), _family, "f.toml"),
    Reader(
        "drop map",
        mutate_document,
        _content("expert_drop_metadata.json"),
        lambda path: read_drop_map(path, 8, (0, 1)),
    ),
    Reader(
        "layer importance",
        mutate_document,
        _text("[1.0, 2.0]"),
        lambda path: read_layer_importance(path, 2),
    ),
    Reader("corpus", mutate_bytes, lambda goods: goods.corpus.read_bytes(), _lines),
    Reader(
        "rows", mutate_bytes, lambda goods: goods.rows.read_bytes(), lambda p: load_rows(p, 384)
    ),
    Reader(
        "answers",
        mutate_bytes,
        lambda goods: goods.answers.read_bytes(),
        lambda path: load_answers(path, 384),
    ),
    Reader("chat template", mutate_bytes, _text(TEMPLATE), _template),
    Reader("go template", mutate_bytes, _text(GO), _go_template),
    Reader("modelfile", mutate_bytes, _text(MODELFILE), _modelfile),
    Reader(
        "model card", mutate_bytes, _text(CARD), lambda p: read_front_matter(p.parent), "README.md"
    ),
    Reader("sentencepiece", mutate_bytes, _pieces, read_pieces),
    Reader("ledger", mutate_document, _text(json.dumps(LEDGER)), _ledger),
    Reader("inspect log", mutate_document, _log, read_inspect_log, "log.json"),
    Reader("zipped log", mutate_bytes, _zipped_log, read_inspect_log, "log.eval"),
    Reader(
        "manifest",
        mutate_document,
        _content("manifest.json"),
        lambda path: verify(path.parent),
        "manifest.json",
        lambda goods: goods.made,
    ),
    Reader(
        "report",
        mutate_document,
        _content("report.json"),
        _output,
        "report.json",
        lambda goods: goods.made,
    ),
    Reader(
        "runs", mutate_document, _content("run.json"), _output, "run.json", lambda goods: goods.made
    ),
)


def prepare(reader: Reader, goods: Goods, folder: Path) -> Path:
    """The path where the bad file is to lie, everything around it in place."""
    if reader.around is not None:
        shutil.copytree(reader.around(goods), folder, dirs_exist_ok=True)
        for large in [*folder.glob("*.gguf"), *folder.glob("*.safetensors")]:
            large.unlink()
    _family.model = goods.model  # type: ignore[attr-defined]
    path = folder / reader.place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def attempt(reader: Reader, good: bytes, path: Path, data: bytes | None) -> Any:
    """One run; without `data` of the good file. Raises whatever is no InputError."""
    path.write_bytes(good if data is None else reader.mutate(good, Choices(data)))
    try:
        return reader.read(path)
    except InputError as error:
        text = str(error)
        assert "\n" not in text.strip() or len(text) < 4000
        return None
