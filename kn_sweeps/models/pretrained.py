"""Checkpoints of the Hugging Face hub, of a local folder, and those that ship with the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Self

from kn_sweeps.models import checkpoints
from kn_sweeps.models.loading import Model, Source


class UnreachableError(ValueError):
    """A hub cannot be asked, and nothing on this machine says what it would answer."""


@dataclass(frozen=True, kw_only=True)
class Pretrained(Model):
    """A checkpoint on the Hugging Face hub, or a local folder that holds one.

    Attributes:
        name: Hub id or folder.
        revision: Branch, tag or commit; null for the default branch.
    """

    name: str
    revision: str | None = None
    data_source: Source = "hub"

    def pinned(self) -> Self:
        """With the commit that a branch or tag names now: the hub's, or without one the cache's."""
        if self._folder() or re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            return self
        from huggingface_hub import constants, resolve_revision
        from huggingface_hub.errors import RevisionResolutionError

        try:
            commit = resolve_revision(
                self.name, revision=self.revision, local_files_only=constants.HF_HUB_OFFLINE
            ).resolved
        except RevisionResolutionError as error:
            raise UnreachableError(str(_not_found(self.name, error))) from error
        except Exception as error:  # whatever a hub makes its client raise
            raise _not_found(self.name, error) from error
        return replace(self, revision=commit)

    def fingerprint(self) -> str:
        """A hash of what a folder holds, or the hub's commit."""
        if (folder := self._folder()) is None:
            return str(self.pinned().revision)
        with self._found():
            return checkpoints.identity(folder)

    def fetch(self) -> Path:
        """Download it, unless it is a folder or was downloaded before."""
        if (folder := self._folder()) is None:
            from huggingface_hub import snapshot_download

            commit = self.pinned().revision
            try:
                needed = [*checkpoints.NEEDED]
                folder = Path(snapshot_download(self.name, revision=commit, allow_patterns=needed))
            except Exception as error:  # as above
                raise _not_found(self.name, error) from error
        with self._found():
            checkpoints.files(folder)
        return folder

    def config_file(self) -> Path:
        """The folder's, or the hub's, which is downloaded alone."""
        if (folder := self._folder()) is None:
            from huggingface_hub import hf_hub_download

            try:
                commit = self.pinned().revision
                return Path(hf_hub_download(self.name, "config.json", revision=commit))
            except ValueError:
                raise
            except Exception as error:  # as above
                raise _not_found(self.name, error) from error
        with self._found():
            checkpoints.files(folder)
        return folder / "config.json"

    def _folder(self) -> Path | None:
        folder = Path(self.name)
        return folder if folder.is_dir() else None

    @contextmanager
    def _found(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise _not_found(self.name, error) from error


@dataclass(frozen=True, kw_only=True)
class Bundled(Model):
    """A tiny model whose weights ship with the package (trained by `tiny.train`)."""

    data_source: Source = "bundled"

    def fingerprint(self) -> str:
        """A hash of its files."""
        return checkpoints.identity(self.fetch())

    def fetch(self) -> Path:
        """It is there."""
        folder = Path(str(resources.files("kn_sweeps.tiny") / "weights" / self.label))
        if not folder.is_dir():
            choices = sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
            raise ValueError(
                f"model.label={self.label!r} does not ship with the package; "
                f"these do: {', '.join(choices)}"
            )
        return folder

    def config_file(self) -> Path:
        """It is there."""
        return self.fetch() / "config.json"


def _not_found(name: str, error: Exception) -> ValueError:
    reason = (str(error).strip() or "?").splitlines()[0]
    if not isinstance(error, ValueError):
        reason = f"{type(error).__name__}: {reason}"
    if Path(name).is_dir():
        return ValueError(f"model {name!r} could not be loaded; tried that folder: {reason}")
    return ValueError(
        f"model {name!r} could not be loaded; tried a local folder of that name and the hub. "
        "Without a hub, download it elsewhere (config.json, tokenizer.json, model.safetensors) "
        f"and point to it with model.name=/path/to/folder. ({reason})"
    )
