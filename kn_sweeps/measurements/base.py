"""What a measurement is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pandas as pd

from kn_sweeps.cases import Case
from kn_sweeps.metrics.answers import answered
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row

if TYPE_CHECKING:
    from kn_sweeps.models.language_model import LanguageModel

Finding = Mapping[str, Any]
"""What was measured on a case, or a part of it: `case`, `source`, and the measurement's own."""

Measure = Callable[[Sequence[Case], Plan, Sequence[Row]], Sequence[Finding]]
"""Measures some cases, given their edits and their rows."""


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


def known(rows: Sequence[Row]) -> set[str]:
    """The cases whose old answer the unedited model gives: greedily, or by preference."""
    edits = pd.DataFrame([row for row in rows if (row["kind"], row["after"]) == ("edit", "edit")])
    if edits.empty:
        return set()
    return {str(case) for case in edits["case"][answered(edits, "pre", "old", "exact") == 1]}
