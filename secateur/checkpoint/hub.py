"""Where a model comes from: a folder, the Hugging Face hub, or the package itself."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from secateur.checkpoint.links import is_there
from secateur.errors import CheckpointError

GEMMULE = "gemmule"
"""The name of the small real MoE that ships with secateur."""

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
"""The files of a checkpoint that say what it is, and where its tensors are."""

_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "README.md")


def gemmule_folder() -> Path:
    """The folder of the model that ships with secateur."""
    return Path(str(resources.files("secateur") / "gemmule"))


def has_shards(folder: Path) -> bool:
    """Whether a folder holds any safetensors that belong to a checkpoint."""
    if is_there(folder / SINGLE):
        return True
    if not is_there(folder / INDEX):
        return any(folder.glob("model-*-of-*.safetensors"))
    try:
        shards = set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True  # a damaged index: opening the checkpoint says what is wrong with it
    return any(is_there(folder / str(shard)) for shard in shards)


def resolve(
    source: str | Path, revision: str | None, *, weights: bool = True
) -> tuple[Path, str | None]:
    """(folder, revision) of a local folder or a hub id.

    A hub id (`owner/name`) is fetched with huggingface_hub into its own cache, which honours
    HF_HUB_OFFLINE; the revision returned is the commit that was fetched. Without `weights` the
    shards are not fetched, but used when the cache has them. Raises CheckpointError when it is
    neither a folder nor a repository that can be had.
    """
    path = Path(source)
    if path.is_dir():
        return path, revision
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{text} is no folder, no hub id (owner/name) and not {GEMMULE!r}: check the path"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if not weights and (cached := _cached(text, revision)):
            return cached, cached.name
        left_out = [] if weights else ["*.safetensors", INDEX]
        folder = Path(
            snapshot_download(
                text, revision=revision, allow_patterns=list(_FILES), ignore_patterns=left_out
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"cannot get {text!r} from the hub: {reason}") from None
    # The cache keeps every snapshot under its commit hash.
    return folder, folder.name


def _cached(source: str, revision: str | None) -> Path | None:
    """The snapshot of a hub id in the cache, if its weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if has_shards(folder) else None
