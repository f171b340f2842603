"""What a server made of tasks, kept in a folder of its own: its pages, and groups compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from documented_keys import unknown, unused
from tiny_line import Run

from secateur import verify
from secateur.api.tasks import Answered, evidence_of, items_of
from secateur.errors import OutputError
from secateur.evaluation.asking.lock import RunLock
from secateur.evaluation.asking.reply import Outcome
from secateur.evaluation.tasks.group import GroupResult, GroupRule
from secateur.evaluation.tasks.request import Tasks
from secateur.evaluation.tasks.result import ItemResult, TaskResult
from secateur.release.asked_folder import read_asked, write_asked_folder, write_asked_pages
from secateur.release.evidence import ORIGINAL
from secateur.release.html.asked_page import pictures_of
from secateur.release.keys import EVIDENCE_KEYS
from secateur.release.manifest import amend_manifest

FEW, MANY = 8, 12
GATES = ["accuracy:few>=0.5", "accuracy_difference.low:many>=-0.9"]


def answered(name: str, few: int, many: int, *, by_size: bool = True) -> Answered:
    """A model with so many right answers to two tasks, which are a group."""

    def task(called: str, right: int, count: int) -> TaskResult:
        items = (
            ItemResult(called, str(number), Outcome.ANSWERED, float(number < right))
            for number in range(count)
        )
        return TaskResult(called, tuple(items), f"hash of {called}", "1")

    rule = GroupRule(("few", "many"), by_size)
    group = GroupResult("both", rule, "acc", 0.5, 0.1, FEW + MANY)
    lock = RunLock(name, {"engine": "unknown"}, {"seed": 0}, data={"few": "f", "many": "m"})
    return Answered(name, (task("few", few, FEW), task("many", many, MANY)), lock, (group,))


def keep(folder: Path, model: Answered, original: Answered | None = None) -> Path:
    models = [model] if original is None else [original, model]
    evidence = evidence_of(models, Tasks(("few", "many")), notes=["<b>odd</b>"])
    against = None if original is None else "http://host/original"
    asked = {"target": "http://host/<i>v1", "against": against, "gates": GATES}
    write_asked_folder(folder, evidence, items_of(models), asked)
    return folder


def test_answers_of_a_server_have_pages_as_an_output_has(tmp_path: Path, run: Run) -> None:
    folder = keep(tmp_path / "kept", answered("model", 1, 9), answered(ORIGINAL, 5, 9))
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    words = page.partition('<script type="application/json" id="theme-light">')[0]
    assert "<title>Tasks of http://host/&lt;i&gt;v1</title>" in page and "<i>" not in words
    assert "&lt;b&gt;odd&lt;/b&gt;" in words
    assert "://" not in re.sub(r'"\$schema":"[^"]*"|http://host', "", words)
    drawn = pictures_of(read_asked(folder).evidence)
    assert [one.name for one in drawn] == ["tasks-accuracy", "tasks-accuracy-difference"]
    assert all(f'id="spec-{one.name}"' in page and one.sample in page for one in drawn)
    row = re.search(r'<th scope="row">few</th>(.*)</tr>', words)
    assert row is not None
    cells = re.findall(r'<td class="number">([^<]*)</td>', row[1])
    assert cells[0].startswith("0.625 [") and cells[1].startswith("0.125 [")
    assert cells[2].startswith("-0.500 [") and cells[3] == "8"
    for said in (words, text):  # the limits, with what came of them
        assert re.search(r"accuracy:few(&gt;|>)=0.5.*missed", said)
        assert re.search(r"accuracy_difference.low:many(&gt;|>)=-0.9.*met", said)
    assert verify(folder) == ()
    for name, content in (("report.html", page), ("report.md", text)):
        (folder / name).write_text(content.replace("0.125", "0.135", 1))
        (found,) = verify(folder)
        assert found.file == name and "manifest.json and evidence/" in found.what
        assert run("report", folder).code == 0 and (folder / name).read_text() == content
    assert run("report", folder, "--pictures").code == 0
    assert verify(folder) == ()
    assert (folder / "evidence/pictures/tasks-accuracy.svg").is_file()
    refused = run("report", folder, "-o", tmp_path / "x.html")
    assert refused.code == 2 and "secateur compare" in refused.err


def test_what_nothing_stands_beside_has_a_page_too(tmp_path: Path) -> None:
    folder = keep(tmp_path / "kept", answered("model", 1, 9))
    page = (folder / "report.html").read_text()
    assert "Nothing was set beside it." in page and "same questions</th>" not in page
    path = folder / "evidence/tasks.json"
    path.write_text(path.read_text().replace('"items"', '"things"'))
    amend_manifest(folder, ("evidence/tasks.json",))
    with pytest.raises(OutputError, match="the evidence of http://host/.* is not what secateur"):
        write_asked_pages(folder)


@pytest.mark.parametrize(("by_size", "difference"), [(True, -3 / 20), (False, -1 / 6)])
def test_groups_of_two_folders_are_compared_by_what_their_questions_count(
    tmp_path: Path, run: Run, by_size: bool, difference: float
) -> None:
    first = keep(tmp_path / "first", answered("model", 3, 10, by_size=by_size))
    second = keep(tmp_path / "second", answered("model", 1, 9, by_size=by_size))
    said = run("compare", first, second)
    assert said.code == 0, said.err
    lines = [line for line in said.out.splitlines() if line.strip().startswith("both:")]
    assert len(lines) == 1 and f"{100 * difference:+.1f} points" in lines[0]
    assert "0 gained of 20" in lines[0] and "3 lost" in lines[0]
    written = json.loads((first / "evidence/tasks.json").read_text())
    groups = {key: about for key, about in EVIDENCE_KEYS.items() if key.startswith("facts.groups.")}
    assert unknown(written, EVIDENCE_KEYS) == [] and unused([written], groups) == []
    other = keep(tmp_path / "other", answered("model", 1, 9, by_size=not by_size))
    assert "both:" not in run("compare", first, other).out  # another rule is another group
