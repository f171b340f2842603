"""report.html and its pictures, without a browser: what they say, and that they are well formed."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny_line import Run

from secateur import verify
from secateur.errors import InputError
from secateur.evaluation.gate import parse_gate
from secateur.evaluation.measurement import Measurement
from secateur.release.evidence import ORIGINAL, ArtefactEvidence, Evidence
from secateur.release.expert_facts import ExpertFacts
from secateur.release.html.files import render_picture
from secateur.release.html.label_places import Box, Column, place_labels
from secateur.release.html.page import pictures_of, render_page
from secateur.release.html.picture import Picture
from secateur.release.html.pictures.experts import draw_experts, places
from secateur.release.html.pictures.frontier import draw_frontier, frontier
from secateur.release.html.pictures.load import draw_load
from secateur.release.html.subjects import check_comparable, output_names, subjects_of
from secateur.release.html.theme import config
from secateur.release.results import Results, read_results


@pytest.fixture(scope="module")
def results(made: Path) -> Results:
    return read_results(made)


def number(name: str, value: float, kind: str, domain: str = "sums") -> Measurement:
    spread = value - 0.1, value + 0.1, 0.95
    return Measurement(name, value, "of the questions", {"questions": 8}, *spread, domain, kind)


def with_evidence(results: Results) -> Results:
    """The results with tasks and speed of one artefact and the original."""
    artefact = results.report.artefacts[1].name
    tasks = Evidence(
        "tasks",
        (
            ArtefactEvidence(ORIGINAL, (number("accuracy", 0.75, "tasks"),)),
            ArtefactEvidence(
                artefact,
                (number("accuracy", 0.5, "tasks"), number("accuracy_difference", -0.05, "tasks")),
            ),
        ),
        {"lock": {"seed": 7}},
        ("<b>two</b> questions were cut",),
    )
    speed = Evidence(
        "speed", (ArtefactEvidence(artefact, (number("prefill_speed", 9.0, "speed"),)),)
    )
    return replace(results, evidence={"tasks": tasks, "speed": speed})


def test_the_page_is_whole_and_says_what_was_measured(made: Path, results: Results) -> None:
    page = (made / "report.html").read_text()
    assert page == render_page([results])
    assert "<title>tiny-moe, made smaller</title>" in page
    assert page.count("window.vegaEmbed") == 1
    words, _, _ = page.partition('<script type="application/json" id="theme-light">')
    assert "://" not in re.sub(r'"\$schema":"[^"]*"', "", words)
    for picture in pictures_of([results]):
        assert f'id="spec-{picture.name}"' in page
        assert f'<p class="sample">{picture.sample}</p>' in page
        assert re.fullmatch(r"n = \d.*", picture.sample)
        assert len(picture.table.rows) > 0
    kl = results.report.artefacts[1].value("kl_mean")
    assert kl is not None and kl.low is not None
    assert f"{kl.value:#.3g} [{kl.low:#.3g}, {kl.high:#.3g}]" in words
    assert not {"Tasks", "Loops and collapse", "Speed and memory"} & set(
        re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    )


def test_what_was_asked_has_its_sections_beside_the_original(results: Results) -> None:
    asked = with_evidence(results)
    page = render_page([asked])
    heads = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    assert {"Tasks", "Speed and memory"} <= set(heads) and "Loops and collapse" not in heads
    assert "&lt;b&gt;two&lt;/b&gt; questions were cut" in page
    assert "<dt>lock.seed</dt><dd>7</dd>" in page
    by_name = {picture.name: picture for picture in pictures_of([asked])}
    rows = by_name["tasks-accuracy"].spec["datasets"]["rows"]
    assert [(row["label"], row["value"], row["original"]) for row in rows] == [
        ("the original", 0.75, True),
        ("Q4_K_M", 0.5, False),
    ]
    assert "no difference" in by_name["tasks-accuracy-difference"].about
    assert "hollow" not in by_name["tasks-accuracy-difference"].about
    assert "no difference" not in by_name["speed-prefill-speed"].about


def test_many_domains_are_drawn_together_and_told_apart_in_the_table(results: Results) -> None:
    artefact, domains = results.report.artefacts[1].name, ["pooled", *map(str, range(24))]
    numbers = [number("loop_rate", 0.25, "loops", domain) for domain in domains]
    rest = [number("compression", 0.125, "loops", "pooled")]
    one_turn = Measurement(
        "generation_speed", 90.0, "tokens per second", {"turns": 1}, kind="speed"
    )

    def drawn(count: int) -> dict[str, Picture]:
        loops = Evidence("loops", (ArtefactEvidence(artefact, (*numbers[:count], *rest)),))
        speed = Evidence("speed", (ArtefactEvidence(artefact, (one_turn,)),))
        evidence = {"loops": loops, "speed": speed}
        pictures = pictures_of([replace(results, evidence=evidence)])
        return {picture.name: picture for picture in pictures}

    few, many = drawn(3), drawn(25)
    assert len(few["loops-loop-rate"].spec["datasets"]["rows"]) == 3
    assert len(many["loops-loop-rate"].spec["datasets"]["rows"]) == 1
    assert len(many["loops-loop-rate"].table.rows) == 26
    assert not [name for name in many if "compression" in name]
    assert many["speed-generation-speed"].spec["datasets"]["rows"][0]["value"] == 90.0

    assert "Bars" not in many["speed-generation-speed"].about


@pytest.mark.slow
def test_pictures_are_vega_lite_and_svg_of_the_same_bytes(results: Results) -> None:
    import altair

    for picture in pictures_of([with_evidence(results)]):
        spec = {**picture.spec, "width": "container", "config": config(dark=True)}
        altair.LayerChart.from_dict(json.loads(json.dumps(spec)), validate=True)
        assert rows_of(picture.spec)
    drawn = pictures_of([results])[-1]
    svg = render_picture(drawn)
    assert svg == render_picture(drawn)
    text = "".join(ElementTree.fromstring(svg).itertext())
    assert drawn.title in text and drawn.sample.split()[0] in text


def rows_of(spec: Mapping[str, Any]) -> list[Any]:
    return list(spec["datasets"]["rows"])


def test_experts_are_told_with_scores_and_what_they_worked_on(results: Results) -> None:
    experts = results.experts
    assert experts.scores is not None and experts.load is not None
    picture = draw_experts(experts)
    assert picture is not None
    cells = {(row["layer"], row["expert"]): row for row in rows_of(picture.spec)}
    for layer, gone in results.report.pruned.items():
        dropped = {expert for expert in range(8) if cells[layer, expert]["dropped"]}
        assert dropped == set(gone)
        kept = [cells[layer, expert]["amount"] for expert in range(8) if expert not in dropped]
        assert min(kept) > max(cells[layer, expert]["amount"] for expert in dropped)
    assert all(
        re.fullmatch(r"\w+ \(\d+ % of its tokens\)|nothing", cell["mostly"])
        for cell in cells.values()
    )
    share = experts.load.dropped_share(experts.kept)
    counts = experts.load.counts
    assert share[0, 0] == counts[0, 0, ~experts.kept[0]].sum() / counts[0, 0].sum()
    assert places(np.array([[3.0, 1.0, 1.0]])).tolist() == [[1.0, 0.25, 0.25]]


def test_without_statistics_there_is_a_map_and_a_sentence(results: Results) -> None:
    alone = ExpertFacts(results.experts.layers, results.experts.kept)
    picture = draw_experts(alone)
    assert picture is not None and "shade" not in picture.about
    assert draw_load(alone) is None
    assert "keeps no statistics" in render_page([replace(results, experts=alone)])


def test_limits_stand_in_the_page_with_their_verdicts(results: Results) -> None:
    gates = tuple(map(parse_gate, ("kl_mean<=100", "kl_mean<=0", "loop_rate:nowhere<=0.5")))
    page = render_page([replace(results, report=replace(results.report, gates=gates))])
    assert "Limits that were asked for" in page
    for word in ("met", "missed", "not measured"):
        assert f"<td>{word}</td>" in page
    assert "Limits that were asked for" not in render_page([results])


def test_the_frontier_is_what_no_smaller_artefact_matches(results: Results) -> None:
    report = results.report
    sizes = [3, 2, 1]
    lost = [0.2, 0.3, 0.3]
    artefacts = tuple(
        replace(one, name=f"a{size}", bytes=size, measurements=(
            Measurement("kl_mean", value, "nats per token", {"answers": 4}),
        ))
        for one, size, value in zip(report.artefacts, sizes, lost, strict=True)
    )  # fmt: skip
    changed = replace(results, report=replace(report, artefacts=artefacts))
    assert frontier(subjects_of([changed])) == ("a1", "a3")


def ladder(results: Results, count: int) -> Results:
    """So many artefacts, close in size, with a floor."""
    one = results.report.artefacts[1]
    generator = np.random.default_rng(0)
    artefacts = []
    for size in range(count):
        value = 0.4 / (size + 3) * generator.uniform(0.8, 1.2)
        kl = Measurement("kl_mean", value, "nats per token", {"answers": 4}, value / 2, 2 * value)
        artefacts.append(replace(one, bytes=1000 + 90 * size, measurements=(kl,)))
    floor = (Measurement("kl_mean", 0.01, "nats per token", {"answers": 4}),)
    report = replace(results.report, artefacts=tuple(artefacts), floor=floor, original_bytes=4000)
    return replace(results, report=report)


@pytest.mark.parametrize("count", [2, 12, 20])
def test_numbers_of_a_ladder_do_not_overlap_on_a_phone(results: Results, count: int) -> None:
    picture = draw_frontier(subjects_of([ladder(results, count)]))
    assert picture is not None
    rows = rows_of(picture.spec)
    assert [row["number"] for row in rows] == [str(number) for number in range(1, count + 1)]
    assert [row["size"] for row in rows] == sorted(row["size"] for row in rows)
    text = json.dumps(picture.spec)
    assert "floor: same weights, another kernel, 0.0100" in text
    drawn = [layer["encoding"]["y"] for layer in picture.spec["layer"] if "y" in layer["encoding"]]
    assert 0.01 in [place.get("datum") for place in drawn]
    assert picture.table.rows[-1][1] == "the original, another kernel (floor)"
    bottom, top = next(place["scale"]["domain"] for place in drawn if "scale" in place)
    left, right = (math.log(end) for end in _domain(picture.spec, "x"))
    boxes = []
    for row in rows:
        x = 285 * (math.log(row["size"]) - left) / (right - left)
        y = 360 * (1 - (row["place"] - bottom) / (top - bottom))
        half = 3.5 * len(row["number"])
        boxes.append(Box(x - half, y - 5, x + half, y + 5))
        assert 0 <= y <= 360
    pairs = combinations(boxes, 2)
    assert not [pair for pair in pairs if pair[0].meets(pair[1])]


def _domain(spec: Mapping[str, Any], channel: str) -> list[float]:
    found = (layer["encoding"].get(channel, {}) for layer in spec["layer"])
    return next(list(entry["scale"]["domain"]) for entry in found if "scale" in entry)


def test_labels_keep_off_what_is_there() -> None:
    """Another column's mark, a label that stands already with its line, and what is taken."""
    crowded = [Column(100 + 3 * number, 150, 200, str(number)) for number in range(12)]
    taken = [Box(0, 205, 300, 225)]
    places = place_labels(crowded, 360, taken)
    labels = [column.label(place) for column, place in zip(crowded, places, strict=True)]
    assert not [pair for pair in combinations(labels, 2) if pair[0].meets(pair[1])]
    for column, label in zip(crowded, labels, strict=True):
        assert not label.meets(taken[0])
        assert not any(label.meets(other.box) for other in crowded if other is not column)
    assert place_labels([Column(50, 100, 200, "1")], 360) == [100 - 5 - 6]


def test_outputs_are_put_together_when_they_can_be_compared(
    results: Results, made: Path, tmp_path: Path, run: Run
) -> None:
    names = ["m-28e", "m-24e", "m-2"]
    outputs = [replace(results, name=name) for name in names]
    assert output_names(outputs) == ["28e", "24e", "2"]
    assert len({one.label for one in subjects_of(outputs)}) == 9
    blank = [replace(results, name=name) for name in ("one half", "two")]
    assert all(one.split() == [one] for one in re.findall(r' id="(.*?)"', render_page(blank)))
    for name in ("a", "b"):
        shutil.copytree(made, tmp_path / "many" / name)
    ran = run("report", tmp_path / "many")
    assert ran.code == 0
    assert (tmp_path / "many/report.html").read_text().count("made smaller in 2 ways") == 2
    other = replace(results.report, answers={**results.report.answers, "sha256": "0"})
    with pytest.raises(InputError, match="measured on other answers"):
        check_comparable([results, replace(results, name="b", report=other)])
    with pytest.raises(InputError, match="called out"):
        check_comparable([results, results])
    made_of = {**results.report.made, "model": {**results.report.made["model"], "identity": "0"}}
    with pytest.raises(InputError, match="report them apart"):
        check_comparable([results, replace(results, report=replace(results.report, made=made_of))])


@pytest.mark.slow
def test_report_writes_the_pages_again_with_pictures_that_are_listed(
    made: Path, tmp_path: Path, run: Run
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    page = (out / "report.html").read_bytes()
    (out / "report.html").write_text("another page")
    assert [problem.file for problem in verify(out)] == ["report.html"]
    ran = run("report", out, "--pictures", json=True)
    assert ran.code == 0 and str(out / "evidence/pictures/experts.svg") in ran.json["written"]
    assert (out / "report.html").read_bytes() == page
    assert verify(out) == ()


def test_what_cannot_be_reported_is_said_in_a_line(tmp_path: Path, made: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    out = Path(shutil.copytree(made, tmp_path / "out"))
    (out / "report.json").unlink()
    for words, said in (
        ([tmp_path / "empty"], "is no output of secateur and holds none"),
        ([tmp_path / "none"], "is no folder"),
        ([out], "was not measured"),
        ([made, out], "say where it goes"),
    ):
        ran = run("report", *words)
        assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1
