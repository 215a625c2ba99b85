"""What a measurement is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kn_sweeps.cases import Case
from kn_sweeps.plans import Plan

if TYPE_CHECKING:
    from kn_sweeps.models.language_model import LanguageModel

Record = dict[str, Any]

Measure = Callable[[Sequence[Case], Plan, Sequence[Mapping[str, Any]]], list[Record]]
"""Measures some cases, given their edits and their rows. Every record has `case` and `source`."""


@runtime_checkable
class Measurement(Protocol):
    """Something measured on the unedited model, case by case, beside the probes' answers.

    A measurement is a frozen dataclass whose fields are its settings; its module and its YAML share
    a name, under which a run keeps its records (`measurements/NAME.parquet`).
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


def known(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """The cases whose old answer the unedited model gives: greedily, or by preference."""
    return {
        str(row["case"])
        for row in rows
        if row["kind"] == "edit"
        and row["after"] == "edit"
        and (row["pre_margin"] < 0 if row["task"] == "syntax" else row["pre_exact_old"] == 1)
    }
