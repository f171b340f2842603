"""Parts of docs/measured.md: rounding with feedback on several models, from little text, beside
other tools, and its worth in bytes."""

from __future__ import annotations

from page_parts import table
from results import Spread, result

GIVEN_UP = ", feedback with a mean over experts of what `down` sees, which was given up"
"""Of a result whose JSON does not say which Gram matrices it is of."""

MODELS = {
    "qwen3-moe": "a Qwen3-MoE of 21 million weights, trained for this (`models/qwen3_moe.py`)",
    "smollm2": "SmolLM2-135M, a dense model, as one expert, its columns in another order than in "
    "the package (`models/smollm2.py --wide --shuffle`)",
    "smollm2-upcycled": "SmolLM2-135M upcycled into 4 experts and trained on "
    "(`models/upcycle.py --wide --shuffle`)",
    "gemmule-on-code": "gemmule, calibrated on code alone and measured on all domains",
    "gemmule-on-a-sixth": "gemmule, calibrated on as little text of all domains",
}


def rounding_models() -> str:
    """Nearest against feedback on other models, and calibrated on one domain."""
    found = result("rounding_models")
    names = [name for name in MODELS if name in found]
    types = dict.fromkeys(kind for name in names for kind in found[name]["types"])
    rows = []
    for kind in types:
        cells = (found[name]["types"].get(kind) for name in names)
        rows.append((kind, *("" if one is None else str(Spread(*one["ratio"])) for one in cells)))
    lines = []
    for name in names:
        measured = list(found[name]["types"].values())
        domains = [one for each in measured for one in each["domains"].values()]
        worse = sum(one["ratio"][1] > 1 for one in domains)
        better = sum(one["ratio"][2] < 1 for one in domains)
        (text,) = found[name]["calibrated_on"]
        lines.append(
            f"- {name}: {MODELS[name]}; {sum(text.values()):,} tokens calibrated on, "
            f"{measured[0]['answers']} {found[name]['measured_on'].split()[-1]} of "
            f"{measured[0]['tokens']:,} tokens measured. Domain by domain ({len(domains)}): nearer "
            f"in {better}, farther in {worse}, by the whole interval."
        )
    return (
        "## Rounding with feedback on other models (`rounding_models.py`)\n\n"
        "Mean KL with feedback over that of a file of the same size to nearest [95 %].\n\n"
        + table(("type", *names), rows)
        + "\n\n"
        + "\n".join(lines)
    )


def gram_tokens() -> str:
    """Feedback from little text beside nearest from the same."""
    rows = []
    kinds: dict[str, None] = {}
    for name, model in result("gram_tokens").items():
        kinds |= dict.fromkeys(model["types"])
        for every, text in model["text"].items():
            least, middle, _ = text["per_column_of_experts"]
            each = (kind[every]["over_nearest"] for kind in model["types"].values())
            rows.append(
                (name, f"{text['tokens']:,}", str(text["per_column_of_the_widest"]),
                 f"{middle} ({least})", *(str(Spread(*one)) for one in each))
            )  # fmt: skip
    return (
        "## Rounding with feedback from little text (`gram_tokens.py`)\n\n"
        "Calibrated on fewer and fewer records of one set: mean KL with feedback over that of a "
        "file of the same size to nearest, with the importance matrix of the same text [95 %]. "
        "Tokens for every column: of the widest input that all tokens have, and of what `down` "
        "sees in the middle expert (in the least seen one).\n\n"
        + table(("model", "tokens", "a column", "a column of `down`", *kinds), rows)
    )


ELSEWHERE = {
    "smollm2": "SmolLM2-135M in 768 columns, its columns in another order",
    "smollm2-narrow": "the same in its 576 columns",
    "qwen3-moe": MODELS["qwen3-moe"],
}


def rounding_elsewhere() -> str:
    """Feedback beside what other tools make at the same bytes."""
    found = result("rounding_elsewhere")
    rows = []
    lines = []
    for name, words in ELSEWHERE.items():
        if name not in found:
            continue
        model = found[name]
        kinds = model["types"]
        for kind, one in kinds.items():
            for method, beside in one["feedback_over"].items():
                cost, kl = one["cpu_seconds"], one["kl_mean"]
                ours = cost["feedback"] + model["calibrate_cpu_seconds"]
                over = one["over_nearest"]
                rows.append(
                    (name, kind, method, f"{kl[method]:.4f}", f"{kl['feedback']:.4f}",
                     str(Spread(*over[method])), str(Spread(*over["feedback"])),
                     str(Spread(*beside)), f"{cost[method]:.0f}", f"{ours:.0f}")
                )  # fmt: skip
        (text,) = model["calibrated_on"]
        first = next(iter(kinds.values()))
        lines.append(
            f"- {name}: {words}; {sum(text.values()):,} tokens calibrated on, {first['answers']} "
            f"{model['measured_on'].split()[-1]} of {first['tokens']:,} tokens measured"
            + ("." if "gram" in model or name.startswith("smollm2") else f"{GIVEN_UP}.")
        )
    versions = {
        tool: model["elsewhere"][tool]
        for model in found.values()
        for tool in ("auto-round", "octuma")
        if tool in model["elsewhere"]
    }
    tools = " and ".join(f"{tool} {version}" for tool, version in versions.items())
    return (
        "## Rounding beside other tools that learn it (`rounding_elsewhere.py`)\n\n"
        f"{tools}: the same types tensor by tensor, the same text. Mean KL, ratios of it [95 %], "
        "and processor seconds (ours with its calibration). `auto-round-N` learns for N "
        "iterations a layer; its default is 200, its light recipe 50.\n\n"
        + table(
            ("model", "type", "tool", "KL of it", "KL of feedback", "it over nearest",
             "feedback over nearest", "feedback over it", "its s", "our s"),
            rows,
        )
        + "\n\n"
        + "\n".join(lines)
    )  # fmt: skip


def frontier() -> str:
    """What feedback is worth in bytes, at every number of experts and type."""
    found = result("frontier")
    rows = [
        (
            str(one["experts"]),
            one["type"],
            f"{one['tensor_bytes'] / 1e6:.1f}",
            f"{one['kl_mean']['nearest']:.4f}",
            f"{one['kl_mean']['feedback']:.4f}",
            str(Spread(*(100 * share for share in one["worth_share"]))).replace("]", "] %"),
            str(Spread(*one["worth_bits_per_weight"])),
        )
        for one in sorted(found["files"], key=lambda one: one["tensor_bytes"])
    ]
    return (
        "## What feedback is worth in bytes (`frontier.py`)\n\n"
        f"gemmule, {found['answers']} of its own answers, {found['tokens']:,} tokens. A file with "
        "feedback loses what one to nearest with as many experts loses that is larger by:\n\n"
        + table(
            ("experts", "type", "MB", "KL nearest", "KL feedback", "larger by", "bits per weight"),
            rows,
        )
        + "\n\nFiles to which nothing as small is nearer, the smallest first: to nearest "
        f"{', '.join(found['frontier']['nearest'])}; with feedback "
        f"{', '.join(found['frontier']['feedback'])}."
    )


SECTIONS = (rounding_models, gram_tokens, rounding_elsewhere, frontier)
"""Of docs/measured.md, in order."""
