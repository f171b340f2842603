"""The model card: every number of it stands in a result file, and nothing else gets in."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny_line import Line

import secateur
from secateur import Formats, Pruning, audit_model
from secateur.api.families import find_family
from secateur.errors import CardError, OutputError
from secateur.evaluation.measurement import Measurement
from secateur.families.vllm_rules import find_parsers
from secateur.recipes.recipe import find_recipe
from secateur.release.card import asked, facts, scope
from secateur.release.card.card import Card, check_card, is_ours, make_card, write_card
from secateur.release.card.check import AUTHOR, check_numbers
from secateur.release.card.facts import Results
from secateur.release.card.front_matter import check_terms
from secateur.release.card.hub_terms import hub_terms
from secateur.release.card.render import DIGIT, template_text
from secateur.release.evidence import ArtefactEvidence, Evidence, write_evidence
from secateur.release.manifest import amend_manifest, read_manifest
from secateur.release.ollama.write import write_ollama_files

REPOSITORY = {"repository": "me/tiny-6e", "quantized_by": "me"}


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A measured output of its own."""
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def card(made: Path) -> Card:
    return make_card(made, REPOSITORY)


def test_every_number_of_a_card_is_in_its_results(card: Card, made: Path) -> None:
    assert len(card.ledger) > 50
    check_numbers(card.text, card.ledger, Results(made, REPOSITORY))
    report = json.loads((made / "report.json").read_text())
    value = report["artefacts"][0]["measurements"][0]["value"]
    assert f"{value:.3g}" in card.text
    for artefact in report["artefacts"]:
        name = artefact["name"]
        file = "model.safetensors" if name == "safetensors" else name
        (row,) = (line for line in card.text.split("\n") if line.startswith(f"| `{file}` |"))
        kl = next(one for one in artefact["measurements"] if one["name"] == "kl_mean")
        assert f"| {kl['value']:.3g} [{kl['low']:.3g}, {kl['high']:.3g}] |" in row


def test_the_template_itself_has_no_digit() -> None:
    outside = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", template_text(), flags=re.DOTALL)
    assert DIGIT.search(outside) is None


@pytest.mark.parametrize(
    ("smuggled", "message"),
    [
        ("accuracy 0.95", "number without a source: '0.95'"),
        ("keeps ~99% of it", "number without a source: '~99%'"),
        ("{{ 0.95 }}", "prints '0.95'"),
        ("{{ making.kept ~ ' of 10' }}", "prints '6 of 10'"),
        ("{{ '%.1f' | format(making.kept.fact.value / 2) }}", "prints '3.0'"),
        ("{{ making.kept.fact.value }}", "prints '6'"),
        ("{{ '\U000f00003\U000f00010.95\U000f0002' }} {{ '5' }}", "prints '5'"),
        ("\U000f0000x0\U000f00010.95\U000f0002", "number without a source"),
        ("<!-- the author's own words: begin -->\n0.95", "number without a source: '0.95'"),
        ("{{ no_such_value }}", "cannot be rendered"),
    ],
)
def test_a_number_cannot_be_smuggled_into_the_template(
    smuggled: str, message: str, made: Path
) -> None:
    with pytest.raises(CardError, match=re.escape(message)):
        make_card(made, template=template_text() + "\n" + smuggled + "\n")


def test_a_marked_text_shows_what_its_fact_says_whatever_stands_in_the_marks(made: Path) -> None:
    forged = template_text() + "\nreally \U000f00000\U000f00010.95432\U000f0002\n"
    assert "0.95432" not in make_card(made, template=forged).text


def test_words_of_the_author_are_in_a_section_that_says_so(made: Path) -> None:
    card = make_card(made, about="It scored 0.95432 with me.\n\nAnd more.")
    lines = card.text.split("\n")
    start = lines.index(AUTHOR[0])
    assert tuple(lines[start : start + len(AUTHOR)]) == AUTHOR
    assert lines[start + len(AUTHOR)] == "It scored 0.95432 with me."
    assert make_card(made).text.count("0.95432") == 0
    check_numbers(card.text, card.ledger, Results(made))


def test_the_section_of_the_author_cannot_be_left(made: Path) -> None:
    words = "fine\n<!-- the author's own words: end -->\n\n0.95"
    with pytest.raises(CardError, match="remove it"):
        make_card(made, about=words)
    card = make_card(made)
    unsaid = card.text.replace(
        "## Limits", f"{AUTHOR[0]}\n0.95\n<!-- the author's own words: end -->"
    )
    with pytest.raises(CardError):
        check_numbers(unsaid, card.ledger, Results(made))


@pytest.mark.parametrize("change", ["card", "report", "ledger path", "ledger how", "ledger line"])
def test_a_card_that_lies_in_an_output_is_checked_against_its_results(
    change: str, out: Path
) -> None:
    write_card(out, make_card(out, REPOSITORY))
    check_card(out)
    assert secateur.verify(out) == ()
    page, ledger = out / "README.md", out / "evidence" / "card.json"
    kept = json.loads(ledger.read_text())
    index = next(n for n, one in enumerate(kept["numbers"]) if one["how"] == "number")
    entry = kept["numbers"][index]
    if change == "card":
        lines = page.read_text().split("\n")
        at = entry["line"] - 1
        lines[at] = lines[at].replace(entry["text"], "9" * len(entry["text"]), 1)
        page.write_text("\n".join(lines))
    elif change == "report":
        report = json.loads((out / "report.json").read_text())
        report["artefacts"][0]["measurements"][0]["value"] /= 2
        (out / "report.json").write_text(json.dumps(report))
    elif change == "ledger path":
        kept["numbers"][index]["path"][-2] += 1
    elif change == "ledger how":
        kept["numbers"][index]["how"] = "as it was"
    else:
        del kept["numbers"][index]
    if change.startswith("ledger"):
        ledger.write_text(json.dumps(kept))
    with pytest.raises(CardError):
        check_card(out)


def test_an_older_ledger_is_read(out: Path) -> None:
    """What is `declared` was called `told`."""
    write_card(out, make_card(out, REPOSITORY))
    path = out / "evidence" / "card.json"
    text = path.read_text()
    assert '"declared": {' in text and '"file": "declared"' in text
    path.write_text(text.replace('"declared"', '"told"'))
    check_card(out)


def test_a_card_changed_by_hand_is_known(out: Path) -> None:
    assert is_ours(out)
    write_card(out, make_card(out))
    assert is_ours(out)
    with (out / "README.md").open("a") as file:
        file.write("more\n")
    assert not is_ours(out)
    (out / "evidence" / "card.json").unlink()
    assert not is_ours(out)


def test_the_front_matter_is_what_the_hub_reads(card: Card, made: Path) -> None:
    read = ModelCard(card.text).data.to_dict()
    assert read == card.front_matter
    assert read["library_name"] == "transformers"
    assert read["pipeline_tag"] == "text-generation"
    assert read["quantized_by"] == "me"
    assert {"gguf", "expert-pruning", "rerouted"} <= set(read["tags"])
    assert "base_model" not in read  # a folder that says nothing has no hub id


def test_what_the_releaser_names_is_in_the_front_matter(made: Path) -> None:
    told = {"base_model": "google/gemma-4-26B-A4B-it", "license": "gemma"}
    front = make_card(made, told).front_matter
    assert front["base_model"] == "google/gemma-4-26B-A4B-it"
    assert front["base_model_relation"] == "finetune"
    assert (front["license"], front["license_link"]) == (
        "gemma", "https://ai.google.dev/gemma/terms"
    )  # fmt: skip
    quantized = make_card(made, told, only=["gguf"]).front_matter
    assert quantized["base_model_relation"] == "quantized"
    assert "library_name" not in quantized
    other = make_card(made, {"license": "my-terms-2"}).front_matter
    assert (other["license"], other["license_name"]) == ("other", "my-terms-2")


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("base_model_relation", "pruned"),
        ("library_name", "gguf"),
        ("pipeline_tag", "chat"),
        ("license", "gemma-license"),
        ("base_model", "gemmule"),
    ],
)
def test_a_word_that_the_hub_does_not_know_is_refused(key: str, word: str) -> None:
    with pytest.raises(CardError, match=word):
        check_terms({key: word})


def test_the_lists_of_the_hub_are_whole() -> None:
    terms = hub_terms()
    assert terms.relations == ["adapter", "merge", "quantized", "finetune"]
    assert len(terms.pipeline_tags) == len(set(terms.pipeline_tags)) == 57
    assert {"text-generation", "image-text-to-text"} <= set(terms.pipeline_tags)
    assert len(terms.licenses) == len(set(terms.licenses)) > 70


def test_a_subset_is_about_its_own_files(made: Path) -> None:
    text = make_card(made, REPOSITORY, only=["gguf-Q8_0"]).text
    assert "Q8_0.gguf" in text
    for word in ("Q4_K_M", "model.safetensors", "### transformers", "### vLLM", "### MLX"):
        assert word not in text
    with pytest.raises(CardError, match="'mlx': the output has gguf, gguf-Q4_K_M"):
        make_card(made, only=["mlx"])


def test_how_to_run_names_what_is_there(card: Card, made: Path) -> None:
    config = json.loads((made / "config.json").read_text())
    for file in made.glob("*.gguf"):
        if file.name != "imatrix.gguf":
            command = f"llama-server -m {file.name} -c {config['max_position_embeddings']}"
            assert command in card.text
            assert f"hf download me/tiny-6e {file.name}" in card.text
    assert f"vllm serve me/tiny-6e --max-model-len {config['max_position_embeddings']}" in card.text
    assert "trust_remote_code" not in card.text
    assert "### MLX" not in card.text
    assert "### Ollama" not in card.text


@pytest.mark.slow
def test_parts_are_fetched_all_and_files_of_one_label_are_pulled_by_their_names(
    tmp_path: Path,
) -> None:
    def card_of(name: str, formats: Formats) -> str:
        secateur.apply(secateur.plan("gemmule", Pruning(), formats), tmp_path / name)
        write_ollama_files(tmp_path / name)
        return make_card(tmp_path / name, REPOSITORY).text

    alike = Formats("gguf", "Q8_0", recipes=(replace(find_recipe("Q8_0"), name="mine"),))
    text = card_of("alike", alike)
    pulled = re.findall(r"^ollama run hf.co/me/tiny-6e:(.*)$", text, re.M)
    assert pulled == ["gemmule-Q8_0.gguf", "gemmule-mine-Q8_0.gguf"]
    parts = card_of("parts", Formats("gguf", "Q8_0", split_max_size="8MB"))
    assert 'hf download me/tiny-6e --include "gemmule-Q8_0-*.gguf" --local-dir .' in parts
    assert "llama-server -m gemmule-Q8_0-00001-of-00003.gguf" in parts
    assert "Ollama pulls no model in parts from the Hub." in parts
    assert "ollama run" not in parts


def test_names_neither_end_a_cell_nor_a_word_of_a_command(line: Line, tmp_path: Path) -> None:
    odd = replace(find_recipe("Q8_0"), name="this|that it")
    formats = Formats("gguf", recipes=(odd,))
    secateur.apply(secateur.plan(line.model, Pruning(), formats), tmp_path / "out", workers=1)
    card = make_card(tmp_path / "out", REPOSITORY)
    (file,) = (path.name for path in (tmp_path / "out").glob("*.gguf"))
    in_cell = file.replace("|", "\\|")
    (row,) = (one for one in card.text.split("\n") if one.startswith("| `") and "llama.cpp" in one)
    assert row.startswith(f"| `{in_cell}` | this\\|that it |")
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert f"\nllama-server -m {shlex.quote(file)}" in card.text
    check_numbers(card.text, card.ledger, Results(tmp_path / "out", REPOSITORY))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K_M"])
def test_our_own_audit_finds_nothing_in_the_card(
    name: str, card: Card, made: Path, tmp_path: Path
) -> None:
    path = tmp_path / "README.md"
    path.write_text(card.text)
    (file,) = made.glob(f"*-{name}.gguf")
    found = audit_model(file, claims=path)
    assert {finding.verdict for finding in found.claims} == {"holds"}
    assert len(found.claims) >= 10


def test_vllm_is_told_the_parsers_of_the_familys_template(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the marks of the template; where no row of the family fits, no parser is named."""
    monkeypatch.setattr(facts, "family_of", lambda config: find_family("gemma4"))

    def command(template: str) -> str:
        (out / "chat_template.jinja").write_text(template)
        amend_manifest(out, ("chat_template.jinja",))
        text = make_card(out, REPOSITORY).text
        return next(line for line in text.split("\n") if line.startswith("vllm serve"))

    flags = " --reasoning-parser gemma4 --enable-auto-tool-choice --tool-call-parser gemma4"
    assert command("{{ '<|tool_call>' }}").endswith(flags)
    assert "parser" not in command("{{ messages }}")
    qwen = find_family("qwen3_moe").vllm
    for marks, named in {
        "<tool_call> <function= enable_thinking": ("qwen3_coder", None),
        "<tool_call> enable_thinking": ("hermes", "qwen3"),
        "<tool_call>": ("hermes", None),
    }.items():
        found = find_parsers(qwen, marks)
        assert found is not None
        assert (found.tool_call, found.reasoning) == named
    assert find_parsers(qwen, "[INST]") is None


def test_the_card_of_a_ladder_is_one_table(
    out: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What files are for, which to take, one command of each program; tasks have a row a file."""
    monkeypatch.setattr(scope, "FEW", 1)
    monkeypatch.setattr(asked, "MANY_TASKS", 1)
    files = sorted(path.name for path in out.glob("*-Q*.gguf"))
    numbers = tuple(
        Measurement("accuracy", 0.5, "share of items", {"items": 8}, domain=task, kind="tasks")
        for task in ("sums", "words")
    )
    artefacts = tuple(ArtefactEvidence(name, numbers) for name in ("original", *files))
    notes = tuple(f"note {word}" for word in "abcd")
    write_evidence(out, Evidence("tasks", artefacts, {}, notes))
    report = json.loads((out / "report.json").read_text())
    by_name = {one["name"]: one for one in report["artefacts"]}
    for name, lost in zip(files, (0.25, 0.125), strict=True):  # Q4_K_M, Q8_0
        numbers_of = by_name[name]["measurements"]
        next(one for one in numbers_of if one["name"] == "kl_mean").update(value=lost)

    def rows() -> dict[str, str]:
        (out / "report.json").write_text(json.dumps(report))
        amend_manifest(out, ("report.json",))
        text = make_card(out, REPOSITORY).text
        assert text.count("\nllama-server ") == 1
        assert text.count("\n") < 150
        assert "| artefact | sums (8 items) | words (8 items) |" in text
        assert f"| `{files[0]}` | 0.5 | 0.5 |" in text
        assert "<details><summary>How it was asked</summary>\n\n- note a.\n- note b.\n" in text
        found = [line for line in text.split("\n") if line.startswith("| `")]
        return {line.split("`")[1]: line for line in found if "llama.cpp" in line}

    assert all(row.endswith("; **recommended** |") for row in rows().values())
    floor = next(one for one in report["floor"] if one["name"] == "kl_mean")
    floor["value"] = 0.125
    assert rows()[files[1]].endswith(f"; rather `{files[0]}` |")
    assert rows()[files[0]].endswith("; **recommended** |")


def test_an_output_that_was_not_measured_says_so(line: Any, stats: Path, tmp_path: Path) -> None:
    plan = secateur.plan(line.model, Pruning(experts=6), Formats(), statistics=stats)
    secateur.apply(plan, tmp_path / "out", statistics=stats)
    text = make_card(tmp_path / "out").text
    assert "Nothing was measured. This card says nothing of quality." in text
    assert "- Nothing was measured: what was lost is not known." in text
    assert "6 experts are kept of 8 in each of 2 layers" in text


def test_what_was_edited_by_hand_is_named(line: Any, stats: Path, tmp_path: Path) -> None:
    plan = secateur.plan(line.model, Pruning(experts=6), Formats(), statistics=stats)
    kept = dict(plan.keep)
    out_, in_ = kept[1][0], next(e for e in range(8) if e not in kept[1])
    kept[1] = tuple(sorted({*kept[1], in_} - {out_}))
    secateur.apply(replace(plan, keep=kept), tmp_path / "out", statistics=stats)
    text = make_card(tmp_path / "out").text
    assert "**Edited:**" in text
    assert "pruned and edited by hand" in text
    (sentence,) = read_manifest(tmp_path / "out")["edited"]
    assert sentence in text.replace("\\", "")


def with_card(model: Path, folder: Path, front: dict[str, Any]) -> Path:
    """A copy of a model with a publisher's card."""
    shutil.copytree(model, folder)
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n\n# A model\n")
    return folder


def test_the_lineage_goes_through_all_steps(line: Any, tmp_path: Path) -> None:
    """google's model, edited and pruned by others, then quantized by us twice."""
    front = {
        "license": "gemma",
        "language": ["en"],
        "base_model": ["owner/base-26B"],
        "base_model_relation": "finetune",
        "tags": ["heretic", "reap", "moe"],
        "pipeline_tag": "image-text-to-text",
    }
    source = with_card(line.model, tmp_path / "base-26B-REAP-heretic", front)
    pruned = secateur.plan(source, Pruning(drop_map=drop_map(tmp_path)), Formats())
    secateur.apply(pruned, tmp_path / "ours-6e")
    again = secateur.plan(tmp_path / "ours-6e", Pruning(drop=0), Formats(to="gguf", types="Q8_0"))
    secateur.apply(again, tmp_path / "out")
    origin = read_manifest(tmp_path / "out")["origin"]
    assert [step["model"] for step in origin["steps"]] == [
        "owner/base-26B", "base-26B-REAP-heretic", "ours-6e",
    ]  # fmt: skip
    assert origin["steps"][1]["said_edited"] == ["heretic"]
    assert origin["steps"][1]["said_pruned"] == ["reap"]
    assert (origin["steps"][2]["experts"], origin["steps"][2]["of_experts"]) == (6, 8)
    assert origin["license"] == "gemma"
    card = make_card(tmp_path / "out")
    assert card.front_matter["base_model"] == "owner/base-26B"
    assert card.front_matter["base_model_relation"] == "quantized"
    assert card.front_matter["language"] == ["en"]
    assert card.front_matter["license"] == "gemma"
    assert card.front_matter["pipeline_tag"] == "text-generation"  # it has no tower
    assert "heretic" in card.front_matter["tags"]
    assert "its name or tags say edited: `heretic`" in card.text
    assert "`ours-6e`: 6 of 8 experts" in card.text
    assert "**Edited:**" in card.text


def drop_map(folder: Path) -> Path:
    path = folder / "map.json"
    path.write_text(json.dumps({"layers": {str(layer): {"drop": [0, 3]} for layer in range(2)}}))
    return path


def test_other_evidence_is_shown_beside_the_original(out: Path) -> None:
    (file,) = (path.name for path in out.glob("*-Q8_0.gguf"))

    def number(name: str, value: float) -> Measurement:
        return Measurement(
            name, value, "share of items", {"items": 40}, value - 0.1, value + 0.1, 0.95,
            "gsm8k", "tasks",
        )  # fmt: skip

    artefacts = (
        ArtefactEvidence("original", (number("accuracy", 0.625),)),
        ArtefactEvidence(file, (number("accuracy", 0.475), number("accuracy_difference", -0.15))),
    )
    write_evidence(out, Evidence("tasks", artefacts, {}, ("7 questions were cut",)))
    card = make_card(out)
    text = card.text
    row = f"| `{file}` | gsm8k | 0.475 [0.375, 0.575] | 0.625 [0.525, 0.725] | -0.15 [-0.25, -0.05]"
    assert row in text
    (index,) = card.front_matter["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {"name": "gsm8k", "type": "gsm8k"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.475, "name": file}]
    (read,) = ModelCard(text).data.eval_results
    assert (read.metric_value, read.dataset_name) == (0.475, "gsm8k")
    assert "7 questions were cut." in text
    assert "No task was asked" not in text
    assert "Loops and collapses were not looked for" in text


def test_of_loops_the_card_has_the_numbers_that_say_most(out: Path) -> None:
    (file,) = (path.name for path in out.glob("*-Q8_0.gguf"))
    numbers = tuple(
        Measurement(name, value, "of replies", {"replies": 40}, domain=domain, kind="loops")
        for name, value in (("loop_rate", 0.25), ("compression", 0.175))
        for domain in ("pooled", "code")
    )
    found = Evidence("loops", (ArtefactEvidence(file, numbers),), {}, ("Loops are found.", "few"))
    write_evidence(out, found)
    text = make_card(out).text
    assert "| artefact | replies that loop (of replies) | samples |" in text
    assert f"| `{file}` | 0.25 | 40 replies |" in text
    assert "compression" not in text and "| code |" not in text.partition("### Loops")[2]
    assert "\nLoops are found.\n" in text and "\nfew.\n" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report["artefacts"][0]["measurements"][0].update(value="0.1\n0.95"),
        lambda report: report["artefacts"][0].update(bytes="much"),
        lambda report: report.pop("answers"),
    ],
)
def test_results_that_are_not_ours_make_no_card(change: Callable[[Any], Any], out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    change(report)
    (out / "report.json").write_text(json.dumps(report))
    amend_manifest(out, ("report.json",))
    with pytest.raises((CardError, OutputError)):
        make_card(out)
