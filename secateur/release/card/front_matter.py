"""The front matter of a card: what the Hub reads, checked against what the Hub knows.

Values are facts, or words of `HubTerms`; huggingface_hub gives the keys their form, and what it
wrote is read back before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import CardError
from secateur.release.card.asked import ACCURACY, Task, tasks_of
from secateur.release.card.facts import DECLARED, Fact
from secateur.release.card.hub_terms import hub_terms
from secateur.release.card.lineage import edited_words, edits_of_output
from secateur.release.card.measured import artefacts_in
from secateur.release.card.scope import Scope
from secateur.release.card.shown import Shown, show
from secateur.release.evidence import evidence_file

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TEXT, IMAGE = "text-generation", "image-text-to-text"


def front_matter_of(scope: Scope) -> Mapping[str, Any]:
    """{key: shown values and words} in the order in which they are written.

    Raises CardError for a licence that the Hub does not know and that has no name.
    """
    license_ = _license(scope)
    base = base_model_of(scope)
    tags = _tags(scope)
    return {
        "language": [show(one, "scalar") for one in _origin(scope, "language") or ()],
        **license_,
        **({"base_model": show(base, "scalar"), "base_model_relation": relation_of(scope)}
           if base else {}),
        **({"library_name": library} if (library := _library(scope)) else {}),
        "pipeline_tag": pipeline_tag_of(scope),
        "quantized_by": _quantized_by(scope),
        "tags": tags,
        "model-index": _model_index(scope),
    }  # fmt: skip


def base_model_of(scope: Scope) -> Fact | None:
    """The nearest model before this output that has a hub id: as the releaser says, or the last
    such step; None where there is none."""
    declared = scope.results.at(DECLARED, ("base_model",))
    if declared is not None:
        return declared
    steps = list(scope.results.manifest.get("origin", "steps") or ())
    models = [step.get("model") for step in reversed(steps)]
    models.append(scope.results.manifest["model"]["source"])
    return next((one for one in models if one and HUB_ID.fullmatch(str(one.value))), None)


def relation_of(scope: Scope) -> str:
    """What the output is to its base model, as the Hub calls it.

    Pruned weights that can be trained on are a finetune, the only word of the Hub's that fits;
    everything else that we write is quantized.
    """
    return "finetune" if scope.is_pruned and scope.of("safetensors") else "quantized"


def pipeline_tag_of(scope: Scope) -> str:
    """What the model does. One that sees does so only with its tower among the files."""
    said = _origin(scope, "pipeline_tag")
    word = str(said.value) if said and said.value in hub_terms().pipeline_tags else TEXT
    with_tower = scope.results.at("config.json", ("vision_config",)) and scope.of("safetensors")
    return TEXT if word == IMAGE and not (with_tower or scope.of("mmproj")) else word


def check_terms(front: Mapping[str, Any]) -> None:
    """Raise CardError for a word of front matter that the Hub does not know."""
    terms = hub_terms()
    for key, known in (
        ("base_model_relation", terms.relations),
        ("library_name", terms.libraries),
        ("pipeline_tag", terms.pipeline_tags),
        ("license", terms.licenses),
    ):
        word = front.get(key)
        if word is not None and word not in known:
            raise CardError(
                f"{key} is {word!r}, which the Hub does not know: expected one of "
                f"{', '.join(known[:8])}, ... (secateur/release/card/data/hub.toml)"
            )
    for base in [front["base_model"]] if isinstance(front.get("base_model"), str) else []:
        if not HUB_ID.fullmatch(base):
            raise CardError(f"base_model is {base!r}, expected a hub id (owner/name)")
    if front.get("license") == "other" and not front.get("license_name"):
        raise CardError("license is 'other' without a license_name: name it with --license-name")


def _model_index(scope: Scope) -> list[Any]:
    """The tasks' accuracies as huggingface_hub forms them; the metric's name is the artefact's."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    tasks = _of_one(scope, tasks_of(scope))
    names = {task.accuracy.domain.text: show(task.fact["domain"], "scalar") for task in tasks}
    results = [
        EvalResult(
            task_type=TEXT,
            dataset_type=names[task.accuracy.domain.text],  # type: ignore[arg-type]
            dataset_name=names[task.accuracy.domain.text],  # type: ignore[arg-type]
            metric_type=ACCURACY,
            metric_name=show(task.artefact.fact, "scalar"),  # type: ignore[arg-type]
            metric_value=show(task.fact["value"], "scalar"),
        )
        for task in tasks
    ]
    if not results:
        return []
    name = show(scope.results.manifest["model"]["source"], "scalar")
    return list(eval_results_to_model_index(name, results))  # type: ignore[arg-type]


def _of_one(scope: Scope, tasks: Sequence[Task]) -> list[Task]:
    """Of a ladder's tasks those of its largest artefact that was asked: the Hub shows them as the
    model's."""
    if not scope.is_ladder or not tasks:
        return list(tasks)
    content = scope.results.file(evidence_file("tasks"))
    report = scope.results.report or content
    asked = {task.artefact.text for task in tasks}
    sizes = {one.value["name"]: one.value.get("bytes", 0) for one in artefacts_in(scope, report)}
    largest = max(sorted(asked), key=lambda name: sizes.get(name, 0))
    return [task for task in tasks if task.artefact.text == largest]


def _license(scope: Scope) -> dict[str, Shown | str]:
    """The model's own licence, or what the releaser says. An unknown one is "other" by its name."""
    found = {
        key: scope.results.at(DECLARED, (key,)) or _origin(scope, key)
        for key in ("license", "license_name", "license_link")
    }
    name, link = found["license_name"], found["license_link"]
    license_ = found["license"]
    if license_ is None:
        return {}
    front: dict[str, Shown | str] = {}
    if license_.value in hub_terms().licenses:
        front["license"] = show(license_, "scalar")
    else:
        front["license"], name = "other", name or license_
    if name is not None:
        front["license_name"] = show(name, "scalar")
    if link is not None:
        front["license_link"] = show(link, "scalar")
    elif link_known := hub_terms().license_links.get(str(license_.value)):
        front["license_link"] = link_known
    return front


def _library(scope: Scope) -> str | None:
    """What loads the repository; None for GGUF, which the Hub knows by its files."""
    if scope.of("safetensors"):
        return "transformers"
    return "mlx" if scope.of("mlx") and not scope.of("gguf") else None


def _quantized_by(scope: Scope) -> Shown | str:
    declared = scope.results.at(DECLARED, ("quantized_by",))
    return show(declared, "scalar") if declared else "secateur"


def _tags(scope: Scope) -> Sequence[Shown | str]:
    """What was done and with what; words by which an earlier model says that it was edited stay."""
    made = scope.results.manifest
    words: list[Shown | str] = ["secateur", "moe"]
    if scope.is_pruned:
        words += ["expert-pruning", "pruned"]
        if criterion := made.get("selection", "criterion"):
            words.append(show(criterion, "scalar"))
    words += [to for to in ("gguf", "mlx") if scope.of(to)]
    if scope.of("gguf") and made.get("selection", "imatrix"):
        words.append("imatrix")
    if edits_of_output(scope):
        words.append("edited")
    return [*words, *(show(word, "scalar") for word in edited_words(scope))]


def _origin(scope: Scope, key: str) -> Fact | None:
    return scope.results.manifest.get("origin", key)
