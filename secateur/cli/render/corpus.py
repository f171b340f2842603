"""What the command line prints of mixes and of what they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.corpus.mix import Mix
from secateur.system.sizes import show_count

if TYPE_CHECKING:
    from secateur.api.corpus import CorpusCheck
    from secateur.corpus.check import SourceCheck

_HEAD = ("source", "asked", "got", "docs", "median", "p95", "too long", "double", "assistant")


def mix_lines(mixes: Sequence[Mix]) -> list[str]:
    """A line a mix: its name, and the first sentence of its description."""
    width = max(len(mix.name) for mix in mixes)
    return [
        f"{mix.name:<{width}}  {mix.description.split('. ')[0].split(': ')[0].rstrip('.')} "
        f"({show_count(len(mix.sources), 'source')}, "
        f"{mix.sequence_length} tokens a row)"
        for mix in mixes
    ]


def check_lines(found: CorpusCheck, *, examples: bool) -> list[str]:
    """A row a source, tokens per category, what is wrong, and how long calibrating takes."""
    from secateur.estimation.table import table

    mix = found.found
    rows = [_HEAD, *(_row(source, mix.tokens) for source in mix.sources)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    about = "" if all(source.exact for source in mix.sources) else "about "
    shares = ", ".join(
        f"{name} {count / max(1, mix.tokens):.0%}" for name, count in mix.categories.items()
    )
    lines.append(f"{mix.mix.name}: {about}{mix.tokens:,} tokens ({shares})")
    lines += [f"warning: {text}" for text in mix.problems]
    lines += [
        f"{'error' if source.fails else 'warning'}: source {source.name!r}: {text}"
        for source in mix.sources
        for text in source.problems
    ]
    if examples:
        for source in mix.sources:
            lines += [f"--- {source.name}, its first document as the model reads it:"]
            lines += source.example.splitlines()
    if found.estimate is not None:
        lines += ["", *table(found.estimate)]
    return lines


def _row(source: SourceCheck, total: int) -> tuple[str, ...]:
    lengths, some = source.lengths, max(1, source.sampled)
    about = "" if source.exact else "~"
    asked = "all" if source.asked is None else f"{source.asked:,} {source.unit[:3]}"
    if lengths is None:
        return (source.name, asked, *("-",) * (len(_HEAD) - 2))
    return (
        source.name,
        asked,
        f"{about}{source.tokens:,} tok ({source.tokens / max(1, total):.0%})",
        f"{about}{source.documents:,}",
        f"{lengths.median:,.0f}",
        f"{lengths.p95:,.0f}",
        f"{source.overlong / some:.0%}",
        f"{source.duplicates / some:.0%}",
        f"{source.assistant:.0%}",
    )
