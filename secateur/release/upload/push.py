"""Sending a bundle to the hub: resumable, nothing twice, checked afterwards.

Commits are small: weights by batches of `BATCH` bytes, then everything else with the card in one.
A file whose hash the repository has is not sent, so that the same command after an interruption
goes on where it stopped; of a file that was cut, the hub's client sends the parts that are missing.
The token comes from the environment or the hub's login, and is in no message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.checkpoint.model_card import MODEL_CARD
from secateur.errors import EngineError, InputError, OutputError, RequestError
from secateur.release.upload.bundle import Bundle, UploadFile
from secateur.release.upload.remote import (
    RemoteFile,
    has_card_by_hand,
    list_remote,
    missing,
)
from secateur.system.progress import Counter, Progress, no_progress
from secateur.system.sizes import show_bytes, show_count

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BATCH = 8_000_000_000
"""Bytes of weights in a commit at most, unless one file has more: what an interruption costs."""

LONG = 1_000_000_000
"""Bytes from which a file is named before it is sent: the hub's client has no public way to tell a
program how much of it is there, so that the progress counts it when all of it is."""

_LOGIN = "log in (hf auth login), or set HF_TOKEN"
_NEW_TOKEN = "make one with the right to write on huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Target:
    """Where a bundle goes, and the command that goes on after an interruption. A repository that
    is there stays as visible as it is, and a card there that a person wrote stays but for
    `force`."""

    repository: str
    private: bool = True
    command: str = "the same command"
    force: bool = False


@dataclass(frozen=True)
class Pushed:
    """What was done: the address, the last commit, and how many files were sent and were there."""

    address: str
    commit: str | None
    sent: int
    there: int
    others: tuple[str, ...]


def check_login(target: Target) -> str:
    """The account that would push. Raises InputError without a login, or where the hub cannot be
    asked; RequestError for a name that is no repository's."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(target.repository)
        is_id = target.repository.count("/") == 1
    except HFValidationError:
        is_id = False
    if not is_id:
        raise RequestError(f"push {target.repository!r}: expected a repository (owner/name)")
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise InputError(f"push {target.repository}: there is no login on this machine: {_LOGIN}")
    try:
        account = HfApi().whoami()
        name = str(account["name"])
    except Exception as error:  # whatever the hub's client and its libraries raise
        raise _explain(error, target, "the hub did not say who you are") from None
    _check_rights(account, name, target)
    return name


def _check_rights(account: Mapping[str, Any], name: str, target: Target) -> None:
    """Raise InputError for a token of which the hub says that it cannot push there. What a token of
    single rights (or of a browser's login) may do is seen when it pushes."""
    auth = account.get("auth") or {}
    role = (auth.get("accessToken") or {}).get("role")
    if role == "read":
        raise InputError(
            f"push {target.repository}: the token of {name} may only read: {_NEW_TOKEN}"
        )
    owners = [name, *(str(one.get("name")) for one in account.get("orgs") or ())]
    owner = target.repository.partition("/")[0]
    if role == "write" and owner.lower() not in map(str.lower, owners):
        raise InputError(
            f"push {target.repository}: {owner} is neither the account that is logged in nor one "
            f"of its organizations ({', '.join(owners)}): check the owner's name, or log in as it"
        )


def push(
    bundle: Bundle,
    target: Target,
    message: str,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Pushed:
    """Send what the repository lacks, and compare what is there then with the bundle.

    Makes the repository where there is none. Raises OutputError where the repository has a card
    that a person wrote (but for `force`), InputError for a login without the right,
    EngineError where the hub or the network fails, or has other bytes afterwards.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    sent: list[UploadFile] = []
    try:
        api.create_repo(target.repository, private=target.private, exist_ok=True)
        there = list_remote(api, target.repository)
        lacking = missing(bundle.files, there)
        if any(file.path == MODEL_CARD for file in lacking):
            _keep_card_by_hand(api, target, there)
        _tell_visibility(api, target, on_message)
        size = show_bytes(sum(file.size for file in lacking))
        on_message(f"sending {len(lacking)} of {show_count(len(bundle.files), 'file')}, {size}")
        count = Counter(progress, "push", sum(file.size for file in lacking), "bytes")
        for batch in _batches(lacking):
            _commit(api, target.repository, batch, message, count, on_message)
            sent += batch
        remote = list_remote(api, target.repository)
    except OutputError:
        raise
    except KeyboardInterrupt as error:
        error.add_note(_how_to_go_on(bundle, sent, target))
        raise
    except Exception as error:  # whatever the hub's client and its libraries raise
        raise _explain(error, target, _how_to_go_on(bundle, sent, target)) from None
    if wrong := missing(bundle.files, remote):
        raise EngineError(
            f"{target.repository} does not have {wrong[0].path} with sha256 {wrong[0].sha256[:12]}"
            f"... after the push ({len(wrong)} such files): {target.command} sends them again"
        )
    others = sorted(set(remote) - {file.path for file in bundle.files} - {".gitattributes"})
    commit = api.repo_info(target.repository).sha
    address = f"{api.endpoint}/{target.repository}"
    return Pushed(address, commit, len(sent), len(bundle.files) - len(sent), tuple(others))


def _batches(files: Sequence[UploadFile]) -> Iterator[list[UploadFile]]:
    """Weights by at most BATCH bytes, then all the rest: the card comes with the last commit."""
    held: list[UploadFile] = []
    weights = [file for file in files if file.kind == "LFS"]
    for file in weights:
        if held and sum(one.size for one in held) + file.size > BATCH:
            yield held
            held = []
        held.append(file)
    if held:
        yield held
    if rest := [file for file in files if file.kind != "LFS"]:
        yield rest


def _commit(
    api: HfApi,
    repository: str,
    batch: Sequence[UploadFile],
    message: str,
    count: Counter,
    on_message: Callable[[str], None],
) -> None:
    """One commit; of weights each file is sent, and counted, before it."""
    from huggingface_hub import CommitOperationAdd

    additions = [
        CommitOperationAdd(file.path, file.source if file.content is None else file.content)
        for file in batch
    ]
    for file, addition in zip(batch, additions, strict=True):
        if file.kind == "LFS":
            if file.size >= LONG:
                on_message(f"sending {file.path}, {show_bytes(file.size)}")
            api.preupload_lfs_files(repository, [addition])
            count(file.size)
    names = batch[0].path if len(batch) == 1 else f"{batch[0].path} and {len(batch) - 1} more"
    api.create_commit(
        repository,
        additions,
        commit_message=f"{message}: {names}",
    )
    count(sum(file.size for file in batch if file.kind != "LFS"))


def _keep_card_by_hand(api: HfApi, target: Target, there: Mapping[str, RemoteFile]) -> None:
    """Raise OutputError where a card would be replaced that a person wrote or changed there."""
    if not target.force and has_card_by_hand(api, target.repository, there):
        raise OutputError(
            f"push {target.repository}: its {MODEL_CARD} was written or changed by hand: put words "
            "of your own into a file and name it with about (--about), and let --force replace "
            "this one"
        )


def _tell_visibility(api: HfApi, target: Target, on_message: Callable[[str], None]) -> None:
    private = bool(api.repo_info(target.repository).private)
    if private != target.private:
        seen, wanted = ("private", "public") if private else ("public", "private")
        on_message(
            f"{target.repository} is there already, and {seen}: it stays so (its settings on the "
            f"hub make it {wanted})"
        )


def _how_to_go_on(bundle: Bundle, sent: Sequence[UploadFile], target: Target) -> str:
    return (
        f"{len(sent)} of {show_count(len(bundle.files), 'file')} committed in this run: "
        f"{target.command} goes on, and sends nothing twice"
    )


def _explain(error: Exception, target: Target, then: str) -> EngineError | InputError:
    """The error for a push that failed: why, and what to do; never with a token."""
    from huggingface_hub import errors

    while isinstance(error.__cause__, Exception) and not isinstance(error, errors.HfHubHTTPError):
        error = error.__cause__  # the client wraps what happened to one file of several
    name, status = target.repository, getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return InputError(f"push {name}: HF_HUB_OFFLINE is set: unset it")
    if status == 401:
        return InputError(f"push {name}: the hub does not accept the token: {_LOGIN}")
    if status in (403, 404):
        return InputError(
            f"push {name}: the token may not write there: {_NEW_TOKEN}, and check the owner's "
            f"name; {then}"
        )
    if status == 400 or isinstance(error, ValueError):
        said = getattr(error, "server_message", None) or str(error)
        reason = " ".join(str(said).split())
        return InputError(f"push {name}: the hub refuses what was sent ({reason:.200}); {then}")
    cause = f"status {status}" if status else type(error).__name__
    return EngineError(f"push {name}: the hub or the network failed ({cause}); {then}")
