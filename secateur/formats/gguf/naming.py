"""File names by which the Hugging Face Hub and Ollama tell one quantization from another.

Both read the label out of the file's name with one expression, and take the last that it finds.
The list and its order are those of `GGUF_QUANT_RE` in huggingface.js (packages/tasks/src/gguf.ts,
August 2026): llama.cpp's file types, a few that it no longer has, and Unsloth's. Q4_K_L and
Q5_K_L are not in it.
"""

from __future__ import annotations

import re

from secateur.formats.gguf.split import part_name

_LABELS = (
    "F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1", "Q2_K",
    "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS",
    "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S",
    "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0",
    "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0", "Q2_K_XL", "Q3_K_XL", "Q4_K_XL", "Q5_K_XL", "Q6_K_XL",
    "Q8_K_XL", "MXFP4",
)  # fmt: skip

MMPROJ = "mmproj-"
"""What the name of a tower's GGUF begins with: by it llama.cpp finds it next to a model."""

_LABEL = re.compile(f"(?:UD-)?(?:{'|'.join(_LABELS)})(?:_[A-Z]+)?")
_EXPERTS = re.compile(r"(?<![a-z0-9])(\d{1,4})(?:e|experts?)(?![a-z0-9])", re.IGNORECASE)


def label_of(file: str) -> str | None:
    """The quantization that the Hub and Ollama read out of a file's name, None for none."""
    found = _LABEL.findall(file.upper())
    return found[-1] if found else None


def experts_named(file: str) -> int | None:
    """The number of experts that a name gives, as in `A4B-109e`; None when it gives none."""
    found = _EXPERTS.search(file)
    return int(found[1]) if found else None


def file_name(model: str, recipe: str, base: str) -> str:
    """`MODEL-RECIPE.gguf`, or with the recipe's `base` behind it where its name has no label.

    So a flavour (`apex-mini`, `Q4_K_L`) is followed by what the Hub and Ollama read.
    """
    return f"{model}-{recipe}.gguf" if label_of(recipe) else f"{model}-{recipe}-{base}.gguf"


def without_part(file: str) -> str:
    """The name that the files of a split GGUF share."""
    part = part_name(file)
    return f"{part.stem}.gguf" if part else file
