"""Options that belong together, as one parameter of a command.

A command takes a group as it takes an option. `with_groups` shows typer the options of all groups
one by one, and gives the command each group with its values; `request` of a group is what it asks
for, in the words of `api/requests.py`, whose defaults are the same (a test compares them).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups in the place of the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            groups[parameter.name] = kind
            types = get_type_hints(kind, include_extras=True)
            shown += [_show(one.name, types[one.name], one.default) for one in fields(kind)]
        else:
            shown.append(_show(parameter.name, kind, parameter.default))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
        command(**values)

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _show(name: str, kind: Any, default: Any) -> inspect.Parameter:
    # By keyword, so that what has a default may stand before what has none.
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
