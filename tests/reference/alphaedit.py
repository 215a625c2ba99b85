"""One layer's update of a batch of a sequence by AlphaEdit.

    Delta = R K^T P (K_p K_p^T P + K K^T P + weight I)^-1                                  eq. 14

Source: Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing for Language
Models"; as in their code, it is solved as a dense system of the size of a key, of which the
projection is made by leaving out eigenvectors.
"""

import torch
from torch import Tensor


def projection(moment: Tensor, threshold: float) -> Tensor:
    """On the eigenvectors of a second moment (d_ff, d_ff) with eigenvalues below a threshold."""
    values, vectors = torch.linalg.eigh(moment)
    total = torch.zeros_like(moment)
    for value, vector in zip(values, vectors.T, strict=True):
        if value < threshold:
            total += torch.outer(vector, vector)
    return total


def update(
    keys: Tensor, residuals: Tensor, earlier: Tensor, projected_on: Tensor, weight: float
) -> Tensor:
    """What is added to the projection, as (d_ff, d_model).

    Args:
        keys: Of the batch, (edits, d_ff).
        residuals: What its outputs should have more, (edits, d_model).
        earlier: Keys of earlier batches, (earlier, d_ff).
        projected_on: P.
        weight: Of the identity.
    """
    squares = earlier.T @ earlier + keys.T @ keys
    system = projected_on @ squares + weight * torch.eye(len(squares), dtype=squares.dtype)
    return torch.linalg.solve(system, projected_on @ keys.T @ residuals)
