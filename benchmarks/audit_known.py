"""The errors of the five cards that were found by hand, for benchmarks/audit.py to compare with.

Per card: (line, topic, part of what was said).
"""

from __future__ import annotations

WRONG: dict[str, list[tuple[int, str, str]]] = {
    "000": [
        (47, "types", "ffn_gate_inp: Q8_0"),
        (55, "types", "ffn_gate_inp: Q8_0"),
        (194, "fallbacks", "normalization and scaling"),
        (48, "types", "ffn_down: Q5_K"),
        (49, "types", "attn_output: Q4_K"),
        (50, "types", "ffn_gate_up_exps, ffn_down_exps: Q3_K"),
        (56, "types", "ffn_gate_up_exps: Q3_K"),
        (57, "types", "ffn_down_exps: Q3_K"),
        (58, "types", "ffn_down: Q4_K, Q5_K"),
        (59, "types", "attn_output: Q3_K, Q4_K"),
        (234, "date", "April 2025"),
        (213, "date", "year 2025"),
        (252, "name", "e4b"),
        (254, "name", "e4b"),
        (143, "architecture", "Gemma4ForCausalLM"),
        (84, "command", "huggingface-cli"),
        (89, "file name", "APEX-mini.gguf"),
    ],
    "001": [
        (194, "arithmetic", "128 correct"),
        (195, "arithmetic", "29 + 5 wrong"),
        (113, "arithmetic", "196-question"),
        (30, "recipe", "Q3_K_L with Q8_0"),
        (30, "file size", "Q3_K_XL 10.90 GB"),
        (97, "size", "18 GB with 128 experts"),
        (5, "imatrix", "All quants"),
        (47, "recipe", "Q6_K / Q5_K / Q4_K"),
        (48, "recipe", "Q5_K / Q4_K / Q3_K"),
        (49, "recipe", "Q4_K / Q3_K"),
        (50, "recipe", "Q3_K / Q2_K"),
        (98, "saving", "-16%"),
        (20, "file name", "Q5_K_L"),
        (23, "file name", "Q4_K_L"),
        (47, "file name", "CD-Q6_K"),
        (48, "file name", "CD-Q5_K_M"),
        (49, "file name", "CD-Q4_K_M"),
        (50, "file name", "CD-Q3_K_M"),
    ],
    "002": [
        (72, "template", "<|channel>response"),
        (80, "command", "trust_remote_code"),
        (93, "command", "trust-remote-code"),
        (11, "saving", "31%"),
        (56, "saving", "31%"),
    ],
    "003": [
        (12, "template", "<|channel>response"),
        (32, "template", "<start_of_turn>"),
        (33, "template", "<end_of_turn>"),
        (34, "template", "<start_of_turn>"),
        (36, "template", "<end_of_turn>"),
        (14, "file size", "~43GB"),
        (16, "file size", "~23GB"),
        (14, "file name", "REAP.gguf"),
    ],
    "004": [
        (1, "types", "leaves these unquantized"),
        (1, "size", "~1 GB extra"),
    ],
}

UNPROVEN: dict[str, list[tuple[int, str, str]]] = {
    "000": [],
    "001": [
        (115, "sample size", "beats v2 by +1.51 pp"),
        (101, "sample size", "only costs 1.52"),
        (91, "sample size", "GPQA Diamond"),
    ],
    "002": [
        (46, "sample size", "REAP 0.20 | REAP 0.30"),
        (65, "sample size", "Zero looping"),
        (65, "sample size", "outperforms the original"),
        (65, "sample size", "fully preserved"),
    ],
    "003": [],
    "004": [],
}

OTHER_UNIT = {"000": 3, "001": 34, "002": 1, "003": 3, "004": 2}
"""Sizes in GiB that are printed as GB, as gguf.md says of each card."""

MUST = {
    ("000", 57): "ffn_down_exps has rows of 704, which blocks of 256 do not divide: it is Q4_0",
    ("000", 56): "ffn_gate_up_exps is Q4_K x 22, Q5_K x 8",
    ("000", 194): "the 392 tensors that are kept",
    ("001", 97): "21.08 GiB",
    ("001", 195): "39 wrong",
    ("002", 11): "26.3 to 26.9 %",
    ("003", 16): "22.11 GB",
    ("004", 1): "0.27 GB",
}
