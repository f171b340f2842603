"""What work will take, told before it begins: counted, tried for a moment, checked, shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_line import Line, Run

from secateur.api import estimating
from secateur.api.asking_work import asking_notes
from secateur.api.estimating import Task
from secateur.api.estimating import _scoring as scored_in_parts
from secateur.api.estimating import estimate as estimate_task
from secateur.api.measuring import Measuring
from secateur.api.models import open_weights
from secateur.api.requests import Calibration
from secateur.calibration.cost import cost_of
from secateur.calibration.layer_pass import calibrate
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import Running
from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.rows import Corpus
from secateur.errors import RequestError
from secateur.estimation.arithmetic import (
    FEEDBACK,
    calibrating,
    hidden_file,
    kept_states,
    knowing,
    shape_of,
    stages,
    writing,
)
from secateur.estimation.assumed import assumed_rates
from secateur.estimation.probe import Passes, encode_seconds, probe_pass
from secateur.estimation.rates import Rates
from secateur.estimation.stage import Amount, Estimate, Need, Stage
from secateur.estimation.table import show_duration, table
from secateur.estimation.work import Answering, Calibrating, Scoring, Work, Writing, writing_of
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.robustness.request import Loops
from secateur.evaluation.tasks.request import Tasks
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.stream import HIDDEN_LIMIT
from secateur.outputs.feedback import FACTOR_BYTES
from secateur.planning.document import read_plan
from secateur.statistics.gram import GramKind
from secateur.system.disk_speed import bytes_to_try, copy_speed, read_speed, write_speed
from secateur.system.progress import Progress

STAGES = (
    Stage("calibrate", (Amount(45e6, "tokens"), Amount(3.4e5, "TFLOP")), 7.2e5, 3 << 30, 1 << 27),
    Stage("answers", (Amount(25600, "tokens"),), 5400.0, 52 << 30, at_most=True),
)


def estimate_of(*needs: Need) -> Estimate:
    return Estimate(STAGES, needs, 2, probed=True, notes=("answers may end early",))


def test_the_table_has_a_line_a_stage_and_says_how_sure_it_is() -> None:
    assert table(estimate_of(Need("output", Path(), 10**9, ""))) == [
        "stage      work                      time            memory    disk",
        "calibrate  45.0 M tokens, 340 PFLOP  8 d 8 h         3.22 GB   134.22 MB",
        "answers    25,600 tokens             at most 90 min  55.83 GB  -",
        "all                                  8 d 9 h         55.83 GB  1.00 GB",
        "6 d 11 h to 10 d 21 h in all with 2 threads: tried for some seconds on this machine as it "
        "is now",
        "note: answers may end early",
    ]
    assert [show_duration(s) for s in (0.44, 35, 121, 7300, 190000)] == [
        "0.4 s", "35 s", "2 min", "2 h 2 min", "2 d 4 h",
    ]  # fmt: skip


def test_memory_and_disk_that_cannot_suffice_are_refused_with_a_way_out(tmp_path: Path) -> None:
    found = estimate_of(Need("output", tmp_path / "new", 10**9, "choose another disk"))
    found.check(64 << 30)
    with pytest.raises(RequestError, match="'answers' takes about 55.83 GB of memory, but 8.00 GB"):
        found.check(8 * 10**9)
    huge = Need("hidden states", tmp_path, 10**18, "set TMPDIR to a larger disk")
    small = Need("output", tmp_path, 1, "choose another disk")
    with pytest.raises(RequestError, match=r"hidden states 1000000.00 TB.*set TMPDIR"):
        estimate_of(small, huge).check(64 << 30)


@pytest.fixture(scope="module")
def text(line: Line) -> tuple[Checkpoint, Corpus]:
    from secateur.checkpoint.reader import open_checkpoint

    checkpoint = open_checkpoint(line.model)
    return checkpoint, load_corpus(line.corpus, load_tokenizer(checkpoint.path))


def test_time_grows_with_tokens_and_memory_up_to_a_limit(text: tuple[Checkpoint, Corpus]) -> None:
    shape = shape_of(text[0])
    work = Calibrating(10**6, 1000, 1e6)
    rates = assumed_rates(shape, work, 2)
    once, twice, thrice = (
        calibrating(shape, replace(work, tokens=n * 10**6), rates, 2) for n in (1, 2, 3)
    )
    assert thrice.seconds - twice.seconds == pytest.approx(twice.seconds - once.seconds)
    few = replace(work, tokens=0), replace(rates, read=1.0)
    waiting = calibrating(shape, few[0], few[1], 2).seconds  # for a disk of a byte a second
    assert waiting - calibrating(shape, few[0], rates, 2).seconds == pytest.approx(
        shape.bytes - shape.bytes / rates.read
    )
    assert (
        replace(work, sampled=0) and calibrating(shape, replace(work, sampled=0), rates, 2) != once
    )
    assert hidden_file(shape, 1000) == 0
    many = HIDDEN_LIMIT // (4 * shape.hidden) + 1
    assert hidden_file(shape, many) == 4 * shape.hidden * many
    flat = [calibrating(shape, replace(work, tokens=n * many), rates, 2).memory for n in (1, 9)]
    assert flat[0] == flat[1]


def test_feedback_takes_time_and_memory_to_write() -> None:
    """Of scalar and codebook types; floats and the others are written as they were."""
    rates = Rates({}, 1, {}, 0, 0, 0, 0, 0, 1, 1, 1, 1, encode={"": 1e-9})
    chosen_by = {
        "Q4_K": FEEDBACK,
        "affine-4-64": FEEDBACK,
        "IQ2_XS": FEEDBACK,
        "F16": 1,
        "TQ1_0": 1,
    }
    for kind, times in chosen_by.items():
        plain = Writing("gguf", {kind: 10**12}, 0, 0)
        nearest, chosen = (writing(one, rates, 2) for one in (plain, replace(plain, feedback=8192)))
        assert chosen.seconds == pytest.approx(times * nearest.seconds), kind
        assert chosen.memory - nearest.memory == FACTOR_BYTES + 2 * 4 * 8 * 8192**2
    # Q4_K and Q5_K divide rows alike; the factors of all divisions of two inputs are kept.
    kinds = dict.fromkeys(("Q4_K", "Q5_K", "Q6_K", "IQ2_XS", "F16"), 1)
    several = writing(Writing("gguf", kinds, 0, 0, feedback=8192), rates, 2)
    assert several.memory - nearest.memory == 2 * 3 * 4 * 8192**2 + 2 * 4 * 8 * 8192**2


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_gram_matrices_take_time_memory_and_disk(
    kind: GramKind, text: tuple[Checkpoint, Corpus], line: Line, run: Run, tmp_path: Path
) -> None:
    words = ("calibrate", line.model, "-o", tmp_path / "stats", "--estimate")
    without, with_gram = (
        run(*words, corpus=line.corpus, gram=gram, json=True).json for gram in ("none", kind)
    )
    before, after = (
        next(one for one in found["stages"] if one["stage"] == "calibrate")
        for found in (without, with_gram)
    )
    cost = cost_of(*text, 0, kind)
    assert after["disk_bytes"] - before["disk_bytes"] == cost.gram_bytes > 0
    assert after["work"]["TFLOP"] - before["work"]["TFLOP"] == pytest.approx(cost.gram / 1e12)
    assert after["estimated_seconds"] > before["estimated_seconds"]
    assert after["memory_bytes"] > before["memory_bytes"]
    needs = {need["what"]: need["bytes"] for need in with_gram["disks"]}
    # Once: they are written in their place (statistics.gram_file.write_grams).
    assert needs["statistics and Gram matrices"] == after["disk_bytes"]


def test_stages_come_in_the_order_of_the_work(text: tuple[Checkpoint, Corpus]) -> None:
    shape = shape_of(text[0])
    work = Work(
        unhashed=10**6,
        calibrating=Calibrating(1000, 100, 1e6),
        writing=(Writing("gguf", {"Q4_K": 10**6}, 600_000, 2 * 10**6),),
        answering=Answering(12, 400, 256, 16),
        original=Scoring(3400, 3000),
        artefacts={"a-Q4_K_M.gguf": "a-Q4_K_M.gguf"},
    )
    found = stages(shape, work, assumed_rates(shape, work.calibrating, 2), 2)
    assert [stage.name for stage in found] == [
        "hash weights", "calibrate", "write gguf", "answers", "original", "floor",
        "measure a-Q4_K_M.gguf",
    ]  # fmt: skip
    assert all(stage.seconds > 0 and stage.memory > 0 for stage in found)
    assert [stage.name for stage in found if stage.at_most] == ["answers"]


@pytest.mark.parametrize("sampled", [0, 64])
def test_a_probe_times_the_pass_and_solving(text: tuple[Checkpoint, Corpus], sampled: int) -> None:
    checkpoint, corpus = text
    ran: list[tuple[int, int]] = []

    def run(part: Corpus, some: int, progress: Progress) -> object:
        ran.append((part.tokens, some))
        return calibrate(
            checkpoint, part, sampling=Sampling(some), backend=CpuBackend(1), progress=progress
        )

    layers, wanted = shape_of(checkpoint).layers, Calibrating(corpus.tokens, sampled, 1e6)
    found = probe_pass(checkpoint, corpus, wanted, layers, Passes(run))
    assert set(found.layers) == set(found.rest) == set(range(checkpoint.layers))
    assert all(seconds > 0 for seconds in found.layers.values())
    assert (found.solve + found.solve_layer > 0) == (sampled > 0)
    assert ran[0] == ran[1] and ran[2][0] > ran[1][0]
    assert max(some for _, some in ran) <= sampled


@pytest.mark.parametrize("tokens", [0, 100])
def test_what_gram_matrices_add_is_tried(
    tokens: int, text: tuple[Checkpoint, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On as large a share of the tokens as will count."""
    checkpoint, corpus = text
    asked: list[Sampling] = []

    def run(*_: object, sampling: Sampling, progress: Progress, **__: object) -> None:
        asked.append(sampling)
        for step in range(30):
            progress("calibrate", step, 30, "tokens")
            time.sleep(0.02 if sampling.gram else 0.001)

    monkeypatch.setattr("secateur.calibration.layer_pass.calibrate", run)
    task = Task(tmp_path, corpus, Calibration(gram="own", gram_tokens=tokens))
    passes = estimating._passes_of(checkpoint, task, 1)
    wanted, layers = Calibrating(corpus.tokens, 0, 1e6, gram=1.0), shape_of(checkpoint).layers
    found = probe_pass(checkpoint, corpus, wanted, layers, passes)
    assert found.gram > 0
    assert [one.gram for one in asked] == [None, None, None, "own", "own"]
    assert asked[-1].gram_tokens <= tokens and (asked[-1].gram_tokens > 0) == (tokens > 0)


def test_encoders_and_disks_are_tried(tmp_path: Path) -> None:
    found = encode_seconds({"Q4_K": 256, "Q8_0": 64, "affine-4": 64}, 1)
    assert found.keys() == {"Q4_K", "Q8_0"} and all(0 < each < 1e-3 for each in found.values())
    (tmp_path / "shard").write_bytes(bytes(1 << 20))
    assert read_speed([tmp_path / "shard"]) > 0
    assert write_speed(tmp_path) > 0
    assert copy_speed([tmp_path / "shard"], tmp_path) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_a_disk_is_tried_for_longer_where_more_is_moved() -> None:
    assert bytes_to_try(0) == bytes_to_try(1 << 30) == 64 << 20
    assert bytes_to_try(4 << 30) == 256 << 20
    assert bytes_to_try(50 << 30) == 512 << 20


@pytest.mark.parametrize("probed", [False, True])
def test_an_estimate_does_nothing_else(
    probed: bool, line: Line, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "SHORT", 0.0 if probed else 1e9)
    words = ("calibrate", line.model, "-o", tmp_path / "stats", "--estimate")
    found = run(*words, corpus=line.corpus, json=True)
    assert found.code == 0
    assert found.json["probed"] is probed
    assert [stage["stage"] for stage in found.json["stages"]][-1] == "calibrate"
    assert found.json["estimated_seconds"] > 0 and found.json["memory_bytes"] > 0
    assert list(tmp_path.iterdir()) == []
    if not probed:
        assert "nothing was tried" in run(*words, corpus=line.corpus).out


def test_too_little_memory_is_said_before_the_pass(
    line: Line, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "free_memory", lambda: 1 << 20)
    found = run("calibrate", line.model, "-o", tmp_path / "stats", corpus=line.corpus)
    assert found.code == 2
    assert "the stage 'calibrate' takes about" in found.err and "use fewer workers" in found.err
    assert list(tmp_path.iterdir()) == []


Tiny = Callable[[str], Checkpoint]


def test_work_is_counted_for_every_layout(tiny: Tiny) -> None:
    for form in ("gemma4", "mixtral", "qwen3_moe"):
        checkpoint = tiny(form)
        shape = shape_of(checkpoint)
        assert len(shape.layers) == checkpoint.layers
        assert all(layer.flops > 0 and layer.dense > 0 for layer in shape.layers)
        family, config = checkpoint.family, checkpoint.config
        width = family.number(config, "hidden") * family.number(config, "expert_width")
        assert shape.expert_elements in (width, 2 * width)


def test_shrink_says_what_all_of_it_takes_and_keeps_what_it_took(
    line: Line, run: Run, made: Path, tmp_path: Path
) -> None:
    words = ("shrink", line.model, "--experts", 6, "--types", "Q8_0", "-o", tmp_path / "out")
    found = run(*words, "--estimate", corpus=line.corpus, answers=line.answers, json=True)
    assert found.code == 0 and list(tmp_path.iterdir()) == []
    names = [stage["stage"] for stage in found.json["stages"]]
    assert names[-7:] == [
        "calibrate", "write safetensors", "write gguf", "original", "floor", "measure safetensors",
        "measure tiny-moe-6e-Q8_0.gguf",
    ]  # fmt: skip
    (kept,) = json.loads((made / "run.json").read_text())["runs"]
    stages = {stage["stage"]: stage for stage in kept["estimate"]["stages"]}
    for name in ("calibrate", "write gguf", "original", "floor", "measure tiny-moe-6e-Q8_0.gguf"):
        assert stages[name]["took_seconds"] >= 0 and stages[name]["estimated_seconds"] > 0
    report = (made / "report.md").read_text()
    assert "| stage | estimated | took |" in report and "| calibrate | " in report


def test_prompts_count_as_answers_that_are_to_come(line: Line, run: Run, tmp_path: Path) -> None:
    words = ("shrink", line.model, "--experts", 6, "--types", "Q8_0", "-o", tmp_path / "out")
    options = {"corpus": line.corpus, "prompts": line.prompts, "answer_tokens": 7}
    found = run(*words, "--estimate", json=True, **options)
    stages = {stage["stage"]: stage for stage in found.json["stages"]}
    assert stages["answers"]["work"] == {"tokens": 3 * 7} and stages["answers"]["at_most"]
    assert stages["original"]["work"]["tokens"] > 3 * 7


def test_what_is_held_out_of_a_corpus_is_counted(line: Line, run: Run, tmp_path: Path) -> None:
    words = ("shrink", line.model, "--experts", 6, "--types", "Q8_0", "-o", tmp_path / "out")
    found = run(*words, "--estimate", corpus=line.corpus, held_out=0.25, json=True)
    assert found.code == 0
    stages = {stage["stage"]: stage for stage in found.json["stages"]}
    assert stages["original"]["work"]["tokens"] > 0
    assert list(tmp_path.iterdir()) == []


def test_writing_and_measuring_alone_are_estimated(
    line: Line, run: Run, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = run("apply", made / "plan.json", "-o", out, "--estimate", model=line.model, json=True)
    assert [stage["stage"] for stage in found.json["stages"]][-1] == "write gguf"
    file = made / "tiny-moe-6e-Q8_0.gguf"
    asked = run("measure", file, "--estimate", against=line.model, prompts=line.prompts, json=True)
    names = [stage["stage"] for stage in asked.json["stages"]]
    assert names[-4:] == ["answers", "original", "floor", f"measure {file.name}"]
    assert not out.exists()


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_part_needs_room_for_a_part(
    text: tuple[Checkpoint, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    checkpoint, corpus = text
    shape = shape_of(checkpoint)
    monkeypatch.setattr(estimating, "SHORT", 1e9)
    whole = estimate_task(checkpoint, Task(tmp_path / "stats", corpus), workers=1)
    asked = Calibration(shard="2/4") if by_hand else Calibration()
    task = Task(tmp_path / "stats", corpus, asked, parts=1 if by_hand else 4)
    found = estimate_task(checkpoint, task, workers=1)
    before, after = ({need.what: need.bytes for need in one.needs} for one in (whole, found))
    goes_on, statistics = "what a stopped calibration goes on with", "statistics"
    each = corpus.tokens // 4 if by_hand else -(-corpus.tokens // 4)
    assert before[goes_on] == kept_states(shape, corpus.tokens)
    assert after[goes_on] == kept_states(shape, each)
    # Parts that are made here keep their sums until they are merged, and each reads the model.
    assert after[statistics] == before[statistics] * (1 if by_hand else 1 + 4)
    seconds = [one.stages[-1].seconds for one in (whole, found)]
    assert seconds[1] < seconds[0] if by_hand else seconds[1] > seconds[0]


def test_parts_of_answers_and_of_outputs_each_read_the_model(
    line: Line, made: Path, tmp_path: Path
) -> None:
    shape, many = shape_of(open_weights(line.model, None, "measuring")), 10**6
    rates = replace(assumed_rates(shape, None, 2), read=1e-4 * shape.bytes)
    task = Task(tmp_path, scoring=Scoring(many, 10**5), running=Running(parts=4))
    whole, parts = (knowing(shape, one, rates, 2) for one in (task.scoring, scored_in_parts(task)))
    assert parts.seconds == pytest.approx(whole.seconds + 3 * 1e4 + 3 * rates.start, rel=0.01)
    assert parts.memory <= whole.memory and parts.disk == whole.disk
    few = replace(task, scoring=Scoring(100, 50))
    assert scored_in_parts(few) == few.scoring  # too few for two groups
    plan = read_plan(made / "plan.json")
    shared = {one.name: one.read for one in writing_of(plan, 1000)}
    apart = {one.name: one.read for one in writing_of(plan, 1000, 0, [[n] for n in plan.formats])}
    count = sum(one.startswith("gguf") for one in plan.formats)
    assert count > 1
    assert apart == {"safetensors": shared["safetensors"], "gguf": count * shared["gguf"]}


@pytest.mark.parametrize("same", [True, False])
def test_gram_matrices_that_go_to_the_cache_need_room_there(
    same: bool, line: Line, made: Path, text: tuple[Checkpoint, Corpus],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """They are made on the output's disk, once; on one disk the move takes no more."""
    monkeypatch.setattr(estimating, "SHORT", 1e9)
    monkeypatch.setattr(estimating, "same_disk", lambda *_: same)
    alone = Task(tmp_path / "out", text[1], Calibration(gram="shared"))
    task = replace(alone, plan=read_plan(made / "plan.json"))
    gram = cost_of(*text, 0, "shared").gram_bytes
    before, after = (
        {need.what: need.bytes for need in estimate_task(text[0], one, workers=1).needs}
        for one in (alone, task)
    )
    assert "cache" not in before and after.get("cache", 0) == (0 if same else gram)
    what = "statistics and Gram matrices"
    assert before[what] == after[what] > gram


def test_what_is_not_this_machines_cpu_is_not_estimated(
    line: Line, run: Run, made: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", made / "tiny-moe-6e-Q8_0.gguf"
    measuring = ("measure", file, "--against", line.model, "--prompts", line.prompts)
    making = ("shrink", line.model, "--experts", 6, "--corpus", line.corpus, "-o", out)
    for words in (measuring, making, ("calibrate", line.model, "--corpus", line.corpus, "-o", out)):
        refused = run(*words, "--estimate", device="cuda:7")
        assert refused.code == 2, refused.err
        assert "device cuda:7: estimates are made for the CPU" in refused.said[-1]
        refused = run(*words, "--estimate", engine="ray")
        assert refused.code == 2, refused.err
        assert "engine ray: estimates are made for this machine" in refused.said[-1]


def test_what_a_stage_took_is_told_from_the_others() -> None:
    seconds = {"write GGUF": 3.0, "write safetensors": 5.0, "a.gguf: layers": 1.0, "a.gguf: x": 2.0}
    for reports, took in (("write gguf", 3.0), ("a.gguf: ", 3.0), ("calibrate", None)):
        assert Stage("any", (), 1.0, 1, reports=(reports,)).took(seconds) == took
    assert Stage("none", (), 1.0, 1).took(seconds) is None


def test_what_engines_are_asked_is_counted_beside_the_times(line: Line) -> None:
    original = open_weights(line.model, None, "measuring")
    asked = Measuring(tasks=Tasks(("reasoning", "gsm8k"), limit=40), loops=Loops(tokens=500))
    (note,) = asking_notes(original, asked, 2)
    assert "what 3 models will be asked" in note and "40 questions of reasoning, gsm8k" in note
    assert "900 replies of each, of at most 500 tokens (1,350,000 together" in note
    assert "a second takes 37 h 30 min)" in note
    alone = replace(asked, loops=None, serving=Serving(original="none"))
    assert "what the model will be asked" in asking_notes(original, alone, 0)[0]
    assert asking_notes(original, Measuring(), 2) == ()
