"""What lies in a repository on the hub, by hashes: to send nothing twice, and to check a push."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from secateur.checkpoint.model_card import MODEL_CARD
from secateur.release.card.card import LEDGER
from secateur.release.upload.bundle import UploadFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi


_FRONT_MATTER = re.compile(rb"\A---\s*\n.*?^---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub: its size, git's hash of it, and of LFS its sha256."""

    size: int
    git_oid: str
    sha256: str | None

    def holds(self, file: UploadFile) -> bool:
        """Whether it has the bytes of a file of ours."""
        if self.size != file.size:
            return False
        return self.sha256 == file.sha256 if self.sha256 else self.git_oid == git_oid(file)


def list_remote(api: HfApi, repository: str) -> Mapping[str, RemoteFile]:
    """{path: file} of all files on the main branch. Raises what the hub's client raises."""
    from huggingface_hub.hf_api import RepoFile

    return {
        entry.path: RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
        for entry in api.list_repo_tree(repository, recursive=True)
        if isinstance(entry, RepoFile)
    }


def missing(files: Iterable[UploadFile], remote: Mapping[str, RemoteFile]) -> list[UploadFile]:
    """The files that the repository does not have with these bytes, in their order."""
    return [
        file for file in files if (there := remote.get(file.path)) is None or not there.holds(file)
    ]


def has_card_by_hand(api: HfApi, repository: str, remote: Mapping[str, RemoteFile]) -> bool:
    """Whether the repository's card is a person's: it says more than front matter, and is not what
    the ledger of a card of ours beside it was written with. Raises what the hub's client raises."""
    if MODEL_CARD not in remote:
        return False
    with TemporaryDirectory() as folder:

        def fetch(name: str) -> bytes:
            return Path(api.hf_hub_download(repository, name, local_dir=folder)).read_bytes()

        card = fetch(MODEL_CARD)
        if not _FRONT_MATTER.sub(b"", card, count=1).strip():
            return False
        digest = hashlib.sha256(card).hexdigest().encode()
        return LEDGER not in remote or digest not in fetch(LEDGER)


def git_oid(file: UploadFile) -> str:
    """The hash by which git names a file: sha1 of a header and the content."""
    content = file.content if file.content is not None else file.source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
