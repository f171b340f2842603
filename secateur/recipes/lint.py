"""What is odd about a recipe or tensor-type file for one model, and what that costs in bytes.

    unmatched    matches no tensor
    shadowed     every tensor it matches is taken by an earlier rule
    collision    matches more than it names: ffn_gate inside ffn_gate_up_exps (rule_lines.py)
    no-effect    llama.cpp keeps the tensors (routers, norms), another option decides their type,
                 or the base is not quantized
    imatrix      gives a type that llama-quantize refuses to make without an importance matrix
    fallback     rows do not divide into the type's blocks, and another type is stored
    redundant    every tensor would have the same type without the rule
    older-llama.cpp  an llama.cpp of spring 2026 would have made another file (llama_types.py)

The first five are problems, the others notes. `bytes` of a finding is what it adds to the file
(negative: takes from it), against what the rule's author meant: the accidental hits left to the
other rules; the shadowed rule tried first; the type asked in the place of the fallback, counted by
its bits per weight. Of `older-llama.cpp` it is what such an llama.cpp would add. All are sums of
tensors' bytes, without padding.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, Literal

from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.container import TensorInfo
from secateur.recipes.assign import role_hint
from secateur.recipes.layers import tiers_of
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.llama_types import TypeChoice, TypeRequest, choose_types, is_quantizable
from secateur.recipes.older_llama_cpp import as_in_spring_2026
from secateur.recipes.recipe import Recipe
from secateur.recipes.rule_lines import LintContext, RuleLine, rule_lines

Kind = Literal[
    "unmatched", "shadowed", "collision", "no-effect", "imatrix", "fallback", "redundant",
    "older-llama.cpp",
]  # fmt: skip
PROBLEMS = ("unmatched", "shadowed", "collision", "no-effect", "imatrix")


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity of one rule.

    `tensors` are concerned, the `first` of them by name; `stored` are their bytes as they would
    be written, `bytes` what the finding adds to the file.
    """

    kind: Kind
    rule: str
    tensors: int
    first: str
    bytes: int
    stored: int
    text: str

    @property
    def problem(self) -> bool:
        """False for what is only good to know."""
        return self.kind in PROBLEMS


@dataclass(frozen=True)
class LintReport:
    """All findings; `tensor_bytes` is the sum of all tensors as llama-quantize prints it."""

    recipe: str
    base: str
    tensors: int
    tensor_bytes: int
    bits_per_weight: float
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that a recipe should not have."""
        return tuple(finding for finding in self.findings if finding.problem)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "problems": len(self.problems)}


def lint(
    recipe: Recipe,
    context: LintContext,
    *,
    has_imatrix: bool = False,
    importance: Sequence[float] | None = None,
    lines: Sequence[int] = (),
) -> LintReport:
    """Judge a GGUF recipe for one model.

    `importance` [layers] is for tiers by share, `lines` are the patterns' places in their file.
    Raises PlanError for a recipe that cannot be applied at all.
    """
    found = rule_lines(recipe, context, importance, lines)
    judge = _Judge(recipe, context, found, has_imatrix)
    total = sum(judge.now.sizes.values())
    return LintReport(
        recipe=recipe.name,
        base=recipe.base,
        tensors=len(context.infos),
        tensor_bytes=total,
        bits_per_weight=8 * total / sum(prod(info.shape) for info in context.infos),
        findings=tuple(judge.findings()),
    )


def rule_notes(
    recipe: Recipe, context: LintContext, importance: Sequence[float] | None = None
) -> list[str]:
    """What a plan says of a recipe's rules: the layers of its tiers, and rules that do nothing."""
    if not (recipe.rules or recipe.patterns or recipe.tiers):
        return []
    notes = []
    if recipe.tiers:
        tiers = tiers_of(recipe.tiers, context.traits.layers, importance)
        listed = "; ".join(
            f"{name} {', '.join(map(str, sorted(layers))) or 'none'}"
            for name, layers in tiers.items()
        )
        notes.append(f"{recipe.format}: layers by tier: {listed}")
    movable = {info.name for info in context.infos if is_quantizable(info, context.traits)}
    lines = rule_lines(recipe, context, importance)
    idle = [line for line in lines if line.tensors and movable.isdisjoint(line.tensors)]
    notes += [
        f"{recipe.format}: the rule `{line.rule}` does nothing, llama.cpp keeps such tensors as "
        "they are"
        for line in idle[:1]
    ]
    accidental = [line for line in lines if not line.accidental.isdisjoint(movable)]
    unmatched = [line for line in lines if not line.tensors and not line.optional]
    for odd, what in (
        (idle[1:], "do nothing either"),
        (unmatched, "match no tensor"),
        (accidental, "match more than they name"),
    ):
        if odd:
            notes.append(
                f"{recipe.format}: {len(odd)} of {len(lines)} rules {what} (first: "
                f"`{odd[0].rule}`): see `secateur recipe lint`"
            )
    return notes


@dataclass(frozen=True)
class _Outcome:
    """The choices of a set of rules, by name."""

    choices: Mapping[str, TypeChoice]
    sizes: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def of(self, names: Iterable[str]) -> int:
        return sum(self.sizes[name] for name in names)

    def types(self) -> dict[str, str]:
        return {name: choice.type for name, choice in self.choices.items()}


def _outcome(context: LintContext, request: TypeRequest) -> _Outcome:
    choices = choose_types(context.infos, context.traits, request)
    return _Outcome(
        {choice.name: choice for choice in choices},
        {
            info.name: replace(info, type=choice.type).nbytes
            for info, choice in zip(context.infos, choices, strict=True)
        },
    )


def _request(recipe: Recipe, has_imatrix: bool) -> TypeRequest:
    return TypeRequest(recipe.base, has_imatrix, recipe.embedding, recipe.output)


class _Judge:
    """One recipe on one model: which rule decides which tensor, now and otherwise."""

    def __init__(
        self, recipe: Recipe, context: LintContext, lines: Sequence[RuleLine], has_imatrix: bool
    ) -> None:
        self.recipe, self.context, self.lines = recipe, context, lines
        self.has_imatrix = has_imatrix
        self.infos = {info.name: info for info in context.infos}
        self.movable = {i.name for i in context.infos if is_quantizable(i, context.traits)}
        self.inert = not TYPES[FILE_TYPES[recipe.base].default].quantized
        self.first = self._first(range(len(lines)))
        self.now = self._with(self.first)
        # Which rule a type comes from: an option may have beaten the rule that matched the tensor.
        self.effective: dict[int, list[str]] = {}
        for name, choice in self.now.choices.items():
            if found := re.match(r"rule (\d+)(?:;|$)", choice.reason):
                self.effective.setdefault(int(found[1]), []).append(name)

    def findings(self) -> Iterator[Finding]:
        for number in range(len(self.lines)):
            yield from self._of_rule(number)
        yield from self._of_base()
        yield from self._of_older_llama_cpp()

    def _first(
        self, order: Iterable[int], without: Mapping[int, frozenset[str]] | None = None
    ) -> dict[str, int]:
        """{tensor: number of the first rule, in this order, that matches it}."""
        first: dict[str, int] = {}
        for number in order:
            left_out = (without or {}).get(number, frozenset())
            for name in self.lines[number].tensors:
                if name not in left_out:
                    first.setdefault(name, number)
        return first

    def _with(self, first: Mapping[str, int]) -> _Outcome:
        named = {name: (self.lines[n].type, f"rule {n}") for name, n in first.items()}
        request = replace(_request(self.recipe, self.has_imatrix), named=named)
        return _outcome(self.context, request)

    def _of_rule(self, number: int) -> Iterator[Finding]:
        line = self.lines[number]
        if not line.tensors:
            if not line.optional:
                yield self._finding(
                    "unmatched", line.rule, (), 0, f"matches no tensor{self._hint(number)}"
                )
            return
        movable = [name for name in line.tensors if name in self.movable]
        if self.inert or not movable:
            yield self._idle(line, line.tensors)
            return
        decided = [name for name in movable if self.first[name] == number]
        if not decided:
            yield self._shadowed(number, movable)
            return
        effective = self.effective.get(number, [])
        if not effective:
            yield self._finding(
                "no-effect", line.rule, decided, 0,
                f"does nothing: {self.now.choices[decided[0]].reason} decides",
            )  # fmt: skip
            return
        yield from self._collision(number, [name for name in effective if name in line.accidental])
        yield from self._needs(line.rule, effective)
        yield from self._fallback(line.rule, effective)
        yield from self._redundant(number, effective)

    def _idle(self, line: RuleLine, names: Sequence[str]) -> Finding:
        if self.inert:
            why = f"llama.cpp ignores every rule when the base is {self.recipe.base}"
        else:
            kinds = sorted({self.now.choices[name].type for name in names})
            why = f"llama.cpp keeps {_many(len(names), 'tensor')} like this in {', '.join(kinds)}"
        asked = sum(_nominal(line.type, self.infos[name]) for name in names)
        return self._finding(
            "no-effect", line.rule, names, 0,
            f"does nothing: {why} ({self.now.of(names):,} bytes; {line.type} would be {asked:,})",
        )  # fmt: skip

    def _shadowed(self, number: int, movable: Sequence[str]) -> Finding:
        others = [n for n in range(len(self.lines)) if n != number]
        meant = self._with(self._first([number, *others]))
        by = sorted({self.first[name] for name in movable})
        listed = " and ".join(f"`{self.lines[n].rule}`" for n in by[:2])
        more = f" and {len(by) - 2} more" if len(by) > 2 else ""
        verb = "comes" if len(by) == 1 else "come"
        return self._finding(
            "shadowed", self.lines[number].rule, movable, self.now.total - meant.total,
            f"never decides, since {listed}{more} {verb} first",
        )  # fmt: skip

    def _collision(self, number: int, accidental: Sequence[str]) -> Iterator[Finding]:
        line = self.lines[number]
        if not accidental:
            return
        meant = self._with(self._first(range(len(self.lines)), {number: line.accidental}))
        kinds = sorted({meant.choices[name].type for name in accidental})
        named = sum(name in self.movable for name in line.tensors) - len(
            [name for name in line.accidental if name in self.movable]
        )
        own = (
            "names no tensor of this model, and" if not named else "is only a part of the name, and"
        )
        yield self._finding(
            "collision", line.rule, accidental, self.now.total - meant.total,
            f"{own} decides {_many(len(accidental), 'other tensor')} ({line.type}; without it "
            f"{', '.join(kinds)}): bind it with ^ and $",
        )  # fmt: skip

    def _needs(self, rule: str, names: Sequence[str]) -> Iterator[Finding]:
        needing = [name for name in names if self.now.choices[name].needs_importance]
        if needing and not self.has_imatrix:
            kinds = sorted({self.now.choices[name].type for name in needing})
            yield self._finding(
                "imatrix", rule, needing, 0,
                f"gives {', '.join(kinds)}, which llama-quantize refuses to make without an "
                "importance matrix",
            )  # fmt: skip

    def _fallback(self, rule: str, names: Sequence[str]) -> Iterator[Finding]:
        groups: dict[tuple[str, str], list[str]] = {}
        for name in names:
            choice = self.now.choices[name]
            if choice.fallback_from:
                groups.setdefault((choice.fallback_from, choice.type), []).append(name)
        for (asked, stored), fallen in groups.items():
            rows = sorted({self.infos[name].shape[-1] for name in fallen})
            wanted = sum(_nominal(asked, self.infos[name]) for name in fallen)
            yield self._finding(
                "fallback", rule, fallen, self.now.of(fallen) - wanted,
                f"{_many(len(fallen), 'tensor')} with rows of {', '.join(map(str, rows))} cannot "
                f"be {asked} ({wanted:,} bytes) and become {stored} ({self.now.of(fallen):,} "
                "bytes)",
            )  # fmt: skip

    def _redundant(self, number: int, names: Sequence[str]) -> Iterator[Finding]:
        others = [n for n in range(len(self.lines)) if n != number]
        if self._with(self._first(others)).types() == self.now.types():
            yield self._finding(
                "redundant", self.lines[number].rule, names, 0,
                "changes nothing: without it every tensor has the same type",
            )  # fmt: skip

    def _of_base(self) -> Iterator[Finding]:
        """Fallbacks and needs of what no rule decided."""
        ruled = {name for names in self.effective.values() for name in names}
        rest = [name for name in self.infos if name in self.movable and name not in ruled]
        rule = f"base {self.recipe.base}"
        yield from self._needs(rule, rest)
        yield from self._fallback(rule, rest)

    def _of_older_llama_cpp(self) -> Iterator[Finding]:
        """What an llama.cpp of that time makes: of the patterns, and of rules as whole names."""
        rules = self._first(range(len(self.recipe.rules)))
        request = replace(
            _request(self.recipe, self.has_imatrix),
            patterns=self.recipe.patterns,
            named={name: (self.lines[n].type, self.lines[n].rule) for name, n in rules.items()},
        )
        older = _outcome(self.context, as_in_spring_2026(request))
        changed = [n for n, kind in self.now.types().items() if older.choices[n].type != kind]
        if not changed:
            return
        default = FILE_TYPES[self.recipe.base].default
        equal = [line.rule for line in self.lines if line.type == default]
        yield self._finding(
            "older-llama.cpp", f"{_many(len(equal), 'rule')} = {default}", changed,
            older.total - self.now.total,
            "llama.cpp of spring 2026 (after PR 19770, before PR 22572) ignored rules that equal "
            f"the default of {self.recipe.base}: it made {_many(len(changed), 'tensor')} of "
            f"another type, {older.total:,} bytes ({older.total / 2**20:,.2f} MiB) in all "
            f"instead of {self.now.total:,}",
        )  # fmt: skip

    def _hint(self, number: int) -> str:
        """The nearest role or name, for a rule or a pattern that matches none."""
        if number < len(self.recipe.rules):
            return role_hint(self.recipe.rules[number].roles, self.context.targets)
        wanted = (
            self.lines[number]
            .rule.rpartition(": ")[2]
            .rpartition("=")[0]
            .replace("\\", "")
            .strip("^$ ")
        )
        if any(name in (wanted, f"{wanted}.weight") for name in self.context.known):
            return ": this model has no such tensor"
        layer = re.match(r"blk\.\d+\.", wanted)
        near = [
            name.removesuffix(".weight")
            for name in self.infos
            if name in self.movable and name.startswith(layer[0] if layer else "")
        ]
        close = difflib.get_close_matches(wanted, near if layer else near[:100], n=1, cutoff=0.7)
        return f"; the nearest is {close[0]}" if close else ""

    def _finding(
        self, kind: Kind, rule: str, names: Sequence[str], nbytes: int, text: str
    ) -> Finding:
        first = names[0] if names else ""
        return Finding(kind, rule, len(names), first, nbytes, self.now.of(names), text)


def _nominal(kind: str, info: TensorInfo) -> int:
    """Bytes of a tensor at a type's bits per weight, whether or not its rows divide."""
    row = TYPES[kind]
    return -(-prod(info.shape) * row.nbytes // row.block)


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
