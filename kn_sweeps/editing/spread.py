"""Spread what should be written at one layer over several, for MEMIT and AlphaEdit.

Edits are made layer by layer. At each, the keys are those of the model as edited so far, and what
is still missing at the last layer is divided by the number of layers left (Meng et al. 2023,
section 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.editing.requests import Request
from kn_sweeps.editing.rows import states_seen
from kn_sweeps.editing.values import Value
from kn_sweeps.edits import Edit, Joint, RankOne, joined
from kn_sweeps.interventions import applied_rowwise, recorded
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.progress.counting import counted

Solve = Callable[[int, Float[Tensor, "edits d_ff"]], Float[Tensor, "edits d_ff"]]
"""Of a layer's keys, the directions u whose edits sum_i r_i u_i^T write the residuals r."""


def spread(
    lm: LanguageModel,
    requests: Sequence[Request],
    values: Mapping[str, Value],
    layers: Sequence[int],
    solve: Solve,
    *,
    together: bool,
) -> dict[str, Edit]:
    """One edit a request; with `together` they are meant to be in effect at once.

    Args:
        lm: The model, unchanged.
        requests: What should be answered.
        values: What to reach at the last of `layers`.
        layers: Where to write, ascending.
        solve: How keys become directions.
        together: Whether the edits of all requests are in effect at once.
    """
    targets = torch.stack([values[r.case].state + values[r.case].delta for r in requests])
    written: list[list[Edit]] = [[] for _ in requests]
    for number, layer in enumerate(counted(layers, "layer to write")):
        if together:
            effect = joined(part for parts in written for part in parts)
            effects = [effect] * len(requests)
        else:
            effects = [joined(parts) for parts in written]
        seen, states = keys_and_states(lm, requests, effects, [layer], layers[-1])
        keys = seen[layer]
        residuals = (targets - states) / (len(layers) - number)
        groups = [list(range(len(requests)))] if together else [[n] for n in range(len(requests))]
        for group in groups:
            for n, u in zip(group, solve(layer, keys[group]), strict=True):
                written[n].append(RankOne(layer, u.float().cpu(), residuals[n].float().cpu()))
    return {
        request.case: Joint(tuple(parts)) for request, parts in zip(requests, written, strict=True)
    }


@torch.no_grad()
def keys_and_states(
    lm: LanguageModel,
    requests: Sequence[Request],
    effects: Sequence[Edit],
    layers: Sequence[int],
    last: int,
) -> tuple[dict[int, Float[Tensor, "edits d_ff"]], Float[Tensor, "edits d_model"]]:
    """Each request's key at `layers`, and its state at `last` in the bare prompt, as edited so far.

    As in the published code, the key is the mean of that in the bare prompt and of the mean over
    the sampled contexts.

    Args:
        lm: The model, unchanged.
        requests: Whose subjects are read.
        effects: What is in effect for each.
        layers: Whose keys.
        last: Whose state.
    """
    rows = [
        (n, lm.rows(prompt)[0].ids, prompt.subject_last)
        for n, request in enumerate(requests)
        for prompt in request.prompts
    ]
    keys: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    states: list[Tensor] = []
    for start in counted(range(0, len(rows), lm.batch_size), "batch of keys"):
        some = rows[start : start + lm.batch_size]
        at = (list(range(len(some))), [subject for _, _, subject in some])
        with (
            applied_rowwise(lm, [effects[n] for n, _, _ in some]),
            recorded(lm, list(layers)) as seen,
            states_seen(lm, last) as state,
        ):
            lm.hidden(lm.batch([ids for _, ids, _ in some]))
        for layer, own in keys.items():
            own.append(at_least_float32(seen[layer][0][at]))
        states.append(at_least_float32(state[0][at]))
    sizes = [len(request.prompts) for request in requests]
    found = {
        layer: torch.stack([_of_contexts(own) for own in torch.cat(every).split(sizes)])
        for layer, every in keys.items()
    }
    return found, torch.stack([own[0] for own in torch.cat(states).split(sizes)])


def _of_contexts(keys: Float[Tensor, "contexts d_ff"]) -> Float[Tensor, " d_ff"]:
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2


def ridge(
    keys: Float[Tensor, "edits d_ff"],
    directions: Float[Tensor, "edits d_ff"],
    weight: float,
) -> Float[Tensor, "edits d_ff"]:
    """K (weight C + K^T K)^-1 of the keys K, given the directions K C^-1.

    By the push-through identity it is (weight + K C^-1 K^T)^-1 K C^-1: a system of the size of
    the batch, which has the equality solution W' K = V as its limit for weight -> 0.

    Raises:
        ValueError: If it is singular: keys depend on each other and nothing weighs against it.
    """
    wide, to = keys.double(), directions.double()
    system = weight * torch.eye(len(keys), dtype=torch.float64, device=keys.device) + wide @ to.T
    found: Tensor
    found, failed = torch.linalg.solve_ex(system, to)
    if int(failed) or not torch.isfinite(found).all():
        raise ValueError(
            "the keys of these edits depend on each other, as those of one subject behind the same "
            "words do, and cannot be given their values exactly; raise covariance_weight"
        )
    return found.to(keys.dtype)
