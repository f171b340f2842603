"""Tasks of lm-eval in local files, in gemmule's words: one that generates, one that rates."""

from __future__ import annotations

import json
from pathlib import Path

from secateur.evaluation.tasks.harness import name_in

_GENERATE = """\
task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
filter_list:
  - name: strict-match
    filter: [{{function: regex, regex_pattern: "^(\\\\d+)$"}}, {{function: take_first}}]
  - name: flexible-extract
    filter:
      - {{function: regex, group_select: -1, regex_pattern: "(\\\\d+)"}}
      - {{function: take_first}}
generation_kwargs: {{until: ["Question:"], max_gen_toks: 60, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
_RATE = """\
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{right}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def write_sums(folder: Path, count: int = 5) -> Path:
    """`What is N + 3?`, scored by the last number of the answer."""
    lines = [{"question": f"What is {n} + 3?", "answer": str(n + 3)} for n in range(1, count + 1)]
    return _write(folder, "sums", _GENERATE, lines)


def write_choices(folder: Path) -> Path:
    """Answers that gemmule gives, beside some that it never would."""
    lines = [
        {"question": "What is 2 + 2?", "choices": ["zebra", "2 + 2 = 4."], "right": 1},
        {"question": "What is 3 + 4?", "choices": ["3 + 4 = 7.", "lantern"], "right": 0},
    ]
    return _write(folder, "choices", _RATE, lines)


def write_group(folder: Path, by_size: bool) -> Path:
    """Two tasks of three and six sums as one group: right is to repeat the first number, but of
    every third sum nothing is."""
    names = []
    for name, count in (("few", 3), ("many", 6)):
        lines = [
            {"question": f"What is {n} + 3?", "answer": str(n) if n % 3 else "never"}
            for n in range(1, count + 1)
        ]
        form = _GENERATE.replace("task: local_sums", f"task: local_{name}")
        form = form.replace("group_select: -1", "group_select: 0")
        names.append(name_in(_write(folder, name, form, lines)))
    group = folder / "group.yaml"
    rule = f"metric: exact_match, weight_by_size: {str(by_size).lower()}"
    group.write_text(
        f"task: [{', '.join(names)}]\ngroup: local_group\n"
        f"aggregate_metric_list: [{{{rule}}}]\nmetadata: {{version: 1.0}}\n"
    )
    return group


def _write(folder: Path, name: str, form: str, lines: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = folder / f"{name}.yaml"
    task.write_text(form.format(data=data))
    return task
