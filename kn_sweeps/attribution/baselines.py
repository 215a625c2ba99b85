"""Cheap attributions to compare integrated gradients with: the unchanged model, no integral."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.attribution.integrand import Integrand, Measure
from kn_sweeps.attribution.integrated_gradients import Attribution, groups, integrand_of
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted


def activation(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    *,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """Score each neuron by its largest value where a token of the target is predicted.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        measure: What `Attribution.value` is; the scores do not depend on it.
        max_rows: Bounds memory, as in `integrated_gradients`.
    """

    def scores(integrand: Integrand, n: int, tokens: int) -> Float[Tensor, "layers d_ff"]:
        return integrand.whole.neurons[:, n, :tokens].amax(1)

    return _plain(lm, prompts, measure, max_rows, scores)


def grad_x_act(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    *,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """Score each neuron by a_i * dP/da_i at the unchanged model: the path's last node alone.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        measure: Probability or log-probability.
        max_rows: Bounds memory, as in `integrated_gradients`.
    """

    def scores(integrand: Integrand, n: int, _tokens: int) -> Float[Tensor, "layers d_ff"]:
        each = enumerate(
            zip(integrand.whole.neurons[:, n], integrand.whole.gradients[:, n], strict=True)
        )
        return torch.stack(
            [(a * integrand.by_neuron(k, gradient)).sum(0) for k, (a, gradient) in each]
        )

    return _plain(lm, prompts, measure, max_rows, scores)


def _plain(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    measure: Measure,
    max_rows: int,
    scores: Callable[[Integrand, int, int], Float[Tensor, "layers d_ff"]],
) -> list[Attribution]:
    """Attributions without an integral: nothing to be complete, no error to estimate."""
    unknown = torch.full((lm.architecture.layers,), float("nan"), dtype=torch.float64)
    nodes = torch.ones(lm.architecture.layers, dtype=torch.long)
    found: dict[int, Attribution] = {}
    for group in counted(list(groups(prompts, max_rows)), "batch of prompts"):
        integrand = integrand_of(lm, [prompts[i] for i in group], measure)
        for n, i in enumerate(group):
            found[i] = Attribution(
                scores(integrand, n, len(prompts[i].target_ids)).float().cpu(),
                float(integrand.whole.values[n]),
                unknown,
                unknown,
                unknown,
                nodes,
                *torch.zeros(2, len(nodes), dtype=torch.bool),
            )
    return [found[i] for i in range(len(prompts))]
