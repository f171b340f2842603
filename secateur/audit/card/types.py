"""The types a card gives to tensors: by name, by tier of layers, by file, and what fell back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from secateur.audit.card.card import Line
from secateur.audit.card.quantity import bytes_in
from secateur.audit.card.sizes import (
    FileRow,
    file_rows,
    judge,
    made_of,
    readings_of,
    reproducing,
    ways_sizes,
)
from secateur.audit.card.subject import Subject
from secateur.audit.finding import Finding, Verdict
from secateur.audit.gguf.making import Made, Way, make, stock_ways
from secateur.errors import PlanError
from secateur.formats.ggml.types import INTERNAL_TYPES, TYPES
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.llama_types import KEPT, TypeRequest
from secateur.system.sizes import show_in_both_units

_TYPE = "|".join(
    sorted((re.escape(n) for n in TYPES if n not in INTERNAL_TYPES), key=len, reverse=True)
)
_ONE = re.compile(rf"(?<![\w-])({_TYPE})(?:-({_TYPE}))?(?!\w)")
_TIERS = re.compile(rf"(?<![\w-])((?:{_TYPE})(?:\s*/\s*(?:{_TYPE}))+)(?![\w])")
_ENDS = re.compile(rf"\b(\w+) with ({_TYPE}) embed", re.IGNORECASE)
_FILE = re.compile(r"[\w.+-]+\.gguf\b", re.IGNORECASE)
_NAMES = re.compile(r"[a-z]+_[a-z_]+(?:/[a-z_]+)*")
_MATRIX = re.compile(
    r"\b(?:all|every)\b[^.]{0,40}\b(?:quants?|quantizations?|files?|ggufs?)\b[^.]{0,40}"
    r"\b(?:imatrix|importance matrix)",
    re.IGNORECASE,
)
_FEWER = re.compile(r"(\d+) of (\d+) tensors|(\d+) total, (\d+) with fallback", re.IGNORECASE)
_SOME = re.compile(
    r"\bin (?:\w+ )?layers\b|\b(?:some|first|last|later|early|edge)\b", re.IGNORECASE
)
_SMALL = re.compile(r"\bnorm(?:s|ali[sz]ation)?\b|\bscal(?:es?|ing)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """Types that a line gives to tensors by their names: any of `types` for each of `stems`.

    `some`: it speaks of some layers, so that others may have other types.
    """

    line: Line
    stems: tuple[str, ...]
    types: tuple[str, ...]
    some: bool


def type_findings(subject: Subject) -> Iterator[Finding]:
    """All that a card says of types."""
    others = _of_other_files(subject)
    statements = [one for one in _statements(subject) if one.line.number not in others]
    real = _real(subject)
    yield from _by_name(subject, statements, real)
    yield from _fallbacks(subject, statements, real)
    rows = list(file_rows(subject))
    for row in rows:
        yield from _ends(subject, row)
        yield from _tiers(subject, row)
    yield from _imatrix(subject, rows)


def _of_other_files(subject: Subject) -> set[int]:
    """The lines of sections whose heading names other files than the one that is looked at."""
    found, other = set(), False
    for line in subject.card.lines:
        if line.text.startswith("#"):
            named = _FILE.findall(line.text)
            other = bool(named) and subject.name is not None and subject.name not in named
        if other:
            found.add(line.number)
    return found


def _real(subject: Subject) -> Made | None:
    """The file itself, or the way, if we know one, that makes just the size the card gives."""
    if subject.file is not None:
        return subject.file
    if not subject.anchors:
        return None
    return reproducing(subject, subject.anchors[0], subject.experts)


def stem_of(name: str) -> str:
    """ "ffn_gate_inp" of "blk.3.ffn_gate_inp.weight"; "" for what is not in a layer."""
    found = re.fullmatch(r"blk\.\d+\.(\w+)\.weight", name)
    return found[1] if found else ""


def _statements(subject: Subject) -> Iterator[Statement]:
    known = {stem_of(info.name) for info in subject.shape.tensors} - {""}
    for line in subject.card.lines:
        # In the order of the line, a run of names belongs to the next run of types, or the
        # other way round.
        runs: list[tuple[bool, list[str]]] = []
        for is_type, words in _tokens(line.text, known):
            if runs and runs[-1][0] == is_type:
                runs[-1][1].extend(words)
            else:
                runs.append((is_type, words))
        some = _SOME.search(line.text) is not None
        for (first, one), (_, other) in zip(runs[::2], runs[1::2], strict=False):
            types, stems = (one, other) if first else (other, one)
            yield Statement(line, tuple(dict.fromkeys(stems)), tuple(dict.fromkeys(types)), some)


def _tokens(text: str, known: set[str]) -> list[tuple[bool, list[str]]]:
    """(is a type, the types or the tensors' names) of every word that is one, in order."""
    found: list[tuple[int, bool, list[str]]] = []
    for match in _ONE.finditer(text):
        found.append((match.start(), True, _from(match[1], match[2] or "")))
    for match in _NAMES.finditer(text):
        first, *more = match[0].split("/")
        prefix = first[: first.rindex("_") + 1]
        stems = [name for name in (first, *(prefix + m for m in more)) if name in known]
        if stems:
            found.append((match.start(), False, stems))
    return [(is_type, words) for _, is_type, words in sorted(found)]


def _from(first: str, last: str) -> list[str]:
    """The types of "Q3_K-Q5_K": both, and every type of that kind between them."""
    if not last:
        return [first]
    kind = re.sub(r"\d", "", first)
    bits = sorted(TYPES[name].bits_per_weight for name in (first, last))
    between = [
        name
        for name, row in TYPES.items()
        if re.sub(r"\d", "", name) == kind and bits[0] <= row.bits_per_weight <= bits[1]
    ]
    return list(dict.fromkeys([first, *between, last]))


def _base(subject: Subject) -> str:
    """The file type that the card starts from, else the commonest."""
    pattern = re.compile(
        rf"(?<![\w-])({'|'.join(sorted(FILE_TYPES, key=len, reverse=True))})(?!\w)"
    )
    for line in subject.card.lines:
        found = pattern.search(line.text)
        if found and found[1] not in TYPES:
            return found[1]
    return "Q4_K_M"


def _asked(subject: Subject, stems: Mapping[str, str], base: str, rest: str | None = None) -> Made:
    """What llama-quantize makes of types by stem; `rest` is for every other tensor."""
    named = {}
    for info in subject.shape.tensors:
        kind = stems.get(stem_of(info.name), rest)
        if kind is not None:
            named[info.name] = (kind, "the card")
    request = TypeRequest(base, True, named=named)
    return make(subject.shape, subject.experts, Way("the types stated", request, False))


def _by_name(
    subject: Subject, statements: Sequence[Statement], real: Made | None
) -> Iterator[Finding]:
    most = _most(subject, statements)
    for statement in statements:
        reasons: list[str] = []
        for stem in statement.stems:
            reasons += _stem_reasons(subject, statement, stem, real)
        if most is not None and _largest(subject, statements) in statement.stems:
            size = subject.anchors[0]
            if (size.value - size.half) * bytes_in(size.unit) > most:
                reasons.append(
                    f"all types stated make at most {show_in_both_units(most)}, the card "
                    f"gives {size.said}"
                )
        stated = f"{', '.join(statement.stems)}: {', '.join(statement.types)}"
        verdict: Verdict = "wrong"
        if not reasons:
            verdict = "holds" if real is not None else "unchecked"
            reasons = [real.way.sentence() if real else "no size shows which types were used"]
        yield Finding(
            "types", f"{statement.line.text} [{stated}]", verdict, "", "; ".join(reasons),
            statement.line.number,
        )  # fmt: skip


def _stem_reasons(
    subject: Subject, statement: Statement, stem: str, real: Made | None
) -> Iterator[str]:
    kept, stored = False, {}
    for kind in statement.types:
        try:
            made = _asked(subject, {stem: kind}, _base(subject))
        except PlanError:
            continue
        for info, choice in zip(made.infos, made.choices, strict=True):
            if stem_of(info.name) == stem:
                kept |= choice.reason == KEPT and choice.type not in statement.types
                if choice.fallback_from:
                    stored[kind] = (choice.type, info.shape[-1], TYPES[kind].block)
    if kept:
        yield f"llama.cpp never quantizes {stem}: it is F32 whatever is asked"
        return
    if stored and len(stored) == len(statement.types):
        kinds = " or ".join(dict.fromkeys(kind for kind, _, _ in stored.values()))
        _, width, block = next(iter(stored.values()))
        yield f"{stem} has rows of {width}, which blocks of {block} do not divide: it is {kinds}"
    if real is not None:
        types = Counter(i.type for i in real.infos if stem_of(i.name) == stem)
        same = set(types) & set(statement.types)
        if not (same if statement.some else set(types) <= set(statement.types)):
            stated = ", ".join(f"{kind} x {count}" for kind, count in types.most_common())
            whose = "" if subject.file is not None else ", whose size the card gives"
            yield f"{stem} is {stated} in {real.way.sentence()}{whose}"


def _largest(subject: Subject, statements: Sequence[Statement]) -> str:
    """The stem with most parameters among those spoken of."""
    sums: Counter[str] = Counter()
    spoken = {stem for statement in statements for stem in statement.stems}
    for name, count in subject.shape.elements(subject.experts).items():
        if stem_of(name) in spoken:
            sums[stem_of(name)] += count
    return sums.most_common(1)[0][0] if sums else ""


def _most(subject: Subject, statements: Sequence[Statement]) -> int | None:
    """The most bytes that tensors of the types stated can take; None without a size to compare."""
    if not subject.anchors or not statements:
        return None
    largest: dict[str, str] = {}
    for statement in statements:
        for stem in statement.stems:
            kinds = [*statement.types, *([largest[stem]] if stem in largest else [])]
            largest[stem] = max(kinds, key=lambda kind: TYPES[kind].bits_per_weight)
    try:
        return _asked(subject, largest, _base(subject)).data
    except PlanError:
        return None


def _fallbacks(
    subject: Subject, statements: Sequence[Statement], real: Made | None
) -> Iterator[Finding]:
    made = real
    if made is None:
        stems = {stem: s.types[0] for s in statements for stem in s.stems}
        try:
            made = _asked(subject, stems, _base(subject))
        except PlanError:
            return
    kept = sum(choice.reason == KEPT for choice in made.choices)
    stems_of = Counter(stem_of(choice.name) or choice.name for choice in made.fallbacks)
    stated = ", ".join(f"{count} {stem}" for stem, count in stems_of.most_common()) or "none"
    for block in subject.card.blocks():
        for line in block:
            found = _FEWER.search(line.text)
            if not found or "fallback" not in line.text.lower():
                continue
            few, all_ = (
                int(n) for n in ((found[1], found[2]) if found[1] else (found[4], found[3]))
            )
            same = all_ == len(subject.shape.tensors)
            yield Finding(
                "tensors", f"{all_} tensors", "holds" if same else "wrong",
                f"{len(subject.shape.tensors)} tensors", "of the architecture", line.number,
            )  # fmt: skip
            yield Finding(
                "fallbacks", found[0], "holds" if few == len(made.fallbacks) else "wrong",
                f"{len(made.fallbacks)} of {len(made.choices)}", stated, line.number,
            )  # fmt: skip
            named = _SMALL.search(line.text)
            if named and not any(_SMALL.search(stem.replace("_", " ")) for stem in stems_of):
                yield Finding(
                    "fallbacks", line.text, "wrong", stated,
                    f"no {named[0]} tensor falls back: the {kept} tensors that are kept in "
                    "floats are not counted among fallbacks, which are stored larger than asked",
                    line.number,
                )  # fmt: skip


def _ends(subject: Subject, row: FileRow) -> Iterator[Finding]:
    """ "Q6_K with Q8_0 embed/output": a file type with another type at the ends."""
    found = _ENDS.search(row.text)
    if not found or found[1].upper() not in FILE_TYPES:
        return
    ends = (found[2].upper(),)
    made = made_of(subject, stock_ways(found[1].upper(), ends, ends), subject.experts)
    verdict, must, what = judge(row.size, readings_of(made))
    if verdict == "wrong":
        other = reproducing(subject, row.size, subject.experts)
        if other is not None:
            what += f"; the size is that of {other.way.sentence()}"
    said = f"{row.file} {row.size.said}: {found[0]}"
    yield Finding("recipe", said, verdict, must, what, row.line)  # type: ignore[arg-type]


def _tiers(subject: Subject, row: FileRow) -> Iterator[Finding]:
    """ "hybrid Q6_K / Q5_K / Q4_K per layer": no layer can hold more than its tier's type.

    The layers that the card calls important get the first type, all others the second at most;
    if it names no layers, the first type everywhere is the bound. The ends get Q8_0.
    """
    found = _TIERS.search(row.text)
    if not found:
        return
    kinds = [kind.strip() for kind in found[1].split("/")]
    named = {}
    for target in subject.shape.targets():
        important = not subject.important or target.layer in subject.important
        if target.layer is not None:
            named[target.name] = (kinds[0] if important else kinds[1], "the card")
    request = TypeRequest("Q4_K_M", True, embedding="Q8_0", output="Q8_0", named=named)
    most = make(subject.shape, subject.experts, Way("the tiers stated", request, False))
    said = f"{row.file} {row.size.said}: {found[0]} per layer"
    readings = readings_of(ways_sizes(subject, row.label, subject.experts))
    unit = bytes_in(row.size.unit)
    meant = judge(row.size, readings) if readings else None
    # A size that only fits in GiB is one: that is what the card means by its unit.
    scale = 2**30 / 1e9 if meant and meant[0] == "other unit" and row.size.unit == "GB" else 1.0
    nbytes = row.size.value * unit * scale
    slack = row.size.half * unit * scale
    if nbytes > most.size.high + slack:
        reason = (
            "so much at most, with the first type in the layers called important and the second"
        )
        reason += " in all others"
        if meant and meant[0] != "wrong":
            reason += f"; the size is that of {meant[2]}"
        verdict, must = "wrong", f"at most {show_in_both_units(most.size.high)}"
    else:
        verdict, must, reason = "unchecked", "", "the size does not contradict it"
    yield Finding("recipe", said, verdict, must, reason, row.line)  # type: ignore[arg-type]


def _imatrix(subject: Subject, rows: Sequence[FileRow]) -> Iterator[Finding]:
    """ "All quants made using imatrix": files whose size says otherwise."""
    for line in subject.card.sentences():
        found = _MATRIX.search(line.text)
        if not found:
            continue
        stated, seen = [], 0
        for row in rows:
            made = ways_sizes(subject, row.label, subject.experts)
            fit = {
                m.way.request.has_imatrix
                for m in made
                if judge(row.size, readings_of([m]))[0] != "wrong"
            }
            sizes = {m.data for m in made}
            seen += len(sizes) > 1 and len(fit) == 1
            if fit == {False} and row.label.upper() in FILE_TYPES:
                stated.append(f"{row.label} ({row.size.said})")
        if stated:
            yield Finding(
                "imatrix", line.text, "wrong", f"not {', '.join(stated)}",
                "its size is that of one made without an importance matrix", line.number,
            )  # fmt: skip
        else:
            reason = f"the sizes of {seen} files show it, the others are the same either way"
            yield Finding(
                "imatrix", line.text, "holds" if seen else "unchecked", "", reason, line.number
            )
