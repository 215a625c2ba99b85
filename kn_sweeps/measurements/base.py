"""What a measurement is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kn_sweeps.cases import Case
from kn_sweeps.metrics.answers import answered
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counted
from kn_sweeps.row import Row, rows_frame

if TYPE_CHECKING:
    from kn_sweeps.models.language_model import LanguageModel

Finding = Mapping[str, Any]
"""What was measured on a case, or a part of it: `case`, `source`, and the measurement's own."""

Measure = Callable[[Sequence[Case], Plan, Sequence[Row]], Sequence[Finding]]
"""Measures some cases, given their edits and their rows."""


_TOGETHER = 32
"""Cases attributed together: enough to fill passes, few enough for all their scores to be held."""


@runtime_checkable
class Measurement(Protocol):
    """Something measured on the unedited model, case by case, beside the probes' answers.

    A measurement is a frozen dataclass whose fields are its settings; its module and its YAML share
    a name, under which a run keeps its findings (`measurements/NAME.parquet`).
    """

    def begin(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Measure:
        """Do what depends on all cases, and give what measures some of them.

        Args:
            lm: The model, unchanged.
            cases: All cases of the dataset, those of other shards too.
            seed: All randomness comes from it and from what it is drawn for.

        Raises:
            ValueError: If nothing can be measured.
        """


def batches(
    cases: Sequence[Case], rows: Sequence[Row], *, only_known: bool
) -> Iterator[list[Case]]:
    """The cases that have a critical word to ask for, some at a time.

    Args:
        cases: Any.
        rows: Theirs.
        only_known: Whether to leave out those whose answer the unedited model does not give.
    """
    wanted = known(rows) if only_known else {case.id for case in cases}
    some = [case for case in cases if case.id in wanted and case.edit is not None]
    starts = range(0, len(some), _TOGETHER)
    yield from counted([some[n : n + _TOGETHER] for n in starts], "batch of cases")


def known(rows: Sequence[Row]) -> set[str]:
    """The cases whose old answer the unedited model gives: greedily, or by preference."""
    edits = [row for row in rows if (row["kind"], row["after"]) == ("edit", "edit")]
    said = answered(rows_frame(edits), "pre", "old", "exact")
    return {row["case"] for row, one in zip(edits, said, strict=True) if one == 1}
