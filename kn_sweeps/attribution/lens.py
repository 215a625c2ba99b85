"""How much more likely a target is to be read off a layer's residual stream for one neuron's sake.

    Imp(l, i) = log p(w | h + m_i v_i) - log p(w | h)

h is the residual stream before layer l's MLP adds to it, m_i the neuron, v_i what it writes, and p
the final norm, which divides by what it divides by in the unchanged model, and the head. Of a
target of several tokens, the sum.

With that scale fixed and a linear head, m_i v_i moves the logits by m_i u_i, where u_i is the
neuron's own, whatever the prompt; so that

    Imp(l, i) = m_i u_i[w] - log sum over tokens t of p(t | h) exp(m_i u_i[t])

and all prompts of a batch share the product with the head that makes u_i.

Source: Yu & Ananiadou (2024), *Neuron-Level Knowledge Attribution in Large Language Models*; that
the norm's scale is the one at the model's end is from their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kn_sweeps.attribution.integrand import LOGITS, Readings
from kn_sweeps.interventions import recorded
from kn_sweeps.models.hooks import Hooks
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.tokenization import Encoded

_CACHED = 200_000
"""Numbers that a CPU's cache holds."""


@torch.no_grad()
def log_prob_increase(
    lm: LanguageModel, prompts: Sequence[Encoded]
) -> Float[Tensor, "prompts layers d_ff"]:
    """Score each neuron of one batch of prompts, in nats.

    Raises:
        ValueError: If what an MLP puts out does not reach the final norm as it is.
    """
    norm = final_norm(lm)
    architecture = lm.architecture
    layers = range(architecture.layers)
    readings = Readings(lm, prompts)
    places = readings.places(range(len(prompts)))
    at = (places.row, places.position)
    sums: dict[int, Tensor] = {}
    with recorded(lm, layers) as seen, Hooks() as hooks:
        for layer in layers:
            architecture.watch_sum(hooks, layer, partial(sums.__setitem__, layer))
        hidden = lm.hidden(lm.batch([row.ids for rows in readings.rows for row in rows]))
    last = sums[layers[-1]][at]
    _check_last(lm, norm, last, hidden[at])
    scale = scale_of(norm, last)
    scores = torch.zeros(len(prompts), architecture.layers, architecture.d_ff, device=lm.device)
    vocabulary = int(lm.model.config.vocab_size)
    for layer in layers:
        neurons, output = (x[at] for x in seen[layer])
        # The norm of h, divided by another scale than that of h.
        before = sums[layer][at] - output
        plains = _unscaled(norm, before) / scale + norm(torch.zeros_like(before))
        logs = at_least_float32(architecture.head(plains.to(output.dtype))).log_softmax(-1)
        amounts = (neurons / scale).to(logs.dtype)
        written = _unscaled(norm, architecture.values(layer)).to(output.dtype)
        start = 0
        for some in written.split(max(1, LOGITS // vocabulary)):
            moves = _logits_moved(lm, some)
            for k, token in enumerate(places.token):
                part = slice(start, start + len(some))
                each = _increase(moves, amounts[k, part], logs[k], token)
                scores[places.point[k], layer, part] += each
            start += len(some)
    return scores


def _logits_moved(
    lm: LanguageModel, hidden: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n vocab"]:
    """What is added to the logits when `hidden` is added to what the head reads."""
    head = lm.architecture.head
    return at_least_float32(head(hidden)) - at_least_float32(head(torch.zeros_like(hidden[:1])))


def _increase(
    moves: Float[Tensor, "n vocab"],
    amounts: Float[Tensor, " n"],
    logs: Float[Tensor, " vocab"],
    token: Tensor,
) -> Float[Tensor, " n"]:
    """How much each `amount` times its `move` of the logits adds to the token's log-probability."""
    probabilities = logs.exp()
    # Few rows at a time stay in the processor's cache.
    size = max(1, _CACHED // len(logs)) if moves.device.type == "cpu" else len(moves)
    # What is added to the sum, which is 1 before: the sum itself would round it away.
    added = torch.cat(
        [
            (some * amount[:, None]).expm1_() @ probabilities
            for some, amount in zip(moves.split(size), amounts.split(size), strict=True)
        ]
    )
    found = moves[:, token] * amounts - added.log1p()
    for n in found.isfinite().logical_not().nonzero()[:, 0].tolist():  # beyond what exp can hold
        found[n] = (logs + moves[n] * amounts[n]).log_softmax(-1)[token] - logs[token]
    return found


def final_norm(lm: LanguageModel) -> nn.Module:
    """The norm between the last block and the head.

    Raises:
        ValueError: If there is none that MLPs' outputs reach by being added.
    """
    found = [one for one in lm.architecture.base.children() if "Norm" in type(one).__name__]
    if lm.kind == "masked" or not lm.architecture.adds_as_is or not found:
        raise ValueError(
            f"{lm.name}: what its MLPs put out is normed before it reaches the head; choose "
            "another attribution than log_prob_increase"
        )
    return found[-1]


def _check_last(lm: LanguageModel, norm: nn.Module, summed: Tensor, hidden: Tensor) -> None:
    """Refuse a norm that does not make what the head reads of what the last MLP was added to."""
    made = at_least_float32(norm(summed))
    off = (made - at_least_float32(hidden)).norm() / at_least_float32(hidden).norm()
    tolerance = torch.finfo(lm.model.dtype).eps ** 0.5
    if not float(off) <= tolerance:
        raise ValueError(
            f"{lm.name}: what its head reads is not its last MLP's sum behind "
            f"{type(norm).__name__} alone; choose another attribution than log_prob_increase"
        )
    once, twice = _logits_moved(lm, hidden), _logits_moved(lm, 2 * hidden)
    if not float((twice - 2 * once).norm()) <= tolerance * float(once.norm()):
        raise ValueError(
            f"{lm.name}: its head is not linear; choose another attribution than log_prob_increase"
        )


def scale_of(norm: nn.Module, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
    """What `norm` divides by."""
    eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    wide = at_least_float32(x)
    if isinstance(norm, nn.LayerNorm):
        wide = wide - wide.mean(-1, keepdim=True)
    scale: Tensor = (wide.square().mean(-1, keepdim=True) + eps).sqrt()
    return scale


def _unscaled(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm` without its division and its bias: linear in `x`."""
    linear: Tensor = (norm(x) - norm(torch.zeros_like(x))) * scale_of(norm, x)
    return linear
