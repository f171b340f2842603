"""docs/measured.md, docs/criteria.md and the table of types, from benchmarks/*.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cost_pages import feedback_cost, width
from evidence_pages import claims, engine_speed, loops, tasks_and_divergence
from goals_page import goals_section
from page_parts import code, table
from results import (
    OURS,
    THEIRS,
    Spread,
    age,
    criteria,
    gb,
    gib,
    held_out,
    losses,
    peak_of,
    percent,
    result,
    shares,
    written_of,
)
from rounding_pages import SECTIONS as ROUNDING

MIB = 1 << 20


def types_table() -> str:
    """What every type and number of experts cost gemmule, the largest first."""
    rows = sorted(result("experts_or_bits")["rows"], key=lambda row: -row["tensor_bytes"])
    return table(
        ("experts", "type", "MB", "bits per weight", "KL, nats per token [95 %]",
         "same next token"),
        [
            (
                str(row["experts"]), row["type"], f"{row['tensor_bytes'] / 1e6:.1f}",
                f"{row['bits_per_weight']:.2f}",
                "{value:.4f} [{low:.4f}, {high:.4f}]".format(**row["kl_mean"]),
                f"{100 * row['top1_agreement']:.1f} %",
            )
            for row in rows
        ],
    )  # fmt: skip


def _rounding() -> str:
    found = result("rounding")
    first = next(iter(found["types"].values()))
    rows = [
        (
            name,
            f"{one['kl_mean']['nearest']:.4f}", f"{one['kl_mean']['feedback']:.4f}",
            str(Spread(*one["ratio"])),
            f"{100 * one['top1_agreement']['nearest']:.1f} %, "
            f"{100 * one['top1_agreement']['feedback']:.1f} %",
        )
        for name, one in found["types"].items()
    ]  # fmt: skip
    return (
        "## Rounding with feedback (`rounding.py`)\n\n"
        f"{found['model']}, all experts kept, Gram matrices {found['gram']}"
        f"{' (a mean over experts for `down`)' if found['gram'] == 'shared' else ''}, files of the "
        f"same size, {first['answers']} of its own answers, {first['tokens']:,} tokens: mean KL in "
        "nats per token.\n\n"
        + table(("type", "nearest", "feedback", "ratio [95 %]", "same next token"), rows)
    )


def criteria_page() -> str:
    """docs/criteria.md"""
    found, half = losses(), losses("code")
    documents, tokens = held_out()
    rows = [
        (
            code(name),
            *(f"{found[name, s].kl.value:.4f} ({found[name, s].of_reap})" for s in shares()),
        )
        for name in criteria()
    ]
    ours, theirs = half[OURS, 0.25].kl.value, half[THEIRS, 0.25].kl.value
    alike = [
        f"{code(name)} at {percent(share)} ({found[name, share].of_ours})"
        for name in criteria()
        for share in shares()
        if name != OURS and found[name, share].like_ours
    ]
    return f"""# Which experts are kept

`--criterion` names what an expert is worth. `rerouted`, the default, asks what tokens get
*instead*: on a sample of tokens it removes experts one after another, each time the one whose
removal changes the output of the MoE block least after its tokens have gone to their next-best
experts. The others are the field's; [names.md](reference/names.md) lists them all, and
`secateur/pruning/criteria/` has the formulas. Which one is best depends on the model (on routers
that do not renormalise, means can beat sums), so compare two on your own text before you publish:
`secateur shrink` twice from the same statistics, then `secateur compare`.

![KL against the share of experts dropped, by criterion](criteria.svg)

Mean KL in nats per token on held-out documents of gemmule ({documents} documents, {tokens:,}
tokens), calibrated on all six domains; in brackets the ratio to `reap` with its 95 % interval.

{table(("criterion", *map(percent, shares())), rows)}

Not told apart from `rerouted` by these documents (the interval of the ratio to it holds 1):
{", ".join(alike)}.

Calibrated on code alone and measured on all domains, with 25 % dropped, `rerouted` loses
{ours:.3f} and `reap` {theirs:.3f}: `rerouted` follows its text more closely. Calibrate on
everything that you want to keep.

Scripts and data: `benchmarks/criteria.py`, `benchmarks/criteria.json` and
`benchmarks/criteria_some.json` (some criteria, measured again). gemmule is a model for measuring:
these numbers do not say what another model loses.
"""


def measured_page() -> str:
    """docs/measured.md"""
    makers = (
        goals_section,
        _criteria,
        _rounding,
        *ROUNDING,
        feedback_cost,
        _speed,
        _parity,
        _calibration,
        _memory,
        width,
        _pruning,
        _cards,
        claims,
        loops,
        _gemmule,
        tasks_and_divergence,
        engine_speed,
    )
    return (
        "# What is measured\n\nEvery number here is read from the JSON of `benchmarks/` when this "
        "page is made (`make reference`); the script beside each heading makes it again. `make "
        "bench` runs what can be quick at a small size, into `out/bench`; `python "
        "benchmarks/run_all.py --full` runs all but those that need a GPU, other tools or other "
        "models as they are here, which takes many hours; `make llama-tools` first builds "
        "llama.cpp's own tools. Ratios are of runs in alternation on one "
        "machine. What did not work is in [log.md](log.md).\n\n"
        + "\n\n".join(make() for make in makers)
        + "\n"
    )


def _criteria() -> str:
    found = losses()
    documents, tokens = held_out()
    rows = [
        (
            percent(share), f"{found[OURS, share].kl.value:.4f}",
            f"{found[THEIRS, share].kl.value:.4f}", str(found[OURS, share].of_reap),
        )
        for share in shares()
    ]  # fmt: skip
    return (
        f"## Dropping experts (`criteria.py`)\n\ngemmule, {documents} held-out documents, "
        f"{tokens:,} tokens, mean KL in nats per token. All criteria are in "
        "[criteria.md](criteria.md).\n\n"
        + table(("dropped", "`rerouted`", "`reap`", "ratio [95 %]"), rows)
    )


def _speed() -> str:
    speed = result("gguf_speed")
    rows = [
        (
            name, f"{one['median_ratio']:.2f}", str(one["rounds"]),
            f"{written_of(one['ours']) / written_of(one['theirs']):.2f}",
            f"{gb(peak_of(one['ours']))}, {gb(peak_of(one['theirs']))}",
            str(sum(one["differing_tensor_bytes"].values())),
        )
        for name, one in speed["results"].items()
    ]  # fmt: skip
    return (
        "## GGUF from safetensors (`gguf_speed.py`)\n\nOver llama.cpp's convert_hf_to_gguf and "
        f"llama-quantize ({speed['llama_quantize']}), {speed['threads']} threads, "
        f"{gb(speed['source_bytes'])} of weights ({speed['what'].split(', ', 1)[1]})."
        f"{age('gguf_speed')}\n\n"
        + table(
            ("types", "time, ratio of medians", "turns", "bytes written, ratio",
             "peak memory, ours and theirs", "tensor bytes that differ"), rows)
    )  # fmt: skip


def _parity() -> str:
    found = result("type_parity")["all"]
    dry = result("dry_run")
    configs = dry["from_configs"]
    compared = dry["tensors_compared"] + configs["tensors_compared"]
    differ = dry["cases_that_differ"] + configs["cases_that_differ"]
    return (
        "## The same bytes as llama.cpp (`type_parity.py`, `dry_run.py`)\n\n"
        f"gemmule, whole and pruned, with and without an importance matrix, in "
        f"{len(found['file_types'])} file types: {found['pairs_of_files']} pairs of files, "
        f"{found['tensors']:,} tensors, {gb(found['bytes'])}; {found['differing_bytes']} bytes "
        f"differ, and {found['pairs_with_the_same_answers']} pairs give the same greedy answers in "
        f"llama.cpp ({found['answered_tokens']:,} tokens). {found['refused_by_both']} combinations "
        "are refused by both.\n\n"
        f"Types that llama-quantize gives to random models ({dry['cases']:,} cases) and random "
        f"configs ({configs['cases']}): {compared:,} tensors, {differ} cases differ."
    )


def _calibration() -> str:
    found = result("calibration")
    solved = dict(result("calibration_rerouted"))
    before = solved.pop("before")
    rows = []
    for shape in ("gemmule", "wide"):
        one = found[shape]
        ratio = one["calibrate_over_forward"]
        turns = ratio["turns"]
        rows.append((
            shape, f"{one['tokens']:,}", f"{ratio['median']:.2f}",
            f"{turns['least']:.2f} to {turns['most']:.2f} ({one['rounds']})",
            f"{ratio['cpu']:.2f}",
        ))  # fmt: skip
    return (
        "## Calibration (`calibration.py`)\n\nTime of the pass (REAP sums and imatrix sums "
        "included) over transformers' fp32 forward, its best experts function and batch size, "
        f"2 cores.{age('calibration')}\n\n"
        + table(("shape", "tokens", "pass over forward", "turns (number)", "CPU time"), rows)
        + "\n\nThe same with the default criterion `rerouted` solved, by the present code and by "
        f"commit {before[:7]} in the same run. CPU time is what "
        "to go by: our pool keeps half as many threads again as it is given cores, which helps "
        "where a machine has more.\n\n"
        + table(
            ("shape", "sampled tokens", "cores", "over forward", "CPU time", "before",
             "CPU time before", "turns"), [_rerouted(name, one) for name, one in solved.items()])
    )  # fmt: skip


def _rerouted(shape: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    now, before = one["rerouted_over_forward"], one["rerouted_before_over_forward"]
    return (
        shape, f"{min(one['sampled_tokens_at_most'], one['tokens']):,}",
        str(one["machine"]["cores"]), f"{now['median']:.2f}", f"{now['cpu']:.2f}",
        f"{before['median']:.2f}", f"{before['cpu']:.2f}", str(one["rounds"]),
    )  # fmt: skip


def _memory() -> str:
    rows = [
        (
            f"{one['layers']} (commit {one['commit']})" if "commit" in one else str(one["layers"]),
            gib(one["checkpoint_bytes"]), f"{one['tokens']:,}",
            f"{one['reroute_tokens']:,}", gib(one["peak_resident_mib"] * MIB),
        )
        for one in result("memory")["runs"]
    ]  # fmt: skip
    return (
        "## Memory of calibration (`memory.py`)\n\nLayers of Gemma 4 26B's size with random "
        "weights, two threads, `rerouted` solved on the sampled tokens; mapped files count."
        f"{age('memory')}\n\n"
        + table(("layers", "weights", "tokens", "sampled", "peak resident"), rows)
    )


def _pruning() -> str:
    found = result("pruning")
    rows = [
        (
            state,
            *(
                f"{one[key]['median']:.2f}"
                for key in (
                    "throughput_of_prune_over_cp_both_fsynced", "throughput_of_prune_over_cp",
                )
            ),
        )
        for state, one in found["results"].items()
    ]  # fmt: skip
    return (
        f"## Pruning (`pruning.py`)\n\nBytes a second over `cp` of the same output "
        f"({gb(found['output_bytes'])}; {found['what']}), sha256 and NaN check included, "
        f"medians of {found['rounds']} turns.{age('pruning')}\n\n"
        + table(("file cache", "both synced to disk", "not synced"), rows)
    )


def _cards() -> str:
    sizes, audit, cards = result("sizes"), result("audit"), result("cards")
    total = audit["total"]
    only = ", ".join(f"{count} with {what}" for what, count in sizes["only_with"].items())
    rows = [
        (
            experts, f"{one['parameters_with_vision'] / 1e9:.2f} B",
            *(f"{one['gguf_bytes'][kind]:,}" for kind in ("F16", "Q8_0", "Q4_K_M")),
        )
        for experts, one in cards["experts"].items()
    ]  # fmt: skip
    return (
        "## What five published cards say (`cards.py`, `sizes.py`, `audit.py`)\n\n"
        f"Sizes of {sizes['rows']} files, predicted from the config: {sizes['reproduced']} as "
        f"stated; {only}; {len(sizes['not_reproduced'])} not at all. Of {sum(total.values())} "
        f"statements that types and sizes decide, {total['holds']} hold, {total['other unit']} are "
        f"in another unit than they name, {total['wrong']} are wrong, "
        f"{total['unproven'] + total['unchecked']} stay open. Gemma 4 26B-A4B with fewer experts, "
        "bytes of the GGUF without an importance matrix:\n\n"
        + table(("experts", "parameters with the vision tower", "F16", "Q8_0", "Q4_K_M"), rows)
    )


def _gemmule() -> str:
    found = result("gemmule_quality")
    rows = [
        (
            domain, f"{one['all']['perplexity']:.1f}",
            " to ".join(f"{end:.1f}" for end in one["all"]["interval_95"]),
            f"{one['all']['documents']}", f"{one['all']['tokens']:,}",
        )
        for domain, one in found["held_out"].items()
    ]  # fmt: skip
    within, between = (found["reap_spearman"][key].values() for key in ("within", "between"))
    return (
        "## gemmule (`gemmule_quality.py`)\n\nPerplexity on held-out text. Rank correlation of "
        f"REAP scores: {min(within):.2f} to {max(within):.2f} between halves of a domain, "
        f"{min(between):.2f} to {max(between):.2f} between domains.\n\n"
        + table(("domain", "perplexity", "95 %", "documents", "tokens"), rows)
    )
