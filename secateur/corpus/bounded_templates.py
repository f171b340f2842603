"""Jinja templates of a stranger, in a sandbox that also bounds what they take.

Jinja's own sandbox keeps a template from attributes and from changing what it is given; it lets it
loop for ever, and make a text that fills the memory in one line (`'a' * 10 ** 12`). Here every turn
of a loop and every call counts a step, and everything that makes a new value is measured first.
What a template of a published model takes is a ten-thousandth of any limit.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from secateur.errors import EngineError

STEPS = 1_000_000
"""Turns of loops and calls of one rendering at most."""
SECONDS = 60.0
"""Seconds of processor time of one rendering at most."""
LARGEST = 1 << 23
"""Characters of a value at most, all that it holds counted."""
TOTAL = 1 << 30
"""Characters of all values that one rendering makes at most."""
LONGEST_TEMPLATE = 1 << 20
"""Characters of a template at most; that of gpt-oss has 17,000."""

_PRODUCT = 1 << 28
"""The size of a text times the size of what it is filled with, at most."""
_WIDEST = 1 << 20
"""A width or count among the arguments of what pads or repeats, at most."""
_BITS = 4096
"""Bits of a whole number at most."""
_GROWING = frozenset(
    {
        "replace",
        "join",
        "translate",
        "expandtabs",
        "ljust",
        "rjust",
        "center",
        "zfill",
        "format",
        "format_map",
        "indent",
        "wordwrap",
        "tojson",
        "batch",
        "slice",
        "xmlattr",
        "urlize",
        "pprint",
        "truncate",
    }  # fmt: skip
)
"""Methods and filters whose result may be larger than what they are given."""
_WIDTH = re.compile(r"\d{5,}|%[^a-zA-Z%]*\*|:[^{}]*\{")
"""In a format: a width of five digits, or one that is an argument."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which a rendering that takes too much raises SecurityError."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._bound()

    def _bound(self) -> None:
        self.globals = {key: value for key, value in self.globals.items() if key != "lipsum"}
        self.filters = {name: _measured(name, made) for name, made in self.filters.items()}
        self.finalize = _checked
        self.template_class = _BoundedTemplate
        self.code_generator_class = _CountingCode
        self.cache = None

    def from_string(self, source: Any, *more: Any, **options: Any) -> Template:
        """As jinja's. Raises SecurityError for a template that is too long."""
        if isinstance(source, str) and len(source) > LONGEST_TEMPLATE:
            raise SecurityError(
                f"a template of {len(source):,} characters, expected {LONGEST_TEMPLATE:,} at most"
            )
        return super().from_string(source, *more, **options)

    def _generate(self, source: nodes.Template, *more: Any, **options: Any) -> str:
        for loop in source.find_all(nodes.For):
            step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
            if loop.test is not None:
                loop.test = nodes.And(step, loop.test)
            loop.body.insert(0, nodes.ExprStmt(step))
            step.set_lineno(loop.lineno)
        return super()._generate(source, *more, **options)

    # What compiled templates call; the names are those that `_CountingCode` writes.

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """All pieces as one text."""
        return _join(pieces)

    @staticmethod
    def step() -> bool:
        """A turn of a loop: it is called, and `call` counts."""
        return True

    @staticmethod
    def join_texts(parts: tuple[Any, ...]) -> str:
        """What `~` makes."""
        return _join(map(str, map(_checked, parts)))

    @staticmethod
    def made(value: Any) -> Any:
        """Count a value that was written out or cut from another."""
        _spent().add(len(value) if hasattr(value, "__len__") else 1)
        return value

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """As jinja's, of what cannot become too large."""
        if isinstance(left, str | bytes) and operator == "%":
            _check_growth("format", (left, right))
        elif isinstance(left, int) and isinstance(right, int):
            _check_whole(operator, left, right)
            return super().call_binop(context, operator, left, right)
        elif operator == "*":
            size, count = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(count, int):
                _check_size(_weigh(size) * max(count, 1))
        elif operator == "+":
            _check_size(_weigh(left) + _weigh(right))
        return _counted(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902,N805
        """As jinja's, counted and measured."""
        _spent().step()
        name = getattr(__obj, "__name__", "")
        if name in _GROWING:
            # The sandbox wraps `format`.
            owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
            _check_growth(name, (owner, *args, *kwargs.values()))
        return _counted(super().call(__context, __obj, *args, **kwargs))


def bound_environment(environment: Environment) -> BoundedEnvironment:
    """An environment with the filters, names and settings of another, bounded."""
    new = object.__new__(BoundedEnvironment)
    new.__dict__.update(environment.__dict__)
    new._bound()
    return new


def bound_chat_templates() -> None:
    """From now on, transformers renders chat templates in a bounded environment.

    Its own has the sandbox only. Raises EngineError for a transformers that compiles them in a way
    that is not known here.
    """
    import transformers
    from transformers.utils import chat_template_utils

    utils: Any = chat_template_utils
    compile_template = getattr(utils, "_compile_jinja_template", None)
    if getattr(compile_template, "is_bounded", False):
        return
    if compile_template is None:
        raise EngineError(
            f"transformers {transformers.__version__} compiles chat templates in a way that this "
            "secateur cannot bound: install another version (5.15 to 5.23 are known)"
        )

    @lru_cache(maxsize=32)
    def compile_bounded(template: str) -> Template:
        return bound_environment(compile_template("").environment).from_string(template)

    compile_bounded.is_bounded = True  # type: ignore[attr-defined]
    utils._compile_jinja_template = compile_bounded


class _BoundedTemplate(Template):
    """A template whose every rendering begins to count anew."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        _state.spent = _Spent()
        try:
            return super().render(*args, **kwargs)
        finally:
            _state.spent = None


class _CountingCode(CodeGenerator):
    """Python of a template in which values that are made without a call are counted, too."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        self.write("environment.join_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Any) -> None:  # noqa: N802
        self._made(super().visit_Getitem, node, frame, isinstance(node.arg, nodes.Slice))

    def visit_List(self, node: nodes.List, frame: Any) -> None:  # noqa: N802
        self._made(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:  # noqa: N802
        self._made(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:  # noqa: N802
        self._made(super().visit_Tuple, node, frame, node.ctx == "load")

    def _made(
        self, visit: Callable[[Any, Any], Any], node: Any, frame: Any, counts: bool = True
    ) -> None:
        self.write("environment.made(" if counts else "")
        visit(node, frame)
        self.write(")" if counts else "")


class _Spent:
    """What a rendering has taken."""

    def __init__(self) -> None:
        self.steps, self.total, self.began = 0, 0, time.thread_time()

    def step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise SecurityError(f"it takes more than {STEPS:,} steps: it may never end")
        if not self.steps & 0x3F and time.thread_time() - self.began > SECONDS:
            raise SecurityError(f"it takes more than {SECONDS:g} seconds: it may never end")

    def add(self, size: int) -> None:
        _check_size(size)
        self.total += size
        if self.total > TOTAL:
            raise SecurityError(f"it makes more than {TOTAL:,} characters of text")


_state = threading.local()


def _spent() -> _Spent:
    """The count of this thread's rendering; a new one outside of any (constants of a template)."""
    found: _Spent = getattr(_state, "spent", None) or _Spent()
    return found


def _measured(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted and measured."""
    takes = getattr(made, "jinja_pass_arg", None) is not None

    @wraps(made)
    def run(*args: Any, **kwargs: Any) -> Any:
        _spent().step()
        if name in _GROWING:
            _check_growth(name, (*args[takes:], *kwargs.values()))
        return _counted(made(*args, **kwargs))

    return run


def _check_growth(name: str, args: tuple[Any, ...]) -> None:
    """Refuse arguments of which something too large would be made."""
    texts = [_weigh(value) for value in args if not isinstance(value, int | float)]
    widths = [abs(value) for value in args if isinstance(value, int)]
    if name in ("format", "format_map"):
        if isinstance(args[0], str) and _WIDTH.search(args[0]):
            raise SecurityError("a format has a width of more than four digits, or a hidden one")
        return _check_size(sum(texts))
    if widths and max(widths) > _WIDEST:
        raise SecurityError(f"{name} has {max(widths)} among its arguments, {_WIDEST} at most")
    first, rest = (texts[0] if texts else 1), sum(texts[1:])
    if max(first, 1) * max(rest, *widths, 1) > _PRODUCT:
        raise SecurityError(f"{name} would make a text of more than {LARGEST:,} characters")
    return None


def _check_whole(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() + right.bit_length()
    if operator == "**":
        bits = left.bit_length() * max(right, 0)
    if bits > _BITS:
        raise SecurityError(f"a whole number of more than {_BITS} bits")


def _join(pieces: Iterable[str]) -> str:
    parts, size = [], 0
    for piece in pieces:
        size += len(piece)
        _check_size(size)
        parts.append(piece)
    _spent().add(size)
    return "".join(parts)


def _checked(value: Any) -> Any:
    """A value that will be written as text, if that is not too long."""
    if not isinstance(value, str):
        _check_size(_weigh(value))
    return value


def _counted(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple | dict):
        _spent().add(_weigh(value))
    return value


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise SecurityError(f"it makes a text of more than {LARGEST:,} characters")


def _weigh(value: Any) -> int:
    """Characters of a value and of all that it holds, a value that it holds twice counted twice."""
    known: dict[int, int] = {}

    def weigh(one: Any, depth: int) -> int:
        if isinstance(one, str | bytes):
            return len(one)
        if not isinstance(one, list | tuple | Mapping | set):
            return len(one) if isinstance(one, range) else 8
        if id(one) not in known:
            if depth > 200:
                raise SecurityError("it nests lists too deeply")
            parts = [*one.keys(), *one.values()] if isinstance(one, Mapping) else one
            known[id(one)] = 2 + sum(2 + weigh(part, depth + 1) for part in parts)
        return known[id(one)]

    return weigh(value, 0)
