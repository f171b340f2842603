"""Releasing an output: what would go up, and that it goes up whole, once, and by its hashes."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_push_server import TOKEN, Hub, hub_to_push_to, point_client_at
from killed_line import Cut, killer
from tiny_line import Line, Run

import secateur
from secateur import Releasing
from secateur import release_output as release
from secateur.errors import EngineError, GateError, InputError, OutputError, RequestError
from secateur.release.card.shown import PICTURES
from secateur.release.manifest import amend_manifest, read_manifest, sha256_of
from secateur.release.pages import write_pages
from secateur.release.upload import push as push_module

# The hub's client without xet calls a form of its HTTP library that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PUSH_KILLS = 4
"""Requests at which a push is killed, from the first to the last."""
PUSH = Releasing(repository="me/tiny-6e", push=True)


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_to_push_to(tmp_path / "store") as hub:
        point_client_at(hub, monkeypatch)
        yield hub


def test_nothing_is_sent_without_push(out: Path, hub: Hub, run: Run) -> None:
    ran = run("release", out, repository="me/tiny-6e", json=True)
    assert ran.code == 0, ran.err
    assert hub.asked == []
    names = {file["path"]: file for file in ran.json["files"]}
    assert {"README.md", "manifest.json", "report.json", "Modelfile", "params"} <= set(names)
    for name, file in names.items():
        assert file["sha256"] == sha256_of(out / name)
        assert file["bytes"] == (out / name).stat().st_size
    assert names["model.safetensors"]["kind"] == "LFS"
    assert names["config.json"]["kind"] == "regular"
    assert ran.json["front_matter"]["quantized_by"] == "me"
    assert ran.json["pushed"] is None
    assert secateur.verify(out) == ()


@pytest.mark.slow
def test_people_see_what_goes_up_and_what_to_do_next(out: Path, hub: Hub, run: Run) -> None:
    """Weights one by one, small files of a folder in one line; what is not known and the command
    that measures it; where the card lies; what a push sends, before it does."""
    ran = run("release", out, repository="me/tiny-6e")
    assert ran.code == 0, ran.err
    assert re.search(r"^  model.safetensors +[\d.]+ [kM]B +[0-9a-f]{12}  LFS$", ran.out, re.M)
    folder = re.search(r"^  evidence/: (\d+) small files \(-v lists them\)", ran.out, re.M)
    assert folder and "evidence/card.json" not in ran.out
    listed = run("release", out, "-v", repository="me/tiny-6e").out
    assert len(re.findall(r"^  evidence/\S+ .* regular$", listed, re.M)) == int(folder[1])
    command = f"secateur measure {out} --against"
    assert f"note: the card says that tasks, loops, speed are not known: {command}" in ran.out
    assert "--tasks NAME,... --loops --speed measures it" in ran.out
    assert f"read the card: {out / 'README.md'}" in ran.out
    pushed = run("release", out, push="me/tiny-6e")
    assert re.search(r"sending (\d+) of \1 files, [\d.]+ MB", pushed.err)


def test_the_card_shows_the_pictures_of_what_was_measured(out: Path) -> None:
    released = release(out)
    pictures = sorted(path.name for path in (out / "evidence/pictures").iterdir())
    assert "size-and-divergence.svg" in pictures and "experts.svg" in pictures
    card = (out / "README.md").read_text()
    sent = {file.path for file in released.bundle.files}
    assert all(f"evidence/pictures/{name}" in sent for name in pictures)
    shown = re.findall(r"!\[([^\]]+)\]\(evidence/pictures/([\w-]+)\.svg\)", card)
    assert [name for _, name in shown] == [name for name in PICTURES if f"{name}.svg" in pictures]
    assert 3 <= len(shown) < len(pictures) and all(about == PICTURES[name] for about, name in shown)
    assert "More pictures: `report.html`." in card
    (out / "report.json").unlink()
    amend_manifest(out, (), gone={"report.json"})
    shutil.rmtree(out / "evidence/pictures")
    amend_manifest(out, (), gone={f"evidence/pictures/{name}" for name in pictures})
    release(out, Releasing(force=True))
    assert "evidence/pictures" not in (out / "README.md").read_text()


@pytest.mark.slow
def test_a_release_makes_the_same_bytes_again(out: Path) -> None:
    first = {file.path: file.sha256 for file in release(out).bundle.files}
    assert {file.path: file.sha256 for file in release(out).bundle.files} == first


def test_all_files_arrive_by_their_hashes(out: Path, hub: Hub, run: Run) -> None:
    ran = run("release", out, push="me/tiny-6e", json=True)
    assert ran.code == 0, ran.err
    assert hub.private is True
    assert set(hub.files) == {file["path"] for file in ran.json["files"]}
    for path, entry in hub.files.items():
        if "lfs" in entry:
            assert entry["lfs"]["oid"] == sha256_of(out / path)
    assert hub.commits[-1][-1] == "README.md"
    assert "README.md" not in [name for commit in hub.commits[:-1] for name in commit]
    assert TOKEN not in ran.out + ran.err
    assert ran.json["pushed"]["sent"] == len(hub.files)
    again = run("release", out, push="me/tiny-6e", json=True)
    assert again.json["pushed"]["sent"] == 0
    assert again.json["pushed"]["there"] == len(hub.files)
    assert max(hub.puts.values()) == 1


def test_how_far_a_push_is_is_told_file_by_file(
    out: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights take long, and all of them may go in one commit; what takes longest is named."""
    longest = max((out / name).stat().st_size for name in read_manifest(out)["files"])
    monkeypatch.setattr(push_module, "LONG", longest)
    said: list[str] = []
    told: list[tuple[int, int]] = []

    def progress(stage: str, done: int, total: int, unit: str) -> None:
        if stage == "push":
            told.append((done, len(hub.commits)))
            assert unit == "bytes"

    done = release(out, PUSH, on_message=said.append, progress=progress)
    named = [file.path for file in done.bundle.files if file.size >= longest]
    assert [one for one in said if one.startswith(f"sending {named[0]}, ")]
    assert sum(one.startswith("sending ") for one in said) == 2
    before = sorted({bytes for bytes, commits in told if not commits})
    weights = [file.size for file in done.bundle.files if file.kind == "LFS"]
    assert len(weights) >= 3
    assert before == [sum(weights[:count]) for count in range(len(weights) + 1)]
    assert told[-1] == (done.bundle.size, len(hub.commits))


@pytest.mark.slow
def test_xet_is_the_way_where_it_is_there(
    out: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_client_at(hub, monkeypatch, xet=True)
    done = release(out, PUSH)
    assert done.pushed is not None
    assert any("xet-write-token" in asked for asked in hub.asked)
    assert hub.puts == {}
    assert any(hub.store.rglob("*"))
    assert hub.files["model.safetensors"]["lfs"]["oid"] == sha256_of(out / "model.safetensors")
    assert release(out, PUSH).pushed.sent == 0


def test_a_push_that_was_interrupted_sends_nothing_twice(
    out: Path, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every weight file has a commit of its own; the second commit fails."""
    monkeypatch.setattr(push_module, "BATCH", 1)

    def fail(method: str, path: str) -> int | None:
        return 403 if "/commit/" in path and len(hub.commits) == 1 else None

    hub.fail = fail
    ran = run("release", out, push="me/tiny-6e")
    assert ran.code == 2
    assert f"`secateur release {out} --push me/tiny-6e` goes on, and sends nothing twice" in ran.err
    assert "1 of " in ran.err and " committed in this run" in ran.err
    assert TOKEN not in ran.err
    first = set(hub.files)
    assert len(first) == 1
    sent = dict(hub.puts)
    hub.fail = lambda method, path: None
    hub.asked.clear()
    done = run("release", out, push="me/tiny-6e", json=True)
    assert done.code == 0, done.err
    assert done.json["pushed"]["there"] == 1
    assert all(count == 1 for count in hub.puts.values())
    assert set(sent) < set(hub.puts)
    assert not any(name in commit for commit in hub.commits[1:] for name in first)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, 2, "may not write there"),
        pytest.param(401, 2, "does not accept the token", marks=pytest.mark.slow),
        pytest.param(404, 2, "may not write there", marks=pytest.mark.slow),
        pytest.param(400, 2, "refuses what was sent (on purpose)", marks=pytest.mark.slow),
    ],
)
def test_a_hub_that_refuses_is_one_line(
    status: int, code: int, message: str, out: Path, hub: Hub, run: Run
) -> None:
    hub.fail = lambda method, path: status if "/commit/" in path else None
    ran = run("release", out, push="me/tiny-6e")
    assert ran.code == code
    assert message in ran.said[-1]
    assert TOKEN not in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_other_bytes_on_the_hub_are_found(
    out: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(out, PUSH)
    real = push_module.list_remote

    def worse(api, repository):
        found = dict(real(api, repository))
        found.pop("config.json")
        return found

    monkeypatch.setattr(push_module, "list_remote", worse)
    with pytest.raises(EngineError, match=r"does not have config.json with sha256"):
        release(out, PUSH)


def test_without_a_login_nothing_begins(
    out: Path, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    ran = run("release", out, push="me/tiny-6e")
    assert ran.code == 2
    assert "hf auth login" in ran.err
    assert hub.asked == []
    assert not (out / "README.md").exists()


def test_a_damaged_output_is_not_sent(out: Path, hub: Hub, run: Run) -> None:
    with (out / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    ran = run("release", out, push="me/tiny-6e")
    assert ran.code == 2
    assert "model.safetensors has sha256" in ran.err
    assert not any("commit" in asked for asked in hub.asked)


def test_an_output_that_misses_a_limit_is_not_sent(out: Path, hub: Hub, run: Run) -> None:
    ran = run("release", out, push="me/tiny-6e", gate="kl_mean<=0.0000001")
    assert ran.code == 3
    assert "the limit is kl_mean<=1e-07" in ran.err
    report = json.loads((out / "report.json").read_text())
    report["gates"] = ["top1_agreement>=1.1"]
    (out / "report.json").write_text(json.dumps(report))
    amend_manifest(out, ("report.json",))
    write_pages(out)
    write_pages(out)
    with pytest.raises(GateError, match="top1_agreement"):
        release(out, PUSH)
    assert not any("commit" in asked for asked in hub.asked)


def test_a_readme_of_a_person_is_not_replaced_unasked(out: Path) -> None:
    (out / "README.md").write_text("# mine\n")
    with pytest.raises(OutputError, match="--about"):
        release(out)
    release(out, Releasing(force=True))
    assert "# mine" not in (out / "README.md").read_text()


@pytest.mark.slow
def test_a_card_that_a_person_changed_on_the_hub_is_not_replaced_unasked(
    out: Path, hub: Hub
) -> None:
    release(out, PUSH)
    about = out.parent / "words.md"
    about.write_text("It is mine.\n")
    told = replace(PUSH, about=about)
    assert release(out, told).pushed.sent > 0  # the card there was ours
    words = hub.contents["README.md"] + b"\nMy own words.\n"
    hub.contents["README.md"] = words
    hub.files["README.md"].update(size=len(words), oid="0" * 40)
    before = len(hub.commits)
    for request in (told, PUSH):
        with pytest.raises(OutputError, match="its README.md was written or changed by hand"):
            release(out, request)
    assert len(hub.commits) == before and hub.contents["README.md"] == words
    release(out, replace(told, force=True))
    assert b"My own words" not in hub.contents["README.md"]
    del hub.files["evidence/card.json"]
    hub.contents["README.md"] = b"---\nlicense: mit\n---\n"  # what the hub's own form makes
    hub.files["README.md"]["oid"] = "0" * 40
    assert release(out, told).pushed.sent == 2


@pytest.mark.slow
def test_a_subset_is_whole_where_it_arrives(out: Path, hub: Hub, tmp_path: Path) -> None:
    done = release(out, Releasing(repository="me/tiny-GGUF", push=True, only=("gguf",)))
    assert "model.safetensors" not in hub.files
    (manifest,) = (file for file in done.bundle.files if file.path == "manifest.json")
    listed = json.loads(manifest.content)["files"]
    rendered = {"report.md", "report.html", "run.json"}
    assert set(listed) | {"manifest.json"} | rendered == set(hub.files)
    there = tmp_path / "there"
    for file in done.bundle.files:
        (there / file.path).parent.mkdir(parents=True, exist_ok=True)
        (there / file.path).write_bytes(file.content or file.source.read_bytes())
    assert secateur.verify(there) == ()


@pytest.mark.slow
def test_questions_of_tasks_stay_unless_they_are_asked_for(out: Path) -> None:
    name = "evidence/tasks/a.gguf/gpqa.jsonl"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"question": "secret"}\n')
    amend_manifest(out, (name,))
    done = release(out)
    assert name in done.bundle.left
    assert name not in {file.path for file in done.bundle.files}
    assert name in {file.path for file in release(out, Releasing(with_items=True)).bundle.files}


@pytest.mark.slow
def test_a_model_for_mlx_that_goes_alone_lies_in_the_root(tmp_path: Path) -> None:
    plan = secateur.plan(
        "gemmule",
        secateur.Pruning(drop=0),
        secateur.Formats(to="safetensors,mlx", types="mlx-mixed-4-8-32"),
    )
    secateur.apply(plan, tmp_path / "out")
    done = release(tmp_path / "out", Releasing(repository="me/m", only=("mlx",)))
    paths = {file.path: file.source for file in done.bundle.files}
    assert paths["config.json"].parent.name == "mlx-mixed-4-8-32"
    assert paths["model.safetensors"].parent.name == "mlx-mixed-4-8-32"
    assert len([path for path in paths if path.endswith("tokenizer.json")]) == 1
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'mlx_lm.generate --model me/m --prompt "Hello"' in text
    assert "| `model.safetensors` | mixed-4-8-32 |" in text
    assert "library_name: mlx" in text


@pytest.mark.parametrize(
    "words",
    [
        {"repository": "no-owner"},
        {"repository": "a/b/c"},
        {"base_model": "95% accuracy"},
        {"license": "0.95\nbest: true"},
        {"license_link": "javascript:x"},
        {"push": True},
    ],
)
def test_what_the_releaser_names_are_names(words: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        Releasing(**words)  # type: ignore[arg-type]


def test_what_is_not_an_output_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        release(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("role", "owner", "message"),
    [
        ("read", "me", "the token of me may only read: make one with the right to write"),
        ("write", "you", r"nor one of its organizations \(me, us\): check the owner"),
        ("write", "Us", None),
        ("fineGrained", "you", None),  # its rights are seen when it pushes
        (None, "you", None),
    ],
)
def test_a_login_that_cannot_push_is_refused_before_hours_are_spent(
    role: str | None, owner: str, message: str | None, hub: Hub
) -> None:
    hub.role, hub.organizations = role, ["us"]
    target = push_module.Target(f"{owner}/tiny")
    if message is None:
        assert push_module.check_login(target) == "me"
    else:
        with pytest.raises(InputError, match=message):
            push_module.check_login(target)


def test_the_command_that_goes_on_is_the_one_that_was_given() -> None:
    request = Releasing(
        repository="me/it", push=True, public=True, only=("gguf", "mlx"), about=Path("a b.md"),
        with_items=True, license="other", license_name="mine", gates=("kl_mean<=1", "loop_rate<=1"),
    )  # fmt: skip
    assert request.command(Path("my out")) == (
        "secateur release 'my out' --push me/it --public --only gguf,mlx --about 'a b.md' "
        "--license other --license-name mine --with-items --gate 'kl_mean<=1' --gate 'loop_rate<=1'"
    )
    assert (
        Releasing(repository="me/it").command(Path("o")) == "secateur release o --repository me/it"
    )


def test_shrink_asks_for_a_login_before_hours_are_spent(
    line: Line, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    ran = run("shrink", line.model, "-o", tmp_path / "out", push="me/tiny", corpus=line.corpus)
    assert ran.code == 2
    assert "there is no login on this machine" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_from_a_model_to_a_published_model_in_one_command(
    line: Line, hub: Hub, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = run(
        "shrink", line.model, "-o", out, "--public", experts=6, types="Q8_0", corpus=line.corpus,
        answers=line.answers, workers=1, push="me/tiny-6e", json=True,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["pushed"]["sent"] == len(hub.files) > 10
    assert hub.private is False
    assert secateur.verify(out) == ()
    missed = run(
        "shrink", line.model, "-o", tmp_path / "again", types="Q8_0", corpus=line.corpus,
        answers=line.answers, workers=1, push="me/other", max_kl=0,
    )  # fmt: skip
    assert missed.code == 3
    assert "again" not in str(hub.commits)
    assert not (tmp_path / "again" / "README.md").exists()


KILLED = """
import sys
from huggingface_hub import constants
constants.HF_HUB_DISABLE_XET = True
from secateur.release.upload import push
push.BATCH = 1
from secateur.cli.main import main
sys.argv = ["secateur", "release", sys.argv[1], "--push", "me/tiny-6e"]
main()
"""


@pytest.mark.slow
def test_a_push_that_is_killed_goes_on_where_it_was(out: Path, hub: Hub, run: Run) -> None:
    """The process is killed while the second weight file is on its way."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> int | None:
        if method == "PUT" and len(hub.commits) == 1:
            reached.set()
            go_on.wait(60)
            return 500
        return None

    hub.fail = hold
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    environment.pop("HF_HUB_OFFLINE", None)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(out)], env=environment
    )
    assert reached.wait(120)
    process.kill()
    process.wait()
    go_on.set()
    first = dict(hub.puts)
    assert list(first.values()) == [1]
    hub.fail = lambda method, path: None
    done = run("release", out, push="me/tiny-6e", json=True)
    assert done.code == 0, done.err
    assert done.json["pushed"]["there"] == 1
    assert max(hub.puts.values()) == 1
    assert {entry["lfs"]["oid"] for entry in hub.files.values() if "lfs" in entry} == set(hub.puts)
    assert TOKEN not in done.err


@pytest.mark.slow
def test_a_push_that_is_killed_at_any_request_ends_the_same(
    out: Path, hub: Hub, tmp_path: Path
) -> None:
    there = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    with killer(**there, HF_HUB_OFFLINE="0") as forks:

        def push(at: int = 0) -> Cut:
            """Kill it when it asks for the `at`-th time."""
            asked = itertools.count(1)

            def fail(method: str, path: str) -> int | None:
                if next(asked) != at:
                    return None
                forks.kill_run()
                return 500

            hub.fail = fail
            return forks.run("release", out, "--push", "me/tiny-6e", folder=tmp_path / "no")

        whole = push()
        assert whole.code == 0, whole.err
        requests, expected = len(hub.asked), dict(hub.files)
        assert requests >= PUSH_KILLS and set(hub.puts.values()) == {1}
        for number in range(PUSH_KILLS):
            hub.forget()
            cut = push(1 + number * (requests - 1) // (PUSH_KILLS - 1))
            assert cut.code == -signal.SIGKILL, cut.err
            done = push()
            assert done.code == 0, done.err
            assert hub.files == expected
            assert set(hub.puts.values()) == {1}  # what arrived is not sent again
