"""What people write by hand, and strangers too: jobs, mixes, recipes, types, families, maps."""

from __future__ import annotations

from attack import Attack, instead, sparse, write

RUN = "run {room}/job.yaml -o {out}"
CHECK = "corpus check {room}/mix.yaml --model {model}"
RECIPE = "plan {model} --experts 6 --stats {stats} --types {room}/recipe.yaml -o {out}"
TYPES = "plan {model} --experts 6 --stats {stats} --types Q8_0 --tensor-type-file {room}/t.txt"
FAMILY = "plan {model} --experts 8 --family {room}/f.toml -o {out}"
MAP = "plan {model} --drop-map {room}/map.json"
IMPORTANCE = (
    "plan {model} --experts 6 --stats {stats} --types apex-mini --layer-importance {room}/l.json"
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
"""Nine to the power of twelve, in a kilobyte."""
REACHING = """name: a
sources:
- name: a
  path: a.jsonl
  fields:
    user: "{{ q.__class__.__mro__ }}"
    assistant: q
"""
SIXTIES = "1" + ":59" * 300_000
"""A whole number of YAML, to the base of 60."""


ATTACKS = (
    Attack("a job of aliases of aliases", write("job.yaml", BOMB), RUN, ("job.yaml", "aliases")),
    Attack("a job that holds itself", write("job.yaml", "model: &a [*a]\n"), RUN, ("job.yaml",)),
    Attack(
        "a job with a tag of Python",
        write("job.yaml", "model: !!python/object/apply:os.system ['touch job-was-run']\n"),
        RUN,
        ("job.yaml",),
        never="job-was-run",
    ),
    Attack(
        "a job with a tag of its own", write("job.yaml", "model: !evil x\n"), RUN, ("job.yaml",)
    ),
    Attack(
        "a job of unknown keys",
        write("job.yaml", "model: gemmule\nevil: true\n"),
        RUN,
        ("job.yaml:2", "'evil'"),
    ),
    Attack(
        "a job with a key twice",
        write("job.yaml", "model: gemmule\nmodel: x\n"),
        RUN,
        ("job.yaml:2", "twice"),
    ),
    Attack(
        "a job with a number to the base of 60",
        write("job.yaml", f"model: gemmule\npruning:\n  experts: {SIXTIES}\n"),
        RUN,
        ("job.yaml:3", "characters"),
    ),
    Attack(
        "a job with a number of 5,000 digits",
        write("job.yaml", f"model: gemmule\npruning:\n  experts: {'9' * 5000}\n"),
        RUN,
        ("job.yaml:3",),
    ),
    Attack(
        "a job nested without end",
        write("job.yaml", "[" * 100_000),
        RUN,
        ("job.yaml", "nested too deeply"),
    ),
    Attack("a job of zero bytes", write("job.yaml", b"\0" * 5000), RUN, ("job.yaml",)),
    Attack(
        "a job with a zero byte in a path",
        write("job.yaml", 'model: gemmule\nout: "a\\0b"\npruning: {experts: 24}\n'),
        "run {room}/job.yaml",
        ("job.yaml:2",),
    ),
    Attack(
        "a job with a name of 5,000 bytes",
        write("job.yaml", f"model: {'a' * 5000}\npruning: {{experts: 24}}\n"),
        RUN,
        ("File name too long",),
    ),
    Attack(
        "a job that is two documents",
        write("job.yaml", "model: a\n---\nmodel: b\n"),
        RUN,
        ("job.yaml",),
    ),
    Attack("a job that is a pipe", instead("job.yaml", "pipe"), RUN, ("job.yaml", "empty")),
    Attack(
        "a job without an end", instead("job.yaml", "endless device"), RUN, ("job.yaml", "a device")
    ),
    Attack(
        "a job of half a gigabyte",
        lambda goods, room: sparse(room / "job.yaml", 1 << 29),
        RUN,
        ("job.yaml", "more than 16 MiB"),
    ),
    Attack("a mix of aliases of aliases", write("mix.yaml", BOMB), CHECK, ("mix.yaml", "aliases")),
    Attack(
        "a mix with a weight that is none",
        write(
            "mix.yaml", "name: a\ntokens: 100\nsources:\n- {name: a, path: a.jsonl, weight: .nan}\n"
        ),
        CHECK,
        ("mix.yaml",),
    ),
    Attack(
        "a mix with a number to the base of 60",
        write("mix.yaml", f"name: a\ntokens: {SIXTIES}\nsources: []\n"),
        CHECK,
        ("mix.yaml", "characters"),
    ),
    Attack(
        "a mix with a template that reaches out",
        lambda goods, room: (
            write("a.jsonl", '{"q": "x"}\n')(goods, room),
            write("mix.yaml", REACHING)(goods, room),
        ),
        CHECK,
        ("template", "unsafe"),
    ),
    Attack("a recipe of aliases of aliases", write("recipe.yaml", BOMB), RECIPE, ("recipe.yaml",)),
    Attack(
        "a recipe with a pattern without end",
        write(
            "recipe.yaml",
            "to: gguf\nbase: Q8_0\nrules:\n- {name: '(.+)+(.+)+(.+)+x', type: Q8_0}\n",
        ),
        RECIPE,
        ("matches no tensor",),
    ),
    Attack(
        "types with a pattern without end",
        write("t.txt", "(.+)+(.+)+(.+)+[xyz]$=q8_0\n"),
        TYPES,
        code=0,
    ),
    Attack(
        "types with a pattern that is none",
        write("t.txt", "(((=q8_0\n"),
        TYPES,
        ("'((('", "no regular expression"),
    ),
    Attack(
        "types with a repetition of repetitions",
        write("t.txt", "((a{1,9999}){1,9999}){1,9999}=q8_0\n"),
        TYPES,
        code=0,
    ),
    Attack(
        "a family with an expression that calls",
        write(
            "f.toml",
            'title = "a"\nextends = ["gemma4"]\n[config]\nexperts = ["num_experts"]\n'
            "[sizes]\nx = \"__import__('os').system('touch family-was-run')\"\n",
        ),
        FAMILY,
        ("f.toml",),
        never="family-was-run",
    ),
    Attack(
        "a family that extends itself",
        write("f.toml", 'title = "a"\nextends = ["f"]\n'),
        FAMILY,
        ("f.toml",),
    ),
    Attack(
        "a family that extends a file above",
        write("f.toml", 'title = "a"\nextends = ["../../../etc/passwd"]\n'),
        FAMILY,
        ("f.toml",),
    ),
    Attack(
        "a family nested without end", write("f.toml", "a = " + "[" * 100_000), FAMILY, ("f.toml",)
    ),
    Attack(
        "a drop map of lists", write("map.json", '{"layers": {"0": [[[]]]}}'), MAP, ("map.json",)
    ),
    Attack(
        "a drop map of huge numbers",
        write("map.json", '{"layers": {"0": {"drop": [1e400]}, "1": {"drop": [1]}}}'),
        MAP,
        ("map.json",),
    ),
    Attack(
        "a drop map of a layer by a name",
        write("map.json", '{"layers": {"\\u0661": {"drop": [1]}, "x": {"drop": [1]}}}'),
        MAP,
        ("map.json",),
    ),
    Attack("layer importance of NaN", write("l.json", "[NaN, NaN]"), IMPORTANCE, ("l.json",)),
    Attack("layer importance of texts", write("l.json", '["a", {}]'), IMPORTANCE, ("l.json",)),
)
