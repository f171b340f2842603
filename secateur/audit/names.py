"""What the Hub and Ollama read out of a file's name: the quantization's label.

Restates the rule of huggingface.js (`parseGGUFQuantLabel`, packages/tasks/src/gguf.ts): the last
label in the upper-case name, where a label is one of a fixed list, first match first, and maybe
more letters after an underscore. `Q4_K` alone is not in the list, so `Q4_K_L` has no label.
"""

from __future__ import annotations

import re

_LABELS = (
    "F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1", "Q2_K",
    "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS",
    "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M",
    "IQ4_XS", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "MXFP4_MOE",
    "NVFP4", "Q1_0", "Q2_0", "Q2_K_XL", "Q3_K_XL", "Q4_K_XL", "Q5_K_XL", "Q6_K_XL", "Q8_K_XL",
)  # fmt: skip

_LABEL = re.compile(rf"(?:UD-)?(?:{'|'.join(_LABELS)})(?:_[A-Z]+)?")

_EXPERTS = re.compile(r"(?<![a-z0-9])(\d{1,4})(?:e|experts?)(?![a-z0-9])", re.IGNORECASE)


def quant_label(name: str) -> str | None:
    """The quantization that the Hub reads out of a file's name; None when it reads none."""
    found: list[str] = _LABEL.findall(name.upper())
    return found[-1] if found else None


def experts_named(name: str) -> int | None:
    """The number of experts that a name gives, as in `A4B-109e`; None when it gives none."""
    found = _EXPERTS.search(name)
    return int(found[1]) if found else None
