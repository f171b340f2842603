"""A card's statements against what they must be: every check, on one card."""

from __future__ import annotations

from collections.abc import Iterator

from secateur.audit.card.arithmetic import arithmetic_findings
from secateur.audit.card.bits import bits_findings
from secateur.audit.card.card import read_card
from secateur.audit.card.counts import count_findings
from secateur.audit.card.samples import sample_findings
from secateur.audit.card.sizes import size_findings
from secateur.audit.card.subject import Subject, subject_of
from secateur.audit.card.types import type_findings
from secateur.audit.card.wording import wording_findings
from secateur.audit.finding import Finding, sorted_findings
from secateur.audit.gguf.making import Made
from secateur.audit.gguf.shape import Shape


def check_claims(
    text: str, shape: Shape, file: Made | None = None, name: str | None = None
) -> tuple[Finding, ...]:
    """What becomes of every statement in a card's text that can be computed.

    `shape` is the model's, from its config or a file. `file` is the file that the card is about
    and `name` its name; without one the card's own words say how many experts it has left.
    """
    subject = subject_of(read_card(text), shape, file, name)
    return sorted_findings(list(_findings(subject)))


def _findings(subject: Subject) -> Iterator[Finding]:
    yield from size_findings(subject)
    yield from type_findings(subject)
    yield from bits_findings(subject)
    yield from count_findings(subject)
    yield from arithmetic_findings(subject.card)
    yield from sample_findings(subject.card)
    yield from wording_findings(subject)
