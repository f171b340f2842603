"""Every file size that the cards publish, predicted by our planning. Writes sizes.json.

From the real model's numbers, with a header as large as its vocabulary's (gemma4_facts.py); no
weights. A row that is not
reproduced as its card states it is tried with what is known of how the file came about: the
llama.cpp of spring 2026, another base, no importance matrix, the vision tower counted in. A
prediction reproduces a figure when it rounds to it. Cards write GB for GB and GiB alike (card 004
for both in one table); `unit` is what the figure is.

    python benchmarks/sizes.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import gemma4_facts
from goals import result_path

from secateur.checkpoint.reader import Checkpoint, open_shape
from secateur.outputs.gguf.layout import GgufBase, GgufLayout, gguf_base, typed_layout
from secateur.outputs.gguf.tokenizer_keys import tokenizer_keys
from secateur.outputs.mlx.layout import MlxLayout, mlx_layout
from secateur.recipes.llama_types import TypeRequest, choose_types
from secateur.recipes.older_llama_cpp import as_in_spring_2026
from secateur.recipes.recipe import Recipe, find_recipe

VOCABULARY = "vocabulary.gguf"
UNITS = {"GB": 10**9, "GiB": 2**30, "MiB": 2**20, "bits per weight": 1}

STOCK = {
    "F16": "40.72", "Q8_0": "21.65", "Q6_K_L": "18.40", "Q6_K": "18.23", "Q5_K_L": "15.59",
    "Q5_K_M": "15.42", "Q5_K_S": "14.51", "Q4_K_L": "13.71", "Q4_K_M": "13.54",
    "Q4_K_S": "12.48", "Q4_1": "12.89", "Q4_0": "11.67", "IQ4_NL": "11.67", "IQ4_XS": "11.25",
    "Q3_K_XL": "10.90", "Q3_K_L": "11.18", "Q3_K_M": "10.74", "Q3_K_S": "9.88",
    "IQ3_M": "10.03", "IQ3_XS": "9.41", "IQ3_XXS": "9.14", "IQ2_M": "8.39", "IQ2_S": "7.99",
    "IQ2_XS": "7.94", "IQ2_XXS": "7.52",
}  # fmt: skip
"""Card 001, F16 and the standard table, "GB" that are GiB; all "made using imatrix"."""
CONTRIB_DYNAMIC = {
    "CD-Q6_K": ("15.80", "Q8_0", "Q6_K", "Q5_K"),
    "CD-Q5_K_M": ("13.51", "Q6_K", "Q5_K", "Q4_K"),
    "CD-Q4_K_M": ("11.08", "Q5_K", "Q4_K", "Q3_K"),
    "CD-Q3_K_M": ("10.37", "Q4_K", "Q3_K", "IQ3_S"),
}
"""Card 001: size, and the tiers of the generator of its tensor-type files."""
IMPORTANCE = (9.0, *[2.0] * 6, 1.0, 1.0, 1.0, 2.0, *[1.0] * 19)
"""Card 001's order of layers: 0, then 1 to 6 and 10, then the others."""
REAP_103 = {"Q5_K_M": "15", "Q4_K_M": "13", "Q3_K_M": "10"}
"""Card 003, "~GB" that are GiB."""

VISION = 573_000_000
"""Parameters of the vision tower, to three digits."""

BUG = "an llama.cpp of spring 2026"


@dataclass(frozen=True)
class Row:
    """A published figure, our prediction of it as stated, and what explains a difference.

    `error` is (predicted - published) / published. `otherwise` is (what differs, prediction).
    """

    card: str
    file: str
    experts: int
    published: str
    unit: str
    predicted: float
    error: float
    reproduces: bool
    only_with: str | None = None
    otherwise: float | None = None


def row(
    card: str, file: str, experts: int, figure: tuple[str, str], stated: float,
    otherwise: tuple[str, float] | None = None,
) -> Row:  # fmt: skip
    """`figure` is (published, unit); predictions are in bytes (or bits per weight)."""
    published, unit = figure
    value = float(published.replace(",", ""))
    digits = len(published.partition(".")[2])
    tolerance = 0.5 * 10.0**-digits + 1e-4

    def reproduces(predicted: float) -> bool:
        return abs(predicted / UNITS[unit] - value) <= tolerance

    explained = None
    if otherwise and not reproduces(stated) and reproduces(otherwise[1]):
        explained = otherwise
    return Row(
        card, file, experts, published, unit,
        round(stated / UNITS[unit], 4),
        round(stated / UNITS[unit] / value - 1, 5),
        reproduces(stated),
        explained[0] if explained else None,
        round(explained[1] / UNITS[unit], 4) if explained else None,
    )  # fmt: skip


class Sizes:
    """Bytes of files of the real model, by experts kept."""

    def __init__(self, data: Path) -> None:
        self.checkpoint: Checkpoint = open_shape(data)
        self.tokenizer = tokenizer_keys(self.checkpoint, data / VOCABULARY)

    @cache  # noqa: B019 - one object, for the length of the run
    def base(self, experts: int) -> GgufBase:
        keep = dict.fromkeys(self.checkpoint.moe_layers, tuple(range(experts)))
        return gguf_base(self.checkpoint, keep, self.tokenizer)

    def form(self, recipe: Recipe, experts: int, imatrix: bool = True) -> GgufLayout:
        return typed_layout(
            self.base(experts), recipe, assume_imatrix=imatrix, layer_importance=IMPORTANCE
        )

    def old(self, recipe: Recipe, experts: int) -> GgufLayout:
        """The file as llama-quantize made it while it ignored equal overrides."""
        form, base = self.form(recipe, experts), self.base(experts)
        request = as_in_spring_2026(
            TypeRequest(recipe.base, has_imatrix=True, patterns=recipe.patterns)
        )
        return replace(form, choices=tuple(choose_types(base.infos, base.traits, request)))

    def mlx(self, recipe: str) -> MlxLayout:
        keep = {layer: tuple(range(128)) for layer in self.checkpoint.moe_layers}
        return mlx_layout(self.checkpoint, keep, find_recipe(recipe))


def file_bytes(form: GgufLayout) -> int:
    """Bytes of its one file, which are known: a tokenizer is."""
    (nbytes,) = form.files.values()
    assert nbytes is not None
    return nbytes


def tensor_bytes(form: GgufLayout) -> int:
    """What llama-quantize prints, without the header."""
    return sum(info.nbytes for info in form.infos)


def card_000() -> Recipe:
    """Its tensor-type file (Benjamin-Wegener, gemma4_19b_REAP_heretic_mini.txt)."""
    patterns = []
    for layer in range(30):
        kinds = {"ffn_gate_inp": "Q8_0", "ffn_gate_up_exps": "Q3_K", "ffn_down_exps": "Q3_K"}
        dense = "Q5_K" if layer < 3 or layer > 24 else "Q4_K"
        attention = "Q4_K" if layer < 3 or layer > 26 else "Q3_K"
        kinds |= dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), dense)
        kinds |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), attention)
        patterns += [(f"blk.{layer}.{name}", kind) for name, kind in kinds.items()]
    return Recipe("mini", "Q3_K_M", patterns=tuple(patterns))


def contrib_dynamic(base: str, tiers: tuple[str, str, str]) -> Recipe:
    """A tensor-type file of card 001's CD rows, as its author's generator writes it."""
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names += ("ffn_gate_inp", "ffn_gate_up_exps", "ffn_down_exps")
    kind = dict(zip((9.0, 2.0, 1.0), tiers, strict=True))
    patterns = [
        (f"blk.{layer}.{name}.weight", kind[weight])
        for layer, weight in enumerate(IMPORTANCE)
        for name in names
    ]
    patterns += [("token_embd.weight", "Q8_0"), ("output.weight", "Q8_0")]
    return Recipe(f"CD-{base}", base, patterns=tuple(patterns))


def rows(sizes: Sizes) -> Iterator[Row]:
    """All rows, card by card."""
    f16 = sizes.form(find_recipe("F16"), 90)
    yield row("000", "F16", 90, ("35,206.24", "MiB"), tensor_bytes(f16))
    mini = card_000()
    now, then = sizes.form(mini, 90), sizes.old(mini, 90)
    yield row(
        "000", "Q3_K_M with its map", 90, ("11,149.34", "MiB"), tensor_bytes(now),
        (BUG, tensor_bytes(then)),
    )  # fmt: skip
    yield row(
        "000", "Q3_K_M with its map", 90, ("5.07", "bits per weight"), bits(now),
        (BUG, bits(then)),
    )  # fmt: skip
    for name, published in STOCK.items():
        yield row(
            "001", name, 109, (published, "GiB"),
            file_bytes(sizes.form(find_recipe(name), 109)), _otherwise(sizes, name),
        )  # fmt: skip
    for name, (published, *tiers) in CONTRIB_DYNAMIC.items():
        recipe = contrib_dynamic(name.removeprefix("CD-"), (tiers[0], tiers[1], tiers[2]))
        yield row(
            "001", name, 109, (published, "GiB"),
            file_bytes(sizes.form(find_recipe(name), 109)),
            (BUG, file_bytes(sizes.old(recipe, 109))),
        )  # fmt: skip
    yield row("001", "128 experts, Q6_K", 128, ("18", "GiB"),
              file_bytes(sizes.form(find_recipe("Q6_K"), 128)))  # fmt: skip
    for name, published in REAP_103.items():
        nbytes = file_bytes(sizes.form(find_recipe(name), 103))
        yield row("003", name, 103, (published, "GiB"), nbytes)
    for name, published, width in (("BF16", "43", 16.0), ("Q8_0", "23", 8.5)):
        nbytes = file_bytes(sizes.form(find_recipe(name), 103))
        seeing = nbytes + VISION * width / 8
        yield row("003", name, 103, (published, "GB"), nbytes,
                  ("the vision tower counted in", seeing))  # fmt: skip
    mixed, plain = sizes.mlx("mlx-mixed-4-8"), sizes.mlx("mlx-4bit")
    yield row("004", "v1, mixed 4/8", 128, ("4.587", "bits per weight"), mixed.bits_per_weight)
    yield row("004", "v0, 4 bits", 128, ("4.5", "bits per weight"), plain.bits_per_weight)
    yield row("004", "v1, disk", 128, ("14", "GB"), sum(mixed.files.values()))
    yield row("004", "v0, disk", 128, ("13", "GiB"), sum(plain.files.values()))


def bits(form: GgufLayout) -> float:
    """Bits per weight as llama-quantize prints them: tensor bytes over all elements."""
    elements = sum(_elements(info.shape) for info in form.infos)
    return 8 * tensor_bytes(form) / elements


def _elements(shape: tuple[int, ...]) -> int:
    found = 1
    for length in shape:
        found *= length
    return found


def _otherwise(sizes: Sizes, name: str) -> tuple[str, float] | None:
    if name == "Q3_K_XL":
        other = Recipe(name, "Q3_K_M", embedding="Q8_0", output="Q8_0")
        return "the base Q3_K_M", file_bytes(sizes.form(other, 109))
    plain = sizes.form(find_recipe(name), 109, imatrix=False)
    return "no importance matrix", file_bytes(plain)


def found(data: Path) -> dict[str, Any]:
    """The table, and how many rows come out."""
    table = list(rows(Sizes(data)))
    causes: dict[str, int] = {}
    for entry in table:
        if entry.only_with:
            causes[entry.only_with] = causes.get(entry.only_with, 0) + 1
    return {
        "rows": len(table),
        "reproduced": sum(entry.reproduces for entry in table),
        "only_with": causes,
        "not_reproduced": [
            f"{entry.card} {entry.file}"
            for entry in table
            if not entry.reproduces and not entry.only_with
        ],
        "table": [asdict(entry) for entry in table],
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """The table for people."""
    told = []
    for entry in result["table"]:
        text = (
            f"{entry['card']}  {entry['file']:22} {entry['published']:>9} {entry['unit']:15} "
            f"{entry['predicted']:>11} {entry['error']:+8.2%}"
        )
        if entry["only_with"]:
            text += f"  {entry['otherwise']} only with {entry['only_with']}"
        elif not entry["reproduces"]:
            text += "  not reproduced"
        told.append(text)
    return told


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = found(gemma4_facts.write_model(Path(folder)))
    result_path("sizes").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(lines(result)))
    print({key: value for key, value in result.items() if key != "table"})


if __name__ == "__main__":
    main()
