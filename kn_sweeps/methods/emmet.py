"""EMMET (Gupta et al. 2024): MEMIT's update under equality constraints; ROME for a batch."""

from __future__ import annotations

from dataclasses import dataclass

from kn_sweeps.methods.memit import Memit


@dataclass(frozen=True)
class Emmet(Memit):
    """Updates of several MLPs that give every key of a batch its value exactly.

        Delta_l = R (K^T C^-1 K + covariance_weight)^-1 K^T C^-1

    Of all changes that do, it moves the outputs of other text least. It is what MEMIT's solution
    goes to as `covariance_weight` goes to 0, and with one edit of one layer it is ROME's. All else
    is as in MEMIT.

    Attributes:
        covariance_weight: What is added to the diagonal (their `emmet_lambda`): 0 for equality;
            above 0 it is MEMIT with that weight.

    Source: Gupta et al. (2024), *A Unified Framework for Model Editing*, section 3, and their
    code. Deviation: their code adds 0.1 to the diagonal of a batch of two or more; we add nothing
    unless asked.
    """

    covariance_weight: float = 0.0
