"""Requests of JSON to an engine of this machine, beyond what the openai client knows."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from secateur.errors import EngineError

ANSWER_SECONDS = 600.0
"""Time that the engine has for one answer."""


def request_json(
    url: str,
    content: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    seconds: float = ANSWER_SECONDS,
) -> Any:
    """The JSON that a server answers to a POST of `content`, or to a GET without any.

    Raises EngineError with the server's reason.
    """
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    body = None if content is None else json.dumps(content).encode()
    # A proxy of the environment must not see what goes to the loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, body, headers), timeout=seconds) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        reason = f"status {error.code}: " + error.read().decode("utf-8", "replace")[:300]
        error.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
    raise EngineError(f"{url} did not answer: {reason}")
