"""The pictures as SVG files, for a model card and wherever no script runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from secateur.release.html.page import pictures_of
from secateur.release.html.picture import Picture
from secateur.release.html.theme import STATIC_FONT, config
from secateur.release.results import Results

WIDTH = 760
_LINE = 118
"""Characters of a line under a title."""


def render_pictures(outputs: Sequence[Results]) -> dict[str, str]:
    """{name: SVG} of all pictures; the same results and libraries give the same bytes."""
    return {picture.name: render_picture(picture) for picture in pictures_of(outputs)}


def render_picture(picture: Picture, *, dark: bool = False) -> str:
    """One picture as SVG, on its own ground."""
    import vl_convert

    spec: dict[str, Any] = {
        **picture.spec,
        "width": max(WIDTH, picture.least_width),
        "config": config(dark=dark, font=STATIC_FONT),
        "padding": 14,
        "title": {
            "text": picture.title,
            "subtitle": wrap(f"{picture.about} {picture.sample}".strip(), _LINE),
            "anchor": "start",
            "frame": "group",
            "offset": 14,
        },
    }
    return _numbered_anew(vl_convert.vegalite_to_svg(spec))


def _numbered_anew(svg: str) -> str:
    """The SVG with its gradients and clips numbered from 0: vega counts on through a process."""
    known: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return known.setdefault(found[0], f"{found[1]}{len(known)}")

    return re.sub(r"\b(gradient_|clip)\d+", number, svg)
