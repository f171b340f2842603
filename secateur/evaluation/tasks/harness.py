"""Tasks of lm-eval: its definitions, filters and metrics, with our asking.

Files of a user's own need no network; tasks by name take their data from the hub.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur.errors import EngineError, RequestError, SecateurError
from secateur.evaluation.asking.lock import hash_json
from secateur.evaluation.asking.reply import WHOLE, Outcome
from secateur.evaluation.tasks.asker import Asker
from secateur.evaluation.tasks.group import GroupResult, GroupRule
from secateur.evaluation.tasks.nltk_data import fetching_is_checked
from secateur.evaluation.tasks.result import ItemResult, TaskResult
from secateur.system.text_files import LARGEST_SETTINGS, read_text

if TYPE_CHECKING:
    from lm_eval.api.group import Group

    from secateur.evaluation.tasks.harness_model import AskingModel

_PREFERRED = ("flexible-extract", "none")
"""Filters whose reading of an answer counts, where the protocol names none; else the first."""
_METRICS = ("exact_match", "acc", "prompt_level_strict_acc", "pass@1")
"""Metrics that count as the accuracy, the first that a task has; else its first one."""
_INVALID = "[invalid]"
_RESAMPLES = 100
"""Of lm-eval's bootstrap, for metrics that are no means; a mean has its standard error without."""
_TASK = re.compile(r"^(?:task|group):[^\S\n]*['\"]?([\w./-]+)", re.MULTILINE)

Samples = Sequence[Mapping[str, Any]]


class HarnessResults(NamedTuple):
    """All tasks that were asked, those of groups too, and the numbers of the groups."""

    results: tuple[TaskResult, ...]
    groups: tuple[GroupResult, ...]


def check_harness(files: Sequence[Path], names: Sequence[str]) -> None:
    """Raise RequestError where lm-eval is not installed, or a file names no task."""
    if (files or names) and importlib.util.find_spec("lm_eval") is None:
        raise RequestError(
            f"{[*map(str, files), *names][0]} is a task for lm-eval, which is not installed here: "
            'pip install "secateur[tasks]"'
        )
    for file in files:
        name_in(file)


def name_in(file: Path) -> str:
    """The name of the task or group that a YAML file of lm-eval defines. Raises RequestError."""
    text = read_text(file, "a task of lm-eval in YAML", RequestError, LARGEST_SETTINGS)
    found = _TASK.search(text)
    if found is None:
        raise RequestError(f"{file} has no line `task: NAME`: it is no task of lm-eval")
    return found[1]


def ask_harness(
    files: Sequence[Path], names: Sequence[str], asker: Asker, limit: int | None
) -> HarnessResults:
    """Ask tasks of lm-eval, those in `files` and those by name.

    Raises RequestError for a task that there is not, that needs what this server cannot do, or
    whose data cannot be fetched; EngineError when the server ends.
    """
    import lm_eval

    from secateur.evaluation.tasks.harness_model import AskingModel, KeepingManager

    model = AskingModel(asker)
    with _explained(files, names):
        tasks = KeepingManager(
            include_path=[str(folder) for folder in dict.fromkeys(one.parent for one in files)],
            include_defaults=bool(names),
        )
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[*map(name_in, files), *names],
            task_manager=tasks,
            num_fewshot=asker.protocol.shots,
            limit=limit,
            apply_chat_template=True,
            bootstrap_iters=_RESAMPLES,
            log_samples=True,
        )
    results = tuple(
        _result(task, samples, str(found["versions"].get(task, "")), model, asker)
        for task, samples in found["samples"].items()
    )
    groups = (
        _group(group, found["groups"][name], asker)
        for name, group in tasks.groups.items()
        if name in found.get("groups", {})
    )
    return HarnessResults(results, tuple(one for one in groups if one is not None))


@contextmanager
def _explained(files: Sequence[Path], names: Sequence[str]) -> Iterator[None]:
    """lm-eval's errors in our words, its log no louder than ours, and what its tasks print (where
    they fetch something) kept out of a command's output."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr), fetching_is_checked():
            yield
    except SecateurError:
        raise
    except Exception as error:  # of whatever a task's data need: the hub, files, code of its own
        said = " ".join(str(error).split()) or type(error).__name__
        asked = ", ".join([*map(str, files), *names])
        if isinstance(error, KeyError) and "not a registered task" in said:
            raise RequestError(
                f"lm-eval has no task {', '.join(names)} ({said:.120}): `lm-eval ls tasks` lists "
                "them; a file of your own is named with its ending, as in ./mine.yaml"
            ) from None
        if isinstance(error, ImportError):
            raise RequestError(
                f"{asked} needs a package of Python that is not installed here ({said:.200}): "
                "install it with pip"
            ) from None
        if isinstance(error, OSError) and names:
            raise RequestError(
                f"the data of {', '.join(names)} could not be had from the hub ({said:.200}): go "
                "online (HF_ENDPOINT names a mirror, HF_TOKEN opens gated data); what was fetched "
                "once is found with HF_HUB_OFFLINE=1, and a file of your own with local data (as "
                "in ./mine.yaml) or a built-in suite needs no hub"
            ) from None
        what = f"lm-eval could not load or run {asked} ({type(error).__name__}: {said:.300})"
        if not names:
            raise RequestError(f"{what}: what the file says is not what its data have") from None
        raise EngineError(what) from None
    finally:
        logger.setLevel(level)


def _result(
    task: str, samples: Samples, version: str, model: AskingModel, asker: Asker
) -> TaskResult:
    """One item for each document: what the filter that counts made of it."""
    filters = list(dict.fromkeys(str(sample.get("filter", "none")) for sample in samples))
    wanted = (asker.protocol.filter, *_PREFERRED)
    chosen = next((one for one in wanted if one in filters), filters[0])
    counted = [one for one in samples if str(one.get("filter", "none")) == chosen]
    metric = _metric(counted)
    hashes = [[one["doc_hash"], one["prompt_hash"], one["target_hash"]] for one in counted]
    return TaskResult(
        task,
        tuple(_item(task, one, metric, model, asker) for one in counted),
        hash_json([hashes, chosen, metric]),
        version,
        metric if chosen == "none" else f"{metric}, {chosen}",
    )


def _group(group: Group, numbers: Mapping[str, Any], asker: Asker) -> GroupResult | None:
    """The number of a group that counts: of its metrics and filters the first as of a task's; None
    where lm-eval gives none."""
    keys = [key for key in numbers if "," in key and "_stderr," not in key]
    wanted = (asker.protocol.filter, *_PREFERRED)

    def rank(key: str) -> tuple[int, int]:
        metric, _, name = key.partition(",")
        places = (_METRICS, metric), (wanted, name)
        first, second = (all.index(one) if one in all else len(all) for all, one in places)
        return first, second

    if not keys:
        return None
    chosen = min(keys, key=rank)
    metric, _, name = chosen.partition(",")
    listed = group.aggregate_metric_list or ()
    by_size = next(one.weight_by_size for one in listed if one.metric == metric)
    stderr = numbers.get(f"{metric}_stderr,{name}")
    return GroupResult(
        group.name,
        GroupRule(tuple(task.task_name for task in group.get_all_tasks()), by_size),
        metric if name == "none" else f"{metric}, {name}",
        float(numbers[chosen]),
        float(stderr) if isinstance(stderr, int | float) else None,
        int(numbers["sample_count"][chosen]),
        metric in _METRICS,
    )


def _item(
    task: str, sample: Mapping[str, Any], metric: str, model: AskingModel, asker: Asker
) -> ItemResult:
    place = (task, int(sample["doc_id"]))
    reply, question = model.replies[place], model.questions[place]
    outcome, read = asker.outcome(reply), _read(sample)
    score: float | None = float(sample[metric])
    if outcome in WHOLE and read in (_INVALID, "") and reply.loglikelihood is None:
        outcome = Outcome.UNPARSED
    if outcome in (Outcome.EMPTY, Outcome.SERVER_ERROR, Outcome.UNPARSED):
        score = None
    return ItemResult(
        task,
        str(sample["doc_id"]),
        outcome,
        score,
        read,
        sample.get("target"),
        facts=reply.facts(),
        question=question,
    )


def _read(sample: Mapping[str, Any]) -> str | None:
    """What the filters left of an answer, as text; None for rated answers."""
    found = sample.get("filtered_resps")
    first = found[0] if isinstance(found, list | tuple) and found else found
    if isinstance(first, list | tuple) and len(found or ()) == 1:
        first = first[0] if first else ""
    return first.strip() if isinstance(first, str) else None


def _metric(samples: Samples) -> str:
    """The name of the metric that counts as the accuracy: one that every question has, between 0
    and 1. Raises RequestError for none."""
    first = samples[0]["metrics"]
    names = [str(name) for name in first if all(_is_share(one.get(name)) for one in samples)]
    found: str | None = next((name for name in (*_METRICS, *names) if name in names), None)
    if found is None:
        raise RequestError(
            f"the task gives no number between 0 and 1 for each question ({', '.join(first)}): it "
            "cannot be compared in pairs, so leave it out"
        )
    return found


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1
