"""What a dataset is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kn_sweeps.cases import Case, LeftOut, LMKind
from kn_sweeps.data.sources import SourceName


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


@runtime_checkable
class Dataset(Protocol):
    """A source of cases. A frozen dataclass whose fields are its options."""

    def fingerprint(self) -> str:
        """Hash of the data files, or `hub`: it says whether two runs read the same data."""

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


def left_out(
    source: str, used: int, reasons: Counter[str], notes: Mapping[str, int] | None = None
) -> LeftOut:
    """A record of what was left out; reasons that did not occur are dropped."""
    return LeftOut(source, used, {reason: n for reason, n in reasons.items() if n}, notes or {})


def check_counts(**counts: int) -> None:
    """Raise ValueError for a negative number of probes."""
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name} must be 0 or more, got {count}")


def check_share(seen_share: float) -> None:
    """Raise ValueError unless something can be seen and something held out."""
    if not 0 < seen_share < 1:
        raise ValueError(f"seen_share must lie between 0 and 1, got {seen_share}")
