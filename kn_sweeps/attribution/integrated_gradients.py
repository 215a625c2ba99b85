"""Integrated gradients over MLP neurons (Dai et al. 2022, eq. 1), with a proof of their accuracy.

    Attr(l, i) = a_i * integral over alpha in [0, 1] of dP(y | x; alpha * a_l) / da_i

a_l are the neurons of layer l at the positions that predict the target. Many (prompt, layer,
alpha) points are evaluated in one batch (`SteppedIntegrand`); each layer of each prompt has its own
integral, which asks for more points where it is not accurate enough (`Quadrature`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kn_sweeps.attribution.freezing import Frozen
from kn_sweeps.attribution.hooked import HookedIntegrand
from kn_sweeps.attribution.integrand import Baseline, Integrand, Measure, Point, Site
from kn_sweeps.attribution.quadrature import PathIntegral, Quadrature
from kn_sweeps.attribution.stepped import SteppedIntegrand
from kn_sweeps.models.devices import is_dispatched, is_fetched
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import free_memory
from kn_sweeps.models.precision import in_double
from kn_sweeps.models.quantized import quantization_of
from kn_sweeps.models.stepping import CannotStepError
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted, counting

log = logging.getLogger(__name__)
_TOLD: WeakSet[LanguageModel] = WeakSet()
"""The models of which it was said."""

_ULPS = 16
"""Rounding of the measure, in units of its last place, below which no node can help."""
PROMPT_ROWS = 8
"""Rows counted for a prompt when prompts are put together: enough for all its layers' first nodes
to fill a few passes, little enough that what is kept for each of them is small."""

Cell = tuple[int, int]


@dataclass(frozen=True)
class Attribution:
    """How much each neuron adds to one target's measure.

    Attributes:
        scores: Attr(l, i), in the measure's unit: probability, nats or logits.
        value: The measure of the unchanged model: for the probability, P(y | x).
        without: The same with all of a layer's neurons at the baseline, which is 0 unless said.
        residual: |sum_i Attr(l, i) - (value - without)|: completeness makes it 0 for the exact
            integral, so it is the error of the layer's sum.
        error: Estimated error of the layer's scores as a share of their length (2-norm), by an
            embedded rule: it sees errors that cancel in the sum. NaN where there is none.
        nodes: Points evaluated for the layer.
        certified: Whether residual and error are within the tolerance.
        rounded: Whether they are not for rounding alone: the weights' dtype forbids better.
    """

    scores: Float[Tensor, "layers d_ff"]
    value: float
    without: Float[Tensor, " layers"]
    residual: Float[Tensor, " layers"]
    error: Float[Tensor, " layers"]
    nodes: Int[Tensor, " layers"]
    certified: Bool[Tensor, " layers"]
    rounded: Bool[Tensor, " layers"]


def integrated_gradients(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    quadrature: Quadrature | None = None,
    *,
    measure: Measure = "probability",
    site: Site = "activation",
    frozen: Frozen = "nothing",
    max_rows: int = 512,
    baselines: Sequence[Encoded] | None = None,
) -> list[Attribution]:
    """Attribute each prompt's target to every neuron of every layer.

    The measure is that of the joint target, its tokens predicted from the gold ones before them;
    the neurons at all positions that predict one of them are scaled together and their scores are
    added. Cells of a float32 model whose residual is not within the tolerance only because of
    rounding are computed again in double precision.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        quadrature: How the integrals are taken.
        measure: Of the target; a logit difference takes `Contrasted` prompts.
        site: Where neurons are scaled.
        frozen: What puts out what it does in the unchanged model, so that neurons do not act
            through it; `Attribution.without` is then the measure where it is.
        max_rows: Largest number of rows in one forward pass; bounds memory.
        baselines: For each prompt one with as many tokens in its target: paths begin at the neurons
            of that prompt where it predicts them, and a_i becomes a_i - a'_i. None to begin at 0.

    Returns:
        One attribution a prompt, on the CPU: scores in float32, the rest in float64.

    Raises:
        ValueError: If the model's probability of a target is not a number.

    Source: Dai et al. (2022), *Knowledge Neurons in Pretrained Transformers*, eq. 1. They take
    20 Riemann steps (`Quadrature("riemann", 20)`).
    """
    quadrature = quadrature or Quadrature()
    results: dict[int, Attribution] = {}
    for group in counted(list(groups(prompts, max_rows)), "batch of prompts"):
        members = [prompts[i] for i in group]
        against = None if baselines is None else [baselines[i] for i in group]
        found = _integrate(lm, members, quadrature, measure, site, frozen, max_rows, against)
        results |= dict(zip(group, found, strict=True))
    return [results[i] for i in range(len(prompts))]


def integrand_of(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    measure: Measure,
    site: Site = "activation",
    frozen: Frozen = "nothing",
    baselines: Sequence[Encoded] | None = None,
    *,
    stepped: bool = True,
) -> Integrand:
    """The fast integrand where the model's blocks can be stepped, else the general one.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        measure: Of the target.
        site: As in `integrated_gradients`, like what follows.
        frozen: What puts out what it does in the unchanged model.
        baselines: Where paths begin.
        stepped: Whether the fast one may be taken, which does not run blocks as the model does.

    Raises:
        ValueError: If the model's probability of a target is not a number, or something is frozen
            and neurons are scaled before the activation function.
    """
    if frozen != "nothing" and site != "activation":
        raise ValueError(f"with site={site} nothing can be frozen, got {frozen!r}")
    integrand: Integrand
    baseline = None if baselines is None else Baseline(lm, baselines)
    try:
        if site == "pre_activation":
            raise CannotStepError("the activation function is not stepped")
        if not stepped:
            raise CannotStepError("blocks are to be run as the model does")
        integrand = SteppedIntegrand(lm, prompts, measure, frozen, baseline)
    except CannotStepError as reason:
        log.debug("whole rows through %s: %s", lm.name, reason)
        integrand = HookedIntegrand(lm, prompts, measure, site, frozen, baseline)
    if not torch.isfinite(integrand.whole.values).all():
        raise ValueError(
            f"{lm.name} gives a {measure.replace('_', '-')} of {integrand.whole.values.tolist()}: "
            "its weights or activations are not finite (try dtype=float32)"
        )
    return integrand


def groups(prompts: Sequence[Encoded], max_rows: int) -> Iterator[list[int]]:
    """Prompts of like length together: padding is waste."""
    group: list[int] = []
    rows = 0
    sizes = [(len(prompt.target_ids), len(prompt.ids)) for prompt in prompts]
    for i in sorted(range(len(prompts)), key=lambda i: (sizes[i], i)):
        own = PROMPT_ROWS * len(prompts[i].target_ids)
        if group and rows + own > max_rows:
            yield group
            group, rows = [], 0
        group.append(i)
        rows += own
    if group:
        yield group


def _integrate(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    quadrature: Quadrature,
    measure: Measure,
    site: Site,
    frozen: Frozen,
    max_rows: int,
    baselines: Sequence[Encoded] | None,
) -> list[Attribution]:
    layers = range(lm.architecture.layers)
    integrand = integrand_of(lm, prompts, measure, site, frozen, baselines)
    values = integrand.whole.values.tolist()
    cells = [(p, layer) for p in range(len(prompts)) for layer in layers]
    paths = _taken(lm, integrand, quadrature, cells, max_rows)
    del integrand
    unclear = [cell for cell in cells if paths[cell].unclear]
    if unclear and lm.model.dtype == torch.float32:
        numbers = sorted({p for p, _ in unclear})
        again = [(numbers.index(p), layer) for p, layer in unclear]
        rows, whole = _rows_in_double(lm, [prompts[p] for p in numbers], max_rows)
        if rows:
            with in_double(lm.model, whole=whole):
                some = [prompts[p] for p in numbers]
                against = None if baselines is None else [baselines[p] for p in numbers]
                exact = integrand_of(lm, some, measure, site, frozen, against)
                found = _taken(lm, exact, quadrature, again, rows)
            paths |= {(numbers[n], layer): path for (n, layer), path in found.items()}
    return [
        _attribution(values[p], [paths[p, layer] for layer in layers]) for p in range(len(prompts))
    ]


def _rows_in_double(
    lm: LanguageModel, prompts: Sequence[Encoded], max_rows: int
) -> tuple[int, bool]:
    """How many rows to compute in double precision at once, and whether all weights are then.

    No rows where memory holds none; all weights where it holds them and all rows.
    """
    made = any(is_fetched(module) for module in lm.model.modules())
    if made or quantization_of(lm.model) is not None:
        if lm not in _TOLD:
            log.warning(
                "what single precision is too coarse for stays uncertified: weights that are "
                "fetched or dequantised for each use are not computed with in double"
            )
        _TOLD.add(lm)
        return 0, False
    one_device = not is_dispatched(lm.model)
    free = free_memory(lm.device)
    if free is None:
        return max_rows, one_device
    longest = max(len(prompt.ids) for prompt in prompts)
    # Whole rows, for all of the prompts run once as they are; every number takes twice its size.
    each = 2 * lm.shape.kept(1, longest, 0, lm.shape.layers)
    rows = (free - lm.shape.double()) // each
    if rows < len(prompts):
        log.warning(
            "what single precision is too coarse for stays uncertified: to compute it in double "
            "%.1f GiB are needed and %.1f are free",
            *((lm.shape.double() + len(prompts) * each) / 2**30, free / 2**30),
        )
        return 0, False
    # All weights in double take twice what they do; half of what is free is left alone.
    fits = 2 * (2 * lm.shape.weights + max_rows * each) < free
    return min(rows, max_rows), fits and one_device


def _taken(
    lm: LanguageModel,
    integrand: Integrand,
    quadrature: Quadrature,
    cells: Sequence[Cell],
    max_rows: int,
) -> dict[Cell, PathIntegral]:
    """Take the integrals of `cells` together."""
    rounding = _ULPS * torch.finfo(lm.model.dtype).eps
    whole = integrand.whole
    paths = {
        (p, layer): quadrature.integral(rounding, float(whole.sharpness[layer, p]))
        for p, layer in cells
    }
    ends = [Point(p, layer, 1.0) for p, layer in cells]
    at_end = torch.stack([whole.gradients[layer, p] for p, layer in cells])
    _tell(integrand, paths, ends, whole.values[[p for p, _ in cells]], at_end)
    # A path that was refined before may ask again, and the lowest layers do most of that: they go
    # first, and what can wait fills the passes.
    urgent = sorted(paths, key=lambda cell: cell[1])
    with counting("layer of a prompt", len(cells)) as tell:
        while points := [
            Point(p, layer, alpha) for p, layer in urgent for alpha in paths[p, layer].wanted()
        ]:
            tell(len(cells) - len({(point.prompt, point.layer) for point in points}))
            rows = itertools.accumulate(integrand.readings.sizes[point.prompt] for point in points)
            points = points[: max(1, sum(total < max_rows for total in rows))]
            _tell(integrand, paths, points, *integrand.at(points))
            urgent.sort(key=lambda cell: -paths[cell].nodes)
    return paths


def _tell(
    integrand: Integrand,
    paths: dict[Cell, PathIntegral],
    points: Sequence[Point],
    values: Float[Tensor, " points"],
    gradients: Float[Tensor, "points reads d_model"],
) -> None:
    """Turn gradients at the MLP's output into the integrand a_i * dP/da_i, and pass it on."""
    for layer in sorted({point.layer for point in points}):
        at = [n for n, point in enumerate(points) if point.layer == layer]
        neurons = integrand.whole.neurons[layer][[points[n].prompt for n in at]]
        scores = integrand.by_neuron(layer, gradients[at]) * neurons
        rows = scores.sum(1).double().cpu().numpy()
        for n, value, row in zip(at, values[at].tolist(), rows, strict=True):
            paths[points[n].prompt, layer].know(points[n].alpha, value, row)


def _attribution(value: float, paths: Sequence[PathIntegral]) -> Attribution:
    def each(what: str) -> Tensor:
        return torch.tensor([getattr(path, what) for path in paths], dtype=torch.float64)

    return Attribution(
        torch.from_numpy(np.stack([path.scores for path in paths])).float(),
        value,
        each("start"),
        each("residual"),
        each("error"),
        each("nodes").long(),
        each("certified").bool(),
        each("unclear").bool(),
    )
