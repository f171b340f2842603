"""`shrink`: what it refuses at once, what it keeps for the next run, what measuring may spoil."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killed_line import Killer
from tiny_line import Line, Run, files_of

from secateur import (
    Calibration,
    Formats,
    InputError,
    Measuring,
    Pruning,
    ShrinkRequest,
    measure,
    verify,
)
from secateur.api.answers import measure_folder
from secateur.api.early_checks import check_shrink, check_space, plan_ahead
from secateur.api.requests import Speed
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import WriteError


def words(line: Line, where: Path, **options: object) -> list[str]:
    """`shrink` of the tiny model as a shell gives it; an option of None is left out."""
    request: dict[str, object] = {
        "experts": 6, "types": "Q8_0", "corpus": line.corpus, "answers": line.answers,
        "workers": 1, "out": where,
    }  # fmt: skip
    given = {name: value for name, value in (request | options).items() if value is not None}
    flags = [
        [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        for name, value in given.items()
    ]
    return ["shrink", str(line.model), *(word for flag in flags for word in flag)]


def test_what_can_be_known_is_refused_before_torch_is_loaded(line: Line, tmp_path: Path) -> None:
    lines = {
        "no_rule.yaml": "base: Q8_0\nrules: [{role: nobody, type: Q4_K}]\n",
        "odd.yaml": "surces: []\n",
        "lost.yaml": "sources: [{name: a, path: nowhere.jsonl, category: x}]\n",
        "broken.jsonl": '{"text": "a"\n',
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "there").mkdir()
    refused: list[tuple[dict[str, object], str]] = [
        ({"out": tmp_path / "there"}, "exists already"),
        ({"types": tmp_path / "no_rule.yaml"}, "nobody"),
        ({"types": "Q9_K"}, "Q9_K"),
        ({"types": "mlx-mixed-4-8"}, "groups of 64"),
        ({"to": "gguf", "types": None}, "gguf"),
        ({"criterion": "best"}, "best"),
        ({"reroute_tokens": 0}, "reroute_tokens"),
        ({"experts": 1}, "2"),
        ({"corpus": tmp_path / "odd.yaml"}, "surces"),
        ({"corpus": tmp_path / "lost.yaml"}, "nowhere.jsonl"),
        ({"corpus": None, "rows": tmp_path / "broken.jsonl"}, "broken.jsonl"),
        ({"corpus": None}, "corpus"),
        ({"corpus": None, "answers": None, "types": "Q8_0", "experts": None}, "--corpus"),
        ({"answers": None, "prompts": tmp_path / "none.jsonl"}, "none.jsonl"),
        ({"answers": None, "answers_from": tmp_path / "none.gguf"}, "none.gguf"),
        ({"answers": None, "answers_from": "http://"}, "address"),
        ({"answers": None, "held_out": 1.5}, "held_out is 1.5"),
        ({"held_out": 0.1}, "held_out"),
        ({"answers": tmp_path / "none.jsonl"}, "none.jsonl"),
        ({"answers": tmp_path / "broken.jsonl"}, "broken.jsonl"),
        ({"stats": tmp_path / "none"}, "corpus"),
        ({"corpus": None, "stats": tmp_path / "none"}, "none"),
        ({"split_max_size": "large"}, "large"),
    ]
    tried = [words(line, tmp_path / "out", **options) for options, _ in refused]
    code = (
        "import json, sys\nfrom secateur.cli.main import main\n"
        f"for words in json.loads({json.dumps(json.dumps(tried))}):\n"
        "    sys.argv = ['secateur', *words]\n"
        "    try:\n        main()\n        print('done')\n"
        "    except SystemExit as leave:\n        print(leave.code)\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = [text for text in done.stderr.splitlines() if text.startswith("secateur: ")]
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"] * len(refused), list(zip(refused, said, strict=False))
    for (_, word), sentence in zip(refused, said, strict=True):
        assert word in sentence
    assert {path.name for path in tmp_path.iterdir()} == {*lines, "there"}


def test_a_full_disk_is_refused_before_calibration(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free bytes of the disk are the only thing that is made up."""
    checkpoint = open_checkpoint(line.model)
    request = ShrinkRequest(
        Pruning(experts=6), Formats(types="Q8_0"), Calibration(str(line.corpus)), measuring=None
    )
    planned = plan_ahead(checkpoint, request)
    needed = sum(size or 0 for form in planned.formats for size in planned.sizes(form).values())
    usage = shutil.disk_usage(tmp_path)
    free = {"bytes": needed}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free["bytes"]))
    check_shrink(checkpoint, request, tmp_path / "out")
    free["bytes"] -= 1
    with pytest.raises(WriteError, match="free, but the output takes"):
        check_shrink(checkpoint, request, tmp_path / "out")
    begun = tmp_path / "out.secateur-incomplete"
    begun.mkdir()
    (begun / "a").write_bytes(b"x")
    check_space(planned, tmp_path / "out")


def test_the_plan_ahead_has_the_sizes_of_the_real_one(line: Line, made: Path) -> None:
    request = ShrinkRequest(Pruning(experts=6), Formats(types="Q8_0,Q4_K_M"))
    planned = plan_ahead(open_checkpoint(line.model), request)
    sizes = {name: size for form in planned.formats for name, size in planned.sizes(form).items()}
    written = {name: (made / name).stat().st_size for name in sizes}
    assert sizes.keys() == written.keys()
    # The keys that name an importance matrix are in the header, and not known yet.
    assert all(0 <= written[name] - (size or 0) < 1024 for name, size in sizes.items())


@pytest.mark.slow
def test_another_corpus_under_the_same_name_is_calibrated_anew(
    forks: Killer, line: Line, tmp_path: Path
) -> None:
    """The mix stays as it is; the file that it names is edited between two runs."""
    mix, text = tmp_path / "mix.yaml", tmp_path / "text.jsonl"
    mix.write_text(
        "sequence_length: 64\nsources: [{name: a, path: text.jsonl, category: x, "
        "fields: {messages: messages}}]\n"
    )
    shutil.copy(line.corpus, text)
    out, fresh = tmp_path / "room" / "out", tmp_path / "fresh" / "out"
    for folder in (out.parent, fresh.parent):
        folder.mkdir()
    request = words(line, out, corpus=mix, no_measure=True, answers=None)
    cut = forks.run(*request, folder=out.parent, at=40)
    assert cut.code == -signal.SIGKILL, cut.err
    assert list(out.parent.glob("*/statistics-*.safetensors"))
    text.write_text("".join(text.read_text().splitlines(keepends=True)[:6]))
    assert forks.run(*request, folder=out.parent).code == 0
    again = words(line, fresh, corpus=mix, no_measure=True, answers=None)
    assert forks.run(*again, folder=fresh.parent).code == 0
    assert files_of(out) == files_of(fresh)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["calibration"]["samples"] == 6


def test_statistics_serve_the_next_variant(
    run: Run, line: Line, made: Path, tmp_path: Path
) -> None:
    kept = made / "evidence" / "statistics.safetensors"
    request = words(
        line, tmp_path / "out", corpus=None, answers=None, stats=kept, no_measure=True,
        types="Q8_0,Q4_K_M", json=True,
    )  # fmt: skip
    ran = run(*request)
    assert ran.code == 0, ran.err
    assert "[calibrate]" not in ran.err
    found, whole = files_of(tmp_path / "out"), files_of(made)
    assert ran.json == json.loads(found["manifest.json"])
    changed = {"manifest.json", "job.yaml"}
    assert {name: found[name] for name in found.keys() - changed} == {
        name: whole[name] for name in whole.keys() - changed - {"report.json", "report.md"}
    }


@pytest.mark.slow
def test_answers_serve_the_next_variant(run: Run, line: Line, made: Path, tmp_path: Path) -> None:
    kept = made / "evidence" / "statistics.safetensors"
    logs = []
    for experts in (6, 5):
        request = words(
            line, tmp_path / str(experts), corpus=None, answers=None, stats=kept, experts=experts,
            prompts=line.prompts, types=None, per_domain=1,
        )  # fmt: skip
        ran = run(*request)
        assert ran.code == 0, ran.err
        logs.append(ran.err)
    assert "[answers]" in logs[0]
    assert "[answers]" not in logs[1]


def test_a_prompt_that_the_template_refuses_is_refused_before_anything_is_written(
    run: Run, line: Line, made: Path, tmp_path: Path
) -> None:
    """Only rendering can tell."""
    bad = tmp_path / "bad.jsonl"
    turns = [{"role": "narrator", "content": "Once."}, {"role": "user", "content": "And?"}]
    bad.write_text(json.dumps({"messages": turns}) + "\n")
    kept = made / "evidence" / "statistics.safetensors"
    ran = run(*words(line, tmp_path / "out", corpus=None, answers=None, stats=kept, prompts=bad))
    assert ran.code == 2
    assert "bad.jsonl:1: the chat template refuses the messages" in ran.said[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_what_was_made_stays_when_measuring_fails(
    run: Run, line: Line, made: Path, tmp_path: Path
) -> None:
    """A file lies where the folder of the original's answers should be."""
    blocked = measure_folder(open_checkpoint(line.model))
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("")
    kept = made / "evidence" / "statistics.safetensors"
    out = tmp_path / "out"
    ran = run(*words(line, out, corpus=None, stats=kept))
    assert ran.code == 1
    assert "is written and complete, but could not be measured" in ran.said[-1]
    assert "secateur measure" in ran.said[-1]
    assert verify(out) == ()


def test_a_disk_without_room_for_the_original_is_said_before_calibration(
    run: Run, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked beside the artefacts is as large as the original itself."""
    usage = shutil.disk_usage(tmp_path)
    need = sum(path.stat().st_size for path in line.model.glob("*.safetensors"))
    home = measure_folder(open_checkpoint(line.model)).parents[1]

    def small(path: Path) -> Any:
        return usage._replace(free=need // 2 if Path(path).is_relative_to(home) else usage.free)

    monkeypatch.setattr(shutil, "disk_usage", small)
    ran = run(*words(line, tmp_path / "out", speed=True))
    assert ran.code == 1
    assert "tiny-moe is asked beside what is made of it, as a GGUF of" in ran.said[-1]
    assert "calibrating on" not in ran.err and list(tmp_path.iterdir()) == []
    with pytest.raises(WriteError, match="or name a GGUF or a server of it with original"):
        measure(line.model, line.model, Measuring(answers=line.answers, speed=Speed()))


def test_rows_have_no_seed_and_no_length() -> None:
    for option in ({"seed": 1}, {"sequence_length": 8}):
        with pytest.raises(InputError, match=next(iter(option))):
            Calibration(rows=Path("rows.jsonl"), **option)


def test_statistics_and_a_corpus_contradict_each_other() -> None:
    with pytest.raises(InputError, match="take the place of a calibration"):
        ShrinkRequest(
            Pruning(experts=6),
            calibration=Calibration("mix"),
            measuring=Measuring(prompts=Path("prompts")),
            statistics=Path("stats"),
        )
