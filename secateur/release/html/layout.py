"""What all pages share: their frame, the sections with pictures, the script that draws them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, resources
from typing import Any

import jinja2
from markupsafe import Markup

from secateur import __version__
from secateur.release.html.picture import Picture, show_interval, show_number
from secateur.release.html.theme import config
from secateur.system.sizes import show_bytes

_LIBRARIES = ("altair", "vl-convert-python")


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; `notes` are sentences below its pictures, `facts` pairs
    of words about how its numbers were made."""

    name: str
    title: str
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def render(template: str, title: str, sections: Sequence[Section], **values: Any) -> str:
    """A page by a template that extends layout.html.jinja; the same values give the same bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=show_bytes, interval=show_interval, number=show_number)
    return environment.get_template(template).render(
        title=title,
        sections=sections,
        version=__version__,
        drawn_with=drawn_with(),
        style=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
        library=Markup(_library()),
        themes={"light": _json(config()), "dark": _json(config(dark=True))},
        json=_json,
        **values,
    )


def drawn_with() -> str:
    """The libraries that draw: another version of them makes another page."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)


def _json(data: Mapping[str, Any]) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing in it can end the element


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; making it takes a second."""
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return text.replace("</script", "<\\/script")
