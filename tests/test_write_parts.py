"""Outputs of a plan written in parts: the bytes of one go, whoever writes them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray_cluster import kill_a_worker, on_ray, ray_nodes
from tiny_line import Line, files_of

import secateur
from secateur import Formats, Pruning, Running
from secateur.checkpoint.reader import open_checkpoint
from secateur.errors import StatisticsError, WriteError
from secateur.outputs import write_parts
from secateur.outputs.apply import _make_room, check_plan
from secateur.outputs.write_parts import OpenPlan, SharedGram, SharedPlan, open_plan, share_plan
from secateur.planning.checks import PlanSources
from secateur.planning.document import Plan
from secateur.statistics.file import load

RULES = [{"role": role, "type": "none"} for role in ("router", "expert.down", "dense.down")]
MLX = {"name": "near", "to": "mlx", "base": "affine-8-32", "rules": RULES}


@pytest.fixture(scope="module")
def plan(line: Line, stats: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of a checkpoint, two GGUF files and an MLX folder."""
    recipe = tmp_path_factory.mktemp("recipe") / "near.yaml"
    recipe.write_text(json.dumps(MLX))
    formats = Formats(to="safetensors,gguf,mlx", types=("Q8_0", "Q4_0", str(recipe)))
    return secateur.plan(line.model, Pruning(experts=6), formats, statistics=stats)


@pytest.fixture(scope="module")
def whole(plan: Plan, stats: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is written in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    secateur.apply(plan, out, statistics=stats, workers=1)
    return files_of(out)


def same(out: Path, whole: Mapping[str, bytes]) -> bool:
    """Without the difference, which is long."""
    return files_of(out) == whole


def test_parts_here_give_the_bytes_of_one_go(
    plan: Plan, stats: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    secateur.apply(plan, out, statistics=stats, workers=Running(1, parts=2))
    assert same(out, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_parts_of_another_division_are_no_room_that_is_taken_already(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was interrupted, and is taken up again with another number of parts."""
    home = tmp_path / write_parts.PARTS_FOLDER
    for name in ("1-of-2", "2-of-2.secateur-incomplete", "1-of-3", "2-of-3.secateur-incomplete"):
        (home / name / "files").mkdir(parents=True)
        (home / name / "files/made").write_bytes(bytes(1000))
    taken = sum(sum(sizes.values()) for sizes in map(plan.sizes, plan.formats))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=taken - 2001))
    with pytest.raises(WriteError, match=f"has {taken - 2001} bytes free, .* takes {taken - 2000}"):
        _make_room(plan, tmp_path, Running(1, parts=3))
    assert {path.name[:6] for path in home.iterdir()} == {"1-of-3", "2-of-3"}


@pytest.mark.slow
def test_a_part_that_is_written_is_not_written_again(
    plan: Plan, stats: Path, whole: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    written: list[str] = []
    real = write_parts.write_part

    def stop_at_the_last(inputs: OpenPlan, ids: tuple[str, ...], folder: Path, n: int) -> None:
        if len(written) == len(plan.formats) - 1:
            written.append("stopped")
            raise KeyboardInterrupt
        written.extend(ids)
        real(inputs, ids, folder, n)

    monkeypatch.setattr(write_parts, "write_part", stop_at_the_last)
    out, running = tmp_path / "out", Running(1, parts=99)
    with pytest.raises(KeyboardInterrupt):
        secateur.apply(plan, out, statistics=stats, workers=running)
    assert not out.exists()
    secateur.apply(plan, out, statistics=stats, workers=running)
    assert len(written) == len(plan.formats) + 1
    assert len(set(written)) == len(written)
    assert same(out, whole)


@pytest.mark.slow
def test_a_part_of_which_files_were_moved_is_written_again(
    plan: Plan, stats: Path, whole: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The process ends while parts are moved to their places."""
    moved: list[Path] = []
    real = Path.replace

    def stop_in_between(self: Path, target: Path) -> Path:
        if write_parts.PARTS_FOLDER in self.parts and "files" in self.parts[:-1]:
            if len(moved) == 3 and "partial" not in self.name:
                raise KeyboardInterrupt
            if "partial" not in self.name:
                moved.append(target)
        return real(self, target)

    out, running = tmp_path / "out", Running(1, parts=99)
    with monkeypatch.context() as context:
        context.setattr(Path, "replace", stop_in_between)
        with pytest.raises(KeyboardInterrupt):
            secateur.apply(plan, out, statistics=stats, workers=running)
    assert len(moved) == 3 and not out.exists()
    secateur.apply(plan, out, statistics=stats, workers=running)
    assert same(out, whole)


@pytest.mark.slow
def test_what_was_begun_in_one_way_is_finished_in_the_other(
    plan: Plan, stats: Path, whole: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, in_parts = tmp_path / "out", Running(1, parts=99)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("secateur.api.apply.write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            secateur.apply(plan, out, statistics=stats, workers=1)
    with monkeypatch.context() as context:
        context.setattr(write_parts, "_read_content", interrupt)
        with pytest.raises(KeyboardInterrupt):
            secateur.apply(plan, out, statistics=stats, workers=in_parts)
    secateur.apply(plan, out, statistics=stats, workers=1)
    assert same(out, whole)


def test_what_another_machine_needs_can_be_sent(plan: Plan, stats: Path, line: Line) -> None:
    checkpoint = open_checkpoint(line.model)
    checked = check_plan(plan, PlanSources(checkpoint, load(stats), None, None))
    assert checked.importance is not None
    shared = share_plan(checked.plan, checkpoint, checked.importance.imatrix, None)
    sent: SharedPlan = pickle.loads(pickle.dumps(shared))
    assert sent.plan.sha256() == plan.sha256()
    assert open_plan(sent).decisions.keys() == set(plan.formats)


def test_gram_matrices_that_another_machine_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="is not there on this machine: put the statistics"):
        SharedGram(tmp_path / "none", "0" * 64).open()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_ray_writes_the_bytes_of_one_go_with_two_workers_and_after_a_kill(
    only_cluster: None, plan: Plan, stats: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    with ray_nodes(1, cores=2):
        secateur.apply(plan, tmp_path / "two", statistics=stats, workers=on_ray(1, 99))
        assert same(tmp_path / "two", whole)
        killed: list[int] = []

        def kill(stage: str, done: int, total: int, unit: str) -> None:
            if unit == "parts" and done and not killed:
                killed.append(kill_a_worker())

        out = tmp_path / "killed"
        secateur.apply(plan, out, statistics=stats, workers=on_ray(2, 99), progress=kill)
        assert killed and same(out, whole)
