"""AlphaEdit (Fang et al. 2025): MEMIT's update, projected where it does not touch common keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kn_sweeps.editing.second_moment import SecondMoment, second_moments
from kn_sweeps.editing.spread import Solve, ridge
from kn_sweeps.methods.memit import Memit
from kn_sweeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class AlphaEdit(Memit):
    """Updates of several MLPs that leave the outputs of common keys alone.

        Delta_l = R K^T P (P K K^T P + covariance_weight)^-1

    P projects on the eigenvectors of the keys' second moment whose eigenvalues are below
    `null_threshold`. All else is as in MEMIT; `covariance_weight` is the paper's L2.

    Attributes:
        null_threshold: Eigenvalues below it count as zero; in units of a squared key.

    Source: Fang et al. (2025), *AlphaEdit: Null-Space Constrained Knowledge Editing*, eq. 14, and
    their code. Deviation: keys of earlier batches of a sequence are not protected (their K_p).
    """

    null_threshold: float = 0.02

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
    def solver(self, lm: LanguageModel) -> Solve:
        """MEMIT's with C the identity and projected keys."""
        for layer in self.layers:
            lm.architecture.check_layer(layer)
        assert self.second_moment is not None
        projections = {
            moment.layer: null_space(moment, self.null_threshold)
            for moment in second_moments(lm, self.layers, self.second_moment)
        }

        def solve(layer: int, keys: Tensor) -> Tensor:
            projection = projections[layer].to(keys.device, torch.float64)
            projected = keys.double() @ projection
            return ridge(projected, projected, self.covariance_weight).to(keys.dtype)

        return solve


def null_space(moment: SecondMoment, threshold: float) -> Float[Tensor, "d_ff d_ff"]:
    """The projection on eigenvectors of C with eigenvalues below `threshold`, in float64.

    Raises:
        ValueError: If there is none.
    """
    values, vectors = torch.linalg.eigh(moment.matrix)
    kept = vectors[:, values < threshold]
    if kept.shape[1] == 0:
        raise ValueError(
            f"layer {moment.layer} has no null space: no eigenvalue of its second moment is below "
            f"null_threshold={threshold:g}; the smallest is {float(values[0]):.3g}"
        )
    projection: Tensor = kept @ kept.T
    return projection
