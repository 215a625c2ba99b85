"""Checkpoints of the Hugging Face hub, of a local folder, and those that ship with the package."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Self

from kn_sweeps.mistakes import did_you_mean, shortened
from kn_sweeps.models import checkpoints
from kn_sweeps.models.loading import Model
from kn_sweeps.records.files import user_path
from kn_sweeps.records.hub import commit_of, fetched


@dataclass(frozen=True, kw_only=True)
class Pretrained(Model):
    """A checkpoint on the Hugging Face hub, or a local folder that holds one.

    Attributes:
        name: Hub id or folder.
        revision: Branch, tag or commit; null for the default branch.
    """

    name: str
    revision: str | None = None

    def pinned(self) -> Self:
        """A folder by its whole path; of a hub the commit that a branch or tag names now.

        Without a hub that is the commit of the cache.
        """
        if (folder := self._folder()) is not None:
            return replace(self, name=os.path.abspath(folder))
        with self._found():
            return replace(self, revision=commit_of(self.name, self.revision))

    def _content(self) -> str:
        """A hash of what a folder holds, or the hub's commit."""
        if (folder := self._folder()) is None:
            return str(self.pinned().revision)
        with self._found():
            return checkpoints.identity(folder)

    def fetch(self) -> Path:
        """Download it, unless it is a folder or was downloaded before."""
        if (folder := self._folder()) is None:
            folder = self._fetched(checkpoints.SMALL)
            with self._found():
                for names in checkpoints.weight_files(folder):
                    self._fetched(names)
                    if all((folder / name).is_file() for name in names):
                        break
        with self._found():
            checkpoints.files(folder)
        return folder

    def config_file(self) -> Path:
        """The folder's, or the hub's, which is downloaded alone."""
        if (folder := self._folder()) is None:
            return self._fetched([checkpoints.CONFIG]) / checkpoints.CONFIG
        with self._found():
            checkpoints.files(folder)
        return folder / checkpoints.CONFIG

    def _fetched(self, patterns: Sequence[str]) -> Path:
        commit = str(self.pinned().revision)
        with self._found():
            return fetched(self.name, commit, patterns)

    def _folder(self) -> Path | None:
        folder = user_path(self.name)
        if folder.is_dir():
            return folder
        if len(folder.parts) > 2 or re.match(r"[./~]", self.name) or self.name.endswith("/"):
            what = "is no folder" if folder.exists() else "does not exist"
            raise ValueError(f"model.name={self.name}: it {what}{_near(folder)}")
        return None

    @contextmanager
    def _found(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise _not_found(self.name, error) from error


@dataclass(frozen=True, kw_only=True)
class Bundled(Model):
    """A tiny model whose weights ship with the package (trained by `tiny.train`)."""

    def _content(self) -> str:
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


def label_of(name: str) -> str:
    """What a checkpoint is called: the last part of its folder's path or hub id."""
    return os.path.basename(os.path.abspath(user_path(name)))


def layers_of(name: str) -> int | None:
    """The number of blocks that a folder's config tells; None for a hub's, or where it does not.

    Whatever is wrong with the folder is told when it is looked for.
    """
    with suppress(ValueError):
        return checkpoints.describe(user_path(name) / "config.json").layers
    return None


def _near(folder: Path) -> str:
    """The checkpoint beside a folder that does not exist which is named most like it."""
    beside = [path.parent.name for path in folder.parent.glob("*/config.json")]
    found = did_you_mean(folder.name, beside)
    if not found and beside:
        return f"; the checkpoints in {folder.parent} are {shortened(', '.join(sorted(beside)))}"
    return found


def _not_found(name: str, error: ValueError) -> ValueError:
    if Path(name).is_dir():
        return ValueError(f"model {name!r} could not be loaded; tried that folder: {error}")
    # An unreachable hub stays one: a dry run goes on without it.
    return type(error)(
        f"model {name!r} could not be loaded: it is no folder here, and {error}. Without a hub, "
        "download it elsewhere (config.json, tokenizer.json, model.safetensors) and point to it "
        f"with model.name=/path/to/folder{_near(Path(name))}"
    )
