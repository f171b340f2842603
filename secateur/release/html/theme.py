"""How pictures look: light and dark, in print, and where colours cannot be told apart.

A scale of colours goes from one lightness to another without turning back, so that it reads in
grey; what is not a number is told apart by shape, outline or stripes, never by colour alone.
"""

from __future__ import annotations

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
STATIC_FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
"""Of pictures as files: names a font that other programs find, too."""

INK, MUTED, SOFT, ACCENT = "ink", "muted", "soft", "accent"
HOLLOW, HALO, CELL = "hollow", "halo", "cell"
"""Styles of marks. Text and lines, side notes, what stands back, what is shown; what is told apart
from that, a rim that sets a line off its ground, a cell of a map."""

_LIGHT = {
    "ink": "#1c1c1a",
    "muted": "#5c5c57",
    "line": "#dddad2",
    "soft": "#b9b5aa",
    "accent": "#1f5673",
    "paper": "#ffffff",
    "scale": ["#f1efe8", "#c6d5dc", "#8fb1c1", "#568ba6", "#285f7d", "#0d3247"],
}
_DARK = {
    "ink": "#ecebe6",
    "muted": "#a5a49e",
    "line": "#34383b",
    "soft": "#6b6f70",
    "accent": "#8cc3e0",
    "paper": "#16191b",
    "scale": ["#22282c", "#2c4655", "#3d6a82", "#5f95b1", "#97c3da", "#e3f1f8"],
}


def config(*, dark: bool = False, font: str = FONT) -> dict[str, Any]:
    """Vega-Lite's configuration; a mark asks for its look by a style's name."""
    colour: dict[str, Any] = _DARK if dark else _LIGHT
    text = {"labelColor": colour["muted"], "titleColor": colour["ink"]}
    return {
        "background": colour["paper"] if not dark else "transparent",
        "font": font,
        "view": {"stroke": None},
        "axis": {
            **text,
            "domainColor": colour["line"],
            "gridColor": colour["line"],
            "tickColor": colour["line"],
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelOverlap": "greedy",
        },
        "legend": {
            **text,
            "orient": "top",
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titleLimit": 0,
            "gradientStrokeColor": colour["line"],
            "symbolStrokeColor": colour["ink"],
            "symbolFillColor": colour["ink"],
        },
        "title": {
            "color": colour["ink"],
            "subtitleColor": colour["muted"],
            "fontSize": 14,
            "subtitleFontSize": 11,
            "subtitlePadding": 5,
        },
        "range": {"heatmap": colour["scale"], "ramp": colour["scale"]},
        "style": {
            INK: {"color": colour["ink"]},
            MUTED: {"color": colour["muted"]},
            SOFT: {"color": colour["soft"]},
            ACCENT: {"color": colour["accent"], "stroke": colour["accent"]},
            HOLLOW: {"color": colour["paper"], "stroke": colour["ink"]},
            HALO: {"color": colour["paper"], "stroke": colour["paper"]},
            CELL: {"stroke": colour["paper"]},
        },
    }
