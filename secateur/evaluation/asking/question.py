"""One request to a chat server, before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `task` and `id` name it, `messages` and `tools` are as OpenAI's API has them.

    `arguments` are further fields of this one request (`max_tokens`, `stop`, a `seed` of its own);
    they take the place of the run lock's.
    """

    task: str
    id: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def fields(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the request besides its messages, with `sent` of the run lock below."""
        found = {**sent, **self.arguments}
        if self.tools:
            found["tools"] = list(self.tools)
        return found
