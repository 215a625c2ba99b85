"""PRUNE (Ma et al. 2024): what all updates of a sequence add up to is held back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.edits import Dense, Edit, Joint, LowRank, RankOne, State, change_of, joined, parts
from kn_sweeps.interventions import written_by
from kn_sweeps.models.language_model import LanguageModel

_UPDATES = "updates of layer "
_LARGEST = "largest singular value of layer "


def refuse_base(prune_base: float | None) -> None:
    """Refuse a base that cannot be meant.

    Raises:
        ValueError: If it is not above 1.
    """
    if prune_base is not None and not 1 < prune_base < math.inf:
        raise ValueError(f"prune_base must be above 1, or null for none; got {prune_base}")


def restrained(
    lm: LanguageModel,
    edits: Mapping[str, Edit],
    prune_base: float | None,
    state: State | None,
    *,
    together: bool,
) -> tuple[dict[str, Edit], State]:
    """Low-rank or dense edits, so that the sum of all updates of a sequence is held back.

        sum_n Delta'_n = U F(S) V^T,   sum_n Delta_n = U S V^T

    of every layer, with F as in `held_back` and the largest singular value that W had unedited.

    Args:
        lm: The model, in the scope of earlier edits where there are any.
        edits: By id, as the method makes them.
        prune_base: Of F's logarithm; None leaves edits as they are.
        state: As in `Method.plan`; the first plan of a sequence sees the unedited W.
        together: Whether the edits are in effect at once, so that their sum is one update: it is
            the first one's then, and the others add nothing.

    Returns:
        The edits, and what is left to later plans; see `accumulated`.

    Source: Ma et al. (2024), *Perturbation-Restrained Sequential Model Editing*, section 4.3, and
    their code. Deviation: they restrain once, behind the last edit; here every batch is planned
    on the model as it is restrained.
    """
    if prune_base is None or not edits:
        return dict(edits), {}
    if state is None and not together:
        alone = {name: _restrained(lm, edit, prune_base, {}) for name, edit in edits.items()}
        return {name: edit for name, (edit, _) in alone.items()}, {}
    whole, left = _restrained(lm, joined(edits.values()), prune_base, state or {})
    found: dict[str, Edit] = {name: Joint(()) if n else whole for n, name in enumerate(edits)}
    return found, {} if state is None else left


def accumulated(state: State, left: State) -> State:
    """A state with what one more plan left: the updates of every layer are added up."""
    summed = {
        name: own.double() + state.get(name, 0)
        for name, own in left.items()
        if name.startswith(_UPDATES)
    }
    return {**state, **left, **summed}


def held_back(
    change: Float[Tensor, "rows columns"], largest: float, base: float
) -> Float[Tensor, "rows columns"]:
    """A matrix with every singular value s above `largest` replaced by F(s).

        F(s) = log(s) - log(largest) + largest,   logarithms to the given base

    As published. Where `largest` is below 1 / ln(base), F is above s until s is some times that.
    """
    # No singular value is above the Frobenius norm.
    if float(change.norm()) <= largest:
        return change
    u, values, v = torch.linalg.svd(change, full_matrices=False)
    beyond = values > largest
    if not beyond.any():
        return change
    held = largest + torch.log(values[beyond] / largest) / math.log(base)
    # What is taken off, so that all else stays as it is.
    less: Tensor = change - (u[:, beyond] * (values[beyond] - held)) @ v[beyond]
    return less


def _restrained(lm: LanguageModel, edit: Edit, base: float, state: State) -> tuple[Edit, State]:
    """One update, and what it leaves."""
    found: list[Edit] = []
    left: dict[str, Tensor] = {}
    for part in parts(joined([edit])):
        assert isinstance(part, RankOne | LowRank | Dense)
        change = change_of(part)
        updates, largest = f"{_UPDATES}{part.layer}", f"{_LARGEST}{part.layer}"
        if largest not in state:
            weights = written_by(lm, part.layer, range(len(change)))[0].float()
            left[largest] = torch.linalg.matrix_norm(weights, 2).cpu()
        left[updates] = change.cpu()
        limit = float({**left, **state}[largest])
        before = state[updates] if updates in state else torch.zeros_like(left[updates]).double()
        whole = before + left[updates]
        held, held_before = held_back(whole, limit, base), held_back(before, limit, base)
        same = held is whole and held_before is before
        found.append(part if same else Dense(part.layer, (held - held_before).float()))
    return found[0] if len(found) == 1 else Joint(tuple(found)), left
