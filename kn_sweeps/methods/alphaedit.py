"""AlphaEdit (Fang et al. 2025): MEMIT's update, projected where it does not touch common keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kn_sweeps.editing.requests import Request
from kn_sweeps.editing.second_moment import SecondMoment, moments_at_hand
from kn_sweeps.editing.spread import Solve, keys_and_states, ridge
from kn_sweeps.edits import Edit, State, joined
from kn_sweeps.methods.memit import Memit
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work


@dataclass(frozen=True)
class AlphaEdit(Memit):
    """Updates of several MLPs that leave the outputs of common keys alone.

        Delta_l = R K^T P (P K_p K_p^T P + P K K^T P + covariance_weight)^-1

    P projects on the eigenvectors of the keys' second moment whose eigenvalues are below
    `null_threshold`; K_p are the keys of earlier batches of a sequence, each read behind its own
    batch. All else is as in MEMIT; `covariance_weight` is the paper's L2.

    Attributes:
        null_threshold: Eigenvalues below it count as zero; in units of a squared key.
        protect_earlier: Whether a sequence has K_p, so that the outputs of keys that were edited
            before are held; else each batch is solved for as if it were the first.

    Source: Fang et al. (2025), *AlphaEdit: Null-Space Constrained Knowledge Editing*, eq. 14, and
    their code.
    """

    null_threshold: float = 0.02
    protect_earlier: bool = True

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        super().__post_init__()
        if self.null_threshold <= 0:
            raise ValueError(f"null_threshold must be above 0, got {self.null_threshold}")
        if self.second_moment is None:
            raise ValueError("AlphaEdit needs a text source: set second_moment")
        if self.covariance_weight <= 0:
            raise ValueError("AlphaEdit needs a covariance_weight above 0")

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """As MEMIT's, and of every layer the eigenvectors and what earlier keys weigh."""
        needs = super().needs(shape, work)
        more = 8 * len(self.layers) * shape.d_ff**2 * (2 if self.protect_earlier else 1)
        return replace(needs, statistics=needs.statistics + more)

    @override
    def solver(self, lm: LanguageModel, state: State | None = None) -> Solve:
        """MEMIT's with projected keys, and C the identity and what earlier keys weigh."""
        self.check(lm)
        project = self._projections(lm)

        def solve(layer: int, keys: Tensor) -> Tensor:
            projected = project(layer, keys)
            if not state or _earlier(layer) not in state:
                return ridge(projected, projected, self.covariance_weight).to(keys.dtype)
            system = state[_earlier(layer)].to(keys.device, copy=True)
            system.diagonal().add_(self.covariance_weight)
            # Solved in the null space: the system maps it to itself.
            factor = torch.linalg.cholesky(system)
            directions = torch.cholesky_solve(projected.T, factor).T
            return ridge(projected, directions, 1.0).to(keys.dtype)

        return solve

    @override
    def left(
        self, lm: LanguageModel, requests: Sequence[Request], edits: Mapping[str, Edit]
    ) -> State:
        """The projected keys of a batch, a layer, with the batch in effect."""
        if not self.protect_earlier:
            return {}
        effects = [joined(edits.values())] * len(requests)
        keys, _ = keys_and_states(lm, requests, effects, self.layers, self.layers[-1])
        project = self._projections(lm)
        return {_earlier(layer): project(layer, own).cpu() for layer, own in keys.items()}

    @override
    def carried(self, state: State, left: State) -> State:
        """P K_p K_p^T P of every layer, in float64: a size that no number of edits changes."""
        names = {_earlier(layer) for layer in self.layers} & left.keys()
        products = {name: left[name].T @ left[name] for name in names}
        summed = {n: state[n] + own if n in state else own for n, own in products.items()}
        return super().carried(state, {**left, **summed})

    def _projections(self, lm: LanguageModel) -> Callable[[int, Tensor], Tensor]:
        """Of a layer and keys, P k of each in float64."""
        assert self.second_moment is not None
        moments = moments_at_hand(lm, self.layers, self.second_moment)
        bases = {one.layer: null_space(one, self.null_threshold) for one in moments}

        def project(layer: int, keys: Float[Tensor, "keys d_ff"]) -> Float[Tensor, "keys d_ff"]:
            basis = bases[layer].to(keys.device)
            projected: Tensor = (keys.double() @ basis) @ basis.T
            return projected

        return project


def _earlier(layer: int) -> str:
    """What the state calls the keys of a layer."""
    return f"keys of layer {layer}"


def null_space(moment: SecondMoment, threshold: float) -> Float[Tensor, "d_ff null"]:
    """Orthonormal eigenvectors of C with eigenvalues below `threshold`, in float64, as columns.

    Raises:
        ValueError: If there is none.
    """
    values, vectors = moment.eigen
    kept = vectors[:, values < threshold]
    if kept.shape[1] == 0:
        raise ValueError(
            f"layer {moment.layer} has no null space: no eigenvalue of its second moment is below "
            f"null_threshold={threshold:g}; the smallest is {float(values[0]):.3g}"
        )
    return kept
