"""Perplexity: whether an edited model is still as good a model of running text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import Quantity

NAME = "perplexity"
"""The measurement whose records are read."""


_PERPLEXITY = Quantity(
    name=NAME,
    meaning="perplexity of running text, edited model",
    unit="perplexity",
    counts="edits",
    better="lower",
)
_BEFORE = Quantity(
    name="perplexity_before",
    meaning="perplexity of running text, unedited model",
    unit="perplexity",
    counts="edits",
)
_CHANGE = Quantity(
    name="loss_change",
    meaning="change of the mean negative log-probability of running text",
    unit="nats a token",
    counts="edits",
    better="lower",
)


@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """`perplexity` and `perplexity_before`, and `loss_change`, the mean of the logs' difference.

    One edit that breaks the model can carry a mean of perplexities; the change of the loss, in
    nats a token, has no such tail. In a sequence both are given at checkpoints as well.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        *(_PERPLEXITY, _BEFORE, _CHANGE),
        *(
            one.under("after_<edits>", "once <edits> edits of the sequence are made")
            for one in (_PERPLEXITY, _CHANGE)
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Average over the edits that were measured."""
        records = results.measurements.get(NAME)
        if records is None or records.empty:
            return {}
        edits = records.drop_duplicates("edit")
        found = {
            **self._both(edits),
            _BEFORE.name: self._mean(edits["before"], edits["edit"]),
        }
        for number, then in results.records_at_checkpoints(NAME).items():
            found |= {f"{name}_after_{number}": one for name, one in self._both(then).items()}
        return found

    def _both(self, edits: pd.DataFrame) -> dict[str, Estimate]:
        change = np.log(edits["after"]) - np.log(edits["before"])
        numbers = {_PERPLEXITY.name: edits["after"], _CHANGE.name: change}
        return {name: self._mean(values, edits["edit"]) for name, values in numbers.items()}
