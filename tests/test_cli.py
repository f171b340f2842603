"""Every command through the real command line: what it prints, where, and the code it leaves."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_line import Line, Ran, Run

from secateur.checkpoint.reader import open_checkpoint
from secateur.cli import main as cli

COMMANDS = [command.callback.__name__ for command in cli.app.registered_commands]  # type: ignore[union-attr]
SCRIPT = Path(sys.executable).with_name("secateur")


def good(ran: Ran) -> Ran:
    """A command that did its work; on stderr there is only how far it was."""
    assert (ran.code, ran.said) == (0, [])
    return ran


def loaded(code: str) -> set[str]:
    """The modules that are imported after running `code` in a Python of its own."""
    code += "\nimport sys; sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = {"torch", "transformers", "scipy", "xllamacpp", "huggingface_hub", "tokenizers"}


def test_the_script_says_its_version() -> None:
    done = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("secateur 0.")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from secateur.cli import main as cli\n"
        "sys.argv = ['secateur', 'shrink', '--help']\n"
        "try: cli.main()\nexcept SystemExit as leave: assert not leave.code"
    )
    assert not loaded(code) & {*HEAVY, "rich.progress"}
    assert "numpy" not in loaded(code.replace("'shrink', ", ""))


def test_looking_at_a_model_imports_nothing_heavy(line: Line) -> None:
    code = f"import secateur; secateur.inspect({str(line.model)!r})"
    assert not loaded(code) & HEAVY


def test_planning_from_statistics_imports_no_torch(line: Line, stats: Path) -> None:
    code = (
        "import secateur; from pathlib import Path\n"
        f"secateur.plan({str(line.model)!r}, secateur.Pruning(drop=0.25), "
        f"secateur.Formats(types=('Q8_0',)), statistics=Path({str(stats)!r}))"
    )
    assert not loaded(code) & {"torch", "transformers", "xllamacpp"}


def test_without_a_command_it_shows_its_help(run: Run) -> None:
    assert good(run()).out == good(run("--help")).out
    assert all(name in run().out for name in COMMANDS)


def test_inspect(run: Run, line: Line) -> None:
    found = good(run("inspect", line.model, json=True)).json
    assert (found["experts"], found["top_k"], found["layers"]) == (8, 2, 2)
    assert found["bytes"] == open_checkpoint(line.model).nbytes
    out = good(run("inspect", line.model)).out
    assert "2 layers, 2 with 8 routed experts, 2 per token" in out
    assert re.search(r"^ +6 +25.0% ", out, re.M)


def test_calibrate_on_a_mix(run: Run, line: Line, tmp_path: Path) -> None:
    out = tmp_path / "stats.safetensors"
    options = {"corpus": line.corpus, "out": out, "workers": 1}
    found = good(run("calibrate", line.model, json=True, **options)).json
    assert found["samples"] == 12
    assert found["tokens"] == {"corpus": found["tokens"]["corpus"]}
    assert out.is_file()
    out.unlink()
    said = good(run("calibrate", line.model, **options)).out
    assert f"{out}: {found['tokens']['corpus']:,} tokens of 12 documents" in said


def test_calibrate_on_rows(run: Run, line: Line, tmp_path: Path) -> None:
    options = {"rows": line.rows, "out": tmp_path / "stats", "workers": 1, "reroute_tokens": 0}
    found = good(run("calibrate", line.model, json=True, **options)).json
    assert found["tokens"] == {"a": 90, "b": 90}
    assert {path.name for path in tmp_path.iterdir()} == {"stats", "stats.text"}


def test_merge_and_coverage(run: Run, line: Line, stats: Path, tmp_path: Path) -> None:
    options = {"rows": line.rows, "out": tmp_path / "more", "workers": 1}
    good(run("calibrate", line.model, **options))
    done = run("merge", stats, tmp_path / "more", out=tmp_path / "all", json=True)
    assert (done.code, done.json["tokens"].keys()) == (0, {"a", "b", "corpus"})
    lost, unsolved = done.said
    assert "not every file has it: sample_norms" in lost
    assert "'rerouted' is not in the merged file" in unsolved
    assert run("merge", tmp_path / "more", stats, out=tmp_path / "same").code == 0
    assert (tmp_path / "all").read_bytes() == (tmp_path / "same").read_bytes()
    found = good(run("coverage", tmp_path / "all", least=100_000, json=True)).json
    assert (found["wanted"], len(found["under_sampled"])) == (100_000, 16)
    assert "saw fewer" in good(run("coverage", tmp_path / "all", least=100_000)).out


@pytest.mark.parametrize("criterion", ["rerouted", "reap", "contribution", "random"])
def test_scores(criterion: str, run: Run, stats: Path) -> None:
    found = good(run("scores", stats, criterion=criterion, json=True)).json
    assert found.keys() == {"criterion", "unit", "layers"}
    assert found["criterion"] == criterion
    assert {layer: len(scores) for layer, scores in found["layers"].items()} == {"0": 8, "1": 8}
    assert all(isinstance(score, float) for scores in found["layers"].values() for score in scores)
    assert good(run("scores", stats, criterion=criterion)).out.startswith(f"{criterion}: ")


def test_the_gate_of_the_reference_gives_other_scores(run: Run, stats: Path) -> None:
    ours, theirs = (
        run("scores", stats, criterion="reap", routing_weight=gate, json=True).json["layers"]
        for gate in ("true", "reference")
    )
    assert ours != theirs


def test_plan(run: Run, line: Line, stats: Path, tmp_path: Path) -> None:
    options = {"stats": stats, "experts": 6, "types": "Q8_0,Q4_K_M", "out": tmp_path / "plan.json"}
    ran = good(run("plan", line.model, json=True, **options))
    assert (tmp_path / "plan.json").read_text() == ran.out
    found = ran.json
    formats = {"safetensors", "gguf-Q8_0", "gguf-Q4_K_M"}
    assert found["tensor_bytes"].keys() == found["file_bytes"].keys() == formats
    for form in formats:
        rows = [tensor for tensor in found["tensors"] if tensor["format"] == form]
        assert all({"name", "type", "bytes", "sources", "action"} <= row.keys() for row in rows)
        assert found["tensor_bytes"][form] == sum(row["bytes"] for row in rows)
        assert found["file_bytes"][form] > found["tensor_bytes"][form]
    fallen = [row for row in found["tensors"] if "fallback_from" in row]
    # The tiny model's rows are 16 and 32 wide: only blocks of 32 fit the latter.
    assert {(row["fallback_from"], row["type"]) for row in fallen} >= {("Q8_0", "F16")}
    said = good(run("plan", line.model, force=True, **options)).out
    assert "6 of 8 experts kept in each of 2 layers (rerouted)" in said
    assert f"written to {tmp_path / 'plan.json'}" in said


def test_a_plan_without_pruning_needs_no_statistics(run: Run, line: Line) -> None:
    found = good(run("plan", line.model, drop=0, to="gguf", types="Q8_0", json=True)).json
    assert found["experts"] == 8
    assert set(found["file_bytes"]) == {"gguf-Q8_0"}


def test_a_drop_map_says_which_experts_go(run: Run, line: Line, tmp_path: Path) -> None:
    given = tmp_path / "map.json"
    given.write_text(
        json.dumps({"layers": {"0": {"drop": [1, 2]}, "1": {"keep": [0, 1, 2, 3, 4, 7]}}})
    )
    found = good(run("plan", line.model, drop_map=given, json=True)).json
    assert found["keep"] == {"0": [0, 3, 4, 5, 6, 7], "1": [0, 1, 2, 3, 4, 7]}


def test_protected_experts_stay(run: Run, line: Line, stats: Path) -> None:
    options = {"stats": stats, "drop": 0.5, "criterion": "reap", "json": True}
    free = run("plan", line.model, **options).json["keep"]
    gone = next(expert for expert in range(8) if expert not in free["1"])
    found = good(run("plan", line.model, protect=f"1:{gone}", **options)).json["keep"]
    assert gone in found["1"]
    assert found["0"] == free["0"]
    lost = [expert for expert in range(8) if expert not in free["0"]][:2]
    twice = ["--protect", f"0:{lost[0]}", "--protect", f"0:{lost[1]}"]
    found = good(run("plan", line.model, *twice, **options)).json["keep"]
    assert set(lost) <= set(found["0"])


def test_apply_measure_and_verify(run: Run, line: Line, stats: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    good(run("plan", line.model, stats=stats, experts=6, types="Q8_0", out=plan))
    made = good(run("apply", plan, stats=stats, out=out, json=True)).json
    assert made == json.loads((out / "manifest.json").read_text())
    assert f"{out}: every file" in good(run("verify", out)).out
    options = {"against": line.model, "answers": line.answers, "workers": 1}
    found = good(run("measure", out, json=True, **options)).json
    assert found == json.loads((out / "report.json").read_text())
    assert [entry["name"] for entry in found["artefacts"]][0] == "safetensors"
    assert good(run("verify", out, json=True)).json["problems"] == []
    gguf = next(out.glob("tiny*.gguf"))
    alone = good(run("measure", gguf, json=True, **options)).json["artefacts"]
    assert alone == [entry for entry in found["artefacts"] if entry["name"] == gguf.name]
    said = good(run("measure", gguf, **options)).out
    assert "on 6 answers of the original (157 tokens)" in said
    assert gguf.name in said


def test_verify_names_what_differs(run: Run, line: Line, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    good(run("plan", line.model, experts=8, out=plan))
    good(run("apply", plan, out=out))
    (out / "stranger").write_text("?")
    (out / "LICENSE").write_text("do as we like!\n")
    (out / "config.json").unlink()
    ran = run("verify", out, json=True)
    assert ran.code == 2
    assert {entry["file"] for entry in ran.json["problems"]} == {"LICENSE", "config.json"}
    assert ran.json["additional"] == ["stranger"]
    assert len(ran.said) == 1


@pytest.mark.slow
def test_progress_is_for_terminals(run: Run, line: Line, tmp_path: Path) -> None:
    """A bar on stderr when that is a terminal; stdout stays one JSON document."""
    good(run("plan", line.model, experts=8, out=tmp_path / "plan.json"))
    good(run("apply", tmp_path / "plan.json", out=tmp_path / "out"))
    ours, theirs = pty.openpty()
    command = [SCRIPT, "verify", tmp_path / "out", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:  # what Linux says when the other end is closed
        pass
    os.close(ours)
    assert json.loads(process.communicate()[0])["problems"] == []
    assert process.returncode == 0
    assert b"verify" in shown
    assert b"100 %" in shown


def test_a_reader_that_leaves_early_is_no_failure(line: Line) -> None:
    done = subprocess.run(
        f"{SCRIPT} inspect {line.model} --json | head -c 1",
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("{", "")


def test_the_example_of_the_python_functions_runs(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one in the package's docstring, on the tiny model instead of gemmule."""
    import secateur

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = [text[4:] for text in (secateur.__doc__ or "").splitlines() if text.startswith("    ")]
    code = "\n".join(lines).replace("experts=24", "experts=6").replace('"gemmule"', "MODEL", 1)
    code = code.replace('corpus="gemmule"', "corpus=CORPUS").replace('"gemmule"', "MODEL")
    code = code.replace("per_domain=10", "answers=ANSWERS")
    given = {"MODEL": line.model, "CORPUS": str(line.corpus), "ANSWERS": line.answers}
    exec(code, given)  # noqa: S102 - our own docstring
    assert "kl_mean (pooled): " in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "out", "stats", "stats.text"}


FILES: dict[str, list[str]] = {
    "calibrate": ["calibrate", "MODEL", "--corpus", "CORPUS"],
    "merge": ["merge", "STATS"],
    "plan": ["plan", "MODEL", "--drop", "0"],
    "imatrix merge": ["imatrix", "merge", "IMATRIX"],
    "imatrix convert": ["imatrix", "convert", "IMATRIX"],
    "imatrix slice": ["imatrix", "slice", "IMATRIX", "--plan", "PLAN"],
    "recipe export": ["recipe", "export", "PLAN", "--format", "gguf-Q8_0"],
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_overwritten_only_by_force(
    name: str, run: Run, line: Line, stats: Path, made: Path, tmp_path: Path
) -> None:
    """Refused at once, as is a place that cannot be written."""
    given = {
        "MODEL": line.model, "CORPUS": line.corpus, "STATS": stats,
        "IMATRIX": made / "imatrix.gguf", "PLAN": made / "plan.json",
    }  # fmt: skip
    words = [given.get(word, word) for word in FILES[name]]
    out = tmp_path / "out.gguf"
    out.write_text("a day's work")
    ran = run(*words, out=out)
    assert (ran.code, len(ran.said)) == (2, 1)
    assert "exists already" in ran.said[0]
    assert "calibrate" not in ran.err
    assert out.read_text() == "a day's work"
    ran = run(*words, out="/proc/secateur/x.gguf")
    assert (ran.code, len(ran.said)) == (1, 1)
    assert "calibrat" not in ran.err
    if name not in ("calibrate", "imatrix slice"):
        good(run(*words, out=out, force=True))
        assert out.read_bytes()[:5] != b"a day"


def test_an_imatrix_of_an_unknown_suffix_is_refused(run: Run, made: Path, tmp_path: Path) -> None:
    ran = run("imatrix", "convert", made / "imatrix.gguf", out=tmp_path / "im.xyz")
    assert ran.code == 2
    assert ".gguf or .dat" in ran.said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_audited_file_by_file(run: Run, made: Path) -> None:
    found = good(run("audit", made, json=True)).json
    assert [Path(entry["source"]).name for entry in found["files"]] == sorted(
        path.name for path in made.glob("tiny*.gguf")
    )
    assert "tiny-moe-6e-Q8_0.gguf" in good(run("audit", made)).out
    assert "--claims" in good(run("audit", "gemmule")).out


def test_recipes_are_listed_by_names_that_can_be_shown(run: Run) -> None:
    found = good(run("recipe", "list", json=True)).json["recipes"]
    assert all(run("recipe", "show", name).code == 0 for name in found)
    ran = run("recipe", "show", "mixed-4-8")
    assert ran.code == 2
    assert "did you mean mlx-mixed-4-8" in ran.said[0]
    assert len(ran.said[0]) < 400


@pytest.mark.parametrize("group", ["recipe", "imatrix"])
def test_a_group_without_a_command_shows_its_help(group: str, run: Run) -> None:
    assert good(run(group)).out.startswith(f"Usage: secateur {group} ")


def test_a_tokenizer_is_named_by_its_file_or_its_folder(run: Run, tmp_path: Path) -> None:
    from secateur.checkpoint.hub import gemmule_folder

    folder = gemmule_folder()
    config = tmp_path / "config.json"
    config.write_bytes((folder / "config.json").read_bytes())
    sizes = [
        good(run("plan", config, experts=24, to="gguf", types="Q8_0", tokenizer=path, json=True))
        .json["file_bytes"]
        for path in (folder, folder / "tokenizer.json")
    ]  # fmt: skip
    assert sizes[0] == sizes[1] != {"gguf-Q8_0": None}


def test_options_have_the_defaults_of_the_requests() -> None:
    from secateur import Calibration, Formats, Measuring, Pruning
    from secateur.cli.options.calibration import CalibrationOptions
    from secateur.cli.options.formats import FormatOptions
    from secateur.cli.options.measuring import AnswerOptions, GateOptions
    from secateur.cli.options.pruning import PruningOptions

    assert PruningOptions().request() == Pruning()
    assert FormatOptions().request() == Formats()
    assert CalibrationOptions().request() == Calibration()
    assert AnswerOptions().request(**GateOptions().words()) == Measuring()
