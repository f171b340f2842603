"""Where a model comes from: a folder, the Hugging Face hub, or the package itself."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from importlib import resources
from pathlib import Path
from typing import Any

from secateur.checkpoint.companion_files import PATTERNS
from secateur.checkpoint.links import is_there
from secateur.errors import CheckpointError
from secateur.system.interruption import GO_ON, explained
from secateur.system.sizes import show_count
from secateur.system.text_files import read_json

GEMMULE = "gemmule"
"""The name of the small real MoE that ships with secateur."""

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
"""The files of a checkpoint that say what it is, and where its tensors are."""

_SMALL = (CONFIG, INDEX, *PATTERNS, "README.md", "manifest.json")
"""What is fetched of a repository before its weights; the last two say where the model comes from.
The `*` of these patterns crosses folders: hence _OTHERS."""
_OTHERS = ("original/*", "onnx/*", "gguf/*")
"""Other forms of the same model that publishers put into its repository."""


def gemmule_folder() -> Path:
    """The folder of the model that ships with secateur."""
    return Path(str(resources.files("secateur") / "gemmule"))


def has_shards(folder: Path) -> bool:
    """Whether a folder holds any safetensors that belong to a checkpoint."""
    if is_there(folder / SINGLE):
        return True
    if not is_there(folder / INDEX):
        return any(folder.glob("model-*-of-*.safetensors"))
    shards = _named_in_index(folder)
    # A damaged index: opening the checkpoint says what is wrong with it.
    return not shards or any(is_there(folder / shard) for shard in shards)


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a hub id, owner/name."""
    return text.count("/") == 1 and not text.startswith((".", "/", "~"))


def resolve(
    source: str | Path, revision: str | None, *, weights: bool = True
) -> tuple[Path, str | None]:
    """(folder, revision) of a local folder, which has none, or a hub id.

    A hub id (`owner/name`) is fetched with huggingface_hub into its own cache, which honours
    HF_HUB_OFFLINE; the revision returned is the commit that was fetched. First come the small
    files, then the shards that the index names, and nothing else. Without `weights` no shards are
    fetched, but used when the cache has them. Raises CheckpointError when it is neither a folder
    nor a repository that can be had, and for a revision of a folder.
    """
    path = Path(source)
    if path.is_dir():
        refuse_revision(source, revision)
        return path, None
    text = str(source)
    if not is_hub_id(text):
        raise CheckpointError(
            f"{text} does not exist, and is no hub id (owner/name) and not {GEMMULE!r}: check the "
            "path"
        )
    try:
        if not weights and (cached := _cached(text, revision)):
            return cached, cached.name
        folder = _download(text, revision, _SMALL)
        if weights:
            shards = _shards_to_fetch(folder, text)
            # Commits never change, so this asks for the very files that the index is about.
            folder = _download(text, folder.name, [escape(shard) for shard in shards])
    except CheckpointError:
        raise
    except Exception as error:  # whatever the hub's client and its libraries raise
        raise _unreachable(text, error) from None
    # The cache keeps every snapshot under its commit hash.
    return folder, folder.name


def refuse_revision(source: str | Path, revision: str | None) -> None:
    """Raise CheckpointError where a revision is asked of what is on this machine."""
    if revision is not None:
        raise CheckpointError(
            f"revision {revision}: {source} is on this machine, where there is one state of it: "
            "leave the revision out, or name the hub id (owner/name)"
        )


def _download(source: str, revision: str | None, patterns: Sequence[str], **options: Any) -> Path:
    """The folder of the snapshot that has the files of these patterns."""
    from huggingface_hub import snapshot_download

    with explained(lambda: f"what was fetched of {source} is kept in the hub's cache: {GO_ON}"):
        folder = snapshot_download(
            source,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(_OTHERS),
            **options,
        )
    return Path(folder)


def _cached(source: str, revision: str | None) -> Path | None:
    """The snapshot of a hub id in the cache, if its weights are there."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _download(source, revision, _SMALL, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return folder if has_shards(folder) else None


def _shards_to_fetch(folder: Path, source: str) -> Sequence[str]:
    """The names of a repository's files of weights, of which `folder` has the small files."""
    if not is_there(folder / INDEX):
        return [SINGLE]
    shards = _named_in_index(folder)
    if SINGLE not in shards and _is_on_the_hub(source, folder.name, SINGLE):
        several = show_count(len(shards), "shard")
        raise CheckpointError(
            f"{source} has two sets of weights, {SINGLE} and the {several} of {INDEX}, and readers "
            "disagree which one counts: download the one that is meant into a folder"
        )
    return sorted(shards)


def _named_in_index(folder: Path) -> set[str]:
    """The shards that an index names; none where it is damaged, which is said when it is opened."""
    try:
        index = read_json(folder / INDEX, "an index", CheckpointError)
        shards = {str(shard) for shard in index["weight_map"].values()}
        # Names of other folders, too, are said when it is opened.
        plain = all(Path(shard).name == shard and "\0" not in shard for shard in shards)
        return shards if plain else set()
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return set()


def _is_on_the_hub(source: str, revision: str, name: str) -> bool:
    """Whether a repository has a file; False where the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return HfApi().file_exists(source, name, revision=revision)
    except Exception:  # whatever the hub's client and its libraries raise
        return False


def _unreachable(source: str, error: Exception) -> CheckpointError:
    """The error for a repository that could not be had: why, and what to do."""
    from huggingface_hub import errors

    instead = "or name a local folder"
    if isinstance(error, errors.HFValidationError):
        reason = "is no hub id: owner/name of letters, digits, '-', '_' and '.' was expected"
    elif isinstance(error, errors.GatedRepoError):
        reason = "is gated: accept its terms on its page and log in (hf auth login)"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = f"has no such revision on the hub: check --revision, {instead}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = f"is not on the hub, or private: check the name, log in (hf auth login), {instead}"
    elif isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):
        reason = (
            "is not in the hub's cache as a whole, and the hub cannot be reached: connect (without "
            f"HF_HUB_OFFLINE), {instead}"
        )
    else:
        cause = getattr(error, "strerror", None) or type(error).__name__
        reason = f"cannot be had from the hub ({cause}): try again, {instead}"
    return CheckpointError(f"{source} {reason}")
