"""Keys and tokens are in nothing that is written or printed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_line import Line, Run

from secateur.cli.progress import typed_command
from secateur.system.secret_words import hide_secrets

VARIABLES = {
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlanted",
    "OPENAI_API_KEY": "sk-planted-openai-key-0123456789",
    "SECATEUR_API_KEY": "planted secateur key".replace(" ", "-"),
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret",
    "MY_PASSWORD": "planted-password",
}
LOGIN = "planted-login-token"
ADDRESS = "http://planted-user:planted-pass@127.0.0.1:9/v1?api_key=planted-parameter"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with secrets in its environment, a login, and folders of its own."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "HF_HOME").mkdir()
    (tmp_path / "HF_HOME" / "token").write_text(LOGIN + "\n")
    return tmp_path


def check(text: str) -> None:
    for secret in ("planted", "Planted"):
        assert secret not in text, text[max(0, text.find(secret) - 200) :][:400]


def check_files(folder: Path) -> int:
    """Every file below, but the login itself; returns how many there were."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "token"]
    for path in files:
        check(path.read_bytes().decode("latin-1"))
    return len(files)


def test_secrets_are_hidden_wherever_they_stand(planted: Path) -> None:
    for secret in (*VARIABLES.values(), LOGIN, ADDRESS):
        check(hide_secrets(f"cannot read {secret}: no"))
        assert "cannot read" in hide_secrets(f"cannot read {secret}: no")
    check(typed_command(["measure", "out", "--original", ADDRESS, f"--key={LOGIN}"]))
    assert hide_secrets("https://huggingface.co/a/b?download=true and a@b.c") == (
        "https://huggingface.co/a/b?download=true and a@b.c"
    )


def test_errors_of_servers_and_of_addresses(planted: Path, run: Run, line: Line) -> None:
    for words in (
        ("measure", ADDRESS, "--tasks", "arithmetic"),
        ("audit", ADDRESS + "&x=.gguf"),
        ("inspect", "owner/" + VARIABLES["HF_TOKEN"]),
        ("inspect", line.model, "--colour", VARIABLES["OPENAI_API_KEY"]),
    ):
        ran = run(*words)
        assert ran.code
        check(ran.out + ran.err)


@pytest.mark.slow
def test_the_whole_line_writes_none(planted: Path, run: Run, line: Line) -> None:
    room = planted / "room"
    room.mkdir()
    model = shutil.copytree(line.model, room / "model")
    job = room / "job.yaml"
    job.write_text(
        f"model: model\nout: out\npruning:\n  experts: 6\nformats:\n  types: [Q8_0]\n"
        f"calibration:\n  corpus: {line.corpus}\nmeasuring:\n  answers: {line.answers}\n"
    )
    ran = run("-vv", "run", job)
    assert ran.code == 0, ran.err[-2000:]
    check(ran.out + ran.err)
    for words in (
        ("verify", room / "out"),
        ("release", room / "out", "--base-model", "a/b", "--license", "mit", "--repository", "a/c"),
        ("measure", room / "out", "--against", model, "--answers", line.answers, "-v"),
        ("measure", room / "out", "--tasks", "arithmetic", "--original", ADDRESS, "-vv"),
        ("report", room / "out"),
    ):
        ran = run(*words)
        check(ran.out + ran.err)
    assert check_files(room) > 10
    assert check_files(planted) > 10
