"""Where a server listens, and whether it can."""

from __future__ import annotations

import socket

from secateur.errors import RequestError


def check_port(host: str, port: int) -> None:
    """Raise RequestError when another program has the port, or the host is not this machine."""
    if not port:
        return
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
    except OSError as error:
        raise RequestError(
            f"cannot serve on {host}, port {port}: {error.strerror or error}: give another port, "
            "or 0 for a free one"
        ) from None


def local_address(host: str, port: int) -> str:
    """The address by which this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def free_port(host: str) -> int:
    """A port that no program has now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        found.bind((host, 0))
        port: int = found.getsockname()[1]
        return port
