"""What five published cards state, as facts in our own words: their figures, types and names.

`wrong` and `unproven` list (topic, part of what was said) of the statements that cannot be true,
or that so few samples cannot show; everything else in a text holds. Found by hand from the real
model's shape; `benchmarks/audit.py` holds the cards' own texts against the same findings.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claims:
    """The text, and what is wrong with it."""

    text: str
    wrong: tuple[tuple[str, str], ...]
    unproven: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    """Parts of the sentences that say why."""


CLAIMS = {
    "000": Claims(
        """\
# somebody/gemma-4-19b-a4b-it-REAP-APEX-mini

Quantization Q3_K_M with imatrix and a tensor-type file

Experts per Layer 90 (of 128, 30% removed)
Active Experts/Token 8
Transformer Layers 30
Total Parameters ~19.02B

Model size (F16):  35,206.24 MiB (16.01 BPW)
Quant size:        11,149.34 MiB (5.07 BPW)

| Tensor | Type |
|---|---|
| ffn_gate_inp (router) | Q8_0 |
| ffn_gate_up_exps | Q3_K |
| ffn_down_exps | Q3_K |
| ffn_gate/up/down (shared) | Q4_K–Q5_K |
| attn_q/k/v/output | Q3_K–Q4_K |

60 of 658 tensors required fallback quantization. These are normalization and scaling tensors.

    huggingface-cli download somebody/gemma-4-19b-a4b-it-REAP-APEX-mini --include "*.gguf"
    llama-cli -m gemma4-19b-a4b-reap-APEX-mini.gguf

Architecture Gemma4ForCausalLM (MoE)

Quantization Date: April 2025

Model tree for somebody/gemma-4-19b-e4b-it-REAP-APEX-mini
""",
        wrong=(
            ("types", "ffn_gate_inp (router)"),
            ("types", "ffn_gate_up_exps: Q3_K"),
            ("types", "ffn_down_exps: Q3_K"),
            ("types", "ffn_down: Q4_K, Q5_K"),
            ("types", "attn_output: Q3_K, Q4_K"),
            ("fallbacks", "normalization and scaling"),
            ("command", "huggingface-cli"),
            ("file name", "APEX-mini.gguf"),
            ("architecture", "Gemma4ForCausalLM"),
            ("date", "April 2025"),
            ("name", "e4b"),
        ),
        reasons=(
            "ffn_down_exps has rows of 704, which blocks of 256 do not divide: it is Q4_0",
            "ffn_gate_up_exps is Q4_K x 22, Q5_K x 8",
            "the 392 tensors that are kept",
        ),
    ),
    "001": Claims(
        """\
# somebody/gemma-4-A4B-109e

All quants made using imatrix with calibration data v5.

| Filename | Quant type | Size | Notes |
|---|---|---|---|
| gemma-4-A4B-109e-Q6_K_L.gguf | Q6_K_L | 18.40 GB | Q6_K with Q8_0 embed/output |
| gemma-4-A4B-109e-Q6_K.gguf | Q6_K | 18.23 GB | |
| gemma-4-A4B-109e-Q5_K_L.gguf | Q5_K_L | 15.59 GB | Q5_K_M with Q8_0 embed/output |
| gemma-4-A4B-109e-Q5_K_M.gguf | Q5_K_M | 15.42 GB | |
| gemma-4-A4B-109e-Q4_0.gguf | Q4_0 | 11.67 GB | plain |
| gemma-4-A4B-109e-Q3_K_XL.gguf | Q3_K_XL | 10.90 GB | Q3_K_L with Q8_0 embed/output |
| gemma-4-A4B-109e-CD-Q6_K.gguf | CD-Q6_K | 15.80 GB | hybrid Q6_K / Q5_K / Q4_K per layer |
| gemma-4-A4B-109e-CD-Q5_K_M.gguf | CD-Q5_K_M | 13.51 GB | hybrid Q5_K / Q4_K / Q3_K per layer |

Types follow the layers: high-precision ones (L0, L1-L6, L10) get the first type of a hybrid.

Reduced from 128 to 109 experts per MoE layer by an analysis on GPQA Diamond.

| Property | Original (128e) | Pruned (109e) | Change |
|---|---|---|---|
| Experts per layer | 128 | 109 | -19 |
| GGUF Q6_K size | 18 GB | 18 GB | |
| bf16 size | 50 GB | 42 GB | -16% |
| GPQA Diamond (lm-eval) | 81.82% | 80.30% | −1.52 pp |

The drop only costs 1.52 percentage points vs the full 128-expert model.

Final score: 159/198 = 80.30%.

128 correct from raw lm-eval + 5 patched = 159 correct
""",
        wrong=(
            ("recipe", "Q3_K_L with Q8_0"),
            ("file size", "Q3_K_XL"),
            ("size", "18 GB with 128 experts"),
            ("imatrix", "All quants"),
            ("recipe", "Q6_K / Q5_K / Q4_K"),
            ("recipe", "Q5_K / Q4_K / Q3_K"),
            ("saving", "-16%"),
            ("file name", "Q5_K_L"),
            ("file name", "CD-Q6_K"),
            ("file name", "CD-Q5_K_M"),
            ("arithmetic", "128 correct"),
        ),
        unproven=(("sample size", "GPQA Diamond"),),
        reasons=("21.08 GiB",),
    ),
    "002": Claims(
        """\
# somebody/gemma-4-19b-a4b-it-REAP

REAP removes 30% of the experts (38 of 128 per layer); 8 are chosen for a token.

| Property | Original | REAP 0.30 |
|---|---|---|
| Total params | 25.81B | 19.02B |
| Experts per layer | 128 | 90 |
| Disk size (BF16) | ~52 GB | ~36 GB |

That is a ~31% reduction in total disk footprint.

Thinking goes through <|channel>thought and <|channel>response.

    model = AutoModelForCausalLM.from_pretrained(model_id, trust_remote_code=True)
""",
        wrong=(
            ("template", "<|channel>response"),
            ("command", "trust_remote_code"),
            ("saving", "31%"),
        ),
    ),
    "003": Claims(
        """\
# somebody/gemma-4-21b-a4b-it-REAP

Experts per layer 103 (of 128)

| Filename | Quant type | Size |
|---|---|---|
| gemma-4-21b-a4b-it-REAP.gguf | F16 | ~43GB |
| gemma-4-21b-a4b-it-REAP-Q8_0.gguf | Q8_0 | ~23GB |
| gemma-4-21b-a4b-it-REAP-Q5_K_M.gguf | Q5_K_M | ~15GB |

TEMPLATE "<start_of_turn>user"
PARAMETER stop "<end_of_turn>"
""",
        wrong=(
            ("template", "<start_of_turn>"),
            ("template", "<end_of_turn>"),
            ("file size", "~43GB"),
            ("file size", "~23GB"),
            ("file name", "REAP.gguf"),
        ),
        reasons=("22.11 GB",),
    ),
}
