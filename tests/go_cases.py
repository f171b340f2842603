"""Go templates, what Go writes for them with DATA, and a Modelfile that was published."""

from __future__ import annotations

from typing import Any

DATA: dict[str, Any] = {
    "yes": True,
    "no": False,
    "three": 3,
    "list": ["x", "y"],
    "none": [],
    "map": {"b": "1", "a": "2"},
    "deep": {"a": [1.0, 0.5, None, "<é"]},
}

CASES: tuple[tuple[str, str], ...] = (
    ("a {{- 1 }} b {{ 2 -}}\n c", "a1 b 2c"),
    ("{{ if .no }}a{{ else if .yes }}b{{ else }}c{{ end }}", "b"),
    ("{{ range $i, $x := .list }}{{ if $i }},{{ end }}{{ $x }}{{ else }}none{{ end }}", "x,y"),
    ("{{ range .none }}a{{ else }}none{{ end }}", "none"),
    ("{{ range $k, $v := .map }}{{ $k }}={{ $v }};{{ end }}", "a=2;b=1;"),
    ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ end }}{{ $x }}", "2"),
    ('{{ with .map }}{{ .b }}{{ $.yes }}{{ end }}{{ with "" }}a{{ else }}b{{ end }}', "1trueb"),
    ('{{ and .yes "" "z" }}|{{ or "" "a" .gone.x }}|{{ not .no }}', "|a|true"),
    (
        '{{ eq .yes true }} {{ eq "a" "b" "a" }} {{ ne 1 2 }} {{ lt 1 2 }}',
        "true true true true",
    ),
    (
        '{{ len (slice .list 1) }}{{ index .map "b" }}{{ (index .list 0) | printf "<%s>" }}',
        "11<x>",
    ),
    ('{{ define "d" }}[{{ . }}]{{ end }}{{ template "d" "q" }}{{ template "d" 7 }}', "[q][7]"),
    ("{{ json .deep }}", '{"a":[1,0.5,null,"\\u003cé"]}'),
    ("{{ range .list }}{{ if eq . `y` }}{{ break }}{{ end }}{{ . }}{{ end }}", "x"),
    ("{{/* a }} comment */}}a{{- /* b */ -}} c", "ac"),
    (
        '{{ printf "%T %T %T %T" .list .map .three .yes }}',
        "[]interface {} map[string]interface {} float64 bool",
    ),
)

CARD_003 = """FROM ./gemma-4-21b-a4b-it-REAP-Q5_K_M.gguf
TEMPLATE \"\"\"<bos><start_of_turn>user
{{ .Prompt }}<end_of_turn>
<start_of_turn>model
\"\"\"
PARAMETER stop "<end_of_turn>"
PARAMETER temperature 0.7
"""
"""Of model card 003: the marks are those of Gemma 1 to 3, the model is a Gemma 4."""
