"""Every key of what lies in an output, for the reference; a test holds outputs against it.

A dotted name is a key within a key; `*` stands for a name that depends on the output.
"""

from __future__ import annotations

from secateur.checkpoint.reader import MODEL_KEYS
from secateur.planning.keys import SELECTION_KEYS

MADE_KEYS = {
    "model": "the model that it was made from",
    **{f"model.{key}": about for key, about in MODEL_KEYS.items()},
    "origin.license": "licence of the model, as its card says; so license_name and license_link",
    "origin.license_name": "its name, where license is other",
    "origin.license_link": "where its terms stand",
    "origin.pipeline_tag": "what the model does, as its card says",
    "origin.language": "its languages, as its card says: a list",
    "origin.steps": "how the model came about, first to last; the last is the model: a list",
    "origin.steps.model": "hub id, or folder's name",
    "origin.steps.revision": "commit of a hub id",
    "origin.steps.experts": "experts it kept in each layer",
    "origin.steps.of_experts": "of how many",
    "origin.steps.criterion": "criterion that they were chosen by",
    "origin.steps.drop_map": "or the drop map",
    "origin.steps.edited": "what a person changed in its plan, in sentences",
    "origin.steps.edits": "edits of its weights",
    "origin.steps.secateur": "version that made it",
    "origin.steps.relation": "base_model_relation of its card",
    "origin.steps.said_edited": "words of its tags and name that say its weights were edited",
    "origin.steps.said_pruned": "the same for pruned",
    "origin.steps.said_quantized": "the same for quantized",
    "origin.steps.told_by": "file that tells of this step; absent: the model itself",
    "experts": "experts in each layer",
    "selection": "how they were selected, as in the plan",
    **{f"selection.{key}": about for key, about in SELECTION_KEYS.items()},
    "plan_sha256": "sha256 of the plan, without the path of its model",
    "edited": "what a person changed in the plan, in sentences",
    "edits": "edits of weights; always empty so far",
    "codes_chosen_on": "cpu, or the GPU that codes were chosen on; absent: rounded to nearest",
    "calibration.tokens.*": "tokens of each category that experts were observed on",
    "calibration.samples": "documents",
    "calibration.skipped_tokens": "tokens left out as NaN or infinite",
    "calibration.coverage": "experts that saw few tokens, in sentences",
    "calibration.corpora.mix": "name of the mix",
    "calibration.corpora.rows_file": "name of the file of rows, instead",
    "calibration.corpora.sha256": "sha256 of the rows that were made of it",
    "calibration.warnings": "what was odd about the text",
}
"""What an output was made from."""

MANIFEST_KEYS = {
    "secateur": "version that made the output",
    **MADE_KEYS,
    "versions.*": "versions of Python and of the libraries that can change a result",
    "files": "every file of the output but this one",
    "files.*.bytes": "its size",
    "files.*.sha256": "its sha256",
    "manifest_sha256": "of all that the manifest says otherwise",
}
"""All keys of manifest.json."""

RUN_KEYS = {
    "runs": "the runs that made and measured the output; the last of each command: a list",
    "runs.command": "what was typed, of absolute paths the names only; empty for Python",
    "runs.ended": "when it ended, in UTC",
    "runs.seconds": "how long it took",
    "runs.stages.*": "seconds of a stage that this run did itself",
    "runs.machine.processor": "the processor's name",
    "runs.machine.cores": "cores that it may use",
    "runs.machine.memory_bytes": "memory that it may use",
    "runs.machine.system": "operating system",
    "runs.versions.*": "versions of secateur, of Python and of the libraries",
    "runs.estimate.**": "what was estimated before, where it was",
}
"""All keys of run.json."""

REPORT_KEYS = {
    "secateur": "version that measured",
    "original": "the original model",
    "original_bytes": "bytes of its weights",
    "made": "the facts of the manifest; empty for an artefact that is not ours",
    **{f"made.{key}": about for key, about in MADE_KEYS.items()},
    "sizes.*.predicted": "bytes of a format's files, as planned",
    "sizes.*.written": "bytes of its files",
    "pruned.*": "the experts of this layer that were dropped",
    "answers": "what was measured on",
    "answers.answers": "answers of the original",
    "answers.turns": "conversations of a corpus, whose own assistant turns are scored",
    "answers.documents": "documents of plain text",
    "answers.tokens": "tokens that are scored",
    "answers.finishes.*": "how many answers ended so: stop, length (cut) or given",
    "answers.sha256": "sha256 of the answers: the same, the same tokens",
    "answers.top_k": "most probable tokens of which the original's probabilities are kept",
    "answers.provenance.**": "how the answers were made: file or held-out share, template, model, "
    "who wrote them, settings, seed",
    "floor": "the original's own weights in another kernel: measurements, as those of artefacts",
    "floor.**": "as in artefacts.measurements",
    "artefacts": "everything that was measured: a list",
    "artefacts.name": "file or folder",
    "artefacts.bytes": "bytes of its weights",
    "artefacts.measurements.name": "the metric",
    "artefacts.measurements.value": "the number",
    "artefacts.measurements.unit": "its unit",
    "artefacts.measurements.n.*": "how many answers, documents, tokens stand behind it",
    "artefacts.measurements.low": "lower end of the interval; null where there is none",
    "artefacts.measurements.high": "upper end",
    "artefacts.measurements.confidence": "of the interval: 0.95",
    "artefacts.measurements.domain": "the domain, or pooled; of the routers the layer",
    "artefacts.measurements.kind": "answers, turns, documents, router (by layer), or engine "
    "(the same tokens in llama.cpp or mlx-lm)",
    "artefacts.worst_domain": "mean KL of the domain that lost most, as a measurement; null where "
    "there is one domain",
    "artefacts.worst_domain.**": "as in measurements",
    "notes": "what a person should know, in sentences",
    "gates": "the limits that were asked for",
}
"""All keys of report.json."""

_LOCK = "artefacts.facts.lock"
EVIDENCE_KEYS = {
    "kind": "tasks, loops or speed",
    "artefacts.name": "original, or file or folder",
    "artefacts.measurements.name": "the number's name",
    "artefacts.measurements.value": "the number",
    "artefacts.measurements.unit": "its unit",
    "artefacts.measurements.n.*": "how many items, replies, prompts or turns stand behind it",
    "artefacts.measurements.low": "lower end of the interval; null where there is none",
    "artefacts.measurements.high": "upper end",
    "artefacts.measurements.confidence": "of the interval: 0.95",
    "artefacts.measurements.domain": "the task, the prompts' domain, the engine, or pooled",
    "artefacts.measurements.kind": "tasks, loops or speed",
    f"{_LOCK}.sha256": "of all that the lock holds: models are compared where it is the same, but "
    "for the model's own hash",
    f"{_LOCK}.model": "sha256 of the file that answered",
    f"{_LOCK}.server.**": "engine, version and hash of its library, template, context, slots, "
    "flags",
    f"{_LOCK}.sent.**": "the sampler's settings and the seed, as they were sent",
    f"{_LOCK}.rules.**": "tasks: the protocol, the seed of the suites, and what a server does "
    "not do of it; loops: tokens and seeds",
    f"{_LOCK}.data.*": "sha256 of what was asked, by task; of loops under `loops`",
    "artefacts.facts.thinking.verdict": "tasks: whether the server does what the protocol says of "
    "thinking: yes, no or unknown; absent where it says nothing",
    "artefacts.facts.thinking.compared": "by token ids, or by text and usage",
    "artefacts.facts.thinking.findings.what": "what was looked for",
    "artefacts.facts.thinking.findings.holds": "yes, no or unknown",
    "artefacts.facts.thinking.findings.seen": "what was seen",
    "facts.tasks": "tasks: their names",
    "facts.protocol": "tasks: how questions were put",
    "facts.seed": "tasks, loops: decides what is asked",
    "facts.calibration_overlap": "tasks: an empty list where nothing was calibrated here",
    "facts.calibration_overlap.**": "tasks: what the calibration saw of each task's items",
    "facts.groups.*.tasks": "tasks: the tasks of a group; where there is one",
    "facts.groups.*.by_size": "tasks: whether in a group every question counts the same, else "
    "every task",
    "facts.prompts.**": "loops: the plan or file of prompts, its hash, how many",
    "facts.count": "loops: prompts asked for",
    "facts.seeds": "loops: replies to each prompt",
    "facts.tokens": "loops: tokens of a reply at most",
    "facts.temperature": "loops: as asked for; null for the model's own",
    "facts.detectors.*.threshold": "loops: from which strength on a detector counts",
    "facts.detectors.*.finds": "loops: what it finds",
    "facts.turns": "speed: turns of each model",
    "facts.prompt_tokens": "speed: length of a prompt",
    "facts.answer_tokens": "speed: length of an answer",
    "facts.machine.*": "speed: processor, cores, memory_bytes, system",
    "facts.threads": "speed: threads of the engine",
    "facts.gpu_layers": "speed: layers on a GPU; null for as many as fit",
    "facts.engines.*.*": "speed: versions of the engine's packages",
    "notes": "what a person should know, in sentences",
}
"""All keys of evidence/tasks.json, loops.json and speed.json."""
