"""Where a model comes from: a folder, the Hugging Face hub, or the package itself."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from secateur.errors import CheckpointError

GEMMULE = "gemmule"
"""The name of the small real MoE that ships with secateur."""

_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "README.md")


def gemmule_folder() -> Path:
    """The folder of the model that ships with secateur."""
    return Path(str(resources.files("secateur") / "gemmule"))


def resolve(source: str | Path, revision: str | None) -> tuple[Path, str | None]:
    """(folder, revision) of a local folder or a hub id.

    A hub id (`owner/name`) is fetched with huggingface_hub into its own cache, which honours
    HF_HUB_OFFLINE; the revision returned is the commit that was fetched. Raises
    CheckpointError when it is neither a folder nor a repository that can be had.
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
        folder = Path(snapshot_download(text, revision=revision, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"cannot get {text!r} from the hub: {reason}") from None
    # The cache keeps every snapshot under its commit hash.
    return folder, folder.name
