"""The counts a card gives: parameters, experts, layers, widths."""

from __future__ import annotations

import re
from collections.abc import Iterator

from secateur.audit.card.quantity import Quantity, quantities
from secateur.audit.card.subject import Subject, is_total, parameter_claims
from secateur.audit.finding import Finding, Verdict

_NUMBERS = (
    ("layers", r"^\W*(?:transformer |decoder |hidden )?layers$"),
    ("hidden", r"^\W*(?:embedding|hidden) size$"),
    ("vocab", r"^\W*vocab(?:ulary)?(?: size)?$"),
    ("context", r"^\W*context window$"),
    ("top_k", r"^\W*(?:active experts/token|experts/tok(?:en)?|top-?k(?: routing)?)$"),
    ("expert_width", r"^\W*expert intermediate size$"),
    ("dense_width", r"^\W*dense (?:mlp )?intermediate size$"),
    ("window", r"^\W*sliding window$"),
)
"""What the shape calls a number, and the labels under which cards give it."""

_WORDS = {
    "layers": r"(?<![\d.,])(\d+) (?:transformer|decoder) layers\b",
    "window": r"\bwindow\s?=\s?(\d+)",
    "top_k": r"\b(\d+) active per token\b|\bselects (\d+) experts per token\b",
}
"""The same in sentences."""

_DROPPED = re.compile(
    r"(?:(\d+(?:\.\d+)?)% of (?:the |MoE )*experts )?\((\d+) of (\d+) per layer\)"
)
_PARAMS = re.compile(r"^(\d+(?:\.\d+)?[BM]) params$")
_FULL = re.compile(r"full[- ]attention (?:layers )?\((?:layers )?([\d, ]+)\)")


def count_findings(subject: Subject) -> Iterator[Finding]:
    """All counts of a card."""
    yield from _parameters(subject)
    yield from _numbers(subject)
    yield from _dropped(subject)
    yield from _full_layers(subject)


def _parameters(subject: Subject) -> Iterator[Finding]:
    rows = {row.line: row for row in subject.card.all_rows}
    for row in rows.values():
        if is_total(row.label):
            for value, experts in subject.counted(row):
                if value.unit in ("B", "M"):
                    yield _total(subject, value, experts, row.line, row.label)
        elif re.match(r"\W*active param", row.label, re.IGNORECASE):
            for value, experts in subject.counted(row):
                if value.unit in ("B", "M"):
                    must = subject.shape.active(experts)
                    fits = value.count - value.count_half <= must <= value.count + value.count_half
                    yield Finding(
                        "parameters", f"{row.label}: {value.said}", "holds" if fits else "wrong",
                        f"{must / 1e9:.2f} B", f"{subject.shape.top_k} of {experts} experts",
                        row.line,
                    )  # fmt: skip
    for line in subject.card.lines:
        if found := _PARAMS.match(line.text):
            value = quantities(found[1])[0]
            yield _total(subject, value, subject.experts, line.number, "params")
    known = {value for value, _ in parameter_claims(subject)}
    for line in subject.card.lines:
        for found in re.finditer(r"\((\d+\.\d+B)\)", line.text):
            value = quantities(found[1])[0]
            if value not in known:
                yield _total(subject, value, subject.experts, line.number, "params")


def _total(subject: Subject, value: Quantity, experts: int, line: int, label: str) -> Finding:
    text = float(subject.shape.parameters(experts))
    low, high = subject.parameters(experts)
    for bounds, reason in (
        ((low, high), f"with {(value.count - text) / 1e9:.2f} B in addition to the text model"),
        ((text, text), "the text model alone"),
    ):
        if bounds[0] - value.count_half <= value.count <= bounds[1] + value.count_half:
            alone = bounds[1] == text
            return Finding(
                "parameters", f"{label}: {value.said} with {experts} experts", "holds",
                f"{text / 1e9:.2f} B of text", "all parameters" if alone and high == text
                else reason, line,
            )  # fmt: skip
    return Finding(
        "parameters", f"{label}: {value.said} with {experts} experts", "wrong",
        f"{text / 1e9:.2f} B of text", f"{experts} experts in every layer", line,
    )  # fmt: skip


def _numbers(subject: Subject) -> Iterator[Finding]:
    numbers = subject.shape.numbers
    for row in subject.card.all_rows:
        key = next((k for k, p in _NUMBERS if re.match(p, row.label, re.IGNORECASE)), None)
        values = [v for v in row.values if v is not None]
        if key is None or key not in numbers or not values:
            continue
        same = values if row.block in subject.columns else values[:1]
        stated = [value for value in same if value.unit in ("", "K")]
        odd = [value for value in stated if value.count != numbers[key]]
        if stated:
            yield _number(row.label, odd or stated, numbers[key], not odd, row.line)
    for line in subject.card.lines:
        for key, pattern in _WORDS.items():
            for found in re.finditer(pattern, line.text, re.IGNORECASE):
                number = int(next(group for group in found.groups() if group))
                if key in numbers:
                    right = number == numbers[key]
                    yield Finding(
                        "count", found[0], "holds" if right else "wrong", str(numbers[key]),
                        "the config", line.number,
                    )  # fmt: skip


def _number(label: str, stated: list[Quantity], must: int, right: bool, line: int) -> Finding:
    said = f"{label}: {', '.join(value.said for value in stated)}"
    verdict: Verdict = "holds" if right else "wrong"
    return Finding("count", said, verdict, f"{must:,}", "the config", line)


def _dropped(subject: Subject) -> Iterator[Finding]:
    """ "30% of MoE experts (38 of 128 per layer)"."""
    for line in subject.card.lines:
        for found in _DROPPED.finditer(line.text):
            gone, of = int(found[2]), int(found[3])
            left = of - gone
            right = of == subject.base and left == subject.experts
            yield Finding(
                "experts", found[0], "holds" if right else "wrong",
                f"{subject.base - subject.experts} of {subject.base}",
                f"{subject.experts} experts kept", line.number,
            )  # fmt: skip
            share = quantities(f"{found[1]}%") if found[1] else []
            if share and not share[0].fits(100 * gone / of, 100 * gone / of):
                yield Finding(
                    "experts", found[0], "wrong", f"{100 * gone / of:.1f} %", f"{gone} / {of}",
                    line.number,
                )  # fmt: skip


def _full_layers(subject: Subject) -> Iterator[Finding]:
    config, family = subject.shape.config, subject.shape.family
    if config is None or family is None:
        return
    kinds = family.section(config)[1].get("layer_types")
    if not isinstance(kinds, list):
        return
    full = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    for line in subject.card.lines:
        for found in _FULL.finditer(line.text):
            named = [int(number) for number in re.findall(r"\d+", found[1])]
            if len(named) < 2:
                continue
            yield Finding(
                "layers", found[0], "holds" if named == full else "wrong",
                ", ".join(map(str, full)), "the config's layer_types", line.number,
            )  # fmt: skip
