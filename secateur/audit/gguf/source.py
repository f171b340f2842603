"""The header of a GGUF file, wherever the file lies: on this machine, on the hub, behind a URL.

Only the header is read. Over HTTP it comes by range requests that grow until it is whole, so a
file of 20 GB costs as much as its vocabulary: about 16 MB.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from secateur.errors import EngineError, FormatError
from secateur.formats.gguf.reader import GgufFile, HeaderCut, read_header, read_local_header
from secateur.formats.gguf.split import part_name

FIRST = 1 << 20
GROWTH = 4
LIMIT = 1 << 28
"""Bytes of the first request, what the next is multiplied by, and what no header exceeds."""

HUB = "hf://"


@dataclass(frozen=True)
class Header:
    """A GGUF header and where it came from.

    `name` is the file's name, `actual` the bytes that the file has (None: the server does not
    say), `fetched` the bytes that went over the network.
    """

    source: str
    name: str
    gguf: GgufFile
    actual: int | None
    fetched: int = 0

    @property
    def expected(self) -> int:
        """Bytes that the header says the file has, without padding at its end."""
        return self.gguf.end


def read_source(source: str, revision: str | None = None) -> Header:
    """Read the header of a local file, `hf://owner/name/file.gguf` or an http(s) URL.

    `owner/name/file.gguf` without `hf://` works as well when there is no such local file. Raises
    FormatError for what is no GGUF or cannot be found, and for a revision of what is not on the
    hub; EngineError when a server fails.
    """
    path = Path(source)
    url = re.match(r"https?://", source)
    if revision is not None and (url or path.is_file()):
        raise FormatError(
            f"revision {revision}: {source} is not on the hub: leave the revision out, or name a "
            "file there (owner/name/file.gguf)"
        )
    if path.is_file():
        gguf, size = read_local_header(path)
        return Header(source, path.name, gguf, size)
    if url:
        return _remote(source, source, {})
    return _on_hub(source, revision)


def read_parts(source: str, revision: str | None = None) -> tuple[Header, ...]:
    """As `read_source`, for all parts of a split file that are there, the first part first.

    The parts of a file are found by its name, as llama.cpp finds them.
    """
    named = read_source(source, revision)
    count = _split(named, "count")
    name = part_name(source)
    if count < 2 or name is None or name.total != count:
        return (named,)
    parts = [named]
    for number in range(1, count + 1):
        if number == name.number:
            continue
        # A part that is missing is a finding, not an error: what is there can be looked at.
        with suppress(FormatError):
            parts.append(read_source(name._replace(number=number).file, revision))
    return tuple(sorted(parts, key=lambda part: _split(part, "no")))


def _split(header: Header, key: str) -> int:
    held = header.gguf.metadata.get(f"split.{key}")
    return held.value if held is not None and isinstance(held.value, int) else 0


def is_file_source(source: str) -> bool:
    """Whether `source` names a file whose header can be read, and no model or config."""
    path = Path(source)
    if path.is_file():
        return path.suffix.lower() != ".json"
    return source.startswith(("http://", "https://")) or is_hub_file(source)


def is_hub_file(source: str) -> bool:
    """Whether `source` reads as a file on the hub: owner, name, and a path that ends in .gguf."""
    return source.startswith(HUB) or (
        source.endswith(".gguf") and source.count("/") >= 2 and not source.startswith((".", "/"))
    )


def _on_hub(source: str, revision: str | None) -> Header:
    if not is_hub_file(source):
        raise FormatError(
            f"{source}: no such file; a file on the hub is named owner/name/file.gguf"
        )
    owner, _, rest = source.removeprefix(HUB).partition("/")
    name, _, file = rest.partition("/")
    name, _, pinned = name.partition("@")
    revision = pinned or revision
    repository = f"{owner}/{name}"
    from huggingface_hub import constants, get_token, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not file:
        raise FormatError(f"{source}: {_choice(repository, revision)}")
    try:
        cached = try_to_load_from_cache(repository, file, revision=revision)
    except HFValidationError as error:
        raise FormatError(f"{source}: {error}") from None
    if isinstance(cached, str):
        gguf, size = read_local_header(Path(cached))
        return Header(source, Path(file).name, gguf, size)
    if constants.is_offline_mode():
        raise FormatError(
            f"{source}: not in the hub's cache, and HF_HUB_OFFLINE forbids to ask: download it "
            "first, or unset HF_HUB_OFFLINE"
        )
    url = hf_hub_url(repository, file, revision=revision)
    token = get_token()
    return _remote(source, url, {"authorization": f"Bearer {token}"} if token else {})


def _choice(repository: str, revision: str | None) -> str:
    """What to name, when only a repository was named."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    files: list[str] = []
    try:
        files = [
            file
            for file in HfApi().list_repo_files(repository, revision=revision)
            if file.endswith(".gguf")
        ]
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return "name a file of this repository, as in owner/name/file.gguf"
    if not files:
        return "the repository has no GGUF file"
    return f"name one of its files: {', '.join(files)}"


def _remote(source: str, url: str, headers: dict[str, str]) -> Header:
    """Fetch the first bytes, more and more of them, until the header is whole."""
    name = url.partition("?")[0].rpartition("/")[2]
    wanted = FIRST
    held, total = b"", None
    while True:
        held, total = _first_bytes(source, url, headers, held, wanted)
        short = len(held) < wanted
        try:
            gguf = read_header(Path(name), held, len(held) if total is None and short else total)
        except HeaderCut:
            if wanted >= LIMIT:
                raise FormatError(
                    f"{source}: its header is over {LIMIT >> 20} MiB long: not a GGUF of a model"
                ) from None
            wanted *= GROWTH
            continue
        return Header(source, name, gguf, total, len(held))


def _first_bytes(
    source: str, url: str, headers: dict[str, str], held: bytes, wanted: int
) -> tuple[bytes, int | None]:
    """(the first `wanted` bytes, or the whole file if it is shorter; bytes of the file)."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    session = get_session()
    # The hub's client is httpx's, under whichever name this version of huggingface_hub has it.
    client = import_module(type(session).__module__.partition(".")[0])
    asked = {**headers, "Range": f"bytes={len(held)}-{wanted - 1}", "Accept-Encoding": "identity"}
    try:
        with session.stream("GET", url, headers=asked, timeout=30) as response:
            if response.status_code == 416:  # nothing is left after what we hold
                return held, len(held)
            if response.status_code not in (200, 206):
                raise FormatError(
                    f"{source}: the server answers {response.status_code} "
                    f"{response.reason_phrase}: check the name, and HF_TOKEN if it is private"
                )
            partial = response.status_code == 206
            pieces = [held] if partial else []
            have = len(held) if partial else 0
            for piece in response.iter_raw():
                pieces.append(piece[: wanted - have])
                have += len(pieces[-1])
                if have >= wanted:
                    break
            return b"".join(pieces), _total(response, partial)
    except (client.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EngineError(f"cannot read {source}: {reason}") from None


def _total(response: Any, partial: bool) -> int | None:
    """Bytes of the whole file, by the answer's headers."""
    if partial:
        stated = response.headers.get("content-range", "").rpartition("/")[2]
    else:
        stated = response.headers.get("content-length", "")
    return int(stated) if stated.isdigit() else None
