"""mlx_lm.server in a process of its own, started by `host_process.py` as a file.

It imports nothing of secateur. As `llama_host.py` it takes a line of JSON, says `ready ...` or
`failed REASON`, and lives until its standard input is closed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any


def main(order: Mapping[str, Any]) -> None:
    """Serve what is ordered. mlx-lm's log goes to standard error."""
    # A name that is not the model's would be looked for on the hub.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_CACHE"] = order["hub_cache"]
    server: Any = importlib.import_module("mlx_lm.server")
    sys.argv = ["mlx_lm.server", "--model", order["model"], *order["arguments"]]
    thread = threading.Thread(target=server.main, daemon=True)
    thread.start()
    while thread.is_alive():
        if _answers(order["address"]):
            print(f"ready {json.dumps({'address': order['address']})}", flush=True)
            sys.stdin.read()
            return
        time.sleep(0.05)
    print("failed its server ended", flush=True)


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


if __name__ == "__main__":
    try:
        main(json.loads(sys.stdin.readline()))
    except ImportError as error:
        print(f"failed {error}", flush=True)
    os._exit(0)
