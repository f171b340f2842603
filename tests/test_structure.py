"""The house rules that a machine can check: import order, no cycles, no family names in code."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from pretend_triton import triton_or_pretended

import secateur
from secateur.families.registry import families

PACKAGE = Path(secateur.__file__).parent
PACKAGES = (
    "errors",
    "system",
    "cluster",
    "families",
    "checkpoint",
    "formats",
    "rounding",
    "corpus",
    "statistics",
    "forward",
    "calibration",
    "pruning",
    "recipes",
    "planning",
    "outputs",
    "serving",
    "evaluation",
    "estimation",
    "release",
    "audit",
    "api",
    "cli",
    "__main__",
)
"""Each may import only what stands before it."""

WITH_TORCH = ("forward", "calibration", "evaluation")
"""Packages in which something may import torch; in the others nothing does, not even inside a
function, except what is in MAY_IMPORT_TORCH."""
MAY_IMPORT_TORCH = ("weights.py", "device_feedback.py")
"""An output format's `weights.py` opens what was written for measuring; a GPU chooses codes."""
KERNELS = ("device_kernels.py",)
"""Triton's, which takes every array by itself."""

CONFIG = str(PACKAGE / "gemmule" / "config.json")

FILES = sorted(PACKAGE.rglob("*.py"))


def package_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[str, Path]:
    return {module_of(path): path for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_package_imports_only_packages_before_it(path: Path) -> None:
    mine = package_of(module_of(path))
    if not mine:
        return
    known = modules()
    for name in imports_of(path):
        if name.startswith("secateur.") and name in known:
            theirs = package_of(name)
            assert PACKAGES.index(theirs) <= PACKAGES.index(mine), (
                f"{module_of(path)} imports {name}"
            )


def test_no_module_is_in_an_import_cycle() -> None:
    known = modules()
    edges = {
        module: {name for name in imports_of(path) if name in known and name != module}
        for module, path in known.items()
        if module != "secateur"
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done:
            return
        for following in edges.get(module, ()):
            # A package's __init__ holds a docstring only; importing it imports nothing else.
            if following.count(".") > 1:
                visit(following, (*trail, module))
        done.add(module)

    for module in edges:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_torch_stays_out_of_the_packages_that_do_not_run_a_model(path: Path) -> None:
    if package_of(module_of(path)) not in WITH_TORCH and path.name not in MAY_IMPORT_TORCH:
        assert not any(name.split(".")[0] == "torch" for name in imports_of(path))


@cache
def family_words() -> re.Pattern[str]:
    """Every family's name and `model_type` as a word, however it is joined: gpt_oss, GptOss."""
    names = {family.name for family in families()}
    names |= {kind for family in families() for kind in family.model_types}
    joined = ("[-_ .]?".join(map(re.escape, name.split("_"))) for name in sorted(names))
    return re.compile(rf"(?<![a-z0-9])({'|'.join(joined)})(?![a-z0-9])", re.IGNORECASE)


def named_families(source: str) -> list[tuple[int, str]]:
    """(line, text) of identifiers and strings that name a family; docstrings may."""
    tree, pattern = ast.parse(source), family_words()
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        words = [
            value
            for _, field in ast.iter_fields(node)
            for value in (field if isinstance(field, list) else [field])
            if isinstance(value, str)
        ]
        found += [(getattr(node, "lineno", 0), word) for word in words if pattern.search(word)]
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_family_is_named_in_code(path: Path) -> None:
    assert named_families(path.read_text("utf-8")) == []


def test_a_family_is_found_wherever_code_names_it() -> None:
    name = families()[0].name
    for code in (
        f'if kind == "{name}": pass',
        f'x = "a {name.upper()} model"',
        f'x = f"{name}.{{key}}"',
        f"def write_{name}(): pass",
        f"def f(*, {name}=1): pass",
        f"from x import is_{name}",
        f"x.{name}",
        f"f({name}=1)",
    ):
        assert named_families(code), code
    assert named_families(f'"""As {name} does."""\nx = 1  # {name}') == []
    assert named_families(f'x = "{name}s"') == []


def test_nothing_lies_loose_at_the_top() -> None:
    top = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py"}
    assert top == {"__init__.py", "__main__.py", "errors.py"}
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(PACKAGES) - {"errors", "__main__"}


def test_no_module_is_called_by_a_word_that_means_miscellaneous() -> None:
    words = {"utils", "util", "common", "helpers", "misc", "manager", "tools_"}
    assert not {path.stem for path in FILES} & words


def test_all_is_what_is_visible() -> None:
    visible = {name for name in dir(secateur) if not name.startswith("_")}
    assert set(secateur.__all__) - {"__version__"} == visible
    for name in secateur.__all__:
        assert getattr(secateur, name) is not None


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["inspect", "gemmule"],
        ["verify", "nowhere"],
        ["plan", CONFIG, "--experts", "16", "--types", "Q4_K_M"],
        ["fit", CONFIG, "--memory", "1GiB", "--types", "Q8_0", "--context", "64"],
    ],
)
def test_commands_without_weights_import_no_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom secateur.cli.main import main\n"
        f"sys.argv = ['secateur', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "assert 'transformers' not in sys.modules, 'transformers was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_verbs_are_not_hidden_by_modules() -> None:
    with triton_or_pretended():
        for path in FILES:
            __import__(module_of(path))
    for name in secateur.__all__:
        assert type(getattr(secateur, name)).__name__ != "module", name


RESUMABLE = {"formats/gguf/writer.py", "evaluation/tokens/answering.py"}
"""These append to files that a later run resumes; all other files are written by system.atomic."""


_WRITES = re.compile("[rbt]*[wxa+][bt+]*")


def calls_of_the_system(path: Path) -> set[str]:
    """What a module does itself that `system` does for all: `os.cpu_count`, `open for writing`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & {"fcntl"}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {word for word in ("/proc/", "XDG_") if node.value.startswith(word)}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            alone = {"cpu_count", "sysconf", "fsync", "replace", "rename", "sched_getaffinity"}
            if node.value.id == "os" and node.attr in alone:
                found.add(f"os.{node.attr}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            shared = isinstance(owner, ast.Name) and owner.id == "atomic"
            if node.func.attr in ("write_text", "write_bytes") and not shared:
                found.add(f".{node.func.attr}")
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            writes = any(isinstance(mode, str) and _WRITES.fullmatch(mode) for mode in modes)
            if function.endswith("open") and writes and function != "partial.open":
                found.add("open for writing")  # `partial` is what atomic_path gives
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_system_writes_files_and_asks_for_the_machine(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    if not name.startswith("system/") and name not in RESUMABLE:
        assert calls_of_the_system(path) == set()


def test_there_is_one_type_of_progress() -> None:
    names = {
        target.id
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert not names & {"Progress", "silent", "Report"}


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text("utf-8"))
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_and_functions_are_short() -> None:
    lengths = {path: path.read_text("utf-8").count("\n") for path in FILES}
    assert [str(path) for path, lines in lengths.items() if lines > 400] == []
    assert statistics.median(lengths.values()) < 150
    long = [
        f"{path.name}: {function.name}"
        for path in FILES
        for function in functions_of(path)
        if (function.end_lineno or 0) - function.lineno + 1 > 60
    ]
    assert long == []


def test_only_commands_have_many_parameters() -> None:
    wide = [
        f"{path.name}: {function.name}"
        for path in FILES
        if path.parent.name != "commands" and path.name not in KERNELS
        for function in functions_of(path)
        if len(function.args.args) + len(function.args.kwonlyargs) > 8
    ]
    assert wide == []


def test_only_the_audit_reads_cards() -> None:
    for path in FILES:
        if package_of(module_of(path)) != "audit":
            imported = imports_of(path)
            assert not any(name.startswith("secateur.audit.card") for name in imported), path
