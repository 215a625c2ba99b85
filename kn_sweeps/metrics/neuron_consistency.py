"""Whether all phrasings of one fact have the same neurons, or each query its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import Quantity

Neurons = NDArray[np.int64]
"""Those of one prompt, by their place among all."""
LEVEL = 0.05
"""An edit whose p is above it is not told from chance."""
_EDITS = "edits with two prompts or more"


def coarse(scores: NDArray[np.floating[Any]], threshold: float) -> list[Neurons]:
    """Each prompt's neurons above `threshold` times its largest score; none where that is not > 0.

    Args:
        scores: Attributions, shape (prompts, layers * neurons).
        threshold: Between 0 and 1.
    """
    rows = np.asarray(scores)
    return [np.flatnonzero((row > threshold * row.max()) & (row > 0)) for row in rows]


def consistency(sets: Sequence[Neurons]) -> float | None:
    """The share of all neurons of some prompts that more than one prompt has.

    CS = |{n : n in N_i for more than one i}| / |N_1 u ... u N_k|; None for fewer than two prompts,
    or without any neuron.

    Source: Chen et al. (2025), *Knowledge Localization: Mission Not Accomplished? Enter Query
    Localization!*
    """
    if len(sets) < 2:
        return None
    _, counts = np.unique(np.concatenate(sets), return_counts=True)
    return float((counts > 1).mean()) if len(counts) else None


def by_chance(
    sets: Sequence[Sequence[Neurons]], prompts: int, *, draws: int, seed: int
) -> NDArray[np.float64]:
    """Consistency of as many prompts of as many different edits, drawn at random `draws` times.

    Neurons that are active whatever is asked make the prompts of any edits agree.

    Args:
        sets: By edit, its prompts' neurons.
        prompts: How many are drawn.
        draws: How often.
        seed: Of the draws.

    Returns:
        One value a draw that has neurons; empty where there are fewer edits than `prompts`.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws if 2 <= prompts <= len(sets) else 0):
        edits = generator.choice(len(sets), prompts, replace=False)
        found.append(consistency([sets[n][int(generator.integers(len(sets[n])))] for n in edits]))
    return np.array([value for value in found if value is not None], np.float64)


def by_edit(
    located: Sequence[Mapping[str, Any]],
    attributions: Mapping[str, NDArray[np.floating[Any]]],
    threshold: float,
) -> dict[str, list[Neurons]]:
    """The neurons of each prompt of every edit; see `Results`."""
    next_row = dict.fromkeys(attributions, 0)
    found: dict[str, list[Neurons]] = {}
    for entry in located:
        # A source's rows are its edits' prompts, in the order of what was located.
        source, count = entry["source"], len(entry["certificates"])
        if source in attributions and count:
            start = next_row[source]
            next_row[source] += count
            found[entry["edit"]] = coarse(attributions[source][start : start + count], threshold)
    return found


@dataclass(frozen=True, kw_only=True)
class NeuronConsistency(Metric):
    """`neuron_consistency`, `neuron_consistency_by_chance` and `neurons_consistent`.

    Attributes:
        threshold: A prompt's neurons score above this share of its largest score.
        draws: Sets of prompts of different edits behind the null.
        among: Whose prompts those are: of all edits of the `run`, or of those of the edit's own
            `source`. What agrees no more than the latter is the relation's, not the fact's.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="neuron_consistency",
            meaning="share of an edit's neurons that more than one of its prompts has",
            unit="share of neurons",
            counts=_EDITS,
        ),
        Quantity(
            name="neuron_consistency_by_chance",
            meaning="the same of as many prompts of different edits",
            unit="share of neurons",
            counts="edits with a null",
        ),
        Quantity(
            name="neurons_consistent",
            meaning="share of edits whose prompts agree on their neurons more than prompts of "
            "different edits do, p below 0.05",
            unit="share of edits",
            counts="edits with a null",
        ),
    )

    threshold: float = 0.2
    draws: int = 1000
    among: Literal["run", "source"] = "run"

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {self.threshold}")
        if self.draws < 1 / LEVEL:
            raise ValueError(f"draws must be {1 / LEVEL:.0f} or more, got {self.draws}")

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score what a run located; a method that locates nothing has no such numbers."""
        sets = by_edit(results.located, results.attributions, self.threshold)
        values = {edit: consistency(some) for edit, some in sets.items()}
        judged = {edit: value for edit, value in values.items() if value is not None}
        if not judged:
            return {}
        of_source = self.among == "source"
        pool = {one["edit"]: one["source"] if of_source else "" for one in results.located}
        drawn = {
            (name, prompts): by_chance(
                [some for edit, some in sets.items() if pool[edit] == name],
                prompts,
                draws=self.draws,
                seed=self.bootstrap.seed,
            )
            for name, prompts in sorted({(pool[edit], len(sets[edit])) for edit in judged})
        }
        nulls = [drawn[pool[edit], len(sets[edit])] for edit in judged]
        # NaN where there is no null, which is not judged.
        chance = [float(null.mean()) if len(null) else np.nan for null in nulls]
        agree = [
            _p(value, null) < LEVEL if len(null) else np.nan
            for value, null in zip(judged.values(), nulls, strict=True)
        ]
        edits = list(judged)
        return {
            "neuron_consistency": self._mean([*judged.values()], edits),
            "neuron_consistency_by_chance": self._mean(chance, edits),
            "neurons_consistent": self._mean(np.array(agree, np.float64), edits),
        }


def _p(value: float, null: NDArray[np.float64]) -> float:
    """How seldom chance agrees as much."""
    return (1 + int((null >= value).sum())) / (1 + len(null))
