"""The real line from prompts to rates: llama.cpp serves, replies are judged, rates are compared."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from documented_keys import unknown, unused
from tiny_line import Run

from secateur.api.loops import LoopRun, ask_for_loops, loop_evidence, loop_items, plan_loops
from secateur.api.speed import measure_speed, text_tokens
from secateur.api.subjects import AskedOutput
from secateur.checkpoint.hub import gemmule_folder
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import OutputError, RequestError
from secateur.evaluation.asking.ledger import Ledger
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.reply import Reply
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.asking.server import ask_engine
from secateur.evaluation.measurement import POOLED
from secateur.evaluation.robustness.prompts import LoopPrompt
from secateur.evaluation.robustness.replies import exchange_of, items_of, loop_sampler
from secateur.evaluation.robustness.request import Loops
from secateur.evaluation.speed.request import Speed
from secateur.formats.gguf.reader import read_gguf
from secateur.release.evidence import KINDS, ORIGINAL, read_evidence, read_items
from secateur.release.keys import EVIDENCE_KEYS
from secateur.release.manifest import verify
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.settings import NEUTRAL, Sampler, ServerSettings
from secateur.system.text_files import read_json

FEW = Loops(count=5, seeds=2, tokens=32)


@pytest.fixture(scope="module")
def ruined(gemmule_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gemmule whose layers add nothing any more: it can only say its last token again."""
    path = tmp_path_factory.mktemp("ruined") / "ruined.gguf"
    shutil.copy(gemmule_gguf, path)
    shutil.copy(gemmule_gguf.with_name("generation_config.json"), path.parent)
    header = read_gguf(path)
    with path.open("r+b") as file:
        for name in header.tensors:
            if re.search(r"attn_output|ffn_down", name):
                file.seek(header.offsets[name])
                file.write(bytes(header.tensors[name].nbytes))
    return path


def ask(name: str, server: EngineServer, folder: Path, request: Loops = FEW) -> LoopRun:
    plan = plan_loops(open_checkpoint(gemmule_folder()), request)
    lock = RunLock(name, server.identity.to_json(), loop_sampler(request, server.sampler).request())
    with ask_engine(server) as asked, Ledger(folder / f"{name}.jsonl") as ledger:
        return ask_for_loops(name, asked, lock, ledger, plan)


def test_constant_tokens_are_found_beside_an_original_that_answers(
    gemmule_server: EngineServer, ruined: Path, tmp_path: Path
) -> None:
    original = ask(ORIGINAL, gemmule_server, tmp_path)
    with serve_model(ruined, ServerSettings(context=1024, slots=2, workers=1)) as server:
        artefact = ask("ruined", server, tmp_path)
    evidence = loop_evidence(
        (original, artefact), plan_loops(open_checkpoint(gemmule_folder()), FEW)
    )
    assert not original.lock.differences(artefact.lock)
    value = {
        (one.name, entry.name): entry.value
        for one in evidence.artefacts
        for entry in one.measurements
        if entry.domain == POOLED
    }
    assert value["ruined", "degenerate_rate"] == 1
    assert value["original", "degenerate_rate"] < 0.5
    assert value["ruined", "degenerate_rate_difference"] > 0.5
    assert value["ruined", "degenerate_rate_difference_p_value"] <= 2 * 0.5**5
    cold = replace(artefact, lock=replace(artefact.lock, sent={"temperature": 0.5}))
    mlx = replace(artefact, lock=replace(artefact.lock, server={"engine": "mlx-lm"}))
    plan = plan_loops(open_checkpoint(gemmule_folder()), FEW)
    for run, anyway, compared, said in (
        (cold, False, False, "compare_anyway does"),
        (cold, True, True, "although both were asked under different conditions (sent."),
        (mlx, False, True, "through mlx-lm and the original through llama.cpp"),
    ):
        found = loop_evidence((original, run), plan, anyway=anyway)
        difference = found.artefacts[1].value("loop_rate_difference", POOLED, "loops")
        assert (difference is not None) == compared
        assert any(said in note for note in found.notes)
    items = loop_items((original, artefact))
    assert len(items["original"]) == len(items["ruined"]) == 10
    assert all(item["findings"][0]["why"] for item in items["ruined"])
    assert any("5 prompts are few" in note for note in evidence.notes)
    # Everything is in the ledgers: nobody is asked again, though the server is gone.
    assert ask(ORIGINAL, gemmule_server, tmp_path) == original


def test_seeds_draw_different_replies_where_the_model_itself_is_greedy() -> None:
    greedy = Sampler(temperature=0.0).over(NEUTRAL)
    assert loop_sampler(FEW, greedy).temperature == 1.0
    assert loop_sampler(FEW, Sampler(temperature=0.6, top_k=20).over(NEUTRAL)).top_k == 20
    assert loop_sampler(Loops(temperature=0, seeds=1), greedy).temperature == 0
    with pytest.raises(RequestError, match="all 3 seeds give one reply"):
        Loops(temperature=0)


def test_a_models_own_test_set_goes_before_the_general_plan(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(gemmule_folder())
    own = plan_loops(checkpoint, Loops())
    assert own.tokens == 1024 and len(own.prompts.prompts) == 300
    assert {one.domain for one in own.prompts.prompts} >= {"tools", "arithmetic", "code"}
    general = plan_loops(checkpoint, Loops(prompts="general", count=10))
    assert {one.domain for one in general.prompts.prompts} >= {"philosophy", "long_context"}


def test_calls_that_a_conversation_ends_with_count() -> None:
    call = {"type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Get a."}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "nothing"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "nothing"},
    ]
    found = exchange_of(LoopPrompt("1", "tools", tuple(turns)), Reply(tool_calls=(call,)))
    assert len(found.earlier_calls) == 2 and found.prompt == "nothing"
    assert exchange_of(LoopPrompt("1", "tools", tuple(turns[:1])), Reply()).prompt == "Get a."


@pytest.mark.slow
def test_loops_and_speed_are_measured_and_written_with_everything_else(
    gemmule_gguf: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(gemmule_gguf.parent, out)
    words = (
        f"measure {out} --against gemmule --loops --loop-count 6 --loop-seeds 2 --loop-tokens 40 "
        "--speed --speed-turns 3 --speed-prompt 64 --speed-answer 8 "
        "--tasks gemmule-arithmetic --task-limit 2 "
        "--slots 2 --workers 1 --per-domain 1 --answer-tokens 8"
    ).split()
    code, printed, errors = run(*words)
    assert code == 0, errors
    assert "loops: of all replies" in printed and "of the original's, turn by turn" in printed
    loops, speed = read_evidence(out, "loops"), read_evidence(out, "speed")
    assert loops is not None and speed is not None
    names = ["original", gemmule_gguf.name]
    assert [one.name for one in loops.artefacts] == [one.name for one in speed.artefacts] == names
    original, artefact = loops.artefacts
    assert artefact.value("loop_rate_difference", POOLED, "loops") is not None
    assert original.value("loop_rate_difference", POOLED, "loops") is None
    assert artefact.facts["lock"]["sha256"] == original.facts["lock"]["sha256"]
    assert len(read_items(out, "loops", ORIGINAL)) == 12
    assert len(read_items(out, "speed", gemmule_gguf.name)) == 3
    ratio = speed.artefacts[1].value("generation_speed_ratio", "llama.cpp", "speed")
    assert ratio is not None and ratio.low is not None and dict(ratio.n) == {"turns": 3}
    assert not verify(out)
    written = [read_json(out / f"evidence/{kind}.json", "evidence", OutputError) for kind in KINDS]
    assert [key for one in written for key in unknown(one, EVIDENCE_KEYS)] == []
    # Nothing was calibrated; what is known of thinking and of groups has tests of its own.
    apart = ("artefacts.facts.thinking.", "facts.groups.")
    left = [key for key in unused(written, EVIDENCE_KEYS) if not key.startswith(apart)]
    assert left == ["facts.calibration_overlap.**"]
    first = (out / "evidence/loops.json").read_bytes()
    code, printed, errors = run(*words, "--json")
    assert code == 0, errors
    assert json.loads(printed)["loops"]["facts"]["count"] == 6
    assert (out / "evidence/loops.json").read_bytes() == first


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_timed(
    gemmule_gguf: Path, tmp_path: Path
) -> None:
    asked = AskedOutput((), Serving(), tmp_path, original=open_checkpoint(gemmule_folder()))
    with pytest.raises(RequestError, match="more than the model's context of 2048"):
        measure_speed(asked, Speed(prompt_tokens=2000))


def test_a_text_for_any_length_of_prompt() -> None:
    checkpoint = open_checkpoint(gemmule_folder())
    short, long = text_tokens(checkpoint, 100), text_tokens(checkpoint, 20000)
    assert len(long) >= 20000 and short == text_tokens(checkpoint, 100)


def test_an_error_of_the_server_is_no_verdict_and_says_no_port() -> None:
    prompt = LoopPrompt("1", "tools", ({"role": "user", "content": "Get a."},))
    reply = Reply(error="http://127.0.0.1:34567/v1 did not answer: status 500: bad output")
    (item,) = items_of((prompt,), Loops(seeds=1), (reply,))
    assert item.verdict is None and item.error == "status 500: bad output"
    assert "34567" not in json.dumps(item.to_json())
    assert item.to_json()["verdict"] == "server error"
