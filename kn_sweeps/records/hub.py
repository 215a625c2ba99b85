"""Repositories of the Hugging Face hub: their commits, their files here, and what refuses them.

What was fetched once is there without the hub (`HF_HUB_OFFLINE=1`), and what is asked for is
always a commit: a branch that moves while runs wait changes none of them.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

# The hub's client takes a third of a second: what reads no hub does not import it.

log = logging.getLogger(__name__)

RepositoryKind = Literal["model", "dataset"]
_COMMIT = re.compile("[0-9a-f]{40}")
_WORTH_SAYING = 20 * 1024**2
"""Bytes from which a download is announced with its size."""
_PATIENCE_S = 5.0
"""So long a hub may take for its first word."""


class UnreachableError(ValueError):
    """A hub cannot be asked, and nothing on this machine says what it would answer."""


def commit_of(name: str, revision: str | None, kind: RepositoryKind = "model") -> str:
    """The commit that a branch or tag names now: the hub's, or without one the cache's.

    Args:
        name: The repository, `OWNER/NAME`.
        revision: Branch, tag or commit; None for the default branch.
        kind: What it holds.

    Raises:
        UnreachableError: If neither can tell.
        ValueError: If there is no such repository or revision, or it must not be read.
    """
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import resolve_revision
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found = resolve_revision(
            name, revision=revision, repo_type=kind, local_files_only=not _answers()
        )
    except RevisionResolutionError as error:
        raise UnreachableError(_refusal(name, kind, revision, error)) from error
    except Exception as error:  # whatever a hub makes its client raise
        raise ValueError(_refusal(name, kind, revision, error)) from error
    return found.resolved


def fetched(
    name: str, commit: str, patterns: Sequence[str], kind: RepositoryKind = "model"
) -> Path:
    """The folder with some files of a repository at a commit, downloaded if they are not here.

    Args:
        name: The repository.
        commit: Of it.
        patterns: Which files, as `fnmatch` has them.
        kind: What it holds.

    Raises:
        ValueError: If they cannot be had.
    """
    from huggingface_hub import constants

    return _fetched(name, commit, tuple(patterns), kind, constants.HF_HUB_CACHE)


@functools.cache
def _fetched(
    name: str, commit: str, patterns: tuple[str, ...], kind: RepositoryKind, cache: str
) -> Path:
    """`fetched`, asked once a process: a commit does not change, and a hub counts requests."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # one line of ours instead of a bar a file
    wanted = list(patterns)
    try:
        if _answers():
            with suppress(Exception):  # without a hub, what is cached may be all there is to fetch
                _announce(name, commit, wanted, kind)
        return Path(
            snapshot_download(
                name,
                revision=commit,
                repo_type=kind,
                allow_patterns=wanted,
                cache_dir=cache,
                local_files_only=not _answers(),
            )
        )
    except Exception as error:  # as above
        raise ValueError(_refusal(name, kind, commit, error)) from error


def _answers() -> bool:
    """Whether there is a hub to ask."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _says_something(constants.ENDPOINT)


@functools.cache
def _says_something(hub: str) -> bool:
    """Whether a hub answers within some seconds, asked once a process.

    Its client would wait without end for one behind a firewall, though all is in the cache.
    """
    from huggingface_hub import get_session

    try:
        get_session().head(hub, timeout=_PATIENCE_S)
    except Exception as error:  # whatever a network makes the client raise
        why = _line(error) or type(error).__name__
        log.warning("the hub (%s) does not answer (%s): the cache has to do", hub, why)
        return False
    return True


def _announce(name: str, commit: str, patterns: list[str], kind: RepositoryKind) -> None:
    """Say how much a large download takes before it begins."""
    from huggingface_hub import snapshot_download

    files = snapshot_download(
        name, revision=commit, repo_type=kind, allow_patterns=patterns, dry_run=True
    )
    missing = [one for one in files if one.will_download]
    size = sum(one.file_size or 0 for one in missing)
    if size >= _WORTH_SAYING:
        log.info("downloading %s: %d files, %s", name, len(missing), in_bytes(size))


def in_bytes(size: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _refusal(name: str, kind: RepositoryKind, revision: str | None, error: Exception) -> str:
    """Why a repository cannot be read, and what to do about it."""
    from huggingface_hub import constants, errors

    what = f"{kind} {name!r}"
    where = f"the hub ({constants.ENDPOINT})"
    causes = _chain(error)
    if any(isinstance(one, errors.GatedRepoError) for one in causes):
        return (
            f"{what} is gated: accept its conditions at {constants.ENDPOINT}/{_page(name, kind)} "
            f"and {_token()}"
        )
    if any(isinstance(one, errors.RevisionNotFoundError) for one in causes):
        return f"{what} has no revision {revision!r} on {where}; name a branch, tag or commit of it"
    if any(isinstance(one, errors.RepositoryNotFoundError) for one in causes):
        return (
            f"{where} has no {what}, or only for those who may read it: check the name, or "
            f"{_token()}"
        )
    if any(isinstance(one, errors.HFValidationError) for one in causes):
        return f"{what} is neither a folder here nor a name that {where} could have (OWNER/NAME)"
    if any(isinstance(one, errors.HfHubHTTPError) and _status(one) in (401, 403) for one in causes):
        return f"{where} does not let you read {what}: {_token()}"
    reason = next((line for one in causes if (line := _line(one))), type(error).__name__)
    if not _answers():
        why = "HF_HUB_OFFLINE=1 asks no hub" if constants.HF_HUB_OFFLINE else f"{where} is silent"
        return f"{what} is not in this machine's cache, and {why} ({reason})"
    return f"{what} cannot be fetched from {where}: {reason}"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _status(error: BaseException) -> object:
    return getattr(getattr(error, "response", None), "status_code", None)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _page(name: str, kind: RepositoryKind) -> str:
    return f"datasets/{name}" if kind == "dataset" else name


def _token() -> str:
    if os.environ.get("HF_TOKEN"):
        return "set HF_TOKEN to the token of an account that may read it; this one's may not"
    return "set HF_TOKEN to your token, or log in with `hf auth login`"
