"""UltraEdit (Gu et al. 2025): one pass, one linear system a layer, no subject and no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.editing.requests import Request, requests_of
from kn_sweeps.editing.spread import ridge
from kn_sweeps.edits import Edit, Joint, LowRank, State, finite
from kn_sweeps.interventions import outputs_replaced
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counted


@dataclass(frozen=True)
class UltraEdit(Method):
    """Move MLP outputs against the loss's gradient, at the keys where the answer is predicted.

        v_i = -learning_rate * |k^_i|^2 * g^_i,   Delta_l = (K^T K + weight)^-1 K^T V

    k_i are the keys where a token of `new` is predicted, g_i the gradient of its case's loss by
    what the MLP puts out there; k^ and g^ are normalised, coordinate by coordinate, by mean and
    standard deviation over this batch and all earlier ones of the sequence.

    Attributes:
        layers: MLPs to edit, ascending, from 0; null for all from the middle on.
        learning_rate: See above.
        weight: See above.
        end_of_answer: Whether `new` ends with the token that ends a text; without it an edited
            model goes on behind its answer.

    Source: Gu et al. (2025), *ULTRAEDIT: Training-, Subject-, and Memory-Free Lifelong Editing*,
    section 3, and the code of its authors. Deviations: output projections are edited, not those
    that read the hidden state; statistics are summed in float64.
    """

    layers: tuple[int, ...] | None = None
    learning_rate: float = 1e-6
    weight: float = 1.0
    end_of_answer: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must be some layers in ascending order, got {self.layers}")
        if self.layers == ():
            raise ValueError("layers must be some layers in ascending order, or null; got none")
        for name in ("learning_rate", "weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """One pass with gradients; of every place a key and a gradient a layer, in double."""
        layers = self.edited(shape.layers)
        rows = min(work.batch_size, work.cases)
        width = len(layers) * (shape.d_ff + shape.d_model)
        changes = len(layers) * rows * work.tokens * shape.d_model * shape.number
        return Needs(
            activations=shape.kept(rows, work.tokens, 0, shape.layers - layers[0])
            + shape.logits(rows, 3)
            + 2 * changes
            + 2 * 8 * work.cases * width,
            statistics=2 * 8 * width,
            edits=4 * work.cases * width,
        )

    def edited(self, count: int) -> tuple[int, ...]:
        """Which of a model's layers are."""
        return self.layers or tuple(range(count // 2, count))

    @override
    def plan(
        self,
        lm: LanguageModel,
        cases: Sequence[Case],
        seed: int = 0,
        *,
        together: bool = False,
        state: State | None = None,
    ) -> Plan:
        """Solve for all cases at once.

        Raises:
            ValueError: If they are neither in effect at once nor part of a sequence: normalising
                an edit by itself leaves nothing of it.
        """
        if not together and state is None:
            raise ValueError(
                "UltraEdit normalises an edit by others, so that none can be made alone; use "
                "regime=batch with two edits a batch or more, or regime=sequential (together=True "
                "in Python)"
            )
        layers = self.edited(lm.architecture.layers)
        for layer in layers:
            lm.architecture.check_layer(layer)
        requests, failed = requests_of(
            lm, cases, [""], subject=False, essence=False, ended=self.end_of_answer
        )
        if not requests:
            return Plan({}, {}, failed=failed)
        seen = _seen(lm, requests, layers)
        left = _sums(seen.features)
        sums = self.carried(state or {}, left)
        if float(sums["count"]) < 2:
            # One key has no spread to be normalised by; those behind it have one of it.
            alone = "it is the first of its sequence: there is nothing to normalise it by"
            failed |= {request.case: f"case {request.case}: {alone}" for request in requests}
            return Plan({}, {}, failed=failed, state=(left,) if state is not None else ())
        edits: dict[str, list[Edit]] = {request.case: [] for request in requests}
        for layer, (keys, gradients) in seen.features.items():
            hats = [
                _normalised(sums, layer, name, x)
                for name, x in (("key", keys), ("gradient", gradients))
            ]
            values = -self.learning_rate * hats[0].square().sum(1, keepdim=True) * hats[1]
            directions = ridge(keys, keys, self.weight)
            for number, request in enumerate(requests):
                own = [n for n, owner in enumerate(seen.owners) if owner == number]
                u, v = (x[own].float().cpu() for x in (directions, values))
                edits[request.case].append(LowRank(layer, u, v))
        made = {case: Joint(tuple(parts)) for case, parts in edits.items()}
        for case in [case for case, edit in made.items() if not finite(edit)]:
            failed[case] = f"case {case}: the update is not finite"
            del made[case]
        return Plan(
            made,
            {case: case for case in made},
            failed=failed,
            state=(left,) if state is not None else (),
        )

    @override
    def carried(self, state: State, left: State) -> State:
        """Counts, means and squared deviations of two sets of keys as of one (Chan et al. 1979)."""
        if not state:
            return left
        n, m = state["count"], left["count"]
        found = {"count": n + m}
        for name in left:
            if name.startswith("mean"):
                about = name.removeprefix("mean")
                apart = left[name] - state[name]
                found[name] = state[name] + apart * m / (n + m)
                squares = state[f"squares{about}"] + left[f"squares{about}"]
                found[f"squares{about}"] = squares + apart.square() * n * m / (n + m)
        return found


class _Seen(NamedTuple):
    """What is seen where answers are predicted.

    Attributes:
        owners: Which request each place belongs to.
        features: By layer, the keys (places, d_ff) and the gradients (places, d_model), in float64.
    """

    owners: Sequence[int]
    features: Mapping[int, tuple[Tensor, Tensor]]


def _seen(lm: LanguageModel, requests: Sequence[Request], layers: Sequence[int]) -> _Seen:
    """Run every request once, forwards and backwards."""
    rows = [
        (number, row, len(request.prompts[0].target_ids))
        for number, request in enumerate(requests)
        for row in lm.rows(request.prompts[0])
    ]
    owners: list[int] = []
    found: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    for start in counted(range(0, len(rows), lm.batch_size), "batch of answers"):
        some = rows[start : start + lm.batch_size]
        reads = [
            (n, position, token, number, size)
            for n, (number, row, size) in enumerate(some)
            for position, token in zip(row.positions, row.tokens, strict=True)
        ]
        at, positions, tokens, numbers, sizes = map(list, zip(*reads, strict=True))
        owners += numbers
        keys: dict[int, Tensor] = {}
        changes: dict[int, Tensor] = {}

        def watch(
            layer: int, keys: dict[int, Tensor] = keys, changes: dict[int, Tensor] = changes
        ) -> Callable[[Tensor, Tensor], Tensor]:
            def look(neurons: Tensor, output: Tensor) -> Tensor:
                keys[layer] = neurons.detach()
                changes[layer] = torch.zeros_like(output, requires_grad=True)
                return output + changes[layer]

            return look

        with outputs_replaced(lm, {layer: watch(layer) for layer in layers}):
            hidden = lm.hidden(lm.batch([row.ids for _, row, _ in some]))
        log_probs = lm.predicted(hidden[at, positions])
        gold = log_probs[range(len(tokens)), tokens]
        loss = -(gold / gold.new_tensor(sizes)).sum()  # the mean over its tokens, of every case
        gradients = torch.autograd.grad(loss, [changes[layer] for layer in layers])
        for layer, gradient in zip(layers, gradients, strict=True):
            pair = (keys[layer][at, positions], gradient[at, positions])
            found[layer].append((pair[0].double(), pair[1].double()))
    joined = {
        layer: (torch.cat([k for k, _ in pairs]), torch.cat([g for _, g in pairs]))
        for layer, pairs in found.items()
    }
    return _Seen(owners, joined)


def _sums(features: Mapping[int, tuple[Tensor, Tensor]]) -> State:
    """The count, the means and the squared deviations of what was seen."""
    found: dict[str, Tensor] = {}
    for layer, pair in features.items():
        found["count"] = torch.tensor(float(len(pair[0])), dtype=torch.float64)
        for name, x in zip(("key", "gradient"), pair, strict=True):
            mean = x.mean(0)
            found[f"mean {name} {layer}"] = mean.cpu()
            found[f"squares {name} {layer}"] = (x - mean).square().sum(0).cpu()
    return found


def _normalised(
    sums: State, layer: int, name: str, x: Float[Tensor, "places width"]
) -> Float[Tensor, "places width"]:
    """Every coordinate less its mean, divided by its standard deviation."""
    mean = sums[f"mean {name} {layer}"].to(x.device)
    deviation = (sums[f"squares {name} {layer}"].to(x.device) / (float(sums["count"]) - 1)).sqrt()
    return (x - mean) / (deviation + torch.finfo(torch.float32).eps)
