"""A ladder of gemmule: eleven artefacts made and measured by one command, with report and card.

    python benchmarks/ladder.py              into out/ladder; writes ladder.json
    python benchmarks/ladder.py --pictures   and the screenshots of docs/, which need Chromium

The command is a user's: `secateur shrink gemmule --experts 24 --types ... --tasks ... --loops
--speed -o out/ladder`. It goes on where it was interrupted; an output that is there is read. The
counts are small, since mlx-lm on a CPU takes seconds for a reply: from nothing it took 25 minutes
on two cores that had much else to do.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from goals import result_path

from secateur.release.evidence import ORIGINAL, Evidence, Kind
from secateur.release.html.pictures.frontier import frontier
from secateur.release.html.subjects import subjects_of
from secateur.release.report import summary_metrics
from secateur.release.results import Results, read_results

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
GGUF = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,IQ4_XS,Q3_K_M,Q2_K"
COMMAND = (
    "shrink", "gemmule", "--experts", "24", "--to", "safetensors,gguf,mlx",
    "--types", f"{GGUF},mlx-mixed-4-8-32", "--types", "benchmarks/ladder_mlx_8bit.yaml",
    "--workers", "1", "--per-domain", "6", "--answer-tokens", "128",
    "--tasks", "gemmule-arithmetic,gemmule-chat", "--task-limit", "8",
    "--loops", "--loop-count", "10", "--loop-seeds", "1", "--loop-tokens", "64",
    "--speed", "--speed-turns", "3", "--speed-prompt", "128", "--speed-answer", "32",
)  # fmt: skip
ASKED: dict[Kind, tuple[str, ...]] = {
    "tasks": ("accuracy", "accuracy_difference"),
    "loops": ("degenerate_rate", "loop_rate", "no_answer_rate"),
    "speed": ("prefill_speed_ratio", "generation_speed_ratio", "peak_memory_ratio"),
}
"""The numbers of each kind of evidence that are kept; of loops those of all prompts together."""
SCREENS = {
    "desktop": (1280, 900, "body"),
    "phone": (390, 844, "body"),
    "sizes": (1280, 900, "#size"),
    "asked": (1280, 1000, "#tasks"),
}
"""{screenshot: width, height, what of the page is at its top}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/ladder"))
    parser.add_argument("--pictures", action="store_true", help="screenshots into docs/")
    given = parser.parse_args()
    if not (given.out / "report.json").is_file():
        run(*COMMAND, "-o", str(given.out))
    run("release", str(given.out), "--base-model", "gemmule/gemmule")
    found = results(read_results(given.out))
    found["card"] = card_of(given.out)
    result_path("ladder").write_text(json.dumps(found, indent=1) + "\n")
    if given.pictures:
        take_screenshots(given.out / "report.html")


def run(*words: str) -> None:
    """Run a command of secateur; its failure ends the benchmark."""
    print("secateur", *words)
    subprocess.run([sys.executable, "-m", "secateur", *words], check=True)


def results(found: Results) -> dict[str, Any]:
    """What was made and measured, and what the runs took."""
    subjects = subjects_of([found])
    metrics = [metric.name for metric in summary_metrics()]
    artefacts = [
        {
            "artefact": one.label,
            "file": one.artefact.name,
            "bytes": one.artefact.bytes,
            "of_the_original": round(one.share, 4),
            **{
                name: entry.to_json()
                for name in metrics
                if (entry := one.artefact.value(name)) is not None
            },
            **asked_of(found, one.artefact.name),
        }
        for one in subjects
    ]
    return {
        "command": " ".join(("secateur", *COMMAND)),
        "original": {"bytes": found.report.original_bytes, **asked_of(found, ORIGINAL)},
        "answers": {key: found.report.answers[key] for key in ("answers", "documents", "tokens")},
        "artefacts": artefacts,
        "no_smaller_one_matches": list(frontier(subjects)),
        "notes": {kind: list(evidence.notes) for kind, evidence in found.evidence.items()},
        "runs": [asdict(replace(one, estimate={})) for one in found.runs],
    }


def asked_of(found: Results, name: str) -> dict[str, Any]:
    """The numbers of tasks, loops and speed of one artefact, by kind."""
    return {
        kind: [
            entry.to_json()
            for one in evidence.artefacts
            if one.name == name
            for entry in one.measurements
            if entry.name in ASKED[kind] and (kind != "loops" or entry.domain == "pooled")
        ]
        for kind, evidence in evidences(found).items()
        if evidence.of(name) is not None
    }


def evidences(found: Results) -> dict[Kind, Evidence]:
    """What models did when they were asked. Raises SystemExit where a kind is missing."""
    if missing := set(ASKED) - set(found.evidence):
        raise SystemExit(f"not measured: {', '.join(sorted(missing))}")
    return dict(found.evidence)


def card_of(out: Path) -> dict[str, Any]:
    """The card's length, how many numbers it shows (each with its source), and its pictures."""
    ledger = json.loads((out / "evidence/card.json").read_text("utf-8"))
    pictures = sorted(path.name for path in (out / "evidence/pictures").iterdir())
    text = (out / "README.md").read_text("utf-8")
    return {
        "lines": text.count("\n"),
        "numbers_with_a_source": len(ledger["numbers"]),
        "pictures": [name for name in pictures if name in text],
    }


def take_screenshots(page: Path) -> None:
    """Parts of the page as a desktop and a phone show them, into docs/."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (width, height, top) in SCREENS.items():
            shown = browser.new_page(viewport={"width": width, "height": height})
            shown.goto(page.resolve().as_uri())
            shown.wait_for_selector("html[data-drawn]", timeout=120_000)
            shown.eval_on_selector(top, "found => found.scrollIntoView({behavior: 'instant'})")
            shown.screenshot(path=DOCS / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
