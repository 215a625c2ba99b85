"""Norm-anchor scaling (Liu et al. 2026): values of a sequence do not grow with the model's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kn_sweeps.editing.values import Value
from kn_sweeps.edits import State

ANCHOR = "anchor norm"
"""What the state of a sequence calls it."""


def anchored(
    values: Mapping[str, Value], state: State | None, *, together: bool
) -> tuple[dict[str, Value], State]:
    """Every v* with the mean norm that v* had on the unedited model.

    Args:
        values: What was optimised, by case.
        state: As in `Method.plan`. The first plan of a sequence, whose model is unedited, leaves
            the norm to those behind it.
        together: Whether the edits are in effect at once; one that is in effect alone is its own
            mean and stays as it is.

    Returns:
        The values, and what is left to later plans.

    Source: Liu et al. (2026), *Norm Anchors Make Model Edits Last*, and their code. Deviations:
    the norm is of the first batch, not of a fixed sample of other facts without its largest 5 %,
    and no edit is left out for a v* that is far longer.
    """
    if not values or (state is None and not together):
        return dict(values), {}
    left: State = {}
    norm = state.get(ANCHOR) if state else None
    if norm is None:
        norm = torch.stack([value.v_star.norm() for value in values.values()]).mean().cpu()
        left = {} if state is None else {ANCHOR: norm}
    return {case: _scaled(value, float(norm)) for case, value in values.items()}, left


def _scaled(value: Value, norm: float) -> Value:
    v_star = value.v_star
    return value._replace(delta=v_star * (norm / v_star.norm()) - value.outputs[0])
