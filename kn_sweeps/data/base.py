"""What a dataset is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from kn_sweeps.cases import Case, LeftOut, LMKind
from kn_sweeps.data.sources import Source, SourceName, resolve_source


@dataclass(frozen=True)
class Loaded:
    """Cases and where they come from.

    Attributes:
        cases: In the order they are run.
        left_out: What could not be used, a relation or paradigm, by reason.
        source: `bundled`, `hub` or `local`.
    """

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...]
    source: SourceName


USUAL_LIMIT, USUAL_ANSWER_TOKENS = 5, None


@runtime_checkable
class Dataset(Protocol):
    """A source of cases. A frozen dataclass whose fields are its options.

    Its class may have `usual_limit`, how many cases of a source are run unless a limit is said
    (None for all), and `usual_answer_tokens`, how far a model answers freely unless that is said
    (None for not at all).
    """

    def pinned(self) -> Self:
        """The same data, named so that they cannot become others while a run waits.

        Raises:
            UnreachableError: If neither a hub nor this machine can tell.
            ValueError: If there are no such data.
        """

    def fingerprint(self) -> str:
        """Hash of the data files, or of their commit: whether two runs read the same data."""

    def load(self, kind: LMKind, *, seed: int, limit: int | None, editable: bool) -> Loaded:
        """Make the cases.

        Args:
            kind: Who is asked: a causal LM cannot be asked everything a masked one can.
            seed: Splits phrasings into seen and held out, orders cases and draws new answers.
            limit: Cases per relation or paradigm; None for all.
            editable: Whether every case must have an edit; otherwise cases that can only be
                scored are included.

        Raises:
            ValueError: If a name is unknown, a file is missing or malformed, or nothing is left.
        """


@dataclass(frozen=True, kw_only=True)
class Official(ABC):
    """Data that ship with the package in a small invented form, and are published elsewhere.

    Attributes:
        source: `bundled`, `hub` (where they are published) or `local`.
        root: Folder with the official files; it wins over `source`.
        revision: Which state of what is published: a branch, tag or commit; null for the latest.
            Runs keep the commit.
    """

    folder: ClassVar[str]
    """What its folder is called: in the package, and below KN_SWEEPS_DATA."""

    source: str = "bundled"
    root: str | None = None
    revision: str | None = None

    @abstractmethod
    def commit(self) -> str:
        """The commit of what is published that `revision` names now."""

    def resolved(self) -> Source:
        """Where the files are read from.

        Raises:
            ValueError: If `source` is unknown, a folder does not exist, or the commit cannot be
                told.
        """
        return resolve_source(self.folder, self.source, self.root, self.commit)

    def pinned(self) -> Self:
        """The same data; what is published is named by its commit."""
        return replace(self, revision=self.resolved().commit or self.revision)

    def fingerprint(self) -> str:
        """Hash of the files, or of their commit."""
        return self.resolved().fingerprint()


def limit_for(dataset: str) -> int | None:
    """How many cases of a source are run unless it is said, by a data set's `_target_`."""
    return _usual(dataset, "usual_limit", USUAL_LIMIT)


def answer_tokens_for(dataset: str) -> int | None:
    """How far a model answers freely unless it is said, by a data set's `_target_`."""
    return _usual(dataset, "usual_answer_tokens", USUAL_ANSWER_TOKENS)


def _usual(dataset: str, name: str, otherwise: int | None) -> int | None:
    module, _, cls = dataset.rpartition(".")
    try:
        found: Any = getattr(import_module(module), cls)
    except (ImportError, AttributeError, ValueError):
        return otherwise  # what cannot be imported is told when it is built
    value: int | None = getattr(found, name, otherwise)
    return value


def left_out(
    source: str, used: int, reasons: Counter[str], notes: Mapping[str, int] | None = None
) -> LeftOut:
    """A record of what was left out; reasons and notes that did not occur are dropped."""

    def occurred(counts: Mapping[str, int]) -> dict[str, int]:
        return {what: n for what, n in counts.items() if n}

    return LeftOut(source, used, occurred(reasons), occurred(notes or {}))


def check_counts(**counts: int) -> None:
    """Raise ValueError for a negative number of probes."""
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name} must be 0 or more, got {count}")


def check_share(seen_share: float) -> None:
    """Raise ValueError unless something can be seen; with 1, nothing is held out."""
    if not 0 < seen_share <= 1:
        raise ValueError(f"seen_share must lie between 0 and 1, got {seen_share}")
