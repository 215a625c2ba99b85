"""Cheap attributions to compare integrated gradients with: no integral."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.attribution.freezing import without_gradients
from kn_sweeps.attribution.integrand import Integrand, Measure
from kn_sweeps.attribution.integrated_gradients import Attribution, groups, integrand_of
from kn_sweeps.attribution.lens import log_prob_increase
from kn_sweeps.attribution.relevance import relevance_rules
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted
from kn_sweeps.seeding import generator

Scores = Callable[[Integrand, int, Encoded], Float[Tensor, "layers d_ff"]]
"""Those of one prompt, by its number among those of the integrand."""


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

    def scores(integrand: Integrand, n: int, _prompt: Encoded) -> Float[Tensor, "layers d_ff"]:
        return integrand.whole.neurons[:, n, : integrand.readings.sizes[n]].amax(1)

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
        measure: Of the target.
        max_rows: Bounds memory, as in `integrated_gradients`.
    """
    return _plain(lm, prompts, measure, max_rows, _by_gradient(lambda a: a))


def atp(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    corrupt: Sequence[Encoded],
    *,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """Attribution patching: score each neuron by (a_i - a'_i) * dP/da_i at the unchanged model.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        corrupt: For each of them another query with the same target, whose neurons are a'.
        measure: Of the target.
        max_rows: Bounds memory, as in `integrated_gradients`.

    Raises:
        ValueError: If targets are not read at as many places.

    Source: Nanda (2023), *Attribution Patching*; Kramar et al. (2024), *AtP*: An efficient and
    scalable method for localizing LLM behaviour to components*, section 2, at the neurons
    where the answer is read.
    """
    change = _by_gradient(lambda a: a)  # of which the baseline is taken off
    return _plain(lm, prompts, measure, max_rows, change, baselines=corrupt)


def atp_star(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    corrupt: Sequence[Encoded],
    *,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """AtP with GradDrop: the mean of |atp| over gradients that do not pass one layer each.

    Where the effect that a neuron has directly and the one it has through a later layer cancel,
    their gradients do too, and `atp` takes a neuron for nothing that matters. Here each layer's
    attention and MLP are a constant in turn; a neuron's own layer counts for nothing. A score has
    the sign of their sum: neurons that speak for an answer are sought, not against it.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        corrupt: As in `atp`.
        measure: Of the target.
        max_rows: Bounds memory, as in `integrated_gradients`.

    Raises:
        ValueError: If targets are not read at as many places.

    Source: Kramar et al. (2024), section 3.2, whose scores have no sign. The rest of AtP*, which
    computes attention patterns anew, is about queries and keys, not neurons.
    """
    layers = range(lm.architecture.layers)
    change = _by_gradient(lambda a: a)
    dropped = []
    for layer in layers:
        with without_gradients(lm, layer):
            found = _plain(lm, prompts, measure, max_rows, change, baselines=corrupt, stepped=False)
        for one in found:
            # What a layer puts out is replaced behind where its own gradient is cut.
            one.scores[layer] = 0
        dropped.append(found)
    every = [torch.stack([one.scores for one in each]) for each in zip(*dropped, strict=True)]
    means = [x.sum(0).sign() * x.abs().sum(0) / max(1, len(layers) - 1) for x in every]
    return [replace(one, scores=mean) for one, mean in zip(dropped[0], means, strict=True)]


def neurgrad(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    *,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """Score each neuron by dP/da_i, turned round where a_i is not above 0.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        measure: Of the target.
        max_rows: Bounds memory, as in `integrated_gradients`.

    Source: Zhao, Jiang & Yoshinaga (2025), *Neuron Empirical Gradient*, and their code. Deviation:
    a gated MLP's neurons are the products that its output projection reads, not what is gated.
    """
    sign = _by_gradient(lambda a: (a > 0).to(a.dtype) * 2 - 1)
    return _plain(lm, prompts, measure, max_rows, sign)


def relp(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    *,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """Score each neuron by a_i times the coefficient that relevance propagation gives it.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        measure: Of the target.
        max_rows: Bounds memory, as in `integrated_gradients`.

    Raises:
        ValueError: If a rule does not fit a part of the model; see `relevance_rules`.
    """
    with relevance_rules(lm):
        return _plain(lm, prompts, measure, max_rows, _by_gradient(lambda a: a), stepped=False)


def _by_gradient(weight: Callable[[Tensor], Tensor]) -> Scores:
    """Scores that are gradients times what `weight` makes of the neurons, over all places."""

    def scores(integrand: Integrand, n: int, _prompt: Encoded) -> Float[Tensor, "layers d_ff"]:
        each = zip(integrand.whole.neurons[:, n], integrand.whole.gradients[:, n], strict=True)
        return torch.stack(
            [(weight(a) * integrand.by_neuron(k, g)).sum(0) for k, (a, g) in enumerate(each)]
        )

    return scores


def by_chance(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    *,
    seed: int,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """Score each neuron by a number drawn evenly from [0, 1): what any attribution must beat.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        seed: A prompt's scores are drawn from it, the prompt's tokens and its target's place.
        measure: What `Attribution.value` is; the scores do not depend on it.
        max_rows: Bounds memory, as in `integrated_gradients`.
    """
    shape = (lm.architecture.layers, lm.architecture.d_ff)

    def scores(_integrand: Integrand, _n: int, prompt: Encoded) -> Float[Tensor, "layers d_ff"]:
        drawn = generator(seed, "attribution", *prompt.ids, *prompt.target)
        return torch.rand(shape, generator=drawn)

    return _plain(lm, prompts, measure, max_rows, scores)


def lens(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    *,
    measure: Measure = "probability",
    max_rows: int = 512,
) -> list[Attribution]:
    """Score each neuron by `log_prob_increase`.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        measure: What `Attribution.value` is; the scores are in nats whatever it is.
        max_rows: Bounds memory, as in `integrated_gradients`.

    Raises:
        ValueError: If what an MLP puts out does not reach the final norm as it is.
    """
    found: dict[Encoded, Float[Tensor, "layers d_ff"]] = {}
    for group in groups(prompts, max_rows):
        members = [prompts[i] for i in group]
        found |= dict(zip(members, log_prob_increase(lm, members), strict=True))

    def scores(_integrand: Integrand, _n: int, prompt: Encoded) -> Float[Tensor, "layers d_ff"]:
        return found[prompt]

    return _plain(lm, prompts, measure, max_rows, scores)


def _plain(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    measure: Measure,
    max_rows: int,
    scores: Scores,
    *,
    baselines: Sequence[Encoded] | None = None,
    stepped: bool = True,
) -> list[Attribution]:
    """Attributions without an integral: nothing to be complete, no error to estimate."""
    unknown = torch.full((lm.architecture.layers,), float("nan"), dtype=torch.float64)
    nodes = torch.ones(lm.architecture.layers, dtype=torch.long)
    neither = torch.zeros(lm.architecture.layers, dtype=torch.bool)
    found: dict[int, Attribution] = {}
    for group in counted(list(groups(prompts, max_rows)), "batch of prompts"):
        members = [prompts[i] for i in group]
        against = None if baselines is None else [baselines[i] for i in group]
        integrand = integrand_of(lm, members, measure, baselines=against, stepped=stepped)
        for n, i in enumerate(group):
            found[i] = Attribution(
                scores(integrand, n, prompts[i]).float().cpu(),
                float(integrand.whole.values[n]),
                # Tensors that share memory cannot be kept in one file.
                unknown.clone(),
                unknown.clone(),
                unknown.clone(),
                nodes,
                neither.clone(),
                neither.clone(),
            )
    return [found[i] for i in range(len(prompts))]
