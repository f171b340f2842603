"""A page for every file format: its module's own words, and its keys from the reader's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from page_parts import code, default_of, docstring, keys, table, value_of

from secateur.api import job, requests
from secateur.corpus import fields as corpus_fields
from secateur.corpus import mix, row_file
from secateur.evaluation.tokens import answers, prompts
from secateur.families import (
    expressions,
    format_rules,
    loading,
    ollama_rules,
    schema,
    vllm_rules,
)
from secateur.families.typed_tables import keys_of
from secateur.formats.ggml import tensor_type_file
from secateur.formats.imatrix import dat_file, matrix
from secateur.planning import document
from secateur.planning.keys import PLAN_KEYS
from secateur.pruning import drop_map
from secateur.recipes import layer_importance, layers, recipe
from secateur.release.keys import EVIDENCE_KEYS, MANIFEST_KEYS, REPORT_KEYS, RUN_KEYS
from secateur.statistics import sample_file, statistics, sums
from secateur.statistics.file import METADATA
from secateur.statistics.keys import HEADER_KEYS
from secateur.system import typed_yaml

JOB_SECTIONS: tuple[type, ...] = (
    requests.Job, requests.Pruning, requests.Formats, requests.Calibration, requests.Measuring,
    requests.Running,
)  # fmt: skip
"""A job and its sections, in the order of the page."""

FAMILY_TABLES: tuple[type, ...] = (
    loading.FamilyTable, schema.ShapeRules, schema.RouterRule, loading.Branch, schema.TensorRow,
    schema.PackedRule, schema.MemoryRules, schema.Published, format_rules.AlsoKey,
    format_rules.GgufRules,
    format_rules.TokenizerRules, format_rules.KeyRow, format_rules.GeneratedRow,
    format_rules.MlxRules, ollama_rules.OllamaRules, ollama_rules.OllamaRenderer,
    ollama_rules.GoTemplate, vllm_rules.VllmParsers,
)  # fmt: skip
"""The tables of a family's file, in the order of the page."""


def page(title: str, *parts: str) -> str:
    """A page of a title and parts, each apart."""
    return "\n\n".join((f"# {title}", *(part.strip() for part in parts))) + "\n"


def mixes() -> str:
    return page(
        "Mix (YAML)", docstring(mix), "## Keys", keys(mix.MIX_KEYS), "## Keys of a source",
        keys(mix.SOURCE_KEYS), "## fields", docstring(corpus_fields),
        keys(corpus_fields.FIELD_KEYS),
    )  # fmt: skip


def jobs() -> str:
    sections = [part for cls in JOB_SECTIONS for part in _job_section(cls)]
    return page("Job (YAML)", docstring(job), *sections)


def rows() -> str:
    return page("Rows (JSONL)", docstring(row_file), "## Keys", keys(row_file.ROW_KEYS))


def answers_and_prompts() -> str:
    return page(
        "Prompts and answers (JSONL)", docstring(prompts), "## Keys", keys(prompts.PROMPT_KEYS),
        "## Answers as secateur keeps them", docstring(answers), "The first line:",
        keys(answers.HEADER_KEYS), "Every other line:", keys(answers.ANSWER_KEYS),
    )  # fmt: skip


def recipes() -> str:
    return page(
        "Recipe (YAML)", docstring(recipe), "## Keys", keys(recipe.RECIPE_KEYS),
        "## Keys of a rule", keys(recipe.RULE_KEYS), "Roles are in [names.md](names.md#roles).",
        "## Layers and tiers", docstring(layers), "## llama-quantize's file of types",
        docstring(tensor_type_file),
    )  # fmt: skip


def drop_maps() -> str:
    return page("Drop map (JSON)", docstring(drop_map), "## Keys", keys(drop_map.DROP_MAP_KEYS))


def importance() -> str:
    return page("Layer importance (JSON)", docstring(layer_importance))


def families() -> str:
    tables = [part for cls in FAMILY_TABLES for part in _family_table(cls)]
    numbers = {
        "sections": 'sections of config.json that may hold the text model, "" for the top',
        **{name: f"the config's key for: {about}" for name, about in schema.NUMBERS.items()},
    }
    return page(
        "Family (TOML)", docstring(schema), docstring(loading), "## Keys of [config]",
        keys(numbers), *tables, "## Expressions", docstring(expressions),
    )  # fmt: skip


def plans() -> str:
    return page("Plan (JSON)", docstring(document), "## Keys", keys(PLAN_KEYS))


def outputs() -> str:
    return page(
        "Output folder: manifest, report and evidence (JSON)",
        "`manifest.json` is written last: a folder that has it is whole. `secateur verify` "
        "compares every file with it; files that were added since (README.md, .gitattributes) are "
        "listed and are no damage. `report.json` holds every number of what was lost, `report.md` "
        "the same for people, and `report.html` all that was measured as one page with pictures. "
        "`run.json` has the times of one run, which these pages show: the three are in no "
        "manifest, and neither is `evidence/speed.json`; all other files are the same for the same "
        "inputs. `verify` renders the pages again, and compares times with nothing. A dotted name "
        "is a key within a key, `*` stands for a name that depends on the output, `**` for "
        "anything below.",
        "## manifest.json", keys(MANIFEST_KEYS), "## report.json", keys(REPORT_KEYS),
        "## run.json", keys(RUN_KEYS),
        "## evidence/tasks.json, loops.json, speed.json",
        "What models did when they were asked: `--tasks`, `--loops` and `--speed`. Beside each "
        "file lie its questions and what came of them, an object a line: "
        "`evidence/tasks/ARTEFACT/TASK.jsonl`, `evidence/loops/ARTEFACT.jsonl`, "
        "`evidence/speed/ARTEFACT.jsonl`.",
        keys(EVIDENCE_KEYS),
    )  # fmt: skip


def statistics_files() -> str:
    return page(
        "Statistics (safetensors)", docstring(statistics),
        f"## Keys of the header (JSON, in the metadata under `{METADATA}`: the `document`, beside "
        "its `sha256`)", keys(HEADER_KEYS),
        "## Sums", docstring(sums),
        table(("sum", "kind"), [(code(name), kind) for name, kind in sums.BUILT_IN.items()]),
        "## Sample file", docstring(sample_file), docstring(sample_file.SampleDescription),
        _fields_table(sample_file.SampleDescription),
    )  # fmt: skip


def imatrices() -> str:
    return page(
        "Importance matrix", docstring(matrix), "## Keys", keys(matrix.IMATRIX_KEYS),
        "A GGUF that was quantized with it has these:", keys(matrix.QUANTIZE_KEYS),
        "## .dat", docstring(dat_file),
    )  # fmt: skip


FILES: Mapping[str, Callable[[], str]] = {
    "job": jobs,
    "mix": mixes,
    "rows": rows,
    "prompts-and-answers": answers_and_prompts,
    "recipe": recipes,
    "drop-map": drop_maps,
    "layer-importance": importance,
    "family": families,
    "plan": plans,
    "output": outputs,
    "statistics": statistics_files,
    "imatrix": imatrices,
}
"""{file's stem: its text}"""


def _fields_table(cls: type) -> str:
    """The fields of a dataclass that is written as JSON."""
    hints: dict[str, Any] = get_type_hints(cls)
    return table(
        ("key", "value", "default"),
        [(code(f.name), value_of(hints[f.name]), default_of(f)) for f in fields(cls)],
    )


def _job_section(cls: type) -> list[str]:
    hints: dict[str, Any] = get_type_hints(cls)
    lines = [
        (code(key), value_of(hints[key]), default_of(field))
        for key, field in typed_yaml.keys_of(cls).items()
    ]
    name = "the job" if cls is requests.Job else f"section `{cls.__name__.lower()}`"
    return [f"## Keys of {name}", docstring(cls), table(("key", "value", "default"), lines)]


def _family_table(cls: type) -> list[str]:
    hints: dict[str, Any] = get_type_hints(cls)
    lines = [
        (code(key), value_of(hints[field.name]), default_of(field))
        for key, field in keys_of(cls).items()
    ]
    text = docstring(cls)
    heading, _, rest = (
        text.partition(": ") if text.startswith("[") else ("Top of the file", "", text)
    )
    return [f"## {heading}", rest[:1].upper() + rest[1:], table(("key", "value", "default"), lines)]
