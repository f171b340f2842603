"""Logs of inspect-ai (`.eval`, or `.json`) as results of a task: what a user ran elsewhere.

A `.eval` file is a ZIP of JSON: `header.json`, and a file for each sample and epoch. Only what is
needed is read, so no part of inspect-ai has to be installed. Its files are compressed with
Zstandard (inspect-ai 0.3.285), which Python's zipfile does not know; pyarrow does, and lm-eval
brings that.
"""

from __future__ import annotations

import importlib.util
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import RequestError
from secateur.evaluation.asking.lock import RunLock, hash_json
from secateur.evaluation.asking.reply import WHOLE, Outcome, Reply, outcome_of
from secateur.evaluation.tasks.result import ItemResult, TaskResult
from secateur.system import strict_json
from secateur.system.text_files import MIB, explain, need_file, read_json

ENDING = ".eval"
ENDINGS = (ENDING, ".json")
_LARGEST, _LARGEST_LOG = 64 * MIB, 1024 * MIB
"""Bytes of one sample and of a whole log at most, unpacked."""
_ZSTANDARD, _HEADER, _NAME_LENGTH = 93, 30, 26
"""ZIP's number of the method; bytes of a file's header before its name, and where in it the lengths
of that and of what follows it are (APPNOTE.TXT 6.3.10, 4.3.7 and 4.4.5)."""
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""inspect-ai's letters: correct, incorrect, partial, no answer."""
_FINISHES = {"max_tokens": "length", "model_length": "length"}


@dataclass(frozen=True)
class InspectLog:
    """One task that one model was asked, and the conditions as far as the log has them."""

    model: str
    result: TaskResult
    lock: RunLock


def read_inspect_log(path: Path) -> InspectLog:
    """Read a log. Raises RequestError for a file that is none, or has no scored sample."""
    try:
        return _log(path, *_load(path))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RequestError(
            f"{path} is no log of inspect-ai that can be read ({explain(error)})"
        ) from None


def _log(path: Path, header: Mapping[str, Any], samples: list[dict[str, Any]]) -> InspectLog:
    evaluated = header["eval"]
    items = tuple(_item(str(evaluated["task"]), sample) for sample in samples)
    inputs = [[one["id"], one.get("input"), one.get("target")] for one in samples]
    if not items:
        raise RequestError(f"{path} has no samples: it is the log of a run that was not begun")
    result = TaskResult(
        str(evaluated["task"]),
        items,
        hash_json(inputs),
        str(evaluated.get("task_version", "")),
        _scorer(samples[0]),
    )
    sent = {**(header.get("plan") or {}).get("config", {})}
    sent |= evaluated.get("model_generate_config") or {}
    lock = RunLock(
        str(evaluated.get("model", "")),
        {"engine": "inspect-ai", "packages": evaluated.get("packages") or {}},
        sent,
        {"arguments": evaluated.get("task_args") or {}},
        {result.task: result.sha256},
    )
    return InspectLog(str(evaluated.get("model", "")), result, lock)


def _load(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and all samples, in the order of their ids and epochs."""
    if path.suffix != ENDING:
        whole = read_json(path, "a log of inspect-ai", RequestError)
        return whole, _ordered(whole.get("samples") or [])
    try:
        need_file(path)
        with zipfile.ZipFile(path) as log:
            names = [name for name in log.namelist() if name.startswith("samples/")]
            start = "header.json" if "header.json" in log.namelist() else "_journal/start.json"
            if sum(log.getinfo(name).file_size for name in names) > _LARGEST_LOG:
                raise RequestError(
                    f"{path}: all samples together have more than {_LARGEST_LOG // MIB} MiB "
                    "unpacked: no log of one task has"
                )
            found = [strict_json.loads(_read(log, path, name)) for name in (start, *names)]
            return found[0], _ordered(found[1:])
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, RuntimeError, zlib.error, EOFError, lzma.LZMAError) as error:
        raise RequestError(
            f"{path} is not a ZIP that can be read ({error}): `inspect log convert --to json` "
            "makes a file that can"
        ) from None


def _read(log: zipfile.ZipFile, path: Path, name: str) -> bytes:
    """The content of a file in the ZIP. Raises BadZipFile, NotImplementedError, RequestError."""
    entry = log.getinfo(name)
    if entry.file_size > _LARGEST:
        raise RequestError(
            f"{path}: {name} has more than {_LARGEST // MIB} MiB, expected one sample or the header"
        )
    if entry.compress_type != _ZSTANDARD:
        return log.read(entry)
    if importlib.util.find_spec("pyarrow") is None:
        raise RequestError(
            f"{path} is compressed with Zstandard, which needs pyarrow: pip install "
            '"secateur[tasks]", or `inspect log convert --to json` makes a file that does not'
        )
    import pyarrow

    with path.open("rb") as file:
        file.seek(entry.header_offset + _NAME_LENGTH)
        lengths = struct.unpack("<HH", file.read(4))
        file.seek(entry.header_offset + _HEADER + sum(lengths))
        packed = file.read(entry.compress_size)
    try:
        found: bytes = pyarrow.Codec("zstd").decompress(packed, entry.file_size, asbytes=True)
    except (OSError, ValueError) as error:
        raise zipfile.BadZipFile(str(error)) from None
    if zlib.crc32(found) != entry.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {name!r}")
    return found


def _ordered(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(samples, key=lambda one: (str(one["id"]), int(one.get("epoch", 1))))


def _scorer(sample: Mapping[str, Any]) -> str:
    return next(iter(sample.get("scores") or {}), "score")


def _item(task: str, sample: Mapping[str, Any]) -> ItemResult:
    reply = _reply(sample)
    outcome = outcome_of(reply)
    score = (sample.get("scores") or {}).get(_scorer(sample)) or {}
    value, read = _value(score.get("value")), score.get("answer")
    if outcome in WHOLE and (value is None or read == ""):
        outcome = Outcome.UNPARSED
    return ItemResult(
        task,
        str(sample["id"]),
        outcome,
        value,
        None if read is None else str(read),
        sample.get("target"),
        facts=reply.facts(),
        epoch=int(sample.get("epoch", 1)),
    )


def _reply(sample: Mapping[str, Any]) -> Reply:
    output = sample.get("output") or {}
    choice = (output.get("choices") or [{}])[0]
    usage = output.get("usage") or {}
    error = sample.get("error") or output.get("error")
    said = error.get("message") if isinstance(error, Mapping) else error
    content, thought = _texts((choice.get("message") or {}).get("content") or "")
    return Reply(
        content=content,
        reasoning=thought,
        tool_calls=tuple((choice.get("message") or {}).get("tool_calls") or ()),
        finish=_FINISHES.get(choice.get("stop_reason"), choice.get("stop_reason")),
        prompt_tokens=usage.get("input_tokens"),
        completion_tokens=usage.get("output_tokens"),
        thought_tokens=usage.get("reasoning_tokens"),
        error=str(said) if said else None,
    )


def _texts(content: str | list[Mapping[str, Any]]) -> tuple[str, str]:
    """(text, thought) of a message, which is a text or a list of parts."""
    if isinstance(content, str):
        return content, ""
    kinds = ("text", "reasoning")
    text, thought = (
        "".join(str(one.get(kind) or "") for one in content if one.get("type") == kind)
        for kind in kinds
    )
    return text, thought


def _value(value: object) -> float | None:
    """A score between 0 and 1; None for what is no number of that kind."""
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return _VALUES.get(value) if isinstance(value, str) else None
