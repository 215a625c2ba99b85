"""Localisation: how many neurons were found, how surely, and how alike the prompts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import PROBABILITY, Quantity

_GRAM_ENTRIES = 2_000_000
"""Entries of drawn Gram matrices held in memory together."""


def r_squared(scores: NDArray[np.floating[Any]]) -> float | None:
    """How much of the prompts' attributions one common direction explains.

    R1^2 = (sigma_1^2 - 1) / (n - 1), sigma_1 the top singular value of the scores with every row
    scaled to length 1: 1 where all rows point one way or its opposite, 0 where all are orthogonal.

    Args:
        scores: Attributions, shape (prompts, layers * neurons). A row that has no direction
            (all zero, or not finite) is left out.

    Returns:
        R1^2 in [0, 1]; None where fewer than two rows are left.

    Source: Niu et al. 2024, the rank-1 measure of how alike the patterns are.
    """
    rows = np.asarray(scores, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    n = int(usable.sum())
    if n < 2:
        return None
    unit = rows[usable] / lengths[usable, None]
    # sigma_1^2 is the top eigenvalue of the n x n Gram matrix, far smaller than n x neurons.
    top = np.linalg.eigvalsh(unit @ unit.T)[-1]
    return float(np.clip((top - 1) / (n - 1), 0, 1))


def null_r_squared(
    scores: NDArray[np.floating[Any]], *, shuffles: int, seed: int
) -> NDArray[np.float64]:
    """R1^2 where every prompt's scores were dealt out to neurons at random, `shuffles` times.

    A prompt keeps its scores, large ones too, so what is left is what chance makes alike.

    Returns:
        One value a shuffle; empty where R1^2 cannot be had.
    """
    generator = np.random.default_rng(seed)
    rows = np.asarray(scores)
    found = [r_squared(generator.permuted(rows, axis=1)) for _ in range(shuffles)]
    return np.array([value for value in found if value is not None], np.float64)


def mixed_r_squared(
    scores: Mapping[str, NDArray[np.floating[Any]]], *, draws: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """R1^2 of as many prompts as each source has, drawn from those of all sources.

    Neurons that are active whatever is asked make all prompts alike: a source is localised by
    what it has beyond that.

    Args:
        scores: Attributions by source, all with the same neurons.
        draws: How many sets of prompts.
        seed: Of the draws.

    Returns:
        By source, one value a draw; empty for fewer than two prompts.
    """
    rows = np.concatenate([np.asarray(one, np.float32) for one in scores.values()])
    lengths = np.linalg.norm(rows, axis=1)
    unit = rows[lengths > 0] / lengths[lengths > 0, None]
    gram = (unit @ unit.T).astype(np.float64)
    generator = np.random.default_rng(seed)
    found = {}
    for source, own in scores.items():
        n = min(len(own), len(gram))
        left = draws if n > 1 else 0
        values = [np.empty(0)]
        while left > 0:
            some = min(left, max(1, _GRAM_ENTRIES // n**2))
            order = generator.random((some, len(gram))).argsort(axis=1)[:, :n]
            drawn = gram[order[:, :, None], order[:, None, :]]
            values.append((np.linalg.eigvalsh(drawn)[:, -1] - 1) / (n - 1))
            left -= some
        found[source] = np.clip(np.concatenate(values), 0, 1)
    return found


def layer_histogram(located: Sequence[Mapping[str, Any]], layers: int) -> NDArray[np.int64]:
    """Number of located neurons in each layer, over all edits; shape (layers,), layers from 0."""
    found = [int(layer) for entry in located for layer, _ in entry["neurons"]]
    if found and not 0 <= min(found) <= max(found) < layers:
        raise ValueError(
            f"neurons lie in layers {min(found)} to {max(found)}, but layers run "
            f"from 0 to {layers - 1}"
        )
    return np.bincount(np.array(found, dtype=np.int64), minlength=layers).astype(np.int64)


def certificates(located: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64], int]:
    """Every prompt's and layer's completeness residual, and how many are not certified.

    An attribution without an integral has no residual and is left out.
    """
    every = [certificate for entry in located for certificate in entry["certificates"]]
    residuals = np.array([x for one in every for x in one["residual"]], np.float64)
    certified = np.array([x for one in every for x in one["certified"]], bool)
    there = np.isfinite(residuals)
    return residuals[there], int((~certified[there]).sum())


def rounded(located: Sequence[Mapping[str, Any]]) -> int:
    """How many prompts' layers are not certified for rounding alone: nothing but dtype helps."""
    return sum(sum(one["rounded"]) for entry in located for one in entry["certificates"])


TYPES = {
    **dict.fromkeys(("this", "that", "is", "was", "has", "isn't", "wasn't", "hasn't"), "sg"),
    **dict.fromkeys(("these", "those", "are", "were", "have", "aren't", "weren't"), "pl"),
    **dict.fromkeys(("themselves", "haven't"), "pl"),
    **{"herself": "f", "himself": "m", "itself": "n"},
}
"""What a form expresses; a noun's is its determiner's."""


def target_type(target: str, trigger: str) -> str:
    """What a target form expresses: number, gender; itself where nothing is known of it."""
    return TYPES.get(target.lower()) or TYPES.get(trigger.lower()) or target


def by_target_type(results: Results) -> dict[str, NDArray[np.floating[Any]]]:
    """Attributions by source and type of the target, as "source, type"."""
    edits = results.of("edit").drop_duplicates("case").set_index("case")
    next_row = dict.fromkeys(results.attributions, 0)
    pools: dict[str, list[NDArray[np.floating[Any]]]] = {}
    # A source's rows are its edits' prompts, in the order of what was located.
    for entry in results.located:
        source, count = entry["source"], len(entry["certificates"])
        start = next_row[source]
        next_row[source] += count
        # What was located is a target, the old answer unless the edit promotes the new one.
        one = edits.loc[entry["cases"][0]]
        target = one["new"] if entry["edit"] == f"{source}/{one['new']}" else one["old"]
        name = f"{source}, {target_type(str(target), str(one['subject']))}"
        pools.setdefault(name, []).append(results.attributions[source][start : start + count])
    return {name: np.concatenate(some) for name, some in pools.items()}


@dataclass(frozen=True, kw_only=True)
class Localisation(Metric):
    """`neurons`, `tau`, `completeness_residual`, `uncertified` and `r_squared`.

    Attributes:
        pooled_by: R1^2 of the prompts of a `source`, whatever their targets are, averaged over
            sources; or, as Niu et al. report it, of those of a source whose targets are of one
            `target_type` (singular, plural, feminine, masculine), averaged over both.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="neurons",
            meaning="mean number of located neurons",
            unit="neurons",
            counts="edits",
        ),
        Quantity(
            name="tau",
            meaning="mean share of prompts a located neuron had to be in",
            unit="share of prompts",
            counts="edits with one",
        ),
        Quantity(
            name="completeness_residual",
            meaning="largest error of summed attributions",
            unit=PROBABILITY,
            counts="prompts x layers",
            better="lower",
        ),
        Quantity(
            name="uncertified",
            meaning="share of attributed layers above the tolerance",
            unit="share of layers",
            counts="prompts x layers",
            better="lower",
        ),
        Quantity(
            name="r_squared",
            meaning="how far all prompts of a source point at the same neurons",
            unit="share of squared length",
            counts="sources with two prompts or more",
        ),
    )

    pooled_by: Literal["source", "target_type"] = "source"

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score what a run located; a method that locates nothing has no such numbers."""
        pools = results.attributions
        if self.pooled_by == "target_type":
            pools = by_target_type(results)
        return self._located(results.located) | self._alike(pools)

    def _located(self, located: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        """Size of the neuron sets, the threshold p they were refined at, the worst residual."""
        if not located:
            return {}
        edits = [entry["edit"] for entry in located]
        sizes = [len(entry["neurons"]) for entry in located]
        # None becomes NaN, which is not judged.
        taus = np.array([entry["tau"] for entry in located], dtype=np.float64)
        residuals, uncertified = certificates(located)
        worst = float(residuals.max()) if len(residuals) else None
        share = uncertified / len(residuals) if len(residuals) else None
        return {
            "neurons": self._mean(sizes, edits),
            "tau": self._mean(taus, edits),
            "completeness_residual": Estimate(worst, None, None, len(residuals)),
            "uncertified": Estimate(share, None, None, len(residuals)),
        }

    def _alike(self, attributions: Mapping[str, NDArray[np.floating[Any]]]) -> dict[str, Estimate]:
        """R1^2 of each source, averaged over the sources that have two prompts."""
        if not attributions:
            return {}
        values = [r_squared(scores) for scores in attributions.values()]
        return {"r_squared": self._mean(np.array(values, np.float64), list(attributions))}
