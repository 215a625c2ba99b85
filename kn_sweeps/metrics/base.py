"""What every metric shares: the results it reads, what it says of its numbers, its intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kn_sweeps.cases import Intent, ProbeKind
from kn_sweeps.metrics.bootstrap import Bootstrap, Estimate
from kn_sweeps.metrics.quantities import Quantity
from kn_sweeps.row import rows_frame


@dataclass(frozen=True, eq=False)
class Results:
    """What one run measured.

    Attributes:
        rows: One row a probe under an edit, all of one intent.
        located: One mapping for each edit that located neurons: its `edit`, `neurons` as
            (layer, index) pairs, the threshold `tau` and the `certificates` of its prompts.
        attributions: For each source, the scores of its prompts, (prompts, layers * neurons).
        measurements: What was measured beside the rows, by name; every record has its `case`.
    """

    rows: pd.DataFrame = field(default_factory=rows_frame)
    located: Sequence[Mapping[str, Any]] = ()
    attributions: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    measurements: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse rows of two intents, whose success means different things."""
        intents = sorted(self.rows["intent"].unique())
        if len(intents) > 1:
            raise ValueError(
                f"the rows of one run must share one intent, got {', '.join(intents)}: "
                "score each intent on its own, they are never averaged together"
            )

    @property
    def intent(self) -> Intent:
        """What the edits of this run were for; of no rows, where nothing hangs on it, `replace`."""
        return next(iter(self.rows["intent"]), "replace")

    def after_all(self) -> Results:
        """The same run as it was once all edits of a sequence were made."""
        rows = self.rows[self.rows["after"] == "all"]
        return Results(rows.assign(after="edit"))

    def at_checkpoints(self) -> dict[int, Results]:
        """The same run as it was at the checkpoints of a sequence, by the edits made so far."""
        rows = self.rows[self.rows["after"] == "checkpoint"]
        return {
            made: Results(rows[rows["made"] == made].assign(after="edit"))
            for made in sorted(map(int, rows["made"].unique()))
        }

    def records_at_checkpoints(self, name: str) -> dict[int, pd.DataFrame]:
        """At the checkpoints of a sequence, by the edits made so far, what was measured then.

        It is the record of the edit that was made last before: just those were in effect when it
        was scored.
        """
        edits = self.measurements[name].drop_duplicates("edit")
        own = self.rows[self.rows["after"] == "edit"]
        made = edits["case"].map(own.drop_duplicates("case").set_index("case")["made"])
        found = {number: edits[made == number].tail(1) for number in self.at_checkpoints()}
        return {number: records for number, records in found.items() if not records.empty}

    def of(self, kind: ProbeKind, group: str | None = None) -> pd.DataFrame:
        """The rows of one kind of probe and, where given, of one of its groups.

        They were asked right after their own edit.
        """
        chosen = (self.rows["kind"] == kind) & (self.rows["after"] == "edit")
        if group is not None:
            chosen &= self.rows["group"] == group
        return self.rows[chosen]


def clusters(rows: pd.DataFrame) -> pd.Series:
    """What each row stands or falls with: its edit, or all edits that are in effect with it."""
    return rows["edit"].where(rows["together"] == "", rows["together"])


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A family of numbers read off one run's results.

    Attributes:
        quantities: What each of its numbers is.
        bootstrap: How intervals are had.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = ()

    bootstrap: Bootstrap = Bootstrap()

    @abstractmethod
    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score a run; a name whose kind of probe the run does not have is absent."""

    def _mean(
        self, values: ArrayLike, clusters: ArrayLike, *, per_cluster: bool = False
    ) -> Estimate:
        return self.bootstrap.mean(values, clusters, per_cluster=per_cluster)

    def _means(
        self, rows: pd.DataFrame, values: Mapping[str, ArrayLike], *, per_cluster: bool = False
    ) -> dict[str, Estimate]:
        """Means over edits by name, of values of some rows; without rows there are none."""
        if rows.empty:
            return {}
        return {
            name: self._mean(some, clusters(rows), per_cluster=per_cluster)
            for name, some in values.items()
        }


def measured(metrics: Iterable[Metric], results: Results) -> dict[str, dict[str, Any]]:
    """Every estimate of some metrics, as a summary has them.

    Raises:
        ValueError: If two metrics give a number of the same name.
    """
    found: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        for name, estimate in metric(results).items():
            if name in found:
                raise ValueError(
                    f"{type(metric).__name__} gives {name!r}, as another metric does; rename one"
                )
            found[name] = asdict(estimate)
    return found
